"""How many turns imagined conversations have, compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from papi_env.simulation.compiled import compiler
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.sessions import fits, turn_key, turn_lengths

_compile = compiler([Path(__file__)])
unlocked = _compile(_nrt=False, nogil=True)


@unlocked
def count_turns(
    counters: Any,
    numbers: Any,
    next_turns: Any,
    contexts: Any,
    kinds: Any,
    chances: Any,
    served: Any,
    scalars: Any,
    turns: Any,
) -> None:
    """Turns in all of conversations whose next turn is `next_turns` and begins with `contexts` tokens.

    They end by chance, at the most turns of their kind, or before a turn that does not fit into context or memory: as
    `sessions.turns_of` counts them, but from where they stand.

    Args:
        counters: int64 [samples, NUM_COUNTERS], of which SEED and EPISODE name the draws.
        numbers, next_turns, kinds: int64 [conversations]; contexts: int64 [samples, conversations].
        chances: float64 [samples, conversations, turns], whether another turn follows each; below GOES_ON it does.
        served: the tables.
        turns: int64 [samples, conversations], written.
    """
    for e in range(turns.shape[0]):
        for k in range(turns.shape[1]):
            kind = kinds[k]
            most = np.int64(served.kinds[kind, at.MOST_TURNS])
            turn = next_turns[k]
            context = contexts[e, k]
            while turn < most:
                if chances[e, k, turn] >= served.kinds[kind, at.GOES_ON]:
                    break
                key = turn_key(e, numbers[k], turn, counters)
                fresh, output = turn_lengths(key, kind, turn, np.int64(-1), served)
                prompt = context + fresh
                if prompt + output > scalars[at.CONTEXT_LIMIT] or not fits(prompt, output, scalars):
                    break
                turn += 1
                context = prompt + output
            turns[e, k] = turn
