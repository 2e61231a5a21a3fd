"""Arrivals say what they are or are refused; windows of a trace stay in their part and fit their capacity."""

import itertools
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.arrivals import ARRIVALS, Arrivals, build_arrivals, most_arrivals
from papi_env.workload.profiles import DAY, busiest_s, operational_table
from papi_env.workload.traces import trace_lengths

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
# Ten requests in 100 s, with a hole; the split of 0.7 falls on a request, which is in the later part.
TIMES = (0, 1, 1, 4, 20, 21, 69.5, 70, 99, 100)

# A function-scoped folder is shared by the examples of a property; each example writes a file of its own.
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

profiles = st.lists(
    st.tuples(st.floats(0, 0.99), st.one_of(st.just(0.0), st.floats(1e-3, 1e3))),
    min_size=1,
    max_size=6,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: tuple((0.0 if i == 0 else start, rate) for i, (start, rate) in enumerate(sorted(pairs))))


@pytest.fixture
def write(tmp_path):
    """Write a trace with requests at these seconds, all of 5 + 3 tokens or of the lengths given."""
    # A file rewritten within a tick of the clock would look unchanged.
    number = itertools.count()

    def write_trace(times=TIMES, lengths=None, path=None):
        lengths = lengths or [(5, 3)] * len(times)
        path = path or tmp_path / f"{next(number)}-trace.csv"
        rows = (f"{time:.9f},{i},{o}\n" for time, (i, o) in zip(times, lengths, strict=True))
        Path(path).write_text(HEADER + "".join(rows))
        return str(path)

    return write_trace


def replay(path, **fields):
    return Arrivals(process="trace", trace=path, **fields)


# --- What a process needs, and what does not belong to it


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process": "poisson"}, "'poisson' arrivals need rate_per_s"),
        ({"process": "gamma", "rate_per_s": 1}, "'gamma' arrivals need shape"),
        ({"process": "trace"}, "'trace' arrivals need trace"),
        (
            {"process": "poisson", "rate_per_s": 1, "shape": 2},
            "shape is 2.0, expected none: it belongs to gamma arrivals, and these are 'poisson'",
        ),
        (
            {"process": "trace", "trace": "a.csv", "rate_per_s": 1},
            "rate_per_s is 1.0, .* poisson or gamma arrivals, and these are 'trace'",
        ),
        ({"process": "together", "rate_per_s": 1}, "rate_per_s is 1.0, expected none"),
        ({"process": "together", "trace": "a.csv"}, "trace is 'a.csv', expected none"),
        ({"process": "trace", "trace": "a.csv", "profile": "day"}, "profile is .*, expected none"),
        ({"process": "poisson", "rate_per_s": 1, "split": "test"}, "split is 'test', expected none"),
        ({"process": "poisson", "rate_per_s": 1, "time_scale": 2}, "time_scale is 2.0, expected none"),
        ({"process": "poisson", "rate_per_s": 1, "period_s": 10}, "belong to a profile, and none is given"),
        ({"process": "poisson", "rate_per_s": 1, "random_phase": False}, "belong to a profile"),
        ({"process": "poisson", "rate_per_s": 0}, "expected requests/s from 1e-6 to 1e6"),
        ({"process": "poisson", "rate_per_s": math.inf}, "finite"),
        ({"process": "poisson", "rate_per_s": math.nan}, "finite"),
        ({"process": "poisson", "rate_per_s": True}, "expected a number"),
        ({"process": "poisson", "rate_per_s": "5"}, "expected a number"),
        ({"process": "gamma", "rate_per_s": 1, "shape": 0}, "expected a number from 0.001 to 10000"),
        ({"process": "trace", "trace": "a.csv", "time_scale": 0}, "expected a number from 1e-6 to 1e6"),
        ({"process": "trace", "trace": "a.csv", "window_s": 0}, "expected seconds from 1e-6"),
        ({"process": "trace", "trace": "a.csv", "split_at": 1}, "expected a share above 0 and below 1"),
        ({"process": "trace", "trace": "a.csv", "start_s": -1}, "expected seconds, 0 or from"),
        ({"process": "bursty", "rate_per_s": 1}, "'poisson', 'gamma', 'trace' or 'together'"),
        ({"process": "poisson", "rate": 1}, "rate\n.*not a known field; did you mean 'rate_per_s'"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Arrivals(**fields)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("dya", "Unknown profile 'dya'. Did you mean 'day'"),
        ((), "rise from 0"),
        (((0.5, 1),), "rise from 0"),
        (((0, 1), (0.5, 2), (0.5, 3)), "rise from 0"),
        (((0, 1), (1, 2)), "stay below 1"),
        (((0, 1), (0.5, -2)), "relative rate -2.0, expected 0, or"),
        (((0, 1), (0.5, 1e-320)), "relative rate"),
        (((0, 0), (0.5, 0)), "all relative rates are 0"),
        (((0, math.nan),), "finite"),
        (((0, 1, 2),), "at most 2 items"),
    ],
)
def test_profiles_that_are_none_are_refused(profile, message):
    with pytest.raises(ValidationError, match=message):
        Arrivals(process="poisson", rate_per_s=1, profile=profile)


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(process="together"),
        Arrivals(process="poisson", rate_per_s=2, profile="day", random_phase=False),
        Arrivals(process="gamma", rate_per_s=2, shape=0.3, profile=[[0, 1], [0.5, 0]], period_s=5),
        Arrivals(process="trace", trace="a.csv", split="train", split_at=0.6, window_s=2, time_column="at"),
    ],
    ids=lambda arrivals: arrivals.process,
)
def test_what_is_dumped_is_read_again(arrivals):
    assert Arrivals.model_validate(arrivals.model_dump()) == arrivals
    assert Arrivals.model_validate_json(arrivals.model_dump_json()) == arrivals


