"""The main job from its command line: files, numbers that can be recomputed, resuming, and refusals."""

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from experiments.arena import frame
from experiments.arena.entries import default_entries, default_policies
from experiments.arena.figures.speedup import figure
from experiments.arena.measures import ENERGY_CAUSES
from experiments.arena.tables.speedup import print_report
from experiments.compare import Config, main, resolve
from papi_env.errors import ConfigurationError
from papi_env.scenario import PAPER_SCENARIOS
from papi_env.simulation.batch.engine import METRIC_NAMES
from tests.experiments.commands import called, lose_a_job

ENTRIES = ["a100-attacc/static", "papi/random", "papi/threshold", "papi/oracle"]
SMALL = ["--scenario", "general-qa/opt-30b", "--batch-sizes", "2", "32", "--speculation", "1"]
COMMON = [*SMALL, "--seed", "3", "--seeds", "2", "--jobs", "1"]
USERS = """
import numpy as np

class FcPim:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.ones((len(observation), 7), dtype=int), state
"""


command = partial(called, main)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    status, out, err = command(*COMMON, "--entries", *ENTRIES, "--out", folder)
    assert status == 0, err
    return folder, out, pl.read_csv(folder / "results.csv"), json.loads((folder / "summary.json").read_text())


def test_the_folder_holds_what_ran_and_what_came_out(finished):
    folder, _, rows, summary = finished
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "jobs.json",
        "results.csv",
        "summary.json",
        "compare.png",
    }
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "compare"
    assert record["configuration"]["entries"] == ENTRIES
    assert record["configuration"]["references"] == ["a100-attacc/oracle"]
    assert record["configuration"]["seeds"] == {"first": 3, "count": 2}
    assert record["configuration"]["systems"]["papi"]["fc_pim"]["fpus_per_bank"] == 4
    assert [s["workload"]["batch_size"] for s in record["configuration"]["settings"]] == [2, 32]
    (session,) = record["sessions"]
    assert session["status"] == "finished"
    assert session["command"].startswith("python -m experiments.compare --scenario general-qa/opt-30b")
    assert (session["jobs"], session["jobs_reused"], session["cores"]) == (10, 0, 1)
    assert rows.height == 5 * 2 * 2
    assert {"entry", "scenario", "batch_size", "speculation", "seed", "note", *METRIC_NAMES} <= set(
        rows.columns
    )
    assert summary["instances"] == 4


def test_ratios_can_be_recomputed_from_the_rows(finished):
    _, _, rows, summary = finished
    keys = ["scenario", "batch_size", "speculation", "seed"]
    base = rows.filter(pl.col("entry") == "a100-attacc/static").select(
        *keys, base_s="total_s", base_tokens="tokens"
    )
    oracle = rows.filter(pl.col("policy") == "oracle").select(*keys, "system", best="return")
    joined = rows.join(base, on=keys).join(oracle, on=[*keys, "system"])
    assert joined.height == rows.height
    assert (joined["tokens"] == joined["base_tokens"]).all()
    assert np.allclose(joined["speedup"], joined["base_s"] / joined["total_s"], rtol=1e-14)
    extra = (joined["best"] - joined["return"]) / joined["best"].abs()
    assert np.allclose(joined["regret_percent"], 100 * extra, atol=1e-12)
    assert np.allclose(joined["tokens_per_s"], joined["tokens"] / joined["total_s"])
    assert np.allclose(joined["joules_per_token"], joined["total_j"] / joined["tokens"])
    assert (joined["dynamic_joules_per_token"] < joined["joules_per_token"]).all()
    assert (joined["dynamic_joules_per_token"] > joined["dynamic_j"] / joined["tokens"]).all()
    for row in summary["entries"]:
        own = rows.filter(pl.col("entry") == row["entry"])
        for scope in (row, row["by_scenario"]["general-qa/opt-30b"]):
            assert scope["speedup"]["value"] == pytest.approx(np.exp(own["speedup"].log().mean()))
            assert scope["speedup"]["low"] <= scope["speedup"]["value"] <= scope["speedup"]["high"]
            assert scope["regret_percent"]["value"] == pytest.approx(own["regret_percent"].mean(), abs=1e-12)


