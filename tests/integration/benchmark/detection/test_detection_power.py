"""How soon the detector sees a change, and how often it is wrong, counted over simulated histories."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mangalib.benchmark.experiments import evaluation
from mangalib.benchmark.experiments.synthetic_history import SyntheticHistory
from mangalib.settings import load_settings

SETTINGS = load_settings()
SHORT = SyntheticHistory(days=7.2)


@pytest.mark.parametrize("target", evaluation.TARGETS, ids=lambda target: target.name)
def test_a_change_is_detected_within_its_target(target: evaluation.Target) -> None:
    """Of 36 cases each, or 12 of all intents at once; `benchmarks/detector.py` counts a thousand."""
    detect = evaluation.sequential_detector(SETTINGS)
    delays = [
        runs for seed in range(12) for runs in evaluation.delays(detect, SHORT, target.change, seed, level=target.level)
    ]
    within = evaluation.summary(delays, target)["within"]
    # Fewer than this would come from a detector that reaches its target in one test in a thousand at most.
    margin = 3.1 * (target.share * (1 - target.share) / len(delays)) ** 0.5
    assert within >= target.share - margin


@pytest.mark.parametrize(
    "history",
    [
        SyntheticHistory(),
        SyntheticHistory(shape="gamma"),
        SyntheticHistory(shape="bimodal"),
        SyntheticHistory(run_to_run=0.02),
        SyntheticHistory(weekly=0.1),
        SyntheticHistory(missing=0.05),
    ],
    ids=["as tuned", "gamma", "bimodal", "little run-to-run variation", "weekly cycle", "missing runs"],
)
def test_false_alarms_are_rare(history: SyntheticHistory) -> None:
    alarms = evaluation.false_alarms(evaluation.sequential_detector(SETTINGS), replace(history, days=22.0), 7)
    assert alarms.pages <= 1
    assert alarms.warnings_a_day <= 1


def test_the_textbook_rule_raises_false_alarms() -> None:
    alarms = evaluation.false_alarms(evaluation.textbook_detector(SETTINGS), replace(SyntheticHistory(), days=8.0), 7)
    assert alarms.warnings > 10
    assert alarms.pages > 3
