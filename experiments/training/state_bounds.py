"""What a state may hold: numbers by which compiled code, which does not look, finds rows; and earlier layouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.fields import MOST
from papi_env.errors import DataError, shown
from papi_env.scenario import MAX_SPECULATION
from papi_env.simulation.batch import state as batch
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.engine import Engine
from papi_env.simulation.serving import state as serving
from papi_env.simulation.serving.counting import EMPTY, SLOTS_AT_ONCE
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.workload.images import MAX_IMAGES, MAX_STAGES

Arrays = dict[str, npt.NDArray[Any]]
# chosen: what no training counts to, and 64 bits hold (range 1e12-9e18).
_MOST = 1 << 60
_Bounds = list[tuple[int, int, int]]  # column, least, most

# Counters of a serving engine that are no larger than its slots, and than the requests of an episode.
_OF_SLOTS = (serving.RLP, serving.PREFILLING, serving.PREFILL_FRONT)
_OF_REQUESTS = (serving.REQUESTS, serving.ARRIVED, serving.HEAD, serving.PREEMPTED)
# Of static batches, where the columns of today stood in rows of versions that called them counters and clocks alone.
_EARLIER_PLACES = {
    "counters": (*range(24), *range(28, 33), *range(34, 37), *range(24, 28), 33, *range(37, 48)),
    "clocks": (
        *range(8),
        *range(16, 24),
        *range(12, 16),
        *range(28, 32),
        *range(8, 12),
        *range(24, 28),
        *range(32, 48),
    ),
}
# Columns that a serving engine had before requests had classes, and before it counted the rows that were ever in use;
# and arrays that it had not. Without classes what came since is written, if at all, for what only scenarios with
# classes have.
_EARLIER_COLUMNS = {"counters": (47, 83), "clocks": (43,)}
_QUEUE = ("queue_facts", "queue_arrival_s", "queue_until_s")
_SLOTS = ("contexts", "left", "classes", "keys", "deadlines")
_LATER_ARRAYS = ("more", "queue", *_QUEUE, "places", "place_s", "prefixes")


def counts_of(path: Path, numbers: Any, names: Sequence[str]) -> list[int]:
    """Counters of a training, by name.

    Raises:
        DataError: one is missing, or is none.
    """
    found: list[int] = []
    for name in names:
        value = numbers.get(name) if isinstance(numbers, dict) else None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
            raise DataError(f"{path}: {name} is {shown(value)}, expected a count")
        found.append(value)
    return found


def check_size(path: Path, name: str, found: npt.NDArray[Any]) -> None:
    """Raise DataError where an array of what was earned holds numbers that no training comes to."""
    if found.dtype.kind == "f" and not (np.abs(found) <= MOST).all():
        raise DataError(f"{path}: {name} holds numbers that are not finite, or beyond {MOST:g}")
    # Mean, variance and count, of all or by setting.
    if name.endswith(".running") and (found[1:] < 0).any():
        raise DataError(f"{path}: {name} holds a variance or a count below 0")


def number_of(path: Path, name: str, value: Any) -> float:
    """A number of a training.

    Raises:
        DataError: it is none, or not finite.
    """
    with suppress(OverflowError):  # an int beyond all floats
        if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    raise DataError(f"{path}: {name} is {shown(value)}, expected a finite number")


def rows_of(path: Path, rows: Any) -> list[dict[str, Any]]:
    """The rows of a training's validations, each with the same numbers by name.

    Raises:
        DataError: they are none.
    """
    rows = plain_rows_of(path, "rows", rows)
    names = ["steps", "simulated_s", "wall_s", "score"]
    for k, row in enumerate(rows):
        missing = {*names} ^ {*row} if k else {*names} - {*row}
        if missing:
            raise DataError(f"{path}: rows.{k} has other fields: {shown(sorted(missing))}")
        names = list(row)
        counts_of(path, row, ("steps",))
        for name, value in row.items():
            number_of(path, f"rows.{k}.{shown(name)}", value)
    return rows


def plain_rows_of(path: Path, name: str, rows: Any) -> list[dict[str, Any]]:
    """A list of fields by name.

    Raises:
        DataError: it is none.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: {name} are {shown(rows)}, expected a list of fields by name")
    return rows


