"""Times of FC kernels on one GPU as a file says they were measured: between its rows of a shape, never beyond them.

The file is UTF-8 text, comma-separated, with one header line:

    # gpu: NVIDIA A100-SXM4-80GB
    outputs,inputs,rows,seconds
    4096,8192,1,4.61e-05
    4096,8192,4,4.62e-05

A line is one GPU's share of an FC kernel in FP16: `rows` input vectors of length `inputs`, output vectors of length
`outputs` (all matrices that run as one launch together), and the median seconds of one launch. The columns may stand
in any order, lines too. Lines that start with # say where the times are from and are kept; blank lines are left out.

* Sizes are whole numbers from 1 to 2**30, times are above 0 and at most 100 seconds.
* A shape (outputs, inputs) has at least two numbers of rows, each once, and none is more than four times the one
  before: a straight line between them would say nothing.

Times between two measured numbers of rows lie on the straight line. Libraries choose other kernels for other
shapes, so that nothing is told from one shape to another: a shape that was not measured is refused. Tensor
parallelism splits evenly, which may leave fractions (8192 / 6): those are looked up rounded up.

`python -m experiments.profile_gpu` writes such a file.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError, nearest
from papi_env.files import TABLE_BYTES, check_regular, read_bounded
from papi_env.kernel import FloatArray, Kernel, KernelClass, gpu_share

COLUMNS = ("outputs", "inputs", "rows", "seconds")
MAX_SIZE = 2**30
# A kernel that takes longer was written in another unit.
MAX_SECONDS = 100.0
# From one measured number of rows of a shape to the next.
MAX_STEP = 4

Shape = tuple[int, int]


def launch_shapes(kernels: Sequence[Kernel], gpus: int) -> tuple[Shape, Shape, Shape, Shape]:
    """What one of `gpus` GPUs launches for the FC kernels of a decoder layer: (outputs, inputs), in order.

    QKV and up (gate and up together, one launch) have their outputs split over the GPUs, projection and down their
    inputs, as Megatron-LM does (Shoeybi et al. 2019). An uneven share is rounded up.

    Args:
        kernels: QKV, projection, up and down, as `Transformer.fc_kernels` lists them.
        gpus: that share every kernel evenly, at least one.

    Raises:
        ConfigurationError: other kernels, or no GPUs.
    """
    classes = [kernel.kernel_class for kernel in kernels]
    layer = [KernelClass.QKV, KernelClass.PROJECTION, KernelClass.FEED_FORWARD, KernelClass.FEED_FORWARD]
    if classes != layer or any(kernel.groups > 1 for kernel in kernels):
        raise ConfigurationError(
            f"FC kernels are {', '.join(classes) or 'none'}, expected those of a decoder layer: "
            "qkv, projection and two feed_forward, a single matrix each"
        )
    if gpus < 1:
        raise ConfigurationError(f"gpus is {gpus}, expected at least one")
    qkv, projection, up, down = (launch_shape(kernel, gpus) for kernel in kernels)
    return qkv, projection, up, down


def launch_shape(kernel: Kernel, gpus: int) -> Shape:
    """What one of `gpus` GPUs launches for a kernel of one matrix: (outputs, inputs), an uneven share rounded up."""
    inputs, outputs, _ = gpu_share(kernel, gpus)
    return _whole_size(outputs), _whole_size(inputs)


def _whole_size(size: float) -> int:
    """A share of a size rounded up; divided and multiplied again, a whole number may come out a little above itself."""
    return math.ceil(round(size, 6))


class Curve(NamedTuple):
    """The times of one shape; both arrays are read-only.

    Attributes:
        rows: float64 [R], whole numbers, increasing.
        seconds: float64 [R].
    """

    rows: FloatArray
    seconds: FloatArray


# Arrays have no single truth value, so two files are equal only where they are the same one.
@dataclass(frozen=True, eq=False)
class MeasuredKernels:
    """What one file holds.

    Attributes:
        path: the file.
        curves: times by shape, (outputs, inputs).
        comments: the lines that start with #, without it.
    """

    path: Path
    curves: Mapping[Shape, Curve]
    comments: tuple[str, ...] = ()

    def fc_s(
        self, rows: int | npt.NDArray[Any], outputs: float, inputs: float, groups: int = 1
    ) -> FloatArray:
        """Seconds of one launch of an FC kernel on one GPU: float64 of the shape of `rows`.

        Args:
            rows: input vectors, one number or an array of any shape.
            outputs: length of an output vector on this GPU; a fraction is rounded up.
            inputs: length of an input vector on this GPU; a fraction is rounded up.
            groups: independent weight matrices; the file has one alone.

        Raises:
            ConfigurationError: a shape that was not measured, rows beyond those measured of it, or several groups.
        """
        if groups != 1:
            raise ConfigurationError(
                f"{self.path}: {groups} groups of matrices were not measured, expected one matrix"
            )
        shape = (self._size("outputs", outputs), self._size("inputs", inputs))
        curve = self.curves.get(shape)
        if curve is None:
            raise ConfigurationError(
                f"{self.path}: FC kernels of {_words(shape)} were never measured; "
                f"the nearest of {len(self.curves)} measured shapes is {_words(self._nearest(shape))}"
            )
        asked = np.asarray(rows, dtype=np.float64)
        low, high = curve.rows[0], curve.rows[-1]
        # NaN is in no range.
        beyond = asked[~((asked >= low) & (asked <= high))]
        if beyond.size:
            raise ConfigurationError(
                f"{self.path}: FC kernels of {_words(shape)} were measured for {low:.0f} to {high:.0f} rows, "
                f"found {beyond.flat[0]:.15g}"
            )
        return np.asarray(np.interp(asked, curve.rows, curve.seconds), dtype=np.float64)

    def seconds(self, outputs: float, inputs: float, rows: int, groups: int = 1) -> float:
        """`fc_s` of one kernel as a plain number, with the arguments in the order of the file's columns."""
        return float(self.fc_s(rows, outputs, inputs, groups))

    def _size(self, name: str, size: float) -> int:
        if not 1 <= size < math.inf:
            raise ConfigurationError(f"{self.path}: {name} is {size!r}, expected a length of at least 1")
        return _whole_size(size)

    def _nearest(self, shape: Shape) -> Shape:
        """The measured shape whose sizes are fewest times larger or smaller."""
        return min(
            self.curves,
            key=lambda known: sum(abs(math.log(a / b)) for a, b in zip(known, shape, strict=True)),
        )


