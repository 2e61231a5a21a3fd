"""With classes of requests nothing is lost, whatever is chosen, and one plain class is Serving-v0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.service_tables import (
    BEFORE,
    CELL_BITS,
    EDGE_S,
    FIRST_OCTAVE,
    FROM,
    GRID,
    LAST_OCTAVE,
    STEPS_PER_OCTAVE,
    expected_returns,
)
from papi_env.simulation.serving.tables import build_serving_tables
from tests.simulation.serving.service_books import (
    CLASSES,
    TALK,
    always,
    at_random,
    check_books,
    check_end,
    drain,
    live,
    scenario,
    started,
)

PLAIN = (
    ("saturated/llama-65b", {}),
    ("bursty/gpt3-175b", {"horizon_s": 4.0}),
    ("long-context/llama-65b", {"horizon_s": 20.0, "kv_tokens": 40_000}),
    ("short-context/llama-65b", {"requests": 60, "max_running": 8}),
    ("energy-priced/llama2-70b", {"horizon_s": 5.0}),
    ("drifting/llama-65b", {"horizon_s": 5.0, "drift": {"period_s": 0.5, "pu": 2.0, "fc_pim": 1.5}}),
    ("saturated/llama-65b", {"arrivals": {"process": "together"}, "requests": 40}),
    ("saturated/llama-65b", {"requests": 40, "prefill": False}),
)


def test_classes_that_ask_for_the_same_lengths_share_their_rows():
    asked = get_scenario("overload/llama-65b")
    tables = build_serving_tables(asked)
    rows = {}
    for row, (first, count, later, later_count) in zip(tables.kinds, tables.spans, strict=True):
        assert (later, later_count) == (first, count)  # no class has conversations
        rows[int(row[at.OF_CLASS])] = tables.service_lengths[first : first + count]
    names = list(asked.serving.service.classes)
    own, standard, batch = (rows[names.index(name)] for name in ("interactive", "standard", "batch"))
    assert np.shares_memory(standard, batch)
    assert not np.shares_memory(own, standard)
    assert len(tables.service_lengths) == len(own) + len(standard)
    for name, found in zip(names, rows.values(), strict=True):
        population = asked.serving.service.classes[name].lengths.population(2048, "refuse")
        np.testing.assert_array_equal(found, population.lengths)


def test_what_was_chosen_is_seen_and_of_a_reference_nothing():
    engine = started(get_scenario("overload/llama-65b"))
    engine.allow(at.ORDER, at.BY_TRUE_WORK)
    chosen = {"order": "deadline", "shedding": "late", "victim": "most-slack", "drafted-for": "accepted"}
    choices = dict(zip(at.SERVICE_CHOICE_NAMES, at.SERVICE_CHOICES, strict=True))
    before = engine.observations[0].copy()
    for k, (name, options) in enumerate(choices.items()):
        engine.actions[0, at.ORDER + k] = options.index(chosen.get(name, options[0]))

    def seen():
        found = dict(zip(at.OBSERVATION_NAMES_V1, engine.observations[0], strict=True))
        return {
            name: value
            for name, value in found.items()
            if name.startswith(tuple(f"last_{c}_" for c in choices))
        }

    engine.step()
    assert seen() == {
        f"last_{name}_{option}": option == chosen.get(name, options[0])
        for name, options in choices.items()
        for option in options
    }
    engine.actions[0, at.ORDER] = at.BY_TRUE_WORK
    engine.step()
    assert [name for name, value in seen().items() if value and name.startswith("last_order")] == []
    assert sum(seen().values()) == len(choices) - 1
    # Before the first step none was chosen yet.
    assert not before[at.COLUMN.last_fc_pu : at.COLUMN.last_fc_pu + sum(at.NVEC)].any()


@pytest.mark.parametrize(("preset", "serving"), PLAIN)
def test_one_plain_class_is_serving_v0_bit_for_bit(preset, serving):
    plain = get_scenario(preset).replace(serving=serving)
    both = [started(plain, (0, 3)), started(plain.replace(serving={"service": {"drain": False}}), (0, 3))]
    rng = np.random.default_rng(5)
    state = slice(0, at.NUM_STATE_FEATURES)
    for _ in range(5000):
        actions = rng.integers(0, at.NVEC, (2, 4))
        for engine in both:
            engine.actions[:] = 0
            engine.actions[:, :4] = actions
            engine.step()
        old, new = both
        np.testing.assert_array_equal(old.rewards, new.rewards)
        np.testing.assert_array_equal(old.observations[:, state], new.observations[:, state])
        np.testing.assert_array_equal(old.terminated, new.terminated)
        np.testing.assert_array_equal(old.truncated, new.truncated)
        if (old.counters[:, at.DONE] == 1).all():
            break
    else:
        raise AssertionError("the episodes did not end")
    np.testing.assert_array_equal(old.counters[:, at.PREEMPTIONS], new.counters[:, at.PREEMPTIONS])
    np.testing.assert_array_equal(old.clocks[:, at.TIME_S], new.clocks[:, at.TIME_S])
    np.testing.assert_array_equal(old.counters[:, at.GOOD_TOKENS], new.clocks[:, at.SERVED])


@st.composite
def services(draw):
    """Classes of all kinds, in a memory that is at times too small for them."""
    classes = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)):
        entry = {
            "share": draw(st.sampled_from((0.3, 1.0))),
            "weight": draw(st.sampled_from((0.5, 1.0, 3.0))),
            "shared_prefix": draw(st.sampled_from((0, 7, 160, 333))),
        }
        if draw(st.booleans()):
            entry["conversation"] = TALK | {"think_sigma": draw(st.sampled_from((0.0, 1.0)))}
        if draw(st.booleans()):
            entry["patience_s"] = draw(st.sampled_from(((0.2, 0.4), (1.0, 5.0))))
        if draw(st.booleans()):
            entry["objectives"] = {"ttft_s": draw(st.sampled_from((0.1, 1.0))), "tpot_s": 0.02}
        classes[name] = entry
    service = {
        "charge": draw(st.sampled_from((0.0, 0.5))),
        "worth": draw(st.sampled_from(("tokens", "requests"))),
        "max_waiting": draw(st.sampled_from((2, 512))),
        "max_open": draw(st.sampled_from((3, 512))),
    }
    memory = {"kv_tokens": draw(st.sampled_from((1200, 6000, 100_000))), "horizon_s": 1.5}
    return scenario(classes, service=service, **memory), draw(st.integers(0, 99)), draw(st.booleans())


@settings(max_examples=25)
@given(services())
def test_books_balance_after_every_iteration(case):
    played, seed, admit = case

    def watch(engine):
        for e in range(engine.num_envs):
            check_books(engine, e)

    engine = started(played, (seed, seed + 1))
    drain(engine, at_random(seed, admit), watch)
    for e in range(2):
        check_end(engine, e)
    utilisation = engine.clocks[:, at.BUSY_S : at.BUSY_S + at.NUM_RESOURCES] / engine.clocks[:, [at.TIME_S]]
    assert (utilisation <= 1 + 1e-12).all()


def test_records_single_environments_and_threads_change_nothing():
    played = scenario(kv_tokens=4000)
    engines = [started(played, (1, 2, 3)), started(played, (1, 2, 3), records=True)]
    engines.append(started(played, (1, 2, 3), threads=2))
    alone = started(played, (2,))
    choose = at_random(8)
    while not (engines[0].counters[:, at.DONE] == 1).all():
        actions = choose(engines[0])
        for engine in engines:
            engine.actions[:] = actions
            engine.step()
        alone.actions[:] = actions[1:2]
        alone.step()
        for engine in engines[1:]:
            np.testing.assert_array_equal(engine.rewards, engines[0].rewards)
            np.testing.assert_array_equal(engine.observations, engines[0].observations)
        np.testing.assert_array_equal(alone.observations[0], engines[0].observations[1])
    assert engines[0].counters[:, at.EVICTIONS].any()
    assert engines[0].counters[:, at.PREEMPTIONS].any()


def test_policies_meet_the_same_sessions():
    """What is offered depends on nothing that was chosen."""
    played = scenario(kv_tokens=6000)
    offered = []
    for seed in range(3):
        engine = drain(started(played, (4, 5)), at_random(seed))
        offered.append(engine.clocks[:, at.OFFERED].tolist())
    assert offered[0] == offered[1] == offered[2]
    assert offered[0][0] != offered[0][1]


def test_live_state_is_small_however_long_the_episode():
    service = {"max_waiting": 512, "max_open": 512}
    short, long = (
        ServingEngine(scenario(service=service, horizon_s=horizon_s, max_running=256))
        for horizon_s in (2.0, 20_000.0)
    )
    assert short.state_bytes_per_env == long.state_bytes_per_env <= 96 * 1024


def test_records_are_kept_where_they_are_asked_for():
    with pytest.raises(ConfigurationError, match="records=True"):
        started(scenario()).records(0)


def tokens_to_process(engine, e, request):
    """Prompt tokens of a waiting request that nothing kept has."""
    state = engine.state
    place = state.more[e, request, at.PLACE]
    kind = state.facts[e, request, at.CLASS]
    whole = int(state.facts[e, request, at.INPUT] + state.facts[e, request, at.GENERATED])
    number = int(engine.tables.kinds[kind, at.OF_CLASS])
    found = 0
    if place >= 0 and state.places[e, at.PAGES, place] > 0:
        found = int(state.places[e, at.TOLD, place])
    elif state.prefixes[e, number, at.PREFIX_PAGES] > 0:
        found = int(engine.tables.kinds[kind, at.SHARED]) * engine.scenario.serving.page_tokens
    return whole - min(found, whole - 1)


def wanted(engine, e, request, order):
    """What an order sorts a waiting request by."""
    state, scalars = engine.state, engine.tables.scalars
    row = engine.tables.kinds[state.facts[e, request, at.CLASS]]
    tokens = tokens_to_process(engine, e, request)
    work = tokens * scalars[at.PROMPT_TOKEN_S] + row[at.MEAN_OUTPUT] * scalars[at.DECODE_TOKEN_S]
    arrival = state.moments[e, request, at.ARRIVAL_S]
    worth = row[at.WEIGHT] * row[at.MEAN_OUTPUT]
    output = float(state.facts[e, request, at.OUTPUT])
    true_worth = row[at.WEIGHT] * output
    true_work = tokens * scalars[at.PROMPT_TOKEN_S] + output * scalars[at.DECODE_TOKEN_S]
    space = output * (state.facts[e, request, at.INPUT] + output / 2.0)
    found = {
        at.BY_ARRIVAL: arrival,
        at.BY_DEADLINE: arrival + row[at.KIND_TTFT_S],
        at.BY_PROMPT: tokens,
        at.BY_WORK: work,
        at.BY_WEIGHT: -worth / work,
        at.BY_TRUE_WORK: -true_worth / true_work,
        at.BY_TRUE_SPACE: -true_worth / space,
    }
    return found[order]


@pytest.mark.parametrize("order", [*range(5), at.BY_TRUE_WORK, at.BY_TRUE_SPACE])
def test_the_next_in_order_is_admitted(order):
    """One request an iteration is admitted, while others wait."""
    lengths = {"table": "azure-conversation"}
    played = scenario({**CLASSES, "plain": {}}, horizon_s=3.0, lengths=lengths, max_running=6)
    engine = started(played, (order,))
    engine.allow(at.ORDER, order)
    others = []

    def choose(engine):
        _, _, waiting, preempted = live(engine, 0)
        others.append((waiting, [wanted(engine, 0, r, order) for r in waiting], preempted))
        return always(ORDER=order, ADMISSION=at.ONE, KEEPING=at.KEEP_ALL)(engine)

    def watch(engine):
        waiting, keys, preempted = others[-1]
        decoding, prefilling, _, _ = live(engine, 0)
        if waiting and not preempted and engine.counters[0, at.RLP] + engine.counters[0, at.PREFILLING] < 6:
            admitted = set(waiting) & (set(prefilling) | set(decoding))
            if admitted:
                assert min(keys) == keys[waiting.index(admitted.pop())]

    drain(engine, choose, watch)
    assert max(len(waiting) for waiting, _, _ in others) > 4


def test_only_the_hopeless_are_shed():
    engine = started(scenario(max_running=4, horizon_s=3.0), (0, 1), records=True)
    seen = {}

    def choose(engine):
        for e in range(2):
            now, backlog = engine.clocks[e, at.TIME_S], engine.counters[e, at.PREFILL_BACKLOG]
            seen[e] = {}
            for request in live(engine, e)[2]:
                row = engine.tables.kinds[engine.state.facts[e, request, at.CLASS]]
                fastest = backlog + tokens_to_process(engine, e, request)
                fastest = now + fastest * engine.tables.scalars[at.PROMPT_TOKEN_S]
                due = engine.state.moments[e, request, at.ARRIVAL_S] + row[at.KIND_TTFT_S]
                seen[e][request] = fastest > due
        return always(SHEDDING=at.SHED_LATE)(engine)

    def watch(engine):
        for e in range(2):
            for request, hopeless in seen[e].items():
                assert (engine.state.facts[e, request, at.STATUS] == at.DROPPED) == hopeless

    drain(engine, choose, watch)
    assert engine.counters[:, at.SHED].all()


def test_the_lightest_class_is_shed_while_others_wait():
    classes = {"heavy": {"weight": 5.0}, "light": {"weight": 0.1}}
    engine = started(scenario(classes, max_running=4, horizon_s=3.0), (0, 1), records=True)
    drain(engine, always(SHEDDING=at.SHED_CLASS))
    for e in range(2):
        records = engine.records(e)
        dropped = records["status"] == at.DROPPED
        late = records["finish_s"] - records["arrival_s"] > 2.0
        assert dropped.any()
        assert (records["class"][dropped & ~late] == 1).all()


def test_senders_leave_when_their_patience_is_over():
    classes = {"short": {"patience_s": (0.5, 1.0)}, "endless": {}}
    engine = started(scenario(classes, max_running=2, horizon_s=3.0), (0, 1), records=True)
    drain(engine, always())
    for e in range(2):
        records = engine.records(e)
        left = records["status"] == at.LEFT
        assert left.sum() == engine.counters[e, at.ABANDONED] > 0
        assert (records["class"][left] == 0).all()
        waited = records["finish_s"] - records["arrival_s"]
        # They are seen to leave at the end of an iteration.
        assert (waited[left] >= 0.5).all()
        assert np.isnan(records["admitted_s"][left]).all()
        early = ~np.isnan(records["admitted_s"]) & (records["class"] == 0)
        assert (records["admitted_s"] - records["arrival_s"])[early].max() < 1.2


@pytest.mark.parametrize("victim", range(3))
def test_the_victim_is_the_chosen_one(victim):
    classes = {"fast": {"objectives": {"ttft_s": 0.4, "tpot_s": 0.01}}, "slow": {}}
    played = scenario(
        classes, kv_tokens=3000, horizon_s=4.0, lengths={"input": 100, "output": 300}, max_running=16
    )
    engine = started(played, (victim,))
    hit = 0

    def watch(engine):
        nonlocal hit
        hit += preempted_right(before, engine, victim)

    while not engine.counters[0, at.DONE]:
        before = engine.clone()
        engine.actions[:] = always(VICTIM=victim)(engine)
        engine.step()
        watch(engine)
    assert hit > 0


def preempted_right(before, after, victim):
    """Whether one request was preempted; that it was the right one among those who decoded and were alone to choose."""
    counters = before.counters[0]
    decoding, prefilling, _, _ = live(before, 0)
    one = after.counters[0, at.PREEMPTIONS] - counters[at.PREEMPTIONS] == 1
    if not one or prefilling or after.counters[0, at.PREFILLING]:
        return 0
    state = before.state
    progress = {r: int(state.facts[0, r, at.OUTPUT] - state.left[0, i]) for i, r in enumerate(decoding)}
    slack = {r: float(state.deadlines[0, i]) for i, r in enumerate(decoding)}
    slack = {r: np.inf if s == -np.inf else s for r, s in slack.items()}
    ranks = {r: int(state.more[0, r, at.RANK]) for r in decoding}
    lost = [r for r in decoding if r in live(after, 0)[3]]
    if len(lost) != 1:
        return 0
    chosen = lost[0]
    if victim == at.VICTIM_LATEST:
        assert ranks[chosen] == max(ranks.values())
    elif victim == at.VICTIM_PROGRESS:
        assert progress[chosen] == min(progress.values())
    else:
        assert slack[chosen] == max(slack.values())
    return 1


def test_a_turn_that_comes_back_processes_what_is_new():
    """With memory for all, each turn but the first finds its whole context, and none without keeping."""
    classes = {"chat": {"conversation": TALK}}
    prefilled = {}
    for keeping in (at.KEEP_NONE, at.KEEP_ALL):
        engine = drain(started(scenario(classes, horizon_s=2.0), records=True), always(KEEPING=keeping))
        records = engine.records(0)
        assert (records["status"] != at.REFUSED).all()
        later = records["turn"] > 0
        assert later.any()
        new = np.where(later, 40, 200)
        if keeping == at.KEEP_ALL:
            np.testing.assert_array_equal(records["input"] - records["kept"], new)
        else:
            assert (records["kept"] == 0).all()
        prefilled[keeping] = engine.counters[0, at.PREFILLED]
        assert prefilled[keeping] == (records["input"] - records["kept"]).sum()
    assert prefilled[at.KEEP_ALL] < prefilled[at.KEEP_NONE]


def test_contexts_grow_turn_by_turn():
    classes = {"chat": {"conversation": TALK}}
    engine = drain(started(scenario(classes, horizon_s=2.0), records=True), always())
    records = engine.records(0)
    for session in np.unique(records["session"]):
        own = records["session"] == session
        assert records["turn"][own].tolist() == list(range(own.sum()))
        context = (records["input"] + records["output"])[own]
        np.testing.assert_array_equal(records["input"][own][1:], context[:-1] + 40)
        assert (records["arrival_s"][own][1:] > records["finish_s"][own][:-1]).all()


def test_a_shared_prefix_is_computed_and_held_once():
    classes = {"tools": {"shared_prefix": 320}}
    engine = started(scenario(classes, horizon_s=2.0), records=True)
    drain(engine, always())
    records = engine.records(0)
    assert (records["input"] == 520).all()
    # All but the first find the prefix, until it was given up for lack of users and room; there is room.
    assert (np.sort(records["kept"])[1:] == 320).all()
    assert records["kept"][0] == 0


def unwanted(engine, eviction):
    """By place, how much speaks for evicting what it keeps."""
    places, place_s = engine.state.places[0], engine.state.place_s[0]
    here = np.isinf(place_s[at.RETURN_S]) & (places[at.NEXT_TURN] < places[at.TURNS])
    if eviction == at.EVICT_LRU:
        return -place_s[at.DONE_S]
    if eviction == at.EVICT_TRUE_RETURN:
        return np.where(here, -np.inf, place_s[at.RETURN_S])
    passed = np.maximum(engine.clocks[0, at.TIME_S] - place_s[at.DONE_S], 1e-9)
    kinds = places[at.KIND]
    octave = np.log2(passed) - engine.tables.kinds[kinds, at.THINK_MU] / np.log(2.0)
    step = np.rint((octave - FIRST_OCTAVE) * STEPS_PER_OCTAVE).clip(0, GRID - 1).astype(int)
    known = [
        expected_returns(np.exp(row[at.THINK_MU]), row[at.THINK_SIGMA], row[at.GOES_ON])
        for row in engine.tables.kinds
    ]
    return np.where(here, 0.0, np.stack(known)[kinds, step])


def test_returns_are_found_by_bits_as_by_logarithms():
    """Of times from far before the first step to far behind the last one, and right beside where steps end."""
    talk = TALK | {"think_s": 0.37, "think_sigma": 1.1}
    engine = started(scenario({"one": {}, "two": {"conversation": talk}}))
    row = engine.tables.kinds[-1]
    steps = expected_returns(0.37, 1.1, row[at.GOES_ON])
    octaves = np.concatenate(
        [np.random.default_rng(0).uniform(FIRST_OCTAVE - 4, LAST_OCTAVE + 4, 20_000)]
        + [
            FIRST_OCTAVE + (np.arange(-3, GRID + 3) + 0.5) / STEPS_PER_OCTAVE + beside
            for beside in (-1e-9, 1e-9)
        ]
    )
    passed = 0.37 * 2.0**octaves
    cells = engine.tables.returning[-1]
    cell = ((passed.view(np.int64) >> CELL_BITS) - int(row[at.RETURN_CELL])).clip(0, len(cells) - 1)
    found = np.where(passed >= cells[cell, EDGE_S], cells[cell, FROM], cells[cell, BEFORE])
    step = np.rint((octaves - FIRST_OCTAVE) * STEPS_PER_OCTAVE).clip(0, GRID - 1).astype(int)
    np.testing.assert_array_equal(found, steps[step])
    assert len(np.unique(step)) == GRID


@pytest.mark.parametrize("eviction", [at.EVICT_LRU, at.EVICT_RETURN, at.EVICT_TRUE_RETURN])
def test_the_least_wanted_pages_are_evicted(eviction):
    """Where one conversation's pages were evicted, none that was left would have been evicted before it."""
    classes = {
        "quick": {"conversation": TALK | {"think_s": 0.2}},
        "slow": {"conversation": TALK | {"think_s": 20.0}},
    }
    engine = started(scenario(classes, horizon_s=5.0, kv_tokens=4000, max_running=4), (1,))
    seen = 0
    while not engine.counters[0, at.DONE]:
        kept = engine.state.places[0, at.PAGES] > 0
        values = unwanted(engine, eviction)
        before = engine.counters[0, at.EVICTIONS]
        engine.actions[:] = always(KEEPING=at.KEEP_ALL, ADMISSION=at.ONE)(engine)
        engine.actions[0, at.EVICTION] = eviction
        # The reference's choice is none of the options that anybody may take.
        engine.advance()
        decoding, prefilling, waiting, preempted = live(engine, 0)
        holding = [
            int(engine.state.more[0, r, at.PLACE]) for r in decoding + prefilling + waiting + preempted
        ]
        kept[[place for place in holding if place >= 0]] = False
        gone = kept & (engine.state.places[0, at.PAGES] == 0)
        if engine.counters[0, at.EVICTIONS] - before == 1 and gone.sum() == 1 and kept.sum() > 1:
            assert values[gone][0] == values[kept].max()
            seen += 1
    assert seen > 3


