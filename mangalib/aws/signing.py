"""Credentials and signatures (SigV4) by botocore, without any I/O while a request waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from mangalib.aws.http1 import Endpoint
from mangalib.errors import SettingsError

CREDENTIALS_REFRESH_S = 60.0


class Signer:
    """Signs requests with a copy of the session's credentials, which :meth:`refresh` renews.

    Temporary credentials expire, and renewing them is a blocking call that must not happen while a query waits. Raises
    ``SettingsError`` when the session has no credentials.
    """

    def __init__(self, session: boto3.Session, region: str) -> None:
        self._source = session.get_credentials()
        if self._source is None:
            raise SettingsError("no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or assume a role")
        self._region = region
        self._frozen: ReadOnlyCredentials = self._source.get_frozen_credentials()

    async def refresh(self) -> None:
        """Renew the credentials in a worker thread; when botocore raises, the last ones stay in use."""
        self._frozen = await asyncio.to_thread(self._source.get_frozen_credentials)

    def sign(
        self, service: str, endpoint: Endpoint, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """``headers`` plus those of the signature; ``target`` is the path as sent, percent-encoded."""
        # With an explicit host botocore does not parse the URL for it, twice, which takes a quarter of the time.
        request = AWSRequest(method, f"{endpoint.origin}{target}", {**headers, "host": endpoint.host_header}, body)
        SigV4Auth(self._frozen, service, self._region).add_auth(request)
        del request.headers["host"]  # the connection writes it itself
        return dict(request.headers.items())


def path_segment(text: str) -> str:
    """``text`` percent-encoded as one segment of a path; Bedrock's model ids contain colons and slashes."""
    return quote(text, safe="")
