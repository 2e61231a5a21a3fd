"""What an iteration of a static batch costs, compiled, and how its environment is charged.

Written once, for one environment of a batch; Decode-v0 and Kernels-v0 differ only in how an action
names the units. No fast-math and no shared writes: environment i of a batch follows, bit for bit,
the path of a single environment with its seed.

What is done for speed, and what did not help, is in README.md of the folder above.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from papi_env.hardware.units import FC_PIM, PU
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.routed import CAUSES, HOT, JOULES, PIM_BUSY_S, PU_BUSY_S, SECONDS
from papi_env.simulation.compiled import exposed, inlined
from papi_env.simulation.draws import mix, request_key
from papi_env.simulation.vectors import accountant, charger

# A step's time, joules, communication, switching and seconds of each class stand in a row, as the totals do.
account = accountant(at.CLASS_S + at.NUM_CLASSES)
# The return stands behind the units.
charge_units = charger(at.NUM_UNITS)
_ROUTINGS, _32 = np.uint64(0x9FB21C651E98DF25), np.uint64(32)


class Attended(NamedTuple):
    """What attention works on, as the counters of `state` have it."""

    context_sum: int
    group_sum: int
    group_max: int
    key_row_sum: int
    key_row_max: int


class Ahead(NamedTuple):
    """What the next iteration works on; `near` is what is inside the windows of layers that have any, else 0."""

    rlp: int
    tlp: int
    whole: Attended
    near: Attended
    last_fc: int


class Units(NamedTuple):
    """The unit of each kernel class of an iteration; of experts the option, -1 without any."""

    qkv: int
    attention: int
    projection: int
    feed_forward: int
    experts: int


class IterationCost(NamedTuple):
    """What an iteration costs: its seconds are the seven times and the scenario's overhead; dynamic joules."""

    seconds: float
    joules: float
    communication_s: float
    switching_s: float
    qkv_s: float
    attention_s: float
    projection_s: float
    feed_forward_s: float
    crossings: int
    experts_s: float


@inlined
def resolve(e, actions, units, experts):
    """`Units` of an iteration for row e of `actions`, and how many choices were invalid.

    `actions` is [num_envs], the unit of all FC kernels with attention on its default, or [num_envs, 7], of which
    the classes of a stage are ignored, and with `experts`, which may be None, [num_envs, 8]; `units` is
    `lookups.resolved_units`.
    """
    if actions.ndim == 1:
        unit = actions[e]
        chosen = units[at.QKV, np.uint64(unit)]
        return Units(chosen, units[at.ATTENTION, at.NUM_UNITS], chosen, chosen, chosen), int(chosen != unit)
    qkv = units[at.QKV, np.uint64(actions[e, at.QKV])]
    attention = units[at.ATTENTION, np.uint64(actions[e, at.ATTENTION])]
    projection = units[at.PROJECTION, np.uint64(actions[e, at.PROJECTION])]
    feed_forward = units[at.FEED_FORWARD, np.uint64(actions[e, at.FEED_FORWARD])]
    invalid = (
        int(qkv != actions[e, at.QKV])
        + int(attention != actions[e, at.ATTENTION])
        + int(projection != actions[e, at.PROJECTION])
        + int(feed_forward != actions[e, at.FEED_FORWARD])
    )
    option = -1
    if experts is not None:
        option = units[at.EXPERTS, np.uint64(actions[e, at.EXPERTS])]
        invalid += int(option != actions[e, at.EXPERTS])
    return Units(qkv, attention, projection, feed_forward, option), invalid


@inlined
def ahead_of(counters):
    """What the next iteration of an environment works on."""
    zero = np.int64(0)
    near = Attended(zero, zero, zero, zero, zero)
    if counters.shape[0] == at.NUM_WINDOW_COUNTERS:
        near = Attended(
            counters[at.NEAR_CONTEXT_SUM],
            counters[at.NEAR_GROUP_SUM],
            counters[at.NEAR_GROUP_MAX],
            counters[at.NEAR_KEY_ROW_SUM],
            counters[at.NEAR_KEY_ROW_MAX],
        )
    whole = Attended(
        counters[at.CONTEXT_SUM],
        counters[at.GROUP_SUM],
        counters[at.GROUP_MAX],
        counters[at.KEY_ROW_SUM],
        counters[at.KEY_ROW_MAX],
    )
    return Ahead(counters[at.RLP], counters[at.TLP], whole, near, counters[at.LAST_FC])


