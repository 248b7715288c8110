# -*- test-case-name: txamqp091.test.unit.client.test_consumer_failures -*-
"""
Tests for what becomes of deliveries whose handlers fail, or that are too large.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

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

    def test_requeued_and_then_rejected(self) -> None:
        """
        A failure puts the delivery back the first time, and rejects it the second
        time, however the handler fails; each is logged once.
        """

        def raises(delivery: Delivery) -> None:
            raise ZeroDivisionError

        def fails(delivery: Delivery) -> Deferred[None]:
            return fail(ZeroDivisionError())

        async def coroutine(delivery: Delivery) -> None:
            await succeed(None)
            raise ZeroDivisionError

        for handler in [raises, fails, coroutine]:
            consumer = self.consumer(handler)
            self.deliver(1)
            self.deliver(2, redelivered=True)
            self.assertEqual(
                self.heard(), [spec.BasicReject(1, True), spec.BasicReject(2, False)]
            )
            self.assertEqual(len(self.logged()), 2)
            self.assertTrue(consumer.is_active)
            self.assertEqual(consumer.running, 0)
            consumer.cancel()
            self.peer.serve()

    def test_later(self) -> None:
        """
        A handler that fails later is treated in the same way.
        """
        gate: Deferred[None] = Deferred()
        self.consumer(lambda delivery: gate)
        self.deliver(1)
        self.assertEqual(self.heard(), [])
        gate.errback(ZeroDivisionError())
        self.assertEqual(self.heard(), [spec.BasicReject(1, True)])
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
        Criterion 6: a handler that fails as it cannot read a property has its
        delivery rejected at once.
        """
        self.consumer(lambda delivery: delivery.headers)
        self.deliver(1, properties=BROKEN)
        self.assertEqual(self.heard(), [spec.BasicReject(1, False)])
        self.assertEqual(len(self.logged(UndecodableProperty)), 1)

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
        self.assertIn("requeued", text)
        self.assertNotIn("secret", event)
        self.assertEqual(len(self.logged()), 1)

    def test_oversized(self) -> None:
        """
        Criterion 7: a message over the limit is rejected and logged; the next one is
        delivered.
        """
        self.channel._machine.max_body = 10
        seen: list[Delivery] = []
        self.consumer(seen.append)
        events = self.catch_log()
        self.peer.deliver(1, "tag", 1, b"x" * 11)
        self.peer.deliver(1, "tag", 2, b"x" * 10)
        self.assertEqual(self.heard(), [spec.BasicReject(1, False)])
        self.assertEqual([each.delivery_tag for each in seen], [2])
        self.assertEqual(len(events), 1)
        self.assertIn("11 bytes", events[0])

    def test_oversized_without_acks(self) -> None:
        """
        With ``auto_ack`` there is nothing to reject.
        """
        self.channel._machine.max_body = 10
        seen: list[Delivery] = []
        self.consumer(seen.append, auto_ack=True)
        self.peer.deliver(1, "tag", 1, b"x" * 11)
        self.assertEqual((self.heard(), seen), ([], []))
