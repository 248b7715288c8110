# -*- test-case-name: txamqp091.test.unit.worker.test_handler_publisher -*-
"""
What a daemon publishes: what cannot stay in its queue, and what handlers publish by the
publisher that they are given.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091.daemon.handler_loading import HandlerNotFound, load_handler
from txamqp091.errors import AMQPError, ChannelClosed, Nacked, Returned
from txamqp091.message import Delivery, Message
from txamqp091.service import Publisher
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.wire.properties import Properties
from txamqp091.worker.handler_publisher import (
    HandlerPublisher,
    Republisher,
    ThreadPublisher,
    wants_publisher,
)


def one(delivery: Delivery) -> None:
    """
    A handler.
    """


def two(delivery: Delivery, publisher: Publisher) -> None:
    """
    One that publishes.
    """


async def three(delivery: Delivery, *, publisher: Publisher) -> None:
    """
    Another one.
    """


def four(delivery: Delivery, publishers: Publisher) -> None:
    """
    None at all.
    """


def first(publisher: Delivery) -> None:
    """
    One with an odd name for the delivery.
    """


class WantsTests(SynchronousTestCase):
    """
    Which handlers want a publisher.
    """

    def test_signatures(self) -> None:
        """
        Those with a parameter of that name besides the delivery.
        """
        wanting = [wants_publisher(each) for each in (one, two, three, four, first)]
        self.assertEqual(wanting, [False, True, True, False, False])
        self.assertFalse(wants_publisher(lambda *publisher: None))
        self.assertFalse(wants_publisher(dict.update))

    def test_loaded(self) -> None:
        """
        They can be loaded, and others that want more than a delivery cannot.
        """
        for name in ("one", "two", "three", "first"):
            self.assertTrue(callable(load_handler(f"{__name__}:{name}")))
        self.assertRaises(HandlerNotFound, load_handler, f"{__name__}:four")


class PublisherCase(ServiceCase):
    """
    A service, and a queue.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("work")
        self.client = self.service()


class RepublisherTests(PublisherCase):
    """
    Tests for `Republisher`.
    """

    def test_counts(self) -> None:
        """
        It counts what became of each message.
        """
        republisher = Republisher(self.client)
        work, nowhere = (
            Message("", each, b"x", mandatory=True) for each in ("work", "nowhere")
        )
        self.successResultOf(self.published(republisher(work)))
        self.failureResultOf(self.published(republisher(nowhere)), Returned)
        self.broker.refuse_publishes()
        self.failureResultOf(self.published(republisher(work)), Nacked)
        self.broker.hold_confirms()
        held = republisher(work)
        self.turn()
        self.assertEqual(republisher.unconfirmed, 1)
        self.passes(0.5)
        self.broker.release_confirms()
        self.successResultOf(self.published(held))
        self.assertEqual(republisher.unconfirmed, 0)
        self.assertEqual(republisher.confirmed, 2)
        self.assertEqual((republisher.nacked, republisher.returned), (1, 1))
        self.assertEqual(republisher.failures, 2)
        self.assertEqual(sum(republisher.latency.counts), 2)
        self.assertEqual(republisher.latency.total, 0.5)
        self.cut()
        self.failureResultOf(republisher(work), ChannelClosed)
        self.assertEqual(republisher.failures, 3)

    def published(self, deferred: Deferred[None]) -> Deferred[None]:
        """
        Let the broker answer.
        """
        self.turn()
        return deferred


class HandlerPublisherTests(PublisherCase):
    """
    Tests for `HandlerPublisher`.
    """

    def test_counts(self) -> None:
        """
        It counts as every publisher, what came back as well, and how long a confirm
        takes, of one message at a time.
        """
        publisher = HandlerPublisher(self.client)
        self.prove(publisher)
        self.broker.hold_confirms()
        waiting = [publisher.publish("", "work", b"%d" % each) for each in range(10)]
        self.turn()
        self.assertEqual(publisher.unconfirmed, 10)
        self.passes(2)
        self.broker.release_confirms()
        self.turn()
        for each in waiting:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(publisher.confirmed, 11)
        self.assertEqual(sum(publisher.latency.counts), 2)
        self.assertEqual(publisher.latency.total, 2)
        back = publisher.publish("", "nowhere", b"x", mandatory=True)
        self.turn()
        self.failureResultOf(back, Returned)
        self.assertEqual((publisher.returned, publisher.failures), (1, 1))
        again = publisher.publish("", "work", b"x", Properties(type="t"))
        self.turn()
        self.successResultOf(again)
        self.assertEqual(sum(publisher.latency.counts), 3)

    def prove(self, publisher: HandlerPublisher) -> None:
        """
        Have a first message confirmed, before which there is no second.
        """
        proof = publisher.publish("", "work", b"first")
        self.turn()
        self.successResultOf(proof)

    def test_cancelled(self) -> None:
        """
        One that is cancelled is not measured, and the next one is.
        """
        publisher = HandlerPublisher(self.client)
        self.cut()
        waiting = publisher.publish("", "work", b"x")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.passes(10)
        self.assertEqual(sum(publisher.latency.counts), 0)
        sent = publisher.publish("", "work", b"x")
        self.turn()
        self.successResultOf(sent)
        self.assertEqual(sum(publisher.latency.counts), 1)


class ThreadPublisherTests(TestCase):
    """
    Tests for `ThreadPublisher`.
    """

    timeout = 120.0

    async def test_waits(self) -> None:
        """
        It waits in the thread, and raises there.
        """
        from twisted.internet import reactor
        from twisted.internet.threads import deferToThread

        calls: list[tuple[Any, ...]] = []

        class Answering:
            def publish(self, *details: Any, delay: float = 0) -> Deferred[None]:
                calls.append(details)
                if details[2] == b"bad":
                    raise AMQPError("no")
                return succeed(None)

        answering: Any = Answering()
        threads: Any = reactor
        publisher = ThreadPublisher(threads, answering)
        await deferToThread(publisher.publish, "x", "key", b"good")
        with self.assertRaises(AMQPError):
            await deferToThread(publisher.publish, "x", "key", b"bad", None, True)
        self.assertEqual(calls[0], ("x", "key", b"good", None, False))
        self.assertEqual(calls[1], ("x", "key", b"bad", None, True))
