"""The examples run, and show what they say."""

import contextlib
import importlib
import io
import json
from pathlib import Path

import pytest

import experiments.examples

HERE = Path(experiments.examples.__file__).parent
# Small budgets, and what is printed.
BUDGETS = {
    "own_policy": (["--seeds", "2"], ("band", "optimum*")),
    "own_machine": (["--seeds", "2"], ("threshold", "Did you mean 'papi-1gpu'")),
    "own_trace": (["--requests", "20"], ("heuristic", "ttft_p99_s")),
    "train_sb3": (["--steps", "2048", "--envs", "32", "--seeds", "2"], ("PPO", "oracle*")),
}


def printed(run):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run()
    return out.getvalue()


def test_every_example_has_a_budget():
    assert set(BUDGETS) == {path.stem for path in HERE.glob("[!_]*.py")}


@pytest.mark.parametrize("name", BUDGETS)
def test_it_runs(name):
    if name == "train_sb3":
        pytest.importorskip("stable_baselines3")
    arguments, words = BUDGETS[name]
    text = printed(lambda: importlib.import_module(f"experiments.examples.{name}").main(arguments))
    for word in words:
        assert word in text


def test_a_rule_with_a_band_changes_units_no_more_often_than_without():
    rows = printed(lambda: importlib.import_module("experiments.examples.own_policy").main(["--seeds", "2"]))
    changes = {line.split()[0]: float(line.split()[3]) for line in rows.splitlines()[1:]}
    assert 0 < changes["band"] <= changes["threshold"]


def test_the_notebook_runs_cell_by_cell():
    book = json.loads((HERE / "problem.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in book["cells"])
    names = {}

    def run():
        for number, cell in enumerate(cells):
            exec(compile(cell, f"cell {number}", "exec"), names)

    text = printed(run)
    assert "28 iterations on the GPUs, then 432 on FC-PIM" in text
    assert "4.901 s, 6074 J" in text
