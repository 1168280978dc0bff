"""Sentences as vectors, within the process: static embeddings for Latin script, counted letters for every other.

WordLlama's tokens know little of Japanese, so that there pairs and triples of letters are hashed instead.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mangalib.nlu.character_ngrams import hashed

DIMENSIONS = 256
Vectors = npt.NDArray[np.float32]

_LETTER_GROUPS = range(1, 4)


@cache
def _model() -> Any:
    # Importing it makes every library of the process write at level INFO, which is not its to decide.
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import wordllama

    root.setLevel(level)
    root.handlers[:] = handlers
    # The model lies inside the wheel; nothing is fetched.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def embed(phrasings: list[str], language: str) -> Vectors:
    """Unit vectors of shape ``(len(phrasings), 256)``."""
    if not phrasings:
        return np.empty((0, DIMENSIONS), np.float32)
    if language == "en":
        vectors = np.asarray(_model().embed(phrasings, norm=True), np.float32)
        # A text without any token has no direction: it is like nothing.
        return np.nan_to_num(vectors)
    return hashed(phrasings, _LETTER_GROUPS, DIMENSIONS)
