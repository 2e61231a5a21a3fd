"""What happens during a training: checks, validation, checkpoints, the state to resume from, and progress.

All of it happens between rollouts, where the state is complete; what happens in between only counts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback

from agents.environments import problems_of
from agents.learned.checkpoint import Checkpoint
from agents.learned.export import export_policy
from experiments.common.command import say
from experiments.training.evaluation import Validation, Validator
from experiments.training.hyperparameters import Hyperparameters
from experiments.training.interruption import DivergedError, Interruption
from experiments.training.record import BEST, LAST, STATE, Listener, Record
from experiments.training.state import save_state
from experiments.training.state_bounds import counts_of, number_of, rows_of

# A value-based algorithm has a boundary after every step: progress is shown no more often than this.
_REFRESH_S = 0.1
# Of TensorBoard: before what Stable-Baselines3 writes (rollout, time, train).
CURVES = "evaluation"


def explained_within(
    values: npt.NDArray[Any], returns: npt.NDArray[Any], setting: npt.NDArray[np.int64]
) -> float:
    """The share of the variance of returns within settings that values explain; below 0 where they are worse than none.

    That settings differ in what they return is easily learned, and says nothing of when a setting returns more.

    Args:
        values, returns: [steps, num_envs]; setting: of each environment, [num_envs].
    """
    left = total = 0.0
    for k in np.unique(setting):
        own = returns[:, setting == k]
        left += float((own - values[:, setting == k]).var()) * own.size
        total += float(own.var()) * own.size
    return 1.0 - left / total if total > 0 else 0.0


class Bar:
    """Progress on a terminal; a line for every validation in a log."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._task: TaskID | None = None
        self._begin = (0, 0.0)
        self._best = ""

    @classmethod
    def columns(cls) -> tuple[Any, ...]:
        """What a `Progress` for this bar shows."""
        return (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[shown]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )

    def started(self, steps: int) -> None:
        """Show what is done already."""
        self._begin = (steps, time.perf_counter())
        self._task = self._progress.add_task("training", total=self._total, completed=steps, shown="")

    def imitated(self, done: int, rounds: int, samples: int, regret: float) -> None:
        """Print the round."""
        line = f"imitation {done} of {rounds}: {samples:,} samples, expected regret {100 * regret:.2f} %"
        say(self._progress.console, line)

    def cloned(self, done: int, rounds: int, samples: int, differs: float) -> None:
        """Print the round."""
        line = f"cloning {done} of {rounds}: {samples:,} samples, {100 * differs:.2f} % other choices than the rule's"
        say(self._progress.console, line)

    def stepped(self, steps: int, simulated_s: float) -> None:
        """Show steps, simulated time and the rate of this session."""
        assert self._task is not None
        rate = (steps - self._begin[0]) / max(time.perf_counter() - self._begin[1], 1e-9)
        shown = f"{steps:,} steps · {simulated_s:,.0f} s simulated · {rate:,.0f} steps/s{self._best}"
        self._progress.update(self._task, completed=min(steps, self._total), shown=shown)

    def validated(self, steps: int, found: Validation, best: bool) -> None:
        """Show the score."""
        assert self._task is not None
        self._progress.update(self._task, description=f"{found.scored} {found.score:.4g}")
        if best and getattr(self._progress.console, "watch", False):
            self._best = f" · best so far {found.score:.4g} at {steps:,}"
        if not self._progress.console.is_terminal:
            regret = "" if found.regret is None else f", regret {100 * found.regret:.3f} %"
            line = f"{steps:,} steps: {found.scored} {found.score:.6g}{regret}{' (best)' if best else ''}"
            say(self._progress.console, line)


