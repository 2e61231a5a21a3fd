"""Dispatch kernel by kernel: a unit for each kernel class of an iteration."""

from __future__ import annotations

import gymnasium as gym

from papi_env.envs.base import Problem, ProblemEnv, ProblemVectorEnv
from papi_env.simulation import layout as at


class KernelsProblem(Problem):
    """A unit for each kernel class; moving data and switching modes cost."""

    choices = at.NUM_CLASSES
    free_switching = False

    @staticmethod
    def single_space() -> gym.spaces.MultiDiscrete:
        """For QKV, attention, projection and feed-forward: 0 PUs, 1 FC-PIM, 2 Attn-PIM."""
        return gym.spaces.MultiDiscrete([at.NUM_UNITS] * at.NUM_CLASSES)


class KernelsEnv(KernelsProblem, ProblemEnv):
    """Decode a static batch; before each iteration choose a unit for each kernel class.

    ## Description
    As in `papi_env/Decode-v0`, but QKV, attention, projection and feed-forward choose separately, and what
    joins them costs. FC-PIM is the GPUs' own memory: wherever consecutive FC kernels of a layer, of
    neighbouring layers or of neighbouring iterations run on different units, the stacks change mode
    (`system.mode_switch_s`, 1 us by default) and the activations cross the fabric. Attention away from the
    KV stacks reads every cached key and value over the attention link, behind the computation as far as
    that hides it, and writes the new ones home.

    ## Action space
    `MultiDiscrete([3, 3, 3, 3])`: a unit (0 PUs, 1 FC-PIM, 2 Attn-PIM) for QKV, attention, projection and
    feed-forward. FC kernels cannot leave the units that hold the weights. Invalid choices fall back to the
    class's default unit (FC: the PUs if there are any; attention: where the KV caches are) and are counted,
    each one, in `info["invalid_actions"]`; `strict=True` raises. `action_masks()` is flat, bool [12].

    ## Observation space, rewards, starting state, episode end, arguments, vectorised use
    As in `papi_env/Decode-v0` (see `papi_env.envs.decode.DecodeEnv`). `switch_s=0` frees mode switches and
    the crossing of activations.

    ## Version history
    * v0: first version.
    """


class KernelsVectorEnv(KernelsProblem, ProblemVectorEnv):
    """The vector version of `KernelsEnv`; environment i is the single one with seed + i."""
