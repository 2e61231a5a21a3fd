"""`python -m experiments.reparameterize`: physical bounds, agreement with the engine, and what the command leaves."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.reparameterize import main
from experiments.vision.data import (
    CLASSES,
    FORMS,
    MAPPINGS,
    UNITS,
    find_system,
    kernel_rows,
    mapping_costs,
    network_row,
    output_difference,
    rule_row,
    stage_rows,
    steady_plan,
    tabulate,
)
from experiments.vision.figures import threshold_figure, units_figure
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.hardware.units import FC_PIM, PU
from papi_env.scenario import parse_scenario
from papi_env.workload.vision.network import REPMLPNETS, RepMLPNet
from tests.experiments.commands import called

NAME = "repmlpnet-t224"
SYSTEMS = (None, "papi-1gpu", "papi")
ARGUMENTS = ["--networks", NAME, "--images", "8", "1", "--seeds", "2", "--jobs", "1"]
COSTS = ("pu_s", "fc_pim_s", "best_s", "pu_j", "fc_pim_j")


def command(*arguments):
    return called(main, *arguments)


def by(rows, *keys):
    return {tuple(row[key] for key in keys): row for row in rows}


@pytest.fixture(scope="module", params=SYSTEMS, ids=str)
def networks(request):
    system = find_system(request.param)
    return [tabulate(name, system) for name in REPMLPNETS]


@pytest.fixture(scope="module")
def b256():
    return tabulate("repmlpnet-b256", find_system(None))


def test_merging_never_costs_time_or_energy(networks):
    for network in networks:
        rows = list(stage_rows(network, (1, 3, 64)))
        for row in rows:
            gains = [row[f"{name}_gain"] for name in COSTS]
            if row["form"] == "training":
                assert gains == [None] * len(COSTS)
            else:
                # The local perceptron's convolutions are gone from every stage.
                assert min(gains) > 1
        kernels = by(rows, "form", "images", "stage")
        for images in (1, 3, 64):
            gone = kernels["training", images, "all"]["kernels"] - kernels["deploy", images, "all"]["kernels"]
            assert gone == sum(network.net.blocks) * len(network.net.local_kernels)


def test_the_best_plan_is_no_slower_than_one_unit(networks):
    for network in networks:
        for row in stage_rows(network, (1, 8)):
            if row["stage"] == "all":
                assert row["best_s"] <= min(row["pu_s"], row["fc_pim_s"]) * (1 + 1e-12)


def test_more_images_cost_more_but_less_each(networks):
    for network in networks:
        rows = [row for row in stage_rows(network, (1, 2, 4, 64)) if row["stage"] == "all"]
        for form, name in itertools.product(FORMS, COSTS):
            own = [row for row in rows if row["form"] == form]
            total, each = [row[name] for row in own], [row[name] / row["images"] for row in own]
            assert (np.diff(total) > 0).all()
            assert (np.diff(each) < 0).all()


def test_stages_add_up_to_the_encode_and_kernels_to_the_network(networks):
    for network in networks:
        whole = network_row(network)
        kernels = pl.DataFrame(list(kernel_rows(network, (1, 5))), infer_schema_length=None)
        for form, images in itertools.product(FORMS, (1, 5)):
            rows = [
                row for row in stage_rows(network, (1, 5)) if (row["form"], row["images"]) == (form, images)
            ]
            *stages, encode = rows
            own = kernels.filter((pl.col("form") == form) & (pl.col("images") == images))
            assert own.height == network.net.stages * len(CLASSES)
            for name in ("kernels", "weight_bytes", "activation_bytes", "macs"):
                assert sum(row[name] for row in stages) == encode[name] == own[name].sum()
            assert encode["macs"] == images * whole[f"macs_{form}"]
            for name in COSTS:
                assert sum(row[name] for row in stages) == pytest.approx(encode[name], rel=1e-12)


def test_without_links_an_encode_on_the_pus_is_its_kernels(b256):
    kernels = pl.DataFrame(list(kernel_rows(b256, (4,))), infer_schema_length=None)
    for row in stage_rows(b256, (4,)):
        own = kernels.filter(pl.col("form") == row["form"])
        if row["stage"] != "all":
            own = own.filter(pl.col("stage") == int(row["stage"]))
        assert row["pu_s"] == pytest.approx(own["pu_s"].sum(), rel=1e-12)
        assert row["pu_j"] == pytest.approx(own["pu_j"].sum(), rel=1e-12)


@pytest.mark.parametrize("images", [1, 8])
def test_a_stream_of_the_engine_costs_what_the_table_says(b256, images):
    encodes, seeds = 3, [5]
    for (form, _, stage), row in by(stage_rows(b256, (images,)), "form", "images", "stage").items():
        if stage != "all":
            continue
        data = b256.scenarios[form].model_dump()
        data["images"] |= {"batch_sizes": (images,), "encodes": encodes}
        scenario = parse_scenario(data, "test")
        played = {}
        for policy in ("static-pu", "static-fc-pim", "oracle"):
            env = KernelsVectorEnv(scenario, num_envs=1, autoreset_mode=AutoresetMode.DISABLED)
            played[policy] = evaluate(make_policy(policy), env, seeds)["time_s"][0]
        # Nothing ran before the first encode, so the first embedding needs no mode switch.
        first = b256.scenarios[form].system.mode_switch_s
        assert played["static-pu"] == pytest.approx(encodes * row["pu_s"], rel=1e-12)
        assert played["static-fc-pim"] == pytest.approx(encodes * row["fc_pim_s"] - first, rel=1e-9)
        assert played["oracle"] >= encodes * row["best_s"] - first - 1e-15


def test_rows_and_intensity_of_fc3_are_those_of_its_shape(b256):
    found = by(kernel_rows(b256, (1, 64)), "form", "images", "stage", "kernel")
    for form, images in itertools.product(FORMS, (1, 64)):
        for stage, (a_row, size) in enumerate(
            zip((96, 48, 12, 6), (4096, 1024, 256, 64), strict=True), start=1
        ):
            row = found[form, images, stage, "repmlp_fc3"]
            n = a_row * images
            assert row["rows"] == n
            assert row["intensity"] == pytest.approx(n * size / (2 * n + size), rel=1e-12)
            # A matrix of d x d cannot be used more often per byte than its vectors are long.
            assert row["intensity"] < size / 2


def test_rows_and_intensity_disagree_in_the_last_stage(b256):
    found = by(kernel_rows(b256, (64,)), "form", "stage", "kernel")
    fc3, scales = (found["deploy", 4, kind] for kind in ("repmlp_fc3", "repmlp_fc1_fc2"))
    assert (fc3["rows"], scales["rows"]) == (384, 64)
    assert fc3["intensity"] == pytest.approx(29.5, abs=0.05)
    assert scales["intensity"] > 1.5 * fc3["intensity"]


def test_only_convolutions_differ_between_the_forms(b256):
    found = by(kernel_rows(b256, (2,)), "form", "stage", "kernel")
    for (form, stage, kind), row in found.items():
        other = {**found["training", stage, kind], "form": form}
        if kind == "convolution":
            assert row["fc_pim_s"] is None
            assert (row["pu_s"] < other["pu_s"]) == (form == "deploy")
        else:
            assert row == other


@given(
    st.integers(1, 3).flatmap(
        lambda stages: arrays(np.float64, (stages, len(UNITS), len(MAPPINGS)), elements=st.floats(0, 1e3))
    )
)
def test_the_steady_plan_is_the_best_of_all(seconds):
    def cost(plan):
        return sum(
            seconds[stage, MAPPINGS[plan[stage - 1]][2], mapping] for stage, mapping in enumerate(plan)
        )

    every = itertools.product(range(len(MAPPINGS)), repeat=len(seconds))
    assert cost(steady_plan(seconds)) == pytest.approx(min(map(cost, every)), rel=1e-12, abs=1e-12)


def test_a_mode_switch_is_charged_where_the_unit_changes(b256):
    seconds = mapping_costs(b256.tables["deploy"], 1)[..., 0]
    switch = b256.scenarios["deploy"].system.mode_switch_s
    entered = seconds[:, FC_PIM] - seconds[:, PU]
    assert entered == pytest.approx(np.full(entered.shape, switch), rel=1e-6)


def test_thresholds_are_the_best_on_their_measure(networks):
    for network in networks:
        row, stages = rule_row(network), network.profile.stages
        costs = network.tables["deploy"].stages[:, :3, :, 1:65, 0]
        pu, pim = costs[:, :, PU], costs[:, :, FC_PIM]
        assert row["kernels"] == pu.size
        assert row["kernels_on_fc_pim"] == (pim < pu).sum()
        best = np.minimum(pu, pim).sum()
        for name, measure in (("rows", stages.rows), ("intensity", stages.intensity)):
            values = measure[..., 1:65]
            asked = np.concatenate([[0.0], np.quantile(values, np.linspace(0, 1, 50))])
            excess = [100 * (np.where(values > alpha, pu, pim).sum() / best - 1) for alpha in asked]
            assert 0 <= row[f"excess_percent_{name}"] <= min(excess) + 1e-9
            assert row[f"excess_percent_1_image_{name}"] >= 0
            share = row[f"inverted_percent_{name}"]
            assert share is None if row["kernels_on_fc_pim"] == 0 else 0 <= share <= 100


def test_figures_take_one_network_and_several(b256):
    other = tabulate(NAME, find_system("papi"))
    for some in ([b256], [other, b256]):
        kernels = [row for network in some for row in kernel_rows(network, (1, 128))]
        rules = [rule_row(network) for network in some]
        assert threshold_figure(kernels, rules).startswith(b"\x89PNG")
        assert units_figure(kernels).startswith(b"\x89PNG")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("float64", 1e-14)])
def test_the_output_moves_by_rounding_alone(dtype, bound, monkeypatch):
    import torch

    small = RepMLPNet(
        name="small", channels=(4, 8), share_sets=(2, 4), blocks=(1, 2), partitions=(4, 2), image_size=16
    )
    monkeypatch.setattr("papi_env.workload.vision.network.REPMLPNETS", {"small": small})
    before = torch.random.get_rng_state()
    found = output_difference("small", dtype, 2, 3)
    assert found["network"] == ["small"]
    assert 0 < found["relative_difference"][0] < bound
    assert found == output_difference("small", dtype, 2, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reparameterize") / "run"
    status, out, err = command(*ARGUMENTS, "--out", folder)
    assert status == 0, err
    return folder, out


def test_the_folder_holds_what_ran_and_what_came_out(finished):
    folder, _ = finished
    tables = {"networks.csv": 1, "kernels.csv": 2 * 2 * 4 * 4, "stages.csv": 2 * 2 * 5, "rules.csv": 1}
    names = {"run.json", "jobs.json", "summary.json", "threshold.png", "units.png", "vision-stream", *tables}
    assert {path.name for path in folder.iterdir()} == names
    for name, height in tables.items():
        assert pl.read_csv(folder / name).height == height
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "reparameterize"
    assert record["sessions"][0]["status"] == "finished"
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < summary["networks"][0]["difference_float32"] < 2e-6
    assert [row["images"] for row in summary["encodes"]] == [8, 8, 1, 1]
    # The policies played the machine that the tables are of.
    system = record["configuration"]["system"]
    stream = json.loads((folder / "vision-stream" / "run.json").read_text())
    assert stream["configuration"]["settings"][0]["system"] == system
    policies = {row["policy"]: row for row in summary["stream"]["entries"]}
    assert {"threshold", "threshold-intensity", "static-pu", "random", "adaptive"} <= set(policies)
    assert policies["oracle"]["regret_percent"]["value"] == 0
    assert all(row["regret_percent"]["value"] >= 0 for row in policies.values())


def test_the_tables_say_what_the_rows_hold(finished):
    folder, out = finished
    lines = [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 100
    rows = by(pl.read_csv(folder / "stages.csv").to_dicts(), "form", "images", "stage")
    # Small numbers first; of the six tables the one of stages has the costs.
    stages = [line for line in lines if line[:2] == ["1", "1"]][1]
    before, after = (1e6 * rows[form, 1, "1"]["pu_s"] for form in FORMS)
    assert stages[2] == f"{before:.3g}→{after:.3g}"
    assert f"{rows['deploy', 1, '1']['best_s_gain']:.2f}" == stages[-2]
    assert any(line[:1] == [f"{find_system(None).name}/threshold-intensity"] for line in lines)
    assert "0.0" in next(line for line in lines if line[:1] == [f"{find_system(None).name}/oracle*"])


def test_a_finished_run_goes_on_without_new_jobs(finished):
    folder, _ = finished
    names = ("networks.csv", "kernels.csv", "stages.csv", "rules.csv", "summary.json")
    before = {name: (folder / name).read_bytes() for name in names}
    assert command(*ARGUMENTS, "--out", folder)[0] == 0
    assert before == {name: (folder / name).read_bytes() for name in names}
    assert json.loads((folder / "run.json").read_text())["sessions"][-1]["jobs_reused"] == 1
    status, _, err = command(*ARGUMENTS, "--bank-rate", "papi", "--out", folder)
    assert status == 2
    assert "cadence_clocks" in err


def test_without_torch_all_but_the_output_is_there(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else find(name, *rest),
    )
    status, out, err = command(*ARGUMENTS, "--out", tmp_path / "run")
    assert status == 0, err
    assert "torch is not installed" in err
    assert "papi-env[learn]" in err.replace("\n", "")
    assert "difference float" not in out
    assert "difference_float32" not in pl.read_csv(tmp_path / "run" / "networks.csv").columns
    assert (tmp_path / "run" / "vision-stream" / "results.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks", "repmlpnet-d25"], "Did you mean 'repmlpnet-d256'"),
        (["--networks", NAME, NAME], "different networks"),
        (["--networks"], "different networks"),
        (["--images", "0"], "--images names 0, expected 1 to 128"),
        (["--images", "129"], "--images names 129"),
        (["--images", "4", "4"], "different numbers of images"),
        (["--images"], "different numbers of images"),
        (["--system", "papi1gpu"], "Did you mean 'papi-1gpu'"),
        (["--system", "a100-attacc"], "expected PUs and FC-PIM"),
        (["--system", "attacc-only"], "runs FC kernels on fc-pim alone"),
        (["--seeds", "0"], "--seeds 0"),
        (["--out", __file__], "holds no run"),
    ],
)
def test_what_cannot_be_used_is_answered_with_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option_and_nothing_loads_torch():
    code = (
        "import sys, experiments.reparameterize as r\n"
        "assert not {'torch', 'stable_baselines3', 'matplotlib'} & set(sys.modules)\n"
        "r.main(['--help'])"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    for option in ("--networks", "--images", "--system", "--float64", "--seeds", "--jobs", "--out"):
        assert option in result.stdout
