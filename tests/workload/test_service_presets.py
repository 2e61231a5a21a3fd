"""Presets with classes: they follow from what is measured, can be served, and hold what they say about ranges."""

import json
import math

import pytest

from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.system import get_system
from papi_env.scenario import SCENARIOS, Scenario, parse_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload import presets
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.senders import CONTEXTS, PROMISES, SENDERS
from papi_env.workload.service_presets import (
    FAMILIES,
    HORIZON_S,
    LEAST_TRAINING_SHAPE,
    MODELS,
    TRAFFIC,
    TRAINING_LOADS,
    TRAINING_MODELS,
    Capacity,
    derive_service,
    held_out,
    kv_tokens,
    load_capacities,
    nearest_family,
    service_presets,
    traffic_of,
    traffic_serving,
)
from papi_env.workload.serving import MAX_RUNNING
from papi_env.workload.transformer import get_transformer

# Made up, other numbers for each.
PAIRS = [(traffic, model) for traffic, sent in TRAFFIC.items() for model in sent.models]
MADE_UP = {
    pair: Capacity(sessions_per_s=2.0 + i, worth=100.0, dynamic_j=50.0, static_w=800.0)
    for i, pair in enumerate(PAIRS)
}
PRESETS = service_presets(MADE_UP)
KEEPING = ("agents", "documents", "chats", "mixed-documents")


def scenario(traffic, model, **fields):
    arrivals = Arrivals(process="poisson", rate_per_s=1.0)
    serving = traffic_serving(traffic, model, arrivals, **fields)
    sixth = SCENARIOS["mixture-of-experts"].system
    system = sixth.model_dump() if MODELS[model].system == sixth.name else MODELS[model].system
    return parse_scenario(
        {"name": "test", "system": system, "model": model, "serving": serving.model_dump()}, "test"
    )


# --- names and numbers ----------------------------------------------------------------------------------


def test_names_are_families_on_models_and_no_older_ones():
    assert not set(FAMILIES) & set(presets.FAMILIES)
    assert list(PRESETS) == [
        f"{name}/{model}" for name, family in FAMILIES.items() for model in TRAFFIC[family.traffic].models
    ]
    assert {"overload/llama-65b", "agents/qwen3-30b-a3b", "experts/qwen3-30b-a3b"} < set(PRESETS)
    assert not set(PRESETS) & set(SCENARIOS) - set(service_presets())


def test_senders_and_shares_are_known():
    for sent in TRAFFIC.values():
        assert set(sent.shares) <= set(SENDERS)
        assert set(sent.stacks) <= set(MODELS)
        assert set(sent.models) <= set(MODELS)
    for sender in SENDERS.values():
        for mapping in (sender.promise, sender.lengths, sender.prefix):
            assert set(mapping) == set(CONTEXTS)
    assert {sent for traffic in TRAFFIC.values() for sent in traffic.shares} == set(SENDERS)


@pytest.mark.parametrize("name", FAMILIES)
def test_rates_follow_from_capacities(name):
    family = FAMILIES[name]
    for model in TRAFFIC[family.traffic].models:
        capacity = MADE_UP[family.traffic, model]
        preset = derive_service(family, model, capacity)
        serving = preset.serving
        assert serving.arrivals.rate_per_s == pytest.approx(family.load * capacity.sessions_per_s, rel=1e-3)
        joules = capacity.dynamic_j + capacity.static_w / serving.arrivals.rate_per_s
        assert preset.energy_weight * joules == pytest.approx(family.energy_share * capacity.worth, rel=1e-3)
        assert (serving.drift is not None) == family.drift
        assert serving.service.drain


def test_what_is_not_measured_has_no_preset():
    only = {("agents", "llama-65b"): MADE_UP["agents", "llama-65b"]}
    assert list(service_presets(only)) == ["agents-1/llama-65b", "agents/llama-65b"]
    assert service_presets({}) == {}


def test_registered_presets_are_those_measured():
    for name, preset in service_presets().items():
        assert SCENARIOS[name].serving == preset.serving


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_written_and_read(name):
    preset = PRESETS[name]
    whole = scenario(FAMILIES[name.partition("/")[0]].traffic, preset.model)
    given = whole.model_copy(update={"serving": preset.serving})
    assert Scenario.model_validate_json(given.model_dump_json()) == given


def test_episodes_last_at_least_twenty_objectives():
    for name, preset in PRESETS.items():
        longest = max(entry.objectives.ttft_s for entry in preset.serving.service.classes.values())
        sent = TRAFFIC[FAMILIES[name.partition("/")[0]].traffic]
        assert preset.serving.horizon_s == sent.horizons.get(preset.model, HORIZON_S) >= 20 * longest


def test_promises_are_no_weaker_for_those_who_watch():
    for promised in PROMISES.values():
        order = [
            promised[name].ttft_s for name in ("premium", "interactive", "standard", "long-prompts", "batch")
        ]
        assert order == sorted(order)


# --- what the model and the machine show ------------------------------------------------------------------


@pytest.mark.parametrize(("traffic", "model"), PAIRS)
def test_every_traffic_can_be_served_and_met_alone(traffic, model):
    """An average prompt of every class, without anything kept, has its first token in time on an empty machine."""
    given = scenario(traffic, model)
    tables = build_serving_tables(given)
    second = tables.scalars[at.PROMPT_TOKEN_S]
    contexts = []
    for name, entry in given.serving.service.classes.items():
        limit = given.model.context_limit - entry.shared_prefix
        mean_in, mean_out = entry.lengths.population(limit, "refuse").means
        assert (entry.shared_prefix + mean_in) * second < entry.objectives.ttft_s, name
        contexts.append(entry.shared_prefix + mean_in + mean_out)
    assert tables.kinds[:, at.WEIGHT].min() > 0
    # The memory is full of first turns before every place is taken, where its part is given.
    if traffic in KEEPING:
        assert MAX_RUNNING * sum(contexts) / len(contexts) > 2 * kv_tokens(traffic, model)


