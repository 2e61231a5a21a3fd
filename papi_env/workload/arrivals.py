"""When requests arrive: renewal processes, with a rate that may change over the day, and published traces.

`Arrivals` says which process, `build_arrivals` tabulates it; the draws are in `simulation.arrival_draws`.

A renewal process is drawn in equilibrium, as if the service had run forever before the episode starts, so
that the expected number of requests in any time t is rate x t whatever the burstiness (Cox, Renewal Theory,
1962, chapter 5). A changing rate is a change of time: the gaps are drawn in *operational* time, in which the
rate is constant, and mapped through the inverse of the integrated relative rate.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.quantities import Number, Ratio, RequestRate, Share, SpanSeconds, StartSeconds, Tokens, Truth
from papi_env.workload.lengths import whole_number
from papi_env.workload.profiles import PROFILES, Profile, busiest_s, check_profile, operational_table
from papi_env.workload.traces import Trace, TraceForm, cached_trace
from papi_env.workload.traces.sessions import BLOCK_TOKENS, Turns, turns_of_part

Process = Literal["poisson", "gamma", "trace", "together"]
Split = Literal["all", "train", "test"]

# The processes as compiled code knows them.
POISSON, GAMMA, TRACE, TOGETHER = range(4)
_KINDS: dict[Process, int] = {"poisson": POISSON, "gamma": GAMMA, "trace": TRACE, "together": TOGETHER}

# Chosen: 16 MB of times and rows in each environment, an hour at 278 requests a second.
MAX_REQUESTS = 1_000_000
# Chosen: the chance that an episode by time has more requests than there is room for. One episode in a
# million, and one that shows (see `ArrivalTables.capacity`).
OVERFLOW_RISK = 1e-6

_RENEWAL: tuple[Process, ...] = ("poisson", "gamma")
_BELONGS: dict[str, tuple[Process, ...]] = {
    "rate_per_s": _RENEWAL,
    "shape": ("gamma",),
    "profile": _RENEWAL,
    "period_s": _RENEWAL,
    "random_phase": _RENEWAL,
    "trace": ("trace",),
    "input_column": ("trace",),
    "output_column": ("trace",),
    "time_column": ("trace",),
    "category_column": ("trace",),
    "categories": ("trace",),
    "delimiter": ("trace",),
    "time_unit": ("trace",),
    "characters_per_token": ("trace",),
    "time_scale": ("trace",),
    "window_s": ("trace",),
    "split": ("trace",),
    "split_at": ("trace",),
    "start_s": ("trace",),
    "conversations": ("trace",),
    "block_tokens": ("trace",),
}


class Arrivals(TraceForm):
    """How requests arrive; fields that do not belong to the process are refused.

    `poisson` and `gamma` are renewal processes of `rate_per_s` requests a second on average. Gamma gaps
    have the given `shape`, and so the coefficient of variation 1 / sqrt(shape): 1 is Poisson, less is
    bursty. `profile` makes the rate change over `period_s` seconds, as (start, relative rate) pairs: from
    that share of the period on, the relative rate; or the name of a profile, such as "day". It is
    normalised, so that a whole period still has the mean `rate_per_s`. An episode starts anywhere in the
    period (`random_phase`, drawn by episode), or at its start.

    `trace` replays a file of any form that `traces.read_trace` reads (see there, also for columns and
    categories). Of a file that is played from `start_s` for `window_s` seconds no more than that window is read.
    `time_scale` 2 lets requests arrive twice as fast. All other times are in seconds after this scaling.
    `split` takes the requests before the share `split_at` of the file's duration (`train`), those from
    there on (`test`), or both. An episode is a window of `window_s` seconds of that part, which never
    reaches across the split and starts `start_s` after the start of the part, or anywhere in it, drawn by
    episode. Holes stay as they are, so a window may be empty. Without `window_s` an episode is a window as
    long as the episode where that has a horizon, so many successive requests where it has a number of
    them, and else the whole part from `start_s` on.

    With `conversations` rows whose hashes show that they go on from earlier ones (Mooncake's traces have hashes of
    `block_tokens` tokens each; see `traces.sessions_of`) are turns of one conversation, and what arrives is first
    turns: those that follow belong to them, in the window or after it, and none comes of a conversation that began
    before. A turn comes as long after the turn before it as in the file, or once that is done, if that is later; it
    finds what it has in common with that. This takes classes of requests, each with a `conversation` (see
    `workload.service`).

    `together` lets all requests arrive at time 0.
    """

    process: Process
    rate_per_s: RequestRate | None = Field(None, ge=1e-6, le=1e6, description="mean requests per second")
    # Limits chosen beyond any service: the widest gaps have a CV of 32, the narrowest are all but equal.
    shape: Ratio | None = Field(None, ge=1e-3, le=1e4, description="gamma shape of the gaps")
    profile: tuple[tuple[Number, Number], ...] | None = None
    period_s: SpanSeconds = Field(60.0, ge=1e-3, le=1e9, description="the default is a day in a minute")
    random_phase: Truth = True

    trace: str | None = Field(None, description="path of a file of requests")
    input_column: str | None = None
    output_column: str | None = None
    time_column: str | None = None
    category_column: str | None = None
    categories: tuple[str, ...] | None = None
    time_scale: Ratio = Field(1.0, ge=1e-6, le=1e6)
    window_s: SpanSeconds | None = Field(None, gt=0)
    split: Split = "all"
    split_at: Share = Field(0.7, gt=0, lt=1)
    start_s: StartSeconds | None = Field(None, ge=0)
    conversations: Truth | None = Field(None, description="turns of conversations by hashes of prompts")
    block_tokens: Tokens | None = Field(None, ge=1, description="that a hash stands for; the default is 512")

    # As of `TraceForm`.
    _younger: ClassVar[tuple[str, ...]] = (*TraceForm._younger, "conversations", "block_tokens")

    @field_validator("profile", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return lookup("profile", value, PROFILES) if isinstance(value, str) else value

    @field_validator("profile")
    @classmethod
    def _is_a_profile(cls, profile: Profile | None) -> Profile | None:
        if profile is not None:
            check_profile(profile)
        return profile

    @model_validator(mode="after")
    def _belong_together(self) -> Arrivals:
        for field, processes in _BELONGS.items():
            value, default = getattr(self, field), type(self).model_fields[field].default
            # Compared with the default, not asked whether it was given: what is dumped can be read again.
            if self.process not in processes and value != default:
                raise ValueError(
                    f"{field} is {value!r}, expected none: "
                    f"it belongs to {' or '.join(processes)} arrivals, and these are {self.process!r}"
                )
        needed = {"poisson": ("rate_per_s",), "gamma": ("rate_per_s", "shape"), "trace": ("trace",)}
        for field in needed.get(self.process, ()):
            if getattr(self, field) is None:
                raise ValueError(f"{self.process!r} arrivals need {field}")
        if self.profile is None and (self.period_s != 60 or not self.random_phase):
            raise ValueError("period_s and random_phase belong to a profile, and none is given")
        return self

    def read(self) -> Trace:
        """The trace, read once for as long as its file does not change.

        Raises DataError for a file that cannot be read (see `read_trace`); ConfigurationError where these
        arrivals have no trace, or the trace no times.
        """
        if self.trace is None:
            raise ConfigurationError(f"{self.process!r} arrivals have no trace to read")
        trace = cached_trace(
            self.trace,
            input_column=self.input_column,
            output_column=self.output_column,
            time_column=self.time_column,
            category_column=self.category_column,
            categories=self.categories,
            delimiter=self.delimiter,
            time_unit=self.time_unit,
            characters_per_token=self.characters_per_token,
            **self._part(),
        )
        if trace.timestamps_s is None:
            raise ConfigurationError(f"{self.trace}: no column is known to hold times, expected time_column")
        return trace

    def split_part(self, times: FloatArray) -> tuple[int, int, float, float]:
        """The rows of the split, from one on and before another, and when it begins and how long it lasts.

        Args:
            times: float64 [rows] of the trace, in seconds after scaling, as the results are.
        """
        last_s = float(times[-1])
        split_s = self.split_at * last_s
        border = int(np.searchsorted(times, split_s))
        if self.split == "train":
            return 0, border, 0.0, split_s
        if self.split == "test":
            return border, len(times), split_s, last_s - split_s
        return 0, len(times), 0.0, last_s

    def turns(self) -> Turns | None:
        """The conversations of the trace's part; None where rows stand alone.

        Raises ConfigurationError and DataError as `traces.sessions_of` and `read`.
        """
        if not self.conversations:
            return None
        trace = self.read()
        assert trace.timestamps_s is not None
        first, end, _, _ = self.split_part(trace.timestamps_s / self.time_scale)
        found = turns_of_part(trace, first, end, self.block_tokens or BLOCK_TOKENS)
        return found._replace(gap_s=found.gap_s / self.time_scale)

    def _part(self) -> dict[str, float]:
        """The part of the file that is read, in its own seconds; nothing where all of it is."""
        if self.start_s is None or self.window_s is None or self.split != "all":
            return {}
        return file_window(self.start_s, self.window_s, self.time_scale)


def file_window(start_s: float, window_s: float, time_scale: float = 1.0) -> dict[str, float]:
    """`start_s` and `window_s` of `read_trace` for a window in seconds after scaling.

    Somewhat wider, by a billionth and a second: where a window ends is decided after scaling, in `build_arrivals`.
    """
    start, end = start_s * time_scale, (start_s + window_s) * time_scale
    first = max(start * (1 - 1e-9) - 1, 0.0)
    return {"start_s": first, "window_s": end * (1 + 1e-9) + 1 - first}


# Fitted by maximum likelihood to the gaps of the Azure Public Dataset, LLM inference traces of November 2023.
# The code service's bursts are heavier than any gamma process's: its gaps have a CV of 13, this shape 2.1.
ARRIVALS: Mapping[str, Arrivals] = {
    "azure-conversation": Arrivals(process="gamma", rate_per_s=5.53, shape=0.87),
    "azure-code": Arrivals(process="gamma", rate_per_s=2.57, shape=0.23),
}


class ArrivalTables(NamedTuple):
    """What compiled code needs to draw the arrivals of an episode; arrays are read-only.

    Attributes:
        kind: POISSON, GAMMA, TRACE or TOGETHER.
        capacity: the requests that an episode has at most. Exact, but for renewal processes by time: there
            an episode with `capacity` requests may have been cut short, and is one in a million at most.
        horizon_s: arrivals are before it: the end of the episode or of its window; else infinite.
        mean_gap_s: 1 / rate, in operational seconds; shape: of gamma gaps.
        period_s, random_phase: of the profile; knots_s and operational_s: float64 [segments + 1], where its
            segments begin and end in the two times; stretch: float64 [segments], seconds per operational
            second, 0 where nothing arrives. No segments: a constant rate.
        rows_s: float64 [rows of the part], arrival times since the start of the part, scaled; first_row:
            the index in the trace of the first of them. Of conversations those of first turns, in the order of
            `Arrivals.turns`.
        start_rows: an episode starts at one of so many first rows; 0: at a time from first_start_s to
            last_start_s.
    """

    kind: int
    capacity: int
    horizon_s: float
    mean_gap_s: float
    shape: float
    period_s: float
    random_phase: bool
    knots_s: FloatArray
    operational_s: FloatArray
    stretch: FloatArray
    rows_s: FloatArray
    first_row: int
    start_rows: int
    first_start_s: float
    last_start_s: float


def build_arrivals(
    arrivals: Arrivals, requests: int | None = None, horizon_s: float | None = None
) -> ArrivalTables:
    """Tabulate arrivals for episodes of `requests` requests, or of `horizon_s` seconds of arrivals.

    Renewal processes need one of the two; a trace takes at most one and else its whole window; `together`
    needs `requests`, and has them all at 0 whatever the horizon.

    Raises:
        ConfigurationError: an episode without an end or with two; more than 1,000,000 requests; a window
            or number of requests that the trace does not have, or in which nothing ever arrives.
        DataError: a trace that cannot be read.
    """
    if requests is not None:
        requests = whole_number("requests", requests, 1, MAX_REQUESTS)
    if horizon_s is not None:
        if not isinstance(horizon_s, Real) or isinstance(horizon_s, bool) or not 0 < horizon_s < math.inf:
            raise ConfigurationError(f"horizon_s is {horizon_s!r}, expected a number of seconds above 0")
        horizon_s = float(horizon_s)
    if arrivals.process == "together":
        if requests is None:
            raise ConfigurationError("'together' arrivals have no requests, expected how many")
    elif requests is not None and horizon_s is not None:
        raise ConfigurationError(
            f"requests is {requests} and horizon_s {horizon_s}, expected one: "
            "an episode is by requests or by time"
        )
    elif requests is None and horizon_s is None and arrivals.process != "trace":
        raise ConfigurationError(f"{arrivals.process!r} arrivals never end, expected requests or horizon_s")

    tables = ArrivalTables(
        kind=_KINDS[arrivals.process],
        capacity=0 if requests is None else requests,
        horizon_s=math.inf if horizon_s is None else horizon_s,
        mean_gap_s=0.0 if arrivals.rate_per_s is None else 1 / arrivals.rate_per_s,
        shape=1.0 if arrivals.shape is None else arrivals.shape,
        period_s=arrivals.period_s,
        random_phase=arrivals.profile is not None and arrivals.random_phase,
        knots_s=np.zeros(1),
        operational_s=np.zeros(1),
        stretch=np.zeros(0),
        rows_s=np.zeros(0),
        first_row=0,
        start_rows=0,
        first_start_s=0.0,
        last_start_s=0.0,
    )
    if arrivals.process == "trace":
        tables = _windows(arrivals, requests, horizon_s, tables)
    elif arrivals.process != "together":
        tables = _renewal(arrivals, requests, tables)
    for value in tables:
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return tables


def most_arrivals(expected: float, shape: float, risk: float = OVERFLOW_RISK) -> int:
    """A number of requests that a renewal process exceeds with a chance of at most `risk`.

    `expected` is the mean number, rate x time. More than n requests in that time means that the n gaps
    after the first request, together gamma distributed with shape a = n x shape, last less than their
    mean would allow: Gamma(a) < x = expected x shape. Chernoff's bound on that is (x / a)^a e^(a - x) for
    a > x; this is the smallest n that brings it down to `risk`. It drops the time before the first request,
    and so holds for any law of it.
    """

    x = max(expected * shape, sys.float_info.min)

    def exceeds(n: int) -> bool:
        a = n * shape
        return a <= x or a * (math.log(x) - math.log(a)) + a - x > math.log(risk)

    if expected > MAX_REQUESTS or exceeds(MAX_REQUESTS - 1):
        raise ConfigurationError(
            f"An episode has {expected:.6g} requests on average with gaps of shape {shape}, "
            f"expected a rate and horizon that keep it below {MAX_REQUESTS}"
        )
    low, high = 0, MAX_REQUESTS - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def _renewal(arrivals: Arrivals, requests: int | None, tables: ArrivalTables) -> ArrivalTables:
    """The tables of a renewal process: its profile and, by time, its capacity."""
    if arrivals.profile is not None:
        knots_s, operational_s, stretch = operational_table(arrivals.profile, arrivals.period_s)
        tables = tables._replace(knots_s=knots_s, operational_s=operational_s, stretch=stretch)
    if requests is not None:
        return tables
    busiest = tables.horizon_s
    if arrivals.profile is not None:
        busiest = busiest_s(tables.knots_s, tables.operational_s, busiest, tables.random_phase)
    if busiest <= 0:
        raise ConfigurationError(
            f"horizon_s is {tables.horizon_s}, and the profile's rate is 0 until then, "
            "expected a longer horizon or random_phase"
        )
    assert arrivals.rate_per_s is not None
    # One more than needed, so that an episode that is cut short has `capacity` requests and no other does.
    return tables._replace(capacity=most_arrivals(arrivals.rate_per_s * busiest, tables.shape) + 1)


def _windows(
    arrivals: Arrivals, requests: int | None, horizon_s: float | None, tables: ArrivalTables
) -> ArrivalTables:
    """The tables of a trace: the rows of its part, where windows start, and how many rows one can hold."""
    trace = arrivals.read()
    assert trace.timestamps_s is not None
    times = trace.timestamps_s / arrivals.time_scale
    first, end, origin_s, part_s = arrivals.split_part(times)
    turns = arrivals.turns()
    rows = times[first:end] - origin_s
    if turns is not None:
        # Of `turns`, where first turns come first.
        first, rows = 0, times[turns.rows[: turns.sessions]] - origin_s
    where = f"{arrivals.trace}: " + ("the trace" if arrivals.split == "all" else f"split {arrivals.split!r}")
    if not len(rows):
        raise ConfigurationError(f"{where} has no request; the trace lasts {times[-1]:.6g} s")
    # Without a window of its own, a trace has one of the length of the episode.
    window_s = min(math.inf if length is None else length for length in (arrivals.window_s, horizon_s))
    tables = tables._replace(rows_s=rows, first_row=first, horizon_s=window_s)

    if arrivals.start_s is None and requests is not None and window_s == math.inf:
        if requests > len(rows):
            raise ConfigurationError(f"{where} has {len(rows)} requests, expected at least {requests}")
        return tables._replace(start_rows=len(rows) - requests + 1)

    low = high = arrivals.start_s or 0.0
    if arrivals.start_s is None and window_s < math.inf:
        high = part_s - window_s
    # A window at a given start may outlast the trace, after which nothing is known, but not cross the split.
    crosses = arrivals.split == "train" and math.inf > window_s > part_s - low
    if high < low or crosses:
        raise ConfigurationError(
            f"{where} lasts {part_s:.6g} s, expected at least {low + window_s:.6g} s "
            f"for a window of {window_s:.6g} s" + (f" that starts at {low:.6g} s" if low else "")
        )
    most = _most_rows(rows, low, high, window_s)
    if not most:
        raise ConfigurationError(f"{where} has no request in its windows, which start at {low:.6g} s")
    if requests is not None and window_s == math.inf and requests > most:
        raise ConfigurationError(
            f"{where} has {most} requests from start_s = {low:.6g} on, expected at least {requests}"
        )
    capacity = most if requests is None else min(most, requests)
    if capacity > MAX_REQUESTS:
        raise ConfigurationError(
            f"{where} has {capacity} requests in a window, expected at most {MAX_REQUESTS}"
        )
    return tables._replace(capacity=capacity, first_start_s=low, last_start_s=high)


def _most_rows(rows: npt.NDArray[np.float64], low: float, high: float, window_s: float) -> int:
    """The most rows that a window [start, start + window_s) holds, for starts from `low` to `high`.

    A window that starts before its first row can start at that row, or at `high`, and lose none. Rows are
    compared as the compiled draw compares them, so the number is exact in floating point too.
    """
    first = int(np.searchsorted(rows, low))
    last = int(np.searchsorted(rows, high, side="right"))
    times = rows.tolist()
    most, end = 0, first
    for i, start in enumerate([*times[first:last], high], start=first):
        while end < len(times) and times[end] - start < window_s:
            end += 1
        most = max(most, end - i)
    return most
