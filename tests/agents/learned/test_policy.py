"""A loaded policy acts as the model that it was saved from, and only where it was trained for."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.evaluate import evaluate
from agents.learned.checkpoint import Checkpoint
from agents.learned.export import export_policy, save_policy
from agents.learned.policy import LearnedPolicy, layout_difference, load_policy
from agents.policy import Policy
from agents.registry import make_policy
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.flatten import FlattenActions
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.sb3_mixture import make_mixture

DECODE, KERNELS = "papi_env/Decode-v0", "papi_env/Kernels-v0"
SMALL = {"batch_size": 2, "speculation": 8, "acceptance_rate": 1.0}
# Wide enough that no two scores are equal, deep enough that a wrong order of layers shows.
NETWORK = {"net_arch": {"pi": [16, 12], "vf": [8]}}
VALUES = {"net_arch": [16, 12]}
CASES = {
    "ppo": (PPO, "MlpPolicy", NETWORK, False),
    "ppo-relu": (PPO, "MlpPolicy", {**NETWORK, "activation_fn": torch.nn.ReLU}, False),
    "ppo-linear": (PPO, "MlpPolicy", {"net_arch": {"pi": [], "vf": [8]}}, False),
    "ppo-flat": (PPO, "MlpPolicy", NETWORK, True),
    "a2c": (A2C, "MlpPolicy", NETWORK, False),
    "maskable": (MaskablePPO, "MlpPolicy", NETWORK, False),
    "maskable-flat": (MaskablePPO, "MlpPolicy", NETWORK, True),
    "recurrent": (RecurrentPPO, "MlpLstmPolicy", {**NETWORK, "lstm_hidden_size": 8}, False),
    "recurrent-2": (
        RecurrentPPO,
        "MlpLstmPolicy",
        {**NETWORK, "lstm_hidden_size": 8, "n_lstm_layers": 2, "enable_critic_lstm": False},
        False,
    ),
    "dqn": (DQN, "MlpPolicy", VALUES, True),
    "qr-dqn": (QRDQN, "MlpPolicy", {**VALUES, "n_quantiles": 7}, True),
}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(case, env_id=KERNELS, num_envs=4, **arguments):
    """A model whose weights are far from those of its initialisation, where most actions score alike."""
    make, policy, network, flat = CASES[case]
    envs = make_vec(env_id, num_envs, seed=0, flatten=flat, **{**SMALL, **arguments})
    model = make(policy, envs, seed=0, device="cpu", policy_kwargs=network)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def their_prediction(model, observations, state, starts, masks):
    if isinstance(model, MaskablePPO):
        return model.predict(observations, deterministic=True, action_masks=masks)
    return model.predict(observations, state=state, episode_start=starts, deterministic=True)


@every_case
@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [(DECODE, {}), (KERNELS, {}), (KERNELS, {"scenario": "vision-language"})],
    ids=["decode", "kernels", "images"],
)
def test_the_actions_are_the_models_own(tmp_path, case, env_id, arguments):
    model = model_of(case, env_id, **arguments)
    policy = load_policy(save_policy(model, tmp_path / "policy", env_id=env_id))
    assert isinstance(policy, Policy)
    envs = model.get_env()
    policy.bind(envs)
    observations = envs.reset()
    state = their_state = None
    starts = np.ones(envs.num_envs, dtype=bool)
    for _ in range(100):
        expected, their_state = their_prediction(
            model, observations, their_state, starts, envs.action_masks()
        )
        actions, state = policy.predict(observations, state, starts)
        np.testing.assert_array_equal(actions, expected)
        observations, _, starts, _ = envs.step(actions)


@every_case
@pytest.mark.parametrize("env_id", [DECODE, KERNELS])
def test_the_actions_are_the_models_own_for_any_input(case, env_id):
    """Episodes meet few kinds of observations; here are all, and beyond, with any masks and episode starts."""
    model = model_of(case, env_id)
    policy = LearnedPolicy(export_policy(model, env_id=env_id))
    policy.bind(model.get_env())  # so that flat actions go out as numbers
    rng = np.random.default_rng(2)
    options = sum(policy.checkpoint.description.architecture.options)
    starts_of_choices = np.cumsum((0, *policy.checkpoint.description.architecture.options[:-1]))
    state = their_state = None
    taken = []
    for _ in range(10):
        features = len(policy.checkpoint.description.observation.names)
        observations = 2 * rng.standard_normal((100, features), dtype=np.float32)
        starts = rng.random(100) < 0.3
        masks = rng.random((100, options)) < 0.7
        masks[:, starts_of_choices] = True
        expected, their_state = their_prediction(model, observations, their_state, starts, masks)
        actions, state = policy.predict(observations, state, starts, action_masks=masks)
        np.testing.assert_array_equal(actions, expected)
        taken.append(actions)
    assert len(np.unique(np.concatenate(taken), axis=0)) > 1


@every_case
def test_one_observation_gives_one_action(case):
    model = model_of(case)
    policy = LearnedPolicy(export_policy(model, env_id=KERNELS))
    env = gym.make(KERNELS, **SMALL)
    policy.bind(env)
    observation, _ = env.reset(seed=0)
    action, _ = policy.predict(observation)
    assert env.action_space.contains(action)


def test_distributions_are_those_of_the_model():
    """Drawn actions: the share of each option within five standard errors of its probability."""
    model = model_of("ppo", DECODE)
    observation = model.get_env().reset()[:1]
    with torch.no_grad():
        wanted = model.policy.get_distribution(torch.as_tensor(observation)).distribution.probs[0].numpy()
    draws = 20_000
    policy = LearnedPolicy(export_policy(model, env_id=DECODE), seed=3)
    actions, _ = policy.predict(np.repeat(observation, draws, axis=0), deterministic=False)
    found = np.bincount(actions, minlength=2) / draws
    assert (np.abs(found - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / draws) + 1e-12).all()


def test_drawn_actions_keep_to_the_masks():
    model = model_of("maskable")
    policy = LearnedPolicy(export_policy(model, env_id=KERNELS))
    envs = model.get_env()
    policy.bind(envs)
    observations = envs.reset()
    starts = np.arange(7) * 3
    for _ in range(50):
        masks = envs.action_masks()
        for deterministic in (True, False):
            actions, _ = policy.predict(observations, deterministic=deterministic)
            assert masks[np.arange(len(actions))[:, None], starts + actions].all()
        observations = envs.step(actions)[0]


@pytest.mark.parametrize("case", ["ppo", "maskable", "maskable-flat", "recurrent", "dqn"])
def test_sb3s_evaluation_takes_it(case):
    model = model_of(case)
    policy = LearnedPolicy(export_policy(model, env_id=KERNELS))
    envs = model.get_env()
    envs.seed(5)
    policy.bind(envs)
    if isinstance(model, MaskablePPO):
        expected, _ = evaluate_maskable(model, envs, n_eval_episodes=4)
        envs.seed(5)
        found, _ = evaluate_maskable(policy, envs, n_eval_episodes=4)
        assert found == expected
        envs.seed(5)
    else:
        expected, _ = evaluate_policy(model, envs, n_eval_episodes=4)
        envs.seed(5)
    found, _ = evaluate_policy(policy, envs, n_eval_episodes=4)
    assert found == expected


def test_it_plays_every_kind_of_environment_alike(tmp_path):
    model = model_of("maskable-flat")
    folder = save_policy(model, tmp_path / "policy", env_id=KERNELS)

    def played(envs):
        policy = load_policy(folder)
        policy.bind(envs)
        return evaluate_policy(policy, envs, n_eval_episodes=3, return_episode_rewards=True)

    def seeded(envs):
        envs.seed(9)
        return envs

    one = DummyVecEnv([lambda: Monitor(gym.make(KERNELS, **SMALL))] * 3)
    flat = DummyVecEnv([lambda: Monitor(FlattenActions(gym.make(KERNELS, **SMALL)))] * 3)
    fast = [make_vec(KERNELS, 3, flatten=flatten, **SMALL) for flatten in (False, True)]
    mixed = make_mixture(KERNELS, [SMALL, SMALL], 3)
    wrapped = VecNormalize(make_vec(KERNELS, 3, **SMALL), norm_obs=False, norm_reward=False)
    results = [played(seeded(envs)) for envs in (one, flat, *fast, mixed, wrapped)]
    assert results[1:] == results[:-1]
    # And the project's own: the first episodes of the same seeds.
    env = KernelsVectorEnv(num_envs=3, autoreset_mode=AutoresetMode.DISABLED, **SMALL)
    mine = evaluate(make_policy(str(folder)), env, (9, 10, 11))["return"]
    np.testing.assert_allclose(
        sorted(mine), sorted(results[0][0]), rtol=0, atol=1e-6
    )  # SB3 rounds to 6 digits


def test_another_environment_is_refused_with_the_difference():
    policy = LearnedPolicy(export_policy(model_of("ppo", DECODE), env_id=DECODE))
    with pytest.raises(ConfigurationError, match=r"does not know: stage_0, stage_1"):
        policy.bind(KernelsVectorEnv(**SMALL))
    # Features that stand elsewhere would fit, and mean something else.
    names = list(policy.checkpoint.description.observation.names)
    names[2], names[5] = names[5], names[2]
    layout = policy.checkpoint.description.observation.model_copy(update={"names": tuple(names)})
    description = policy.checkpoint.description.model_copy(update={"observation": layout})
    swapped = LearnedPolicy(Checkpoint(description, policy.checkpoint.weights))
    with pytest.raises(
        ConfigurationError, match=r"2 stand elsewhere: finished \(there 2, here 5\), n \(there 5"
    ):
        swapped.bind(DecodeVectorEnv(**SMALL))
    with pytest.raises(ConfigurationError, match="in this process, not CartPoleEnv"):
        policy.bind(gym.make("CartPole-v1"))
    with pytest.raises(ConfigurationError, match="the policy reads"):
        policy.predict(np.zeros(3, dtype=np.float32))


def flat_policy(*systems):
    """DQN, untrained, of a mixture of systems with flat actions; and the mixture."""
    envs = make_mixture(KERNELS, [{"system": system} for system in systems], 4, flatten=True, **SMALL)
    return LearnedPolicy(export_policy(DQN("MlpPolicy", envs, seed=0), env_id=KERNELS)), envs


def test_flat_actions_play_where_every_valid_one_has_a_number():
    few, _ = flat_policy("a100-attacc")
    with pytest.raises(ConfigurationError, match=r"without \d+ of the 16 of this one, such as \["):
        few.bind(KernelsVectorEnv(system="papi", **SMALL))
    many, _ = flat_policy("papi")
    env = KernelsVectorEnv(num_envs=3, system="a100-attacc", **SMALL)
    many.bind(env)
    observations, _ = env.reset(seed=0)
    actions, _ = many.predict(observations)
    assert env.action_space.contains(actions)
    flat = make_vec(KERNELS, 3, flatten=True, system="a100-attacc", **SMALL)
    with pytest.raises(ConfigurationError, match="numbers its joint actions otherwise"):
        many.bind(flat)


def test_a_mixture_of_systems_has_one_numbering():
    policy, envs = flat_policy("papi", "a100-attacc")
    np.testing.assert_array_equal(policy.checkpoint.joint_actions, envs.flat_actions)
    policy.bind(envs)
    observations = envs.reset()
    numbers, _ = policy.predict(observations)
    assert numbers.shape == (4,)
    for system in ("papi", "a100-attacc"):
        own = KernelsVectorEnv(num_envs=4, system=system, **SMALL)
        policy.bind(own)
        actions, _ = policy.predict(observations)
        np.testing.assert_array_equal(actions, envs.flat_actions[numbers])


def test_differences_of_layouts_are_listed():
    assert layout_difference(("a", "b"), ("a", "b")) == ""
    assert layout_difference(("rlp", "tlp"), ("rlp", "tlp_old")) == (
        "1 that it reads are missing: tlp (now 'tlp_old'?); 1 it does not know: tlp_old"
    )
    assert "and 2 more" in layout_difference((), [f"f{i}" for i in range(10)])


def test_what_a_checkpoint_cannot_hold_is_refused():
    envs = make_vec(DECODE, 2, **SMALL)
    unknown = PPO("MlpPolicy", envs, n_steps=2, batch_size=4, policy_kwargs={"activation_fn": torch.nn.ELU})
    with pytest.raises(ConfigurationError, match="activation ELU"):
        export_policy(unknown, env_id=DECODE)
    scaled = PPO("MlpPolicy", VecNormalize(envs), n_steps=2, batch_size=4)
    with pytest.raises(ConfigurationError, match="norm_obs=False"):
        export_policy(scaled, env_id=DECODE)
