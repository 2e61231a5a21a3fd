"""Policies by name, with the package alone: PAPI's threshold, static mappings, adaptive rules, oracles, planners.

    from papi_env.policies import make_policy

    policy = make_policy("threshold")
    policy.bind(env)  # single or vector, wrapped or not
    actions, _ = policy.predict(observations)

`evaluate` plays whole episodes, all seeds at once.

They are the policies of `agents`, where a checkout has them; an installed package has them in `papi_env._agents`. Those
that were trained (`learned`, `learned-tree`) come with the checkout alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from papi_env.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent
_TRAINED = ("learned", "learned-tree")
_CHECKOUT, _INSTALLED = "agents", f"{__package__}._agents"


@cache
def registry() -> ModuleType:
    """The module of the registry of policies.

    Raises:
        ConfigurationError: the package lies alone, in neither of its forms.
    """
    if (_PACKAGE / "_agents").is_dir():
        return import_module(f"{_INSTALLED}.registry")
    if not (_PACKAGE.parent / _CHECKOUT / "registry.py").is_file():
        raise ConfigurationError(
            f"{_PACKAGE}: found no policies, neither in _agents nor in ../{_CHECKOUT}, "
            "expected a checkout or an installed package"
        )
    if str(_PACKAGE.parent) not in sys.path:
        sys.path.append(str(_PACKAGE.parent))
    return import_module(f"{_CHECKOUT}.registry")


def policies() -> Mapping[str, tuple[str, ...]]:
    """Every registered name, with what it plays: `batch` (Decode-v0, Kernels-v0), `serving` (both), `service` (v1).

    Those that were trained are left out where their files are not there.
    """
    trained = (Path(str(registry().__file__)).parent / "pretrained").is_dir()
    found: dict[str, tuple[str, ...]] = {}
    kinds = {"batch": "POLICIES", "serving": "SERVING_POLICIES", "service": "SERVICE_POLICIES"}
    for kind, table in kinds.items():
        for name in getattr(registry(), table):
            if name in _TRAINED and not trained:
                continue
            found[name] = (*found.get(name, ()), kind)
    return found


def make_policy(name: str) -> Any:
    """A fresh policy: a registered name, the folder of a learned one, or `module:Class` of your own.

    Its `predict(observation, state, episode_start, deterministic)` is Stable-Baselines3's; `bind(env)`, where it has
    one, is called before an episode.

    Raises:
        ConfigurationError: the name is unknown (with the nearest one), or what it names is no policy.
        DataError: a learned policy's files are damaged.
    """
    if name in _TRAINED and name not in policies():
        raise ConfigurationError(
            f"Policy {name!r} was trained, and comes with the checkout alone, not with the installed package: expected "
            "another one of `papi-env list policies`, or the folder of a learned policy"
        )
    return registry().make_policy(name)


def evaluate(policy: Any, envs: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """Metrics of one episode per seed, arrays [len(seeds)] by name; every policy meets the same instances.

    Args:
        policy: anything with `predict` over batches.
        envs: a vector environment, one environment per seed, with `autoreset_mode="Disabled"`.
        seeds: of the episodes.

    Raises:
        ConfigurationError: another number of seeds than environments, or autoreset.
    """
    home = registry().__name__.rpartition(".")[0]
    found: dict[str, Any] = import_module(f"{home}.evaluate").evaluate(policy, envs, seeds)
    return found
