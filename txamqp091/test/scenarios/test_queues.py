# -*- test-case-name: txamqp091.test.scenarios.test_queues -*-
"""
Scenarios: how queues come and go, and who may use them.

Their arguments are in `txamqp091.test.scenarios.test_queue_arguments`.
"""

from __future__ import annotations

from txamqp091.errors import NotFound
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec


@every_peer
class QueueDeclareScenarios(Scenario):
    """
    Declaring queues.
    """

    async def test_counts(self) -> None:
        """
        The answer counts messages that are ready, and consumers.
        """
        channel = await self.channel()
        queue = self.name()
        declared = await channel.queue_declare(queue, exclusive=True)
        self.assertEqual(declared, spec.QueueDeclareOk(queue, 0, 0))
        for body in "abc":
            await channel.basic_publish("", queue, body)
        delivery = await self.get(channel, queue)
        declared = await channel.queue_declare(queue, exclusive=True)
        self.assertEqual(declared, spec.QueueDeclareOk(queue, 2, 0))
        delivery.ack()
        await channel.consume(queue, prefetch=1)
        await channel.consume(queue, prefetch=1)
        await self.quiet(channel, queue)
        declared = await channel.queue_declare(queue, passive=True)
        self.assertEqual(declared, spec.QueueDeclareOk(queue, 0, 2))

    async def test_named_by_broker(self) -> None:
        """
        The broker makes up names that nothing else has.
        """
        channel = await self.channel()
        one = await channel.queue_declare("", exclusive=True)
        other = await channel.queue_declare("", exclusive=True)
        self.assertRegex(one.queue, "^amq[.]gen-[-_A-Za-z0-9]{22}$")
        self.assertNotEqual(one.queue, other.queue)

    async def test_reserved_name(self) -> None:
        """
        403: names that begin with ``amq.`` are the broker's.
        """
        channel = await self.channel()
        name = f"amq.{self.name()}"
        call = channel.queue_declare(name)
        text = f"queue name '{name}' contains reserved prefix 'amq.*'"
        await self.channel_refused(channel, call, 403, "queue.declare", text)

    async def test_redeclare_named_by_broker(self) -> None:
        """
        403: that holds for the names that it made up, too, except to ask for them.
        """
        channel = await self.channel()
        queue = (await channel.queue_declare("", exclusive=True)).queue
        self.assertEqual(await self.count(channel, queue), 0)
        call = channel.queue_declare(queue, exclusive=True)
        text = f"queue name '{queue}' contains reserved prefix 'amq.*'"
        await self.channel_refused(channel, call, 403, "queue.declare", text)

    async def test_passive(self) -> None:
        """
        A passive declaration looks at nothing but the name.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        declared = await channel.queue_declare(
            queue, True, True, False, True, {"x-max-length": 3}
        )
        self.assertEqual(declared.queue, queue)

    async def test_long_name(self) -> None:
        """
        A text that is too long for the wire is cut at its end.
        """
        channel = await self.channel()
        name = "q" * 255
        call = channel.queue_declare(name, passive=True)
        error = await self.channel_refused(channel, call, 404, "queue.declare", "...")
        self.assertEqual(
            error.reply_text, f"NOT_FOUND - no queue '{name}"[:252] + "..."
        )

    async def test_passive_missing(self) -> None:
        """
        404: there is no such queue to ask for.
        """
        channel = await self.channel()
        name = self.name()
        call = channel.queue_declare(name, passive=True)
        text = f"NOT_FOUND - no queue '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "queue.declare", text)

    async def test_transient(self) -> None:
        """
        A queue may be neither durable nor exclusive (4.3 can be told to refuse it).
        """
        channel = await self.channel()
        queue = self.name()
        declared = await channel.queue_declare(queue, durable=False)
        self.assertEqual(declared.queue, queue)
        other = await (await self.connect()).open_channel()
        await other.queue_delete(queue)

    async def test_unknown_arguments(self) -> None:
        """
        Arguments that no broker knows are not compared.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"custom": 1})
        await channel.queue_declare(queue, exclusive=True, arguments={"custom": 2})

    async def test_durable_outlives_its_maker(self) -> None:
        """
        A queue that is not exclusive stays when its connection goes, with what it has.
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        await channel.confirm_select()
        queue = await self.durable_queue(channel)
        await channel.basic_publish("", queue, "x")
        await connection.close()
        other = await self.channel()
        self.assertEqual(await self.bodies(other, queue), [b"x"])


@every_peer
class AutoDeleteScenarios(Scenario):
    """
    A queue that deletes itself when its last consumer goes.
    """

    async def gone(self, queue: str) -> None:
        """
        See that a queue has gone.
        """

        async def missing() -> bool:
            channel = await self.channel()
            try:
                await self.count(channel, queue)
            except NotFound:
                return True
            await channel.close()
            return False

        await self.until(missing, f"the end of {queue}")

    async def test_last_consumer(self) -> None:
        """
        It stays until it had a consumer, and as long as it has one.
        """
        channel = await self.channel()
        queue = self.name()
        await channel.queue_declare(queue, auto_delete=True)
        one, other = await channel.consume(queue), await channel.consume(queue)
        await one.cancel()
        await channel.queue_declare(queue, passive=True)
        await other.cancel()
        await self.gone(queue)

    async def test_channel(self) -> None:
        """
        The consumer may also go with its channel.
        """
        channel = await self.channel()
        queue = self.name()
        await channel.queue_declare(queue, auto_delete=True)
        await (await self.channel()).consume(queue)
        other = await self.channel()
        await other.consume(queue)
        await other.close()
        await channel.queue_declare(queue, passive=True)
        assert self._connection is not None
        await self._connection.close()
        await self.gone(queue)

    async def test_get(self) -> None:
        """
        Who fetches a message is no consumer.
        """
        channel = await self.channel()
        queue = self.name()
        await channel.queue_declare(queue, exclusive=True, auto_delete=True)
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).ack()
        self.assertEqual(await self.count(channel, queue), 0)


@every_peer
class PurgeScenarios(Scenario):
    """
    Purging queues.
    """

    async def test_ready(self) -> None:
        """
        What is ready goes, and is counted; what is unacknowledged stays.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        delivery = await self.get(channel, queue)
        self.assertEqual(await channel.queue_purge(queue), spec.QueuePurgeOk(2))
        self.assertEqual(await channel.queue_purge(queue), spec.QueuePurgeOk(0))
        delivery.nack()
        self.assertEqual((await self.get(channel, queue)).body, b"a")

    async def test_missing(self) -> None:
        """
        404: there is no such queue.
        """
        channel = await self.channel()
        name = self.name()
        call = channel.queue_purge(name)
        text = f"no queue '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "queue.purge", text)


