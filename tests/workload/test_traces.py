"""Traces are read to the token and to 100 ns, or refused with the line and the field."""

import os
import re
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.traces import read_trace

DOLLY = "category,lin,lout,lin_words\ncreative_writing,7,300,5\ngeneral_qa,9,80,6\ncreative_writing,11,1,8\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:17:03.9799600,4808,10\r\n"
    "2023-11-16 18:17:04.0319601,3180,8\r\n"
    "2023-11-17 00:00:00.0000000,110,27"
)
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"

# A function-scoped folder is shared by the examples of a property; each example rewrites its file.
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def read(tmp_path):
    """Read text or bytes as if they were a file named trace.csv."""

    def read_text(content, **arguments):
        path = tmp_path / "trace.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_trace(path, **arguments)

    return read_text


def test_dolly_columns_are_recognised(read, tmp_path):
    trace = read(DOLLY)
    assert trace.path == tmp_path / "trace.csv"
    assert trace.input_lengths.tolist() == [7, 9, 11]
    assert trace.output_lengths.tolist() == [300, 80, 1]
    assert trace.input_lengths.dtype == trace.output_lengths.dtype == np.int32
    assert trace.categories == ("creative_writing", "general_qa", "creative_writing")
    assert trace.timestamps_s is None
    assert len(trace) == 3


def test_azure_columns_are_recognised_with_exact_times(read):
    trace = read(AZURE)
    assert trace.input_lengths.tolist() == [4808, 3180, 110]
    assert trace.output_lengths.tolist() == [10, 8, 27]
    assert trace.categories is None
    assert trace.timestamps_s.dtype == np.float64
    # 5 h 42 min 56.02004 s to midnight.
    assert trace.timestamps_s.tolist() == [0.0, 0.0520001, 20576.02004]


def test_a_population_holds_the_same_requests(read):
    population = read(DOLLY).population()
    assert population.lengths.tolist() == [[7, 300], [9, 80], [11, 1]]
    assert population.source.endswith("trace.csv")
    assert (population.excluded, population.truncated) == (0, 0)


def test_arrays_cannot_be_written(read):
    trace = read(AZURE)
    for array in (trace.input_lengths, trace.output_lengths, trace.timestamps_s):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_named_columns_are_read_and_no_others(read):
    text = "prompt,reply,at,kind\n1,2,0.5,a\n3,4,2.25,b\n"
    trace = read(text, input_column="prompt", output_column="reply")
    assert (trace.timestamps_s, trace.categories) == (None, None)
    trace = read(text, input_column="reply", output_column="prompt", time_column="at", category_column="kind")
    assert trace.input_lengths.tolist() == [2, 4]
    assert trace.output_lengths.tolist() == [1, 3]
    assert trace.timestamps_s.tolist() == [0, 1.75]
    assert trace.categories == ("a", "b")


def test_times_can_be_added_to_a_known_format(read):
    trace = read("category,lin,lout,at\na,1,2,5\nb,3,4,6e0\n", time_column="at")
    assert trace.timestamps_s.tolist() == [0, 1]


@pytest.mark.parametrize("extra", ["\n\n", "\r\n \r\n", "\n  \n\n"])
def test_blank_lines_at_the_end_are_fine(read, extra):
    assert len(read(DOLLY + extra)) == 3


def test_byte_order_mark_spaces_and_quotes_are_fine(read):
    trace = read('\ufeffcategory, lin ,"lout"\n"one, and\ntwo", 5 ,"6"\n')
    assert (trace.categories, trace.input_lengths.tolist()) == (("one, and\ntwo",), [5])


def test_categories_filter_and_keep_the_clock(read):
    text = "at,category,lin,lout\n10,a,1,2\n11.5,b,3,4\n13,c,5,6\n20,b,7,8\n"
    trace = read(text, time_column="at", categories=("b", "c"))
    assert trace.input_lengths.tolist() == [3, 5, 7]
    assert trace.output_lengths.tolist() == [4, 6, 8]
    assert trace.timestamps_s.tolist() == [1.5, 3, 10]
    assert trace.categories == ("b", "c", "b")
    assert read(text, categories="a").categories == ("a",)


def test_an_unknown_category_is_answered_with_those_of_the_file(read):
    with pytest.raises(ConfigurationError, match=r"'creative'.*mean 'creative_writing'.*, general_qa\."):
        read(DOLLY, categories=("general_qa", "creative"))


