"""Growing a decision tree that imitates what a teacher prefers, not only what it does.

A teacher says of each decision how much speaks for every option and what is lost by taking it. A split is the better,
the more it lowers the Gini impurity of the shares (Breiman, Friedman, Olshen and Stone, "Classification and Regression
Trees", 1984, with the teacher's probabilities in the place of classes), and a leaf decides what loses least on average
over its samples. So it does not matter which of two options that come to the same a teacher names, and a leaf that
holds two cases finds what serves both. Joint actions that the teacher numbers are one decision; where it makes choices
side by side, the impurities add, and each is decided for itself.

Leaves are split best first, so the tree of any size is a part of every larger one, and a smaller one costs nothing.
Thresholds lie between the quantiles of a feature, or between its values where it has few.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from agents.learned.distilled import Tree
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import njit

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
# chosen: as histogram methods of gradient boosting have (range 64-255; more bins find finer thresholds).
MAX_BINS = 255
# chosen: a leaf that fewer samples reach is an accident (range 1-100).
MIN_SAMPLES = 10


@dataclass(frozen=True)
class Decisions:
    """What each leaf decides.

    Attributes:
        options: of each decision.
        joint_actions: where the one decision is over numbered joint actions, int64 [options, choices], what each is.
    """

    options: tuple[int, ...]
    joint_actions: IntArray | None = None

    def action(self, decided: Sequence[int]) -> tuple[int, ...]:
        """One option of each decision as an action of the environment."""
        if self.joint_actions is None:
            return tuple(decided)
        return tuple(self.joint_actions[decided[0]].tolist())


@dataclass(frozen=True)
class Samples:
    """What a teacher prefers.

    Attributes:
        observations: float32 [samples, features].
        shares: float32 [samples, options of all decisions], at least 0: how much speaks for each.
        losses: the same shape, at least 0: what is lost by taking each; 0 for the best.
        weights: float64 [samples], above 0: how much a sample counts.
    """

    observations: Float32Array
    shares: Float32Array
    losses: Float32Array
    weights: FloatArray

    @classmethod
    def of_choices(cls, observations: Float32Array, choices: IntArray, options: Sequence[int]) -> Samples:
        """Of a teacher that says no more than what it chooses.

        Args:
            observations: [samples, features].
            choices: [samples, choices].
            options: of each choice.

        Raises:
            ConfigurationError: choices outside the options.
        """
        nvec = np.array(options)
        if choices.shape[1] != len(nvec) or ((choices < 0) | (choices >= nvec)).any():
            raise ConfigurationError(f"Choices outside {list(options)}")
        shares = np.concatenate(
            [chosen[:, None] == np.arange(n) for chosen, n in zip(choices.T, options, strict=True)], axis=1
        ).astype(np.float32)
        return cls(observations, shares, 1 - shares, np.ones(len(observations)))

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """All of them, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def taken(self, rows: IntArray | npt.NDArray[np.bool_]) -> Samples:
        """Some of them."""
        return Samples(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.observations)


@dataclass
class _Node:
    """A node while the tree grows: its samples, their weighted shares and losses, and its best split if it has one."""

    rows: IntArray
    shares: FloatArray  # [options of all decisions]
    losses: FloatArray
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


@njit
def _sums_by_bin(bins: IntArray, shares: FloatArray, size: int) -> FloatArray:
    """Sums of the rows of `shares`, [samples, options], that fall in each bin: float64 [size, options]."""
    sums = np.zeros((size, shares.shape[1]))
    for i in range(len(bins)):
        for k in range(shares.shape[1]):
            sums[bins[i], k] += shares[i, k]
    return sums


class GrownTree:
    """A tree in the order of its growth; `prefix` gives the tree of any size.

    Args:
        samples: to imitate.
        decisions: what they are about.
        max_leaves: at most.
        features: that it may read; None: all.
        min_samples: of each leaf at least.
        bins: of a feature at most, between which thresholds lie.

    Raises:
        ConfigurationError: no samples, or not of these decisions.
    """

    def __init__(
        self,
        samples: Samples,
        decisions: Decisions,
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
        width = sum(decisions.options)
        if samples.shares.shape[1] != width:
            raise ConfigurationError(
                f"Samples of {samples.shares.shape[1]} options, expected {width} in {list(decisions.options)}"
            )
        self.decisions = decisions
        self._starts = np.concatenate(([0], np.cumsum(decisions.options)[:-1]))
        self._samples = samples
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
        weights = self._samples.weights[rows]
        node = _Node(rows, weights @ self._samples.shares[rows], weights @ self._samples.losses[rows])
        self._find_split(node)
        return node

    def _purity(self, sums: FloatArray) -> FloatArray:
        """Sum over decisions of the squared sums by option over their total: [...] of [..., options]."""
        squares = np.add.reduceat(sums * sums, self._starts, axis=-1)
        totals = np.add.reduceat(sums, self._starts, axis=-1)
        ratio = np.divide(squares, totals, out=np.zeros_like(squares), where=totals > 0)
        return np.asarray(ratio.sum(axis=-1))

    def _find_split(self, node: _Node) -> None:
        """Note the split with the largest gain, the first of equals."""
        rows = node.rows
        if len(rows) < 2 * self._min_samples:
            return
        shares = self._samples.shares[rows] * self._samples.weights[rows, None]
        whole = self._purity(node.shares)
        for f in self._features:
            bins = self._bins[f][rows]
            size = len(self._cuts[f]) + 1
            counts = np.cumsum(np.bincount(bins, minlength=size))[:-1]
            allowed = (counts >= self._min_samples) & (len(rows) - counts >= self._min_samples)
            if not allowed.any():
                continue
            left = np.cumsum(_sums_by_bin(bins, shares, size), axis=0)[:-1]
            gains = self._purity(left) + self._purity(np.maximum(node.shares - left, 0.0)) - whole
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
        return self.decisions.action(
            [int(np.argmin(part)) for part in np.split(node.losses, self._starts[1:])]
        )
