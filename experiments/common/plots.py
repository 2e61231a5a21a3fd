"""How the project's pictures look; they are drawn without a display."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colour-blind-safe palette ("Color Universal Design", 2008) without its yellow, which is
# too pale on white. Systems with a single entry are greys: the eye goes to what competes on one machine.
PALETTE = ("#56B4E9", "#0072B2", "#CC79A7", "#E69F00", "#D55E00", "#009E73", "#000000")
GREYS = ("0.70", "0.50", "0.30")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "<", "h", ">", "d")
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


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
