"""Distilling: trees that imitate, rules in true units, the size that keeps the gain, and the command itself."""

import contextlib
import io
import json
from itertools import pairwise

import numpy as np
import onnx
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.checkpoint import ActionLayout, Checkpoint, Description, ObservationLayout, save_checkpoint
from agents.distilled import load_tree
from agents.evaluate import evaluate
from agents.learned import load_policy, options_of
from agents.networks import Architecture
from agents.registry import make_policy
from experiments.distill import Config, main, resolve
from experiments.distill_collect import collect, make_envs, returns_of
from experiments.distill_report import choose_size, kept_figures
from experiments.distill_rules import (
    CHOICES,
    PAPI_RULES,
    QUANTITIES,
    action_text,
    condition,
    own_actions,
    tree_text,
)
from experiments.distill_tree import GrownTree, Samples, cut_points
from experiments.latency import compiled_decision_s, decision_latency
from experiments.problems import vector_class
from experiments.splits_definition import DECODE, KERNELS, PROBLEM_IDS, SERVING
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation import layout
from papi_env.simulation import serving_layout as at

SMALL = """
name = "small"
system = "papi"
model = "llama-65b"
[workload]
batch_size = 64
speculation = 2
lengths = { table = "dolly-general-qa" }
"""


def command(*arguments):
    """(exit status, standard output, standard error) of the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


# --- growing ----------------------------------------------------------------------------------------

columns = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32))


@given(columns, st.integers(2, 9))
def test_cut_points_separate_values_and_are_few(values, bins):
    cuts = cut_points(values, bins)
    assert cuts.dtype == np.float32
    assert (np.diff(cuts) > 0).all()
    assert len(cuts) <= bins
    counts = np.searchsorted(cuts, values, side="left")
    assert len(np.unique(counts)) == len(cuts) + 1  # every bin holds something
    if len(np.unique(values)) <= bins:
        assert len(cuts) == len(np.unique(values)) - 1
    for cut in cuts:  # x <= cut says what searchsorted says
        np.testing.assert_array_equal(values <= cut, counts <= np.searchsorted(cuts, cut))


@st.composite
def lessons(draw):
    """Samples, and the options of their choices."""
    count, features = draw(st.integers(1, 60)), draw(st.integers(1, 3))
    options = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    observations = rng.integers(0, 6, (count, features)).astype(np.float32) / 8
    choices = np.stack([rng.integers(0, n, count) for n in options], axis=1)
    weights = rng.random((count, len(options))) * (rng.random((count, len(options))) < 0.8)
    return Samples(observations, choices, weights), options


def agreement(samples, tree):
    """Weight of the choices that the tree makes like the teacher."""
    acted = tree.actions[tree.leaf_of(samples.observations)]
    return float((samples.weights * (acted == samples.choices)).sum())


@given(lessons())
def test_more_leaves_imitate_no_worse_and_enough_leaves_imitate_what_can_be(lesson):
    samples, options = lesson
    grown = GrownTree(samples, options, 200, min_samples=1)
    scores = []
    for leaves in (1, 2, 3, 5, 8, 200):
        tree = grown.prefix(leaves)
        assert tree.leaves <= leaves
        assert (tree.actions < np.array(options)).all()
        scores.append(agreement(samples, tree))
    assert all(b >= a - 1e-9 for a, b in pairwise(scores))
    # With a leaf for each distinct observation the best of each choice is made there.
    _, where = np.unique(samples.observations, axis=0, return_inverse=True)
    best = 0.0
    for k, n in enumerate(options):
        table = np.zeros((where.max() + 1, n))
        np.add.at(table, (where.ravel(), samples.choices[:, k]), samples.weights[:, k])
        best += table.max(axis=1).sum()
    # A split must lower impurity; where none does by itself, none is made.
    assert scores[-1] <= best + 1e-6
    one = samples.observations[:, :1]
    if samples.observations.shape[1] == 1 and len(options) == 1 and len(np.unique(one)) <= 2:
        assert scores[-1] == pytest.approx(best, abs=1e-6)


@given(lessons(), st.integers(1, 20), st.integers(1, 10))
def test_a_prefix_is_the_tree_grown_to_that_size(lesson, leaves, min_samples):
    samples, options = lesson
    whole = GrownTree(samples, options, 40, min_samples=min_samples)
    alone = GrownTree(samples, options, leaves, min_samples=min_samples).prefix(leaves)
    part = whole.prefix(leaves)
    for name in ("feature", "threshold", "left", "right", "actions"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    counts = np.bincount(whole.prefix(40).leaf_of(samples.observations))
    assert counts.min() >= min(min_samples, len(samples))


def test_a_rule_that_a_tree_can_hold_is_found_exactly():
    rng = np.random.default_rng(0)
    seen = rng.random((4000, 6), dtype=np.float32)
    choices = np.stack([(seen[:, 2] > 0.5) & (seen[:, 4] <= 0.25), seen[:, 1] > 0.75], axis=1).astype(
        np.int64
    )
    samples = Samples(seen, choices, np.ones((4000, 2)))
    tree = GrownTree(samples, (2, 2), 16, bins=4000).prefix(16)
    np.testing.assert_array_equal(tree.actions[tree.leaf_of(seen)], choices)
    assert set(tree.feature[tree.feature >= 0].tolist()) == {1, 2, 4}


def test_weights_say_which_choices_matter():
    seen = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    choices = np.stack([seen[:, 0] > 0.3, seen[:, 0] > 0.7], axis=1).astype(np.int64)
    for heeded, place in ((0, 0.3), (1, 0.7)):
        weights = np.zeros((100, 2))
        weights[:, heeded] = 1.0
        tree = GrownTree(Samples(seen, choices, weights), (2, 2), 2).prefix(2)
        assert tree.threshold[0] == pytest.approx(place, abs=0.01)


def test_features_that_are_not_to_be_read_are_not():
    rng = np.random.default_rng(0)
    seen = rng.random((500, 3), dtype=np.float32)
    choices = (seen[:, :1] > 0.5).astype(np.int64)
    tree = GrownTree(Samples(seen, choices, np.ones((500, 1))), (2,), 8, features=(1, 2)).prefix(8)
    assert 0 not in tree.feature


def test_samples_that_cannot_be_imitated_are_refused():
    nothing = Samples(np.zeros((0, 1), np.float32), np.zeros((0, 1), np.int64), np.zeros((0, 1)))
    with pytest.raises(ConfigurationError, match="0 samples for 2 leaves"):
        GrownTree(nothing, (2,), 2)
    outside = Samples(np.zeros((1, 1), np.float32), np.full((1, 1), 2), np.ones((1, 1)))
    with pytest.raises(ConfigurationError, match=r"Choices outside \[2\]"):
        GrownTree(outside, (2,), 2)


# --- in words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", PROBLEM_IDS)
def test_every_feature_and_choice_has_words(env_id):
    make = vector_class(env_id)
    names = make.observation_names
    for name in names:
        for below in (True, False):
            text = condition(env_id, name, 0.5, below)
            assert text
            assert "nan" not in text
    assert set(QUANTITIES[env_id]) >= set(names)
    sizes = [len(options) for _, options in CHOICES[env_id]]
    assert sizes == list(options_of(make.single_space()))
    assert "α" in PAPI_RULES[env_id]
    own = own_actions(env_id)
    assert own
    assert own <= set(QUANTITIES[env_id])
    assert not any("time" in name for name in own)


def test_own_actions_are_the_one_hot_ones():
    start = at.LAST_ACTION_FEATURE
    assert own_actions(SERVING) == set(at.OBSERVATION_NAMES[start : start + sum(at.NVEC)])
    units = layout.LAST_UNIT_FEATURE
    assert own_actions(DECODE) >= set(
        layout.OBSERVATION_NAMES[units : units + layout.NUM_CLASSES * layout.NUM_UNITS]
    )


def test_serving_quantities_are_those_of_the_machine():
    scenario = get_scenario("saturated/llama-65b").replace(serving={"horizon_s": 20.0})
    env = vector_class(SERVING)(scenario, num_envs=3, autoreset_mode=AutoresetMode.DISABLED)
    counters, clocks, scalars = env.engine.counters, env.engine.clocks, env.engine.tables.scalars
    limit, pace = scalars[at.CONTEXT_LIMIT], scalars[at.TPOT_S]
    seen = []

    def compare(env):
        for e in np.flatnonzero((counters[:, at.DONE] == 0) & (counters[:, at.RLP] > 0)):
            observed = dict(zip(env.observation_names, env.engine.observations[e], strict=True))
            rlp = counters[e, at.RLP]
            expected = {
                "queued": counters[e, at.QUEUED],
                "rlp": rlp,
                "prefilling": counters[e, at.PREFILLING],
                "prefill_backlog": counters[e, at.PREFILL_BACKLOG],
                "mean_context": 100 * counters[e, at.CONTEXT_SUM] / rlp / limit,
                "n_share_of_alpha": rlp / scalars[at.ALPHA],
                "last_fc_time": clocks[e, at.LAST_FC_S] / scalars[at.REFERENCE_S],
                "last_chunk": counters[e, at.LAST_CHUNK],
                "tpot_slack_mean": clocks[e, at.SLACK_MEAN_S] / pace,
                "accepted": 100 * clocks[e, at.SEEN_ACCEPTED],
                "tokens_at_4": clocks[e, at.SEEN_TOKENS + 2],
                "ttft_objective": scalars[at.TTFT_S] / scalars[at.REFERENCE_S],
                "system_pu_flops": scenario.system.pu.total_flops,
                "model_weight_bytes": scenario.model.weight_bytes,
                "alpha": scalars[at.ALPHA],
            }
            for name, value in expected.items():
                found = QUANTITIES[SERVING][name].value(float(observed[name]))
                assert found == pytest.approx(float(value), rel=2e-3, abs=1e-6), name
            seen.append(e)

    evaluate(make_policy("threshold-spec4"), env, (0, 1, 2), compare)
    assert len(seen) > 100


def test_batch_quantities_are_those_of_the_machine():
    scenario = get_scenario("creative-writing/llama-65b").replace(batch_size=16, speculation=2)
    env = vector_class(KERNELS)(scenario, num_envs=2, autoreset_mode=AutoresetMode.DISABLED)
    counters = env.engine.counters
    checked = []

    def compare(env):
        for e in np.flatnonzero(counters[:, layout.DONE] == 0):
            observed = dict(zip(env.observation_names, env.engine.observations[e], strict=True))
            n = counters[e, layout.RLP] * counters[e, layout.TLP]
            expected = {
                "rlp": counters[e, layout.RLP],
                "tlp": counters[e, layout.TLP],
                "n": n,
                "n_share_of_alpha": n / env.alpha,
                "iteration": counters[e, layout.ITERATION],
                "batch_size": 16,
                "model_layers": 80,
            }
            for name, value in expected.items():
                found = QUANTITIES[KERNELS][name].value(float(observed[name]))
                assert found == pytest.approx(float(value), rel=2e-3, abs=1e-5), name
            checked.append(n)

    evaluate(make_policy("threshold"), env, (0, 1), compare)
    assert len(set(checked)) > 3


def test_a_tree_reads_as_nested_conditions():
    names = layout.OBSERVATION_NAMES
    seen = np.zeros((300, len(names)), dtype=np.float32)
    rng = np.random.default_rng(0)
    n, ran = names.index("n"), names.index("last_unit_qkv_pu")
    seen[:, n], seen[:, ran] = np.repeat(np.arange(1, 101), 3) / 1024, rng.integers(0, 2, 300)
    choices = ((seen[:, n] * 1024 <= 56) & (seen[:, ran] > 0)).astype(np.int64)[:, None]
    tree = GrownTree(Samples(seen, choices, np.ones((300, 1))), (2,), 4).prefix(4)
    text = tree_text(DECODE, tree, names, np.full(tree.leaves, 1 / 3).tolist())
    assert "n = RLP x TLP <= 56.5" in text
    assert "if not (qkv ran on pu last)" in text
    assert text.count("FC kernels on fc-pim") == 1
    assert text.count("[33.3%]") == 3
    one = GrownTree(Samples(seen, np.ones((300, 1), np.int64), np.ones((300, 1))), (2,), 4).prefix(4)
    assert tree_text(DECODE, one, names) == "FC kernels on fc-pim"


def test_words_for_what_is_not_there_are_refused():
    with pytest.raises(ConfigurationError, match="Did you mean 'n_share_of_alpha'"):
        condition(DECODE, "n_share_of_alhpa", 0.5, True)
    with pytest.raises(ConfigurationError, match="takes 4 choices, not 2"):
        action_text(SERVING, (0, 1))


# --- what is kept -----------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(1, 64), st.floats(-10, 10), min_size=1),
    st.floats(-10, 10),
    st.floats(-10, 10),
    st.floats(0, 1),
)
def test_the_size_chosen_is_the_smallest_that_keeps_enough_or_else_the_best(returns, teacher, baseline, keep):
    size = choose_size(returns, teacher, baseline, keep)
    gain = teacher - baseline
    least = teacher - ((1 - keep) * gain if gain > 0 else 1e-3 * abs(teacher))
    if max(returns.values()) < least:
        assert returns[size] == max(returns.values())
    else:
        assert returns[size] >= least
        assert all(value < least for other, value in returns.items() if other < size)


@settings(max_examples=30)
@given(hnp.arrays(np.float64, (3, 6), elements=st.floats(-50, 50)), st.floats(0.1, 30), st.floats(-0.5, 1.5))
def test_what_is_kept_is_a_share_of_the_way(baseline, gain, share):
    figures = kept_figures(
        {"baseline": baseline, "teacher": baseline + gain, "tree": baseline + share * gain}
    )
    assert figures["kept"]["value"] == pytest.approx(share, abs=1e-6)
    assert figures["kept"]["low"] <= figures["kept"]["value"] <= figures["kept"]["high"]
    lost = figures["returns"]["teacher"] - figures["returns"]["tree"]
    assert figures["loss_of_return"] * abs(figures["returns"]["teacher"]) == pytest.approx(lost, abs=1e-6)
    worse = kept_figures({"baseline": baseline, "teacher": baseline - gain, "tree": baseline})
    assert worse["kept"] == {"value": None, "low": None, "high": None}


# --- samples ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SMALL)
    return path


def threshold_network(scenario):
    """A network of one layer that holds PAPI's rule for Decode-v0: fc-pim where n / (n + α) is below a half."""
    names = layout.OBSERVATION_NAMES
    architecture = Architecture(
        inputs=len(names), hidden=(), activation="tanh", head="categorical", options=(2,)
    )
    weights = np.zeros((2, len(names)), dtype=np.float32)
    weights[0, names.index("n_share_of_alpha")] = 40
    description = Description(
        algorithm="PPO",
        env=DECODE,
        observation=ObservationLayout(names=names),
        action=ActionLayout(options=(2,)),
        architecture=architecture,
        masked=False,
        scenarios=(scenario.model_dump(mode="json"),),
        training={"seed": 3},
    )
    bias = np.array([0, 20], dtype=np.float32)
    return Checkpoint(description, {"head.weight": weights, "head.bias": bias})


