"""Scenarios come from names, files and tables; what cannot be simulated is refused where it enters."""

import copy
import json
import math
from pathlib import Path

import pytest

from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.technology import get_technology
from papi_env.scenario import (
    DEFAULT_SCENARIO,
    MAX_BATCH,
    MAX_SPECULATION,
    PAPER_SCENARIOS,
    SCENARIOS,
    Lengths,
    Scenario,
    get_scenario,
    load_scenario,
    parse_scenario,
)
from papi_env.workload.formats import ElementFormat
from papi_env.workload.transformer import TRANSFORMERS
from tests.workload.configs import CONFIGS

PRESETS = pytest.mark.parametrize("name", SCENARIOS)
DEFAULT = SCENARIOS[DEFAULT_SCENARIO]
PLAIN = {
    "name": "plain",
    "system": "papi",
    "model": "llama-65b",
    "workload": {"lengths": {"input": 100, "output": 50}},
}
TOML = """
system = "papi"
model = "llama-65b"
[workload]
batch_size = 8
lengths = { table = "dolly-general-qa" }
"""


def altered(**changes):
    """PLAIN with fields replaced; a double underscore enters a table, which may be missing."""
    data = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        table = data
        *parents, last = path.split("__")
        for part in parents:
            table = table.setdefault(part, {})
        table[last] = value
    return data


def parsed(**changes):
    return parse_scenario(altered(**changes), "here")


def refusal(**changes):
    with pytest.raises(ConfigurationError) as caught:
        parsed(**changes)
    message = str(caught.value)
    assert message.startswith("here: ")
    return message


def written(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- presets ---------------------------------------------------------------------------------------


@PRESETS
def test_a_preset_fits_papi_and_survives_being_written_down(name):
    scenario = get_scenario(name)
    assert scenario.name == name
    assert scenario.check() is scenario
    assert parse_scenario(scenario.model_dump(), name) == scenario
    assert parse_scenario(scenario.model_dump(mode="json"), name) == scenario


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_preset_on_another_system_fits_or_is_refused_with_both_sizes(system):
    for scenario in SCENARIOS.values():
        if scenario.serving is not None:
            continue
        kv = weights = 0
        if scenario.model is not None:
            longest = scenario.population().max_total + scenario.image_tokens
            kv = scenario.workload.batch_size * longest * scenario.model.kv_bytes_per_token
            weights = scenario.model.weight_bytes
        if scenario.images is not None:
            weights += scenario.images.weight_bytes
        moved = scenario.replace(system=system)
        shared = moved.system.kv_capacity_bytes is None
        need, limit = weights + kv * shared, moved.system.weight_capacity_bytes
        if need <= limit and (shared or kv <= moved.system.kv_capacity_bytes):
            assert moved.check() is moved
        else:
            with pytest.raises(ConfigurationError, match=r"need \d+\.\d GB .* hold \d+\.\d GB"):
                moved.check()


def test_the_papers_scenarios_are_presets():
    assert set(PAPER_SCENARIOS) <= set(SCENARIOS)
    assert DEFAULT_SCENARIO in PAPER_SCENARIOS


@pytest.mark.parametrize("name", [name for name, s in SCENARIOS.items() if s.workload is not None])
def test_no_request_of_a_preset_exceeds_the_models_context(name):
    scenario = SCENARIOS[name]
    assert scenario.population().max_total + scenario.image_tokens <= scenario.model.context_limit


@pytest.mark.parametrize("name", ["creative-writting/llama-65b", "papi", "", "PAPI"])
def test_an_unknown_scenario_is_answered_with_the_known_ones(name):
    with pytest.raises(ConfigurationError, match="Unknown scenario") as caught:
        get_scenario(name)
    assert all(known in str(caught.value) for known in SCENARIOS)


def test_the_nearest_scenario_is_offered():
    with pytest.raises(ConfigurationError, match=f"Did you mean '{DEFAULT_SCENARIO}'"):
        get_scenario("creative-writting/llama-65b")


@pytest.mark.parametrize("value", [None, 5, 2.5, ["papi"], b"papi", True])
def test_what_names_no_scenario_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"expected a name, a \.toml path or a table"):
        get_scenario(value)


