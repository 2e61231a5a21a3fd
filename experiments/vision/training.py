"""Training a RepMLPNet on small images, and what merging it changes. Needs torch.

The same seed gives the same weights: one thread, torch's deterministic algorithms, and generators of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from experiments.vision.digits import SIDE, Digits
from papi_env.workload.vision.network import RepMLPNet
from papi_env.workload.vision.repmlp import RepMLPNetwork, create_repmlpnet

# chosen, of a few tried on held-out digits of other seeds: none of them is critical.
BATCH = 64  # range 16-128
LEARNING_RATE = 3e-3  # highest of a cycle that warms up and cools down; range 1e-3 to 1e-2
WEIGHT_DECAY = 0.05  # range 0.01-0.2
SMOOTHING = 0.05  # of labels; range 0-0.1
SHIFT = 1  # pixels of the original image by which it moves at most, each way; range 0-2


@dataclass(frozen=True)
class Epoch:
    """An epoch: mean loss and share of right answers while it ran, and seconds since training began."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float


def train(
    net: RepMLPNet, digits: Digits, epochs: int, seed: int, after: Callable[[Epoch], None] | None = None
) -> tuple[RepMLPNetwork, list[Epoch]]:
    """A network in training form and in evaluation mode, trained on `digits.train`, and how that went.

    Args:
        net: what `digits.check_network` lets through.
        digits: with images of the network's size.
        epochs: at least 1.
        seed: of weights, order and shifts.
        after: called with each epoch.
    """
    started = time.perf_counter()
    images, labels = torch.from_numpy(digits.train), torch.from_numpy(digits.train_labels)
    curve: list[Epoch] = []
    with _repeatable():
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        network = create_repmlpnet(net)
        steps = epochs * (-(-len(images) // BATCH))
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
        criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        network.train()
        for epoch in range(1, epochs + 1):
            total, right = 0.0, 0
            for chosen in torch.randperm(len(images), generator=draws).split(BATCH):
                scores = network(_shifted(images[chosen], draws))
                loss = criterion(scores, labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                total += len(chosen) * loss.item()
                right += int((scores.argmax(1) == labels[chosen]).sum())
            spent = time.perf_counter() - started
            curve.append(Epoch(epoch, total / len(images), right / len(images), spent))
            if after is not None:
                after(curve[-1])
    return network.eval(), curve


@torch.no_grad()
def logits(network: nn.Module, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits of images [N, channels, side, side] in float32 [N, classes]."""
    with _repeatable():
        parts = [network(part) for part in torch.from_numpy(images).split(BATCH)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def agreement(
    before: npt.NDArray[Any], after: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> dict[str, float | int]:
    """What two sets of logits of the same images, float [N, classes], have in common.

    `margin` is the smallest distance between an image's two highest logits before: what a difference must exceed
    twice for a prediction to change.
    """
    highest = np.sort(before, axis=1)
    return {
        "images": len(labels),
        "equal_predictions": int((before.argmax(1) == after.argmax(1)).sum()),
        "accuracy_before": float((before.argmax(1) == labels).mean()),
        "accuracy_after": float((after.argmax(1) == labels).mean()),
        "largest_difference": float(np.abs(after.astype(np.float64) - before).max()),
        "largest_logit": float(np.abs(before).max()),
        "margin": float((highest[:, -1] - highest[:, -2]).min()),
    }


def _shifted(images: Tensor, draws: torch.Generator) -> Tensor:
    """Images [N, 1, side, side], each moved by up to `SHIFT` pixels of the original, black coming in."""
    step = images.shape[-1] // SIDE
    reach = SHIFT * step
    padded = nn.functional.pad(images, (reach, reach, reach, reach))
    moves = step * torch.randint(0, 2 * SHIFT + 1, (len(images), 2), generator=draws)
    side = torch.arange(images.shape[-1])
    rows, columns = (moves[:, k, None] + side for k in range(2))
    which = torch.arange(len(images))[:, None, None]
    return padded[which, 0, rows[:, :, None], columns[:, None, :]][:, None]


@contextmanager
def _repeatable() -> Iterator[None]:
    """One thread, deterministic algorithms, and torch's own generator untouched; all as before afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
