"""Rules for mixtures of experts."""

import numpy as np
import pytest

from agents.batch.rules import calibrate_alpha
from agents.registry import listed, make_policy
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.hardware.units import FC_PIM, PU
from papi_env.simulation.batch import state as at

ARGUMENTS = {"scenario": "mixture-of-experts-zipf", "batch_size": 64, "speculation": 4}


def bound(name, make=KernelsVectorEnv, **changes):
    env = make(num_envs=2, autoreset_mode="Disabled", **(ARGUMENTS | changes))
    policy = make_policy(name)
    policy.bind(env)
    return policy, env


def first_action(name, **changes):
    policy, env = bound(name, **changes)
    observations, _ = env.reset(seed=0)
    return policy.predict(observations)[0][0], env


def seconds_of(name, **changes):
    policy, env = bound(name, **changes)
    observations, _ = env.reset(seed=0)
    state, start = None, np.ones(2, dtype=bool)
    while (env.engine.counters[:, at.DONE] == 0).any():
        actions, state = policy.predict(observations, state, start)
        assert env.action_masks().reshape(2, 8, 3)[:, at.EXPERTS][[0, 1], actions[:, at.EXPERTS]].all()
        start = np.zeros(2, dtype=bool)
        observations, *_ = env.step(actions)
    return env.metrics()["time_s"]


def test_the_two_rules_differ_where_n_is_large_and_tokens_per_expert_are_few():
    by_n, env = first_action("threshold")
    by_tokens, _ = first_action("threshold-experts")
    profile = env.profile.experts
    n, tokens = 256, profile.tokens_per_active[256]
    assert profile.others_alpha < n < env.alpha
    assert tokens < profile.alpha
    # One threshold keeps all kernels on FC-PIM, since most of the time is the experts'; with two, the others go.
    assert by_n.tolist() == [FC_PIM, 2, FC_PIM, FC_PIM, FC_PIM, FC_PIM, FC_PIM, FC_PIM]
    assert by_tokens[[at.QKV, at.PROJECTION, at.EXPERTS]].tolist() == [PU, PU, FC_PIM]
    more, _ = first_action("threshold-experts", batch_size=64, speculation=8)
    assert more[at.EXPERTS] == PU


def test_a_split_pays_from_its_own_threshold_on():
    chosen, env = first_action("threshold-split")
    assert chosen[at.EXPERTS] == at.SPLIT
    assert first_action("threshold-split", batch_size=2)[0][at.EXPERTS] == FC_PIM
    profile = env.profile.experts
    assert 1 < profile.split_alpha < profile.alpha
    # Dearer switches are worth it later.
    dear = first_action("threshold-split", switch_s=1e-4)[1].profile.experts
    assert dear.split_alpha > profile.split_alpha


def test_static_mappings_and_the_order_of_policies():
    assert (first_action("static-pu")[0][[0, 2, 3, 7]] == PU).all()
    split = first_action("static-split")[0]
    assert (split[[0, 2, 3]] == FC_PIM).all()
    assert split[at.EXPERTS] == at.SPLIT
    times = {name: seconds_of(name) for name in ("static-pu", "threshold", "threshold-split", "oracle")}
    for worse, better in (
        ("static-pu", "threshold"),
        ("threshold", "threshold-split"),
        ("threshold-split", "oracle"),
    ):
        assert (times[better] < times[worse]).all()


def test_random_and_adaptive_choose_among_what_there_is():
    for name in ("random", "adaptive"):
        assert (seconds_of(name, batch_size=4) > 0).all()


@pytest.mark.parametrize(
    ("name", "same"),
    [("threshold-experts", "threshold"), ("threshold-split", "threshold"), ("static-split", "static-fc-pim")],
)
@pytest.mark.parametrize(
    ("make", "changes"), [(KernelsVectorEnv, {"scenario": "general-qa/opt-30b"}), (DecodeVectorEnv, {})]
)
def test_where_no_experts_choose_they_are_the_rules_they_come_from(name, same, make, changes):
    policies = [bound(policy, make, **changes) for policy in (name, same)]
    found = [policy.predict(env.reset(seed=0)[0])[0] for policy, env in policies]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["threshold-split", "static-split"])
def test_a_split_needs_two_units(name):
    with pytest.raises(ConfigurationError, match="'a100' cannot split experts between two units: it has one"):
        bound(name, system="a100")


def test_listed_for_experts_alone():
    assert {"static-split", "threshold-experts", "threshold-split"} < set(listed("compare experts"))
    for view in ("compare decode", "compare images", "leaderboard kernels"):
        assert not {"static-split", "threshold-experts", "threshold-split"} & set(listed(view))


def test_alpha_of_a_model_counts_its_experts():
    env = KernelsVectorEnv(scenario="mixture-of-experts", num_envs=1)
    assert calibrate_alpha(env.scenario.system, env.scenario.model) == env.alpha
    assert env.alpha > env.profile.experts.others_alpha
