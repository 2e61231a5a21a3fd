"""What a policy is trained and validated on: scenarios with all that replaces their parts, and seeds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.vec_env import VecEnv

from experiments.entries import resolve_scenarios
from papi_env.envs.base import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import get_system
from papi_env.sb3_mixture import make_mixture
from papi_env.scenario import Scenario
from papi_env.workload.transformer import get_transformer

T = TypeVar("T")

# Instances are keyed by seed and episode. What is compared in the end has small seeds (`experiments.compare` counts
# from 0), validation and training are far from those and from one another.
VALIDATION_SEED = 1 << 40
TRAINING_SEED = 1 << 41
# Environments of a run: the next run's seeds begin after this many.
_SEEDS_PER_RUN = 1 << 20


def training_seed(seed: int) -> int:
    """Seed of the first environment in the run `seed`; the others follow one by one."""
    return TRAINING_SEED + seed * _SEEDS_PER_RUN


def vector_class(env_id: str) -> type[ProblemVectorEnv]:
    """The class of the vector environment with this id."""
    entry_point = gym.spec(env_id).vector_entry_point
    made: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    assert issubclass(made, ProblemVectorEnv)
    return made


def default_scenario(env_id: str) -> str:
    """The scenario that an environment plays where none is named."""
    default = inspect.signature(vector_class(env_id).__init__).parameters["scenario"].default
    return str(default)


def scenario_settings(
    env_id: str,
    scenarios: Sequence[str] = (),
    systems: Sequence[str] = (),
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    speculation: Sequence[int] = (),
) -> list[Scenario]:
    """Every scenario with every system, model, batch size and speculation length named; its own where none is.

    Raises:
        ConfigurationError, DataError: something is unknown, does not fit the scenario, or does not fit its system.
    """
    for name in (*systems,):
        get_system(name)
    for name in (*models,):
        get_transformer(name)
    found: dict[str, Scenario] = {}
    for scenario, _ in resolve_scenarios(scenarios or (default_scenario(env_id),)):
        for system, model, batch_size, tlp in product(
            _or_own(systems), _or_own(models), _or_own(batch_sizes), _or_own(speculation)
        ):
            setting = scenario.replace(system=system, model=model, batch_size=batch_size, speculation=tlp)
            found.setdefault(setting.model_dump_json(), setting.check())
    return list(found.values())


def _or_own(values: Iterable[T]) -> tuple[T | None, ...]:
    return tuple(dict.fromkeys(values)) or (None,)


def setting_label(setting: Scenario) -> str:
    """A setting for people: system, scenario, and batch and speculation where it has them."""
    parts = [setting.system.name, setting.name]
    if setting.model is not None and setting.model.name not in setting.name:
        parts.append(setting.model.name)
    if setting.workload is not None:
        parts += [f"batch {setting.workload.batch_size}", f"speculation {setting.workload.speculation}"]
    return " · ".join(parts)


def training_envs(env_id: str, settings: Sequence[Scenario], num_envs: int, flatten: bool) -> VecEnv:
    """Environments of all settings side by side, an even share of each.

    Raises:
        ConfigurationError: a setting that the problem cannot play, fewer environments than settings, or settings
            that one policy cannot play alike.
    """
    if num_envs > _SEEDS_PER_RUN:
        raise ConfigurationError(f"n_envs is {num_envs}, expected at most {_SEEDS_PER_RUN}")
    return make_mixture(env_id, [{"scenario": setting} for setting in settings], num_envs, flatten=flatten)
