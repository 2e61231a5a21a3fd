"""Steps per second, each measured beside its reference: the instruments of `experiments.throughput`.

A machine is never quiet, and never twice the same. So everything is measured in rounds: a short block of the thing,
a short block of its reference, and the next round in the opposite order. A ratio is taken within a round; what is
reported is the median over rounds with its quartiles.

Seconds are those that the processor worked for this process. On a core of one's own they are wall time; on one that
others use too they leave out the others' turns, though not what those do to caches. Every row says which share of
the wall time they were. Only threads are timed on the wall.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import load_env_creator

from papi_env.envs.registration import DECODE as DECODE
from papi_env.envs.registration import KERNELS as KERNELS
from papi_env.envs.registration import SERVING as SERVING
from papi_env.envs.registration import SERVING_V1 as SERVING_V1
from papi_env.kernel import FloatArray
from papi_env.scenario import DEFAULT_SCENARIO, Scenario, get_scenario, parse_scenario
from papi_env.workload.requests import Lengths

CARTPOLE = "CartPole-v1"
Clock: TypeAlias = Callable[[], float]

# Small models on writing: the flat middle of the rates that `papi_env.workload.serving.ACCEPTANCE` holds.
SAMPLED_ACCEPTANCE = 0.64
# chosen: about the mean episode of 16 requests, one token at a time (870 iterations; range: 400 on, below which
# environments still end together).
SPREAD_CALLS = 800
# chosen: enough that no environment repeats a short cycle, few enough to stay in a cache beside the state (range
# 4-64: nothing changes).
ACTION_SETS = 16


@dataclass(frozen=True)
class Timed:
    """Something to time.

    Attributes:
        name: under which its rates are found.
        call: one call.
        steps: environment steps of a call.
        probe: asked after every block, such as how many requests decode; None for nothing.
    """

    name: str
    call: Callable[[], object]
    steps: int = 1
    probe: Callable[[], float] | None = None


@dataclass(frozen=True)
class Rates:
    """What rounds gave: steps per second [rounds], the mean of the probes, and the processor's share.

    The share is of the wall time, None where that was the clock.
    """

    steps_per_s: FloatArray
    cpu_share: float | None
    probed: float | None


def measure(
    timed: Sequence[Timed],
    rounds: int,
    block_s: float,
    clock: Clock = time.process_time,
    wall: Clock = time.perf_counter,
) -> dict[str, Rates]:
    """Rates of everything in `timed`, blocks interleaved.

    Args:
        timed: what to time; the order turns around from one round to the next.
        rounds: how many blocks of each.
        block_s: about how many seconds a block takes; at least one call.
        clock: the seconds that count; wall: those that pass.
    """
    calls = [_calls_per_block(each, block_s, clock) for each in timed]
    seconds = np.empty((len(timed), rounds))
    wall_s = np.empty((len(timed), rounds))
    probes: list[list[float]] = [[] for _ in timed]
    for r in range(rounds):
        for i in range(len(timed))[:: 1 if r % 2 == 0 else -1]:
            call = timed[i].call
            passed, start = wall(), clock()
            for _ in range(calls[i]):
                call()
            seconds[i, r], wall_s[i, r] = clock() - start, wall() - passed
            probe = timed[i].probe
            if probe is not None:
                probes[i].append(probe())
    return {
        each.name: Rates(
            calls[i] * each.steps / seconds[i],
            None if clock is wall else float(seconds[i].sum() / wall_s[i].sum()),
            float(np.mean(probes[i])) if probes[i] else None,
        )
        for i, each in enumerate(timed)
    }


def _calls_per_block(timed: Timed, block_s: float, clock: Clock) -> int:
    """Calls that take about `block_s`; the first one, which may compile, does not count."""
    timed.call()
    calls, start = 0, clock()
    while True:
        timed.call()
        calls += 1
        elapsed = clock() - start
        if elapsed >= block_s / 2:
            return max(1, round(calls * block_s / elapsed))


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what rounds gave."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: FloatArray) -> Spread:
        """Of values [rounds]."""
        low, value, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(value), float(low), float(high))


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this process and its children on one core, the last one it may use; yields it, None where impossible."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    # numba counts the cores when it is imported, which may be while this process is pinned to one.
    os.environ.setdefault("NUMBA_NUM_THREADS", str(len(before)))
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


# --- what is stepped ----------------------------------------------------------------------------------------


class SingleLoop:
    """A single environment through `gymnasium.make`, reset where an episode ends; actions drawn beforehand."""

    def __init__(self, env_id: str, **kwargs: Any) -> None:
        self.env = gym.make(env_id, **kwargs)
        self.env.action_space.seed(0)
        self.env.reset(seed=0)
        # As the space draws them: what a step checks and converts depends on their type.
        self._actions = [self.env.action_space.sample() for _ in range(1024)]
        self._at = 0

    def __call__(self) -> None:
        """One step, and a reset where it ended the episode."""
        self._at = (self._at + 1) & 1023
        _, _, terminated, truncated, _ = self.env.step(self._actions[self._at])
        if terminated or truncated:
            self.env.reset()

    def timed(self, name: str) -> Timed:
        """To be measured."""
        return Timed(name, self)


class BatchLoop:
    """A vector environment through `gymnasium.make_vec`, with random valid actions drawn beforehand.

    Of an action so many `choices` are random (None: all), and the others 0, the honest default.
    """

    def __init__(self, env_id: str, num_envs: int, *, choices: int | None = None, **kwargs: Any) -> None:
        # gymnasium's own would be run one by one otherwise; ours have no other version.
        self.env = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)
        self.env.reset(seed=0)
        self.num_envs = num_envs
        self.info: Mapping[str, Any] = {}
        self.actions = draw_actions(self.env, ACTION_SETS)
        for actions in self.actions if choices is not None else ():
            actions[:, choices:] = 0
        self._at = 0

    def __call__(self) -> None:
        """One step in every environment."""
        self._at = (self._at + 1) % ACTION_SETS
        self.info = self.env.step(self.actions[self._at])[4]

    def decoding(self) -> float:
        """Mean requests that decode, over the environments, after the last step."""
        return float(np.mean(self.info["rlp"]))

    def timed(self, name: str, *, copy: bool | None = None) -> Timed:
        """To be measured; `copy` sets whether arrays are the caller's own (None: leave it)."""
        if copy is None:
            return Timed(name, self, self.num_envs)
        problem: Any = self.env.unwrapped

        def call() -> None:
            problem.copy = copy
            self()

        return Timed(name, call, self.num_envs, self.decoding)

    def timed_engine(self, name: str) -> Timed:
        """The compiled step alone: without checks of the actions, infos and copies."""
        engine = self.env.unwrapped.engine  # type: ignore[attr-defined]
        # Those that steps are given need not be copied there.
        engine.actions[:] = self.actions[0].reshape(engine.actions.shape)
        return Timed(name, lambda: engine.advance(), self.num_envs)

    def spread(self, calls: int = SPREAD_CALLS) -> BatchLoop:
        """Step until the environments are at all points of their episodes, as in training. Returns itself.

        In each of `calls` steps another share of the environments starts its next episode.
        """
        group = np.random.default_rng(0).permutation(self.num_envs) % calls
        for k in range(calls):
            self()
            mask = group == k
            if mask.any():
                self.env.reset(options={"reset_mask": mask})
        return self

    def fill(self, share: float = 0.95, limit: int = 2000) -> BatchLoop:
        """Step a serving environment until its machines hold that share of their `max_running`. Returns itself.

        Raises:
            RuntimeError: not after `limit` steps.
        """
        slots = self.env.unwrapped.scenario.serving.max_running  # type: ignore[attr-defined]
        for _ in range(limit):
            self()
            running = float(np.mean(self.info["rlp"] + self.info["prefilling"]))
            if running >= share * slots:
                return self
        raise RuntimeError(
            f"{running:.1f} requests run after {limit} iterations, expected {share * slots:.1f}"
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of simulation state of one environment."""
        return int(self.env.unwrapped.engine.state_bytes_per_env)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def draw_actions(env: gym.vector.VectorEnv[Any, Any, Any], sets: int) -> list[npt.NDArray[np.int64]]:
    """Random valid actions of `sets` steps, int64 [num_envs] or [num_envs, choices] each; seeded.

    Of this package's environments, from `joint_actions()`; of others, from the action space.
    """
    rng = np.random.default_rng(0)
    joint = getattr(env.unwrapped, "joint_actions", None)
    if joint is None:
        count = env.single_action_space.n  # type: ignore[attr-defined]
        return list(rng.integers(0, count, (sets, env.num_envs)))
    table = joint()
    drawn = table[rng.integers(0, len(table), (sets, env.num_envs))]
    flat = isinstance(env.single_action_space, gym.spaces.Discrete)
    return [np.ascontiguousarray(each[:, 0] if flat else each) for each in drawn]


def accepts(env_id: str, argument: str) -> bool:
    """Whether the vector version of a registered environment takes an argument."""
    entry = gym.spec(env_id).vector_entry_point
    made = load_env_creator(entry) if isinstance(entry, str) else entry
    if made is None:
        return False
    return argument in inspect.signature(made).parameters


# --- scenarios ----------------------------------------------------------------------------------------------


def sampled_batch(requests: int, tlp: int) -> dict[str, Any]:
    """Arguments: `requests` of the default scenario; with speculation, drafts are drawn and mostly accepted."""
    arguments: dict[str, Any] = {"batch_size": requests, "speculation": tlp}
    return arguments | ({"acceptance_rate": SAMPLED_ACCEPTANCE} if tlp > 1 else {})


def full_batch(requests: int, tlp: int) -> dict[str, Any]:
    """As `sampled_batch`, but every request has 20 prompt and 2000 output tokens: all of them always decode."""
    scenario = get_scenario(DEFAULT_SCENARIO).replace(lengths=Lengths(input=20, output=2000))
    return {"scenario": scenario, **sampled_batch(requests, tlp)}


def full_machine(concurrent: int, requests: int) -> Scenario:
    """A serving scenario whose machine is full: `concurrent` requests run, more of them wait.

    Prompts of 500 and outputs of 200 tokens: a prompt takes one chunk of 512, an output some 100 iterations of
    random speculation, so that more than 64 would run if they were let in. Poisson arrivals of 1000 a second are a
    hundred times what the machine serves.
    """
    data = {
        "name": f"full-machine-{concurrent}",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 1000.0},
            "lengths": {"input": 500, "output": 200},
            # None is met or missed by design: what is rewarded costs nothing to compute.
            "objectives": {"ttft_s": 10.0, "tpot_s": 0.1},
            "requests": requests,
            "max_running": concurrent,
        },
    }
    return parse_scenario(data, "throughput: full machine")
