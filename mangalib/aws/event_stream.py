"""Amazon's event-stream encoding (``application/vnd.amazon.eventstream``), without I/O: bytes in, messages out.

A message is: total length (u32, big-endian), headers length (u32), CRC-32 of these eight bytes (the prelude), headers,
payload, CRC-32 of everything before. A header is: name length (u8), name, type (7: string), value length (u16), value.
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
MIN_MESSAGE_BYTES = 16
_STRING = 7
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
_REMEMBERED_HEADERS = 64


class Message(NamedTuple):
    """One message of the stream: its headers, all of type string, and its payload."""

    headers: Mapping[str, str]
    payload: bytes


class EventStreamDecoder:
    """Takes bytes as they arrive, split anywhere, and returns complete messages.

    A wrong checksum, an invalid length or a malformed header raises ``TransportError``.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Thousands of messages share a few header blocks; each block is parsed once.
        self._known_headers: dict[bytes, Mapping[str, str]] = {}

    @property
    def incomplete(self) -> bool:
        """Whether part of a message is still missing; at the end of a stream, that means it was cut off."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """Add ``data`` and return the messages that are now complete, in order."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _PRELUDE.size:
            total, headers_length, prelude_crc = _PRELUDE.unpack_from(buffer, start)
            if crc32(buffer[start : start + 8]) != prelude_crc:
                raise _invalid(
                    f"prelude checksum {prelude_crc:#010x}; expected {crc32(buffer[start : start + 8]):#010x}"
                )
            shortest = MIN_MESSAGE_BYTES + headers_length
            if not shortest <= total <= MAX_MESSAGE_BYTES:
                raise _invalid(f"message length {total}; expected {shortest} to {MAX_MESSAGE_BYTES}")
            end = start + total
            if len(buffer) < end:
                break
            message = bytes(buffer[start:end])
            (message_crc,) = _U32.unpack_from(message, total - 4)
            if crc32(message[:-4]) != message_crc:
                raise _invalid(f"message checksum {message_crc:#010x}; expected {crc32(message[:-4]):#010x}")
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
                raise _invalid(f"header type {block[name_end]}; expected {_STRING} (string)")
            value_at = name_end + 3
            value_end = value_at + _U16.unpack_from(block, name_end + 1)[0]
            if value_end > len(block):
                raise _invalid(f"header ends at byte {value_end}; expected {len(block)} at most")
            headers[block[at + 1 : name_end].decode()] = block[value_at:value_end].decode()
            at = value_end
    except (IndexError, struct.error):
        raise _invalid(f"header cut off after {len(block)} bytes; expected a name, a type and a value") from None
    except UnicodeDecodeError as error:
        raise _invalid(f"header text {error.object[:40]!r}; expected UTF-8") from None
    return headers


def _invalid(what: str) -> TransportError:
    return TransportError(f"event stream: invalid {what}", answered=True)


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Encode one message with string headers: the inverse of the decoder, for stand-ins and tests."""
    parts = []
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        parts.append(bytes([len(raw_name)]) + raw_name + bytes([_STRING]) + _U16.pack(len(raw_value)) + raw_value)
    block = b"".join(parts)
    total = MIN_MESSAGE_BYTES + len(block) + len(payload)
    prelude = struct.pack(">II", total, len(block))
    message = prelude + _U32.pack(crc32(prelude)) + block + payload
    return message + _U32.pack(crc32(message))
