"""How an answer is made ahead of its question: by template, as a summary, from what k-NN brings, or as a live one would be.

A template or a summary is written by Haiku from the shop's facts, and is short. A prefetched one is put together from
the facts alone and costs no tokens but the embedding's. A shared one is asked of the route's own model, for everybody:
with nothing of any customer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mangalib.aws import ClaudeRequest
from mangalib.domain import ROUTES, Manga, Release
from mangalib.errors import BusyError
from mangalib.nlu import Topic
from mangalib.precompute.generated_answer import Need
from mangalib.serving import Customer, assemble
from mangalib.settings import Settings

BROWSE = "category_browse"
RECOMMENDATION = "recommendation"


class Kind(StrEnum):
    """The ways of making."""

    TEMPLATE = "template"
    SUMMARY = "summary"
    PREFETCH = "prefetch"
    SHARED = "shared"


_BRIEF = {
    Kind.TEMPLATE: "Fill in one short paragraph: the answer, the price and stock from the facts, and one next step.",
    Kind.SUMMARY: "Sum up in three sentences what there is to know, from the facts only.",
    Kind.SHARED: "",
}
# One plain way to ask for each topic: what the model is asked when nobody has asked yet.
_QUESTIONS = {
    "product_inquiry": ("Tell me about {title}", "{title}について教えて"),
    "purchase": ("Where can I buy {title}?", "{title}はどこで買えますか"),
    "availability": ("Is {title} in stock?", "{title}の在庫はありますか"),
    "price": ("How much does {title} cost?", "{title}はいくらですか"),
    "volumes": ("How many volumes of {title} are there?", "{title}は全何巻ですか"),
    "release": ("When does the next volume of {title} come out?", "{title}の最新刊はいつ発売ですか"),
    "author": ("Who wrote {title}?", "{title}の作者は誰ですか"),
    "similar": ("Can you recommend a manga like {title}?", "{title}に似た漫画はありますか"),
    "order_status": ("What's the status of my order?", "注文の状況を教えてください"),
    "order_eta": ("When will my order arrive?", "荷物はいつ届きますか"),
}


@dataclass(frozen=True)
class GenerationSpec:
    """What is to be made: by which kind, for which model, at most how many tokens of answer."""

    need: Need
    topic: Topic
    kind: Kind
    model_id: str
    max_tokens: int


def kind_of(trigger: str, topic: Topic) -> Kind:
    """How a follow-up of ``trigger`` is made."""
    if topic.name == "product_inquiry" and trigger == BROWSE:
        return Kind.PREFETCH
    if topic.name in {"product_inquiry", "similar"}:
        return Kind.SUMMARY
    return Kind.TEMPLATE


def can_be_made(topic: Topic) -> bool:
    """Whether it can be known ahead what the question will be."""
    return topic.name in _QUESTIONS


def question_of(need: Need, title: Manga | None) -> str:
    """The need, put as a question."""
    english, japanese = _QUESTIONS[need.topic]
    if need.language == "ja":
        return japanese.format(title=title.title_ja if title else "")
    return english.format(title=title.title if title else "")


def follow_up(need: Need, topic: Topic, trigger: str, settings: Settings) -> GenerationSpec:
    """For one session: short, and by the small model."""
    kind = kind_of(trigger, topic)
    return GenerationSpec(need, topic, kind, settings.haiku_model_id, settings.follow_up_answer_tokens)


def shared(need: Need, topic: Topic, release: Release, settings: Settings) -> GenerationSpec:
    """For everybody: as a live answer would be."""
    model_id = release.model_id(topic.intent, ROUTES[topic.intent], settings)
    return GenerationSpec(need, topic, Kind.SHARED, model_id, settings.max_answer_tokens)


def request_for(
    spec: GenerationSpec, prompt: str, title: Manga | None, near: list[Manga], customer: Customer
) -> ClaudeRequest:
    """What the model is asked. Of the customer only orders and tastes are used, and only where the topic is personal."""
    titles = [*([title] if title else []), *(other for other in near if other != title)]
    return assemble(
        f"{prompt} {_BRIEF[spec.kind]}".strip(),
        question_of(spec.need, title),
        route=ROUTES[spec.topic.intent],
        titles=titles,
        customer=Customer(name=customer.name, favourite_genres=customer.favourite_genres, orders=customer.orders),
        max_tokens=spec.max_tokens,
    )


def written_from_facts(title: Manga, near: list[Manga], language: str) -> str:
    """A prefetched answer about a title, without a model."""
    others = [other for other in near if other.manga_id != title.manga_id][:2]
    if language == "ja":
        like = "、".join(f"『{other.title_ja}』" for other in others)
        return (
            f"『{title.title_ja}』は{title.author}の作品です({title.publisher}、{title.first_year}年開始、{title.volumes}巻)。"
            f"一冊{title.price_usd:.2f}ドル、在庫は{title.stock}冊です。" + (f"近い作品: {like}。" if like else "")
        )
    like = " and ".join(f"{other.title} by {other.author}" for other in others)
    return (
        f"{title.title} by {title.author} ({title.publisher}, since {title.first_year}): {title.genres.replace(',', ', ')}; "
        f"{title.volumes} volumes, {title.status}. A volume costs {title.price_usd:.2f} USD, {title.stock} in stock."
        + (f" Close to it: {like}." if like else "")
    )


def over_budget(owner: str) -> BusyError:
    """What to raise when there are no tokens left."""
    return BusyError(f"no tokens are left for {owner}")
