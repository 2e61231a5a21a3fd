"""What the layers of one model take on one GPU of a server, as measured: a folder of three files, or four.

Each is UTF-8 text, comma-separated, with a header; times are microseconds of one call on one tensor-parallel rank.

* `dense.csv`, columns layer, tokens, time_us: the FC kernels `qkv_proj`, `o_proj`, `gate_up_proj`, `down_proj`, all
  four required (of a mixture of experts the first two), and what lies between them: `layernorm` (two in a decoder
  layer), `qk_norm`, `rotary_emb`, `act_fn`, and once in an iteration `embedding` and `final_layernorm`.
* `attention.csv`, columns prefill_chunk, kv_prefill, n_decode, kv_decode, time_us: one kernel over a prompt's chunk,
  with so many of its tokens before it, and decoding requests of equal contexts. Both kinds alone are required:
  prefill_chunk = kv_prefill = 0, and n_decode = kv_decode = 0.
* `per_sequence.csv`, columns layer, sequences, time_us: `lm_head` and `sampler`, for sequences that yield a token.
* `moe.csv` of a mixture of experts, columns tokens, activated_experts, time_us: all experts of a layer.

LLMServingSim's profiler writes such files; of its later ones, rows whose decode_q_len is above 1 are left out.
Between its points a table is linear. On an axis no number is more than four times the one before, as in `measured`.
Times on from the last two points are on their line: who uses them says how often (`engine` counts such iterations).
Below the first context times are those of the first.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from papi_env.errors import DataError, nearest
from papi_env.files import TABLE_BYTES, check_regular, read_bounded
from papi_env.hardware.measured import Curve, gap
from papi_env.kernel import FloatArray

ATTENTION_LAYERS = ("qkv_proj", "o_proj")
FC_LAYERS = (*ATTENTION_LAYERS, "gate_up_proj", "down_proj")
# How often a decoder layer calls each layer of `dense.csv`; and what an iteration calls once.
CALLS: Mapping[str, int] = dict.fromkeys(FC_LAYERS, 1) | {
    "layernorm": 2,
    "qk_norm": 1,
    "rotary_emb": 1,
    "act_fn": 1,
}
ONCE = ("embedding", "final_layernorm")
HEAD_LAYERS = ("lm_head", "sampler")
FILES: Mapping[str, tuple[str, ...]] = {
    "dense.csv": ("layer", "tokens", "time_us"),
    "attention.csv": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
    "per_sequence.csv": ("layer", "sequences", "time_us"),
}
MIXTURE = "moe.csv"
_COLUMNS = {**FILES, MIXTURE: ("tokens", "activated_experts", "time_us")}
# Tokens verified of each decoding request.
VERIFIED = "decode_q_len"
MAX_COUNT = 2**30
# A layer that takes longer was written in another unit.
MAX_US = 1e8
_US = 1e-6


class AttentionGrid(NamedTuple):
    """Attention of one layer at every combination of four axes, whatever of them was measured.

    Attributes:
        prompt: tokens of the chunk, from 0; behind: tokens before it; decoding: requests, from 0; context: of each.
            float64, increasing.
        seconds: float64 [prompt, behind, decoding, context].
        most_mixed: decoding requests up to which times beside a prompt were measured.
    """

    prompt: FloatArray
    behind: FloatArray
    decoding: FloatArray
    context: FloatArray
    seconds: FloatArray
    most_mixed: int


class MixtureGrid(NamedTuple):
    """The experts of one layer at every combination of two axes, whatever of them was measured.

    Attributes:
        tokens: of an iteration; activated: experts that have any. float64, increasing.
        seconds: float64 [tokens, activated].
    """

    tokens: FloatArray
    activated: FloatArray
    seconds: FloatArray

    def at(self, tokens: FloatArray, activated: FloatArray) -> FloatArray:
        """Seconds between the points, and on the line of the last two beyond them (arguments of one shape)."""
        by_tokens = np.stack([_along(tokens, self.tokens, column) for column in self.seconds.T])
        low = np.clip(
            np.searchsorted(self.activated, activated, side="right") - 1, 0, len(self.activated) - 2
        )
        first, second = self.activated[low], self.activated[low + 1]
        part = np.maximum((activated - first) / (second - first), 0.0)
        each = np.arange(len(tokens))
        return (1 - part) * by_tokens[low, each] + part * by_tokens[low + 1, each]


@dataclass(frozen=True, eq=False)
class ServerTables:
    """The tables of one folder; arrays are read-only.

    Attributes:
        folder: where they are.
        dense: times by layer and tokens; heads: by layer and sequences.
        attention: see `AttentionGrid`; mixture: see `MixtureGrid`, None without experts.
    """

    folder: Path
    dense: Mapping[str, Curve]
    heads: Mapping[str, Curve]
    attention: AttentionGrid
    mixture: MixtureGrid | None = None

    @property
    def fc_layers(self) -> tuple[str, ...]:
        """The FC kernels that all layers of the model have."""
        return FC_LAYERS if self.mixture is None else ATTENTION_LAYERS

    @property
    def most_tokens(self) -> int:
        """Tokens up to which all layers were measured."""
        most = min(curve.rows[-1] for curve in self.dense.values())
        return int(most if self.mixture is None else min(most, self.mixture.tokens[-1]))

    @property
    def most_sequences(self) -> int:
        """Sequences up to which what runs for each was measured."""
        return int(min(curve.rows[-1] for curve in self.heads.values()))

    def layers_s(self, tokens: FloatArray, layers: int) -> FloatArray:
        """Seconds of all that `dense.csv` has in an iteration of so many tokens; none of none."""
        seconds = sum(
            (layers * CALLS[name] if name in CALLS else 1) * on_curve(curve, tokens)
            for name, curve in self.dense.items()
        )
        return np.where(tokens > 0, seconds, 0.0)

    def heads_s(self, sequences: FloatArray) -> FloatArray:
        """Seconds of LM head and sampler for so many sequences; none of none."""
        return np.where(sequences > 0, sum(on_curve(c, sequences) for c in self.heads.values()), 0.0)


def on_curve(curve: Curve, counts: FloatArray) -> FloatArray:
    """Seconds between the points of a curve, and on the line of its last two points beyond them."""
    return _along(np.asarray(counts, dtype=np.float64), curve.rows, curve.seconds)


def _along(x: FloatArray, points: FloatArray, values: FloatArray) -> FloatArray:
    found = np.interp(x, points, values)
    if len(points) == 1:
        return np.asarray(found)
    slope = (values[-1] - values[-2]) / (points[-1] - points[-2])
    return np.where(x > points[-1], values[-1] + slope * (x - points[-1]), found)


def load_server_tables(folder: str | Path) -> ServerTables:
    """The tables of a folder; read again only where a file has changed.

    Raises:
        DataError: a file is missing, cannot be read or is not as this module says; the message has file and line.
    """
    folder = Path(folder)
    stamps = []
    files = _COLUMNS if (folder / MIXTURE).exists() else FILES
    for name in files:
        found = check_regular(folder / name, TABLE_BYTES)
        stamps.append((found.st_mtime_ns, found.st_size))
    return _load(folder, tuple(stamps))


@lru_cache(maxsize=16)
def _load(folder: Path, stamps: tuple[tuple[int, int], ...]) -> ServerTables:
    mixture = len(stamps) > len(FILES)
    known = [name for name in (*CALLS, *ONCE) if not mixture or name not in FC_LAYERS[2:]]
    return ServerTables(
        folder,
        _curves(folder / "dense.csv", known, ATTENTION_LAYERS if mixture else FC_LAYERS),
        _curves(folder / "per_sequence.csv", HEAD_LAYERS, HEAD_LAYERS),
        _grid(folder / "attention.csv"),
        _mixture(folder / MIXTURE) if mixture else None,
    )


# --- files -----------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbers of lines and their fields in the order of the columns; the header is checked and left out."""
    columns = _COLUMNS[path.name]
    try:
        text = read_bounded(path, TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: found bytes that are no UTF-8 text, expected a file of {','.join(columns)}"
        ) from None
    order: list[int] | None = None
    verified: int | None = None
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip():
            continue
        try:
            (fields,) = csv.reader([line], strict=True)
        except csv.Error as error:
            raise DataError(f"{path}:{number}: found {error}, expected comma-separated values") from None
        fields = [field.strip() for field in fields]
        if order is None:
            for name in columns:
                if fields.count(name) != 1:
                    close = nearest(name, [field for field in fields if field not in columns])
                    hint = f"; did you mean {name!r} by {close!r}?" if close else ""
                    raise DataError(
                        f"{path}:{number}: column {name!r}: found {fields.count(name) or 'no'} such column, "
                        f"expected {','.join(columns)}{hint}"
                    )
            width, order = len(fields), [fields.index(name) for name in columns]
            verified = fields.index(VERIFIED) if VERIFIED in fields else None
            continue
        if len(fields) != width:
            raise DataError(f"{path}:{number}: found {len(fields)} fields, expected {width}")
        if verified is None or fields[verified] in ("0", "1"):
            yield number, [fields[k] for k in order]
    if order is None:
        raise DataError(f"{path}:1: found an empty file, expected the header {','.join(columns)}")