def test_a_scenario_is_itself():
    assert get_scenario(DEFAULT) is DEFAULT


# --- tables ----------------------------------------------------------------------------------------


def test_a_table_names_its_system_and_model():
    scenario = get_scenario(PLAIN)
    assert scenario.system == SYSTEMS["papi"]
    assert scenario.model == TRANSFORMERS["llama-65b"]
    assert scenario.population().lengths.tolist() == [[100, 50]]


def test_a_system_starts_from_a_base_and_overrides_what_is_nested_in_it():
    system = parsed(
        system={"base": "papi", "name": "wide", "pu": {"count": 8}, "fc_pim": {"stacks": 40}}
    ).system
    assert (system.name, system.fc_pim.stacks) == ("wide", 40)
    assert system.fc_pim.stack == SYSTEMS["papi"].fc_pim.stack
    assert system.attn_pim == SYSTEMS["papi"].attn_pim
    assert SYSTEMS["papi"].fc_pim.stacks == 30  # the registry keeps its own


def test_a_model_starts_from_a_base_or_is_described_whole():
    assert parsed(model={"base": "llama-65b", "layers": 40}).model.hidden == 8192
    small = {"name": "small", "layers": 2, "hidden": 256, "heads": 2, "feed_forward": 1024}
    assert parsed(model=small).model.head_size == 128


@PRESETS
def test_objects_are_accepted_as_they_are(name):
    preset = SCENARIOS[name]
    parts = {part: getattr(preset, part) for part in ("system", "model", "workload", "images", "serving")}
    again = Scenario(name=name, **parts)
    assert again.system is preset.system


@pytest.mark.parametrize(
    ("changes", "field", "nearest"),
    [
        ({"modle": "x"}, "modle", "model"),
        ({"workload__batch_sise": 4}, "workload.batch_sise", "batch_size"),
        ({"workload__lengths__inptu": 4}, "workload.lengths.inptu", "input"),
        ({"system": {"base": "papi", "fcpim": {}}}, "system.fcpim", "fc_pim"),
        ({"model": {"base": "opt-30b", "layer": 2}}, "model.layer", "layers"),
    ],
)
def test_a_misspelt_field_is_answered_with_the_nearest_one(changes, field, nearest):
    assert f"{field}: not a known field; did you mean '{nearest}'?" in refusal(**changes)


@pytest.mark.parametrize(
    ("unit", "misspelt", "nearest"),
    [
        ("fc_pim", "stakcs", "stacks"),
        ("pu", "memory_bandwith", "memory_bandwidth"),
        ("attention_link", "latency", "latency_s"),
    ],
)
def test_a_misspelt_field_of_a_unit_is_answered_with_the_nearest_one(unit, misspelt, nearest):
    message = refusal(system={"base": "papi", unit: {misspelt: 3}})
    assert f"system.{unit}.{misspelt}: not a known field; did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": 3}, "name"),
        ({"workload": 3}, "workload"),
        ({"workload__lengths": "dolly"}, "workload.lengths"),
        ({"workload__batch_size": 2.5}, "workload.batch_size"),
        ({"workload__batch_size": "many"}, "workload.batch_size"),
        ({"workload__batch_size": [4]}, "workload.batch_size"),
        ({"workload__batch_size": None}, "workload.batch_size"),
        ({"workload__speculation": math.nan}, "workload.speculation"),
        ({"workload__acceptance_rate": "high"}, "workload.acceptance_rate"),
        ({"workload__beyond_context": "ignore"}, "workload.beyond_context"),
        ({"workload__lengths__input": "long"}, "workload.lengths.input"),
        ({"energy_weight": "none"}, "energy_weight"),
        ({"system": 3}, "system"),
        ({"system": None}, "system"),
        ({"model": ["llama-65b"]}, "model"),
        ({"system": {"base": "papi", "fc_pim": 3}}, "system.fc_pim"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_field(changes, field):
    assert f"{field}: " in refusal(**changes)


@pytest.mark.parametrize("field", ["batch_size", "speculation"])
def test_true_is_not_the_number_1(field):
    assert f"workload.{field}: " in refusal(**{f"workload__{field}": True})


@pytest.mark.parametrize("field", ["name", "system", "model", "workload"])
def test_a_missing_part_is_named(field):
    data = {key: value for key, value in PLAIN.items() if key != field}
    with pytest.raises(ConfigurationError, match=rf"{field}: .*required"):
        get_scenario(data)


# --- ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "low", "high"), [("batch_size", 1, MAX_BATCH), ("speculation", 1, MAX_SPECULATION)]
)
def test_batch_and_speculation_have_the_documented_ranges(field, low, high):
    assert (MAX_BATCH, MAX_SPECULATION) == (128, 8)
    for value in (low, high):
        assert getattr(parsed(**{f"workload__{field}": value}).workload, field) == value
    for value in (low - 1, high + 1, -1, 10**30):
        assert f"workload.{field}: found {value}" in refusal(**{f"workload__{field}": value})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("workload__acceptance_rate", [-0.1, 1.01, math.nan, math.inf]),
        ("energy_weight", [-1e-9, math.nan, math.inf]),
        ("switch_s", [-1e-9, 1.01, math.nan, math.inf]),
        ("workload__lengths__input", [0, -1, 1_000_001, math.nan]),
        ("workload__lengths__output", [0, -1, 1_000_001, math.nan]),
    ],
)
def test_a_figure_out_of_its_range_is_refused_by_name(field, values):
    for value in values:
        assert f"{field.replace('__', '.')}: found {value}" in refusal(**{field: value})


