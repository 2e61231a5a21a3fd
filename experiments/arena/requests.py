"""What became of every request of a replay, a row each: the table that `experiments.serve --export` writes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from experiments.common.runner import write_whole
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.measures import latencies

Watch = Callable[[ProblemVectorEnv], None]
SUFFIXES = (".parquet", ".csv")
# Columns and what they hold; moments are seconds from the first arrival of the episode, empty where they never come.
COLUMNS = {
    "policy": "who scheduled",
    "seed": "of the episode",
    "request": "its number in the order of arrival, from 0",
    "arrival_s": "when it arrived",
    "input_tokens": "of its prompt",
    "output_tokens": "that it wants; of refused ones as in the trace",
    "class": "its class of acceptance",
    "status": "attained (both objectives met), late, rejected, or running, waiting where the episode ended before",
    "refused": "whether it was rejected on arrival",
    "admitted_s": "when it was first taken from the queue",
    "first_token_s": "when its first token was there",
    "last_token_s": "when its last token was there",
    "preemptions": "how often it lost its memory and started again",
    "ttft_s": "first token less arrival",
    "tpot_s": "last less first token, by the tokens after the first; empty for a single token",
    "latency_s": "last token less arrival",
}
# With classes of requests, besides; `class` is then who sent it.
SERVICE_COLUMNS = {
    "session": "of which it is a turn; one that stands alone is a session of its own",
    "turn": "its number in the session, from 0",
    "found_tokens": "of its prompt, that were kept from earlier turns or shared, and not processed again",
}


class Ledger:
    """Looks on at a replay (see `agents.evaluate`), and has its requests as a table afterwards."""

    def __init__(self, policy: str, seeds: Sequence[int]) -> None:
        self.policy, self.seeds = policy, tuple(seeds)
        self._env: ProblemVectorEnv | None = None

    def __call__(self, env: ProblemVectorEnv) -> None:
        """Remember who plays: what is kept of requests is there at the end."""
        self._env = env

    def frame(self) -> pl.DataFrame:
        """A row for each request that arrived, by seed and arrival: `COLUMNS`, with classes `SERVICE_COLUMNS` too."""
        assert self._env is not None, "nothing was played"
        engine = self._env.engine
        assert isinstance(engine, ServingEngine)
        return pl.concat(self._episode(engine, e, seed) for e, seed in enumerate(self.seeds))

    def _episode(self, engine: ServingEngine, e: int, seed: int) -> pl.DataFrame:
        found = engine.records(e)
        serving = engine.scenario.serving
        assert serving is not None
        service = serving.service
        classes = list(serving.speculation.classes if service is None else service.classes)
        count = len(found["arrival_s"])
        took = latencies(engine.state.moments[e, :count], engine.state.facts[e, :count])
        columns = {
            "policy": [self.policy] * count,
            "seed": np.full(count, seed),
            "request": np.arange(count),
            "arrival_s": found["arrival_s"],
            "input_tokens": found["input"],
            "output_tokens": found["output"],
            "class": [classes[k] for k in found["class"]],
            "status": [at.STATUS_NAMES[k] for k in found["status"]],
            "refused": found["status"] == at.REFUSED,
            "admitted_s": found["admitted_s"],
            "first_token_s": found["first_token_s"],
            "last_token_s": found["finish_s"],
            "preemptions": found["preemptions"],
            "ttft_s": took["ttft"],
            "tpot_s": took["tpot"],
            "latency_s": took["e2e"],
        }
        names = list(COLUMNS)
        if service is not None:
            columns |= {
                "session": found["session"],
                "turn": found["turn"],
                "found_tokens": found["kept"],
            }
            names += SERVICE_COLUMNS
        return pl.DataFrame({name: columns[name] for name in names}, nan_to_null=True)


def both(*watches: Watch) -> Watch:
    """Look on for several, one after the other."""

    def watch(env: ProblemVectorEnv) -> None:
        for each in watches:
            each(env)

    return watch


def check_export(path: Path, run_folder: Path | None) -> None:
    """Raise ConfigurationError where no table can be written to `path`; the run folder may be still to be made."""
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(
            f"--export is {str(path)!r}, expected a name that ends in {' or '.join(SUFFIXES)}"
        )
    if not (path.parent.is_dir() or path.parent == run_folder) or path.is_dir():
        raise ConfigurationError(f"--export is {str(path)!r}, expected a file in a folder that exists")


def export(frame: pl.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV by the suffix, whole or not at all."""
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