def test_by_chunk_nobody_is_admitted_beyond_a_full_chunk():
    """Who would only wait on stays in the queue."""
    backlogs = {}
    for pacing in (at.AT_ONCE, at.BY_CHUNK):
        engine = started(scenario({"one": {}}, arrivals={"process": "together"}, requests=24, horizon_s=None))
        engine.actions[:] = always(PACING=pacing)(engine)
        engine.step()
        backlogs[pacing] = int(engine.counters[0, at.PREFILLED] + engine.counters[0, at.PREFILL_BACKLOG])
    chunk = engine.tables.scalars[at.CHUNK]
    # The last one admitted began below the chunk's end; prompts have 200 tokens.
    assert chunk <= backlogs[at.BY_CHUNK] < chunk + 200
    assert backlogs[at.AT_ONCE] == 24 * 200


def test_a_trace_is_replayed_session_by_session(tmp_path):
    """Its rows come with their own lengths and times, as without classes, and classes are drawn beside them."""
    rng = np.random.default_rng(3)
    file = tmp_path / "trace.csv"
    times = np.cumsum(rng.exponential(0.05, 200))
    rows = [f"{t:.4f},{rng.integers(20, 300)},{rng.integers(1, 40)}" for t in times]
    file.write_text("time,input,output\n" + "\n".join(rows) + "\n")
    arrivals = {"process": "trace", "trace": str(file), "time_column": "time"}
    arrivals |= {"input_column": "input", "output_column": "output", "window_s": 4.0}
    plain = get_scenario("saturated/llama-65b").replace(serving={"arrivals": arrivals, "horizon_s": 4.0})
    old = started(plain, (0, 1))
    new = started(plain.replace(serving={"service": {"classes": {"a": {}, "b": {}}}}), (0, 1), records=True)
    for engine in (old, new):
        while not (engine.counters[:, at.DONE] == 1).all():
            engine.actions[:] = 0
            engine.actions[:, at.ADMISSION] = at.ALL
            engine.step()
    for e in range(2):
        count = int(old.counters[e, at.REQUESTS])
        assert count > 20
        records = new.records(e)
        assert len(records["arrival_s"]) == count
        np.testing.assert_array_equal(records["arrival_s"], old.state.moments[e, :count, at.ARRIVAL_S])
        np.testing.assert_array_equal(records["input"], old.state.facts[e, :count, at.INPUT])
        np.testing.assert_array_equal(records["output"], old.state.facts[e, :count, at.OUTPUT])
        assert set(records["class"]) == {0, 1}
        check_end(new, e)
