"""Conversations found in a trace by the hashes of its blocks: on files made up for each case."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.traces import Trace, read_trace
from papi_env.workload.traces.sessions import BLOCK_TOKENS, sessions_of


@pytest.fixture
def sessions(tmp_path):
    """Sessions of rows of (prompt tokens, hashes), written as Mooncake writes them."""

    def find(*rows, **arguments):
        path = tmp_path / "made-up.jsonl"
        lines = (
            {"timestamp": 1000 * i, "input_length": tokens, "output_length": 10, "hash_ids": ids}
            for i, (tokens, ids) in enumerate(rows)
        )
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
        return sessions_of(read_trace(path), **arguments)

    return find


def test_a_turn_goes_on_from_the_full_blocks_of_the_one_before(sessions):
    """The last block of the first prompt, 276 of 512 tokens, is another one once the prompt goes on."""
    found = sessions(
        (1300, [1, 2, 3]), (600, [50, 51]), (2600, [1, 2, 4, 5, 6, 7]), (2700, [1, 2, 4, 5, 6, 8])
    )
    assert found.session.tolist() == [0, 1, 0, 0]
    assert found.turn.tolist() == [0, 0, 1, 2]
    assert found.previous.tolist() == [-1, -1, 0, 2]
    assert found.shared.tolist() == [0, 0, 2 * 512, 5 * 512]
    assert found.sessions == 2
    kinds = [array.dtype for array in found]
    assert kinds == [np.int64, np.int32, np.int32, np.int64]
    assert not any(array.flags.writeable for array in found)


def test_a_last_block_that_stays_the_same_is_shared_up_to_the_end_of_the_prompt(sessions):
    found = sessions((1300, [1, 2, 3]), (1400, [1, 2, 3]))
    assert found.turn.tolist() == [0, 1]
    assert found.shared.tolist() == [0, 1300]


def test_a_prefix_of_a_prompt_is_no_turn(sessions):
    """Row 1 shares two of three full blocks with row 0: a template, which both have in common."""
    found = sessions((1600, [1, 2, 3, 4]), (1700, [1, 2, 5, 6]), (1100, [1, 2, 7]))
    assert found.session.tolist() == [0, 1, 2]
    assert not found.shared.any()


def test_prompts_without_a_full_block_stand_alone(sessions):
    found = sessions((100, [0]), (100, [0]), (200, []), (900, [0, 1]))
    assert found.session.tolist() == [0, 1, 2, 3]


def test_the_longest_prompt_before_is_gone_on_from_and_of_equals_the_latest(sessions):
    first, longer = (512, [1]), (1024, [1, 2])
    found = sessions(first, longer, first, (2048, [1, 2, 3, 4]), (700, [1, 9]))
    assert found.previous.tolist() == [-1, 0, -1, 1, 2]
    assert found.session.tolist() == [0, 0, 1, 0, 1]
    equals = sessions(first, first, longer)
    assert equals.previous.tolist() == [-1, -1, 1]


def test_a_branch_is_a_session_of_its_own(sessions):
    found = sessions((512, [1]), (1024, [1, 2]), (1024, [1, 3]), (1536, [1, 3, 4]))
    assert found.session.tolist() == [0, 0, 1, 1]
    assert found.turn.tolist() == [0, 1, 0, 1]


def test_the_same_prompt_again_is_no_turn(sessions):
    assert sessions((1024, [1, 2]), (1024, [1, 2])).turn.tolist() == [0, 0]


def test_blocks_of_another_size(sessions):
    found = sessions((32, [1, 2]), (50, [1, 2, 3, 4]), block_tokens=16)
    assert found.shared.tolist() == [0, 32]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            (1300, [1, 2, 3, 4]),
            "found 4 hashes for a prompt of 1300 tokens, expected 2 or 3, one for each block",
        ),
        ((1300, [1]), "found 1 hashes for a prompt of 1300 tokens, expected 2 or 3"),
        ((1024, [1, 2, 3]), "found 3 hashes for a prompt of 1024 tokens, expected 2, one"),
        ((7, [1, 2]), "found 2 hashes for a prompt of 7 tokens, expected 0 or 1"),
    ],
)
def test_hashes_that_contradict_lengths_are_refused(sessions, row, words):
    with pytest.raises(DataError, match=rf"made-up.jsonl: request 1: field 'hash_ids': {words}"):
        sessions((512, [1]), row)


def test_a_trace_without_hashes_is_refused(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,100,10\n")
    with pytest.raises(ConfigurationError, match=r"has no hashes .* \(read as 'azure'\), expected a column"):
        sessions_of(read_trace(path))


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_blocks_have_a_whole_number_of_tokens(sessions, size):
    with pytest.raises(ConfigurationError, match=r"block_tokens is .*expected a whole number from 1"):
        sessions((512, [1]), block_tokens=size)


def chats(draw_lengths, order):
    """Rows of conversations that were made so, in the order given, and who they are."""
    rows, owners, hashes, lengths = [], [], {}, {}
    for chat in order:
        turns = draw_lengths[chat]
        done = lengths.get(chat, 0)
        tokens = done + turns
        full = tokens // BLOCK_TOKENS
        ids = hashes.get(chat, [])
        ids = ids + [chat * 10_000 + k for k in range(len(ids), full)]
        hashes[chat], lengths[chat] = ids, tokens
        rows.append((tokens, ids + [10**6 + len(rows)] * (tokens % BLOCK_TOKENS > 0)))
        owners.append(chat)
    return rows, owners


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(512, 3000), min_size=3, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=25),
)
def test_conversations_made_up_are_found_again(lengths, order):
    rows, owners = chats(lengths, order)
    trace = Trace(
        path="made-up",
        input_lengths=np.array([tokens for tokens, _ in rows], dtype=np.int32),
        output_lengths=np.ones(len(rows), dtype=np.int32),
        hash_ids=[np.array(ids, dtype=np.int64) for _, ids in rows],
    )
    found = sessions_of(trace)
    seen: dict[int, int] = {}
    for row, chat in enumerate(owners):
        assert found.turn[row] == owners[:row].count(chat)
        assert seen.setdefault(chat, int(found.session[row])) == found.session[row]
    assert found.sessions == len(set(owners))
    later = found.previous >= 0
    before = found.previous[later]
    assert (found.shared[later] <= trace.input_lengths[before]).all()
    assert (found.shared[later] > trace.input_lengths[before] - BLOCK_TOKENS).all()
