"""Pre-computation: predicts what comes next, generates what is worth it, and caches shared answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
