# -*- test-case-name: txamqp091.test.unit.wire.test_properties -*-
"""
Tests for `txamqp091.wire.properties`.

Above all: that what is wrong with one property of a message costs no more than
that property, when it is read.
"""

from __future__ import annotations

import enum
import struct
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import EncodeError, UndecodableProperty
from txamqp091.test.unit.wire.test_types import sized, table_of, tables, timestamps
from txamqp091.wire.properties import (
    EMPTY,
    PROPERTY_TYPES,
    Properties,
    around_message_id,
)
from txamqp091.wire.types import Wire

MOMENT = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)

# Properties and their bytes.
ROWS: list[tuple[dict[str, Any], bytes]] = [
    ({}, b"\0\0"),
    ({"content_type": "text/plain"}, b"\x80\0\x0atext/plain"),
    ({"content_encoding": ""}, b"\x40\0\0"),
    ({"headers": {}}, b"\x20\0\0\0\0\0"),
    ({"headers": {"a": None}}, b"\x20\0\0\0\0\3\1aV"),
    ({"delivery_mode": 2}, b"\x10\0\2"),
    ({"priority": 255}, b"\x08\0\xff"),
    ({"correlation_id": "c"}, b"\4\0\1c"),
    ({"reply_to": "\udcff"}, b"\2\0\1\xff"),
    ({"expiration": "60000"}, b"\1\0\x0560000"),
    ({"message_id": "m"}, b"\0\x80\1m"),
    ({"timestamp": MOMENT}, b"\0\x40" + struct.pack(">Q", 1_709_209_815)),
    ({"timestamp": 2**63}, b"\0\x40\x80" + b"\0" * 7),
    ({"type": "t"}, b"\0\x20\1t"),
    ({"user_id": "u"}, b"\0\x10\1u"),
    ({"app_id": "a"}, b"\0\x08\1a"),
    ({"cluster_id": "c"}, b"\0\4\1c"),
    (
        {"content_type": "x", "delivery_mode": 1, "cluster_id": "y"},
        b"\x90\4\1x\1\1y",
    ),
]

# One of everything.
FULL: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "headers": {"a": [1, "two", {"three": None}]},
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c-1",
    "reply_to": "amq.rabbitmq.reply-to",
    "expiration": "60000",
    "message_id": "m-1",
    "timestamp": MOMENT,
    "type": "order",
    "user_id": "guest",
    "app_id": "shop",
    "cluster_id": "",
}

VALUES: dict[Wire, st.SearchStrategy[Any]] = {
    Wire.SHORTSTR: st.binary(max_size=255).map(
        lambda raw: raw.decode("utf-8", "surrogateescape")
    ),
    Wire.OCTET: st.integers(1, 2),
    Wire.TABLE: tables,
    Wire.TIMESTAMP: timestamps | st.integers(2**40, 2**64 - 1),
}
anything = st.fixed_dictionaries(
    {}, optional={name: VALUES[wire] for name, wire in PROPERTY_TYPES.items()}
)


def values_of(properties: Properties) -> dict[str, Any]:
    """
    The properties that are set.
    """
    values = {name: getattr(properties, name) for name in PROPERTY_TYPES}
    return {name: value for name, value in values.items() if value is not None}


