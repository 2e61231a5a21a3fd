"""Tables that are worked out once: shared, read-only, and not kept of a machine whose kernels stand in a file."""

import numpy as np
import pytest

from papi_env.hardware.keeping import kept_by_machine
from papi_env.hardware.system import get_system
from papi_env.hardware.table import CostTable
from papi_env.simulation.batch.decode_tables import attention_causes, attention_tables
from papi_env.workload.transformer import get_transformer

PAPI, A100 = get_system("papi"), get_system("a100")
LLAMA = get_transformer("llama-65b")


def counted(most=4):
    calls = []

    @kept_by_machine(most)
    def tables(system, rows):
        calls.append((system.name, rows))
        return np.zeros(rows), np.ones(rows)

    return tables, calls


def test_the_same_machine_and_arguments_are_worked_out_once():
    tables, calls = counted()
    first = tables(PAPI, 3)
    assert tables(PAPI, 3) is first
    assert tables(PAPI, 4) is not first
    assert tables(A100, 3) is not first
    # An equal description, not the same object, is the same machine; another rate is another one.
    assert tables(PAPI.model_copy(), 3) is first
    pu = PAPI.pu.model_copy(update={"count": PAPI.pu.count + 1})
    assert tables(PAPI.model_copy(update={"pu": pu}), 3) is not first
    assert len(calls) == 4


def test_a_machine_whose_kernels_stand_in_a_file_is_worked_out_every_time():
    tables, calls = counted()
    pu = PAPI.pu.model_copy(update={"kernel_file": "measured.csv"})
    system = PAPI.model_copy(update={"pu": pu})
    assert tables(system, 3) is not tables(system, 3)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "arrays",
    [
        lambda: attention_tables(PAPI, LLAMA),
        lambda: (attention_causes(PAPI, LLAMA),),
        lambda: (CostTable(PAPI, LLAMA.fc_kernels()).seconds, CostTable(PAPI, LLAMA.fc_kernels()).joules),
    ],
)
def test_what_is_shared_cannot_be_written(arrays):
    for array in arrays():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
