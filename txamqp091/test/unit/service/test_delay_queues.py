# -*- test-case-name: txamqp091.test.unit.service.test_delay_queues -*-
"""
Tests for `txamqp091.service.delay_queues`: the levels, the routes and the headers.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue
from txamqp091.message import Delivery
from txamqp091.service.delay_queues import (
    LEVELS,
    MAX_DELAY,
    DelayQueues,
    delay_seconds,
)
from txamqp091.service.topology import Binding, Exchange, Queue, Topology
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


class LadderTests(ServiceCase):
    """
    Messages on their way, by the clock.
    """

    def setUp(self) -> None:
        super().setUp()
        self.queues = DelayQueues()
        topology = Topology.of(
            Exchange(name="shop.eu", type="topic"),
            Queue(name="orders", arguments=quorum_queue()),
            Binding(source="shop.eu", queue="orders", routing_key="order.*"),
            *self.queues.entities(),
            self.queues.destination("shop.eu", ""),
            self.queues.destination("", "orders"),
        )
        self.client = self.service(topology=topology)
        self.assertReady(self.client)
        self.arrived: list[tuple[float, Delivery]] = []

        def note(delivery: Delivery) -> None:
            self.arrived.append((self.clock.seconds() - self.began, delivery))
            delivery.ack()

        self.client.consume("orders", note)
        self.turn()
        self.began = self.clock.seconds()

    def send(self, exchange: str, routing_key: str, delay: int, **more: Any) -> None:
        """
        Publish with a delay.
        """
        connection = self.client.connection
        assert connection is not None
        channel = self.successResultOf(self.opened(connection))
        headers = self.queues.headers(
            more.pop("headers", {}), exchange, routing_key, delay
        )
        sent = channel.basic_publish(
            self.queues.entry(delay),
            routing_key,
            b"body",
            Properties(headers=headers, **more),
            mandatory=True,
        )
        self.turn()
        self.successResultOf(sent)

    def opened(self, connection: Any) -> Any:
        """
        A channel in confirm mode.
        """

        async def steps() -> Any:
            channel = await connection.open_channel()
            await channel.confirm_select()
            return channel

        opening = Deferred.fromCoroutine(steps())
        self.turn()
        return opening

    def test_exact(self) -> None:
        """
        Each message arrives at its second, whatever waits beside it, with the routing
        key that it was published with.
        """
        delays = [1, 2, 3, 5, 8, 21, 63, 64, 100]
        for delay in reversed(delays):
            self.send("shop.eu", "order.new", delay)
        self.passes(101)
        self.assertEqual([round(when) for when, _ in self.arrived], delays)
        for _, delivery in self.arrived:
            self.assertEqual(delivery.routing_key, "order.new")

    def test_to_a_queue(self) -> None:
        """
        The default exchange leads to the queue that the routing key names.
        """
        self.send("", "orders", 7)
        self.passes(8)
        ((when, delivery),) = self.arrived
        self.assertEqual((round(when), delivery.routing_key), (7, "orders"))

    def test_years(self) -> None:
        """
        A delay of years is exact, too, while no client is there.
        """
        delay = 3 * YEAR + 12345
        self.send("", "orders", delay)
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
        self.send("", "orders", 3)
        self.passes(4)
        ((_, first),) = self.arrived
        self.send("", "orders", 3, headers=first.headers)
        self.passes(4)
        self.assertEqual([round(when) for when, _ in self.arrived], [3, 7])
