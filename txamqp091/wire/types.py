# -*- test-case-name: txamqp091.test.test_types -*-
"""
AMQP's data types: what a value looks like on the wire, both ways.

`encode_table` and `decode_table` do field tables (AMQP 0-9-1 §4.2.5.5, with
the type letters that RabbitMQ uses, which differ from the specification's).
The ``Wire`` aliases at the top are what methods and properties declare their
fields with.  Whatever the bytes or the values are, nothing but `EncodeError`
and `DecodeError` comes out of the functions in ``__all__``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import repeat
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, TypeVar, Union

from txamqp091.errors import DecodeError, EncodeError

__all__ = [
    "EMPTY_TABLE",
    "FIELD_DECODERS",
    "FIELD_ENCODERS",
    "MAX_TABLE_DEPTH",
    "MAX_TABLE_SIZE",
    "MAX_TABLE_VALUES",
    "OCTETS",
    "SECRET",
    "Bit",
    "FieldValue",
    "Float32",
    "Int8",
    "Int16",
    "Long",
    "LongLong",
    "LongStr",
    "Octet",
    "Short",
    "ShortStr",
    "Table",
    "Timestamp",
    "UInt8",
    "UInt16",
    "UInt32",
    "Wire",
    "decode_long_string",
    "decode_short_string",
    "decode_table",
    "decode_timestamp",
    "encode_long_string",
    "encode_short_string",
    "encode_table",
    "encode_timestamp",
]

#: How deep tables and arrays may nest, the outermost table counted.
MAX_TABLE_DEPTH = 32

#: How many bytes a table may have on the wire when it is decoded.
MAX_TABLE_SIZE = 1 << 20

#: How many values, at all depths together, a table may have when it is
#: decoded.  Two bytes of wire can become a hundred and more of memory; this,
#: not the size, is what keeps a hostile table small.
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


class Wire(Enum):
    """
    The types that fields of methods, and properties, have on the wire.
    """

    OCTET = "octet"
    SHORT = "short"
    LONG = "long"
    LONGLONG = "longlong"
    BIT = "bit"
    SHORTSTR = "shortstr"
    LONGSTR = "longstr"
    TABLE = "table"
    TIMESTAMP = "timestamp"


#: Marks a field, in its ``Annotated``, whose value no repr may show.
SECRET = "secret"

Octet = Annotated[int, Wire.OCTET]
Short = Annotated[int, Wire.SHORT]
Long = Annotated[int, Wire.LONG]
LongLong = Annotated[int, Wire.LONGLONG]
Bit = Annotated[bool, Wire.BIT]
ShortStr = Annotated[str, Wire.SHORTSTR]
LongStr = Annotated[bytes, Wire.LONGSTR]
Table = Annotated[Mapping[str, FieldValue], Wire.TABLE]
Timestamp = Annotated[datetime | int, Wire.TIMESTAMP]

#: A table with nothing in it, which nobody can change.
EMPTY_TABLE: Mapping[str, FieldValue] = MappingProxyType({})

#: Each octet as bytes, by its number.
OCTETS = tuple(bytes((number,)) for number in range(256))


# -- numbers of other widths ------------------------------------------------------

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
                cls.__name__, f"{value} is not within {cls.low} to {cls.high}"
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


# -- faults -----------------------------------------------------------------------


class _Fault(Exception):
    """
    What is wrong with a value, and the keys on the way to it, innermost first.
    """

    def __init__(self, problem: str):
        super().__init__(problem)
        self.problem = problem
        self.steps: list[object] = []

    def path(self, start: str) -> str:
        steps = [repr(step) for step in reversed(self.steps)]
        return start + "".join(
            f"[{step if len(step) <= 64 else step[:60] + '...'}]" for step in steps
        )


# -- encoding a table -------------------------------------------------------------

_pack_length = struct.Struct(">I").pack
_encode_utf8 = str.encode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def encode_table(table: Mapping[str, FieldValue], path: str = "table") -> bytes:
    """
    A field table, its length first.

    Tuples become arrays, bytes-like values become bytes, and a datetime loses
    what it has below the second, as AMQP has no place for it.

    :param path: what to call the table when something in it is wrong.
    :raises EncodeError: naming the value's place, as in ``headers['a'][3]``.
    """
    try:
        if not isinstance(table, Mapping):
            raise _Fault(f"expected a mapping, not {type(table).__name__}")
        return _encode_pairs(table, MAX_TABLE_DEPTH)
    except _Fault as fault:
        raise EncodeError(fault.path(path), fault.problem) from None


def _encode_pairs(table: Mapping[str, FieldValue], depth: int) -> bytes:
    if not depth:
        raise _Fault(f"nested more than {MAX_TABLE_DEPTH} deep")
    depth -= 1
    parts: list[bytes] = []
    add = parts.append
    key: object = None
    try:
        for key, value in table.items():
            try:
                name = _encode_utf8(key)
                add(OCTETS[len(name)])
                add(name)
            except (TypeError, UnicodeError, IndexError):
                add(_encode_odd_short_string(key))
            add(_ENCODERS[type(value)](value, depth))
    except _Fault as fault:
        fault.steps.append(key)
        raise
    data = b"".join(parts)
    return _pack_length(len(data)) + data


def _encode_inner_table(table: Mapping[str, FieldValue], depth: int) -> bytes:
    return b"F" + _encode_pairs(table, depth)


def _encode_array(values: Sequence[FieldValue], depth: int) -> bytes:
    if not depth:
        raise _Fault(f"nested more than {MAX_TABLE_DEPTH} deep")
    depth -= 1
    parts: list[bytes] = []
    try:
        for value in values:
            parts.append(_ENCODERS[type(value)](value, depth))
    except _Fault as fault:
        fault.steps.append(len(parts))
        raise
    data = b"".join(parts)
    return b"A" + _pack_length(len(data)) + data


def _encode_none(value: None, depth: int) -> bytes:
    return b"V"


def _encode_bool(value: bool, depth: int) -> bytes:
    return b"t\1" if value else b"t\0"


_pack_int32 = struct.Struct(">ci").pack
_pack_int64 = struct.Struct(">cq").pack


def _encode_int(value: int, depth: int) -> bytes:
    if -0x8000_0000 <= value <= 0x7FFF_FFFF:
        return _pack_int32(b"I", value)
    if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
        return _pack_int64(b"l", value)
    raise _Fault("an integer of more than 64 bits")


_pack_float64 = struct.Struct(">cd").pack
_pack_float32 = struct.Struct(">cf").pack


def _encode_float(value: float, depth: int) -> bytes:
    if not isfinite(value):
        raise _Fault(f"{value} is not a finite number")
    return _pack_float64(b"d", value)


def _encode_float32(value: Float32, depth: int) -> bytes:
    if not isfinite(value):
        raise _Fault(f"{value} is not a finite number")
    return _pack_float32(b"f", value)


def _encode_str(value: str, depth: int) -> bytes:
    try:
        data = _encode_utf8(value)
    except UnicodeEncodeError:
        raise _Fault("a str with a lone surrogate, which UTF-8 has not") from None
    return b"S" + _pack_length(len(data)) + data


def _encode_bytes(value: bytes | bytearray, depth: int) -> bytes:
    return b"x" + _pack_length(len(value)) + value


def _encode_memoryview(value: memoryview, depth: int) -> bytes:
    return b"x" + _pack_length(value.nbytes) + value.tobytes()


_pack_decimal = struct.Struct(">cBi").pack


def _encode_decimal(value: Decimal, depth: int) -> bytes:
    sign, all_digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise _Fault(f"{value} is not a finite number")
    digits = list(all_digits)
    if not value:
        digits, exponent = [0], max(min(exponent, 0), -255)
    # The wire has a power of ten of at most 0, and a signed 32-bit coefficient.
    while exponent < 0 and not digits[-1] and (len(digits) > 9 or exponent < -255):
        digits.pop()
        exponent += 1
    if 0 < exponent <= 10:
        digits += [0] * exponent
        exponent = 0
    if -255 <= exponent <= 0 and len(digits) <= 10:
        coefficient = int("".join(map(str, digits)))
        try:
            return _pack_decimal(b"D", -exponent, -coefficient if sign else coefficient)
        except struct.error:
            pass
    raise _Fault("a Decimal of more than 255 places or of more than 32 bits")


_pack_timestamp = struct.Struct(">cQ").pack


def _seconds(value: datetime) -> int:
    if value.utcoffset() is None:
        raise _Fault(
            "a naive datetime: say which time zone, as in datetime.now(timezone.utc)"
        )
    seconds = (value - _EPOCH) // _SECOND
    if seconds < 0:
        raise _Fault(f"{value.isoformat()} is before 1970")
    return seconds


def _encode_datetime(value: datetime, depth: int) -> bytes:
    return _pack_timestamp(b"T", _seconds(value))


def _sized(tag: bytes, code: str) -> Callable[[int, int], bytes]:
    pack = struct.Struct(">c" + code).pack

    def encode(value: int, depth: int) -> bytes:
        return pack(tag, value)

    return encode


class _Encoders(dict[type, Callable[[Any, int], bytes]]):
    """
    How to encode a value of each type; subclasses are found by way of the type
    that they come from.
    """

    def __missing__(self, kind: type) -> Callable[[Any, int], bytes]:
        for base in kind.__mro__:
            if base in self:
                return self[base]
        if issubclass(kind, Mapping):
            return _encode_inner_table
        if issubclass(kind, Sequence):
            return _encode_array
        advice = ": use a datetime" if issubclass(kind, date) else ""
        raise _Fault(f"AMQP has no {kind.__name__}{advice}")


_ENCODERS = _Encoders(
    {
        type(None): _encode_none,
        bool: _encode_bool,
        int: _encode_int,
        float: _encode_float,
        str: _encode_str,
        bytes: _encode_bytes,
        bytearray: _encode_bytes,
        memoryview: _encode_memoryview,
        Decimal: _encode_decimal,
        datetime: _encode_datetime,
        list: _encode_array,
        tuple: _encode_array,
        dict: _encode_inner_table,
        MappingProxyType: _encode_inner_table,
        Int8: _sized(b"b", "b"),
        UInt8: _sized(b"B", "B"),
        Int16: _sized(b"s", "h"),
        UInt16: _sized(b"u", "H"),
        UInt32: _sized(b"i", "I"),
        Float32: _encode_float32,
    }
)


# -- decoding a table -------------------------------------------------------------

_Decoder: TypeAlias = Callable[[bytes, int, int, int, Iterator[None]], tuple[Any, int]]

_read_length = struct.Struct(">I").unpack_from


def decode_table(
    data: bytes,
    position: int,
    end: int,
    max_depth: int = MAX_TABLE_DEPTH,
    path: str = "table",
) -> tuple[dict[str, FieldValue], int]:
    """
    Read a field table.

    A timestamp that no datetime can hold comes back as its number, text that
    is not UTF-8 as bytes (in a key: with surrogate escapes), and of a key that
    is there twice the last value counts.

    :param position: where the table's length stands in ``data``.
    :param end: where the table must have ended.
    :param path: what to call the table when something in it is wrong.
    :returns: the table, and the position after it.
    :raises DecodeError: when it is malformed, or over one of the limits.
    """
    try:
        if position + 4 > end:
            raise _Fault("ends within its length")
        return _decode_table(
            data, position, end, max_depth, repeat(None, MAX_TABLE_VALUES)
        )
    except _Fault as fault:
        raise DecodeError(f"{fault.path(path)}: {fault.problem}") from None


def _enter(data: bytes, position: int, end: int, depth: int) -> int:
    """
    Where the table or array whose length stands at ``position`` ends.
    """
    if depth < 1:
        raise _Fault("nested too deep")
    length = _read_length(data, position)[0]
    if length > MAX_TABLE_SIZE:
        raise _Fault(f"{length} bytes are over the limit of {MAX_TABLE_SIZE}")
    stop: int = position + 4 + length
    if stop > end:
        raise _Fault(f"{length} bytes are announced, {end - position - 4} are there")
    return stop


def _decode_table(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[dict[str, FieldValue], int]:
    stop = _enter(data, position, end, depth)
    position += 4
    depth -= 1
    table: dict[str, FieldValue] = {}
    key = ""
    try:
        # All the loops of one table draw on one budget; a loop over an iterator
        # counts for less than a counter would.
        for _ in budget:
            if position >= stop:
                break
            start = position + 1
            position = start + data[position]
            key = data[start:position].decode("utf-8", "surrogateescape")
            table[key], position = _DECODERS[data[position]](
                data, position + 1, stop, depth, budget
            )
        else:
            raise _Fault(f"more than {MAX_TABLE_VALUES} values")
        if position > stop:
            raise _Fault("runs past the end of its table")
    except (IndexError, struct.error):
        raise _past_the_end(key) from None
    except _Fault as fault:
        fault.steps.append(key)
        raise
    return table, stop


def _decode_array(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[list[FieldValue], int]:
    stop = _enter(data, position, end, depth)
    position += 4
    depth -= 1
    values: list[FieldValue] = []
    add = values.append
    try:
        for _ in budget:
            if position >= stop:
                break
            value, position = _DECODERS[data[position]](
                data, position + 1, stop, depth, budget
            )
            add(value)
        else:
            raise _Fault(f"more than {MAX_TABLE_VALUES} values")
        if position > stop:
            raise _Fault("runs past the end of its array")
    except (IndexError, struct.error):
        raise _past_the_end(len(values)) from None
    except _Fault as fault:
        fault.steps.append(len(values))
        raise
    return values, stop


def _past_the_end(step: object) -> _Fault:
    fault = _Fault("runs past the end of the data")
    fault.steps.append(step)
    return fault


def _fixed(code: str) -> _Decoder:
    form = struct.Struct(">" + code)
    unpack, size = form.unpack_from, form.size

    def decode(
        data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
    ) -> tuple[Any, int]:
        return unpack(data, position)[0], position + size

    return decode


def _decode_void(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[None, int]:
    return None, position


def _decode_bool(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[bool, int]:
    return data[position] != 0, position + 1


def _decode_str(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[str | bytes, int]:
    start = position + 4
    position = start + _read_length(data, position)[0]
    text = data[start:position]
    try:
        return text.decode(), position
    except UnicodeDecodeError:
        return text, position


def _decode_bytes(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[bytes, int]:
    start = position + 4
    position = start + _read_length(data, position)[0]
    return data[start:position], position


_read_decimal = struct.Struct(">Bi").unpack_from


def _decode_decimal(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[Decimal, int]:
    scale, coefficient = _read_decimal(data, position)
    # Not by dividing, which depends on the thread's decimal context.
    digits = tuple(map(int, str(abs(coefficient))))
    return Decimal((int(coefficient < 0), digits, -scale)), position + 5


_read_timestamp = struct.Struct(">Q").unpack_from


def _decode_datetime(
    data: bytes, position: int, end: int, depth: int, budget: Iterator[None]
) -> tuple[datetime | int, int]:
    seconds: int = _read_timestamp(data, position)[0]
    try:
        return _EPOCH + timedelta(seconds=seconds), position + 8
    except OverflowError:
        return seconds, position + 8


class _Decoders(dict[int, _Decoder]):
    """
    How to decode what follows each type letter.
    """

    def __missing__(self, tag: int) -> _Decoder:
        raise _Fault(f"unknown type {OCTETS[tag]!r}")


# The letters are those of RabbitMQ, whose list of errata says where they differ
# from the specification's: "s" is a 16-bit number, "l" and "L" are both signed.
_DECODERS = _Decoders(
    {
        ord("t"): _decode_bool,
        ord("b"): _fixed("b"),
        ord("B"): _fixed("B"),
        ord("s"): _fixed("h"),
        ord("u"): _fixed("H"),
        ord("I"): _fixed("i"),
        ord("i"): _fixed("I"),
        ord("l"): _fixed("q"),
        ord("L"): _fixed("q"),
        ord("f"): _fixed("f"),
        ord("d"): _fixed("d"),
        ord("D"): _decode_decimal,
        ord("S"): _decode_str,
        ord("x"): _decode_bytes,
        ord("A"): _decode_array,
        ord("F"): _decode_table,
        ord("T"): _decode_datetime,
        ord("V"): _decode_void,
    }
)


# -- single fields ----------------------------------------------------------------


def _encode_odd_short_string(value: object) -> bytes:
    """
    The careful way, for a str that the fast way did not manage.
    """
    if not isinstance(value, str):
        raise _Fault(f"expected a str, not {type(value).__name__}")
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _Fault("a str with a lone surrogate, which UTF-8 has not") from None
    if len(data) > 255:
        raise _Fault(f"a short string has at most 255 bytes, not {len(data)}")
    return OCTETS[len(data)] + data


def encode_short_string(value: str, path: str) -> bytes:
    """
    A string of at most 255 bytes of UTF-8, its length first.

    :param path: what to call the value when it does not fit.
    :raises EncodeError: when it does not.
    """
    try:
        return _encode_odd_short_string(value)
    except _Fault as fault:
        raise EncodeError(path, fault.problem) from None


def encode_long_string(value: bytes, path: str) -> bytes:
    """
    Bytes of any length below 4 GiB, their length first.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise EncodeError(path, f"expected bytes, not {type(value).__name__}")
    data = bytes(value)
    return _pack_length(len(data)) + data


