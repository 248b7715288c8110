# -*- test-case-name: txamqp091.test.unit.client.test_consumer_end -*-
"""
Tests for how a `Consumer` ends: by us, by the broker, or with its channel.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.errors import (
    ChannelClosed,
    CommandInvalid,
    ConnectionLost,
    ConsumerCancelled,
    NotFound,
)
from txamqp091.message import Delivery
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import Int64


class CancelTests(ChannelCase):
    """
    A consumer that we cancel.
    """

    def test_cancel(self) -> None:
        """
        What comes before cancel-ok goes back, and is counted, true to the last; what
        the handler has it keeps, and may settle.
        """
        seen: list[Delivery] = []
        consumer = self.consumer(seen.append)
        self.deliver(1, 2)
        cancelling = consumer.cancel()
        self.assertFalse(consumer.is_active)
        self.deliver(3, 4, 5)
        self.assertEqual(
            self.heard(),
            [
                spec.BasicCancel("tag"),
                *[spec.BasicNack(each, False, True) for each in [3, 4, 5]],
            ],
        )
        self.assertNoResult(cancelling)
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual(self.successResultOf(cancelling), 3)
        self.assertIsNone(self.successResultOf(consumer.when_ended()))
        self.assertEqual(len(seen), 2)
        seen[0].ack()
        self.assertEqual(self.heard(), [spec.BasicAck(1, False)])

    def test_stream(self) -> None:
        """
        What comes then from a stream is counted and acknowledged: a stream takes
        nothing back.
        """
        consumer = self.consumer(print)
        cancelling = consumer.cancel()
        self.deliver(1, properties=Properties(headers={"x-stream-offset": Int64(7)}))
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual(self.successResultOf(cancelling), 1)
        self.assertEqual(
            self.heard(), [spec.BasicCancel("tag"), spec.BasicAck(1, False)]
        )

    def test_again(self) -> None:
        """
        Cancelling again asks nothing, and has the same answer, before and after.
        """
        consumer = self.consumer(print)
        answers = [consumer.cancel(), consumer.cancel()]
        self.deliver(1)
        answers[0].cancel()
        self.reason(answers[0], CancelledError)
        heard = self.peer.serve()
        self.assertEqual(heard.count(spec.BasicCancel("tag")), 1)
        answers.append(consumer.cancel())
        self.assertEqual([self.successResultOf(each) for each in answers[1:]], [1, 1])

    def test_basic_cancel(self) -> None:
        """
        ``basic_cancel`` ends a consumer by its tag, in the same way.
        """
        consumer = self.consumer(print)
        cancelling = self.channel.basic_cancel("tag")
        self.deliver(1)
        heard = self.peer.serve()
        self.assertEqual(
            heard, [spec.BasicCancel("tag"), spec.BasicNack(1, False, True)]
        )
        self.assertEqual(self.successResultOf(cancelling), spec.BasicCancelOk("tag"))
        self.assertEqual(self.successResultOf(consumer.cancel()), 1)

    def test_auto_ack(self) -> None:
        """
        With ``auto_ack`` nothing can go back: what comes before cancel-ok still goes
        to the handler.
        """
        seen: list[Delivery] = []
        consumer = self.consumer(seen.append, auto_ack=True)
        cancelling = consumer.cancel()
        self.deliver(1)
        heard = self.peer.serve()
        self.assertEqual(heard, [spec.BasicCancel("tag")])
        self.assertEqual(self.successResultOf(cancelling), 0)
        self.assertEqual(len(seen), 1)

    def test_oversized(self) -> None:
        """
        A message over the limit that comes before cancel-ok goes back like others.
        """
        self.channel._machine.max_body = 10
        consumer = self.consumer(print)
        cancelling = consumer.cancel()
        self.peer.deliver(1, "tag", 1, b"x" * 11)
        self.assertEqual(self.heard()[1:], [spec.BasicNack(1, False, True)])
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.assertEqual(self.successResultOf(cancelling), 1)

    def test_channel_ends_first(self) -> None:
        """
        When the channel ends before the broker has agreed, that is the answer.
        """
        consumer = self.consumer(print)
        cancelling = consumer.cancel()
        self.peer.drop()
        self.reason(cancelling, ConnectionLost)
        self.reason(consumer.cancel(), ConnectionLost)

    def test_closing(self) -> None:
        """
        A consumer of a channel that is being closed cannot be cancelled.
        """
        consumer = self.consumer(print)
        closing = self.channel.close()
        self.reason(consumer.cancel(), ChannelClosed)
        again = consumer.cancel()
        self.peer.serve()
        self.successResultOf(closing)
        self.reason(again, ChannelClosed)


class BrokerTests(ChannelCase):
    """
    A consumer that the broker ends.
    """

    def test_cancelled_by_the_broker(self) -> None:
        """
        The consumer ends with `ConsumerCancelled`, which names it and its queue; its
        channel goes on, and its tag is free: we have cancelled it too, as RabbitMQ 4.3
        may have kept it.
        """
        consumer = self.consumer(print)
        ended = consumer.when_ended()
        self.peer.send(1, spec.BasicCancel("tag", True))
        error = self.reason(ended, ConsumerCancelled)
        self.assertEqual((error.consumer_tag, error.queue), ("tag", "work"))
        self.assertTrue(error.retriable)
        self.assertEqual(error.unsettled, 0)
        self.assertIn("deleted", str(error))
        self.assertFalse(consumer.is_active)
        self.assertEqual(self.heard(), [spec.BasicCancel("tag")])
        self.reason(consumer.cancel(), ConsumerCancelled)
        self.assertEqual(self.heard(), [])
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.consumer(print)

    def test_not_settled_in_time(self) -> None:
        """
        The broker ended the consumer as a delivery was not settled in time: the error
        and the log say that this is likely.  What still comes for the tag goes back,
        until a new consumer has the tag; settling late is harmless.
        """
        events = self.catch_log()
        seen: list[Delivery] = []
        ended = self.consumer(seen.append).when_ended()
        self.deliver(1, 2)
        self.peer.send(1, spec.BasicCancel("tag", True))
        error = self.reason(ended, ConsumerCancelled)
        self.assertEqual(error.unsettled, 2)
        for text in (str(error), events[0]):
            self.assertIn("consumer_timeout", text)
        self.deliver(3)
        seen[0].ack()
        self.assertEqual(
            self.heard(),
            [
                spec.BasicCancel("tag"),
                spec.BasicNack(3, False, True),
                spec.BasicAck(1, False),
            ],
        )
        starting = self.channel.basic_consume("work", seen.append, consumer_tag="tag")
        self.heard()
        self.deliver(4)
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.deliver(5)
        self.peer.send(1, spec.BasicQosOk(), spec.BasicConsumeOk("tag"))
        self.successResultOf(starting)
        self.assertEqual([each.delivery_tag for each in seen], [1, 2, 4, 5])
        self.peer.send(1, spec.BasicCancel("tag", True), spec.BasicCancelOk("tag"))
        self.deliver(6)
        self.assertIsInstance(self.peer.client.close_reason, CommandInvalid)

    def test_answer_wanted(self) -> None:
        """
        The broker is answered if it wants to be.
        """
        self.consumer(print)
        self.peer.send(1, spec.BasicCancel("tag", False))
        self.assertEqual(self.heard(), [spec.BasicCancelOk("tag")])

    def test_crossing(self) -> None:
        """
        When both sides end it at once, the broker's cancel counts; and the answer to
        ours does not end a consumer that has taken over the tag.
        """
        consumer = self.consumer(print)
        cancelling = consumer.cancel()
        self.heard()
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.reason(cancelling, ConsumerCancelled)
        seen: list[Delivery] = []
        starting = self.channel.basic_consume("work", seen.append, consumer_tag="tag")
        self.peer.send(1, spec.BasicCancelOk("tag"))
        self.peer.serve()
        self.successResultOf(starting)
        self.deliver(1)
        self.assertEqual(len(seen), 1)

    def test_unknown(self) -> None:
        """
        A cancel for a consumer that is not there is answered, and changes nothing.
        """
        consumer = self.consumer(print)
        self.peer.send(1, spec.BasicCancel("other", False))
        self.assertEqual(self.heard(), [spec.BasicCancelOk("other")])
        self.assertTrue(consumer.is_active)

    def test_channel_ends(self) -> None:
        """
        The end of the channel ends its consumers, with the reason; handlers that run
        go on.
        """
        gate: Deferred[None] = Deferred()
        consumer = self.consumer(lambda delivery: gate)
        self.deliver(1)
        ended, cancelled = consumer.when_ended(), consumer.when_ended()
        cancelled.cancel()
        self.reason(cancelled, CancelledError)
        self.peer.send(1, spec.ChannelClose(404, "no", 0, 0))
        self.reason(ended, NotFound)
        idle = consumer.when_idle()
        self.assertNoResult(idle)
        gate.callback(None)
        self.successResultOf(idle)

    def test_closed_by_us(self) -> None:
        """
        Closing the channel ends its consumers, as closed by us.
        """
        consumer = self.consumer(print)
        self.channel.close()
        self.peer.serve()
        self.assertTrue(self.reason(consumer.when_ended(), ChannelClosed).by_us)

    def test_ending_in_the_callback_of_an_end(self) -> None:
        """
        The callback of an end may start the next consumer.
        """
        started: list[Any] = []
        consumer = self.consumer(print)
        consumer.when_ended().addErrback(
            lambda _: started.append(
                self.channel.basic_consume("work", print, consumer_tag="tag")
            )
        )
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.peer.serve()
        self.assertTrue(self.successResultOf(started[0]).is_active)
