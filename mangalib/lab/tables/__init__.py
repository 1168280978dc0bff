"""Tables for readers of notebooks: answers, benchmark runs, the classifier, and day-to-day operation."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
