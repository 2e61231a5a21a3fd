"""What both engines' states have in one place, because code of both reads it there."""

import gymnasium as gym
import numpy as np
import pytest

from papi_env.envs.registration import ENV_IDS
from papi_env.hardware import costs, dram
from papi_env.hardware.system import SYSTEMS, get_system
from papi_env.hardware.units import PimUnit
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as serving
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.transformer import get_transformer

SHARED = ("SEED", "EPISODE", "DONE")


@pytest.mark.parametrize("name", SHARED)
def test_both_layouts_have_what_all_environments_read_in_one_column(name):
    assert getattr(layout, name) == getattr(serving, name)


def test_the_first_clocks_are_time_and_energy_in_both():
    for name in ("TIME_S", "DYNAMIC_J"):
        assert getattr(layout, name) == getattr(serving, name)


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_seeds_and_episodes_are_where_the_layout_says(env_id):
    arguments = {"batch_size": 2} if "Serving" not in env_id else {"serving": {"requests": 2}}
    envs = gym.make_vec(env_id, num_envs=3, **arguments)
    envs.reset(seed=[7, 5, 2**40])
    counters = envs.unwrapped.engine.counters
    np.testing.assert_array_equal(counters[:, layout.SEED], [7, 5, 2**40])
    np.testing.assert_array_equal(counters[:, layout.EPISODE], 0)
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    np.testing.assert_array_equal(counters[:, layout.EPISODE], [1, 0, 1])
    np.testing.assert_array_equal(counters[:, layout.DONE], 0)
    envs.close()


@pytest.mark.parametrize("name", SYSTEMS)
def test_attention_is_counted_in_groups_of_the_memory(name):
    """Of as many tokens as the DRAM model gives seconds and joules for; the size of a KV page is another number."""
    system = get_system(name)
    home = system.unit_of("attention")
    unit = None if home is None else system.unit(home)
    if isinstance(unit, PimUnit):
        work = costs.pim_attention_coefficients(unit, get_transformer("llama-65b").attention_kernel(), 1)
        assert work.group_tokens == dram.GROUP_TOKENS


def test_a_longer_context_costs_energy_by_whole_groups():
    """The serving tables and the hardware's functions charge the same for contexts of 1 to 48 tokens."""
    unit, model = get_system("papi").attn_pim, get_transformer("llama-65b")
    kernel = model.attention_kernel()
    per_layer = [float(costs.pim_attention_energy(unit, kernel, groups, 1, 1).total) for groups in (1, 2, 3)]
    tables = build_serving_tables(get_scenario("light/llama-65b"))
    per_group = tables.attention[1, 1, layout.PER_GROUP_J]
    for groups, joules in enumerate(per_layer, start=1):
        assert per_group * groups == pytest.approx(kernel.count * joules, rel=1e-9)
