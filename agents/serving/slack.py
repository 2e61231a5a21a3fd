"""A rule of Serving-v1 that decides by state whom to serve: by deadlines while all can be met, else by worth.

`slack-v1.json` beside this file holds its tuned parameters, by family of presets, each with the command, budget and
seeds it took; `python -m experiments.tune slack-aware` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agents.serving.choices import WORDS
from agents.serving.greedy import GREEDY_RANGES, GreedyParameters, ProfileGreedy
from agents.serving.inside.play import SLACK_AWARE
from agents.serving.inside.slack import DROP_CLASS, KV_DROP, NUM_SLACK
from agents.serving.tuned import Options, Range, Span
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import ServingTables

PARAMETER_FILE = Path(__file__).with_suffix(".json")
# All but first come, first served, which serves nobody in time once more comes than can be served.
_ORDERS = WORDS["order"][at.BY_DEADLINE :]
_CALM_SHEDDINGS = WORDS["shedding"][: at.SHED_CLASS]
_VICTIMS = WORDS["victim"]


@dataclass(frozen=True)
class SlackParameters(GreedyParameters):
    """What profile-greedy weighs, and when the rule changes whom it serves. The defaults are a guess."""

    calm: float = 0.25
    """All can be met while the prompts that wait take less than this share of their first-token objectives; beyond it
    those that cannot be in time any more are dropped."""

    drop_class: float = 1.0
    """From this share on, all that wait of the class that is worth least for its work are dropped."""

    kv_limit: float = 1.0
    """Admit only while running requests use less than this share of KV pages."""

    keep_until: float = 1.0
    """All finished turns keep their context until this share of KV pages is used or kept, then those of classes whose
    conversations go on soonest."""

    kv_drop: float = 1.0
    """Beyond this share of KV pages in use, all that wait of the class that is worth least are dropped, too."""

    drafted_rows: float = 4.0
    """Drafts are made for all while the rows verified are within this many times α, then where they are accepted."""

    calm_order: str = "deadline"
    """Who is admitted first while all can be met."""

    calm_shedding: str = "late"
    """Who of those that wait is dropped while all can be met: with one dropped its conversation ends."""

    crowded_order: str = "weight-per-work"
    """Who is admitted first where not all can be met."""

    crowded_victim: str = "most-slack"
    """Who is preempted where KV pages run out."""

    @classmethod
    def options(cls) -> Mapping[str, tuple[str, ...]]:
        """What it may do by deadlines and beside them."""
        return {
            "calm_order": _ORDERS,
            "calm_shedding": _CALM_SHEDDINGS,
            "crowded_order": _ORDERS,
            "crowded_victim": _VICTIMS,
        }


# Chosen: from dropping as soon as anybody waits to hardly ever; keeping and drafting from never to always.
SLACK_RANGES: dict[str, Span] = GREEDY_RANGES | {
    "calm": Range(0.01, 8.0, log=True),
    "drop_class": Range(0.05, 64.0, log=True),
    "kv_limit": Range(0.5, 1.0),
    "keep_until": Range(0.0, 1.0),
    "kv_drop": Range(0.4, 1.0),
    "drafted_rows": Range(0.1, 16.0, log=True),
    "calm_order": Options(_ORDERS),
    "calm_shedding": Options(_CALM_SHEDDINGS),
    "crowded_order": Options(_ORDERS),
    "crowded_victim": Options(_VICTIMS),
}


class SlackAware(ProfileGreedy):
    """Serves by deadlines while everyone can be met, and where not, who is worth most for the work.

    * Unit, speculation and overlap are profile-greedy's. So is admission, but that a request is urgent by the objective
      of its own class, and that none comes where KV pages run short.
    * How much waits is prompt tokens at the profile's pace over first-token objectives, class by class: those of the
      head of each queue, and for the others as many as admitted ones had.
    * Order and shedding: earliest deadline first, or as tuned, while that is little. Beyond it those who cannot be in
      time are dropped and the others admitted in another order; further on, and where pages run short, whole classes
      are dropped, so that room is left for those worth more who are still to come.
    * Keeping and eviction: every turn while there is room, then by class; whoever is expected back last goes first.
    * Drafts: for all while rows are cheap, then for the classes in which they are accepted.

    Parts of its name replace what it would choose: `slack-aware+lru`.
    """

    code = SLACK_AWARE
    plays_v0 = False
    kind = SlackParameters
    file = PARAMETER_FILE
    ranges = SLACK_RANGES

    def _row(self, given: GreedyParameters) -> list[float]:
        assert isinstance(given, SlackParameters)
        values = asdict(given)
        greedy = GreedyParameters(**{name: values[name] for name in GREEDY_RANGES})
        numbers = ("calm", "drop_class", "kv_limit", "keep_until", "drafted_rows", "kv_drop")
        words = {
            "calm_order": "order",
            "calm_shedding": "shedding",
            "crowded_order": "order",
            "crowded_victim": "victim",
        }
        row = [
            *super()._row(greedy),
            *(values[name] for name in numbers),
            *(float(WORDS[choice].index(values[name])) for name, choice in words.items()),
            *class_objectives(self.tables),
        ]
        if not self._useful[at.SHEDDING - at.ORDER][at.SHED_CLASS]:
            row[DROP_CLASS] = row[KV_DROP] = np.inf
        assert len(row) == NUM_SLACK
        return row


def class_objectives(tables: ServingTables) -> list[float]:
    """First-token objectives by class in seconds, [MAX_CLASSES]; 0 of classes that the scenario lacks."""
    found = [0.0] * at.MAX_CLASSES
    for row in tables.kinds:
        found[int(row[at.OF_CLASS])] = float(row[at.KIND_TTFT_S])
    return found
