"""The batch environments as a `VecEnv` of Stable-Baselines3.

    from sb3_contrib import MaskablePPO
    from papi_env.sb3 import make_vec

    envs = make_vec("papi_env/Kernels-v0", num_envs=256, seed=0, batch_size=16)
    MaskablePPO("MlpPolicy", envs, n_steps=64, batch_size=2048).learn(1_000_000)

Needs the extra `learn`; importing `papi_env` alone does not load it.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AutoresetMode, VectorEnv

from papi_env.envs.flatten import flat_actions
from papi_env.envs.info import LazyInfo
from papi_env.envs.problem import ELAPSED
from papi_env.errors import ConfigurationError, nearest
from papi_env.kernel import FloatArray

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise DependencyNotInstalled(
        f'papi_env.sb3 needs stable-baselines3 ({error}): pip install "papi-env[learn]"'
    ) from error

# Methods of the vector environment whose result has a part for each environment. What every other method
# returns is one fact about all of them.
_PER_ENV = frozenset(
    (
        "action_masks",
        "ignored",
        "joint_costs",
        "joint_masks",
        "metrics",
        "render",
        "step_masks",
        "valid_choices",
    )
)
# One environment of a batch cannot do these by itself.
_WHOLE_BATCH = ("close", "reset", "step")


class _RunningInfo(dict[str, Any]):
    """The info of every environment whose episode goes on: one object for all, so it refuses to be changed."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "Environments whose episode goes on share one read-only info; replace it in the list instead: "
            "infos[i] = {**infos[i], ...}"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> str:
        # By name: copies, deep copies and pickles of a list of infos refer to the same object.
        return "_RUNNING"


_RUNNING = _RunningInfo({"TimeLimit.truncated": False})


def _rows(infos: dict[str, Any], envs: Sequence[int]) -> list[dict[str, Any]]:
    """The parts of a vector environment's info that belong to `envs`: Python scalars, copied arrays.

    Column by column, as a NumPy call per name is what costs. `_name`, where there is one, says which
    environments `name` is present for.
    """
    rows: list[dict[str, Any]] = [{} for _ in envs]
    index = np.asarray(envs)  # once: NumPy would convert a list for every name
    checked: Any = None
    everywhere = True
    for name, values in infos.items():
        if name.startswith("_") or name in ("final_obs", "final_info"):
            continue
        present = infos.get(f"_{name}")
        if present is not checked:  # mostly one array for all names
            checked, everywhere = present, present is None or bool(present[index].all())
        if isinstance(values, dict):
            column: Sequence[Any] = _rows(values, envs)
        else:
            picked = values[index]  # a copy: the engine's buffers are written again in the next step
            column = picked.tolist() if picked.ndim == 1 else list(picked)
        for row, env, value in zip(rows, envs, column, strict=True):
            if everywhere or checked[env]:
                row[name] = value
    return rows


