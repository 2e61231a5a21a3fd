"""The paper's figures: every file is written, and the plotted numbers obey what must be true."""

import json
from functools import partial
from itertools import chain

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.paper import data as paper_data
from experiments.paper.calibration import REPRODUCTION
from experiments.paper.data import GRID, MODELS, Cells
from experiments.paper.figures import draw_all
from experiments.paper.look import panels_and_table
from experiments.paper.published import PUBLISHED
from experiments.paper.readings import Setting, build_system
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, get_system

# Rows as `experiments.reproduce` gives them, orders included, whose value is no number.
RESULTS = [
    {
        "row": row.row,
        "paper": row.paper,
        "simulated": row.paper,
        "ratio": None if isinstance(row.paper, str) else 1.0,
    }
    for row in PUBLISHED.values()
]
NUMBERS = ["02-roofline", "03-rlp-decay", "04-fc-latency", "06-intensity", "07-energy-power"]
NUMBERS += ["08-speedup", "09-energy", "10-sensitivity", "11-pim-only", "12-breakdown"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    return draw_all(folder, RESULTS, seeds=1)


@pytest.fixture(scope="module")
def figures(drawn):
    return json.loads(drawn[-1].read_text(encoding="utf-8"))


def figure(figures, number):
    return next(data for name, data in figures.items() if name.startswith(f"figure-{number:02}-"))


@pytest.mark.slow
def test_every_figure_is_written(drawn, figures):
    assert [path.name for path in drawn] == [f"figure-{name}.png" for name in NUMBERS] + ["figures.json"]
    assert sorted(path.name for path in drawn[0].parent.iterdir()) == sorted(path.name for path in drawn)
    for path in drawn[:-1]:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        # One column at 300 dots an inch.
        assert int.from_bytes(content[16:20]) == 1050
    assert set(figures) == {"seeds", "gpu_bandwidth", "bank_rate", *(path.stem for path in drawn[:-1])}


@pytest.mark.parametrize("names", [("E1", "E3"), ("N1", "N4"), ("P1", "P2"), ("P4", "P6")])
def test_what_is_written_below_bars_is_not_cut_off(names):
    results = [result | {"readings": REPRODUCTION.as_dict()} for result in RESULTS if result["row"] in names]
    figure, _ = panels_and_table((1.0,), results, names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.texts if text.get_text()]
    assert any(text.get_text().startswith("Rows: ") for text in texts)
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()


@pytest.mark.slow
def test_ridges_and_roofs(figures):
    data = figure(figures, 2)
    assert data["roofs"]["roofline"]["ridge"] == pytest.approx(161.2, abs=0.1)
    assert data["roofs"]["hbm3"]["ridge"] == pytest.approx(93.1, abs=0.1)
    # Of the registered A100.
    roof = data["roofs"]["hbm3"]
    for point in chain(*data["fc"].values(), *data["attention"].values()):
        assert point["flops_per_s"] < min(roof["flops_per_s"], point["intensity"] * roof["bytes_per_s"])


@pytest.mark.slow
def test_rlp_never_grows(figures):
    for batches in figure(figures, 3)["datasets"].values():
        for batch, curve in batches.items():
            for name in ("mean", "low", "high"):
                assert curve[name][0] == int(batch)
                assert (np.diff(curve[name]) <= 0).all()
            assert 1 <= curve["mean_rlp"] <= int(batch)


@pytest.mark.slow
def test_mean_rlp_is_near_that_of_dolly(figures):
    data = figure(figures, 3)
    for batch, curve in data["datasets"]["creative-writing"].items():
        assert curve["mean_rlp"] == pytest.approx(data["notes_mean_rlp_creative_writing"][batch], rel=0.15)


@pytest.mark.parametrize("bank_rate", BANK_RATE_READINGS)
def test_alpha_is_where_the_curves_cross(bank_rate):
    # Kernels as measured have steps, and cross more than once.
    systems = partial(build_system, Setting(gpu_kernels="roofline"))
    data = paper_data.fc_latency(Cells(1, bank_rate=bank_rate, systems=systems))
    assert list(data["alpha"]) == list(GPU_BANDWIDTH_READINGS)
    for reading, alpha in data["alpha"].items():
        pim = np.array(data["seconds"][f"fc-pim-{reading}"])
        pu = np.array(data["seconds"][f"a100-{reading}"])
        at = int(alpha) - 1
        assert pim[at] <= pu[at]
        assert pim[at + 1] > pu[at + 1]
    # More bandwidth brings the PUs ahead at smaller n.
    assert data["alpha"]["hbm3"] < data["alpha"]["roofline"]


@pytest.mark.slow
def test_latency_never_falls_with_n(figures):
    for seconds in figure(figures, 4)["seconds"].values():
        assert (np.diff(seconds) >= 0).all()


@pytest.mark.slow
def test_n_is_an_upper_estimate_that_is_close_at_the_papers_point(figures):
    data = figure(figures, 6)
    for kind in ("formula", "layer"):
        for intensity in data[kind].values():
            assert (np.array(intensity) < data["n"]).all()
    paper = data["paper"]
    at = data["n"].index(paper["n"])
    assert data["formula"][paper["model"]][at] == pytest.approx(paper["intensity"], abs=0.05)


@pytest.mark.slow
def test_dram_share_and_power(figures):
    data = figure(figures, 7)
    assert data["dram_share"][0] == pytest.approx(0.965, abs=5e-4)
    assert data["dram_share"][-1] == pytest.approx(0.301, abs=5e-4)
    budget = data["paper"]["budget_w"]
    for designs in data["power_w"].values():
        for watts in designs.values():
            assert (np.diff(watts) < 0).all()
            assert watts[-1] > data["background_w"]
    # At PAPI's bank rate its figure holds: 4P1B fits from reuse 4 on, 1P2B always, 1P1B not at reuse 1.
    papi = {name: np.array(watts) <= budget for name, watts in data["power_w"]["papi"].items()}
    assert papi["4P1B"].tolist() == [reuse >= 4 for reuse in data["reuse"]]
    assert papi["1P2B"].all()
    assert papi["1P1B"].tolist() == [reuse > 1 for reuse in data["reuse"]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [8, 9])
def test_gains_agree_with_their_means(figures, number):
    data = figure(figures, number)
    assert list(data["gains"]) == [f"{d}/{m}" for d, models in MODELS.items() for m in models]
    for gains in data["gains"].values():
        assert gains["a100-attacc"] == pytest.approx([1.0] * len(GRID))
        assert all(len(values) == len(GRID) and min(values) > 0 for values in gains.values())
    for dataset, over in data["papi_over"].items():
        for rival, mean in over.items():
            logs = [
                np.log(np.array(gains["papi"]) / gains[rival])
                for scenario, gains in data["gains"].items()
                if scenario.startswith(dataset)
            ]
            assert mean == pytest.approx(np.exp(np.mean(logs)))


@pytest.mark.slow
def test_figures_share_their_episodes(figures):
    speedup, sensitivity = figure(figures, 8), figure(figures, 10)
    grid = [tuple(setting) for setting in speedup["settings"]]
    for system, gains in speedup["gains"][sensitivity["scenario"]].items():
        for batch, gain in zip(sensitivity["rlp"], sensitivity["by_rlp"][system], strict=True):
            assert (batch, 1) not in grid or gain == gains[grid.index((batch, 1))]
        for tlp, gain in zip(sensitivity["tlp"], sensitivity["by_tlp"][system], strict=True):
            assert (4, tlp) not in grid or gain == gains[grid.index((4, tlp))]


@pytest.mark.slow
def test_breakdown_adds_up_and_agrees_with_the_speedup(figures):
    data = figure(figures, 12)
    for seconds in data["seconds"].values():
        parts = [value for name, value in seconds.items() if name != "total"]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(seconds["total"], rel=1e-9)
    pim_only = figure(figures, 11)
    ratio = data["seconds"]["attacc-only"]["total"] / data["seconds"]["papi-pim-only"]["total"]
    assert ratio == pytest.approx(pim_only["speedup"]["llama-65b"][GRID.index((4, 4))])


def test_cells_are_played_once(monkeypatch):
    played = []

    def play(problem, scenario, policy, seeds):
        played.append((scenario.system.name, policy))
        return {"total_s": [1.0] * len(seeds)}

    monkeypatch.setattr(paper_data, "play", play)
    cells = Cells(2)
    for _ in range(2):
        cells.gains("total_s", "papi", "attacc-only", "general-qa/gpt3-175b", [(4, 1)])
    assert played == [("attacc-only", "static"), ("papi", "threshold")]


def test_readings_reach_the_systems():
    cells = Cells(1, "hbm3", "papi")
    system = cells.system("papi")
    assert system.pu.memory_bandwidth == GPU_BANDWIDTH_READINGS["hbm3"]
    assert system.fc_pim.cadence_clocks == system.attn_pim.cadence_clocks == BANK_RATE_READINGS["papi"]


def test_other_constants_reach_the_kernels_and_the_episodes():
    def slower(name):
        return get_system(name).model_copy(update={"layer_overhead_s": 1e-5, "fc_pim": pim})

    pim = get_system("papi").fc_pim.model_copy(update={"cadence_clocks": 12.0})
    plain, changed = Cells(1), Cells(1, systems=slower)
    name, scenario = "papi-pim-only", "creative-writing/llama-65b"
    assert plain.metrics(name, scenario, 4, 4)["other_s"] == [0.0]
    assert changed.metrics(name, scenario, 4, 4)["other_s"] > 0
    before, after = (paper_data.fc_latency(cells)["alpha"] for cells in (plain, changed))
    assert all(after[reading] < before[reading] for reading in before)


def test_unknown_reading_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="roofline"):
        draw_all(tmp_path, [], gpu_bandwidth="hbm4", seeds=1)
