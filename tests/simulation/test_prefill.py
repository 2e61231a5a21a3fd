"""Prefill obeys the rooflines of whatever unit runs it, and large prompts belong on the GPUs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.hardware import costs
from papi_env.hardware.collectives import all_reduce_s
from papi_env.hardware.energy import BACKGROUND, NUM_CAUSES
from papi_env.hardware.links import PCIE5
from papi_env.hardware.system import ATTACC_1P1B, SYSTEMS
from papi_env.simulation.prefill import Prefill
from papi_env.workload.transformer import TRANSFORMERS

LLAMA = TRANSFORMERS["llama-65b"]
BY_SYSTEM = {name: Prefill(system, LLAMA) for name, system in SYSTEMS.items()}
ROUNDING = 1 + 1e-9  # float64 sums of a few terms

prompts = st.lists(st.integers(1, 2048), min_size=1, max_size=128)


def cost(name, lengths, model=LLAMA):
    """Seconds and joules of prompts of these lengths, counted one by one."""
    prefill = BY_SYSTEM[name] if model is LLAMA else Prefill(SYSTEMS[name], model)
    tokens = np.array(sum(lengths))
    pairs = np.array(sum(n * (n + 1) // 2 for n in lengths))
    seconds, joules = prefill.cost(tokens, pairs, len(lengths))
    return float(seconds), float(joules)


def attention_flops(lengths):
    """A multiply-add for the score and one for the value, of each pair and hidden element of a layer."""
    return sum(2 * n * (n + 1) for n in lengths) * LLAMA.hidden * LLAMA.layers


@given(prompts, st.sampled_from(["papi", "a100", "papi-h100", "a100-attacc"]))
def test_prefill_on_gpus_beats_neither_their_flops_nor_their_bandwidth(lengths, name):
    unit = SYSTEMS[name].pu
    seconds, _ = cost(name, lengths)
    flops = 2 * sum(lengths) * LLAMA.weight_bytes / 2 + attention_flops(lengths)
    assert seconds * ROUNDING >= flops / unit.total_flops
    assert seconds >= LLAMA.weight_bytes / unit.total_bandwidth


@given(prompts, st.sampled_from(["attacc-only", "papi-pim-only"]))
def test_prefill_on_pim_beats_neither_kind_of_stacks(lengths, name):
    system = SYSTEMS[name]
    seconds, _ = cost(name, lengths)
    fc = sum(lengths) * LLAMA.weight_bytes / system.fc_pim.peak_flops
    assert seconds * ROUNDING >= fc + attention_flops(lengths) / system.attn_pim.peak_flops
    assert seconds >= LLAMA.weight_bytes / system.fc_pim.peak_bandwidth


@given(prompts, st.integers(1, 500))
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_longer_prompt_takes_longer_and_more_energy(name, lengths, more):
    seconds, joules = cost(name, lengths)
    longer_seconds, longer_joules = cost(name, [lengths[0] + more, *lengths[1:]])
    assert np.isfinite([longer_seconds, longer_joules]).all()
    assert 0 < seconds <= longer_seconds
    assert 0 < joules < longer_joules


@given(prompts)
def test_a_batch_of_prompts_never_takes_longer_than_one_after_the_other(lengths):
    # Together they read the weights once and fill the channels.
    for name in ("papi", "attacc-only"):
        together = cost(name, lengths)[0]
        assert together <= sum(cost(name, [n])[0] for n in lengths) * ROUNDING


@given(prompts, st.sampled_from(list(SYSTEMS)))
def test_joules_by_cause_are_all_joules(lengths, name):
    tokens = np.array([sum(lengths), 5])
    pairs = np.array([sum(n * (n + 1) // 2 for n in lengths), 15])
    causes = BY_SYSTEM[name].causes(tokens, pairs, len(lengths))
    assert causes.shape == (2, NUM_CAUSES)
    _, joules = BY_SYSTEM[name].cost(tokens, pairs, len(lengths))
    np.testing.assert_allclose(causes.sum(axis=-1), joules, rtol=1e-12)
    assert (causes[:, BACKGROUND] > 0).all() == (SYSTEMS[name].prefill_unit == "fc-pim")


@pytest.mark.parametrize("pim", ["attacc-only", "papi-pim-only"])
def test_pim_is_slower_than_gpus_on_large_prompts_and_faster_on_one_token(pim):
    assert cost(pim, [512] * 16)[0] > cost("papi", [512] * 16)[0]
    assert cost(pim, [1])[0] < cost("papi", [1])[0]


def test_fc_pim_prefills_faster_than_attacc():
    assert cost("papi-pim-only", [512] * 16)[0] < cost("attacc-only", [512] * 16)[0]


def test_keys_and_values_cross_the_link_to_stacks_of_their_own():
    lengths = [1000] * 8
    link = SYSTEMS["a100-attacc"].attention_link
    moved = sum(lengths) * LLAMA.kv_bytes_per_token
    beside, apart = cost("a100", lengths), cost("a100-attacc", lengths)
    # Behind the computation, unless they take longer.
    assert beside[0] > moved / link.total_bandwidth
    assert apart[0] == beside[0]
    assert apart[1] - beside[1] == pytest.approx(moved * link.j_per_byte)
    slow = SYSTEMS["a100-attacc"].model_copy(
        update={"attention_link": link.model_copy(update={"bandwidth": 6.4e9})}
    )
    tokens, pairs = np.array(8000), np.array(8 * 1000 * 1001 // 2)
    assert Prefill(slow, LLAMA).cost(tokens, pairs, 8)[0] == pytest.approx(moved / 6.4e9)


def test_prefill_on_pim_sends_all_vectors_over_the_link():
    # Queries, keys and values there, and outputs back at the same time, in every layer.
    system = SYSTEMS["papi-pim-only"]
    slow = system.attention_link.model_copy(update={"bandwidth": 1e9})
    tokens = np.array(1000)
    seconds, joules = Prefill(system.model_copy(update={"attention_link": slow}), LLAMA).cost(
        tokens, tokens, 1
    )
    assert seconds == pytest.approx(3 * 2 * LLAMA.hidden * LLAMA.layers * 1000 / 1e9)
    free = slow.model_copy(update={"j_per_byte": 0.0})
    without = Prefill(system.model_copy(update={"attention_link": free}), LLAMA).cost(tokens, tokens, 1)[1]
    assert joules - without == pytest.approx(4 * 2 * LLAMA.hidden * LLAMA.layers * 1000 * slow.j_per_byte)


def test_attention_of_prefill_on_pim_takes_a_group_of_clocks_for_16_keys():
    # 128 requests of 64 heads are 137 pairs on a stack and 9 on a channel.
    tokens, pairs = np.array(12800), np.array([0, 16 * 128 * 100])
    seconds = [float(BY_SYSTEM["attacc-only"].cost(tokens, np.array(p), 128)[0]) for p in pairs]
    # 16 keys are a group of columns, and a sixteenth of a DRAM row in every bank.
    work = costs.pim_attention_coefficients(ATTACC_1P1B, LLAMA.attention_kernel(), 1)
    clocks = 9 * 100 * (work.per_group + work.per_chunk / 16) * LLAMA.layers
    assert seconds[1] - seconds[0] == pytest.approx(clocks * 0.769e-9)


def test_two_all_reduces_a_layer_join_the_gpus():
    tokens = np.array(4096)
    system = SYSTEMS["a100"]
    slower = system.model_copy(update={"fabric": PCIE5})
    seconds = [Prefill(each, LLAMA).cost(tokens, tokens, 1)[0] for each in (system, slower)]
    sums = [all_reduce_s(4096 * 2 * LLAMA.hidden, 6, each.fabric) for each in (system, slower)]
    assert seconds[1] - seconds[0] == pytest.approx(2 * LLAMA.layers * float(sums[1] - sums[0]))


def test_a_host_sums_outputs_twice_a_layer():
    tokens = np.array(4096)
    system = SYSTEMS["attacc-only"]
    slower = system.model_copy(update={"attention_link": PCIE5})
    seconds = [Prefill(each, LLAMA).cost(tokens, tokens, 1)[0] for each in (system, slower)]
    # The same bandwidth; only an exchange's two latencies differ.
    assert seconds[1] - seconds[0] == pytest.approx(2 * LLAMA.layers * 2 * (5e-6 - 0.3e-6))


def test_energy_on_one_gpu_is_its_fc_kernels_its_kv_caches_and_its_pairs():
    # Without a fabric or a link nothing else takes energy.
    unit = SYSTEMS["a100"].pu.model_copy(update={"count": 1})
    system = SYSTEMS["a100"].model_copy(update={"pu": unit, "fabric": None})
    tokens, pairs = 1000, 500_500
    fc = sum(k.count * costs.pu_fc_energy(unit, k, tokens).total for k in LLAMA.fc_kernels())
    kv = tokens * LLAMA.kv_bytes_per_token * unit.memory_j_per_byte
    attention = 2 * pairs * LLAMA.hidden * LLAMA.layers * unit.mac_j
    joules = Prefill(system, LLAMA).cost(np.array(tokens), np.array(pairs), 1)[1]
    assert joules == pytest.approx(float(fc) + kv + attention)


def test_attention_is_causal():
    # Half the square: one long prompt costs more attention than the same tokens in two.
    one, two = cost("a100", [2048]), cost("a100", [1024, 1024])
    pairs = 2048 * 2049 // 2 - 2 * (1024 * 1025 // 2)
    unit = SYSTEMS["a100"].pu
    extra = 4 * pairs * LLAMA.hidden * LLAMA.layers / (unit.total_flops * unit.compute_efficiency)
    assert one[0] - two[0] == pytest.approx(extra)


def test_grouped_queries_send_an_eighth_of_the_keys_and_values():
    grouped = TRANSFORMERS["llama2-70b"]
    full = grouped.model_copy(update={"kv_heads": None})
    lengths = [1000] * 8

    def link_j(model):
        return cost("a100-attacc", lengths, model)[1] - cost("a100", lengths, model)[1]

    assert link_j(full) / link_j(grouped) == pytest.approx(8)


def test_many_batches_cost_what_each_costs_alone():
    tokens = np.array([[16, 160], [1600, 16000]])
    pairs = tokens * (tokens // 16 + 1) // 2  # 16 equal prompts
    for prefill in BY_SYSTEM.values():
        together = prefill.cost(tokens, pairs, 16)
        for index in np.ndindex(tokens.shape):
            alone = prefill.cost(tokens[index], pairs[index], 16)
            assert [float(part[index]) for part in together] == [float(part) for part in alone]
