"""Experts of a layer on PUs and FC-PIM: published shapes, bounds, and what is refused."""

import math

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.energy import BACKGROUND, COMPUTE, READ
from papi_env.hardware.experts import (
    EXPERT_SHARE,
    ExpertLayer,
    ExpertPlacement,
    pim_expert_causes,
    pim_expert_s,
    pim_held_s,
    pu_expert_causes,
    pu_expert_s,
    pu_reading_s,
)
from papi_env.hardware.system import get_system
from papi_env.kernel import Kernel, KernelClass
from papi_env.workload.routing import expected_loads

# As PAPI's roofline has it: 1935 GB/s, a command every 6 clocks, by fixed shares of the peaks.
PAPER = get_system("papi").with_readings("roofline", "attacc-limit")


def layer(experts, active, hidden, width):
    kind = KernelClass.EXPERTS
    down = Kernel(kind, width, hidden, split="inputs")
    return ExpertLayer(experts, active, Kernel(kind, hidden, 2 * width), down)


LARGE, SMALL = layer(8, 2, 4096, 14336), layer(64, 6, 2048, 1408)


def mean_us(layer, cost, n):
    """A layer's mean over uniform routings of n tokens."""
    return 1e6 * expected_loads(layer.experts, layer.active, 0.0, n)[n] @ cost(np.arange(n + 1))


@pytest.mark.parametrize(
    ("layer", "n", "pim_us", "pu_us"),
    # Worked out by hand from the same constants. 64 experts on FC-PIM are bound by vectors: with gate and up as one
    # kernel, whose inputs are written once, a token takes 25 commands a channel; as two it takes 33, and 13 and 156 us.
    [(LARGE, 16, 31, 284), (LARGE, 256, 321, 291), (SMALL, 16, 9.1, 90), (SMALL, 256, 156 * 25 / 33, 115)],
)
def test_known_shapes_take_what_they_should(layer, n, pim_us, pu_us):
    assert mean_us(layer, lambda j: pim_expert_s(PAPER.fc_pim, layer, j), n) == pytest.approx(
        pim_us, rel=0.03
    )
    assert mean_us(layer, lambda j: pu_expert_s(PAPER.pu, layer, j), n) == pytest.approx(pu_us, rel=0.03)


@pytest.mark.parametrize(("n", "us"), [(16, 44), (256, 373)])
def test_an_expert_on_its_own_stacks_waits_for_the_busiest(n, us):
    """Eight experts on groups of their own; on 32 stacks, which they divide, and scaled to 30."""
    unit = PAPER.fc_pim.model_copy(update={"stacks": 32})
    seconds = pim_expert_s(unit, LARGE, np.arange(n + 1), groups=8)
    draws = np.random.default_rng(0).random((400, n, 8)).argpartition(2, axis=2)[..., :2]
    tokens = np.array([np.bincount(draw.ravel(), minlength=8) for draw in draws])
    assert 1e6 * seconds[tokens].max(axis=1).mean() * 32 / 30 == pytest.approx(us, rel=0.03)


def test_matrices_of_an_expert_share_rows():
    """An expert in one piece opens no more rows than its matrices apart, and reads as many bytes."""
    unit, rows = PAPER.fc_pim, np.arange(1, 65)
    apart = sum(costs.pim_fc_s(unit, kernel, rows) for kernel in SMALL.kernels)
    assert (pim_expert_s(unit, SMALL, rows) <= apart * (1 + 1e-12)).all()
    assert pim_expert_s(unit, SMALL, 1) < 0.85 * apart[0]
    read = sum(costs.pim_fc_energy(unit, kernel, rows).read for kernel in SMALL.kernels)
    np.testing.assert_allclose(pim_expert_causes(unit, SMALL, rows)[:, READ], read)


