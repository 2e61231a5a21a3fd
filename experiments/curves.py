"""Draw learning curves of training runs: `python -m experiments.curves RUN_FOLDER ... --help`.

Reads what `experiments.train` wrote: run.json and evaluations.csv. Runs of one algorithm, or with one LABEL, are a
group: thin lines for the runs, a thick one for their interquartile mean, a band around it. Horizontal lines are what
policies that were not trained earn on the very validation instances, which are played here. All runs must have been
validated on the same instances.

Written to the run folder: run.json, curves.csv (a row for every validation of every run), summary.json, curves.png. The
same command with `--out` draws anew with what has come since, and plays nothing twice. `curves_figure` is the picture
alone, for other programs.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
import polars as pl
import tyro
from rich.console import Console

from agents.registry import make_policy
from experiments.arena.entries import BOUND, CHOSEN, policy_digest
from experiments.arena.measures import schema
from experiments.arena.play import attempt as play
from experiments.arena.settings import trace_digest
from experiments.common.command import exit_status, output
from experiments.common.runner import Columns, Job, RunFolder, file_digest, run_jobs, source_digest
from experiments.common.statistics import regret_percent
from experiments.distilling.collect import make_envs
from experiments.splitting.definition import SERVING, VALIDATION_SEED
from experiments.training.curves_data import EVALUATIONS, Groups, Validation, XAxis, YAxis, plain, read_groups
from experiments.training.curves_report import Band, curve_frame, draw, print_report, summarize
from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import FloatArray

ORACLE = "oracle"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Draw learning curves of training runs.

    python -m experiments.curves runs/ppo-0 runs/ppo-1 wide=runs/wide-0 --references threshold heuristic
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="FOLDER|LABEL=FOLDER ...", help_behavior_hint=""),
    ] = ()
    """Training runs; those with one label, else one algorithm, are a group."""
    x: XAxis = "steps"
    """Environment steps, or seconds of training with its validations."""
    y: YAxis = "return"
    """Validation return, or regret against the oracle where the problem has one."""
    band: Band = "bootstrap"
    """What is shaded around a group of several runs: the 95 % bootstrap interval of their interquartile mean, or from
    the lowest to the highest run."""
    y_limits: Annotated[
        tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH", help_behavior_hint="")
    ] = None
    """Ends of the y axis in the picture (default: everything is shown)."""
    references: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("threshold",)
    """Policies to play on the validation instances; in Serving-v0 also bound, best-threshold and best-fixed."""
    jobs: Annotated[int, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = 0
    """Processes; 0 uses all cores."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder (default: runs/curves-TIME)."""


def check_references(names: Sequence[str], validation: Validation) -> dict[str, str]:
    """How each reference is called in the picture, its marks included: * where it is privileged, † where chosen.

    Raises:
        ConfigurationError: an unknown policy, or one that cannot play the validation's settings.
    """
    labels = {}
    for name in dict.fromkeys(names):
        if name == BOUND or name in CHOSEN:
            if validation.env_id != SERVING:
                raise ConfigurationError(f"Reference {name!r} plays {SERVING} alone, not {validation.env_id}")
            labels[name] = name + ("*" if name == BOUND else "†")
            continue
        policy = make_policy(name)
        bind = getattr(policy, "bind", None)
        if bind is not None:
            try:
                bind(make_envs(validation.env_id, validation.settings[:1], 1)[0])
            except ConfigurationError as error:
                raise ConfigurationError(f"Reference {name!r}: {error}") from error
        labels[name] = name + "*" * policy.privileged
    return labels


def plan(names: Sequence[str], validation: Validation, y: YAxis) -> dict[str, list[Job]]:
    """The jobs of every reference, one for each setting; regret needs the oracle's besides. None without a name.

    Raises:
        DataError: a trace is not there, or not what it was when the runs were trained.
    """
    if not names:
        return {}
    for setting in validation.settings:
        found = trace_digest(setting)
        if found is not None and found not in validation.traces:
            raise DataError(
                f"{setting.name}: its trace is another file than the runs were validated on, expected the same content"
            )
    seeds = tuple(range(VALIDATION_SEED, VALIDATION_SEED + validation.episodes))
    return {
        name: [
            Job(
                f"{name} · {setting.name}",
                {
                    "problem": validation.env_id,
                    "scenario": setting.model_dump(mode="json"),
                    "trace": trace_digest(setting),
                    "policy": name,
                    "policy_source": policy_digest(name),
                    "seeds": list(seeds),
                },
                play,
                (validation.env_id, setting, name, seeds),
            )
            for setting in validation.settings
        ]
        for name in dict.fromkeys((*names, *((ORACLE,) if y == "regret" else ())))
    }


