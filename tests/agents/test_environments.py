"""Every policy of the registry plays the same kinds of environments: single, batch, wrapped, and libraries' vectors."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.vec_env import DummyVecEnv

import papi_env  # noqa: F401  registers the ids
from agents.environments import problems_of
from agents.registry import POLICIES, SERVICE_POLICIES, SERVING_POLICIES, make_policy
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec

SIZE = {"papi_env/Decode-v0": {"batch_requests": 4, "scenario": "creative-writing/opt-30b"}}
KINDS = {
    "papi_env/Decode-v0": set(POLICIES) - {"static"},
    "papi_env/Serving-v0": set(SERVING_POLICIES),
    "papi_env/Serving-v1": set(SERVICE_POLICIES),
}
# They look ahead for seconds, and bind as the rules that they start from.
SLOW = {"clairvoyant", "planner-arrivals", "planner-fair", "planner-star", "portfolio", "search"}
# Its numbers are for some of the joint actions alone, and rules choose others.
WITHOUT_NUMBERS = "papi_env/Serving-v1"


def vectors(env_id, flatten):
    """Environments of one id in each way that there is: one, or two at once."""
    size = SIZE.get(env_id, {})

    def one():
        return RecordEpisodeStatistics(gym.make(env_id, flatten=flatten, **size))

    yield "single", one()
    yield "batch", gym.make_vec(env_id, num_envs=2, flatten=flatten, **size)
    yield "SyncVectorEnv", SyncVectorEnv([one, one])
    yield "DummyVecEnv", DummyVecEnv([one, one])
    yield "VecEnv of papi_env.sb3", make_vec(env_id, num_envs=2, flatten=flatten, **size)


@pytest.fixture(scope="module")
def environments():
    """By id, whether flat, and kind; made once."""
    return {
        (env_id, flat, kind): env
        for env_id in KINDS
        for flat in (False, True)
        for kind, env in vectors(env_id, flat)
    }


def first(env, policy):
    """The policy's first action, of the first environment; they take it."""
    if isinstance(env, (gym.Env, gym.vector.VectorEnv)):
        observation, _ = env.reset(seed=0)
    else:
        env.seed(0)
        observation = env.reset()
    policy.bind(env)
    actions, _ = policy.predict(observation)
    env.step(actions)
    return np.asarray(actions if isinstance(env, gym.Env) else actions[0]).tolist()


@pytest.mark.parametrize(
    ("env_id", "name"),
    [(env_id, name) for env_id, names in KINDS.items() for name in sorted(names - SLOW)],
)
def test_a_policy_plays_every_kind_of_environment_alike(environments, env_id, name):
    for flat in (False, True)[: 1 if env_id == WITHOUT_NUMBERS else 2]:
        found = {}
        for (of, is_flat, kind), env in environments.items():
            if (of, is_flat) == (env_id, flat):
                found[kind] = first(env, make_policy(name))
        assert len(found) == 5
        # Seeds of the second environment are each library's own; one that draws shares its generator.
        if "random" not in name:
            assert len(set(map(str, found.values()))) == 1, found


def test_copies_that_draw_do_not_draw_the_same():
    envs = SyncVectorEnv([lambda: gym.make("papi_env/Serving-v0")] * 8)
    policy = make_policy("random")
    policy.bind(envs)
    actions, _ = policy.predict(envs.reset(seed=0)[0])
    assert len({tuple(row) for row in actions.tolist()}) > 4


def test_a_choice_without_a_number_is_refused():
    env = gym.make(WITHOUT_NUMBERS, flatten=True)
    policy = make_policy("slack-aware")
    policy.bind(env)
    with pytest.raises(ConfigurationError, match=r"joint action \[.*\] has no number .* without flatten"):
        policy.predict(env.reset(seed=0)[0])


def test_what_is_elsewhere_is_refused():
    with pytest.raises(ConfigurationError, match="environments of papi_env in this process, not CartPoleEnv"):
        problems_of(gym.make("CartPole-v1"))
