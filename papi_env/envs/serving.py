"""Continuous batching: where FC kernels run, how far to speculate, whom to admit, and what to overlap."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.envs.env import ProblemEnv
from papi_env.envs.problem import BoolArray, Columns, Problem, ScenarioLike
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving_timeline import ServingTimeline
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.scenario import DEFAULT_SERVING_SCENARIO, Scenario, ServingReplacements
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

# [72, 4]: every joint action, in the order that the flattened space numbers them.
JOINT_ACTIONS: npt.NDArray[np.int64] = np.stack(
    np.unravel_index(np.arange(at.NUM_ACTIONS), at.NVEC), axis=1
).astype(np.int64)


# What messages call the choices.
_CHOICE_WORDS = ("FC unit", "speculation", "admission", "overlap")


class ServingProblem(Problem[ServingEngine]):
    """Four choices before every iteration of continuous batching.

    Attributes of the class, beside those of every problem:
        options: names of the options of each choice; choice_words: what messages call the choices.
        serves_classes: whether scenarios may have classes of requests.
    """

    choices = len(at.NVEC)
    options: ClassVar[tuple[tuple[str | int, ...], ...]] = at.CHOICES
    choice_words: ClassVar[tuple[str, ...]] = _CHOICE_WORDS
    serves_classes: ClassVar[bool] = False
    features = at.FEATURES
    default_scenario = DEFAULT_SERVING_SCENARIO
    replacements = ServingReplacements
    clock_info: ClassVar[Columns] = (
        ("time_s", at.TIME_S),
        ("dt_s", at.ELAPSED_S),
        ("iteration_s", at.LAST_TIME_S),
        ("iteration_dynamic_j", at.LAST_DYNAMIC_J),
        ("fc_s", at.LAST_FC_S),
        ("attention_s", at.LAST_ATTENTION_S),
        ("draft_s", at.LAST_DRAFT_S),
        ("prefill_attention_s", at.LAST_PREFILL_S),
        ("communication_s", at.LAST_COMMUNICATION_S),
        ("reward_goodput", at.LAST_REWARD_GOODPUT),
        ("reward_energy", at.LAST_REWARD_ENERGY),
    )
    counter_info: ClassVar[Columns] = (
        ("queued", at.QUEUED),
        ("rlp", at.RLP),
        ("prefilling", at.PREFILLING),
        ("iteration", at.ITERATION),
        ("tokens", at.TOKENS),
        ("finished", at.FINISHED),
        ("attained", at.ATTAINED),
        ("rejected", at.REJECTED),
        ("preemptions", at.PREEMPTIONS),
        ("invalid_actions", at.INVALID),
    )

    @staticmethod
    def single_space() -> gym.spaces.MultiDiscrete:
        """FC unit, speculation length, admission, overlap."""
        return gym.spaces.MultiDiscrete(list(at.NVEC))

    @classmethod
    def _check_scenario(cls, scenario: Scenario) -> None:
        if scenario.serving is None:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} has no serving part; expected one such as {cls.default_scenario!r}"
            )
        if scenario.serving.service is not None and not cls.serves_classes:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} has classes of requests, which {SERVING_V1} plays; expected a scenario "
                "without 'service' here"
            )

    @classmethod
    def build_scenario(cls, scenario: ScenarioLike | None = None, **replacements: Any) -> Scenario:
        """The scenario that an environment's arguments name; see the environments' classes for them.

        Raises:
            ConfigurationError: for a scenario or an argument that cannot be used as given.
        """
        built = super().build_scenario(scenario, **replacements)
        # What is replaced may bring classes.
        cls._check_scenario(built)
        return built

    def _make_engine(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int, threads: int, causes: bool
    ) -> ServingEngine:
        return ServingEngine(
            scenario,
            num_envs,
            autoreset=autoreset,
            max_steps=max_steps,
            threads=threads,
            causes=causes,
        )

    @property
    def reference(self) -> float:
        """What the reward divides by: the mean output tokens of a request."""
        return float(self.engine.tables.scalars[at.REFERENCE_TOKENS])

    @property
    def alpha(self) -> float:
        """PAPI's threshold for this system and model, from the offline sweep."""
        return float(self.engine.tables.scalars[at.ALPHA])

    @staticmethod
    def new_timeline() -> ServingTimeline:
        """What records an episode for `render`."""
        return ServingTimeline()

    def describe_env(self, e: int) -> str:
        """One line about environment `e`."""
        c, t = self.engine.counters[e], self.engine.clocks[e]
        return (
            f"env {e}: iteration {c[at.ITERATION]}, {t[at.TIME_S]:.3f} s, {c[at.RLP]} decoding, "
            f"{c[at.PREFILLING]} in prefill, {c[at.QUEUED]} queued, {c[at.FINISHED]} finished, {c[at.ATTAINED]} in time"
        )

    def valid_choices(self) -> BoolArray:
        """Bool [num_envs, 3 + 4 + 3 + 2]: the valid choices of the coming step, one choice after the other."""
        scalars, counters = self.engine.tables.scalars, self.engine.counters
        valid = np.ones((self.engine.num_envs, sum(map(len, self.options))), dtype=np.bool_)
        only = int(scalars[at.ONLY_UNIT])
        if only >= 0:
            valid[:, : at.NVEC[at.FC]] = False
            valid[:, only] = True
        idle = (counters[:, at.RLP] + counters[:, at.PREFILLING] == 0) & (counters[:, at.QUEUED] > 0)
        valid[:, sum(at.NVEC[: at.ADMISSION]) + at.NONE] = ~idle
        if scalars[at.ATTENTION_UNIT] != 2.0:
            valid[:, sum(at.NVEC) - 1] = False
        return valid

    def step_masks(self) -> BoolArray:
        """Bool [num_envs, 12]: the same, under the name that all problems share."""
        return self.valid_choices()

    def joint_actions(self) -> npt.NDArray[np.int64]:
        """Int64 [72, 4]: every joint action, valid or not."""
        return JOINT_ACTIONS

    def joint_masks(self) -> BoolArray:
        """Bool [num_envs, joint actions]: which joint actions are valid."""
        valid, joint = self.valid_choices(), self.joint_actions()
        starts = self._starts()
        return np.all([valid[:, start + joint[:, k]] for k, start in enumerate(starts)], axis=0)

    def _starts(self) -> npt.NDArray[np.int64]:
        """Where the options of each choice begin in a mask, int64 [choices]."""
        return np.cumsum([0, *map(len, self.options[:-1])])

    def joint_costs(self) -> FloatArray:
        """Refused: on this problem the next step's cost alone ranks nothing (see `agents`' look-ahead policies)."""
        raise ConfigurationError(f"{type(self).__name__} has no joint_costs(); fork its engine to look ahead")

    def _check_strict(self, actions: npt.NDArray[np.int64]) -> None:
        valid, starts = self.valid_choices(), self._starts()
        good = np.take_along_axis(valid, starts + actions, axis=1)
        if not good.all():
            env, choice = (int(i) for i in np.argwhere(~good)[0])
            options = self.options[choice]
            possible = [o for k, o in enumerate(options) if valid[env, starts[choice] + k]]
            raise ConfigurationError(
                f"Environment {env}: {self.choice_words[choice]} {options[actions[env, choice]]!r} is not possible now "
                f"in {self._where(choice)}; expected one of {possible}"
            )

    def _where(self, choice: int) -> str:
        """Where a choice is not possible, for a message."""
        return f"system {self.scenario.system.name!r}"


