"""The files under data/ are what data/README.md says."""

from __future__ import annotations

import json

from mangalib.domain import Catalogue, Intent, load_phrasings
from mangalib.settings import DataSettings


def test_the_data_is_what_its_readme_says() -> None:
    data = DataSettings().data_dir
    catalogue = Catalogue.load(data / "catalogue.csv")
    assert len(catalogue.items) >= 300
    assert len({item.title for item in catalogue.items}) == len(catalogue.items)
    assert all(item.title_ja and item.author and item.publisher and item.genres for item in catalogue.items)
    assert all(1945 < item.first_year <= 2026 and item.volumes > 0 for item in catalogue.items)
    assert {item.status for item in catalogue.items} == {"completed", "ongoing", "hiatus"}
    described = (data / "README.md").read_text(encoding="utf-8")
    assert all(path.name in described for path in data.iterdir())
    prompts = [json.loads(line) for line in (data / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {prompt["intent"] for prompt in prompts} == {intent.value for intent in Intent}
    kinds = {(p.intent, p.language, p.split) for p in load_phrasings(data / "query_templates.csv")}
    assert len(kinds) == 8 * 2 * 2
