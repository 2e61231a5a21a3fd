"""Learning curves: what is read and refused, aggregates with known answers, references, picture and command."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments import train
from experiments.arena.estimators.runs import interquartile_mean
from experiments.arena.settings import trace_digest
from experiments.curves import main
from experiments.distilling.collect import make_envs
from experiments.splitting.definition import DECODE, SERVING, VALIDATION_SEED
from experiments.training import record as train_record
from experiments.training.curves import data as curves_data
from experiments.training.curves.data import EVALUATIONS, Curve, Validation, read_curve, read_groups
from experiments.training.curves.references import check_references, plan, reference_values
from experiments.training.curves.report import aggregate_curve, curve_frame, curves_figure, draw, summarize
from experiments.training.evaluation import Validator
from papi_env.errors import ConfigurationError, DataError
from papi_env.scenario import get_scenario
from papi_env.workload.requests import Lengths
from tests.experiments.commands import called

SETTINGS = tuple(
    get_scenario("creative-writing/llama-65b").replace(batch_size=batch, speculation=8) for batch in (2, 40)
)
SEEDS = range(VALIDATION_SEED, VALIDATION_SEED + 2)


def curve(y, steps=None, wall_s=None, regret=None, folder="run", status=""):
    """A run with these returns."""
    y = np.asarray(y, dtype=float)
    steps = np.arange(len(y)) * 100.0 if steps is None else np.asarray(steps, dtype=float)
    wall_s = 0.1 + steps / 10 if wall_s is None else np.asarray(wall_s, dtype=float)
    regret = None if regret is None else np.asarray(regret, dtype=float)
    return Curve(Path(folder), 0, status, frozenset("a"), steps, 2 * steps, wall_s, y, regret)


def run_folder(folder, rows=((0, -9.0), (100, -5.0)), regret=True, **asked):
    """The folder of a training that was validated so."""
    folder.mkdir(parents=True)
    chosen = {"algorithm": "ppo", "env": DECODE, "episodes": 2, "seed": 0, "more": True, **asked}
    configuration = {
        "asked": chosen,
        "validation": [setting.model_dump(mode="json") for setting in SETTINGS],
        "traces": [],
    }
    session = {"status": "finished", "wall_s": 2.0, "source": {"digest": "a", "commit": None}}
    record = {"experiment": "train", "configuration": configuration, "sessions": [session]}
    (folder / "run.json").write_text(json.dumps(record))
    names = ["steps", "simulated_s", "wall_s", "score", *(["regret"] * regret), "return: a setting"]
    lines = [[s, s / 2, s / 10, y, *([-y / 100] * regret), y] for s, y in rows]
    with (folder / EVALUATIONS).open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])
    return folder


def command(*arguments, run=main):
    return called(run, *arguments)


# --- aggregates -------------------------------------------------------------------------------------

# Without numbers below the normal ones, which some libraries have the processor take for 0.
curve_values = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=6)


@given(curve_values)
def test_a_single_run_is_its_own_curve_without_a_band(values):
    for band in ("bootstrap", "range"):
        at, mean, low, high = aggregate_curve([curve(values)], "steps", "return", band)
        np.testing.assert_array_equal(at, np.arange(len(values)) * 100)
        for found in (mean, low, high):
            np.testing.assert_allclose(found, values)


@settings(max_examples=20)
@given(st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=2, max_size=7))
def test_bands_hold_the_mean_and_lie_within_the_runs(values):
    curves = [curve(run) for run in values]
    at, mean, low, high = aggregate_curve(curves, "steps", "return", "range")
    np.testing.assert_array_equal(low, np.min(values, axis=0))
    np.testing.assert_array_equal(high, np.max(values, axis=0))
    np.testing.assert_allclose(mean, interquartile_mean(np.array(values)))
    _, again, inner_low, inner_high = aggregate_curve(curves, "steps", "return", "bootstrap")
    np.testing.assert_array_equal(again, mean)
    assert len(at) == len(mean) == 4
    slack = 1e-9
    assert (low - slack <= inner_low).all()
    assert (inner_low <= mean).all()
    assert (mean <= inner_high).all()
    assert (inner_high <= high + slack).all()


def test_more_runs_give_narrower_bands():
    rng = np.random.default_rng(0)
    widths = []
    for count in (4, 40):
        found = aggregate_curve(
            [curve(rng.normal(size=3)) for _ in range(count)], "steps", "return", "bootstrap"
        )
        widths.append((found[3] - found[2]).mean())
    assert widths[1] < 0.6 * widths[0]


def test_runs_validated_at_other_steps_meet_where_all_have_been():
    # Straight ones, so that what lies between two validations is known.
    first = curve([-10, -9, -8, -7], steps=[0, 100, 200, 300])
    second = curve([-9, -1], steps=[50, 250])
    third = curve([-9.0, -9.0 + 0.01 * 400], steps=[0, 400])
    at, _, low, high = aggregate_curve([first, second], "steps", "return", "range")
    assert (at[0], at[-1], len(at)) == (50, 250, 4)
    np.testing.assert_allclose(low, np.minimum(-10 + 0.01 * at, -11 + 0.04 * at))
    np.testing.assert_allclose(high, np.maximum(-10 + 0.01 * at, -11 + 0.04 * at))
    at, mean, _, _ = aggregate_curve([first, third], "steps", "return", "range")
    np.testing.assert_allclose(mean, -9.5 + 0.01 * at)
    apart = [curve([1, 2], wall_s=[0, 1]), curve([1, 2], wall_s=[3, 4])]
    assert all(len(part) == 0 for part in aggregate_curve(apart, "wall", "return", "bootstrap"))


def test_the_summary_names_first_best_and_last_and_runs_that_fell_short():
    groups = {
        "a": [
            curve([-9, -2, -4], regret=[9, 2, 4]),
            curve([-9, -4], regret=[9, 4], folder="short", status="failed: x"),
        ]
    }
    validation = Validation(DECODE, SETTINGS, 2)
    summary = summarize(groups, validation, {"threshold": 1.0}, "steps", "regret", "range")
    (row,) = summary["groups"]
    assert (row["first"]["iqm"], row["last"]["iqm"]) == (9, 4)
    assert row["best"] == {"iqm": 3, "low": 2, "high": 4}
    assert (row["runs"], row["steps"], row["wall_s"]) == (2, 150, pytest.approx(15.1))
    assert row["notes"] == ["a: short: failed: x, ended at step 100 of 200"]
    assert row["curve"]["x"][-1] == 100
    frame = curve_frame(groups)
    assert frame["regret_percent"].to_list() == [9, 2, 4, 9, 4]
    assert curve_frame({"a": [curve([1.0])]})["regret_percent"].to_list() == [None]


# --- reading ----------------------------------------------------------------------------------------


def test_names_are_those_of_training():
    assert curves_data.EVALUATIONS == train_record.EVALUATIONS


def test_runs_are_grouped_by_algorithm_or_label(tmp_path):
    folders = [run_folder(tmp_path / f"run{k}", seed=k) for k in range(3)]
    other = run_folder(tmp_path / "x=y", algorithm="dqn")
    groups, validation = read_groups([folders[0], f"mine={folders[1]}", f"={folders[2]}", other], "regret")
    assert {label: [c.seed for c in curves] for label, curves in groups.items()} == {
        "ppo": [0, 2],
        "mine": [1],
        "dqn": [0],
    }
    assert validation.settings == SETTINGS
    np.testing.assert_array_equal(groups["mine"][0].wall_s, [0, 10])
    np.testing.assert_allclose(groups["mine"][0].regret, [9, 5])  # a share there, percent here


def edited(name, change):
    def edit(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            edited(EVALUATIONS, lambda t: t.replace("score", "points")),
            "has no column 'score', expected steps",
        ),
        (
            edited(EVALUATIONS, lambda t: t.replace("-5.0", "good", 1)),
            "line 3: score is 'good', expected a fin",
        ),
        (
            edited(EVALUATIONS, lambda t: t.replace("-5.0", "nan", 1)),
            "line 3: score is 'nan', expected a fin",
        ),
        (
            edited(EVALUATIONS, lambda t: t.replace("-5.0", "1.7e308", 1)),
            "score is '1.7e308', expected a finite number of at most 1e",
        ),
        (edited(EVALUATIONS, lambda t: t + "50,1,20,1,1,1\n"), "steps go back"),
        (edited(EVALUATIONS, lambda t: t + "200,1,1,1,1,1\n"), "wall_s go back"),
        (edited(EVALUATIONS, lambda t: t.splitlines()[0]), "holds no validation"),
        (edited(EVALUATIONS, lambda t: t + "200,1\n"), "line 4: wall_s is None"),
        (
            edited("run.json", lambda t: t.replace('"episodes": 2', '"episodes": 0')),
            "asked.episodes: found 0",
        ),
        (edited("run.json", lambda t: t.replace('"sessions"', '"visits"')), "not the record of a run"),
        (edited("run.json", lambda t: t.replace('"batch_size": 40', '"batch_size": -1')), "batch_size"),
        (edited("run.json", lambda t: t.replace("Decode-v0", "Decoder-v0")), "Did you mean"),
        (
            edited("run.json", lambda t: t.replace('"train"', '"compare"')),
            "expected the folder of a training",
        ),
    ],
)
def test_damage_is_named(tmp_path, edit, message):
    folder = run_folder(tmp_path / "run")
    read_curve(folder)
    edit(folder)
    with pytest.raises((ConfigurationError, DataError), match=message):
        read_curve(folder)


def test_runs_that_cannot_share_a_figure_are_refused(tmp_path):
    folder = run_folder(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="expected at least one run folder"):
        read_groups([])
    with pytest.raises(ConfigurationError, match="is given twice"):
        read_groups([folder, f"again={folder / '..' / 'run'}"])
    other = run_folder(tmp_path / "other", episodes=3)
    with pytest.raises(ConfigurationError, match=r"different instances \(episodes is not the same\)"):
        read_groups([folder, other])
    other = run_folder(tmp_path / "elsewhere")
    edited("run.json", lambda text: text.replace('"batch_size": 40', '"batch_size": 41'))(other)
    with pytest.raises(ConfigurationError, match=r"\(settings.1.workload.batch_size is not the same\)"):
        read_groups([folder, other])
    plain = run_folder(tmp_path / "plain", regret=False)
    with pytest.raises(ConfigurationError, match="have no regret"):
        read_groups([plain], "regret")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "run.json").write_text((folder / "run.json").read_text())
    with pytest.raises(ConfigurationError, match=r"holds no evaluations\.csv, expected a validated training"):
        read_groups([tmp_path / "tuned"])


# --- references -------------------------------------------------------------------------------------


def test_references_are_marked_and_refused_where_they_cannot_play(tmp_path):
    validation = Validation(DECODE, SETTINGS, 2)
    names = ("threshold", "oracle", "threshold")
    assert check_references(names, validation) == {"threshold": "threshold", "oracle": "oracle*"}
    served = Validation(SERVING, (get_scenario("saturated/llama-65b"),), 2)
    found = check_references(("bound", "best-threshold", "heuristic", "oracle"), served)
    assert list(found.values()) == ["bound*", "best-threshold†", "heuristic", "oracle*"]
    for name, message in (
        ("treshold", "Did you mean 'threshold'"),
        ("bound", f"plays {SERVING} alone"),
        ("best-fixed", f"plays {SERVING} alone"),
        ("heuristic", "Reference 'heuristic': "),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_references((name,), validation)


def test_a_trace_that_has_changed_is_refused(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("category,lin,lout\nx,4,8\nx,5,9\n")
    setting = SETTINGS[0].replace(lengths=Lengths(trace=str(trace)))
    validation = Validation(DECODE, (setting,), 2, frozenset({trace_digest(setting)}))
    assert len(plan(("threshold",), validation, "regret")) == 2
    trace.write_text("category,lin,lout\nx,4,8\nx,5,10\n")
    with pytest.raises(DataError, match="its trace is another file"):
        plan(("threshold",), validation, "return")
    assert plan((), validation, "regret") == {}


# --- the picture ------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn from here on."""
    drawn = []
    save = Figure.savefig

    def keep(self, *arguments, **options):
        drawn.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def summary_of(groups, references, x="steps", y="return"):
    return summarize(groups, Validation(DECODE, SETTINGS, 2), references, x, y, "bootstrap")