def test_experts_without_tokens_cost_nothing_and_more_tokens_no_less():
    unit, tokens = PAPER.fc_pim, np.arange(200)
    for seconds in (
        pim_expert_s(unit, SMALL, tokens),
        pim_expert_s(unit, SMALL, tokens, groups=6),
        pu_expert_s(PAPER.pu, SMALL, tokens),
        pu_reading_s(PAPER.pu, SMALL, tokens),
    ):
        assert seconds[0] == 0
        assert (np.diff(seconds) >= 0).all()
        assert seconds[1] > 0
    for joules in (pim_expert_causes(unit, SMALL, tokens), pu_expert_causes(PAPER.pu, SMALL, tokens)):
        assert (joules[0] == 0).all()
        assert (np.diff(joules.sum(axis=1)) > 0).all()


def test_no_unit_exceeds_its_peaks():
    tokens, unit = np.arange(1, 2000), PAPER.pu
    flops = 2 * tokens * sum(kernel.inner * kernel.outer for kernel in SMALL.kernels)
    seconds = pu_expert_s(unit, SMALL, tokens)
    assert (flops / seconds <= EXPERT_SHARE * unit.total_flops * 1.000001).all()
    assert (SMALL.expert_bytes / seconds <= EXPERT_SHARE * unit.total_bandwidth).all()
    pim = pim_expert_s(PAPER.fc_pim, LARGE, tokens)
    assert (2 * tokens * LARGE.expert_bytes / 2 / pim <= PAPER.fc_pim.peak_flops).all()


def test_groups_of_stacks_cost_as_many_joules_in_all_but_vectors_and_background():
    tokens = np.array([0, 1, 7])
    one, six = (pim_expert_causes(PAPER.fc_pim, LARGE, tokens, groups) for groups in (1, 6))
    np.testing.assert_allclose(one[:, [READ, COMPUTE]], six[:, [READ, COMPUTE]])
    # A sixth of the stacks for six times as long.
    np.testing.assert_allclose(one[1:, BACKGROUND], six[1:, BACKGROUND], rtol=0.01)


def test_row_buffers_of_their_own_leave_channels_to_share():
    alone, dual = ExpertPlacement(), ExpertPlacement(dual_row_buffers=True)
    tokens = np.arange(300)
    held = pim_held_s(PAPER.fc_pim, LARGE, tokens, alone)
    np.testing.assert_array_equal(held, pim_expert_s(PAPER.fc_pim, LARGE, tokens))
    assert (pim_held_s(PAPER.fc_pim, LARGE, tokens, dual)[1:] < held[1:]).all()
    # Where vectors are what takes time, nothing is gained.
    assert pim_held_s(PAPER.fc_pim, SMALL, 100, dual) == pytest.approx(
        float(pim_expert_s(PAPER.fc_pim, SMALL, 100))
    )


def test_weights_are_those_of_all_experts():
    kernel = Kernel(KernelClass.EXPERTS, 10, 30, count=3)
    assert ExpertLayer(4, 2, kernel, Kernel(KernelClass.EXPERTS, 15, 10, count=3)).weight_bytes == (
        3 * 4 * (10 * 30 + 15 * 10) * 2
    )


@pytest.mark.parametrize(
    ("system", "groups", "experts", "message"),
    [
        (
            "papi",
            4,
            8,
            r"30 FC-PIM stacks do not divide into 4 groups of experts; expected one of \[1, 2, 3, 5, 6",
        ),
        (
            "papi",
            10,
            8,
            "10 groups of stacks for 8 experts a layer leave groups without any; expected at most 8",
        ),
        ("a100-attacc", 2, 8, "no FC-PIM stacks to put experts in 2 groups of; expected groups = 1"),
    ],
)
def test_groups_that_do_not_divide_are_refused(system, groups, experts, message):
    with pytest.raises(ConfigurationError, match=message):
        ExpertPlacement(groups=groups).check(get_system(system), experts)


def test_all_banks_are_never_refused():
    for name in ("papi", "a100-attacc"):
        ExpertPlacement().check(get_system(name), 2)
    assert math.isclose(ExpertPlacement().groups, 1)
