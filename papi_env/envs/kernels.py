"""Dispatch kernel by kernel: a unit for each kernel class of an iteration, or of a stage of an image encode."""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.envs.batch import BatchProblem
from papi_env.envs.env import ProblemEnv
from papi_env.envs.problem import BoolArray, Columns
from papi_env.envs.rendering import KernelsTimeline, Timeline
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.scenario import Scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.features import names

# The columns of an action that a step reads.
ITERATION, STAGE = slice(0, at.NUM_CLASSES), slice(at.NUM_CLASSES, at.NUM_CHOICES)


# What else `info` holds where the model has experts.
_EXPERT_CLOCKS: Columns = (
    ("experts_s", at.LAST_EXPERTS_S),
    ("experts_pu_s", at.LAST_EXPERTS_PU_S),
    ("experts_fc_pim_s", at.LAST_EXPERTS_PIM_S),
)


def expert_space() -> gym.spaces.MultiDiscrete:
    """That of `KernelsProblem`, then the experts: 0 PUs, 1 FC-PIM, 2 split."""
    return gym.spaces.MultiDiscrete([at.NUM_UNITS] * at.NUM_CHOICES + [len(at.EXPERT_OPTIONS)])


class KernelsProblem(BatchProblem):
    """A unit for each kernel class; moving data and switching modes cost."""

    choices = at.NUM_CHOICES
    dispatched = ("fc", "attention")
    free_switching = False
    features = at.KERNELS_FEATURES
    clock_info: ClassVar[Columns] = (
        *BatchProblem.clock_info,
        *((f"{at.TIMED_CLASSES[k]}_s", at.LAST_CLASS_TIMES[k]) for k in range(at.NUM_CLASSES, at.NUM_TIMED)),
    )
    counter_info: ClassVar[Columns] = (
        *BatchProblem.counter_info,
        ("stage", at.STAGE),  # the coming one; -1: an iteration
        ("images", at.IMAGES),  # of its encode
        ("encodes", at.ENCODE),  # finished
    )

    def _make_engine(
        self, scenario: Scenario, num_envs: int, autoreset: int, max_steps: int, threads: int, causes: bool
    ) -> DecodeEngine:
        # Scenarios without experts have the spaces that they always had.
        if scenario.model is not None and scenario.model.experts is not None:
            self.choices = at.NUM_EXPERT_CHOICES  # type: ignore[misc]
            self.observation_names = names(at.EXPERT_KERNELS_FEATURES)
            self.single_space = expert_space  # type: ignore[method-assign]
            self.clock_info = (*type(self).clock_info, *_EXPERT_CLOCKS)  # type: ignore[misc]
        return super()._make_engine(scenario, num_envs, autoreset, max_steps, threads, causes)

    @staticmethod
    def single_space() -> gym.spaces.MultiDiscrete:
        """For each class of `layout.CHOICE_CLASSES`: 0 PUs, 1 FC-PIM, 2 Attn-PIM."""
        return gym.spaces.MultiDiscrete([at.NUM_UNITS] * at.NUM_CHOICES)

    @staticmethod
    def new_timeline() -> Timeline:
        """What records an episode for `render`."""
        return KernelsTimeline()

    @staticmethod
    def _check_playable(scenario: Scenario) -> None:
        if scenario.images is None:
            scenario.decoding()

    def joint_actions(self) -> npt.NDArray[np.int64]:
        """Int64 [actions, choices]: every valid joint action of an iteration, then of a stage, as there are any.

        In lexicographic order each; the classes that the step does not have are on their default units. In
        `joint_costs` an action costs what the columns cost that the step reads.
        """
        options = [[np.flatnonzero(row) for row in self._masks_of(kind)] for kind in self._kinds()]
        return np.array([units for rows in options for units in product(*rows)], dtype=np.int64)

    def step_masks(self) -> BoolArray:
        """Bool [num_envs, 21 or 24]: the valid choices; of classes that the next step lacks, the default unit alone."""
        kinds = self._kinds()
        first = self._masks_of(kinds[0]).ravel()
        if len(kinds) == 1:
            return np.broadcast_to(first, (self.engine.num_envs, first.size)).copy()
        encodes = self.engine.counters[:, at.STAGE] >= 0
        return np.where(encodes[:, None], self._masks_of(STAGE).ravel(), first)

    def ignored(self) -> BoolArray:
        """Bool [num_envs, 7 or 8]: the classes that the next step does not have."""
        encodes = self.engine.counters[:, at.STAGE] >= 0
        ignored = np.repeat(encodes[:, None], self.choices, axis=1)
        ignored[:, STAGE] = ~encodes[:, None]
        return ignored

    def _kinds(self) -> list[slice]:
        """The kinds of steps that the scenario has, each by the columns that it reads."""
        there = ((ITERATION, self.scenario.model), (STAGE, self.scenario.images))
        return [kind for kind, part in there if part is not None]

    def _masks_of(self, kind: slice) -> BoolArray:
        """Bool [7 or 8, units]: valid units of the classes of a kind of step; of the others the default alone."""
        masks: BoolArray = np.arange(at.NUM_UNITS) == self.engine.tables.defaults[:, None]
        masks[kind] = self.valid_units()[kind]
        if kind == ITERATION:
            masks[at.EXPERTS :] = self.valid_units()[at.EXPERTS :]
        return masks

    def describe_env(self, e: int) -> str:
        """One line about environment `e`: its clock and what is still decoding, or encoding."""
        c, t = self.engine.counters[e], self.engine.clocks[e]
        if c[at.STAGE] < 0:
            return super().describe_env(e)
        return (
            f"env {e}: encode {c[at.ENCODE]}, stage {c[at.STAGE]}, {1e3 * t[at.TIME_S]:.4f} ms, "
            f"{c[at.IMAGES]} images"
        )


