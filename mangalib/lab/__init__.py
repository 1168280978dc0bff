"""What notebooks and jobs see: a service to talk to, tables, pictures, and headless runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