def test_the_day_is_found_by_name():
    assert Arrivals(process="poisson", rate_per_s=1, profile="day").profile == DAY


@pytest.mark.parametrize("name", ARRIVALS)
def test_registered_arrivals_can_be_built(name):
    assert build_arrivals(ARRIVALS[name], requests=100).capacity == 100


# --- Episodes by requests or by time


@pytest.mark.parametrize(
    ("process", "requests", "horizon_s", "message"),
    [
        ("poisson", None, None, "'poisson' arrivals never end, expected requests or horizon_s"),
        ("poisson", 10, 10.0, "requests is 10 and horizon_s 10.0, expected one"),
        ("poisson", 0, None, "requests is 0, expected a whole number from 1"),
        ("poisson", 1.5, None, "requests is 1.5, expected a whole number"),
        ("poisson", 10**7, None, "from 1 to 1000000"),
        ("poisson", None, 0, "horizon_s is 0, expected"),
        ("poisson", None, math.nan, "horizon_s is nan, expected"),
        ("poisson", None, math.inf, "horizon_s is inf, expected"),
        ("poisson", None, True, "horizon_s is True, expected"),
        ("poisson", None, "60", "horizon_s is '60', expected"),
        ("poisson", None, 1e9, "has 2e\\+09 requests on average"),
        ("together", None, 10.0, "'together' arrivals have no requests"),
    ],
)
def test_episodes_without_one_end_are_refused(process, requests, horizon_s, message):
    rate = {"rate_per_s": 2} if process == "poisson" else {}
    with pytest.raises(ConfigurationError, match=message):
        build_arrivals(Arrivals(process=process, **rate), requests, horizon_s)


def test_an_episode_in_which_nothing_can_arrive_is_refused():
    fields = {"process": "poisson", "rate_per_s": 1, "profile": ((0, 0), (0.5, 1)), "period_s": 10}
    with pytest.raises(ConfigurationError, match="rate is 0 until then"):
        build_arrivals(Arrivals(**fields, random_phase=False), horizon_s=5)
    assert build_arrivals(Arrivals(**fields), horizon_s=5).capacity > 10  # up to 10 in 5 s on average


@given(st.floats(0, 1e5), st.floats(1, 2), st.floats(1e-3, 1e3))
def test_capacity_grows_with_the_load_and_with_the_burstiness(expected, factor, shape):
    most = most_arrivals(expected, shape)
    assert expected < most <= most_arrivals(min(expected * factor, 1e5), shape)
    assert most <= most_arrivals(expected, shape / factor)


