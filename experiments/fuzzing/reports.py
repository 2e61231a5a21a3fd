"""Run folders as `experiments.report` reads them: small ones of each command that it knows, and how they are read."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from experiments.arena.requests import COLUMNS
from experiments.capacity.files import PRESETS, TIME_SCALES
from experiments.common.parts import PARTS, signed_name
from experiments.common.runner import ROOT
from experiments.fuzzing import seeds
from experiments.fuzzing.decoder import served
from experiments.reporting.content import Section
from experiments.reporting.filling import filled
from experiments.reporting.markdown import markdown_of
from experiments.reporting.registry import section_of
from experiments.sweeping.definition import Sweep
from experiments.sweeping.fronts import summarize
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, parse_toml, read_bounded, read_text
from papi_env.workload.presets import MEASUREMENTS

# What commands write and print, kept for tests: small runs that are the same as those of today.
_KEPT = ROOT / "tests" / "data" / "frozen_results"
# Of each list and table as many as tell what stands in it.
_FEW = 3
PART = "part.parquet"
Folder = Mapping[str, bytes]


def record(experiment: str, configuration: Mapping[str, Any] | None = None) -> bytes:
    """The run.json of a finished run."""
    session = {
        "status": "finished",
        "command": f"python -m experiments.{experiment}",
        "started": "2026-01-02T03:04:05+00:00",
        "cores": 2,
        "wall_s": 1.5,
        "machine": {"processor": "a", "instructions": ["x86_64"], "cpus": 2, "platform": "Linux"},
        "versions": {"numpy": "2.0"},
        "source": {"digest": "ab", "commit": "0123456789abcdef", "modified": True},
    }
    return seeds.as_json(
        {"experiment": experiment, "configuration": configuration or {"seed": 0}, "sessions": [session]}
    )


def _kept(name: str, *files: str) -> Callable[[], dict[str, bytes]]:
    """A run that is kept for tests, with the first items of its lists and rows of its tables."""

    def made() -> dict[str, bytes]:
        found = {"run.json": record(name.partition("_")[0])}
        for file in files:
            text = (_KEPT / name / file).read_text(encoding="utf-8")
            if file.endswith(".json"):
                # Of a trace the first events name units, and only later ones are work.
                found[file] = seeds.as_json(_short(json.loads(text), 40 if file == "trace.json" else _FEW))
            else:
                found[file] = "".join(text.splitlines(keepends=True)[: 1 + _FEW]).encode()
        return found

    return made


def _short(data: Any, most: int) -> Any:
    if isinstance(data, dict):
        return {name: _short(value, most) for name, value in data.items()}
    return [_short(value, most) for value in data[:most]] if isinstance(data, list) else data


def _served() -> dict[str, bytes]:
    """Requests of a service, with their table and trace."""
    out = io.BytesIO()
    rows = {name: [0, 1] for name in COLUMNS}
    pl.DataFrame(rows | {"policy": ["threshold"] * 2, "status": ["attained", "late"]}).write_parquet(out)
    found = _kept("serve", "summary.json", "results.csv", "trace.json")()
    return found | {"requests.parquet": out.getvalue()}


def _swept() -> dict[str, bytes]:
    """Two designs that were played and one that was refused."""
    question = {"name": "is it right", "paths": ["system.fc_pim.fpus_per_bank"], "values": [1]}
    energy = {"measure": "j_per_token", "goal": "min"}
    asked = parse_toml(seeds.SWEEP)
    sweep = Sweep.define({**asked, "objectives": [*asked["objectives"], energy], "question": question}, "a")
    rows = pl.DataFrame(
        {
            "design": [0, 1, 2],
            **{path: [1, 2, 4] for path in sweep.paths},
            "policy": ["threshold"] * 3,
            "scenario": [sweep.scenarios[0]] * 3,
            "seed": [0] * 3,
            "refused": [None, None, "limit"],
            "return": [-1.0, -2.0, None],
            "tokens_per_s": [2.0, 1.0, None],
            "j_per_token": [2.0, 1.0, None],
        }
    )
    out = io.BytesIO()
    rows.write_parquet(out)
    summary = summarize(rows.lazy(), sweep)[0]
    return {
        "run.json": record("sweep", {"sweep": sweep.model_dump(mode="json")}),
        "summary.json": seeds.as_json(summary),
        PART: out.getvalue(),
    }


def _trained() -> dict[str, bytes]:
    asked = {"algorithm": "ppo", "scenarios": ["a"], "hyper": ["gamma=0.9"], "seed": 0}
    return {
        "run.json": record("train", {"asked": asked}),
        "evaluations.csv": seeds.EVALUATIONS.encode(),
        "rounds.csv": b"round,looks,explained,moved,steps\n0,96,0.25,stay,100\n",
    }


def _tuned() -> dict[str, bytes]:
    entry = {
        "parameters": {"pace": 2.5, "order": "oldest"},
        "score": 0.51,
        "best_guess": {"name": "hasty", "score": 0.48},
        "trials": 3,
        "simulated_requests": 1234,
        "scenarios": {"saturated/llama-65b": "abc"},
    }
    return {
        "run.json": record("tune"),
        "parameters.json": seeds.as_json({"default": entry}),
        "trials.csv": b"search,score,pace,order\ndefault,0.4,2.0,oldest\ndefault,0.51,2.5,oldest\n",
    }


def _timed() -> dict[str, bytes]:
    row = {
        "part": "batch",
        "name": "papi_env/Decode-v0",
        "variant": "",
        "requests": 16,
        "tlp": 1,
        "unit": "steps/s",
        "low": 900.0,
        "high": 1300.0,
        "reference": None,
        "cpu_share": 0.98,
    }
    ratio = {"what": "Decode-v0", "must": 0.7, "goal": 2.0, "note": "", "at_least": False, "reached": "goal"}
    found = {
        "quick": False,
        "processor": "a",
        "ratios": {"a": ratio | {"value": 2.3, "low": 2.2, "high": 2.4}},
        "rows": [{**row, "envs": envs, "value": 10.0 * envs} for envs in (64, 1024)],
    }
    return {"run.json": record("throughput"), "summary.json": seeds.as_json(found)}


def _scaled() -> dict[str, bytes]:
    row = {"backend": "ray", "processes": 2, "jobs_s": 16.0, "jobs_over_one": 1.9}
    row |= {"command_s": 25.0, "command_over_one": 1.6}
    found = {"command": "experiments.compare", "processor": "a", "repeats": 3, "rows": [row, row]}
    return {"run.json": record("scaling"), "summary.json": seeds.as_json(found)}


def _killed() -> dict[str, bytes]:
    case = {"name": "compare", "backend": "ray", "target": "worker", "kills": 2, "runs": 1, "sessions": 3}
    found = {"cases": [{**case, "given_up": 0, "wrong": ["results.csv"]}]}
    return {"run.json": record("kill"), "summary.json": seeds.as_json(found)}


def _fuzzed() -> dict[str, bytes]:
    row = {"reader": "hub", "inputs": 9, "refused": 8, "accepted": 0, "faults": 1, "kinds": 1}
    row |= {"slowest_s": 0.1, "peak_mb": 20.5, "wall_s": 1.5}
    fault = {"error": "KeyError", "where": "x.py:1", "count": 1, "numbers": [5], "message": "'a'"}
    found = {"rows": [row], "faults": {"hub": [fault]}}
    return {"run.json": record("fuzz"), "summary.json": seeds.as_json(found)}


def _merged() -> dict[str, bytes]:
    """A network that was trained and merged."""
    summary = {
        "network": "net",
        "training_images": 100,
        "training_s": 1.5,
        "held_out": {"accuracy": 0.9},
        "onnx": None,
    }
    return {
        "run.json": record("reparameterize"),
        "summary.json": seeds.as_json(summary),
        "training.csv": b"epoch,loss,accuracy\n0,1.5,0.5\n1,0.5,0.9\n",
        "stages.csv": b"network,images,form,stage,best_s_gain,best_j_gain\nnet,1,deploy,all,1.5,1.2\n"
        b"net,4,deploy,all,1.4,1.1\nnet,1,deploy,0,1.5,1.2\n",
        "kernels.csv": b"network,kernel,best_s\nnet,fc,0.5\n",
    }


def _reproduced() -> dict[str, bytes]:
    """A row of each letter that has a figure, a fact, and the figures that are drawn."""
    reading = {
        "reading": "ours",
        "description": "as it is",
        "departures": "none",
        "log_rms": 0.2,
        "speed_ups": {"a100-attacc": 1.8},
    }
    known = {
        "source": "the paper",
        "role": "validation",
        "readings": {"batch": "fixed", "pim_batch": "fixed", "average": "arithmetic"},
    }
    number = known | {
        "paper": 1.8,
        "simulated": 1.6,
        "ratio": 0.9,
        "by_reading": {"ours": {"simulated": 1.6, "ratio": 0.9}},
        "averages": {"geometric": {"simulated": 1.5}},
    }
    fact = known | {
        "row": "O1",
        "quantity": "order",
        "paper": "first",
        "by_reading": {"ours": {"holds": True}},
    }
    rows = [
        number | {"row": "E1", "quantity": "speed-up: creative-writing, over A100+AttAcc"},
        number | {"row": "N1", "quantity": "energy: creative-writing, over A100+AttAcc"},
        fact,
    ]
    bars = {
        "settings": [[4, 1], [4, 2]],
        "gains": {"creative-writing/llama-65b": {"papi": [3.4, 2.9], "a100-attacc": [1.0, 1.0]}},
        "papi_over": {"creative-writing": {"a100-attacc": 1.8}},
        "paper": {"creative-writing": {"a100-attacc": 1.8}},
    }
    by_system = {"papi": [3.4, 2.9]}
    figures = {
        "figure-03-rlp-decay": {
            "batches": 4,
            "datasets": {"creative-writing": {"4": {"iteration": [1, 9], "mean": [4.0, 3.5]}}},
        },
        "figure-04-fc-latency": {"model": "llama-65b", "n": [1, 2], "seconds": {"papi": [0.1, 0.2]}},
        "figure-08-speedup": {"metric": "total_s", **bars},
        "figure-09-energy": {"metric": "total_j", **bars},
        "figure-10-sensitivity": {
            "scenario": "a",
            "rlp": [4, 8],
            "tlp": [1, 2],
            "by_rlp": by_system,
            "by_tlp": by_system,
        },
    }
    return {
        "run.json": record("reproduce"),
        "reproduction.json": seeds.as_json(rows),
        "readings.json": seeds.as_json([reading]),
        "figures.json": seeds.as_json(figures),
    }


def _replayed() -> dict[str, bytes]:
    pair = {"real": 2.0, "simulated": 2.04, "ratio": 1.02}
    one = {span: dict.fromkeys(("mean", "p50", "p90", "p99"), pair) for span in ("ttft", "tpot", "latency")}
    found = {"measured": {**one, "end": pair, "preemptions": 3}}
    return {"run.json": record("validate"), "serving.json": seeds.as_json(found)}


def _compared() -> dict[str, bytes]:
    found = {"rows": 12, "errors": {"mean": 0.0125, "worst": [0.5, None]}, "revision": "shipped"}
    return {"run.json": record("validate"), "cycles.json": seeds.as_json(found)}


def _capacities() -> dict[str, bytes]:
    """Loads of one traffic on one model."""
    name, rule = "tiers/llama-65b", "profile-greedy"
    how = {"rule": rule, "g": 0.951, "combinations": 9, "simulated_requests": 100}
    how |= {"beyond": {"sessions_per_s": 4.1, "rule": rule, "g": 0.94}, "rates": [[2.0, 1.0], [4.0, 0.951]]}
    capacity = {"sessions_per_s": 4.0, "worth": 200.0, "dynamic_j": 70.0, "static_w": 840.0}
    found = {"g": 0.95, "resolution": 0.04, "measured": {name: capacity}, "found": {name: how}}
    return {"run.json": record("presets", {"env": SERVING_V1}), PRESETS: seeds.as_json(found)}


def _scales() -> dict[str, bytes]:
    """How fast a trace may be played on one model."""
    name, rule = "azure-code/llama-65b", "profile-greedy"
    how = {"rule": rule, "g": 0.951, "combinations": 9, "simulated_requests": 100}
    how |= {"beyond": {"time_scale": 1.1, "rule": rule, "g": 0.94}, "rates": [[1.0, 0.951]]}
    found = {"g": 0.95, "resolution": 0.04, "measured": {name: 1.0}, "found": {name: how}}
    return {"run.json": record("presets", {"env": SERVING_V1}), TIME_SCALES: seeds.as_json(found)}


def _measurements() -> dict[str, bytes]:
    """What a machine does with two kinds of requests."""
    found = json.loads(MEASUREMENTS.read_bytes())
    found["measured"] = dict(list(found["measured"].items())[:2])
    return {"run.json": record("presets", {"env": SERVING}), PRESETS: seeds.as_json(found)}


def _curves() -> dict[str, bytes]:
    """Two runs of an algorithm beside a rule."""
    ends = {"iqm": 0.7, "low": 0.6, "high": 0.8}
    lines = {"x": [0.0, 100.0], "iqm": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.6, 0.8]}
    group = {"group": "PPO", "runs": 2, "seeds": [0, 1], "steps": 100.0, "wall_s": 5.0, "notes": ["a"]}
    group |= {"first": ends, "best": ends, "last": ends, "curve": lines}
    found = {"x": "steps", "y": "return", "settings": 1, "episodes": 8, "groups": [group]}
    found |= {"references": {"threshold": 0.5}}
    return {"run.json": record("curves"), "summary.json": seeds.as_json(found)}


# By the command, what makes its folder and the files of it that are changed besides run.json.
_ROWS = ("summary.json", "results.csv")
_FIGURES = ("reproduction.json", "readings.json", "figures.json")
RUNS: Mapping[str, tuple[Callable[[], dict[str, bytes]], tuple[str, ...]]] = {
    "compare": (_kept("compare_decode", *_ROWS), _ROWS),
    "compare-serving": (_kept("compare_serving", *_ROWS), _ROWS),
    "curves": (_curves, ("summary.json",)),
    "distill": (_kept("distill_decode", "summary.json", "rule.txt"), ("summary.json", "rule.txt")),
    "fuzz": (_fuzzed, ("summary.json",)),
    "headroom": (_kept("headroom", *_ROWS), _ROWS),
    "kill": (_killed, ("summary.json",)),
    "leaderboard": (_kept("leaderboard_serving", *_ROWS), _ROWS),
    "presets": (_measurements, (PRESETS,)),
    "presets-service": (_capacities, (PRESETS,)),
    "presets-time-scales": (_scales, (TIME_SCALES,)),
    "reparameterize": (_merged, ("summary.json", "training.csv", "stages.csv", "kernels.csv")),
    "reproduce": (_reproduced, _FIGURES),
    "scaling": (_scaled, ("summary.json",)),
    "serve": (_served, (*_ROWS, "trace.json", "requests.parquet")),
    "sweep": (_swept, ("summary.json", PART)),
    "throughput": (_timed, ("summary.json",)),
    "train": (_trained, ("evaluations.csv", "rounds.csv")),
    "tune": (_tuned, ("parameters.json", "trials.csv")),
    "validate": (_compared, ("cycles.json",)),
    "validate-serving": (_replayed, ("serving.json",)),
}
_FORMS = {".json": "json", ".csv": "text", ".txt": "text", ".parquet": "parquet"}


def forms_of(files: Sequence[str]) -> dict[str, str]:
    """How each file is changed."""
    return {name: _FORMS[Path(name).suffix] for name in files}


PAGE = """# Results
<!-- from a run
command = "experiments.train"
tables = [
    { title = "Validations", columns = ["steps", "mean return"] },
    { title = "Validations", pivot = { rows = "steps", columns = "regret", value = "mean return" } },
]
-->
<!-- end of the run -->
<!-- from a run
command = "experiments.train --algorithm $a --seed $s --out runs/$a-$s"
each = { a = "ppo a2c", s = "0 1 2" }
tables = [{ title = "Trainings", group = ["algorithm"] }]
-->
<!-- end of the run -->
<!-- from a run
command = "experiments.sweep a.toml --out a"
tables = [{ title = "The answer" }]
-->
<!-- end of the run -->
"""


def filled_page(folder: Path) -> object:
    """Fill the blocks of a page from a training."""
    path = folder / "page.md"
    return filled(read_text(path, JSON_BYTES), [_section()], str(path))


@cache
def _section() -> Section:
    with TemporaryDirectory() as folder:
        for name, content in _trained().items():
            (Path(folder) / name).write_bytes(content)
        return section_of(Path(folder))


def shown(folder: Path) -> object:
    """Make what a page shows of a run, and the page in Markdown."""
    with served():
        section = section_of(folder)
    return markdown_of("Report", [section], folder)


def shown_sweep(folder: Path) -> object:
    """Of a sweep, whose part stands under the name that its content has, so that it is read."""
    place, part = folder / PARTS, folder / PART
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        data = read_bounded(part, JSON_BYTES)
    except DataError:  # for the report to find
        data = b""
    if os.path.lexists(part):
        (place / signed_name(0, "0" * 16, data)).symlink_to(part)
    return shown(folder)