def test_the_baseline_has_a_speed_up_of_exactly_one_and_oracles_no_regret(finished):
    _, _, rows, summary = finished
    assert (rows.filter(pl.col("entry") == "a100-attacc/static")["speedup"] == 1).all()
    assert (rows.filter(pl.col("policy") == "oracle")["regret_percent"] == 0).all()
    # Switching is free in Decode-v0, so no policy beats the one-step oracle.
    assert (rows["regret_percent"] >= 0).all()
    assert rows.filter(pl.col("entry") == "papi/random")["regret_percent"].min() > 0
    baseline = next(row for row in summary["entries"] if row["entry"] == "a100-attacc/static")
    assert baseline["speedup"] == {"value": 1, "low": 1, "high": 1}


def test_energy_by_cause_are_shares_of_all_joules(finished):
    _, out, rows, summary = finished
    for row in summary["entries"]:
        own = rows.filter(pl.col("entry") == row["entry"])
        shares = row["energy_by_cause"]
        assert tuple(shares) == ENERGY_CAUSES
        assert sum(shares.values()) == pytest.approx(1, rel=1e-12)
        for cause, share in shares.items():
            assert share == pytest.approx((own[f"{cause}_j"] / own["total_j"]).mean(), rel=1e-12)
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("energy % by cause"))
    assert lines[start].split()[-7:] == list(ENERGY_CAUSES)
    for i, entry in enumerate([*ENTRIES[:3], "papi/oracle*"]):
        cells = lines[start + 1 + i].split()
        assert cells[0] == entry
        shares = next(row for row in summary["entries"] if row["entry"] == entry.rstrip("*"))[
            "energy_by_cause"
        ]
        assert [float(cell) for cell in cells[1:]] == pytest.approx(
            [100 * share for share in shares.values()], abs=0.051
        )


def test_the_table_marks_privileged_entries_and_leaves_out_references(finished):
    _, out, rows, summary = finished
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [*ENTRIES[:3], "papi/oracle*"]
    assert "a100-attacc/oracle" not in out
    assert rows.filter(pl.col("reference"))["entry"].unique().to_list() == ["a100-attacc/oracle"]
    assert max(map(len, lines)) <= 100
    for said in (
        "privileged",
        "α of papi: opt-30b",
        "hbm3",
        "command every 4 clocks (attacc)",
        "4 instances",
        "Fewer than 6",
    ):
        assert said in out
    best = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    print_report(best, summary, {"wall_s": 1.0, "cores": 1, "jobs_reused": 0})
    bold = [line for line in best.file.getvalue().splitlines()[1:5] if "\x1b[1m" in line]
    assert len(bold) == 1
    assert "papi/threshold" in bold[0]


def test_a_lost_job_is_made_up_for_with_the_same_results(finished):
    folder, _, _, _ = finished
    before = {name: (folder / name).read_bytes() for name in ("results.csv", "summary.json")}
    lose_a_job(folder)
    status, out, _ = command(*COMMON, "--entries", *ENTRIES, "--out", folder)
    assert status == 0
    assert "9 jobs taken from earlier sessions" in out
    assert before == {name: (folder / name).read_bytes() for name in before}
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert [session["jobs_reused"] for session in sessions][:2] == [0, 9]


