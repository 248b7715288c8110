# -*- test-case-name: txamqp091.test.unit.wire.test_decoding -*-
"""
Bytes to values: field tables (AMQP 0-9-1 §4.2.5.5) with RabbitMQ's type letters.

The bytes may be anyone's.  Depth, size and number of values are limited, every
position is held against the end of the data, and what is wrong with a value is
told with the way to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import repeat
from typing import Any, TypeAlias

from txamqp091.errors import DecodeError
from txamqp091.wire.values import (
    MAX_TABLE_DEPTH,
    MAX_TABLE_SIZE,
    MAX_TABLE_VALUES,
    OCTETS,
    Fault,
    FieldValue,
)

__all__ = [
    "decode_table",
    "seconds_to_datetime",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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
    end = min(end, len(data))
    try:
        if position + 4 > end:
            raise Fault("ends within its length")
        return _decode_table(
            data, position, end, max_depth, repeat(None, MAX_TABLE_VALUES)
        )
    except Fault as fault:
        raise DecodeError(f"{fault.path(path)}: {fault.problem}") from None


def _enter(data: bytes, position: int, end: int, depth: int) -> int:
    """
    Where the table or array whose length stands at ``position`` ends.
    """
    if depth < 1:
        raise Fault("nested too deep")
    length = _read_length(data, position)[0]
    if length > MAX_TABLE_SIZE:
        raise Fault(f"{length} bytes are over the limit of {MAX_TABLE_SIZE}")
    stop: int = position + 4 + length
    if stop > end:
        raise Fault(f"{length} bytes are announced, {end - position - 4} are there")
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
            raise Fault(f"more than {MAX_TABLE_VALUES} values")
        if position > stop:
            raise Fault("runs past the end of its table")
    except (IndexError, struct.error):
        raise _past_the_end(key) from None
    except Fault as fault:
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
            raise Fault(f"more than {MAX_TABLE_VALUES} values")
        if position > stop:
            raise Fault("runs past the end of its array")
    except (IndexError, struct.error):
        raise _past_the_end(len(values)) from None
    except Fault as fault:
        fault.steps.append(len(values))
        raise
    return values, stop


def _past_the_end(step: object) -> Fault:
    fault = Fault("runs past the end of the data")
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
    return seconds_to_datetime(_read_timestamp(data, position)[0]), position + 8


def seconds_to_datetime(seconds: int) -> datetime | int:
    """
    A point in time; as its number, if no datetime can hold it.
    """
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return seconds


class _Decoders(dict[int, _Decoder]):
    """
    How to decode what follows each type letter.
    """

    def __missing__(self, tag: int) -> _Decoder:
        raise Fault(f"unknown type {OCTETS[tag]!r}")


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
