"""Serving and replaying from the command line: counts, windows, pictures, trace events, and refusals."""

import json
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.arena.gantt import Recorder, check_window, gantt_figure, trace_events
from experiments.arena.measures import ENERGY_CAUSES
from experiments.arena.play import play
from experiments.arena.requests import COLUMNS
from experiments.arena.settings import replay_scenario
from experiments.serve import Config, main, resolve
from experiments.splitting.definition import SERVING
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.workload.traces import read_trace
from tests.experiments.commands import called

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
# Some decode, one wants more than the context of LLaMA-65B, one comes alone after a hole.
ROWS = [(0.0, 100, 10), (0.5, 2000, 49), (0.5, 700, 5), (1.5, 30, 1), (20.0, 512, 30)]


command = partial(called, main)


def trace_of(path, rows):
    path.write_text(HEADER + "".join(f"{t:.7f},{i},{o}\n" for t, i, o in rows))
    return path


@pytest.fixture(scope="module")
def tiny(serving_file):
    return serving_file(
        horizon_s=None,
        requests=24,
        arrivals={"process": "poisson", "rate_per_s": 8.0},
        lengths={"input": 300, "output": 20},
        objectives={"ttft_s": 1.0, "tpot_s": 0.05},
    )


@pytest.fixture
def trace(tmp_path):
    return trace_of(tmp_path / "trace.csv", ROWS)


@pytest.fixture(scope="module")
def served(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "run"
    status, out, err = command(
        *("--preset", tiny, "--policies", "threshold", "oracle", "--seeds", 2),
        *("--gantt", 0.5, 1.5, "--trace-json", "--out", folder),
    )
    assert status == 0, err
    return folder, out


# --- the command ------------------------------------------------------------------------------------


def test_the_folder_holds_what_ran_and_what_came_out(served):
    folder, out = served
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "jobs.json", "results.csv", "summary.json", "gantt.png", "trace.json"}
    assert (folder / "gantt.png").read_bytes().startswith(b"\x89PNG")
    session = json.loads((folder / "run.json").read_text())["sessions"][0]
    assert session["status"] == "finished"
    assert set(session["replay_wall_s"]) == {"threshold", "oracle*"}
    assert "goodput (tokens/s)" in out
    assert "* privileged" in out
    labels = [f"{cause} (% of joules)" for cause in ENERGY_CAUSES]
    shares = [line.split() for line in out.splitlines() if line.strip().startswith(tuple(labels))]
    assert [" ".join(cells[:4]) for cells in shares] == labels
    for column in (4, 5):
        assert sum(float(cells[column]) for cells in shares) == pytest.approx(100, abs=0.4)
    assert "wall time of the replay" in out


def test_the_rows_are_those_of_the_environment(served, tiny):
    folder, _ = served
    rows = pl.read_csv(folder / "results.csv").filter(pl.col("policy") == "threshold")
    env = ServingVectorEnv(tiny, num_envs=2, autoreset_mode="Disabled")
    metrics = evaluate(make_policy("threshold"), env, [0, 1])
    assert rows["seed"].to_list() == [0, 1]
    for name in ("goodput", "ttft_p99_s", "j_per_token", "iterations", "return"):
        assert rows[name].to_list() == pytest.approx(metrics[name].tolist(), rel=1e-12)
    means = json.loads((folder / "summary.json").read_text())["policies"]["threshold"]
    assert means["goodput"] == pytest.approx(metrics["goodput"].mean(), rel=1e-12)


