from . import timeline as timeline
from .page import SHOP_PATH as SHOP_PATH
from .page import Page as Page
from .widget import Chat as Chat
