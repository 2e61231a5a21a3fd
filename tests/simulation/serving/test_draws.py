"""Arrivals in order, keyed and exact: each law against its distribution function, each profile against its mass."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from papi_env.simulation.draws import accepted_prefix, request_key, request_row
from papi_env.simulation.serving.draws import (
    arrival_stream,
    draw_arrivals,
    exponential,
    first_gap,
    gap,
    standard_gamma,
    uniform,
)
from papi_env.workload.arrivals import GAMMA, Arrivals, build_arrivals, most_arrivals

SHAPES = (0.02, 0.23, 0.87, 1.0, 2.5, 40.0)
TIMES = (0, 1, 1, 4, 20, 21, 69.5, 70, 99, 100)  # the split of 0.7 is at 70 s

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
seeds = st.integers(0, 2**63 - 1)


def stream(seed, episode, request):
    return np.uint64(arrival_stream(seed, episode, request))  # a key comes back as a plain int


def draw(tables, seed=0, episode=0, room=None):
    """Times and rows of an episode, written into arrays that held something else."""
    room = tables.capacity if room is None else room
    times, rows = np.full(room, np.nan), np.full(room, -7, dtype=np.int64)
    count = draw_arrivals(seed, episode, tables, times, rows)
    assert np.isnan(times[count:]).all()
    assert (rows[count:] == -7).all()
    return times[:count], rows[:count]


def counts(tables, episodes, seed=0):
    return np.array([len(draw(tables, seed, episode)[0]) for episode in range(episodes)])


def gamma_cdf(shape, x):
    """The regularised lower incomplete gamma function, by its series of positive terms."""
    x = np.asarray(x, dtype=float)
    safe = np.maximum(x, 1e-300)
    term = np.exp(shape * np.log(safe) - safe - math.lgamma(shape + 1))
    total, k = term.copy(), 0
    while (term > 1e-17 * total).any():
        k += 1
        term = term * safe / (shape + k)
        total += term
    return np.minimum(total, 1)


def distance(sample, cdf):
    """Kolmogorov-Smirnov distance in units of 1 / sqrt(n): above 1.95 for one in a thousand true samples."""
    values = cdf(np.sort(sample))
    n = len(values)
    steps = np.arange(n + 1) / n
    return max((steps[1:] - values).max(), (values - steps[:-1]).max()) * math.sqrt(n)


def sigmas(sample, mean):
    """How many standard errors the sample's mean lies from where it should be."""
    sample = np.asarray(sample, dtype=float)
    return abs(sample.mean() - mean) / (sample.std() / math.sqrt(len(sample)))


@pytest.fixture
def trace(tmp_path):
    """Arrivals of a trace file with requests at TIMES."""
    path = tmp_path / "trace.csv"
    rows = "".join(f"{time},5,3\n" for time in TIMES)
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)

    def arrivals(**fields):
        return Arrivals(process="trace", trace=str(path), **fields)

    return arrivals


@st.composite
def renewals(draw_from):
    """Poisson and gamma arrivals, some with a profile."""
    fields = {"process": "poisson", "rate_per_s": draw_from(st.floats(0.1, 20))}
    if draw_from(st.booleans()):
        fields |= {"process": "gamma", "shape": draw_from(st.floats(1e-3, 1e3))}
    if draw_from(st.booleans()):
        starts = draw_from(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(sorted))
        levels = st.one_of(st.just(0.0), st.floats(0.01, 10))
        fields["profile"] = tuple((start, draw_from(levels)) for start in (0, *starts))
        assume(any(rate for _, rate in fields["profile"]))
        fields["period_s"] = draw_from(st.floats(0.1, 100))
        fields["random_phase"] = draw_from(st.booleans())
    return Arrivals(**fields)


# --- The laws


def test_uniforms_are_uniform_and_never_at_their_ends():
    key = stream(1, 2, 3)
    sample = np.array([uniform(key, i) for i in range(20_000)])
    assert distance(sample, lambda u: u) < 1.95
    assert 0 < sample.min() < sample.max() < 1


def test_exponentials_have_their_distribution():
    sample = [exponential(stream(5, 0, i), 1) for i in range(20_000)]
    assert distance(sample, lambda x: 1 - np.exp(-x)) < 1.95


