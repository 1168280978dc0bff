"""Topics: what a question asks for, finer than intents; from ``data/topics.csv``. Sessions are foretold in them."""

from __future__ import annotations

import csv

import msgspec

from mangalib.domain import Intent, load_phrasings
from mangalib.errors import DataError
from mangalib.nlu.meaning import Meaning, MeaningReader
from mangalib.nlu.recogniser import Recognised, Recogniser
from mangalib.settings import Settings

TITLE = "{title}"
_POINTERS = {"en": "it", "ja": "それ"}
_OTHER = "intent:"


class Topic(msgspec.Struct, frozen=True):
    """One topic: the intent it belongs to, and whether it is about one title."""

    name: str
    intent: Intent
    about_title: bool


class Topics:
    """All topics, and which one a question has."""

    def __init__(self, topics: list[Topic], recogniser: Recogniser) -> None:
        self.by_name = {topic.name: topic for topic in topics}
        self._recogniser = recogniser

    @classmethod
    def from_data(cls, settings: Settings, reader: MeaningReader) -> Topics:
        """Learned from ``topics.csv``, with the phrasings of other intents as what to tell them from."""
        path = settings.data_dir / "topics.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [
                    (row["topic"], Intent(row["intent"]), row["language"], row["template"])
                    for row in csv.DictReader(file)
                ]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: {error}; expected columns topic, intent, language, template") from error
        about = {topic: False for topic, _, _, _ in rows}
        stored: list[tuple[str, Meaning, str]] = []
        for topic, _, language, template in rows:
            about[topic] |= TITLE in template
            ways = [template.replace(TITLE, "TITLE")]
            if TITLE in template:
                ways.append(template.replace(TITLE, _POINTERS[language]))
            stored += [(text, reader.read_phrasing(text), topic) for text in ways]
        known = {text for text, _, _ in stored}
        for phrasing in load_phrasings(settings.data_dir / "query_templates.csv"):
            text = phrasing.template.replace("{title_ja}", "TITLE").replace(TITLE, "TITLE")
            if phrasing.split == "train" and "{" not in text and text not in known:
                stored.append((text, reader.read_phrasing(text), _OTHER + phrasing.intent))
        recogniser = Recogniser(settings)
        recogniser.add(stored)
        recogniser.learn()
        intents = {topic: intent for topic, intent, _, _ in rows}
        return cls([Topic(name, intents[name], about[name]) for name in about], recogniser)

    def of(self, text: str, meaning: Meaning) -> tuple[Topic, Recognised] | None:
        """The topic of a question, when it is sure enough."""
        found = self._recogniser.recognise(text, meaning)
        if found is None or not found.accepted or found.label.startswith(_OTHER):
            return None
        return self.by_name[found.label], found
