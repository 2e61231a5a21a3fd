"""The policies that come with the project: the right one for each problem, and all of them there."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

import papi_env  # noqa: F401  (registers the ids)
from agents.evaluate import evaluate
from agents.learned import shipped
from agents.learned.distilled import load_tree
from agents.learned.export import save_policy
from agents.learned.policy import load_policy
from agents.learned.shipped import SHIPPED, TREE_FOLDER, ShippedPolicy, shipped_folder
from agents.policy import Policy
from agents.registry import make_policy
from papi_env.envs.registration import DECODE, ENV_IDS, KERNELS, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, DataError
from papi_env.sb3 import make_vec
from papi_env.scenario import Scenario, get_scenario, parse_scenario

# Small instances of each problem, of systems that its policy was trained on.
SERVED = {
    "name": "served",
    "system": "papi",
    "model": "opt-30b",
    "serving": {
        "arrivals": {"process": "together"},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 10.0, "tpot_s": 1.0},
        "requests": 4,
        "max_running": 4,
    },
}
EVERY = pytest.mark.parametrize("env_id", SHIPPED)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scenario(env_id) -> Scenario:
    if env_id == SERVING:
        return parse_scenario(SERVED, "served")
    if env_id == SERVING_V1:
        return get_scenario("chats/llama-65b").replace(serving={"horizon_s": 1.0})
    return get_scenario("creative-writing/opt-30b").replace(batch_size=2, speculation=8)


def make_envs(env_id, num_envs=2):
    entry_point = gym.spec(env_id).vector_entry_point
    make = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return make(scenario(env_id), num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)


def saved(folder, env_id, seed):
    """A policy with weights drawn at random."""
    envs = make_vec(env_id, 2, seed=0, scenario=scenario(env_id))
    model = PPO("MlpPolicy", envs, seed=seed, n_steps=2, batch_size=4, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_policy(model, folder, env_id=env_id)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder such as the project's, with a policy of ours for every problem."""
    folder = tmp_path_factory.mktemp("pretrained")
    for seed, (env_id, name) in enumerate(SHIPPED.items()):
        saved(folder / name, env_id, seed)
    return folder


def test_every_problem_has_a_folder_of_its_own():
    assert set(SHIPPED) == set(ENV_IDS)
    assert len(set(SHIPPED.values())) == len(SHIPPED)


def test_it_plays_nothing_before_it_is_bound():
    policy = ShippedPolicy()
    assert isinstance(policy, Policy)
    assert not policy.privileged
    with pytest.raises(ConfigurationError, match=r"call bind\(env\) before predict"):
        policy.predict(np.zeros(3, dtype=np.float32))
    with pytest.raises(ConfigurationError, match="in this process, not CartPoleEnv"):
        policy.bind(gym.make("CartPole-v1"))


@EVERY
def test_it_is_the_policy_of_the_problem_that_it_is_bound_to(env_id, made, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", made)
    envs = make_envs(env_id)
    policy, expected = make_policy("learned"), load_policy(made / SHIPPED[env_id])
    found = [evaluate(one, envs, (4, 5)) for one in (policy, expected)]
    np.testing.assert_array_equal(found[0]["return"], found[1]["return"])
    assert not policy.privileged
    # A single environment, wrapped as gymnasium does.
    single = gym.make(env_id, scenario=scenario(env_id))
    observation, _ = single.reset(seed=0)
    for one in (policy, expected):
        one.bind(single)
    np.testing.assert_array_equal(policy.predict(observation)[0], expected.predict(observation)[0])


def test_one_policy_is_bound_to_one_problem_after_another(made, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", made)
    policy = ShippedPolicy()
    for env_id in (SERVING, DECODE, SERVING_V1, KERNELS, SERVING):
        envs = make_envs(env_id)
        policy.bind(envs)
        observations, _ = envs.reset(seed=[0, 1])
        actions, _ = policy.predict(observations)
        assert envs.action_space.contains(np.asarray(actions))


def test_a_policy_that_is_not_there_or_damaged_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match="decode-v0: is no folder"):
        ShippedPolicy().bind(make_envs(DECODE))
    folder = tmp_path / SHIPPED[DECODE]
    folder.mkdir()
    for path in (made / SHIPPED[DECODE]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut off"):
        ShippedPolicy().bind(make_envs(DECODE))


@EVERY
def test_the_policy_in_the_project_loads_and_plays(env_id):
    """Of the files in agents/pretrained; this one fails where one is missing."""
    description = load_policy(shipped_folder(env_id)).description
    assert description.env == env_id
    found = evaluate(make_policy("learned"), make_envs(env_id, 1), (0,))
    assert np.isfinite(found["return"]).all()
    assert found["return"].shape == (1,)


def test_the_tree_in_the_project_is_of_the_policy_beside_it():
    tree, policy = load_tree(TREE_FOLDER), load_policy(shipped_folder(SERVING))
    assert tree.description.env == SERVING
    assert tree.description.training["teacher"] == without_traces(policy.checkpoint.description.training)
    assert tree.tree.leaves <= 64
    found = evaluate(make_policy("learned-tree"), make_envs(SERVING, 1), (0,))
    assert np.isfinite(found["return"]).all()
    with pytest.raises(ConfigurationError, match="reads other observations"):
        make_policy("learned-tree").bind(make_envs(DECODE))


def without_traces(training):
    return {name: value for name, value in training.items() if name != "traces"}
