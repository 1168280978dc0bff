"""The laboratory on AWS: its stack as a template, what an operator watches, and a check of what is missing in an account."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
