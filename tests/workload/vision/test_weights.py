"""Weights come back as they were written; a file that is not the network's says all that is wrong."""

import pickle
import re
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.vision import weights
from papi_env.workload.vision.injection import randomize_statistics
from papi_env.workload.vision.network import RepMLPNet
from papi_env.workload.vision.repmlp import create_repmlpnet, locality_injected
from papi_env.workload.vision.weights import CheckpointError, load_weights, save_weights

SMALL = RepMLPNet(
    name="small",
    channels=(8, 12),
    share_sets=(2, 4),
    blocks=(1, 2),
    partitions=(4, 2),
    image_size=16,
    classes=10,
)
ENDINGS = pytest.mark.parametrize("ending", ["safetensors", "pth", "pt"])
FC3 = "stages.1.1.repmlp_block.fc3.weight"


def network(seed, deploy=False):
    torch.manual_seed(seed)
    return randomize_statistics(create_repmlpnet(SMALL, deploy), seed).eval()


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@ENDINGS
@pytest.mark.parametrize("deploy", [False, True])
def test_weights_come_back_bit_for_bit(tmp_path, ending, deploy):
    written, other = network(0, deploy), network(1, deploy)
    assert not same(written, other)
    save_weights(written, tmp_path / f"weights.{ending}")
    load_weights(other, tmp_path / f"weights.{ending}")
    assert same(written, other)


@ENDINGS
def test_a_merged_network_loads_as_a_deploy_network(tmp_path, ending):
    merged, deploy = locality_injected(network(0)), network(1, deploy=True)
    save_weights(merged, tmp_path / f"weights.{ending}")
    load_weights(deploy, str(tmp_path / f"weights.{ending}"))
    assert same(merged, deploy)


def _prefixed(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        _prefixed,
        lambda state: {"model": _prefixed(state)},
    ],
    ids=["state_dict", "model", "module", "model and module"],
)
def test_the_wrappings_of_training_scripts_are_taken_off(tmp_path, wrap):
    written, other = network(0), network(1)
    torch.save(wrap(dict(written.state_dict())), tmp_path / "checkpoint.pth")
    load_weights(other, tmp_path / "checkpoint.pth")
    assert same(written, other)


def test_a_prefix_in_safetensors_is_taken_off_unless_the_network_has_it(tmp_path):
    written, other = network(0), nn.DataParallel(network(1))
    save_file(_prefixed(written.state_dict()), tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert same(written, other.module)
    load_weights(network(2), tmp_path / "weights.safetensors")


def test_weights_are_cast_to_the_networks_dtype(tmp_path):
    written, other = network(0), network(1).double()
    save_weights(written, tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    assert other.head.weight.dtype == torch.float64
    assert torch.equal(other.head.weight, written.head.weight.double())


def altered(tmp_path, change, ending="pth", deploy=False):
    """A file with changed weights, a network as it was, and the error of loading one into the other."""
    state = dict(network(0, deploy).state_dict())
    change(state)
    path = tmp_path / f"altered.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    target, untouched = network(1), network(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, path)
    assert same(target, untouched)
    assert str(caught.value).startswith(f"{path}: not a checkpoint of this RepMLPNetwork")
    return caught.value


@ENDINGS
def test_one_error_lists_all_that_does_not_fit(tmp_path, ending):
    def change(state):
        del state["head.bias"], state["head_norm.weight"]
        state["head.10.extra"], state["head.9.extra"] = torch.zeros(2), torch.zeros(2)
        state[FC3] = torch.zeros(3, 5)
        state["embeds.0.bn.weight"] = torch.ones(12, dtype=torch.int64)
        state["embeds.0.bn.bias"] = torch.full((12,), torch.nan)

    error = altered(tmp_path, change, ending)
    assert set(error.missing) == {"head.bias", "head_norm.weight"}
    assert error.surplus == ("head.9.extra", "head.10.extra")
    assert dict(error.misfits) == {
        FC3: "found shape [3, 5], expected [16, 4, 1, 1]",
        "embeds.0.bn.weight": "found int64, expected float32",
        "embeds.0.bn.bias": "found numbers that are not finite in float32",
    }
    for name in (*error.missing, *error.surplus, *dict(error.misfits)):
        assert name in str(error)


def test_numbers_beyond_the_networks_dtype_are_refused(tmp_path):
    def change(state):
        state["head.bias"] = torch.full((10,), 1e300, dtype=torch.float64)

    assert dict(altered(tmp_path, change).misfits) == {
        "head.bias": "found numbers that are not finite in float32"
    }


def test_tensors_that_are_not_dense_are_refused(tmp_path):
    def change(state):
        state["head.weight"] = torch.empty(10, 12, device="meta")

    assert "expected a dense one" in dict(altered(tmp_path, change).misfits)["head.weight"]


def test_the_other_form_is_named_with_the_remedy(tmp_path):
    deploy, training = network(0, deploy=True), network(0)
    save_weights(deploy, tmp_path / "deploy.pth")
    save_weights(training, tmp_path / "training.pth")
    with pytest.raises(CheckpointError, match=r"checkpoint is in deploy form, .* create .* deploy=True"):
        load_weights(training, tmp_path / "deploy.pth")
    with pytest.raises(
        CheckpointError, match=r"is in training form, .* deploy=False, load, .*injection"
    ) as caught:
        load_weights(deploy, tmp_path / "training.pth")
    assert len(caught.value.missing) == 3
    assert len(caught.value.surplus) == 3 * (5 + 2 * 6)


def test_a_matching_form_is_not_spoken_of(tmp_path):
    assert " form" not in str(altered(tmp_path, lambda state: state.pop("head.bias")))


def test_a_long_list_is_grouped_and_every_name_can_be_read_from_it(tmp_path):
    error = altered(tmp_path, lambda state: state.clear())
    names = set(network(0).state_dict())
    assert set(error.missing) == names
    assert f"missing ({len(names)}): " in str(error)
    read = set()
    for group in str(error).partition("): ")[2].split("; "):
        pattern, _, numbers = group.partition(" with * = ")
        for number in numbers.split(", "):
            parts = iter(number.split("."))
            read.add(re.sub(r"\*", lambda _, parts=parts: next(parts), pattern))
    assert read == names
    assert len(str(error)) < len("; ".join(names))


class Harmful:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file ran')",)


@pytest.mark.parametrize("ending", ["pth", "pt"])
def test_a_file_with_code_is_refused_and_not_run(tmp_path, ending):
    path = tmp_path / f"harmful.{ending}"
    torch.save({"state_dict": network(0).state_dict(), "config": Harmful()}, path)
    with pytest.raises(DataError, match=r"refused by torch\.load\(weights_only=True\)"):
        load_weights(network(1), path)
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match=r"refused by torch\.load\(weights_only=True\)"):
        load_weights(network(1), path)


@ENDINGS
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02}q\x00.", bytes(64)])
def test_files_that_hold_no_weights_are_refused(tmp_path, ending, content):
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(content)
    target, untouched = network(1), network(1)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_weights(target, path)
    assert same(target, untouched)


