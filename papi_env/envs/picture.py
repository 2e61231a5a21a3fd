"""A timeline as a picture, drawn in a few milliseconds, for `rgb_array`, `human` and recorders of videos."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

from papi_env.envs.rendering import EXACT, MAX_ITERATIONS, SCHEMATIC, Segment, Timeline

WIDTH, HEIGHT = 960, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 944, 34, 258  # of the lanes
_BANDS = ("#f7f7f7", "#ebebeb")
_BAR = 0.8  # of a lane's height
_INK, _LINE = "#222222", "#888888"
_MOST_TICKS = 9
_ROW, _SWATCH = 18, 11  # of the legend


def render_rgb(timeline: Timeline, title: str) -> npt.NDArray[np.uint8]:
    """The last iterations as lanes of coloured bars, uint8 [360, 960, 3]. Needs Pillow.

    A bar is at least a pixel wide, so that microseconds stay visible beside milliseconds.
    """
    image, draw = _canvas()
    shown = timeline.iterations[-MAX_ITERATIONS:]
    span = f", {' '.join(shown[0].label.split())} to {' '.join(shown[-1].label.split())}" if shown else ""
    draw.text((_LEFT, 12), title + span, fill=_INK, font=_font(13))
    if shown:
        start, end = shown[0].span[0], shown[-1].span[1]
        scale = (_RIGHT - _LEFT) / max(end - start, 1e-12)
        for k, iteration in enumerate(shown):
            first, last = (_LEFT + scale * (moment - start) for moment in iteration.span)
            draw.rectangle((first, _TOP, max(last, first), _BOTTOM), fill=_BANDS[k % 2])
        for iteration in shown:
            for segment in iteration.segments:
                _bar(draw, timeline, segment, _LEFT + scale * (segment.start_s - start), scale)
        _ticks(draw, start, end, scale)
    _frame(draw, timeline.lanes)
    drawn = {segment.label for iteration in shown for segment in iteration.segments if segment.duration_s > 0}
    _legend(draw, {label: colour for label, colour in timeline.colours.items() if label in drawn})
    return np.asarray(image).copy()


def _canvas() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise DependencyNotInstalled('rgb_array needs Pillow: pip install "papi-env[video]"') from error
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    return image, ImageDraw.Draw(image)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _lane_edges(lanes: tuple[str, ...], lane: str) -> tuple[float, float]:
    height = (_BOTTOM - _TOP) / len(lanes)
    middle = _TOP + (lanes.index(lane) + 0.5) * height
    return middle - _BAR / 2 * height, middle + _BAR / 2 * height


def _bar(draw: Any, timeline: Timeline, segment: Segment, left: float, scale: float) -> None:
    if segment.duration_s <= 0:
        return
    top, bottom = _lane_edges(timeline.lanes, segment.lane)
    # Corners belong to a rectangle here, so equal ones make a pixel.
    first = math.floor(left)
    last = max(math.ceil(left + scale * segment.duration_s) - 1, first)
    draw.rectangle((first, top, last, bottom), fill=timeline.colours[segment.label])


def _ticks(draw: Any, start: float, end: float, scale: float) -> None:
    """Marks at round numbers of milliseconds."""
    least = 1e3 * (end - start) / _MOST_TICKS
    if least <= 0:
        return
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    digits = max(-math.floor(math.log10(step)), 0)
    for k in range(math.ceil(1e3 * start / step), math.floor(1e3 * end / step) + 1):
        x = _LEFT + scale * (k * step / 1e3 - start)
        draw.line((x, _BOTTOM, x, _BOTTOM + 4), fill=_LINE)
        draw.text((x, _BOTTOM + 6), f"{k * step:.{digits}f}", fill=_INK, font=_font(11), anchor="ma")


def _frame(draw: Any, lanes: tuple[str, ...]) -> None:
    draw.rectangle((_LEFT, _TOP, _RIGHT, _BOTTOM), outline=_LINE)
    for lane in lanes:
        top, bottom = _lane_edges(lanes, lane)
        draw.text((_LEFT - 8, (top + bottom) / 2), lane, fill=_INK, font=_font(12), anchor="rm")
    draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 22), "time / ms", fill=_INK, font=_font(11), anchor="ma")


def _legend(draw: Any, colours: dict[str, str]) -> None:
    """Labels by colour in rows, then which parts of the picture are exact."""
    font, x, y = _font(11), float(_LEFT), _BOTTOM + 42
    for label, colour in (*colours.items(), (EXACT, _BANDS[1]), (SCHEMATIC, None)):
        width = draw.textlength(label, font=font)
        if x + width + _SWATCH + 6 > _RIGHT:
            x, y = float(_LEFT), y + _ROW
        if colour is not None:
            draw.rectangle((x, y, x + _SWATCH, y + _SWATCH), fill=colour, outline=_LINE)
        else:
            # Half a bar: where it ends is known, where it stands is not.
            draw.rectangle((x, y, x + _SWATCH, y + _SWATCH), outline=_LINE)
            draw.line((x, y + _SWATCH, x + _SWATCH, y), fill=_LINE)
        draw.text((x + _SWATCH + 6, y - 1), label, fill=_INK, font=font)
        x += width + _SWATCH + 22
