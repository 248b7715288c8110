# -*- test-case-name: txamqp091.test.promises.test_poison -*-
"""
Criterion 6: one message that one bad producer published never costs the connection, nor
the messages behind it.  What properties cannot be decoded is
`txamqp091.test.unit.wire.test_properties`; this is what becomes of a message that has
them.
"""

from __future__ import annotations

from decimal import Decimal
from struct import pack
from typing import Any

from txamqp091.errors import DecodeError, UndecodableProperty
from txamqp091.message import Delivery
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.properties import Properties


def nested(depth: int, head: bytes) -> bytes:
    """
    A table in a table, or an array in an array, and so on.
    """
    value = b""
    for _ in range(depth):
        value = head + pack(">I", len(value)) + value
    return value


def headers(table: bytes, length: int | None = None) -> bytes:
    """
    Properties of which only the headers are set.
    """
    return b"\x20\0" + pack(">I", len(table) if length is None else length) + table


#: What nobody can read: the bytes of the properties, and which one it is.
UNDECODABLE: list[tuple[str, bytes, str]] = [
    ("tables nested 18,000 deep", headers(nested(18_000, b"\1aF")), "headers"),
    ("arrays nested 18,000 deep", headers(b"\1a" + nested(18_000, b"A")), "headers"),
    ("tables nested 33 deep", headers(nested(33, b"\1aF")), "headers"),
    ("a table longer than the frame", headers(b"\1at\1", 1000), "headers"),
    ("a table of 4 GiB", headers(b"\1at\1", 0xFFFFFFFF), "headers"),
    ("a table in a table past its end", headers(b"\1aF\0\0\1\0"), "headers"),
    ("a string past the end", headers(b"\1aS\0\0\0\x09abc"), "headers"),
    ("a key past the end", headers(b"\xffa"), "headers"),
    ("a type that is none", headers(b"\1a?\0"), "headers"),
    ("a number cut short", headers(b"\1al\0\0"), "headers"),
    ("a short string past the end", b"\x80\0\xffabc", "content_type"),
    ("no value at all", b"\x80\0", "content_type"),
    ("the last one cut short", b"\0\x84\1m\x05ab", "cluster_id"),
    ("a timestamp cut short", b"\0\x40\0\0\0", "timestamp"),
    ("more flags, which are missing", b"\x20\1", "headers"),
]

#: What can be read, as is written here, although it is odd.
READABLE: list[tuple[str, bytes, str, Any]] = [
    ("delivery-mode 77", b"\x10\0\x4d", "delivery_mode", 77),
    ("priority 255", b"\x08\0\xff", "priority", 255),
    ("milliseconds", b"\0\x40" + pack(">Q", 10**15), "timestamp", 10**15),
    ("a timestamp of 2^64-1", b"\0\x40" + b"\xff" * 8, "timestamp", 2**64 - 1),
    ("type, not UTF-8", b"\x80\0\2\xff\xfe", "content_type", "\udcff\udcfe"),
    ("encoding, not UTF-8", b"\x40\0\1\xff", "content_encoding", "\udcff"),
    ("correlation, not UTF-8", b"\x04\0\1\xff", "correlation_id", "\udcff"),
    ("message id, not UTF-8", b"\0\x80\1\xff", "message_id", "\udcff"),
    ("user, not UTF-8", b"\0\x10\1\xff", "user_id", "\udcff"),
    ("a key, not UTF-8", headers(b"\1\xfft\1"), "headers", {"\udcff": True}),
    ("a text, not UTF-8", headers(b"\1aS\0\0\0\1\xff"), "headers", {"a": b"\xff"}),
    (
        "a header's timestamp out of range",
        headers(b"\1aT" + b"\xff" * 8),
        "headers",
        {"a": 2**64 - 1},
    ),
    (
        "a decimal of 255 places",
        headers(b"\1aD\xff\0\0\0\1"),
        "headers",
        {"a": Decimal(1).scaleb(-255)},
    ),
    ("a key twice", headers(b"\1at\0\1at\1"), "headers", {"a": True}),
    ("an empty key", headers(b"\0t\1"), "headers", {"": True}),
    ("a boolean of 2", headers(b"\1at\2"), "headers", {"a": True}),
    ("flags that AMQP has not", b"\x10\3\xff\xff\0\0\2", "delivery_mode", 2),
    ("bytes behind the values", b"\x10\0\2junk", "delivery_mode", 2),
]


