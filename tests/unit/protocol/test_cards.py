"""Cards beside an answer: the same titles in the same order, however the text is split."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mangalib.domain import Catalogue, Intent
from mangalib.protocol.cards import CardDeck, product_card, title_card
from mangalib.settings import Settings

SETTINGS = Settings()
CATALOGUE = Catalogue.load(SETTINGS.data_dir / "catalogue.csv")
TEXT = (
    "If you like One Piece, try Naruto or 進撃の巨人. Monster is darker; MonsterX is not a title, and neither is a monster. "
    "Then 20th Century Boys, and Fullmetal Alchemist"
)


def deck(question: str = "What should I read?", **changes: int) -> CardDeck:
    return CardDeck(CATALOGUE, SETTINGS.model_copy(update=changes), CATALOGUE.mentioned(question))


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=40))
def test_titles_and_their_order_do_not_depend_on_how_the_text_is_split(cuts: list[int]) -> None:
    growing = deck(cards_max=100)
    edges = [0, *sorted(cuts), len(TEXT)]
    for start, end in pairwise(edges):
        growing.read(TEXT[start:end])
    growing.read("", last=True)
    assert [title.title for title in growing.titles] == [title.title for title in CATALOGUE.mentioned(TEXT)]


def test_a_title_is_held_back_while_it_may_become_a_longer_one() -> None:
    names = sorted(title.title for title in CATALOGUE.items)
    short, long = next((one, other) for one in names for other in names if other.startswith(f"{one} ") and one != other)
    growing = deck()
    assert growing.read(f"I would read {short}") == []
    assert [title.title for title in growing.read(long.removeprefix(short) + " next.")] == [long]
    assert [title.title for title in deck().read(f"I would read {short}, then ")] == [short]


def test_titles_in_a_product_question_are_shown_before_the_text() -> None:
    about = deck("Compare Naruto and Bleach").about(Intent.COMPARISON)
    assert [title.title for title in about] == ["Naruto", "Bleach"]
    assert deck("Where is my copy of Naruto?").about(Intent.ORDER_STATUS) == []


def test_a_recommendation_leaves_out_the_title_that_the_question_names() -> None:
    growing = deck("Something like One Piece, please")
    assert growing.about(Intent.RECOMMENDATION) == []
    assert [title.title for title in growing.read("Like One Piece is Naruto.", last=True)] == ["Naruto"]


def test_there_are_no_more_cards_than_configured() -> None:
    assert len(deck(cards_max=2).read(TEXT, last=True)) == 2


def test_a_product_card_adds_price_stock_and_link_to_the_title_card() -> None:
    title = CATALOGUE.by_id["m002"]
    card, product = title_card(title), product_card(title, "https://shop.example/")
    common = {name: getattr(product, name) for name in card.__struct_fields__}
    assert common == {name: getattr(card, name) for name in card.__struct_fields__}
    assert (product.price_usd, product.stock, product.volumes) == (title.price_usd, title.stock, title.volumes)
    assert product.url == "https://shop.example/manga/m002"
