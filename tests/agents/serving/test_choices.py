"""The further choices of Serving-v1: names, constants, and rules that decide by state; Serving-v0 has none of them."""

from functools import cache

import numpy as np
import pytest

from agents.evaluate import evaluate
from agents.registry import SERVICE_POLICIES, make_policy
from agents.serving.choices import CHOICE_NAMES, WORDS, parse_parts, parts_of
from agents.serving.combined import COMBINED_RANGES, CombinedParameters, ServingTuned
from agents.serving.inside.choices import LEFT
from agents.serving.slack import SLACK_RANGES, SlackAware, SlackParameters
from agents.serving.tuned import Options, as_table, parameters_from
from papi_env.envs.serving import ServingVectorEnv
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at

TALK = {"conversation": {"turns": 4, "think_s": 20.0}, "acceptance": {"writing": 1.0}}
BATCH = {"acceptance": {"code": 1.0}, "weight": 0.1, "objectives": {"ttft_s": 8.0, "tpot_s": 0.2}}


def scenario(classes):
    serving = {
        "arrivals": {"process": "poisson", "rate_per_s": 9.0},
        "lengths": {"table": "azure-conversation"},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
        "horizon_s": 3.0,
        "max_running": 32,
    }
    if classes is not None:
        serving["service"] = {"classes": classes}
    return {"name": "test", "system": "papi", "model": "llama-65b", "serving": serving}


@cache
def env_of(kind):
    classes = {
        "v0": None,
        "two": {"talk": TALK, "batch": BATCH},
        "alone": {"one": {"acceptance": {"code": 1.0}}},
    }[kind]
    made = ServingVectorEnv if kind == "v0" else ServingV1VectorEnv
    return made(scenario(classes), num_envs=1, autoreset_mode="Disabled")


def bound(policy, kind="two"):
    policy = make_policy(policy) if isinstance(policy, str) else policy
    policy.bind(env_of(kind))
    return policy


def observe(kind="two", **features):
    """An observation of a machine on which 8 requests decode, with named features set."""
    observation = np.zeros((1, env_of(kind).engine.observations.shape[1]), dtype=np.float32)
    for name, value in {"rlp": 8 / 256, "tpot_slack_mean": 0.5, **features}.items():
        observation[0, env_of(kind).observation_names.index(name)] = value
    return observation


def chosen(policy, observation, kind="two"):
    actions, _ = bound(policy, kind).predict(observation)
    assert actions.shape == (1, 11)
    return actions[0, at.ORDER :].tolist()


# --- names ----------------------------------------------------------------------------------------------


def test_every_option_has_a_word_of_its_own():
    words = [word for options in WORDS.values() for word in options]
    assert len(set(words)) == len(words)
    assert tuple(map(len, WORDS.values())) == at.NVEC_V1[len(at.NVEC) :]
    for k, options in enumerate(WORDS.values()):
        for option, word in enumerate(options):
            choices = parse_parts("test", [word])
            assert choices[k] == option
            assert (np.delete(choices, k) == LEFT).all()
            assert parts_of(choices) == f"+{word}"


@pytest.mark.parametrize(
    "name",
    ["profile-greedy", "heuristic", "threshold-prefill-spec2", "adaptive", "static", "fixed-fc-pim-4-all-on"],
)
def test_parts_give_constants_and_the_rest_is_as_on_serving_v0(name):
    observation = observe(queued=0.5)
    expected = [at.BY_DEADLINE, at.SHED_LATE, 0, at.KEEP_ALL, at.EVICT_RETURN, 0, 0]
    # In any order.
    assert chosen(f"{name}+deadline+late+keep+return", observation) == expected
    assert chosen(f"{name}+return+keep+late+deadline", observation) == expected
    assert chosen(name, observation) == [0] * 7
    four = bound(name, "v0").predict(observe("v0", queued=0.5))[0][0]
    np.testing.assert_array_equal(bound(f"{name}+shed-class").predict(observation)[0][0, :4], four)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("profile-greedy+deadlin", "'deadlin'. Did you mean 'deadline'"),
        ("profile-greedy+", "Unknown part of policy 'profile-greedy\\+', ''"),
        ("profile-greedy+late+shed-class", "two options of shedding, 'late' and 'shed-class'"),
        ("profile-greedy+late+late", "two options of shedding"),
        ("profile-gredy+late", "Did you mean 'profile-greedy'"),
        ("oracle+late", "Unknown rule that takes parts, in policy 'oracle\\+late'"),
        ("random+late", "Unknown rule that takes parts"),
        ("fixed-fc-pim-3-all-on+late", "Unknown fixed action"),
        ("slack-awar", "Did you mean 'slack-aware'"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, message):
    with pytest.raises(ConfigurationError, match=message):
        make_policy(name)


@pytest.mark.parametrize("name", ["profile-greedy+late", *SERVICE_POLICIES])
def test_what_serving_v0_has_no_choice_for_is_refused_there(name):
    with pytest.raises(ConfigurationError, match=r"papi_env/Serving-v1 alone"):
        bound(name, "v0")