class KernelsEnv(KernelsProblem, ProblemEnv[DecodeEngine]):
    """Decode a static batch, encode images, or both; before each step choose a unit for each kernel class.

    ## Description
    As in `papi_env/Decode-v0`, but QKV, attention, projection and feed-forward choose separately, and what
    joins them costs. FC-PIM is the GPUs' own memory: wherever consecutive FC kernels of a layer, of
    neighbouring layers or of neighbouring iterations run on different units, the stacks change mode
    (`system.mode_switch_s`, 1 us by default) and the activations cross the fabric. Attention away from the
    KV stacks reads every cached key and value over the attention link, behind the computation as far as
    that hides it, and writes the new ones home.

    With `images` a scenario also runs a RepMLPNet, whose stages are steps of their own. In a stage, FC1 and
    FC2 (the global perceptron), FC3, and FFN (with the classifier, in the last stage) each choose a unit. The
    convolutions do not: embeddings run on the PUs if there are any, and the local perceptron of the training
    form (`reparameterized=False`) needs them, since overlapping windows are no work for PIM. Without a
    workload an episode is a stream of encodes (`vision-stream`); with one, the images of all requests are
    encoded first, in one encode, and the positions of the last stage join the prompts (`vision-language`).
    The network's weights share the weight stacks, and count against their capacity.

    Where the model is a mixture of experts, they are a class of their own: they run on the PUs, on FC-PIM, or split,
    the hottest on the PUs and the others on FC-PIM at once. How many are hot is decided layer by layer, when the router
    has spoken: as many as end soonest by the offline profile. The PUs' reads and FC-PIM take turns on the stacks, or
    share them with dual row buffers (`ExpertPlacement`); a split changes the stacks' mode there and back. Shared
    experts and layers without experts are feed-forward kernels. Routings are means or draws, as the model says; drawn
    ones are keyed by (seed, episode, iteration).

    ## Action space
    `MultiDiscrete([3] * 7)`: a unit (0 PUs, 1 FC-PIM, 2 Attn-PIM) for QKV, attention, projection,
    feed-forward; RepMLP FC1 with FC2, FC3, FFN. An iteration ignores the last three, a stage the first four;
    what is ignored is never invalid. FC kernels cannot leave the units that hold the weights. Invalid choices
    fall back to the class's default unit (FC: the PUs if there are any; attention: where the KV caches are)
    and are counted, each one, in `info["invalid_actions"]`; `strict=True` raises. `action_masks()` is flat,
    bool [21]; of classes that the coming step does not have, it allows the default unit alone. A model with experts
    has an eighth choice, of the experts: 0 PUs, 1 FC-PIM, 2 split; `action_masks()` is then bool [24].

    ## Observation space
    `Box(0, 1, float32)`, by index; `observation_names` gives the names. The first are those of
    `papi_env/Decode-v0`, those of images are all 0 where the scenario has none:

    {features}

    Where the model has experts, these follow:

    {expert_features}

    Exact rows and intensities by stage and image count are an offline profile: `env.unwrapped.profile`. Its
    `experts` has tokens per active expert by n, and their α.

    ## Rewards
    As in `papi_env/Decode-v0`. Where nothing decodes, the reference is the mean cost of a stage, over an encode
    of the mean image count on the default units.

    ## Starting state
    As in `papi_env/Decode-v0`. Image counts are keyed by (seed, episode, encode).

    ## Episode end
    Terminated when all is encoded and decoded; `info["metrics"]` then holds the totals.

    ## Arguments
    Those of `papi_env/Decode-v0`; `switch_s=0` frees mode switches and the crossing of activations. `network`
    (a registered RepMLPNet or a `RepMLPNet`) and `reparameterized` replace those of the scenario's images.

    ## Vectorised use
    As in `papi_env/Decode-v0`; `max_episode_steps` counts iterations and stages.

    ## Version history
    * v0: first version.
    """


if KernelsEnv.__doc__:  # None where Python runs without documentation
    _EXPERT_LIST = "\n".join(
        f"* {i}, `{f.name}`: {f.words}{f.unit and f', {f.unit}'}; {f.scale.formula}"
        for i, f in enumerate(at.EXPERT_FEATURES, len(at.KERNELS_FEATURES))
    )
    KernelsEnv.__doc__ = KernelsEnv.__doc__.replace("{expert_features}", _EXPERT_LIST)


class KernelsVectorEnv(KernelsProblem, ProblemVectorEnv[DecodeEngine]):
    """The vector version of `KernelsEnv`; environment i is the single one with seed + i."""
