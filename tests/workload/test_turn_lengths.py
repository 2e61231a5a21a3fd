"""Lengths that are known by their means: samples meet them, and have the shapes that are said."""

import numpy as np
import pytest

from papi_env.workload.lengths import LENGTH_TABLES, sample_table
from papi_env.workload.requests import Lengths
from papi_env.workload.turn_lengths import ALL_TABLES, TURN_TABLES

TABLES = pytest.mark.parametrize("table", TURN_TABLES.values(), ids=TURN_TABLES)


@TABLES
def test_samples_meet_the_published_means(table):
    mean_in, mean_out = sample_table(table).means
    assert mean_in == pytest.approx(table.input_mean, rel=0.01)
    assert mean_out == pytest.approx(table.output_mean, rel=0.01)


@TABLES
def test_outputs_are_exponential_up_to_their_tail(table):
    """An exponential's quantile at 99 % is ln(100) / ln(2) times its median; where the mean is kept, so are both."""
    outputs = dict(zip(table.levels, table.output_quantiles, strict=True))
    assert outputs[50] == pytest.approx(table.output_mean * np.log(2), rel=0.03)
    assert outputs[99] == pytest.approx(table.output_mean * np.log(100), rel=0.03)


@pytest.mark.parametrize(
    ("name", "deviation"), [("lmsys-chat-turn", 2.05), ("react-call", 0.5), ("codex-call", 1.0)]
)
def test_inputs_are_as_wide_as_said(name, deviation):
    inputs = sample_table(TURN_TABLES[name]).lengths[:, 0]
    assert inputs.std() / inputs.mean() == pytest.approx(deviation, rel=0.25)
    levels = dict(zip(TURN_TABLES[name].levels, TURN_TABLES[name].input_quantiles, strict=True))
    # Lognormal: quantiles are symmetric about the median, as ratios.
    assert levels[90] / levels[50] == pytest.approx(levels[50] / levels[10], rel=0.05)


def test_every_table_can_be_named():
    assert not set(TURN_TABLES) & set(LENGTH_TABLES)
    for name in ALL_TABLES:
        assert len(Lengths(table=name).population(200_000, "refuse")) > 0
