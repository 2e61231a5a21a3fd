"""Distilling: trees that imitate, rules in true units, the size that keeps the gain, and the command itself."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.evaluate import evaluate
from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    save_checkpoint,
)
from agents.learned.distilled import load_tree
from agents.learned.networks import Architecture
from agents.learned.policy import load_policy, options_of
from agents.learned.request_network import RequestNetwork
from agents.registry import make_policy
from agents.serving.network import NUM_WEIGHTS
from experiments.arena.latency import compiled_decision_s, decision_latency
from experiments.common.problems import vector_class
from experiments.distill import Config, main, resolve
from experiments.distilling.collect import collect, make_envs, returns_of, stakes_of
from experiments.distilling.report import choose_size, kept_figures
from experiments.distilling.rules import (
    CHOICES,
    PAPI_RULES,
    QUANTITIES,
    action_text,
    condition,
    own_actions,
    tree_text,
)
from experiments.distilling.tree import Decisions, GrownTree, Samples, cut_points
from experiments.splitting.definition import DECODE, KERNELS, PROBLEM_IDS, SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as at
from tests.experiments.commands import called

SMALL = """
name = "small"
system = "papi"
model = "llama-65b"
[workload]
batch_size = 64
speculation = 4
lengths = { table = "dolly-general-qa" }
"""


def command(*arguments):
    return called(main, *arguments)


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
    losses = rng.random((count, sum(options))).astype(np.float32)
    shares = np.exp(-losses / draw(st.sampled_from([0.1, 1.0])))
    return Samples(observations, shares, losses, rng.random(count) + 0.01), Decisions(options)


def lost(samples, decisions, tree):
    """What the tree's actions lose, weighted."""
    starts = np.concatenate(([0], np.cumsum(decisions.options)[:-1]))
    acted = tree.actions[tree.leaf_of(samples.observations)] + starts
    return float((samples.weights[:, None] * np.take_along_axis(samples.losses, acted, axis=1)).sum())


@given(lessons())
def test_more_leaves_lose_no_more_and_enough_leaves_lose_what_must_be(lesson):
    samples, decisions = lesson
    grown = GrownTree(samples, decisions, 200, min_samples=1)
    scores = []
    for leaves in (1, 2, 3, 5, 8, 200):
        tree = grown.prefix(leaves)
        assert tree.leaves <= leaves
        assert (tree.actions < np.array(decisions.options)).all()
        scores.append(lost(samples, decisions, tree))
    assert all(b <= a + 1e-5 for a, b in pairwise(scores))
    # With a leaf for each distinct observation what loses least on average is decided there.
    _, where = np.unique(samples.observations, axis=0, return_inverse=True)
    table = np.zeros((where.max() + 1, samples.losses.shape[1]))
    np.add.at(table, where.ravel(), samples.weights[:, None] * samples.losses)
    parts = np.split(table, np.cumsum(decisions.options)[:-1], axis=1)
    least = sum(part.min(axis=1).sum() for part in parts)
    # A split must lower impurity; where none does by itself, none is made.
    assert scores[-1] >= least - 1e-5
    one = samples.observations[:, :1]
    if samples.observations.shape[1] == 1 and len(np.unique(one)) <= 2:
        assert scores[-1] == pytest.approx(least, abs=1e-5)


@given(lessons(), st.integers(1, 20), st.integers(1, 10))
def test_a_prefix_is_the_tree_grown_to_that_size(lesson, leaves, min_samples):
    samples, decisions = lesson
    whole = GrownTree(samples, decisions, 40, min_samples=min_samples)
    alone = GrownTree(samples, decisions, leaves, min_samples=min_samples).prefix(leaves)
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
    tree = GrownTree(Samples.of_choices(seen, choices, (2, 2)), Decisions((2, 2)), 16, bins=4000).prefix(16)
    np.testing.assert_array_equal(tree.actions[tree.leaf_of(seen)], choices)
    assert set(tree.feature[tree.feature >= 0].tolist()) == {1, 2, 4}


def test_shares_say_which_choices_matter():
    seen = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    choices = np.stack([seen[:, 0] > 0.3, seen[:, 0] > 0.7], axis=1).astype(np.int64)
    samples = Samples.of_choices(seen, choices, (2, 2))
    for heeded, place in ((slice(0, 2), 0.3), (slice(2, 4), 0.7)):
        shares = np.full_like(samples.shares, 0.5)
        shares[:, heeded] = samples.shares[:, heeded]
        tree = GrownTree(replace(samples, shares=shares), Decisions((2, 2)), 2).prefix(2)
        assert tree.threshold[0] == pytest.approx(place, abs=0.01)


