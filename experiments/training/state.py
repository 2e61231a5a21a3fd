"""The whole state of a training between two rollouts, in one safetensors file: arrays, and plain data as JSON.

    save_state(path, model, data)
    ...
    data = load_state(path, fresh_model)     # built from the same configuration

Training that goes on from here does what it would have done without the interruption, bit for bit, as long as code,
versions and the number of threads stay the same: weights, optimizer, every random generator, the environments in the
middle of their episodes, and of the off-policy algorithms the replay buffer are all there. Nothing is pickled and
nothing in the file is executed. What is left out moves no weight: the logger, and clocks of wall time; and what an
engine makes from its scenario, its cost tables first, is made again.

A digest finds a file that has changed by a bit. It is no signature: counters that count or choose rows of tables are
checked besides, for compiled code does not look.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnvWrapper

from agents.environments import problems_of
from agents.learned.advised import AdvisedVecEnv
from experiments.common.runner import write_whole
from experiments.training.rewards import TrainingReward
from experiments.training.scaling import NormalizeBySetting
from experiments.training.state_bounds import (
    Arrays,
    check_counters,
    check_size,
    counts_of,
    number_of,
    widened,
)
from papi_env.errors import DataError
from papi_env.files import check_regular
from papi_env.sb3 import BatchVecEnv
from papi_env.sb3_mixture import MixtureVecEnv
from papi_env.sb3_time import ReplayInSeconds
from papi_env.simulation.batch.engine import DecodeEngine

# Of the model: plain numbers, and arrays that may be None. Algorithms have some of them.
_NUMBERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
    "_current_progress_remaining",
)
_ARRAYS = ("_last_obs", "_last_episode_starts", "_last_original_obs")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
# chosen: a hundred times the largest replay buffer of the shipped settings (range 1e9-1e11).
_MOST_BYTES = 1 << 34


def save_state(path: Path, model: BaseAlgorithm, data: Mapping[str, Any]) -> None:
    """Write the state of a model between two rollouts, whole or not at all.

    Args:
        path: of the file.
        model: a model of `algorithms`, in training.
        data: what else the run needs, as plain data.
    """
    arrays, plain = _state_of(model)
    write_state(path, arrays, {"model": plain, "run": dict(data)})


def write_state(path: Path, arrays: Arrays, content: Mapping[str, Any]) -> None:
    """Write arrays and plain data with a digest of both, whole or not at all."""
    text = json.dumps(content)
    # Names may share memory, as do the states of an engine: a file holds each by itself.
    tensors = {name: np.array(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(tensors, metadata={"state": text, "sha256": _digest(text, tensors)}))


def read_state(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the plain data that `write_state` wrote.

    Raises:
        DataError: the file is damaged, or none of these.
    """
    check_regular(path, _MOST_BYTES)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata["sha256"] != _digest(metadata["state"], found):
            raise DataError(f"{path}: changed since it was written (its digest is another)")
        content = json.loads(metadata["state"])
        if not isinstance(content, dict):
            raise TypeError("expected fields by name")
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a training state, or cut off: {error}") from None
    return found, content


def load_state(path: Path, model: BaseAlgorithm) -> Any:
    """Put a model, just built, and its environments into the state in a file; returns the run's data.

    Raises:
        DataError: the file is damaged, or was written by another configuration: all that does not fit is named
            before anything changes.
    """
    found, content = read_state(path)
    try:
        plain, run = dict(content["model"]), content["run"]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a training state, or cut off: {error}") from None
    envs = model.get_env()
    assert envs is not None
    envs.reset()  # so that the environments count as started
    remembered = _reward_arrays(model) | _normalized_arrays(model)
    expected = _engines_arrays(model) | remembered
    expected |= {f"policy.{name}": tensor.numpy() for name, tensor in model.policy.state_dict().items()}
    engines = {f"env.{i}.engine": problems_of(part)[0].engine for i, part in enumerate(_parts(model))}
    for where, engine in engines.items():
        found = widened(where, engine, found, expected)
    for name, array in expected.items():
        check_array(path, name, found.get(name), array)
    for name in remembered:
        check_size(path, name, found[name])
    for where, engine in engines.items():
        check_counters(path, where, engine, found)
    counts = [name for name in _NUMBERS[:4] if hasattr(model, name)]
    counts_of(path, plain, counts)
    for name in _NUMBERS[4:]:
        if hasattr(model, name):
            number_of(path, name, plain.get(name))
    try:
        _restore(model, found, plain)
        return run
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not the state of this training: {error!r}") from error


