"""Parts of rows as vectors give what numpy gives, number by number."""

import numpy as np
import pytest

from papi_env.simulation.compiled import lean
from papi_env.simulation.vectors import accountant, alone, byte, charger, finder, mover, squasher

move, squash, find = mover(16), squasher((0, 2, 4, 5, 6, 7)), finder(16)
account, charge = accountant(4), charger(3)


@lean
def moved(source, first, target, to):
    move(source, first, target, to)


@lean
def squashed(clocks, first, scale, observations, to):
    squash(clocks, first, scale, observations, to)


@lean
def found(row, first, base, begin, most):
    return find(row, first, base, begin, most)


@lean
def booked(row, totals, last, a, b, c, d):
    account(row, totals, last, (a, b, c, d))


@lean
def charged(row, first, units, seconds, number):
    spent = ((units[0], seconds[0]), (units[1], seconds[1]), (units[2], seconds[2]))
    charge(row, first, spent, number)


@lean
def byte_of(row, index):
    return byte(row, index)


@lean
def same(index):
    return alone(index)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint32])
def test_a_part_of_a_row_is_moved_and_nothing_beside_it(dtype):
    source, target = np.arange(40).astype(dtype), np.zeros(40, dtype=dtype)
    moved(source, 3, target, 5)
    expected = np.zeros(40, dtype=dtype)
    expected[5:21] = source[3:19]
    np.testing.assert_array_equal(target, expected)


def test_squashed_clocks_are_those_of_single_numbers():
    clocks, scale = np.random.default_rng(0).lognormal(size=20), 0.37
    observations = np.full(12, -1, dtype=np.float32)
    squashed(clocks, 9, scale, observations, 2)
    for place, column in enumerate((9, 11, 13, 14, 15, 16), start=2):
        x = np.float32(clocks[column] * scale)
        assert observations[place] == x / np.float32(x + np.float32(1.0))
    assert (observations[[0, 1, 10, 11]] == -1).all()


def test_numbers_far_above_others_are_found_whichever_way_differences_wrap_around():
    rng = np.random.default_rng(1)
    row = rng.integers(0, 200, 20).astype(np.int32)
    base = rng.integers(0, 200, 24).astype(np.uint32)
    base[7] = 2**31
    answer = found(row, np.uint64(4), base, np.uint64(6), np.uint32(29))
    expected = [(int(row[4 + k]) - int(base[6 + k])) % 2**32 > 29 for k in range(16)]
    assert [bool(answer >> k & 1) for k in range(16)] == expected
    assert 0 < sum(expected) < 16
    assert expected[1]


def test_numbers_are_added_to_totals_and_written_beside_them():
    row = np.random.default_rng(2).lognormal(size=14)
    before, numbers = row.copy(), (0.1, -0.2, 0.3, 1e300)
    booked(row, 2, 9, *numbers)
    np.testing.assert_array_equal(row[2:6], before[2:6] + numbers)
    np.testing.assert_array_equal(row[9:13], numbers)
    beside = [0, 1, 6, 7, 8, 13]
    np.testing.assert_array_equal(row[beside], before[beside])


@pytest.mark.parametrize("units", [(0, 0, 0), (2, 2, 1), (0, 1, 2), (1, 0, 1)])
def test_seconds_are_added_up_by_unit_before_they_are_added_to_its_column(units):
    rng = np.random.default_rng(3)
    row, seconds = rng.lognormal(size=8), rng.lognormal(size=3)
    before = row.copy()
    charged(row, 2, np.array(units), seconds, -0.7)
    for unit in range(3):
        spent = 0.0
        for on, took in zip(units, seconds, strict=True):
            spent += took if on == unit else 0.0
        assert row[2 + unit] == before[2 + unit] + spent
    assert row[5] == before[5] - 0.7
    np.testing.assert_array_equal(row[[0, 1, 6, 7]], before[[0, 1, 6, 7]])


def test_bytes_of_a_row_count_from_the_lowest_of_its_first_number():
    row = np.array([0x04030201, -1, 2**31 - 1], dtype=np.int32)
    expected = [1, 2, 3, 4, 255, 255, 255, 255, 255, 255, 255, 127]
    assert [byte_of(row, index) for index in range(12)] == expected


def test_a_number_that_the_compiler_knows_nothing_of_is_the_number():
    assert same(41) == 41
