"""The best tuned rule of Serving-v1: profile-greedy's parameters and the further choices, searched together.

`combined-v1.json` beside this file holds what was found, by family of presets, each with the command, budget and seeds
it took; `python -m experiments.tune tuned` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from agents.serving.choices import CHOICE_NAMES, WORDS, IntArray, parse_parts
from agents.serving.greedy import GREEDY_RANGES, GreedyParameters, ProfileGreedy
from agents.serving.inside.choices import LEFT
from agents.serving.tuned import Options, Span

PARAMETER_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class CombinedParameters(GreedyParameters):
    """What profile-greedy weighs, and one option of each further choice. The defaults are those of Serving-v0."""

    order: str = "arrival"
    """Who is admitted first."""

    shedding: str = "shed-none"
    """Who of those that wait is dropped."""

    victim: str = "latest"
    """Who is preempted where KV pages run out."""

    keeping: str = "keep-none"
    """Whose context is kept after a turn."""

    eviction: str = "lru"
    """Which kept context goes first where KV pages run out."""

    drafted_for: str = "draft-all"
    """For whom drafts are made."""

    pacing: str = "at-once"
    """Whether all who fit are admitted, or as many as fill a chunk."""

    @classmethod
    def options(cls) -> Mapping[str, tuple[str, ...]]:
        """All options of every further choice."""
        return WORDS

    @classmethod
    def of(cls, parts: Iterable[str]) -> CombinedParameters:
        """The defaults with other options, by their words."""
        given = zip(CHOICE_NAMES, parse_parts("tuned", parts), strict=True)
        return replace(cls(), **{name: WORDS[name][choice] for name, choice in given if choice != LEFT})

    def choices(self) -> IntArray:
        """Their options, int64 [7]."""
        return parse_parts("tuned", (getattr(self, name) for name in CHOICE_NAMES))


# All options of every choice; none is left out for what it does elsewhere.
COMBINED_RANGES: dict[str, Span] = GREEDY_RANGES | {name: Options(words) for name, words in WORDS.items()}


class ServingTuned(ProfileGreedy):
    """Profile-greedy with the fixed further choices that were found best beside its parameters.

    Parts of its name replace what was tuned: `tuned+lru` shows what the tuned eviction is worth alone.
    """

    plays_v0 = False
    kind = CombinedParameters
    file = PARAMETER_FILE
    ranges = COMBINED_RANGES

    def _row(self, given: GreedyParameters) -> list[float]:
        numbers = {name: value for name, value in asdict(given).items() if name in GREEDY_RANGES}
        return super()._row(GreedyParameters(**numbers))

    def _service_row(self, given: GreedyParameters) -> IntArray:
        assert isinstance(given, CombinedParameters)
        return np.where(self._choices == LEFT, given.choices(), self._choices)
