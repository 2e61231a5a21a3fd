"""Bounds that no policy can beat on an instance of Serving-v0: on good tokens, goodput, return and time.

Privileged: they read the instance (arrivals, lengths, which drafts will pass). All of them rest on one table.

**The table.** `least_s[r, t, c]` is the least time that an iteration can take which verifies t tokens for each
of r requests and processes c prompt tokens. It is the machine's own formula (`simulation.serving.iteration`)
at its most favourable: the best FC unit (split included), the better of overlap and none, stacks already in
the right mode, every context as short as the scenario's shortest prompt, prompts that attend to nothing, and
units as fast as their profile. Each of these can only lengthen an iteration: contexts, (query, key) pairs,
mode switches and drift factors (>= 1) enter the formula through sums, products and maxima of non-negative
terms, and how a split is made does not depend on them. Draft cost, links, dual row buffers, overheads and the
time of a decision are in the formula, so they are in the table.

**Prices.** Let prompt tokens cost `a` seconds each and taking part in an iteration at t tokens cost `b[t]`
seconds, such that `r b[t] + a c <= least_s[r, t, c]` everywhere. Then the seconds of any iterations are at
least the prices of what happens in them. For each `a` in a grid up to the largest possible, the `b[t]` are the
largest that satisfy the inequality.

**Work of a request.** All its prompt tokens must be processed (prefill on), and its output tokens after the
first gained in iterations that each advance it by 1 plus the drafts accepted there. Which drafts pass is fixed
by the instance, so the cheapest way from the first token to the last is a shortest path over positions, with
the four lengths as edges; the time that a request needs even alone is the same with the least times
`min over r and c of least_s` as prices. A preempted request computes its tokens again, which yields one output
token and is one more edge.

**Order.** Prompts are processed in order of arrival (admission and prefill are first come first served, and
who is preempted goes first), whatever the policy. So the first token of request k comes no earlier than
max over j <= k of (arrival of j + q x prompt tokens of j..k), q = the least seconds per prompt token of any
iteration. Requests cannot be refused, so the prompts before k are processed whether or not those requests
still meet their objectives.

**Time to serve all.** After the arrival of any j, the work of requests j, j + 1, ... is still to do, so the
time is at least arrival + their work, for every j and every price; and at least the earliest first token of
any request plus its own decode time.

**Good tokens.** A request can count only if its first token can come in time, its decode time alone meets the
time per token, and all but its last iteration fit before the horizon. Those that can count compete for time:
iterations that begin before the horizon take no more than the horizon and the last of them, in which at most
`max_running` requests and a chunk take part. If k is the last request that counts, all prompts up to k are
processed, and the requests that count do their decode work: a knapsack, relaxed to fractions, for every k,
every window that starts with some arrival (requests before it count for free), and every price; the least
over windows and prices of the most over k.

**What is relaxed.** Concurrency: work is priced at the best batch size, whenever that arises. KV pages.
Attention over contexts longer than the shortest prompt, and of prompts. That requests must keep their pace
while others are served. Work of requests that do not count. Dynamic energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.serving.bounds_tables import decode_paths, least_seconds
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import ServingTables

# chosen: prices of prompt tokens tried, from none to all of an iteration's time; windows tried per instance;
# last requests told apart. More of any can only tighten the bounds, at a cost in proportion.
PRICES = 13
WINDOWS = 8
BLOCKS = 256
# Sums of some 1e5 terms in another order differ by less than this relative to their size.
_ROUNDING = 1e-9
# A weight so small that it could not be divided by counts as none.
_NOTHING = 1e-300


@dataclass(frozen=True)
class Bound:
    """Bounds on one instance.

    Attributes:
        good_tokens: at most so many tokens of requests that meet both objectives (all requests' tokens where
            the reward counts tokens on time, of requests whose first token can be in time).
        goodput: good tokens per second, at most.
        time_s: seconds of the episode, at least: to serve all requests, or the horizon.
        episode_return: the undiscounted sum of rewards, at most.
    """

    good_tokens: float
    goodput: float
    time_s: float
    episode_return: float


class ServingBounds:
    """Bounds for the instances of one scenario; the table is computed once.

    Args:
        tables: of the scenario's engine.

    Attributes:
        least_s: float64 [max_running + 1, 4, chunk + 1], see the module; infinite where nothing happens.
        alone_s: [4], the least seconds of any iteration in which a request takes part.
        prompt_s, chunk_s: the least seconds per prompt token, and of any iteration with prompt tokens.
        prompt_prices, decode_prices: [prices] and [prices, 4], seconds per prompt token and per taking part.
    """

    def __init__(self, tables: ServingTables) -> None:
        self.tables = tables
        scalars = tables.scalars
        lengths = tables.trace_lengths if len(tables.trace_lengths) else tables.population
        chunk = int(scalars[at.CHUNK]) if scalars[at.PREFILL_ON] else 0
        self.least_s = least_seconds(int(scalars[at.MAX_RUNNING]), chunk, int(lengths[:, 0].min()), tables)
        working = self.least_s[1:].min(axis=0)
        self.alone_s = working.min(axis=1)
        if chunk:
            tokens = np.arange(1, chunk + 1)
            self.prompt_s = float((self.least_s[:, :, 1:] / tokens).min())
            self.chunk_s = float(self.least_s[:, :, 1:].min())
            self.prompt_prices = np.linspace(0.0, self.prompt_s, PRICES)
        else:
            self.prompt_s = self.chunk_s = 0.0
            self.prompt_prices = np.zeros(1)
        self.decode_prices = np.stack([self._largest(price) for price in self.prompt_prices])

    def _largest(self, prompt_price: float) -> FloatArray:
        """The largest prices of taking part, [4], for a price of prompt tokens."""
        rest = self.least_s[1:] - prompt_price * np.arange(self.least_s.shape[2])
        requests = np.arange(1, len(self.least_s))
        prices: FloatArray = np.maximum((rest.min(axis=2) / requests[:, None]).min(axis=0), 0.0)
        return prices

    def of(self, engine: ServingEngine, env: int) -> Bound:
        """Bounds on the current episode of environment `env`, at any time in it.

        Raises:
            ConfigurationError: the engine plays another scenario, or truncates episodes by steps.
        """
        if engine.tables is not self.tables:
            raise ConfigurationError("the bounds were computed for the tables of another engine")
        if engine.max_steps:
            raise ConfigurationError(
                f"episodes are truncated after {engine.max_steps} steps: the bounds are on whole episodes"
            )
        scalars = self.tables.scalars
        work = _Instance(self, engine, env)
        horizon = scalars[at.HORIZON_S]
        time_s = float(horizon) if np.isfinite(horizon) else work.time_s()
        good = work.good_tokens(horizon)
        # An episode's first step begins at the first arrival; rewards count static power from there.
        charged = time_s - float(work.arrival[0]) if len(work.arrival) else 0.0
        energy = scalars[at.ENERGY_WEIGHT] * scalars[at.STATIC_W] * charged
        return Bound(
            good_tokens=good,
            goodput=good / time_s if time_s > 0 else 0.0,
            time_s=time_s,
            episode_return=float((good - energy) / scalars[at.REFERENCE_TOKENS]),
        )


def serving_bounds(engine: ServingEngine) -> dict[str, FloatArray]:
    """Bounds on the current episodes of all environments of an engine, arrays [num_envs] by the fields of `Bound`."""
    bounds = ServingBounds(engine.tables)
    found = [bounds.of(engine, env) for env in range(engine.num_envs)]
    names = ("good_tokens", "goodput", "time_s", "episode_return")
    return {name: np.array([getattr(bound, name) for bound in found]) for name in names}


class _Instance:
    """One episode's requests, without those refused on arrival, and what each needs at least."""

    def __init__(self, bounds: ServingBounds, engine: ServingEngine, env: int) -> None:
        self.bounds, scalars = bounds, engine.tables.scalars
        counters, state = engine.counters[env], engine.state
        count = int(counters[at.REQUESTS])
        facts, moments = state.facts[env, :count], state.moments[env, :count]
        served = np.flatnonzero(facts[:, at.STATUS] != at.REFUSED)
        self.arrival = moments[served, at.ARRIVAL_S]
        self.prompt = facts[served, at.INPUT].astype(np.float64)
        self.output = facts[served, at.OUTPUT].astype(np.float64)
        self._prefill = bool(scalars[at.PREFILL_ON])
        self.scalars = scalars
        prices = np.vstack([bounds.decode_prices, bounds.alone_s])
        again = np.append(bounds.prompt_prices, bounds.prompt_s)
        least_again = np.append(np.zeros(len(again) - 1), bounds.chunk_s)
        paths = decode_paths(
            int(counters[at.SEED]),
            int(counters[at.EPISODE]),
            served,
            np.ascontiguousarray(facts[served], dtype=np.int64),
            bounds.tables.acceptance,
            prices,
            again,
            least_again,
            self._prefill,
        )
        #: [requests, prices]: seconds of decoding.
        self.decode_s = paths[:, :-1, 0] * (1 - _ROUNDING)
        #: [requests]: alone, after the first token; and all decoding without the last iteration.
        self.alone_s, self.all_but_last_s = (
            paths[:, -1, 1] * (1 - _ROUNDING),
            paths[:, -1, 2] * (1 - _ROUNDING),
        )
        self.first_s = self._first_tokens() * (1 - _ROUNDING)

    def _first_tokens(self) -> FloatArray:
        """The earliest time of every first token, [requests]."""
        if not self._prefill:
            return self.arrival + self.bounds.alone_s.min()
        first = np.empty(len(self.arrival))
        free = -np.inf
        for k, (arrival, prompt) in enumerate(zip(self.arrival, self.prompt, strict=True)):
            free = max(free, arrival) + self.bounds.prompt_s * prompt
            first[k] = max(free, arrival + self.bounds.chunk_s)
        return first

    def time_s(self) -> float:
        """Seconds to serve all requests, at least."""
        if not len(self.arrival):
            return 0.0
        work = self.decode_s + self.prompt[:, None] * self.bounds.prompt_prices
        still = np.cumsum(work[::-1], axis=0)[::-1]
        alone = float((self.first_s + self.alone_s).max())
        return max(alone, float((self.arrival[:, None] + still).max()) * (1 - _ROUNDING))

    def good_tokens(self, horizon_s: float) -> float:
        """Tokens of requests that can meet both objectives before the horizon, at most."""
        s = self.scalars
        able = self.first_s - self.arrival <= s[at.TTFT_S]
        if s[at.REWARD_ON_TIME]:
            return float(self.output[able].sum())
        able &= self.alone_s <= s[at.TPOT_S] * (self.output - 1)
        # Decoding starts at the first token, or on arrival where that comes from decoding.
        start = np.where((self.output > 1) & self._prefill, self.first_s, self.arrival)
        able &= start + self.all_but_last_s < horizon_s
        tokens = np.where(able, self.output, 0.0)
        best = float(tokens.sum())
        if not np.isfinite(horizon_s) or not len(tokens):
            return best
        before = np.concatenate([[0.0], np.cumsum(tokens)])
        windows = np.unique(np.linspace(0, len(tokens) - 1, WINDOWS).astype(int))
        for k, price in enumerate(self.bounds.prompt_prices):
            decode = self.bounds.decode_prices[k].max() * s[at.MAX_RUNNING]
            last = decode + price * (self.bounds.least_s.shape[2] - 1)
            for start in windows:
                budget = horizon_s - self.arrival[start] + last - price * np.cumsum(self.prompt[start:])
                inside = knapsacks(tokens[start:], self.decode_s[start:, k], budget)
                best = min(best, before[start] + inside)
        return best * (1 + _ROUNDING)


def knapsacks(values: FloatArray, weights: FloatArray, budgets: FloatArray, blocks: int = BLOCKS) -> float:
    """At least the most over k of a fractional knapsack of items 0..k with budget k; items and budgets [n].

    Exact where n is no more than `blocks`; else successive k share their largest budget and all their items. A
    budget below 0 admits nothing, which is worth 0.
    """
    ends = np.unique(np.linspace(0, len(values), min(len(values), blocks) + 1).astype(int))
    budget = np.maximum.reduceat(budgets, ends[:-1])
    order = np.argsort(-values / np.maximum(weights, _NOTHING), kind="stable")
    allowed = order[None, :] < ends[1:, None]
    weight = np.where(allowed, weights[order], 0.0)
    before = np.cumsum(weight, axis=1) - weight
    room = np.clip(budget[:, None] - before, 0.0, None)
    share = np.where(weight > _NOTHING, np.minimum(room / np.maximum(weight, _NOTHING), 1.0), 1.0)
    value = np.where(allowed, values[order], 0.0) * share
    return float(np.where(budget >= 0, value.sum(axis=1), 0.0).max(initial=0.0))
