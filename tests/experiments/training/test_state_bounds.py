"""States of trainings in the layout of earlier versions go on; numbers that lead out of arrays are refused."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from experiments.arena.settings import scenario_settings
from experiments.training.algorithms import build_model
from experiments.training.hyperparameter_files import load_hyperparameters
from experiments.training.settings import training_envs
from experiments.training.state import _digest, load_state, save_state
from experiments.training.state_bounds import check_counters, counts_of, rows_of, widened
from papi_env.envs.registration import DECODE, KERNELS, SERVING
from papi_env.errors import DataError
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.requests import ServingState
from tests.experiments.training.runs import HYPER

pytestmark = pytest.mark.usefixtures("threads_as_before")

SERVED = """
system = "papi"
model = "opt-30b"
[serving]
arrivals = { process = "poisson", rate_per_s = 20.0 }
lengths = { input = 40, output = 24 }
objectives = { ttft_s = 1.0, tpot_s = 0.05 }
horizon_s = 0.4
max_running = 4
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("bounds") / "served.toml"
    path.write_text(SERVED)
    return scenario_settings(SERVING, [str(path)])


def built(settings):
    hyper = (*HYPER["a2c"], "imitation={rounds=0,episodes=1}", "critic_first=0")
    parameters = load_hyperparameters("a2c", SERVING, hyper)
    return build_model("a2c", parameters, training_envs(SERVING, settings, parameters.n_envs, True), seed=0)


def with_leftovers(found):
    """Rows of slots as versions had them that kept as many as requests may run, with what empty ones had held."""
    changed = dict(found)
    for name in [name for name in found if name.endswith(".requests")]:
        part, slots = name.removesuffix(".requests"), found[name].shape[1]
        counters = found[f"{part.replace('.final', '.state')}.counters"]  # whose slots both are
        empty = np.arange(slots) >= counters[:, at.RLP, None]
        for slot, left in (("contexts", 321), ("left", 7), ("classes", 0), ("keys", 99), ("deadlines", 0.5)):
            row = found[f"{part}.{slot}"]
            assert row.shape[1] % 16 == 0
            changed[f"{part}.{slot}"] = np.where(empty, row.dtype.type(left), row[:, :slots])
    return changed


def as_earlier(path, counters=47, clocks=43):
    """Rewrite a state as versions wrote it in which requests had no classes."""
    with safe_open(path, framework="np") as file:
        text = file.metadata()["state"]
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    names = (
        "more",
        "queue",
        "queue_facts",
        "queue_arrival_s",
        "queue_until_s",
        "places",
        "place_s",
    )
    later = tuple(f".{name}" for name in (*names, "prefixes"))
    found = {name: array for name, array in found.items() if not name.endswith(later)}
    for name, array in found.items():
        if name.endswith((".state.counters", ".final.counters")):
            found[name] = array[:, :counters].copy()
        if name.endswith((".state.clocks", ".final.clocks")):
            found[name] = array[:, :clocks].copy()
    found = with_leftovers(found)
    save_file(found, path, metadata={"state": text, "sha256": _digest(text, found)})


def test_a_state_of_earlier_versions_goes_on_as_it_would_have(tmp_path, settings):
    path = tmp_path / "state.safetensors"
    model = built(settings)
    model.learn(256)
    save_state(path, model, {"rows": []})
    model.learn(256, reset_num_timesteps=False)
    as_earlier(path)
    twin = built(settings)
    assert load_state(path, twin) == {"rows": []}
    twin.learn(256, reset_num_timesteps=False)
    for name, tensor in model.policy.state_dict().items():
        np.testing.assert_array_equal(twin.policy.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)
    assert twin.num_timesteps == model.num_timesteps == 512


def test_other_widths_are_of_another_configuration(tmp_path, settings):
    path = tmp_path / "state.safetensors"
    model = built(settings)
    model.learn(64)
    for widths in ({"counters": 46}, {"clocks": 44}):
        save_state(path, model, {"rows": []})
        as_earlier(path, **widths)
        with pytest.raises(DataError, match="the state of another configuration"):
            load_state(path, built(settings))


