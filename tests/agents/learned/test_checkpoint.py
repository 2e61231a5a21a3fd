"""What is written is what is read; what is damaged, foreign or executable is refused with the reason."""

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from agents.learned.checkpoint import (
    DESCRIPTION,
    JOINT_ACTIONS,
    WEIGHTS,
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    load_checkpoint,
    recover,
    save_checkpoint,
)
from agents.learned.networks import Architecture, LstmShape
from papi_env.errors import ConfigurationError, DataError

widths = st.integers(1, 9)
architectures = st.builds(
    Architecture,
    inputs=widths,
    lstm=st.none() | st.builds(LstmShape, hidden_size=widths, layers=st.integers(1, 3)),
    hidden=st.lists(widths, max_size=3).map(tuple),
    activation=st.sampled_from(["tanh", "relu"]),
    head=st.sampled_from(["categorical", "values"]),
    options=st.lists(widths, min_size=1, max_size=4).map(tuple),
)


def checkpoint_of(architecture, seed=0, flat=False, **fields):
    """A checkpoint of random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in architecture.shapes().items()
    }
    options = (3, 2) if flat else architecture.options
    description = Description(
        algorithm="PPO",
        env="papi_env/Decode-v0",
        observation=ObservationLayout(names=tuple(f"feature {i}" for i in range(architecture.inputs))),
        action=ActionLayout(options=options, flat=flat),
        architecture=architecture,
        masked=False,
        **fields,
    )
    table = None
    if flat:
        table = rng.integers(0, (3, 2), size=(architecture.options[0], 2))
    return Checkpoint(description, weights, table)


SMALL = Architecture(inputs=4, hidden=(5,), activation="tanh", head="categorical", options=(3,))


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "policy", checkpoint_of(SMALL))


@settings(max_examples=50)
@given(architectures, st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(tmp_path_factory, architecture, seed):
    flat = len(architecture.options) == 1
    written = checkpoint_of(architecture, seed, flat, training={"steps": seed}, scenarios=({"name": "x"},))
    path = save_checkpoint(tmp_path_factory.mktemp("policies") / "one", written)
    read = load_checkpoint(path)
    assert read.description == written.description
    assert read.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_the_same_policy_is_the_same_bytes(tmp_path):
    one, other = (save_checkpoint(tmp_path / name, checkpoint_of(SMALL)) for name in "ab")
    assert {path.name for path in one.iterdir()} == {DESCRIPTION, WEIGHTS}
    for name in (DESCRIPTION, WEIGHTS):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_policy_replaces_an_older_one_and_nothing_else(tmp_path, folder):
    save_checkpoint(folder, checkpoint_of(SMALL, seed=1))
    np.testing.assert_array_equal(
        load_checkpoint(folder).weights["head.bias"], checkpoint_of(SMALL, seed=1).weights["head.bias"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds more than a policy"):
        save_checkpoint(folder, checkpoint_of(SMALL))
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_policy_set_aside_when_the_machine_stopped_comes_back(folder):
    before = load_checkpoint(folder)
    folder.rename(folder.with_name(".policy.old"))
    recover(folder)
    np.testing.assert_array_equal(load_checkpoint(folder).weights["head.bias"], before.weights["head.bias"])
    shutil.copytree(folder, folder.with_name(".policy.old"))
    recover(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@settings(max_examples=100)
@given(st.data())
def test_no_file_that_was_cut_off_or_changed_is_read(tmp_path_factory, data):
    folder = save_checkpoint(tmp_path_factory.mktemp("policies") / "one", checkpoint_of(SMALL))
    path = folder / data.draw(st.sampled_from([DESCRIPTION, WEIGHTS]))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        changed = content[:place]
    else:
        changed = (
            content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        )
    path.write_bytes(changed)
    if path.name == DESCRIPTION and same_json(changed, content):
        # Another white space is another file, but no other policy.
        load_checkpoint(folder)
        return
    with pytest.raises(DataError, match=re.escape(str(folder))):
        load_checkpoint(folder)


def rewritten(folder, change):
    """Change the description, and make its digests right again, as somebody would who meant to."""
    document = json.loads((folder / DESCRIPTION).read_text())
    change(document)
    document.pop("sha256")
    document["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="another"), "format"),
        (lambda d: d.update(version=2), "version"),
        (lambda d: d.update(algoritm="PPO"), "did you mean 'algorithm'"),
        (lambda d: d["architecture"].update(activation="__import__('os')"), "activation"),
        (lambda d: d["architecture"].update(hidden=[10**9]), "architecture.hidden"),
        (lambda d: d["architecture"].update(hidden=[6]), r"hidden.0.weight is float32 \[5, 4\], expected .* \[6, 4\]"),
        (lambda d: d["architecture"].update(hidden=[5, 5]), "hidden.1.weight is missing"),
        (lambda d: d["architecture"].update(inputs=3), "takes 3 features, but 4 are named"),
        (lambda d: d["architecture"].update(options=[4]), r"scores \(4,\) options, but the actions have \(3,\)"),
        (lambda d: d["observation"].update(names=["a", "b", "a", "c"]), "two features have one name"),
        (lambda d: d["observation"].update(scaling="by hand"), "observation.scaling"),
        (lambda d: d.update(masked="yes"), "masked"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused_field_by_field(folder, change, message):
    rewritten(folder, change)
    with pytest.raises(DataError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "head.bias is missing"),
        (lambda w: w.update(other=w["head.bias"]), "other is not part of it"),
        (lambda w: w.update({"head.bias": w["head.bias"].astype(np.float64)}), "head.bias is float64"),
        (lambda w: w.update({"head.bias": w["head.bias"] * np.float32(np.nan)}), "head.bias holds numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, message):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(DataError, match="changed, or another policy's"):
        load_checkpoint(folder)
    rewritten(folder, lambda document: None)
    with pytest.raises(DataError, match=message):
        load_checkpoint(folder)


def test_flat_actions_outside_the_choices_are_refused():
    architecture = SMALL.model_copy(update={"options": (4,)})
    good = checkpoint_of(architecture, flat=True)
    table = good.joint_actions.copy()
    table[1, 0] = 3
    with pytest.raises(DataError, match=rf"{JOINT_ACTIONS} has choices outside \[3, 2\]"):
        Checkpoint(good.description, good.weights, table)


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def test_nothing_executable_is_opened(folder, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        file.writestr("data", "{}")
    for path in (folder / WEIGHTS, folder / DESCRIPTION):
        content = path.read_bytes()
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            path.write_bytes(pickle.dumps(Bomb(), protocol))
            with pytest.raises(DataError, match="is a pickle; loading it would run code"):
                load_checkpoint(folder)
        path.write_bytes(pickle.dumps(Bomb(), 0))
        with pytest.raises(DataError):
            load_checkpoint(folder)
        shutil.copy(tmp_path / "model.zip", path)
        with pytest.raises(DataError, match="is a zip, such as Stable-Baselines3 saves"):
            load_checkpoint(folder)
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="would run code; expected a folder"):
        load_checkpoint(tmp_path / "model.zip")
    assert "executed" not in capsys.readouterr().out


def test_a_folder_without_a_policy_is_named(tmp_path, folder):
    with pytest.raises(ConfigurationError, match="is no folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"did you mean .*policy"):
        load_checkpoint(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"{WEIGHTS}: cannot be read"):
        load_checkpoint(folder)


def test_acting_needs_no_torch(folder):
    """In a process of its own, as others have imported it here."""
    code = (
        "import sys, numpy as np; from agents.learned.policy import load_policy; "
        f"policy = load_policy({str(folder)!r}); actions, _ = policy.predict(np.ones((2, 4), np.float32)); "
        "assert actions.shape == (2,); "
        "print(sorted({'torch', 'stable_baselines3', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
