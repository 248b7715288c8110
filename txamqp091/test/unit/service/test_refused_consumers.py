# -*- test-case-name: txamqp091.test.unit.service.test_refused_consumers -*-
"""
Consumers that the broker refuses: what is told, how often it is asked again, and what
a daemon makes of it (criteria 19 and 20).
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel, capturedLogs, formatEvent

from txamqp091.arguments import stream_queue
from txamqp091.daemon.admin import admin_site
from txamqp091.errors import (
    AccessRefused,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import Queue
from txamqp091.service.recovering_consumer import RecoveringConsumer
from txamqp091.service.retry import RetryPolicy
from txamqp091.service.topology import Topology
from txamqp091.test.support.service_case import Events, Inbox, Place, ServiceCase
from txamqp091.test.unit.daemon.test_admin import get
from txamqp091.test.unit.daemon.test_process import DaemonCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.failure_policy import OnRefused
from txamqp091.worker.health import Health


class RefusedCase(ServiceCase):
    """
    A service that is ready, and what its observers are told of consumers.
    """

    def setUp(self) -> None:
        super().setUp()
        self.events = Events()
        self.broker.declare_queue("work")

    def client(self, **options: Any) -> AMQPClientService:
        """
        The service.
        """
        client = self.service(**options)
        self.events.observe(client)
        return client

    def told(self) -> list[tuple[Any, ...]]:
        """
        What was told of consumers, and is forgotten now.
        """
        kinds = ("subscribed", "unsubscribed", "refused")
        told = [
            (name, *details)
            for name, details in zip(
                self.events.names, self.events.details, strict=True
            )
            if name in kinds
        ]
        self.events.names.clear()
        self.events.details.clear()
        return told

    def assertTold(self, *names: str) -> list[tuple[Any, ...]]:
        """
        This was told, and nothing else.
        """
        told = self.told()
        self.assertEqual([each[0] for each in told], [*names])
        return told


class ToldTests(RefusedCase):
    """
    What observers are told.
    """

    def test_each_refusal(self) -> None:
        """
        What will not pass by itself is told as such, with the reason, and so is the
        end of it; there is one subscription then.
        """
        self.broker.declare_queue("secret")
        self.broker.set_permissions("guest", read="work|later")
        client = self.client()
        for queue, arguments, kind in (
            ("secret", {}, AccessRefused),
            ("later", {}, NotFound),
            ("work", {"x-priority": "high"}, PreconditionFailed),
        ):
            with capturedLogs() as logged:
                consumer = client.consume(queue, Inbox(), arguments=arguments)
                self.turn()
            [(_, who, reason, delay)] = self.assertTold("refused")
            self.assertIs(who, consumer)
            self.assertIsInstance(reason, kind)
            self.assertEqual(delay, 1)
            self.assertTrue(consumer.is_refused)
            [line] = [
                formatEvent(each)
                for each in logged
                if each["log_level"] is LogLevel.error
            ]
            self.assertIn("refused by the broker, and subscribes again in 1.00 s", line)
            self.assertNoResult(consumer.when_ended())
        self.broker.set_permissions("guest")
        self.broker.declare_queue("later")
        self.passes(10)
        names = [each[0] for each in self.told()]
        self.assertEqual(names.count("subscribed"), 2)
        for queue in ("secret", "later"):
            self.assertEqual(self.broker.queue(queue).consumers, 1)
        self.assertEqual(
            [each.is_refused for each in client.consumers], [False, False, True]
        )

    def test_what_passes(self) -> None:
        """
        What may pass by itself is told as that: a queue that is another connection's,
        one whose node is down, a channel that was closed, a consumer that the broker
        has moved.
        """
        client = self.client()
        consumer = client.consume("work", Inbox())
        self.turn()
        self.assertTold("subscribed")
        self.broker.cancel_consumers("work")
        self.turn()
        [(_, who, reason, delay)] = self.assertTold("unsubscribed")
        self.assertIs(who, consumer)
        self.assertIsInstance(reason, ConsumerCancelled)
        self.assertEqual(delay, 1)
        self.passes(1)
        self.assertTold("subscribed")
        for code, text, kind in (
            (405, "cannot obtain exclusive access", ResourceLocked),
            (404, "home node 'r@h' of durable queue is down or inaccessible", NotFound),
        ):
            self.broker.close_channels(code, text)
            self.turn()
            [(_, _, reason, delay)] = self.assertTold("unsubscribed")
            self.assertIsInstance(reason, kind)
            self.assertEqual(delay, 0)
            self.assertFalse(consumer.is_refused)
            self.passes(3)
            self.assertTold("subscribed")

    def test_link(self) -> None:
        """
        That the connection has gone is told once, and not of each consumer.
        """
        client = self.client()
        client.consume("work", Inbox())
        self.turn()
        self.told()
        self.cut()
        self.assertTold()
        self.passes(3)
        self.assertTold("subscribed")

    def test_topology(self) -> None:
        """
        A queue that is to be declared, and is not let be, refuses its consumer.
        """
        self.broker.declare_queue("odd", auto_delete=True)
        client = self.client(topology=Topology.of(Queue(name="odd")))
        consumer = client.consume("odd", Inbox())
        self.turn()
        [(_, _, reason, _)] = self.assertTold("refused")
        self.assertIsInstance(reason, PreconditionFailed)
        self.assertTrue(consumer.is_refused)

    def test_cancelled_by_the_observer(self) -> None:
        """
        An observer may cancel the consumer, and nothing of it is left.
        """
        client = self.client()
        heartbeats = len(self.clock.getDelayedCalls())

        def cancel(consumer: RecoveringConsumer, *details: Any) -> None:
            consumer.cancel()

        client.observe(refused=cancel)
        client.consume("nowhere", Inbox())
        self.passes(60)
        self.assertTold("refused")
        self.assertEqual(client.consumers, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), heartbeats)


class OftenTests(RefusedCase):
    """
    How often the broker is asked.
    """

    def test_delays(self) -> None:
        """
        Criterion 19: the delays grow, are shortened at random, and are 10 s at the
        most; in an hour there is no more than one channel for each attempt, and no
        connection is lost.
        """
        chances = [0.0, 0.25, 0.5, 1.0]

        def chance() -> float:
            chances.append(chances.pop(0))
            return chances[0]

        client = self.client(policy=RetryPolicy(random=chance))
        consumer = client.consume("nowhere", Inbox())
        self.passes(3600, step=5)
        told = self.told()
        self.assertEqual({each[0] for each in told}, {"refused"})
        delays = [each[3] for each in told]
        self.assertLess(delays[0], delays[3])
        self.assertLessEqual(max(delays), 10)
        self.assertGreaterEqual(min(delays[8:]), 5)
        self.assertGreater(len(set(delays[8:])), 1)
        self.assertLess(len(told), 3600 / 5)
        self.assertLessEqual(consumer.channel.opened, len(told) + 1)
        self.assertEqual(len(self.endpoint.links), 1)


class ClosedConnectionTests(ServiceCase):
    """
    The broker closes the connection for one consumer.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker = MemoryBroker(self.reactor, version="3.10.8")
        self.endpoint = Place(self.broker)
        for name in ("one", "two", "three"):
            self.broker.declare_queue(name)
        self.broker.declare_queue("broken", arguments=stream_queue())
        self.client = self.service(start=False, policy=RetryPolicy())
        self.events = Events()
        self.events.observe(self.client)
        self.good = [self.client.consume("one", Inbox())]
        # RabbitMQ 3.10 answers this by 541, and closes the connection.
        self.bad = self.client.consume(
            "broken", Inbox(), arguments={"x-stream-offset": "nonsense"}
        )
        self.good += [self.client.consume(each, Inbox()) for each in ("two", "three")]
        self.client.startService()
        self.turn()

    def test_others_work(self) -> None:
        """
        The other consumers are subscribed nearly all the time, the delays before a
        connection stay short, and those before the consumer's next attempt grow.
        """
        away = 0
        for _ in range(6000):
            self.clock.advance(0.1)
            self.turn(20)
            away += not all(each.is_subscribed for each in self.good)
        self.assertLess(away, 150)
        self.assertLess(len(self.endpoint.links), 12)
        self.assertFalse(self.bad.is_subscribed)
        told = zip(self.events.names, self.events.details, strict=True)
        delays = [each[2] for name, each in told if name == "unsubscribed"]
        self.assertEqual(delays[:4], [10.0, 20.0, 40.0, 80.0])
        details = [
            each
            for name, each in zip(self.events.names, self.events.details, strict=True)
            if name in ("unsubscribed", "refused")
        ]
        self.assertEqual({each[0] for each in details}, {self.bad})

    def test_another_answer(self) -> None:
        """
        When the broker refuses the consumer by closing its channel instead, the
        connection stays, and the consumer is asked for as often as any refused one.
        """
        self.passes(15)
        self.broker.delete_queue("broken")
        self.broker.declare_queue("broken")
        self.passes(30)
        count = len(self.endpoint.links)
        self.assertIsInstance(self.bad.error, PreconditionFailed)
        self.passes(60)
        self.assertEqual(len(self.endpoint.links), count)
        self.assertTrue(all(each.is_subscribed for each in self.good))
        self.assertGreater(self.events.names.count("refused"), 5)