def batches(tmp_path, env_id, **parts):
    """A model beside static batches that it has played a little, and its state as a file."""
    hyper = (*HYPER["ppo"], "imitation={rounds=0,episodes=1}", "critic_first=0")
    parameters = load_hyperparameters("ppo", env_id, hyper)
    settings = scenario_settings(env_id, **parts)
    model = build_model("ppo", parameters, training_envs(env_id, settings, parameters.n_envs, True), seed=0)
    model.learn(256)
    save_state(tmp_path / "state.safetensors", model, {"rows": []})
    with safe_open(tmp_path / "state.safetensors", framework="np") as file:
        text = file.metadata()["state"]
        return model, text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def as_before_rows_were_shorter(found):
    """Counters and clocks as rows had them in which all that images and experts need stood among the others."""
    changed = dict(found)
    for name, array in found.items():
        rows, columns = name.rpartition(".")[0], name.rpartition(".")[2]
        if columns not in ("counters", "clocks"):
            continue
        old = np.zeros((len(array), 40 if columns == "counters" else 32), dtype=array.dtype)
        if columns == "counters":
            pieces = ((0, 0, 24), (24, 28, 5), (29, 34, 3), (32, 24, 4), (36, 33, 1), (37, 37, 1))
        else:
            pieces = ((0, 0, 8), (8, 16, 8), (16, 12, 4), (20, 28, 4), (24, 8, 4), (28, 24, 4))
        for now, then, count in pieces:
            part = array[:, now : now + count]
            old[:, then : then + part.shape[1]] = part
        final = "final_" if rows.endswith(".final") else ""
        changed[f"{rows.rpartition('.')[0]}.{final}{columns}"] = old
        del changed[name]
    return changed


@pytest.mark.parametrize(
    ("env_id", "parts"),
    [(DECODE, {"batch_sizes": (2,)}), (KERNELS, {"scenarios": ("vision-stream",)})],
)
def test_static_batches_from_before_rows_were_shorter_go_on(tmp_path, env_id, parts):
    path = tmp_path / "state.safetensors"
    model, text, found = batches(tmp_path, env_id, **parts)
    model.learn(256, reset_num_timesteps=False)
    twin, _, _ = batches(tmp_path, env_id, **parts)
    earlier = as_before_rows_were_shorter(found)
    assert any(name.endswith(".engine.final_clocks") for name in earlier)
    save_file(earlier, path, metadata={"state": text, "sha256": _digest(text, earlier)})
    assert load_state(path, twin) == {"rows": []}
    twin.learn(256, reset_num_timesteps=False)
    for name, tensor in model.policy.state_dict().items():
        np.testing.assert_array_equal(twin.policy.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)


def test_static_batches_of_another_width_are_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    model, text, found = batches(tmp_path, DECODE, batch_sizes=(2,))
    earlier = as_before_rows_were_shorter(found)
    narrow = next(name for name in earlier if name.endswith(".engine.counters"))
    earlier[narrow] = earlier[narrow][:, :32].copy()
    wide = next(name for name in found if name.endswith(".state.clocks"))
    found[wide] = np.pad(found[wide], ((0, 0), (0, 8)))
    for arrays, message in (
        (earlier, r"state\.counters is missing"),
        (found, r"state\.clocks is float64 .*, 32\]"),
    ):
        save_file(arrays, path, metadata={"state": text, "sha256": _digest(text, arrays)})
        with pytest.raises(DataError, match=f"{message}.* another configuration or version"):
            load_state(path, model)


