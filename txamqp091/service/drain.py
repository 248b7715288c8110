# -*- test-case-name: txamqp091.test.unit.service.test_drain -*-
"""
The shutdown deadline of a service: `Drain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    TimeoutError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

_log = Logger(namespace="txamqp091.service")


class Drain:
    """
    Waits for the steps of an orderly stop, until a deadline.
    """

    def __init__(self, reactor: IReactorTime, seconds: float) -> None:
        """
        :param seconds: how long all steps together may take, except those with a limit
            of their own.
        """
        self._reactor = reactor
        self._deadline = reactor.seconds() + seconds
        self._waiting: Deferred[None] | None = None

    def expire(self) -> None:
        """
        Let the deadline be now.
        """
        self._deadline = self._reactor.seconds()
        if self._waiting is not None:
            self._waiting.cancel()

    async def wait(
        self, name: str, steps: Sequence[Deferred[Any]], limit: float = 0.0
    ) -> None:
        """
        Wait until all steps have ended, well or not.  Steps that take too long are
        cancelled, and the log says how many.

        :param name: what the steps wait for.
        :param limit: how many seconds they may take, whatever is left until the
            deadline; 0 is what is left.
        """
        until_deadline = not limit
        if until_deadline:
            limit = max(self._deadline - self._reactor.seconds(), 0)
        waiting = DeferredList(steps, consumeErrors=True)
        done: Deferred[None] = Deferred()
        waiting.addBoth(lambda _: None if done.called else done.callback(None))
        done.addTimeout(limit, self._reactor)
        if until_deadline and not done.called:
            self._waiting = done
        try:
            await done
        except (TimeoutError, CancelledError):
            late = [each for each in steps if not each.called]
            _log.warn(
                "Stopping without waiting any longer for {count} of {total} {name}",
                count=len(late),
                total=len(steps),
                name=name,
            )
            waiting.cancel()
        finally:
            self._waiting = None
