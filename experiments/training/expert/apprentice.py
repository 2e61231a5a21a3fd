"""The network as torch has it, and its fit to what looks found. What acts is compiled, `inside.network`.

A plan is the likelier the more it gains: exp(gain / temperature), gains in standard errors of their setting, over less,
as it is, and more of an output. What is expected of this is what the output should be moved by; where nothing is gained
or all is doubtful it should stay, so that doubt holds the network where it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from agents.learned.networks import Float32Array
from agents.serving.inside import network as layout
from agents.serving.planning.space import IntArray
from experiments.training.expert.looks import STEPS, Looks
from experiments.training.hyperparameters import ExpertIteration, at
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as columns

# Of the looks, those that say when a fit is to stop. chosen: 0.15; range 0.05-0.3.
_HELD_OUT = 0.15
# Updates from one look at these to the next. chosen: 10; range 5-50.
_EVERY = 10


class Outputs(NamedTuple):
    """What the network puts out: queries [n, classes, traits], and what it adjusts [n, adjusted]; float64."""

    queries: torch.Tensor
    adjusted: torch.Tensor


def forward(weights: torch.Tensor, observations: Float32Array, waiting: FloatArray) -> Outputs:
    """The outputs of a network.

    Args:
        weights: float64 [NUM_WEIGHTS], in the order of `layout.TENSORS`.
        observations: [n, features]; waiting: [n], see `Looks`.
    """
    tensors, start = {}, 0
    for name, (rows, inputs) in layout.TENSORS:
        tensors[name] = weights[start : start + rows * inputs].reshape(rows, inputs)
        start += rows * inputs
    seen = torch.from_numpy(observations.astype(np.float64))
    classes = torch.stack(
        [seen[:, layout.CLASS_COLUMNS + c] for c in range(columns.MAX_CLASSES)], dim=1
    )  # [n, classes, NUM_CLASS]
    shares = _shares(observations)
    summaries = _soft(_affine(tensors["summary"], classes)) * shares[:, :, None]
    machine = seen[:, layout.MACHINE_COLUMNS]
    read = torch.cat([machine, torch.from_numpy(waiting)[:, None], summaries.sum(dim=1)], dim=1)
    each = torch.cat([classes, read[:, None].expand(-1, columns.MAX_CLASSES, -1)], dim=2)
    hidden = _soft(_affine(tensors["query.hidden"], each))
    queries = _affine(tensors["query.output"], torch.cat([each, hidden], dim=2))
    hidden = _soft(_affine(tensors["adjust.hidden"], read))
    return Outputs(queries, _affine(tensors["adjust.output"], torch.cat([read, hidden], dim=1)))


def targets(looks: Looks, temperature: float) -> FloatArray:
    """By how much outputs should move, in their steps, float64 [n, NUM_VARIED] within -1 and 1."""
    moved = np.zeros(looks.gains.shape[:2])
    for setting in np.unique(looks.settings):
        own = looks.settings == setting
        doubts = looks.doubts[own]
        some = doubts > 0
        if not some.any():
            continue
        scale = temperature * np.sqrt((doubts[some] ** 2).mean())
        gains = np.clip(looks.gains[own] / scale, -50.0, 50.0)
        less, more = np.exp(gains[..., 0]), np.exp(gains[..., 1])
        moved[own] = (more - less) / (1.0 + less + more)
    return moved


def fit(
    weights: FloatArray, looks: Looks, parameters: ExpertIteration, seed: int, everywhere: bool = False
) -> tuple[FloatArray, float]:
    """Weights whose outputs are moved as looks say, and what share of that they explain of looks not fitted to.

    They are those at which most was explained of these; without a move that explains any, as they were.

    Args:
        weights: that looked, float64 [NUM_WEIGHTS].
        looks: at least two.
        parameters: of the training.
        seed: of the batches.
        everywhere: move outputs by the same in all states: their constants alone.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(looks.waiting))
    held = order[: max(int(_HELD_OUT * len(order)), 1)]
    taught = order[len(held) :]
    wanted = torch.from_numpy(targets(looks, parameters.temperature))
    steps, tried = torch.from_numpy(STEPS), torch.from_numpy(looks.tried.astype(np.float64))
    moving = torch.from_numpy(weights.copy()).requires_grad_()
    with torch.no_grad():
        before = forward(moving, looks.observations, looks.waiting)

    def loss(rows: IntArray) -> torch.Tensor:
        now = forward(moving, looks.observations[rows], looks.waiting[rows])
        moved = _moves(now.queries - before.queries[rows], now.adjusted - before.adjusted[rows], looks, rows)
        return (((moved / steps - wanted[rows]) ** 2) * tried[rows]).sum(dim=1).mean()

    free = torch.from_numpy(_constants() if everywhere else np.ones(len(weights)))
    optimizer = torch.optim.Adam([moving], lr=at(parameters.learning_rate, 1.0))
    with torch.no_grad():
        nothing = least = float(loss(held))
    best = weights
    for update in range(1, parameters.updates + 1):
        rows = rng.choice(taught, size=min(parameters.batch_size, len(taught)), replace=False)
        value = loss(rows)
        optimizer.zero_grad()
        value.backward()
        assert moving.grad is not None
        moving.grad *= free
        optimizer.step()
        if update % _EVERY == 0:
            with torch.no_grad():
                found = float(loss(held))
            if found < least:
                least, best = found, moving.detach().numpy().copy()
    return best, 1.0 - least / nothing if nothing > 0 else 0.0


def _constants() -> FloatArray:
    """1 for the constants of outputs, 0 for other weights."""
    parts = []
    for name, shape in layout.TENSORS:
        part = np.zeros(shape)
        if name.endswith("output"):
            part[:, -1] = 1.0
        parts.append(part.ravel())
    return np.concatenate(parts)


def _moves(queries: torch.Tensor, adjusted: torch.Tensor, looks: Looks, rows: IntArray) -> torch.Tensor:
    """By how much what looks vary has moved, [n, NUM_VARIED]: weights of a trait on average over the classes."""
    there = (_shares(looks.observations[rows]) > 0).to(torch.float64)
    mean = (queries[:, :, columns.CONSTANT + 1 :] * there[:, :, None]).sum(dim=1) / there.sum(
        dim=1, keepdim=True
    )
    return torch.cat([queries[:, :, columns.CONSTANT] * there, mean, adjusted], dim=1)


def _shares(observations: Float32Array) -> torch.Tensor:
    """Share of sessions of each class, [n, classes]."""
    return torch.from_numpy(
        observations[:, layout.SHARE : layout.SHARE + columns.MAX_CLASSES].astype(np.float64)
    )


def _soft(x: torch.Tensor) -> torch.Tensor:
    return x / (1.0 + x.abs())


def _affine(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ rows[:, :-1].T + rows[:, -1]
