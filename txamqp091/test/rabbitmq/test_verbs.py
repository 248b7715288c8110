# -*- test-case-name: txamqp091.test.rabbitmq.test_verbs -*-
"""
Every verb of a channel with a real RabbitMQ: what it does, what its answer says, and
that calls need not wait for one another.

How verbs fail is in `txamqp091.test.rabbitmq.test_refusals`.  Publishing with
confirms, and consuming, have files of their own.
"""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from txamqp091.channel import Channel
from txamqp091.errors import NotFound
from txamqp091.message import Delivery, Message
from txamqp091.test.support.chaos import Direction, Frame, Link
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.wire import spec


class VerbTestCase(RabbitTestCase):
    """
    A test case that reads what is in a queue.
    """

    async def bodies(self, channel: Channel, queue: str) -> list[bytes]:
        """
        Take all messages out of a queue.
        """
        found = []
        while (delivery := await channel.basic_get(queue, auto_ack=True)) is not None:
            found.append(delivery.body)
        return found

    async def get(self, channel: Channel, queue: str) -> Delivery:
        """
        The next message of a queue, which has one.
        """
        delivery = await channel.basic_get(queue)
        assert delivery is not None
        return delivery


@every_broker
class QueueTests(VerbTestCase):
    """
    Queues: declare, bind, purge, delete.
    """

    async def test_declare(self) -> None:
        """
        A queue is durable by default, and its answer counts messages and consumers.
        """
        channel = await self.open_channel()
        name = self.queue_name()
        self.assertEqual(
            await channel.queue_declare(name), spec.QueueDeclareOk(name, 0, 0)
        )
        await channel.confirm_select()
        await channel.basic_publish("", name, "one")
        await channel.basic_consume(name, lambda delivery: None)
        self.assertEqual(
            await channel.queue_declare(name, passive=True),
            spec.QueueDeclareOk(name, 0, 1),
        )
        await channel.queue_delete(name)

    async def test_named_by_broker(self) -> None:
        """
        The broker makes up a name; and "" is then the last queue declared.
        """
        channel = await self.open_channel()
        declared = await channel.queue_declare(exclusive=True)
        self.assertTrue(declared.queue.startswith("amq.gen-"))
        await channel.queue_bind("", "amq.fanout")
        await channel.basic_publish("amq.fanout", "", "hello")
        await until(lambda: self.node.queue_depth(declared.queue, self.vhost) == 1)
        self.assertEqual(await self.bodies(channel, ""), [b"hello"])

    async def test_purge_and_delete(self) -> None:
        """
        Purging and deleting say how many messages went.
        """
        channel = await self.open_channel()
        await channel.confirm_select()
        queue = (await channel.queue_declare(self.queue_name())).queue
        await channel.publish_many([Message("", queue, "x")] * 3)
        self.assertEqual((await channel.queue_purge(queue)).message_count, 3)
        await channel.publish_many([Message("", queue, "x")] * 2)
        self.assertEqual((await channel.queue_delete(queue)).message_count, 2)
        # There is none now, and RabbitMQ does not mind.
        self.assertEqual((await channel.queue_delete(queue)).message_count, 0)

    async def test_bind_and_unbind(self) -> None:
        """
        A binding routes by its key, and no more once it is undone.
        """
        channel = await self.open_channel()
        await channel.confirm_select()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, "amq.topic", "a.*", {"x": 1})
        await channel.basic_publish("amq.topic", "a.b", "1")
        await channel.basic_publish("amq.topic", "b.a", "2")
        await channel.queue_unbind(queue, "amq.topic", "a.*", {"x": 1})
        await channel.basic_publish("amq.topic", "a.b", "3")
        self.assertEqual(await self.bodies(channel, queue), [b"1"])

    async def test_no_wait(self) -> None:
        """
        With no_wait the broker does not answer, and does it all the same.
        """
        channel = await self.open_channel()
        queue, exchange = self.queue_name(), self.queue_name()
        self.successResultOf(channel.exchange_declare(exchange, no_wait=True))
        self.successResultOf(channel.queue_declare(queue, no_wait=True))
        self.successResultOf(channel.queue_bind(queue, exchange, no_wait=True))
        await channel.basic_publish(exchange, "", "1")
        self.successResultOf(channel.queue_purge(queue, no_wait=True))
        await channel.basic_publish(exchange, "", "2")
        self.assertEqual((await self.get(channel, queue)).body, b"2")
        self.successResultOf(channel.exchange_delete(exchange, no_wait=True))
        self.successResultOf(channel.queue_delete(queue, no_wait=True))
        with self.assertRaises(NotFound):
            await channel.queue_declare(queue, passive=True)


