"""The published rows beside what is simulated, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.paper.calibration import FIT_SEEDS, FITS, REPRODUCTION, Calibration, Fit
from experiments.paper.published import NUMBER_ROWS, PUBLISHED
from experiments.paper.readings import shown
from experiments.paper.reproduction import CANDIDATES, READINGS, uncalibrated, within

DEFAULT = CANDIDATES[0].name
# What decides between the candidates for papi_env's defaults.
_DECISIVE = ("F1", "O2", "O3")
_LONG, _TWO = ("O1", "O2", "F13"), ("reproduction", DEFAULT)


def print_rows(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows that are numbers under the reproduction reading, beside papi_env's default."""
    other = "geometric" if REPRODUCTION.average == "arithmetic" else "arithmetic"
    table = Table(
        title="PAPI's published rows, simulated", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("row", no_wrap=True)
    table.add_column("quantity")
    for name in ("paper", "simulated", "ratio", other):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("default", justify="right", no_wrap=True)
    numbers = _numbers(entries)
    for entry, following in zip(numbers, [*numbers[1:], None], strict=True):
        cells = [
            f"{entry['paper']:.3g}",
            f"{entry['simulated']:.3f}",
            f"{entry['ratio']:.2f}",
            f"{entry['averages'][other]['simulated']:.3f}",
            entry["role"],
            f"{entry['by_reading'][DEFAULT]['simulated']:.3f}",
        ]
        last = following is not None and following["row"][0] != entry["row"][0]
        table.add_row(entry["row"], PUBLISHED[entry["row"]].quantity, *cells, end_section=last)
    console.print(table)
    console.print(
        "simulated: the reproduction reading, constants fitted on the rows of role calibration;\n"
        f"{REPRODUCTION.average} mean over configurations, and the {other} one beside it. default: papi_env\n"
        "as it ships, nothing fitted (arithmetic mean).",
        markup=False,
        highlight=False,
    )
    counts = [f"{group} {'{} of {}'.format(*within(entries, group, 0.15))}" for group in "ENSP"]
    console.print(
        f"within 15 %: {', '.join(counts)}; within 10 %: P {'{} of {}'.format(*within(entries, 'P', 0.10))}",
        markup=False,
        highlight=False,
    )


def print_readings(
    console: Console, entries: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]
) -> None:
    """The rows that are numbers under every reading, how far each is from them, and PAPI's speed-ups under it."""
    table = Table(title="The rows under every reading", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    for entry in compared:
        table.add_column(entry["reading"].replace(" ", "\n"), justify="right", no_wrap=True)
    numbers = _numbers(entries)
    for row in numbers:
        values = (f"{row['by_reading'][entry['reading']]['simulated']:.2f}" for entry in compared)
        table.add_row(row["row"], f"{row['paper']:.3g}", *values, end_section=row is numbers[-1])
    table.add_row("log rms", "", *(f"{entry['log_rms']:.3f}" for entry in compared))
    console.print(table)
    for entry in compared:
        departures = f" ({entry['departures']})" if entry["departures"] else ""
        console.print(
            f"{entry['reading']}: {entry['description']}{departures}", markup=False, highlight=False
        )
    table = Table(
        title="PAPI's speed-up, 36 settings, RLP as it decays: geometric mean",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("reading", no_wrap=True)
    for rival in compared[0]["speed_ups"]:
        table.add_column(f"over {rival}".replace(" ", "\n"), justify="right", no_wrap=True)
    for name in _DECISIVE:
        table.add_column(name, no_wrap=True)
    for entry in compared:
        gains = (f"{gain:.2f}" for gain in entry["speed_ups"].values())
        table.add_row(entry["reading"], *gains, *(_truth(name in entry["holds"]) for name in _DECISIVE))
    console.print(table)


def print_uncalibrated(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows under both readings of the GPU's bandwidth and all of a bank's rate, nothing fitted."""
    title = "Uncalibrated, by GPU bandwidth and bank rate: arithmetic / geometric mean"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    for name in uncalibrated():
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for entry in entries:
        if "uncalibrated" not in entry:
            continue
        cells = []
        for item in entry["uncalibrated"]:
            if "averages" in item:
                means = item["averages"]
                cells.append(f"{means['arithmetic']['simulated']:.2f}/{means['geometric']['simulated']:.2f}")
            else:
                cells.append(_truth(item["holds"]))
        table.add_row(
            entry["row"], "" if isinstance(entry["paper"], str) else f"{entry['paper']:.3g}", *cells
        )
    console.print(table)


def print_facts(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """Which reading holds which order and fact, and what decides them."""
    facts = [entry for entry in entries if isinstance(entry["paper"], str)]
    table = Table(title="Orders and facts, by reading", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("what the paper says")
    for reading in READINGS:
        table.add_column(reading.name.replace(" ", "\n"), no_wrap=True)
    nowhere = []
    for entry in facts:
        found = entry["by_reading"]
        cells = [_truth(found[reading.name]["holds"]) for reading in READINGS]
        table.add_row(entry["row"], f"{PUBLISHED[entry['row']].quantity}: {entry['paper']}", *cells)
        if not _holding(entry):
            nowhere.append(entry["row"])
    console.print(table)
    all_of_them = [
        reading.name
        for reading in READINGS
        if all(entry["by_reading"][reading.name]["holds"] for entry in facts)
    ]
    console.print(
        f"No reading here holds {', '.join(nowhere) or 'none of them'}; "
        f"all rows together: {', '.join(all_of_them) or 'no reading'}.",
        highlight=False,
    )
    apart = [
        f"{one['row']} and {other['row']}"
        for one, other in combinations(facts, 2)
        if {*_holding(one)} and {*_holding(other)} and not {*_holding(one)} & {*_holding(other)}
    ]
    console.print(
        f"Each held by some reading, never both by one: {', '.join(apart) or 'none'}.", highlight=False
    )
    for entry in facts:
        console.print(f"{entry['row']}:", highlight=False)
        # Readings that say the same share a line; of the long ones two will do, and the file has all.
        shown_of = _TWO if entry["row"] in _LONG else [reading.name for reading in READINGS]
        lines: dict[str, list[str]] = {}
        for name in shown_of:
            lines.setdefault(_plain(entry["by_reading"][name]["simulated"]), []).append(name)
        for line, names in lines.items():
            who = "all readings" if len(names) == len(READINGS) else ", ".join(names)
            console.print(f"   {who}: {line}", markup=False, highlight=False)


def print_constants(console: Console) -> None:
    """The fitted constants with their bounds."""
    for calibration in FITS:
        title = f"Free constants of the {calibration.name} reading, fitted on rows {_rows(calibration)}"
        table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("constant", no_wrap=True)
        table.add_column("fitted", justify="right", no_wrap=True)
        table.add_column("bounds", justify="right", no_wrap=True)
        table.add_column("bounded by")
        for name, value in calibration.fitted.items():
            bound, field = calibration.bound(name), calibration.free[name][0]
            ends = {bound.low: " (at it)", bound.high: " (at it)"}
            limits = f"{shown(field, bound.low)}..{shown(field, bound.high)}{ends.get(value, '')}"
            table.add_row(name, shown(field, value), limits, bound.source)
        console.print(table)
    console.print(
        f"Under the reproduction reading rows E, N and S are of a {REPRODUCTION.batch} batch, rows P of a "
        f"{REPRODUCTION.pim_batch} one,\nrow O2 of a {REPRODUCTION.order_batch} one: all requests of the mean length "
        "(fixed), or ending as their lengths say (decaying).",
        markup=False,
        highlight=False,
    )


def print_fit(console: Console, calibration: Calibration, found: Fit) -> None:
    """What a fit arrived at beside the stored constants."""
    title = (
        f"Refit of {calibration.name} on rows {_rows(calibration)}: {found.evaluations} settings, "
        f"{len(FIT_SEEDS)} seeds"
    )
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in ("constant", "bounds", "start", "arrived at", "stored", "difference"):
        table.add_column(name, justify="left" if name == "constant" else "right", no_wrap=True)
    for name, value in found.constants.items():
        bound, field, stored = (
            calibration.bound(name),
            calibration.free[name][0],
            calibration.fitted[name],
        )
        table.add_row(
            name,
            f"{shown(field, bound.low)}..{shown(field, bound.high)}",
            shown(field, found.start[name]),
            shown(field, value),
            shown(field, stored),
            f"{value / stored - 1:+.2%}" if stored else f"{value - stored:+.2g}",
        )
    console.print(table)
    console.print(
        f"sum of squared log errors: {found.start_loss:.4f} at the start, {found.loss:.4f} now",
        highlight=False,
    )


def _holding(entry: Mapping[str, Any]) -> list[str]:
    return [name for name, found in entry["by_reading"].items() if found["holds"]]


def _numbers(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if not isinstance(entry["paper"], str)]


def _rows(calibration: Calibration) -> str:
    if tuple(calibration.rows) == NUMBER_ROWS:
        return "E, N, S and P"
    return ", ".join(calibration.rows)


def _truth(holds: bool) -> str:
    return "holds" if holds else "fails"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} ({_plain(item)})" if isinstance(item, Mapping) else f"{key} {_plain(item)}"
            for key, item in value.items()
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
