"""A distilled tree decides as its file says, everywhere; files that are no tree are refused with the reason."""

import json
import pickle
import re

import numpy as np
import onnx
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from agents.evaluate import evaluate
from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    document_digest,
    save_checkpoint,
)
from agents.learned.distilled import (
    TREE,
    DistilledPolicy,
    Tree,
    describe_tree,
    holds_tree,
    load_tree,
    tree_document,
)
from agents.learned.networks import Architecture, LstmShape, Network
from agents.learned.onnx_export import network_to_onnx, tree_to_onnx
from agents.learned.policy import LearnedPolicy, options_of
from agents.registry import make_policy
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError, DataError

ENVS = {
    "papi_env/Decode-v0": DecodeVectorEnv,
    "papi_env/Kernels-v0": KernelsVectorEnv,
    "papi_env/Serving-v0": ServingVectorEnv,
}


@st.composite
def trees(draw, features=5, options=(3, 2), max_leaves=12):
    """A tree of random shape, thresholds and actions."""
    leaves = draw(st.integers(1, max_leaves))
    columns = {name: [] for name in ("feature", "threshold", "left", "right")}
    waiting, next_node, next_leaf = [leaves], 1, 0
    for size in waiting:  # breadth first, each with the leaves that it must hold
        if size == 1:
            row = (-1, 0.0, next_leaf, next_leaf)
            next_leaf += 1
        else:
            left = draw(st.integers(1, size - 1))
            waiting += [left, size - left]
            threshold = draw(st.floats(0, 1, width=32))
            row = (draw(st.integers(0, features - 1)), threshold, next_node, next_node + 1)
            next_node += 2
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    actions = [[draw(st.integers(0, n - 1)) for n in options] for _ in range(leaves)]
    return Tree(
        np.array(columns["feature"], dtype=np.int16),
        np.array(columns["threshold"], dtype=np.float32),
        np.array(columns["left"], dtype=np.int16),
        np.array(columns["right"], dtype=np.int16),
        np.array(actions, dtype=np.int64),
    )


def described(tree, features=5, options=(3, 2), **fields):
    fields = {"env": "papi_env/Serving-v0", "teacher": "PPO"} | fields
    return describe_tree(tree, names=[f"x{i}" for i in range(features)], options=options, **fields)


def decided(document, observation):
    """The documented procedure, in plain Python."""
    nodes, node = document["nodes"], 0
    while nodes["feature"][node] >= 0:
        below = float(observation[nodes["feature"][node]]) <= nodes["threshold"][node]
        node = nodes["left" if below else "right"][node]
    return document["actions"][nodes["left"][node]]


def save(folder, description):
    folder.mkdir(exist_ok=True)
    (folder / TREE).write_text(json.dumps(tree_document(description)))
    return folder


observations = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((7, 5), dtype=np.float32)
)


@settings(max_examples=60)
@given(trees(), observations, st.data())
def test_the_policy_its_file_and_its_onnx_model_decide_alike(tmp_path_factory, tree, seen, data):
    inner = tree.feature >= 0
    if inner.any():  # a value right at a threshold goes left
        node = data.draw(st.sampled_from(np.flatnonzero(inner).tolist()))
        seen[0, tree.feature[node]] = tree.threshold[node]
    description = described(tree)
    folder = save(tmp_path_factory.mktemp("trees") / "one", description)
    policy = load_tree(folder)
    document = json.loads((folder / TREE).read_text())
    expected = [decided(document, row) for row in seen]
    actions, _ = policy.predict(seen)
    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal([policy.predict(row)[0] for row in seen], expected)
    (found,) = ReferenceEvaluator(onnx.load_from_string(tree_to_onnx(description))).run(
        None, {"observation": seen}
    )
    np.testing.assert_array_equal(found, expected)
    assert policy.description == description
    assert policy.tree.depth < policy.tree.leaves == len(tree.actions)


@settings(max_examples=50)
@given(trees(), st.data())
def test_no_file_that_was_cut_off_or_changed_is_read(tmp_path_factory, tree, data):
    folder = save(tmp_path_factory.mktemp("trees") / "one", described(tree, training={"steps": 3}))
    content = (folder / TREE).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        changed = content[:place]
    else:
        flipped = content[place] ^ data.draw(st.integers(1, 255))
        changed = content[:place] + bytes([flipped]) + content[place + 1 :]
    (folder / TREE).write_bytes(changed)
    try:
        same = json.loads(changed) == json.loads(content)
    except ValueError:
        same = False
    if same:
        load_tree(folder)
        return
    with pytest.raises(DataError, match=re.escape(str(folder))):
        load_tree(folder)


