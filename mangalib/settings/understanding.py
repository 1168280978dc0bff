"""Understanding a question: intent classifier and semantic cache."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mangalib.settings.addresses import DataSettings
from mangalib.settings.group import Count, Positive, Share


class ClassifierSettings(DataSettings):
    """The intent classifier."""

    intent_confidence_min: Share = 0.30


class CacheSettings(DataSettings):
    """The semantic cache: number and age of entries, evidence for a match, and the bound on the share of wrong answers."""

    cache_fresh_s: Count = 3_600
    cache_stale_max_s: Count = 4_200
    cache_entries_max: Count = 100_000
    cache_neighbours: Count = 20
    cache_support_min: Count = 2
    cache_typicality_min: Annotated[float, Field(ge=0, lt=1)] = 0.1
    cache_false_hits_max: Annotated[float, Field(gt=0, lt=1)] = 0.01
    cache_learn_questions: Count = 20_000
    cache_sync_s: Positive = 0.5
