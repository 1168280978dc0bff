"""Evaluates the semantic cache: how often it answers, and how often wrongly. The cache itself is ``shared_answers.py``."""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="lab")