def test_another_configuration_does_not_mix_with_a_run(finished):
    folder, _, _, _ = finished
    before = (folder / "results.csv").read_bytes()
    for extra, said in (
        (["--entries", *ENTRIES, "--seeds", "3"], "seeds.count: 2 there, 3 asked"),
        (["--entries", *ENTRIES[:2]], "entries"),
        (["--entries", *ENTRIES, "--bank-rate", "papi"], "readings.bank_rate: None there, papi asked"),
        (["--entries", *ENTRIES, "--env", "papi_env/Kernels-v0"], "problem: papi_env/Decode-v0 there"),
    ):
        status, _, err = command(*COMMON, *extra, "--out", folder)
        assert status == 2
        assert said in err
    assert (folder / "results.csv").read_bytes() == before


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(frame.Match, "function", interrupted)
    status, _, err = command(*COMMON, "--entries", "papi/threshold", "--out", tmp_path / "run")
    assert status == 130
    assert f"--out {tmp_path / 'run'}" in err.replace("\n", "")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]["status"] == "interrupted"


def test_what_does_not_fit_has_rows_and_a_reason(tmp_path):
    sized = ["--scenario", "general-qa/gpt3-175b", "--batch-sizes", "2", "64", "--speculation", "4"]
    folder = tmp_path / "run"
    status, out, err = command(
        *sized, "--seeds", "1", "--jobs", "1", "--entries", "a100/static", "papi/threshold", "--out", folder
    )
    assert status == 0, err
    rows = pl.read_csv(folder / "results.csv").filter(pl.col("entry") == "a100/static")
    assert rows.select("batch_size", pl.col("total_s").is_null()).rows() == [(2, False), (64, True)]
    assert rows["note"].to_list()[0] is None
    assert "GB" in rows["note"].to_list()[1]
    row = json.loads((folder / "summary.json").read_text())["entries"][0]
    assert row["settings"] == 1
    assert row["does_not_fit"] == [f"general-qa/gpt3-175b, batch 64: {rows['note'][1]}"]
    assert "a100/static†" in out
    assert "Its row covers 1 of 2 settings" in " ".join(out.split())
    # One seed: values without intervals.
    assert row["speedup"]["low"] is None
    assert "[" not in out.splitlines()[1]


