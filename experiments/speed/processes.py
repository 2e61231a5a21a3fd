"""`experiments.throughput` in several new processes, one after the other, and the medians over them.

A process has its addresses and its pages for as long as it lives: what those make faster or slower no number of rounds
within it shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.runner import ROOT
from experiments.speed.measure import Spread
from experiments.speed.parts import Findings, Ratio, Row, Say
from papi_env.errors import DataError

_OF_ALL = ("value", "ratio", "decoding")
_SAME = ("part", "name", "variant", "envs", "requests", "tlp", "unit", "reference")


def measure_processes(
    options: Sequence[str], count: int, variables: Mapping[str, str], say: Say
) -> tuple[Findings, list[dict[str, Any]]]:
    """Run the command `count` times; returns what they found together, and the summary of each.

    Args:
        options: of the command, but where it writes to.
        count: processes.
        variables: of their environment, beside this process's own.

    Raises:
        DataError: one of them failed.
    """
    summaries: list[dict[str, Any]] = []
    for k in range(count):
        say(f"process {k + 1} of {count}")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [sys.executable, "-m", "experiments.throughput", *options, "--json", "--out", str(out)]
            done = subprocess.run(command, env=environment(variables), capture_output=True, text=True)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                raise DataError(f"process {k + 1} of {count} ended with {done.returncode}, and said: {last}")
            summaries.append(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    return combined(summaries), summaries


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's variables and others, with the project where Python looks for modules."""
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)} | dict(variables)


def combined(summaries: Sequence[Mapping[str, Any]]) -> Findings:
    """Medians and quartiles over processes of their medians; rows that not all have are left out."""
    found = Findings(curves=dict(summaries[0]["curves"]))
    for name, first in summaries[0]["ratios"].items():
        values = [each["ratios"][name]["value"] for each in summaries if name in each["ratios"]]
        if None in values or len(values) < len(summaries):
            found.ratios[name] = Ratio(None, note=first["note"])
            continue
        spread = np.ptp(values) / np.median(values)
        note = f"{first['note'] + '; ' if first['note'] else ''}{len(values)} processes, {spread:.0%} apart"
        at_least = any(each["ratios"][name]["at_least"] for each in summaries)
        found.ratios[name] = replace(Ratio.of(np.array(values), note), at_least=at_least)
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for summary in summaries:
        for row in summary["rows"]:
            alike.setdefault(tuple(row[name] for name in _SAME), []).append(row)
    found.rows += [_median(rows) for rows in alike.values() if len(rows) == len(summaries)]
    return found


def _median(rows: Sequence[Mapping[str, Any]]) -> Row:
    """A row of medians; of the processor's share the least."""
    values = {field.name: rows[0][field.name] for field in fields(Row)}
    for name in _OF_ALL:
        if all(row[name] is not None for row in rows):
            spread = Spread.of(np.array([row[name] for row in rows]))
            values[name] = spread.value
            if name != "decoding":
                prefix = "" if name == "value" else "ratio_"
                values[f"{prefix}low"], values[f"{prefix}high"] = spread.low, spread.high
    shares = [row["cpu_share"] for row in rows if row["cpu_share"] is not None]
    values["cpu_share"] = min(shares) if shares else None
    return Row(**values)
