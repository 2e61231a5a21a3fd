"""Bounds that no policy can beat on an instance with classes of requests: on worth served, on G and on the return.

Privileged: they read the instance (arrivals, lengths, think times, which drafts will pass). As in
`agents.serving.bounds` everything rests on a table of least times and on prices of what happens in an iteration; here
requests may be dropped and served in any order, turns come when those before them are done, and what was kept need not
be processed again.

**The table.** `seconds[r, t, c, x]` is the least time of an iteration that verifies t tokens for each of r requests,
whose contexts have at least so many tokens together as step x begins with, and that processes at least so many prompt
tokens as step c begins with: the machine's own formula at its most favourable, as `bounds` has it. Longer contexts
only lengthen it, and so does drift.

**Prices.** Let a prompt token cost `a` seconds, taking part at t tokens `b[t]`, and each token of a request's own
context `g`, such that `a c + r b[t] + g x <= seconds` everywhere; then the seconds of any iterations are at least the
prices of what happens in them. A context's own tokens are those beyond what its class shares, so that all of them
together never exceed the KV pages: contexts beyond those need not satisfy the inequality, which is how memory, too,
limits the batch. `a` and `g` are tried, the `b[t]` are then the largest possible.

**Who drafts.** With several classes some requests may draft while others verify one token. Such an iteration takes no
less than one in which all of them verify one token, nor than one of those that draft alone; so no less than a share
`l` of the former and 1 - l of the latter. The prices `l b[1]` (and `l g`) of verifying one token, and
`l b[1] + (1 - l) b[t]` of drafting, therefore satisfy the inequality for any mixture. `l` is tried too.

**Pace.** A request that counts has its tokens after the first one within `tpot (output - 1)` seconds, and takes part in
iterations that follow one another: so for any m >= 0 the seconds of its iterations, times m, are no more than
`m tpot (output - 1)`. For requests with the tightest pace that is used: their price `b'[t]` need only satisfy
`a c + r' b'[t] + r b[t] + g x <= (1 + m r') seconds`, r' of them beside r others, and what they are allowed is added to
the time that there is. Large batches that none of them could wait for become dear that way.

**Work of a turn that counts.** Its new prompt tokens (what its conversation kept, or its class's prefix, is found at
best; one token at least is processed) between its arrival and its first-token deadline. Then its decode iterations,
the cheapest ones for the drafts that pass, until so long after that deadline as the pace allows for all tokens. Whole
iterations lie in these windows: an iteration begins after a request that takes part in it has come, and its tokens
come at its end. A turn that would break an objective even if it was alone on the machine cannot count.

**When turns come.** Lone requests and first turns come when they come. A later one comes no earlier than its think time
after the least time for all before it, and of a trace no earlier than so long after the turn before it; and no later
than if each of those before it was only just in time, as long as they counted. The first turn of a conversation that
does not count may be served at any time, so for turns after it there is only the earliest. If any turn is dropped,
those after it are lost, which is never better.

**The bound.** Every moment of the machine's time gets a price, see `time_prices`: no policy gains more than the price
of all time and what each session could gain at those prices. Without `drain`, work must be done in iterations that
begin before the horizon: the last of them is a slot of its own, with room for all that an iteration can hold.

**What is relaxed.** Concurrency: work is priced at the best batch, whenever that arises. Prompts' attention. That
prompts are processed in the order of admission, requests decode in every iteration, and who was preempted goes first;
that orders and shedding choose by a rule, and do not know how long answers will be. Waiting rooms, and senders who
leave. Evictions: everything kept is found. Work of turns that do not count. Dynamic energy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.serving.service_bounds_tables import Prices, decode_work, least_seconds
from agents.serving.time_prices import Jobs, bound_by_prices, constant_price
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.instance import ServingInstance, serving_instance
from papi_env.simulation.serving.tables import ServingTables
from papi_env.workload.serving import SPECULATION_LENGTHS

# chosen: slots of time; shares of the largest prices of prompt and context tokens and weights of the pace that are
# tried, and how often others are tried around the best. More of any can only tighten the bounds.
SLOTS = 400
SHARES = tuple(itertools.product((0.4, 0.7, 1.0), (0.0, 0.5, 1.0), (0.0, 8.0), (0.0, 0.7, 1.0)))
REFINEMENTS = 2
_AROUND = [
    sign * np.array(move)
    for move in ((0.1, 0, 0, 0), (0, 0.2, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0.1))
    for sign in (1, -1)
]
# chosen: so many times as many requests with the tightest pace share a step of the search for their price.
PACE_RATIO = 1.15
_LENGTHS = len(SPECULATION_LENGTHS)
# Sums of some 1e5 terms in another order differ by less than this relative to their size.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ServiceBound:
    """Bounds on one instance.

    Attributes:
        offered: worth of all requests of the instance; served: of those within their objectives, at most.
        figure: served over offered (G), at most; NaN where nothing is offered.
        time_s: seconds of the episode, at least.
        episode_return: the undiscounted sum of rewards, at most.
    """

    offered: float
    served: float
    figure: float
    time_s: float
    episode_return: float


class ServiceBounds:
    """Bounds for the instances of one scenario with classes of requests; the table is computed once.

    Args:
        tables: of the scenario's engine.

    Attributes:
        least: see `service_bounds_tables.Least`.
        alone_s: [4], the least seconds of any iteration in which a request takes part.
        prompt_s, chunk_s: the least seconds per prompt token, and of any iteration with prompt tokens.
        token_s: the largest price of a context's token.

    Raises:
        ConfigurationError: the scenario has no classes.
    """

    def __init__(self, tables: ServingTables) -> None:
        scalars = tables.scalars
        if not scalars[at.SERVICE]:
            raise ConfigurationError("the scenario has no classes of requests: see agents.serving.bounds")
        self.tables = tables
        # Whether some may draft while others do not: who does is decided by class.
        self.mixed = scalars[at.NUM_CLASSES] > 1
        self._known: dict[tuple[float, ...], FloatArray] = {}
        self.chunk = int(scalars[at.CHUNK]) if scalars[at.PREFILL_ON] else 0
        self.least = least_seconds(self.chunk, _shortest_prompt(tables), tables)
        seconds, prompt, tokens = self.least
        self.alone_s = seconds[1:].min(axis=(0, 2, 3))
        self.prompt_s = self.chunk_s = 0.0
        if self.chunk:
            self.prompt_s = float((seconds[:, :, 1:] / prompt[1:, None]).min())
            self.chunk_s = float(seconds[:, :, 1:].min())
        self.token_s = float((seconds[1:].min(axis=(1, 2)) / np.maximum(tokens[1:], 1.0)).min())

    def prices(self, shares: FloatArray) -> tuple[Prices, Prices, FloatArray]:
        """Prices of requests with the tightest pace and of the others, and what the former's pace is multiplied with.

        Args:
            shares: [prices, 4], of the largest price of prompt tokens, of that of context tokens, how much the pace
                counts (1 if a full machine's requests together count as much as the time), and how much iterations
                count in which all verify one token, 0 if requests are of one class and so draft all or none.
        """
        found = np.zeros((len(shares), 10))
        single = shares[:, 3]
        paces = shares[:, 2] / (len(self.least.seconds) - 1)
        for k, share in enumerate(shares):
            key = tuple(share[:3].tolist())
            if key not in self._known:
                a, g = self._feasible(share[0] * self.prompt_s, share[1] * self.token_s)
                self._known[key] = np.array([a, g, *self._parts(a, g, float(paces[k]))])
            found[k] = self._known[key]
        token = np.repeat(found[:, 1:2], _LENGTHS, axis=1)
        if self.mixed:
            token[:, 0] *= single
        tight = Prices(found[:, 0].copy(), token, self._mixed(found[:, 2:6], single), np.zeros(len(shares)))
        return tight, tight._replace(part=self._mixed(found[:, 6:], single)), paces

    def _mixed(self, part: FloatArray, single: FloatArray) -> FloatArray:
        """Prices of taking part where some may draft and others not, [prices, 4], from those where all do the same."""
        if not self.mixed:
            return part.copy()
        of_one = single[:, None] * part[:, :1]
        return np.concatenate([of_one, of_one + (1 - single[:, None]) * part[:, 1:]], axis=1)

    def _others(self, a: float, g: float) -> FloatArray:
        """Prices of prompt and context tokens of iterations by what the table's places stand for, without FC rows."""
        _, prompt, tokens = self.least
        found: FloatArray = a * prompt[:, None] + g * tokens[:, None, None, :]
        return found

    def _feasible(self, a: float, g: float) -> tuple[float, float]:
        """The prices, both made cheaper where together they are too dear for some iteration."""
        other = self._others(a, g)[1:]
        scale = min(1.0, float((self.least.seconds[1:] / np.maximum(other, 1e-300)).min()) * (1 - _ROUNDING))
        return scale * a, scale * g

    def _parts(self, a: float, g: float, pace: float) -> FloatArray:
        """The largest prices of taking part: [8], at the four lengths with the tightest pace, then of the others."""
        other = self._others(a, g)[1:]
        seconds = self.least.seconds[1:]
        # Without tokens' prices the first step of contexts is the least.
        steps = slice(None) if g > 0 else slice(0, 1)
        seconds, other = seconds[..., steps], other[..., steps]
        requests = np.arange(1, len(seconds) + 1)

        def rest(weight: float) -> FloatArray:
            """The least of what is left of `weight` times the seconds, with so many requests or more: [requests, 4]."""
            left = (weight * seconds - other).min(axis=(2, 3))
            found: FloatArray = np.minimum.accumulate(left[::-1], axis=0)[::-1]
            return found

        others = np.maximum((rest(1.0) / requests[:, None]).min(axis=0), 0.0)
        if pace == 0.0:
            return np.concatenate([others, others])
        tight = np.full(_LENGTHS, np.inf)
        low = 0
        while low < len(requests):
            # From `low` + 1 to `high` requests with the tightest pace, whose time counts as that of `low` + 1.
            high = min(max(low + 1, int(low * PACE_RATIO)), len(requests))
            left = rest(1.0 + pace * (low + 1))[low:]
            # The more of them, the less is left for each.
            some = np.minimum(requests[low:], high)[:, None]
            tight = np.minimum(tight, ((left - (requests[low:, None] - some) * others) / some).min(axis=0))
            low = high
        return np.concatenate([np.maximum(tight, 0.0), others])

    def of(self, engine: ServingEngine, env: int) -> ServiceBound:
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
        return self.of_instance(int(engine.counters[env, at.SEED]), int(engine.counters[env, at.EPISODE]))

    def of_instance(self, seed: int, episode: int) -> ServiceBound:
        """Bounds on the instance of (seed, episode)."""
        scalars = self.tables.scalars
        work = _Work(self, seed, episode)
        instance = work.instance
        offered = float(instance.worth.sum())
        served = min(work.served(), offered)
        charge = scalars[at.CHARGE]
        arrivals = instance.arrival_s[instance.turn == 0]
        first, last = (float(arrivals[0]), float(arrivals[-1])) if len(arrivals) else (0.0, 0.0)
        time_s = float(scalars[at.HORIZON_S]) if np.isfinite(scalars[at.HORIZON_S]) else last
        # What comes as time begins and is refused was charged before the first step, and is in no reward.
        before = float(instance.worth[np.isin(instance.session, _first_refused(self.tables, instance))].sum())
        good = served - charge * max(offered - served - before, 0.0)
        energy = scalars[at.ENERGY_WEIGHT] * scalars[at.STATIC_W] * max(time_s - first, 0.0)
        return ServiceBound(
            offered=offered,
            served=served,
            figure=served / offered if offered > 0 else float("nan"),
            time_s=time_s,
            episode_return=float((good - energy) / scalars[at.REFERENCE_TOKENS]),
        )


def service_bounds(engine: ServingEngine) -> dict[str, FloatArray]:
    """Bounds on the current episodes of all environments, arrays [num_envs] by the fields of `ServiceBound`."""
    bounds = ServiceBounds(engine.tables)
    found = [bounds.of(engine, env) for env in range(engine.num_envs)]
    return {
        name: np.array([getattr(bound, name) for bound in found]) for name in ServiceBound.__annotations__
    }


def _shortest_prompt(tables: ServingTables) -> int:
    """Tokens of the shortest prompt that a request may have."""
    lengths = [
        int(tables.service_lengths[row : row + rows, 0].min() + kind[at.PREFIX])
        for kind, (row, rows, _, _) in zip(tables.kinds, tables.spans, strict=True)
    ]
    if len(tables.trace_lengths):
        lengths.append(int(tables.trace_lengths[:, 0].min()))
    return max(min(lengths), 1)


def _first_refused(tables: ServingTables, instance: ServingInstance) -> npt.NDArray[np.int64]:
    """Sessions that come with the first one and may be refused before anything is decided, all of them told so."""
    firsts = np.flatnonzero(instance.turn == 0)
    together = firsts[instance.arrival_s[firsts] == instance.arrival_s[firsts[:1]]]
    if len(together) == 1:
        together = together[instance.refused[together]]
    return instance.session[together]


class _Work:
    """What the turns of an instance need at least, and when."""

    def __init__(self, bounds: ServiceBounds, seed: int, episode: int) -> None:
        self.bounds, self.seed, self.episode = bounds, seed, episode
        tables = bounds.tables
        scalars = tables.scalars
        self.instance = instance = serving_instance(tables, seed, episode)
        self.prefill = bounds.chunk > 0
        kinds = tables.kinds[instance.kind]
        ttft_s = kinds[:, at.KIND_TTFT_S]
        self.pace_s = pace_s = kinds[:, at.KIND_TPOT_S] * (instance.output - 1)
        paces = tables.kinds[:, at.KIND_TPOT_S]
        self.tight = self.prefill & (kinds[:, at.KIND_TPOT_S] <= paces.min() * (1 + _ROUNDING))
        self.tokens = self._new_tokens(kinds[:, at.SHARED] * 2.0 ** scalars[at.PAGE_LOG2])
        alone = Prices(
            np.array([bounds.prompt_s]),
            np.zeros((1, _LENGTHS)),
            bounds.alone_s[None],
            np.array([bounds.chunk_s]),
        )
        alone_s = decode_work(instance, seed, episode, alone, tables)[:, 0] * (1 - _ROUNDING)
        prompt_s = np.zeros(len(alone_s))
        if self.prefill:
            chunks = np.ceil(self.tokens / bounds.chunk)
            prompt_s = np.maximum(self.tokens * bounds.prompt_s, chunks * bounds.chunk_s) * (1 - _ROUNDING)
        self.able = ~instance.refused & (prompt_s <= ttft_s)
        if self.prefill:
            self.able &= alone_s <= pace_s
        else:
            self.able &= alone_s <= ttft_s + pace_s
        self.earliest, latest = self._arrivals(prompt_s + alone_s, ttft_s + pace_s)
        self.first_s, self.prompt_due = self.earliest + prompt_s, latest + ttft_s
        self.due = self.prompt_due + pace_s
        if np.isfinite(scalars[at.HORIZON_S]):
            self.able &= self.earliest < scalars[at.HORIZON_S]

    def _new_tokens(self, shared: FloatArray) -> FloatArray:
        """Prompt tokens to process at least, if all that can be found is found."""
        instance = self.instance
        found = np.where(instance.turn > 0, np.maximum(instance.prompt - instance.fresh, shared), shared)
        return np.maximum(instance.prompt - found, 1.0)

    def _arrivals(self, least_s: FloatArray, most_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """When turns come at the earliest, and at the latest if all before them counted."""
        instance = self.instance
        earliest, latest = instance.arrival_s.copy(), instance.arrival_s.copy()
        for k in range(1, int(instance.turn.max(initial=0)) + 1):
            here = np.flatnonzero(instance.turn == k)
            thinks, gaps = instance.think_s[here - 1], instance.gap_s[here - 1]
            earliest[here] = earliest[here - 1] + np.maximum(least_s[here - 1] + thinks, gaps)
            latest[here] = latest[here - 1] + np.maximum(most_s[here - 1] + thinks, gaps)
        return earliest, latest

    def jobs(self, edges: FloatArray, prompt: FloatArray, decode: FloatArray, credit: FloatArray) -> Jobs:
        """The turns with such work, in slots between edges; the last slot comes after them."""

        def begins(times: FloatArray) -> npt.NDArray[np.int64]:
            place = np.searchsorted(edges, times * (1 - _ROUNDING), side="right") - 1
            return np.clip(place, 0, len(edges) - 1)

        def ends(times: FloatArray) -> npt.NDArray[np.int64]:
            place = np.searchsorted(edges, times * (1 + _ROUNDING), side="left") - 1
            return np.clip(place, 0, len(edges) - 1)

        start, first = begins(self.earliest), begins(self.first_s)
        return Jobs(
            first=np.flatnonzero(self.instance.turn == 0),
            worth=self.instance.worth,
            able=self.able,
            prompt=prompt * (1 - _ROUNDING),
            decode=decode * (1 - _ROUNDING),
            credit=credit * (1 + _ROUNDING),
            prompt_from=start,
            prompt_to=np.maximum(ends(self.prompt_due), start),
            decode_from=first,
            decode_to=np.maximum(ends(self.due), first),
        )

    def edges(self) -> tuple[FloatArray, bool]:
        """Where slots begin, and whether the last one, which has no end, is that of a horizon."""
        horizon = self.bounds.tables.scalars[at.HORIZON_S]
        firsts = self.instance.turn == 0
        end = float(horizon) if np.isfinite(horizon) else float(self.due[firsts].max(initial=0.0))
        begin = float(self.instance.arrival_s[0]) * (1 - _ROUNDING)
        return np.linspace(begin, max(end, begin + 1e-9), SLOTS + 1), bool(np.isfinite(horizon))

    def served(self) -> float:
        """Worth of requests within their objectives, at most."""
        if not len(self.instance.turn):
            return 0.0
        tried = np.array([share for share in SHARES if self.bounds.mixed == (share[3] > 0)])
        values = self._try(tried)
        step = 1.0
        for _ in range(REFINEMENTS):
            best = tried[values.argmin()]
            more = np.array(
                [
                    (
                        *np.clip((best[0] + p, best[1] + c), 0.0, 1.0).round(6),
                        best[2] * 2.0**m,
                        min(best[3] + s, 1.0) if best[3] else 0.0,
                    )
                    for p, c, m, s in step * np.array(_AROUND)
                ]
            )
            tried, values = np.concatenate([tried, more]), np.concatenate([values, self._try(more)])
            step /= 2
        best = tried[values.argmin()]
        jobs, room = self._priced(best[None])
        return min(float(values.min()), bound_by_prices(jobs[0], room[0])) * (1 + _ROUNDING)

    def _try(self, shares: FloatArray) -> FloatArray:
        """Bounds with one price of time, [shares]."""
        jobs, rooms = self._priced(shares)
        return np.array([constant_price(job, room)[1] for job, room in zip(jobs, rooms, strict=True)])

    def _priced(self, shares: FloatArray) -> tuple[list[Jobs], list[FloatArray]]:
        """The jobs of an instance and the room of slots, for each of the prices."""
        tight, other, paces = self.bounds.prices(shares)
        work = [
            decode_work(self.instance, self.seed, self.episode, prices, self.bounds.tables)
            for prices in (tight, other)
        ]
        decode = np.where(self.tight[:, None], *work)
        edges, at_horizon = self.edges()
        tokens = self.bounds.least.tokens
        jobs, rooms = [], []
        for k in range(len(shares)):
            prompt = self.tokens * tight.prompt[k] if self.prefill else np.zeros(len(self.tokens))
            jobs.append(
                self.jobs(edges, prompt, decode[:, k], np.where(self.tight, paces[k] * self.pace_s, 0.0))
            )
            last = np.inf
            if at_horizon:
                running = len(tokens) - 1
                last = running * tight.part[k].max() + tight.prompt[k] * self.bounds.chunk
                last += tight.token[k].max() * tokens.max()
            rooms.append(np.append(np.diff(edges) * (1 + _ROUNDING), last))
        return jobs, rooms
