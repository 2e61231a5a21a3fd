"""The paper's rows: calibrated honestly, bounded by physics, and written down whole."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import reproduce
from experiments.common.pools import OwnProcess
from experiments.common.runner import RunFolder
from experiments.paper import calibration, exploration_report, explore
from experiments.paper.calibration import (
    BEST,
    BEST_FIT,
    FITS,
    REPRODUCTION,
    REPRODUCTION_FIT,
    UNFITTED,
    Calibration,
    place,
    scale,
)
from experiments.paper.published import CALIBRATION_ROWS, NUMBER_ROWS, PUBLISHED, published_value
from experiments.paper.readings import AVERAGES, BOUNDS, CHOICES, Setting, build_system
from experiments.paper.reproduction import READINGS, within
from experiments.paper.rows import Bench
from experiments.reporting.registry import sections_of
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import SYSTEMS

# Settings are of NVLink or of a host's links; machines with other fabrics have no such readings.
READABLE = sorted(
    name for name, s in SYSTEMS.items() if s.fabric is None or s.fabric.name.startswith("NVLink")
)
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    printed = tmp_path_factory.mktemp("reproduce") / "printed.txt"
    with pytest.MonkeyPatch.context() as patch, printed.open("w", encoding="utf-8") as file:
        patch.setattr(reproduce, "_figures", lambda folder, entries: [])
        patch.setattr("sys.stdout", file)
        assert reproduce.main(["--out", str(folder), "--seeds", "2"]) == 0
    return folder, printed.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def entries(run):
    return json.loads((run[0] / "reproduction.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compared(run):
    readings = json.loads((run[0] / "readings.json").read_text(encoding="utf-8"))
    return {entry["reading"]: entry for entry in readings}


def test_a_report_has_every_row(run, entries):
    found = {part.title: part for part in sections_of([run[0]])[0].parts}
    shown = [row[0] for title in ("Rows", "Orders and facts, by reading") for row in found[title].rows]
    assert sorted(shown) == sorted(entry["row"] for entry in entries)


def test_every_row_is_there_with_what_it_needs(entries):
    assert [entry["row"] for entry in entries] == list(PUBLISHED)
    for entry in entries:
        keys = {"row", "quantity", "source", "paper", "simulated", "ratio", "role", "readings", "by_reading"}
        assert keys <= entry.keys()
        assert ("uncalibrated" in entry) == (not entry["row"].startswith("F"))
        assert len(entry.get("uncalibrated", range(6))) == 6
        assert list(entry["by_reading"]) == [reading.name for reading in READINGS]
        if entry["row"] in NUMBER_ROWS:
            assert entry["ratio"] == pytest.approx(entry["simulated"] / entry["paper"])
            assert set(entry["averages"]) == set(AVERAGES)
        else:
            assert entry["ratio"] is None
            assert all(isinstance(item["holds"], bool) for item in entry["by_reading"].values())


def test_every_reading_and_row_is_printed(run):
    _, printed = run
    words = printed.split()
    for name in (*PUBLISHED, "log", "rms", *(word for reading in READINGS for word in reading.name.split())):
        assert name in words


def test_only_the_agreed_rows_calibrate():
    assert set(CALIBRATION_ROWS) == {"E1", "P1", "P2", "P3", "P4", "P5", "P6"}
    assert REPRODUCTION_FIT.rows == CALIBRATION_ROWS
    assert len(REPRODUCTION_FIT.free) <= 4
    assert 5 <= len(BEST_FIT.free) <= 9
    for made in FITS:
        assert set(made.fitted) == set(made.free)


def test_pim_only_rows_are_within_ten_percent_and_the_orders_hold(entries, compared):
    assert within(entries, "P", 0.10) == (6, 6)
    assert {"O1", "O2", "O3"} <= set(compared["reproduction"]["holds"])


def test_readings_are_as_close_to_all_rows_as_the_page_says(compared):
    assert compared["reproduction"]["log_rms"] <= 0.376
    assert compared["unfitted"]["log_rms"] <= 0.25
    assert compared["best fitted"]["log_rms"] <= 0.20


def test_the_default_holds_the_orders_that_chose_it(compared):
    assert {"F1", "O2", "O3"} <= set(compared["A"]["holds"])
    assert compared["A"]["setting"] == Setting().as_dict()
    assert "F1" not in compared["B"]["holds"]


def test_facts_of_models_and_capacities_hold_under_every_reading(compared):
    for entry in compared.values():
        assert {"F7", "F8", "F9"} <= set(entry["holds"])


def test_the_two_bandwidths_of_the_paper_exclude_each_other(entries):
    rows = {entry["row"]: entry["by_reading"] for entry in entries}
    for name in rows["F5"]:
        assert not (rows["F5"][name]["holds"] and rows["F6"][name]["holds"])
    assert rows["F5"]["C"]["holds"]
    assert rows["F6"]["A"]["holds"]


def test_the_orders_hold_for_other_requests():
    bench = Bench(REPRODUCTION, range(100, 104))
    assert bench.fc_order()[1]
    assert bench.end_to_end_order()[1]


@pytest.mark.parametrize(
    ("made", "name"),
    [
        pytest.param(
            made, name, id=f"{made.name}-{name}", marks=[pytest.mark.slow] if number > 0 else []
        )  # one of each fit, all with the slow ones
        for made in FITS
        for number, name in enumerate(sorted(made.fitted))
    ],
)
def test_the_stored_constant_is_the_best_within_its_bounds(made, name):
    """No step of a hundredth of the range towards either side fits the calibration rows better."""
    bound = made.bound(name)

    def loss(position):
        values = {**made.fitted, name: scale(bound, float(np.clip(position, 0, 1)))}
        return (calibration.log_errors(made.with_constants(values), made.rows, (0,)) ** 2).sum()

    at = place(bound, made.fitted[name])
    assert all(loss(at) <= loss(at + step) + 1e-12 for step in (-0.01, 0.01))


def test_a_fit_finds_constants_that_made_the_rows(monkeypatch):
    true = {"link": 3e-6, "layer": 5e-6}
    made = Calibration(
        name="made",
        readings=REPRODUCTION_FIT.readings,
        free={"link": ("link_latency_s",), "layer": ("gpu_layer_s", "pim_layer_s")},
        rows=("P2", "P6"),
        fitted=true,
    )
    values = Bench(made.setting, (0,)).values(made.rows)
    monkeypatch.setattr(calibration, "published_value", values.__getitem__)
    found = calibration.fit(made, (0,), random_starts=1)
    assert found.constants == pytest.approx(true, rel=1e-3)
    assert found.loss < found.start_loss


@pytest.mark.parametrize("field", sorted({*BOUNDS, *CHOICES}))
def test_a_setting_outside_its_bounds_is_refused(field):
    value = BOUNDS[field].high * 1.01 if field in BOUNDS else "nonsense"
    with pytest.raises(ConfigurationError, match=field):
        Setting(**{field: value})


@pytest.mark.parametrize("name", READABLE)
def test_the_default_setting_leaves_systems_as_they_are(name):
    assert build_system(Setting(), name) == SYSTEMS[name]


@pytest.mark.parametrize("setting", [REPRODUCTION, UNFITTED, BEST], ids=["reproduction", "unfitted", "best"])
@pytest.mark.parametrize("name", READABLE)
def test_every_registered_system_can_be_read_so(name, setting):
    system = build_system(setting, name)
    assert type(system).model_validate(system.model_dump()) == system


def test_every_drawn_setting_is_a_valid_system():
    rng = np.random.default_rng(0)
    for _ in range(30):
        setting = explore.mutated(explore.random_setting(rng), rng)
        for name in ("papi", "attacc-only", "papi-pim-only"):
            system = build_system(setting, name, same_interconnect=bool(rng.integers(2)))
            assert type(system).model_validate(system.model_dump()) == system


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_place_undoes_scale(name):
    for position in (0.0, 0.3, 1.0):
        assert place(BOUNDS[name], scale(BOUNDS[name], position)) == pytest.approx(position, abs=1e-12)


def test_averages_of_equal_ratios_agree():
    bench = Bench(Setting(), SEEDS)
    values = [bench.value("P4", average) for average in AVERAGES]
    assert values == pytest.approx([values[0]] * 3)
    assert bench.value("E1", "geometric") < bench.value("E1", "arithmetic")


def test_more_overhead_on_gpus_lowers_the_lead_over_attacc_only():
    slow = Bench(replace(REPRODUCTION, all_reduce_hop_s=6e-6), SEEDS).value("E3")
    fast = Bench(replace(REPRODUCTION, all_reduce_hop_s=1e-6), SEEDS).value("E3")
    assert fast > slow


def test_non_dominated():
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0], [2.0, 2.0]])
    assert explore.non_dominated(points).tolist() == [0, 1, 2, 4]


def test_conflicts_are_rows_reached_apart_but_not_together():
    misses = np.full((2, len(NUMBER_ROWS)), 9.0)
    misses[:, 0] = 0.0, 0.5
    misses[:, 1] = 0.5, 0.0
    assert explore.conflicts(misses) == [{"rows": list(NUMBER_ROWS[:2]), "miss_together": 0.5}]


@pytest.mark.slow
def test_exploring_is_deterministic_and_reports_whole_files(tmp_path, capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(exploration_report, "EXPLORE_SEEDS", 1)
    # A few of the fields: every one more is another setting to price.
    monkeypatch.setattr(explore, "CHOICES", {name: CHOICES[name] for name in ("combining", "outputs")})
    monkeypatch.setattr(explore, "BOUNDS", {name: BOUNDS[name] for name in ("sync_s", "idle_power_w")})

    first, again = (explore.explore(4, seed=3, seeds=(0,)) for _ in range(2))
    assert first.settings == again.settings
    np.testing.assert_array_equal(first.errors, again.errors)
    assert len(first.settings) == 4
    folder = RunFolder.open(tmp_path / "run", "reproduce", {})
    exploration_report.explore_and_report(
        folder, 4, 3, OwnProcess(), Console(width=100), Console(stderr=True)
    )
    summary = json.loads((folder.path / "explore.json").read_text(encoding="utf-8"))
    assert set(summary["reach"]) == set(NUMBER_ROWS)
    assert set(summary["best"]["all rows"]["orders"]) == set(explore.ORDER_PARTS)
    assert (folder.path / "explore.png").read_bytes().startswith(b"\x89PNG")
    assert "Findings" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--seeds", "0"], ["--jobs", "-1"], ["--samples", "3"], ["--seed", "-1"]]
)
def test_a_wrong_option_is_one_line_and_status_two(options, capsys):
    assert reproduce.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert reproduce.main(["--out", str(tmp_path)]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_an_order_has_no_value():
    with pytest.raises(ValueError, match="O1"):
        published_value("O1")
