"""The frames of one answer in the order of their ``seq``: which of them the client has, and which the replay store has."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mangalib.protocol import Card, Chunk, Done, Error, ServerFrame, Status, encode, is_of

_F = TypeVar("_F", Status, Card)


class FrameLog:
    """Without I/O. ``frames`` are those that exist already; the client has them up to ``after``, the store has them all."""

    def __init__(self, frames: list[bytes], after: int) -> None:
        self._frames = list(frames)
        self._cursor = 0
        self._kept = len(frames)
        self._keeping = True
        self._first_text = next((seq for seq, frame in enumerate(frames) if is_of(frame, Chunk)), None)
        self.resumed(after)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def ended(self) -> bool:
        """Whether its last frame is one that ends an answer."""
        return bool(self._frames) and any(is_of(self._frames[-1], kind) for kind in (Done, Error))

    @property
    def all_sent(self) -> bool:
        """Whether the client has every frame so far."""
        return self._cursor == len(self._frames)

    @property
    def next_to_send(self) -> int:
        """The number of the first frame that the client does not have."""
        return self._cursor

    @property
    def kept(self) -> int:
        """How many frames the replay store has."""
        return self._kept

    def of(self, kind: type[_F]) -> list[_F]:
        """The frames of that type, decoded."""
        return [msgspec.json.decode(frame, type=kind) for frame in self._frames if is_of(frame, kind)]

    def add(self, frame: ServerFrame) -> None:
        """Append a frame whose ``seq`` is the log's length."""
        if self._first_text is None and isinstance(frame, Chunk):
            self._first_text = len(self._frames)
        self._frames.append(encode(frame))

    def resumed(self, after: int) -> None:
        """The client is back, and has the frames up to ``after``."""
        self._cursor = min(max(after, -1) + 1, len(self._frames))

    def to_send(self) -> list[bytes]:
        """Frames that may leave now, in order.

        A frame leaves when it is kept, so that an orchestrator that takes the answer over knows all that its client has. The
        frames up to the first text do not wait, and none waits while the replay store fails.
        """
        first = len(self._frames) if self._first_text is None else self._first_text + 1
        end = max(first, self._kept) if self._keeping else len(self._frames)
        return self._frames[self._cursor : end]

    def sent(self, seq: int) -> bytes:
        """Frame ``seq``, which the gateway has taken."""
        self._cursor = seq + 1
        return self._frames[seq]

    def to_keep(self) -> list[bytes]:
        """The frames that the replay store does not have."""
        return self._frames[self._kept :]

    def was_kept(self, count: int) -> None:
        """The replay store has the first ``count`` frames."""
        self._kept, self._keeping = count, True

    def was_not_kept(self) -> None:
        """The replay store failed; frames do not wait for it until it works again."""
        self._keeping = False