@pytest.mark.parametrize("name", ["oracle", "search", "clairvoyant", "portfolio"])
def test_look_aheads_of_four_choices_say_so(name):
    with pytest.raises(ConfigurationError, match=r"the four choices of papi_env/Serving-v0"):
        bound(name)


def test_what_has_one_option_alone_is_not_chosen():
    # Nothing can be kept where nobody comes back, and none is drafted for where all are alike.
    name = "profile-greedy+keep+return+draft-accepted+shed-class"
    assert chosen(name, observe("alone"), "alone") == [0, at.SHED_LATE, 0, 0, 0, 0, 0]
    assert chosen(name, observe()) == [
        0,
        at.SHED_CLASS,
        0,
        at.KEEP_ALL,
        at.EVICT_RETURN,
        at.DRAFT_ACCEPTED,
        0,
    ]
    crowded = observe("alone", queued=0.99, queued_0=0.99, prompt_0=0.9)
    assert chosen(SlackAware(SlackParameters(drop_class=0.25)), crowded, "alone")[1] == at.SHED_LATE


def test_random_choices_are_uniform_over_the_valid_ones():
    env = env_of("two")
    env.reset(seed=[0])
    policy = bound("random")
    drawn = np.array([policy.predict(observe())[0][0] for _ in range(900)])
    starts = np.cumsum((0, *at.NVEC_V1))
    for column, n in enumerate(at.NVEC_V1):
        valid = env.valid_choices()[0, starts[column] : starts[column] + n]
        counts = np.bincount(drawn[:, column], minlength=n)
        assert (counts[~valid] == 0).all()
        assert (np.abs(counts[valid] - 900 / valid.sum()) < 80).all()
    assert evaluate(make_policy("random"), env, (0,))["invalid_actions"][0] == 0


# --- tuned ----------------------------------------------------------------------------------------------


def test_the_tuned_rule_is_profile_greedy_with_options():
    parameters = CombinedParameters.of(["deadline", "late", "keep-class"])
    assert (parameters.order, parameters.shedding, parameters.keeping) == ("deadline", "late", "keep-class")
    observation = observe(queued=0.5)
    assert chosen(ServingTuned(parameters), observation) == [1, 1, 0, at.KEEP_CLASS, 0, 0, 0]
    overruled = ServingTuned(parameters).giving(parse_parts("tuned", ["shed-none"]))
    assert chosen(overruled, observation) == [1, 0, 0, at.KEEP_CLASS, 0, 0, 0]
    kernels = bound("profile-greedy").predict(observation)[0][0, :4]
    guess = bound(ServingTuned(CombinedParameters(**as_table(make_greedy())))).predict(observation)[0][0, :4]
    np.testing.assert_array_equal(guess, kernels)


def make_greedy():
    return bound("profile-greedy").parameters


def test_options_are_parameters_with_words():
    assert set(COMBINED_RANGES) == set(as_table(CombinedParameters()))
    for name in CHOICE_NAMES:
        assert COMBINED_RANGES[name] == Options(WORDS[name])
    table = as_table(CombinedParameters.of(["weight-per-work"]))
    assert table["order"] == "weight-per-work"
    assert parameters_from("test", table, CombinedParameters).order == "weight-per-work"
    with pytest.raises(
        ConfigurationError, match=r"option of parameter order, 'deadlin'. Did you mean 'deadline'"
    ):
        CombinedParameters(order="deadlin")
    with pytest.raises(ConfigurationError, match="Unknown option of parameter order, 3"):
        CombinedParameters(order=3)
    with pytest.raises(ConfigurationError, match="pace is 'deadline', expected a finite number"):
        CombinedParameters(pace="deadline")


def test_sets_that_share_a_batch_have_their_own_options():
    rule = ServingTuned(CombinedParameters(), CombinedParameters.of(["late", "lru"]))
    env = ServingV1VectorEnv(scenario({"talk": TALK, "batch": BATCH}), num_envs=4, autoreset_mode="Disabled")
    rule.bind(env)
    actions, _ = rule.predict(np.repeat(observe(), 4, axis=0))
    assert actions[:, at.SHEDDING].tolist() == [0, 0, at.SHED_LATE, at.SHED_LATE]


# --- slack-aware ----------------------------------------------------------------------------------------


def pressing(share, number=0, objective_s=2.0, **features):
    """An observation in which a prompt that waits takes so much of the objective of its class."""
    tokens = share * objective_s / env_of("two").engine.tables.scalars[at.PROMPT_TOKEN_S]
    waits = {
        f"queued_{number}": 1 / 17,
        f"slack_{number}": 0.75,
        f"prompt_{number}": tokens / (tokens + 2048),
    }
    return observe(queued=1 / 17, **waits, **features)


