"""Merging convolutions and batch norms into FC3 changes nothing that a network computes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from papi_env.errors import ConfigurationError
from papi_env.workload.vision.injection import (
    add_convolution,
    fold_batch_norm,
    randomize_statistics,
    relative_difference,
)
from papi_env.workload.vision.network import REPMLPNETS, RepMLPNet
from papi_env.workload.vision.repmlp import (
    ConvBatchNorm,
    RepMLPBlock,
    create_repmlpnet,
    inject_locality,
    locality_injected,
)

ODD = st.integers(0, 5).map(lambda half: 2 * half + 1)
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
SMALL = RepMLPNet(
    name="small",
    channels=(8, 12),
    share_sets=(2, 4),
    blocks=(1, 2),
    partitions=(4, 2),
    image_size=16,
    classes=10,
)

# One of them, and the others with the slow tests.
NETWORKS = [
    pytest.param(name, marks=pytest.mark.slow if number else [])
    for number, name in enumerate(sorted(REPMLPNETS))
]


def images(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def block(*arguments, seed=0, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    return randomize_statistics(RepMLPBlock(*arguments, **options), seed).to(dtype).eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return randomize_statistics(create_repmlpnet(SMALL), 0).eval()


@given(
    sets=st.integers(1, 3), h=st.integers(1, 6), w=st.integers(1, 6), k=ODD, ell=ODD, seed=st.integers(0, 9)
)
def test_the_matrix_is_the_convolution_of_the_identity(sets, h, w, k, ell, seed):
    kernel = images(sets, k, ell, dtype=torch.float64, seed=seed)
    matrix = torch.zeros(sets, h, w, h, w, dtype=torch.float64)
    add_convolution(matrix, kernel)
    identity = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w).expand(-1, sets, -1, -1)
    columns = functional.conv2d(identity, kernel.unsqueeze(1), padding=(k // 2, ell // 2), groups=sets)
    assert torch.equal(matrix, columns.reshape(h, w, sets, h, w).permute(2, 3, 4, 0, 1))


@given(st.integers(1, 5), st.integers(0, 9), st.sampled_from([1e-5, 1e-2]))
def test_a_folded_batch_norm_is_the_batch_norm(features, seed, eps):
    norm = randomize_statistics(nn.BatchNorm2d(features, eps=eps), seed).double().eval()
    scale, shift = fold_batch_norm(norm)
    x = images(3, features, 2, 2, dtype=torch.float64, seed=seed)
    folded = x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
    torch.testing.assert_close(norm(x), folded, rtol=1e-12, atol=1e-12)


def test_a_batch_norm_without_statistics_cannot_be_folded():
    with pytest.raises(ConfigurationError, match="running statistics"):
        fold_batch_norm(nn.BatchNorm2d(2, track_running_stats=False))


@settings(max_examples=60)
@given(
    sets=st.integers(1, 4),
    shared=st.integers(1, 3),
    partition=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    parts=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernels=st.lists(ODD, max_size=3, unique=True),
    count=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_a_merged_block_computes_what_the_block_did(
    sets, shared, partition, parts, kernels, count, dtype, seed
):
    before = block(sets * shared, partition, sets, kernels, reduction=1, seed=seed, dtype=dtype)
    after = locality_injected(before)
    assert after.deploy
    assert after.fc3.weight.dtype == after.fc3.bias.dtype == dtype
    maps = images(
        count, sets * shared, partition[0] * parts[0], partition[1] * parts[1], dtype=dtype, seed=seed
    )
    if count:
        assert relative_difference(before, after, maps) <= BOUNDS[dtype]
    else:
        assert after(maps).shape == before(maps).shape == maps.shape


@pytest.mark.parametrize("kernel", [7, 9, 15, 31])
def test_kernels_beyond_the_partition_merge(kernel):
    before = block(4, (4, 4), 2, (3, kernel), dtype=torch.float64)
    assert (
        relative_difference(before, locality_injected(before), images(2, 4, 8, 12, dtype=torch.float64))
        <= 1e-10
    )


def test_a_large_kernel_is_merged_not_dropped():
    # Without its large convolution the block computes something else, so the test above could fail.
    before = block(4, (4, 4), 2, (3, 9), dtype=torch.float64)
    without = copy.deepcopy(before)
    nn.init.zeros_(without.repconv9.conv.weight)
    assert relative_difference(before, without, images(2, 4, 8, 12, dtype=torch.float64)) > 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_merges_within_1e_5_in_single_precision(name):
    torch.manual_seed(0)
    before = randomize_statistics(create_repmlpnet(name), 0).eval()
    maps = images(1, 3, before.spec.image_size, before.spec.image_size)
    with torch.no_grad():
        expected = before(maps)
    before.locality_injection()
    with torch.no_grad():
        found = before(maps)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(found, expected)  # it ran differently


def test_a_network_merges_within_1e_10_in_double_precision():
    torch.manual_seed(0)
    before = randomize_statistics(create_repmlpnet("repmlpnet-t224"), 0).double().eval()
    maps = images(1, 3, 224, 224, dtype=torch.float64)
    assert relative_difference(before, locality_injected(before), maps) <= 1e-10


def test_several_partitions_merge_in_a_network(small):
    assert relative_difference(small, locality_injected(small), images(2, 3, 32, 48)) <= 1e-5


def test_merging_in_place_and_a_copy_give_the_same_and_the_copy_leaves_the_module(small):
    state = copy.deepcopy(small.state_dict())
    merged = locality_injected(small)
    assert small.state_dict().keys() == state.keys()
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in state.items())
    small.locality_injection()
    assert small.state_dict().keys() == merged.state_dict().keys()
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in merged.state_dict().items())


def test_a_merged_network_has_the_deploy_forms_names_and_shapes(small):
    deploy = create_repmlpnet(SMALL, deploy=True)
    merged = locality_injected(small).state_dict()
    shapes = {name: tensor.shape for name, tensor in merged.items()}
    assert shapes == {name: tensor.shape for name, tensor in deploy.state_dict().items()}
    deploy.load_state_dict(merged, strict=True)
    assert relative_difference(small, deploy.eval(), images(1, 3, 16, 16)) <= 1e-5


def test_any_module_with_blocks_merges():
    before = nn.Sequential(block(4, (2, 2)), nn.ModuleDict({"a": block(4, (2, 3), 4, (5,))})["a"], nn.ReLU())
    after = locality_injected(before.eval())
    assert after[0].deploy
    assert after[1].deploy
    assert relative_difference(before, after, images(2, 4, 4, 6)) <= 1e-5


def test_synchronised_batch_norms_merge(small):
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(small)).eval()
    assert relative_difference(small, locality_injected(synchronised), images(1, 3, 16, 16)) <= 1e-5


def test_a_second_run_is_refused(small):
    small.locality_injection()
    with pytest.raises(ConfigurationError, match=r"stages\.0\.0\.repmlp_block and 2 more: found deploy form"):
        small.locality_injection()
    with pytest.raises(ConfigurationError, match="the block: found deploy form"):
        small.stages[0][0].repmlp_block.locality_injection()
    with pytest.raises(ConfigurationError, match="deploy form"):
        locality_injected(create_repmlpnet(SMALL, deploy=True).eval())


def test_training_mode_is_refused(small):
    with pytest.raises(ConfigurationError, match=r"training mode, expected evaluation; call eval\(\)"):
        inject_locality(small.train())
    small.eval().stages[1][1].repmlp_block.repconv3.bn.train()
    with pytest.raises(ConfigurationError, match=r"stages\.1\.1\.repmlp_block: found training mode"):
        inject_locality(small)


def test_a_module_without_blocks_is_refused():
    with pytest.raises(ConfigurationError, match="no RepMLPBlock in Sequential"):
        inject_locality(nn.Sequential(nn.Linear(2, 2)))


def _merged_already(last):
    last.locality_injection()


def _no_statistics(last):
    last.repconv3.bn.running_var = last.repconv3.bn.running_mean = None


def _negative_variance(last):
    last.fc3_bn.running_var.fill_(-1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_merged_already, "found deploy form"),
        (_no_statistics, "running statistics"),
        (_negative_variance, "not finite"),
    ],
)
def test_all_blocks_merge_or_none(small, spoil, message):
    spoil(small.stages[1][1].repmlp_block)
    names = list(small.state_dict())
    with pytest.raises(ConfigurationError, match=message):
        small.locality_injection()
    assert list(small.state_dict()) == names
    assert not small.stages[0][0].repmlp_block.deploy


def _with_bias(layer):
    layer.bias = nn.Parameter(torch.randn(layer.out_channels, dtype=layer.weight.dtype))


@pytest.mark.parametrize("biased", ["fc3", "repconv3.conv", "fc3 repconv1.conv"])
def test_biases_are_merged_not_dropped(biased):
    before = block(4, (2, 3), 2, (1, 3), dtype=torch.float64)
    plain = copy.deepcopy(before)
    for name in biased.split():
        _with_bias(before.get_submodule(name))
    maps = images(2, 4, 4, 6, dtype=torch.float64)
    assert relative_difference(before, locality_injected(before), maps) <= 1e-10
    assert relative_difference(before, plain, maps) > 1e-2  # they matter


def _hooked(last):
    last.repconv3.conv.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda last: setattr(last.repconv3.conv, "dilation", (2, 2)), r"conv: dilation: found \(2, 2\)"),
        (lambda last: setattr(last.repconv3.conv, "stride", (2, 2)), r"repconv3\.conv: stride: found"),
        (
            lambda last: setattr(last.repconv3.conv, "padding", (0, 0)),
            r"padding: found \(0, 0\), expected \(1, 1\)",
        ),
        (
            lambda last: setattr(last.repconv3.conv, "padding_mode", "circular"),
            "padding_mode: found circular",
        ),
        (lambda last: setattr(last.repconv3, "relu", True), "repconv3: found ConvBatchNorm with ReLU"),
        (lambda last: setattr(last.repconv3, "bn", nn.GroupNorm(2, 2)), "GroupNorm, expected a batch norm"),
        (lambda last: setattr(last, "fc3_bn", nn.GroupNorm(2, 2)), "fc3_bn: type: found GroupNorm"),
        (_hooked, "forward_hooks: found 1 of them"),
    ],
)
def test_what_a_merge_does_not_know_is_refused_by_name(spoil, message):
    before = block(4, (2, 3), 2, (1, 3))
    spoil(before)
    with pytest.raises(ConfigurationError, match=message):
        before.eval().locality_injection()
    assert before.local_kernels == (1, 3)


def test_frozen_weights_stay_frozen(small):
    first, second = (small.stages[1][index].repmlp_block for index in range(2))
    first.requires_grad_(False)
    small.locality_injection()
    assert not first.fc3.weight.requires_grad
    assert not first.fc3.bias.requires_grad
    assert second.fc3.weight.requires_grad
    assert second.fc3.bias.requires_grad


def test_statistics_are_away_from_a_fresh_networks_and_follow_the_seed():
    def parts(seed, dtype=torch.float32):
        unit = nn.Sequential(ConvBatchNorm(3, 50), nn.Linear(50, 50)).to(dtype)
        return randomize_statistics(unit, seed).state_dict()

    first, again, other = parts(0), parts(0), parts(1)
    norm = [name for name in first if name.startswith("0.bn.") and "num_batches" not in name]
    assert len(norm) == 4
    for name in [*norm, "1.bias"]:
        assert first[name].unique().numel() == 50
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert torch.equal(first[name], parts(0, torch.float64)[name].float())
    assert (first["0.bn.running_var"] > 0).all()
    assert (first["0.bn.weight"] < 0).any()


def test_relative_difference_is_relative_to_the_largest_output_before():
    before, after = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    before.weight.data = torch.tensor([[4.0], [-8.0]])
    after.weight.data = torch.tensor([[4.0], [-7.0]])
    ones = torch.ones(1, 1)
    assert relative_difference(before.eval(), after.eval(), ones) == 1 / 8
    assert relative_difference(after, before, ones) == 1 / 7
    assert relative_difference(before, before, ones) == 0
    with pytest.raises(ConfigurationError, match="other than 0"):
        relative_difference(before, after, 0 * ones)
    with pytest.raises(ConfigurationError, match="shapes"):
        relative_difference(before, nn.Identity().eval(), ones)
    with pytest.raises(ConfigurationError, match="after: found training mode"):
        relative_difference(before, after.train(), ones)
