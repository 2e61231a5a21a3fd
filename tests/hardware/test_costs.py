"""No unit beats physics: peaks, power budgets, monotone times, and energies that add up."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware import costs, dram
from papi_env.hardware import system as systems
from papi_env.hardware.attention import AttentionPim, attention_clocks
from papi_env.hardware.gpu_kernels import fc_s
from papi_env.hardware.units import PimUnit, ProcessingUnit
from papi_env.kernel import AttentionKernel, Kernel, KernelClass
from papi_env.workload.transformer import TRANSFORMERS

CLOCK_S = 0.769e-9
# Closing a row and opening the next: 8 + 19 + 19 clocks, of which a cadence of 6 passes anyway.
ROW_CHANGE = 40
# A refresh every 5070 clocks takes 8 + 1 + 456 + 19 - 6 of them, and a row change falls away for it.
REFRESHED = 5070 / (5070 - (478 - ROW_CHANGE))
ROUNDING = 1 + 1e-9  # float64 sums of a few terms

LLAMA = TRANSFORMERS["llama-65b"]
GPT3 = TRANSFORMERS["gpt3-175b"]
# Worked by hand within AttAcc's power limit, and by the roofline of PAPI's figure 2.
ATTACC_1P1B, ATTN_PIM_1P2B, FC_PIM_4P1B = (
    unit.model_copy(update={"cadence_clocks": 6.0})
    for unit in (systems.ATTACC_1P1B, systems.ATTN_PIM_1P2B, systems.FC_PIM_4P1B)
)
MEASURED = systems.SYSTEMS["papi"].pu
A100 = MEASURED.model_copy(
    update={"kernels": "roofline", "memory_bandwidth": 1935e9, "attention_memory_efficiency": None}
)
# 30 stacks of each, as PAPI compares them on FC kernels.
AS_WEIGHT_STACKS = {"stacks": 30, "runs": ("fc",)}

rows_arrays = st.lists(st.integers(1, 5000), min_size=2, max_size=8).map(lambda rows: np.array(sorted(rows)))
kernels = st.builds(
    Kernel,
    st.just(KernelClass.FEED_FORWARD),
    st.integers(1, 50_000),
    st.integers(1, 50_000),
    groups=st.integers(1, 300),
)
attention_kernels = st.builds(
    lambda kv_heads, group, head_size: AttentionKernel(kv_heads * group, kv_heads, head_size),
    st.integers(1, 96),
    st.integers(1, 8),
    st.sampled_from([16, 64, 80, 128, 256]),
)
gpus = st.builds(
    ProcessingUnit,
    name=st.just("gpu"),
    count=st.integers(1, 8),
    peak_flops=st.floats(1e12, 1e15),
    memory_bandwidth=st.floats(1e11, 1e13),
    memory_bytes=st.just(2**36),
    compute_efficiency=st.floats(0.1, 1),
    memory_efficiency=st.floats(0.1, 1),
)


@st.composite
def pim_units(draw):
    """Any unit that fits its die, down to budgets that hold its rate back."""
    fpus = draw(st.sampled_from([0.25, 0.5, 1, 2, 4, 8]))
    groups = draw(st.integers(1, dram.max_banks_per_die(fpus) // 4))
    background = draw(st.just(0.0) | st.floats(1e-2, 40))
    return PimUnit(
        name="pim",
        stacks=draw(st.integers(1, 100)),
        fpus_per_bank=fpus,
        stack=dram.Stack(banks_per_die=4 * groups),
        cadence_clocks=draw(st.floats(2, 12)),
        column_reads=draw(st.sampled_from(["once", "per-slot"])),
        double_buffered=draw(st.booleans()),
        background_power_w=background,
        idle_power_w=draw(st.sampled_from([0.0, 0.25, 1.0])) * background,
        power_budget_w=background + draw(st.floats(1, 150)),
    )


@st.composite
def batches(draw):
    """Contexts of the requests of a batch."""
    return np.array(draw(st.lists(st.integers(1, 8000), min_size=1, max_size=128)))


def groups_of(contexts):
    return float(np.ceil(contexts / 16).sum())


def changed(unit, **changes):
    return type(unit).model_validate({**unit.model_dump(), **changes})


def fc_seconds(unit, rows):
    return sum(kernel.count * costs.pim_fc_s(unit, kernel, rows) for kernel in LLAMA.fc_kernels())


# --- FPU slots and reads ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "slots"),
    [(FC_PIM_4P1B, lambda n: math.ceil(n / 4)), (ATTACC_1P1B, lambda n: n), (ATTN_PIM_1P2B, lambda n: 2 * n)],
    ids=["4P1B", "1P1B", "1P2B"],
)
def test_a_column_feeds_all_fpus_of_its_bank(unit, slots):
    rows = np.arange(1, 1025)
    assert costs.pim_slots(unit, rows).tolist() == [slots(n) for n in range(1, 1025)]


def test_a_column_is_read_once_or_once_for_each_slot():
    rows = np.array([1, 4, 5, 64])
    assert costs.pim_reads(FC_PIM_4P1B, rows).tolist() == [1, 1, 1, 1]
    assert costs.pim_reads(changed(FC_PIM_4P1B, column_reads="per-slot"), rows).tolist() == [1, 1, 2, 16]
    # Two slots of a shared FPU are two banks, each read once.
    assert costs.pim_reads(changed(ATTN_PIM_1P2B, column_reads="per-slot"), rows).tolist() == [1, 4, 5, 64]


# --- FC kernels on PIM -----------------------------------------------------------------------------


@given(pim_units(), kernels, rows_arrays)
def test_pim_beats_neither_its_internal_bandwidth_nor_its_fpus(unit, kernel, rows):
    seconds = costs.pim_fc_s(unit, kernel, rows)
    slots = np.array([math.ceil(n / unit.fpus_per_bank) for n in rows])
    assert (seconds * ROUNDING >= kernel.weight_bytes * slots / unit.peak_bandwidth).all()
    assert (seconds * ROUNDING * unit.peak_flops >= 2.0 * rows * kernel.macs).all()


@given(pim_units(), kernels, rows_arrays)
def test_fc_on_pim_stays_inside_its_power_budget(unit, kernel, rows):
    seconds = costs.pim_fc_s(unit, kernel, rows)
    energy = costs.pim_fc_energy(unit, kernel, rows)
    banks_j = energy.activation + energy.read + energy.compute
    watts = banks_j / seconds / unit.stacks + unit.background_power_w
    assert (watts <= unit.power_budget_w * ROUNDING).all()


@given(pim_units(), attention_kernels, batches(), st.integers(1, 8))
def test_attention_on_pim_stays_inside_its_power_budget(unit, kernel, batch, tlp):
    groups = groups_of(batch)
    seconds = costs.pim_attention_s(unit, kernel, batch, tlp)
    energy = costs.pim_attention_energy(unit, kernel, groups, tlp, len(batch))
    banks_j = energy.activation + energy.read + energy.compute
    assert banks_j / seconds / unit.stacks + unit.background_power_w <= unit.power_budget_w * ROUNDING


def test_the_power_budget_slows_1p1b_at_papis_bank_rate_and_not_1p2b():
    kernel = Kernel(KernelClass.QKV, 8192, 24576)
    for unit, slowed in ((ATTACC_1P1B, True), (ATTN_PIM_1P2B, False)):
        fast = changed(unit, cadence_clocks=2)
        unlimited = changed(fast, power_budget_w=1e9)
        assert (costs.pim_fc_s(fast, kernel, 1) > costs.pim_fc_s(unlimited, kernel, 1)) == slowed


@given(pim_units(), kernels, rows_arrays)
# One command a row: the row waits as long at either cadence, to the last bit.
@example(
    PimUnit(
        name="pim",
        stacks=2,
        fpus_per_bank=4,
        stack=dram.Stack(banks_per_die=52),
        cadence_clocks=2.0,
        column_reads="per-slot",
        double_buffered=False,
        background_power_w=0.0,
        idle_power_w=0.0,
        power_budget_w=42.0,
    ),
    Kernel(KernelClass.FEED_FORWARD, 105, 127),
    np.array([1, 33]),
)
def test_a_smaller_power_budget_never_speeds_a_kernel_up(unit, kernel, rows):
    budget = (unit.power_budget_w + unit.background_power_w) / 2
    seconds = costs.pim_fc_s(changed(unit, power_budget_w=budget), kernel, rows)
    assert (seconds >= costs.pim_fc_s(unit, kernel, rows)).all()


@given(pim_units(), kernels, rows_arrays)
def test_fc_on_pim_is_finite_positive_and_never_faster_with_more_rows(unit, kernel, rows):
    seconds, joules = costs.pim_fc_s(unit, kernel, rows), costs.pim_fc_energy(unit, kernel, rows).total
    assert seconds.shape == joules.shape == rows.shape
    for values in (seconds, joules):
        assert np.isfinite(values).all()
        assert (values > 0).all()
        assert (np.diff(values) >= -1e-12 * values[1:]).all()


@contextlib.contextmanager
def mapped_as_on(unit, kernel):
    """Hold the mapping of a kernel: weights are laid out once, for few rows, and units may differ in what they prefer.

    Properties that compare units are about the same layout; another one may be slower for other rows.
    """
    mapping = costs.pim_fc_mapping(unit, kernel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "pim_fc_mapping", lambda *_: mapping)
        yield


# One matrix, which has one mapping: it follows the stacks, so it cannot be held here.
@given(pim_units(), kernels.map(lambda kernel: replace(kernel, groups=1)), rows_arrays, st.integers(2, 4))
def test_more_fpus_more_stacks_or_a_faster_cadence_never_slow_an_fc_kernel(unit, kernel, rows, factor):
    seconds = costs.pim_fc_s(unit, kernel, rows)
    better = [changed(unit, stacks=unit.stacks * factor)]
    better.append(changed(unit, cadence_clocks=max(2, unit.cadence_clocks / factor)))
    more = 2 * unit.fpus_per_bank
    if dram.max_banks_per_die(more) >= unit.stack.banks_per_die:
        better.append(changed(unit, fpus_per_bank=more))
    for other in better:
        assert (costs.pim_fc_s(other, kernel, rows) <= seconds * ROUNDING).all()


@given(pim_units(), kernels, rows_arrays)
def test_hiding_vector_moves_never_takes_longer(unit, kernel, rows):
    hidden, exposed = changed(unit, double_buffered=True), changed(unit, double_buffered=False)
    with mapped_as_on(unit, kernel):
        assert (costs.pim_fc_s(hidden, kernel, rows) <= costs.pim_fc_s(exposed, kernel, rows)).all()


@given(pim_units(), kernels, rows_arrays)
def test_reading_a_column_once_never_takes_more_energy_or_time_than_once_a_slot(unit, kernel, rows):
    once, again = changed(unit, column_reads="once"), changed(unit, column_reads="per-slot")
    energy_once, energy_again = (costs.pim_fc_energy(u, kernel, rows) for u in (once, again))
    assert (energy_once.total <= energy_again.total * ROUNDING).all()
    assert (energy_once.compute == energy_again.compute).all()
    assert (costs.pim_fc_s(once, kernel, rows) <= costs.pim_fc_s(again, kernel, rows) * ROUNDING).all()


def test_fc_pim_is_nearly_three_times_as_fast_as_1p1b_on_fc():
    # PAPI, P4: 2.9 for LLaMA-65B at batch 4 x speculation 4; 4 x 96 / 128 = 3.0 is the ceiling.
    fast = fc_seconds(FC_PIM_4P1B, 16)
    slow = fc_seconds(changed(ATTACC_1P1B, **AS_WEIGHT_STACKS), 16)
    assert 2.8 <= slow / fast < 3.0


def test_one_row_leaves_three_of_four_fpus_idle():
    # 96 of 128 banks and no reuse: FC-PIM is slower than 1P1B by that ratio.
    fast = fc_seconds(changed(ATTACC_1P1B, **AS_WEIGHT_STACKS), 1)
    assert fc_seconds(FC_PIM_4P1B, 1) / fast == pytest.approx(128 / 96, rel=0.01)


@pytest.mark.parametrize(("rows", "share"), [(1, 0.965), (64, 0.301)])
def test_reads_and_macs_of_an_fc_kernel_split_as_attaccs_energies(rows, share):
    # PAPI prints 96.7 % and 33.1 %; AttAcc's constants alone give these.
    energy = costs.pim_fc_energy(FC_PIM_4P1B, Kernel(KernelClass.QKV, 8192, 24576), rows)
    reads = energy.activation + energy.read
    assert reads / (reads + energy.compute) == pytest.approx(share, abs=5e-4)


# 64 columns in each of 30 x 768 banks: two rows of a bank. A row of inputs takes 16 writes and one of
# outputs 12 moves of 32 B on each channel, 4 clocks each.
TWO_ROWS = Kernel(KernelClass.QKV, 4096, 5760)


@pytest.mark.parametrize(
    ("rows", "mac_clocks", "vector_clocks"),
    [(1, 64 * 6, 1 * 28 * 4), (4, 64 * 6, 4 * 28 * 4), (5, 2 * 64 * 6, 5 * 28 * 4)],
)
def test_fc_on_pim_takes_its_macs_row_changes_and_refreshes_or_its_vector_moves(
    rows, mac_clocks, vector_clocks
):
    bank_clocks = (mac_clocks + 2 * ROW_CHANGE) * REFRESHED
    exposed = changed(FC_PIM_4P1B, double_buffered=False)
    hidden_s, exposed_s = (costs.pim_fc_s(unit, TWO_ROWS, rows) for unit in (FC_PIM_4P1B, exposed))
    assert hidden_s == pytest.approx(max(bank_clocks, vector_clocks) * CLOCK_S)
    assert exposed_s == pytest.approx((bank_clocks + vector_clocks) * CLOCK_S)


def test_rows_are_opened_again_when_columns_are_read_again():
    again = changed(FC_PIM_4P1B, column_reads="per-slot", double_buffered=False)
    once = changed(again, column_reads="once")
    extra = costs.pim_fc_s(again, TWO_ROWS, 8) - costs.pim_fc_s(once, TWO_ROWS, 8)
    assert extra == pytest.approx(2 * ROW_CHANGE * REFRESHED * CLOCK_S)


def test_a_row_of_one_column_stays_open_for_its_least_time():
    # One column in each of 30 x 768 banks; 45 clocks open and 19 to close, which the 46 of a full row do not cover.
    kernel = Kernel(KernelClass.QKV, 512, 720)
    assert costs.pim_fc_s(FC_PIM_4P1B, kernel, 1) == pytest.approx((45 + 19) * REFRESHED * CLOCK_S)
    # Four slots of 6 clocks after 19 to open leave nothing to wait for.
    slots = changed(ATTACC_1P1B, **AS_WEIGHT_STACKS)
    assert costs.pim_fc_s(slots, kernel, 4) == pytest.approx((4 * 6 + ROW_CHANGE) * REFRESHED * CLOCK_S)


def test_vectors_move_while_rows_open_and_banks_refresh():
    # 64 x 64: one column a bank and two moves of 4 clocks a row; from some n on the channel is the slower side.
    kernel = Kernel(KernelClass.REPMLP_FC3, 64, 64)
    assert costs.pim_fc_s(FC_PIM_4P1B, kernel, 100) == pytest.approx(100 * 2 * 4 * CLOCK_S)


def without_refreshes(function, unit, *arguments):
    never = unit.stack.technology.model_copy(update={"t_refi": 1e15})
    stack = unit.stack.model_copy(update={"technology": never})
    return function(unit.model_copy(update={"stack": stack}), *arguments)


# Without refreshes this kernel would be mapped otherwise, which is another matter than what they take.
@example(
    PimUnit(
        name="pim",
        stacks=1,
        fpus_per_bank=4.0,
        stack=dram.Stack(banks_per_die=8),
        runs=("fc",),
        cadence_clocks=2.0,
        column_reads="once",
        double_buffered=False,
        power_budget_w=5.0,
        background_power_w=0.0,
        idle_power_w=0.0,
    ),
    Kernel(KernelClass.FEED_FORWARD, 326, 87, groups=6),
    1,
)
@given(pim_units(), kernels, st.integers(1, 64))
def test_refreshes_take_the_same_share_of_fc_and_attention(unit, kernel, rows):
    # Banks alone: one head of 128 whose query rows are the rows of the FC kernel.
    attention = AttentionKernel(rows, 1, 128)
    shares = []
    with mapped_as_on(unit, kernel):
        for function, arguments in (
            (costs.pim_fc_bank_clocks, (unit, kernel, rows)),
            # Not those kept from before: what they depend on changes here.
            (lambda *of: costs.pim_attention_coefficients.__wrapped__(*of).per_group, (unit, attention, 1)),
        ):
            shares.append(function(*arguments) / without_refreshes(function, *arguments))
    assert shares[0] == pytest.approx(shares[1], rel=1e-9)
    # Commands that the power budget spreads beyond a refresh leave room for it.
    assert 1 <= shares[0] <= REFRESHED * ROUNDING


def test_long_fc_kernels_reach_the_same_share_of_the_peak_as_long_attention():
    # 32 columns of 6 clocks and a row change of 40, in 4632 of every 5070 clocks: 0.756 of the peak rate.
    share = 32 * 6 / (32 * 6 + 40) * (5070 - 438) / 5070
    fc_bytes_per_s = TWO_ROWS.weight_bytes / costs.pim_fc_s(FC_PIM_4P1B, TWO_ROWS, 1)
    assert fc_bytes_per_s / FC_PIM_4P1B.peak_bandwidth == pytest.approx(share)
    # Two pairs on every channel hide their vectors behind each other but for a per mille.
    heads = AttentionKernel(2 * 60 * 16, 2 * 60 * 16, 128)
    seconds = costs.pim_attention_s(ATTACC_1P1B, heads, np.array([2**16]), 1)
    kv_bytes_per_s = heads.kv_bytes_per_token * 2**16 / seconds
    assert kv_bytes_per_s / ATTACC_1P1B.peak_bandwidth == pytest.approx(share, rel=1e-3)


def test_inputs_go_to_every_stack_and_each_channel_returns_partial_sums():
    to_buffer_die = 26.32e-12 - 4.4e-12
    inputs, outputs = 2 * 4096 * 30, 2 * 5760 * 16
    transfer = costs.pim_fc_energy(FC_PIM_4P1B, TWO_ROWS, 7).transfer
    assert transfer == pytest.approx(7 * (inputs + outputs) * to_buffer_die)


def test_share_sets_in_channels_of_their_own_have_no_partial_sums():
    # 480 channels for 60 matrices: eight each, which divide its outputs and all need its inputs.
    share_sets = Kernel(KernelClass.REPMLP_FC3, 64, 64, groups=60)
    assert costs.pim_fc_mapping(FC_PIM_4P1B, share_sets) == costs.FcMapping(
        columns=1, vector_commands=2 * 64 // 32 + 1, input_copies=8, partial_sums=1
    )
    expected = 60 * (2 * 64 * 8 + 2 * 64) * (26.32e-12 - 4.4e-12)
    assert costs.pim_fc_energy(FC_PIM_4P1B, share_sets, 1).transfer == pytest.approx(expected)


def test_more_share_sets_than_channels_queue_up_in_them():
    share_sets = Kernel(KernelClass.REPMLP_FC3, 64, 64, groups=481)
    mapping = costs.pim_fc_mapping(FC_PIM_4P1B, share_sets)
    # Two matrices of 8 KiB in the 48 banks of the busiest channel.
    assert mapping == costs.FcMapping(columns=11, vector_commands=16, input_copies=1, partial_sums=1)


@given(kernel=kernels, unit=pim_units())
def test_any_mapping_holds_all_weights_and_moves_all_vectors(kernel, unit):
    assert costs.pim_fc_mapping(unit, replace(kernel, groups=1)).partial_sums == 16
    mapping = costs.pim_fc_mapping(unit, kernel)
    assert mapping.columns * unit.stacks * unit.stack.banks * 32 >= kernel.weight_bytes
    # Whatever the mapping, every input is written somewhere and every output comes from somewhere.
    channels = unit.stacks * 16
    moved = mapping.vector_commands * 32 * channels
    assert moved >= kernel.groups * (kernel.inner + kernel.outer) * kernel.element_bytes


# --- attention on PIM ------------------------------------------------------------------------------


@given(st.integers(1, 128), st.integers(1, 4096))
def test_attention_of_equal_contexts_is_the_command_count(rlp, context):
    pairs = math.ceil(rlp * 64 / 60)  # on a stack
    clocks = attention_clocks(AttentionPim.attacc("bank", power_limit=True), 128, 2, context, pairs)
    of = (ATTACC_1P1B, LLAMA.attention_kernel(), np.full(rlp, context), 1)
    expected = pytest.approx(float(clocks) * CLOCK_S, rel=1e-12)
    assert costs.pim_attention_s(changed(of[0], split_contexts=False), *of[1:]) == expected
    if pairs >= 16:
        assert costs.pim_attention_s(*of) == expected


@pytest.mark.parametrize("tlp", [1, 4])
def test_two_banks_on_one_fpu_slow_long_attention_as_in_the_paper(tlp):
    # PAPI, P5: 1.7 times slower: MACs take twice as long, row openings and vectors do not.
    kernel, contexts = LLAMA.attention_kernel(), np.full(16, 2048)
    shared, own = (
        costs.pim_attention_s(unit, kernel, contexts, tlp) for unit in (ATTN_PIM_1P2B, ATTACC_1P1B)
    )
    assert 1.7 * 0.9 <= shared / own <= 2


@given(pim_units(), attention_kernels, batches(), st.integers(1, 8))
def test_attention_on_pim_beats_neither_its_bandwidth_nor_its_fpus(unit, kernel, batch, tlp):
    groups = groups_of(batch)
    seconds = float(costs.pim_attention_s(unit, kernel, batch, tlp))
    kv_bytes = 16 * groups * kernel.kv_bytes_per_token
    flops = 2 * 16 * groups * tlp * kernel.macs_per_context_token
    slots = math.ceil(kernel.rows_per_kv_head(tlp) / unit.fpus_per_bank)
    assert seconds * ROUNDING >= kv_bytes * slots / unit.peak_bandwidth
    assert seconds * ROUNDING >= flops / unit.peak_flops


@given(pim_units(), attention_kernels, batches(), st.integers(1, 7))
def test_more_context_more_queries_or_fewer_stacks_never_speed_attention_up(unit, kernel, batch, tlp):
    groups = groups_of(batch)
    seconds = costs.pim_attention_s(unit, kernel, batch, tlp)
    energy = costs.pim_attention_energy(unit, kernel, groups, tlp, len(batch))
    assert np.isfinite(seconds)
    assert seconds > 0
    assert costs.pim_attention_s(unit, kernel, batch + 16, tlp) >= seconds
    assert costs.pim_attention_s(unit, kernel, batch, tlp + 1) * ROUNDING >= seconds
    more = changed(unit, stacks=2 * unit.stacks)
    # Equal and long contexts: an odd last pair has no partner to hide behind, and combining the partial softmaxes of
    # split contexts takes time, which counts where the rest is tiny.
    # One KV head per query: with fewer, a mapping is kept only where no context is slower by it.
    equal, own = np.full_like(batch, 8000), AttentionKernel(kernel.heads, kernel.heads, kernel.head_size)
    faster, slower = (costs.pim_attention_s(u, own, equal, tlp) for u in (more, unit))
    assert faster <= slower * ROUNDING
    assert costs.pim_attention_energy(unit, kernel, groups + 1, tlp, len(batch)).total > energy.total
    assert costs.pim_attention_energy(unit, kernel, groups, tlp + 1, len(batch)).total > energy.total


# 17 heads on one stack's 16 channels: some channel works through two heads of the long request.
@example(changed(ATTACC_1P1B, stacks=1), AttentionKernel(17, 17, 128), np.array([8000, 1]), 1)
@given(pim_units(), attention_kernels, batches(), st.integers(1, 8))
def test_attention_never_ends_before_its_longest_request(unit, kernel, batch, tlp):
    mapping, work = costs.mapped_attention(unit, kernel, len(batch), tlp)
    macs = work.per_group * work.groups(batch.max()) * mapping.share_of_one
    assert costs.pim_attention_s(unit, kernel, batch, tlp) * ROUNDING >= macs * CLOCK_S


def test_verified_tokens_and_grouped_queries_share_the_kv_reads():
    one, grouped = LLAMA.attention_kernel(), AttentionKernel(64, 8, 128)
    energy = [costs.pim_attention_energy(ATTN_PIM_1P2B, one, 100, tlp, 120) for tlp in (1, 4)]
    assert energy[0].read == energy[1].read
    assert 4 * energy[0].compute == energy[1].compute
    assert costs.pim_attention_energy(ATTN_PIM_1P2B, grouped, 100, 1, 120).read * 8 == energy[0].read


def test_each_query_pays_its_own_vectors():
    # Verified tokens share the openings of rows, not the writes and moves of vectors.
    kernel = LLAMA.attention_kernel()
    one, four = (costs.pim_attention_coefficients(ATTACC_1P1B, kernel, tlp) for tlp in (1, 4))
    assert four.per_chunk == one.per_chunk
    assert four.per_start > one.per_start
    assert four.unpaired_per_chunk == pytest.approx(4 * one.unpaired_per_chunk)


def test_scores_travel_to_the_softmax_and_back():
    scores = 2 * 100 * 16 * 4 * 64 * 2  # there and back, 100 groups, 4 queries, 64 heads, FP16
    transfer = costs.pim_attention_energy(ATTACC_1P1B, LLAMA.attention_kernel(), 100, 4, 1).transfer
    assert transfer == pytest.approx(scores * (26.32e-12 - 4.4e-12))


def test_fewer_pairs_than_channels_share_their_contexts():
    # 1, 7 and 15 requests of 64 heads are 2, 8 and 16 pairs on a stack of 16 channels.
    kernel = LLAMA.attention_kernel()
    one, half, full, beyond = (
        costs.pim_attention_s(ATTACC_1P1B, kernel, np.full(rlp, 2**16), 1) for rlp in (1, 7, 15, 16)
    )
    assert one / full == pytest.approx(1 / 8, rel=0.01)
    assert half / full == pytest.approx(1 / 2, rel=0.01)
    # Two pairs hide each other's vectors.
    assert 1.5 * full < beyond <= 2 * full


# --- processing units ------------------------------------------------------------------------------


@given(gpus, kernels, rows_arrays)
def test_gpus_beat_neither_their_flops_nor_their_bandwidth(unit, kernel, rows):
    seconds = costs.pu_fc_s(unit, kernel, rows)
    moved = np.array([kernel.with_rows(int(n)).activation_bytes + kernel.weight_bytes for n in rows])
    assert (2.0 * rows * kernel.macs / seconds <= unit.count * unit.peak_flops * ROUNDING).all()
    assert (moved / seconds <= unit.count * unit.memory_bandwidth * ROUNDING).all()


@given(gpus, kernels, rows_arrays, st.floats(1, 4))
def test_more_gpus_bandwidth_or_flops_never_slow_a_kernel_and_more_rows_never_speed_it_up(
    unit, kernel, rows, factor
):
    seconds = costs.pu_fc_s(unit, kernel, rows)
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) >= 0).all()
    for changes in (
        {"count": unit.count + 1},
        {"memory_bandwidth": unit.memory_bandwidth * factor},
        {"peak_flops": unit.peak_flops * factor},
    ):
        assert (costs.pu_fc_s(changed(unit, **changes), kernel, rows) <= seconds * ROUNDING).all()


@given(gpus, attention_kernels, st.integers(1, 10**7), st.integers(1, 7))
def test_attention_on_gpus_is_bounded_by_the_roofline_too(unit, kernel, tokens, tlp):
    seconds = costs.pu_attention_s(unit, kernel, tokens, tlp)
    flops = 2 * tokens * tlp * kernel.macs_per_context_token
    assert flops / seconds <= unit.count * unit.peak_flops * ROUNDING
    assert tokens * kernel.kv_bytes_per_token / seconds <= unit.count * unit.memory_bandwidth * ROUNDING
    assert costs.pu_attention_s(unit, kernel, tokens + 1, tlp) >= seconds
    assert costs.pu_attention_s(unit, kernel, tokens, tlp + 1) >= seconds


@given(kernels, rows_arrays)
def test_a_gpu_stays_inside_its_board_power(kernel, rows):
    for name in ("papi", "papi-h100"):
        unit = systems.SYSTEMS[name].pu
        watts = costs.pu_fc_energy(unit, kernel, rows).total / costs.pu_fc_s(unit, kernel, rows)
        assert (watts / unit.count + unit.idle_power_w <= unit.board_power_w).all()


def test_a_gpu_is_memory_bound_below_its_ridge_and_compute_bound_above():
    kernel = Kernel(KernelClass.QKV, 12288, 36864)
    ridge = A100.peak_flops / A100.memory_bandwidth
    assert round(ridge) == 161  # PAPI, figure 2
    weights = kernel.weight_bytes / (A100.total_bandwidth * 0.85)
    assert costs.pu_fc_s(A100, kernel, 1) == pytest.approx(weights, rel=1e-3)
    assert costs.pu_fc_s(A100, kernel, 1024) == 2 * 1024 * kernel.macs / (A100.total_flops * 0.8)


def test_measured_gpus_take_an_even_share_of_a_kernel_each():
    qkv, projection, up, down = LLAMA.fc_kernels()
    rows, card = np.array([1, 64, 300]), MEASURED.measured
    for kernel, outputs, inputs in (
        (qkv, 24576 / 6, 8192),
        (projection, 8192, 8192 / 6),
        (up, 44032 / 6, 8192),
        (down, 8192, 22016 / 6),
    ):
        assert (costs.pu_fc_s(MEASURED, kernel, rows) == fc_s(card, rows, outputs, inputs)).all()


def test_share_sets_are_dealt_whole_to_measured_gpus():
    kernel = Kernel(KernelClass.REPMLP_FC3, 256, 256, groups=48)
    assert costs.pu_fc_s(MEASURED, kernel, 10) == fc_s(MEASURED.measured, 10, 256, 256, groups=8)
    few = Kernel(KernelClass.REPMLP_FC3, 256, 256, groups=2)
    assert costs.pu_fc_s(MEASURED, few, 10) == fc_s(MEASURED.measured, 10, 256, 256)


def test_kernels_that_were_not_measured_take_a_start_and_the_roofline():
    window = Kernel(KernelClass.CONVOLUTION, 9, 1, 1000, groups=64, taps=9)
    size = window.weight_bytes + window.activation_bytes
    bandwidth = 6 * 3352e9 * 0.827
    assert costs.pu_fc_s(MEASURED, window, 1000) == pytest.approx(4.08e-6 + size / bandwidth)
    point = Kernel(KernelClass.CONVOLUTION, 1, 1, 1000, groups=64)
    size = point.weight_bytes + point.activation_bytes
    assert costs.pu_fc_s(MEASURED, point, 1000) == pytest.approx(4.08e-6 + size / bandwidth)
    wide = Kernel(KernelClass.QKV, 8192, 8192, element_bytes=4)
    size = wide.weight_bytes + 4 * 2 * 8192
    assert costs.pu_fc_s(MEASURED, wide, 1) == pytest.approx(4.08e-6 + size / bandwidth)


@given(kernels, rows_arrays)
def test_no_measured_kernel_beats_the_peak_the_bandwidth_or_its_start(kernel, rows):
    seconds = costs.pu_fc_s(MEASURED, kernel, rows)
    assert (seconds * ROUNDING >= kernel.weight_bytes / MEASURED.total_bandwidth).all()
    assert (
        seconds * ROUNDING >= 2.0 * rows * kernel.groups * kernel.inner * kernel.outer / MEASURED.total_flops
    ).all()
    assert (seconds >= MEASURED.kernel_start_s).all()


def test_decode_attention_on_measured_gpus_has_its_own_share_of_the_bandwidth():
    kernel = LLAMA.attention_kernel()
    assert costs.pu_attention_s(MEASURED, kernel, 1000, 1) == pytest.approx(
        1000 * kernel.kv_bytes_per_token / (6 * 3352e9 * 0.67)
    )


def test_stacks_at_work_draw_their_background_besides():
    kernel = LLAMA.fc_kernels()[0]
    energy = costs.pim_fc_energy(FC_PIM_4P1B, kernel, 7)
    assert energy.background == pytest.approx(costs.pim_fc_s(FC_PIM_4P1B, kernel, 7) * 30 * (20 - 4))
    # Attention: a channel is a sixteenth of its stack.
    attention = LLAMA.attention_kernel()
    work = costs.pim_attention_coefficients(ATTACC_1P1B, attention, 1)
    groups = 1000.0
    clocks = groups * (work.per_group + work.per_chunk / 16)  # 2 columns a group, 32 a row
    assert costs.pim_attention_energy(ATTACC_1P1B, attention, groups, 1, 16).background == pytest.approx(
        64 * clocks * CLOCK_S * (20 - 4) / 16
    )


def test_gpu_energy_is_attaccs_per_byte_and_mac():
    kernel = Kernel(KernelClass.QKV, 1000, 1000)
    energy = costs.pu_fc_energy(A100, kernel, 1)
    size, multiplies = 2 * (1000 * 1000 + 2000), 1000 * 1000
    register_tile = 1.28e-12 * 2 * (1 / 16 + 1 / 16)  # L1 reads of a 16x16x32 tile
    per_mac = 0.32e-12 + 3 * 0.0675e-12 + register_tile
    assert energy.total == pytest.approx(size * (28.72e-12 + 2.4e-12) + multiplies * per_mac)


@given(gpus, kernels, rows_arrays)
def test_gpu_energy_has_no_negative_part(unit, kernel, rows):
    energy = costs.pu_fc_energy(unit, kernel, rows)
    for part in (energy.activation, energy.read, energy.transfer, energy.compute, energy.background):
        assert (part >= 0).all()


def test_a_read_costs_less_at_the_bank_than_on_the_gpu():
    # The reason for PIM: at one row an FC kernel is all reads. A quarter of PIM's is what its stacks draw meanwhile.
    on_gpu, on_pim = (
        sum(kernel.count * function(unit, kernel, 1).total for kernel in GPT3.fc_kernels())
        for unit, function in ((A100, costs.pu_fc_energy), (FC_PIM_4P1B, costs.pim_fc_energy))
    )
    assert on_pim < on_gpu / 3


# --- a unit by table -------------------------------------------------------------------------------


@pytest.fixture
def by_table(tmp_path):
    """Six A100s whose kernels are in a file: those of LLaMA-65B at 1 and 4 rows."""
    path = tmp_path / "kernels.csv"
    shapes = [(4096, 8192), (8192, 1366), (7339, 8192), (8192, 3670)]
    lines = [f"{o},{i},{n},{1e-4 + n * 1e-6:.9g}" for o, i in shapes for n in (1, 4)]
    path.write_text("\n".join(["outputs,inputs,rows,seconds", *lines]) + "\n")
    unit = changed(MEASURED, kernels="table", kernel_file=str(path))
    return unit, path


def test_a_unit_by_table_takes_the_time_of_a_gpus_share_from_its_file(by_table):
    unit, _ = by_table
    for kernel in LLAMA.fc_kernels():
        assert costs.pu_fc_s(unit, kernel, np.array([1, 3])) == pytest.approx([1.01e-4, 1.03e-4])


def test_a_unit_by_table_refuses_what_was_not_measured(by_table):
    unit, path = by_table
    qkv = LLAMA.fc_kernels()[0]
    with pytest.raises(ConfigurationError, match=f"{path}.*measured for 1 to 4 rows, found 5"):
        costs.pu_fc_s(unit, qkv, 5)
    with pytest.raises(ConfigurationError, match="never measured; the nearest of 4"):
        costs.pu_fc_s(unit, GPT3.fc_kernels()[0], 1)
    window = Kernel(KernelClass.CONVOLUTION, 9, 1, 1000, groups=64, taps=9)
    with pytest.raises(ConfigurationError, match="overlapping windows"):
        costs.pu_fc_s(unit, window, 1)


def test_a_file_that_beats_the_units_peaks_is_another_gpus(by_table):
    unit, path = by_table
    path.write_text(path.read_text().replace("4096,8192,1,0.000101", "4096,8192,1,1.9e-05"))
    with pytest.raises(
        ConfigurationError, match=r"takes 1.9e-05 s, which exceeds its peaks: .* at least 2e-05 s"
    ):
        costs.pu_fc_s(unit, LLAMA.fc_kernels()[0], 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernels": "table"}, "expected kernels = 'table' with a kernel_file, or neither"),
        ({"kernel_file": "kernels.csv"}, "expected kernels = 'table' with a kernel_file, or neither"),
        ({"kernels": "table", "kernel_file": "missing.csv"}, "missing.csv: cannot be read: No such file"),
    ],
)
def test_a_table_and_its_file_come_together(changes, words):
    with pytest.raises((ValidationError, DataError), match=words):
        changed(MEASURED, **changes)
