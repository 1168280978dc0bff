"""The public names of ``mangalib``, loaded when they are first used."""

from __future__ import annotations

import pytest

import mangalib


def test_the_public_names_are_few_and_listed() -> None:
    assert sorted(mangalib.__all__) == ["Chat", "Client", "Laboratory", "Settings", "load_settings", "record"]


@pytest.mark.parametrize("name", mangalib.__all__)
def test_each_public_name_loads_and_is_documented(name: str) -> None:
    assert getattr(mangalib, name).__doc__
