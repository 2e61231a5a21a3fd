"""Joules by cause of continuous batching: they add up, and each is what a reader can work out."""

import gymnasium as gym
import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.energy import CAUSES
from papi_env.hardware.system import SYSTEMS
from papi_env.kernel import activation_bytes, macs
from papi_env.scenario import parse_scenario
from papi_env.simulation.engine import SAME_STEP
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.workload.serving import DRAFTS
from papi_env.workload.transformer import TRANSFORMERS

NAMES = tuple(f"{cause}_j" for cause in (*CAUSES, "idle"))
# KV caches of a few thousand tokens at most, so that requests are preempted and their prompts processed again.
TIGHT = {"base": "papi", "name": "papi-tight", "attn_pim": {"stacks": 1, "stack": {"banks_per_die": 16}}}


def engine_of(
    system="papi", num_envs=2, arguments=None, model="llama-65b", rate=40.0, lengths=None, **changes
):
    given = {
        "name": "test",
        "system": system,
        "model": model,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "lengths": lengths or {"input": 400, "output": 30},
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.1},
            "requests": 40,
            "max_running": 16,
            **changes,
        },
    }
    engine = ServingEngine(parse_scenario(given, "test"), num_envs, **(arguments or {}))
    engine.start(list(range(num_envs)))
    return engine


def causes_of(engine):
    return engine.clocks[:, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES]


def play(engine, steps=120, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        engine.actions[:] = rng.integers(0, at.NVEC, engine.actions.shape)
        engine.step()
    return engine


def check_sums(engine):
    m = engine.metrics()
    np.testing.assert_allclose(sum(m[name] for name in NAMES), m["total_j"], rtol=1e-12)
    np.testing.assert_allclose(sum(m[name] for name in NAMES[:-1]), m["dynamic_j"], rtol=1e-12)
    power = engine.scenario.system.static_power_w
    np.testing.assert_allclose(m["idle_j"], power * m["time_s"], rtol=1e-12)
    assert all((m[name] >= 0).all() for name in NAMES)
    return m


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("model", ["llama2-70b", "opt-30b"])
def test_causes_add_up_to_all_joules(system, model):
    try:
        engine = engine_of(system, model=model)
    except ConfigurationError:
        pytest.skip("does not fit")
    for steps in (1, 5, 120):
        m = check_sums(play(engine, steps))
    assert (m["prefilled_tokens"] > 0).all()
    assert (m["draft_s"] > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"dual_row_buffers": True},
        {"draft_cost": False},
        {"prefill": False},
        {"switching": False},
        {"drift": {"period_s": 0.5}},
        {"chunk_tokens": 64},
    ],
)
def test_they_add_up_whatever_is_simulated(changes):
    check_sums(play(engine_of(**changes)))


def test_prompts_processed_again_have_their_causes():
    # Requests that all grow.
    engine = engine_of(TIGHT, rate=1000.0, lengths={"input": 200, "output": 400})
    for _ in range(600):
        engine.actions[:] = (at.PU, 0, at.ALL, 0)
        engine.step()
    m = check_sums(engine)
    assert (m["recomputed_tokens"] > 0).all()