class PoisonTests(ChannelCase):
    """
    A bad message, and a good one behind it.
    """

    def bad_and_good(self, tag: int, raw: bytes) -> None:
        """
        Deliver both, in one piece.
        """
        data = b""
        for each, properties in [(tag, raw), (tag + 1, b"\x10\0\2")]:
            method = spec.BasicDeliver("tag", each, False, "", "work")
            frame = method_frame(1, method.encode())
            data += b"".join(content_frames(1, frame, properties, b"body", 131064))
        self.peer.feed(data)

    def test_undecodable(self) -> None:
        """
        The bad message is handed out; reading the property tells what is wrong, and
        has the raw bytes; if that is the handler's failure it is rejected, once,
        without going back (if so asked) and logged, once; the good one is delivered.
        """
        name = ""
        caught: list[UndecodableProperty] = []

        def handle(delivery: Delivery) -> None:
            self.assertEqual(delivery.body, b"body")
            try:
                getattr(delivery.properties, name)
            except UndecodableProperty as error:
                caught.append(error)
                raise
            delivery.ack()

        self.consumer(handle, on_failure="reject")
        events = self.catch_log()
        tag = 1
        for about, raw, name in UNDECODABLE:  # noqa: B007
            self.bad_and_good(tag, raw)
            self.assertEqual(
                self.heard(),
                [spec.BasicReject(tag, False), spec.BasicAck(tag + 1, False)],
                about,
            )
            error = caught.pop()
            self.assertEqual((error.name, error.raw), (name, raw), about)
            self.assertEqual((len(events), caught), (1, []), about)
            self.assertLess(len(events.pop()), 5000, about)
            self.assertEqual(len(self.flushLoggedErrors(UndecodableProperty)), 1)
            tag += 2
        self.assertTrue(self.peer.client.is_open)

    def test_readable(self) -> None:
        """
        What is only odd has the value that is documented, and is no failure.
        """
        name = ""
        values: list[Any] = []

        def handle(delivery: Delivery) -> None:
            values.append(getattr(delivery.properties, name))
            delivery.ack()

        self.consumer(handle)
        tag = 1
        for about, raw, name, value in READABLE:  # noqa: B007
            self.bad_and_good(tag, raw)
            self.assertEqual(values[0], value, about)
            self.assertEqual(
                self.heard(),
                [spec.BasicAck(tag, False), spec.BasicAck(tag + 1, False)],
                about,
            )
            values.clear()
            tag += 2
        self.assertTrue(self.peer.client.is_open)

    def test_nobody_looks(self) -> None:
        """
        A handler that reads no properties can acknowledge any of them.
        """
        self.consumer(Delivery.ack)
        bad = [raw for _, raw, *_ in UNDECODABLE] + [raw for _, raw, *_ in READABLE]
        for place, raw in enumerate(bad):
            self.bad_and_good(2 * place + 1, raw)
        self.assertEqual(
            self.heard(),
            [spec.BasicAck(tag, False) for tag in range(1, 2 * len(bad) + 1)],
        )

    def test_what_comes_before(self) -> None:
        """
        Properties ahead of the one that is bad can be read; so can all the others,
        when it is only the contents of the headers that are bad.
        """
        seen: list[Delivery] = []
        self.consumer(seen.append)
        self.bad_and_good(1, b"\x80\x80\1t\xffshort")
        self.assertEqual(seen[0].properties.content_type, "t")
        self.assertRaises(UndecodableProperty, lambda: seen[0].properties.message_id)
        self.bad_and_good(3, b"\xa0\x80\1t\0\0\0\3\1a?\1m")
        self.assertEqual(seen[2].properties.content_type, "t")
        self.assertEqual(seen[2].properties.message_id, "m")
        self.assertRaises(UndecodableProperty, lambda: seen[2].headers)

    def test_loop(self) -> None:
        """
        In a loop the error is raised where the property is read; the loop goes on.
        """
        deliveries = self.deliveries()

        async def run() -> list[int]:
            good = []
            async for delivery in deliveries:
                try:
                    delivery.headers["a"]
                except UndecodableProperty:
                    delivery.reject(requeue=False)
                except KeyError:
                    delivery.ack()
                    good.append(delivery.delivery_tag)
            return good

        running = self.start(run())
        self.bad_and_good(1, headers(nested(18_000, b"\1aF")))
        self.bad_and_good(3, headers(b"", 1000))
        deliveries.cancel()
        heard = self.peer.serve()
        self.assertEqual(heard[0], spec.BasicReject(1, False))
        self.assertEqual(self.successResultOf(running), [2, 4])

    def test_get(self) -> None:
        """
        One that was fetched is the same.
        """
        getting = self.channel.basic_get("work")
        self.give(1, b"body", headers(b"", 1000))
        delivery = self.successResultOf(getting)
        assert delivery is not None
        self.assertRaises(UndecodableProperty, lambda: delivery.headers)
        delivery.reject(requeue=False)
        self.assertEqual(self.heard()[-1], spec.BasicReject(1, False))

    def test_published_again(self) -> None:
        """
        A bad message can be published as it is, for example to a queue of bad ones.
        """
        seen: list[Delivery] = []
        self.consumer(seen.append)
        raw = headers(b"", 1000)
        self.bad_and_good(1, raw)
        done = self.channel.basic_publish("", "bad", seen[0].body, seen[0].properties)
        self.successResultOf(done)
        self.assertEqual(self.peer.hear().properties.encode(), raw)

    def test_no_flags(self) -> None:
        """
        A header frame that ends before the flags of its properties is not a bad
        property, but a bad frame: 502.
        """
        consumer = self.consumer(Delivery.ack)
        self.bad_and_good(1, b"\x20")
        self.assertEqual(
            self.reason(consumer.when_ended(), DecodeError).reply_code, 502
        )
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_log_is_one_line(self) -> None:
        """
        What a bad producer wrote is cut and escaped in the log.
        """
        self.consumer(lambda delivery: 1 // 0)
        events = self.catch_log()
        raw = Properties(message_id="\x1b[31m\r\n" + "x" * 240).encode()
        self.bad_and_good(1, raw)
        first = events[0].splitlines()[0]
        self.assertTrue(first.isprintable(), first)
        self.assertIn("goes back", first)
        self.flushLoggedErrors(ZeroDivisionError)
