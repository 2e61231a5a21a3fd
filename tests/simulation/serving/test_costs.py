"""The cost of a serving iteration: the same from the hardware's functions, one kernel at a time, and within physics."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.hardware import costs, dram
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.units import PimUnit, ProcessingUnit
from papi_env.kernel import blocks
from papi_env.scenario import parse_scenario
from papi_env.simulation.batch.stages import crossing
from papi_env.simulation.prefill import Prefill
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.drift import drift_factor
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.splitting import shared_seconds, split_rows
from papi_env.simulation.serving.tables import build_serving_tables, framed
from papi_env.simulation.serving.terms import Decoding, Placement, PromptChunk, Slowdowns
from papi_env.workload.serving import DRAFTS, SPECULATION_LENGTHS
from papi_env.workload.transformer import TRANSFORMERS


def scenario(system="papi", model="llama-65b", **changes):
    serving = {
        "arrivals": {"process": "together"},
        "lengths": {"input": 300, "output": 30},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "requests": 16,
        "max_running": 12,
        "paging": False,
    } | changes
    table = {"name": "test", "system": system, "model": model, "serving": serving}
    return parse_scenario(table, "test")


# --- an iteration, slowly ------------------------------------------------------------------------------


@dataclass
class Work:
    """What an iteration has to do.

    Attributes:
        contexts: tokens that each decoding request holds; tlp: tokens verified of each.
        prompts: (first, last] tokens of each prompt in the chunk.
        unit, overlap: as chosen; mode: what the stacks were left in.
        factors: true over profiled time of PUs, FC-PIM, Attn-PIM.
    """

    contexts: list[int]
    tlp: int
    prompts: list[tuple[int, int]]
    unit: int
    overlap: bool = False
    mode: int = -1
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def attended(self):
        return np.array(self.contexts, dtype=np.int64) + self.tlp

    @property
    def prompt_rows(self):
        return sum(last - first for first, last in self.prompts)

    @property
    def prompt_pairs(self):
        return sum(sum(range(first + 1, last + 1)) for first, last in self.prompts)

    @property
    def prompt_read(self):
        return sum(last for _, last in self.prompts)


@dataclass
class Slow:
    """The description in `simulation.serving`, with the hardware's functions and no table."""

    scenario: object
    joules: float = 0.0
    notes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.system, self.model = self.scenario.system, self.scenario.model
        self.serving = self.scenario.serving
        self.pu, self.fc_pim = self.system.pu, self.system.fc_pim
        self.home = self.system.unit_of("attention")
        switch_s = self.system.mode_switch_s if self.scenario.switch_s is None else self.scenario.switch_s
        self.switch_s = switch_s if self.serving.switching and not self.serving.dual_row_buffers else 0.0
        # Splits are tried with the same rows again and again.
        self.fc_s, self.reading_s = cache(self.fc_s), cache(self.reading_s)

    # Pieces, in seconds of the offline profile and joules.

    def fc_s(self, unit, rows):
        return sum(k.count * float(self._fc(unit, k, rows)) for k in self.model.fc_kernels()) if rows else 0.0

    def _fc(self, unit, kernel, rows):
        if unit == at.PU:
            return costs.pu_fc_s(self.pu, kernel, rows)
        started = costs.pim_fc_s(self.fc_pim, kernel, rows) + self.system.pim_start_s
        return started + self.system.stack_sum_s(kernel, rows)

    def fc_j(self, unit, rows):
        return (
            sum(k.count * float(self._fc_j(unit, k, rows)) for k in self.model.fc_kernels()) if rows else 0.0
        )

    def _fc_j(self, unit, kernel, rows):
        if unit == at.PU:
            return costs.pu_fc_energy(self.pu, kernel, rows).total
        return costs.pim_fc_energy(self.fc_pim, kernel, rows).total + self.system.stack_sum_j(kernel, rows)

    def reading_s(self, rows):
        """Seconds in which the PUs read weights, inputs and outputs from the stacks."""
        if not rows or self.pu is None:
            return 0.0
        size = sum(
            k.count * (k.weight_bytes + k.with_rows(rows).activation_bytes) for k in self.model.fc_kernels()
        )
        return min(size / (self.pu.count * self.pu.streaming_bandwidth), self.fc_s(at.PU, rows))

    def shared_s(self, pu_rows, pim_rows, pu_factor=1.0, pim_factor=1.0):
        pu, pim = self.fc_s(at.PU, pu_rows) * pu_factor, self.fc_s(at.FC_PIM, pim_rows) * pim_factor
        if not pu_rows or not pim_rows:
            return pu + pim
        if self.serving.dual_row_buffers:
            return max(pu, pim)
        return max(pu, self.reading_s(pu_rows) * pu_factor + pim + self.within_s)

    @property
    def within_s(self):
        """Mode changes around FC-PIM's part of every kernel of every layer."""
        return 2 * sum(k.count for k in self.model.fc_kernels()) * self.switch_s

    def best_split(self, rows, prompt):
        return min(range(rows + 1), key=lambda k: self.shared_s(rows - k + prompt, k))

    def attention_s(self, attended, tlp, requests):
        """Of `requests` requests whose contexts are as those of the batch on average, and one the longest."""
        kernel, unit, share = (
            self.model.attention_kernel(),
            self.system.unit(self.home),
            requests / len(attended),
        )
        if isinstance(unit, ProcessingUnit):
            return kernel.count * float(costs.pu_attention_s(unit, kernel, share * attended.sum(), tlp))
        mapping, work = costs.mapped_attention(unit, kernel, requests, tlp)
        busiest = [
            costs.busiest_channel(
                mapping.share, requests, share * parts.sum(), parts.max(), mapping.share_of_one
            )
            for parts in (work.groups(attended), work.chunks(attended))
        ]
        seconds = float(work.clocks(busiest[0], busiest[1], mapping.pairs)) * dram.CLOCK_S
        return kernel.count * (seconds + self.system.pim_start_s)

    def attention_j(self, attended, tlp, requests):
        kernel, unit = self.model.attention_kernel(), self.system.unit(self.home)
        if isinstance(unit, ProcessingUnit):
            return kernel.count * float(costs.pu_attention_energy(unit, kernel, attended.sum(), tlp).total)
        groups = np.ceil(attended / dram.GROUP_TOKENS).sum()
        return kernel.count * float(costs.pim_attention_energy(unit, kernel, groups, tlp, requests).total)

    def prompt_attention(self, work):
        """Seconds, true already, and joules."""
        pairs, tokens = float(work.prompt_pairs), float(work.prompt_rows)
        if not tokens:
            return 0.0, 0.0
        kernel = self.model.attention_kernel()
        multiplies, size = pairs * kernel.macs_per_context_token, work.prompt_read * kernel.kv_bytes_per_token
        where = "pu" if self.system.prefill_unit == "pu" else self.home
        unit = self.system.unit(where)
        if isinstance(unit, ProcessingUnit):
            compute = 2 * multiplies / (unit.total_flops * unit.compute_efficiency)
            memory = size / (unit.count * unit.attention_bandwidth)
            joules = multiplies * unit.mac_j + size * unit.memory_j_per_byte
            return kernel.count * max(compute, memory) * work.factors[0], kernel.count * joules
        mapping, coefficients = costs.prompt_attention(unit, kernel, 1)
        groups = pairs / dram.GROUP_TOKENS + tokens / 2
        chunks = groups * coefficients.group_columns / dram.COLUMNS_PER_ROW + tokens / 2
        clocks = mapping.share * (coefficients.per_group * groups + coefficients.per_chunk * chunks)
        clocks += tokens * (mapping.pairs * coefficients.per_pair + coefficients.per_start)
        seconds = kernel.count * clocks * dram.CLOCK_S
        return seconds * self._attention_factor(work), kernel.count * float(
            costs.pim_attention_energy(unit, kernel, groups, 1, 1).total
        )

    def _attention_factor(self, work):
        return work.factors[("pu", "fc-pim", "attn-pim").index(self.home)]

    def draft(self, work):
        """Seconds, true already, and joules of drafting one token after the other."""
        rlp, context = len(work.contexts), int(work.attended.sum()) if work.contexts else 0
        if work.tlp == 1 or not rlp or not self.serving.draft_cost:
            return 0.0, 0.0
        model = DRAFTS[self.serving.speculation.draft]
        kernel = model.attention_kernel()
        step_s = model.layers * self.serving.speculation.draft_layer_overhead_s
        step_j = 0.0
        if self.pu is not None:
            one, share = self.pu.model_copy(update={"count": 1}), -(-rlp // self.pu.count)
            for k in model.fc_kernels():
                step_s += k.count * float(costs.pu_fc_s(one, k, share))
                step_j += k.count * min(rlp, self.pu.count) * float(costs.pu_fc_energy(one, k, share).total)
            step_s += model.layers * float(costs.pu_attention_s(self.pu, kernel, context, 1))
            step_j += model.layers * float(costs.pu_attention_energy(self.pu, kernel, context, 1).total)
        else:
            for k in model.fc_kernels():
                step_s += k.count * float(self._fc(at.FC_PIM, k, rlp))
                step_j += k.count * float(self._fc_j(at.FC_PIM, k, rlp))
            step_s += context * model.kv_bytes_per_token / self.fc_pim.peak_bandwidth
            step_j += context * model.kv_bytes_per_token * dram.READ_WITH_ACTIVATION_J_PER_BYTE
        factor = work.factors[0] if self.pu is not None else work.factors[1]
        return (work.tlp - 1) * step_s * factor, (work.tlp - 1) * step_j

    def combine(self, rows):
        parts = blocks(self.model.fc_kernels())
        seconds = self.model.layers * sum(float(self.system.combine_s(part, rows)) for part in parts)
        return seconds, self.model.layers * sum(float(self.system.combine_j(part, rows)) for part in parts)

    def transfer(self, rows):
        """New keys, values and queries to Attn-PIM, outputs back."""
        link, layers = self.system.attention_link, self.model.layers
        if self.system.attn_pim is None or not rows:
            return 0.0, 0.0
        there = 2.0 * rows * (self.model.hidden + 2 * self.model.kv_width)
        back = 2.0 * rows * self.model.hidden
        return (
            layers * float(link.transfer_s(there) + link.transfer_s(back)),
            layers * (there + back) * link.j_per_byte,
        )

    def keys_home(self, rows):
        """A prompt's keys and values (and, where PIM processes it, its queries and outputs) on the link."""
        link = self.system.attention_link
        if self.system.attn_pim is None:
            return 0.0, 0.0
        kv = self.model.kv_bytes_per_token
        vector = 2 * self.model.layers * self.model.hidden if self.system.prefill_unit == "fc-pim" else 0
        # Both directions stream at once: the busier counts.
        return rows * (kv + vector) / link.total_bandwidth, rows * (kv + 2 * vector) * link.j_per_byte

    # The whole.

    def __call__(self, work):
        """Seconds and joules of an iteration."""
        n, prompt, attended = len(work.contexts) * work.tlp, work.prompt_rows, work.attended
        pu_factor, pim_factor, _ = work.factors
        on_pim = self.system.prefill_unit == "fc-pim"
        separate = self.home == "attn-pim"
        rlp = len(work.contexts)
        halves = [rlp - rlp // 2, rlp // 2] if work.overlap and separate and rlp > 1 else [rlp]
        prompt_s, joules = self.prompt_attention(work)
        draft_s, draft_j = self.draft(work)
        link_s, link_j = self.keys_home(prompt)
        joules += draft_j + link_j + (self.attention_j(attended, work.tlp, max(halves)) if n else 0.0)

        beside = prompt if work.unit == at.FC_PIM and not on_pim else 0
        chains = []
        on_unit = [0, 0]
        shares = 0
        for i, requests in enumerate(halves):
            with_it = prompt - beside if i == 0 else 0
            rows = requests * work.tlp
            pim_rows = rows + with_it if work.unit == at.FC_PIM else 0
            if work.unit == at.SPLIT:
                pim_rows = self.best_split(rows, with_it)
            pu_rows = rows + with_it - pim_rows
            fc = self.shared_s(pu_rows, pim_rows, pu_factor, pim_factor)
            combine_s, combine_j = self.combine(rows + with_it)
            joules += self.fc_j(at.PU, pu_rows) + self.fc_j(at.FC_PIM, pim_rows) + combine_j
            attend = 0.0
            if requests:
                attend = self._attention_factor(work) * self.attention_s(attended, work.tlp, requests)
                transfer_s, transfer_j = self.transfer(rows)
                attend += transfer_s
                link_s += transfer_s
                joules += transfer_j
            chains.append((fc + combine_s, attend))
            on_unit[at.PU] += pu_rows
            on_unit[at.FC_PIM] += pim_rows
            shares += bool(pu_rows and pim_rows)

        prompt_beside_attention = separate and not on_pim and prompt > beside
        if len(chains) == 1:
            [(fc, attend)] = chains
            seconds = fc + (max(attend, prompt_s) if prompt_beside_attention else attend)
            if prompt > beside and not prompt_beside_attention:
                seconds += prompt_s
        else:
            (fc, attend), (other_fc, other_attend) = chains
            if prompt > beside and on_pim:
                attend += prompt_s
            elif prompt > beside:
                fc += prompt_s
            seconds = max(fc + other_fc, attend + other_attend, fc + attend, other_fc + other_attend)
            seconds += fc / self.model.layers
        if beside:
            alone = self.fc_s(at.PU, beside) * pu_factor
            combine_s, combine_j = self.combine(beside)
            joules += self.fc_j(at.PU, beside) + combine_j
            pu_work = alone + prompt_s
            decode_attention = sum(a for _, a in chains) if self.home == "pu" else 0.0
            seconds = max(seconds, pu_work + combine_s, pu_work + decode_attention)
            if n and not self.serving.dual_row_buffers:
                kernel = self.model.attention_kernel()
                prompt_read_s = kernel.count * work.prompt_read * kernel.kv_bytes_per_token
                prompt_read_s /= self.pu.count * self.pu.attention_bandwidth
                banks = (
                    (self.reading_s(beside) + prompt_read_s) * pu_factor + decode_attention + self.within_s
                )
                # Two half-batches read the weights on FC-PIM twice.
                banks += pim_factor * sum(self.fc_s(at.FC_PIM, r * work.tlp) for r in halves)
                seconds = max(seconds, banks)
                shares += 1
        mode = at.FC_PIM if on_unit[at.FC_PIM] and not on_unit[at.PU] and not shares else at.PU
        if self.switch_s:
            begins = at.PU if draft_s and self.pu is not None else mode
            changes = (work.mode not in (-1, begins)) + (begins != mode)
            crossing_s, crossing_j = crossing(self.system, np.array(2.0 * (n + prompt) * self.model.hidden))
            seconds += changes * (self.switch_s + float(crossing_s))
            joules += changes * float(crossing_j)
        seconds = max(seconds, link_s)
        return (
            seconds + draft_s + self.serving.decision_s + self.model.layers * self.system.layer_overhead_s,
            joules,
        )


def waiting_work(engine, action):
    """What the next iteration has to do if nobody is admitted and no page is short."""
    c, state, serving = engine.counters[0], engine.state, engine.scenario.serving
    facts, slots = state.facts[0], state.prefill.shape[1]
    room, done, prompts = serving.chunk_tokens, int(c[at.PREFILL_DONE]), []
    for k in range(c[at.PREFILLING]):
        request = state.prefill[0, (c[at.PREFILL_FRONT] + k) % slots]
        whole = int(facts[request, at.INPUT] + facts[request, at.GENERATED])
        if room == 0:
            break
        last = min(whole, done + room)
        prompts.append((done, last))
        room, done = room - (last - done), 0
    scalars = engine.tables.scalars
    now = engine.clocks[0, at.TIME_S]
    factors = tuple(drift_factor(c[at.SEED], c[at.EPISODE], unit, now, scalars) for unit in range(3))
    return Work(
        contexts=state.contexts[0, : c[at.RLP]].tolist(),
        tlp=SPECULATION_LENGTHS[action[at.SPECULATION]],
        prompts=prompts,
        unit=action[at.FC],
        overlap=bool(action[at.OVERLAP]),
        mode=int(c[at.LAST_FC]),
        factors=factors,
    )


KINDS = {
    "plain": {},
    "free": {"switching": False, "draft_cost": False},
    "dual": {"dual_row_buffers": True},
    "drift": {"drift": {"period_s": 0.2, "pu": 3.0, "fc_pim": 2.0, "attn_pim": 2.5}},
    "processed": {"prefill": False, "decision_s": 1e-3},
    "small chunks": {"chunk_tokens": 100, "lengths": {"input": 250, "output": 24}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("system", "model"),
    [
        ("papi", "llama-65b"),
        ("papi-h100", "llama2-70b"),
        ("papi-pim-only", "opt-30b"),
        ("attacc-only", "llama-65b"),
        ("a100-attacc", "llama-65b"),
        ("a100", "opt-30b"),
        ("papi-1gpu", "opt-30b"),
    ],
)
def test_iterations_cost_what_the_hardware_functions_say(system, model, kind):
    s = scenario(system, model, **{"lengths": {"input": 900, "output": 24}} | KINDS[kind])
    engine, slow = ServingEngine(s), Slow(s)
    engine.counters[0, at.SEED] = len(system)
    engine.reset()
    rng, checked, seen = np.random.default_rng(0), 0, set()
    masks = {
        at.PU: system != "attacc-only" and "only" not in system,
        at.FC_PIM: not system.startswith("a100"),
    }
    units = [unit for unit, there in masks.items() if there]
    units += [at.SPLIT] * (len(units) == 2)
    for _ in range(110):
        if engine.counters[0, at.DONE]:
            engine.counters[0, at.EPISODE] += 1
            engine.reset()
        nothing_runs = engine.counters[0, at.RLP] + engine.counters[0, at.PREFILLING] == 0
        admission = at.ONE if nothing_runs or rng.random() < 0.25 else at.NONE
        action = [int(rng.choice(units)), int(rng.integers(4)), admission, int(rng.integers(2))]
        expected = None
        if admission == at.NONE:
            work = waiting_work(engine, action)
            expected = slow(work)
            seen.add((bool(work.contexts), bool(work.prompts)))
        engine.actions[0] = action
        engine.step()
        if expected is not None:
            checked += 1
            assert engine.clocks[0, at.LAST_TIME_S] == pytest.approx(expected[0], rel=1e-9), work
            assert engine.clocks[0, at.LAST_DYNAMIC_J] == pytest.approx(expected[1], rel=1e-9), work
    assert checked > 40
    # Decoding alone, prompts alone, and both.
    assert len(seen) == (1 if kind == "processed" else 3)


# --- prompts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["papi", "papi-pim-only", "attacc-only"])
@pytest.mark.parametrize("tokens", [1, 100, 512])
def test_a_prompt_in_one_chunk_is_the_prefill_of_a_batch_of_one(system, tokens):
    s = scenario(system, lengths={"input": tokens, "output": 5}, requests=1, draft_cost=False)
    engine = ServingEngine(s)
    engine.reset()
    engine.actions[0] = (at.FC_PIM if system != "papi" else at.PU, 0, at.ALL, 0)
    engine.step()
    count, pairs = np.array([tokens]), np.array([tokens * (tokens + 1) // 2])
    seconds, joules = (float(x[0]) for x in Prefill(s.system, s.model).cost(count, pairs, 1))
    assert engine.clocks[0, at.LAST_TIME_S] == pytest.approx(seconds, rel=1e-9)
    assert engine.clocks[0, at.LAST_DYNAMIC_J] == pytest.approx(joules, rel=1e-9)


@pytest.mark.parametrize("chunk", [128, 256, 512])
def test_chunks_of_a_prompt_attend_to_all_before_them(chunk):
    """Each multiplies its own queries, and reads all keys and values up to its last."""
    s = scenario(lengths={"input": 512, "output": 2}, requests=1, chunk_tokens=chunk)
    engine = ServingEngine(s)
    engine.reset()
    pu, model = s.system.pu, s.model
    for last in range(chunk, 512 + 1, chunk):
        engine.actions[0] = (at.PU, 0, at.ALL, 0)
        engine.step()
        pairs = sum(range(last - chunk + 1, last + 1))
        # Scores and weighted values: 4 FLOP for each of `hidden` elements, of a query and a key.
        compute = model.layers * 4 * pairs * model.hidden / (pu.total_flops * pu.compute_efficiency)
        memory = last * model.kv_bytes_per_token / (pu.count * pu.attention_bandwidth)
        assert engine.clocks[0, at.LAST_PREFILL_S] == pytest.approx(max(compute, memory), rel=1e-9)
    assert engine.counters[0, at.PREFILLED] == 512


# --- the iteration as a function -----------------------------------------------------------------------

TABLES = {}


def tables_of(system, model="llama-65b", **changes):
    key = (system, model, tuple(sorted(changes.items())))
    if key not in TABLES:
        TABLES[key] = build_serving_tables(scenario(system, model, max_running=256, **changes))
    return TABLES[key]


def cost(tables, work, scalars=None):
    """(seconds, busy seconds by resource, the rest of what `iteration` returns but what it ran)."""
    scalars = tables.scalars if scalars is None else scalars
    attended = work.attended
    groups = -(-attended // 16)
    columns = int(scalars[at.GROUP_COLUMNS])
    key_rows = -(-groups * columns // dram.COLUMNS_PER_ROW)
    busy = np.zeros(at.NUM_RESOURCES)
    found = iteration(
        Decoding(
            len(attended),
            work.tlp,
            int(attended.sum()),
            int(groups.sum()),
            int(groups.max(initial=0)),
            int(key_rows.sum()),
            int(key_rows.max(initial=0)),
        ),
        PromptChunk(work.prompt_rows, work.prompt_pairs, work.prompt_read),
        Placement(work.unit, int(work.overlap), work.mode),
        Slowdowns(*work.factors),
        framed(tables._replace(scalars=scalars)),
        busy,
    )
    return found[0], busy, found[1:-1]


contexts = st.lists(st.integers(1, 2040), min_size=0, max_size=64)
prompts = st.lists(
    st.tuples(st.integers(0, 1500), st.integers(1, 128)).map(lambda x: (x[0], sum(x))), max_size=4
)
factors = st.tuples(*[st.floats(1.0, 10.0)] * 3)
systems = st.sampled_from(
    ["papi", "papi-h100", "papi-1gpu", "a100-attacc", "a100", "papi-pim-only", "attacc-only"]
)


UNDRIFTED = st.just((1.0, 1.0, 1.0))


@st.composite
def works(draw, factors=UNDRIFTED):
    """A system and something for it to do."""
    system = draw(systems)
    units = [at.PU] if system.startswith("a100") else [at.PU, at.FC_PIM, at.SPLIT]
    units = [at.FC_PIM] if system.endswith("only") else units
    work = Work(
        contexts=draw(contexts),
        tlp=draw(st.sampled_from(SPECULATION_LENGTHS)),
        prompts=draw(prompts),
        unit=draw(st.sampled_from(units)),
        overlap=draw(st.booleans()),
        mode=draw(st.sampled_from([-1, *[u for u in units if u != at.SPLIT]])),
        factors=draw(factors),
    )
    if not work.contexts and not work.prompts:
        work.contexts = [1]
    return system, "opt-30b" if system == "papi-1gpu" else "llama-65b", work


def changed(work, **changes):
    return Work(**{**work.__dict__, **changes})


@settings(max_examples=150, deadline=None)
@given(works(factors), st.booleans())
def test_no_resource_is_busy_for_longer_than_the_iteration(drawn, dual):
    system, model, work = drawn
    tables = tables_of(system, model, dual_row_buffers=dual)
    seconds, busy, (joules, fc_s, attention_s, draft_s, prompt_s, communication_s, *_) = cost(tables, work)
    assert (busy >= 0).all()
    assert (busy <= seconds * (1 + 1e-12)).all(), dict(zip(at.RESOURCES, busy / seconds, strict=True))
    assert joules > 0
    assert min(fc_s, attention_s, draft_s, prompt_s, communication_s) >= 0
    # What runs serially bounds it from above: nothing waits without a cause.
    switching = tables.scalars[at.SWITCHES_PER_SPLIT] * tables.scalars[at.SWITCH_S] * 2
    crossings = 2 * (tables.scalars[at.SWITCH_S] + tables.moves[-1, 2])
    overhead = fc_s / tables.scalars[at.LAYERS] + prompt_s + switching + crossings
    assert (
        seconds <= fc_s + attention_s + draft_s + prompt_s + communication_s + overhead + busy[at.BUSY_LINK]
    )


@settings(max_examples=100, deadline=None)
@given(works())
def test_no_iteration_streams_the_weights_faster_than_all_units_together(drawn):
    system, model, work = drawn
    s = scenario(system, model)
    seconds, _, _ = cost(tables_of(system, model), work)
    pu, pim = s.system.pu, s.system.fc_pim
    bandwidth = (pu.total_bandwidth if pu else 0.0) + (
        pim.peak_bandwidth if isinstance(pim, PimUnit) else 0.0
    )
    flops = (pu.total_flops if pu else 0.0) + (pim.peak_flops if isinstance(pim, PimUnit) else 0.0)
    rows = len(work.contexts) * work.tlp + work.prompt_rows
    arithmetic = 2 * sum(k.count * k.with_rows(rows).macs for k in s.model.fc_kernels())
    assert seconds > s.model.weight_bytes / bandwidth
    assert seconds > arithmetic / flops


@settings(max_examples=100, deadline=None)
@given(works(factors), st.booleans())
def test_overlap_hides_no_more_than_the_shorter_part(drawn, dual):
    system, model, work = drawn
    tables = tables_of(system, model, dual_row_buffers=dual)
    seconds, _, (_, fc_s, attention_s, draft_s, *_) = cost(tables, changed(work, overlap=True))
    # Of a prompt beside the decode batch, FC kernels on the PUs hide as well.
    if not work.prompts or work.unit != at.FC_PIM:
        assert seconds >= (max(fc_s, attention_s) + draft_s) * (1 - 1e-12)
    # Each half reads the weights for itself: less work is never the reason to be faster.
    _, _, (_, whole_fc_s, whole_attention_s, *_) = cost(tables, changed(work, overlap=False))
    assert fc_s >= whole_fc_s * (1 - 1e-12)
    # Where halves are few enough for their contexts to be split, and the whole is not, one long context ends earlier.
    requests = len(work.contexts)
    if _splits(system, model, requests, work.tlp) == _splits(
        system, model, requests - requests // 2, work.tlp
    ):
        assert attention_s >= whole_attention_s * (1 - 1e-12)


def _splits(system, model, requests, tlp):
    unit = SYSTEMS[system].unit(SYSTEMS[system].unit_of("attention"))
    if isinstance(unit, ProcessingUnit) or not requests:
        return False
    return costs.attention_mapping(unit, TRANSFORMERS[model].attention_kernel(), requests, tlp).split


@settings(max_examples=100, deadline=None)
@given(works(), st.sampled_from(["papi", "papi-h100", "papi-1gpu"]), st.booleans())
def test_a_split_is_never_slower_than_the_pus_alone_in_the_profile(drawn, system, dual):
    _, _, work = drawn
    model = "opt-30b" if system == "papi-1gpu" else "llama-65b"
    tables = tables_of(system, model, dual_row_buffers=dual)
    # A change of mode between iterations is charged apart.
    split, alone = (
        cost(tables, changed(work, unit=unit, overlap=False, mode=-1, tlp=1))[0] for unit in (at.SPLIT, at.PU)
    )
    assert split <= alone * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(
    system=st.sampled_from(["papi", "papi-h100", "papi-1gpu"]),
    rows=st.integers(0, 2048),
    prompt=st.integers(0, 512),
    dual=st.booleans(),
    switching=st.booleans(),
)
def test_a_split_is_the_best_there_is(system, rows, prompt, dual, switching):
    model = "opt-30b" if system == "papi-1gpu" else "llama-65b"
    t = tables_of(system, model, dual_row_buffers=dual, switching=switching)
    if rows + prompt == 0:
        return
    seconds = [
        shared_seconds(rows - k + prompt, k, 1.0, 1.0, t.fc_s, t.bank_s, t.scalars) for k in range(rows + 1)
    ]
    chosen = split_rows(rows, prompt, t.fc_s, t.bank_s, t.scalars)
    assert seconds[chosen] == pytest.approx(min(seconds), rel=1e-12)


@pytest.mark.parametrize(("system", "dual"), [("papi", False), ("papi", True), ("papi-1gpu", False)])
def test_splits_are_looked_up_as_they_are_searched(system, dual):
    t = tables_of(system, "opt-30b" if system == "papi-1gpu" else "llama-65b", dual_row_buffers=dual)
    chunk = int(t.scalars[at.CHUNK])
    assert t.splits.shape[1] > int(t.scalars[at.MAX_RUNNING]) * SPECULATION_LENGTHS[-1]
    for k, prompt in enumerate((0, chunk)):
        searched = [
            split_rows(rows, prompt, t.fc_s, t.bank_s, t.scalars) for rows in range(1, t.splits.shape[1])
        ]
        assert t.splits[k, 1:].tolist() == searched
    assert 0 < t.splits[0].max() < t.splits.shape[1] - 1


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("prompt", [0, 100, 512])
def test_an_iteration_is_the_same_with_splits_looked_up_and_searched(prompt, overlap):
    t = tables_of("papi")
    assert t.scalars[at.CHUNK] == 512
    without = t._replace(splits=np.zeros((2, 0), dtype=np.int32))
    found = set()
    for requests in (1, 7, 64, 255):
        for tlp in SPECULATION_LENGTHS:
            prompts = [(0, prompt)] if prompt else []
            work = Work([300] * requests, tlp, prompts, at.SPLIT, overlap=overlap)
            looked_up, searched = cost(t, work), cost(without, work)
            assert looked_up[0] == searched[0]
            assert looked_up[1].tolist() == searched[1].tolist()
            assert looked_up[2] == searched[2]
            found.add(looked_up[2][-1])
    # Several divisions were compared, not one and the same.
    assert len(found) > 3


def test_a_machine_with_one_unit_has_no_splits():
    assert tables_of("a100-attacc", "llama-65b").splits.shape == (2, 0)


@settings(max_examples=150, deadline=None)
@given(works(), factors, factors, st.booleans())
def test_a_slower_machine_is_never_faster(drawn, one, other, dual):
    system, model, work = drawn
    tables = tables_of(system, model, dual_row_buffers=dual)
    worse = tuple(np.maximum(one, other))
    plain = changed(work, factors=(1.0, 1.0, 1.0))
    times = [cost(tables, changed(plain, factors=f))[0] for f in ((1.0, 1.0, 1.0), one, worse)]
    assert times[0] <= times[1] * (1 + 1e-12)
    assert times[1] <= times[2] * (1 + 1e-12)
    # Neither is it by more than its slowest unit.
    assert times[2] <= times[0] * max(worse) * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(works(factors), st.integers(0, 63), st.integers(1, 300), st.booleans())
def test_longer_contexts_and_prompts_are_never_faster(drawn, which, more, dual):
    system, model, work = drawn
    tables = tables_of(system, model, dual_row_buffers=dual)
    seconds = cost(tables, work)[0]
    if work.contexts:
        grown = list(work.contexts)
        grown[which % len(grown)] += more
        assert cost(tables, changed(work, contexts=grown))[0] >= seconds
    if work.prompts:
        later = [(first + more, last + more) for first, last in work.prompts]
        assert cost(tables, changed(work, prompts=later))[0] >= seconds


@settings(max_examples=150, deadline=None)
@given(works())
def test_dual_row_buffers_are_never_slower(drawn):
    system, model, work = drawn
    plain, dual = (cost(tables_of(system, model, dual_row_buffers=d), work)[0] for d in (False, True))
    assert dual <= plain * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(works())
def test_free_switching_is_never_slower_and_counts_nothing(drawn):
    system, model, work = drawn
    charged = cost(tables_of(system, model), work)[0]
    free, _, (*_, switching_s, _, _, _) = cost(tables_of(system, model, switching=False), work)
    assert free <= charged
    assert switching_s == 0


def test_beside_a_prompt_fc_pim_and_pus_take_turns_at_the_banks():
    """Few prompt tokens leave the PUs reading weights, for which FC-PIM has to wait without dual row buffers."""
    work = Work([20] * 48, 1, [(0, 64)], at.FC_PIM)
    t, dual = (tables_of("papi", dual_row_buffers=d) for d in (False, True))
    pim, alone = t.fc_s[at.FC_PIM, 48], t.fc_s[at.PU, 64]
    within = 2 * 4 * 80 * 1e-6  # in and out of FC-PIM's part of four kernels in 80 layers
    keys = t.scalars[at.PREFILL_TOKEN_MEMORY_S] * 64
    seconds, busy, _ = cost(t, work)
    assert seconds == pytest.approx(pim + t.bank_s[64] + keys + within, rel=1e-12)
    assert busy[at.BUSY_BANKS] == seconds
    dual_seconds, busy, (*_, prompt_s, _, _, _, _, _) = cost(dual, work)
    assert dual_seconds < seconds
    assert busy[at.BUSY_PU] == pytest.approx(alone + prompt_s, rel=1e-12)
    assert busy[at.BUSY_FC_PIM] == pim


@pytest.mark.parametrize(
    ("unit", "rows", "drafting", "before", "changes", "after"),
    [
        (at.PU, 4, False, -1, 0, at.PU),
        (at.PU, 4, False, at.FC_PIM, 1, at.PU),
        (at.FC_PIM, 4, False, at.PU, 1, at.FC_PIM),
        (at.FC_PIM, 4, False, at.FC_PIM, 0, at.FC_PIM),
        # Drafts on the PUs come first: there and back.
        (at.FC_PIM, 4, True, at.FC_PIM, 2, at.FC_PIM),
        (at.FC_PIM, 4, True, at.PU, 1, at.FC_PIM),
        # So few rows all go to FC-PIM when they may be split, and that is where the stacks are then.
        (at.SPLIT, 1, False, at.PU, 1, at.FC_PIM),
        (at.SPLIT, 1, False, at.FC_PIM, 0, at.FC_PIM),
    ],
)
def test_changes_of_mode_between_iterations_are_charged(unit, rows, drafting, before, changes, after):
    tables = tables_of("papi")
    work = Work([100] * rows, 2 if drafting else 1, [], unit, mode=before)
    seconds, _, (*_, switching_s, counted, mode, on_pim) = cost(tables, work)
    free = cost(tables_of("papi", switching=False), work)[0]
    crossing_s = tables.moves[rows * work.tlp, 2]
    assert (counted, mode) == (changes, after)
    assert switching_s == pytest.approx(changes * 1e-6)
    assert seconds - free == pytest.approx(changes * (1e-6 + crossing_s), rel=1e-6)
    assert on_pim == (0 if unit == at.PU else rows * work.tlp)


def test_drafting_for_one_token_or_without_cost_takes_no_time():
    tables, free = tables_of("papi"), tables_of("papi", draft_cost=False)
    contexts = [200] * 16
    assert cost(tables, Work(contexts, 1, [], at.PU))[2][3] == 0
    assert cost(free, Work(contexts, 8, [], at.PU))[2][3] == 0
    drafts = [cost(tables, Work(contexts, tlp, [], at.PU))[2][3] for tlp in (2, 4, 8)]
    # One token after the other, each after a little more context.
    assert drafts[1] == pytest.approx(3 * drafts[0], rel=0.01)
    assert drafts[2] == pytest.approx(7 * drafts[0], rel=0.01)
    # 12 layers of 10 us at least.
    assert drafts[0] > 12 * 10e-6


# --- drift ---------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**60),
    episode=st.integers(0, 1000),
    unit=st.integers(0, 2),
    worst=st.floats(1.0, 10.0),
    time=st.floats(0.0, 1e5),
)
def test_drift_stays_between_the_profile_and_the_worst(seed, episode, unit, worst, time):
    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.DRIFT_PERIOD_S] = 20.0
    scalars[at.DRIFT_LOG + unit] = np.log(worst)
    factor = drift_factor(seed, episode, unit, time, scalars)
    assert 1.0 <= factor <= worst * (1 + 1e-12)
    # It wanders: within a thousandth of the period by no more than its steepest slope, 1.5 of the range.
    later = drift_factor(seed, episode, unit, time + 0.02, scalars)
    assert abs(np.log(later / factor)) <= 1.5 * np.log(worst) * 0.001 + 1e-9


def test_drift_differs_by_unit_seed_and_episode_and_uses_its_range():
    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.DRIFT_PERIOD_S] = 1.0
    scalars[at.DRIFT_LOG : at.DRIFT_LOG + 3] = np.log(4.0)
    times = np.arange(400.0)
    paths = [
        np.array([drift_factor(seed, episode, unit, t, scalars) for t in times])
        for seed, episode, unit in ((1, 0, 0), (1, 0, 1), (1, 0, 2), (2, 0, 0), (1, 1, 0))
    ]
    # At the knots the logarithm is uniform over its range: mean 1/2 with a standard error of 0.014.
    for path in paths:
        levels = np.log(path) / np.log(4.0)
        assert abs(levels.mean() - 0.5) < 0.06
        assert levels.min() < 0.02
        assert levels.max() > 0.98
    correlations = np.corrcoef(np.log(paths)) - np.eye(len(paths))
    assert np.abs(correlations).max() < 0.2
