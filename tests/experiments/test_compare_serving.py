"""Serving presets compared from the command line: files, numbers that can be recomputed, learned policies, refusals."""

import io
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    save_checkpoint,
)
from agents.learned.networks import Architecture
from experiments.arena import frame
from experiments.arena.entries import default_policies
from experiments.arena.estimators.seeds import position_estimate, ratio_of_means
from experiments.arena.figures.goodput import figure
from experiments.arena.measures import ENERGY_CAUSES, measures
from experiments.arena.tables.goodput import print_report
from experiments.compare import BATCH_OPTIONS, SERVING_SCENARIOS, Config, main, resolve
from experiments.splitting.definition import DECODE, SERVING
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as at
from tests.experiments.commands import called, lose_a_job

# Tokens come too slowly without speculation, so that schedulers differ within two seconds.
TINY = """
{system}
model = "llama-65b"
[serving]
horizon_s = 2.0
arrivals = {{ process = "poisson", rate_per_s = {rate} }}
lengths = {{ input = 300, output = 8 }}
objectives = {{ ttft_s = 0.5, tpot_s = 0.05 }}
max_running = 16
"""
ENTRIES = ["papi/threshold-spec2", "papi/heuristic", "papi/oracle"]
FIXED = (1, 1, 2, 1)  # by options of the action space
FIXED_NAME = "fixed-fc-pim-2-all-on"
USERS = """
import numpy as np

class Fixed:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.tile([1, 1, 2, 1], (len(observation), 1)), state
"""


def command(*arguments):
    return called(main, "--env", SERVING, *arguments)


def write_scenario(folder, name, rate=20.0, system='system = "papi"'):
    path = folder / f"{name}.toml"
    path.write_text(TINY.format(rate=rate, system=system))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_scenario(tmp_path_factory.mktemp("scenario"), "tiny")


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    busy = write_scenario(tiny.parent, "busy", rate=24.0)
    arguments = ["--scenario", tiny, busy, "--seed", 3, "--seeds", 3, "--jobs", 1, "--entries", *ENTRIES]
    status, out, err = command(*arguments, "--out", folder)
    assert status == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    return folder, arguments, out, pl.read_csv(folder / "results.csv"), summary


def saved(folder, env=SERVING):
    """The folder of a policy that always does the same, and of its kind for `env`."""
    serving = env == SERVING
    names, options = (at.OBSERVATION_NAMES, at.NVEC) if serving else (layout.OBSERVATION_NAMES, (2,))
    options = tuple(int(count) for count in options)
    architecture = Architecture(
        inputs=len(names), hidden=(), activation="tanh", head="categorical", options=options
    )
    description = Description(
        algorithm="PPO",
        env=env,
        observation=ObservationLayout(names=names),
        action=ActionLayout(options=options),
        architecture=architecture,
        masked=False,
    )
    bias = np.concatenate(
        [np.arange(count) == choice for count, choice in zip(options, FIXED, strict=False)]
    ).astype(np.float32)
    weights = np.zeros((sum(options), len(names)), dtype=np.float32)
    return save_checkpoint(folder, Checkpoint(description, {"head.weight": weights, "head.bias": bias}))


def test_the_folder_holds_what_ran_and_what_came_out(finished):
    folder, _, _, rows, summary = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "jobs.json", "results.csv", "summary.json", "compare.png"}
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "compare"
    assert record["configuration"]["problem"] == SERVING
    assert record["configuration"]["entries"] == ENTRIES
    assert record["configuration"]["references"] == ["papi/threshold"]
    assert record["configuration"]["seeds"] == {"first": 3, "count": 3}
    assert [s["serving"]["arrivals"]["rate_per_s"] for s in record["configuration"]["settings"]] == [20, 24]
    assert record["sessions"][0]["jobs"] == 4 * 2
    assert rows.select("entry", "scenario", "seed").rows() == [
        (entry, scenario, seed)
        for entry in (*ENTRIES, "papi/threshold")
        for scenario in ("tiny", "busy")
        for seed in (3, 4, 5)
    ]
    assert set(measures(SERVING)) <= set(rows.columns)
    assert summary["instances"] == 6
    # Every policy meets the same requests.
    assert rows.group_by("scenario", "seed").agg(pl.col("arrived").n_unique())["arrived"].max() == 1


