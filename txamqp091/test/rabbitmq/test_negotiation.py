# -*- test-case-name: txamqp091.test.rabbitmq.test_negotiation -*-
"""
What a real RabbitMQ and we agree on when we connect, and that both keep to it.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from txamqp091.errors import ChannelsExhausted
from txamqp091.test.support.chaos import Direction, Frame, Link
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.wire import spec


@every_broker
class NegotiationTests(RabbitTestCase):
    """
    What both sides can take.
    """

    async def test_limits(self) -> None:
        """
        The lower frame_max, channel_max and heartbeat hold, and the broker keeps to
        the frame_max: no frame of a large message is larger.
        """
        largest = 0

        def watch(unit: Frame | bytes, way: Direction, link: Link) -> None:
            nonlocal largest
            largest = max(
                largest, len(unit.encode() if isinstance(unit, Frame) else b"")
            )

        proxy = self.proxy(on_frame=watch)
        channel = await self.open_channel(
            port=proxy.port, frame_max=8192, channel_max=5, heartbeat=7
        )
        agreed = channel.connection
        self.assertEqual((agreed.frame_max, agreed.channel_max), (8192, 5))
        self.assertEqual(agreed.heartbeat, 7)
        queue = (await channel.queue_declare(exclusive=True)).queue
        body = bytes(100_000)
        await channel.basic_publish("", queue, body)
        delivery = await channel.basic_get(queue, auto_ack=True)
        assert delivery is not None
        self.assertEqual(delivery.body, body)
        self.assertEqual(largest, 8192)

    async def test_no_limits(self) -> None:
        """
        Where we have no limit, the broker's holds; and the broker's heartbeat, if that
        is lower.
        """
        connection = await self.connect(frame_max=0, channel_max=0, heartbeat=600)
        self.assertEqual((connection.frame_max, connection.channel_max), (131072, 2047))
        self.assertEqual(connection.heartbeat, 60)

    async def test_no_heartbeats(self) -> None:
        """
        The broker lets a client switch heartbeats off.
        """
        connection = await self.connect(heartbeat=0)
        self.assertEqual(connection.heartbeat, 0)
        timeouts = "rabbit_networking:connection_info_all([timeout])"
        said = self.node.eval(f"lists:member([{{timeout, 0}}], {timeouts}).")
        self.assertEqual(said, "true")

    async def test_channels_exhausted(self) -> None:
        """
        As many channels as agreed can be open; one more is an error for its asker
        only, and a closed one makes room.
        """
        connection = await self.connect(channel_max=65)
        opened = [connection.open_channel() for _ in range(65)]
        one_more = connection.open_channel()
        channels = await gatherResults(opened)
        self.failureResultOf(one_more, ChannelsExhausted)
        self.assertEqual(sorted(each.number for each in channels), [*range(1, 66)])
        await channels[30].close()
        self.assertEqual((await connection.open_channel()).number, 31)

    async def test_heartbeats_keep_it(self) -> None:
        """
        An idle connection lives on as long as both say that they do.
        """
        beats = 0

        def count(unit: Frame | bytes, way: Direction, link: Link) -> None:
            nonlocal beats
            if isinstance(unit, Frame) and unit.kind == spec.FRAME_HEARTBEAT:
                beats += way is Direction.UP

        proxy = self.proxy(on_frame=count)
        connection = await self.connect(port=proxy.port, heartbeat=2)
        await until(lambda: beats >= 6)  # six seconds: more than a timeout
        self.assertTrue(connection.is_open)
        await connection.open_channel()
