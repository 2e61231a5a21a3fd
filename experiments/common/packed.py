"""Results of all jobs of a finished run in one file, so that no folder of thousands stays: a zip, not compressed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded


def packed(contents: Mapping[str, bytes]) -> bytes:
    """The file that holds contents by name: the same bytes for the same contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name), contents[name])
    return file.getvalue()


def unpacked(path: Path) -> dict[str, bytes]:
    """Contents by name.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    data = read_bounded(path, JSON_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise DataError(f"{path}: compressed, expected a zip of stored results")
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a zip of results: {error}") from None
