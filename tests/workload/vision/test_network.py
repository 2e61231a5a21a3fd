"""Kernel lists of RepMLPNet from arithmetic are what the torch network runs, and add up to the published table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import KernelClass
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.workload.vision.network import (
    REPMLPNETS,
    RepMLPNet,
    encode_kernels,
    get_repmlpnet,
    macs,
    nearest_divisor,
    parameters,
    stage_kernels,
    weight_bytes,
)

# Ding et al., CVPR 2022, and the released models: millions of parameters, 1e9 MACs of the deploy form.
PUBLISHED = {
    "repmlpnet-t224": (38.3, 2.80),
    "repmlpnet-t256": (58.7, 4.25),
    "repmlpnet-b224": (68.2, 6.66),
    "repmlpnet-b256": (96.5, 9.62),
    "repmlpnet-d256": (86.9, 8.61),
    "repmlpnet-l256": (117.7, 11.58),
}
NETWORKS = pytest.mark.parametrize("name", REPMLPNETS)
FORMS = pytest.mark.parametrize("reparameterized", [True, False])


@st.composite
def networks(draw):
    """Small networks whose first stage's map is one partition, and later ones several or one."""
    stages = draw(st.integers(1, 3))
    first = draw(st.sampled_from([4, 8, 12]))
    channels = [4 * draw(st.integers(1, 3)) for _ in range(stages)]
    return RepMLPNet(
        name="small",
        channels=channels,
        share_sets=[draw(st.sampled_from([1, 2, 4])) for _ in range(stages)],
        blocks=[draw(st.integers(1, 3)) for _ in range(stages)],
        partitions=[
            max((first >> stage) // draw(st.sampled_from([1, first >> stage])), 1) for stage in range(stages)
        ],
        image_size=4 * first,
        local_kernels=draw(st.sampled_from([(1, 3), (3,), (1, 3, 5), ()])),
        classes=draw(st.integers(1, 20)),
    )


@NETWORKS
def test_parameters_and_macs_are_the_published_ones(name):
    assert set(PUBLISHED) == set(REPMLPNETS)
    millions, giga = PUBLISHED[name]
    net = get_repmlpnet(name)
    assert parameters(net) / 1e6 == pytest.approx(millions, rel=0.005)
    assert macs(net) / 1e9 == pytest.approx(giga, rel=0.005)


def run_on_shapes_alone(net, reparameterized, images, image_size):
    """(parameters, [(class, stage, inner, outer, groups, rows)] in order, MACs) that torch says, without computing."""
    torch = pytest.importorskip("torch")
    from papi_env.workload.vision.repmlp import create_repmlpnet

    with torch.device("meta"):
        network = create_repmlpnet(net, deploy=reparameterized).eval()
        pixels = torch.empty(images, net.image_channels, image_size, image_size)
    calls = []

    def record(name):
        def hook(module, inputs, output):
            calls.append((name, *shape_of(torch, module, inputs[0], output)))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(record(name))
    with torch.no_grad():
        network(pixels)
    return sum(p.numel() for p in network.parameters()), calls


def shape_of(torch, module, given, output):
    """(inner, outer, groups, rows) of a layer as rows times a matrix, from its weight and its output's shape."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features, 1, given.numel() // module.in_features
    outer, inner = module.weight.shape[0] // module.groups, module.weight[0].numel()
    return inner, outer, module.groups, output.numel() // module.weight.shape[0]


CLASS_OF = {
    "gp.fc1": KernelClass.REPMLP_FC1,
    "gp.fc2": KernelClass.REPMLP_FC2,
    "fc3": KernelClass.REPMLP_FC3,
    "ffn_fc1.conv": KernelClass.REPMLP_FFN,
    "ffn_fc2.conv": KernelClass.REPMLP_FFN,
    "head": KernelClass.REPMLP_FFN,
}


def class_of(name):
    return next((kind for end, kind in CLASS_OF.items() if name.endswith(end)), KernelClass.CONVOLUTION)


def assert_torch_agrees(net, reparameterized, images=1, image_size=None):
    size = net.image_size if image_size is None else image_size
    count, calls = run_on_shapes_alone(net, reparameterized, images, size)
    assert count == parameters(net, reparameterized)
    assert weight_bytes(net, reparameterized) == 2 * count
    expected = [
        (kernel.kernel_class, kernel.inner, kernel.outer, kernel.groups, kernel.rows)
        for stage in encode_kernels(net, images, size, reparameterized)
        for kernel in stage
        for _ in range(kernel.count)
    ]
    ran = [(class_of(name), *shape) for name, *shape in calls]
    assert sorted(ran) == sorted(expected)
    assert macs(net, images, size, reparameterized) == sum(a * b * c * d for _, a, b, c, d in ran)
    # In order too, where a stage has one unit; FC3 and the local perceptron read the same map, in any order.
    if max(net.blocks) == 1 and reparameterized:
        without = [call for call in ran if call[0] not in (KernelClass.REPMLP_FC1, KernelClass.REPMLP_FC2)]
        assert without == [
            k for k in expected if k[0] not in (KernelClass.REPMLP_FC1, KernelClass.REPMLP_FC2)
        ]


@NETWORKS
@FORMS
def test_kernels_are_what_the_torch_network_runs(name, reparameterized):
    assert_torch_agrees(get_repmlpnet(name), reparameterized, images=2)


@FORMS
def test_kernels_of_several_partitions_are_what_the_torch_network_runs(reparameterized):
    net = get_repmlpnet("repmlpnet-t224")
    assert net.map_size(0, 448) == 2 * net.partitions[0]
    assert_torch_agrees(net, reparameterized, images=1, image_size=448)


@given(networks(), st.booleans(), st.integers(1, 3), st.integers(1, 2))
def test_any_network_at_any_resolution_is_what_torch_runs(net, reparameterized, images, scale):
    assert_torch_agrees(net, reparameterized, images, scale * net.resolution_step)


@given(networks(), st.booleans(), st.integers(1, 64))
def test_rows_and_work_grow_in_proportion_to_the_images(net, reparameterized, images):
    for one, many in zip(
        encode_kernels(net, 1, None, reparameterized),
        encode_kernels(net, images, None, reparameterized),
        strict=True,
    ):
        assert [kernel.with_rows(kernel.rows * images) for kernel in one] == list(many)
    assert macs(net, images, None, reparameterized) == images * macs(net, 1, None, reparameterized)


@given(networks())
def test_locality_injection_leaves_the_fc_kernels_and_takes_the_local_perceptron_away(net):
    for stage in range(net.stages):
        training, deploy = (stage_kernels(net, stage, 2, None, form) for form in (False, True))
        removed = [kernel for kernel in training if kernel not in deploy]
        assert [kernel for kernel in training if kernel in deploy] == list(deploy)
        assert [kernel.inner for kernel in removed] == [k * k for k in net.local_kernels]
        assert all(kernel.kernel_class is KernelClass.CONVOLUTION for kernel in removed)


def test_rows_of_fc3_are_images_times_channels_over_share_sets():
    net = get_repmlpnet("repmlpnet-b256")
    rows, sizes = [], []
    for stage in range(4):
        (fc3,) = [k for k in stage_kernels(net, stage, 64) if k.kernel_class is KernelClass.REPMLP_FC3]
        rows.append(fc3.rows // 64)
        sizes.append(fc3.inner)
    assert (rows, sizes) == ([96, 48, 12, 6], [4096, 1024, 256, 64])
    assert fc3.arithmetic_intensity == pytest.approx(29.5, abs=0.05)


def test_the_local_perceptron_moves_each_input_once_and_multiplies_it_at_every_tap():
    net = get_repmlpnet("repmlpnet-t256")
    (one, three) = [
        k for k in stage_kernels(net, 1, 2, None, False) if k.kernel_class is KernelClass.CONVOLUTION
    ][1:]
    elements = 2 * net.channels[1] * 32 * 32
    assert one.activation_bytes == three.activation_bytes == 2 * 2 * elements
    assert (one.macs, three.macs) == (elements, 9 * elements)
    assert (one.weight_bytes, three.weight_bytes) == (2 * net.share_sets[1], 2 * 9 * net.share_sets[1])


@pytest.mark.parametrize(("size", "nearest"), [(200, 256), (100, 256), (400, 512), (0, 256), (-256, 256)])
def test_a_resolution_that_partitions_do_not_divide_is_one_clear_error(size, nearest):
    net = get_repmlpnet("repmlpnet-b256")
    with pytest.raises(
        ConfigurationError, match=rf"partitions of 64, 32, 16, 8 .* multiple of 256, such as {nearest}"
    ):
        stage_kernels(net, 3, 1, size)


@given(networks(), st.integers(1, 300))
def test_exactly_the_multiples_of_the_step_are_accepted(net, size):
    sides = [size / (4 * 2**stage) / part for stage, part in enumerate(net.partitions)]
    fits = all(np.mod(side, 1) == 0 for side in sides)
    assert (size % net.resolution_step == 0) == fits
    if fits:
        assert net.positions(size) == (size // (4 * 2 ** (net.stages - 1))) ** 2
    else:
        with pytest.raises(ConfigurationError, match="do not divide the maps"):
            net.positions(size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_sets": (1, 5, 16, 128)}, "5 share-sets do not divide 128 channels"),
        ({"local_kernels": (1, 2)}, "local kernel 2: expected an odd size"),
        ({"share_sets": (1, 5, 16, 128)}, "stage 2: .* expected a divisor such as 4"),
        (
            {"blocks": (2, 2, 6)},
            "the same stages, .*: found 4 channels, 4 share_sets, 3 blocks, 4 partitions",
        ),
        ({"channels": (64,) * 9, "blocks": (1,) * 9}, "at most 8"),
        ({"share_sets": (1, 0, 16, 128)}, "share_sets .* expected numbers >= 1"),
        ({"blocks": (2, 2, 10**9, 2)}, "blocks .* at most 1048576"),
        ({"image_size": 260}, "image_size: found 260, .* expected a multiple of 256, such as 256"),
        ({"image_size": 100, "partitions": None}, "expected a multiple of 32 .* such as 96"),
        ({"local_kernels": (3, 3)}, "each size once"),
        ({"blocks": (2, 2, 0, 2)}, "blocks .* expected numbers >= 1"),
        ({"partitions": (64, 32, 16, -8)}, "partitions .* expected numbers >= 1"),
        ({"reduction": 100}, "reduction 100 leaves no neuron of 64 channels"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes, message):
    data = get_repmlpnet("repmlpnet-t256").model_dump() | changes
    with pytest.raises(ValidationError, match=message):
        RepMLPNet(**data)


FILE = """
channels = [48, 96, 192]
share_sets = [2, 8, 48]
blocks = [2, 4, 2]
image_size = 128
"""


def test_a_file_makes_a_network_of_its_name_with_one_partition_a_map(tmp_path):
    path = tmp_path / "three-stages.toml"
    path.write_text(FILE)
    net = get_repmlpnet(path)
    assert net == get_repmlpnet(str(path)) == get_repmlpnet({"name": "three-stages", **net.model_dump()})
    assert (net.name, net.partitions, net.positions()) == ("three-stages", (32, 16, 8), 64)
    assert_torch_agrees(net, True, 2)
    assert_torch_agrees(net, False)


def test_a_file_changes_what_it_names_of_its_base(tmp_path):
    path = tmp_path / "shares.toml"
    path.write_text('base = "repmlpnet-b256"\nshare_sets = [4, 16, 128, 384]\n')
    own, base = get_repmlpnet(path), get_repmlpnet("repmlpnet-b256")
    assert own == base.model_copy(update={"name": "shares", "share_sets": (4, 16, 128, 384)})
    # FC3 of four times the share-sets: as many MACs, four times the weights.
    for stage, times in enumerate((4, 4, 4, 3)):
        (mine,), (theirs,) = (
            [k for k in stage_kernels(net, stage) if k.kernel_class is KernelClass.REPMLP_FC3]
            for net in (own, base)
        )
        assert (mine.macs, mine.weight_bytes) == (theirs.macs, times * theirs.weight_bytes)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, DataError, "mine.toml: cannot be read: No such file"),
        ("channels = [", DataError, "mine.toml: not a TOML file"),
        (b"\xff\xfe", DataError, "mine.toml: not a TOML file"),
        ('base = "repmlpnet-b25"', ConfigurationError, "mine.toml: base: .* Did you mean 'repmlpnet-b256'"),
        (FILE + "chanels = [3]", ConfigurationError, "chanels: not a known field; did you mean 'channels'"),
        (FILE.replace("48", "50"), ConfigurationError, "mine.toml: .*stage 3: 50 share-sets .* such as 48"),
        (FILE.replace("128", '"128"'), ConfigurationError, "mine.toml: image_size: found the text '128'"),
        ("", ConfigurationError, "mine.toml: channels: Field required"),
    ],
)
def test_a_file_that_is_no_network_is_refused_with_its_path(tmp_path, content, error, said):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=said) as caught:
        get_repmlpnet(path)
    assert str(path) in str(caught.value)


def test_a_scenario_takes_its_network_from_a_file_beside_it(tmp_path):
    (tmp_path / "mine.toml").write_text(FILE)
    (tmp_path / "stream.toml").write_text(
        'system = "papi-1gpu"\n[images]\nnetwork = "mine.toml"\nbatch_sizes = [1]\nencodes = 2\n'
    )
    scenario = get_scenario(tmp_path / "stream.toml")
    assert scenario.images.network.share_sets == (2, 8, 48)
    replaced = get_scenario("vision-stream").replace(network=str(tmp_path / "mine.toml"))
    assert replaced.images.network == scenario.images.network
    with pytest.raises(ConfigurationError, match=r"images.network: .*nowhere.toml: cannot be read"):
        parse_scenario(
            {**scenario.model_dump(), "images": {**scenario.images.model_dump(), "network": "nowhere.toml"}},
            "x",
        )


@given(st.integers(1, 300), st.integers(1, 400))
def test_the_nearest_divisor_is_the_nearest(number, wanted):
    found = nearest_divisor(number, wanted)
    assert number % found == 0
    assert all(number % other or abs(other - wanted) >= abs(found - wanted) for other in range(1, number + 1))


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match="Did you mean 'repmlpnet-b256'"):
        get_repmlpnet("repmlp-b256")
