"""Few pairs of a KV head and a request share the channels: fewer KV heads are never slower."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from papi_env.hardware import costs
from papi_env.hardware import system as systems
from papi_env.kernel import AttentionKernel

# Worked by hand within AttAcc's power limit.
ATTACC_1P1B, ATTN_PIM_1P2B, FC_PIM_4P1B = (
    unit.model_copy(update={"cadence_clocks": 6.0})
    for unit in (systems.ATTACC_1P1B, systems.ATTN_PIM_1P2B, systems.FC_PIM_4P1B)
)
CLOCK_S = 0.769e-9
ROUNDING = 1 + 1e-9  # float64 sums of a few terms
REFRESHED = 5070 / (5070 - 438)
HEADS = (40, 56, 64, 96)
MODELS = (8, 16, 24, 28, 32, 40, 48, 56, 64)  # query heads of public models
DIVISORS = {heads: [n for n in range(1, heads + 1) if heads % n == 0] for heads in {*HEADS, *MODELS}}


def changed(unit, **changes):
    return type(unit).model_validate({**unit.model_dump(), **changes})


def seconds(unit, kernel, rlp, context, tlp=1):
    return float(costs.pim_attention_s(unit, kernel, np.full(rlp, context), tlp))


# 0.5, 1 and 4 FPUs a bank.
units = st.builds(
    lambda unit, stacks: changed(unit, stacks=stacks),
    st.sampled_from([ATTN_PIM_1P2B, ATTACC_1P1B, FC_PIM_4P1B]),
    st.sampled_from([1, 2, 5, 16, 30, 60, 100]),
)
attention_units = st.builds(
    lambda unit, stacks: changed(unit, stacks=stacks),
    st.sampled_from([ATTN_PIM_1P2B, ATTACC_1P1B]),
    st.sampled_from([1, 2, 5, 16, 30, 60, 100]),
)
contexts = st.one_of(st.integers(1, 600), st.integers(1, 100_000))


def by_hand(share, pairs):
    """Clocks for 512 tokens, one query row: 32 groups of 48 clocks and two rows of keys, a row change each way.

    A channel has its share of them and the rest of one more. A lone part moves 8 softmax weights a row by itself.
    Each exposes 50 - 46 clocks of vectors by half and is spared half a row change; its partial output is 260 B.
    """
    rows = 80 + (16 if pairs % 2 else 0)
    column_time = (share * 32 + 1 - share) * 48 + (share * 2 + 1 - share) * rows
    return REFRESHED * (column_time + pairs * (2 - 20) + 2) + pairs * 9 * 4


@pytest.mark.parametrize("kv_heads", [64, 8, 1])
def test_one_request_takes_all_stacks_and_channels_with_any_number_of_kv_heads(kv_heads):
    # 64 query heads on 60 stacks: two on the busiest, eight channels each.
    kernel = AttentionKernel(64, kv_heads, 128)
    expected = by_hand(1 / 8, 1) * CLOCK_S
    assert expected == pytest.approx(0.0242e-3 / 80, rel=0.01)
    assert seconds(ATTN_PIM_1P2B, kernel, 1, 512) == pytest.approx(expected, rel=1e-9)


def test_channels_that_do_not_divide_evenly_work_for_two_pairs():
    # Two requests of 64 heads are 3 pairs on a stack.
    kernel = AttentionKernel(64, 64, 128)
    assert seconds(ATTN_PIM_1P2B, kernel, 2, 512) == pytest.approx(by_hand(3 / 16, 2) * CLOCK_S, rel=1e-9)


def test_a_long_context_of_grouped_queries_takes_its_share():
    # 6250 groups and 391 rows of keys, an eighth of them.
    clocks = (6250 / 8 + 7 / 8) * 48 + (391 / 8 + 7 / 8) * 96 - 16
    kernel = AttentionKernel(64, 8, 128, count=80)
    expected = (REFRESHED * clocks + 36) * CLOCK_S
    assert 80 * expected == pytest.approx(2.85e-3, rel=0.01)
    assert seconds(ATTN_PIM_1P2B, kernel, 1, 100_000) == pytest.approx(expected, rel=1e-9)


@example(ATTN_PIM_1P2B, 64, 0, 1, 1, 512)
@example(ATTACC_1P1B, 56, 3, 34, 1, 2000)
@given(units, st.sampled_from(HEADS), st.integers(0, 20), st.integers(1, 128), st.integers(1, 8), contexts)
def test_grouped_queries_are_never_slower_than_a_kv_head_for_each_query(
    unit, heads, which, rlp, tlp, context
):
    kv_heads = DIVISORS[heads][which % len(DIVISORS[heads])]
    assume(rlp * kv_heads < 16 * unit.stacks)
    grouped, multi = AttentionKernel(heads, kv_heads, 128), AttentionKernel(heads, heads, 128)
    assert seconds(unit, grouped, rlp, context, tlp) <= seconds(unit, multi, rlp, context, tlp) * ROUNDING


@example(ATTACC_1P1B, 64, 6, 29, 1, 100_000)
@example(ATTACC_1P1B, 40, 7, 91, 1, 100_000)
@given(
    attention_units,
    st.sampled_from(MODELS),
    st.integers(0, 20),
    st.integers(1, 128),
    st.integers(1, 8),
    contexts,
)
def test_fewer_kv_heads_are_never_slower(unit, heads, which, rlp, tlp, context):
    few = DIVISORS[heads][which % len(DIVISORS[heads])]
    multiples = [n for n in DIVISORS[heads] if n % few == 0 and rlp * n < 16 * unit.stacks]
    assume(multiples)
    fewest, *more = (seconds(unit, AttentionKernel(heads, n, 128), rlp, context, tlp) for n in multiples)
    for other in more:
        assert fewest <= other * ROUNDING


@given(units, st.sampled_from(HEADS), st.integers(0, 20), st.integers(1, 128), st.integers(1, 8), contexts)
def test_pairs_that_fill_the_channels_keep_attaccs_mapping(unit, heads, which, rlp, tlp, context):
    kv_heads = DIVISORS[heads][which % len(DIVISORS[heads])]
    assume(rlp * kv_heads >= 16 * unit.stacks)
    pairs = math.ceil(rlp * kv_heads / unit.stacks)
    kernel = AttentionKernel(heads, kv_heads, 128)
    work = costs.pim_attention_coefficients(unit, kernel, tlp)
    rounds = math.ceil(pairs / 16)
    clocks = float(work.clocks(rounds * work.groups(context), rounds * work.chunks(context), rounds))
    assert seconds(unit, kernel, rlp, context, tlp) == pytest.approx(clocks * CLOCK_S, rel=1e-12)


@given(units, st.sampled_from(HEADS), st.integers(0, 20), st.integers(1, 128), st.integers(1, 8), contexts)
def test_no_mapping_beats_the_bandwidth(unit, heads, which, rlp, tlp, context):
    kernel = AttentionKernel(heads, DIVISORS[heads][which % len(DIVISORS[heads])], 128)
    read = rlp * context * kernel.kv_bytes_per_token
    assert seconds(unit, kernel, rlp, context, tlp) * ROUNDING >= read / unit.peak_bandwidth


@given(units, st.integers(1, 128), st.integers(1, 8))
def test_every_copy_is_read(unit, rlp, tlp):
    kernel = AttentionKernel(64, 4, 128)
    mapping = costs.attention_mapping(unit, kernel, rlp, tlp)
    energy = costs.pim_attention_energy(unit, kernel, 10, tlp, rlp)
    once = 10 * 16 * kernel.kv_bytes_per_token * 4.4e-12
    assert float(energy.activation + energy.read) == pytest.approx(once * mapping.copies, rel=1e-6)
    assert 16 <= mapping.copies * mapping.heads < 32


def test_whole_contexts_stay_on_a_channel():
    kernel = AttentionKernel(64, 8, 128)
    work = costs.pim_attention_coefficients(ATTACC_1P1B, kernel, 1)
    whole = costs.pim_attention_s(
        ATTACC_1P1B.model_copy(update={"split_contexts": False}), kernel, np.array([512]), 1
    )
    assert whole == pytest.approx(float(work.clocks(32, 2, 1)) * CLOCK_S)
