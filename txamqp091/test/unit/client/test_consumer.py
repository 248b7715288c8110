# -*- test-case-name: txamqp091.test.unit.client.test_consumer -*-
"""
Tests for `txamqp091.consumer.Consumer`: how it starts, and what a handler may do.
Handlers that fail are in ``test_consumer_failures``; how it ends is in
``test_consumer_end``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed

from txamqp091.consumer import Consumer
from txamqp091.errors import CommandInvalid, LocalProtocolError, NotFound
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec


class StartTests(ChannelCase):
    """
    How a consumer starts.
    """

    def test_default_prefetch(self) -> None:
        """
        The limit of 100 is set before the consumer starts, in the same write.
        """
        starting = self.channel.basic_consume("work", print, consumer_tag="mine")
        self.assertEqual(
            self.heard(),
            [
                spec.BasicQos(0, 100, False),
                spec.BasicConsume(0, "work", "mine"),
            ],
        )
        self.assertNoResult(starting)
        self.peer.send(1, spec.BasicQosOk(), spec.BasicConsumeOk("mine"))
        consumer = self.successResultOf(starting)
        self.assertEqual((consumer.consumer_tag, consumer.queue), ("mine", "work"))
        self.assertTrue(consumer.is_active)
        self.assertEqual(repr(consumer), "<Consumer 'mine' of 'work', active>")

    def test_prefetch_of_the_channel(self) -> None:
        """
        A consumer that names no limit has the one that ``basic_qos`` has set, until
        that is called again.  A limit for the whole channel is another thing.
        """
        for prefetch in (1, 0, 7):
            self.channel.basic_qos(prefetch_count=prefetch)
            self.channel.basic_qos(prefetch_count=50, global_qos=True)
            self.peer.serve()
            self.channel.basic_consume("work", print)
            self.channel.basic_consume("work", print, prefetch=3)
            self.channel.consume("work")
            said = self.peer.serve()
            self.assertEqual(
                [each for each in said if isinstance(each, spec.BasicQos)],
                [spec.BasicQos(0, limit, False) for limit in (prefetch, 3, prefetch)],
            )

    def test_arguments(self) -> None:
        """
        All that can be asked for is sent.
        """
        self.channel.basic_consume(
            "work",
            print,
            True,
            True,
            "mine",
            {"x-priority": 5},
            prefetch=0,
            no_local=True,
        )
        self.assertEqual(
            self.peer.serve(),
            [
                spec.BasicQos(0, 0, False),
                spec.BasicConsume(
                    0, "work", "mine", True, True, True, False, {"x-priority": 5}
                ),
            ],
        )

    def test_generated_tags(self) -> None:
        """
        A consumer that is given no tag has one of its own, also among channels.
        """
        other = self.peer.open_channel()
        tags = set()
        for channel in [self.channel, self.channel, other]:
            starting = channel.basic_consume("work", print)
            self.peer.serve()
            tags.add(self.successResultOf(starting).consumer_tag)
        self.assertEqual(len(tags), 3)

    def test_tag_in_use(self) -> None:
        """
        A tag that is in use on the channel is refused here, and sends nothing; once
        its consumer has ended it is free.
        """
        consumer = self.consumer(print, consumer_tag="mine")
        again = self.channel.basic_consume("work", print, consumer_tag="mine")
        self.assertIn("mine", str(self.reason(again, LocalProtocolError)))
        self.assertEqual(self.heard(), [])
        consumer.cancel()
        self.peer.serve()
        self.consumer(print, consumer_tag="mine")

    def test_refused(self) -> None:
        """
        When the broker refuses, the Deferred fails with why, and the channel ends.
        """
        starting = self.channel.basic_consume("missing", print)
        self.peer.send(1, spec.BasicQosOk(), spec.ChannelClose(404, "no", 60, 20))
        self.assertEqual(self.reason(starting, NotFound).operation, "basic.consume")

    def test_deliveries_before_the_answer(self) -> None:
        """
        Deliveries may come before consume-ok.
        """
        seen: list[Delivery] = []
        starting = self.channel.basic_consume("work", seen.append, consumer_tag="tag")
        self.deliver(1, 2)
        self.assertEqual([each.body for each in seen], [b"1", b"2"])
        self.peer.serve()
        self.successResultOf(starting)

    def test_cancelled(self) -> None:
        """
        Whoever gives up before the broker has agreed leaves no consumer behind, and
        what comes for it goes back.
        """
        seen: list[Delivery] = []
        starting = self.channel.basic_consume("work", seen.append, consumer_tag="tag")
        starting.cancel()
        self.reason(starting, CancelledError)
        self.assertEqual(self.heard()[-1], spec.BasicCancel("tag"))
        self.peer.send(1, spec.BasicQosOk(), spec.BasicConsumeOk("tag"))
        self.deliver(1)
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual((seen, self.channel._machine.consumers), ([], {}))
        self.consumer(print)

    def test_cancelled_and_refused(self) -> None:
        """
        It is no matter then if the broker refuses.
        """
        starting = self.channel.basic_consume("missing", print)
        starting.cancel()
        self.reason(starting, CancelledError)
        self.peer.send(1, spec.BasicQosOk(), spec.ChannelClose(404, "no", 60, 20))
        self.reason(self.channel.when_closed(), NotFound)


class RefusedHandlerTests(ChannelCase):
    """
    What cannot be a handler is refused, with the reason, and nothing is sent.
    """

    def refused(self, handler: Any) -> str:
        """
        The text of the refusal.
        """
        refused = self.channel.basic_consume("work", handler)
        self.assertEqual(self.heard(), [])
        return str(self.reason(refused, TypeError))

    def test_generators(self) -> None:
        """
        The body of a generator function would never run: functions, methods, partial
        ones and objects that are called.
        """

        def generator(delivery: Delivery, more: object = None) -> Iterator[None]:
            yield

        async def asynchronous(delivery: Delivery) -> AsyncIterator[None]:
            yield

        class Object:
            def __call__(self, delivery: Delivery) -> Iterator[None]:
                yield

        for each in (
            generator,
            partial(generator, more=1),
            Object(),
            Object().__call__,
        ):
            self.assertIn("is a generator function", self.refused(each))
        self.assertIn("async generator function", self.refused(asynchronous))

    def test_not_callable(self) -> None:
        """
        A handler is called.
        """
        self.assertIn("a handler is a function, not 5", self.refused(5))


class WindowTests(ChannelCase):
    """
    The prefetch window, when it is full of deliveries that nobody settles.
    """

    parameters = ConnectionParameters(heartbeat=0)

    def setUp(self) -> None:
        """
        Watch the log.
        """
        super().setUp()
        self.events = self.catch_log()

    def test_forgotten(self) -> None:
        """
        When the handlers of all deliveries that the prefetch allows have ended, and
        none is settled for a minute, that is logged, once, with the remedy.
        """
        self.consumer(lambda _: None, prefetch=3)
        self.deliver(1, 2)
        self.peer.clock.advance(600)
        self.assertEqual(self.events, [])
        self.deliver(3)
        self.peer.clock.advance(59)
        self.assertEqual(self.events, [])
        self.peer.clock.pump([60] * 10)
        [event] = self.events
        self.assertIn("the queue work", event)
        self.assertIn("3 unsettled", event)
        self.assertIn("ack_on_return", event)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])

    def test_forgotten_by_a_loop(self) -> None:
        """
        So it is when a loop takes deliveries and does not settle them.
        """
        deliveries = self.deliveries(prefetch=2)
        self.deliver(1, 2)
        self.peer.clock.pump([60] * 10)
        self.assertEqual(self.events, [])  # the loop is busy elsewhere
        self.successResultOf(deliveries.get())
        self.successResultOf(deliveries.get())
        self.peer.clock.pump([60] * 10)
        self.assertEqual(len(self.events), 1)

    def test_at_work(self) -> None:
        """
        Handlers that run, however long, and deliveries that are settled in time, are
        not logged.
        """
        gates: list[Deferred[None]] = []

        async def work(delivery: Delivery) -> None:
            gates.append(Deferred())
            await gates[-1]
            delivery.ack()

        self.consumer(work, prefetch=2)
        self.deliver(1, 2)
        self.peer.clock.pump([60] * 100)
        for gate in gates:
            gate.callback(None)
        self.peer.clock.pump([60] * 3)
        kept: list[Delivery] = []
        self.consumer(kept.append, prefetch=2, consumer_tag="other")
        tag = 2
        for _ in range(100):
            for _ in range(2 - len(kept)):
                tag += 1
                self.peer.deliver(1, "other", tag)
            self.peer.clock.advance(30)
            kept.pop(0).ack()
        self.assertEqual(self.events, [])

    def test_ended(self) -> None:
        """
        Nothing is watched any more when the consumer has ended.
        """
        self.consumer(lambda _: None, prefetch=1)
        self.deliver(1)
        self.channel.close()
        self.peer.serve()
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])

    def test_exceeded(self) -> None:
        """
        Criterion 7: a broker that delivers far more than the prefetch limit, while it
        owes an answer so that reading cannot stop, has broken the rules.
        """
        consumers = {
            "handler": lambda: self.consumer(lambda _: Deferred(), prefetch=10),
            "kept": lambda: self.consumer(lambda _: None, prefetch=10),
            "loop": lambda: self.deliveries(prefetch=10),
        }
        for name, start in consumers.items():
            self.setUp()
            start()
            self.channel.queue_declare("other").addErrback(lambda _: None)
            tag = 0
            while self.peer.client.is_open and tag < 1000:
                tag += 1
                self.peer.deliver(1, "tag", tag)
            self.assertEqual(tag, 201, name)
            error = self.peer.client.close_reason
            self.assertIsInstance(error, CommandInvalid)
            self.assertIn("prefetch is 10", str(error))


class HandlerTests(ChannelCase):
    """
    What a handler may do.
    """

    def test_waiting_for_itself(self) -> None:
        """
        A coroutine that is a handler cannot wait until no handler runs.
        """
        problems: list[str] = []

        async def handle(delivery: Delivery) -> None:
            await other.when_idle()
            await succeed(None)
            try:
                await consumer.when_idle()
            except LocalProtocolError as error:
                problems.append(str(error))

        other = self.consumer(print, consumer_tag="other")
        consumer = self.consumer(handle)
        self.deliver(1)
        self.assertIn("for ever", problems[0])
        self.successResultOf(consumer.when_idle())

    def test_plain_function(self) -> None:
        """
        A function is called with each delivery, and settles it.
        """

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"1":
                delivery.ack()
            elif delivery.body == b"2":
                delivery.reject(requeue=False)
            else:
                delivery.nack(multiple=True)

        consumer = self.consumer(handle)
        self.deliver(1, 2, 3)
        self.assertEqual(
            self.heard(),
            [
                spec.BasicAck(1, False),
                spec.BasicReject(2, False),
                spec.BasicNack(3, True, True),
            ],
        )
        self.assertEqual(consumer.running, 0)

    def test_ack_on_return(self) -> None:
        """
        With ``ack_on_return`` a delivery is acknowledged when its handler succeeds,
        unless the handler has settled it; when the handler fails, it is not.
        """
        gates: list[Deferred[None]] = []

        async def wait(delivery: Delivery) -> None:
            gates.append(Deferred())
            await gates[-1]

        def handle(delivery: Delivery) -> object:
            if delivery.body == b"2":
                delivery.reject(requeue=False)
            elif delivery.body == b"3":
                raise ZeroDivisionError
            elif delivery.body in (b"4", b"5"):
                return wait(delivery)
            return "of no interest" if delivery.body == b"6" else None

        self.channel.basic_consume(
            "work", handle, consumer_tag="tag", ack_on_return=True
        )
        self.peer.serve()
        self.deliver(1, 2, 3, 4, 5, 6)
        self.assertEqual(
            self.heard(),
            [
                spec.BasicAck(1, False),
                spec.BasicReject(2, False),
                spec.BasicNack(3, False, True),
                spec.BasicAck(6, False),
            ],
        )
        gates[0].callback(None)
        gates[1].errback(ZeroDivisionError())
        self.assertEqual(
            self.heard(), [spec.BasicAck(4, False), spec.BasicNack(5, False, True)]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_acks_of_one_turn(self) -> None:
        """
        The acks for what came together leave together.
        """
        self.consumer(Delivery.ack)
        before = len(self.peer.transport.writes)
        frames = [
            self.peer.content(1, spec.BasicDeliver("tag", each, False, "", "work"))
            for each in range(1, 51)
        ]
        self.peer.feed(b"".join(frames))
        self.assertEqual(len(self.peer.transport.writes), before + 1)
        self.assertEqual(len(self.heard()), 50)

    def test_running(self) -> None:
        """
        A Deferred or a coroutine is waited for; ``when_idle`` tells when none runs.
        """
        gates: list[Deferred[None]] = []

        def by_deferred(delivery: Delivery) -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        async def by_coroutine(delivery: Delivery) -> None:
            gates.append(Deferred())
            await gates[-1]
            delivery.ack()

        first = self.consumer(by_deferred, consumer_tag="tag")
        second = self.consumer(by_coroutine, consumer_tag="other")
        self.successResultOf(first.when_idle())
        self.deliver(1, 2)
        self.peer.deliver(1, "other", 3)
        self.assertEqual((first.running, second.running), (2, 1))
        idle = [first.when_idle(), first.when_idle(), second.when_idle()]
        idle[1].cancel()
        self.reason(idle[1], CancelledError)
        gates[0].callback(None)
        self.assertNoResult(idle[0])
        gates[1].callback(None)
        self.successResultOf(idle[0])
        gates[2].callback(None)
        self.successResultOf(idle[2])
        self.assertEqual(self.heard(), [spec.BasicAck(3, False)])

    def test_results_that_are_nothing(self) -> None:
        """
        Any other result is no matter.
        """
        consumer = self.consumer(lambda delivery: 5)
        self.deliver(1)
        self.assertEqual((consumer.running, self.heard()), (0, []))

    def test_inside(self) -> None:
        """
        A handler may publish, declare, and end its consumer, from inside.
        """
        inside: list[Deferred[object]] = []

        def handle(delivery: Delivery) -> None:
            self.channel.basic_publish("", "next", delivery.body)
            self.channel.queue_declare("more")
            delivery.ack()
            inside.append(consumer.cancel().addCallback(lambda count: count))

        consumer = self.consumer(handle)
        frames = [
            self.peer.content(1, spec.BasicDeliver("tag", each, False, "", "work"))
            for each in range(1, 4)
        ]
        self.peer.feed(b"".join(frames))
        self.assertEqual(
            self.peer.serve(),
            [
                spec.BasicPublish(0, "", "next"),
                spec.QueueDeclare(0, "more", durable=True),
                spec.BasicAck(1, False),
                spec.BasicCancel("tag"),
                spec.BasicNack(2, False, True),
                spec.BasicNack(3, False, True),
            ],
        )
        self.assertEqual(self.successResultOf(inside[0]), 2)

    def test_closing_inside(self) -> None:
        """
        A handler may close the channel, or the connection, from inside: nothing more
        is delivered, and settling sends nothing.
        """
        for number, close in enumerate([self.channel.close, self.peer.client.close]):
            seen: list[bytes] = []

            def handle(delivery: Delivery, close=close, seen=seen) -> None:  # type: ignore[no-untyped-def]
                seen.append(delivery.body)
                close()
                delivery.ack()

            tag = f"tag{number}"
            consumer = self.consumer(handle, consumer_tag=tag)
            frames = [
                self.peer.content(
                    self.channel.number,
                    spec.BasicDeliver(tag, each, False, "", "work"),
                    b"%d" % each,
                )
                for each in range(1, 4)
            ]
            self.peer.feed(b"".join(frames))
            heard = self.peer.serve()
            self.assertEqual(seen, [b"1"])
            self.assertEqual(len(heard), 1, heard)
            self.assertFalse(consumer.is_active)
            self.failureResultOf(consumer.when_ended())
            if self.peer.client.is_open:
                self.channel = self.peer.open_channel()


class SharingTests(ChannelCase):
    """
    More than one consumer.
    """

    def test_two_consumers(self) -> None:
        """
        Each consumer gets what is for it.
        """
        seen: dict[str, list[int]] = {"one": [], "two": []}

        def handle(delivery: Delivery) -> None:
            seen[delivery.consumer_tag].append(delivery.delivery_tag)

        consumers: list[Consumer] = [
            self.consumer(handle, consumer_tag=each) for each in seen
        ]
        for tag, name in enumerate(["one", "two", "two", "one"]):
            self.peer.deliver(1, name, tag)
        self.assertEqual(seen, {"one": [0, 3], "two": [1, 2]})
        consumers[0].cancel()
        self.peer.serve()
        self.peer.deliver(1, "two", 4)
        self.assertEqual(seen["two"], [1, 2, 4])


class NoWaitTests(ChannelCase):
    """
    A broker that is told not to answer.
    """

    def test_consume(self) -> None:
        """
        The consumer is there at once, and takes deliveries.
        """
        got: list[Delivery] = []
        consuming = self.channel.basic_consume(
            "work", got.append, consumer_tag="c", no_wait=True
        )
        consumer = self.successResultOf(consuming)
        qos, consume = self.heard()
        self.assertEqual(qos, spec.BasicQos(0, 100, False))
        self.assertEqual(
            consume, spec.BasicConsume(0, "work", "c", False, False, False, True)
        )
        self.peer.send(1, spec.BasicQosOk())
        self.peer.deliver(1, "c", 1, b"hello")
        self.assertEqual([each.body for each in got], [b"hello"])
        self.assertTrue(consumer.is_active)

    def test_cancel(self) -> None:
        """
        Nobody waits for the cancelling of a consumer, but the consumer itself: what
        still comes is handed back.
        """
        got: list[Delivery] = []
        self.channel.basic_consume("work", got.append, consumer_tag="c")
        self.peer.serve()
        cancelled = self.channel.basic_cancel("c", no_wait=True)
        self.assertEqual(self.successResultOf(cancelled), spec.BasicCancelOk("c"))
        self.assertEqual(self.heard(), [spec.BasicCancel("c", False)])
        self.peer.deliver(1, "c", 1, b"late")
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        self.peer.send(1, spec.BasicCancelOk("c"))
        self.assertEqual(got, [])
