"""Whom a scenario serves: what it may say, and how a mistake is answered: where, what was found, what was expected."""

import json
import math

import pytest

from papi_env.errors import ConfigurationError
from papi_env.scenario import SCENARIOS, Scenario, load_scenario, parse_scenario
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.service import MAX_CLASSES, MOST_TURNS, Service

TALK = {"turns": 3.0, "think_s": 30.0}


def table(service=..., **changes):
    serving = {
        "arrivals": {"process": "poisson", "rate_per_s": 2.0},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "horizon_s": 60.0,
    } | changes
    if service is not ...:
        serving["service"] = service
    return {"name": "test", "system": "papi", "model": "llama-65b", "serving": serving}


def refused(service, **changes):
    with pytest.raises(ConfigurationError) as caught:
        parse_scenario(table(service, **changes), "my.toml")
    return str(caught.value)


def one(**fields):
    return {"classes": {"chat": fields}}


# --- what can be written -------------------------------------------------------------------------------


def test_the_least_that_a_service_says():
    service = parse_scenario(table({}), "test").serving.service
    assert list(service.classes) == ["standard"]
    entry = service.classes["standard"]
    assert (entry.share, entry.weight, entry.shared_prefix) == (1, 1, 0)
    assert (entry.objectives, entry.lengths, entry.acceptance, entry.patience_s, entry.conversation) == (
        None,
    ) * 5
    assert (service.charge, service.worth, service.drain) == (0, "tokens", True)


FULL = {
    "charge": 0.25,
    "worth": "requests",
    "max_waiting": 64,
    "max_open": 32,
    "drain": False,
    "classes": {
        "people": {
            "share": 3,
            "weight": 2.0,
            "objectives": {"ttft_s": 0.45, "tpot_s": 0.04},
            "lengths": {"input": 100, "output": 20},
            "acceptance": {"writing": 1, "mine": 2},
            "patience_s": [10.0, 40.0],
            "conversation": TALK
            | {"most_turns": 9, "think_sigma": 0.5, "lengths": {"input": 10, "output": 20}},
        },
        "agent-2": {"shared_prefix": 512},
    },
}
OWN = {"acceptance": {"mine": [0.9]}}


def test_what_is_dumped_can_be_read_again():
    scenario = parse_scenario(table(FULL, speculation=OWN), "test")
    assert parse_scenario(scenario.model_dump(), "again") == scenario
    assert parse_scenario(json.loads(scenario.model_dump_json()), "again") == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    assert scenario.serving.service.classes["people"].patience_s == (10, 40)


def test_a_file_says_the_same(tmp_path):
    path = tmp_path / "test.toml"
    path.write_text(
        """
        system = "papi"
        model = "llama-65b"
        [serving]
        arrivals = { process = "poisson", rate_per_s = 2.0 }
        lengths = { table = "dolly-general-qa" }
        objectives = { ttft_s = 2.0, tpot_s = 0.05 }
        horizon_s = 60.0
        speculation = { acceptance = { mine = [0.9] } }
        [serving.service]
        charge = 0.25
        worth = "requests"
        max_waiting = 64
        max_open = 32
        drain = false
        [serving.service.classes.people]
        share = 3
        weight = 2.0
        objectives = { ttft_s = 0.45, tpot_s = 0.04 }
        lengths = { input = 100, output = 20 }
        acceptance = { writing = 1, mine = 2 }
        patience_s = [10, 40.0]
        [serving.service.classes.people.conversation]
        turns = 3.0
        think_s = 30
        most_turns = 9
        think_sigma = 0.5
        lengths = { input = 10, output = 20 }
        [serving.service.classes.agent-2]
        shared_prefix = 512
        """
    )
    assert load_scenario(path) == parse_scenario(table(FULL, speculation=OWN), "test")


def test_files_of_lengths_are_looked_for_beside_the_scenario(tmp_path):
    (tmp_path / "mine.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,100,10\n")
    path = tmp_path / "test.toml"
    path.write_text(
        """
        system = "papi"
        model = "llama-65b"
        [serving]
        arrivals = { process = "poisson", rate_per_s = 2.0 }
        lengths = { trace = "mine.csv" }
        objectives = { ttft_s = 2.0, tpot_s = 0.05 }
        horizon_s = 60.0
        [serving.service.classes.people]
        lengths = { trace = "mine.csv" }
        conversation = { turns = 3, think_s = 9, lengths = { trace = "mine.csv" } }
        """
    )
    entry = load_scenario(path).serving.service.classes["people"]
    assert entry.lengths.trace == entry.conversation.lengths.trace == str(tmp_path / "mine.csv")


