"""Experts under continuous batching: exact means over routings, in all that looks an iteration up."""

from itertools import permutations, product

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import experts as hardware
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU
from papi_env.scenario import parse_scenario
from papi_env.simulation.batch import routed
from papi_env.simulation.batch.expert_tables import expert_profile, expert_table
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.expert_costs import served_experts
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.routing import active_experts, popularity, routing_of
from papi_env.workload.transformer import Transformer, get_transformer

QWEN = get_transformer("qwen3-30b-a3b")
PAPI = get_system("papi")


def scenario(system="papi", model="qwen3-30b-a3b", experts=None, **changes):
    given = {
        "name": "test",
        "system": system,
        "model": model,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 60.0},
            "lengths": {"input": 200, "output": 20},
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.1},
            "requests": 12,
            "max_running": 8,
            **changes,
        },
    }
    return parse_scenario(given | ({} if experts is None else {"experts": experts}), "test")


def small(exponent=None):
    """Five experts of which a token has two."""
    routing = {} if exponent is None else {"routing": "zipf", "exponent": exponent}
    experts = {"experts": 5, "active": 2, "feed_forward": 512, **routing}
    shape = {"layers": 3, "hidden": 1024, "heads": 8, "feed_forward": 1024}
    return Transformer(name="small", gated=True, context_limit=512, experts=experts, **shape)


@pytest.mark.parametrize("exponent", [None, 0.7])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_means_are_those_of_all_routings_one_by_one(exponent, rows):
    routing = routing_of(small(exponent))
    layer = routing.layer
    weights = popularity(layer.experts, routing.exponent)
    # What a token can be sent to, in the order of drawing, with its chance.
    chosen = {
        pair: weights[pair[0]] / weights.sum() * weights[pair[1]] / (weights.sum() - weights[pair[0]])
        for pair in permutations(range(layer.experts), layer.active)
    }
    tokens = np.arange(rows + 1)
    pu_s = hardware.pu_expert_s(PAPI.pu, layer, tokens)
    pim_s = hardware.pim_expert_s(PAPI.fc_pim, layer, tokens)
    pu_j = hardware.pu_expert_causes(PAPI.pu, layer, tokens)
    mean_pu_s = mean_pim_s = mean_pu_j = 0.0
    for tokens_to in product(chosen, repeat=rows):
        chance = np.prod([chosen[pair] for pair in tokens_to])
        loads = np.bincount(np.ravel(tokens_to), minlength=layer.experts)
        mean_pu_s += chance * pu_s[loads].sum()
        mean_pim_s += chance * pim_s[loads].sum()
        mean_pu_j += chance * pu_j[loads].sum(axis=0)
    sums_s = sum(float(PAPI.stack_sum_s(kernel, rows * layer.active)) for kernel in layer.kernels)
    start_s = hardware.KERNELS_PER_LAYER * PAPI.pim_start_s + sums_s
    found = served_experts(PAPI, routing, 3)
    assert found.seconds[PU, rows] == pytest.approx(3 * (hardware.GROUPED.start_s + mean_pu_s), rel=1e-5)
    assert found.seconds[FC_PIM, rows] == pytest.approx(3 * (start_s + mean_pim_s), rel=1e-5)
    np.testing.assert_allclose(found.causes[PU, rows], 3 * mean_pu_j, rtol=1e-5)


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "mixtral-8x7b"])
def test_static_batches_have_the_same_experts(model):
    routing, rows = routing_of(get_transformer(model)), 48
    found = served_experts(PAPI, routing, rows)
    table = expert_table(PAPI, routing, ExpertPlacement(), tuple(range(1, rows + 1)))[:2, :, 0]
    np.testing.assert_allclose(found.seconds, table[..., routed.SECONDS], rtol=1e-12)
    np.testing.assert_allclose(found.causes, table[..., routed.CAUSES :], rtol=1e-12)


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "mixtral-8x7b"])
def test_units_take_at_least_what_reading_the_active_weights_does(model):
    routing, rows = routing_of(get_transformer(model)), 1500
    layer, found = routing.layer, served_experts(PAPI, routing, rows)
    size = layer.layers * active_experts(routing.chance, np.arange(rows + 1)) * layer.expert_bytes
    assert (found.seconds[PU] >= size / PAPI.pu.total_bandwidth).all()
    assert (found.seconds[FC_PIM] >= size / PAPI.fc_pim.peak_bandwidth).all()
    assert (found.reading_s <= found.seconds[PU]).all()
    # More tokens never take less; a rule that looks for a crossing relies on it.
    assert (np.diff(found.seconds, axis=1) > 0).all()
    # Experts that all have work are read once: that is not exceeded but for activations and compute.
    assert size[-1] == pytest.approx(layer.weight_bytes, rel=1e-6)


