# -*- test-case-name: txamqp091.test.faults.test_cluster -*-
"""
A service with a cluster of three nodes, and a quorum queue: nodes are killed, stopped
and frozen under load, and nothing that was confirmed is lost (criteria 14 and 16).

Clusters are large: there is one at a time; and some of it, with all but the newest
RabbitMQ that is here, is for the night.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TypeVar
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txamqp091.errors import Nacked
from txamqp091.service import AMQPClientService, Publisher, Queue, RetryPolicy, Topology
from txamqp091.test.support.books import (
    NIGHTLY,
    PATIENCE,
    POLICY,
    PREFETCH,
    Books,
    BooksTestCase,
    assert_quick,
    report,
    size,
)
from txamqp091.test.support.chaos import ChaosProxy
from txamqp091.test.support.cluster import RabbitCluster
from txamqp091.test.support.installations import Installation, known_brokers
from txamqp091.test.support.integration import (
    every_broker,
    in_thread,
    installed,
    outcomes,
    until,
)
from txamqp091.test.support.rabbit import RabbitNode

T = TypeVar("T")

_clusters: dict[Installation, RabbitCluster] = {}


def _newest() -> Installation | None:
    found = [each.installation for each in known_brokers() if each.installation]
    return max(found, key=lambda each: each.number, default=None)


def _shared_cluster(installation: Installation) -> RabbitCluster:
    """
    The cluster that tests share; that of another RabbitMQ is stopped.
    """
    cluster = _clusters.get(installation)
    if cluster is None:
        while _clusters:
            _, other = _clusters.popitem()
            atexit.unregister(other.stop)
            other.stop()
        cluster = RabbitCluster(3, installation)
        atexit.register(cluster.stop)
        cluster.start()
        _clusters[installation] = cluster
    return cluster


@every_broker
class ClusterTests(BooksTestCase):
    """
    Three nodes.
    """

    timeout = 7200.0 if NIGHTLY else 1200.0

    def setUp(self) -> None:
        """
        Know of which RabbitMQ the cluster is to be; each test has a queue of its own.
        """
        self.installation = installed(self.broker)

    def for_the_night(self) -> None:
        """
        This is for the newest RabbitMQ, or for the night.
        """
        if not NIGHTLY and self.installation != _newest():
            raise SkipTest("this cluster is for the night: TXAMQP091_NIGHTLY")

    async def open_cluster(self) -> Queue:
        """
        Have all three nodes up, and a quorum queue.
        """
        self.cluster = await in_thread(_shared_cluster, self.installation)
        self.addCleanup(self.raise_the_dead)
        queue = Queue(
            name=self.queue_name(),
            arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": 3},
        )
        connection = await self.connect(self.at(self.cluster[0]))
        await Topology.of(queue).apply(connection)
        await connection.close()
        return queue

    def at(self, node: RabbitNode, heartbeat: int = 10) -> str:
        """
        The URI of a node.
        """
        return f"amqp://guest:guest@{node.host}:{node.port}?heartbeat={heartbeat}"

    async def raise_the_dead(self) -> None:
        """
        Have all nodes up again.
        """
        for node in self.cluster:
            if node.paused:
                node.resume()
        for node in self.cluster:
            if not node.running:
                await in_thread(node.start)
        await in_thread(self.cluster.await_members, 3)

    async def begin(self) -> Books:
        """
        Have books of a service that knows all nodes, and load.
        """
        queue = await self.open_cluster()
        books = self.open_books([self.at(node) for node in self.cluster], queue)
        books.begin(1000)
        await books.when_more_is_confirmed(500)
        return books

    async def balance(self, books: Books, pauses: list[float]) -> None:
        """
        The service is back, the books balance, and no more was redelivered than the
        consumer had: it gets no more before the queue knows what was acknowledged.
        """
        await self.assertBack(books, self.at(self.cluster[0]))
        await self.assertBalanced(books, uri=self.at(self.cluster[0]))
        report(self.id(), pauses=[round(each, 2) for each in pauses])
        ends = len(pauses) + len(books.losses.lost_for)
        self.assertLessEqual(books.redelivered, PREFETCH * ends)
        assert_quick(self, "longest_pause", max(pauses), 2.0)

    async def test_leader_killed(self) -> None:
        """
        The leader of the queue is killed under load, again and again: no confirmed
        message is lost, and none is acknowledged and comes again, but for those that
        were on their way (criterion 16).
        """
        books = await self.begin()
        pauses: list[float] = []
        usual = 10 if self.installation == _newest() else 3
        for _ in range(size(usual, 50)):
            leader = await in_thread(self.cluster.leader_of, books.queue.name)
            books.longest_pause = 0.0
            leader.kill()
            await books.when_more_is_confirmed(1500)
            pauses.append(books.longest_pause)
            await self.raise_the_dead()
            await in_thread(self.cluster.await_in_step, books.queue.name)
        await self.balance(books, pauses)

    async def test_rolling_stop(self) -> None:
        """
        Each node is stopped in order, and started again, under load: nothing that was
        confirmed is lost (criterion 16).
        """
        self.for_the_night()
        books = await self.begin()
        pauses: list[float] = []
        for node in self.cluster:
            books.longest_pause = 0.0
            await in_thread(node.terminate)
            await books.when_more_is_confirmed(1500)
            pauses.append(books.longest_pause)
            await self.raise_the_dead()
            await in_thread(self.cluster.await_in_step, books.queue.name)
        await self.balance(books, pauses)

    async def test_leader_frozen(self) -> None:
        """
        The node that leads the queue, and that the service is connected to, freezes for
        twelve seconds: the service goes on with another one within ten (criterion 16).
        """
        self.for_the_night()
        queue = await self.open_cluster()
        leader = await in_thread(self.cluster.leader_of, queue.name)
        proxies: list[ChaosProxy] = []
        for node in self.cluster:
            if node is not leader:
                proxies.append(self.proxy(node.port))
                proxies[-1].refuse()
        elsewhere = [
            f"amqp://guest:guest@127.0.0.1:{proxy.port}?heartbeat=3"
            for proxy in proxies
        ]
        policy = RetryPolicy(
            initial_delay=0.05, max_delay=1.0, next_address_after=1.0, jitter=0.0
        )
        books = self.open_books(
            [self.at(leader, heartbeat=3), *elsewhere], queue, policy=policy
        )
        books.begin(500)
        # A node learns how regularly another one is heard of, before it suspects it.
        await books.when_more_is_confirmed(3000)
        for proxy in proxies:
            proxy.accept()
        lost, ready = len(books.losses.lost_for), books.losses.ready_count
        leader.pause()
        began = monotonic()
        try:
            await until(lambda: len(books.losses.lost_for) > lost)
            # What was on its way when the leader froze has been read by now.
            confirmed = len(books.confirmed)
            await until(lambda: books.losses.ready_count > ready)
            ready_after = monotonic() - began
            # When there is a new leader is the cluster's business.
            await until(
                lambda: len(books.confirmed) > confirmed or monotonic() > began + 12
            )
        finally:
            leader.resume()
        await until(lambda: len(books.confirmed) > confirmed, PATIENCE)
        confirmed_after = monotonic() - began
        await in_thread(self.cluster.await_members, 3)
        await books.when_more_is_confirmed(100)
        await self.assertBack(books, self.at(leader))
        # Of what was stuck in a channel that was given up, there may be copies later.
        await self.assertBalanced(
            books, left=books.publisher.republished, uri=self.at(leader)
        )
        assert_quick(self, "ready_after", ready_after, 10.0)
        assert_quick(self, "confirmed_after", confirmed_after, 10.0)

    # -- criterion 14 ------------------------------------------------------------------

    async def test_beginners(self) -> None:
        """
        Who publishes for the first time while there is no leader is nacked by RabbitMQ
        3.10, for ever; our publishers get through, within two seconds (criterion 14).
        """
        if self.installation.number >= (3, 11):
            raise SkipTest("this is about RabbitMQ 3.10")
        queue = await self.open_cluster()
        leader = await in_thread(self.cluster.leader_of, queue.name)
        other = next(node for node in self.cluster if node is not leader)
        service = self.open_service(self.at(other))
        connection = await service.when_ready()
        channels = [await connection.open_channel() for _ in range(20)]
        for channel in channels:
            await channel.confirm_select()
        publishers = [Publisher(service, on_loss="fail") for _ in range(20)]
        killing = in_thread(leader.kill)
        raw = self.one_after_the_other(
            [partial(each.basic_publish, "", queue.name, "") for each in channels]
        )
        ours = self.one_after_the_other(
            [partial(self.timed, each, queue.name) for each in publishers]
        )
        results = await outcomes(await raw)
        times = [await each for each in await ours]
        await killing
        nacked = [
            channel
            for channel, result in zip(channels, results, strict=True)
            if isinstance(result, Nacked)
        ]
        # As bad as it is said to be, if any began at the wrong moment.
        again = await outcomes(
            [each.basic_publish("", queue.name, "") for each in nacked]
        )
        still = sum(isinstance(each, Nacked) for each in again)
        report(self.id(), nacked=len(nacked), still_nacked=still)
        assert_quick(self, "longest", max(times), 2.0)

    def open_service(self, where: str) -> AMQPClientService:
        """
        A service without books.
        """
        from twisted.internet import reactor

        service = AMQPClientService(reactor, where, policy=POLICY)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def one_after_the_other(
        self, steps: Sequence[Callable[[], Deferred[T]]]
    ) -> Deferred[list[Deferred[T]]]:
        """
        Do many things in half a second, without waiting for their results.
        """
        from twisted.internet import reactor

        async def do_them() -> list[Deferred[T]]:
            results = []
            for step in steps:
                results.append(step())
                await deferLater(reactor, 0.025)
            return results

        return Deferred.fromCoroutine(do_them())

    def timed(self, publisher: Publisher, queue: str) -> Deferred[float]:
        """
        Publish, and tell how many seconds it took.
        """
        began = monotonic()
        published = publisher.publish("", queue, "")
        return published.addCallback(lambda _: monotonic() - began)
