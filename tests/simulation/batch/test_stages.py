"""A stage costs what the hardware functions say plus what crosses, and encodes keep their accounts."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.hardware.threshold import least_time_threshold
from papi_env.hardware.units import FC_PIM, PU
from papi_env.kernel import KernelClass
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.encode import drawn_images, stage_cost
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.workload.requests import Lengths
from papi_env.workload.vision.network import parameters, stage_kernels

STREAM = get_scenario("vision-stream")
LANGUAGE = get_scenario("vision-language").replace(
    batch_size=4, speculation=2, lengths=Lengths(input=30, output=9)
)
# NVLink between PUs and FC-PIM, so that crossings take time.
LINKED = STREAM.replace(system="papi-1gpu")
CLASSES = {
    KernelClass.REPMLP_FC1: 0,
    KernelClass.REPMLP_FC2: 0,
    KernelClass.REPMLP_FC3: 1,
    KernelClass.REPMLP_FFN: 2,
    KernelClass.CONVOLUTION: 3,
}
UNITS = list(product((PU, FC_PIM), repeat=3))


def started(scenario, num_envs=4, **arguments):
    engine = DecodeEngine(
        scenario, num_envs, choices=at.NUM_CHOICES, **({"default_switch_s": 1e-6} | arguments)
    )
    engine.counters[:, at.SEED] = np.arange(num_envs)
    engine.reset()
    return engine


def random_units(engine, rng):
    engine.actions[:] = rng.integers(0, 3, engine.actions.shape)


def play(engine, choose):
    while not (engine.counters[:, at.DONE] == 1).all():
        choose(engine)
        engine.step()
    return engine


def priced(engine, stage, images, units, last=-1):
    t = engine.tables
    return stage_cost(stage, images, last, *units, t.stages, t.stage_moves, t.blocks, t.scalars)


def seconds_of(system, kernel, unit):
    if unit == PU:
        return kernel.count * float(costs.pu_fc_s(system.pu, kernel, kernel.rows))
    seconds = costs.pim_fc_s(system.fc_pim, kernel, kernel.rows) + system.stack_sum_s(kernel, kernel.rows)
    return kernel.count * (float(seconds) + system.pim_start_s)


@pytest.mark.parametrize("reparameterized", [True, False])
@pytest.mark.parametrize("units", UNITS)
def test_kernels_of_a_stage_cost_what_the_hardware_functions_say(units, reparameterized):
    scenario = STREAM.replace(reparameterized=reparameterized, network="repmlpnet-b224")
    engine = started(scenario, 1, default_switch_s=0.0)
    for stage, images in product(range(4), (1, 5, 128)):
        expected = np.zeros(4)
        for kernel in stage_kernels(scenario.images.network, stage, images, None, reparameterized):
            kind = CLASSES[kernel.kernel_class]
            expected[kind] += seconds_of(scenario.system, kernel, PU if kind == 3 else units[kind])
        cost = priced(engine, stage, images, units)
        np.testing.assert_allclose(cost[4:8], expected, rtol=1e-12)
        assert cost[0] == pytest.approx(expected.sum(), rel=1e-12)
        assert cost[2] == cost[3] == 0


def walk(scenario, stage, images, units, last):
    """(mode switches, [bytes of each crossing]) of a stage, by walking through its kernels one by one."""
    net, merged = scenario.images.network, scenario.images.reparameterized
    side, channels = net.map_size(stage), net.channels[stage]
    pooled, feature_map = 2 * images * channels, 2 * images * channels * side**2
    global_unit, fc3, ffn = units
    order = [] if last < 0 else [last]
    order.append(PU)  # the embedding
    crossed = []
    if last not in (-1, PU) and stage > 0:
        crossed.append(2 * images * net.channels[stage - 1] * (2 * side) ** 2)
    where = PU
    for _ in range(net.blocks[stage]):
        order += [global_unit, *([] if merged else [PU]), fc3, ffn]
        flows = [(where, global_unit, pooled), (where, fc3, feature_map), (global_unit, fc3, pooled)]
        if not merged:
            flows += [(where, PU, feature_map), (PU, fc3, feature_map)]
        flows.append((fc3, ffn, feature_map))
        crossed += [size for source, target, size in flows if source != target]
        where = ffn
    return sum(a != b for a, b in pairwise(order)), crossed


@pytest.mark.parametrize("reparameterized", [True, False])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("last", [-1, PU, FC_PIM])
def test_switches_and_crossings_are_those_of_a_walk_through_the_kernels(units, last, reparameterized):
    scenario = LINKED.replace(reparameterized=reparameterized)
    engine = started(scenario, 1)
    link = scenario.system.fabric.model_copy(update={"count": 1})
    for stage, images in product(range(4), (1, 7)):
        switches, crossed = walk(scenario, stage, images, units, last)
        cost = priced(engine, stage, images, units, last)
        assert cost[8] == switches
        assert cost[3] == pytest.approx(switches * 1e-6, rel=1e-12)
        expected = sum(float(link.transfer_s(size)) for size in crossed)
        assert cost[2] == pytest.approx(expected, rel=1e-12, abs=1e-18)
        free = priced(started(scenario, 1, default_switch_s=0.0), stage, images, units, last)
        joules = sum(crossed) * link.j_per_byte
        assert cost[1] - free[1] == pytest.approx(joules, rel=1e-6, abs=1e-12)
        assert (free[2], free[3]) == (0, 0)


@pytest.mark.parametrize("scenario", [STREAM, LINKED, LANGUAGE, LINKED.replace(reparameterized=False)])
def test_accounts_add_up(scenario):
    rng = np.random.default_rng(0)
    m = play(started(scenario.replace(energy_weight=0.01)), lambda e: random_units(e, rng)).metrics()
    busy = m["busy_pu_s"] + m["busy_fc-pim_s"] + m["busy_attn-pim_s"]
    classes = sum(m[f"{kind}_s"] for kind in at.TIMED_CLASSES)
    np.testing.assert_allclose(busy, classes, rtol=1e-12)
    parts = classes + m["communication_s"] + m["switching_s"] + m["other_s"]
    np.testing.assert_allclose(parts, m["time_s"], rtol=1e-12)
    engine = started(scenario.replace(energy_weight=0.01))
    charged = m["time_s"] + 0.01 * (m["dynamic_j"] + m["static_j"])
    np.testing.assert_allclose(m["return"], -charged / engine.tables.scalars[at.REFERENCE], rtol=1e-9)
    for name, values in m.items():
        assert np.isfinite(values).all(), name
    assert (m["invalid_actions"] > 0).all()


def test_every_drawn_image_is_encoded_once():
    engine = started(STREAM, 6)
    sizes = np.array(
        [
            [drawn_images(seed, 0, encode, engine.tables.batches) for encode in range(STREAM.images.encodes)]
            for seed in range(6)
        ]
    )
    m = play(engine, lambda e: random_units(e, np.random.default_rng(1))).metrics()
    np.testing.assert_array_equal(m["images"], sizes.sum(axis=1))
    assert (m["stages"] == 4 * STREAM.images.encodes).all()
    assert (m["iterations"] == 0).all()
    assert (m["tokens"] == 0).all()
    assert (m["prefill_s"] == 0).all()


def test_image_counts_are_drawn_evenly_and_by_instance_alone():
    batches = np.array([3, 5, 9])
    drawn = np.array(
        [
            drawn_images(seed, episode, e, batches)
            for seed in range(30)
            for episode in range(5)
            for e in range(20)
        ]
    )
    shares = [(drawn == size).mean() for size in batches]
    # 3000 draws: a share of a third has a standard deviation of 0.86 %; four of them.
    assert np.abs(np.array(shares) - 1 / 3).max() < 4 * 0.0086
    assert drawn_images(1, 0, 4, batches) == drawn_images(1, 0, 4, batches)
    shifted = np.array([drawn_images(s + 1, 0, e, np.arange(50)) for s in range(5) for e in range(20)])
    plain = np.array([drawn_images(s, 0, e, np.arange(50)) for s in range(5) for e in range(20)])
    following = np.array([drawn_images(s, 1, e, np.arange(50)) for s in range(5) for e in range(20)])
    assert (shifted != plain).any()
    assert (shifted != following).any()


def test_images_are_encoded_before_decoding_and_join_the_prompts():
    engine = started(LANGUAGE, 2)
    tokens = LANGUAGE.image_tokens
    assert tokens == 64
    assert (engine.contexts == 30 + tokens).all()
    assert (engine.counters[:, at.IMAGES] == 4).all()
    stages = []
    for _ in range(5):
        stages.append(int(engine.counters[0, at.STAGE]))
        engine.step()
    assert stages == [0, 1, 2, 3, -1]
    assert (engine.counters[:, at.ITERATION] == 1).all()
    m = play(engine, lambda e: None).metrics()
    assert (m["tokens"] == 4 * 9).all()
    assert (m["images"] == 4).all()
    longer = LANGUAGE.replace(lengths=Lengths(input=30 + tokens, output=9)).model_dump()
    longer["images"] = None
    text = play(started(parse_scenario(longer, "test"), 2), lambda e: None).metrics()
    for name in ("prefill_s", "prefill_j", "qkv_s", "attention_s", "feed_forward_s", "iterations"):
        np.testing.assert_allclose(m[name], text[name], rtol=1e-12)


def test_the_first_iteration_pays_for_leaving_the_units_of_the_last_stage():
    joules, switches = [], []
    for unit in (PU, FC_PIM):
        engine = started(LANGUAGE, 1)
        engine.actions[:] = [0, 2, 0, 0, PU, PU, unit]
        for _ in range(4):
            engine.step()
        before = engine.counters[0, at.SWITCHES]
        engine.step()
        switches.append(engine.counters[0, at.SWITCHES] - before)
        joules.append(engine.clocks[0, at.LAST_SWITCHING_S])
    assert switches == [0, 1]
    assert joules == [0, pytest.approx(1e-6)]


def test_last_times_are_those_of_the_last_step_alone():
    engine = started(LANGUAGE, 1)
    for _ in range(4):
        engine.step()
        last = engine.clocks[0, at.LAST_CLASS_TIMES]
        assert (last[: at.NUM_CLASSES] == 0).all()
        assert (last[at.NUM_CLASSES :] > 0).all()
    engine.step()
    last = engine.clocks[0, at.LAST_CLASS_TIMES]
    assert (last[: at.NUM_CLASSES] > 0).all()
    assert (last[at.NUM_CLASSES :] == 0).all()


@pytest.mark.parametrize("scenario", [STREAM, LANGUAGE])
def test_an_environment_of_a_batch_follows_the_single_one_bit_for_bit(scenario):
    batch = started(scenario, 3)
    singles = []
    for seed in range(3):
        engine = started(scenario, 1)
        engine.counters[:, at.SEED] = seed
        engine.reset()
        singles.append(engine)
    rng = np.random.default_rng(3)
    while not (batch.counters[:, at.DONE] == 1).all():
        random_units(batch, rng)
        batch.step()
        for i, single in enumerate(singles):
            single.actions[0] = batch.actions[i]
            single.step()
            for name in ("counters", "clocks", "observations", "rewards"):
                np.testing.assert_array_equal(getattr(single, name)[0], getattr(batch, name)[i], err_msg=name)


@settings(max_examples=50)
@given(
    st.sampled_from(sorted(SYSTEMS)),
    st.sampled_from(["repmlpnet-t224", "repmlpnet-l256"]),
    st.lists(st.integers(1, 128), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 10),
)
def test_any_stream_on_any_system_ends_with_finite_accounts_and_observations(
    system, network, sizes, encodes, seed
):
    data = STREAM.replace(system=system, network=network).model_dump()
    data["images"] |= {"batch_sizes": sizes, "encodes": encodes}
    engine = started(parse_scenario(data, "test"), 2)
    rng = np.random.default_rng(seed)

    def choose(engine):
        assert ((engine.observations >= 0) & (engine.observations <= 1)).all()
        random_units(engine, rng)

    m = play(engine, choose).metrics()
    assert (m["stages"] == 4 * encodes).all()
    assert all(np.isfinite(values).all() for values in m.values())
    assert (m["time_s"] > 0).all()


def test_observed_images_and_profile_give_rows_and_intensities_exactly():
    engine = started(LINKED, 1)
    profile, net = engine.profile.stages, LINKED.images.network
    names = at.OBSERVATION_NAMES + at.STAGE_OBSERVATION_NAMES
    while engine.counters[0, at.DONE] == 0:
        observed = dict(zip(names, engine.observations[0], strict=True))
        stage = int(engine.counters[0, at.STAGE])
        assert [observed[f"stage_{k}"] for k in range(4)] == [k == stage for k in range(4)]
        images = observed["images"] * 128
        assert images == engine.counters[0, at.IMAGES]
        kernels = {k.kernel_class: k for k in reversed(stage_kernels(net, stage, int(images)))}
        for kind, kernel in enumerate(
            kernels[c] for c in (KernelClass.REPMLP_FC1, KernelClass.REPMLP_FC3, KernelClass.REPMLP_FFN)
        ):
            assert profile.rows[stage, kind, int(images)] == kernel.rows
            assert profile.intensity[stage, kind, int(images)] == pytest.approx(kernel.arithmetic_intensity)
            name = at.STAGE_CLASSES[kind]
            assert 2 ** (32 * float(observed[f"rows_{name}"])) - 1 == pytest.approx(kernel.rows, rel=1e-4)
        engine.step()


def test_a_threshold_of_least_time_is_the_best_of_all():
    rng = np.random.default_rng(0)
    system = get_system("papi-1gpu")
    for _ in range(50):
        measure = rng.integers(1, 12, 30)
        pu, pim = rng.random(30), rng.random(30)
        alpha = least_time_threshold(system, measure, pu, pim)
        totals = [np.where(measure > a, pu, pim).sum() for a in range(13)]
        assert np.where(measure > alpha, pu, pim).sum() == pytest.approx(min(totals), rel=1e-12)
    assert least_time_threshold(get_system("a100"), measure, pu, pim) == 0
    assert least_time_threshold(get_system("attacc-only"), measure, pu, pim) == np.inf


@pytest.mark.parametrize("name", ["papi", "papi-h100"])
def test_on_text_the_threshold_on_intensity_separates_at_the_same_n(name):
    profile = DecodeEngine(get_scenario("creative-writing/llama-65b").replace(system=name), 1).profile
    n = np.arange(1025)
    np.testing.assert_array_equal(n > profile.alpha, profile.intensity > profile.alpha_intensity)


def test_a_machine_without_pus_embeds_on_fc_pim_and_cannot_run_overlapping_windows():
    scenario = STREAM.replace(system="attacc-only")
    m = play(started(scenario, 1), lambda e: None).metrics()
    assert m["busy_pu_s"] == 0
    assert m["convolution_s"] > 0
    with pytest.raises(ConfigurationError, match="has no PUs, which alone run the overlapping convolutions"):
        scenario.replace(reparameterized=False)


def test_weights_of_both_models_and_positions_of_images_count_against_the_stacks(monkeypatch):
    asked = []
    monkeypatch.setattr(System, "check_capacity", lambda self, weights, kv: asked.append((weights, kv)))
    LANGUAGE.check()
    STREAM.replace(reparameterized=False).check()
    model, network = LANGUAGE.model, STREAM.images.network
    assert asked == [
        (
            model.weight_bytes + LANGUAGE.images.weight_bytes,
            4 * (30 + 64 + 9 + 1) * model.kv_bytes_per_token,
        ),
        (2 * parameters(network, False), 0),
    ]