def test_it_serves_by_deadlines_while_all_can_be_met_and_by_worth_where_not():
    rule = SlackAware(SlackParameters(calm=0.5, drop_class=2.0, calm_shedding="shed-none"))
    found = [chosen(rule, pressing(share))[:2] for share in (0.0, 0.4, 0.6, 1.9, 2.1)]
    assert found == [
        [at.BY_DEADLINE, at.SHED_NONE],
        [at.BY_DEADLINE, at.SHED_NONE],
        [at.BY_WEIGHT, at.SHED_LATE],
        [at.BY_WEIGHT, at.SHED_LATE],
        [at.BY_WEIGHT, at.SHED_CLASS],
    ]
    other = SlackAware(SlackParameters(crowded_order="shortest-prompt", crowded_victim="least-progress"))
    assert chosen(other, pressing(1.0))[:3] == [at.BY_PROMPT, at.SHED_LATE, at.VICTIM_PROGRESS]
    shortest = SlackAware(SlackParameters(calm_order="shortest-prompt"))
    assert chosen(shortest, pressing(0.1))[:2] == [at.BY_PROMPT, at.SHED_LATE]
    early = SlackAware(SlackParameters(calm_shedding="late"))
    assert chosen(early, pressing(0.1))[:2] == [at.BY_DEADLINE, at.SHED_LATE]


def test_a_class_with_a_longer_objective_is_pressed_by_those_with_a_shorter_one_too():
    rule = SlackAware(SlackParameters(calm=0.5, drop_class=64.0))
    assert chosen(rule, pressing(0.4, 1, 8.0))[0] == at.BY_DEADLINE
    short = pressing(0.4)
    both = np.maximum(short, pressing(0.4, 1, 8.0))
    # 0.4 of 2 s and 0.4 of 8 s are a half of 8 s.
    assert chosen(rule, short)[0] == at.BY_DEADLINE
    assert chosen(SlackAware(SlackParameters(calm=0.49)), both)[0] == at.BY_WEIGHT
    assert chosen(SlackAware(SlackParameters(calm=0.51)), both)[0] == at.BY_DEADLINE
    # Prompts of admitted requests come before all.
    busy = pressing(0.4, prefill_backlog=0.9999)
    assert chosen(rule, busy)[0] == at.BY_WEIGHT


def test_it_admits_whose_own_objective_is_urgent_and_none_where_pages_run_short():
    rule = SlackAware(SlackParameters(admit_slack=0.0, urgent=0.5, kv_limit=0.8))
    behind = {"tpot_slack_mean": 0.4, "oldest_wait": 0.9}

    def admission(**features):
        return bound(rule).predict(observe(queued=0.5, queued_1=0.5, **behind | features))[0][0, at.ADMISSION]

    # Slack of 1 - urgent, on a scale where 1 objective is 3/4.
    edge = 0.5 + 0.5 * 0.5 / 1.5
    assert admission(slack_1=edge + 0.01) == at.NONE
    assert admission(slack_1=edge - 0.01) == at.ALL
    assert admission(slack_1=edge + 0.01, tpot_slack_mean=0.6) == at.ALL
    assert admission(slack_1=0.1, kv_use=0.85) == at.NONE
    assert admission(slack_1=0.1, kv_use=0.75) == at.ALL


def test_it_drops_a_class_where_pages_run_short_however_little_waits():
    rule = SlackAware(SlackParameters(kv_drop=0.6, crowded_order="least-work"))
    assert chosen(rule, pressing(0.1, kv_use=0.55))[:2] == [at.BY_DEADLINE, at.SHED_LATE]
    assert chosen(rule, pressing(0.1, kv_use=0.65))[:2] == [at.BY_WORK, at.SHED_CLASS]
    assert chosen(rule, pressing(0.1, kv_use=0.65), "alone")[1] == at.SHED_LATE


def test_it_keeps_by_class_where_pages_run_short_and_drafts_for_the_accepted_where_rows_are_many():
    rule = SlackAware(SlackParameters(keep_until=0.5, drafted_rows=1e-3))
    assert chosen(rule, observe(kv_use=0.4))[3:6] == [at.KEEP_ALL, at.EVICT_RETURN, at.DRAFT_ACCEPTED]
    assert chosen(rule, observe(kv_use=0.6))[3] == at.KEEP_CLASS
    assert chosen(rule, observe(kv_use=0.4, kept=0.2))[3] == at.KEEP_CLASS
    assert chosen(SlackAware(SlackParameters(drafted_rows=16.0)), observe())[5] == at.DRAFT_ALL


def test_parts_replace_what_it_decides():
    name = "slack-aware+arrival+shed-none+lru"
    plain = chosen("slack-aware", pressing(8.0))
    assert plain[0] != at.BY_ARRIVAL
    assert plain[1] != at.SHED_NONE
    assert chosen(name, pressing(8.0))[:2] == [at.BY_ARRIVAL, at.SHED_NONE]
    assert chosen(name, observe())[4] == at.EVICT_LRU
    assert chosen(name, observe())[3] == chosen("slack-aware", observe())[3]


def test_its_parameters_have_ranges_with_the_defaults_inside():
    assert set(SLACK_RANGES) == set(as_table(SlackParameters()))
    for name, value in as_table(SlackParameters()).items():
        assert SLACK_RANGES[name].within(value) == value
