"""What a trace holds is said in a line of JSON; made-up traces are read back as what they are."""

import json
from functools import partial

import numpy as np
import pytest

from experiments.capacity.traces import explained
from experiments.traces import main
from tests.experiments.commands import called

command = partial(called, main)


def test_a_made_up_trace_is_read_in_part(tmp_path):
    path = tmp_path / "made.csv.gz"
    status, out, err = command("--trace", path, "--make", 3000, "--start", 10, "--window", 20)
    assert status == 0, err
    found = json.loads(out)
    assert (found["format"], found["without_tokens"]) == ("azure", 0)
    assert 10 <= found["first_s"] <= found["last_s"] < 30
    # 73 requests a second, and five standard deviations.
    assert found["requests"] == pytest.approx(20 * 73, abs=5 * (20 * 73) ** 0.5)
    assert 0 < found["before_mib"] <= found["peak_mib"]
    status, _, err = command("--trace", path, "--make", 5)
    assert (status, "cannot be made: File exists" in err) == (2, True)


def test_what_cannot_be_read_is_refused_in_a_line(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n5,1,0\n")
    status, out, err = command("--trace", path)
    assert (status, out) == (2, "")
    assert "bad.csv:2: field 'GeneratedTokens': found '0', expected a whole number" in err
    assert command()[0] == 2


def test_how_much_prompts_say_of_answers():
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, 1000, 20_000).astype(np.int32)
    noise = rng.integers(1, 1000, 20_000).astype(np.int32)
    assert explained(inputs, inputs) == pytest.approx(
        1 - 1 / 20**2, abs=1e-3
    )  # but for what differs within a part
    assert explained(inputs, noise) < 3e-3
    assert explained(inputs, inputs + noise) == pytest.approx(0.5, abs=0.02)
    assert explained(inputs, np.full(20_000, 7, dtype=np.int32)) == 0.0


def test_conversations_that_hashes_show_are_counted(tmp_path):
    path = tmp_path / "turns.jsonl"
    rows = [(0, 600, [1, 2]), (5, 40, [9]), (9, 1100, [1, 3, 4])]
    path.write_text(
        "".join(
            json.dumps({"timestamp": t, "input_length": n, "output_length": 7, "hash_ids": ids}) + "\n"
            for t, n, ids in rows
        )
    )
    status, out, err = command("--trace", path)
    assert status == 0, err
    found = json.loads(out)
    assert (found["sessions"], found["most_turns"]) == (2, 2)
    assert found["shared"] == pytest.approx(512 / 1740, abs=1e-4)
