# -*- test-case-name: txamqp091.test.unit.client.test_channel_life -*-
"""
Tests for the life of a `Channel`: how it opens and ends, who is told, and which
answer is whose.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import (
    ChannelClosed,
    ChannelsExhausted,
    ConnectionForced,
    ConnectionLost,
    DeliveryAckTimeout,
    NotFound,
)
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method


class EndTests(ChannelCase):
    """
    How a channel ends.
    """

    def test_everything_fails_with_the_reason(self) -> None:
        """
        Criterion 11: the broker's reason reaches all that waits on the channel, as
        its type, with code, text, class and method; and later calls.
        """
        consumer = self.consumer(print)
        pending: list[Deferred[Any]] = [
            self.channel.queue_declare("missing", passive=True),
            self.channel.basic_get("work"),
            self.channel.basic_consume("work", print),
            self.channel.confirm_select(),
            self.channel.basic_publish("", "work", b"x"),
            self.channel.when_closed(),
            consumer.when_ended(),
        ]
        self.peer.send(1, spec.ChannelClose(404, "NOT_FOUND - no queue", 50, 10))
        pending.append(self.channel.queue_declare("late"))
        pending.append(self.channel.when_closed())
        for each in pending:
            error = self.reason(each, NotFound)
            self.assertEqual(error.reply_code, 404)
            self.assertEqual(error.reply_text, "NOT_FOUND - no queue")
            self.assertEqual((error.class_id, error.method_id), (50, 10))
            self.assertEqual(error.operation, "queue.declare")
            self.assertFalse(error.by_us)
        self.assertFalse(self.channel.is_open)
        self.assertEqual(self.heard()[-1], spec.ChannelCloseOk())

    def warnings(self, *close: Method) -> list[str]:
        """
        What is logged when the broker ends a channel, or the connection.
        """
        events = self.catch_log()
        self.peer.send(1, *close)
        return events

    def test_nobody_is_told(self) -> None:
        """
        A channel that the broker closes is logged, once, with the cause and the remedy,
        if it had consumers whose end nobody waits for.
        """
        for tag in ("one", "two"):
            self.consumer(print, consumer_tag=tag)
        calls = [self.channel.queue_declare("work") for _ in range(2)]
        [event] = self.warnings(spec.ChannelClose(404, "NOT_FOUND - no", 50, 10))
        for text in ("channel 1", "404 NOT_FOUND", "queue.declare", "2 consumer(s)"):
            self.assertIn(text, event)
        self.assertIn("AMQPClientService", event)
        for each in calls:
            self.reason(each, NotFound)

    def test_no_answer_tells(self) -> None:
        """
        So is one that the broker closes for what has no answer: a message without
        confirms, a settlement.
        """
        for method in (spec.BasicPublish, spec.BasicAck, spec.BasicReject):
            self.setUp()
            close = spec.ChannelClose(404, "no", *method.identity)
            self.assertEqual(len(self.warnings(close)), 1)
        self.setUp()
        self.assertEqual(len(self.warnings(spec.ChannelClose(406, "slow", 0, 0))), 1)

    def test_somebody_is_told(self) -> None:
        """
        It is not logged where somebody is told: by a call, by a confirm, by
        ``when_closed``, by a loop.
        """
        consume = spec.ChannelClose(404, "no", 60, 20)
        publish = spec.ChannelClose(404, "no", 60, 40)

        def by_call() -> Deferred[Any]:
            return self.channel.basic_consume("missing", print)

        def by_confirm() -> Deferred[Any]:
            self.confirming()
            return self.channel.basic_publish("missing", "key", b"x")

        def by_when_closed() -> Deferred[Any]:
            self.consumer(print)
            return self.channel.when_closed()

        def by_when_ended() -> Deferred[Any]:
            return self.consumer(print).when_ended()

        def by_loop() -> Deferred[Any]:
            return self.deliveries().get()

        for ask, close in (
            (by_call, consume),
            (by_confirm, publish),
            (by_when_closed, publish),
            (by_when_ended, consume),
            (by_loop, consume),
        ):
            self.setUp()
            told = ask()
            self.assertEqual(self.warnings(close), [], ask.__name__)
            self.reason(told, NotFound)

    def test_closed_by_us(self) -> None:
        """
        Nor is it logged when we have closed.
        """
        self.consumer(print)
        events = self.catch_log()
        self.channel.close()
        self.peer.serve()
        self.setUp()
        self.consumer(print)
        self.peer.client.close()
        self.peer.drop()
        self.assertEqual(events, [])

    def test_nobody_is_told_of_the_connection(self) -> None:
        """
        The end of a connection with consumers on several channels is logged, once, if
        nobody waits for it.
        """
        self.consumer(print)
        self.channel = self.peer.open_channel()
        self.channel.basic_consume("work", print)
        events = self.catch_log()
        self.peer.serve()
        self.peer.drop()
        [event] = events
        self.assertIn("2 consumer(s)", event)
        self.assertIn("AMQPClientService", event)
        self.setUp()
        self.consumer(print)
        closed = self.peer.client.when_closed()
        self.peer.drop()
        self.reason(closed, ConnectionLost)
        self.assertEqual(len(events), 1)

    def test_other_channels_are_left_alone(self) -> None:
        """
        Other channels, and what they wait for, go on.
        """
        other = self.peer.open_channel()
        waiting = other.queue_declare("other")
        self.peer.send(1, spec.ChannelClose(404, "no", 50, 10))
        self.reason(self.channel.when_closed(), NotFound)
        self.assertNoResult(waiting)
        self.peer.serve()
        self.assertEqual(self.successResultOf(waiting).queue, "other")
        self.assertTrue(other.is_open)

    def test_ack_timeout(self) -> None:
        """
        A delivery that was not acknowledged in time has an error of its own.
        """
        text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"
        self.peer.send(1, spec.ChannelClose(406, text, 0, 0))
        error = self.reason(self.channel.when_closed(), DeliveryAckTimeout)
        self.assertTrue(error.retriable)

    def test_connection_ends(self) -> None:
        """
        When the connection ends, the channel ends with the same reason.
        """
        waiting = self.channel.queue_declare("work")
        self.peer.send(0, spec.ConnectionClose(320, "CONNECTION_FORCED", 0, 0))
        self.reason(waiting, ConnectionForced)
        self.reason(self.channel.when_closed(), ConnectionForced)
        self.reason(self.channel.queue_declare("late"), ConnectionForced)
        self.assertIsNone(self.successResultOf(self.channel.close()))

    def test_close(self) -> None:
        """
        Closing is answered, and again harmless; what waits fails, as closed by us.
        """
        waiting = self.channel.queue_declare("work")
        closing = [self.channel.close(), self.channel.close()]
        self.assertFalse(self.channel.is_open)
        self.assertEqual(
            self.heard(),
            [spec.QueueDeclare(0, "work", durable=True), spec.ChannelClose(200)],
        )
        self.peer.send(1, spec.QueueDeclareOk("work"), spec.ChannelCloseOk())
        closing.append(self.channel.close())
        for each in [*closing, self.channel.when_closed()]:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.successResultOf(waiting).queue, "work")
        late = self.channel.queue_declare("late")
        self.assertTrue(self.reason(late, ChannelClosed).by_us)

    def test_close_unanswered(self) -> None:
        """
        What was not answered when the close was fails with that.
        """
        self.confirming()
        unconfirmed = self.channel.basic_publish("", "work", b"x")
        self.channel.close()
        self.peer.send(1, spec.ChannelCloseOk())
        self.assertTrue(self.reason(unconfirmed, ChannelClosed).by_us)

    def test_close_crosses(self) -> None:
        """
        When both sides close at once, both are answered, the broker's reason counts,
        and the number is free only after both.
        """
        closing = self.channel.close()
        waiting = self.channel.when_closed()
        self.heard()
        self.peer.send(1, spec.ChannelClose(404, "no", 60, 40))
        self.assertEqual(self.heard(), [spec.ChannelCloseOk()])
        self.assertIsNone(self.successResultOf(closing))
        self.reason(waiting, NotFound)
        self.assertEqual(list(self.peer.client._machine._channels), [1])
        self.peer.send(1, spec.ChannelCloseOk())
        self.assertEqual(list(self.peer.client._machine._channels), [])

    def test_cancelling_close(self) -> None:
        """
        Cancelling the Deferred of a close changes nothing for others.
        """
        first, second = self.channel.close(), self.channel.when_closed()
        first.cancel()
        second.cancel()
        for each in (first, second):
            self.reason(each, CancelledError)
        third = self.channel.when_closed()
        self.peer.serve()
        self.assertIsNone(self.successResultOf(third))

    def test_close_in_a_callback(self) -> None:
        """
        A callback of what failed may close the channel, or ask it for more.
        """
        seen: list[Deferred[Any]] = []

        def again(_: object) -> None:
            seen.append(self.channel.close())
            seen.append(self.channel.queue_declare("more"))

        self.channel.queue_declare("work").addErrback(again)
        self.peer.send(1, spec.ChannelClose(404, "no", 50, 10))
        self.assertIsNone(self.successResultOf(seen[0]))
        self.reason(seen[1], NotFound)

    def test_repr(self) -> None:
        """
        A channel tells its number and whether it is open.
        """
        self.assertEqual(repr(self.channel), "<Channel 1, open>")
        self.channel.close()
        self.assertEqual(repr(self.channel), "<Channel 1, closed>")


class NumberTests(SynchronousTestCase):
    """
    The numbers of channels.
    """

    def setUp(self) -> None:
        """
        Have a connection with three channels at the most.
        """
        self.peer = Peer(self)
        self.peer.handshake(channel_max=3)

    def test_exhausted(self) -> None:
        """
        Running out of channels fails through the Deferred, saying what to do; a
        channel that has ended, however it did, leaves its number to the next.
        """
        channels = [self.peer.open_channel() for _ in range(3)]
        self.assertEqual([each.number for each in channels], [1, 2, 3])
        failure = self.failureResultOf(
            self.peer.client.open_channel(), ChannelsExhausted
        )
        self.assertIn("channel_max", str(failure.value))
        channels[0].close()
        self.failureResultOf(self.peer.client.open_channel(), ChannelsExhausted)
        self.peer.serve()
        self.assertEqual(self.peer.open_channel().number, 1)
        self.peer.send(2, spec.ChannelClose(404, "no", 0, 0))
        self.peer.listen()
        self.peer.said.clear()
        again = self.peer.open_channel()
        self.assertEqual(again.number, 2)
        declared = again.queue_declare("work")
        self.peer.serve()
        self.assertEqual(self.successResultOf(declared).queue, "work")

    def test_cancelled_opening(self) -> None:
        """
        A channel whose opening was cancelled is closed once it is open, and its
        number is free.
        """
        opening = self.peer.client.open_channel()
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.assertEqual(
            self.peer.serve(), [spec.ChannelOpen(), spec.ChannelClose(200)]
        )
        self.assertEqual(self.peer.client._machine._channels, {})


class PipelineTests(ChannelCase):
    """
    Many questions at a time.
    """

    def test_pipelined(self) -> None:
        """
        Fifty questions leave in one write, and are answered in order.
        """
        before = len(self.peer.transport.writes)
        declared = [self.channel.queue_declare(f"q{each}") for each in range(50)]
        self.peer.turn()
        self.assertEqual(len(self.peer.transport.writes), before + 1)
        self.peer.serve()
        queues = [self.successResultOf(each).queue for each in declared]
        self.assertEqual(queues, [f"q{each}" for each in range(50)])

    def test_cancelled(self) -> None:
        """
        Whoever cancels gets `CancelledError` at once; the answer that still comes is
        nobody else's.
        """
        first, second, third = (self.channel.queue_declare(each) for each in "abc")
        second.cancel()
        self.reason(second, CancelledError)
        self.assertNoResult(first)
        self.peer.serve()
        self.assertEqual(self.successResultOf(first).queue, "a")
        self.assertEqual(self.successResultOf(third).queue, "c")

    def test_timeout(self) -> None:
        """
        A Deferred takes ``addTimeout``; the channel lives on.
        """
        slow = self.channel.queue_declare("slow")
        slow.addTimeout(5, self.peer.clock)
        self.peer.clock.advance(6)
        self.reason(slow, TimeoutError)
        second = self.channel.queue_declare("second")
        self.peer.serve()
        self.assertEqual(self.successResultOf(second).queue, "second")
        self.assertTrue(self.channel.is_open)

    def test_asking_from_an_answer(self) -> None:
        """
        A callback may ask the next question.
        """
        bound = self.channel.queue_declare().addCallback(
            lambda ok: self.channel.queue_bind(ok.queue, "logs")
        )
        heard = self.peer.serve()
        self.assertEqual(heard[1], spec.QueueBind(0, "amq.gen-1", "logs"))
        self.assertEqual(self.successResultOf(bound), spec.QueueBindOk())
