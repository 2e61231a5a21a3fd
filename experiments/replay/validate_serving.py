"""A real server's run, replayed on the serving engine and compared: measured tables, and the data sheet alone.

The replay serves the requests of the run at the times at which the server queued them, in vLLM's order of work, with
the KV pages that the server had. Two ways: with the unit's measured tables, and with the kernel model of the GPU's
data sheet. One value of each constant serves all runs; there is nothing to tune for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.replay.llmservingsim import meta_path, read_llmservingsim
from experiments.replay.run_folder import DESCRIPTION, Run, RunLink, read_own
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.gpus import get_gpu
from papi_env.hardware.links import Link
from papi_env.hardware.server_tables import load_server_tables
from papi_env.hardware.system import System
from papi_env.hardware.units import LAYERS, ProcessingUnit
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.measures import latencies
from papi_env.simulation.serving.tables import build_serving_tables, with_requests
from papi_env.workload.servers import UNEVEN_CONTEXTS
from papi_env.workload.serving import Serving
from papi_env.workload.transformer import get_transformer

# Host time of an iteration. chosen: 0, since vLLM prepares the next iteration while the GPUs work (asynchronous
# scheduling, its default); range 0-1 ms.
HOST_S = 0.0
# PCIe, as `links.PCIE4`; no figure here counts joules.
_LINK_J_PER_BYTE = 40e-12
STATISTICS: dict[str, Callable[[FloatArray], float]] = {
    "mean": lambda x: float(x.mean()),
    "p50": lambda x: float(np.percentile(x, 50)),
    "p90": lambda x: float(np.percentile(x, 90)),
    "p99": lambda x: float(np.percentile(x, 99)),
}
# Of the replay, whose least time is what it takes: a millisecond each, and machines have other work.
REPEATS = 10


def read_run(folder: Path) -> Run:
    """The run in a folder of either kind.

    Raises:
        ConfigurationError, DataError: a file that is not as expected.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: found no such folder, expected one with {DESCRIPTION}")
    meta = None if (folder / DESCRIPTION).is_file() else meta_path(folder)
    return read_own(folder) if meta is None else read_llmservingsim(folder, meta)


