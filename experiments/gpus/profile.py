"""Measuring the FC kernels of models on a GPU, for `papi_env.hardware.measured`: what is run, how often, and the file.

What runs a kernel is a `Runner`; nothing here knows torch. One launch is too short for a clock, and weights that
stay in the cache are no decoder's. So each shape has several copies of its weights, more than the cache holds, and
a round launches each copy once. A span is as many rounds as the clock needs; the median over spans, divided by
the launches of one, is the time of a kernel.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from papi_env.errors import ConfigurationError
from papi_env.hardware.measured import COLUMNS, MAX_SIZE, gap, launch_shape, launch_shapes, parse_measured
from papi_env.kernel import FP16_BYTES
from papi_env.workload.transformer import Transformer

MAX_PARALLEL = 4096
# Powers of two, then four and more steps to each: tiles and waves make times uneven from 16 rows on.
ROWS = (
    *(1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096),
)
# Rows of weights start at multiples of 16 B. Libraries fall back on slow kernels where they do not, which no
# model that was split for speed would run.
ALIGNED = 16 // FP16_BYTES
# The copies of a shape's weights take at least so many times the cache: twice evicts all in order of use, once
# more is for caches that evict in another order.
CACHE_FACTOR = 3
# A span is so long that the clock's resolution is this share of it at most.
RESOLUTION_SHARE = 0.005
MAX_ROUNDS = 2**16


class LaunchShape(NamedTuple):
    """One GPU's share of an FC kernel."""

    outputs: int
    inputs: int

    @property
    def aligned(self) -> LaunchShape:
        """The shape as it is run: both sizes rounded up to whole 16 B."""
        return LaunchShape(*(-(-size // ALIGNED) * ALIGNED for size in self))

    @property
    def weight_bytes(self) -> int:
        """FP16 bytes of one copy of the weights as they are run."""
        return self.aligned.outputs * self.aligned.inputs * FP16_BYTES


class Measurement(NamedTuple):
    """A line of the file."""

    outputs: int
    inputs: int
    rows: int
    seconds: float


class Runner(Protocol):
    """A GPU that runs FC kernels and times them."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of the last cache before memory."""

    @property
    def resolution_s(self) -> float:
        """Seconds that the clock can tell apart."""

    def load(self, shape: LaunchShape, copies: int) -> None:
        """Make that many copies of a kernel's weights, in place of those there are."""

    def prepare(self, rows: int) -> None:
        """Make inputs of so many rows, and all else that is not to be timed."""

    def span_s(self, rounds: int) -> float:
        """Seconds of so many rounds, each a launch with every copy of the weights in turn."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Raises:
        ConfigurationError: a value outside its range, or rows with a gap.
    """

    models: Sequence[Transformer]
    tensor_parallel: Sequence[int]
    rows: Sequence[int] = ROWS
    repeats: int = 20
    warmup: int = 5

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigurationError("--models names none, expected at least one model")
        if not self.tensor_parallel:
            raise ConfigurationError("--tensor-parallel names none, expected at least one number of GPUs")
        for option, values, low, high in (
            ("--tensor-parallel", self.tensor_parallel, 1, MAX_PARALLEL),
            ("--rows", self.rows, 1, MAX_SIZE),
            ("--repeats", (self.repeats,), 1, 10**6),
            ("--warmup", (self.warmup,), 0, 10**6),
        ):
            for value in values:
                if not low <= value <= high:
                    raise ConfigurationError(
                        f"{option} has {value}, expected a whole number from {low} to {high}"
                    )
        wrong = gap(self.counts)
        if wrong is not None:
            raise ConfigurationError(f"--rows: found {wrong[1]}")

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of rows in order, each once."""
        return tuple(sorted(set(self.rows)))

    def shapes(self) -> tuple[LaunchShape, ...]:
        """All shapes in order of execution, each once."""
        return tuple(
            dict.fromkeys(
                LaunchShape(*shape)
                for model in self.models
                for gpus in self.tensor_parallel
                for shape in (*launch_shapes(model.fc_kernels(), gpus), *_heads(model, gpus))
            )
        )


def _heads(model: Transformer, gpus: int) -> tuple[tuple[int, int], ...]:
    """The launch of a model's LM head, if that is on."""
    head = model.lm_head_kernel()
    return () if head is None else (launch_shape(head, gpus),)


def cold_copies(weight_bytes: int, cache_bytes: int) -> int:
    """How many copies of the weights make every launch read its own from memory; at least two."""
    return max(2, -(-CACHE_FACTOR * cache_bytes // weight_bytes))


def rounds_of_span(runner: Runner) -> int:
    """Rounds that make a span long enough for the clock, by doubling.

    Raises:
        ConfigurationError: the clock stands still.
    """
    rounds = 1
    while runner.span_s(rounds) * RESOLUTION_SHARE < runner.resolution_s:
        rounds *= 2
        if rounds > MAX_ROUNDS:
            raise ConfigurationError(
                f"{MAX_ROUNDS} rounds of launches are too short for a clock of {runner.resolution_s:g} s"
            )
    return rounds


def measure(
    runner: Runner, plan: Plan, report: Callable[[str], object] = lambda line: None
) -> list[Measurement]:
    """Measure all shapes and rows of a plan; `report` is told a line for each shape.

    Raises:
        ConfigurationError: the GPU cannot run or time a kernel.
    """
    found: list[Measurement] = []
    shapes = plan.shapes()
    for done, shape in enumerate(shapes, start=1):
        copies = cold_copies(shape.weight_bytes, runner.cache_bytes)
        runner.load(shape, copies)
        for rows in plan.counts:
            runner.prepare(rows)
            # Clocks of the GPU rise, and libraries choose their kernels.
            if plan.warmup:
                runner.span_s(plan.warmup)
            rounds = rounds_of_span(runner)
            spans = [runner.span_s(rounds) for _ in range(plan.repeats)]
            found.append(Measurement(*shape, rows, statistics.median(spans) / (rounds * copies)))
        first, last = (found[k].seconds * 1e6 for k in (-len(plan.counts), -1))
        report(
            f"{done} of {len(shapes)}: {shape.outputs} outputs x {shape.inputs} inputs, {copies} copies: "
            f"{first:.1f} us with {plan.counts[0]} rows, {last:.1f} us with {plan.counts[-1]}"
        )
    return found


def file_text(measurements: Iterable[Measurement], provenance: Mapping[str, str], path: Path) -> str:
    """The file that `papi_env.hardware.measured` reads; `path` is what messages call it.

    Raises:
        DataError: the measurements are nothing that it would read.
    """
    # A line each, whatever a driver calls its GPU.
    lines = [f"# {name}: {' '.join(value.split())}" for name, value in provenance.items()]
    lines.append(",".join(COLUMNS))
    for one in measurements:
        # The shortest form with nine digits; clocks have fewer.
        lines.append(f"{one.outputs},{one.inputs},{one.rows},{one.seconds:.9g}")
    text = "\n".join(lines) + "\n"
    parse_measured(text, path)
    return text


def conditions(plan: Plan, command: str) -> dict[str, str]:
    """How a plan was measured, for the file's comments."""
    return {
        "command": command,
        "models": ", ".join(model.name for model in plan.models),
        "tensor_parallel": ", ".join(map(str, plan.tensor_parallel)),
        "seconds": f"median of {plan.repeats} spans of back-to-back launches, FP16, weights from memory",
        "sizes": f"run rounded up to multiples of {ALIGNED}, listed as they are split",
    }
