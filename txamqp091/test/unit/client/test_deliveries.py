# -*- test-case-name: txamqp091.test.unit.client.test_deliveries -*-
"""
Tests for `txamqp091.consumer.Deliveries`: messages that are asked for, by a loop or one
by one.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from txamqp091.consumer import Consumer, Deliveries
from txamqp091.errors import (
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    LocalProtocolError,
    NotFound,
)
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec


class LoopTests(ChannelCase):
    """
    ``async for``.
    """

    async def collect(self, deliveries: Deliveries, seen: list[bytes]) -> str:
        """
        Take and acknowledge all.
        """
        async for delivery in deliveries:
            seen.append(delivery.body)
            delivery.ack()
        return "done"

    def test_loop(self) -> None:
        """
        A loop takes what has come and what comes, and ends when we cancel.
        """
        deliveries = self.deliveries()
        self.deliver(1, 2)
        self.assertEqual(deliveries.buffered, 2)
        seen: list[bytes] = []
        loop = self.start(self.collect(deliveries, seen))
        self.deliver(3)
        self.assertEqual(seen, [b"1", b"2", b"3"])
        self.assertEqual(
            self.heard(), [spec.BasicAck(each, False) for each in [1, 2, 3]]
        )
        cancelling = deliveries.cancel()
        self.deliver(4)
        self.peer.serve()
        self.assertEqual(self.successResultOf(cancelling), 1)
        self.assertEqual(self.successResultOf(loop), "done")
        self.assertEqual(seen, [b"1", b"2", b"3"])

    def test_the_first_ten(self) -> None:
        """
        Ten messages are taken and acknowledged, and the loop is left: cancelling
        puts all others back, those that had come and those still on their way, and
        says how many.
        """

        async def first_ten() -> int:
            deliveries = await self.channel.consume("work", consumer_tag="tag")
            async for delivery in deliveries:
                delivery.ack()
                if delivery.delivery_tag == 10:
                    break
            return await deliveries.cancel()

        running = self.start(first_ten())
        self.deliver(1, 2, 3)
        self.peer.send(1, spec.BasicQosOk(), spec.BasicConsumeOk("tag"))
        self.heard()
        frames = [
            self.peer.content(1, spec.BasicDeliver("tag", each, False, "", "work"))
            for each in range(4, 98)
        ]
        self.peer.feed(b"".join(frames))
        heard = self.heard()
        acks = [each for each in heard if isinstance(each, spec.BasicAck)]
        self.assertEqual([each.delivery_tag for each in acks], list(range(4, 11)))
        self.deliver(98, 99, 100)
        heard += self.heard()
        cancel = heard.index(spec.BasicCancel("tag"))
        nacks = [
            (place, each.delivery_tag)
            for place, each in enumerate(heard)
            if isinstance(each, spec.BasicNack) and each.requeue and not each.multiple
        ]
        self.assertEqual([tag for _, tag in nacks], list(range(11, 101)))
        self.assertTrue(all(place > cancel for place, _ in nacks))
        self.assertNoResult(running)
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual(self.successResultOf(running), 90)

    def test_cancelled_by_the_broker(self) -> None:
        """
        What had come is given out first, and then the loop raises
        `ConsumerCancelled`.
        """
        deliveries = self.deliveries()
        self.deliver(1, 2)
        self.peer.send(1, spec.BasicCancel("tag", True))
        seen: list[bytes] = []
        loop = self.start(self.collect(deliveries, seen))
        self.reason(loop, ConsumerCancelled)
        self.assertEqual(seen, [b"1", b"2"])
        self.assertEqual(
            self.heard(),
            [
                spec.BasicCancel("tag"),
                spec.BasicAck(1, False),
                spec.BasicAck(2, False),
            ],
        )

    def test_cancelled_by_the_broker_while_waiting(self) -> None:
        """
        A loop that waits hears of it at once.
        """
        loop = self.start(self.collect(self.deliveries(), []))
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.reason(loop, ConsumerCancelled)

    def test_channel_ends(self) -> None:
        """
        With its channel the loop ends for the channel's reason, and what had come is
        gone: the broker has it again.
        """
        deliveries = self.deliveries()
        self.deliver(1, 2)
        self.peer.send(1, spec.ChannelClose(404, "no", 0, 0))
        self.assertEqual(deliveries.buffered, 0)
        seen: list[bytes] = []
        self.reason(self.start(self.collect(deliveries, seen)), NotFound)
        self.assertEqual(seen, [])

    def test_channel_ends_with_auto_ack(self) -> None:
        """
        With ``auto_ack`` the broker has it not any more, so it can be had still.
        """
        deliveries = self.deliveries(auto_ack=True)
        self.deliver(1, 2)
        self.peer.drop()
        bodies = [self.successResultOf(deliveries.get()).body for _ in range(2)]
        self.assertEqual(bodies, [b"1", b"2"])
        self.reason(deliveries.get(), ConnectionLost)

    def test_cancelled_loop(self) -> None:
        """
        Cancelling the Deferred of a loop that waits loses nothing.
        """
        deliveries = self.deliveries()
        loop = self.start(self.collect(deliveries, []))
        loop.cancel()
        self.reason(loop, CancelledError)
        self.deliver(1)
        self.assertEqual(self.successResultOf(deliveries.get()).body, b"1")

    def test_close_inside(self) -> None:
        """
        A loop may close its channel from inside.
        """

        async def run() -> None:
            async for _ in deliveries:
                await self.channel.close()

        deliveries = self.deliveries()
        running = self.start(run())
        self.deliver(1)
        self.peer.serve()
        self.assertTrue(self.reason(running, ChannelClosed).by_us)


class GetTests(ChannelCase):
    """
    One at a time.
    """

    def test_without_waiting(self) -> None:
        """
        The loop may begin before the broker has agreed: it need not be waited for.
        """
        seen: list[bytes] = []

        async def loop() -> None:
            async for delivery in self.channel.consume("work", consumer_tag="tag"):
                seen.append(delivery.body)
                if len(seen) == 2:
                    await delivery_consumer().cancel()

        def delivery_consumer() -> Consumer:
            consumer = self.channel._machine.consumers[b"tag"]
            assert isinstance(consumer, Consumer)
            return consumer

        running = self.start(loop())
        self.deliver(1)
        self.peer.serve()
        self.deliver(2)
        self.peer.serve()
        self.assertIsNone(self.successResultOf(running))
        self.assertEqual(seen, [b"1", b"2"])

    def test_refused_without_waiting(self) -> None:
        """
        When the broker refuses, or what was asked for cannot be sent, the loop raises
        that, and nothing is left unhandled.
        """

        async def loop(prefetch: int) -> None:
            async for _ in self.channel.consume("missing", prefetch=prefetch):
                self.fail("there is none")

        self.reason(self.start(loop(-1)), LocalProtocolError)
        running = self.start(loop(1))
        self.peer.send(1, spec.BasicQosOk(), spec.ChannelClose(404, "no", 60, 20))
        self.reason(running, NotFound)
        self.reason(self.start(loop(1)), NotFound)

    def test_contexts(self) -> None:
        """
        A channel, a consumer, an iterator and what `consume` returns are contexts,
        which end them, also when that has happened before.
        """

        async def use() -> None:
            async with self.channel as channel:
                self.assertIs(channel, self.channel)
                async with await channel.basic_consume("work", print) as consumer:
                    self.assertTrue(consumer.is_active)
                self.assertFalse(consumer.is_active)
                async with channel.consume("work") as deliveries:
                    self.assertTrue(deliveries.consumer.is_active)
                self.assertFalse(deliveries.consumer.is_active)
                async with await channel.consume("work") as deliveries:
                    self.assertTrue(deliveries.consumer.is_active)
                self.assertFalse(deliveries.consumer.is_active)
                async with channel.consume("work") as deliveries:
                    await channel.close()

        running = self.start(use())
        for _ in range(10):
            self.peer.serve()
        self.assertIsNone(self.successResultOf(running))
        self.assertFalse(self.channel.is_open)

    def test_take_now(self) -> None:
        """
        What has come can be taken without waiting, and be put back: whoever waits, or
        asks next, gets it.
        """
        deliveries = self.deliveries()
        self.assertRaises(LookupError, deliveries.take_now)
        self.deliver(1, 2)
        first = deliveries.take_now()
        self.assertEqual((first.body, deliveries.buffered), (b"1", 1))
        deliveries.put_back(first)
        self.assertIs(deliveries.take_now(), first)
        second = deliveries.take_now()
        waiting = deliveries.get()
        deliveries.put_back(second)
        self.assertIs(self.successResultOf(waiting), second)
        self.assertIsNone(deliveries.ended)
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.assertIsInstance(deliveries.ended, ConsumerCancelled)

    def test_in_order(self) -> None:
        """
        Whoever asks first is served first.
        """
        deliveries = self.deliveries()
        self.deliver(1)
        gets = [deliveries.get() for _ in range(3)]
        self.deliver(2, 3)
        bodies = [self.successResultOf(each).body for each in gets]
        self.assertEqual(bodies, [b"1", b"2", b"3"])

    def test_cancelled(self) -> None:
        """
        What a cancelled one would have got goes to the next.
        """
        deliveries = self.deliveries()
        first, second = deliveries.get(), deliveries.get()
        first.cancel()
        self.reason(first, CancelledError)
        self.deliver(1)
        self.assertEqual(self.successResultOf(second).body, b"1")

    def test_timeout(self) -> None:
        """
        ``addTimeout`` asks for a delivery within some time.
        """
        deliveries = self.deliveries()
        getting = deliveries.get().addTimeout(3, self.peer.clock)
        self.peer.clock.advance(4)
        self.failureResultOf(getting)
        self.deliver(1)
        self.assertEqual(deliveries.buffered, 1)

    def test_after_the_end(self) -> None:
        """
        After we have cancelled, there is nothing: a `LookupError`.
        """
        deliveries = self.deliveries()
        waiting = deliveries.get()
        deliveries.cancel()
        self.peer.serve()
        self.reason(waiting, LookupError)
        self.reason(deliveries.get(), LookupError)

    def test_cancelling_another_from_the_end(self) -> None:
        """
        The callback of one may cancel another, when the end is told to all.
        """
        deliveries = self.deliveries()
        first, second, third = (deliveries.get() for _ in range(3))
        errors: list[object] = []
        first.addErrback(lambda _: second.cancel())
        second.addErrback(errors.append)
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.assertEqual(getattr(errors[0], "type", None), CancelledError)
        self.reason(third, ConsumerCancelled)
        self.assertTrue(self.peer.client.is_open)

    def test_asking_again_from_the_end(self) -> None:
        """
        The callback of one may ask again, and is told the same.
        """
        deliveries = self.deliveries()
        again = deliveries.get().addErrback(lambda _: deliveries.get())
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.reason(again, ConsumerCancelled)


class CancelTests(ChannelCase):
    """
    How the iterator is ended by us.
    """

    def test_settled_ones_stay(self) -> None:
        """
        What ``multiple`` has settled, of those that had come, does not go back.
        """
        deliveries = self.deliveries()
        self.consumer(lambda each: each.ack(multiple=True), consumer_tag="other")
        self.deliver(1, 2)
        self.peer.deliver(1, "other", 3)
        self.deliver(4)
        cancelling = deliveries.cancel()
        self.peer.serve()
        self.assertEqual(self.successResultOf(cancelling), 1)

    def test_cancelled_by_its_consumer(self) -> None:
        """
        When the consumer is cancelled by itself, what had come can still be had; or
        be put back, by cancelling the iterator.
        """
        deliveries = self.deliveries()
        self.deliver(1, 2, 3)
        first = deliveries.consumer.cancel()
        self.deliver(4)
        self.peer.serve()
        self.assertEqual(self.successResultOf(first), 1)
        self.assertEqual(self.successResultOf(deliveries.get()).body, b"1")
        self.assertEqual(self.successResultOf(deliveries.cancel()), 3)
        self.assertEqual(
            self.heard(), [spec.BasicNack(each, False, True) for each in [2, 3]]
        )
        self.reason(deliveries.get(), LookupError)

    def test_after_the_broker(self) -> None:
        """
        After the broker has ended it, cancelling puts back what had come.
        """
        deliveries = self.deliveries()
        self.deliver(1)
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.reason(deliveries.cancel(), ConsumerCancelled)
        self.assertEqual(
            self.heard(), [spec.BasicCancel("tag"), spec.BasicNack(1, False, True)]
        )

    def test_auto_ack(self) -> None:
        """
        With ``auto_ack`` nothing goes back, and nothing is lost: what had come, and
        what comes before cancel-ok, can be had.
        """
        deliveries = self.deliveries(auto_ack=True)
        self.deliver(1)
        cancelling = deliveries.cancel()
        self.deliver(2)
        heard = self.peer.serve()
        self.assertEqual(heard, [spec.BasicCancel("tag")])
        self.assertEqual(self.successResultOf(cancelling), 0)
        bodies = [self.successResultOf(deliveries.get()).body for _ in range(2)]
        self.assertEqual(bodies, [b"1", b"2"])
        self.reason(deliveries.get(), LookupError)

    def test_given_up_before_it_began(self) -> None:
        """
        Whoever gives up before the broker has agreed leaves nothing behind: what
        had come already goes back too.
        """
        starting = self.channel.consume("work", consumer_tag="tag")
        self.deliver(1, 2)
        starting.cancel()
        self.reason(starting, CancelledError)
        self.assertEqual(
            self.heard()[2:],
            [
                spec.BasicCancel("tag"),
                spec.BasicNack(1, False, True),
                spec.BasicNack(2, False, True),
            ],
        )
        self.peer.send(1, spec.BasicQosOk(), spec.BasicConsumeOk("tag"))
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual(self.channel._machine.consumers, {})

    def test_iterator_of_a_refused_consumer(self) -> None:
        """
        When the broker refuses, the Deferred fails with why.
        """
        starting = self.channel.consume("missing")
        self.peer.send(1, spec.BasicQosOk(), spec.ChannelClose(404, "no", 60, 20))
        self.reason(starting, NotFound)
