"""The second paper from training to schedule: a RepMLPNet is trained, merged, checked, exported, and dispatched.

Written to the run folder, each file whole or not at all:

* training.csv: loss and right answers by epoch; training.safetensors: the weights before merging;
* merged.safetensors and merged.onnx: after; merged.json: what the network is, how it came about, what it was checked
  for, and the hash of either file;
* predictions.csv: the held-out images, what they show, and what the network sees before and after;
* network.toml, scenario.toml: for every command that takes a network or a scenario;
* kernels.csv, stages.csv: as of `experiments.reparameterize`, for this network.

Training is quick, and the same again for the same seed, so an interrupted run starts anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from experiments.common.command import say
from experiments.common.runner import RunFolder, file_digest
from experiments.common.study import json_text
from experiments.vision.data import kernel_rows, stage_rows, tabulate
from experiments.vision.digits import DIGITS_NETWORK, check_network, load_digits
from experiments.vision.report import encodes_table, kernels_table, stages_table
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.workload.vision.network import RepMLPNet, get_repmlpnet

# The machine where none is named: an edge GPU, beside a camera.
SYSTEM = "papi-edge"
# As in the scenario vision-edge, of images that a few cameras send.
STREAM: Mapping[str, Any] = {"batch_sizes": (1, 1, 2, 4), "encodes": 16}
SCENARIO_FILE, NETWORK_FILE = "scenario.toml", "network.toml"
EPOCHS = 30


@dataclass(frozen=True)
class Course:
    """What is trained, and for which machine."""

    net: RepMLPNet
    system: System
    epochs: int
    seed: int
    images: tuple[int, ...]


def resolve(
    networks: Sequence[str], system: System, epochs: int, seed: int, images: tuple[int, ...]
) -> Course:
    """Look up and check everything that a run needs, scikit-learn and torch among them.

    Args:
        networks: one name or file, or none for the default.
        system: where to dispatch, registered.
        epochs, seed: of training.
        images: encoded together in the tables.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if len(networks) > 1:
        raise ConfigurationError(f"--networks names {len(networks)} networks, expected one to train")
    net = get_repmlpnet(networks[0]) if networks else DIGITS_NETWORK
    check_network(net)
    if not 1 <= epochs <= 10_000:
        raise ConfigurationError(f"--epochs is {epochs}, expected 1 to 10000")
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"--seed is {seed}, expected a number from 0 to 2^63 - 1")
    if system.name not in SYSTEMS:
        raise ConfigurationError(
            f"--system {system.name!r} is not registered, expected one of {', '.join(SYSTEMS)} to train for"
        )
    for package in ("torch", "sklearn", "onnx"):
        if importlib.util.find_spec(package) is None:
            extra = "experiments" if package == "onnx" else "learn"
            called = "scikit-learn, whose digits they are," if package == "sklearn" else package
            raise ConfigurationError(
                f"--train digits needs {called} which is not installed: pip install 'papi-env[{extra}]' brings it"
            )
    tabulate(net, system)  # refuses weights that do not fit
    return Course(net, system, epochs, seed, images)