def test_capacity_covers_the_busiest_time_of_the_day():
    day = Arrivals(process="poisson", rate_per_s=100, profile="day", period_s=24)
    night = day.model_copy(update={"random_phase": False})
    # An hour of 100 requests at the mean rate: 160 at the busiest, 40 at the start of the day.
    assert build_arrivals(day, horizon_s=1).capacity == most_arrivals(160, 1) + 1
    assert build_arrivals(night, horizon_s=1).capacity == most_arrivals(40, 1) + 1
    assert build_arrivals(day, horizon_s=24).capacity == most_arrivals(2400, 1) + 1


# --- Profiles


def test_the_day_has_a_mean_of_one_and_is_four_times_as_busy_at_its_busiest():
    knots, operational, stretch = operational_table(DAY, 24.0)
    assert np.diff(operational) == pytest.approx(np.diff(knots) * [rate for _, rate in DAY])
    assert stretch.max() / stretch.min() == pytest.approx(4)


@given(profiles, st.floats(1e-3, 1e6))
def test_operational_time_keeps_the_period_and_the_ratios(profile, period_s):
    assume(any(rate for _, rate in profile))
    knots, operational, stretch = operational_table(profile, period_s)
    assert knots[-1] == operational[-1] == period_s
    assert (np.diff(operational) >= 0).all()
    rates = np.array([rate for _, rate in profile])
    assert stretch[rates > 0] * rates[rates > 0] == pytest.approx(float((stretch * rates).max()))
    assert (stretch[rates == 0] == 0).all()
    # Every segment: the operational seconds that pass in it, stretched, are its seconds.
    lasting = (np.diff(operational) * stretch)[rates > 0]
    assert lasting == pytest.approx(np.diff(knots)[rates > 0], abs=1e-14 * period_s * (1 + stretch.max()))


@given(profiles, st.floats(0.01, 3))
def test_the_busiest_time_is_found(profile, length):
    assume(any(rate for _, rate in profile))
    knots, operational, _ = operational_table(profile, 1.0)
    grid = np.linspace(0, 1, 2001)
    twice = [np.concatenate([part[:-1] + i for i in range(5)]) for part in (knots, operational)]
    elapsed = np.interp(grid + length, *twice) - np.interp(grid, *twice)
    busiest = busiest_s(knots, operational, length, True)
    steepest = max(rate for _, rate in profile) / np.dot([rate for _, rate in profile], np.diff(knots))
    assert elapsed.max() - 1e-9 <= busiest <= elapsed.max() + steepest / 2000 + 1e-9
    assert busiest_s(knots, operational, length, False) == pytest.approx(elapsed[0])


# --- Traces


@pytest.mark.parametrize(
    ("split", "first", "times"),
    [
        ("all", 0, [0, 1, 1, 4, 20, 21, 69.5, 70, 99, 100]),
        ("train", 0, [0, 1, 1, 4, 20, 21, 69.5]),
        ("test", 7, [0, 29, 30]),
    ],
)
@pytest.mark.parametrize("scale", [1, 4])
def test_parts_are_split_by_time_and_scaled(write, split, first, times, scale):
    tables = build_arrivals(replay(write(), split=split, time_scale=scale))
    assert tables.first_row == first
    assert tables.rows_s == pytest.approx(np.array(times) / scale)
    assert (tables.capacity, tables.horizon_s) == (len(times), math.inf)
    assert (tables.first_start_s, tables.last_start_s, tables.start_rows) == (0, 0, 0)


def test_windows_start_anywhere_that_keeps_them_in_their_part(write):
    path = write()
    tables = build_arrivals(replay(path, split="train", window_s=50))
    assert (tables.first_start_s, tables.last_start_s) == (0, pytest.approx(20))
    assert tables.capacity == 6  # the first six, and from 20 on at most three
    tables = build_arrivals(replay(path, split="test", window_s=10, time_scale=2))
    assert (tables.last_start_s, tables.capacity) == (pytest.approx(5), 1)
    tables = build_arrivals(replay(path, window_s=50, start_s=20))
    assert (tables.first_start_s, tables.last_start_s, tables.capacity) == (20, 20, 3)