def test_the_picture_shows_runs_means_and_references(figures):
    scale = 1e4
    groups = {
        "PPO": [curve(values, steps=scale * np.arange(3)) for values in ([-9, -4, -2], [-8, -5, -1])],
        "DQN": [curve([-9, -9, -7], steps=scale * np.arange(3))],
    }
    image = draw(summary_of(groups, {"threshold": -3.0, "oracle*": -0.5}))
    assert image.startswith(b"\x89PNG")
    (figure,) = figures
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["PPO (2 runs)", "DQN", "oracle*: -0.5", "threshold: -3"]
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    np.testing.assert_allclose(lines["PPO (2 runs)"].get_ydata(), [-8.5, -4.5, -1.5])
    np.testing.assert_allclose(lines["PPO (2 runs)"].get_xdata(), [0, 10, 20])
    assert axes.get_xlabel() == "environment steps (thousands)"
    assert set(lines["threshold: -3"].get_ydata()) == {-3}
    thin = [line for line in axes.lines if line.get_label().startswith("_")]
    assert [list(line.get_ydata()) for line in thin] == [[-9, -4, -2], [-8, -5, -1]]
    assert {line.get_color() for line in thin} == {lines["PPO (2 runs)"].get_color()}
    assert lines["PPO (2 runs)"].get_color() != lines["DQN"].get_color()
    assert lines["PPO (2 runs)"].get_marker() != lines["DQN"].get_marker()
    text = figure.get_supxlabel()
    assert "95 % bootstrap interval" in text
    assert "* privileged" in text


