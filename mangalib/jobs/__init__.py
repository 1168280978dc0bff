"""Notebooks run headless: by hand, on a schedule, over a grid; what ran and what it found."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
