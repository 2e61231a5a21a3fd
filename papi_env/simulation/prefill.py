"""Prefill of a static batch: time and energy that no action changes, accounted where the system runs it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from papi_env.hardware import costs, dram
from papi_env.hardware.system import System
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU, PimUnit, ProcessingUnit
from papi_env.kernel import FP16_BYTES, FloatArray
from papi_env.workload.transformer import Transformer

Counts = npt.NDArray[np.int64]


class Prefill:
    """Prefill costs of one system and model.

    On the PUs: FC kernels with one row per prompt token, causal attention from on-chip tiles, keys and
    values written to the KV stacks. On PIM: FC kernels on the weight stacks, attention query by query on
    the KV stacks with all vectors over the attention link.
    """

    def __init__(self, system: System, model: Transformer) -> None:
        self.system, self.model = system, model
        self._table = CostTable(system, model.fc_kernels())
        self._unit = PU if system.prefill_unit == "pu" else FC_PIM

    def cost(self, tokens: Counts, pairs: Counts, batch: int) -> tuple[FloatArray, FloatArray]:
        """Seconds and dynamic joules.

        Args:
            tokens: prompt tokens of the whole batch, int64 of any shape.
            pairs: causal (query, key) pairs of the whole batch, the same shape.
            batch: requests of the batch.
        """
        seconds = np.zeros(tokens.shape)
        joules = np.zeros(tokens.shape)
        for i in range(len(self._table.kernels)):
            s, j = self._table.cost(i, self._unit, tokens)
            seconds += s
            joules += j
        seconds += self.model.layers * self.system.layer_overhead_s
        for s, j in (self._attention(pairs, tokens, batch), self._moves(tokens)):
            seconds += s
            joules += j
        return seconds, joules

    def _attention(self, pairs: Counts, tokens: Counts, batch: int) -> tuple[FloatArray, FloatArray]:
        kernel = self.model.attention_kernel()
        multiplies = pairs.astype(np.float64) * kernel.macs_per_context_token
        where = "pu" if self.system.prefill_unit == "pu" else self.system.unit_of("attention")
        assert where is not None
        unit = self.system.unit(where)
        if isinstance(unit, ProcessingUnit):
            pu = unit
            size = tokens.astype(np.float64) * kernel.kv_bytes_per_token
            compute = 2 * multiplies / (pu.total_flops * pu.compute_efficiency)
            s = np.maximum(compute, size / (pu.total_bandwidth * pu.memory_efficiency))
            j = size * pu.memory_j_per_byte + multiplies * pu.mac_j
            return kernel.count * s, kernel.count * j
        assert isinstance(unit, PimUnit)
        # A query works through the keys before it, in whole groups and DRAM rows: half of one more each.
        groups = pairs / dram.GROUP_TOKENS + tokens / 2
        mapping, work = costs.prompt_attention(unit, kernel, batch)
        key_rows = groups * work.group_columns / dram.COLUMNS_PER_ROW + tokens / 2
        clocks = mapping.share * (work.per_group * groups + work.per_chunk * key_rows)
        clocks = (clocks + (mapping.pairs * work.per_pair + work.per_start) * tokens) / batch
        j = costs.pim_attention_energy(unit, kernel, groups, 1, batch).total
        return kernel.count * clocks * dram.CLOCK_S, kernel.count * j

    def _moves(self, tokens: Counts) -> tuple[FloatArray, FloatArray]:
        system, model = self.system, self.model
        seconds = np.zeros(tokens.shape)
        joules = np.zeros(tokens.shape)
        vector = FP16_BYTES * model.hidden * tokens.astype(np.float64)
        if system.attn_pim is not None and system.attention_link is not None:
            kv = 2 * FP16_BYTES * model.kv_width * tokens.astype(np.float64)
            on_pim = system.prefill_unit != "pu"
            there, back = (vector + kv, vector) if on_pim else (kv, 0 * kv)
            link = system.attention_link
            seconds += model.layers * (link.transfer_s(there) + link.transfer_s(back))
            joules += model.layers * (there + back) * link.j_per_byte
        seconds += 2 * model.layers * system.combine_s(vector)
        joules += 2 * model.layers * system.combine_j(vector)
        return seconds, joules
