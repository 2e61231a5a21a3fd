"""Which sections a run has, by the command that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.reporting.content import Part, Section, checked
from experiments.reporting.folder import Run
from experiments.reporting.sections import (
    compare,
    curves,
    distill,
    fuzz,
    headroom,
    kill,
    leaderboard,
    presets,
    reparameterize,
    reproduce,
    scaling,
    serve,
    sweep,
    throughput,
    train,
    tune,
    validate,
)
from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.workload.traces.parquet import PANIC

SECTIONS: Mapping[str, Callable[[Run], Sequence[Part]]] = {
    "compare": compare.parts,
    "curves": curves.parts,
    "distill": distill.parts,
    "fuzz": fuzz.parts,
    "headroom": headroom.parts,
    "kill": kill.parts,
    "leaderboard": leaderboard.parts,
    "presets": presets.parts,
    "reparameterize": reparameterize.parts,
    "reproduce": reproduce.parts,
    "scaling": scaling.parts,
    "serve": serve.parts,
    "sweep": sweep.parts,
    "throughput": throughput.parts,
    "train": train.parts,
    "tune": tune.parts,
    "validate": validate.parts,
}


def sections_of(paths: Sequence[Path]) -> list[Section]:
    """A section for each run folder, in their order; several trainings are shown together first.

    Raises:
        ConfigurationError: no run folder, or one of a command that has no section.
        DataError: what a folder holds is damaged, or not what its command writes.
    """
    runs = [Run.open(path) for path in paths]
    sections = [_section(run) for run in runs]
    trainings = [run for run in runs if run.experiment == "train"]
    if len(trainings) > 1:
        with _as_written(", ".join(str(run.path) for run in trainings), "train"):
            parts = checked(train.together(trainings))
        sections.insert(0, Section("Trainings together", f"{len(trainings)} training runs.", parts))
    return sections


def section_of(path: Path) -> Section:
    """The section of one run folder; errors as `sections_of`."""
    return _section(Run.open(path))


def _section(run: Run) -> Section:
    if run.experiment not in SECTIONS:
        raise ConfigurationError(f"{run.path}: {unknown_name('command', run.experiment, SECTIONS)}")
    with _as_written(str(run.path), run.experiment):
        parts = checked(SECTIONS[run.experiment](run))
        facts = facts_of(run)
    last = run.sessions[-1] if run.sessions else {}
    about = f"experiments.{run.experiment}, {last.get('status', 'not begun')}; run folder {run.path}"
    images = sorted(run.path.glob("*.png"))
    return Section(f"{run.experiment}: {run.path.name or run.path}", about, parts, facts, images)


@contextmanager
def _as_written(where: str, experiment: str) -> Iterator[None]:
    """Say of whatever fails inside that files are not as a command writes them.

    Raises:
        ConfigurationError, DataError: those of inside.
        DataError: anything else failed.
    """
    try:
        yield
    except (ConfigurationError, DataError):
        raise
    except (Exception, PANIC) as error:  # a file of another shape fails in as many ways as there are look-ups
        found = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{where}: its files are not as experiments.{experiment} of this version writes them ({found}); "
            "repeat its command in another folder"
        ) from None


def facts_of(run: Run) -> list[tuple[str, str]]:
    """Where a run comes from, as its run.json says it: commands, code, versions, seeds, machine."""
    facts = []
    for session in run.sessions:
        facts += [
            ("command", str(session.get("command", "not recorded"))),
            (
                "started",
                f"{session.get('started')}, {session.get('status')} after {session.get('wall_s', '–')} s",
            ),
        ]
    last: Mapping[str, Any] = run.sessions[-1] if run.sessions else {}
    source, machine = last.get("source", {}), last.get("machine", {})
    changed = {True: ", with changes that are not committed", False: "", None: ""}[source.get("modified")]
    seeds = run.configuration.get("seeds", run.configuration.get("asked", {}).get("seed"))
    shown = f"{seeds['count']} from {seeds['first']} on" if isinstance(seeds, Mapping) else seeds
    versions = ", ".join(f"{name} {found}" for name, found in last.get("versions", {}).items())
    known = [machine.get("processor"), f"{machine.get('cpus')} CPUs", machine.get("platform")]
    return [
        *facts,
        ("seeds", str(run.configuration.get("seed", "") if shown is None else shown)),
        ("commit", f"{source.get('commit') or 'outside a checkout'}{changed}"),
        ("source", f"SHA-256 {source.get('digest')}"),
        ("versions", versions),
        ("machine", ", ".join(str(one) for one in known if one)),
        ("instruction set", " ".join(machine.get("instructions", ["not recorded"]))),
        ("cores used", str(last.get("cores"))),
    ]
