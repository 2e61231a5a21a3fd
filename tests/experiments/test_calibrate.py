"""α is the cost table's, for every system, model and reading, and mistakes end with one line and status 2."""

import json

from agents.batch.rules import calibrate_alpha
from experiments.calibrate import main
from papi_env.hardware.system import get_system


def test_every_reading_has_its_alpha(tmp_path, capsys):
    assert main(["--systems", "papi", "--models", "opt-30b", "llama-65b", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "alpha.json").read_text(encoding="utf-8"))
    assert len(rows) == 2 * 2 * 3
    printed = capsys.readouterr().out
    for row in rows:
        system = get_system("papi").with_readings(row["gpu_bandwidth"], row["bank_rate"])
        assert row["alpha"] == calibrate_alpha(system, row["model"])
        assert f"{row['alpha']:g}" in printed


def test_an_unknown_system_is_one_line_and_status_2(capsys):
    assert main(["--systems", "papy"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: Unknown system 'papy'. Did you mean 'papi'?")
    assert captured.err.count("\n") == 1
    assert not captured.out
