"""`experiments.validate --cycles`: what it prints, and how it refuses bad files."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.attacc.cycles import fit_open_rows, predict, read_cycles, validate_cycles
from experiments.validate import main
from papi_env.errors import DataError
from papi_env.hardware.attention import REBUILT, SHIPPED

HEADER = "L,nhead,dhead,dbyte,pim_type,power_constraint,cycle"
# Rows of AttAcc's shipped table, and of the current revision of its cycle-level model.
SHIPPED_ROWS = [
    "2048,51,128,2,BA,True,16383",
    "512,512,128,2,BA,True,33157",
    "2048,243,128,2,BA,False,48336",
    "2609,157,160,1,BA,True,52923",
    "2048,300,128,1,BA,True,39412",
    "2048,130,128,2,BG,False,82515",
    "2048,157,160,1,BG,True,84539",
    "2048,130,128,2,BUFFER,True,344577",
]
REBUILT_ROWS = [
    "129,2,128,2,BA,True,297",
    "193,29,128,2,BA,True,745",
    "545,116,128,2,BA,True,9077",
    "2081,231,128,2,BA,True,63050",
]


@pytest.fixture
def write(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


# --- what it says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("lines", "revision"), [(SHIPPED_ROWS, "shipped"), (REBUILT_ROWS, "rebuilt")])
def test_the_revision_of_a_file_is_recognised_and_both_are_reported(write, lines, revision):
    result = validate_cycles(write(*lines))
    assert result["revision"] == revision
    assert result["rows"] == len(lines)
    assert set(result["revisions"]) == {"shipped", "rebuilt"}
    for name in ("mape", "p95", "max"):
        assert result[name] == result["revisions"][revision][name] < 0.03
    assert result["mape"] < min(0.02, *(r["mape"] for n, r in result["revisions"].items() if n != revision))


def test_groups_are_split_by_field_and_add_up(write):
    result = validate_cycles(write(*SHIPPED_ROWS))
    assert {field: list(groups) for field, groups in result["by"].items()} == {
        "pim_type": ["BA", "BG", "BUFFER"],
        "power_constraint": ["False", "True"],
        "dbyte": ["1", "2"],
        "dhead": ["128", "160"],
    }
    for groups in result["by"].values():
        assert sum(group["rows"] for group in groups.values()) == len(SHIPPED_ROWS)
        mean = sum(group["rows"] * group["mape"] for group in groups.values()) / len(SHIPPED_ROWS)
        assert mean == pytest.approx(result["mape"])
        assert max(group["max"] for group in groups.values()) == result["max"]


def test_the_bank_level_fp16_rows_need_a_pair_for_every_channel(write):
    result = validate_cycles(write(*REBUILT_ROWS))
    assert result["bank_fp16_16pairs"]["rows"] == 3
    nothing = validate_cycles(write(SHIPPED_ROWS[-1]))["bank_fp16_16pairs"]
    assert nothing == {"rows": 0, "mape": None, "p95": None, "max": None}


def test_errors_are_fractions_of_the_reference(write):
    rows = read_cycles(write("1000,64,128,2,BA,True,1"))
    clocks = predict(rows, REBUILT)[0]
    result = validate_cycles(write(f"1000,64,128,2,BA,True,{2 * round(clocks)}"), "rebuilt")
    assert result["max"] == pytest.approx(0.5, abs=1e-3)


def test_a_revision_can_be_asked_for(write):
    result = validate_cycles(write(*REBUILT_ROWS), "shipped")
    assert result["revision"] == "shipped"
    assert result["mape"] == result["revisions"]["shipped"]["mape"]


def test_other_columns_and_other_orders_are_fine(write):
    path = write(
        "True,5,51,2048,BA,128,16383,2", header="power_constraint,mac,nhead,L,pim_type,dhead,cycle,dbyte"
    )
    assert validate_cycles(path)["max"] < 0.02


def test_the_fit_arrives_near_the_constant_in_use(write):
    assert fit_open_rows(read_cycles(write(*REBUILT_ROWS)), REBUILT) == pytest.approx(
        REBUILT.open_rows, abs=0.1
    )


@pytest.mark.parametrize("open_rows", [0.2, 0.5, 0.9])
def test_the_fit_finds_the_constant_that_rows_were_made_with(write, open_rows):
    rows = read_cycles(write(*(f"{128 * k},{17 * k},128,2,BA,True,1" for k in range(1, 12))))
    made = replace(rows, cycle=predict(rows, replace(REBUILT, open_rows=open_rows)).astype(np.int64))
    assert fit_open_rows(made, REBUILT) == open_rows


# --- the command line ------------------------------------------------------------------------------


def test_one_line_of_json(write, capsys, tmp_path):
    assert main(["--cycles", str(write(*SHIPPED_ROWS)), "--fit", "--out", str(tmp_path / "new" / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("\n") == 1
    result = json.loads(printed.out)
    assert result["fit"]["open_rows"]["used"] == SHIPPED.open_rows
    assert json.loads((tmp_path / "new" / "out" / "cycles.json").read_text()) == result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--allreduce, --serving, --moe: found none, expected one of them"),
        (["--cycles", "a", "--grid", "b"], "found --cycles and --grid, expected one of them"),
        (["--cycles", "a", "--attacc-compatible"], "--attacc-compatible belongs to --grid"),
        (["--grid", "a", "--fit"], "--fit belongs to --cycles"),
        (["--cycles", "no-such-file"], "no-such-file: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_used_ends_with_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


def test_what_cannot_be_compared_leaves_no_folder(write, capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["--cycles", str(tmp_path / "no-such-file"), "--out", str(out)]) == 2
    assert not out.exists()
    assert main(["--cycles", str(write(*SHIPPED_ROWS)), "--out", str(out)]) == 0


def test_a_folder_that_is_none_ends_with_status_2(write, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["--cycles", str(write(*REBUILT_ROWS)), "--out", str(tmp_path / "file")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "file: exists and holds no run; choose another folder" in printed.err


def test_the_grid_is_another_modules(monkeypatch, capsys):
    grid = SimpleNamespace(
        validate_grid=lambda path, compatible: {"path": str(path), "compatible": compatible}
    )
    monkeypatch.setitem(sys.modules, "experiments.attacc.validate_grid", grid)
    assert main(["--grid", "some.csv", "--attacc-compatible"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "some.csv", "compatible": True}


# --- bad files -------------------------------------------------------------------------------------

GOOD = "2048,51,128,2,BA,True,16383"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("x,51,128,2,BA,True,1", r":3: field 'L': found 'x', expected a whole number from 1 to 1048576"),
        ("0,51,128,2,BA,True,1", r":3: field 'L': found '0', expected a whole number"),
        ("-5,51,128,2,BA,True,1", r":3: field 'L': found '-5', expected a whole number"),
        ("12.5,51,128,2,BA,True,1", r":3: field 'L': found '12.5', expected a whole number"),
        ("nan,51,128,2,BA,True,1", r":3: field 'L': found 'nan', expected a whole number"),
        (",51,128,2,BA,True,1", r":3: field 'L': found '', expected a whole number"),
        ("1_0,51,128,2,BA,True,1", r":3: field 'L': found '1_0', expected a whole number"),
        ("٣,51,128,2,BA,True,1", r":3: field 'L': found '٣', expected a whole number"),
        (
            "2048,0,128,2,BA,True,1",
            r":3: field 'nhead': found '0', expected a whole number from 1 to 1048576",
        ),
        (
            "2048,51,9999,2,BA,True,1",
            r":3: field 'dhead': found '9999', expected a whole number from 1 to 4096",
        ),
        ("2048,51,128,99,BA,True,1", r":3: field 'dbyte': found '99', expected a whole number from 1 to 8"),
        ("2048,51,128,2,BA,True,0", r":3: field 'cycle': found '0', expected a whole number"),
        ("2048,51,128,2,BA,True,inf", r":3: field 'cycle': found 'inf', expected a whole number"),
        (
            "2048,51,128,2,BA,True,1" + "0" * 80,
            r":3: field 'cycle': found '10+\.\.\.', expected a whole number",
        ),
        ("2048,51,128,2,BANK,True,1", r":3: field 'pim_type': found 'BANK', expected one of BA, BG, BUFFER"),
        ("2048,51,128,2,BA,yes,1", r":3: field 'power_constraint': found 'yes', expected True or False"),
        ("2048,51,128,2,BA,1,1", r":3: field 'power_constraint': found '1', expected True or False"),
        ("2048,51,128,2,BA,True", r":3: field 'cycle': found 6 fields, expected 7"),
        ("2048,51,128,2,BA,True,1,1", r":3: found 8 fields, expected 7"),
        ('2048,51,128,2,"BA,True,1', r":3: found .*, expected comma-separated values"),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(write, bad, message):
    with pytest.raises(DataError, match=r"rows\.csv" + message):
        read_cycles(write(GOOD, bad))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("L,nhead,dhead,dbyte,pim_type,power_constraint", r":1: field 'cycle': found no such column"),
        ("L,nhead,dhead,dbyte,pim_type,power_constraint,cycles", r"'cycle'.*\(did you mean 'cycles'\?\)"),
        (HEADER + ",L", r":1: field 'L': found 2 such columns, expected one"),
        ("1,2,3,4,5,6,7", r":1: field 'L': found no such column"),
        ("", r":1: found an empty file, expected a line of column names"),
    ],
)
def test_a_bad_header_is_named(write, header, message):
    with pytest.raises(DataError, match=message):
        read_cycles(write(GOOD, header=header) if header else write(header=""))


def test_a_header_alone_is_no_data(write):
    with pytest.raises(DataError, match=r"rows\.csv:1: found a header and no rows, expected at least one"):
        read_cycles(write())


def test_a_fit_needs_rows_at_bank_level(write):
    with pytest.raises(DataError, match="found no rows of pim_type BA"):
        validate_cycles(write(SHIPPED_ROWS[-1]), fit=True)


def test_numbers_are_integers(write):
    rows = read_cycles(write(GOOD))
    assert rows.L.dtype == rows.cycle.dtype == np.int64
    assert rows.power_constraint.dtype == np.bool_
