"""Steps per second beside CartPole in the same run: `python -m experiments.throughput --help`.

Everything is measured on one pinned core in rounds that alternate with the reference; reported are medians over
rounds with quartiles (see `throughput_measure`). What the named ratios mean is in `TARGETS`.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import exit_status, output
from experiments.common.runner import RunFolder
from experiments.speed import parts as throughput_parts
from experiments.speed import runs as throughput_runs
from experiments.speed.measure import pinned
from experiments.speed.parts import QUICK, Effort, Findings, Ratio, Row, Say
from papi_env.errors import lookup


@dataclass(frozen=True)
class Target:
    """A ratio with a name: what it is, what it must reach, and what would be good.

    `at_most` turns the comparison round. `part` is what measures it.
    """

    name: str
    what: str
    part: str
    must: float
    goal: float
    at_most: bool = False

    def reached(self, value: float) -> str:
        """`goal`, `yes` or `no`."""
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.goal:
            return "goal"
        return "yes" if sign * value >= sign * self.must else "no"


TARGETS = (
    Target("ratio_decode_single", "Decode-v0 through make / CartPole-v1", "single", 0.6, 1.0),
    Target(
        "ratio_decode_batch",
        "4096 Decode-v0 of 16 requests, TLP 1 / CartPole's vector version",
        "batch",
        0.7,
        2.0,
    ),
    Target("ratio_decode_batch_tlp4", "the same at TLP 4, acceptance drawn", "batch", 0.4, 1.5),
    Target("ratio_kernels_batch", "Kernels-v0 likewise, TLP 1", "batch", 0.4, 1.0),
    Target("ratio_serving_batch", "1024 Serving-v0 of 64 concurrent / CartPole's", "batch", 0.05, 0.2),
    Target("ratio_threads", "two threads over one, 4096 Decode-v0", "threads", 1.6, 1.9),
    Target("ratio_ppo_same", "PPO, adapter / DummyVecEnv, same settings", "ppo", 2, 4),
    Target("ratio_ppo_target", "time to 1 % of the oracle, SB3 defaults / adapter tuned", "target", 5, 15),
    Target("share_env", "environments and adapter in PPO's time", "ppo", 0.15, 0.05, at_most=True),
)
# In this order; those that train come last, since they are long.
PARTS: Mapping[str, str] = {
    # First: threads that another part's libraries start while pinned would stay on that core.
    "threads": "one thread and two",
    "single": "every id through make",
    "batch": "batches of every id, and bytes of state",
    "adapter": "SB3's adapter alone",
    "sweeps": "over requests, TLP and environments",
    "grid": "seconds per grid point",
    "startup": "import and first step",
    "ppo": "PPO's steps per second",
    "target": "PPO's time to the oracle",
}
# A core that the process had for less of the time is one that others used too.
QUIET = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure steps per second beside CartPole, in the same run and on one pinned core.

    Prints the ratios that the project promises, and writes run.json, rows.csv, summary.json and throughput.png.
    Takes five to six minutes on a core of its own.
    """

    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART ...", help_behavior_hint="")] = ()
    """Parts to measure, of single, batch, adapter, threads, sweeps, grid, startup, ppo and target (default: all)."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Try every path in seconds, at sizes so small that the figures mean nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one line of JSON, with the ratios by name, instead of tables."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder (default: runs/throughput-TIME). One that holds results of the same command is measured again."""


def measure_part(found: Findings, name: str, quick: bool, say: Say) -> int | None:
    """Add what a part finds; returns the core that it was pinned to, None for none."""
    with nullcontext() if name == "threads" else pinned() as core:
        _part(name, quick)(found, QUICK if quick else Effort(), say)
    return core


def _part(name: str, quick: bool) -> Callable[[Findings, Effort, Say], None]:
    if name not in ("ppo", "target"):
        module = throughput_runs if name in ("grid", "startup") else throughput_parts
        measured: Callable[[Findings, Effort, Say], None] = getattr(module, name)
        return measured
    # Only these need torch.
    from experiments.speed import ppo as throughput_ppo

    training = throughput_ppo.QUICK_TRAINING if quick else throughput_ppo.Training()
    train = getattr(throughput_ppo, name)
    return lambda found, effort, say: train(found, training, say)


