"""The PIM attention model against cycle-level rows `L,nhead,dhead,dbyte,pim_type,power_constraint,cycle`.

`L` is the context in tokens, `nhead` the (head, request) pairs of a stack, `dhead` the elements of a head and
`dbyte` their bytes; `cycle` is what AttAcc's cycle-level model counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from papi_env.errors import DataError, nearest
from papi_env.hardware.attention import REBUILT, SHIPPED, AttentionPim, Level, Revision, attention_clocks
from papi_env.kernel import FloatArray
from papi_env.workload.traces import csv_rows, csv_text

RevisionName = Literal["auto", "shipped", "rebuilt"]
REVISIONS: Mapping[str, Revision] = {"shipped": SHIPPED, "rebuilt": REBUILT}
LEVELS: Mapping[str, Level] = {"BA": "bank", "BG": "bank-group", "BUFFER": "buffer"}
FLAGS = {"True": True, "False": False}

# The largest values that make sense; a million tokens, and a stack that works for years.
LARGEST = {"L": 2**20, "nhead": 2**20, "dhead": 2**12, "dbyte": 8, "cycle": 10**18}
FIELDS = ("L", "nhead", "dhead", "dbyte", "pim_type", "power_constraint", "cycle")
FIT_STEPS = np.linspace(0, 1, 21)  # two clocks a step


@dataclass(frozen=True, eq=False)
class CycleRows:
    """Rows of a file by field, each an array [N]: integers, but for `pim_type` and `power_constraint`."""

    L: npt.NDArray[np.int64]
    nhead: npt.NDArray[np.int64]
    dhead: npt.NDArray[np.int64]
    dbyte: npt.NDArray[np.int64]
    pim_type: npt.NDArray[np.str_]
    power_constraint: npt.NDArray[np.bool_]
    cycle: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cycle)

    @property
    def bank_fp16_16pairs(self) -> npt.NDArray[np.bool_]:
        """Rows at bank level in FP16 with at least a pair for every channel."""
        return np.asarray((self.pim_type == "BA") & (self.dbyte == 2) & (self.nhead >= 16))


def read_cycles(path: Path) -> CycleRows:
    """Read a CSV file of cycle-level rows; columns other than `FIELDS` are ignored.

    Raises:
        DataError: the file or a field is not as expected; the message has the file, line and field.
    """
    lines = csv_rows(path, csv_text(path))
    line, header = next(lines, (1, []))
    if not header:
        raise DataError(f"{path}:1: found an empty file, expected a line of column names")
    header = [name.strip() for name in header]
    at = {name: _position(path, line, header, name) for name in FIELDS}
    columns: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for line, row in lines:
        if len(row) != len(header):
            lacking = f" field {header[len(row)]!r}:" if len(row) < len(header) else ""
            raise DataError(f"{path}:{line}:{lacking} found {len(row)} fields, expected {len(header)}")
        for name, values in columns.items():
            values.append(_value(path, line, name, row[at[name]].strip()))
    if not columns["L"]:
        raise DataError(f"{path}:{line}: found a header and no rows, expected at least one")
    return CycleRows(**{name: np.array(values) for name, values in columns.items()})


def _position(path: Path, line: int, header: list[str], name: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    found = f"{header.count(name)} such columns" if name in header else "no such column"
    free = {other.lower(): other for other in header if other not in FIELDS}
    close = nearest(name, free) if name not in header else None
    hint = f" (did you mean {free[close]!r}?)" if close else ""
    raise DataError(f"{path}:{line}: field {name!r}: found {found}, expected one{hint}")


def _value(path: Path, line: int, name: str, text: str) -> int | str | bool:
    if name == "pim_type":
        if text in LEVELS:
            return text
        expected = f"one of {', '.join(LEVELS)}"
    elif name == "power_constraint":
        if text in FLAGS:
            return FLAGS[text]
        expected = "True or False"
    else:
        # int() would also take "1_000", "+5" and the digits of other scripts.
        plain = text.isascii() and text.isdigit() and len(text) < 20
        if plain and 1 <= int(text) <= LARGEST[name]:
            return int(text)
        expected = f"a whole number from 1 to {LARGEST[name]}"
    shown = repr(text if len(text) <= 60 else text[:57] + "...")
    raise DataError(f"{path}:{line}: field {name!r}: found {shown}, expected {expected}")


def predict(rows: CycleRows, revision: Revision) -> FloatArray:
    """Clocks of every row [N] by the model, each a run that starts with a refresh interval."""
    clocks = np.empty(len(rows))
    kinds = (rows.pim_type, rows.power_constraint, rows.dhead, rows.dbyte)
    for kind in sorted(set(zip(*(values.tolist() for values in kinds), strict=True))):
        of_kind = np.logical_and.reduce([values == value for values, value in zip(kinds, kind, strict=True)])
        pim_type, limit, head_size, element_bytes = kind
        clocks[of_kind] = attention_clocks(
            AttentionPim.attacc(LEVELS[pim_type], limit),
            head_size,
            element_bytes,
            rows.L[of_kind],
            rows.nhead[of_kind],
            revision=revision,
            refresh="counted",
        )
    return clocks


def relative_errors(rows: CycleRows, revision: Revision) -> FloatArray:
    """Signed errors [N] as fractions of the rows' cycles."""
    return predict(rows, revision) / rows.cycle - 1


