# -*- test-case-name: txamqp091.test.unit.wire.test_types -*-
"""
AMQP's data types: what a single field looks like on the wire, both ways.

Methods and properties declare their fields with the aliases at the top.  Field
tables are written in `txamqp091.wire.encoding` and read in
`txamqp091.wire.decoding`.  Whatever the bytes or the values are, nothing but
`EncodeError` and `DecodeError` comes out of the functions here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

from txamqp091.errors import DecodeError, EncodeError
from txamqp091.wire.decoding import decode_table, seconds_to_datetime
from txamqp091.wire.encoding import (
    encode_odd_short_string,
    encode_table,
    whole_seconds,
)
from txamqp091.wire.values import (
    EMPTY_TABLE,
    MAX_TABLE_DEPTH,
    MAX_TABLE_SIZE,
    MAX_TABLE_VALUES,
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
    brief,
)

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
    "Int64",
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


def encode_short_string(value: str, path: str) -> bytes:
    """
    A string of at most 255 bytes of UTF-8, its length first.

    :param path: what to call the value when it does not fit.
    :raises EncodeError: when it does not.
    """
    try:
        data = str.encode(value)
        return OCTETS[len(data)] + data
    except (TypeError, UnicodeError, IndexError):
        pass
    try:
        return encode_odd_short_string(value)
    except Fault as fault:
        raise EncodeError(path, fault.problem) from None


def encode_long_string(value: bytes, path: str) -> bytes:
    """
    Bytes of any length below 4 GiB, their length first.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise EncodeError(path, f"expected bytes, not {type(value).__name__}")
    data = bytes(value)
    return len(data).to_bytes(4, "big") + data


def encode_timestamp(value: datetime | int, path: str) -> bytes:
    """
    A point in time, as seconds since 1970, or those seconds.
    """
    try:
        if isinstance(value, datetime):
            value = whole_seconds(value)
        elif type(value) is not int:
            raise Fault(f"expected a datetime, not {type(value).__name__}")
    except Fault as fault:
        raise EncodeError(path, fault.problem) from None
    return _encode_longlong(value, path)


def _integer(code: str) -> Callable[[Any, str], bytes]:
    form = struct.Struct(">" + code)
    pack, high = form.pack, (1 << 8 * form.size) - 1

    def encode(value: Any, path: str) -> bytes:
        try:
            return pack(value)
        except struct.error:
            if not isinstance(value, int):
                problem = f"expected an int, not {type(value).__name__}"
            else:
                problem = f"{brief(value)} is not within 0 to {high}"
            raise EncodeError(path, problem) from None

    return encode


_encode_longlong = _integer("Q")
_read_length = struct.Struct(">I").unpack_from
_read_timestamp = struct.Struct(">Q").unpack_from


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
        return seconds_to_datetime(_read_timestamp(data, position)[0]), position + 8
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
    Wire.LONGLONG: _encode_longlong,
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
