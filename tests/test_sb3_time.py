"""A discount per second: what it is worth is known for chains, and with equal steps it is a discount per step."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.sb3_mixture import make_mixture
from papi_env.sb3_time import NormalizeInSeconds, RolloutInSeconds, StepClock, discount_per_second

# Rollouts of 16 steps in 2 environments.
ON_POLICY = {"n_steps": 16}
OFF_POLICY = {
    "buffer_size": 400,
    "learning_starts": 20,
    "batch_size": 16,
    "train_freq": 1,
    "target_update_interval": 20,
}
LEARNERS = {
    "ppo": (PPO, "MlpPolicy", {**ON_POLICY, "batch_size": 16, "n_epochs": 2}),
    "a2c": (A2C, "MlpPolicy", {"n_steps": 8}),
    "maskable-ppo": (MaskablePPO, "MlpPolicy", {**ON_POLICY, "batch_size": 16, "n_epochs": 2}),
    "recurrent-ppo": (RecurrentPPO, "MlpLstmPolicy", {**ON_POLICY, "batch_size": 16, "n_epochs": 2}),
    "dqn": (DQN, "MlpPolicy", OFF_POLICY),
    "qr-dqn": (QRDQN, "MlpPolicy", OFF_POLICY),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Chain(VecEnv):
    """States in a ring, observed one-hot: every action leads to the next one.

    Args:
        rewards, seconds: [states, actions], what a step pays and takes.
        limit: steps after which an episode is cut off; None for never.
        ends: whether the last state ends an episode.
    """

    def __init__(self, rewards, seconds, limit=None, ends=False, num_envs=2):
        self.pays, self.takes = np.array(rewards, dtype=float), np.array(seconds, dtype=float)
        self.limit, self.ends, self.elapsed_s = limit, ends, None
        count, actions = self.pays.shape
        super().__init__(num_envs, spaces.Box(0.0, 1.0, (count,), np.float32), spaces.Discrete(actions))

    def _observed(self):
        return np.eye(len(self.pays), dtype=np.float32)[self.at]

    def reset(self):
        # Out of step, so that environments differ in what a step takes.
        self.at = np.arange(self.num_envs) % (len(self.pays) - self.ends)
        self.age = np.zeros(self.num_envs, dtype=int)
        self.elapsed_s = np.zeros(self.num_envs)
        return self._observed()

    def step_async(self, actions):
        self.actions = np.asarray(actions)

    def step_wait(self):
        paid = self.pays[self.at, self.actions]
        self.elapsed_s[:] = self.takes[self.at, self.actions]
        last = self.at == len(self.pays) - 1
        self.at = (self.at + 1) % len(self.pays)
        self.age += 1
        ended = last & self.ends
        cut = ~ended & (self.age == self.limit)
        seen = self._observed()
        infos = [{"TimeLimit.truncated": bool(cut[i])} for i in range(self.num_envs)]
        for i in np.flatnonzero(ended | cut):
            infos[i]["terminal_observation"] = seen[i]
            self.at[i] = self.age[i] = 0
        return self._observed(), paid.astype(np.float32), ended | cut, infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None if attr_name == "render_mode" else getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def has_attr(self, attr_name):
        return hasattr(self, attr_name)

    def action_masks(self):
        return np.ones(self.action_space.n, dtype=bool)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        return [getattr(self, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def learner(name, envs, **more):
    make, policy, arguments = LEARNERS[name]
    network = {"lstm_hidden_size": 4} if name == "recurrent-ppo" else {}
    network |= {"net_arch": [4]} | ({"n_quantiles": 5} if name == "qr-dqn" else {}) | more.pop("network", {})
    return make(policy, envs, seed=3, device="cpu", policy_kwargs=network, **{**arguments, **more})


# --- what is discounted -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("case", ["cut off", "ended"])
def test_with_equal_steps_it_is_a_discount_per_step(name, case):
    """The same weights as SB3's own, but for rounding: over rollouts, updates, and episodes of either end."""
    chain = {
        "rewards": [[1.0, 0.2], [-0.5, 0.4], [2.0, 0.7]],
        "seconds": np.full((3, 2), 0.25),
        "limit": 5 if case == "cut off" else None,
        "ends": case == "ended",
    }
    gamma = float(np.exp(-0.25 / 2.0))
    theirs = learner(name, VecNormalize(Chain(**chain), norm_obs=False, gamma=gamma), gamma=gamma)
    ours = learner(name, NormalizeInSeconds(Chain(**chain), 2.0), gamma=0.123)
    discount_per_second(ours, 2.0)
    before = [p.detach().clone() for p in ours.policy.parameters()]
    for model in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - what SB3 draws from
        model.action_space.seed(0)
        model.learn(128)
    moved = 0.0
    for old, our, their in zip(before, ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-5)
        moved = max(moved, float((our.detach() - old).abs().max()))
    assert moved > 1e-3, "something was learned"


