# -*- test-case-name: txamqp091.test.unit.worker.test_pause -*-
"""
Consumers that are paused and resumed.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.consumer import Handler
from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.worker.counts import Counts
from txamqp091.worker.failure_policy import Pause
from txamqp091.worker.handler_runner import HandlerOptions


class PauseTests(ConsumerServiceCase):
    """
    Tests for `ConsumerService.pause` and `Pause`.
    """

    def test_pause(self) -> None:
        """
        A paused consumer finishes what runs, and gives back what waits.
        """
        consumer = self.consumer(options=HandlerOptions(concurrency=1))
        consumer.startService()
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        consumer.pause()
        self.turn()
        self.assertEqual(self.counts(), (2, 1, 0))
        self.running[0][1].callback(None)
        self.passes(100)
        self.assertEqual(self.counts(), (2, 0, 0))
        health = consumer.health(stalled_after=1.0)
        self.assertEqual((health.paused, health.resumes_in), (True, None))
        self.assertEqual(health.problem, "")
        consumer.resume()
        self.turn()
        self.assertEqual(self.counts(), (0, 2, 1))
        for _, result in self.running[1:]:
            result.callback(None)
        self.turn()
        self.running[-1][1].callback(None)
        self.turn()
        self.assertEqual(consumer.counts, Counts(acknowledged=3))
        self.assertFalse(consumer.health().paused)

    def test_seconds(self) -> None:
        """
        A pause may have an end; a later pause replaces it.
        """
        consumer = self.consuming()
        consumer.pause(10)
        self.passes(4)
        self.assertEqual(consumer.health().resumes_in, 6.0)
        consumer.pause(10)
        self.passes(9)
        self.assertTrue(consumer.paused)
        self.passes(1)
        self.assertFalse(consumer.paused)
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_raised(self) -> None:
        """
        A handler that raises `Pause` has its message go back, and nothing is consumed
        for a while.
        """
        down = [True]

        def handler(delivery: Delivery) -> None:
            if down[0]:
                raise Pause(60)

        consumer = self.consuming(handler=handler)
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(self.counts(), (1, 0, 0))
        self.assertEqual(consumer.counts, Counts(requeued=1))
        down[0] = False
        self.passes(59)
        self.assertEqual(self.counts(), (1, 0, 0))
        self.passes(1)
        self.assertEqual(self.counts(), (0, 0, 1))
        self.assertEqual(consumer.counts, Counts(requeued=1, acknowledged=1))

    def test_reconnect(self) -> None:
        """
        A consumer stays paused when the connection is lost.
        """
        consumer = self.consuming()
        consumer.pause()
        self.cut()
        self.passes(10)
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(self.counts(), (1, 0, 0))
        consumer.resume()
        self.turn()
        self.assertEqual(self.counts(), (0, 1, 1))
        self.running[0][1].callback(None)

    def test_lost_before(self) -> None:
        """
        It may be paused, and resumed, while there is no connection.
        """
        consumer = self.consuming()
        self.cut()
        consumer.pause()
        consumer.resume()
        consumer.pause()
        self.passes(10)
        self.assertEqual(self.counts(), (0, 0, 0))
        consumer.resume()
        self.passes(1)
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_before_the_start(self) -> None:
        """
        A consumer that was paused before it was started waits.
        """
        consumer = self.consumer()
        consumer.pause()
        consumer.startService()
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 0))
        self.assertNoResult(consumer.when_ready())
        consumer.resume()
        self.turn()
        self.successResultOf(consumer.when_ready())
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_stop(self) -> None:
        """
        A paused consumer can be stopped, and started again.
        """
        consumer = self.consuming()
        consumer.pause(60)
        self.passes(1)
        stopped = consumer.stopService()
        self.turn()
        self.successResultOf(stopped)
        self.successResultOf(consumer.when_ended())
        self.assertFalse(consumer.paused)
        consumer.startService()
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_change(self) -> None:
        """
        Other options do not resume it.
        """
        consumer = self.consuming()
        consumer.pause()
        consumer.change(HandlerOptions(), 7)
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 0))
        consumer.resume()
        consumer.resume()
        self.turn()
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_wrong(self) -> None:
        """
        A pause has a time that is possible.
        """
        for seconds in (-1, float("inf"), float("nan")):
            with self.assertRaises(ValueError):
                Pause(seconds)

    def test_circuit_breaker(self) -> None:
        """
        A middleware can pause the consumer after some failures.
        """

        def circuit_breaker(handler: Any) -> Handler:
            failures = 0

            async def handle(delivery: Delivery) -> None:
                nonlocal failures
                try:
                    await handler(delivery)
                except ValueError:
                    failures += 1
                    if failures >= 3:
                        raise Pause(30) from None
                    raise
                failures = 0

            return handle

        down = [True]
        calls: list[float] = []

        def handler(delivery: Delivery) -> Deferred[None] | None:
            calls.append(self.clock.seconds())
            if down[0]:
                raise ValueError("the database is down")
            return None

        consumer = self.consuming(
            handler=handler,
            middleware=[circuit_breaker],
            options=HandlerOptions(concurrency=1),
        )
        for _ in range(5):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(calls, [0.0] * 3)
        self.assertTrue(consumer.paused)
        down[0] = False
        self.passes(40)
        self.assertEqual(consumer.counts.acknowledged, 5)
        self.assertEqual(min(calls[3:]), 30.0)
        self.flushLoggedErrors(ValueError)
