"""Run folders for tests of reports, from the frozen results of the commands and from a few rows by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from experiments.training.curves.data import Curve, Validation
from experiments.training.curves.report import summarize
from experiments.vision.data import find_system, kernel_rows, network_row, rule_row, stage_rows, tabulate
from papi_env.scenario import get_scenario

FROZEN = Path(__file__).resolve().parents[2] / "data" / "frozen_results"
# Returns and paces that a search tried.
SETS = ((0.2, 1.0), (0.5, 2.5), (0.3, 4.0))
SESSION = {
    "status": "finished",
    "command": "python -m experiments.compare --seeds 2",
    "started": "2026-01-02T03:04:05+00:00",
    "cores": 2,
    "wall_s": 1.5,
    "machine": {
        "processor": "A processor",
        "instructions": ["x86_64", "avx2"],
        "cpus": 2,
        "platform": "Linux-6.1",
    },
    "versions": {"python": "3.11.2", "numpy": "2.4.6"},
    "source": {"digest": "ab" * 32, "commit": "0123456789abcdef", "modified": True},
}


def frozen(folder, name):
    """A run folder with a frozen result's files in it."""
    path = folder / name
    shutil.copytree(FROZEN / name, path)
    configuration = json.loads((path / "configuration.json").read_text())
    return recorded(path, name.partition("_")[0], configuration)


def recorded(path, experiment, configuration):
    """The folder, with its record."""
    path.mkdir(exist_ok=True)
    record = {"experiment": experiment, "configuration": configuration, "sessions": [SESSION]}
    (path / "run.json").write_text(json.dumps(record))
    return path


