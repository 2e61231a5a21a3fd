"""Splits are what is pinned, share no instance, and refuse policies that met what they hold out."""

import contextlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.learned.checkpoint import ActionLayout, Description, ObservationLayout
from agents.learned.networks import Architecture
from agents.serving.combined import ServingTuned
from experiments.splits import main
from experiments.splitting import definition as splits_definition
from experiments.splitting.definition import (
    DECODE,
    KERNELS,
    PROBLEM_IDS,
    SEED_RANGES,
    SERVING,
    SHIFTS,
    SPLIT_NAMES,
    TRACES,
    define,
)
from experiments.splitting.parts import fingerprint, parts_of, trace_content, trace_paths
from experiments.splitting.splits import (
    PINS,
    Split,
    load_split,
    make_pins,
    read_pins,
    trace_records,
    write_pins,
)
from experiments.training import plan
from experiments.training.options import Config
from experiments.training.plan import resolve
from experiments.training.settings import training_seed
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError, DataError
from papi_env.scenario import get_scenario
from papi_env.workload.transformer import get_transformer
from tests.experiments.commands import called


def described(*scenarios, env=DECODE, **training):
    """A description of a policy that was trained on the scenarios."""
    return Description(
        algorithm="PPO",
        env=env,
        observation=ObservationLayout(names=("x",)),
        action=ActionLayout(options=(2,)),
        architecture=Architecture(inputs=1, hidden=(), activation="tanh", head="categorical", options=(2,)),
        masked=False,
        scenarios=tuple(scenario.model_dump(mode="json") for scenario in scenarios),
        training=training,
    )


def command(*arguments):
    return called(main, *arguments)


def test_options_of_earlier_versions_still_work():
    status, _, err = command("--traces", "none.csv")
    assert (status, "none.csv" in err) == (2, True)


@pytest.fixture(scope="module")
def loaded():
    return {(env, name): load_split(env, name) for env in PROBLEM_IDS for name in SPLIT_NAMES}


def test_the_pins_are_current_and_reproduced_byte_for_byte(tmp_path):
    contents = {name: (pin["sha256"], pin["requests"]) for name, pin in read_pins()["traces"].items()}
    assert json.loads(PINS.read_text()) == make_pins(contents)
    copy = tmp_path / "splits.json"
    copy.write_bytes(PINS.read_bytes())
    write_pins((), copy)
    assert copy.read_bytes() == PINS.read_bytes()


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_every_setting_fits_its_system_and_has_a_name_and_a_hash_of_its_own(env):
    for found in define(env).values():
        assert len({setting.name for setting in found}) == len(found)
        hashes = {fingerprint(s.scenario, dict.fromkeys(TRACES, "content")) for s in found}
        assert len(hashes) == len(found)
        for setting in found:
            if setting.trace is None:
                setting.scenario.check()


def test_seeds_of_splits_share_no_instance():
    ranges = sorted((found.start, found.stop) for found in SEED_RANGES.values())
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    train = SEED_RANGES["train"]
    last = splits_definition.MAX_TRAINING_RUNS
    assert training_seed(0) in train
    assert training_seed(last) + splits_definition.SEEDS_PER_RUN - 1 in train


