"""FC kernels on GPUs: never faster than the card, growing with every size, and as the fit left them."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware.gpu_kernels import (
    DATA_SHEET,
    FITTED,
    KERNEL_CONSTANTS,
    LARGEST_TILE,
    RANGES,
    KernelConstants,
    fc_s,
    tilings,
)

gpus = st.sampled_from(sorted(KERNEL_CONSTANTS)).map(KERNEL_CONSTANTS.__getitem__)
rows = st.integers(1, 8192)
sizes = st.integers(1, 2**17)
bandwidths = st.none() | st.floats(1e11, 1e13)


def moved_bytes(n, outputs, inputs):
    return 2 * (inputs * outputs + n * (inputs + outputs))


# --- what must be true of any GPU ------------------------------------------------------------------


@given(gpus, rows, sizes, sizes, bandwidths)
def test_no_kernel_is_faster_than_the_peaks_and_the_start(gpu, n, outputs, inputs, bandwidth):
    seconds = fc_s(gpu, n, outputs, inputs, bandwidth)
    floor = max(
        2 * n * outputs * inputs / gpu.peak_flops,
        moved_bytes(n, outputs, inputs) / (bandwidth or gpu.memory_bandwidth),
    )
    assert gpu.start_s + floor <= seconds * (1 + 1e-9)
    assert np.isfinite(seconds)


@given(gpus, rows, sizes, sizes, st.integers(1, 4096), st.sampled_from([0, 1, 2]))
def test_more_work_never_takes_less_time(gpu, n, outputs, inputs, more, which):
    kernel = [n, outputs, inputs]
    larger = kernel.copy()
    larger[which] += more
    assert fc_s(gpu, *kernel) <= fc_s(gpu, *larger) * (1 + 1e-9)


@given(gpus, rows, sizes, sizes, st.floats(1e11, 1e13), st.floats(1, 4))
def test_more_bandwidth_never_takes_more_time_nor_gains_more_than_its_share(
    gpu, n, outputs, inputs, bandwidth, factor
):
    slow, fast = (float(fc_s(gpu, n, outputs, inputs, b)) for b in (bandwidth, bandwidth * factor))
    assert slow / factor <= fast * (1 + 1e-9)
    assert fast <= slow * (1 + 1e-9)


@given(gpus, st.integers(1, 8191), st.integers(64, 2**15), st.integers(64, 2**15))
def test_one_row_more_is_no_cliff(gpu, n, outputs, inputs):
    # A row at the edge of a tile may cost a tile, at most what the rows so far have.
    assert fc_s(gpu, n + 1, outputs, inputs) <= 2 * fc_s(gpu, n, outputs, inputs)


def test_shapes_broadcast_and_each_is_as_alone():
    gpu = KERNEL_CONSTANTS["a100"]
    n, outputs = np.arange(1, 8193)[:, None], np.array([128, 5120, 28672])
    table = fc_s(gpu, n, outputs, 8192)
    assert table.shape == (8192, 3)
    for i, j in ((0, 0), (63, 1), (1023, 2), (1024, 0), (8191, 2)):
        assert table[i, j] == pytest.approx(fc_s(gpu, int(n[i, 0]), int(outputs[j]), 8192), rel=1e-12)


def test_a_table_is_filled_quickly():
    start = time.perf_counter()
    fc_s(KERNEL_CONSTANTS["h100"], np.arange(1, 8193), 8192, 8192)
    assert time.perf_counter() - start < 2  # 50 ms on an idle core


def test_large_kernels_come_near_the_peaks():
    for gpu in KERNEL_CONSTANTS.values():
        stream = fc_s(gpu, 1, 65536, 65536)
        assert 0.7 < moved_bytes(1, 65536, 65536) / gpu.memory_bandwidth / stream < 1
        compute = fc_s(gpu, 8192, 16384, 16384)
        assert 0.6 < 2 * 8192 * 16384**2 / gpu.peak_flops / compute < 0.9


def test_tiles_fit_a_blocks_registers():
    shapes = tilings()
    assert (shapes.rows * shapes.outputs).max() == LARGEST_TILE
    assert {16, 32} <= set(shapes.rows.ravel())  # at 3352 GB/s, larger ones alone would bind an A100 at n = 1


def test_with_perfect_choice_and_overlap_it_is_the_roofline_of_the_best_tile():
    ideal = dataclasses.replace(
        KERNEL_CONSTANTS["a100"],
        bandwidth_share=1.0,
        peak_share=1.0,
        l2_bandwidth=30e12,
        whole_waves=0.0,
        overlap=20.0,
        choice=200.0,
    )
    # 108 whole tiles of 128 x 128: the tensor cores' time.
    exact = 2 * 1024 * 108 * 16 * 8192 / 312e12
    assert fc_s(ideal, 1024, 108 * 16, 8192) == pytest.approx(ideal.start_s + exact, rel=0.03)
    # One row: the weights' time.
    assert fc_s(ideal, 1, 8192, 8192) == pytest.approx(
        ideal.start_s + moved_bytes(1, 8192, 8192) / 2039e9, rel=0.03
    )


# --- the fitted constants --------------------------------------------------------------------------

# Medians from Vidur's published profiles (MIT licence), us: Llama-2 70B on one GPU, and 7B on eight.
MEASURED = [
    ("a100", 1, 57344, 8192, 580.0),
    ("a100", 128, 57344, 8192, 720.0),
    ("a100", 256, 8192, 8192, 187.0),
    ("a100", 4096, 57344, 8192, 15940.5),
    ("a100", 16, 1536, 4096, 14.0),
    ("h100", 1, 57344, 8192, 311.0),
    ("h100", 256, 10240, 8192, 87.5),
    ("h100", 4096, 57344, 8192, 5668.5),
    ("h100", 64, 2752, 4096, 14.0),
]


@pytest.mark.parametrize(("gpu", "n", "outputs", "inputs", "microseconds"), MEASURED)
def test_measured_kernels_are_met(gpu, n, outputs, inputs, microseconds):
    assert fc_s(KERNEL_CONSTANTS[gpu], n, outputs, inputs) == pytest.approx(microseconds * 1e-6, rel=0.15)


def test_one_shape_by_hand():
    # 1 x 64 by 64, with one shape of tile left to choose from in effect: the start outweighs all.
    gpu = KERNEL_CONSTANTS["a100"]
    seconds = fc_s(gpu, 1, 64, 64)
    assert gpu.start_s < seconds < gpu.start_s + 1.5e-6


def test_the_registry():
    assert set(KERNEL_CONSTANTS) == {"a100", "h100"}
    assert (*DATA_SHEET, *FITTED) == tuple(field.name for field in dataclasses.fields(KernelConstants))
    assert set(RANGES) == {field.name for field in dataclasses.fields(KernelConstants)}
    assert KERNEL_CONSTANTS["a100"].multiprocessors == 108


# --- what cannot be used ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 64, 64), "rows has 0"),
        ((1, -1, 64), "outputs has -1"),
        ((np.array([1, 2]), 64, np.array([64, 0])), "inputs has 0"),
        ((1, 64, 64, 0.0), "bandwidth is 0.0, expected a number of B/s > 0"),
        ((1, 64, 64, float("nan")), "bandwidth is nan"),
    ],
)
def test_bad_sizes_are_refused(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        fc_s(KERNEL_CONSTANTS["a100"], *arguments)


@pytest.mark.parametrize("field", sorted(RANGES))
def test_constants_outside_their_range_are_refused(field):
    low, high = RANGES[field]
    for value in (low - 1, high * 2, float("nan")):
        with pytest.raises(
            ConfigurationError, match=f"{field} is .*, expected {low:g} to {high:g}".replace("+", r"\+")
        ):
            dataclasses.replace(KERNEL_CONSTANTS["a100"], **{field: value})
