"""Rules for Serving-v0 and -v1: PAPI's threshold and its kin, fixed actions, random choice."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from agents.policy import Actions, Observations, RulePolicy
from agents.serving.choices import IntArray, clairvoyant, nothing_given, parts_of
from agents.serving.estimates import Estimates
from agents.serving.inside.choices import LEFT, NUM_SERVICE
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import FIXED, PREFILL_THRESHOLD, THRESHOLD, CompiledPolicy, decide_all
from agents.serving.view import ServingView, as_compiled
from papi_env.envs.problem import Problem
from papi_env.envs.serving import JOINT_ACTIONS, ServingProblem
from papi_env.envs.serving_v1 import further_options
from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import ServingTables, framed
from papi_env.workload.serving import SPECULATION_LENGTHS

_SHEDDING = at.SHEDDING - at.ORDER


class ServingRule(RulePolicy):
    """A policy for Serving-v0. Subclasses define `choose` over a batch; invalid choices are mended here.

    From the environment an unprivileged one reads the offline profile alone: `self.tables` gives FC times by
    unit and rows on an undrifted machine, α, the objectives and the chunk size, and on Serving-v1 what is known of
    the classes.

    Attributes:
        plays_v1: whether it makes the ten choices of Serving-v1 as well.
    """

    plays_v1: ClassVar[bool] = False
    tables: ServingTables

    def _read_profile(self, env: Problem) -> None:
        if not isinstance(env, ServingProblem):
            raise ConfigurationError(
                f"{type(self).__name__} plays papi_env/Serving-v0 alone, not {type(env).__name__}"
            )
        self.tables = env.engine.tables
        self._with_service = bool(self.tables.scalars[at.SERVICE])
        if self._with_service and not self.plays_v1:
            raise ConfigurationError(
                f"{type(self).__name__} makes the four choices of papi_env/Serving-v0; scenario {env.scenario.name!r} "
                "has classes of requests, as papi_env/Serving-v1 does"
            )
        self._columns = len(at.NVEC_V1) if self._with_service else len(at.NVEC)
        self._only = int(self.tables.scalars[at.ONLY_UNIT])
        self._can_overlap = self.tables.scalars[at.ATTENTION_UNIT] == 2

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Int64 actions [num_envs, 4], or 11 on Serving-v1, all of them valid."""
        view = ServingView(observations, self.tables.scalars)
        actions, state = self.choose(view, state, episode_start)
        return self.mended(actions, view), state

    def choose(
        self, view: ServingView, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[Actions, Any]:
        """Int64 actions, as `act`, that may name units or an overlap that the system lacks, and the state."""
        raise ConfigurationError(f"{type(self).__name__} defines no choose()")

    def mended(self, actions: Actions, view: ServingView) -> Actions:
        """What the environment would make of the actions, so that none counts as invalid."""
        if self._only >= 0:
            actions[:, at.FC] = self._only
        if not self._can_overlap:
            actions[:, at.OVERLAP] = 0
        idle = (view.rlp + view.prefilling == 0) & (actions[:, at.ADMISSION] == at.NONE) & (view.queued > 0)
        actions[idle, at.ADMISSION] = at.ONE
        return actions


class CompiledRule(ServingRule):
    """A rule whose decisions are compiled, so that whole episodes can be played inside; see `agents.serving.inside`.

    Subclasses say which kind of compiled policy it is, and its parameters.

    Attributes:
        code: the kind, of `inside.play`.
        remembers: whether it learns from one decision to the next; its state is `Estimates` then.
    """

    plays_v1 = True
    code: ClassVar[int]
    remembers: ClassVar[bool] = False
    # The further choices of Serving-v1 that its name gives.
    _choices: IntArray = nothing_given()
    # What the kind chooses among, int64 [options, 5], where it does; see `inside.play`.
    _options: npt.NDArray[np.int64] = np.zeros((1, len(at.NVEC) + 1), dtype=np.int64)

    def _read_profile(self, env: Problem) -> None:
        super()._read_profile(env)
        if not self._with_service and (self._choices != LEFT).any():
            raise ConfigurationError(
                f"a policy with parts, such as {parts_of(self._choices)!r}, plays papi_env/Serving-v1 alone; scenario "
                f"{env.scenario.name!r} is played without classes of requests"
            )
        for choice, option in clairvoyant(self._choices).items():
            env.engine.allow(at.ORDER + choice, option)
        ends = np.cumsum(at.NVEC_V1[at.ORDER :])[:-1]
        self._useful = np.split(further_options(self.tables), ends)
        self._look = framed(self.tables)
        self._busy = np.zeros(at.NUM_RESOURCES)

    def rows(self, num_envs: int) -> FloatArray:
        """The parameters, float64 [num_envs, columns of the kind]."""
        raise ConfigurationError(f"{type(self).__name__} defines no rows()")

    def giving(self, choices: IntArray) -> Self:
        """This rule, with the further choices of Serving-v1 where they are not `LEFT` to it; int64 [7].

        It then plays no other problem, and is privileged if it evicts or orders by what will come.
        """
        self._choices = choices
        self.privileged = type(self).privileged or bool(clairvoyant(choices))
        return self

    def service(self, num_envs: int) -> IntArray:
        """The further choices of each environment, int64 [num_envs, 7]; `LEFT` where the rule decides by itself."""
        return np.repeat(self._choices[None], num_envs, axis=0)

    def compiled(self, memory: FloatArray) -> CompiledPolicy:
        """The policy for compiled loops over as many environments as `memory` has rows; zeros know nothing."""
        count = len(memory)
        service = self.service(count)
        for k, useful in enumerate(self._useful):
            if not useful[1:].any():
                service[:, k] = 0
        # Of one class alone those who are late are dropped, as by class.
        if not self._useful[_SHEDDING][at.SHED_CLASS]:
            service[:, _SHEDDING] = np.minimum(service[:, _SHEDDING], at.SHED_LATE)
        return CompiledPolicy(self.code, self.rows(count), self._options, service, memory)

    def queries(self, count: int) -> FloatArray:
        """Where queries of classes are written, float64 [count, 1 or classes, NUM_TRAITS]; nobody reads them here."""
        return np.zeros((count, 1, at.NUM_TRAITS))

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Int64 actions as `ServingRule.act`. State: `Estimates`, which is changed, or as it came."""
        if self.remembers:
            state = Estimates(len(observations)) if state is None else state
            memory = state.memory
            memory[episode_start] = 0.0
        else:
            memory = np.zeros((len(observations), NUM_MEMORY))
        actions = np.zeros((len(observations), self._columns), dtype=np.int64)
        seen = as_compiled(observations, np.float32)
        queries = self.queries(len(observations))
        decide_all(self.compiled(memory)[:], seen, self._look, actions, queries, self._busy)
        return actions, state


def compiled_rule(policy: Any) -> CompiledRule | None:
    """The compiled rule that a bound policy plays; None where it decides in Python."""
    # A registered name may stand for one class a problem.
    playing = getattr(policy, "playing", policy)
    if not isinstance(playing, CompiledRule):
        return None
    own = type(playing)
    # A subclass may decide otherwise.
    same = own.act is CompiledRule.act and own.predict is CompiledRule.predict
    return playing if same else None


def _index(speculation: int) -> int:
    lengths = {str(length): k for k, length in enumerate(SPECULATION_LENGTHS)}
    return lookup("speculation length", str(speculation), lengths)


class ServingThreshold(CompiledRule):
    """PAPI's scheduler as published: FC kernels on the PUs when RLP x TLP exceeds α, else on FC-PIM.

    The paper schedules FC kernels alone. The rest is the usual practice of serving systems: one fixed
    speculation length, admission of whoever fits (vLLM), no overlap.

    Args:
        speculation: tokens verified per request, 1, 2, 4 or 8.
    """

    code = THRESHOLD

    def __init__(self, speculation: int = 1) -> None:
        self.speculation = _index(speculation)

    def rows(self, num_envs: int) -> FloatArray:
        """The index of its speculation length."""
        return np.full((num_envs, 1), float(self.speculation))


class ServingPrefillThreshold(ServingThreshold):
    """PAPI's rule, aware of the prompts that share the machine with decoding.

    With a chunk of c prompt tokens on the PUs, two profiled times are compared: decode rows in the same
    kernel, FC_pu(n + c), and decode rows on FC-PIM beside it, for which PUs and banks both must suffice,
    max(FC_pu(c), FC_pim(n) + the time in which the PUs read the stacks for c rows + mode switches); with dual
    row buffers max(FC_pu(c), FC_pim(n)). Without a chunk it is PAPI's rule.
    """

    code = PREFILL_THRESHOLD


class ServingFixed(CompiledRule):
    """One joint action throughout; what it names must exist in the system.

    Args:
        unit: "pu", "fc-pim" or "split"; by default the system's first unit for FC kernels.
        speculation: 1, 2, 4 or 8.
        admission: "none", "one" or "all"; with "none" one is admitted where nothing runs.
        overlap: "off" or "on".
    """

    code = FIXED

    def __init__(
        self, unit: str | None = None, speculation: int = 1, admission: str = "all", overlap: str = "off"
    ) -> None:
        self.unit = unit
        fc, _, admissions, overlaps = at.CHOICES
        self.action = np.array(
            [
                0 if unit is None else lookup("FC unit", unit, {name: k for k, name in enumerate(fc)}),
                _index(speculation),
                lookup("admission", admission, {name: k for k, name in enumerate(admissions)}),
                lookup("overlap", overlap, {name: k for k, name in enumerate(overlaps)}),
            ],
            dtype=np.int64,
        )

    def supports(self, env: Problem) -> None:
        """The system has the unit, and stacks for attention if there is to be overlap."""
        if self.unit is not None and self._only >= 0 and self.action[at.FC] != self._only:
            raise ConfigurationError(
                f"System {env.scenario.system.name!r} cannot run FC kernels on {self.unit!r}; "
                f"it can on {at.CHOICES[at.FC][self._only]!r} alone"
            )
        if self.action[at.OVERLAP] and not self._can_overlap:
            raise ConfigurationError(
                f"System {env.scenario.system.name!r} has no attention stacks of their own, so nothing overlaps; "
                "expected overlap 'off'"
            )

    def rows(self, num_envs: int) -> FloatArray:
        """Where kernels run and whom to admit."""
        return np.repeat(self.action[None].astype(np.float64), num_envs, axis=0)


def fixed_policy(actions: Actions) -> CompiledPolicy:
    """A compiled policy that plays a joint action of its own in every environment, throughout.

    Args:
        actions: int64 [num_envs, 4 or 11]; of four choices the others are what Serving-v0 does.
    """
    memory = np.zeros((len(actions), NUM_MEMORY))
    service = np.zeros((len(actions), NUM_SERVICE), dtype=np.int64)
    if actions.shape[1] > at.ORDER:
        service[:] = actions[:, at.ORDER :]
    four = actions[:, : at.ORDER].astype(np.float64)
    return CompiledPolicy(FIXED, four, CompiledRule._options, service, memory)


def fixed_name(action: npt.NDArray[np.int64]) -> str:
    """The registered name of a fixed joint action, such as `fixed-fc-pim-4-all-on`."""
    return "fixed-" + "-".join(str(at.CHOICES[k][choice]) for k, choice in enumerate(action))


FIXED_NAMES = tuple(fixed_name(action) for action in JOINT_ACTIONS)


def parse_fixed(name: str) -> ServingFixed:
    """The policy of a name such as `fixed-fc-pim-4-all-on`; an unknown one is answered with the nearest.

    On Serving-v1 the further choices are those of Serving-v0, or parts of the name (see `agents.serving.choices`).
    """
    index = lookup("fixed action", name, {known: k for k, known in enumerate(FIXED_NAMES)})
    fc, speculation, admission, overlap = (
        at.CHOICES[k][choice] for k, choice in enumerate(JOINT_ACTIONS[index])
    )
    return ServingFixed(str(fc), int(speculation), str(admission), str(overlap))


class ServingRandom(ServingRule):
    """A uniformly random valid option of each choice: the floor."""

    plays_v1 = True

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """The largest of uniform draws for the valid choices of each column."""
        assert isinstance(self.env, ServingProblem)
        options = at.NVEC_V1 if self._with_service else at.NVEC
        draws = np.where(self.env.valid_choices(), self._rng.random((len(view.rlp), sum(options))), -1.0)
        ends = np.cumsum(options)
        columns = [np.argmax(draws[:, end - n : end], axis=1) for end, n in zip(ends, options, strict=True)]
        return np.stack(columns, axis=1).astype(np.int64), state
