"""Readers meet broken and hostile files: only the documented errors come out. What finds their faults finds them."""

import base64
import json
from importlib.util import find_spec
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import fuzz
from experiments.fuzzing.hostile import HOSTILE
from experiments.fuzzing.mutations import FORMS, mutated
from experiments.fuzzing.play import (
    LONGEST_MESSAGE,
    first_random,
    hostile_for,
    meet,
    place,
    play,
    prepare,
    valid_files,
)
from experiments.fuzzing.reader import Reader
from experiments.fuzzing.readers import READERS
from experiments.fuzzing.tally import Tally
from papi_env.errors import DataError
from papi_env.files import parse_toml
from tests.experiments.commands import called

# Those that are made at once; all others are for the command.
QUICK = ("nothing", "empty", "a directory", "a pipe", "zeros without end", "a link to itself", "a terabyte")
RANDOM = 40


@pytest.mark.parametrize("name", READERS)
def test_only_documented_errors_come_out(name, tmp_path):
    reader = READERS[name]
    prepare(reader, tmp_path)
    for content in valid_files(reader).contents:
        (tmp_path / reader.file).write_bytes(content)
        reader.read(tmp_path)  # what is changed is valid
    first, kinds = first_random(reader), len(hostile_for(reader))
    # Of each file that is changed.
    quick = [number + list(HOSTILE).index(label) for number in range(0, first, kinds) for label in QUICK]
    numbers = range(first + RANDOM)
    tally = play(reader, numbers, 1, tmp_path, 20.0, skip=set(range(first)) - set(quick))
    assert not tally.faults
    assert tally.refused + tally.accepted == RANDOM + len(quick)
    assert tally.refused > len(quick)


def _reader(read):
    return Reader("hub", "config.json", "json", READERS["hub"].valid, read)


def _key(folder):
    return {}[(folder / "config.json").name]


def _for_ever(folder):
    while True:
        pass


def _long(folder):
    raise type("Long", (DataError,), {"__str__": lambda self: "x" * (2 * LONGEST_MESSAGE)})()


def _warn(folder):
    import numpy as np

    return np.float32(1e30) * np.float32(1e30)


def _panic(folder):
    raise type("PanicException", (BaseException,), {})


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (_key, "KeyError"),
        (_for_ever, "TooLong"),
        (_long, "a long message"),
        (_warn, "RuntimeWarning"),
        (_panic, "PanicException"),
    ],
)
def test_anything_else_is_a_fault(read, error, tmp_path):
    reader = _reader(read)
    prepare(reader, tmp_path)
    first = len(hostile_for(reader))
    tally = play(reader, range(first, first + 4), 0, tmp_path, 0.05)
    (fault,) = tally.faults.values()
    assert fault.error == error
    assert (fault.count, fault.numbers) == (4, [first, first + 1, first + 2])
    assert (tally.refused, tally.accepted, tally.faulty) == (0, 0, 4)


@pytest.mark.parametrize("name", ["scenario", "checkpoint", "trace-gzip", "weights-pth", "journal"])
def test_inputs_follow_their_numbers_and_are_changed(name, tmp_path):
    reader = READERS[name]
    prepare(reader, tmp_path)
    found = []
    for number in (100, 101, 100):
        place(reader, tmp_path, 0, number)
        found.append((tmp_path / reader.file).read_bytes())
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("form", ["json", "toml", "json-lines"])
def test_most_changes_leave_a_document_of_the_same_form(form):
    seeds = {
        "json": valid_files(READERS["hub"]),
        "toml": valid_files(READERS["scenario"]),
        "json-lines": valid_files(READERS["trace-lines"]),
    }[form].contents
    assert form in FORMS
    parse = {
        "json": json.loads,
        "toml": lambda data: parse_toml(data.decode()),
        "json-lines": lambda data: [json.loads(line) for line in data.splitlines()],
    }[form]
    whole = 0
    for k in range(100):
        try:
            parse(mutated(seeds, form, Random(k)))
            whole += 1
        except (ValueError, RecursionError):
            pass
    assert whole > 50


