"""Clocks of attention on PIM: AttAcc's counts, the linear form that engines use, and physical bounds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.hardware import dram
from papi_env.hardware.attention import (
    REBUILT,
    SHIPPED,
    AttentionPim,
    attention_clocks,
    attention_coefficients,
)

BANK, BANK_GROUP, BUFFER = (AttentionPim.attacc(level, True) for level in ("bank", "bank-group", "buffer"))
FAST_BANK = AttentionPim.attacc("bank", False)

pims = st.builds(
    AttentionPim,
    st.sampled_from(["bank", "bank-group", "buffer"]),
    st.sampled_from([2.0, 4.0, 6.0, 7.5]),
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.sampled_from([48, 64]),
)
models = st.tuples(st.sampled_from([64, 80, 128, 160, 256]), st.sampled_from([1, 2]))
revisions = st.sampled_from([REBUILT, SHIPPED])
contexts = st.integers(1, 5000)
pair_counts = st.integers(1, 600)
row_counts = st.integers(1, 32)


# --- AttAcc's counts -------------------------------------------------------------------------------

# L, pairs, head size, element bytes, units, revision, cycles of AttAcc's cycle-level model.
FACTS = [
    (129, 2, 128, 2, BANK, REBUILT, 297),
    (241, 29, 128, 2, BANK, REBUILT, 889),
    (545, 116, 128, 2, BANK, REBUILT, 9077),
    (2081, 231, 128, 2, BANK, REBUILT, 63050),
    (512, 512, 128, 2, BANK, SHIPPED, 33157),
    (4088, 130, 128, 2, BANK, SHIPPED, 79205),
    (2048, 243, 128, 2, FAST_BANK, SHIPPED, 48336),
    (3057, 300, 128, 1, BANK, SHIPPED, 59609),
    (4088, 130, 128, 2, BANK_GROUP, SHIPPED, 248207),
    (2048, 157, 160, 1, BANK_GROUP, SHIPPED, 84539),
    (4088, 130, 128, 2, BUFFER, SHIPPED, 725759),
    (2048, 157, 160, 1, BUFFER, SHIPPED, 226867),
]


@pytest.mark.parametrize(("context", "pairs", "head", "element", "pim", "revision", "cycles"), FACTS)
def test_attaccs_cycle_counts(context, pairs, head, element, pim, revision, cycles):
    clocks = attention_clocks(pim, head, element, context, pairs, revision=revision, refresh="counted")
    assert clocks == pytest.approx(cycles, rel=0.025)


@pytest.mark.parametrize(
    ("pim", "head", "element", "columns"),
    [
        (BANK, 128, 2, 2),
        (BANK, 128, 1, 1),
        (BANK, 160, 2, 3),
        (BANK, 160, 1, 2),
        (BANK_GROUP, 128, 2, 8),
        (BANK_GROUP, 160, 1, 5),
        (BUFFER, 128, 2, 8),
        (BUFFER, 160, 1, 5),
        (replace(BANK, banks_per_channel=48), 128, 2, 3),
    ],
)
def test_columns_that_a_unit_reads_in_a_step(pim, head, element, columns):
    assert pim.columns(head, element) == columns


def test_the_power_limit_does_not_slow_units_on_the_buffer_die():
    assert AttentionPim.attacc("buffer", False) == BUFFER
    assert (BANK.cadence_clocks, FAST_BANK.cadence_clocks) == (6.0, 4.0)


def test_coefficients_count_commands():
    plain = attention_coefficients(BANK, 128, 2, refresh=False)
    # Two columns each for scores and values, every 6 clocks; two row changes of 46 clocks that replace a cadence.
    assert plain.per_group == 2 * 2 * 6
    assert plain.per_chunk == 2 * (8 + 19 + 19 - 6)
    # 4 x 2 query writes of 4 clocks, 8 output moves and a softmax of 2: 4 more than a row change, every second pair.
    assert plain.per_start == (32 + 16 + 2 - 46) / 2
    assert plain.per_pair == plain.per_start - REBUILT.open_rows * 40
    assert plain.unpaired_per_chunk == 8 * 2
    assert (plain.group_tokens, plain.chunk_tokens) == (16, 256)


def test_only_banks_wait_for_rows():
    assert attention_coefficients(BANK_GROUP, 128, 2).per_chunk == 0
    assert attention_coefficients(BUFFER, 128, 2).per_chunk == 0
    assert attention_coefficients(BUFFER, 128, 2).group_tokens == 2


def test_rows_of_int8_keys_are_twice_as_long():
    assert attention_coefficients(BANK, 128, 1).chunk_tokens == 512


# --- the linear form -------------------------------------------------------------------------------


@given(pims, models, row_counts, contexts, pair_counts)
def test_clocks_are_the_linear_form_of_the_busiest_channel(pim, model, rows, context, pairs):
    c = attention_coefficients(pim, *model, rows)
    on_channel = math.ceil(pairs / 16)
    groups = on_channel * math.ceil(context / c.group_tokens)
    chunks = on_channel * math.ceil(math.ceil(context / c.group_tokens) * c.group_columns / 32)
    expected = c.per_group * groups + c.per_chunk * chunks + c.per_pair * on_channel + c.per_start
    if on_channel % 2:
        expected += c.unpaired_per_chunk * chunks / on_channel
    assert attention_clocks(pim, *model, context, pairs, rows) == pytest.approx(expected, rel=1e-12)
    assert c.clocks(groups, chunks, on_channel) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 100_000))
def test_chunks_of_fp16_heads_of_128_are_256_tokens(context):
    coefficients = attention_coefficients(BANK, 128, 2)
    assert coefficients.groups(context) == math.ceil(context / 16)
    assert coefficients.chunks(context) == math.ceil(context / 256)


@given(pims, models, revisions, st.lists(st.tuples(contexts, pair_counts), min_size=1, max_size=6))
def test_arrays_are_the_same_as_single_values(pim, model, revision, rows):
    context, pairs = np.array(rows).T
    for refresh in ("mean", "counted"):
        together = attention_clocks(pim, *model, context, pairs, revision=revision, refresh=refresh)
        single = [attention_clocks(pim, *model, *row, revision=revision, refresh=refresh) for row in rows]
        np.testing.assert_array_equal(together, single)


@given(pims, models, revisions, contexts)
def test_idle_channels_change_nothing(pim, model, revision, context):
    clocks = attention_clocks(pim, *model, context, np.array([0, 1, 2, 15, 16]), revision=revision)
    assert clocks[0] == 0
    assert len(set(clocks[1:])) == 1


# --- bounds and monotonicity -----------------------------------------------------------------------


@given(pims, models, revisions, row_counts, contexts, pair_counts)
def test_nothing_is_faster_than_the_cadence(pim, model, revision, rows, context, pairs):
    clocks = attention_clocks(pim, *model, context, pairs, rows, revision=revision, refresh="counted")
    head_size, element_bytes = model
    bytes_read = 2 * math.ceil(pairs / 16) * context * head_size * element_bytes
    units = pim.banks_per_channel // {"bank": 1, "bank-group": 4, "buffer": 32}[pim.level]
    slots = math.ceil(rows / pim.fpus)
    assert clocks * (1 + 1e-12) >= bytes_read / (units * 32) * slots * pim.cadence_clocks


@given(pims, models, revisions, contexts, st.integers(0, 500), pair_counts)
def test_a_longer_context_never_takes_less(pim, model, revision, context, more, pairs):
    for refresh in ("mean", "counted"):
        short, long = (
            attention_clocks(pim, *model, length, pairs, revision=revision, refresh=refresh)
            for length in (context, context + more)
        )
        assert short <= long * (1 + 1e-12)


# Not at a few tokens: there a last pair's moves outweigh the columns behind which a partner's would go by.
@given(pims, models, st.integers(128, 5000), pair_counts, st.integers(0, 100), row_counts)
def test_more_pairs_never_take_less(pim, model, context, pairs, more, rows):
    few, many = (attention_clocks(pim, *model, context, n, rows) for n in (pairs, pairs + more))
    assert few <= many * (1 + 1e-12)


@given(pims, models, contexts, pair_counts, row_counts)
def test_more_rows_never_take_less_and_less_than_one_by_one(pim, model, context, pairs, rows):
    one, several, more = (attention_clocks(pim, *model, context, pairs, n) for n in (1, rows, rows + 1))
    assert several <= more * (1 + 1e-12)
    if pim.fpus >= 1:
        assert several <= one * rows * (1 + 1e-12)


def test_a_shared_fpu_takes_two_slots_and_no_more_row_changes():
    shared = attention_coefficients(replace(BANK, fpus=0.5), 128, 2)
    own = attention_coefficients(BANK, 128, 2)
    assert shared.per_group == 2 * own.per_group
    assert shared.per_chunk == own.per_chunk


def test_four_fpus_serve_four_rows_in_one_slot():
    four = replace(BANK, fpus=4.0)
    groups = [attention_coefficients(four, 128, 2, rows).per_group for rows in (1, 4, 5, 8)]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3] == 2 * groups[0]


@given(pims, models, revisions, contexts, pair_counts)
def test_refreshes_cost_their_share_of_time(pim, model, revision, context, pairs):
    plain = attention_coefficients(pim, *model, revision=revision, refresh=False)
    mean = attention_coefficients(pim, *model, revision=revision)
    assert 1 < mean.per_group / plain.per_group < 1.12
    counted, smooth = (
        attention_clocks(pim, *model, context, pairs, revision=revision, refresh=refresh)
        for refresh in ("counted", "mean")
    )
    # A run that starts with an interval has no more refreshes than the mean, and at most two less.
    assert counted <= smooth * (1 + 1e-12)
    assert smooth - counted <= 2 * pim.refresh_clocks(revision)


def test_a_run_within_an_interval_is_not_refreshed():
    work = attention_coefficients(BANK, 128, 2, refresh=False)
    single = work.clocks(work.groups(2000), work.chunks(2000), 1)
    assert single < dram.T_REFI
    assert attention_clocks(BANK, 128, 2, 2000, 16, refresh="counted") == single


@given(pims, models, contexts, pair_counts)
def test_the_earlier_revision_takes_longer(pim, model, context, pairs):
    clocks = [attention_clocks(pim, *model, context, pairs, revision=r) for r in (REBUILT, SHIPPED)]
    assert clocks[0] <= clocks[1]


def test_open_rows_spare_part_of_a_row_change():
    without = attention_coefficients(BANK, 128, 2, revision=replace(REBUILT, open_rows=0), refresh=False)
    always = attention_coefficients(BANK, 128, 2, revision=replace(REBUILT, open_rows=1), refresh=False)
    assert without.per_pair - always.per_pair == BANK.row_change_clocks() == 40


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"level": "rank"}, "level is 'rank', expected one of bank, bank-group, buffer"),
        ({"cadence_clocks": 0}, "cadence_clocks is 0, expected a finite number > 0"),
        ({"fpus": math.nan}, "fpus is nan, expected a finite number > 0"),
        ({"level": "buffer", "banks_per_channel": 16}, "banks_per_channel is 16, expected at least 32"),
    ],
)
def test_units_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        AttentionPim(**values)


@pytest.mark.parametrize("arguments", [(0, 2, 1), (128, 0, 1), (128, 2, 0), (128, 2, 1.5)])
def test_models_that_cannot_be(arguments):
    with pytest.raises(ValueError, match="expected a whole number >= 1"):
        attention_coefficients(BANK, *arguments)


@pytest.mark.parametrize(("context", "pairs"), [(0, 1), (-3, 1), (5, -1)])
def test_work_that_cannot_be(context, pairs):
    with pytest.raises(ValueError, match="expected at least one token"):
        attention_clocks(BANK, 128, 2, context, pairs)
