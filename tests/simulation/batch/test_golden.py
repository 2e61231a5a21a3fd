"""What the engine does with fixed tables stays what it was, and threads change no bit of it.

The tables are made up: round numbers by short formulas, nothing of the hardware model. So a change of the model
leaves these trajectories alone, and a change of them is a change of the engine. Run this file as a script to write
`tests/data/golden_trajectories.json` anew, after a change that is meant.
"""

import json
from itertools import product
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import engine as engine_module
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.tables import EngineTables

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden_trajectories.json"
NUM_ENVS, SEED = 2, 11
STEPS = (1, 3, 8, 21, 55, 144)
# fmt: off
COUNTERS = (
    "EPISODE", "DONE", "RLP", "TLP", "ITERATION", "CONTEXT_SUM", "GROUP_SUM", "GROUP_MAX", "KEY_ROW_SUM",
    "KEY_ROW_MAX", "SWITCHES", "INVALID", "DECODED", "PREFILL_TOKENS", "PREFILL_PAIRS", "LAST_FINISHED",
    "LAST_DECODED", "LAST_N", "STAGE", "ENCODE", "IMAGES", "ENCODED", "STAGES_RUN",
)
CLOCKS = (
    "TIME_S", "DYNAMIC_J", "COMMUNICATION_S", "SWITCHING_S", "RETURN", "LAST_TIME_S", "LAST_REWARD_TIME",
    "LAST_REWARD_ENERGY",
)
# fmt: on
# Choices of an action, requests, (from iteration, TLP), acceptance rate, seconds of a switch, image batches.
CASES = {
    "decode, one token": (1, 5, [(0, 1)], 1.0, 0.0, None),
    "decode, drawn": (1, 20, [(0, 4)], 0.64, 0.0, None),
    "decode, all accepted": (1, 40, [(0, 3)], 1.0, 1e-5, None),
    "kernels, drawn, on a schedule": (7, 18, [(0, 4), (6, 1), (12, 8)], 0.5, 2e-6, None),
    "kernels, images alone": (7, 0, [(0, 0)], 1.0, 2e-6, [3, 8, 1]),
    "kernels, images and text": (7, 4, [(0, 2)], 0.7, 0.0, [4]),
}


