"""Trainings on Serving-v1: starts from a rule, episodes out of phase, scales by setting, a critic that goes first."""

import os
import signal

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.learned.advice import ADVICE_NAMES, NUM_ADVICE, Inputs, make_adviser, one_hot
from agents.learned.advised import AdvisedVecEnv
from agents.learned.checkpoint import load_checkpoint, save_checkpoint
from agents.learned.export import export_policy
from agents.learned.onnx_export import network_to_onnx
from agents.learned.policy import LearnedPolicy, load_policy
from experiments.arena.settings import scenario_settings
from experiments.training.algorithms import build_model, flattens
from experiments.training.callbacks import Bar, explained_within
from experiments.training.cloning import clone
from experiments.training.holding import Held
from experiments.training.hyperparameter_files import load_hyperparameters
from experiments.training.hyperparameters import Cloning
from experiments.training.interruption import Interruption
from experiments.training.record import BEST
from experiments.training.scaling import NormalizeBySetting
from experiments.training.settings import training_envs
from experiments.training.starts import GROUPS, Staggered
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.sb3_mixture import make_mixture
from papi_env.sb3_time import elapsed_s
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.profiled import PROFILE_NAMES
from tests.experiments.training.runs import HYPER, assert_the_same_run, command, stopping_at

pytestmark = pytest.mark.usefixtures("threads_as_before")

SERVED = """
system = "papi"
model = "opt-30b"
[serving]
arrivals = { process = "poisson", rate_per_s = 12.0 }
lengths = { input = 40, output = 24 }
objectives = { ttft_s = 1.0, tpot_s = 0.05 }
horizon_s = 2.0
max_running = 4
[serving.service.classes.light]
share = 0.5
weight = 2.0
objectives = { ttft_s = 0.5, tpot_s = 0.05 }
[serving.service.classes.heavy]
share = 0.5
"""
SMALL = [*HYPER["ppo"], "critic_first=0", "critic_until=0.0", "scale_steps=0"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "served.toml"
    path.write_text(SERVED)
    return str(path)


def built(served, algorithm="ppo", *more):
    parameters = load_hyperparameters(algorithm, SERVING_V1, (*HYPER[algorithm], *SMALL[-3:], *more))
    settings = scenario_settings(SERVING_V1, [served])
    envs = training_envs(
        SERVING_V1, settings, parameters.n_envs, flattens(algorithm, parameters), parameters.profile
    )
    model = build_model(algorithm, parameters, envs, seed=0)
    envs.seed(3)
    return model, parameters


def played(policy, served, steps, **more):
    """What a policy chooses in some steps, and what it observes."""
    env = ServingV1VectorEnv(served, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, **more)
    policy.bind(env)
    observations, _ = env.reset(seed=[5, 6])
    state, starts, rows, chosen = None, np.ones(2, dtype=bool), [], []
    for _ in range(steps):
        actions, state = policy.predict(observations, state, starts)
        rows.append(observations.copy())
        chosen.append(actions)
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
    return np.array(rows), np.array(chosen)


# --- a rule's choices as residual logits ------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "maskable-ppo"])
def test_a_network_with_advice_begins_as_the_rule(served, tmp_path, algorithm):
    """Trained, saved and loaded again, it plays what the rule plays, before it has learned anything."""
    model, _ = built(served, algorithm, 'advice="slack-aware"', "advice_weight=6.0", "flatten=false")
    checkpoint = export_policy(model, env_id=SERVING_V1)
    save_checkpoint(tmp_path / "policy", checkpoint)
    policy = load_policy(tmp_path / "policy")
    assert policy.description.advice == "slack-aware"
    assert policy.description.observation.names[-NUM_ADVICE:] == ADVICE_NAMES
    rows, ours = played(policy, served, 200)
    _, theirs = played(make_adviser("slack-aware"), served, 200)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours[:, :, at.FC])) > 1 or len(np.unique(ours[:, :, at.ORDER])) > 1, rows.shape


def test_the_network_and_its_numpy_twin_agree_away_from_the_rule(served):
    """With other weights than those it begins with; so the features reach both in the same way."""
    model, _ = built(served, "ppo", 'advice="tuned"', "advice_weight=0.3", "profile=true")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    envs = model.get_env()
    observations = envs.reset()
    policy = LearnedPolicy(export_policy(model, env_id=SERVING_V1))
    assert policy._network.architecture.inputs == observations.shape[1]
    for _ in range(30):
        expected, _ = model.predict(observations, deterministic=True)
        scores, _ = policy._network.scores(observations)
        np.testing.assert_array_equal(policy._network.best(scores, None), expected)
        observations, _, _, _ = envs.step(expected)


