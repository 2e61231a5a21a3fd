"""Many environments of a problem in one engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from papi_env.envs.problem import (
    AnyEngine,
    BoolArray,
    Float32Array,
    Problem,
    ScenarioLike,
    check_truth,
    observation_space,
)
from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.scenario import Replacements
from papi_env.simulation.engine import DISABLED, NEXT_STEP, SAME_STEP, seed_number

_AUTORESET = {
    AutoresetMode.DISABLED: DISABLED,
    AutoresetMode.NEXT_STEP: NEXT_STEP,
    AutoresetMode.SAME_STEP: SAME_STEP,
}


class ProblemVectorEnv(Problem[AnyEngine], VectorEnv[Float32Array, Any, Any]):
    """Many environments in one engine; environment i is the single one with seed + i, bit for bit.

    `metrics()` has the totals of the current episodes; where an episode ends and restarts in one step
    (same-step autoreset) its totals are `infos["final_info"]["metrics"]`.
    With `AutoresetMode.DISABLED` a finished environment idles, with reward 0, until
    `reset(options={"reset_mask": ...})`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi"],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        scenario: ScenarioLike | None = None,
        *,
        num_envs: int = 1,
        strict: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int = 1,
        causes: bool = False,
        **replacements: Unpack[Replacements],
    ) -> None:
        if render_mode is not None:
            lookup("render mode", render_mode, dict.fromkeys(self.metadata["render_modes"]))
        if not isinstance(autoreset_mode, AutoresetMode):
            modes = {mode.value: mode for mode in AutoresetMode} | {mode.name: mode for mode in AutoresetMode}
            autoreset_mode = lookup("autoreset mode", autoreset_mode, modes)
        for name, value in (("strict", strict), ("copy", copy), ("causes", causes)):
            check_truth(name, value)
        self._setup(
            self.build_scenario(scenario, **replacements),
            num_envs,
            _AUTORESET[autoreset_mode],
            max_episode_steps,
            threads,
            causes,
        )
        self.num_envs = num_envs
        self.autoreset_mode = autoreset_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": autoreset_mode}  # type: ignore[misc]
        self.single_observation_space = observation_space(self.observation_names)
        self.single_action_space = self.single_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.strict, self.render_mode, self.copy = strict, render_mode, copy
        self._started, self._ready = np.zeros(num_envs, dtype=np.bool_), False
        self._all = np.ones(num_envs, dtype=np.bool_)
        self._bind()

    def _bind(self) -> None:
        """Look up once what every step takes."""
        engine = self.engine
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._views = self._with_masks(self._columns(_read_only(engine.counters), _read_only(engine.clocks)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Start episodes: `seed + i` for environment i, or a list of seeds, or each one's next episode.

        Any non-negative integer is a seed; nothing is reset where one is not.
        `options["reset_mask"]`, bool [num_envs], restricts the reset to some environments.
        """
        mask = self._all
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ConfigurationError(
                    f"options['reset_mask'] has shape {mask.shape} and dtype {mask.dtype}, expected "
                    f"({self.num_envs},) and bool with at least one true"
                )
        asked: Any = seed.tolist() if isinstance(seed, np.ndarray) else seed
        seeds: list[int | None]
        if isinstance(asked, Sequence) and not isinstance(asked, (str, bytes)):
            seeds, asked = list(asked), None
            if len(seeds) != self.num_envs:
                raise ConfigurationError(f"{len(seeds)} seeds for {self.num_envs} environments")
            for one in seeds:
                if one is not None:
                    seed_number(one)
        elif asked is None:
            seeds = [None] * self.num_envs
        else:
            seed_number(asked)  # before anything is reseeded
            asked = int(asked)
            seeds = [asked + i for i in range(self.num_envs)]
        super().reset(seed=asked)
        for i in np.flatnonzero(mask & ~self._started):
            if seeds[i] is None:
                seeds[i] = int(self.np_random.integers(2**62))
        self._started |= mask
        self._ready = bool(self._started.all())
        self.engine.start(seeds, mask)
        info = self._info()
        for name, values in self.first_info().items():
            info[name], info[f"_{name}"] = values, self._all
        return self._out(self.engine.observations), info

    def step(self, actions: Any) -> tuple[Float32Array, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Run one step in every environment; `actions` is [num_envs] or [num_envs, choices]."""
        engine = self.engine
        if not self._ready:
            raise ResetNeeded("step() was called before reset()")
        chosen = np.asarray(actions)
        expected = self.action_space.shape
        if chosen.shape != expected or chosen.dtype.kind not in "iu":
            raise ConfigurationError(
                f"Actions have shape {chosen.shape} and dtype {chosen.dtype}, expected {expected} integers"
            )
        engine.actions[:] = chosen.reshape(self.num_envs, self.choices)
        outside = engine.outside()
        if outside is not None:
            raise ConfigurationError(
                f"Environment {outside}: action {chosen[outside].tolist()} is outside {self.single_action_space}"
            )
        if self.strict:
            self._check_strict(engine.actions)
        engine.advance()
        info = self._info()
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            done = engine.terminated | engine.truncated
            if done.any():
                final = self._out_columns(engine.final_counters, engine.final_clocks)
                final["metrics"] = self.final_metrics(np.flatnonzero(done), None if self.copy else self._kept)
                info |= {
                    "final_obs": self._out(engine.final_observations),
                    "_final_obs": done,
                    "final_info": final,
                    "_final_info": done,
                }
        return (
            self._out(engine.observations),
            self._out(engine.rewards),
            self._out(engine.terminated),
            self._out(engine.truncated),
            info,
        )

    def _out(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.copy() if self.copy else _read_only(array)

    def _columns(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> dict[str, Any]:
        """Views of what `info` names."""
        columns = {name: clocks[:, column] for name, column in self.clock_info}
        return columns | {name: counters[:, column] for name, column in self.counter_info}

    def _out_columns(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> dict[str, Any]:
        """The same, the caller's own where `copy` says so.

        Of the clocks most columns are named, so they are copied as one block; of the counters few are.
        """
        columns = self._columns(counters, self._out(clocks))
        for name, _ in self.counter_info:
            columns[name] = self._out(columns[name])
        return columns

    def _with_masks(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {f"_{name}": self._all for name in columns}

    def _info(self) -> dict[str, Any]:
        if not self.copy:
            return self._views.copy()
        return self._with_masks(self._out_columns(self.engine.counters, self.engine.clocks))

    def action_masks(self) -> BoolArray:
        """Bool [num_envs, options of all choices]: the valid ones of the next step, see `step_masks`."""
        return self.step_masks()

    def render(self) -> tuple[str, ...] | None:
        """One line per environment (`ansi`): its clock and what is still decoding."""
        if self.render_mode is None:
            return None
        return tuple(self.describe_env(e) for e in range(self.num_envs))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that nobody can write through: it is the simulator's own."""
    view = array.view()
    view.flags.writeable = False
    return view
