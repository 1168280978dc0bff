"""Plots: each has a title, units, the budget where there is one, and a note on where its figures come from."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
