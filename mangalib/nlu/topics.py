"""Topics: what a question asks for, finer than intents; from ``data/topics.csv``. Follow-ups are predicted by topic."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from mangalib.domain import Intent, load_phrasings
from mangalib.errors import DataError
from mangalib.nlu.embedding import Vectors
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.recogniser import Recogniser
from mangalib.settings import CacheSettings

_TITLE_SLOT = "{title}"
_PRONOUNS = {"en": "it", "ja": "それ"}
_INTENT_LABEL = "intent:"


class Topic(msgspec.Struct, frozen=True):
    """One topic: the intent it belongs to, and whether it is about one title."""

    name: str
    intent: Intent
    about_title: bool


class _TopicTemplate(msgspec.Struct, frozen=True):
    topic: str
    intent: Intent
    language: str
    template: str

    def wordings(self) -> list[str]:
        """The template with a title, and with a pronoun instead."""
        wordings = [self.template.replace(_TITLE_SLOT, "TITLE")]
        if _TITLE_SLOT in self.template:
            wordings.append(self.template.replace(_TITLE_SLOT, _PRONOUNS[self.language]))
        return wordings


class Topics:
    """All topics, and which one a question has."""

    def __init__(self, topics: list[Topic], recogniser: Recogniser) -> None:
        self.by_name = {topic.name: topic for topic in topics}
        self._recogniser = recogniser

    @classmethod
    def from_data(cls, settings: CacheSettings, reader: MeaningReader) -> Topics:
        """Learned from ``topics.csv``; query templates of other intents are stored too, as counter-examples."""
        rows = _read_topic_templates(settings.data_dir / "topics.csv")
        stored: list[tuple[str, Meaning, str]] = [
            (text, reader.read_phrasing(text), row.topic) for row in rows for text in row.wordings()
        ]
        known = {text for text, _, _ in stored}
        for phrasing in load_phrasings(settings.data_dir / "query_templates.csv"):
            text = phrasing.template.replace("{title_ja}", "TITLE").replace(_TITLE_SLOT, "TITLE")
            if phrasing.split == "train" and "{" not in text and text not in known:
                stored.append((text, reader.read_phrasing(text), _INTENT_LABEL + phrasing.intent))
        recogniser = Recogniser(settings)
        recogniser.add(stored)
        recogniser.learn()
        intents = {row.topic: row.intent for row in rows}
        about_title = {row.topic for row in rows if _TITLE_SLOT in row.template}
        return cls([Topic(name, intent, name in about_title) for name, intent in intents.items()], recogniser)

    def of(self, text: str, meaning: Meaning, embedding: Vectors) -> Topic | None:
        """The topic of a question, when the evidence for it is enough; ``embedding`` is that of its phrasing."""
        found = self._recogniser.recognise(text, meaning, embedding)
        if found is None or not found.accepted or found.label.startswith(_INTENT_LABEL):
            return None
        return self.by_name[found.label]


def _read_topic_templates(path: Path) -> list[_TopicTemplate]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                _TopicTemplate(row["topic"], Intent(row["intent"]), row["language"], row["template"])
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected columns topic, intent, language, template") from error