def test_a_users_policy_plays_beside_the_others_on_a_users_scenario(tmp_path, monkeypatch):
    (tmp_path / "users_fc_pim.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    trace = tmp_path / "mine.csv"
    trace.write_text("prompt,answer\n" + "".join(f"{10 + i},{5 + i}\n" for i in range(9)))
    status, out, err = command(
        *["--requests", trace, "--input-column", "prompt", "--output-column", "answer"],
        *["--scenario", "general-qa/opt-30b", "--batch-sizes", "3", "--speculation", "2"],
        *[
            "--env",
            "papi_env/Kernels-v0",
            "--policy",
            "users_fc_pim:FcPim",
            "--entries",
            "papi/static-fc-pim",
        ],
        *["--seeds", "2", "--jobs", "1", "--out", tmp_path / "run"],
    )
    assert status == 0, err
    rows = pl.read_csv(tmp_path / "run" / "results.csv")
    assert rows["scenario"].unique().to_list() == ["mine/opt-30b"]
    mine, static = (
        rows.filter(pl.col("entry") == f"papi/{p}") for p in ("users_fc_pim:FcPim", "static-fc-pim")
    )
    assert mine["total_s"].to_list() == static["total_s"].to_list()
    # FC-PIM cannot run attention: one choice falls back in every iteration, and the table says so.
    assert mine["invalid_actions"].to_list() == mine["iterations"].to_list()
    assert "invalid" in out
    assert static["invalid_actions"].to_list() == [0, 0]


IMAGES = ["--env", "papi_env/Kernels-v0", "--scenario", "vision-stream", "--seeds", "3", "--jobs", "1"]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "run"
    status, out, err = command(*IMAGES, "--out", folder)
    assert status == 0, err
    return out, pl.read_csv(folder / "results.csv"), json.loads((folder / "summary.json").read_text())


def test_image_streams_are_compared_on_their_own_system_in_images_per_second(encoded):
    out, rows, summary = encoded
    assert rows["system"].unique().to_list() == ["papi-1gpu-near"]
    assert summary["baseline"] == "papi-1gpu-near/static"
    assert [row["policy"] for row in summary["entries"] if not row["reference"]] == default_policies(
        "compare images"
    )
    assert "images/s" in out.splitlines()[0]
    assert "tokens/s" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert rows["tokens_per_s"].null_count() == rows["batch_size"].null_count() == rows.height
    assert np.allclose(rows["images_per_s"], rows["images"] / rows["total_s"])
    assert np.allclose(rows["joules_per_image"], rows["total_j"] / rows["images"])


def test_regret_by_class_adds_up_to_the_regret(encoded):
    out, rows, summary = encoded
    oracle = rows.filter(pl.col("policy") == "oracle").select(
        "seed", best_s="time_s", best_fc3="repmlp_fc3_s"
    )
    for row in summary["entries"]:
        split = row["regret_by_class"]
        assert sum(split.values()) == pytest.approx(row["regret_percent"]["value"], rel=1e-9, abs=1e-9)
        own = rows.filter(pl.col("entry") == row["entry"]).join(oracle, on="seed")
        fc3 = (100 * (own["repmlp_fc3_s"] - own["best_fc3"]) / own["best_s"]).mean()
        assert split["repmlp_fc3"] == pytest.approx(fc3, rel=1e-9, abs=1e-9)
    (header,) = [line for line in out.splitlines() if line.startswith("regret % by class")]
    assert "FC3" in header
    assert "QKV" not in header


def test_a_baseline_of_ones_own(tmp_path):
    entries = ["papi-1gpu/static-pu", "papi-1gpu-near/oracle"]
    baseline = ["--baseline", "papi-1gpu/static-fc-pim"]
    status, out, err = command(*IMAGES, "--entries", *entries, *baseline, "--out", tmp_path / "run")
    assert status == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["baseline"] == "papi-1gpu/static-fc-pim"
    assert all(row["speedup"]["value"] > 1 for row in summary["entries"][:2])
    assert "end-to-end time of papi-1gpu/static-fc-pim" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--entries", "papi"], "SYSTEM/POLICY"),
        (["--entries", "pap/static"], "Did you mean 'papi'"),
        (["--entries", "papi/thresold"], "Did you mean 'threshold'"),
        (["--entries", "a100-attacc/static-fc-pim"], "cannot run FC kernels on 'fc-pim'"),
        (["--entries"], "No entries"),
        (["--policy", "no_such_module:Mine"], "cannot import"),
        (["--scenario", "general-qa/opt-3b"], "Did you mean 'general-qa/opt-30b'"),
        (["--scenario", "no_such.toml"], "no_such.toml: cannot be read"),
        (["--requests", "no_such.csv"], "no_such.csv"),
        (["--input-column", "lin"], "belong to --requests"),
        (["--scenario", "vision-stream"], "papi_env/Kernels-v0 alone encodes"),
        (["--scenario", "vision-stream", "--acceptance-rate", "0.5"], "decodes no text"),
        (["--baseline", "papi"], "SYSTEM/POLICY"),
        (["--entries", "x=papi/static", "x=papi/random"], "Two entries are called 'x'"),
        (["--entries", "no/such/folder"], "no/such/folder: found no such folder"),
        (["--batch-sizes", "129"], "workload.batch_size"),
        (["--batch-sizes", "4", "4"], "--batch-sizes names a value twice"),
        (["--speculation", "0"], "workload.speculation"),
        (["--acceptance-rate", "1.5"], "acceptance_rate"),
        (["--seeds", "0"], "--seeds 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--jobs", "-1"], "--jobs is -1"),
        (["--out", __file__], "holds no run"),
    ],
)
def test_what_cannot_be_used_is_answered_with_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--scenario", "general-qa/opt-30b"] if "--scenario" not in arguments else []
    status, out, err = command(*options, *arguments)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_fits_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="No scenario fits"):
        resolve(Config(entries=("a100/static",), scenarios=("general-qa/gpt3-175b",), batch_sizes=(128,)))


