"""Amazon's event-stream encoding, decoded without I/O: bytes in, messages out.

A message is: total length (u32, big-endian), headers length (u32), CRC-32 of these eight bytes, headers, payload,
CRC-32 of all before. A header is: name length (u8), name, type (7 is a string), value length (u16), value.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

from mangalib.errors import TransportError

_PRELUDE = struct.Struct(">III")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_OVERHEAD = 16
_STRING = 7
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
_REMEMBERED_HEADERS = 64


class Message(NamedTuple):
    """One message of the stream: its string headers, and the payload as it came."""

    headers: Mapping[str, str]
    payload: bytes


class EventStreamDecoder:
    """Feed it bytes as they arrive, cut anywhere; it returns the messages that have become whole.

    Every checksum is checked; a wrong one, or lengths that cannot be, raise ``TransportError``.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Thousands of messages share a handful of header blocks, so that parsing each block once is enough.
        self._known_headers: dict[bytes, Mapping[str, str]] = {}

    @property
    def incomplete(self) -> bool:
        """Whether part of a message is still missing: at the end of a stream, a sign that it was cut."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """Take ``data`` and return the messages that are now whole, in order."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _PRELUDE.size:
            total, headers_length, prelude_crc = _PRELUDE.unpack_from(buffer, start)
            if crc32(buffer[start : start + 8]) != prelude_crc:
                raise TransportError("event stream: wrong checksum of a prelude", answered=True)
            if not _OVERHEAD + headers_length <= total <= MAX_MESSAGE_BYTES:
                raise TransportError(f"event stream: a message of {total} bytes cannot be", answered=True)
            end = start + total
            if len(buffer) < end:
                break
            message = bytes(buffer[start:end])
            if crc32(message[:-4]) != _U32.unpack_from(message, total - 4)[0]:
                raise TransportError("event stream: wrong checksum of a message", answered=True)
            payload_at = _PRELUDE.size + headers_length
            messages.append(Message(self._headers(message[_PRELUDE.size : payload_at]), message[payload_at:-4]))
            start = end
        del buffer[:start]
        return messages

    def _headers(self, block: bytes) -> Mapping[str, str]:
        known = self._known_headers.get(block)
        if known is None:
            known = _parse_headers(block)
            if len(self._known_headers) < _REMEMBERED_HEADERS:
                self._known_headers[block] = known
        return known


def _parse_headers(block: bytes) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            if block[name_end] != _STRING:
                raise TransportError(f"event stream: header type {block[name_end]} is not used here", answered=True)
            value_at = name_end + 3
            value_end = value_at + _U16.unpack_from(block, name_end + 1)[0]
            if value_end > len(block):
                raise TransportError("event stream: a header reaches past its block", answered=True)
            headers[block[at + 1 : name_end].decode()] = block[value_at:value_end].decode()
            at = value_end
    except (IndexError, struct.error, UnicodeDecodeError):
        raise TransportError("event stream: broken headers", answered=True) from None
    return headers


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """The bytes of one message with string headers: the decoder's inverse, for the far side of tests and stand-ins."""
    parts = []
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        parts.append(bytes([len(raw_name)]) + raw_name + bytes([_STRING]) + _U16.pack(len(raw_value)) + raw_value)
    block = b"".join(parts)
    total = _OVERHEAD + len(block) + len(payload)
    prelude = struct.pack(">II", total, len(block))
    message = prelude + _U32.pack(crc32(prelude)) + block + payload
    return message + _U32.pack(crc32(message))