def widened(where: str, engine: Engine[Any], found: Arrays, expected: Arrays) -> Arrays:
    """The arrays of a file, in the layout of today where they are those of an engine of earlier versions.

    Args:
        where: what names of the engine's arrays start with.
        engine: just built.
        found: all arrays of the file, which are left as they are.
        expected: those that there should be.
    """
    if not isinstance(engine, ServingEngine):
        return _reordered(where, found, expected)
    served = bool(engine.tables.scalars[serving.SERVICE] > 0)
    changed = dict(found)
    for part in ("state", "final"):
        for name, earlier in _EARLIER_COLUMNS.items():
            full = f"{where}.{part}.{name}"
            old, new = found.get(full), expected.get(full)
            # Scenarios with classes came after the first of these.
            if old is None or new is None or old.dtype != new.dtype:
                continue
            if old.shape in [(len(new), columns) for columns in earlier[int(served) :]]:
                changed[full] = np.pad(old, ((0, 0), (0, new.shape[1] - old.shape[1])))
        counters = f"{where}.{part}.counters"
        if changed.get(counters) is not found.get(counters):
            _lay_out_anew(engine, served, f"{where}.{part}", changed)
        for name in _LATER_ARRAYS if not served else ():
            full = f"{where}.{part}.{name}"
            changed.setdefault(full, expected[full].copy())
        # Final states have no slots of their own, but those of the state.
        _empty_slots(f"{where}.{part}", changed, expected, changed.get(f"{where}.state.counters"))
    return changed


def _empty_slots(where: str, changed: Arrays, expected: Arrays, counters: npt.NDArray[Any] | None) -> None:
    """Make rows of slots whole vectors, and say of those behind the decoding requests that they are empty.

    Earlier versions had as many slots as requests may run, and left in them what had been there.
    """
    for name in _SLOTS:
        old, new = changed.get(f"{where}.{name}"), expected.get(f"{where}.{name}")
        if old is None or new is None or old.ndim != 2 or len(old) != len(new) or old.dtype != new.dtype:
            continue
        if new.shape[1] - SLOTS_AT_ONCE < old.shape[1] < new.shape[1]:
            changed[f"{where}.{name}"] = np.pad(old, ((0, 0), (0, new.shape[1] - old.shape[1])))
    if counters is None or counters.ndim != 2 or counters.shape[1] <= serving.RLP:
        return
    for name, value in (("contexts", EMPTY), ("left", 0)):
        old = changed.get(f"{where}.{name}")
        if old is not None and old.ndim == 2 and len(old) == len(counters):
            empty = np.arange(old.shape[1]) >= counters[:, serving.RLP, None]
            changed[f"{where}.{name}"] = np.where(empty, old.dtype.type(value), old)


def _reordered(where: str, found: Arrays, expected: Arrays) -> Arrays:
    """The arrays of static batches whose columns stood in another order."""
    changed = dict(found)
    for prefix, part in (("", "state"), ("final_", "final")):
        for name, places in _EARLIER_PLACES.items():
            earlier, full = f"{where}.{prefix}{name}", f"{where}.{part}.{name}"
            old, new = found.get(earlier), expected.get(full)
            if old is None or new is None or full in found or old.ndim != 2 or old.dtype != new.dtype:
                continue
            now = list(places[: new.shape[1]])
            if len(old) == len(new) and max(now) < old.shape[1]:
                changed[full] = np.ascontiguousarray(changed.pop(earlier)[:, now])
    return changed


def _lay_out_anew(engine: ServingEngine, served: bool, where: str, changed: Arrays) -> None:
    """Count the rows that were ever in use: with classes all that there are, the free ones of which were a list.

    And of who waits, what stands beside the queue since then.
    """
    counters = changed[f"{where}.counters"]
    counters[:, serving.RECORDS_USED] = counters[:, serving.REQUESTS]
    if not served:
        return
    counters[:, serving.RECORDS_USED] = engine.state.facts.shape[1]
    counters[:, serving.PLACES_USED] = engine.state.places.shape[2]
    for name in ("places", "place_s"):
        # Rows were those of places, not of quantities.
        old = changed.get(f"{where}.{name}")
        if old is not None and old.ndim == 3:
            changed[f"{where}.{name}"] = np.ascontiguousarray(old.swapaxes(1, 2))
    needed = [changed.get(f"{where}.{name}") for name in ("queue", "facts", "moments", "patience")]
    queue, facts, moments, patience = needed
    if queue is None or facts is None or moments is None or patience is None:
        return
    if facts.shape[:2] != patience.shape or moments.shape[:2] != patience.shape or queue.ndim != 2:
        return
    # Entries that are nobody's may name anything.
    who = np.arange(len(queue))[:, None], np.clip(queue, 0, facts.shape[1] - 1)
    kinds = np.clip(facts[who][..., serving.CLASS], 0, len(engine.tables.kinds) - 1)
    of_queue = np.stack([kinds, facts[who][..., serving.INPUT]], axis=-1)
    beside = (of_queue, moments[who][..., serving.ARRIVAL_S], patience[who])
    changed |= {f"{where}.{name}": np.ascontiguousarray(a) for name, a in zip(_QUEUE, beside, strict=True)}
    del changed[f"{where}.patience"]
    changed[f"{where}.moments"] = moments[..., : engine.state.moments.shape[2]].copy()


