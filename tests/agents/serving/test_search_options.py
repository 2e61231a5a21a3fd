"""Joint actions that come to the same: left out by look-aheads, and alike to the last bit; and what a step yields."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.serving.oracles import distinct, equivalents, expected_tokens, prompt_weight, token_rates
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv
from papi_env.simulation.serving import state as at

# What was asked is remembered as it was, also where it came to nothing.
REMEMBERED = slice(at.LAST_ACTION, at.LAST_ACTION + len(at.NVEC))
NUMBERS = np.arange(at.NUM_ACTIONS)


def make_env(rate=6.0, system="papi", **serving):
    """Three machines under conversations, some of them idle at times."""
    scenario = {
        "name": "test",
        "system": system,
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "gamma", "rate_per_s": rate, "shape": 0.3},
            "lengths": {"table": "azure-conversation"},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
            "horizon_s": 20.0,
            "max_running": 16,
        }
        | serving,
    }
    return ServingVectorEnv(scenario, num_envs=3, autoreset_mode=AutoresetMode.DISABLED)


def states_met(env, steps=240, every=4, seed=0):
    """Plays at random, admitting little at first; yields every few steps."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for step in range(steps):
        if step % every == 0:
            yield step
        actions = rng.integers(0, at.NVEC, (env.num_envs, len(at.NVEC)))
        if step < steps // 4:
            actions[:, at.ADMISSION] = rng.integers(0, 2, env.num_envs)
        env.step(actions)


