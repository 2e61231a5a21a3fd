"""What is played: names, files and systems resolve to cells, or to an error that says what to change."""

import numpy as np
import pytest

from experiments.arena.entries import (
    PAPER_BATCH_SIZES,
    PAPER_SPECULATION,
    Entry,
    job_spec,
    plan,
    play,
    policy_digest,
    rehearse,
    resolve_scenarios,
    settings,
)
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import SCENARIOS
from papi_env.simulation.batch.engine import METRIC_NAMES
from papi_env.workload.requests import Lengths

DECODE = "papi_env/Decode-v0"
OWN = """
model = "opt-30b"
[system]
base = "papi"
{name}
mode_switch_s = 5e-6
[workload]
batch_size = 3
speculation = 2
speculation_schedule = [[4, 1]]
[workload.lengths]
input = 20
output = {output}
"""
USERS = """
import numpy as np

class Mine:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.full(len(observation), {action}), state
"""


@pytest.fixture
def own(tmp_path):
    def write(stem="mine", name='name = "papi-own"', output=6):
        path = tmp_path / f"{stem}.toml"
        path.write_text(OWN.format(name=name, output=output))
        return str(path)

    return write


def test_an_entry_is_a_system_and_a_policy():
    entry = Entry.parse("papi/some.module:Class")
    assert (entry.system, entry.policy, str(entry)) == ("papi", "some.module:Class", "papi/some.module:Class")
    assert entry.oracle == Entry("papi", "oracle")
    for text in ("papi", "/static", "papi/"):
        with pytest.raises(ConfigurationError, match="SYSTEM/POLICY"):
            Entry.parse(text)


def test_presets_take_the_papers_grid_and_files_keep_their_own(own):
    scenarios = resolve_scenarios(["general-qa/opt-30b", own()])
    grid = settings(scenarios, (), ())
    preset = [(s.workload.batch_size, s.workload.speculation) for s in grid if s.name == "general-qa/opt-30b"]
    assert preset == [(b, t) for b in PAPER_BATCH_SIZES for t in PAPER_SPECULATION]
    (mine,) = [s.workload for s in grid if s.name == "mine"]
    assert (mine.batch_size, mine.speculation, mine.speculation_schedule) == (3, 2, ((4, 1),))
    both = settings(scenarios, (2,), ())
    assert [s.workload.batch_size for s in both] == [2] * 4
    assert both[-1].workload.speculation_schedule == ((4, 1),)


def test_requests_replace_lengths_and_name_the_scenario_after_them(tmp_path, own):
    trace = tmp_path / "trace.csv"
    trace.write_text("category,lin,lout\nx,10,5\ny,20,4000\n")
    lengths = Lengths(trace=str(trace), categories=None)
    ((preset, _), (mine, _)) = resolve_scenarios(["general-qa/opt-30b", own()], lengths)
    assert (preset.name, mine.name) == ("trace/opt-30b", "trace/mine")
    assert preset.population().excluded == 1
    ((kept, _),) = resolve_scenarios(["general-qa/opt-30b"], lengths, beyond_context="truncate")
    assert kept.population().truncated == 1
    with pytest.raises(ConfigurationError, match="Two scenarios"):
        resolve_scenarios(["general-qa/opt-30b", "creative-writing/opt-30b"], lengths)
    trace.write_text("category,lin,lout\nx,ten,5\n")
    broken = Lengths(trace=str(trace), categories=("x",))
    with pytest.raises(DataError, match=r"trace\.csv:2: field 'lin'"):
        resolve_scenarios(["general-qa/opt-30b"], broken)


def test_a_name_means_the_scenarios_own_system_there_and_the_registered_one_elsewhere(own):
    entries = [Entry.parse(name) for name in ("papi/static", "papi-own/static", "a100/static")]
    scenarios = resolve_scenarios([own("one"), own("two", name=""), "general-qa/opt-30b"])
    grid = settings(scenarios, (2,), (1,))
    systems = {(str(c.entry), c.scenario.name): c.scenario.system for c in plan(entries, (), grid)}
    assert len(systems) == 9
    assert systems["papi/static", "two"].mode_switch_s == 5e-6
    assert systems["papi/static", "one"] == systems["papi/static", "general-qa/opt-30b"] == SYSTEMS["papi"]
    assert {systems["papi-own/static", name].mode_switch_s for name in ("one", "two")} == {5e-6}
    with pytest.raises(ConfigurationError, match="papi-own"):
        plan([Entry("papi-wn", "static")], (), grid)


