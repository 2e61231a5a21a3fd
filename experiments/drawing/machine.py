"""A machine as a picture: its GPUs, stacks and links, drawn from the system itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from experiments.common.plots import PALETTE, STYLE, png
from papi_env.commands.wording import quantity
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit

# Processing units; stacks that run FC kernels, that run attention alone, and plain ones.
_PU, _FC, _ATTENTION, _PLAIN = PALETTE[5], PALETTE[0], PALETTE[3], "0.85"
_INK = "0.2"
# Inches; and the picture's own units, which are its hundredths of width.
_SIZE, _BOTTOM, _TOP = (9.6, 4.3), 3.0, 48.0
# chosen: what is still told apart (range 6-16); of more nodes the first are drawn, and how many there are is said.
_MOST_NODES, _MOST_STACKS = 8, 120


@dataclass(frozen=True)
class Area:
    """Where a block lies: from `left` to `right`."""

    left: float
    right: float

    @property
    def middle(self) -> float:
        """Its centre."""
        return (self.left + self.right) / 2


def figure(system: System) -> bytes:
    """A PNG of a system: processing units above the stacks of their memory, other stacks beside, links above both."""
    with mpl.rc_context({**STYLE, "font.size": 9.5}):
        picture = Figure(figsize=_SIZE, dpi=110)
        axes = picture.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 100)
        axes.set_ylim(_BOTTOM, _TOP)
        axes.axis("off")
        axes.text(2, 45.5, system.name, fontsize=13, fontweight="bold", va="center")
        axes.text(98, 45.5, system.description, ha="right", va="center", color=_INK, fontsize=9)
        beside = system.attn_pim is not None
        main, side = Area(2, 63 if beside else 98), Area(72, 98)
        _nodes(axes, system, main)
        if system.attn_pim is not None:
            _grid(axes, side, 14, 37, system.attn_pim.stacks, _ATTENTION)
            _link(axes, system, main, side)
            _words(axes, side.left, 10.5, system.attn_pim.name, _pim_words(system.attn_pim), _ATTENTION)
        return png(picture)


def _nodes(axes: Axes, system: System, area: Area) -> None:
    """GPUs, or groups of stacks without one, with what joins them and what is said of them."""
    pu, pim = system.pu, system.fc_pim
    count = system.nodes
    shown = min(count, _MOST_NODES)
    width = (area.right - area.left) / shown
    stacks = pu.stacks if pu is not None else -(-pim.stacks // count) if pim is not None else 0
    colour = _PLAIN if pim is None else _FC if "fc" in pim.runs else _ATTENTION
    for node in range(shown):
        cell = Area(area.left + node * width + 0.6, area.left + (node + 1) * width - 0.6)
        if pu is not None:
            axes.add_patch(_box(cell.left, 26, cell.right - cell.left, 11, _PU))
            axes.text(
                cell.middle, 31.5, f"{pu.name}\nPUs", ha="center", va="center", linespacing=1.4, color="white"
            )
            if stacks:
                axes.plot([cell.middle] * 2, [22.6, 26], color=_INK, linewidth=1.2)
        _grid(axes, cell, 14, 23 if pu is not None else 37, stacks, colour)
        if system.fabric is not None and count > 1:
            axes.plot([cell.middle] * 2, [37.3, 40], color=_INK, linewidth=1.2)
    if count > shown:
        axes.text(area.right, 12.6, f"... {count} in all", ha="right", va="center", color=_INK)
    if system.fabric is not None and count > 1:
        link = system.fabric
        axes.plot([area.left + 1, area.right - 1], [40, 40], color=_INK, linewidth=3, solid_capstyle="round")
        words = f"{link.name}: {quantity(link.bandwidth, 'B/s')} each way"
        axes.text(area.left + 1, 41.8, words, color=_INK, va="center")
    left = area.left
    if pu is not None:
        said = [
            f"{quantity(pu.total_flops, 'FLOP/s')}, {quantity(pu.total_bandwidth, 'B/s')} from memory",
            f"{quantity(pu.board_power_w, 'W')} a board"
            + ("" if pim is not None else f", {quantity(pu.capacity_bytes, 'bytes')}"),
        ]
        _words(axes, left, 10.5, f"PUs: {pu.count} x {pu.name}", said, _PU)
        left = area.middle + 1
    if pim is not None:
        _words(axes, left, 10.5, pim.name, _pim_words(pim), colour)


def _link(axes: Axes, system: System, main: Area, side: Area) -> None:
    """What joins the stacks beside with the rest."""
    link = system.attention_link
    assert link is not None
    height = 40.0
    axes.plot([side.middle] * 2, [37.3, height], color=_INK, linewidth=1.2)
    axes.plot([main.right - 1, side.middle], [height] * 2, color=_INK, linewidth=3, linestyle=(0, (1.2, 1.2)))
    axes.text(
        98,
        41.8,
        f"{link.name}: {quantity(link.bandwidth, 'B/s')} each way",
        ha="right",
        va="center",
        color=_INK,
    )
    if system.fabric is None or system.nodes == 1:
        # Nothing else leads to the nodes.
        axes.plot(
            [main.left + 1, main.right - 1], [height] * 2, color=_INK, linewidth=3, linestyle=(0, (1.2, 1.2))
        )
        axes.plot([main.middle] * 2, [37.3, height], color=_INK, linewidth=1.2)


def _pim_words(unit: PimUnit) -> list[str]:
    kernels = {"fc": "FC kernels", "attention": "attention"}
    return [
        f"{' and '.join(kernels[kind] for kind in unit.runs)}; {quantity(unit.peak_bandwidth, 'B/s')} at the banks",
        f"{unit.stacks} stacks of {unit.stack.banks} banks, {quantity(unit.capacity_bytes, 'bytes')}",
    ]


def _words(axes: Axes, left: float, top: float, title: str, lines: Sequence[str], colour: Any) -> None:
    """What is said of a unit, with its colour."""
    axes.add_patch(Rectangle((left, top - 1), 1.6, 1.9, facecolor=colour, edgecolor=_INK, linewidth=0.6))
    axes.text(left + 2.4, top, title, fontweight="bold", va="center")
    for k, line in enumerate(lines):
        axes.text(left, top - 3.2 - 2.6 * k, line, va="center", color=_INK, fontsize=8.5)


def _grid(axes: Axes, area: Area, low: float, high: float, count: int, colour: Any) -> None:
    """So many stacks, as squares that fill a block; of very many a part."""
    shown = min(count, _MOST_STACKS)
    if not shown:
        return
    width, height = area.right - area.left, high - low
    # As many columns as make squares, or a divisor near that, which leaves no gap.
    square = (shown * width * _SIZE[0] / 100 / (height * _SIZE[1] / (_TOP - _BOTTOM))) ** 0.5
    even = [k for k in range(1, shown + 1) if shown % k == 0 and 0.6 <= k / square <= 2.5]
    columns = min(even, key=lambda k: abs(k - square), default=max(1, min(shown, round(square))))
    lines = -(-shown // columns)
    across, down = width / columns, height / lines
    for k in range(shown):
        line, column = divmod(k, columns)
        corner = (area.left + (column + 0.08) * across, high - (line + 0.92) * down)
        axes.add_patch(_box(*corner, 0.84 * across, 0.84 * down, colour, 0.25))
    if count > shown:
        axes.text(area.right, low - 1.4, f"... {count} in all", ha="right", va="center", color=_INK)


def _box(
    x: float, y: float, width: float, height: float, colour: Any, round_by: float = 0.6
) -> FancyBboxPatch:
    style = f"round,pad=0,rounding_size={round_by}"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=_INK, linewidth=0.7
    )
