"""The single environment of a problem; `vector` has the batch of them."""

from __future__ import annotations

from operator import itemgetter, lt
from typing import Any, ClassVar, Unpack

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded

from papi_env.envs.flatten import flat_actions
from papi_env.envs.info import METRICS, time_limit
from papi_env.envs.masks import SampleMask, sample_mask
from papi_env.envs.picture import render_rgb
from papi_env.envs.problem import (
    ALWAYS,
    AnyEngine,
    BoolArray,
    Float32Array,
    Problem,
    ScenarioLike,
    Totals,
    check_totals,
    check_truth,
    observation_space,
    sizes,
)
from papi_env.envs.rendering import render_ansi
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
        flatten: bool = False,
        totals: Totals = True,
        render_mode: str | None = None,
        **replacements: Unpack[Replacements],
    ) -> None:
        if render_mode is not None:
            lookup("render mode", render_mode, dict.fromkeys(self.metadata["render_modes"]))
        for name, value in (("strict", strict), ("flatten", flatten)):
            check_truth(name, value)
        check_totals(totals)
        self._setup(self.build_scenario(scenario, **replacements), 1, DISABLED, None)
        self.observation_space = observation_space(self.observation_names)  # type: ignore[assignment]
        self._flat = flat_actions(self.single_space(), self) if flatten else None
        self.action_space = self.single_space() if self._flat is None else self._flat.space
        self.strict, self.render_mode = strict, render_mode
        self.totals: Totals = ALWAYS if totals == ALWAYS else bool(totals)
        self._timeline = self.new_timeline()
        self._started = False
        self._steps = self._limit = 0
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
        self._steps, self._limit = 0, time_limit(self)
        self._constant = {name: float(values[0]) for name, values in self.first_info().items()}
        return self._observation.copy(), self._info()

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Run one step with what `action` names."""
        engine = self.engine
        if not self._started:
            raise ResetNeeded("step() was called before reset()")
        if self._counters.item(DONE):
            raise ResetNeeded("The episode has ended; call reset() before step()")
        if not self._is_plain(action):
            action = self._plain(action)
        if self._flat is not None:
            self._action[:] = self._flat.table[action]
        elif len(self._sizes) == 1:
            self._action[0] = action  # a sixth of what the general way takes
        else:
            self._action[:] = action
        if self.strict:
            self._check_strict(engine.actions)
        engine.advance()
        if self.render_mode is not None:
            self._timeline.record(self._counters, self._clocks)
            self._timeline.forget()
        terminated, truncated = self._terminated.item(), self._truncated.item()
        info = self._info()
        self._steps += 1
        if (terminated or truncated or self._steps == self._limit) and self.totals is True:
            info[METRICS] = self._totals()
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

    def _plain(self, action: Any) -> Any:
        """An action of another type, such as a tensor or an array of one number.

        Raises:
            ConfigurationError: it is none of the space.
        """
        found = np.asarray(action)
        # Spaces of gymnasium 1.1 take 1.0 for 1.
        if found.dtype.kind in "biu" and found.ndim <= 1 and found.size == len(self._sizes):
            plain = found.astype(np.int64) if len(self._sizes) > 1 else found.item()
            if self.action_space.contains(plain):
                return plain
        raise ConfigurationError(f"Action {action!r} is outside {self.action_space}")

    def _info(self) -> dict[str, Any]:
        values = self._clock_values(self._clocks.tolist()) + self._counter_values(self._counters.tolist())
        info = dict(zip(self._info_names, values, strict=True))
        info.update(self._constant)
        if self.totals == ALWAYS:
            info[METRICS] = self._totals()
        return info

    def _totals(self) -> dict[str, Any]:
        return {name: values[0].item() for name, values in self.engine.metrics().items()}

    def action_masks(self) -> BoolArray:
        """Bool [options of all choices], or [actions] where flattened: the valid ones of the next step.

        See `step_masks` for the order; `sample_mask` has what `action_space.sample(mask=...)` takes.
        """
        mask: BoolArray = self.step_masks()[0]
        return mask if self._flat is None else self._flat.masks(mask)

    def sample_mask(self) -> SampleMask:
        """The same as `action_space.sample(mask=...)` takes it: int8, a tuple of a part for each choice.

        Where the space is `Discrete`, int8 [actions].
        """
        return sample_mask(self.action_space, self.action_masks())

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """The last iterations: text (`ansi`) or uint8 [360, 960, 3] (`rgb_array`), a few milliseconds a picture.

        gymnasium's `make(..., render_mode="human")` shows these pictures in a window, its `RecordVideo` writes them to
        a file; both come with the extra `video`.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: 'ansi' or 'rgb_array'")
            return None
        title = f"{self.scenario.system.name} · {self.scenario.name}"
        return (render_ansi if self.render_mode == "ansi" else render_rgb)(self._timeline, title)
