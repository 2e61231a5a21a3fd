"""Facts of the paper that follow from a model, a capacity or AttAcc's equations: exact ones stay exact."""

from dataclasses import replace

import pytest

from experiments.paper import facts
from experiments.paper.calibration import REPRODUCTION, UNFITTED
from experiments.paper.facts import fact
from experiments.paper.published import PUBLISHED
from experiments.paper.readings import Setting
from experiments.paper.rows import Bench

ROWS = [row.row for row in PUBLISHED.values() if isinstance(row.paper, str)]


@pytest.fixture(scope="module")
def bench():
    return Bench(REPRODUCTION, (0, 1))


def test_requests_housed():
    assert facts.requests_housed() == {"640_gb_128": 282, "640_gb_2048": 18, "1280_gb_128": 854}


def test_largest_initial_rlp():
    assert facts.largest_initial_rlp() == {"rlp": 22, "iteration_ms": {"22": 29.70, "23": 31.19}}


def test_attention_intensity():
    assert facts.attention_intensity(448) == pytest.approx(7.0, abs=1e-12)
    # At most one FLOP on each byte of a key or value for every query.
    assert facts.attention_intensity(448, tlp=1) < 1


@pytest.mark.parametrize("row", ROWS)
def test_every_order_and_fact_is_decided(bench, row):
    found, holds = fact(bench, row)
    assert found
    assert isinstance(holds, bool)


@pytest.mark.parametrize(
    ("bandwidth", "rate", "held"),
    [
        ("roofline", "attacc-limit", {"F5"}),
        ("hbm3", "attacc", {"F6"}),
        ("hbm3", "attacc-limit", set()),
    ],
)
def test_what_the_bandwidths_decide(bandwidth, rate, held):
    bench = Bench(Setting(gpu_bandwidth=bandwidth, bank_rate=rate), (0,))
    assert {row for row in ("F5", "F6") if fact(bench, row)[1]} == held


def test_a_head_per_stack_is_slower_and_moves_little(bench):
    moved = facts.a_head_per_stack(bench)
    assert 0 < moved[0]["moved_by"] <= 0.003
    assert moved[1]
    spread = Bench(replace(REPRODUCTION, heads="per-stack"), (0, 1))
    assert spread.value("P1") < bench.value("P1")


def test_links_of_the_pim_only_figures():
    assert not facts.same_interconnect(Bench(Setting(), (0,)))[1]
    for setting in (REPRODUCTION, UNFITTED):
        assert facts.same_interconnect(Bench(setting, (0,)))[1]
    found, _ = facts.same_interconnect(Bench(UNFITTED, (0,)))
    assert "NVLink" in found["attacc-only"]
