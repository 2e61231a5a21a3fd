"""Search the parameters of the serving heuristic on training seeds, with a stated budget, by family of presets.

python -m experiments.tune_heuristic --write

The search is Optuna's tree-structured Parzen estimator (Akiba et al., KDD 2019; Bergstra et al., NIPS 2011),
started from the hand-made guess. Its score is the return per request that arrived, averaged over the family's
models and the training seeds. A study is kept in the run folder trial by trial, so that one interrupted goes
on. `--write` puts the parameters where the policy `heuristic` finds them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import tyro
from gymnasium.vector import AutoresetMode
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import papi_env
from agents.evaluate import evaluate
from agents.serving_heuristic import PARAMETER_FILE, RANGES, Parameters, ServingHeuristic, as_table
from experiments.command import exit_status, output
from experiments.runner import RUNS, canonical, digest, write_whole
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario, get_scenario

DEFAULT = "default"
# Evaluations use seeds from 0 on; training starts far from them.
TRAINING_SEED = 1_000_000


@dataclass(frozen=True)
class Arguments:
    """Tune the heuristic of Serving-v0."""

    families: tuple[str, ...] = (
        "light",
        "saturated",
        "bursty",
        "long-context",
        "short-context",
        "energy-priced",
        "tight-objectives",
        "drifting",
    )
    """Families of presets, each tuned by itself; a preset's name is family/model."""

    models: tuple[str, ...] = ("llama-65b", "gpt3-175b", "llama2-70b")
    """Models whose presets are averaged."""

    trials: int = 40
    """Parameter sets tried for each family."""

    seeds: int = 2
    """Training episodes of every preset in a trial."""

    seed: int = TRAINING_SEED
    """First training seed; the search itself is seeded with it too."""

    default: bool = True
    """Also tune one set over all the families, for scenarios that belong to none."""

    horizon_s: float | None = None
    """Simulated seconds of an episode; by default the preset's."""

    out: Path = RUNS / "tune-heuristic"
    """Run folder; a study found there goes on."""

    write: bool = False
    """Store the parameters beside the policy."""


def score(
    parameters: Parameters, envs: Sequence[ServingVectorEnv], seeds: Sequence[int]
) -> tuple[float, int]:
    """Mean return per request that arrived, and how many requests were simulated."""
    values, requests = [], 0
    for env in envs:
        metrics = evaluate(ServingHeuristic(parameters), env, seeds)
        values.append(float(np.mean(metrics["return"] / np.maximum(metrics["arrived"], 1))))
        requests += int(metrics["arrived"].sum())
    return float(np.mean(values)), requests


def tune(name: str, scenarios: Sequence[Scenario], arguments: Arguments) -> dict[str, Any]:
    """Search one set of parameters; what is stored for it.

    Raises:
        ConfigurationError: the run folder holds a study of other scenarios, seeds or guess.
    """
    asked = {
        "scenarios": {
            scenario.name: digest(canonical(scenario.model_dump(mode="json")))[:12] for scenario in scenarios
        },
        "training_seeds": [arguments.seed, arguments.seed + arguments.seeds - 1],
        "horizon_s": arguments.horizon_s,
        "guess": as_table(Parameters()),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(arguments.out / f"{name}.journal")))
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", asked)
        study.enqueue_trial(as_table(Parameters()))
    elif known != asked:
        raise ConfigurationError(
            f"{arguments.out / (name + '.journal')}: holds a study of {known}, asked for {asked}; "
            "expected another --out"
        )
    complete = (optuna.trial.TrialState.COMPLETE,)
    done = len(study.get_trials(deepcopy=False, states=complete))
    study.sampler = optuna.samplers.TPESampler(seed=arguments.seed + done)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    envs = [
        ServingVectorEnv(scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
        for scenario in scenarios
    ]

    def objective(trial: optuna.Trial) -> float:
        drawn = {
            field: trial.suggest_float(field, span.low, span.high, log=span.log)
            for field, span in RANGES.items()
        }
        value, requests = score(Parameters(**drawn), envs, seeds)
        trial.set_user_attr("requests", requests)
        return value

    study.optimize(objective, n_trials=max(arguments.trials - done, 0))
    trials = study.get_trials(deepcopy=False, states=complete)
    return {
        "parameters": as_table(Parameters(**study.best_params)),
        "score": round(study.best_value, 5),
        "score_of_guess": round(trials[0].values[0], 5),
        "trials": len(trials),
        "simulated_requests": sum(trial.user_attrs["requests"] for trial in trials),
        **asked,
        "command": "python -m experiments.tune_heuristic",
        "versions": {"papi_env": papi_env.__version__, "optuna": optuna.__version__},
    }


def run(arguments: Arguments) -> None:
    """Tune every family, print what was found, and store it where asked."""
    if arguments.trials < 1 or arguments.seeds < 1:
        raise ConfigurationError(
            f"trials is {arguments.trials} and seeds is {arguments.seeds}, expected at least 1 of each"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    serving = None if arguments.horizon_s is None else {"horizon_s": arguments.horizon_s}
    families = {
        family: [get_scenario(f"{family}/{model}").replace(serving=serving) for model in arguments.models]
        for family in arguments.families
    }
    if arguments.default:
        families[DEFAULT] = [scenarios[0] for scenarios in families.values()]
    console = output()
    found = {}
    for name, scenarios in families.items():
        found[name] = tune(name, scenarios, arguments)
        console.print(
            f"{name}: return per request {found[name]['score']:.3f} "
            f"(guess {found[name]['score_of_guess']:.3f}) after {found[name]['trials']} trials"
        )
        write_whole(arguments.out / "parameters.json", json.dumps(found, indent=1) + "\n")
    if arguments.write:
        stored = {}
        if PARAMETER_FILE.exists():
            stored = json.loads(PARAMETER_FILE.read_text(encoding="utf-8"))
        write_whole(PARAMETER_FILE, json.dumps(stored | found, indent=1) + "\n")
        console.print(f"written to agents/{PARAMETER_FILE.name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m experiments.tune_heuristic")
    return exit_status(lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