def test_a_value_cut_off_is_discounted_by_the_seconds_of_the_last_step():
    """One step an episode, of 1 or 3 s by the environment's only state: returns are r + exp(-dt / tau) V."""
    envs = Chain([[1.0], [5.0]], [[1.0], [3.0]], limit=1)
    model = learner("ppo", envs, gae_lambda=0.7)
    discount_per_second(model, 2.0)
    model.learn(32)
    buffer = model.rollout_buffer
    value = buffer.values.reshape(envs.num_envs, 16).T
    returns = buffer.returns.reshape(envs.num_envs, 16).T
    # All values are of one policy: the first state's is seen everywhere, the second's at the start.
    first, second = value[0]
    assert returns[0, 0] == pytest.approx(1.0 + np.exp(-0.5) * second, rel=1e-5)
    assert returns[0, 1] == pytest.approx(5.0 + np.exp(-1.5) * first, rel=1e-5)


# Two states that take turns: 1 for half a second, 3 for two; discounted with a time constant of 2 s.
TAU, PAYS, TAKES = 2.0, (1.0, 3.0), (0.5, 2.0)


def chain_values():
    """V0 = r0 + g0 V1 and V1 = r1 + g1 V0, solved."""
    g0, g1 = np.exp(-np.array(TAKES) / TAU)
    first = (PAYS[0] + g0 * PAYS[1]) / (1.0 - g0 * g1)
    return np.array([first, PAYS[1] + g1 * first])


def two_states(actions=1):
    return Chain([[pay] * actions for pay in PAYS], [[takes] * actions for takes in TAKES])


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_returns_of_exact_values_are_those_values(gae_lambda):
    model = learner("ppo", two_states(), gae_lambda=gae_lambda)
    discount_per_second(model, TAU)
    buffer, clock, exact = model.rollout_buffer, model.env, chain_values()
    states, steps = [np.argmax(clock.reset(), axis=1)], buffer.buffer_size
    for _ in range(steps):
        values = torch.tensor(exact[states[-1]])
        clock.step_async(np.zeros(2, dtype=int))
        observations, rewards, _, _ = clock.step_wait()
        buffer.add(np.eye(2)[states[-1]], np.zeros(2), rewards, np.zeros(2), values, torch.zeros(2))
        states.append(np.argmax(observations, axis=1))
    buffer.compute_returns_and_advantage(torch.tensor(exact[states[-1]]), np.zeros(2, dtype=bool))
    np.testing.assert_allclose(buffer.returns, exact[np.array(states[:-1])], rtol=1e-6)
    np.testing.assert_allclose(buffer.advantages, 0.0, atol=1e-5)


def test_a_critic_learns_the_values_of_a_chain():
    model = learner(
        "a2c", two_states(), learning_rate=0.02, ent_coef=0.0, vf_coef=1.0, network={"net_arch": []}
    )
    discount_per_second(model, TAU, trace_s=0.5)
    model.learn(4000)
    with torch.no_grad():
        found = model.policy.predict_values(torch.eye(2)).numpy().ravel()
    np.testing.assert_allclose(found, chain_values(), rtol=0.03)


