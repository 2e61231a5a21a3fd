"""Scaling: whole commands are timed, results that differ are said, and the page shows the table."""

import json
from dataclasses import replace

import pytest

from experiments import scaling
from experiments.reporting.registry import section_of
from experiments.speed.scaled import Timed, scaled
from papi_env.errors import DataError
from tests.experiments.commands import called

ONE = Timed(10.0, 12.0, ("a", "b"))


def test_medians_are_put_over_those_of_one_process_of_the_same_backend():
    times = {
        ("local", 1): (10, 12, 11),
        ("local", 2): (6, 5, 5),
        ("ray", 1): (9, 9, 30),
        ("ray", 2): (6, 6, 6),
    }
    runs = [(*kind, replace(ONE, jobs_s=s, command_s=s + 3)) for kind, found in times.items() for s in found]
    local, two, ray, two_of_ray = scaled(runs)
    assert (local.jobs_s, local.jobs_over_one, local.command_over_one) == (11, 1, 1)
    assert (two.backend, two.processes, two.jobs_over_one, two.command_over_one) == (
        "local",
        2,
        11 / 5,
        14 / 8,
    )
    assert (ray.jobs_s, two_of_ray.jobs_over_one) == (9, 1.5)


def test_other_results_are_said():
    with pytest.raises(DataError, match=r"not the same in all 2 runs"):
        scaled([("local", 1, ONE), ("local", 2, replace(ONE, results=("a", "c")))])


def test_the_command_times_a_comparison_and_the_page_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "experiments.speed.scaled.COMPARE",
        "--batch-sizes 4 --speculation 1 --entries papi/threshold papi/oracle",
    )
    out = tmp_path / "run"
    status, text, err = called(
        scaling.main, "--backends", "local", "--seeds", 1, "--repeats", 1, "--out", out
    )
    assert status == 0, err
    assert "all results the same bit for bit" in text
    rows = json.loads((out / "summary.json").read_text())["rows"]
    assert [(row["backend"], row["processes"]) for row in rows] == [("local", 1), ("local", 2)]
    assert all(0 < row["jobs_s"] < row["command_s"] for row in rows)
    (table,) = section_of(out).parts
    assert [row[:2] for row in table.rows] == [["local", 1], ["local", 2]]
    assert "experiments.compare --batch-sizes" in table.note


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--seeds", 0], "--seeds is 0"), (["--backends", "rai"], "Unknown backend 'rai'. Did you mean 'ray'?")],
)
def test_what_cannot_be_asked_is_refused(arguments, words, tmp_path):
    status, _, err = called(scaling.main, *arguments, "--out", tmp_path / "run")
    assert status == 2
    assert words in err
