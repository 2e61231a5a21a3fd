"""A kernel counts its bytes and operations, and its arithmetic intensity is the paper's."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.kernel import AttentionKernel, Kernel, KernelClass, activation_bytes, macs

sizes = st.integers(1, 30000)


def square(hidden, rows):
    return Kernel(KernelClass.QKV, hidden, hidden, rows)


def test_opt_30b_at_batch_4_and_speculation_8_has_the_papers_intensity():
    assert round(square(7168, 4 * 8).arithmetic_intensity, 1) == 31.7  # PAPI, figure 2


@given(sizes, sizes)
def test_the_intensity_of_a_square_kernel_is_the_papers_formula(hidden, rows):
    formula = 2 * rows * hidden**2 / (2 * (2 * rows * hidden + hidden**2))
    assert square(hidden, rows).arithmetic_intensity == pytest.approx(formula, rel=1e-12)


@given(st.integers(1, 64))
def test_the_intensity_is_close_to_n_while_n_is_small_beside_h(rows):
    # n h / (2 n + h) = n (1 - 2 n / (2 n + h)): short of n by at most 2 n / h.
    intensity = square(1 << 16, rows).arithmetic_intensity
    assert rows * (1 - 2 * rows / (1 << 16)) <= intensity < rows


def test_the_intensity_of_grouped_kernels_saturates_at_half_the_matrix_size():
    fc3 = Kernel(KernelClass.REPMLP_FC3, 64, 64, rows=384, groups=128)
    assert fc3.arithmetic_intensity == pytest.approx(29.5, abs=0.05)  # RepMLPNet-B256, stage 4, 64 images
    assert fc3.with_rows(10**9).arithmetic_intensity == pytest.approx(32)


@given(sizes, sizes, st.integers(1, 4096), st.integers(1, 256))
def test_bytes_and_operations_are_those_of_every_group(inner, outer, rows, groups):
    kernel = Kernel(KernelClass.REPMLP_FC3, inner, outer, rows, groups)
    assert kernel.weight_bytes == 2 * groups * inner * outer
    assert kernel.activation_bytes == 2 * groups * rows * (inner + outer)
    assert kernel.flops == 2 * kernel.macs == 2 * groups * rows * inner * outer


def test_the_array_functions_agree_with_the_properties():
    kernel = Kernel(KernelClass.FEED_FORWARD, 8192, 22016, groups=3)
    rows = np.array([[1, 16], [1024, 100_000]])
    for function, name in ((activation_bytes, "activation_bytes"), (macs, "macs")):
        expected = [[getattr(kernel.with_rows(int(n)), name) for n in line] for line in rows]
        assert function(kernel, rows).tolist() == expected


def test_numpy_integers_count_like_python_ones():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an overflow is judged by its result
        counted = Kernel(KernelClass.QKV, 8192, 8192, rows=np.int32(1024)).flops
    assert counted == 2 * 1024 * 8192 * 8192


@pytest.mark.parametrize("field", ["inner", "outer", "rows", "groups", "count", "element_bytes"])
@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), "8", None])
def test_a_size_that_is_no_positive_integer_is_refused_by_name(field, value):
    shape = {"inner": 8, "outer": 8, field: value}
    with pytest.raises(ValueError, match=rf"{field} is .*expected an integer >= 1"):
        Kernel(KernelClass.QKV, **shape)


def test_query_heads_of_a_group_and_verified_tokens_share_a_read():
    attention = AttentionKernel(heads=64, kv_heads=8, head_size=128)
    assert attention.rows_per_kv_head(1) == 8
    assert attention.rows_per_kv_head(4) == 32


def test_grouped_queries_shrink_the_kv_cache_but_not_the_work():
    full = AttentionKernel(heads=64, kv_heads=64, head_size=128)
    grouped = AttentionKernel(heads=64, kv_heads=8, head_size=128)
    assert full.kv_bytes_per_token == 2 * 2 * 8192
    assert full.kv_bytes_per_token == 8 * grouped.kv_bytes_per_token
    assert full.macs_per_context_token == grouped.macs_per_context_token == 2 * 8192


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 3), (8, 16), (56, 5)])
def test_heads_that_do_not_divide_into_kv_heads_are_refused(heads, kv_heads):
    with pytest.raises(ValueError, match=f"{heads} heads over {kv_heads} KV heads"):
        AttentionKernel(heads, kv_heads, 128)


@pytest.mark.parametrize("field", ["heads", "kv_heads", "head_size", "count", "element_bytes"])
@pytest.mark.parametrize("value", [0, -8, 2.5, float("nan"), "8", None])
def test_an_attention_size_that_is_no_positive_integer_is_refused_by_name(field, value):
    shape = {"heads": 8, "kv_heads": 8, "head_size": 128, field: value}
    with pytest.raises(ValueError, match=rf"{field} is .*expected an integer >= 1"):
        AttentionKernel(**shape)


@given(st.integers(1, 7), st.integers(1, 64), st.integers(1, 64), st.integers(1, 4096), st.integers(1, 64))
def test_a_convolution_moves_each_input_element_once(k, inputs, outputs, rows, groups):
    im2col = Kernel(KernelClass.CONVOLUTION, k * k * inputs, outputs, rows, groups)
    overlapping = Kernel(KernelClass.CONVOLUTION, k * k * inputs, outputs, rows, groups, taps=k * k)
    assert overlapping.activation_bytes == 2 * groups * rows * (inputs + outputs)
    assert (overlapping.macs, overlapping.weight_bytes) == (im2col.macs, im2col.weight_bytes)
    assert overlapping.arithmetic_intensity >= im2col.arithmetic_intensity


def test_taps_divide_the_inner_size():
    with pytest.raises(ValueError, match="9 taps do not divide an inner size of 16"):
        Kernel(KernelClass.CONVOLUTION, 16, 4, taps=9)
    with pytest.raises(ValueError, match="taps is 0, expected an integer >= 1"):
        Kernel(KernelClass.CONVOLUTION, 16, 4, taps=0)
