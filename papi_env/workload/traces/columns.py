"""Columns of token counts and of times, from text or typed columns to numbers, exactly.

Whole columns are converted at once where their text is of the usual form. What is left is converted one by one, with
Python's integers and decimals, which also say what is wrong with a field that is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from papi_env.errors import DataError
from papi_env.workload.lengths import MAX_TOKENS
from papi_env.workload.traces.batches import Batch, unexpected

Int64s = npt.NDArray[np.int64]
TimeUnit = Literal["s", "ms", "us", "ns"]
TIME_UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
# Decimal digits of a nanosecond in each unit.
_DIGITS: dict[TimeUnit, int] = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
TIME_EXPECTED = "a time such as 2023-11-16 18:17:03.9799600, or seconds such as 12.5"
MAX_SECONDS = 10**12  # more than the years 1 to 9999 have
_SECOND = 10**9  # in nanoseconds

_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,22}(\.\d{0,30})?([eE][+-]?\d\d?)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET, _NO_OFFSET = "a date and time with an offset", "a date and time without an offset"
# The usual forms, as polars matches them.
_DATE = r"^[1-9][0-9]{3}-[01][0-9]-[0-3][0-9][ T]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
_ZONE = r"(Z|[+-][0-9]{2}:[0-9]{2})$"


class Times(NamedTuple):
    """Times since the origin of their kind: `seconds` and `nanoseconds`, int64 [N], the latter below 1e9."""

    kind: str
    seconds: Int64s
    nanoseconds: Int64s


def token_counts(batch: Batch, name: str, least: int = 1) -> npt.NDArray[np.int32]:
    """A column of token counts, int32 [N], each from `least` to 1,000,000.

    Raises:
        DataError: a field is none.
    """
    column = batch.columns[name]
    expected = f"a whole number of tokens from {least} to {MAX_TOKENS}"
    if column.dtype.is_integer():
        counts = column.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        texts = None
    elif column.dtype != pl.String:
        file = batch.place(0).rpartition(": ")[0]
        raise DataError(
            f"{file}: field {name!r}: found type {column.dtype}, expected whole numbers of tokens"
        )
    else:
        texts = column.str.strip_chars()
        usual = texts.str.contains(r"^[0-9]{1,18}$").fill_null(False)
        counts = texts.set(~usual, None).cast(pl.Int64).fill_null(-1).to_numpy()
    counts = counts.copy()
    for i in np.flatnonzero((counts < least) | (counts > MAX_TOKENS)).tolist():
        text = str(column[i] if texts is None else (column[i] or "")).strip()
        # int() would also take "1_000", "+5" and the digits of other scripts, and refuse thousands of digits.
        plain = text.isascii() and text.isdigit() and len(text) < 20
        if not plain or not least <= (count := int(text)) <= MAX_TOKENS:
            raise unexpected(batch.place(i), name, text, expected)
        counts[i] = count
    return counts.astype(np.int32)


def times(batch: Batch, name: str, unit: TimeUnit, said: bool, kind: str = "") -> Times:
    """A column of times of one kind.

    Args:
        batch: the rows.
        name: the column.
        unit: of times that are numbers.
        said: the unit was asked for, so that dates are refused.
        kind: of the times before this batch; empty for the first batch.

    Raises:
        DataError: a field is no time, or of another kind than those before it.
    """
    column = batch.columns[name]
    number = f"plain {_UNIT_NAMES[unit]}"
    if column.dtype.is_temporal():
        found = _of_moments(column)
    elif column.dtype.is_numeric():
        found = _of_numbers(column, number, unit)
    else:
        column = column.str.strip_chars()
        first = "" if column.is_empty() else (column[0] or "")
        kind = kind or _instant(first, unit)[0]
        usual, found = _of_text(column, kind, unit)
        seconds, nanoseconds = found.seconds, found.nanoseconds
        for i in np.flatnonzero(~usual).tolist():
            text = (column[i] or "").strip()
            this, now = _instant(text, unit)
            if not this:
                expected = (
                    number if said else TIME_EXPECTED if unit == "s" else f"{number}, or a date and time"
                )
                raise unexpected(batch.place(i), name, text, expected)
            if this != (kind := kind or this):
                raise unexpected(batch.place(i), name, text, f"{kind}, as in the first row")
            seconds[i], nanoseconds[i] = divmod(now, _SECOND)
        found = Times(kind, seconds, nanoseconds)
    if said and found.kind != number:
        raise unexpected(batch.place(0), name, str(column[0]), f"{number}, as asked")
    if kind and found.kind != kind:
        raise unexpected(batch.place(0), name, str(column[0]), f"{kind}, as in the first row")
    wrong = np.flatnonzero((found.seconds < -MAX_SECONDS) | (found.seconds >= MAX_SECONDS))
    if wrong.size:
        i = int(wrong[0])
        raise unexpected(batch.place(i), name, str(column[i]), f"{number} from 0, less than {MAX_SECONDS} s")
    return found


def seconds_since(found: Times, first: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Seconds since `first`, (seconds, nanoseconds), correctly rounded."""
    whole, rest = found.seconds - first[0], found.nanoseconds - first[1]
    out = whole.astype(np.float64)
    # A quotient of two exact floats is correctly rounded: below 2^53 integers are exact.
    near = np.abs(whole) < 2**53 // _SECOND - 1
    out[near] = (whole[near] * _SECOND + rest[near]) / _SECOND
    coarse = ~near & (rest % 1000 == 0) & (np.abs(whole) < 2**53 // 10**6 - 1)
    out[coarse] = (whole[coarse] * 10**6 + rest[coarse] // 1000) / 10**6
    for i in np.flatnonzero(~near & ~coarse & (rest != 0)).tolist():
        out[i] = (int(whole[i]) * _SECOND + int(rest[i])) / _SECOND
    return out


def goes_back(found: Times, before: tuple[int, int] | None) -> int | None:
    """The first position whose time is before that of the row before it, None where there is none."""
    seconds, nanoseconds = found.seconds, found.nanoseconds
    if before is not None and len(seconds) and (int(seconds[0]), int(nanoseconds[0])) < before:
        return 0
    whole = np.diff(seconds)
    back = np.flatnonzero((whole < 0) | ((whole == 0) & (np.diff(nanoseconds) < 0)))
    return int(back[0]) + 1 if back.size else None


def _of_moments(column: pl.Series) -> Times:
    """Times of a typed column of dates and times."""
    kind = column.dtype
    if not isinstance(kind, pl.Datetime):
        return Times("", np.full(len(column), MAX_SECONDS), np.zeros(len(column), dtype=np.int64))
    digits = {"ms": 6, "us": 3, "ns": 0}[kind.time_unit]
    ticks = column.to_physical().to_numpy().astype(np.int64)
    per_second = 10 ** (9 - digits)
    whole, rest = np.divmod(ticks, per_second)
    return Times(_OFFSET if kind.time_zone else _NO_OFFSET, whole, rest * 10**digits)


def _of_numbers(column: pl.Series, kind: str, unit: TimeUnit) -> Times:
    """Times of a typed column of numbers; what is none becomes MAX_SECONDS."""
    per_second = 10 ** (9 - _DIGITS[unit])
    if column.dtype.is_integer():
        ticks = column.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        whole, rest = np.divmod(ticks, per_second)
        found = Times(kind, whole.astype(np.int64), rest * 10 ** _DIGITS[unit])
        found.seconds[ticks < 0] = MAX_SECONDS
        return found
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    good = (values >= 0) & (values < MAX_SECONDS * float(per_second))
    values = np.where(good, values, 0.0)
    whole = np.floor(values / per_second)
    nanoseconds = np.rint((values - whole * per_second) * 10.0 ** _DIGITS[unit]).astype(np.int64)
    carry, nanoseconds = np.divmod(nanoseconds, _SECOND)
    seconds = whole.astype(np.int64) + carry
    seconds[~good] = MAX_SECONDS
    return Times(kind, seconds, nanoseconds)


def _of_text(column: pl.Series, kind: str, unit: TimeUnit) -> tuple[npt.NDArray[np.bool_], Times]:
    """Where the text is of the usual form for its kind, and the times there."""
    if kind in (_OFFSET, _NO_OFFSET):
        usual = column.str.contains(_DATE + (_ZONE if kind == _OFFSET else "$"))
        whole = column.str.slice(0, 19).str.replace("T", " ", literal=True)
        moments = whole.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False)
        seconds = moments.to_physical() // 1000
        if kind == _OFFSET:
            zones = column.str.extract(_ZONE)
            known = {zone: _offset_s(zone) for zone in zones.unique().drop_nulls()}
            # A row without an offset that there is becomes null, and is no usual one.
            known[""] = None
            offsets = zones.replace_strict(
                pl.Series(list(known), dtype=pl.String),
                pl.Series(list(known.values()), dtype=pl.Int64),
                default=None,
                return_dtype=pl.Int64,
            )
            seconds = seconds - offsets
        decimals = column.str.extract(r"\.([0-9]{1,9})").fill_null("")
        nanoseconds = decimals.str.pad_end(9, "0").cast(pl.Int64)
    else:
        digits = _DIGITS[unit]
        usual = column.str.contains(r"^[0-9]{1,12}(\.[0-9]{0,30})?$")
        whole = column.str.extract(r"^([0-9]{1,12})(\.|$)").cast(pl.Int64, strict=False)
        decimals = column.str.extract(r"\.([0-9]*)$").fill_null("")
        kept = decimals.str.slice(0, digits).str.pad_end(digits, "0") if digits else None
        rest = decimals.str.slice(digits)
        # To the nearest, half to even: what is exactly between two is left to `Decimal`.
        usual = usual & ~rest.str.contains("^50*$")
        up = rest.str.contains("^[5-9]").cast(pl.Int64)
        ticks = (up if kept is None else kept.cast(pl.Int64, strict=False) + up).fill_null(0)
        nanoseconds = (whole % 10 ** (9 - digits)) * 10**digits + ticks
        seconds = whole // 10 ** (9 - digits) + nanoseconds // _SECOND
        nanoseconds = nanoseconds % _SECOND
    usual = usual.fill_null(False) & seconds.is_not_null() & nanoseconds.is_not_null()
    arrays = (values.fill_null(0).to_numpy().astype(np.int64) for values in (seconds, nanoseconds))
    return usual.to_numpy(), Times(kind, *arrays)


def _offset_s(zone: str) -> int | None:
    """Seconds of an offset from UTC; None where there is no such offset."""
    if zone == "Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        return None
    return (-1 if zone[0] == "-" else 1) * (hours * 3600 + minutes * 60)


def _instant(text: str, unit: TimeUnit) -> tuple[str, int]:
    """A time's kind, empty where it is no time, and its nanoseconds since that kind's origin.

    Integers, since Azure's seven decimals of a second are beyond a float that counts from 1970.
    """
    if match := _DATE_TIME.fullmatch(text):
        date, time, decimals, offset = match.groups()
        try:
            moment = datetime.fromisoformat(f"{date}T{time}{offset or ''}")
        except ValueError:  # such as a 13th month
            return "", 0
        whole = (moment - (_EPOCH_UTC if offset else _EPOCH)) // timedelta(seconds=1)
        return (_OFFSET if offset else _NO_OFFSET), whole * _SECOND + int((decimals or "").ljust(9, "0"))
    digits = _DIGITS[unit]
    if _NUMBER.fullmatch(text) and (value := Decimal(text)) < MAX_SECONDS * 10 ** (9 - digits):
        return f"plain {_UNIT_NAMES[unit]}", round(value * 10**digits)
    return "", 0


def hash_ids(batch: Batch, name: str) -> Sequence[Int64s]:
    """A column of lists of block hashes, int64 [blocks of the prompt] for each row.

    Raises:
        DataError: a field is no list of whole numbers from 0 to 2^63 - 1.
    """
    out = []
    for i, values in enumerate(batch.lists[name]):
        texts = [str(value) for value in values] if isinstance(values, list) else None
        if texts is None or not all(re.fullmatch(r"\d{1,19}", text, re.ASCII) for text in texts):
            raise unexpected(batch.place(i), name, str(values), "a list of whole numbers from 0")
        numbers = [int(text) for text in texts]
        if numbers and max(numbers) >= 2**63:
            raise unexpected(batch.place(i), name, str(max(numbers)), "a whole number below 2^63")
        out.append(np.array(numbers, dtype=np.int64))
    return out