def summarise(found: Findings, names: Sequence[str], quick: bool, core: int | None) -> dict[str, Any]:
    """What summary.json holds: ratios by name with their targets, then rows and learning curves."""
    ratios = dict(found.ratios)
    for target in TARGETS:
        if target.name not in ratios:
            measured = target.part in names
            ratios[target.name] = Ratio(
                None, note="not found" if measured else f"part {target.part!r} not run"
            )
    known = {target.name: target for target in TARGETS}
    entries = {}
    for name in (*known, *(name for name in ratios if name not in known)):
        ratio = ratios[name]
        entries[name] = asdict(ratio)
        if name in known:
            target = known[name]
            reached = None if quick or ratio.value is None else target.reached(ratio.value)
            entries[name] |= {
                "what": target.what,
                "must": target.must,
                "goal": target.goal,
                "reached": reached,
            }
    shares = [row.cpu_share for row in found.rows if row.cpu_share is not None]
    return {
        "quick": quick,
        "parts": [name for name in PARTS if name in names],
        "core": core,
        "processor": processor(),
        "cpu_share": min(shares) if shares else None,
        "ratios": entries,
        "rows": [asdict(row) for row in found.rows],
        "curves": found.curves,
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def one_line(summary: Mapping[str, Any], folder: Path) -> str:
    """The line of `--json`: ratios by name, null where there is none, then their quartiles and notes."""
    entries = summary["ratios"]
    line = {name: entry["value"] for name, entry in entries.items()}
    line |= {
        "quartiles": {name: [entry["low"], entry["high"]] for name, entry in entries.items()},
        "at_least": [name for name, entry in entries.items() if entry["at_least"]],
        "reached": {target.name: entries[target.name]["reached"] for target in TARGETS},
        "notes": {name: entry["note"] for name, entry in entries.items() if entry["note"]},
        **{name: summary[name] for name in ("quick", "parts", "core", "processor", "cpu_share")},
        "folder": str(folder),
    }
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue()


def ratio_table(summary: Mapping[str, Any]) -> Table:
    """The named ratios beside what they must reach."""
    table = Table(title="Ratios, medians with quartiles", title_justify="left", box=None, pad_edge=False)
    table.add_column("ratio", no_wrap=True)
    table.add_column("what")
    for name in ("median", "quartiles", "must", "goal", "reached"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in summary["ratios"].items():
        value = "-" if entry["value"] is None else ">= " * entry["at_least"] + f"{entry['value']:.3g}"
        spread = "" if entry["low"] is None else f"{entry['low']:.3g}-{entry['high']:.3g}"
        must, goal = (f"{entry[key]:g}" if key in entry else "" for key in ("must", "goal"))
        table.add_row(name, entry.get("what", ""), value, spread, must, goal, entry.get("reached") or "")
    return table


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Everything that was measured."""
    table = Table(title="Measured", title_justify="left", box=None, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("what")
    for name in ("envs", "requests", "TLP", "median", "unit", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        what = ", ".join(text for text in (row["name"].removeprefix("papi_env/"), row["variant"]) if text)
        sizes = ["" if row[key] is None else str(row[key]) for key in ("envs", "requests", "tlp")]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        table.add_row(row["part"], what, *sizes, f"{row['value']:.4g}", row["unit"], ratio)
    return table


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Measure and write the run folder, whose path is returned.

    Args:
        config: what to measure.
        command: recorded in run.json.
        console: for the tables, or the line.
        progress: for everything else.

    Raises:
        ConfigurationError: a part that there is not, or a folder that cannot be used.
    """
    for name in config.only:
        lookup("part", name, PARTS)
    names = [name for name in PARTS if not config.only or name in config.only]
    configuration = {"parts": names, "quick": config.quick}
    folder = RunFolder.open(config.out, "throughput", configuration)
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    start = time.perf_counter()
    with folder.session(command, 1), progress.status("starting") as status:

        def say(text: str) -> None:
            status.update(text)
            if not progress.is_terminal:
                line = f"{time.perf_counter() - start:5.0f} s  {text}"
                progress.print(line, markup=False, highlight=False, soft_wrap=True)

        found, core = Findings(), None
        for name in names:
            used = measure_part(found, name, config.quick, say)
            core = core if used is None else used
            # What is there stays, should a later part be interrupted.
            folder.write("rows.csv", rows_csv(found.rows))
        summary = summarise(found, names, config.quick, core)
        # Only here, and nothing that is timed is slower for it.
        from experiments.speed.figure import throughput_figure

        folder.write(
            "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
        folder.write("throughput.png", throughput_figure(summary))
    if config.json:
        # Not the console's own: a line stays a line.
        console.file.write(one_line(summary, folder.path) + "\n")
    else:
        console.print(rows_table(summary["rows"]))
        console.print()
        console.print(ratio_table(summary))
        for name, entry in summary["ratios"].items():
            if entry["note"]:
                console.print(f"{name}: {entry['note']}", markup=False, highlight=False)
    if config.quick:
        progress.print("--quick: sizes are so small that the figures mean nothing", markup=False)
    elif summary["cpu_share"] is not None and summary["cpu_share"] < QUIET:
        busy = f"the core was shared: the process had it {summary['cpu_share']:.0%} of the time at worst"
        progress.print(
            f"{busy}; ratios hold better than rates", markup=False, highlight=False, soft_wrap=True
        )
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.throughput")
    command = f"python -m experiments.throughput {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