def test_rows_that_a_category_leaves_out_are_checked(read):
    with pytest.raises(DataError, match=":5: field 'lin': found '-1'"):
        read(DOLLY + "other,-1,2,2\n", categories=("general_qa",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_column": "lin"}, "output_column is not named"),
        ({"output_column": "lout"}, "input_column is not named"),
        ({"input_column": "lin", "output_column": "lin"}, "one column for each"),
        ({"input_column": "lin", "output_column": "lout", "categories": ("a",)}, "no category_column"),
        ({"categories": ()}, "expected at least one"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(read, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        read(DOLLY, **arguments)


@pytest.mark.parametrize("field", ["lin", "lout"])
@pytest.mark.parametrize(
    "bad",
    [
        "abc",
        "",
        "0",
        "-3",
        "2.0",
        "1e3",
        "nan",
        "inf",
        "1_000",
        "+5",
        "0x10",
        "٣",
        "²",
        "\0",
        "1000001",
        "9" * 9999,
    ],
)
def test_a_length_that_is_none_is_refused(read, field, bad):
    row = {"lin": f"qa,{bad},4,1", "lout": f"qa,4,{bad},1"}[field]
    with pytest.raises(DataError) as error:
        read(DOLLY + row + "\nqa,1,1,1\n")
    found = re.escape(repr(bad if len(bad) <= 60 else bad[:57] + "..."))
    assert re.search(
        rf"trace\.csv:5: field '{field}': found {found}, expected .* 1 to 1000000$", str(error.value)
    )


def test_the_largest_length_is_a_length(read):
    assert read("category,lin,lout\na,1000000,0001\n").population().max_total == 1_000_001


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "yesterday",
        "now",
        "NaT",
        "nan",
        "inf",
        "-1",
        "1e99",
        "1_0",
        "2023-11-16",
        "2023-13-16 18:17:03",
        "2023-02-29 18:17:03",
        "2023-11-16 24:00:01",
        "2023-11-16 18:17:60.0",
        "2023-11-16 18:17:03.",
        "2023-11-16 18:17:03.1234567890",
        "2023-11-16 18:17:03+99:00",
        "0000-11-16 18:17:03",
        "16/11/2023 18:17",
        "٢023-11-16 18:17:03",
    ],
)
def test_a_time_that_is_none_is_refused(read, bad):
    with pytest.raises(DataError) as error:
        read(AZURE_HEADER + f"{bad},1,1\n")
    found = (
        f"trace.csv:2: field 'TIMESTAMP': found {bad!r}, expected a time such as 2023-11-16 18:17:03.9799600"
    )
    assert found in str(error.value)


def test_a_time_before_the_last_is_refused_and_an_equal_one_is_not(read):
    assert read(AZURE + "\n2023-11-17 00:00:00,1,1").timestamps_s[-1] == 20576.02004
    with pytest.raises(
        DataError, match=r":5: field 'TIMESTAMP': found .*59\.9999999', expected no time earlier"
    ):
        read(AZURE + "\n2023-11-16 23:59:59.9999999,1,1")


def test_offsets_are_honoured_and_kinds_are_not_mixed(read):
    rows = ("2024-05-10 00:00:00.009930+00:00,1,1\n", "2024-05-10T02:00:01Z,1,1\n")
    assert read(AZURE_HEADER + "".join(rows)).timestamps_s.tolist() == [0, 7200.99007]
    rows = ("2024-05-10 00:00:00+02:00,1,1\n", "2024-05-09 22:00:00+00:00,1,1\n")
    assert read(AZURE_HEADER + "".join(rows)).timestamps_s.tolist() == [0, 0]
    for other in ("2024-05-10 02:00:01", "1e9"):
        with pytest.raises(DataError, match=r":3: field 'TIMESTAMP': .*with an offset, as in the first row"):
            read(f"{AZURE_HEADER}{rows[0]}{other},1,1\n")


def test_the_extremes_of_the_calendar_do_not_overflow(read):
    text = AZURE_HEADER + "0001-01-01 00:00:00+23:00,1,1\n9999-12-31 23:59:59.999999999-23:00,1,1\n"
    assert read(text).timestamps_s[-1] == pytest.approx(3652059 * 86400 + 46 * 3600)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: found an empty file"),
        ("\n\n", ":1: found an empty file"),
        ("\ufeff", ":1: found an empty file"),
        ("category,lin,lout\n", ":1: found a header and no rows"),
        ("category,lin,lout\n\n\n", ":1: found a header and no rows"),
        (
            "category,lin,lout_\na,1,2\n",
            ":1: field 'lout': found no such column, did you mean 'lout_'.*'category', 'lin', 'lout_'$",
        ),
        ("lin,lout\n1,2\n", ":1: field 'category': found no such column"),
        ("ContextTokens,GeneratedTokens\n1,2\n", ":1: field 'TIMESTAMP': found no such column"),
        (
            "timestamp,ContextTokens,GeneratedTokens\n1,2,3\n",
            ":1: field 'TIMESTAMP': .*did you mean 'timestamp'",
        ),
        ("a,b\n1,2\n", ":1: found columns 'a', 'b', expected category,lin,lout or TIMESTAMP,.*input_column"),
        ("category;lin;lout\na;1;2\n", ":1: found columns 'category;lin;lout', expected"),
        ("category,lin,lin,lout\na,1,1,2\n", ":1: field 'lin': found 2 such columns"),
        ("category,lin,lout\na,1\n", ":2: field 'lout': found 2 fields, expected 3"),
        ("category,lin,lout\na,1,2\na,1,000,2\n", ":3: found 4 fields, expected 3"),
        ("category,lin,lout\na,1,2\n\na,1,2\n", ":3: found a blank line"),
        ("\ncategory,lin,lout\na,1,2\n", ":1: found a blank line"),
        ('category,lin,lout\na,1,2\n"a,1,2\na,1,2\n', ":3: found unexpected end of data"),
        ('category,lin,lout\n"a\nb",1,2\n"c\nd",1,x\n', ":4: field 'lout': found 'x'"),
        ("category,lin,lout\n" + "a" * 200_000 + ",1,2\n", ":2: found field larger than field limit"),
        (b"category,lin,lout\na,1,2\n\xff,1,2\n", ":3: found byte 0xff, expected UTF-8"),
        ("category,lin,lout\na,1,2\n".encode("utf-16"), ":1: found byte 0xff, expected UTF-8"),
    ],
)
def test_files_that_are_no_traces_are_refused(read, text, message):
    with pytest.raises(DataError, match=rf"trace\.csv{message}"):
        read(text)


