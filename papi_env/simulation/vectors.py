"""Parts of rows that compiled code moves, adds up or squashes as vectors.

LLVM makes vectors of long loops by itself. A dozen neighbours it takes one by one: the pass that would find them is off
in numba, for of other code it makes slower code (`NUMBA_SLP_VECTORIZE`, see README.md). So they are named here. Where
nothing is compiled, the plain functions do the same; no bit depends on which of them ran.

Rows are arrays [columns]. Nothing looks whether a part ends within its row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.core.config
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOAT = ir.FloatType()


def _part(context, builder, kind, row, first, lanes):
    """A pointer to `lanes` neighbours of a row, from the column `first`."""
    array = context.make_array(kind)(context, builder, row)
    vector = ir.VectorType(context.get_data_type(kind.dtype), lanes)
    return builder.bitcast(builder.gep(array.data, [first]), vector.as_pointer())


def _load(context, builder, kind, row, first, lanes):
    vector = ir.VectorType(context.get_data_type(kind.dtype), lanes)
    pointer = _part(context, builder, kind, row, first, lanes)
    return builder.load(pointer, align=kind.dtype.bitwidth // 8, typ=vector)


def _store(context, builder, value, kind, row, first):
    pointer = _part(context, builder, kind, row, first, value.type.count)
    builder.store(value, pointer, align=kind.dtype.bitwidth // 8)


def splat(builder, value, lanes):
    """A vector of one number."""
    vector = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    for k in range(lanes):
        vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), k))
    return vector


def by_hand(plain: Callable[..., Any], typed: Callable[..., Any]) -> Any:
    """`plain` where nothing is compiled, else what `typed` makes of the types of its arguments: code made by hand."""
    config: Any = numba.core.config
    return plain if config.DISABLE_JIT else intrinsic(typed)


def mover(lanes: int) -> Any:
    """What copies so many neighbours of a row into another row.

    Returns:
        move(source, first, target, to): from the column `first` of a row into the columns from `to` on.
    """

    def plain(source, first, target, to):
        target[to : to + lanes] = source[first : first + lanes]

    def typed(_, source, first, target, to):
        def build(context, builder, signature, arguments):
            kinds = signature.args
            found = _load(context, builder, kinds[0], *arguments[:2], lanes)
            _store(context, builder, found, kinds[2], *arguments[2:])
            return context.get_dummy_value()

        return types.void(source, first, target, to), build

    return by_hand(plain, typed)


def squasher(columns: tuple[int, ...]) -> Any:
    """What writes x / (1 + x) of some columns of a row of clocks, one beside the other, into a row of observations.

    Args:
        columns: of eight neighbours in the clocks, those that are written; behind them, what is left of a vector of
            eight is written too, and means nothing.

    Returns:
        squash(clocks, first, scale, observations, to): the clocks from `first` on, times `scale`, in float32 as they
            are observed, into the observations from `to` on.
    """
    lanes = 8
    picked = (*columns, *(columns[-1] for _ in range(lanes - len(columns))))

    def plain(clocks, first, scale, observations, to):
        x = (clocks[first : first + lanes] * scale).astype(np.float32)
        observations[to : to + lanes] = (x / (x + np.float32(1.0)))[list(picked)]

    def typed(_, clocks, first, scale, observations, to):
        def build(context, builder, signature, arguments):
            kinds = signature.args
            row, start, factor, target, begin = arguments
            x = _load(context, builder, kinds[0], row, start, lanes)
            x = builder.fmul(x, splat(builder, factor, lanes))
            x = builder.fptrunc(x, ir.VectorType(_FLOAT, lanes))
            chosen = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(picked))
            x = builder.shuffle_vector(x, x, chosen)
            one = ir.Constant(x.type, [1.0] * lanes)
            x = builder.fdiv(x, builder.fadd(x, one))
            _store(context, builder, x, kinds[3], target, begin)
            return context.get_dummy_value()

        return types.void(clocks, first, scale, observations, to), build

    return by_hand(plain, typed)


def accountant(lanes: int) -> Any:
    """What adds so many numbers to neighbours of a row, and writes them to other neighbours.

    Returns:
        account(row, totals, last, numbers): to the columns from `totals` on are added, to those from `last` on are
            written the numbers, a tuple of `lanes` float64.
    """

    def plain(row, totals, last, numbers):
        row[totals : totals + lanes] += numbers
        row[last : last + lanes] = numbers

    def typed(_, row, totals, last, numbers):
        def build(context, builder, signature, arguments):
            kind, (array, first, then, found) = signature.args[0], arguments
            x = ir.Constant(ir.VectorType(ir.DoubleType(), lanes), ir.Undefined)
            for k in range(lanes):
                x = builder.insert_element(x, builder.extract_value(found, k), ir.Constant(ir.IntType(32), k))
            total = builder.fadd(_load(context, builder, kind, array, first, lanes), x)
            _store(context, builder, total, kind, array, first)
            _store(context, builder, x, kind, array, then)
            return context.get_dummy_value()

        return types.void(row, totals, last, numbers), build

    return by_hand(plain, typed)


def charger(units: int) -> Any:
    """What adds seconds to the columns of the units that they were spent on, and a number to the column behind.

    Returns:
        charge(row, first, spent, number): `spent` is a tuple of (unit, seconds), which each unit adds up in their
            order, from 0, before its column, `first` + unit, gets the sum.
    """
    lanes = units + 1

    def plain(row, first, spent, number):
        for unit in range(units):
            row[first + unit] += sum((seconds for on, seconds in spent if on == unit), 0.0)
        row[first + units] += number

    def typed(_, row, first, spent, number):
        def build(context, builder, signature, arguments):
            kind, (array, begin, found, last) = signature.args[0], arguments
            word = ir.IntType(64)
            places = ir.Constant(ir.VectorType(word, lanes), list(range(lanes)))
            none = ir.Constant(ir.VectorType(ir.DoubleType(), lanes), [0.0] * lanes)
            total = None
            for k in range(len(signature.args[2])):
                pair = builder.extract_value(found, k)
                on = splat(builder, builder.extract_value(pair, 0), lanes)
                seconds = splat(builder, builder.extract_value(pair, 1), lanes)
                part = builder.select(builder.icmp_signed("==", on, places), seconds, none)
                total = part if total is None else builder.fadd(total, part)
            total = builder.insert_element(total, last, ir.Constant(ir.IntType(32), units))
            total = builder.fadd(_load(context, builder, kind, array, begin, lanes), total)
            _store(context, builder, total, kind, array, begin)
            return context.get_dummy_value()

        return types.void(row, first, spent, number), build

    return by_hand(plain, typed)


def finder(lanes: int) -> Any:
    """What finds numbers of a row, int32 or uint32, that are more than `most` above those of another.

    Returns:
        find(row, first, base, begin, most): a number whose bit k, of so many lanes, says whether
            row[first + k] - base[begin + k] > most, where differences wrap around.
    """

    def plain(row, first, base, begin, most):
        above = row[first : first + lanes].astype(np.uint32) - base[begin : begin + lanes] > most
        return int(sum(1 << k for k in np.flatnonzero(above).tolist()))

    def typed(_, row, first, base, begin, most):
        def build(context, builder, signature, arguments):
            kinds = signature.args
            x = _load(context, builder, kinds[0], *arguments[:2], lanes)
            y = _load(context, builder, kinds[2], *arguments[2:4], lanes)
            above = builder.icmp_unsigned(">", builder.sub(x, y), splat(builder, arguments[4], lanes))
            return builder.zext(builder.bitcast(above, ir.IntType(lanes)), ir.IntType(64))

        return types.int64(row, first, base, begin, most), build

    return by_hand(plain, typed)


def _plain_copy_first(source, target, count):
    """Copy the first `count` entries of an array, no more than either has, into another. Returns the bytes."""
    count = max(min(count, len(source), len(target)), 0)
    target[:count] = source[:count]
    return target[:count].nbytes


def _copy_first(_, source, target, count):
    def build(context, builder, signature, arguments):
        kinds = signature.args
        one, two = (
            context.make_array(kind)(context, builder, array)
            for kind, array in zip(kinds[:2], arguments[:2], strict=True)
        )
        entries = arguments[2]
        for array in (one, two):
            length = builder.extract_value(array.shape, 0)
            entries = builder.select(builder.icmp_signed("<", length, entries), length, entries)
        zero = ir.Constant(entries.type, 0)
        entries = builder.select(builder.icmp_signed("<", entries, zero), zero, entries)
        size = builder.mul(entries, builder.extract_value(one.strides, 0))
        cgutils.raw_memcpy(builder, two.data, one.data, size, 1)
        return size

    return types.int64(source, target, types.int64), build


copy_first = by_hand(_plain_copy_first, _copy_first)


def _plain_byte(row, index):
    """A byte of a row of numbers, counted from its start; lower bytes of a number first."""
    return int(row.view(np.uint8)[index])


def _byte(_, row, index):
    def build(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        found = builder.load(builder.gep(start, [arguments[1]]), typ=ir.IntType(8))
        return builder.zext(found, ir.IntType(64))

    return types.int64(row, index), build


byte = by_hand(_plain_byte, _byte)


def _plain_alone(index):
    """The index, of which the compiler knows no more than that it is a number."""
    return index


def _alone(_, index):
    def build(context, builder, signature, arguments):
        kind = arguments[0].type
        return builder.asm(ir.FunctionType(kind, [kind]), "", "=r,0", arguments, False)

    return index(index), build


alone = by_hand(_plain_alone, _alone)
