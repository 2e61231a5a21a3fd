"""Training from its command line: what is written, that resuming changes nothing, and refusals."""

import json
import os
import shlex
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.evaluate import evaluate
from agents.learned.checkpoint import load_checkpoint
from agents.learned.policy import load_policy, problems_of
from agents.registry import make_policy
from experiments import compare
from experiments.arena.settings import scenario_settings
from experiments.reporting.registry import sections_of
from experiments.splitting.definition import TRAINING_SEED, VALIDATION_SEED
from experiments.training.algorithms import ALGORITHMS, build_model, flattens
from experiments.training.callbacks import CURVES, Boundary
from experiments.training.evaluation import Validator
from experiments.training.hyperparameter_files import FOLDER, load_hyperparameters
from experiments.training.hyperparameters import KINDS, Imitation, Linear
from experiments.training.options import Config, as_words, read_command
from experiments.training.record import BEST, EVALUATIONS, LAST, STATE
from experiments.training.session import KINDS_IN_PHASES
from experiments.training.settings import training_envs
from experiments.training.state import load_state, save_state
from experiments.training.trials import BEST_BLOCK, finished, open_study
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.registration import DECODE, ENV_IDS, KERNELS, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, DataError
from papi_env.sb3 import BatchVecEnv
from papi_env.simulation.batch import state as at
from tests.experiments.training.runs import (
    HYPER,
    assert_the_same_run,
    command,
    evaluations,
    options,
    stopping_at,
    tensors,
)

pytestmark = pytest.mark.usefixtures("threads_as_before")

