"""What `experiments.throughput` measures of machines on which many run and wait: a step by what is asked of it.

And iterations of presets whose queues, conversations and pages are what rules decide about.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from gymnasium.vector import AutoresetMode

from agents.registry import make_policy
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.rules import compiled_rule
from experiments.speed.inside import Prepared, measure_prepared
from experiments.speed.measure import SERVING_V1, full_machine
from experiments.speed.parts import Effort, Findings, Say
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll

# Choices of a step other than those that Serving-v0 has fixed, with nobody admitted.
ASKED: Mapping[str, Mapping[int, int]] = {
    "nobody admitted": {},
    "speculation 8": {at.SPECULATION: 3},
    "late ones shed": {at.SHEDDING: at.SHED_LATE},
    "one by arrival": {at.ADMISSION: at.ONE},
    "one by deadline": {at.ADMISSION: at.ONE, at.ORDER: at.BY_DEADLINE},
    "one by prompt": {at.ADMISSION: at.ONE, at.ORDER: at.BY_PROMPT},
    "one by weight per work": {at.ADMISSION: at.ONE, at.ORDER: at.BY_WEIGHT},
}
# Nobody is late by any of them, so that who is looked at stays.
_CLASSES = {
    "people": {"weight": 2.0, "objectives": {"ttft_s": 1e4, "tpot_s": 0.1}},
    "batch": {"objectives": {"ttft_s": 2e4, "tpot_s": 0.2}},
    "chat": {"conversation": {"turns": 3.0, "think_s": 5.0}, "objectives": {"ttft_s": 1e4, "tpot_s": 0.1}},
}
# chosen: more than these machines serve, so that their queues fill (range 30-200).
_RATE_PER_S = 60.0
# chosen: how many of those that run may be in prefill when a machine counts as full (range 4-16).
_PREFILLING = 8
POLICY = "slack-aware"


def crowded(found: Findings, effort: Effort, say: Say) -> None:
    """Steps of copies of one machine by what is asked of them, copies themselves, and presets under `POLICY`."""
    for running, waiting in effort.crowds:
        say(f"{running} running, {waiting} waiting")
        _machine(found, effort, running, waiting)
    for preset in effort.crowded_presets:
        say(f"{POLICY} on {preset}")
        _preset(found, effort, preset)


def crowded_machine(running: int, waiting: int) -> Scenario:
    """`full_machine` with three classes, with room for one more than so many; more come than are served.

    Prompts are short and answers long, so that prefill keeps up with so many.
    """
    serving = {
        "service": {"classes": _CLASSES, "max_waiting": waiting + 64, "max_open": 512},
        "arrivals": {"process": "poisson", "rate_per_s": _RATE_PER_S},
        "lengths": {"input": 100, "output": 600},
    }
    return full_machine(running + 1, 1_000_000).replace(serving=serving)


def _machine(found: Findings, effort: Effort, running: int, waiting: int) -> None:
    env = ServingV1VectorEnv(crowded_machine(running, waiting), autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    engine, counters = env.engine, env.engine.counters[0]
    engine.actions[:] = 0
    while counters[at.QUEUED] < waiting or counters[at.RLP] < running - _PREFILLING:
        busy = counters[at.RLP] + counters[at.PREFILLING]
        engine.actions[:, at.ADMISSION] = at.ONE if busy < running else at.NONE
        # Who waits beyond those is not to be refused.
        engine.actions[:, at.SHEDDING] = at.SHED_CLASS if counters[at.QUEUED] > waiting + 32 else at.SHED_NONE
        engine.advance()
    scratch = engine.fork(0, effort.crowded_envs)

    def forked() -> ServingEngine:
        return engine.fork(0, effort.crowded_envs, scratch)

    twins: list[ServingEngine] = []

    def ask(choices: Mapping[int, int]) -> None:
        twins[:] = [forked()]
        for choice, option in choices.items():
            twins[0].actions[:, choice] = option

    def step() -> int:
        twins[0].advance()
        return effort.crowded_envs

    def copied() -> int:
        return forked().num_envs

    timed = [Prepared(name, partial(ask, choices), step) for name, choices in ASKED.items()]
    rates = measure_prepared([*timed, Prepared("copies", lambda: None, copied)], effort.rounds)
    about = {"envs": effort.crowded_envs, "requests": int(counters[at.RLP] + counters[at.PREFILLING])}
    queued = int(counters[at.QUEUED])
    for name in ASKED:
        variant = f"{queued} waiting, {name}"
        found.add_values(
            "crowded", SERVING_V1, "ns of a step", 1e9 / rates[name].steps_per_s, variant=variant, **about
        )
    variant = f"{queued} waiting"
    found.add_values(
        "crowded", SERVING_V1, "ns of a fork", 1e9 / rates["copies"].steps_per_s, variant=variant, **about
    )
    size = forked().copied_bytes / effort.crowded_envs
    found.add_values("crowded", SERVING_V1, "bytes of a fork", [size], variant=variant, **about)
    whole = float(engine.state_bytes_per_env)
    found.add_values("crowded", SERVING_V1, "bytes of state", [whole], variant=variant, **about)


def _preset(found: Findings, effort: Effort, preset: str) -> None:
    count = effort.crowded_instances
    env = ServingV1VectorEnv(preset, num_envs=count, autoreset_mode=AutoresetMode.DISABLED)
    policy = make_policy(POLICY)
    policy.bind(env)  # type: ignore[attr-defined]
    rule = compiled_rule(policy)
    assert rule is not None

    def play() -> int:
        compiled = rule.compiled(np.zeros((count, NUM_MEMORY)))
        return int(roll(env.engine, play_range, compiled[:], steps=effort.crowded_steps).steps.sum())

    rates = measure_prepared([Prepared(preset, lambda: env.reset(seed=0), play)], effort.rounds)
    found.add("crowded", SERVING_V1, rates[preset], variant=f"{POLICY} inside, {preset}", envs=count)