def test_the_profile_is_added_where_environments_do_not_observe_it(served):
    model, _ = built(served, "ppo", 'advice=""', "profile=true")
    checkpoint = export_policy(model, env_id=SERVING_V1)
    assert checkpoint.description.observation.names[-len(PROFILE_NAMES) :] == PROFILE_NAMES
    _, without = played(LearnedPolicy(checkpoint), served, 100)
    _, with_ = played(LearnedPolicy(checkpoint), served, 100, profile=True)
    np.testing.assert_array_equal(without, with_)
    assert len(np.unique(without.reshape(-1, without.shape[-1]), axis=0)) > 1


def test_the_last_observation_of_an_episode_is_extended_without_a_trace(served):
    envs = AdvisedVecEnv(make_vec(SERVING_V1, 3, seed=0, scenario=served), "slack-aware")
    observations = envs.reset()
    own = observations.shape[1] - NUM_ADVICE
    ended = 0
    while ended < 4:
        actions = observations[:, own:]
        starts = np.cumsum([0, *at.NVEC_V1[:-1]])
        chosen = np.stack(
            [actions[:, a : a + n].argmax(1) for a, n in zip(starts, at.NVEC_V1, strict=True)], axis=1
        )
        before = {name: array.copy() for name, array in envs.kept().items()}
        observations, _, dones, infos = envs.step(chosen)
        assert before.keys() == envs.kept().keys() == {"advice.0", "advice.choices"}
        for i in np.flatnonzero(dones):
            last = infos[i]["terminal_observation"]
            assert last.shape == observations.shape[1:]
            assert last[own:].sum() == len(at.NVEC_V1)
            ended += 1
    np.testing.assert_array_equal(one_hot(chosen).sum(axis=1), len(at.NVEC_V1))


def test_what_gives_no_advice_is_refused(served):
    with pytest.raises(ConfigurationError, match="rule that gives advice"):
        built(served, "ppo", 'advice="slak-aware"')
    with pytest.raises(ConfigurationError, match="flatten=false"):
        built(served, "ppo", 'advice="tuned"', "flatten=true")
    with pytest.raises(ConfigurationError, match="without an LSTM"):
        load_hyperparameters("recurrent-ppo", SERVING_V1, ('advice="tuned"',))
    plain = make_vec(SERVING, 2)
    with pytest.raises(ConfigurationError, match="on papi_env/Serving-v1"):
        AdvisedVecEnv(plain, "tuned")
    with pytest.raises(ConfigurationError, match="false on papi_env/Serving-v0"):
        training_envs(SERVING, scenario_settings(SERVING), 2, False, True)
    model, _ = built(served, "ppo", 'advice="tuned"')
    checkpoint = export_policy(model, env_id=SERVING_V1)
    with pytest.raises(ConfigurationError, match="reads the advice of 'tuned'"):
        network_to_onnx(checkpoint)
    policy = LearnedPolicy(checkpoint)
    with pytest.raises(ConfigurationError, match="reads other observations"):
        policy.bind(plain.vector_env)
    env = ServingV1VectorEnv(served, num_envs=2)
    policy.bind(env)
    with pytest.raises(ConfigurationError, match="expected one for each of 2 environments"):
        policy.predict(env.reset(seed=0)[0][:1])


def test_advice_of_several_problems_is_that_of_each(served):
    """A mixture's rows have what each part's own rule chooses."""
    scenarios = [{"scenario": served}, {"scenario": "overload/llama-65b"}]
    envs = make_mixture(SERVING_V1, scenarios, 3, seed=0)
    advised = AdvisedVecEnv(envs, "slack-aware")
    observations = advised.reset()
    own = observations.shape[1] - NUM_ADVICE
    for part, rows in zip(envs.parts, (observations[:2], observations[2:]), strict=True):
        rule = make_adviser("slack-aware")
        rule.bind(part)
        chosen, _ = rule.predict(rows[:, :own])
        np.testing.assert_array_equal(rows[:, own:], one_hot(chosen))
    inputs = Inputs(
        advised.observation_names, "slack-aware", [part.vector_env.unwrapped for part in envs.parts]
    )
    assert inputs.adds
    assert inputs.differs is None


# --- starts ---------------------------------------------------------------------------------------------


def test_episodes_begin_at_times_spread_over_the_horizon(served):
    envs = Staggered(make_vec(SERVING_V1, 32, seed=0, scenario=served))
    observations = envs.reset()
    engine = envs.venv.vector_env.unwrapped.engine
    np.testing.assert_array_equal(observations, engine.observations)
    times = engine.clocks[:, at.TIME_S] - engine.clocks[:, at.TIME_S].min()
    assert len(np.unique(np.floor(times / 2.0 * GROUPS))) > GROUPS // 2
    assert not engine.counters[:, at.DONE].any()
    again = Staggered(make_vec(SERVING_V1, 32, seed=0, scenario=served)).reset()
    np.testing.assert_array_equal(again, observations)
    with pytest.raises(ConfigurationError, match="out_of_phase"):
        Staggered(make_vec(SERVING, 2))


