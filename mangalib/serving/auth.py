"""Authentication by JSON Web Tokens, before a connection is accepted.

The algorithm is fixed, so that a token cannot choose its own (RFC 8725, section 3.1).
"""

from __future__ import annotations

import time

import jwt

from mangalib.errors import AuthError, SettingsError
from mangalib.settings import AuthSettings

ALGORITHM = "HS256"
MIN_SECRET_BYTES = 32


def require_secret(settings: AuthSettings) -> str:
    """The signing secret; raises ``SettingsError`` if it is missing or shorter than the hash (RFC 7518, section 3.2)."""
    secret = settings.jwt_secret.get_secret_value()
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise SettingsError(f"MANGA_JWT_SECRET=***: {len(secret.encode())} bytes; expected {MIN_SECRET_BYTES} or more")
    return secret


def issue_token(settings: AuthSettings, customer: str, *, lifetime_s: float = 86_400) -> str:
    """A token for ``customer`` that :func:`customer_of` accepts for ``lifetime_s`` seconds."""
    now = int(time.time())
    claims = {
        "sub": customer,
        "aud": settings.jwt_audience,
        "iss": settings.jwt_issuer,
        "iat": now,
        "exp": int(now + lifetime_s),
    }
    return jwt.encode(claims, require_secret(settings), algorithm=ALGORITHM)


def customer_of(token: str, settings: AuthSettings) -> str:
    """The customer (``sub``) that a token was issued for.

    Raises
    ------
    AuthError
        No token, another algorithm, a wrong signature, audience or issuer, an expired token, or one without ``sub`` or ``exp``.
    """
    if not token:
        raise AuthError("no token; expected ?token=... or an Authorization: Bearer header")
    try:
        claims = jwt.decode(
            token,
            require_secret(settings),
            algorithms=[ALGORITHM],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway_s,
            options={"require": ["exp", "aud", "iss", "sub"]},
        )
    except jwt.InvalidTokenError as error:
        raise AuthError(f"invalid token: {error}") from None
    customer = claims["sub"]
    if not isinstance(customer, str) or not customer:
        raise AuthError("invalid token: sub is empty; expected the customer's id")
    return customer
