"""An episode played by a policy, in numbers and as a timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from papi_env.commands.frames import Film
from papi_env.commands.wording import quantity, rows
from papi_env.envs.serving import ServingProblem
from papi_env.errors import ConfigurationError
from papi_env.hardware.units import UNIT_NAMES
from papi_env.policies import make_policy
from papi_env.simulation.serving.state import CHOICES

# Units of metrics, by the end of their names.
_UNITS = {"_s": "s", "_j": "J", "_w": "W", "_bytes": "B"}
# What a user asks for in words is printed.
TEXT = "text"
LINES = 12


def play(
    env_id: str,
    policy_name: str,
    arguments: Mapping[str, Any],
    seed: int,
    render: str | None,
    frames: int,
    until: int | None,
    say: Callable[[str], None],
) -> None:
    """Play one episode and say what it was.

    Args:
        env_id: the problem.
        policy_name: see `papi_env.policies.make_policy`.
        arguments: of the environment, besides `render_mode`.
        seed: of the episode.
        render: None; `text` for the timeline's last lines; or a path that ends in .gif (an animation) or .png (its
            end).
        frames: of an animation, at most.
        until: the step that pictures end with; None: the episode's last.
        say: takes a line.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    picture = render is not None and render != TEXT
    film = Film(Path(str(render)), frames) if picture else None
    mode = None if render is None else "rgb_array" if picture else "ansi"
    policy = make_policy(policy_name)
    env = gym.make(env_id, render_mode=mode, disable_env_checker=True, **arguments)
    try:
        problem: Any = env.unwrapped
        bind = getattr(policy, "bind", None)
        if bind is not None:
            bind(problem)
        if film is not None:
            steps = _steps(env_id, policy_name, arguments, seed)
            film.expect(steps if until is None else min(steps, until))
        say(
            f"{env_id}: {policy_name} plays {problem.scenario.name} on {problem.scenario.system.name}, seed {seed}"
        )
        steps, earned, units, info = 0, 0.0, Counter[str](), {}
        for action, reward, info in _episode(env, policy, seed):  # noqa: B007, the last one is wanted
            steps += 1
            earned += reward
            units[_unit(problem, action)] += 1
            if film is not None:
                film.look(steps, env.render)
        if render == TEXT:
            lines = str(env.render()).splitlines()
            say(
                "\n".join(
                    [lines[0], *([f"... {len(lines) - 1 - LINES} lines before"] * (len(lines) > LINES + 1))]
                )
            )
            say("\n".join(lines[-LINES:]))
        # What an encode runs has choices of its own behind those of FC kernels.
        counted = problem.scenario.images is None
        say(f"{steps} steps" + (f"; FC kernels on {_counted(units)}" if counted else ""))
        say("\n".join(rows([("return", f"{earned:.6g}"), *_metrics(info["metrics"])])))
        if film is not None:
            say(film.close())
    finally:
        env.close()


def _steps(env_id: str, policy_name: str, arguments: Mapping[str, Any], seed: int) -> int:
    """How many steps the episode has: it is played once without pictures, so that frames are spread over it."""
    env = gym.make(env_id, disable_env_checker=True, **arguments)
    try:
        policy = make_policy(policy_name)
        bind = getattr(policy, "bind", None)
        if bind is not None:
            bind(env.unwrapped)
        return sum(1 for _ in _episode(env, policy, seed))
    finally:
        env.close()


def _episode(env: Any, policy: Any, seed: int) -> Any:
    """Yield (action, reward, info) of every step."""
    observation, info = env.reset(seed=seed)
    state, start, done = None, np.ones(1, dtype=np.bool_), False
    while not done:
        action, state = policy.predict(observation, state, start, deterministic=True)
        action = np.asarray(action)
        action = action.reshape(env.action_space.shape) if env.action_space.shape else int(action.reshape(()))
        observation, reward, terminated, truncated, info = env.step(action)
        start = np.zeros(1, dtype=np.bool_)
        done = terminated or truncated
        yield action, float(reward), info


def _counted(units: Counter[str]) -> str:
    return ", ".join(f"{name} in {count}" for name, count in units.most_common())


def _unit(problem: Any, action: Any) -> str:
    """The unit of an action's first choice, which is that of FC kernels."""
    names = CHOICES[0] if isinstance(problem, ServingProblem) else UNIT_NAMES
    return str(names[int(np.ravel(action)[0])])


def _metrics(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Metrics that are numbers other than 0, with their units."""
    found = []
    for name, value in metrics.items():
        if name == "return" or not np.isfinite(value) or value == 0:
            continue
        unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
        words = {"s": "seconds", "B": "bytes"}.get(unit, unit)
        found.append((name, quantity(value, words)))
    if not found:
        raise ConfigurationError("the episode ended without metrics")
    return found