def encode_timestamp(value: datetime | int, path: str) -> bytes:
    """
    A point in time, as seconds since 1970, or those seconds.
    """
    try:
        if isinstance(value, datetime):
            value = _seconds(value)
        elif not isinstance(value, int) or isinstance(value, bool):
            raise _Fault(f"expected a datetime, not {type(value).__name__}")
    except _Fault as fault:
        raise EncodeError(path, fault.problem) from None
    return _integer("Q")(value, path)


def _integer(code: str) -> Callable[[Any, str], bytes]:
    form = struct.Struct(">" + code)
    pack, high = form.pack, (1 << 8 * form.size) - 1

    def encode(value: int, path: str) -> bytes:
        try:
            return pack(value)
        except struct.error:
            if not isinstance(value, int):
                problem = f"expected an int, not {type(value).__name__}"
            else:
                problem = f"{value} is not within 0 to {high}"
            raise EncodeError(path, problem) from None

    return encode


def decode_short_string(data: bytes, position: int, path: str) -> tuple[str, int]:
    """
    A string with its length before it; bytes that are not UTF-8 become
    surrogate escapes.
    """
    try:
        start = position + 1
        position = start + data[position]
    except IndexError:
        raise _ends_early(path) from None
    if position > len(data):
        raise _ends_early(path)
    return data[start:position].decode("utf-8", "surrogateescape"), position