@pytest.fixture(scope="module")
def learned(small, tmp_path_factory):
    scenario = get_scenario(small)
    return save_checkpoint(tmp_path_factory.mktemp("policies") / "best", threshold_network(scenario))


def test_samples_are_what_the_teacher_does_where_the_pupil_goes(small, learned):
    scenario = get_scenario(small).replace(batch_size=16)
    envs = make_envs(DECODE, [scenario, scenario.replace(speculation=4)], 2)
    teacher, pupil = load_policy(learned), make_policy("static-pu")
    rng = np.random.default_rng(0)
    samples = collect(teacher, pupil, envs, (0, 1), 10**9, rng)
    n = np.rint(samples.observations[:, layout.OBSERVATION_NAMES.index("n")] * 1024)
    # At n = α the two scores are equal, and the first option, the PUs, is taken.
    np.testing.assert_array_equal(samples.choices[:, 0], (n < envs[0].alpha).astype(int))
    last = samples.observations[:, layout.OBSERVATION_NAMES.index("last_unit_qkv_fc-pim")]
    assert not last.any()  # the pupil acts, on the PUs
    np.testing.assert_array_equal(samples.weights[:, 0] > 0, n != envs[0].alpha)
    few = collect(teacher, None, envs, (0, 1), 11, rng)
    assert len(few) == 10  # five of each environment
    assert len(few) < len(samples)


