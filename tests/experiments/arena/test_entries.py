"""What is played: names, files and systems resolve to cells, or to an error that says what to change."""

import numpy as np
import pytest

from experiments.arena.comparison import Readings, plan
from experiments.arena.entries import Entry, parse, parse_all, policy_digest
from experiments.arena.play import job_of, play, rehearse
from experiments.arena.settings import PAPER_BATCH_SIZES, PAPER_SPECULATION, grid, resolve_scenarios
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
    entry = parse("papi/some.module:Class")
    assert (entry.system, entry.policy, str(entry)) == ("papi", "some.module:Class", "papi/some.module:Class")
    assert entry.oracle == Entry.of("oracle", "papi")
    for text in ("papi", "papi/", "", "mine="):
        with pytest.raises(ConfigurationError, match="SYSTEM/POLICY"):
            parse(text)


def test_an_entry_may_have_a_label_and_no_system(tmp_path):
    entry = parse("mine=papi/threshold")
    assert (entry.label, entry.system, entry.policy) == ("mine", "papi", "threshold")
    assert parse("threshold").system is None
    assert parse("threshold", home="papi") == parse("papi/threshold")
    folder = tmp_path / "a=b"
    folder.mkdir()
    # A path may have the sign in it, and what begins with no system may be a folder.
    assert (parse(str(folder)).system, parse(str(folder)).policy) == (None, str(folder))
    assert parse(f"papi/{folder}").policy == str(folder)
    planner = f"planner-star@{folder}"
    assert (parse(planner).system, parse(planner).policy) == (None, planner)
    with pytest.raises(ConfigurationError, match=r"^runs/none: found no such folder"):
        parse("planner-star@runs/none")
    with pytest.raises(ConfigurationError, match=r"Unknown system 'pap'\. Did you mean 'papi'"):
        parse("pap/threshold")
    with pytest.raises(ConfigurationError, match=r"runs/none: found no such folder"):
        parse("runs/none")


def test_default_stands_for_the_default_entries_wherever_it_is():
    default = ("random", "threshold")
    found = parse_all(("oracle", "default", "threshold"), default)
    assert [entry.label for entry in found] == ["oracle", "random", "threshold"]
    with pytest.raises(ConfigurationError, match="No entries"):
        parse_all((), default)
    with pytest.raises(ConfigurationError, match="Two entries are called 'x'"):
        parse_all(("x=oracle", "x=random"), default)


def test_presets_take_the_papers_grid_and_files_keep_their_own(own):
    scenarios = resolve_scenarios(["general-qa/opt-30b", own()])
    settings = grid(scenarios, (), ())
    preset = [
        (s.workload.batch_size, s.workload.speculation) for s in settings if s.name == "general-qa/opt-30b"
    ]
    assert preset == [(b, t) for b in PAPER_BATCH_SIZES for t in PAPER_SPECULATION]
    (mine,) = [s.workload for s in settings if s.name == "mine"]
    assert (mine.batch_size, mine.speculation, mine.speculation_schedule) == (3, 2, ((4, 1),))
    both = grid(scenarios, (2,), ())
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
    entries = [Entry.of("static", system) for system in ("papi", "papi-own", "a100")]
    scenarios = resolve_scenarios([own("one"), own("two", name=""), "general-qa/opt-30b"])
    settings = grid(scenarios, (2,), (1,))
    systems = {(str(c.entry), c.scenario.name): c.scenario.system for c in plan(entries, (), settings)}
    assert len(systems) == 9
    assert systems["papi/static", "two"].mode_switch_s == 5e-6
    assert systems["papi/static", "one"] == systems["papi/static", "general-qa/opt-30b"] == SYSTEMS["papi"]
    assert {systems["papi-own/static", name].mode_switch_s for name in ("one", "two")} == {5e-6}
    with pytest.raises(ConfigurationError, match="papi-own"):
        plan([Entry.of("static", "papi-wn")], (), settings)


def test_one_name_for_two_systems_is_refused(own, tmp_path):
    first, second = own("one"), own("two")
    (tmp_path / "two.toml").write_text(OWN.format(name='name = "papi-own"', output=6).replace("5e-6", "6e-6"))
    settings = grid(resolve_scenarios([first, second]), (), ())
    with pytest.raises(ConfigurationError, match="'papi-own' in different ways"):
        plan([Entry.of("static", "papi-own")], (), settings)


def test_readings_reach_every_system():
    settings = [SCENARIOS["general-qa/opt-30b"]]
    cells = plan(
        [Entry.of("static", "papi"), Entry.of("static", "a100")],
        (),
        settings,
        readings=Readings("hbm3", "papi"),
    )
    assert [cell.scenario.system.pu.memory_bandwidth for cell in cells] == [3352e9] * 2
    assert cells[0].scenario.system.fc_pim.cadence_clocks == 2.0


def test_what_does_not_fit_is_planned_with_its_sizes():
    settings = grid([(SCENARIOS["general-qa/gpt3-175b"], False)], (1, 128), (1,))
    fits, refused = plan([Entry.of("static", "a100")], (), settings)
    assert fits.refusal == ""
    assert "GB" in refused.refusal
    assert "'a100'" in refused.refusal


def test_rehearsal_refuses_what_cannot_play(tmp_path, monkeypatch):
    for stem, action in (("users_inside", 1), ("users_outside", 7)):
        (tmp_path / f"{stem}.py").write_text(USERS.format(action=action))
    monkeypatch.syspath_prepend(tmp_path)
    settings = [SCENARIOS["general-qa/opt-30b"].replace(batch_size=2)]

    def rehearsed(name):
        rehearse(DECODE, plan([parse(name)], (), settings))

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
    assert list(columns) == ["seed", "played", "alpha", *METRIC_NAMES, "note"]
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
    (cell,) = plan([Entry.of("users_digest:Mine", "papi")], (), [scenario])
    specs = [job_of(DECODE, cell, play).spec]
    trace.write_text("category,lin,lout\nx,10,6\n")
    specs.append(job_of(DECODE, cell, play).spec)
    module.write_text(USERS.format(action=1))
    specs.append(job_of(DECODE, cell, play).spec)
    assert specs[0] != specs[1] != specs[2]
    assert policy_digest("threshold") is None
    assert policy_digest("no_such_module:Mine") is None
