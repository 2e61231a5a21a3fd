"""The engine conserves tokens, follows the hardware functions, and keeps its accounts."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.hardware.system import SYSTEMS, get_system
from papi_env.hardware.units import ATTN_PIM, FC_PIM, PU
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.decode_tables import attention_with_room
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.loop import within
from papi_env.simulation.batch.tokens import survey
from papi_env.workload.attention import SlidingWindows
from papi_env.workload.formats import ElementFormat
from papi_env.workload.requests import Lengths
from papi_env.workload.transformer import PRESET_MODELS, TRANSFORMERS


def scenario(**changes):
    small = {"batch_size": 8, "speculation": 2} | changes
    return get_scenario("creative-writing/llama-65b").replace(**small)


def play(engine, choose=lambda engine: 0, record=None):
    while not (engine.counters[:, at.DONE] == 1).all():
        engine.actions[:] = choose(engine)
        engine.step()
        if record is not None:
            record.append(
                (
                    engine.counters.copy(),
                    engine.clocks.copy(),
                    engine.contexts.copy(),
                    engine.remaining.copy(),
                )
            )
    return engine


def started(scenario, num_envs=4, **arguments):
    engine = DecodeEngine(scenario, num_envs, **arguments)
    engine.counters[:, at.SEED] = np.arange(num_envs)
    engine.reset()
    return engine


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("speculation", [1, 3, 8])
def test_every_requested_token_is_decoded_exactly_once(acceptance, speculation):
    engine = started(scenario(speculation=speculation, acceptance_rate=acceptance))
    asked = engine.remaining.sum(axis=1)
    record = []
    play(engine, record=record)
    assert (engine.metrics()["tokens"] == asked).all()
    per_step = np.diff(np.array([0 * asked] + [c[:, at.DECODED] for c, *_ in record]), axis=0)
    rows = np.array([c[:, at.LAST_N] for c, *_ in record])
    assert (per_step >= 0).all()
    assert (per_step <= rows).all()


def test_a_rejected_draft_still_advances_by_one_token():
    engine = started(scenario(speculation=4, acceptance_rate=0.0))
    longest = engine.remaining.max(axis=1)
    play(engine)
    assert (engine.metrics()["iterations"] == longest).all()


def test_with_full_acceptance_iterations_are_the_longest_output_over_tlp():
    engine = started(scenario(speculation=4))
    longest = engine.remaining.max(axis=1)
    play(engine)
    assert (engine.metrics()["iterations"] == -(-longest // 4)).all()


def test_the_path_does_not_depend_on_actions():
    records = []
    for choose in (lambda e: PU, lambda e: FC_PIM, lambda e: e.counters[:, [at.ITERATION]] % 2):
        records.append([])
        play(started(scenario(acceptance_rate=0.6, speculation=4)), choose, records[-1])
    paths = [
        [(c[:, [at.RLP, at.CONTEXT_SUM, at.GROUP_SUM, at.DECODED]]).tolist() for c, *_ in r] for r in records
    ]
    assert paths[0] == paths[1] == paths[2]


def test_context_sums_are_those_of_the_active_requests():
    engine = started(scenario(acceptance_rate=0.5, speculation=4))
    record = []
    play(engine, record=record)
    for counters, _, contexts, _ in record[::7]:
        for e in range(len(counters)):
            rlp, tlp = counters[e, at.RLP], counters[e, at.TLP]
            ahead = contexts[e, :rlp].astype(np.int64) + tlp
            groups = -(-ahead // GROUP_TOKENS)
            assert counters[e, at.CONTEXT_SUM] == ahead.sum()
            assert counters[e, at.GROUP_SUM] == groups.sum()
            assert counters[e, at.GROUP_MAX] == (groups.max() if rlp else 0)
            # Heads of 128 FP16 elements: a DRAM row of every bank holds the keys of 256 tokens.
            assert counters[e, at.KEY_ROW_SUM] == (-(-groups // 16)).sum()
            assert counters[e, at.KEY_ROW_MAX] == (-(-groups.max() // 16) if rlp else 0)


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("choices", [1, at.NUM_CHOICES])
def test_accounts_add_up(system, choices):
    # An eighth of the layers, so that it fits the smallest system.
    model = TRANSFORMERS["opt-30b"].model_copy(update={"layers": 6})
    engine = started(scenario(system=system, model=model, energy_weight=0.01), choices=choices)
    play(engine, lambda e: np.full((e.num_envs, choices), int(e.tables.defaults[0])))
    m = engine.metrics()
    busy = m["busy_pu_s"] + m["busy_fc-pim_s"] + m["busy_attn-pim_s"]
    classes = sum(m[f"{kind}_s"] for kind in at.KERNEL_CLASSES)
    np.testing.assert_allclose(busy, classes, rtol=1e-12)
    parts = classes + m["communication_s"] + m["switching_s"] + m["other_s"]
    np.testing.assert_allclose(parts, m["time_s"], rtol=1e-12)
    np.testing.assert_allclose(m["total_s"], m["time_s"] + m["prefill_s"], rtol=1e-12)
    np.testing.assert_allclose(m["static_j"], m["time_s"] * get_system(system).static_power_w, rtol=1e-12)
    reference = engine.tables.scalars[at.REFERENCE]
    charged = m["time_s"] + 0.01 * (m["dynamic_j"] + m["static_j"])
    np.testing.assert_allclose(m["return"], -charged / reference, rtol=1e-9)
    for name, values in m.items():
        assert np.isfinite(values).all(), name
        assert (values < 0).all() if name == "return" else (values >= 0).all(), name


# Keys and values of other sizes and widths too.
_GROUPED = TRANSFORMERS["llama-3.1-8b"]
MODELS = [
    *PRESET_MODELS.values(),
    _GROUPED,
    TRANSFORMERS["qwen3-32b"],
    _GROUPED.model_copy(update={"kv_format": ElementFormat(elements="fp8")}),
    _GROUPED.model_copy(update={"kv_format": ElementFormat(elements="int4"), "head_dim": 256}),
    _GROUPED.model_copy(update={"windows": SlidingWindows(tokens=200, full_every=6)}),
    _GROUPED.model_copy(update={"windows": SlidingWindows(tokens=33)}),
    TRANSFORMERS["deepseek-v3"].model_copy(update={"experts": None, "layers": 4}),
]


@settings(max_examples=40, deadline=None)
@given(
    system=st.sampled_from(["papi", "a100-attacc", "a100-hbm-pim", "attacc-only", "papi-h100"]),
    model=st.sampled_from(MODELS),
    tlp=st.integers(1, 8),
    contexts=st.lists(st.integers(1, 1500), min_size=1, max_size=64),
)
def test_engine_attention_is_the_hardware_function(system, model, tlp, contexts):
    s = get_scenario("general-qa/llama-65b").replace(
        system=system,
        model=model,
        batch_size=len(contexts),
        speculation=tlp,
        lengths=Lengths(input=8, output=8),
    )
    engine = started(s, 1)
    engine.contexts[0] = contexts
    survey(0, engine.counters, engine.contexts, engine.tables.scalars)
    engine.actions[:] = int(engine.tables.defaults[0])
    engine.step()
    kernel, unit, attended = attention_with_room(s), s.system.attn_pim, np.array(contexts) + tlp
    seconds = [costs.pim_attention_s(unit, kernel, attended, tlp)] * kernel.count
    if model.windows is not None:
        near = costs.pim_attention_s(unit, kernel, np.minimum(attended, model.windows.tokens + tlp - 1), tlp)
        seconds[: model.windowed_layers] = [near] * model.windowed_layers
    expected = sum(seconds) + kernel.count * s.system.pim_start_s
    assert engine.counters[0, at.LAST_UNIT + at.ATTENTION] == ATTN_PIM
    assert engine.clocks[0, at.LAST_CLASS_S + at.ATTENTION] == pytest.approx(float(expected), rel=1e-12)


def test_overhead_of_the_layers_is_charged_every_iteration():
    free, charged = scenario(), scenario().model_dump()
    charged["system"]["layer_overhead_s"] = 20e-6
    charged = parse_scenario(charged, "test")
    plain, slowed = (play(started(s, 2)).metrics() for s in (free, charged))
    expected = slowed["iterations"] * free.model.layers * 20e-6
    np.testing.assert_allclose(slowed["other_s"], expected, rtol=1e-12)
    np.testing.assert_allclose(slowed["time_s"] - plain["time_s"], expected, rtol=1e-9)


def test_speculation_follows_its_schedule():
    data = scenario().model_dump()
    data["workload"]["speculation_schedule"] = ((3, 4), (6, 1))
    engine = started(parse_scenario(data, "test"), 2)
    seen = []
    for _ in range(8):
        seen.append(int(engine.counters[0, at.TLP]))
        engine.step()
    assert seen == [2, 2, 2, 4, 4, 4, 1, 1]


def test_crossings_are_counted_by_layer_and_iteration():
    engine = started(scenario(), 1, choices=at.NUM_CHOICES, default_switch_s=1e-6)
    layers = engine.scenario.model.layers
    # QKV on the PUs, the rest on FC-PIM: two crossings a layer, but the last layer hands on to nobody.
    engine.actions[:, :4] = [PU, ATTN_PIM, FC_PIM, FC_PIM]
    engine.step()
    assert engine.counters[0, at.SWITCHES] == 2 * layers - 1
    assert engine.clocks[0, at.LAST_SWITCHING_S] == pytest.approx((2 * layers - 1) * 1e-6)
    # The next iteration starts on the PUs again: one crossing more than within it.
    engine.step()
    assert engine.counters[0, at.SWITCHES] == 4 * layers - 1
    engine.actions[:, :4] = [FC_PIM, ATTN_PIM, FC_PIM, FC_PIM]
    engine.step()
    assert engine.counters[0, at.SWITCHES] == 4 * layers - 1


def test_attention_on_the_pus_pays_for_reading_the_caches_over_the_link():
    engine = started(scenario(), 1, choices=at.NUM_CHOICES)
    engine.actions[:] = PU
    context = int(engine.counters[0, at.CONTEXT_SUM])
    engine.step()
    model, link = engine.scenario.model, engine.scenario.system.attention_link
    floor = context * model.kv_bytes_per_token / link.total_bandwidth
    spent = engine.clocks[0, at.LAST_COMMUNICATION_S] + engine.clocks[0, at.LAST_CLASS_S + at.ATTENTION]
    assert spent > floor


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 128),
    tlp=st.integers(1, 8),
    acceptance=st.floats(0, 1),
    envs=st.integers(1, 5),
)
def test_any_batch_ends_with_all_tokens(batch, tlp, acceptance, envs):
    s = scenario(
        batch_size=batch, speculation=tlp, acceptance_rate=acceptance, lengths=Lengths(input=5, output=40)
    )
    engine = play(started(s, envs))
    assert (engine.metrics()["tokens"] == 40 * batch).all()
    assert engine.metrics()["iterations"].max() <= engine.max_iterations


def test_num_envs_must_be_positive():
    with pytest.raises(ValueError, match="num_envs is 0"):
        DecodeEngine(scenario(), 0)


def test_a_batch_that_does_not_fit_is_refused_with_its_sizes():
    s = get_scenario("azure-conversation/gpt3-175b").replace(batch_size=128)
    with pytest.raises(
        ConfigurationError, match=r"KV caches need [\d.]+ GB, but the KV stacks hold 1030\.8 GB"
    ):
        DecodeEngine(s, 1)


def test_state_of_a_full_batch_stays_under_4_kib():
    assert DecodeEngine(scenario(batch_size=128), 2).state_bytes_per_env < 4096


def test_figures_without_a_finite_cost_are_refused():
    # Past the checks of its fields.
    s = scenario()
    link = s.system.attention_link.model_copy(update={"bandwidth": 1e-305})
    extreme = s.model_copy(update={"system": s.system.model_copy(update={"attention_link": link})})
    with pytest.raises(ConfigurationError, match="not a finite number of seconds"):
        DecodeEngine(extreme, 1)


@pytest.mark.parametrize("choices", [1, at.NUM_CHOICES])
def test_an_engine_has_the_observations_that_it_wrote_to_its_caller_alone(choices):
    env = gym.make_vec(
        "papi_env/Decode-v0" if choices == 1 else "papi_env/Kernels-v0",
        num_envs=5,
        scenario=scenario(acceptance_rate=0.6),
        copy=True,
        autoreset_mode="SameStep",
    )
    engine = env.unwrapped.engine
    first = env.reset(seed=3)[0]
    np.testing.assert_array_equal(engine.observations, first)
    for step in range(60):
        seen = env.step(np.zeros(env.action_space.shape, dtype=np.int64))[0]
        if step % 3 == 0:
            np.testing.assert_array_equal(engine.observations, seen)
    # Where some begin anew, the others are as the last step left them.
    mask = np.array([True, False, False, True, False])
    np.testing.assert_array_equal(env.reset(options={"reset_mask": mask})[0][~mask], seen[~mask])


def test_a_copy_draws_what_the_engine_had_drawn_ahead():
    engine = started(scenario(speculation=4, acceptance_rate=0.7), 6)
    for steps in (1, 5, 40):
        twin = pickle.loads(pickle.dumps(engine)) if steps == 5 else engine.clone()
        for _ in range(steps):
            for one in (engine, twin):
                one.step()
        for mine, other in zip(engine.state, twin.state, strict=True):
            assert mine.tobytes() == other.tobytes()


@pytest.mark.parametrize("count", [*range(10), 4096 * 7])
def test_one_number_outside_is_found_wherever_it_stands(count):
    numbers, limit = np.arange(count) % 3, np.uint64(3)
    assert within(numbers, limit)
    for place in range(0, count, max(1, count // 50)):
        kept = numbers[place]
        for outside in (3, -1):
            numbers[place] = outside
            assert not within(numbers, limit)
        numbers[place] = kept
    assert within(numbers, limit)
