# -*- test-case-name: txamqp091.test.faults.test_nemesis -*-
"""
Chaos at random, on three nodes with quorum queues: networks, nodes, queues, channels
and consumers fail, one after the other and together, and then the history of it is
judged (criterion 22).

``make chaos`` deals each fault once or twice; ``make nightly`` goes on for half an
hour.  ``TXAMQP091_SEED`` brings the faults of another run back, in their order, and
``TXAMQP091_CHAOS_MINUTES`` says how long.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections import Counter
from time import monotonic
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue
from txamqp091.channel import Channel
from txamqp091.service import AMQPClientService, Queue, RetryPolicy, Topology
from txamqp091.test.support.books import NIGHTLY, report
from txamqp091.test.support.cluster import RabbitCluster
from txamqp091.test.support.history import History, Kind, check, marks
from txamqp091.test.support.installations import Installation, known_brokers
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    installed,
    until,
)
from txamqp091.test.support.nemesis import ALONE, KINDS, LASTING, LEADER, Nemesis, plan
from txamqp091.test.support.processes import RabbitError
from txamqp091.test.support.rabbit import RabbitNode
from txamqp091.test.support.workload import Consuming, Publishing, Workload

#: How many faults there are when it is not for a time.
STEPS = 12

MINUTES = float(os.environ.get("TXAMQP091_CHAOS_MINUTES", 30 if NIGHTLY else 0))

#: How many messages each publisher publishes in a second.
RATE = 60

#: How long the clients may take to come to an end, in seconds: a guard.
PATIENCE = 120.0


def _newest() -> Installation | None:
    found = [each.installation for each in known_brokers() if each.installation]
    return max(found, key=lambda each: each.number, default=None)


class PlanTests(SynchronousTestCase):
    """
    What is to go wrong.
    """

    def test_seed(self) -> None:
        """
        The same seed brings the same faults in the same order, another one others.
        """
        one, same, other = (
            list(itertools.islice(plan(seed), 100)) for seed in (7, 7, 8)
        )
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)

    def test_dealt(self) -> None:
        """
        Each kind comes once before one comes again, so that a short run has all.
        """
        faults = [each.fault for each in itertools.islice(plan(1), 3 * len(KINDS))]
        for start in range(0, len(faults), len(KINDS)):
            self.assertCountEqual(faults[start : start + len(KINDS)], KINDS)
        self.assertLessEqual(len(KINDS), STEPS)

    def test_bounds(self) -> None:
        """
        Only what lasts has something in its middle, and lasts; nodes are nodes.
        """
        for step in itertools.islice(plan(2), 500):
            with self.subTest(step):
                self.assertEqual(step.seconds > 0, step.fault in LASTING)
                self.assertNotIn(step.also, (*LASTING, *ALONE))
                self.assertIn(step.node, (LEADER, 0, 1, 2))
                if step.also:
                    self.assertIn(step.fault, LASTING)


@every_broker
class ChaosTests(RabbitTestCase):
    """
    A cluster, those who work with it, and who breaks it.
    """

    timeout = 600.0 + 60.0 * MINUTES * 1.5

    def setUp(self) -> None:
        """
        See whether this is the time for it.
        """
        if not (NIGHTLY or os.environ.get("TXAMQP091_CHAOS")):
            raise SkipTest("brokers are killed at random by: make chaos")
        if not NIGHTLY and installed(self.broker) != _newest():
            raise SkipTest("this cluster is for the night: TXAMQP091_NIGHTLY")
        self.seed = int(
            os.environ.get("TXAMQP091_SEED", random.SystemRandom().randrange(10**6))
        )
        sys.stdout.write(f"TXAMQP091_SEED={self.seed}\n")
        self.chance = random.Random(self.seed)
        self.history = History()
        self.kept = self.queue("kept")
        self.doomed = self.queue("doomed")

    def queue(self, name: str) -> Queue:
        """
        A quorum queue with a member on each node.
        """
        arguments = {**quorum_queue(), "x-quorum-initial-group-size": 3}
        return Queue(name=name, arguments=arguments)

    def service(self) -> AMQPClientService:
        """
        A service that knows all nodes, by way of their proxies.
        """
        from twisted.internet import reactor

        where = [f"amqp://guest:guest@127.0.0.1:{p.port}" for p in self.proxies]
        policy = RetryPolicy(
            initial_delay=0.05,
            max_delay=1.0,
            next_address_after=1.0,
            random=self.chance.random,
        )
        service = AMQPClientService(
            reactor,
            [f"{each}?heartbeat=2" for each in where],
            policy=policy,
            topology=Topology.of(self.kept, self.doomed),
        )
        self.addCleanup(service.stopService)
        return service

    def workload(self) -> Workload:
        """
        Publishers of all kinds, and consumers of both queues.
        """
        history, kept, doomed = self.history, self.kept, self.doomed
        workload = Workload(
            [
                Publishing("again", self.service(), history, kept),
                Publishing("patient", self.service(), history, kept),
                Publishing(
                    "once",
                    self.service(),
                    history,
                    kept,
                    on_loss="fail",
                    blocked_timeout=3.0,
                ),
                Publishing("brave", self.service(), history, doomed),
            ],
            [
                Consuming(name, self.service(), history, queue, self.chance)
                for name, queue in (("one", kept), ("two", kept), ("three", doomed))
            ],
        )
        self.addCleanup(workload.stop)
        for service in workload.services:
            service.startService()
        return workload

    async def test_chaos(self) -> None:
        """
        Whatever goes wrong, all work again afterwards, and the history is one that a
        queue may have.
        """
        self.cluster: RabbitCluster = await self.private_cluster(3)
        self.proxies = [self.proxy(node.port) for node in self.cluster]
        workload = self.workload()
        nemesis = Nemesis(
            self.cluster,
            self.proxies,
            workload,
            self.history,
            kept=self.kept,
            doomed=self.doomed,
        )
        workload.begin(RATE)
        await until(lambda: workload.has_got_on_since(Counter()), 60)
        began = monotonic()
        try:
            for step in plan(self.seed):
                if monotonic() - began > 60 * MINUTES and nemesis.done >= (
                    0 if MINUTES else STEPS
                ):
                    break
                await nemesis.run(step)
        except AssertionError as error:
            self.fail(f"with seed {self.seed}: {error}")
        await self.come_to_an_end(workload)
        self.judge(workload, nemesis.done, monotonic() - began)

    async def come_to_an_end(self, workload: Workload) -> None:
        """
        Let the publishers hear of all their messages, and the consumers empty the
        queues, as far as that happens; write down what is left.
        """
        workload.stop()
        node = self.cluster[0]
        uri = f"amqp://guest:guest@{node.host}:{node.port}"
        channel = await self.open_channel(uri)
        await self.count_consumers(channel, workload)
        try:
            await until(lambda: workload.is_idle, PATIENCE)
            await until(lambda: self.unsettled(node) == 0, PATIENCE)
        except AssertionError:
            pass  # and the history will tell
        await workload.stop_services()
        channel = await self.open_channel(f"amqp://guest:guest@{node.host}:{node.port}")
        for queue in (self.kept, self.doomed):
            while (
                found := await channel.basic_get(queue.name, auto_ack=True)
            ) is not None:
                shown = marks(found.redelivered, "x-republished" in found.headers)
                self.history.add(
                    Kind.REMAINS, queue.name, found.body.decode(errors="replace"), shown
                )

    async def count_consumers(self, channel: Channel, workload: Workload) -> None:
        """
        Each consumer has exactly one subscription, as soon as the broker has noticed
        which connections are no more.
        """
        for queue in (self.kept, self.doomed):
            wanted = sum(each.queue == queue for each in workload.consumers)
            deadline = monotonic() + PATIENCE
            while True:
                found = await channel.queue_declare(queue.name, passive=True)
                if found.consumer_count == wanted:
                    break
                self.assertLess(
                    monotonic(),
                    deadline,
                    f"{queue.name} has {found.consumer_count} consumers, not {wanted}",
                )

    def unsettled(self, node: RabbitNode) -> int:
        """
        How many messages are in the queues.
        """
        try:
            return sum(
                node.queue_depth(each.name) + node.unacknowledged(each.name)
                for each in (self.kept, self.doomed)
            )
        except RabbitError:
            return 1  # nobody can tell now

    def judge(self, workload: Workload, steps: int, seconds: float) -> None:
        """
        Judge the history.
        """
        verdict = check(self.history.events)
        report(
            self.id(),
            seed=self.seed,
            steps=steps,
            seconds=seconds,
            faults=dict(verdict.faults),
            **verdict.outcomes,
            lost=verdict.lost,
            seen=verdict.seen,
            recovered=verdict.recovered,
            duplicates=verdict.duplicates,
            copies=verdict.copies,
            forgiven=verdict.forgiven,
            acked=verdict.acked,
            acks_judged=verdict.judged,
            in_order=verdict.in_order,
            connections_lost=sum(
                each.losses.count
                for each in (*workload.publishers, *workload.consumers)
            ),
            pauses={name: round(each, 2) for name, each in verdict.pauses.items()},
            violations=len(verdict.violations),
        )
        if verdict.violations:
            self.fail(f"with seed {self.seed}:\n{verdict.told(self.history)}")
        # It would be no wonder, had nothing happened.
        self.assertGreater(verdict.outcomes["confirmed"], 1000)
        self.assertGreater(verdict.judged, 100)
        self.assertGreater(verdict.in_order, 100)
