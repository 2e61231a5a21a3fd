"""Conversations that a trace's hashes show, played turn by turn."""

import json

import numpy as np
import pytest

from agents.registry import make_policy
from agents.serving.service_bounds import service_bounds
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError, DataError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.instance import serving_instance
from papi_env.workload.arrivals import Arrivals, build_arrivals
from papi_env.workload.traces import read_trace
from papi_env.workload.traces.sessions import MOST_TURNS, turns_of_part
from tests.simulation.serving.service_books import check_books

# Milliseconds, prompt, answer, hashes. Two conversations and a lone request between them; the first one's second turn
# lacks what its answer was, its third has all of the second and its answer.
ROWS = (
    (0, 1100, 30, [1, 2, 3]),
    (500, 700, 20, [50, 51]),
    (1000, 40, 5, [90]),
    (1500, 1120, 25, [1, 2, 4]),
    (2000, 1300, 15, [50, 52, 53]),
    (60_000, 1700, 40, [1, 2, 4, 5]),
)
TALK = {"conversation": {"turns": 2.0, "think_s": 1.0}}


def written(tmp_path, rows=ROWS):
    path = tmp_path / "made-up.jsonl"
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows) + "\n")
    return str(path)


def scenario(path, classes=None, horizon_s=100.0, arrivals=None, **serving):
    return Scenario.model_validate(
        {
            "name": "replayed",
            "system": "papi",
            "model": "llama-3.1-70b",
            "serving": {
                "arrivals": {
                    "process": "trace",
                    "trace": path,
                    "conversations": True,
                    **(arrivals or {"start_s": 0.0}),
                },
                "lengths": {"input": 100, "output": 10},
                "objectives": {"ttft_s": 5.0, "tpot_s": 0.5},
                "horizon_s": horizon_s,
                "service": {"classes": classes or {"people": TALK}},
                **serving,
            },
        }
    )


def played(engine, keeping, seeds=(0,)):
    engine.start(list(seeds))
    engine.actions[:] = 0
    engine.actions[:, at.ADMISSION] = at.ALL
    engine.actions[:, at.KEEPING] = keeping
    for _ in range(10_000):
        if engine.counters[:, at.DONE].all():
            return engine
        engine.step()
        for e in range(engine.num_envs):
            check_books(engine, e)
    raise AssertionError("not over")


def test_turns_of_a_part_are_linked_with_what_they_find(tmp_path):
    turns = turns_of_part(read_trace(written(tmp_path)), 0, len(ROWS))
    assert turns.sessions == 3
    assert turns.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert turns.following.tolist() == [3, 4, -1, 5, -1, -1]
    # 1120 tokens do not hold 1100 and an answer of 30: two blocks are the same. 1300 and 1700 hold all before.
    assert turns.found.tolist() == [0, 0, 0, 1024, 720, 1145]
    assert turns.gap_s.tolist() == [0, 0, 0, 1.5, 1.5, 58.5]


def test_what_goes_on_from_before_a_part_begins_a_conversation_there(tmp_path):
    turns = turns_of_part(read_trace(written(tmp_path)), 1, len(ROWS))
    assert turns.sessions == 3
    assert turns.rows.tolist() == [1, 2, 3, 4, 5]
    assert turns.following.tolist() == [3, -1, 4, -1, -1]


def test_conversations_without_end_are_cut(tmp_path):
    hashes = [list(range(k + 1)) for k in range(MOST_TURNS + 2)]
    rows = [(1000 * k, 512 * (k + 1), 1, ids) for k, ids in enumerate(hashes)]
    turns = turns_of_part(read_trace(written(tmp_path, rows)), 0, len(rows))
    assert turns.sessions == 2
    assert turns.rows[:2].tolist() == [0, MOST_TURNS]


@pytest.mark.parametrize("keeping", [at.KEEP_NONE, at.KEEP_ALL])
def test_turns_come_as_in_the_file_and_find_what_they_share(tmp_path, keeping):
    engine = played(ServingEngine(scenario(written(tmp_path)), 1, records=True), keeping)
    records = engine.records(0)
    assert (records["status"] == at.ATTAINED_STATUS).all()
    assert records["session"].tolist() == [0, 1, 2, 0, 1, 0]
    assert records["turn"].tolist() == [0, 0, 0, 1, 1, 2]
    assert records["input"].tolist() == [row[1] for row in ROWS]
    assert records["output"].tolist() == [row[2] for row in ROWS]
    assert records["arrival_s"] == pytest.approx([row[0] / 1e3 for row in ROWS])
    kept = [0, 0, 0, 1024, 720, 1145] if keeping == at.KEEP_ALL else [0] * 6
    assert records["kept"].tolist() == kept
    # Nobody needs the pages of 1740, 1315 and 45 tokens, of which only the file knows that no turn follows.
    assert engine.counters[0, at.KEPT_PAGES] == (109 + 83 + 3 if keeping == at.KEEP_ALL else 0)
    assert engine.clocks[0, at.OFFERED] == sum(row[2] for row in ROWS)


def test_a_turn_waits_for_the_answer_before_it(tmp_path):
    rows = [(0, 600, 400, [1, 2]), (10, 1100, 5, [1, 3, 4])]
    engine = played(ServingEngine(scenario(written(tmp_path, rows)), 1, records=True), at.KEEP_ALL)
    records = engine.records(0)
    assert records["finish_s"][0] > 0.01
    assert records["arrival_s"][1] == records["finish_s"][0]
    assert records["kept"][1] == 1000