def test_whole_models_and_a_whole_trace_are_test_only(loaded):
    kinds = {env: {} for env in PROBLEM_IDS}
    for env in PROBLEM_IDS:
        for (kind, _), label in loaded[env, "test"].held_out.items():
            kinds[env].setdefault(kind, set()).add(label)
    assert all("llama2-70b" in kinds[env]["model"] for env in (DECODE, KERNELS, SERVING))
    assert kinds[SERVING_V1]["model"] == {"gpt3-175b", "qwen3-30b-a3b"}
    assert kinds[SERVING]["trace"] == {"azure-code"}
    assert kinds[SERVING_V1]["trace"] == {"azure-code", "azure-conversation"}
    assert "azure-code" in kinds[DECODE]["lengths"]
    assert kinds[KERNELS]["network"] == {"repmlpnet-d256", "repmlpnet-l256"}
    assert kinds[DECODE]["system"] == kinds[KERNELS]["system"] == {"papi-h100"}
    assert not loaded[DECODE, "train"].held_out


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_what_a_test_setting_shifts_is_held_out_and_nothing_else_is_shifted_to(loaded, env):
    split = loaded[env, "test"]
    # A family of Serving-v1 is held out for its load or its arrivals.
    new = "serving" if env == SERVING_V1 else "lengths"
    kind_of = {"family": new, "window": "window", "none": None}
    for setting in split.settings:
        held = {
            part.kind for part in parts_of(setting.scenario, {}) if (part.kind, part.sha256) in split.held_out
        }
        expected = kind_of.get(setting.shift, setting.shift)
        assert setting.shift in SHIFTS
        if expected is None:
            assert not held, setting.name
        else:
            assert expected in held, setting.name


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_a_policy_trained_on_the_training_split_may_be_tested(loaded, env):
    scenarios = [setting.scenario for setting in loaded[env, "train"].settings]
    for name in SPLIT_NAMES:
        loaded[env, name].check_unseen(described(*scenarios, env=env), "mine")


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_every_test_setting_that_shifts_anything_is_refused_as_training(loaded, env):
    known = loaded[env, "train"].settings[0].scenario
    for setting in loaded[env, "test"].settings:
        description = described(known, setting.scenario, env=env)
        if setting.shift == "none":
            loaded[env, "test"].check_unseen(description, "mine")
        else:
            with pytest.raises(
                ConfigurationError, match=r"mine: cannot be judged on the test split.*held out"
            ):
                loaded[env, "test"].check_unseen(description, "mine")


def test_held_out_is_what_a_thing_is_and_not_how_it_is_called(loaded):
    model = get_transformer("llama2-70b").model_copy(update={"name": "my-own", "description": "mine"})
    disguised = get_scenario("general-qa/llama-65b").replace(model=model, batch_size=4, speculation=1)
    with pytest.raises(ConfigurationError, match="model llama2-70b"):
        loaded[DECODE, "test"].check_unseen(described(disguised), "mine")


def test_a_policy_of_another_problem_or_without_a_record_is_refused(loaded):
    split = loaded[SERVING, "test"]
    with pytest.raises(ConfigurationError, match="it was trained on papi_env/Decode-v0"):
        split.check_unseen(described(env=DECODE), "mine")
    with pytest.raises(ConfigurationError, match="does not say what it was trained on"):
        split.check_unseen(described(env=SERVING), "mine")


# --- traces -----------------------------------------------------------------------------------------


def write_trace(path, gaps, inputs, outputs, newline="\n"):
    times = np.cumsum(gaps)
    rows = [f"{t:.6f},{i},{o}" for t, i, o in zip(times, inputs, outputs, strict=True)]
    path.write_text(newline.join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]), newline="")
    return path


@pytest.fixture
def traced(tmp_path):
    """Pins of two small traces, and their files."""
    rng = np.random.default_rng(0)
    files = {}
    for name, trace in TRACES.items():
        count = 400
        files[name] = write_trace(
            tmp_path / trace.published,
            rng.exponential(0.5, count),
            rng.integers(1, 50, count),
            rng.integers(1, 9, count),
        )
    pins = tmp_path / "splits.json"
    write_pins(list(files.values()), pins)
    return pins, files


def test_a_trace_is_known_by_its_content_and_its_settings_are_played(traced, tmp_path):
    pins, files = traced
    without = load_split(SERVING, "test", (), pins)
    assert set(without.skipped.values()) == set(TRACES)
    renamed = files["azure-code"].rename(tmp_path / "mine.csv")
    split = load_split(SERVING, "test", (renamed,), pins)
    assert set(split.skipped.values()) == {"azure-conversation"}
    assert len(split.settings) == len(without.settings) + 2
    played = [setting for setting in split.settings if setting.trace == "azure-code"]
    assert {setting.scenario.serving.arrivals.trace for setting in played} == {str(renamed)}
    assert split.traces == {str(renamed): trace_content(renamed)[0]}
    assert split.sha256 == without.sha256  # which files are at hand is not part of a split