def _values(labels: Mapping[str, str], played: Mapping[str, Sequence[Columns]], y: YAxis) -> dict[str, float]:
    """What is drawn for each reference, by its label: a mean over settings, as validations are."""
    means: dict[str, FloatArray] = {}
    for name, settings in played.items():
        failed = [note for columns in settings for note in columns["note"] if note]
        if failed:
            raise ConfigurationError(
                f"Reference {name!r}: cannot play the validation's instances: {failed[0]}"
            )
        means[name] = np.array([np.mean(np.asarray(c["return"], dtype=np.float64)) for c in settings])
    if y == "return":
        return {label: float(np.mean(means[name])) for name, label in labels.items()}
    return {label: float(regret_percent(means[name], means[ORACLE]).mean()) for name, label in labels.items()}


def reference_values(
    runs: Sequence[str | Path], names: Sequence[str] = ("threshold",), y: YAxis = "return"
) -> dict[str, float]:
    """Play policies on the runs' validation instances: what `curves_figure` takes as references.

    Args:
        runs, y: as for `curves_figure`.
        names: of policies, or bound, best-threshold, best-fixed for Serving-v0.

    Returns:
        Mean return, or mean regret in percent, by name with its marks.

    Raises:
        ConfigurationError, DataError: see `read_groups`, `check_references` and `plan`.
    """
    _, validation = read_groups(runs, y)
    labels = check_references(names, validation)
    jobs = plan(tuple(labels), validation, y)
    return _values(
        labels, {name: [job.function(*job.arguments) for job in own] for name, own in jobs.items()}, y
    )


def curves_figure(
    runs: Sequence[str | Path],
    references: Mapping[str, float] | None = None,
    *,
    x: XAxis = "steps",
    y: YAxis = "return",
    band: Band = "bootstrap",
    y_limits: tuple[float, float] | None = None,
) -> bytes:
    """Learning curves of training runs as PNG.

    Args:
        runs: folders of `experiments.train`, or LABEL=FOLDER; a Path is a folder whatever it is called.
        references: values of horizontal lines by label, in the unit of the y axis (regret in percent), such as from
            `reference_values`; a label that ends with * is explained as privileged.
        x: environment steps, or wall-clock seconds of training.
        y: validation return, or regret in percent.
        band: around the interquartile mean of several runs.
        y_limits: ends of the y axis in its unit, the lower one first; None shows everything.

    Raises:
        ConfigurationError, DataError: see `read_groups`; or limits that are none.
    """
    _check_limits(y_limits, y)
    groups, validation = read_groups(runs, y)
    return draw(summarize(groups, validation, references or {}, x, y, band), y_limits)


def _check_limits(limits: tuple[float, float] | None, y: YAxis) -> None:
    if limits is None:
        return
    low, high = limits
    if not -math.inf < low < high < math.inf or (y == "regret" and high <= 0):
        above = ", the upper one above 0" if y == "regret" else ""
        raise ConfigurationError(
            f"--y-limits are {low:g} {high:g}, expected the lower and the upper end{above}"
        )


def describe(config: Config, groups: Groups, validation: Validation, names: Sequence[str]) -> dict[str, Any]:
    """What was asked as plain data; validations that come later are drawn in the same run folder."""
    return {
        "groups": {label: [str(curve.folder) for curve in curves] for label, curves in groups.items()},
        "validation": plain(validation),
        "x": config.x,
        "y": config.y,
        "band": config.band,
        "references": list(names),
        "policy_sources": {n: policy_digest(n) for n in names if ":" in n or "/" in n},
    }


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play the references, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    _check_limits(config.y_limits, config.y)
    with progress.status("reading runs"):
        groups, validation = read_groups(config.runs, config.y)
        labels = check_references(config.references, validation)
        jobs = plan(tuple(labels), validation, config.y)
    cores = config.jobs or joblib.cpu_count()
    folder = RunFolder.open(config.out, "curves", describe(config, groups, validation, tuple(labels)))
    progress.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
    with folder.session(command, cores) as session:
        session["evaluations"] = {
            str(curve.folder): file_digest(curve.folder / EVALUATIONS)
            for curves in groups.values()
            for curve in curves
        }
        try:
            reused = run_jobs(folder, [job for own in jobs.values() for job in own], cores, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False, soft_wrap=True)
            raise
        session["jobs"], session["jobs_reused"] = sum(map(len, jobs.values())), reused
        played = {name: [_stored(folder, job) for job in own] for name, own in jobs.items()}
        references = _values(labels, played, config.y)
        summary = summarize(groups, validation, references, config.x, config.y, config.band)
        folder.write("curves.csv", curve_frame(groups).write_csv())
        folder.write(
            "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
        folder.write("curves.png", draw(summary, config.y_limits))
    print_report(console, summary, _code_notes(groups) if references else ())
    return folder.path


def _stored(folder: RunFolder, job: Job) -> Columns:
    return pl.read_csv(folder.job_path(job), schema_overrides=schema(str(job.spec["problem"]))).to_dict(
        as_series=False
    )


def _code_notes(groups: Groups) -> list[str]:
    """Whether runs were validated with other code than references are played with, which may move either."""
    curves = [curve for own in groups.values() for curve in own]
    other = sum(curve.sources != {source_digest()} for curve in curves)
    if not other:
        return []
    return [
        f"{other} of {len(curves)} runs were validated with other source code than the references are played with"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.curves")
    command = f"python -m experiments.curves {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
