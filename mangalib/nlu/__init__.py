"""Understanding a question: its intent, topic and titles, and which known answer it asks for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
