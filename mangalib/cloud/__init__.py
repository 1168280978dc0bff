"""The laboratory on AWS: a check of what an account lacks. The templates are in ``deploy/aws/``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
