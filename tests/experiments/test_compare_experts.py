"""`experiments.compare` on mixtures of experts: kernel by kernel, on the scenario's own system."""

import json

import polars as pl
import pytest

from experiments.compare import Config, main, resolve
from papi_env.envs.registration import DECODE, KERNELS
from papi_env.scenario import PAPER_SCENARIOS, SCENARIOS, get_scenario

NAMES = ("mixture-of-experts", "mixture-of-experts-zipf")


def test_they_are_dispatched_kernel_by_kernel_unless_asked_otherwise():
    comparison = resolve(Config(scenarios=NAMES[:1], seeds=1))
    assert comparison.problem == KERNELS
    labels = [entry.label for entry in comparison.entries]
    assert {f"papi-sixth/{p}" for p in ("static-split", "threshold", "threshold-experts", "oracle")} < set(
        labels
    )
    assert comparison.baseline.label == "papi-sixth/static"
    assert resolve(Config(scenarios=NAMES[:1], seeds=1, env=DECODE)).problem == DECODE
    mixed = resolve(Config(scenarios=(NAMES[0], PAPER_SCENARIOS[0]), seeds=1, entries=("papi/threshold",)))
    assert mixed.problem == DECODE


def test_no_default_list_has_them():
    assert not set(NAMES) & set(PAPER_SCENARIOS)
    assert resolve(Config(seeds=1)).problem == DECODE
    assert set(NAMES) < set(SCENARIOS)


@pytest.mark.parametrize("name", NAMES)
def test_their_model_fits_with_the_largest_batch(name):
    scenario = get_scenario(name).replace(batch_size=128, speculation=8)
    assert scenario.check() is scenario
    assert scenario.model.weight_bytes > 0.9 * scenario.system.weight_capacity_bytes


def test_a_comparison_measures_experts(tmp_path, capsys):
    arguments = [
        "--scenarios",
        NAMES[1],
        "--batch-sizes",
        "64",
        "--speculation",
        "4",
        "--seeds",
        "2",
        "--jobs",
        "1",
    ]
    entries = ["--entries", "static-pu", "threshold", "threshold-split", "oracle"]
    assert main([*arguments, *entries, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "papi-sixth/threshold-split" in out
    table = out[out.index("regret % by class") :]
    assert "experts" in table.splitlines()[0]
    rows = pl.read_csv(tmp_path / "run" / "results.csv")
    assert (rows["experts_s"] > 0).all()
    seconds = {key: value for key, value in rows.group_by("entry").agg(pl.col("time_s").sum()).iter_rows()}
    assert (
        seconds["papi-sixth/oracle"] < seconds["papi-sixth/threshold-split"] < seconds["papi-sixth/threshold"]
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    by_class = {row["entry"]: row["regret_by_class"] for row in summary["entries"]}["papi-sixth/threshold"]
    regret = {row["entry"]: row["regret_percent"]["value"] for row in summary["entries"]}[
        "papi-sixth/threshold"
    ]
    assert sum(by_class.values()) == pytest.approx(regret)