def test_cloning_fits_the_network_to_the_rule(served):
    model, _ = built(served, "ppo", 'advice=""')
    told = []
    listener = type(
        "Told", (Bar,), {"__init__": lambda self: None, "cloned": lambda self, *of: told.append(of)}
    )()
    parameters = Cloning(
        rule="slack-aware", rounds=2, steps=60, updates=300, batch_size=64, learning_rate=1e-2
    )
    critic = [p.clone() for p in model.policy.value_net.parameters()]
    differs = clone(model, parameters, 0, Interruption(), listener)
    assert differs[-1] < 0.1
    assert [of[0] for of in told] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(critic, model.policy.value_net.parameters(), strict=True))


# --- scales and the critic ------------------------------------------------------------------------------


def test_every_setting_has_a_scale_of_its_own_that_stays(served):
    scenarios = [{"scenario": served}, {"scenario": "overload/llama-65b"}]
    envs = make_mixture(SERVING_V1, scenarios, 6, seed=0)
    scaled = NormalizeBySetting(envs, 0.9, None, 600)
    scaled.reset()
    rng = np.random.default_rng(0)
    returns, seen = np.zeros(6), [[], []]
    for step in range(150):
        valid = envs.action_masks()
        ends = np.cumsum(at.NVEC_V1)
        chosen = np.stack(
            [
                np.where(valid[:, e - n : e], rng.random((6, n)), -1.0).argmax(axis=1)
                for e, n in zip(ends, at.NVEC_V1, strict=True)
            ],
            axis=1,
        )
        _, rewards, dones, _ = scaled.step(chosen)
        paid = scaled.old_reward
        if step < 100:
            returns = returns * 0.9 + paid
            seen[0] += returns[:3].tolist()
            seen[1] += returns[3:].tolist()
            returns[dones] = 0.0
            if step == 99:
                at_600 = scaled.running.copy()
    for k in range(2):
        assert scaled.running[0, k] == pytest.approx(np.mean(seen[k]), abs=1e-6)
        assert scaled.running[1, k] == pytest.approx(np.var(seen[k]), rel=1e-6)
    np.testing.assert_array_equal(scaled.running, at_600)
    scale = np.sqrt(scaled.running[1] + scaled.epsilon)
    assert not np.isclose(scale[0], scale[1], rtol=0.05)
    np.testing.assert_allclose(rewards, np.clip(paid / np.repeat(scale, 3), -10, 10), rtol=1e-5)


def test_what_a_critic_explains_is_counted_within_settings():
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(400, 4)) + np.array([0, 0, 100, 100])
    setting = np.array([0, 0, 1, 1])
    means = np.broadcast_to(np.array([0.0, 0, 100, 100]), returns.shape)
    assert explained_within(means, returns, setting) == pytest.approx(0.0, abs=0.01)
    assert explained_within(returns, returns, setting) == 1.0
    half = means + 0.5 * (returns - means)
    assert explained_within(half, returns, setting) == pytest.approx(0.75, abs=0.01)
    assert explained_within(means, means, setting) == 0.0


