"""What all problems share: the single and the vector environment over one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter, lt
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from papi_env.envs.rendering import Timeline, render_ansi, render_rgb
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware.system import System
from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import DEFAULT_SCENARIO, Scenario, get_scenario
from papi_env.simulation import batch
from papi_env.simulation import layout as at
from papi_env.simulation.engine import DecodeEngine
from papi_env.simulation.tables import Profile
from papi_env.workload.transformer import Transformer
from papi_env.workload.vision import RepMLPNet

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_AUTORESET = {
    AutoresetMode.DISABLED: batch.DISABLED,
    AutoresetMode.NEXT_STEP: batch.NEXT_STEP,
    AutoresetMode.SAME_STEP: batch.SAME_STEP,
}

# What `info` holds after a step, in physical units: (name, array, column).
_INFO: tuple[tuple[str, str, int], ...] = (
    ("time_s", "clocks", at.TIME_S),
    ("iteration_s", "clocks", at.LAST_TIME_S),
    ("iteration_dynamic_j", "clocks", at.LAST_DYNAMIC_J),
    ("communication_s", "clocks", at.LAST_COMMUNICATION_S),
    ("switching_s", "clocks", at.LAST_SWITCHING_S),
    *((f"{kind}_s", "clocks", at.LAST_CLASS_S + k) for k, kind in enumerate(at.KERNEL_CLASSES)),
    ("reward_time", "clocks", at.LAST_REWARD_TIME),
    ("reward_energy", "clocks", at.LAST_REWARD_ENERGY),
    ("rlp", "counters", at.RLP),
    ("tlp", "counters", at.TLP),
    ("iteration", "counters", at.ITERATION),
    ("tokens", "counters", at.DECODED),
    ("switches", "counters", at.SWITCHES),
    ("invalid_actions", "counters", at.INVALID),
)
Columns: TypeAlias = tuple[tuple[str, int], ...]


class Problem:
    """A problem over the engine: what an action means, and what a policy may ask.

    Subclasses set `choices` (columns of an action) and `single_space`; `clock_info` and `counter_info` name
    what `info` holds, by column.
    """

    choices: ClassVar[int]
    clock_info: ClassVar[Columns] = tuple(
        (name, column) for name, array, column in _INFO if array == "clocks"
    )
    counter_info: ClassVar[Columns] = tuple(
        (name, column) for name, array, column in _INFO if array == "counters"
    )
    free_switching: ClassVar[bool]
    observation_names: ClassVar[tuple[str, ...]] = at.OBSERVATION_NAMES
    engine: Any
    scenario: Scenario

    @staticmethod
    def single_space() -> gym.spaces.Space[Any]:
        """The action space of one environment."""
        raise ConfigurationError("a problem defines its action space")

    def _setup(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int | None, threads: int = 1
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ConfigurationError(f"max_episode_steps is {max_steps}, expected at least 1 or None")
        self._check_scenario(scenario)
        self.scenario = scenario
        self.engine = DecodeEngine(
            scenario,
            num_envs,
            choices=self.choices,
            default_switch_s=0.0 if self.free_switching else scenario.system.mode_switch_s,
            autoreset=autoreset,
            max_steps=max_steps or 0,
            threads=threads,
        )

    def _check_scenario(self, scenario: Scenario) -> None:
        """Raise ConfigurationError where the problem cannot be played on the scenario: here, text alone."""
        if scenario.images is not None:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} has images, which papi_env/Kernels-v0 alone encodes"
            )
        scenario.decoding()

    @property
    def alpha(self) -> float:
        """PAPI's threshold from the offline sweep of what decodes, or of what encodes if nothing decodes."""
        return float(self.engine.tables.scalars[at.ALPHA])

    @property
    def profile(self) -> Profile:
        """What the offline sweep gives a scheduler: thresholds, and the kernels' rows and intensities."""
        found: Profile = self.engine.profile
        return found

    @property
    def reference(self) -> float:
        """What the reward divides by: seconds (plus weighted joules) of a full batch's iteration on the defaults.

        Where nothing decodes, of a stage: the mean over an encode of the mean image count.
        """
        return float(self.engine.tables.scalars[at.REFERENCE])

    def valid_units(self) -> BoolArray:
        """Bool [choices, units of the action space]: which choices the system can carry out."""
        allowed = self.engine.tables.allowed
        return allowed[:1, :2] if self.choices == 1 else allowed

    def joint_actions(self) -> npt.NDArray[np.int64]:
        """Int64 [actions, choices]: every valid joint action, in lexicographic order."""
        options = [np.flatnonzero(row) for row in self.valid_units()]
        return np.array(list(product(*options)), dtype=np.int64)

    def joint_costs(self) -> FloatArray:
        """Privileged: true costs (negative rewards) of `joint_actions()` in the next step, [num_envs, actions]."""
        return self.engine.reward_cost(*self.engine.joint_costs(self.joint_actions()))

    def metrics(self) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the current episodes, arrays [num_envs]; names in `papi_env.simulation.engine.METRIC_NAMES`."""
        return self.engine.metrics()

    def final_metrics(
        self, ended: npt.NDArray[np.int64], out: dict[str, npt.NDArray[Any]] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the episodes that ended in the last step, in the environments `ended`: arrays [num_envs].

        With same-step autoreset. What they hold for other environments means nothing. Arrays in `out`, by name, are
        written again instead of new ones, and new ones are put there.
        """
        engine = self.engine
        if not isinstance(engine, DecodeEngine):
            found: dict[str, npt.NDArray[Any]] = engine.metrics(engine.final_counters, engine.final_clocks)
            return found
        # Few environments end in a step, and there are many metrics.
        few = engine.metrics(engine.final_counters[ended], engine.final_clocks[ended])
        metrics = {} if out is None else out
        for name, values in few.items():
            if name not in metrics:
                metrics[name] = np.zeros(engine.num_envs, dtype=values.dtype)
            metrics[name][ended] = values
        return metrics.copy()

    def first_info(self) -> dict[str, FloatArray]:
        """What `info` of a reset holds besides, arrays [num_envs]: the prefill, which no action changes."""
        metrics = self.engine.metrics()
        return {name: metrics[name] for name in ("prefill_s", "prefill_j")}

    @staticmethod
    def new_timeline() -> Timeline:
        """What records an episode for `render`."""
        return Timeline()

    def describe_env(self, e: int) -> str:
        """One line about environment `e`: its clock and what is still decoding."""
        c, t = self.engine.counters[e], self.engine.clocks[e]
        return f"env {e}: iteration {c[at.ITERATION]}, {t[at.TIME_S]:.4f} s, RLP {c[at.RLP]}, TLP {c[at.TLP]}"

    def step_masks(self) -> BoolArray:
        """Bool [num_envs, choices x units]: the valid choices of each environment's next step.

        One row of units after the other, which is the convention of sb3-contrib.
        """
        mask = self.valid_units().ravel()
        return np.broadcast_to(mask, (self.engine.num_envs, mask.size)).copy()

    def ignored(self) -> BoolArray:
        """Bool [num_envs, choices]: what each environment's next step does not read."""
        return np.zeros((self.engine.num_envs, self.choices), dtype=np.bool_)

    def _check_strict(self, actions: npt.NDArray[np.int64]) -> None:
        valid = self.valid_units()
        bad = ~valid[np.arange(self.choices), actions] & ~self.ignored()
        if bad.any():
            env, choice = (int(i) for i in np.argwhere(bad)[0])
            kind = "FC" if self.choices == 1 else at.CHOICE_CLASSES[choice]
            options = [UNIT_NAMES[u] for u in np.flatnonzero(valid[choice])]
            raise ConfigurationError(
                f"Environment {env}: {kind} kernels cannot run on {UNIT_NAMES[actions[env, choice]]!r} in system "
                f"{self.scenario.system.name!r}; expected one of {options}"
            )


