"""`experiments.validate --gpu-kernels`: both layouts, what it prints, the fit, and how it refuses bad files."""

import csv
import json

import numpy as np
import pytest

from experiments.gpus import validate_kernels as validation
from experiments.gpus.kernels import KERNELS, OWN, VIDUR, read_kernels
from experiments.gpus.search import minimise
from experiments.gpus.validate_kernels import predict, roofline, validate_kernels
from experiments.validate import main
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.gpu_kernels import FITTED, KERNEL_CONSTANTS, RANGES, fc_s

# Made up: an eighth and a quarter of two layers, four heads of 128 with two of keys and values, and eight of 64.
SMALL = {"heads": 4, "kv_heads": 2, "hidden": 512, "feed_forward": 1536}
LARGE = {"heads": 8, "kv_heads": 8, "hidden": 512, "feed_forward": 2048}


def line(gpu="a100", model="small", tp=1, n=1, sizes=SMALL, **changes):
    times = {"qkv_us": 5.0, "projection_us": 4.0, "up_us": 7.5, "down_us": 6.0}
    return {"gpu": gpu, "model": model, "tp": tp, "n": n} | sizes | times | {"norm1_us": 0} | changes


def vidur_line(tp=1, n=1, sizes=SMALL, gated="True", **changes):
    """The same times in Vidur's columns, ms."""
    own = line(sizes=sizes)
    names = {
        "n_head": "heads",
        "n_kv_head": "kv_heads",
        "n_embd": "hidden",
        "n_expanded_embd": "feed_forward",
    }
    times = {theirs: own[ours] / 1000 for theirs, ours in zip(VIDUR.times, OWN.times, strict=True)}
    more = {"num_tokens": n, "num_tensor_parallel_workers": tp, "use_gated_mlp": gated, "vocab_size": 32000}
    return times | {theirs: own[ours] for theirs, ours in names.items()} | more | changes


