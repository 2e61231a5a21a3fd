"""What `python -m experiments.reproduce --explore` prints and writes: explore.json, explore.png, findings.txt."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.common.pools import Pool
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.paper.calibration import REPRODUCTION
from experiments.paper.explore import (
    EXPLORE_SEEDS,
    GROUPS,
    LOOSE,
    ORDER_PARTS,
    TIGHT,
    explore,
    figure,
    summarize,
)
from experiments.paper.published import NUMBER_ROWS, published_value
from experiments.paper.readings import Setting, shown
from experiments.paper.rows import ATTACC, ATTACC_ONLY, PIM_ONLY, Bench

# What would give a row, and what would settle it, where no setting does. By row group; a person's reading
# of the mechanisms, printed only beside rows that the search leaves out.
_NEEDED: Mapping[str, str] = {
    "E": (
        "a loss of AttAcc-only outside its FC kernels that grows with n and that PIM-only PAPI does not share "
        "(P1-P3): its 2D partial sums over one x16 link come closest, if both have NVLink in figure 11"
    ),
    "N": "another account of energy: which parts have static power, and reads per slot instead of per kernel",
    "S": "more time per iteration at small n on GPU systems for S1, and less for S2: one batch cannot be both",
    "P": "another bank rate, or GEMV-buffer writes that are hidden in part",
}
_EVIDENCE: Mapping[str, str] = {
    "E": (
        "AttAcc-only's time split into prefill and decoding, by batch and speculation; the prompt and output "
        "lengths used; the configurations that the mean is over"
    ),
    "N": "the energy breakdown by component and the background power of a stack and of a GPU",
    "S": "per-iteration latency at batch 4 by speculation length, with the communication apart",
    "P": "clocks of one GEMV on one stack by number of tokens",
}


# Prompts tried against rows E3 and E6; Dolly's have 19 tokens on average.
_PROMPTS = (100, 400, 1600)
_ORDERS: Mapping[str, str] = {
    "O1": "O1",
    "attacc_only_beats_a100_attacc": "O2 AttAcc-only",
    "papi_beats_all": "O2 PAPI leads",
    "lead_falls_with_tlp": "O2 by TLP",
    "O3": "O3",
    "F1": "F1",
    "E6_below_E3": "F4 E6 < E3",
    "E4_below_E1": "F4 E4 < E1",
}


def explore_and_report(
    folder: RunFolder, samples: int, seed: int, pool: Pool, console: Console, progress: Console
) -> None:
    """Search, print what was found, and write it to the run folder."""
    seeds = tuple(range(seed, seed + EXPLORE_SEEDS))
    start = time.perf_counter()
    with progress.status(f"exploring {samples} settings"):
        found = explore(samples, seed, seeds, pool)
        summary = summarize(found, seeds)
    summary["wall_s"] = round(time.perf_counter() - start, 1)
    summary["seeds"] = list(seeds)
    text = findings(summary, seeds)
    summary["findings"] = text
    folder.write("explore.json", json_text(summary))
    folder.write("explore.png", figure(found))
    folder.write("findings.txt", "\n".join(text) + "\n")
    print_best(console, summary)
    print_front(console, summary)
    print_reach(console, summary)
    print_sensitivity(console, summary)
    console.rule("Findings")
    for line in text:
        indent = " " * (len(line) - len(line.lstrip()) + 3)
        for part in textwrap.wrap(line, console.width - 1, subsequent_indent=indent):
            console.print(part, markup=False, highlight=False)


def print_best(console: Console, summary: Mapping[str, Any]) -> None:
    """The rows of the settings that are best by one measure or another."""
    names = list(summary["best"])
    table = _table(
        f"The closest of {summary['samples']} settings ({summary['wall_s']:.0f} s)", "row", ["paper", *names]
    )
    for row in NUMBER_ROWS:
        values = (f"{summary['best'][name]['rows'][row]:.2f}" for name in names)
        table.add_row(row, f"{published_value(row):.3g}", *values)
    for part in ORDER_PARTS:
        holds = ("yes" if summary["best"][name]["orders"][part] else "no" for name in names)
        table.add_row(_ORDERS[part], "", *holds)
    console.print(table)
    for name in names:
        console.print(
            f"{name}: {departures(summary['best'][name]['setting'])}", markup=False, highlight=False
        )


def print_front(console: Console, summary: Mapping[str, Any], most: int = 14) -> None:
    """The trade-off front between row groups: its members that are best for some choice of groups."""
    front = summary["front"]
    chosen: list[int] = []
    # Every choice of groups, largest first: who is best at all of them, then at three, two and one.
    for mask in sorted(range(1, 2 ** (len(GROUPS) + 1)), key=lambda mask: -mask.bit_count()):
        groups = [k for k in range(len(GROUPS) + 1) if mask >> k & 1]
        best = min(range(len(front)), key=lambda i: sum(front[i]["group_misses"][k] for k in groups))
        if best not in chosen:
            chosen.append(best)
    chosen = sorted(chosen[:most], key=lambda i: front[i]["group_misses"][GROUPS.index("P")])
    title = f"Trade-off front: {len(chosen)} of {len(front)} settings; mean miss of a group's rows"
    table = _table(title, "E", [*GROUPS[1:], "orders"])
    table.add_column("where it departs from papi_env's defaults")
    for i in chosen:
        *misses, broken = front[i]["group_misses"]
        cells = [f"{100 * miss:.0f}%" for miss in misses]
        held = f"{round((1 - broken) * len(ORDER_PARTS))}/{len(ORDER_PARTS)}"
        table.add_row(*cells, held, departures(front[i]["setting"]))
    console.print(table)


def print_reach(console: Console, summary: Mapping[str, Any]) -> None:
    """How close any setting comes to each row, alone and with all rows P within their aim."""
    table = _table("Reach of each row", "row", ["paper", "closest", "off by", "closest, P in 10 %", "off by"])
    for row, reach in summary["reach"].items():
        beside = ["-", "-"]
        if "miss_with_p" in reach:
            beside = [f"{reach['closest_with_p']:.2f}", f"{100 * reach['miss_with_p']:.0f}%"]
        alone = [f"{reach['paper']:.3g}", f"{reach['closest']:.2f}", f"{100 * reach['miss']:.0f}%"]
        table.add_row(row, *alone, *beside)
    console.print(table)


def print_sensitivity(console: Console, summary: Mapping[str, Any]) -> None:
    """Which mechanism moves which row, one at a time from the setting closest to all rows."""
    title = "One change at a time from the setting closest to all rows: factors beyond 5 %"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("change", no_wrap=True)
    table.add_column("rows moved, the most first")
    for change in summary["sensitivity"]:
        moved = _moved(change["factors"])
        label = f"{change['field']} {shown(change['field'], change['to'])}"
        table.add_row(label, ", ".join(f"{row} x{factor:.2f}" for row, factor in moved[:8]) or "none")
    console.print(table)


def findings(summary: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """What the search says about the paper's rows, in sentences made of its numbers."""
    reach = summary["reach"]
    lines = []
    never = [row for row in NUMBER_ROWS if reach[row]["miss"] > LOOSE]
    lines.append(f"1. Rows that no setting tried brings within 15 %: {', '.join(never) or 'none'}.")
    tight = [row for row in NUMBER_ROWS if reach[row]["miss"] > TIGHT]
    lines.append(f"   Rows that no setting tried brings within 10 %: {', '.join(tight) or 'none'}.")
    with_p = [row for row in NUMBER_ROWS if reach[row].get("miss_with_p", 0.0) > LOOSE]
    lines.append(f"2. Out of 15 % as soon as all rows P are within 10 %: {', '.join(with_p) or 'none'}.")
    lines += [
        f"   {row}: the paper says {reach[row]['paper']:.3g}, the closest then is {reach[row]['closest_with_p']:.2f}; "
        f"a factor of {reach[row]['paper'] / reach[row]['closest_with_p']:.2f} is missing."
        for row in with_p
    ]
    pairs = ["-".join(pair["rows"]) for pair in summary["conflicts"]]
    lines.append(
        f"3. Pairs of rows within reach, but never both within 15 % in one setting tried: {', '.join(pairs) or 'none'}."
    )
    lines += _ceiling(seeds)
    lines.append(
        "5. Which mechanism moves which row most, one at a time from the setting closest to all rows:"
    )
    for group in GROUPS:
        best = max(
            summary["sensitivity"],
            key=lambda change: max(
                abs(_log(change["factors"][row])) for row in NUMBER_ROWS if row[0] == group
            ),
        )
        moved = [item for item in _moved(best["factors"]) if item[0].startswith(group)]
        text = ", ".join(f"{row} x{factor:.2f}" for row, factor in moved[:3])
        lines.append(f"   {group}: {best['field']} to {shown(best['field'], best['to'])} ({text})")
    groups = sorted({row[0] for row in (*never, *with_p)}, key=GROUPS.index)
    lines.append("6. Mechanism that the rows out of reach would need, and the evidence that would settle it:")
    for group in groups:
        rows = ", ".join(row for row in NUMBER_ROWS if row[0] == group and row in (*never, *with_p))
        lines += [f"   {rows}: needs {_NEEDED[group]}.", f"      settled by {_EVIDENCE[group]}."]
    return lines


