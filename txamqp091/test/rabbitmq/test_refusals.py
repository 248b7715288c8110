# -*- test-case-name: txamqp091.test.rabbitmq.test_refusals -*-
"""
How a real RabbitMQ refuses: which verbs end their channel, which the connection, by
what codes, and that nothing else suffers (criterion 11).
"""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from txamqp091.channel import Channel
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    AccessRefused,
    ChannelClosed,
    Closed,
    ConnectionClosed,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
    ResourceLocked,
)
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until

ErrorT = TypeVar("ErrorT", bound=Closed)


@every_broker
class ChannelErrorTests(RabbitTestCase):
    """
    The broker refuses: the channel ends with a typed reason that names the
    operation, and nothing else does (criterion 11).
    """

    async def fails(
        self,
        channel: Channel,
        kind: type[ErrorT],
        code: int,
        operation: str,
        call: Deferred[Any],
    ) -> ErrorT:
        """
        See a call fail, and with it the channel, and no other.
        """
        other = await channel.connection.open_channel()
        waiting = channel.when_closed()
        with self.assertRaises(kind) as context:
            await call
        error = context.exception
        self.assertIs(type(error), kind)
        assert isinstance(error, kind)
        self.assertEqual((error.reply_code, error.operation), (code, operation))
        self.assertTrue(error.reply_text)
        self.assertNotEqual(error.class_id, 0)
        self.assertFalse(channel.is_open)
        # The same reason for all who wait, and who ask later.
        for later in (waiting, channel.queue_declare("later"), channel.when_closed()):
            with self.assertRaises(kind) as context:
                await later
            self.assertIs(context.exception, error)
        await other.basic_qos(prefetch_count=1)
        return error

    async def test_access_refused(self) -> None:
        """
        403: the user may not declare.
        """
        module = "rabbit_auth_backend_internal"
        self.node.eval(
            f'{module}:add_user(<<"reader">>, <<"pw">>, <<"test">>),'
            f' {module}:set_permissions(<<"reader">>, <<"{self.vhost}">>, <<"^$">>,'
            ' <<"^$">>, <<".*">>, <<"test">>).'
        )
        self.addCleanup(self.node.eval, f'{module}:delete_user(<<"reader">>, <<"t">>).')
        channel = await self.open_channel(
            credentials=[PlainCredentials("reader", "pw")]
        )
        declared = channel.queue_declare(self.queue_name())
        await self.fails(channel, AccessRefused, 403, "queue.declare", declared)

    async def test_not_found(self) -> None:
        """
        404: there is no such queue.
        """
        channel = await self.open_channel()
        name = self.queue_name()
        error = await self.fails(
            channel,
            NotFound,
            404,
            "queue.declare",
            channel.queue_declare(name, passive=True),
        )
        self.assertIn(name, error.reply_text)

    async def test_bind_to_nothing(self) -> None:
        """
        404: there is no such exchange to bind to.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        bound = channel.queue_bind(queue, "no such exchange")
        await self.fails(channel, NotFound, 404, "queue.bind", bound)

    async def test_consume_from_nothing(self) -> None:
        """
        404: there is no such queue to consume, or to get, from.
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        consuming = channel.basic_consume("no such queue", lambda delivery: None)
        await self.fails(channel, NotFound, 404, "basic.consume", consuming)
        channel = await connection.open_channel()
        getting = channel.basic_get("no such queue")
        await self.fails(channel, NotFound, 404, "basic.get", getting)

    async def test_resource_locked(self) -> None:
        """
        405: the queue is exclusive to another connection.
        """
        owner, channel = await self.open_channel(), await self.open_channel()
        queue = self.queue_name()
        await owner.queue_declare(queue, exclusive=True)
        declared = channel.queue_declare(queue, exclusive=True)
        error = await self.fails(
            channel, ResourceLocked, 405, "queue.declare", declared
        )
        self.assertTrue(error.retriable)

    async def test_precondition_failed(self) -> None:
        """
        406: the queue exists, and differs; the broker's words say in what.
        """
        channel = await self.open_channel()
        queue = self.queue_name()
        await channel.queue_declare(queue, exclusive=True)
        declared = channel.queue_declare(
            queue, exclusive=True, arguments={"x-max-length": 5}
        )
        error = await self.fails(
            channel, PreconditionFailed, 406, "queue.declare", declared
        )
        self.assertIn("x-max-length", error.reply_text)

    async def test_delete_if_empty(self) -> None:
        """
        406: a queue that is not empty is not deleted, if_empty.
        """
        channel = await self.open_channel()
        await channel.confirm_select()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.basic_publish("", queue, "x")
        deleted = channel.queue_delete(queue, if_empty=True)
        await self.fails(channel, PreconditionFailed, 406, "queue.delete", deleted)

    async def test_delete_if_unused(self) -> None:
        """
        406: a queue that has a consumer, or an exchange that has a binding, is not
        deleted, if_unused.
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.basic_consume(queue, lambda delivery: None)
        deleted = channel.queue_delete(queue, if_unused=True)
        await self.fails(channel, PreconditionFailed, 406, "queue.delete", deleted)
        channel = await connection.open_channel()
        exchange = self.queue_name()
        await channel.exchange_declare(exchange)
        await channel.queue_bind(queue, exchange)
        refused = channel.exchange_delete(exchange, if_unused=True)
        await self.fails(channel, PreconditionFailed, 406, "exchange.delete", refused)

    async def test_unknown_delivery_tag(self) -> None:
        """
        406: an ack by a number that was never given ends the channel, and the next
        call tells.
        """
        channel = await self.open_channel()
        await channel.basic_ack(77)
        call = channel.basic_qos(prefetch_count=1)
        await self.fails(channel, PreconditionFailed, 406, "basic.ack", call)

    async def test_confirms_and_transaction(self) -> None:
        """
        406: a channel cannot be in confirm and in transaction mode.
        """
        channel = await self.open_channel()
        await channel.confirm_select()
        selected = channel.tx_select()
        await self.fails(channel, PreconditionFailed, 406, "tx.select", selected)

    async def test_publish_to_internal_exchange(self) -> None:
        """
        403: nobody publishes to an internal exchange; the publish itself is told,
        in confirm mode.
        """
        channel = await self.open_channel()
        exchange = self.queue_name()
        await channel.exchange_declare(exchange, "fanout", internal=True)
        await channel.confirm_select()
        published = channel.basic_publish(exchange, "", "x")
        await self.fails(channel, AccessRefused, 403, "basic.publish", published)

    async def test_exclusive_consumer(self) -> None:
        """
        403: the queue has an exclusive consumer.
        """
        connection = await self.connect()
        owner, channel = (
            await connection.open_channel(),
            await connection.open_channel(),
        )
        queue = (await owner.queue_declare(exclusive=True)).queue
        await owner.basic_consume(queue, lambda delivery: None, exclusive=True)
        consuming = channel.basic_consume(queue, lambda delivery: None)
        await self.fails(channel, AccessRefused, 403, "basic.consume", consuming)

    async def test_pipelined_calls_fail(self) -> None:
        """
        Calls behind one that is refused fail with the same reason, which names the
        one that was.
        """
        channel = await self.open_channel()
        calls: list[Deferred[Any]] = [
            channel.queue_declare("no such queue", passive=True),
            channel.basic_qos(prefetch_count=1),
            channel.queue_declare(exclusive=True),
        ]
        with self.assertRaises(NotFound):
            await calls[0]
        for call in calls[1:]:
            with self.assertRaises(NotFound) as context:
                await call
            self.assertEqual(context.exception.operation, "queue.declare")

    async def test_number_is_used_again(self) -> None:
        """
        The number of a channel that has ended, by whoever's doing, is free.
        """
        connection = await self.connect(channel_max=1)
        for _ in range(20):
            channel = await connection.open_channel()
            self.assertEqual(channel.number, 1)
            with self.assertRaises(ChannelClosed):
                await channel.queue_declare("no such queue", passive=True)
            await (await connection.open_channel()).close()


@every_broker
class ConnectionErrorTests(RabbitTestCase):
    """
    What the broker punishes with the end of the connection.
    """

    async def fails(
        self, channel: Channel, code: int, operation: str, call: Deferred[Any]
    ) -> ConnectionClosed:
        """
        See a call fail, and with it the connection and all that waits on it.
        """
        connection = channel.connection
        gone = connection.when_closed()
        with self.assertRaises(ConnectionClosed) as context:
            await call
        error = context.exception
        with self.assertRaises(ConnectionClosed):
            await gone
        assert isinstance(error, ConnectionClosed)
        self.assertEqual((error.reply_code, error.operation), (code, operation))
        for later in (channel.when_closed(), connection.open_channel()):
            with self.assertRaises(ConnectionClosed) as context:
                await later
            self.assertIs(context.exception, error)
        return error

    async def test_flow_off(self) -> None:
        """
        540: RabbitMQ does not stop deliveries by channel.flow.
        """
        channel = await self.open_channel()
        error = await self.fails(channel, 540, "channel.flow", channel.flow(False))
        self.assertIsInstance(error, NotImplementedByBroker)

    async def test_prefetch_size(self) -> None:
        """
        540: nor does it limit octets.
        """
        channel = await self.open_channel()
        call = channel.basic_qos(prefetch_size=1000)
        error = await self.fails(channel, 540, "basic.qos", call)
        self.assertIsInstance(error, NotImplementedByBroker)

    async def test_unknown_exchange_type(self) -> None:
        """
        503, or 406 for the channel alone: there is no such type of exchange.
        """
        channel = await self.open_channel()
        call = channel.exchange_declare(self.queue_name(), "no such type")
        if self.node.installation.number < (4, 3):
            error = await self.fails(channel, 503, "exchange.declare", call)
            self.assertIn("no such type", error.reply_text)
        else:
            with self.assertRaises(PreconditionFailed):
                await call
            self.assertTrue(channel.connection.is_open)


@every_broker
class DeprecatedTests(RabbitTestCase):
    """
    What RabbitMQ is about to drop.
    """

    async def test_transient_queue(self) -> None:
        """
        A queue that is neither durable nor exclusive still comes about, also in
        4.3.
        """
        channel = await self.open_channel()
        name = self.queue_name()
        await channel.queue_declare(name, durable=False)
        await channel.queue_delete(name)

    async def test_global_qos(self) -> None:
        """
        Both agree to one limit for a whole channel.  (4.3 does not keep it: it logs
        that this is deprecated, and goes on.)
        """
        channel = await self.open_channel()
        await channel.basic_qos(prefetch_count=1, global_qos=True)
        if self.node.installation.number >= (4, 3):
            # It says so once a day, which may have been many lines ago.
            await until(lambda: "`global_qos`" in self.node.log(1_000_000))
