"""The look that the figures of `experiments.paper.figures` share: one column wide, the paper's values in black."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.common.plots import GREYS, PALETTE, STYLE
from experiments.paper.data import Data
from experiments.paper.published import PUBLISHED, bars_and_rows

Drawn: TypeAlias = tuple[bytes, Data]
Results: TypeAlias = Sequence[Mapping[str, Any]]
P = ParamSpec("P")

COLUMN = 3.5  # inches, one column of a two-column page
TABLE_LINE = 0.12  # inches
SKY, BLUE, PINK, ORANGE, RED, GREEN, BLACK = PALETTE
DARK, GREY = GREYS[2], "0.58"
COLORS: Mapping[str, str] = {
    "papi": BLUE,
    "a100-attacc": GREY,
    "a100-hbm-pim": ORANGE,
    "attacc-only": GREEN,
    "papi-pim-only": SKY,
}
NAMES: Mapping[str, str] = {
    "papi": "PAPI",
    "a100-attacc": "A100+AttAcc",
    "a100-hbm-pim": "A100+HBM-PIM",
    "attacc-only": "AttAcc-only",
    "papi-pim-only": "PIM-only PAPI",
    "opt-30b": "OPT-30B",
    "gpt3-66b": "GPT-3 66B",
    "gpt3-175b": "GPT-3 175B",
    "llama-65b": "LLaMA-65B",
    "llama2-70b": "Llama-2 70B",
}
PAPER_LINE: dict[str, Any] = {"color": BLACK, "linestyle": (0, (4, 2)), "linewidth": 1.0}
PAPER_POINT: dict[str, Any] = {
    "color": BLACK,
    "marker": "D",
    "markerfacecolor": "white",
    "markersize": 4.5,
    "linestyle": "none",
    "zorder": 5,
}
_SMALL: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.3,
}


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Draw in this look, whatever matplotlib is set to outside."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with mpl.rc_context(STYLE | _SMALL):
            return draw(*args, **kwargs)

    return in_style


def new_figure(height: float) -> Figure:
    """A figure one column wide and `height` inches high."""
    return Figure(figsize=(COLUMN, height), dpi=300, layout="constrained")


def light_grid(axes: Axes, axis: str = "both") -> None:
    """Thin grid lines behind the data."""
    axes.grid(axis=axis, color="0.9", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def powers_of_two(axes: Axes, values: Sequence[int]) -> None:
    """A logarithmic x axis with these ticks, written out."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def plain_numbers(*axis: Axis) -> None:
    """Ticks as 0.1, 1, 10 rather than as powers."""
    for one in axis:
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend_above(figure: Figure, axes: Axes, columns: int, also: Axes | None = None, **options: Any) -> None:
    """The legend of `axes`, and of `also`, over the whole figure, clear of the data."""
    handles, labels = axes.get_legend_handles_labels()
    if also is not None:
        more = also.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, **options)


def note(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **options: Any) -> None:
    """Text beside a point, `shift` in points."""
    settings: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center"} | options
    axes.annotate(text, at, xytext=shift, textcoords="offset points", **settings)


def panels_and_table(
    heights: Sequence[float], results: Results, rows: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Panels of these heights in inches, and a table below of `rows`, as far as `results` has them."""
    found = [result for result in results if result["row"] in rows]
    # The bars above are of batches whose requests end; the rows are as `experiments.reproduce` states them.
    head = ("rows of reproduction.json", "paper", "here", "ratio")
    lines = [head] + [
        (
            f"{result['row']}  {PUBLISHED[result['row']].quantity}",
            *(_value(result.get(name)) for name in ("paper", "simulated", "ratio")),
        )
        for result in found
    ]
    why = [bars_and_rows(result) for result in found[:1] if "readings" in result]
    # A sentence a line: both at once are wider than a column.
    lines += [(sentence, "", "", "") for text in why for sentence in text.replace(". ", ".\n").splitlines()]
    below = TABLE_LINE * (len(lines) + 0.5) if found else 0.0
    figure = new_figure(sum(heights) + below)
    share = below / (sum(heights) + below)
    if found:
        layout = figure.get_layout_engine()
        assert isinstance(layout, ConstrainedLayoutEngine)
        layout.set(rect=(0, share, 1, 1 - share))
        for i, line in enumerate(lines):
            y = share * (1 - (i + 0.5) / (len(lines) + 0.5))
            for x, text in zip((0.015, 0.82, 0.905, 0.985), line, strict=True):
                figure.text(x, y, text, ha="left" if x < 0.5 else "right", va="center", fontsize=6)
    axes = figure.subplots(len(heights), 1, height_ratios=list(heights), squeeze=False)[:, 0]
    return figure, list(axes)


def _value(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "–"
