"""Units hold what is physically possible and refuse the rest, naming the field."""

import math

import pytest
from pydantic import ValidationError

from papi_env.hardware import dram
from papi_env.hardware.system import ATTACC_1P1B, ATTN_PIM_1P2B, FC_PIM_4P1B, HBM_PIM_1P2B, SYSTEMS
from papi_env.hardware.units import PimUnit, ProcessingUnit

A100 = SYSTEMS["papi"].pu
PUBLISHED = [FC_PIM_4P1B, ATTN_PIM_1P2B, ATTACC_1P1B, HBM_PIM_1P2B]


def pim(**changes):
    return PimUnit.model_validate({"name": "test", "stacks": 1, "fpus_per_bank": 1, **changes})


def gpu(**changes):
    shape = {"name": "test", "count": 1, "peak_flops": 1e14, "memory_bandwidth": 1e12, "memory_bytes": 10**10}
    return ProcessingUnit.model_validate({**shape, **changes})


@pytest.mark.parametrize("unit", PUBLISHED, ids=lambda unit: unit.name)
def test_every_published_unit_fits_its_die(unit):
    area = unit.stack.banks_per_die * (unit.fpus_per_bank * 0.1025 + 0.83)
    assert area <= 121


def test_the_published_units_have_the_papers_shapes():
    shapes = {unit.name: (unit.fpus_per_bank, unit.stack.banks) for unit in PUBLISHED}
    assert shapes == {
        "FC-PIM (4P1B)": (4, 768),
        "Attn-PIM (1P2B)": (0.5, 1024),
        "AttAcc (1P1B)": (1, 1024),
        "HBM-PIM (1P2B)": (0.5, 1024),
    }


@pytest.mark.parametrize(("cadence", "bandwidth"), [(6, 7.10e12), (4, 10.65e12)])
def test_attacc_delivers_7_1_tb_per_s_and_stack_within_its_power_limit_and_10_7_without(cadence, bandwidth):
    assert ATTACC_1P1B.cadence_clocks == 4
    unit = ATTACC_1P1B.model_copy(update={"cadence_clocks": cadence})
    assert unit.peak_bandwidth / unit.stacks == pytest.approx(bandwidth, rel=1e-3)


def test_peaks_count_every_bank_and_every_lane():
    per_s = 30 * 768 / (4 * 0.769e-9)  # all-bank commands a second
    assert FC_PIM_4P1B.peak_bandwidth == pytest.approx(per_s * 32)
    assert FC_PIM_4P1B.peak_flops == pytest.approx(per_s * 4 * 16 * 2)


def test_an_fpu_cannot_be_clocked_above_its_666_mhz():
    assert pim(cadence_clocks=2).cadence_clocks * dram.CLOCK_S >= 1 / 666e6
    with pytest.raises(ValidationError, match="cadence_clocks"):
        pim(cadence_clocks=1.9)


def test_too_many_banks_are_refused_with_the_number_that_fits():
    with pytest.raises(ValidationError, match=r"128 banks per die with 4 FPUs each .* 121 mm2 hold 96"):
        pim(fpus_per_bank=4)
    assert pim(fpus_per_bank=4, stack={"banks_per_die": 96}).stack.banks == 768
    with pytest.raises(ValidationError, match="100 banks"):
        pim(fpus_per_bank=4, stack={"banks_per_die": 100})


@pytest.mark.parametrize("fpus", [1.5, 2.25, 0.75, 0.4])
def test_a_fraction_of_an_fpu_is_refused(fpus):
    with pytest.raises(ValidationError, match=f"fpus_per_bank {fpus}.*expected"):
        pim(fpus_per_bank=fpus, stack={"banks_per_die": 64})


@pytest.mark.parametrize("sharing", [2, 3, 4, 8])
def test_banks_may_share_an_fpu(sharing):
    assert pim(fpus_per_bank=1 / sharing).fpus_per_bank == 1 / sharing


