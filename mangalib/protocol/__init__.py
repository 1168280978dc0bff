"""What goes over the WebSocket, and the life of a session: pure, without I/O."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