# --- with classes of requests ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    """In the middle of an episode in which conversations wait, run and think."""
    talk = {"turns": 3.0, "think_s": 0.1}
    served = {
        "arrivals": {"process": "poisson", "rate_per_s": 60.0},
        "lengths": {"input": 40, "output": 24},
        "horizon_s": 2.0,
        "requests": None,
        "max_running": 4,
        "service": {
            "classes": {"talk": {"conversation": talk}, "alone": {"weight": 2.0}},
            "max_waiting": 8,
            "max_open": 16,
        },
    }
    engine = ServingEngine(get_scenario("saturated/llama-65b").replace(serving=served), 3)
    engine.start([0, 1, 2])
    rng = np.random.default_rng(0)
    limits = np.array(at.NVEC_V1)
    for _ in range(120):
        engine.actions[:] = rng.integers(0, limits, (3, len(limits)))
        engine.step()
    return engine


def arrays_of(engine):
    return {f"env.state.{name}": getattr(engine.state, name).copy() for name in ServingState._fields}


def test_what_an_engine_holds_passes_all_along(tmp_path, engine):
    twin = engine.clone()
    for _ in range(100):
        check_counters(tmp_path, "env", twin, arrays_of(twin))
        twin.step()
    assert (twin.counters[:, at.SESSIONS] > twin.state.facts.shape[1]).all(), "records that were used again"


def as_before_rows_were_counted(engine):
    """The arrays of an engine as versions had them that kept free rows as lists, and nothing beside the queue."""
    found = {name: array.copy() for name, array in arrays_of(engine).items()}
    state = {name: found[f"env.state.{name}"] for name in ServingState._fields}
    counters, facts, places, place_s = (state[name] for name in ("counters", "facts", "places", "place_s"))
    until = np.full(facts.shape[:2], np.inf)
    for e, c in enumerate(counters):
        front, queued = c[at.QUEUE_FRONT], c[at.QUEUED] - c[at.PREEMPTED]
        state["queue"][e, :queued] = state["queue"][e, front : front + queued].copy()
        until[e, state["queue"][e, :queued]] = state["queue_until_s"][e, front : front + queued]
        for first, used, links in (
            (at.FREE_RECORD, at.RECORDS_USED, facts[e, :, at.INPUT]),
            (at.FREE_PLACE, at.PLACES_USED, places[e, at.TOLD]),
        ):
            unused = np.arange(c[used], len(links))
            links[unused] = np.append(unused[1:], -1)[: len(unused)]
            last, following = None, c[first]
            while following >= 0:
                last, following = following, links[following]
            begin = unused[0] if len(unused) else -1
            if last is None:
                c[first] = begin
            else:
                links[last] = begin
    changed = {
        "counters": counters[:, :83].copy(),
        "places": np.ascontiguousarray(places.swapaxes(1, 2)),
        "place_s": np.ascontiguousarray(place_s.swapaxes(1, 2)),
        "moments": np.pad(state["moments"], ((0, 0), (0, 0), (0, 1)), constant_values=np.nan),
        "patience": until,
    }
    found = with_leftovers(found | {f"env.state.{name}": array for name, array in changed.items()})
    return {name: array for name, array in found.items() if ".queue_" not in name}


def test_a_state_from_before_rows_were_counted_goes_on_as_it_would_have(tmp_path, engine):
    """With classes of requests, whose conversations and records were in lists."""
    found = as_before_rows_were_counted(engine)
    twin = engine.clone()
    twin.start([7, 8, 9])
    layout = widened("env", twin, found, arrays_of(twin))
    assert layout.keys() == arrays_of(twin).keys()
    check_counters(tmp_path, "env", twin, layout)
    for name, array in arrays_of(twin).items():
        assert (layout[name].shape, layout[name].dtype) == (array.shape, array.dtype)
        getattr(twin.state, name.rpartition(".")[2])[:] = layout[name]
    one = engine.clone()
    rows = [at.FREE_RECORD, at.FREE_PLACE, at.RECORDS_USED, at.PLACES_USED, at.QUEUE_FRONT]
    rng = np.random.default_rng(5)
    for _ in range(150):
        one.actions[:] = twin.actions[:] = rng.integers(0, at.NVEC_V1, one.actions.shape)
        one.step()
        twin.step()
        np.testing.assert_array_equal(one.clocks, twin.clocks)
        np.testing.assert_array_equal(np.delete(one.counters, rows, 1), np.delete(twin.counters, rows, 1))
    assert one.counters[:, at.FINISHED].min() > engine.counters[:, at.FINISHED].max()


