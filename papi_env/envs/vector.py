"""Many environments of a problem in one engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from papi_env.envs.flatten import flat_actions
from papi_env.envs.info import METRICS, FirstInfo, LazyInfo, masked, spread, too_late
from papi_env.envs.keeping import Shelves
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
)
from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.scenario import Replacements
from papi_env.simulation.engine import DISABLED, DONE, NEXT_STEP, SAME_STEP, Handed, seed_number

_NO_NAMES: frozenset[str] = frozenset()
_AUTORESET = {
    AutoresetMode.DISABLED: DISABLED,
    AutoresetMode.NEXT_STEP: NEXT_STEP,
    AutoresetMode.SAME_STEP: SAME_STEP,
}


class ProblemVectorEnv(Problem[AnyEngine], VectorEnv[Float32Array, Any, Any]):
    """Many environments in one engine; environment i is the single one with seed + i, bit for bit.

    `infos` is what gymnasium's `SyncVectorEnv` collects from single environments: the same names at every step, each
    with a mask `_name`. `metrics()` has the totals of the current episodes at any time; in a step in which episodes end
    there is also `infos["metrics"]`, their totals, or where they restart in the same step (same-step autoreset)
    `infos["final_info"]["metrics"]`. With `totals="always"` `infos["metrics"]` is there at every step and reset, of the
    episodes so far; with `totals=False` never. Prefill and `infos["metrics"]` are worked out when they are read, so
    read them before the next step, or keep `dict(infos)`.
    With `AutoresetMode.DISABLED` a finished environment idles, with reward 0, until
    `reset(options={"reset_mask": ...})`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        scenario: ScenarioLike | None = None,
        *,
        num_envs: int = 1,
        strict: bool = False,
        flatten: bool = False,
        totals: Totals = True,
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
        for name, value in (("strict", strict), ("flatten", flatten), ("copy", copy), ("causes", causes)):
            check_truth(name, value)
        check_totals(totals)
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
        self._flat = flat_actions(self.single_space(), self) if flatten else None
        self.single_action_space = self.single_space() if self._flat is None else self._flat.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.strict, self.render_mode, self.copy = strict, render_mode, copy
        self._started, self._ready = np.zeros(num_envs, dtype=np.bool_), False
        self.totals: Totals = ALWAYS if totals == ALWAYS else bool(totals)
        self._all = np.ones(num_envs, dtype=np.bool_)
        self._moment = 0
        self._first = FirstInfo(self.first_names, self.first_info, num_envs)
        self._next_step = autoreset_mode == AutoresetMode.NEXT_STEP
        self._same_step = autoreset_mode == AutoresetMode.SAME_STEP
        self._waiting: BoolArray | None = None  # with next-step autoreset, those whose coming step is a reset
        self._timelines = [self.new_timeline() for _ in range(num_envs if render_mode == "rgb_array" else 0)]
        self._bind()

    def _bind(self) -> None:
        """Look up once what every step takes."""
        engine = self.engine
        self._kept: dict[str, npt.NDArray[Any]] = {}
        columns = self._columns(_read_only(engine.counters), _read_only(engine.clocks))
        self._places: dict[str, Any] = dict.fromkeys(self.first_names)
        self._later = frozenset(self.first_names)
        self._masks = {f"_{name}": self._all for name in (*columns, *self._places)}
        self._views = columns | self._places | self._masks
        self._reader: partial[Any] | None = None
        named = {"counters": self.counter_info, "clocks": self.clock_info}
        handed = engine.hand(*([column for _, column in pairs] for pairs in named.values()))
        self._shelves = Shelves(self.num_envs, engine.observations.shape[1], *map(len, handed))
        # Where in what is handed over that stands which `info` names: views, made when they are read.
        self._handed = {
            name: (kind, there.index(column))
            for (kind, pairs), there in zip(named.items(), handed, strict=True)
            for name, column in pairs
        }
        # What an info begins as: with views or what is worked out, where episodes have ended and where none has.
        self._viewed, more = frozenset(self._handed), {METRICS: None, f"_{METRICS}": None}
        unread = dict.fromkeys(self._views) | self._masks
        self._begun = {
            (True, False): (unread, self._later | self._viewed, self._viewed),
            (True, True): (unread | more, self._later | self._viewed | {METRICS}, self._viewed),
            (False, False): (self._views, self._later, _NO_NAMES),
            (False, True): (self._views | more, self._later | {METRICS}, _NO_NAMES),
        }
        results = (engine.observations, engine.rewards, engine.terminated, engine.truncated)
        self._results = tuple(_read_only(array) for array in results)

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
        self._first.restarted(mask.copy())
        self._reader = None
        if self._waiting is not None:
            self._waiting = self._waiting & ~mask
        for i in np.flatnonzero(mask) if self._timelines else ():
            self._timelines[i].clear()
        return self._out(self.engine.observations), self._info(mask=mask.copy())

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
        if self._flat is not None:
            chosen = self._flat.decode(chosen)
        outside = engine.receive(chosen)
        if outside is not None:
            raise ConfigurationError(
                f"Environment {outside}: action {chosen[outside].tolist()} is outside {self.single_action_space}"
            )
        if self.strict:
            self._check_strict(chosen.reshape(self.num_envs, self.choices))
        over = engine.counters[:, DONE] != 0 if self._timelines else None
        given: Handed | None = None
        if self.copy:
            given = self._shelves.take()
            engine.advance_into(given)
        else:
            engine.advance()
        done: BoolArray | None = None
        restarted = self._waiting
        if engine.any_ended():
            done = (
                engine.terminated | engine.truncated if given is None else given.terminated | given.truncated
            )
        if self._same_step:
            restarted = None if done is None else done.copy()
        elif self._next_step:
            self._waiting = done
        if restarted is not None:
            self._first.restarted(restarted)
            self._reader = None
        if over is not None:
            self._record(over, restarted)
        info = self._info(None if self._same_step or done is None else done.copy(), given=given)
        if self._same_step and done is not None:
            final = self._out_columns(engine.final_counters, engine.final_clocks)
            totals = self.final_metrics(done.nonzero()[0], None if self.copy else self._kept)
            final |= {name: totals[name] for name in self.first_names}
            if self.totals:
                final[METRICS] = masked(totals, done)
            info.update(
                final_obs=self._out(engine.final_observations),
                _final_obs=done,
                final_info=masked(final, done),
                _final_info=done,
            )
        return (*(self._results if given is None else given[:4]), info)

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

    def _info(
        self, done: BoolArray | None = None, mask: BoolArray | None = None, given: Handed | None = None
    ) -> LazyInfo:
        """What a step or a reset says.

        Args:
            done: environments whose episodes ended in it and are still there, if any; they have metrics.
            mask: of the environments that it is about, if not all.
            given: what the step has handed over, if it has.
        """
        self._moment += 1
        if self.totals is not True:
            done = None if self.totals is False else self._all if mask is None else mask
        if given is None and (self.copy or mask is not None):
            columns = self._out_columns(self.engine.counters, self.engine.clocks)
            masks = self._masks if mask is None else dict.fromkeys(self._masks, mask)
            values, later = columns | self._places | masks, self._later
            if done is not None:
                values, later = values | {METRICS: None}, later | {METRICS}
            info = LazyInfo(values, later, _NO_NAMES)
        else:
            info = LazyInfo(*self._begun[given is not None, done is not None])
        if done is not None:
            info.put(f"_{METRICS}", done)
        elif given is None and mask is None and self._reader is not None:
            # Kept until other episodes run: a step makes as little as it can.
            info.work_out = self._reader
            return info
        info.work_out = partial(self._work_out, done, self._moment, self._first.version, given)
        if done is None and given is None:
            self._reader = info.work_out
        return info

    def _work_out(
        self,
        done: BoolArray | None,
        moment: int,
        version: int,
        given: Handed | None,
        name: str,
    ) -> Any:
        """What is read of the info of a moment: an array [num_envs], or the metrics by name, with masks.

        Raises:
            RuntimeError: too late, since an episode that it is about is gone.
        """
        if given is not None and name in self._handed:
            kind, column = self._handed[name]
            array: npt.NDArray[Any] = getattr(given, kind)
            return array[:, column]
        if name != METRICS or done is None:
            return self._first.value(name, version)
        if moment != self._moment:
            raise too_late(name)
        if done.all():  # of all there is nothing to copy
            return masked(self.engine.metrics(), done)
        ended = done.nonzero()[0]
        return masked(spread(self.engine.metrics(ended), ended, self.num_envs), done)

    def _record(self, over: BoolArray, restarted: BoolArray | None) -> None:
        """Take down the step of every environment, for pictures.

        Args:
            over: bool [num_envs], whose episodes had ended before it, so that nothing ran.
            restarted: those that were reset in it, if any.
        """
        state = self.engine.counters, self.engine.clocks
        for e, timeline in enumerate(self._timelines):
            if restarted is not None and restarted[e]:
                timeline.clear()  # what the next picture shows begins with the new episode
            elif not over[e]:
                timeline.record(state[0][e], state[1][e])
                timeline.forget()

    def action_masks(self) -> BoolArray:
        """Bool [num_envs, options of all choices], or [num_envs, actions] where flattened: the valid ones.

        See `step_masks` for the order; `sample_mask` has what `action_space.sample(mask=...)` takes.
        """
        masks = self.step_masks()
        return masks if self._flat is None else self._flat.masks(masks)

    def sample_mask(self) -> SampleMask:
        """The same as `action_space.sample(mask=...)` takes it: tuples of int8 parts, see `masks.sample_mask`."""
        return sample_mask(self.action_space, self.action_masks())

    def render(self) -> tuple[str, ...] | tuple[npt.NDArray[np.uint8], ...] | None:
        """One line per environment (`ansi`): its clock and what is still decoding; or a picture of each (`rgb_array`).

        A picture, uint8 [360, 960, 3], takes some milliseconds, and every step notes what it draws: for few of them.
        """
        if self.render_mode is None:
            return None
        if self.render_mode == "ansi":
            return tuple(self.describe_env(e) for e in range(self.num_envs))
        title = f"{self.scenario.system.name} · {self.scenario.name}"
        return tuple(render_rgb(timeline, f"{e}: {title}") for e, timeline in enumerate(self._timelines))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that nobody can write through: it is the simulator's own."""
    view = array.view()
    view.flags.writeable = False
    return view
