"""Tuning rules of Serving-v0: on what, what is stored, that a search goes on, and what is refused."""

import json

import optuna
import polars as pl
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from agents.serving.combined import CombinedParameters
from agents.serving.greedy import ProfileGreedy
from agents.serving.tuned import as_table, parameters_from
from experiments import tune_heuristic
from experiments.arena.contestants import as_rule
from experiments.arena.entries import Entry
from experiments.common.pools import OwnProcess
from experiments.common.problems import problem_of
from experiments.splitting.definition import SEED_RANGES, SERVING
from experiments.splitting.splits import load_split
from experiments.tune import main
from experiments.tuning import families as tuned_families
from experiments.tuning import journal, search
from experiments.tuning.families import training_families
from experiments.tuning.guesses import GUESSES, RULES, spent_before, starting_points, usable_entries
from experiments.tuning.options import Config, resolve
from experiments.tuning.play import Played, play
from experiments.tuning.search import FINAL_OFFSET, Budget, Order
from papi_env.errors import ConfigurationError, DataError

SMALL = (
    "profile-greedy",
    "--families", "tight-objectives",
    "--seeds", "1",
    "--final-seeds", "1",
    "--horizon-s", "1",
    "--jobs", "1",
)  # fmt: skip
GUESSED = len(GUESSES["profile-greedy"])


