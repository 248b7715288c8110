# -*- test-case-name: txamqp091.test.rabbitmq.test_poison -*-
"""
Messages that were made badly, or are too large, and that a real RabbitMQ lets
through: none of them costs the consumer anything but itself (criteria 6 and 7).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from struct import pack

from twisted.internet.defer import gatherResults

from txamqp091.arguments import classic_queue
from txamqp091.channel import Channel
from txamqp091.errors import (
    Closed,
    ContentTooLarge,
    UndecodableProperty,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    resident,
    until,
)
from txamqp091.wire.properties import PROPERTY_TYPES, Properties

_FLAG = {name: 1 << 15 - place for place, name in enumerate(PROPERTY_TYPES)}


def only(name: str, value: bytes) -> bytes:
    """
    The bytes of properties of which one is set.
    """
    return pack(">H", _FLAG[name]) + value


def headers(entries: bytes) -> bytes:
    """
    The bytes of properties with nothing but a table of headers.
    """
    return only("headers", pack(">I", len(entries)) + entries)


def nested(depth: int) -> bytes:
    """
    The entries of a table in a table in a table...
    """
    entries = b""
    for _ in range(depth):
        entries = b"\1aF" + pack(">I", len(entries)) + entries
    return entries


@dataclass(frozen=True)
class Poison:
    """
    A message that is hard to read.

    :ivar raw: its properties, as they go on the wire.
    :ivar bad: the property that cannot be read; "" if all of them can.
    """

    raw: bytes
    bad: str = ""
    routing_key: str = ""


POISON = {
    "nested 18,000 deep": Poison(headers(nested(18_000)), "headers"),
    "nested 33 deep": Poison(headers(nested(33)), "headers"),
    "nested 30 deep": Poison(headers(nested(30))),
    "array nested deep": Poison(
        headers(
            b"\1a" + b"".join(b"A" + pack(">I", 5 * n) for n in range(2000, -1, -1))
        ),
        "headers",
    ),
    "unknown type": Poison(headers(b"\1a\x07"), "headers"),
    "a value cut short": Poison(headers(b"\1al\0\0"), "headers"),
    "a table past the end": Poison(only("headers", pack(">I", 1000)), "headers"),
    "a table past its table": Poison(headers(b"\1aF\0\0\1\0"), "headers"),
    "a string past the table": Poison(headers(b"\1aS\0\0\1\0x"), "headers"),
    "a key past the table": Poison(headers(b"\xffa"), "headers"),
    "a key that is no UTF-8": Poison(headers(b"\2\xff\xfeV")),
    "a text that is no UTF-8": Poison(headers(b"\1aS\0\0\0\2\xff\xfe")),
    "a duplicate key": Poison(headers(b"\1aV\1at\1")),
    "an empty key": Poison(headers(b"\0V")),
    "a decimal of scale 255": Poison(headers(b"\1aD\xff\0\0\0\1")),
    "a header's timestamp out of range": Poison(headers(b"\1aT" + b"\xff" * 8)),
    "not a number": Poison(headers(b"\1ad" + pack(">d", float("nan")))),
    "an unsigned 64-bit integer": Poison(headers(b"\1aL" + b"\xff" * 8)),
    "a timestamp out of range": Poison(only("timestamp", b"\xff" * 8)),
    "a timestamp in milliseconds": Poison(
        only("timestamp", pack(">Q", 1_700_000_000_000))
    ),
    "content_type is no UTF-8": Poison(only("content_type", b"\2\xff\xfe")),
    "content_type past the end": Poison(only("content_type", b"\xffx"), "content_type"),
    "delivery mode 77": Poison(only("delivery_mode", b"\x4d")),
    "delivery mode 0": Poison(only("delivery_mode", b"\0")),
    "priority 255": Poison(only("priority", b"\xff")),
    "no flags": Poison(b"", "content_type"),
    "flags without values": Poison(b"\xff\xfc", "content_type"),
    "flags that go on": Poison(b"\0\1\0\0"),
    "values without flags": Poison(b"\0\0" + b"what is this?"),
    "a routing key that is no UTF-8": Poison(b"\0\0", routing_key="\udcff\udcfe"),
}

#: What RabbitMQ refuses: the publisher's connection or channel is closed.
REFUSED = {
    "unknown type",
    "a value cut short",
    "a table past the end",
    "a table past its table",
    "a string past the table",
    "a key past the table",
    "not a number",
    "content_type past the end",
    "no flags",
    "flags without values",
    "flags that go on",
    "values without flags",
}
REFUSED_BY_3_10 = {"delivery mode 77", "delivery mode 0"}


class Reader:
    """
    A handler that looks at everything, and fails if it cannot.
    """

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, delivery: Delivery) -> None:
        self.seen.append(delivery.body)
        str(delivery.routing_key), repr(delivery)
        for name in PROPERTY_TYPES:
            getattr(delivery.properties, name)
        dict(delivery.headers)
        delivery.ack()


@every_broker
class PoisonTests(RabbitTestCase):
    """
    Messages that are hard to read.
    """

    async def publish(self, exchange: str, name: str) -> bool:
        """
        Publish a poison, from a connection of its own; tell whether the broker has
        taken it.
        """
        poison = POISON[name]
        publisher = await self.open_channel()
        await publisher.confirm_select()
        properties = Properties.from_wire(poison.raw)
        try:
            await publisher.basic_publish(
                exchange, poison.routing_key, name, properties
            )
        except Closed:
            return False
        return True

    async def test_every_poison(self) -> None:
        """
        Each reaches the handler once; the good message behind it arrives; what
        cannot be read is rejected and logged, once; and the connection stays.
        """
        proxy = self.proxy()
        channel = await self.open_channel(port=proxy.port)
        dead = (await channel.queue_declare(exclusive=True)).queue
        arguments = classic_queue(dead_letter_exchange="", dead_letter_routing_key=dead)
        exchange = self.queue_name()
        await channel.exchange_declare(exchange, "fanout", auto_delete=True)
        queue = (await channel.queue_declare(arguments=arguments)).queue
        await channel.queue_bind(queue, exchange)
        await channel.confirm_select()
        reader = Reader()
        await channel.basic_consume(queue, reader, on_failure="reject")
        refused: set[str] = set()
        lethal: set[str] = set()
        for name, poison in POISON.items():
            if not await self.publish(exchange, name):
                refused.add(name)
                continue
            await channel.basic_publish("", queue, "good")
            await until(lambda: reader.seen[-1:] == [b"good"])
            self.assertEqual(reader.seen, [name.encode(), b"good"], name)
            reader.seen.clear()
            errors = self.flushLoggedErrors(UndecodableProperty)
            bad = [each.value.name for each in errors]
            self.assertEqual(bad, [poison.bad] if poison.bad else [], name)
            lethal.update([name] if bad else [])
        expected = REFUSED
        if self.node.installation.number < (4, 3):
            expected = REFUSED | REFUSED_BY_3_10
        self.assertEqual(refused, expected)
        self.assertTrue(channel.is_open)
        self.assertEqual(proxy.accepted, 1)
        await until(lambda: self.node.queue_depth(dead, self.vhost) == len(lethal))
        await channel.queue_delete(queue)


@every_broker
class OversizedTests(RabbitTestCase):
    """
    Messages that are larger than we take.
    """

    size = 16 << 20

    async def filled(self, channel: Channel, count: int) -> tuple[str, str]:
        """
        A queue with large messages in it and a small one behind them; and the queue
        for its dead letters.
        """
        dead = (await channel.queue_declare(exclusive=True)).queue
        declared = await channel.queue_declare(
            exclusive=True,
            arguments=classic_queue(
                dead_letter_exchange="", dead_letter_routing_key=dead
            ),
        )
        await channel.confirm_select()
        body = bytes(self.size)
        await gatherResults(
            [channel.basic_publish("", declared.queue, body) for _ in range(count)]
        )
        await channel.publish_many([Message("", declared.queue, "small")])
        return declared.queue, dead

    async def test_consumed(self) -> None:
        """
        Their bodies are not kept, they go to the dead letters, and the consumer and
        its memory do not notice (criterion 7).
        """
        channel = await self.open_channel(max_body_size=1 << 20)
        queue, dead = await self.filled(channel, 4)
        gc.collect()
        reader = Reader()
        before = resident()
        await channel.basic_consume(queue, reader, on_failure="reject")
        await until(lambda: reader.seen == [b"small"])
        self.assertLess(resident() - before, 8 << 20)
        await until(lambda: self.node.queue_depth(dead, self.vhost) == 4)

    async def test_fetched(self) -> None:
        """
        Fetching one is an error of that call, and the next one gets the next.
        """
        channel = await self.open_channel(max_body_size=1 << 20)
        queue, dead = await self.filled(channel, 1)
        with self.assertRaises(ContentTooLarge) as context:
            await channel.basic_get(queue)
        self.assertEqual(context.exception.size, self.size)
        delivery = await channel.basic_get(queue)
        assert delivery is not None
        self.assertEqual(delivery.body, b"small")
        await channel.basic_reject(context.exception.delivery_tag, requeue=False)
        await until(lambda: self.node.queue_depth(dead, self.vhost) == 1)
