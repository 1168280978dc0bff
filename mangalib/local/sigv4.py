"""Verifies SigV4 signatures as AWS does: botocore recomputes them from the request as received."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Mapping

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, "
    r"?SignedHeaders=(?P<signed>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
MAX_SKEW_S = 15 * 60


def verify_signature(
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    service: str,
    region: str,
    access_key: str,
    secret_key: str,
) -> str | None:
    """The reason to reject a request, or ``None``; ``headers`` by lower-case name, ``url`` as received."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        return "Missing Authentication Token"
    if match["key"] != access_key:
        return "The security token included in the request is invalid."
    if (match["service"], match["region"]) != (service, region):
        return f"Credential should be scoped to service {service!r} and region {region!r}."
    signed = match["signed"].split(";")
    date = headers.get("x-amz-date", "")
    if not {"host", "x-amz-date"} <= set(signed) or any(name not in headers for name in signed):
        return "Host and X-Amz-Date must be signed."
    try:
        skew_s = abs(time.time() - timegm(time.strptime(date, "%Y%m%dT%H%M%SZ")))
    except ValueError:
        return "X-Amz-Date is not a date."
    if skew_s > MAX_SKEW_S or not date.startswith(match["date"]):
        return "Signature expired."
    claimed_hash = headers.get("x-amz-content-sha256")
    if claimed_hash is not None and claimed_hash != hashlib.sha256(body).hexdigest():
        return "The provided X-Amz-Content-SHA256 does not match what was computed."
    request = AWSRequest(method, url, {name: headers[name] for name in signed}, body)
    request.context["timestamp"] = date
    auth = SigV4Auth(Credentials(access_key, secret_key), service, region)
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if not hmac.compare_digest(expected, match["signature"]):
        return "The request signature we calculated does not match the signature you provided."
    return None