def test_a_window_can_come_from_the_episode(write):
    path = write()
    by_time = build_arrivals(replay(path, split="train"), horizon_s=50)
    assert (by_time.horizon_s, by_time.last_start_s) == (50, pytest.approx(20))
    assert build_arrivals(replay(path, window_s=30), horizon_s=50).horizon_s == 30
    by_requests = build_arrivals(replay(path, split="train"), requests=3)
    assert (by_requests.start_rows, by_requests.capacity, by_requests.horizon_s) == (5, 3, math.inf)
    both = build_arrivals(replay(path, window_s=10), requests=3)
    assert (both.start_rows, both.capacity, both.horizon_s) == (0, 3, 10)


@pytest.mark.parametrize(
    ("fields", "requests", "message"),
    [
        ({"window_s": 101}, None, "the trace lasts 100 s, expected at least 101 s for a window of 101 s"),
        ({"window_s": 71, "split": "train"}, None, "split 'train' lasts 70 s, expected at least 71 s"),
        ({"window_s": 50, "split": "train", "time_scale": 2}, None, "split 'train' lasts 35 s"),
        (
            {"window_s": 31, "split": "train", "start_s": 40},
            None,
            "lasts 70 s, expected at least 71 s for a window of 31 s that starts at 40 s",
        ),
        ({"start_s": 101}, None, "the trace has no request in its windows, which start at 101 s"),
        ({"start_s": 22, "window_s": 40}, None, "has no request in its windows"),
        ({"split": "train", "split_at": 0.001}, 2, "split 'train' has 1 requests, expected at least 2"),
        ({"split": "test"}, 4, "split 'test' has 3 requests, expected at least 4"),
        ({"start_s": 70}, 4, "has 3 requests from start_s = 70 on, expected at least 4"),
    ],
)
def test_windows_that_a_trace_does_not_have_are_refused(write, fields, requests, message):
    path = write()
    with pytest.raises(ConfigurationError, match=f"^{re.escape(path)}: .*{message}"):
        build_arrivals(replay(path, **fields), requests)


def test_a_window_at_a_given_start_may_outlast_the_trace(write):
    assert build_arrivals(replay(write(), start_s=0, window_s=3600)).capacity == 10
    assert build_arrivals(replay(write(), start_s=0, window_s=3600, split="test")).capacity == 3


def test_a_part_without_requests_is_refused(write):
    with pytest.raises(ConfigurationError, match="split 'train' has no request; the trace lasts 0 s"):
        build_arrivals(replay(write([0, 0, 0]), split="train"))


def test_a_trace_without_times_is_refused(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("category,lin,lout,at\na,1,2,0\nb,3,4,5\na,5,6,7\n")
    with pytest.raises(ConfigurationError, match="expected time_column"):
        build_arrivals(replay(str(path)))
    tables = build_arrivals(replay(str(path), time_column="at", categories=("a",)))
    assert tables.rows_s.tolist() == [0, 7]


def test_what_is_wrong_with_a_file_is_said_by_line(write, tmp_path):
    with pytest.raises(DataError, match=r"trace\.csv:4: field 'TIMESTAMP': found '1.000000000', expected no"):
        build_arrivals(replay(write([0, 2, 1])))
    with pytest.raises(DataError, match=r"trace\.csv:3: field 'GeneratedTokens': found '0', expected"):
        build_arrivals(replay(write([0, 2], [(1, 1), (1, 0)])))
    with pytest.raises(DataError, match="No such file"):
        build_arrivals(replay(str(tmp_path / "none.csv")))
    with pytest.raises(ConfigurationError, match="'together' arrivals have no trace"):
        Arrivals(process="together").read()


def test_a_trace_is_read_once_for_as_long_as_it_stays(write):
    arrivals = replay(write())
    trace = arrivals.read()
    assert arrivals.read() is trace
    write([0, 1], path=arrivals.trace)
    assert len(arrivals.read()) == 2


@many
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40).map(lambda times: [0, *sorted(times)]),
    st.sampled_from(["all", "train", "test"]),
    st.floats(0.05, 1),
    st.floats(0, 1),
)
def test_capacity_is_the_most_that_a_window_of_the_part_holds(write, times, split, share, at):
    begin, end = {"all": (0, 1), "train": (0, 0.7), "test": (0.7, 1)}[split]
    # Windows do not hold their end, where the last request of all is.
    assume(any(begin * times[-1] <= time < end * times[-1] for time in times))
    window_s = share * (end - begin) * times[-1] * (1 - 1e-12)
    tables = build_arrivals(replay(write(times), split=split, window_s=window_s))
    rows = tables.rows_s
    starts = [
        tables.first_start_s + at * (tables.last_start_s - tables.first_start_s),
        tables.last_start_s,
        *rows[rows <= tables.last_start_s],
    ]
    counts = [int(((rows >= start) & (rows - start < window_s)).sum()) for start in starts]
    assert counts[0] <= tables.capacity == max(counts)


