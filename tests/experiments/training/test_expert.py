"""Expert iteration: looks find what pays, a fit moves the network that way, and a run resumes to the bit."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.checkpoint import load_checkpoint
from agents.serving.inside import network as layout
from agents.serving.inside.memory import NUM_MEMORY, SCRATCH
from agents.serving.inside.play import decide_all
from agents.serving.network import NUM_WEIGHTS, SeesRequests, untrained
from agents.serving.view import as_compiled
from experiments.train import main
from experiments.training.expert.apprentice import fit, forward, targets
from experiments.training.expert.leaves import Leaves
from experiments.training.expert.looks import (
    FIRST_ADJUSTED,
    FIRST_TRAIT,
    NUM_VARIED,
    Looking,
    Looks,
    look_around,
)
from experiments.training.expert.rounds import ROUNDS, Expert
from experiments.training.hyperparameter_files import load_hyperparameters
from experiments.training.record import BEST, STATE
from experiments.training.state import read_state, write_state
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at

SMALL = ("checks=8", "looks=16", "vary=0", "leaf_s=4.0", "horizon_s=2.0", "seconds=0.5", "updates=20")
COMMON = ["--algorithm", "expert-iteration", "--env", SERVING_V1, "--episodes", "1", "--validations", "2"]


def parameters(*changes):
    return load_hyperparameters("expert-iteration", SERVING_V1, [*SMALL, *changes])


def train(folder, *more, scenarios=("chats/llama-65b",), hyper=SMALL, timesteps=700_000):
    given = ["--scenarios", *scenarios, "--timesteps", str(timesteps), "--out", str(folder)]
    return main([*COMMON, *given, "--hyper", *hyper, *more])


def cut_after_a_round(folder, monkeypatch):
    step, calls = Expert.step, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 2:
            self.keep_state()
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Expert, "step", interrupted)
        assert train(folder) == 130


def environments(name="chats/llama-65b", count=4, horizon_s=4.0):
    scenario = get_scenario(name).replace(serving={"horizon_s": horizon_s})
    return ServingV1VectorEnv(scenario, num_envs=count, autoreset_mode=AutoresetMode.DISABLED)


def looks_of(count, gains, doubts, seed=0):
    rng = np.random.default_rng(seed)
    observations = rng.random((count, len(at.OBSERVATION_NAMES_V1)), dtype=np.float32)
    tried = np.ones(gains.shape[:2], dtype=np.bool_)
    return Looks(np.zeros(count, dtype=np.int64), observations, rng.random(count), gains, doubts, tried)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expert") / "whole"
    assert train(folder) == 0
    return folder


def test_a_run_leaves_a_policy_and_what_its_rounds_found(whole):
    policy = load_checkpoint(whole / BEST)
    assert policy.description.algorithm == "ExpertIteration"
    header, *rounds = (whole / ROUNDS).read_text().splitlines()
    assert header.startswith("round,traffic,looks,explained,moved,score")
    assert len(rounds) >= 2
    assert float(rounds[-1].split(",")[6]) <= 1.0


def test_a_resumed_run_ends_as_one_run_would(whole, tmp_path, monkeypatch):
    folder = tmp_path / "cut"
    cut_after_a_round(folder, monkeypatch)
    assert main(["--resume", str(folder)]) == 0
    assert (folder / ROUNDS).read_text() == (whole / ROUNDS).read_text()
    last, expected = (load_checkpoint(run / "last").weights for run in (folder, whole))
    for name in expected:
        np.testing.assert_array_equal(last[name], expected[name])


def test_traffics_are_gone_on_with(tmp_path):
    scenarios = ("chats/llama-65b", "bursts/llama-65b")
    assert train(tmp_path / "run", scenarios=scenarios, timesteps=1_000_000) == 0
    policy = load_checkpoint(tmp_path / "run" / "last")
    assert policy.description.architecture.traffics == ("chats", "tiers")


def test_copies_may_be_played_to_their_end(tmp_path):
    assert train(tmp_path / "run", hyper=(*SMALL, "leaf_s=0", "looks=8"), timesteps=800_000) == 0
    assert (tmp_path / "run" / ROUNDS).read_text().splitlines()[1].split(",")[6] == ""


def test_torch_computes_what_compiled_code_does():
    env = environments()
    weights = np.random.default_rng(3).normal(0.0, 0.5, NUM_WEIGHTS)
    policy = SeesRequests(weights)
    policy.bind(env)
    observations, _ = env.reset(seed=[1, 2, 3, 4])
    compiled = policy.compiled(np.zeros((4, NUM_MEMORY)))
    look, busy = env.engine.frame("tables"), np.zeros(at.NUM_RESOURCES)
    compared = 0
    for _ in range(200):
        queries = np.zeros((4, at.MAX_CLASSES, at.NUM_TRAITS))
        actions = np.zeros((4, len(at.NVEC_V1)), dtype=np.int64)
        decide_all(compiled[:], as_compiled(observations, np.float32), look, actions, queries, busy)
        with torch.no_grad():
            found = forward(torch.from_numpy(weights), observations, compiled.memory[:, SCRATCH].copy())
        there = queries.any(axis=2)
        np.testing.assert_allclose(found.queries.numpy()[there], queries[there], rtol=1e-12)
        drops = found.adjusted.numpy()[:, layout.DROPS_CLASS] > 0
        np.testing.assert_array_equal(actions[:, at.SHEDDING] == at.SHED_CLASS, drops)
        compared += int(there.sum())
        env.engine.queries(4)[:] = queries
        observations, *_ = env.step(actions)
    assert compared > 100


def test_looks_see_that_nobody_should_be_held_and_change_nothing():
    env = environments(count=8, horizon_s=20.0)
    planner = Looking(SeesRequests(untrained()), parameters("leaf_s=0", "seconds=8.0"), seed=0)
    look_around(planner, env, range(8), np.linspace(1.0, 19.0, 8)[:, None])
    looks = Looks.joined(planner.looks)
    assert len(looks.waiting) == 8
    existing = looks.gains[:, :3]
    # Less of the scores of a class holds it back for eight seconds; other classes there are none.
    assert existing[..., 0].mean() < existing[..., 1].mean() - 0.1
    assert not looks.gains[:, 3:FIRST_TRAIT].any()
    assert planner.steps > 0
    # What it looked from is what the network alone comes to.
    seen = []
    evaluate(
        SeesRequests(untrained()),
        environments(count=8, horizon_s=20.0),
        range(8),
        watch=lambda env: seen.append(env.engine.observations.copy()),
    )
    visited = {row.tobytes() for rows in seen for row in rows}
    assert all(row.tobytes() in visited for row in looks.observations)


def test_a_look_varies_some_outputs_and_says_which():
    env = environments(horizon_s=10.0)
    planner = Looking(SeesRequests(untrained()), parameters("vary=5"), seed=0)
    look_around(planner, env, range(4), np.array([[2.0, 5.0]] * 4))
    looks = Looks.joined(planner.looks)
    assert len(looks.waiting) == 8
    assert (looks.tried.sum(axis=1) == 5).all()
    assert not looks.gains[~looks.tried].any()
    assert looks.tried.any(axis=0).sum() > 8


def test_what_was_not_tried_has_no_say():
    gains, doubts = np.zeros((200, NUM_VARIED, 2)), np.full((200, NUM_VARIED, 2), 0.1)
    drops = FIRST_ADJUSTED + layout.DROPS_CLASS
    gains[:, drops] = -1.0, 1.0
    looks = looks_of(200, gains, doubts)
    looks.tried[:, drops] = False
    fitted, explained = fit(untrained(), looks, parameters(), 0)
    assert explained == 0.0
    np.testing.assert_array_equal(fitted, untrained())


def test_a_planner_that_looks_plays_as_its_network():
    alone = evaluate(SeesRequests(untrained()), environments(), range(4))
    planner = Looking(SeesRequests(untrained()), parameters("seconds=2.0"), seed=0)
    looking = evaluate(planner, environments(), range(4))
    np.testing.assert_array_equal(looking["return"], alone["return"])
    assert len(planner.looks) >= 4


def test_what_gains_beyond_doubt_is_wanted_and_what_is_doubtful_is_not():
    gains, doubts = np.zeros((3, NUM_VARIED, 2)), np.full((3, NUM_VARIED, 2), 0.1)
    gains[0, 0] = -5.0, 5.0
    gains[1, 1] = 5.0, -5.0
    gains[2, 2] = 0.01, -0.01
    found = targets(looks_of(3, gains, doubts), 1.0)
    assert found[0, 0] > 0.99
    assert found[1, 1] < -0.99
    assert -0.1 < found[2, 2] < 0.0
    found[[0, 1, 2], [0, 1, 2]] = 0.0
    assert not found.any()


def test_a_fit_moves_outputs_where_looks_say_so_and_leaves_the_others():
    gains, doubts = np.zeros((400, NUM_VARIED, 2)), np.full((400, NUM_VARIED, 2), 0.1)
    looks = looks_of(400, gains, doubts)
    more = looks.observations[:, layout.MACHINE_COLUMNS[layout.KV_USE]] > 0.5
    drops = FIRST_ADJUSTED + layout.DROPS_CLASS
    gains[more, drops], gains[~more, drops] = (-1.0, 1.0), (1.0, -1.0)
    start = untrained()
    fitted, explained = fit(start, looks, parameters("updates=400"), 0)
    assert explained > 0.5
    with torch.no_grad():
        before, after = (
            forward(torch.from_numpy(w), looks.observations, looks.waiting).adjusted.numpy()
            for w in (start, fitted)
        )
    moved = after - before
    assert moved[more, layout.DROPS_CLASS].mean() > 0.5
    assert moved[~more, layout.DROPS_CLASS].mean() < -0.5
    assert np.abs(moved[:, layout.DROPS_NOBODY]).mean() < 0.2


def test_leaves_learn_what_is_to_come():
    rng = np.random.default_rng(0)
    seen = rng.random((3000, 12), dtype=np.float32)
    returns = 40.0 + 30.0 * seen[:, 0].astype(np.float64) * seen[:, 1] + rng.normal(0.0, 0.5, 3000)
    leaves = Leaves.fitted(seen, returns, 0)
    assert leaves.explained[0] > 0.9
    assert np.abs(leaves(seen) - returns).mean() < 2.0


def test_a_budget_too_small_for_a_round_is_one_message(tmp_path, capsys):
    assert train(tmp_path / "run", timesteps=2000) == 2
    assert "iterations for one round" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["looks/gains", "looks/doubts", "leaves/hidden", "stopped/observations", "notes"]
)
def test_a_state_of_another_shape_is_refused(whole, tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / "cut"
    cut_after_a_round(folder, monkeypatch)
    arrays, content = read_state(folder / STATE)
    if name == "notes":
        content["notes"] = [{"round": 0}]
    else:
        arrays[name] = np.zeros((2, 2))
    write_state(folder / STATE, arrays, content)
    capsys.readouterr()
    assert main(["--resume", str(folder)]) == 2
    assert name in capsys.readouterr().err


def test_other_problems_are_refused(tmp_path, capsys):
    given = ["--algorithm", "expert-iteration", "--env", "papi_env/Serving-v0", "--scenarios"]
    assert main([*given, "saturated/llama-65b", "--episodes", "1", "--out", str(tmp_path / "run")]) == 2
    assert "sees requests" in capsys.readouterr().err
