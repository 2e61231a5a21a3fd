"""Some requests draft while others verify a single token: what that costs, what it yields, and who drafts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.hardware import dram
from papi_env.scenario import parse_scenario
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.drafting import TRIAL, choose_drafters, survey_mixed
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.tables import build_serving_tables, framed
from papi_env.simulation.serving.terms import (
    Attended,
    Decoding,
    Placement,
    PromptChunk,
    Slowdowns,
)
from papi_env.simulation.serving.tokens import note_accepted
from papi_env.workload.serving import SPECULATION_LENGTHS
from tests.simulation.serving.service_books import TALK, always, check_books, check_end, drain, started
from tests.simulation.serving.service_books import scenario as books_scenario

TABLES = {}


def scenario(system="papi", model="llama-65b", **changes):
    serving = {
        "arrivals": {"process": "together"},
        "lengths": {"input": 300, "output": 60},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "requests": 12,
        "max_running": 64,
        "speculation": {"classes": {"code": 0.5, "writing": 0.5}},
        **changes,
    }
    return parse_scenario({"name": "test", "system": system, "model": model, "serving": serving}, "test")


def tables_of(system="papi", model="llama-65b"):
    key = (system, model)
    if key not in TABLES:
        TABLES[key] = build_serving_tables(scenario(system, model))
    return TABLES[key]


def sums(contexts, scalars):
    """The first five fields of `Attended`."""
    attended = np.array(contexts, dtype=np.int64)
    groups = -(-attended // dram.GROUP_TOKENS)
    rows = -(-groups * int(scalars[at.GROUP_COLUMNS]) // dram.COLUMNS_PER_ROW)
    found = attended.sum(), groups.sum(), groups.max(initial=0), rows.sum(), rows.max(initial=0)
    return [int(x) for x in found]


def both(contexts, scalars):
    """All fields of `Attended` of (context with its verified tokens, verified tokens)."""
    window = int(scalars[at.WINDOW])
    near = [min(c, window + t - 1) for c, t in contexts] if window else []
    return [*sums([c for c, _ in contexts], scalars), *sums(near, scalars)]


def decoding_of(contexts, tlp, drafters, scalars):
    """`Decoding` where the first so many draft."""
    tokens = [tlp if i < drafters else 1 for i in range(len(contexts))]
    attended = [(c + t, t) for c, t in zip(contexts, tokens, strict=True)]
    if drafters == 0 or tlp == 1:
        return Decoding(len(contexts), 1, *both(attended, scalars))
    single = len(contexts) - drafters
    theirs = both(attended[:drafters], scalars) if single else [0] * 10
    return Decoding(len(contexts), tlp, *both(attended, scalars), single, Attended(*theirs))


def cost(tables, contexts, tlp, drafters, placement=(at.PU, 0, -1), chunk=(0, 0, 0, 0, 0)):
    busy = np.zeros(at.NUM_RESOURCES)
    decoding = decoding_of(contexts, tlp, drafters, tables.scalars)
    found = iteration(
        decoding,
        PromptChunk(*chunk),
        Placement(*placement),
        Slowdowns(1.0, 1.0, 1.0),
        framed(tables),
        busy,
    )
    assert (busy <= found.seconds * (1 + 1e-12)).all()
    return found


# --- what it costs ---------------------------------------------------------------------------------------


def made_up(tables, home):
    """Tables of round numbers: a second a row, four times as much for a group at TLP 4 as at 1, and so on."""
    scalars = tables.scalars.copy()
    scalars[[at.OVERHEAD_S, at.SWITCH_S, at.DECISION_S, at.DRAFT_CONTEXT_J]] = 0.0
    scalars[at.DRAFT_CONTEXT_S] = 0.5
    scalars[at.ATTENTION_UNIT] = home
    attention, shares = np.zeros_like(tables.attention), np.zeros_like(tables.shares)
    for tlp in (1, 4):
        if home == 0:
            attention[:, tlp, layout.PER_TOKEN_S] = 2.0 * tlp
            attention[:, tlp, layout.PER_TOKEN_J] = 3.0 * tlp
            continue
        attention[:, tlp, layout.PER_GROUP_S] = 10.0 * tlp
        attention[:, tlp, layout.PER_KEY_ROW_S] = 7.0
        attention[:, tlp, layout.UNPAIRED_S] = 1.0 * tlp
        attention[:, tlp, layout.PER_PAIR_S] = 100.0 * tlp
        attention[:, tlp, layout.PER_START_S] = 1000.0 * tlp
        attention[:, tlp, layout.PER_GROUP_J] = 3.0 * tlp
    shares[..., layout.SHARE] = 2.5
    shares[..., layout.SHARE_OF_ONE] = 1.0
    shares[..., layout.PAIRS] = 3.0
    shares[..., layout.UNPAIRED] = 1 / 3
    rows = np.arange(tables.fc_s.shape[1], dtype=np.float64)
    return tables._replace(
        scalars=scalars,
        attention=attention,
        shares=shares,
        fc_s=np.stack([rows, 2.0 * rows]),
        fc_j=0.0 * tables.fc_j,
        link=0.0 * tables.link,
        moves=0.0 * tables.moves,
        draft=np.stack([np.arange(len(tables.draft)) * 1.0, np.arange(len(tables.draft)) * 5.0], axis=1),
        head=tables.head[:0],
    )


def test_a_mixed_batch_on_pim_counted_by_hand():
    """Contexts of 64, 32 and 32 tokens, of which the first verifies four; groups of 16 tokens."""
    tables = made_up(tables_of(), home=2)
    columns = int(tables.scalars[at.GROUP_COLUMNS])
    assert columns * 4 <= dram.COLUMNS_PER_ROW, "expected all of them in one key row"
    found = cost(tables, [60, 31, 31], 4, 1)
    assert found.fc_s == 4 + 1 + 1
    # The first has four groups of 40 s, the others two of 10 s each; the busiest channel has 2.5 times their mean.
    groups = 2.5 * (4 * 40 + 2 * 10 + 2 * 10) / 3
    first_row, other_row = 7 + 4 / 3, 7 + 1 / 3
    key_rows = 2.5 * (first_row + 2 * other_row) / 3
    pairs = 3 * (400 + 100 + 100) / 3
    assert found.attention_s == pytest.approx(groups + key_rows + pairs + 4000)
    # Three drafts of one request, each a second and half a second for each of 64 tokens.
    assert found.draft_s == 3 * (1 + 0.5 * 64)
    assert found.joules == pytest.approx(3 * 5 + 4 * 12 + 4 * 3)
    # One context that is much longer than the mean holds its channel up, whether it drafts or not.
    rows = -(-64 * columns // dram.COLUMNS_PER_ROW)
    found = cost(tables, [12, 1023, 1], 4, 1)
    key_rows = max(rows * other_row, 2.5 * (first_row + (rows + 1) * other_row) / 3)
    assert found.attention_s == pytest.approx(64 * 10 + key_rows + pairs + 4000)
    found = cost(tables, [1020, 12, 1], 4, 1)
    key_rows = max(rows * first_row, 2.5 * (rows * first_row + 2 * other_row) / 3)
    assert found.attention_s == pytest.approx(64 * 40 + key_rows + pairs + 4000)


def test_a_mixed_batch_on_gpus_counted_by_hand():
    tables = made_up(tables_of(), home=0)
    found = cost(tables, [60, 31, 31], 4, 1)
    assert found.attention_s == pytest.approx(64 * 8 + 64 * 2)
    assert found.joules == pytest.approx(3 * 5 + 64 * 12 + 64 * 3)


def test_half_batches_take_half_of_both():
    """Of five requests with two that draft, the first half has three with one."""
    tables = made_up(tables_of(), home=2)
    found = cost(tables, [60] * 2 + [31] * 3, 4, 2, (at.PU, 1, -1))
    assert (found.ran.first, found.ran.first_pu) == (3, 4 + 1 + 1)
    assert (found.ran.second, found.ran.second_pu) == (2, 4 + 1)
    # Attention of either has the mean work of all.
    groups = 2.5 * (2 * 4 * 40 + 3 * 2 * 10) / 5
    key_rows = 2.5 * (2 * (7 + 4 / 3) + 3 * (7 + 1 / 3)) / 5
    pairs = 3 * (2 * 400 + 3 * 100) / 5
    assert found.attention_s == pytest.approx(2 * (groups + key_rows + pairs + 4000))


SYSTEMS = [
    "papi",
    "papi-h100",
    "papi-1gpu",
    "a100-attacc",
    "a100-hbm-pim",
    "a100",
    "papi-pim-only",
    "attacc-only",
]


@st.composite
def batches(draw):
    system = draw(st.sampled_from(SYSTEMS))
    model = "opt-30b" if system == "papi-1gpu" else draw(st.sampled_from(["llama-65b", "llama2-70b"]))
    units = [at.PU] if system.startswith("a100") else [at.PU, at.FC_PIM, at.SPLIT]
    units = [at.FC_PIM] if system.endswith("only") else units
    contexts = draw(st.lists(st.integers(1, 2000), min_size=1, max_size=40))
    chunk = draw(st.sampled_from([(0, 0, 0, 0, 0), (64, 64 * 65 // 2, 64, 1, 1)]))
    placement = draw(st.sampled_from(units)), draw(st.integers(0, 1)), -1
    return system, model, contexts, draw(st.sampled_from(SPECULATION_LENGTHS[1:])), placement, chunk


@settings(max_examples=120, deadline=None)
@given(batches())
def test_a_mixed_batch_costs_more_the_more_requests_draft(drawn):
    system, model, contexts, tlp, placement, chunk = drawn
    tables = tables_of(system, model)
    found = [cost(tables, contexts, tlp, d, placement, chunk) for d in range(len(contexts) + 1)]
    # More rows may be split otherwise, so that their kernels take fewer joules.
    names = ("seconds", "attention_s", "draft_s", *(() if placement[0] == at.SPLIT else ("joules",)))
    for name in names:
        values = np.array([getattr(x, name) for x in found])
        assert (np.diff(values) >= -1e-12 * values[1:]).all(), (name, values)


@pytest.mark.parametrize("system", ["papi", "a100", "papi-pim-only"])
def test_requests_that_differ_in_nothing_cost_what_they_cost_alike(system):
    """With the same coefficients for one token as for four, two groups of requests cost what all cost together."""
    tables = tables_of(system)
    attention, shares = tables.attention.copy(), tables.shares.copy()
    attention[:, 1], shares[:, 1] = attention[:, 4], shares[:, 4]
    tables = tables._replace(attention=attention, shares=shares)
    unit = at.FC_PIM if system == "papi-pim-only" else at.PU
    contexts = [160 * k + 3 for k in range(1, 10)]
    mixed = [
        cost(tables, [c + (0 if i < d else 3) for i, c in enumerate(contexts)], 4, d, (unit, 0, -1))
        for d in (1, 4, 9)
    ]
    for found in mixed:
        assert found.attention_s == pytest.approx(mixed[-1].attention_s, rel=1e-12)


# --- who is counted --------------------------------------------------------------------------------------


def engine_of(kinds, **changes):
    """An engine with requests of the kinds that decode, UNDRAFTED still to be set."""
    engine = ServingEngine(scenario(requests=len(kinds), **changes))
    engine.start([0])
    rng = np.random.default_rng(3)
    count = len(kinds)
    engine.counters[0, at.RLP] = count
    engine.counters[0, at.ITERATION] = 1
    engine.state.contexts[0, :count] = rng.integers(1, 1500, count)
    engine.state.classes[0, :count] = kinds
    return engine


@pytest.mark.parametrize("windows", [None, {"tokens": 256}])
def test_survey_counts_each_request_with_its_own_tokens(windows):
    model = "llama-65b" if windows is None else {"base": "llama-3.1-8b", "windows": windows}
    engine = engine_of([0, 1, 1, 0, 1], model=model)
    scalars, contexts = engine.tables.scalars, engine.state.contexts[0, :5]
    engine.counters[0, at.UNDRAFTED] = 0b10
    found, pages = survey_mixed(0, 4, engine.state, scalars)
    order = [0, 3, 1, 2, 4]
    assert found == decoding_of(contexts[order], 4, 2, scalars)
    verified = np.array([4, 1, 1, 4, 1])
    assert pages == (-(-(contexts + verified) // 16)).sum()
    engine.counters[0, at.UNDRAFTED] = 0b100
    assert survey_mixed(0, 4, engine.state, scalars)[0][:-1] == decoding_of(contexts, 4, 5, scalars)[:-1]
    engine.counters[0, at.UNDRAFTED] = 0b11
    assert survey_mixed(0, 4, engine.state, scalars)[0][:-1] == decoding_of(contexts, 4, 0, scalars)[:-1]


# --- what it yields --------------------------------------------------------------------------------------


def play(engine, spec, undrafted, steps=1000, overlap=0):
    """To the end of the episode, or so many steps; the records."""
    engine.start([5])
    while not engine.counters[0, at.DONE] and engine.counters[0, at.ITERATION] < steps:
        engine.counters[0, at.UNDRAFTED] = undrafted
        engine.actions[0] = (at.PU, spec, at.ALL, overlap)
        engine.step()
    return engine.records(0)


def test_where_no_kind_drafts_all_is_as_without_speculation():
    engine, plain = ServingEngine(scenario()), ServingEngine(scenario())
    records, expected = play(engine, 2, 0b11), play(plain, 0, 0)
    for name, values in expected.items():
        np.testing.assert_array_equal(records[name], values)
    np.testing.assert_array_equal(engine.clocks, plain.clocks)
    assert engine.counters[0, at.DRAFTED] == 0


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"token_budget": 512}, {"prefill": False}])
def test_only_those_that_draft_gain_more_than_a_token(changes, overlap):
    engine = ServingEngine(scenario(**changes))
    records = play(engine, 2, 0b10, overlap=overlap)
    kinds = records["class"]
    assert set(kinds) == {0, 1}
    assert (records["generated"] == 60).all()
    # 60 tokens, the first with the prompt, one an iteration; the others have theirs sooner.
    spent = records["finish_s"] - records["first_token_s"]
    assert spent[kinds == 0].max() < spent[kinds == 1].min()
    counters, clocks = engine.counters[0], engine.clocks[0]
    assert 0 < counters[at.ACCEPTED] < counters[at.DRAFTED]
    joules = clocks[at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum()
    assert joules == pytest.approx(clocks[at.DYNAMIC_J], rel=1e-12)


def test_moving_averages_are_of_those_that_draft():
    engine = ServingEngine(scenario(prefill=False))
    play(engine, 2, 0b10, steps=1)
    kinds = engine.state.classes[0, : engine.counters[0, at.RLP]]
    gained = engine.state.contexts[0, : len(kinds)] - 300
    assert (gained[kinds == 1] == 1).all()
    assert engine.counters[0, at.LAST_N] == (np.where(kinds == 0, 4, 1)).sum()
    assert engine.counters[0, at.DRAFTED] == 3 * (kinds == 0).sum()
    assert engine.clocks[0, at.SEEN_TOKENS] == 1.0
    assert engine.clocks[0, at.SEEN_TOKENS + 2] == pytest.approx(gained[kinds == 0].mean())
    assert engine.clocks[0, at.SEEN_ACCEPTED] == pytest.approx((gained[kinds == 0] - 1).mean() / 3)


def test_drafts_pass_or_not_whoever_else_drafts():
    """Draws belong to requests and positions: the first tokens of those that draft are what they are if all do."""
    found = []
    for undrafted in (0, 0b10):
        engine = ServingEngine(scenario(prefill=False))
        play(engine, 2, undrafted, steps=1)
        kinds = engine.state.classes[0, : engine.counters[0, at.RLP]]
        found.append(engine.state.contexts[0, : len(kinds)][kinds == 0])
    np.testing.assert_array_equal(*found)


# --- who drafts ------------------------------------------------------------------------------------------


def kinds_table(classes):
    table = np.zeros((len(classes), at.NUM_KIND))
    table[:, at.OF_CLASS] = classes
    return table


@pytest.mark.parametrize(
    ("accepted", "kinds", "expected"),
    [
        ([0.8, 0.4], [0, 1], {0}),
        # The mean is of requests: 0.5 and 0.8.
        ([0.8, 0.4, 0.7], [0, 1, 1, 1, 2], {0, 2}),
        ([0.8, 0.4, 0.7], [0, 0, 0, 1, 2], {0}),
        # Those of one class are their own mean, to the last bit.
        ([0.1, 0.0], [0] * 7, {0, 1}),
        ([0.1, 0.1], [0, 1, 1], {0, 1}),
        # Never tried.
        ([0.8, 0.0], [0, 1, 1], {0, 1}),
        ([0.0, 0.0], [0, 1], {0, 1}),
    ],
)
def test_classes_draft_whose_drafts_are_accepted_no_less_than_on_average(accepted, kinds, expected):
    engine = engine_of(kinds)
    engine.clocks[0, at.CLASS_ACCEPTED : at.CLASS_ACCEPTED + len(accepted)] = accepted
    table = kinds_table(range(len(accepted)))
    choose_drafters(0, at.DRAFT_ACCEPTED, engine.state, table)
    undrafted = engine.counters[0, at.UNDRAFTED]
    assert {k for k in range(len(accepted)) if not undrafted >> k & 1} == expected
    for choice, number in ((at.DRAFT_ALL, 1), (at.DRAFT_ACCEPTED, 2 * TRIAL)):
        engine.counters[0, at.UNDRAFTED], engine.counters[0, at.ITERATION] = -1, number
        choose_drafters(0, choice, engine.state, table)
        assert engine.counters[0, at.UNDRAFTED] == 0


def test_all_kinds_of_a_class_draft_or_none():
    """As many kinds as there may be, 4 classes with 16 acceptances each."""
    table = kinds_table(np.arange(64) // 16)
    engine = engine_of(list(range(0, 64, 8)))
    engine.clocks[0, at.CLASS_ACCEPTED : at.CLASS_ACCEPTED + 4] = [0.2, 0.9, 0.8, 0.1]
    choose_drafters(0, at.DRAFT_ACCEPTED, engine.state, table)
    found = survey_mixed(0, 4, engine.state, engine.tables.scalars)[0]
    bits = np.array([engine.counters[0, at.UNDRAFTED] >> k & 1 for k in range(64)])
    np.testing.assert_array_equal(bits, np.repeat([1, 0, 0, 1], 16))
    assert (found.rlp, found.single) == (8, 4)


def test_what_is_accepted_is_kept_by_class():
    engine = engine_of([0, 1, 2, 2, 1])
    table = kinds_table([0, 1, 1])
    engine.counters[0, at.UNDRAFTED] = 0b1
    gains = np.array([1, 4, 1, 3, 2])
    scalars = engine.tables.scalars.copy()
    scalars[at.NUM_CLASSES] = 2
    note_accepted(0, 3, engine.state, gains, table, scalars)
    seen = engine.clocks[0, at.CLASS_ACCEPTED : at.CLASS_ACCEPTED + 4]
    np.testing.assert_allclose(seen, [0, 6 / 12, 0, 0])
    note_accepted(0, 3, engine.state, np.array([1, 4, 4, 4, 4]), table, scalars)
    np.testing.assert_allclose(seen, [0, 0.5 + 0.5 / 16, 0, 0])


# --- in the engine ---------------------------------------------------------------------------------------

APART = {
    "good": {"acceptance": {"maths": 1.0}, "objectives": {"ttft_s": 1.0, "tpot_s": 0.05}},
    "poor": {"acceptance": {"tools": 1.0}, "conversation": TALK, "shared_prefix": 100},
}


def test_an_engine_drafts_for_classes_whose_drafts_are_accepted():
    """From when both have been tried on, the poor one drafts only where nobody else decodes."""
    engine = started(books_scenario(APART))
    state, seen, mixed = engine.state, [], []

    def watch(engine):
        check_books(engine, 0)
        accepted = engine.clocks[0, at.CLASS_ACCEPTED : at.CLASS_ACCEPTED + 2]
        assert (accepted <= 1).all()
        seen.append(accepted.copy())
        kinds = set(state.classes[0, : engine.counters[0, at.RLP]])
        mixed.append((engine.counters[0, at.UNDRAFTED], kinds, engine.counters[0, at.LAST_N]))

    drain(engine, always(SPECULATION=2, DRAFTED_FOR=at.DRAFT_ACCEPTED), watch)
    check_end(engine, 0)
    undrafted = [int(u) for u, _, _ in mixed]
    assert set(undrafted) <= {0b00, 0b01, 0b10}
    assert undrafted.count(0b10) > len(undrafted) / 4
    # Averages of a class move only when it drafts.
    for before, after, u in zip(seen, seen[1:], undrafted[1:], strict=False):
        for number in range(2):
            if u >> number & 1:
                assert before[number] == after[number]
    joules = engine.clocks[0, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum()
    assert joules == pytest.approx(engine.clocks[0, at.DYNAMIC_J], rel=1e-12)
    everybody = drain(started(books_scenario(APART)), always(SPECULATION=2))
    share, plain = (x.counters[0, at.ACCEPTED] / x.counters[0, at.DRAFTED] for x in (engine, everybody))
    assert share > plain
    assert engine.counters[0, at.DRAFTED] < everybody.counters[0, at.DRAFTED]


def test_with_one_class_all_of_it_drafts():
    found = [
        drain(started(books_scenario({"one": {}})), always(SPECULATION=2, DRAFTED_FOR=choice))
        for choice in (at.DRAFT_ALL, at.DRAFT_ACCEPTED)
    ]
    np.testing.assert_array_equal(found[0].clocks, found[1].clocks)
    assert found[0].counters[0, at.ACCEPTED] == found[1].counters[0, at.ACCEPTED] > 0
