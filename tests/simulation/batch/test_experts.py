"""Experts in an engine: tabulated costs against brute force, draws, crossings, and sums."""

from itertools import pairwise

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import get_system
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import routed
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.expert_tables import SAMPLES, expert_profile, expert_table, reachable_rows
from papi_env.simulation.batch.iteration import Units, crossings_with_experts, drawn_routing
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import get_transformer

SCENARIO = get_scenario("mixture-of-experts-zipf").replace(batch_size=6, speculation=2)
SYSTEM, MODEL = SCENARIO.system, SCENARIO.model
ROUTING = routing_of(MODEL)
ROWS = reachable_rows(6, (2,))


def engine(scenario=SCENARIO, num_envs=2, **arguments):
    made = DecodeEngine(
        scenario, num_envs, choices=at.NUM_EXPERT_CHOICES, **({"default_switch_s": 1e-6} | arguments)
    )
    made.start(list(range(num_envs)))
    return made


def with_experts(model="qwen3-30b-a3b", **changes):
    """A model whose experts are drawn or shaped otherwise."""
    model = get_transformer(model)
    experts = type(model.experts).model_validate({**model.experts.model_dump(), **changes})
    return model.model_copy(update={"experts": experts})


# --- one layer ---------------------------------------------------------------------------------------


def brute_force(counts, group_of, groups, one, fixed):
    """Seconds of every number of hot experts, hottest first, [active experts + 1]."""
    order = sorted((e for e in range(len(counts)) if counts[e]), key=lambda e: -counts[e])
    found = []
    for hot in range(len(order) + 1):
        on_pu, on_pim = order[:hot], order[hot:]

        def load(experts, column):
            return [sum(one[counts[e], column] for e in experts if group_of[e] == g) for g in range(groups)]

        pu = fixed[0] + groups * max(load(on_pu, routed.PU_S)) if on_pu else 0.0
        rows = sum(counts[e] for e in on_pim)
        pim = fixed[1] + fixed[2] * rows + max(load(on_pim, routed.PIM_S)) if on_pim else 0.0
        reads, held = load(on_pu, routed.READ_S), load(on_pim, routed.HELD_S)
        both = max(groups * r + h for r, h in zip(reads, held, strict=True)) if on_pu and on_pim else 0.0
        found.append(max(pu, pim, both))
    return found


@pytest.mark.parametrize("groups", [1, 3])
def test_a_split_is_the_best_of_all_numbers_of_hot_experts(groups):
    rng = np.random.default_rng(groups)
    tokens = np.arange(13.0)
    one = np.zeros((13, routed.NUM_ONE))
    one[1:, routed.READ_S] = 3 + 0.01 * tokens[1:]
    one[1:, routed.PU_S] = 3 + 0.1 * tokens[1:]
    one[1:, routed.PIM_S] = np.ceil(tokens[1:] / 2)
    one[1:, routed.HELD_S] = 0.7 * one[1:, routed.PIM_S]
    causes = rng.random((2, 13, 6))
    causes[:, 0] = 0
    fixed = np.array([2.0, 0.5, 0.02])
    inner = set()
    for _ in range(40):
        counts = rng.integers(0, 13, size=9)
        group_of = rng.permutation(9) % groups
        order, starts = np.zeros(9, dtype=np.int64), np.zeros(14, dtype=np.int64)
        found = routed.hottest_first(counts, 12, order, starts)
        assert (np.diff(counts[order[:found]]) <= 0).all()
        out = np.zeros((3, routed.CAUSES + 6))
        routed.add_layer(counts, order, found, group_of, one, causes, fixed, np.zeros((groups, 4)), out)
        expected = brute_force(counts, group_of, groups, one, fixed)
        seconds = out[:, routed.SECONDS]
        np.testing.assert_allclose(seconds, [expected[-1], expected[0], min(expected)], rtol=1e-9)
        hot = int(out[routed.SPLIT, routed.HOT])
        assert expected[hot] == pytest.approx(min(expected))
        inner.add(0 < hot < found)
        joules = sum(causes[0 if i < hot else 1, counts[e]] for i, e in enumerate(order[:found]))
        np.testing.assert_allclose(out[routed.SPLIT, routed.CAUSES :], joules)
    assert True in inner


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [None, 0.7])
def test_drawn_routings_cost_their_expectation_on_average(exponent):
    """The exact mean of the binomial laws, within what 768 drawn layers scatter."""
    routing = {} if exponent is None else {"routing": "zipf", "exponent": exponent}
    keyed, mean = (routing_of(with_experts(draws=draws, **routing)) for draws in ("keyed", "expectation"))
    drawn, expected = (expert_table(SYSTEM, r, ExpertPlacement(), ROWS) for r in (keyed, mean))
    assert drawn.shape[2] == SAMPLES
    assert expected.shape[2] == 1
    drawn, expected = drawn[:2, list(ROWS)], expected[:2, list(ROWS), 0]
    assert drawn[..., routed.SECONDS].std(axis=2).min() > 0
    for column in (routed.SECONDS, routed.JOULES):
        np.testing.assert_allclose(drawn[..., column].mean(axis=2), expected[..., column], rtol=0.01)


