# -*- test-case-name: txamqp091.test.test_cluster -*-
"""
A service with a cluster of three nodes, and a quorum queue: nodes are killed, stopped
and frozen under load, and nothing that was confirmed is lost (criterion 16).

Clusters are large.  By default there is one, of the newest RabbitMQ that is here; of
the others in the night.
"""

from __future__ import annotations

import atexit
from time import monotonic
from unittest import SkipTest

from txamqp091.service.backoff import RetryPolicy
from txamqp091.service.topology import Queue, Topology
from txamqp091.test.books import NIGHTLY, BooksTestCase, report, size
from txamqp091.test.chaos import ChaosProxy
from txamqp091.test.cluster import RabbitCluster
from txamqp091.test.installations import Installation, known_brokers
from txamqp091.test.integration import every_broker, in_thread, installed, until
from txamqp091.test.rabbit import RabbitNode

_clusters: dict[Installation, RabbitCluster] = {}


def _newest() -> Installation | None:
    found = [each.installation for each in known_brokers() if each.installation]
    return max(found, key=lambda each: each.number, default=None)


@every_broker
class ClusterTests(BooksTestCase):
    """
    Three nodes.
    """

    timeout = 3600.0 if NIGHTLY else 300.0

    def setUp(self) -> None:
        """
        Have a cluster, which the tests share, each with a queue of its own.
        """
        self.installation = installed(self.broker)
        if not NIGHTLY and self.installation != _newest():
            raise SkipTest("this cluster is for the night: TXAMQP091_NIGHTLY")

    async def open_cluster(self) -> Queue:
        """
        Have all three nodes up, and a quorum queue.
        """
        cluster = _clusters.get(self.installation)
        if cluster is None:
            cluster = RabbitCluster(3, self.installation)
            atexit.register(cluster.stop)
            await in_thread(cluster.start)
            _clusters[self.installation] = cluster
        self.cluster = cluster
        self.addCleanup(self.raise_the_dead)
        queue = Queue(
            name=self.queue_name(),
            arguments={"x-queue-type": "quorum", "x-quorum-initial-group-size": 3},
        )
        connection = await self.connect(self.at(cluster[0]))
        await Topology.of(queue).apply(connection)
        await connection.close()
        return queue

    def at(self, node: RabbitNode) -> str:
        """
        The URI of a node.
        """
        return f"amqp://guest:guest@{node.host}:{node.port}?heartbeat=3"

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

    async def test_leader_killed(self) -> None:
        """
        The leader of the queue is killed under load, again and again: no confirmed
        message is lost, and none is acknowledged and comes again, but for those that
        were on their way (criteria 15, 16).
        """
        queue = await self.open_cluster()
        books = self.open_books([self.at(node) for node in self.cluster], queue)
        books.begin(1000)
        await books.when_more_is_confirmed(500)
        kills = size(3, 10 if self.installation != _newest() else 50)
        in_flight = 0
        pauses: list[float] = []
        for _ in range(kills):
            leader = await in_thread(self.cluster.leader_of, queue.name)
            in_flight += books.publisher.unconfirmed + 100
            books.longest_pause = 0.0
            leader.kill()
            await books.when_more_is_confirmed(1500)
            pauses.append(books.longest_pause)
            await self.raise_the_dead()
        await self.assertBack(books, self.at(self.cluster[0]))
        await self.assertBalanced(books, uri=self.at(self.cluster[0]))
        report(
            self.id(),
            kills=kills,
            pauses=[round(each, 2) for each in pauses],
            in_flight=in_flight,
        )
        self.assertLessEqual(books.acked_again, in_flight)

    async def test_rolling_stop(self) -> None:
        """
        Each node is stopped in order, and started again, under load: nothing that was
        confirmed is lost (criterion 16).
        """
        queue = await self.open_cluster()
        books = self.open_books([self.at(node) for node in self.cluster], queue)
        books.begin(1000)
        await books.when_more_is_confirmed(500)
        pauses: list[float] = []
        for node in self.cluster:
            books.longest_pause = 0.0
            await in_thread(node.terminate)
            await books.when_more_is_confirmed(1500)
            pauses.append(books.longest_pause)
            await self.raise_the_dead()
        await self.assertBack(books, self.at(self.cluster[0]))
        await self.assertBalanced(books, uri=self.at(self.cluster[0]))
        report(self.id(), pauses=[round(each, 2) for each in pauses])

    async def test_leader_frozen(self) -> None:
        """
        The node that leads the queue, and that the service is connected to, freezes for
        twelve seconds: the service goes on with another one within ten (criterion 16).
        """
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
        books = self.open_books([self.at(leader), *elsewhere], queue, policy=policy)
        books.begin(500)
        # A node learns how regularly another one is heard of, before it suspects it.
        await books.when_more_is_confirmed(3000)
        for proxy in proxies:
            proxy.accept()
        books.longest_pause = 0.0
        leader.pause()
        began = monotonic()
        try:
            await until(lambda: books.losses.ready_count == 2, 12)
            ready = monotonic() - began
            confirmed = len(books.confirmed)
            await until(lambda: monotonic() > began + 12, 13)
        finally:
            leader.resume()
        # When there is a new leader is the cluster's business.
        await until(lambda: len(books.confirmed) > confirmed, 60)
        pause = books.longest_pause
        await in_thread(self.cluster.await_members, 3)
        await books.when_more_is_confirmed(100)
        await self.assertBack(books, self.at(leader))
        await self.assertBalanced(books, uri=self.at(leader))
        report(self.id(), ready_after=ready, pause=pause)
        self.assertLessEqual(ready, 10)
