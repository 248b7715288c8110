# -*- test-case-name: txamqp091.test.unit.worker.test_consumer_service -*-
"""
The consumer service, with a broker in memory: what it does with messages, how it ends
by itself, how it changes, and how it is stopped in every state.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091.daemon.consumer_settings import (
    ConsumerSettings,
    RetryMethod,
    RetrySettings,
)
from txamqp091.errors import NotFound
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService, Topology
from txamqp091.test.support.service_case import Place, ServiceCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.wire.properties import Properties
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.counts import Counts
from txamqp091.worker.failure_policy import Dead, FailurePolicy, Halt, OnError, Retry
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.retry_queues import RetryQueues


class ConsumerServiceCase(ServiceCase):
    """
    A client service, and a consumer on it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.running: list[tuple[Delivery, Deferred[None]]] = []
        self.broker.declare_queue("work")

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that takes until the test fires its Deferred.
        """
        result: Deferred[None] = Deferred()
        self.running.append((delivery, result))
        return result

    def consumer(
        self, client: AMQPClientService | None = None, **options: Any
    ) -> ConsumerService:
        """
        A consumer that was not started.
        """
        handler = options.pop("handler", self.handle)
        return ConsumerService(client or self.service(), "work", handler, **options)

    def consuming(self, messages: int = 0, **options: Any) -> ConsumerService:
        """
        A consumer that consumes, and has so many messages in work.
        """
        consumer = self.consumer(**options)
        consumer.startService()
        for number in range(messages):
            self.broker.publish("", "work", b"%d" % number)
        self.turn()
        self.successResultOf(consumer.when_ready())
        self.assertEqual(len(self.running), messages)
        return consumer

    def counts(self) -> tuple[int, int, int]:
        """
        What the queue has: messages ready, messages unacknowledged, and consumers.
        """
        queue = self.broker.queue("work")
        return queue.ready, queue.unacked, queue.consumers


class ConsumeTests(ConsumerServiceCase):
    """
    From a message to its answer.
    """

    def test_interface(self) -> None:
        """
        It is a Twisted service, and making one does nothing.
        """
        consumer = self.consumer()
        verifyObject(IService, consumer)
        self.assertFalse(consumer.subscribed)
        self.assertEqual(consumer.running_handlers, 0)
        self.assertNoResult(consumer.when_ended())
        self.assertIn("not subscribed", repr(consumer))

    def test_acknowledges(self) -> None:
        """
        A message is acknowledged once its handler has finished.
        """
        consumer = self.consuming(messages=2)
        self.assertEqual(self.counts(), (0, 2, 1))
        self.running[0][1].callback(None)
        self.turn()
        self.assertEqual(self.counts(), (0, 1, 1))
        self.assertEqual(consumer.counts, Counts(acknowledged=1))
        self.assertTrue(consumer.consumed)
        health = consumer.health()
        self.assertEqual((health.running, health.problem), (1, ""))

    def test_joined_acks(self) -> None:
        """
        Messages that are done in one turn, in whatever order, cost the broker less by
        default; with ``join_acks=False`` each has an acknowledgement of its own.  A
        message that is not done stays unacknowledged.
        """
        sent: list[int] = []
        for join_acks in (True, False):
            client = self.service()
            consumer = self.consuming(0, client=client, join_acks=join_acks)
            for _ in range(10):
                self.broker.publish("", "work", b"x")
            self.turn()
            assert client.connection is not None
            before = client.connection.bytes_sent
            for place in (0, 1, 2, 4, 3, 5, 7, 8):
                self.running[place][1].callback(None)
            self.turn()
            sent.append(client.connection.bytes_sent - before)
            self.assertEqual(self.counts(), (0, 2, 1))
            self.assertEqual(consumer.counts, Counts(acknowledged=8))
            for place in (6, 9):
                self.running[place][1].callback(None)
            self.turn()
            self.assertEqual(self.counts(), (0, 0, 1))
            self.running.clear()
            consumer.stopService()
            self.turn()
        joined, single = sent
        self.assertLess(joined, single)
        self.assertEqual(single % 8, 0)

    def test_prefetch(self) -> None:
        """
        No more messages come than may be here.
        """
        self.consuming(prefetch=2)
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual((len(self.running), self.counts()), (2, (1, 2, 1)))

    def test_start_twice(self) -> None:
        """
        Starting a service that runs changes nothing.
        """
        consumer = self.consuming()
        consumer.startService()
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_reconnects(self) -> None:
        """
        It survives its connection: what was in work comes again, and there is one
        subscription.
        """
        consumer = self.consuming(messages=1)
        self.cut()
        self.assertFalse(consumer.subscribed)
        self.assertEqual(consumer.health().problem, "not subscribed")
        self.passes(3)
        self.assertTrue(consumer.subscribed)
        self.assertEqual(self.counts(), (0, 1, 1))
        self.running[0][1].callback(None)
        self.running[1][1].callback(None)
        self.turn()
        self.assertTrue(self.running[1][0].redelivered)
        self.assertEqual(self.counts(), (0, 0, 1))
        self.assertEqual(consumer.counts, Counts(acknowledged=1, stale=1))
        self.assertNoResult(consumer.when_ended())

    def test_queue_deleted(self) -> None:
        """
        Criterion 20: when its queue is deleted it is not ready, and resubscribes when
        there is one again.
        """
        consumer = self.consuming()
        self.broker.delete_queue("work")
        self.passes(20)
        self.assertFalse(consumer.subscribed)
        self.assertNoResult(consumer.when_ended())
        self.broker.declare_queue("work")
        self.passes(20)
        self.assertTrue(consumer.subscribed)
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_stalled(self) -> None:
        """
        It does not get on when all handlers run, and none ends.
        """
        consumer = self.consuming(messages=2, options=HandlerOptions(concurrency=2))
        self.passes(50)
        self.assertEqual(consumer.health(100).stalled, 0)
        self.passes(60)
        self.assertGreater(consumer.health(100).stalled, 100)
        self.assertEqual(consumer.health(0).stalled, 0)
        self.running[0][1].callback(None)
        self.assertEqual(consumer.health(100).stalled, 0)


class RetryTests(ConsumerServiceCase):
    """
    Through real delay queues.
    """

    def setUp(self) -> None:
        super().setUp()
        self.failures = 99
        self.seen: list[tuple[float, str, str]] = []

    def fail_at_first(self, delivery: Delivery) -> None:
        """
        A handler that fails as often as it is told.
        """
        self.seen.append(
            (
                self.clock.seconds(),
                delivery.routing_key,
                str(delivery.headers.get("x-retry-count", 0)),
            )
        )
        if len(self.seen) <= self.failures:
            raise ValueError("no stock")

    def retrying(self, delays_itself: bool = False) -> ConsumerService:
        """
        A consumer with two retries.
        """
        self.broker.declare_exchange("shop", "topic")
        settings = ConsumerSettings(
            queue="orders",
            handler="a:b",
            declare=True,
            retry=RetrySettings(
                delays=(2, 10),
                parking="orders.parked",
                method=RetryMethod.BROKER if delays_itself else RetryMethod.QUEUES,
            ),
        )
        topology = Topology.of(*settings.entities())
        client = self.service(topology=topology)
        self.broker.bind_queue("orders", "shop", "order.#")
        consumer = ConsumerService(
            client,
            "orders",
            self.fail_at_first,
            options=settings.handler_options(),
            leave_to_broker=settings.broker_delays,
        )
        consumer.startService()
        # The broker in memory does not call itself RabbitMQ.
        consumer.runner.broker_delays = delays_itself
        self.turn()
        self.broker.publish("shop", "order.new", b"the order")
        return consumer

    def older_broker(self, version: str = "3.10.8") -> None:
        """
        Have a broker that cannot delay by itself.
        """
        self.broker = MemoryBroker(self.reactor, version=version)
        self.endpoint = Place(self.broker)

    def test_delay_queues(self) -> None:
        """
        The message comes again after each delay, with its routing key, and is parked
        after the last one, with the error in its headers.
        """
        self.older_broker()
        consumer = self.retrying()
        self.passes(14)
        times = [round(at) for at, _, _ in self.seen]
        self.assertEqual([each - times[0] for each in times], [0, 2, 12])
        self.assertEqual({key for _, key, _ in self.seen}, {"order.new"})
        self.assertEqual([count for _, _, count in self.seen], ["0", "1", "2"])
        self.assertEqual(self.broker.queue("orders").ready, 0)
        [parked] = self.broker.queue("orders.parked").messages
        headers = dict(parked.properties.headers or {})
        self.assertEqual(parked.body, b"the order")
        self.assertEqual(headers["x-error"], "no stock")
        self.assertEqual(headers["x-original-exchange"], "shop")
        self.assertEqual(headers["x-original-routing-key"], "order.new")
        self.assertEqual(headers["x-error-tries"], 3)
        self.assertEqual(consumer.counts, Counts(retried=2, dead_lettered=1))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)

    def test_success_at_last(self) -> None:
        """
        A message that is worked on at last is nowhere any more.
        """
        self.older_broker()
        self.failures = 1
        consumer = self.retrying()
        self.passes(5)
        self.assertEqual(consumer.counts, Counts(acknowledged=1, retried=1))
        for queue in self.broker.queues():
            self.assertEqual(self.broker.queue(queue).ready, 0, queue)
        self.flushLoggedErrors(ValueError)

    def test_lost_while_publishing(self) -> None:
        """
        When the connection goes before the confirm has come, the message is not lost:
        the original comes again.
        """
        self.older_broker()
        self.failures = 1
        consumer = self.retrying()
        self.broker.hold_confirms()
        self.turn()
        self.assertEqual(self.broker.queue("orders").unacked, 1)
        self.cut()
        self.broker.release_confirms()
        self.passes(10)
        self.assertEqual(consumer.counts.stale, 1)
        # Once from the delay queue, once more from its own.
        self.assertEqual(consumer.counts.acknowledged, 2)
        self.flushLoggedErrors()

    def test_broker_delays(self) -> None:
        """
        Where the broker delays by itself, the message stays in its queue, and is
        parked when the broker has counted enough.
        """
        self.older_broker("4.3.0")
        consumer = self.retrying(delays_itself=True)
        self.passes(40)
        self.assertEqual(len(self.seen), 3)
        self.assertEqual(consumer.counts, Counts(retried=2, dead_lettered=1))
        self.assertEqual(self.broker.queue("orders.parked").ready, 1)
        self.flushLoggedErrors(ValueError)


class RetryAfterTests(ConsumerServiceCase):
    """
    Handlers that say when to retry.
    """

    def retrying(self, policy: FailurePolicy, after: float) -> ConsumerService:
        """
        A consumer whose handler fails each time, and wants to be called again later.
        """
        self.calls: list[float] = []

        def handler(delivery: Delivery) -> None:
            self.calls.append(self.clock.seconds())
            raise Retry("the shop is closed", after=after)

        queues = RetryQueues(queue="work", dead_letter_queue="work.dead", delays=(5.0,))
        self.broker.declare_queue("work.dead")
        consumer = self.consuming(
            handler=handler, options=HandlerOptions(policy=policy, retry_queues=queues)
        )
        self.broker.publish("", "work", b"bad")
        self.turn()
        return consumer

    def test_any_delay(self) -> None:
        """
        The message comes back after its delay, rounded up to seconds, with a count.  No
        setting of the consumer is needed.
        """
        seen: list[Any] = []

        def handler(delivery: Delivery) -> None:
            seen.append((self.clock.seconds(), dict(delivery.headers)))
            raise Retry(after=90.5)

        consumer = self.consuming(handler=handler)
        self.broker.publish("", "work", b"bad", Properties(headers={"a": 1}))
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 1))
        self.passes(90)
        self.assertEqual(len(seen), 1)
        self.passes(1)
        self.passes(91)
        self.assertEqual([at for at, _ in seen], [0.0, 91.0, 182.0])
        headers = seen[-1][1]
        self.assertEqual((headers["a"], headers["x-retry-count"]), (1, 2))
        self.assertEqual(consumer.counts, Counts(retried=3))

    def test_attempts(self) -> None:
        """
        With ``on_error = "retry"`` the number of attempts counts.
        """
        policy = FailurePolicy(
            on_error=OnError.RETRY, attempts=3, delays=(5.0,), on_dead=Dead.QUEUE
        )
        consumer = self.retrying(policy, after=2)
        self.passes(10)
        self.assertEqual(self.calls, [0.0, 2.0, 4.0])
        self.assertEqual(consumer.counts, Counts(retried=2, dead_lettered=1))

    def test_wrong(self) -> None:
        """
        A delay that is impossible is refused where it is written.
        """
        with self.assertRaises(ValueError):
            Retry(after=-1)
        with self.assertRaises(TypeError):
            Retry(after="soon")  # type: ignore[arg-type]


class EndTests(ConsumerServiceCase):
    """
    It ends by itself, and says why.
    """

    def test_no_queue(self) -> None:
        """
        There is no such queue, and never was: that will not pass by waiting.
        """
        self.broker.delete_queue("work")
        consumer = self.consumer()
        consumer.startService()
        self.turn()
        reasons = [self.failureResultOf(consumer.when_ended(), NotFound) for _ in "ab"]
        self.assertIs(reasons[0].value, reasons[1].value)
        self.failureResultOf(consumer.when_ready(), NotFound)
        self.assertFalse(consumer.consumed)
        stopping = consumer.stopService()
        self.turn()
        self.successResultOf(stopping)
        self.failureResultOf(consumer.when_ended(), NotFound)

    def test_halt(self) -> None:
        """
        A handler says `Halt`: the message goes back.
        """
        consumer = self.consuming(messages=1)
        self.running[0][1].errback(Halt("the disk is full"))
        error = self.failureResultOf(consumer.when_ended(), Halt).value
        self.assertEqual(str(error), "the disk is full")
        self.assertEqual(consumer.counts, Counts(requeued=1))

    def test_halt_on_error(self) -> None:
        """
        Any error means that, if it is to.
        """
        options = HandlerOptions(policy=FailurePolicy(on_error=OnError.HALT))
        consumer = self.consuming(messages=1, options=options)
        self.running[0][1].errback(ValueError("no"))
        self.failureResultOf(consumer.when_ended(), Halt)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_started_again(self) -> None:
        """
        A service that was stopped can be started again.
        """
        consumer = self.consuming()
        stopping = consumer.stopService()
        self.turn()
        self.successResultOf(stopping)
        self.assertEqual(self.counts(), (0, 0, 0))
        consumer.startService()
        self.assertFalse(consumer.consumed)
        ended = consumer.when_ended()
        self.turn()
        self.successResultOf(consumer.when_ready())
        self.assertNoResult(ended)
        self.assertEqual(self.counts(), (0, 0, 1))


class ChangeTests(ConsumerServiceCase):
    """
    It goes on in another way.
    """

    def test_concurrency(self) -> None:
        """
        More handlers may run, at once.
        """
        consumer = self.consuming(options=HandlerOptions(concurrency=1))
        for _ in range(2):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(len(self.running), 1)
        consumer.change(HandlerOptions(concurrency=2), 100)
        self.assertEqual(len(self.running), 2)

    def test_prefetch(self) -> None:
        """
        Another limit is a new subscription; what is in work stays in work, and is
        acknowledged where it came from.
        """
        consumer = self.consuming(messages=1, prefetch=1)
        consumer.change(HandlerOptions(), 3)
        for _ in range(4):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(self.counts(), (1, 4, 1))
        self.assertEqual(len(self.running), 4)
        for _, result in self.running:
            result.callback(None)
        self.turn()
        self.assertEqual(consumer.counts.acknowledged, 4)
        self.assertEqual(self.counts(), (0, 1, 1))

    def test_not_subscribed(self) -> None:
        """
        A limit that changes before the subscription is the limit of the subscription,
        whether the consumer is exclusive or not.
        """
        for exclusive in (False, True):
            self.setUp()
            self.endpoint.refusing = True
            consumer = self.consumer(exclusive=exclusive)
            consumer.startService()
            self.turn()
            consumer.change(HandlerOptions(), 2)
            consumer.change(HandlerOptions(), 1)
            self.endpoint.refusing = False
            self.passes(5)
            for _ in range(2):
                self.broker.publish("", "work", b"x")
            self.turn()
            self.assertEqual(self.counts(), (1, 1, 1))
            self.assertEqual(len(self.running), 1)

    def test_stopped(self) -> None:
        """
        What is stopped begins with the new limit.
        """
        consumer = self.consumer()
        consumer.change(HandlerOptions(), 1)
        consumer.startService()
        for _ in range(2):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(len(self.running), 1)


class StopTests(ConsumerServiceCase):
    """
    Criterion 21, in memory: nothing acknowledged comes back, and nothing
    unacknowledged is lost.
    """

    def test_never_started(self) -> None:
        """
        Stopping what was not started is nothing.
        """
        self.successResultOf(self.consumer().stopService())

    def test_not_connected(self) -> None:
        """
        While there is no connection, it stops at once.
        """
        self.endpoint.refusing = True
        consumer = self.consumer()
        consumer.startService()
        ready, ended = consumer.when_ready(), consumer.when_ended()
        stopping = consumer.stopService()
        self.turn()
        self.successResultOf(stopping)
        self.failureResultOf(ready, CancelledError)
        self.successResultOf(ended)

    def test_every_step(self) -> None:
        """
        Stopped at any moment of its beginning, it leaves no subscription behind.
        """
        for turns in range(12):
            self.setUp()
            client = self.service(start=False)
            consumer = self.consumer(client)
            self.broker.publish("", "work", b"x")
            consumer.startService()
            client.startService()
            self.turn(turns)
            for _, result in self.running:
                result.callback(None)
            done = len(self.running)
            stopping = consumer.stopService()
            self.turn()
            self.successResultOf(stopping)
            self.assertEqual(self.counts(), (1 - done, 0, 0), turns)
            self.assertEqual(len(self.running), done)

    def test_running_handlers(self) -> None:
        """
        Running handlers finish, and their messages are acknowledged; those that wait
        for one go back.
        """
        consumer = self.consumer(options=HandlerOptions(concurrency=2))
        consumer.startService()
        for _ in range(5):
            self.broker.publish("", "work", b"x")
        self.turn()
        stopping = consumer.stopService()
        self.turn()
        self.assertEqual(self.counts(), (3, 2, 0))
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertNoResult(stopping)
        for _, result in self.running:
            result.callback(None)
        self.turn()
        self.successResultOf(stopping)
        self.successResultOf(consumer.when_ended())
        self.assertEqual(self.counts(), (4, 0, 0))
        self.assertEqual(consumer.counts, Counts(acknowledged=2))
        self.assertEqual(len(self.running), 2)

    def test_limit(self) -> None:
        """
        Handlers that take longer than the limit are cancelled, and their messages go
        back; the others' are acknowledged.
        """
        consumer = self.consuming(messages=2, shutdown_timeout=5)
        stopping = consumer.stopService()
        self.turn()
        self.running[0][1].callback(None)
        self.passes(4.5)
        self.assertEqual(self.counts(), (0, 1, 0))
        self.passes(0.5)
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertTrue(self.running[1][1].called)
        self.successResultOf(stopping)
        self.assertEqual(consumer.counts, Counts(acknowledged=1, unfinished=1))

    def test_skip_grace_period(self) -> None:
        """
        The grace period can be skipped.
        """
        consumer = self.consuming(messages=1)
        consumer.skip_grace_period()  # means nothing before it is stopped
        stopping = consumer.stopService()
        self.turn()
        self.assertNoResult(stopping)
        consumer.skip_grace_period()
        self.turn()
        self.assertEqual(self.counts(), (1, 0, 0))
        self.successResultOf(stopping)

    def test_silent_broker(self) -> None:
        """
        A broker that answers nothing any more costs no more than the limits.
        """
        consumer = self.consuming(messages=1, shutdown_timeout=6)
        self.link.hole()
        stopping = consumer.stopService()
        self.passes(10.5)
        self.assertNoResult(stopping)
        self.passes(1)
        self.successResultOf(stopping)
        self.assertEqual(consumer.counts, Counts(unfinished=1))

    def test_lost_meanwhile(self) -> None:
        """
        The connection is lost while a handler finishes: it is still waited for.
        """
        consumer = self.consuming(messages=1)
        stopping = consumer.stopService()
        self.turn()
        self.cut()
        self.assertNoResult(stopping)
        self.running[0][1].callback(None)
        self.turn()
        self.successResultOf(stopping)
        self.assertEqual(consumer.counts, Counts(stale=1))

    def test_twice(self) -> None:
        """
        Stopping it again waits for the same end.
        """
        consumer = self.consuming()
        first, second = consumer.stopService(), consumer.stopService()
        self.turn()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(consumer.stopService())

    def test_handler_stops_it(self) -> None:
        """
        A handler may stop the service from inside, and its message is acknowledged.
        """
        stopping: list[Deferred[None]] = []

        def handle(delivery: Delivery) -> None:
            stopping.append(consumer.stopService())

        consumer = self.consuming(handler=handle)
        self.broker.publish("", "work", b"x")
        self.turn()
        self.successResultOf(stopping[0])
        self.assertEqual(self.counts(), (0, 0, 0))
        self.assertEqual(consumer.counts, Counts(acknowledged=1))


class ReprTests(SynchronousTestCase):
    """
    What it is called.
    """

    def test_label(self) -> None:
        """
        Its options says so, or else its queue.
        """
        case = ServiceCase()
        case.setUp()
        client = AMQPClientService(case.reactor, case.endpoint)
        options = HandlerOptions(consumer="shop")
        named = ConsumerService(client, "work", len, options=options)  # type: ignore[arg-type]
        self.assertEqual(named.label, "shop")
        self.assertEqual(ConsumerService(client, "work", len).label, "work")  # type: ignore[arg-type]
