"""Weights of torch networks in files: safetensors, or torch's own format read as tensors alone.

Nothing in a file is executed: .pth and .pt files are read by `torch.load(weights_only=True)`, and what that
rejects is refused. A file that does not fit the network is refused with all that does not fit, before the network
changes; a file is written whole or not at all.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from papi_env.errors import ConfigurationError, DataError, nearest
from papi_env.files import read_bounded

SAFETENSORS = (".safetensors",)
TORCH = (".pth", ".pt")
# Under which training scripts keep the tensors, beside the optimizer's state and the like.
WRAPPERS = ("state_dict", "model")
PARALLEL_PREFIX = "module."  # what torch's DataParallel puts before every name
# The names that a form of RepMLPNet has and the other lacks (see `repmlp.py`).
TRAINING_NAMES = re.compile(r"(^|\.)(fc3_bn|repconv\d+)\.")
DEPLOY_NAMES = re.compile(r"(^|\.)fc3\.bias$")
# Chosen: a list of names up to this long is shown in full, a longer one by patterns; range 10-100.
SHOWN_NAMES = 40
# Chosen: ten times the largest RepMLPNet's; range 1e9-1e10.
MOST_BYTES = 1 << 31


class CheckpointError(DataError):
    """A checkpoint that is not the network's.

    Attributes:
        missing: names that the network has and the checkpoint lacks.
        surplus: names that the checkpoint has and the network lacks.
        misfits: (name, why) of tensors of the right name that do not fit: another shape or kind of number, or
            values that are not finite.
    """

    def __init__(
        self,
        message: str,
        missing: Sequence[str] = (),
        surplus: Sequence[str] = (),
        misfits: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.surplus = tuple(surplus)
        self.misfits = tuple(misfits)


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Give a network the weights in a file: every one of its names, and no other.

    The tensors may stand at the top of the file or under "state_dict" or "model", and have the prefix
    "module.". They are cast to the network's dtypes.

    Args:
        network: any torch module; a RepMLPNet takes checkpoints of its own form (`deploy`).
        path: a .safetensors, .pth or .pt file.

    Raises:
        ConfigurationError: another kind of file.
        DataError: a file that cannot be read, or holds something else than tensors by name.
        CheckpointError (a DataError): tensors that are not the network's; it lists all of them, and says so where
            the file holds the other form of RepMLPNet. The network stays as it was.
    """
    path = Path(path)
    found = _read(path)
    expected = network.state_dict()
    if _parallel(found) and not _parallel(expected):
        found = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in found.items()}
    missing = [name for name in expected if name not in found]
    surplus = sorted((name for name in found if name not in expected), key=_natural)
    misfits = [
        (name, why) for name in expected if name in found and (why := _misfit(found[name], expected[name]))
    ]
    if missing or surplus or misfits:
        raise CheckpointError(
            _describe(path, network, expected, found, missing, surplus, misfits), missing, surplus, misfits
        )
    network.load_state_dict(found, strict=True)


