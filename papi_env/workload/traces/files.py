"""Bytes of a file from outside, in pieces of bounded size, out of gzip where it is that."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from papi_env.errors import DataError

# Chosen: some 200,000 rows of Azure's at once; a piece and what is made of it take some 100 MB.
PIECE_BYTES = 8 * 2**20
# Chosen: far above any line of text that a published trace has, prompts of a million tokens' ids included.
MAX_LINE_BYTES = 32 * 2**20
# Chosen: the largest blocks of tape drives (range 512 to 1e6).
MAX_PADDING = 1 << 16
PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"
# Packed files that people meet; what is in them is not looked for.
_PACKED = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd",
    b"BZh": "a file packed by bzip2",
    b"\xfd7zXZ": "a file packed by xz",
    _GZIP: "gzip in gzip",
}


class TextFile:
    """A text file, which may be packed by gzip, as an iterator of pieces of bytes.

    A context, in which the file is open.

    Attributes:
        path: of the file.
        packed: it is in gzip.
        start: its first bytes, up to PIECE_BYTES.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        self.packed = self._file.peek(2)[:2] == _GZIP
        self._stream = gzip.GzipFile(fileobj=_Padded(self._file)) if self.packed else self._file
        self._taken = 0
        self.start = b""

    def __enter__(self) -> TextFile:
        try:
            self.start = self._read()
            for magic, what in _PACKED.items():
                if self.start.startswith(magic):
                    raise DataError(f"{self.path}: found {what}, expected text, gzip of text or Parquet")
        except DataError:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """The bytes from the start on, in pieces that need not end with a line; can be called once."""
        piece = self.start
        while piece:
            yield piece
            piece = self._read()

    def lines(self) -> Iterator[bytes]:
        """The lines from the start on, with their ends; the file is read as they are."""
        return lines_of(self.path, self.pieces())

    def _read(self) -> bytes:
        try:
            parts, size = [], 0
            while size < PIECE_BYTES and (part := self._stream.read(PIECE_BYTES - size)):
                parts.append(part)
                size += len(part)
        except (OSError, EOFError, zlib.error) as error:
            if not self.packed:
                raise DataError(f"{self.path}: found {error}, expected a readable file") from error
            raise DataError(
                f"{self.path}: found a gzip file that is damaged or cut short after "
                f"{self._taken} bytes of its content or later ({error}), expected a whole one"
            ) from error
        self._taken += size
        return b"".join(parts)


class _Padded(io.RawIOBase):
    """A file for `gzip`, which skips zeros after the packed content, byte by byte, to any length.

    Tape drives pad to blocks; more zeros than that are an error.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file, self._zeros = file, 0

    def read(self, size: int = -1, /) -> bytes:
        """See `RawIOBase`."""
        data = self._file.read(size)
        self._zeros = self._zeros + 1 if data == b"\0" else 0
        if self._zeros > MAX_PADDING:
            raise OSError(f"more than {MAX_PADDING} zeros after it")
        return data


def lines_of(path: Path, pieces: Iterator[bytes], before: int = 0) -> Iterator[bytes]:
    """The lines of pieces of a file, with their ends; `before` so many others stand before them.

    Raises:
        DataError: a line is longer than MAX_LINE_BYTES.
    """
    rest, count = b"", before
    for piece in pieces:
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{count + 1}: found a line of more than {MAX_LINE_BYTES} bytes, expected rows of text"
            )
        found = (rest + piece).splitlines(keepends=True)
        # The last one may go on, and a carriage return may be half an end.
        rest = found.pop() if found else b""
        for line in found:
            count += 1
            yield line
    if rest:
        yield rest


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    with _opened(path) as file:
        return file.peek(4)[:4] == PARQUET


def _opened(path: Path) -> io.BufferedReader:
    try:
        # Devices and pipes may never end.
        regular = path.is_file() or not path.exists()
        if regular:
            return path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: found {reason}, expected a CSV file or another trace") from error
    found = "a directory" if path.is_dir() else "a device or pipe"
    raise DataError(f"{path}: found {found}, expected a CSV file or another trace")
