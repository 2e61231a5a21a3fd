"""The profile-greedy rule of Serving-v0: the joint action that its offline profile says is best for one iteration.

What the privileged `oracle` does with true costs, this does with what a scheduler has: the profile of kernels by
rows, slow-downs as last observed, contexts on average, acceptance as inferred from past drafts.
`greedy.json` beside this file holds its tuned parameters; `python -m experiments.tune profile-greedy`
writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.policy import Actions
from agents.serving.oracles import ORDERED_ACTIONS, prompt_weight
from agents.serving.tuned import Estimates, Range, RuleParameters, TunedRule, geometric
from agents.serving.view import IntArray, ServingView
from papi_env.envs.problem import Problem
from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import lean
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.requests import key_rows_of
from papi_env.simulation.serving.terms import Decoding, Lookups, Placement, PromptChunk, Slowdowns
from papi_env.workload.serving import SPECULATION_LENGTHS

PARAMETER_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class GreedyParameters(RuleParameters):
    """What the rule weighs. The defaults are a guess; the rule depends little on them."""

    prompt_worth: float = 1.0
    """A prompt token counts as its share of FC time, in output tokens, times this."""

    pace: float = 4.0
    """An iteration that takes longer per token than this many TPOT objectives counts for less, in proportion."""

    time_worth: float = 1.0
    """Where energy has a price, a second costs the static energy of so many seconds."""

    admit_slack: float = -16.0
    """Admit freely while requests are ahead of their pace by so many TPOT objectives on average."""

    urgent: float = 0.5
    """Admit regardless once the oldest request has waited this share of its TTFT objective."""


# Chosen: a factor of four and more to either side of what the defaults say.
GREEDY_RANGES: dict[str, Range] = {
    "prompt_worth": Range(0.25, 4.0, log=True),
    "pace": Range(0.25, 4.0, log=True),
    "time_worth": Range(0.05, 20.0, log=True),
    "admit_slack": Range(-16.0, 16.0),
    "urgent": Range(0.0, 1.5),
}


class ProfileGreedy(TunedRule[GreedyParameters]):
    """Unit, speculation and overlap with the least profiled cost per useful token in the coming iteration.

    Useful tokens are those that decoding is expected to gain, and a credit for every prompt token (see
    `oracles.prompt_weight`). Cost is time; with a price on energy, energy and time together. Admission is
    by two thresholds, for its worth shows in no single iteration.

    What is not observed is filled in: contexts lie evenly about their mean, and who waits has a prompt like those
    admitted before. On a machine without drift the profile's times are the true ones for given contexts.
    """

    kind = GreedyParameters
    file = PARAMETER_FILE
    ranges = GREEDY_RANGES

    def supports(self, env: Problem) -> None:
        """Every machine; lists the choices it has, preferred first."""
        super().supports(env)
        options = ORDERED_ACTIONS[ORDERED_ACTIONS[:, at.ADMISSION] == at.ALL]
        if self._only >= 0:
            options = options[options[:, at.FC] == self._only]
        if not self._can_overlap:
            options = options[options[:, at.OVERLAP] == 0]
        self._options = options
        self._look = tuple(Lookups.of(self.tables))
        self._prompt_weight = prompt_weight(self.tables)

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare all choices. State: `Estimates`."""
        state = Estimates(len(view.rlp)) if state is None else state
        acceptance, prompt = state.update(view, episode_start)
        admitted = self.admits(view)
        coming = admitted & self.has_room(view)
        state.decided(view, admitted)
        chunk = state.coming_chunk(view, coming, prompt)
        seconds, joules = self.profiled(view, chunk, prompt)
        p, scalars = self._p, self.tables.scalars
        gained = np.stack([geometric(acceptance, t) for t in SPECULATION_LENGTHS], axis=1)
        gained = gained[:, self._options[:, at.SPECULATION]]
        useful = view.rlp[:, None] * gained + (p.prompt_worth * self._prompt_weight * chunk)[:, None]
        limit = np.broadcast_to(p.pace * scalars[at.TPOT_S], len(chunk))[:, None]
        cost = seconds
        price = scalars[at.ENERGY_WEIGHT]
        if price > 0:
            second = np.broadcast_to(p.time_worth * scalars[at.STATIC_W], len(chunk))[:, None]
            cost = price * (joules + second * seconds)
        cost = cost * np.maximum(seconds / gained / limit, 1.0)
        actions = self._options[np.argmax(useful / np.maximum(cost, 1e-12), axis=1)].copy()
        actions[:, at.ADMISSION] = np.where(admitted, at.ALL, at.NONE)
        return actions, state

    def profiled(
        self, view: ServingView, chunk: IntArray, prompt: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Seconds and dynamic joules of the coming iteration by choice, [num_envs, choices]; 0 of an empty one.

        Args:
            view: what is observed.
            chunk: prompt tokens of the coming iteration, [num_envs].
            prompt: of a request on average, [num_envs].
        """
        # A mode change is read off the last iteration: FC-PIM's, unless the PUs had prompts beside it.
        alone = (view.feature("last_fc_fc-pim") > 0) & (view.feature("last_chunk") == 0)
        seconds = np.zeros((len(chunk), len(self._options)))
        joules = np.zeros_like(seconds)
        _profile(
            self._options,
            (
                view.rlp,
                view.mean_context,
                view.longest_context,
                chunk,
                prompt,
                np.where(alone, at.FC_PIM, at.PU).astype(np.int64),
                view.drift,
            ),
            self._look,
            np.zeros(at.NUM_RESOURCES),
            (seconds, joules),
        )
        return seconds, joules


class _Seen(NamedTuple):
    """What the rule makes of its observations.

    Attributes:
        rlp: int64 [num_envs], requests decoding; mean_context, longest_context: float64 [num_envs], their tokens.
        chunk: int64 [num_envs], prompt tokens of the coming iteration; prompt: float64 [num_envs], of a request.
        mode: int64 [num_envs], of the stacks.
        drift: float64 [num_envs, units], observed over profiled time.
    """

    rlp: IntArray
    mean_context: FloatArray
    longest_context: FloatArray
    chunk: IntArray
    prompt: FloatArray
    mode: IntArray
    drift: FloatArray


@lean
def _profile(options: Any, seen_parts: Any, look_parts: Any, busy: Any, out: Any) -> None:
    """Fill in seconds and joules, both [num_envs, options], from the profile; `busy` is scratch.

    `seen_parts` and `look_parts` are plain tuples, as for `loop.step_range`, of what `_Seen` and `Lookups` have.
    """
    seen = _Seen(*seen_parts)
    look = Lookups(*look_parts)
    columns = np.int64(look.scalars[at.GROUP_COLUMNS])
    seconds, joules = out
    for e in range(seen.rlp.shape[0]):
        rlp = seen.rlp[e]
        rows = seen.chunk[e]
        if rlp + rows == 0:
            continue
        # A token attends to half of its prompt on average. Of short prompts there are several in a chunk.
        pairs = np.int64(0.5 * rows * seen.prompt[e])
        read = np.int64(max(seen.prompt[e], 1.0 * rows)) if rows > 0 else np.int64(0)
        # As many end in it as it has of average length.
        ending = np.int64(rows / max(seen.prompt[e], 1.0) + 0.5)
        chunk = PromptChunk(rows, pairs, read, ending, max(ending, np.int64(1)))
        slow = Slowdowns(seen.drift[e, 0], seen.drift[e, 1], seen.drift[e, 2])
        for k in range(options.shape[0]):
            tlp = SPECULATION_LENGTHS[options[k, at.SPECULATION]]
            # A context ends anywhere in its last group and its last row of the memory.
            context = seen.mean_context[e] + tlp
            groups = np.int64(rlp * (context / GROUP_TOKENS + 0.5))
            key_rows = np.int64(rlp * (context / GROUP_TOKENS * columns / COLUMNS_PER_ROW + 0.5))
            longest = np.int64(np.ceil((seen.longest_context[e] + tlp) / GROUP_TOKENS))
            decoding = Decoding(
                rlp,
                tlp,
                np.int64(rlp * context),
                groups,
                longest,
                key_rows,
                key_rows_of(longest, columns),
            )
            placement = Placement(options[k, at.FC], options[k, at.OVERLAP], seen.mode[e])
            cost = iteration(decoding, chunk, placement, slow, look, busy)
            seconds[e, k] = cost.seconds
            joules[e, k] = cost.joules
