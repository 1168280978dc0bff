"""Which answers to generate before anyone asks."""