class PropertiesTests(SynchronousTestCase):
    """
    Tests for properties that are well formed.
    """

    def test_both_ways(self) -> None:
        """
        Properties have their bytes, and the bytes give them back.
        """
        for values, data in ROWS:
            self.assertEqual(Properties(**values).encode(), data)
            self.assertEqual(values_of(Properties.from_wire(data)), values)

    def test_all(self) -> None:
        """
        All fourteen go round together.
        """
        self.assertEqual(list(FULL), list(PROPERTY_TYPES))
        data = Properties(**FULL).encode()
        self.assertEqual(data[:2], b"\xff\xfc")
        self.assertEqual(values_of(Properties.from_wire(data)), FULL)

    @given(anything)
    @settings(deadline=None)
    def test_round_trip(self, values: dict[str, Any]) -> None:
        """
        Whatever properties a message has come back equal.
        """
        made = Properties(**values)
        read = Properties.from_wire(made.encode())
        self.assertEqual(values_of(read), values)
        self.assertEqual(read, made)
        self.assertEqual(hash(read), hash(made))

    @given(anything, VALUES[Wire.SHORTSTR])
    @settings(deadline=None)
    def test_around_message_id(self, values: dict[str, Any], message_id: str) -> None:
        """
        A message_id goes between the two parts of what is encoded around it.
        """
        values.pop("message_id", None)
        raw = message_id.encode("utf-8", "surrogateescape")
        for properties in (
            Properties(**values),
            Properties.from_wire(Properties(**values).encoded),
        ):
            before, after = around_message_id(properties)
            whole = properties.replace(message_id=message_id).encoded
            self.assertEqual(before + bytes([len(raw)]) + raw + after, whole)

    def test_encoded_once(self) -> None:
        """
        The bytes are made once, and are an attribute from then on.
        """
        made = Properties(**FULL)
        self.assertIs(made.encode(), made.encode())
        self.assertIs(made.encode(), made.encoded)

    def test_bytes_kept(self) -> None:
        """
        What came from the wire goes back to it as it came.
        """
        raw = Properties(**FULL).encode()
        read = Properties.from_wire(raw)
        self.assertIs(read.encode(), raw)
        self.assertEqual(values_of(read), FULL)
        self.assertIs(read.encode(), raw)

    def test_read_once(self) -> None:
        """
        What has been decoded is not decoded again.
        """
        read = Properties.from_wire(Properties(**FULL).encode())
        self.assertIs(read.headers, read.headers)
        self.assertIs(read.message_id, read.message_id)

    def test_empty(self) -> None:
        """
        Nothing need be set, and one object serves all who set nothing.
        """
        self.assertEqual(EMPTY.encode(), b"\0\0")
        self.assertEqual(values_of(EMPTY), {})
        self.assertEqual(EMPTY, Properties())

    def test_headers_are_copied(self) -> None:
        """
        Headers cannot be changed, neither here nor where they came from.
        """
        given_headers = {"a": 1}
        made = Properties(headers=given_headers)
        given_headers["a"] = 2
        for each in (made, Properties.from_wire(made.encode())):
            headers: Any = each.headers
            self.assertEqual(headers, {"a": 1})
            with self.assertRaises(TypeError):
                headers["a"] = 3

    def test_unchangeable(self) -> None:
        """
        Properties cannot be changed, and have no others.
        """
        made: Any = Properties(priority=1)
        for name in ("priority", "encoded", "prioritee"):
            with self.assertRaises(AttributeError):
                setattr(made, name, 2)
        with self.assertRaises(AttributeError):
            del made.priority
        with self.assertRaises(AttributeError):
            made.prioritee
        self.assertEqual(made.priority, 1)

    def test_replace(self) -> None:
        """
        A copy has the changes, and the rest as it was.
        """
        made = Properties(**FULL)
        changed = made.replace(priority=0, timestamp=None)
        expected = {**FULL, "priority": 0}
        del expected["timestamp"]
        self.assertEqual(values_of(changed), expected)
        self.assertEqual(values_of(made), FULL)
        with self.assertRaises(TypeError):
            made.replace(prioritee=1)

    def test_expiration(self) -> None:
        """
        An expiration in milliseconds may be given as the number it is.
        """
        self.assertEqual(Properties(expiration=1500).expiration, "1500")

    def test_equality(self) -> None:
        """
        Properties are equal by their values, wherever they come from.
        """
        made, other = Properties(**FULL), Properties(**{**FULL, "headers": {"a": 2}})
        self.assertEqual(made, Properties.from_wire(made.encode()))
        self.assertNotEqual(made, other)
        self.assertEqual(hash(made), hash(other))
        self.assertNotEqual(made, FULL)
        self.assertEqual(len({made, other, Properties(**FULL)}), 2)

    def test_repr(self) -> None:
        """
        What is shown is what is set.
        """
        self.assertEqual(repr(EMPTY), "Properties()")
        self.assertEqual(
            repr(Properties(headers={"a": 1}, priority=0)),
            "Properties(headers={'a': 1}, priority=0)",
        )

    def test_subclasses(self) -> None:
        """
        Enumerations stand for their values.
        """

        class Mode(enum.IntEnum):
            PERSISTENT = 2

        made = Properties(delivery_mode=Mode.PERSISTENT)
        self.assertEqual(made.encode(), b"\x10\0\2")