def test_figures_can_be_recomputed_from_the_rows(finished):
    _, _, _, rows, summary = finished
    assert np.allclose(rows["goodput"], rows["good_tokens"] / rows["time_s"])
    assert np.allclose(rows["attainment"], rows["attained"] / (rows["finished"] + rows["rejected"]))

    def goodput(entry, scenario):
        found = rows.filter((pl.col("entry") == entry) & (pl.col("scenario") == scenario))
        return found["goodput"].mean()

    for row in summary["entries"]:
        entry = row["entry"]
        ratios = []
        for scenario, found in row["by_scenario"].items():
            assert found["goodput"]["value"] == pytest.approx(goodput(entry, scenario))
            ratios.append(goodput(entry, scenario) / goodput("papi/threshold", scenario))
            assert found["ratio"]["value"] == pytest.approx(ratios[-1])
        assert row["ratio"]["value"] == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
        own = rows.filter(pl.col("entry") == entry)
        assert row["goodput"]["value"] == pytest.approx(own["goodput"].mean())
        for name in ("attainment", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s", "j_per_token"):
            assert row["means"][name] == pytest.approx(own[name].mean())
        for scope in (row, *row["by_scenario"].values()):
            for name in ("goodput", "ratio"):
                assert scope[name]["low"] <= scope[name]["value"] <= scope[name]["high"]
    assert summary["entries"][-1]["ratio"] == {"value": 1, "low": 1, "high": 1}
    # Otherwise the scenarios would show nothing.
    assert summary["entries"][1]["ratio"]["low"] > 1.05


def test_energy_by_cause_are_shares_of_all_joules(finished):
    _, _, out, rows, summary = finished
    row = summary["entries"][0]
    own = rows.filter(pl.col("entry") == row["entry"])
    shares = row["energy_by_cause"]
    assert tuple(shares) == ENERGY_CAUSES
    assert sum(shares.values()) == pytest.approx(1, rel=1e-12)
    for cause, share in shares.items():
        assert share == pytest.approx((own[f"{cause}_j"] / own["total_j"]).mean(), rel=1e-12)
    (header,) = [line for line in out.splitlines() if line.startswith("energy % by cause")]
    assert header.split()[-7:] == list(ENERGY_CAUSES)


def test_the_tables_have_every_scenario_and_mark_privileged_entries(finished):
    _, _, out, _, summary = finished
    lines = out.splitlines()
    shown = ["papi/threshold-spec2", "papi/heuristic", "papi/oracle*"]
    starts = [lines.index(line) for line in lines if line.startswith(("all scenarios", "tiny", "busy"))]
    assert len(starts) == 3
    for start in starts:
        assert [line.split()[0] for line in lines[start + 1 : start + 4]] == shown
    row = summary["entries"][1]["by_scenario"]["busy"]
    cells = lines[starts[2] + 2].replace("[", "").replace("]", "").replace(",", "").split()
    assert float(cells[1]) == pytest.approx(row["goodput"]["value"], rel=5e-3)
    assert float(cells[4]) == pytest.approx(row["ratio"]["value"], rel=5e-3)
    assert float(cells[7]) == pytest.approx(100 * row["means"]["attainment"], abs=0.051)
    assert float(cells[8].split("/")[1]) == pytest.approx(row["means"]["ttft_p99_s"], abs=0.0051)
    assert float(cells[9].split("/")[0]) == pytest.approx(1e3 * row["means"]["tpot_p50_s"], abs=0.51)
    assert float(cells[10]) == pytest.approx(row["means"]["j_per_token"], abs=0.0051)
    assert max(map(len, lines)) <= 100
    text = " ".join(out.split())
    for said in ("over that of papi/threshold", "6 instances (2 scenarios x 3 seeds)", "privileged", SERVING):
        assert said in text
    best = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    print_report(best, summary, {"wall_s": 1.0, "cores": 1, "jobs_reused": 0})
    bold = [line for line in best.file.getvalue().splitlines() if "\x1b[1mpapi/" in line]
    assert len(bold) == 3
    assert not any("oracle" in line for line in bold)


def test_a_lost_job_is_made_up_for_with_the_same_results(finished):
    folder, arguments, _, _, _ = finished
    before = {name: (folder / name).read_bytes() for name in ("results.csv", "summary.json")}
    lose_a_job(folder)
    status, out, _ = command(*arguments, "--out", folder)
    assert status == 0
    assert "7 jobs taken from earlier sessions" in out
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_another_configuration_does_not_mix_with_a_run(finished):
    folder, arguments, _, _, _ = finished
    for extra, said in (
        (["--entries", "papi/heuristic"], "entries"),
        (["--entries", *ENTRIES, "--seeds", 4], "seeds.count: 3 there, 4 asked"),
        (["--entries", *ENTRIES, "--baseline", "papi/oracle"], "baseline: papi/threshold there"),
        (["--entries", *ENTRIES, "--energy-weight", 0.5], "energy_weight"),
    ):
        status, _, err = command(*arguments[: arguments.index("--entries")], *extra, "--out", folder)
        assert status == 2
        assert said in err


def test_an_interrupted_run_says_how_to_go_on(tiny, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    arguments = ["--scenario", tiny, "--entries", "papi/random", "--seeds", 2, "--jobs", 1]
    with monkeypatch.context() as patch:
        patch.setattr(frame.Match, "function", interrupted)
        status, _, err = command(*arguments, "--out", tmp_path / "run")
    assert status == 130
    assert f"--out {tmp_path / 'run'}" in err.replace("\n", "")
    assert command(*arguments, "--out", tmp_path / "run")[0] == 0
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [session["status"] for session in sessions] == ["interrupted", "finished"]


def test_learned_policies_and_classes_of_ones_own_play_beside_rules(tiny, tmp_path, monkeypatch):
    (tmp_path / "users_fixed.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = saved(tmp_path / "best")
    entries = [f"papi/{FIXED_NAME}", f"papi/{folder}", "papi/users_fixed:Fixed"]
    assert entries[1].startswith("papi//")  # as `experiments.train` prints it
    arguments = ["--scenario", tiny, "--entries", *entries[:2], "--policy", "users_fixed:Fixed"]
    arguments += ["--seeds", 2, "--jobs", 1, "--out", tmp_path / "run"]
    status, _, err = command(*arguments)
    assert status == 0, err
    rows = pl.read_csv(tmp_path / "run" / "results.csv")
    rule, learned, own = (
        rows.filter(pl.col("entry") == entry).select("seed", *measures(SERVING)) for entry in entries
    )
    assert learned.equals(rule)
    assert own.equals(rule)
    # What is in the folder is part of what ran.
    sources = json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["policy_sources"]
    assert set(sources) == {str(folder), "users_fixed:Fixed"}


def test_a_policy_of_another_problem_is_refused_by_name(tiny, tmp_path):
    folder = saved(tmp_path / "decode", env=DECODE)
    arguments = ["--scenario", tiny, "--seeds", 1, "--out", tmp_path / "run"]
    status, out, err = command(*arguments, "--entries", "papi/threshold", f"papi/{folder}")
    assert (status, out) == (2, "")
    assert f"Entry 'papi/{folder}': this policy was trained on {DECODE}, but {SERVING} is played" in err
    status, _, err = command(*arguments, "--entries", "papi/static-fc-pim")
    assert status == 2
    assert "Entry 'papi/static-fc-pim': Static dispatches static batches and image encodes" in err
    folder = saved(tmp_path / "serving")
    arguments = ["--env", DECODE, "--scenario", "general-qa/opt-30b", "--batch-sizes", 2, "--seeds", 1]
    status, _, err = command(*arguments, "--entries", f"papi/{folder}", "--out", tmp_path / "run")
    assert status == 2
    assert f"trained on {SERVING}, but {DECODE} is played" in err
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_has_rows_and_a_reason(tiny, tmp_path):
    entries = ["papi-1gpu/threshold", "papi/heuristic"]
    arguments = ["--scenario", tiny, "--entries", *entries, "--seeds", 1, "--jobs", 1]
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert status == 0, err
    rows = pl.read_csv(tmp_path / "run" / "results.csv")
    assert rows.select("entry", pl.col("goodput").is_null()).rows() == [
        ("papi-1gpu/threshold", True),
        ("papi/heuristic", False),
        ("papi/threshold", False),
    ]
    assert "GB" in rows["note"][0]
    row = json.loads((tmp_path / "run" / "summary.json").read_text())["entries"][0]
    assert row["does_not_fit"] == [f"tiny: {rows['note'][0]}"]
    assert row["ratio"] == {"value": None, "low": None, "high": None}
    assert "papi-1gpu/threshold†" in out
    assert "Its row covers 0 of 1 scenarios" in " ".join(out.split())
    # One seed: values without intervals.
    assert "[" not in next(line for line in out.splitlines() if line.startswith("papi/heuristic"))
    baseline = ["--baseline", "papi-1gpu/threshold"]
    status, out, err = command(*arguments, *baseline, "--out", tmp_path / "other")
    assert status == 0, err
    assert "papi-1gpu/threshold does not fit, or has no good token, in tiny" in " ".join(out.split())


def test_the_defaults_are_rules_and_an_oracle_on_three_kinds_of_load():
    comparison = resolve(Config(env=SERVING))
    assert [scenario.name for scenario in comparison.scenarios] == list(SERVING_SCENARIOS)
    assert [str(entry) for entry in comparison.entries] == [
        f"papi/{p}" for p in default_policies("compare serving")
    ]
    assert str(comparison.baseline) == "papi/threshold"
    assert comparison.seeds == tuple(range(8))
    assert not any(cell.refusal or cell.reference for cell in comparison.cells)
    assert resolve(Config(env=SERVING, seeds=3, scenarios=("light/llama-65b",))).seeds == (0, 1, 2)
    assert len(resolve(Config(scenarios=("general-qa/opt-30b",))).seeds) == 50


def test_a_family_stands_for_its_presets():
    grid = resolve(Config(env=SERVING, scenarios=("light/gpt3-175b", "light"), energy_weight=0.25)).scenarios
    assert [s.name for s in grid] == [f"light/{m}" for m in ("gpt3-175b", "llama-65b", "llama2-70b")]
    assert {s.energy_weight for s in grid} == {0.25}


def test_a_scenarios_own_system_is_what_the_defaults_run_on(tmp_path):
    path = write_scenario(tmp_path, "mine", system='[system]\nbase = "papi"\nname = "papi-own"')
    path.write_text(path.read_text().replace('model = "llama-65b"\n', ""))
    path.write_text('model = "llama-65b"\n' + path.read_text())
    comparison = resolve(Config(env=SERVING, scenarios=(str(path),)))
    assert {entry.system for entry in comparison.entries} == {"papi-own"}
    assert str(comparison.baseline) == "papi-own/threshold"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--batch-sizes", "4", "--speculation", "2"],
            f"--batch-sizes, --speculation: not used with {SERVING}",
        ),
        (["--requests", "mine.csv", "--input-column", "lin"], "--requests, --input-column: not used with"),
        (["--categories", "x"], "--categories: not used with"),
        (["--beyond-context", "truncate"], "--beyond-context: not used with"),
        (["--acceptance-rate", "0.5"], "--acceptance-rate: not used with"),
        (["--scenario", "general-qa/llama-65b"], "'general-qa/llama-65b' has no serving part"),
        (["--scenario", "saturatd"], "Did you mean 'saturated/llama-65b'"),
        (["--env", DECODE, "--scenario", "light/llama-65b"], f"--env {SERVING} alone plays it"),
        (["--entries", "papi/thresold"], "Did you mean 'threshold'"),
        (["--entries", "pap/threshold"], "Did you mean 'papi'"),
        (["--entries", "papi/no/such/folder"], "no/such/folder"),
        (["--entries", "papi-1gpu/threshold"], "No scenario fits any entry's system"),
        (["--baseline", "papi"], "SYSTEM/POLICY"),
        (["--baseline", "thresold"], "Did you mean 'threshold'"),
        (["--seeds", "0"], "--seeds 0"),
        (["--jobs", "-1"], "--jobs is -1"),
    ],
)
def test_what_cannot_be_used_is_answered_with_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--scenario", "light/llama-65b"] if "--scenario" not in arguments else []
    status, out, err = command(*options, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_figure_takes_any_summary(finished):
    summary = finished[4]
    none = {"value": None, "low": None, "high": None}
    nothing = {"goodput": none, "ratio": none}
    bare = [{**row, **nothing, "by_scenario": {"one": nothing}} for row in summary["entries"]]
    names = [f"family-{k}/model" for k in range(5)]
    many = [
        {**row, "by_scenario": dict.fromkeys(names, row), "entry": f"papi//a/long/path/to/policy-{k}/best"}
        for k, row in enumerate(summary["entries"][:-1] * 2)
    ] + [{**summary["entries"][-1], "by_scenario": dict.fromkeys(names, summary["entries"][-1])}]
    for scenarios, entries in ((["one"], bare), (names, many)):
        picture = figure({**summary, "scenarios": scenarios, "entries": entries})
        assert picture.startswith(b"\x89PNG")


# --- ratios of means ----------------------------------------------------------------------------------

few = settings(max_examples=30, deadline=None)
positive = hnp.arrays(np.float64, (2, 6), elements=st.floats(1, 1e4))


@few
@given(positive, st.floats(0.1, 10))
def test_a_constant_ratio_is_found_exactly(base, ratio):
    found = ratio_of_means(ratio * base, base)
    assert (found.value, found.low, found.high) == pytest.approx((ratio,) * 3, rel=1e-9)


# Seeds of a scenario differ by less; beyond, a quantile lies far from the resamples on either side of it.
alike = hnp.arrays(np.float64, (2, 6), elements=st.floats(1, 30))


@few
@given(alike, alike)
def test_ratios_turn_around_with_what_they_compare(first, second):
    there, back = ratio_of_means(first, second), ratio_of_means(second, first)
    assert there.low <= there.value <= there.high
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1, rel=1e-2)  # quantiles lie between resamples


