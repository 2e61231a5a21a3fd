"""Stacks that warm up: the physics of a node, whose joules warm it, what heat does to an episode, and a guard."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from agents.evaluate import evaluate
from agents.serving.greedy import ProfileGreedy
from agents.serving.inside.play import play_range
from agents.serving.rules import fixed_policy
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.energy import LINK
from papi_env.hardware.system import get_system
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.heat import KEYS, WEIGHTS, hot_factor, pass_node, settled_c, stepped_c
from papi_env.simulation.serving.heat_tables import doubled_refresh, write_heat
from papi_env.simulation.serving.rollout import roll
from papi_env.workload.heat import Heat

# Of HBM3: a refresh takes 484 clocks of 5070, 46 of them in the place of a row change.
REFRESHED = (5070 - 438) / (5070 - 2 * 438)
# Too hot for anything that happens here.
NEVER = {"refresh_at_c": 180.0, "release_at_c": 190.0, "throttle_at_c": 200.0}


def scenario(heat, system="papi", **serving):
    given = {
        "arrivals": {"process": "poisson", "rate_per_s": 10.0},
        "lengths": {"input": 300, "output": 40},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "requests": 8,
        "max_running": 16,
        **serving,
    }
    if heat is not None:
        given["heat"] = heat
    return parse_scenario(
        {"name": "test", "system": system, "model": "llama-65b", "energy_weight": 0.01, "serving": given},
        "test",
    )


def begun(heat, action=(1, 0, 2, 0), num_envs=1, **arguments):
    engine = ServingEngine(scenario(heat, **arguments), num_envs)
    engine.counters[:, at.SEED] = 5
    engine.reset()
    engine.actions[:, :4] = action
    return engine


def scalars_of(heat, system="papi"):
    scalars = np.zeros(at.NUM_SCALARS)
    write_heat(heat, get_system(system), scalars)
    return scalars


# --- a node ---------------------------------------------------------------------------------------------

temperatures = st.floats(60.0, 150.0)
powers = st.floats(0.0, 150.0)
spans = st.floats(1e-6, 100.0)


@given(temperatures, powers, spans, st.floats(0.0, 1.0))
def test_the_step_does_not_matter(start, power, seconds, share):
    scalars = scalars_of(Heat())
    whole = stepped_c(start, power, seconds, scalars)
    part = stepped_c(start, power, share * seconds, scalars)
    assert stepped_c(part, power, (1 - share) * seconds, scalars) == pytest.approx(whole, rel=1e-9)


@given(temperatures, powers, spans, st.floats(0.1, 10.0))
def test_it_goes_towards_ambient_and_resistance_times_power_and_no_further(start, power, seconds, more):
    heat = Heat(resistance_k_per_w=0.7, ambient_c=60)
    scalars = scalars_of(heat)
    settled = settled_c(power, scalars)
    assert settled == pytest.approx(60 + 0.7 * power)
    now = stepped_c(start, power, seconds, scalars)
    assert min(start, settled) - 1e-9 <= now <= max(start, settled) + 1e-9
    assert now >= 60 - 1e-9
    assert stepped_c(start, power + more, seconds, scalars) > now
    assert stepped_c(start, power, 100 * heat.time_constant_s, scalars) == pytest.approx(settled)


def test_after_a_time_constant_a_third_is_left():
    heat = Heat(resistance_k_per_w=2.0, capacity_j_per_k=0.5)
    found = stepped_c(80.0, 0.0, heat.time_constant_s, scalars_of(heat))
    assert found == pytest.approx(60 + 20 / np.e)
    # And at first the whole power goes into the capacity.
    assert stepped_c(60.0, 10.0, 1e-6, scalars_of(heat)) == pytest.approx(60 + 10 * 1e-6 / 0.5, abs=1e-9)


def test_a_throttle_is_left_where_it_has_cooled_enough():
    scalars, clocks = scalars_of(Heat()), np.zeros((1, at.NUM_CLOCKS))
    stacks, idle_w = scalars[at.HEAT_STACKS], scalars[at.HEAT_IDLE_W]
    found = []
    for settled in (84.0, 86.0, 94.0, 96.0, 91.0, 89.0, 94.0, 80.0):
        joules = ((settled - 60) / 1.5 - idle_w) * stacks * 1000.0
        pass_node(0, WEIGHTS, joules, 1000.0, clocks, scalars)
        assert clocks[0, at.HEAT] == pytest.approx(settled)
        found.append(hot_factor(0, WEIGHTS, clocks, scalars))
    hot, throttled = REFRESHED, 2 * REFRESHED
    assert found == pytest.approx([1, hot, hot, throttled, throttled, hot, hot, 1])
    assert clocks[0, at.HEAT + KEYS] == 0.0


def test_doubled_refreshes_take_what_the_kernels_of_such_stacks_take():
    unit = get_system("papi").fc_pim
    technology = unit.stack.technology
    hot = unit.model_copy(
        update={
            "stack": unit.stack.model_copy(
                update={"technology": technology.model_copy(update={"name": "hot", "t_refi": 2535})}
            )
        }
    )
    assert doubled_refresh(unit) == pytest.approx(REFRESHED)
    for kernel in get_scenario("creative-writing/llama-65b").model.fc_kernels():
        kernel = replace(kernel, count=1)
        for rows in (1, 16, 64):
            ratio = costs.pim_fc_s(hot, kernel, rows) / costs.pim_fc_s(unit, kernel, rows)
            assert ratio == pytest.approx(REFRESHED, rel=1e-9)


# --- whose joules warm it -------------------------------------------------------------------------------


def joules_of(engine, before, node, heat, stacks, idle_w, seconds):
    """What a node took in a step, from its temperatures alone."""
    x = np.exp(-seconds / heat.time_constant_s)
    settled = (engine.clocks[0, at.HEAT + node] - before[node] * x) / (1 - x)
    power = (settled - heat.ambient_c) / heat.resistance_k_per_w
    return (power - idle_w) * stacks * seconds


def node_joules(action, heat, **arguments):
    """(weights', keys' joules, joules by cause) of each iteration of an episode; those that idle are left out."""
    engine = begun(heat.model_dump(), action, **arguments)
    system, found = engine.scenario.system, []
    while not engine.counters[0, at.DONE]:
        before, clocks = engine.clocks[0, at.HEAT : at.HEAT + 2].copy(), engine.clocks[0].copy()
        engine.step()
        seconds = engine.clocks[0, at.LAST_TIME_S]
        if engine.clocks[0, at.IDLE_S] > clocks[at.IDLE_S]:
            continue
        nodes = [
            0.0
            if unit is None
            else joules_of(engine, before, node, heat, unit.stacks, unit.idle_power_w, seconds)
            for node, unit in ((WEIGHTS, system.fc_pim), (KEYS, system.attn_pim))
        ]
        causes = slice(at.CAUSE_J, at.CAUSE_J + at.NUM_CAUSES)
        found.append((*nodes, engine.clocks[0, causes] - clocks[causes]))
    return engine, found


# A node of little capacity, so that iterations are seen in its temperature.
QUICK = Heat(resistance_k_per_w=0.5, capacity_j_per_k=0.05, **NEVER)


@pytest.mark.parametrize("system", ["papi-pim-only", "attacc-only"])
def test_where_stacks_do_all_the_work_all_but_the_links_joules_warm_them(system):
    _, found = node_joules((1, 0, 2, 0), QUICK, system=system, draft_cost=False)
    assert len(found) > 20
    for weights, keys, causes in found:
        assert weights >= 0
        assert keys >= 0
        assert weights + keys == pytest.approx(causes.sum() - causes[LINK], rel=1e-6)


def test_what_pus_read_warms_the_stacks_with_the_weights():
    engine, found = node_joules((0, 0, 2, 0), QUICK, prefill=False)
    model = engine.scenario.model
    weights_bytes = sum(kernel.count * kernel.weight_bytes for kernel in model.fc_kernels())
    # AttAcc's 26.32 pJ/B from a bank to the buffer die; activations are some per cent of the weights.
    for weights, keys, causes in found:
        assert 1.0 <= weights / (weights_bytes * 26.32e-12) < 1.05
        assert 0 < keys < causes.sum()


def test_machines_without_such_stacks_have_none_that_warm_up():
    engine, _ = node_joules((0, 0, 2, 0), QUICK, system="a100-attacc")
    assert engine.clocks[0, at.HEAT + WEIGHTS] == QUICK.ambient_c
    assert engine.clocks[0, at.HEAT + KEYS] > QUICK.ambient_c + 1


# --- an episode -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("serving", [{}, {"service": {}}, {"token_budget": 512}])
@pytest.mark.parametrize("action", [(0, 0, 2, 0), (1, 2, 2, 1), (2, 1, 1, 0)])
def test_heat_that_reaches_no_threshold_changes_nothing_else(action, serving):
    engine, twin = begun(NEVER, action, **serving), begun(None, action, **serving)
    for each in (engine, twin):
        each.run()
    warmed = slice(at.HEAT, at.THROTTLED + 2)
    assert (engine.clocks[:, at.HEAT] > 60).all()
    assert not twin.clocks[:, warmed].any()
    engine.clocks[:, warmed] = 0.0
    for ours, theirs in zip(engine.state, twin.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    seen = engine.observations.copy()
    if engine.tables.scalars[at.SERVICE] > 0:
        # With classes temperatures are observed.
        seen[:, (at.SERVICE_COLUMN.heat_weights, at.SERVICE_COLUMN.heat_attention)] = 0.0
    np.testing.assert_array_equal(seen, twin.observations)


@pytest.mark.parametrize(
    ("heat", "factor"),
    [
        # Idle stacks alone, of 4 W, come to 66 C.
        ({"refresh_at_c": 61.0}, REFRESHED),
        ({"refresh_at_c": 61.0, "release_at_c": 62.0, "throttle_at_c": 63.0}, 2 * REFRESHED),
    ],
)
def test_hot_stacks_are_slower_and_what_pus_read_is_not(heat, factor):
    engine = begun(heat, (1, 0, 2, 0), prefill=False)
    engine.step()
    engine.step()
    seen = engine.clocks[0, at.SEEN_DRIFT : at.SEEN_DRIFT + 3]
    assert seen == pytest.approx([1, factor, factor])
    cool = begun(None, (1, 0, 2, 0), prefill=False)
    cool.step()
    cool.step()
    assert engine.clocks[0, at.LAST_FC_S] == pytest.approx(factor * cool.clocks[0, at.LAST_FC_S])
    assert engine.clocks[0, at.LAST_DYNAMIC_J] == cool.clocks[0, at.LAST_DYNAMIC_J]
    for each in (engine, cool):
        each.actions[:, at.FC] = at.PU
        each.step()
    assert engine.clocks[0, at.LAST_FC_S] == cool.clocks[0, at.LAST_FC_S]


def test_stacks_cool_while_the_machine_waits():
    arrivals, lengths = {"process": "poisson", "rate_per_s": 0.01}, {"input": 300, "output": 400}
    engine = begun(NEVER, arrivals=arrivals, lengths=lengths, requests=2)
    assert engine.clocks[0, at.HEAT] == pytest.approx(60 + 1.5 * 4)
    hottest = 0.0
    while engine.counters[0, at.FINISHED] == 0:
        hottest = engine.clocks[0, at.HEAT]
        engine.step()
    # The first request is done, and time has passed to the arrival of the second.
    assert engine.clocks[0, at.TIME_S] - engine.clocks[0, at.LAST_START_S] > 20
    assert hottest > 70
    assert engine.clocks[0, at.HEAT] == pytest.approx(66, abs=0.01)


def test_rollouts_and_batches_warm_up_as_steps_do():
    heat = {"capacity_j_per_k": 0.1, "refresh_at_c": 72.0, "release_at_c": 74.0, "throttle_at_c": 76.0}
    actions = np.array([(1, 1, 2, 0), (0, 0, 2, 0), (2, 2, 1, 1)])
    engine, twin = begun(heat, actions, num_envs=3), begun(heat, actions, num_envs=3)
    roll(engine, play_range, fixed_policy(actions)[:])
    hot = np.zeros(3, dtype=bool)
    while not (twin.counters[:, at.DONE] == 1).all():
        twin.step()
        hot |= twin.clocks[:, at.THROTTLED] > 0
    assert hot.all()
    for ours, theirs in zip(engine.state, twin.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    alone = begun(heat, actions[2])
    alone.run()
    np.testing.assert_array_equal(alone.clocks[0], twin.clocks[2])


# --- a guard --------------------------------------------------------------------------------------------


class Guarded(ProfileGreedy):
    """The rule, but for FC kernels on the PUs from 92 C on, until the stacks have cooled to 88."""

    def bind(self, env):
        super().bind(env)
        self.env = env
        self.rests = np.zeros(env.num_envs, dtype=bool)

    def predict(self, *arguments, **named):
        actions, state = super().predict(*arguments, **named)
        now = self.env.engine.clocks[:, at.HEAT]
        self.rests = (now > 92.0) | (self.rests & (now > 88.0))
        actions[self.rests, at.FC] = at.PU
        return actions, state


class Watched(ProfileGreedy):
    """The rule; counts iterations in which the stacks are throttled."""

    def bind(self, env):
        super().bind(env)
        self.env, self.throttled = env, 0

    def predict(self, *arguments, **named):
        self.throttled += int((self.env.engine.clocks[:, at.THROTTLED] > 0).sum())
        return super().predict(*arguments, **named)


def test_a_guard_beats_the_rule_that_sees_no_further_than_an_iteration():
    """Long answers near the crossing of both units, a small heat sink: the throttle costs more than the PUs do."""
    hot = {
        "name": "hot",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 20.0},
            "lengths": {"input": 64, "output": 300},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.08},
            "horizon_s": 15.0,
            "max_running": 128,
            "heat": {"resistance_k_per_w": 2.0},
        },
    }
    cool = {**hot, "serving": {name: part for name, part in hot["serving"].items() if name != "heat"}}

    def returns(policy, described):
        env = ServingVectorEnv(described, num_envs=8, autoreset_mode=AutoresetMode.DISABLED)
        return evaluate(policy, env, range(3, 11))["return"]

    rule = Watched()
    found, guarded, without = returns(rule, hot), returns(Guarded(), hot), returns(ProfileGreedy(), cool)
    assert rule.throttled > 100
    gain = guarded - found
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    # 2.365: Student's t of 7 degrees of freedom, 95 %.
    assert gain.mean() > 2.365 * error
    assert gain.mean() > 0.03 * found.mean()
    assert found.mean() < guarded.mean() < without.mean()


# --- what users write -----------------------------------------------------------------------------------


def test_dumps_have_heat_where_there_is_some():
    assert "heat" not in scenario(None).model_dump()["serving"]
    hot = scenario({"ambient_c": 50})
    assert hot.serving.heat == Heat(ambient_c=50)
    assert parse_scenario(hot.model_dump(), "again") == hot


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        ({"ambient_c": 90}, "ambient_c is 90 and refresh_at_c 85: expected ambient_c < refresh_at_c"),
        ({"release_at_c": 95}, "release_at_c is 95 and throttle_at_c 95: expected"),
        ({"release_at_c": 80}, "refresh_at_c is 85 and release_at_c 80: expected"),
        ({"throttle_at_c": 368.15}, "throttle_at_c.*found 368.15, expected degrees Celsius from -40 to 200"),
        ({"resistance_k_per_w": 0}, "resistance_k_per_w.*expected K/W"),
        ({"resistance_k_per_w": 1e9}, "resistance_k_per_w.*expected K/W"),
        ({"resistance_k_per_w": -1.5}, "resistance_k_per_w.*expected K/W"),
        ({"capacity_j_per_k": float("nan")}, "capacity_j_per_k.*found nan"),
        ({"capacity_j_per_k": 0}, "capacity_j_per_k.*expected J/K"),
        ({"throttle": 0.5}, "throttle.*found 0.5, expected times as long as profiled from 1 to 10"),
        ({"resistance": 1}, "resistance.*resistance_k_per_w"),
    ],
)
def test_nonsense_is_refused(heat, message):
    with pytest.raises(ConfigurationError, match=message):
        scenario(heat)


def test_refreshes_that_leave_no_time_are_refused():
    unit = get_system("papi").fc_pim
    technology = unit.stack.technology.model_copy(update={"name": "slow", "t_refi": 800})
    slow = unit.model_copy(update={"stack": unit.stack.model_copy(update={"technology": technology})})
    with pytest.raises(ConfigurationError, match="leave slow no time when it is hot"):
        doubled_refresh(slow)
