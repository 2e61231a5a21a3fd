"""Learned and distilled policies as ONNX models, for runtimes that have neither this project nor Python.

Both take `observation`, float32 [N, features], and give `action`, int64 [N, choices]. A network also gives `scores`,
float32 [N, sum of options], and takes `action_masks`, bool of that shape, where it was trained with them; one with
joint actions gives the choices that its joint action stands for.

A tree is a `TreeEnsembleRegressor` (ai.onnx.ml) that says the number of the leaf, and a table of what leaves do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.learned.checkpoint import Checkpoint
from agents.learned.distilled import TreeDescription
from agents.learned.networks import Architecture
from papi_env.errors import ConfigurationError

# Old enough for every runtime of the last years, and all that the graphs need.
_OPSET, _ML_OPSET, _IR_VERSION = 17, 3, 8


def onnx_package() -> Any:
    """The package onnx; ConfigurationError where it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ConfigurationError(
            "ONNX models need the package onnx: pip install 'papi-env[experiments]'"
        ) from error
    return onnx


def tree_to_onnx(description: TreeDescription) -> bytes:
    """A distilled policy as an ONNX model.

    Raises:
        ConfigurationError: the package onnx is not installed.
    """
    onnx = onnx_package()
    helper = onnx.helper
    tree = description.tree
    count = len(tree.feature)
    inner = tree.feature >= 0
    ends = np.flatnonzero(~inner)
    regressor = helper.make_node(
        "TreeEnsembleRegressor",
        ["observation"],
        ["leaf_number"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_treeids=[0] * count,
        nodes_nodeids=list(range(count)),
        nodes_featureids=np.maximum(tree.feature, 0).tolist(),
        nodes_modes=["BRANCH_LEQ" if there else "LEAF" for there in inner],
        nodes_values=tree.threshold.tolist(),
        nodes_truenodeids=np.where(inner, tree.left, 0).tolist(),
        nodes_falsenodeids=np.where(inner, tree.right, 0).tolist(),
        nodes_missing_value_tracks_true=[0] * count,
        nodes_hitrates=[1.0] * count,
        target_treeids=[0] * len(ends),
        target_nodeids=ends.tolist(),
        target_ids=[0] * len(ends),
        # Leaf numbers are exact in float32.
        target_weights=tree.left[ends].astype(np.float32).tolist(),
    )
    nodes = [
        regressor,
        helper.make_node("Cast", ["leaf_number"], ["leaf_column"], to=onnx.TensorProto.INT64),
        helper.make_node("Squeeze", ["leaf_column", "last_axis"], ["leaf"]),
        helper.make_node("Gather", ["actions", "leaf"], ["action"], axis=0),
    ]
    tables = {"actions": tree.actions, "last_axis": np.array([1], dtype=np.int64)}
    features = len(description.observation.names)
    outputs = [_value("action", onnx.TensorProto.INT64, tree.actions.shape[1])]
    properties = {
        "env": description.env,
        "features": json.dumps(list(description.observation.names)),
        "options": json.dumps(list(description.action.options)),
    }
    return model_bytes(
        nodes, tables, [_value("observation", onnx.TensorProto.FLOAT, features)], outputs, properties
    )


def network_to_onnx(checkpoint: Checkpoint) -> bytes:
    """A learned policy as an ONNX model.

    Raises:
        ConfigurationError: the package onnx is not installed, or the network is recurrent: its state would be part of
            the model's interface.
    """
    onnx = onnx_package()
    helper = onnx.helper
    description = checkpoint.description
    architecture = description.architecture
    if not isinstance(architecture, Architecture):
        raise ConfigurationError(
            f"A {description.algorithm} that sees requests is not exported as ONNX; expected one that reads no more"
        )
    if architecture.lstm is not None:
        raise ConfigurationError(
            f"A {description.algorithm} with an LSTM is not exported as ONNX; expected a network without state"
        )
    if description.draws:
        raise ConfigurationError(
            f"A {description.algorithm} that plays what it draws is not exported as ONNX; "
            "expected one that plays the best"
        )
    if description.advice:
        raise ConfigurationError(
            f"A {description.algorithm} that reads the advice of {description.advice!r} is not exported as ONNX; "
            "expected one that reads observations alone"
        )
    tables: dict[str, npt.NDArray[Any]] = dict(checkpoint.weights)
    nodes, last = [], "observation"
    activation = {"tanh": "Tanh", "relu": "Relu"}[architecture.activation]
    for layer in (*(f"hidden.{i}" for i in range(len(architecture.hidden))), "head"):
        out = "scores" if layer == "head" else f"{layer}.sum"
        nodes.append(helper.make_node("Gemm", [last, f"{layer}.weight", f"{layer}.bias"], [out], transB=1))
        if layer != "head":
            nodes.append(helper.make_node(activation, [out], [f"{layer}.out"]))
            last = f"{layer}.out"
    inputs = [_value("observation", onnx.TensorProto.FLOAT, architecture.inputs)]
    options, scores = list(architecture.options), "scores"
    if description.masked:
        inputs.append(_value("action_masks", onnx.TensorProto.BOOL, sum(options)))
        tables["never"] = np.array(-np.inf, dtype=np.float32)
        nodes.append(helper.make_node("Where", ["action_masks", "scores", "never"], ["allowed"]))
        scores = "allowed"
    tables["options"] = np.array(options, dtype=np.int64)
    parts = [f"choice.{k}.scores" for k in range(len(options))]
    nodes.append(helper.make_node("Split", [scores, "options"], parts, axis=1))
    best = [f"choice.{k}" for k in range(len(options))]
    nodes += [
        helper.make_node("ArgMax", [part], [name], axis=1, keepdims=1)
        for part, name in zip(parts, best, strict=True)
    ]
    choices = len(description.action.options)
    if checkpoint.joint_actions is not None:
        tables["joint_actions"] = checkpoint.joint_actions
        tables["last_axis"] = np.array([1], dtype=np.int64)
        nodes.append(helper.make_node("Squeeze", [best[0], "last_axis"], ["joint"]))
        nodes.append(helper.make_node("Gather", ["joint_actions", "joint"], ["action"], axis=0))
    else:
        nodes.append(helper.make_node("Concat", best, ["action"], axis=1))
    outputs = [
        _value("action", onnx.TensorProto.INT64, choices),
        _value("scores", onnx.TensorProto.FLOAT, sum(options)),
    ]
    properties = {
        "env": description.env,
        "features": json.dumps(list(description.observation.names)),
        "options": json.dumps(list(description.action.options)),
    }
    return model_bytes(nodes, tables, inputs, outputs, properties)


def _value(name: str, kind: int, width: int) -> Any:
    return onnx_package().helper.make_tensor_value_info(name, kind, ["N", width])


def model_bytes(
    nodes: list[Any],
    tables: Mapping[str, npt.NDArray[Any]],
    inputs: list[Any],
    outputs: list[Any],
    properties: dict[str, str],
    name: str = "policy",
) -> bytes:
    """A checked model with one graph of that name, as bytes."""
    onnx = onnx_package()
    graph = onnx.helper.make_graph(
        nodes,
        name,
        inputs,
        outputs,
        [onnx.numpy_helper.from_array(array, table) for table, array in tables.items()],
    )
    model = onnx.helper.make_model(
        graph,
        producer_name="papi_env",
        ir_version=_IR_VERSION,
        opset_imports=[
            onnx.helper.make_opsetid("", _OPSET),
            onnx.helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
        ],
    )
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
