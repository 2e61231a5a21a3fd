"""What a serving scenario may say, and how a mistake in one is answered: where, what was found, what was expected."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.envs.decode import DecodeEnv
from papi_env.envs.serving import ServingEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario, get_scenario, load_scenario, parse_scenario
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.workload.serving import (
    ACCEPTANCE,
    DRAFTS,
    MAX_DRAFTED,
    MOST_RUNNING,
    PAGE_TOKENS,
    REQUEST_CLASSES,
    Speculation,
)


def table(**changes):
    serving = {
        "arrivals": {"process": "poisson", "rate_per_s": 2.0},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "requests": 4,
    } | changes
    serving = {name: value for name, value in serving.items() if value is not ...}
    return {"name": "test", "system": "papi", "model": "llama-65b", "serving": serving}


def refused(serving):
    with pytest.raises(ConfigurationError) as caught:
        parse_scenario(table(**serving), "my.toml")
    return str(caught.value)


# --- what can be written -------------------------------------------------------------------------------


def test_the_least_that_a_scenario_says():
    serving = parse_scenario(table(), "test").serving
    assert (serving.max_running, serving.chunk_tokens, serving.reward) == (128, 512, "attained")
    assert serving.prefill
    assert serving.paging
    assert serving.draft_cost
    assert serving.switching
    assert not serving.dual_row_buffers
    assert serving.drift is None
    assert serving.speculation.draft == "llama-160m"


def test_what_is_dumped_can_be_read_again():
    given = table(
        drift={"period_s": 5.0},
        speculation={"classes": {"code": 1, "mine": 3}, "acceptance": {"mine": [0.9, 0.5]}},
        horizon_s=3.0,
        requests=...,
    )
    scenario = parse_scenario(given, "test")
    assert parse_scenario(scenario.model_dump(), "again") == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario


def test_a_page_of_the_usual_size_is_not_written_down():
    """So scenarios that are stored, and their hashes, stay what they were before pages had a size."""
    usual, given = (parse_scenario(table(**page), "test") for page in ({}, {"page_tokens": PAGE_TOKENS}))
    assert usual == given
    assert usual.serving.page_tokens == PAGE_TOKENS == 16
    assert "page_tokens" not in usual.model_dump()["serving"]
    assert "page_tokens" not in usual.model_dump_json()
    larger = usual.replace(serving={"page_tokens": 32})
    assert larger.model_dump()["serving"]["page_tokens"] == 32
    assert Scenario.model_validate_json(larger.model_dump_json()) == larger
    assert larger.replace(serving={"page_tokens": 16}) == usual


def test_a_file_says_it_in_toml_and_finds_its_trace_beside_it(tmp_path):
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.0,100,4\n"
        "2023-11-16 18:15:47.0,200,5\n"
        "2023-11-16 18:15:48.5,300,6\n"
    )
    (tmp_path / "serve.toml").write_text(
        'system = "papi"\nmodel = "opt-30b"\n'
        "[serving]\nrequests = 3\n"
        '[serving.arrivals]\nprocess = "trace"\ntrace = "trace.csv"\nstart_s = 0\n'
        '[serving.lengths]\ntrace = "trace.csv"\n'
        "[serving.objectives]\nttft_s = 1.0\ntpot_s = 0.05\n"
    )
    scenario = load_scenario(tmp_path / "serve.toml")
    assert scenario.name == "serve"
    engine = ServingEngine(scenario)
    engine.reset()
    # The rows' own lengths, at their own times.
    assert engine.state.facts[0, :, :2].tolist() == [[100, 4], [200, 5], [300, 6]]
    assert engine.state.moments[0, :, 0].tolist() == [0.0, 1.0, 2.5]
    unpaired = ServingEngine(
        scenario.replace(serving={"paired": False, "lengths": {"input": 7, "output": 3}})
    )
    unpaired.reset()
    assert unpaired.state.facts[0, :, :2].tolist() == [[7, 3]] * 3


def test_rows_beyond_the_context_are_treated_as_asked(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.0,2000,100\n"
        "2023-11-16 18:15:47.0,100,5\n"
        "2023-11-16 18:15:48.0,3000,5\n"
    )
    arrivals = {"process": "trace", "trace": str(trace), "start_s": 0.0}
    statuses = {}
    for policy in ("refuse", "truncate", "extrapolate"):
        given = table(arrivals=arrivals, lengths={"trace": str(trace)}, requests=3, beyond_context=policy)
        engine = ServingEngine(parse_scenario(given, "test"))
        engine.reset()
        engine.clocks[0, 0] = 0.0
        statuses[policy] = [
            (int(i), int(o)) if status != 5 else "refused" for i, o, _, _, _, status in engine.state.facts[0]
        ]
    assert statuses["refuse"] == ["refused", (100, 5), "refused"]
    assert statuses["truncate"] == [(2000, 48), (100, 5), "refused"]
    assert statuses["extrapolate"] == [(2000, 100), (100, 5), (3000, 5)]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*REQUEST_CLASSES, "mine"]), st.floats(0, 10), min_size=1))
def test_rates_have_one_row_for_each_class_and_drafted_position(classes):
    if not sum(classes.values()) > 0:
        classes[next(iter(classes))] = 1.0
    speculation = Speculation(classes=classes, acceptance={"mine": (0.9, 0.4)})
    rates = speculation.rates()
    assert list(rates) == list(classes)
    assert all(len(row) == MAX_DRAFTED and all(0 <= rate <= 1 for rate in row) for row in rates.values())
    # The last value given goes on.
    assert rates.get("mine", (0.9, 0.4))[:2] == (0.9, 0.4)
    assert set(rates.get("mine", (0.4,))[1:]) <= {0.4}


def test_measured_rates_fall_from_their_first_to_their_last():
    ends = {name: (row[0], row[-1]) for name, row in ACCEPTANCE.items()}
    assert ends["code"] == pytest.approx((0.84, 0.74))
    assert ends["tools"] == pytest.approx((0.73, 0.53))
    for row in ACCEPTANCE.values():
        assert list(row) == sorted(row, reverse=True)
    for draft in DRAFTS.values():
        # Small beside what it drafts for: under 200 M parameters of FP16.
        assert draft.weight_bytes < 2 * 200e6


# --- mistakes ------------------------------------------------------------------------------------------

BAD = [
    ({"requests": ...}, "serving", "expected exactly one of requests and horizon_s"),
    ({"horizon_s": 1.0}, "serving", "expected exactly one of requests and horizon_s"),
    ({"requests": 0}, "serving.requests: found 0", "a whole number from 1 to 1000000"),
    ({"requests": 1_000_001}, "serving.requests: found 1000001", "from 1 to 1000000"),
    ({"requests": True}, "serving.requests: found the truth value True", "expected a number"),
    ({"requests": "four"}, "serving.requests: found the text 'four'", "expected a number"),
    ({"requests": 2.5}, "serving.requests: found 2.5", "a whole number from 1"),
    (
        {"requests": ..., "horizon_s": 0.0},
        "serving.horizon_s: found 0.0",
        "expected seconds from 1e-6 to 1e6",
    ),
    ({"requests": ..., "horizon_s": math.nan}, "serving.horizon_s: found nan", "finite number"),
    (
        {"requests": ..., "horizon_s": True},
        "serving.horizon_s: found the truth value True",
        "expected a number",
    ),
    ({"max_running": 0}, "serving.max_running: found 0", "a whole number from 1 to 1024"),
    ({"max_running": MOST_RUNNING + 1}, "serving.max_running: found 1025", "a whole number from 1 to 1024"),
    ({"max_running": True}, "serving.max_running: found the truth value True", "expected a number"),
    ({"page_tokens": 24}, "serving.page_tokens: found 24", "expected a power of two, such as 16"),
    ({"page_tokens": 0}, "serving.page_tokens: found 0", "a whole number of tokens from 1 to 1024"),
    ({"page_tokens": 2048}, "serving.page_tokens: found 2048", "tokens from 1 to 1024"),
    ({"page_tokens": True}, "serving.page_tokens: found the truth value True", "expected a number"),
    ({"chunk_tokens": 8193}, "serving.chunk_tokens: found 8193", "tokens from 1 to 8192"),
    ({"chunk_tokens": 0}, "serving.chunk_tokens: found 0", "a whole number of tokens from 1 to 8192"),
    ({"token_budget": 0}, "serving.token_budget: found 0", "a whole number of tokens from 1 to 16384"),
    ({"token_budget": 127}, "token_budget is 127", "at least a token of each of max_running = 128 requests"),
    ({"token_budget": 2048, "chunk_tokens": 64}, "chunk_tokens is 64 with a token_budget", "one of the two"),
    ({"token_budget": 2048, "prefill": False}, "token_budget with prefill = false", "expected both on"),
    ({"token_budget": 2048, "paging": False}, "token_budget with paging = false", "expected both on"),
    ({"prefix_caching": True}, "prefix_caching is true without a token_budget", "such as 2048"),
    (
        {"kv_tokens": 4096, "paging": False},
        "kv_tokens with paging = false",
        "expected paging, or no kv_tokens",
    ),
    ({"kv_tokens": 0}, "serving.kv_tokens: found 0", "a whole number of tokens"),
    ({"uneven_contexts": 1.5}, "serving.uneven_contexts: found 1.5", "from 0 to 1"),
    ({"decision_s": -1e-3}, "serving.decision_s: found -0.001", "expected seconds, 0 or from 1e-12 to 1"),
    ({"decision_s": math.inf}, "serving.decision_s: found inf", "finite number"),
    ({"decision_s": "1"}, "serving.decision_s: found the text '1'", "expected a number"),
    ({"reward": "good"}, "serving.reward: found 'good'", "'attained' or 'on-time'"),
    ({"beyond_context": "cut"}, "serving.beyond_context: found 'cut'", "'truncate'"),
    ({"prefill": "sometimes"}, "serving.prefill: found the text 'sometimes'", "boolean"),
    ({"max_runing": 4}, "serving.max_runing: not a known field", "did you mean 'max_running'?"),
    ({"objectives": ...}, "serving.objectives", "Field required"),
    ({"lengths": ...}, "serving.lengths", "Field required"),
    ({"arrivals": ...}, "serving.arrivals", "Field required"),
    # Objectives.
    (
        {"objectives": {"ttft_s": 0.0, "tpot_s": 1.0}},
        "serving.objectives.ttft_s: found 0.0",
        "expected seconds from 1e-6 to 1e6",
    ),
    (
        {"objectives": {"ttft_s": 1.0, "tpot_s": -1.0}},
        "serving.objectives.tpot_s: found -1.0",
        "expected seconds from 1e-6 to 1e6",
    ),
    ({"objectives": {"ttft_s": math.inf, "tpot_s": 1.0}}, "serving.objectives.ttft_s: found inf", "finite"),
    ({"objectives": {"ttft_s": 1.0}}, "serving.objectives.tpot_s", "Field required"),
    (
        {"objectives": {"ttft": 1.0, "tpot_s": 1.0}},
        "serving.objectives.ttft: not a known",
        "did you mean 'ttft_s'?",
    ),
    (
        {"objectives": {"ttft_s": True, "tpot_s": 1.0}},
        "serving.objectives.ttft_s: found the truth value True",
        "expected a number",
    ),
    # Speculation.
    ({"speculation": {"draft": "llama-161m"}}, "serving.speculation", "Did you mean 'llama-160m'? Known: "),
    ({"speculation": {"classes": {}}}, "serving.speculation", "0 request classes, expected 1 to 16"),
    (
        {"speculation": {"classes": {"coed": 1.0}}},
        "serving.speculation",
        "class 'coed'. Did you mean 'code'?",
    ),
    (
        {"speculation": {"classes": {"code": -1.0}}},
        "serving.speculation",
        "'code' is -1.0, expected at least 0",
    ),
    (
        {"speculation": {"classes": {"code": 0.0}}},
        "serving.speculation",
        "shares of request classes are all 0",
    ),
    (
        {"speculation": {"classes": {"code": math.nan}}},
        "serving.speculation.classes.code: found nan",
        "finite",
    ),
    (
        {"speculation": {"classes": {f"c{i}": 1.0 for i in range(17)}}},
        "serving.speculation",
        "17 request classes, expected 1 to 16",
    ),
    (
        {"speculation": {"acceptance": {"code": [0.5, 1.5]}}},
        "serving.speculation",
        "acceptance of class 'code' is (0.5, 1.5), expected rates from 0 to 1",
    ),
    ({"speculation": {"acceptance": {"code": []}}}, "serving.speculation", "'code' is (), expected rates"),
    (
        {"speculation": {"draft_layer_overhead_s": 0.1}},
        "serving.speculation.draft_layer_overhead_s: found 0.1",
        "expected seconds, 0 or from 1e-12 to 0.001",
    ),
    (
        {"speculation": {"class": {"code": 1.0}}},
        "serving.speculation.class: not a known",
        "did you mean 'classes'?",
    ),
    # Drift.
    ({"drift": {"period_s": 0.0}}, "serving.drift.period_s: found 0.0", "expected seconds from 1e-6 to 1e6"),
    ({"drift": {"pu": 0.9}}, "serving.drift.pu: found 0.9", "as long as profiled from 1 to 10"),
    ({"drift": {"attn_pim": 11.0}}, "serving.drift.attn_pim: found 11.0", "as long as profiled from 1 to 10"),
    ({"drift": {"fc_pim": math.nan}}, "serving.drift.fc_pim: found nan", "finite"),
    ({"drift": {"pu": "2"}}, "serving.drift.pu: found the text '2'", "expected a number"),
    ({"drift": {"fc-pim": 2.0}}, "serving.drift.fc-pim: not a known field", "did you mean 'fc_pim'?"),
    # Arrivals and lengths, inside.
    ({"arrivals": {"process": "poison"}}, "serving.arrivals.process: found 'poison'", "'poisson', 'gamma'"),
    ({"arrivals": {"process": "poisson"}}, "serving.arrivals", "'poisson' arrivals need rate_per_s"),
    (
        {"arrivals": {"process": "gamma", "rate_per_s": 1.0}},
        "serving.arrivals",
        "'gamma' arrivals need shape",
    ),
    (
        {"arrivals": {"process": "together", "rate_per_s": 1.0}},
        "serving.arrivals",
        "rate_per_s is 1.0, expected none",
    ),
    (
        {"arrivals": {"process": "poisson", "rate_per_sec": 1.0}},
        "serving.arrivals.rate_per_sec: not a known field",
        "did you mean 'rate_per_s'?",
    ),
    ({"lengths": {"table": "dolly-qa"}}, "serving.lengths", "Did you mean 'dolly-general-qa'?"),
    ({"lengths": {"input": 5}}, "serving.lengths", "fixed lengths need both input and output"),
]


@pytest.mark.parametrize(("serving", "where", "expected"), BAD, ids=lambda value: str(value)[:60])
def test_a_mistake_is_answered_with_where_it_is_and_what_was_expected(serving, where, expected):
    message = refused(serving)
    assert message.startswith("my.toml: serving")
    assert where in message
    assert expected in message


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"workload": {"lengths": {"table": "dolly-general-qa"}}}, "workload: not used with serving"),
        (
            {"images": {"network": "repmlpnet-t256", "batch_sizes": [1], "encodes": 2}},
            "images: not used with serving",
        ),
        ({"model": None}, "model: required with serving"),
    ],
)
def test_serving_goes_with_a_model_and_nothing_else(part, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_scenario(table() | part, "test")


def test_together_needs_requests_and_a_horizon_needs_arrivals_that_end_with_it():
    given = table(arrivals={"process": "together"}, requests=..., horizon_s=2.0)
    with pytest.raises(ConfigurationError, match="'together' arrivals have no requests, expected how many"):
        ServingEngine(parse_scenario(given, "test"))


def test_more_requests_than_any_episode_may_have_are_refused():
    given = table(arrivals={"process": "poisson", "rate_per_s": 1e4}, requests=..., horizon_s=1e5)
    with pytest.raises(ConfigurationError, match="keep it below 1000000"):
        ServingEngine(parse_scenario(given, "test"))


# --- replacing parts -----------------------------------------------------------------------------------


def test_parts_are_replaced_and_one_end_takes_the_place_of_the_other():
    scenario = parse_scenario(table(), "test")
    timed = scenario.replace(serving={"horizon_s": 5.0}).serving
    assert (timed.requests, timed.horizon_s) == (None, 5.0)
    counted = scenario.replace(serving={"horizon_s": 5.0}).replace(serving={"requests": 9}).serving
    assert (counted.requests, counted.horizon_s) == (9, None)
    other = scenario.replace(system="a100-attacc", model="opt-30b", switch_s=0.0)
    assert (other.system.name, other.model.name, other.switch_s) == ("a100-attacc", "opt-30b", 0.0)
    assert other.serving == scenario.serving
    assert scenario.replace(serving={}) == scenario


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"requets": 3}, "serving.requets: not a known field; did you mean 'requests'?"),
        ({"requests": 3, "horizon_s": 1.0}, "expected exactly one of requests and horizon_s"),
        ({"objectives": {"ttft_s": 1.0}}, "serving.objectives.tpot_s"),
        ([("requests", 3)], r"serving is \[\('requests', 3\)\], expected Mapping"),
    ],
)
def test_replacements_are_validated(serving, message):
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        parse_scenario(table(), "test").replace(serving=serving)


def test_what_does_not_belong_cannot_be_replaced():
    with pytest.raises(ConfigurationError, match="serves no requests: no serving part to replace"):
        get_scenario("creative-writing/llama-65b").replace(serving={"requests": 3})
    with pytest.raises(ConfigurationError, match="decodes no text"):
        parse_scenario(table(), "test").replace(batch_size=4)


def test_problems_refuse_each_others_scenarios():
    with pytest.raises(ConfigurationError, match="'creative-writing/llama-65b' has no serving part"):
        ServingEnv("creative-writing/llama-65b")
    with pytest.raises(ConfigurationError, match="'test' decodes no text"):
        DecodeEnv(table())
