"""Inputs by number: made from a seed, given to a reader, and what came of them."""

from __future__ import annotations

import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import utime
from pathlib import Path
from random import Random
from time import process_time
from types import FrameType

from experiments.common.runner import ROOT
from experiments.fuzzing.hostile import BOMBS, HOSTILE, Placed
from experiments.fuzzing.mutations import mutated
from experiments.fuzzing.reader import Files, Reader
from experiments.fuzzing.tally import Tally
from papi_env.errors import ConfigurationError, DataError

# What readers say of a file that they do not take; anything else is a fault.
DOCUMENTED = (ConfigurationError, DataError)
# Of a message, in characters: what `errors` shortens to, and the words that name a file.
LONGEST_MESSAGE = 9000


class TooLong(BaseException):
    """An input took longer than it may; no reader catches it."""


def valid_files(reader: Reader) -> Files:
    """The valid files of a reader."""
    return _made(reader.valid)


@cache
def _made(valid: Callable[[], Files]) -> Files:
    return valid()


def hostile_for(reader: Reader) -> list[Placed]:
    """What stands in the place of a reader's file in its first inputs."""
    return [*HOSTILE.values(), *(BOMBS.values() if reader.unpacks else ())]


def first_random(reader: Reader) -> int:
    """How many inputs are hostile: each kind in the place of each file that is changed."""
    return len(hostile_for(reader)) * (1 + len(reader.others))


def prepare(reader: Reader, folder: Path) -> None:
    """Make the folder in which a reader finds its files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in valid_files(reader).beside.items():
        (folder / name).write_bytes(content)


def _clear(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def place(reader: Reader, folder: Path, seed: int, number: int) -> None:
    """Put the input of a number where the reader looks for its file: the first are hostile, all others random."""
    files = valid_files(reader)
    hostile, names = hostile_for(reader), [reader.file, *reader.others]
    for name in names:
        _clear(folder / name)
    # All but one are valid.
    valid = {reader.file: files.contents, **{name: (files.beside[name],) for name in reader.others}}
    rng = Random(f"{seed}/{reader.name}/{number}")
    random = number >= first_random(reader)
    if reader.others:
        changed = rng.choice(names) if random else names[number // len(hostile)]
        for name in names:
            if name != changed:
                (folder / name).write_bytes(valid[name][0])
    else:
        changed = reader.file
    path = folder / changed
    if not random:
        hostile[number % len(hostile)](path, valid[changed][0])
        return
    data = mutated(valid[changed], {reader.file: reader.form, **reader.others}[changed], rng)
    if reader.stamp is not None and rng.random() < 0.8:
        data = reader.stamp(folder, data)
    path.write_bytes(data)
    # Readers that keep what they have read tell files apart by this time, which disks keep to some ms.
    utime(path, ns=(number * 1000, number * 1000))


def play(
    reader: Reader,
    numbers: range,
    seed: int,
    folder: Path,
    seconds: float,
    skip: Collection[int] = (),
    after: Callable[[int, Tally], object] = lambda number, tally: None,
    before: Callable[[int], object] = lambda number: None,
) -> Tally:
    """Give a reader the inputs of these numbers, one after the other.

    Args:
        reader: who reads.
        numbers, seed: which inputs.
        folder: for the reader's files, prepared.
        seconds: of the processor that an input may take.
        skip: numbers that are left out.
        after, before: called for each number.
    """
    tally = Tally(done=numbers.start)
    forget_peak()
    base, hostile = peak(), first_random(reader)
    for number in numbers:
        if number not in skip:
            place(reader, folder, seed, number)
            if number <= hostile:
                forget_peak()  # of what made it
                base = peak()
            before(number)
            start = process_time()
            meet(reader, folder, number, seconds, tally)
            took = process_time() - start
            if took > tally.slowest_s:
                tally.slowest_s, tally.slowest = took, number
        tally.done = number + 1
        if number < hostile or tally.done % 100 == 0:
            tally.peak_bytes = max(tally.peak_bytes, peak() - base)
        after(number, tally)
    return tally


def peak() -> int:
    """The most memory that this process has had, in bytes, since the last `forget_peak` where systems know it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Begin to measure `peak` anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def meet(reader: Reader, folder: Path, number: int, seconds: float, tally: Tally) -> None:
    """Let a reader read what lies in its folder, and count what comes of it."""
    try:
        with _at_most(seconds), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            reader.read(folder)
    except DOCUMENTED as error:
        problem = wrong_with(str(error), folder)
        if problem:
            tally.add(number, problem, _place_of(error), str(error))
        else:
            tally.refused += 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of another language is none of Exception
        tally.add(number, type(error).__name__, _place_of(error), str(error))
    else:
        tally.accepted += 1


def wrong_with(message: str, folder: Path) -> str:
    """What is wrong with a message that refuses a file; nothing where it can be read."""
    if not message.strip():
        return "an empty message"
    if len(message) > LONGEST_MESSAGE + len(str(folder)):
        return "a long message"
    return ""


def _place_of(error: BaseException) -> str:
    """The innermost line of the project that an error went through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(ROOT)) and "/fuzzing/" not in frame.filename
    ]
    if not frames:
        return "no line of the project"
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {seconds:g} s")

    # Of the process alone: a machine with other work is no fault of a reader.
    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
