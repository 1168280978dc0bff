"""The chat in a browser: the element, the notebook widget around it, and its page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
