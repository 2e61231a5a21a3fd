"""What the tuned rules of Serving-v0 share: parameters with ranges, the file that holds what was found, admission.

`python -m experiments.tune` searches the parameters on the training split, by family of presets, and
writes the file beside the rule's module: parameters by family, each with the budget and the seeds that it took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from agents.serving.rules import ServingRule
from agents.serving.view import AcceptanceEstimate, ServingView
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.workload.serving import WATERMARK

DEFAULT = "default"
# Share of what is known of prompts that is forgotten whenever requests are admitted. chosen: 1/32, some tens of
# requests; range 1/256-1/8.
PROMPT_FORGETTING = 1.0 / 32.0


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched: between two bounds, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class RuleParameters:
    """Parameters of a rule: a subclass has a finite number for each, with a default that no search has seen."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
                raise ConfigurationError(
                    f"Heuristic parameter {field.name} is {value!r}, expected a finite number"
                )


P = TypeVar("P", bound=RuleParameters)


def parameters_from(where: str, values: Any, kind: type[P]) -> P:
    """Parameters from a table of numbers; a misspelt name is answered with the nearest."""
    if not isinstance(values, dict):
        raise DataError(f"{where}: found {type(values).__name__}, expected a table of parameters")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter in {where}", name, known)
    return kind(**values)


def as_table(parameters: RuleParameters) -> dict[str, float]:
    """The parameters as plain numbers, four digits each."""
    return {name: float(f"{value:.4g}") for name, value in asdict(parameters).items()}


def stored_entries(file: Path) -> dict[str, dict[str, Any]]:
    """What a file of tuned parameters holds, by family; nothing where there is no file.

    Raises:
        DataError: it is no table of entries with parameters.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}: line {error.lineno}: expected JSON: {error.msg}") from None
    if not isinstance(entries, dict):
        raise DataError(f"{file.name}: found {type(entries).__name__}, expected a table of families")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or "parameters" not in entry:
            raise DataError(f"{file.name}, {name}: found no table 'parameters'")
    return entries


def tuned_parameters(file: Path, kind: type[P]) -> dict[str, P]:
    """The stored parameters by family of presets, and `default`; where nothing is stored, that is the guess."""
    entries = stored_entries(file)
    found = {
        name: parameters_from(f"{file.name}, {name}", entry["parameters"], kind)
        for name, entry in entries.items()
    }
    return {DEFAULT: kind()} | found


class TunedRule(ServingRule, Generic[P]):
    """A rule with parameters. Subclasses say of which kind, where they are searched, and where they are stored.

    Args:
        parameters: none for those tuned for the family of the bound preset (the part of its name before the
            slash), or for `default` where the family was not tuned. Several share the environments evenly, the
            first of them taking the first environments: so a search plays many at once.
    """

    kind: ClassVar[type[Any]]
    file: ClassVar[Path]
    ranges: ClassVar[Mapping[str, Range]]
    # The parameters in play: numbers, or arrays [num_envs] where several share the environments.
    _p: Any

    def __init__(self, *parameters: P) -> None:
        self._given = parameters
        self.parameters: P = parameters[0] if parameters else self.kind()
        self._p = self.parameters

    def supports(self, env: Problem) -> None:
        """Every machine; picks the parameters of the scenario's family, or divides the environments."""
        if not self._given:
            stored: dict[str, P] = tuned_parameters(self.file, self.kind)
            self.parameters = stored.get(env.scenario.name.partition("/")[0], stored[DEFAULT])
        self._p = self.parameters
        if len(self._given) > 1:
            each, left = divmod(env.engine.num_envs, len(self._given))
            if left:
                raise ConfigurationError(
                    f"{len(self._given)} parameter sets for {env.engine.num_envs} environments, expected a multiple"
                )
            self.assign([given for given in self._given for _ in range(each)])

    def assign(self, parameters: Sequence[P]) -> None:
        """From now on play each environment with parameters of its own, one set for each."""
        self._p = SimpleNamespace(
            **{name: np.array([float(getattr(given, name)) for given in parameters]) for name in self.ranges}
        )

    def admits(self, view: ServingView) -> npt.NDArray[np.bool_]:
        """Whether to admit, [num_envs]: decoding requests keep their pace, or a waiting one is urgent."""
        p, scalars = self._p, self.tables.scalars
        keeps_pace = view.slack_s >= p.admit_slack * scalars[at.TPOT_S]
        urgent = (view.queued > 0) & (view.oldest_wait_s >= p.urgent * scalars[at.TTFT_S])
        return np.asarray(keeps_pace | urgent)

    @staticmethod
    def has_room(view: ServingView) -> npt.NDArray[np.bool_]:
        """Whether there are slots and KV pages for a request more, as far as is seen, [num_envs]."""
        return (view.feature("running_share") < 1.0) & (view.feature("kv_use") < 1.0 - WATERMARK)