@few
@given(positive, positive)
def test_one_stratum_is_the_position_above_nothing(values, base):
    found = ratio_of_means(values[:1], base[:1])
    expected = position_estimate(values[0], np.zeros(6), base[0])
    for name in ("value", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_episodes_without_a_good_token_have_a_place():
    base, values = np.array([[0.0, 10.0, 20.0]]), np.array([[0.0, 0.0, 60.0]])
    found = ratio_of_means(values, base)
    assert found.value == pytest.approx(2)
    assert found.low == 0
    # A third of a third of a third of all resamples has nothing below the line, and nothing above it either.
    assert math.isfinite(found.high)
    # Here some of them have something above it: no end is far enough.
    found = ratio_of_means(np.array([[50.0, 50.0, 60.0]]), np.array([[0.0, 0.0, 20.0]]))
    assert found.value == pytest.approx(8)
    assert math.isnan(found.high)
    assert ratio_of_means(np.zeros((1, 3)), base).value == 0
    assert math.isnan(ratio_of_means(np.zeros((0, 3)), np.zeros((0, 3))).value)
    assert math.isnan(ratio_of_means(values[:, 2:], base[:, 2:]).low)


def test_options_of_static_batches_are_options(tmp_path):
    options = vars(Config(env=SERVING))
    assert set(BATCH_OPTIONS) < set(options)
    with pytest.raises(ConfigurationError, match="--batch-sizes"):
        resolve(Config(env=SERVING, batch_sizes=(4,)))
