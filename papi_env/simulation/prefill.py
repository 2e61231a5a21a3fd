"""Prefill of a static batch: time and energy that no action changes, accounted where the system runs it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from papi_env.hardware import costs, dram
from papi_env.hardware.energy import LINK, NUM_CAUSES
from papi_env.hardware.system import System
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU, PimUnit, ProcessingUnit, UnitName
from papi_env.kernel import FP16_BYTES, FloatArray, blocks
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

    def causes(self, tokens: Counts, pairs: Counts, batch: int) -> FloatArray:
        """The dynamic joules of `cost` by cause, [*shape of tokens, causes] in the order of `energy.CAUSES`."""
        joules = np.zeros((*tokens.shape, NUM_CAUSES))
        for i in range(len(self._table.kernels)):
            joules += self._table.joules_by_cause(i, self._unit, tokens)
        kernel, unit = self.model.attention_kernel(), self.system.unit(self._home)
        if isinstance(unit, ProcessingUnit):
            joules += kernel.count * costs.pu_prompt_energy(unit, kernel, tokens, pairs).by_cause
        else:
            assert isinstance(unit, PimUnit)
            groups = pairs / dram.GROUP_TOKENS + tokens / 2
            joules += kernel.count * costs.pim_attention_energy(unit, kernel, groups, 1).by_cause
        joules[..., LINK] += self._moves(tokens)[1]
        return joules

    @property
    def _home(self) -> UnitName:
        """The unit that attends to prompts."""
        where = "pu" if self.system.prefill_unit == "pu" else self.system.unit_of("attention")
        assert where is not None
        return where

    def _attention(self, pairs: Counts, tokens: Counts, batch: int) -> tuple[FloatArray, FloatArray]:
        kernel = self.model.attention_kernel()
        multiplies = pairs.astype(np.float64) * kernel.macs_per_context_token
        unit = self.system.unit(self._home)
        if isinstance(unit, ProcessingUnit):
            pu = unit
            size = tokens.astype(np.float64) * kernel.kv_bytes_per_token
            compute = 2 * multiplies / (pu.total_flops * pu.compute_efficiency)
            s = np.maximum(compute, size / (pu.count * pu.attention_bandwidth))
            j = size * pu.memory_j_per_byte + multiplies * pu.mac_j
            return kernel.count * s, kernel.count * j
        assert isinstance(unit, PimUnit)
        # A query works through the keys before it, in whole groups and DRAM rows: half of one more each.
        groups = pairs / dram.GROUP_TOKENS + tokens / 2
        work = costs.pim_attention_coefficients(unit, kernel, 1)
        key_rows = groups * work.group_columns / dram.COLUMNS_PER_ROW + tokens / 2
        share = costs.attention_rounds(unit, kernel, batch) / batch
        clocks = share * (work.per_group * groups + work.per_chunk * key_rows + work.per_pair * tokens)
        j = costs.pim_attention_energy(unit, kernel, groups, 1).total
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
        for block in blocks(model.fc_kernels()):
            seconds += model.layers * system.combine_s(block, tokens)
            joules += model.layers * system.combine_j(block, tokens)
        return seconds, joules
