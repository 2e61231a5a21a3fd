"""Run folders for tests of reports, from the frozen results of the commands and from a few rows by hand."""

import json
import shutil
from pathlib import Path

FROZEN = Path(__file__).resolve().parents[2] / "data" / "frozen_results"
SESSION = {
    "status": "finished",
    "command": "python -m experiments.compare --seeds 2",
    "started": "2026-01-02T03:04:05+00:00",
    "cores": 2,
    "wall_s": 1.5,
    "machine": {"cpus": 2, "platform": "Linux-6.1"},
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


def trained(folder, name, settings=("calm", "busy")):
    """A training run with three validations."""
    path = recorded(folder / name, "train", {"asked": {"seed": 3}})
    heads = ["steps", "simulated_s", "wall_s", "score", "regret", *(f"return: {one}" for one in settings)]
    rows = [
        [100 * k, 2.0 * k, 0.5 * k, k - 5.0, 0.3 / (k + 1), *(k - 4.0 for _ in settings)] for k in range(3)
    ]
    lines = [heads, *rows]
    (path / "evaluations.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path
