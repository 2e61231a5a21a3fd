"""A recorded batch priced by table look-ups is what the engine plays."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.paper.replay import PARTS, dynamic_joules, fc_units, iteration_seconds, record
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.decode_tables import group_columns
from papi_env.workload.requests import Lengths
from papi_env.workload.transformer import get_transformer

SEEDS = (0, 1, 7)
BASE = get_scenario("creative-writing/llama-65b").replace(batch_size=8, speculation=2)
# An eighth of the layers, so that it fits the smallest system.
SMALL = get_transformer("llama-65b").model_copy(update={"layers": 10})
PAPI_COLUMNS = group_columns(BASE.system, SMALL)


@pytest.mark.parametrize("policy", ["static", "threshold", "oracle"])
@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_replay_is_the_engine(system, policy):
    scenario = BASE.replace(system=system, model=SMALL)
    env = DecodeVectorEnv(scenario, num_envs=len(SEEDS), autoreset_mode=AutoresetMode.DISABLED)
    played = evaluate(make_policy(policy), env, SEEDS)
    # Recorded on another system: the path does not depend on it, nor do key rows but where rows are laid out otherwise.
    tables = env.engine.tables
    alike = tables.scalars[at.GROUP_COLUMNS] == PAPI_COLUMNS
    trajectory = record(BASE if alike else scenario, SEEDS)
    units = fc_units(tables, policy)
    seconds = trajectory.sum_by_seed(iteration_seconds(tables, trajectory, units))
    np.testing.assert_allclose(seconds.sum(axis=1), played["time_s"], rtol=1e-9)
    for part, total in zip(PARTS, seconds.T, strict=True):
        np.testing.assert_allclose(total, played[f"{part}_s"], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(dynamic_joules(tables, trajectory, units), played["dynamic_j"], rtol=1e-9)
    np.testing.assert_array_equal(trajectory.tokens, played["tokens"])


def test_replay_follows_acceptance_and_a_speculation_schedule():
    data = BASE.model_dump()
    data["workload"]["speculation_schedule"] = ((3, 4), (9, 1))
    data["workload"]["acceptance_rate"] = 0.6
    scenario = parse_scenario(data, "test")
    env = DecodeVectorEnv(scenario, num_envs=len(SEEDS), autoreset_mode=AutoresetMode.DISABLED)
    played = evaluate(make_policy("threshold"), env, SEEDS)
    trajectory = record(scenario, SEEDS)
    tables = env.engine.tables
    seconds = trajectory.sum_by_seed(iteration_seconds(tables, trajectory, fc_units(tables, "threshold")))
    np.testing.assert_allclose(seconds.sum(axis=1), played["time_s"], rtol=1e-9)
    assert set(np.unique(trajectory.tlp)) == {1, 2, 4}


def test_requests_of_one_length_keep_the_parallelism():
    trajectory = record(BASE.replace(lengths=Lengths(input=19, output=100)), (0,))
    assert (trajectory.rlp == 8).all()
    assert len(trajectory.rlp) == 50
    assert (np.diff(trajectory.context_sum) == 16).all()
    assert trajectory.tokens.tolist() == [800]