def test_families_are_parts_of_a_split():
    split = load_split(SERVING_V1, "test")
    part = split.of_families(["storms", "overload"])
    names = [setting.name for setting in split.settings]
    assert [setting.name for setting in part.settings] == [
        name for name in names if name.startswith(("overload/", "storms/"))
    ]
    assert part.skipped == {}
    assert part.describe() == split.describe() | {"families": ["storms", "overload"]}
    assert part.held_out == split.held_out
    assert split.of_families([]) is split
    for names in (["azure-code-1"], ["overload", "azure-code-1"]):
        with pytest.raises(
            ConfigurationError, match="azure-code-1 needs the trace azure-code, expected its file"
        ):
            split.of_families(names)
    with pytest.raises(ConfigurationError, match="Did you mean 'storms'"):
        split.of_families(["storm"])


def test_whole_traces_with_classes_are_played_at_capacity_and_beyond(traced):
    pins, files = traced
    without = load_split(SERVING_V1, "test", (), pins)
    assert set(without.skipped.values()) == set(TRACES)
    split = load_split(SERVING_V1, "test", list(files.values()), pins)
    found = [setting for setting in split.settings if setting.shift == "trace"]
    assert sorted(setting.name for setting in found) == sorted(without.skipped)
    for setting in found:
        serving = setting.scenario.serving
        assert serving.arrivals.trace == serving.lengths.trace == str(files[setting.trace])
        assert serving.arrivals.split == "all"
    # Neither in training nor in validation, of which a file changes nothing.
    for name in ("train", "validation"):
        other = load_split(SERVING_V1, name, list(files.values()), pins)
        assert not other.skipped
        assert other == replace(load_split(SERVING_V1, name, (), pins), traces=other.traces)


def test_rules_play_a_trace_as_the_family_of_the_same_senders_with_the_nearest_load(traced):
    pins, files = traced
    split = load_split(SERVING_V1, "test", list(files.values()), pins)
    stored = ServingTuned.stored(v1=True)
    for setting in split.settings:
        if setting.shift == "trace":
            rule = ServingTuned()
            rule.bind(ServingV1VectorEnv(setting.scenario.replace(serving={"horizon_s": 20.0})))
            nearest = "overload" if setting.name.partition("/")[0].endswith("-1.3") else "bursts"
            assert rule.parameters == stored[nearest]


def test_a_trace_that_is_not_pinned_or_given_twice_is_refused(traced, tmp_path):
    pins, files = traced
    other = write_trace(tmp_path / "other.csv", [1.0] * 5, [2] * 5, [3] * 5)
    with pytest.raises(ConfigurationError, match=r"its 5 requests are those of no pinned trace.*azure-code"):
        load_split(SERVING, "test", (other,), pins)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(files["azure-code"].read_bytes())
    with pytest.raises(ConfigurationError, match="are both the trace azure-code"):
        load_split(SERVING, "test", (copy, files["azure-code"]), pins)


@pytest.mark.parametrize(
    ("trace", "part", "refused"),
    [
        ("azure-conversation", "train", False),
        ("azure-conversation", "test", True),
        ("azure-conversation", "all", True),
        ("azure-code", "train", True),
    ],
)
def test_a_policy_trained_on_test_windows_is_refused(traced, trace, part, refused):
    pins, files = traced
    split = load_split(SERVING, "test", (), pins)
    path = str(files[trace])
    scenario = get_scenario("saturated/llama-65b").replace(
        serving={"arrivals": {"process": "trace", "trace": path, "split": part}, "horizon_s": 10.0}
    )
    description = described(scenario, env=SERVING, traces=trace_records([scenario]))
    if refused:
        with pytest.raises(ConfigurationError, match=r"held out there: .*part"):
            split.check_unseen(description, "mine")
    else:
        split.check_unseen(description, "mine")
    with pytest.raises(ConfigurationError, match="whose content it does not record"):
        split.check_unseen(described(scenario, env=SERVING), "mine")


