"""Sweeps: three searches over a grid of four designs, going on, limits as rows, and files that are wrong."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from experiments.common.parts import scan
from experiments.common.runner import ROOT
from experiments.reporting.registry import sections_of
from experiments.sweep import main, resolve
from experiments.sweeping.definition import load_sweep
from experiments.sweeping.fronts import front, undominated
from experiments.sweeping.search import batches
from papi_env.errors import DataError
from papi_env.workload.traces import parquet
from tests.experiments.commands import called

FPUS, BANKS = "system.fc_pim.fpus_per_bank", "system.fc_pim.stack.banks_per_die"
# Of the four designs, one exceeds the die: four FPUs beside each of 128 banks.
TINY = f"""
scenarios = ["creative-writing/llama-65b"]
seeds = 2
population = 3
[[schedulers]]
name = "threshold"
policies = ["threshold"]
[[schedulers]]
name = "best"
policies = ["threshold", "oracle"]
[[objectives]]
measure = "tokens_per_s"
goal = "max"
[[objectives]]
measure = "j_per_token"
goal = "min"
[[axes]]
paths = "{FPUS}"
values = [1, 4]
[[axes]]
paths = "{BANKS}"
values = [96, 128]
[question]
name = "4P1B"
paths = ["{FPUS}", "{BANKS}"]
values = [4, 96]
"""


@pytest.fixture
def write(tmp_path):
    """Writes the file with some of its text replaced, and lines before it; returns its path."""

    def file(*changes, before="", name="tiny"):
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(before + text)
        return path

    return file


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Folder and output of the grid."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.toml").write_text(TINY)
    status, out, err = called(main, folder / "tiny.toml", "--jobs", 1, "--out", folder / "run")
    assert status == 0, err
    return folder / "run", out


def test_a_report_shows_all_designs_that_fit(played):
    found = {part.title: part for part in sections_of([played[0]])[0].parts}
    for name, one in json.loads((played[0] / "summary.json").read_text())["schedulers"].items():
        assert len(found[f"Pareto front: {name}"].rows) == len(one["front"])
        assert len(found[f"All designs: {name}"].rows) == one["designs"]
    assert len(found["Designs"].figure["data"][0]["x"]) > 0


def test_a_report_refuses_a_part_that_has_changed(played, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(played[0], folder)
    first = min((folder / "parts").iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    with pytest.raises(DataError, match=f"{first}: cut off, or changed since it was written"):
        sections_of([folder])


def test_what_would_end_the_process_that_decodes_it_is_not_decoded(played, tmp_path, write, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(played[0], folder)
    tried = []

    def dies(path):
        tried.append(path.name)
        return -6

    monkeypatch.setattr(parquet, "decode_apart", dies)
    with pytest.raises(DataError, match="reading it ends the process, status -6"):
        sections_of([folder])
    whole, tried[:] = parts(folder), []
    # The command plays it again instead.
    path = write()
    assert called(main, path, "--jobs", 1, "--out", folder)[0] == 0
    assert tried == sorted(whole)
    assert parts(folder) == whole


def parts(folder):
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


def test_a_grid_has_a_row_for_all_and_the_reason_for_what_breaks_a_limit(played):
    folder, out = played
    rows = scan(folder).collect()
    assert rows["design"].unique().sort().to_list() == [0, 1, 2, 3]
    refused = rows.filter(pl.col("refused").is_not_null())
    assert refused.select("design", FPUS, BANKS).row(0) == (3, 4.0, 128.0)
    assert "exceed the die" in refused["note"][0]
    kept = rows.filter(pl.col("refused").is_null())
    assert len(kept) == 3 * 2 * 2
    assert (kept["tokens_per_s"] * kept["total_s"] - kept["tokens"]).abs().max() < 1e-6
    # Four FPUs take four times the area of one.
    area = dict(kept.select("design", "fpu_area_mm2").unique().iter_rows())
    assert area[2] > area[0]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["refused"] == {"machine": 1, "capacity": 0, "limit": 0, "policy": 0}
    assert "4P1B under best" in out
    # Nothing schedules better than what knows the costs, so a choice that has it is at least as good.
    best = {k: v["front"][0]["tokens_per_s"] for k, v in summary["schedulers"].items()}
    assert best["best"] >= best["threshold"]
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "jobs").exists()


def test_a_run_goes_on_to_the_same_bytes(played, tmp_path, write, monkeypatch):
    folder, _ = played
    whole = parts(folder)
    from experiments.sweeping import play

    calls, real = [], play.play

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(play, "play", stopped)
    asked = (write(), "--jobs", 1, "--out", tmp_path / "run")
    assert called(main, *asked)[0] == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    done = len(list((tmp_path / "run" / "jobs").glob("*.csv")))
    assert done == 1
    assert called(main, *asked)[0] == 0
    # Two policies of three designs that fit, but for the finished job of one design, and the call that stopped.
    assert len(calls) == 4 + 4
    assert parts(tmp_path / "run") == whole
    # A part that is damaged is played again; one that is whole is not.
    assert called(main, *asked)[0] == 0
    assert len(calls) == 8
    (path,) = (tmp_path / "run" / "parts").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert called(main, *asked)[0] == 0
    assert len(calls) == 14
    assert parts(tmp_path / "run") == whole


@pytest.mark.parametrize("search", ["random", "nsga2"])
def test_other_searches_find_rows_of_the_grid(played, tmp_path, write, search):
    path = write(before=f'search = "{search}"\ndesigns = 7\n')
    status, _, err = called(main, path, "--jobs", 1, "--out", tmp_path / "run")
    assert status == 0, err
    rows, grid = scan(tmp_path / "run").collect(), scan(played[0]).collect()
    assert rows["design"].n_unique() == 7
    shared = [FPUS, BANKS, "policy", "seed", "tokens_per_s", "j_per_token"]
    assert set(rows.select(shared).iter_rows()) <= set(grid.select(shared).iter_rows())
    assert len(parts(tmp_path / "run")) == (3 if search == "nsga2" else 1)
    before = parts(tmp_path / "run")
    # Without its last generation it goes the same way again.
    (tmp_path / "run" / "parts" / max(before)).unlink()
    assert called(main, path, "--jobs", 1, "--out", tmp_path / "run")[0] == 0
    assert parts(tmp_path / "run") == before


def test_limits_of_the_file_and_capacity_are_reasons(tmp_path, write):
    path = write(
        ('"system.fc_pim.fpus_per_bank"\nvalues = [1, 4]', '["system.pu.count", "system.fc_pim.stacks"]\n'
         "values = [[1, 5], [6, 30]]"),
        (TINY[TINY.index("[question]") :], "[limits]\nrated_power_w = 9000\n"),
    )  # fmt: skip
    status, out, err = called(main, path, "--jobs", 1, "--out", tmp_path / "run")
    assert status == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["refused"] == {"machine": 2, "capacity": 1, "limit": 1, "policy": 0}
    assert summary["schedulers"]["best"]["front"] == []
    assert "beyond a limit of the file" in out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fpus_per_bank", "fpu_per_bank", "did you mean 'fpus_per_bank'"),
        ("system.fc_pim.stack", "sytem.fc_pim.stack", "did you mean 'system'"),
        ("values = [1, 4]", "values = []", "no values"),
        ("values = [1, 4]", "low = 4\nhigh = 1\ncount = 2", "is empty"),
        ("values = [1, 4]", "low = 1\nhigh = 4", "needs the count"),
        ("values = [1, 4]", "values = [1, 'four']", "found the text 'four'"),
        ("values = [1, 4]", "values = [1, 1]", "stands there twice"),
        ("values = [1, 4]", "values = [1, 100]", "expected"),
        ('measure = "j_per_token"', 'measure = "tokens_per_s"', "contradict each other"),
        ("j_per_token", "cost", "no prices to add up"),
        ("j_per_token", "joule_per_token", "Did you mean 'j_per_token'"),
        ('policies = ["threshold"]', 'policies = ["treshold"]', "Did you mean 'threshold'"),
        ("values = [4, 96]", "values = [4]", "1 values of 2 paths"),
        ("seeds = 2", "seeds = 2\ndesigns = 3", "a grid tries all"),
        ("seeds = 2", "seeds = 2\nsearch = 'random'", "needs designs"),
        ("seeds = 2", "seed = 2\nlimit = 3", "did you mean 'limits'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_runs(tmp_path, write, old, new, said):
    status, _, err = called(main, write((old, new)), "--out", tmp_path / "run")
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_card_without_a_price_is_a_row_with_the_reason(tmp_path, write):
    path = write(("j_per_token", "cost"), ("values = [1, 4]", "values = [1]"),
                 (TINY[TINY.index("[question]") :], "[prices]\npu = { H100 = 3e4 }\nstack = 240\n"))  # fmt: skip
    status, _, err = called(main, path, "--jobs", 1, "--out", tmp_path / "run")
    assert status == 0, err
    rows = scan(tmp_path / "run").collect()
    assert rows["refused"].to_list() == ["limit"] * 2
    assert "has no 'A100'" in rows["note"][0]


def test_a_part_that_the_scenario_lacks_is_named(tmp_path, write):
    path = write((f'"{BANKS}"\nvalues = [96, 128]', '"images.batch_sizes"\nvalues = [[1]]'),
                 (TINY[TINY.index("[question]") :], ""))  # fmt: skip
    status, _, err = called(main, path, "--out", tmp_path / "run")
    assert status == 2
    assert "the scenario has no images" in err


def test_nothing_that_is_kept_is_dominated_and_all_else_is():
    values = np.random.default_rng(0).integers(0, 6, (200, 2)).astype(float)
    expected = [not any((other <= row).all() and (other < row).any() for other in values) for row in values]
    assert undominated(values).tolist() == expected
    assert 0 < sum(expected) < 200


def test_a_front_is_of_what_is_best_whatever_the_goals(write):
    sweep = load_sweep(write())
    designs = pl.DataFrame(
        {"design": [0, 1, 2], "tokens_per_s": [1.0, 2.0, 2.0], "j_per_token": [1.0, 2.0, 3.0]}
    )
    assert front(designs, sweep)["design"].to_list() == [1, 0]


def test_designs_come_lazily_and_do_not_depend_on_the_batches(write):
    many = "low = 1\nhigh = 64\ncount = 10000"
    sweep = load_sweep(
        write(("values = [1, 4]", many), ("values = [96, 128]", "low = 4\nhigh = 96\ncount = 90"))
    )
    assert sweep.size == 900_000
    assert len(next(batches(sweep, 10))) == 10
    path = write(
        ("values = [1, 4]", "low = 1\nhigh = 64\nlog = true"), before="search = 'random'\ndesigns = 20\n"
    )
    drawn = load_sweep(path)
    one, other = ([d for batch in batches(drawn, most) for d in batch] for most in (20, 7))
    assert one == other
    assert len(set(one)) > 15
    assert all(1 <= design[0] <= 64 for design in one)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "sweeps").glob("*.toml")), ids=lambda path: path.stem
)
def test_shipped_files_can_be_played_and_hold_the_machine_in_question(path):
    sweep = load_sweep(path)
    scenarios, plan = resolve(sweep, path.name)
    assert plan.bases[0]["name"] == scenarios[0].name
    assert sweep.question is not None
    asked = dict(zip(sweep.question.paths, sweep.question.values, strict=True))
    assert any(
        asked.items() <= dict(zip(sweep.paths, design, strict=True)).items() for design in sweep.grid()
    )


# In a process of its own, whose memory is that of the sweep alone: all is as in a real one, but designs are not played.
MANY = """
import resource, sys
from experiments import sweep
from experiments.sweeping import play

