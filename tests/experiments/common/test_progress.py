"""What commands show while they work: lines in a log, a view on a terminal, and what is best so far."""

import io
import re
import sys
import time
from dataclasses import dataclass

import polars as pl
import pytest
from rich.console import Console

from experiments import compare
from experiments.arena.entries import Entry
from experiments.arena.play import Cell, job_of, play
from experiments.common import progress
from experiments.common.command import command_line
from experiments.common.progress import JobsView, Progressing, Score, Standing
from experiments.splitting.definition import Setting
from papi_env.scenario import get_scenario
from tests.experiments.commands import called


class Terminal(Progressing):
    """A terminal of text."""

    def __init__(self, watch):
        super().__init__(watch)
        self._file, self._force_terminal, self._color_system = io.StringIO(), True, None
        self.is_interactive = True


def scores():
    yield Score("a", "[b]one[/]", 1.0, "return 1")
    yield Score("b", "two", 5.0, "return 5")
    yield Score("c", "two", -1.0, "return -1")


def test_best_is_who_leads_in_most_settings_whatever_the_values():
    standing = Standing()
    standing.take(scores())
    standing.take([Score("a", "two", 0.5, ""), Score("c", "one", -1.0, "")])  # less, and no more
    first, *others = standing.lines()
    assert first == "two (best in 2 of 3 settings)"
    assert others == [f"{name} (best in 1 of 3 settings)" for name in ("[b]one[/]", "one")]


def test_best_on_one_setting_is_the_highest_value():
    standing = Standing()
    standing.take([Score("", f"design {k}", float(k % 7), f"{k % 7}") for k in range(7)])
    assert standing.lines()[:2] == ["design 6 (6)", "design 5 (5)"]
    assert len(standing.lines()) == 5


def test_those_that_are_equally_good_share_the_lead():
    standing = Standing()
    standing.take([Score(where, "one", -2.0, "2 s") for where in "abc"])
    standing.take([Score(where, "two", -2.0 + (where == "c"), "2 s") for where in "abc"])
    assert standing.lines() == ["two (best in 3 of 3 settings)", "one (best in 2 of 3 settings)"]


def test_what_is_watched_of_static_batches_compares_machines():
    seconds = {}
    for system in ("a100-attacc", "attacc-only"):
        scenario = get_scenario("creative-writing/llama-65b").replace(system=system)
        cell = Cell(Entry.of("static", system), Setting(scenario.name, scenario), (0,))
        job = job_of("papi_env/Decode-v0", cell, play)
        (score,) = job.scores(pl.DataFrame(job.function(*job.arguments)).write_csv().encode())
        seconds[system] = -score.value
        assert score.shown.endswith(" s")
    # Returns, which are relative to a machine's own costs, would say the opposite.
    assert seconds["a100-attacc"] < seconds["attacc-only"]


@pytest.mark.parametrize("watch", [False, True])
def test_a_log_gets_a_line_for_every_tenth(watch, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with JobsView(Progressing(watch), 40, 10, lambda: list(scores())) as view:
        for _ in range(30):
            view.ended("job")
    lines = sys.stderr.getvalue().splitlines()
    assert [line.split(" jobs")[0] for line in lines] == [f"{k} of 40" for k in range(12, 41, 4)]
    assert all(("best so far: two (best in 2 of 3 settings)" in line) == watch for line in lines)
    assert all(("/s, " in line and " s left" in line) == watch for line in lines)


@pytest.mark.parametrize("watch", [False, True])
def test_a_terminal_shows_the_rate_and_the_best_where_asked(watch, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    console = Terminal(watch)
    with JobsView(console, 2, 0, lambda: list(scores())) as view:
        view.ended("the first job")
        view.ended("the last job")
        view._bars.refresh()
    text = console.file.getvalue()
    assert "the last job" in text
    assert "2/2" in text
    assert ("two (best in 2 of 3 settings)" in text) == watch
    assert ("[b]one[/] (best in 1" in text) == watch
    assert ("/s" in text) == watch


def test_parts_of_a_run_share_what_is_best(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Progressing(watch=True)
    for part in range(2):
        with JobsView(console, 1, 0, lambda part=part: [Score("", f"part {part}", -float(part), "")]) as view:
            view.ended("job")
    assert "part 0" in sys.stderr.getvalue().splitlines()[1]


def test_a_log_says_what_takes_long_and_nothing_of_what_does_not(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Progressing()
    with console.status("quick"):
        pass
    monkeypatch.setattr(progress, "SILENT_S", 0.02)
    monkeypatch.setattr(progress, "AGAIN_S", 0.02)
    with console.status("slow [work]") as status:
        time.sleep(0.1)
        status.update("other work")
        time.sleep(0.1)
    lines = sys.stderr.getvalue().splitlines()
    assert lines[0].startswith("slow [work]: 0 s so far")
    assert lines[-1].startswith("other work: ")
    assert not any("quick" in line for line in lines)
    count = len(lines)
    time.sleep(0.1)
    assert len(sys.stderr.getvalue().splitlines()) == count


def test_any_console_will_do(monkeypatch):
    with JobsView(Console(file=io.StringIO()), 1, 0) as view:
        view.ended("job")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a command."""

    size: int = 1


def test_watching_changes_neither_options_nor_the_recorded_command():
    seen = []

    def run(config, command, console, shown):
        seen.append((config, command, shown.watch))

    for arguments in (["--watch", "--size", "2"], ["--size", "2"]):
        assert command_line("demo", Options, run, arguments, watched=True) == 0
    command = "python -m experiments.demo --size 2"
    assert seen == [(Options(size=2), command, True), (Options(size=2), command, False)]


def test_a_comparison_shows_what_is_best_so_far(tmp_path):
    options = (
        "--scenarios",
        "creative-writing/llama-65b",
        "--batch-sizes",
        4,
        "--speculation",
        1,
        "--seeds",
        2,
    )
    entries = ("--entries", "static-pu", "static-fc-pim", "oracle", "--jobs", 1)
    status, _, err = called(compare.main, *options, *entries, "--watch", "--out", tmp_path / "run")
    assert status == 0, err
    last = next(line for line in reversed(err.splitlines()) if " jobs" in line)
    # The oracle is better, and is what no machine could run.
    assert re.search(r"best so far: papi/static-fc-pim \(\d+\.\d+ s\)$", last)
    assert "--watch" not in (tmp_path / "run" / "run.json").read_text()
