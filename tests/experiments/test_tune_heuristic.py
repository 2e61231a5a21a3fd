"""Tuning the serving heuristic: what is stored, that a study goes on, and what is refused."""

import json

import pytest

from agents.serving_heuristic import RANGES, Parameters, as_table, parameters_from
from experiments import tune_heuristic

SMALL = (
    "--families", "tight-objectives",
    "--models", "llama-65b",
    "--no-default",
    "--seeds", "1",
    "--horizon-s", "2",
)  # fmt: skip


def tune(out, *arguments):
    return tune_heuristic.main([*SMALL, "--out", str(out), *arguments])


def test_a_study_keeps_its_budget_and_goes_on(tmp_path, monkeypatch):
    played = []
    real = tune_heuristic.score

    def counted(parameters, envs, seeds):
        played.append(parameters)
        return real(parameters, envs, seeds)

    monkeypatch.setattr(tune_heuristic, "score", counted)
    assert tune(tmp_path, "--trials", "2") == 0
    first = json.loads((tmp_path / "parameters.json").read_text())["tight-objectives"]
    assert len(played) == first["trials"] == 2
    # The guess is tried first.
    assert as_table(played[0]) == as_table(Parameters())
    assert tune(tmp_path, "--trials", "3") == 0
    found = json.loads((tmp_path / "parameters.json").read_text())["tight-objectives"]
    assert len(played) == found["trials"] == 3
    assert found["score"] >= max(first["score"], found["score_of_guess"])
    assert found["simulated_requests"] > first["simulated_requests"] > 0
    assert found["training_seeds"] == [1_000_000, 1_000_000]
    best = parameters_from("found", found["parameters"])
    for name, span in RANGES.items():
        assert span.low <= getattr(best, name) <= span.high


def test_a_study_of_something_else_is_refused(tmp_path, capsys):
    assert tune(tmp_path, "--trials", "1") == 0
    assert tune(tmp_path, "--trials", "1", "--seed", "7") == 2
    assert "holds a study of" in capsys.readouterr().err
    assert tune(tmp_path, "--trials", "0") == 2
    assert "trials is 0" in capsys.readouterr().err


def test_parameters_are_stored_beside_those_of_other_families(tmp_path, monkeypatch):
    file = tmp_path / "serving_heuristic.json"
    file.write_text(json.dumps({"light": {"parameters": as_table(Parameters(urgent=0.3))}}))
    monkeypatch.setattr(tune_heuristic, "PARAMETER_FILE", file)
    assert tune(tmp_path / "run", "--trials", "1", "--write") == 0
    stored = json.loads(file.read_text())
    assert set(stored) == {"light", "tight-objectives"}
    assert stored["light"]["parameters"]["urgent"] == pytest.approx(0.3)
