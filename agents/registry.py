"""The registry of policies, and the way to a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial

from agents.adaptive import AdaptiveAlpha
from agents.oracles import Optimum, Oracle
from agents.policy import Policy
from agents.rules import Random, Static, Threshold
from papi_env.errors import ConfigurationError, lookup

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "static": Static,
    "static-pu": partial(Static, "pu"),
    "static-fc-pim": partial(Static, "fc-pim"),
    "random": Random,
    "threshold": Threshold,
    "threshold-initial": partial(Threshold, runtime=False),
    "adaptive": AdaptiveAlpha,
    "oracle": Oracle,
    "optimum": Optimum,
}


def make_policy(name: str) -> Policy:
    """A fresh policy: a registered name, or `module:Class` for a class that is called without arguments.

    Raises:
        ConfigurationError: the name is unknown, or what it names is no policy.
    """
    if ":" not in name:
        return lookup("policy", name, POLICIES)()
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"Policy {name!r}: cannot import {module_name!r}: {error}") from error
    try:
        made = getattr(module, class_name)()
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"Policy {name!r}: expected a class in {module_name!r} that is called without arguments: {error}"
        ) from error
    if not callable(getattr(made, "predict", None)):
        raise ConfigurationError(f"Policy {name!r}: {class_name} has no predict(), expected SB3's signature")
    if not hasattr(made, "privileged"):
        made.privileged = False
    policy: Policy = made
    return policy
