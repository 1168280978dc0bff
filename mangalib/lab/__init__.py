"""What notebooks import: a laboratory to talk to, tables, plots, release switches, and the cold-start comparison."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