def test_tables_are_plain_contiguous_and_survive_pickling(write):
    for arrivals in (replay(write(), window_s=9), Arrivals(process="poisson", rate_per_s=1, profile="day")):
        tables = build_arrivals(arrivals, requests=2)
        again = pickle.loads(pickle.dumps(tables))
        for name, value, other in zip(tables._fields, tables, again, strict=True):
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous, name
                assert not value.flags.writeable, name
                assert value.tolist() == other.tolist(), name
            else:
                assert type(value) in (int, float, bool), name
                assert value == other, name


def test_arrivals_need_no_compiler():
    code = "import sys, papi_env.workload.arrivals; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# --- Requests with the lengths of their row


@pytest.mark.parametrize(
    ("beyond", "lengths", "refused", "counts"),
    [
        ("refuse", [[5, 5], [6, 5], [9, 1], [10, 1], [12, 3]], [0, 1, 0, 1, 1], (3, 0, 0)),
        ("truncate", [[5, 5], [6, 4], [9, 1], [10, 1], [12, 3]], [0, 0, 0, 1, 1], (2, 1, 0)),
        ("extrapolate", [[5, 5], [6, 5], [9, 1], [10, 1], [12, 3]], [0, 0, 0, 0, 0], (0, 0, 3)),
    ],
)
def test_requests_beyond_the_context_still_arrive(write, beyond, lengths, refused, counts):
    file = [(5, 5), (6, 5), (9, 1), (10, 1), (12, 3)]
    trace = replay(write(range(5), file)).read()
    served = trace_lengths(trace, 10, beyond)
    assert served.lengths.tolist() == lengths
    assert served.refused.tolist() == refused
    assert served.counts == counts
    assert (served.lengths.dtype, served.refused.dtype) == (np.int32, np.bool_)
    assert not served.lengths.flags.writeable
    assert served.lengths.flags.c_contiguous


@many
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=20), st.integers(2, 60)
)
def test_what_is_served_fits_the_context(write, file, limit):
    trace = replay(write(range(len(file)), file)).read()
    for beyond in ("refuse", "truncate"):
        try:
            lengths, refused, counts = trace_lengths(trace, limit, beyond)
        except ConfigurationError:
            assert all(i + (o if beyond == "refuse" else 1) > limit for i, o in file)
            continue
        assert (lengths[~refused].sum(axis=1) <= limit).all()
        assert (lengths >= 1).all()
        changed = (lengths != file).any(axis=1)
        assert (counts.refused, counts.truncated) == (refused.sum(), changed.sum())
        assert not (changed & refused).any()


def test_a_trace_that_a_model_cannot_serve_is_refused(write):
    trace = replay(write([0, 1], [(5, 5), (9, 1)])).read()
    with pytest.raises(ConfigurationError, match=r"none of 2 .* context of 9 tokens .* needs 10"):
        trace_lengths(trace, 9)
    with pytest.raises(ConfigurationError, match="policy 'truncate'; the shortest needs 6"):
        trace_lengths(trace, 5, "truncate")
    with pytest.raises(ConfigurationError, match="Did you mean 'truncate'"):
        trace_lengths(trace, 9, "truncated")
    with pytest.raises(ConfigurationError, match="context limit is 1, expected"):
        trace_lengths(trace, 1)