class BatchVecEnv(VecEnv):
    """A vector environment with same-step autoreset as SB3's `VecEnv`.

    It gives what `DummyVecEnv` over `Monitor`-wrapped single environments gives, bit for bit: observations
    float32 [num_envs, features], rewards float32 [num_envs], dones bool [num_envs] and, where an episode has
    ended, the info of its last step with `terminal_observation`, `TimeLimit.truncated` (cut off by
    `max_episode_steps` and not also ended by itself), `metrics`, and `episode`: return `r`, length `l`, and
    `t`, seconds since this object was made. As there, `seed(s)` holds for the next `reset()` and gives
    environment i the seed s + i; later resets go to the next episode of the same seed.

    What it costs: the Python work of a step grows with the episodes that end in it, not with `num_envs`. The
    environments whose episode goes on share one read-only info, `{"TimeLimit.truncated": False}`; their
    physical values stay in `vector_env.engine` and `vector_env.metrics()`. SB3, sb3-contrib and SB3's wrappers
    only read the infos of environments that are not done.

    All arrays are the caller's own: PPO writes into the rewards, DQN keeps the last observations over the next
    step, VecNormalize keeps both. Copying observations takes about 1 % of a step.

    Action masks: MaskablePPO finds them by itself; with `predict` pass `action_masks=envs.action_masks()`, one
    array for all, rather than sb3-contrib's `get_action_masks`, which stacks them one by one.

    Attributes (`get_attr`) are those of the vector environment, shared by all; `action_space` and
    `observation_space` are a single environment's. `env_method` calls a method once for all and returns each
    one's part. `set_attr` sets for all at once.

    Args:
        vector_env: a vector environment of this package (or any other) made with
            `autoreset_mode=AutoresetMode.SAME_STEP`, best with `copy=False`; `make_vec` does both.
        flatten: number the valid joint actions of a `MultiDiscrete` space, for DQN and QR-DQN, which take only
            `Discrete`: action i is `flat_actions[i]` (see `papi_env.envs.flatten`).
        table: number these joint actions, int64 [actions, choices], instead of the scenario's own.
        monitor: write `episode` and answer `env_is_wrapped(Monitor)` with true. Without it, a `VecMonitor`
            around this object keeps the statistics, and does not warn that there are two.

    Attributes:
        elapsed_s: float64 [num_envs], seconds from each environment's decision in the last step to the next, or to
            the end of its episode, as `info["dt_s"]`; 0 after a reset. None where the problem counts steps.
            `papi_env.sb3_time` discounts by it.

    Raises:
        ConfigurationError: where `vector_env` is not a vector environment with same-step autoreset.
    """

    def __init__(
        self,
        vector_env: VectorEnv[Any, Any, Any],
        *,
        flatten: bool = False,
        table: npt.NDArray[np.int64] | None = None,
        monitor: bool = True,
    ) -> None:
        if not isinstance(vector_env, VectorEnv):
            raise ConfigurationError(
                f"BatchVecEnv wraps a gymnasium.vector.VectorEnv, not {type(vector_env).__name__}; "
                "papi_env.sb3.make_vec makes both from an id"
            )
        mode = vector_env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ConfigurationError(
                f"The vector environment has autoreset mode {mode}, but SB3 resets in the step that ends an "
                "episode; expected autoreset_mode=AutoresetMode.SAME_STEP"
            )
        self.vector_env = vector_env
        space = vector_env.single_action_space
        self._joint = flat_actions(space, vector_env.unwrapped, table) if flatten else None
        self._monitor = monitor
        super().__init__(
            vector_env.num_envs,
            vector_env.single_observation_space,
            space if self._joint is None else self._joint.space,
        )
        self.metadata = vector_env.metadata
        self.spec = vector_env.spec
        self._actions: npt.NDArray[Any]
        # float64, as Monitor sums; float32 would lose digits over long episodes.
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._start = time.time()
        self.elapsed_s: FloatArray | None = None

    @property
    def flat_actions(self) -> npt.NDArray[np.int64] | None:
        """Int64 [actions, choices]: what each flat action does; None where nothing was flattened."""
        return None if self._joint is None else self._joint.table

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes: the first of the seeds given to `seed`, or each environment's next.

        Options given to `set_options` go to the vector environment, which takes one set for all.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ConfigurationError(
                "set_options got different options for different environments, expected one set"
            )
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, infos = self.vector_env.reset(seed=seeds, options=options or None)  # type: ignore[arg-type]
        self._returns[:] = 0
        self._lengths[:] = 0
        self.reset_infos = _rows(infos, range(self.num_envs))
        self.elapsed_s = np.zeros(self.num_envs) if ELAPSED in infos else None
        self._reset_seeds()
        self._reset_options()
        return np.array(observations)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions of the coming step: integers [num_envs], or [num_envs, choices]."""
        self._actions = actions if self._joint is None else self._joint.decode(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Run one step in every environment; those that end their episode start the next one at once."""
        observations, rewards, terminated, truncated, infos = self.vector_env.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        rows: list[dict[str, Any]] = [_RUNNING] * self.num_envs
        if self.elapsed_s is not None:
            self.elapsed_s[:] = infos[ELAPSED]
        ended = np.flatnonzero(dones).tolist()
        if ended:
            if self.elapsed_s is not None:
                self.elapsed_s[ended] = infos["final_info"][ELAPSED][ended]
            last = self._last_infos(infos, ended)
            # Without what would be worked out for the whole batch, in every step in which one episode ends.
            begun = dict(infos.there()) if isinstance(infos, LazyInfo) else infos
            for i, info, reset_info in zip(ended, last, _rows(begun, ended), strict=True):
                info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                rows[i], self.reset_infos[i] = info, reset_info
            self._returns[dones] = 0
            self._lengths[dones] = 0
        return np.array(observations), rewards.astype(np.float32), dones, rows

    def _last_infos(self, infos: dict[str, Any], ended: list[int]) -> list[dict[str, Any]]:
        """The infos of the steps that ended the episodes of the environments `ended`."""
        rows = _rows(infos["final_info"], ended)
        seconds = round(time.time() - self._start, 6)
        for i, row in zip(ended, rows, strict=True):
            # A copy: a row would keep the observations of the whole batch alive.
            row["terminal_observation"] = np.array(infos["final_obs"][i])
            if self._monitor:
                row["episode"] = {
                    "r": round(float(self._returns[i]), 6),
                    "l": int(self._lengths[i]),
                    "t": seconds,
                }
        return rows

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Bool [num_envs, sum of the choices' sizes], or [num_envs, actions] where flat: what is allowed now.

        Raises:
            AttributeError: where the vector environment has no masks.
        """
        masks = self._resolve("action_masks")()
        return np.asarray(masks if self._joint is None else self._joint.masks(masks))

    def _resolve(self, name: str) -> Any:
        """The attribute of the vector environment, or of what it wraps."""
        inner = self.vector_env.unwrapped
        for owner in (self.vector_env, inner):
            if hasattr(owner, name):
                return getattr(owner, name)
        close = nearest(name, (known for known in dir(inner) if not known.startswith("_")))
        hint = f"; did you mean {close!r}?" if close else ""
        raise AttributeError(f"{type(inner).__name__} has no attribute {name!r}{hint}")

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments have the attribute."""
        try:
            self._resolve(attr_name)
        except AttributeError:
            return False
        return True

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each index: one object for all, methods bound to their environment."""
        targets = self._get_indices(indices)
        if attr_name in ("action_space", "observation_space"):
            return [getattr(self, attr_name) for _ in targets]
        value = self._resolve(attr_name)
        if inspect.ismethod(value):
            return [partial(self._call_one, attr_name, i) for i in targets]
        return [value for _ in targets]

    def _call_one(self, method_name: str, index: int, *args: Any, **kwargs: Any) -> Any:
        return self.env_method(method_name, *args, indices=index, **kwargs)[0]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the vector environment, which all environments share.

        Raises:
            AttributeError: for a name that it does not have.
            ConfigurationError: for only some of the environments.
        """
        targets = set(self._get_indices(indices))
        if targets != set(range(self.num_envs)):
            raise ConfigurationError(
                f"set_attr({attr_name!r}) names {len(targets)} of {self.num_envs} environments; "
                "they share one engine, expected all"
            )
        self._resolve(attr_name)
        setattr(self.vector_env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once and return each environment's part.

        Masks, `joint_costs`, `metrics` and `render` have a part for each; what others return is shared.

        Raises:
            AttributeError: for a method that it does not have.
            ConfigurationError: for `reset`, `step` and `close`, which only the whole batch can do.
        """
        if method_name in _WHOLE_BATCH:
            raise ConfigurationError(
                f"env_method({method_name!r}) on one environment of a batch; call {method_name}() on all"
            )
        targets = self._get_indices(indices)
        method = self.action_masks if method_name == "action_masks" else self._resolve(method_name)
        result = method(*method_args, **method_kwargs)
        if method_name not in _PER_ENV or result is None:
            return [result for _ in targets]
        if isinstance(result, dict):
            return _rows(result, list(targets))
        return [result[i] for i in targets]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """True for `Monitor` if its statistics are written here (`monitor`), for no other wrapper."""
        wrapped = self._monitor and issubclass(Monitor, wrapper_class)
        return [wrapped for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """A picture of each environment, where the vector environment renders `rgb_array`; else None for each."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"Images need render_mode 'rgb_array', found {self.render_mode!r}", stacklevel=2)
            return [None] * self.num_envs
        return list(self._resolve("render")())

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()


def make_vec(
    env_id: str,
    num_envs: int = 1,
    *,
    seed: int | None = None,
    flatten: bool = False,
    monitor: bool = True,
    **kwargs: Any,
) -> BatchVecEnv:
    """`gymnasium.make_vec` for Stable-Baselines3: a batch environment in a `BatchVecEnv`.

    Args:
        env_id: such as `papi_env/Decode-v0`.
        num_envs: environments, any number from 1.
        seed: of the first `reset()`; environment i gets seed + i. An algorithm made with `seed` sets its own.
        flatten, monitor: see `BatchVecEnv`.
        kwargs: of the environment: `scenario`, `system`, `batch_size`, `max_episode_steps`, ...

    Raises:
        ConfigurationError: for `autoreset_mode` and `copy`, which SB3 leaves no choice.
    """
    for name in ("autoreset_mode", "copy"):
        if name in kwargs:
            raise ConfigurationError(
                f"make_vec got {name}={kwargs[name]!r}; BatchVecEnv sets it itself, expected none"
            )
    vector_env = gym.make_vec(
        env_id, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, copy=False, **kwargs
    )
    envs = BatchVecEnv(vector_env, flatten=flatten, monitor=monitor)
    if seed is not None:
        envs.seed(seed)
    return envs
