from __future__ import annotations

import json

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from mangalib.aws.event_stream import EventStreamDecoder, encode_message
from mangalib.errors import TransportError

HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20), st.text(max_size=40), max_size=4
)
MESSAGES = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=6)


@given(MESSAGES, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_messages_survive_any_cut(messages: list[tuple[dict[str, str], bytes]], sizes: list[int]) -> None:
    data = b"".join(encode_message(headers, payload) for headers, payload in messages)
    decoder, found, at, turn = EventStreamDecoder(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += decoder.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert [(dict(message.headers), message.payload) for message in found] == messages
    assert not decoder.incomplete


@given(MESSAGES)
def test_botocore_reads_what_we_write(messages: list[tuple[dict[str, str], bytes]]) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(b"".join(encode_message(headers, payload) for headers, payload in messages))
    assert [(event.headers, event.payload) for event in buffer] == messages


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_never_taken_for_good(position: int, change: int) -> None:
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
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(TransportError):
        EventStreamDecoder().feed(noise)


def test_an_unknown_header_type_is_refused() -> None:
    good = encode_message({"a": "b"}, b"")
    import struct
    from zlib import crc32

    body = good[:-4].replace(b"\x01a\x07", b"\x01a\x06")
    with pytest.raises(TransportError, match="header type 6"):
        EventStreamDecoder().feed(body + struct.pack(">I", crc32(body)))


def test_multibyte_text_cut_within_a_character_is_whole_again() -> None:
    data = encode_message({}, json.dumps({"t": "漫画📚"}, ensure_ascii=False).encode())
    decoder, found = EventStreamDecoder(), []
    for byte in data:
        found += decoder.feed(bytes([byte]))
    assert json.loads(found[0].payload)["t"] == "漫画📚"
