"""The WebSocket gateway, the life of a session, authentication."""

from __future__ import annotations

from pydantic import SecretStr

from mangalib.settings.addresses import ShopSettings
from mangalib.settings.budgets import BudgetSettings
from mangalib.settings.group import Count, Group, NonNegative, Positive
from mangalib.settings.transport import TimeoutSettings


class AuthSettings(Group):
    """JSON Web Tokens. The algorithm is not a setting on purpose; see ``serving/auth.py``."""

    jwt_secret: SecretStr = SecretStr("")
    jwt_audience: str = "manga-assist"
    jwt_issuer: str = "https://login.mangaassist.example"
    jwt_leeway_s: NonNegative = 5


class FrameSettings(Group):
    """The gateway's size limits for messages and frames."""

    max_message_bytes: Count = 128 * 1024
    max_frame_bytes: Count = 32 * 1024
    max_query_chars: Count = 8000


class SessionSettings(Group):
    """Time limits of a session, on both sides of the connection."""

    idle_timeout_s: Positive = 600
    session_idle_after_s: Positive = 300
    reconnect_attempts: Count = 3
    replay_ttl_s: Count = 300


class GatewaySettings(FrameSettings, SessionSettings):
    """API Gateway's quotas."""

    max_connections: Count = 10_000
    new_connections_per_second: Count = 500
    connection_lifetime_s: Positive = 7200
    integration_timeout_s: Positive = 29
    max_url_chars: Count = 4096


class ClientSettings(FrameSettings, SessionSettings, TimeoutSettings):
    """How a client waits, reconnects and resumes."""

    reconnect_backoff_ms: Positive = 200
    reconnect_backoff_max_ms: Positive = 3000
    resume_after_silence_s: Positive = 5


class ChatSettings(ShopSettings, ClientSettings, BudgetSettings):
    """What the chat in a browser reads."""

    exchanges_max: Count = 100
    timeline_rows_max: Count = 5_000
