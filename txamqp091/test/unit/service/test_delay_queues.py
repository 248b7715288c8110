# -*- test-case-name: txamqp091.test.unit.service.test_delay_queues -*-
"""
Tests for `txamqp091.service.delay_queues`: the levels, the routes and the headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue
from txamqp091.errors import NotFound, PublisherFull
from txamqp091.message import Delivery
from txamqp091.service.delay_queues import (
    LEVELS,
    MAX_DELAY,
    DelayQueues,
    delay_seconds,
)
from txamqp091.service.entities import Binding, Exchange, Queue
from txamqp091.service.publisher import Publisher
from txamqp091.service.topology import Topology
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.wire.properties import Properties

YEAR = 365 * 24 * 3600


class DelayTests(SynchronousTestCase):
    """
    What a delay may be.
    """

    def test_rounded_up(self) -> None:
        """
        A fraction of a second becomes a whole one: no message is early.
        """
        self.assertEqual(
            [delay_seconds(each) for each in (0, 1, 1.01, 2.0)], [0, 1, 2, 2]
        )

    def test_refused(self) -> None:
        """
        A delay is a number from 0 to the longest.
        """
        self.assertEqual(delay_seconds(MAX_DELAY), 2**LEVELS - 1)
        for wrong in (-1, MAX_DELAY + 1, float("nan"), float("inf")):
            self.assertRaises(ValueError, delay_seconds, wrong)
        for kind in ("5", None, True):
            self.assertRaises(TypeError, delay_seconds, kind)


class RouteTests(SynchronousTestCase):
    """
    Headers and bindings, as data.
    """

    def test_few_queues(self) -> None:
        """
        There are 28 queues, whatever the delays, and none can lose a message.
        """
        queues = [each for each in DelayQueues().entities() if isinstance(each, Queue)]
        self.assertEqual(len(queues), 28)
        for each in queues:
            self.assertEqual(each.arguments["x-dead-letter-strategy"], "at-least-once")
            self.assertEqual(each.arguments["x-overflow"], "reject-publish")

    def test_headers(self) -> None:
        """
        The way is added to ``CC``; the way of an earlier delay, and the broker's notes
        of earlier deaths, are left out; other headers stay.
        """
        queues = DelayQueues()
        first = queues.headers({"CC": ["audit"], "a": 1}, "shop", "new", 5)
        self.assertEqual(first["CC"][0], "audit")
        noted = {**first, "x-death": [], "x-first-death-queue": "q", "x-deathly": 1}
        second = queues.headers(noted, "shop", "new", 6)
        self.assertEqual(sorted(second), ["CC", "a", "x-deathly"])
        self.assertEqual(len(second["CC"]), 2)
        self.assertNotEqual(first["CC"][1], second["CC"][1])
        self.assertRaises(TypeError, queues.headers, {"CC": "one"}, "", "q", 1)

    def test_destinations(self) -> None:
        """
        Destinations are told apart, also those with dots, wildcards and long names.
        """
        queues = DelayQueues()
        places = [("", "a"), ("a", ""), ("b.a", ""), ("#", ""), ("", "%23"), ("", "a#")]
        places += [("é" * 127, ""), ("", "é" * 127)]
        keys = [queues.destination(*each).routing_key for each in places]
        self.assertEqual(len(set(keys)), len(places))
        for key in keys:
            self.assertLessEqual(len(key.encode()), 255)
            self.assertNotRegex(key[2:], r"[.*#]")


class DelayCase(ServiceCase):
    """
    A service with a queue, an exchange, and a consumer that notes when messages come.
    """

    def setUp(self) -> None:
        super().setUp()
        self.client = self.service(
            topology=Topology.of(
                Exchange(name="shop.eu", type="topic"),
                Queue(name="orders", arguments=quorum_queue()),
                Binding(source="shop.eu", queue="orders", routing_key="order.*"),
            )
        )
        self.assertReady(self.client)
        self.publisher = Publisher(self.client)
        self.arrived: list[tuple[int, Delivery]] = []
        self.client.consume("orders", self.note)
        self.turn()

    def note(self, delivery: Delivery) -> None:
        """
        Handle a message.
        """
        self.arrived.append((round(self.clock.seconds()), delivery))
        delivery.ack()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        delay: float,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Publish with a delay, and get the confirm.
        """
        sent = self.publisher.publish(
            exchange,
            routing_key,
            b"body",
            Properties(headers=headers or {}, delivery_mode=2),
            delay=delay,
        )
        self.turn(200)
        self.assertIsNone(self.successResultOf(sent))