def build_scenario(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    system: str | System | None,
    model: str | Transformer | None,
    batch_size: int | None,
    speculation: int | None,
    acceptance_rate: float | None,
    energy_weight: float | None,
    switch_s: float | None,
    network: str | RepMLPNet | None = None,
    reparameterized: bool | None = None,
) -> Scenario:
    """The scenario that an environment's arguments name; see `DecodeEnv` and `KernelsEnv` for them."""
    return get_scenario(scenario).replace(
        system=system,
        model=model,
        batch_size=batch_size,
        speculation=speculation,
        acceptance_rate=acceptance_rate,
        energy_weight=energy_weight,
        switch_s=switch_s,
        network=network,
        reparameterized=reparameterized,
    )


def observation_space(names: Sequence[str]) -> gym.spaces.Box:
    """Every feature lies in [0, 1]."""
    return gym.spaces.Box(0.0, 1.0, (len(names),), np.float32)


def _sizes(space: gym.spaces.Space[Any]) -> tuple[int, ...]:
    """How many values each choice of an action has."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec)
    assert isinstance(space, gym.spaces.Discrete)
    return (int(space.n),)


class ProblemEnv(Problem, gym.Env[Float32Array, Any]):
    """One environment: the batch engine with `num_envs=1`. Arguments are documented in the problem's class."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        scenario: str | Path | Mapping[str, Any] | Scenario = DEFAULT_SCENARIO,
        *,
        system: str | System | None = None,
        model: str | Transformer | None = None,
        batch_size: int | None = None,
        speculation: int | None = None,
        acceptance_rate: float | None = None,
        energy_weight: float | None = None,
        switch_s: float | None = None,
        network: str | RepMLPNet | None = None,
        reparameterized: bool | None = None,
        strict: bool = False,
        render_mode: str | None = None,
    ) -> None:
        built = build_scenario(
            scenario,
            system,
            model,
            batch_size,
            speculation,
            acceptance_rate,
            energy_weight,
            switch_s,
            network,
            reparameterized,
        )
        self._start(built, strict, render_mode)

    def _start(self, scenario: Scenario, strict: bool, render_mode: str | None) -> None:
        if render_mode is not None:
            lookup("render mode", render_mode, dict.fromkeys(self.metadata["render_modes"]))
        self._setup(scenario, 1, batch.DISABLED, None)
        self.observation_space = observation_space(self.observation_names)  # type: ignore[assignment]
        self.action_space = self.single_space()
        self.strict, self.render_mode = strict, render_mode
        self._timeline = self.new_timeline()
        self._started = False
        self._sizes = _sizes(self.action_space)
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
        """Start the next episode of the current seed, or the first one of `seed`."""
        super().reset(seed=seed)
        counters = self._counters
        if seed is not None or not self._started:
            counters[at.SEED] = self.np_random.integers(2**62) if seed is None else seed
            counters[at.EPISODE] = 0
        else:
            counters[at.EPISODE] += 1
        self._started = True
        self.engine.reset()
        self._timeline.clear()
        return self._observation.copy(), self._info() | self._first_info()

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Run one step with the units that `action` names."""
        engine = self.engine
        if not self._started:
            raise ResetNeeded("step() was called before reset()")
        if self._counters.item(at.DONE):
            raise ResetNeeded("The episode has ended; call reset() before step()")
        if not self._is_plain(action) and not self.action_space.contains(action):
            raise ConfigurationError(f"Action {action!r} is outside {self.action_space}")
        self._action[:] = action
        if self.strict:
            self._check_strict(engine.actions)
        engine.step()
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
        """Bool [choices x units]: the valid choices of the next step, see `step_masks`."""
        mask: BoolArray = self.step_masks()[0]
        return mask

    def render(self) -> str | npt.NDArray[np.uint8] | None:
        """The timeline so far: text (`ansi`) or uint8 [height, width, 3] (`rgb_array`)."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode: 'ansi' or 'rgb_array'")
            return None
        title = f"{self.scenario.system.name} · {self.scenario.name}"
        return (render_ansi if self.render_mode == "ansi" else render_rgb)(self._timeline, title)