CASES = [
    {},
    {"system": "attacc-only", "rate": 2.0},
    {"system": "a100", "rate": 3.0},
    # Without prefill requests decode in the step that admits them.
    {"prefill": False, "rate": 12.0},
    {"drift": {}, "paging": False},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equivalent_actions_step_to_equal_states(case):
    env = make_env(**case)
    engine = env.engine
    fewer = 0
    for _ in states_met(env):
        masks = env.joint_masks()
        for e in range(env.num_envs):
            same = equivalents(engine, e)
            assert masks[e][same[masks[e]]].all(), "what stands for a valid action is valid"
            fewer += int(len(np.unique(same)) < at.NUM_ACTIONS)
            twin = engine.fork(e, at.NUM_ACTIONS)
            twin.actions[:] = JOINT_ACTIONS
            twin.step()
            valid = np.flatnonzero(masks[e])
            for name, array in zip(twin.state._fields, twin.state, strict=True):
                ours, theirs = array[valid].copy(), array[same[valid]].copy()
                if name == "counters":
                    ours[:, REMEMBERED] = theirs[:, REMEMBERED] = 0
                np.testing.assert_array_equal(ours, theirs, err_msg=name)
            np.testing.assert_array_equal(twin.rewards[valid], twin.rewards[same[valid]])
    assert fewer > 0


def test_what_stands_for_others_stands_for_itself():
    env = make_env()
    for _ in states_met(env):
        for e in range(env.num_envs):
            same = equivalents(env.engine, e)
            assert same.shape == NUMBERS.shape
            assert same.dtype == np.int64
            np.testing.assert_array_equal(same[same], same)


def test_distinct_actions_are_those_that_stand_for_themselves_in_the_order_given():
    env = make_env()
    rng = np.random.default_rng(3)
    for _ in states_met(env):
        same = equivalents(env.engine, 1)
        shuffled = rng.permutation(at.NUM_ACTIONS)
        kept = distinct(env.engine, 1, JOINT_ACTIONS[shuffled])
        np.testing.assert_array_equal(kept, JOINT_ACTIONS[[k for k in shuffled if same[k] == k]])
        assert set(same) == {k for k in NUMBERS if same[k] == k}, "no class is left out"


@pytest.mark.parametrize(
    ("queued", "rlp", "left"),
    # Admission x speculation x overlap, for each of 3 units.
    [
        (0, 0, 1 * 1 * 1),
        (0, 1, 1 * 4 * 1),
        (0, 2, 1 * 4 * 2),
        (1, 1, 2 * 4 * 1),
        (1, 9, 2 * 4 * 2),
        (2, 9, 24),
        (5, 0, 3),
    ],
)
def test_how_many_are_left(queued, rlp, left):
    env = make_env()
    env.reset(seed=0)
    env.engine.counters[1, at.QUEUED], env.engine.counters[1, at.RLP] = queued, rlp
    assert len(distinct(env.engine, 1, JOINT_ACTIONS)) == 3 * left


def test_token_rates_are_tokens_gained_over_seconds_taken():
    env = make_env(rate=12.0)
    engine = env.engine
    weight = prompt_weight(engine.tables)
    assert weight > 0
    rng = np.random.default_rng(1)
    met = {"decoded": 0, "prefilled": 0}
    env.reset(seed=9)
    scratch = engine.fork(0, at.NUM_ACTIONS)
    for _ in states_met(env, 120, 8):
        options = JOINT_ACTIONS[env.joint_masks()[2]]
        before = [array.copy() for array in engine.state]
        rates = {token: token_rates(engine, 2, options, weight, token) for token in (1.0, 0.25, 0.0)}
        for array, then in zip(engine.state, before, strict=True):
            np.testing.assert_array_equal(array, then)
        assert rates[1.0].shape == (len(options),)
        np.testing.assert_array_equal(token_rates(engine, 2, options, weight), rates[1.0])
        # In memory used before, whatever is left in it.
        np.testing.assert_array_equal(token_rates(engine, 2, options, weight, 1.0, scratch), rates[1.0])
        np.testing.assert_array_equal(
            token_rates(engine, 2, options[:5], weight, 1.0, scratch), rates[1.0][:5]
        )
        for k in rng.integers(0, len(options), 4):
            twin = engine.fork(2, 1)
            start = twin.counters[0].copy()
            twin.actions[:] = options[k]
            twin.step()
            gained = twin.counters[0] - start
            met["decoded"] += gained[at.TOKENS]
            met["prefilled"] += gained[at.PREFILLED]
            for token, found in rates.items():
                useful = token * gained[at.TOKENS] + weight * gained[at.PREFILLED]
                np.testing.assert_allclose(found[k] * twin.clocks[0, at.LAST_TIME_S], useful, atol=1e-9)
    assert min(met.values()) > 0


def test_expected_tokens_are_the_mean_over_other_draws_of_the_drafts():
    env = make_env(rate=12.0)
    engine = env.engine
    rng = np.random.default_rng(2)
    seen = 0
    for step in states_met(env, 120, 24, seed=4):
        rlp = int(engine.counters[0, at.RLP])
        if rlp < 4 or step == 0:
            continue
        found = expected_tokens(engine, 0)
        assert found.shape == (4,)
        np.testing.assert_allclose(found[0], rlp, rtol=1e-12, err_msg="without drafts a token each")
        assert (np.diff(found) >= 0).all()
        copies = 400
        for speculation in (1, 3):
            twin = engine.fork(0, copies)
            # Other keys, other draws.
            twin.state.keys[:, :rlp] = rng.integers(0, 2**63, (copies, rlp), dtype=np.uint64)
            twin.actions[:] = 0
            twin.actions[:, at.SPECULATION] = speculation
            twin.step()
            decoded = twin.counters[:, at.LAST_DECODED]
            error = decoded.std() / copies**0.5
            assert abs(decoded.mean() - found[speculation]) < 4 * error + 1e-9
        seen += 1
    assert seen > 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rates_with_expected_tokens_differ_in_the_drafts_alone(case):
    env = make_env(**case)
    engine = env.engine
    differ = 0
    for _ in states_met(env):
        masks = env.joint_masks()
        for e in range(env.num_envs):
            options = JOINT_ACTIONS[masks[e]]
            drawn = token_rates(engine, e, options, 0.1)
            found = token_rates(engine, e, options, 0.1, expected=True)
            plain = options[:, at.SPECULATION] == 0
            np.testing.assert_allclose(found[plain], drawn[plain], rtol=1e-12)
            twin = engine.fork(e, len(options))
            twin.actions[:] = options
            twin.step()
            decoding = twin.counters[:, at.LAST_N] > 0
            np.testing.assert_array_equal(found[~decoding], drawn[~decoding])
            gap = (found - drawn) * np.maximum(twin.clocks[:, at.LAST_TIME_S], 1e-12)
            rlp = int(engine.counters[e, at.RLP])
            asked = np.array([1, 2, 4, 8])[options[:, at.SPECULATION]]
            others = twin.counters[:, at.LAST_N] != asked * rlp
            np.testing.assert_array_equal(
                gap[others], 0, err_msg="preempted, or more decode than decoded before"
            )
            mean = expected_tokens(engine, e)[options[:, at.SPECULATION]]
            whole = (
                ~others & (twin.counters[:, at.PREEMPTIONS] == engine.counters[e, at.PREEMPTIONS]) & (rlp > 0)
            )
            np.testing.assert_allclose(
                gap[whole], (mean - twin.counters[:, at.LAST_DECODED])[whole], atol=1e-6
            )
            differ += int((np.abs(gap) > 0.01).sum())
    assert differ > 0
