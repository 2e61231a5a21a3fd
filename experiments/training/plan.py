"""What a training is, once everything that was asked for is looked up."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.arena.settings import scenario_settings, trace_digest
from experiments.common.problems import setting_label, vector_class
from experiments.common.runner import digest, versions
from experiments.splitting.splits import load_split, trace_records
from experiments.training.hyperparameter_files import kept_hyperparameters, load_hyperparameters
from experiments.training.hyperparameters import KINDS, Learning, OfNetwork
from experiments.training.options import ONE_PROCESS, Config, as_plain, command_of
from papi_env.envs.problem import ELAPSED
from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario

_MAX_SEED = 1 << 20
_PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "safetensors")


@dataclass(frozen=True)
class Training:
    """A configuration with everything looked up.

    Attributes:
        settings, validation: what is trained and validated on.
        splits: hashes of the splits that they are from, if any.
        start: weights that it goes on from by traffic, those of all under the empty name; none: it starts anew.
    """

    config: Config
    parameters: Learning
    settings: tuple[Scenario, ...]
    validation: tuple[Scenario, ...]
    splits: Mapping[str, str]
    start: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def every(self) -> int:
        """Steps from one validation to the next."""
        return max(self.parameters.timesteps // self.config.validations, 1)

    def describe(self) -> dict[str, Any]:
        """Everything as plain data; a run folder goes on only if all of it is the same."""
        scenarios = (*self.settings, *self.validation)
        start = {name: digest(weights.tobytes()) for name, weights in self.start.items()}
        return {
            "asked": as_plain(self.config),
            "hyperparameters": self.parameters.model_dump(mode="json"),
            "settings": [scenario.model_dump(mode="json") for scenario in self.settings],
            "validation": [scenario.model_dump(mode="json") for scenario in self.validation],
            "traces": sorted({trace for s in scenarios if (trace := trace_digest(s)) is not None}),
            "splits": dict(self.splits),
            **({"start": start} if start else {}),  # runs of earlier versions have none on record
        }

    def summary(self) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        return {
            "command": command_of(self.config),
            "seed": self.config.seed,
            "settings": [setting_label(scenario) for scenario in self.settings],
            "splits": dict(self.splits),
            "traces": trace_records(self.settings),
            "hyperparameters": self.parameters.model_dump(mode="json"),
            "versions": {**versions(), **learning_versions()},
        }


def learning_versions() -> dict[str, str]:
    """Versions of the packages that learning depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def has_seconds(env_id: str) -> bool:
    """Whether a problem's time is continuous, so that its discount may be per second."""
    return ELAPSED in dict(vector_class(env_id).clock_info)


def resolve(config: Config, kept: Mapping[str, Any] | None = None) -> Training:
    """Look up and check everything that `config` names.

    Args:
        config: what to train.
        kept: hyper-parameters of a run that goes on, instead of those that files and options give.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    for name, low, high in (
        ("seed", 0, _MAX_SEED),
        ("threads", 1, 1024),
        ("episodes", 1, 1 << 16),
        ("validations", 1, 1 << 16),
        ("tune", 0, 1 << 16),
    ):
        if not low <= getattr(config, name) <= high:
            raise ConfigurationError(f"--{name} is {getattr(config, name)}, expected {low} to {high}")
    lookup("problem", config.env, dict.fromkeys(ENV_IDS))
    if kept is None:
        parameters = _parameters(config)
    else:
        parameters = kept_hyperparameters(config.algorithm, kept, f"{config.out}: hyperparameters")
    if parameters.per_second is not None and not has_seconds(config.env):
        raise ConfigurationError(
            f"time_constant is {parameters.per_second:g} s, but {config.env} counts steps; expected none, or one of "
            f"{', '.join(filter(has_seconds, ENV_IDS))}"
        )
    config.workers.check()
    if config.workers != ONE_PROCESS and (config.tune or not isinstance(parameters, OfNetwork)):
        what = "--tune" if config.tune else config.algorithm
        found = f"--jobs {config.workers.jobs} --backend {config.workers.backend}"
        raise ConfigurationError(f"{what} takes one process, expected no --jobs or --backend, found {found}")
    start = {} if config.start is None else _start(config)
    sizes = (config.systems, config.models, config.batch_sizes, config.speculation)
    if config.split:
        if any((config.scenarios, config.validate, *sizes)):
            raise ConfigurationError(
                "--split names all settings, expected no --scenarios, --validate, --systems, --models, "
                "--batch-sizes or --speculation besides"
            )
        splits = [load_split(config.env, name, config.traces) for name in ("train", "validation")]
        train, held = (tuple(setting.scenario for setting in split.settings) for split in splits)
        return Training(
            config, parameters, train, held, {split.name: split.sha256 for split in splits}, start
        )
    if config.traces:
        raise ConfigurationError("--trace belongs to --split, which is not given")
    settings = scenario_settings(config.env, config.scenarios, *sizes)
    validation = scenario_settings(config.env, config.validate, *sizes) if config.validate else settings
    return Training(config, parameters, tuple(settings), tuple(validation), {}, start)


def _parameters(config: Config) -> Learning:
    """What files and options give."""
    overrides = config.hyper
    if config.timesteps is not None:
        overrides = (*overrides, f"timesteps={config.timesteps}")
    if config.time_constant is not None:
        overrides = (*overrides, f"time_constant={float(config.time_constant)}")
    return load_hyperparameters(config.algorithm, config.env, overrides, config.hyperparameters)


def _start(config: Config) -> dict[str, FloatArray]:
    """Weights by traffic of the policy that a training goes on from."""
    from agents.learned.checkpoint import load_checkpoint
    from agents.learned.request_network import RequestNetwork

    assert config.start is not None
    if not issubclass(KINDS[config.algorithm], OfNetwork):
        kinds = [name for name, kind in KINDS.items() if issubclass(kind, OfNetwork)]
        raise ConfigurationError(
            f"--start is of {' and '.join(kinds)}, found --algorithm {config.algorithm}, which starts anew"
        )
    checkpoint = load_checkpoint(config.start)
    network = checkpoint.description.architecture
    if not isinstance(network, RequestNetwork):
        raise ConfigurationError(
            f"--start {config.start}: found a policy of {checkpoint.description.env} that reads observations as a "
            "whole, expected one that sees requests"
        )
    return {name: network.flat(checkpoint.weights, name) for name in ("", *network.traffics)}
