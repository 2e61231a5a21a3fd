"""Every feature of Serving-v0 is declared once, in order, and written once."""

import hashlib

import numpy as np
import pytest

from agents.serving.view import ServingView
from experiments.distilling.rules import condition
from experiments.splitting.definition import SERVING
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv
from papi_env.simulation.features import FLAG
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.observe import observe_env

THRESHOLDS = (0.0, 1e-9, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.6180339, 0.75, 0.9, 0.99, 0.999999, 1.0)


def digest(texts):
    return hashlib.sha256("|".join(texts).encode()).hexdigest()


def played(num_envs=16, steps=60):
    env = ServingVectorEnv("drifting/llama-65b", num_envs=num_envs)
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    for _ in range(steps):
        env.step(JOINT_ACTIONS[rng.integers(0, len(JOINT_ACTIONS), num_envs)])
    return env


def test_names_are_those_that_shipped_policies_know():
    assert at.OBSERVATION_NAMES[0] == "queued"
    assert at.OBSERVATION_NAMES[-1] == "alpha"
    assert len(set(at.OBSERVATION_NAMES)) == len(at.OBSERVATION_NAMES) == len(at.FEATURES) == 59
    assert digest(at.OBSERVATION_NAMES) == "8ecfc9166493ac248f100691dda59ad846e4f8ec987d2279c601d0f46b3f1c9a"


def test_what_trees_say_of_them_is_what_it_was():
    texts = [
        condition(SERVING, name, float(np.float32(threshold)), below)
        for name in at.OBSERVATION_NAMES
        for threshold in THRESHOLDS
        for below in (True, False)
    ]
    assert digest(texts) == "d48eec2a9acc02e0ddb13e9c213a19d85ac7483b83327cb6bd5c9c8ad6cf8c1b"


def test_columns_are_where_names_stand():
    for name in at.STATE_NAMES:
        assert getattr(at.COLUMN, name.replace("-", "_")) == at.OBSERVATION_NAMES.index(name)


def test_every_feature_of_the_state_is_written_and_no_descriptor_is():
    engine = played().engine
    engine.observations[:] = np.nan
    for e in range(engine.num_envs):
        observe_env(e, engine.counters, engine.clocks, engine.tables.scalars, engine.observations)
    written = np.isfinite(engine.observations)
    assert written[:, : at.NUM_STATE_FEATURES].all()
    assert not written[:, at.NUM_STATE_FEATURES :].any()


def test_a_yes_or_no_is_0_or_1_and_nothing_else_lies_outside():
    observations = played().engine.observations
    assert ((observations >= 0) & (observations <= 1)).all()
    for column, feature in enumerate(at.FEATURES):
        if feature.scale is FLAG:
            assert np.isin(observations[:, column], (0, 1)).all()


def test_a_view_has_what_the_machine_counts():
    engine = played().engine
    view = ServingView(engine.observations, engine.tables.scalars)
    counters, clocks = engine.counters, engine.clocks
    np.testing.assert_array_equal(view.rlp, counters[:, at.RLP])
    np.testing.assert_array_equal(view.prefilling, counters[:, at.PREFILLING])
    np.testing.assert_array_equal(view.queued, counters[:, at.QUEUED])
    np.testing.assert_array_equal(view.backlog, counters[:, at.PREFILL_BACKLOG])
    mean = counters[:, at.CONTEXT_SUM] / np.maximum(counters[:, at.RLP], 1)
    assert view.mean_context == pytest.approx(mean, rel=1e-4)
    assert view.longest_context == pytest.approx(16 * counters[:, at.GROUP_MAX], rel=1e-4)
    assert view.slack_s == pytest.approx(clocks[:, at.SLACK_MEAN_S], rel=1e-4, abs=1e-5)
    assert view.drift == pytest.approx(clocks[:, at.SEEN_DRIFT : at.SEEN_DRIFT + 3], rel=1e-5)
