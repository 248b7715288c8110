# -*- test-case-name: txamqp091.test.unit.client.test_heartbeats -*-
"""
Tests for what a connection makes of heartbeats (criterion 8): a dead peer is noticed
within two intervals, whatever else goes on, and a live one hears from us.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT


class HeartbeatTestCase(SynchronousTestCase):
    """
    A connection with an interval of ten seconds.
    """

    def setUp(self) -> None:
        self.peer = Peer(self, ConnectionParameters(heartbeat=10, host="rabbit"))
        self.peer.handshake()
        self.peer.listen()

    def pass_time(self, seconds: float, alive: bool = False) -> int:
        """
        Let time pass.

        :param alive: whether the peer sends heartbeats.
        :returns: how many heartbeats the client has sent.
        """
        before = self.peer.heartbeats
        for step in range(int(seconds / 0.5)):
            self.peer.clock.advance(0.5)
            if alive and step % 10 == 9:
                self.peer.heartbeat()
        self.peer.listen()
        return self.peer.heartbeats - before

    def assertDead(self, *waiting: Deferred[Any]) -> None:
        """
        The peer was given up, by all, and without ceremony.
        """
        self.assertEqual(self.peer.transport.ended, "aborted")
        self.assertFalse(self.peer.transport.connected)
        reason = self.failureResultOf(
            self.peer.client.when_closed(), errors.HeartbeatTimeout
        ).value
        self.assertIn("nothing was heard from rabbit for 20 s", str(reason))
        for each in waiting:
            self.assertIs(self.failureResultOf(each).value, reason)
        self.assertEqual(self.peer.clock.getDelayedCalls(), [])


class SpeakingTests(HeartbeatTestCase):
    """
    The peer hears from us.
    """

    def test_idle(self) -> None:
        """
        An idle client sends a heartbeat each half interval.
        """
        self.assertEqual(self.pass_time(60, alive=True), 12)

    def test_busy(self) -> None:
        """
        A client that says other things sends none.
        """
        channel = self.peer.open_channel()
        for _ in range(20):
            channel.basic_publish("", "work", b"")
            self.assertEqual(self.pass_time(3), 0)
            self.peer.heartbeat()

    def test_answers_are_heartbeats(self) -> None:
        """
        Whatever the peer sends shows that it is alive, even half a frame.
        """
        for byte in HEARTBEAT:
            self.pass_time(15)
            self.peer.feed(bytes([byte]))
        self.assertTrue(self.peer.client.is_open)

    def test_handler_runs(self) -> None:
        """
        Heartbeats go on while a handler takes its time.
        """
        channel = self.peer.open_channel()
        work: Deferred[None] = Deferred()
        channel.basic_consume("work", lambda _: work, consumer_tag="c")
        self.peer.serve()
        self.peer.deliver(1, "c", 1, b"long")
        self.assertEqual(self.pass_time(100, alive=True), 20)
        self.assertTrue(self.peer.client.is_open)
        work.callback(None)

    def test_blocked(self) -> None:
        """
        They go on for as long as the broker blocks, with publishes that wait.
        """
        channel = self.peer.open_channel()
        self.peer.send(0, spec.ConnectionBlocked("low on memory"))
        waiting = channel.basic_publish("", "work", b"")
        self.assertEqual(self.pass_time(100, alive=True), 20)
        self.assertNoResult(waiting)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.successResultOf(waiting)

    def test_full(self) -> None:
        """
        A transport that is full has enough to say: no heartbeats pile up.
        """
        self.peer.transport.capacity = 0
        self.peer.open_channel()
        self.assertEqual(self.pass_time(100, alive=True), 0)
        self.peer.drain()
        self.assertEqual(self.pass_time(5, alive=True), 1)


class ListeningTests(HeartbeatTestCase):
    """
    The peer falls silent.
    """

    def test_idle(self) -> None:
        """
        An idle client notices within two intervals, not before.
        """
        closed = self.peer.client.when_closed()
        self.pass_time(19.5)
        self.assertNoResult(closed)
        self.pass_time(0.5)
        self.assertDead(closed)

    def test_pending(self) -> None:
        """
        All that waits fails with the same reason.
        """
        channel = self.peer.open_channel()
        channel.confirm_select()
        consuming = channel.basic_consume("work", lambda _: None)
        self.peer.serve()
        consumer = self.successResultOf(consuming)
        waiting: list[Deferred[Any]] = [
            channel.queue_declare("work"),
            channel.basic_publish("", "work", b"x"),
            channel.when_closed(),
            consumer.when_ended(),
            self.peer.client.open_channel(),
            self.peer.client.when_closed(),
        ]
        self.pass_time(20)
        self.assertDead(*waiting)

    def test_publishing(self) -> None:
        """
        A client that is busy publishing notices as soon.
        """
        channel = self.peer.open_channel()
        channel.confirm_select()
        self.peer.serve()
        waiting: list[Deferred[Any]] = []
        for _ in range(40):
            waiting.append(channel.basic_publish("", "work", b"x"))
            self.pass_time(0.5)
        self.assertDead(*waiting)

    def test_full(self) -> None:
        """
        Even with a write buffer that will never drain: to wait for it would be to
        wait for the kernel.
        """
        channel = self.peer.open_channel()
        self.peer.turn()
        self.peer.transport.capacity = 1000
        waiting: list[Deferred[Any]] = [
            channel.basic_publish("", "work", bytes(1000)) for _ in range(200)
        ]
        left = [each for each in waiting if each.called]
        self.assertLess(len(left), 130)  # 128 KiB and a message, then it was full
        self.pass_time(20)
        self.assertDead(*waiting[len(left) :])

    def test_while_closing(self) -> None:
        """
        A close has its own time limit, and heartbeats do not cut it short.
        """
        self.pass_time(18)
        closing = self.peer.client.close()
        self.pass_time(4)
        self.assertNoResult(closing)
        self.pass_time(1)
        self.successResultOf(closing)
        self.assertEqual(self.peer.transport.ended, "aborted")

    def test_held(self) -> None:
        """
        While nothing is read, for the sake of a slow consumer, the peer is not to
        blame; after that it has two intervals again.
        """
        channel = self.peer.open_channel()
        work: list[Deferred[None]] = []

        def handler(_: Delivery) -> Deferred[None]:
            work.append(Deferred())
            return work[-1]

        channel.basic_consume("work", handler, True, consumer_tag="c", prefetch=1)
        self.peer.serve()
        for number in (1, 2):
            self.peer.deliver(1, "c", number)
        self.assertEqual(self.peer.transport.producerState, "paused")
        self.assertEqual(self.pass_time(100), 20)
        self.assertTrue(self.peer.client.is_open)
        for each in work:
            each.callback(None)
        self.peer.turn()
        self.assertEqual(self.peer.transport.producerState, "producing")
        self.pass_time(19.5)
        self.assertTrue(self.peer.client.is_open)
        self.pass_time(1)
        self.assertDead()


class NoHeartbeatTests(SynchronousTestCase):
    """
    Whose interval counts.
    """

    def test_none(self) -> None:
        """
        0 switches heartbeats off, whatever the broker proposes: silence is allowed for
        ever.
        """
        for theirs in (0, 60):
            peer = Peer(self, ConnectionParameters(heartbeat=0))
            peer.handshake(heartbeat=theirs)
            self.assertEqual(peer.clock.getDelayedCalls(), [])
            peer.clock.advance(1e6)
            self.assertTrue(peer.client.is_open)
            peer.listen()
            self.assertEqual(peer.heartbeats, 0)
            self.assertEqual(peer.client.heartbeat, 0)

    def test_lower(self) -> None:
        """
        Of two intervals the lower counts; a broker that proposes none gets ours.
        """
        for ours, theirs in ((4, 0), (4, 60), (60, 4)):
            peer = Peer(self, ConnectionParameters(heartbeat=ours))
            peer.handshake(heartbeat=theirs)
            closed = peer.client.when_closed()
            peer.clock.pump([1] * 9)
            self.failureResultOf(closed, errors.HeartbeatTimeout)
            peer.listen()
            self.assertEqual(peer.heartbeats, 4)  # each 2 s, until it was 8