def test_the_defaults_are_the_papers_models_data_and_grid():
    comparison = resolve(Config())
    assert [str(entry) for entry in comparison.entries] == default_entries("compare decode", {})
    assert list(dict.fromkeys(scenario.name for scenario in comparison.scenarios)) == list(PAPER_SCENARIOS)
    assert len(comparison.scenarios) == 54
    assert not any(cell.refusal for cell in comparison.cells)
    references = {str(cell.entry) for cell in comparison.cells if cell.reference}
    assert references == {
        f"{name}/oracle" for name in ("a100-attacc", "a100-hbm-pim", "attacc-only", "papi-pim-only")
    }


def test_requests_play_each_model_once(tmp_path):
    trace = tmp_path / "short.csv"
    trace.write_text("category,lin,lout\nx,10,5\n")
    names = dict.fromkeys(scenario.name for scenario in resolve(Config(requests=trace)).scenarios)
    assert list(names) == ["short/llama-65b", "short/gpt3-66b", "short/gpt3-175b"]


def test_a_scenarios_own_system_joins_the_default_entries(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'model = "opt-30b"\n[system]\nbase = "papi"\nname = "papi-own"\n'
        "[workload]\nbatch_size = 2\nlengths = { input = 5, output = 5 }\n"
    )
    entries = [str(entry) for entry in resolve(Config(scenarios=(str(path),))).entries]
    assert entries[-3:] == ["papi-own/threshold", "papi-own/adaptive", "papi-own/oracle"]
    asked = resolve(Config(scenarios=(str(path),), entries=("papi/static",))).entries
    assert [str(entry) for entry in asked] == ["papi/static"]


def test_the_figure_takes_any_summary(finished):
    summary = finished[3]
    many = [
        {
            **row,
            "entry": f"papi/policy-{i}",
            "by_scenario": {f"data-{j}/model": row for j in range(9)},
        }
        for i, row in enumerate(summary["entries"] * 4)
    ]
    none = {"value": None, "low": None, "high": None}
    bare = [{**row, "speedup": none, "by_scenario": {"one": {"speedup": none}}} for row in summary["entries"]]
    # Warnings are errors here: of so long a name the axes would collapse.
    path = [{**row, "entry": "papi//" + "folder/" * 30 + "best"} for row in summary["entries"]]
    for entries in (summary["entries"][:1], many, bare, path):
        assert figure({**summary, "entries": entries}).startswith(b"\x89PNG")


def test_help_names_every_option_and_nothing_loads_torch():
    code = (
        "import sys, experiments.compare as c\n"
        "assert not {'torch', 'stable_baselines3', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "c.main(['--help'])"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    for option in (
        "--entries",
        "--scenarios",
        "--requests",
        "--jobs",
        "--out",
        "--seed",
        "--seeds",
    ):
        assert option in result.stdout


def test_fitted_constants_apply_to_registered_systems_and_change_the_result(finished, tmp_path):
    _, _, rows, _ = finished
    arguments = [*COMMON, "--entries", *ENTRIES, "--constants", "reproduction"]
    status, out, err = command(*arguments, "--out", tmp_path / "fitted")
    assert status == 0, err
    assert "constants of experiments.reproduce" in " ".join(out.split())
    fitted = pl.read_csv(tmp_path / "fitted" / "results.csv")
    # The same instances on other machines.
    assert fitted["tokens"].to_list() == rows["tokens"].to_list()
    assert (fitted["time_s"] != rows["time_s"]).all()
    text = (
        'model = "opt-30b"\nworkload = { batch_size = 2, lengths = { input = 8, output = 8 } }\n'
        'system = { base = "papi", name = "mine", mode_switch_s = 0 }\n'
    )
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    arguments = ["--scenario", tmp_path / "mine.toml", "--entries", "mine/threshold"]
    status, _, err = command(*arguments, "--constants", "reproduction", "--out", tmp_path / "refused")
    assert status == 2
    assert "System 'mine' is a scenario's own" in err