def test_a_later_split_point_reaches_into_the_test_windows(traced):
    pins, files = traced
    split = load_split(SERVING, "test", (), pins)
    arrivals = {"process": "trace", "trace": str(files["azure-conversation"]), "split": "train"}
    for split_at, refused in ((0.5, False), (0.7, False), (0.8, True)):
        scenario = get_scenario("saturated/llama-65b").replace(
            serving={"arrivals": {**arrivals, "split_at": split_at}, "horizon_s": 10.0}
        )
        description = described(scenario, env=SERVING, traces=trace_records([scenario]))
        with pytest.raises(ConfigurationError) if refused else contextlib.nullcontext():
            split.check_unseen(description, "mine")


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 999), st.integers(1, 999)), min_size=2, max_size=8),
    st.data(),
)
def test_content_is_the_requests_and_not_the_file(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("traces")
    gaps, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    gaps = np.round(gaps, 3)
    one = write_trace(folder / "one.csv", gaps, inputs, outputs)
    other = write_trace(folder / "other.csv", gaps + np.eye(len(rows))[0], inputs, outputs, "\r\n")
    assert trace_content(one) == trace_content(other)  # another line end, and a later first request
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = write_trace(folder / "changed.csv", gaps, inputs, outputs + (np.arange(len(rows)) == place))
    assert trace_content(changed)[0] != trace_content(one)[0]


# --- what has changed -------------------------------------------------------------------------------


def test_a_setting_that_changed_is_named_with_its_part(monkeypatch):
    definition = splits_definition.define

    def changed(env_id, traces=None):
        found = definition(env_id, traces)
        first = found["test"][0]
        slower = first.scenario.system.model_copy(update={"mode_switch_s": 5e-6})
        other = replace(first, scenario=first.scenario.replace(system=slower))
        return {**found, "test": (other, *found["test"][1:])}

    monkeypatch.setattr("experiments.splitting.splits.define", changed)
    with pytest.raises(
        ConfigurationError, match=r"test: creative-writing/opt-30b.* changed \(system\).*--pin"
    ):
        load_split(DECODE, "train")


def test_a_setting_that_is_new_or_gone_is_named(monkeypatch):
    definition = splits_definition.define

    def changed(env_id, traces=None):
        found = definition(env_id, traces)
        return {**found, "train": (*found["train"][1:], replace(found["train"][0], name="mine"))}

    monkeypatch.setattr("experiments.splitting.splits.define", changed)
    with pytest.raises(ConfigurationError, match=r"train: creative-writing/.* is gone; train: mine is new"):
        load_split(DECODE, "test")


def test_descriptions_are_no_part_of_a_setting_and_every_number_is():
    scenario = get_scenario("saturated/llama-65b")
    told = scenario.model_copy(update={"name": "other", "description": "other words"})
    assert fingerprint(told, {}) == fingerprint(scenario, {})
    for changed in (
        scenario.replace(energy_weight=0.5),
        scenario.replace(switch_s=1e-6),
        scenario.replace(serving={"max_running": 8}),
        scenario.replace(system="papi-h100"),
    ):
        assert fingerprint(changed, {}) != fingerprint(scenario, {})
    vision = get_scenario("vision-stream")
    assert fingerprint(vision.replace(reparameterized=False), {}) != fingerprint(vision, {})
    text = get_scenario("general-qa/llama-65b")
    assert fingerprint(text.replace(acceptance_rate=0.5), {}) != fingerprint(text, {})


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"format": "other", "version": 1, "traces": {}, "problems": {}}']
)
def test_a_file_that_pins_nothing_is_refused(tmp_path, content):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"splits\.json"):
        load_split(DECODE, "train", (), path)