# Those that have tuned hyper-parameters.
TUNED_IDS = (DECODE, KERNELS, SERVING)
SERVED = """
system = "papi"
model = "opt-30b"
[serving]
arrivals = { process = "together" }
lengths = { table = "dolly-general-qa" }
objectives = { ttft_s = 10.0, tpot_s = 1.0 }
requests = 4
max_running = 4
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    arguments = [a for a in options("maskable-ppo") if a != "--no-tensorboard"]
    status, out, err = command(*arguments, "--out", folder)
    assert status == 0, err
    return folder, out, err


def test_a_report_shows_every_validation(trained):
    found = {part.title: part for part in sections_of([trained[0]])[0].parts}
    assert len(found["Validations"].rows) == len(evaluations(trained[0]))
    assert found["Learning curve: return"].figure["data"][0]["x"] == [
        row[0] for row in found["Validations"].rows
    ]


def test_the_folder_holds_what_ran_and_what_came_out(trained):
    folder, out, err = trained
    assert {path.name for path in folder.iterdir()} >= {
        "run.json",
        BEST,
        LAST,
        STATE,
        EVALUATIONS,
        "tensorboard",
    }
    # What improves is what TensorBoard shows first: it sorts by name.
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    first, second, *_ = sorted(events.Tags()["scalars"])
    assert (first, second) == (f"{CURVES}/regret_percent", f"{CURVES}/return")
    shown = [event.value for event in events.Scalars(first)]
    assert shown == pytest.approx([100 * float(row["regret"]) for row in evaluations(folder)], abs=1e-5)
    record = json.loads((folder / "run.json").read_text())
    assert record["configuration"]["hyperparameters"]["n_steps"] == 16
    assert [s["workload"]["batch_size"] for s in record["configuration"]["settings"]] == [2, 3]
    (session,) = record["sessions"]
    assert session["status"] == "finished"
    assert session["command"].startswith("python -m experiments.train --algorithm maskable-ppo")
    assert {"torch", "stable-baselines3", "sb3-contrib", "numpy"} <= session["versions"].keys()
    assert session["steps"] == 640
    assert session["processor_s"] > 0
    rows = evaluations(folder)
    # A boundary every 64 steps; a validation at the first one from every 160 on.
    assert [int(row["steps"]) for row in rows] == [0, 192, 320, 512, 640]
    assert all(float(row["regret"]) >= -1e-9 for row in rows), "no policy beats the oracle"
    simulated = [float(row["simulated_s"]) for row in rows]
    assert simulated == sorted(simulated)
    assert simulated[-1] > 0
    assert "best" in out
    assert "640 steps: return" in err


def test_the_checkpoints_say_what_they_are_and_play(trained):
    folder, _, _ = trained
    rows = evaluations(folder)
    best = max(rows, key=lambda row: float(row["score"]))
    for name, row in ((BEST, best), (LAST, rows[-1])):
        description = load_checkpoint(folder / name).description
        assert (description.algorithm, description.env, description.masked) == ("MaskablePPO", KERNELS, True)
        assert [s["workload"]["batch_size"] for s in description.scenarios] == [2, 3]
        assert description.training["validation"]["steps"] == int(row["steps"])
        assert shlex.split(description.training["command"])[-5:] == HYPER["maskable-ppo"]
        # What is in the file earns what the validation says, on the same instances.
        (setting, _) = scenario_settings(KERNELS, batch_sizes=(2, 3), speculation=(8,))
        found = Validator(KERNELS, [setting], 2)(load_checkpoint(folder / name)).returns[0]
        assert found == float(next(v for k, v in row.items() if k.startswith("return: ")))


def test_compare_plays_the_folder(trained, tmp_path):
    folder, _, _ = trained
    arguments = [
        "--env",
        KERNELS,
        "--scenario",
        "creative-writing/llama-65b",
        "--batch-sizes",
        "2",
        "--seeds",
        "2",
    ]
    entry = f"papi/{folder / BEST}"
    arguments += ["--speculation", "8", "--jobs", "1", "--entries", "papi/threshold", entry]
    status, _, err = command(*arguments, "--out", tmp_path / "compare", run=compare.main)
    assert status == 0, err
    summary = json.loads((tmp_path / "compare" / "summary.json").read_text())
    assert entry in json.dumps(summary["entries"])
    # The folder of a training stands for the best policy in it.
    status, _, err = command(*arguments[:-1], f"papi/{folder}", "--out", tmp_path / "run", run=compare.main)
    assert status == 0, err
    whole = json.loads((tmp_path / "run" / "summary.json").read_text())
    figures = [{row["entry"]: row["speedup"] for row in found["entries"]} for found in (summary, whole)]
    assert figures[0][entry] == figures[1][f"papi/{folder}"]


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(name, marks=[] if name in ("maskable-ppo", "dqn") else [pytest.mark.slow])
        for name in ALGORITHMS
    ],
)
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path, monkeypatch, algorithm):
    assert command(*options(algorithm), "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        status, _, err = command(*options(algorithm), "--out", tmp_path / "parts")
    assert status == 130, err
    assert f"--resume {tmp_path / 'parts'} goes on" in err
    assert len(evaluations(tmp_path / "parts")) == 2
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["sessions"][-1]["status"] == "interrupted"
    # And a crash, in the middle of what comes next.
    with monkeypatch.context() as patch:
        patch.setattr(Boundary, "_on_step", lambda self: exec("raise MemoryError"))
        with pytest.raises(MemoryError):
            command("--resume", tmp_path / "parts")
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")
    # There is nothing more to do.
    before = tensors(tmp_path / "parts")
    assert command("--resume", tmp_path / "parts")[0] == 0
    assert evaluations(tmp_path / "whole") == evaluations(tmp_path / "parts")
    for name, array in tensors(tmp_path / "parts").items():
        np.testing.assert_array_equal(array, before[name])


def test_a_run_goes_on_as_it_began_where_the_defaults_are_others_by_now(tmp_path, monkeypatch):
    """A new version of the project tunes them anew; what somebody has begun under an old one is not lost."""
    assert command(*options("ppo", DECODE), "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stopping_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert command(*options("ppo", DECODE), "--out", tmp_path / "parts")[0] == 130
    text = (FOLDER / "ppo.toml").read_text()
    assert "clip_range = 0.2" in text
    (tmp_path / "ppo.toml").write_text(text.replace("clip_range = 0.2", "clip_range = 0.3"))
    monkeypatch.setattr("experiments.training.hyperparameter_files.FOLDER", tmp_path)
    status, _, err = command("--resume", tmp_path / "parts")
    assert status == 0, err
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")
    # To ask for the same once more is to ask for others.
    status, _, err = command(*options("ppo", DECODE), "--out", tmp_path / "parts")
    assert status == 2
    assert "hyperparameters.clip_range: 0.2 there, 0.3 asked" in err


@pytest.mark.parametrize("values", [7, [], {"gamma": 2}])
def test_hyperparameters_on_record_that_are_none_are_refused(tmp_path, values):
    assert command(*options("ppo", DECODE), "--out", tmp_path / "run")[0] == 0
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["configuration"]["hyperparameters"] = values
    path.write_text(json.dumps(record))
    status, _, err = command("--resume", tmp_path / "run")
    assert status == 2
    assert "hyperparameters" in err
    assert err.startswith("error:")
    assert err.count("\n") == 1


def test_a_run_killed_at_any_time_goes_on_from_its_last_validation(tmp_path, monkeypatch):
    assert command(*options("ppo", DECODE), "--out", tmp_path / "whole")[0] == 0

    def crash():
        raise MemoryError

    with monkeypatch.context() as patch:
        stopping_at(patch, 4, crash)
        with pytest.raises(MemoryError):
            command(*options("ppo", DECODE), "--out", tmp_path / "parts")
    # As if the machine had stopped while a checkpoint was replaced.
    (tmp_path / "parts" / LAST).rename(tmp_path / "parts" / f".{LAST}.old")
    # Repeating the command is as good as --resume.
    assert command(*options("ppo", DECODE), "--out", tmp_path / "parts")[0] == 0
    assert_the_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("env_id", TUNED_IDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_on_every_environment(tmp_path, algorithm, env_id):
    scenario, start = [], []
    if env_id == SERVING:
        (tmp_path / "served.toml").write_text(SERVED)
        scenario = ["--scenarios", tmp_path / "served.toml"]
        if algorithm in ("ppo", "maskable-ppo", "a2c"):
            start = ["imitation={rounds=1,episodes=1,stride=4,updates=5,batch_size=32}", "critic_first=64"]
    status, _, err = command(
        *("--algorithm", algorithm, "--env", env_id, *scenario, "--timesteps", "128", "--no-tensorboard"),
        *("--validations", "1", "--episodes", "1", "--hyper", *HYPER[algorithm], *start),
        *("--out", tmp_path / "run"),
    )
    assert status == 0, err
    load_checkpoint(tmp_path / "run" / LAST)


def test_ppo_comes_within_half_a_percent_of_the_oracle(tmp_path):
    """The anchor: on Decode-v0 learning can match a calibrated threshold; on seeds that it never met.

    It does so between 40,000 and 110,000 steps, by seed and version of torch; after 200,000 ten trainings (seeds 0
    to 4, torch 2.6 and 2.13) were 0.004 to 0.26 % from the oracle.
    """
    status, _, err = command(
        "--timesteps", "200000", "--validations", "2", "--no-tensorboard", "--out", tmp_path / "run"
    )
    assert status == 0, err
    env = DecodeVectorEnv(num_envs=8, autoreset_mode=AutoresetMode.DISABLED)
    found = evaluate(load_policy(tmp_path / "run" / LAST), env, range(8))["return"].mean()
    oracle = evaluate(make_policy("oracle"), env, range(8))["return"].mean()
    assert oracle * 1.005 <= found <= oracle * (1 - 1e-9)


def test_numbers_that_are_not_finite_stop_the_run_and_keep_what_was_good(tmp_path):
    broken = [*options("ppo", DECODE), "learning_rate=1e30", "max_grad_norm=1e30"]
    status, _, err = command(*broken, "--out", tmp_path / "run")
    assert status == 2
    assert "Training diverged: the weights" in err
    assert "holds step 0" in err
    for name in (BEST, LAST):
        load_checkpoint(tmp_path / "run" / name)  # refuses numbers that are not finite
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["sessions"][-1]["status"].startswith("failed: Training diverged")


def test_a_reward_that_is_not_finite_is_noticed_where_it_appears(tmp_path, monkeypatch):
    step = BatchVecEnv.step_wait

    def poisoned(self):
        observations, rewards, dones, infos = step(self)
        rewards[0] = np.nan
        return observations, rewards, dones, infos

    monkeypatch.setattr(BatchVecEnv, "step_wait", poisoned)
    status, _, err = command(*options("ppo", DECODE), "--out", tmp_path / "run")
    assert status == 2
    assert "a reward or an observation ceased to be finite by step 4" in err


def test_what_environments_refuse_in_their_first_reset_is_one_message(tmp_path, monkeypatch):
    def refuses(self):
        raise ConfigurationError("no horizon here")

    monkeypatch.setattr(BatchVecEnv, "reset", refuses)
    status, _, err = command(*options("ppo", DECODE), "--out", tmp_path / "run")
    assert status == 2
    assert "error: no horizon here" in err


def test_training_meets_no_instance_of_validation_or_comparison(tmp_path, monkeypatch):
    seeds = {}
    for run in (0, 1):
        status, _, err = command(*options("ppo", DECODE, 64), "--seed", run, "--out", tmp_path / str(run))
        assert status == 0, err
        state = load_file(tmp_path / str(run) / STATE)
        seeds[run] = {
            int(s) for part in (0, 1) for s in state[f"env.{part}.engine.state.counters"][:, at.SEED]
        }
        assert len(seeds[run]) == 4
        assert min(seeds[run]) >= TRAINING_SEED > VALIDATION_SEED + 65536
    assert not seeds[0] & seeds[1]
    assert VALIDATION_SEED > 2**32, "far from what compare counts from 0"


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_files_of_hyperparameters_are_valid_on_every_environment(algorithm):
    path = FOLDER / f"{algorithm}.toml"
    blocks = tomllib.loads(path.read_text())
    # Those of a network that sees requests are for Serving-v1 alone: their defaults.
    tuned = () if algorithm in KINDS_IN_PHASES else (*TUNED_IDS, SERVING_V1)
    assert set(blocks) == {"default", *tuned}
    for env_id in tuned:
        found = load_hyperparameters(algorithm, env_id)
        for name, value in {**blocks["default"], **blocks[env_id]}.items():
            kept = getattr(found, name)
            assert (
                kept.model_dump(exclude_unset=True) if isinstance(kept, (Linear, Imitation)) else kept
            ) == (tuple(value) if isinstance(value, list) else value)
    assert {p.stem for p in FOLDER.iterdir()} == set(KINDS) == {*ALGORITHMS, *KINDS_IN_PHASES}


def test_a_replaced_value_is_no_longer_tuned():
    assert load_hyperparameters("ppo", DECODE).tuned
    assert load_hyperparameters("ppo", DECODE, ["gamma=0.0"]).tuned, "the same value"
    assert not load_hyperparameters("ppo", DECODE, ["gamma=0.5"]).tuned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hyper", "gama=0.9"], "did you mean 'gamma'"),
        (["--hyper", "gamma=2"], "gamma: found 2"),
        (["--hyper", "gamma"], "expected NAME=VALUE"),
        (["--hyper", "batch_size=1000"], "expected a divisor of n_envs x n_steps = 12288"),
        (["--hyper", "n_envs=1", "batch_size=96", "--batch-sizes", "2", "4"], "1 environments for 2 scenarios"),
        (["--algorithm", "dqn", "--hyper", "target_update_interval=1"], "expected at least n_envs"),
        (["--scenarios", "creative-writing/lama-65b"], "Did you mean 'creative-writing/llama-65b'"),
        (["--systems", "papy"], "Did you mean 'papi'"),
        (["--models", "lama"], "Unknown model 'lama'"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--resume", "runs/none", "--seed", "1"], "found --seed 1"),
        (["--resume", "runs/none"], "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_a_line(tmp_path, arguments, message):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    status, _, err = command(*arguments, *out)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_files_of_hyperparameters_are_checked(tmp_path):
    path = tmp_path / "mine.toml"
    for text, message in (
        ("[papi_env]\n", "Unknown block"),
        ("gamma = 1\n", "Unknown block 'gamma'"),
        ("[default\n", "not a TOML file"),
        ("[default]\ngamma = 0.5\n", "n_envs: .*Field required"),
    ):
        path.write_text(text)
        with pytest.raises((ConfigurationError, DataError), match=message):
            load_hyperparameters("ppo", DECODE, path=path)
    with pytest.raises(DataError, match="cannot be read"):
        load_hyperparameters("ppo", DECODE, path=tmp_path / "none.toml")


def model_of(hyper=(), batch_size=2):
    parameters = load_hyperparameters("ppo", DECODE, [*HYPER["ppo"], *hyper])
    envs = training_envs(DECODE, scenario_settings(DECODE, batch_sizes=(batch_size,)), 4, False)
    model = build_model("ppo", parameters, envs, 0)
    model.learn(64)
    return model


def test_a_state_that_is_damaged_or_of_another_run_is_refused(tmp_path):
    path = tmp_path / STATE
    save_state(path, model_of(), {"rows": []})
    assert load_state(path, model_of()) == {"rows": []}
    with pytest.raises(DataError, match="the state of another configuration"):
        load_state(path, model_of(["net_arch=[9]"]))
    # Slots come by the sixteen.
    with pytest.raises(DataError, match=r"env\.0\.engine\.slots is int32 .*, expected int32 "):
        load_state(path, model_of(batch_size=17))
    whole = path.read_bytes()
    # A bit of a number, of a name and of plain data.
    for at_ in (len(whole) - 1, len(whole) // 2, whole.index(b"learning_rates"), whole.index(b'"sha256')):
        path.write_bytes(whole[:at_] + bytes([whole[at_] ^ 1]) + whole[at_ + 1 :])
        with pytest.raises(DataError, match=r"changed since it was written|not a training state"):
            load_state(path, model_of())
    path.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a training state, or cut off"):
        load_state(path, model_of())
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="not a training state"):
        load_state(path, model_of())


def test_a_variance_of_what_was_earned_is_not_below_0(tmp_path):
    model = model_of()
    model.get_vec_normalize_env().ret_rms.var = -1.0
    save_state(tmp_path / STATE, model, {"rows": []})
    with pytest.raises(DataError, match=r"normalize\.running holds a variance or a count below 0"):
        load_state(tmp_path / STATE, model)


@pytest.mark.parametrize("number", [1e308, -np.inf, np.nan])
def test_what_was_earned_is_of_a_size_that_trainings_come_to(tmp_path, number):
    model = model_of()
    normalized = model.get_vec_normalize_env()
    for name, where, field, wrong in (
        ("returns", normalized, "returns", np.full_like(normalized.returns, number)),
        ("running", normalized.ret_rms, "mean", number),
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(where, field, wrong)
            save_state(tmp_path / STATE, model, {"rows": []})
        said = rf"normalize\.{name} holds numbers that are not finite, or beyond 1e"
        with pytest.raises(DataError, match=said):
            load_state(tmp_path / STATE, model)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (at.RLP, 10**9),
        (at.TLP, 9),
        (at.RLP, -1),
        (at.LAST_FC, 7),
        (at.LAST_UNIT + at.ATTENTION, 10**9),
        (at.STAGE, 10**9),
    ],
)
def test_a_state_made_up_on_purpose_leads_out_of_no_array(tmp_path, column, value):
    model = model_of()
    counters = problems_of(model.get_env())[0].engine.counters
    kept, counters[1, column] = counters[1, column], value
    save_state(tmp_path / STATE, model, {"rows": []})
    counters[1, column] = kept
    with pytest.raises(DataError, match=rf"counters: column {column} holds numbers outside"):
        load_state(tmp_path / STATE, model)


def test_a_state_holds_no_tables_so_that_a_run_goes_on_with_those_of_today(tmp_path):
    path = tmp_path / STATE
    model = model_of()
    save_state(path, model, {"rows": []})
    names = set(load_file(path))
    assert any(name.startswith("env.0.engine.") for name in names)
    engine = problems_of(model.get_env())[0].engine
    for name in engine.shared:
        assert not [found for found in names if f".engine.{name}" in found]
    twin = model_of()
    lookups = problems_of(twin.get_env())[0].engine._lookups
    before = [np.array(array) for array in lookups]
    load_state(path, twin)
    for array, old in zip(lookups, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_a_recorded_command_is_read_in_any_versions_spelling():
    config = Config(split=True, traces=(Path("a.csv"), Path("b.csv")), seed=3)
    assert as_words(config) == ["--split", "--trace", "a.csv", "b.csv", "--seed", "3"]
    for option in ("--trace", "--traces"):
        assert read_command(f"python -m experiments.train --split {option} a.csv b.csv --seed 3") == config


def test_options_of_earlier_versions_still_work(tmp_path):
    status, _, err = command("--traces", "none.csv", "--out", tmp_path / "run")
    assert (status, "--trace belongs to --split" in err) == (2, True)


def test_the_command_line_knows_every_id_and_algorithm():
    assert Config.env in ENV_IDS
    for name in ALGORITHMS:
        Config(algorithm=name)
        assert flattens(name, load_hyperparameters(name, KERNELS)) == (name in ("dqn", "qr-dqn"))


def test_a_study_goes_on_until_it_has_its_trials(tmp_path, monkeypatch):
    arguments = [*options("ppo", DECODE, 128), "--tune", "3", "--out", tmp_path / "study"]
    with monkeypatch.context() as patch:
        # The first trial validates at 0, 64 and 128 steps.
        stopping_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        status, _, err = command(*arguments)
        assert status == 130, err
    status, _, err = command("--resume", tmp_path / "study")
    assert status == 0, err
    study = open_study(tmp_path / "study" / "study.log", f"ppo on {DECODE}", 0)
    assert len(finished(study)) == 3
    trials = len(study.trials)
    assert command(*arguments)[0] == 0
    assert len(open_study(tmp_path / "study" / "study.log", f"ppo on {DECODE}", 0).trials) == trials
    block = tmp_path / "study" / BEST_BLOCK
    found = load_hyperparameters("ppo", DECODE, path=block)
    assert found.tuned.startswith("python -m experiments.train --batch-sizes 2 3 --speculation 8")
    assert found.gamma == study.best_trial.params["gamma"]
    assert f"return {study.best_trial.value:.6g}" in found.tuned
