"""Credentials and signatures (SigV4) by botocore, without any I/O on a request's path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import quote

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from mangalib.aws.http1 import Endpoint
from mangalib.errors import SettingsError

log = logging.getLogger(__name__)

REFRESH_S = 60.0


class Signer:
    """Signs requests with credentials that a background task keeps fresh: temporary ones expire, and renewing them
    is a blocking call that must not happen while a query waits."""

    def __init__(self, session: boto3.Session, region: str) -> None:
        self._source = session.get_credentials()
        if self._source is None:
            raise SettingsError("AWS_ACCESS_KEY_ID: no credentials found; set it and AWS_SECRET_ACCESS_KEY, or a role")
        self._region = region
        self._frozen: ReadOnlyCredentials = self._source.get_frozen_credentials()

    async def keep_fresh(self) -> None:
        """Runs until cancelled; while renewing fails, the last credentials stay in use and the failure is logged."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                self._frozen = await asyncio.to_thread(self._source.get_frozen_credentials)
            except (BotoCoreError, ClientError) as error:
                log.warning("credentials could not be renewed: %s", error)

    def sign(
        self, service: str, endpoint: Endpoint, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """``headers`` with the signature's added; ``target`` is the path as it goes over the wire."""
        # The host is given, so that botocore need not find it out, twice, from the URL: a quarter of the time.
        request = AWSRequest(method, f"{endpoint.origin}{target}", {**headers, "host": endpoint.host_header}, body)
        SigV4Auth(self._frozen, service, self._region).add_auth(request)
        del request.headers["host"]  # which the connection writes itself
        return dict(request.headers.items())


def path_segment(text: str) -> str:
    """``text`` as one segment of a path, colons and slashes encoded, as Bedrock's model ids need it."""
    return quote(text, safe="")
