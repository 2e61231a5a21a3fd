"""How the project's pictures look; they are drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

# Okabe and Ito's colour-blind-safe palette ("Color Universal Design", 2008) without its yellow, which is
# too pale on white. Systems with a single entry are greys: the eye goes to what competes on one machine.
PALETTE = ("#56B4E9", "#0072B2", "#CC79A7", "#E69F00", "#D55E00", "#009E73", "#000000")
GREYS = ("0.70", "0.50", "0.30")
# Seven apart, where colours begin again, are shapes that can be told apart when small.
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">", "d", "h")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def titled(title: str, intervals: str, figures: Iterable[Mapping[str, Any]]) -> str:
    """A title that speaks of intervals only where a figure has one; with a single seed there is none."""
    return f"{title} ({intervals})" if has_interval(figures) else title


def has_interval(figures: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of some figures (`value`, `low`, `high`) has an interval."""
    return any(figure["low"] is not None for figure in figures)


def interval_end(figure: Mapping[str, Any], name: str) -> float:
    """An end of a figure's interval (`low` or `high`), or its value where there is none."""
    return float(figure["value"] if figure[name] is None else figure[name])


def interval_errors(figures: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Distances from values down and up to the ends of their intervals, as error bars take them: [2, figures]."""
    return [
        [figure["value"] - interval_end(figure, "low") for figure in figures],
        [interval_end(figure, "high") - figure["value"] for figure in figures],
    ]


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    _as_written(figure)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _as_written(figure: Figure) -> None:
    """Let texts be what they are: a scenario may be named `$\\frac{$`, which is a formula, and a wrong one.

    What matplotlib writes itself beside ticks, such as powers of ten, is formulas.
    """
    own = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for formatter, minor in ((axis.get_major_formatter(), False), (axis.get_minor_formatter(), True)):
                if not isinstance(formatter, (FixedFormatter, FuncFormatter)):
                    own.update(axis.get_ticklabels(minor=minor))
                    own.add(axis.get_offset_text())
    for text in figure.findobj(Text):
        if text not in own:
            text.set_parse_math(False)