def check_counters(path: Path, where: str, engine: Engine[Any], found: Arrays) -> None:
    """Refuse numbers that would lead compiled code out of its arrays.

    Raises:
        DataError: there are some; the message says which.
    """
    name = f"{where}.state.counters"
    if isinstance(engine, DecodeEngine):
        bounds = _of_batch(path, where, engine, found)
    else:
        assert isinstance(engine, ServingEngine)
        served = engine.tables.scalars[serving.SERVICE] > 0
        bounds = (_of_service if served else _of_serving)(path, where, engine, found)
    for column, low, high in bounds:
        _check(path, f"{name}: column {column}", found[name][:, column], low, high)


def _check(path: Path, what: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    if values.min(initial=low) < low or values.max(initial=high) > high:
        raise DataError(f"{path}: {what} holds numbers outside {low}..{high}")


def _of_batch(path: Path, where: str, engine: DecodeEngine, found: Arrays) -> _Bounds:
    slots = found[f"{where}.slots"]
    longest = int(engine.tables.population.sum(axis=1).max(initial=0)) + engine.scenario.image_tokens
    if (slots < 0).any() or (slots > longest).any():
        raise DataError(f"{path}: {where}.slots holds tokens outside 0..{longest}")
    workload = engine.scenario.workload
    return [
        (batch.RLP, 0, workload.batch_size if workload is not None else 0),
        (batch.TLP, 0, MAX_SPECULATION),
        (batch.LAST_FC, -1, batch.NUM_UNITS - 1),
        *((batch.LAST_UNIT + k, -1, batch.NUM_UNITS - 1) for k in range(batch.NUM_CLASSES)),
        (batch.STAGE, -1, MAX_STAGES - 1),
        (batch.IMAGES, 0, MAX_IMAGES),
    ]


def _of_serving(path: Path, where: str, engine: ServingEngine, found: Arrays) -> _Bounds:
    _, slots = engine.state.requests.shape
    requests = engine.state.facts.shape[1]
    running = found[f"{where}.state.requests"]
    if (running < -1).any() or (running >= requests).any():
        raise DataError(f"{path}: {where}.state.requests names requests outside 0..{requests - 1}")
    _check_classes(path, where, engine, found)
    return [
        *((column, 0, slots) for column in _OF_SLOTS),
        *((column, 0, requests) for column in _OF_REQUESTS),
    ]


def _check_classes(path: Path, where: str, engine: ServingEngine, found: Arrays) -> None:
    name = f"{where}.state.classes"
    _check(path, name, found[name], 0, len(engine.tables.acceptance) - 1)


def _of_service(path: Path, where: str, engine: ServingEngine, found: Arrays) -> _Bounds:
    """With classes of requests: records and places are used again, and the free ones are lists."""
    state = engine.state
    slots, records = state.requests.shape[1], state.facts.shape[1]
    places, kinds = state.places.shape[2], len(engine.tables.kinds)
    part = f"{where}.state"
    for name in ("requests", "prefill", "preempted", "queue"):
        _check(path, f"{part}.{name}", found[f"{part}.{name}"], -1, records - 1)
    _check_classes(path, where, engine, found)
    facts, held = found[f"{part}.facts"], found[f"{part}.places"]
    lives = np.isin(facts[..., serving.STATUS], (serving.WAITING, serving.RUNNING))
    talks = held[:, serving.NUMBER] >= 0
    queued = found[f"{part}.queue_facts"][..., serving.QUEUED_KIND]
    _check(path, f"{part}.queue_facts: the kind of who waits", queued, 0, kinds - 1)
    for what, values, high in (
        ("facts: the kind of a request", facts[..., serving.CLASS], kinds - 1),
        ("facts: the next free record", facts[..., serving.INPUT][~lives], records - 1),
        ("more: the place of a request", found[f"{part}.more"][..., serving.PLACE], places - 1),
        ("places: the kind of a conversation", held[:, serving.KIND], kinds - 1),
        ("places: the next free place", held[:, serving.TOLD][~talks], places - 1),
    ):
        _check(path, f"{part}.{what}", values, -1, high)
    waiting = state.queue.shape[1]
    counters = found[f"{part}.counters"]
    end = counters[:, serving.QUEUE_FRONT] + counters[:, serving.QUEUED] - counters[:, serving.PREEMPTED]
    _check(path, f"{part}.counters: the end of the queue", end, 0, waiting)
    return [
        *((column, 0, slots) for column in (*_OF_SLOTS, serving.PREEMPTED)),
        (serving.QUEUED, 0, waiting + slots),
        (serving.FREE_RECORD, -1, records - 1),
        (serving.FREE_PLACE, -1, places - 1),
        (serving.RECORDS_USED, 0, records),
        (serving.PLACES_USED, 0, places),
        (serving.QUEUE_FRONT, 0, waiting),
    ]
