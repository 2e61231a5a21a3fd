"""Serving scenarios with classes from the command line: what is printed, pictures of requests, rows by class."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from experiments.arena.gantt_requests import Bars, bars_between, draw_requests
from experiments.arena.requests import COLUMNS, SERVICE_COLUMNS
from experiments.arena.settings import replay_scenario
from experiments.reporting.registry import sections_of
from experiments.serve import main
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import build_serving_tables
from tests.experiments.commands import called

command = partial(called, main)
POLICIES = ("profile-greedy", "profile-greedy+weight-per-work+late")


@pytest.fixture(scope="module")
def served(classes_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    status, out, err = command(
        *("--preset", classes_file, "--policies", *POLICIES, "--gantt", 0.5, 1.5),
        *("--export", folder / "run" / "requests.csv", "--out", folder / "run"),
    )
    assert status == 0, err
    return folder, out


def test_a_report_shows_latencies_and_every_request(served):
    folder, _ = served
    found = {part.title: part for part in sections_of([folder / "run"])[0].parts}
    requests = pl.read_csv(folder / "run" / "requests.csv")
    first = requests.filter(pl.col("policy") == POLICIES[0])
    waiting = found[f"Requests over time: {POLICIES[0]}"].figure["data"][0]
    assert len(waiting["x"]) == 3 * len(first)
    known = first["ttft_s"].drop_nulls().drop_nans()
    assert found["Distribution of TTFT"].figure["data"][0]["x"] == sorted(known.to_list())


def test_worth_and_classes_are_printed(served):
    folder, out = served
    assert "chat TTFT 0.3 s, TPOT 30 ms; batch TTFT 2 s, TPOT 100 ms" in out
    line = next(line for line in out.splitlines() if line.startswith("G: worth served"))
    shown = [line.split(",")[0].strip() for line in out.splitlines() if ", of all turns (%)" in line]
    assert shown == ["of class chat", "of class batch"]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["classes"] == ["chat", "batch"]
    labels = [column.name for column in sections_of([folder / "run"])[0].parts[0].columns]
    assert {"of class chat, of all turns", "of class batch, of all turns"} < {x.strip() for x in labels}
    assert not any("class 2" in label for label in labels)
    g = pl.read_csv(folder / "run" / "results.csv")["g"].to_list()
    assert [float(cell) for cell in line.split()[-2:]] == pytest.approx([100 * x for x in g], abs=0.006)
    assert (folder / "run" / "gantt.png").read_bytes().startswith(b"\x89PNG")


def test_every_request_has_a_row_with_class_session_and_turn(served):
    folder, _ = served
    rows = pl.read_csv(folder / "run" / "requests.csv")
    assert rows.columns == [*COLUMNS, *SERVICE_COLUMNS]
    results = pl.read_csv(folder / "run" / "results.csv")
    for policy in POLICIES:
        own = rows.filter(pl.col("policy") == policy)
        counts = results.filter(pl.col("policy") == policy).row(0, named=True)
        assert len(own) == counts["arrived"]
        assert set(own["class"]) == {"chat", "batch"}
        assert (own["status"] == "attained").sum() == counts["attained"]
        assert (own["status"] == "dropped").sum() == counts["dropped"]
        assert own.filter(pl.col("class") == "batch")["turn"].max() == 0
        chats = own.filter(pl.col("class") == "chat").sort("session", "turn")
        # Turns come in order, and each prompt goes on from the one before.
        for (_,), talk in chats.partition_by("session", as_dict=True).items():
            assert talk["turn"].to_list() == list(range(len(talk)))
            assert (np.diff(talk["input_tokens"].to_numpy()) > 0).all()
    # Both meet the same sessions.
    first = [
        rows.filter((pl.col("policy") == policy) & (pl.col("turn") == 0))
        .sort("session")["arrival_s"]
        .to_list()
        for policy in POLICIES
    ]
    assert first[0] == first[1]


def test_bars_are_the_requests_of_a_window_by_class(classes_file):
    env = ServingV1VectorEnv(classes_file, num_envs=1, autoreset_mode="Disabled", records=True)
    env.reset(seed=[0])
    done = False
    while not done:
        action = np.zeros((1, len(at.NVEC_V1)), dtype=np.int64)
        action[0, at.ADMISSION], action[0, at.SHEDDING] = at.ALL, at.SHED_LATE
        _, _, terminated, truncated, _ = env.step(action)
        done = bool((terminated | truncated)[0])
    engine = env.engine
    every = bars_between(engine, 0, 0.0, np.inf)
    assert (
        len(every.number)
        == engine.counters[0, at.ARRIVED] - (engine.records(0)["status"] == at.REFUSED).sum()
    )
    assert (np.diff(every.number) >= 0).all()
    some = bars_between(engine, 0, 0.4, 0.6)
    assert 0 < len(some.number) < len(every.number)
    assert (some.arrival_s < 0.6).all()
    assert (some.end_s > 0.4).all()


def test_the_legend_of_requests_shows_classes_as_thick_however_many_there_are():
    count = 600
    late = np.where(np.arange(count) < 2, at.LATE, at.RUNNING).astype(np.int32)
    classes = np.repeat([0, 1], count // 2).astype(np.int32)
    bars = Bars(("a", "b"), classes, late, np.zeros(count), np.full(count, 0.5), np.full(count, 0.9))
    axes = Figure().subplots()
    draw_requests(axes, bars, 0.0, 1.0)
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "waiting, pale", "late"]
    assert [line.get_linewidth() for line in legend.get_lines()[:2]] == [2.0, 2.0]
    assert legend.get_lines()[0].get_color() != legend.get_lines()[1].get_color()


def test_classes_keep_everything_but_their_lengths_where_a_trace_is_replayed(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{k}.0,40,{5 + k % 3}\n" for k in range(30))
    )
    preset = get_scenario("agents/llama-65b")
    replayed = replay_scenario(preset, path)
    for name, entry in replayed.serving.service.classes.items():
        own = preset.serving.service.classes[name]
        assert entry == own.model_copy(update={"lengths": None, "shared_prefix": 0})
        assert entry.conversation == own.conversation  # later turns are not the trace's
    assert replayed.serving.lengths.trace == str(path)
    assert replayed.serving.requests == 30
    # Of lone requests it is then true what a scheduler is told of them.
    lone = replay_scenario(get_scenario("overload/llama-65b"), path)
    assert np.allclose(build_serving_tables(lone).kinds[:, at.MEAN_OUTPUT], 6.0)
