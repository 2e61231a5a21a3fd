"""Prefill: what processing a prompt takes. One cost for every problem; no action changes what a prompt needs.

FC kernels run with one row per prompt token. On the PUs, attention is causal from on-chip tiles, and earlier keys
and values of the prompt are read once a chunk; they go to the KV stacks behind the computation of what follows.
On PIM, FC kernels run on the weight stacks and attention query by query where the KV caches are, with all vectors
over the attention link, tokens behind each other. So a prompt takes as long as its computation or the link,
whichever is more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware import costs, dram
from papi_env.hardware.energy import LINK, NUM_CAUSES
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import System
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU, PimUnit, ProcessingUnit
from papi_env.kernel import FloatArray
from papi_env.simulation.prompt_experts import prompt_experts
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import Transformer

Counts = npt.NDArray[np.int64]


class PromptWork(NamedTuple):
    """What prompts take besides FC kernels, of all layers: `rows` tokens with `pairs` causal (query, key) pairs.

    On the PUs attention takes max(`pair_compute_s` pairs, `context_memory_s` context), with the tokens up to the
    chunk's end as context; on PIM `pair_s` pairs + `row_s` rows. One of the two is zero. Joules: `pair_j` pairs +
    `context_j` context + `row_j` rows. The link takes `link_s` and `link_j` a row. `causes` are the joules of a pair,
    of a token of context, and of a row with its link, [3, causes] in the order of `energy.CAUSES`.
    """

    causes: FloatArray
    pair_compute_s: float = 0.0
    context_memory_s: float = 0.0
    pair_s: float = 0.0
    row_s: float = 0.0
    pair_j: float = 0.0
    context_j: float = 0.0
    row_j: float = 0.0
    link_s: float = 0.0
    link_j: float = 0.0


def prompt_work(system: System, model: Transformer, prompts: int = 1) -> PromptWork:
    """The terms of `PromptWork`; `prompts` of equal length are attended to at once."""
    kernel = model.attention_kernel()
    where = "pu" if system.prefill_unit == "pu" else system.unit_of("attention")
    assert where is not None
    unit = system.unit(where)
    size = kernel.count * kernel.kv_bytes_per_token
    # On PUs, in numbers of the kernel's own pairs (see `Transformer.prompt_macs_per_pair`).
    pair = model.prompt_macs_per_pair / kernel.macs_per_context_token
    multiplies = kernel.count * model.prompt_macs_per_pair
    causes = np.zeros((3, NUM_CAUSES))
    if isinstance(unit, ProcessingUnit):
        causes[0] = kernel.count * costs.pu_prompt_energy(unit, kernel, 0, pair).by_cause
        causes[1] = kernel.count * costs.pu_prompt_energy(unit, kernel, 1, 0).by_cause
        work = PromptWork(
            causes,
            pair_compute_s=2 * multiplies / (unit.total_flops * unit.compute_efficiency),
            context_memory_s=size / (unit.count * unit.attention_bandwidth),
            pair_j=multiplies * unit.mac_j,
            context_j=size * unit.memory_j_per_byte,
        )
    else:
        assert isinstance(unit, PimUnit)
        # A query works through the keys before it, in whole groups and DRAM rows of keys: half of one more each.
        mapping, clocks = costs.prompt_attention(unit, kernel, prompts)
        layers_s = kernel.count * unit.stack.technology.clock_s / prompts
        per_group = clocks.per_group + clocks.per_chunk * clocks.group_columns / dram.COLUMNS_PER_ROW
        fixed = mapping.pairs * clocks.per_pair + clocks.per_start
        group = costs.pim_attention_energy(unit, kernel, 1, 1, prompts)
        group_j = kernel.count * float(group.total)
        causes[0] = kernel.count * group.by_cause / dram.GROUP_TOKENS
        causes[2] = kernel.count * group.by_cause / 2
        work = PromptWork(
            causes,
            pair_s=layers_s * mapping.share * per_group / dram.GROUP_TOKENS,
            row_s=layers_s * (mapping.share * (per_group / 2 + clocks.per_chunk / 2) + fixed),
            pair_j=group_j / dram.GROUP_TOKENS,
            row_j=group_j / 2,
        )
    if system.attn_pim is None or system.attention_link is None:
        return work
    # There go keys and values, and queries where PIM attends; outputs come back at the same time.
    kv = model.kv_bytes_per_token
    on_pim = 0 if where == "pu" else kernel.count
    there, back = kv + on_pim * kernel.query_bytes, on_pim * kernel.output_bytes
    link = system.attention_link
    link_j = (there + back) * link.j_per_byte
    causes[2, LINK] = link_j
    return work._replace(link_s=max(there, back) / link.total_bandwidth, link_j=link_j)


class Prefill:
    """Prefill costs of one system and model, for whole batches of prompts at once."""

    def __init__(self, system: System, model: Transformer, placement: ExpertPlacement | None = None) -> None:
        self.system, self.model = system, model
        self._routing, self._placement = routing_of(model), placement or ExpertPlacement()
        self._table = CostTable(system, model.fc_kernels())
        head = model.lm_head_kernel()
        self._head = None if head is None else CostTable(system, [head])
        self._unit = PU if system.prefill_unit == "pu" else FC_PIM
        self._works: dict[int, PromptWork] = {}

    def cost(self, tokens: Counts, pairs: Counts, batch: int) -> tuple[FloatArray, FloatArray]:
        """Seconds and dynamic joules.

        Args:
            tokens: prompt tokens of the whole batch, int64 of any shape.
            pairs: causal (query, key) pairs of the whole batch, the same shape.
            batch: requests of the batch.
        """
        system, model = self.system, self.model
        work = self._work(batch)
        seconds = np.maximum(work.pair_compute_s * pairs, work.context_memory_s * tokens)
        seconds = seconds + (work.pair_s * pairs + work.row_s * tokens)
        joules = work.pair_j * pairs + (work.context_j + work.row_j + work.link_j) * tokens
        for i in range(len(self._table.kernels)):
            s, j = self._table.cost(i, self._unit, tokens)
            seconds, joules = seconds + s, joules + j
        if self._head is not None:  # of each prompt, the last token
            s, j = self._head.cost(0, self._unit, np.where(tokens > 0, batch, 0))
            seconds, joules = seconds + s, joules + j
        if self._routing is not None:
            s, by_cause = prompt_experts(system, self._routing, self._placement, tokens)
            seconds, joules = seconds + s, joules + by_cause.sum(axis=-1)
        for block in model.combined_blocks():
            seconds = seconds + block[-1].count * system.combine_s(block, tokens)
            joules = joules + block[-1].count * system.combine_j(block, tokens)
        seconds = np.maximum(seconds, work.link_s * tokens) + model.layers * system.layer_overhead_s
        return np.asarray(seconds), np.asarray(joules)

    def _work(self, batch: int) -> PromptWork:
        """`prompt_work` of so many requests, worked out once."""
        if batch not in self._works:
            self._works[batch] = prompt_work(self.system, self.model, batch)
        return self._works[batch]

    def causes(self, tokens: Counts, pairs: Counts, batch: int) -> FloatArray:
        """The joules of `cost` by cause, [*shape of tokens, causes] in the order of `energy.CAUSES`."""
        system, model = self.system, self.model
        of_pair, of_context, of_row = self._work(batch).causes
        joules = of_pair * pairs[..., None] + (of_context + of_row) * tokens[..., None]
        for i in range(len(self._table.kernels)):
            joules = joules + self._table.joules_by_cause(i, self._unit, tokens)
        if self._head is not None:
            joules = joules + self._head.joules_by_cause(0, self._unit, np.where(tokens > 0, batch, 0))
        if self._routing is not None:
            joules = joules + prompt_experts(system, self._routing, self._placement, tokens)[1]
        for block in model.combined_blocks():
            joules[..., LINK] += block[-1].count * system.combine_j(block, tokens)
        return np.asarray(joules)