@pytest.mark.parametrize("value", [-2, 1 << 20])
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("queue", 0),
        ("prefill", 0),
        ("preempted", 0),
        ("requests", 0),
        ("classes", 0),
        ("counters", at.FREE_RECORD),
        ("counters", at.FREE_PLACE),
        ("counters", at.RECORDS_USED),
        ("counters", at.PLACES_USED),
        ("counters", at.QUEUE_FRONT),
        ("counters", at.QUEUED),
        ("counters", at.PREEMPTED),
        ("counters", at.RLP),
    ],
)
def test_numbers_that_lead_out_of_arrays_are_refused(tmp_path, engine, name, column, value):
    found = arrays_of(engine)
    found[f"env.state.{name}"][1, column] = value
    with pytest.raises(DataError, match=rf"env\.state\.{name}.* numbers outside"):
        check_counters(tmp_path, "env", engine, found)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("facts", at.CLASS, "kind of a request"),
        ("more", at.PLACE, "place of a request"),
        ("places", at.KIND, "kind of a conversation"),
    ],
)
def test_records_that_name_what_is_not_there_are_refused(tmp_path, engine, name, column, message):
    for value in (-2, 1 << 20):
        found = arrays_of(engine)
        found[f"env.state.{name}"][(1, column, 0) if name == "places" else (1, 0, column)] = value
        with pytest.raises(DataError, match=message):
            check_counters(tmp_path, "env", engine, found)


def test_lists_of_what_is_free_stay_inside(tmp_path, engine):
    found = arrays_of(engine)
    facts, places = found["env.state.facts"], found["env.state.places"]
    e = np.flatnonzero((engine.counters[:, [at.FREE_RECORD, at.FREE_PLACE]] >= 0).all(axis=1))[0]
    free = engine.counters[e, at.FREE_RECORD]
    facts[e, free, at.INPUT] += 1 << 20
    with pytest.raises(DataError, match="next free record"):
        check_counters(tmp_path, "env", engine, found)
    facts[e, free, at.INPUT] -= 1 << 20
    place = engine.counters[e, at.FREE_PLACE]
    places[e, at.TOLD, place] = 1 << 20
    with pytest.raises(DataError, match="next free place"):
        check_counters(tmp_path, "env", engine, found)


ROW = {"steps": 10, "simulated_s": 1.0, "wall_s": 0.5, "score": -1.0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "rows are None, expected a list"),
        ([3], "expected a list of fields by name"),
        ([{"steps": 1}], "rows.0 has other fields: .'score', 'simulated_s', 'wall_s'"),
        ([ROW, {**ROW, "regret": 1.0}], "rows.1 has other fields: .'regret'"),
        ([{**ROW, "steps": -1}], "steps is -1, expected a count"),
        ([{**ROW, "steps": 10**400}], "steps is 1000.*, expected a count"),
        ([{**ROW, "score": 10**400}], "rows.0.'score' is .*, expected a finite number"),
        ([{**ROW, "score": "a"}], "rows.0.'score' is 'a', expected a finite number"),
    ],
)
def test_rows_of_validations_are_numbers_by_the_same_names(tmp_path, rows, said):
    assert rows_of(tmp_path, [ROW, ROW]) == [ROW, ROW]
    with pytest.raises(DataError, match=said):
        rows_of(tmp_path, rows)


@pytest.mark.parametrize("value", [10**400, -1, True, 1.5, None, "7"])
def test_counts_are_counts(tmp_path, value):
    with pytest.raises(DataError, match=r"n is .*, expected a count"):
        counts_of(tmp_path, {"n": value}, ("n",))
    with pytest.raises(DataError, match="n is None, expected a count"):
        counts_of(tmp_path, [value], ("n",))
