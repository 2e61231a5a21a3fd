"""What policies that were not trained earn on the validation instances of training runs: the horizontal lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.registry import make_policy
from experiments.arena.entries import BOUND, CHOSEN, policy_digest
from experiments.arena.play import attempt
from experiments.arena.settings import trace_digest
from experiments.common.runner import Columns, Job
from experiments.common.statistics import regret_percent
from experiments.distilling.collect import make_envs
from experiments.splitting.definition import SERVING, VALIDATION_SEED
from experiments.training.curves.data import Validation, YAxis, read_groups
from experiments.training.scores import score
from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import FloatArray

ORACLE = "oracle"


def check_references(names: Sequence[str], validation: Validation) -> dict[str, str]:
    """How each reference is called in the picture, its marks included: * where it is privileged, † where chosen.

    Raises:
        ConfigurationError: an unknown policy, or one that cannot play the validation's settings.
    """
    labels = {}
    for name in dict.fromkeys(names):
        if name == BOUND or name in CHOSEN:
            if validation.env_id != SERVING:
                raise ConfigurationError(f"Reference {name!r} plays {SERVING} alone, not {validation.env_id}")
            labels[name] = name + ("*" if name == BOUND else "†")
            continue
        policy = make_policy(name)
        bind = getattr(policy, "bind", None)
        if bind is not None:
            try:
                bind(make_envs(validation.env_id, validation.settings[:1], 1)[0])
            except ConfigurationError as error:
                raise ConfigurationError(f"Reference {name!r}: {error}") from error
        labels[name] = name + "*" * policy.privileged
    return labels


def plan(names: Sequence[str], validation: Validation, y: YAxis) -> dict[str, list[Job]]:
    """The jobs of every reference, one for each setting; regret needs the oracle's besides. None without a name.

    Raises:
        DataError: a trace is not there, or not what it was when the runs were trained.
    """
    if not names:
        return {}
    for setting in validation.settings:
        found = trace_digest(setting)
        if found is not None and found not in validation.traces:
            raise DataError(
                f"{setting.name}: its trace is another file than the runs were validated on, expected the same content"
            )
    seeds = tuple(range(VALIDATION_SEED, VALIDATION_SEED + validation.episodes))
    return {
        name: [
            Job(
                f"{name} · {setting.name}",
                {
                    "problem": validation.env_id,
                    "scenario": setting.model_dump(mode="json"),
                    "trace": trace_digest(setting),
                    "policy": name,
                    "policy_source": policy_digest(name),
                    "seeds": list(seeds),
                },
                attempt,
                (validation.env_id, setting, name, seeds),
            )
            for setting in validation.settings
        ]
        for name in dict.fromkeys((*names, *((ORACLE,) if y == "regret" else ())))
    }


def values_of(
    labels: Mapping[str, str], played: Mapping[str, Sequence[Columns]], validation: Validation, y: YAxis
) -> dict[str, float]:
    """What is drawn for each reference, by its label: a mean over settings, as validations are."""
    means: dict[str, FloatArray] = {}
    for name, settings in played.items():
        failed = [note for columns in settings for note in columns["note"] if note]
        if failed:
            raise ConfigurationError(
                f"Reference {name!r}: cannot play the validation's instances: {failed[0]}"
            )
        env_id = validation.env_id
        pairs = zip(validation.settings, settings, strict=True)
        means[name] = np.array([score(env_id, of, c["return"], c.get("offered", 1.0)) for of, c in pairs])
    if y == "return":
        return {label: float(np.mean(means[name])) for name, label in labels.items()}
    return {label: float(regret_percent(means[name], means[ORACLE]).mean()) for name, label in labels.items()}


def reference_values(
    runs: Sequence[str | Path], names: Sequence[str] = ("threshold",), y: YAxis = "return"
) -> dict[str, float]:
    """Play policies on the runs' validation instances: what `curves_figure` takes as references.

    Args:
        runs, y: as for `curves_figure`.
        names: of policies, or bound, best-threshold, best-fixed for Serving-v0.

    Returns:
        The mean score (see `experiments.training.scores`), or mean regret in percent, by name with its marks.

    Raises:
        ConfigurationError, DataError: see `read_groups`, `check_references` and `plan`.
    """
    _, validation = read_groups(runs, y)
    labels = check_references(names, validation)
    jobs = plan(tuple(labels), validation, y)
    return values_of(
        labels,
        {name: [job.function(*job.arguments) for job in own] for name, own in jobs.items()},
        validation,
        y,
    )
