"""Frames: decoded strictly, with errors that name the field and what was expected."""

from __future__ import annotations

import pytest

from mangalib.errors import BadRequestError
from mangalib.protocol import Chunk, Done, Error, Metadata, Ping, Pong, Query, Resume, encode, parse_server_frame
from mangalib.protocol.frames import is_of, parse_client_message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"action": "ping"}', Ping()),
        (b'{"action": "query", "text": "hi"}', Query("hi")),
        (
            b'{"action": "query", "text": "hi", "intent": "faq", "stream": false, "new": 1}',
            Query("hi", "faq", stream=False),
        ),
        (b'{"action": "resume", "request_id": "r", "after": -1}', Resume("r", -1)),
    ],
)
def test_a_client_message_is_decoded_and_unknown_fields_are_ignored(body: bytes, message: object) -> None:
    assert parse_client_message(body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"hello", "the message is not JSON; expected an object"),
        (b"\xff", "the message is not JSON"),
        (b"[" * 100_000, "the message is not JSON"),
        (b"[1]", "the message is a JSON list; expected an object"),
        (b"{}", "action: 'None'; expected query, ping, disconnect or resume"),
        (b'{"action": "sing"}', "action: 'sing'; expected query, ping, disconnect or resume"),
        (b'{"action": "query"}', "query: Object missing required field `text`"),
        (b'{"action": "query", "text": 5}', "query: Expected `str`, got `int`"),
        (b'{"action": "query", "text": "hi", "request_id": ""}', "request_id: 0 characters; expected 1 to 128"),
        (b'{"action": "resume", "request_id": "%s", "after": 0}' % (b"r" * 129), "request_id: 129 characters"),
    ],
)
def test_an_invalid_client_message_is_refused_with_what_was_expected(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        parse_client_message(body)


@pytest.mark.parametrize(
    "frame",
    [
        Chunk("text", "r", 3),
        Done(Metadata(1.0, 2.0, 3, 4, "model", "faq", "model", {}), "r", 4),
        Error("timeout", "late", "r", 5),
        Error("bad_request", "no"),
        Pong(),
    ],
)
def test_a_server_frame_survives_the_wire(frame: Chunk | Done | Error | Pong) -> None:
    body = encode(frame)
    assert parse_server_frame(body) == frame
    assert is_of(body, type(frame))
    assert not is_of(body, Ping)


@pytest.mark.parametrize("body", [b"no", b'{"type": "surprise"}', b'{"type": "chunk"}', b"\xff"])
def test_an_invalid_server_frame_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="server frame: "):
        parse_server_frame(body)
