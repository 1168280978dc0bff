"""Notebooks executed headless, by command, on a schedule or over a parameter grid; and the records of their runs."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
