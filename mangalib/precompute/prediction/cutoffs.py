"""The tradeoff between hit rate and tokens: what each probability cut-off would have brought and cost on logged sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mangalib.precompute.generation.spec import GenerationMethod
from mangalib.precompute.prediction.candidates import generation_cost
from mangalib.precompute.prediction.session_log import Events
from mangalib.precompute.prediction.training import history_of, transitions_in
from mangalib.precompute.prediction.transition_model import TransitionModel
from mangalib.settings import CandidateSettings

_CUT_OFFS = (0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


def cut_off_tradeoff(
    model: TransitionModel, events: Events, intents: Sequence[str], settings: CandidateSettings
) -> pd.DataFrame:
    """One row a cut-off: ``cut_off, hit_rate, made, tokens, net_usd``, the last three per question that has a follow-up.

    All follow-ups more likely than the cut-off are generated, each at the price of a template answer; a hit saves
    ``expected_follow_up_saving_ms``.
    """
    found = transitions_in(events, model.order)
    pairs, counts = np.unique(np.stack([found.longest_context(), found.intent()]), axis=1, return_counts=True)
    predicted = {
        context: model.next_intents([intents[i] for i in history_of(context)]) for context in set(pairs[0].tolist())
    }
    usd, tokens = generation_cost(GenerationMethod.TEMPLATE, settings)
    saving_usd = settings.expected_follow_up_saving_ms / 1000 * settings.second_saved_usd
    rows = []
    for cut_off in _CUT_OFFS:
        hits, generated = 0, 0
        for context, intent, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            predictions = [name for name, p in predicted[context].items() if p >= cut_off]
            hits += count * (intents[intent] in predictions)
            generated += count * len(predictions)
        asked = int(counts.sum())
        rows.append(
            {
                "cut_off": cut_off,
                "hit_rate": hits / asked,
                "made": generated / asked,
                "tokens": generated * tokens / asked,
                "net_usd": (hits * saving_usd - generated * usd) / asked,
            }
        )
    return pd.DataFrame(rows)