def save_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's weights to a .safetensors, .pth or .pt file, whole or not at all.

    `load_weights` reads them back bit for bit. Raises ConfigurationError for another kind of file, DataError for
    a path that cannot be written.
    """
    path = Path(path)
    kind = _kind(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            if kind is SAFETENSORS:
                file.write(safetensors_bytes(tensors, metadata={"format": "pt"}))
            else:
                torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; weights are for everyone whom the user's own files are for.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _kind(path: Path) -> tuple[str, ...]:
    """Which of the formats a file's name says."""
    for kind in (SAFETENSORS, TORCH):
        if path.suffix.lower() in kind:
            return kind
    known = (*SAFETENSORS, *TORCH)
    close = nearest(path.suffix, known)
    hint = f"; did you mean {close}?" if close else ""
    raise ConfigurationError(
        f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(known)}{hint}"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, out of their wrapper."""
    kind = _kind(path)
    data = read_bounded(path, MOST_BYTES)
    content: Any
    try:
        if kind is SAFETENSORS:
            content = parse_safetensors(data)
        else:
            _check_unpacked(path, data)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except DataError:
        raise
    except SafetensorError as error:
        raise DataError(f"{path}: not a safetensors file: {error}") from error
    except Exception as error:  # damaged archives raise what they like: EOFError, KeyError, RuntimeError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: refused by torch.load(weights_only=True): {reason} Expected tensors by name and nothing "
            "else, as `save_weights` or torch.save(network.state_dict(), ...) writes them"
        ) from error

    where = str(path)
    # Wrappers hold one another a few deep; one that holds itself would never end.
    for _ in range(len(WRAPPERS) + 1):
        if not isinstance(content, Mapping):
            break
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        content, where = content[wrapper], f"{where}: {wrapper}"
    if not isinstance(content, Mapping):
        raise DataError(f"{where}: found {type(content).__name__}, expected a mapping from names to tensors")
    strange = [
        f"{name!r} is {type(value).__name__}"
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange:
        raise DataError(f"{where}: expected names with tensors, found {_listed(strange)}")
    return dict(content)


def _check_unpacked(path: Path, data: bytes) -> None:
    """Refuse an archive whose files are too large once they are unpacked."""
    try:
        size = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist())
    except (zipfile.BadZipFile, ValueError, OSError):
        return  # torch's older format, or damaged, which torch says
    if size > MOST_BYTES:
        raise DataError(f"{path}: found {size} bytes when unpacked, expected at most {MOST_BYTES}")


def _parallel(names: Mapping[str, Tensor]) -> bool:
    """Whether all names have the prefix of parallel training."""
    return bool(names) and all(name.startswith(PARALLEL_PREFIX) for name in names)


def _misfit(found: Tensor, expected: Tensor) -> str | None:
    """Why a tensor cannot take another's place, if it cannot."""
    if found.shape != expected.shape:
        return f"found shape {list(found.shape)}, expected {list(expected.shape)}"
    if found.layout != torch.strided or found.is_meta or found.is_quantized:
        return "found a sparse, quantised or empty (meta) tensor, expected a dense one"
    if found.is_complex() or found.is_floating_point() != expected.is_floating_point():
        return f"found {_dtype(found)}, expected {_dtype(expected)}"
    if not found.to(expected.dtype).isfinite().all():
        return f"found numbers that are not finite in {_dtype(expected)}"
    return None


def _describe(
    path: Path,
    network: nn.Module,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    missing: Sequence[str],
    surplus: Sequence[str],
    misfits: Sequence[tuple[str, str]],
) -> str:
    """The one message about all that does not fit."""
    lines = [f"{path}: not a checkpoint of this {type(network).__name__}"]
    own, other = _form(expected), _form(found)
    if own and other and own != other:
        remedy = (
            "create the network with deploy=False, load, and call locality_injection()"
            if other == "training"
            else "create the network with deploy=True"
        )
        lines.append(f"the checkpoint is in {other} form, the network in {own} form: {remedy}")
    if missing:
        lines.append(f"missing ({len(missing)}): {_listed(missing)}")
    if surplus:
        lines.append(f"surplus ({len(surplus)}): {_listed(surplus)}")
    if misfits:
        lines.append(f"misfits ({len(misfits)}): {_listed([f'{name}: {why}' for name, why in misfits])}")
    return "\n  ".join(lines)


def _form(names: Mapping[str, Tensor]) -> str | None:
    """The form of RepMLPNet that names belong to: "training", "deploy", or None for neither or both."""
    forms = {"training": TRAINING_NAMES, "deploy": DEPLOY_NAMES}
    matching = [form for form, pattern in forms.items() if any(map(pattern.search, names))]
    return matching[0] if len(matching) == 1 else None


def _listed(names: Sequence[str]) -> str:
    """All of the names; many are grouped by what they are but for the numbers of stage and block.

    A group is its pattern with the numbers that stand for each star: from it every name can be read.
    """
    if len(names) <= SHOWN_NAMES:
        return "; ".join(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(".".join(numbers))
    return "; ".join(
        f"{pattern} with * = {', '.join(numbers)}" if "*" in pattern else pattern
        for pattern, numbers in groups.items()
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with their numbers as numbers: block 2 before block 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