def test_an_energy_weight_that_would_overflow_the_reward_is_refused():
    # A step takes joules by the hundred: their weighted sum would be infinite and the reward NaN.
    assert "energy_weight" in refusal(energy_weight=1e308)


def test_an_acceptance_rate_may_be_zero_or_one():
    for rate in (0, 1):
        assert parsed(workload__acceptance_rate=rate).workload.acceptance_rate == rate


def test_a_speculation_schedule_changes_the_length_at_later_iterations():
    schedule = parsed(workload__speculation_schedule=[[10, 4], [20, 1]]).workload.speculation_schedule
    assert schedule == ((10, 4), (20, 1))


@pytest.mark.parametrize(
    "schedule",
    [
        [[20, 4], [10, 2]],
        [[10, 4], [10, 2]],
        [[0, 4]],
        [[-1, 4]],
        [[10, 0]],
        [[10, 9]],
        [[10]],
        [[10, 4, 2]],
        [10, 4],
        [[10.5, 4]],
        "often",
    ],
)
def test_a_schedule_that_is_unordered_or_out_of_range_is_refused(schedule):
    assert "workload.speculation_schedule" in refusal(workload__speculation_schedule=schedule)


def test_a_schedule_beyond_what_the_engine_counts_is_refused():
    assert "workload.speculation_schedule" in refusal(workload__speculation_schedule=[[2**63, 4]])


# --- lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [
        {},
        {"table": "azure-code", "input": 10, "output": 10},
        {"table": "azure-code", "trace": "requests.csv"},
        {"trace": "requests.csv", "input": 10, "output": 10},
        {"table": "azure-code", "output": 10},
    ],
)
def test_lengths_have_exactly_one_source(lengths):
    assert "expected exactly one of table, trace, or input with output" in refusal(workload__lengths=lengths)


@pytest.mark.parametrize("field", ["input", "output"])
def test_fixed_lengths_need_both_ends(field):
    assert "need both input and output" in refusal(workload__lengths={field: 10})


@pytest.mark.parametrize("field", ["input_column", "output_column", "category_column", "categories"])
def test_columns_belong_to_a_trace(field):
    value = ["a"] if field == "categories" else "a"
    assert "belong to a trace" in refusal(
        workload__lengths__input=10, **{f"workload__lengths__{field}": value}
    )


def test_an_unknown_length_table_is_answered_with_the_known_ones():
    message = refusal(workload__lengths={"table": "dolly-general-qq"})
    assert "Unknown length table 'dolly-general-qq'. Did you mean 'dolly-general-qa'?" in message
    assert "azure-code" in message


