"""Rules for Serving-v0: PAPI's threshold and its kin, fixed actions, random choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import Actions, Observations, RulePolicy, unsquash
from papi_env.envs.problem import Problem
from papi_env.envs.serving import JOINT_ACTIONS, ServingProblem
from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import ServingTables
from papi_env.workload.serving import SPECULATION_LENGTHS

_COLUMN = {name: i for i, name in enumerate(at.OBSERVATION_NAMES)}
_SCALE = {feature.name: feature.scale for feature in at.FEATURES}
# The largest float32 below 1: what an open range is squashed to at most.
_ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ServingView:
    """A batch of observations in physical units, arrays [num_envs].

    `scalars` are the offline profile's (objectives, context limit, chunk size). Counts are exact; what is
    squashed comes back to the float32's precision.
    """

    observations: Observations
    scalars: FloatArray

    def feature(self, name: str) -> FloatArray:
        """A named feature as it stands, float64."""
        return self.observations[:, _COLUMN[name]].astype(np.float64)

    def quantity(self, name: str) -> FloatArray:
        """A named feature in its unit (see `papi_env.simulation.serving.state`), float64; always finite."""
        inverse = _SCALE[name].inverse
        assert inverse is not None
        return np.asarray(inverse(np.minimum(self.feature(name), _ALMOST_ONE)))

    def _count(self, name: str) -> IntArray:
        return np.rint(self.quantity(name)).astype(np.int64)

    def _tokens(self, name: str) -> FloatArray:
        """A context, observed in % of the limit."""
        open_scale = unsquash(np.minimum(self.feature(name), _ALMOST_ONE))
        return open_scale * self.scalars[at.CONTEXT_LIMIT] * (_SCALE[name].full / 100)

    @property
    def rlp(self) -> IntArray:
        """Requests decoding."""
        return self._count("rlp")

    @property
    def prefilling(self) -> IntArray:
        """Admitted requests whose prompt is not yet processed."""
        return self._count("prefilling")

    @property
    def queued(self) -> IntArray:
        """Requests that wait for admission."""
        return self._count("queued")

    @property
    def backlog(self) -> IntArray:
        """Prompt tokens still to process of all admitted requests."""
        return self._count("prefill_backlog")

    @property
    def coming_chunk(self) -> IntArray:
        """Prompt tokens of the coming iteration if whoever waits is admitted; a full chunk where anyone does.

        Prompt lengths of the queue are not observed, so a queue counts as a full chunk.
        """
        chunk = int(self.scalars[at.CHUNK]) if self.scalars[at.PREFILL_ON] > 0 else 0
        return np.where(self.queued > 0, chunk, np.minimum(self.backlog, chunk))

    @property
    def mean_context(self) -> FloatArray:
        """Tokens held by a decoding request, on average."""
        return self._tokens("mean_context")

    @property
    def longest_context(self) -> FloatArray:
        """Tokens held by the decoding request that holds most, up to a group of the memory."""
        return self._tokens("longest_context")

    @property
    def oldest_wait_s(self) -> FloatArray:
        """Seconds since the arrival of the request that would be admitted next."""
        return self.quantity("oldest_wait") * self.scalars[at.TTFT_S]

    @property
    def slack_s(self) -> FloatArray:
        """Mean over decoding requests of the seconds by which they are ahead of their pace."""
        z = 2 * self.feature("tpot_slack_mean") - 1
        return (
            _SCALE["tpot_slack_mean"].full
            * self.scalars[at.TPOT_S]
            * z
            / np.maximum(1 - np.abs(z), 1 - _ALMOST_ONE)
        )

    @property
    def drift(self) -> FloatArray:
        """Observed over profiled time of PUs, FC-PIM and Attn-PIM when last used, [num_envs, 3]."""
        return np.stack([self.quantity(f"drift_{unit}") for unit in at.DRIFTING], axis=1)

    @property
    def last_speculation(self) -> IntArray:
        """Tokens verified per request in the last iteration; 0 before the first."""
        return np.sum(
            [t * self.feature(f"last_speculation_{t}") for t in SPECULATION_LENGTHS], axis=0
        ).astype(int)

    def acceptance(self) -> FloatArray:
        """Chance that a drafted token is accepted, from the moving averages of tokens gained; NaN where none was.

        If each draft passes with chance a, t verified tokens advance a request by (1 - a^t) / (1 - a), which
        is inverted for every length tried; those are averaged by drafted tokens.
        """
        gained = np.stack([self.quantity(f"tokens_at_{t}") for t in SPECULATION_LENGTHS[1:]], axis=1)
        weights = np.where(gained > 0, np.array(SPECULATION_LENGTHS[1:]) - 1.0, 0.0)
        rates = np.stack([np.interp(gained[:, k], _GAINED[t], _RATES) for k, t in enumerate(_GAINED)], axis=1)
        total = weights.sum(axis=1)
        return np.where(total > 0, (weights * rates).sum(axis=1) / np.maximum(total, 1.0), np.nan)


# Tokens gained per request and iteration at each speculation length from 2 on, on a grid of acceptances.
_RATES = np.linspace(0.0, 1.0, 201)
_GAINED = {t: sum(_RATES**j for j in range(t)) for t in SPECULATION_LENGTHS[1:]}


# Acceptance before anything was drafted: the measured rates of small models lie between 0.5 and 0.84. It counts
# as much as so many drafted tokens. chosen: 64, a few iterations; range 8-512.
PRIOR_ACCEPTANCE = 0.65
PRIOR_DRAFTS = 64.0
# Share of the evidence that is forgotten in an iteration, so that drafting is tried again some time after it
# did not pay: requests change. chosen: 1/128, some seconds; range 1/1024-1/16.
FORGETTING = 1.0 / 128.0


class AcceptanceEstimate:
    """What a scheduler makes of the drafts it has seen, for each environment of a batch.

    The moving averages of the observation, weighed by how many tokens were drafted lately against a prior:
    a single early rejection does not end drafting for good.
    """

    def __init__(self, num_envs: int) -> None:
        self._evidence = np.zeros(num_envs)
        self._rlp = np.zeros(num_envs)

    def update(self, view: ServingView, episode_start: npt.NDArray[np.bool_]) -> FloatArray:
        """Take the last iteration into account; the chance that a drafted token is accepted, [num_envs]."""
        drafted = np.maximum(view.last_speculation - 1, 0) * self._rlp
        self._evidence = np.where(episode_start, 0.0, (1 - FORGETTING) * self._evidence + drafted)
        self._rlp = view.rlp.astype(np.float64)
        seen = np.nan_to_num(view.acceptance(), nan=PRIOR_ACCEPTANCE)
        return (PRIOR_DRAFTS * PRIOR_ACCEPTANCE + self._evidence * seen) / (PRIOR_DRAFTS + self._evidence)

    def repeated(self, env: int, copies: int) -> AcceptanceEstimate:
        """What is known of environment `env`, for so many copies of it."""
        twin = AcceptanceEstimate(copies)
        twin._evidence[:], twin._rlp[:] = self._evidence[env], self._rlp[env]
        return twin


class ServingRule(RulePolicy):
    """A policy for Serving-v0. Subclasses define `choose` over a batch; invalid choices are mended here.

    From the environment an unprivileged one reads the offline profile alone: `self.tables` gives FC times by
    unit and rows on an undrifted machine, α, the objectives and the chunk size.
    """

    tables: ServingTables

    def _read_profile(self, env: Problem) -> None:
        if not isinstance(env, ServingProblem):
            raise ConfigurationError(
                f"{type(self).__name__} plays papi_env/Serving-v0 alone, not {type(env).__name__}"
            )
        self.tables = env.engine.tables
        self._only = int(self.tables.scalars[at.ONLY_UNIT])
        self._can_overlap = self.tables.scalars[at.ATTENTION_UNIT] == 2

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Int64 actions [num_envs, 4], all of them valid."""
        view = ServingView(observations, self.tables.scalars)
        actions, state = self.choose(view, state, episode_start)
        return self.mended(actions, view), state

    def choose(
        self, view: ServingView, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[Actions, Any]:
        """Int64 actions [num_envs, 4] that may name units or an overlap that the system lacks, and the state."""
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

    def fc_s(self, unit: int, rows: npt.NDArray[Any]) -> FloatArray:
        """Profiled seconds of all FC kernels with so many rows on the PUs (0) or FC-PIM (1)."""
        return self.tables.fc_s[unit, np.minimum(rows, self.tables.fc_s.shape[1] - 1)]


def _index(speculation: int) -> int:
    lengths = {str(length): k for k, length in enumerate(SPECULATION_LENGTHS)}
    return lookup("speculation length", str(speculation), lengths)


class ServingThreshold(ServingRule):
    """PAPI's scheduler as published: FC kernels on the PUs when RLP x TLP exceeds α, else on FC-PIM.

    The paper schedules FC kernels alone. The rest is the usual practice of serving systems: one fixed
    speculation length, admission of whoever fits (vLLM), no overlap.

    Args:
        speculation: tokens verified per request, 1, 2, 4 or 8.
    """

    def __init__(self, speculation: int = 1) -> None:
        self.speculation = _index(speculation)

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare n with α."""
        actions = np.zeros((len(view.rlp), len(at.NVEC)), dtype=np.int64)
        actions[:, at.SPECULATION] = self.speculation
        actions[:, at.ADMISSION] = at.ALL
        actions[:, at.FC], state = self._unit(view, view.rlp * SPECULATION_LENGTHS[self.speculation], state)
        return actions, state

    def _unit(self, view: ServingView, n: IntArray, state: Any) -> tuple[IntArray, Any]:
        return np.where(n > self.env.alpha, at.PU, at.FC_PIM), state


class ServingPrefillThreshold(ServingThreshold):
    """PAPI's rule, aware of the prompts that share the machine with decoding.

    With a chunk of c prompt tokens on the PUs, two profiled times are compared: decode rows in the same
    kernel, FC_pu(n + c), and decode rows on FC-PIM beside it, for which PUs and banks both must suffice,
    max(FC_pu(c), FC_pim(n) + the time in which the PUs read the stacks for c rows + mode switches); with dual
    row buffers max(FC_pu(c), FC_pim(n)). Without a chunk it is PAPI's rule.
    """

    def _unit(self, view: ServingView, n: IntArray, state: Any) -> tuple[IntArray, Any]:
        scalars, tables = self.tables.scalars, self.tables
        chunk = view.coming_chunk
        on_pim = self.fc_s(at.FC_PIM, n)
        if not scalars[at.DUAL_BUFFERS]:
            switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
            on_pim = on_pim + tables.bank_s[chunk] + switching
        together = self.fc_s(at.PU, n + chunk)
        beside = np.maximum(self.fc_s(at.PU, chunk), on_pim)
        unit = np.where(beside < together, at.FC_PIM, at.PU)
        return np.where(chunk > 0, unit, np.where(n > self.env.alpha, at.PU, at.FC_PIM)), state


class ServingAdaptive(ServingThreshold):
    """PAPI's rule with an α that follows the machine: profiled FC times, times the slow-down last observed.

    The threshold is where the two corrected times cross, so it moves as units drift from their profile. What
    a unit's slow-down was when last used grows stale: one unused for `patience` iterations is used again if
    it is within `margin` of the best, as in `agents.batch.adaptive`.

    Args:
        speculation: as in `ServingThreshold`.
        patience: iterations. chosen: 64, some seconds of a drift over tens of seconds; range 16-512.
        margin: chosen: 0.25, less than what a unit drifts by; range 0.05-0.6.
    """

    def __init__(self, speculation: int = 1, patience: int = 64, margin: float = 0.25) -> None:
        super().__init__(speculation)
        self.patience, self.margin = patience, margin

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare corrected times. State: iterations since FC-PIM and PUs were last used, [num_envs, 2]."""
        age = np.zeros((len(view.rlp), 2)) if state is None else state + 1.0
        age[episode_start] = 0.0
        for unit, name in enumerate(("pu", "fc-pim")):
            used = (view.feature(f"last_fc_{name}") > 0) | (view.feature("last_fc_split") > 0)
            if unit == at.PU:
                used |= view.feature("last_chunk") > 0
            age[used, unit] = 0.0
        return super().choose(view, age, episode_start)

    def _unit(self, view: ServingView, n: IntArray, state: Any) -> tuple[IntArray, Any]:
        seconds = np.stack([self.fc_s(unit, n) for unit in (at.PU, at.FC_PIM)], axis=1) * view.drift[:, :2]
        rows = np.arange(len(n))
        best = np.where(seconds[:, at.PU] < seconds[:, at.FC_PIM], at.PU, at.FC_PIM)
        other = 1 - best
        near = seconds[rows, other] <= (1 + self.margin) * seconds[rows, best]
        return np.where(near & (state[rows, other] > self.patience), other, best), state


class ServingFixed(ServingRule):
    """One joint action throughout; what it names must exist in the system.

    Args:
        unit: "pu", "fc-pim" or "split"; by default the system's first unit for FC kernels.
        speculation: 1, 2, 4 or 8.
        admission: "none", "one" or "all"; with "none" one is admitted where nothing runs.
        overlap: "off" or "on".
    """

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

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Always the same."""
        return np.repeat(self.action[None], len(view.rlp), axis=0), state


def fixed_name(action: npt.NDArray[np.int64]) -> str:
    """The registered name of a fixed joint action, such as `fixed-fc-pim-4-all-on`."""
    return "fixed-" + "-".join(str(at.CHOICES[k][choice]) for k, choice in enumerate(action))


FIXED_NAMES = tuple(fixed_name(action) for action in JOINT_ACTIONS)


def parse_fixed(name: str) -> ServingFixed:
    """The policy of a name such as `fixed-fc-pim-4-all-on`; an unknown one is answered with the nearest."""
    index = lookup("fixed action", name, {known: k for k, known in enumerate(FIXED_NAMES)})
    fc, speculation, admission, overlap = (
        at.CHOICES[k][choice] for k, choice in enumerate(JOINT_ACTIONS[index])
    )
    return ServingFixed(str(fc), int(speculation), str(admission), str(overlap))


class ServingRandom(ServingRule):
    """A uniformly random valid choice in each of the four columns: the floor."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """The largest of uniform draws for the valid choices of each column."""
        assert isinstance(self.env, ServingProblem)
        draws = np.where(self.env.valid_choices(), self._rng.random((len(view.rlp), sum(at.NVEC))), -1.0)
        ends = np.cumsum(at.NVEC)
        columns = [np.argmax(draws[:, end - n : end], axis=1) for end, n in zip(ends, at.NVEC, strict=True)]
        return np.stack(columns, axis=1).astype(np.int64), state
