"""What the shop and its chat are about: titles, intents, phrasings, releases. Knows nothing of networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
