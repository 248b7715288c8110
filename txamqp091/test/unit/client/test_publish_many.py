# -*- test-case-name: txamqp091.test.unit.client.test_publish_many -*-
"""
Tests for `Channel.publish_many`: one Deferred for many messages, which are drawn as
they may leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.errors import (
    BatchFailed,
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    EncodeError,
    Nacked,
    NotFound,
    Returned,
)
from txamqp091.message import Message
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class BatchCase(ChannelCase):
    """
    Batches of messages.
    """

    def setUp(self) -> None:
        """
        Count what is drawn.
        """
        super().setUp()
        self.drawn = 0

    def messages(self, end: int | None = None) -> Iterator[Message]:
        """
        Messages with their places as bodies; without an end if none is given.
        """
        for place in count():
            if place == end:
                return
            self.drawn += 1
            yield Message("", "work", b"%d" % place)

    def failures(self, batch: Deferred[None]) -> dict[int, type[BaseException]]:
        """
        The places of the messages that failed, and how.
        """
        error = self.reason(batch, BatchFailed)
        return {place: type(why) for place, why in error.failures}


class ConfirmedTests(BatchCase):
    """
    Batches in confirm mode.
    """

    def test_all(self) -> None:
        """
        The Deferred fires when all are confirmed.
        """
        self.confirming()
        batch = self.channel.publish_many(self.messages(3))
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])
        self.peer.send(1, spec.BasicAck(2, True))
        self.assertNoResult(batch)
        self.peer.send(1, spec.BasicAck(3))
        self.assertIsNone(self.successResultOf(batch))

    def test_empty(self) -> None:
        """
        No messages are a success at once.
        """
        self.confirming()
        self.assertIsNone(self.successResultOf(self.channel.publish_many([])))

    def test_drawn_as_they_may_leave(self) -> None:
        """
        Criterion 13: no more messages are drawn than the window holds.
        """
        self.confirming(10)
        batch = self.channel.publish_many(self.messages(25))
        for confirmed in range(15):
            self.assertEqual(self.drawn, 10 + confirmed)
            self.peer.send(1, spec.BasicAck(confirmed + 1))
        self.peer.send(1, spec.BasicAck(0, True))
        self.successResultOf(batch)
        self.assertEqual(len(self.bodies()), 25)

    def test_failures_by_place(self) -> None:
        """
        The error names each message that was not taken, in their order.
        """
        self.confirming()
        batch = self.channel.publish_many(
            [Message("", "work", b"%d" % each, mandatory=True) for each in range(5)]
        )
        self.peer.feed(
            self.peer.content(1, spec.BasicReturn(312, "no", "", "work"), b"1")
        )
        self.peer.send(1, spec.BasicNack(4), spec.BasicAck(2), spec.BasicAck(3, True))
        self.assertNoResult(batch)
        self.peer.send(1, spec.BasicAck(5))
        error = self.reason(batch, BatchFailed)
        self.assertEqual(
            [(place, type(why)) for place, why in error.failures],
            [(1, Returned), (3, Nacked)],
        )
        self.assertFalse(error.retriable)
        self.assertIn("2 messages", str(error))

    def test_what_cannot_be_sent(self) -> None:
        """
        A message that cannot be sent fails in its place; the others leave.
        """
        self.confirming()
        wrong: Any = object()
        batch = self.channel.publish_many(
            [
                Message("", "work", b"good"),
                Message("", "k" * 256, b""),
                Message("", "work", wrong),
                Message("", "work", b"", Properties(priority=-1)),
                Message("", "work", b"", wrong),
                wrong,
                None,  # type: ignore[list-item]
                Message("", "work", b"good"),
            ]
        )
        self.assertEqual(self.bodies(), [b"good", b"good"])
        self.peer.send(1, spec.BasicAck(2, True))
        self.assertEqual(
            self.failures(batch),
            {
                1: EncodeError,
                2: TypeError,
                3: EncodeError,
                4: TypeError,
                5: TypeError,
                6: TypeError,
            },
        )

    def test_iterator_raises(self) -> None:
        """
        When the iterator raises, that is a failure in the place of the message that
        it did not give; what had left is waited for.
        """
        self.confirming()

        def broken() -> Iterator[Message]:
            yield Message("", "work", b"0")
            yield Message("", "work", b"1")
            raise ZeroDivisionError

        batch = self.channel.publish_many(broken())
        self.assertNoResult(batch)
        self.peer.send(1, spec.BasicNack(1), spec.BasicAck(2))
        self.assertEqual(self.failures(batch), {0: Nacked, 2: ZeroDivisionError})

    def test_not_iterable(self) -> None:
        """
        What is not iterable fails through the Deferred.
        """
        self.reason(self.channel.publish_many(5), TypeError)  # type: ignore[arg-type]

    def test_channel_ends(self) -> None:
        """
        Criterion 12: a batch without an end, too, ends with its channel: what was
        under way, and the rest, fail with the reason.
        """
        self.confirming(3)
        batch = self.channel.publish_many(self.messages())
        self.peer.send(1, spec.BasicAck(1))
        self.peer.send(1, spec.ChannelClose(404, "no", 60, 40))
        self.assertEqual(self.failures(batch), dict.fromkeys([1, 2, 3, 4], NotFound))
        self.assertEqual(self.drawn, 4)

    def test_connection_ends(self) -> None:
        """
        The same when the transport goes.
        """
        self.confirming(3)
        batch = self.channel.publish_many(self.messages())
        self.peer.drop()
        self.assertEqual(
            self.failures(batch), dict.fromkeys([0, 1, 2, 3], ConnectionLost)
        )

    def test_channel_has_ended(self) -> None:
        """
        On a channel that has ended nothing is drawn.
        """
        self.channel.close()
        self.peer.serve()
        self.reason(self.channel.publish_many(self.messages()), ChannelClosed)
        self.assertEqual(self.drawn, 0)

    def test_cancelled(self) -> None:
        """
        Cancelling it keeps those from leaving that have not, and from being drawn.
        """
        self.confirming(3)
        batch = self.channel.publish_many(self.messages(5))
        batch.cancel()
        self.reason(batch, CancelledError)
        self.peer.send(1, spec.BasicAck(3, True))
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])
        self.assertEqual(self.drawn, 3)
        self.assertEqual(len(self.channel.publisher._waiting), 0)
        done = self.channel.basic_publish("", "work", b"next")
        self.peer.send(1, spec.BasicAck(4))
        self.successResultOf(done)

    def test_order(self) -> None:
        """
        Batches and messages leave in the order in which they were asked for.
        """
        self.confirming(1)
        first = self.channel.publish_many(self.messages(2))
        second = self.channel.basic_publish("", "work", b"second")
        third = self.channel.publish_many([Message("", "work", b"third")])
        for number in range(1, 5):
            self.peer.send(1, spec.BasicAck(number))
        self.assertEqual(self.bodies(), [b"0", b"1", b"second", b"third"])
        for each in [first, second, third]:
            self.successResultOf(each)


class UnconfirmedTests(BatchCase):
    """
    Batches without confirms.
    """

    def test_all(self) -> None:
        """
        The Deferred fires when all have left.
        """
        self.assertIsNone(
            self.successResultOf(self.channel.publish_many(self.messages(3)))
        )
        self.assertEqual(self.bodies(), [b"0", b"1", b"2"])

    def test_full_transport(self) -> None:
        """
        Criterion 13: no more is drawn than the transport takes.
        """
        self.peer.transport.capacity = 100_000
        batch = self.channel.publish_many(self.messages())
        drawn = self.drawn
        self.assertLess(drawn, 10_000)
        self.assertNoResult(batch)
        self.peer.drain()
        self.assertGreater(self.drawn, drawn)
        self.channel.close()
        self.peer.drain()
        self.peer.serve()
        self.assertEqual(self.failures(batch), {self.drawn: ChannelClosed})

    def test_blocked(self) -> None:
        """
        While the connection is blocked nothing is drawn.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        batch = self.channel.publish_many(self.messages(3))
        self.assertEqual(self.drawn, 0)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.drawn, 3)
        self.successResultOf(batch)

    def test_iterator_closes(self) -> None:
        """
        An iterator may end the channel, or the connection, from inside: the batch
        ends with it.
        """

        def close(what: Any) -> Iterator[Message]:
            yield Message("", "work", b"0")
            what.close()
            yield Message("", "work", b"1")
            yield Message("", "work", b"2")

        first = self.channel.publish_many(close(self.channel))
        self.peer.serve()
        self.assertEqual(self.failures(first), dict.fromkeys([1, 2], ChannelClosed))
        self.channel = self.peer.open_channel()
        second = self.channel.publish_many(close(self.peer.client))
        self.assertEqual(self.failures(second), dict.fromkeys([1, 2], ConnectionClosed))
        self.peer.serve()

    def test_iterator_publishes(self) -> None:
        """
        An iterator may publish from inside.
        """

        def publish() -> Iterator[Message]:
            self.channel.basic_publish("", "work", b"0")
            yield Message("", "work", b"1")
            self.channel.publish_many([Message("", "work", b"2")])
            yield Message("", "work", b"3")

        self.successResultOf(self.channel.publish_many(publish()))
        self.assertEqual(self.bodies(), [b"0", b"1", b"2", b"3"])