def test_an_iteration_that_decodes_on_gpus_by_hand():
    engine = engine_of("a100", num_envs=1, rate=1e6, prefill=False)
    for admission in (at.ALL, at.ALL, at.NONE):
        before = causes_of(engine)[0].copy()
        rlp = engine.counters[0, at.RLP]
        contexts = engine.state.contexts[0, :rlp].sum() + rlp
        engine.actions[:] = (at.PU, 0, admission, 0)
        engine.step()
    assert rlp == 16
    found = causes_of(engine)[0] - before
    system, model = engine.scenario.system, TRANSFORMERS["llama-65b"]
    size = sum(k.count * (k.weight_bytes + activation_bytes(k, rlp)) for k in model.fc_kernels())
    size += contexts * model.kv_bytes_per_token
    multiplies = sum(k.count * macs(k, rlp) for k in model.fc_kernels())
    multiplies += model.layers * contexts * model.attention_kernel().macs_per_context_token
    opened = size / dram.ROW_BYTES * dram.ACTIVATION_J
    expected = [
        opened,
        size * dram.READ_J_PER_BYTE,
        size * (system.pu.memory_j_per_byte - dram.READ_J_PER_BYTE) - opened,
        multiplies * system.pu.mac_j,
        0.0,
        # Both blocks of a layer: to where a node's share is summed, and back, over five of six nodes.
        model.layers * 2 * 2 * 5 * rlp * model.hidden * 2 * system.fabric.j_per_byte,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("system", ["a100", "papi", "attacc-only"])
def test_a_chunk_of_a_prompt_by_hand(system):
    engine = engine_of(system, num_envs=1, rate=1e-3, chunk_tokens=256)
    engine.actions[:] = (at.PU, 0, at.ALL, 0)
    engine.step()
    assert engine.counters[0, at.LAST_CHUNK] == 256
    machine, model = engine.scenario.system, TRANSFORMERS["llama-65b"]
    kernel, pairs = model.attention_kernel(), 256 * 257 // 2
    link = 0.0
    if machine.prefill_unit == "pu":
        attention = costs.pu_prompt_energy(machine.pu, kernel, 256, pairs)
        fc = [costs.pu_fc_energy(machine.pu, k, 256) for k in model.fc_kernels()]
        vectors = 0
    else:
        attention = costs.pim_attention_energy(machine.attn_pim, kernel, pairs / 16 + 256 / 2, 1, 1)
        fc = [costs.pim_fc_energy(machine.fc_pim, k, 256) for k in model.fc_kernels()]
        vectors = 2 * model.layers * 256 * model.hidden * 2
    if machine.attn_pim is not None:
        link = (vectors + 256 * model.kv_bytes_per_token) * machine.attention_link.j_per_byte
    link += float(engine.tables.moves[256, 1])  # combining outputs
    for k, cause in enumerate(CAUSES[:-1]):
        expected = kernel.count * getattr(attention, cause)
        expected += sum(
            one.count * getattr(part, cause) for one, part in zip(model.fc_kernels(), fc, strict=True)
        )
        if cause == "transfer" and machine.prefill_unit != "pu":
            expected += sum(one.count * machine.stack_sum_j(one, 256) for one in model.fc_kernels())
        assert causes_of(engine)[0, k] == pytest.approx(float(expected), rel=1e-9), cause
    assert causes_of(engine)[0, at.LINK] == pytest.approx(link, rel=1e-9)


def test_drafts_read_and_multiply_but_cross_no_link():
    """Speculation with a draft model that costs something, less the same where it costs nothing."""
    found = []
    for costly in (True, False):
        engine = engine_of("papi", num_envs=1, rate=1e6, prefill=False, draft_cost=costly)
        for speculation, admission in ((0, at.ALL), (0, at.ALL), (2, at.NONE)):
            before, rlp = causes_of(engine)[0].copy(), engine.counters[0, at.RLP]
            # Speculation length 4.
            contexts = engine.state.contexts[0, :rlp].sum() + 4 * rlp
            engine.actions[:] = (at.PU, speculation, admission, 0)
            engine.step()
        found.append(causes_of(engine)[0] - before)
    more = found[0] - found[1]
    assert rlp > 6  # so that each of six GPUs drafts for a request
    draft, pu = DRAFTS[engine.scenario.serving.speculation.draft], engine.scenario.system.pu
    share = -(-rlp // pu.count)
    size = sum(k.count * pu.count * (k.weight_bytes + activation_bytes(k, share)) for k in draft.fc_kernels())
    size += contexts * draft.kv_bytes_per_token
    assert more[CAUSES.index("read")] == pytest.approx(3 * size * dram.READ_J_PER_BYTE, rel=1e-6)
    assert more[CAUSES.index("compute")] > 0
    assert abs(more[CAUSES.index("background")]) < 1e-9
    assert abs(more[at.LINK]) < 1e-9


def test_environments_of_a_batch_have_the_causes_of_single_ones():
    arguments = {"autoreset": SAME_STEP, "max_steps": 50}
    many = engine_of(num_envs=3, arguments=arguments)
    singles = [engine_of(num_envs=1, arguments=arguments) for _ in range(3)]
    for e, single in enumerate(singles):
        single.start([e])
    rng = np.random.default_rng(1)
    for _ in range(90):
        many.actions[:] = rng.integers(0, at.NVEC, many.actions.shape)
        many.step()
        for e, single in enumerate(singles):
            single.actions[0] = many.actions[e]
            single.step()
            assert causes_of(single)[0].tobytes() == causes_of(many)[e].tobytes()
            assert single.final_clocks[0].tobytes() == many.final_clocks[e].tobytes()


def test_waiting_is_idle():
    engine = engine_of(num_envs=1, rate=1e-3)
    for _ in range(200):
        engine.actions[:] = (at.PU, 0, at.ALL, 0)
        engine.step()
    m = check_sums(engine)
    assert m["idle_share"][0] > 0.5
    assert m["idle_j"][0] > m["dynamic_j"][0]


def test_the_environment_gives_them_at_the_end_of_an_episode():
    env = gym.make("papi_env/Serving-v0", scenario=engine_of().scenario)
    env.reset(seed=0)
    over, info = False, {}
    while not over:
        *_, terminated, truncated, info = env.step([at.FC_PIM, 1, at.ALL, 0])
        over = terminated or truncated
    m = info["metrics"]
    assert sum(m[name] for name in NAMES) == pytest.approx(m["total_j"], rel=1e-12)


def test_without_causes_everything_else_is_the_same():
    kept, left_out = (
        play(engine_of(arguments={"causes": causes, "autoreset": SAME_STEP, "max_steps": 70}))
        for causes in (True, False)
    )
    assert np.ascontiguousarray(kept.clocks[:, : at.CAUSE_J]).tobytes() == left_out.clocks.tobytes()
    for name in ("counters", "observations", "rewards"):
        assert getattr(kept, name).tobytes() == getattr(left_out, name).tobytes()
    one, other = kept.metrics(), left_out.metrics()
    assert tuple(one) == tuple(other)
    for name, values in one.items():
        if name in NAMES[:-1]:
            assert np.isfinite(values).all()
            assert np.isnan(other[name]).all()
        else:
            assert values.tobytes() == other[name].tobytes()


def test_looking_ahead_goes_on_with_the_causes_of_its_environment():
    engine = play(engine_of())
    ahead = engine.fork(1, 2)
    ahead.actions[:] = engine.actions[:] = (at.PU, 1, at.ALL, 0)
    ahead.step()
    engine.step()
    assert causes_of(ahead).tobytes() == causes_of(engine)[[1, 1]].tobytes()
