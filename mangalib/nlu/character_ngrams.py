"""Character n-grams: they need no word boundaries, so Japanese works like English.

The n-grams and their hashes are those of scikit-learn's ``CountVectorizer`` and ``HashingVectorizer``, whose import takes
a second of a server's start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import mmh3
import numpy as np
import numpy.typing as npt

_SPACES = re.compile(r"\s\s+")


def character_ngrams(text: str, sizes: range) -> Iterator[str]:
    """All n-grams of each of ``sizes``, across words."""
    text = _SPACES.sub(" ", text.lower())
    for size in sizes:
        yield from (text[at : at + size] for at in range(len(text) - size + 1))


def ngrams_within_words(text: str, sizes: range) -> Iterator[str]:
    """The n-grams of each word, which is padded with a space on either side."""
    for word in _SPACES.sub(" ", text.lower()).split():
        padded = f" {word} "
        for size in sizes:
            yield padded[:size]
            if size >= len(padded):
                break  # a word shorter than the n-gram counts once
            yield from (padded[at : at + size] for at in range(1, len(padded) - size + 1))


def hashed_ngrams(texts: Sequence[Iterable[str]], dimensions: int) -> npt.NDArray[np.float64]:
    """The counts of each text's n-grams, hashed, as unit vectors of shape ``(len(texts), dimensions)`` (Weinberger et al. 2009).

    The sign of an n-gram's hash is the sign it counts with, so that collisions cancel out on average.
    """
    vectors = np.zeros((len(texts), dimensions), np.float64)
    for row, ngrams in enumerate(texts):
        for ngram, count in Counter(ngrams).items():
            hashed = mmh3.hash(ngram)
            vectors[row, abs(hashed) % dimensions] += count if hashed >= 0 else -count
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
