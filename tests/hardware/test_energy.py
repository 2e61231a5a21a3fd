"""Joules by cause are the joules that there are, each where it belongs."""

from dataclasses import fields

import numpy as np
import pytest

from papi_env.hardware import costs, energy
from papi_env.hardware.energy import CAUSE_WORDS, CAUSES, Energy
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.units import ATTN_PIM, FC_PIM, PU
from papi_env.workload.transformer import TRANSFORMERS

LLAMA = TRANSFORMERS["llama-65b"]
ROWS = np.array([0, 1, 3, 4, 5, 64, DENSE_ROWS, 5000])


def test_causes_are_those_of_kernels_and_links():
    assert (*(field.name for field in fields(Energy)), "link") == CAUSES
    places = {name: getattr(energy, name.upper()) for name in CAUSES}
    assert list(places.values()) == list(range(energy.NUM_CAUSES))
    assert set(CAUSE_WORDS) == set(CAUSES)


def test_by_cause_takes_numbers_and_arrays():
    one = Energy(*map(np.float64, (1, 2, 3, 4, 5)))
    assert one.by_cause.tolist() == [1, 2, 3, 4, 5, 0]
    mixed = Energy(np.ones(2), np.float64(2), np.array([3.0, 4.0]), np.zeros(2), np.float64(0))
    assert mixed.by_cause.tolist() == [[1, 2, 3, 0, 0, 0], [1, 2, 4, 0, 0, 0]]
    assert mixed.by_cause.sum(axis=-1).tolist() == mixed.total.tolist()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("unit", [PU, FC_PIM, ATTN_PIM])
def test_causes_of_a_table_add_up_to_its_joules(name, unit):
    table = CostTable(SYSTEMS[name], LLAMA.fc_kernels())
    for kernel in range(len(table.kernels)):
        by_cause = table.joules_by_cause(kernel, unit, ROWS)
        assert by_cause.shape == (*ROWS.shape, energy.NUM_CAUSES)
        np.testing.assert_allclose(
            by_cause.sum(axis=-1)[1:], table.cost(kernel, unit, ROWS)[1][1:], rtol=1e-12
        )
        assert (by_cause[0] == 0).all()
        assert table.joules_by_cause(kernel, unit, 7).shape == (energy.NUM_CAUSES,)


def test_what_a_node_sums_over_its_stacks_is_a_transfer():
    papi = SYSTEMS["papi"]
    kernel = LLAMA.fc_kernels()[0]
    found = CostTable(papi, [kernel]).joules_by_cause(0, FC_PIM, 8)
    alone = kernel.count * costs.pim_fc_energy(papi.fc_pim, kernel, 8).by_cause
    more = found - alone
    assert more[energy.TRANSFER] == pytest.approx(kernel.count * papi.stack_sum_j(kernel, 8), rel=1e-9)
    more[energy.TRANSFER] = 0
    assert (more == 0).all()


def test_attention_of_prompts_reads_what_it_holds_and_multiplies_pairs():
    pu, kernel = SYSTEMS["a100"].pu, LLAMA.attention_kernel()
    found = costs.pu_prompt_energy(pu, kernel, np.array([100]), np.array([5050]))
    size = 100 * kernel.kv_bytes_per_token
    np.testing.assert_allclose(
        found.activation + found.read + found.transfer, size * pu.memory_j_per_byte, rtol=1e-12
    )
    np.testing.assert_allclose(found.compute, 5050 * kernel.macs_per_context_token * pu.mac_j, rtol=1e-12)
