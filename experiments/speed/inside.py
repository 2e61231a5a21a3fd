"""What `experiments.throughput` measures of policies inside the compiled loop: forks, and whole evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.rules import CompiledRule, compiled_rule
from experiments.speed.measure import SERVING, SERVING_V1, Rates, full_machine
from experiments.speed.parts import Effort, Findings, Ratio, Say
from papi_env.envs.serving import ServingVectorEnv
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.rollout import roll

# The cheapest of the compiled policies: with it copies weigh most.
FORK_POLICY = "threshold"
EVALUATED = "profile-greedy"
# About the load of one class: what differs is who is served.
THREE_CLASSES = {
    "people": {"weight": 2.0, "patience_s": (50.0, 60.0)},
    "batch": {},
    "chat": {"conversation": {"turns": 1.01, "think_s": 5.0}},
}
# chosen: the fewest that the ratio of forks is defined for; a planner that plays to the end takes thousands.
FORK_STEPS = 200


@dataclass(frozen=True)
class Prepared:
    """A long call to time, and what makes ready for it without being timed; the call returns its steps."""

    name: str
    prepare: Callable[[], object]
    call: Callable[[], int]


def measure_prepared(timed: Sequence[Prepared], rounds: int) -> dict[str, Rates]:
    """Steps per second of everything in `timed`, a call of each in turn, in the opposite order in every other round.

    As in `measure.measure` the seconds are the processor's; the first calls, which may compile, do not count.
    """
    rates = np.empty((len(timed), rounds))
    seconds = np.zeros((len(timed), 2))
    for r in range(-1, rounds):
        for i in range(len(timed))[:: 1 if r % 2 == 0 else -1]:
            timed[i].prepare()
            passed, start = time.perf_counter(), time.process_time()
            steps = timed[i].call()
            took, passed = time.process_time() - start, time.perf_counter() - passed
            if r >= 0:
                rates[i, r] = steps / took
                seconds[i] += took, passed
    return {
        each.name: Rates(rates[i], float(seconds[i, 0] / seconds[i, 1]), None) for i, each in enumerate(timed)
    }


def inside(found: Findings, effort: Effort, say: Say) -> None:
    """Forks beside plain environments, steps with classes beside plain ones, evaluations inside and through Python."""
    say(f"{effort.serving_envs} forks")
    forks(found, effort)
    say("steps with classes of requests")
    for share, suffix in ((False, ""), (True, "_conversations")):
        found.ratios[f"ratio_v1{suffix}"] = with_classes(found, effort, share)
    for num_envs, suffix in ((1, ""), (effort.evaluated_envs, "_64")):
        say(f"whole evaluations, {num_envs} environments")
        ratios = evaluations(found, effort, num_envs)
        found.ratios[f"ratio_policy_inside{suffix}"] = ratios


def forks(found: Findings, effort: Effort) -> None:
    """`FORK_STEPS` steps of so many copies of one full machine, copying included, and of as many plain ones.

    Besides what a copy alone takes: nanoseconds, into memory that an earlier one took, and bytes.
    """
    count = effort.serving_envs
    env = ServingVectorEnv(
        full_machine(effort.concurrent, effort.serving_requests),
        num_envs=count,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    rule = _bound(env)
    env.reset(seed=0)
    engine = env.engine
    memory = np.zeros((count, NUM_MEMORY))
    policy = rule.compiled(memory)[:]
    roll(engine, play_range, policy, steps=effort.fill_steps)
    begin = [array.copy() for array in engine.state]
    seen = engine.observations.copy()
    scratch = engine.fork(0, count)

    def restore() -> None:
        for name, then in zip(ServingState._fields, begin, strict=True):
            getattr(engine.state, name)[:] = then
        engine.observations[:] = seen

    def plain() -> int:
        return int(roll(engine, play_range, policy, steps=FORK_STEPS).steps.sum())

    def forked() -> int:
        twin: ServingEngine = engine.fork(0, count, scratch)
        return int(roll(twin, play_range, policy, steps=FORK_STEPS).steps.sum())

    def copied() -> int:
        engine.fork(0, count, scratch)
        return count

    timed = [
        Prepared("plain", restore, plain),
        Prepared("forks", restore, forked),
        Prepared("copies", restore, copied),
    ]
    rates = measure_prepared(timed, effort.rounds)
    decoding = float(engine.counters[:, at.RLP].mean())
    about = {"envs": count, "requests": effort.concurrent}
    found.add("inside", SERVING, rates["plain"], variant=f"{FORK_POLICY} inside", **about)
    ratios = found.add(
        "inside",
        SERVING,
        rates["forks"],
        rates["plain"],
        variant=f"{FORK_POLICY} inside, forks",
        reference="plain",
        **about,
    )
    found.add_values("inside", SERVING, "ns of a fork", 1e9 / rates["copies"].steps_per_s, **about)
    found.add_values("inside", SERVING, "bytes of a fork", [float(engine.state_bytes_per_env)], **about)
    note = (
        f"{FORK_STEPS} steps of {count} copies of {engine.state_bytes_per_env / 1024:.0f} KiB under {FORK_POLICY}, "
        f"{decoding:.1f} of {effort.concurrent} requests decoding"
    )
    found.ratios["ratio_fork"] = Ratio.of(ratios, note)


def evaluations(found: Findings, effort: Effort, num_envs: int) -> Ratio:
    """Episodes of the default scenario, one in each environment, from their reset to their metrics."""
    env = ServingVectorEnv(num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)
    seeds = range(num_envs)

    def play(inside: bool) -> int:
        metrics = evaluate(make_policy(EVALUATED), env, seeds, inside=inside)
        return int(metrics["iterations"].sum())

    def nothing() -> None:
        pass

    timed = [
        Prepared("python", nothing, lambda: play(False)),
        Prepared("inside", nothing, lambda: play(True)),
    ]
    rates = measure_prepared(timed, effort.rounds)
    found.add("inside", SERVING, rates["python"], variant=f"{EVALUATED} through Python", envs=num_envs)
    ratios = found.add(
        "inside",
        SERVING,
        rates["inside"],
        rates["python"],
        variant=f"{EVALUATED} inside",
        reference="through Python",
        envs=num_envs,
    )
    return Ratio.of(ratios, f"{env.scenario.name}, {num_envs} environments; decisions are compiled in both")


def with_classes(found: Findings, effort: Effort, conversations: bool) -> Ratio:
    """Steps of Serving-v1 over those of Serving-v0 at equal load: the default scenario, everybody admitted.

    On Serving-v1 as the one class that makes it Serving-v0, or as three with weights, patience and, for one in a
    hundred, another turn.
    """
    count = effort.evaluated_envs
    plain = ServingVectorEnv(num_envs=count, autoreset_mode=AutoresetMode.DISABLED)
    serving = {"service": {"classes": THREE_CLASSES, "drain": False}} if conversations else None
    richer = ServingV1VectorEnv(plain.scenario, num_envs=count, serving=serving, autoreset_mode="Disabled")

    def steps(env: ServingVectorEnv | ServingV1VectorEnv) -> int:
        for _ in range(effort.fill_steps):
            env.engine.advance()
        return int(env.engine.counters[:, at.ITERATION].sum())

    def begin(env: ServingVectorEnv | ServingV1VectorEnv) -> None:
        env.reset(seed=0)
        env.engine.actions[:] = 0
        env.engine.actions[:, at.ADMISSION] = at.ALL

    timed = [
        Prepared(name, partial(begin, env), partial(steps, env))
        for name, env in (("v0", plain), ("v1", richer))
    ]
    rates = measure_prepared(timed, effort.rounds)
    variant = "three classes" if conversations else "one class"
    found.add("inside", SERVING, rates["v0"], variant=f"beside {variant}", envs=count)
    ratios = found.add(
        "inside",
        SERVING_V1,
        rates["v1"],
        rates["v0"],
        variant=variant,
        reference="Serving-v0 at equal load",
        envs=count,
    )
    return Ratio.of(ratios, f"{plain.scenario.name}, {count} environments, {variant}")


def _bound(env: ServingVectorEnv) -> CompiledRule:
    policy = make_policy(FORK_POLICY)
    policy.bind(env)  # type: ignore[attr-defined]
    rule = compiled_rule(policy)
    assert rule is not None
    return rule