@pytest.mark.parametrize("shape", SHAPES)
def test_gammas_have_their_distribution(shape):
    sample = np.array([standard_gamma(stream(11, 0, i), 1, shape) for i in range(20_000)])
    assert distance(sample, lambda x: gamma_cdf(shape, x)) < 1.95
    assert sigmas(sample, shape) < 4
    assert sigmas((sample - shape) ** 2, shape) < 4


@pytest.mark.parametrize("shape", SHAPES)
def test_gaps_have_a_mean_of_one_and_the_burstiness_of_their_shape(shape):
    gaps = np.array([gap(stream(3, 1, i), GAMMA, shape) for i in range(20_000)])
    assert sigmas(gaps, 1) < 4
    assert sigmas((gaps - 1) ** 2, 1 / shape) < 4  # so the CV is 1 / sqrt(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_gap_is_what_remains_of_one_at_a_random_time(shape):
    gaps = np.array([first_gap(stream(3, 2, i), GAMMA, shape) for i in range(20_000)])

    def cdf(x):
        # The integral of 1 - F over the mean gap, by parts; in units of the gamma's scale.
        x = x * shape
        return gamma_cdf(shape + 1, x) + x * (1 - gamma_cdf(shape, x)) / shape

    assert distance(gaps, cdf) < 1.95
    assert sigmas(gaps, (1 + 1 / shape) / 2) < 4


# --- The processes


@given(renewals(), seeds, st.integers(0, 2**40), st.floats(0.1, 30))
def test_arrivals_are_in_order_before_the_horizon_and_in_no_trace(arrivals, seed, episode, horizon_s):
    assume(arrivals.profile is None or arrivals.random_phase)
    tables = build_arrivals(arrivals, horizon_s=horizon_s)
    times, rows = draw(tables, seed, episode)
    assert (np.diff(times, prepend=0.0) >= 0).all()
    assert (times < horizon_s).all()
    assert (rows == -1).all()
    assert len(times) < tables.capacity


@given(renewals(), seeds, st.integers(0, 2**40), st.integers(1, 60), st.floats(0.1, 30))
def test_an_arrival_belongs_to_its_request_whatever_the_episode_asks_for(
    arrivals, seed, episode, requests, horizon_s
):
    assume(arrivals.profile is None or arrivals.random_phase)
    whole, _ = draw(build_arrivals(arrivals, requests=80), seed, episode)
    assert len(whole) == 80
    assert (np.diff(whole, prepend=0.0) >= 0).all()
    fewer = build_arrivals(arrivals, requests=requests)
    assert draw(fewer, seed, episode)[0].tolist() == whole[:requests].tolist()
    assert draw(fewer, seed, episode, room=7)[0].tolist() == whole[: min(requests, 7)].tolist()
    assert draw(fewer, seed, episode, room=100)[0].tolist() == whole[:requests].tolist()
    by_time, _ = draw(build_arrivals(arrivals, horizon_s=horizon_s), seed, episode)
    before = whole[whole < horizon_s]
    assert by_time[: len(before)].tolist() == before.tolist()
    assert len(by_time) == len(before) or len(before) == 80


@pytest.mark.parametrize("process", [{"process": "poisson"}, {"process": "gamma", "shape": 0.5}])
def test_other_seeds_and_episodes_have_other_arrivals(process):
    tables = build_arrivals(Arrivals(rate_per_s=2, **process), requests=50)
    episodes = [draw(tables, seed, episode)[0] for seed in range(6) for episode in range(6)]
    assert len({time for times in episodes for time in times}) == 36 * 50


def test_arrivals_share_nothing_with_lengths_and_acceptance():
    keys = [np.uint64(request_key(9, 0, i)) for i in range(20_000)]
    gaps = [uniform(stream(9, 0, i), 1) for i in range(20_000)]
    lengths = [request_row(key, 2**20) for key in keys]
    thresholds = np.full((1, 7), 0.7 * 2**53, dtype=np.uint64)
    accepted = [accepted_prefix(key, 0, 7, 0, thresholds) for key in keys]
    for other in (lengths, accepted):
        # The correlation of n independent pairs has a standard deviation of 1 / sqrt(n).
        assert abs(np.corrcoef(gaps, other)[0, 1]) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("shape", [0.05, 0.23, 0.87, 1.0, 8.0])
@pytest.mark.parametrize("profile", [None, "day"])
def test_the_mean_rate_is_what_was_asked_for_however_short_and_bursty(shape, profile):
    arrivals = Arrivals(process="gamma", rate_per_s=5, shape=shape, profile=profile)
    assert sigmas(counts(build_arrivals(arrivals, horizon_s=2), 4000), 10) < 4