STUMP = Tree(
    np.array([1, -1, -1], dtype=np.int16),
    np.array([0.5, 0, 0], dtype=np.float32),
    np.array([1, 0, 1], dtype=np.int16),
    np.array([2, 0, 1], dtype=np.int16),
    np.array([[0, 0], [2, 1]]),
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["nodes"]["left"].__setitem__(0, 0), "children 0 and 2, expected later nodes"),
        (lambda d: d["nodes"]["left"].__setitem__(0, 2), "nodes are no tree"),
        (lambda d: d["nodes"]["left"].__setitem__(0, 9), "nodes are no tree"),
        (lambda d: d["nodes"]["feature"].__setitem__(0, 5), "node 0 reads feature 5 of 5"),
        (lambda d: d["nodes"]["feature"].__setitem__(0, -2), "node 0 reads feature -2"),
        (lambda d: d["nodes"]["left"].__setitem__(1, 1), "node 1 is leaf 1 and 0"),
        (lambda d: d["nodes"]["threshold"].__setitem__(0, 0.1), "threshold 0.1 is no float32 number"),
        (lambda d: d["nodes"]["threshold"].pop(), "nodes have"),
        (lambda d: d["actions"].pop(), "1 leaves make 1"),
        (lambda d: d["actions"].__setitem__(1, [3, 0]), r"leaf 1 does \[3, 0\]"),
        (lambda d: d["actions"].__setitem__(1, [0]), r"leaf 1 does \[0\]"),
        (lambda d: d.update(format="papi_env policy"), "format: found 'papi_env policy'"),
        (lambda d: d.update(version=2), "version"),
        (lambda d: d.update(wieghts=[]), "wieghts: not a known field"),
        (lambda d: d["action"].update(flat=True), "flat actions"),
    ],
)
def test_what_is_no_tree_is_refused_although_its_digest_is_right(tmp_path, change, message):
    document = tree_document(described(STUMP))
    del document["sha256"]
    change(document)
    (tmp_path / TREE).write_text(json.dumps({**document, "sha256": document_digest(document)}))
    with pytest.raises(DataError, match=message):
        load_tree(tmp_path)


def test_a_pickle_or_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"holds no tree\.json"):
        load_tree(tmp_path)
    (tmp_path / TREE).write_bytes(pickle.dumps({"format": "papi_env tree"}))
    with pytest.raises(DataError, match="a pickle; loading it would run code"):
        load_tree(tmp_path)


def test_what_cannot_be_described_is_refused():
    with pytest.raises(DataError, match="reads feature 1 of 1"):
        described(STUMP, features=1)


# --- playing ----------------------------------------------------------------------------------------


def policy_for(env_id, env):
    """A tree that does one thing below and another above half of the first feature."""
    options = options_of(env.single_space())
    rng = np.random.default_rng(0)
    actions = np.array([[int(rng.integers(n)) for n in options] for _ in range(2)])
    tree = Tree(STUMP.feature, STUMP.threshold, STUMP.left, STUMP.right, actions)
    names = env.observation_names
    return DistilledPolicy(describe_tree(tree, env=env_id, teacher="mine", names=names, options=options))


@pytest.mark.parametrize("env_id", ENVS)
def test_a_tree_plays_the_problem_it_is_for_and_no_other(env_id, tmp_path):
    serving = env_id.endswith("Serving-v0")
    scenario = {"serving": {"horizon_s": 2.0}} if serving else {"batch_size": 2, "speculation": 8}
    env = ENVS[env_id](num_envs=3, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=40, **scenario)
    folder = save(tmp_path / "policy", policy_for(env_id, env).description)
    assert holds_tree(folder)
    policy = make_policy(str(folder))
    assert isinstance(policy, DistilledPolicy)
    metrics = evaluate(policy, env, (0, 1, 2))
    assert np.isfinite(metrics["return"]).all()
    for other_id, other in ENVS.items():
        if other_id != env_id:
            with pytest.raises(ConfigurationError, match=r"reads other observations|takes actions of"):
                policy.bind(other(num_envs=1))


def test_observations_of_another_length_are_refused():
    with pytest.raises(ConfigurationError, match="the tree reads 5 features"):
        DistilledPolicy(described(STUMP)).predict(np.zeros((2, 4), dtype=np.float32))


# --- networks as ONNX -------------------------------------------------------------------------------

widths = st.integers(1, 6)


@settings(max_examples=60)
@given(
    st.builds(
        Architecture,
        inputs=st.just(5),
        hidden=st.lists(widths, max_size=3).map(tuple),
        activation=st.sampled_from(["tanh", "relu"]),
        head=st.sampled_from(["categorical", "values"]),
        options=st.lists(widths, min_size=1, max_size=4).map(tuple),
    ),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_network_and_its_onnx_model_decide_alike(architecture, masked, seed):
    rng = np.random.default_rng(seed)
    flat = len(architecture.options) == 1
    description = Description(
        algorithm="PPO",
        env="papi_env/Serving-v0",
        observation=ObservationLayout(names=tuple(f"x{i}" for i in range(5))),
        action=ActionLayout(options=(3, 2) if flat else architecture.options, flat=flat),
        architecture=architecture,
        masked=masked,
    )
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in architecture.shapes().items()
    }
    table = rng.integers(0, (3, 2), size=(architecture.options[0], 2)) if flat else None
    checkpoint = Checkpoint(description, weights, table)
    seen = rng.random((9, 5), dtype=np.float32)
    masks = rng.random((9, sum(architecture.options))) < 0.7
    starts = np.cumsum((0, *architecture.options[:-1]))
    masks[:, starts] = True  # something is allowed of each choice
    feeds = {"observation": seen} | ({"action_masks": masks} if masked else {})
    model = ReferenceEvaluator(onnx.load_from_string(network_to_onnx(checkpoint)))
    actions, scores = model.run(None, feeds)
    policy = LearnedPolicy(checkpoint)
    expected, _ = policy.predict(seen, action_masks=masks if masked else None)
    own, _ = Network(architecture, weights).scores(seen)
    np.testing.assert_allclose(scores, own, rtol=1e-4, atol=1e-5)
    # Sums are ordered otherwise, so where two options are all but equal either may be chosen.
    _, losses = Network(architecture, weights).preferences(own, masks if masked else None)
    clear = np.add.reduceat(losses < 1e-4, starts, axis=1) <= 1
    if flat:
        clear = np.repeat(clear, 2, axis=1)
    np.testing.assert_array_equal(actions[clear], np.reshape(expected, actions.shape)[clear])