def test_one_name_for_two_systems_is_refused(own, tmp_path):
    first, second = own("one"), own("two")
    (tmp_path / "two.toml").write_text(OWN.format(name='name = "papi-own"', output=6).replace("5e-6", "6e-6"))
    grid = settings(resolve_scenarios([first, second]), (), ())
    with pytest.raises(ConfigurationError, match="'papi-own' in different ways"):
        plan([Entry("papi-own", "static")], (), grid)


def test_readings_reach_every_system():
    grid = [SCENARIOS["general-qa/opt-30b"]]
    cells = plan([Entry("papi", "static"), Entry("a100", "static")], (), grid, "hbm3", "papi")
    assert [cell.scenario.system.pu.memory_bandwidth for cell in cells] == [3352e9] * 2
    assert cells[0].scenario.system.fc_pim.cadence_clocks == 2.0


def test_what_does_not_fit_is_planned_with_its_sizes():
    grid = settings([(SCENARIOS["general-qa/gpt3-175b"], False)], (1, 128), (1,))
    fits, refused = plan([Entry("a100", "static")], (), grid)
    assert fits.refusal == ""
    assert "GB" in refused.refusal
    assert "'a100'" in refused.refusal


def test_rehearsal_refuses_what_cannot_play(tmp_path, monkeypatch):
    for stem, action in (("users_inside", 1), ("users_outside", 7)):
        (tmp_path / f"{stem}.py").write_text(USERS.format(action=action))
    monkeypatch.syspath_prepend(tmp_path)
    grid = [SCENARIOS["general-qa/opt-30b"].replace(batch_size=2)]

    def rehearsed(name):
        rehearse(DECODE, plan([Entry.parse(name)], (), grid))

    rehearsed("a100/static")
    rehearsed("papi/users_inside:Mine")
    for name, message in (
        ("papi/thresold", "Did you mean 'threshold'"),
        ("a100/static-fc-pim", "Entry 'a100/static-fc-pim': System 'a100' cannot run"),
        ("papi/users_outside:Mine", "Entry 'papi/users_outside:Mine': .*outside Discrete"),
        ("papi/no_such_module:Mine", "cannot import"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            rehearsed(name)


def test_a_job_plays_every_seed_and_paired_seeds_do_not_depend_on_their_neighbours():
    scenario = SCENARIOS["general-qa/opt-30b"].replace(batch_size=2)
    columns = play(DECODE, scenario, "threshold", (3, 4, 5))
    assert list(columns) == ["seed", "alpha", *METRIC_NAMES]
    assert columns["seed"] == [3, 4, 5]
    alone = play(DECODE, scenario, "threshold", (4,))
    assert [values[1] for values in columns.values()] == [values[0] for values in alone.values()]
    assert np.isfinite([columns[name] for name in METRIC_NAMES]).all()


def test_a_jobs_inputs_include_the_content_of_files(tmp_path, monkeypatch):
    module = tmp_path / "users_digest.py"
    module.write_text(USERS.format(action=0))
    trace = tmp_path / "trace.csv"
    trace.write_text("category,lin,lout\nx,10,5\n")
    monkeypatch.syspath_prepend(tmp_path)
    scenario = SCENARIOS["general-qa/opt-30b"].replace(lengths=Lengths(trace=str(trace)))
    (cell,) = plan([Entry("papi", "users_digest:Mine")], (), [scenario])
    specs = [job_spec(DECODE, cell, (0,))]
    trace.write_text("category,lin,lout\nx,10,6\n")
    specs.append(job_spec(DECODE, cell, (0,)))
    module.write_text(USERS.format(action=1))
    specs.append(job_spec(DECODE, cell, (0,)))
    assert specs[0] != specs[1] != specs[2]
    assert policy_digest("threshold") is None
    assert policy_digest("no_such_module:Mine") is None
