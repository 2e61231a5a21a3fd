"""What static batches make of models beyond the paper's: LM heads, narrower numbers, windows, latent attention."""

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.system import get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.decode_tables import attention_with_room
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.tables import build_tables
from papi_env.simulation.batch.tokens import survey
from papi_env.simulation.prefill import Prefill, prompt_work
from papi_env.workload.attention import SlidingWindows
from papi_env.workload.formats import ElementFormat
from papi_env.workload.requests import Lengths
from papi_env.workload.transformer import TRANSFORMERS

LLAMA, DEEPSEEK = TRANSFORMERS["llama-3.1-8b"], TRANSFORMERS["deepseek-v3"]
BASE = get_scenario("general-qa/llama-65b")
# As DeepSeek-V3 without its experts, which would not fit.
LATENT = DEEPSEEK.model_copy(update={"experts": None})


def scenario(model, **changes):
    given = {"lengths": Lengths(input=300, output=20), "batch_size": 4, "speculation": 2, "system": "papi"}
    return BASE.replace(model=model, **{**given, **changes})


def started(model, **changes):
    engine = DecodeEngine(scenario(model, **changes))
    engine.reset()
    return engine


def test_an_lm_head_takes_its_kernel_with_a_row_for_each_token_verified():
    without = LLAMA.model_copy(update={"lm_head": False})
    found, plain = (build_tables(scenario(model), 0.0) for model in (LLAMA, without))
    head = CostTable(get_system("papi"), [LLAMA.lm_head_kernel()])
    rows = np.arange(1025)
    for unit in (PU, FC_PIM):
        more = found.fc[:, unit, :, at.COST_S] - plain.fc[:, unit, :, at.COST_S]
        np.testing.assert_allclose(more[2], head.cost(0, unit, rows)[0], rtol=1e-6, atol=1e-12)
        assert not more[:2].any()
    # 128256 x 4096 weights in FP16, at the least.
    assert found.fc[2, PU, 1, 0] - plain.fc[2, PU, 1, 0] > 128256 * 4096 * 2 / (6 * 3352e9)


def test_prompts_need_logits_of_their_last_token_alone():
    system, without = get_system("papi"), LLAMA.model_copy(update={"lm_head": False})
    tokens, pairs = np.array([800]), np.array([100_000])
    more = (
        Prefill(system, LLAMA).cost(tokens, pairs, 8)[0] - Prefill(system, without).cost(tokens, pairs, 8)[0]
    )
    assert more[0] == pytest.approx(float(costs.pu_fc_s(system.pu, LLAMA.lm_head_kernel(), 8)), rel=1e-6)
    causes = Prefill(system, LLAMA).causes(tokens, pairs, 8)
    np.testing.assert_allclose(
        causes.sum(axis=-1), Prefill(system, LLAMA).cost(tokens, pairs, 8)[1], rtol=1e-12
    )


def test_weights_of_four_bits_are_faster_and_cheaper_where_weights_are_what_counts():
    large = TRANSFORMERS["llama-3.1-70b"]
    narrow = large.model_copy(update={"weight_format": ElementFormat(elements="int4")})
    wide, thin = (build_tables(scenario(model), 0.0) for model in (large, narrow))
    # The LM head keeps its 16 bits.
    assert (thin.fc[:2, PU, 1, at.COST_S] < 0.7 * wide.fc[:2, PU, 1, at.COST_S]).all()
    assert (thin.fc[:2, FC_PIM, 1:65, at.COST_J] < wide.fc[:2, FC_PIM, 1:65, at.COST_J]).all()
    joules = thin.fc[..., at.COST_CAUSES :].sum(axis=-1)
    np.testing.assert_allclose(joules[:, :2], thin.fc[:, :2, :, at.COST_J], rtol=1e-9)


