"""Compiled rules play inside what they play through Python: every action, reward and state, bit for bit."""

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import agents.serving.inside as inside
from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.combined import CombinedParameters, ServingTuned
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.heuristic import Parameters, ServingHeuristic
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.rules import CompiledRule, ServingThreshold, compiled_rule, fixed_policy
from agents.serving.view import ServingView
from papi_env.envs.serving import ServingVectorEnv
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.simulation import compiled
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.rollout import END_NAMES, roll
from papi_env.simulation.serving.seen import Seen

SEEDS = (0, 1, 2)
RULES = (
    "threshold",
    "threshold-prefill-spec2",
    "adaptive-spec2",
    "static",
    "fixed-fc-pim-2-none-on",
    "heuristic",
    "profile-greedy",
)
CASES = {
    "drifting": {"drift": {"period_s": 2.0, "pu": 2.0, "fc_pim": 2.0, "attn_pim": 1.5}},
    "by requests": {"horizon_s": None, "requests": 40},
    "no prefill, few pages": {"prefill": False, "max_running": 8},
    "one unit": {"system": "attacc-only", "rate": 1.0},
}


# With classes of requests: what each rule does, and all else by constants or by state.
SERVICE_RULES = (
    "profile-greedy",
    "profile-greedy+deadline+late+keep+return",
    "threshold-spec2+shortest-prompt+shed-class+most-slack+keep-class+draft-accepted",
    "heuristic+least-work+late+least-progress+keep",
    "fixed-fc-pim-2-all-on+weight-per-work+late",
    "tuned",
    "slack-aware",
)
SERVICE_CASES = {
    # Conversations and others, so many that requests are late, pages so few that they run out.
    "classes": {
        "rate": 16.0,
        "kv_tokens": 12_000,
        "service": {
            "charge": 0.5,
            "classes": {
                "talk": {
                    "conversation": {"turns": 4, "think_s": 0.5},
                    "acceptance": {"writing": 1.0},
                    "shared_prefix": 200,
                },
                "batch": {
                    "share": 0.5,
                    "weight": 0.3,
                    "objectives": {"ttft_s": 6.0, "tpot_s": 0.2},
                    "acceptance": {"code": 1.0},
                    "patience_s": [1.0, 8.0],
                },
            },
        },
    },
    "without": {"drift": {"period_s": 2.0, "pu": 2.0, "fc_pim": 2.0, "attn_pim": 1.5}},
}


def make_env(system="papi", rate=12.0, energy_weight=0.02, made=ServingVectorEnv, **serving):
    scenario = {
        "name": "test",
        "system": system,
        "model": "llama-65b",
        "energy_weight": energy_weight,
        "serving": {
            "arrivals": {"process": "gamma", "rate_per_s": rate, "shape": 0.3},
            "lengths": {"table": "azure-conversation"},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
            "horizon_s": 4.0,
            "max_running": 64,
        }
        | serving,
    }
    return made(scenario, num_envs=len(SEEDS), autoreset_mode=AutoresetMode.DISABLED, causes=True)


@cache
def env_of(case):
    return make_env(**CASES[case])


@cache
def service_env_of(case):
    return make_env(made=ServingV1VectorEnv, **SERVICE_CASES[case])


def bound(policy, env):
    policy.bind(env)
    return compiled_rule(policy)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_plays_inside_what_it_plays_through_python(name, case):
    plays_alike(make_policy(name), env_of(case))


@pytest.mark.parametrize("case", SERVICE_CASES)
@pytest.mark.parametrize("name", SERVICE_RULES)
def test_a_rule_plays_inside_whom_it_serves_through_python(name, case):
    env = service_env_of(case)
    plays_alike(make_policy(name), env)
    if case == "classes" and "keep" in name:
        assert (env.engine.counters[:, at.HIT_TOKENS] > 0).any()
        assert (env.engine.counters[:, at.SHED] > 0).any()