def decode_long_string(data: bytes, position: int, path: str) -> tuple[bytes, int]:
    """
    Bytes with their length before them.
    """
    try:
        start = position + 4
        position = start + _read_length(data, position)[0]
    except struct.error:
        raise _ends_early(path) from None
    if position > len(data):
        raise _ends_early(path)
    return data[start:position], position


def decode_timestamp(
    data: bytes, position: int, path: str
) -> tuple[datetime | int, int]:
    """
    Seconds since 1970: as a datetime, or as they are if that cannot hold them.
    """
    try:
        return _decode_datetime(data, position, 0, 0, repeat(None))
    except struct.error:
        raise _ends_early(path) from None


def _read_table(
    data: bytes, position: int, path: str
) -> tuple[dict[str, FieldValue], int]:
    return decode_table(data, position, len(data), path=path)


def _read_integer(code: str) -> Callable[[bytes, int, str], tuple[int, int]]:
    form = struct.Struct(">" + code)
    unpack, size = form.unpack_from, form.size

    def decode(data: bytes, position: int, path: str) -> tuple[int, int]:
        try:
            return unpack(data, position)[0], position + size
        except struct.error:
            raise _ends_early(path) from None

    return decode


def _ends_early(path: str) -> DecodeError:
    return DecodeError(f"{path}: runs past the end of the data")


#: How to encode a field on its own: called with the value and what to call it.
FIELD_ENCODERS: dict[Wire, Callable[[Any, str], bytes]] = {
    Wire.OCTET: _integer("B"),
    Wire.SHORT: _integer("H"),
    Wire.LONG: _integer("I"),
    Wire.LONGLONG: _integer("Q"),
    Wire.SHORTSTR: encode_short_string,
    Wire.LONGSTR: encode_long_string,
    Wire.TABLE: encode_table,
    Wire.TIMESTAMP: encode_timestamp,
}

#: How to decode a field on its own: called with all the bytes, the position and
#: what to call it; gives the value and the position after it.
FIELD_DECODERS: dict[Wire, Callable[[bytes, int, str], tuple[Any, int]]] = {
    Wire.OCTET: _read_integer("B"),
    Wire.SHORT: _read_integer("H"),
    Wire.LONG: _read_integer("I"),
    Wire.LONGLONG: _read_integer("Q"),
    Wire.SHORTSTR: decode_short_string,
    Wire.LONGSTR: decode_long_string,
    Wire.TABLE: _read_table,
    Wire.TIMESTAMP: decode_timestamp,
}