def test_a_split_is_never_slower_than_either_unit_and_joules_are_those_of_the_causes():
    whole = expert_table(SYSTEM, ROUTING, ExpertPlacement(), ROWS)
    assert not whole.flags.writeable
    table = whole[:, list(ROWS)]
    seconds = table[..., routed.SECONDS]
    assert (seconds[at.SPLIT] <= seconds[:2].min(axis=0) * (1 + 1e-9)).all()
    np.testing.assert_allclose(table[..., routed.JOULES], table[..., routed.CAUSES :].sum(axis=-1))


def test_groups_of_stacks_wait_for_the_busiest():
    """Popular experts slow down their group; in the same banks it does not matter which experts are active."""
    seconds = {}
    for exponent in (0.0, 1.5):
        changes = {"routing": "zipf", "exponent": exponent} if exponent else {}
        routing = routing_of(with_experts("mixtral-8x7b", draws="keyed", **changes))
        for groups in (1, 6):
            table = expert_table(get_system("papi"), routing, ExpertPlacement(groups=groups), (256,))
            seconds[exponent, groups] = table[routed.ON_PIM, 256, :, routed.SECONDS].mean()
    assert seconds[1.5, 6] > 1.3 * seconds[0.0, 6]
    assert seconds[1.5, 1] == pytest.approx(seconds[0.0, 1], rel=0.05)


def test_the_rule_of_experts_goes_by_their_own_tokens():
    """A sweep by hand: each n runs where the rule says, and no other threshold takes less in all."""
    profile = expert_profile(SYSTEM, ROUTING, ExpertPlacement())
    measure, (pu, pim) = profile.tokens_per_active[1:], profile.seconds[:2, 1:]
    assert (np.diff(measure) > 0).all()
    assert measure[0] == pytest.approx(1)

    def total(alpha):
        return np.where(measure > alpha, pu, pim).sum()

    assert all(total(profile.alpha) <= total(alpha) for alpha in [0, *measure])
    assert 1 < profile.alpha < measure[-1]


def test_systems_without_a_choice_have_none_for_experts():
    for name, allowed in (("a100", [True, False, False]), ("papi-pim-only", [False, True, False])):
        scenario = SCENARIO.replace(system=name)
        made = engine(scenario)
        assert made.tables.allowed[at.EXPERTS].tolist() == allowed
        assert made.tables.defaults[at.EXPERTS] == allowed.index(True)
        seconds = made.tables.experts[:, list(ROWS)][..., routed.SECONDS]
        assert (np.isfinite(seconds).all(axis=(1, 2)) == allowed).all()


# --- crossings ---------------------------------------------------------------------------------------


def chain(layers, dense, fed, ends_fed, units, last):
    """Crossings of the kernels in a row, one after the other; a split is two of them, the second on the other unit."""
    qkv, _, projection, feed_forward, experts = units
    path = [] if last < 0 else [last]
    for layer in range(layers):
        path += [qkv, projection]
        if layer < dense or fed:
            path.append(feed_forward)
        if layer >= dense:
            path += [path[-1], 1 - path[-1]] if experts == at.SPLIT else [experts]
    if ends_fed:
        path.append(feed_forward)
    return sum(a != b for a, b in pairwise(path)), path[-1]


@pytest.mark.parametrize("dense", [0, 2])
@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("ends_fed", [False, True])
def test_crossings_are_those_of_the_kernels_in_a_row(dense, fed, ends_fed):
    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.LAYERS], scalars[at.EXPERT_LAYERS] = 5, 5 - dense
    scalars[at.EXPERTS_FED], scalars[at.ENDS_FED] = fed, ends_fed
    for choice in np.ndindex(2, 2, 2, 3, 3):
        qkv, projection, feed_forward, experts, last = choice
        units = Units(qkv, 2, projection, feed_forward, experts)
        expected = chain(5, dense, fed, ends_fed, units, last - 1)
        assert crossings_with_experts(last - 1, units, scalars) == expected, choice


# --- episodes ----------------------------------------------------------------------------------------


def play(made, option):
    made.actions[:] = 1
    made.actions[:, at.ATTENTION] = 2
    made.actions[:, at.EXPERTS] = option
    times = []
    while (going := made.counters[:, at.DONE] == 0).any():
        made.step()
        times.append(np.where(going, made.clocks[:, at.LAST_EXPERTS_S], 0.0))
    return np.array(times)


