"""The problems by id, without what training needs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

import papi_env  # noqa: F401  (registers the ids)
from papi_env.envs.registration import ENV_IDS, SERVING, SERVING_V1
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import lookup
from papi_env.scenario import Scenario

# Those in which requests are served as they come.
SERVED = (SERVING, SERVING_V1)


def problem_of(scenario: Scenario) -> str:
    """The id of the problem that a serving scenario is played on: Serving-v1 where it says whom it serves."""
    return SERVING if scenario.serving is None or scenario.serving.service is None else SERVING_V1


def vector_class(env_id: str) -> type[ProblemVectorEnv]:
    """The class of the vector environment with this id.

    Raises:
        ConfigurationError: no problem has it.
    """
    lookup("problem", env_id, dict.fromkeys(ENV_IDS))
    entry_point = gym.spec(env_id).vector_entry_point
    made: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    assert issubclass(made, ProblemVectorEnv)
    return made


def default_scenario(env_id: str) -> str:
    """The scenario that an environment plays where none is named."""
    return vector_class(env_id).default_scenario


def setting_label(setting: Scenario) -> str:
    """A setting for people: system, scenario, and network, batch and speculation where it has them."""
    parts = [setting.system.name, setting.name]
    if setting.images is not None:
        parts.append(setting.images.network.name)
    if setting.model is not None and setting.model.name not in setting.name:
        parts.append(setting.model.name)
    if setting.workload is not None:
        parts += [f"batch {setting.workload.batch_size}", f"speculation {setting.workload.speculation}"]
    return " · ".join(parts)
