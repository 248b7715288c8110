# -*- test-case-name: txamqp091.test.unit.wire.test_types -*-
"""
What a field table may hold, with the limits on it, and the numbers whose width
on the wire a caller chooses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TypeAlias, TypeVar, Union

from txamqp091.errors import EncodeError

__all__ = [
    "EMPTY_TABLE",
    "MAX_TABLE_DEPTH",
    "MAX_TABLE_SIZE",
    "MAX_TABLE_VALUES",
    "OCTETS",
    "Fault",
    "FieldValue",
    "Float32",
    "Int8",
    "Int16",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "brief",
]

#: How deep tables and arrays may nest, the outermost table counted.
MAX_TABLE_DEPTH = 32

#: How many bytes a table may have on the wire.
MAX_TABLE_SIZE = 1 << 20

#: How many values, at all depths together, a table may have when it is
#: decoded; each table and array in it counts as one more.  Two bytes of wire can
#: become a hundred and more of memory: this, not the size, is what keeps a
#: hostile table small.
MAX_TABLE_VALUES = 1 << 16

FieldValue: TypeAlias = Union[  # noqa: UP007 - "|" cannot hold forward references
    None,
    bool,
    int,
    float,
    str,
    bytes,
    bytearray,
    memoryview,
    Decimal,
    datetime,
    "Sequence[FieldValue]",
    "Mapping[str, FieldValue]",
]

#: A table with nothing in it, which nobody can change.
EMPTY_TABLE: Mapping[str, FieldValue] = MappingProxyType({})

#: Each octet as bytes, by its number.
OCTETS = tuple(bytes((number,)) for number in range(256))


class Fault(Exception):
    """
    What is wrong with a value, and the keys on the way to it, innermost first.
    """

    def __init__(self, problem: str):
        super().__init__(problem)
        self.problem = problem
        self.steps: list[object] = []

    def path(self, start: str) -> str:
        return start + "".join(f"[{brief(step)}]" for step in reversed(self.steps))


def brief(value: object) -> str:
    """
    A value as an error may show it: a short one as it is, of others the type.
    """
    if isinstance(value, int) and value.bit_length() <= 64:
        return repr(int(value))
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return type(value).__name__


_Number = TypeVar("_Number", bound="_SizedInt")


class _SizedInt(int):
    """
    An int with the width that it shall have on the wire.
    """

    __slots__ = ()

    low = 0
    high = 0

    def __new__(cls: type[_Number], value: int = 0) -> _Number:
        self = super().__new__(cls, value)
        if not cls.low <= self <= cls.high:
            raise EncodeError(
                cls.__name__,
                f"{brief(self)} is not within {cls.low} to {cls.high}",
            )
        return self


class Int8(_SizedInt):
    """
    A signed octet in a table (``b``).
    """

    __slots__ = ()
    low, high = -(1 << 7), (1 << 7) - 1


class UInt8(_SizedInt):
    """
    An octet in a table (``B``).
    """

    __slots__ = ()
    low, high = 0, (1 << 8) - 1


class Int16(_SizedInt):
    """
    A signed 16-bit number in a table (``s``).
    """

    __slots__ = ()
    low, high = -(1 << 15), (1 << 15) - 1


class UInt16(_SizedInt):
    """
    An unsigned 16-bit number in a table (``u``).
    """

    __slots__ = ()
    low, high = 0, (1 << 16) - 1


class UInt32(_SizedInt):
    """
    An unsigned 32-bit number in a table (``i``).
    """

    __slots__ = ()
    low, high = 0, (1 << 32) - 1


class Int64(_SizedInt):
    """
    A signed 64-bit number in a table (``l``).
    """

    __slots__ = ()
    low, high = -(1 << 63), (1 << 63) - 1


class Float32(float):
    """
    A number in a table with 32-bit precision (``f``), rounded to it when made.
    """

    __slots__ = ()

    def __new__(cls, value: float = 0.0) -> Float32:
        try:
            return super().__new__(cls, _float32.unpack(_float32.pack(value))[0])
        except OverflowError:
            raise EncodeError("Float32", f"{value} is too large") from None


_float32 = struct.Struct(">f")
