"""`python -m experiments.reparameterize --train digits`, its parts, and `--explore`."""

import hashlib
import importlib.util
import json

import numpy as np
import polars as pl
import pytest
import torch

from experiments.reparameterize import main
from experiments.vision import explore
from experiments.vision.data import find_system
from experiments.vision.digits import DIGITS_NETWORK, check_network, load_digits
from experiments.vision.onnx_export import network_to_onnx, run_onnx
from experiments.vision.training import agreement, logits, train
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import get_system
from papi_env.scenario import get_scenario
from papi_env.workload.vision.injection import randomize_statistics
from papi_env.workload.vision.network import get_repmlpnet, load_repmlpnet
from papi_env.workload.vision.repmlp import create_repmlpnet, locality_injected
from papi_env.workload.vision.weights import load_weights
from tests.experiments.commands import called

# Trained in a second: one unit, few channels.
TINY = """
channels = [8]
share_sets = [2]
blocks = [1]
image_size = 32
image_channels = 1
classes = 10
"""


def command(*arguments):
    return called(main, *arguments)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    options = ["--epochs", "2", "--images", "1", "4", "--seeds", "2", "--jobs", "1"]
    status, out, err = command("--train", "digits", "--network", tiny, *options, "--out", folder)
    assert status == 0, err
    return folder, out


def test_held_out_digits_are_a_fifth_of_each_kind_and_met_by_no_training():
    digits = load_digits(32, 3)
    assert digits.held_out.shape == (360, 1, 32, 32)
    assert len(digits.train) == 1797 - 360
    assert (np.bincount(digits.held_out_labels) >= 34).all()
    assert len(set(digits.indices.tolist())) == 360
    assert (digits.train.min(), digits.train.max()) == (0.0, 1.0)
    # A pixel is a patch.
    assert (digits.train[:, :, ::4, ::4] == digits.train[:, :, 3::4, 3::4]).all()
    again, other = load_digits(32, 3), load_digits(32, 4)
    assert (again.indices == digits.indices).all()
    assert set(other.indices.tolist()) != set(digits.indices.tolist())


