"""Combining outputs: sync, two latencies and the bytes; the faster algorithm; published measurements; AttAcc's rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware.collectives import (
    NCCL,
    all_reduce_j,
    all_reduce_s,
    attacc_all_reduce_s,
    gather_and_broadcast_s,
    nccl_s,
    stack_sum_s,
)
from papi_env.hardware.links import CXL, HDR, LINKS, NDR, NVLINK3, NVLINK4, PCIE5, Link

FABRICS = {"a100": NVLINK3, "h100": NVLINK4}
names = st.sampled_from(sorted(NCCL))
counts = st.integers(2, 64)
sizes = st.floats(1, 1e10)


def test_nothing_to_combine_takes_no_time():
    for seconds in (
        NVLINK3.exchange_s(0),
        all_reduce_s(0, 8, NVLINK3),
        nccl_s(0, 8, "a100"),
        stack_sum_s(0, 5, 3352e9),
        all_reduce_s(1e6, 1, NVLINK4),
        nccl_s(1e6, 1, "h100"),
        attacc_all_reduce_s(0.0, 6, NVLINK3),
    ):
        assert seconds == 0


@given(names, counts, sizes, st.floats(1, 100))
def test_larger_messages_take_longer_and_at_most_in_proportion(gpu, gpus, size, factor):
    for seconds in (lambda s: all_reduce_s(s, gpus, FABRICS[gpu]), lambda s: nccl_s(s, gpus, gpu)):
        small, large = seconds(size), seconds(size * factor)
        assert small <= large * (1 + 1e-12)
        assert large <= small * factor * (1 + 1e-12)


@given(names, counts, sizes)
def test_the_rule_is_never_slower_than_nccls_ring_nor_than_one_exchange(gpu, gpus, size):
    link = FABRICS[gpu]
    rule = all_reduce_s(size, gpus, link)
    assert rule <= link.exchange_s(size)
    assert rule <= nccl_s(size, gpus, gpu) or nccl_s(size, gpus, gpu) < link.exchange_s(size)


@given(names, counts, sizes)
def test_no_gpu_sends_faster_than_nvlink(gpu, gpus, size):
    # 300 and 450 GB/s each way per GPU (data sheets); a ring sends 2 (gpus - 1) / gpus of the message.
    link = FABRICS[gpu]
    for seconds in (all_reduce_s(size, gpus, link), nccl_s(size, gpus, gpu)):
        assert 2 * (gpus - 1) / gpus * size / link.bandwidth < seconds


@given(counts, sizes, st.integers(1, 8))
def test_parallel_links_carry_their_part_of_either_algorithm(gpus, size, count):
    link = NVLINK3.model_copy(update={"count": count})
    assert all_reduce_s(size, gpus, link) <= all_reduce_s(size, gpus, NVLINK3)
    large = 1e12
    assert all_reduce_s(large, gpus, link) == pytest.approx(
        all_reduce_s(large, gpus, NVLINK3) / count, rel=0.01
    )


@pytest.mark.parametrize(
    ("size", "microseconds"),
    [(24e3, 7.2), (96e3, 8.3), (384e3, 13.0), (4e3, 5.7), (32e3, 7.8), (256e3, 16.7)],
)
def test_small_messages_are_as_measured_elsewhere(size, microseconds):
    # MSCCL++ on 8 GPUs, and SGLang's all-reduce on 8 H100.
    assert all_reduce_s(size, 8, NVLINK4) == pytest.approx(microseconds * 1e-6, rel=0.36)


@pytest.mark.parametrize(
    ("gpu", "gpus", "microseconds"), [("a100", 4, 317), ("a100", 8, 411), ("h100", 4, 167), ("h100", 8, 196)]
)
def test_a_prefills_message_runs_a_ring(gpu, gpus, microseconds):
    # 33.5 MB as measured.
    assert all_reduce_s(33.5e6, gpus, FABRICS[gpu]) == pytest.approx(microseconds * 1e-6, rel=0.08)
    assert all_reduce_s(33.5e6, gpus, FABRICS[gpu]) == nccl_s(33.5e6, gpus, gpu)


def test_nccl_pays_more_for_small_messages():
    assert nccl_s(16e3, 8, "a100") == pytest.approx(30.3e-6, rel=0.01)
    assert all_reduce_s(16e3, 8, NVLINK3) == pytest.approx(6.77e-6, rel=0.01)


def test_a_link_without_a_ring_exchanges_messages_of_any_size():
    assert all_reduce_s(1e9, 8, PCIE5) == PCIE5.exchange_s(1e9)


def test_the_stacks_of_a_gpu_are_summed_at_its_bandwidth():
    # Outputs of one token of LLaMA-65B in five partial sums, at 3352 GB/s.
    assert stack_sum_s(2 * 8192, 5, 3352e9) == pytest.approx(0.03e-6, rel=0.03)


def test_unknown_gpus_and_none_are_refused():
    with pytest.raises(ConfigurationError, match="Unknown GPU 'b100'"):
        nccl_s(1e6, 8, "b100")
    for seconds in (lambda: nccl_s(1e6, 0, "a100"), lambda: all_reduce_s(1e6, 0, NVLINK3)):
        with pytest.raises(ConfigurationError, match="found 0 ranks, expected at least 1"):
            seconds()


# --- AttAcc's simulator ----------------------------------------------------------------------------


@given(sizes, st.integers(2, 64), st.sampled_from([NVLINK3, NVLINK4, PCIE5]))
def test_attaccs_all_reduce_is_its_formula(size, ranks, link):
    both_ways = 2 * link.bandwidth
    hop_ns = 6060 + 0.009 * (size / ranks) * (600e9 / both_ways)
    expected = (ranks - 1) * max(hop_ns * 1e-9, size / ranks / (both_ways / 2))
    assert attacc_all_reduce_s(size, ranks, link) == pytest.approx(expected, rel=1e-12)


def test_a_small_all_reduce_over_six_gpus_takes_attacc_five_hops_of_6_06_us():
    assert attacc_all_reduce_s(1.0, 6, NVLINK3) == pytest.approx(5 * 6.06e-6, rel=1e-6)


def test_one_gpu_has_nothing_to_reduce():
    assert attacc_all_reduce_s(np.array([0.0, 1e9]), 1, NVLINK3).tolist() == [0, 0]


def test_a_faster_link_never_slows_attaccs_all_reduce():
    size = np.logspace(0, 12, 50)
    assert (attacc_all_reduce_s(size, 6, NVLINK4) <= attacc_all_reduce_s(size, 6, NVLINK3)).all()


def test_a_gather_and_a_broadcast_are_two_transfers():
    link = Link(name="test", bandwidth=1e9, latency_s=1e-6, j_per_byte=0)
    assert gather_and_broadcast_s(np.array([0.0, 1e6]), link) == pytest.approx([0, 2 * (1e-6 + 1e-3)])
    assert gather_and_broadcast_s(1.0, CXL) == 2 * CXL.transfer_s(1.0)


CLUSTER = LINKS["dgx-h100"]


def test_a_cluster_of_one_node_is_its_nvlink():
    for ranks in (1, 2, 8):
        assert all_reduce_s(1e6, ranks, CLUSTER) == all_reduce_s(1e6, ranks, NVLINK4)
        assert all_reduce_j(1e6, ranks, CLUSTER) == all_reduce_j(1e6, ranks, NVLINK4)


def test_nodes_scatter_sum_across_and_gather():
    # 4 nodes of 8: an all-reduce in the node, and an eighth of the message among four ranks on InfiniBand.
    size = 64e6
    in_node = 22.6e-6 + 0.87e-6 * 7 + 2 * 7 / 8 * size / 346e9
    across = 4.5e-6 + 2 * 2e-6 + size / 8 / 50e9
    assert all_reduce_s(size, 32, CLUSTER) == pytest.approx(in_node + across)
    joules = size * (4 * 2 * 7 * NVLINK4.j_per_byte + 2 * 3 * NDR.j_per_byte)
    assert all_reduce_j(size, 32, CLUSTER) == pytest.approx(joules)


@given(sizes, st.integers(2, 64))
def test_two_levels_are_slower_than_one_node_and_faster_than_the_slow_link_alone(size, nodes):
    ranks = 8 * nodes
    seconds = all_reduce_s(size, ranks, CLUSTER)
    assert seconds > all_reduce_s(size, 8, NVLINK4)
    # The link between nodes carries an eighth of what it would without them; the node adds its own time.
    assert seconds <= all_reduce_s(size, ranks, NDR) + all_reduce_s(size, 8, NVLINK4)
    if size > 1e8:
        assert seconds < all_reduce_s(size, ranks, NDR)


def test_nodes_that_are_not_full_are_refused_with_what_would_be():
    with pytest.raises(
        ConfigurationError, match=r"found 20 ranks on nodes of 8 .*, expected full nodes, such as 16 or 24"
    ):
        all_reduce_s(1e6, 20, CLUSTER)


def test_published_rates_between_nodes():
    assert (HDR.bandwidth, NDR.bandwidth) == (200e9 / 8, 400e9 / 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_node": 8}, "per_node is 8 and between None: expected both"),
        ({"between": "infiniband-ndr"}, "per_node is None and between 'InfiniBand NDR': expected both"),
        ({"per_node": 8, "between": "dgx-h100"}, "expected two levels at most"),
        ({"per_node": 0, "between": "infiniband-ndr"}, "per_node"),
        ({"per_node": 8, "between": "infiniband"}, "Did you mean 'infiniband-"),
    ],
)
def test_impossible_levels_are_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        Link.define(NVLINK4.model_dump() | change, "here")


def test_links_of_one_level_do_not_write_levels_down_and_others_come_back():
    assert "per_node" not in NVLINK4.model_dump()
    assert Link.model_validate_json(CLUSTER.model_dump_json()) == CLUSTER
