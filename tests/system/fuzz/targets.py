"""Readers of untrusted bytes. A target returns when an input was read or refused; any other exception is a bug."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from mangalib.aws.event_stream import EventStreamDecoder, Message, encode_message
from mangalib.errors import BadRequestError, DataError, TransportError
from mangalib.precompute.prediction.session_log import SessionLog
from mangalib.protocol.frames import encode, parse_client_message, parse_server_frame

Repair = Callable[[bytearray, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """``read`` is called with mutations of ``seeds`` that contain some of ``words``.

    ``repair`` restores what would otherwise be refused immediately, such as checksums. If opening a file is most of the work,
    an input is a line, ``lines`` of them per file.
    """

    name: str
    seeds: list[bytes]
    words: list[bytes]
    read: Callable[[bytes], None]
    repair: Repair | None = None
    lines: int = 1


# The event stream


def read_eventstream(data: bytes) -> None:
    """The same messages, or a refusal, however the bytes are split."""
    at_once, split = _decoded([data]), _decoded([data[at : at + 7] for at in range(0, len(data), 7)])
    assert at_once[1] == split[1], "refused either at once or in pieces, but not both"
    assert at_once[0] == split[0][: len(at_once[0])]


def _decoded(pieces: list[bytes]) -> tuple[list[Message], bool]:
    decoder, found = EventStreamDecoder(), []
    try:
        for piece in pieces:
            found += decoder.feed(piece)
    except TransportError:
        return found, True
    return found, False


def with_right_checksums(data: bytearray, rng: random.Random) -> bytes:
    """Correct the checksums of most inputs, so that the code behind them is reached."""
    if rng.random() < 0.2 or len(data) < 16:
        return bytes(data)
    if rng.random() < 0.5:
        struct.pack_into(">I", data, 0, len(data))
    struct.pack_into(">I", data, 8, crc32(data[:8]))
    struct.pack_into(">I", data, len(data) - 4, crc32(data[:-4]))
    return bytes(data)


_EVENT = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
EVENTSTREAM = Target(
    "eventstream",
    [
        encode_message(_EVENT, b'{"bytes":"eyJ0eXBlIjoicGluZyJ9","p":"abcd"}'),
        encode_message({":message-type": "exception", ":exception-type": "throttlingException"}, b'{"message":"slow"}'),
        encode_message({}, b""),
        encode_message({"a": "b" * 300}, b"\0" * 50),
    ],
    [b"\x00\x00\x00\x10", b"\xff\xff\xff\xff", b"\x07\x00\x05chunk", b":event-type", b"\x01", b"\x7f\xff\xff\xff"],
    read_eventstream,
    with_right_checksums,
)


# Frames


def read_frames(data: bytes) -> None:
    """An accepted message is the same after encoding and parsing it again."""
    try:
        message = parse_client_message(data)
    except BadRequestError as error:
        assert len(str(error)) < 1000, "an error quotes only a little of its input"
    else:
        assert parse_client_message(encode(message)) == message
    try:
        frame = parse_server_frame(data)
    except BadRequestError:
        return
    assert parse_server_frame(encode(frame)) == frame


FRAMES = Target(
    "frames",
    [
        b'{"action":"query","text":"Tell me about One Piece","intent":"faq","request_id":"r","stream":true}',
        b'{"action":"resume","request_id":"r","after":-1}',
        b'{"action":"ping"}',
        b'{"type":"chunk","text":"a","request_id":"r","seq":1}',
        b'{"type":"error","code":"busy","message":"m","request_id":"r","seq":0,"retry_after_ms":5}',
        b'{"type":"card","card":{"kind":"title","manga_id":"m","title":"t","title_ja":"t","author":"a","genres":[]},'
        b'"request_id":"r","seq":2}',
    ],
    [b"null", b"[[[[", b"1e999", b"-0", b'"\\ud800"', b"\xff", b'"text":', b"{}", b"18446744073709551616", b"\\u0000"],
    read_frames,
)


# Session logs

_folder = Path()


def read_log(data: bytes) -> None:
    """Read completely, or refused with an error that names the file."""
    for suffix in (".csv", ".jsonl"):
        if (suffix == ".jsonl") == data.lstrip().startswith(b"{"):
            path = _folder / f"log{suffix}"
            path.write_bytes(data)
            try:
                events = SessionLog(path, session_events_max=20).read_all()
            except DataError as error:
                assert str(path) in str(error)
            else:
                assert len(events) > 0


SESSION_LOG = Target(
    "session log",
    [
        b"session_id,at,intent,entity\na,2024-01-01T00:00:00Z,faq,\na,2024-01-01T00:01:00Z,greeting,One Piece\n",
        b'session_id,at,intent\n"a, b",2024-01-01 00:00:00+09:00,faq\n',
        b'{"session_id":"a","at":"2024-01-01T00:00:00Z","intent":"faq","entity":"x"}\n'
        b'{"session_id":"a","at":"2024-01-01T00:00:01Z","intent":"faq","entity":null}\n',
    ],
    [
        b",",
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b"9999-12-31T23:59:59Z",
        b"-0044-03-15",
        b"NaN",
        b"1e999",
        b"{",
        b"[",
        b"\xff",
        b"'",
    ],
    read_log,
    lines=20,
)


TARGETS = {target.name: target for target in (EVENTSTREAM, FRAMES, SESSION_LOG)}


@contextmanager
def temporary_folder() -> Iterator[None]:
    """Provide the folder of targets that read files."""
    global _folder
    with tempfile.TemporaryDirectory(prefix="mangalib-fuzz-") as folder:
        _folder = Path(folder)
        yield
