"""The benchmark: a workload, a runner, a store of what was measured, and a detector that says what changed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
