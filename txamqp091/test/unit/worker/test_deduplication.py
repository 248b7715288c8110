# -*- test-case-name: txamqp091.test.unit.worker.test_deduplication -*-
"""
Messages that come twice, and are handled once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.wire.properties import Properties
from txamqp091.worker.counts import Counts
from txamqp091.worker.deduplication import Deduplicate, RecentMessageIds
from txamqp091.worker.failure_policy import FailurePolicy
from txamqp091.worker.handler_runner import HandlerOptions


class DeduplicateTests(ConsumerServiceCase):
    """
    A consumer that handles each message once.
    """

    def publish(self, *ids: str | None) -> None:
        """
        Publish messages with ids.
        """
        for each in ids:
            self.broker.publish("", "work", b"x", Properties(message_id=each))
        self.turn()

    def test_once(self) -> None:
        """
        A message that was handled is acknowledged when it comes again; one without an
        id is handled each time.
        """
        seen: list[Any] = []

        def handler(delivery: Delivery) -> None:
            seen.append(delivery.properties.message_id)

        consumer = self.consuming(handler=handler, middleware=[Deduplicate()])
        self.publish("a", "b", "a", None, None)
        self.assertEqual(seen, ["a", "b", None, None])
        self.assertEqual(consumer.counts, Counts(acknowledged=5))

    def test_at_the_same_time(self) -> None:
        """
        The second copy waits for the first one, and is handled if that has failed.
        """
        options = HandlerOptions(policy=FailurePolicy(pause=60.0))
        self.consuming(middleware=[Deduplicate()], options=options)
        self.publish("a", "a", "a")
        self.assertEqual(len(self.running), 1)
        self.running[0][1].errback(ValueError("no"))
        self.turn()
        self.assertEqual(len(self.running), 2)
        self.running[1][1].callback(None)
        self.turn()
        self.assertEqual(len(self.running), 2)
        self.assertEqual(self.counts(), (0, 1, 1))
        self.passes(60)
        self.assertEqual(self.counts(), (0, 0, 1))
        self.assertEqual(len(self.running), 2)
        self.flushLoggedErrors(ValueError)

    def test_own_store(self) -> None:
        """
        A store of the user's own may answer later, or be a coroutine.
        """
        ids: set[str] = {"old"}

        class Store:
            def contains(self, message_id: str) -> Deferred[bool]:
                return succeed(message_id in ids)

            async def add(self, message_id: str) -> None:
                ids.add(message_id)

        consumer = self.consuming(
            handler=lambda _: None, middleware=[Deduplicate(Store())]
        )
        self.publish("old", "new")
        self.assertEqual(ids, {"old", "new"})
        self.assertEqual(consumer.counts, Counts(acknowledged=2))

    def test_stop_while_it_waits(self) -> None:
        """
        A copy that waits for another one when the consumer is stopped goes back.
        """
        consumer = self.consuming(middleware=[Deduplicate()], shutdown_timeout=1.0)
        self.publish("a", "a")
        stopped = consumer.stopService()
        self.passes(2)
        self.successResultOf(stopped)
        self.assertEqual(self.counts(), (2, 0, 0))


class RecentMessageIdsTests(SynchronousTestCase):
    """
    Tests for `RecentMessageIds`.
    """

    def test_limit(self) -> None:
        """
        The oldest ids are forgotten.
        """
        ids = RecentMessageIds(2)
        for each in ("a", "b", "a", "c"):
            ids.add(each)
        self.assertEqual([ids.contains(each) for each in "abc"], [True, False, True])
        self.assertEqual(len(ids), 2)
        with self.assertRaises(ValueError):
            RecentMessageIds(0)