def test_a_recurrent_network_is_not_exported(tmp_path):
    architecture = Architecture(
        inputs=2,
        lstm=LstmShape(hidden_size=3, layers=1),
        hidden=(),
        activation="tanh",
        head="categorical",
        options=(2,),
    )
    description = Description(
        algorithm="RecurrentPPO",
        env="papi_env/Decode-v0",
        observation=ObservationLayout(names=("a", "b")),
        action=ActionLayout(options=(2,)),
        architecture=architecture,
        masked=False,
    )
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in architecture.shapes().items()}
    checkpoint = Checkpoint(description, weights)
    save_checkpoint(tmp_path / "policy", checkpoint)
    with pytest.raises(ConfigurationError, match="RecurrentPPO with an LSTM is not exported"):
        network_to_onnx(checkpoint)


@pytest.fixture
def constant():
    """A network with the scores log(0.5, 0.3, 0.2), log(0.9, 0.1) and 0 of three choices, whatever it sees."""
    architecture = Architecture(inputs=1, hidden=(), activation="tanh", head="categorical", options=(3, 2, 1))
    weights = {"head.weight": np.zeros((6, 1)), "head.bias": np.log([0.5, 0.3, 0.2, 0.9, 0.1, 1.0])}
    return Network(architecture, {name: array.astype(np.float32) for name, array in weights.items()})


def test_preferences_are_probabilities_and_what_is_lost(constant):
    scores, _ = constant.scores(np.zeros((1, 1), dtype=np.float32))
    shares, losses = constant.preferences(scores, None)
    np.testing.assert_allclose(shares, [[0.5, 0.3, 0.2, 0.9, 0.1, 1.0]], atol=1e-6)
    np.testing.assert_allclose(losses, [np.log([1, 5 / 3, 5 / 2, 1, 9, 1])], atol=1e-6)
    masks = np.array([[True, False, True, True, False, True]])
    shares, losses = constant.preferences(scores, masks)
    np.testing.assert_allclose(shares, [[5 / 7, 0, 2 / 7, 1, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(losses, [[0, 10, np.log(5 / 2), 0, 10, 0]], atol=1e-6)
    far = np.array([[0, -30, -5, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(constant.preferences(far, None)[1], [[0, 10, 5, 0, 0, 0]])


def test_preferences_of_values_are_ahead_of_the_worst(constant):
    values = Network(constant.architecture.model_copy(update={"head": "values"}), constant._weights)
    scores = np.array([[3, 7, 1, 2, 2, 5]], dtype=np.float32)
    shares, losses = values.preferences(scores, None)
    np.testing.assert_array_equal(shares, [[0, 6, 0, 0, 0, 0]])
    np.testing.assert_array_equal(losses, [[4, 0, 6, 0, 0, 0]])
    shares, losses = values.preferences(scores, np.array([[True, False, True, True, True, True]]))
    np.testing.assert_array_equal(shares, [[2, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(losses, [[0, 2, 2, 0, 0, 0]])


def test_preferences_of_numbered_actions_are_of_the_joint_ones():
    table = np.array([[0, 0], [0, 1], [1, 0]])
    architecture = Architecture(inputs=1, hidden=(), activation="tanh", head="categorical", options=(3,))
    description = Description(
        algorithm="MaskablePPO",
        env="papi_env/Kernels-v0",
        observation=ObservationLayout(names=("a",)),
        action=ActionLayout(options=(2, 2), flat=True),
        architecture=architecture,
        masked=True,
    )
    weights = {
        "head.weight": np.zeros((3, 1), np.float32),
        "head.bias": np.log([0.2, 0.3, 0.5]).astype(np.float32),
    }
    policy = LearnedPolicy(Checkpoint(description, weights, table))
    chosen, shares, losses, _ = policy.preferences(np.zeros((2, 1), dtype=np.float32))
    np.testing.assert_array_equal(chosen, [[1, 0]] * 2)
    np.testing.assert_allclose(shares, [[0.2, 0.3, 0.5]] * 2, atol=1e-6)
    np.testing.assert_allclose(losses, [np.log([2.5, 5 / 3, 1])] * 2, atol=1e-6)