def test_returns_are_those_of_evaluate(small):
    envs = make_envs(DECODE, [get_scenario(small)], 2)
    policy = make_policy("threshold")
    np.testing.assert_array_equal(
        returns_of(policy, envs, (4, 5))[0], evaluate(policy, envs[0], (4, 5))["return"]
    )


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(learned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "run"
    options = ("--rounds", 2, "--seeds", 3, "--samples", 3000, "--baseline", "static-pu", "--leaves", 8)
    status, out, err = command("--policy", learned, *options, "--out", folder)
    assert status == 0, err
    return folder, out, json.loads((folder / "summary.json").read_text())


def test_a_learned_rule_is_found_again_and_printed_beside_papis(finished, small):
    folder, out, summary = finished
    assert {path.name for path in folder.iterdir()} >= {
        "run.json",
        "summary.json",
        "rule.txt",
        "teacher.onnx",
        "policy",
    }
    assert summary["leaves"] == 2
    assert summary["kept"]["value"] == pytest.approx(1)
    rule = (folder / "rule.txt").read_text()
    assert "FC kernels on fc-pim" in rule
    assert rule.strip() in out
    assert PAPI_RULES[DECODE] in out
    assert "keeps 100.0%" in out
    assert summary["bytes"]["tables"] == load_tree(folder / "policy").tree.num_bytes
    assert summary["decision_s"]["compiled"] > 0
    for path in (folder / "teacher.onnx", folder / "policy" / "tree.onnx"):
        onnx.checker.check_model(onnx.load(path))


def test_the_tree_plays_like_its_teacher_and_says_what_it_was_trained_on(finished, learned, small):
    folder, _, _ = finished
    scenario = get_scenario(small)
    envs = make_envs(DECODE, [scenario], 4)
    tree, teacher = make_policy(str(folder / "policy")), make_policy(str(learned))
    np.testing.assert_array_equal(returns_of(tree, envs, range(4)), returns_of(teacher, envs, range(4)))
    description = tree.description
    assert description.scenarios == (scenario.model_dump(mode="json"),)
    assert description.teacher == "PPO"
    assert description.training["teacher"] == {"seed": 3}
    assert description.training["traces"] == {}


def test_a_registered_policy_is_distilled_where_its_problem_is_named(small, tmp_path):
    run = tmp_path / "run"
    arguments = ("--policy", "threshold", "--env", DECODE, "--scenarios", small)
    status, out, err = command(*arguments, "--rounds", 1, "--seeds", 2, "--out", run)
    assert status == 0, err
    assert "the teacher gains nothing over threshold" in out
    assert not (run / "teacher.onnx").exists()
    assert load_tree(run / "policy").tree.leaves <= 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "threshold"], "--env is not given"),
        (["--policy", "thershold", "--env", DECODE], "Did you mean 'threshold'"),
        (["--policy", "oracle", "--env", DECODE], "reads what no scheduler can see"),
        (["--policy", "threshold", "--env", DECODE, "--leaves", "0"], "--leaves is 0, expected 1 to 1024"),
        (["--policy", "threshold", "--env", DECODE, "--keep", "1.5"], "--keep is 1.5, expected 0 to 1"),
        (["--policy", "threshold", "--env", "papi_env/Decode"], "Did you mean 'papi_env/Decode-v0'"),
        (["--policy", "./nowhere"], "is no folder"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments, message, tmp_path):
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_problem_and_a_tree_are_refused(learned, finished):
    with pytest.raises(ConfigurationError, match=f"was trained on {DECODE}, not on {SERVING}"):
        resolve(Config(policy=str(learned), env=SERVING))
    with pytest.raises(ConfigurationError, match="is a tree already"):
        resolve(Config(policy=str(finished[0] / "policy")))


def test_latencies_are_of_decisions(small, finished):
    scenario = get_scenario(small)
    tree = make_policy(str(finished[0] / "policy"))
    latency = decision_latency(tree, DECODE, scenario)
    assert latency.single_s > 0
    assert latency.batched_s is not None
    assert latency.batched_s > 0
    observations = np.zeros((3, len(layout.OBSERVATION_NAMES)), dtype=np.float32)
    assert compiled_decision_s(tree.tree, observations) > 0