@pytest.mark.parametrize("model", MODELS)
def test_memory_is_less_than_the_machine_has_where_a_part_is_given(model):
    attention = get_system("papi").attn_pim
    per_stack = attention.capacity_bytes // attention.stacks // get_transformer(model).kv_bytes_per_token
    bound = [traffic for traffic in TRAFFIC if kv_tokens(traffic, model) is not None]
    assert set(bound) == {traffic for traffic in KEEPING if model in TRAFFIC[traffic].models}
    for traffic in bound:
        stacks = TRAFFIC[traffic].stacks[model]
        assert kv_tokens(traffic, model) == pytest.approx(stacks * per_stack, abs=stacks)
    assert kv_tokens("tiers", model) is None


# --- held out ---------------------------------------------------------------------------------------------


def test_held_out_models_lie_outside_the_sizes_of_training():
    sizes = [get_transformer(model).weight_bytes for model in TRAINING_MODELS]
    for model in set(MODELS) - set(TRAINING_MODELS):
        assert not min(sizes) <= get_transformer(model).weight_bytes <= max(sizes)
        assert held_out(f"overload/{model}")


def test_held_out_families_lie_outside_what_training_draws_from():
    trained = [family for family in FAMILIES.values() if not family.held_out]
    for family in trained:
        assert TRAINING_LOADS[0] <= family.load <= TRAINING_LOADS[1]
        assert family.shape in (None, LEAST_TRAINING_SHAPE)
        assert set(TRAINING_MODELS) & set(TRAFFIC[family.traffic].models)
    for name, family in FAMILIES.items():
        if not family.held_out:
            continue
        outside = [
            not TRAINING_LOADS[0] <= family.load <= TRAINING_LOADS[1],
            family.shape is not None and family.shape < LEAST_TRAINING_SHAPE,
            not set(TRAINING_MODELS) & set(TRAFFIC[family.traffic].models),
        ]
        assert any(outside), name
        assert held_out(f"{name}/llama-65b")
    assert not held_out("overload/llama-65b")
    with pytest.raises(ConfigurationError, match="Did you mean 'overload'"):
        held_out("overlod/llama-65b")


# --- mistakes ---------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_nearest():
    arrivals = Arrivals(process="poisson", rate_per_s=1.0)
    with pytest.raises(ConfigurationError, match=r"Unknown traffic 'agent'\. Did you mean 'agents'"):
        traffic_serving("agent", "llama-65b", arrivals)
    with pytest.raises(ConfigurationError, match=r"Unknown model 'llama-70b'\. Did you mean"):
        traffic_serving("agents", "llama-70b", arrivals)


GOOD = {"sessions_per_s": 1.0, "worth": 2.0, "dynamic_j": 3.0, "static_w": 4.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no table 'measured' in JSON"),
        ("{", "found no table 'measured' in JSON"),
        (
            {"agent/llama-65b": GOOD},
            "measured.agent/llama-65b: expected TRAFFIC/MODEL, with one of tiers, two-classes",
        ),
        ({"experts/llama-65b": GOOD}, "measured.experts/llama-65b: expected TRAFFIC/MODEL"),
        (
            {"agents/llama-65b": {"worth": 1}},
            "found {'worth': 1}, expected sessions_per_s, worth, dynamic_j, static_w",
        ),
        (
            {"agents/llama-65b": GOOD | {"worth": 0}},
            "measured.agents/llama-65b.worth: found 0, expected a number above 0",
        ),
        ({"agents/llama-65b": GOOD | {"worth": True}}, "worth: found True, expected a number above 0"),
        ({"agents/llama-65b": GOOD | {"worth": math.nan}}, "worth: found nan, expected a number above 0"),
    ],
)
def test_a_file_of_capacities_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "capacities.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"measured": content}))
    with pytest.raises(DataError) as caught:
        load_capacities(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_of_capacities_that_is_absent_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_capacities(tmp_path / "absent.json")


def _serving(name):
    return SCENARIOS[name].serving


def test_a_scenario_is_of_the_traffic_whose_senders_are_its_classes():
    serving = {name: _serving(name) for name in ("storms/llama-65b", "experts/qwen3-30b-a3b")}
    assert [traffic_of(found) for found in serving.values()] == ["tiers", "tiers"]
    assert traffic_of(_serving("chats-1.6/gpt3-175b")) == "chats"
    assert traffic_of(None) is None
    assert traffic_of(SCENARIOS["saturated/llama-65b"].serving) is None


@pytest.mark.parametrize(
    ("family", "among", "nearest"),
    [
        ("chats-1.6", ("overload", "chat-bursts", "chats"), "chats"),
        ("overload-1", ("overload", "bursts", "default"), "bursts"),
        ("experts", ("chats", "overload"), "overload"),
        ("storms", ("chats",), None),
        ("saturated", ("overload",), None),
        ("azure-code-1.3", ("bursts", "chats", "overload"), "overload"),
        ("azure-conversation-1", ("chat-bursts", "overload", "bursts"), "bursts"),
        ("azure-code-1.3", ("chats",), None),
    ],
)
def test_the_nearest_family_has_the_same_senders_and_the_nearest_load(family, among, nearest):
    assert nearest_family(family, among) == nearest
