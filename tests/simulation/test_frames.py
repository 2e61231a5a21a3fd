"""Frames: compiled code reads of a named tuple what Python finds in it."""

import copy
import os
import pickle
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from numba import njit

from papi_env.simulation.frames import Frame, Layout


class Inner(NamedTuple):
    """What is within another one."""

    count: int
    rate: float
    on: bool
    row: npt.NDArray[np.int32]


class Outer(NamedTuple):
    """What is laid out."""

    cube: npt.NDArray[np.float64]
    inner: Inner
    flags: npt.NDArray[np.bool_]
    keys: npt.NDArray[np.uint64]


LAYOUT = Layout(Outer, {"cube": 3, "flags": 1, "keys": 2}, {"inner": Layout(Inner, {"row": 1})})
outer_at = LAYOUT.opener()


def made(on=True) -> Outer:
    """Numbers that are all different, in arrays of different shapes."""
    return Outer(
        np.arange(24.0).reshape(2, 3, 4),
        Inner(-7, 0.125, on, np.arange(5, dtype=np.int32) + 50),
        np.array([False, True, False]),
        np.arange(6, dtype=np.uint64).reshape(3, 2) + np.uint64(2**63),
    )


@njit
def read(frame):
    """Every field, and the shapes."""
    inner = frame.inner
    return (
        frame.cube[1, 2, 3],
        frame.cube[0, 2, 1],
        frame.cube[-1, -1, 0],
        frame.cube.shape,
        inner.count,
        inner.rate,
        inner.on,
        inner.row[4],
        inner.row.shape[0],
        frame.flags[1],
        frame.keys[2, 0],
        frame.keys.size,
    )


@njit
def read_at(address):
    """The same, by its address."""
    return read(outer_at(address))


@njit
def write_at(address):
    """Double a part of the cube, in place."""
    frame = outer_at(address)
    for k in range(frame.cube.shape[2]):
        frame.cube[1, 0, k] *= 2.0


@pytest.mark.parametrize("on", [True, False])
def test_compiled_code_reads_what_the_tuple_holds(on):
    found = made(on)
    frame = Frame(LAYOUT, found)
    expected = (23.0, 9.0, 20.0, (2, 3, 4), -7, 0.125, on, 54, 5, True, 2**63 + 4, 6)
    assert read(frame) == read_at(frame.address) == expected


def test_what_it_writes_is_in_the_arrays():
    found = made()
    frame = Frame(LAYOUT, found)
    write_at(frame.address)
    np.testing.assert_array_equal(found.cube[1, 0], [24, 26, 28, 30])
    assert found.cube[1, 1, 0] == 16
    assert found.cube[0, 2, 3] == 11


def test_fields_are_attributes_in_python_too():
    frame = Frame(LAYOUT, found := made())
    assert frame.cube is found.cube
    assert frame.inner is found.inner
    with pytest.raises(AttributeError):
        _ = frame.nothing


@pytest.mark.parametrize("again", [copy.deepcopy, lambda frame: pickle.loads(pickle.dumps(frame))])
def test_a_copy_is_laid_out_anew(again):
    frame = Frame(LAYOUT, made())
    twin = again(frame)
    write_at(twin.address)
    assert twin.address != frame.address
    assert (frame.cube[1, 0, 0], twin.cube[1, 0, 0]) == (12.0, 24.0)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("cube", np.zeros((2, 3))),
        ("cube", np.zeros((2, 3, 4), dtype=np.float32)),
        ("cube", np.zeros((4, 3, 2)).T),
        ("cube", np.zeros((2, 3, 8))[:, :, ::2]),
        ("keys", np.zeros((3, 2), dtype=np.int64)),
    ],
)
def test_an_array_of_another_kind_is_refused(name, array):
    with pytest.raises(TypeError, match=rf"Outer\.{name} is .*, expected array\("):
        Frame(LAYOUT, made()._replace(**{name: array}))


def test_no_array_and_an_empty_one_have_their_shapes():
    frame = Frame(LAYOUT, made()._replace(keys=np.zeros((0, 2), dtype=np.uint64)))
    assert njit(lambda frame: frame.keys.shape)(frame) == (0, 2)


def test_where_nothing_is_compiled_an_address_is_looked_up():
    code = (
        "from tests.simulation.test_frames import *; f = Frame(LAYOUT, made());"
        "assert outer_at(f.address) is f.found; assert read_at(f.address) == read(f); print('same')"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "same\n"
