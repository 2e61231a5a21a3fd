"""A merged RepMLPNet as an ONNX model, and running one. Needs torch, and the package onnx.

It takes `images`, float32 [N, channels, side, side] of the network's own size, and gives `logits`, float32
[N, classes]: the layers of `papi_env.workload.vision.repmlp`, one for one.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from agents.learned.onnx_export import model_bytes, onnx_package
from papi_env.errors import ConfigurationError
from papi_env.workload.vision.injection import BatchNorm
from papi_env.workload.vision.repmlp import ConvBatchNorm, RepMLPBlock, RepMLPNetwork, RepMLPUnit


class _Graph:
    """Nodes in order, and the arrays that they name; every method adds nodes and returns their output's name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(onnx_package().helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def array(self, name: str, values: Tensor | npt.NDArray[Any]) -> str:
        self.arrays[name] = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        return name

    def convolution(self, x: str, layer: nn.Conv2d, name: str) -> str:
        tensors = [("weight", layer.weight), *([] if layer.bias is None else [("bias", layer.bias)])]
        return self.node(
            "Conv",
            [x, *(self.array(f"{name}.{part}", tensor) for part, tensor in tensors)],
            strides=list(layer.stride),
            group=layer.groups,
        )

    def batch_norm(self, x: str, layer: nn.Module, name: str) -> str:
        assert isinstance(layer, BatchNorm)
        found = {
            "weight": layer.weight,
            "bias": layer.bias,
            "mean": layer.running_mean,
            "var": layer.running_var,
        }
        tensors = [
            self.array(f"{name}.{part}", tensor) for part, tensor in found.items() if tensor is not None
        ]
        return self.node("BatchNormalization", [x, *tensors], epsilon=layer.eps)

    def embedding(self, x: str, layer: ConvBatchNorm, name: str) -> str:
        y = self.batch_norm(self.convolution(x, layer.conv, f"{name}.conv"), layer.bn, f"{name}.bn")
        return self.node("Relu", [y]) if layer.relu else y

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        name = f"shape.{'x'.join(map(str, shape))}"
        return self.node("Reshape", [x, self.array(name, np.array(shape, dtype=np.int64))])

    def gelu(self, x: str) -> str:
        root = self.array("root_half", np.array(math.sqrt(0.5), dtype=np.float32))
        one, half = (self.array(f"number.{v}", np.array(v, dtype=np.float32)) for v in (1.0, 0.5))
        erf = self.node("Erf", [self.node("Mul", [x, root])])
        return self.node("Mul", [self.node("Mul", [x, half]), self.node("Add", [erf, one])])

    def block(self, x: str, block: RepMLPBlock, channels: int, side: int, name: str) -> str:
        """As `RepMLPBlock.forward`, in deploy form, on a map of `side` x `side`."""
        (height, width), sets = block.partition, block.share_sets
        down, across, shared = side // height, side // width, channels // sets
        parts = self.reshape(x, (-1, shared, sets, down, height, across, width))
        parts = self.node("Transpose", [parts], perm=[0, 3, 5, 1, 2, 4, 6])
        y = self.convolution(self.reshape(parts, (-1, sets * height * width, 1, 1)), block.fc3, f"{name}.fc3")
        y = self.reshape(y, (-1, down, across, shared, sets, height, width))
        y = self.reshape(self.node("Transpose", [y], perm=[0, 3, 4, 1, 5, 2, 6]), (-1, channels, side, side))
        means = self.node("GlobalAveragePool", [x])
        hidden = self.node("Relu", [self.convolution(means, block.gp.fc1, f"{name}.gp.fc1")])
        factors = self.node("Sigmoid", [self.convolution(hidden, block.gp.fc2, f"{name}.gp.fc2")])
        return self.node("Mul", [y, factors])

    def unit(self, x: str, unit: RepMLPUnit, channels: int, side: int, name: str) -> str:
        normed = self.batch_norm(x, unit.prebn1, f"{name}.prebn1")
        y = self.node(
            "Add", [x, self.block(normed, unit.repmlp_block, channels, side, f"{name}.repmlp_block")]
        )
        z = self.batch_norm(y, unit.prebn2, f"{name}.prebn2")
        z = self.embedding(z, unit.ffn_block.ffn_fc1, f"{name}.ffn_block.ffn_fc1")
        z = self.embedding(self.gelu(z), unit.ffn_block.ffn_fc2, f"{name}.ffn_block.ffn_fc2")
        return self.node("Add", [y, z])


def network_to_onnx(network: RepMLPNetwork) -> bytes:
    """A network in deploy form as an ONNX model, for images of its own size.

    Raises:
        ConfigurationError: a network in training form, or in training mode; or onnx is not installed.
    """
    blocks = [module for module in network.modules() if isinstance(module, RepMLPBlock)]
    if network.training or not all(block.deploy for block in blocks):
        raise ConfigurationError(
            f"{network.spec.name}: found training form or mode, expected deploy form in evaluation: call eval() and "
            "locality_injection() first"
        )
    spec, graph = network.spec, _Graph()
    x = graph.embedding("images", network.conv_embedding, "conv_embedding")
    for stage, units in enumerate(network.stages):
        assert isinstance(units, nn.ModuleList)
        for index, unit in enumerate(units):
            assert isinstance(unit, RepMLPUnit)
            x = graph.unit(x, unit, spec.channels[stage], spec.map_size(stage), f"stages.{stage}.{index}")
        if stage < len(network.embeds):
            embed = network.embeds[stage]
            assert isinstance(embed, ConvBatchNorm)
            x = graph.embedding(x, embed, f"embeds.{stage}")
    x = graph.node("GlobalAveragePool", [graph.batch_norm(x, network.head_norm, "head_norm")])
    head = [graph.array(f"head.{part}", tensor) for part, tensor in network.head.named_parameters()]
    graph.node("Gemm", [graph.node("Flatten", [x]), *head], "logits", transB=1)

    onnx = onnx_package()
    size = ["N", spec.image_channels, spec.image_size, spec.image_size]
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("images", size), ("logits", ["N", spec.classes]))
    )
    properties = {"network": json.dumps(spec.model_dump(mode="json"))}
    return model_bytes(graph.nodes, graph.arrays, inputs, outputs, properties, spec.name)


def run_onnx(model: bytes, images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], str]:
    """Logits of a model, and by what: onnxruntime where it is installed, else the reference in onnx."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (found,) = session.run(["logits"], {"images": images})
        return np.asarray(found), f"onnxruntime {onnxruntime.__version__}"
    onnx = onnx_package()
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(onnx.load_from_string(model)).run(["logits"], {"images": images})
    return np.asarray(found), f"the reference of onnx {onnx.__version__}"