WHERE = (
    ("traces",),
    ("traces", "azure-code"),
    ("traces", "azure-code", "sha256"),
    ("problems",),
    ("problems", DECODE),
    ("problems", DECODE, "train"),
    ("problems", DECODE, "train", "settings"),
    ("problems", DECODE, "train", "settings", ""),
    ("problems", DECODE, "train", "settings", "", "parts"),
)


@pytest.mark.parametrize("wrong", [None, [], 1, {"": 1}], ids=repr)
@pytest.mark.parametrize("where", WHERE, ids=lambda where: ".".join(where))
def test_pins_of_another_shape_are_refused_wherever_they_are_wrong(tmp_path, where, wrong):
    document = json.loads(PINS.read_text())
    inner = document
    for name in where[:-1]:
        inner = inner[name or next(iter(inner))]
    inner[where[-1] or next(iter(inner))] = wrong
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"splits\.json: "):
        load_split(DECODE, "train", (), path)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match="Did you mean 'test'"):
        load_split(DECODE, "tset")
    with pytest.raises(ConfigurationError, match="Did you mean 'papi_env/Decode-v0'"):
        load_split("papi_env/Decode-v1", "test")
    with pytest.raises(ConfigurationError, match=r"Unknown trace 'azure-cod'. Did you mean 'azure-code'"):
        define(SERVING, {"azure-cod": "x.csv"})


def test_the_command_shows_the_splits_and_refuses_what_is_unknown(loaded):
    status, out, err = command("--env", DECODE, "--settings")
    assert (status, err) == (0, "")
    for name in SPLIT_NAMES:
        split = loaded[DECODE, name]
        assert isinstance(split, Split)
        assert split.sha256 in out
        assert f"{name}: {split.settings[-1].name} [{split.settings[-1].shift}]" in out
    status, _, err = command("--env", "papi_env/Decode")
    assert status == 2
    assert "Did you mean 'papi_env/Decode-v0'" in err


def test_scenarios_without_files_read_none():
    assert trace_paths(get_scenario("vision-stream")) == ()
    assert trace_paths(get_scenario("saturated/llama-65b")) == ()


# --- training on them -------------------------------------------------------------------------------


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_training_on_the_split_takes_its_settings_and_says_so(loaded, env):
    training = resolve(Config(env=env, split=True, algorithm="maskable-ppo"))
    for name, found in (("train", training.settings), ("validation", training.validation)):
        assert found == tuple(setting.scenario for setting in loaded[env, name].settings)
    hashes = {name: loaded[env, name].sha256 for name in ("train", "validation")}
    summary = training.summary()
    assert summary["splits"] == training.describe()["splits"] == hashes
    assert len(set(summary["settings"])) == len(training.settings)
    assert "--split" in summary["command"]
    loaded[env, "test"].check_unseen(described(*training.settings, env=env, **summary), "mine")


def test_training_on_the_split_takes_nothing_besides():
    with pytest.raises(ConfigurationError, match="--split names all settings"):
        resolve(Config(split=True, batch_sizes=(4,)))
    with pytest.raises(ConfigurationError, match="--trace belongs to --split"):
        resolve(Config(traces=(PINS,)))


def test_a_training_on_traces_records_their_content(traced, monkeypatch):
    pins, files = traced
    monkeypatch.setattr(plan, "load_split", lambda env, name, paths: load_split(env, name, paths, pins))
    config = Config(env=SERVING, split=True, traces=tuple(files.values()))
    training = resolve(config)
    summary = training.summary()
    conversation = files["azure-conversation"]
    assert summary["traces"] == {str(conversation): trace_content(conversation)[0]}
    assert training.describe()["traces"]
    test = load_split(SERVING, "test", tuple(files.values()), pins)
    test.check_unseen(described(*training.settings, env=SERVING, **summary), "mine")
    json.dumps(training.describe())  # goes into run.json
