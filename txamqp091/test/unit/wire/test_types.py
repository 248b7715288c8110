# -*- test-case-name: txamqp091.test.unit.wire.test_types -*-
"""
Tests for the data types: `txamqp091.wire.types` and the modules under it.

Rows of ``(value, bytes)`` are read both ways, and what hypothesis makes goes
round.  What broken and hostile peers send is in `test_decoding`.
"""

from __future__ import annotations

import enum
import math
import struct
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import DecodeError, EncodeError
from txamqp091.wire.types import (
    FIELD_DECODERS,
    FIELD_ENCODERS,
    MAX_TABLE_DEPTH,
    MAX_TABLE_SIZE,
    FieldValue,
    Float32,
    Int8,
    Int16,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    Wire,
    decode_long_string,
    decode_short_string,
    decode_table,
    decode_timestamp,
    encode_long_string,
    encode_short_string,
    encode_table,
    encode_timestamp,
)

MOMENT = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
SECONDS = struct.pack(">Q", 1_709_209_815)


def sized(data: bytes) -> bytes:
    """
    Bytes with their length, in four bytes, before them.
    """
    return struct.pack(">I", len(data)) + data


def table_of(*values: bytes) -> bytes:
    """
    The bytes of a table that has encoded values under the keys a, b, c ...
    """
    return sized(
        b"".join(
            b"\1" + bytes((97 + place,)) + value for place, value in enumerate(values)
        )
    )


def decoded(data: bytes) -> dict[str, FieldValue]:
    """
    The table that is all of ``data``.
    """
    table, position = decode_table(data, 0, len(data))
    assert position == len(data)
    return table


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Text(str):
    encode = None  # type: ignore[assignment]


# A value, the bytes that it has, and the value that they come back as.
BOTH_WAYS: list[tuple[Any, bytes]] = [
    (True, b"t\1"),
    (False, b"t\0"),
    (0, b"I\0\0\0\0"),
    (-1, b"I\xff\xff\xff\xff"),
    (2**31 - 1, b"I\x7f\xff\xff\xff"),
    (-(2**31), b"I\x80\0\0\0"),
    (2**31, b"l\0\0\0\0\x80\0\0\0"),
    (-(2**31) - 1, b"l\xff\xff\xff\xff\x7f\xff\xff\xff"),
    (2**63 - 1, b"l\x7f" + b"\xff" * 7),
    (-(2**63), b"l\x80" + b"\0" * 7),
    (0.1, b"d" + struct.pack(">d", 0.1)),
    (-0.0, b"d\x80" + b"\0" * 7),
    ("", b"S\0\0\0\0"),
    ("text", b"S\0\0\0\4text"),
    ("h\N{LATIN SMALL LETTER E WITH ACUTE}\0", b"S\0\0\0\4h\xc3\xa9\0"),
    ("\N{SNAKE}", b"S\0\0\0\4\xf0\x9f\x90\x8d"),
    (b"", b"x\0\0\0\0"),
    (b"\xff\0", b"x\0\0\0\2\xff\0"),
    (None, b"V"),
    ([], b"A\0\0\0\0"),
    ([1, "a", [None]], b"A" + sized(b"I\0\0\0\1S\0\0\0\1aA\0\0\0\1V")),
    ({}, b"F\0\0\0\0"),
    ({"k": {"": True}}, b"F" + sized(b"\1kF" + sized(b"\0t\1"))),
    (Decimal("1.50"), b"D\2\0\0\0\x96"),
    (Decimal("-2147483648"), b"D\0\x80\0\0\0"),
    (Decimal("2147483647"), b"D\0\x7f\xff\xff\xff"),
    (Decimal("1E-255"), b"D\xff\0\0\0\1"),
    (MOMENT, b"T" + SECONDS),
    (datetime(1970, 1, 1, tzinfo=UTC), b"T" + b"\0" * 8),
]

