# -*- test-case-name: txamqp091.test.unit.client.test_backpressure -*-
"""
Tests for a transport that is full, for consumers that have too much, and for how much
is written at a time: what `txamqp091.protocol` does with `txamqp091._flow`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091 import errors
from txamqp091.message import Delivery, Message
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec


class WritingTests(SynchronousTestCase):
    """
    How bytes are handed to the transport.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.peer.listen()
        self.peer.transport.writes.clear()
        self.peer._read = 0

    def test_one_write_per_turn(self) -> None:
        """
        What is said in one turn of the reactor is one write.
        """
        for n in range(100):
            self.channel.basic_publish("", "work", b"%d" % n)
        self.channel.basic_ack(1)
        self.assertEqual(self.peer.transport.writes, [])
        self.peer.turn()
        self.assertEqual(len(self.peer.transport.writes), 1)
        self.assertEqual(
            [each.body for each in self.peer.listen()],
            [b"%d" % n for n in range(100)] + [b""],
        )

    def test_128_KiB(self) -> None:
        """
        128 KiB are written at once; all of it in order.
        """
        bodies = [bytes([n]) * 10000 for n in range(70)]
        for body in bodies:
            self.channel.basic_publish("", "work", body)
        sizes = [len(each) for each in self.peer.transport.writes]
        self.assertEqual(len(sizes), 5)
        self.assertTrue(all(0 <= size - 131072 < 10100 for size in sizes), sizes)
        self.assertEqual([each.body for each in self.peer.listen()], bodies)

    def test_in_answer(self) -> None:
        """
        What is said in answer to bytes leaves when they have been dealt with, in one
        write and without a timer.
        """
        self.channel.basic_consume("work", Delivery.ack, consumer_tag="c")
        self.peer.serve()
        before = len(self.peer.transport.writes)
        timers = len(self.peer.clock.getDelayedCalls())
        self.peer.feed(
            b"".join(
                self.peer.content(1, spec.BasicDeliver("c", n, False, "", "work"), b"x")
                for n in range(1, 101)
            )
        )
        self.assertEqual(len(self.peer.transport.writes), before + 1)
        self.assertEqual(len(self.peer.clock.getDelayedCalls()), timers)
        said = [each.method for each in self.peer.listen()]
        self.assertEqual(said, [spec.BasicAck(n) for n in range(1, 101)])

    def test_after_the_end(self) -> None:
        """
        Nothing is written to a transport that has gone.
        """
        self.channel.queue_declare("work").addErrback(lambda _: None)
        self.peer.transport.drop(Exception("gone"))
        self.peer.turn()
        self.assertEqual(self.peer.transport.writes, [])


