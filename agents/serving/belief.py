"""What a look-ahead may know: copies of a serving engine in which the future is replaced by a guess.

A scheduler knows what has happened: arrivals so far, prompts, tokens generated, what was accepted. It does not
know who comes next, how long outputs will be, which drafts will pass, or how units will drift. `imagine`
makes copies that agree with the truth on the former and are drawn from the offline profile for the latter.
"""

from __future__ import annotations

import numpy as np

from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.drift import drift_factor
from papi_env.simulation.serving.engine import ServingEngine


def imagine(
    engine: ServingEngine, env: int, copies: int, samples: int, acceptance: float, seed: int
) -> ServingEngine:
    """An engine of `copies` x `samples` copies of environment `env`, its future hidden; copy-major order.

    * No request comes after now, and the episode has no horizon.
    * Output lengths of requests that have not finished are drawn from the scenario's population, given that
      they exceed what has been generated.
    * Drafts pass independently with one chance for all requests, on new draws.
    * Units stay as slow as they are now. That they are known exactly makes this privileged.

    Draws depend on `seed` and the iteration alone, so every copy of a sample sees the same guess.

    Args:
        engine: is not changed.
        env: which of its environments.
        copies: of each sample.
        samples: guesses of the future.
        acceptance: the chance that a drafted token is accepted, as the scheduler estimates it.
        seed: of the guesses.
    """
    twin = engine.fork(env, copies * samples)
    state, tables = twin.state, engine.tables
    counters, clocks = state.counters, state.clocks
    rng = np.random.default_rng([seed, int(counters[0, at.ITERATION])])

    scalars, thresholds = tables.scalars.copy(), tables.acceptance.copy()
    scalars[at.HORIZON_S] = np.inf
    scalars[at.DRIFT_PERIOD_S] = np.inf
    for unit in range(at.NUM_DRIFTING):
        key = counters[0, at.SEED], counters[0, at.EPISODE]
        factor = drift_factor(*key, unit, clocks[0, at.TIME_S], tables.scalars)
        scalars[at.DRIFT_LOG + unit] = np.log(factor)
    scalars.flags.writeable = False  # as in all tables: another type would be compiled for anew
    thresholds[-1] = int(acceptance * 2.0**53)
    twin.tables = tables._replace(scalars=scalars, acceptance=thresholds)

    arrived = int(counters[0, at.ARRIVED])
    counters[:, at.REQUESTS] = arrived
    clocks[:, at.NEXT_ARRIVAL_S] = np.inf
    counters[:, at.EPISODE] = 0
    # A key for each sample: of the draws for requests that begin to decode in the look-ahead.
    counters[:, at.SEED] = np.tile(rng.integers(0, 2**62, samples), copies)
    last_class = len(thresholds) - 1
    state.facts[:, :, at.CLASS] = last_class
    state.classes[:] = last_class

    rlp = int(counters[0, at.RLP])
    slots = state.requests.shape[1]
    keys = rng.integers(0, 2**63, (samples, slots), dtype=np.uint64)
    state.keys[:, :slots] = np.tile(keys, (copies, 1))
    # Tokens that each unfinished request has generated: in its slot while it decodes, else in its record.
    generated = state.facts[0, :arrived, at.GENERATED].astype(np.int64)
    decoding = state.requests[0, :rlp]
    generated[decoding] = state.facts[0, decoding, at.OUTPUT] - state.left[0, :rlp]
    unfinished = np.isin(state.facts[0, :arrived, at.STATUS], (at.WAITING, at.RUNNING))
    outputs = longer_than(generated, np.sort(tables.population[:, 1]), rng.random((samples, arrived)))
    # Uniforms of every arrived request are drawn, so that one finishing does not change another's guess.
    drawn = np.where(unfinished, outputs, state.facts[0, :arrived, at.OUTPUT])
    state.facts[:, :arrived, at.OUTPUT] = np.tile(drawn, (copies, 1))
    state.left[:, :rlp] = np.tile(drawn[:, decoding] - generated[decoding], (copies, 1))
    return twin


def longer_than(generated: np.ndarray, outputs: np.ndarray, uniforms: FloatArray) -> np.ndarray:
    """Output lengths [samples, requests] drawn from sorted `outputs`, given that each exceeds `generated`."""
    first = np.searchsorted(outputs, generated, side="right")
    rank = first + (uniforms * (len(outputs) - first)).astype(np.int64)
    # One that is already longer than any known is about to end.
    beyond = first == len(outputs)
    return np.where(beyond, generated + 1, outputs[np.minimum(rank, len(outputs) - 1)])
