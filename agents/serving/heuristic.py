"""A readable rule over all four choices of Serving-v0 by thresholds, whose parameters were searched.

`heuristic.json` beside this file holds what was found, by family of presets, each with the command,
budget and seeds it took; `python -m experiments.tune heuristic` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import HEURISTIC, CompiledPolicy
from agents.serving.inside.tuned import ACCEPTANCE
from agents.serving.tuned import Range, RuleParameters, Span, TunedRule
from papi_env.kernel import FloatArray

PARAMETER_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Parameters(RuleParameters):
    """What the rule compares with. The defaults are a sensible machine-independent guess, not a search's result."""

    pim_alone: float = 6.0
    """Without a prompt chunk: FC-PIM up to this many times α rows, beyond it the next."""

    split_alone: float = 8.0
    """Without a chunk: split up to this many times α rows, beyond it the PUs."""

    pim_beside: float = 6.0
    """With a chunk: FC-PIM beside it up to this many times α rows."""

    split_beside: float = 8.0
    """With a chunk: split up to this many times α rows, beyond it the PUs."""

    small_chunk: float = 0.0
    """A chunk of no more prompt tokens than this, as far as prompts can be foreseen, counts as none."""

    drift: float = 1.0
    """All four follow the slow-down of the PUs over that of FC-PIM, as last observed, to this power."""

    rows: float = 6.0
    """Speculate as far as keeps the rows verified within this many times α ..."""

    gain: float = 1.2
    """... and each doubling of the length gains this factor of tokens at least."""

    rows_beside: float = 6.0
    """The same limit on rows while prompts are processed."""

    overlap_tokens: float = 8192.0
    """Overlap half-batches from so many tokens of context on, over all decoding requests."""

    admit_slack: float = -16.0
    """Admit freely while requests are ahead of their pace by so many TPOT objectives on average."""

    admit_backlog: float = 16384.0
    """Admit only while fewer prompt tokens than this wait to be processed."""

    urgent: float = 0.5
    """Admit regardless once the oldest request has waited this share of its TTFT objective."""

    kv_limit: float = 1.0
    """Admit only while less than this share of KV pages is used."""


# Chosen: wide enough that every fixed action is inside, or nearly, and PAPI's rule with and without prompts.
RANGES: dict[str, Span] = {
    "pim_alone": Range(0.1, 16.0, log=True),
    "split_alone": Range(0.1, 16.0, log=True),
    "pim_beside": Range(0.1, 16.0, log=True),
    "split_beside": Range(0.1, 16.0, log=True),
    "small_chunk": Range(0.0, 512.0),
    "drift": Range(0.0, 2.0),
    "rows": Range(0.1, 16.0, log=True),
    "gain": Range(1.0, 1.8),
    "rows_beside": Range(0.1, 16.0, log=True),
    "overlap_tokens": Range(1024.0, 524288.0, log=True),
    "admit_slack": Range(-16.0, 16.0),
    "admit_backlog": Range(64.0, 65536.0, log=True),
    "urgent": Range(0.0, 1.5),
    "kv_limit": Range(0.5, 1.0),
}


class ServingHeuristic(TunedRule[Parameters]):
    """A rule for all four choices, by thresholds on what a scheduler sees.

    * Unit: by rows over α, with one pair of thresholds for iterations that also process prompts and one for
      the others: FC-PIM for few rows, split in between, PUs for many. A unit that was last seen slower than its
      profile takes fewer rows.
    * Speculation: the longest whose rows stay within a limit and whose every doubling gains enough tokens,
      under the acceptance inferred from what was accepted so far.
    * Admission: freely while decoding requests keep their pace and little waits in prefill; none beyond,
      unless the oldest waiting request would miss its first-token objective; never beyond a share of KV.
    * Overlap: from a sum of contexts on, which is what attention time grows with.
    """

    code = HEURISTIC
    remembers = True
    kind = Parameters
    file = PARAMETER_FILE
    ranges = RANGES

    def _row(self, given: Parameters) -> list[float]:
        return [*super()._row(given), np.nan]

    def knowing(self, acceptance: FloatArray) -> CompiledPolicy:
        """The compiled policy where the chance that a draft passes is known, [num_envs], and prompts fill a chunk."""
        policy = self.compiled(np.zeros((len(acceptance), NUM_MEMORY)))
        policy.parameters[:, ACCEPTANCE] = acceptance
        return policy