@pytest.fixture
def write(tmp_path):
    def write(*lines, drop=(), name="rows.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, [column for column in lines[0] if column not in drop], extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(lines)
        return path

    return write


def varied():
    """Lines of both GPUs, two models, two degrees of parallelism."""
    return [
        line(gpu, model, tp, n, sizes)
        for gpu in ("a100", "h100")
        for model, sizes in (("small", SMALL), ("large", LARGE))
        for tp in (1, 2)
        for n in (1, 100, 4096)
    ]


# --- reading ---------------------------------------------------------------------------------------


def test_the_four_kernels_have_the_shapes_of_one_gpu(write):
    rows = read_kernels(write(line(), line(tp=2, n=7), line(tp=4, gpu="H100")))
    assert rows.outputs.tolist() == [[1024, 512, 3072, 512], [512, 512, 1536, 512], [384, 512, 768, 512]]
    assert rows.inputs.tolist() == [[512, 512, 512, 1536], [512, 256, 512, 768], [512, 128, 512, 384]]
    assert rows.tokens.tolist() == [1, 7, 1]
    assert rows.gpu.tolist() == ["a100", "a100", "h100"]
    assert rows.seconds[0] == pytest.approx([5e-6, 4e-6, 7.5e-6, 6e-6])


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_vidurs_columns_say_the_same_and_its_folder_the_gpu(write, gpu):
    own = read_kernels(write(line(gpu, tp=2, n=3)))
    vidur = read_kernels(write(vidur_line(tp=2, n=3), name=f"compute/{gpu}/some/model-7b/mlp.csv"))
    for name in ("gpu", "tp", "tokens", "outputs", "inputs"):
        assert getattr(own, name).tolist() == getattr(vidur, name).tolist(), name
    assert vidur.seconds == pytest.approx(own.seconds)
    assert vidur.model.tolist() == ["512x1536, 4 and 2 heads"]


def test_the_gpu_of_a_file_without_one_can_be_named(write):
    path = write(vidur_line())
    assert read_kernels(path, "h100").gpu.tolist() == ["h100"]
    assert read_kernels(write(line(), drop=["gpu"]), "a100").gpu.tolist() == ["a100"]
    with pytest.raises(ConfigurationError, match=r"Unknown GPU 'h10'\. Did you mean 'h100'"):
        read_kernels(path, "h10")


def test_a_column_says_the_gpu_before_the_path_does(write):
    assert read_kernels(write(line("h100"), name="a100/rows.csv")).gpu.tolist() == ["h100"]


def test_a_feed_forward_without_a_gate_has_half_the_outputs(write):
    rows = read_kernels(write(vidur_line(gated="False"), name="a100.csv"))
    assert rows.outputs[0].tolist() == [1024, 512, 1536, 512]


def test_what_the_gpus_do_not_divide_is_the_fullest_gpus(write):
    rows = read_kernels(write(line(tp=3, sizes=SMALL | {"feed_forward": 1000})))
    assert rows.outputs[0].tolist() == [(2 + 2) * 128, 512, 2 * 334, 512]
    assert rows.inputs[0].tolist() == [512, 2 * 128, 512, 334]


# --- what it says ----------------------------------------------------------------------------------


def test_the_errors_are_fractions_of_the_measured_times(write):
    lines = varied()
    path = write(*lines)
    result = validate_kernels(path)
    rows = read_kernels(path)
    errors = np.abs(predict(rows, KERNEL_CONSTANTS) / rows.seconds - 1)
    assert result["rows"] == 4 * len(lines)
    assert result["mape"] == pytest.approx(errors.mean())
    assert result["p95"] == pytest.approx(np.percentile(errors, 95))
    assert result["max"] == pytest.approx(errors.max())
    sums = np.abs(predict(rows, KERNEL_CONSTANTS).sum(axis=1) / rows.seconds.sum(axis=1) - 1)
    assert result["sums"] == {
        "rows": len(lines),
        "mape": pytest.approx(sums.mean()),
        "p95": pytest.approx(np.percentile(sums, 95)),
        "max": pytest.approx(sums.max()),
    }


def test_a_kernel_is_timed_by_its_own_gpu(write):
    rows = read_kernels(write(*varied()))
    seconds = predict(rows, KERNEL_CONSTANTS)
    for at in (0, 5, 13, 23):
        for kernel in range(4):
            gpu = KERNEL_CONSTANTS[str(rows.gpu[at])]
            sizes = (int(values[at, kernel]) for values in (rows.outputs, rows.inputs))
            assert seconds[at, kernel] == pytest.approx(fc_s(gpu, int(rows.tokens[at]), *sizes))


def test_the_roofline_is_that_of_fixed_shares(write):
    rows = read_kernels(write(line(n=1), line(n=4096)))
    card = KERNEL_CONSTANTS["a100"]
    memory = 2 * (512 * 1024 + 512 + 1024) / (0.85 * card.memory_bandwidth)
    compute = 2 * 4096 * 512 * 1024 / (0.80 * card.peak_flops)
    assert roofline(rows)[:, 0] == pytest.approx([memory, compute])


def test_errors_are_split_and_add_up(write):
    lines = varied()
    result = validate_kernels(write(*lines))
    assert {name: list(parts) for name, parts in result["by"].items()} == {
        "gpu": ["a100", "h100"],
        "model": ["small", "large"],
        "tp": ["1", "2"],
        "n": ["1-16", "65-128", "1025-"],
        "kernel": list(KERNELS),
    }
    for parts in result["by"].values():
        assert sum(part["rows"] for part in parts.values()) == result["rows"]
        mean = sum(part["rows"] * part["mape"] for part in parts.values()) / result["rows"]
        assert mean == pytest.approx(result["mape"])


def test_the_command_prints_one_line_of_json(write, tmp_path, capsys):
    path = write(*varied())
    assert main(["--gpu-kernels", str(path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert {"rows", "mape", "p95", "max", "sums", "by", "roofline"} == set(json.loads(printed))
    assert (tmp_path / "out" / "gpu_kernels.json").read_text() == printed


# --- the fit ---------------------------------------------------------------------------------------


def made_up(rows):
    """Lines of both GPUs whose times are the model's own, by other constants than those in use."""
    return [
        line(gpu, model, tp, n, sizes)
        for gpu in ("a100", "h100")
        for model, sizes in (("small", SMALL), ("large", LARGE | {"feed_forward": 8192}))
        for tp in (1, 2)
        for n in rows
    ]


def test_the_fit_finds_what_made_the_times_and_stays_in_the_ranges(write):
    rows = read_kernels(
        write(*[one for one in made_up((1, 64, 100, 256, 1000, 4096)) if one["gpu"] == "a100"])
    )
    rows.seconds[:] = predict(rows, KERNEL_CONSTANTS)
    found = validation.fit("a100", rows)
    assert validation.loss(rows, predict(rows, {"a100": found})) < 0.03
    for name in FITTED:
        assert RANGES[name][0] <= getattr(found, name) <= RANGES[name][1]
    assert found.start_s == pytest.approx(KERNEL_CONSTANTS["a100"].start_s, rel=0.15)


def test_refit_shows_constants_and_what_was_left_out(write, monkeypatch):
    monkeypatch.setattr(validation, "_EVALUATIONS", 30)
    result = validate_kernels(write(*made_up((1, 100))), refit=True)
    assert set(result["constants"]) == {"a100", "h100"}
    assert set(result["constants"]["a100"]["fitted"]) == set(FITTED)
    for name, groups in (("tp", {"1", "2"}), ("model", {"small", "large"})):
        left_out = result["left_out"][name]
        assert set(left_out["groups"]) == groups
        assert set(left_out["gpu"]) == {"a100", "h100"}
        assert (
            left_out["all"]["rows"] == result["rows"] == sum(g["rows"] for g in left_out["groups"].values())
        )


def test_refit_needs_something_to_leave_out(write, monkeypatch):
    monkeypatch.setattr(validation, "_EVALUATIONS", 10)
    with pytest.raises(DataError, match=r"found \[1\] alone for a100, expected at least two"):
        validate_kernels(write(line()), refit=True)


def test_the_search_finds_a_minimum_inside_and_one_at_the_edge():
    target = np.array([0.3, 0.8, 0.55])
    found = minimise(lambda x: float(np.abs(x - target).sum()), np.full(3, 0.5), evaluations=1500)
    assert found == pytest.approx(target, abs=1e-3)
    edge = minimise(lambda x: float(x[0] - x[1] + (x[2] - 0.5) ** 2), np.full(3, 0.5), evaluations=1500)
    assert edge == pytest.approx([0, 1, 0.5], abs=1e-2)


# --- bad files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "h10"}, "field 'gpu': found 'h10', expected one of a100, h100 (did you mean 'h100'?)"),
        ({"gpu": ""}, "field 'gpu': found '', expected one of a100, h100"),
        ({"n": 0}, "field 'n': found '0', expected a whole number from 1 to 1048576"),
        ({"n": 1.5}, "field 'n': found '1.5', expected a whole number"),
        ({"tp": 0}, "field 'tp': found '0', expected a whole number from 1 to 4096"),
        ({"qkv_us": 0}, "field 'qkv_us': found '0', expected a number > 0"),
        ({"up_us": -3.5}, "field 'up_us': found '-3.5', expected a number > 0"),
        ({"down_us": "nan"}, "field 'down_us': found 'nan', expected a number > 0"),
        ({"projection_us": ""}, "field 'projection_us': found '', expected a number > 0"),
        ({"kv_heads": 5}, "field 'kv_heads': found '5', expected a whole number from 1 to 4"),
        ({"hidden": 510}, "field 'hidden': found '510', expected a multiple of heads (4)"),
        ({"hidden": 3}, "field 'hidden': found '3', expected a whole number from 4"),
    ],
)
def test_a_bad_field_is_answered_with_file_line_and_what_was_expected(write, change, words):
    path = write(line(), line(**change))
    with pytest.raises(DataError) as error:
        read_kernels(path)
    assert str(error.value).startswith(f"{path}:3: {words}")


@pytest.mark.parametrize("column", OWN.required)
def test_a_missing_column_is_named(write, column):
    path = write(line(), drop=[column])
    with pytest.raises(DataError) as error:
        read_kernels(path)
    assert str(error.value).startswith(f"{path}:1: field {column!r}: found no such column, expected one")


@pytest.mark.parametrize("column", VIDUR.required)
def test_a_missing_column_of_vidurs_is_named(write, column):
    path = write(vidur_line(), drop=[column], name="a100/mlp.csv")
    with pytest.raises(DataError, match=f"field '{column}': found no such column"):
        read_kernels(path)


def test_a_misspelt_column_is_answered_with_the_nearest(write):
    path = write({("qvk_us" if name == "qkv_us" else name): value for name, value in line().items()})
    with pytest.raises(
        DataError, match=r"field 'qkv_us': found no such column, expected one \(did you mean 'qvk_us'"
    ):
        read_kernels(path)


def test_a_file_that_does_not_say_its_gpu_is_told_how_to(write):
    path = write(vidur_line())
    with pytest.raises(DataError) as error:
        read_kernels(path)
    assert "field 'gpu': found no such column, and no GPU in the file's path" in str(error.value)
    assert "called by one of a100, h100" in str(error.value)


def test_a_file_without_rows_is_refused(write):
    path = write(line())
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="found a header and no rows"):
        read_kernels(path)


def test_the_command_says_so_in_one_line(write, capsys):
    path = write(line(n=0))
    assert main(["--gpu-kernels", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"{path}:2: field 'n'" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu-kernels", "a", "--fit"], "--fit belongs to --cycles"),
        (["--cycles", "a", "--refit"], "--refit belongs to --gpu-kernels"),
        (["--allreduce", "a", "--gpu", "a100"], "--gpu belongs to --gpu-kernels"),
        (
            ["--gpu-kernels", "a", "--allreduce", "b"],
            "found --gpu-kernels and --allreduce, expected one of them",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