@pytest.mark.parametrize(
    ("field", "name", "nearest"), [("system", "pappi", "papi"), ("model", "lama-65b", "llama-65b")]
)
@pytest.mark.parametrize("as_base", [False, True])
def test_an_unknown_system_or_model_is_answered_with_the_known_ones(field, name, nearest, as_base):
    message = refusal(**{field: {"base": name} if as_base else name})
    registry = {"system": SYSTEMS, "model": TRANSFORMERS}[field]
    assert f"Unknown {field} '{name}'. Did you mean '{nearest}'?" in message
    assert all(known in message for known in registry)


@pytest.mark.parametrize("base", [3, None, ["papi"], {}])
def test_a_base_that_is_no_name_is_refused(base):
    assert "Unknown system" in refusal(system={"base": base})


def test_a_system_that_cannot_work_is_refused_inside_a_scenario():
    assert "100 banks per die" in refusal(
        system={"base": "papi", "fc_pim": {"stack": {"banks_per_die": 100}}}
    )
    assert "system.pu.count: found 0" in refusal(system={"base": "papi", "pu": {"count": 0}})


# --- contexts and capacities -----------------------------------------------------------------------


def test_requests_beyond_the_context_are_refused_with_the_limit():
    fits = parsed(workload__lengths={"input": 2000, "output": 48})
    assert fits.check().population().max_total == 2048
    beyond = parsed(workload__lengths={"input": 2000, "output": 49})
    with pytest.raises(ConfigurationError, match=r"context of 2048 tokens.* needs 2049"):
        beyond.check()


def test_requests_beyond_the_context_may_be_cut_or_kept_when_asked():
    lengths = {"input": 2000, "output": 100}
    for policy, output in (("truncate", 48), ("extrapolate", 100)):
        scenario = parsed(workload__lengths=lengths, workload__beyond_context=policy)
        assert scenario.population().lengths.tolist() == [[2000, output]]


def test_kv_caches_are_reserved_for_the_longest_request_times_the_batch():
    # 2048 tokens of GPT-3 and a draft take 9.67 GB: 106 of them fit the 1030.8 GB of 60 stacks.
    full = parsed(model="gpt3-175b", workload__lengths={"input": 1024, "output": 1024})
    full.replace(batch_size=106).check()
    for batch, need in ((107, r"1034\.5"), (128, r"1237\.6")):
        with pytest.raises(ConfigurationError, match=rf"'papi'.*{need} GB.* 1030\.8 GB"):
            full.replace(batch_size=batch).check()


def test_gpt3_at_batch_64_does_not_fit_six_gpus():
    scenario = SCENARIOS["creative-writing/gpt3-175b"].replace(system="a100", batch_size=64)
    with pytest.raises(ConfigurationError, match=r"weights 347\.9, KV .*hold 515\.4 GB"):
        scenario.check()


def test_weights_beyond_their_stacks_are_refused_with_the_sizes():
    scenario = parsed(model={"base": "gpt3-175b", "layers": 192})
    with pytest.raises(ConfigurationError, match=r"weights need 695\.8 GB.* hold 386\.5 GB"):
        scenario.check()


# --- replace ---------------------------------------------------------------------------------------


def test_replace_changes_what_is_given_and_keeps_the_rest():
    other = DEFAULT.replace(
        system="a100-attacc", batch_size=8, speculation=4, acceptance_rate=0.7, switch_s=0
    )
    assert (other.system, other.model) == (SYSTEMS["a100-attacc"], DEFAULT.model)
    assert (other.workload.batch_size, other.workload.speculation) == (8, 4)
    assert (other.workload.acceptance_rate, other.switch_s) == (0.7, 0)
    assert other.workload.lengths == DEFAULT.workload.lengths
    assert DEFAULT.replace() == DEFAULT


def test_replace_takes_objects_and_lengths():
    model = DEFAULT.model.model_copy(update={"layers": 10})
    other = DEFAULT.replace(
        system=SYSTEMS["papi-h100"], model=model, lengths=Lengths(input=5, output=5), energy_weight=0.5
    )
    assert (other.system.name, other.model.layers, other.energy_weight) == ("papi-h100", 10, 0.5)
    assert other.population().max_total == 10


