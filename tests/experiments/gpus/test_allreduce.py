"""`experiments.validate --allreduce`: what it prints, and how it refuses bad files."""

import json

import numpy as np
import pytest

from experiments.gpus.validate_allreduce import validate_allreduce
from experiments.validate import main
from papi_env.errors import DataError
from papi_env.hardware.collectives import all_reduce_s, nccl_s
from papi_env.hardware.links import NVLINK3, NVLINK4

HEADER = "gpu,gpus,bytes,min_us,median_us"
# Made up.
ROWS = ["a100,2,2048,10,11", "a100,8,33554432,400,410", "H100,8,1000000,30,32", "h100,8,67108864,400,420"]


@pytest.fixture
def write(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


def test_nccl_and_the_rule_are_compared_with_the_lowest_times(write):
    result = validate_allreduce(write(*ROWS))
    kinds = [("a100", 2, 2048), ("a100", 8, 33554432), ("h100", 8, 1000000), ("h100", 8, 67108864)]
    lowest, median = np.array([10, 400, 30, 400]) * 1e-6, np.array([11, 410, 32, 420]) * 1e-6
    links = {"a100": NVLINK3, "h100": NVLINK4}
    nccl = np.array([nccl_s(size, n, gpu) for gpu, n, size in kinds])
    rule = np.array([all_reduce_s(size, n, links[gpu]) for gpu, n, size in kinds])
    assert result["rows"] == 4
    assert result["mape"] == pytest.approx(np.abs(nccl / lowest - 1).mean())
    assert result["bias"] == pytest.approx(np.median(nccl / lowest - 1))
    assert result["median"]["mape"] == pytest.approx(np.abs(nccl / median - 1).mean())
    assert result["rule"]["max"] == pytest.approx(np.abs(rule / lowest - 1).max())
    assert list(result["by"]["gpus"]) == ["2 a100", "8 a100", "8 h100"]
    for parts in (*result["by"].values(), *result["rule"]["by"].values()):
        assert sum(part["rows"] for part in parts.values()) == 4
    assert {name: part["rows"] for name, part in result["by"]["bytes_up_to"].items()} == {
        "1 MB": 2,
        "more": 2,
    }


def test_the_command_prints_one_line_of_json(write, tmp_path, capsys):
    assert main(["--allreduce", str(write(*ROWS)), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed)["rows"] == 4
    assert (tmp_path / "out" / "allreduce.json").read_text() == printed


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("b100,2,2048,10,10", "field 'gpu': found 'b100', expected one of a100, h100"),
        ("a100,1,2048,10,10", "field 'gpus': found '1', expected a whole number from 2"),
        ("a100,2,0,10,10", "field 'bytes': found '0', expected a whole number from 1"),
        ("a100,2,2048,0,10", "field 'min_us': found '0', expected a number > 0"),
        ("a100,2,2048,1e-320,10", "field 'min_us': found '1e-320', expected a number from 1e-100"),
        ("a100,2,2048,10,-1", "field 'median_us': found '-1', expected a number > 0"),
        ("a100,2,2048,10", "field 'median_us': found 4 fields, expected 5"),
    ],
)
def test_a_bad_field_is_answered_with_file_line_and_what_was_expected(write, row, words):
    path = write(ROWS[0], row)
    with pytest.raises(DataError) as error:
        validate_allreduce(path)
    assert str(error.value).startswith(f"{path}:3: {words}")


def test_a_misspelt_column_is_answered_with_the_nearest(write):
    path = write(ROWS[0], header="gpu,gpus,byte,min_us,median_us")
    with pytest.raises(
        DataError, match=r"field 'bytes': found no such column, expected one \(did you mean 'byte'"
    ):
        validate_allreduce(path)