def build_serving_scenario(
    scenario: ScenarioLike | None = None, **replacements: Unpack[ServingReplacements]
) -> Scenario:
    """The scenario that an environment's arguments name; see `ServingEnv` for them."""
    return ServingProblem.build_scenario(scenario, **replacements)


class ServingEnv(ServingProblem, ProblemEnv[ServingEngine]):
    """Serve requests as they arrive; before each iteration make four choices that depend on one another.

    ## Description
    Requests arrive over time, wait in a queue, are admitted, have their prompt processed in chunks of 512
    tokens, and decode together until they have all their output tokens (continuous batching at token
    granularity; PAPI, ASPLOS 2025, names the setting and evaluates static batches). The machine is that of
    the other problems; here its parts compete. Prompt chunks run on the PUs: decode rows can share that
    kernel, or run on FC-PIM beside it, or be split by tokens, but PUs and FC-PIM share the stacks' banks.
    Drafting costs time on the PUs and pays only where drafts are accepted, which depends on the request.
    Two half-batches can take turns on FC kernels and attention, for which weights are read twice. KV caches
    take pages of 16 tokens (`page_tokens`) on Attn-PIM; when those run out, the request admitted last loses its
    own and is computed again. With a `token_budget` work is done in the order of vLLM's scheduler, where free
    pages may keep their content (`prefix_caching`). Experts of a model run where their tokens' other FC kernels
    do, at the mean over routings. Layers with sliding windows attend to what is inside; pages are of whole
    contexts. Units may drift from their offline profile.
    `papi_env.workload.serving.Serving` lists every effect with its switch and source,
    `papi_env.simulation.serving.iteration` how an iteration is put together.

    ## Action space
    `MultiDiscrete([3, 4, 3, 2])`: unit of the decode FC kernels (0 PUs, 1 FC-PIM, 2 split), tokens verified per
    request (1, 2, 4, 8), admission (0 none, 1 one request, 2 as many as fit), overlap of half-batches (0, 1).
    `papi_env.envs.flatten` numbers the 72 joint actions for algorithms that want `Discrete`. Invalid choices (a
    unit that the system lacks, overlap without Attn-PIM, admitting none while nothing runs) fall back to what
    is possible and are counted in `info["invalid_actions"]`; `strict=True` raises. `action_masks()` is flat,
    bool [12].

    ## Observation space
    `Box(0, 1, float32)`, by index; `observation_names` gives the names:

    {features}

    Output lengths, acceptance rates, drift and future arrivals are not observed.

    ## Rewards
    (good tokens - energy_weight x joules) / reference. Good tokens are the output tokens of requests that
    finish in this step having met both objectives, time to first token and mean time per output token; with
    `reward="on-time"` in the scenario, the tokens produced in this step no later than their request's pace
    allows. The reference is the mean output of a request. Terms: `info["reward_goodput"]` and
    `info["reward_energy"]`. Learners discount by the seconds from one decision to the next, `info["dt_s"]` (see
    `papi_env.sb3_time`).

    ## Starting state
    An empty machine at the first arrival. Arrivals, lengths, classes, acceptance and drift are keyed by (seed,
    episode, request, token), so every policy meets the same instance.

    ## Episode end
    By requests: terminated when every request has finished or was rejected. By time (`horizon_s`): truncated at
    the first iteration that ends at or after the horizon. `info["metrics"]` then holds the totals;
    `engine.records(0)` every request's arrival, admission, first token, finish, preemptions and status.

    ## Arguments
    * `scenario`: a preset's name, a `.toml` file, a table or a `Scenario` with a `serving` part.
    * `system`, `model`, `energy_weight` (tokens per joule), `switch_s`: replace the scenario's.
    * `serving`: a table of fields of `Serving` to replace, such as `{"horizon_s": 30.0, "drift": None}`.
    * `strict`: raise on choices that are not possible.
    * `flatten`, `totals`: see `papi_env/Decode-v0`.
    * `render_mode`: `ansi` or `rgb_array`, a timeline of work by unit.

    ## Vectorised use
    `gymnasium.make_vec("papi_env/Serving-v0", num_envs=1024)`; further arguments as in `papi_env/Decode-v0`.
    In a forked child `threads` are started anew.

    ## Version history
    * v0: first version.
    """


class ServingVectorEnv(ServingProblem, ProblemVectorEnv[ServingEngine]):
    """The vector version of `ServingEnv`; environment i is the single one with seed + i."""