def played(plan, first, designs):
    rows = []
    for number, design in enumerate(designs, start=first):
        row = {"design": number, **dict(zip(plan.paths, design)), "scenario": plan.bases[0]["name"]}
        measures = {"return": -1.0 / (1 + number), "tokens_per_s": 1000.0 + design[1], "j_per_token": 1.0 / design[0]}
        rows.append({**row, "policy": plan.policies[0], **measures})
    names = play.columns(plan, [False] * len(plan.paths))
    return {name: [row.get(name) for row in rows] for name in names}

play.play_designs = played
assert sweep.main([*sys.argv[1:], "--jobs", "1"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_sweep_of_a_hundred_thousand_designs_takes_less_than_a_gigabyte(tmp_path):
    head, _, axes = TINY.partition("[[axes]]")
    head = head.replace("seeds = 2", 'seeds = 1\nsearch = "random"\ndesigns = 100000')
    text = head.replace('policies = ["threshold", "oracle"]', 'policies = ["threshold"]') + "[[axes]]" + axes
    (tmp_path / "many.toml").write_text(text)
    (tmp_path / "many.py").write_text(MANY)
    asked = [sys.executable, tmp_path / "many.py", tmp_path / "many.toml", "--out", tmp_path / "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(asked, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert scan(tmp_path / "run").select(pl.len()).collect().item() == 100_000
    peak = int(ran.stdout.splitlines()[-1])
    print(f"{peak / 1e6:.0f} MB at most")
    assert peak < 1e9