def plays_alike(policy, env):
    rule = bound(policy, env)
    engine = env.engine
    observations, _ = env.reset(seed=list(SEEDS))
    begin = engine.fork(0, 1), engine.fork(1, 1), engine.fork(2, 1)
    state, start = None, np.ones(len(SEEDS), dtype=bool)
    taken, rewards, done = [], np.zeros(len(SEEDS)), np.zeros(len(SEEDS), dtype=bool)
    while not done.all():
        actions, state = rule.predict(observations, state, start)
        observations, reward, terminated, truncated, _ = env.step(actions)
        taken.append(np.where(done[:, None], -1, actions))
        rewards += reward
        done |= terminated | truncated
        start[:] = False
    assert (engine.counters[:, at.INVALID] == 0).all()
    for e, twin in enumerate(begin):
        # Step by step, for the actions; what is remembered goes along.
        memory = np.zeros((1, NUM_MEMORY))
        total, step = 0.0, 0
        while twin.counters[0, at.DONE] == 0:
            found = roll(twin, play_range, rule.compiled(memory)[:], steps=1)
            np.testing.assert_array_equal(twin.actions[0], taken[step][e], err_msg=f"step {step}")
            total += found.returns[0]
            step += 1
        assert total == rewards[e]
        assert step == engine.counters[e, at.ITERATION]
        for field, array in zip(engine.state._fields, engine.state, strict=True):
            np.testing.assert_array_equal(twin.state._asdict()[field][0], array[e], err_msg=field)
        np.testing.assert_array_equal(twin.observations[0], engine.observations[e])
        assert (twin.terminated[0], twin.truncated[0]) == (terminated[e], truncated[e])
        if rule.remembers:
            # The environment that ended first had its last observation again and again.
            ended_last = step == len(taken)
            if ended_last:
                np.testing.assert_array_equal(memory[0], state.memory[e])


@pytest.mark.parametrize("name", ["threshold-prefill-spec2", "profile-greedy", "heuristic"])
def test_whole_episodes_at_once_give_the_same_metrics(name):
    env = env_of("drifting")
    stepped = evaluate(make_policy(name), env, SEEDS, inside=False)
    rolled = evaluate(make_policy(name), env, SEEDS)
    assert stepped["return"].any()
    for metric, values in stepped.items():
        np.testing.assert_array_equal(rolled[metric], values, err_msg=metric)


@pytest.mark.parametrize(
    ("rule", "sets"),
    [
        (
            ProfileGreedy,
            [GreedyParameters(), GreedyParameters(prompt_worth=4.0), GreedyParameters(pace=0.25)],
        ),
        (ServingHeuristic, [Parameters(), Parameters(gain=1.8), Parameters(pim_alone=0.1, urgent=0.0)]),
    ],
)
def test_sets_of_parameters_share_a_loop(rule, sets):
    env = env_of("drifting")
    together = evaluate(rule(*sets), env, (7, 7, 7))
    stepped = evaluate(rule(*sets), env, (7, 7, 7), inside=False)
    assert len(set(together["return"])) > 1
    np.testing.assert_array_equal(together["return"], stepped["return"])


def test_sets_with_other_options_share_a_loop():
    env = service_env_of("classes")
    rule = ServingTuned(
        *(CombinedParameters.of(parts) for parts in ((), ("late", "keep"), ("deadline", "shed-class")))
    )
    together = evaluate(rule, env, (7, 7, 7))
    assert (env.engine.counters[:, at.SHED] > 0).tolist() == [False, True, True]
    assert (env.engine.counters[:, at.LAST_SERVICE] == (0, 0, at.BY_DEADLINE)).all()
    assert len(set(together["return"])) == 3
    stepped = evaluate(rule, env, (7, 7, 7), inside=False)
    for metric, values in stepped.items():
        np.testing.assert_array_equal(together[metric], values, err_msg=metric)


def test_all_fixed_choices_are_played_in_each_environment():
    env = service_env_of("classes")
    env.reset(seed=list(SEEDS))
    actions = np.array(
        [
            (1, 0, 2, 0, 3, 1, 2, 1, 1, 1, 1),
            (0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0),
            (2, 2, 1, 0, 4, 2, 1, 2, 0, 0, 0),
        ]
    )
    roll(env.engine, play_range, fixed_policy(actions)[:], steps=9)
    np.testing.assert_array_equal(env.engine.actions, actions)
    # Of four choices the others are Serving-v0's.
    roll(env.engine, play_range, fixed_policy(actions[:, :4])[:], steps=9)
    np.testing.assert_array_equal(env.engine.actions, np.where(np.arange(11) < 4, actions, 0))
    # Eviction by true returns is the reference's alone: loops play it, no name has it.
    actions[:, at.EVICTION] = at.EVICT_TRUE_RETURN
    roll(env.engine, play_range, fixed_policy(actions)[:], steps=9)
    np.testing.assert_array_equal(env.engine.actions, actions)