@ENDINGS
def test_a_cut_file_is_refused(tmp_path, ending):
    path = tmp_path / f"weights.{ending}"
    save_weights(network(0), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_weights(network(1), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "found list, expected a mapping"),
        ({"a": 1, 2: torch.zeros(1)}, "found 'a' is int; 2 is Tensor"),
        ({"model": {"a": "b"}}, "model: expected names with tensors, found 'a' is str"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match=message):
        load_weights(network(0), tmp_path / "other.pt")


def test_a_wrapper_that_holds_itself_comes_to_an_end(tmp_path):
    for name, other in (("state_dict", "state_dict"), ("model", "state_dict")):
        content = {name: {}}
        content[name][other] = content if other != name else content[name]
        torch.save(content, tmp_path / "ring.pth")
        with pytest.raises(DataError, match="expected names with tensors"):
            load_weights(network(0), tmp_path / "ring.pth")


def test_archives_that_grow_beyond_bounds_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    monkeypatch.setattr(weights, "MOST_BYTES", 1 << 19)
    with pytest.raises(DataError, match="found 1048576 bytes when unpacked, expected at most 524288"):
        load_weights(network(0), path)


def test_paths_that_cannot_be_read_or_written_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_weights(network(0), tmp_path / "none.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(DataError, match="expected a regular file"):
        load_weights(network(0), tmp_path / "folder.pth")
    with pytest.raises(DataError, match="cannot be written: No such file"):
        save_weights(network(0), tmp_path / "none" / "weights.pth")
    with pytest.raises(DataError, match="cannot be written: Is a directory"):
        save_weights(network(0), tmp_path / "folder.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pth"]


@pytest.mark.parametrize("function", [load_weights, save_weights])
def test_other_kinds_of_files_are_refused_with_the_nearest(tmp_path, function):
    with pytest.raises(
        ConfigurationError, match=r"found the ending '\.safetensor', .* did you mean \.safetensors"
    ):
        function(network(0), tmp_path / "weights.safetensor")
    with pytest.raises(ConfigurationError, match="found the ending ''"):
        function(network(0), tmp_path / "weights")


@ENDINGS
def test_a_failing_write_leaves_the_old_file(tmp_path, ending, monkeypatch):
    path = tmp_path / f"weights.{ending}"
    save_weights(network(0), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        save_weights(network(1), path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
