"""Image encodes as tables: what each stage costs on each unit for any number of images, computed once.

Which unit may run what: FC1, FC2, FC3 and FFN are FC kernels and run where FC kernels can. The embeddings are
convolutions whose windows do not overlap, so they are FC kernels too, but no action names them: they run on
the PUs if there are any. The local perceptron's windows overlap; gathering each input again and again into
the GEMV buffers is not what PIM does, so it runs on the PUs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from papi_env.hardware.system import System
from papi_env.hardware.table import CostTable
from papi_env.hardware.threshold import least_time_threshold
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES, UnitName
from papi_env.kernel import FP16_BYTES, FloatArray, Kernel, KernelClass, activation_bytes, macs
from papi_env.scenario import Scenario
from papi_env.simulation.batch import state as at
from papi_env.workload.images import MAX_IMAGES, Images
from papi_env.workload.transformer import Transformer
from papi_env.workload.vision.network import STRIDE, stage_kernels

# The class of a kernel among those of a stage: FC1 with FC2, FC3, FFN, convolutions.
_STAGE_CLASS = {
    KernelClass.REPMLP_FC1: 0,
    KernelClass.REPMLP_FC2: 0,
    KernelClass.REPMLP_FC3: 1,
    KernelClass.REPMLP_FFN: 2,
    KernelClass.CONVOLUTION: 3,
}
# What is combined at once: the scales of the channels, and the map.
_SCALES = (KernelClass.REPMLP_FC1, KernelClass.REPMLP_FC2)
_MAPS = (KernelClass.REPMLP_FFN,)
_COUNTS = np.arange(MAX_IMAGES + 1)
# Image counts of the offline sweep; chosen: 1-64, as many as a batch of requests in the paper.
SWEPT_IMAGES = 64


@dataclass(frozen=True)
class StageProfile:
    """The offline profile of a network: what a scheduler may know of its kernels, by stage and class.

    Attributes:
        rows: input vectors per weight matrix, int64 [stages, 3 classes, images = 0..128].
        intensity: FLOP per byte of weights and activations, float64 of the same shape; 0 without images.
        alpha: threshold on rows; alpha_intensity: on intensity, FLOP/B (see `least_time_threshold`).
    """

    rows: npt.NDArray[np.int64]
    intensity: FloatArray
    alpha: float
    alpha_intensity: float


def convolution_unit(system: System) -> UnitName:
    """The unit of the embeddings, and of the local perceptron, which needs PUs."""
    return "pu" if system.pu is not None else "fc-pim"


def stage_costs(system: System, images: Images) -> FloatArray:
    """Seconds and joules of a stage by class, float64 [stages, 4 classes, units, images = 0..128, (s, J, by cause)].

    All units of the stage together; infinite where a unit cannot run the class.
    """
    net = images.network
    table = np.zeros((net.stages, at.NUM_STAGE_CLASSES + 1, at.NUM_UNITS, MAX_IMAGES + 1, at.NUM_COSTS))
    home = UNIT_NAMES.index(convolution_unit(system))
    for stage in range(net.stages):
        kernels = stage_kernels(net, stage, 1, images.image_size, images.reparameterized)
        costs = CostTable(system, kernels)
        for i, kernel in enumerate(kernels):
            row = _STAGE_CLASS[kernel.kernel_class]
            for unit in range(at.NUM_UNITS):
                if kernel.kernel_class is KernelClass.CONVOLUTION and unit != home:
                    table[stage, row, unit] = np.inf
                    continue
                # Rows grow in proportion to the images.
                seconds, joules = costs.cost(i, unit, kernel.rows * _COUNTS)
                table[stage, row, unit, :, at.COST_S] += seconds
                table[stage, row, unit, :, at.COST_J] += joules
                by_cause = costs.joules_by_cause(i, unit, kernel.rows * _COUNTS)
                table[stage, row, unit, :, at.COST_CAUSES :] += by_cause
    return table


def stage_moves(system: System, images: Images) -> FloatArray:
    """What a stage moves, float64 [stages, images = 0..128, columns]; columns as in `layout`.

    Outputs are combined over the GPUs (or weight stacks) twice a unit of the network, as in a decoder layer:
    after FC2, the scales of the channels, and after the second FFN matrix, the map. FC3's share-sets and
    channels are independent. A crossing between PUs and FC-PIM moves the stage's input, the pooled channels
    (as many bytes as the scales on their way back), or the map.
    """
    net = images.network
    table = np.zeros((net.stages, MAX_IMAGES + 1, at.NUM_STAGE_MOVES))
    for stage in range(net.stages):
        side, channels = net.map_size(stage, images.image_size), net.channels[stage]
        pooled = FP16_BYTES * channels * _COUNTS.astype(np.float64)
        feature_map = pooled * side * side
        # Images come from outside, to whichever unit runs the embedding.
        given = feature_map / channels * (net.channels[stage - 1] * STRIDE**2) if stage else 0 * pooled
        for seconds, joules, size in (
            (at.INPUT_S, at.INPUT_J, given),
            (at.POOLED_S, at.POOLED_J, pooled),
            (at.MAP_S, at.MAP_J, feature_map),
        ):
            table[stage, :, seconds], table[stage, :, joules] = crossing(system, size)
        kernels = stage_kernels(net, stage, 1, images.image_size, images.reparameterized)
        for parts in (_SCALES, _MAPS):
            block = [kernel for kernel in kernels if kernel.kernel_class in parts][:2]
            rows, count = block[0].rows * _COUNTS, block[0].count
            table[stage, :, at.STAGE_COMBINE_S] += count * system.combine_s(block, rows)
            table[stage, :, at.STAGE_COMBINE_J] += count * system.combine_j(block, rows)
    return table


def crossing(system: System, size: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Seconds and joules of `size` bytes crossing once between PUs and FC-PIM; nothing where one is absent."""
    if system.pu is None or system.fc_pim is None or system.fabric is None:
        return np.zeros_like(size), np.zeros_like(size)
    # Every GPU has its own link to its own stacks.
    links = system.fabric.model_copy(update={"count": system.pu.count * system.fabric.count})
    return links.transfer_s(size), size * system.fabric.j_per_byte


