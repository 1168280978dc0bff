"""Pictures: titled, with units, the budget drawn in."""
