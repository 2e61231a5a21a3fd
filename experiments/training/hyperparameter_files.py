"""Where hyper-parameters come from: a file per algorithm, a block per environment, checked where they enter.

`agents/hyperparameters/<algorithm>.toml` has a table `[default]` and, under the id of an environment, what differs
there. `NAME=VALUE` replaces single values, and a run that is gone on with keeps those on its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments.common.runner import ROOT
from experiments.training.hyperparameters import KINDS, Learning, Linear
from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, describe_validation, lookup, unknown_name
from papi_env.files import parse_toml, read_toml

FOLDER = ROOT / "agents" / "hyperparameters"
DEFAULT = "default"

# What a block need not say of problems whose discount is per second unless asked otherwise.
SECONDS: Mapping[str, Mapping[str, float]] = {
    "papi_env/Serving-v1": {
        # chosen: 10 s, range 2-60: several times the 2 s in which a first token is due, so that what a decision does to
        # requests that wait now counts.
        "time_constant": 10.0,
        # chosen: 1 s, range 0.2-5: some 25 iterations of 40 ms, as many as a lambda of 0.96 per step looks ahead.
        "trace_s": 1.0,
    }
}


def load_hyperparameters(
    algorithm: str, env_id: str, overrides: Sequence[str] = (), path: Path | None = None
) -> Learning:
    """The values of an algorithm on an environment.

    Args:
        algorithm: a name of `KINDS`.
        env_id: such as `papi_env/Kernels-v0`.
        overrides: `NAME=VALUE`, the value as TOML writes it: `gamma=0.9`, `net_arch=[64, 64]`.
        path: a file instead of the algorithm's own.

    Raises:
        ConfigurationError, DataError: a name or value that does not fit; the message says where.
    """
    kind = lookup("algorithm", algorithm, KINDS)
    path = FOLDER / f"{algorithm}.toml" if path is None else path
    blocks = _blocks(path)
    seconds = {name: value for name, value in SECONDS.get(env_id, {}).items() if name in kind.model_fields}
    values = {**seconds, **blocks.get(DEFAULT, {}), **blocks.get(env_id, {})}
    where = f"{path} ({env_id})"
    if overrides:
        replaced = _overrides(overrides, values)
        if replaced.get("time_constant") == 0:  # steps for both
            values.pop("trace_s", None)
        values.update(replaced)
        _check_one_discount(replaced, values)
        where += f" with {' '.join(overrides)}"
    return _checked(kind, values, where)


def kept_hyperparameters(algorithm: str, values: Mapping[str, Any], where: str) -> Learning:
    """The values that a run has on record.

    Raises:
        ConfigurationError: a name or value that does not fit; the message says `where`.
    """
    return _checked(lookup("algorithm", algorithm, KINDS), values, where)


def _checked(kind: type[Learning], values: Mapping[str, Any], where: str) -> Learning:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise describe_validation(where, error, (*kind.model_fields, *Linear.model_fields)) from None


def _check_one_discount(replaced: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse values per step that those per second leave without a say."""
    for step, second in (("gamma", "time_constant"), ("gae_lambda", "trace_s")):
        if step in replaced and values.get(second):
            raise ConfigurationError(
                f"{step}={replaced[step]} is per step, and has no say beside {second}={values[second]} seconds; "
                f"expected one of them, or {second}=0"
            )


def _blocks(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file, whose names are ids or `default`."""
    blocks = read_toml(path)
    for name, block in blocks.items():
        if not isinstance(block, dict) or name not in (DEFAULT, *ENV_IDS):
            error_ = unknown_name("block", name, (DEFAULT, *ENV_IDS))
            raise ConfigurationError(f"{path}: {error_}")
    return blocks


def _overrides(texts: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name from NAME=VALUE; `tuned` is no longer true of what they change."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            found[name.strip()] = parse_toml(f"value = {value}")["value"]
        except ValueError:
            raise ConfigurationError(
                f"Hyper-parameter {text!r}: expected NAME=VALUE with a TOML value, such as gamma=0.9 or "
                "net_arch=[64,64]"
            ) from None
    if "tuned" not in found and any(values.get(name) != value for name, value in found.items()):
        found["tuned"] = ""
    return found