def test_poisson_counts_vary_as_much_as_their_mean():
    tables = build_arrivals(Arrivals(process="poisson", rate_per_s=5), horizon_s=4)
    number = counts(tables, 6000)
    assert sigmas(number, 20) < 4
    assert sigmas((number - 20.0) ** 2, 20) < 4


def test_a_gamma_of_shape_one_is_poisson():
    tables = build_arrivals(Arrivals(process="gamma", rate_per_s=5, shape=1), horizon_s=4)
    assert sigmas((counts(tables, 6000) - 20.0) ** 2, 20) < 4


@pytest.mark.parametrize("shape", [0.05, 0.23, 1.0, 8.0])
@pytest.mark.parametrize("expected", [0.5, 20.0, 500.0])
def test_an_episode_outgrows_its_capacity_less_than_once_in_a_million(shape, expected):
    most = most_arrivals(expected, shape)
    # More than `most` requests need the gaps between them, as many, to fit in. A fifth less would not do.
    assert gamma_cdf(most * shape, expected * shape) <= 1e-6
    assert gamma_cdf((0.8 * most - 1) * shape, expected * shape) > 1e-6


@pytest.mark.parametrize("shape", [0.05, 1.0, 8.0])
def test_episodes_that_outgrow_a_capacity_are_rarer_than_its_risk(shape):
    arrivals = Arrivals(process="gamma", rate_per_s=5, shape=shape)
    number = counts(build_arrivals(arrivals, horizon_s=4), 4000)
    # 200 of 4000 would be the risk itself, which the bound stays well below.
    assert (number > most_arrivals(20, shape, risk=0.05)).sum() < 200
    assert (number > 20).sum() > 200  # a capacity of the mean would not do


# --- Profiles

PROFILE = ((0, 1), (0.25, 0), (0.5, 4), (0.9, 0.5))


@pytest.mark.parametrize("process", [{"process": "poisson"}, {"process": "gamma", "shape": 0.3}])
def test_a_profile_shares_out_the_requests_of_a_period(process):
    arrivals = Arrivals(rate_per_s=4, profile=PROFILE, period_s=10, random_phase=False, **process)
    tables = build_arrivals(arrivals, horizon_s=30)
    edges = np.array([0, 2.5, 5, 9, 10])
    edges = np.concatenate((edges, 10 + edges[1:], 20 + edges[1:]))
    histograms = np.array([np.histogram(draw(tables, 3, e)[0], edges)[0] for e in range(2000)])
    mass = np.array([0.25, 0, 1.6, 0.05])
    for segment, expected in enumerate(np.tile(40 * mass / mass.sum(), 3)):
        if expected == 0:
            assert not histograms[:, segment].any()
        else:
            assert sigmas(histograms[:, segment], expected) < 4


def test_episodes_start_at_a_random_phase_unless_told_otherwise():
    fields = {"process": "poisson", "rate_per_s": 50, "profile": ((0, 0), (0.5, 1)), "period_s": 10}
    anywhere = build_arrivals(Arrivals(**fields), requests=1)
    # At 100 a second while there are any, the first request tells how long there were none.
    first = np.array([draw(anywhere, 0, episode)[0][0] for episode in range(4000)])
    assert sigmas(first < 0.2, (5 + 0.2 - 0.01) / 10) < 4
    assert sigmas(first, 1.25 + 0.01) < 4
    start = build_arrivals(Arrivals(**fields, random_phase=False), requests=1)
    first = np.array([draw(start, 0, episode)[0][0] for episode in range(1000)])
    assert first.min() >= 5
    assert sigmas(first, 5.01) < 4


def test_rounding_does_not_let_an_arrival_precede_its_episode():
    # Gaps of a microsecond, where times in the period are rounded to a tenth of one.
    arrivals = Arrivals(process="poisson", rate_per_s=1e6, profile="day", period_s=1e9)
    tables = build_arrivals(arrivals, requests=3)
    assert min(draw(tables, 0, episode)[0][0] for episode in range(300)) == 0


def test_a_flat_profile_changes_nothing_but_rounding():
    plain = Arrivals(process="gamma", rate_per_s=3, shape=0.5)
    flat = plain.model_copy(update={"profile": ((0, 2), (0.4, 2)), "period_s": 7.0, "random_phase": False})
    expected, _ = draw(build_arrivals(plain, requests=500))
    assert draw(build_arrivals(flat, requests=500))[0] == pytest.approx(expected, rel=1e-12)


