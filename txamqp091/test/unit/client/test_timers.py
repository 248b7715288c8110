# -*- test-case-name: txamqp091.test.unit.client.test_timers -*-
"""
Tests for `txamqp091._timers`: joining what is written, and heartbeats, by the clock
alone.  What a connection makes of heartbeats is tested in `test_heartbeats`.
"""

from __future__ import annotations

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._timers import Heartbeats, Outgoing
from txamqp091.testing.reactor import SteppingClock
from txamqp091.wire.frames import Piece


class OutgoingTests(SynchronousTestCase):
    """
    One write per turn of the reactor.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[bytes] = []
        self.outgoing = Outgoing(self.clock, self.written.append)

    def test_joined(self) -> None:
        """
        What is written in one turn leaves as one piece, in order, at its end.
        """
        for each in (b"a", b"b", b"c"):
            self.outgoing.write(each)
        self.assertEqual(self.written, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)
        self.outgoing.write(b"d")
        self.clock.advance(0)
        self.assertEqual(self.written, [b"abc", b"d"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_single_piece(self) -> None:
        """
        A single piece is handed on as it is, not copied.
        """
        piece = bytes(1000)
        self.outgoing.write(piece)
        self.outgoing.flush()
        self.assertIs(self.written[0], piece)

    def test_large(self) -> None:
        """
        128 KiB do not wait for the end of the turn, and what comes after them does
        not overtake them.
        """
        self.outgoing.write(b"a" * 131071)
        self.assertEqual(self.written, [])
        self.outgoing.write(b"b")
        self.assertEqual([len(each) for each in self.written], [131072])
        self.outgoing.write(b"c")
        self.clock.advance(0)
        self.assertEqual(b"".join(self.written), b"a" * 131071 + b"bc")

    def test_paused(self) -> None:
        """
        While there is no room, what is written waits, uncopied; then it leaves in
        order, in pieces of about 128 KiB, up to the next pause.
        """
        room = 2

        def take(data: bytes) -> None:
            nonlocal room
            self.written.append(data)
            room -= 1
            outgoing.paused = not room

        outgoing = Outgoing(self.clock, take)
        body = bytes(range(256)) * 3000
        pieces: list[Piece] = [b"head", *[memoryview(body)[i : i + 100000] for i in
                             range(0, len(body), 100000)], b"end"]  # fmt: skip
        for piece in pieces:
            outgoing.write(piece)
        self.clock.advance(0)
        self.assertEqual(len(self.written), 2)
        for more in (1, 2, 9):
            room = more
            outgoing.paused = False
            outgoing.flush()
        self.assertEqual(b"".join(self.written), b"head" + body + b"end")
        self.assertLess(max(map(len, self.written)), 131072 + 100000)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_flush(self) -> None:
        """
        Flushed by hand, nothing leaves twice, and nothing is nothing.
        """
        self.outgoing.write(b"a")
        self.outgoing.flush()
        self.outgoing.flush()
        self.clock.advance(0)
        self.assertEqual(self.written, [b"a"])

    def test_in_turn(self) -> None:
        """
        In a turn that is flushed by somebody, no call is scheduled.
        """
        self.outgoing.in_turn = True
        self.outgoing.write(b"a")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.outgoing.flush()
        self.assertEqual(self.written, [b"a"])

    def test_written_from_inside(self) -> None:
        """
        What is written while other bytes are handed on comes after them.
        """

        def write(data: bytes) -> None:
            self.written.append(data)
            if data == b"a":
                outgoing.write(b"b")

        outgoing = Outgoing(self.clock, write)
        outgoing.write(b"a")
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.written, [b"a", b"b"])

    def test_stop(self) -> None:
        """
        After the end nothing leaves, nothing is scheduled, and nothing piles up.
        """
        self.outgoing.write(b"a")
        self.outgoing.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for _ in range(3):
            self.outgoing.write(bytes(65536))
        self.outgoing.write(b"b")
        self.outgoing.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.written, [])

    def test_flushed_at(self) -> None:
        """
        It is known when something was last said.
        """
        self.clock.advance(5)
        self.outgoing.flush()
        self.assertEqual(self.outgoing.flushed_at, 0)
        self.outgoing.write(b"a")
        self.clock.advance(2)
        self.assertEqual(self.outgoing.flushed_at, 7)


class WallClock(Clock):
    """
    A clock that can be set while timers wait, as Twisted's reactors have.

    :ivar difference: seconds between what it says and the time that has passed.
    """

    difference = 0.0

    def seconds(self) -> float:
        """
        What it says.
        """
        return self.rightNow + self.difference


class HeartbeatTests(SynchronousTestCase):
    """
    When to speak, and when to give up.
    """

    def make(self, interval: int, clock: Clock | None = None) -> Heartbeats:
        """
        Heartbeats that note when they were sent, and when the peer was given up.
        """
        self.clock = clock or Clock()
        self.sent: list[float] = []
        self.expired: list[tuple[float, int]] = []
        self.outgoing = Outgoing(self.clock, lambda _: None)

        def send() -> None:
            self.sent.append(self.clock.seconds())
            self.outgoing.write(b"heartbeat")
            self.outgoing.flush()

        def expired(seconds: int) -> None:
            self.expired.append((self.clock.seconds(), seconds))
            heartbeats.stop()

        heartbeats = Heartbeats(self.clock, interval, self.outgoing, send, expired)
        return heartbeats

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """
        Let time pass in steps.
        """
        self.clock.pump([step] * int(seconds / step))

    def test_idle(self) -> None:
        """
        One is sent each half interval in which nothing else was said.
        """
        heartbeats = self.make(10)
        self.pass_time(16)
        self.assertEqual(self.sent, [5, 10, 15])
        heartbeats.stop()

    def test_busy(self) -> None:
        """
        None is sent as long as other things are said; the pause counts from the
        last of them.
        """
        heartbeats = self.make(10)
        for _ in range(12):
            self.pass_time(1)
            self.outgoing.write(b"data")
            self.outgoing.flush()
        self.assertEqual(self.sent, [])
        heartbeats.heard()
        self.pass_time(6)
        self.assertEqual(self.sent, [17])
        heartbeats.stop()

    def test_any_time(self) -> None:
        """
        However the times are rounded, a heartbeat comes up when it is due, and not
        again and again before.
        """
        clock = SteppingClock()
        clock.limit = 100
        chance = random.Random(1)
        heartbeats = self.make(1, clock)
        for _ in range(1000):
            clock.advance(chance.random() / 10)
            self.outgoing.flushed_at = clock.seconds()
            heartbeats.heard()
            clock.advance(0.25)
            clock.advance(0.25)

    def test_expired(self) -> None:
        """
        A peer that said nothing for two intervals is given up, once.
        """
        heartbeats = self.make(10)
        self.pass_time(7)
        heartbeats.heard()
        self.pass_time(19.5)
        self.assertEqual(self.expired, [])
        self.pass_time(20)
        self.assertEqual(self.expired, [(27, 20)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_busy_reactor(self) -> None:
        """
        A peer is not given up for what the reactor was too busy to read: it has one
        more turn.
        """
        heartbeats = self.make(10)

        def read() -> None:
            heartbeats.heard()

        self.pass_time(19.5)
        self.clock.callLater(5, read)
        self.clock.advance(5.5)  # in which 20 comes before 24.5
        self.assertEqual(self.expired, [])
        self.pass_time(25)
        self.assertEqual(self.expired, [(45, 20)])

    def test_clock_is_set(self) -> None:
        """
        When the clock is set, by any time in any direction, a peer that sends
        heartbeats is not given up, and gets ours in time; one that falls silent later
        is given up.
        """
        for change in (0.7, 10, 25, 3600, -0.7, -10, -25, -3600):
            for before in range(10):
                clock = WallClock()
                heartbeats = self.make(10, clock)
                clock.callLater(0, heartbeats.heard)
                sent = [0.0]
                for second in range(1, 100):
                    if second == 20 + before:
                        clock.difference = change
                    clock.advance(1)
                    if self.sent:
                        sent.append(clock.rightNow)
                        self.sent.clear()
                    if second % 5 == 0:
                        heartbeats.heard()
                self.assertEqual(self.expired, [])
                pauses = [b - a for a, b in zip(sent, sent[1:], strict=False)]
                self.assertLessEqual(max(pauses), 10, (change, before))
                self.pass_time(15)
                self.assertEqual(self.expired, [])
                self.pass_time(7)
                self.assertEqual(len(self.expired), 1, (change, before))

    def test_deaf(self) -> None:
        """
        While we do not listen, the peer is not given up; after that it has its two
        intervals again.
        """
        heartbeats = self.make(10)
        heartbeats.deaf = True
        self.pass_time(100)
        self.assertEqual(self.expired, [])
        heartbeats.deaf = False
        heartbeats.heard()
        self.pass_time(25)
        self.assertEqual(self.expired, [(120, 20)])

    def test_none(self) -> None:
        """
        An interval of zero is no heartbeats.
        """
        heartbeats = self.make(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        heartbeats.stop()

    def test_stop(self) -> None:
        """
        Stopped, it leaves nothing behind; stopped again, neither.
        """
        heartbeats = self.make(1)
        heartbeats.stop()
        heartbeats.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_from_inside(self) -> None:
        """
        What is called to send a heartbeat may end it all.
        """
        clock = Clock()
        outgoing = Outgoing(clock, lambda _: None)
        heartbeats = Heartbeats(
            clock, 10, outgoing, lambda: heartbeats.stop(), lambda _: None
        )
        clock.advance(5)
        self.assertEqual(clock.getDelayedCalls(), [])
