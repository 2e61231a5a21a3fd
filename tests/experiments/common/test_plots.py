"""Pictures show names as they are written, say what they draw, and are readable at the size of a page."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT
from matplotlib.text import Text

from experiments.arena.figures import goodput, headroom, ranking, speedup
from experiments.common.plots import MARKERS, interval_end, interval_errors, png
from experiments.vision.figures import units_figure
from papi_env.envs.picture import render_rgb
from papi_env.envs.rendering import BatchTimeline
from papi_env.simulation.batch.state import STAGE_CLASSES

FROZEN = Path(__file__).resolve().parents[2] / "data/frozen_results"
UNITS = ("pu_s", "fc_pim_s", "pu_j", "fc_pim_j")
WRONG = "$\\frac{$"


def test_names_that_look_like_wrong_formulas_are_drawn():
    figure = Figure(figsize=(3, 2), dpi=50)
    axes = figure.subplots()
    axes.plot([1, 10, 1000], [0, 1, 2], label=WRONG)
    axes.set_xscale("log")
    axes.set_title(WRONG)
    axes.set_ylabel(WRONG)
    axes.set_yticks([0, 1], [WRONG, "plain"])
    axes.text(1, 1, WRONG)
    axes.annotate(WRONG, (1, 1))
    axes.legend(title=WRONG)
    figure.suptitle(WRONG)
    figure.supxlabel(WRONG)
    assert png(figure).startswith(b"\x89PNG")
    # Powers of ten stay powers: these are matplotlib's own.
    assert all(label.get_parse_math() for label in axes.get_xticklabels())
    assert axes.get_yticklabels()[0].get_text() == WRONG


def test_error_bars_reach_the_ends_of_intervals_and_are_nothing_without():
    known, alone = {"value": 2.0, "low": 1.5, "high": 4.0}, {"value": 3.0, "low": None, "high": None}
    assert [interval_end(known, end) for end in ("low", "high")] == [1.5, 4.0]
    assert [interval_end(alone, end) for end in ("low", "high")] == [3.0, 3.0]
    assert interval_errors([known, alone]) == [[0.5, 0.0], [2.0, 0.0]]


def test_a_rendered_timeline_takes_any_name():
    assert render_rgb(BatchTimeline(), f"papi · {WRONG}").shape == (360, 960, 3)


def shown(make, summary, monkeypatch):
    """All texts of a figure, and the looks of its entries: colour, marker and face."""
    found = []
    monkeypatch.setattr(f"{make.__module__}.png", lambda figure: found.append(figure) or b"")
    make(summary)
    (figure,) = found
    texts = [text.get_text() for text in figure.findobj(Text)]
    lines = [
        line for line in figure.axes[0].lines if line.get_linestyle() == "None" and len(line.get_xdata())
    ]
    return (
        figure,
        texts,
        [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines],
    )


def frozen(name):
    return json.loads((FROZEN / name / "summary.json").read_text())


def without_intervals(value):
    """A summary as of a single seed."""
    if isinstance(value, dict):
        inner = {key: without_intervals(one) for key, one in value.items()}
        ends = {"low": None, "high": None} if {"value", "low", "high"} <= set(inner) else {}
        ends |= {"low": [None], "high": [None]} if isinstance(inner.get("low"), list) else {}
        return inner | ends
    return [without_intervals(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (headroom.figure, "headroom"),
        (ranking.figure, "leaderboard_serving"),
        (speedup.figure, "compare_decode"),
        (goodput.figure, "compare_serving"),
    ],
)
def test_intervals_are_spoken_of_where_they_are_drawn(make, name, monkeypatch):
    summary = frozen(name)
    assert any("95 %" in text for text in shown(make, summary, monkeypatch)[1])
    assert not any("95 %" in text for text in shown(make, without_intervals(summary), monkeypatch)[1])


def test_no_two_of_twenty_entries_look_alike(monkeypatch):
    summary = frozen("headroom")
    row = next(iter(summary["presets"].values()))
    names = [f"policy {k}" for k in range(20)]
    policies = dict.fromkeys(names, row["policies"]["threshold"])
    presets = {"a/b": row | {"policies": policies}, "c/d": row | {"policies": policies}}
    looks = shown(headroom.figure, summary | {"policies": names, "presets": presets}, monkeypatch)[2]
    assert len({look[:2] for look in looks if look[1] != CARETLEFT}) == 20
    # On a line of its own each: markers of equal positions do not hide one another.
    figure = shown(headroom.figure, summary | {"policies": names, "presets": presets}, monkeypatch)[0]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if line.get_marker() in MARKERS]
    heights = sorted(axes.transData.transform((0, y))[1] for line in drawn for y in line.get_ydata())
    assert len(heights) == 40
    assert min(b - a for a, b in pairwise(heights)) > 0.9 * 4 / 72 * figure.dpi


def test_a_wide_interval_leaves_room_for_the_others(monkeypatch):
    summary = frozen("headroom")
    row = next(iter(summary["presets"].values()))
    row["policies"]["best-fixed"]["position"] |= {"value": 0.1, "low": -50.0}
    figure, texts, looks = shown(headroom.figure, summary, monkeypatch)
    assert figure.axes[0].get_xlim()[0] > -2
    assert CARETLEFT in {look[1] for look in looks}
    assert any("the interval goes on" in text for text in texts)
    plain = frozen("headroom")
    for one in plain["presets"].values():
        for policy in one["policies"].values():
            policy["position"] |= {"low": policy["position"]["value"], "high": policy["position"]["value"]}
    assert not any("the interval goes on" in text for text in shown(headroom.figure, plain, monkeypatch)[1])


def test_numbers_in_heat_maps_are_readable_on_a_page(monkeypatch):
    kernels = [
        {
            "network": f"net-{k}",
            "form": "deploy",
            "images": n,
            "stage": 1,
            "kernel": kind,
            **dict.fromkeys(UNITS, 1.0),
        }
        for k in range(6)
        for n in (1, 64)
        for kind in STAGE_CLASSES
    ]
    figure, _, _ = shown(units_figure, kernels, monkeypatch)
    cells = list(figure.axes[0].texts)
    # A page shows pictures some 850 pixels wide; smaller letters are hard to read.
    pixels = min(text.get_fontsize() for text in cells) / 72 * 850 / figure.get_figwidth()
    assert cells
    assert pixels >= 8.5
