"""What runs leave to go on from: states of trainings and parts of sweeps; valid ones, and how they are read."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.console import Console

from experiments.common.parts import PARTS, part_of
from experiments.common.pools import OwnProcess
from experiments.common.runner import Columns, Job, RunFolder, canonical, digest
from experiments.fuzzing.decoder import served
from papi_env.envs.registration import DECODE, SERVING_V1
from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.simulation.serving.state import OBSERVATION_NAMES_V1

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from experiments.training.phased import Phased

STATE = "state.safetensors"
PART = "part.parquet"
JOBS = "jobs.json"
_ROW = {"steps": 100, "simulated_s": 1.5, "wall_s": 0.25, "score": -3.0, "return: a": -3.0}


class _Quiet:
    """A listener of trainings that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


# Of small trainings of networks that see requests.
_SMALL: Mapping[str, tuple[str, ...]] = {
    "evolution": ("pairs=2", "settings=1", "episodes=1", "horizon_s=2.0", "apart=0.5"),
    "expert-iteration": ("futures=2", "looks=8", "checks=2", "horizon_s=2.0", "apart=0.5"),
}


@cache
def _begun(algorithm: str) -> Phased:
    """A small training by evolution, or by expert iteration."""
    from experiments.training.evaluation import Validator
    from experiments.training.evolution import Evolved
    from experiments.training.expert.rounds import Expert
    from experiments.training.options import Config
    from experiments.training.plan import resolve
    from experiments.training.record import Record

    config = Config(
        algorithm=algorithm,
        env=SERVING_V1,
        scenarios=("chats/llama-65b", "bursts/llama-65b"),
        episodes=1,
        timesteps=40_000,
        hyper=_SMALL[algorithm],
    )
    training = resolve(config)
    record = Record(None, Validator(config.env, training.validation, 1), _Quiet())
    return (Evolved if algorithm == "evolution" else Expert)(training, record)


def _kept(run: Phased) -> bytes:
    with TemporaryDirectory() as folder:
        run.record.folder, run.record.rows = Path(folder), [dict(_ROW)]
        run._phase, run.done = 1, {"": run.weights}
        run.keep_state()
        run.record.folder = None
        return (Path(folder) / STATE).read_bytes()


def evolution_state() -> bytes:
    """A state in the middle of a training by evolution."""
    return _kept(_begun("evolution"))


def go_on_with_evolution(folder: Path) -> object:
    """Take over a state, and write the policy that it holds."""
    return _go_on("evolution", folder)


def expert_state() -> bytes:
    """One of a training by expert iteration, with looks and with values of leaves."""
    from experiments.training.expert.leaves import Leaves
    from experiments.training.expert.looks import Looks
    from experiments.training.expert.rounds import NOTED

    run: Any = _begun("expert-iteration")
    features = len(OBSERVATION_NAMES_V1)
    empty = Looks.empty(features)
    run.looks = Looks._make(np.zeros((2, *array.shape[1:]), dtype=array.dtype) for array in empty)
    run.stopped = np.zeros((3, features), dtype=np.float32), np.zeros(3)
    run.leaves = Leaves(**Leaves.shapes(features))
    run.notes = [dict.fromkeys(NOTED, 1)]
    return _kept(run)


def go_on_with_experts(folder: Path) -> object:
    """Take over a state, and write the policy that it holds."""
    return _go_on("expert-iteration", folder)


def _go_on(algorithm: str, folder: Path) -> object:
    run = _begun(algorithm)
    run.take_over(folder / STATE)
    return run.checkpoint()


@cache
def _model() -> BaseAlgorithm:
    """A small training by gradients."""
    from experiments.arena.settings import scenario_settings
    from experiments.training.algorithms import build_model
    from experiments.training.hyperparameter_files import load_hyperparameters
    from experiments.training.hyperparameters import Hyperparameters
    from experiments.training.settings import training_envs

    small = ("n_envs=2", "n_steps=4", "batch_size=8", "net_arch=[4]", "imitation={rounds=0,episodes=1}")
    parameters = load_hyperparameters("ppo", DECODE, small)
    assert isinstance(parameters, Hyperparameters)
    envs = training_envs(DECODE, scenario_settings(DECODE), parameters.n_envs, True)
    model = build_model("ppo", parameters, envs, seed=0)
    model.learn(8)
    return model


def training_state() -> bytes:
    """A state in the middle of a training by gradients."""
    from experiments.training.state import save_state

    with TemporaryDirectory() as folder:
        path = Path(folder) / STATE
        run = {"rows": [_ROW], "next_validation": 20, "finished_s": 0.5, "wall_s": 0.25}
        save_state(path, _model(), run)
        return path.read_bytes()


def go_on_with_training(folder: Path) -> object:
    """Put the model into a state, and let its environments step: compiled code reads what the state holds."""
    from experiments.training.state import load_state
    from experiments.training.state_bounds import rows_of

    path, model = folder / STATE, _model()
    run = load_state(path, model)
    envs = model.get_env()
    assert envs is not None
    envs.step(np.array([envs.action_space.sample() for _ in range(envs.num_envs)]))
    return rows_of(path, run.get("rows") if isinstance(run, dict) else None)


def stamp_state(folder: Path, data: bytes) -> bytes:
    """The digest that a state has of itself."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from experiments.training.state import _digest

    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header["__metadata__"]["sha256"] = _digest(header["__metadata__"]["state"], load(data))
        text = json.dumps(header).encode()
    except (
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ):
        return data
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


_SCHEMA: dict[str, Any] = {"design": pl.Int64, "axis": pl.Float64, "refused": pl.String, "note": pl.String}


def part() -> bytes:
    """A part of a sweep."""
    out = io.BytesIO()
    pl.DataFrame(_rows(), schema=_SCHEMA).write_parquet(out)
    return out.getvalue()


def _rows() -> Columns:
    return {"design": [0, 1], "axis": [1.5, 2.0], "refused": [None, "limit"], "note": [None, "too large"]}


def go_on_with_sweep(folder: Path) -> object:
    """Take a part's file as the first of a sweep: under the name that its content has, so that it is read."""
    run = RunFolder(folder / "run", "sweep", {})
    job = Job("designs 0 to 1", {}, _rows, ())
    place = run.path / PARTS
    place.mkdir(parents=True, exist_ok=True)
    for earlier in place.iterdir():
        earlier.unlink()
    key, data = digest(canonical([job.key]))[:16], read_bounded(folder / PART, JSON_BYTES)
    (place / f"000000-{key}-{digest(data)[:16]}.parquet").write_bytes(data)
    with served():
        rows, reused = part_of(run, 0, [job], _SCHEMA, OwnProcess(), Console(quiet=True))
    if not reused:
        raise DataError(f"{folder / PART}: its rows were played again")
    return rows.select(pl.col("axis").mean(), pl.col("note").str.len_bytes().max()).rows()


_DONE = Job("designs 0 to 1", {}, _rows, ())


def jobs() -> bytes:
    """Results of the jobs of a finished run, in one file."""
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), "compare", {})
        run.keep(_DONE, b"design,axis\n0,1.5\n1,2.0\n")
        run.pack([_DONE])
        return (Path(folder) / JOBS).read_bytes()


def go_on_with_jobs(folder: Path) -> object:
    """Take a job's result over as a run does that goes on; what is damaged is said, and run again."""
    run = RunFolder(folder, "compare", {})
    found = run.result(_DONE) if run.has(_DONE) else None
    if found is None or run.damaged:
        raise DataError(f"{folder / JOBS}: its job is run again {run.damaged}")
    return pl.read_csv(found)
