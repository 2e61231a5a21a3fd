"""Every feature of Decode-v0 and Kernels-v0 is declared once, in order."""

import hashlib

import numpy as np
import pytest

from agents.policy import image_count, parallelism
from experiments.distilling.rules import QUANTITIES
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.envs.registration import DECODE, KERNELS
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.loop import observe_all
from papi_env.simulation.batch.measures import MEASURES, METRIC_NAMES
from papi_env.simulation.engine import NEXT_STEP, SAME_STEP
from papi_env.simulation.features import names


def test_names_are_those_that_shipped_policies_know():
    known = at.OBSERVATION_NAMES + at.STAGE_OBSERVATION_NAMES
    assert (len(at.OBSERVATION_NAMES), len(known)) == (45, 73)
    assert len(set(known)) == len(known)
    assert hashlib.sha256("|".join(known).encode()).hexdigest()[:32] == "de03a131dcd8a67ec6368207f5a7f47c"


def test_columns_by_name_are_where_the_names_stand():
    for column, name in enumerate(names(at.KERNELS_FEATURES)):
        assert getattr(at.COLUMN, name.replace("-", "_")) == column


@pytest.mark.parametrize("env_id", [DECODE, KERNELS])
def test_a_quantity_of_a_tree_is_its_feature(env_id):
    features = at.FEATURES if env_id == DECODE else at.KERNELS_FEATURES
    assert list(QUANTITIES[env_id]) == list(names(features))
    for feature in features:
        quantity = QUANTITIES[env_id][feature.name]
        assert (quantity.words, quantity.unit) == (feature.words, feature.unit)


def test_counts_are_read_back_exactly():
    envs = KernelsVectorEnv("vision-language", num_envs=6, batch_size=7, speculation=3, acceptance_rate=0.5)
    observations, _ = envs.reset(seed=1)
    engine = envs.engine
    for _ in range(60):
        counters = engine.counters
        np.testing.assert_array_equal(parallelism(observations), counters[:, at.RLP] * counters[:, at.TLP])
        np.testing.assert_array_equal(image_count(observations), counters[:, at.IMAGES])
        observations = envs.step(envs.action_space.sample())[0]


@pytest.mark.parametrize(
    ("scenario", "choices"),
    [
        ("creative-writing/opt-30b", 1),
        ("creative-writing/opt-30b", at.NUM_CHOICES),
        ("vision-language", at.NUM_CHOICES),
        ("mixture-of-experts-zipf", at.NUM_EXPERT_CHOICES),
    ],
)
@pytest.mark.parametrize("autoreset", [NEXT_STEP, SAME_STEP])
def test_an_observation_that_a_step_writes_again_is_the_whole_one(scenario, choices, autoreset):
    """Of its own, a step writes what changes; `reset_batch` and `observe_all` write everything."""
    replaced = {"batch_size": 5, "speculation": 3, "acceptance_rate": 0.6}
    scenario = get_scenario(scenario).replace(**replaced)
    engine = DecodeEngine(scenario, 4, choices=choices, autoreset=autoreset, max_steps=50)
    engine.start(range(4))
    rng = np.random.default_rng(0)
    for _ in range(120):
        engine.actions[:] = rng.integers(0, at.OPTIONS[0] if choices > 1 else 2, engine.actions.shape)
        engine.step()
        stepped = engine.observations.copy()
        engine.observations[:] = np.nan
        observe_all(*engine._for_reset)
        assert stepped.tobytes() == engine.observations.tobytes()


def test_every_measure_says_what_it_is():
    assert len(set(METRIC_NAMES)) == len(MEASURES)
    assert all(measure.words for measure in MEASURES)
