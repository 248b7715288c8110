# -*- test-case-name: txamqp091.test.unit.testing.test_assertions -*-
"""
Tests for `txamqp091.testing.assertions`: what holds, and what is said when it does not.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.testing.assertions import BrokerAssertions
from txamqp091.testing.memory import MemoryBroker
from txamqp091.wire.properties import Properties


class Asserting(BrokerAssertions, SynchronousTestCase):
    """
    A test case that has a broker.
    """


class AssertionCase(SynchronousTestCase):
    """
    A broker to which something was published.
    """

    def setUp(self) -> None:
        self.case = Asserting()
        self.broker = self.case.broker = MemoryBroker()
        self.broker.declare_queue("orders")
        self.broker.declare_exchange("invoices", "topic")

    def complaint(self, assertion: Callable[..., object], *args: object) -> str:
        """
        What an assertion that fails says.
        """
        error = self.assertRaises(self.case.failureException, assertion, *args)
        return str(error)

    def complains(self, function: Callable[[], object], *lines: str) -> None:
        """
        An assertion fails, and says this.
        """
        self.assertEqual(self.complaint(function).splitlines(), [*lines])


class PublishedTests(AssertionCase):
    """
    What was published.
    """

    def setUp(self) -> None:
        super().setUp()
        properties = Properties(content_type="text/plain", headers={"a": 1, "b": 2})
        self.broker.publish("", "orders", b"tea")
        self.broker.publish("invoices", "new", b"2.50", properties)

    def test_found(self) -> None:
        """
        What is not given may be anything, and the message is there to be looked at.
        """
        self.case.assertPublished()
        self.case.assertPublished("", "orders", "tea", count=1)
        self.case.assertPublished(headers={"b": 2}, content_type="text/plain")
        found = self.case.assertPublished(body=b"2.50")
        self.assertEqual((found.exchange, found.routing_key), ("invoices", "new"))
        self.case.assertNotPublished("invoices", body="tea")

    def test_none(self) -> None:
        """
        That there is no such message is said by another assertion.
        """
        self.assertRaises(ValueError, self.case.assertPublished, count=0)

    def test_last(self) -> None:
        """
        Of several messages the last one is returned.
        """
        self.broker.publish("", "orders", b"coffee")
        self.assertEqual(self.case.assertPublished("", count=2).body, b"coffee")

    def test_not_found(self) -> None:
        """
        It is said what was published instead, and where each is different.
        """
        self.complains(
            lambda: self.case.assertPublished("invoices", "old", "2.50", type="x"),
            "No message was published to exchange 'invoices' with routing key 'old' "
            "and body b'2.50', type 'x'.  Published, the latest last:",
            "  '' 'orders' b'tea'   differs in exchange, routing_key, body, type",
            "  'invoices' 'new' b'2.50'   differs in routing_key, type",
        )

    def test_headers(self) -> None:
        """
        Headers are wrong that are not there, or have another value.
        """
        for headers in ({"a": 2}, {"c": 1}):
            said = self.complaint(
                lambda headers=headers: self.case.assertPublished(headers=headers)
            )
            self.assertIn("b'2.50'   differs in headers", said)

    def test_count(self) -> None:
        """
        Neither more nor less than so many messages will do.
        """
        self.complains(
            lambda: self.case.assertPublished(body="tea", count=2),
            "1 message was published with body b'tea', and not 2.  "
            "Published, the latest last:",
            "  '' 'orders' b'tea'",
            "  'invoices' 'new' b'2.50'   differs in body",
        )

    def test_unwanted(self) -> None:
        """
        What should not have been published is shown.
        """
        self.complains(
            lambda: self.case.assertNotPublished("invoices"),
            "1 message was published to exchange 'invoices':",
            "  'invoices' 'new' b'2.50'",
        )

    def test_many(self) -> None:
        """
        Of many messages the last ones are shown, of a long body the beginning.
        """
        for number in range(30):
            self.broker.publish("", "orders", b"%d" % number + bytes(100))
        said = self.complaint(self.case.assertPublished, "nowhere")
        self.assertIn("\n  ... and 12 before these:\n", said)
        self.assertIn("b'29\\x00", said)
        self.assertIn("... (102 bytes)", said)
        self.assertEqual(said.count("\n"), 21)

    def test_nothing(self) -> None:
        """
        That nothing was published at all is said.
        """
        self.broker.published.clear()
        self.complains(
            self.case.assertPublished,
            "No message was published.  Published, the latest last: nothing",
        )


class QueueTests(AssertionCase):
    """
    What is in a queue.
    """

    def test_right(self) -> None:
        """
        What is not given may be anything, and the queue is there to be looked at.
        """
        self.broker.publish("", "orders", b"tea")
        self.case.assertQueue("orders")
        view = self.case.assertQueue(
            "orders", ready=1, unacked=0, consumers=0, bodies=["tea"]
        )
        self.assertTrue(view.durable)
        self.case.assertNoQueue("bills")

    def test_wrong(self) -> None:
        """
        All that is wrong is said, and what is in the queue.
        """
        self.broker.publish("", "orders", b"tea")
        self.complains(
            lambda: self.case.assertQueue("orders", ready=0, consumers=2, bodies=[]),
            "Queue 'orders': ready is 1 and not 0; consumers is 0 and not 2; "
            "bodies are [b'tea'] and not [].  Ready:",
            "  '' 'orders' b'tea'",
            "Unacked: nothing",
        )

    def test_none(self) -> None:
        """
        A queue that is not there is missed, with the names of those that are.
        """
        self.complains(
            lambda: self.case.assertQueue("bills"),
            "There is no queue 'bills'.  Queues: 'orders'",
        )
        self.broker.delete_queue("orders")
        self.complains(
            lambda: self.case.assertQueue("orders"),
            "There is no queue 'orders'.  Queues: none",
        )

    def test_unwanted(self) -> None:
        """
        A queue that should not be there is shown.
        """
        self.complains(
            lambda: self.case.assertNoQueue("orders"),
            "There is a queue 'orders': "
            "<QueueView 'orders': 0 ready, 0 unacked, 0 consumers>",
        )