def test_a_column_that_is_named_and_missing_is_answered_with_the_nearest(read):
    with pytest.raises(DataError, match=r":1: field 'prompt_len': .*did you mean 'Prompt_Length'"):
        read("Prompt_Length,reply\n1,2\n", input_column="prompt_len", output_column="reply")


def test_paths_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: found .*No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(DataError, match="found a directory"):
        read_trace(str(tmp_path))
    with pytest.raises(DataError, match="expected a CSV file"):
        read_trace("no\0path")
    with pytest.raises(DataError, match="expected a CSV file"):
        read_trace("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_nobody_writes_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="found a device or pipe"):
        read_trace(tmp_path / "pipe")


@many
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**16)), min_size=1))
def test_what_is_written_is_what_is_read(read, requests):
    # Times in ticks of 100 ns, over 31 years.
    requests = sorted(requests, key=lambda request: request[2])
    origin = np.datetime64("2023-11-16T18:17:03", "ns")
    text = AZURE_HEADER
    for inputs, outputs, ticks in requests:
        stamp = str(origin + np.timedelta64(ticks * 100, "ns")).replace("T", " ")
        text += f"{stamp[:-2]},{inputs},{outputs}\n"
    trace = read(text)
    assert trace.population().lengths.tolist() == [[i, o] for i, o, _ in requests]
    exact = [float(Fraction(ticks - requests[0][2], 10**7)) for _, _, ticks in requests]
    assert trace.timestamps_s.tolist() == exact


@many
@given(st.lists(st.floats(0, 1e9), min_size=1))
@example([0.0, 6.27e-05, 1e9])
def test_seconds_are_read_to_the_nanosecond(read, seconds):
    seconds = sorted(seconds)
    seconds = [second for second in seconds if second == 0 or second > 1e-90]
    if not seconds:
        return
    rows = "".join(f"{second!r},1,1\n" for second in seconds)
    times = read("at,i,o\n" + rows, time_column="at", input_column="i", output_column="o").timestamps_s
    # Exact in what was written: a float of 1e8 seconds is not.
    written = [Fraction(repr(second)) for second in seconds]
    expected = np.array([float(second - written[0]) for second in written])
    assert times == pytest.approx(expected, abs=1.1e-9, rel=1e-15)


@many
@given(
    st.one_of(st.binary(max_size=200), st.text('a1,"\n\r .-\0', max_size=60).map(str.encode)), st.booleans()
)
def test_any_bytes_are_read_or_refused(read, content, headed):
    refusal = ""
    try:
        trace = read(b"category,lin,lout\n" + content if headed else content)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert "trace.csv:" in refusal
    else:
        assert len(trace) == len(trace.categories) >= 1
        assert (trace.population().lengths >= 1).all()


def test_twenty_thousand_rows_take_well_under_a_second(read):
    rows = "".join(
        f"2023-11-16 18:{i // 400:02}:{i % 400 // 10:02}.{i % 10}000000,{i + 1},7\n" for i in range(20_000)
    )
    start = time.perf_counter()
    trace = read(AZURE_HEADER + rows)
    assert time.perf_counter() - start < 1
    assert trace.input_lengths[-1] == 20_000