def made_up_tables(requests, schedule, acceptance, switch_s, batches):
    """`EngineTables` by formulas that a reader can check; units are dearer from one to the next."""
    units, rows, tlp, most = at.NUM_UNITS, 1025, 9, 129
    k, u, n = np.ogrid[:3, :units, :rows]
    fc = np.stack([(1 + k) * (4e-5 + 1e-6 * n * (1 + u)), (1 + k) * (1 + u + 0.25 * n)], axis=-1)
    u, t, c = np.ogrid[:units, :tlp, : at.NUM_ATTENTION]
    attention = 1e-7 * (1 + u) * (1 + 0.125 * t) * (1 + c)
    attention[0, :, at.LINK_PER_TOKEN_S] = 3e-6
    r = np.arange(most)
    rounds = [-(-r // (4 << u)) for u in range(units)]
    shares = np.stack([np.stack([n, 0 * r + n[1], n, 1.0 * (r % 2)], axis=-1) for n in rounds])
    u, n = np.ogrid[:units, :rows]
    link = np.stack([1e-6 * (1 + u) * n, 0.5 * (1 + u) + 0 * n], axis=-1)
    n = np.arange(rows)
    moves = np.stack([2e-7 * n, 0.125 * n, 1e-7 * n, 0.0625 * n], axis=-1)
    i = np.arange(50)
    allowed = np.ones((at.NUM_CHOICES, units), dtype=np.bool_)
    allowed[[at.QKV, at.REPMLP_FC3], 2] = False
    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.ENERGY_WEIGHT], scalars[at.REFERENCE], scalars[at.STATIC_W] = 1e-3, 5e-4, 100.0
    scalars[at.SWITCH_S], scalars[at.LAYERS], scalars[at.ALPHA], scalars[at.CONTEXT_LIMIT] = (
        switch_s,
        4,
        24,
        2048,
    )
    scalars[at.BATCH], scalars[at.ACCEPTANCE] = requests, acceptance * 2.0**53
    scalars[at.OVERHEAD_S], scalars[at.GROUP_COLUMNS] = 1e-5, 3
    scalars[at.ENCODES] = 1 if requests else 2
    scalars[at.IMAGE_TOKENS] = 7 if batches else 0
    num_stages = 2 if batches else 0
    s, k, u, b = np.ogrid[:num_stages, : at.NUM_STAGE_CLASSES + 1, :units, :most]
    stages = np.stack([1e-6 * (1 + s) * (1 + k) * (2 + u + b), 0.25 * (1 + u) * b + 0 * s + 0 * k], axis=-1)
    s, b, c = np.ogrid[:num_stages, :most, : at.NUM_STAGE_MOVES]
    stage_moves = 1e-7 * (1 + s) * b * (1 + c)
    s, b, c = np.ogrid[:num_stages, :most, : 2 * at.NUM_STAGE_CLASSES]
    return EngineTables(
        fc=fc,
        attention=np.repeat(attention[:, None], most, axis=1),
        attention_causes=np.zeros((units, most, tlp, at.NUM_CAUSES)),
        shares=np.repeat(shares[:, :, None], tlp, axis=2),
        attention_link=link,
        moves=moves,
        schedule=np.array(schedule, dtype=np.int64),
        population=np.stack([5 + 37 * i % 300, 3 + 29 * i % 60], axis=-1).astype(np.int32),
        allowed=allowed,
        defaults=np.array([0, 2, 0, 1, 0, 1, 0], dtype=np.int64),
        scalars=scalars,
        descriptors=np.zeros(len(at.DESCRIPTOR_NAMES), dtype=np.float32),
        stages=stages,
        stage_moves=stage_moves,
        stage_features=(0.01 * (1 + s) + 0.001 * b + 0.1 * c) * np.ones((num_stages, most, 1)),
        blocks=np.arange(2, 2 + num_stages, dtype=np.int64),
        batches=np.array(batches or [], dtype=np.int64),
        stage_descriptors=np.zeros(len(at.STAGE_DESCRIPTOR_NAMES), dtype=np.float32),
    )


def started(case, patch, num_envs=NUM_ENVS, **arguments):
    """An engine over the tables of a case; of the scenario it takes only whether there are images."""
    choices, *numbers = CASES[case]
    patch.setattr(engine_module, "build_profiled_tables", lambda *_: (made_up_tables(*numbers), None))
    scenario = get_scenario("creative-writing/llama-65b" if numbers[-1] is None else "vision-stream")
    engine = DecodeEngine(scenario, num_envs, choices=choices, **arguments)
    engine.counters[:, at.SEED] = SEED + np.arange(num_envs)
    engine.reset()
    return engine


def act(engine, step):
    """Every unit in turn, in another order for each environment and choice."""
    choices = engine.actions.shape[1]
    envs, columns = np.ogrid[: engine.num_envs, :choices]
    engine.actions[:] = (step * 7 + step // 5 + 3 * envs + 2 * columns) % (
        2 if choices == 1 else at.NUM_UNITS
    )


def played(case, patch):
    """Named counters and clocks of all environments before some of the steps."""
    engine = started(case, patch, autoreset=batch.NEXT_STEP)
    found = []
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            totals = engine.metrics()
            found.append(
                {
                    "step": step,
                    "counters": {n: engine.counters[:, getattr(at, n)].tolist() for n in COUNTERS},
                    "clocks": {n: engine.clocks[:, getattr(at, n)].tolist() for n in CLOCKS},
                    "busy": engine.clocks[:, at.BUSY_S : at.BUSY_S + at.NUM_UNITS].tolist(),
                    "classes": np.stack([totals[f"{kind}_s"] for kind in at.TIMED_CLASSES], axis=1).tolist(),
                    "rewards": engine.rewards.tolist(),
                }
            )
        act(engine, step)
        engine.step()
    return found


@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_those_on_record(case, monkeypatch):
    expected = json.loads(GOLDEN.read_text())[case]
    for now, then in zip(played(case, monkeypatch), expected, strict=True):
        assert now["step"] == then["step"]
        assert now["counters"] == then["counters"]
        for name, values in then["clocks"].items():
            np.testing.assert_allclose(now["clocks"][name], values, rtol=1e-12, err_msg=name)
        for name in ("busy", "classes", "rewards"):
            np.testing.assert_allclose(now[name], then[name], rtol=1e-12, err_msg=name)


def test_the_record_meets_ends_of_episodes_draws_and_every_kind_of_step():
    record = json.loads(GOLDEN.read_text())
    for case, (_, requests, *_, batches) in CASES.items():
        last = {n: np.array(values) for n, values in record[case][-1]["counters"].items()}
        assert (last["EPISODE"] > 0).all(), case
        if requests:
            drafts = [np.array(r["counters"]["LAST_DECODED"]) for r in record[case][1:]]
            assert any((d > 0).any() for d in drafts), case
        if batches:
            assert any(max(r["counters"]["STAGE"]) >= 0 for r in record[case]), case


@pytest.mark.parametrize(("case", "threads"), list(product(CASES, (2, 3))))
def test_threads_change_no_bit(case, threads, monkeypatch):
    # 7 environments: no number of threads divides them.
    one, many = (
        started(case, monkeypatch, 7, autoreset=batch.SAME_STEP, threads=count) for count in (1, threads)
    )
    for step in range(150):
        for engine in (one, many):
            act(engine, step)
            engine.step()
    for mine, other in zip(one.state, many.state, strict=True):
        assert mine.tobytes() == other.tobytes()
    for name in (
        *("observations", "rewards", "terminated", "truncated"),
        *("final_counters", "final_clocks", "final_observations"),
    ):
        assert getattr(one, name).tobytes() == getattr(many, name).tobytes(), name


@pytest.mark.parametrize("env_id", ["papi_env/Decode-v0", "papi_env/Kernels-v0"])
def test_threads_are_an_argument_of_make_vec(env_id):
    arguments = {"num_envs": 5, "batch_size": 4, "speculation": 4, "acceptance_rate": 0.7}
    one, two = (gym.make_vec(env_id, threads=count, **arguments) for count in (1, 2))
    np.testing.assert_array_equal(one.reset(seed=3)[0], two.reset(seed=3)[0])
    one.action_space.seed(0)
    for _ in range(100):
        actions = one.action_space.sample()
        for alone, shared in zip(one.step(actions)[:4], two.step(actions)[:4], strict=True):
            assert alone.tobytes() == shared.tobytes()
    with pytest.raises(ConfigurationError, match="threads is 0, expected at least 1"):
        gym.make_vec(env_id, threads=0, **arguments)


def test_more_threads_than_environments_are_not_used(monkeypatch):
    one, many = (started("decode, drawn", monkeypatch, 2, threads=count) for count in (1, 5))
    for step in range(40):
        for engine in (one, many):
            act(engine, step)
            engine.step()
    assert one.clocks.tobytes() == many.clocks.tobytes()


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        text = ",\n".join(f'"{case}": {json.dumps(played(case, patch))}' for case in CASES)
    GOLDEN.write_text("{\n" + text + "\n}\n")