class DelayedTests(DelayCase):
    """
    Messages on their way, by the clock.
    """

    def test_exact(self) -> None:
        """
        Each message arrives at its second, whatever waits beside it, with the routing
        key that it was published with.
        """
        delays = [1, 2, 3, 5, 8, 21, 63, 64, 100]
        for delay in reversed(delays):
            self.publish("shop.eu", "order.new", delay)
        self.passes(101)
        self.assertEqual([when for when, _ in self.arrived], delays)
        for _, delivery in self.arrived:
            self.assertEqual(delivery.routing_key, "order.new")

    def test_to_a_queue(self) -> None:
        """
        The default exchange leads to the queue that the routing key names.
        """
        self.publish("", "orders", 6.5)
        self.passes(8)
        ((when, delivery),) = self.arrived
        self.assertEqual((when, delivery.routing_key), (7, "orders"))

    def test_years(self) -> None:
        """
        A delay of years is exact, too, while no client is there.
        """
        delay = 3 * YEAR + 12345
        self.publish("", "orders", delay)
        due = self.clock.seconds() + delay
        self.client.stopService()
        self.passes(1)
        while self.clock.getDelayedCalls():
            times = [each.getTime() for each in self.clock.getDelayedCalls()]
            self.clock.advance(max(min(times) - self.clock.seconds(), 0))
        self.assertAlmostEqual(self.clock.seconds(), due, places=3)
        self.client.startService()
        self.turn()
        self.assertEqual([each.body for _, each in self.arrived], [b"body"])

    def test_delayed_again(self) -> None:
        """
        What was delayed before, and is published with the headers that it came with,
        is delayed again.
        """
        self.publish("", "orders", 3)
        self.passes(4)
        ((_, first),) = self.arrived
        self.publish("", "orders", 3, headers=first.headers)
        self.passes(4)
        self.assertEqual([when for when, _ in self.arrived], [3, 7])

    def test_not_connected(self) -> None:
        """
        What is published while there is no connection waits, and its delay begins when
        the broker takes it.
        """
        self.endpoint.refusing = True
        self.cut()
        sent = self.publisher.publish("", "orders", b"later", delay=5)
        self.passes(3)
        self.assertNoResult(sent)
        self.endpoint.refusing = False
        self.passes(10)
        self.assertIsNone(self.successResultOf(sent))
        self.passes(6)
        self.assertEqual([each.body for _, each in self.arrived], [b"later"])

    def test_reconnected(self) -> None:
        """
        After a reconnect the next delayed message goes the same way.
        """
        self.publish("", "orders", 1)
        self.cut()
        self.passes(10)
        self.publish("", "orders", 2)
        self.passes(3)
        self.assertEqual(len(self.arrived), 2)

    def test_declared_once(self) -> None:
        """
        Many messages wait for one declaration, also if the connection is lost
        meanwhile.
        """
        self.endpoint.delay = 0.01
        self.cut()
        self.passes(5)
        publisher = Publisher(self.client)
        sent = [publisher.publish("", "orders", b"", delay=1) for _ in range(300)]
        self.clock.advance(0.015)
        self.endpoint.delay = 0.0
        self.cut()
        self.passes(20)
        for each in sent:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(len(self.arrived), 300)

    def test_removed(self) -> None:
        """
        If the delay queues are removed while a program runs, it declares all of them
        again for the next message.
        """
        self.publish("", "orders", 1)
        self.passes(2)
        parts = DelayQueues()
        removing = self.service()
        self.assertReady(removing)
        assert removing.connection is not None
        topology = Topology.of(*parts.exchanges, *parts.queues, parts.out)
        removed = topology.delete(removing.connection)
        self.turn(200)
        self.successResultOf(removed)
        self.assertEqual(self.broker.queues(), ["orders"])
        sent = self.publisher.publish("", "orders", b"again", delay=5)
        self.passes(20)
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(self.arrived[-1][1].body, b"again")

    def test_no_destination(self) -> None:
        """
        A destination that does not exist is told at once, and the service stays ready.
        """
        sent = self.publisher.publish("nowhere", "key", b"", delay=5)
        self.turn(200)
        self.failureResultOf(sent, NotFound)
        self.passes(1)
        self.assertReady(self.client)
        self.publish("", "orders", 1)
        self.passes(2)
        self.assertEqual(len(self.arrived), 1)

    def test_refused(self) -> None:
        """
        A wrong delay, body or header fails the Deferred; nothing is raised.
        """
        for arguments, error in (
            (("", "orders", b"", None), ValueError),
            (("", "orders", 5, None), TypeError),
            (("", "orders", b"", "no"), TypeError),
            (("", "orders", b"", Properties(headers={"CC": "no"})), TypeError),
        ):
            delay = -1 if error is ValueError else 1
            sent = self.publisher.publish(*arguments, delay=delay)
            self.failureResultOf(sent, error)

    def test_too_many(self) -> None:
        """
        Messages that wait for the delay queues are limited, too.
        """
        publisher = Publisher(self.client, limit=2)
        sent = [publisher.publish("", "orders", b"", delay=1) for _ in range(3)]
        self.failureResultOf(sent[2], PublisherFull)
        self.turn(200)
        for each in sent[:2]:
            self.successResultOf(each)

    def test_cancelled(self) -> None:
        """
        A message that is cancelled before the queues are declared is not sent.
        """
        sent = self.publisher.publish("", "orders", b"", delay=1)
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.passes(3)
        self.assertEqual(self.arrived, [])