def load_measured(path: str | Path) -> MeasuredKernels:
    """The kernels of a file; read again only where its time of change or its size is another.

    Raises:
        DataError: the file cannot be read or is not in the format of this module; the message has file and line.
    """
    path = Path(path)
    found = check_regular(path, TABLE_BYTES)
    return _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _load(path: Path, changed_ns: int, size: int) -> MeasuredKernels:
    data = read_bounded(path, TABLE_BYTES)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: found byte {data[error.start]:#04x}, expected UTF-8 text") from None
    return parse_measured(text, path)


def parse_measured(text: str, path: Path) -> MeasuredKernels:
    """The kernels that a file's text holds; `path` is what messages call it.

    Raises:
        DataError: the text is not in the format of this module.
    """
    comments: list[str] = []
    lines = _fields(text, path, comments)
    line, header = next(lines, (1, []))
    if not header:
        raise DataError(f"{path}:1: found an empty file, expected the header {','.join(COLUMNS)}")
    _check_header(f"{path}:{line}", header)
    order = [header.index(name) for name in COLUMNS]

    # The line and time of each number of rows, by shape.
    found: dict[Shape, dict[int, tuple[int, float]]] = {}
    for line, fields in lines:
        where = f"{path}:{line}"
        if len(fields) != len(COLUMNS):
            raise DataError(
                f"{where}: found {len(fields)} fields, expected {len(COLUMNS)}: {','.join(header)}"
            )
        *sizes, time = (fields[k] for k in order)
        outputs, inputs, rows = map(_whole, (where,) * 3, COLUMNS, sizes)
        of_shape = found.setdefault((outputs, inputs), {})
        if rows in of_shape:
            raise DataError(
                f"{where}: found {_words((outputs, inputs))} with {rows} rows again, "
                f"expected them once: line {of_shape[rows][0]} has them"
            )
        of_shape[rows] = line, _time(where, time)
    if not found:
        raise DataError(f"{path}:{line}: found a header and no rows, expected at least two of each shape")
    return MeasuredKernels(
        path, {shape: _curve(path, shape, found[shape]) for shape in found}, tuple(comments)
    )


def gap(counts: Sequence[int]) -> tuple[int, str] | None:
    """What is wrong with the numbers of rows of a shape, in order: at which of them, and what was found."""
    if len(counts) < 2:
        return max(counts, default=0), f"rows {list(counts)} alone, expected at least two numbers of rows"
    for low, high in pairwise(counts):
        if high > MAX_STEP * low:
            limit = f"expected at most {MAX_STEP} times as many, {MAX_STEP * low}"
            return high, f"{high} rows next after {low}, a gap; {limit}"
    return None


def _fields(text: str, path: Path, comments: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines with something in them, by their numbers; comments go to the list."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.lstrip().startswith("#"):
            comments.append(line.lstrip()[1:].strip())
        elif line.strip():
            try:
                (fields,) = csv.reader([line], strict=True)
            except csv.Error as error:
                raise DataError(f"{path}:{number}: found {error}, expected comma-separated values") from None
            yield number, [field.strip() for field in fields]


def _check_header(where: str, header: list[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    for name in COLUMNS:
        times = header.count(name)
        if times == 1:
            continue
        close = None if times else nearest(name, {other.lower(): other for other in unknown})
        hint = f"; did you mean {name!r} by {close!r}?" if close else ""
        raise DataError(
            f"{where}: column {name!r}: found {times or 'no'} such column{'s' if times else ''}, "
            f"expected the header {','.join(COLUMNS)}{hint}"
        )
    if unknown:
        close = nearest(unknown[0], COLUMNS)
        hint = f" (nearest is {close!r})" if close else ""
        raise DataError(
            f"{where}: column {_shown(unknown[0])}: not a known column{hint}, "
            f"expected the header {','.join(COLUMNS)}"
        )


def _whole(where: str, name: str, text: str) -> int:
    # int() would also take "1_000", "+5" and the digits of other scripts.
    plain = text.isascii() and text.isdigit() and len(text) < 20
    if not plain or not 1 <= int(text) <= MAX_SIZE:
        raise DataError(
            f"{where}: column {name!r}: found {_shown(text)}, expected a whole number from 1 to {MAX_SIZE}"
        )
    return int(text)


def _time(where: str, text: str) -> float:
    expected = f"seconds, a number > 0 and at most {MAX_SECONDS:g}"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not text.isascii() or "_" in text or not 0 < value < math.inf:
        raise DataError(f"{where}: column 'seconds': found {_shown(text)}, expected {expected}")
    if value > MAX_SECONDS:
        raise DataError(
            f"{where}: column 'seconds': found {_shown(text)}, expected {expected}; "
            "a file in milliseconds or microseconds must be converted"
        )
    return value


def _curve(path: Path, shape: Shape, found: Mapping[int, tuple[int, float]]) -> Curve:
    """The times of a shape, in order and with no gap."""
    counts = sorted(found)
    wrong = gap(counts)
    if wrong is not None:
        at, words = wrong
        raise DataError(f"{path}:{found[at][0]}: {_words(shape)}: found {words}")
    curve = Curve(
        np.array(counts, dtype=np.float64), np.array([found[rows][1] for rows in counts], dtype=np.float64)
    )
    for array in curve:
        array.setflags(write=False)
    return curve


def _words(shape: Shape) -> str:
    return f"{shape[0]} outputs x {shape[1]} inputs"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