@exposed
def drawn_routing(counters, experts):
    """Which of the routings drawn in advance the next iteration of an environment has; 0 without experts."""
    if experts is None:
        return np.int64(0)
    key = request_key(counters[at.SEED], counters[at.EPISODE], counters[at.ITERATION])
    high = mix(key ^ _ROUTINGS) >> _32
    return np.int64((high * np.uint64(experts[0].shape[2])) >> _32)


@exposed
def crossings_with_experts(last_fc, units, scalars):
    """Crossings between PUs and FC-PIM in an iteration of a model with experts.

    Layers without experts come first. In one with experts, a feed-forward kernel if it has any runs before them. A
    split begins on the unit of the kernel before it, and ends on the other; there and back, if it is followed by
    the unit that it began on. Returns the crossings and the FC unit that ran last.
    """
    qkv, projection, feed_forward, option = units.qkv, units.projection, units.feed_forward, units.experts
    layers = int(scalars[at.LAYERS])
    with_experts = int(scalars[at.EXPERT_LAYERS])
    fed = scalars[at.EXPERTS_FED] > 0.0
    before = feed_forward if fed else projection
    within = int(qkv != projection)
    found = layers * within + int(last_fc >= 0 and last_fc != qkv)
    fed_layers = layers if fed else layers - with_experts
    found += fed_layers * int(projection != feed_forward)
    found += (layers - with_experts) * int(feed_forward != qkv)
    if option == at.SPLIT:
        found += (with_experts - 1) * (1 + int(before == qkv))
        end = 1 - before
        found += 1
    else:
        found += with_experts * int(before != option) + (with_experts - 1) * int(option != qkv)
        end = option
    if scalars[at.ENDS_FED] > 0.0:
        found += int(end != feed_forward)
        end = feed_forward
    return found, end


@inlined
def attention_time(attended, row):
    """Seconds of attention if all layers attend to this; `row` is that of `Lookups.other`.

    The same formulas as `hardware.costs.busiest_channel` and `AttentionCoefficients.clocks`, tabulated.
    """
    busiest_groups = max(
        row[at.GROUPS_S] * attended.group_sum,
        row[at.LONGEST_GROUPS_S] * attended.group_max,
    )
    busiest_key_rows = max(
        row[at.KEY_ROWS_S] * attended.key_row_sum,
        row[at.LONGEST_KEY_ROWS_S] * attended.key_row_max,
    )
    return max(
        busiest_groups + busiest_key_rows + row[at.FIXED_S],
        row[at.TOKENS_S] * attended.context_sum,
    )


@inlined
def of_layers(whole, near, scalars):
    """The mean of a quantity over layers that attend to everything and those with windows."""
    return whole + scalars[at.WINDOW_SHARE] * (near - whole)


