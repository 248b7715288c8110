# -*- test-case-name: txamqp091.test.unit.client.test_get -*-
"""
Tests for ``basic_get``, which fetches one message.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from txamqp091.errors import AlreadySettled, ContentTooLarge, NotFound
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class GetTests(ChannelCase):
    """
    ``basic_get``.
    """

    def test_get(self) -> None:
        """
        The message is a delivery, with no consumer, to be answered for as others.
        """
        getting = self.channel.basic_get("work")
        self.assertEqual(self.heard(), [spec.BasicGet(0, "work", False)])
        method = spec.BasicGetOk(7, True, "logs", "a.b", 12)
        self.peer.feed(
            self.peer.content(1, method, b"body", Properties(headers={"a": 1}))
        )
        delivery = self.successResultOf(getting)
        assert delivery is not None
        self.assertEqual(delivery.body, b"body")
        self.assertEqual((delivery.exchange, delivery.routing_key), ("logs", "a.b"))
        self.assertEqual((delivery.delivery_tag, delivery.redelivered), (7, True))
        self.assertEqual((delivery.consumer_tag, delivery.headers), ("", {"a": 1}))
        delivery.ack()
        self.assertEqual(self.heard(), [spec.BasicAck(7, False)])
        self.assertRaises(AlreadySettled, delivery.ack)

    def test_empty(self) -> None:
        """
        An empty queue gives None.
        """
        getting = self.channel.basic_get("work")
        self.peer.send(1, spec.BasicGetEmpty())
        self.assertIsNone(self.successResultOf(getting))

    def test_many(self) -> None:
        """
        Many are asked for at once, and come in order.
        """
        gets = [self.channel.basic_get("work", auto_ack=True) for _ in range(3)]
        self.assertEqual(self.heard(), [spec.BasicGet(0, "work", True)] * 3)
        self.give(1, b"1")
        self.give(2, b"2")
        self.peer.send(1, spec.BasicGetEmpty())
        first, second, third = (self.successResultOf(each) for each in gets)
        assert first is not None and second is not None
        self.assertEqual((first.body, second.body, third), (b"1", b"2", None))
        self.assertTrue(first.settled)

    def test_cancelled(self) -> None:
        """
        When it is cancelled the message goes back, unless ``auto_ack`` has taken it;
        the next one gets its own.
        """
        first = self.channel.basic_get("work")
        second = self.channel.basic_get("work", auto_ack=True)
        third = self.channel.basic_get("work")
        for each in [first, second]:
            each.cancel()
            self.reason(each, CancelledError)
        self.heard()
        for tag in [1, 2, 3]:
            self.give(tag)
        self.assertEqual(self.heard(), [spec.BasicNack(1, False, True)])
        delivery = self.successResultOf(third)
        assert delivery is not None
        self.assertEqual(delivery.delivery_tag, 3)

    def test_cancelled_and_empty(self) -> None:
        """
        There is nothing to put back when the queue was empty, or the channel ended.
        """
        first, second = self.channel.basic_get("work"), self.channel.basic_get("work")
        for each in [first, second]:
            each.cancel()
            self.reason(each, CancelledError)
        self.peer.send(1, spec.BasicGetEmpty(), spec.ChannelClose(404, "no", 60, 70))
        self.reason(self.channel.when_closed(), NotFound)

    def test_too_large(self) -> None:
        """
        Criterion 7: a message over the limit is left to who asked, by its number; it
        goes back when that was cancelled.
        """
        self.channel._machine.max_body = 10
        gets = [
            self.channel.basic_get("work"),
            self.channel.basic_get("work", auto_ack=True),
            self.channel.basic_get("work"),
        ]
        gets[2].cancel()
        self.reason(gets[2], CancelledError)
        self.heard()
        for tag in [1, 2, 3]:
            self.give(tag, b"x" * 11)
        error = self.reason(gets[0], ContentTooLarge)
        self.assertEqual((error.size, error.limit, error.delivery_tag), (11, 10, 1))
        self.reason(gets[1], ContentTooLarge)
        self.assertEqual(self.heard(), [spec.BasicNack(3, False, True)])
        self.channel.basic_nack(0, multiple=True, requeue=False)
        self.assertEqual(self.heard(), [spec.BasicNack(1, True, False)])
        self.assertTrue(self.peer.client.is_open)

    def test_names_that_are_not_utf8(self) -> None:
        """
        Names that are not UTF-8 can be read.
        """
        getting = self.channel.basic_get("work")
        method = spec.BasicGetOk(1, False, "\udcff", "a\udc80", 0)
        self.peer.feed(self.peer.content(1, method))
        delivery = self.successResultOf(getting)
        assert delivery is not None
        self.assertEqual(
            (delivery.exchange, delivery.routing_key), ("\udcff", "a\udc80")
        )
