"""Pictures show names as they are written."""

from matplotlib.figure import Figure

from experiments.common.plots import png
from papi_env.envs.picture import render_rgb
from papi_env.envs.rendering import BatchTimeline

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


def test_a_rendered_timeline_takes_any_name():
    assert render_rgb(BatchTimeline(), f"papi · {WRONG}").shape == (360, 960, 3)