class ProblemVectorEnv(Problem, VectorEnv[Float32Array, Any, Any]):
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
        scenario: str | Path | Mapping[str, Any] | Scenario = DEFAULT_SCENARIO,
        *,
        num_envs: int = 1,
        system: str | System | None = None,
        model: str | Transformer | None = None,
        batch_size: int | None = None,
        speculation: int | None = None,
        acceptance_rate: float | None = None,
        energy_weight: float | None = None,
        switch_s: float | None = None,
        network: str | RepMLPNet | None = None,
        reparameterized: bool | None = None,
        strict: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int = 1,
    ) -> None:
        built = build_scenario(
            scenario,
            system,
            model,
            batch_size,
            speculation,
            acceptance_rate,
            energy_weight,
            switch_s,
            network,
            reparameterized,
        )
        self._start(built, num_envs, strict, render_mode, max_episode_steps, autoreset_mode, copy, threads)

    def _start(
        self,
        scenario: Scenario,
        num_envs: int,
        strict: bool,
        render_mode: str | None,
        max_episode_steps: int | None,
        autoreset_mode: AutoresetMode | str,
        copy: bool,
        threads: int = 1,
    ) -> None:
        if render_mode is not None:
            lookup("render mode", render_mode, dict.fromkeys(self.metadata["render_modes"]))
        if not isinstance(autoreset_mode, AutoresetMode):
            modes = {mode.value: mode for mode in AutoresetMode} | {mode.name: mode for mode in AutoresetMode}
            autoreset_mode = lookup("autoreset mode", autoreset_mode, modes)
        if threads < 1:
            raise ConfigurationError(f"threads is {threads}, expected at least 1")
        self._setup(scenario, num_envs, _AUTORESET[autoreset_mode], max_episode_steps, threads)
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
        # As unsigned numbers negative ones are too large, so one comparison finds both.
        sizes = np.array(_sizes(self.single_action_space), dtype=np.uint64)
        self._limits = sizes if np.ptp(sizes) else sizes[0]
        self._bind()

    def _bind(self) -> None:
        """Look up once what every step takes."""
        engine = self.engine
        self._unsigned = engine.actions.view(np.uint64)
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._views = self._with_masks(self._columns(engine.counters, engine.clocks))

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
        super().reset(seed=seed if isinstance(seed, int) else None)
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = seed
            if len(seeds) != self.num_envs:
                raise ConfigurationError(f"{len(seeds)} seeds for {self.num_envs} environments")
        counters = self.engine.counters
        for i in np.flatnonzero(mask):
            given = seeds[int(i)]
            if given is not None or not self._started[i]:
                counters[i, at.SEED] = self.np_random.integers(2**62) if given is None else given
                counters[i, at.EPISODE] = 0
            else:
                counters[i, at.EPISODE] += 1
        self._started |= mask
        self._ready = bool(self._started.all())
        self.engine.reset(mask)
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
        outside = self._unsigned >= self._limits
        if outside.any():
            env = int(np.argwhere(outside)[0, 0])
            raise ConfigurationError(
                f"Environment {env}: action {chosen[env].tolist()} is outside {self.single_action_space}"
            )
        if self.strict:
            self._check_strict(engine.actions)
        engine.step()
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
        return array.copy() if self.copy else array

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
        """Bool [num_envs, choices x units]: the valid choices of the next step, see `step_masks`."""
        return self.step_masks()

    def render(self) -> tuple[str, ...] | None:
        """One line per environment (`ansi`): its clock and what is still decoding."""
        if self.render_mode is None:
            return None
        return tuple(self.describe_env(e) for e in range(self.num_envs))
