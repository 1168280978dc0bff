"""A query's way to the screen, in the order in which it goes: from the frame that arrives to the frame that leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
