"""A readable rule over all four choices of Serving-v0, whose parameters were searched.

`serving_heuristic.json` beside this file holds the parameters that were found, by family of presets, each
with the command, budget and seeds it took; `python -m experiments.tune_heuristic` writes it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from agents.policy import Actions
from agents.serving_policies import AcceptanceEstimate, IntArray, ServingRule, ServingView
from papi_env.envs.base import Problem
from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.kernel import FloatArray
from papi_env.simulation import serving_layout as at
from papi_env.workload.serving import SPECULATION_LENGTHS

PARAMETER_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Parameters:
    """What the rule compares with. The defaults are a sensible machine-independent guess, not a search's result."""

    pim_alone: float = 6.0
    """Without a prompt chunk: FC-PIM up to this many times α rows, beyond it the next."""

    split_alone: float = 8.0
    """Without a chunk: split up to this many times α rows, beyond it the PUs."""

    pim_beside: float = 6.0
    """With a chunk: FC-PIM beside it up to this many times α rows."""

    split_beside: float = 8.0
    """With a chunk: split up to this many times α rows, beyond it the PUs."""

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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
                raise ConfigurationError(
                    f"Heuristic parameter {field.name} is {value!r}, expected a finite number"
                )


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched: between two bounds, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


# Chosen: wide enough that every fixed action is inside, or nearly.
RANGES: dict[str, Range] = {
    "pim_alone": Range(0.1, 16.0, log=True),
    "split_alone": Range(0.1, 16.0, log=True),
    "pim_beside": Range(0.1, 16.0, log=True),
    "split_beside": Range(0.1, 16.0, log=True),
    "rows": Range(0.1, 16.0, log=True),
    "gain": Range(1.0, 1.8),
    "rows_beside": Range(0.1, 16.0, log=True),
    "overlap_tokens": Range(1024.0, 524288.0, log=True),
    "admit_slack": Range(-16.0, 16.0),
    "admit_backlog": Range(64.0, 65536.0, log=True),
    "urgent": Range(0.0, 1.5),
    "kv_limit": Range(0.5, 1.0),
}


def parameters_from(where: str, values: Any) -> Parameters:
    """Parameters from a table of numbers; a misspelt name is answered with the nearest."""
    if not isinstance(values, dict):
        raise DataError(f"{where}: found {type(values).__name__}, expected a table of parameters")
    known = [field.name for field in fields(Parameters)]
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter in {where}", name, known)
    return Parameters(**values)


@lru_cache(maxsize=1)
def tuned_parameters() -> dict[str, Parameters]:
    """The stored parameters by family of presets, and `default`; empty entries mean the guess."""
    try:
        stored = json.loads(PARAMETER_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"default": Parameters()}
    except json.JSONDecodeError as error:
        raise DataError(f"{PARAMETER_FILE.name}: line {error.lineno}: expected JSON: {error.msg}") from None
    found = {
        name: parameters_from(f"{PARAMETER_FILE.name}, {name}", entry["parameters"])
        for name, entry in stored.items()
    }
    return {"default": Parameters()} | found


class ServingHeuristic(ServingRule):
    """A rule for all four choices, by thresholds on what a scheduler sees.

    * Unit: by rows over α, with one pair of thresholds for iterations that also process prompts and one for
      the others: FC-PIM for few rows, split in between, PUs for many.
    * Speculation: the longest whose rows stay within a limit and whose every doubling gains enough tokens,
      under the acceptance inferred from what was accepted so far.
    * Admission: freely while decoding requests keep their pace and little waits in prefill; none beyond,
      unless the oldest waiting request would miss its first-token objective; never beyond a share of KV.
    * Overlap: from a sum of contexts on, which is what attention time grows with.

    Args:
        parameters: by default those tuned for the family of the bound preset (the part of its name before
            the slash), else those tuned over all.
    """

    def __init__(self, parameters: Parameters | None = None) -> None:
        self._given = parameters
        self.parameters = Parameters() if parameters is None else parameters

    def supports(self, env: Problem) -> None:
        """Every machine; picks the parameters of the scenario's family."""
        if self._given is None:
            stored = tuned_parameters()
            family = env.scenario.name.partition("/")[0]
            self.parameters = stored.get(family, stored["default"])

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Apply the rule. State: the acceptance estimate."""
        state = AcceptanceEstimate(len(view.rlp)) if state is None else state
        return self.rule(view, state.update(view, episode_start)), state

    def rule(self, view: ServingView, acceptance: FloatArray) -> Actions:
        """The four choices, [num_envs, 4], if drafted tokens pass with chance `acceptance` [num_envs]."""
        p, scalars, rlp = self.parameters, self.tables.scalars, view.rlp
        alpha = min(max(self.env.alpha, 1.0), float(self.tables.fc_s.shape[1]))

        waiting = view.queued > 0
        keeps_pace = view.slack_s >= p.admit_slack * scalars[at.TPOT_S]
        room = (view.backlog < p.admit_backlog) & (view.feature("kv_use") < p.kv_limit)
        urgent = view.oldest_wait_s >= p.urgent * scalars[at.TTFT_S]
        admission = np.where(room & (keeps_pace | (urgent & waiting)), at.ALL, at.NONE)

        beside = (view.backlog > 0) | (waiting & (admission == at.ALL))
        limit = np.where(beside, p.rows_beside, p.rows) * alpha
        length = self._speculation(rlp, limit, acceptance)
        n = rlp * np.array(SPECULATION_LENGTHS)[length]
        pim = np.where(beside, p.pim_beside, p.pim_alone) * alpha
        split = np.where(beside, p.split_beside, p.split_alone) * alpha
        unit = np.where(n <= pim, at.FC_PIM, np.where(n <= split, at.SPLIT, at.PU))
        overlap = (rlp > 1) & (rlp * view.mean_context >= p.overlap_tokens)
        return np.stack([unit, length, admission, overlap], axis=1).astype(np.int64)

    def _speculation(self, rlp: IntArray, limit: FloatArray, acceptance: FloatArray) -> IntArray:
        """Index of the speculation length, [num_envs]."""
        length = np.zeros(len(rlp), dtype=np.int64)
        going = np.ones(len(rlp), dtype=np.bool_)
        tokens = np.ones(len(rlp))
        for k, t in enumerate(SPECULATION_LENGTHS[1:], start=1):
            gained = np.sum([acceptance**j for j in range(t)], axis=0)
            going &= (rlp * t <= limit) & (gained >= self.parameters.gain * tokens)
            length[going] = k
            tokens = gained
        return length


def as_table(parameters: Parameters) -> dict[str, float]:
    """The parameters as plain numbers, four digits each."""
    return {name: float(f"{value:.4g}") for name, value in asdict(parameters).items()}
