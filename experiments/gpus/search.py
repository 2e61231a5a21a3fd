"""The minimum of a rough function in a box, by the covariance matrix adaptation evolution strategy (CMA-ES).

Hansen, The CMA Evolution Strategy: A Tutorial (arXiv 1604.00772), with its default settings. Seeded: the same
function gives the same point.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from papi_env.kernel import FloatArray

# chosen: a first step of a fifth of the box, and what lies outside is charged by its distance.
_STEP, _CHARGE = 0.2, 1.0


def minimise(
    function: Callable[[FloatArray], float], start: FloatArray, *, evaluations: int, seed: int = 0
) -> FloatArray:
    """The best point found in the unit box.

    Args:
        function: of a point [D] in the box, to a number.
        start: the first mean [D], in the box.
        evaluations: how often the function is called, rounded down to whole generations.
        seed: of the draws.
    """
    size = len(start)
    population = 4 + int(3 * np.log(size)) + 2
    parents = population // 2
    weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    mass = 1 / np.square(weights).sum()
    # The tutorial's table 1: learning rates of the paths, the covariance and the step.
    path_rate = (4 + mass / size) / (size + 4 + 2 * mass / size)
    step_rate = (mass + 2) / (size + mass + 5)
    rank_one = 2 / ((size + 1.3) ** 2 + mass)
    rank_mu = min(1 - rank_one, 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
    damping = 1 + step_rate + 2 * max(0.0, np.sqrt((mass - 1) / (size + 1)) - 1)
    expected = np.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))

    rng = np.random.default_rng(seed)
    mean, step, covariance = start.astype(np.float64), _STEP, np.eye(size)
    path, step_path = np.zeros(size), np.zeros(size)
    best, best_value = mean, function(mean)
    for generation in range(evaluations // population):
        scales, axes = np.linalg.eigh(covariance)
        scales = np.sqrt(np.maximum(scales, 1e-20))
        moves = (rng.normal(size=(population, size)) * scales) @ axes.T
        points = mean + step * moves
        inside = np.clip(points, 0, 1)
        values = np.array([function(point) for point in inside])
        if values.min() < best_value:
            best, best_value = inside[values.argmin()], float(values.min())
        charged = values + _CHARGE * np.square(points - inside).sum(axis=1)
        chosen = moves[np.argsort(charged)[:parents]]
        move = weights @ chosen
        mean = mean + step * move
        whitened = axes @ ((axes.T @ move) / scales)
        step_path = (1 - step_rate) * step_path + np.sqrt(step_rate * (2 - step_rate) * mass) * whitened
        length = np.linalg.norm(step_path)
        settled = (
            length / np.sqrt(1 - (1 - step_rate) ** (2 * generation + 2)) < (1.4 + 2 / (size + 1)) * expected
        )
        path = (1 - path_rate) * path + settled * np.sqrt(path_rate * (2 - path_rate) * mass) * move
        covariance = (
            (1 - rank_one - rank_mu) * covariance
            + rank_one * np.outer(path, path)
            + rank_mu * (chosen.T * weights) @ chosen
        )
        step *= float(np.exp(step_rate / damping * (length / expected - 1)))
    return best
