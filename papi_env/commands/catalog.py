"""The kinds of things that are registered, each with its names and a line about every one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym

from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, nearest
from papi_env.hardware.gpus import GPUS
from papi_env.hardware.links import LINKS
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.technology import TECHNOLOGIES
from papi_env.policies import policies, registry
from papi_env.scenario import SCENARIOS
from papi_env.workload.transformer import TRANSFORMERS
from papi_env.workload.vision.network import REPMLPNETS

# What policies play, as `papi_env.policies.policies` calls it.
PLAYS = {"batch": "Decode-v0, Kernels-v0", "serving": "Serving-v0, Serving-v1", "service": "Serving-v1"}
_PLAYED = {"batch": "Decode Kernels", "serving": "Serving", "service": "Serving-v1"}


@dataclass(frozen=True)
class Kind:
    """A kind of registered things.

    Attributes:
        plural, singular: in words; the plural is what one types.
        things: what is registered, by name.
        line: a few words about one, by its name.
    """

    plural: str
    singular: str
    things: Callable[[], Mapping[str, Any]]
    line: Callable[[str], str]


def environment_class(env_id: str) -> type[Any]:
    """The class of the single environment of an id."""
    found: type[Any] = gym.envs.registration.load_env_creator(str(gym.spec(env_id).entry_point))  # type: ignore[assignment]
    return found


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _entry(name: str) -> Any:
    tables = (registry().POLICIES, registry().SERVING_POLICIES, registry().SERVICE_POLICIES)
    return next(table[name] for table in tables if name in table)


def policy_class(name: str) -> object:
    """What makes the policies of a name: a class, or a function."""
    entry = _entry(name)
    return entry.made or getattr(entry.make, "func", entry.make)


def policy_arguments(name: str) -> str:
    """The arguments with which a name makes its class, as in `split=True`; empty where there are none."""
    make = _entry(name).make
    if not isinstance(make, partial):
        return ""
    given = inspect.signature(make.func).bind_partial(*make.args, **make.keywords).arguments
    return ", ".join(f"{key}={value!r}" for key, value in given.items())


def _policy_line(name: str) -> str:
    made = policy_class(name)
    mark = " *" if getattr(made, "privileged", False) else ""
    played = " ".join(_PLAYED[kind] for kind in policies()[name])
    arguments = policy_arguments(name) if inspect.isclass(made) else ""
    return f"[{played}]{mark} {first_line(made)}" + (f" Here: {arguments}." if arguments else "")


def _model_line(name: str) -> str:
    model = TRANSFORMERS[name]
    experts = (
        ""
        if model.experts is None
        else f", {model.experts.experts} experts, {model.experts.active} of a token"
    )
    return f"{model.layers} layers of {model.hidden}, {model.heads} heads{experts}"


KINDS: Mapping[str, Kind] = {
    kind.plural: kind
    for kind in (
        Kind(
            "ids",
            "problem",
            lambda: dict.fromkeys(ENV_IDS),
            lambda name: first_line(environment_class(name)),
        ),
        Kind("systems", "system", lambda: SYSTEMS, lambda name: SYSTEMS[name].description),
        Kind("models", "model", lambda: TRANSFORMERS, _model_line),
        Kind(
            "networks",
            "network",
            lambda: REPMLPNETS,
            lambda name: f"RepMLPNet of {REPMLPNETS[name].stages} stages",
        ),
        Kind("scenarios", "scenario", lambda: SCENARIOS, lambda name: SCENARIOS[name].description),
        Kind("policies", "policy", policies, _policy_line),
        Kind("gpus", "GPU", lambda: GPUS, lambda name: GPUS[name].name),
        Kind("links", "link", lambda: LINKS, lambda name: LINKS[name].name),
        Kind(
            "memories",
            "DRAM technology",
            lambda: TECHNOLOGIES,
            lambda name: f"{TECHNOLOGIES[name].dies} dies a stack",
        ),
    )
}


def find(name: str) -> list[tuple[Kind, str]]:
    """Everything that is registered under a name, and the id whose end it is; the kinds in their order.

    Raises:
        ConfigurationError: nothing is; with the nearest of all names.
    """
    known = {kind: kind.things() for kind in KINDS.values()}
    found = [(kind, name) for kind, things in known.items() if name in things]
    found += [(KINDS["ids"], env_id) for env_id in ENV_IDS if env_id.partition("/")[2] == name]
    if not found:
        names = sorted({other for things in known.values() for other in things})
        close = nearest(name, names)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ConfigurationError(f"Nothing is registered as {name!r}.{hint} `papi-env list` has all names.")
    return found
