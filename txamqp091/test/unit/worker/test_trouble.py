# -*- test-case-name: txamqp091.test.unit.worker.test_trouble -*-
"""
A consumer service in trouble, with a broker in memory: deliveries that are not settled
in time, queues that are deleted, a broker that blocks, and messages that end processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent

from txamqp091.arguments import quorum_queue, stream_consumer
from txamqp091.daemon.consumer_settings import (
    ConsumerSettings,
    RetrySettings,
)
from txamqp091.errors import TopologyFailed
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService, Topology
from txamqp091.test.support.service_case import Place, ServiceCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.worker import (
    ConsumerService,
    Counts,
    Dead,
    FailurePolicy,
    HandlerOptions,
    OffsetFile,
    OffsetFileInUse,
    OnError,
    RetryQueues,
)

VERSIONS = ("3.10.8", "4.3.6")

#: A policy that counts out what ends the process, and a place for it.
COUNTING = HandlerOptions(
    policy=FailurePolicy(on_error=OnError.REJECT, on_dead=Dead.QUEUE, max_deliveries=3),
    retry_queues=RetryQueues(queue="work", dead_letter_queue="dead"),
)


class TroubleCase(ServiceCase):
    """
    A broker of one version or another, and consumers.
    """

    def setUp(self) -> None:
        super().setUp()
        self.events = self.enterContext(capturedLogs())
        self.client: AMQPClientService

    def begin(self, version: str, **options: Any) -> None:
        """
        Have a broker of this version, with a quorum queue.
        """
        self.broker = MemoryBroker(self.reactor, version=version, **options)
        self.endpoint = Place(self.broker)
        self.broker.declare_queue("work", arguments=quorum_queue())
        self.client = self.service()

    def consume(self, handler: Any, queue: str = "work", **options: Any) -> Any:
        """
        A consumer that was started.
        """
        consumer = ConsumerService(self.client, queue, handler, **options)
        self.addCleanup(consumer.stopService)
        consumer.startService()
        self.turn()
        return consumer

    def publish(self, count: int, start: int = 0) -> None:
        """
        Publish messages, whose bodies are numbers.
        """
        for number in range(start, start + count):
            self.broker.publish("", "work", b"%d" % number)
        self.turn()

    def texts(self) -> str:
        """
        The log.
        """
        return "\n".join(
            text for text in map(formatEvent, self.events) if text is not None
        )


class TimeoutTests(TroubleCase):
    """
    The broker ends consumers whose deliveries are not settled in time.
    """

    def test_progress(self) -> None:
        """
        With a ``consumer_timeout`` below the time that all prefetched messages need, no
        stale delivery is handled, and all messages are, in about the time of their
        handlers.
        """
        for version in VERSIONS:
            self.begin(version, consumer_timeout=4)
            stale: list[bool] = []
            handled: set[bytes] = set()

            def handle(
                delivery: Delivery,
                stale: list[bool] = stale,
                handled: set[bytes] = handled,
            ) -> Deferred[None]:
                stale.append(delivery.is_stale)
                handled.add(delivery.body)
                return deferLater(self.reactor, 1.5, lambda: None)

            options = HandlerOptions(concurrency=1, consumer_timeout=4)
            consumer = self.consume(handle, prefetch=10, options=options)
            self.publish(40)
            self.passes(120)
            self.assertEqual(len(handled), 40, version)
            self.assertFalse(any(stale))
            self.assertGreaterEqual(consumer.counts.acknowledged, 40)
            self.assertLess(consumer.counts.stale, 10)
            self.assertIn("within its consumer_timeout", self.texts())
            self.assertEqual(self.broker.queue("work").unacked, 0)
            health = consumer.health(300)
            self.assertEqual((health.waiting, health.problem), (0, ""))

    def test_other_consumers(self) -> None:
        """
        Other consumers of the connection do not notice.
        """
        for version in VERSIONS:
            self.begin(version, consumer_timeout=4)
            self.broker.declare_queue("quick", arguments=quorum_queue())
            quick = self.consume(lambda delivery: None, "quick")
            self.consume(lambda delivery: deferLater(self.reactor, 9, lambda: None))
            self.publish(1)
            for _ in range(30):
                self.broker.publish("", "quick", b"x")
                self.passes(1)
            self.assertEqual(quick.counts, Counts(acknowledged=30))
            self.assertEqual(len(self.endpoint.links), 1, version)

    def test_warning(self) -> None:
        """
        The log warns before the broker does anything.
        """
        self.begin("4.3.6")
        self.consume(lambda delivery: Deferred(), options=HandlerOptions())
        self.publish(1)
        self.passes(880, 10)
        self.assertNotIn("consumer_timeout", self.texts())
        self.passes(120, 10)
        self.assertIn("RabbitMQ ends the consumer after its consumer_timeout, which is "
                      "1800 s here", self.texts())  # fmt: skip

    def test_stalled(self) -> None:
        """
        A consumer whose handlers end and settle nothing is stalled.
        """
        self.begin("3.10.8", consumer_timeout=4)
        consumer = self.consume(
            lambda delivery: deferLater(self.reactor, 7, lambda: None),
            options=HandlerOptions(concurrency=1),
        )
        self.publish(1)
        self.passes(100)
        health = consumer.health(50)
        self.assertIn("no message was settled for", health.problem)
        self.assertEqual(consumer.counts.acknowledged, 0)


class QueuesTests(TroubleCase):
    """
    The queues for failed messages.
    """

    def failing(self, **settings: Any) -> Any:
        """
        A consumer with retries, whose handler fails, and when it was called.
        """
        self.times: list[float] = []
        wanted = ConsumerSettings(
            queue="orders", handler="x:y", declare=True, **settings
        )
        self.client = self.service(topology=Topology.of(*wanted.entities()))

        def handle(delivery: Delivery) -> None:
            self.times.append(self.clock.seconds())
            raise ValueError("the database is down")

        return self.consume(handle, "orders", options=wanted.handler_options())

    def test_deleted(self) -> None:
        """
        A delay queue or a dead-letter queue that is deleted is declared again, and no
        message is lost or handled in a loop.
        """
        for version in VERSIONS:
            for deleted in ("orders.retry.5s", "orders.dead"):
                self.begin(version)
                consumer = self.failing(retry=RetrySettings(delays=(5.0,)))
                self.broker.delete_queue(deleted)
                self.broker.publish("", "orders", b"tea")
                self.passes(60)
                self.assertEqual(len(self.times), 2, deleted)
                self.assertEqual(self.broker.queue("orders.dead").ready, 1)
                self.assertEqual(consumer.counts, Counts(retried=1, dead_lettered=1))
                self.assertEqual(consumer.health(300).problem, "")
                self.flushLoggedErrors(ValueError)

    def test_refused(self) -> None:
        """
        If the broker refuses to declare it, the consumer is not ready, and says why;
        the message is kept, and its handler not called again.
        """
        self.begin("4.3.6")
        consumer = self.failing(retry=RetrySettings(delays=(5.0,)))
        self.broker.delete_queue("orders.retry.5s")
        self.broker.set_permissions("guest", configure="^$", write="^$", read=".*")
        self.broker.publish("", "orders", b"tea")
        self.passes(120)
        self.assertEqual(len(self.times), 1)
        self.assertIn(
            "failed messages cannot be published: ", consumer.health(300).problem
        )
        self.assertIn("ACCESS_REFUSED", consumer.health(300).problem)
        self.assertEqual(self.broker.queue("orders").unacked, 1)
        self.broker.set_permissions("guest", configure=".*", write=".*", read=".*")
        self.passes(90)
        self.assertEqual(consumer.health(300).problem, "")
        self.assertEqual(consumer.counts, Counts(retried=1, dead_lettered=1))
        self.flushLoggedErrors()

    def test_changed(self) -> None:
        """
        Retries that change, or are added, do not need another queue: the queue is used
        as it is, and the log has a policy that would change it.
        """
        for version in VERSIONS:
            self.begin(version)
            self.broker.declare_queue("orders", arguments=quorum_queue())
            consumer = self.failing(
                retry=RetrySettings(delays=(1.0, 2.0), parking="parked")
            )
            self.successResultOf(consumer.when_ready())
            self.broker.publish("", "orders", b"tea")
            self.passes(20)
            self.assertEqual(self.broker.queue("parked").ready, 1)
            self.assertIn(
                "rabbitmqctl set_policy --apply-to queues NAME '^orders$' "
                '\'{"delivery-limit": 25, "dead-letter-exchange": "", '
                '"dead-letter-routing-key": "parked"}\'',
                self.texts(),
            )
            self.flushLoggedErrors(ValueError)
            # Whether a queue is deleted by itself, a policy cannot change.
            self.broker.declare_queue("orders2", auto_delete=True)
            wanted = ConsumerSettings(queue="orders2", handler="x:y", declare=True)
            client = self.service(topology=Topology.of(*wanted.entities()))
            self.failureResultOf(client.when_ready(), TopologyFailed)

    def test_moved_back(self) -> None:
        """
        A dead message that somebody moves back to its queue is retried anew.
        """
        self.begin("4.3.6")
        self.failing(retry=RetrySettings(delays=(5.0, 30.0)))
        self.broker.publish("", "orders", b"tea")
        self.passes(60)
        first = [each - self.times[0] for each in self.times]
        self.times.clear()
        [dead] = self.broker.queue("orders.dead").messages
        self.broker.publish("", "orders", dead.body, dead.properties)
        self.passes(60)
        again = [each - self.times[0] for each in self.times]
        self.assertEqual(list(map(round, again)), list(map(round, first)))
        self.assertEqual(len(again), 3)
        self.flushLoggedErrors(ValueError)

    def test_blocked(self) -> None:
        """
        While the broker blocks publishers, failed messages do not occupy all slots, nor
        the whole prefetch window: others are handled.  Health says what is the matter,
        and a stop does not wait.
        """
        for version in VERSIONS:
            self.begin(version)
            handled: list[bytes] = []

            def handle(delivery: Delivery, handled: list[bytes] = handled) -> None:
                if len(delivery.body) == 1:
                    raise ValueError("no")
                handled.append(delivery.body)

            self.client = self.service()
            options = HandlerOptions(
                policy=FailurePolicy(on_error=OnError.REJECT, on_dead=Dead.QUEUE),
                retry_queues=RetryQueues(queue="work", dead_letter_queue="dead"),
                concurrency=10,
            )
            consumer = self.consume(handle, prefetch=10, options=options)
            self.broker.block("low on disk")
            self.publish(10)
            self.publish(20, 100)
            self.passes(10)
            self.assertEqual(len(handled), 20, version)
            self.assertEqual(
                (consumer.health().running, consumer.health().held), (0, 10)
            )
            self.passes(60)
            stopping = consumer.stopService()
            self.passes(5)
            self.successResultOf(stopping)
            self.assertEqual(consumer.counts.unfinished, 0)
            self.assertTrue(consumer.in_order)
            self.assertEqual(self.broker.queue("work").ready, 10)
            self.assertIn("the broker blocks publishers (low on disk)", self.texts())
            self.broker.unblock()
            self.turn()
            self.flushLoggedErrors(ValueError)

    def test_blocked_and_full(self) -> None:
        """
        When nothing can be handled any more, health says that the broker blocks.
        """
        self.begin("4.3.6")
        options = HandlerOptions(
            policy=FailurePolicy(on_error=OnError.REJECT, on_dead=Dead.QUEUE),
            retry_queues=RetryQueues(queue="work", dead_letter_queue="work.dead"),
        )

        def handle(delivery: Delivery) -> None:
            raise ValueError("no")

        consumer = self.consume(handle, prefetch=2, options=options)
        self.broker.declare_queue("work.dead")
        self.broker.block("low on disk")
        self.publish(30)
        self.passes(400)
        health = consumer.health(300)
        self.assertIn(health.held, (20, 21))
        self.assertIn(f"blocked: {health.held} failed messages wait", health.problem)
        self.broker.unblock()
        self.passes(30)
        self.assertEqual(consumer.health(300).problem, "")
        self.assertEqual(self.broker.queue("work.dead").ready, 30)
        self.flushLoggedErrors(ValueError)


class CrashTests(TroubleCase):
    """
    A message that ends the process that handles it.
    """

    def test_innocents(self) -> None:
        """
        Only the message that ends processes is counted out: the others that were
        prefetched with it are handled.
        """
        for version in VERSIONS:
            for place in (0, 4):
                self.begin(version)
                self.broker.declare_queue("dead")
                handled: set[bytes] = set()
                for number in range(10):
                    body = b"poison" if number == place else b"%d" % number
                    self.broker.publish("", "work", body)
                for _ in range(6):
                    self.process(handled)
                self.assertEqual(len(handled), 9, (version, place))
                self.assertEqual(self.broker.queue("work").ready, 0)
                [dead] = self.broker.queue("dead").messages
                self.assertEqual(dead.body, b"poison")

    def process(self, handled: set[bytes]) -> None:
        """
        Run a process, until a message ends it, or there are none.
        """

        def handle(delivery: Delivery) -> Deferred[None]:
            if delivery.body == b"poison":
                self.link.cut()
                return Deferred()
            if not self.ended:
                handled.add(delivery.body)
            return deferLater(self.reactor, 0.01, lambda: None)

        self.ended = False
        self.client = self.service(start=False)
        consumer = ConsumerService(self.client, "work", handle, options=COUNTING)
        consumer.startService()
        self.client.startService()
        self.passes(1, 0.05)
        # The process has gone, whatever it was doing.
        self.ended = True
        self.link.cut()
        stopping = [consumer.stopService(), self.client.stopService()]
        consumer.skip_grace_period()
        self.passes(40)
        for each in stopping:
            self.successResultOf(each)
        self.flushLoggedErrors()

    def test_looking(self) -> None:
        """
        While such messages are handled one by one, health says so; the service is
        ready meanwhile.
        """
        self.begin("4.3.6")
        for _ in range(2):
            self.publish(3)
            self.client = self.service()
            channel = self.successResultOf(self.opened())
            got: list[Delivery] = []
            channel.basic_consume("work", got.append)
            self.turn()
            self.cut()
            self.passes(5)
        running: list[Deferred[None]] = []

        def handle(delivery: Delivery) -> Deferred[None]:
            running.append(Deferred())
            return running[-1]

        consumer = self.consume(handle, options=COUNTING)
        self.successResultOf(consumer.when_ready())
        self.assertEqual(len(running), 1)
        self.assertIn("one by one", consumer.health().problem)
        for each in running:  # which grows
            each.callback(None)
            self.turn()
        self.assertEqual(len(running), 6)
        self.assertEqual(consumer.health().problem, "")
        self.assertTrue(consumer.subscribed)
        stopping = consumer.stopService()
        self.passes(1)
        self.successResultOf(stopping)

    def opened(self) -> Any:
        """
        A channel of the client.
        """
        assert self.client.connection is not None
        opening = self.client.connection.open_channel()
        self.turn()
        return opening

    def test_stopped_while_looking(self) -> None:
        """
        The service can be stopped while it fetches such messages.
        """
        self.begin("4.3.6")
        self.publish(1)
        consumer = self.consume(lambda delivery: Deferred(), options=COUNTING)
        stopping = consumer.stopService()
        consumer.skip_grace_period()
        self.passes(10)
        self.successResultOf(stopping)
        self.assertEqual(self.broker.queue("work").ready, 1)
        self.assertEqual(consumer.counts, Counts(unfinished=1))

    def test_no_queue(self) -> None:
        """
        A queue that is missing is told as always.
        """
        self.begin("4.3.6")
        self.broker.delete_queue("work")
        consumer = self.consume(lambda delivery: None, options=COUNTING)
        self.passes(1)
        self.failureResultOf(consumer.when_ended())


class RefusedHandlersTests(TroubleCase):
    """
    Handlers that would do nothing are refused by name.
    """

    def test_kinds(self) -> None:
        """
        Generator functions, of both kinds, are refused when the service is made, and
        what cannot be called.
        """

        def generator(delivery: Delivery) -> Any:
            yield

        async def asynchronous(delivery: Delivery) -> Any:
            yield

        class Callable:
            def __call__(self, delivery: Delivery) -> Any:
                yield

        self.begin("4.3.6")
        for handler in (generator, asynchronous, Callable(), 3):
            error = self.assertRaises(
                TypeError, ConsumerService, self.client, "work", handler
            )
            self.assertRegex(str(error), "whose body would not run|no handler")


class StreamTests(TroubleCase):
    """
    A stream on RabbitMQ 3, which closes the connection for whatever is no ack.
    """

    def test_failures(self) -> None:
        """
        Whatever its handler does, and when the service stops, the connection lives.
        """
        for version in VERSIONS:
            self.begin(version)
            self.broker.declare_queue("events", arguments={"x-queue-type": "stream"})
            for number in range(6):
                self.broker.publish("", "events", b"%d" % number)

            def handle(delivery: Delivery) -> Deferred[None]:
                if int(delivery.body) % 2:
                    raise ValueError("no")
                return deferLater(self.reactor, 60, lambda: None)

            consumer = self.consume(
                handle,
                "events",
                arguments=stream_consumer("first"),
                prefetch=10,
                options=HandlerOptions(concurrency=2),
            )
            self.passes(30)
            stopping = consumer.stopService()
            self.passes(60)
            self.successResultOf(stopping)
            self.assertEqual(len(self.endpoint.links), 1, version)
            self.flushLoggedErrors(ValueError)

    def test_made_anew(self) -> None:
        """
        A stream that ends before the offset of the file is another one: it is read from
        its first message, and the log says so.
        """
        for version in VERSIONS:
            for count in (0, 5):
                self.begin(version)
                self.broker.declare_queue(
                    "events", arguments={"x-queue-type": "stream"}
                )
                for number in range(count):
                    self.broker.publish("", "events", b"%d" % number)
                path = Path(self.mktemp())
                OffsetFile(str(path), "events").keep(1000)
                seen: list[bytes] = []

                def handle(delivery: Delivery, seen: list[bytes] = seen) -> None:
                    seen.append(delivery.body)

                consumer = self.consume(
                    handle,
                    "events",
                    arguments=stream_consumer("next"),
                    offsets=OffsetFile(str(path), "events"),
                )
                self.passes(5)
                self.broker.publish("", "events", b"last")
                self.passes(10)
                expected = [b"%d" % number for number in range(count)]
                self.assertEqual(seen, [*expected, b"last"], version)
                self.assertIn("ends before offset 1000", self.texts())
                stopping = consumer.stopService()
                self.passes(1)
                self.successResultOf(stopping)
                self.assertEqual(OffsetFile(str(path), "events").kept, count + 1)

    def test_one_file(self) -> None:
        """
        Two consumers with one file are refused, until the first has stopped.
        """
        self.begin("4.3.6")
        self.broker.declare_queue("events", arguments={"x-queue-type": "stream"})
        path = self.mktemp()
        consumers = [
            ConsumerService(
                self.client,
                "events",
                lambda delivery: None,
                arguments=stream_consumer("first"),
                offsets=OffsetFile(path, "events"),
            )
            for _ in range(2)
        ]
        consumers[0].startService()
        error = self.assertRaises(OffsetFileInUse, consumers[1].startService)
        self.assertIn("a file of its own", str(error))
        self.turn()
        for each in consumers:
            each.startService()
            self.turn()
            stopping = each.stopService()
            self.passes(1)
            self.successResultOf(stopping)


class DrainTests(TroubleCase):
    """
    A stop that the broker does not confirm.
    """

    def test_not_confirmed(self) -> None:
        """
        When the broker does not confirm the end of a channel in time, the log says so,
        and the stop was not in order.
        """
        self.begin("4.3.6")
        consumer = self.consume(lambda delivery: None, shutdown_timeout=8.0)
        self.publish(1)
        self.assertTrue(consumer.in_order)
        self.link.hole()
        stopping = consumer.stopService()
        self.passes(40)
        self.successResultOf(stopping)
        self.assertFalse(consumer.in_order)
        self.assertIn("has not confirmed the end of a channel in time", self.texts())

    def test_confirmed(self) -> None:
        """
        The service has stopped when the broker has confirmed the end of the channel,
        and so has processed all acknowledgements.
        """
        self.begin("4.3.6")
        consumer = self.consume(lambda delivery: None)
        self.publish(3)
        self.link.delay = 2.0
        self.publish(3)
        stopping = consumer.stopService()
        self.passes(3.5)
        self.assertNoResult(stopping)
        self.passes(10)
        self.successResultOf(stopping)
        queue = self.broker.queue("work")
        self.assertEqual(queue.unacked, 0)
        self.assertTrue(consumer.in_order)
