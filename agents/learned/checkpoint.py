"""A learned policy in a folder: `policy.json` says what it is, `policy.safetensors` holds its numbers.

Loading executes nothing from either file. The weights are parsed as named arrays, the description as plain data
with known fields; every name, shape and number is checked before anything is used. Digests find a file that was
cut off, changed, or put beside another's; they are no signature, so a file made up on purpose passes if all of
it is consistent, and then it is no more than another set of weights.

A checkpoint holds what acts: critics and optimizers belong to training (see `experiments.train`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from agents.learned.networks import Architecture, Float32Array
from agents.learned.request_network import RequestNetwork
from papi_env.errors import ConfigurationError, DataError, describe_validation, nearest
from papi_env.files import read_bounded

DESCRIPTION, WEIGHTS = "policy.json", "policy.safetensors"
# The only tensor that is no weight: what each flat action does, int64 [actions, choices].
JOINT_ACTIONS = "joint_actions"
# Chosen: a thousand times what is trained here (range 1-1000), so that a wrong file is refused before it is read.
_MAX_DESCRIPTION_BYTES, _MAX_WEIGHT_BYTES = 1 << 26, 1 << 30
# How files begin that a user may take for a policy, and that would run code from inside when loaded.
_EXECUTABLE = {
    b"PK\x03\x04": "a zip, such as Stable-Baselines3 saves",
    b"\x80": "a pickle",
}

_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ObservationLayout(_Part):
    """The features by name, in order. They are used as the environment gives them, all within [0, 1]."""

    names: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=1 << 14, strict=False)]
    scaling: Literal["as observed"] = "as observed"
    low: Literal[0] = 0
    high: Literal[1] = 1


class ActionLayout(_Part):
    """The environment's action space: options of each choice, one choice for `Discrete`.

    `flat`: the network has one score for each joint action, and the tensor `joint_actions` says what it does.
    """

    options: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, strict=False)]
    flat: bool = False


def _sees(value: Any) -> str:
    """Which kind of network a description is of."""
    found = value.get("network") if isinstance(value, Mapping) else getattr(value, "network", None)
    return "whole" if found is None else "requests"


AnyArchitecture = Annotated[
    Annotated[Architecture, Tag("whole")] | Annotated[RequestNetwork, Tag("requests")], Discriminator(_sees)
]


class Description(_Part):
    """What `policy.json` says, apart from the digests.

    Attributes:
        algorithm: that trained it, as its class is called: `MaskablePPO`.
        env: id that it was trained on.
        masked: whether it was trained with action masks, and so acts with them.
        scenarios: that it was trained on, as plain data.
        advice: the rule whose choices it reads, of `agents.learned.advice`; empty: none.
        draws: it plays options drawn from its distribution, as it was trained to, also where the best is asked for.
        training: a summary for people; nothing depends on it.
    """

    format: Literal["papi_env policy"] = "papi_env policy"
    version: Literal[1] = 1
    algorithm: _Name
    env: _Name
    observation: ObservationLayout
    action: ActionLayout
    architecture: AnyArchitecture
    masked: bool
    scenarios: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    advice: str = ""
    draws: bool = False
    training: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Files from before it existed say nothing of it.
        dumped: dict[str, Any] = handler(self)
        return {name: value for name, value in dumped.items() if name not in ("advice", "draws") or value}

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        network, names = self.architecture, self.observation.names
        if network.inputs != len(names):
            raise ValueError(f"the network takes {network.inputs} features, but {len(names)} are named")
        if len(set(names)) < len(names):
            raise ValueError("two features have one name")
        if not self.action.flat and network.options != self.action.options:
            raise ValueError(
                f"the network scores {network.options} options, but the actions have {self.action.options}"
            )
        if getattr(network, "skip", 0) != (sum(self.action.options) if self.advice else 0):
            raise ValueError(
                f"advice is {self.advice!r}, but {getattr(network, 'skip', 0)} inputs reach the head as they are"
            )
        if self.action.flat and len(network.options) != 1:
            raise ValueError(f"flat actions are one choice, but the network scores {len(network.options)}")
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in the weight file, by name."""
        shapes = self.architecture.shapes()
        if self.action.flat:
            shapes[JOINT_ACTIONS] = (self.architecture.options[0], len(self.action.options))
        return shapes


