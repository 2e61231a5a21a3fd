"""Problems over the batch engine: static batches and image encodes, kernels dispatched to units."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from papi_env.envs.problem import BoolArray, Columns, Problem, ScenarioLike
from papi_env.envs.rendering import BatchTimeline, Timeline
from papi_env.errors import ConfigurationError
from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import DEFAULT_SCENARIO, BatchReplacements, Scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.measures import Episodes
from papi_env.simulation.batch.tables import Profile


class Arguments(BatchReplacements, total=False):
    """What arguments of the environments replace; `batch_requests` is `batch_size` by another name.

    TorchRL's `GymEnv` and others have a `batch_size` of their own, and keep it from the environment.
    """

    batch_requests: int | None


class BatchProblem(Problem[DecodeEngine]):
    """An action names the units of kernel classes; the engine is the batch engine.

    `free_switching`: whether mode switches are free where the scenario says nothing about them.
    """

    free_switching: ClassVar[bool]
    default_scenario = DEFAULT_SCENARIO
    replacements = Arguments
    first_names = ("prefill_s", "prefill_j")
    clock_info: ClassVar[Columns] = (
        ("time_s", at.TIME_S),
        ("iteration_s", at.LAST_TIME_S),
        ("iteration_dynamic_j", at.LAST_DYNAMIC_J),
        ("communication_s", at.LAST_COMMUNICATION_S),
        ("switching_s", at.LAST_SWITCHING_S),
        *((f"{kind}_s", at.LAST_CLASS_S + k) for k, kind in enumerate(at.KERNEL_CLASSES)),
        ("reward_time", at.LAST_REWARD_TIME),
        ("reward_energy", at.LAST_REWARD_ENERGY),
    )
    counter_info: ClassVar[Columns] = (
        ("rlp", at.RLP),
        ("tlp", at.TLP),
        ("iteration", at.ITERATION),
        ("tokens", at.DECODED),
        ("switches", at.SWITCHES),
        ("invalid_actions", at.INVALID),
    )

    def _make_engine(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int, threads: int, causes: bool
    ) -> DecodeEngine:
        self._check_playable(scenario)
        return DecodeEngine(
            scenario,
            num_envs,
            choices=self.choices,
            default_switch_s=0.0 if self.free_switching else scenario.system.mode_switch_s,
            autoreset=autoreset,
            max_steps=max_steps,
            threads=threads,
            causes=causes,
        )

    @staticmethod
    def _check_playable(scenario: Scenario) -> None:
        """Raise ConfigurationError where the problem cannot be played on the scenario: here, text alone."""
        if scenario.images is not None:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} has images, which papi_env/Kernels-v0 alone encodes"
            )
        scenario.decoding()

    @classmethod
    def build_scenario(cls, scenario: ScenarioLike | None = None, **replacements: Any) -> Scenario:
        """The scenario that an environment's arguments name; see the environments' classes for them.

        Raises:
            ConfigurationError: for a scenario or an argument that cannot be used as given.
        """
        requests = replacements.pop("batch_requests", None)
        if requests is not None:
            size = replacements.get("batch_size")
            if size is not None and size != requests:
                raise ConfigurationError(
                    f"batch_size is {size!r} and batch_requests {requests!r}, two names of one argument; expected one"
                )
            replacements["batch_size"] = requests
        return super().build_scenario(scenario, **replacements)

    @property
    def alpha(self) -> float:
        """PAPI's threshold from the offline sweep of what decodes, or of what encodes if nothing decodes."""
        return float(self.engine.tables.scalars[at.ALPHA])

    @property
    def profile(self) -> Profile:
        """What the offline sweep gives a scheduler: thresholds, and the kernels' rows and intensities."""
        return self.engine.profile

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

    def first_info(self, envs: npt.NDArray[np.int64] | None = None) -> dict[str, FloatArray]:
        """Seconds and joules of the prefill, which no action changes, of environments `envs` or of all."""
        engine, which = self.engine, slice(None) if envs is None else envs
        episodes = Episodes(
            engine.counters[which], engine.clocks[which], engine.tables.scalars, engine.prefill
        )
        return dict(zip(self.first_names, episodes.prefill, strict=True))

    @staticmethod
    def new_timeline() -> Timeline:
        """What records an episode for `render`."""
        return BatchTimeline()

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
            kind = "FC" if self.choices == 1 else at.EXPERT_CHOICE_CLASSES[choice]
            known = at.EXPERT_OPTIONS if choice == at.EXPERTS else UNIT_NAMES
            options = [known[u] for u in np.flatnonzero(valid[choice])]
            raise ConfigurationError(
                f"Environment {env}: {kind} kernels cannot run on {known[actions[env, choice]]!r} in system "
                f"{self.scenario.system.name!r}; expected one of {options}"
            )