def _ceiling(seeds: Sequence[int]) -> list[str]:
    """Why E3 cannot be had from FC kernels, nor from longer prompts, at the reproduction reading."""
    bench = Bench(REPRODUCTION, seeds)
    gpu, attacc, pim = (bench.fc_seconds(name) for name in (ATTACC, ATTACC_ONLY, PIM_ONLY))
    rows = (4, 16, 64, 256, 1024)
    gains = ", ".join(f"{float(attacc[n] / min(gpu[n], pim[n])):.1f} at n = {n}" for n in rows)
    e3, p3 = published_value("E3"), published_value("P3")
    longer = {
        prompt: Bench(REPRODUCTION, seeds[:1], prompt).values(("E1", "E3", "S2")) for prompt in _PROMPTS
    }
    prompts = "; ".join(
        f"{prompt}: " + ", ".join(f"{row} {value:.1f}" for row, value in values.items())
        for prompt, values in longer.items()
    )
    return [
        f"4. FC kernels alone, AttAcc over the faster of A100s and FC-PIM at the reproduction reading: {gains}.",
        f"   E3 = {e3} is beyond the largest: no batch and no speculation length reaches it through FC kernels.",
        f"   E3 beside P3 = {p3} asks PAPI to be {e3 / p3:.1f} times as fast as PIM-only PAPI in the mean; the A100s "
        f"are {float(pim[256] / gpu[256]):.1f} times as fast as FC-PIM at n = 256.",
        f"   Longer prompts, prefilled on PIM by AttAcc-only, do not close the gap (tokens: rows): {prompts}.",
    ]


def departures(setting: Mapping[str, Any]) -> str:
    """Where a setting differs from papi_env's defaults."""
    return Setting(**setting).departures()


def _moved(factors: Mapping[str, float]) -> list[tuple[str, float]]:
    moved = [(row, factor) for row, factor in factors.items() if abs(factor - 1) > 0.05]
    return sorted(moved, key=lambda item: -abs(_log(item[1])))


def _log(factor: float) -> float:
    return max(factor, 1 / factor) - 1


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table
