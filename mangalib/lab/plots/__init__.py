"""Plots: each has a title, units, the budget where there is one, and a note on where its figures come from."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