@exposed
def iteration_cost(ahead, units, lookups, scalars, experts, routing):
    """Cost of one iteration, `IterationCost`.

    Args: `Ahead`, `Units`, `lookups.Lookups`, the scenario's scalars, `lookups.ExpertLookups` or None, and
    `drawn_routing`.
    """
    rlp, tlp, whole, near, last_fc = ahead
    qkv, attention, projection, feed_forward, option = units
    fc, other = lookups
    # Unsigned: of other numbers numba asks whether they count from the end.
    n = np.uint64(rlp * tlp)
    of_qkv, of_projection = fc[np.uint64(qkv), n], fc[np.uint64(projection), n]
    of_feed_forward = fc[np.uint64(feed_forward), n]
    row = other[np.uint64(attention), np.uint64(tlp), np.uint64(rlp)]
    qkv_s = of_qkv[at.QKV_S]
    projection_s = of_projection[at.PROJECTION_S]
    feed_forward_s = of_feed_forward[at.FEED_FORWARD_S]
    fc_j = of_qkv[at.QKV_J] + of_projection[at.PROJECTION_J] + of_feed_forward[at.FEED_FORWARD_J]

    attention_s = attention_time(whole, row)
    context_sum, group_sum = float(whole.context_sum), float(whole.group_sum)
    if scalars[at.WINDOW] > 0.0:
        attention_s = of_layers(attention_s, attention_time(near, row), scalars)
        context_sum = of_layers(context_sum, near.context_sum, scalars)
        group_sum = of_layers(group_sum, near.group_sum, scalars)
    attention_j = row[at.GROUPS_J] * group_sum + row[at.TOKENS_J] * context_sum

    # KV caches read over the link stream behind the computation; what exceeds it is communication.
    link_s = max(row[at.LINK_TOKENS_S] * context_sum - attention_s, 0.0)
    communication_s = link_s + row[at.MOVES_S]
    joules = fc_j + attention_j + row[at.MOVES_J]

    # Crossings between PUs and FC-PIM: within each layer, from layer to layer, from the last iteration.
    if experts is None:
        layers = int(scalars[at.LAYERS])
        crossings = layers * (int(qkv != projection) + int(projection != feed_forward))
        crossings += (layers - 1) * int(feed_forward != qkv)
        crossings += int(last_fc >= 0 and last_fc != qkv)
    else:
        crossings, _ = crossings_with_experts(last_fc, units, scalars)
        joules += experts[0][np.uint64(option), n, np.uint64(routing), JOULES]
    switching_s = 0.0
    if scalars[at.SWITCH_S] > 0.0:
        switching_s = crossings * scalars[at.SWITCH_S]
        communication_s += crossings * row[at.CROSS_S]
        joules += crossings * row[at.CROSS_J]

    seconds = (communication_s + switching_s) + (qkv_s + projection_s + feed_forward_s)
    seconds += attention_s + scalars[at.OVERHEAD_S]
    experts_s = 0.0
    if experts is not None:
        experts_s = experts[0][np.uint64(option), n, np.uint64(routing), SECONDS]
        seconds += experts_s
    return IterationCost(
        seconds,
        joules,
        communication_s,
        switching_s,
        qkv_s,
        attention_s,
        projection_s,
        feed_forward_s,
        crossings,
        experts_s,
    )


@inlined
def charge_causes(ahead, units, crossings, clocks, lookups, scalars, experts, routing):
    """Charge an environment with the joules of an iteration by cause, if its clocks have columns for them.

    For what is done only: `iteration_cost`, which is also asked about what might be done, has no part in it.
    """
    fc, other = lookups
    if clocks.shape[0] < at.NUM_CLOCKS:
        return
    rlp, tlp, attention = ahead.rlp, ahead.tlp, units.attention
    n = rlp * tlp
    qkv, projection, feed_forward = units.qkv, units.projection, units.feed_forward
    context_sum = of_layers(ahead.whole.context_sum, ahead.near.context_sum, scalars)
    group_sum = of_layers(ahead.whole.group_sum, ahead.near.group_sum, scalars)
    attended = context_sum if attention == PU else group_sum
    if qkv == projection and projection == feed_forward:
        for k in range(at.LINK):
            clocks[at.CAUSE_J + k] += (
                fc[qkv, n, at.FC_CAUSES + k] + attended * other[attention, tlp, rlp, at.ATTENTION_CAUSES + k]
            )
    else:
        for k in range(at.LINK):
            clocks[at.CAUSE_J + k] += (
                fc[qkv, n, at.QKV_CAUSES + k]
                + fc[projection, n, at.PROJECTION_CAUSES + k]
                + fc[feed_forward, n, at.FEED_FORWARD_CAUSES + k]
                + attended * other[attention, tlp, rlp, at.ATTENTION_CAUSES + k]
            )
    if experts is not None:
        for k in range(at.LINK):
            clocks[at.CAUSE_J + k] += experts[0][units.experts, n, routing, CAUSES + k]
    link = context_sum * other[attention, tlp, rlp, at.ATTENTION_CAUSES + at.LINK]
    link += other[attention, tlp, rlp, at.MOVES_J]
    if scalars[at.SWITCH_S] > 0.0:
        link += crossings * other[attention, tlp, rlp, at.CROSS_J]
    clocks[at.CAUSE_J + at.LINK] += link