def trained(folder, name, settings=("calm", "busy"), **asked):
    """A training run with three validations."""
    asked = {"algorithm": "ppo", "scenarios": ["tiny"], "hyper": ["gamma=0.9"], "seed": 3} | asked
    path = recorded(folder / name, "train", {"asked": asked})
    heads = ["steps", "simulated_s", "wall_s", "score", "regret", *(f"return: {one}" for one in settings)]
    rows = [
        [100 * k, 2.0 * k, 0.5 * k, k - 5.0, 0.3 / (k + 1), *(k - 4.0 for _ in settings)] for k in range(3)
    ]
    lines = [heads, *rows]
    (path / "evaluations.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def tuned(folder):
    """A tuning of two searches, with the sets that they tried."""
    path = recorded(folder / "tuned", "tune", {"rule": "heuristic", "env": "papi_env/Serving-v0"})
    entry = {
        "parameters": {"pace": 2.5, "order": "oldest"},
        "score": 0.51,
        "best_guess": {"name": "hasty", "score": 0.48},
        "trials": 3,
        "simulated_requests": 1234,
        "scenarios": {"saturated/llama-65b": "abc"},
    }
    (path / "parameters.json").write_text(json.dumps({"default": entry, "bursty": entry}))
    rows = [f"{search},{score},{pace},oldest" for search in ("default", "bursty") for score, pace in SETS]
    (path / "trials.csv").write_text("\n".join(["search,score,pace,order", *rows]) + "\n")
    return path


def killed(folder):
    """Two cases, one of them with a result that was not the same."""
    path = recorded(folder / "killed", "kill", {"kills": 9})
    counts = {"kills": 6, "runs": 2, "sessions": 5, "given_up": 1, "wrong": []}
    cases = [
        {"name": "sweep", "backend": "local", "target": "all", **counts},
        {
            "name": "compare",
            "backend": "ray",
            "target": "worker",
            **counts,
            "kills": 3,
            "wrong": ["a: differs"],
        },
    ]
    (path / "summary.json").write_text(json.dumps({"kills": 9, "wrong": 1, "cases": cases}))
    return path


def fuzzed(folder):
    """Two readers, one of them with a fault."""
    path = recorded(folder / "fuzzed", "fuzz", {"seed": 0})
    row = {"reader": "hub", "inputs": 50, "refused": 30, "accepted": 20, "faults": 0, "kinds": 0}
    row |= {"slowest_s": 0.25, "peak_mb": 12.5, "wall_s": 3.0}
    fault = {"error": "KeyError", "where": "a.py:1", "count": 2, "numbers": [3, 4], "message": "'a'"}
    rows = [row, {**row, "reader": "tree", "refused": 28, "faults": 2, "kinds": 1}]
    (path / "summary.json").write_text(json.dumps({"rows": rows, "faults": {"hub": [], "tree": [fault]}}))
    return path


def replayed(folder):
    """A server's run as its measured kernels would have it, which is 2 % slower."""
    path = recorded(folder / "replayed", "validate", {"serving": "a"})
    pair = {"real": 2.0, "simulated": 2.04, "ratio": 1.02}
    one = {span: dict.fromkeys(("mean", "p50", "p90", "p99"), pair) for span in ("ttft", "tpot", "latency")}
    found = {"measured": {**one, "end": pair, "preemptions": 3, "iterations": 7}}
    (path / "serving.json").write_text(json.dumps(found))
    return path


def checked(folder):
    """Figures of a comparison, some of them in parts."""
    path = recorded(folder / "checked", "validate", {"cycles": "a"})
    found = {"rows": 12, "errors": {"mean": 0.0125, "worst": [0.5, None]}, "revision": "shipped", "fit": True}
    (path / "cycles.json").write_text(json.dumps(found))
    return path


def timed(folder):
    """Speeds at two sizes, a ratio that was measured and one that was not."""
    path = recorded(folder / "timed", "throughput", {"parts": ["batch"], "quick": False})
    sizes = {"part": "batch", "name": "papi_env/Decode-v0", "variant": "copying", "requests": 16, "tlp": 1}
    spread = {"unit": "steps/s", "low": 900.0, "high": 1300.0, "reference": None, "cpu_share": 0.98}
    rows = [{**sizes, **spread, "envs": envs, "value": 10.0 * envs} for envs in (64, 1024)]
    known = {"what": "Decode-v0 / CartPole's", "must": 0.7, "goal": 2.0, "note": "", "at_least": False}
    ratios = {
        "ratio_decode_batch": known | {"value": 2.3, "low": 2.2, "high": 2.4, "reached": "goal"},
        "ratio_fork": known | {"value": None, "low": None, "high": None, "reached": None, "note": "not run"},
    }
    found = {"quick": False, "processor": "A processor", "ratios": ratios, "rows": rows}
    (path / "summary.json").write_text(json.dumps(found))
    return path


def drawn(folder):
    """Curves of two trainings beside a rule, of which one was interrupted."""
    path = recorded(folder / "drawn", "curves", {"x": "steps", "y": "regret"})
    steps = np.array([0.0, 100.0, 200.0])
    runs = [
        Curve(Path("a"), seed, status, frozenset(), steps, steps, steps / 50, regret - 9.0, 8.0 - regret)
        for seed, status, regret in (
            (0, "", np.array([1.0, 7.0, 6.0])),
            (4, "interrupted", np.array([1.0, 6.0, 5.0])),
        )
    ]
    validation = Validation("papi_env/Decode-v0", (get_scenario("creative-writing/llama-65b"),), 2)
    found = summarize({"PPO": runs}, validation, {"threshold": 0.125}, "steps", "regret", "range")
    (path / "summary.json").write_text(json.dumps(found))
    return path


def merged(folder):
    """The digits' network before and after merging, with the policies of a stream beside it."""
    path = recorded(folder / "merged", "reparameterize", {"seeds": {"first": 0, "count": 2}})
    network = tabulate("repmlpnet-t224", find_system("papi-edge", None, None))
    tables = {"networks": [network_row(network)], "rules": [rule_row(network)]}
    tables |= {"stages": list(stage_rows(network, (1, 4))), "kernels": list(kernel_rows(network, (1, 4)))}
    for name, rows in tables.items():
        (path / f"{name}.csv").write_text(pl.DataFrame(rows, infer_schema_length=None).write_csv())
    frozen(path, "compare_images").rename(path / "vision-stream")
    (path / "units.png").write_bytes(b"\x89PNG")
    return path


def explored(folder):
    """Gains of a choice on two machines."""
    path = recorded(folder / "explored", "reparameterize", {"explore": True})
    rows = [f"net,{machine},equal,{n},1.{n},1.0" for machine in ("A100", "edge") for n in (1, 4)]
    (path / "explored.csv").write_text(
        "\n".join(["network,machine,starts,images,gain,class_gain", *rows]) + "\n"
    )
    return path
