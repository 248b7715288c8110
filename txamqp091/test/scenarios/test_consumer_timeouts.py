# -*- test-case-name: txamqp091.test.scenarios.test_consumer_timeouts -*-
"""
Scenarios: what brokers do about deliveries that are not settled in time.
"""

from __future__ import annotations

from txamqp091.channel import Channel
from txamqp091.consumer import Deliveries
from txamqp091.errors import Closed, ConsumerCancelled, DeliveryAckTimeout
from txamqp091.test.support.raw_client import RawClient
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method


@every_peer
class AcknowledgeTimeoutScenarios(Scenario):
    """
    The broker does not wait for ever for deliveries to be acknowledged.
    """

    async def holding(
        self, channel: Channel, queue: str, timeout: int | None = None
    ) -> Deliveries:
        """
        A consumer that has got a message, and does not acknowledge it.
        """
        await channel.basic_publish("", queue, "x")
        arguments = {} if timeout is None else {"x-consumer-timeout": timeout}
        deliveries = await channel.consume(queue, arguments=arguments)
        self.assertEqual((await deliveries.get()).body, b"x")
        return deliveries

    async def timed_out(self, channel: Channel) -> None:
        """
        See the channel end: 406.
        """
        with self.assertRaises(DeliveryAckTimeout) as caught:
            await channel.when_closed()
        error = caught.exception
        assert isinstance(error, Closed)
        self.assertEqual(error.reply_code, 406)
        self.assertIn(
            f"delivery acknowledgement on channel {channel.number} timed out. "
            "Timeout value used: 200 ms",
            error.reply_text,
        )

    async def test_quorum_queue(self) -> None:
        """
        3.10 ends the channel, 4.3 only the consumer; and the message goes back.
        """
        self.peer.limit_acknowledging(0.2)
        channel, other = await self.channel(), await self.channel()
        queue = await self.quorum_queue(channel)
        deliveries = await self.holding(channel, queue, timeout=200)
        if self.by_version({"3.10": True, "4.3": False}):
            await self.timed_out(channel)
        else:
            await self.cancelled(deliveries)
            self.assertTrue(channel.is_open)
        self.assertTrue((await self.get(other, queue)).redelivered)

    async def test_consumes_again(self) -> None:
        """
        A consumer that the broker has ended may come back with its tag, as services do.
        What timed out can be settled late, and other consumers of the connection do not
        notice.
        """
        if not since_4_3(self):
            return
        channel, other = await self.channel(), await self.channel()
        queue = await self.quorum_queue(channel, consumer_timeout=200)
        innocent = await other.consume(await self.queue(other))
        for body in "abc":
            await channel.basic_publish("", queue, body)
        for _ in range(2):
            deliveries = await channel.consume(queue, consumer_tag="tag", prefetch=1)
            late = await deliveries.get()
            with self.assertRaises(ConsumerCancelled) as caught:
                await deliveries.get()
            self.assertEqual(caught.exception.unsettled, 1)
            late.ack()
        await channel.basic_publish("", queue, "d")
        deliveries = await channel.consume(queue, consumer_tag="tag", prefetch=1)
        bodies: set[bytes] = set()
        while bodies != {b"a", b"b", b"c", b"d"}:
            delivery = await deliveries.get()
            delivery.ack()
            bodies.add(delivery.body)
        await other.basic_publish("", innocent.consumer.queue, "x")
        self.assertEqual((await innocent.get()).body, b"x")
        self.assertTrue(channel.is_open)

    async def test_asked_for(self) -> None:
        """
        With 4.3 a quorum queue may say how long, and a consumer of it something else.
        """
        if self.by_version({"3.10": True, "4.3": False}):
            return  # which looks at neither
        channel, other = await self.channel(), await self.channel()
        one = await self.quorum_queue(channel, consumer_timeout=200)
        patient = await self.holding(channel, one, timeout=600_000)
        two = await self.quorum_queue(channel, consumer_timeout=200)
        await self.cancelled(await self.holding(channel, two))
        self.assertTrue((await self.get(other, two)).redelivered)
        self.assertTrue(patient.consumer.is_active)

    async def test_classic_queue(self) -> None:
        """
        With a classic queue 3.10 does the same, and 4.3 waits.
        """
        self.peer.limit_acknowledging(0.2)
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        deliveries = await self.holding(channel, queue)
        if self.by_version({"3.10": True, "4.3": False}):
            await self.timed_out(channel)
            self.assertTrue((await self.get(other, queue)).redelivered)
        else:
            quorum = await self.quorum_queue(other)
            await self.cancelled(await self.holding(other, quorum, timeout=200))
            self.assertTrue(deliveries.consumer.is_active)