def train_merge_export(course: Course, folder: RunFolder, progress: Console) -> dict[str, Any]:
    """Train, merge, compare, export and tabulate; returns what `print_course` prints, as summary.json holds it."""
    from experiments.vision.onnx_export import network_to_onnx, run_onnx
    from experiments.vision.training import agreement, logits, train
    from papi_env.workload.vision.repmlp import locality_injected
    from papi_env.workload.vision.weights import save_weights

    digits = load_digits(course.net.image_size, course.seed)
    say(progress, f"training {course.net.name} on {len(digits.train)} digits, {course.epochs} epochs")
    with progress.status("training") as status:
        network, curve = train(
            course.net,
            digits,
            course.epochs,
            course.seed,
            lambda e: status.update(f"epoch {e.epoch} of {course.epochs}: {100 * e.accuracy:.1f} % right"),
        )
    merged = locality_injected(network)
    before, after = logits(network, digits.held_out), logits(merged, digits.held_out)
    labels = digits.held_out_labels
    checked = agreement(before, after, labels)
    model = network_to_onnx(merged)
    ran, by = run_onnx(model, digits.held_out)
    onnx = {"by": by, **agreement(after, ran, labels)}

    rows = [{k: v for k, v in asdict(epoch).items() if k != "seconds"} for epoch in curve]
    folder.write("training.csv", pl.DataFrame(rows).write_csv())
    save_weights(network, folder.path / "training.safetensors")
    save_weights(merged, folder.path / "merged.safetensors")
    folder.write("merged.onnx", model)
    document = {
        "network": course.net.model_dump(mode="json"),
        "form": "deploy",
        "input": {"pixels": "0 to 1", "layout": ["images", "channels", "height", "width"]},
        "training": {"data": "scikit-learn digits", "epochs": course.epochs, "seed": course.seed},
        "held_out": checked,
        "onnx": onnx,
        "sha256": {
            "merged.safetensors": file_digest(folder.path / "merged.safetensors"),
            "merged.onnx": hashlib.sha256(model).hexdigest(),
        },
    }
    folder.write("merged.json", json_text(document))
    columns = {
        "image": digits.indices,
        "label": labels,
        "before": before.argmax(1),
        "after": after.argmax(1),
        "largest_difference": np.abs(after.astype(np.float64) - before).max(axis=1),
    }
    folder.write("predictions.csv", pl.DataFrame(columns).write_csv())
    write_scenario(course, folder)
    tabulated = tabulate(course.net, course.system)
    kernels, stages = (list(rows(tabulated, course.images)) for rows in (kernel_rows, stage_rows))
    folder.write("kernels.csv", pl.DataFrame(kernels, infer_schema_length=None).write_csv())
    folder.write("stages.csv", pl.DataFrame(stages, infer_schema_length=None).write_csv())
    return {
        "network": course.net.name,
        "system": course.system.name,
        "training_images": len(digits.train),
        "training_s": round(curve[-1].seconds, 1),
        "held_out": checked,
        "onnx": onnx,
        "kernels": kernels,
        "stages": stages,
    }


def write_scenario(course: Course, folder: RunFolder) -> None:
    """Write the network, and a stream of its encodes on the registered machine, as files that every command reads."""
    lines = [f"{name} = {_toml(value)}" for name, value in course.net.model_dump(mode="json").items()]
    folder.write(NETWORK_FILE, "\n".join(lines) + "\n")
    lines = [
        f"name = {_toml(f'{course.net.name}-stream')}",
        f"system = {_toml(get_system(course.system.name).name)}",
        "[images]",
        f"network = {_toml(NETWORK_FILE)}",
        *(f"{name} = {_toml(value)}" for name, value in STREAM.items()),
    ]
    folder.write(SCENARIO_FILE, "\n".join(lines) + "\n")


def print_course(console: Console, results: Mapping[str, Any]) -> None:
    """Accuracy before and after, what the export computes, and the network's kernels on the machine."""
    checked, onnx = results["held_out"], results["onnx"]
    say(
        console,
        f"{results['network']}: trained on {results['training_images']} digits in {results['training_s']:g} s; "
        f"{checked['images']} held out",
    )
    say(
        console,
        f"accuracy before merging {100 * checked['accuracy_before']:.2f} %, after "
        f"{100 * checked['accuracy_after']:.2f} %; {checked['equal_predictions']} of {checked['images']} predictions "
        "equal",
    )
    say(
        console,
        f"largest difference of a logit {checked['largest_difference']:.1e} (largest logit "
        f"{checked['largest_logit']:.3g}, smallest margin of a prediction {checked['margin']:.2g})",
    )
    say(
        console,
        f"merged.onnx, run by {onnx['by']}: {onnx['equal_predictions']} of {onnx['images']} predictions equal, "
        f"largest difference {onnx['largest_difference']:.1e}\n",
    )
    for title, table in (
        ("Kernels by stage, before → after merging", kernels_table(results["kernels"], results["stages"])),
        ("Time and energy by stage", stages_table(results["stages"])),
        ("Whole encodes", encodes_table([r for r in results["stages"] if r["stage"] == "all"])),
    ):
        console.print(f"{title} on {results['system']}", style="bold", markup=False, highlight=False)
        console.print(table)
        console.print()


def _toml(value: Any) -> str:
    """Text, whole numbers and lists of them are written in TOML as in JSON."""
    return json.dumps(value)
