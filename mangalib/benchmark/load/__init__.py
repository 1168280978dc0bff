"""The load of a benchmark run: a workload, and the runner that asks it."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
