"""MangaAssist's streaming and latency laboratory; each public name is loaded when it is first used.

>>> import mangalib
>>> mangalib.load_settings(pool_size=3).pool_size
3
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