def test_the_command_counts_keeps_and_replays(tmp_path, monkeypatch):
    out = tmp_path / "run"
    status, text, _ = called(fuzz.main, "--readers", "hub", "--inputs", 60, "--jobs", 1, "--out", out)
    assert status == 0
    assert "60 inputs, 0 faults" in text
    header, row = (out / "fuzz.csv").read_text().splitlines()
    assert header.startswith("reader,inputs,refused,accepted,faults")
    counts = dict(zip(header.split(","), row.split(","), strict=True))
    assert int(counts["refused"]) + int(counts["accepted"]) == 60
    # A fault is kept with its input; mended, it is none any more.
    faults = [{"error": "KeyError", "where": "x.py:1", "count": 1, "numbers": [50], "message": "'a'"}]
    (kept,) = fuzz.keep(out, "hub", 0, faults)
    assert (kept.with_suffix("") / "config.json").exists()
    status, text, _ = called(fuzz.main, "--replay", kept)
    assert status == 0
    assert "hub, input 50: " in text
    monkeypatch.setitem(fuzz.READERS, "hub", _reader(_key))
    status, text, err = called(fuzz.main, "--replay", kept)
    assert status == 2
    assert "KeyError at " in text
    assert "still a fault" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--readers", "scenarios"], "Unknown reader 'scenarios'. Did you mean 'scenario'?"),
        (["--inputs", "0"], "--inputs is 0"),
        (["--seconds", "nan"], "--seconds nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, words, tmp_path):
    status, _, err = called(fuzz.main, *arguments, "--out", tmp_path / "run")
    assert status == 2
    assert words in err


def test_a_fault_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"reader": "hub", "seed": "x"}')
    with pytest.raises(DataError, match="expected reader, seed and number"):
        fuzz.replay(tmp_path / "a.json", 1.0, None)


# Texts, in which a piece at a time is put in place of another; hypothesis finds the shortest that fails.
TEXTS = (
    "scenario",
    "scenario-json",
    "hub",
    "hyperparameters",
    "sweep",
    "trace-csv",
    "requests",
    "report-compare",
)


@pytest.mark.parametrize("name", [*TEXTS, "report-page", "grid", "experts", "jobs"])
def test_a_piece_in_place_of_another_raises_nothing_else(name, tmp_path):
    reader = READERS[name]
    prepare(reader, tmp_path)
    valid = valid_files(reader).contents[0]
    tally = Tally()

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.integers(0, len(valid)), st.integers(0, 40), st.binary(max_size=8) | st.text(max_size=8))
    def put(at, length, piece):
        data = piece if isinstance(piece, bytes) else piece.encode("utf-8", "replace")
        (tmp_path / reader.file).write_bytes(valid[:at] + data + valid[at + length :])
        meet(reader, tmp_path, 0, 20.0, tally)
        assert not tally.faults

    put()
    assert tally.refused + tally.accepted >= 60


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_guided_inputs_are_counted_and_faults_kept_as_they_are(tmp_path):
    out = tmp_path / "run"
    options = ("--engine", "atheris", "--inputs", 600, "--jobs", 1, "--out", out)
    status, text, err = called(fuzz.main, "--readers", "hub", *options)
    assert status == 0, err
    assert "600 inputs, 0 faults" in text


def test_a_fault_of_no_number_is_kept_and_replayed_as_it_was(tmp_path, monkeypatch):
    fault = {"error": "KeyError", "where": "x.py:1", "count": 1, "numbers": [7], "message": "'a'"}
    content = base64.b64encode(b"{").decode()
    (kept,) = fuzz.keep(tmp_path, "hub", 0, [{**fault, "contents": {"7": ["config.json", content]}}])
    assert (kept.with_suffix("") / "config.json").read_bytes() == b"{"
    status, text, _ = called(fuzz.main, "--replay", kept)
    assert (status, text) == (0, "hub, input 7: refused as documented\n")
    monkeypatch.setitem(fuzz.READERS, "hub", _reader(_key))
    status, text, _ = called(fuzz.main, "--replay", kept)
    assert status == 2
    assert "hub, input 7: KeyError at " in text


def test_an_engine_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz.importlib.util, "find_spec", lambda name: None)
    status, _, err = called(fuzz.main, "--engine", "atheris", "--out", tmp_path / "run")
    assert status == 2
    assert "pip install 'papi-env[fuzz]'" in err