class RefusedTests(SynchronousTestCase):
    """
    Tests for values that cannot be encoded.
    """

    def test_refused(self) -> None:
        """
        What does not fit is refused by its name when it is encoded, each time.
        """
        refused: list[tuple[str, Any]] = [
            ("delivery_mode", 0),
            ("delivery_mode", 3),
            ("delivery_mode", 77),
            ("delivery_mode", True),
            ("delivery_mode", 2.0),
            ("delivery_mode", "2"),
            ("delivery_mode", 2**100),
            ("priority", -1),
            ("priority", 256),
            ("priority", "1"),
            ("expiration", True),
            ("expiration", 1.5),
            ("message_id", 5),
            ("message_id", b"m"),
            ("message_id", "m" * 256),
            ("type", "\ud800"),
            ("timestamp", datetime(2024, 1, 1)),
            ("timestamp", datetime(1960, 1, 1, tzinfo=UTC)),
            ("timestamp", "now"),
            ("timestamp", -1),
            ("timestamp", 2**64),
            ("headers", [("a", 1)]),
            ("headers", "a"),
        ]
        for name, value in refused:
            made = Properties(**{name: value})
            for attempt in (made.encode, made.encode, lambda made=made: made.encoded):
                error = self.assertRaises(EncodeError, attempt)
                self.assertEqual(error.path, name)
            self.assertIn(name, repr(made))

    def test_path(self) -> None:
        """
        A bad header is named with its place.
        """
        headers: Any = {"a": [0, 1, 2, object()]}
        error = self.assertRaises(EncodeError, Properties(headers=headers).encode)
        self.assertEqual(error.path, "headers['a'][3]")