class FullTests(SynchronousTestCase):
    """
    The transport is full: the protocol is its push producer.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.peer.listen()

    def test_producer(self) -> None:
        """
        The protocol is registered as one that streams.
        """
        verifyObject(IPushProducer, self.client)
        self.assertIs(self.peer.transport.producer, self.client)
        self.assertTrue(self.peer.transport.streaming)

    def test_publishes_wait(self) -> None:
        """
        While the transport is full nothing is written.  Then what was said leaves,
        and after it the publishes that have waited, in their order.
        """
        self.client.pauseProducing()
        waiting = [self.channel.basic_publish("", "work", b"%d" % n) for n in range(5)]
        declaring = self.channel.queue_declare("work")
        self.assertEqual(self.peer.listen(), [])
        for each in waiting:
            self.assertNoResult(each)
        self.client.resumeProducing()
        self.peer.expect(spec.QueueDeclare)
        self.peer.send(1, spec.QueueDeclareOk("work"))
        self.successResultOf(declaring)
        self.assertEqual(
            [each.body for each in self.peer.listen()], [b"%d" % n for n in range(5)]
        )
        for each in waiting:
            self.assertIsNone(self.successResultOf(each))

    def test_a_large_body(self) -> None:
        """
        Of a large body no more is handed on than there is room for, and it is not
        copied meanwhile.
        """
        transport = self.peer.transport
        transport.capacity = 300_000
        self.peer.drain()
        body = bytes(range(256)) * 8192
        published = self.channel.basic_publish("", "work", body)
        self.successResultOf(published)
        most = drained = 0
        while self.client._outgoing._pieces:
            most = max(most, transport.held)
            self.peer.drain()
            drained += 1
        self.assertGreater(drained, 3)
        self.assertLess(most, transport.capacity + 2 * 131072)
        self.assertEqual(self.peer.hear().body, body)

    def test_bounded(self) -> None:
        """
        What the transport holds is bounded by its own limit and one write, however
        much is published.
        """
        transport = self.peer.transport
        transport.capacity = 100_000
        self.peer.drain()
        batch = self.channel.publish_many(
            Message("", "work", bytes(1000)) for _ in range(1000)
        )
        most = 0
        while not batch.called:
            most = max(most, transport.held)
            self.peer.drain()
        self.successResultOf(batch)
        self.assertLess(most, transport.capacity + 131072 + 2000)
        self.peer.turn()
        self.assertEqual(len(self.peer.listen()), 1000)

    def test_fills_again(self) -> None:
        """
        A transport that is full again after one message gets one message at a time,
        from each channel in its turn.
        """
        other = self.peer.open_channel()
        self.peer.transport.capacity = 0
        self.client.pauseProducing()
        waiting: list[Deferred[Any]] = []
        for n in range(3):
            waiting.append(self.channel.basic_publish("", "work", bytes(131040 + n)))
            waiting.append(other.basic_publish("", "work", bytes(131050 + n)))
        sizes: list[int] = []
        for _ in waiting:
            self.peer.drain()
            (said,) = self.peer.listen()
            sizes.append(len(said.body))
            self.peer.said.clear()
        expected = [131040, 131050, 131041, 131051, 131042, 131052]
        self.assertEqual(sizes, expected)
        for each in waiting:
            self.successResultOf(each)

    def test_lost(self) -> None:
        """
        What waits fails with the connection; and a transport that stops its
        producer is full, until it goes.
        """
        self.client.stopProducing()
        waiting = self.channel.basic_publish("", "work", b"x")
        self.assertNoResult(waiting)
        self.peer.drop()
        self.failureResultOf(waiting, errors.ConnectionLost)

    def test_close(self) -> None:
        """
        A close leaves behind all that was said before it, when there is room; and if
        there never is, the connection is dropped in time.
        """
        for room in (True, False):
            self.setUp()
            self.client.pauseProducing()
            self.channel.basic_ack(1)
            closing = self.client.close()
            self.assertEqual(self.peer.listen(), [])
            if room:
                self.client.resumeProducing()
                self.peer.expect(spec.BasicAck)
                self.peer.expect(spec.ConnectionClose)
                self.peer.send(0, spec.ConnectionCloseOk())
            else:
                self.peer.clock.advance(self.client.parameters.close_timeout)
            self.peer.turn()
            self.successResultOf(closing)

    def test_violated(self) -> None:
        """
        What a peer is told that breaks the rules does not wait for room.
        """
        self.client.pauseProducing()
        self.channel.basic_ack(1)
        self.peer.feed(b"garbage!")
        self.peer.expect(spec.BasicAck)
        self.peer.expect(spec.ConnectionClose)
        self.flushLoggedErrors()


class HoldingTests(SynchronousTestCase):
    """
    A consumer has more than it can deal with: nothing is read.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.work: list[Deferred[None]] = []
        self.got: list[bytes] = []
        self.channel.basic_consume(
            "work", self.handle, True, consumer_tag="c", prefetch=2
        )
        self.peer.serve()

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that takes its time.
        """
        self.got.append(delivery.body)
        self.work.append(Deferred())
        return self.work[-1]

    def deliver(self, count: int, tag: str = "c") -> None:
        """
        Send so many messages, as one piece.
        """
        self.peer.feed(
            b"".join(
                self.peer.content(
                    1, spec.BasicDeliver(tag, n + 1, False, "", "work"), b"%d" % n
                )
                for n in range(count)
            )
        )

    def state(self) -> str:
        """
        Whether the transport is being read from.
        """
        self.peer.turn()
        return str(self.peer.transport.producerState)

    def test_hold(self) -> None:
        """
        Reading stops with the first message too many; what came with it waits,
        unparsed, until the handlers have caught up.
        """
        self.deliver(10)
        self.assertEqual(len(self.got), 3)
        self.assertEqual(self.state(), "paused")
        self.work[0].callback(None)
        self.assertEqual(len(self.got), 3)  # not from inside the handler's callback
        self.assertEqual(self.state(), "paused")  # one came, and was one too many
        self.assertEqual(len(self.got), 4)
        for each in self.work:  # which grows
            if not each.called:
                each.callback(None)
            self.peer.turn()
        self.assertEqual(self.got, [b"%d" % n for n in range(10)])
        self.assertEqual(self.state(), "producing")

    def test_answers_do_not_wait(self) -> None:
        """
        While the broker owes an answer it is read on: the handler that holds reading
        up may be the one that waits for it.
        """
        self.deliver(3)
        self.assertEqual(self.state(), "paused")
        declaring = self.channel.queue_declare("work")
        self.peer.turn()
        self.assertEqual(self.state(), "producing")
        self.deliver(2)
        self.assertEqual(self.state(), "producing")
        self.peer.serve()
        self.successResultOf(declaring)
        self.deliver(1)
        self.assertEqual(self.state(), "paused")

    def test_confirms_do_not_wait(self) -> None:
        """
        Nor does the answer for a message that was published.
        """
        self.channel.confirm_select()
        self.peer.serve()
        self.deliver(3)
        self.assertEqual(self.state(), "paused")
        taken = self.channel.basic_publish("", "work", b"")
        self.peer.turn()
        self.assertEqual(self.state(), "producing")
        self.peer.send(1, spec.BasicAck(1))
        self.successResultOf(taken)

    def test_channel_ends(self) -> None:
        """
        A channel that is closed by us holds nothing up any more.
        """
        other = self.peer.open_channel()
        self.deliver(5)
        self.assertEqual(self.state(), "paused")
        closing = self.channel.close()
        self.assertEqual(self.state(), "producing")
        self.peer.serve()
        self.successResultOf(closing)
        declaring = other.queue_declare("work")
        self.peer.serve()
        self.successResultOf(declaring)
        self.assertEqual(len(self.got), 3)

    def test_cancel(self) -> None:
        """
        Nor does a consumer that is cancelled.
        """
        self.deliver(3)
        cancelling = self.channel.basic_cancel("c")
        self.assertEqual(self.state(), "producing")
        self.peer.serve()
        self.successResultOf(cancelling)

    def test_close(self) -> None:
        """
        A connection that holds can be closed: the answer is read.
        """
        self.deliver(5)
        closing = self.client.close()
        self.assertEqual(self.state(), "producing")
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(closing)
        self.assertEqual(len(self.got), 3)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])

    def test_close_and_lost(self) -> None:
        """
        A connection that was closed while it held, and lost before it reads on,
        leaves no timer behind.
        """
        self.deliver(5)
        closing = self.client.close()
        self.peer.transport.drop(Exception("gone"))
        self.successResultOf(closing)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """
        A connection that holds can be lost.
        """
        self.deliver(5)
        closed = self.client.when_closed()
        self.peer.transport.drop(Exception("gone"))
        self.failureResultOf(closed, errors.ConnectionClosed)
        for each in self.work:
            each.callback(None)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])

    def test_violation_behind(self) -> None:
        """
        Garbage behind the messages is found when it is its turn.
        """
        self.deliver(3)
        self.peer.feed(b"garbage!")
        self.assertTrue(self.client.is_open)
        closed = self.client.when_closed()
        self.work[0].callback(None)
        self.peer.turn()
        self.peer.turn()
        self.failureResultOf(closed, errors.FrameError)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])
