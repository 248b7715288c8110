# -*- test-case-name: txamqp091.test.scenarios.test_connections -*-
"""
Scenarios: the ends of connections and channels, and what brokers say besides.

Who may connect is in `txamqp091.test.scenarios.test_permissions`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.errors import (
    Closed,
    ConnectionForced,
)
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec


@every_peer
class EndScenarios(Scenario):
    """
    The ends of connections and channels.
    """

    async def test_channel(self) -> None:
        """
        A channel is closed, and there is room for another one.
        """
        connection = await self.connect(channel_max=1)
        for _ in range(3):
            channel = await connection.open_channel()
            await channel.close()

    async def test_channels_are_apart(self) -> None:
        """
        A channel that fails leaves the others alone.
        """
        connection = await self.connect()
        channels = [await connection.open_channel() for _ in range(3)]
        queue = await self.queue(channels[0])
        call = channels[1].queue_declare(self.name(), passive=True)
        await self.channel_refused(channels[1], call, 404, "queue.declare", "no queue")
        await channels[2].queue_declare(queue, passive=True)
        await (await connection.open_channel()).queue_declare(queue, passive=True)

    async def test_calls_behind_a_failure(self) -> None:
        """
        Calls that were on their way have no effect.
        """
        channel, other = await self.channel(False), await self.channel()
        queue = await self.queue(other)
        calls: list[Deferred[Any]] = [
            channel.queue_declare(self.name(), passive=True),
            channel.queue_delete(queue),
        ]
        for call in calls:
            await self.channel_refused(channel, call, 404, "queue.declare", "no queue")
        self.assertEqual(await self.count(other, queue), 0)

    async def test_by_an_operator(self) -> None:
        """
        320: an operator closes a connection.
        """
        connection = await self.connect()
        closed = connection.when_closed()
        self.peer.close_connections("maintenance")
        with self.assertRaises(ConnectionForced) as caught:
            await closed
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertEqual(error.reply_code, 320)
        self.assertIn("CONNECTION_FORCED - maintenance", error.reply_text)

    async def test_blocked(self) -> None:
        """
        A broker that is short of memory says so to those who publish, and when it has
        some again.
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        queue = await self.queue(channel)
        found: list[str | None] = []
        connection.observe_blocked(found.append)
        self.addCleanup(self.peer.block_publishers, False)
        self.peer.block_publishers(True)
        await channel.basic_publish("", queue, "x")

        async def told() -> bool:
            return len(found) == 1

        await self.until(told, "connection.blocked")
        self.peer.block_publishers(False)
        await connection.when_unblocked()
        self.assertEqual(found, ["low on memory", None])

    async def test_update_secret(self) -> None:
        """
        A connection can give a new secret.
        """
        connection = await self.connect()
        self.assertEqual(
            await connection.update_secret("guest", "new"),
            spec.ConnectionUpdateSecretOk(),
        )
        self.assertTrue(connection.is_open)

    async def test_flow(self) -> None:
        """
        540: deliveries cannot be stopped; to let them go on is granted.
        """
        channel = await self.channel()
        self.assertEqual(await channel.flow(True), spec.ChannelFlowOk(True))
        await self.connection_refused(
            channel.flow(False), 540, "channel.flow", "active=false"
        )

    async def test_access(self) -> None:
        """
        There are no tickets any more, but who asks gets one.
        """
        channel = await self.channel()
        self.assertEqual(await channel.access_request(), spec.AccessRequestOk(1))

    async def test_hanging_up(self) -> None:
        """
        It is the client that closes the socket; what it says after it has closed the
        connection is discarded.
        """
        client, channel = await self.raw(), await self.channel()
        queue = await self.durable_queue(channel)
        client.say(0, spec.ConnectionClose(200, "bye"))
        await self.hear(client, spec.ConnectionCloseOk)
        client.say(1, spec.QueueDelete(0, queue), spec.QueueDeclare(0, queue))
        for _ in range(10):
            self.assertEqual(await self.count(channel, queue), 0)
        self.assertEqual((client.data, client.ended), (b"", None))

    async def test_answering_a_close(self) -> None:
        """
        When the broker has closed the connection, and the client has agreed, it is the
        broker that closes the socket.
        """
        client = await self.raw()
        client.say(1, spec.ChannelFlow(False))
        [closed] = await self.hear(client, spec.ConnectionClose)
        assert isinstance(closed, spec.ConnectionClose)
        self.assertEqual(closed.reply_code, 540)
        client.say(0, spec.ConnectionCloseOk())

        async def ended() -> bool:
            return client.ended is not None

        await self.until(ended, "the end of the connection")

    async def test_product(self) -> None:
        """
        The broker says what it is.
        """
        connection = await self.connect()
        self.assertEqual(connection.server_properties["product"], "RabbitMQ")
        self.assertEqual(
            connection.server_properties["version"],
            ".".join(map(str, self.peer.version)),
        )

    async def test_everything_waiting(self) -> None:
        """
        What ends a connection ends all its channels, for the same reason.
        """
        connection = await self.connect()
        one, other = [await connection.open_channel() for _ in range(2)]
        closed = other.when_closed()
        await self.connection_refused(
            one.basic_recover(requeue=False), 540, "basic.recover", "NOT_IMPLEMENTED"
        )
        await self.connection_refused(closed, 540, "basic.recover", "NOT_IMPLEMENTED")
