# -*- test-case-name: txamqp091.test.unit.client.test_timers -*-
"""
The timers of a connection: one write for each turn of the reactor, heartbeats, and
pauses between reads.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txamqp091.wire.frames import Piece

__all__ = ["Heartbeats", "Outgoing", "ReadPauses"]

#: Bytes that wait for the end of the turn, at the most.
_FLUSH_SIZE = 131072

#: The bytes of one read that are so many that another read costs little beside them.
_LARGE_READ = 16384

#: Seconds that are too few to set a timer for.
_TICK = 0.001


class Outgoing:
    """
    Joins the bytes of one turn of the reactor: many frames cost one system call, and
    one record under TLS.

    :ivar in_turn: whether the caller will call `flush` at the end of the turn.
    :ivar paused: whether the transport has no room; bytes wait here meanwhile.
    :ivar size: the number of bytes that wait here.
    :ivar flushed_at: the clock's time when bytes were last passed on.
    """

    __slots__ = ("_call", "_clock", "_pieces", "_write", "flushed_at", "in_turn",
                 "paused", "size")  # fmt: skip

    def __init__(self, clock: IReactorTime, write: Callable[[bytes], object]) -> None:
        self.in_turn = False
        self.paused = False
        self.flushed_at = 0.0
        self._clock = clock
        self._write = write
        self._pieces: list[Piece] = []
        self.size = 0
        self._call: IDelayedCall | None = None

    def write(self, data: Piece) -> None:
        """
        Send bytes, after all earlier bytes.

        :param data: it is read when the turn ends, or later.
        """
        self._pieces.append(data)
        self.size += len(data)
        if self.size >= _FLUSH_SIZE:
            self.flush()
        elif self._call is None and not self.in_turn:
            self._call = self._clock.callLater(0, self._turn_ends)

    def _turn_ends(self) -> None:
        self._call = None
        self.flush()

    def flush(self) -> None:
        """
        Pass on the bytes that wait, as far as there is room.
        """
        while self._pieces and not self.paused:
            pieces = self._pieces
            if self.size < 2 * _FLUSH_SIZE:
                self._pieces = []
                self.size = 0
            else:
                pieces = self._next_pieces()
            self.flushed_at = self._clock.seconds()
            self._write(b"".join(pieces))

    def _next_pieces(self) -> list[Piece]:
        """
        Take as many of the pieces as should be sent together.
        """
        size = count = 0
        for piece in self._pieces:
            size += len(piece)
            count += 1
            if size >= _FLUSH_SIZE:
                break
        pieces = self._pieces[:count]
        del self._pieces[:count]
        self.size -= size
        return pieces

    def stop(self) -> None:
        """
        Drop all bytes: the transport has gone.
        """
        self._write = _nowhere
        self._pieces = []
        self.size = 0
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.in_turn = True


def _nowhere(data: bytes) -> None:
    """
    Ignore bytes, as the transport has gone.
    """


class ReadPauses:
    """
    Reads less often while small pieces come fast.

    RabbitMQ writes some 20 messages at a time, and each read costs a turn of the
    reactor: more than to deal with what was read.  After a short read that came soon
    after the one before, nothing is read for a moment, and then more at once.
    """

    __slots__ = ("_call", "_clock", "_last", "_pause", "_resume", "_seconds")

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        pause: Callable[[], bool],
        resume: Callable[[], object],
    ) -> None:
        """
        :param seconds: how soon a read comes that is too soon, and how long a pause is.
        :param pause: pauses reading, if it may be paused now; tells whether it did.
        :param resume: reads again.
        """
        self._clock = clock
        self._seconds = seconds
        self._pause = pause
        self._resume = resume
        self._last = 0.0
        self._call: IDelayedCall | None = None

    def received(self, size: int) -> None:
        """
        Note that so many bytes were read, and dealt with.
        """
        now = self._clock.seconds()
        soon = 0 <= now - self._last < self._seconds
        self._last = now
        if soon and 0 < size < _LARGE_READ and self._call is None and self._pause():
            self._call = self._clock.callLater(self._seconds, self._over)

    def _over(self) -> None:
        self._call = None
        self._resume()

    def stop(self) -> None:
        """
        Cancel the timer.
        """
        call, self._call = self._call, None
        if call is not None:
            call.cancel()


class Heartbeats:
    """
    Sends a heartbeat when nothing was sent for half an interval, and reports a timeout
    when nothing was received for two.

    The clock is the reactor's.  With Twisted's reactors this is the wall clock, which
    can be set.  When the clock is set forward, all timers are due at once: so each
    timer adds no more to the peer's silence than its own delay.  When the clock is set
    back, timers are late: the next byte of the peer, which sends heartbeats as well,
    starts them again.

    :ivar heard_at: the clock's time when the peer last sent something.
    :ivar deaf: whether reading is paused, so that silence is not the peer's fault.
    """

    def __init__(
        self,
        clock: IReactorTime,
        interval: int,
        outgoing: Outgoing,
        send: Callable[[], None],
        expired: Callable[[int], None],
    ) -> None:
        """
        :param interval: what was agreed, in seconds; 0 switches heartbeats off.
        :param send: sends a heartbeat, unless other bytes are still to leave.
        :param expired: told when the peer was silent for so many seconds.
        """
        self.heard_at = clock.seconds()
        self.deaf = False
        self._clock = clock
        self._outgoing = outgoing
        self._send = send
        self._expired = expired
        self._pause = interval / 2
        self._limit = interval * 2
        # The peer's silence, as far as it was known at a time; and the delay of the
        # timer since then.
        self._silence = 0.0
        self._looked_at = self.heard_at
        self._delay = 0.0
        self._last_turn = False
        self._calls: list[IDelayedCall | None] = [None, None]
        if interval:
            self._start()

    def _start(self) -> None:
        self._speak_after(self._pause)
        self._listen_for(self._pause)

    def heard(self) -> None:
        """
        Note that the peer has sent something.
        """
        now = self._clock.seconds()
        set_back = now < self.heard_at
        self.heard_at = now
        if set_back and self._calls[1] is not None:
            self.stop()
            self._silence, self._looked_at = 0.0, now
            self._start()
            self._send()

    def _speak_after(self, delay: float) -> None:
        self._calls[0] = self._clock.callLater(delay, self._speak)

    def _speak(self) -> None:
        # Of two near times the difference is exact, and so leads to the later one.
        now, due = self._clock.seconds(), self._outgoing.flushed_at + self._pause
        if now < due:
            self._speak_after(min(due - now, self._pause))
        else:
            self._speak_after(self._pause)
            self._send()

    def _listen_for(self, delay: float) -> None:
        self._delay = delay
        self._calls[1] = self._clock.callLater(delay, self._listen)

    def _listen(self) -> None:
        now = self._clock.seconds()
        if self.deaf:
            self.heard_at = now
        if self.heard_at >= self._looked_at:
            self._silence, self._looked_at = 0.0, self.heard_at
        self._silence += min(max(now - self._looked_at, 0.0), self._delay)
        self._looked_at = now
        left = self._limit - self._silence
        if left > _TICK:
            self._last_turn = False
            self._listen_for(min(left, self._pause))
        elif not self._last_turn:
            # If the reactor was busy, what has come meanwhile is read in this turn.
            self._last_turn = True
            self._listen_for(0)
        else:
            self._calls[1] = None
            self._expired(self._limit)

    def stop(self) -> None:
        """
        Cancel the timers.
        """
        calls, self._calls = self._calls, [None, None]
        for call in calls:
            if call is not None and call.active():
                call.cancel()
