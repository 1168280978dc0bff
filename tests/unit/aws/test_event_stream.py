"""The event-stream decoder: messages cut anywhere, botocore as the reference, and malformed messages refused."""

from __future__ import annotations

import json
import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from mangalib.aws.event_stream import MIN_MESSAGE_BYTES, EventStreamDecoder, encode_message
from mangalib.errors import TransportError

HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20), st.text(max_size=40), max_size=4
)
MESSAGES = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=6)


@given(MESSAGES, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_messages_survive_any_cut(messages: list[tuple[dict[str, str], bytes]], sizes: list[int]) -> None:
    data = b"".join(encode_message(headers, payload) for headers, payload in messages)
    decoder, found, at, piece = EventStreamDecoder(), [], 0, 0
    while at < len(data):
        size = sizes[piece % len(sizes)]
        found += decoder.feed(data[at : at + size])
        at, piece = at + size, piece + 1
    assert [(dict(message.headers), message.payload) for message in found] == messages
    assert not decoder.incomplete


@given(MESSAGES)
def test_botocore_reads_what_we_write(messages: list[tuple[dict[str, str], bytes]]) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(encode_message(headers, payload) for headers, payload in messages))
    assert [(event.headers, event.payload) for event in buffer] == messages


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_never_accepted(position: int, change: int) -> None:
    data = bytearray(encode_message({":message-type": "event", ":event-type": "chunk"}, b'{"bytes": "aGVsbG8="}'))
    data[position % len(data)] ^= change
    decoder = EventStreamDecoder()
    try:
        assert decoder.feed(bytes(data)) == []
    except TransportError as error:
        assert error.answered
    else:
        assert decoder.incomplete


@given(st.binary(min_size=12, max_size=400))
def test_random_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(TransportError):
        EventStreamDecoder().feed(noise)


def message_of(headers: bytes, *, total: int | None = None) -> bytes:
    """A message without payload and with right checksums, whatever its header block holds."""
    prelude = struct.pack(">II", MIN_MESSAGE_BYTES + len(headers) if total is None else total, len(headers))
    body = prelude + struct.pack(">I", crc32(prelude)) + headers
    return body + struct.pack(">I", crc32(body))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (message_of(b"", total=12), "invalid message length 12; expected 16 to 25165824"),
        (message_of(b"\x01a\x07\x00\x01b", total=21), "invalid message length 21; expected 22 to 25165824"),
        (message_of(b"", total=25165825), "invalid message length 25165825"),
        (message_of(b"\x01a\x06\x00\x01b"), r"invalid header type 6; expected 7 \(string\)"),
        (message_of(b"\x01a\x07\x00\x05b"), "invalid header ends at byte 10; expected 6 at most"),
        (message_of(b"\x09a"), "invalid header cut off after 2 bytes"),
        (message_of(b"\x01a\x07\x00"), "invalid header cut off after 4 bytes"),
        (message_of(b"\x01a\x07\x00\x01\xff"), r"invalid header text b'\\xff'; expected UTF-8"),
        (b"\x00" * 11 + b"\x01", "invalid prelude checksum 0x00000001; expected 0x"),
        (message_of(b"")[:-1] + b"\x00", "invalid message checksum 0x"),
    ],
)
def test_a_malformed_message_is_refused_with_what_was_expected(data: bytes, message: str) -> None:
    with pytest.raises(TransportError, match=f"event stream: {message}") as refused:
        EventStreamDecoder().feed(data)
    assert refused.value.answered


def test_more_different_headers_than_are_remembered_are_decoded_all_the_same() -> None:
    decoder = EventStreamDecoder()
    for number in range(200):
        (message,) = decoder.feed(encode_message({"number": str(number)}, b""))
        assert message.headers == {"number": str(number)}


def test_text_cut_within_a_character_is_decoded_intact() -> None:
    data = encode_message({}, json.dumps({"t": "漫画📚"}, ensure_ascii=False).encode())
    decoder, found = EventStreamDecoder(), []
    for byte in data:
        found += decoder.feed(bytes([byte]))
    assert json.loads(found[0].payload)["t"] == "漫画📚"