@pytest.mark.parametrize(
    ("regret", "references", "scale"),
    [
        ([70, 20, 10], {"threshold": 15.0}, "log"),
        ([70, 0.2, 0.01], {}, "log"),
        ([70, 3, 0], {"oracle*": 0.0}, "symlog"),
        ([70, 1e-14, -1e-14], {"oracle*": 0.0}, "symlog"),
        ([70, 3, -2], {"oracle*": 0.0}, "symlog"),
        ([0, 0, 0], {"oracle*": 0.0}, "linear"),
    ],
)
def test_regret_is_drawn_whatever_its_sign(figures, regret, references, scale):
    draw(summary_of({"PPO": [curve([-9, -5, -4], regret=regret)]}, references, y="regret"))
    (axes,) = figures[0].axes
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < min(regret) <= max(regret) < high
    assert "%" in axes.get_ylabel()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert len(shown) >= 2


def test_one_validation_and_many_groups_can_be_drawn(figures):
    groups = {f"a group with a long name, number {k}": [curve([-k], wall_s=[0.2])] for k in range(14)}
    for x in ("steps", "wall"):
        assert draw(summary_of(groups, {}, x=x), (-20.0, 0.0)).startswith(b"\x89PNG")
    assert figures[-1].axes[0].get_ylim() == (-20, 0)
    assert figures[-1].axes[0].get_xlabel().endswith("(s)")
    hours = curve([-3, -2], wall_s=[0, 2e4])
    draw(summary_of({"PPO": [hours]}, {}, x="wall"))
    assert figures[-1].axes[0].get_xlabel().endswith("(h)")