def test_replace_may_cut_requests_beyond_the_context():
    beyond = parsed(workload__lengths={"input": 2000, "output": 100})
    assert beyond.replace(beyond_context="truncate").check().population().max_total == 2048


def test_a_new_speculation_length_replaces_the_schedule():
    scheduled = parsed(workload__speculation_schedule=[[10, 4]])
    assert scheduled.replace(speculation=2).workload.speculation_schedule == ()
    assert scheduled.replace(batch_size=2).workload.speculation_schedule == ((10, 4),)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"batch_size": 129},
        {"batch_size": 2.5},
        {"batch_size": math.nan},
        {"speculation": 0},
        {"speculation": 9},
        {"acceptance_rate": 1.5},
        {"acceptance_rate": math.nan},
        {"energy_weight": -1},
        {"switch_s": math.inf},
        {"beyond_context": "ignore"},
        {"system": "pappi"},
        {"model": "llama"},
    ],
)
def test_replace_refuses_what_a_scenario_refuses(changes):
    with pytest.raises(ConfigurationError):
        DEFAULT.replace(**changes)


def test_replace_checks_a_changed_object_again():
    broken = SYSTEMS["papi"].model_copy(update={"mode_switch_s": math.nan})
    with pytest.raises(ConfigurationError, match="mode_switch_s"):
        DEFAULT.replace(system=broken)


@pytest.mark.parametrize("field", ["system", "model", "lengths"])
@pytest.mark.parametrize("value", [5, 2.5, True])
def test_replace_refuses_an_object_of_the_wrong_type(field, value):
    with pytest.raises(ConfigurationError, match=field):
        DEFAULT.replace(**{field: value})


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [str, Path])
def test_a_toml_file_is_a_scenario_named_after_it(tmp_path, convert):
    scenario = get_scenario(convert(written(tmp_path, TOML)))
    assert (scenario.name, scenario.system.name, scenario.workload.batch_size) == ("mine", "papi", 8)


def test_a_toml_file_may_override_a_system_and_describe_a_model(tmp_path):
    text = """
    name = "wide"
    energy_weight = 0.01
    [system]
    base = "papi"
    [system.pu]
    count = 8
    [system.fc_pim]
    stacks = 40
    [system.attention_link]
    bandwidth = 128e9
    [model]
    name = "small"
    layers = 2
    hidden = 256
    heads = 2
    feed_forward = 1024
    [workload]
    speculation_schedule = [[16, 4]]
    lengths = { input = 64, output = 32 }
    """
    scenario = load_scenario(written(tmp_path, text)).check()
    assert (scenario.system.fc_pim.stacks, scenario.system.attention_link.max_devices) == (40, 4096)
    assert (scenario.name, scenario.model.hidden, scenario.energy_weight) == ("wide", 256, 0.01)
    assert scenario.workload.speculation_schedule == ((16, 4),)


def test_a_toml_file_may_describe_a_whole_system(tmp_path):
    text = """
    model = "opt-30b"
    [system]
    name = "two-gpus"
    fabric = { name = "link", bandwidth = 100e9, latency_s = 1e-6, j_per_byte = 10e-12 }
    [system.pu]
    name = "A100"
    count = 2
    peak_flops = 312e12
    memory_bandwidth = 1935e9
    memory_bytes = 80_000_000_000
    [workload]
    batch_size = 4
    lengths = { input = 64, output = 32 }
    """
    system = load_scenario(written(tmp_path, text)).check().system
    assert (system.unit_of("fc"), system.unit_of("attention")) == ("pu", "pu")
    assert system.weight_capacity_bytes == 160e9


def traced(path):
    return TOML.replace('table = "dolly-general-qa"', f'trace = "{path}"')