@pytest.mark.parametrize("service", ['"people"', "{ classes = [] }", "{ classes = { a = 3 } }"])
def test_a_file_with_something_else_there_is_refused_as_such(tmp_path, service):
    path = tmp_path / "test.toml"
    path.write_text(
        f"""
        system = "papi"
        model = "llama-65b"
        [serving]
        arrivals = {{ process = "poisson", rate_per_s = 2.0 }}
        lengths = {{ table = "dolly-general-qa" }}
        objectives = {{ ttft_s = 2.0, tpot_s = 0.05 }}
        horizon_s = 60.0
        service = {service}
        """
    )
    with pytest.raises(ConfigurationError, match=r"test\.toml: serving\.service"):
        load_scenario(path)


def test_without_classes_nothing_is_written_down():
    """So the hashes of scenarios that are stored stay what they were."""
    plain = parse_scenario(table(), "test")
    assert "service" not in plain.model_dump()["serving"]
    assert "service" not in plain.model_dump_json()
    assert "service" in parse_scenario(table({}), "test").model_dump()["serving"]
    assert plain.replace(serving={"service": {}}).serving.service == Service()
    assert parse_scenario(table({}), "test").replace(serving={"service": None}) == plain


def test_registered_scenarios_without_classes_do_not_mention_them():
    for scenario in SCENARIOS.values():
        if scenario.serving is not None and scenario.serving.service is None:
            assert "service" not in scenario.model_dump()["serving"]


# --- mistakes ------------------------------------------------------------------------------------------

CHAT = "my.toml: serving.service.classes.chat"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": -1}, f"{CHAT}.share: found -1, expected a number from 0 to 1e6"),
        ({"share": math.nan}, f"{CHAT}.share: found nan, expected"),
        ({"share": math.inf}, f"{CHAT}.share: found inf, expected"),
        ({"share": "half"}, f"{CHAT}.share: found the text 'half', expected"),
        ({"share": True}, f"{CHAT}.share: found the truth value True, expected"),
        ({"weight": 0}, f"{CHAT}.weight: found 0, expected a number from 1e-6 to 1e6"),
        ({"weight": -2.0}, f"{CHAT}.weight: found -2.0, expected"),
        ({"weight": math.nan}, f"{CHAT}.weight: found nan, expected"),
        ({"weight": "2"}, f"{CHAT}.weight: found the text '2', expected"),
        ({"wieght": 1}, f"{CHAT}.wieght: not a known field; did you mean 'weight'?"),
        (
            {"objectives": {"ttft_s": 450, "tpot_s": -1}},
            f"{CHAT}.objectives.tpot_s: found -1, expected seconds",
        ),
        ({"objectives": {"ttft_s": 1}}, f"{CHAT}.objectives.tpot_s: Field required, expected seconds"),
        ({"lengths": {"table": "dolly-generl-qa"}}, "Did you mean 'dolly-general-qa'?"),
        (
            {"patience_s": [40, 10]},
            f"{CHAT}.patience_s: found [40, 10]: 40 to 10 s, expected the shorter one",
        ),
        ({"patience_s": [-1, 10]}, f"{CHAT}.patience_s.0: found -1, expected seconds"),
        ({"patience_s": [1, math.inf]}, f"{CHAT}.patience_s.1: found inf, expected a finite number: seconds"),
        ({"patience_s": 10}, f"{CHAT}.patience_s: found 10: Input should be a valid tuple"),
        ({"shared_prefix": -1}, f"{CHAT}.shared_prefix: found -1, expected a whole number from 0"),
        ({"shared_prefix": 1.5}, f"{CHAT}.shared_prefix: found 1.5, expected a whole number"),
        ({"acceptance": {}}, f"{CHAT}.acceptance: found {{}}: 0 kinds of text, expected 1 to 16"),
        ({"acceptance": {"code": -1}}, "share of 'code' is -1, expected at least 0"),
        ({"acceptance": {"code": 0.0}}, "shares of the kinds of text are all 0, expected one above"),
        (
            {"acceptance": {"code": "much"}},
            f"{CHAT}.acceptance.code: found the text 'much', expected a number",
        ),
        ({"acceptance": {"coed": 1}}, "service.classes.chat.acceptance: Unknown kind of text 'coed'."),
        ({"acceptance": {"coed": 1}}, "Did you mean 'code'? Known: code, maths, questions, tools, writing."),
    ],
)
def test_a_class_that_is_nonsense_is_refused(fields, message):
    said = refused(one(**fields))
    assert message in said
    assert said.startswith("my.toml: serving")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"turns": 12, "most_turns": 12},
            "turns is 12 on average with most_turns = 12, so that conversations would",
        ),
        ({"turns": MOST_TURNS}, "never end by themselves: expected turns below most_turns, or 1"),
        (
            {"turns": math.inf},
            f"{CHAT}.conversation.turns: found inf, expected a finite number from 1 to {MOST_TURNS}",
        ),
        ({"turns": 0.5}, f"{CHAT}.conversation.turns: found 0.5, expected a number from 1"),
        ({"most_turns": 0}, f"{CHAT}.conversation.most_turns: found 0, expected a whole number from 1"),
        ({"think_s": 0}, f"{CHAT}.conversation.think_s: found 0, expected seconds from 1e-6 to 1e5"),
        ({"think_s": math.nan}, f"{CHAT}.conversation.think_s: found nan, expected a finite number: seconds"),
        ({"think_sigma": -1}, f"{CHAT}.conversation.think_sigma: found -1, expected a number from 0 to 4"),
        ({"lengths": {"input": 10}}, f"{CHAT}.conversation.lengths: "),
    ],
)
def test_a_conversation_that_is_nonsense_is_refused(changes, message):
    assert message in refused(one(conversation=TALK | changes))