# What comes back as another, but equal, value.
ONE_WAY: list[tuple[Any, bytes, Any]] = [
    ((1, (2,)), b"A" + sized(b"I\0\0\0\1A" + sized(b"I\0\0\0\2")), [1, [2]]),
    (deque([None]), b"A\0\0\0\1V", [None]),
    (bytearray(b"ab"), b"x\0\0\0\2ab", b"ab"),
    (memoryview(b"abcd")[::2], b"x\0\0\0\2ac", b"ac"),
    (memoryview(b"abcd").cast("H"), b"x\0\0\0\4abcd", b"abcd"),
    (OrderedDict(k=1), b"F" + sized(b"\1kI\0\0\0\1"), {"k": 1}),
    (UserDict(k=1), b"F" + sized(b"\1kI\0\0\0\1"), {"k": 1}),
    (MappingProxyType({"k": 1}), b"F" + sized(b"\1kI\0\0\0\1"), {"k": 1}),
    (Colour.RED, b"I\0\0\0\1", 1),
    (Word.YES, b"S\0\0\0\3yes", "yes"),
    (Text("s"), b"S\0\0\0\1s", "s"),
    (Decimal("1E+3"), b"D\0\0\0\3\xe8", 1000),
    (Decimal("0E+1000"), b"D\0\0\0\0\0", 0),
    (Decimal("0E-1000"), b"D\xff\0\0\0\0", 0),
    (Decimal("-0"), b"D\0\0\0\0\0", 0),
    (Decimal("1." + "0" * 300), b"D\x08\5\xf5\xe1\0", 1),
    (MOMENT.replace(microsecond=999_999), b"T" + SECONDS, MOMENT),
    (MOMENT.astimezone(timezone(timedelta(hours=-5))), b"T" + SECONDS, MOMENT),
    (Int8(-128), b"b\x80", -128),
    (UInt8(255), b"B\xff", 255),
    (Int16(-2), b"s\xff\xfe", -2),
    (UInt16(65535), b"u\xff\xff", 65535),
    (UInt32(2**32 - 1), b"i\xff\xff\xff\xff", 2**32 - 1),
    (Int64(-2), b"l" + b"\xff" * 7 + b"\xfe", -2),
    (Float32(0.5), b"f\x3f\0\0\0", 0.5),
    (Float32(0.1), b"f\x3d\xcc\xcc\xcd", Float32(0.1)),
]

# What we read, but write otherwise.
READ_ONLY: list[tuple[bytes, Any]] = [
    (b"t\2", True),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    (b"d\x7f\xf0\0\0\0\0\0\0", math.inf),
    (b"S\0\0\0\2\xff\xfe", b"\xff\xfe"),
    (b"T" + struct.pack(">Q", 1_700_000_000_000), 1_700_000_000_000),
    (b"T" + b"\xff" * 8, 2**64 - 1),
    (b"D\xff\x7f\xff\xff\xff", Decimal(2147483647).scaleb(-255)),
]

REFUSED: list[tuple[Any, str]] = [
    (2**63, "64 bits"),
    (-(2**63) - 1, "64 bits"),
    (10**5000, "64 bits"),
    (math.nan, "finite"),
    (math.inf, "finite"),
    (Float32(math.inf), "finite"),
    ("\ud800", "surrogate"),
    ("\udcff", "surrogate"),
    (Decimal("NaN"), "finite"),
    (Decimal("sNaN"), "finite"),
    (Decimal("-Infinity"), "finite"),
    (Decimal(2**31), "32 bits"),
    (Decimal("3.141592653589793"), "32 bits"),
    (Decimal("1E-256"), "255 places"),
    (Decimal("1E+11"), "32 bits"),
    (Decimal("1E+999999"), "32 bits"),
    (Decimal("9" * 5000), "32 bits"),
    (datetime(2024, 1, 1), "naive"),
    (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "before 1970"),
    (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "before 1970"),
    (date(2024, 1, 1), "use a datetime"),
    (object(), "AMQP has no object"),
    ({1, 2}, "AMQP has no set"),
    (1j, "AMQP has no complex"),
    ({1: 2}, "expected a str, not int"),
    ({b"k": 2}, "expected a str, not bytes"),
    ({"k" * 256: 2}, "255 bytes"),
    ({"\u20ac" * 86: 2}, "255 bytes"),
    ({"\ud800": 2}, "surrogate"),
]

keys = st.text(max_size=60)
timestamps = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)
decimals = st.builds(
    lambda coefficient, places: Decimal(coefficient).scaleb(-places),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 255),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.binary(),
    decimals,
    timestamps,
    st.integers(-128, 127).map(Int8),
    st.integers(0, 255).map(UInt8),
    st.integers(-(2**15), 2**15 - 1).map(Int16),
    st.integers(0, 2**16 - 1).map(UInt16),
    st.integers(0, 2**32 - 1).map(UInt32),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(Float32),
)
tables = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=12,
    ),
    max_size=6,
)


