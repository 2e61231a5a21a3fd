"""Policies that come with the project: shipped whole, recorded as trained, and checked by training anew."""

import json
import shlex
import shutil
from statistics import mean, stdev

import pytest

from agents.learned.checkpoint import DESCRIPTION, WEIGHTS, load_checkpoint
from experiments import train
from experiments.common.statistics import student_quantile
from experiments.pretrained import main
from experiments.training.curves.data import read_curve
from experiments.training.evaluation import Validator
from experiments.training.options import Config
from experiments.training.plan import resolve
from experiments.training.pretrained.record import RECORD, check_files, prediction_interval, read_record
from experiments.training.pretrained.runs import check_unchanged
from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, DataError
from tests.experiments.commands import called

pytestmark = pytest.mark.usefixtures("threads_as_before")

DECODE = ENV_IDS[0]
# Long enough that runs of different seeds earn differently.
TRAINING = [
    *("--batch-sizes", "128", "--speculation", "8", "--episodes", "2", "--validations", "2"),
    *("--timesteps", "1024", "--hyper", "n_envs=4", "n_steps=64", "batch_size=64", "net_arch=[8]"),
    *("learning_rate=0.01", "--no-tensorboard"),
]
SEEDS = (3, 4, 5)


def command(*arguments, run=main):
    return called(run, *arguments)


