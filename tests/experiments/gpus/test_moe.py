"""Blocks of experts as measured: what a file must be, and what is said of it."""

import json

import numpy as np
import pytest

from experiments.gpus.validate_moe import predict, validate_moe
from experiments.validate import main
from papi_env.errors import DataError
from papi_env.hardware.experts import GROUPED, GroupedKernels
from papi_env.hardware.gpus import get_gpu
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import get_transformer

HEADER = "tokens,activated_experts,time_us\n"
LAYER = routing_of(get_transformer("qwen3-30b-a3b")).layer
CARD = get_gpu("rtx-pro-6000")
POINTS = [(1, 8), (2, 16), (16, 128), (64, 32), (256, 128), (2048, 8), (2048, 128)]


def written(folder, rows):
    path = folder / "moe.csv"
    path.write_text(HEADER + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    return path


def made_up(grouped=GROUPED):
    tokens, activated = np.array(POINTS).T
    seconds = predict(CARD, LAYER, tokens, activated, grouped)
    return [(*point, 1e6 * s) for point, s in zip(POINTS, seconds, strict=True)]


def test_a_file_of_the_formula_has_no_errors(tmp_path):
    found = validate_moe(written(tmp_path, made_up()))
    assert found["rows"] == len(POINTS)
    assert found["max"] < 1e-9
    assert set(found["by"]["activated_experts"]) == {"8", "16", "32", "128"}


def test_errors_are_relative_to_what_was_measured(tmp_path):
    rows = [(tokens, activated, 2 * us) for tokens, activated, us in made_up()]
    found = validate_moe(written(tmp_path, rows))
    assert found["mape"] == found["p95"] == pytest.approx(0.5)
    assert found["bias"] == pytest.approx(-0.5)


def test_a_refit_finds_the_constants_of_a_file(tmp_path):
    other = GroupedKernels(start_s=20e-6, share=0.6)
    found = validate_moe(written(tmp_path, made_up(other)), refit=True)["constants"]
    assert found["used"] == vars(GROUPED)
    assert found["fitted"]["start_s"] == pytest.approx(20e-6)
    assert found["fitted"]["share"] == pytest.approx(0.6)
    assert found["fitted"]["max"] < 1e-6


def test_the_formula_by_hand():
    """One token: eight experts' weights, and eight vectors through them, at 0.85 of 1597 GB/s, after 11 us."""
    size = 8 * (3 * 2048 * 768 + (2048 + 2 * 768) + (768 + 2048)) * 2
    expected = 11e-6 + size / (0.85 * 1597e9)
    assert predict(CARD, LAYER, np.array([1]), np.array([8]))[0] == pytest.approx(expected)
    # 2048 tokens on 8 experts are bound by compute.
    flops = 2 * 2048 * 8 * 3 * 2048 * 768
    expected = 11e-6 + flops / (0.85 * CARD.peak_flops)
    assert predict(CARD, LAYER, np.array([2048]), np.array([8]))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(1, 8, 50), (1, 16, 50)],
            r"moe\.csv:3: field 'activated_experts': found 16 experts for 1 tokens, expected at most 8",
        ),
        ([(1, 7, 50)], r":2: field 'activated_experts': found '7', expected a whole number from 8 to 128"),
        ([(64, 129, 50)], r"found '129', expected a whole number from 8 to 128"),
        ([(0, 8, 50)], r"field 'tokens': found '0', expected a whole number from 1"),
        ([(1, 8, 0)], r"field 'time_us': found '0', expected a number > 0"),
        ([(1, 8, "1e-320")], r"field 'time_us': found '1e-320', expected a number from 1e-100 to 1e\+100"),
        ([(1, 8, "nan")], r"field 'time_us': found 'nan', expected a number > 0"),
        ([(1, 8)], r":2: field 'time_us': found 2 fields, expected 3"),
        ([], r"found a header and no rows"),
    ],
)
def test_what_is_not_such_a_file_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        validate_moe(written(tmp_path, rows))


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "moe.csv"
    path.write_text("token,activated_experts,time_us\n1,8,50\n")
    with pytest.raises(
        DataError, match=r"field 'tokens': found no such column, expected one \(did you mean 'token'\?\)"
    ):
        validate_moe(path)


def test_the_command_prints_a_line(tmp_path, capsys):
    path = written(tmp_path, made_up())
    assert main(["--moe", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert {"rows", "mape", "p95", "max"} <= set(json.loads(out))
    assert main(["--moe", str(path), "--gpu", "a100"]) == 2
