"""Every reader of files from outside, with valid files that it reads: the one list of what is fuzzed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution

from agents.learned.checkpoint import DESCRIPTION, WEIGHTS, document_digest, load_checkpoint
from agents.learned.distilled import TREE, load_tree
from agents.learned.policy import load_policy
from experiments.common.runner import ROOT, checked, digest, read_record
from experiments.fuzzing import reports, runs, seeds
from experiments.fuzzing.decoder import served
from experiments.fuzzing.measured import MEASURED
from experiments.fuzzing.reader import Files, Reader, beside, documents, of, reading
from experiments.splitting.splits import PINS, Split, load_split, read_pins
from experiments.sweeping.definition import load_sweep
from experiments.training.hyperparameter_files import FOLDER, load_hyperparameters
from papi_env.envs.registration import DECODE
from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded, read_json
from papi_env.scenario import load_scenario, parse_scenario
from papi_env.workload.decoder import Transformer
from papi_env.workload.presets import MEASUREMENTS, load_measurements
from papi_env.workload.requests import Lengths
from papi_env.workload.service_presets import CAPACITIES, load_capacities
from papi_env.workload.traces import read_trace
from papi_env.workload.vision.network import load_repmlpnet

PRETRAINED = ROOT / "agents" / "pretrained"


def _in_folder(folder: Path, file: str) -> Callable[[], Files]:
    """A file of a folder of the project, with the others beside it; what records a training is left out."""

    def valid() -> Files:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        for name in {DESCRIPTION, TREE} & set(files):
            document = {**json.loads(files[name]), "scenarios": [], "training": {"traces": {}}}
            files[name] = _stamp_document(folder, seeds.as_json(document))
        return Files((files.pop(file),), files)

    return valid


def _pins() -> Files:
    """Pins of two settings of each split."""
    document = json.loads(PINS.read_bytes())
    for splits in document["problems"].values():
        for split in splits.values():
            split["settings"] = dict(list(split["settings"].items())[:2])
    return Files((seeds.as_json(document),))


def _first(path: Path, part: str | None = None) -> Callable[[], Files]:
    """The first two entries of a file of the project, or of the part of it that is read: all others are alike."""

    def valid() -> Files:
        document = json.loads(path.read_bytes())
        first = dict(list((document if part is None else document[part]).items())[:2])
        return Files((seeds.as_json(first if part is None else {part: first}),))

    return valid


def _scenarios() -> Files:
    return Files(tuple(map(seeds.as_json, seeds.scenario_documents())))


def _requests(folder: Path) -> object:
    path = str(folder / "requests.csv")
    lengths = Lengths.define({"trace": path}, path)
    return lengths.population(2048, "refuse")


def _act(folder: Path) -> object:
    from agents.learned.policy import LearnedPolicy

    checkpoint = load_checkpoint(folder)
    return LearnedPolicy(checkpoint).predict(
        np.zeros((1, len(checkpoint.description.observation.names)), dtype=np.float32)
    )


def _decide(folder: Path) -> object:
    policy = load_tree(folder)
    return policy.predict(np.zeros((2, len(policy.description.observation.names)), dtype=np.float32))


def _submission() -> Files:
    """A policy that says how it was trained."""
    files = _in_folder(PRETRAINED / "decode-v0", DESCRIPTION)()
    recorded = {"command": "a", "seed": 0, "versions": {"numpy": "2.0"}, "splits": {"train": "ab"}}
    document = json.loads(files.contents[0])
    whole = json.loads((PRETRAINED / "decode-v0" / DESCRIPTION).read_bytes())
    document["scenarios"] = whole["scenarios"][:1]
    document["training"] |= {**recorded, "teacher": recorded}
    return Files((_stamp_document(Path(), seeds.as_json(document)),), files.beside)


def _submitted(folder: Path) -> object:
    from experiments.arena.submissions import found_in_files

    _, findings = found_in_files(str(folder), _test_split())
    for finding in findings:
        if not finding.passed:
            raise DataError(f"{finding.what}: {finding.wrong}")
    return findings


@cache
def _test_split() -> Split:
    return load_split(DECODE, "test")


def _stamp_document(folder: Path, data: bytes) -> bytes:
    """The digest that a policy's or a tree's description has of itself."""
    try:
        document = json.loads(data)
        document.pop("sha256")
        return json.dumps({**document, "sha256": document_digest(document)}).encode()
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # no document any more
        return data


def _stamp_weights(folder: Path, data: bytes) -> bytes:
    """That which the description has of the weights."""
    document = json.loads((folder / DESCRIPTION).read_bytes())
    document["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / DESCRIPTION).write_bytes(_stamp_document(folder, json.dumps(document).encode()))
    return data


def _stamp_result(folder: Path, data: bytes) -> bytes:
    return data + b"# sha256 " + digest(data).encode() + b"\n"


def _pretrained(folder: Path) -> object:
    from experiments.training.pretrained.record import read_record as read_training

    return read_training(folder)


def _curve(folder: Path) -> object:
    from experiments.training.curves.data import read_curve

    return read_curve(folder)


def _trained(folder: Path) -> object:
    from experiments.arena.trained import read_run

    return read_record(folder / "run.json"), read_run(folder)


def _training_run() -> dict[str, bytes]:
    scenario = seeds.scenario_documents()[0]
    asked = {"algorithm": "ppo", "env": "papi_env/Decode-v0", "episodes": 2, "seed": 0}
    record = {
        "experiment": "train",
        "configuration": {"asked": asked, "validation": [scenario], "traces": []},
        "sessions": [{"status": "finished", "wall_s": 2.0, "steps": 100, "source": {"digest": "a"}}],
    }
    return {"run.json": seeds.as_json(record), "evaluations.csv": seeds.EVALUATIONS.encode()}


def _decoded(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        with served():
            return read_trace(folder / name)

    return read


def _hyperparameters(folder: Path) -> object:
    return load_hyperparameters("ppo", "papi_env/Serving-v0", path=folder / "ppo.toml")


def _tuned(folder: Path) -> object:
    from agents.serving.heuristic import Parameters
    from agents.serving.tuned import tuned_parameters

    return tuned_parameters(folder / "heuristic.json", Parameters)


def _network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def _weights(name: str) -> Callable[[], Files]:
    def valid() -> Files:
        from papi_env.workload.vision.weights import save_weights

        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            save_weights(_network(), path)
            return Files((path.read_bytes(),))

    return valid


def _load(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from papi_env.workload.vision.weights import load_weights

        network = _network()
        load_weights(network, folder / name)
        return network

    return read


def _journal() -> Files:
    from experiments.tuning.journal import open_study

    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.journal"
        study = open_study(path, "a")
        study.set_user_attr("asked", {"seed": 0})
        trial = study.ask({"x": FloatDistribution(0.1, 1.0, log=True)})
        trial.set_user_attr("returns", {"a": 1.0})
        study.tell(trial, 0.5)
        return Files((path.read_bytes(),))


def _searched(folder: Path) -> object:
    from experiments.tuning.journal import open_study

    return open_study(folder / "a.journal", "a").get_trials(deepcopy=False)


def _readers() -> list[Reader]:
    hub = documents(seeds.HUB)
    tables, chats = of(*seeds.TRACE_TABLES), documents(seeds.TRACE_DOCUMENTS)
    lines = of(*map(seeds.as_lines, seeds.TRACE_LINES))
    packed: Callable[[], Files] = lambda: Files(seeds.gzipped())  # noqa: E731 - made when it is asked for
    typed: Callable[[], Files] = lambda: Files((seeds.parquet(),))  # noqa: E731

    def trace(name: str) -> Callable[[Path], object]:
        return lambda folder: read_trace(folder / name)

    def chatted(folder: Path) -> object:
        return read_trace(folder / "trace.json", characters_per_token=4.0)

    return [
        Reader(
            "scenario",
            "scenario.toml",
            "toml",
            of(*seeds.SCENARIO_TOML),
            reading(load_scenario, "scenario.toml"),
        ),
        Reader(
            "scenario-json",
            "scenario.json",
            "json",
            _scenarios,
            lambda folder: parse_scenario(read_json(folder / "scenario.json"), "scenario.json"),
        ),
        Reader(
            "weights", "net.safetensors", "safetensors", _weights("net.safetensors"), _load("net.safetensors")
        ),
        Reader("weights-pth", "net.pth", "zip", _weights("net.pth"), _load("net.pth"), unpacks=True),
        Reader("journal", "a.journal", "json-lines", _journal, _searched),
        Reader("sweep", "sweep.toml", "toml", of(seeds.SWEEP), reading(load_sweep, "sweep.toml")),
        Reader("network", "net.toml", "toml", of(*seeds.REPMLPNET), reading(load_repmlpnet, "net.toml")),
        Reader(
            "hyperparameters", "ppo.toml", "toml", of((FOLDER / "ppo.toml").read_bytes()), _hyperparameters
        ),
        Reader("hub", "config.json", "json", hub, reading(Transformer.from_hf, "config.json")),
        Reader("trace-csv", "trace.csv", "text", tables, trace("trace.csv"), unpacks=True),
        Reader("trace-json", "trace.json", "json", chats, chatted),
        Reader("trace-lines", "trace.jsonl", "json-lines", lines, trace("trace.jsonl")),
        Reader("trace-gzip", "trace.gz", "gzip", packed, trace("trace.gz"), unpacks=True),
        Reader("trace-parquet", "trace.parquet", "parquet", typed, _decoded("trace.parquet"), unpacks=True),
        Reader("requests", "requests.csv", "text", of(*seeds.REQUESTS), _requests),
        Reader(
            "checkpoint-json",
            DESCRIPTION,
            "json",
            _in_folder(PRETRAINED / "decode-v0", DESCRIPTION),
            _act,
            _stamp_document,
        ),
        Reader(
            "checkpoint",
            WEIGHTS,
            "safetensors",
            _in_folder(PRETRAINED / "decode-v0", WEIGHTS),
            _act,
            _stamp_weights,
        ),
        Reader(
            "requests-checkpoint-json",
            DESCRIPTION,
            "json",
            _in_folder(PRETRAINED / "serving-v1", DESCRIPTION),
            load_policy,
            _stamp_document,
        ),
        Reader(
            "requests-checkpoint",
            WEIGHTS,
            "safetensors",
            _in_folder(PRETRAINED / "serving-v1", WEIGHTS),
            load_policy,
            _stamp_weights,
        ),
        Reader(
            "tree", TREE, "json", _in_folder(PRETRAINED / "serving-v0-tree", TREE), _decide, _stamp_document
        ),
        Reader("pretrained", "training.json", "json", _in_folder(PRETRAINED, "training.json"), _pretrained),
        Reader("splits", "splits.json", "json", _pins, reading(read_pins, "splits.json")),
        *MEASURED,
        Reader("run-record", "run.json", "json", beside("run.json", _training_run), _trained),
        Reader("curve-record", "run.json", "json", beside("run.json", _training_run), _curve),
        Reader("curve", "evaluations.csv", "text", beside("evaluations.csv", _training_run), _curve),
        Reader(
            "evolution-state",
            runs.STATE,
            "state",
            lambda: Files((runs.evolution_state(),)),
            runs.go_on_with_evolution,
            runs.stamp_state,
        ),
        Reader(
            "training-state",
            runs.STATE,
            "state",
            lambda: Files((runs.training_state(),)),
            runs.go_on_with_training,
            runs.stamp_state,
        ),
        Reader(
            "expert-state",
            runs.STATE,
            "state",
            lambda: Files((runs.expert_state(),)),
            runs.go_on_with_experts,
            runs.stamp_state,
        ),
        Reader("jobs", runs.JOBS, "json", lambda: Files((runs.jobs(),)), runs.go_on_with_jobs),
        Reader("sweep-part", runs.PART, "parquet", lambda: Files((runs.part(),)), runs.go_on_with_sweep),
        Reader("result", "job.csv", "text", of(_result()), reading(_result_of, "job.csv"), _stamp_result),
        Reader(
            "tuned",
            "heuristic.json",
            "json",
            _first(ROOT / "agents" / "serving" / "heuristic.json"),
            _tuned,
        ),
        Reader(
            "capacities",
            CAPACITIES.name,
            "json",
            _first(CAPACITIES, "measured"),
            reading(load_capacities, CAPACITIES.name),
        ),
        Reader(
            "measurements",
            MEASUREMENTS.name,
            "json",
            of(MEASUREMENTS.read_bytes()),
            reading(load_measurements, MEASUREMENTS.name),
        ),
        *map(_report, reports.RUNS),
        Reader("report-page", "page.md", "text", of(reports.PAGE), reports.filled_page),
        Reader(
            "submission",
            DESCRIPTION,
            "json",
            _submission,
            _submitted,
            _stamp_document,
        ),
    ]


def _report(name: str) -> Reader:
    """The page of a run folder, of which one file is changed."""
    made, changed = reports.RUNS[name]
    others = reports.forms_of(changed)
    return Reader(
        f"report-{name}",
        "run.json",
        "json",
        beside("run.json", made),
        reports.shown_sweep if name == "sweep" else reports.shown,
        unpacks="parquet" in others.values(),
        others=others,
    )


def _result() -> bytes:
    return _stamp_result(Path(), b"seed,time_s\n0,1.5\n1,1.25\n")


def _result_of(path: Path) -> bytes:
    return checked(path, read_bounded(path, JSON_BYTES))


READERS: Mapping[str, Reader] = {reader.name: reader for reader in _readers()}
