"""The networks of learned policies, in NumPy: what acts needs no torch.

An optional LSTM, fully connected layers, and a linear head with a score for every option of every choice: the
logits of a categorical distribution, or action values. Everything is float32, as trained; sums are ordered
otherwise than in torch, so scores agree to rounding and actions wherever no two scores are closer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Float32Array = npt.NDArray[np.float32]
# Hidden and cell state of an LSTM, float32 [layers, num_envs, hidden_size] each: SB3's shape.
RecurrentState: TypeAlias = tuple[Float32Array, Float32Array]

# Bounds of what a file may ask for, far above any network trained here.
_Width = Annotated[int, Field(ge=1, le=1 << 14)]
_Layers = Annotated[int, Field(ge=1, le=16)]


class LstmShape(BaseModel):
    """Layers of an LSTM, one on the other, all of the same size."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hidden_size: _Width
    layers: _Layers


class Architecture(BaseModel):
    """What determines the names and shapes of a network's tensors.

    Attributes:
        inputs: features of an observation.
        lstm: between the observation and the hidden layers, if there is one.
        hidden: widths of the hidden layers; none is a linear policy.
        activation: after each hidden layer.
        head: what the scores are: logits of a distribution to draw from, or values of actions.
        options: of each choice; one number for a `Discrete` space.
        skip: so many inputs, the last ones, reach the head as they are, beside the last hidden layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inputs: _Width
    lstm: LstmShape | None = None
    hidden: Annotated[tuple[_Width, ...], Field(max_length=16, strict=False)]
    activation: Literal["tanh", "relu"]
    head: Literal["categorical", "values"]
    options: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=64, strict=False)]
    skip: Annotated[int, Field(ge=0, le=1 << 14)] = 0

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Files from before it existed say nothing of it.
        dumped: dict[str, Any] = handler(self)
        return {name: value for name, value in dumped.items() if name != "skip" or value}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name. Weights are [outputs, inputs]; an LSTM's gates stand in torch's order."""
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.inputs
        if self.lstm is not None:
            size = self.lstm.hidden_size
            for layer in range(self.lstm.layers):
                shapes[f"lstm.{layer}.input"] = (4 * size, width)
                shapes[f"lstm.{layer}.recurrent"] = (4 * size, size)
                shapes[f"lstm.{layer}.bias"] = (4 * size,)
                width = size
        for layer, outputs in enumerate(self.hidden):
            shapes[f"hidden.{layer}.weight"], shapes[f"hidden.{layer}.bias"] = (outputs, width), (outputs,)
            width = outputs
        outputs = sum(self.options)
        return {**shapes, "head.weight": (outputs, width + self.skip), "head.bias": (outputs,)}


def _relu(x: Float32Array) -> Float32Array:
    return np.maximum(x, np.float32(0))


# What an option loses at most, in log-probability, and what one does that is not allowed. chosen: a share of 5e-5,
# which training does not tell from none (range 3-20).
MOST_LOST = 10.0

_ACTIVATIONS: Mapping[str, Callable[[Float32Array], Float32Array]] = {"tanh": np.tanh, "relu": _relu}


def _sigmoid(x: Float32Array) -> Float32Array:
    # Through tanh, which cannot overflow.
    half = np.float32(0.5)
    return half * (np.tanh(half * x) + np.float32(1))


