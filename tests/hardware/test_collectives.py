"""Combining outputs: sync, two latencies and the bytes; the faster algorithm; published measurements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware.collectives import (
    CXL_EXCHANGE,
    NCCL,
    NVLINK_EXCHANGE,
    Exchange,
    all_reduce_s,
    host_sum_s,
    nccl_s,
    stack_sum_s,
)

names = st.sampled_from(sorted(NCCL))
counts = st.integers(2, 64)
sizes = st.floats(1, 1e10)


def test_an_exchange_takes_sync_two_latencies_and_the_bytes():
    exchange = Exchange(sync_s=3e-6, latency_s=2e-6, bandwidth=1e9)
    assert exchange.seconds(np.array([1e3, 1e6])) == pytest.approx([8e-6, 1.007e-3])


def test_nothing_to_combine_takes_no_time():
    for seconds in (
        NVLINK_EXCHANGE.seconds(0),
        all_reduce_s(0, 8, "a100"),
        nccl_s(0, 8, "a100"),
        host_sum_s(0, 0, 5),
        stack_sum_s(0, 5, 3352e9),
        all_reduce_s(1e6, 1, "h100"),
        nccl_s(1e6, 1, "h100"),
    ):
        assert seconds == 0


@given(names, counts, sizes, st.floats(1, 100))
def test_larger_messages_take_longer_and_at_most_in_proportion(gpu, gpus, size, factor):
    for seconds in (all_reduce_s, nccl_s):
        small, large = seconds(size, gpus, gpu), seconds(size * factor, gpus, gpu)
        assert small <= large * (1 + 1e-12)
        assert large <= small * factor * (1 + 1e-12)


@given(names, counts, sizes)
def test_the_rule_is_never_slower_than_nccls_ring_nor_than_one_exchange(gpu, gpus, size):
    rule = all_reduce_s(size, gpus, gpu)
    assert rule <= NVLINK_EXCHANGE.seconds(size)
    assert rule <= nccl_s(size, gpus, gpu) or nccl_s(size, gpus, gpu) < NVLINK_EXCHANGE.seconds(size)


@given(names, counts, sizes)
def test_no_gpu_sends_faster_than_nvlink(gpu, gpus, size):
    # 300 and 450 GB/s each way per GPU (data sheets); a ring sends 2 (gpus - 1) / gpus of the message.
    nvlink = {"a100": 300e9, "h100": 450e9}[gpu]
    for seconds in (all_reduce_s, nccl_s):
        assert 2 * (gpus - 1) / gpus * size / nvlink < seconds(size, gpus, gpu)


@pytest.mark.parametrize(
    ("size", "microseconds"),
    [(24e3, 7.2), (96e3, 8.3), (384e3, 13.0), (4e3, 5.7), (32e3, 7.8), (256e3, 16.7)],
)
def test_small_messages_are_as_measured_elsewhere(size, microseconds):
    # MSCCL++ on 8 GPUs, and SGLang's all-reduce on 8 H100.
    assert all_reduce_s(size, 8, "h100") == pytest.approx(microseconds * 1e-6, rel=0.36)


@pytest.mark.parametrize(
    ("gpu", "gpus", "microseconds"), [("a100", 4, 317), ("a100", 8, 411), ("h100", 4, 167), ("h100", 8, 196)]
)
def test_a_prefills_message_runs_a_ring(gpu, gpus, microseconds):
    # 33.5 MB as measured.
    assert all_reduce_s(33.5e6, gpus, gpu) == pytest.approx(microseconds * 1e-6, rel=0.08)
    assert all_reduce_s(33.5e6, gpus, gpu) == nccl_s(33.5e6, gpus, gpu)


def test_nccl_pays_more_for_small_messages():
    assert nccl_s(16e3, 8, "a100") == pytest.approx(30.3e-6, rel=0.01)
    assert all_reduce_s(16e3, 8, "a100") == pytest.approx(6.77e-6, rel=0.01)


def test_the_stacks_of_a_gpu_are_summed_at_its_bandwidth():
    # Outputs of one token of LLaMA-65B in five partial sums, at 3352 GB/s.
    assert stack_sum_s(2 * 8192, 5, 3352e9) == pytest.approx(0.03e-6, rel=0.03)


def test_a_host_takes_every_partial_sum_over_the_link():
    size = 2 * 8192
    assert host_sum_s(size, size, 5) == pytest.approx(4.5e-6 + 0.6e-6 + 6 * size / 64e9)
    assert host_sum_s(size, size, 5, links=6) == pytest.approx(CXL_EXCHANGE.seconds(size))


@pytest.mark.parametrize("seconds", [all_reduce_s, nccl_s])
def test_unknown_gpus_and_none_are_refused(seconds):
    with pytest.raises(ConfigurationError, match="Unknown GPU 'b100'"):
        seconds(1e6, 8, "b100")
    with pytest.raises(ConfigurationError, match="found 0 GPUs, expected at least 1"):
        seconds(1e6, 0, "a100")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sync_s": -1e-6}, "sync_s is -1e-06, expected seconds from 0"),
        ({"latency_s": 90}, "latency_s is 90, expected seconds from 0 to below 1"),
        ({"bandwidth": 0}, "bandwidth is 0, expected a number of B/s > 0"),
        ({"bandwidth": float("nan")}, "bandwidth is nan"),
    ],
)
def test_values_out_of_range_are_refused(change, words):
    with pytest.raises(ConfigurationError, match=words):
        Exchange(**({"sync_s": 0, "latency_s": 0, "bandwidth": 1e9} | change))
