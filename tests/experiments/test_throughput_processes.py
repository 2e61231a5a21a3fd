"""Throughput over several processes and instruction sets: medians, what runs, and one error for what cannot be."""

import numpy as np
import pytest

from experiments.speed import instructions
from experiments.speed.parts import Findings, Ratio, usable_cores
from experiments.speed.processes import combined
from experiments.speed.replay import LENGTHS, replayed
from experiments.speed.summary import Asked, summarise
from experiments.throughput import main
from papi_env.errors import ConfigurationError


def summary_of(value, ratio, share=0.9, extra=False):
    """A summary of one row and two ratios."""
    found = Findings()
    found.add_values("grid", "Decode-v0", "s/point", [value], requests=16)
    if extra:
        found.add_values("grid", "Decode-v0", "s/point", [value], requests=32)
    found.ratios["ratio_decode_batch"] = Ratio.of(np.array([ratio]), "4096 environments")
    found.ratios["ratio_threads"] = Ratio(None, note="one core")
    summary = summarise(found, ["batch"], False, 0)
    summary["rows"][0]["cpu_share"] = share
    return summary


def test_figures_are_medians_over_processes():
    found = combined([summary_of(*each) for each in ((1.0, 0.8), (9.0, 0.4, 0.5), (3.0, 0.6))])
    (row,) = found.rows
    assert (row.value, row.low, row.high, row.cpu_share, row.requests) == (3.0, 2.0, 6.0, 0.5, 16)
    ratio = found.ratios["ratio_decode_batch"]
    assert (ratio.value, ratio.low, ratio.high) == (0.6, 0.5, pytest.approx(0.7))
    assert ratio.note == "4096 environments; 3 processes, 67% apart"
    assert found.ratios["ratio_threads"].value is None


def test_rows_that_not_all_have_are_left_out():
    found = combined([summary_of(1.0, 0.5), summary_of(1.0, 0.5, extra=True)])
    assert [row.requests for row in found.rows] == [16]


def test_another_process_is_asked_for_the_same(tmp_path):
    asked = Asked(quick=True, threads=3, trace=tmp_path / "a.csv")
    said = ["--only", "grid", "--threads", "3", "--trace", str(tmp_path / "a.csv"), "--quick"]
    assert asked.options(["grid"]) == said
    assert Asked().recorded() == {}


def test_narrower_instructions_are_asked_of_numba_and_numpy():
    variables = instructions.environment("avx2")
    assert variables["NUMBA_CPU_NAME"] == "haswell"
    # Without it numba adds this machine's features to those of the processor that is named.
    assert variables["NUMBA_CPU_FEATURES"] == ""
    assert "X86_V3" not in variables["NPY_DISABLE_CPU_FEATURES"].split()
    assert instructions.environment("native") == {}


def test_a_processor_that_llvm_does_not_know_is_an_error(monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "hasswell")
    with pytest.raises(ConfigurationError, match=r"NUMBA_CPU_NAME: .*'hasswell'. Did you mean 'haswell'"):
        instructions.check_processor()
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    instructions.check_processor()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--instructions", "avx3"], "Unknown instruction set 'avx3'. Did you mean 'avx2'"),
        (["--threads", str(usable_cores() + 1)], "expected 2 to the cores that this process may use"),
        (["--processes", "0"], "--processes is 0, expected at least 1"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_measured_is_one_error(arguments, said, capsys, tmp_path):
    assert main([*arguments, "--quick", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_trace_of_the_users_is_replayed_whole(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,10,3\n1,20,4\n2,30,5\n")
    scenario, what = replayed(path, 99)
    assert (scenario.serving.requests, what) == (3, "the trace mine.csv")
    scenario, what = replayed(None, 99)
    assert scenario.serving.requests == 99
    assert LENGTHS in what
    assert "generated" in what
