# -*- test-case-name: txamqp091.test.unit.client.test_defects_channel -*-
"""
What is known to go wrong on a channel in the clients that came before, and does not
here.  Each test has the number of the defect, or of the promise.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from txamqp091.errors import EncodeError, NotFound, Returned
from txamqp091.message import Delivery, Message
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.frames import method_frame


class ConfirmDefects(ChannelCase):
    """
    Confirms that went to the wrong message.
    """

    def test_d01_multiple_covers_returned_and_routed(self) -> None:
        """
        D1: a confirm with ``multiple`` that covers returned and routed messages, in
        any order, has the right outcome for each.
        """
        self.confirming()
        routed = [0, 3, 4, 7]
        publishes = [
            self.channel.basic_publish("", "q", b"%d" % place, mandatory=True)
            for place in range(8)
        ]
        for place in [1, 2, 5, 6]:
            method = spec.BasicReturn(312, "NO_ROUTE", "", "q")
            self.peer.feed(self.peer.content(1, method, b"%d" % place))
        self.peer.send(1, spec.BasicAck(8, True))
        for place, each in enumerate(publishes):
            if place in routed:
                self.successResultOf(each)
            else:
                message = self.reason(each, Returned).message
                assert isinstance(message, Message)
                self.assertEqual(message.body, b"%d" % place)

    def test_d08_publishing_before_select_ok(self) -> None:
        """
        D8: what is published before the answer to confirm.select, and between two of
        them, is confirmed by its own number.
        """
        self.channel.confirm_select()
        first = self.channel.basic_publish("", "q", b"0")
        self.channel.confirm_select()
        second = self.channel.basic_publish("", "q", b"1")
        self.peer.send(1, spec.BasicAck(1), spec.ConfirmSelectOk())
        self.successResultOf(first)
        self.assertNoResult(second)
        third = self.channel.basic_publish("", "q", b"2")
        self.peer.send(1, spec.ConfirmSelectOk(), spec.BasicAck(2), spec.BasicAck(3))
        self.successResultOf(second)
        self.successResultOf(third)

    def test_d17_cost_of_a_confirm(self) -> None:
        """
        D17: a confirm costs the same however many messages are under way.
        """

        channels = [self.channel, self.peer.open_channel()]
        costs = []
        for channel, window in zip(channels, [1000, 50_000], strict=True):
            channel.confirm_select(window)
            self.peer.send(channel.number, spec.ConfirmSelectOk())
            for _ in range(window):
                done = channel.basic_publish("", "q", b"", mandatory=True)
                done.addErrback(lambda _: None)  # the connection is dropped
            took = []
            # From the middle, so that neither end is a short cut.
            number = window // 2
            for _ in range(5):
                acks = []
                for _ in range(50):
                    number += 1
                    ack = spec.BasicAck(number).encode()
                    acks.append(method_frame(channel.number, ack))
                began = perf_counter()
                self.peer.client.dataReceived(b"".join(acks))
                took.append(perf_counter() - began)
            costs.append(min(took))
        few, many = costs
        self.assertLess(many, 10 * few)

    def test_d17_multiple_after_its_own_number(self) -> None:
        """
        D17: a confirm with ``multiple`` counts even if its own number was answered
        for before.
        """
        self.confirming()
        publishes = [self.channel.basic_publish("", "q", b"") for _ in range(3)]
        self.peer.send(1, spec.BasicAck(3), spec.BasicAck(3, True))
        for each in publishes:
            self.successResultOf(each)


class CallDefects(ChannelCase):
    """
    Calls that took others with them.
    """

    def test_d02_cancelled_call(self) -> None:
        """
        D2: a call that was cancelled, or timed out, costs nothing when its channel
        ends: all others are told, and the connection lives.
        """
        closed = self.channel.when_closed()
        deliveries = self.deliveries()
        waiting = deliveries.get()
        cancelled = self.channel.queue_declare("one")
        timed_out = self.channel.queue_declare("two").addTimeout(1, self.peer.clock)
        pending = self.channel.queue_declare("three")
        cancelled.cancel()
        self.reason(cancelled, CancelledError)
        self.peer.clock.advance(2)
        self.reason(timed_out, TimeoutError)
        self.peer.send(1, spec.ChannelClose(404, "no", 50, 10))
        ended: list[Deferred[Any]] = [closed, waiting, pending]
        for each in ended:
            self.reason(each, NotFound)
        self.assertTrue(self.peer.client.is_open)

    def test_d03_call_that_cannot_be_sent(self) -> None:
        """
        D3: a call that could not be sent is not remembered: nothing fails for it
        later, unheard.
        """
        bad: Any = object()
        self.reason(self.channel.queue_declare(bad), EncodeError)
        self.reason(self.channel.basic_get(bad), EncodeError)
        self.reason(self.channel.basic_consume(bad, print), EncodeError)
        self.channel.close()
        self.peer.serve()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_d10_bad_get(self) -> None:
        """
        D10: after a bad ``basic_get`` the next ones work.
        """
        bad: Any = object()
        self.reason(self.channel.basic_get(bad), EncodeError)
        self.reason(self.channel.basic_get("q", bad), EncodeError)
        gets = [self.channel.basic_get("work"), self.channel.basic_get("work")]
        self.give(1)
        self.peer.send(1, spec.BasicGetEmpty())
        delivery = self.successResultOf(gets[0])
        assert delivery is not None
        self.assertEqual(delivery.delivery_tag, 1)
        self.assertIsNone(self.successResultOf(gets[1]))

    def test_d15_one_round_trip(self) -> None:
        """
        D15: fifty declarations are sent without waiting for one answer.
        """
        declared = [self.channel.queue_declare(f"q{each}") for each in range(50)]
        self.assertEqual(len(self.peer.listen()), 50)
        self.peer.serve()
        for each in declared:
            self.successResultOf(each)


class ConsumerDefects(ChannelCase):
    """
    Messages that were lost, or kept without end.
    """

    def test_d09_cancel_loses_nothing(self) -> None:
        """
        D9: of ten messages, one was taken; cancelling puts back the nine others,
        after the broker was told to send no more.
        """
        deliveries = self.deliveries()
        self.deliver(*range(1, 11))
        self.successResultOf(deliveries.get()).ack()
        cancelling = deliveries.cancel()
        heard = self.peer.serve()
        self.assertEqual(
            heard,
            [
                spec.BasicAck(1, False),
                spec.BasicCancel("tag"),
                *[spec.BasicNack(each, False, True) for each in range(2, 11)],
            ],
        )
        self.assertEqual(self.successResultOf(cancelling), 9)

    def test_d12_bounded_both_ways(self) -> None:
        """
        D12: deliveries that nobody asks for stop the reading, and a transport that is
        full stops the publishing.
        """
        deliveries = self.deliveries(auto_ack=True)
        self.deliver(*range(1, 102))
        self.assertEqual(deliveries.buffered, 101)
        self.assertEqual(self.peer.transport.producerState, "paused")
        self.peer.transport.capacity = 10_000
        self.peer.turn()
        publishes: list[Deferred[None]] = []
        for _ in range(10):
            publishes.append(self.channel.basic_publish("", "q", bytes(5000)))
            self.peer.turn()
        self.assertNoResult(publishes[-1])
        self.peer.drain()
        self.successResultOf(publishes[-1])

    def test_s3_true_number(self) -> None:
        """
        S3: cancel tells the true number of requeued messages, those that come before
        cancel-ok among them.
        """
        deliveries = self.deliveries()
        self.deliver(1, 2, 3)
        self.successResultOf(deliveries.get())
        cancelling = deliveries.cancel()
        self.deliver(4, 5)
        self.peer.serve()
        self.assertEqual(self.successResultOf(cancelling), 4)

    def test_s4_acks(self) -> None:
        """
        S4: ``basic_ack`` has the meaning of the wire, but that 0 with ``multiple`` is
        all that has come here; a `Delivery` knows what it was told.
        """
        seen: list[Delivery] = []
        self.consumer(seen.append)
        self.deliver(1, 2)
        self.successResultOf(self.channel.basic_ack())
        self.successResultOf(self.channel.basic_ack(0, True))
        self.successResultOf(self.channel.basic_ack(delivery_tag=7))
        self.assertEqual(
            self.heard(),
            [spec.BasicAck(0, False), spec.BasicAck(2, True), spec.BasicAck(7, False)],
        )
