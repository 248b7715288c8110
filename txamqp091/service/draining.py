# -*- test-case-name: txamqp091.test.test_client_service_stop -*-
"""
How services wait while they are stopped: for many things, but not for ever.
"""

from __future__ import annotations

__all__ = ["ConsumerDrain", "Drain"]

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

from txamqp091.errors import AMQPError
from txamqp091.service.subscriptions import RecoveringConsumer
from txamqp091.service.work import Work

#: How many seconds the broker has to agree to the end of a consumer or a channel.
_STEP = 5.0


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


class ConsumerDrain:
    """
    The end of a consumer, in order, and with so much patience.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, work: Work, seconds: float) -> None:
        """
        :param seconds: how long handlers may take.
        """
        self._reactor = reactor
        self._work = work
        self._deadline = self._reactor.seconds() + seconds
        self._waiting: Deferred[Any] | None = None
        self._hurried = False

    async def run(self, consumers: Sequence[RecoveringConsumer]) -> None:
        """
        All of it.
        """
        cancelled = [each.cancel() for each in consumers]
        # After the basic.cancel, or they would come back to us.
        self._work.hand_back()
        for each in cancelled:
            await self._wait(each, self._left(_STEP))
        if self._work.running:
            self._log.info(
                "Waiting for {number} running handlers", number=self._work.running
            )
            await self._wait(self._work.when_idle(), self._left())
            self._work.abandon()
        # A channel has heard all acknowledgements when it has closed.
        for consumer in consumers:
            await self._wait(consumer.channel.close(), _STEP)

    def hurry(self) -> None:
        """
        Have no more patience.
        """
        self._hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _left(self, most: float | None = None) -> float:
        left = self._deadline - self._reactor.seconds()
        if self._hurried:
            left = 0.0
        return max(left if most is None else min(left, most), 0.0)

    async def _wait(self, step: Deferred[Any], seconds: float) -> None:
        """
        Wait for a step, as long as patience lasts.
        """
        self._waiting = step.addTimeout(seconds, self._reactor)
        try:
            await step
        except (AMQPError, CancelledError, TimeoutError):
            pass  # what it was for has ended already, or will not
        finally:
            self._waiting = None
