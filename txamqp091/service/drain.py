# -*- test-case-name: txamqp091.test.unit.service.test_client_stop -*-
"""
How services wait while they are stopped: for many things, but not for ever.
"""

from __future__ import annotations

__all__ = ["Drain"]

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import (
    Deferred,
    DeferredList,
    TimeoutError,
)
from twisted.internet.interfaces import IReactorTime


class Drain:
    """
    The patience of a service that is being stopped.
    """

    def __init__(self, reactor: IReactorTime, seconds: float) -> None:
        """
        :param seconds: how long all of it may take, but for what has a limit of its
            own.
        """
        self._reactor = reactor
        self._deadline = reactor.seconds() + seconds
        self._waiting: Deferred[Any] | None = None

    def hurry(self) -> None:
        """
        Have no more patience.
        """
        self._deadline = self._reactor.seconds()
        if self._waiting is not None:
            self._waiting.cancel()

    async def all(self, steps: Sequence[Deferred[Any]], limit: float = 0.0) -> None:
        """
        Wait until all steps have ended, well or not.  What takes too long is cancelled.

        :param limit: how many seconds it may take, whatever has passed before; 0 is
            what is left of them all.
        """
        patient = not limit
        if patient:
            limit = max(self._deadline - self._reactor.seconds(), 0)
        waiting = DeferredList(steps, consumeErrors=True)
        done: Deferred[None] = Deferred(lambda _: waiting.cancel())
        waiting.addBoth(lambda _: None if done.called else done.callback(None))
        done.addTimeout(limit, self._reactor)
        if patient and not done.called:
            self._waiting = done
        try:
            await done
        except TimeoutError:
            pass
        finally:
            self._waiting = None