def test_a_preset_moves_to_another_model():
    scenario = resolve(Config(scenarios=("light/llama-65b",), model="gpt3-175b"))
    assert scenario == get_scenario("light/gpt3-175b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--preset", "saturate/llama-65b"],
            "Unknown scenario 'saturate/llama-65b'. Did you mean 'saturated/",
        ),
        (["--preset", "general-qa/llama-65b"], "has no serving part; expected one such as"),
        (["--model", "llama-66b"], "Unknown scenario 'saturated/llama-66b'"),
        (["--policies", "treshold"], "Unknown policy 'treshold'. Did you mean 'threshold'"),
        (["--scenarios", "light"], "are several, expected one"),
        (["--entries", "bound"], "a bound serves no requests"),
        (["--seeds", "0"], "expected a first seed from 0 and at least one"),
        (["--window", "5"], "belong to --trace, which is not given"),
        (["--gantt", "5", "5"], "window from 5 s to 5 s, expected a start from 0 and a later end"),
        (["--trace", "absent.csv"], "absent.csv: found No such file or directory, expected a CSV file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments, message, tmp_path):
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_model_belongs_to_a_preset(tiny):
    with pytest.raises(ConfigurationError, match="--model belongs to a preset such as"):
        resolve(Config(scenarios=(str(tiny),), model="llama-65b"))


# --- traces -----------------------------------------------------------------------------------------


def test_every_request_of_a_trace_is_served_or_counted_with_its_reason(trace, tmp_path):
    status, out, err = command("--trace", trace, "--policies", "threshold", "--out", tmp_path / "run")
    assert status == 0, err
    row = pl.read_csv(tmp_path / "run" / "results.csv").row(0, named=True)
    counts = [row[name] for name in ("arrived", "finished", "rejected_context", "rejected_kv", "unfinished")]
    assert counts == [5, 4, 1, 0, 0]
    assert row["tokens"] == 10 + 5 + 1 + 30
    assert row["time_s"] > 20
    line = next(line for line in out.splitlines() if "rejected: beyond the context" in line)
    assert line.split()[-1] == "1.0"


def test_a_request_that_no_memory_holds_is_rejected_for_it(tmp_path):
    # Kept although beyond the context, but longer than all KV pages of one stack.
    scenario = get_scenario("light/llama-65b").replace(serving={"beyond_context": "extrapolate"})
    small = scenario.system.attn_pim.model_copy(update={"stacks": 1})
    scenario = scenario.replace(
        system=scenario.system.model_copy(update={"attn_pim": small, "name": "small"})
    )
    path = trace_of(tmp_path / "long.csv", [(0, 10, 5), (0.1, 50_000, 5), (0.2, 3000, 5)])
    metrics = play(SERVING, replay_scenario(scenario, path), "threshold", [0])
    assert [int(metrics[name][0]) for name in ("finished", "rejected_context", "rejected_kv")] == [2, 0, 1]


def test_turns_that_hashes_show_are_of_one_session_and_memory_is_what_there_is(tmp_path):
    """Classes of the preset share prefixes that are longer than these prompts, which have none of it."""
    path = tmp_path / "turns.jsonl"
    rows = [(0, 600, 20, [1, 2]), (100, 40, 5, [9]), (3000, 1100, 10, [1, 3, 4])]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows) + "\n")
    given = ("--preset", "agents/llama-3.1-70b", "--trace", path, "--policies", "slack-aware")
    found = {}
    for how, more in (("alone", ()), ("turns", ("--conversations",))):
        status, _, err = command(*given, *more, "--out", tmp_path / how)
        assert status == 0, err
        found[how] = pl.read_csv(tmp_path / how / "results.csv").row(0, named=True)
    assert [found[how]["sessions"] for how in ("alone", "turns")] == [3, 2]
    assert found["turns"]["finished"] == 3
    assert 0 < found["alone"]["kv_mean"] < 1
    assert 0 < found["turns"]["kv_mean"] < 1
    status, _, err = command("--preset", "overload/llama-65b", "--trace", path, "--conversations")
    assert status == 2
    assert "service.classes.interactive has no conversation" in err
    status, _, err = command("--preset", "agents/llama-3.1-70b", "--conversations")
    assert status == 2
    assert "--conversations belongs to --trace" in err


