"""The single environment of a problem; `vector` has the batch of them."""

from __future__ import annotations

from operator import itemgetter, lt
from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded

from papi_env.envs.problem import (
    AnyEngine,
    BoolArray,
    Float32Array,
    Problem,
    ScenarioLike,
    check_truth,
    observation_space,
    sizes,
)
from papi_env.envs.rendering import render_ansi, render_rgb
from papi_env.errors import ConfigurationError, lookup
from papi_env.scenario import Replacements
from papi_env.simulation.engine import DISABLED, DONE, seed_number


class ProblemEnv(Problem[AnyEngine], gym.Env[Float32Array, Any]):
    """One environment: the engine with `num_envs=1`. Arguments are documented in the problem's class."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        scenario: ScenarioLike | None = None,
        *,
        strict: bool = False,
        render_mode: str | None = None,
        **replacements: Unpack[Replacements],
    ) -> None:
        if render_mode is not None:
            lookup("render mode", render_mode, dict.fromkeys(self.metadata["render_modes"]))
        check_truth("strict", strict)
        self._setup(self.build_scenario(scenario, **replacements), 1, DISABLED, None)
        self.observation_space = observation_space(self.observation_names)  # type: ignore[assignment]
        self.action_space = self.single_space()
        self.strict, self.render_mode = strict, render_mode
        self._timeline = self.new_timeline()
        self._started = False
        self._sizes = sizes(self.action_space)
        self._info_names = tuple(name for name, _ in (*self.clock_info, *self.counter_info))
        self._clock_values = itemgetter(*(column for _, column in self.clock_info))
        self._counter_values = itemgetter(*(column for _, column in self.counter_info))
        self._bind()

    def _bind(self) -> None:
        """Look up once what every step takes: it must cost little beside the compiled call."""
        engine = self.engine
        self._counters, self._clocks, self._action = engine.counters[0], engine.clocks[0], engine.actions[0]
        self._observation, self._rewards = engine.observations[0], engine.rewards
        self._terminated, self._truncated = engine.terminated, engine.truncated

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Views do not survive pickling as views.
        self._bind()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Start the next episode of the current seed, or the first one of `seed`, any non-negative integer."""
        if seed is not None:
            seed_number(seed)  # before anything is reseeded
            seed = int(seed)
        super().reset(seed=seed)
        if seed is None and not self._started:
            seed = int(self.np_random.integers(2**62))
        self._started = True
        self.engine.start([seed])
        self._timeline.clear()
        return self._observation.copy(), self._info() | self._first_info()

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Run one step with what `action` names."""
        engine = self.engine
        if not self._started:
            raise ResetNeeded("step() was called before reset()")
        if self._counters.item(DONE):
            raise ResetNeeded("The episode has ended; call reset() before step()")
        if not self._is_plain(action) and not self.action_space.contains(action):
            raise ConfigurationError(f"Action {action!r} is outside {self.action_space}")
        if len(self._sizes) == 1:
            self._action[0] = action  # a sixth of what the general way takes
        else:
            self._action[:] = action
        if self.strict:
            self._check_strict(engine.actions)
        engine.advance()
        if self.render_mode is not None:
            self._timeline.record(self._counters, self._clocks)
        terminated, truncated = self._terminated.item(), self._truncated.item()
        info = self._info()
        if terminated or truncated:
            info["metrics"] = {name: values[0].item() for name, values in engine.metrics().items()}
        return self._observation.copy(), self._rewards.item(), terminated, truncated, info

    def _is_plain(self, action: Any) -> bool:
        """Whether an action is of the usual type and in the space; the space's own answer takes far longer."""
        sizes = self._sizes
        if len(sizes) == 1:
            return type(action) in (np.int64, int) and 0 <= action < sizes[0]
        if type(action) is not np.ndarray or action.dtype != np.int64 or action.shape != (len(sizes),):
            return False
        values = action.tolist()
        return min(values) >= 0 and all(map(lt, values, sizes))

    def _info(self) -> dict[str, Any]:
        values = self._clock_values(self._clocks.tolist()) + self._counter_values(self._counters.tolist())
        return dict(zip(self._info_names, values, strict=True))

    def _first_info(self) -> dict[str, Any]:
        return {name: float(values[0]) for name, values in self.first_info().items()}

    def action_masks(self) -> BoolArray:
        """Bool [options of all choices]: the valid ones of the next step, see `step_masks`."""
        mask: BoolArray = self.step_masks()[0]
        return mask

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """The timeline so far: text (`ansi`) or uint8 [height, width, 3] (`rgb_array`)."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: 'ansi' or 'rgb_array'")
            return None
        title = f"{self.scenario.system.name} · {self.scenario.name}"
        return (render_ansi if self.render_mode == "ansi" else render_rgb)(self._timeline, title)