class Boundary(BaseCallback):
    """Everything that is done between two rollouts.

    Args:
        folder: of the run, or None to keep everything in memory (a trial).
        env_id, parameters: of the run.
        validator: what is validated on.
        every: steps from one validation to the next.
        summary: plain data for the checkpoints' descriptions.
        listener, interruption: see there.
    """

    def __init__(
        self,
        folder: Path | None,
        env_id: str,
        parameters: Hyperparameters,
        validator: Validator,
        every: int,
        summary: dict[str, Any],
        listener: Listener,
        interruption: Interruption,
    ) -> None:
        super().__init__()
        self.folder, self.env_id, self.parameters = folder, env_id, parameters
        self.every, self.summary = every, summary
        self.listener, self.interruption = listener, interruption
        self.record = Record(folder, validator, listener)
        self.next_validation = 0
        self._finished_s = 0.0  # simulated, of episodes that ended
        self._wall_s = 0.0  # of earlier sessions
        self._start = time.perf_counter()
        self._shown = 0.0
        # Whether the critic has once explained as much as the actor waits for.
        self._explains = False

    def _init_callback(self) -> None:
        self._problems = problems_of(self.training_env)
        clocks = dict(self._problems[0].clock_info)
        self._clock = clocks["time_s"]

    def data(self) -> dict[str, Any]:
        """What a resumed run takes over, besides the model's state."""
        return {
            "rows": self.rows,
            "next_validation": self.next_validation,
            "finished_s": self._finished_s,
            "wall_s": self.wall_s,
        } | ({"explains": True} if self._explains else {})

    def take_over(self, path: Path, data: Any) -> None:
        """Go on where `data()` was taken, which is from the file at `path`.

        Raises:
            DataError: it is not what `data()` gives.
        """
        (self.next_validation,) = counts_of(path, data, ("next_validation",))
        self.record.rows = rows_of(path, data.get("rows"))
        self._finished_s, self._wall_s = (
            number_of(path, name, data.get(name)) for name in ("finished_s", "wall_s")
        )
        self._explains = data.get("explains") is True

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of all validations so far."""
        return self.record.rows

    @property
    def steps(self) -> int:
        """Over all environments."""
        return self.model.num_timesteps

    @property
    def wall_s(self) -> float:
        """Seconds of training, over all sessions."""
        return self._wall_s + time.perf_counter() - self._start

    @property
    def simulated_s(self) -> float:
        """Seconds that the environments have simulated, without prefill."""
        running = sum(float(p.engine.clocks[:, self._clock].sum()) for p in self._problems)
        return self._finished_s + running

    def _on_training_start(self) -> None:
        self.listener.started(self.model.num_timesteps)

    def _on_step(self) -> bool:
        for i in np.flatnonzero(self.locals["dones"]):
            self._finished_s += float(self.locals["infos"][i]["time_s"])
        if not np.isfinite(self.locals["rewards"]).all() or not np.isfinite(self.locals["new_obs"]).all():
            raise self.diverged("a reward or an observation")
        return True

    def _on_rollout_start(self) -> None:
        self.at_boundary()
        if self.interruption.asked:
            self.keep_state()
            raise KeyboardInterrupt
        remaining = 1.0 - self.model.num_timesteps / self.parameters.timesteps
        entropy = self.parameters.entropy(max(remaining, 0.0))
        if entropy is not None:
            self.model.ent_coef = entropy  # type: ignore[attr-defined]
        within = self.model.num_timesteps < getattr(self.parameters, "critic_first", 0)
        wanted = getattr(self.parameters, "critic_until", 0.0)
        self._hold_actor(within and not (wanted and self._explains))

    def _on_rollout_end(self) -> None:
        wanted = getattr(self.parameters, "critic_until", 0.0)
        if not wanted:
            return
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        sizes = [problem.engine.num_envs for problem in self._problems]
        explained = explained_within(buffer.values, buffer.returns, np.repeat(np.arange(len(sizes)), sizes))
        self.logger.record(f"{CURVES}/explained_within_settings", explained)
        self._explains = self._explains or explained >= wanted

    def _hold_actor(self, held: bool) -> None:
        """Let the actor learn, or keep it as it is."""
        policy: Any = self.model.policy
        if hasattr(policy, "action_net"):
            modules = [policy.mlp_extractor.policy_net, policy.action_net]
            if hasattr(policy, "lstm_actor"):  # of RecurrentPPO
                modules.append(policy.lstm_actor)
            for module in modules:
                module.requires_grad_(not held)

    def at_boundary(self, last: bool = False) -> None:
        """Check the weights; validate and save where it is time."""
        self.check_weights()
        steps = self.model.num_timesteps
        now = time.perf_counter()
        if last or now - self._shown > _REFRESH_S:
            self._shown = now
            self.listener.stepped(steps, self.simulated_s)
        if self.rows and self.rows[-1]["steps"] == steps:
            return
        if steps >= self.next_validation or last:
            self.next_validation = (steps // self.every + 1) * self.every
            self._validate(steps)
            self.keep_state()

    def check_weights(self) -> None:
        """Raise DivergedError where a weight is not finite."""
        for name, parameter in self.model.policy.named_parameters():
            if not torch.isfinite(parameter).all():
                raise self.diverged(f"the weights {name}")

    def diverged(self, what: str) -> DivergedError:
        """The error that says where training left the finite numbers, and what is kept."""
        kept = ""
        if self.folder is not None and self.rows:
            kept = (
                f"; {self.folder / LAST} holds step {self.rows[-1]['steps']:,}, {self.folder / BEST} the best"
            )
        return DivergedError(
            f"Training diverged: {what} ceased to be finite by step {self.model.num_timesteps:,}{kept}. Expected "
            "finite numbers: try a smaller learning_rate or max_grad_norm"
        )

    def _validate(self, steps: int) -> None:
        self._log(self.record.validate(self.checkpoint(), steps, self.simulated_s, self.wall_s))

    def _log(self, found: Validation) -> None:
        """Curves of validations, which TensorBoard shows in the order of the alphabet: what improves comes first."""
        self.logger.record(f"{CURVES}/return", found.score)
        if found.regret is not None:
            self.logger.record(f"{CURVES}/regret_percent", 100 * found.regret)
        if found.discounted is not None:
            self.logger.record(f"{CURVES}/return_discounted", found.discounted)
        self.logger.record("time/simulated_s", self.simulated_s)

    def checkpoint(self) -> Checkpoint:
        """The policy as it is now."""
        draws = bool(getattr(self.parameters, "draws", False))
        return export_policy(self.model, env_id=self.env_id, training=self.summary, draws=draws)

    def keep_state(self) -> None:
        """Write what a resumed run starts from."""
        if self.folder is not None:
            save_state(self.folder / STATE, self.model, self.data())
