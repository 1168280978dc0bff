"""A query's way to the screen, in the order in which it goes: from the frame that arrives to the frame that leaves."""