@every_broker
class ExchangeTests(VerbTestCase):
    """
    Exchanges: declare, bind to one another, delete.
    """

    async def test_types(self) -> None:
        """
        All four types are there; deleting one that is not there does no harm.
        """
        channel = await self.open_channel()
        for kind in ("direct", "fanout", "topic", "headers"):
            name = self.queue_name()
            await channel.exchange_declare(name, kind)
            await channel.exchange_declare(name, passive=True)
            await channel.exchange_delete(name)
            await channel.exchange_delete(name)

    async def test_exchange_to_exchange(self) -> None:
        """
        One exchange passes messages on to another, until they are unbound.
        """
        channel = await self.open_channel()
        await channel.confirm_select()
        source, target = self.queue_name(), self.queue_name()
        await channel.exchange_declare(source, "topic", auto_delete=True)
        await channel.exchange_declare(target, "fanout", internal=True)
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, target)
        await channel.exchange_bind(target, source, "a.#")
        await channel.basic_publish(source, "a.b.c", "1")
        await channel.exchange_bind(target, source, "z", no_wait=True)
        await channel.exchange_unbind(target, source, "z", no_wait=True)
        await channel.exchange_unbind(target, source, "a.#")
        # auto_delete: it went with its last binding.
        with self.assertRaises(NotFound):
            await channel.exchange_declare(source, passive=True)
        channel = await channel.connection.open_channel()
        self.assertEqual(await self.bodies(channel, queue), [b"1"])
        await channel.exchange_delete(target)


@every_broker
class TransactionTests(VerbTestCase):
    """
    Transactions, recovery, and what nobody uses.
    """

    async def test_commit_and_rollback(self) -> None:
        """
        What is published in a transaction is there after the commit only.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.tx_select()
        await channel.basic_publish("", queue, "lost")
        await channel.tx_rollback()
        await channel.basic_publish("", queue, "kept")
        self.assertEqual(self.node.queue_depth(queue, self.vhost), 0)
        await channel.tx_commit()
        self.assertEqual(await self.bodies(channel, queue), [b"kept"])

    async def test_ack_rolled_back(self) -> None:
        """
        So it is with acknowledgements.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.basic_publish("", queue, "again")
        delivery = await self.get(channel, queue)
        await channel.tx_select()
        delivery.ack()
        await channel.tx_rollback()
        await channel.basic_recover()
        self.assertTrue((await self.get(channel, queue)).redelivered)

    async def test_recover(self) -> None:
        """
        Recovering brings back what is unacknowledged, with or without an answer.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.basic_publish("", queue, "x")
        self.assertFalse((await self.get(channel, queue)).redelivered)
        self.assertEqual(await channel.basic_recover(), spec.BasicRecoverOk())
        self.assertTrue((await self.get(channel, queue)).redelivered)
        await channel.basic_recover_async()
        (await self.get(channel, queue)).ack()

    async def test_settle_by_number(self) -> None:
        """
        Deliveries can be settled by number, also several at once.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        for body in "abcde":
            await channel.basic_publish("", queue, body)
        tags = [(await self.get(channel, queue)).delivery_tag for _ in range(5)]
        await channel.basic_ack(tags[1], multiple=True)
        await channel.basic_nack(tags[2])
        await channel.basic_reject(tags[3])
        await channel.basic_nack(tags[4], requeue=False)
        self.assertEqual(await self.bodies(channel, queue), [b"c", b"d"])

    async def test_flow_and_access(self) -> None:
        """
        RabbitMQ answers channel.flow, and access.request of AMQP 0-8.
        """
        channel = await self.open_channel()
        self.assertEqual(await channel.flow(True), spec.ChannelFlowOk(True))
        await channel.access_request()

    async def test_qos(self) -> None:
        """
        A limit for each consumer is accepted.
        """
        channel = await self.open_channel()
        self.assertEqual(await channel.basic_qos(prefetch_count=7), spec.BasicQosOk())


@every_broker
class PipelineTests(VerbTestCase):
    """
    Calls need not wait for one another (D15).
    """

    async def test_one_round_trip(self) -> None:
        """
        All of many declares leave before the first answer has come, and each gets
        its own answer.
        """
        asked = 0

        def count(unit: Frame | bytes, way: Direction, link: Link) -> None:
            nonlocal asked
            if isinstance(unit, Frame) and unit.method is spec.QueueDeclare:
                asked += 1

        proxy = self.proxy(on_frame=count)
        channel = await self.open_channel(port=proxy.port)
        proxy.hole(Direction.DOWN)
        names = [self.queue_name() for _ in range(100)]
        declared = [channel.queue_declare(each, exclusive=True) for each in names]
        await until(lambda: asked == 100)
        self.assertNoResult(declared[0])
        proxy.heal()
        answers = await gatherResults(declared)
        self.assertEqual([each.queue for each in answers], names)

    async def test_cancelled_call(self) -> None:
        """
        A call that was cancelled leaves the channel, and the calls behind it, in
        order (D2).
        """
        channel = await self.open_channel()
        first, second = self.queue_name(), self.queue_name()
        cancelled = channel.queue_declare(first, exclusive=True)
        kept = channel.queue_declare(second, exclusive=True)
        cancelled.addErrback(lambda _: None)
        cancelled.cancel()
        self.assertEqual((await kept).queue, second)
        await channel.close()
        self.assertTrue(channel.connection.is_open)
