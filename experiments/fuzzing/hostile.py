"""What stands where a file is expected and is no honest file: devices, bombs, depths, and links to elsewhere."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import polars as pl

# chosen: above what any reader takes at once, small enough to make in a second (range 1e8-1e10).
BOMB_BYTES = 1 << 28
DEPTH = 100_000
Placed = Callable[[Path, bytes], object]


@cache
def _packed(fill: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        chunk = fill * ((1 << 20) // len(fill))
        for _ in range(BOMB_BYTES // len(chunk)):
            file.write(chunk)
    return out.getvalue()


@cache
def _zip() -> bytes:
    """An archive as torch writes it, whose tensors are 16 times BOMB_BYTES unpacked, one content under many names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        content = bytes(BOMB_BYTES // 16)
        for k in range(256):
            if k < 2:
                file.writestr(f"archive/data/{k}", content)
            else:  # the same bytes once more, under another name
                first = file.infolist()[0]
                again = zipfile.ZipInfo(f"archive/data/{k}")
                again.compress_type, again.CRC = first.compress_type, first.CRC
                again.compress_size, again.file_size = first.compress_size, first.file_size
                again.header_offset = first.header_offset
                file.filelist.append(again)
                file.NameToInfo[again.filename] = again
        file.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        file.writestr("archive/version", b"3\n")
    return out.getvalue()


@cache
def _rows() -> bytes:
    """Parquet of many equal rows, and of a text of many equal characters."""
    out = io.BytesIO()
    count = BOMB_BYTES // 32
    pl.select(
        pl.repeat(0, count, dtype=pl.Int64).alias("timestamp"),
        pl.repeat(100, count, dtype=pl.Int64).alias("input_length"),
        pl.repeat(10, count, dtype=pl.Int64).alias("output_length"),
    ).write_parquet(out)
    return out.getvalue()


@cache
def _long() -> bytes:
    out = io.BytesIO()
    text = "1" * (BOMB_BYTES // 4)
    pl.DataFrame({"timestamp": [text], "input_length": [text], "output_length": ["1"]}).write_parquet(out)
    return out.getvalue()


def _link(target: str) -> Placed:
    return lambda path, valid: path.symlink_to(target)


def _sized(size: int) -> Placed:
    def place(path: Path, valid: bytes) -> None:
        path.write_bytes(valid)
        os.truncate(path, size)

    return place


def _written(content: Callable[[], bytes]) -> Placed:
    return lambda path, valid: path.write_bytes(content())


def _numbered(start: str, item: Callable[[int], str], end: str, count: int) -> Placed:
    return _written(lambda: (start + "".join(map(item, range(count))) + end).encode())


# For all readers, by name; each puts something at a path where a valid content would be.
HOSTILE: Mapping[str, Placed] = {
    "nothing": lambda path, valid: None,
    "empty": _written(lambda: b""),
    "a directory": lambda path, valid: path.mkdir(),
    "a pipe": lambda path, valid: os.mkfifo(path),
    "zeros without end": _link("/dev/zero"),
    "noise without end": _link("/dev/urandom"),
    "a link to itself": _link("itself"),
    "a link to a file of the system": _link("/etc/passwd"),
    "a terabyte": _sized(1 << 40),
    "zeros after a valid start": _sized(1 << 26),
    "one line": _written(lambda: b"1," * (1 << 25)),
    "blank lines": _written(lambda: b"\n" * (1 << 24)),
    "deep lists": _written(lambda: b"[" * DEPTH),
    "deep lists that end": _written(lambda: b"[" * DEPTH + b"]" * DEPTH),
    "deep tables": _written(lambda: b'{"a":' * DEPTH),
    "deep lists in a table": _written(lambda: b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}"),
    "deep TOML": _written(lambda: b"a = " + b"[" * DEPTH + b"]" * DEPTH),
    "dotted TOML": _written(lambda: b"a" + b".a" * DEPTH + b" = 1\n"),
    "many keys of JSON": _numbered("{", lambda k: f'"k{k}":{k},', '"a":1}', DEPTH),
    "many keys of TOML": _numbered("", lambda k: f"k{k} = {k}\n", "", DEPTH // 2),
    "many equal keys": _numbered("{", lambda k: f'"{"k" * 100}":[],', '"a":1}', DEPTH),
    "many empty objects": _numbered("[", lambda k: "{},", "{}]", DEPTH),
    "digits of JSON": _written(lambda: b'{"a":' + b"7" * DEPTH + b"}"),
    "digits of TOML": _written(lambda: b"name = " + b"7" * DEPTH),
    "an exponent": _written(lambda: b'{"name": 1e' + b"9" * DEPTH + b"}"),
    "a long name": _written(lambda: b'{"' + b"n" * (1 << 22) + b'": 1}'),
    "a pickle": _written(
        lambda: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    ),
    "UTF-16": lambda path, valid: path.write_bytes(valid.decode("latin-1").encode("utf-16")),
}
# Of those that take much time to make, for readers that unpack.
BOMBS: Mapping[str, Placed] = {
    "packed zeros": _written(lambda: _packed(b"\0")),
    "packed lines": _written(lambda: _packed(b"1\n")),
    "packed twice": _written(lambda: gzip.compress(_packed(b"\0"))),
    "a ZIP bomb": _written(_zip),
    "Parquet of equal rows": _written(_rows),
    "Parquet of a long text": _written(_long),
}
