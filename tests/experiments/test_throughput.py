"""Throughput: rounds on a clock of our own, what is stepped, what counts as reached, and the command."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import papi_env  # noqa: F401  registers the ids
from experiments.common.runner import ROOT
from experiments.speed import parts as throughput_parts
from experiments.speed import ppo as throughput_ppo
from experiments.speed.figure import throughput_figure
from experiments.speed.inside import Prepared, measure_prepared
from experiments.speed.measure import (
    CARTPOLE,
    DECODE,
    KERNELS,
    SERVING,
    SERVING_V1,
    BatchLoop,
    Spread,
    Timed,
    accepts,
    draw_actions,
    full_batch,
    full_machine,
    measure,
    pinned,
    sampled_batch,
)
from experiments.speed.parts import Findings
from experiments.speed.ppo import ADAPTER, QUICK_TRAINING, target_ratio, to_target
from experiments.speed.summary import summarise
from experiments.speed.targets import PARTS, TARGETS
from experiments.throughput import main
from tests.experiments.commands import called

PNG = b"\x89PNG"


class Machine:
    """Clocks that calls move: each takes its seconds times how slow the machine is at that time.

    The process has the share `cpu_share` of the time that passes.
    """

    def __init__(self, slower=lambda now: 1.0, cpu_share=1.0):
        self.now = self.cpu = 0.0
        self.slower, self.share = slower, cpu_share
        self.calls = []

    def call(self, name, seconds):
        def run():
            passed = seconds * self.slower(self.now)
            self.cpu += passed
            self.now += passed / self.share
            self.calls.append(name)

        return run

    def measure(self, timed, rounds, block_s):
        return measure(timed, rounds, block_s, clock=lambda: self.cpu, wall=lambda: self.now)


def test_rates_are_steps_over_the_seconds_of_the_blocks():
    machine = Machine(cpu_share=0.5)
    asked = []
    timed = [
        Timed("a", machine.call("a", 0.25), steps=8, probe=lambda: asked.append(1) or float(len(asked))),
        Timed("b", machine.call("b", 0.5), steps=3),
    ]
    rates = machine.measure(timed, 4, 2.0)
    assert rates["a"].steps_per_s.tolist() == [32.0] * 4
    assert rates["b"].steps_per_s.tolist() == [6.0] * 4
    assert rates["a"].cpu_share == rates["b"].cpu_share == 0.5
    assert rates["a"].probed == 2.5  # after each of four blocks
    assert rates["b"].probed is None


def test_rounds_alternate_and_turn_round():
    machine = Machine()
    timed = [Timed(name, machine.call(name, 1.0)) for name in "ab"]
    machine.measure(timed, 3, 1.0)
    assert "".join(machine.calls[-6:]) == "abbaab"


def test_ratios_within_rounds_hold_on_a_machine_that_slows_down():
    # Twice as slow after 40 s: rates spread, their ratio does not.
    machine = Machine(slower=lambda now: 1.0 if now < 40 else 2.0)
    timed = [Timed("a", machine.call("a", 0.5)), Timed("b", machine.call("b", 1.0))]
    rates = machine.measure(timed, 9, 4.0)
    found = Findings()
    ratios = found.add("part", "a", rates["a"], rates["b"], reference="b")
    assert np.ptp(rates["a"].steps_per_s) == 1.0
    assert np.median(ratios) == 2.0
    (row,) = found.rows
    assert (row.ratio, row.ratio_low, row.ratio_high, row.reference) == (2.0, 2.0, 2.0, "b")


def test_a_call_longer_than_a_block_is_a_block():
    machine = Machine()
    assert machine.measure([Timed("a", machine.call("a", 7.0), 14)], 2, 0.1)["a"].steps_per_s.tolist() == [
        2.0,
        2.0,
    ]


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_a_spread_holds_its_median_and_scales(values, factor):
    spread, scaled = Spread.of(np.array(values)), Spread.of(factor * np.array(values))
    assert min(values) <= spread.low <= spread.value <= spread.high <= max(values)
    assert scaled.value == pytest.approx(factor * spread.value, rel=1e-12)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_pinning_ends_even_with_an_error():
    before = os.sched_getaffinity(0)
    with contextlib.suppress(KeyError), pinned() as core:
        assert os.sched_getaffinity(0) == {core}
        raise KeyError
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("env_id", [CARTPOLE, DECODE, KERNELS, SERVING])
def test_actions_are_valid_and_the_same_every_time(env_id):
    env = gym.make_vec(env_id, num_envs=5, vectorization_mode="vector_entry_point")
    drawn = draw_actions(env, 40)
    assert all(env.action_space.contains(actions) for actions in drawn)
    assert all((a == b).all() for a, b in zip(drawn, draw_actions(env, 40), strict=True))
    assert len(np.unique(np.concatenate(drawn), axis=0)) > 1
    if env_id != CARTPOLE:
        valid = {tuple(row) for row in env.unwrapped.joint_actions().tolist()}
        assert {tuple(np.atleast_1d(row).tolist()) for row in np.concatenate(drawn)} <= valid
    env.close()


def test_spread_environments_are_at_different_points_of_their_episodes():
    loop = BatchLoop(DECODE, 64, **sampled_batch(4, 1))
    loop()
    assert np.ptp(loop.info["iteration"]) == 0
    loop.spread(32)
    # 32 groups that restarted one after the other, but for those that ended by themselves.
    assert len(np.unique(loop.info["iteration"])) > 16
    loop.close()


def test_all_requests_of_a_full_batch_always_decode():
    loop = BatchLoop(DECODE, 2, **full_batch(16, 4))
    restarts = 0
    # Acceptance is drawn, so lengths of the runs differ; the last iterations lose a few requests at most.
    decoding = []
    for _ in range(1000):
        loop()
        decoding.append(loop.decoding())
        restarts += int((loop.info["iteration"] == 0).sum())
    assert restarts >= 2
    assert np.mean(decoding) > 15
    loop.close()
    loop = BatchLoop(DECODE, 2, **full_batch(16, 1))
    for _ in range(300):
        loop()
        assert loop.decoding() == 16
    loop.close()


@pytest.mark.parametrize("env_id", [SERVING, SERVING_V1])
def test_a_full_machine_fills_and_stays_full(env_id):
    loop = BatchLoop(env_id, 2, choices=4, scenario=full_machine(16, 256)).fill()
    assert all((actions[:, 4:] == 0).all() and actions.any() for actions in loop.actions)
    for _ in range(50):
        loop()
        assert (loop.info["rlp"] + loop.info["prefilling"]).mean() >= 14
        assert (loop.info["queued"] > 0).all()
    loop.close()


def test_a_machine_that_never_fills_is_refused():
    scenario = full_machine(16, 8)
    loop = BatchLoop(SERVING, 2, scenario=scenario)
    with pytest.raises(RuntimeError, match=r"requests run after 60 iterations, expected 15\.2"):
        loop.fill(limit=60)
    loop.close()


def test_copies_are_what_copy_says():
    loop = BatchLoop(DECODE, 2, **sampled_batch(4, 1))
    engine = loop.env.unwrapped.engine
    for copy in (True, False):
        loop.timed("", copy=copy).call()
        assert np.shares_memory(loop.info["time_s"], engine.clocks) is not copy
    loop.close()


def test_arguments_of_the_vector_version_are_read_from_its_signature():
    assert accepts(DECODE, "copy")
    assert not accepts(DECODE, "no_such_argument")
    assert not accepts("Acrobot-v1", "copy")  # has no vector version of its own


def test_two_threads_are_measured_where_there_are_threads_and_cores(monkeypatch):
    asked = []

    class Threaded(BatchLoop):
        def __init__(self, env_id, num_envs, threads, **kwargs):
            asked.append(threads)
            super().__init__(env_id, num_envs, **kwargs)

    monkeypatch.setattr(throughput_parts, "BatchLoop", Threaded)
    monkeypatch.setattr(throughput_parts, "accepts", lambda env_id, argument: argument == "threads")
    for cores, note in (({0}, "one core"), ({0, 1}, "2 cores")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        found = Findings()
        throughput_parts.threads(found, throughput_parts.QUICK, lambda text: None)
        ratio = found.ratios["ratio_threads"]
        assert note in ratio.note
        assert (ratio.value is None) == (len(cores) == 1) == (not found.rows)
    assert asked == [1, 2]
    assert found.rows[1].ratio == ratio.value


def test_targets_are_reached_from_their_side():
    at_least = next(target for target in TARGETS if target.name == "ratio_decode_batch")
    at_most = next(target for target in TARGETS if target.at_most)
    assert [at_least.reached(v) for v in (0.84, 0.85, 1.99, 2.0)] == ["no", "yes", "yes", "goal"]
    assert [at_most.reached(v) for v in (0.16, 0.15, 0.06, 0.05)] == ["no", "yes", "yes", "goal"]
    assert {target.part for target in TARGETS} <= set(PARTS)


@pytest.mark.parametrize(
    ("defaults", "tuned", "value", "at_least"),
    [
        ([30.0], [2.0, 3.0, 4.0], 10.0, False),
        ([30.0, None, 90.0], [3.0], 30.0, True),
        ([None], [2.0, 6.0, None], 20.0, True),
        ([30.0], [2.0, None, None], None, False),
    ],
)
def test_the_way_to_the_target_is_compared_by_medians(defaults, tuned, value, at_least):
    ratio = target_ratio(defaults, tuned, limit_s=120.0)
    assert (ratio.value, ratio.at_least) == (value, at_least)
    assert ratio.note


def test_training_stops_at_the_target_with_evaluations_off_the_clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(throughput_ppo, "time", SimpleNamespace(process_time=lambda: clock.now))
    costs = iter([1.5, 1.02, 1.01, 1.0])

    class Scripted:
        def cost(self, policy):
            clock.now += 1000.0
            return next(costs)

    step = throughput_ppo.ToTarget._on_step

    def on_step(self):
        clock.now += 1.0  # a step of all environments
        return step(self)

    monkeypatch.setattr(throughput_ppo.ToTarget, "_on_step", on_step)
    settings = QUICK_TRAINING.tuned
    seconds, curve = to_target(ADAPTER, settings, 0, 1e6, Scripted())
    assert seconds == 3 * settings.n_steps
    updates = [settings.n_steps * i for i in (1, 2, 3)]
    assert curve == [
        {"seconds": float(steps), "steps": float(steps * settings.num_envs), "cost": cost}
        for steps, cost in zip(updates, (1.5, 1.02, 1.01), strict=True)
    ]


def test_training_gives_up_at_the_limit(monkeypatch):
    monkeypatch.setattr(throughput_ppo.Evaluation, "cost", lambda self, policy: 2.0)
    seconds, _ = to_target(ADAPTER, QUICK_TRAINING.tuned, 0, 0.0, throughput_ppo.Evaluation())
    assert seconds is None


def test_the_oracle_costs_one_and_others_more():
    evaluation = throughput_ppo.Evaluation()
    assert evaluation.cost(throughput_ppo.make_policy("oracle")) == 1.0
    assert evaluation.cost(throughput_ppo.make_policy("static-pu")) > throughput_ppo.TARGET_COST


def command(*arguments):
    return called(main, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("throughput") / "run"
    status, out, err = command("--quick", "--json", "--out", folder)
    assert status == 0, err
    return folder, out, json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_the_line_has_every_ratio_under_its_name(finished):
    folder, out, summary = finished
    assert out.endswith("\n")
    assert out.count("\n") == 1
    line = json.loads(out)
    assert {target.name for target in TARGETS} <= set(line)
    assert line["folder"] == str(folder)
    for name, entry in summary["ratios"].items():
        assert line[name] == entry["value"]
        if entry["value"] is None:
            assert entry["note"]
        elif entry["low"] is not None:
            assert 0 < entry["low"] <= entry["value"] <= entry["high"]
    # Sizes are not those of the targets.
    assert set(line["reached"].values()) == {None}


@pytest.mark.slow
def test_the_folder_holds_what_was_measured(finished):
    folder, _, summary = finished
    assert {p.name for p in folder.iterdir() if p.is_file()} == {
        "run.json",
        "rows.csv",
        "summary.json",
        "throughput.png",
    }
    assert (folder / "throughput.png").read_bytes().startswith(PNG)
    rows = list(csv.DictReader(io.StringIO((folder / "rows.csv").read_text())))
    assert len(rows) == len(summary["rows"])
    assert summary["parts"] == list(PARTS)
    measured = {row["part"].partition("-")[0].replace("sweep", "sweeps") for row in rows}
    assert measured | {"threads"} == set(PARTS)
    for row in rows:
        assert 0 < float(row["low"]) <= float(row["value"]) <= float(row["high"])
    bytes_of_state = [row for row in rows if row["unit"] == "bytes of state"]
    assert {row["name"] for row in bytes_of_state} == {DECODE, KERNELS, SERVING}


@pytest.mark.slow
def test_named_ratios_are_those_of_their_rows(finished):
    _, _, summary = finished
    ratios = summary["ratios"]

    def ratio(**wanted):
        (row,) = [r for r in summary["rows"] if all(r[key] == value for key, value in wanted.items())]
        return row["ratio"]

    assert ratios["ratio_decode_single"]["value"] == ratio(part="single", name=DECODE)
    batch = {"part": "batch", "unit": "steps/s"}
    for name, wanted in {
        "ratio_decode_batch": {"name": DECODE, "tlp": 1, "envs": 16, "variant": "copying"},
        "ratio_decode_batch_tlp4_view": {"name": DECODE, "tlp": 4, "envs": 16, "variant": "copy=False"},
        "ratio_decode_batch_full": {"name": DECODE, "envs": 16, "variant": "all decode, copying"},
        "ratio_kernels_batch": {"name": KERNELS, "envs": 16, "variant": "copying"},
        "ratio_serving_v0_batch": {"name": SERVING, "envs": 4, "variant": "full machine, copying"},
        "ratio_serving_batch": {"name": SERVING_V1, "envs": 4, "variant": "full machine, copying"},
    }.items():
        assert ratios[name]["value"] == ratio(**batch, **wanted)
    assert ratios["ratio_ppo_same"]["value"] == ratio(
        part="ppo", name=ADAPTER, variant="tuned", unit="steps/s"
    )
    assert 0 < ratios["share_env"]["value"] < 1


def test_some_parts_alone_and_again_in_the_same_folder(tmp_path):
    for _ in range(2):
        status, out, _ = command("--quick", "--only", "grid", "--out", tmp_path / "run")
        assert status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {row["part"] for row in summary["rows"]} == {"grid"}
    assert summary["ratios"]["share_env"]["note"] == "part 'ppo' not run"
    assert "share_env: part 'ppo' not run" in out
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]) == 2


def test_what_cannot_be_used_is_refused(tmp_path):
    status, _, err = command("--only", "sweep", "--out", tmp_path / "run")
    assert status == 2
    assert "Unknown part 'sweep'. Did you mean 'sweeps'?" in err
    assert not (tmp_path / "run").exists()
    status, _, err = command("--quick", "--only", "grid", "--out", tmp_path / "run")
    assert status == 0
    status, _, err = command("--quick", "--only", "single", "--out", tmp_path / "run")
    assert status == 2
    assert "another configuration" in err


def test_the_picture_says_what_was_not_measured():
    assert throughput_figure(summarise(Findings(), (), False, None)).startswith(PNG)


def test_measuring_environments_needs_neither_torch_nor_matplotlib():
    code = "import sys, experiments.throughput; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_long_calls_are_timed_without_what_makes_ready_for_them():
    order = []

    def prepared(name, steps):
        def call():
            order.append(name)
            return steps

        return Prepared(name, lambda: order.append(f"ready {name}"), call)

    rates = measure_prepared([prepared("a", 10), prepared("b", 20)], 2)
    assert order == [
        "ready b",
        "b",
        "ready a",
        "a",
        *("ready a", "a", "ready b", "b"),
        "ready b",
        "b",
        "ready a",
        "a",
    ]
    assert (rates["a"].steps_per_s > 0).all()
    assert rates["b"].steps_per_s.shape == (2,)
