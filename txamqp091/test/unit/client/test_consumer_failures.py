# -*- test-case-name: txamqp091.test.unit.client.test_consumer_failures -*-
"""
Tests for what becomes of deliveries whose handlers fail, or that are too large.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txamqp091.consumer import Handler
from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.types import Int64

#: Properties with headers that nobody can read.
BROKEN = Properties.from_wire(b"\x20\x00\xff\xff\xff\xff")


class FailureTests(ChannelCase):
    """
    What becomes of a delivery whose handler fails.
    """

    def logged(self, kind: type[BaseException] = ZeroDivisionError) -> list[Failure]:
        """
        Take the failures that were logged.
        """
        failures: list[Failure] = self.flushLoggedErrors(kind)
        return failures

    def rejecting(self, handler: Handler) -> None:
        """
        Start a consumer, with the tag "tag", that rejects what fails twice.
        """
        self.consumer(handler, on_failure="reject")

    def again(self, delivery_tag: int, properties: Properties = EMPTY) -> None:
        """
        Deliver the message "1" once more.
        """
        self.peer.deliver(1, "tag", delivery_tag, b"1", properties, redelivered=True)

    def test_requeued(self) -> None:
        """
        However a handler fails, its message goes back to the queue: at once the first
        time, 5 s later the second time.  Each failure is logged once.
        """

        def raises(delivery: Delivery) -> None:
            raise ZeroDivisionError

        def fails(delivery: Delivery) -> Deferred[None]:
            return fail(ZeroDivisionError())

        async def coroutine(delivery: Delivery) -> None:
            await succeed(None)
            raise ZeroDivisionError

        class Awaitable:
            def __await__(self) -> Generator[Any, Any, None]:
                yield succeed(None)
                raise ZeroDivisionError

        for handler in [raises, fails, coroutine, lambda _: Awaitable()]:
            consumer = self.consumer(handler)
            self.deliver(1)
            self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
            self.again(2)
            self.peer.clock.advance(4.9)
            self.assertEqual(self.heard(), [])
            self.peer.clock.advance(0.2)
            self.assertEqual(self.heard(), [spec.BasicNack(2, False, True)])
            self.assertEqual(len(self.logged()), 2)
            self.assertTrue(consumer.is_active)
            self.assertEqual(consumer.running, 0)
            consumer.cancel()
            self.peer.serve()

    def test_any_exception(self) -> None:
        """
        A handler may raise whatever there is: its message goes back, and the
        connection stays open.
        """
        kinds = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
        for number, kind in enumerate(kinds, 1):

            def raises(delivery: Delivery, kind: type[BaseException] = kind) -> None:
                raise kind

            consumer = self.consumer(raises)
            self.deliver(number)
            self.assertEqual(self.heard(), [spec.BasicNack(number, False, True)])
            self.assertEqual(len(self.logged(kind)), 1)
            self.assertTrue(self.peer.client.is_open)
            consumer.cancel()
            self.peer.serve()

    def test_what_nobody_can_await(self) -> None:
        """
        A generator that a handler returns is a failure, as its body would not run.
        """

        def generator() -> Iterator[None]:
            yield

        async def asynchronous() -> AsyncIterator[None]:
            yield

        self.consumer(lambda _: generator())
        self.deliver(1)
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        self.channel.basic_consume(
            "work", lambda _: asynchronous(), consumer_tag="other"
        )
        self.peer.serve()
        self.peer.deliver(1, "other", 2)
        self.assertEqual(self.heard(), [spec.BasicNack(2, False, True)])
        self.assertEqual(len(self.logged(TypeError)), 2)

    def test_rejected(self) -> None:
        """
        With ``on_failure="reject"`` a message goes back the first time that its handler
        fails, and is rejected the second time.
        """
        self.rejecting(lambda _: 1 // 0)
        self.deliver(1)
        self.again(2)
        self.assertEqual(
            self.heard(), [spec.BasicReject(1, True), spec.BasicReject(2, False)]
        )
        self.assertEqual(len(self.logged()), 2)

    def test_redelivered_is_no_failure(self) -> None:
        """
        A message that was redelivered for another reason has not failed before.
        """
        self.rejecting(lambda _: 1 // 0)
        self.again(1)
        self.again(2)
        self.assertEqual(
            self.heard(), [spec.BasicReject(1, True), spec.BasicReject(2, False)]
        )
        self.assertEqual(len(self.logged()), 2)

    def test_counts(self) -> None:
        """
        Where the broker counts failed deliveries apart from others, its count tells.
        """
        self.rejecting(lambda _: 1 // 0)
        back = Properties(headers={"x-acquired-count": 3})
        failed = Properties(headers={"x-acquired-count": 1, "x-delivery-count": 1})
        self.again(1, back)
        self.again(2, back)
        self.again(3, failed)
        self.assertEqual(
            self.heard(),
            [
                spec.BasicReject(1, True),
                spec.BasicReject(2, True),
                spec.BasicReject(3, False),
            ],
        )
        self.assertEqual(len(self.logged()), 3)

    def test_paused_and_ended(self) -> None:
        """
        A message that waits to go back goes back at once when its consumer ends; when
        its channel ends, the broker has it, and nothing is left behind.
        """
        consumer = self.consumer(lambda _: 1 // 0)
        self.deliver(1)
        self.again(2)
        self.heard()
        consumer.cancel()
        self.assertEqual(
            self.heard(), [spec.BasicCancel("tag"), spec.BasicNack(2, False, True)]
        )
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.consumer(lambda _: 1 // 0)
        self.deliver(1)
        self.again(2)
        self.peer.drop()
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.logged()), 4)

    def test_stream(self) -> None:
        """
        A message of a stream is acknowledged: a stream takes nothing back, and RabbitMQ
        3 closes the connection for that.
        """
        self.consumer(lambda _: 1 // 0)
        offset = Properties(headers={"x-stream-offset": Int64(7)})
        self.deliver(1, properties=offset)
        self.channel._machine.max_body = 10
        self.peer.deliver(1, "tag", 2, b"x" * 11, offset)
        self.assertEqual(
            self.heard(), [spec.BasicAck(1, False), spec.BasicAck(2, False)]
        )
        self.assertEqual(len(self.logged()), 1)

    def test_storm(self) -> None:
        """
        When a connection is lost with a thousand coroutines that wait for it, each is
        one line in the log.
        """
        events = self.catch_log()

        async def wait(delivery: Delivery) -> None:
            await self.channel.queue_declare("other")

        self.consumer(wait, prefetch=1000)
        self.deliver(*range(1, 1001))
        self.peer.drop()
        events = [each for each in events if "The handler of" in each]
        self.assertEqual(len(events), 1000)
        self.assertLess(max(map(len, events)), 400)

    def test_later(self) -> None:
        """
        A handler that fails later is treated in the same way.
        """
        gate: Deferred[None] = Deferred()
        self.consumer(lambda delivery: gate)
        self.deliver(1)
        self.assertEqual(self.heard(), [])
        gate.errback(ZeroDivisionError())
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        self.assertEqual(len(self.logged()), 1)

    def test_after_the_end(self) -> None:
        """
        A handler that fails when its channel has gone is logged, and sends nothing.
        """
        gate: Deferred[None] = Deferred()
        self.consumer(lambda delivery: gate)
        self.deliver(1)
        self.channel.close()
        self.peer.serve()
        gate.errback(ZeroDivisionError())
        self.assertEqual(self.heard(), [])
        self.assertEqual(len(self.logged()), 1)

    def test_settled_before(self) -> None:
        """
        A delivery that the handler had settled, or that needs it not, is left alone.
        """

        def handle(delivery: Delivery) -> None:
            if not delivery.settled:
                delivery.ack()
            raise ZeroDivisionError

        self.consumer(handle)
        self.consumer(handle, auto_ack=True, consumer_tag="other")
        self.deliver(1)
        self.peer.deliver(1, "other", 2)
        self.assertEqual(self.heard(), [spec.BasicAck(1, False)])
        self.assertEqual(len(self.logged()), 2)

    def test_undecodable(self) -> None:
        """
        Criterion 6: when a handler fails as it cannot read a property, the message goes
        back in 5 s; with ``on_failure="reject"`` it is rejected at once.
        """
        consumer = self.consumer(lambda delivery: delivery.headers)
        self.deliver(1, properties=BROKEN)
        self.assertEqual(self.heard(), [])
        self.peer.clock.advance(5)
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        consumer.cancel()
        self.peer.serve()
        self.rejecting(lambda delivery: delivery.headers)
        self.deliver(2, properties=BROKEN)
        self.assertEqual(self.heard(), [spec.BasicReject(2, False)])
        self.assertEqual(len(self.logged(UndecodableProperty)), 2)

    def test_log(self) -> None:
        """
        The log names the queue and the message, and has nothing of its body; what
        the producer wrote does not begin a line of its own.
        """
        events = self.catch_log()
        self.consumer(lambda delivery: 1 // 0)
        evil = Properties(message_id="id-7\nforged")
        self.peer.deliver(1, "tag", 9, b"secret body", evil)
        [event] = events
        text = event.splitlines()[0]
        self.assertIn("id-7", text)
        self.assertIn("forged", text)
        self.assertIn("'work'", text)
        self.assertIn("delivery 9", text)
        self.assertIn("goes back", text)
        self.assertNotIn("secret", event)
        self.peer.deliver(1, "tag", 10, b"x")
        self.assertIn("(no message-id)", events[1])
        self.assertEqual(len(self.logged()), 2)

    def test_oversized(self) -> None:
        """
        Criterion 7: a message over the limit is logged, and the next one is delivered.
        The message goes back in 5 s; with ``on_failure="reject"`` it is rejected.
        """
        self.channel._machine.max_body = 10
        seen: list[Delivery] = []
        consumer = self.consumer(seen.append)
        events = self.catch_log()
        self.peer.deliver(1, "tag", 1, b"x" * 11)
        self.peer.deliver(1, "tag", 2, b"x" * 10)
        self.assertEqual([each.delivery_tag for each in seen], [2])
        self.assertEqual(len(events), 1)
        self.assertIn("11 bytes", events[0])
        self.assertEqual(self.heard(), [])
        self.peer.clock.advance(5)
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        consumer.cancel()
        self.peer.serve()
        self.rejecting(seen.append)
        self.peer.deliver(1, "tag", 3, b"x" * 11)
        self.assertEqual(self.heard(), [spec.BasicReject(3, False)])

    def test_oversized_without_acks(self) -> None:
        """
        With ``auto_ack`` there is nothing to reject.
        """
        self.channel._machine.max_body = 10
        seen: list[Delivery] = []
        self.consumer(seen.append, auto_ack=True)
        self.peer.deliver(1, "tag", 1, b"x" * 11)
        self.assertEqual((self.heard(), seen), ([], []))
