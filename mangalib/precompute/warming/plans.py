"""Warming plans: which titles a program warms, from what a log says about popularity, segments and the hour of the day."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from mangalib.precompute.generated_answer import CanonicalQuestion
from mangalib.precompute.warming import demand

if TYPE_CHECKING:
    import pandas as pd


class Program(StrEnum):
    """The warming programs; each has its own token budget."""

    POPULAR = "popular"
    SEGMENT = "segment"
    TIME_OF_DAY = "time_of_day"
    TRENDING = "trending"


def popular(log: pd.DataFrame, count: int, language: str = "en") -> list[CanonicalQuestion]:
    """The titles asked about most in the log."""
    titles = demand.by_hour(log).groupby("entity")["count"].sum().sort_values(ascending=False)
    return [_title_question(str(title), language) for title in titles.index[:count]]


def for_segments(log: pd.DataFrame, count: int, language: str = "en") -> list[CanonicalQuestion]:
    """The ``count`` titles asked about most by each customer segment, without repetition."""
    table = demand.by_segment(log).groupby("segment", sort=True).head(count)
    return [_title_question(title, language) for title in dict.fromkeys(table["entity"])]


def before_hour(log: pd.DataFrame, hour: int, count: int, language: str = "en") -> list[CanonicalQuestion]:
    """The titles asked about more in an hour of the Japanese day than on average, by how much more."""
    table = demand.by_hour(log)
    in_hour = table[table["hour"] == hour].set_index("entity")
    average = table.groupby("entity")["per_day"].sum() / 24
    lift = (in_hour["per_day"] - average.reindex(in_hour.index)).sort_values(ascending=False)
    return [_title_question(str(title), language) for title in lift[lift > 0].index[:count]]


def _title_question(title: str, language: str) -> CanonicalQuestion:
    return CanonicalQuestion("product_inquiry", title, language)