class TableTests(SynchronousTestCase):
    """
    Tests for tables that are well formed.
    """

    def test_both_ways(self) -> None:
        """
        Each value has its bytes, and the bytes give the value and its type back.
        """
        for value, data in BOTH_WAYS:
            self.assertEqual(encode_table({"a": value}), table_of(data), value)
            back = decoded(table_of(data))["a"]
            self.assertEqual(back, value)
            self.assertIs(type(back), type(value))

    def test_one_way(self) -> None:
        """
        Subclasses, other containers and sized numbers are encoded as what they
        are kinds of, and come back as the plain type.
        """
        for value, data, back in ONE_WAY:
            self.assertEqual(encode_table({"a": value}), table_of(data), value)
            self.assertEqual(decoded(table_of(data)), {"a": back})

    def test_read_only(self) -> None:
        """
        Brokers and other clients write some things that we never write.
        """
        for data, value in READ_ONLY:
            self.assertEqual(decoded(table_of(data)), {"a": value})

    @given(tables)
    def test_round_trip(self, table: dict[str, FieldValue]) -> None:
        """
        What can be encoded comes back equal.
        """
        self.assertEqual(decoded(encode_table(table)), table)

    @given(st.binary(max_size=255))
    def test_any_key(self, raw: bytes) -> None:
        """
        Keys that are not UTF-8 survive both ways.
        """
        data = sized(bytes((len(raw),)) + raw + b"V")
        self.assertEqual(encode_table(decoded(data)), data)

    def test_duplicate_key(self) -> None:
        """
        Of a key that is there twice, the last value counts.
        """
        self.assertEqual(decoded(sized(b"\1at\1\1at\0")), {"a": False})

    def test_position(self) -> None:
        """
        A table is read from the middle of other bytes.
        """
        self.assertEqual(decode_table(b"..\0\0\0\3\1aV..", 2, 11), ({"a": None}, 9))

    def test_sized_numbers(self) -> None:
        """
        The wrappers are numbers that refuse what their width does not hold.
        """
        self.assertEqual(UInt16(7) + 1, 8)
        self.assertEqual(Float32(0.1), struct.unpack(">f", struct.pack(">f", 0.1))[0])
        for kind, value in [
            (Int8, 128),
            (Int8, -129),
            (UInt8, -1),
            (Int16, 2**15),
            (UInt16, 2**16),
            (UInt32, 2**32),
            (UInt32, 10**5000),
            (Int64, 2**63),
            (Float32, 1e39),
        ]:
            error = self.assertRaises(EncodeError, kind, value)
            self.assertEqual(error.path, kind.__name__)


class RefusedTests(SynchronousTestCase):
    """
    Tests for values that cannot be encoded.
    """

    def test_refused(self) -> None:
        """
        What AMQP cannot carry is refused with its place and a reason.
        """
        for value, problem in REFUSED:
            error = self.assertRaises(
                EncodeError, encode_table, {"x": [0, value]}, "headers"
            )
            self.assertTrue(error.path.startswith("headers['x'][1]"), error)
            self.assertIn(problem, str(error))

    def test_path(self) -> None:
        """
        The place of a value is told as Python would write it.
        """
        table: Any = {"a": 1, "b": [2, {"c": (3, object())}]}
        error = self.assertRaises(EncodeError, encode_table, table, "arguments")
        self.assertEqual(str(error), "arguments['b'][1]['c'][1]: AMQP has no object")

    def test_long_key_in_path(self) -> None:
        """
        A path does not repeat long keys, nor what is not a key.
        """
        error = self.assertRaises(EncodeError, encode_table, {"k" * 250: 1j})
        self.assertEqual(error.path, f"table['{'k' * 57}...']")
        error = self.assertRaises(EncodeError, encode_table, {(1, "secret"): 1})
        self.assertEqual(error.path, "table[tuple]")

    def test_not_a_table(self) -> None:
        """
        Only mappings are tables.
        """
        values: list[Any] = [None, [], "text", 5]
        for value in values:
            error = self.assertRaises(EncodeError, encode_table, value)
            self.assertIn("expected a mapping", str(error))

    def test_depth(self) -> None:
        """
        Tables and arrays nest to the limit and no further, either way.
        """
        wraps: list[Callable[[Any], Any]] = [
            lambda value: {"a": value},
            lambda value: [value],
        ]
        for wrap in wraps:
            value: Any = None
            for _ in range(MAX_TABLE_DEPTH - 1):
                value = wrap(value)
            fits = {"a": value}
            self.assertEqual(decoded(encode_table(fits)), fits)
            error = self.assertRaises(EncodeError, encode_table, {"a": wrap(value)})
            self.assertIn("32 deep", str(error))

    def test_table_within_itself(self) -> None:
        """
        A table that contains itself is refused, not followed for ever.
        """
        table: dict[str, Any] = {}
        table.update(a=table, b=table)
        self.assertRaises(EncodeError, encode_table, table)
        array: list[Any] = []
        array.append(array)
        self.assertRaises(EncodeError, encode_table, {"a": array})

    def test_size(self) -> None:
        """
        A table larger than what is read is not written either.
        """
        room = MAX_TABLE_SIZE - len(table_of(b"x\0\0\0\0")) + 4
        self.assertEqual(decoded(encode_table({"a": bytes(room)})), {"a": bytes(room)})
        error = self.assertRaises(EncodeError, encode_table, {"a": bytes(room + 1)})
        self.assertIn("over the limit", str(error))


