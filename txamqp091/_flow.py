# -*- test-case-name: txamqp091.test.unit.client.test_flow -*-
"""
Back-pressure, both ways, for one connection.

Outward: whether messages can be published now, and which publishers wait for that.
Inward: which consumers have more deliveries than they can handle.  While there is one,
nothing is read from the transport; unless the broker owes answers, since a handler can
wait for one, and answers come behind deliveries.  What comes before an answer is
limited; more ends the connection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txamqp091.errors import ConnectionBlocked, PublisherFull

__all__ = ["EXCESS", "MOST_BLOCKED", "MOST_WAITING", "Flow", "Waiter"]

#: How many bytes of deliveries that their owner cannot take may come before an answer.
EXCESS = 64 << 20

#: How many bytes of messages may wait to be published, on one connection; and how many
#: while the broker blocks, which can take hours.
MOST_WAITING = 256 << 20
MOST_BLOCKED = 64 << 20

#: The bytes that a message costs besides its body, or about so.
_COST = 512


class Waiter(Protocol):
    """
    A publisher with messages that wait.
    """

    def release(self) -> None:
        """
        Publish what can be sent now.
        """


class _Hold:
    """
    A consumer that has more deliveries than it can handle.

    :ivar channel: the consumer's channel.
    :ivar first: the number of its deliveries when that began.
    :ivar seen: the number of deliveries since then, with those handled meanwhile.
    :ivar size: the bytes of those.
    """

    __slots__ = ("channel", "first", "seen", "size")

    def __init__(self, channel: object, first: int) -> None:
        self.channel = channel
        self.first = first
        self.seen = 0
        self.size = 0


class Flow:
    """
    The back-pressure of one connection.

    :ivar may_publish: whether a message can be sent now: the connection is open, the
        transport has room, and the broker does not block.
    :ivar blocked: why the broker blocks publishing, or None if it does not.
    :ivar waiting: the bytes of the messages that wait to be published.
    :ivar reading: whether the transport is being read from.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stop_reading: Callable[[], None],
        read_on: Callable[[], None],
        answers_due: Callable[[], bool] = lambda: False,
        overrun: Callable[[], object] = lambda: None,
    ) -> None:
        """
        :param stop_reading: called when the first consumer holds.
        :param read_on: called, in a turn of its own, when none holds any more.
        :param answers_due: tells whether the broker owes answers.
        :param overrun: called when a consumer has got more than `EXCESS` bytes while it
            held and an answer was due.
        """
        self.may_publish = False
        self.blocked: str | None = None
        self.waiting = 0
        self.reading = True
        self._clock = clock
        self._stop_reading = stop_reading
        self._read_on = read_on
        self._answers_due = answers_due
        self._overrun = overrun
        self._ended = False
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._holders: dict[object, _Hold] = {}
        self._call: IDelayedCall | None = None

    # -- outward -------------------------------------------------------------------

    def allow(self, publishing: bool) -> None:
        """
        Set whether messages can be sent.  Those that wait are sent at once.
        """
        self.may_publish = publishing and not self._ended
        while self.may_publish and self._waiters:
            # If it has more to send, it goes behind all the others: taking turns.
            waiter, _ = self._waiters.popitem(last=False)
            waiter.release()

    def wake(self, waiter: Waiter) -> None:
        """
        Have a publisher released when messages can be sent again.
        """
        if not self.may_publish and not self._ended:
            self._waiters[waiter] = None

    def keep(self, size: int) -> int:
        """
        Count a message that has to wait.

        :param size: the bytes of its body and its properties.
        :returns: the bytes that it costs, to be given to `let_go`.
        :raises ConnectionBlocked: too many bytes wait, and the broker blocks.
        :raises PublisherFull: too many bytes wait.
        """
        if self.blocked is not None and self.waiting >= MOST_BLOCKED:
            raise ConnectionBlocked(self.blocked, False)
        if self.waiting >= MOST_WAITING:
            raise PublisherFull(
                f"{self.waiting >> 20} MiB of messages wait to be published on this "
                "connection: wait for the Deferreds of some before publishing more"
            )
        cost = size + _COST
        self.waiting += cost
        return cost

    def let_go(self, cost: int) -> None:
        """
        Note that a message waits no longer.
        """
        self.waiting -= cost

    # -- inward --------------------------------------------------------------------

    def hold(
        self, owner: object, channel: object, count: int = 0, size: int = 0
    ) -> None:
        """
        Read nothing more until ``owner`` can take more, or its channel ends.  Call it
        with each delivery that is too much.

        :param count: how many deliveries the owner has.
        :param size: the bytes of the last one's body.
        """
        if self._ended:
            return
        hold = self._holders.get(owner)
        if hold is None:
            hold = self._holders[owner] = _Hold(channel, count)
        hold.seen += 1
        hold.size += size + _COST
        if not self.reading:
            return
        if not self._answers_due():
            self.reading = False
            self._stop_reading()
        elif (count - hold.first) * hold.size / hold.seen > EXCESS:
            self._overrun()

    def release(self, owner: object) -> None:
        """
        The owner can take more.
        """
        if self._holders.pop(owner, None) is not None:
            self._resume()

    def release_channel(self, channel: object) -> None:
        """
        Release all owners on a channel.
        """
        for owner, hold in list(self._holders.items()):
            if hold.channel is channel:
                self.release(owner)

    def said(self) -> None:
        """
        Note that bytes were sent, which can be a call that the broker answers.
        """
        if self._answers_due():
            self._resume_soon()

    def _resume(self) -> None:
        if not self._holders:
            self._resume_soon()

    def _resume_soon(self) -> None:
        # In a turn of its own: the caller of release() is in the middle of its work.
        if not self.reading and self._call is None:
            self._call = self._clock.callLater(0, self._resume_now)

    def _resume_now(self) -> None:
        self._call = None
        if not self._holders or self._answers_due():
            self.reading = True
            self._read_on()

    # -- the end -------------------------------------------------------------------

    def end(self) -> None:
        """
        End the publishing, and release all owners.
        """
        self._ended = True
        self.may_publish = False
        self._waiters.clear()
        self._holders.clear()
        self._resume()

    def stop(self) -> None:
        """
        Cancel what is scheduled: nothing is left to read.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
