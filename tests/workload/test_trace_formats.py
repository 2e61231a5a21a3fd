"""Every published format is found by its content and read to its own units, or refused with place and field."""

import gzip
import json
import tracemalloc

import numpy as np
import polars as pl
import pytest

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.arrivals import Arrivals, build_arrivals
from papi_env.workload.lengths import MAX_TOKENS
from papi_env.workload.requests import Lengths
from papi_env.workload.traces import files, parquet, read_trace, tables

# Three requests in every format: at 0, 0.25 and 2 s, of 100 + 10, 2000 + 1 and 7 + 300 tokens.
INPUTS, OUTPUTS, SECONDS = [100, 2000, 7], [10, 1, 300], [0.0, 0.25, 2.0]

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,100,10
2023-11-16 18:17:04.2299600,2000,1
2023-11-16 18:17:05.9799600,7,300
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,100,10
2024-05-10 00:00:00.259930+00:00,2000,1
2024-05-10 00:00:02.009930+00:00,7,300
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5.0,ChatGPT,100,10,110,Conversation log
5.1,GPT-4,400,0,400,API log
5.25,GPT-4,2000,1,2001,Conversation log
7,ChatGPT,7,300,307,API log
"""
BURSTGPT_3 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,100,10,110,Conversation log
19440110.25,,2,ChatGPT,2000,1,2001,Conversation log
19440111.5,,2,ChatGPT,12,0,12,API log
19440112.0,d5983bf9,2,ChatGPT,7,300,307,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 100, "output_length": 10, "hash_ids": [0]}
{"timestamp": 250, "input_length": 2000, "output_length": 1, "hash_ids": [0, 1, 2, 3]}
{"timestamp": 2000, "input_length": 7, "output_length": 300, "hash_ids": []}
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n0.25,2000,1\n2.0,7,300\n"
VIDUR_LENGTHS = """,num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio
0,100,10,110,10.0
1,2000,1,2001,2000.0
2,7,300,307,0.0233
"""
SPLITWISE = """request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size
0,2,0,0,1,100,10
1,2,0,0.25,1,2000,1
2,2,0,2.0000000000000004,1,7,300
"""
SERVINGSIM = """{"input_toks": 100, "output_toks": 10, "arrival_time_ns": 1, "input_tok_ids": [1, 2]}
{"input_toks": 2000, "output_toks": 1, "arrival_time_ns": 250000001, "input_tok_ids": [1]}
{"input_toks": 7, "output_toks": 300, "arrival_time_ns": 2000000001, "input_tok_ids": []}
"""
SERVINGSIM_TABS = (
    "input_toks\toutput_toks\tarrival_time_ns\n100\t10\t0\n2000\t1\t250000000\n7\t300\t2000000000\n"
)
VLLM = {
    "completed": 3,
    "input_lens": [100, 7, 50, 2000],
    "output_lens": [10, 300, 0, 1],
    "ttfts": [0.1, 0.1, 0.0, 0.1],
    "start_times": [500.5, 502.5, 501.0, 500.75],
}
SHAREGPT = [
    {"id": "a", "conversations": [{"from": "human", "value": "x" * 400}, {"from": "gpt", "value": "y" * 40}]},
    {"id": "b", "conversations": [{"from": "human", "value": "only a question"}]},
    {"id": "c", "conversations": [{"from": "human", "value": "x" * 8000}, {"from": "gpt", "value": "y"}]},
    {
        "id": "d",
        "conversations": [{"from": "human", "value": "é" * 25}, {"from": "gpt", "value": "y" * 1199}],
    },
]
EXPORTED = """policy,seed,request,arrival_s,input_tokens,output_tokens,class,status,refused
threshold,0,0,0.0,100,10,writing,attained,false
threshold,0,1,0.25,2000,1,writing,late,false
threshold,0,2,2.0,7,300,writing,rejected,true
oracle,0,0,0.0,100,10,writing,attained,false
"""
TEXTS = {
    "azure 2023": ("azure", AZURE_2023, 0),
    "azure 2024": ("azure", AZURE_2024, 0),
    "burstgpt 1": ("burstgpt", BURSTGPT, 1),
    "burstgpt 3": ("burstgpt", BURSTGPT_3, 1),
    "mooncake": ("mooncake", MOONCAKE, 0),
    "vidur": ("vidur", VIDUR, 0),
    "vidur lengths": ("vidur", VIDUR_LENGTHS, 0),
    "splitwise-sim": ("splitwise-sim", SPLITWISE, 0),
    "llmservingsim": ("llmservingsim", SERVINGSIM, 0),
    "llmservingsim tabs": ("llmservingsim", SERVINGSIM_TABS, 0),
    "vllm": ("vllm-benchmark", json.dumps(VLLM), 1),
    "vllm, indented": ("vllm-benchmark", json.dumps(VLLM, indent=2), 1),
    "a list of objects": ("mooncake", "[" + ",\n".join(MOONCAKE.splitlines()) + "]\n", 0),
    "exported": ("requests", EXPORTED, 0),
}


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def check(trace, name, skipped, times=True):
    assert trace.format == name
    assert trace.input_lengths.tolist() == INPUTS
    assert trace.output_lengths.tolist() == OUTPUTS
    assert trace.skipped == skipped
    assert (trace.timestamps_s is not None) == times
    if times:
        assert trace.timestamps_s.tolist() == SECONDS


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", TEXTS)
def test_a_format_is_found_by_its_content(write, case, packed):
    name, text, skipped = TEXTS[case]
    path = write(gzip.compress(text.encode()) if packed else text, "named.txt")
    check(read_trace(path), name, skipped, case != "vidur lengths")


def test_a_result_without_start_times_gives_lengths_in_the_order_of_the_file(write):
    trace = read_trace(write(json.dumps({k: v for k, v in VLLM.items() if k != "start_times"})))
    assert (trace.timestamps_s, trace.input_lengths.tolist()) == (None, [100, 7, 2000])


def test_block_hashes_are_kept_for_the_reuse_of_prefixes(write):
    trace = read_trace(write(MOONCAKE))
    assert [ids.tolist() for ids in trace.hash_ids] == [[0], [0, 1, 2, 3], []]
    assert trace.hash_ids[1].dtype == np.int64
    assert read_trace(write(MOONCAKE.replace(', "hash_ids": [0]', ', "hash_id": [0]'))).hash_ids is None


def test_conversations_need_a_stated_estimate_which_the_trace_repeats(write):
    path = write(json.dumps(SHAREGPT))
    with pytest.raises(ConfigurationError, match=r"no token counts; expected characters_per_token"):
        read_trace(path)
    trace = read_trace(path, characters_per_token=4)
    check(trace, "sharegpt", 1, times=False)
    assert trace.note == "tokens estimated, 4 characters each"
    with pytest.raises(ConfigurationError, match="from 1 to 16"):
        read_trace(path, characters_per_token=0.5)
    lines = "".join(json.dumps(one) + "\n" for one in SHAREGPT)
    check(read_trace(write(lines), characters_per_token=4), "sharegpt", 1, times=False)


@pytest.mark.parametrize(
    "time",
    [
        pl.Series([0.0, 0.25, 2.0]),
        pl.Series([10, 10, 12]).cast(pl.UInt32) * 1000 + pl.Series([0, 250, 0]),
        pl.Series(["0.0", "0.25", "2e0"]),
        pl.Series(
            ["2024-05-10 00:00:00.00", "2024-05-10 00:00:00.25", "2024-05-10 00:00:02.00"]
        ).str.to_datetime("%Y-%m-%d %H:%M:%S%.f"),
        pl.Series([0, 250, 2000]).cast(pl.Datetime("ms", "UTC")),
    ],
    ids=["seconds", "milliseconds", "text", "moments", "moments with a zone"],
)
def test_parquet_is_read_with_its_types(tmp_path, time):
    frame = pl.DataFrame(
        {"at": time, "i": pl.Series(INPUTS, dtype=pl.UInt16), "o": OUTPUTS, "kind": list("aba")}
    )
    path = tmp_path / "trace"
    frame.write_parquet(path)
    unit = "ms" if time.dtype.is_integer() else None
    how = {"input_column": "i", "output_column": "o", "time_column": "at", "category_column": "kind"}
    trace = read_trace(path, **how, time_unit=unit)
    check(trace, "columns", 0)
    assert trace.categories == ("a", "b", "a")
    assert read_trace(path, **how, time_unit=unit, categories=("a",)).timestamps_s.tolist() == [0, 2]


def test_known_formats_are_known_in_parquet(tmp_path):
    path = tmp_path / "mooncake.parquet"
    pl.read_ndjson(MOONCAKE.encode()).write_parquet(path)
    trace = read_trace(path)
    check(trace, "mooncake", 0)
    assert [ids.tolist() for ids in trace.hash_ids] == [[0], [0, 1, 2, 3], []]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_columns_delimiter_and_unit_can_be_said(write, unit):
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    rows = "".join(
        f"{i};{o};{int(t * factor) if unit != 's' else t}\n"
        for i, o, t in zip(INPUTS, OUTPUTS, SECONDS, strict=True)
    )
    path = write("prompt;answer;when\n" + rows)
    how = {"input_column": "prompt", "output_column": "answer", "time_column": "when"}
    check(read_trace(path, **how, delimiter=";", time_unit=unit), "columns", 0)
    with pytest.raises(DataError, match=r"trace\.csv:1: field 'when': found no such column"):
        read_trace(path, **how)


def test_decimals_beyond_a_nanosecond_are_rounded_half_to_even(write):
    texts = ["0.0", "0.0000000005", "0.0000000015", "0.00000000251", "1.9999999999", "2.4999999994999"]
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{t},1,1\n" for t in texts)
    expected = [0.0, 0.0, 2e-9, 3e-9, 2.0, 2.499999999]
    assert read_trace(write(text)).timestamps_s.tolist() == expected
    # Line by line, as quotes ask for.
    assert read_trace(write(text.replace("0.0,1,1", '"0.0",1,1'))).timestamps_s.tolist() == expected


def test_where_reading_goes_over_to_lines_makes_no_difference(write, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 90)
    monkeypatch.setattr(tables, "ROWS", 2)
    rows = [f"2023-11-16 18:17:{k:02}.{k}9,{k + 1},{2 * k + 1}\n" for k in range(30)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    plain = read_trace(write(header + "".join(rows)))
    assert plain.output_lengths.tolist() == [2 * k + 1 for k in range(30)]
    for k in (0, 7, 29):
        quoted = [*rows]
        quoted[k] = '"' + rows[k].replace(",", '",', 1)
        other = read_trace(write(header + "".join(quoted).rstrip("\n")))
        assert other.population().lengths.tolist() == plain.population().lengths.tolist()
        assert other.timestamps_s.tolist() == plain.timestamps_s.tolist()
        quoted[k] = rows[k].replace(",", ",-", 1)
        with pytest.raises(DataError, match=rf"trace\.csv:{k + 2}: field 'ContextTokens': found '-"):
            read_trace(write(header + "".join(quoted)))
        quoted[k] = rows[k].replace(",", "", 1)
        with pytest.raises(DataError, match=rf"trace\.csv:{k + 2}: field 'GeneratedTokens': found 2 fields"):
            read_trace(write(header + "".join(quoted)))


# --- windows ----------------------------------------------------------------------------------------


def test_a_window_keeps_the_clock_of_the_file_and_does_not_look_beyond(write):
    path = write(VIDUR + "nonsense,1,1\n")
    with pytest.raises(DataError, match=":5:"):
        read_trace(path)
    many = "".join(f"{100 + k},{k + 1},1\n" for k in range(500))
    path = write(VIDUR + many)
    trace = read_trace(path, start_s=0.25, window_s=103.0)
    assert trace.timestamps_s.tolist() == [0.25, 2.0, 100.0, 101.0, 102.0, 103.0]
    assert trace.input_lengths.tolist() == [2000, 7, 1, 2, 3, 4]
    assert len(read_trace(path, start_s=599)) == 1
    with pytest.raises(ConfigurationError, match="found no request from 600 to inf s; the trace lasts 599 s"):
        read_trace(path, start_s=600)
    with pytest.raises(ConfigurationError, match="a window is asked for, and no time_column"):
        read_trace(write(VIDUR_LENGTHS), window_s=1)


def test_an_hour_of_a_long_file_takes_the_memory_of_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 2**16)
    path, count = tmp_path / "long.csv", 200_000
    times = pl.int_range(count, eager=True) * 100
    frame = pl.DataFrame({"at": times, "i": 1 + times % 4096, "o": 1 + times % 512})
    frame.write_csv(path)
    how = {"input_column": "i", "output_column": "o", "time_column": "at", "time_unit": "ms"}
    whole = read_trace(path, **how)
    tracemalloc.start()
    part = read_trace(path, **how, start_s=15_000, window_s=3600)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(part) == 36_000
    assert part.timestamps_s.tolist() == whole.timestamps_s[150_000:186_000].tolist()
    assert part.input_lengths.tolist() == whole.input_lengths[150_000:186_000].tolist()
    # Whole, the text alone has 3.4 MB; a piece, its arrays and the 36,000 requests kept have less than half.
    assert peak < path.stat().st_size / 2


def test_a_window_at_a_given_start_plays_the_same_however_it_is_read(write):
    rows = "".join(f"{0.1 * k:.1f},{k + 1},{k % 7 + 1}\n" for k in range(1000))
    path = str(write("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows))
    for scale, start, window in ((1.0, 30.0, 10.0), (2.5, 12.0, 7.7), (0.3, 0.0, 33.3)):
        arrivals = Arrivals(process="trace", trace=path, time_scale=scale, start_s=start, window_s=window)
        tables_ = build_arrivals(arrivals)
        times = read_trace(path).timestamps_s / scale
        assert tables_.capacity == np.sum((times >= start) & (times - start < window))
        trace = arrivals.read()
        assert len(trace) < 300
        first = int(np.searchsorted(tables_.rows_s, start))
        assert trace.input_lengths[first] == np.searchsorted(times, start) + 1


# --- what scenarios say -----------------------------------------------------------------------------


def test_scenarios_say_how_a_file_is_written_and_dump_nothing_new_where_they_do_not(write):
    path = str(write("prompt|answer|when\n5|6|1000\n7|8|3000\n"))
    how = {"input_column": "prompt", "output_column": "answer", "delimiter": "|"}
    arrivals = Arrivals(process="trace", trace=path, **how, time_column="when", time_unit="ms")
    assert arrivals.read().timestamps_s.tolist() == [0, 2]
    assert Arrivals(**arrivals.model_dump()) == arrivals
    lengths = Lengths(trace=path, **how)
    assert lengths.population(2048, "refuse").lengths.tolist() == [[5, 6], [7, 8]]
    windowed = Lengths(trace=path, **how, time_column="when", time_unit="ms", start_s=1, window_s=5)
    assert windowed.population(2048, "refuse").lengths.tolist() == [[7, 8]]
    assert Lengths(**windowed.model_dump()) == windowed
    younger = {"delimiter", "time_unit", "characters_per_token", "time_column", "start_s", "window_s"}
    assert not younger & set(Lengths(trace=path).model_dump())
    assert not younger & set(Lengths(input=1, output=2).model_dump())
    assert not younger - {"time_column", "start_s", "window_s"} & set(
        Arrivals(process="together").model_dump()
    )
    with pytest.raises(ValueError, match="'s', 'ms', 'us' or 'ns'"):
        Lengths(trace=path, time_unit="minutes")
    with pytest.raises(ValueError, match="delimiter is ';', expected none"):
        Arrivals(process="together", delimiter=";")


def test_times_are_needed_only_where_they_are_used(write):
    path = str(write(VIDUR_LENGTHS))
    assert len(Lengths(trace=path).population(4096, "refuse").lengths) == 3
    with pytest.raises(ConfigurationError, match="no column is known to hold times, expected time_column"):
        Arrivals(process="trace", trace=path).read()


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(AZURE_2023.encode(), mtime=0)[:-12],
            r"found a gzip file that is damaged or cut short",
        ),
        (gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "found gzip in gzip"),
        (b"PK\x03\x04rest", "found a ZIP archive"),
        (b"\x28\xb5\x2f\xfdrest", "found a file packed by zstd"),
        (b"PAR1" + b"x" * 50, "found a damaged Parquet file"),
        (MOONCAKE.replace("250", "250.0s"), r"trace\.csv:2: found no valid JSON"),
        (
            MOONCAKE.replace('"timestamp": 250', '"timestamp": NaN'),
            r":2: field 'timestamp': found 'NaN', expected",
        ),
        (
            MOONCAKE.replace('"timestamp": 2000', '"timestamp": 2'),
            r":3: field 'timestamp': .* no time earlier than 250",
        ),
        (
            MOONCAKE.replace("2000,", '"two",', 1),
            r":2: field 'input_length': found 'two', expected a whole number",
        ),
        (MOONCAKE.replace('"output_length": 1,', ""), r":2: field 'output_length': found no such field"),
        (
            MOONCAKE.replace("[0, 1,", "[0, -1,"),
            r":2: field 'hash_ids': found .*expected a list of whole numbers",
        ),
        (
            MOONCAKE.replace('"input_length": 7', '"input_length": 0'),
            r":3: field 'input_length': found '0', expected",
        ),
        (
            MOONCAKE.replace('"input_length": 7', '"input_length": null'),
            r":3: field 'input_length': found 'null'",
        ),
        (MOONCAKE + "\n[1]\n", r":4: found a blank line"),
        (MOONCAKE + "[1]\n", r":4: found \[\"1\"\], expected a JSON object"),
        ("[" * 100_000, "found no valid JSON"),
        ("{" + '"a":' * 100_000, "found no valid JSON"),
        ("[]", "found no objects"),
        ("[" + MOONCAKE.splitlines()[0], "item 2: found the end of the file"),
        ("[" + MOONCAKE.splitlines()[0] + "]x", "found more after the list"),
        ('{"a": 1}\n', r"trace\.csv:1: found columns 'a', expected category,lin,lout or"),
        (json.dumps(VLLM | {"output_lens": [1]}), "field 'output_lens': found 1 values, expected 4"),
        (json.dumps({"input_lens": [1]}), "field 'output_lens': found no such field, expected a list"),
        (json.dumps(VLLM | {"output_lens": [1, 2, 3, True]}), "request 4: field 'output_lens': found 'true'"),
        (json.dumps(VLLM | {"output_lens": [0] * 4}), "found 4 rows without tokens"),
        (SERVINGSIM_TABS.replace("\t1\t", "\t0\t"), r":3: field 'output_toks': found '0', expected"),
        (
            AZURE_2024.replace("+00:00,7", ",7"),
            r":4: field 'TIMESTAMP': .*with an offset, as in the first row",
        ),
        (VIDUR.replace("0.25", "nan"), r":3: field 'arrived_at': found 'nan', expected a time such as"),
        (
            VIDUR.replace("2.0", "2023-11-16 18:17:03"),
            r":4: field 'arrived_at': .* plain seconds, as in the first",
        ),
        (
            SPLITWISE.replace("token_size", "tokens"),
            r":1: field 'token_size': found no such column, did you mean 'tokens'",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_place_field_found_and_expected(write, content, message):
    path = write(content)
    with pytest.raises(DataError, match=message) as error:
        read_trace(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < len(str(path)) + 700


def test_a_damaged_list_and_empty_conversations_are_refused(write):
    path = write(json.dumps([{"conversations": [{"from": "human", "value": 5}]}]))
    with pytest.raises(DataError, match=r"item 1: field 'conversations\[0\].value': found 5, expected text"):
        read_trace(path, characters_per_token=4)
    with pytest.raises(DataError, match=r"item 1: field 'conversations': found 7, expected a list"):
        read_trace(write('[{"conversations": 7}]'), characters_per_token=4)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"arrived_at": [0.0, -1.0]},
            r"row 2: field 'arrived_at': found '-1.0', expected plain seconds from 0",
        ),
        ({"arrived_at": [0.0, float("nan")]}, r"row 2: field 'arrived_at': found 'nan'"),
        (
            {"arrived_at": [1.0, 0.5]},
            r"row 2: field 'arrived_at': found '0.5', expected no time earlier than 1.0",
        ),
        ({"arrived_at": [0.0, None]}, r"row 2: field 'arrived_at': found no value"),
        (
            {"arrived_at": [True, False]},
            "field 'arrived_at': found type Boolean, expected numbers, text or dates",
        ),
        (
            {"num_prefill_tokens": [1, 0]},
            rf"row 2: field 'num_prefill_tokens': found '0', expected .* to {MAX_TOKENS}",
        ),
        (
            {"num_prefill_tokens": [1.0, 2.0]},
            "field 'num_prefill_tokens': found type Float64, expected whole numbers",
        ),
        (
            {"num_prefill_tokens": [[1], [2]]},
            r"field 'num_prefill_tokens': found type List\(Int64\), expected",
        ),
    ],
)
def test_parquet_with_other_types_or_values_is_refused(tmp_path, frame, message):
    path = tmp_path / "trace.parquet"
    rows = {"arrived_at": [0.0, 1.0], "num_prefill_tokens": [1, 2], "num_decode_tokens": [1, 2]}
    pl.DataFrame(rows | frame).write_parquet(path)
    with pytest.raises(DataError, match=message) as error:
        read_trace(path)
    assert str(error.value).startswith(str(path))


def test_a_bomb_of_gzip_stops_at_a_line_that_is_none(write, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 2**16)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**18)
    path = write(gzip.compress(AZURE_2023.encode() + bytes(2**26)))
    with pytest.raises(DataError, match=r"trace\.csv:5: found a line of more than 262144 bytes"):
        read_trace(path)
    path = write(gzip.compress(b"[" + b" " * 2**26))
    with pytest.raises(DataError, match="found a line of more than 262144 bytes"):
        read_trace(path)


def test_more_requests_than_fit_are_refused_but_for_a_window_of_them(write, monkeypatch):
    monkeypatch.setattr("papi_env.workload.traces.gather.MAX_ROWS", 2)
    with pytest.raises(ConfigurationError, match=r"holds more than 2 requests, expected a window"):
        read_trace(write(VIDUR))
    assert len(read_trace(write(VIDUR), window_s=1)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delimiter": ";;"}, "delimiter is ';;', expected one character"),
        ({"delimiter": "7"}, "delimiter is '7', expected one character"),
        ({"time_unit": "h"}, "Unknown time unit 'h'"),
        ({"start_s": -1}, "start_s is -1, expected seconds from 0"),
        ({"window_s": float("nan")}, "window_s is nan, expected seconds"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(write, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        read_trace(write(VIDUR), **arguments)
    with pytest.raises(DataError, match=r":2: field 'TIMESTAMP': found '2023.*, expected plain milliseconds"):
        read_trace(write(AZURE_2023), time_unit="ms")


def test_what_is_damaged_or_endless_is_refused(write):
    lone = json.dumps([{"timestamp": 0, "input_length": "\ud800", "output_length": 1, "hash_ids": []}])
    with pytest.raises(DataError, match=r"field 'input_length': found"):
        read_trace(write(lone, "lone.json"))
    padded = gzip.compress(AZURE_2023.encode())
    assert len(read_trace(write(padded + bytes(100), "padded.gz")).input_lengths) == 3
    with pytest.raises(DataError, match="zeros after it"):
        read_trace(write(padded + bytes(4 * files.MAX_PADDING), "zeros.gz"))
    with pytest.raises(DataError, match=r"blank.csv:5: found more than 1000 blank lines"):
        read_trace(write(AZURE_2023 + "\n" * 2000, "blank.csv"))
    long = {"timestamp": ["1" * (tables.MAX_FIELD + 1)], "input_length": [1], "output_length": [1]}
    path = write(b"", "long.parquet")
    pl.DataFrame({**long, "hash_ids": [[1]]}).write_parquet(path)
    with pytest.raises(DataError, match=r"row 1: field 'timestamp': found a text of more than"):
        read_trace(path)


def test_a_parquet_file_that_ends_its_decoder_does_not_end_the_process(write, monkeypatch):
    path = write(b"", "trace.parquet")
    pl.DataFrame({"arrived_at": [0.0], "num_prefill_tokens": [1], "num_decode_tokens": [1]}).write_parquet(
        path
    )
    assert len(read_trace(path).input_lengths) == 1
    monkeypatch.setattr(parquet, "DECODE", "import os; os.abort()\n")
    with pytest.raises(DataError, match="reading it ends the process, status -6"):
        read_trace(path)