def validate_serving(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Replay the run of a folder both ways.

    Args:
        folder: see `run_folder`; say: told why there is no `measured` part.

    Returns:
        Plain data: `measured`, None without tables, and `datasheet`, as `compared` says.

    Raises:
        ConfigurationError, DataError: a file that is not as expected, or a server that cannot have run so.
    """
    run = read_run(folder)
    said = run.description
    unit = get_gpu(said.gpu, said.gpus)
    measured = None
    if run.tables is None:
        say(f"{folder}: no measured tables, so that 'measured' is null")
    else:
        check_range(run)
        tables = {"kernels": LAYERS, "kernel_file": str(run.tables)}
        measured = compared(run, ProcessingUnit.model_validate({**unit.model_dump(), **tables}))
    return {"measured": measured, "datasheet": compared(run, unit)}


def check_range(run: Run) -> None:
    """Refuse tables that end before the run does.

    Raises:
        DataError: iterations or contexts that are certain to lie beyond.
    """
    assert run.tables is not None
    tables, longest = load_server_tables(run.tables), int(run.requests.lengths.sum(axis=1).max())
    grid, budget = tables.attention, run.description.token_budget
    for name, most, asked, what in (
        ("dense.csv", tables.most_tokens, budget, "token_budget"),
        ("attention.csv", int(grid.prompt[-1]), budget, "token_budget"),
        ("attention.csv", int(grid.context[-1]), longest, "the longest request"),
        ("attention.csv", int(grid.behind[-1]), longest, "the longest request"),
    ):
        if asked > most:
            raise DataError(
                f"{run.tables / name}: found tokens up to {most}, expected up to {asked}, {what} of the run"
            )


def replay_scenario(run: Run, unit: ProcessingUnit) -> Scenario:
    """The server of a run, with `unit` as its GPUs.

    Raises:
        ConfigurationError: it does not hold the model, or the KV tokens.
    """
    said, lengths = run.description, run.requests.lengths
    model = get_transformer(said.model)
    longest = lengths.sum(axis=1)
    for limit, words in (
        (model.context_limit, f"the context of {said.model}"),
        (said.kv_tokens - 2 * said.page_tokens, "kv_tokens"),
    ):
        if longest.max() > limit:
            at_most = int(longest.argmax())
            raise DataError(
                f"{run.requests.path}:{run.requests.lines[at_most]}: found a request of {longest[at_most]} tokens, "
                f"expected at most {limit}, by {words}"
            )
    where = str(run.folder)
    system = {
        "name": f"{said.gpus} {said.gpu}",
        "pu": unit,
        "attention_link": None,
        "fabric": None if said.gpus == 1 or said.link is None else ring(said.link, said.gpus),
    }
    serving = {
        "arrivals": {"process": "together"},
        "lengths": {"input": int(lengths[:, 0].max()), "output": int(lengths[:, 1].max())},
        "beyond_context": "extrapolate",
        # Nobody promised anything.
        "objectives": {"ttft_s": 1e6, "tpot_s": 1e6},
        "requests": len(lengths),
        "max_running": said.max_running,
        "token_budget": said.token_budget,
        "page_tokens": said.page_tokens,
        # vLLM keeps a page for itself, to which unused entries of its tables point.
        "kv_tokens": said.kv_tokens - said.page_tokens,
        "prefix_caching": said.prefix_caching,
        "uneven_contexts": UNEVEN_CONTEXTS,
        "decision_s": HOST_S,
    }
    parts = {
        "system": System.define(system, where),
        "serving": Serving.define(serving, where),
        "model": model,
    }
    return Scenario.define({"name": run.folder.name, **parts}, where)


def ring(link: RunLink, gpus: int) -> Link:
    """A link whose exchange takes a ring all-reduce: 2 (gpus - 1) hops, each with 1 / gpus of the message."""
    hops = 2 * (gpus - 1)
    return Link(
        name="link of the run",
        bandwidth=link.bandwidth,
        latency_s=link.latency_s,
        sync_s=(hops - 2) * link.latency_s,
        exchange_bandwidth=link.bandwidth * gpus / hops,
        j_per_byte=_LINK_J_PER_BYTE,
    )


def compared(run: Run, unit: ProcessingUnit) -> dict[str, Any]:
    """Replay a run on a unit.

    Returns:
        Plain data: `ttft`, `tpot` and `latency`, each with the statistics of `STATISTICS`, and `end`, when the last
        token came; each number is `{"real", "simulated", "ratio"}`, seconds from when the server queued a request, or
        the first one. None where there is none: TPOT is of requests with more than one token. Then `preemptions`,
        `found_tokens` and `recomputed_tokens` of preempted requests, `iterations`, of which `beyond_tables` lie beyond
        what was measured, and `replay_s`, the replay's own seconds once it is compiled.
    """
    scenario, requests = replay_scenario(run, unit), run.requests
    tables = with_requests(build_serving_tables(scenario), requests.queued_s, requests.lengths)
    engine = ServingEngine(scenario, tables=tables, causes=False)
    engine.actions[:] = at.PU, 0, at.ALL, 0
    took = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        engine.reset()
        engine.run()
        took.append(time.perf_counter() - start)
    counters, moments = engine.counters[0], engine.state.moments[0]
    if counters[at.REJECTED]:
        raise ConfigurationError(
            f"{requests.path}: {counters[at.REJECTED]} requests are longer than all KV pages, expected more kv_tokens"
        )
    simulated = latencies(moments, engine.state.facts[0])
    outputs = requests.lengths[:, 1]
    several = outputs > 1
    real = {
        "ttft": requests.first_token_s - requests.queued_s,
        "tpot": (requests.last_token_s - requests.first_token_s)[several] / (outputs[several] - 1),
        "latency": requests.last_token_s - requests.queued_s,
    }
    ours = {
        "ttft": simulated["ttft"],
        "tpot": simulated["tpot"][several],
        "latency": simulated["e2e"],
    }
    return {
        **{
            name: {key: _pair(real[name], ours[name], statistic) for key, statistic in STATISTICS.items()}
            for name in real
        },
        "end": _pair(requests.last_token_s, moments[:, at.FINISH_S], lambda x: float(x.max())),
        "preemptions": int(counters[at.PREEMPTIONS]),
        "found_tokens": int(counters[at.FOUND_TOKENS]),
        "recomputed_tokens": int(counters[at.RECOMPUTED]),
        "iterations": int(counters[at.ITERATION]),
        "beyond_tables": int(counters[at.BEYOND]),
        "replay_s": min(took),
    }


def _pair(
    real: FloatArray, simulated: FloatArray, statistic: Callable[[FloatArray], float]
) -> dict[str, Any]:
    if not len(real):
        return {"real": None, "simulated": None, "ratio": None}
    there, here = statistic(real), statistic(simulated)
    return {"real": there, "simulated": here, "ratio": here / there if there > 0 else None}