def test_an_iteration_has_the_experts_beside_the_other_fc_kernels():
    tables = build_serving_tables(scenario())
    rows = tables.fc_s.shape[1] - 1
    experts, counts = served_experts(PAPI, routing_of(QWEN), rows), np.arange(rows + 1)
    plain = CostTable(PAPI, QWEN.fc_kernels())
    for unit in (PU, FC_PIM):
        seconds = sum(plain.cost(i, unit, counts)[0] for i in range(len(plain.kernels)))
        np.testing.assert_allclose(tables.fc_s[unit], seconds + experts.seconds[unit], rtol=1e-12)
        np.testing.assert_allclose(tables.fc_j[unit], tables.fc_causes[unit].sum(axis=-1), rtol=1e-12)
    # Two projections and the experts of each of 48 layers, there and back.
    assert tables.scalars[at.SWITCHES_PER_SPLIT] == 2 * 3 * 48
    profile = expert_profile(PAPI, routing_of(QWEN), ExpertPlacement())
    assert (
        tables.scalars[at.ALPHA] == plain.calibrate_alpha(beside=profile.seconds) != plain.calibrate_alpha()
    )


def test_kv_pages_are_what_the_weights_of_all_experts_leave():
    on_gpus = scenario(system="a100")
    tables = build_serving_tables(on_gpus)
    room = on_gpus.system.weight_capacity_bytes - QWEN.weight_bytes
    assert tables.scalars[at.TOTAL_PAGES] == room // (16 * QWEN.kv_bytes_per_token)
    assert routing_of(QWEN).layer.weight_bytes > 0.9 * QWEN.weight_bytes


def played(given, num_envs, seeds, steps=90):
    """An engine after so many iterations with actions that are drawn for each seed."""
    engine = ServingEngine(given, num_envs)
    engine.start(list(seeds))
    drawn = [np.random.default_rng(seed).integers(0, at.NVEC, (steps, len(at.NVEC))) for seed in seeds]
    for step in range(steps):
        engine.actions[:] = [actions[step] for actions in drawn]
        engine.step()
    return engine


@pytest.mark.parametrize("system", ["papi", "a100"])
def test_a_batch_of_machines_is_so_many_single_ones(system):
    given = scenario(system=system)
    batch = played(given, 3, (4, 5, 6))
    for env, seed in enumerate((4, 5, 6)):
        single = played(given, 1, (seed,))
        np.testing.assert_array_equal(batch.clocks[env], single.clocks[0])
        np.testing.assert_array_equal(batch.counters[env], single.counters[0])
    metrics = batch.metrics()
    by_cause = batch.clocks[:, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum(axis=1)
    np.testing.assert_allclose(by_cause, metrics["dynamic_j"], rtol=1e-12)
    assert (batch.counters[:, at.FINISHED] > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"base": "qwen3-30b-a3b", "experts": {"draws": "keyed"}}},
            "experts.draws of qwen3-30b-a3b is 'keyed', which static batches alone have; expected 'expectation'",
        ),
        ({"experts": {"groups": 5}}, "expected no experts part with serving"),
        ({"experts": {"dual_row_buffers": True}}, "dual_row_buffers are a field of serving"),
    ],
)
def test_what_static_batches_alone_have_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match="static batches") as found:
        scenario(**changes)
    assert message in str(found.value)


def test_experts_that_do_not_fit_are_refused_with_the_sizes():
    with pytest.raises(ConfigurationError, match="GB"):
        build_serving_tables(scenario(model="deepseek-v3"))
