"""The table is the plain functions, and its threshold the best that a threshold can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.hardware import costs
from papi_env.hardware.gpu_kernels import ROW_TILES
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.units import ATTN_PIM, FC_PIM, PU
from papi_env.kernel import Kernel, KernelClass
from papi_env.workload.transformer import PRESET_MODELS, TRANSFORMERS

PAPI = SYSTEMS["papi"]
LLAMA = TRANSFORMERS["llama-65b"]
ROOFLINE = PAPI.model_copy(
    update={
        "pu": PAPI.pu.model_copy(update={"kernels": "roofline"}),
        "pim_start_s": 0.0,
        "combining": "attacc",
    }
)
SHARE_SETS = Kernel(KernelClass.REPMLP_FC3, 64, 64, groups=128, count=3)
FUNCTIONS = {PU: (costs.pu_fc_s, costs.pu_fc_energy), FC_PIM: (costs.pim_fc_s, costs.pim_fc_energy)}

table = CostTable(PAPI, [*LLAMA.fc_kernels(), SHARE_SETS])
units = st.sampled_from([PU, FC_PIM])
indices = st.integers(0, len(table.kernels) - 1)


def plain(kernel, unit, rows):
    seconds, energy = FUNCTIONS[unit]
    if unit == PU:
        return kernel.count * seconds(PAPI.pu, kernel, rows), kernel.count * energy(
            PAPI.pu, kernel, rows
        ).total
    # On PIM a kernel is started, and a GPU's stacks are summed.
    s = seconds(PAPI.fc_pim, kernel, rows) + (PAPI.pim_start_s + PAPI.stack_sum_s(kernel, rows))
    j = energy(PAPI.fc_pim, kernel, rows).total + PAPI.stack_sum_j(kernel, rows)
    return kernel.count * s, kernel.count * j


@pytest.mark.parametrize("unit", [PU, FC_PIM])
def test_the_dense_table_is_the_plain_functions_at_every_n(unit):
    rows = np.arange(1, DENSE_ROWS + 1)
    for i, kernel in enumerate(table.kernels):
        seconds, joules = plain(kernel, unit, rows)
        assert (table.seconds[i, unit, 1:] == seconds).all()
        assert (table.joules[i, unit, 1:] == joules).all()


def test_nothing_to_do_costs_nothing():
    assert (table.seconds[:, [PU, FC_PIM], 0] == 0).all()
    assert table.cost(0, PU, 0) == (0, 0)
    seconds, joules = table.cost(0, FC_PIM, np.array([0, 5000]))
    assert seconds[0] == joules[0] == 0
    assert seconds[1] > 0


@given(indices, units, st.lists(st.integers(1, 200_000), min_size=1, max_size=6))
def test_any_number_of_rows_costs_what_the_plain_functions_say(i, unit, rows):
    expected = plain(table.kernels[i], unit, np.array(rows))
    assert [part.tolist() for part in table.cost(i, unit, np.array(rows))] == [p.tolist() for p in expected]


@pytest.mark.parametrize("unit", [PU, FC_PIM])
def test_the_closed_form_continues_the_table(unit):
    last, beyond = table.cost(0, unit, DENSE_ROWS), table.cost(0, unit, DENSE_ROWS + 1)
    # At most one slot more on PIM, one tile of rows on GPUs.
    per_row = max(1, PAPI.fc_pim.fpus_per_bank, max(ROW_TILES) if unit == PU else 1) / DENSE_ROWS
    for before, after in zip(last, beyond, strict=True):
        assert before <= after <= before * (1 + per_row)


def test_a_unit_that_cannot_run_fc_kernels_costs_infinity_in_the_table():
    assert np.isinf(table.seconds[:, ATTN_PIM]).all()
    assert np.isinf(table.joules[:, ATTN_PIM]).all()
    lacking = CostTable(SYSTEMS["a100"], LLAMA.fc_kernels())
    assert np.isinf(lacking.seconds[:, FC_PIM]).all()
    assert np.isfinite(lacking.seconds[:, PU]).all()


@pytest.mark.parametrize(("system", "unit"), [("papi", ATTN_PIM), ("a100", FC_PIM)])
def test_a_unit_that_cannot_run_fc_kernels_costs_infinity_beyond_the_table_too(system, unit):
    lacking = CostTable(SYSTEMS[system], LLAMA.fc_kernels())
    for rows in (1, DENSE_ROWS, DENSE_ROWS + 1, 100_000):
        assert all(np.isinf(part) for part in lacking.cost(0, unit, rows)), f"{rows} rows"


@pytest.mark.parametrize("rows", [-1, -1024, np.array([-1, 2000]), np.array([3, -7])])
def test_a_negative_number_of_rows_is_refused(rows):
    with pytest.raises(ValueError, match="rows"):
        table.cost(0, PU, rows)


@given(st.integers(1, 100), st.integers(1, 2000))
def test_a_kernel_that_runs_k_times_costs_k_times_as_much(count, rows):
    one = Kernel(KernelClass.QKV, 512, 1536)
    many = Kernel(KernelClass.QKV, 512, 1536, count=count)
    costs_of = CostTable(PAPI, [one, many])
    for unit in (PU, FC_PIM):
        for single, repeated in zip(costs_of.cost(0, unit, rows), costs_of.cost(1, unit, rows), strict=True):
            assert repeated == pytest.approx(count * single, rel=1e-12)


# --- the threshold ---------------------------------------------------------------------------------


def total_s(costs_of, alpha):
    """Summed time over n = 1..1024 of FC-PIM up to alpha and the PUs beyond, added one by one."""
    return sum(costs_of.seconds[:, FC_PIM if n <= alpha else PU, n].sum() for n in range(1, DENSE_ROWS + 1))


@pytest.mark.parametrize("name", ["a100", "h100", "a100-attacc", "a100-hbm-pim", "h100-attacc"])
def test_alpha_is_0_where_only_gpus_run_fc_kernels(name):
    assert CostTable(SYSTEMS[name], LLAMA.fc_kernels()).calibrate_alpha() == 0


@pytest.mark.parametrize("name", ["attacc-only", "papi-pim-only"])
def test_alpha_is_infinite_where_only_pim_runs_fc_kernels(name):
    assert CostTable(SYSTEMS[name], LLAMA.fc_kernels()).calibrate_alpha() == float("inf")


@pytest.mark.parametrize("reading", [None, "attacc", "papi"])
def test_alpha_minimises_the_time_of_the_sweep(reading):
    costs_of = CostTable(PAPI.with_readings(bank_rate=reading), LLAMA.fc_kernels())
    alpha = costs_of.calibrate_alpha()
    best = total_s(costs_of, alpha)
    others = {*range(0, DENSE_ROWS + 1, 64), alpha - 1, alpha + 1}
    assert alpha > 0
    assert all(best <= total_s(costs_of, other) * (1 + 1e-12) for other in others)


@pytest.mark.parametrize("model", PRESET_MODELS)
def test_by_the_roofline_alpha_picks_the_faster_unit_at_every_n(model):
    # The curves cross once, so nothing beats a threshold.
    costs_of = CostTable(ROOFLINE, TRANSFORMERS[model].fc_kernels())
    pu, pim = (costs_of.seconds[:, unit, 1:].sum(axis=0) for unit in (PU, FC_PIM))
    on_pim = np.arange(1, DENSE_ROWS + 1) <= costs_of.calibrate_alpha()
    assert (np.where(on_pim, pim, pu) == np.minimum(pu, pim)).all()


@pytest.mark.parametrize("model", PRESET_MODELS)
def test_with_measured_kernels_a_threshold_is_blind_to_tiles(model):
    # A GPU's time rises in steps of its tiles, and crosses FC-PIM's more than once: no threshold is right at every
    # n, and the best one leaves something over.
    costs_of = CostTable(PAPI, TRANSFORMERS[model].fc_kernels())
    pu, pim = (costs_of.seconds[:, unit, 1:].sum(axis=0) for unit in (PU, FC_PIM))
    crossings = np.count_nonzero(np.diff((pim < pu).astype(int)))
    assert crossings > 1
    assert np.minimum(pu, pim).sum() < total_s(costs_of, costs_of.calibrate_alpha())


def test_alpha_is_in_the_range_that_the_mechanics_give():
    # The domain notes, by the roofline at AttAcc's rate: 20-50 and 40-100 for the two readings of the GPU's bandwidth.
    alphas = [
        CostTable(
            ROOFLINE.with_readings(gpu_bandwidth=reading, bank_rate="attacc-limit"), LLAMA.fc_kernels()
        ).calibrate_alpha()
        for reading in ("hbm3", "roofline")
    ]
    assert 20 <= alphas[0] <= 50
    assert 40 <= alphas[1] <= 100


def test_alpha_never_falls_when_the_gpus_lose_bandwidth():
    alphas = []
    for bandwidth in (4e12, 3352e9, 2.5e12, 1935e9, 1e12, 5e11):
        slower = ROOFLINE.model_copy(
            update={"pu": ROOFLINE.pu.model_copy(update={"memory_bandwidth": bandwidth})}
        )
        alphas.append(CostTable(slower, LLAMA.fc_kernels()).calibrate_alpha())
    assert alphas == sorted(alphas)
    assert alphas[0] < alphas[-1]


@pytest.mark.parametrize(("timing", "values"), [("t_rfc", (1, 228, 456, 1824)), ("t_rtp", (1, 8, 122, 602))])
def test_alpha_falls_when_refreshes_or_row_changes_take_longer(timing, values):
    # Only FC-PIM pays them one by one; the GPUs' share is in their sustained bandwidth.
    alphas = []
    stack = ROOFLINE.fc_pim.stack
    for clocks in values:
        technology = stack.technology.model_copy(update={timing: clocks})
        slower = stack.model_copy(update={"technology": technology})
        system = ROOFLINE.model_copy(update={"fc_pim": ROOFLINE.fc_pim.model_copy(update={"stack": slower})})
        alphas.append(CostTable(system, LLAMA.fc_kernels()).calibrate_alpha())
    assert alphas == sorted(alphas, reverse=True)
    assert alphas[0] > alphas[-1]