class EndTests(RefusedCase):
    """
    A consumer that is to end instead.
    """

    def test_ends(self) -> None:
        """
        It ends with the reason, and whoever waits is told it.
        """
        client = self.client()
        consumer = client.consume("nowhere", Inbox(), on_refused="end")
        ready, ended = consumer.when_subscribed(), consumer.when_ended()
        self.turn()
        reason = self.failureResultOf(ended, NotFound).value
        self.assertIs(self.failureResultOf(ready, NotFound).value, reason)
        self.assertEqual(self.told(), [("refused", consumer, reason, None)])
        self.assertIs(consumer.error, reason)
        self.assertEqual(client.consumers, [])
        self.broker.declare_queue("nowhere")
        self.passes(60)
        self.assertEqual(self.broker.queue("nowhere").consumers, 0)
        self.assertEqual(self.successResultOf(consumer.cancel()), 0)
        self.assertEqual(self.broker.sessions[0].channels, {})

    def test_later(self) -> None:
        """
        It does so later on too: when its queue was deleted, it asks once more.
        """
        client = self.client()
        consumer = client.consume("work", Inbox(), on_refused="end")
        self.turn()
        self.broker.delete_queue("work")
        self.turn()
        self.assertWaits(consumer.when_ended())
        self.passes(2)
        self.failureResultOf(consumer.when_ended(), NotFound)
        self.assertTold("subscribed", "unsubscribed", "refused")

    def test_what_passes(self) -> None:
        """
        It tries again when that may help.
        """
        client = self.client()
        consumer = client.consume("work", Inbox(), on_refused="end")
        self.turn()
        self.broker.close_channels(404, "home node of queue is down or inaccessible")
        self.passes(3)
        self.assertTrue(consumer.is_subscribed)

    def test_stopped(self) -> None:
        """
        That it has ended is final: the service that is started again has it no more.
        """
        client = self.client()
        consumer = client.consume("nowhere", Inbox(), on_refused="end")
        self.turn()
        self.failureResultOf(consumer.when_ended(), NotFound)
        stopped = client.stopService()
        self.turn()
        self.successResultOf(stopped)
        client.startService()
        self.passes(5)
        self.assertFalse(consumer.is_subscribed)
        self.failureResultOf(consumer.when_subscribed(), CancelledError, NotFound)