def tune(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A file of parameters of one's own, so that nothing here touches what is stored."""
    monkeypatch.setattr(ProfileGreedy, "file", tmp_path / "greedy.json")
    return ProfileGreedy.file


@pytest.fixture
def played(monkeypatch):
    """Counts the sets that play, by the first of their seeds."""
    found = []
    real = search.play

    def counted(rule, sets, scenarios, seeds, pool):
        found.extend((seeds[0], [scenario.name for scenario in scenarios], dict(one)) for one in sets)
        return real(rule, sets, scenarios, seeds, pool)

    monkeypatch.setattr(search, "play", counted)
    return found


def found_in(out):
    return json.loads((out / "profile-greedy" / "parameters.json").read_text())


def test_a_search_keeps_its_budget_and_goes_on(tmp_path, played):
    first_seed = SEED_RANGES["train"].start
    options = ("--trials", str(GUESSED + 2), "--family-trials", "2")
    assert tune(tmp_path, *options) == 0
    first = found_in(tmp_path)
    assert set(first) == {"default", "tight-objectives"}
    searched = [one for seed, _, one in played if seed == first_seed]
    # The guesses come first, and the family begins with what all settings have tried.
    assert searched[:GUESSED] == list(starting_points("profile-greedy", {}).values())
    assert len(searched) == GUESSED + 4
    assert first["default"]["trials"] == GUESSED + 2
    assert (first["tight-objectives"]["trials"], first["tight-objectives"]["shared_trials"]) == (
        2,
        GUESSED + 2,
    )
    assert tune(tmp_path, "--trials", str(GUESSED + 2), "--family-trials", "3") == 0
    found = found_in(tmp_path)
    assert found["default"]["parameters"] == first["default"]["parameters"]
    assert found["default"]["simulated_requests"] == first["default"]["simulated_requests"]
    assert len([one for seed, _, one in played if seed == first_seed]) == GUESSED + 5
    entry = found["tight-objectives"]
    assert entry["trials"] == 3
    assert entry["simulated_requests"] > 0
    assert entry["score"] >= entry["best_guess"]["score"]
    assert entry["training_seeds"] == [first_seed, first_seed]
    final_seed = first_seed + FINAL_OFFSET
    assert entry["final_seeds"] == [final_seed, final_seed]
    parameters_from("found", entry["parameters"], ProfileGreedy.kind)
    assert "experiments.tune profile-greedy --families tight-objectives --trials" in entry["command"]
    assert str(tmp_path) not in json.dumps(found)
    # What a report shows: both sessions, and every set that was tried.
    record = json.loads((tmp_path / "profile-greedy/run.json").read_text())
    assert record["configuration"] == {"rule": "profile-greedy", "env": "papi_env/Serving-v0"}
    assert [session["status"] for session in record["sessions"]] == ["finished", "finished"]
    tried = pl.read_csv(tmp_path / "profile-greedy/trials.csv")
    assert dict(tried.group_by("search").len().iter_rows()) == {"default": GUESSED + 2, "tight-objectives": 3}
    assert set(tried.columns) == {"search", "score", *entry["parameters"]}


def test_the_best_on_other_seeds_is_stored_not_the_luckiest(tmp_path, monkeypatch):
    first_seed = SEED_RANGES["train"].start
    lucky, steady = 3.9, 1.9

    def play(rule, sets, scenarios, seeds, pool):
        def worth(one):
            if seeds[0] == first_seed:
                return 2.0 if one["prompt_worth"] > 3 else one["prompt_worth"] / 2
            return -abs(one["prompt_worth"] - steady)

        return [
            Played(one, {s.name: worth(one) for s in scenarios}, {s.name: 1 for s in scenarios})
            for one in sets
        ]

    monkeypatch.setattr(search, "play", play)
    guesses = {"lucky": {"prompt_worth": lucky}, "steady": {"prompt_worth": steady}}
    base = as_table(GUESSES["profile-greedy"]["guess"])
    monkeypatch.setattr(
        tuned_families, "starting_points", lambda *_: {name: base | table for name, table in guesses.items()}
    )
    assert tune(tmp_path, "--trials", "2", "--family-trials", "0") == 0
    assert found_in(tmp_path)["default"]["parameters"]["prompt_worth"] == steady
    assert found_in(tmp_path)["default"]["best_guess"]["name"] == "steady"


def test_it_plays_training_settings_alone(tmp_path, played):
    split = load_split(SERVING, "train")
    families = training_families(resolve(Config(), OwnProcess()))
    names = [scenario.name for scenarios in families.values() for scenario in scenarios]
    assert sorted(names) == sorted(setting.scenario.name for setting in split.settings)
    assert not {"long-context", "short-context"} & set(families)
    assert not any("llama2-70b" in name for name in names)
    assert tune(tmp_path, "--trials", "1", "--family-trials", "0") == 0
    assert {name for _, scenarios, _ in played for name in scenarios} <= set(names)
    last = FINAL_OFFSET + Config.final_seeds - 1
    assert split.seeds.start + last in SEED_RANGES["train"]


@pytest.mark.parametrize("policy", RULES)
def test_guesses_are_within_their_ranges(policy):
    ranges = RULES[policy].ranges
    for name, table in starting_points(policy, {}).items():
        assert set(table) == set(ranges)
        assert all(ranges[key].within(value) == value for key, value in table.items()), name
        # They are what they are called: nothing was cut off.
        guess = as_table(GUESSES[policy][name])
        numbers = [key for key, value in guess.items() if not isinstance(value, str)]
        assert [table[key] for key in numbers] == pytest.approx([guess[key] for key in numbers], rel=1e-3)
        assert {key: table[key] for key in guess if key not in numbers} == {
            key: guess[key] for key in guess if key not in numbers
        }


def test_stored_sets_start_a_search_only_if_they_met_training_settings_alone(file):
    training = [setting.scenario.name for setting in load_split(SERVING, "train").settings]
    entry = {"parameters": {"prompt_worth": 3.0}}
    file.write_text(
        json.dumps(
            {
                "light": entry | {"scenarios": {"light/llama-65b": "x"}},
                "bursty": entry | {"scenarios": {"bursty/llama-65b": "x", "bursty/llama2-70b": "x"}},
                "saturated": entry,
            }
        )
    )
    found = starting_points("profile-greedy", usable_entries("profile-greedy", training))
    assert set(found) - set(GUESSES["profile-greedy"]) == {"stored light"}
    assert found["stored light"]["prompt_worth"] == 3.0


def test_the_budget_of_a_stored_set_that_starts_a_search_counts(tmp_path, file):
    assert spent_before(None) == {"earlier_trials": 0, "earlier_requests": 0}
    assert tune(tmp_path / "one", "--trials", "1", "--no-default", "--write") == 0
    first = json.loads(file.read_text())["tight-objectives"]
    assert (first["earlier_trials"], first["earlier_requests"]) == (0, 0)
    assert tune(tmp_path / "two", "--trials", "1", "--no-default", "--write") == 0
    entry = json.loads(file.read_text())["tight-objectives"]
    assert (entry["earlier_trials"], entry["earlier_requests"]) == (
        first["trials"],
        first["simulated_requests"],
    )
    assert "stored tight-objectives" in entry["guesses"]
    assert spent_before(entry)["earlier_trials"] == first["trials"] + entry["trials"]


def test_a_search_of_something_else_is_refused(tmp_path, capsys):
    few = ("--trials", "1", "--family-trials", "0")
    assert tune(tmp_path, *few) == 0
    assert tune(tmp_path, *few, "--seed", "7") == 2
    assert "holds a search with other search_seed" in capsys.readouterr().err
    assert tune(tmp_path, "--trials", "0") == 2
    assert "trials is 0, expected 1 to 524288" in capsys.readouterr().err
    assert main(["profil-greedy"]) == 2
    assert "Did you mean 'profile-greedy'" in capsys.readouterr().err
    assert tune(tmp_path, *few, "--families", "long-context") == 2
    assert (
        "Unknown family of the train split of papi_env/Serving-v0 'long-context'" in capsys.readouterr().err
    )


def test_the_earlier_name_still_works(tmp_path, capsys):
    old = ["--policy", *SMALL, "--trials", "1", "--no-default"]
    assert tune_heuristic.main([*old, "--out", str(tmp_path / "old")]) == 0
    assert tune(tmp_path / "new", "--trials", "1", "--no-default") == 0
    assert found_in(tmp_path / "old") == found_in(tmp_path / "new")
    capsys.readouterr()
    # Without a rule it is the heuristic's, and traces are called so.
    assert tune_heuristic.main(["--traces", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def searching(rule, folder, worth, monkeypatch, **budget):
    """A search over one setting whose instances have 100 requests each, and how many requests it has simulated."""
    spent = []

    def play(_, sets, scenarios, seeds, pool):
        spent.append(100 * len(sets) * len(scenarios) * len(seeds))
        arrived = {s.name: 100 * len(seeds) for s in scenarios}
        return [Played(one, {s.name: worth(one) for s in scenarios}, arrived) for one in sets]

    monkeypatch.setattr(search, "play", play)
    split = load_split(SERVING, "train")
    folder.mkdir(exist_ok=True)
    given = Budget(**{"trials": 1, "family_trials": 0, "seeds": 2, "final_seeds": 4} | budget)
    order = Order(rule, given, split, folder, "a test")
    guesses = starting_points(rule, {})
    return search.Search("default", [split.settings[0].scenario], guesses, order), spent


def test_options_are_searched_as_numbers_are(tmp_path, monkeypatch):
    def worth(one):
        return {"least-work": 1.0, "weight-per-work": 0.5}.get(one["order"], 0.0)

    found, _ = searching("tuned", tmp_path, worth, monkeypatch)
    found.run(len(GUESSES["tuned"]) + search.BATCH)
    best = found.best()["parameters"]
    # It is in no guess.
    assert best["order"] == "least-work"
    parameters_from("found", best, RULES["tuned"].kind)
    # The journal has words for words.
    again, _ = searching("tuned", tmp_path, worth, monkeypatch)
    assert [one.parameters for one in again.played()] == [one.parameters for one in found.played()]


def test_rules_with_more_parameters_have_the_same_budget_of_requests(tmp_path, monkeypatch):
    budget = 14_000
    for rule in ("profile-greedy", "tuned", "slack-aware"):
        found, spent = searching(rule, tmp_path / rule, lambda _: 0.0, monkeypatch, requests=budget)
        found.run(1)
        entry = found.best()
        assert entry["simulated_requests"] == sum(spent)
        assert entry["budget_requests"] == budget
        # Fewer sets may be compared in the end than there is room for.
        assert budget - 6 * 400 - 200 < sum(spent) <= budget
        assert entry["trials"] == (budget - 400 * (len(GUESSES[rule]) + search.FINALISTS)) // 200
    found, _ = searching("tuned", tmp_path / "few", lambda _: 0.0, monkeypatch, requests=5_000)
    least = 200 * len(GUESSES["tuned"]) + 400 * (len(GUESSES["tuned"]) + search.FINALISTS)
    with pytest.raises(ConfigurationError, match=f"5000 for each search; expected at least {least}"):
        found.run(1)


def test_on_serving_v1_no_rule_has_fewer_requests_for_those_that_never_come():
    base = load_split(SERVING, "train").settings[0].scenario
    talk = {"conversation": {"turns": 3, "think_s": 0.5}, "objectives": {"ttft_s": 0.3, "tpot_s": 0.05}}
    service = {"classes": {"talk": talk}}
    scenario = base.replace(
        serving={"service": service, "horizon_s": 4.0, "requests": None, "max_running": 4}
    )
    assert problem_of(scenario) == "papi_env/Serving-v1"
    assert problem_of(base) == SERVING
    sets = [as_table(CombinedParameters.of(parts)) for parts in ((), ("late", "keep"))]
    plain, late = play(RULES["tuned"], sets, [scenario], [1, 2], OwnProcess())
    assert plain.arrived == late.arrived
    assert plain.returns != late.returns
    assert -1 < plain.score < late.score <= 1


def test_rules_of_serving_v1_are_tuned_there_alone(tmp_path, capsys):
    assert main(["tuned", "--env", "papi_env/Serving-v0", "--out", str(tmp_path)]) == 2
    assert "tuned plays papi_env/Serving-v1 alone" in capsys.readouterr().err
    assert main(["heuristic", "--env", "papi_env/Serving-v2", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'papi_env/Serving-v" in capsys.readouterr().err
    assert tune(tmp_path, "--requests", "0") == 2
    assert "requests is 0, expected at least 1" in capsys.readouterr().err
    assert ProfileGreedy.file_of(False) == ProfileGreedy.file
    assert ProfileGreedy.file_of(True).name == "greedy-v1.json"


def test_a_rule_begins_on_serving_v1_with_what_was_tuned_for_serving_v0(file):
    file.write_text(json.dumps({"default": {"parameters": {"urgent": 0.3}}, "light": {"parameters": {}}}))
    assert {name: one.urgent for name, one in ProfileGreedy.stored(True).items()} == {"default": 0.3}
    own = ProfileGreedy.file_of(True)
    own.write_text(json.dumps({"overload": {"parameters": {"urgent": 0.1}}}))
    found = {name: one.urgent for name, one in ProfileGreedy.stored(True).items()}
    assert found == {"default": 0.3, "overload": 0.1}
    own.write_text(json.dumps({"default": {"parameters": {"urgent": 0.2}}}))
    assert {name: one.urgent for name, one in ProfileGreedy.stored(True).items()} == {"default": 0.2}
    assert set(ProfileGreedy.stored(False)) == {"default", "light"}


def test_parameters_are_stored_beside_those_of_other_families(tmp_path, file):
    file.write_text(json.dumps({"light": {"parameters": {"urgent": 0.3}}}))
    assert tune(tmp_path / "run", "--trials", "1", "--no-default", "--write") == 0
    stored = json.loads(file.read_text())
    assert set(stored) == {"light", "tight-objectives"}
    assert stored["light"]["parameters"]["urgent"] == pytest.approx(0.3)


def test_a_rule_that_met_what_a_split_holds_out_is_marked(file):
    split = load_split(SERVING, "test")

    def entry(**replaced):
        train = SEED_RANGES["train"].start
        return {
            "parameters": {},
            "trials": 7,
            "simulated_requests": 3_000_000,
            "scenarios": {"light/llama-65b": "x"},
            "training_seeds": [train, train + 1],
            "final_seeds": [train + 2, train + 3],
        } | replaced

    def contender(**replaced):
        file.write_text(json.dumps({"default": entry(**replaced)}))
        return as_rule(Entry.of("profile-greedy"), split)

    assert not contender().met_test
    assert contender().tuning == "7 trials, 3 M requests"
    assert contender(scenarios={"light/llama2-70b": "x"}).met_test
    assert contender(scenarios={"long-context/llama-65b": "x"}).met_test
    assert contender(final_seeds=[split.seeds.start, split.seeds.start]).met_test


@pytest.mark.parametrize("policy", [name for name, rule in RULES.items() if rule.plays_v0])
def test_what_is_stored_met_nothing_that_is_held_out_and_had_its_budget(policy, monkeypatch):
    monkeypatch.undo()  # the files that policies read
    for split in ("validation", "test"):
        assert not as_rule(Entry.of(policy), load_split(SERVING, split)).met_test
    stored = json.loads(RULES[policy].file.read_text())
    assert {"default", "saturated", "bursty", "drifting"} <= set(stored)
    assert not {"long-context", "short-context"} & set(stored)
    # As many as a training run simulates.
    assert stored["default"]["simulated_requests"] > 2_000_000


def test_a_torn_last_line_of_a_journal_costs_that_entry_alone(tmp_path):
    path = tmp_path / "default.journal"
    journal.mend_journal(path)  # nothing is there yet
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="default", storage=storage, direction="maximize")
    for value in (1.0, 2.0):
        study.add_trial(optuna.trial.create_trial(value=value))
    whole = path.read_bytes()
    for torn in (b'{"op_code":', b"\0" * 10, b"7"):
        path.write_bytes(whole + torn)
        journal.mend_journal(path)
        assert path.read_bytes() == whole
        again = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            study_name="default", storage=again, direction="maximize", load_if_exists=True
        )
        assert [trial.value for trial in study.trials] == [1.0, 2.0]
    for damaged in (b"{]", b"[1]", b"\xff"):
        path.write_bytes(damaged + b"\n" + whole)
        with pytest.raises(DataError, match=r"default\.journal:1: .*expected an entry of Optuna's journal"):
            journal.mend_journal(path)


def test_a_journal_of_something_else_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "default.journal"
    path.write_text('{"op_code": 99}\n')
    with pytest.raises(DataError, match=r"default\.journal: not a journal of this search"):
        journal.open_study(path, "default")


@pytest.mark.parametrize("lost", [1, 40, 200])
def test_a_search_that_was_killed_within_a_batch_goes_on_as_if_it_had_not(tmp_path, monkeypatch, lost):
    def worth(one):
        return -abs(one["prompt_worth"] - 1.9)

    trials = GUESSED + 3 * search.BATCH
    whole, _ = searching("profile-greedy", tmp_path / "whole", worth, monkeypatch)
    whole.run(trials)
    torn, _ = searching("profile-greedy", tmp_path / "torn", worth, monkeypatch)
    torn.run(GUESSED + 2 * search.BATCH)
    path = tmp_path / "torn" / "default.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-lost]) + lines[-lost][:10])
    again, _ = searching("profile-greedy", tmp_path / "torn", worth, monkeypatch)
    again.run(trials)
    assert [one.parameters for one in again.played()] == [one.parameters for one in whole.played()]