class Estimates:
    """What a scheduler makes of the past, for each environment of a batch: acceptance of drafts, length of prompts."""

    def __init__(self, num_envs: int) -> None:
        self._acceptance = AcceptanceEstimate(num_envs)
        self._tokens = np.zeros(num_envs)
        self._requests = np.zeros(num_envs)
        # At the last decision: requests that it would admit, and prompt tokens that waited.
        self._admitted = np.zeros(num_envs)
        self._backlog = np.zeros(num_envs)

    def update(
        self, view: ServingView, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        """Take the last iteration into account.

        Returns:
            The chance that a drafted token is accepted, and the prompt tokens of a request on average; [num_envs].
        """
        # If all who waited were admitted, who waits now came during the last iteration; the prompt tokens that were
        # processed or wait now, beyond those that waited before, are theirs.
        last_s = view.quantity("last_time") * view.scalars[at.REFERENCE_S]
        everyone = (view.queued == 0) | (view.oldest_wait_s <= 1.001 * last_s)
        came = view.backlog + np.rint(view.quantity("last_chunk")) - self._backlog
        counts = np.where(everyone & (came > 0), self._admitted, 0.0)
        keep = np.where(episode_start, 0.0, 1.0 - PROMPT_FORGETTING * np.minimum(counts, 1.0))
        self._tokens = keep * self._tokens + np.where(episode_start | (counts == 0), 0.0, came)
        self._requests = keep * self._requests + np.where(episode_start, 0.0, counts)
        chunk = self.chunk_tokens(view)
        prompt = (chunk + self._tokens) / (1.0 + self._requests)
        return self._acceptance.update(view, episode_start), prompt

    def decided(self, view: ServingView, admitting: npt.NDArray[np.bool_]) -> None:
        """Note whether those who wait are to be admitted now."""
        self._admitted = np.where(admitting, view.queued, 0).astype(np.float64)
        self._backlog = view.backlog.astype(np.float64)

    def repeated(self, env: int, copies: int) -> Estimates:
        """What is known of environment `env`, for so many copies of it."""
        twin = Estimates(copies)
        for name in ("_tokens", "_requests", "_admitted", "_backlog"):
            getattr(twin, name)[:] = getattr(self, name)[env]
        twin._acceptance = self._acceptance.repeated(env, copies)
        return twin

    @staticmethod
    def chunk_tokens(view: ServingView) -> float:
        """Prompt tokens of a full chunk; 0 where prompts arrive processed."""
        return float(view.scalars[at.CHUNK]) if view.scalars[at.PREFILL_ON] > 0 else 0.0

    @classmethod
    def coming_chunk(
        cls, view: ServingView, admitted: npt.NDArray[np.bool_], prompt: FloatArray
    ) -> npt.NDArray[np.int64]:
        """Prompt tokens to expect in the coming iteration, [num_envs], if those who wait have prompts of `prompt`."""
        waiting = np.where(admitted, view.queued * prompt, 0.0)
        return np.minimum(view.backlog + waiting, cls.chunk_tokens(view)).astype(np.int64)


def geometric(acceptance: FloatArray, length: int) -> FloatArray:
    """Tokens that an iteration gains a request on average, verifying `length` with drafts passing by `acceptance`."""
    gained = np.ones_like(acceptance)
    for _ in range(length - 1):
        gained = 1.0 + acceptance * gained
    return gained
