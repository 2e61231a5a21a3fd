"""A start by imitation: what steps cost, that the actor learns it and nothing else does, and that resuming holds."""

import os
import signal

import numpy as np
import pytest
import torch

from agents.learned.export import export_policy
from agents.learned.policy import LearnedPolicy
from agents.serving.oracles import prompt_weight, token_rates
from experiments.arena.settings import scenario_settings
from experiments.distilling.collect import make_envs
from experiments.training.algorithms import build_model, flattens
from experiments.training.callbacks import Bar, Boundary
from experiments.training.hyperparameter_files import load_hyperparameters
from experiments.training.hyperparameters import Imitation
from experiments.training.imitation import (
    Lessons,
    _Actor,
    _played,
    _tables,
    imitate,
    problem_sizes,
    step_regrets,
)
from experiments.training.interruption import Interruption
from experiments.training.settings import imitation_seeds, training_envs, training_seed
from papi_env.envs.registration import DECODE, KERNELS, SERVING
from papi_env.envs.serving import JOINT_ACTIONS
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from tests.experiments.training.runs import assert_the_same_run, command, evaluations, stopping_at, tensors

TINY = Imitation(rounds=2, episodes=1, stride=3, updates=60, batch_size=64, learning_rate=1e-2)
SEEDS = range(100, 100 + TINY.rounds * TINY.episodes)
SERVED = """
name = "short"
system = "papi"
model = "llama-65b"
[serving]
arrivals = { process = "poisson", rate_per_s = 9.0 }
lengths = { table = "azure-conversation" }
objectives = { ttft_s = 2.0, tpot_s = 0.05 }
horizon_s = 1.0
max_running = 16
"""
# Everything that the rewards of training and a start can have; short rollouts.
TERMS = [
    "price_time=true",
    "progress=true",
    "holding=0.5",
    "normalize_reward=true",
    "n_envs=4",
    "net_arch=[8]",
]
ROLLOUTS = [
    "n_steps=16",
    "critic_first=150",
    "imitation={rounds=2,episodes=1,stride=4,updates=20,batch_size=64}",
]
HYPER = {
    "ppo": ["batch_size=32"],
    "maskable-ppo": ["batch_size=32"],
    "recurrent-ppo": ["batch_size=32", "lstm_hidden_size=4"],
    "a2c": [],
    "dqn": ["buffer_size=300", "learning_starts=64", "batch_size=16", "target_update_interval=40"],
    "qr-dqn": ["buffer_size=300", "learning_starts=64", "batch_size=16", "target_update_interval=40"],
}
CASES = [
    ("ppo", DECODE, ()),
    ("maskable-ppo", KERNELS, ()),
    ("a2c", KERNELS, ()),
    ("maskable-ppo", SERVING, ("flatten=false",)),
    ("ppo", SERVING, ("flatten=true",)),
]


class Heard:
    """A listener that keeps what it is told of imitation."""

    def __init__(self):
        self.rounds = []

    def imitated(self, done, rounds, samples, regret):
        self.rounds.append((done, rounds, samples, regret))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in a training; more only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("imitation") / "served.toml"
    path.write_text(SERVED)
    return path


@pytest.fixture
def settings(served):
    """What each problem is played on; of Kernels-v0 two that differ in their joint actions."""

    def found(env_id):
        if env_id == SERVING:
            return (get_scenario(served),)
        systems = ("papi", "attacc-only") if env_id == KERNELS else ("papi",)
        return tuple(scenario_settings(env_id, systems=systems, batch_sizes=(4,), speculation=(4,)))

    return found


def model_of(algorithm, env_id, settings, hyper=(), seed=0):
    rollouts = [] if "dqn" in algorithm else ["n_steps=16"]
    own = ["n_envs=4", "net_arch=[16]", *rollouts, *HYPER[algorithm], *hyper]
    parameters = load_hyperparameters(algorithm, env_id, own)
    envs = training_envs(env_id, settings, 4, flattens(algorithm, parameters))
    return build_model(algorithm, parameters, envs, seed)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def actors(found):
    """The weights that act; an actor is not called value or critic."""
    return {k: v for k, v in found.items() if not any(word in k for word in ("value", "critic"))}


def critics(found):
    return {k: v for k, v in found.items() if k not in actors(found)}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def imitated(model, settings, env_id, parameters=TINY, seeds=SEEDS):
    heard = Heard()
    return imitate(model, settings, env_id, parameters, seeds, Interruption(), heard), heard