class TimedOutScenario(Scenario):
    """
    A scenario with a client that has not settled the only delivery of a quorum queue in
    time; since 4.3 its consumer has ended, and its channel is open.
    """

    async def ended(
        self, *, bodies: int = 1, single: bool = False
    ) -> tuple[RawClient, str]:
        """
        :param bodies: how many messages there are.
        :returns: the client, whose consumer had the tag ``tag``; and the queue.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(
            channel, consumer_timeout=200, single_active_consumer=single
        )
        # All are delivered at once: RabbitMQ may forget one that is a little later.
        for number in range(bodies):
            await channel.basic_publish("", queue, str(number))
        client = await self.raw()
        client.say(1, spec.BasicConsume(0, queue, "tag"))
        heard = await self.hear(client, spec.BasicCancel)
        self.assertEqual(heard[-1], spec.BasicCancel("tag", True))
        self.assertEqual(
            [each.delivery_tag for each in self.delivered(heard)],
            list(range(1, bodies + 1)),
        )
        await self.until_count(channel, queue, bodies)
        return client, queue

    def delivered(self, heard: list[Method]) -> list[spec.BasicDeliver]:
        """
        The deliveries among methods.
        """
        return [each for each in heard if isinstance(each, spec.BasicDeliver)]

    async def told(self, client: RawClient, *methods: Method) -> list[Method]:
        """
        Say something, and hear all that the broker says to it.
        """
        client.say(1, *methods)
        heard = []
        for _ in range(3):  # what a queue delivers may come after the first answer
            client.say(1, spec.BasicQos(0, 0, False))
            heard += await self.hear(client, spec.BasicQosOk)
        return [each for each in heard if not isinstance(each, spec.BasicQosOk)]

    async def consumers(self, queue: str) -> int:
        """
        How many consumers a queue has.
        """
        channel = await self.channel()
        return (await channel.queue_declare(queue, passive=True)).consumer_count


def since_4_3(case: Scenario) -> bool:
    """
    Whether a broker ends the consumer; otherwise it ends the channel.
    """
    return case.by_version({"3.10": False, "4.3": True})


@every_peer
class TimedOutScenarios(TimedOutScenario):
    """
    With 4.3, the consumer of a delivery that was not settled in time.
    """

    async def test_tag(self) -> None:
        """
        530: the broker still knows the tag.
        """
        if not since_4_3(self):
            return
        client, queue = await self.ended()
        self.assertEqual(await self.consumers(queue), 1)
        client.say(1, spec.BasicConsume(0, queue, "tag"))
        [*_, closed] = await self.hear(client, spec.ConnectionClose)
        assert isinstance(closed, spec.ConnectionClose)
        self.assertEqual(
            (closed.reply_code, closed.reply_text),
            (530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"),
        )

    async def test_answered(self) -> None:
        """
        When the client has answered, or has cancelled the consumer itself, the tag is
        free, and a new consumer gets the message.
        """
        if not since_4_3(self):
            return
        for answer, replies in (
            (spec.BasicCancelOk("tag"), []),
            (spec.BasicCancel("tag", True), []),
            (spec.BasicCancel("tag", False), [spec.BasicCancelOk("tag")]),
        ):
            client, queue = await self.ended()
            self.assertEqual(await self.told(client, answer), replies)
            self.assertEqual(await self.consumers(queue), 0)
            heard = await self.told(client, spec.BasicConsume(0, queue, "tag"))
            [delivery] = self.delivered(heard)
            self.assertEqual((delivery.delivery_tag, delivery.redelivered), (2, True))
            # The late settling of the first delivery changes nothing.
            self.assertEqual(await self.told(client, spec.BasicAck(1)), [])
            self.assertEqual(await self.consumers(queue), 1)

    async def test_settled_late(self) -> None:
        """
        When the client has settled everything that was late, the consumer goes on, and
        gets the messages again: they were given back.
        """
        if not since_4_3(self):
            return
        settled: tuple[Method, ...]
        for settled in (
            (spec.BasicAck(2, True),),
            (spec.BasicAck(0, True),),
            (spec.BasicAck(1), spec.BasicAck(2)),
            (spec.BasicNack(2, True, False),),
            (spec.BasicReject(1, False), spec.BasicReject(2, False)),
            (spec.BasicNack(1, False, True), spec.BasicAck(2)),
        ):
            client, queue = await self.ended(bodies=2)
            for method in settled[:-1]:
                self.assertEqual(self.delivered(await self.told(client, method)), [])
            client.say(1, settled[-1])
            heard = await self.hear(client, spec.BasicDeliver)
            heard += await self.told(client)
            self.assertEqual(
                [(each.delivery_tag, each.redelivered)
                 for each in self.delivered(heard)],
                [(3, True), (4, True)],
            )  # fmt: skip
            client.say(1, spec.BasicAck(1))  # for the second time
            [*_, closed] = await self.hear(client, spec.ChannelClose)
            assert isinstance(closed, spec.ChannelClose)
            self.assertEqual(
                closed.reply_text, "PRECONDITION_FAILED - unknown delivery tag 1"
            )

    async def test_requeued_late(self) -> None:
        """
        A client that hands back what it has not got any more gets nothing more.
        """
        if not since_4_3(self):
            return
        for method in (
            spec.BasicNack(1, False, True),
            spec.BasicReject(1, True),
            spec.BasicRecover(True),
        ):
            client, queue = await self.ended()
            self.assertEqual(self.delivered(await self.told(client, method)), [])
            self.assertEqual(await self.consumers(queue), 1)

    async def test_next(self) -> None:
        """
        Others get the message; with a single active consumer, the next one takes over.
        """
        if not since_4_3(self):
            return
        for single in (False, True):
            _, queue = await self.ended(single=single)
            deliveries = await (await self.channel()).consume(queue)
            delivery = await deliveries.get()
            self.assertTrue(delivery.redelivered)
            self.assertEqual(delivery.headers.get("x-acquired-count"), 1)
            self.assertIsNone(delivery.headers.get("x-delivery-count"))

    async def test_channel_ends(self) -> None:
        """
        With the channel the consumer is gone.
        """
        if not since_4_3(self):
            return
        client, queue = await self.ended()
        client.say(1, spec.ChannelClose(200, "bye"))
        await self.hear(client, spec.ChannelCloseOk)
        self.assertEqual(await self.consumers(queue), 0)

    async def test_queue_deleted(self) -> None:
        """
        With the queue it is gone, too, and the client hears of it again.
        """
        if not since_4_3(self):
            return
        client, queue = await self.ended()
        heard = await self.told(client, spec.QueueDelete(0, queue))
        self.assertIn(spec.BasicCancel("tag", True), heard)
        other = await self.quorum_queue(await self.channel())
        heard = await self.told(client, spec.BasicConsume(0, other, "tag"))
        self.assertEqual(heard, [spec.BasicConsumeOk("tag")])

    async def closed(self, client: RawClient) -> None:
        """
        See a channel end, with a length of time that means nothing.
        """
        [*_, closed] = await self.hear(client, spec.ChannelClose)
        assert isinstance(closed, spec.ChannelClose)
        self.assertEqual(closed.reply_code, 406)
        self.assertIn("on channel 1 timed out. Timeout value used: -1 ms",
                      closed.reply_text)  # fmt: skip

    async def test_get(self) -> None:
        """
        What was fetched has no consumer: its channel ends.
        """
        if not since_4_3(self):
            return
        channel = await self.channel()
        queue = await self.quorum_queue(channel, consumer_timeout=200)
        await channel.basic_publish("", queue, "x")
        client = await self.raw()
        client.say(1, spec.BasicGet(0, queue))
        await self.hear(client, spec.BasicGetOk)
        await self.closed(client)
        self.assertTrue((await self.get(channel, queue)).redelivered)

    async def test_cancelled_before(self) -> None:
        """
        So has what the client had before it cancelled the consumer.
        """
        if not since_4_3(self):
            return
        channel = await self.channel()
        queue = await self.quorum_queue(channel, consumer_timeout=200)
        await channel.basic_publish("", queue, "x")
        client = await self.raw()
        client.say(1, spec.BasicConsume(0, queue, "tag"))
        await self.hear(client, spec.BasicDeliver)
        client.say(1, spec.BasicCancel("tag", True))
        await self.closed(client)

    async def test_not_understood(self) -> None:
        """
        So does that of a client which does not understand the end of a consumer.
        """
        if not since_4_3(self):
            return
        channel = await self.channel()
        queue = await self.quorum_queue(channel, consumer_timeout=200)
        await channel.basic_publish("", queue, "x")
        client = await self.raw(capabilities={})
        client.say(1, spec.BasicConsume(0, queue, "tag"))
        await self.hear(client, spec.BasicDeliver)
        await self.closed(client)

    async def test_cancel_ok(self) -> None:
        """
        A client may say at any time that its consumer has ended; to 3.10, that is no
        method of a client's (503).
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        client = await self.raw()
        client.say(1, spec.BasicConsume(0, queue, "tag"))
        await self.hear(client, spec.BasicConsumeOk)
        client.say(1, spec.BasicCancelOk("tag"))
        if since_4_3(self):
            self.assertEqual(await self.told(client), [])
            self.assertEqual(await self.consumers(queue), 0)
        else:
            [closed] = await self.hear(client, spec.ConnectionClose)
            assert isinstance(closed, spec.ConnectionClose)
            self.assertEqual(
                (closed.reply_code, closed.reply_text, closed.class_id,
                 closed.method_id),
                (503, "COMMAND_INVALID - unimplemented method", 60, 31),
            )  # fmt: skip
