"""RepMLPNet in torch is the published network: its names, sizes, work and arithmetic."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from papi_env.errors import ConfigurationError
from papi_env.workload.vision.injection import randomize_statistics
from papi_env.workload.vision.network import REPMLPNETS, RepMLPNet
from papi_env.workload.vision.repmlp import RepMLPBlock, create_repmlpnet

# Parameters (the released models', in training form) in millions; multiply-accumulates of an image at native size
# in deploy form in billions.
PUBLISHED = {
    "RepMLPNet-T224": (38.3, 2.80),
    "RepMLPNet-T256": (58.7, 4.25),
    "RepMLPNet-B224": (68.2, 6.66),
    "RepMLPNet-B256": (96.5, 9.62),
    "RepMLPNet-D256": (86.9, 8.61),
    "RepMLPNet-L256": (117.7, 11.58),
}
SMALL = RepMLPNet(
    name="small",
    channels=(8, 12),
    share_sets=(2, 4),
    blocks=(1, 2),
    partitions=(4, 2),
    image_size=16,
    classes=10,
)
FORMS = pytest.mark.parametrize("deploy", [False, True], ids=["training", "deploy"])
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def without_memory(name, deploy):
    with torch.device("meta"):
        return create_repmlpnet(name, deploy).eval()


@FORMS
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published(name, deploy):
    parameters = sum(parameter.numel() for parameter in without_memory(name, deploy).parameters())
    assert parameters / 1e6 == pytest.approx(PUBLISHED[name][0], rel=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_accumulates_are_the_published(name):
    network = without_memory(name, deploy=True)
    macs = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            # Each output element is a sum over a filter (a row of the weights).
            layer.register_forward_hook(
                lambda layer, _, output: macs.append(output.numel() * layer.weight[0].numel())
            )
    size = network.spec.image_size
    network(torch.zeros(1, 3, size, size, device="meta"))
    assert sum(macs) / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.005)


@FORMS
@pytest.mark.parametrize("name", REPMLPNETS)
def test_names_are_the_released_checkpoints(name, deploy):
    def conv_bn(prefix):
        return {f"{prefix}.conv.weight", *(f"{prefix}.bn.{part}" for part in BATCH_NORM)}

    spec = REPMLPNETS[name]
    expected = conv_bn("conv_embedding") | {f"head_norm.{part}" for part in BATCH_NORM}
    expected |= {"head.weight", "head.bias"}
    for stage in range(3):
        expected |= conv_bn(f"embeds.{stage}")
    for stage, blocks in enumerate(spec.blocks):
        for unit in (f"stages.{stage}.{index}" for index in range(blocks)):
            expected |= {f"{unit}.prebn{norm}.{part}" for norm in (1, 2) for part in BATCH_NORM}
            expected |= conv_bn(f"{unit}.ffn_block.ffn_fc1") | conv_bn(f"{unit}.ffn_block.ffn_fc2")
            block = f"{unit}.repmlp_block"
            expected |= {f"{block}.gp.fc{fc}.{part}" for fc in (1, 2) for part in ("weight", "bias")}
            expected |= {f"{block}.fc3.weight"}
            if deploy:
                expected |= {f"{block}.fc3.bias"}
            else:
                expected |= {f"{block}.fc3_bn.{part}" for part in BATCH_NORM}
                expected |= conv_bn(f"{block}.repconv1") | conv_bn(f"{block}.repconv3")
    assert set(without_memory(name, deploy).state_dict()) == expected


@FORMS
def test_shapes_are_the_released_checkpoints(deploy):
    # Of RepMLPNet-B224, stage 2: 384 channels in 32 share-sets, partitions of 14 x 14.
    state = without_memory("repmlpnet-b224", deploy).state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    block = "stages.2.11.repmlp_block"
    assert shapes["conv_embedding.conv.weight"] == [96, 3, 4, 4]
    assert shapes["embeds.1.conv.weight"] == [384, 192, 2, 2]
    assert shapes[f"{block}.gp.fc1.weight"] == [96, 384, 1, 1]
    assert shapes[f"{block}.gp.fc2.bias"] == [384]
    assert shapes[f"{block}.fc3.weight"] == [32 * 196, 196, 1, 1]
    if deploy:
        assert shapes[f"{block}.fc3.bias"] == [32 * 196]
    else:
        assert shapes[f"{block}.fc3_bn.running_var"] == [32]
        assert shapes[f"{block}.repconv3.conv.weight"] == [32, 1, 3, 3]
    assert shapes["stages.2.11.ffn_block.ffn_fc1.conv.weight"] == [4 * 384, 384, 1, 1]
    assert shapes["head.weight"] == [1000, 768]


def test_networks_are_found_in_any_case_or_given_as_a_spec():
    for name in ("repmlpnet-d256", "RepMLPNet-D256", "REPMLPNET-D256"):
        assert without_memory(name, False).spec is REPMLPNETS["repmlpnet-d256"]
    assert create_repmlpnet(SMALL).spec is SMALL
    with pytest.raises(ConfigurationError, match="Did you mean 'repmlpnet-l256'"):
        create_repmlpnet("RepMLPNet-L-256")
    with pytest.raises(ConfigurationError, match="Unknown RepMLPNet 3"):
        create_repmlpnet(3)


@settings(max_examples=30)  # loops
@given(
    sets=st.integers(1, 3),
    shared=st.integers(1, 3),
    partition=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    parts=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    kernels=st.sampled_from([(), (1,), (1, 3), (5,)]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_a_block_is_its_definition(sets, shared, partition, parts, kernels, seed):
    """Channel by channel and partition by partition, with loops and matrices."""
    torch.manual_seed(seed)
    channels, (h, w) = sets * shared, partition
    block = RepMLPBlock(channels, partition, sets, kernels, reduction=1)
    randomize_statistics(block, seed).double().eval()
    x = torch.randn(2, channels, h * parts[0], w * parts[1], dtype=torch.float64)

    matrices = block.fc3.weight.reshape(sets, h * w, h * w)
    means = x.mean((2, 3))
    fc1, fc2 = block.gp.fc1, block.gp.fc2
    hidden = torch.relu(means @ fc1.weight.squeeze().reshape(channels, channels).T + fc1.bias)
    factors = torch.sigmoid(hidden @ fc2.weight.squeeze().reshape(channels, channels).T + fc2.bias)

    def normed(y, norm, of):
        y = (y - norm.running_mean[of]) / torch.sqrt(norm.running_var[of] + norm.eps)
        return y * norm.weight[of] + norm.bias[of]

    expected = torch.empty_like(x)
    for c in range(channels):
        of = c % sets
        for i in range(parts[0]):
            for j in range(parts[1]):
                here = (slice(None), c, slice(i * h, i * h + h), slice(j * w, j * w + w))
                part = x[here]
                y = normed((part.reshape(2, h * w) @ matrices[of].T).reshape(2, h, w), block.fc3_bn, of)
                for size in kernels:
                    branch = block.get_submodule(f"repconv{size}")
                    local = nn.functional.conv2d(
                        part.unsqueeze(1), branch.conv.weight[of : of + 1], padding=size // 2
                    )
                    y = y + normed(local.squeeze(1), branch.bn, of)
                expected[here] = y * factors[:, c, None, None]
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@FORMS
@pytest.mark.parametrize("size", [(16, 16), (32, 16), (48, 64)])
def test_resolutions_that_the_partitions_divide_run(size, deploy):
    network = create_repmlpnet(SMALL, deploy).eval()
    logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_images_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    network = randomize_statistics(create_repmlpnet(SMALL), 0).double().eval()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([network(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-12, atol=1e-12)


def test_every_parameter_of_the_training_form_learns():
    torch.manual_seed(0)
    network = create_repmlpnet(SMALL)
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().any()]
    assert still == []


@pytest.mark.parametrize("size", [(20, 16), (16, 24), (8, 16), (17, 17)])
def test_resolutions_that_the_partitions_do_not_divide_are_refused(size):
    with pytest.raises(ConfigurationError, match=r"small: partitions of 4, 2 .* expected a multiple of 16"):
        create_repmlpnet(SMALL)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 16, 16)])
def test_tensors_that_are_no_images_are_refused(shape):
    expected = re.escape(f"found images of shape {list(shape)}, expected [images, 3, height, width]")
    with pytest.raises(ConfigurationError, match=expected):
        create_repmlpnet(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(4, 5), (6, 6), (2, 6)])
def test_maps_that_a_blocks_partitions_do_not_divide_are_refused(size):
    with pytest.raises(
        ConfigurationError, match=r"4 x 3 do not divide a map of .* expected multiples of 4 and 3"
    ):
        RepMLPBlock(4, (4, 3))(torch.zeros(1, 4, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_sets": 5}, "found 5, which do not divide 12 channels; expected a divisor, such as 4"),
        ({"share_sets": 24}, "found 24, which do not divide 12 channels; expected a divisor, such as 12"),
        ({"share_sets": 0}, "share_sets: found 0"),
        ({"channels": 2.5}, "channels: found 2.5"),
        ({"partition": (4,)}, r"partition: found \(4,\)"),
        ({"partition": (4, 0)}, r"partition: found \(4, 0\)"),
        ({"local_kernels": (1, 4)}, "local_kernels: found 4, expected odd"),
        ({"local_kernels": (-1,)}, "local_kernels: found -1, expected odd"),
        ({"local_kernels": (3, 3)}, r"found \(3, 3\), expected each size once"),
        ({"reduction": 13}, "reduction: found 13, expected at most the 12 channels"),
    ],
)
def test_blocks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        RepMLPBlock(**{"channels": 12, "partition": (4, 4), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_kernels": (2,)}, "odd size"),
        ({"share_sets": (3, 4)}, "3 share-sets do not divide 8 channels"),
    ],
)
def test_specs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RepMLPNet(**{**SMALL.model_dump(), **changes})
