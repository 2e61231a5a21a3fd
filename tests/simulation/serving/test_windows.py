"""Sliding windows under continuous batching: attention is the mean over layers with windows and those without."""

import numpy as np
import pytest

from papi_env.scenario import parse_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.parts import outside_windows
from papi_env.simulation.serving.requests import survey_windows
from papi_env.simulation.serving.tables import build_serving_tables, framed
from papi_env.simulation.serving.terms import Decoding, Placement, PromptChunk, Slowdowns
from papi_env.workload.transformer import get_transformer

LAYERS = get_transformer("llama-3.1-8b").layers


def scenario(windows, system="papi", **changes):
    model = {"base": "llama-3.1-8b"} | ({} if windows is None else {"windows": windows})
    given = {
        "name": "test",
        "system": system,
        "model": model,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 60.0},
            "lengths": {"input": 900, "output": 20},
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.1},
            "requests": 10,
            "max_running": 8,
            **changes,
        },
    }
    return parse_scenario(given, "test")


def decoding_of(contexts, tlp, scalars):
    attended = np.array(contexts) + tlp
    groups, columns = -(-attended // 16), int(scalars[at.GROUP_COLUMNS])
    rows = -(-groups * columns // 32)
    sums = [attended.sum(), groups.sum(), groups.max(), rows.sum(), rows.max()]
    near = survey_windows(np.array(contexts, dtype=np.int32), tlp, scalars)
    return Decoding(len(contexts), tlp, *(int(x) for x in sums), *near)


def cost(tables, contexts, tlp=1):
    """Seconds of decode attention, and joules of decoding but those of drafts, whose model has no windows."""
    look, busy = framed(tables), np.zeros(at.NUM_RESOURCES)
    chunk = PromptChunk(0, 0, 0, 0, 0)
    decoding = decoding_of(contexts, tlp, tables.scalars)
    drafting_j = (tlp - 1) * tables.scalars[at.DRAFT_CONTEXT_J] * decoding.context_sum
    found = iteration(
        decoding,
        chunk,
        Placement(0, 0, 0),
        Slowdowns(1.0, 1.0, 1.0),
        look,
        busy,
    )
    return found.attention_s, found.joules - drafting_j


@pytest.mark.parametrize("system", ["papi", "a100"])
@pytest.mark.parametrize("tlp", [1, 4])
def test_attention_is_the_mean_over_layers_of_either_kind(system, tlp):
    contexts, window, windowed = [90, 1500, 400], 256, 24
    given = scenario({"tokens": window, "layers": windowed}, system)
    plain = build_serving_tables(scenario(None, system))
    whole_s, whole_j = cost(plain, contexts, tlp)
    # Tokens verified together share a read of all that one of them sees: window - 1 before the first, and themselves.
    near_s, near_j = cost(plain, [min(context, window - 1) for context in contexts], tlp)
    found_s, found_j = cost(build_serving_tables(given), contexts, tlp)
    share = windowed / LAYERS
    assert found_s == pytest.approx((1 - share) * whole_s + share * near_s, rel=1e-12)
    assert found_j == pytest.approx((1 - share) * whole_j + share * near_j, rel=1e-12)
    assert near_s < whole_s


@pytest.mark.parametrize(("done", "upto"), [(0, 10), (0, 300), (250, 700), (700, 900), (255, 257)])
def test_prompts_do_not_meet_what_has_left_their_window(done, upto):
    window = 256
    tables = build_serving_tables(scenario({"tokens": window}))
    pairs, far = outside_windows(done, upto, tables.scalars)
    met = [range(max(query - window + 1, 0), query + 1) for query in range(done, upto)]
    assert (upto * (upto + 1) - done * (done + 1)) // 2 - pairs == sum(len(keys) for keys in met)
    assert upto - far == len(set().union(*met))


@pytest.mark.parametrize("changes", [{}, {"token_budget": 512}])
def test_windows_longer_than_any_context_change_nothing(changes):
    runs = []
    for windows in (None, {"tokens": 1 << 20}):
        engine = ServingEngine(scenario(windows, "a100", **changes))
        engine.start([3])
        engine.run()
        runs.append(engine.metrics())
    assert runs[0]["finished"] == 10
    for name, values in runs[0].items():
        np.testing.assert_allclose(runs[1][name], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("system", ["papi", "a100"])
def test_shorter_windows_take_less_and_joules_add_up(system):
    times = []
    for tokens in (64, 256, 700):
        engine = ServingEngine(scenario({"tokens": tokens, "full_every": 4}, system), 2)
        engine.start([1, 2])
        engine.run()
        metrics = engine.metrics()
        by_cause = engine.clocks[:, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].sum(axis=1)
        np.testing.assert_allclose(by_cause, metrics["dynamic_j"], rtol=1e-12)
        times.append(metrics["dynamic_j"])
        # Pages are of whole contexts, so their number does not depend on the window.
        assert (
            engine.tables.scalars[at.TOTAL_PAGES]
            == build_serving_tables(scenario(None, system)).scalars[at.TOTAL_PAGES]
        )
    assert (np.diff(times, axis=0) > 0).all()
