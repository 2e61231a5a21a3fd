"""Joules by cause of static batches and image encodes: they add up, and each is what a reader can work out."""

import gymnasium as gym
import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.energy import CAUSES
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.units import ATTN_PIM, FC_PIM, PU, UNIT_NAMES
from papi_env.kernel import activation_bytes, macs
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import METRIC_NAMES, DecodeEngine
from papi_env.simulation.engine import SAME_STEP

NAMES = tuple(f"{cause}_j" for cause in (*CAUSES, "idle"))
TEXT = "creative-writing/opt-30b"
SWITCH_S = 2e-6


def engine_of(scenario, system="papi", num_envs=2, choices=1, seed=0, **arguments):
    changed = get_scenario(scenario).replace(system=system)
    if changed.workload is not None:
        changed = changed.replace(batch_size=6, speculation=4, acceptance_rate=0.7)
    engine = DecodeEngine(changed, num_envs, choices=choices, default_switch_s=SWITCH_S, **arguments)
    engine.start([seed + e for e in range(num_envs)])
    return engine


def play(engine, steps=40, seed=0):
    """Random units, the invalid among them too."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        engine.actions[:] = rng.integers(0, 2 if engine.actions.shape[1] == 1 else 3, engine.actions.shape)
        engine.step()
    return engine


def total(metrics):
    return sum(metrics[name] for name in NAMES)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("scenario", "choices"),
    [(TEXT, 1), (TEXT, 7), ("creative-writing/llama2-70b", 7), ("vision-stream", 7), ("vision-language", 7)],
)
def test_causes_add_up_to_all_joules(scenario, choices, system):
    try:
        engine = engine_of(scenario, system, choices=choices)
    except ConfigurationError:
        pytest.skip("does not fit")
    for steps in (1, 40):
        m = play(engine, steps).metrics()
        np.testing.assert_allclose(total(m), m["total_j"], rtol=1e-12)
        np.testing.assert_allclose(m["idle_j"], SYSTEMS[system].static_power_w * m["total_s"], rtol=1e-12)
        assert all((m[name] >= 0).all() for name in NAMES)
        of_steps = engine.clocks[:, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum(axis=1)
        np.testing.assert_allclose(of_steps, m["dynamic_j"], rtol=1e-12)


@pytest.mark.parametrize("scenario", [TEXT, "vision-stream"])
def test_nothing_is_on_links_where_there_are_none(scenario):
    # One GPU, whose own stacks hold weights and KV caches.
    alone = SYSTEMS["papi-1gpu"].model_copy(update={"fabric": None})
    changes = {} if scenario == "vision-stream" else {"batch_size": 1}
    engine = DecodeEngine(get_scenario(scenario).replace(system=alone, **changes), 2, choices=7)
    engine.start([0, 1])
    m = play(engine).metrics()
    assert (m["total_j"] > 0).all()
    assert (m["link_j"] == 0).all()


def first_iteration(system, unit):
    """Joules by cause of the first iteration with all FC kernels on a unit, and what it worked on."""
    engine = engine_of(TEXT, system, num_envs=1)
    counters = engine.counters[0].copy()
    engine.actions[:] = unit
    engine.step()
    return dict(zip(CAUSES, engine.clocks[0, at.CAUSE_J :], strict=False)), counters


def test_an_iteration_on_gpus_by_hand():
    found, work = first_iteration("a100", PU)
    system, model = SYSTEMS["a100"], get_scenario(TEXT).model
    n, tokens = work[at.RLP] * work[at.TLP], work[at.CONTEXT_SUM]
    assert n == 24
    kernels = model.fc_kernels()
    size = sum(k.count * (k.weight_bytes + activation_bytes(k, n)) for k in kernels)
    size += tokens * model.kv_bytes_per_token
    multiplies = sum(k.count * macs(k, n) for k in kernels)
    multiplies += model.layers * work[at.TLP] * tokens * model.attention_kernel().macs_per_context_token
    opened = size / dram.ROW_BYTES * dram.ACTIVATION_J
    # Both blocks of a layer: to where a node's share is summed, and back, over five of six nodes.
    moved = model.layers * 2 * 2 * 5 * n * model.hidden * 2
    expected = {
        "activation": opened,
        "read": size * dram.READ_J_PER_BYTE,
        "transfer": size * (system.pu.memory_j_per_byte - dram.READ_J_PER_BYTE) - opened,
        "compute": multiplies * system.pu.mac_j,
        "background": 0.0,
        "link": moved * system.fabric.j_per_byte,
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_an_iteration_on_pim_by_hand():
    found, work = first_iteration("papi", FC_PIM)
    system, model = SYSTEMS["papi"], get_scenario(TEXT).model
    n, groups = work[at.RLP] * work[at.TLP], work[at.GROUP_SUM]
    fc, attn = system.fc_pim, system.attn_pim
    kernels = model.fc_kernels()
    parts = [(k.count, costs.pim_fc_energy(fc, k, n)) for k in kernels]
    attention = costs.pim_attention_energy(
        attn, model.attention_kernel(), groups, int(work[at.TLP]), int(work[at.RLP])
    )
    parts.append((model.layers, attention))
    expected = {name: sum(count * getattr(part, name) for count, part in parts) for name in CAUSES[:-1]}
    expected["transfer"] += sum(k.count * system.stack_sum_j(k, n) for k in kernels)
    # Weights are read once for all rows; keys and values once for each of a request's queries.
    weights = sum(k.count * k.weight_bytes for k in kernels)
    held = groups * dram.GROUP_TOKENS * model.kv_bytes_per_token
    reads = costs.pim_reads(attn, model.attention_kernel().rows_per_kv_head(int(work[at.TLP])))
    assert expected["read"] == pytest.approx((weights + reads * held) * dram.READ_J_PER_BYTE, rel=1e-9)
    # Queries, keys and values there, outputs back; and both blocks combined over six nodes.
    vectors = model.layers * n * 2 * (2 * model.hidden + 2 * model.kv_width)
    combined = model.layers * 2 * 2 * 5 * n * model.hidden * 2
    expected["link"] = vectors * system.attention_link.j_per_byte + combined * system.fabric.j_per_byte
    assert found == pytest.approx(expected, rel=1e-9)


def test_kernels_on_both_units_have_each_their_own_causes_and_crossings_are_on_links():
    """What an iteration with mixed units takes is put together from those with one unit."""

    def causes_of(qkv, projection, feed_forward):
        engine = engine_of(TEXT, num_envs=1, choices=7)
        engine.actions[:] = [[qkv, ATTN_PIM, projection, feed_forward, 0, 0, 0]]
        engine.step()
        return engine.clocks[0, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].copy(), engine

    pu, _ = causes_of(PU, PU, PU)
    one, engine = causes_of(FC_PIM, PU, PU)
    two, _ = causes_of(PU, FC_PIM, FC_PIM)
    pim, _ = causes_of(FC_PIM, FC_PIM, FC_PIM)
    np.testing.assert_allclose((one + two)[: at.LINK], (pu + pim)[: at.LINK], rtol=1e-12)
    layers = get_scenario(TEXT).model.layers
    crossings = engine.counters[0, at.SWITCHES]
    assert crossings == 2 * layers - 1
    crossing = engine.tables.moves[24, at.CROSSING_J]
    assert crossing > 0
    assert one[at.LINK] == pytest.approx(pu[at.LINK] + crossings * crossing, rel=1e-12)
    assert pim[at.LINK] == pu[at.LINK]


def test_attention_away_from_its_keys_and_values_has_them_on_the_link():
    link = []
    for attention in (PU, ATTN_PIM):
        engine = engine_of(TEXT, num_envs=1, choices=7)
        tokens = engine.counters[0, at.CONTEXT_SUM]
        engine.actions[:] = [[PU, attention, PU, PU, 0, 0, 0]]
        engine.step()
        link.append(engine.clocks[0, at.CAUSE_J + at.LINK])
    system, model = SYSTEMS["papi"], get_scenario(TEXT).model
    # Then no query has to go there, and no output back.
    vectors = 2 * model.layers * 24 * model.hidden * 2
    more = tokens * model.kv_bytes_per_token - vectors
    assert link[0] - link[1] == pytest.approx(more * system.attention_link.j_per_byte, rel=1e-9)


@pytest.mark.parametrize(("scenario", "choices"), [(TEXT, 1), (TEXT, 7), ("vision-language", 7)])
def test_without_causes_everything_else_is_the_same(scenario, choices):
    kept, left_out = (
        play(engine_of(scenario, choices=choices, causes=causes, autoreset=SAME_STEP), 60)
        for causes in (True, False)
    )
    width = left_out.clocks.shape[1]
    assert kept.clocks[:, :width].tobytes() == left_out.clocks.tobytes()
    for name in ("counters", "observations", "rewards"):
        assert getattr(kept, name).tobytes() == getattr(left_out, name).tobytes()
    # Rows with causes have a line for stages, too.
    lines = 2 if choices == 1 else 1
    assert left_out.state_bytes_per_env == kept.state_bytes_per_env - 64 * lines
    one, other = kept.metrics(), left_out.metrics()
    assert tuple(one) == tuple(other) == METRIC_NAMES
    for name in METRIC_NAMES:
        if name in NAMES[:-1]:
            assert np.isfinite(one[name]).all()
            assert np.isnan(other[name]).all()
        else:
            assert one[name].tobytes() == other[name].tobytes()


def test_environments_of_a_batch_have_the_causes_of_single_ones():
    many = engine_of(TEXT, num_envs=3, choices=7, autoreset=SAME_STEP, max_steps=25)
    singles = [
        engine_of(TEXT, num_envs=1, choices=7, seed=e, autoreset=SAME_STEP, max_steps=25) for e in range(3)
    ]
    rng = np.random.default_rng(1)
    for _ in range(60):
        many.actions[:] = rng.integers(0, len(UNIT_NAMES), many.actions.shape)
        many.step()
        for e, single in enumerate(singles):
            single.actions[0] = many.actions[e]
            single.step()
            assert single.clocks[0].tobytes() == many.clocks[e].tobytes()
            assert single.final_clocks[0].tobytes() == many.final_clocks[e].tobytes()
    found, ended = many.metrics(), many.final_metrics(np.arange(3))
    for e, single in enumerate(singles):
        for name in NAMES:
            assert single.metrics()[name][0] == found[name][e]
            assert single.final_metrics(np.arange(1))[name][0] == ended[name][e]


def test_single_environments_keep_causes_and_batches_are_asked():
    env = gym.make("papi_env/Decode-v0", scenario=TEXT, batch_size=2, max_episode_steps=None)
    env.reset(seed=0)
    over, info = False, {}
    while not over:
        *_, over, _, info = env.step(0)
    m = info["metrics"]
    assert sum(m[name] for name in NAMES) == pytest.approx(m["total_j"], rel=1e-12)
    for causes in (True, False):
        envs = gym.make_vec("papi_env/Decode-v0", num_envs=2, scenario=TEXT, batch_size=2, causes=causes)
        envs.reset(seed=0)
        envs.step(np.zeros(2, dtype=np.int64))
        metrics = envs.metrics()
        assert np.isfinite(metrics["read_j"]).all() == causes
        assert np.isfinite(metrics["idle_j"]).all()
