# -*- test-case-name: txamqp091.test.unit.wire.test_decoding -*-
"""
Tests for `txamqp091.wire.decoding`: what broken and hostile peers send.

Whatever the bytes, there is a table or a `DecodeError`, soon, and in little
memory.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import DecodeError
from txamqp091.test.unit.wire.test_types import BOTH_WAYS, sized, table_of, tables
from txamqp091.wire.types import (
    MAX_TABLE_DEPTH,
    MAX_TABLE_SIZE,
    FieldValue,
    decode_table,
    encode_table,
)

MALFORMED: list[tuple[bytes, str]] = [
    (b"", "within its length"),
    (b"\0\0\0", "within its length"),
    (b"\0\0\0\1", "1 bytes are announced, 0 are there"),
    (b"\xff\xff\xff\xff", "over the limit"),
    (table_of(b"U\0\1"), "unknown type b'U'"),
    (table_of(b"?"), "unknown type b'?'"),
    (table_of(b"\0"), "unknown type"),
    (table_of(b""), "past the end"),
    (table_of(b"I\0\0\0"), "past the end"),
    (table_of(b"S\0\0\0\5text"), "past the end"),
    (table_of(b"S\xff\xff\xff\xfftext"), "past the end"),
    (table_of(b"x\0\0\0\1"), "past the end"),
    (table_of(b"A\0\0\0\1"), "1 bytes are announced, 0 are there"),
    (table_of(b"F\0\0"), "past the end"),
    (table_of(b"A" + sized(b"I\0\0\0")), "past the end"),
    (table_of(b"A" + sized(b"t")), "past the end"),
    (sized(b"\5key"), "past the end"),
    (sized(b"\1"), "past the end"),
]


class HostileTests(SynchronousTestCase):
    """
    Tests for bytes that a broken or hostile peer sends.
    """

    def test_malformed(self) -> None:
        """
        Malformed tables are refused with a reason.
        """
        for data, problem in MALFORMED:
            error = self.assertRaises(DecodeError, decode_table, data, 0, len(data))
            self.assertIn(problem, str(error))

    def test_past_the_table(self) -> None:
        """
        A value does not reach over the end of its table, though there are bytes.
        """
        for inner in (
            b"\1aI\0\0",
            b"\1aS\0\0\0\4te",
            b"\1aD\0\0",
            b"\1aT\0\0",
            b"\1at",
            b"\1a",
            b"\5a",
            b"\1aA\0\0\0\4V",
            b"\1aA\0\0\0\1I",
        ):
            data = sized(inner) + b"V" * 300
            self.assertRaises(DecodeError, decode_table, data, 0, len(data))
            end = 4 + len(inner)
            self.assertRaises(DecodeError, decode_table, data, 0, end)

    def test_path(self) -> None:
        """
        The place of a malformed value is told.
        """
        data = table_of(b"V", b"A" + sized(b"VF" + table_of(b"U\0\0")))
        error = self.assertRaises(
            DecodeError, decode_table, data, 0, len(data), path="headers"
        )
        self.assertEqual(error.reply_text, "headers['b'][1]['a']: unknown type b'U'")
        self.assertEqual(error.reply_code, 502)

    def test_every_truncation(self) -> None:
        """
        A table cut anywhere is refused.
        """
        whole = encode_table(
            {str(place): row[0] for place, row in enumerate(BOTH_WAYS)}
        )
        for end in range(len(whole)):
            self.assertRaises(DecodeError, decode_table, whole[:end], 0, end)
            self.assertRaises(DecodeError, decode_table, whole[:end], 0, len(whole))
            shorter = struct.pack(">I", max(end - 4, 0)) + whole[4:end]
            try:
                decode_table(shorter, 0, len(shorter))
            except DecodeError:
                pass  # it fits only where a value happens to end

    @given(st.binary(max_size=64), st.sampled_from(["F", "A"]))
    @settings(max_examples=300)
    def test_any_bytes(self, junk: bytes, tag: str) -> None:
        """
        Whatever the bytes, there is a table or a typed error.
        """
        data = table_of(tag.encode() + sized(junk))
        for attempt in (junk, sized(junk), data):
            try:
                decode_table(attempt, 0, len(attempt))
            except DecodeError:
                pass

    @given(tables, st.data())
    @settings(max_examples=200)
    def test_any_mutation(self, table: dict[str, FieldValue], draw: Any) -> None:
        """
        Whatever is wrong with a table's bytes, nothing but a typed error comes
        out.
        """
        data = bytearray(encode_table(table))
        for _ in range(3):
            place = draw.draw(st.integers(0, len(data) - 1))
            data[place] = draw.draw(st.integers(0, 255))
        try:
            decode_table(bytes(data), 0, len(data))
        except DecodeError:
            pass

    def test_deep(self) -> None:
        """
        A table nested 18,000 deep, of tables or of arrays, is refused.
        """
        for head in (b"\1aF", b"A"):
            size = len(head) + 4
            nested = b"".join(
                head + struct.pack(">I", size * level)
                for level in reversed(range(18_000))
            )
            data = sized(nested if head != b"A" else b"\1a" + nested)
            for depth in (1, 5, MAX_TABLE_DEPTH):
                error = self.assertRaises(
                    DecodeError, decode_table, data, 0, len(data), depth
                )
                self.assertIn("too deep", error.reply_text)

    def test_size_limit(self) -> None:
        """
        A table that announces more than the limit is refused on its length.
        """
        data = struct.pack(">I", MAX_TABLE_SIZE + 1) + bytes(MAX_TABLE_SIZE + 1)
        error = self.assertRaises(DecodeError, decode_table, data, 0, len(data))
        self.assertIn("over the limit", str(error))
