"""Hit rate against tokens: what each cut-off of probability would have brought and cost on sessions that really took place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mangalib.precompute.generation.spec import Kind
from mangalib.precompute.prediction.candidates import cost_usd
from mangalib.precompute.prediction.session_log import Events
from mangalib.precompute.prediction.transition_model import Relation, TransitionModel, history_of, transitions_in
from mangalib.settings import Settings

_CUT_OFFS = (0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


def tradeoff(model: TransitionModel, events: Events, intents: Sequence[str], settings: Settings) -> pd.DataFrame:
    """One row a cut-off: ``cut_off, hit_rate, made, tokens, net_usd``, the last three for each question that has a follow-up.

    Everything likelier than the cut-off is made, each at the price of a template; a hit saves what a live answer takes longer.
    """
    found = transitions_in(events, model.order)
    longest = found.context[0]
    for shorter in found.context[1:]:
        longest = np.where(shorter >= 0, shorter, longest)
    pairs, counts = np.unique(np.stack([longest, found.outcome // len(Relation)]), axis=1, return_counts=True)
    predicted = {
        context: model.next_intents([intents[i] for i in history_of(context)]) for context in set(pairs[0].tolist())
    }
    usd, tokens = cost_usd(Kind.TEMPLATE, settings)
    worth_usd = settings.expected_follow_up_saving_ms / 1000 * settings.second_saved_usd
    rows = []
    for cut_off in _CUT_OFFS:
        hits, made = 0, 0
        for context, intent, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            chosen = [name for name, p in predicted[context].items() if p >= cut_off]
            hits += count * (intents[intent] in chosen)
            made += count * len(chosen)
        asked = int(counts.sum())
        rows.append(
            {
                "cut_off": cut_off,
                "hit_rate": hits / asked,
                "made": made / asked,
                "tokens": made * tokens / asked,
                "net_usd": (hits * worth_usd - made * usd) / asked,
            }
        )
    return pd.DataFrame(rows)
