"""Warming: generates shared answers before anyone asks, by demand, by plan and by change of the catalogue."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
