"""Credentials: renewed off the event loop, kept when renewal fails, reported when there are none."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError

from mangalib.aws.http1 import Endpoint
from mangalib.aws.signing import Signer, path_segment
from mangalib.errors import SettingsError
from mangalib.resilience import try_refresh

ENDPOINT = Endpoint("localhost", 8080, None)


class Source:
    """Credentials whose key id is ``key_id``, or that fail to load."""

    def __init__(self) -> None:
        self.key_id = "AKIDFIRST"
        self.error: Exception | None = None

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        if self.error is not None:
            raise self.error
        return ReadOnlyCredentials(self.key_id, "secret", None)


class Session:
    """What a signer reads of a boto3 session."""

    def __init__(self, source: Source | None) -> None:
        self.source = source

    def get_credentials(self) -> Source | None:
        return self.source


def signer_of(session: Any) -> Signer:
    return Signer(session, "us-west-2")


def authorization(signer: Signer) -> str:
    return signer.sign("bedrock", ENDPOINT, "POST", "/model/m/invoke", b"{}", {})["Authorization"]


async def test_renewed_credentials_sign_the_next_request() -> None:
    source = Source()
    signer = signer_of(Session(source))
    assert "Credential=AKIDFIRST/" in authorization(signer)
    source.key_id = "AKIDSECOND"
    assert "Credential=AKIDFIRST/" in authorization(signer), "signing does no I/O"
    await signer.refresh()
    assert "Credential=AKIDSECOND/" in authorization(signer)


@pytest.mark.parametrize(
    "error",
    [
        CredentialRetrievalError(provider="sso", error_msg="expired"),
        KeyError("Token"),
        ValueError("no JSON"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
        OSError("unreachable"),
    ],
)
async def test_a_renewal_that_raises_anything_keeps_the_old_credentials(error: Exception) -> None:
    source = Source()
    signer = signer_of(Session(source))
    source.error = error
    assert not await try_refresh("renewing AWS credentials", signer.refresh)
    assert "Credential=AKIDFIRST/" in authorization(signer)


def test_a_session_without_credentials_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        signer_of(Session(None))


def test_a_model_id_is_one_segment_of_a_path() -> None:
    assert path_segment("anthropic.claude-3-haiku:0/x") == "anthropic.claude-3-haiku%3A0%2Fx"