def lessons_of(settings, env_id, seeds=(7,), stride=2):
    """Samples of the best next steps, of episodes that no imitation here plays."""
    envs = make_envs(env_id, settings, len(seeds))
    tables, which = _tables(envs)
    rng = np.random.default_rng(0)
    parameters = TINY.model_copy(update={"stride": stride})
    return _played(envs, which, None, seeds, parameters, rng, Interruption()), tables


# --- what a step costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [DECODE, KERNELS])
def test_regrets_of_static_batches_are_costs_over_the_least_one(settings, env_id):
    (env, *_) = make_envs(env_id, settings(env_id), 3)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    costs = env.joint_costs()
    found = step_regrets(env, np.array([True, False, True]))
    assert found.dtype == np.float32
    assert found.shape == (2, len(env.joint_actions()))
    np.testing.assert_allclose(found, (costs / costs.min(axis=1, keepdims=True) - 1)[[0, 2]], atol=1e-6)
    assert (found >= 0).all()
    assert (found.min(axis=1) == 0).all()
    assert found.max() > 0


@pytest.mark.parametrize(("system", "prompts"), [("papi", 1.0), ("papi", 2.5), ("attacc-only", 1.0)])
def test_regrets_of_serving_are_what_a_rate_lacks_of_the_best(served, system, prompts):
    (env,) = make_envs(SERVING, [get_scenario(served).replace(system=system)], 3)
    env.reset(seed=0)
    weight = prompt_weight(env.engine.tables)
    playing = np.array([True, False, True])
    rng, forbidden, equal = np.random.default_rng(0), 0, 0
    for step in range(60):
        if step % 6:
            env.step(rng.integers(0, at.NVEC, (3, len(at.NVEC))))
            continue
        before = [array.copy() for array in env.engine.state]
        found = step_regrets(env, playing, prompts=prompts)
        for array, then in zip(env.engine.state, before, strict=True):
            np.testing.assert_array_equal(array, then)
        assert found.shape == (2, at.NUM_ACTIONS)
        for row, e in zip(found, np.flatnonzero(playing), strict=True):
            mask = env.joint_masks()[e]
            np.testing.assert_array_equal(np.isinf(row), ~mask)
            assert row[mask].min() == 0
            # Every valid action by itself, also those that come to the same as another.
            rates = np.zeros(at.NUM_ACTIONS)
            in_time = 1 - env.engine.clocks[e, at.LOST]
            rates[mask] = token_rates(
                env.engine, e, JOINT_ACTIONS[mask], prompts * weight, in_time, expected=True
            )
            expected = 1 - rates / rates.max() if rates.max() > 0 else np.zeros(at.NUM_ACTIONS)
            np.testing.assert_allclose(row[mask], expected[mask], atol=1e-6)
            forbidden += int((~mask).sum())
            equal += int((row[mask] == 0).sum()) - 1
    assert forbidden > 0
    assert equal > 0


def test_lessons_of_settings_with_other_actions_stand_side_by_side():
    few = Lessons(np.zeros((2, 3), np.float32), np.ones((2, 1), np.float32), np.zeros(2, np.int64))
    more = Lessons(np.ones((1, 3), np.float32), np.zeros((1, 4), np.float32), np.ones(1, np.int64))
    found = Lessons.joined([few, more])
    assert len(found) == 3
    np.testing.assert_array_equal(found.regrets, [[1, *[np.inf] * 3]] * 2 + [[0] * 4])
    np.testing.assert_array_equal(found.table, [0, 0, 1])
    assert found.regrets.dtype == np.float32


