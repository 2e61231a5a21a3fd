"""Everything the serving engine looks up, computed once per scenario from the hardware's functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.energy import ACTIVATION, NUM_CAUSES, READ
from papi_env.hardware.keeping import kept_by_machine
from papi_env.hardware.system import System
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES
from papi_env.kernel import FloatArray, activation_bytes
from papi_env.scenario import Scenario
from papi_env.simulation.batch import state as layout
from papi_env.simulation.batch.decode_tables import (
    attention_causes,
    attention_link_table,
    attention_tables,
    decades,
    group_columns,
    moves_table,
    rate_descriptors,
)
from papi_env.simulation.frames import Frame, Layout
from papi_env.simulation.prefill import prompt_work
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.expert_costs import served_experts
from papi_env.simulation.serving.heat import NUM_ROWS
from papi_env.simulation.serving.heat_tables import heat_tables, write_heat
from papi_env.simulation.serving.measured_tables import as_measured, without_layers
from papi_env.simulation.serving.parts import of_layers
from papi_env.simulation.serving.service_tables import (
    CELLS,
    NUM_CELL,
    build_service_tables,
    class_descriptors,
    kinds_of,
    rates_of,
)
from papi_env.simulation.serving.splitting import tabulate_splits
from papi_env.workload.arrivals import TRACE, ArrivalTables, build_arrivals
from papi_env.workload.lengths import MAX_TOKENS
from papi_env.workload.routing import routing_of
from papi_env.workload.service import Service
from papi_env.workload.serving import (
    CHUNK_TOKENS,
    DRAFTS,
    MAX_DRAFTED,
    SPECULATION_LENGTHS,
    WATERMARK,
    Serving,
)
from papi_env.workload.traces import trace_lengths
from papi_env.workload.traces.sessions import Turns
from papi_env.workload.transformer import Transformer

# FC kernels of one layer, between each of which the stacks change mode where PUs and FC-PIM share them: in and
# out of FC-PIM's part.
_CHANGES_PER_KERNEL = 2
# Pages of a machine without paging: more than any episode can hold.
UNBOUNDED_PAGES = 1 << 40


class ServingTables(NamedTuple):
    """The look-ups of one serving scenario; seconds and joules of all layers together.

    Attributes:
        fc_s, fc_j: [2 (PUs, FC-PIM), rows], all FC kernels of an iteration, those of experts among them (see
            `expert_costs`); zero on a unit that the system lacks, which `ONLY_UNIT` keeps from being used.
        bank_s: [rows], the part of the PUs' time in which they read the stacks.
        attention: [RLP, TLP, coefficients]; shares: [RLP, TLP, NUM_SHARES]: of the unit that runs attention (see
            `layout`).
        link: [rows, (s, J)]; moves: [rows, 4] (see `tables.EngineTables`).
        draft: [RLP, (s, J)], one step of the draft model without its attention.
        fc_causes: [2, rows, causes]; attention_causes: [RLP, TLP, causes], see `decode_tables.attention_causes`;
            draft_causes: [RLP, causes]; term_causes: [terms, causes], see `state.PAIR`: joules by cause.
        acceptance: uint64 [classes + 1, drafted], what 53-bit draws are compared with; the last class is
            there for look-aheads that know no rates. class_shares: cumulative.
        population: int32 [requests, 2]; trace_lengths, trace_refused: of the arrivals' own rows, if paired.
        trace_turns: int32 [rows, 2], the row of the turn that goes on from a row, -1 if none does, and the tokens of a
            row's prompt that the turn before it left; trace_gaps: float64 [rows], seconds since that came. Of later
            turns `trace_lengths` has the tokens beyond all that was said before. Empty unless the trace has
            conversations.
        scalars: see `serving.state`; descriptors: float32; arrivals: see `workload.arrivals`.
        head: [tokens, (s, J, J by cause)], LM head and sampler for tokens that are yielded; empty where there is none.
        grid: attention of the PUs as measured, see `pack_grid`; empty where it was not.
        splits: int32 [2, decode rows], how many of them a split sends to FC-PIM, alone and beside a full chunk; see
            `splitting.split_rows`, which is asked where this is empty.
        kinds, spans, service_lengths, returning: see `service_tables.ServiceTables`; empty without classes.
        heat_rows, heat_attention, heat_terms: joules left in stacks, of [FC kernels on PUs, on FC-PIM, LM head, a step
            of drafting] by rows, of what `attention_causes` and `term_causes` count; empty where stacks do not warm up.
    """

    fc_s: FloatArray
    fc_j: FloatArray
    bank_s: FloatArray
    attention: FloatArray
    shares: FloatArray
    link: FloatArray
    moves: FloatArray
    draft: FloatArray
    fc_causes: FloatArray
    attention_causes: FloatArray
    draft_causes: FloatArray
    term_causes: FloatArray
    acceptance: npt.NDArray[np.uint64]
    class_shares: FloatArray
    population: npt.NDArray[np.int32]
    trace_lengths: npt.NDArray[np.int32]
    trace_refused: npt.NDArray[np.bool_]
    scalars: FloatArray
    descriptors: npt.NDArray[np.float32]
    arrivals: ArrivalTables
    head: FloatArray = np.zeros((0, 2 + NUM_CAUSES))
    grid: FloatArray = np.zeros(0)
    kinds: FloatArray = np.zeros((0, at.NUM_KIND))
    spans: npt.NDArray[np.int64] = np.zeros((0, 4), dtype=np.int64)
    service_lengths: npt.NDArray[np.int32] = np.zeros((0, 2), dtype=np.int32)
    returning: FloatArray = np.zeros((0, CELLS, NUM_CELL))
    heat_rows: FloatArray = np.zeros((NUM_ROWS, 0))
    heat_attention: FloatArray = np.zeros((0, 0))
    heat_terms: FloatArray = np.zeros(0)
    trace_turns: npt.NDArray[np.int32] = np.zeros((0, 2), dtype=np.int32)
    trace_gaps: FloatArray = np.zeros(0)
    splits: npt.NDArray[np.int32] = np.zeros((2, 0), dtype=np.int32)


_VECTORS = (
    "bank_s",
    "class_shares",
    "trace_refused",
    "scalars",
    "descriptors",
    "grid",
    "heat_terms",
    "trace_gaps",
)
_ARRIVALS = Layout(ArrivalTables, dict.fromkeys(("knots_s", "operational_s", "stretch", "rows_s"), 1))
TABLES = Layout(
    ServingTables,
    {name: 2 for name in ServingTables._fields if name != "arrivals"}
    | dict.fromkeys(("attention", "shares", "fc_causes", "attention_causes", "returning"), 3)
    | dict.fromkeys(_VECTORS, 1),
    {"arrivals": _ARRIVALS},
)
tables_at = TABLES.opener()


def framed(tables: ServingTables) -> Frame:
    """The tables, as compiled code takes them."""
    return Frame(TABLES, tables)


def build_serving_tables(scenario: Scenario) -> ServingTables:
    """Tabulate a serving scenario.

    Raises:
        ConfigurationError: no model or serving part; the weights do not fit; nothing is left for KV pages.
    """
    serving, model = scenario.serving, scenario.model
    if serving is None or model is None:
        raise ConfigurationError(f"Scenario {scenario.name!r} serves no requests: it has no serving part")
    system, layers = without_layers(scenario.system)
    scenario = scenario.model_copy(update={"system": system})
    rows = serving.max_running * SPECULATION_LENGTHS[-1] + max(serving.most_prompt_rows, CHUNK_TOKENS)
    fc = _fc(system, model, rows)
    draft_causes, drafted_context = _draft_causes(system, serving)
    home = system.unit_of("attention")
    assert home is not None
    attention, attention_shares = attention_tables(system, model, serving.max_running)
    unit = UNIT_NAMES.index(home)
    scalars = _scalars(scenario, serving, model)
    population = serving.lengths.population(model.context_limit, serving.beyond_context).lengths
    # A request longer than the whole memory is refused on arrival; a population of such alone is an error.
    pages = -(-(population.sum(axis=1) + SPECULATION_LENGTHS[-1]) // serving.page_tokens)
    if (pages > scalars[at.TOTAL_PAGES]).all():
        raise ConfigurationError(
            f"Scenario {scenario.name!r}: its shortest request needs {pages.min()} KV pages of {serving.page_tokens} "
            f"tokens, but system {system.name!r} has {scalars[at.TOTAL_PAGES]:.0f} beside the weights"
        )
    # Whatever classes and traces ask for, no request is longer.
    longest = 2 * MAX_TOKENS if serving.beyond_context == "extrapolate" else model.context_limit
    _check_counts(scenario, serving, longest, scalars)
    own, refused = np.zeros((0, 2), dtype=np.int32), np.zeros(0, dtype=np.bool_)
    following, gap_s, firsts = np.zeros((0, 2), dtype=np.int32), np.zeros(0), 0
    if serving.paired and serving.arrivals.process == "trace":
        treated = trace_lengths(serving.arrivals.read(), model.context_limit, serving.beyond_context)
        own, refused = treated.lengths, treated.refused
        turns = serving.arrivals.turns()
        if turns is not None:
            own, refused = turn_by_turn(own[turns.rows], turns), refused[turns.rows]
            following, gap_s = np.stack((turns.following, turns.found), axis=1), turns.gap_s
        firsts = len(own) if turns is None else turns.sessions
    rates = rates_of(serving)
    thresholds = np.zeros((len(rates) + 1, MAX_DRAFTED), dtype=np.uint64)
    for k, values in enumerate(rates):
        thresholds[k] = [int(rate * 2.0**53) for rate in values]
    shares = np.array([kind.share for kind in kinds_of(serving)], dtype=np.float64)
    tables = ServingTables(
        fc_s=fc.seconds,
        fc_j=fc.joules,
        bank_s=fc.reading_s,
        attention=np.ascontiguousarray(attention[unit]),
        shares=np.ascontiguousarray(attention_shares[unit]),
        link=np.ascontiguousarray(attention_link_table(system, model, rows)[unit]),
        moves=moves_table(system, model, rows),
        draft=_draft(system, serving, scalars),
        fc_causes=fc.causes,
        attention_causes=np.ascontiguousarray(attention_causes(system, model, serving.max_running)[unit]),
        draft_causes=draft_causes,
        term_causes=np.stack([*prompt_work(system, model).causes, drafted_context]),
        acceptance=thresholds,
        class_shares=np.cumsum(shares / shares.sum()),
        population=np.ascontiguousarray(population, dtype=np.int32),
        trace_lengths=own,
        trace_refused=refused,
        trace_turns=following,
        trace_gaps=gap_s,
        arrivals=build_arrivals(serving.arrivals, serving.requests, serving.horizon_s),
        scalars=scalars,
        descriptors=np.zeros(len(at.DESCRIPTOR_NAMES), dtype=np.float32),
        head=_head(system, model, rows),
    )
    if layers is not None:
        tables = tables._replace(**as_measured(tables, layers, system, model))
    if scalars[at.ONLY_UNIT] < 0:
        splits = np.zeros((2, serving.max_running * SPECULATION_LENGTHS[-1] + 1), dtype=np.int32)
        tabulate_splits(np.int64(scalars[at.CHUNK]), tables.fc_s, tables.bank_s, scalars, splits)
        tables = tables._replace(splits=splits)
    scalars[at.REFERENCE_S] = _reference_s(tables, serving)
    scalars[at.REFERENCE_TOKENS] = float(population[:, 1].mean())
    if serving.heat is not None:
        write_heat(serving.heat, system, scalars)
        tables = tables._replace(**heat_tables(tables, system))
    if serving.service is not None:
        _check_prefixes(scenario.name, serving.service, own[:firsts][~refused[:firsts], 0])
        tables = _with_classes(tables, serving, model)
    tables.descriptors[: len(at.DESCRIPTOR_NAMES)] = _descriptors(scenario, serving, model, scalars)
    freeze(tables)
    return tables


def _check_prefixes(name: str, service: Service, prompts: npt.NDArray[np.int32]) -> None:
    """Raise ConfigurationError where prompts of a trace, int32 [first turns], are shorter than what classes share."""
    shortest = int(prompts.min(initial=np.iinfo(np.int32).max))
    for number, entry in service.classes.items():
        if entry.shared_prefix >= shortest:
            raise ConfigurationError(
                f"Scenario {name!r}: service.classes.{number}.shared_prefix is {entry.shared_prefix}, but the trace "
                f"has a prompt of {shortest} tokens: expected fewer, or none, for a trace does not say what prompts "
                "share"
            )


def _with_classes(tables: ServingTables, serving: Serving, model: Transformer) -> ServingTables:
    """The tables with those of classes; scalars are written."""
    service, scalars = serving.service, tables.scalars
    assert service is not None
    scalars[at.SERVICE], scalars[at.CHARGE] = 1.0, service.charge
    scalars[at.WORTH_BY_TOKENS], scalars[at.DRAINS] = service.worth == "tokens", service.drain
    scalars[at.NUM_CLASSES] = len(service.classes)
    if serving.prefill:
        scalars[at.PROMPT_TOKEN_S] = prompt_token_s(tables)
    scalars[at.DECODE_TOKEN_S] = decode_token_s(tables)
    found, worth = build_service_tables(serving, model, scalars)
    scalars[at.REFERENCE_TOKENS] = worth[0]
    scalars[at.ONE_PACE] = bool((found.kinds[:, at.KIND_TPOT_S] == scalars[at.TPOT_S]).all())
    if service.drain:
        # Arrivals end there, the episode does not.
        scalars[at.HORIZON_S] = np.inf
    of_classes = class_descriptors(found, service, tables.class_shares, scalars)
    descriptors = np.concatenate([tables.descriptors, np.array(of_classes, dtype=np.float32)])
    return tables._replace(descriptors=descriptors, **found._asdict())


def prompt_token_s(tables: ServingTables) -> float:
    """Profiled seconds of FC kernels that a prompt token takes in a full chunk, on the unit that processes prompts."""
    chunk = int(tables.scalars[at.CHUNK])
    seconds = tables.fc_s[int(tables.scalars[at.PREFILL_UNIT]), chunk] + tables.moves[chunk, layout.COMBINE_S]
    return float(seconds / chunk)


def decode_token_s(tables: ServingTables) -> float:
    """Profiled seconds of FC kernels for an output token, on the faster unit of a machine that is a quarter full."""
    scalars = tables.scalars
    rows = max(int(scalars[at.MAX_RUNNING]) // 4, 1)
    only = int(scalars[at.ONLY_UNIT])
    units = [only] if only >= 0 else [at.PU, at.FC_PIM]
    return float((tables.fc_s[units, rows].min() + tables.moves[rows, layout.COMBINE_S]) / rows)


def with_requests(
    tables: ServingTables, arrival_s: FloatArray, lengths: npt.NDArray[np.int32]
) -> ServingTables:
    """The tables with these requests in every episode instead of those that the scenario draws.

    Args:
        tables: of a scenario with as many requests.
        arrival_s: seconds from an episode's start, float64 [requests], from 0 on and never decreasing.
        lengths: input and output tokens, [requests, 2].
    """
    rows_s, own = np.array(arrival_s, dtype=np.float64), np.array(lengths, dtype=np.int32)
    assert len(rows_s) == len(own) == tables.arrivals.capacity
    arrivals = tables.arrivals._replace(kind=TRACE, rows_s=rows_s, start_rows=0, first_row=0)
    replaced = tables._replace(
        arrivals=arrivals,
        trace_lengths=own,
        trace_refused=np.zeros(len(own), dtype=np.bool_),
        trace_turns=np.zeros((0, 2), dtype=np.int32),
        trace_gaps=np.zeros(0),
    )
    freeze(replaced)
    return replaced


def turn_by_turn(lengths: npt.NDArray[np.int32], turns: Turns) -> npt.NDArray[np.int32]:
    """Lengths with the prompts of later turns as tokens beyond all that was said before; below 0 where those are fewer.

    Args:
        lengths: int32 [turns, 2], prompts and answers in the order of `turns`.
    """
    found = lengths.copy()
    before = np.flatnonzero(turns.following >= 0)
    found[turns.following[before], 0] -= lengths[before].sum(axis=1)
    return found


def freeze(tables: ServingTables) -> None:
    """Make the tables read-only, but for `acceptance`, which look-aheads replace.

    Compiled code is specialised on it: tables that lose their flags, as by pickling, would be compiled for anew.
    """
    for array in (*tables, *tables.arrivals):
        if isinstance(array, np.ndarray) and array is not tables.acceptance:
            array.flags.writeable = False


class _FcCosts(NamedTuple):
    """All FC kernels of an iteration by rows: `fc_s`, `fc_j`, `fc_causes` and `bank_s` of `ServingTables`."""

    seconds: FloatArray
    joules: FloatArray
    causes: FloatArray
    reading_s: FloatArray


@kept_by_machine(16)
def _fc(system: System, model: Transformer, rows: int) -> _FcCosts:
    """`_FcCosts` for 0 to `rows` rows, with those of experts."""
    kernels, routing = model.fc_kernels(), routing_of(model)
    seconds, joules = np.zeros((2, rows + 1)), np.zeros((2, rows + 1))
    causes, reading = np.zeros((2, rows + 1, NUM_CAUSES)), np.zeros(rows + 1)
    table = CostTable(system, kernels)
    counts = np.arange(rows + 1)
    for unit, name in ((PU, UNIT_NAMES[PU]), (FC_PIM, UNIT_NAMES[FC_PIM])):
        if not system.can_run(name, "fc"):
            continue
        for i in range(len(kernels)):
            s, j = table.cost(i, unit, counts)
            seconds[unit] += s
            joules[unit] += j
            causes[unit] += table.joules_by_cause(i, unit, counts)
    if system.pu is not None:
        rate = system.pu.count * system.pu.streaming_bandwidth
        for kernel in kernels:
            size = kernel.weight_bytes + activation_bytes(kernel, counts)
            reading += np.where(counts > 0, kernel.count * size / rate, 0.0)
    if routing is not None:
        experts = served_experts(system, routing, rows)
        seconds += experts.seconds
        joules += experts.causes.sum(axis=-1)
        causes += experts.causes
        reading += experts.reading_s
    return _FcCosts(seconds, joules, causes, np.minimum(reading, seconds[PU]))


def _head(system: System, model: Transformer, tokens: int) -> FloatArray:
    """[tokens, (s, J, J by cause)] of the LM head; empty where the model has none."""
    kernel = model.lm_head_kernel()
    if kernel is None:
        return ServingTables._field_defaults["head"]
    table, counts = CostTable(system, (kernel,)), np.arange(tokens + 1)
    unit = PU if system.can_run("pu", "fc") else FC_PIM
    seconds, joules = table.cost(0, unit, counts)
    causes = table.joules_by_cause(0, unit, counts)
    return np.concatenate([seconds[:, None], joules[:, None], causes], axis=1)


def _draft(system: System, serving: Serving, scalars: FloatArray) -> FloatArray:
    """[RLP, (s, J)] of one draft step; fills in what its attention takes per context token.

    Requests are divided among the GPUs, each of which holds the whole draft model, so nothing is combined.
    Without PUs it runs on the FC-PIM stacks.
    """
    table = np.zeros((serving.max_running + 1, 2))
    if not serving.draft_cost:
        return table
    draft = DRAFTS[serving.speculation.draft]
    rlp = np.arange(serving.max_running + 1)
    table[1:, 0] = draft.layers * serving.speculation.draft_layer_overhead_s
    attention = draft.attention_kernel()
    if system.pu is not None:
        one = system.pu.model_copy(update={"count": 1})
        share = np.maximum(-(-rlp // system.pu.count), 1)
        busy = np.minimum(rlp, system.pu.count)
        for kernel in draft.fc_kernels():
            table[1:, 0] += kernel.count * costs.pu_fc_s(one, kernel, share)[1:]
            table[1:, 1] += kernel.count * (busy * costs.pu_fc_energy(one, kernel, share).total)[1:]
        scalars[at.DRAFT_CONTEXT_S] = draft.layers * float(costs.pu_attention_s(system.pu, attention, 1, 1))
        scalars[at.DRAFT_CONTEXT_J] = draft.layers * float(
            costs.pu_attention_energy(system.pu, attention, 1, 1).total
        )
    else:
        fc_pim = CostTable(system, draft.fc_kernels())
        for i in range(len(fc_pim.kernels)):
            s, j = fc_pim.cost(i, FC_PIM, rlp)
            table[1:, 0] += s[1:]
            table[1:, 1] += j[1:]
        size = draft.kv_bytes_per_token
        assert system.fc_pim is not None
        scalars[at.DRAFT_CONTEXT_S] = size / system.fc_pim.peak_bandwidth
        scalars[at.DRAFT_CONTEXT_J] = size * system.fc_pim.stack.technology.read_with_activation_j_per_byte
    return table


def _draft_causes(system: System, serving: Serving) -> tuple[FloatArray, FloatArray]:
    """The joules of `_draft` by cause: [RLP, causes] of a step, and [causes] per context token of its attention."""
    joules, per_token = np.zeros((serving.max_running + 1, NUM_CAUSES)), np.zeros(NUM_CAUSES)
    if not serving.draft_cost:
        return joules, per_token
    draft = DRAFTS[serving.speculation.draft]
    rlp = np.arange(serving.max_running + 1)
    if system.pu is not None:
        one = system.pu.model_copy(update={"count": 1})
        share = np.maximum(-(-rlp // system.pu.count), 1)
        busy = np.minimum(rlp, system.pu.count)[:, None]
        for kernel in draft.fc_kernels():
            joules += kernel.count * busy * costs.pu_fc_energy(one, kernel, share).by_cause
        attention = costs.pu_attention_energy(system.pu, draft.attention_kernel(), 1, 1)
        return joules, draft.layers * attention.by_cause
    fc_pim = CostTable(system, draft.fc_kernels())
    for i in range(len(fc_pim.kernels)):
        joules += fc_pim.joules_by_cause(i, FC_PIM, rlp)
    assert system.fc_pim is not None
    technology = system.fc_pim.stack.technology
    per_token[ACTIVATION] = draft.kv_bytes_per_token * technology.activation_j / technology.row_bytes
    per_token[READ] = draft.kv_bytes_per_token * technology.read_j_per_byte
    return joules, per_token


def _check_counts(scenario: Scenario, serving: Serving, longest: int, scalars: FloatArray) -> None:
    """Steps count what all requests attend to with int32: tokens, columns of keys and rows of them.

    Raises:
        ConfigurationError: as many requests as may run could hold more than such a number counts.
    """
    groups = -(-(longest + SPECULATION_LENGTHS[-1]) // dram.GROUP_TOKENS)
    columns = groups * int(scalars[at.GROUP_COLUMNS])
    counted = max(
        columns, serving.max_running * max(groups * dram.GROUP_TOKENS, -(-columns // dram.COLUMNS_PER_ROW))
    )
    if counted >= 1 << 31:
        raise ConfigurationError(
            f"Scenario {scenario.name!r}: {serving.max_running} requests of {longest} tokens hold {counted} tokens, "
            f"columns or rows of keys, expected less than {1 << 31}"
        )


def _scalars(scenario: Scenario, serving: Serving, model: Transformer) -> FloatArray:
    system = scenario.system
    s = np.zeros(at.NUM_SCALARS)
    s[at.ENERGY_WEIGHT] = scenario.energy_weight
    s[at.STATIC_W] = system.static_power_w
    switch_s = system.mode_switch_s if scenario.switch_s is None else scenario.switch_s
    s[at.SWITCH_S] = switch_s if serving.switching else 0.0
    # A token's experts stay on its unit from their first matrices to the last, as one kernel.
    split = [*model.fc_kernels(), *model.expert_kernels()[:1]]
    s[at.SWITCHES_PER_SPLIT] = _CHANGES_PER_KERNEL * sum(kernel.count for kernel in split)
    s[at.LAYERS] = model.layers
    if model.windows is not None:
        s[at.WINDOW], s[at.WINDOW_SHARE] = model.windows.tokens, model.windowed_layers / model.layers
    routing = routing_of(model)
    experts = None if routing is None else served_experts(system, routing, DENSE_ROWS).seconds
    s[at.ALPHA] = CostTable(system, model.fc_kernels()).calibrate_alpha(beside=experts)
    s[at.CONTEXT_LIMIT] = model.context_limit
    s[at.MAX_RUNNING] = serving.max_running
    pages = _pages(system, model, serving)
    s[at.PAGE_LOG2] = serving.page_tokens.bit_length() - 1
    s[at.TOTAL_PAGES] = pages if serving.paging else UNBOUNDED_PAGES
    s[at.WATERMARK_PAGES] = np.ceil(WATERMARK * pages)
    s[at.CHUNK] = serving.most_prompt_rows
    s[at.TOKEN_BUDGET] = serving.token_budget or 0
    s[at.PREFIX_CACHING] = serving.prefix_caching
    s[at.UNEVEN] = serving.uneven_contexts
    s[at.TTFT_S], s[at.TPOT_S] = serving.objectives.ttft_s, serving.objectives.tpot_s
    s[at.HORIZON_S] = np.inf if serving.horizon_s is None else serving.horizon_s
    s[at.OVERHEAD_S] = model.layers * system.layer_overhead_s
    s[at.GROUP_COLUMNS] = group_columns(system, model)
    s[at.PREFILL_ON] = serving.prefill
    s[at.DUAL_BUFFERS] = serving.dual_row_buffers
    s[at.DECISION_S] = serving.decision_s
    s[at.REWARD_ON_TIME] = serving.reward == "on-time"
    s[at.PREFILL_UNIT] = at.PU if system.prefill_unit == "pu" else at.FC_PIM
    home = system.unit_of("attention")
    assert home is not None
    s[at.ATTENTION_UNIT] = UNIT_NAMES.index(home)
    units = [at.PU if name == "pu" else at.FC_PIM for name in UNIT_NAMES[:2] if system.can_run(name, "fc")]
    s[at.ONLY_UNIT] = units[0] if len(units) == 1 else -1
    if serving.drift is not None:
        s[at.DRIFT_PERIOD_S] = serving.drift.period_s
        worst = (serving.drift.pu, serving.drift.fc_pim, serving.drift.attn_pim)
        s[at.DRIFT_LOG : at.DRIFT_LOG + 3] = np.log(worst)
    _prefill(system, model, s)
    return s


def _pages(system: System, model: Transformer, serving: Serving) -> int:
    """KV pages that there are: what was said, or what the stacks hold beside the weights where they share them.

    Pages are of whole contexts, in all layers: what has left its window is kept, as where layers share one table of
    pages. Refuses weights and pages that do not fit.
    """
    size = model.kv_bytes_per_token
    system.check_capacity(model.weight_bytes, (serving.kv_tokens or 0) * size)
    if serving.kv_tokens is not None:
        return serving.kv_tokens // serving.page_tokens
    capacity = system.kv_capacity_bytes
    if capacity is None:
        capacity = system.weight_capacity_bytes - model.weight_bytes
    return int(capacity // (serving.page_tokens * size))


def _prefill(system: System, model: Transformer, s: FloatArray) -> None:
    """What a chunk of prompts takes besides FC kernels, one prompt after the other."""
    work = prompt_work(system, model)
    s[at.PREFILL_PAIR_COMPUTE_S], s[at.PREFILL_TOKEN_MEMORY_S] = work.pair_compute_s, work.context_memory_s
    s[at.PREFILL_PAIR_S], s[at.PREFILL_TOKEN_S] = work.pair_s, work.row_s
    s[at.PREFILL_PAIR_J], s[at.PREFILL_TOKEN_J], s[at.PREFILL_ROW_J] = work.pair_j, work.context_j, work.row_j
    s[at.KV_LINK_S_PER_TOKEN], s[at.KV_LINK_J_PER_TOKEN] = work.link_s, work.link_j


def _reference_s(tables: ServingTables, serving: Serving) -> float:
    """FC kernels and attention of a quarter-full machine on its first unit: what observations divide times by."""
    rlp = max(serving.max_running // 4, 1)
    unit = max(int(tables.scalars[at.ONLY_UNIT]), 0)
    row = tables.attention[rlp, 1]
    mean = float(tables.population[:, 0].mean() + tables.population[:, 1].mean() / 2)
    window = float(tables.scalars[at.WINDOW])
    mean = of_layers(mean, min(mean, window), tables.scalars)
    groups = np.ceil(mean / dram.GROUP_TOKENS) * tables.shares[rlp, 1, layout.SHARE]
    attention = max(row[layout.PER_GROUP_S] * groups, row[layout.PER_TOKEN_S] * rlp * mean)
    return float(tables.fc_s[unit, rlp] + tables.moves[rlp, layout.COMBINE_S] + attention)


def _descriptors(scenario: Scenario, serving: Serving, model: Transformer, s: FloatArray) -> list[float]:
    def squash(value: float) -> float:
        return value / (1 + value)

    reference = float(s[at.REFERENCE_S])
    joules = scenario.energy_weight * scenario.system.static_power_w * reference
    return [
        *rate_descriptors(scenario.system),
        squash(s[at.SWITCH_S] / reference),
        float(serving.dual_row_buffers),
        decades(model.weight_bytes),
        decades(model.kv_bytes_per_token),
        model.layers / 1000,
        squash(joules),
        squash(serving.objectives.ttft_s / (100 * reference)),
        squash(serving.objectives.tpot_s / (4 * reference)),
        min(float(s[at.ALPHA]) / 1024, 1.0),
    ]
