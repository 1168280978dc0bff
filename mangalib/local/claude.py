"""Claude 3 on Bedrock: validation of requests, and an answer's events in order."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from mangalib.aws import ClaudeRequest


class ServiceError(Exception):
    """An error response in the service's own form: HTTP status, exception name, message."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name


class LocalRequest(ClaudeRequest, frozen=True):
    """A request, with the fields that the stand-in honours although the product does not send them."""

    stop_sequences: list[str] = msgspec.field(default_factory=list)


def parse_request(body: bytes) -> LocalRequest:
    """Parse a body as the service does; raises ``ServiceError`` with its wording for an invalid request."""
    try:
        raw = msgspec.json.decode(body)
        turns = [{"role": m["role"], "content": _plain_text(m["content"])} for m in raw["messages"]]
        request = msgspec.convert({**raw, "messages": turns, "system": raw.get("system") or ""}, LocalRequest)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ServiceError(400, "ValidationException", f"Malformed input request: {error}") from None
    problem = _validation_error(request)
    if problem:
        raise ServiceError(400, "ValidationException", problem)
    return request


def _plain_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def _validation_error(request: ClaudeRequest) -> str | None:
    roles = [turn.role for turn in request.messages]
    if request.anthropic_version != "bedrock-2023-05-31":
        return "anthropic_version: must be bedrock-2023-05-31"
    if request.max_tokens < 1:
        return "max_tokens: must be at least 1"
    if not roles or roles[0] != "user":
        return "messages: first message must use the user role"
    if any(role not in {"user", "assistant"} for role in roles):
        return "messages: role must be user or assistant"
    if any(one == other for one, other in pairwise(roles)):
        return "messages: roles must alternate between user and assistant"
    if any(not turn.content.strip() for turn in request.messages):
        return "messages: text content blocks must be non-empty"
    if roles[-1] == "assistant" and request.messages[-1].content != request.messages[-1].content.rstrip():
        return "messages: final assistant content cannot end with trailing whitespace"
    return None


def answer_events(
    model_id: str,
    stop_reason: str,
    tokens: list[str],
    input_tokens: int,
    rng: random.Random,
    started: float,
    first_byte_ms: float,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Claude 3's events in order, each with its number of output tokens."""
    message: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model_id,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": message}, 0
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, 0
    if rng.random() < 0.2:
        yield {"type": "ping"}, 0
    at = 0
    while at < len(tokens):
        size = rng.choice((1, 1, 1, 2, 3))
        piece = tokens[at : at + size]
        delta = {"type": "text_delta", "text": "".join(piece)}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}, len(piece)
        at += size
    yield {"type": "content_block_stop", "index": 0}, 0
    delta_end = {"stop_reason": stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta_end, "usage": {"output_tokens": len(tokens)}}, 0
    invocation = {
        "inputTokenCount": input_tokens,
        "outputTokenCount": len(tokens),
        "invocationLatency": int((time.monotonic() - started) * 1000),
        "firstByteLatency": int(first_byte_ms),
    }
    yield {"type": "message_stop", "amazon-bedrock-invocationMetrics": invocation}, 0
