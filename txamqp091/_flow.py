# -*- test-case-name: txamqp091.test.unit.client.test_flow -*-
"""
Back-pressure, both ways, for one connection.

Outward: whether messages may be published now, and which publishers wait for that.
Inward: which consumers have more than they can deal with; while there is one,
nothing is read from the transport.  Unless the broker owes answers: whoever waits for
one may be the very handler that does not get on, and answers come behind deliveries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Flow", "Waiter"]


class Waiter(Protocol):
    """
    A publisher with messages that wait.
    """

    def release(self) -> None:
        """
        Publish what may leave now.
        """


class Flow:
    """
    What one connection lets through.

    :ivar may_publish: whether a message may leave now: the connection is open, the
        transport has room, and the broker does not block.
    :ivar reading: whether the transport is being read from.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stop_reading: Callable[[], None],
        read_on: Callable[[], None],
        answers_due: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        :param stop_reading: called when the first consumer holds.
        :param read_on: called, in a turn of its own, when none holds any more.
        :param answers_due: tells whether the broker owes answers.
        """
        self.may_publish = False
        self.reading = True
        self._clock = clock
        self._stop_reading = stop_reading
        self._read_on = read_on
        self._answers_due = answers_due
        self._ended = False
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._holders: dict[object, object] = {}
        self._call: IDelayedCall | None = None

    # -- outward -------------------------------------------------------------------

    def allow(self, publishing: bool) -> None:
        """
        Say whether messages may leave.  Those that wait for it leave at once.
        """
        self.may_publish = publishing and not self._ended
        while self.may_publish and self._waiters:
            # If it has more to send, it goes behind all the others: taking turns.
            waiter, _ = self._waiters.popitem(last=False)
            waiter.release()

    def wake(self, waiter: Waiter) -> None:
        """
        Have a publisher released when messages may leave again.
        """
        if not self.may_publish and not self._ended:
            self._waiters[waiter] = None

    # -- inward --------------------------------------------------------------------

    def hold(self, owner: object, channel: object) -> None:
        """
        Read nothing more until ``owner`` can take more, or its channel ends.  To be
        called again with each delivery that is too much.
        """
        if not self._ended:
            self._holders[owner] = channel
            if self.reading and not self._answers_due():
                self.reading = False
                self._stop_reading()

    def release(self, owner: object) -> None:
        """
        The owner can take more.
        """
        if self._holders.pop(owner, None) is not None:
            self._resume()

    def release_channel(self, channel: object) -> None:
        """
        Nobody on a channel holds any more.
        """
        for owner, held in list(self._holders.items()):
            if held is channel:
                self.release(owner)

    def said(self) -> None:
        """
        Something was sent; perhaps a question.
        """
        if self._answers_due():
            self._resume_soon()

    def _resume(self) -> None:
        if not self._holders:
            self._resume_soon()

    def _resume_soon(self) -> None:
        # In a turn of its own: whoever released may be in the middle of things.
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
        Nothing may be published any more, and nobody holds.
        """
        self._ended = True
        self.may_publish = False
        self._waiters.clear()
        self._holders.clear()
        self._resume()

    def stop(self) -> None:
        """
        There is nothing left to read.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
