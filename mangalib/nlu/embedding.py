"""Sentence embeddings computed in this process: WordLlama's for Latin script, hashed character n-grams for all others.

WordLlama's vocabulary covers little Japanese.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mangalib.nlu.character_ngrams import character_ngrams, hashed_ngrams

DIMENSIONS = 256
Vectors = npt.NDArray[np.float32]

_NGRAM_SIZES = range(1, 4)


@cache
def _model() -> Any:
    # Importing wordllama sets the root logger to INFO and adds handlers; restore both.
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import wordllama

    root.setLevel(level)
    root.handlers[:] = handlers
    # The model is part of the wheel; nothing is downloaded.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def embed_phrasing(phrasing: str, language: str) -> Vectors:
    """The unit vector of one phrasing, of shape ``(256,)``."""
    vector: Vectors = embed([phrasing], language)[0]
    return vector


def embed(phrasings: list[str], language: str) -> Vectors:
    """Unit vectors of shape ``(len(phrasings), 256)``; a text without any known token gets zeros."""
    if not phrasings:
        return np.empty((0, DIMENSIONS), np.float32)
    if language == "en":
        vectors = np.asarray(_model().embed(phrasings, norm=True), np.float32)
        return np.nan_to_num(vectors)
    ngrams = [character_ngrams(phrasing, _NGRAM_SIZES) for phrasing in phrasings]
    return hashed_ngrams(ngrams, DIMENSIONS).astype(np.float32)
