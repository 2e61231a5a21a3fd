"""Measured tables of a server: what lies between their points, and what is refused."""

import numpy as np
import pytest

from papi_env.errors import DataError
from papi_env.hardware.server_tables import FC_LAYERS, load_server_tables

TOKENS = (1, 4, 16)


def dense(layer, n):
    return 10.0 + (2 if layer in FC_LAYERS else 1) * n


def attention(c, k, n, q):
    return 5.0 + c + 0.1 * k + n * (1 + 0.01 * q) + 0.001 * c * n


def lines(name):
    """The lines of a made-up file of that name."""
    if name == "dense.csv":
        layers = (*FC_LAYERS, "layernorm", "act_fn", "embedding")
        return ["layer,tokens,time_us", *(f"{x},{n},{dense(x, n)}" for x in layers for n in TOKENS)]
    if name == "per_sequence.csv":
        rows = [f"{x},{n},{100 + n}" for x in ("lm_head", "sampler") for n in (1, 2, 8)]
        return ["layer,sequences,time_us", *rows]
    points = [(0, 0, n, q) for n in (1, 4, 8) for q in (16, 64, 128)]
    points += [(c, k, 0, 0) for c in (4, 16) for k in (0, 32, 128)]
    points += [(c, k, n, q) for c in (4, 16) for k in (0, 32, 128) for n in (1, 4) for q in (16, 64, 128)]
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    return [header, *(",".join(map(str, (*p, attention(*p)))) for p in points)]


@pytest.fixture
def write(tmp_path):
    def write(name=None, edit=lambda lines: lines):
        for file in ("dense.csv", "per_sequence.csv", "attention.csv"):
            text = edit(lines(file)) if file == name else lines(file)
            (tmp_path / file).write_text("\n".join(text) + "\n", encoding="utf-8")
        return tmp_path

    return write


def test_layers_add_up_and_are_linear_between_points_and_beyond(write):
    tables = load_server_tables(write())
    n = np.array([0.0, 1.0, 2.5, 16.0, 30.0])
    # Ten layers: four FC kernels, two norms and one activation each; the embedding once.
    expected = 10 * (4 * (10 + 2 * n) + 3 * (10 + n)) + 10 + n
    np.testing.assert_allclose(tables.layers_s(n, 10), np.where(n > 0, expected, 0.0) * 1e-6, rtol=1e-9)
    np.testing.assert_allclose(tables.heads_s(np.array([0.0, 1.0, 5.0])), np.array([0, 202, 210]) * 1e-6)
    assert (tables.most_tokens, tables.most_sequences) == (16, 8)


def test_attention_is_filled_in_along_its_axes(write):
    grid = load_server_tables(write()).attention
    assert grid.most_mixed == 4
    assert [axis.tolist() for axis in grid[:4]] == [[0, 4, 16], [0, 32, 128], [0, 1, 4, 8], [16, 64, 128]]
    for i, c in enumerate(grid.prompt):
        for j, k in enumerate(grid.behind):
            for m, n in enumerate(grid.decoding):
                for o, q in enumerate(grid.context):
                    if c == 0 and n == 0:
                        expected = 0.0
                    elif c == 0:
                        expected = attention(0, 0, n, q)
                    else:
                        # Eight requests beside a prompt were not measured: on the line of one and four.
                        expected = attention(c, k, n, q if n else 0)
                    assert grid.seconds[i, j, m, o] == pytest.approx(expected * 1e-6)


def replaced(old, new):
    return lambda found: [line.replace(old, new) if line.startswith(old) else line for line in found]


def without(start):
    return lambda found: [line for line in found if not line.startswith(start)]


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("dense.csv", without("o_proj"), r"dense\.csv: found no layer 'o_proj'"),
        ("dense.csv", replaced("act_fn,1,", "act_fun,1,"), r"found 'act_fun', expected one of .*'act_fn'"),
        ("dense.csv", replaced("qkv_proj,4,18.0", "qkv_proj,4,-1"), r"csv:3: column 'time_us': found '-1'"),
        ("dense.csv", replaced("qkv_proj,4,18.0", "qkv_proj,4,nan"), r"found 'nan', expected microseconds"),
        (
            "dense.csv",
            replaced("qkv_proj,4,18.0", "qkv_proj,1,18.0"),
            r"csv:3: found qkv_proj with 1 tokens again",
        ),
        ("dense.csv", without("qkv_proj,4,"), r"qkv_proj: tokens: found 16 of them next after 1, a gap"),
        ("dense.csv", replaced("qkv_proj,4,18.0", "qkv_proj,4"), r"csv:3: found 2 fields, expected 3"),
        (
            "dense.csv",
            replaced("layer,tokens,time_us", "layer,token,time_us"),
            r"column 'tokens'.*did you mean",
        ),
        ("dense.csv", lambda found: [], r"found an empty file"),
        ("per_sequence.csv", without("sampler"), r"found no layer 'sampler'"),
        ("attention.csv", without("0,0,"), r"found no decoding requests alone"),
        ("attention.csv", replaced("4,0,0,0,", "4,0,0,16,"), r"expected a chunk or decoding requests"),
        (
            "attention.csv",
            lambda found: [line for line in found if not line.startswith("4,") or ",0,0," not in line],
            r"found no chunk of 4 alone",
        ),
        ("attention.csv", lambda found: [*found, found[1]], r"again, expected it once: line 2 has it"),
    ],
)
def test_what_is_refused(write, name, edit, words):
    with pytest.raises(DataError, match=words):
        load_server_tables(write(name, edit))


def test_rows_of_several_verified_tokens_are_left_out(write):
    def with_lengths(found):
        more = [f"{line},1" for line in found[1:]]
        return [f"{found[0]},decode_q_len", *more, *(f"{line},4" for line in found[1:])]

    plain = load_server_tables(write()).attention
    found = load_server_tables(write("attention.csv", with_lengths)).attention
    np.testing.assert_array_equal(found.seconds, plain.seconds)


def test_a_missing_file_is_named(write):
    folder = write()
    (folder / "attention.csv").unlink()
    with pytest.raises(DataError, match=r"attention\.csv: cannot be read: No such file or directory"):
        load_server_tables(folder)
