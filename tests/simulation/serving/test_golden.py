"""What the serving engine does with fixed tables stays what it was.

The tables are made up, as in `test_golden`: round numbers by short formulas, nothing of the hardware model. So a
change of these trajectories is a change of the engine. Run this file as a script to write
`tests/data/golden_serving.json` anew, after a change that is meant.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from papi_env.hardware.energy import CAUSES
from papi_env.scenario import parse_scenario
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.batch import state as decode_at
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import ServingTables
from papi_env.workload.arrivals import Arrivals, build_arrivals

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden_serving.json"
NUM_ENVS, SEED = 2, 11
STEPS = (2, 11, 47, 100, 260)
RUNNING, CHUNK, REQUESTS = 12, 64, 30
# fmt: off
COUNTERS = (
    "EPISODE", "DONE", "REQUESTS", "ARRIVED", "HEAD", "RLP", "PREFILLING", "PREFILL_FRONT", "PREFILL_DONE",
    "PREFILL_BACKLOG", "PREFILL_PAGES", "PREEMPTED", "CONTEXT_SUM", "PAGE_SUM", "GROUP_MAX", "ITERATION",
    "FINISHED", "ATTAINED", "REJECTED", "PREEMPTIONS", "INVALID", "TOKENS", "GOOD_TOKENS", "ON_TIME_TOKENS",
    "FINISHED_TOKENS", "DRAFTED", "ACCEPTED", "RECOMPUTED", "PREFILLED", "LAST_FC", "SWITCHES", "PAGES_HIGH",
    "LAST_N", "LAST_DECODED", "LAST_CHUNK", "QUEUED", "SPLIT_ROWS", "STALLS",
)
CLOCKS = (
    "TIME_S", "DYNAMIC_J", "IDLE_S", "OVERLAPPED_S", "COMMUNICATION_S", "SWITCHING_S", "DRAFT_S", "RETURN",
    "LAST_TIME_S", "LAST_FC_S", "LAST_ATTENTION_S", "LAST_DRAFT_S", "LAST_PREFILL_S", "LAST_COMMUNICATION_S",
    "LAST_DYNAMIC_J", "LAST_REWARD_GOODPUT", "LAST_REWARD_ENERGY", "SEEN_ACCEPTED", "HEAD_ARRIVAL_S",
    "SLACK_MEAN_S", "SLACK_MIN_S", "BEHIND", "LOST", "PAGES_USED_TIME", "LAST_START_S",
)
# Rows of clocks that stand side by side: the first, and how many.
ROWS = {"BUSY_S": 5, "LAST_BUSY_S": 5, "SEEN_DRIFT": 3, "SEEN_TOKENS": 4}
SCALARS = {
    "ENERGY_WEIGHT": 1e-2, "REFERENCE_TOKENS": 10, "STATIC_W": 100, "SWITCH_S": 1e-6, "SWITCHES_PER_SPLIT": 8,
    "LAYERS": 4, "ALPHA": 24, "CONTEXT_LIMIT": 2048, "MAX_RUNNING": RUNNING, "TOTAL_PAGES": 1 << 20,
    "WATERMARK_PAGES": 1, "CHUNK": CHUNK, "TTFT_S": 0.04, "TPOT_S": 1e-3, "HORIZON_S": np.inf, "OVERHEAD_S": 1e-5,
    "GROUP_COLUMNS": 3, "PREFILL_ON": 1, "PREFILL_UNIT": at.PU, "ATTENTION_UNIT": 2, "KV_LINK_S_PER_TOKEN": 1e-6,
    "KV_LINK_J_PER_TOKEN": 0.01, "PREFILL_PAIR_COMPUTE_S": 2e-8, "PREFILL_TOKEN_MEMORY_S": 1e-6,
    "PREFILL_PAIR_J": 1e-4, "PREFILL_TOKEN_J": 0.02, "DRAFT_CONTEXT_S": 1e-8, "DRAFT_CONTEXT_J": 1e-4,
    "REFERENCE_S": 1e-3, "ONLY_UNIT": -1, "PAGE_LOG2": 4,
}
PROMPTS_ON_PIM = {
    "PREFILL_UNIT": at.FC_PIM, "PREFILL_PAIR_COMPUTE_S": 0, "PREFILL_TOKEN_MEMORY_S": 0, "PREFILL_PAIR_S": 3e-8,
    "PREFILL_TOKEN_S": 2e-6, "PREFILL_TOKEN_J": 0, "PREFILL_ROW_J": 0.03,
}
POISSON = {"process": "poisson", "rate_per_s": 400.0}
BURSTS = {"process": "gamma", "rate_per_s": 150.0, "shape": 0.25}
TOGETHER = {"process": "together"}
# What differs: scalars by name, arrivals, choices that stay (FC, speculation, admission, overlap), the engine's
# arguments.
CASES = {
    "by requests, drawn acceptance": ({}, POISSON, {}, {"autoreset": batch.NEXT_STEP}),
    "by time": (
        {"HORIZON_S": 0.04, "REWARD_ON_TIME": 1}, BURSTS, {}, {"autoreset": batch.SAME_STEP},
    ),
    "drift": (
        {"DRIFT_PERIOD_S": 0.01, "DRIFT_LOG": np.log([2.0, 1.5, 3.0]), "DECISION_S": 1e-4}, POISSON, {},
        {"autoreset": batch.NEXT_STEP},
    ),
    "few pages": ({"TOTAL_PAGES": 60}, TOGETHER, {"ADMISSION": at.ALL}, {"autoreset": batch.NEXT_STEP}),
    "split": ({}, POISSON, {"FC": at.SPLIT}, {"autoreset": batch.NEXT_STEP}),
    "overlap": ({"SWITCH_S": 0}, POISSON, {"OVERLAP": 1}, {"autoreset": batch.NEXT_STEP}),
    "dual row buffers": (
        {"DUAL_BUFFERS": 1}, POISSON, {"ADMISSION": at.ALL}, {"autoreset": batch.NEXT_STEP},
    ),
    "prompts beside FC-PIM": (
        {"SWITCH_S": 2e-5}, POISSON, {"FC": at.FC_PIM, "OVERLAP": 0}, {"autoreset": batch.NEXT_STEP},
    ),
    "PIM alone": (
        {"ONLY_UNIT": at.FC_PIM, "SWITCH_S": 0, **PROMPTS_ON_PIM}, POISSON, {}, {"autoreset": batch.SAME_STEP},
    ),
    "attention on the PUs": ({"ATTENTION_UNIT": 0}, POISSON, {}, {"autoreset": batch.NEXT_STEP}),
    "attention on FC-PIM": (
        {"ATTENTION_UNIT": 1, **PROMPTS_ON_PIM}, TOGETHER, {}, {"autoreset": batch.NEXT_STEP},
    ),
    "slow link": ({"KV_LINK_S_PER_TOKEN": 5e-5}, POISSON, {}, {"autoreset": batch.NEXT_STEP}),
    "prompts processed, cut short": (
        {"PREFILL_ON": 0, "TOTAL_PAGES": 45}, TOGETHER, {"ADMISSION": at.ALL},
        {"autoreset": batch.SAME_STEP, "max_steps": 80},
    ),
}
# fmt: on


def counter(engine, name):
    """A counter of all environments by its name."""
    return engine.counters[:, getattr(at, name)]


def clock(engine, name):
    """A clock of all environments by its name, or the row of clocks that begins there."""
    first = getattr(at, name)
    return engine.clocks[:, first : first + ROWS[name]] if name in ROWS else engine.clocks[:, first]


def made_up_tables(scalars, arrivals):
    """`ServingTables` by formulas that a reader can check; FC-PIM is cheaper below 36 rows."""
    rows = RUNNING * 8 + CHUNK + 1
    n = np.arange(rows)
    some = n > 0
    fc_s = np.stack([some * (1e-4 + 1e-5 * n), 5e-5 * -(-n // 4)])
    fc_j = np.stack([some * (2.0 + 0.25 * n), 0.5 * n])
    t, c = np.ogrid[:9, : decode_at.NUM_ATTENTION]
    attention = 1e-6 * (1 + 0.125 * t) * (1 + c)
    attention[:, decode_at.PER_TOKEN_S] = 3e-7
    attention[:, decode_at.PER_TOKEN_J] = 1e-3
    r = np.arange(RUNNING + 1)
    rounds, unpaired = -(-r // 4), np.where(r % 2, 1 / np.maximum(r, 1), 0.0)
    shares = np.stack([rounds, 0 * r + rounds[1], rounds, unpaired], axis=-1)
    numbers = np.zeros(at.NUM_SCALARS)
    for name, value in {**SCALARS, **scalars}.items():
        first = getattr(at, name)
        numbers[first : first + np.size(value)] = value
    i = np.arange(50)
    by_time = np.isfinite(numbers[at.HORIZON_S])
    return ServingTables(
        fc_s=fc_s,
        fc_j=fc_j,
        bank_s=some * (4e-5 + 1e-7 * n),
        attention=np.repeat(attention[None], RUNNING + 1, axis=0),
        shares=np.repeat(shares[:, None], 9, axis=1),
        link=np.stack([2e-6 * n, 0.125 * n], axis=-1),
        moves=np.stack([2e-7 * n, 0.125 * n, 1e-7 * n, 0.0625 * n], axis=-1),
        draft=np.stack([(r > 0) * (2e-5 + 1e-6 * r), 0.25 * r], axis=-1),
        fc_causes=np.zeros((2, rows, at.NUM_CAUSES)),
        attention_causes=np.zeros((RUNNING + 1, 9, at.NUM_CAUSES)),
        draft_causes=np.zeros((RUNNING + 1, at.NUM_CAUSES)),
        term_causes=np.zeros((at.NUM_TERMS, at.NUM_CAUSES)),
        acceptance=np.array(
            [[int(p * 2.0**53)] * 7 for p in (0.6, 0.9, 0.0)],
            dtype=np.uint64,
        ),
        class_shares=np.array([0.5, 1.0]),
        population=np.stack([5 + 37 * i % 300, 3 + 29 * i % 60], axis=-1).astype(np.int32),
        trace_lengths=np.zeros((0, 2), dtype=np.int32),
        trace_refused=np.zeros(0, dtype=np.bool_),
        arrivals=build_arrivals(
            Arrivals(**arrivals),
            None if by_time else REQUESTS,
            float(numbers[at.HORIZON_S]) if by_time else None,
        ),
        scalars=numbers,
        descriptors=np.zeros(len(at.DESCRIPTOR_NAMES), dtype=np.float32),
    )


def started(case, num_envs=NUM_ENVS, **more):
    """An engine over the tables of a case; of the scenario it takes only how many requests may run."""
    scalars, arrivals, _, arguments = CASES[case]
    scenario = parse_scenario(
        {
            "name": "made up",
            "system": "papi",
            "model": "llama-65b",
            "serving": {
                "arrivals": TOGETHER,
                "lengths": {"input": 10, "output": 10},
                "objectives": {"ttft_s": 1.0, "tpot_s": 1.0},
                "requests": REQUESTS,
                "max_running": RUNNING,
            },
        },
        "test",
    )
    engine = ServingEngine(
        scenario, num_envs, tables=made_up_tables(scalars, arrivals), **{**arguments, **more}
    )
    counter(engine, "SEED")[:] = SEED + np.arange(num_envs)
    engine.reset()
    return engine


def act(engine, case, step):
    """Every option in turn, in another order for each environment and choice, but for choices that stay."""
    envs, columns = np.ogrid[: engine.num_envs, : len(at.NVEC)]
    engine.actions[:] = (step * 7 + step // 5 + 3 * envs + 2 * columns + step // 3 * columns) % at.NVEC
    for name, option in CASES[case][2].items():
        engine.actions[:, getattr(at, name)] = option


def seen(engine):
    """Named counters and clocks of all environments, and the rewards."""
    return {
        "counters": {name: counter(engine, name).tolist() for name in COUNTERS},
        "clocks": {name: clock(engine, name).tolist() for name in (*CLOCKS, *ROWS)},
        "rewards": engine.rewards.tolist(),
    }


def played(case):
    """What is seen before some of the steps, of every step what the effects need, and the requests at the end."""
    engine = started(case)
    found, ended, divided, beside = [], 0, 0, 0
    most = dict.fromkeys(("SPLIT_ROWS", "RLP", "PREFILLING", "PREEMPTED"), 0)
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            found.append({"step": step, **seen(engine)})
        act(engine, case, step)
        engine.step()
        ended += int((engine.terminated | engine.truncated).sum())
        rows, verified = counter(engine, "SPLIT_ROWS"), counter(engine, "LAST_N")
        divided += int(((rows > 0) & (rows < verified)).sum())
        on_pus, on_pim = clock(engine, "LAST_BUSY_S")[:, [at.BUSY_PU, at.BUSY_FC_PIM]].T
        beside += int(((on_pus > 0) & (on_pim > 0) & (counter(engine, "LAST_CHUNK") > 0)).sum())
        most = {name: max(value, int(counter(engine, name).max())) for name, value in most.items()}
    records = [engine.records(e) for e in range(engine.num_envs)]
    return {
        "seen": found,
        "most": most,
        "ended": ended,
        "divided": divided,
        "beside": beside,
        "requests": [
            {name: [None if np.isnan(x) else x for x in values.tolist()] for name, values in record.items()}
            for record in records
        ],
    }


def first_end(case):
    """Metrics of the first episodes that end and restart in one step."""
    engine = started(case)
    for step in range(max(STEPS) + 1):
        act(engine, case, step)
        engine.step()
        over = np.flatnonzero(engine.terminated | engine.truncated)
        if len(over):
            break
    final = engine.measured(engine.final)
    return {
        name: [None if np.isnan(x) else x for x in values[over].tolist()] for name, values in final.items()
    }


def steps_of(record):
    """The record of a case with each step by itself: names are written once."""
    return [
        {
            "step": step,
            **{
                kind: {name: values[k] for name, values in record[kind].items()}
                for kind in ("counters", "clocks")
            },
            "rewards": record["rewards"][k],
        }
        for k, step in enumerate(STEPS)
    ]


def packed(found):
    """What `steps_of` reads."""
    steps = found.pop("seen")
    return {
        **{
            kind: {name: [step[kind][name] for step in steps] for name in steps[0][kind]}
            for kind in ("counters", "clocks")
        },
        "rewards": [step["rewards"] for step in steps],
        **found,
    }


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("case", CASES)
def test_trajectories_are_those_on_record(case, golden):
    then = golden[case]
    now = played(case)
    for here, there in zip(now["seen"], steps_of(then), strict=True):
        assert here["step"] == there["step"]
        assert here["counters"] == there["counters"]
        assert list(here["clocks"]) == list(there["clocks"])
        for name, values in there["clocks"].items():
            np.testing.assert_allclose(here["clocks"][name], values, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(here["rewards"], there["rewards"], rtol=1e-12)
    for name in ("most", "ended", "divided", "beside"):
        assert now[name] == then[name], name
    for here, there in zip(now["requests"], then["requests"], strict=True):
        assert list(here) == list(there)
        for name, values in there.items():
            if name.endswith("_s"):
                ours, theirs = (np.array(column, dtype=float) for column in (here[name], values))
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=name)
            else:
                assert here[name] == values, name


def test_the_record_meets_every_effect(golden):
    def counts(case, name):
        return np.array(golden[case]["counters"][name])

    def clocks(case, name):
        return np.array(golden[case]["clocks"][name])

    for case in CASES:
        assert golden[case]["ended"] > 0, case
        assert golden[case]["most"]["RLP"] > 1, case
        assert counts(case, "DRAFTED").max() > counts(case, "ACCEPTED").max() > 0, case
        assert 0 < counts(case, "ATTAINED").max() <= counts(case, "FINISHED").max(), case
    assert (clocks("drift", "SEEN_DRIFT") > 1).any(axis=(0, 1)).all()
    assert (clocks("split", "SEEN_DRIFT") == 1).all()
    assert counts("few pages", "PREEMPTIONS").max() > 0
    assert counts("few pages", "RECOMPUTED").max() > 0
    assert counts("prompts processed, cut short", "PREEMPTIONS").max() > 0
    assert counts("prompts processed, cut short", "PREFILLED").max() == 0
    # Some rows of a split are on FC-PIM, and some are not.
    assert golden["split"]["divided"] > 0
    assert golden["dual row buffers"]["divided"] > 0
    assert counts("split", "SWITCHES").max() > 0
    assert clocks("overlap", "OVERLAPPED_S").max() > 0
    assert clocks("overlap", "SWITCHING_S").max() == 0
    # PUs and FC-PIM are busy in one iteration, the one with a prompt.
    assert golden["prompts beside FC-PIM"]["beside"] > 0
    assert clocks("prompts beside FC-PIM", "SWITCHING_S").max() > 0
    assert counts("dual row buffers", "SWITCHES").max() == 0
    assert clocks("dual row buffers", "OVERLAPPED_S").max() > 0
    assert clocks("PIM alone", "BUSY_S")[..., at.BUSY_PU].max() == 0
    assert counts("PIM alone", "INVALID").max() > 0
    for case in ("attention on the PUs", "attention on FC-PIM"):
        assert clocks(case, "BUSY_S")[..., at.BUSY_ATTN].max() == 0
        assert clocks(case, "LAST_ATTENTION_S").max() > 0
    # Some iterations last as long as keys and values are on the link, some do not.
    for least, bound in (("slow link", True), ("split", False)):
        waits = clocks(least, "LAST_BUSY_S")[..., at.BUSY_LINK] + clocks(least, "LAST_DRAFT_S")
        waits += SCALARS["OVERHEAD_S"]
        assert np.isclose(waits, clocks(least, "LAST_TIME_S"), rtol=1e-12).any() == bound
    assert clocks("by time", "IDLE_S").max() > 0
    # Something finished late, or too long after it came.
    assert any(clocks(case, "LOST").max() > 0 for case in CASES)
    assert any(clocks(case, "BEHIND").max() > 0 for case in CASES)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3]["autoreset"] == batch.SAME_STEP])
def test_the_last_state_of_an_episode_outlives_its_restart(case, golden):
    now, then = first_end(case), golden[case]["final"]
    # Made-up tables have no causes of energy, which the record is without.
    causes = {f"{cause}_j" for cause in (*CAUSES, "idle")}
    assert [name for name in now if name not in causes] == list(then)
    for name, values in then.items():
        ours, theirs = (np.array(column, dtype=float) for column in (now[name], values))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=name)


if __name__ == "__main__":
    rows = []
    for case, (*_, arguments) in CASES.items():
        record = packed(played(case))
        if arguments["autoreset"] == batch.SAME_STEP:
            record["final"] = first_end(case)
        rows.append(f'"{case}": {json.dumps(record, separators=(",", ":"))}')
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")
