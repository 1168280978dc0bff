from .chat import Chat as Chat
from .client import Client as Client
from .jobs import record as record
from .lab import Laboratory as Laboratory
from .settings import Settings as Settings
from .settings import load_settings as load_settings
