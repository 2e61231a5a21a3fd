"""Growing a decision tree that imitates choices: CART with a weight for every sample and choice.

One tree decides all choices of a joint action. A split is the better, the more it lowers the Gini impurity of each
choice (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984), summed over the choices.
Samples are weighted by how much depends on the teacher's decision there, as in VIPER (Bastani, Pu and Solar-Lezama,
NeurIPS 2018), but choice by choice: where a unit does not matter, only the speculation length is imitated.

Leaves are split best first, so the tree of any size is a part of every larger one, and a smaller one costs nothing.
Thresholds lie between the quantiles of a feature, or between its values where it has few.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.distilled import Tree
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
# chosen: as histogram methods of gradient boosting have (range 64-255; more bins find finer thresholds).
MAX_BINS = 255
# chosen: a leaf that fewer samples reach is an accident (range 1-100).
MIN_SAMPLES = 10
# A sample's weight where nothing depends on it: it decides only what nothing else does.
FLOOR_WEIGHT = 1e-6


@dataclass(frozen=True)
class Samples:
    """What a teacher chose.

    Attributes:
        observations: float32 [samples, features].
        choices: int64 [samples, choices].
        weights: float64 [samples, choices], at least 0.
    """

    observations: Float32Array
    choices: IntArray
    weights: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """All of them, one after the other."""
        return cls(
            np.concatenate([part.observations for part in parts]),
            np.concatenate([part.choices for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.observations)


@dataclass
class _Node:
    """A node while the tree grows: its samples, its sums by option, and its best split if it has one."""

    rows: IntArray
    sums: FloatArray  # [options of all choices]
    gain: float = 0.0
    feature: int = -1
    cut: int = -1  # the last bin that goes left
    left: int = -1
    right: int = -1
    rank: int = -1  # how many splits came before its own


def cut_points(values: Float32Array, bins: int = MAX_BINS) -> Float32Array:
    """Thresholds to try for a feature, increasing: float32 [at most bins - 1]; none where it is constant.

    Each lies from one value, itself included, to below the next: x <= threshold says on which side x is.
    """
    unique = np.unique(values)
    if len(unique) > bins:
        levels = np.linspace(0, 1, bins + 1)[1:-1]
        unique = np.unique(np.append(np.quantile(values, levels, method="lower"), unique[-1]))
    low, high = unique[:-1], unique[1:]
    middle = (low + (high - low) / 2).astype(np.float32)
    return np.where(middle < high, middle, low).astype(np.float32)


class GrownTree:
    """A tree in the order of its growth; `prefix` gives the tree of any size.

    Args:
        samples: to imitate.
        options: of each choice.
        max_leaves: at most.
        features: that it may read; None: all.
        min_samples: of each leaf at least.
        bins: of a feature at most, between which thresholds lie.

    Raises:
        ConfigurationError: no samples, or choices outside the options.
    """

    def __init__(
        self,
        samples: Samples,
        options: Sequence[int],
        max_leaves: int,
        *,
        features: Sequence[int] | None = None,
        min_samples: int = MIN_SAMPLES,
        bins: int = MAX_BINS,
    ) -> None:
        if not len(samples) or max_leaves < 1:
            raise ConfigurationError(
                f"{len(samples)} samples for {max_leaves} leaves, expected at least one of each"
            )
        nvec = np.array(options)
        if samples.choices.shape[1] != len(nvec) or ((samples.choices < 0) | (samples.choices >= nvec)).any():
            raise ConfigurationError(f"Choices outside {list(options)}")
        self.options = tuple(int(n) for n in options)
        self._starts = np.concatenate(([0], np.cumsum(nvec)[:-1]))
        self._columns = samples.choices + self._starts
        self._weights = samples.weights + FLOOR_WEIGHT
        self._min_samples = min_samples
        read = range(samples.observations.shape[1]) if features is None else features
        cuts = {f: cut_points(samples.observations[:, f], bins) for f in read}
        self._cuts = {f: points for f, points in cuts.items() if len(points)}
        self._features = list(self._cuts)
        self._bins = {
            f: np.searchsorted(self._cuts[f], samples.observations[:, f], side="left").astype(np.int64)
            for f in self._features
        }
        self._nodes = [self._node(np.arange(len(samples)))]
        self._grow(max_leaves)

    @property
    def leaves(self) -> int:
        """Leaves of the largest tree."""
        return (len(self._nodes) + 1) // 2

    def _node(self, rows: IntArray) -> _Node:
        columns, weights = self._columns[rows], self._weights[rows]
        counted = np.bincount(columns.ravel(), weights.ravel(), minlength=sum(self.options))
        sums = np.asarray(counted, dtype=np.float64)
        node = _Node(rows, sums)
        self._find_split(node)
        return node

    def _purity(self, sums: FloatArray) -> FloatArray:
        """Sum over choices of the squared sums by option over their total: [...] of [..., options]."""
        squares = np.add.reduceat(sums * sums, self._starts, axis=-1)
        totals = np.add.reduceat(sums, self._starts, axis=-1)
        ratio = np.divide(squares, totals, out=np.zeros_like(squares), where=totals > 0)
        return np.asarray(ratio.sum(axis=-1))

    def _find_split(self, node: _Node) -> None:
        """Note the split with the largest gain, the first of equals."""
        rows, width = node.rows, sum(self.options)
        if len(rows) < 2 * self._min_samples:
            return
        columns, weights = self._columns[rows], self._weights[rows].ravel()
        whole = self._purity(node.sums)
        for f in self._features:
            bins = self._bins[f][rows]
            size = len(self._cuts[f]) + 1
            counts = np.cumsum(np.bincount(bins, minlength=size))[:-1]
            allowed = (counts >= self._min_samples) & (len(rows) - counts >= self._min_samples)
            if not allowed.any():
                continue
            cells = (bins[:, None] * width + columns).ravel()
            sums = np.asarray(np.bincount(cells, weights, minlength=size * width), dtype=np.float64)
            left = np.cumsum(sums.reshape(size, width), axis=0)[:-1]
            gains = self._purity(left) + self._purity(np.maximum(node.sums - left, 0.0)) - whole
            gains[~allowed] = -np.inf
            best = int(np.argmax(gains))
            if gains[best] > node.gain:
                node.gain, node.feature, node.cut = float(gains[best]), f, best
        # Rounding of sums is no gain.
        if node.gain <= 1e-12 * float(whole):
            node.feature = -1

    def _grow(self, max_leaves: int) -> None:
        waiting = [(-self._nodes[0].gain, 0)] if self._nodes[0].feature >= 0 else []
        splits = 0
        while waiting and splits < max_leaves - 1:
            _, i = heapq.heappop(waiting)
            node = self._nodes[i]
            goes_left = self._bins[node.feature][node.rows] <= node.cut
            node.rank = splits
            splits += 1
            for side in (True, False):
                child = self._node(node.rows[goes_left == side])
                self._nodes.append(child)
                at = len(self._nodes) - 1
                if side:
                    node.left = at
                else:
                    node.right = at
                if child.feature >= 0:
                    heapq.heappush(waiting, (-child.gain, at))

    def prefix(self, leaves: int) -> Tree:
        """The tree of the first `leaves` - 1 splits; twin leaves that act alike are one.

        Returns:
            At most `leaves` leaves.
        """
        feature: list[int] = []
        threshold: list[float] = []
        left: list[int] = []
        right: list[int] = []
        actions: list[tuple[int, ...]] = []

        def is_split(i: int) -> bool:
            return 0 <= self._nodes[i].rank < leaves - 1 and self._one_action(i, leaves) is None

        # Breadth first, so that children come after their parents.
        order = [0]
        for i in order:
            if is_split(i):
                order += [self._nodes[i].left, self._nodes[i].right]
        number = {i: k for k, i in enumerate(order)}
        for i in order:
            node = self._nodes[i]
            if is_split(i):
                feature.append(node.feature)
                threshold.append(float(self._cuts[node.feature][node.cut]))
                left.append(number[node.left])
                right.append(number[node.right])
            else:
                action = self._one_action(i, leaves)
                assert action is not None
                feature.append(-1)
                threshold.append(0.0)
                left.append(len(actions))
                right.append(len(actions))
                actions.append(action)
        return Tree(
            np.array(feature, dtype=np.int16),
            np.array(threshold, dtype=np.float32),
            np.array(left, dtype=np.int16),
            np.array(right, dtype=np.int16),
            np.array(actions, dtype=np.int64),
        )

    def _one_action(self, i: int, leaves: int) -> tuple[int, ...] | None:
        """What everything below a node does in the tree of so many leaves, None where that differs."""
        node = self._nodes[i]
        if not 0 <= node.rank < leaves - 1:
            return self._action(node)
        one, other = (self._one_action(child, leaves) for child in (node.left, node.right))
        return one if one == other else None

    def _action(self, node: _Node) -> tuple[int, ...]:
        return tuple(int(np.argmax(part)) for part in np.split(node.sums, self._starts[1:]))