@dataclass(frozen=True)
class Checkpoint:
    """A policy's description and numbers, checked against one another.

    Attributes:
        description: what it is.
        weights: float32, by `Architecture.shapes`.
        joint_actions: int64 [actions, choices] of flat actions, else None.
    """

    description: Description
    weights: Mapping[str, Float32Array]
    joint_actions: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        tensors: dict[str, npt.NDArray[Any]] = dict(self.weights)
        if self.joint_actions is not None:
            tensors[JOINT_ACTIONS] = self.joint_actions
        check_tensors(self.description, tensors, "policy")

    @property
    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that the weight file holds, by name."""
        joint = {} if self.joint_actions is None else {JOINT_ACTIONS: self.joint_actions}
        return {**self.weights, **joint}


def check_tensors(description: Description, tensors: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    """Raise DataError, with all that does not fit, where the tensors are not those described."""
    expected = description.shapes()
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    for name in tensors:
        if name not in expected:
            close = nearest(name, expected)
            problems.append(f"{name} is not part of it{f' (did you mean {close}?)' if close else ''}")
    for name, shape in expected.items():
        if name not in tensors:
            continue
        tensor, dtype = tensors[name], np.dtype(np.int64 if name == JOINT_ACTIONS else np.float32)
        if tensor.dtype != dtype or tensor.shape != shape:
            problems.append(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}")
        elif not np.isfinite(tensor).all():
            problems.append(f"{name} holds numbers that are not finite")
        elif name == JOINT_ACTIONS:
            options = np.array(description.action.options)
            if ((tensor < 0) | (tensor >= options)).any():
                problems.append(f"{name} has choices outside {options.tolist()}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise DataError(f"{where}: not the network that is described: {'; '.join(problems[:8])}{more}")


def save_checkpoint(folder: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Write a policy's folder, whole or not at all; one that is there is replaced. Returns its path.

    Raises:
        ConfigurationError: `folder` exists and holds something else than a policy.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or not {p.name for p in folder.iterdir()} <= {DESCRIPTION, WEIGHTS}
    ):
        raise ConfigurationError(f"{folder}: exists and holds more than a policy; choose another folder")
    weights = save({name: np.ascontiguousarray(tensor) for name, tensor in checkpoint.tensors.items()})
    document = checkpoint.description.model_dump(mode="json")
    document["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    document["sha256"] = document_digest(document)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(fresh / WEIGHTS, weights)
        _write(fresh / DESCRIPTION, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        mask = os.umask(0)  # mkdtemp makes folders private
        os.umask(mask)
        fresh.chmod(0o777 & ~mask)
        _replace(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def recover(folder: str | os.PathLike[str]) -> None:
    """Put the policy back that `save_checkpoint` had set aside where the machine stopped before its successor came."""
    folder = Path(folder)
    if _aside(folder).exists():
        if folder.exists():
            shutil.rmtree(_aside(folder))
        else:
            _aside(folder).rename(folder)


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read a policy from its folder and check all of it; nothing in it is executed.

    Raises:
        ConfigurationError: there is no policy in the folder.
        DataError: a file that is cut off, changed, of another kind, or inconsistent; the message says how.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = None
        if folder.is_file():
            with folder.open("rb") as file:
                kind = _executable(file.read(9))
        found = f"is {kind}: loading it would run code" if kind else "is no folder"
        raise ConfigurationError(f"{folder}: {found}; expected a folder with {DESCRIPTION} and {WEIGHTS}")
    if not (folder / DESCRIPTION).is_file():
        inside = [path.parent.name for path in sorted(folder.glob(f"*/{DESCRIPTION}"))]
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise ConfigurationError(f"{folder}: holds no {DESCRIPTION}{hint}")
    path = folder / DESCRIPTION
    document = read_document(path)
    try:
        recorded, weights_digest = document.pop("sha256"), document["weights_sha256"]
    except KeyError as error:
        raise DataError(f"{path}: has no field {error}") from None
    if recorded != document_digest(document):
        raise DataError(f"{path}: changed since it was written (its digest is another)")
    del document["weights_sha256"]
    try:
        description = Description.model_validate(document)
    except ValidationError as error:
        said = str(describe_validation(str(path), error, _FIELDS))
        # Which kind of network it was taken for is no field.
        raise DataError(re.sub(r"\barchitecture\.(whole|requests)\.", "architecture.", said)) from None
    tensors = _read_weights(folder / WEIGHTS, weights_digest)
    check_tensors(description, tensors, str(folder / WEIGHTS))
    joint_actions = tensors.pop(JOINT_ACTIONS, None)
    return Checkpoint(description, tensors, joint_actions)


_FIELDS = {
    name
    for part in (Description, ObservationLayout, ActionLayout, Architecture, RequestNetwork)
    for name in part.model_fields
}


def read_document(path: Path) -> dict[str, Any]:
    """The fields of a JSON file from outside, by name.

    Raises:
        DataError: it is cut off, of another kind, too long, or one that executes.
    """
    data = _bytes(path, _MAX_DESCRIPTION_BYTES)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or cut off: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds {type(document).__name__}, expected fields by name")
    return document


def _read_weights(path: Path, expected: Any) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = _bytes(path, _MAX_WEIGHT_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        try:
            load(data)
            why = "changed, or another policy's"
        except (SafetensorError, KeyError, ValueError):
            why = "cut off or damaged"
        raise DataError(
            f"{path}: {why}; its SHA-256 begins {found[:12]}, {DESCRIPTION} says {str(expected)[:12]}"
        )
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a safetensors file of plain numbers: {error}") from None


def _bytes(path: Path, limit: int) -> bytes:
    """Content of a file that is no longer than `limit` and of no kind that executes."""
    data = read_bounded(path, limit)
    kind = _executable(data[:9])
    if kind is not None:
        raise DataError(f"{path}: is {kind}; loading it would run code from the file, so it is refused")
    return data


def _executable(start: bytes) -> str | None:
    """What kind of file that executes this one is, by the nine bytes that it begins with."""
    # A safetensors file begins with the length of its header, then a brace: a first byte 0x80 proves nothing.
    if start[8:] == b"{":
        return None
    return next((kind for magic, kind in _EXECUTABLE.items() if start.startswith(magic)), None)


def document_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, the same for equal data."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _replace(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another. A folder cannot be replaced in one step; see `recover`."""
    recover(folder)
    old = _aside(folder)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