def fit_open_rows(rows: CycleRows, revision: Revision) -> float:
    """The `open_rows` of least squared relative error over the rows at bank level, by a scan of its range.

    A scan, because refreshes are counted and the error has steps.

    Raises:
        DataError: no row is at bank level, where the constant acts.
    """
    bank = rows.pim_type == "BA"
    if not bank.any():
        raise DataError("--fit: found no rows of pim_type BA, which the constant is about")
    errors = [relative_errors(rows, replace(revision, open_rows=value))[bank] for value in FIT_STEPS]
    return round(float(FIT_STEPS[np.argmin(np.square(errors).mean(axis=1))]), 2)


def validate_cycles(path: Path, revision: RevisionName = "auto", *, fit: bool = False) -> dict[str, Any]:
    """Compare every row of a file with the model.

    Args:
        path: CSV file; see `read_cycles`.
        revision: of AttAcc's cycle-level model that the rows are from; `auto` takes the one with the smaller
            median error.
        fit: fit the model's one constant on the rows.

    Returns:
        Plain data: `rows`, and `mape`, `p95` and `max` of the relative error, as fractions; the same for
        `bank_fp16_16pairs` and `by` the values of some fields, all for the `revision` named; `revisions` has
        them for each. With `fit`, the constant's fitted value beside the one in use.

    Raises:
        DataError: the file is not as expected.
    """
    rows = read_cycles(path)
    errors = {name: np.abs(relative_errors(rows, known)) for name, known in REVISIONS.items()}
    name = min(errors, key=lambda name: float(np.median(errors[name]))) if revision == "auto" else revision
    everything = np.ones(len(rows), dtype=bool)
    result = _summary(errors[name], everything)
    result["bank_fp16_16pairs"] = _summary(errors[name], rows.bank_fp16_16pairs)
    result["by"] = {
        field: {
            str(value): _summary(errors[name], getattr(rows, field) == value)
            for value in np.unique(getattr(rows, field))
        }
        for field in ("pim_type", "power_constraint", "dbyte", "dhead")
    }
    result["revision"] = name
    result["revisions"] = {
        other: _summary(values, everything) | {"bank_fp16_16pairs": _summary(values, rows.bank_fp16_16pairs)}
        for other, values in errors.items()
    }
    if fit:
        known = REVISIONS[name]
        result["fit"] = {"open_rows": {"fitted": fit_open_rows(rows, known), "used": known.open_rows}}
    return result


def _summary(errors: FloatArray, of: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Mean, 95th percentile and largest of some errors; None where there are none."""
    if not of.any():
        return {"rows": 0, "mape": None, "p95": None, "max": None}
    chosen = errors[of]
    return {
        "rows": len(chosen),
        "mape": float(chosen.mean()),
        "p95": float(np.percentile(chosen, 95)),
        "max": float(chosen.max()),
    }
