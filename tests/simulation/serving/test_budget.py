"""Serving under a token budget: vLLM's order of work and its free pages, against a server that keeps every page."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.scenario import parse_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import build_serving_tables, with_requests
from papi_env.workload.servers import SERVERS
from tests.simulation.serving.service_books import check_slots

PAGE = 16
SLOTS = 8
ADMIT_ALL = (at.PU, 0, at.ALL, 0)


def scenario(requests, *, kv_tokens, budget=64, system="a100", model="llama-65b", **changes):
    serving = {
        "arrivals": {"process": "together"},
        "lengths": {"input": 20, "output": 10},
        "objectives": {"ttft_s": 100.0, "tpot_s": 10.0},
        "requests": requests,
        "max_running": SLOTS,
        "token_budget": budget,
        "kv_tokens": kv_tokens,
        "prefix_caching": True,
    } | changes
    table = {"name": "test", "system": system, "model": model, "serving": serving}
    return parse_scenario(table, "test")


def started(lengths, arrival_s=None, **arguments):
    """An engine that serves requests of these lengths, which arrive at these times (default: at once)."""
    asked = scenario(len(lengths), **arguments)
    times = np.zeros(len(lengths)) if arrival_s is None else np.array(arrival_s)
    tables = with_requests(build_serving_tables(asked), times, np.array(lengths))
    engine = ServingEngine(asked, tables=tables)
    engine.reset()
    engine.actions[:] = ADMIT_ALL
    return engine


class Request:
    """A request of `Server`: tokens computed and generated, and the numbers of its pages."""

    def __init__(self, number, length, output):
        self.number, self.length, self.output = number, length, output
        self.computed = self.generated = 0
        self.pages = []

    @property
    def tokens(self):
        return self.length + self.generated


class Server:
    """vLLM's scheduler, written down page by page: a queue of free pages, and what every page holds."""

    def __init__(self, lengths, pages, budget, caching):
        self.waiting = deque(Request(i, *pair) for i, pair in enumerate(lengths))
        self.running, self.free, self.holds = [], deque(range(pages)), {}
        self.budget, self.caching = budget, caching
        self.preemptions = self.found = self.finished = 0

    def grow(self, request, tokens):
        """Pages for so many tokens, if they are free."""
        more = -(-tokens // PAGE) - len(request.pages)
        if more > len(self.free):
            return False
        for _ in range(max(more, 0)):
            page = self.free.popleft()
            self.holds.pop(page, None)
            request.pages.append(page)
        return True

    def release(self, request):
        """Its last page is the first to be free; full ones keep what they hold."""
        for index in reversed(range(len(request.pages))):
            page = request.pages[index]
            if self.caching and (index + 1) * PAGE <= request.computed:
                self.holds[page] = (request.number, index)
            self.free.append(page)
        request.pages = []

    def find(self, request):
        """Take back its pages from the first on, as long as they are there; never that of its last token."""
        if not self.caching:
            return
        for index in range((request.tokens - 1) // PAGE):
            page = next((p for p, held in self.holds.items() if held == (request.number, index)), None)
            if page is None:
                break
            self.free.remove(page)
            del self.holds[page]
            request.pages.append(page)
        request.computed = PAGE * len(request.pages)
        self.found += request.computed

    def step(self):
        """One iteration: (decode rows, prompt rows)."""
        budget, work, before = self.budget, {}, self.preemptions
        k = 0
        while k < len(self.running) and budget > 0:
            request = self.running[k]
            part = min(request.tokens - request.computed, budget)
            while not self.grow(request, request.computed + part):
                victim = self.running.pop()
                budget += work.pop(victim, 0)
                self.release(victim)
                victim.computed = 0
                self.waiting.appendleft(victim)
                self.preemptions += 1
                if victim is request:
                    break
            else:
                work[request] = part
                budget -= part
                k += 1
        while self.waiting and budget > 0 and self.preemptions == before and len(self.running) < SLOTS:
            request = self.waiting[0]
            if -(-request.tokens // PAGE) > len(self.free):
                break
            self.waiting.popleft()
            self.find(request)
            part = min(request.tokens - request.computed, budget)
            assert self.grow(request, request.computed + part)
            self.running.append(request)
            work[request] = part
            budget -= part
        decode = sum(1 for request in work if request.generated and request.tokens - request.computed == 1)
        for request, part in work.items():
            request.computed += part
            if request.computed == request.tokens:
                request.generated += 1
        for request in [r for r in self.running if r.generated == r.output]:
            self.running.remove(request)
            self.release(request)
            self.holds = {p: held for p, held in self.holds.items() if held[0] != request.number}
            self.finished += 1
        return decode, sum(work.values()) - decode


def follow(lengths, pages, budget, caching):
    """Both servers side by side; returns the engine at the end."""
    engine = started(lengths, kv_tokens=pages * PAGE, budget=budget, prefix_caching=caching)
    server, counters = Server(lengths, pages, budget, caching), engine.counters[0]
    for _ in range(5000):
        engine.step()
        check_slots(engine)
        decode, prompt = server.step()
        if counters[at.LAST_N] != decode:
            # A request that comes back with one token to process counts as a prompt here.
            assert counters[at.LAST_N] + counters[at.LAST_CHUNK] == decode + prompt
        assert counters[at.LAST_N] + counters[at.LAST_CHUNK] == decode + prompt
        assert counters[at.PREEMPTIONS] == server.preemptions
        assert counters[at.FOUND_TOKENS] == server.found
        assert counters[at.FINISHED] == server.finished
        assert counters[at.RLP] + counters[at.PREFILLING] == len(server.running)
        if caching:
            held = sum(len(request.pages) for request in server.running)
            parts = engine.state.free[0, : counters[at.FREE_PARTS]]
            assert parts[:, 1].sum() == counters[at.FREE_PAGES] == pages - held
            assert (parts[:, 1] > 0).all()
        if counters[at.DONE]:
            break
    assert counters[at.FINISHED] == len(lengths)
    return engine


@given(
    lengths=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 60)), min_size=1, max_size=24),
    pages=st.integers(14, 60),
    budget=st.integers(SLOTS, 200),
    caching=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_requests_pages_and_preemptions_are_those_of_a_server_that_keeps_every_page(
    lengths, pages, budget, caching
):
    engine = follow(lengths, pages, budget, caching)
    counters = engine.counters[0]
    assert counters[at.TOKENS] == sum(output for _, output in lengths)
    # What was processed: every prompt, and what was lost and computed again.
    again = counters[at.RECOMPUTED]
    assert counters[at.PREFILLED] >= sum(length for length, _ in lengths)
    assert 0 <= again <= counters[at.PREFILLED]
    assert counters[at.PAGES_HIGH] <= pages


def test_a_preempted_request_finds_what_nobody_took():
    lengths = [(100, 100)] * 6
    plain = follow(lengths, 40, 64, caching=False).counters[0]
    caching = follow(lengths, 40, 64, caching=True).counters[0]
    assert plain[at.PREEMPTIONS] > 0
    assert plain[at.FOUND_TOKENS] == 0
    assert caching[at.FOUND_TOKENS] > 0
    assert caching[at.RECOMPUTED] < plain[at.RECOMPUTED]


def test_decode_rows_and_prompts_share_the_budget_in_the_order_of_admission():
    engine = started([(10, 5), (100, 5), (30, 5)], kv_tokens=4096, budget=64)
    seen = []
    for _ in range(3):
        engine.step()
        seen.append(tuple(engine.counters[0, [at.LAST_N, at.LAST_CHUNK, at.PREFILLING, at.QUEUED]]))
    # The second prompt begins with what the first leaves, goes on before the third, which ends in the third iteration.
    assert seen == [(0, 64, 1, 1), (1, 63, 1, 0), (2, 13, 0, 0)]


def test_the_request_admitted_last_is_preempted_and_comes_back_first():
    engine = started([(60, 40), (60, 40), (60, 40)], kv_tokens=13 * PAGE, budget=256)
    while engine.counters[0, at.PREEMPTIONS] == 0:
        engine.step()
    assert engine.state.facts[0, :, at.PREEMPTED_TIMES].tolist() == [0, 0, 1]
    assert engine.state.preempted[0, 0] == 2
    engine.run()
    assert engine.counters[0, at.FINISHED] == 3
    assert np.all(np.diff(engine.state.moments[0, :, at.FINISH_S]) >= 0)


def test_many_iterations_at_once_are_the_same_iterations():
    lengths, times = [(50 + 7 * i, 5 + i) for i in range(20)], [0.01 * i for i in range(20)]
    one = started(lengths, times, kv_tokens=50 * PAGE)
    rewards = 0.0
    while not one.counters[0, at.DONE]:
        one.step()
        rewards += one.rewards[0]
    many = started(lengths, times, kv_tokens=50 * PAGE)
    many.run()
    for a, b in zip(one.state, many.state, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.observations, many.observations)
    assert many.rewards[0] == pytest.approx(rewards, rel=1e-12)
    part = started(lengths, times, kv_tokens=50 * PAGE)
    part.run(7)
    assert part.counters[0, at.ITERATION] == 7


@pytest.mark.parametrize("system", ["papi", "a100", "attacc-only"])
def test_any_system_and_any_choice_serves_all_under_a_budget(system):
    engine = started([(60, 20)] * 12, kv_tokens=24 * PAGE, system=system)
    rng = np.random.default_rng(0)
    while not engine.counters[0, at.DONE]:
        engine.actions[:] = rng.integers(0, at.NVEC)
        engine.step()
        free = engine.state.free[0, : engine.counters[0, at.FREE_PARTS], 1]
        assert 0 <= free.sum() == engine.counters[0, at.FREE_PAGES] <= 24
        assert (engine.observations >= 0).all()
        assert (engine.observations <= 1).all()
    assert engine.counters[0, at.FINISHED] == 12
    assert engine.counters[0, at.FREE_PAGES] == 24 or engine.counters[0, at.RLP] == 0


def test_a_thousand_requests_and_long_chunks_run():
    engine = started([(64, 4)] * 1100, kv_tokens=100_000, budget=8192, max_running=1024)
    engine.step()
    assert engine.counters[0, at.LAST_CHUNK] == 8192
    assert engine.observations.max() <= 1
    engine.run()
    assert engine.counters[0, at.FINISHED] == 1100
    assert engine.state.contexts.shape == (1, 1024)


def test_unequal_contexts_take_longer_on_pus():
    def seconds(share):
        engine = started([(100, 30), (1500, 30)], kv_tokens=8192, budget=2048, uneven_contexts=share)
        engine.run()
        return engine.clocks[0, at.TIME_S]

    assert seconds(0.0) < seconds(0.05) < seconds(1.0)
    even = [
        started([(100, 30), (100, 30)], kv_tokens=8192, budget=2048, uneven_contexts=share)
        for share in (0.0, 1.0)
    ]
    for engine in even:
        engine.run()
    # But for the memory's groups that contexts are rounded up to.
    assert even[0].clocks[0, at.TIME_S] == pytest.approx(even[1].clocks[0, at.TIME_S], rel=0.01)


def test_kv_tokens_beyond_the_memory_are_refused_with_the_sizes():
    with pytest.raises(
        ConfigurationError, match=r"weights and KV caches need .* GB .*but the weight stacks hold"
    ):
        build_serving_tables(scenario(2, kv_tokens=10_000_000))


def test_defaults_are_left_out_of_dumps():
    fields = {"token_budget", "prefix_caching", "kv_tokens", "uneven_contexts"}
    plain = scenario(2, kv_tokens=None, budget=None, prefix_caching=False).serving
    assert not fields & set(plain.model_dump())
    asked = scenario(2, kv_tokens=4096, uneven_contexts=0.02).serving
    dumped = asked.model_dump()
    assert fields <= set(dumped)
    assert type(asked).model_validate(dumped) == asked


@pytest.mark.parametrize("name", SERVERS)
def test_a_preset_of_gpus_alone_is_stepped(name):
    env = gym.make("papi_env/Serving-v0", scenario=name, strict=False)
    observation, _ = env.reset(seed=0)
    for _ in range(300):
        assert env.observation_space.contains(observation)
        observation, reward, *_, info = env.step(env.unwrapped.engine.actions[0] * 0 + ADMIT_ALL)
    assert np.isfinite(reward)
    assert info["tokens"] > 300
    assert info["invalid_actions"] == 0
    scalars = env.unwrapped.engine.tables.scalars
    assert scalars[at.ONLY_UNIT] == at.PU
    # LM head and sampler of as many tokens as are yielded are part of an iteration.
    assert env.unwrapped.engine.tables.head[1, 0] > 0
    env.close()


def test_the_lm_head_counts_for_tokens_that_are_yielded():
    def first_iterations(prompt):
        engine = started([(prompt, 3)], kv_tokens=4096, budget=64, system="h100", model="llama-3.1-70b")
        engine.step()
        return engine.tables.head, engine.clocks[0, at.LAST_FC_S], engine.tables.fc_s[at.PU]

    # A prompt that ends in its chunk yields a token; one that goes on does not.
    head, ended_s, fc_s = first_iterations(64)
    _, going_on_s, _ = first_iterations(65)
    assert ended_s == pytest.approx(fc_s[64] + head[1, 0])
    assert going_on_s == pytest.approx(fc_s[64])


def test_joules_by_cause_add_up_with_an_lm_head():
    lengths = [(40 + 13 * i, 12) for i in range(16)]
    engine = started(lengths, kv_tokens=40 * PAGE, system="h100", model="llama-3.1-70b", uneven_contexts=0.5)
    engine.run()
    clocks = engine.clocks[0]
    assert engine.counters[0, at.PREEMPTIONS] > 0
    assert clocks[at.CAUSE_J :].sum() == pytest.approx(clocks[at.DYNAMIC_J], rel=1e-9)