def check_array(path: Path, name: str, found: npt.NDArray[Any] | None, expected: npt.NDArray[Any]) -> None:
    """Raise DataError where an array of a state is not as expected."""
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        there = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise DataError(
            f"{path}: {name} is {there}, expected {expected.dtype} {list(expected.shape)}: the state of another "
            "configuration or version"
        )


def _digest(text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of all that a file says: plain data, and each array with its name, type and shape."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"\n{name} {array.dtype.str} {list(array.shape)} ".encode())
        found.update(array.data)
    return found.hexdigest()


def _state_of(model: BaseAlgorithm) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {f"policy.{name}": t.numpy() for name, t in model.policy.state_dict().items()}
    plain: dict[str, Any] = {name: getattr(model, name) for name in _NUMBERS if hasattr(model, name)}
    for name in _ARRAYS:
        if getattr(model, name, None) is not None:
            arrays[f"model.{name}"] = getattr(model, name)
    for k, array in enumerate(_lstm_states(model)):
        arrays[f"lstm.{k}"] = array
    plain["episodes"] = [
        {key: float(info[key]) for key in ("r", "l", "t")} for info in model.ep_info_buffer or ()
    ]
    _add_optimizer(model, arrays, plain)
    _add_generators(model, arrays, plain)
    arrays |= _engines_arrays(model)
    arrays |= _normalized_arrays(model) | _reward_arrays(model)
    replay = getattr(model, "replay_buffer", None)
    if replay is not None:
        plain["replay"] = {"pos": replay.pos, "full": replay.full}
        for name in _replayed(replay):
            arrays[f"replay.{name}"] = getattr(replay, name)[: replay.size()]
    return arrays, plain


def _restore(model: BaseAlgorithm, arrays: Arrays, plain: Mapping[str, Any]) -> None:
    model.policy.load_state_dict(
        {name: torch.from_numpy(arrays[f"policy.{name}"]) for name in model.policy.state_dict()}
    )
    for name in _NUMBERS:
        if hasattr(model, name):
            setattr(model, name, plain[name])
    for name in _ARRAYS:
        if f"model.{name}" in arrays:
            setattr(model, name, arrays[f"model.{name}"])
    for k, array in enumerate(_lstm_states(model)):
        array[...] = arrays[f"lstm.{k}"]
    length = model._stats_window_size
    model.ep_info_buffer, model.ep_success_buffer = (
        deque(plain["episodes"], maxlen=length),
        deque(maxlen=length),
    )
    _restore_optimizer(model, arrays, plain)
    for name, array in {**_engines_arrays(model), **_reward_arrays(model)}.items():
        array[...] = arrays[name]
    normalized = model.get_vec_normalize_env()
    if normalized is not None:
        normalized.returns = arrays["normalize.returns"]
        rms: Any = normalized.ret_rms
        rms.mean, rms.var, rms.count = arrays["normalize.running"]
    replay = getattr(model, "replay_buffer", None)
    if replay is not None:
        for name in _replayed(replay):
            rows = arrays[f"replay.{name}"]
            getattr(replay, name)[: len(rows)] = rows
        replay.pos, replay.full = int(plain["replay"]["pos"]), bool(plain["replay"]["full"])
    # Last: nothing above may draw afterwards.
    _restore_generators(model, arrays, plain)


def _replayed(replay: Any) -> tuple[str, ...]:
    """The arrays of a replay buffer; one that discounts by seconds has those besides."""
    return (*_REPLAY, "discounts") if isinstance(replay, ReplayInSeconds) else _REPLAY


def _parts(model: BaseAlgorithm) -> tuple[BatchVecEnv, ...]:
    """The batch environments that the model trains on."""
    envs: Any = model.get_env()
    envs = envs.unwrapped
    return envs.parts if isinstance(envs, MixtureVecEnv) else (envs,)


def _engines_arrays(model: BaseAlgorithm) -> Arrays:
    return {
        f"env.{i}.{name}": array
        for i, part in enumerate(_parts(model))
        for name, array in _engine_arrays(part).items()
    }


def _engine_arrays(part: BatchVecEnv) -> Arrays:
    """Every array that a step changes: of the engine, and the adapter's returns and lengths of episodes."""
    (problem,) = problems_of(part)
    arrays: Arrays = {"returns": part._returns, "lengths": part._lengths}
    for name in vars(problem.engine):
        # What is made from the scenario never changes; what is made of other arrays is none of the state.
        if name in problem.engine.shared | problem.engine.bound:
            continue
        value = getattr(problem.engine, name)
        if isinstance(value, np.ndarray):
            arrays[f"engine.{name}"] = value
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            for field in value._fields:
                arrays[f"engine.{_name_in_file(problem.engine, name, field)}"] = getattr(value, field)
    return arrays


def _name_in_file(engine: Any, part: str, field: str) -> str:
    """What an array of an engine is called in a file."""
    # The slots and keys of `final` are those of the state. Versions that called the others so, too, had other columns
    # in rows of the same length: such a file lacks what is looked for here.
    if isinstance(engine, DecodeEngine) and field in ("slots", "keys"):
        return field
    return f"{part}.{field}"


def _reward_arrays(model: BaseAlgorithm) -> Arrays:
    """What wrappers of the environments remember, of rewards and advice; nothing where there are none."""
    found: Arrays = {}
    envs = model.get_env()
    while isinstance(envs, VecEnvWrapper):
        if isinstance(envs, (TrainingReward, NormalizeBySetting, AdvisedVecEnv)):
            found |= envs.kept()
        envs = envs.venv
    return found


def _lstm_states(model: BaseAlgorithm) -> list[npt.NDArray[Any]]:
    """Views of RecurrentPPO's states, of actor and critic; nothing for the others."""
    states = getattr(model, "_last_lstm_states", None)
    return [] if states is None else [tensor.numpy() for pair in states for tensor in pair]


def _normalized_arrays(model: BaseAlgorithm) -> Arrays:
    """What rewards are divided by, as 64-bit numbers; nothing where they are not."""
    normalized = model.get_vec_normalize_env()
    if normalized is None:
        return {}
    rms = normalized.ret_rms
    running = np.array([float(rms.mean), float(rms.var), float(rms.count)])
    return {"normalize.returns": normalized.returns, "normalize.running": running}


def _add_optimizer(model: BaseAlgorithm, arrays: Arrays, plain: dict[str, Any]) -> None:
    state = model.policy.optimizer.state_dict()
    plain["learning_rates"] = [float(group["lr"]) for group in state["param_groups"]]
    plain["optimizer"] = {}
    for index, values in state["state"].items():
        numbers = plain["optimizer"].setdefault(str(index), {})
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                arrays[f"optimizer.{index}.{name}"] = value.numpy()
            else:
                numbers[name] = value


def _restore_optimizer(model: BaseAlgorithm, arrays: Arrays, plain: Mapping[str, Any]) -> None:
    state = model.policy.optimizer.state_dict()
    for group, rate in zip(state["param_groups"], plain["learning_rates"], strict=True):
        group["lr"] = rate
    state["state"] = {int(index): dict(numbers) for index, numbers in plain["optimizer"].items()}
    for name, array in arrays.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state["state"][int(index)][key] = torch.from_numpy(array)
    model.policy.optimizer.load_state_dict(state)


def _add_generators(model: BaseAlgorithm, arrays: Arrays, plain: dict[str, Any]) -> None:
    """Of torch, of NumPy's and Python's shared generators, which SB3 draws from, and of the action space."""
    arrays["rng.torch"] = torch.get_rng_state().numpy()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the one that SB3 uses
    arrays["rng.numpy"] = np.asarray(keys)
    version, words, gauss = random.getstate()
    plain["rng"] = {
        "numpy": [name, *rest],
        "python": [version, list(words), gauss],
        "actions": model.action_space.np_random.bit_generator.state,
    }


def _restore_generators(model: BaseAlgorithm, arrays: Arrays, plain: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.from_numpy(arrays["rng.torch"]))
    name, *rest = plain["rng"]["numpy"]
    np.random.set_state((name, arrays["rng.numpy"], *rest))  # noqa: NPY002 - the one that SB3 uses
    version, words, gauss = plain["rng"]["python"]
    random.setstate((version, tuple(words), gauss))
    model.action_space.np_random.bit_generator.state = plain["rng"]["actions"]