# --- Traces

# Rows from and below, and seconds.
PARTS = [("all", 0, 10, 100), ("train", 0, 7, 70), ("test", 7, 10, 30)]


def test_together_is_at_once():
    times, rows = draw(build_arrivals(Arrivals(process="together"), requests=5), 3, 4)
    assert times.tolist() == [0] * 5
    assert rows.tolist() == [-1] * 5


@pytest.mark.parametrize("scale", [1, 2])
def test_the_whole_trace_is_replayed(trace, scale):
    for fields in ({}, {"start_s": 0, "window_s": 3600}):
        times, rows = draw(build_arrivals(trace(time_scale=scale, **fields)))
        assert (times * scale).tolist() == list(TIMES)
        assert rows.tolist() == list(range(10))


def test_a_pinned_window_is_the_same_in_every_episode(trace):
    tables = build_arrivals(trace(start_s=20, window_s=50))
    for episode in range(20):
        times, rows = draw(tables, 1, episode)
        assert times.tolist() == [0, 1, 49.5]  # 70 is where the window ends
        assert rows.tolist() == [0, 1, 2]  # of what is read, which is the window alone
    assert draw(build_arrivals(trace(split="test", start_s=20)))[0].tolist() == [9, 10]


@pytest.mark.parametrize(("split", "low", "high", "part_s"), PARTS)
def test_the_whole_part_is_replayed(trace, split, low, high, part_s):
    times, rows = draw(build_arrivals(trace(split=split)))
    assert rows.tolist() == list(range(low, high))
    assert times.tolist() == [time - (70 if split == "test" else 0) for time in TIMES[low:high]]


@many
@pytest.mark.parametrize(("split", "low", "high", "part_s"), PARTS)
@given(share=st.floats(0.01, 1), scale=st.floats(0.5, 4), seed=seeds)
def test_windows_hold_the_rows_of_their_part_and_no_others(
    trace, split, low, high, part_s, share, scale, seed
):
    part_s = part_s / scale
    window_s = share * part_s * (1 - 1e-9)
    tables = build_arrivals(trace(split=split, time_scale=scale), horizon_s=window_s)
    file = np.array(TIMES) / scale
    begin = 70 / scale if split == "test" else 0
    for episode in range(30):
        times, rows = draw(tables, seed, episode)
        assert (np.diff(times, prepend=0.0) >= 0).all()
        assert (times < window_s).all()
        assert ((rows >= low) & (rows < high)).all()
        if len(rows):
            # One start explains all times, and its window neither misses a row nor leaves the part.
            start = file[rows] - times
            assert np.ptp(start) < 1e-9
            assert begin - 1e-9 <= start[0] <= begin + part_s - window_s + 1e-9
            inside = (file >= start[0] + 1e-9) & (file < start[0] + window_s - 1e-9)
            assert set(np.flatnonzero(inside)) <= set(rows) == set(range(rows[0], rows[-1] + 1))


def test_windows_start_uniformly(trace):
    tables = build_arrivals(trace(window_s=80))
    starts = []
    for episode in range(4000):
        times, rows = draw(tables, 0, episode)
        starts.append(TIMES[rows[0]] - times[0])
    assert distance(np.array(starts), lambda t: t / 20) < 1.95


def test_windows_of_rows_start_uniformly(trace):
    tables = build_arrivals(trace(split="train"), requests=3)
    first = []
    for episode in range(4000):
        times, rows = draw(tables, 0, episode)
        assert (np.diff(rows) == 1).all()
        assert times.tolist() == [TIMES[row] - TIMES[rows[0]] for row in rows]
        first.append(rows[0])
    number = np.bincount(first, minlength=5)
    assert len(number) == 5
    # Chi-square with 4 degrees of freedom: 18.5 is its 99.9th percentile.
    assert ((number - 800) ** 2 / 800).sum() < 18.5


def test_a_window_in_a_hole_is_empty(trace):
    tables = build_arrivals(trace(window_s=5))
    assert tables.capacity == 4
    number = counts(tables, 3000)
    # Starts from 0 to 95 whose next request is 5 s away or more.
    assert sigmas(number == 0, ((15 - 4) + (64.5 - 21) + (94 - 70)) / 95) < 4
