"""Named tuples of arrays that compiled code reads where they lie, by one address.

numba hands a tuple of arrays on as all that is in it, five words or more of each array. A serving step hands its state
and its tables, some sixty arrays, to two hundred helpers: a sixth of the time of a first step went into that, and two
thirds of a single environment's. A frame is a row of words in memory that says of each array where it begins and how it
is shaped. Compiled code gets the address of the row, and reads `frame.name` as an attribute of a named tuple.

Arrays are in C order; they stay where they are and as they are shaped as long as their frame is used.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args, get_type_hints
from weakref import WeakValueDictionary

import numba.core.config
import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

_WORD = ir.IntType(64)
_WORD_BYTES = 8
_NUMBERS = {int: types.int64, float: types.float64, bool: types.boolean}


class Field(NamedTuple):
    """What a frame has by a name: its numba type, and the word from which on it stands."""

    kind: Any
    word: int


class FrameType(types.Type):
    """numba's type of a frame; `fields` are by name."""

    def __init__(self, name: str, fields: Mapping[str, Field]) -> None:
        self.fields = dict(fields)
        content = repr([(name, str(field.kind), field.word) for name, field in fields.items()])
        # Types are equal where their names are, which numba asks for often: so it says what is in it, briefly.
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        super().__init__(f"Frame({name}-{digest})")


@register_model(FrameType)
class _Model(models.PrimitiveModel):
    """A frame is its address."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _WORD)


@infer_getattr
class _Attributes(AttributeTemplate):
    """The types of attributes."""

    key = FrameType

    def generic_resolve(self, frame: Any, name: str) -> Any:  # type: ignore[override]
        """The type of a field; None where there is none."""
        return frame.fields[name].kind if name in frame.fields else None


def _load(builder: Any, address: Any, word: int, kind: Any = _WORD) -> Any:
    """A word of a frame. None ever changes, which LLVM is told, so that it loads each once whatever is written."""
    place = builder.add(address, ir.Constant(_WORD, _WORD_BYTES * word))
    loaded = builder.load(builder.inttoptr(place, kind.as_pointer()))
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded


@lower_getattr_generic(FrameType)
def _field(context: Any, builder: Any, frame: Any, address: Any, name: str) -> Any:
    """Read a field."""
    kind, word = frame.fields[name]
    if isinstance(kind, FrameType):
        return builder.add(address, ir.Constant(_WORD, _WORD_BYTES * word))
    if kind == types.boolean:
        return builder.icmp_unsigned("!=", _load(builder, address, word), ir.Constant(_WORD, 0))
    if not isinstance(kind, types.Array):
        return _load(builder, address, word, context.get_value_type(kind))
    array = context.make_array(kind)(context, builder)
    size = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    shape = [_load(builder, address, word + 1 + k) for k in range(kind.ndim)]
    # Of the last dimension the compiler knows it.
    strides = [_load(builder, address, word + 1 + kind.ndim + k) for k in range(kind.ndim - 1)]
    populate_array(
        array,
        data=builder.inttoptr(_load(builder, address, word), array.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, [*strides, size]),
        itemsize=size,
        meminfo=None,  # nobody counts references: the frame keeps the arrays
    )
    return array._getvalue()


class Layout:
    """How named tuples of a class are laid out as frames.

    Args:
        kind: the class, whose annotations say what its fields hold: arrays, numbers, named tuples.
        dimensions: of each array, by name.
        within: layouts of the fields that are named tuples.
    """

    def __init__(
        self, kind: Any, dimensions: Mapping[str, int], within: Mapping[str, Layout] | None = None
    ) -> None:
        self.kind, self.dimensions = kind, dict(dimensions)
        self.within: dict[str, Layout] = dict(within or {})
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self.words: int
        self.type: FrameType
        hints = get_type_hints(kind)
        fields: dict[str, Field] = {}
        word = 0
        for name in kind._fields:
            if name in self.within:
                fields[name] = Field(self.within[name].type, word)
                word += self.within[name].words
            elif name in self.dimensions:
                dtype = self._dtypes[name] = np.dtype(get_args(get_args(hints[name])[1])[0])
                fields[name] = Field(types.Array(from_dtype(dtype), self.dimensions[name], "C"), word)
                word += 2 * self.dimensions[name]  # its address, its shape, and strides but for the last one
            else:
                fields[name] = Field(_NUMBERS[hints[name]], word)
                word += 1
        self.words = word
        self.type = FrameType(kind.__qualname__, fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.dimensions, self.within)

    def words_of(self, found: Any) -> list[int]:
        """The words of a named tuple.

        Raises:
            TypeError: an array is of another type, has other dimensions, or is not in C order.
        """
        # In plain numbers: forks are laid out anew, for which writing them one by one into an array took longer.
        words: list[int] = []
        for (name, (kind, _)), value in zip(self.type.fields.items(), found, strict=True):
            if name in self.within:
                words += self.within[name].words_of(value)
            elif name in self.dimensions:
                shape, count, wanted = value.shape, self.dimensions[name], self._dtypes[name]
                if len(shape) != count or value.dtype != wanted or not value.flags.c_contiguous:
                    raise TypeError(
                        f"{self.kind.__qualname__}.{name} is {value.dtype} {shape}, strides {value.strides}, "
                        f"expected {kind}"
                    )
                # Of no entries numpy says other strides than those of C order, which nobody reads.
                words += (value.ctypes.data, *shape, *value.strides[:-1])
            elif kind == types.float64:
                words += struct.unpack("q", struct.pack("d", value))
            else:
                words.append(int(value))
        return words

    def opener(self) -> Any:
        """What compiled code calls with the address of a frame, to read it."""
        config: Any = numba.core.config
        if config.DISABLE_JIT:
            return lambda address: _LIVE[address].found
        frame = self.type

        @intrinsic
        def opened(_: Any, address: Any) -> Any:
            return frame(types.int64), lambda context, builder, signature, arguments: arguments[0]

        found: Any = opened
        return found


class Frame:
    """A named tuple laid out for compiled code, which keeps the tuple; its fields are attributes in Python too.

    Compiled functions take it as an argument, or its `address`, which takes them a tenth of the time.
    """

    def __init__(self, layout: Layout, found: Any) -> None:
        self.layout, self.found = layout, found
        self._words = np.array(layout.words_of(found), dtype=np.int64)
        self._numba_type_ = layout.type
        self.address = self._words.ctypes.data
        _LIVE[self.address] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "found":
            raise AttributeError(name)
        return getattr(self.found, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layout, self.found)


# Where nothing is compiled, an address is looked up.
_LIVE: WeakValueDictionary[int, Frame] = WeakValueDictionary()


@typeof_impl.register(Frame)
def _type_of(found: Frame, _: Any) -> Any:
    return found._numba_type_


@unbox(FrameType)
def _unboxed(kind: Any, found: Any, context: Any) -> Any:
    """The address that a `Frame` holds."""
    number = context.pyapi.object_getattr_string(found, "address")
    address = context.pyapi.long_as_longlong(number)
    context.pyapi.decref(number)
    failed = cgutils.is_not_null(context.builder, context.pyapi.err_occurred())
    return NativeValue(address, is_error=failed)