class SingleFieldTests(SynchronousTestCase):
    """
    Tests for strings, numbers and timestamps on their own.
    """

    def test_short_string(self) -> None:
        """
        A short string has its length in one byte, and may hold any bytes.
        """
        for value, data in [
            ("", b"\0"),
            ("a\0b", b"\3a\0b"),
            ("\u20ac", b"\3\xe2\x82\xac"),
            ("\udcff", b"\1\xff"),
            ("x" * 255, b"\xff" + b"x" * 255),
        ]:
            self.assertEqual(encode_short_string(value, "queue"), data)
            self.assertEqual(
                decode_short_string(data + b"!", 0, "queue"), (value, len(data))
            )

    def test_short_string_refused(self) -> None:
        """
        What is no short string is refused by its name, without being shown.
        """
        values: list[Any] = ["x" * 256, "\u20ac" * 86, "\ud800", None, b"x", 5]
        for value in values:
            error = self.assertRaises(EncodeError, encode_short_string, value, "queue")
            self.assertEqual(error.path, "queue")
            self.assertNotIn("xx", str(error))

    def test_long_string(self) -> None:
        """
        A long string is bytes, from whatever holds bytes.
        """
        values: list[Any] = [b"ab", bytearray(b"ab"), memoryview(b"ab")]
        for value in values:
            self.assertEqual(encode_long_string(value, "r"), b"\0\0\0\2ab")
        self.assertEqual(decode_long_string(b"\0\0\0\2ab!", 0, "r"), (b"ab", 6))
        refused: list[Any] = ["ab", None, 5, [1]]
        for value in refused:
            error = self.assertRaises(EncodeError, encode_long_string, value, "r")
            self.assertIn("expected bytes", str(error))

    def test_timestamp(self) -> None:
        """
        A timestamp is a datetime where one can hold it, and else its number.
        """
        values: list[tuple[datetime | int, bytes]] = [
            (MOMENT, SECONDS),
            (2**64 - 1, b"\xff" * 8),
        ]
        for value, data in values:
            self.assertEqual(encode_timestamp(value, "timestamp"), data)
            self.assertEqual(decode_timestamp(data, 0, "timestamp"), (value, 8))
        self.assertEqual(
            encode_timestamp(int(MOMENT.timestamp()), "timestamp"), SECONDS
        )
        refused: list[Any] = [-1, 2**64, datetime(2024, 1, 1), True, "now", 1.5]
        for value in refused:
            self.assertRaises(EncodeError, encode_timestamp, value, "timestamp")

    def test_integers(self) -> None:
        """
        Numbers take their whole unsigned range, and nothing else.
        """
        for wire, size in [
            (Wire.OCTET, 1),
            (Wire.SHORT, 2),
            (Wire.LONG, 4),
            (Wire.LONGLONG, 8),
        ]:
            encode, decode = FIELD_ENCODERS[wire], FIELD_DECODERS[wire]
            high = (1 << 8 * size) - 1
            for value in (0, 1, high):
                data = value.to_bytes(size, "big")
                self.assertEqual(encode(value, "n"), data)
                self.assertEqual(decode(data, 0, "n"), (value, size))
            for odd in (-1, high + 1, 10**5000, 1.0, "1", None):
                error = self.assertRaises(EncodeError, encode, odd, "n")
                self.assertEqual(error.path, "n")

    def test_truncated(self) -> None:
        """
        A field that is cut is refused by its name.
        """
        values: dict[Wire, Any] = {
            Wire.SHORTSTR: "text",
            Wire.LONGSTR: b"text",
            Wire.TABLE: {"a": 1},
            Wire.TIMESTAMP: MOMENT,
        }
        for wire, encode in FIELD_ENCODERS.items():
            data = encode(values.get(wire, 7), "field")
            for end in range(len(data)):
                error = self.assertRaises(
                    DecodeError, FIELD_DECODERS[wire], data[:end], 0, "field"
                )
                self.assertTrue(error.reply_text.startswith("field"), error)