class Network:
    """A network with its weights.

    Args:
        architecture: what the tensors mean.
        weights: float32, with the names and shapes of `architecture.shapes()`.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, Float32Array]) -> None:
        self.architecture = architecture
        self._weights = dict(weights)
        self._activation = _ACTIVATIONS[architecture.activation]
        self._splits = np.cumsum(architecture.options)[:-1]

    def initial_state(self, num_envs: int) -> RecurrentState | None:
        """Zeros where an episode starts; None without an LSTM."""
        lstm = self.architecture.lstm
        if lstm is None:
            return None
        shape = (lstm.layers, num_envs, lstm.hidden_size)
        return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)

    def scores(
        self, observations: Float32Array, state: RecurrentState | None = None
    ) -> tuple[Float32Array, RecurrentState | None]:
        """Score of each option, the choices side by side.

        Args:
            observations: float32 [num_envs, inputs].
            state: of the LSTM before this step; needed where there is one.

        Returns:
            float32 [num_envs, sum of options], and the state after the step.
        """
        x = observations
        if self.architecture.lstm is not None:
            assert state is not None
            x, state = self._recurrent(x, state)
        for layer in range(len(self.architecture.hidden)):
            x = self._activation(self._linear(f"hidden.{layer}", x))
        if self.architecture.skip:
            x = np.concatenate([x, observations[:, -self.architecture.skip :]], axis=1)
        return self._linear("head", x), state

    def best(self, scores: Float32Array, masks: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
        """The option with the highest score of each choice, int64 [num_envs, choices]; the first of equals.

        Args:
            scores: as from `scores`.
            masks: bool, the shape of `scores`, true where an option is allowed; None allows all.
        """
        if masks is not None:
            scores = np.where(masks, scores, np.float32(-np.inf))
        return np.stack([part.argmax(axis=1) for part in np.split(scores, self._splits, axis=1)], axis=1)

    def drawn(
        self, scores: Float32Array, masks: npt.NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Options drawn from the distributions that the scores are logits of; values are not drawn from."""
        if self.architecture.head == "values":
            return self.best(scores, masks)
        # The largest of logits plus independent Gumbel variables has the softmax distribution (Gumbel 1954).
        return self.best(scores + rng.gumbel(size=scores.shape).astype(np.float32), masks)

    def preferences(
        self, scores: Float32Array, masks: npt.NDArray[np.bool_] | None
    ) -> tuple[Float32Array, Float32Array]:
        """How much speaks for each option, and what is lost by taking it; both in the shape of `scores`.

        Args:
            scores, masks: as in `best`.

        Returns:
            Shares: the probability of each option for logits; for values the best of each choice has what it is
            ahead of the worst, as in VIPER (Bastani, Pu and Solar-Lezama, NeurIPS 2018), and the others 0. Losses:
            by how much an option's log-probability or value is below the best. What is not allowed has the share 0
            and loses as much as can be lost: `MOST_LOST`, or what the worst option does.
        """
        allowed = np.ones(scores.shape, dtype=np.bool_) if masks is None else masks
        shares, losses = [], []
        parts = (np.split(array, self._splits, axis=1) for array in (scores, allowed))
        for part, possible in zip(*parts, strict=True):
            part = np.where(possible, part, np.float32(-np.inf))
            best = part.max(axis=1, keepdims=True)
            lost = np.where(possible, best - part, 0)
            if self.architecture.head == "categorical":
                raised = np.where(possible, np.exp(-lost), 0)
                shares.append(raised / raised.sum(axis=1, keepdims=True))
                losses.append(np.where(possible, np.minimum(lost, MOST_LOST), MOST_LOST))
            else:
                most = lost.max(axis=1, keepdims=True)
                first = part.argmax(axis=1)[:, None]
                shares.append(np.where(np.arange(part.shape[1]) == first, most, 0))
                losses.append(np.where(possible, lost, most))
        return np.concatenate(shares, axis=1), np.concatenate(losses, axis=1)

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        return np.asarray(x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _recurrent(self, x: Float32Array, state: RecurrentState) -> tuple[Float32Array, RecurrentState]:
        """A step of every LSTM layer (Hochreiter and Schmidhuber 1997, with forget gates)."""
        hidden, cell = np.empty_like(state[0]), np.empty_like(state[1])
        for layer in range(len(hidden)):
            gates = (
                x @ self._weights[f"lstm.{layer}.input"].T
                + state[0][layer] @ self._weights[f"lstm.{layer}.recurrent"].T
                + self._weights[f"lstm.{layer}.bias"]
            )
            enter, keep, candidate, leave = np.split(gates, 4, axis=1)
            cell[layer] = _sigmoid(keep) * state[1][layer] + _sigmoid(enter) * np.tanh(candidate)
            hidden[layer] = x = _sigmoid(leave) * np.tanh(cell[layer])
        return x, (hidden, cell)
