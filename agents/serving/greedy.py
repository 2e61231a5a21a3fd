"""The profile-greedy rule of Serving-v0: the joint action that its offline profile says is best for one iteration.

What the privileged `oracle` does with true costs, this does with what a scheduler has: the profile of kernels by
rows, slow-downs as last observed, contexts on average, acceptance as inferred from past drafts.
`greedy.json` beside this file holds its tuned parameters; `python -m experiments.tune profile-greedy`
writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.serving.inside.play import GREEDY
from agents.serving.inside.tuned import RANK, profile_all
from agents.serving.oracles import ORDERED_ACTIONS, prompt_weight
from agents.serving.tuned import Range, RuleParameters, Span, TunedRule
from agents.serving.view import IntArray, ServingView, as_compiled
from papi_env.envs.problem import Problem
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at

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
GREEDY_RANGES: dict[str, Span] = {
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

    code = GREEDY
    remembers = True
    kind = GreedyParameters
    file = PARAMETER_FILE
    ranges = GREEDY_RANGES

    def supports(self, env: Problem) -> None:
        """Every machine; lists the choices it has, preferred first."""
        # Before the parameters, of which it is one.
        self._prompt_weight = prompt_weight(self.tables)
        super().supports(env)
        options = ORDERED_ACTIONS[ORDERED_ACTIONS[:, at.ADMISSION] == at.ALL]
        if self._only >= 0:
            options = options[options[:, at.FC] == self._only]
        if not self._can_overlap:
            options = options[options[:, at.OVERLAP] == 0]
        ranked = np.column_stack([options, np.arange(len(options))])
        alike = np.lexsort([options[:, at.FC], options[:, at.OVERLAP], options[:, at.SPECULATION]])
        self._options = np.ascontiguousarray(ranked[alike])

    def _row(self, given: GreedyParameters) -> list[float]:
        return [*super()._row(given), self._prompt_weight]

    @property
    def options(self) -> IntArray:
        """The joint actions that it compares, int64 [choices, 4]."""
        return self._options[:, :RANK]

    def profiled(
        self, view: ServingView, chunk: IntArray, prompt: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Seconds and dynamic joules of the coming iteration by choice, [num_envs, choices]; 0 of an empty one.

        Args:
            view: what is observed.
            chunk: prompt tokens of the coming iteration, [num_envs].
            prompt: of a request on average, [num_envs].
        """
        seconds = np.zeros((len(chunk), len(self._options)))
        joules = np.zeros_like(seconds)
        observations = as_compiled(view.observations, np.float32)
        given = as_compiled(chunk, np.int64), as_compiled(prompt, np.float64)
        profile_all(self._options, observations, given, self._look, (self._busy, seconds, joules))
        return seconds, joules
