"""Local stand-ins for cloud services, one file per service, and the stack that starts them together.

The product never imports this package: it reaches the stand-ins over sockets, as it reaches the cloud.
"""

from mangalib.extras import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, extra="local")
