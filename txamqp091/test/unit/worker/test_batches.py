# -*- test-case-name: txamqp091.test.unit.worker.test_batches -*-
"""
Handlers that are called with several deliveries at once.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import TestCase

from txamqp091._threads import ThreadRunner
from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.worker.batches import Batches, Partial
from txamqp091.worker.counts import Counts
from txamqp091.worker.decoding import UndecodableBody
from txamqp091.worker.failure_policy import (
    Dead,
    FailurePolicy,
    HandlerTimeout,
    OnError,
    Reject,
)
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.retry_queues import RetryQueues


class BatchTests(ConsumerServiceCase):
    """
    A consumer with batches of at most three messages.
    """

    def setUp(self) -> None:
        super().setUp()
        self.batches: list[list[Any]] = []
        self.ends: list[Deferred[Any]] = []

    def gather(self, deliveries: list[Any]) -> Deferred[Any]:
        """
        A handler that takes until the test fires its Deferred.
        """
        self.batches.append(deliveries)
        self.ends.append(Deferred())
        return self.ends[-1]

    def batching(self, messages: int, **options: Any) -> Any:
        """
        A consumer that consumes, and has so many messages.
        """
        options = {"handler": self.gather, "batch": 3, "batch_wait": 0.5, **options}
        consumer = self.consumer(**options)
        consumer.startService()
        self.publish(*range(messages))
        return consumer

    def publish(self, *numbers: int) -> None:
        """
        Publish messages.
        """
        for number in numbers:
            self.broker.publish("", "work", b"%d" % number)
        self.turn()

    def bodies(self) -> list[list[bytes]]:
        """
        The bodies of each batch.
        """
        return [[each.body for each in batch] for batch in self.batches]

    def test_full(self) -> None:
        """
        A batch that is full is handled at once; the rest after a while.
        """
        consumer = self.batching(5)
        self.assertEqual(self.bodies(), [[b"0", b"1", b"2"]])
        self.passes(0.5)
        self.assertEqual(self.bodies()[1:], [[b"3", b"4"]])
        self.assertEqual(self.counts(), (0, 5, 1))
        self.ends[0].callback(None)
        self.turn()
        self.assertEqual(self.counts(), (0, 2, 1))
        self.ends[1].callback(None)
        self.turn()
        self.assertEqual(consumer.counts, Counts(acknowledged=5))

    def test_one_ack(self) -> None:
        """
        The acknowledgements of a batch leave as one.
        """
        consumer = self.batching(3)
        connection = consumer._client.connection
        before = connection.bytes_sent
        self.ends[0].callback(None)
        self.turn()
        self.assertEqual(connection.bytes_sent - before, 21)
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_failure(self) -> None:
        """
        A batch that fails fails for each of its messages; each is tried again, and then
        they may be in another batch.
        """
        self.batching(2, options=HandlerOptions(policy=FailurePolicy(pause=2.0)))
        self.passes(0.5)
        self.ends[0].errback(ValueError("no"))
        self.turn()
        self.passes(1.5)
        self.publish(2)
        self.assertEqual(len(self.batches), 1)
        self.passes(0.5)
        self.assertEqual(self.bodies()[1:], [[b"2", b"0", b"1"]])
        self.ends[1].callback(None)
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 1))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_partial(self) -> None:
        """
        A handler can say which messages have failed, by raising or returning that.
        """
        self.broker.declare_queue("work.dead")
        consumer = self.batching(
            6,
            options=HandlerOptions(
                policy=FailurePolicy(on_error=OnError.REJECT, on_dead=Dead.QUEUE),
                retry_queues=RetryQueues(queue="work", dead_letter_queue="work.dead"),
            ),
        )
        first, second = self.batches
        self.ends[0].errback(Partial({first[1]: Reject("spoilt")}))
        self.ends[1].callback(Partial({second[0]: Reject, second[2]: KeyError()}))
        self.turn()
        self.assertEqual(consumer.counts, Counts(acknowledged=3, dead_lettered=3))
        dead = [each.body for each in self.broker.queue("work.dead").messages]
        self.assertEqual(dead, [b"1", b"3", b"5"])
        self.flushLoggedErrors(KeyError)

    def test_partial_of_another_batch(self) -> None:
        """
        A delivery of another batch is a mistake, which fails the batch.
        """
        self.batching(4, options=HandlerOptions(policy=FailurePolicy(pause=60.0)))
        self.passes(0.5)
        self.ends[1].callback(Partial({self.batches[0][0]: Reject()}))
        self.ends[0].callback(None)
        self.turn()
        [failure] = self.flushLoggedErrors(ValueError)
        self.assertIn("not in the batch", str(failure.value))
        self.assertEqual(self.counts(), (0, 1, 1))

    def test_decoded(self) -> None:
        """
        With a decoder the handler gets pairs; a body that cannot be decoded is dead,
        and the others are handled.
        """
        consumer = self.batching(
            0,
            decode="json",
            options=HandlerOptions(
                policy=FailurePolicy(on_error=OnError.DROP, on_dead=Dead.DROP)
            ),
        )
        for body in (b"[1]", b"{", b"[2]"):
            self.broker.publish("", "work", body)
        self.turn()
        [batch] = self.batches
        self.assertEqual([body for body, _ in batch], [[1], [2]])
        self.ends[0].callback(None)
        self.turn()
        self.assertEqual(consumer.counts, Counts(acknowledged=2, discarded=1))
        self.flushLoggedErrors(UndecodableBody)

    def test_concurrency(self) -> None:
        """
        The concurrency is a number of batches.
        """
        self.batching(9, options=HandlerOptions(concurrency=2))
        self.assertEqual(len(self.batches), 2)
        self.ends[1].callback(None)
        self.turn()
        self.assertEqual(self.bodies()[2:], [[b"6", b"7", b"8"]])
        for end in (self.ends[0], self.ends[2]):
            end.callback(None)

    def test_stop(self) -> None:
        """
        A stop handles what is gathered, and waits for it.
        """
        consumer = self.batching(2)
        self.assertEqual(self.batches, [])
        stopped = consumer.stopService()
        self.turn()
        self.assertEqual(self.bodies(), [[b"0", b"1"]])
        self.assertNoResult(stopped)
        self.ends[0].callback(None)
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.counts(), (0, 0, 0))
        self.assertEqual(consumer.counts, Counts(acknowledged=2))

    def test_stop_is_late(self) -> None:
        """
        A batch that a stop gives up goes back to the queue.
        """
        consumer = self.batching(3, shutdown_timeout=5.0)
        stopped = consumer.stopService()
        self.passes(10)
        self.successResultOf(stopped)
        self.assertTrue(self.ends[0].called)
        self.assertEqual(self.counts(), (3, 0, 0))
        self.assertEqual(consumer.counts, Counts(unfinished=3))

    def test_timeout(self) -> None:
        """
        The time of a batch begins when the batch is complete.
        """
        options = HandlerOptions(timeout=2.0, policy=FailurePolicy(pause=60.0))
        consumer = self.batching(1, batch_wait=10.0, options=options)
        self.passes(10)
        self.assertEqual(len(self.batches), 1)
        self.passes(1.5)
        self.assertEqual(consumer.counts, Counts())
        self.passes(0.5)
        self.assertTrue(self.ends[0].called)
        self.assertEqual(consumer.counts, Counts(retried=1))
        self.assertEqual(len(self.flushLoggedErrors(HandlerTimeout)), 1)
        consumer.stopService()

    def test_connection_lost(self) -> None:
        """
        What was gathered when the connection was lost is not handled: it comes again.
        """
        consumer = self.batching(2)
        self.cut()
        self.passes(1.0)
        self.passes(2.0)
        self.assertEqual(self.bodies(), [[b"0", b"1"]])
        self.assertFalse(any(each.is_stale for each in self.batches[0]))
        self.ends[0].callback(None)
        self.turn()
        self.assertEqual(consumer.counts.acknowledged, 2)

    def test_refused(self) -> None:
        """
        A batch that can never be complete is refused, and so is an order.
        """
        with self.assertRaisesRegex(ValueError, "larger than the prefetch limit of 2"):
            self.consumer(batch=3, prefetch=2)
        with self.assertRaisesRegex(ValueError, "order_by"):
            self.consumer(batch=3, options=HandlerOptions(order_by="routing-key"))
        with self.assertRaisesRegex(ValueError, "less than 0"):
            self.consumer(batch=-1)

    def test_settled_by_the_handler(self) -> None:
        """
        A handler may settle messages itself.
        """
        consumer = self.batching(3)
        self.batches[0][0].ack()
        self.ends[0].callback(None)
        self.turn()
        self.assertEqual(consumer.counts, Counts(acknowledged=2, settled=1))


class ThreadTests(TestCase):
    """
    Batches in threads.
    """

    async def test_thread(self) -> None:
        """
        The handler of a batch is called in a thread, once for all.
        """
        from twisted.internet import reactor
        from twisted.internet.task import Clock

        threads = ThreadRunner(cast(IReactorFromThreads, reactor), 1, "test")
        self.addCleanup(threads.stop)
        seen: list[int] = []

        def handler(deliveries: list[Delivery]) -> Partial:
            seen.append(len(deliveries))
            return Partial({deliveries[0]: KeyError("no")})

        clock: Any = Clock()
        batches = Batches(handler, 2, 1.0, clock, threads=threads)
        first, second = (batches(cast(Delivery, Stub())) for _ in range(2))
        await second
        await self.assertFailure(first, KeyError)
        self.assertEqual(seen, [2])
        self.assertEqual(clock.getDelayedCalls(), [])


class Stub:
    """
    As much of a delivery as a batch looks at.
    """

    is_stale = settled = False