def test_weights_say_which_samples_matter():
    seen = np.stack([np.arange(100) % 2, np.arange(100) // 50], axis=1).astype(np.float32)
    choices = np.where(seen[:, 1] > 0, seen[:, 0], 1 - seen[:, 0]).astype(np.int64)[:, None]
    samples = Samples.of_choices(seen, choices, (2,))
    for heeded in (0, 1):
        weighed = replace(samples, weights=np.where(seen[:, 1] == heeded, 1.0, 0.01))
        tree = GrownTree(weighed, Decisions((2,)), 2).prefix(2)
        np.testing.assert_array_equal(
            (tree.actions[tree.leaf_of(seen)] == choices)[:, 0], seen[:, 1] == heeded
        )


def test_a_leaf_decides_what_serves_all_its_cases():
    """Two cases with a favourite each, and a third joint action that is nearly as good in both."""
    shares = np.repeat(np.array([[0.5, 0.1, 0.4], [0.1, 0.5, 0.4]], np.float32), 20, axis=0)
    losses = np.log(shares.max(axis=1, keepdims=True) / shares)
    samples = Samples(np.zeros((40, 1), np.float32), shares, losses, np.ones(40))
    decisions = Decisions((3,), np.array([[0, 1], [1, 0], [1, 1]]))
    assert GrownTree(samples, decisions, 4).prefix(4).actions.tolist() == [[1, 1]]


def test_equal_joint_actions_do_not_divide_samples():
    """The second choice changes nothing and its name is noise; the only split is where the first one changes."""
    rng = np.random.default_rng(0)
    seen = rng.random((400, 2), dtype=np.float32)
    first = (seen[:, 0] > 0.5).astype(int)
    shares = np.full((400, 4), 0.05, np.float32) + rng.random((400, 4), dtype=np.float32) * 0.01
    shares[np.arange(400), 2 * first] += 0.4
    shares[np.arange(400), 2 * first + 1] += 0.4
    shares /= shares.sum(axis=1, keepdims=True)
    losses = np.log(shares.max(axis=1, keepdims=True) / shares)
    decisions = Decisions((4,), np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    tree = GrownTree(Samples(seen, shares, losses, np.ones(400)), decisions, 2).prefix(2)
    assert tree.feature[0] == 0
    assert tree.threshold[0] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(tree.actions[tree.leaf_of(seen)][:, 0], first)


def test_features_that_are_not_to_be_read_are_not():
    rng = np.random.default_rng(0)
    seen = rng.random((500, 3), dtype=np.float32)
    choices = (seen[:, :1] > 0.5).astype(np.int64)
    tree = GrownTree(Samples.of_choices(seen, choices, (2,)), Decisions((2,)), 8, features=(1, 2)).prefix(8)
    assert 0 not in tree.feature


def test_samples_that_cannot_be_imitated_are_refused():
    nothing = Samples.of_choices(np.zeros((0, 1), np.float32), np.zeros((0, 1), np.int64), (2,))
    with pytest.raises(ConfigurationError, match="0 samples for 2 leaves"):
        GrownTree(nothing, Decisions((2,)), 2)
    with pytest.raises(ConfigurationError, match=r"Choices outside \[2\]"):
        Samples.of_choices(np.zeros((1, 1), np.float32), np.full((1, 1), 2), (2,))
    one = Samples.of_choices(np.zeros((1, 1), np.float32), np.ones((1, 1), np.int64), (2,))
    with pytest.raises(ConfigurationError, match=r"Samples of 2 options, expected 5 in \[2, 3\]"):
        GrownTree(one, Decisions((2, 3)), 2)


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
    start = at.COLUMN.last_fc_pu
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
    tree = GrownTree(Samples.of_choices(seen, choices, (2,)), Decisions((2,)), 4).prefix(4)
    text = tree_text(DECODE, tree, names, np.full(tree.leaves, 1 / 3).tolist())
    assert "n = RLP x TLP <= 56.5" in text
    assert "if not (qkv ran on pu last)" in text
    assert text.count("FC kernels on fc-pim") == 1
    assert text.count("[33.3%]") == 3
    always = Samples.of_choices(seen, np.ones((300, 1), np.int64), (2,))
    one = GrownTree(always, Decisions((2,)), 4).prefix(4)
    assert tree_text(DECODE, one, names) == "FC kernels on fc-pim"


def test_words_for_what_is_not_there_are_refused():
    with pytest.raises(ConfigurationError, match="Did you mean 'n_share_of_alpha'"):
        condition(DECODE, "n_share_of_alhpa", 0.5, True)
    with pytest.raises(ConfigurationError, match="takes 4 choices, not 2"):
        action_text(SERVING, (0, 1))


# --- what is kept -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.dictionaries(st.integers(1, 64), st.floats(-10, 10), min_size=1, max_size=6),
    st.floats(-10, 10),
    st.floats(-10, 10),
    st.floats(0, 1),
)
def test_the_size_chosen_is_the_smallest_that_keeps_enough_or_else_the_best(returns, teacher, baseline, keep):
    def one(value):
        return np.array([[value]])

    size = choose_size(
        {leaves: one(value) for leaves, value in returns.items()}, one(teacher), one(baseline), keep
    )
    gain = teacher - baseline
    if gain > 0:
        enough = [leaves for leaves, value in returns.items() if (value - baseline) / gain >= keep]
    else:
        enough = [leaves for leaves, value in returns.items() if value >= teacher - 1e-3 * abs(teacher)]
    best = [leaves for leaves, value in returns.items() if value == max(returns.values())]
    assert size == min(enough or best)


def test_a_size_must_keep_enough_with_the_low_end_of_its_interval():
    rng = np.random.default_rng(0)
    baseline, teacher = np.zeros((2, 8)), np.ones((2, 8))
    sure, unsure = np.full((2, 8), 0.96), 0.97 + 0.1 * rng.standard_normal((2, 8))
    unsure += 0.97 - unsure.mean()
    assert choose_size({4: unsure, 9: sure}, teacher, baseline, 0.95) == 9
    assert choose_size({4: unsure, 9: sure}, teacher, baseline, 0.5) == 4
    assert choose_size({4: unsure, 9: sure}, teacher, baseline, 1.0) == 4


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
    np.testing.assert_array_equal(samples.losses[:, 1] == 0, n <= envs[0].alpha)
    np.testing.assert_array_equal(samples.losses[:, 0] == 0, n >= envs[0].alpha)
    last = samples.observations[:, layout.OBSERVATION_NAMES.index("last_unit_qkv_fc-pim")]
    assert not last.any()  # the pupil acts, on the PUs
    np.testing.assert_array_equal(samples.shares.argmax(axis=1), (n < envs[0].alpha).astype(int))
    few = collect(teacher, None, envs, (0, 1), 11, rng)
    assert len(few) == 10  # five of each environment
    assert len(few) < len(samples)
    weighed = collect(teacher, None, envs, (0, 1), 11, rng, np.array([2.0, 0.5]))
    np.testing.assert_allclose(weighed.weights, np.repeat([0.4, 0.1], 5))
    rule = collect(make_policy("static-pu"), None, envs, (0, 1), 11, rng)
    np.testing.assert_array_equal(rule.shares, np.tile([1, 0], (10, 1)))


def test_a_setting_counts_by_what_the_teacher_gains_there():
    teacher, baseline = np.array([[10.0, 20.0], [5.0, 5.0], [-8.0, -8.0]]), np.full((3, 2), 5.0)
    np.testing.assert_allclose(stakes_of(teacher, baseline), [10.0, 0.05, 0.08])


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


def test_of_a_network_that_scores_requests_an_order_must_be_said(tmp_path):
    folder = tmp_path / "policy"
    network, drawn = RequestNetwork(), np.random.default_rng(0).normal(size=NUM_WEIGHTS)
    scenario = get_scenario("chats/llama-65b").replace(serving={"horizon_s": 3.0})
    description = Description(
        algorithm="Evolution",
        env=SERVING_V1,
        observation=ObservationLayout(names=at.OBSERVATION_NAMES_V1),
        action=ActionLayout(options=at.NVEC_V1),
        architecture=network,
        masked=False,
        scenarios=(scenario.model_dump(mode="json"),),
        training={"timesteps": 7},
    )
    save_checkpoint(folder, Checkpoint(description, network.split(drawn)))
    code, _, error = command("--policy", folder, "--out", tmp_path / "none")
    assert code == 2
    assert "order after it" in error
    out = tmp_path / "run"
    arguments = ["--seeds", 1, "--rounds", 1, "--samples", 400, "--leaves", 4, "--out", out]
    assert command("--policy", f"{folder}+deadline", *arguments)[0] == 0
    tree = load_tree(out / "policy")
    assert tree.description.training["teacher"] == {"timesteps": 7}
    assert tree.description.env == SERVING_V1