@inlined
def charge_experts(units, n, routing, counters, clocks, scalars, experts):
    """Book the seconds of an iteration's experts to their units."""
    row = experts[0][units.experts, n, routing]
    clocks[at.EXPERTS_S] += row[SECONDS]
    clocks[at.HOT_EXPERTS] += row[HOT]
    clocks[at.BUSY_S + PU] += row[PU_BUSY_S]
    clocks[at.BUSY_S + FC_PIM] += row[PIM_BUSY_S]
    clocks[at.LAST_EXPERTS_S] = row[SECONDS]
    clocks[at.LAST_EXPERTS_PU_S] = row[PU_BUSY_S]
    clocks[at.LAST_EXPERTS_PIM_S] = row[PIM_BUSY_S]
    counters[at.LAST_EXPERTS] = units.experts
    counters[at.LAST_FC] = crossings_with_experts(-1, units, scalars)[1]


@inlined
def charge_iteration(units, counters, clocks, lookups, scalars, experts, per_reference):
    """Charge an environment with an iteration on the given units. Returns the reward.

    `per_reference` is 1 / the scenario's reference; a division waits longer than a product.
    """
    rlp, tlp = counters[at.RLP], counters[at.TLP]
    qkv, attention, projection, feed_forward, option = units
    ahead = ahead_of(counters)
    routing = drawn_routing(counters, experts)
    cost = iteration_cost(ahead, units, lookups, scalars, experts, routing)
    (
        seconds,
        joules,
        communication_s,
        switching_s,
        qkv_s,
        attention_s,
        projection_s,
        feed_forward_s,
        crossings,
        experts_s,
    ) = cost
    total_j = joules + seconds * scalars[at.STATIC_W]
    reward_time = -seconds * per_reference
    reward_energy = -scalars[at.ENERGY_WEIGHT] * total_j * per_reference
    reward = reward_time + reward_energy
    account(
        clocks,
        at.TIME_S,
        at.LAST_TIME_S,
        (seconds, joules, communication_s, switching_s, qkv_s, attention_s, projection_s, feed_forward_s),
    )
    spent = (
        (qkv, qkv_s),
        (projection, projection_s),
        (feed_forward, feed_forward_s),
        (attention, attention_s),
    )
    charge_units(clocks, at.BUSY_S, spent, reward)
    charge_causes(ahead, units, crossings, clocks, lookups, scalars, experts, routing)
    counters[at.SWITCHES] += crossings
    counters[at.LAST_FC] = feed_forward
    counters[at.LAST_UNIT + at.QKV] = qkv
    counters[at.LAST_UNIT + at.ATTENTION] = attention
    counters[at.LAST_UNIT + at.PROJECTION] = projection
    counters[at.LAST_UNIT + at.FEED_FORWARD] = feed_forward
    # Without a branch, which would be guessed wrong where units are tried out.
    alike = (qkv == projection) & (projection == feed_forward)
    fc_s = qkv_s + projection_s + feed_forward_s
    if experts is not None:
        charge_experts(units, rlp * tlp, routing, counters, clocks, scalars, experts)
        alike = alike & (option == qkv)
        fc_s += experts_s
    # Written where that is written over at once, and where the same stands, if not all ran on one unit.
    seen_s = np.uint64(at.SEEN_FC_S + qkv if alike else at.LAST_REWARD_ENERGY)
    seen_n = np.uint64(at.SEEN_N + qkv if alike else at.LAST_N)
    clocks[seen_s] = fc_s
    counters[seen_n] = rlp * tlp
    clocks[at.LAST_REWARD_TIME] = reward_time
    clocks[at.LAST_REWARD_ENERGY] = reward_energy
    counters[at.LAST_N] = rlp * tlp
    return reward
