# -*- test-case-name: txamqp091.test.faults.test_service -*-
"""
Accounts of messages, for tests in which everything goes wrong: `Books`.

Each message has a number.  What was confirmed has to be delivered, at least once; what
is delivered again has to say so; and what was acknowledged has to be gone in the end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from txamqp091.endpoint import connect
from txamqp091.errors import AlreadySettled
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service import AMQPClientService, Publisher, Queue, RetryPolicy, Topology
from txamqp091.test.support.integration import RabbitTestCase, until
from txamqp091.wire.properties import Properties

__all__ = [
    "NIGHTLY",
    "PATIENCE",
    "POLICY",
    "PREFETCH",
    "Books",
    "BooksTestCase",
    "Losses",
    "assert_quick",
    "report",
    "size",
]

#: Whether the sizes are those of the night: the one switch for it.
NIGHTLY = bool(os.environ.get("TXAMQP091_NIGHTLY"))

#: Soon, for tests; and so seldom that nobody waits for a machine that is busy.
POLICY = RetryPolicy(initial_delay=0.05, max_delay=1.0, next_address_after=1.0)

#: How long to wait for what must come, in seconds: a guard against waiting for ever.
PATIENCE = 180.0

#: How many deliveries the consumer has at a time.
PREFETCH = 100

#: Kept on the broker's disk.
PERSISTENT = Properties(delivery_mode=2)

#: How many ticks the clock of publishing has in a second.
_TICKS = 50


def size(usual: int, nightly: int) -> int:
    """
    How often to do something: less in each run of the tests than in the night.
    """
    return nightly if NIGHTLY else usual


def assert_quick(test: TestCase, what: str, seconds: float, limit: float) -> None:
    """
    Report how long something took.  Only at night is it held to the limit that a
    criterion sets: elsewhere others use the machine, too.
    """
    report(test.id(), **{what: seconds})
    if NIGHTLY:
        test.assertLessEqual(seconds, limit, what)


def report(test: object, **numbers: object) -> None:
    """
    Add a line to the file that ``TXAMQP091_REPORT`` names, if it does.
    """
    path = os.environ.get("TXAMQP091_REPORT")
    if path:
        shown = (
            f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in numbers.items()
        )
        name = ".".join(str(test).split(".")[-2:])
        with Path(path).open("a") as file:
            file.write(f"{name}: {', '.join(shown)}\n")


class Losses:
    """
    Counts what a service lives through.
    """

    def __init__(self) -> None:
        self.ready_count = 0
        self.lost_for: list[BaseException] = []
        self.reasons: list[BaseException] = []
        self.is_blocked = False

    def observe(self, service: AMQPClientService) -> None:
        """
        Count from now on.
        """
        service.observe(
            ready=self.ready,
            lost=self.lost,
            recovering=self.recovering,
            blocked=self.blocked,
            unblocked=self.unblocked,
        )

    async def when_lost(self, count: int) -> None:
        """
        Wait until so many connections were lost.
        """
        await until(lambda: len(self.lost_for) >= count)

    def ready(self, connection: Any, outcomes: Sequence[Any]) -> None:
        self.ready_count += 1

    def lost(self, reason: BaseException) -> None:
        self.lost_for.append(reason)
        self.is_blocked = False

    def recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        self.reasons.append(reason)

    def blocked(self, reason: str) -> None:
        self.is_blocked = True

    def unblocked(self) -> None:
        self.is_blocked = False


class Books:
    """
    What became of each message of one queue.

    :ivar submitted: how many were given to the publisher.
    :ivar confirmed: those that the broker has taken.
    :ivar failed: why others were not.
    :ivar seen: how often each was delivered.
    :ivar acked: those that were acknowledged.
    :ivar redelivered: how many came once more, as the broker says itself.
    :ivar copies: how many came once more, as they had been published once more.
    :ivar unmarked: those that came once more, and no time said that they might.
    :ivar confirmed_at: when the last confirm came.
    :ivar longest_pause: the longest time between two confirms, in seconds.
    """

    def __init__(self, service: AMQPClientService, queue: Queue) -> None:
        self.service = service
        self.queue = queue
        self.publisher = Publisher(service)
        self.losses = Losses()
        self.losses.observe(service)
        self.submitted = 0
        self.confirmed: set[int] = set()
        self.failed: dict[int, BaseException] = {}
        self.seen: Counter[int] = Counter()
        self.redelivered = 0
        self.copies = 0
        self.unmarked: list[int] = []
        self._marked: set[int] = set()
        self.confirmed_at = monotonic()
        self.longest_pause = 0.0
        self.consumer = service.consume(queue, self.handle, prefetch=PREFETCH)
        self._call: LoopingCall | None = None
        self._most_waiting = 4000

    # -- publishing ----------------------------------------------------------------

    def publish(self, count: int = 1) -> None:
        """
        Publish the next messages.
        """
        for _ in range(count):
            number = self.submitted
            self.submitted += 1
            sent = self.publisher.publish(
                "", self.queue.name, b"%d" % number, PERSISTENT, mandatory=True
            )
            sent.addCallbacks(
                self._is_confirmed,
                self._has_failed,
                callbackArgs=(number,),
                errbackArgs=(number,),
            )

    def _is_confirmed(self, _: None, number: int) -> None:
        self.confirmed.add(number)
        now = monotonic()
        self.longest_pause = max(self.longest_pause, now - self.confirmed_at)
        self.confirmed_at = now

    def _has_failed(self, failure: Failure, number: int) -> None:
        assert failure.value is not None
        self.failed[number] = failure.value

    def begin(self, rate: int = 500) -> None:
        """
        Publish at so many messages per second, unless too many wait.
        """

        def tick(ticks: int) -> None:
            waiting = self.publisher.outstanding
            count = min(ticks, _TICKS) * rate // _TICKS
            self.publish(max(0, min(count, self._most_waiting - waiting)))

        self._call = LoopingCall.withCount(tick)
        self._call.start(1 / _TICKS)

    def stop(self) -> None:
        """
        Publish no more.
        """
        if self._call is not None and self._call.running:
            self._call.stop()

    # -- consuming -------------------------------------------------------------------

    def handle(self, delivery: Delivery) -> None:
        """
        A message came.
        """
        number = int(delivery.body)
        is_copy = "x-republished" in delivery.headers
        if is_copy or delivery.redelivered:
            self._marked.add(number)
        if number in self.seen:
            if delivery.redelivered:
                self.redelivered += 1
            else:
                self.copies += 1
            # A node that was frozen may come with the first copy after the second.
            if number not in self._marked:
                self.unmarked.append(number)
        self.seen[number] += 1
        try:
            delivery.ack()
        except AlreadySettled:  # pragma: no cover
            raise AssertionError(f"{number} was settled by others") from None

    # -- balancing ---------------------------------------------------------------------

    @property
    def duplicates(self) -> int:
        """
        How many deliveries there were too many.
        """
        return sum(self.seen.values()) - len(self.seen)

    @property
    def missing(self) -> set[int]:
        """
        What was confirmed, and not delivered.
        """
        return self.confirmed - self.seen.keys()

    @property
    def is_settled(self) -> bool:
        """
        Whether the fate of all is known, and what was confirmed has come.
        """
        known = len(self.confirmed) + len(self.failed) == self.submitted
        return known and not self.missing

    def when_more_is_confirmed(self, count: int = 100) -> Deferred[None]:
        """
        :returns: fires when so many more messages are confirmed, and delivered.
        """
        confirmed, seen = len(self.confirmed) + count, len(self.seen) + count

        def more() -> bool:
            return len(self.confirmed) >= confirmed and len(self.seen) >= seen

        return Deferred.fromCoroutine(until(more, PATIENCE))


class BooksTestCase(RabbitTestCase):
    """
    A test case with a service that publishes and consumes, and books.
    """

    timeout = 900.0

    def open_books(
        self, where: Any, queue: Queue | None = None, **options: Any
    ) -> Books:
        """
        Start a service, with a publisher and a consumer of one queue.

        :param where: URIs or parameters.
        :param options: what `AMQPClientService` takes.
        """
        from twisted.internet import reactor

        queue = queue or Queue(name=self.queue_name())
        options.setdefault("policy", POLICY)
        service = AMQPClientService(
            reactor, where, topology=Topology.of(queue), **options
        )
        books = Books(service, queue)
        service.startService()
        self.addCleanup(service.stopService)
        self.addCleanup(books.stop)
        return books

    def through(self, port: int, **changes: Any) -> ConnectionParameters:
        """
        Parameters for the node, by way of another port.
        """
        from dataclasses import replace

        parameters = ConnectionParameters.from_uri(self.uri)
        return replace(parameters, port=port, **changes)

    async def look(self, books: Books, uri: str | None = None) -> tuple[int, int]:
        """
        Ask the broker.

        :returns: how many messages are ready in the queue, and how many consumers it
            has.
        """
        from twisted.internet import reactor

        # Not by `connect`, which keeps each connection until the test ends.
        connection = await connect(reactor, uri or self.uri)
        try:
            channel = await connection.open_channel()
            found = await channel.queue_declare(books.queue.name, passive=True)
        finally:
            await connection.close()
        return found.message_count, found.consumer_count

    async def assertBack(self, books: Books, uri: str | None = None) -> None:
        """
        The service is ready, and has exactly one subscription, and messages come.
        """
        await books.service.when_ready()
        await books.consumer.when_subscribed()
        await self.assertSubscriptions(books, 1, uri)

    async def assertSubscriptions(
        self, books: Books, wanted: int, uri: str | None = None
    ) -> None:
        """
        The queue has so many consumers, soon: a broker that was cut off has yet to
        notice that we went.
        """
        deadline = monotonic() + PATIENCE
        while (count := (await self.look(books, uri))[1]) != wanted:
            self.assertLess(monotonic(), deadline, f"{count} subscriptions")

    async def assertBalanced(
        self, books: Books, *, left: int = 0, uri: str | None = None
    ) -> None:
        """
        What was confirmed was delivered; no more was published twice than was in flight
        when a channel ended; and what was acknowledged is gone.

        :param left: how many copies may come when all is over.
        """
        books.stop()
        try:
            await until(lambda: books.is_settled, PATIENCE)
        except AssertionError:
            self.fail(
                f"of {books.submitted} submitted, {len(books.confirmed)} are confirmed,"
                f" {len(books.failed)} failed, {len(books.missing)} are missing:"
                f" {sorted(books.missing)[:1]} to {sorted(books.missing)[-1:]}"
            )
        self.assertEqual(books.failed, {})
        self.assertEqual(books.unmarked, [])
        in_flight = books.publisher.republished
        self.assertLessEqual(books.copies, in_flight)
        await books.service.stopService()
        await self.assertSubscriptions(books, 0, uri)
        deadline = monotonic() + PATIENCE
        # A queue on several nodes may not know yet.
        while (ready := (await self.look(books, uri))[0]) > left:
            self.assertLess(monotonic(), deadline, f"{ready} messages are left")
        report(
            self.id(),
            confirmed=len(books.confirmed),
            in_flight=in_flight,
            copies=books.copies,
            redelivered=books.redelivered,
            connections=books.losses.ready_count,
        )