@pytest.mark.parametrize("background", [116, 117])
def test_a_background_that_takes_the_whole_power_budget_is_refused(background):
    with pytest.raises(ValidationError, match=f"background_power_w {background}.* leaves nothing"):
        pim(background_power_w=background)


def test_a_stack_that_waits_draws_no_more_than_one_that_works():
    assert pim(background_power_w=10, idle_power_w=4).active_power_w == 6
    with pytest.raises(ValidationError, match=r"idle_power_w 4\.0 exceeds background_power_w 3\.0"):
        pim(background_power_w=3)


def test_the_kernel_times_of_an_unknown_gpu_are_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"Unknown kernel times 'a10'.*a100, h100, layers, roofline"):
        gpu(kernels="a10")


def test_measured_kernels_scale_with_the_gpus_own_peak_and_bandwidth():
    fast = gpu(kernels="a100", peak_flops=624e12, memory_bandwidth=3352e9)
    assert (fast.measured.peak_flops, fast.measured.memory_bandwidth) == (624e12, 3352e9)
    assert fast.sustained_flops == pytest.approx(624e12 * 0.8523)
    assert fast.streaming_bandwidth == pytest.approx(3352e9 * 0.827)
    assert fast.kernel_start_s == 4.08e-6
    plain = gpu()
    assert plain.measured is None
    assert plain.kernel_start_s == 0
    assert plain.sustained_flops == 0.8 * plain.peak_flops
    assert plain.streaming_bandwidth == plain.attention_bandwidth == 0.85 * plain.memory_bandwidth


def test_a_gpu_that_idles_above_its_board_power_is_refused():
    with pytest.raises(ValidationError, match=r"idle_power_w 500\.0 exceeds board_power_w 400\.0"):
        gpu(idle_power_w=500)


PIM_FIELDS = [
    "stacks",
    "fpus_per_bank",
    "cadence_clocks",
    "power_budget_w",
    "background_power_w",
    "idle_power_w",
]
GPU_FIELDS = [
    "count",
    "peak_flops",
    "memory_bandwidth",
    "memory_bytes",
    "compute_efficiency",
    "memory_efficiency",
    "mac_j",
    "memory_j_per_byte",
    "idle_power_w",
    "board_power_w",
]


@pytest.mark.parametrize("value", [math.nan, -1, "many", None, [1]])
@pytest.mark.parametrize("field", PIM_FIELDS)
def test_a_pim_figure_that_means_nothing_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        pim(**{field: value})


@pytest.mark.parametrize("value", [math.nan, -1, "many", None, [1]])
@pytest.mark.parametrize("field", GPU_FIELDS)
def test_a_gpu_figure_that_means_nothing_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        gpu(**{field: value})


@pytest.mark.parametrize("field", PIM_FIELDS)
def test_an_infinite_pim_figure_is_refused(field):
    with pytest.raises(ValidationError, match=field):
        pim(**{field: math.inf})


@pytest.mark.parametrize("field", GPU_FIELDS)
def test_an_infinite_gpu_figure_is_refused(field):
    # Also where the board would allow any power.
    with pytest.raises(ValidationError, match=rf"\b{field}\b"):
        gpu(**{"board_power_w": 1e300, field: math.inf})


def test_a_gpu_read_cannot_cost_less_than_the_dram_access_in_it():
    # 4.4 pJ/B at the bank is part of an off-chip read; below it the transfer's share would be negative.
    with pytest.raises(ValidationError, match="memory_j_per_byte"):
        gpu(memory_j_per_byte=4e-12)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="stakcs"):
        pim(stakcs=3)


@pytest.mark.parametrize("runs", [["everything"], "fc", [1]])
def test_a_unit_runs_fc_kernels_or_attention(runs):
    with pytest.raises(ValidationError, match="runs"):
        pim(runs=runs)


def test_units_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        A100.count = 7


def test_gpu_totals_are_those_of_all_gpus():
    assert A100.total_flops == 6 * 312e12
    assert A100.total_bandwidth == 6 * 3352e9
    assert A100.capacity_bytes == 6 * 60 * 2**30
