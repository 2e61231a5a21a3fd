"""The handwritten digits that scikit-learn ships: small enough to train on in a minute, real enough to mean something.

1797 images of 8 x 8 pixels from 0 to 16 (Alpaydin and Kaynak, UCI Machine Learning Repository, CC BY 4.0), of which a
fifth is held out, as many of each digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.workload.vision.network import PATCH, RepMLPNet

SIDE = 8  # pixels of an image
BRIGHTEST = 16.0
CLASSES = 10
HELD_OUT = 0.2

# Each pixel becomes a patch, so that the maps are 8 x 8 and 4 x 4, each one partition.
# chosen: a network that two cores train in less than a minute; range: whatever `check_network` lets through.
DIGITS_NETWORK = RepMLPNet(
    name="repmlpnet-digits",
    channels=(16, 32),
    share_sets=(2, 8),
    blocks=(1, 2),
    partitions=(8, 4),
    image_size=PATCH * SIDE,
    image_channels=1,
    classes=CLASSES,
)


@dataclass(frozen=True)
class Digits:
    """Images as a network takes them, and what they show.

    Attributes:
        train, held_out: float32 [images, 1, side, side] from 0 to 1.
        train_labels, held_out_labels: int64 [images].
        indices: of the held-out images in scikit-learn's set, int64.
    """

    train: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.float32]
    held_out_labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]


def check_network(net: RepMLPNet) -> None:
    """Raise ConfigurationError for a network that does not take digits."""
    for name, found, expected in (
        ("image_channels", net.image_channels, 1),
        ("classes", net.classes, CLASSES),
    ):
        if found != expected:
            raise ConfigurationError(
                f"{net.name}: {name}: found {found}, expected {expected} to train on digits"
            )
    if net.image_size % SIDE:
        close = max(round(net.image_size / SIDE), 1) * SIDE
        raise ConfigurationError(
            f"{net.name}: image_size: found {net.image_size}, expected a multiple of the digits' {SIDE} pixels, such "
            f"as {close}"
        )


def load_digits(image_size: int, seed: int) -> Digits:
    """The digits, each pixel repeated so that an image has sides of `image_size`; `seed` draws what is held out.

    Needs scikit-learn.
    """
    from sklearn import datasets, model_selection

    found = datasets.load_digits()
    times = image_size // SIDE
    images = np.kron(found.images / BRIGHTEST, np.ones((times, times)))[:, None].astype(np.float32)
    labels = found.target.astype(np.int64)
    # scikit-learn takes seeds below 2**32.
    state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    train, held_out = model_selection.train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=state
    )
    return Digits(images[train], labels[train], images[held_out], labels[held_out], held_out)
