"""Frames of an episode, in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from papi_env.errors import ConfigurationError

_KINDS = (".gif", ".png")
# chosen: slow enough to read a title (range 80-500); the last frame stays for a while.
FRAME_MS, LAST_MS = 160, 3000
# Colours of an animation: bars, text and its shades.
_COLOURS = 48


class Film:
    """A file of frames: an animation (.gif), or the last frame alone (.png).

    Args:
        path: of the file, in a folder that is there.
        frames: of an animation, at most.

    Raises:
        ConfigurationError: another kind of file, no such folder, or no library for pictures.
    """

    def __init__(self, path: Path, frames: int) -> None:
        if path.suffix not in _KINDS:
            raise ConfigurationError(
                f"--render {path}: expected nothing (text), or a path that ends in .gif or .png"
            )
        if not path.parent.is_dir():
            raise ConfigurationError(f"--render {path}: there is no folder {path.parent}")
        if not 1 <= frames <= 1000:
            raise ConfigurationError(f"--frames is {frames}, expected 1 to 1000")
        try:
            from PIL import Image
        except ImportError as error:
            raise ConfigurationError(
                f'pictures need Pillow: pip install "papi-env[video]" ({error})'
            ) from None
        self._image = Image
        self.path, self.most = path, frames
        self._frames: list[Any] = []
        self._at: set[int] = set()

    def expect(self, steps: int) -> None:
        """Frames are spread over so many steps, from the first to the last of them."""
        count = min(self.most, steps) if self.path.suffix == ".gif" else 1
        self._at = {round((k + 1) * steps / count) for k in range(count)}

    def look(self, step: int, render: Callable[[], Any]) -> None:
        """Take a frame after a step, if it is one of those that are shown."""
        if step in self._at:
            self._frames.append(self._image.fromarray(render()))

    def close(self) -> str:
        """Write the file, and say so."""
        if self.path.suffix == ".png":
            self._frames[-1].save(self.path)
        else:
            # One palette for all frames: that of the last, which shows every colour that is in use.
            last = self._frames[-1].quantize(_COLOURS)
            first, *others = [frame.quantize(palette=last, dither=0) for frame in self._frames]
            lasts = [FRAME_MS] * len(others) + [LAST_MS]
            first.save(self.path, save_all=True, append_images=others, duration=lasts, loop=0, optimize=True)
        return f"wrote {self.path}: {len(self._frames)} frame(s), {self.path.stat().st_size / 1000:.0f} kB"
