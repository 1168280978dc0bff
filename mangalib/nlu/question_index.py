"""An in-memory index of the stored questions of one language, searched for those nearest to a new question.

The signs of the coordinates make a 256-bit hash of each vector; the 256 questions with the smallest Hamming distance are
then compared exactly. Searching 100,000 questions takes about two milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mangalib.nlu.embedding import DIMENSIONS, Vectors

_SHORTLIST = 256
_FIRST_CAPACITY = 1024


class QuestionIndex:
    """Questions by key, each with its vector, the number of its answer's label and the number of its shape.

    ``centres`` holds the sum of each label's vectors, by the label's number.
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._vectors = np.zeros((_FIRST_CAPACITY, DIMENSIONS), np.float16)
        self._bits = np.zeros((DIMENSIONS // 64, _FIRST_CAPACITY), np.uint64)
        self._label = np.full(_FIRST_CAPACITY, -1, np.int32)
        self._shape = np.full(_FIRST_CAPACITY, -1, np.int32)
        self.centres = np.zeros((_FIRST_CAPACITY, DIMENSIONS), np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[str], vectors: Vectors, labels: Sequence[int], shapes: Sequence[int]) -> None:
        """Add questions; one with a known key is replaced."""
        for key, vector, label, shape in zip(keys, vectors, labels, shapes, strict=True):
            self.remove(key)
            row = self._free.pop() if self._free else self._next_row()
            self._rows[key] = row
            while label >= len(self.centres):
                self.centres = np.concatenate([self.centres, np.zeros_like(self.centres)])
            self.centres[label] += vector
            self._vectors[row] = vector
            self._bits[:, row] = _bits_of(vector)
            self._label[row], self._shape[row] = label, shape

    def remove(self, key: str) -> None:
        """Remove a question, if it is stored."""
        row = self._rows.pop(key, None)
        if row is not None:
            self.centres[self._label[row]] -= self._vectors[row]
            self._vectors[row], self._label[row] = 0, -1
            self._free.append(row)

    def nearest(
        self, vector: Vectors, count: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Cosine similarities, the largest first, with labels and shapes; arrays of shape ``(at most count,)``."""
        used = self._used
        candidates = np.arange(used)
        if used > 2 * _SHORTLIST:
            query_bits = _bits_of(vector)
            distance = np.bitwise_count(self._bits[0, :used] ^ query_bits[0]).astype(np.uint16)
            for word in range(1, len(query_bits)):
                distance += np.bitwise_count(self._bits[word, :used] ^ query_bits[word])
            candidates = np.argpartition(distance, _SHORTLIST)[:_SHORTLIST]
        candidates = candidates[self._label[candidates] >= 0]
        similar = self._vectors[candidates].astype(np.float32) @ vector
        best = np.argsort(-similar, kind="stable")[:count]
        chosen = candidates[best]
        return similar[best], self._label[chosen], self._shape[chosen]

    def contents(self) -> tuple[Vectors, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """All vectors, labels and shapes, in row order."""
        used = np.flatnonzero(self._label[: self._used] >= 0)
        return self._vectors[used].astype(np.float32), self._label[used], self._shape[used]

    def _next_row(self) -> int:
        if self._used == len(self._label):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)], axis=1)
            self._label = np.concatenate([self._label, np.full_like(self._label, -1)])
            self._shape = np.concatenate([self._shape, np.full_like(self._shape, -1)])
        self._used += 1
        return self._used - 1


def _bits_of(vector: Vectors) -> npt.NDArray[np.uint64]:
    return np.packbits(vector > 0).view(np.uint64)
