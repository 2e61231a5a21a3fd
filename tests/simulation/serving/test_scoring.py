"""Requests that wait, by score: who is wanted most is admitted first, and who is not wanted is held."""

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at
from tests.simulation.serving.service_books import always, scenario, started

PATIENT = {"objectives": {"ttft_s": 60.0, "tpot_s": 1.0}}
CROWD = scenario(
    classes={"a": PATIENT, "b": PATIENT, "c": PATIENT},
    preset="bursty/llama-65b",
    max_running=1,
    lengths={"table": "dolly-general-qa"},
)


def admissions(queries, steps=2500):
    """For every admission while several wait: records of those that waited, and which of them it was."""
    engine = started(CROWD, records=True)
    engine.allow(at.ORDER, at.BY_SCORE)
    found = []
    for _ in range(steps):
        before = engine.records(0)
        waiting = np.flatnonzero(before["status"] == at.WAITING)
        engine.state.queries[:] = queries
        engine.actions[:] = always(ORDER=at.BY_SCORE)(engine)
        engine.step()
        ranks = engine.records(0)["rank"][waiting]
        if len(waiting) > 2 and (ranks >= 0).sum() == 1:
            found.append(({name: column[waiting] for name, column in before.items()}, int(np.argmax(ranks))))
    assert len(found) > 5
    return found


def test_an_option_is_taken_from_when_it_is_allowed():
    """Also where actions had been looked at before."""
    engine = started(CROWD)
    engine.actions[:] = always(ORDER=at.BY_SCORE)(engine)
    with pytest.raises(ConfigurationError, match="outside the options"):
        engine.step()
    engine.allow(at.ORDER, at.BY_SCORE)
    engine.step()
    assert engine.counters[0, at.ITERATION] == 1
    engine.actions[0, at.ORDER] = at.BY_SCORE + 1
    assert engine.outside() == 0


def like(**queries):
    """The same query for all classes: those that are named, over 2 for everyone, so that nobody is held."""
    made = np.zeros((at.MAX_CLASSES, at.NUM_TRAITS))
    made[:, at.CONSTANT] = 2.0
    for name, value in queries.items():
        made[:, getattr(at, name)] = value
    return made


def test_a_score_is_taken_from_policies_that_ask_for_it_alone():
    engine = started(CROWD)
    engine.actions[:] = always(ORDER=at.BY_SCORE)(engine)
    with pytest.raises(ConfigurationError):
        engine.step()


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_class_that_is_wanted_more_goes_first(wanted):
    queries = like()
    queries[wanted, at.CONSTANT] = 3.0
    chosen = [waited["class"][k] == wanted for waited, k in admissions(queries) if wanted in waited["class"]]
    assert chosen
    assert all(chosen)


def test_below_zero_everyone_is_held_while_anything_runs():
    queries = np.zeros((at.MAX_CLASSES, at.NUM_TRAITS))
    queries[:, at.CONSTANT] = -1.0
    engine = started(CROWD)
    engine.allow(at.ORDER, at.BY_SCORE)
    for _ in range(200):
        engine.state.queries[:] = queries
        engine.actions[:] = always(ORDER=at.BY_SCORE)(engine)
        engine.step()
        running = engine.counters[0, at.RLP] + engine.counters[0, at.PREFILLING]
        assert running <= 1
    assert engine.counters[0, at.ADMISSIONS] > 1


@pytest.mark.parametrize(
    ("queries", "column", "sign"),
    [
        ({}, "arrival_s", -1),
        ({"WAITED": 1.0}, "arrival_s", -1),
        ({"WAITED": -1.0}, "arrival_s", 1),
        ({"PROMPT": 1.0}, "input", 1),
        ({"PROMPT": -1.0}, "input", -1),
        ({"NEED": 1.0}, "input", 1),
    ],
)
def test_traits_are_what_they_are_called(queries, column, sign):
    """Of those that wait the one with most of it, or with least, is admitted; the first to come among equals."""
    for waited, k in admissions(like(**queries)):
        values = sign * waited[column]
        assert values[k] >= values.max() - (16 if "NEED" in queries else 0)  # by whole pages