class RefusedDaemonTests(DaemonCase):
    """
    What a daemon makes of it.
    """

    def refused(self, policy: OnRefused) -> tuple[Any, ConsumerService]:
        """
        A daemon whose consumer has consumed, and then lost its permission.
        """
        daemon = self.daemon(on_refused=policy)
        [consumer] = daemon.consumers
        self.assertTrue(daemon.health().ready)
        self.broker.set_permissions("guest", read="")
        self.broker.close_channels()
        self.passes(2)
        return daemon, consumer

    def ready(self, health: Health) -> tuple[int, Any]:
        """
        What ``/ready`` says.
        """
        status, _, body = get(admin_site(self.reactor, lambda: health), "/ready")
        return status, json.loads(body)

    def test_unhealthy(self) -> None:
        """
        Criterion 20: it is not ready, says why, and comes back by itself.
        """
        for policy in (OnRefused.END_AT_START, OnRefused.WAIT):
            daemon, _ = self.refused(policy)
            status, page = self.ready(daemon.health())
            self.assertEqual(status, 503)
            [problem] = page["problems"]
            self.assertTrue(problem.startswith("work: the broker refuses it: 403"))
            self.assertIn(
                "read access to queue 'work'", page["consumers"][0]["refused"]
            )
            self.assertFalse(self.process.hasStopped)
            self.broker.set_permissions("guest")
            self.passes(32)
            self.assertEqual(self.ready(daemon.health())[0], 200)
            self.assertEqual(self.broker.queue("work").consumers, 1)
            stopping = daemon.stopService()
            self.turn()
            self.successResultOf(stopping)

    def test_ends(self) -> None:
        """
        It ends with the status of what has happened, if it is to.
        """
        daemon, _ = self.refused(OnRefused.END)
        self.stop(daemon)
        self.assertEqual(self.exits, [77])
        [line] = [each for each in self.log() if "Ending" in each]
        self.assertTrue(line.startswith("Ending with exit status 77: 403"), line)

    def test_deleted(self) -> None:
        """
        A queue that was deleted ends it with another.
        """
        daemon = self.daemon(on_refused=OnRefused.END)
        self.broker.delete_queue("work")
        self.passes(3)
        self.stop(daemon)
        self.assertEqual(self.exits, [66])

    def test_in_reserve(self) -> None:
        """
        Of two that want a queue for themselves, one waits, and takes over when the
        other has gone.
        """
        client = self.service()
        first = client.consume("work", Inbox(), exclusive=True)
        self.turn()
        daemon = self.daemon(exclusive=True)
        self.passes(60)
        self.assertFalse(self.process.hasStopped)
        self.assertEqual(daemon.health().problems, ["work: not subscribed"])
        first.cancel()
        self.passes(31)
        self.assertTrue(daemon.health().ready)

    def test_waits_from_the_start(self) -> None:
        """
        It waits for a queue that was never there, if it is to.
        """
        daemon = self.daemon("later", on_refused=OnRefused.WAIT)
        self.passes(100)
        self.assertFalse(self.process.hasStopped)
        self.assertEqual(self.ready(daemon.health())[0], 503)
        self.assertEqual(self.notifier.lines, [])
        self.broker.declare_queue("later")
        self.passes(31)
        self.assertTrue(daemon.health().ready)
        self.assertEqual(self.notifier.lines, ["READY=1"])
