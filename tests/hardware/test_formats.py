"""Costs of narrower weights, narrower keys and values, and latent attention, against counts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.gpus import get_gpu
from papi_env.hardware.system import ATTN_PIM_1P2B, FC_PIM_4P1B, get_system
from papi_env.kernel import AttentionKernel, Kernel, KernelClass
from papi_env.workload.formats import ElementFormat
from papi_env.workload.transformer import TRANSFORMERS

FP16 = Kernel(KernelClass.QKV, 8192, 8192)
BYTES = {"fp8": 1.0, "int8": 1.0, "int4": 0.5 + 2 / 128, "mxfp4": 0.5 + 1 / 32}
EACH = pytest.mark.parametrize("name", BYTES)
ROWS = np.arange(1, 1025)
ROOFLINE = get_gpu("a100").model_copy(update={"kernels": "roofline"})
LATENT = TRANSFORMERS["deepseek-v3"].attention_kernel()


def narrow(name, kernel=FP16):
    return replace(kernel, weight_element_bytes=ElementFormat(elements=name).bytes_per_element)


@EACH
def test_weights_take_their_bits_and_their_part_of_scales(name):
    assert narrow(name).bytes_per_weight == BYTES[name]
    assert narrow(name).weight_bytes == 8192 * 8192 * BYTES[name]
    assert narrow(name).activation_bytes == FP16.activation_bytes


def test_fewer_rows_than_the_balance_gain_bytes_and_many_gain_nothing_on_a_gpu():
    unit = ROOFLINE
    fast, slow = costs.pu_fc_s(unit, narrow("fp8"), ROWS), costs.pu_fc_s(unit, FP16, ROWS)
    one = (8192 * 8192 + 2 * 2 * 8192) / (unit.memory_bandwidth * 0.85)
    assert fast[0] == pytest.approx(one)
    assert (fast <= slow).all()
    # The tensor cores multiply as many FP16 numbers.
    assert fast[-1] == slow[-1] == pytest.approx(2 * 1024 * 8192**2 / (312e12 * 0.8))


@EACH
@pytest.mark.parametrize("card", ["a100", "h100"])
def test_as_measured_narrower_weights_save_their_share_and_never_beat_the_roofline(name, card):
    unit = get_gpu(card, 2)
    fast, slow = costs.pu_fc_s(unit, narrow(name), ROWS), costs.pu_fc_s(unit, FP16, ROWS)
    size = narrow(name).weight_bytes + costs.activation_bytes(FP16, ROWS)
    least = np.maximum(2 * 8192**2 * ROWS / unit.total_flops, size / unit.total_bandwidth)
    assert (least < fast).all()
    assert (fast <= slow).all()
    assert fast[0] < 0.75 * slow[0]
    assert fast[-1] == slow[-1]


def test_a_table_in_fp16_is_not_asked_for_other_weights(tmp_path):
    path = tmp_path / "kernels.csv"
    path.write_text("rows,outputs,inputs,groups,us\n1,8192,8192,1,100\n1024,8192,8192,1,1000\n")
    unit = get_gpu("a100").model_copy(update={"kernels": "table"})
    table = type("Table", (), {"path": path})
    with pytest.raises(ConfigurationError, match="other elements than FP16"):
        costs._table_fc_s(unit, table, narrow("int8"), 1)


def test_on_pim_8_bit_weights_take_the_slots_of_fp16_and_half_the_columns_reads_and_rows():
    unit = FC_PIM_4P1B
    wide, thin = costs.pim_fc_mapping(unit, FP16), costs.pim_fc_mapping(unit, narrow("int8"))
    assert thin.columns == math.ceil(wide.columns / 2)
    assert (wide.slots_per_column, thin.slots_per_column) == (1.0, 2.0)
    # Rows of 32 columns, 64 commands each, instead of twice as many of 32 commands; the same vectors.
    full = wide.columns // 2 // 32
    slow, fast = costs.pim_fc_bank_clocks(unit, FP16, 4), costs.pim_fc_bank_clocks(unit, narrow("int8"), 4)
    technology = unit.stack.technology
    cadence = costs.pim_cadence_clocks(unit, 4)
    assert cadence == costs.pim_cadence_clocks(unit, 4, 2.0) == 4.0
    commands = thin.columns * 2
    changes = technology.row_change_clocks - 4.0
    refreshed = float(fast) / (commands * 4.0 + math.ceil(thin.columns / 32) * changes)
    assert 1.0 <= refreshed < 1.13
    assert full < slow / fast * full  # a little faster: fewer rows to open
    assert 1.0 < float(slow / fast) < 1.4


@EACH
def test_on_pim_narrower_weights_save_energy_and_some_time(name):
    unit = FC_PIM_4P1B
    wide, thin = (costs.pim_fc_energy(unit, kernel, ROWS) for kernel in (FP16, narrow(name)))
    share = BYTES[name] / 2
    np.testing.assert_allclose(thin.read, share * wide.read, rtol=1e-6)
    np.testing.assert_allclose(thin.activation, share * wide.activation, rtol=1e-6)
    np.testing.assert_array_equal(thin.compute, wide.compute)
    fast, slow = costs.pim_fc_s(unit, narrow(name), ROWS), costs.pim_fc_s(unit, FP16, ROWS)
    # But for the last column of a bank, which is not full.
    assert (fast <= slow * 1.03).all()
    # Slots are those of FP16: at the cadence alone.
    slots = costs.pim_slots(unit, ROWS) * (8192**2 * 2 / (30 * unit.stack.banks * 32))
    assert (fast >= slots * unit.cadence_clocks * unit.stack.technology.clock_s * 0.999).all()


def test_the_power_budget_is_kept_by_fewer_reads_a_slot():
    unit = FC_PIM_4P1B.model_copy(update={"cadence_clocks": 2.0, "power_budget_w": 50.0})
    fp16, int8 = costs.pim_cadence_clocks(unit, 1), costs.pim_cadence_clocks(unit, 1, 2.0)
    assert 2.0 < int8 < fp16
    technology = unit.stack.technology
    slot_j = unit.stack.banks * (32 / 2 * technology.read_with_activation_j_per_byte + 16 * technology.mac_j)
    available = unit.power_budget_w - unit.background_power_w
    assert int8 == pytest.approx(slot_j / available / technology.clock_s)


@pytest.mark.parametrize("name", ["fp8", "int4"])
def test_narrower_keys_and_values_save_bytes_on_gpus_and_rows_on_pim(name):
    wide = AttentionKernel(64, 8, 128, count=80)
    each = ElementFormat(elements=name).bytes_per_element
    thin = replace(wide, kv_element_bytes=each)
    assert thin.kv_bytes_per_token == math.ceil(8 * 2 * 128 * each)
    unit = get_gpu("a100")
    fast, slow = (costs.pu_attention_s(unit, kernel, 10_000, 1) for kernel in (thin, wide))
    assert fast / slow == pytest.approx(thin.kv_bytes_per_token / wide.kv_bytes_per_token)
    contexts = np.full(16, 8192)
    fast, slow = (costs.pim_attention_s(ATTN_PIM_1P2B, kernel, contexts, 1) for kernel in (thin, wide))
    assert 0.75 * slow < fast < slow
    joules = [costs.pim_attention_energy(ATTN_PIM_1P2B, kernel, 1000, 1, 16) for kernel in (thin, wide)]
    assert joules[0].read < 0.6 * joules[1].read
    # Copies apart, as many products.
    assert joules[0].compute == joules[1].compute


def test_formats_that_are_fp16_change_nothing():
    plain, same = AttentionKernel(64, 8, 128), AttentionKernel(64, 8, 128, value_size=128, kv_element_bytes=2)
    contexts = np.array([100, 300, 5000])
    assert costs.pim_attention_s(ATTN_PIM_1P2B, plain, contexts, 2) == costs.pim_attention_s(
        ATTN_PIM_1P2B, same, contexts, 2
    )
    assert costs.pu_fc_s(get_gpu("a100"), FP16, 8) == costs.pu_fc_s(
        get_gpu("a100"), replace(FP16, weight_element_bytes=2), 8
    )


def test_latent_attention_reads_576_elements_a_token_on_gpus_and_multiplies_for_all_heads():
    unit = ROOFLINE
    assert LATENT.kv_bytes_per_token == (512 + 64) * 2
    tokens = 100_000
    compute = 2 * tokens * 128 * (576 + 512) / (312e12 * 0.8)
    memory = tokens * 1152 / unit.attention_bandwidth
    assert compute > memory
    assert costs.pu_attention_s(unit, LATENT, tokens, 1) == pytest.approx(compute)
    one_head = replace(LATENT, heads=1)
    assert costs.pu_attention_s(unit, one_head, tokens, 1) == pytest.approx(memory)


def test_latent_attention_on_pim_multiplies_keys_and_values_of_their_own_sizes():
    work = costs.pim_attention_coefficients(ATTN_PIM_1P2B, LATENT, 1, 1)
    # 16 tokens of 576 and of 512 elements in 64 banks, 16 a column: 9 and 8 columns; two slots for a row.
    per_group = (9 + 8) * 2 * ATTN_PIM_1P2B.cadence_clocks
    assert work.per_group == pytest.approx(per_group, rel=0.13)  # refreshes
    assert work.per_group > per_group
    assert work.group_columns == 9
    wide = costs.pim_attention_coefficients(
        ATTN_PIM_1P2B, replace(LATENT, value_size=576, shared_values=False), 1, 1
    )
    assert work.per_group / wide.per_group == pytest.approx(17 / 18)
    assert work.per_chunk / wide.per_chunk == pytest.approx((1 + 8 / 9) / 2)
    joules = costs.pim_attention_energy(ATTN_PIM_1P2B, LATENT, 1, 1, 120)
    mapping = costs.attention_mapping(ATTN_PIM_1P2B, LATENT, 120, 1)
    reads = 16 * (576 + 512) * 2 * mapping.copies
    assert joules.read + joules.activation == pytest.approx(
        reads * ATTN_PIM_1P2B.stack.technology.read_with_activation_j_per_byte
    )


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan, "1"])
def test_a_width_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"weight_element_bytes is .*, expected a number of bytes above 0"):
        Kernel(KernelClass.QKV, 8, 8, weight_element_bytes=wrong)
    with pytest.raises(ValueError, match=r"kv_element_bytes is .*, expected a number of bytes above 0"):
        AttentionKernel(8, 8, 8, kv_element_bytes=wrong)


def test_values_that_are_no_part_of_the_keys_are_refused():
    with pytest.raises(
        ValueError, match="value_size is 9, expected 1 or more to 8, of which they are a part"
    ):
        AttentionKernel(8, 1, 8, value_size=9, shared_values=True)
    with pytest.raises(ValueError, match="value_size is 0, expected 1 or more"):
        AttentionKernel(8, 1, 8, value_size=0)


@pytest.mark.parametrize("name", ["papi", "a100-attacc", "attacc-only"])
def test_every_unit_runs_all_kernels_of_deepseek(name):
    system, model = get_system(name), TRANSFORMERS["deepseek-v3"]
    for kernel in (*model.fc_kernels(), model.lm_head_kernel()):
        if system.pu is not None:
            assert np.isfinite(costs.pu_fc_s(system.pu, kernel, ROWS)).all()
        if system.fc_pim is not None:
            assert np.isfinite(costs.pim_fc_s(system.fc_pim, kernel, ROWS)).all()
