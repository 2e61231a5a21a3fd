"""Technologies of DRAM hold what their public figures say, and the costs follow them."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.attention import AttentionPim, attention_coefficients
from papi_env.hardware.technology import HBM3, TECHNOLOGIES, get_technology
from papi_env.hardware.units import PimUnit
from papi_env.kernel import AttentionKernel, Kernel, KernelClass

GIB = 2**30
each = pytest.mark.parametrize("technology", TECHNOLOGIES.values(), ids=list(TECHNOLOGIES))
# GiB of a stack, GB/s of its pins, GB/s of all banks at the fastest cadence. HBM3: a 16 GB cube of 5.2 Gb/s pins,
# 665 GB/s, and 20.8 GB/s a bank (PAPI). HBM2E: 16 GB and 460 GB/s (SK hynix, 2019). 12-high: 24 GB and 819 GB/s
# (SK hynix, 2023). AiM: 8 Gb, 64 GB/s, and 512 GB/s for each of two channels (ISSCC 2022). LPDDR5X: an eighth of
# CXL-PNM's 512 GB and 1.1 TB/s.
PUBLISHED = {
    "hbm3": (16, 665.6, 1024 * 20.8),
    "hbm2e": (16, 460.8, 512 * 28.8),
    "gddr6-aim": (1, 64, 2 * 16 * 32 * 2 / 2),
    "lpddr5": (64, 136.5, 512 * 17.07),
    "hbm3-12high": (24, 819.2, 1536 * 25.6),
}


def unit(technology, **changes):
    shape = {"name": "test", "stacks": 4, "fpus_per_bank": 1, "cadence_clocks": 2, "power_budget_w": 1e6}
    return PimUnit.model_validate({**shape, "stack": {"technology": technology.name}, **changes})


def altered(**changes):
    return type(HBM3).model_validate({**HBM3.model_dump(), **changes})


def test_all_technologies_have_their_published_capacity_and_bandwidths():
    found = {
        name: (
            dram.Stack(technology=name).capacity_bytes / GIB,
            t.interface_bandwidth / 1e9,
            t.peak_bandwidth / 1e9,
        )
        for name, t in TECHNOLOGIES.items()
    }
    assert found.keys() == PUBLISHED.keys()
    for name, figures in PUBLISHED.items():
        assert found[name] == pytest.approx(figures, rel=2e-3), name


@each
def test_the_pins_carry_a_column_of_each_pseudo_channel_every_shortest_interval(technology):
    # HBM's channels are two pseudo-channels each.
    halves = 2 if technology.name.startswith("hbm") else 1
    column_s = technology.t_ccd_s * technology.clock_s
    columns = technology.channels * halves * technology.column_bytes / column_s
    assert columns == pytest.approx(technology.interface_bandwidth, rel=1e-3)


def test_aim_computes_a_teraflop_a_chip():
    chip = unit(get_technology("gddr6-aim"), stacks=1)
    assert chip.peak_flops == pytest.approx(1.024e12)
    assert chip.peak_bandwidth == pytest.approx(2 * 512e9)


@each
def test_nanoseconds_are_those_of_dram(technology):
    def ns(clocks):
        return clocks * technology.clock_s * 1e9

    assert 13 <= ns(technology.t_rcd) <= 20
    assert 13 <= ns(technology.t_rp) <= 22
    assert 33 <= ns(technology.t_ras) <= 44
    assert 2 <= ns(technology.t_rtp) <= 8
    assert 100 <= ns(technology.t_rfc) <= 450
    assert 1800 <= ns(technology.t_refi) <= 3950


@each
def test_a_unit_a_bank_fits_the_die_and_many_do_not(technology):
    assert technology.max_banks_per_die(1) == technology.banks_per_die
    fewer = technology.max_banks_per_die(8)
    assert 0 < fewer < technology.banks_per_die
    with pytest.raises(
        ValidationError, match=f"exceed the die: {technology.die_area_mm2:g} mm2 hold {fewer}"
    ):
        unit(technology, fpus_per_bank=8)


@each
def test_weights_stream_near_the_peak_and_never_above_it(technology):
    pim = unit(technology, runs=("fc",))
    kernel = Kernel(KernelClass.FEED_FORWARD, inner=16384, outer=16384)
    seconds = costs.pim_fc_s(pim, kernel, np.array([1]))[0]
    share = kernel.weight_bytes / seconds / pim.peak_bandwidth
    row_clocks = technology.columns_per_row * 2
    change = technology.row_change_clocks - 2
    assert share <= row_clocks / (row_clocks + change)
    assert share > 0.75 * row_clocks / (row_clocks + change)


@each
def test_keys_and_values_are_read_at_the_rate_of_whole_rows(technology):
    # Without refreshes, one pair on every channel: columns at the cadence and a row change for every row of each bank.
    pim = AttentionPim(
        "bank", 6.0, 1.0, technology.dies * technology.banks_per_die // technology.channels, technology
    )
    work = attention_coefficients(pim, 128, 2, refresh=False)
    tokens = 2**16
    clocks = float(work.clocks(work.groups(tokens), work.chunks(tokens), 2))
    columns = tokens / 16 * pim.columns(128, 2)
    rows = columns / technology.columns_per_row
    assert clocks == pytest.approx(2 * (columns * 6 + rows * (technology.row_change_clocks - 6)), rel=0.01)


def test_groups_take_whole_parts_of_rows_that_are_longer_than_hbms():
    # Heads of 80 take 5 columns of 64 in AiM's rows: 2.5 parts of 32, so three.
    aim = AttentionPim("bank", 2.0, 1.0, 16, get_technology("gddr6-aim"))
    assert aim.columns(80, 2) == 5
    assert attention_coefficients(aim, 80, 2).group_columns == 3
    assert attention_coefficients(aim, 128, 2).group_columns == 4


@each
def test_energy_follows_the_technology(technology):
    pim = unit(technology, runs=("fc", "attention"))
    kernel = Kernel(KernelClass.FEED_FORWARD, inner=4096, outer=4096)
    fc = costs.pim_fc_energy(pim, kernel, 1)
    assert float(fc.read + fc.activation) == pytest.approx(
        kernel.weight_bytes * technology.read_with_activation_j_per_byte
    )
    assert float(fc.compute) == pytest.approx(4096**2 * technology.mac_j)
    attention = costs.pim_attention_energy(pim, AttentionKernel(32, 1, 128), 1, 1, 8)
    assert float(attention.compute) == pytest.approx(16 * 2 * 32 * 128 * technology.mac_j)


def test_hbm3_is_left_out_of_what_is_written_down_and_others_come_back():
    assert dram.Stack().model_dump() == {"banks_per_die": 128}
    for name in TECHNOLOGIES:
        stack = dram.Stack(technology=name)
        assert dram.Stack.model_validate_json(stack.model_dump_json()) == stack


def test_a_stack_has_the_banks_of_its_technology_and_a_unit_its_watts():
    stack = dram.Stack(technology="gddr6-aim")
    assert (stack.banks, stack.banks_per_channel) == (32, 16)
    chip = PimUnit(name="AiM", stacks=1, fpus_per_bank=1, stack=stack)
    found = (chip.power_budget_w, chip.background_power_w, chip.idle_power_w)
    technology = get_technology("gddr6-aim")
    assert found == (technology.power_budget_w, technology.background_power_w, technology.idle_power_w)
    assert PimUnit(name="AiM", stacks=1, fpus_per_bank=1, stack=stack, idle_power_w=0.1).idle_power_w == 0.1


def test_a_table_starts_from_a_registered_technology():
    stack = dram.Stack.define({"technology": {"base": "hbm2e", "name": "mine", "t_rp": 30}}, "here")
    assert stack.technology == get_technology("hbm2e").model_copy(update={"name": "mine", "t_rp": 30})
    assert stack.banks_per_die == 64


@pytest.mark.parametrize("technology", ["hbm2", {"base": "hbm2"}])
def test_an_unknown_technology_is_answered_with_the_nearest(technology):
    with pytest.raises(
        ConfigurationError, match=r"technology.*Unknown DRAM technology 'hbm2'. Did you mean 'hbm2e'?"
    ):
        dram.Stack.define({"technology": technology}, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_bytes": 1000}, "row_bytes 1000: expected whole columns, a multiple of 32"),
        ({"bank_bytes": 2**20 + 32}, "expected whole rows, a multiple of 1024"),
        ({"banks_per_die": 126}, "expected whole bank groups, a multiple of 4"),
        ({"dies": 3, "channels": 10}, "3 dies of 128 banks: expected a multiple of 10 channels"),
        ({"activation_j": 9e-9}, "expected at most read_with_activation_j_per_byte"),
        ({"banks_per_die": 256}, "256 banks of 0.83 mm2 exceed the die, 121 mm2"),
        ({"t_refi": 400}, "a refresh takes 484 clocks"),
        ({"clock_s": 0.769}, "clock_s"),
    ],
)
def test_a_technology_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        altered(**changes)


def test_more_banks_than_a_die_has_are_refused_with_both_numbers():
    with pytest.raises(ValidationError, match=r"banks_per_die 128: .*at most the 32 of a die of gddr6-aim"):
        dram.Stack(technology="gddr6-aim", banks_per_die=128)


def test_a_cadence_below_that_of_column_commands_is_refused():
    slow = altered(t_ccd_s=3)
    with pytest.raises(ValidationError, match="cadence_clocks 2: expected at least the 3 clocks"):
        unit(HBM3, stack={"technology": slow.model_dump()})


def test_costs_tell_technologies_of_one_name_apart():
    fast, slow = (unit(HBM3, stack={"technology": altered(t_rp=t).model_dump()}) for t in (19, 190))
    kernel = AttentionKernel(32, 1, 128)
    found = [costs.pim_attention_coefficients(pim, kernel, 1).per_chunk for pim in (fast, slow)]
    assert math.isfinite(found[1])
    assert found[1] > found[0]
