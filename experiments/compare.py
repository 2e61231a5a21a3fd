"""Compare entries on the same instances: `python -m experiments.compare --help`.

An entry is a policy on a system, such as papi/threshold; a learned policy is named by its folder, as in
papi/runs/mine/best (papi//tmp/mine/best where the folder's path is absolute). Every entry plays every scenario at
every batch size and speculation length on the same seeds. Printed: end-to-end speed-up over a100-attacc/static,
tokens per second, joules per token, and regret against the oracle of the same system; in Kernels-v0 also
regret by kernel class. Image streams (--env papi_env/Kernels-v0 --scenarios vision-stream) are compared on their
own system, in images per second. Mixtures of experts (--scenarios mixture-of-experts) are dispatched kernel by
kernel on their own system. Serving presets (--env papi_env/Serving-v0) are compared by goodput, as a ratio to
that of papi/threshold, with attainment, latencies and joules per token; those with classes of requests (--env
papi_env/Serving-v1) by G, the worth served within objectives over the worth offered.

Written to the run folder: run.json (what ran), results.csv (a row per instance), summary.json, compare.png. An
interrupted run goes on with `--out` and the same options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

from experiments.arena.comparison import Comparison, Readings
from experiments.arena.settings import grid, has_experts, resolve_scenarios, serving_scenarios
from experiments.common.command import command_line
from experiments.common.conduct import conduct
from experiments.common.options import (
    ALL_CORES,
    DEFAULT,
    Entries,
    OneEnv,
    OnWorkers,
    Out,
    Reading,
    Scenarios,
    Seed,
    Spelling,
    check_counts,
    reading,
    words,
)
from experiments.common.problems import SERVED
from papi_env.envs.registration import DECODE, ENV_IDS, KERNELS, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, lookup
from papi_env.scenario import PAPER_SCENARIOS, Scenario, get_scenario
from papi_env.workload.requests import Lengths

SEEDS, SERVING_SEEDS = 50, 8
SERVING_SCENARIOS = ("saturated/llama-65b", "bursty/llama-65b", "drifting/llama-65b")
SERVICE_SCENARIOS = ("overload/llama-65b", "agents/llama-65b", "documents/llama-65b")
# Options that say what a static batch is made of; a serving scenario says that itself.
BATCH_OPTIONS = (
    "requests",
    *(field.name for field in fields(Reading)),
    "category_column",
    "categories",
    "beyond_context",
    "batch_sizes",
    "speculation",
    "acceptance_rate",
)
SPELLINGS = (Spelling("--scenario", "--scenarios"), Spelling("--policy", "--entries", adds=True))


@dataclass(frozen=True, kw_only=True)
class Config(Reading):
    """Compare entries (system/policy) on the same instances.

    Scenarios with images need --env papi_env/Kernels-v0, serving presets papi_env/Serving-v0.

    python -m experiments.compare --entries default my_module:MyPolicy

    python -m experiments.compare --env papi_env/Serving-v0 --entries threshold runs/mine
    """

    entries: Entries = (DEFAULT,)
    """Policies on systems, in the order of the table: a registered policy, a class of your own as MODULE:CLASS, or the
    folder of a learned one. Without SYSTEM/ it plays on papi; where nothing decodes, with mixtures of experts, and in
    Serving-v0 on the scenario's own system. `default` (the default) stands for the policies that the project comes
    with."""
    baseline: Annotated[str | None, words("[SYSTEM/]POLICY")] = None
    """What speed-up and goodput are measured against (default: a100-attacc/static; on the scenario's own system,
    static where nothing decodes and with mixtures of experts, and threshold in Serving-v0)."""
    scenarios: Scenarios = ()
    """Presets by name, or .toml files (default: the paper's three models on its two datasets). In Serving-v0 also a
    family such as "saturated" (default: saturated, bursty and drifting on llama-65b)."""
    requests: Annotated[Path | None, words("FILE")] = None
    """A file of requests, a trace of any form, whose lengths replace those of the scenarios."""
    category_column: Annotated[str | None, words("NAME")] = None
    """Column of categories in --requests."""
    categories: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Categories of --requests to keep (default: all)."""
    beyond_context: Annotated[
        Literal["refuse", "truncate", "extrapolate"] | None, words("refuse|truncate|extrapolate")
    ] = None
    """Leave out requests beyond the model's context, cut their output, or keep them (default: the scenario's)."""
    batch_sizes: Annotated[tuple[int, ...], words("INT ...")] = ()
    """Batch sizes (default: 4 16 64 for presets; a .toml scenario keeps its own)."""
    speculation: Annotated[tuple[int, ...], words("INT ...")] = ()
    """Speculation lengths (default: 1 2 4 for presets; a .toml scenario keeps its own)."""
    acceptance_rate: Annotated[float | None, words("FLOAT")] = None
    """Chance that a drafted token is accepted, 0 to 1 (default: as the scenario says)."""
    env: OneEnv = None
    """The problem to play (default: Decode-v0, and Kernels-v0 where every scenario has a mixture of experts).
    Serving-v0 takes requests and batches from its scenarios, without the options for them."""
    gpu_bandwidth: Annotated[Literal["roofline", "hbm3"] | None, words("roofline|hbm3")] = None
    """Reading of an A100's memory bandwidth: 1935 or 3352 GB/s (default: as the systems say)."""
    bank_rate: Annotated[
        Literal["attacc-limit", "attacc", "papi"] | None, words("attacc-limit|attacc|papi")
    ] = None
    """Reading of a PIM bank's rate: a command every 6, 4 or 2 clocks (default: as the systems say)."""
    constants: Literal["plain", "reproduction"] = "plain"
    """The registered systems as they are, or with what `experiments.reproduce` fitted to published rows."""
    energy_weight: Annotated[float | None, words("FLOAT")] = None
    """Seconds (tokens in Serving-v0) that a joule counts for in the reward (default: as the scenario says)."""
    switch_s: Annotated[float | None, words("SECONDS")] = None
    """Seconds of a mode switch (default: as the scenario says, else the problem)."""
    seed: Seed = 0
    seeds: Annotated[int | None, words("INT")] = None
    """How many seeds (default: 50, in Serving-v0 8)."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


def resolve(config: Config) -> Comparison:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    env = _usual_env(config) if config.env is None else lookup("problem", config.env, {k: k for k in ENV_IDS})
    serving = env in SERVED
    count = (SERVING_SEEDS if serving else SEEDS) if config.seeds is None else config.seeds
    seeds = check_counts(config.seed, count)
    scenarios = _serving(config, env) if serving else _batches(config)
    readings = Readings(config.gpu_bandwidth, config.bank_rate, config.constants)
    return Comparison(env, scenarios, config.entries, config.baseline, seeds, readings)


def _usual_env(config: Config) -> str:
    """The problem that dispatches what the scenarios run."""
    mixtures = bool(config.scenarios) and all(has_experts(get_scenario(name)) for name in config.scenarios)
    return KERNELS if mixtures else DECODE


def _serving(config: Config, env: str) -> list[Scenario]:
    """The scenarios of serving."""
    asked = vars(config)
    given = [f"--{name.replace('_', '-')}" for name in BATCH_OPTIONS if asked[name] not in (None, ())]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)}: not used with {env}, where the scenario says what is requested (a .toml file "
            "takes other arrivals, lengths and acceptance rates) and policies choose batches and speculation"
        )
    usual = SERVICE_SCENARIOS if env == SERVING_V1 else SERVING_SCENARIOS
    return serving_scenarios(config.scenarios or usual, config.energy_weight, config.switch_s, env)


def _batches(config: Config) -> list[Scenario]:
    """The settings of static batches and image encodes."""
    # A dataset's lengths do not matter where a file replaces them: each model once.
    default = PAPER_SCENARIOS if config.requests is None else PAPER_SCENARIOS[:3]
    scenarios = resolve_scenarios(
        config.scenarios or default,
        _requests(config),
        config.beyond_context,
        config.acceptance_rate,
        config.energy_weight,
        config.switch_s,
    )
    for option in ("batch_sizes", "speculation"):
        values = getattr(config, option)
        if len(set(values)) < len(values):
            raise ConfigurationError(f"--{option.replace('_', '-')} names a value twice: {values}")
    for scenario, _ in scenarios:
        if scenario.serving is not None:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} serves requests as they arrive; --env {SERVING} alone plays it"
            )
    return grid(scenarios, config.batch_sizes, config.speculation)


def _requests(config: Config) -> Lengths | None:
    how = reading(config)
    if config.requests is None:
        if config.categories or config.category_column is not None or how:
            raise ConfigurationError("Columns and categories belong to --requests, which is not given")
        return None
    return Lengths(
        trace=str(config.requests),
        category_column=config.category_column,
        categories=config.categories or None,
        **how,
    )


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Run a comparison and write its folder, whose path is returned; see `conduct`."""
    with progress.status("reading scenarios"):
        comparison = resolve(config)
    return conduct(comparison, config.out, config.workers, command, console, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("compare", Config, run, arguments, SPELLINGS, watched=True)


if __name__ == "__main__":
    sys.exit(main())
