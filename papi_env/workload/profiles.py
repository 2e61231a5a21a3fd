"""Rates that change over a period, such as a day: piecewise constant, normalised to a mean of 1.

A process whose rate follows a profile is one of constant rate in *operational* time, the integral of the
relative rate. `operational_table` gives the knots between which the two times are proportional.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from papi_env.kernel import FloatArray

# (start, relative rate) pairs: from that share of the period on, the rate relative to the others.
Profile = tuple[tuple[float, float], ...]

# Chosen: a working day by the hour, quiet at night, a peak before lunch and one after, and four times as busy
# at its busiest as at its quietest (range 2 to 10). The mean is 1.
DAY: Profile = tuple(
    (hour / 24, rate)
    for hour, rate in ((0, 0.4), (6, 0.8), (9, 1.5), (12, 1.2), (13, 1.6), (18, 1.0), (22, 0.75))
)
PROFILES: Mapping[str, Profile] = {"day": DAY}


def check_profile(profile: Profile) -> None:
    """Raise ValueError where these are not starts that rise from 0 and stay below 1, with rates that are used."""
    starts = [start for start, _ in profile]
    if not starts or starts[0] != 0 or starts[-1] >= 1 or any(a >= b for a, b in pairwise(starts)):
        raise ValueError(f"starts {starts} must be shares of the period that rise from 0 and stay below 1")
    for _, rate in profile:
        # Chosen: ratios beyond which a profile is a mistake, and rounding would show.
        if rate != 0 and not 1e-6 <= rate <= 1e6:
            raise ValueError(f"relative rate {rate!r}, expected 0, or a number from 1e-6 to 1e6")
    if not any(rate for _, rate in profile):
        raise ValueError("all relative rates are 0, expected one above")


def operational_table(profile: Profile, period_s: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Knots [segments + 1] in seconds and in operational seconds, and seconds per operational second.

    All float64. The last knot is `period_s` in both times; a segment without arrivals has a stretch of 0.
    """
    starts, rates = np.array(profile, dtype=float).T
    shares = np.append(starts, 1.0)
    mass = np.append(0.0, np.cumsum(np.diff(shares) * rates))
    stretch = np.zeros(len(rates))
    np.divide(mass[-1], rates, out=stretch, where=rates > 0)
    # Divided first, so that a period of operational time is a period exactly.
    return shares * period_s, mass / mass[-1] * period_s, stretch


def busiest_s(knots_s: FloatArray, operational_s: FloatArray, length_s: float, random_phase: bool) -> float:
    """The most operational seconds in a time of `length_s`, that starts with a period or anywhere in it."""
    period = float(knots_s[-1])

    def elapsed(t: FloatArray) -> FloatArray:
        within: FloatArray = np.interp(t % period, knots_s, operational_s)
        return t // period * period + within

    phases = np.zeros(1)
    if random_phase:
        # Piecewise linear in the phase, with kinks where either end of the time is at a knot.
        phases = np.concatenate((knots_s, (knots_s - length_s) % period))
    return float((elapsed(phases + length_s) - elapsed(phases)).max())
