# -*- test-case-name: txamqp091.test.faults.test_scale -*-
"""
Many, on RabbitMQ: reconnects of one service, and idle connections at once (criteria 17,
18, 23).
"""

from __future__ import annotations

import gc
import os
import resource
import tracemalloc
from dataclasses import replace
from time import monotonic, process_time
from unittest import SkipTest

from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from txamqp091.endpoint import connect
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service import Queue, RetryPolicy
from txamqp091.test.support.books import NIGHTLY, Books, BooksTestCase, report, size
from txamqp091.test.support.chaos import ChaosProxy
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    resident,
    until,
)

#: As if no connection had ever been lost before.
SOON = RetryPolicy(initial_delay=0.02, max_delay=0.05)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@every_broker
class ReconnectTests(BooksTestCase):
    """
    One connection after the other.
    """

    timeout = 1200.0

    async def test_reconnects(self) -> None:
        """
        After each reset there is one subscription; memory, objects and open files do
        not grow (criterion 18).
        """
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port), policy=SOON)
        await books.consumer.when_subscribed()
        # Twisted keeps some 200 entries of a log that nobody reads.
        for _ in range(30):
            await self.reset(books, proxy)
        gc.collect()
        files, memory, objects = _open_files(), resident(), len(gc.get_objects())
        reconnects = size(30, 1000)
        for _ in range(reconnects):
            await self.reset(books, proxy)
        gc.collect()
        grown = resident() - memory
        report(
            self.id(),
            reconnects=reconnects,
            kilobytes=grown // 1024,
            objects=len(gc.get_objects()) - objects,
        )
        # The other ends of the last ones may take a moment.
        await until(lambda: _open_files() <= files)
        # A few reconnects are no measure of a small growth.
        self.assertLessEqual(grown, size(8, 2) << 20)
        self.assertLessEqual(len(gc.get_objects()), objects * 1.01)
        await self.assertBalanced(books)

    async def reset(self, books: Books, proxy: ChaosProxy) -> None:
        """
        Reset the connection, and wait until a message has come by the next one.
        """
        lost = len(books.losses.lost_for)
        proxy.reset()
        await books.losses.when_lost(lost + 1)
        books.losses.lost_for.clear()
        books.losses.reasons.clear()
        await books.service.when_ready()
        await books.consumer.when_subscribed()
        seen = len(books.seen)
        books.publish()
        await until(lambda: len(books.seen) > seen)
        await self.assertSubscriptions(books, 1)

    async def test_held_deliveries(self) -> None:
        """
        Deliveries that are held across resets, and acknowledged then, close no channel
        (criterion 17).
        """
        proxy = self.proxy()
        queue = Queue(name=self.queue_name())
        books = self.open_books(self.through(proxy.port), queue, policy=SOON)
        held: list[Delivery] = []
        other = Queue(name=self.queue_name())
        consumer = books.service.consume(other, held.append)
        await consumer.when_subscribed()
        for _ in range(10):
            await books.publisher.publish("", other.name, b"held")
        reconnects = size(30, 1000)
        for number in range(reconnects):
            await until(lambda: len(held) == 10)
            self.assertEqual({each.redelivered for each in held}, {number > 0})
            stale = list(held)
            held.clear()
            proxy.reset()
            await books.losses.when_lost(number + 1)
            await consumer.when_subscribed()
            for delivery in stale:
                delivery.ack()
        await until(lambda: len(held) == 10)
        self.assertEqual(consumer.channel.stale, 10 * reconnects)
        self.assertEqual(consumer.channel.opened, reconnects + 1)
        for delivery in held:
            delivery.ack()
        report(self.id(), reconnects=reconnects, stale=consumer.channel.stale)
        await self.assertBalanced(books)


@every_broker
class IdleTests(RabbitTestCase):
    """
    Many connections at once.
    """

    timeout = 600.0

    def allow_files(self, count: int) -> None:
        """
        Be allowed to open so many files, for the rest of the test.

        :raises SkipTest: the system does not allow it.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < count:
            raise SkipTest(f"no more than {hard} files may be open")
        if soft != resource.RLIM_INFINITY and soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    async def test_idle_connections(self) -> None:
        """
        An idle connection takes 25 kB at the most; in the night, ten thousand take 5 %
        of a processor's time for their heartbeats (criterion 23).
        """
        from twisted.internet import reactor

        count = size(1000, 10_000)
        self.allow_files(2 * count)
        parameters = ConnectionParameters.from_uri(self.uri)
        if NIGHTLY:  # the other node may be allowed as many files as we were before
            node = await self.private_node()
            parameters = replace(parameters, port=node.port, virtual_host="/")
        # What the first one imports is not the others' doing.
        await self.connect()
        gc.collect()
        # What was freed before is used again, and is not seen in what is resident.
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)  # which may be done twice
        before, began = resident(), monotonic()
        connections = []
        for _ in range(count // 50):
            some = [connect(reactor, parameters) for _ in range(50)]
            connections += await gatherResults(some)
        seconds = monotonic() - began
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] / count
        grown = (resident() - before) / count
        tracemalloc.stop()
        load = await self.load(60) if NIGHTLY else 0.0
        self.assertTrue(all(connection.is_open for connection in connections))
        await gatherResults([connection.close() for connection in connections])
        report(
            self.id(),
            connections=count,
            seconds=seconds,
            allocated_kilobytes=traced / 1000,
            resident_kilobytes=grown / 1000,
            idle_percent_of_a_processor=100 * load,
        )
        self.assertLessEqual(traced, 25_000)
        self.assertLessEqual(load, 0.05)

    async def load(self, seconds: float) -> float:
        """
        How much of a processor's time this process takes.
        """
        from twisted.internet import reactor

        began, used = monotonic(), process_time()
        await deferLater(reactor, seconds)
        return (process_time() - used) / (monotonic() - began)