class PoisonTests(SynchronousTestCase):
    """
    Tests for properties that a bad producer made.
    """

    def unreadable(self, read: Properties, name: str) -> str:
        """
        That a property cannot be read, now or later; and what is said of it.
        """
        problem = ""
        for _ in range(2):
            error = self.assertRaises(UndecodableProperty, getattr, read, name)
            self.assertEqual(error.name, name)
            self.assertIs(error.raw, read.encoded)
            problem = error.problem
        return problem

    def test_odd_but_readable(self) -> None:
        """
        Values that nobody should send, but that can be read, are read.
        """
        rows: list[tuple[bytes, str, Any]] = [
            (b"\x10\0\x4d", "delivery_mode", 77),
            (b"\x08\0\xff", "priority", 255),
            (b"\0\x40" + b"\xff" * 8, "timestamp", 2**64 - 1),
            (
                b"\0\x40" + struct.pack(">Q", 1_700_000_000_000),
                "timestamp",
                1_700_000_000_000,
            ),
            (b"\x80\0\2\xff\xfe", "content_type", "\udcff\udcfe"),
            (b"\x20\0" + sized(b"\1at\1\1at\0"), "headers", {"a": False}),
            (b"\x20\0" + table_of(b"S\0\0\0\1\xff"), "headers", {"a": b"\xff"}),
            (b"\x20\0" + sized(b"\1\xffV"), "headers", {"\udcff": None}),
        ]
        for raw, name, value in rows:
            read = Properties.from_wire(raw)
            self.assertEqual(values_of(read), {name: value})
            self.assertEqual(read.encode(), raw)

    def test_bad_headers(self) -> None:
        """
        What is wrong within the headers costs the headers alone.
        """
        deep = b"".join(
            b"A" + struct.pack(">I", 5 * level) for level in reversed(range(18_000))
        )
        for headers in (
            table_of(b"U\0\0"),
            table_of(b"I\0\0"),
            table_of(b"S\xff\xff\xff\xff"),
            sized(b"\5key"),
            sized(b"\1a" + deep),
        ):
            raw = b"\xb0\x04" + b"\1x" + headers + b"\2" + b"\1y"
            read = Properties.from_wire(raw)
            self.unreadable(read, "headers")
            self.assertEqual(read.content_type, "x")
            self.assertEqual(read.delivery_mode, 2)
            self.assertEqual(read.cluster_id, "y")
            self.assertIs(read.priority, None)
            self.assertIn("headers=<undecodable>", repr(read))
            self.assertEqual(read.encode(), raw)

    def test_bad_headers_said(self) -> None:
        """
        The fault in the headers is named with its place.
        """
        read = Properties.from_wire(b"\x20\0" + table_of(b"U\0\0"))
        self.assertEqual(
            self.unreadable(read, "headers"), "headers['a']: unknown type b'U'"
        )

    def test_truncated(self) -> None:
        """
        Wherever the properties are cut, those before the cut are readable, those
        from there on are not, and those never there are ``None``.
        """
        for values in (FULL, {**FULL, "headers": None, "priority": None}):
            made = Properties(**values)
            whole = made.encode()
            for end in range(2, len(whole)):
                read = Properties.from_wire(whole[:end])
                faulty = ""
                for name, value in values.items():
                    if value is None:
                        self.assertIs(getattr(read, name), None)
                    elif faulty:
                        problem = self.unreadable(read, name)
                        self.assertIn(faulty, problem)
                    else:
                        try:
                            self.assertEqual(getattr(read, name), value)
                        except UndecodableProperty:
                            faulty = name
                self.assertTrue(faulty)
                self.assertIn(f"{faulty}=<undecodable>", repr(read))
                self.assertNotEqual(read, made)
                self.assertEqual(read, Properties.from_wire(whole[:end]))
                self.assertEqual(hash(read), hash(Properties.from_wire(whole[:end])))

    def test_without_flags(self) -> None:
        """
        Where not even the flags are whole, no property can be read.
        """
        for raw in (b"", b"\0", b"\x80\1", b"\x80\1\0", b"\x80\1\0\1\0"):
            read = Properties.from_wire(raw)
            for name in PROPERTY_TYPES:
                self.assertIn("flags", self.unreadable(read, name))

    def test_more_flags(self) -> None:
        """
        Flags beyond the first sixteen are skipped; what they announce comes after
        all that we know, and is left alone.
        """
        for more in (b"\0\0", b"\x80\0", b"\xff\xff\0\0"):
            raw = b"\x80\1" + more + b"\1x" + b"unknown"
            read = Properties.from_wire(raw)
            self.assertEqual(values_of(read), {"content_type": "x"})
            self.assertEqual(read.encode(), raw)

    def test_bytes_left_over(self) -> None:
        """
        Bytes after the last property, or for the one flag that AMQP does not
        use, harm nobody.
        """
        read = Properties.from_wire(b"\x10\2\1junk")
        self.assertEqual(values_of(read), {"delivery_mode": 1})

    def test_replace(self) -> None:
        """
        What cannot be read cannot be copied, but can be replaced.
        """
        read = Properties.from_wire(b"\x30\0" + table_of(b"U\0\0") + b"\2")
        self.assertRaises(UndecodableProperty, read.replace, priority=1)
        self.assertEqual(read.replace(headers=None), Properties(delivery_mode=2))

    @given(anything, st.data())
    @settings(max_examples=300, deadline=None)
    def test_any_mutation(self, values: dict[str, Any], draw: Any) -> None:
        """
        Whatever is wrong with the bytes, each property is read or is an
        `UndecodableProperty`.
        """
        data = bytearray(Properties(**values).encode())
        for _ in range(draw.draw(st.integers(1, 4))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(
                st.integers(0, 255)
            )
        raw = bytes(data[: draw.draw(st.integers(0, len(data)))])
        read = Properties.from_wire(raw)
        for name in draw.draw(st.permutations(list(PROPERTY_TYPES))):
            try:
                getattr(read, name)
            except UndecodableProperty as error:
                self.assertEqual(error.name, name)
        repr(read)
        self.assertEqual(read, Properties.from_wire(raw))
        self.assertIs(read.encode(), raw)
