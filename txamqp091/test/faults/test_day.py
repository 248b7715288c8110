# -*- test-case-name: txamqp091.test.faults.test_day -*-
"""
Long lives in memory, by a ``Clock``: a day of a service, and a thousand reconnects
(criteria 17, 18).  What a service has made for one connection must be gone with it.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.message import Delivery
from txamqp091.service import Binding, Exchange, Publisher, Queue, Topology
from txamqp091.test.support.books import report
from txamqp091.test.support.integration import resident
from txamqp091.test.support.service_case import Events, Inbox, ServiceCase

WORK = Queue(name="work")
REPLIES = Queue(exclusive=True, label="replies")
NEWS = Exchange(name="news", type="fanout")
TOPOLOGY = Topology.of(WORK, REPLIES, NEWS, Binding(source=NEWS, queue=REPLIES))

_MINUTE = 60.0


class _Census:
    """
    How many objects there are, of ours and of all kinds.
    """

    def __init__(self) -> None:
        gc.collect()
        objects = gc.get_objects()
        self.total = len(objects)
        self.ours = Counter(
            kind.__name__
            for kind in map(type, objects)
            if str(kind.__module__).startswith(("txamqp091.", "twisted.internet."))
            and kind is not _Census
        )
        self.files = len(os.listdir("/proc/self/fd"))
        self.memory = resident()

    def more_than(self, other: _Census) -> dict[str, int]:
        """
        Of which kinds there are more than there were.
        """
        return dict(self.ours - other.ours)


class LifeCase(ServiceCase):
    """
    A service that does a bit of everything.
    """

    def begin(self) -> None:
        """
        Start it.
        """
        self.inbox = Inbox()
        self.client = self.service(topology=TOPOLOGY)
        self.publisher = Publisher(self.client)
        self.consumer = self.client.consume(WORK, self.handle)
        self.client.consume(REPLIES, self.handle)
        self.turn()
        self.held: list[Delivery] = []
        self.holds = False
        self.redelivered = self.handled = 0
        self.broker.published.clear()

    def handle(self, delivery: Delivery) -> None:
        """
        Take a message: acknowledge it, or hold it.
        """
        self.handled += 1
        self.redelivered += delivery.redelivered
        if self.holds:
            self.held.append(delivery)
        else:
            delivery.ack()

    def publish(self, count: int = 1) -> None:
        """
        Publish some, and to the fanout.
        """
        for _ in range(count):
            self.publisher.publish("", "work", b"x").addErrback(self.errors.append)
            self.publisher.publish("news", "", b"y").addErrback(self.errors.append)

    def setUp(self) -> None:
        """
        Have nothing wrong yet.
        """
        super().setUp()
        self.errors: list[object] = []

    def forget(self) -> None:
        """
        Forget what only the test has kept.
        """
        del self.endpoint.links[:-1]
        self.broker.published.clear()

    def settle(self, deferred: Deferred[Any]) -> None:
        """
        See that something succeeds.
        """
        self.turn()
        self.successResultOf(deferred)

    def reconnect(self) -> None:
        """
        Cut the connection, and see that all is there again, once.
        """
        self.cut()
        self.passes(10, 1.0)
        self.assertReady(self.client)
        self.assertTrue(self.consumer.is_subscribed)
        self.assertEqual(self.broker.queue("work").consumers, 1)
        self.assertEqual(len(self.broker.sessions), 1)
        self.forget()

    def assertFlat(self, before: _Census, after: _Census) -> None:
        """
        Nothing has grown.
        """
        self.assertEqual(after.more_than(before), {})
        self.assertEqual(after.files, before.files)
        self.assertLessEqual(after.total, before.total * 1.01)
        self.assertLessEqual(after.memory - before.memory, 2 << 20)


class DayTests(LifeCase):
    """
    A day, in which something happens every few minutes.
    """

    def test_day(self) -> None:
        """
        After 24 hours of reconnects, blocked phases, deleted queues, closed channels
        and new secrets, there is no object more than after the first quarter (criterion
        18).
        """
        self.begin()
        before = None
        for hour in range(24):
            # Until somebody reads the log, Twisted keeps the last entries, and with
            # those the consumers that they are about.
            if hour == 6:
                before = _Census()
            self.an_hour()
        after = _Census()
        assert before is not None
        self.assertEqual(self.errors, [])
        self.assertEqual(self.publisher.outstanding, 0)
        self.assertEqual(len(self.broker.queue("work").messages), 0)
        report(self.id(), handled=self.handled, objects=after.total - before.total)
        self.assertFlat(before, after)

    def an_hour(self) -> None:
        """
        An hour of such a life.
        """
        events = Events()
        forget = events.observe(self.client)
        for minute in range(60):
            self.publish(2)
            if minute % 10 == 5:
                self.reconnect()
            elif minute % 10 == 7:
                self.blocked_phase()
            elif minute == 20:
                self.broker.delete_queue("work")
            elif minute == 40:
                self.broker.close_channels()
            elif minute % 30 == 0:
                connection = self.client.connection
                assert connection is not None
                self.settle(connection.update_secret("guest"))
            self.passes(_MINUTE, 10.0)
        forget()
        self.assertEqual(events.names.count("ready"), 6)
        self.assertEqual(events.names.count("blocked"), 6)

    def blocked_phase(self) -> None:
        """
        The broker is short of memory for half a minute.
        """
        self.broker.block()
        self.turn()
        self.publish(5)
        self.passes(_MINUTE / 2, 10.0)
        self.assertGreaterEqual(self.publisher.outstanding, 10)
        self.broker.unblock()
        self.turn()
        self.assertEqual(self.publisher.outstanding, 0)


class ReconnectTests(LifeCase):
    """
    Reconnects, one after the other.
    """

    def test_reconnects(self) -> None:
        """
        After each forced reconnect there is one subscription; what was deleted and
        cancelled stays so, and nothing grows (criterion 18).
        """
        self.begin()
        gone = Queue(name="gone")
        self.settle(self.client.declare(gone))
        cancelled = self.client.consume("gone", self.handle)
        self.turn()
        cancelled.cancel()
        self.turn()
        self.settle(self.client.delete(gone))
        for _ in range(20):
            self.publish()
            self.reconnect()
        before = _Census()
        reconnects = 1000
        for _ in range(reconnects):
            self.publish()
            self.reconnect()
        after = _Census()
        self.assertEqual(self.errors, [])
        self.assertNotIn("gone", self.broker.queues())
        report(
            self.id(),
            reconnects=reconnects,
            objects=after.total - before.total,
            kilobytes=(after.memory - before.memory) // 1024,
        )
        self.assertFlat(before, after)

    def test_stale_acks(self) -> None:
        """
        Deliveries that are held across reconnects, and acknowledged then, harm no
        channel, and come again, marked (criterion 17).
        """
        self.begin()
        reconnects = 1000
        self.publish(10)
        self.turn()
        self.holds = True
        self.publish(10)
        self.turn()
        self.redelivered = 0
        for _ in range(reconnects):
            self.reconnect()
            stale, self.held = self.held[:-10], self.held[-10:]
            for delivery in stale:
                delivery.ack()
            self.turn()
            self.assertEqual(len(self.held), 10)
        channel = self.consumer.channel
        self.assertEqual(self.redelivered, 10 * reconnects)
        self.assertEqual(channel.stale, 10 * reconnects)
        # None was closed by the broker: each has ended with its connection.
        self.assertEqual(channel.opened, reconnects + 1)
        report(self.id(), reconnects=reconnects, stale=channel.stale)
        for delivery in self.held:
            delivery.ack()
        self.turn()
        self.assertEqual(len(self.broker.queue("work").messages), 0)
