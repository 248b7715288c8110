# -*- test-case-name: txamqp091.test.scenarios.test_content -*-
"""
Scenarios: what a message is made of arrives as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import PreconditionFailed
from txamqp091.test.support.raw_client import RawClient
from txamqp091.test.support.recording import content
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import Float32, Int8, Int16, UInt8, UInt16, UInt32


@every_peer
class ContentScenarios(Scenario):
    """
    Messages arrive as they were sent.
    """

    async def there_and_back(
        self, channel: Channel, body: bytes, properties: Properties | None = None
    ) -> tuple[bytes, Properties]:
        """
        Publish a message, and fetch it.
        """
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, body, properties)
        delivery = await self.get(channel, queue, auto_ack=True)
        return delivery.body, delivery.properties

    async def test_bodies(self) -> None:
        """
        Bodies of all sizes: none, one octet, all octets, and around a frame.
        """
        channel = await self.channel()
        # What a frame can carry: 8 octets are around it.
        room = 131072 - 8
        for size in (0, 1, 256, 4096, room - 1, room, room + 1, 2 * room, 1_000_000):
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            found, _ = await self.there_and_back(channel, body)
            self.assertTrue(found == body, size)

    async def test_large_delivery(self) -> None:
        """
        So they come to consumers.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        deliveries = await channel.consume(queue)
        for body in (b"x" * 500_000, b"", b"y"):
            await channel.basic_publish("", queue, body)
            self.assertTrue((await deliveries.get()).body == body)

    async def test_small_frames(self) -> None:
        """
        A connection may agree on smaller frames: from 4.3 on not below 8192 octets.
        """
        connection = await self.connect(frame_max=8192)
        channel = await connection.open_channel()
        await channel.confirm_select()
        body = b"z" * 100_000
        found, _ = await self.there_and_back(channel, body)
        self.assertTrue(found == body)

    async def test_all_properties(self) -> None:
        """
        All properties arrive, octet by octet.
        """
        channel = await self.channel()
        properties = Properties(
            content_type="text/plain",
            content_encoding="utf-8",
            headers={"key": "value"},
            delivery_mode=2,
            priority=7,
            correlation_id="correlation",
            reply_to="reply",
            expiration="600000",
            message_id="message",
            timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            type="type",
            user_id="guest",
            app_id="app",
            cluster_id="cluster",
        )
        _, found = await self.there_and_back(channel, b"x", properties)
        self.assertEqual(found.encode(), properties.encode())

    async def test_no_properties(self) -> None:
        """
        None stay none: 3.10 and 4.3 add no delivery mode.
        """
        channel = await self.channel()
        _, found = await self.there_and_back(channel, b"x")
        self.assertEqual(found.encode(), b"\0\0")

    async def test_each_property(self) -> None:
        """
        Each of them alone does, also with what is odd in it.
        """
        channel = await self.channel()
        values: list[Mapping[str, Any]] = [
            {"content_type": ""},
            {"content_encoding": "ä" * 100},
            {"headers": {}},
            {"delivery_mode": 1},
            {"priority": 255},
            {"correlation_id": "\udcff\udcfe"},
            {"reply_to": "a" * 255},
            {"expiration": "99999999"},
            {"timestamp": 2**63},
            {"type": "\0"},
            {"cluster_id": "?"},
        ]
        for each in values:
            properties = Properties(**each)
            _, found = await self.there_and_back(channel, b"", properties)
            self.assertEqual(found.encode(), properties.encode(), each)

    async def test_header_types(self) -> None:
        """
        Headers keep their types, octet by octet.
        """
        channel = await self.channel()
        headers: dict[str, Any] = {
            "bool": True,
            "int8": Int8(-8),
            "uint8": UInt8(200),
            "int16": Int16(-300),
            "uint16": UInt16(40000),
            "int32": -70000,
            "uint32": UInt32(4_000_000_000),
            "int64": 2**40,
            "float": Float32(0.5),
            "double": 1.25,
            "decimal": Decimal("3.14"),
            "text": "Grüße",
            "octets": b"\0\xff",
            "none": None,
            "time": datetime(2026, 1, 2, tzinfo=UTC),
            "list": [1, "two", [3.0, None]],
            "table": {"inner": {"deep": [b"x"]}},
            "": "no name",
        }
        # What becomes of their order is another matter.
        properties = Properties(headers=dict(sorted(headers.items())))
        _, found = await self.there_and_back(channel, b"", properties)
        self.assertEqual(found.encode(), properties.encode())

    async def test_order_of_headers(self) -> None:
        """
        Headers keep their order, or are sorted by 4.3.
        """
        channel = await self.channel()
        properties = Properties(headers={"z": 1, "a": 2, "m": 3, "B": 4})
        _, found = await self.there_and_back(channel, b"", properties)
        assert found.headers is not None
        order = self.by_version({"3.10": "zamB", "4.3": "Bamz"})
        self.assertEqual("".join(found.headers), order)

    async def test_too_large(self) -> None:
        """
        406: a message of 17 MB is too much for 4.3, not for 3.10.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.basic_publish("", queue, bytes(17 << 20))
        if self.by_version({"3.10": True, "4.3": False}):
            await call
            return
        text = "message size 17825792 is larger than configured max size 16777216"
        await self.channel_refused(channel, call, 406, "basic.publish", text)


@every_peer
class IdentityScenarios(Scenario):
    """
    The property ``user_id`` is the name of the user, or nothing.
    """

    async def test_right(self) -> None:
        """
        It may be there.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "x", Properties(user_id="guest"))
        delivery = await self.get(channel, queue)
        self.assertEqual(delivery.properties.user_id, "guest")

    async def test_wrong(self) -> None:
        """
        406: it may not be another's.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.basic_publish("", queue, "x", Properties(user_id="root"))
        text = "user_id property set to 'root' but authenticated user was 'guest'"
        await self.channel_refused(channel, call, 406, "basic.publish", text)

    async def test_missing_exchange_first(self) -> None:
        """
        404: that there is no such exchange is seen before.
        """
        channel = await self.channel()
        name = self.name("exchange")
        call = channel.basic_publish(name, "", "x", Properties(user_id="root"))
        await self.channel_refused(channel, call, 404, "basic.publish", name)

    async def test_typed_error(self) -> None:
        """
        The error is of the type of its code.
        """
        channel = await self.channel()
        with self.assertRaises(PreconditionFailed):
            await channel.basic_publish("", "q", "x", Properties(user_id="root"))


@every_peer
class RawContentScenarios(Scenario):
    """
    Properties that no client of ours sends.
    """

    async def publish(
        self, properties: bytes, last: type[Method]
    ) -> tuple[RawClient, Method]:
        """
        Publish a message to a queue, the last one that was declared, whose dead letters
        go to a queue ``dead``.

        :param properties: as they are on the wire.
        :returns: the client, and what it was answered.
        """
        client = await self.raw()
        queue, self.dead = self.name(), self.name()
        arguments = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.dead,
        }
        client.say(
            1,
            spec.ConfirmSelect(),
            spec.QueueDeclare(0, self.dead, exclusive=True),
            spec.QueueDeclare(0, queue, exclusive=True, arguments=arguments),
        )
        client.write(content(1, spec.BasicPublish(0, "", queue), b"x", properties))
        [*_, answer] = await self.hear(client, last)
        return client, answer

    async def test_delivery_mode(self) -> None:
        """
        406: 3.10 knows two delivery modes; 4.3 takes any, and has dead letters of them.
        """
        for mode in (0, 77):
            properties = bytes([0x10, 0, mode])
            if self.by_version({"3.10": True, "4.3": False}):
                _, closed = await self.publish(properties, spec.ChannelClose)
                assert isinstance(closed, spec.ChannelClose)
                text = f"invalid message: {{delivery_mode_unknown,{mode}}}"
                self.assertEqual(
                    (closed.reply_code, closed.reply_text),
                    (406, f"PRECONDITION_FAILED - {text}"),
                )
                continue
            client, _ = await self.publish(properties, spec.BasicAck)
            client.say(1, spec.BasicGet(0, ""))
            await self.hear(client, spec.BasicGetOk)
            client.say(1, spec.BasicReject(1, False))

            async def died(client: RawClient = client) -> bool:
                client.say(1, spec.BasicGet(0, self.dead), spec.BasicQos())
                heard = await self.hear(client, spec.BasicQosOk)
                return any(isinstance(each, spec.BasicGetOk) for each in heard)

            await self.until(died, "a dead letter")

    async def test_malformed(self) -> None:
        """
        541: properties that cannot be decoded.
        """
        for properties in (
            b"\x20\0",  # no headers, though there should be some
            b"\x20\0\0\0",
            b"\x20\0\0\0\0\1a",
            b"\x80\0\5ab",
            b"\0\0more",
        ):
            _, closed = await self.publish(properties, spec.ConnectionClose)
            assert isinstance(closed, spec.ConnectionClose)
            self.assertEqual(closed.reply_code, 541)