def test_a_trace_is_found_beside_the_file_whatever_the_working_folder(tmp_path, monkeypatch):
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "requests.csv").write_text("category,lin,lout\na,10,20\nb,30,40\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = written(folder, traced("requests.csv"))
    assert load_scenario(path.relative_to(tmp_path)).population().max_total == 70
    absolute = written(folder, traced(folder / "requests.csv"), "absolute.toml")
    assert load_scenario(absolute).population().max_total == 70


def test_a_trace_that_was_edited_is_read_again(tmp_path):
    trace = tmp_path / "requests.csv"
    trace.write_text("category,lin,lout\na,10,20\n", encoding="utf-8")
    path = written(tmp_path, traced("requests.csv"))
    assert load_scenario(path).population().max_total == 30
    trace.write_text("category,lin,lout\na,10,200\n", encoding="utf-8")
    assert load_scenario(path).population().max_total == 210


def test_a_missing_trace_is_a_data_error_that_names_it(tmp_path):
    scenario = load_scenario(written(tmp_path, traced("nowhere.csv")))
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        scenario.check()


def test_an_error_in_a_file_names_the_file_the_field_and_the_nearest_one(tmp_path):
    path = written(tmp_path, TOML.replace("batch_size", "bacth_size"))
    with pytest.raises(ConfigurationError) as caught:
        load_scenario(path)
    assert str(caught.value) == (
        f"{path}: workload.bacth_size: not a known field; did you mean 'batch_size'?"
    )


@pytest.mark.parametrize("text", ["system = ", "system: papi", "\0", "a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, text):
    with pytest.raises(DataError, match=r"mine\.toml: not a TOML file"):
        load_scenario(written(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"mine\.toml: not a TOML file"):
        load_scenario(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.toml: cannot be read: No such file"):
        get_scenario(str(tmp_path / "nowhere.toml"))
    with pytest.raises(DataError, match="cannot be read"):
        load_scenario(tmp_path)


def test_an_empty_file_is_told_what_is_missing(tmp_path):
    with pytest.raises(ConfigurationError, match=r"system: .*required"):
        load_scenario(written(tmp_path, ""))
    with pytest.raises(ConfigurationError, match=r"model: required to decode, together with a workload"):
        load_scenario(written(tmp_path, 'system = "papi"'))


# --- images ----------------------------------------------------------------------------------------

STREAM = {
    "name": "stream",
    "system": "papi-1gpu",
    "images": {"network": "repmlpnet-t224", "batch_sizes": [1, 8], "encodes": 4},
}


def stream(**images):
    return {**STREAM, "images": {**STREAM["images"], **images}}


def test_a_stream_of_images_needs_no_model_and_no_workload():
    scenario = get_scenario(STREAM)
    assert (scenario.model, scenario.workload, scenario.image_tokens) == (None, None, 0)
    assert scenario.images.network.channels == (64, 128, 256, 512)
    assert parse_scenario(scenario.model_dump(mode="json"), "again") == scenario
    with pytest.raises(ConfigurationError, match="'stream' decodes no text"):
        scenario.population()


def test_a_network_starts_from_a_base_and_a_file_may_describe_it_whole(tmp_path):
    text = """
system = "papi-1gpu"
[images]
batch_sizes = [2]
encodes = 1
reparameterized = false
[images.network]
base = "repmlpnet-t256"
name = "deeper"
blocks = [2, 2, 9, 2]
"""
    scenario = load_scenario(written(tmp_path, text))
    assert (scenario.images.network.name, scenario.images.network.blocks) == ("deeper", (2, 2, 9, 2))
    assert not scenario.images.reparameterized
    assert scenario.replace(network="repmlpnet-l256").images.network.name == "repmlpnet-l256"


def test_positions_of_images_take_their_part_of_the_context():
    plain = get_scenario("general-qa/llama-65b")
    data = plain.model_dump()
    data["images"] = {"network": "repmlpnet-b256", "per_request": 2}
    scenario = parse_scenario(data, "with images")
    assert scenario.image_tokens == 2 * 8 * 8
    assert scenario.population().max_total <= 2048 - 128 < plain.population().max_total
    assert scenario.population().excluded > plain.population().excluded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (stream(network="repmlpnet-t25"), "Did you mean 'repmlpnet-t256'"),
        (
            stream(network={"base": "repmlpnet-t256", "share_sets": [1, 4, 16, 100]}),
            "100 share-sets do not divide 512",
        ),
        (stream(image_size=300), "do not divide the maps of 300 x 300 images; expected a multiple of 224"),
        (stream(batch_sizes=[]), "a stream needs both batch_sizes"),
        (stream(batch_sizes=[129]), r"batch size 129 is outside 1\.\.128"),
        (stream(encodes=0), "images.encodes"),
        (stream(encodes=None), "a stream needs both batch_sizes"),
        (stream(per_request=1), "expected batch_sizes with encodes .* or per_request"),
        (stream(batch_size=4), "images.batch_size: not a known field; did you mean 'batch_size"),
        (
            {**STREAM, "images": {"network": "repmlpnet-t224", "per_request": 1}},
            "without a workload, expected a stream",
        ),
        ({**PLAIN, "images": STREAM["images"]}, "with a workload, expected images per_request"),
        (
            {**PLAIN, "images": {"network": "repmlpnet-t224", "per_request": 3}},
            "64 requests with 3 images each are more",
        ),
        ({**STREAM, "model": "opt-30b"}, "workload: required to decode"),
        (
            {**stream(reparameterized=False), "system": "attacc-only"},
            "has no PUs, which alone run the overlapping convolutions",
        ),
    ],
)
def test_images_that_cannot_be_encoded_are_one_clear_error(data, message):
    with pytest.raises(ConfigurationError, match=message):
        get_scenario(data)


def test_a_network_with_more_stages_than_observations_have_places_is_refused():
    five = {
        "name": "five",
        "channels": [4] * 5,
        "share_sets": [1] * 5,
        "blocks": [1] * 5,
        "partitions": [16, 8, 4, 2, 1],
        "image_size": 64,
    }
    with pytest.raises(ConfigurationError, match="five has 5 stages, expected at most 4"):
        get_scenario(stream(network=five))


def test_images_that_fill_the_context_are_refused():
    data = copy.deepcopy(PLAIN)
    data["workload"]["batch_size"] = 1
    data["images"] = {"network": "repmlpnet-t256", "image_size": 1536, "per_request": 1}
    with pytest.raises(ConfigurationError, match="take 2304 positions, but llama-65b has a context of 2048"):
        get_scenario(data).check()


# --- models of one's own ----------------------------------------------------------------------------


def test_a_model_may_start_from_a_hubs_file_in_the_folder_of_the_scenario(tmp_path):
    folder = tmp_path / "qwen3-32b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["qwen3-32b"]))
    path = tmp_path / "mine.toml"
    path.write_text(
        TOML.replace('"llama-65b"', '{ hf = "qwen3-32b", kv_format = "fp8", context_limit = 4096 }')
    )
    model = load_scenario(path).model
    registered = TRANSFORMERS["qwen3-32b"]
    assert model == registered.model_copy(
        update={"kv_format": ElementFormat(elements="fp8"), "context_limit": 4096}
    )
    assert model.kv_bytes_per_token == registered.kv_bytes_per_token / 2


def test_a_hubs_file_that_is_wrong_is_named_in_the_scenario(tmp_path):
    assert "nothing.json: cannot be read" in refusal(model={"hf": str(tmp_path / "nothing.json")})
    assert "hf is 3, expected the path of a file" in refusal(model={"hf": 3})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIGS["qwen3-32b"], "hidden_size": "wide"}))
    assert "hidden_size: found 'wide', expected a whole number" in refusal(model={"hf": str(path)})


