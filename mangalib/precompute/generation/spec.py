"""How an answer is generated before its question is asked: from a template, as a summary, by prefetch, or shared.

Haiku writes templates and summaries from the catalogue's facts; they are short. A prefetched answer is composed from
k-NN results and facts without a model. A shared answer comes from the route's own model, as a live one would, without any
customer's data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mangalib.aws import ClaudeRequest
from mangalib.domain import ROUTES, Intent, Manga, Release
from mangalib.errors import BusyError
from mangalib.nlu import Topic
from mangalib.precompute.generated_answer import CanonicalQuestion, fingerprint
from mangalib.serving import Customer, PromptStore, assemble
from mangalib.settings import PrecomputeSettings

BROWSE = "category_browse"
RECOMMENDATION = "recommendation"


class GenerationMethod(StrEnum):
    """The ways to generate an answer."""

    TEMPLATE = "template"
    SUMMARY = "summary"
    PREFETCH = "prefetch"
    SHARED = "shared"


_INSTRUCTIONS = {
    GenerationMethod.TEMPLATE: "Fill in one short paragraph: the answer, the price and stock from the facts, and one next step.",
    GenerationMethod.SUMMARY: "Sum up in three sentences what there is to know, from the facts only.",
    GenerationMethod.SHARED: "",
}
# The standard wording of each topic's question, in English and Japanese: what the model is asked.
_WORDINGS = {
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
    """Which answer to generate, by which method and model, with at most how many output tokens."""

    question: CanonicalQuestion
    topic: Topic
    method: GenerationMethod
    model_id: str
    max_tokens: int


def follow_up_method(trigger: str, topic: Topic) -> GenerationMethod:
    """How to generate a follow-up to a question of topic ``trigger``."""
    if topic.name == "product_inquiry" and trigger == BROWSE:
        return GenerationMethod.PREFETCH
    if topic.name in {"product_inquiry", "similar"}:
        return GenerationMethod.SUMMARY
    return GenerationMethod.TEMPLATE


def is_predictable(topic: Topic) -> bool:
    """Whether topic, title and language determine the question, so that it can be answered before it is asked."""
    return topic.name in _WORDINGS


def standard_wording(question: CanonicalQuestion, title: Manga | None) -> str:
    """The question in its standard wording."""
    english, japanese = _WORDINGS[question.topic]
    if question.language == "ja":
        return japanese.format(title=title.title_ja if title else "")
    return english.format(title=title.title if title else "")


def follow_up_spec(
    question: CanonicalQuestion, topic: Topic, trigger: str, settings: PrecomputeSettings
) -> GenerationSpec:
    """A follow-up for one session: short, by the small model."""
    method = follow_up_method(trigger, topic)
    return GenerationSpec(question, topic, method, settings.haiku_model_id, settings.follow_up_answer_tokens)


def shared_answer_spec(
    question: CanonicalQuestion, topic: Topic, release: Release, settings: PrecomputeSettings
) -> GenerationSpec:
    """An answer for all customers, as a live one would be."""
    model_id = release.model_id(topic.intent, ROUTES[topic.intent], settings)
    return GenerationSpec(question, topic, GenerationMethod.SHARED, model_id, settings.max_answer_tokens)


def prompt_fingerprint(prompts: PromptStore, release: Release, intent: Intent, model_id: str) -> str:
    """The fingerprint of the model and of the prompt that ``release`` gives an intent; see ``GeneratedAnswer.built_on``."""
    return fingerprint(prompts.lookup(intent, release.prompt_versions.get(intent)), model_id)


def build_model_request(
    spec: GenerationSpec, prompt: str, title: Manga | None, near: list[Manga], customer: Customer
) -> ClaudeRequest:
    """The request to the model; of the customer's data it holds name, favourite genres and orders, none of the history."""
    titles = [*([title] if title else []), *(other for other in near if other != title)]
    return assemble(
        f"{prompt} {_INSTRUCTIONS[spec.method]}".strip(),
        standard_wording(spec.question, title),
        route=ROUTES[spec.topic.intent],
        titles=titles,
        customer=Customer(name=customer.name, favourite_genres=customer.favourite_genres, orders=customer.orders),
        max_tokens=spec.max_tokens,
    )


def prefetched_text(title: Manga, near: list[Manga], language: str) -> str:
    """An answer about a title, composed from facts without a model."""
    others = [other for other in near if other.manga_id != title.manga_id][:2]
    if language == "ja":
        similar = "、".join(f"『{other.title_ja}』" for other in others)
        return (
            f"『{title.title_ja}』は{title.author}の作品です({title.publisher}、{title.first_year}年開始、{title.volumes}巻)。"
            f"一冊{title.price_usd:.2f}ドル、在庫は{title.stock}冊です。"
            + (f"近い作品: {similar}。" if similar else "")
        )
    similar = " and ".join(f"{other.title} by {other.author}" for other in others)
    return (
        f"{title.title} by {title.author} ({title.publisher}, since {title.first_year}): {title.genres.replace(',', ', ')}; "
        f"{title.volumes} volumes, {title.status}. A volume costs {title.price_usd:.2f} USD, {title.stock} in stock."
        + (f" Close to it: {similar}." if similar else "")
    )


def over_budget(budget: str) -> BusyError:
    """The error to raise when a token budget does not allow a request."""
    return BusyError(f"token budget of {budget}: exhausted; the answer is not generated ahead")