def trained(folder, seed):
    status, _, err = command(*TRAINING, "--seed", seed, "--out", folder, run=train.main)
    assert status == 0, err
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [trained(folder / f"run-{seed}", seed=seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def shipped_once(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "pretrained"
    status, out, err = command("--ship", *runs, "--folder", folder)
    assert status == 0, err
    assert "ppo" in out
    return folder


@pytest.fixture
def shipped(shipped_once, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(shipped_once, tmp_path / "pretrained")


def scores_of(runs):
    return [float(read_curve(run)[1].returns.max()) for run in runs]


def recorded_as(run, folder, change):
    """A copy of a run with another run.json."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def asked(record):
    return record["configuration"]["asked"]


def edited(folder, change):
    """Change the entry of Decode-v0 in training.json."""
    path = folder / RECORD
    document = json.loads(path.read_text())
    change(document["problems"][DECODE])
    path.write_text(json.dumps(document))


def moved(folder, by):
    """As if all recorded runs had earned so much more."""

    def change(entry):
        for run in entry["runs"]:
            run["score"] += by
        scores = [run["score"] for run in entry["runs"]]
        entry["mean"], entry["interval"] = mean(scores), list(prediction_interval(scores))

    edited(folder, change)


# --- the interval -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227)]
)
def test_students_quantile_is_the_tables(freedom, quantile):
    assert student_quantile(freedom, 0.95) == pytest.approx(quantile, rel=0.008 if freedom == 3 else 2e-4)


def test_the_interval_is_that_of_one_more_run():
    scores = [-10.0, -11.0, -9.5, -10.5, -9.0]
    low, high = prediction_interval(scores)
    assert (low + high) / 2 == pytest.approx(-10)
    assert (high - low) / 2 == pytest.approx(2.776 * stdev(scores) * (1 + 1 / 5) ** 0.5, rel=3e-3)
    # Where all runs agree, rounding must not leave them outside.
    assert prediction_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)


# --- shipping ---------------------------------------------------------------------------------------


def test_the_best_run_is_shipped_and_all_are_recorded(runs, shipped):
    scores = scores_of(runs)
    assert len(set(scores)) == len(scores), "runs that cannot be told apart would test nothing"
    best = max(range(len(runs)), key=scores.__getitem__)
    assert {path.name for path in shipped.iterdir()} == {"decode-v0", RECORD}
    assert {path.name for path in (shipped / "decode-v0").iterdir()} == {DESCRIPTION, WEIGHTS}
    ours, theirs = load_checkpoint(shipped / "decode-v0"), load_checkpoint(runs[best] / "best")
    assert ours.description == theirs.description
    assert (shipped / "decode-v0" / WEIGHTS).read_bytes() == (runs[best] / "best" / WEIGHTS).read_bytes()
    entry = read_record(shipped).problems[DECODE]
    assert [(run.seed, run.score) for run in entry.runs] == list(zip(SEEDS, scores, strict=True))
    assert (entry.shipped_seed, entry.shipped_score) == (SEEDS[best], scores[best])
    assert entry.mean == mean(scores)
    assert entry.interval == prediction_interval(scores)
    # Every option but the seed, in the order of `experiments.train`.
    words = shlex.split(entry.command)
    assert words[:3] == ["python", "-m", "experiments.train"]
    assert sorted(words[3:]) == sorted(TRAINING)
    assert entry.splits == {}


def test_the_table_says_how_to_train_the_shipped_policies_anew(shipped):
    status, out, err = command("--folder", shipped)
    assert status == 0, err
    entry = read_record(shipped).problems[DECODE]
    assert f"{DECODE}: {entry.command} --seed {entry.shipped_seed}\n" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("Decode-v0"))
    size = sum(path.stat().st_size for path in (shipped / "decode-v0").iterdir())
    low, high = entry.interval
    assert row == ["Decode-v0", "ppo", f"{size:,}", "3", f"{entry.mean:.6g}", f"[{low:.6g},", f"{high:.6g}]",
                   str(entry.shipped_seed), f"{entry.shipped_score:.6g}"]  # fmt: skip
    assert "papi_env/Serving-v0: no policy" in out


def test_shipping_again_replaces_and_keeps_what_others_recorded(runs, shipped):
    other = ENV_IDS[1]
    document = json.loads((shipped / RECORD).read_text())
    document["problems"][other] = document["problems"][DECODE]
    (shipped / RECORD).write_text(json.dumps(document))
    status, printed, _ = command("--ship", *runs[:2], "--folder", shipped)
    assert status == 0
    assert "no policy comes" not in printed, "of others nothing is said"
    problems = read_record(shipped).problems
    assert [len(problems[env_id].runs) for env_id in (DECODE, other)] == [2, 3]


def test_runs_that_are_not_alike_are_refused_and_change_nothing(runs, shipped, tmp_path):
    before = (shipped / RECORD).read_bytes()
    longer = recorded_as(runs[1], tmp_path / "longer", lambda record: asked(record).update(episodes=3))
    unfinished = recorded_as(
        runs[1], tmp_path / "unfinished", lambda record: record["sessions"][-1].update(status="interrupted")
    )
    other = shutil.copytree(runs[1], tmp_path / "other")
    shutil.rmtree(other / "best")
    shutil.copytree(runs[0] / "best", other / "best")
    for folders, message in (
        ([runs[0]], "found 1 run, expected at least 2"),
        ([runs[0], longer], f"{longer}: trained by another command than {runs[0]}"),
        ([runs[0], longer], "asked.episodes: 2 there, 3 here"),
        ([runs[0], runs[0]], "both have seed 3"),
        ([runs[0], unfinished], "not finished (interrupted)"),
        ([runs[0], other], "its validation score is"),
        ([runs[0], tmp_path / "none"], "expected the folder of a training run"),
        ([runs[0], runs[1] / "best"], f"did you mean {runs[1]}"),
    ):
        status, _, err = command("--ship", *folders, "--folder", shipped)
        assert status == 2, message
        assert message in err
        assert err.count("\n") == 1
    assert (shipped / RECORD).read_bytes() == before
    assert command("--folder", shipped)[0] == 0


# --- checking ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked(shipped_once, tmp_path_factory):
    """The run folder of a check, and what the command answered."""
    out = tmp_path_factory.mktemp("checked") / "new"
    return out, command("--check", DECODE, "--folder", shipped_once, "--out", out)


def test_a_check_trains_one_more_run_and_says_where_it_lies(shipped, checked):
    folder, (status, out, err) = checked
    low, high = read_record(shipped).problems[DECODE].interval
    assert asked(json.loads((folder / "run.json").read_text()))["seed"] == 1000
    (score,) = scores_of([folder])
    assert status == 0, err
    assert low <= score <= high
    assert f"{score:.6g} lies in [{low:.6g}, {high:.6g}]" in out
    # The finished run again, with records that it does not come up to, and that it beats.
    for by, word in ((1000.0, "below"), (-2000.0, "above")):
        moved(shipped, by)
        status, out, err = command("--check", DECODE, "--folder", shipped, "--out", folder)
        assert status == 1, err
        assert f"{score:.6g} lies {word} [" in out


def test_an_interrupted_check_goes_on_as_if_it_had_not_been(shipped, checked, tmp_path, monkeypatch):
    whole, (_, whole_out, _) = checked
    arguments = ("--check", DECODE, "--folder", shipped, "--out", tmp_path / "parts")
    validate, calls = Validator.__call__, []

    def interrupted(self, checkpoint):
        calls.append(checkpoint)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Validator, "__call__", interrupted)
        status, out, err = command(*arguments)
    assert (status, out) == (130, "")
    assert f"the same command with --out {tmp_path / 'parts'} goes on" in err
    assert command(*arguments)[:2] == (0, whole_out)
    assert len(json.loads((tmp_path / "parts" / "run.json").read_text())["sessions"]) == 2
    assert (tmp_path / "parts/best" / WEIGHTS).read_bytes() == (whole / "best" / WEIGHTS).read_bytes()


def test_a_check_refuses_what_would_not_compare(shipped, tmp_path):
    def refused(message, *more):
        out = tmp_path / "new"
        status, _, err = command("--check", DECODE, "--folder", shipped, "--out", out, *more)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1
        assert not out.exists()

    refused("--seed is 4, expected another than those recorded: [3, 4, 5]", "--seed", 4)
    edited(shipped, lambda entry: entry["splits"].update(validation="0123"))
    refused("the validation split is None, expected 0123")
    edited(shipped, lambda entry: entry["splits"].clear())
    edited(shipped, lambda entry: entry["hyperparameters"].update(gamma=0.125))
    refused("gamma: 0.125 there, ")
    edited(shipped, lambda entry: entry["hyperparameters"].update(gama=0.125))
    refused("gama: not a known field; did you mean 'gamma'?")


def test_a_split_that_changed_is_noticed(shipped):
    """What a command with --split resolves to has the hashes of today."""
    entry = read_record(shipped).problems[DECODE]
    config = Config(split=True)
    now = resolve(config)
    assert now.splits.keys() == {"train", "validation"}
    recorded = entry.model_copy(
        update={"splits": dict(now.splits), "hyperparameters": now.parameters.model_dump()}
    )
    check_unchanged(DECODE, recorded, now)
    for name in now.splits:
        other = recorded.model_copy(update={"splits": {**now.splits, name: "0123"}})
        with pytest.raises(ConfigurationError, match=f"the {name} split is .*, expected 0123"):
            check_unchanged(DECODE, other, now)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python -m experiments.compare", "expected python -m experiments.train with options"),
        ("python -m experiments.train --nonsense 3", "expected options of experiments.train alone"),
        ("python -m experiments.train 'half", "expected words as of a shell"),
        ("python -m experiments.train --env papi_env/Kernels-v0", "expected --env papi_env/Decode-v0"),
        ("python -m experiments.train --algorithm a2c", "and --algorithm ppo"),
        ("python -m experiments.train --out somewhere", "expected no --seed, --out"),
        ("python -m experiments.train --seed 7", "expected no --seed, --out"),
    ],
)
def test_a_recorded_command_is_only_ever_a_training(shipped, tmp_path, text, message):
    edited(shipped, lambda entry: entry.update(command=text))
    status, _, err = command("--check", DECODE, "--folder", shipped, "--out", tmp_path / "new")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


# --- what cannot be used ----------------------------------------------------------------------------


def _cut(folder):
    (folder / RECORD).write_bytes((folder / RECORD).read_bytes()[:-20])


def _unknown_problem(folder):
    text = (folder / RECORD).read_text()
    (folder / RECORD).write_text(text.replace(DECODE, "papi_env/Decode-v1"))


def _other_weights(folder):
    edited(folder, lambda entry: entry.update(weights_sha256="0" * 64))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / RECORD).unlink(), "is not there, expected what"),
        (_cut, "not JSON, or cut off"),
        (lambda folder: (folder / RECORD).write_text("[]"), "expected fields by name"),
        (_unknown_problem, "Unknown problem 'papi_env/Decode-v1'. Did you mean 'papi_env/Decode-v0'?"),
        (_other_weights, "not the policy that training.json records"),
        (lambda folder: shutil.rmtree(folder / "decode-v0"), "is no folder"),
        (lambda folder: (folder / "decode-v0" / WEIGHTS).write_bytes(b"none"), "cut off or damaged"),
        (lambda folder: edited(folder, lambda e: e.update(shipped_seed=9)), "shipped seed 9 is none"),
        (lambda folder: edited(folder, lambda e: e.update(runs=e["runs"][:1])), "at least 2 items"),
        (lambda folder: edited(folder, lambda e: e["interval"].reverse()), "mean and interval are"),
        (lambda folder: edited(folder, lambda e: e["runs"][0].update(score=9.0)), "not the best run's"),
        (lambda folder: edited(folder, lambda e: e["runs"][1].update(seed=3)), "one seed"),
        (lambda folder: edited(folder, lambda e: e.update(comand="x")), "did you mean 'command'"),
    ],
)
def test_files_that_do_not_fit_are_answered_in_a_line(shipped, damage, message):
    damage(shipped)
    for more in ([], ["--check", DECODE]):
        status, out, err = command(*more, "--folder", shipped)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "papi_env/Decode-v2"], "Did you mean 'papi_env/Decode-v0'"),
        (["--check", ENV_IDS[2]], "records no training of papi_env/Serving-v0"),
        (["--seed", "4"], "--seed and --out belong to --check"),
        (["--check", DECODE, "--ship", "runs"], "exclude each other"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(shipped, arguments, message):
    status, out, err = command(*arguments, "--folder", shipped)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_policy_of_another_problem_is_noticed(shipped):
    document = json.loads((shipped / RECORD).read_text())
    document["problems"] = {ENV_IDS[1]: document["problems"][DECODE]}
    (shipped / RECORD).write_text(json.dumps(document))
    (shipped / "decode-v0").rename(shipped / "kernels-v0")
    with pytest.raises(
        DataError, match="holds a policy of papi_env/Decode-v0, expected one of papi_env/Kernels"
    ):
        check_files(shipped, ENV_IDS[1], read_record(shipped).problems[ENV_IDS[1]])
