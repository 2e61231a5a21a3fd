"""The best of a stated set of rules of Serving-v1: what is tried, and that what is found plays as it is called."""

import numpy as np
import pytest

from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.choices import CHOICE_NAMES
from agents.serving.greedy import ProfileGreedy
from agents.serving.slack import SlackAware
from experiments.arena import choosing
from experiments.arena.choosing import picked
from experiments.common.problems import problem_of
from experiments.tuning.combinations import Combination, Search, fixed_actions, greedies, played, thresholds
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def scenario(classes_file):
    return get_scenario(classes_file)


@pytest.fixture(scope="module")
def search(scenario):
    return Search(scenario, thresholds(), SEEDS)


def test_a_combination_plays_what_its_name_says(scenario):
    choices = [0] * len(CHOICE_NAMES)
    choices[0], choices[1] = at.BY_DEADLINE, at.SHED_LATE
    combination = Combination("threshold-spec2", tuple(choices))
    assert combination.label == "threshold-spec2+deadline+late"
    assert problem_of(scenario) == SERVING_V1
    (found,) = played(scenario, [combination], thresholds(), SEEDS)
    env = ServingV1VectorEnv(scenario, num_envs=len(SEEDS), autoreset_mode="Disabled")
    metrics = evaluate(make_policy(combination.label), env, SEEDS)
    for name in ("g", "return", "time_s", "iterations", "dropped"):
        np.testing.assert_array_equal(found[name], metrics[name])


def test_neighbours_differ_in_one_respect_or_in_order_and_shedding(search):
    best = Combination("threshold")
    found = search.neighbours(best)
    assert len(set(found)) == len(found)
    assert best not in found
    for one in found:
        changed = [k for k, choice in enumerate(one.choices) if choice]
        assert (one.rule != best.rule) + len(changed) == 1 or (one.rule == best.rule and changed == [0, 1])
    # Three other speculation lengths; each option but the first; pairs of order and shedding.
    useful = [int(options.sum()) for options in search.useful]
    assert len(found) == 3 + sum(n - 1 for n in useful) + (useful[0] - 1) * (useful[1] - 1)


def test_a_search_is_not_worse_than_what_it_starts_from_and_counts_what_it_tries(search):
    found = search.run(rounds=1)
    assert found.value == max(search.values.values())
    assert found.tried == len(search.values)
    assert found.requests > found.tried
    (again,) = played(search.scenario, [found.best], search.rules, SEEDS)
    assert again["return"].mean() == found.value


def test_parts_replace_what_was_found(scenario):
    name, _ = picked("best-threshold", scenario, SEEDS)
    less, policy = picked("best-threshold+arrival", scenario, SEEDS)
    assert policy.privileged is False
    assert set(less.split("+")) == set(name.split("+")) - {
        "deadline",
        "shortest-prompt",
        "least-work",
        "weight-per-work",
    }


def test_what_means_nothing_in_a_scenario_is_not_tried(scenario):
    alone = scenario.replace(serving={"service": {"classes": {"all": {}}}, "kv_tokens": None})
    search = Search(alone, thresholds(), SEEDS)
    tried = [one.choices for one in search.neighbours(Combination("threshold"))]
    for choice in ("keeping", "eviction", "drafted_for"):
        assert not any(choices[CHOICE_NAMES.index(choice)] for choices in tried)


def test_a_machine_without_a_unit_leaves_out_rules_that_need_it(scenario):
    search = Search(scenario.replace(system="a100"), fixed_actions(), SEEDS)
    assert search.rules
    assert all(name.startswith("fixed-pu-") and name.endswith("-off") for name in search.rules)


def test_profile_greedy_comes_with_the_guesses_of_its_tuning():
    assert "profile-greedy" in greedies(stored=True)
    assert "profile-greedy" not in greedies(stored=False)
    assert {"profile-greedy (guess)", "profile-greedy (prompts-first)"} < set(greedies(stored=False))


def test_planners_look_for_something_better_than_the_best_rule(scenario, monkeypatch):
    only = {"profile-greedy": ProfileGreedy}
    monkeypatch.setattr(choosing, "GROUPS", {"best-greedy": lambda: only})
    name, planner = picked("planner-star-1x1", scenario, SEEDS)
    best = choosing.best_of("best-greedy", scenario, SEEDS).best
    assert name == f"planner-star-1x1 from {best.label}"
    assert isinstance(planner.base, ProfileGreedy)
    env = ServingV1VectorEnv(scenario, num_envs=1, autoreset_mode="Disabled")
    planner.bind(env)
    assert planner.base.service(1).tolist() == [list(best.choices)]


def test_planners_start_from_the_best_on_seeds_that_no_rule_was_found_on(scenario, monkeypatch):
    only = {"profile-greedy": ProfileGreedy}
    monkeypatch.setattr(choosing, "GROUPS", {"best-greedy": lambda: only})
    asked = []

    def returns(policy, env, seeds):
        asked.append(tuple(seeds))
        return {"return": np.full(len(seeds), 2.0 if isinstance(policy, SlackAware) else 1.0)}

    monkeypatch.setattr(choosing, "evaluate", returns)
    label, rule = choosing.base_of(scenario, SEEDS)
    assert label == "slack-aware"
    assert isinstance(rule, SlackAware)
    assert len(asked) == 3
    assert set(asked) == {tuple(range(5, 21))}