def test_a_conversation_ends_before_a_turn_beyond_the_context(tmp_path):
    """LLaMA-65B has a context of 2048 tokens; the turn after that would be short enough, but is of the same one."""
    rows = [(0, 600, 5, [1, 2]), (10, 2100, 5, [1, 3, 4, 5, 6]), (20, 2200, 5, [1, 3, 4, 5, 7])]
    made = scenario(written(tmp_path, rows)).replace(model="llama-65b")
    engine = played(ServingEngine(made, 1, records=True), at.KEEP_ALL)
    assert engine.records(0)["input"].tolist() == [600]


def test_every_policy_meets_the_instance_and_no_bound_is_beaten(tmp_path):
    rng = np.random.default_rng(0)
    rows, last = [], {}
    for k in range(120):
        who = int(rng.integers(40))
        before, hashes = last.get(who, (0, []))
        tokens = before + int(rng.integers(520, 900))
        hashes = [*hashes[: before // 512], *(1000 * k + i for i in range(tokens // 512 - before // 512 + 1))]
        last[who] = tokens, hashes
        rows.append((40 * k, tokens, int(rng.integers(5, 60)), hashes[: -(-tokens // 512)]))
    made = scenario(
        written(tmp_path, rows),
        {"people": TALK, "agents": TALK | {"weight": 2.0}},
        max_running=6,
        objectives={"ttft_s": 1.0, "tpot_s": 0.05},
        arrivals={"window_s": 3.0},
        horizon_s=3.0,
    )
    engine = played(ServingEngine(made, 3, records=True), at.KEEP_ALL, (0, 1, 2))
    bounds = service_bounds(engine)
    for e in range(3):
        seed, episode = (int(engine.counters[e, column]) for column in (at.SEED, at.EPISODE))
        instance = serving_instance(engine.tables, seed, episode)
        places = {pair: i for i, pair in enumerate(zip(instance.session, instance.turn, strict=True))}
        records = engine.records(e)
        where = [places[pair] for pair in zip(records["session"], records["turn"], strict=True)]
        assert len(set(where)) == len(where) > 20
        for name, values in (("input", instance.prompt), ("output", instance.output)):
            assert (records[name] == values[where]).all()
        by_place = {place: i for i, place in enumerate(where)}
        for i, place in enumerate(where):
            if instance.turn[place] > 0:
                before = by_place[place - 1]
                due = records["arrival_s"][before] + instance.gap_s[place - 1]
                assert records["arrival_s"][i] == max(records["finish_s"][before], due)
            else:
                assert records["arrival_s"][i] == instance.arrival_s[place]
        assert engine.clocks[e, at.OFFERED] == pytest.approx(instance.worth.sum())
        assert engine.clocks[e, at.SERVED] <= bounds["served"][e]
        assert bounds["served"][e] <= bounds["offered"][e] * (1 + 1e-9)
    alone = played(ServingEngine(made, 1, records=True), at.KEEP_ALL, (1,))
    np.testing.assert_array_equal(alone.clocks[0], engine.clocks[1])
    assert max(engine.records(e)["turn"].max() for e in range(3)) > 1
    env = ServingV1VectorEnv(num_envs=1, scenario=made)
    for name in ("slack-aware", "planner-fair-1x12@slack-aware", "planner-star-1x1@slack-aware"):
        policy = make_policy(name)
        policy.bind(env)
        observations, _ = env.reset(seed=0)
        state, start = None, np.ones(1, dtype=np.bool_)
        for _ in range(60):
            actions, state = policy.predict(observations, state, start)
            observations, *_ = env.step(actions)
            start[:] = False


def test_splits_and_scales_are_of_conversations(tmp_path):
    path = written(tmp_path)
    part = Arrivals(
        process="trace", trace=path, conversations=True, split="train", split_at=0.03, time_scale=2.0
    )
    tables = build_arrivals(part, horizon_s=0.5)
    assert tables.rows_s.tolist() == [0.0, 0.25, 0.5]
    turns = part.turns()
    assert turns.following.tolist() == [3, -1, -1, -1]
    assert turns.gap_s.tolist() == [0.0, 0.0, 0.0, 0.75]
    assert "conversations" not in Arrivals(process="trace", trace=path).model_dump()


def test_what_cannot_be_replayed_is_refused(tmp_path):
    path = written(tmp_path)
    for change, message in (
        ({"service": None}, "without service"),
        ({"paired": False}, "paired = false"),
        ({"service": {"classes": {"alone": {}}}}, "service.classes.alone has no conversation"),
        ({"arrivals": {"process": "poisson", "rate_per_s": 1.0, "conversations": True}}, "belongs to trace"),
        ({"arrivals": {"block_tokens": 0}}, "block_tokens"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            scenario(path).replace(serving=change)
    wrong = written(tmp_path, [(0, 1100, 30, [1, 2, 3]), (500, 700, 20, [50, 51, 52])])
    with pytest.raises(DataError, match="request 1: field 'hash_ids': found 3 hashes for a prompt of 700"):
        ServingEngine(scenario(wrong), 1)
    path = written(tmp_path)
    with pytest.raises(DataError, match="one for each block of 256"):
        ServingEngine(scenario(path, arrivals={"start_s": 0.0, "block_tokens": 256}), 1)
    shares = {"people": TALK | {"shared_prefix": 40}}
    with pytest.raises(
        ConfigurationError, match=r"people.shared_prefix is 40, but the trace has a prompt of 40 tokens"
    ):
        ServingEngine(scenario(path, shares), 1)
    bare = tmp_path / "bare.csv"
    bare.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    with pytest.raises(ConfigurationError, match="has no hashes of prompts"):
        ServingEngine(scenario(str(bare)), 1)