def test_a_window_takes_the_requests_in_it_at_the_speed_asked_for(trace):
    scenario = get_scenario("light/llama-65b")
    metrics = play(SERVING, replay_scenario(scenario, trace, window_s=2.0, start_s=0.0), "threshold", [0])
    assert int(metrics["arrived"][0]) == 4
    # From 0.2 s on after a scaling by 2.5: the four requests that came from 0.5 s on.
    env = ServingVectorEnv(replay_scenario(scenario, trace, 2.5, 0.2), autoreset_mode="Disabled")
    evaluate(make_policy("threshold"), env, [0])
    arrivals = env.engine.records(0)["arrival_s"]
    np.testing.assert_allclose(arrivals, [0.0, 0.0, 0.4, 7.8], atol=1e-9)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "2.0,10,5\n1.0,10,5\n",
            "bad.csv:3: field 'TIMESTAMP': found '1.0', expected no time earlier than 2.0",
        ),
        (
            "1.0,0,5\n",
            "bad.csv:2: field 'ContextTokens': found '0', expected a whole number of tokens from 1",
        ),
        ("1.0,5,0\n", "bad.csv:2: field 'GeneratedTokens': found '0', expected a whole number of tokens"),
        ("yesterday,5,5\n", "bad.csv:2: field 'TIMESTAMP': found 'yesterday', expected a time such as"),
        ("1.0,5\n", "bad.csv:2: field 'GeneratedTokens': found 2 fields, expected 3"),
        ("1.0,5000,5\n", "none of 1 requests fits a context of 2048 tokens"),
        ("", "found a header and no rows, expected at least one request"),
    ],
)
def test_a_bad_trace_is_refused_with_file_line_and_reason(rows, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + rows)
    status, out, err = command("--trace", path, "--policies", "threshold", "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_window_that_the_trace_does_not_have_is_refused(trace, tmp_path):
    folder = tmp_path / "run"
    status, _, err = command("--trace", trace, "--window", 100, "--policies", "threshold", "--out", folder)
    assert status == 2
    assert not folder.exists()
    assert "lasts 20 s, expected at least 100 s" in " ".join(err.split())


# --- recordings -------------------------------------------------------------------------------------


def watched(scenario, recorder, seeds=(0,), name="threshold"):
    return play(SERVING, get_scenario(scenario), name, seeds, recorder)


def test_a_recorder_keeps_the_iterations_that_touch_its_window(tiny):
    whole, part = Recorder("whole"), Recorder("part", 0.5, 1.0)
    watched(tiny, whole)
    watched(tiny, part)
    inside = [k for k, (start, end) in enumerate(whole.spans) if start < 1.0 and end > 0.5]
    assert 3 < len(inside) < len(whole.spans)
    assert part.spans == [whole.spans[k] for k in inside]
    assert part.choices == [whole.choices[k] for k in inside]
    assert part.timeline.iterations == [whole.timeline.iterations[k] for k in inside]
    assert len(whole.spans) == len(whole.choices) == len(whole.timeline.iterations)
    # The level at the window's start is the last one from before.
    assert part.levels[0].time_s <= 0.5 < part.levels[1].time_s


def test_a_recorder_sees_the_first_seed_whoever_plays_beside_it(tiny):
    alone, beside = Recorder("a"), Recorder("b")
    watched(tiny, alone, (3,))
    watched(tiny, beside, (3, 4, 5))
    assert alone.spans == beside.spans
    assert alone.levels == beside.levels


def test_levels_and_bars_add_up_to_the_metrics(tiny):
    recorder = Recorder("whole")
    metrics = watched(tiny, recorder)
    last = recorder.levels[-1]
    assert (last.queued, last.decoding, last.prefilling, last.pages) == (0, 0, 0, 0)
    assert max(level.pages for level in recorder.levels) <= recorder.total_pages
    for lane, name in (("pu", "pu"), ("fc-pim", "fc-pim"), ("attn-pim", "attn-pim"), ("link", "link")):
        seconds = sum(
            segment.duration_s
            for iteration in recorder.timeline.iterations
            for segment in iteration.segments
            if segment.lane == lane
        )
        assert seconds == pytest.approx(metrics[f"utilisation_{name}"][0] * metrics["time_s"][0], rel=1e-9)


def test_an_empty_window_is_refused(tiny, tmp_path):
    recorder = Recorder("late", 1e4, 2e4)
    watched(tiny, recorder)
    with pytest.raises(
        ConfigurationError, match=r"late: no iteration from 10000 s to 20000 s; the last level"
    ):
        check_window(recorder)
    folder = tmp_path / "run"
    status, _, err = command("--preset", tiny, "--gantt", 1e4, 2e4, "--policies", "random", "--out", folder)
    assert status == 2
    assert "no iteration from" in err


def check_trace_events(document):
    """What a viewer of the Trace Event Format relies on."""
    assert set(document) >= {"traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    by_thread = {}
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "C", "M")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert event["ts"] >= 0
        assert isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert event["dur"] > 0
            by_thread.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["dur"]))
        if event["ph"] == "C":
            assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
    named = {
        (event["pid"], event["tid"])
        for event in document["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    assert set(by_thread) <= named
    for bars in by_thread.values():
        # Bars of a thread must nest or follow one another; these follow.
        bars.sort()
        assert all(a + da <= b + 1e-3 for (a, da), (b, _) in pairwise(bars))
    return by_thread


def test_trace_events_are_what_viewers_open(served):
    folder, _ = served
    document = json.loads((folder / "trace.json").read_text())
    by_thread = check_trace_events(document)
    assert {pid for pid, _ in by_thread} == {1, 2}
    names = {
        event["pid"]: event["args"]["name"]
        for event in document["traceEvents"]
        if event["name"] == "process_name"
    }
    assert names == {1: "papi/threshold", 2: "papi/oracle*"}


def test_trace_events_are_the_recording_in_microseconds(tiny):
    recorder = Recorder("papi/threshold")
    watched(tiny, recorder)
    document = trace_events([recorder])
    check_trace_events(document)
    bars = [event for event in document["traceEvents"] if event["ph"] == "X"]
    segments = [segment for iteration in recorder.timeline.iterations for segment in iteration.segments]
    assert [(bar["name"], bar["ts"], bar["dur"]) for bar in bars] == [
        (segment.label, 1e6 * segment.start_s, 1e6 * segment.duration_s) for segment in segments
    ]
    assert {bar["args"]["fc"] for bar in bars} <= set(at.CHOICES[at.FC])
    pages = [event["args"] for event in document["traceEvents"] if event["name"] == "KV pages"]
    assert {sum(counts.values()) for counts in pages} == {recorder.total_pages}


def test_the_picture_shows_both_policies(tiny):
    recorders = [Recorder("papi/threshold", 0.5, 1.0), Recorder("papi/random", 0.5, 1.0)]
    for recorder, name in zip(recorders, ("threshold", "random"), strict=True):
        watched(tiny, recorder, name=name)
    both, one = gantt_figure(recorders, "tiny"), gantt_figure(recorders[:1])
    assert both.startswith(b"\x89PNG")
    height = {len(image): int.from_bytes(image[20:24], "big") for image in (one, both)}
    assert height[len(both)] > 1.5 * height[len(one)]


# --- the export -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_every_request_has_a_row_that_agrees_with_the_results_and_can_be_replayed(trace, tmp_path, suffix):
    path = tmp_path / f"served{suffix}"
    status, _, err = command(
        *("--trace", trace, "--policies", "threshold", "static", "--export", path, "--out", tmp_path / "run")
    )
    assert status == 0, err
    frame = pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
    assert frame.columns == list(COLUMNS)
    assert frame["policy"].to_list() == ["threshold"] * 5 + ["static"] * 5
    for policy in ("threshold", "static"):
        rows = frame.filter(pl.col("policy") == policy)
        result = (
            pl.read_csv(tmp_path / "run" / "results.csv")
            .filter(pl.col("policy") == policy)
            .row(0, named=True)
        )
        assert rows["arrival_s"].to_list() == pytest.approx([t for t, _, _ in ROWS])
        assert rows["input_tokens"].to_list() == [i for _, i, _ in ROWS]
        assert rows["output_tokens"].to_list() == [o for _, _, o in ROWS]
        assert rows["refused"].to_list() == [False, True, False, False, False]
        assert rows["status"][1] == "rejected"
        assert set(rows["status"]) <= {"attained", "late", "rejected"}
        served = rows.filter(~pl.col("refused"))
        assert (
            rows.filter("refused")
            .select(pl.col("^(admitted|first|last|ttft|tpot|latency).*$"))
            .null_count()
            .sum_horizontal()[0]
            == 6
        )
        assert np.quantile(served["ttft_s"], 0.5) == pytest.approx(result["ttft_p50_s"], rel=1e-9)
        assert (served["status"] == "attained").sum() == result["attained"]
        assert (served["arrival_s"] <= served["admitted_s"]).all()
        assert (served["admitted_s"] < served["first_token_s"]).all()
        assert served["tpot_s"].null_count() == (served["output_tokens"] == 1).sum() == 1
        again = served["ttft_s"] + served["tpot_s"].fill_null(0) * (served["output_tokens"] - 1)
        assert again.to_list() == pytest.approx(served["latency_s"].to_list(), abs=1e-9)
    replayed = read_trace(path)
    assert (replayed.format, replayed.note) == (
        "requests",
        "the first of several runs: policy threshold, seed 0",
    )
    assert replayed.timestamps_s.tolist() == pytest.approx([t for t, _, _ in ROWS])
    assert replayed.population().lengths.tolist() == [[i, o] for _, i, o in ROWS]
    status, _, err = command("--trace", path, "--policies", "threshold", "--out", tmp_path / "again")
    assert status == 0, err
    before, after = (pl.read_csv(tmp_path / run / "results.csv") for run in ("run", "again"))
    assert after["j_per_token"][0] == pytest.approx(before["j_per_token"][0], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--export", "served.txt"],
            "--export is 'served.txt', expected a name that ends in .parquet or .csv",
        ),
        (["--export", "none/served.csv"], "expected a file in a folder that exists"),
        (["--delimiter", ";"], "--delimiter belongs to --trace, which is not given"),
    ],
)
def test_an_export_that_cannot_be_written_is_refused_before_anything_is_played(arguments, message, tmp_path):
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_trace_of_any_columns_is_served(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("when\tprompt\tanswer\n" + "".join(f"{1000 * t:.0f}\t{i}\t{o}\n" for t, i, o in ROWS))
    columns = ("--input-column", "prompt", "--output-column", "answer", "--time-column", "when")
    status, _, err = command(
        *(
            "--trace",
            path,
            *columns,
            "--delimiter",
            "\\t",
            "--time-unit",
            "ms",
            "--start",
            0.5,
            "--window",
            2,
        ),
        *("--policies", "threshold", "--out", tmp_path / "run"),
    )
    assert status == 0, err
    row = pl.read_csv(tmp_path / "run" / "results.csv").row(0, named=True)
    assert [row[name] for name in ("arrived", "finished", "rejected_context")] == [3, 2, 1]
