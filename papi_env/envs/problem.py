"""What a problem is: an engine, what an action means, and what a policy may ask."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, get_type_hints

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from pydantic import BaseModel

from papi_env.envs.rendering import Timeline
from papi_env.errors import ConfigurationError, unknown_name
from papi_env.hardware.units import KernelKind
from papi_env.hardware.unused import NeverChosen, never_chosen, warn_once
from papi_env.kernel import FloatArray
from papi_env.scenario import Replacements, Scenario, get_scenario
from papi_env.simulation.engine import Engine, Metrics
from papi_env.simulation.features import Feature, names, table

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Columns: TypeAlias = tuple[tuple[str, int], ...]
# What names a scenario; see `papi_env.scenario.get_scenario`.
ScenarioLike: TypeAlias = str | Path | Mapping[str, Any] | Scenario
AnyEngine = TypeVar("AnyEngine", bound=Engine[Any])

# What `clock_info` calls the seconds from the last decision to the coming one, where a problem's time is continuous.
ELAPSED = "dt_s"
# When an episode's totals are told: at its end (true), never (false), or at every step.
ALWAYS = "always"
Totals: TypeAlias = bool | Literal["always"]
# Where the class docstring of an environment wants the table of its features.
_TABLE = "{features}"


class UnexpectedArgument(ConfigurationError, TypeError):
    """An argument that an environment does not take.

    Python's own error for it as well: libraries that try arguments which many environments have, such as TorchRL's
    `GymEnv` with `frameskip`, go by its words.
    """


class Problem(ABC, Generic[AnyEngine]):
    """A problem over an engine, for one environment or a batch of them; `BatchProblem` and `ServingProblem` are two.

    Attributes of the class:
        choices: columns of an action.
        dispatched: the kernels whose unit an action chooses; others run on the system's defaults.
        features: of an observation, in order; observation_names: theirs, to which an environment may add.
        default_scenario: what is played where no scenario is named.
        replacements: a TypedDict, the parts of the scenario that arguments of the environments may replace.
        clock_info, counter_info: what `info` holds after a step, (name, column of the engine's state), physical units.
    """

    choices: ClassVar[int]
    dispatched: ClassVar[tuple[KernelKind, ...]] = ("fc",)
    features: ClassVar[tuple[Feature, ...]]
    observation_names: tuple[str, ...]
    default_scenario: ClassVar[str]
    replacements: ClassVar[type[Any]] = Replacements
    clock_info: ClassVar[Columns]
    counter_info: ClassVar[Columns]
    engine: AnyEngine
    scenario: Scenario
    _spec: EnvSpec | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "features" in vars(cls):
            cls.observation_names = names(cls.features)
        if cls.__doc__ and _TABLE in cls.__doc__:
            cls.__doc__ = inspect.cleandoc(cls.__doc__).replace(_TABLE, table(cls.features))
        _spell_out(cls)

    # --- what a problem defines -------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def single_space() -> gym.spaces.Space[Any]:
        """The action space of one environment."""

    @abstractmethod
    def _make_engine(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int, threads: int, causes: bool
    ) -> AnyEngine:
        """The engine of the scenario, with joules by cause if wanted.

        Raises:
            ConfigurationError: the problem cannot be played on the scenario.
        """

    @property
    @abstractmethod
    def alpha(self) -> float:
        """PAPI's threshold for this system and what it runs, from the offline sweep."""

    @property
    @abstractmethod
    def reference(self) -> float:
        """What the reward divides by."""

    @abstractmethod
    def step_masks(self) -> BoolArray:
        """Bool [num_envs, options of all choices]: the valid ones of each environment's next step.

        One choice after the other, which is the convention of sb3-contrib.
        """

    @abstractmethod
    def joint_actions(self) -> npt.NDArray[np.int64]:
        """Int64 [actions, choices]: the joint actions that a flattened space numbers, in this order."""

    @staticmethod
    @abstractmethod
    def new_timeline() -> Timeline:
        """What records an episode for `render`."""

    @abstractmethod
    def describe_env(self, e: int) -> str:
        """One line about environment `e`: its clock and what it is at."""

    @abstractmethod
    def _check_strict(self, actions: npt.NDArray[np.int64]) -> None:
        """Raise ConfigurationError where a choice of `actions`, [num_envs, choices], is invalid."""

    # --- what all have ----------------------------------------------------------------------------

    @classmethod
    def build_scenario(cls, scenario: ScenarioLike | None = None, **replacements: Any) -> Scenario:
        """The scenario that an environment's arguments name; see the environments' classes for them.

        Raises:
            ConfigurationError: for a scenario or an argument that cannot be used as given.
        """
        for name in replacements:
            if name not in cls.replacements.__annotations__:
                known = unknown_name(f"argument of {cls.__name__}", name, _arguments(cls))
                raise UnexpectedArgument(
                    f"{known} ({cls.__name__} got an unexpected keyword argument {name!r})"
                )
        found = get_scenario(cls.default_scenario if scenario is None else scenario)
        cls._check_scenario(found)
        return found.replace(**replacements)

    @classmethod
    def _check_scenario(cls, scenario: Scenario) -> None:
        """Raise ConfigurationError where the problem cannot be played on the scenario."""

    def _setup(
        self,
        scenario: Scenario,
        num_envs: int,
        autoreset: int,
        max_steps: int | None,
        threads: int = 1,
        causes: bool = True,
    ) -> None:
        if max_steps is not None and (not isinstance(max_steps, (int, np.integer)) or max_steps < 1):
            raise ConfigurationError(
                f"max_episode_steps is {max_steps!r}, expected at least 1, a whole number, or None"
            )
        self.scenario = scenario
        self.engine = self._make_engine(scenario, num_envs, autoreset, max_steps or 0, threads, causes)
        for unused in self.never_chosen():
            warn_once(unused.describe(scenario.system, type(self).__name__))

    def never_chosen(self) -> tuple[NeverChosen, ...]:
        """The kernels that PIM units of the system declare and that neither actions nor defaults put there."""
        run: tuple[KernelKind, ...] = ("fc",) if self.scenario.model is None else ("fc", "attention")
        return never_chosen(self.scenario.system, self.dispatched, run)

    def joint_costs(self) -> FloatArray:
        """Privileged: true costs (negative rewards) of `joint_actions()` in the next step, [num_envs, actions].

        Raises:
            ConfigurationError: the problem has none.
        """
        raise ConfigurationError(f"{type(self).__name__} has no joint_costs()")

    def metrics(self) -> Metrics:
        """Metrics of the current episodes, arrays [num_envs] by name."""
        return self.engine.metrics()

    def final_metrics(self, ended: npt.NDArray[np.int64], out: Metrics | None = None) -> Metrics:
        """Metrics of the episodes that ended in the last step, in the environments `ended`: arrays [num_envs].

        With same-step autoreset. What they hold for other environments means nothing. Arrays in `out`, by name, are
        written again instead of new ones, and new ones are put there.
        """
        return self.engine.final_metrics(ended, out)

    # What `info` holds beside the columns; nothing changes it in an episode.
    first_names: ClassVar[tuple[str, ...]] = ()

    def first_info(self, envs: npt.NDArray[np.int64] | None = None) -> dict[str, FloatArray]:
        """What `first_names` names of the current episodes of environments `envs`, or of all; arrays [envs]."""
        return {}

    @property
    def spec(self) -> EnvSpec | None:
        """What `gymnasium.make` or `make_vec` made the environment of.

        A scenario that was given as an object is a table there, so that `spec.to_json()` works.
        """
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        given = {} if spec is None else spec.kwargs
        tables = {
            name: value.model_dump(mode="json")
            for name, value in given.items()
            if isinstance(value, BaseModel)
        }
        self._spec = replace(spec, kwargs={**given, **tables}) if spec is not None and tables else spec


def _arguments(cls: type) -> list[str]:
    """The arguments of an environment's class, or the replacements of a problem."""
    return [name for name in inspect.signature(cls).parameters if name != "replacements"]


def _spell_out(cls: type[Problem[Any]]) -> None:
    """Let `inspect.signature` show the arguments that an environment takes as `**replacements`."""
    signature = inspect.signature(cls.__init__)
    parameters = list(signature.parameters.values())[1:]
    if (
        not parameters
        or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD
        or parameters[-1].name != "replacements"
    ):
        return
    spelt = []
    for parameter in parameters[:-1]:
        if parameter.name == "scenario" and hasattr(cls, "default_scenario"):
            parameter = parameter.replace(default=cls.default_scenario)
        spelt.append(parameter)
    at = next((i for i, p in enumerate(spelt) if p.name == "strict"), len(spelt))
    spelt[at:at] = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in get_type_hints(cls.replacements).items()
    ]
    cls.__signature__ = signature.replace(parameters=spelt)  # type: ignore[attr-defined]


def observation_space(names: Sequence[str]) -> gym.spaces.Box:
    """Every feature lies in [0, 1]."""
    return gym.spaces.Box(0.0, 1.0, (len(names),), np.float32)


def sizes(space: gym.spaces.Space[Any]) -> tuple[int, ...]:
    """How many values each choice of an action has."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec)
    assert isinstance(space, gym.spaces.Discrete)
    return (int(space.n),)


def check_totals(value: object) -> None:
    """Raise ConfigurationError where an argument does not say when an episode's totals are told."""
    if not isinstance(value, (bool, np.bool_)) and value != ALWAYS:
        raise ConfigurationError(f"totals is {value!r}, expected true, false or {ALWAYS!r}")


def check_truth(name: str, value: object) -> None:
    """Raise ConfigurationError where an argument is no truth value: the text "no" counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigurationError(f"{name} is {value!r}, expected true or false")
