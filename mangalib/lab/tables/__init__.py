"""Tables for readers of notebooks: answers, benchmark runs, the classifier, and day-to-day operation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