def test_contradictions_are_refused():
    for given, message in (
        (("critic_until=0.5", "critic_first=0"), "within critic_first steps"),
        (("normalize_reward=false",), "scale_by_setting"),
        (('cloning={rule="tuned"}', "flatten=true", 'advice=""'), "flatten=false"),
        (('cloning={rule="tuned"}', "imitation={rounds=1,episodes=1}"), "two ways to start"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load_hyperparameters("ppo", SERVING_V1, given)


# --- a run ----------------------------------------------------------------------------------------------


def test_a_run_resumes_exactly_and_its_policy_plays(tmp_path, monkeypatch, served):
    """With all that is new in play: what wrappers remember is part of the state."""
    hyper = [*HYPER["ppo"], "critic_first=192", "critic_until=0.99", "scale_steps=128", "profile=true"]
    hyper += ['advice="slack-aware"', "draws=false"]
    arguments = ["--algorithm", "ppo", "--env", SERVING_V1, "--scenarios", served, "--timesteps", 512]
    arguments += ["--validations", 4, "--episodes", 2, "--no-tensorboard", "--hyper", *hyper]
    assert command(*arguments, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stopping_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert command(*arguments, "--out", tmp_path / "parts")[0] == 130
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")
    assert load_checkpoint(tmp_path / "whole" / BEST).description.advice == "slack-aware"


def test_a_run_that_starts_from_a_clone_learns_on_and_resumes(tmp_path, monkeypatch, served):
    """Cloning plays the very environments whose seconds the training then follows."""
    cloning = 'cloning={rule="slack-aware",rounds=2,steps=30,updates=40,batch_size=32}'
    arguments = ["--algorithm", "ppo", "--env", SERVING_V1, "--scenarios", served, "--timesteps", 512]
    arguments += ["--validations", 4, "--episodes", 2, "--no-tensorboard", "--hyper", *SMALL, cloning]
    status, _, err = command(*arguments, "--out", tmp_path / "whole")
    assert status == 0, err
    assert "cloning 2 of 2" in err
    assert "other choices than the rule's" in err
    with monkeypatch.context() as patch:
        stopping_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert command(*arguments, "--out", tmp_path / "parts")[0] == 130
    assert command("--resume", tmp_path / "parts")[0] == 0
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")


# --- decisions that are held ------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [2.0, None])
def test_a_held_step_is_so_many_with_their_seconds_and_rewards(served, tau):
    """One after the other, until an episode ends; what follows in the same step belongs to no step."""
    hold = 5
    held = Held(make_vec(SERVING_V1, 3, seed=4, scenario=served), hold, tau)
    plain = make_vec(SERVING_V1, 3, seed=4, scenario=served)
    np.testing.assert_array_equal(held.reset(), plain.reset())
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(120):
        actions = rng.integers(0, at.NVEC_V1, (3, len(at.NVEC_V1)))
        observations, paid, dones, infos = held.step(actions)
        sums, seconds, over = np.zeros(3), np.zeros(3), np.zeros(3, dtype=bool)
        for _ in range(hold):
            expected, rewards, ended, told = plain.step(actions)
            for i in range(3):
                if over[i]:
                    continue
                sums[i] += rewards[i] * (1.0 if tau is None else np.exp(-seconds[i] / tau))
                seconds[i] += plain.elapsed_s[i]
                over[i] = ended[i]
                if ended[i]:
                    ends += 1
                    last = told[i]["terminal_observation"]
                    np.testing.assert_array_equal(infos[i]["terminal_observation"], last)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(dones, over)
        np.testing.assert_allclose(paid, sums, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(elapsed_s(held), seconds, rtol=1e-12)
    assert ends > 2


def test_choices_that_are_the_rule_s_go_on_as_the_rule_does(served):
    """Held with the rule's own choices an environment is played as by the rule."""
    held = Held(AdvisedVecEnv(make_vec(SERVING_V1, 2, seed=4, scenario=served), "slack-aware"), 6, 10.0)
    held.reset()
    chosen = []
    inner = held.venv
    step = inner.step
    inner.step = lambda actions: (chosen.append((actions.copy(), inner.choices.copy())), step(actions))[1]
    for _ in range(15):
        held.step(inner.choices.copy())
    assert all((played == wanted).all() for played, wanted in chosen)
    assert len({tuple(wanted[0]) for _, wanted in chosen}) > 1
    chosen.clear()
    other = inner.choices.copy()
    other[:, at.VICTIM] = (other[:, at.VICTIM] + 1) % at.NVEC_V1[at.VICTIM]
    held.step(other)
    for played, wanted in chosen:
        np.testing.assert_array_equal(played[:, at.VICTIM], other[:, at.VICTIM])
        np.testing.assert_array_equal(np.delete(played, at.VICTIM, 1), np.delete(wanted, at.VICTIM, 1))


def test_what_cannot_be_held_is_refused():
    for given, message in ((("hold=2", "price_time=true"), "steps of one iteration"),):
        with pytest.raises(ConfigurationError, match=message):
            load_hyperparameters("ppo", SERVING_V1, given)


def test_a_policy_that_draws_does_so_again(served):
    model, _ = built(served, "ppo", 'advice=""')
    drawing = LearnedPolicy(export_policy(model, env_id=SERVING_V1, draws=True))
    best = LearnedPolicy(export_policy(model, env_id=SERVING_V1))
    assert "draws" not in best.description.model_dump()
    _, first = played(drawing, served, 60)
    _, again = played(drawing, served, 60)
    _, other = played(best, served, 60)
    np.testing.assert_array_equal(first, again)
    for k, options in enumerate(at.NVEC_V1):
        assert len(np.unique(first[:, :, k])) == options
    assert len(np.unique(other[:, :, at.ORDER])) < 3
    with pytest.raises(ConfigurationError, match="plays what it draws"):
        network_to_onnx(drawing.checkpoint)
