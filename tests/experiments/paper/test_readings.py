"""Mechanisms that the paper leaves open do what their words say, and leave the rest alone."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.paper.calibration import UNFITTED
from experiments.paper.readings import OpenSystem, Setting, build_system
from papi_env.hardware.costs import pim_reads
from papi_env.hardware.system import get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM
from papi_env.kernel import blocks
from papi_env.workload.transformer import get_transformer

ROWS = np.array([1, 16, 64])
KERNELS = get_transformer("llama-65b").fc_kernels()
BLOCK = blocks(KERNELS)[0]


def combined(setting, name, **options):
    return build_system(setting, name, **options).combine_s(BLOCK, ROWS)


def test_fewer_output_links_slow_attacc_only_alone():
    six = replace(Setting(), link_count=6)
    one = replace(six, output_links=1)
    link = build_system(one, "attacc-only").attention_link
    assert link.count == 6
    moved = (5 * sum(k.outer for k in BLOCK) + sum(k.inner for k in BLOCK)) * 2 * ROWS
    start = link.sync_s + 2 * link.latency_s
    np.testing.assert_allclose(combined(six, "attacc-only"), start + moved / (6 * 64e9))
    np.testing.assert_allclose(combined(one, "attacc-only"), start + moved / 64e9)
    np.testing.assert_array_equal(combined(one, "papi"), combined(six, "papi"))
    np.testing.assert_array_equal(combined(one, "papi-pim-only"), combined(six, "papi-pim-only"))


def test_links_by_figure():
    alone = {same: combined(UNFITTED, "attacc-only", same_interconnect=same) for same in (True, False)}
    papi = {same: combined(UNFITTED, "papi-pim-only", same_interconnect=same) for same in (True, False)}
    for same in (True, False):
        np.testing.assert_array_equal(alone[same], papi[same])
    assert (alone[True] < alone[False]).all()


def test_whole_outputs_cross_a_link_once():
    sums, whole = (combined(replace(UNFITTED, partial_sums=r), "attacc-only") for r in (5, 1))
    outer, inner = sum(k.outer for k in BLOCK), sum(k.inner for k in BLOCK)
    start = UNFITTED.sync_s + 2 * UNFITTED.link_latency_s
    np.testing.assert_allclose((sums - start) / (whole - start), (5 * outer + inner) / (outer + inner))


def test_copies_one_by_one_take_longer():
    multicast, unicast = (
        combined(replace(UNFITTED, broadcast=broadcast), "attacc-only")
        for broadcast in ("multicast", "unicast")
    )
    assert (unicast > multicast).all()


def test_sums_in_a_gpu_can_be_left_out():
    model = get_transformer("llama-65b")
    paid, free = (
        CostTable(build_system(Setting(stack_sums=sums), "papi"), model.fc_kernels())
        for sums in (True, False)
    )
    assert (paid.seconds[:, FC_PIM, 1:] > free.seconds[:, FC_PIM, 1:]).all()
    assert (paid.joules[:, FC_PIM, 1:] > free.joules[:, FC_PIM, 1:]).all()


def test_an_open_system_is_one_of_the_registered_until_it_is_opened():
    plain = get_system("attacc-only")
    opened = OpenSystem.model_validate(plain.model_dump())
    np.testing.assert_array_equal(opened.combine_s(BLOCK, ROWS), plain.combine_s(BLOCK, ROWS))
    np.testing.assert_array_equal(opened.combine_j(BLOCK, ROWS), plain.combine_j(BLOCK, ROWS))
    same = OpenSystem.model_validate(
        {
            **plain.model_dump(),
            "output_link": plain.attention_link.model_dump(),
            "partials": plain.partial_sums,
        }
    )
    np.testing.assert_allclose(same.combine_s(BLOCK, ROWS), plain.combine_s(BLOCK, ROWS))
    np.testing.assert_allclose(same.combine_j(BLOCK, ROWS), plain.combine_j(BLOCK, ROWS))


def test_a_column_read_serves_64_rows():
    unit = build_system(Setting(reuse_limit=64), "papi").fc_pim
    assert pim_reads(unit, np.array([1, 64, 65, 129])).tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("stack_power", "static_w", "active_w"),
    [("by-state", 8.0, 7.0), ("always", 15.0, 0.0), ("idle", 8.0, 0.0)],
)
def test_power_of_stacks(stack_power, static_w, active_w):
    setting = Setting(stack_power=stack_power, idle_power_w=8.0, active_power_w=15.0)
    system = build_system(setting, "attacc-only")
    assert system.static_power_w == pytest.approx(90 * static_w)
    assert system.fc_pim.active_power_w == pytest.approx(active_w)
    # What is left for commands depends on the background while banks work.
    left = system.fc_pim.power_budget_w - system.fc_pim.background_power_w
    assert left == pytest.approx(get_system("attacc-only").fc_pim.power_budget_w - 15.0)


def test_departures_name_units():
    setting = Setting(link_count=6, sync_s=5e-6, idle_power_w=8.0, exchange_bandwidth=300e9)
    assert setting.departures() == "link_count 6, sync_s 5 us, exchange_bandwidth 300 GB/s, idle_power_w 8 W"
    assert Setting().departures() == ""
