"""The timeline of continuous batching: what it draws agrees with what the machine did."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.envs.serving import JOINT_ACTIONS, ServingEnv
from papi_env.envs.serving_timeline import ServingTimeline
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

UNITS = ("pu", "fc-pim", "attn-pim", "link")


def recorded(actions, scenario="saturated/llama-65b", seed=0, system=None):
    """The timeline, and seconds [iterations, (start, duration, busy of UNITS, draft)], under a cycle of actions."""
    engine = ServingEngine(get_scenario(scenario).replace(system=system))
    engine.counters[0, at.SEED] = seed
    engine.reset()
    timeline, rows = ServingTimeline(), []
    for action in actions:
        engine.actions[0] = action
        engine.step()
        clocks = engine.clocks[0]
        timeline.record(engine.counters[0], clocks)
        if clocks[at.LAST_TIME_S] > 0:
            busy = clocks[at.LAST_BUSY_S : at.LAST_BUSY_S + len(UNITS)]
            rows.append([clocks[at.LAST_START_S], clocks[at.LAST_TIME_S], *busy, clocks[at.LAST_DRAFT_S]])
    return timeline, np.array(rows)


@settings(max_examples=20)
@given(
    choices=st.lists(st.integers(0, len(JOINT_ACTIONS) - 1), min_size=1, max_size=6),
    seed=st.integers(0, 10),
    system=st.sampled_from([None, "attacc-only", "a100"]),
)
def test_every_unit_is_drawn_for_as_long_as_it_was_busy_within_its_iteration(choices, seed, system):
    actions = [JOINT_ACTIONS[choices[i % len(choices)]] for i in range(60)]
    timeline, rows = recorded(actions, seed=seed, system=system)
    assert len(timeline.iterations) == len(rows) > 0
    for iteration, (start, duration, *busy, draft) in zip(timeline.iterations, rows, strict=True):
        for lane, seconds in zip(UNITS, busy, strict=True):
            bars = [segment for segment in iteration.segments if segment.lane == lane]
            assert sum(bar.duration_s for bar in bars) == pytest.approx(seconds, rel=1e-12, abs=1e-15)
            ends = [start]
            for bar in bars:
                assert bar.label in ServingTimeline.colours
                assert bar.duration_s > 0
                # One after the other, from the iteration's start to its end.
                assert bar.start_s >= ends[-1] - 1e-12
                ends.append(bar.start_s + bar.duration_s)
            assert ends[-1] <= start + duration + 1e-9
        drafting = sum(segment.duration_s for segment in iteration.segments if segment.label == "draft")
        assert drafting == pytest.approx(draft, rel=1e-12, abs=1e-15)


def test_iterations_follow_one_another_and_waiting_leaves_a_gap():
    timeline, rows = recorded([(1, 0, at.ALL, 0)] * 400, "light/llama-65b")
    starts, ends = rows[:, 0], rows[:, 0] + rows[:, 1]
    assert (starts[1:] >= ends[:-1] - 1e-12).all()
    gaps = starts[1:] - ends[:-1]
    assert (gaps > 1e-3).any()  # nobody there
    assert (gaps < 1e-9).sum() > len(gaps) / 2
    numbers = [iteration.number for iteration in timeline.iterations]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("action", "labels"),
    [
        ((at.PU, 0, at.ALL, 0), {"fc", "prefill", "fc + prefill", "attention", "communication"}),
        ((at.FC_PIM, 0, at.ALL, 0), {"fc", "prefill", "attention", "communication"}),
        ((at.PU, 2, at.ALL, 0), {"draft", "fc", "prefill", "fc + prefill", "attention", "communication"}),
    ],
)
def test_bars_are_named_by_what_runs(action, labels):
    timeline, _ = recorded([action] * 300)
    assert {s.label for iteration in timeline.iterations for s in iteration.segments} == labels
    # With FC kernels on FC-PIM the PUs process prompts alone.
    on_pu = {s.label for iteration in timeline.iterations for s in iteration.segments if s.lane == "pu"}
    assert ("fc" in on_pu) == (action[0] == at.PU)


def test_an_environment_draws_it():
    env = ServingEnv("saturated/llama-65b", render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.array([2, 1, 2, 1]))
    picture = env.render()
    assert picture.shape == (360, 960, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    text = ServingEnv("saturated/llama-65b", render_mode="ansi")
    text.reset(seed=0)
    text.step(np.array([0, 0, 2, 0]))
    assert "prefill@pu" in text.render()
