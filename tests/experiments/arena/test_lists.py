"""Policies are listed once: what the registry says shows in every command that it applies to, in one order."""

import pytest

from agents import registry
from agents.registry import (
    BATCH_VIEWS,
    POLICIES,
    SERVING_POLICIES,
    SERVING_VIEWS,
    Registered,
    is_slow,
    listed,
)
from experiments.arena.entries import BASELINES, default_entries, default_policies
from experiments.headroom import Config, Headroom
from experiments.leaderboard import Config as RankConfig
from experiments.leaderboard import Contest
from experiments.splitting.definition import SERVING
from papi_env.hardware.system import SYSTEMS

# What tables showed before the registry said so.
LISTS = {
    "compare images": "static-pu static-fc-pim random threshold threshold-intensity adaptive learned oracle",
    "compare serving": "threshold threshold-spec2 threshold-prefill-spec2 adaptive-spec2 heuristic profile-greedy "
    "learned random oracle",
    "headroom": "threshold best-threshold threshold-prefill-spec2 best-fixed heuristic profile-greedy oracle",
    "leaderboard decode": "random static-pu static-fc-pim threshold-initial threshold adaptive oracle optimum",
    "leaderboard kernels": "random static-pu static-fc-pim threshold-initial threshold threshold-intensity adaptive "
    "oracle",
    "leaderboard serving": "random best-fixed threshold best-threshold threshold-prefill-spec2 adaptive-spec2 "
    "heuristic profile-greedy oracle",
    "serve": "threshold heuristic",
}


@pytest.mark.parametrize("view", LISTS)
def test_a_view_lists_what_it_always_did(view):
    assert default_policies(view) == LISTS[view].split()


def test_papi_is_compared_beside_machines_without_a_choice():
    names = default_entries("compare decode", {"papi": SYSTEMS["papi"]})
    assert names == [
        *BASELINES,
        *(f"papi/{policy}" for policy in listed("compare decode")),
    ]


def test_a_policy_that_is_registered_shows_in_every_view(monkeypatch):
    added = {**SERVING_POLICIES, "mine": Registered(SERVING_POLICIES["heuristic"].make, SERVING_VIEWS)}
    monkeypatch.setattr(registry, "SERVING_POLICIES", added)
    assert all("mine" in default_policies(view) for view in SERVING_VIEWS)
    assert not any("mine" in default_policies(view) for view in BATCH_VIEWS)
    assert "papi/mine" in default_entries("compare serving", {"papi": SYSTEMS["papi"]})
    headroom = Headroom(Config(scenarios=("light/llama-65b",), seeds=1))
    assert "mine" in {entry.label for entry in headroom.entries}
    contest = Contest(RankConfig(env=SERVING, seeds=1))
    assert "mine" in {entry.label for entry in contest.entries}


def test_views_are_known_and_slow_policies_are_never_listed():
    views = {view for entry in (*POLICIES.values(), *SERVING_POLICIES.values()) for view in entry.views}
    assert views == {*BATCH_VIEWS, *SERVING_VIEWS, "serve"}
    slow = {name for name, entry in SERVING_POLICIES.items() if entry.slow}
    assert slow == {"search", "clairvoyant", "portfolio"}
    assert all(is_slow(name) and not SERVING_POLICIES[name].views for name in slow)


@pytest.mark.parametrize("view", ["compare images", "compare experts"])
def test_a_machine_without_a_choice_of_units_has_one_static_mapping(view):
    assert default_entries(view, {"a100-attacc": SYSTEMS["a100-attacc"]}) == ["a100-attacc/static"]
    assert len(default_entries(view, {"papi": SYSTEMS["papi"]})) > 5
