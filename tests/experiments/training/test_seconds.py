"""Trainings that discount by the second: what they resolve to, that they resume exactly, and what they report."""

import json
import os
import signal

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from safetensors.numpy import load_file

from agents.evaluate import DISCOUNTED, evaluate
from agents.registry import make_policy
from experiments.arena.settings import scenario_settings
from experiments.training.algorithms import ALGORITHMS, build_model
from experiments.training.hyperparameter_files import SECONDS, load_hyperparameters
from experiments.training.hyperparameters import KINDS
from experiments.training.options import Config, as_words
from experiments.training.plan import has_seconds, resolve
from experiments.training.record import STATE
from experiments.training.rewards import TrainingReward
from experiments.training.session import KINDS_IN_PHASES
from experiments.training.settings import training_envs
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.registration import DECODE, KERNELS
from papi_env.envs.registration import SERVING as SERVING_ID
from papi_env.envs.serving import ServingEnv, ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.sb3_time import NormalizeInSeconds, StepClock
from tests.experiments.training.runs import HYPER, assert_the_same_run, command, evaluations, stopping_at

pytestmark = pytest.mark.usefixtures("threads_as_before")

V1 = "papi_env/Serving-v1"
SERVED = """
system = "papi"
model = "opt-30b"
[serving]
arrivals = { process = "poisson", rate_per_s = 20.0 }
lengths = { input = 40, output = 24 }
objectives = { ttft_s = 1.0, tpot_s = 0.05 }
horizon_s = 0.4
max_running = 4
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("seconds") / "served.toml"
    path.write_text(SERVED)
    return path


def options(algorithm, served, *seconds):
    start = ["imitation={rounds=0,episodes=1}", "critic_first=0"] if algorithm == "ppo" else []
    return [
        *("--algorithm", algorithm, "--env", SERVING_ID, "--scenarios", served, "--timesteps", 256, *seconds),
        *("--validations", 2, "--episodes", 2, "--no-tensorboard", "--hyper", *HYPER[algorithm], *start),
    ]


# --- what is asked, and what it resolves to ------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KINDS)
def test_without_the_option_nothing_is_said_of_seconds(algorithm):
    for env_id in (DECODE, KERNELS, SERVING_ID):
        found = load_hyperparameters(algorithm, env_id)
        assert found.per_second is None
        assert {"time_constant", "trace_s"}.isdisjoint(found.model_dump(mode="json"))


@pytest.mark.parametrize("algorithm", sorted(set(KINDS) - set(KINDS_IN_PHASES)))
def test_serving_v1_discounts_by_the_second_unless_asked_otherwise(algorithm):
    found = load_hyperparameters(algorithm, V1)
    assert found.per_second == SECONDS[V1]["time_constant"] == 10.0
    if hasattr(found, "trace_s"):
        assert found.model_dump()["trace_s"] == found.trace_s > 0
    steps = load_hyperparameters(algorithm, V1, ("time_constant=0", "gamma=0.5"))
    assert steps.per_second is None
    assert not getattr(steps, "trace_s", None)
    again = type(found).model_validate(found.model_dump(mode="json"))
    assert again == found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("time_constant=5.0", "gamma=0.9"),
            "gamma=0.9 is per step, and has no say beside time_constant=5.0",
        ),
        (("time_constant=5.0", "trace_s=1.0", "gae_lambda=0.9"), "gae_lambda=0.9 is per step"),
        (("trace_s=1.0",), "trace_s is 1.0 s without a time_constant"),
        (("time_constant=-1.0",), "time_constant"),
        (("time_constant=inf",), "time_constant"),
    ],
)
def test_what_contradicts_itself_is_refused(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        load_hyperparameters("ppo", SERVING_ID, overrides)


def test_problems_that_count_steps_are_refused_with_those_that_do_not():
    assert [has_seconds(env_id) for env_id in (DECODE, KERNELS, SERVING_ID)] == [False, False, True]
    with pytest.raises(
        ConfigurationError, match=rf"{DECODE} counts steps; expected none, or one of {SERVING_ID}"
    ):
        resolve(Config(env=DECODE, time_constant=3.0))
    assert as_words(Config(time_constant=3.0)) == ["--time-constant", "3.0"]
    assert resolve(Config(env=DECODE, time_constant=0.0)).parameters.per_second is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_discounts_by_the_second_as_a_whole(algorithm, served):
    """Rewards of training, their scale, and what follows a step."""
    hyper = (*HYPER[algorithm], "time_constant=3.0", "price_time=false", "progress=true", "holding=0.0")
    parameters = load_hyperparameters(algorithm, SERVING_ID, hyper)
    settings = scenario_settings(SERVING_ID, [str(served)])
    envs = training_envs(SERVING_ID, settings, parameters.n_envs, True)
    model = build_model(algorithm, parameters, envs, seed=0)
    clock = model.get_env()
    assert isinstance(clock, StepClock)
    assert isinstance(clock.venv, NormalizeInSeconds)
    assert isinstance(clock.venv.venv, TrainingReward)
    buffer = getattr(model, "rollout_buffer", None) or model.replay_buffer
    assert buffer.time_constant == clock.venv.time_constant == clock.venv.venv._time_constant == 3.0


# --- what happens in a run -----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ppo", "recurrent-ppo", "dqn"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch, served, algorithm):
    arguments = options(algorithm, served, "--time-constant", 2)
    assert command(*arguments, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert command(*arguments, "--out", tmp_path / "parts")[0] == 130
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")
    state = load_file(tmp_path / "whole" / STATE)
    if algorithm == "dqn":
        kept = state["replay.discounts"]
        assert kept.shape == state["replay.rewards"].shape
        assert ((kept > 0) & (kept <= 1)).all()
        assert len(np.unique(kept)) > 2, "steps that take different times"
    else:
        assert "replay.discounts" not in state
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["configuration"]["hyperparameters"]["time_constant"] == 2.0
    assert all(np.isfinite(float(row["discounted"])) for row in evaluations(tmp_path / "whole"))


def test_a_run_of_a_version_without_the_option_goes_on(tmp_path, served):
    """What such a run has on record says nothing of it."""
    arguments = options("ppo", served)
    assert command(*arguments, "--out", tmp_path / "run")[0] == 0
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    assert record["configuration"]["asked"].pop("time_constant") is None
    assert {"time_constant", "trace_s"}.isdisjoint(record["configuration"]["hyperparameters"])
    path.write_text(json.dumps(record))
    for again in (["--resume", tmp_path / "run"], [*arguments, "--out", tmp_path / "run"]):
        status, _, err = command(*again)
        assert status == 0, err
    assert "discounted" not in evaluations(tmp_path / "run")[0]


def test_progress_is_discounted_by_the_seconds_of_a_step(served):
    setting = {"scenario": str(served), "serving": {"horizon_s": 100.0}}
    actions = np.random.default_rng(0).integers(0, (3, 4, 3, 2), (60, 4))
    envs = [
        TrainingReward(make_vec(SERVING_ID, 2, seed=0, **setting), 0.9, False, True, 0.0, tau)
        for tau in (None, 1.5)
    ]
    for one in envs:
        one.reset()
    for action in actions:
        before = envs[1].potential.copy()
        (_, by_step, _, _), (_, by_second, _, _) = (one.step(np.tile(action, (2, 1))) for one in envs)
        after, seconds = envs[1].potential, envs[1].elapsed_s
        paid = by_step - (0.9 * after - before)
        np.testing.assert_allclose(by_second - paid, np.exp(-seconds / 1.5) * after - before, atol=1e-5)
    assert (after > 0).any()


# --- what episodes are worth ---------------------------------------------------------------------------


def test_a_discounted_return_is_that_of_the_rewards_at_their_times(served):
    tau, seeds = 0.3, [3, 4]
    together = ServingVectorEnv(str(served), num_envs=2, autoreset_mode=AutoresetMode.DISABLED)
    found = evaluate(make_policy("threshold"), together, seeds, time_constant=tau)
    plain = evaluate(make_policy("threshold"), together, seeds, inside=False)
    np.testing.assert_array_equal(found["return"], plain["return"])
    assert DISCOUNTED not in plain
    for k, seed in enumerate(seeds):
        alone = ServingVectorEnv(str(served), num_envs=1, autoreset_mode=AutoresetMode.DISABLED)
        policy = make_policy("threshold")
        policy.bind(alone)
        observations, info = alone.reset(seed=[seed])
        start, worth, over = float(info["time_s"][0]), 0.0, False
        while not over:
            now = float(info["time_s"][0])
            actions, _ = policy.predict(observations, None, np.zeros(1, dtype=bool), deterministic=True)
            observations, reward, terminated, truncated, info = alone.step(actions)
            worth += float(reward[0]) * np.exp(-(now - start) / tau)
            over = bool(terminated[0] or truncated[0])
        assert found[DISCOUNTED][k] == pytest.approx(worth, rel=1e-9)
        assert 0 < found[DISCOUNTED][k] < found["return"][k]


def test_what_counts_steps_has_no_discount_per_second(served):
    steps = DecodeVectorEnv(num_envs=1, batch_size=2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ConfigurationError, match="DecodeVectorEnv counts steps"):
        evaluate(make_policy("threshold"), steps, [0], time_constant=1.0)
    seconds = ServingVectorEnv(str(served), num_envs=1, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ConfigurationError, match=r"time_constant is 0\.0 s"):
        evaluate(make_policy("threshold"), seconds, [0], time_constant=0.0)


def test_one_environment_says_what_a_step_took(served):
    env = ServingEnv(str(served))
    _, info = env.reset(seed=0)
    assert info["dt_s"] == 0.0
    waited = False
    for _ in range(3):
        over = False
        while not over:
            before = info["time_s"]
            _, _, terminated, truncated, info = env.step(np.array([1, 0, 2, 0]))
            assert info["dt_s"] == pytest.approx(info["time_s"] - before, abs=1e-12)
            waited |= info["dt_s"] > info["iteration_s"] * 1.001
            over = terminated or truncated
        _, info = env.reset()
        assert info["dt_s"] == 0.0
    assert waited, "waiting for the next request is part of it"
