"""FC kernels by table: between measured rows on a straight line, refused beyond, and every bad file is one message."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.measured import MAX_STEP, launch_shapes, load_measured, parse_measured
from papi_env.workload.transformer import PRESET_MODELS, get_transformer

HEADER = "outputs,inputs,rows,seconds"
# Made up.
LINES = [
    "4096,8192,1,10e-6",
    "4096,8192,4,16e-6",
    "4096,8192,16,40e-6",
    "8192,1366,1,5e-6",
    "8192,1366,2,6e-6",
]


@pytest.fixture
def write(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "gpu.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def measured(write):
    return load_measured(write(*LINES))


@pytest.mark.parametrize(
    ("rows", "us"), [(1, 10), (2, 12), (3, 14), (4, 16), (10, 28), (15, 38), (16, 40), (2.5, 13)]
)
def test_between_measured_rows_time_is_on_a_straight_line(measured, rows, us):
    assert measured.fc_s(rows, 4096, 8192) == pytest.approx(us * 1e-6)
    assert measured.seconds(4096, 8192, rows) == pytest.approx(us * 1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_times_have_the_shape_of_rows(measured, shape):
    rows = np.full(shape, 4, dtype=np.int32)
    found = measured.fc_s(rows, 4096, 8192)
    assert found.shape == shape
    assert found.dtype == np.float64
    assert (found == 16e-6).all()
    assert isinstance(measured.seconds(4096, 8192, 4), float)


@pytest.mark.parametrize("inputs", [8192 / 6, 1366, 1366.0, 1366 / 7 * 7, np.float64(8192) / 6])
def test_a_fraction_of_an_even_split_is_rounded_up(measured, inputs):
    assert measured.seconds(8192, inputs, 2) == 6e-6


@pytest.mark.parametrize("rows", [0, 17, -1, 0.5, float("nan"), float("inf"), [4, 17], [[1], [100]]])
def test_rows_beyond_those_measured_are_refused(measured, rows):
    words = r"gpu.csv: FC kernels of 4096 outputs x 8192 inputs were measured for 1 to 16 rows, found "
    with pytest.raises(ConfigurationError, match=words):
        measured.fc_s(np.asarray(rows), 4096, 8192)


@pytest.mark.parametrize(
    ("outputs", "inputs", "near"),
    [(4096, 8191, "4096 outputs x 8192 inputs"), (8192, 1024, "8192 outputs x 1366 inputs")],
)
def test_a_shape_never_measured_is_refused_with_the_nearest(measured, outputs, inputs, near):
    words = (
        f"{outputs} outputs x {inputs} inputs were never measured; the nearest of 2 measured shapes is {near}"
    )
    with pytest.raises(ConfigurationError, match=words):
        measured.fc_s(1, outputs, inputs)


@pytest.mark.parametrize("size", [0, -4, float("nan"), float("inf")])
def test_a_length_that_is_none_is_refused(measured, size):
    with pytest.raises(ConfigurationError, match=r"outputs is .*, expected a length of at least 1"):
        measured.fc_s(1, size, 8192)
    with pytest.raises(ConfigurationError, match=r"inputs is .*, expected a length of at least 1"):
        measured.fc_s(1, 4096, size)


def test_groups_of_matrices_are_refused(measured):
    assert measured.seconds(4096, 8192, 1, groups=1) == 10e-6
    with pytest.raises(ConfigurationError, match="2 groups of matrices were not measured"):
        measured.fc_s(1, 4096, 8192, groups=2)


def test_arrays_cannot_be_changed_and_the_object_travels(measured):
    for curve in measured.curves.values():
        for array in curve:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    with pytest.raises(AttributeError):
        measured.path = "other"
    assert pickle.loads(pickle.dumps(measured)).seconds(4096, 8192, 2) == pytest.approx(12e-6)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_comments_blank_lines_spaces_quotes_and_any_order_are_allowed(tmp_path, newline):
    path = tmp_path / "gpu.csv"
    lines = [
        "\ufeff# gpu: A100, 80 GB",
        "",
        "rows, seconds ,inputs,outputs",
        "  # second",
        '"4",2e-5,8,16',
        "1,1E-5,8,16",
        "#",
    ]
    path.write_bytes(newline.join(lines).encode())
    measured = load_measured(path)
    assert measured.comments == ("gpu: A100, 80 GB", "second", "")
    assert measured.seconds(16, 8, 3) == pytest.approx(1e-5 * 5 / 3)


def test_a_file_is_read_once_until_it_changes(write):
    path = write(*LINES)
    first = load_measured(path)
    assert load_measured(str(path)) is first
    # The same size and another time, then another size and the same time.
    now = os.stat(path).st_mtime_ns
    write(*[line.replace("10e-6", "11e-6") for line in LINES])
    os.utime(path, ns=(now + 10**9, now + 10**9))
    second = load_measured(path)
    assert second.seconds(4096, 8192, 1) == 11e-6
    write(*LINES, "8192,1366,3,7e-6")
    os.utime(path, ns=(now + 10**9, now + 10**9))
    assert load_measured(path).seconds(8192, 1366, 3) == 7e-6
    assert first.seconds(4096, 8192, 1) == 10e-6


def refused(path):
    with pytest.raises(DataError) as error:
        load_measured(path)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("4096,8192,x,1e-5", "column 'rows': found 'x', expected a whole number from 1 to"),
        ("many,8192,2,1e-5", "column 'outputs': found 'many', expected a whole number"),
        ("4096,0,2,1e-5", "column 'inputs': found '0', expected a whole number from 1"),
        ("-4096,8192,2,1e-5", "column 'outputs': found '-4096', expected a whole number from 1"),
        ("4096,8192,1.5,1e-5", "column 'rows': found '1.5', expected a whole number"),
        ("4096,8192,1_0,1e-5", "column 'rows': found '1_0', expected a whole number"),
        ("4096,8192,²,1e-5", "column 'rows': found '²', expected a whole number"),
        (f"4096,8192,{2**30 + 1},1e-5", "column 'rows': found '1073741825', expected a whole number from 1"),
        ("4096,8192,,1e-5", "column 'rows': found '', expected a whole number"),
        ("4096,8192,2,fast", "column 'seconds': found 'fast', expected seconds, a number > 0"),
        ("4096,8192,2,", "column 'seconds': found '', expected seconds"),
        ("4096,8192,2,0", "column 'seconds': found '0', expected seconds, a number > 0"),
        ("4096,8192,2,-1e-5", "column 'seconds': found '-1e-5', expected seconds, a number > 0"),
        ("4096,8192,2,nan", "column 'seconds': found 'nan', expected seconds, a number > 0"),
        ("4096,8192,2,inf", "column 'seconds': found 'inf', expected seconds, a number > 0"),
        ("4096,8192,2,1e-999", "column 'seconds': found '1e-999', expected seconds, a number > 0"),
        ("4096,8192,2,1_0e-6", "column 'seconds': found '1_0e-6', expected seconds"),
        (
            "4096,8192,2,812.5",
            "column 'seconds': found '812.5', expected seconds, a number > 0 and at most 100",
        ),
        (
            "4096,8192,4,1e-5",
            "found 4096 outputs x 8192 inputs with 4 rows again, expected them once: line 3",
        ),
        (
            "4096,8192,65,1e-5",
            "4096 outputs x 8192 inputs: found 65 rows next after 16, a gap; expected at most 4",
        ),
        ("1,1,1,1e-5", r"1 outputs x 1 inputs: found rows [1] alone, expected at least two numbers of rows"),
        ("4096,8192,2", "found 3 fields, expected 4: outputs,inputs,rows,seconds"),
        ("4096,8192,2,1e-5,a100", "found 5 fields, expected 4: outputs,inputs,rows,seconds"),
        ('4096,8192,2,"1e-5', "found unexpected end of data, expected comma-separated values"),
        (f"4096,8192,{'9' * 200},1e-5", f"column 'rows': found '{'9' * 57}...', expected"),
    ],
)
def test_a_bad_line_is_answered_with_file_line_and_what_was_expected(write, line, words):
    path = write(*LINES, line)
    assert refused(path).startswith(f"{path}:7: {words}")


def test_the_line_counts_comments_and_blank_lines(write):
    path = write("# a comment", "", "4096,8192,x,1e-5")
    assert refused(path).startswith(f"{path}:4: column 'rows'")


def test_a_step_of_four_is_no_gap(write):
    assert load_measured(write(*LINES, "4096,8192,64,1e-4")).seconds(4096, 8192, 64) == 1e-4


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "outputs,inputs,rows",
            "column 'seconds': found no such column, expected the header outputs,inputs,rows",
        ),
        (
            "outputs,inputs,row,seconds",
            "column 'rows': found no such column, expected the header {}; did you mean",
        ),
        (
            "Outputs,inputs,rows,seconds",
            "column 'outputs': found no such column, expected the header {}; did you",
        ),
        ("outputs,inputs,rows,time_us", "column 'seconds': found no such column"),
        ("outputs,inputs,rows,rows,seconds", "column 'rows': found 2 such columns, expected the header"),
        ("outputs,inputs,rows,seconds,xyz", "column 'xyz': not a known column, expected the header"),
        (
            "outputs,inputs,rows,seconds,second",
            "column 'second': not a known column (nearest is 'seconds'), exp",
        ),
        ("4096,8192,1,1e-5", "column 'outputs': found no such column"),
    ],
)
def test_a_bad_header_is_answered_with_the_nearest_name(write, header, words):
    path = write(*LINES, header=header)
    assert refused(path).startswith(f"{path}:1: {words.format(HEADER)}")


def test_a_file_with_nothing_in_it_is_refused(tmp_path, write):
    path = tmp_path / "gpu.csv"
    for text in ("", "\n\n", "# gpu: none\n"):
        path.write_text(text, encoding="utf-8")
        assert refused(path) == f"{path}:1: found an empty file, expected the header {HEADER}"
    path = write("# no rows")
    assert refused(path).startswith(f"{path}:1: found a header and no rows, expected at least two of each")


def test_what_is_no_file_of_text_is_refused(tmp_path):
    missing = tmp_path / "missing.csv"
    assert refused(missing) == f"{missing}: cannot be read: No such file or directory"
    assert refused(tmp_path).startswith(
        f"{tmp_path}: cannot be read: found a directory, expected a regular file"
    )
    assert refused("/dev/null").startswith(
        "/dev/null: cannot be read: found a device or pipe, expected a regular file"
    )
    assert "embedded null" in refused("a\0b")
    path = tmp_path / "gpu.csv"
    path.write_bytes(f"{HEADER}\n1,1,1,".encode() + b"\xff")
    assert refused(path) == f"{path}:2: found byte 0xff, expected UTF-8 text"


def test_a_bad_file_is_read_again_once_it_is_mended(write):
    path = write("4096,8192,x,1e-5")
    refused(path)
    assert load_measured(write(*LINES)).seconds(4096, 8192, 1) == 10e-6


@st.composite
def tables(draw):
    """The times of one shape by number of rows, without gaps."""
    rows = [draw(st.integers(1, 100))]
    for _ in range(draw(st.integers(1, 8))):
        rows.append(draw(st.integers(rows[-1] + 1, MAX_STEP * rows[-1])))
    times = draw(st.lists(st.floats(1e-9, 100), min_size=len(rows), max_size=len(rows)))
    return dict(zip(rows, times, strict=True))


@given(tables(), st.data())
def test_times_are_those_measured_and_lie_between_their_neighbours(times, data):
    lines = data.draw(st.permutations([f"3,5,{rows},{time!r}" for rows, time in times.items()]))
    measured = parse_measured("\n".join([HEADER, *lines]), path="any")
    low, high = min(times), max(times)
    asked = np.array(data.draw(st.lists(st.integers(low, high), min_size=1, max_size=20)))
    found = measured.fc_s(asked, 5 / 2 + 0.5, 5)
    for rows, seconds in zip(asked.tolist(), found.tolist(), strict=True):
        assert seconds == measured.seconds(3, 5, rows)
        around = [times[max(n for n in times if n <= rows)], times[min(n for n in times if n >= rows)]]
        assert min(around) * (1 - 1e-12) <= seconds <= max(around) * (1 + 1e-12)
        if rows in times:
            assert seconds == times[rows]
    for rows in (low - 1, high + 1):
        with pytest.raises(ConfigurationError, match="were measured for"):
            measured.fc_s(rows, 3, 5)


# --- what is looked up -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gpus", "shapes"),
    [
        # 24576 / 6, 8192 / 6, 2 x 22016 / 6 and 22016 / 6, rounded up.
        ("llama-65b", 6, ((4096, 8192), (8192, 1366), (7339, 8192), (8192, 3670))),
        # QKV of grouped queries: 8192 + 2 x 1024.
        ("llama2-70b", 1, ((10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672))),
        # No gate.
        ("opt-30b", 2, ((10752, 7168), (7168, 3584), (14336, 7168), (7168, 14336))),
    ],
)
def test_the_launches_are_those_of_a_layer_on_one_gpu(name, gpus, shapes):
    assert launch_shapes(get_transformer(name).fc_kernels(), gpus) == shapes


@given(st.sampled_from(sorted(PRESET_MODELS)), st.integers(1, 64))
def test_the_gpus_together_hold_all_weights(name, gpus):
    model = get_transformer(name)
    shapes = launch_shapes(model.fc_kernels(), gpus)
    whole = sum(kernel.inner * kernel.outer for kernel in model.fc_kernels())
    held = gpus * sum(outputs * inputs for outputs, inputs in shapes)
    # One more output or input of each at most.
    assert whole <= held <= whole + gpus * sum(max(shape) for shape in shapes)


def test_other_kernels_and_no_gpus_are_refused():
    kernels = get_transformer("llama-65b").fc_kernels()
    for others in ((), kernels[:3], kernels[1:], (*kernels, kernels[-1]), kernels[::-1]):
        with pytest.raises(ConfigurationError, match=r"FC kernels are .*, expected those of a decoder layer"):
            launch_shapes(others, 6)
    with pytest.raises(ConfigurationError, match="gpus is 0, expected at least one"):
        launch_shapes(kernels, 0)
