"""Training by evolution: it learns from what episodes earn, resumes to the bit, and says what it cannot do."""

import re
import shutil

import numpy as np
import pytest

from agents.learned.checkpoint import load_checkpoint
from agents.learned.request_network import RequestNetwork
from experiments.common.runner import ROOT
from experiments.train import main
from experiments.training.record import BEST, STATE
from experiments.training.state import read_state, write_state

PRETRAINED = ROOT / "agents" / "pretrained"
SMALL = ["pairs=2", "sigma=0.1", "settings=1", "episodes=1", "horizon_s=2.0"]
COMMON = ["--algorithm", "evolution", "--env", "papi_env/Serving-v1", "--scenarios", "chats/llama-65b"]
COMMON += ["--episodes", "1", "--validations", "2"]


def train(folder, *more, hyper=SMALL, timesteps=40_000):
    return main([*COMMON, "--timesteps", str(timesteps), "--out", str(folder), "--hyper", *hyper, *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evolution") / "whole"
    assert train(folder) == 0
    return folder


def test_a_run_leaves_a_policy_that_has_moved(whole):
    policy = load_checkpoint(whole / BEST)
    assert policy.description.algorithm == "Evolution"
    assert (whole / "curves.png").exists()
    rows = (whole / "evaluations.csv").read_text().splitlines()
    assert len(rows) >= 3


def test_a_resumed_run_ends_as_one_run_would(whole, tmp_path, monkeypatch, capsys):
    import experiments.training.evolution as module

    folder = tmp_path / "cut"
    step = module.Evolved.step
    calls = []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(module.Evolved, "step", interrupted)
    assert train(folder) == 130
    monkeypatch.setattr(module.Evolved, "step", step)
    assert main(["--resume", str(folder)]) == 0
    last, expected = (load_checkpoint(run / "last").weights for run in (folder, whole))
    for name in expected:
        np.testing.assert_array_equal(last[name], expected[name])


def test_traffics_are_gone_on_with_and_resumed(tmp_path, monkeypatch):
    import experiments.training.evolution as module
    import experiments.training.phased as phased

    # So few steps make nothing better: let any digit decide what is best.
    monkeypatch.setattr(
        phased, "score", lambda _env, _setting, returns, _offered: 1e5 * np.sum(returns) % 1.0
    )
    scenarios = ["--scenarios", "chats/llama-65b", "bursts/llama-65b", "bursts/llama-3.1-70b"]
    hyper = [*SMALL, "apart=0.5"]
    assert train(tmp_path / "whole", *scenarios, hyper=hyper, timesteps=150_000) == 0
    expected = load_checkpoint(tmp_path / "whole" / "last")
    assert expected.description.architecture.traffics == ("chats", "tiers")
    together, *apart = (expected.weights[f"{of}query.output"] for of in ("", "chats/", "tiers/"))
    assert any((together != of).any() for of in apart)

    step, calls = module.Evolved.step, []

    def interrupted(self):
        calls.append(self.steps)
        if self.steps > 110_000 and len(calls) > 1:
            self.keep_state()
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(module.Evolved, "step", interrupted)
    assert train(tmp_path / "cut", *scenarios, hyper=hyper, timesteps=150_000) == 130
    monkeypatch.setattr(module.Evolved, "step", step)
    assert main(["--resume", str(tmp_path / "cut")]) == 0
    last = load_checkpoint(tmp_path / "cut" / "last")
    for name in expected.weights:
        np.testing.assert_array_equal(last.weights[name], expected.weights[name])


@pytest.mark.parametrize("apart", ["apart=1", "apart=0.5"])
def test_another_policy_is_gone_on_from(tmp_path, monkeypatch, apart):
    import experiments.training.phased as phased

    scenarios = ["--scenarios", "chats/llama-65b", "bursts/llama-65b"]
    small = [*SMALL, apart]
    assert train(tmp_path / "first", *scenarios, hyper=[*SMALL, "apart=0.5"], timesteps=80_000) == 0
    kept = tmp_path / "first" / "last"
    begun, network = load_checkpoint(kept), RequestNetwork(traffics=("chats", "tiers"))

    def near(self, candidates, settings, first):  # nothing is better than what was there
        there = network.flat(begun.weights, self.phase.traffic)
        return [-float(np.abs(weights - there).sum()) for weights in candidates]

    with monkeypatch.context() as patched:
        patched.setattr(phased.Phased, "scores", near)
        assert train(tmp_path / "on", *scenarios, "--start", str(kept), hyper=small, timesteps=80_000) == 0
    last = load_checkpoint(tmp_path / "on" / "last")
    for name in last.weights:
        np.testing.assert_array_equal(last.weights[name], begun.weights[name])
    # Another policy in that place is another training.
    shutil.rmtree(kept)
    shutil.copytree(PRETRAINED / "serving-v1", kept)
    assert main(["--resume", str(tmp_path / "on")]) == 2


def test_a_damaged_state_is_refused(whole, tmp_path, capsys):
    folder = tmp_path / "damaged"
    assert train(folder) == 0
    data = bytearray((folder / STATE).read_bytes())
    data[-5] ^= 1
    (folder / STATE).write_bytes(data)
    assert main(["--resume", str(folder)]) == 2
    assert "digest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--env", "papi_env/Serving-v0", "--scenarios", "saturated/llama-65b"], "sees requests"),
        (["--tune", "2"], "--tune"),
        (["--hyper", "pairs=0"], "pairs"),
        (["--hyper", "gamma=0.9"], "gamma"),
        (["--start", str(PRETRAINED / "decode-v0")], "expected one that sees requests"),
        (["--start", str(PRETRAINED / "decode-v0"), "--algorithm", "ppo"], "--start is of evolution"),
    ],
)
def test_what_it_cannot_do_is_one_message(tmp_path, capsys, arguments, says):
    given = ["--algorithm", "evolution", "--env", "papi_env/Serving-v1", "--scenarios", "chats/llama-65b"]
    assert main([*given, "--episodes", "1", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generation": 10**400}, "generation is 1000.*, expected a count"),
        ({"phase": 7}, "phase is 7, expected at most 1"),
        ({"simulated_s": 10**400}, "simulated_s is 1000.*, expected a finite number"),
        ({"best_score": "a"}, "best_score is 'a', expected a finite number"),
    ],
)
def test_a_state_with_other_numbers_is_refused(whole, tmp_path, change, said, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(whole, folder)
    arrays, content = read_state(folder / STATE)
    write_state(folder / STATE, arrays, {**content, "numbers": {**content["numbers"], **change}})
    assert main(["--resume", str(folder)]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_weights_that_no_policy_can_hold_are_refused(whole, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(whole, folder)
    arrays, content = read_state(folder / STATE)
    arrays["weights"][3] = 1e300
    write_state(folder / STATE, arrays, content)
    assert main(["--resume", str(folder)]) == 2
    assert "weights holds numbers that are not finite, or too large" in capsys.readouterr().err