def _whole(where: str, name: str, text: str, least: int = 0) -> int:
    plain = text.isascii() and text.isdigit() and len(text) < 20
    if not plain or not least <= int(text) <= MAX_COUNT:
        raise DataError(
            f"{where}: column {name!r}: found {text[:60]!r}, expected a whole number from {least} to {MAX_COUNT}"
        )
    return int(text)


def _seconds(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not text.isascii() or "_" in text or not 0 < value <= MAX_US:
        raise DataError(
            f"{where}: column 'time_us': found {text[:60]!r}, expected microseconds, a number > 0 and at most "
            f"{MAX_US:g}"
        )
    return value * _US


def _curves(path: Path, known: Sequence[str], required: Sequence[str]) -> dict[str, Curve]:
    """The curves of a file of layers by their names."""
    count = FILES[path.name][1]
    found: dict[str, dict[int, tuple[int, float]]] = {}
    for number, (layer, size, time) in _lines(path):
        where = f"{path}:{number}"
        if layer not in known:
            close = nearest(layer, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise DataError(
                f"{where}: column 'layer': found {layer[:60]!r}, expected one of {', '.join(known)}{hint}"
            )
        at = _whole(where, count, size, 1)
        of_layer = found.setdefault(layer, {})
        if at in of_layer:
            raise DataError(
                f"{where}: found {layer} with {at} {count} again, expected it once: line {of_layer[at][0]} has it"
            )
        of_layer[at] = number, _seconds(where, time)
    for layer in required:
        if layer not in found:
            raise DataError(f"{path}: found no layer {layer!r}, expected {', '.join(required)}")
    curves = {}
    for layer, points in found.items():
        counts = sorted(points)
        _check_steps(path, f"{layer}: {count}", counts, points[counts[-1]][0])
        if counts[0] != 1:
            raise DataError(
                f"{path}:{points[counts[0]][0]}: {layer}: found {counts[0]} {count} first, expected 1"
            )
        curve = Curve(np.array(counts, dtype=np.float64), np.array([points[n][1] for n in counts]))
        for array in curve:
            array.setflags(write=False)
        curves[layer] = curve
    return curves


def _check_steps(path: Path, what: str, counts: Sequence[int], line: int) -> None:
    """Refuse a lonely number, and a gap between two; 0 is not counted."""
    wrong = gap([n for n in counts if n > 0])
    if wrong is not None:
        raise DataError(f"{path}:{line}: {what}: found {wrong[1].replace('rows', 'of them')}")


def _mixture(path: Path) -> MixtureGrid:
    """The grid of a file whose combinations need not be complete: few tokens activate few experts."""
    points: dict[int, dict[int, float]] = {}
    lines: dict[tuple[int, int], int] = {}
    for number, (tokens, activated, time) in _lines(path):
        where = f"{path}:{number}"
        key = _whole(where, "tokens", tokens, 1), _whole(where, "activated_experts", activated, 1)
        if key in lines:
            raise DataError(
                f"{where}: found {key[0]} tokens with {key[1]} experts again, expected it once: line {lines[key]} "
                "has it"
            )
        lines[key] = number
        points.setdefault(key[0], {})[key[1]] = _seconds(where, time)
    axes = [sorted({key[k] for key in lines}) for k in range(2)]
    if any(len(axis) < 2 for axis in axes):
        raise DataError(
            f"{path}: found {len(lines)} rows, expected two numbers of tokens and of experts at least"
        )
    for name, axis in zip(_COLUMNS[MIXTURE], axes, strict=False):
        _check_steps(path, name, axis, max(lines.values()))
    tokens_axis, activated_axis = (np.array(axis, dtype=float) for axis in axes)
    grid = MixtureGrid(tokens_axis, activated_axis, _plane(points, tokens_axis, activated_axis))
    for array in grid:
        array.setflags(write=False)
    return grid


# --- attention ---------------------------------------------------------------------------------------------------

# Seconds by context, by requests, by tokens behind.
_ByContext = dict[int, float]


def _grid(path: Path) -> AttentionGrid:
    """The grid of a file whose combinations need not be complete: filled in along its own lines."""
    names = FILES[path.name]
    points: dict[int, dict[int, dict[int, _ByContext]]] = {}  # prompt, decoding, behind, context
    lines: dict[tuple[int, ...], int] = {}
    for number, fields in _lines(path):
        where = f"{path}:{number}"
        prompt, behind, decoding, context = sizes = [
            _whole(where, name, text) for name, text in zip(names[:4], fields[:4], strict=True)
        ]
        if prompt + decoding == 0 or (prompt == 0 and behind > 0) or (decoding == 0) != (context == 0):
            raise DataError(
                f"{where}: found {', '.join(map(str, sizes))}, expected a chunk or decoding requests, tokens behind "
                "only with a chunk, and contexts where requests decode"
            )
        key = tuple(sizes)
        if key in lines:
            raise DataError(
                f"{where}: found {', '.join(map(str, sizes))} again, expected it once: line {lines[key]} has it"
            )
        lines[key] = number
        of_behind = points.setdefault(prompt, {}).setdefault(decoding, {}).setdefault(behind, {})
        of_behind[context] = _seconds(where, fields[4])
    prompts = sorted(points)
    alone = {n for n in points.get(0, {}) if n > 0}
    if not alone:
        raise DataError(f"{path}: found no decoding requests alone, expected rows with prefill_chunk 0")
    if prompts[-1] == 0:
        raise DataError(f"{path}: found no prompts, expected rows with prefill_chunk above 0")
    for prompt in prompts[1:] if prompts[0] == 0 else prompts:
        if 0 not in points[prompt]:
            raise DataError(f"{path}: found no chunk of {prompt} alone, expected it with n_decode 0")
    last = max(lines.values())
    axes = [sorted({key[k] for key in lines}) for k in range(4)]
    for name, axis in zip(names, axes, strict=False):
        _check_steps(path, name, axis, last)
    mixed = [max(of_prompt) for prompt, of_prompt in points.items() if prompt > 0]
    behind_axis, decoding_axis = np.array(axes[1], dtype=float), np.array(axes[2], dtype=float)
    context_axis = np.array([n for n in axes[3] if n > 0], dtype=float)
    seconds = np.zeros((len(prompts), len(behind_axis), len(decoding_axis), len(context_axis)))
    for i, prompt in enumerate(prompts):
        measured = sorted(points[prompt])
        planes = np.stack([_plane(points[prompt][n], behind_axis, context_axis) for n in measured])
        counts = np.array(measured, dtype=float)
        if prompt == 0:
            counts, planes = (
                np.append(0.0, counts),
                np.concatenate([np.zeros((1, *planes.shape[1:])), planes]),
            )
        flat = planes.reshape(len(counts), -1)
        filled = np.stack([_along(decoding_axis, counts, column) for column in flat.T], axis=-1)
        seconds[i] = filled.reshape(len(decoding_axis), *planes.shape[1:]).transpose(1, 0, 2)
    grid = AttentionGrid(
        np.array(prompts, dtype=float), behind_axis, decoding_axis, context_axis, seconds, min(mixed)
    )
    for array in grid[:5]:
        array.setflags(write=False)
    return grid


def _plane(of_behind: Mapping[int, _ByContext], behind: FloatArray, context: FloatArray) -> FloatArray:
    """Seconds [behind, context] of one number of prompt tokens and requests."""
    known = sorted(of_behind)
    rows = []
    for k in known:
        contexts = sorted(of_behind[k])
        values = np.array([of_behind[k][q] for q in contexts])
        rows.append(_along(context, np.array(contexts, dtype=float), values))
    stacked = np.stack(rows)
    points = np.array(known, dtype=float)
    return np.stack([_along(behind, points, column) for column in stacked.T], axis=-1)