def test_the_picture_alone_needs_no_reference(tmp_path, figures):
    folder = run_folder(tmp_path / "a=b")
    image = curves_figure([folder])
    assert image == curves_figure([folder])
    assert curves_figure([folder], {"threshold": -4.0}) != image
    curves_figure([folder], {"threshold": 4.0}, x="wall", y="regret", band="range")
    assert figures[-1].axes[0].get_yscale() == "log"


# --- the command, on what training leaves -----------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings of a moment."""
    threads = torch.get_num_threads()
    parent = tmp_path_factory.mktemp("trained")
    for seed in (0, 1):
        status, _, err = command(
            *("--env", DECODE, "--batch-sizes", 2, 40, "--speculation", 8, "--timesteps", 256),
            *("--validations", 2, "--episodes", 2, "--seed", seed, "--no-tensorboard"),
            *("--hyper", "n_envs=4", "n_steps=32", "batch_size=64", "net_arch=[8]"),
            *("--out", parent / f"run{seed}"),
            run=train.main,
        )
        assert status == 0, err
    torch.set_num_threads(threads)
    return [parent / "run0", parent / "run1"]


def evaluations(folder):
    with (folder / EVALUATIONS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_references_are_played_on_the_very_instances(trained):
    _, validation = read_groups(trained)
    assert validation.settings == SETTINGS
    names = ("static-pu", "threshold", "oracle")
    envs = make_envs(DECODE, SETTINGS, 2)
    expected = {
        name: [evaluate(make_policy(name), env, SEEDS)["return"].mean() for env in envs] for name in names
    }
    assert expected["static-pu"] != expected["threshold"]
    found = reference_values(trained, names)
    assert found == {
        "static-pu": np.mean(expected["static-pu"]),
        "threshold": np.mean(expected["threshold"]),
        "oracle*": np.mean(expected["oracle"]),
    }
    regrets = reference_values([trained[0]], ("oracle", "static-pu"), "regret")
    shares = [p / o - 1 for p, o in zip(expected["static-pu"], expected["oracle"], strict=True)]
    assert regrets == {"oracle*": 0, "static-pu": pytest.approx(100 * np.mean(shares))}
    # The same scale as training's own validation: what it recorded gives the oracle's return back.
    row = evaluations(trained[0])[-1]
    for setting, label, best in zip(
        SETTINGS, Validator(DECODE, SETTINGS, 2).labels, expected["oracle"], strict=True
    ):
        assert setting.system.name in label
        recovered = float(row[f"return: {label}"]) / (1 + float(row[f"regret: {label}"]))
        assert recovered == pytest.approx(best)


def test_the_command_writes_and_prints_what_training_recorded(trained, tmp_path):
    arguments = [*trained, "--entries", "threshold", "oracle", "--jobs", 1, "--out", tmp_path / "out"]
    status, out, err = command(*arguments)
    assert status == 0, err
    rows = [row for folder in trained for row in evaluations(folder)]
    frame = pl.read_csv(tmp_path / "out" / "curves.csv")
    assert frame["group"].unique().to_list() == ["PPO"]
    assert frame["seed"].to_list() == [k for k in (0, 1) for _ in evaluations(trained[k])]
    for column, name in (("return", "score"), ("steps", "steps"), ("wall_s", "wall_s")):
        assert frame[column].to_list() == [float(row[name]) for row in rows]
    np.testing.assert_allclose(
        frame["regret_percent"].to_numpy(), [100 * float(row["regret"]) for row in rows]
    )
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["references"] == reference_values(trained, ("threshold", "oracle"))
    (row,) = summary["groups"]
    last = [float(evaluations(folder)[-1]["score"]) for folder in trained]
    assert row["last"] == {"iqm": pytest.approx(np.mean(last)), "low": min(last), "high": max(last)}
    assert "2 settings x 2 episodes" in out
    assert "oracle*" in out
    assert "other source code" not in out
    (session,) = json.loads((tmp_path / "out" / "run.json").read_text())["sessions"]
    assert (session["jobs"], session["jobs_reused"]) == (4, 0)


def test_the_same_command_draws_anew_and_plays_nothing_twice(trained, tmp_path):
    folder = run_folder(tmp_path / "run")
    arguments = [folder, "--y", "regret", "--jobs", 1, "--out", tmp_path / "out"]
    assert command(*arguments)[0] == 0
    edited(EVALUATIONS, lambda text: text + "200,100,20,-4,0.04,-4\n")(folder)
    status, out, err = command(*arguments)
    assert status == 0, err
    assert "1 of 1 runs were validated with other source code" in out
    assert pl.read_csv(tmp_path / "out" / "curves.csv")["regret_percent"].to_list() == [9, 5, 4]
    sessions = json.loads((tmp_path / "out" / "run.json").read_text())["sessions"]
    assert [session["jobs_reused"] for session in sessions] == [0, 4]
    status, _, err = command(*arguments[:-2], "--x", "wall", *arguments[-2:])
    assert (status, "x: steps there, wall asked" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no training runs are given"),
        (["nowhere"], "nowhere: expected the folder of a training run"),
        (["RUN", "--entries", "orcale"], "Did you mean 'oracle'"),
        (["RUN", "--references", "orcale"], "Did you mean 'oracle'"),  # as earlier versions called it
        (["RUN", "--jobs", "-1"], "expected a number of processes"),
        (["RUN", "--y-limits", "2", "1"], "expected the lower and the upper end"),
        (["RUN", "--y", "regret", "--y-limits", "-2", "-1"], "the upper one above 0"),
        (["RUN/best"], "did you mean"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(trained, tmp_path, arguments, message):
    given_here = [argument.replace("RUN", str(trained[0])) for argument in arguments]
    status, out, err = command(*given_here, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