def test_training_is_the_same_again_learns_and_merges_exactly(tiny):
    net, digits = load_repmlpnet(tiny), load_digits(32, 0)
    before = torch.random.get_rng_state()
    (first, curve), (second, _) = (train(net, digits, 2, 5) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert curve[1].loss < curve[0].loss
    old, new = (logits(n, digits.held_out) for n in (first, locality_injected(first)))
    found = agreement(old, new, digits.held_out_labels)
    assert found["equal_predictions"] == found["images"] == 360
    assert found["accuracy_before"] == found["accuracy_after"] > 0.2
    assert 0 < found["largest_difference"] < 1e-5 * found["largest_logit"]


@pytest.mark.parametrize("partitions", [(8, 4), (4, 2), (8, 1)])
def test_the_onnx_model_computes_what_the_merged_network_does(partitions):
    spec = DIGITS_NETWORK.model_copy(update={"partitions": partitions})
    network = randomize_statistics(create_repmlpnet(spec), 1).eval()
    with pytest.raises(ConfigurationError, match="found training form"):
        network_to_onnx(network)
    merged = locality_injected(network)
    images = np.random.default_rng(0).random((3, 1, 32, 32)).astype(np.float32)
    found, _ = run_onnx(network_to_onnx(merged), images)
    expected = logits(merged, images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_folder_holds_the_network_before_and_after_and_its_stream(finished, tiny):
    folder, out = finished
    files = {"merged.json", "merged.onnx", "merged.safetensors", "training.safetensors", "training.csv"}
    files |= {"predictions.csv", "network.toml", "scenario.toml", "kernels.csv", "stages.csv"}
    assert {path.name for path in folder.iterdir()} == {*files, "summary.json", "run.json", "stream"}
    spec = load_repmlpnet(tiny)
    assert load_repmlpnet(folder / "network.toml") == spec
    scenario = get_scenario(folder / "scenario.toml")
    assert (scenario.images.network, scenario.system) == (spec, get_system("papi-edge"))

    document = json.loads((folder / "merged.json").read_text())
    for name, digest in document["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    digits = load_digits(32, 0)
    networks = {}
    for name, deploy in (("training", False), ("merged", True)):
        networks[name] = create_repmlpnet(get_repmlpnet(document["network"]), deploy).eval()
        load_weights(networks[name], folder / f"{name}.safetensors")
    said = pl.read_csv(folder / "predictions.csv")
    for name, column in (("training", "before"), ("merged", "after")):
        assert said[column].to_list() == logits(networks[name], digits.held_out).argmax(1).tolist()
    ran, _ = run_onnx((folder / "merged.onnx").read_bytes(), digits.held_out)
    assert said["after"].to_list() == ran.argmax(1).tolist()
    assert document["held_out"]["equal_predictions"] == 360

    summary = json.loads((folder / "summary.json").read_text())
    policies = {row["policy"] for row in summary["stream"]["entries"]}
    assert {"oracle", "threshold", "static-pu", "static-fc-pim"} <= policies
    stream = json.loads((folder / "stream" / "run.json").read_text())
    assert stream["configuration"]["settings"][0]["images"]["network"]["name"] == "tiny"
    assert "360 of 360 predictions equal" in out
    assert "papi-edge/oracle*" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_channels": 3}, "image_channels: found 3, expected 1 to train on digits"),
        ({"classes": 1000}, "classes: found 1000, expected 10"),
        (
            {
                "image_size": 36,
                "partitions": (9,),
                "channels": (8,),
                "share_sets": (2,),
                "blocks": (1,),
            },
            "such as",
        ),
    ],
)
def test_a_network_that_takes_no_digits_is_refused(changes, said):
    with pytest.raises(ConfigurationError, match=said):
        check_network(get_repmlpnet({**DIGITS_NETWORK.model_dump(), **changes}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--network", "repmlpnet-t224"], "image_channels: found 3"),
        (["--network", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--networks", "repmlpnet-t224", "repmlpnet-b256"], "expected one to train"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--system", "papi-edgy"], "Did you mean 'papi-edge'"),
        (["--system", "papi-1gpu-near"], "not registered"),
        (["--system", "a100"], "expected PUs and FC-PIM"),
    ],
)
def test_what_cannot_be_trained_is_answered_with_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command("--train", "digits", *arguments)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "called_so"), [("sklearn", "scikit-learn"), ("torch", "torch")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package, called_so, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
    )
    status, _, err = command("--train", "digits", "--out", tmp_path / "run")
    assert status == 2
    assert called_so in err
    assert "papi-env[learn]" in err
    assert not (tmp_path / "run").exists()


def test_the_command_takes_a_network_from_a_file(tiny, tmp_path):
    status, out, err = command(
        "--network", tiny, "--images", "1", "--seeds", "1", "--jobs", "1", "--out", tmp_path / "run"
    )
    assert status == 0, err
    assert "tiny" in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["configuration"]["networks"][0]["share_sets"] == [2]


def test_the_search_finds_what_is_registered_and_never_loses(monkeypatch):
    edge = explore.machine("42 TF 205 GB/s 1x4", "as is")
    assert edge.pu.peak_flops == get_system("papi-edge").pu.peak_flops
    assert edge.weight_capacity_bytes == find_system("papi-edge").weight_capacity_bytes
    monkeypatch.setattr(explore, "NETWORKS", (("repmlpnet-b256", 1),))
    kept = ("312 TF 3352 GB/s 5x4", "42 TF 205 GB/s 1x4")
    monkeypatch.setattr(explore, "MACHINES", {name: explore.MACHINES[name] for name in kept})
    rows = list(explore.explored_rows((1, 64)))
    assert len(rows) == 2 * 3 * 2
    gains = {(row["machine"], row["starts"], row["images"]): row for row in rows}
    for row in rows:
        assert row["gain"] >= row["class_gain"] >= 1 - 1e-12
    # One A100 gains by cheap starts alone; the edge by bandwidth.
    assert gains[kept[0], "as is", 1]["gain"] > 1.2 > 1.05 > gains[kept[0], "equal", 1]["gain"]
    assert min(gains[kept[1], starts, 1]["gain"] for starts in explore.STARTS) > 1.4
    assert max(gains[name, starts, 64]["gain"] for name in kept for starts in explore.STARTS) < 1.05