def test_a_single_turn_is_a_conversation_too():
    parse_scenario(table(one(conversation=TALK | {"turns": 1, "most_turns": 1})), "test")


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"classes": {}}, "my.toml: serving.service: found {'classes': {}}: 0 classes, expected 1 to 4"),
        ({"classes": {f"c{i}": {} for i in range(MAX_CLASSES + 1)}}, "5 classes, expected 1 to 4"),
        (
            {"classes": {"a": {"share": 0}, "b": {"share": 0}}},
            "shares of the classes are all 0, expected one above",
        ),
        (
            {"classes": {"": {}}},
            "a class is called '', expected a letter and up to 31 letters, digits, '-' and '_'",
        ),
        ({"classes": {"a.b": {}}}, "a class is called 'a.b', expected"),
        ({"classes": {"x" * 40: {}}}, "expected a letter and up to 31"),
        ({"charge": 1.5}, "my.toml: serving.service.charge: found 1.5, expected a share from 0 to 1"),
        (
            {"charge": "all"},
            "my.toml: serving.service.charge: found the text 'all', expected a number: a share",
        ),
        (
            {"worth": "token"},
            "my.toml: serving.service.worth: found 'token': Input should be 'tokens' or 'requests'",
        ),
        (
            {"max_waiting": 0},
            "my.toml: serving.service.max_waiting: found 0, expected a whole number from 1 to 4096",
        ),
        ({"max_open": 10_000}, "my.toml: serving.service.max_open: found 10000, expected a whole number"),
        ({"drain": "yes"}, "my.toml: serving.service.drain: found the text 'yes', expected a boolean"),
        ({"clases": {}}, "my.toml: serving.service.clases: not a known field; did you mean 'classes'?"),
    ],
)
def test_a_service_that_is_nonsense_is_refused(service, message):
    assert message in refused(service)


def test_a_token_budget_and_classes_do_not_go_together():
    said = refused({}, token_budget=512)
    assert "my.toml: serving: token_budget is 512 with service" in said
    assert "expected one of the two" in said
    assert "expected one of the two" in refused({}, token_budget=512, prefix_caching=True)


@pytest.mark.parametrize(("field", "value"), [("conversation", TALK), ("shared_prefix", 64)])
def test_what_is_kept_of_prompts_needs_prefill(field, value):
    said = refused(one(**{field: value}), prefill=False)
    assert f"service.classes.chat.{field} with prefill = false: prompts arrive processed" in said
    assert f"expected prefill = true, or no {field}" in said
    parse_scenario(table({}, prefill=False), "test")


# --- what only the model and the machine show ------------------------------------------------------------


def tabulated(service, **changes):
    scenario = parse_scenario(table(service, **changes), "test")
    return build_serving_tables(scenario)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"shared_prefix": 2047},
            "classes.chat.shared_prefix is 2047, but llama-65b has a context of 2048 tokens",
        ),
        (
            {"shared_prefix": 2000, "lengths": {"input": 40, "output": 20}},
            "classes.chat.lengths beside a shared prefix of 2000: fixed lengths 40 + 20: none of 1 requests fits a "
            "context of 48 tokens",
        ),
        (
            {"conversation": TALK, "lengths": {"input": 1000, "output": 500}},
            "classes.chat.conversation.turns is 3, but not even the two shortest turns fit the context of llama-65b: "
            "they need 3000 tokens of 2048; expected shorter ones, or turns = 1",
        ),
        (
            {"patience_s": [0.001, 1], "lengths": {"input": 1000, "output": 5}},
            "classes.chat.patience_s begins at 0.001 s, before the fastest possible first token: 1000 prompt tokens",
        ),
    ],
)
def test_a_class_that_cannot_be_served_is_refused(fields, message):
    with pytest.raises(ConfigurationError) as caught:
        tabulated(one(**fields))
    assert message in str(caught.value)


def test_a_class_may_have_no_share():
    tables = tabulated({"classes": {"a": {}, "b": {"share": 0}}})
    assert tables.kinds[:, 0].tolist() == [0, 1]


def test_a_class_of_what_is_left_can_be_served():
    fields = {"shared_prefix": 2000, "lengths": {"input": 28, "output": 20}}
    assert tabulated(one(**fields)).service_lengths.tolist() == [[28, 20]]
