"""What a policy is trained on: environments of its settings, and seeds."""

from __future__ import annotations

from collections.abc import Sequence

from stable_baselines3.common.vec_env import VecEnv

from experiments.splitting.definition import SEEDS_PER_RUN, TRAINING_SEED
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.sb3_mixture import make_mixture
from papi_env.scenario import Scenario


def training_seed(seed: int) -> int:
    """Seed of the first environment in the run `seed`; the others follow one by one."""
    return TRAINING_SEED + seed * SEEDS_PER_RUN


def imitation_seeds(seed: int, count: int) -> range:
    """Seeds of the episodes that the run `seed` imitates in: the last of its own, which no environment takes."""
    stop = training_seed(seed) + SEEDS_PER_RUN
    return range(stop - count, stop)


def training_envs(
    env_id: str, settings: Sequence[Scenario], num_envs: int, flatten: bool, profile: bool = False
) -> VecEnv:
    """Environments of all settings side by side, an even share of each; with the profile observed if asked.

    Raises:
        ConfigurationError: a setting that the problem cannot play, fewer environments than settings, or settings
            that one policy cannot play alike.
    """
    most = SEEDS_PER_RUN // 2  # the others are left to imitation
    if num_envs > most:
        raise ConfigurationError(f"n_envs is {num_envs}, expected at most {most}")
    if profile and env_id != SERVING_V1:
        raise ConfigurationError(f"profile is observed on {SERVING_V1} alone, expected false on {env_id}")
    more = {"profile": True} if profile else {}
    return make_mixture(
        env_id, [{"scenario": setting} for setting in settings], num_envs, flatten=flatten, **more
    )
