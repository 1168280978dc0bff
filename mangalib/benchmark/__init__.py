"""The benchmark: a workload, a runner, a store of what was measured, and a detector that says what changed."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
