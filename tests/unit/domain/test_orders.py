"""Order numbers in text."""

from __future__ import annotations

import pytest

from mangalib.domain import ORDER_NUMBER


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Where is MA-10001?", ["MA-10001"]),
        ("ma10001 and 10002, please", ["ma10001", "10002"]),
        ("注文 MA-10001 と 20002", ["MA-10001", "20002"]),
        ("volume 12 of 2001", []),
        ("One Piece 1071", []),
        ("XMA-10001x", []),
    ],
)
def test_an_order_number_has_five_digits_at_least(text: str, found: list[str]) -> None:
    assert ORDER_NUMBER.findall(text) == found