# --- the actor --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "env_id", "hyper"), CASES)
def test_the_distribution_fitted_is_that_of_the_policy_over_what_is_possible(
    settings, algorithm, env_id, hyper
):
    model = model_of(algorithm, env_id, settings(env_id), hyper)
    lessons, tables = lessons_of(settings(env_id), env_id, stride=5)
    actor = _Actor(model, tables, TINY)
    rows = slice(None, None, max(len(lessons) // 12, 1))
    observations = torch.from_numpy(lessons.observations[rows])
    possible = torch.from_numpy(np.isfinite(lessons.regrets[rows]))
    which = lessons.table[rows]
    with torch.no_grad():
        found = actor._log_probabilities(observations, possible, torch.from_numpy(which)).numpy()
        distribution = model.policy.get_distribution(observations)
        for k, table in enumerate(tables):
            for j, joint in enumerate(table):
                action = torch.as_tensor([j] if "flatten=true" in hyper else joint).expand(len(which), -1)
                squeezed = action[:, 0] if len(problem_sizes(model)) == 1 else action
                logs = distribution.log_prob(squeezed).numpy()
                shown = (which == k) & possible[:, j].numpy()
                # Up to the share of what is possible, the same for all actions of a sample.
                found[shown, j] -= logs[shown]
    for row, mask in zip(found, possible.numpy(), strict=True):
        assert np.ptp(row[mask]) < 1e-4
        assert row[mask].mean() > -1e-4
        assert (row[~mask] == -np.inf).all()
    assert len(tables) == (2 if env_id == KERNELS else 1)


@pytest.mark.parametrize(("algorithm", "env_id", "hyper"), CASES)
def test_imitation_lowers_the_expected_regret_and_leaves_the_critic_alone(settings, algorithm, env_id, hyper):
    model = model_of(algorithm, env_id, settings(env_id), hyper)
    lessons, tables = lessons_of(settings(env_id), env_id)
    before, untrained = weights(model), _Actor(model, tables, TINY).regret(lessons)
    expected, heard = imitated(model, settings(env_id), env_id)
    after = weights(model)
    assert _Actor(model, tables, TINY).regret(lessons) < 0.6 * untrained
    assert same(critics(before), critics(after))
    assert critics(before)
    assert not same(actors(before), actors(after))
    assert [(done, rounds) for done, rounds, *_ in heard.rounds] == [(1, 2), (2, 2)]
    assert [regret for *_, regret in heard.rounds] == expected
    samples = [samples for _, _, samples, _ in heard.rounds]
    assert 0 < samples[0] < samples[1], "samples of earlier rounds stay"


@pytest.mark.parametrize(("algorithm", "env_id", "hyper"), CASES)
def test_settings_played_together_are_played_as_each_by_itself(settings, algorithm, env_id, hyper):
    """With and without a pupil; each setting draws which of its steps is sampled first."""
    if env_id == KERNELS:  # a pupil of joint actions as numbers plays one table alone
        found = settings(env_id)
    else:
        (one, *_) = settings(env_id)
        found = (one, one.replace(system="papi-h100"))
    model = model_of(algorithm, env_id, found, hyper)
    pupil = LearnedPolicy(export_policy(model, env_id=env_id))
    parameters = TINY.model_copy(update={"stride": 4})
    for player in (None, pupil):
        envs = make_envs(env_id, found, 2)
        _, which = _tables(envs)
        together = _played(envs, which, player, (7, 8), parameters, np.random.default_rng(0), Interruption())
        rng = np.random.default_rng(0)
        alone = Lessons.joined(
            [
                _played([env], [k], player, (7, 8), parameters, rng, Interruption())
                for env, k in zip(envs, which, strict=True)
            ]
        )
        assert len(together) == len(alone) > 0
        np.testing.assert_array_equal(together.observations, alone.observations)
        np.testing.assert_array_equal(together.regrets, alone.regrets)
        np.testing.assert_array_equal(together.table, alone.table)


def test_imitation_is_the_same_for_a_seed_and_another_for_others(settings):
    ends = []
    parameters = TINY.model_copy(update={"updates": 10})
    for seed, seeds in ((0, SEEDS), (0, SEEDS), (1, SEEDS), (0, range(500, 502))):
        model = model_of("maskable-ppo", SERVING, settings(SERVING), seed=seed)
        ends.append((imitated(model, settings(SERVING), SERVING, parameters, seeds)[0], weights(model)))
    (expected, first), (again, second), *others = ends
    assert expected == again
    assert same(first, second)
    for regrets, found in others:
        assert regrets != expected
        assert not same(first, found)


def test_actions_are_taken_as_their_regrets_at_the_temperature_ask(settings):
    """With two actions, of which one lacks 2 % in every state: e^-2 as likely at a temperature of 1 %."""
    model = model_of("ppo", DECODE, settings(DECODE))
    lessons, tables = lessons_of(settings(DECODE), DECODE)
    regrets = np.tile(np.array([0.02, 0.0], np.float32), (len(lessons), 1))
    parameters = TINY.model_copy(update={"temperature": 0.01, "updates": 100})
    actor = _Actor(model, tables, parameters)
    actor.fit(Lessons(lessons.observations, regrets, lessons.table), last=True)
    with torch.no_grad():
        logs = actor._log_probabilities(
            torch.from_numpy(lessons.observations),
            torch.ones(regrets.shape, dtype=torch.bool),
            torch.from_numpy(lessons.table),
        ).numpy()
    np.testing.assert_allclose(logs[:, 0] - logs[:, 1], -2.0, atol=0.05)


@pytest.mark.parametrize("algorithm", ["dqn", "qr-dqn", "recurrent-ppo"])
def test_algorithms_without_such_an_actor_are_refused(settings, algorithm):
    model = model_of(algorithm, DECODE, settings(DECODE))
    before = weights(model)
    with pytest.raises(
        ConfigurationError, match=r"cannot start from imitation; expected one of PPO, A2C, MaskablePPO"
    ):
        imitated(model, settings(DECODE), DECODE)
    assert same(before, weights(model))


def test_algorithms_without_an_actor_have_no_such_hyperparameter():
    with pytest.raises(ConfigurationError, match="imitation: not a known field"):
        load_hyperparameters("dqn", DECODE, ["imitation={rounds=1,episodes=1}"])


def test_a_stride_longer_than_every_episode_is_refused(settings):
    model = model_of("maskable-ppo", SERVING, settings(SERVING))
    (scenario,) = settings(SERVING)
    shorter = [scenario.replace(serving={"horizon_s": 0.2})]
    with pytest.raises(ConfigurationError, match="found stride 1000, expected a smaller one"):
        imitated(model, shorter, SERVING, TINY.model_copy(update={"stride": 1000}))


def test_an_interruption_stops_it(settings):
    model = model_of("ppo", DECODE, settings(DECODE))
    asked = Interruption()
    asked.asked = True
    with pytest.raises(KeyboardInterrupt):
        imitate(model, settings(DECODE), DECODE, TINY, SEEDS, asked, Heard())


def test_its_episodes_are_met_by_no_environment_of_any_run():
    mine = imitation_seeds(0, 400)
    assert len(mine) == 400
    assert mine.start > training_seed(0) + 256
    assert mine.stop <= training_seed(1)


# --- in a training ----------------------------------------------------------------------------------


def options(algorithm, env_id, scenario, hyper, timesteps):
    where = ["--scenarios", scenario] if env_id == SERVING else ["--batch-sizes", 2, "--speculation", 8]
    return [
        *("--algorithm", algorithm, "--env", env_id, *where, "--timesteps", timesteps, "--no-tensorboard"),
        *("--validations", 3, "--episodes", 1, "--hyper", *hyper),
    ]


@pytest.mark.parametrize("algorithm", ["maskable-ppo", "dqn"])
def test_a_run_with_all_of_it_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path, monkeypatch, served, algorithm
):
    hyper = [*TERMS, *HYPER[algorithm], *(() if algorithm == "dqn" else ROLLOUTS)]
    asked = options(algorithm, SERVING, served, hyper, 256)
    status, _, err = command(*asked, "--out", tmp_path / "whole")
    assert status == 0, err
    assert ("imitation 2 of 2" in err) == (algorithm != "dqn")
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        status, _, err = command(*asked, "--out", tmp_path / "parts")
    assert status == 130, err
    assert 1 < len(evaluations(tmp_path / "parts")) < len(evaluations(tmp_path / "whole"))
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert "imitation" not in err, "it is not started from again"
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")
    state = {name: array for name, array in tensors(tmp_path / "parts").items() if "reward." in name}
    assert {name.rpartition(".")[2] for name in state} == {"memory", "before", "potential"}
    assert all(np.any(array != 0) for array in state.values())


def test_a_run_interrupted_in_its_imitation_starts_it_anew(tmp_path, monkeypatch, served):
    asked = options("ppo", SERVING, served, [*TERMS, *HYPER["ppo"], *ROLLOUTS], 64)
    assert command(*asked, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "imitated", lambda self, *found: os.kill(os.getpid(), signal.SIGINT))
        status, _, err = command(*asked, "--out", tmp_path / "parts")
    assert status == 130, err
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert "imitation 1 of 2" in err
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "maskable-ppo", "recurrent-ppo"])
def test_the_critic_learns_first_and_the_actor_stays_as_it_was(tmp_path, monkeypatch, algorithm):
    """Rollouts of 64 steps: the actor is held in two of them."""
    found = {}
    at_boundary = Boundary.at_boundary

    def noted(self, last=False):
        found[self.model.num_timesteps] = weights(self.model)
        at_boundary(self, last)

    monkeypatch.setattr(Boundary, "at_boundary", noted)
    hyper = ["n_envs=4", "net_arch=[8]", "n_steps=16", "critic_first=100", *HYPER[algorithm]]
    status, _, err = command(*options(algorithm, DECODE, None, hyper, 320), "--out", tmp_path / "run")
    assert status == 0, err
    assert list(found) == [0, 64, 128, 192, 256, 320]
    for start, stop in ((0, 64), (64, 128)):
        assert same(actors(found[start]), actors(found[stop]))
        assert not same(critics(found[start]), critics(found[stop]))
    for start, stop in ((128, 192), (192, 256)):
        moved = {
            name
            for name, tensor in actors(found[start]).items()
            if not torch.equal(tensor, found[stop][name])
        }
        assert moved == set(actors(found[start])), "every weight of the actor learns afterwards"