def profile_stages(images: Images, costs: FloatArray, system: System) -> StageProfile:
    """The network's rows and intensities, and both thresholds; `costs` from `stage_costs`."""
    net = images.network
    rows = np.zeros((net.stages, at.NUM_STAGE_CLASSES, MAX_IMAGES + 1), dtype=np.int64)
    intensity = np.zeros(rows.shape)
    for stage in range(net.stages):
        kernels = stage_kernels(net, stage, 1, images.image_size, images.reparameterized)
        # A class's kernels have one shape, up to transposition; the classifier, at the end, is left out.
        for kernel in reversed(kernels):
            if (kind := _STAGE_CLASS[kernel.kernel_class]) < at.NUM_STAGE_CLASSES:
                rows[stage, kind] = kernel.rows * _COUNTS
                intensity[stage, kind] = _intensity((kernel,), kernel.rows * _COUNTS)
    swept = slice(1, SWEPT_IMAGES + 1)
    pu, pim = (costs[:, : at.NUM_STAGE_CLASSES, unit, swept, at.COST_S] for unit in (PU, FC_PIM))
    alphas = [least_time_threshold(system, measure[..., swept], pu, pim) for measure in (rows, intensity)]
    return StageProfile(rows, intensity, *alphas)


def decode_intensity(model: Transformer, rows: npt.NDArray[np.int64]) -> FloatArray:
    """FLOP per byte of all FC kernels of a decode iteration with n = `rows`, float64 of its shape."""
    return _intensity(model.decode_kernels(), rows)


def _intensity(kernels: tuple[Kernel, ...], rows: npt.NDArray[np.int64]) -> FloatArray:
    flops = sum(2 * kernel.count * macs(kernel, rows) for kernel in kernels)
    size = sum(kernel.count * (kernel.weight_bytes + activation_bytes(kernel, rows)) for kernel in kernels)
    return np.asarray(flops / size)


def stage_features(profile: StageProfile) -> FloatArray:
    """Rows, then intensities, as observed: float64 [stages, images = 0..128, 6] in [0, 1]."""
    parts = (np.log2(1 + profile.rows) / 32, np.log2(1 + profile.intensity) / 16)
    return np.ascontiguousarray(np.concatenate(parts, axis=1).transpose(0, 2, 1))


def stage_descriptors(scenario: Scenario) -> list[float]:
    """The constant features of images, in the order of `state.STAGE_DESCRIPTOR_FEATURES`."""
    images = scenario.images
    if images is None:
        return [0.0] * len(at.STAGE_DESCRIPTOR_NAMES)
    share = 0.0 if scenario.model is None else scenario.image_tokens / scenario.model.context_limit
    return [
        float(np.log10(images.weight_bytes)) / 20,
        min(sum(images.network.blocks) / 100, 1.0),
        float(images.reparameterized),
        share,
    ]
