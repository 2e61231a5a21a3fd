"""What all problems share, and the single environment over the batch engine; `vector` has the other one."""

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

from papi_env.envs.rendering import Timeline, render_ansi, render_rgb
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware.system import System
from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import DEFAULT_SCENARIO, Scenario, get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.tables import Profile
from papi_env.simulation.engine import DISABLED, DONE
from papi_env.workload.transformer import Transformer
from papi_env.workload.vision.network import RepMLPNet

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

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
        """Metrics of the current episodes, arrays [num_envs]; named in the engine's METRIC_NAMES."""
        return self.engine.metrics()

    def final_metrics(
        self, ended: npt.NDArray[np.int64], out: dict[str, npt.NDArray[Any]] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the episodes that ended in the last step, in the environments `ended`: arrays [num_envs].

        With same-step autoreset. What they hold for other environments means nothing. Arrays in `out`, by name, are
        written again instead of new ones, and new ones are put there.
        """
        found: dict[str, npt.NDArray[Any]] = self.engine.final_metrics(ended, out)
        return found

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


def sizes(space: gym.spaces.Space[Any]) -> tuple[int, ...]:
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
        self._setup(scenario, 1, DISABLED, None)
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
        """Start the next episode of the current seed, or the first one of `seed`."""
        super().reset(seed=seed)
        if seed is None and not self._started:
            seed = int(self.np_random.integers(2**62))
        self._started = True
        self.engine.start([seed])
        self._timeline.clear()
        return self._observation.copy(), self._info() | self._first_info()

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Run one step with the units that `action` names."""
        engine = self.engine
        if not self._started:
            raise ResetNeeded("step() was called before reset()")
        if self._counters.item(DONE):
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
