"""Stacks: geometry, the area rule and the power orderings that PAPI's designs rest on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from papi_env.hardware import dram

GIB = 2**30
BUDGET_W = 116.0  # PAPI, section 5.2
PAPI_CLOCKS = 2  # 20.8 GB/s per bank
fpu_numbers = st.floats(0, 64, allow_nan=False)


def test_four_fpus_per_bank_leave_room_for_96_banks():
    assert int(121 / (4 * 0.1025 + 0.83)) == 97
    assert dram.max_banks_per_die(4) == 96


@pytest.mark.parametrize("fpus", [0, 0.5, 1])
def test_a_die_keeps_its_128_banks_with_at_most_one_fpu_each(fpus):
    assert dram.max_banks_per_die(fpus) == 128


@given(fpu_numbers)
def test_banks_and_fpus_fit_the_die_in_whole_bank_groups(fpus):
    banks = dram.max_banks_per_die(fpus)
    area_of_one = fpus * 0.1025 + 0.83
    assert banks % 4 == 0
    assert banks * area_of_one <= 121 * (1 + 1e-9)
    assert banks == 128 or (banks + 4) * area_of_one > 121


@given(fpu_numbers, fpu_numbers)
def test_more_fpus_never_leave_room_for_more_banks(a, b):
    assert dram.max_banks_per_die(max(a, b)) <= dram.max_banks_per_die(min(a, b))


@pytest.mark.parametrize("fpus", [-1, float("nan")])
def test_an_impossible_number_of_fpus_is_refused(fpus):
    with pytest.raises(ValueError, match="fpus_per_bank"):
        dram.max_banks_per_die(fpus)


def test_capacities_are_16_gib_and_12_gib():
    assert dram.Stack().capacity_bytes == 16 * GIB
    assert dram.Stack(banks_per_die=96).capacity_bytes == 12 * GIB


def test_banks_are_spread_over_eight_dies_and_sixteen_channels():
    stack = dram.Stack(banks_per_die=96)
    assert stack.banks == 768
    assert stack.banks_per_channel == 48


@pytest.mark.parametrize("banks", [0, -4, 6, 97, 132, 2.5, float("nan")])
def test_a_die_has_whole_bank_groups_and_at_most_128_banks(banks):
    with pytest.raises(ValidationError):
        dram.Stack(banks_per_die=banks)


@pytest.mark.parametrize(("clocks", "gigabytes"), [(6, 6.9), (4, 10.4), (2, 20.8)])
def test_a_command_every_6_4_or_2_clocks_gives_the_published_bank_rates(clocks, gigabytes):
    assert round(dram.COLUMN_BYTES / (clocks * dram.CLOCK_S) / 1e9, 1) == gigabytes


@pytest.mark.parametrize(
    ("cadence", "commands", "added"),
    [
        (6, 32, 40),  # 8 + 19 + 19 from the last read of a row to the first of the next, less a cadence
        (4, 32, 42),
        (6, 4, 40),  # 19 + 3 x 6 + 8: as long as a row must stay open
        (6, 3, 45 + 19 - 18),
        (6, 1, 45 + 19 - 6),
        (50, 32, 0),  # commands further apart than that leave room for a row change
    ],
)
def test_what_a_row_change_adds(cadence, commands, added):
    assert dram.row_change_clocks(cadence, commands) == added


@given(st.floats(2, 46), st.integers(1, 200))
def test_a_row_change_is_the_time_line_of_a_bank(cadence, commands):
    last_read = 19 + (commands - 1) * cadence
    next_activation = max(last_read + 8, 45) + 19
    added = dram.row_change_clocks(cadence, commands)
    assert commands * cadence + added == pytest.approx(next_activation)


def test_a_row_change_takes_at_least_tRP_and_tRCD():
    # PAPI's 29 ns, beside which a row waits T_RTP before it closes and the cadence passes anyway.
    assert round((dram.T_RP + dram.T_RCD) * dram.CLOCK_S * 1e9) == 29
    assert dram.row_change_clocks(6) >= dram.T_RP + dram.T_RCD


def test_a_refresh_stalls_banks_for_478_clocks_or_438_in_place_of_a_row_change():
    assert dram.refresh_stall_clocks(6) == 478
    assert dram.refresh_stall_clocks(6, dram.row_change_clocks(6)) == 438
    assert dram.refresh_stall_clocks(500) == 0


@given(st.floats(0, 484), st.floats(1, 1e9))
def test_time_is_work_and_a_stall_for_every_interval_of_it(stall, work):
    time = work * dram.refresh_factor(stall)
    assert time == pytest.approx(work + time / 5070 * stall)


@pytest.mark.parametrize(
    ("name", "banks", "fpus", "reuse", "inside"),
    [
        ("1P1B", 1024, 1, 1, False),
        ("1P2B", 1024, 0.5, 1, True),
        ("4P1B", 768, 4, 1, False),
        ("4P1B", 768, 4, 2, False),
        ("4P1B", 768, 4, 4, True),
        ("4P1B", 768, 4, 64, True),
    ],
)
def test_power_at_papis_bank_rate_is_on_the_papers_side_of_the_budget(name, banks, fpus, reuse, inside):
    watts = dram.stack_power(banks, fpus, PAPI_CLOCKS, reuse)
    assert (watts <= BUDGET_W) == inside, f"{name} at reuse {reuse}: {watts:.1f} W"


@pytest.mark.parametrize(
    ("banks", "fpus", "reuse", "watts"),
    [(1024, 1, 1, 97), (1024, 0.5, 1, 49), (768, 4, 1, 292), (768, 4, 4, 81)],
)
def test_power_without_background_is_attaccs_energies_at_papis_bank_rate(banks, fpus, reuse, watts):
    # The domain notes give whole watts for 20.8 GB/s exactly; two clocks of 0.769 ns give 20.806.
    assert dram.stack_power(banks, fpus, PAPI_CLOCKS, reuse, background_w=0) == pytest.approx(watts, abs=1)


@given(st.floats(1, 64), st.floats(1, 64))
def test_more_reuse_never_draws_more_power(a, b):
    low, high = sorted((a, b))
    assert dram.stack_power(768, 4, 2, high) <= dram.stack_power(768, 4, 2, low)


@pytest.mark.parametrize(("reuse", "share"), [(1, 0.965), (64, 0.301)])
def test_dram_takes_attaccs_share_of_the_energy(reuse, share):
    read = dram.COLUMN_BYTES * dram.READ_WITH_ACTIVATION_J_PER_BYTE / reuse
    assert read / (read + dram.LANES * dram.MAC_J) == pytest.approx(share, abs=5e-4)


def test_the_parts_of_a_read_add_up_to_attaccs_energies():
    assert dram.READ_J_PER_BYTE > 0
    whole_row = dram.ACTIVATION_J + dram.ROW_BYTES * dram.READ_J_PER_BYTE
    assert whole_row == pytest.approx(dram.ROW_BYTES * 8 * 0.55e-12)  # 0.55 pJ per bit
    to_buffer_die = dram.READ_WITH_ACTIVATION_J_PER_BYTE + dram.TO_BUFFER_DIE_J_PER_BYTE
    assert to_buffer_die == pytest.approx(26.32e-12)
    assert dram.READ_WITH_ACTIVATION_J_PER_BYTE < 12.48e-12 < to_buffer_die < dram.OFF_CHIP_J_PER_BYTE