def test_toml_says_all_that_a_model_has(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
system = "papi"
[model]
name = "mine"
layers = 6
hidden = 1024
heads = 8
head_dim = 256
kv_heads = 2
feed_forward = 4096
gated = true
vocabulary = 32000
tied_embeddings = true
lm_head = true
weight_format = { elements = "int4", group_size = 64, scale_bytes = 2.5 }
activation_format = "bf16"
kv_format = "int8"
windows = { tokens = 512, full_every = 3 }
[model.experts]
experts = 16
active = 2
feed_forward = 512
shared = 1
routing = "zipf"
exponent = 0.7
draws = "keyed"
[workload]
lengths = { input = 10, output = 10 }
"""
    )
    model = load_scenario(path).model
    assert (model.head_size, model.windowed_layers, model.experts.exponent) == (256, 4, 0.7)
    assert model.weight_format.bytes_per_element == 0.5 + 2.5 / 64
    assert parse_scenario(load_scenario(path).model_dump(), "again").model == model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"base": "llama-65b", "head_dim": 0}, "head_dim: found 0"),
        ({"base": "llama-65b", "kv_format": "fp9"}, "Unknown element format 'fp9'. Did you mean 'fp8'?"),
        ({"base": "llama-65b", "kv_format": {"scale_bytes": 1}}, "scale_bytes 1.0 without a group_size"),
        ({"base": "llama-65b", "activation_format": "int4"}, "activation_format int4: expected whole bytes"),
        ({"base": "llama-65b", "lm_head": True}, "vocabulary is absent, but lm_head is true"),
        ({"base": "llama-65b", "windows": {"tokens": 9, "layers": 81}}, "windows.layers 81 of 80 layers"),
        (
            {"base": "llama-65b", "windows": {"tokens": 9, "layers": 1, "full_every": 2}},
            "both say which layers have windows",
        ),
        ({"base": "mixtral-8x7b", "experts": {"active": 9}}, "active 9 exceeds experts 8"),
        (
            {"base": "mixtral-8x7b", "experts": {"dense_layers": 32}},
            "dense_layers 32 of 32 layers leave none",
        ),
        (
            {"base": "mixtral-8x7b", "experts": {"routing": "zipf"}},
            "expected routing = 'zipf' with an exponent",
        ),
        (
            {"base": "mixtral-8x7b", "experts": {"exponent": 1.0}},
            "expected routing = 'zipf' with an exponent",
        ),
        ({"base": "mixtral-8x7b", "experts": {"shared_feed_forward": 5}}, "without shared experts"),
        ({"base": "deepseek-v3", "head_dim": 128}, "head_dim is not used with latent attention"),
        ({"base": "deepseek-v3", "kv_heads": 8}, "with latent attention every head has its own keys"),
        ({"base": "deepseek-v3", "windows": {"tokens": 9}}, "windows is not used with latent attention"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(model, message):
    assert message in refusal(model=model)


def _with_stacks(unit, **changes):
    part = {"fpus_per_bank": 1, "stack": {"technology": "gddr6-aim"}, **changes}
    return get_scenario(
        {
            "name": "other-dram",
            "model": "llama2-70b",
            "system": {"base": "papi", unit: part},
            "workload": {"batch_size": 4, "lengths": {"table": "dolly-general-qa"}},
        }
    ).system.attn_pim


def test_another_technology_takes_the_banks_and_watts_of_the_base_with_it():
    aim, unit = get_technology("gddr6-aim"), _with_stacks("attn_pim")
    assert unit.stack.banks_per_die == aim.banks_per_die
    assert unit.power_budget_w == aim.power_budget_w
    assert (unit.background_power_w, unit.idle_power_w) == (aim.background_power_w, aim.idle_power_w)
    # The rest of the base stays, and what the changes say counts.
    assert unit.stacks == SYSTEMS["papi"].attn_pim.stacks
    assert _with_stacks("attn_pim", idle_power_w=0.1).idle_power_w == 0.1
    same = _with_stacks("attn_pim", stack={"technology": "hbm3"})
    assert same.background_power_w == SYSTEMS["papi"].attn_pim.background_power_w


def test_another_technology_whose_pins_are_too_slow_is_refused_with_its_own_sizes():
    with pytest.raises(ConfigurationError, match="5 FC-PIM stacks of gddr6-aim, whose pins give 320 GB/s"):
        _with_stacks("fc_pim")


def test_a_model_starts_from_one_thing():
    data = {**PLAIN, "model": {"base": "llama-65b", "hf": "folder"}}
    with pytest.raises(ConfigurationError, match="found base and hf, expected one model to start from"):
        get_scenario(data)