def test_totals_add_up():
    made = engine()
    times = play(made, at.SPLIT)
    m = made.metrics()
    parts = sum(
        m[f"{kind}_s"] for kind in (*at.KERNEL_CLASSES, "experts", "communication", "switching", "other")
    )
    np.testing.assert_allclose(parts, m["time_s"], rtol=1e-12)
    np.testing.assert_allclose(times.sum(axis=0), m["experts_s"], rtol=1e-12)
    causes = sum(
        m[f"{cause}_j"] for cause in ("activation", "read", "transfer", "compute", "background", "link")
    )
    np.testing.assert_allclose(causes + m["idle_j"], m["total_j"], rtol=1e-12)
    assert (m["hot_experts"] > 0).all()
    assert (m["busy_pu_s"] > 0).all()


def test_every_policy_meets_the_same_routing_and_an_environment_is_one_of_a_batch():
    made, single = engine(), engine(num_envs=1)
    table = made.tables.experts
    seen = set()
    for _ in range(12):
        n = made.counters[0, at.RLP] * made.counters[0, at.TLP]
        routing = drawn_routing(made.counters[0], (table,))
        seen.add(int(routing))
        for option, e in ((1, made), (at.SPLIT, single)):
            e.actions[:] = 1
            e.actions[:, at.ATTENTION], e.actions[:, at.EXPERTS] = 2, option
            e.step()
            assert e.clocks[0, at.LAST_EXPERTS_S] == table[option, n, routing, routed.SECONDS]
    assert len(seen) > 4
    other = engine()
    other.start([7, 7])
    assert [int(drawn_routing(c, (table,))) for c in other.counters] == [
        int(drawn_routing(other.counters[0], (table,)))
    ] * 2


def test_decode_runs_experts_with_the_other_kernels():
    made = DecodeEngine(SCENARIO, 2)
    made.start([0, 1])
    made.actions[:] = 0
    made.step()
    assert (made.counters[:, at.LAST_EXPERTS] == 0).all()
    assert (made.clocks[:, at.BUSY_S] > made.clocks[:, at.LAST_EXPERTS_S]).all()
    assert (made.clocks[:, at.SEEN_FC_S] > made.clocks[:, at.LAST_EXPERTS_S]).all()
    seconds, _ = made.joint_costs(np.array([[0], [1]]))
    assert (seconds[:, 1] < seconds[:, 0]).all()


def test_costs_asked_for_are_those_of_the_step():
    made = engine()
    actions = np.array([[1, 2, 0, 1, 0, 0, 0, option] for option in range(3)])
    seconds, joules = made.joint_costs(actions)
    for option in range(3):
        twin = made.clone()
        twin.actions[:] = actions[option]
        twin.step()
        np.testing.assert_array_equal(twin.clocks[:, at.LAST_TIME_S], seconds[:, option])
        static = made.tables.scalars[at.STATIC_W] * seconds[:, option]
        np.testing.assert_allclose(twin.clocks[:, at.LAST_DYNAMIC_J] + static, joules[:, option])


def test_prompts_pass_through_experts():
    plain = engine()
    whole = plain.metrics()["prefill_s"]
    work = 2 * plain.counters[:, at.PREFILL_TOKENS] * MODEL.active_parameters / SYSTEM.pu.total_flops
    assert (whole > work).all()
    # All weights are read, and most experts have tokens.
    assert (whole > 0.5 * MODEL.weight_bytes / SYSTEM.pu.total_bandwidth).all()


# --- what does not fit -------------------------------------------------------------------------------


def test_a_model_whose_experts_do_not_fit_is_refused_with_the_sizes():
    with pytest.raises(ConfigurationError, match=r"weights need 93\.\d GB.*hold 64\.4 GB"):
        engine(SCENARIO.replace(model="mixtral-8x7b"))


def test_groups_that_do_not_divide_are_refused():
    scenario = SCENARIO.model_copy(update={"experts": ExpertPlacement(groups=2)})
    with pytest.raises(ConfigurationError, match="5 FC-PIM stacks do not divide into 2 groups of experts"):
        engine(scenario)


def test_experts_of_a_model_without_any_cannot_be_placed():
    data = SCENARIO.model_dump() | {"model": "llama-65b", "experts": {"groups": 5}}
    with pytest.raises(ConfigurationError, match="experts: placed, but model 'llama-65b' has no experts"):
        get_scenario(data)


def test_dumps_hold_a_placement_only_where_there_is_one():
    assert "experts" not in SCENARIO.model_dump()
    placed = get_scenario(SCENARIO.model_dump() | {"experts": {"groups": 5}})
    assert placed.model_dump()["experts"] == {"groups": 5, "dual_row_buffers": False}
    engine(placed).step()
