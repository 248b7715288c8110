# -*- test-case-name: txamqp091.test.test_rabbitmq_publisher_cluster -*-
"""
The reliable publisher on a RabbitMQ cluster of three nodes, whose leaders are killed
(criteria 14 and 16).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txamqp091.arguments import quorum_queue
from txamqp091.channel import Channel
from txamqp091.errors import Nacked
from txamqp091.message import Delivery
from txamqp091.service.publisher import Publisher
from txamqp091.service.topology import Queue, Topology
from txamqp091.test.cluster import RabbitCluster
from txamqp091.test.integration import every_broker, in_thread, outcomes, until
from txamqp091.test.rabbit import RabbitNode
from txamqp091.test.test_rabbitmq_publisher import (
    Load,
    PublisherTestCase,
    the_reactor,
)

T = TypeVar("T")

#: How many leaders are killed under load: one takes ten seconds.
KILLS = int(os.environ.get("TXAMQP091_KILLS", "1"))


def uri(node: RabbitNode) -> str:
    """
    Where a node is.
    """
    return f"amqp://guest:guest@{node.host}:{node.port}"


@every_broker
class LeaderTests(PublisherTestCase):
    """
    The leader of a quorum queue is killed.
    """

    timeout = 120.0 + 30.0 * KILLS

    topology = Topology.of(
        Queue(
            name="work",
            arguments={**quorum_queue(), "x-quorum-initial-group-size": 3},
        )
    )

    async def test_leaders_killed(self) -> None:
        """
        Criterion 14: who publishes for the first time while there is no leader is
        nacked by RabbitMQ 3.10, for ever; a publisher gets through in two seconds.

        Criterion 16: leaders are killed at 1,000 messages a second: nothing that was
        confirmed is lost, all of it is seen, and publishing goes on within two seconds.
        """
        cluster = await self.private_cluster(3)
        if self.broker.name.startswith("3.10"):
            await self.beginners(cluster)
        await self.under_load(cluster)

    # -- criterion 14 ------------------------------------------------------------------

    async def beginners(self, cluster: RabbitCluster) -> None:
        """
        Have some publish for the first time, at each moment of an election.
        """
        service = self.service(uri(cluster[0]), topology=self.topology)
        await service.when_ready()
        leader = await in_thread(cluster.leader_of, "work")
        await service.stopService()
        other = next(node for node in cluster if node is not leader)
        service = self.service(uri(other))
        connection = await service.when_ready()
        channels = [await connection.open_channel() for _ in range(20)]
        for channel in channels:
            await channel.confirm_select()
        publishers = [Publisher(service, on_loss="fail") for _ in range(20)]
        killing = in_thread(leader.kill)
        raw = self.one_after_the_other(
            [partial(each.basic_publish, "", "work", "") for each in channels]
        )
        ours = self.one_after_the_other([partial(self.timed, p) for p in publishers])
        results = await outcomes(await raw)
        times = [await each for each in await ours]
        await killing
        self.assertLess(max(times), 2.0)
        await self.still_nacked(channels, results)
        await service.stopService()
        await in_thread(leader.start)
        await in_thread(cluster.await_members, 3)

    def one_after_the_other(
        self, steps: Sequence[Callable[[], Deferred[T]]]
    ) -> Deferred[list[Deferred[T]]]:
        """
        Do many things in half a second, without waiting for their results.
        """

        async def do_them() -> list[Deferred[T]]:
            results = []
            for step in steps:
                results.append(step())
                await deferLater(the_reactor(), 0.025)
            return results

        return Deferred.fromCoroutine(do_them())

    def timed(self, publisher: Publisher) -> Deferred[float]:
        """
        Publish, and tell how many seconds it took.
        """
        began = time.monotonic()
        published = publisher.publish("", "work", "")
        return published.addCallback(lambda _: time.monotonic() - began)

    async def still_nacked(
        self, channels: list[Channel], results: list[Exception | None]
    ) -> None:
        """
        See that it is as bad as it is said to be.
        """
        nacked = [
            channel
            for channel, result in zip(channels, results, strict=True)
            if isinstance(result, Nacked)
        ]
        self.assertTrue(nacked)
        again = await outcomes([each.basic_publish("", "work", "") for each in nacked])
        self.assertEqual([type(each) for each in again], [Nacked] * len(nacked))

    # -- criterion 16 ------------------------------------------------------------------

    async def under_load(self, cluster: RabbitCluster) -> None:
        """
        Kill leaders under load.
        """
        where = [uri(node) for node in cluster]
        service = self.service(*where, topology=self.topology)
        other_service = self.service(*where)
        seen: Counter[int] = Counter()
        surprises = 0

        def handler(delivery: Delivery) -> None:
            nonlocal surprises
            if delivery.body:
                number = int(delivery.body)
                marked = delivery.redelivered or "x-republished" in delivery.headers
                if seen[number] and not marked:
                    surprises += 1
                seen[number] += 1
            delivery.ack()

        consumer = other_service.consume("work", handler, prefetch=200)
        await consumer.when_subscribed()
        publisher = Publisher(service, limit=30_000)
        await service.when_ready()
        load = Load(publisher, "work")
        load.start()
        gaps = [await self.kill_leader(cluster, publisher, load) for _ in range(KILLS)]
        rate = load.stop()
        await publisher.when_idle()
        await until(lambda: len(seen) == load.offered, 30)
        self.assertGreaterEqual(rate, 1000)
        self.assertEqual((load.failed, load.refused), ({}, 0))
        self.assertEqual(len(load.confirmed), load.offered)
        self.assertEqual(set(seen), set(range(load.offered)))
        duplicates = sum(seen.values()) - load.offered
        self.assertLessEqual(duplicates, publisher.republished + KILLS * 200)
        self.assertEqual(surprises, 0)
        self.assertLess(max(gaps), 2.0)

    async def kill_leader(
        self, cluster: RabbitCluster, publisher: Publisher, load: Load
    ) -> float:
        """
        Kill the leader, and start it again when publishing has gone on.

        :returns: the longest time without a confirm, in seconds.
        """
        leader = await in_thread(cluster.leader_of, "work")
        enough = publisher.confirmed + 500
        await until(lambda: publisher.confirmed > enough)
        load.longest = 0.0
        await in_thread(leader.kill)
        enough = publisher.confirmed + 2500
        await until(lambda: publisher.confirmed > enough)
        gap = load.longest
        await in_thread(leader.start)
        await in_thread(cluster.await_members, 3)
        return gap