@pytest.mark.parametrize(("seconds", "better"), [(True, 0), (False, 1)])
def test_dqn_prefers_what_earns_more_per_second(seconds, better):
    """1 for a second, or 1.6 for two: 1 / (1 - exp(-1 / 2)) against 1.6 / (1 - exp(-1)). Per step, 1.6 is more."""
    envs = Chain([[1.0, 1.6]], [[1.0, 2.0]])
    model = learner(
        "dqn", envs, gamma=0.6, learning_rate=0.05, network={"net_arch": []}, exploration_final_eps=0.5
    )
    if seconds:
        discount_per_second(model, TAU)
    model.learn(2000)
    with torch.no_grad():
        found = model.policy.q_net(torch.ones(1, 1)).numpy().ravel()
    assert found.argmax() == better
    if seconds:
        short = 1.0 / (1.0 - np.exp(-1.0 / TAU))
        np.testing.assert_allclose(found, [short, 1.6 + np.exp(-2.0 / TAU) * short], rtol=0.03)


# --- a step in two ------------------------------------------------------------------------------------


def advantages(rewards, values, seconds, last_value, trace_s):
    """Of one environment whose rollout nothing ends, float32 [steps]."""
    envs = Chain([[0.0]], [[0.0]], num_envs=1)
    model = PPO(
        "MlpPolicy", envs, n_steps=len(rewards), batch_size=len(rewards), gae_lambda=0.8, device="cpu"
    )
    discount_per_second(model, TAU, trace_s)
    buffer, clock = model.rollout_buffer, model.env
    clock.reset()
    for reward, value, takes in zip(rewards, values, seconds, strict=True):
        clock.steps += 1
        clock.seconds[:], clock.rewards = takes, np.array([reward])
        step = np.zeros((1, 1)), np.zeros(1), np.array([reward]), np.zeros(1)
        buffer.add(*step, torch.tensor([value]), torch.zeros(1))
    buffer.compute_returns_and_advantage(torch.tensor([last_value]), np.zeros(1, dtype=bool))
    return buffer.advantages[:, 0]


@pytest.mark.parametrize(("trace_s", "changes"), [(0.7, False), (None, True)])
def test_a_step_split_in_two_that_do_the_same_changes_nothing(trace_s, changes):
    """With a lambda per second: the one per step looks half as far ahead."""
    rng = np.random.default_rng(1)
    rewards, values, seconds = rng.normal(size=6), rng.normal(size=6), rng.uniform(0.1, 1.0, 6)
    last = 0.4
    whole = advantages(rewards, values, seconds, last, trace_s)
    for k in range(6):
        first, second = 0.3 * seconds[k], 0.7 * seconds[k]
        early = 0.25
        late = (rewards[k] - early) * np.exp(first / TAU)  # so that both are worth the whole step's
        after = np.append(values, last)[k + 1]
        between = late + np.exp(-second / TAU) * after
        split = advantages(
            [*rewards[:k], early, late, *rewards[k + 1 :]],
            [*values[: k + 1], between, *values[k + 1 :]],
            [*seconds[:k], first, second, *seconds[k + 1 :]],
            last,
            trace_s,
        )
        same = np.allclose(np.delete(split, k + 1), whole, rtol=1e-5, atol=1e-6)
        # In the last step there is nothing further to look at.
        assert same is not (changes and k < 5), k


# --- what a step takes ---------------------------------------------------------------------------------


def served(rate=9.0, horizon_s=0.6):
    return {
        "name": "short",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "lengths": {"input": 40, "output": 24},
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.02},
            "horizon_s": horizon_s,
            "max_running": 8,
        },
    }


