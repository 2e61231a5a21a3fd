"""The clairvoyant portfolio: what it promises it keeps, and it is never behind the rule that it is made of."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.serving import portfolio as serving_portfolio
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.portfolio import ServingPortfolio, candidates
from agents.serving.tuned import Estimates
from agents.serving.view import ServingView
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError

SEEDS = (3, 4)


def make_env(num_envs=2):
    """Conversations that come in bursts, more than the machine keeps up with."""
    return ServingVectorEnv(
        {
            "name": "test",
            "system": "papi",
            "model": "llama-65b",
            "serving": {
                "arrivals": {"process": "gamma", "rate_per_s": 8.0, "shape": 0.1},
                "lengths": {"table": "azure-conversation"},
                "objectives": {"ttft_s": 1.0, "tpot_s": 0.03},
                "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
                "horizon_s": 10.0,
                "max_running": 64,
            },
        },
        num_envs=num_envs,
        autoreset_mode=AutoresetMode.DISABLED,
    )


def test_the_tuned_parameters_are_the_first_of_many_different_ones():
    tuned = GreedyParameters(prompt_worth=0.7, pace=2.0, admit_slack=3.0)
    found = candidates(tuned)
    assert found[0] == tuned
    assert len(found) == len(set(found)) == 16
    assert {c.urgent for c in found} == {tuned.urgent}


@pytest.mark.parametrize("iterations", [15, 10_000])
def test_it_is_never_behind_the_rule_it_is_made_of(iterations):
    rule = evaluate(ProfileGreedy(), make_env(), SEEDS)["return"]
    found = evaluate(ServingPortfolio(iterations), make_env(), SEEDS)["return"]
    assert (found >= rule - 1e-9).all()
    assert (found > rule + 1e-6).any()


def test_no_look_lowers_what_was_promised():
    """Earned so far and still expected, at each look: it never falls, and is in the end what was earned."""
    promises: list[float] = []
    earned = 0.0

    class Noted(ServingPortfolio):
        def returns(self, *arguments):
            found = super().returns(*arguments)
            promises.append(earned + found.max())
            return found

    env = make_env(1)
    policy = Noted(15)
    policy.bind(env)
    observations, _ = env.reset(seed=[SEEDS[0]])
    state, start, done = None, np.ones(1, dtype=bool), False
    while not done:
        actions, state = policy.predict(observations, state, start)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        earned += float(rewards[0])
        start[:] = False
        done = bool(terminated[0] | truncated[0])
    assert len(promises) > 5
    assert (np.diff(promises) > -1e-9).all()
    np.testing.assert_allclose(promises[-1], earned, rtol=1e-9)


def test_with_one_candidate_it_is_that_rule(monkeypatch):
    monkeypatch.setattr(serving_portfolio, "candidates", lambda tuned: (tuned,))
    rule = evaluate(ProfileGreedy(), make_env(), SEEDS)
    found = evaluate(ServingPortfolio(9), make_env(), SEEDS)
    for metric in ("return", "time_s", "tokens", "total_j"):
        np.testing.assert_array_equal(found[metric], rule[metric])


def test_the_return_it_expects_of_the_tuned_parameters_is_the_one_they_get():
    """From the middle of an episode, with what the rule has inferred by then; the environment is left as it is."""
    env = make_env()
    portfolio, rule = ServingPortfolio(), ProfileGreedy()
    portfolio.bind(env)
    rule.bind(env)
    observations, _ = env.reset(seed=list(SEEDS))
    estimates, start = None, np.ones(len(SEEDS), dtype=bool)
    for _ in range(50):
        actions, estimates = rule.predict(observations, estimates, start)
        observations, *_ = env.step(actions)
        start[:] = False
    before = [array.copy() for array in env.engine.state]
    expected = [portfolio.returns(env.engine, e, estimates, False)[0] for e in range(len(SEEDS))]
    for array, then in zip(env.engine.state, before, strict=True):
        np.testing.assert_array_equal(array, then)
    gained, done = np.zeros(len(SEEDS)), np.zeros(len(SEEDS), dtype=bool)
    while not done.all():
        actions, estimates = rule.predict(observations, estimates, start)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        gained += np.where(done, 0.0, rewards)
        done |= terminated | truncated
    np.testing.assert_allclose(expected, gained, rtol=1e-12)


def test_estimates_of_copies_are_those_of_the_environment():
    env = make_env()
    rule = ProfileGreedy()
    rule.bind(env)
    observations, _ = env.reset(seed=list(SEEDS))
    estimates, start = None, np.ones(len(SEEDS), dtype=bool)
    for _ in range(40):
        actions, estimates = rule.predict(observations, estimates, start)
        observations, *_ = env.step(actions)
        start[:] = False
    copies = estimates.repeated(1, 5)
    assert isinstance(copies, Estimates)
    view = ServingView(observations, env.engine.tables.scalars)
    twins = ServingView(np.repeat(observations[1:2], 5, axis=0), env.engine.tables.scalars)
    for ours, theirs in zip(
        copies.update(twins, np.zeros(5, dtype=bool)), estimates.update(view, start), strict=True
    ):
        np.testing.assert_array_equal(ours, np.full(5, theirs[1]))


@pytest.mark.parametrize("iterations", [0, -3])
def test_looks_that_never_come_are_refused(iterations):
    with pytest.raises(
        ConfigurationError, match=f"portfolio: iterations is {iterations}, expected at least 1"
    ):
        ServingPortfolio(iterations)
