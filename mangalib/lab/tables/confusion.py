"""The intent classifier's confusion matrix on held-out phrasings."""

from __future__ import annotations

import pandas as pd

from mangalib.domain import Catalogue, Intent, load_phrasings
from mangalib.nlu import IntentClassifier
from mangalib.settings import ClassifierSettings


def confusion_matrix(settings: ClassifierSettings) -> pd.DataFrame:
    """Counts of held-out phrasings by true intent (rows) and predicted intent (columns); slots hold fixed examples."""
    catalogue = Catalogue.load(settings.data_dir / "catalogue.csv")
    classifier = IntentClassifier.from_data(settings)
    one, other = catalogue.items[0], catalogue.items[1]
    slots = {
        "title": one.title,
        "title_ja": one.title_ja,
        "title2": other.title,
        "title2_ja": other.title_ja,
        "genre": "horror",
        "author": one.author,
        "order": "MA-10001",
    }
    phrasings = load_phrasings(settings.data_dir / "query_templates.csv")
    pairs = [
        (
            phrasing.intent.value,
            classifier.classify(catalogue.mark_titles(phrasing.template.format(**slots)).masked)[0].value,
        )
        for phrasing in phrasings
        if phrasing.split == "held_out"
    ]
    names = [intent.value for intent in Intent]
    true, predicted = (pd.Series(column) for column in zip(*pairs, strict=True))
    table: pd.DataFrame = pd.crosstab(true, predicted)
    return table.reindex(index=[n for n in names if n != Intent.DEFAULT], columns=names, fill_value=0)