def test_forced_actions_are_played_and_remembered():
    """As a scheduler that is overruled once: it sees all the same, and knows who was admitted."""
    env = env_of("drifting")
    rule = bound(ProfileGreedy(GreedyParameters()), env)
    env.reset(seed=list(SEEDS))
    first = np.array([(0, 3, at.ALL, 0), (1, 0, at.NONE, 1), (2, 1, at.ALL, 0)])
    memory = np.zeros((3, NUM_MEMORY))
    twin = env.engine.clone()
    found = roll(env.engine, play_range, rule.compiled(memory)[:], first=first, hold=2, steps=5)
    assert (found.steps == 5).all()
    again = np.zeros_like(memory)
    for step in range(5):
        given = {"first": first} if step < 2 else {}
        roll(twin, play_range, rule.compiled(again)[:], steps=1, **given)
        if step < 2:
            np.testing.assert_array_equal(twin.actions, first)
    np.testing.assert_array_equal(memory, again)
    for ours, theirs in zip(env.engine.state, twin.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    free = np.zeros_like(memory)
    env.reset(seed=list(SEEDS))
    roll(env.engine, play_range, rule.compiled(free)[:], steps=5)
    assert (free != memory).any()


def test_threads_change_nothing():
    results = []
    for threads in (1, 2):
        env = ServingVectorEnv(
            env_of("drifting").scenario, num_envs=3, autoreset_mode="Disabled", threads=threads
        )
        results.append(evaluate(make_policy("profile-greedy"), env, SEEDS)["return"])
    np.testing.assert_array_equal(*results)


def test_a_subclass_that_decides_otherwise_is_not_played_inside():
    class Other(ServingThreshold):
        def act(self, observations, state, episode_start):
            actions, state = super().act(observations, state, episode_start)
            actions[:, at.SPECULATION] = 3
            return actions, state

    env = env_of("drifting")
    assert compiled_rule(Other()) is None
    assert isinstance(compiled_rule(ServingThreshold()), CompiledRule)
    evaluate(Other(), env, SEEDS)
    assert (env.engine.counters[:, at.LAST_ACTION + at.SPECULATION] == 3).all()


def test_what_is_seen_is_what_the_features_say():
    """The compiled reading against the inverse of each feature's scale."""
    env = env_of("drifting")
    env.reset(seed=list(SEEDS))
    rule = bound(ProfileGreedy(GreedyParameters()), env)
    memory = np.zeros((3, NUM_MEMORY))
    scalars = env.engine.tables.scalars
    for _ in range(12):
        roll(env.engine, play_range, rule.compiled(memory)[:], steps=7)
        view = ServingView(env.engine.observations, scalars)
        for ours, name in ((view.rlp, "rlp"), (view.prefilling, "prefilling"), (view.queued, "queued")):
            np.testing.assert_array_equal(ours, np.rint(view.quantity(name)))
        np.testing.assert_array_equal(view.backlog, np.rint(view.quantity("prefill_backlog")))
        np.testing.assert_array_equal(view.oldest_wait_s, view.quantity("oldest_wait") * scalars[at.TTFT_S])
        percent = scalars[at.CONTEXT_LIMIT] / 100
        np.testing.assert_allclose(view.mean_context, view.quantity("mean_context") * percent, rtol=1e-14)
        np.testing.assert_allclose(
            view.longest_context, view.quantity("longest_context") * percent, rtol=1e-14
        )
        drift = np.stack([view.quantity(f"drift_{unit}") for unit in at.DRIFTING], axis=1)
        np.testing.assert_allclose(view.drift, drift, rtol=1e-15)
    assert (view.drift > 1).any()
    assert len(Seen._fields) == 19


def test_all_that_is_compiled_into_rules_is_in_the_digest():
    folder = Path(inside.__file__).parent
    sources = set(compiled.sources())
    root = folder.parents[2]
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.module.startswith("agents"):
                assert node.module.startswith("agents.serving.inside."), f"{path.name}: {node.module}"
            elif node.module.startswith("papi_env"):
                module = root.joinpath(*node.module.split("."))
                found = [module.with_suffix(".py"), *(module / f"{alias.name}.py" for alias in node.names)]
                assert any(each in sources for each in found), f"{path.name}: {node.module}"


def test_ends_have_names():
    assert END_NAMES == ("was over", "terminated", "truncated", "steps", "time")
