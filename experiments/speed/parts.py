"""What `experiments.throughput` measures of the environments themselves, part by part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from experiments.speed.measure import (
    CARTPOLE,
    DECODE,
    KERNELS,
    SERVING,
    SERVING_V1,
    BatchLoop,
    Rates,
    SingleLoop,
    Spread,
    Timed,
    accepts,
    full_batch,
    full_machine,
    measure,
    sampled_batch,
)
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured; `QUICK` tries every path and means nothing."""

    rounds: int = 9
    block_s: float = 0.1
    """Seconds of a block; chosen: a hundred scheduler ticks and more (range 0.02-1)."""
    sizes: tuple[int, ...] = (64, 1024, 4096)
    large: int = 4096
    serving_envs: int = 1024
    concurrent: int = 64
    serving_requests: int = 512
    """Of an episode. Long enough that no machine drains while it is measured."""
    fill_steps: int = 400
    """Steps until a serving machine is full, before it is forked."""
    evaluated_envs: int = 64
    crowds: tuple[tuple[int, int], ...] = ((64, 64), (64, 512), (256, 512))
    """Requests that run and wait on machines whose steps are taken apart."""
    crowded_envs: int = 256
    crowded_presets: tuple[str, ...] = ("overload/llama-65b", "agents/llama-65b")
    crowded_instances: int = 8
    crowded_steps: int = 2000
    """Of presets: about as far as many come and wait."""
    replayed_requests: int = 19_366
    """Of a replay without a file; an hour of Azure's conversation trace has so many."""
    run_requests: int = 300
    """Of a serving run: as many as those that LLMServingSim 2.0 publishes."""
    sweep_requests: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    sweep_tlp: tuple[int, ...] = (1, 2, 4, 8)
    sweep_sizes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
    sweep_envs: int = 1024
    """Environments of the sweeps over requests and TLP."""
    spread_calls: int = 800
    cold: bool = True
    """Whether to compile with an empty cache."""


