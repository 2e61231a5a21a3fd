"""What is still to come of an episode, as a small network expects it from what is seen: the value of a leaf."""

from __future__ import annotations

import numpy as np

from agents.learned.networks import Float32Array
from papi_env.kernel import FloatArray

# chosen: 16 hidden units (range 4-64), 400 steps of 256 rows by Adam at 0.01 (range 100-2000, 64-1024, 0.001-0.03), and
# a tenth of the rows to say what is explained.
_HIDDEN, _UPDATES, _ROWS, _RATE, _HELD_OUT = 16, 400, 256, 0.01, 0.1


class Leaves:
    """A network of one hidden layer, float64.

    Args:
        hidden, output: weights, [inputs + 1, outputs] and [inputs + 1], the last of them constants.
        scale: mean and standard deviation of returns, [2].
        explained: share of the variance that it explained of returns that it was not fitted to, [1].
    """

    NAMES = ("hidden", "output", "scale", "explained")

    def __init__(
        self, hidden: FloatArray, output: FloatArray, scale: FloatArray, explained: FloatArray
    ) -> None:
        self.hidden, self.output, self.scale, self.explained = hidden, output, scale, explained

    @property
    def arrays(self) -> dict[str, FloatArray]:
        """All that it is, by `NAMES`."""
        return {name: getattr(self, name) for name in self.NAMES}

    @staticmethod
    def shapes(features: int) -> dict[str, FloatArray]:
        """Zeros in the shapes of `arrays`."""
        shapes = ((features + 1, _HIDDEN), (_HIDDEN + 1,), (2,), (1,))
        return {name: np.zeros(shape) for name, shape in zip(Leaves.NAMES, shapes, strict=True)}

    def __call__(self, observations: Float32Array) -> FloatArray:
        """Expected returns, float64 [n], of observations, [n, features]."""
        units = np.tanh(observations @ self.hidden[:-1] + self.hidden[-1])
        return np.asarray((units @ self.output[:-1] + self.output[-1]) * self.scale[1] + self.scale[0])

    @staticmethod
    def fitted(observations: Float32Array, returns: FloatArray, seed: int) -> Leaves:
        """Fit to returns, float64 [n], of observations, [n, features]."""
        import torch  # processes that look need only what it came to

        rng = np.random.default_rng(seed)
        order = rng.permutation(len(returns))
        held = order[: max(int(_HELD_OUT * len(order)), 1)]
        taught = order[len(held) :]
        scale = np.array([returns[taught].mean(), max(float(returns[taught].std()), 1e-9)])
        inputs = torch.from_numpy(observations.astype(np.float64))
        targets = torch.from_numpy((returns - scale[0]) / scale[1])
        features = observations.shape[1]
        hidden = torch.from_numpy(rng.normal(0.0, 1.0 / np.sqrt(features), (features + 1, _HIDDEN)))
        output = torch.zeros(_HIDDEN + 1, dtype=torch.float64)
        weights = [hidden.requires_grad_(), output.requires_grad_()]
        optimizer = torch.optim.Adam(weights, lr=_RATE)
        for _ in range(_UPDATES):
            rows = rng.choice(taught, size=min(_ROWS, len(taught)), replace=False)
            units = torch.tanh(inputs[rows] @ hidden[:-1] + hidden[-1])
            loss = ((units @ output[:-1] + output[-1] - targets[rows]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        leaves = Leaves(hidden.detach().numpy(), output.detach().numpy(), scale, np.zeros(1))
        errors = leaves(observations[held]) - returns[held]
        leaves.explained[0] = 1.0 - errors.var() / max(float(returns[held].var()), 1e-12)
        return leaves
