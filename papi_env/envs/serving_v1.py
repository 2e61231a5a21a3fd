"""Continuous batching with classes of requests and conversations: who is served, when, and what is kept."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from papi_env.envs.env import ProblemEnv
from papi_env.envs.problem import BoolArray, Columns, ScenarioLike, Totals, check_truth
from papi_env.envs.registration import SERVING
from papi_env.envs.serving import JOINT_ACTIONS, ServingProblem
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario, ServingReplacements
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.profiled import PROFILE_NAMES
from papi_env.simulation.serving.profiled_engine import ProfiledEngine
from papi_env.simulation.serving.tables import UNBOUNDED_PAGES, ServingTables
from papi_env.workload.arrivals import build_arrivals
from papi_env.workload.service import Service

# As many may wait as `Service` allows: Serving-v0, which plain scenarios are written for, refuses none.
_MOST_WAITING = 4096
# Whom a flattened action admits and drops: admission, order, shedding. chosen: every order that reads more than the
# arrival, with those dropped who cannot be met; what admits all without dropping anyone is among Serving-v0's.
_WHOM = (
    (at.ALL, at.BY_ARRIVAL, at.SHED_LATE),
    (at.ALL, at.BY_DEADLINE, at.SHED_LATE),
    (at.ALL, at.BY_PROMPT, at.SHED_LATE),
    (at.ALL, at.BY_WORK, at.SHED_LATE),
    (at.ALL, at.BY_WEIGHT, at.SHED_LATE),
    (at.ALL, at.BY_WEIGHT, at.SHED_CLASS),
    (at.ONE, at.BY_WEIGHT, at.SHED_LATE),
    (at.NONE, at.BY_ARRIVAL, at.SHED_LATE),
)
_FIRST = sum(at.NVEC)  # of the further choices in a mask


def with_classes(scenario: Scenario) -> Scenario:
    """The scenario, or for one without classes the same with one class that takes everything from it.

    Nothing is charged for lost requests then, nobody gives up, and the episode is cut at its horizon, as in Serving-v0.

    Raises:
        ConfigurationError: it has what cannot be combined with classes.
    """
    serving = scenario.serving
    if serving is None or serving.service is not None:
        return scenario
    if serving.token_budget is not None:
        raise ConfigurationError(
            f"Scenario {scenario.name!r} has a token_budget, which is not combined with classes of requests; "
            f"{SERVING} plays it"
        )
    arrivals = build_arrivals(serving.arrivals, serving.requests, serving.horizon_s)
    waiting = min(max(arrivals.capacity, 1), _MOST_WAITING)
    plain = Service(drain=False, max_waiting=waiting, max_open=1)
    return scenario.replace(serving={"service": plain.model_dump()})


def further_options(tables: ServingTables) -> BoolArray:
    """Which options of the further choices a scenario has a use for, bool [5 + 3 + 3 + 3 + 2 + 2 + 2].

    The first of each always; others even where they change nothing just now.
    """
    kinds, scalars = tables.kinds, tables.scalars
    several = scalars[at.NUM_CLASSES] > 1
    talks = bool((kinds[:, at.GOES_ON] > 0).any())
    pages = scalars[at.TOTAL_PAGES] < UNBOUNDED_PAGES
    # The last row of acceptances is not a kind's.
    drafts = several and len(np.unique(tables.acceptance[: len(kinds)], axis=0)) > 1
    has = {
        at.ORDER: (True, True, True, True, True),
        at.SHEDDING: (True, True, several),
        at.VICTIM: (True, pages, pages),
        at.KEEPING: (True, talks, talks),
        at.EVICTION: (True, talks and pages),
        at.DRAFTED_FOR: (True, drafts),
        at.PACING: (True, bool(scalars[at.PREFILL_ON])),
    }
    return np.concatenate(
        [np.array(has[choice], dtype=np.bool_) for choice in range(at.ORDER, len(at.NVEC_V1))]
    )


def joint_table(options: BoolArray) -> npt.NDArray[np.int64]:
    """The joint actions that a flattened space numbers, int64 [actions, 11]; `ServingV1Env` says which.

    Args:
        options: see `further_options`.
    """
    parts = np.split(options, np.cumsum(at.NVEC_V1[at.ORDER :])[:-1])
    keeps = bool(parts[at.KEEPING - at.ORDER][at.KEEP_ALL])
    evicts = bool(parts[at.EVICTION - at.ORDER][at.EVICT_RETURN])
    drafts = bool(parts[at.DRAFTED_FOR - at.ORDER][at.DRAFT_ACCEPTED])
    paces = bool(parts[at.PACING - at.ORDER][at.BY_CHUNK])
    plain = np.zeros((len(JOINT_ACTIONS), len(at.NVEC_V1)), dtype=np.int64)
    plain[:, : len(at.NVEC)] = JOINT_ACTIONS
    rows = [plain]
    kernels = plain[plain[:, at.ADMISSION] == at.ALL]
    for accepted in range(1 + drafts):
        for whom in _WHOM:
            block = kernels[kernels[:, at.SPECULATION] > 0] if accepted else kernels.copy()
            block[:, (at.ADMISSION, at.ORDER, at.SHEDDING)] = whom
            block[:, at.KEEPING] = at.KEEP_ALL if keeps else at.KEEP_NONE
            block[:, at.EVICTION] = at.EVICT_RETURN if evicts else at.EVICT_LRU
            block[:, at.DRAFTED_FOR] = accepted
            block[:, at.PACING] = at.BY_CHUNK if paces else at.AT_ONCE
            rows.append(block)
    return np.concatenate(rows)


class ServingV1Problem(ServingProblem):
    """Eleven choices before every iteration of continuous batching."""

    choices = len(at.NVEC_V1)
    options = at.CHOICES_V1
    choice_words = (
        *ServingProblem.choice_words,
        "order",
        "shedding",
        "victim",
        "keeping",
        "eviction",
        "drafts",
        "pacing",
    )
    serves_classes = True
    features = at.FEATURES_V1
    clock_info: ClassVar[Columns] = (
        *ServingProblem.clock_info,
        ("offered", at.OFFERED),
        ("served", at.SERVED),
        ("lost", at.LOST_WORTH),
    )
    counter_info: ClassVar[Columns] = (
        *ServingProblem.counter_info,
        ("sessions", at.SESSIONS),
        ("open", at.OPEN),
        ("dropped", at.SHED),
        ("abandoned", at.ABANDONED),
        ("cut", at.CUT),
        ("evictions", at.EVICTIONS),
        ("kept_pages", at.KEPT_PAGES),
        ("hit_tokens", at.HIT_TOKENS),
    )
    _profile = _records = False

    @classmethod
    def _check_scenario(cls, scenario: Scenario) -> None:
        super()._check_scenario(scenario)
        assert scenario.serving is not None
        if scenario.serving.reward != "attained":
            raise ConfigurationError(
                f"Scenario {scenario.name!r} has reward {scenario.serving.reward!r}, but with classes of requests "
                f"worth is served or lost: expected 'attained', or {SERVING}"
            )

    @staticmethod
    def single_space() -> gym.spaces.MultiDiscrete:
        """The four of Serving-v0, then order, shedding, victim, keeping, eviction, who drafts, and pacing."""
        return gym.spaces.MultiDiscrete(list(at.NVEC_V1))

    @classmethod
    def build_scenario(cls, scenario: ScenarioLike | None = None, **replacements: Any) -> Scenario:
        """The scenario that an environment's arguments name, with classes (see `with_classes`).

        Raises:
            ConfigurationError: for a scenario or an argument that cannot be used as given.
        """
        return with_classes(super().build_scenario(scenario, **replacements))

    def _prepare(self, profile: bool, records: bool) -> None:
        """Note, before the engine is made, whether the profile is observed and records of all requests are kept."""
        for name, value in (("profile", profile), ("records", records)):
            check_truth(name, value)
        self._profile, self._records = profile, records
        if profile:
            self.observation_names = (*type(self).observation_names, *PROFILE_NAMES)

    def _make_engine(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int, threads: int, causes: bool
    ) -> ServingEngine:
        kind = ProfiledEngine if self._profile else ServingEngine
        engine = kind(
            scenario,
            num_envs,
            autoreset=autoreset,
            max_steps=max_steps,
            threads=threads,
            causes=causes,
            records=self._records,
        )
        self._further = further_options(engine.tables)
        self._joint = joint_table(self._further)
        return engine

    def valid_choices(self) -> BoolArray:
        """Bool [num_envs, 12 + 20]: the valid choices of the coming step, one choice after the other."""
        valid = super().valid_choices()
        valid[:, _FIRST:] = self._further
        return valid

    def joint_actions(self) -> npt.NDArray[np.int64]:
        """Int64 [264 to 408, 11]: what a flattened space numbers, see `ServingV1Env`; valid on the machine or not."""
        return self._joint

    def _where(self, choice: int) -> str:
        return super()._where(choice) if choice < len(at.NVEC) else f"scenario {self.scenario.name!r}"


class ServingV1Env(ServingV1Problem, ProblemEnv[ServingEngine]):
    """Serve requests of several classes as they arrive: whom to admit and to drop, what to keep, and where it runs.

    ## Description
    The machine, its kernels, continuous batching and drafting are those of `papi_env/Serving-v0`. What is new is who
    asks. Requests have up to four classes, such as interactive, standard, batch and agent, each with its own
    objectives, worth, lengths, acceptance of drafts and patience. They may be turns of conversations: after an answer
    the next turn comes a think time later, and goes on from all that was said before. KV pages of a turn that is done
    may be kept; a turn that comes back and finds its own processes only what is new. Kept pages make room when running
    requests need it. A class may share a prefix (a system prompt), whose full pages are there once. More load comes
    than can be met, so who is served decides.
    `papi_env.workload.service.Service` lists the parts of a scenario. One without classes becomes one class that takes
    everything from it, with nothing charged and nothing drained: with the further choices at 0 that is
    `papi_env/Serving-v0`, bit for bit (as long as no more than 4096 wait).

    ## Action space
    `MultiDiscrete([3, 4, 3, 2, 5, 3, 3, 3, 2, 2, 2])`. The first four are Serving-v0's: unit of the decode FC kernels
    (0 PUs, 1 FC-PIM, 2 split), tokens verified per request (1, 2, 4, 8), admission (0 none, 1 one request, 2 as many
    as fit), overlap of half-batches (0, 1). Then:

    * order of admission: 0 arrival, 1 first-token deadline, 2 fewest prompt tokens to process, 3 least work left by the
      profile, 4 most weight per work. Preempted requests go first in any order.
    * shedding: 0 nobody, 1 those waiting whose first token comes too late even at the profile's fastest, 2 those and
      everyone waiting of the class with the least weight per work, where two classes wait.
    * victim of preemption: 0 the latest admitted, 1 the one with the fewest tokens, 2 the one with most slack.
    * keeping of a finished turn's KV: 0 none, 1 all, 2 of the classes that come back soonest and likeliest.
    * eviction of kept KV: 0 the least recently used, 1 the one whose conversation goes on latest or least likely.
    * drafts: 0 for all requests, 1 for those of classes whose drafts pass at least as often as the mean.
    * pacing of admission: 0 at once, 1 by chunk: nobody further once admitted prompts fill the coming chunk, so that
      who would only wait on can still be ordered and dropped.

    0 is what Serving-v0 always does. Choices that are not possible on the machine (a unit that the system lacks,
    overlap without Attn-PIM, admitting none while nothing runs) fall back as in Serving-v0 and are counted in
    `info["invalid_actions"]`. Masks also exclude options that the scenario has no use for: shedding by class with one
    class, drafts by acceptance with one class or one acceptance, victims without paging, keeping and eviction without
    conversations. Played all the same, those do nothing. `strict=True` raises on both kinds. An option that changes
    nothing just now is valid. `action_masks()` is flat, bool [32].

    `papi_env.envs.flatten` numbers joint actions for algorithms that want `Discrete`, some of the 77 760. Numbers 0 to
    71 are Serving-v0's, with all else 0. Then come the 24 of unit, speculation and overlap for each of eight ways to
    admit and drop: as many as fit by arrival, deadline, prompt, work and weight per work, dropping those who are late;
    as many as fit by weight per work, dropping a class too; one by weight per work, dropping those who are late; and
    none, dropping those who are late. They admit by chunk, and where there are conversations, keep all and evict by
    return. Where acceptances differ, the 18 that draft come again for each of the eight, with drafts for the accepted.
    So there are 264, or 408.

    ## Order of a step
    1. Those chosen by shedding are dropped from the queue.
    2. Requests are admitted in the chosen order while there are slots and pages, by chunk as far as their prompts
       fill one; kept pages are evicted for them.
    3. Kept pages are evicted, and then victims preempted, until the pages of running requests fit.
    4. The iteration runs: drafts, FC kernels, attention, prompt chunks. Time passes.
    5. Tokens are yielded, requests finish, and what is to be kept of their KV is.
    6. Sessions that have come and turns that return join the queue, or are refused where too many wait.
    7. Senders whose patience is over leave the queue.
    8. If nothing is left to do, time passes to the next arrival or return.

    ## Observation space
    `Box(0, 1, float32)`, by index; `observation_names` gives the names:

    {features}

    Serving-v0's features of the state come first, in their order. Classes are numbered in the order of the scenario.
    With `profile=True` 48 more follow, `papi_env.simulation.serving.profiled.PROFILE_FEATURES`: seconds and joules of
    the coming iteration by the offline profile for each unit, speculation and overlap, with whoever fits admitted, as
    `profile-greedy` works them out; 0 where nothing would run, 1 where the system lacks the choice.
    Output lengths, acceptance rates, patience, think times, turns to come, drift and future arrivals are not observed.

    ## Rewards
    (worth served - charge x worth lost - energy_weight x joules) / reference. A request's worth is its class's weight
    times its output tokens, or its class's weight alone (`worth = "requests"`). It is served when the request finishes
    having met both objectives of its class, and lost when it finishes late or is dropped, given up or refused; turns of
    its conversation that then never come are lost with it. The reference is the mean worth of a request. Terms:
    `info["reward_goodput"]`, from which the charge is taken, and `info["reward_energy"]`. At the end of a drained
    episode all that was offered is served or lost, so the return without energy is affine in
    G = served / offered, `info["metrics"]["g"]`.

    ## Starting state
    An empty machine at the first arrival. Sessions, lengths, classes, acceptance, patience, turns, think times and
    drift are keyed by (seed, episode, session, turn, token), so every policy meets the same instance.

    ## Episode end
    With `drain`, the default of a scenario with classes: sessions arrive until `horizon_s` (or `requests` of them), and
    the episode terminates when all have been served or lost. Without: terminated as in Serving-v0 by requests,
    truncated at the first iteration that ends at or after the horizon. `info["metrics"]` then holds the totals.
    `info["dt_s"]` is the time from the last decision to the coming one: decisions are not evenly spaced.

    ## Arguments
    * `scenario`: a preset's name, a `.toml` file, a table or a `Scenario` with a `serving` part, with or without
      `service` in it.
    * `profile`: whether the profile is observed.
    * `records`: keep every request's record, for `engine.records(0)` and quantiles of latencies, which are NaN
      otherwise: the state of an episode is of those who wait or run, however long it is.
    * `system`, `model`, `energy_weight` (tokens per joule), `switch_s`: replace the scenario's.
    * `serving`: a table of fields of `Serving` to replace, such as `{"horizon_s": 30.0, "drift": None}`.
    * `strict`: raise on choices that are not possible.
    * `flatten`, `totals`: see `papi_env/Decode-v0`.
    * `render_mode`: `ansi` or `rgb_array`, a timeline of work by unit.

    ## Vectorised use
    `gymnasium.make_vec("papi_env/Serving-v1", num_envs=1024)`; further arguments as in `papi_env/Decode-v0`.
    In a forked child `threads` are started anew.

    ## Version history
    * v1: classes, conversations, and who is served. v0 goes on as `papi_env/Serving-v0`.
    """

    def __init__(
        self,
        scenario: ScenarioLike | None = None,
        *,
        profile: bool = False,
        records: bool = False,
        strict: bool = False,
        flatten: bool = False,
        totals: Totals = True,
        render_mode: str | None = None,
        **replacements: Unpack[ServingReplacements],
    ) -> None:
        self._prepare(profile, records)
        super().__init__(
            scenario, strict=strict, flatten=flatten, totals=totals, render_mode=render_mode, **replacements
        )


class ServingV1VectorEnv(ServingV1Problem, ProblemVectorEnv[ServingEngine]):
    """The vector version of `ServingV1Env`; environment i is the single one with seed + i."""

    def __init__(
        self,
        scenario: ScenarioLike | None = None,
        *,
        num_envs: int = 1,
        profile: bool = False,
        records: bool = False,
        strict: bool = False,
        flatten: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int = 1,
        causes: bool = False,
        **replacements: Unpack[ServingReplacements],
    ) -> None:
        self._prepare(profile, records)
        super().__init__(
            scenario,
            num_envs=num_envs,
            strict=strict,
            flatten=flatten,
            render_mode=render_mode,
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            copy=copy,
            threads=threads,
            causes=causes,
            **replacements,
        )
