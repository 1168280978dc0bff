"""The catalogue: titles found in text, and errors in its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mangalib.domain import Catalogue
from mangalib.errors import DataError
from mangalib.settings import DataSettings


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load(DataSettings().data_dir / "catalogue.csv")


def test_titles_are_found_whatever_their_case_unless_they_are_plain_words(catalogue: Catalogue) -> None:
    def titles(text: str) -> list[str]:
        return [item.title for item in catalogue.mentioned(text)]

    assert titles("is one piece better than NARUTO?") == ["One Piece", "Naruto"]
    assert titles("進撃の巨人とワンピース") == ["Attack on Titan", "One Piece"]
    assert titles("a real touch of orange") == []
    assert titles("Orange or Real?") == ["Orange", "Real"]
    assert titles("Tokyo Ghoul:re and Tokyo Ghoul") == ["Tokyo Ghoul:re", "Tokyo Ghoul"]
    assert titles("bananas") == []


def test_a_broken_catalogue_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("manga_id,title\nm1,One Piece\n")
    with pytest.raises(DataError, match="line 2"):
        Catalogue.load(path)
    with pytest.raises(DataError, match=r"nothing\.csv"):
        Catalogue.load(tmp_path / "nothing.csv")
