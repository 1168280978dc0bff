"""The chat in a browser: the element, the notebook widget around it, and its page."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
