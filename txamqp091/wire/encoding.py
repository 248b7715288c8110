# -*- test-case-name: txamqp091.test.unit.wire.test_types -*-
"""
Values to bytes: field tables (AMQP 0-9-1 §4.2.5.5) with RabbitMQ's type letters.

How to encode each type of value is a look-up in a dict, in which subclasses are
found by way of what they come from.  Where a value does not fit, the way to it
is put together while the error travels up, so that it costs nothing before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from types import MappingProxyType
from typing import Any

from txamqp091.errors import EncodeError
from txamqp091.wire.values import (
    MAX_TABLE_DEPTH,
    MAX_TABLE_SIZE,
    OCTETS,
    Fault,
    FieldValue,
    Float32,
    Int8,
    Int16,
    Int64,
    UInt8,
    UInt16,
    UInt32,
)

__all__ = [
    "encode_odd_short_string",
    "encode_table",
    "whole_seconds",
]

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
            raise Fault(f"expected a mapping, not {type(table).__name__}")
        data = _encode_pairs(table, MAX_TABLE_DEPTH)
        if len(data) > MAX_TABLE_SIZE + 4:
            raise Fault(f"{len(data)} bytes are over the limit of {MAX_TABLE_SIZE}")
        return data
    except Fault as fault:
        raise EncodeError(fault.path(path), fault.problem) from None


def _encode_pairs(table: Mapping[str, FieldValue], depth: int) -> bytes:
    if not depth:
        raise Fault(f"nested more than {MAX_TABLE_DEPTH} deep")
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
                add(encode_odd_short_string(key))
            add(_ENCODERS[type(value)](value, depth))
    except Fault as fault:
        fault.steps.append(key)
        raise
    data = b"".join(parts)
    return _pack_length(len(data)) + data


def _encode_inner_table(table: Mapping[str, FieldValue], depth: int) -> bytes:
    return b"F" + _encode_pairs(table, depth)


def _encode_array(values: Sequence[FieldValue], depth: int) -> bytes:
    if not depth:
        raise Fault(f"nested more than {MAX_TABLE_DEPTH} deep")
    depth -= 1
    parts: list[bytes] = []
    try:
        for value in values:
            parts.append(_ENCODERS[type(value)](value, depth))
    except Fault as fault:
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
    raise Fault("an integer of more than 64 bits")


_pack_float64 = struct.Struct(">cd").pack
_pack_float32 = struct.Struct(">cf").pack


def _encode_float(value: float, depth: int) -> bytes:
    if not isfinite(value):
        raise Fault(f"{value} is not a finite number")
    return _pack_float64(b"d", value)


def _encode_float32(value: Float32, depth: int) -> bytes:
    if not isfinite(value):
        raise Fault(f"{value} is not a finite number")
    return _pack_float32(b"f", value)


def _encode_str(value: str, depth: int) -> bytes:
    try:
        data = _encode_utf8(value)
    except UnicodeEncodeError:
        raise Fault("a str with a lone surrogate, which UTF-8 has not") from None
    return b"S" + _pack_length(len(data)) + data


def _encode_bytes(value: bytes | bytearray, depth: int) -> bytes:
    return b"x" + _pack_length(len(value)) + value


def _encode_memoryview(value: memoryview, depth: int) -> bytes:
    return b"x" + _pack_length(value.nbytes) + value.tobytes()


_pack_decimal = struct.Struct(">cBi").pack


def _encode_decimal(value: Decimal, depth: int) -> bytes:
    if not value.is_finite():
        raise Fault(f"{value} is not a finite number")
    sign, given, exponent = value.as_tuple()
    # is_finite has shown that the exponent is no letter.
    places = -int(exponent)
    digits = list(given)
    if not value:
        digits, places = [0], min(max(places, 0), 255)
    # The wire has a number of decimal places and a signed 32-bit coefficient.
    while places > 0 and not digits[-1] and (len(digits) > 9 or places > 255):
        digits.pop()
        places -= 1
    if -10 <= places < 0:
        digits += [0] * -places
        places = 0
    if 0 <= places <= 255 and len(digits) <= 10:
        coefficient = int("".join(map(str, digits)))
        try:
            return _pack_decimal(b"D", places, -coefficient if sign else coefficient)
        except struct.error:
            pass
    raise Fault("a Decimal of more than 255 places or of more than 32 bits")


_pack_timestamp = struct.Struct(">cQ").pack


def whole_seconds(value: datetime) -> int:
    if value.utcoffset() is None:
        raise Fault(
            "a naive datetime: say which time zone, as in datetime.now(timezone.utc)"
        )
    seconds = (value - _EPOCH) // _SECOND
    if seconds < 0:
        raise Fault(f"{value.isoformat()} is before 1970")
    return seconds


def _encode_datetime(value: datetime, depth: int) -> bytes:
    return _pack_timestamp(b"T", whole_seconds(value))


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
        raise Fault(f"AMQP has no {kind.__name__}{advice}")


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
        Int64: _sized(b"l", "q"),
        Float32: _encode_float32,
    }
)


def encode_odd_short_string(value: object) -> bytes:
    """
    The careful way, for a str that the fast way did not manage.
    """
    if not isinstance(value, str):
        raise Fault(f"expected a str, not {type(value).__name__}")
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Fault("a str with a lone surrogate, which UTF-8 has not") from None
    if len(data) > 255:
        raise Fault(f"a short string has at most 255 bytes, not {len(data)}")
    return OCTETS[len(data)] + data