def test_layers_with_windows_attend_to_what_is_inside():
    window, layers = 100, 32 - 32 // 4
    model = LLAMA.model_copy(update={"windows": SlidingWindows(tokens=window, full_every=4)})
    plain, near = started(LLAMA), started(model)
    # Models without pay nothing.
    assert [e.counters.shape[1] for e in (plain, near)] == [at.NUM_COUNTERS, at.NUM_WINDOW_COUNTERS]
    # Three tokens of context, then 300: none of the first request is outside.
    for engine in (plain, near):
        engine.contexts[0] = [3, 50, 98, 300]
        engine.counters[0, at.RLP] = 4
    for engine in (plain, near):
        survey(0, engine.counters, engine.contexts, engine.tables.scalars)
    inside = [5, 52, 100, 101]  # with the two tokens that are verified; a window of each
    assert near.counters[0, at.NEAR_CONTEXT_SUM] == sum(inside)
    assert near.counters[0, at.NEAR_GROUP_SUM] == sum(-(-tokens // 16) for tokens in inside)
    assert near.counters[0, at.NEAR_GROUP_MAX] == 7
    assert near.counters[0, at.CONTEXT_SUM] == plain.counters[0, at.CONTEXT_SUM] == 3 + 50 + 98 + 300 + 8
    only_short = started(LLAMA)
    only_short.contexts[0] = [3, 50, 98, 99]
    survey(0, only_short.counters, only_short.contexts, only_short.tables.scalars)
    times = []
    for engine in (plain, near, only_short):
        engine.actions[:] = 0
        engine.step()
        times.append(engine.clocks[0, at.LAST_CLASS_S + at.ATTENTION])
    expected = (8 * times[0] + layers * times[2]) / 32
    assert times[1] == pytest.approx(expected, rel=1e-12)
    assert times[2] < times[1] < times[0]


def test_windows_are_followed_while_a_batch_decodes_and_its_joules_add_up():
    model = LLAMA.model_copy(update={"windows": SlidingWindows(tokens=305, layers=16)})
    engine = started(model, batch_size=3, lengths=Lengths(table="dolly-general-qa"))
    while not engine.counters[0, at.DONE]:
        counters, tlp = engine.counters[0], int(engine.counters[0, at.TLP])
        active = engine.contexts[0, : counters[at.RLP]] + tlp
        assert counters[at.NEAR_CONTEXT_SUM] == np.minimum(active, 305 + tlp - 1).sum()
        engine.step()
    of_steps = engine.clocks[0, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum()
    assert of_steps == pytest.approx(engine.metrics()["dynamic_j"][0], rel=1e-12)


def test_windows_spare_a_prompt_the_pairs_outside():
    model = LLAMA.model_copy(update={"windows": SlidingWindows(tokens=100, layers=8)})
    pairs = [int(started(m).counters[0, at.PREFILL_PAIRS]) for m in (LLAMA, model)]
    assert pairs[0] == 4 * 300 * 301 // 2
    # A quarter of the layers lacks the pairs of a query with keys 100 and more before it.
    assert pairs[1] == pairs[0] - 200 * 201 // 2
    whole = model.model_copy(update={"windows": SlidingWindows(tokens=4000)})
    engine = started(whole)
    assert engine.counters[0, at.NEAR_CONTEXT_SUM] == engine.counters[0, at.CONTEXT_SUM]


def test_latent_keys_and_values_are_kept_as_often_as_there_is_room():
    found = scenario(LATENT, system="a100-attacc", batch_size=4)
    # 4 requests of 321 tokens of 61 layers x 576 elements in 60 stacks of 16 GiB.
    assert found.kv_bytes == 4 * 321 * 61 * 576 * 2
    assert attention_with_room(found).most_copies == 60 * 16 * 2**30 // found.kv_bytes
    longer = scenario(LATENT, system="a100-attacc", batch_size=128, lengths=Lengths(input=4000, output=96))
    assert attention_with_room(longer).most_copies == 60 * 16 * 2**30 // (128 * 4097 * 61 * 576 * 2) == 27
    unit = longer.system.attn_pim
    mapping = costs.attention_mapping(unit, attention_with_room(longer), 64, 1)
    assert mapping.copies <= 27
    assert mapping.copies * mapping.heads >= 128
    assert costs.attention_mapping(unit, LATENT.attention_kernel(), 64, 1).copies == 1
    assert attention_with_room(scenario(LLAMA)).most_copies is None


def test_prompts_of_latent_attention_attend_by_heads_on_gpus_and_compressed_on_pim():
    a100, kernel = get_system("a100"), LATENT.attention_kernel()
    work = prompt_work(a100, LATENT)
    rate = 6 * 312e12 * 0.8
    assert work.pair_compute_s == pytest.approx(2 * 61 * 128 * (192 + 128) / rate)
    assert kernel.macs_per_context_token == 128 * (576 + 512)
    # Queries to the stacks, keys with them; outputs back.
    pim, link = prompt_work(get_system("attacc-only"), LATENT), get_system("attacc-only").attention_link
    assert pim.link_s == pytest.approx(61 * (576 + 128 * 576) * 2 / link.total_bandwidth)
    assert pim.link_j == pytest.approx(61 * (576 + 128 * 576 + 128 * 512) * 2 * link.j_per_byte)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 673.1 GB of FP8 weights; 30 stacks of 12 GiB.
        ({"model": "deepseek-v3"}, r"weights need 673.1 GB \(weights 673.1, KV 5.8\), .* hold 386.5 GB"),
        ({"model": "llama-3.1-70b", "system": "papi-1gpu"}, r"need 1\d\d.\d GB \(weights 141.1, KV"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_sizes(changes, message):
    data = {
        "name": "large",
        "system": "papi",
        "workload": {"lengths": {"input": 1000, "output": 280}, "batch_size": 64, "speculation": 1},
        **changes,
    }
    with pytest.raises(ConfigurationError, match=message):
        parse_scenario(data, "here").check()


def test_a_format_decides_whether_weights_and_caches_fit():
    data = {
        "name": "large",
        "system": "papi-1gpu",
        "model": {"base": "llama-3.1-70b", "weight_format": "int4"},
        "workload": {"lengths": {"input": 1000, "output": 280}, "batch_size": 8},
    }
    assert parse_scenario(data, "here").check().weight_bytes < 64e9
    data["workload"]["batch_size"] = 128
    with pytest.raises(ConfigurationError, match=r"KV 53\.7"):
        parse_scenario(data, "here").check()
    data["model"]["kv_format"] = "int4"
    data["workload"]["lengths"] = {"input": 500, "output": 100}
    parse_scenario(data, "here").check()
