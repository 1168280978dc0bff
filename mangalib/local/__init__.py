"""Local stand-ins for cloud services, one file per service, and the stack that starts them together.

The product never imports this package: it reaches the stand-ins over sockets, as it reaches the cloud.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