SERVING = "papi_env/Serving-v0"


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec(SERVING, 3, seed=0, scenario=served()),
        lambda: make_mixture(SERVING, [{"scenario": served(rate)} for rate in (9.0, 2.0)], 3, seed=0),
    ],
)
def test_the_adapter_says_what_a_step_took(make):
    """The seconds of all steps of an episode are those from its first decision to its end."""
    envs = make()
    envs.reset()
    np.testing.assert_array_equal(envs.elapsed_s, 0.0)
    parts = getattr(envs, "parts", (envs,))
    clock = lambda: np.concatenate([part.vector_env.unwrapped.metrics()["time_s"] for part in parts])  # noqa: E731
    before, ends = clock(), 0
    for _ in range(120):
        _, _, dones, infos = envs.step(np.tile((1, 1, 2, 0), (3, 1)))
        now = [
            info["time_s"] if done else time for info, done, time in zip(infos, dones, clock(), strict=True)
        ]
        np.testing.assert_allclose(envs.elapsed_s, now - before, rtol=1e-9, atol=1e-12)
        for i in np.flatnonzero(dones):
            assert infos[i]["dt_s"] == envs.elapsed_s[i]
        before, ends = clock(), ends + int(dones.sum())
    assert ends >= 2


def test_problems_that_count_steps_are_refused_before_they_learn():
    envs = make_vec("papi_env/Decode-v0", 2, batch_size=2, speculation=8)
    envs.reset()
    assert envs.elapsed_s is None
    model = learner("ppo", envs)
    discount_per_second(model, 1.0)
    with pytest.raises(ConfigurationError, match="do not say how many seconds a step takes"):
        model.learn(32)


def test_algorithms_with_masks_and_with_memory_learn_on_serving():
    for name in ("maskable-ppo", "recurrent-ppo"):
        model = learner(name, NormalizeInSeconds(make_vec(SERVING, 2, scenario=served()), 5.0))
        discount_per_second(model, 5.0, trace_s=1.0)
        model.learn(32)
        buffer = model.rollout_buffer
        assert (buffer.seconds > 0).mean() > 0.5
        assert np.isfinite(buffer.returns).all()


# --- what cannot be --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, -1.0, np.inf, np.nan])
def test_a_time_constant_is_a_time(seconds):
    model = learner("ppo", two_states())
    with pytest.raises(ConfigurationError, match="expected a positive, finite number of seconds"):
        discount_per_second(model, seconds)
    with pytest.raises(ConfigurationError, match="trace_s is"):
        discount_per_second(model, 1.0, seconds)
    with pytest.raises(ConfigurationError, match="time_constant is"):
        NormalizeInSeconds(two_states(), seconds)


def test_buffers_of_other_kinds_are_refused():
    class Own(RolloutBuffer):
        pass

    with pytest.raises(ConfigurationError, match="rollout buffer is a Own, expected one of RolloutBuffer"):
        discount_per_second(learner("ppo", two_states(), rollout_buffer_class=Own), 1.0)
    model = learner("dqn", two_states(), n_steps=3)
    assert isinstance(model.replay_buffer, NStepReplayBuffer)
    with pytest.raises(
        ConfigurationError, match="has a NStepReplayBuffer, expected a ReplayBuffer of single steps"
    ):
        discount_per_second(model, 1.0)
    with pytest.raises(ConfigurationError, match="DQN has no lambda, expected no trace_s"):
        discount_per_second(learner("dqn", two_states()), 1.0, trace_s=1.0)


def test_other_environments_than_those_followed_are_found():
    model = learner("ppo", two_states())
    discount_per_second(model, TAU)
    model.learn(32)
    model.set_env(two_states())
    with pytest.raises(ConfigurationError, match="again after set_env"):
        model.learn(32)
    discount_per_second(model, TAU)
    model.learn(32)
    assert isinstance(model.rollout_buffer, RolloutInSeconds)
    assert isinstance(model.env, StepClock)
    assert isinstance(model.env.venv, Chain), "one clock, not two"


def test_others_may_step_the_environments_before_a_model_learns():
    envs = two_states()
    model = learner("ppo", envs)
    discount_per_second(model, TAU)
    played = model.get_env()
    played.reset()
    for _ in range(5):
        played.step(np.zeros(envs.num_envs, dtype=np.int64))
    model.learn(32)
    assert model.num_timesteps >= 32
