"""Text as groups of neighbouring letters: no word boundaries needed, so that Japanese works like English.

The same groups, and the same hashes of them, as scikit-learn's ``CountVectorizer`` and ``HashingVectorizer`` make; importing
that takes a second, which nobody who starts a server should wait for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import mmh3
import numpy as np
import numpy.typing as npt

_SPACES = re.compile(r"\s\s+")


def character_ngrams(text: str, sizes: range) -> Iterator[str]:
    """All groups of neighbouring letters, of each of ``sizes``, across words."""
    text = _SPACES.sub(" ", text.lower())
    for size in sizes:
        yield from (text[at : at + size] for at in range(len(text) - size + 1))


def ngrams_within_words(text: str, sizes: range) -> Iterator[str]:
    """Groups that do not reach across words; a word has a space on either side."""
    for word in _SPACES.sub(" ", text.lower()).split():
        padded = f" {word} "
        for size in sizes:
            yield padded[:size]
            if size >= len(padded):
                break  # a short word counts once
            yield from (padded[at : at + size] for at in range(1, len(padded) - size + 1))


def hashed(texts: list[str], sizes: range, dimensions: int) -> npt.NDArray[np.float32]:
    """Counted groups of each text as a unit vector, of shape ``(len(texts), dimensions)`` (Weinberger et al. 2009).

    The sign of a group's hash is the sign it counts with, so that groups that meet cancel out on average.
    """
    vectors = np.zeros((len(texts), dimensions), np.float64)
    for row, text in enumerate(texts):
        for group, times in Counter(character_ngrams(text, sizes)).items():
            number = mmh3.hash(group)
            vectors[row, abs(number) % dimensions] += times if number >= 0 else -times
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
