"""The published rows beside what is simulated, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.paper.calibration import FIT_SEEDS, FITTED, FREE_CONSTANTS, REPRODUCTION, Fit
from experiments.paper.published import PUBLISHED
from experiments.paper.readings import BOUNDS, Setting
from experiments.paper.reproduction import uncalibrated, within


def print_rows(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows under the reproduction reading, then uncalibrated."""
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
    for entry, following in zip(entries, [*entries[1:], None], strict=True):
        default = entry["uncalibrated"][0]
        if isinstance(entry["paper"], str):
            cells = ["order", _truth(entry["holds"]), "", "", entry["role"], _truth(default["holds"])]
        else:
            cells = [
                f"{entry['paper']:.3g}",
                f"{entry['simulated']:.3f}",
                f"{entry['ratio']:.2f}",
                f"{entry['averages'][other]['simulated']:.3f}",
                entry["role"],
                f"{default['averages']['arithmetic']['simulated']:.3f}",
            ]
        last = following is not None and following["row"][0] != entry["row"][0]
        table.add_row(entry["row"], PUBLISHED[entry["row"]].quantity, *cells, end_section=last)
    console.print(table)
    console.print(
        "simulated: the reproduction reading, constants fitted on the rows of role calibration;\n"
        f"{REPRODUCTION.average} mean over configurations, and the {other} one beside it. default: papi_env\n"
        "as it ships, nothing fitted (1935 GB/s, 6 clocks, arithmetic mean).",
        markup=False,
        highlight=False,
    )
    counts = [f"{group} {'{} of {}'.format(*within(entries, group, 0.15))}" for group in "ENSP"]
    console.print(
        f"within 15 %: {', '.join(counts)}; within 10 %: P {'{} of {}'.format(*within(entries, 'P', 0.10))}",
        markup=False,
        highlight=False,
    )
    print_uncalibrated(console, entries)
    print_orders(console, entries)


def print_uncalibrated(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows under both readings of the GPU's bandwidth and all of a bank's rate, nothing fitted."""
    title = "Uncalibrated, by GPU bandwidth and bank rate: arithmetic / geometric mean"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    for name in uncalibrated():
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for entry in entries:
        cells = []
        for item in entry["uncalibrated"]:
            if "averages" in item:
                means = item["averages"]
                cells.append(f"{means['arithmetic']['simulated']:.2f}/{means['geometric']['simulated']:.2f}")
            else:
                cells.append(_truth(item["holds"]))
        paper = "order" if isinstance(entry["paper"], str) else f"{entry['paper']:.3g}"
        table.add_row(entry["row"], paper, *cells)
    console.print(table)


def print_orders(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """What decides the orders, under the reproduction reading."""
    for entry in entries:
        if isinstance(entry["paper"], str):
            console.print(f"{entry['row']} {_truth(entry['holds'])}:", highlight=False)
            for key, value in entry["simulated"].items():
                console.print(f"   {key}: {_plain(value)}", markup=False, highlight=False)


def _truth(holds: bool) -> str:
    return "holds" if holds else "fails"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_settings(console: Console) -> None:
    """The constants with their bounds, and the readings that differ from papi_env's defaults."""
    table = Table(title="Free constants, fitted on rows P1-P6 and E1", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("constant", no_wrap=True)
    table.add_column("fitted", justify="right", no_wrap=True)
    table.add_column("bounds", justify="right", no_wrap=True)
    table.add_column("bounded by")
    for name, fields in FREE_CONSTANTS.items():
        bound = BOUNDS[fields[0]]
        ends = {bound.low: " (at it)", bound.high: " (at it)"}
        limits = f"{_us(bound.low)}..{_us(bound.high)}{ends.get(FITTED[name], '')}"
        table.add_row(name, _us(FITTED[name]), limits, bound.source)
    console.print(table)
    console.print(
        f"The reproduction reading, where it is not papi_env's default: {departures(REPRODUCTION)}.\n"
        f"Rows E, N and S are of a {REPRODUCTION.batch} batch, rows P of a {REPRODUCTION.pim_batch} one, row O2 of a "
        f"{REPRODUCTION.order_batch} one:\n"
        "all requests of the mean length (fixed), or ending as their lengths say (decaying).",
        markup=False,
        highlight=False,
    )


def departures(setting: Setting) -> str:
    """Where a setting differs from papi_env's defaults."""
    defaults = Setting().as_dict()
    return ", ".join(
        f"{name} {_us(value) if name in BOUNDS else value}"
        for name, value in setting.as_dict().items()
        if value != defaults[name]
    )


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def print_fit(console: Console, found: Fit) -> None:
    """What a fit arrived at beside the stored constants."""
    title = f"Refit on P1-P6 and E1: {found.evaluations} settings, {len(FIT_SEEDS)} seeds"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in ("constant", "bounds", "start", "arrived at", "stored", "difference"):
        table.add_column(name, justify="left" if name == "constant" else "right", no_wrap=True)
    for name, value in found.constants.items():
        bound = BOUNDS[FREE_CONSTANTS[name][0]]
        table.add_row(
            name,
            f"{_us(bound.low)}..{_us(bound.high)}",
            _us(found.start[name]),
            _us(value),
            _us(FITTED[name]),
            f"{value / FITTED[name] - 1:+.2%}" if FITTED[name] else f"{value - FITTED[name]:+.2g} s",
        )
    console.print(table)
    console.print(
        f"sum of squared log errors: {found.start_loss:.4f} at the start, {found.loss:.4f} now",
        highlight=False,
    )
