"""Evaluates the semantic cache: how often it answers, and how often wrongly. The cache itself is ``shared_answers.py``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
