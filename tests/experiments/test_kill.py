"""The harness that kills commands: it kills them, lets them go on, and tells results that are not the same."""

import json

import pytest

from experiments import kill
from experiments.killing import trials, victims
from experiments.killing.processes import PROC, descendants
from experiments.killing.trials import Case, Trials
from experiments.killing.victims import Victim, left_behind, results_of
from papi_env.errors import ConfigurationError
from tests.experiments.commands import called

pytestmark = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="needs /proc")

# Counts to eight, a line at a time; goes on where it was, or, where it is careless, from what it had last seen.
COUNTER = """
import sys, time
from pathlib import Path

out, careless = Path(sys.argv[1]), sys.argv[2] == "careless"
out.mkdir(exist_ok=True)
(out / "run.json").touch()
log = out / "log"
done = len(log.read_text().splitlines()) if log.exists() else 0
if careless and done:
    done -= 1
for number in range(done, 8):
    with log.open("a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.1)
(out / "results.csv").write_text("wall_s,lines\\n" + f"{time.time()},{len(log.read_text().splitlines())}\\n")
"""


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """Makes the victim `train` count, carefully or not."""

    def counting(how):
        script = tmp_path / "counter.py"
        script.write_text(COUNTER)
        monkeypatch.setattr(
            trials, "command", lambda name, inputs, out, options: [str(script), str(out), how]
        )
        victim = Victim("", ("results.csv",), parallel=False)
        for module in (trials, victims):
            monkeypatch.setattr(module, "VICTIMS", {"train": victim})

    return counting


@pytest.mark.slow
@pytest.mark.parametrize("how", ["careful", "careless"])
def test_runs_that_were_killed_are_compared_with_one_in_peace(tmp_path, counter, how):
    counter(how)
    said, before = [], set(descendants(trials.os.getpid()))
    tally = Trials(tmp_path, 1).torn(Case("train", "local", "all"), 2, said.append)
    assert tally.kills == 2
    assert tally.sessions == tally.kills + tally.runs
    assert len(said) == tally.runs
    # Times are not compared.
    assert bool(tally.wrong) == (how == "careless")
    assert all("results.csv: differs" in line for line in tally.wrong)
    assert set(descendants(trials.os.getpid())) <= before


def test_a_run_that_ends_sooner_than_the_one_in_peace_says_when_to_kill(tmp_path, counter):
    counter("careful")
    case, made = Case("train", "local", "all"), Trials(tmp_path, 1)
    peace = made.peace(case)
    made._peace["train", "local"] = peace.in_seconds(1e6)
    tally = made.torn(case, 1, lambda line: None)
    assert (tally.kills, tally.wrong) == (1, [])
    assert 2 <= tally.runs < 20
    assert made.peace(case).ended_s < 1000


def test_the_command_kills_and_keeps_what_it_found(tmp_path, counter):
    counter("careful")
    status, out, err = called(kill.main, "--only", "train", "--kills", 1, "--out", tmp_path / "run")
    assert status == 0, err
    assert "1 kills: all results the same" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["kills"], summary["wrong"], len(summary["cases"])) == (1, 0, 1)
    assert not (tmp_path / "run" / "runs").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--kills", "0"], "--kills is 0"), (["--only", "trian"], "train"), (["--backends", "rai"], "ray")],
)
def test_what_cannot_be_killed_is_refused(options, said):
    status, _, err = called(kill.main, *options)
    assert status == 2
    assert said in err


def test_every_victim_takes_its_options(tmp_path):
    for name, victim in victims.VICTIMS.items():
        options = Case(name, "local", "all").options
        words = victims.command(name, tmp_path, tmp_path / "new", options)
        assert words[:2] == ["-m", f"experiments.{victim.command or name}"]
        assert ("--jobs" in words) == victim.parallel
        begun = tmp_path / name
        (begun / victim.mark).parent.mkdir(parents=True)
        (begun / victim.mark).touch()
        again = victims.command(name, tmp_path, begun, options)
        assert ("--jobs" in again) == victim.parallel
        assert (victim.resume is None) or again[2:4] == [victim.resume, str(begun)]


def test_files_that_are_left_behind_are_found(tmp_path):
    (tmp_path / "jobs").mkdir()
    for name in ("jobs/1.csv", ".run.json.x.part", "results.csv"):
        (tmp_path / name).touch()
    assert sorted(left_behind(tmp_path)) == [".run.json.x.part", "jobs/1.csv"]
    assert list(results_of("compare", tmp_path)) == ["results.csv"]


def test_refused_where_nothing_can_be_found(monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.killing.processes.PROC", tmp_path)
    with pytest.raises(ConfigurationError, match="not there"):
        kill.check_system()


def test_agents_of_a_ray_node_run_no_jobs(tmp_path, monkeypatch):
    import experiments.killing.processes as module

    names = {
        11: "ray::PoolActor.run_batch",
        12: "ray::IDLE",
        13: "ray::RuntimeEnvAgent",
        14: "ray::DashboardAgent",
    }
    for pid, name in names.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(name.encode() + b"\0")
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(module, "descendants", lambda root: list(names))
    assert module.workers_of(1) == [11]


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("job 3: the process that ran it died 3 times (killed, ...); everything else is kept", True),
        ("the Ray cluster broke down: no node is left; what was done is kept", True),
        ("a/b.csv: cannot be written: No space left on device", False),
    ],
)
def test_a_command_that_gave_up_is_told_from_one_that_failed(tmp_path, said, lost):
    (tmp_path / "run.log").write_text(f"run folder x\nerror: {said}\nRay: another line\n")
    assert trials._lost(tmp_path / "run") == lost