@every_peer
class QueueDeleteScenarios(Scenario):
    """
    Deleting queues.
    """

    async def test_counts(self) -> None:
        """
        The answer counts what was ready.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        await self.get(channel, queue)
        self.assertEqual(await channel.queue_delete(queue), spec.QueueDeleteOk(2))

    async def test_missing(self) -> None:
        """
        There is no harm in deleting what does not exist.
        """
        channel = await self.channel()
        self.assertEqual(await channel.queue_delete(self.name()), spec.QueueDeleteOk(0))

    async def test_if_empty(self) -> None:
        """
        406: it has messages that are ready.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "x")
        call = channel.queue_delete(queue, if_empty=True)
        text = f"queue '{queue}' in vhost '{self.vhost}' not empty"
        await self.channel_refused(channel, call, 406, "queue.delete", text)
        channel = await self.channel()
        await channel.queue_purge(queue)
        await channel.queue_delete(queue, if_empty=True)

    async def test_if_unused(self) -> None:
        """
        406: it has a consumer.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        consumer = await (await self.channel()).consume(queue)
        call = channel.queue_delete(queue, if_unused=True)
        text = f"queue '{queue}' in vhost '{self.vhost}' in use"
        await self.channel_refused(channel, call, 406, "queue.delete", text)
        channel = await self.channel()
        await consumer.cancel()
        await channel.queue_delete(queue, if_unused=True)

    async def test_bindings(self) -> None:
        """
        Its bindings go with it.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        queue = await self.bound(channel, exchange, "k")
        await channel.queue_delete(queue)
        await channel.queue_declare(queue, exclusive=True)
        await channel.basic_publish(exchange, "k", "x")
        self.assertEqual(await self.bodies(channel, queue), [])
        await channel.exchange_delete(exchange, if_unused=True)

    async def test_consumers(self) -> None:
        """
        Its consumers are told.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        consumer = await (await self.channel()).consume(queue)
        await channel.queue_delete(queue)
        await self.cancelled(consumer)

    async def test_unacknowledged(self) -> None:
        """
        What was unacknowledged may still be settled, to no effect.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        one, two, three = [await self.get(channel, queue) for _ in range(3)]
        await channel.queue_delete(queue)
        one.ack()
        two.nack()
        three.reject(requeue=False)
        await channel.basic_qos(prefetch_count=1)
        self.assertTrue(channel.is_open)
