"""Seconds to combine the outputs of an FC kernel over the units that ran it: one rule for all.

A kernel whose inputs are split leaves every unit with a partial sum of all outputs. Combining takes
`sync + 2 latency + bytes / bandwidth` (`Link.exchange_s`): the units wait for each other, then inputs or partial
sums go one way and the results the other. Units on a fabric have a second algorithm for large messages, a ring,
and take the faster of the two. Who combines what over which link says `papi_env.hardware.system.System`.

Ranks of several nodes (`Link.per_node`) combine in steps: each node scatters its sums over its ranks, ranks of the same
place in their nodes sum theirs across nodes, and each node gathers them again.

Beside it: NCCL as servers call it through torch, slower on small messages (`nccl_s`), and what AttAcc's simulator
takes, which `System.combining = "attacc"` keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware.links import NVLINK3, NVLINK4, Link, Ring
from papi_env.kernel import FloatArray


@dataclass(frozen=True)
class NcclConstants:
    """NCCL's two algorithms on one kind of GPU, fitted to the lowest times that Vidur publishes (MIT licence).

    Times on 2, 4 and 8 GPUs, 2 kB to 67 MB. Below 1 MB they scatter by factors of 2 to 5.
    """

    # Tree for small messages: seconds for each doubling of the GPUs, and B/s of the message.
    tree_step_s: float
    tree_bandwidth: float
    # Ring for large ones.
    ring: Ring


# Fitted to: mean relative error, each factor of two in size counting alike. The rings are those of the links.
assert NVLINK3.ring is not None
assert NVLINK4.ring is not None
NCCL: Mapping[str, NcclConstants] = {
    "a100": NcclConstants(tree_step_s=10e-6, tree_bandwidth=60e9, ring=NVLINK3.ring),
    "h100": NcclConstants(tree_step_s=6.2e-6, tree_bandwidth=73e9, ring=NVLINK4.ring),
}


def all_reduce_s(size: FloatArray | float, ranks: int, link: Link) -> FloatArray:
    """Seconds to sum `size` bytes over ranks on a fabric: the faster of one exchange and the link's ring.

    Over several nodes of p ranks, `all_reduce(size, p, link) + all_reduce(size / p, nodes, between)`: a reduce-scatter
    and an all-gather in the node move together what an all-reduce there does, and between them each rank sums its p-th
    part with its counterparts over a link of its own. Source: the hierarchical all-reduce of Horovod (its
    `HOROVOD_HIERARCHICAL_ALLREDUCE`: reduce-scatter, all-reduce across nodes, all-gather), as in Goyal et al.,
    "Accurate, Large Minibatch SGD" (2017), section 4. Nothing of one step hides behind another.

    Args:
        size: bytes of the outputs, any shape.
        ranks: GPUs, or groups of stacks; one needs no sum.
        link: of each rank.

    Raises:
        ConfigurationError: fewer than one rank, or nodes that are not full.
    """
    size = _sized(size, ranks)
    if ranks == 1:
        return np.zeros_like(size)
    in_node = link.node_size(ranks)
    if in_node < ranks:
        assert link.between is not None
        across = all_reduce_s(size / in_node, full_nodes(ranks, link), link.between)
        return all_reduce_s(size, in_node, link) + across
    seconds = link.exchange_s(size)
    if link.ring is None:
        return seconds
    ring = link.ring.model_copy(update={"bandwidth": link.ring.bandwidth * link.count})
    return np.minimum(seconds, ring.seconds(size, ranks))


def all_reduce_j(size: FloatArray | float, ranks: int, link: Link) -> FloatArray:
    """Joules of links that `all_reduce_s` takes: partial sums to where they are summed, and the sums back.

    In each node 2 (p - 1) messages cross its links; between m nodes 2 (m - 1) in all, a p-th part of each by every rank
    of a node.
    """
    size = _sized(size, ranks)
    in_node = link.node_size(ranks)
    joules = full_nodes(ranks, link) * (2.0 * (in_node - 1) * size * link.j_per_byte)
    if in_node < ranks:
        assert link.between is not None
        joules = joules + 2.0 * (ranks // in_node - 1) * size * link.between.j_per_byte
    return np.asarray(joules)


def full_nodes(ranks: int, link: Link) -> int:
    """Nodes that so many ranks fill. Refuses nodes of fewer ranks than the others."""
    in_node = link.node_size(ranks)
    if ranks % in_node:
        raise ConfigurationError(
            f"all-reduce: found {ranks} ranks on nodes of {in_node} ({link.name}), expected full nodes, such as "
            f"{ranks // in_node * in_node} or {(ranks // in_node + 1) * in_node}"
        )
    return ranks // in_node


def nccl_s(size: FloatArray | float, gpus: int, gpu: str) -> FloatArray:
    """Seconds that NCCL takes to sum `size` bytes over GPUs (`a100` or `h100`) on NVLink, called through torch.

    Raises:
        ConfigurationError: fewer than one GPU, or an unknown one.
    """
    size = _sized(size, gpus)
    constants = lookup("GPU", gpu, NCCL)
    if gpus == 1:
        return np.zeros_like(size)
    tree = constants.tree_step_s * np.log2(gpus) + size / constants.tree_bandwidth
    return np.where(size > 0, np.minimum(tree, constants.ring.seconds(size, gpus)), 0.0)


def _sized(size: FloatArray | float, ranks: int) -> FloatArray:
    if ranks < 1:
        raise ConfigurationError(f"all-reduce: found {ranks!r} ranks, expected at least 1")
    return np.asarray(size, dtype=np.float64)


def stack_sum_s(size: FloatArray | float, stacks: int, bandwidth: float) -> FloatArray:
    """Seconds in which the partial outputs of `stacks` stacks are summed where they meet: `stacks` reads, a write.

    `size` is the bytes of the outputs, `bandwidth` the B/s of the stacks together; 16 kB of five stacks at
    3352 GB/s take 0.03 us.
    """
    return np.asarray(size, dtype=np.float64) * ((stacks + 1) / bandwidth)


# AttAcc's simulator: one hop of an all-reduce costs at least 6.06 us plus 0.009 ns per byte of a rank's
# share on a 600 GB/s NVLink, in proportion on others.
ATTACC_HOP_S = 6.06e-6
ATTACC_S_PER_BYTE = 0.009e-9
ATTACC_REFERENCE_BANDWIDTH = 600e9


def attacc_all_reduce_s(
    size: FloatArray | float, ranks: int, link: Link, hop_s: float = ATTACC_HOP_S
) -> FloatArray:
    """Seconds that AttAcc's simulator takes to sum `size` bytes over `ranks` GPUs: a ring of ranks - 1 hops."""
    size = _sized(size, ranks)
    if ranks == 1:
        return np.zeros_like(size)
    share = size / ranks
    both_ways = 2 * link.bandwidth
    hop = hop_s + ATTACC_S_PER_BYTE * share * (ATTACC_REFERENCE_BANDWIDTH / both_ways)
    return np.where(size > 0, (ranks - 1) * np.maximum(hop, share / link.bandwidth), 0.0)


def gather_and_broadcast_s(size: FloatArray | float, link: Link) -> FloatArray:
    """Seconds to collect `size` bytes of whole outputs from many stacks over `link` and send them to all again."""
    return 2 * link.transfer_s(size)