QUICK = Effort(
    rounds=3,
    block_s=0.004,
    sizes=(16,),
    large=16,
    serving_envs=4,
    concurrent=8,
    serving_requests=64,
    fill_steps=20,
    evaluated_envs=2,
    crowds=((4, 8),),
    crowded_envs=2,
    crowded_presets=("agents/llama-65b",),
    crowded_instances=1,
    crowded_steps=8,
    replayed_requests=8,
    run_requests=4,
    sweep_requests=(4, 16),
    sweep_tlp=(1, 4),
    sweep_sizes=(1, 16),
    sweep_envs=16,
    spread_calls=8,
    cold=False,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured quantity: median and quartiles; where it has a reference, ratios taken within rounds.

    Attributes:
        part, name: what it is; `variant` tells rows of a name apart.
        envs, requests, tlp: the size of what was stepped, None where it has none.
        unit: of value, low and high.
        reference, ratio, ratio_low, ratio_high: over which rates, and how much.
        decoding: mean requests that decoded in an environment while it was measured.
        cpu_share: of the wall time, in which the process ran; well below 1, others had the core too. None where
            it was not asked, or wall time is what was measured.
    """

    part: str
    name: str
    variant: str = ""
    envs: int | None = None
    requests: int | None = None
    tlp: int | None = None
    unit: str = "steps/s"
    value: float
    low: float
    high: float
    reference: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    decoding: float | None = None
    cpu_share: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio that is reported by name: median and quartiles, or None with the reason in `note`.

    `at_least`: what it is over or under was cut off, and the true ratio is larger.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    at_least: bool = False

    @classmethod
    def of(cls, values: FloatArray, note: str = "") -> Ratio:
        """Of ratios [rounds]."""
        spread = Spread.of(values)
        return cls(spread.value, spread.low, spread.high, note)


@dataclass
class Findings:
    """What parts found, in the order in which it was found; `curves` are learning curves by setting."""

    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    curves: dict[str, list[list[dict[str, float]]]] = field(default_factory=dict)

    def add(
        self, part: str, name: str, rates: Rates, beside: Rates | None = None, /, **about: Any
    ) -> FloatArray:
        """A row of steps per second, beside other rates of the same rounds; returns ratios [rounds].

        Without those the ratios are NaN. `about` holds further fields of `Row`.
        """
        spread = Spread.of(rates.steps_per_s)
        ratios = np.full(len(rates.steps_per_s), np.nan)
        if beside is not None:
            ratios = rates.steps_per_s / beside.steps_per_s
            ratio = Spread.of(ratios)
            about = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high, **about}
        self.rows.append(
            Row(
                part=part,
                name=name,
                value=spread.value,
                low=spread.low,
                high=spread.high,
                decoding=rates.probed,
                cpu_share=rates.cpu_share,
                **about,
            )
        )
        return ratios

    def add_values(
        self, part: str, name: str, unit: str, values: Sequence[float] | FloatArray, /, **about: Any
    ) -> None:
        """A row of something else than a rate."""
        spread = Spread.of(np.asarray(values, dtype=float))
        self.rows.append(
            Row(
                part=part, name=name, unit=unit, value=spread.value, low=spread.low, high=spread.high, **about
            )
        )


Say = Callable[[str], None]


def single(found: Findings, effort: Effort, say: Say) -> None:
    """Every id through `make` with its defaults, beside CartPole."""
    loops = {env_id: SingleLoop(env_id) for env_id in (CARTPOLE, DECODE, KERNELS, SERVING)}
    say("single environments")
    rates = measure([loop.timed(name) for name, loop in loops.items()], effort.rounds, effort.block_s)
    found.add("single", CARTPOLE, rates[CARTPOLE], envs=1)
    for env_id in (DECODE, KERNELS, SERVING):
        ratios = found.add("single", env_id, rates[env_id], rates[CARTPOLE], envs=1, reference=CARTPOLE)
        if env_id == DECODE:
            found.ratios["ratio_decode_single"] = Ratio.of(ratios)


def batch(found: Findings, effort: Effort, say: Say) -> None:
    """Batches of each problem, copying and not, beside the vector version of CartPole; bytes of state."""
    for num_envs in sorted({*effort.sizes, effort.large, effort.serving_envs}):
        for name, loop, about in _batches(num_envs, effort):
            say(f"{name}, {num_envs} environments{', ' + about['variant'] if about['variant'] else ''}")
            _against_cartpole(found, effort, name, loop, num_envs, about)
            loop.close()


def _batches(num_envs: int, effort: Effort) -> Any:
    """The batches to measure, one alive at a time: (id, loop, what it is)."""
    calls = effort.spread_calls
    if num_envs in effort.sizes or num_envs == effort.large:
        for name, tlp in ((DECODE, 1), (DECODE, 4), (KERNELS, 1)):
            about = {"variant": "", "requests": 16, "tlp": tlp}
            yield name, BatchLoop(name, num_envs, **sampled_batch(16, tlp)).spread(-(-calls // tlp)), about
        about = {"variant": "all decode", "requests": 16, "tlp": 1}
        yield DECODE, BatchLoop(DECODE, num_envs, **full_batch(16, 1)), about
    if num_envs in effort.sizes or num_envs == effort.serving_envs:
        scenario = full_machine(effort.concurrent, effort.serving_requests)
        about = {"variant": "full machine", "requests": effort.concurrent}
        # Who is served is left alone: where waiters are dropped at random, no machine stays full.
        for name in (SERVING, SERVING_V1):
            yield name, BatchLoop(name, num_envs, choices=len(at.NVEC), scenario=scenario).fill(), about


# The batch ratios by (id, environments as `Effort` names them, variant, TLP).
_NAMED = {
    (DECODE, "large", "", 1): "ratio_decode_batch",
    (DECODE, "large", "", 4): "ratio_decode_batch_tlp4",
    (DECODE, "large", "all decode", 1): "ratio_decode_batch_full",
    (KERNELS, "large", "", 1): "ratio_kernels_batch",
    (SERVING, "serving_envs", "full machine", None): "ratio_serving_v0_batch",
    (SERVING_V1, "serving_envs", "full machine", None): "ratio_serving_batch",
}


def _against_cartpole(
    found: Findings, effort: Effort, name: str, loop: BatchLoop, num_envs: int, about: Mapping[str, Any]
) -> None:
    cartpole = BatchLoop(CARTPOLE, num_envs)
    timed = [
        loop.timed("copy", copy=True),
        cartpole.timed(CARTPOLE),
        loop.timed("view", copy=False),
        loop.timed_engine("engine"),
    ]
    rates = measure(timed, effort.rounds, effort.block_s)
    variant = about["variant"]
    found.add("batch", CARTPOLE, rates[CARTPOLE], envs=num_envs, variant=f"beside {name} {variant}".strip())
    for kind, words in (("copy", "copying"), ("view", "copy=False"), ("engine", "engine alone")):
        described = {**about, "variant": f"{variant}, {words}" if variant else words}
        ratios = found.add(
            "batch", name, rates[kind], rates[CARTPOLE], envs=num_envs, reference=CARTPOLE, **described
        )
        for (known, size, its_variant, tlp), ratio_name in _NAMED.items():
            if (known, its_variant, tlp) != (name, variant, about.get("tlp")):
                continue
            if kind != "engine" and num_envs == getattr(effort, size):
                decoding = rates[kind].probed
                note = f"{num_envs} environments, {decoding:.1f} of {about['requests']} requests decoding"
                suffix = "" if kind == "copy" else "_view"
                found.ratios[ratio_name + suffix] = Ratio.of(ratios, note)
    unit = "bytes of state"
    if not any((row.name, row.unit) == (name, unit) for row in found.rows):
        # However many there are, each takes the same.
        found.add_values("batch", name, unit, [loop.state_bytes], requests=about["requests"], envs=1)
    cartpole.close()


def adapter(found: Findings, effort: Effort, say: Say) -> None:
    """SB3's adapter around a batch, beside the batch without it."""
    from papi_env.sb3 import BatchVecEnv

    for num_envs in effort.sizes:
        say(f"SB3's adapter, {num_envs} environments")
        arguments = sampled_batch(16, 1)
        mode = AutoresetMode.SAME_STEP
        bare, inner = (
            BatchLoop(DECODE, num_envs, autoreset_mode=mode, copy=False, **arguments).spread(
                effort.spread_calls
            )
            for _ in range(2)
        )
        wrapped = BatchVecEnv(inner.env)
        actions, at = inner.actions, iter(range(1 << 62))

        def call(envs: Any = wrapped, actions: Any = actions, at: Any = at) -> None:
            envs.step(actions[next(at) % len(actions)])

        rates = measure(
            [bare.timed("bare", copy=False), Timed("adapter", call, num_envs)], effort.rounds, effort.block_s
        )
        about = {"envs": num_envs, "requests": 16, "tlp": 1}
        found.add("adapter", DECODE, rates["bare"], variant="without the adapter", **about)
        found.add(
            "adapter", DECODE, rates["adapter"], rates["bare"], variant="adapter", reference="bare", **about
        )
        bare.close()
        wrapped.close()


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(found: Findings, effort: Effort, say: Say, count: int = 2) -> None:
    """So many threads over one; not pinned."""
    cores = usable_cores()
    missing = ""
    if not accepts(DECODE, "threads"):
        missing = "the vector environment has no argument 'threads'"
    elif cores < count:
        missing = "this process may use one core only"
    if missing:
        found.ratios["ratio_threads"] = Ratio(None, note=missing)
        return
    say(f"one and {count} threads, {effort.large} environments")
    loops = {
        each: BatchLoop(DECODE, effort.large, threads=each, **sampled_batch(16, 1)).spread(
            effort.spread_calls
        )
        for each in (1, count)
    }
    timed = [loop.timed(str(each), copy=False) for each, loop in loops.items()]
    # Two threads take twice the processor's seconds.
    rates = measure(timed, effort.rounds, effort.block_s, clock=time.perf_counter)
    about = {"envs": effort.large, "requests": 16, "tlp": 1}
    found.add("threads", DECODE, rates["1"], variant="1 thread", **about)
    ratios = found.add(
        "threads",
        DECODE,
        rates[str(count)],
        rates["1"],
        variant=f"{count} threads",
        reference="1 thread",
        **about,
    )
    note = f"{effort.large} environments, {count} threads, {cores} cores"
    found.ratios["ratio_threads"] = Ratio.of(ratios, note)


def sweeps(found: Findings, effort: Effort, say: Say) -> None:
    """How steps per second fall with requests, TLP and environments; without copies."""
    points = [
        *(("requests", effort.sweep_envs, requests, 1) for requests in effort.sweep_requests),
        *(("tlp", effort.sweep_envs, 16, tlp) for tlp in effort.sweep_tlp),
        *(("envs", envs, 16, 1) for envs in effort.sweep_sizes),
    ]
    for over, envs, requests, tlp in points:
        say(f"sweep over {over}: {envs} environments, {requests} requests, TLP {tlp}")
        calls = -(-effort.spread_calls // tlp)
        timed = [BatchLoop(DECODE, envs, **sampled_batch(requests, tlp)).spread(calls).timed("", copy=False)]
        if over == "envs":
            timed.append(BatchLoop(CARTPOLE, envs).timed(CARTPOLE))
        else:
            timed.append(BatchLoop(DECODE, envs, **full_batch(requests, tlp)).timed("all decode", copy=False))
        rates = measure(timed, effort.rounds, effort.block_s)
        about = {"envs": envs, "requests": requests, "tlp": tlp}
        part = f"sweep-{over}"
        if over == "envs":
            found.add(part, CARTPOLE, rates[CARTPOLE], envs=envs)
            found.add(part, DECODE, rates[""], rates[CARTPOLE], reference=CARTPOLE, **about)
        else:
            found.add(part, DECODE, rates[""], **about)
            found.add(part, DECODE, rates["all decode"], variant="all decode", **about)
