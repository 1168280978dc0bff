"""The semantic cache beside the rule of redisvl and GPTCache (cosine above a threshold), in one run on the same vectors.

    .venv/bin/python benchmarks/cache.py [--questions FILE.csv] [--entries 100000]

Accuracy: hits and false hits on labelled questions, by default the project's example. Time: a look-up among ``--entries``
entries, with a real Redis on this machine. The peers' rule is a scan over the same vectors in 32-bit floats, since their
own index needs a Redis module. Prints figures; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from redis.asyncio import Redis
from tqdm.auto import tqdm

from mangalib.domain import Catalogue, Intent
from mangalib.local import running_stack
from mangalib.nlu import IntentClassifier, MeaningReader, QuestionParser, Topics, embed
from mangalib.precompute import SEMANTIC, GeneratedAnswer, SharedAnswers
from mangalib.precompute.lookup import AnswerLookup, StoredKey
from mangalib.precompute.semantic_cache import measure_accuracy, read_labelled_questions
from mangalib.precompute.shared_answers import answer_key
from mangalib.settings import Settings, load_settings

FIXED = {"GPTCache's default, 0.80": 0.80, "usual advice, 0.85": 0.85, "redisvl's default, 0.90": 0.90}


def print_accuracy(path: Path, settings: Settings) -> None:
    stored, asked = read_labelled_questions(path)
    found = measure_accuracy(stored, asked, settings)
    print(f"\n{path.name}: {found.stored} stored, {found.asked} asked, bound {found.bound:.0%}")
    print(f"{'rule':34}{'hits':>8}{'false':>8}")
    print(f"{'ours':34}{found.hit_rate:8.1%}{found.false_hit_rate:8.2%}")
    print(f"{'cosine, tuned to the bound':34}{found.cosine.hit_rate:8.1%}{found.cosine.false_hit_rate:8.2%}")
    stored_vectors = embed([row.text for row in stored], "en")
    answers = np.array([row.answer for row in stored])
    similar = embed([row.text for row in asked], "en") @ stored_vectors.T
    right = answers[similar.argmax(axis=1)] == np.array([row.answer for row in asked])
    for name, threshold in FIXED.items():
        hit = similar.max(axis=1) >= threshold
        print(f"{'cosine, ' + name:34}{hit.mean():8.1%}{(~right)[hit].mean() if hit.any() else 0:8.2%}")


def simulated_questions(entries: int, rng: random.Random) -> list[str]:
    words = [a + b for a in ("bra", "ko", "stel", "mu", "dri", "vo") for b in ("nt", "lar", "mis", "po", "tech", "wen")]
    return [f"how do I {' '.join(rng.sample(words, 5))} {number % 7 or 'now'}?" for number in range(entries)]


async def print_look_up_times(entries: int, settings: Settings) -> None:
    catalogue = Catalogue.load(settings.data_dir / "catalogue.csv")
    reader = MeaningReader(catalogue)
    parser = QuestionParser(reader, IntentClassifier.from_data(settings), Topics.from_data(settings, reader))
    redis = Redis.from_url(settings.redis_url or "")
    rng = random.Random(1)
    stored = simulated_questions(entries, rng)
    shared = await filled_cache(redis, reader, stored, settings)
    texts = [
        text.replace("how do I", rng.choice(["how can I", "how do I", "please, how do I"])) for text in stored[:500]
    ]
    questions = [parser.parse(text) for text in texts]
    lookup = AnswerLookup(redis)
    look_ups_ms = []
    for text in texts:
        started = time.perf_counter()
        question = parser.parse(text)
        known = shared.recognise(question)
        label = known.label if known else ""
        await lookup.fetch([StoredKey(answer_key(Intent.FAQ, label, question.meaning))])
        look_ups_ms.append(1000 * (time.perf_counter() - started))
    vectors = embed(stored, "en")
    print(f"{'look-up':34}{'p50':>8}{'p99':>8}  ms")
    print_quantiles("ours: mirror only", [timed_ms(lambda q=question: shared.recognise(q)) for question in questions])
    print_quantiles("ours: parsing, mirror and Redis", look_ups_ms)
    print_quantiles(
        "cosine: scan of the same vectors",
        [timed_ms(lambda t=text: (vectors @ embed([t], "en")[0]).argmax()) for text in texts],
    )
    print(f"budget of the cache: {settings.cache_budget_ms:g} ms")
    await redis.aclose()


async def filled_cache(redis: Redis, reader: MeaningReader, texts: list[str], settings: Settings) -> SharedAnswers:
    """Stores the questions, and returns the cache of another process that has loaded them."""
    shared = SharedAnswers(redis, reader, settings)
    started = time.perf_counter()
    for number in tqdm(range(0, len(texts), 1000), desc="storing", leave=False):
        batch = texts[number : number + 1000]
        await shared.store_all([(text, reader.read(text), f"answer {hash(text) % 500}") for text in batch])
    stored_s = time.perf_counter() - started
    fresh = SharedAnswers(redis, reader, settings)
    started = time.perf_counter()
    await fresh.load()
    loaded_s = time.perf_counter() - started
    print(f"\n{len(fresh)} entries: stored in {stored_s:.1f} s, mirrored by another process in {loaded_s:.1f} s")
    answer = GeneratedAnswer("An answer of usual length. " * 20, Intent.FAQ, SEMANTIC)
    for text in texts[:500]:
        await fresh.put(Intent.FAQ, "known", reader.read(text), text, answer)
    return fresh


def timed_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def print_quantiles(name: str, found_ms: list[float]) -> None:
    print(f"{name:34}{np.median(found_ms):8.2f}{np.quantile(found_ms, 0.99):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    settings = load_settings()
    print_accuracy(options.questions or settings.data_dir / "example_questions.csv", settings)
    with running_stack(quiet=True, cache_entries_max=2 * options.entries) as stack:
        asyncio.run(print_look_up_times(options.entries, stack.settings))


if __name__ == "__main__":
    main()
