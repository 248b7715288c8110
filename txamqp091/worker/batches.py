# -*- test-case-name: txamqp091.test.unit.worker.test_batches -*-
"""
Handlers that are called with several deliveries at once: `Batches` gathers them.

To the `HandlerRunner` an object of `Batches` is a handler: it is called with each
delivery, and returns a Deferred for its outcome.  So each message of a batch is
settled, retried and dead-lettered alone.
"""

from __future__ import annotations

__all__ = ["Batches", "Partial"]

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from txamqp091._threads import ThreadRunner
from txamqp091.message import Delivery
from txamqp091.worker.calling import call
from txamqp091.worker.decoding import Decode, UndecodableBody, decode_body
from txamqp091.worker.failure_policy import HandlerTimeout
from txamqp091.worker.message_context import current

#: How many seconds a batch waits for more messages, by default.
BATCH_WAIT = 0.5


class Partial(Exception):
    """
    Raised or returned by the handler of a batch: some of its messages have failed.

    :ivar failed: the exception of each delivery that has failed; the others have
        succeeded.
    """

    def __init__(
        self, failed: Mapping[Delivery, BaseException | type[BaseException]]
    ) -> None:
        super().__init__(f"{len(failed)} messages of the batch have failed")
        self.failed = {
            delivery: error() if isinstance(error, type) else error
            for delivery, error in failed.items()
        }


class _Batch:
    """
    Deliveries that are handled together.

    :ivar outcomes: the Deferreds of deliveries whose outcome is not known.
    :ivar result: fires when the handler has ended; None before it is called.
    """

    def __init__(self) -> None:
        self.outcomes: dict[Delivery, Deferred[None]] = {}
        self.result: Deferred[Any] | None = None

    def succeed(self, delivery: Delivery) -> None:
        """
        A delivery was handled, or needs not be.
        """
        outcome = self.outcomes.pop(delivery, None)
        if outcome is not None:
            outcome.callback(None)

    def fail(self, delivery: Delivery, error: BaseException) -> None:
        """
        A delivery has failed.
        """
        outcome = self.outcomes.pop(delivery, None)
        if outcome is not None:
            outcome.errback(Failure(error))


class Batches:
    """
    Calls a handler with a list of deliveries.

    :ivar limit: how many batches may be handled at the same time; 0 is no limit.
    :ivar timeout: how many seconds the handler of a batch has; 0 is no limit.
    """

    def __init__(
        self,
        handler: Callable[[list[Any]], object],
        size: int,
        wait: float,
        clock: IReactorTime,
        *,
        decode: Decode[Any] | None = None,
        threads: ThreadRunner | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """
        :param size: how many deliveries a batch has at most.
        :param wait: how many seconds the first delivery of a batch waits for others.
        :param decode: makes a body of each message; the handler gets pairs of body and
            delivery then.
        :param threads: where to call the handler; by default, in the reactor's thread.
        """
        self.limit = 0
        self.timeout = 0.0
        self._handler = handler
        self._size = size
        self._wait = wait
        self._clock = clock
        self._decode = decode
        self._threads = threads
        self._loop = loop
        self._gathered = _Batch()
        self._call: IDelayedCall | None = None
        self._full: deque[_Batch] = deque()
        self._running = 0

    def __call__(self, delivery: Delivery) -> Deferred[None]:
        """
        Gather a delivery.

        :returns: fires when the handler of its batch has succeeded; fails with the
            outcome of this delivery.
        """
        batch = self._gathered
        outcome: Deferred[None] = Deferred(lambda _: self._cancelled(batch, delivery))
        batch.outcomes[delivery] = outcome
        if len(batch.outcomes) >= self._size:
            self.flush()
        elif self._call is None:
            self._call = self._clock.callLater(self._wait, self.flush)
        return outcome

    def flush(self) -> None:
        """
        Wait for no more deliveries: handle what is gathered.
        """
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if self._gathered.outcomes:
            self._full.append(self._gathered)
            self._gathered = _Batch()
        self._go_on()

    def _go_on(self) -> None:
        while self._full and not 0 < self.limit <= self._running:
            self._start(self._full.popleft())

    def _cancelled(self, batch: _Batch, delivery: Delivery) -> None:
        """
        The runner has cancelled the Deferred of a delivery.
        """
        batch.outcomes.pop(delivery, None)
        if batch.result is not None:
            if not batch.outcomes:
                batch.result.cancel()
        elif batch is self._gathered and not batch.outcomes and self._call is not None:
            self._call.cancel()
            self._call = None

    def _start(self, batch: _Batch) -> None:
        content: list[Any] = []
        for delivery in list(batch.outcomes):
            if delivery.is_stale or delivery.settled:
                batch.succeed(delivery)  # there is nothing to settle
                continue
            if self._decode is None:
                content.append(delivery)
                continue
            try:
                content.append((decode_body(delivery, self._decode), delivery))
            except UndecodableBody as error:
                batch.fail(delivery, error)
        if not content:
            return
        self._running += 1
        token = current.set(None)  # the handler has no single message
        try:
            if self._threads is not None:
                result = self._threads.run(self._handler, content)
                result.addCallback(lambda value: call(lambda: value, loop=self._loop))
            else:
                result = call(self._handler, content, loop=self._loop)
        finally:
            current.reset(token)
        batch.result = result
        timer = None
        if self.timeout and not result.called:
            seconds = self.timeout
            timer = self._clock.callLater(seconds, self._late, batch, seconds)
        result.addBoth(self._ended, batch, timer)

    def _late(self, batch: _Batch, seconds: float) -> None:
        """
        The handler of a batch takes too long.
        """
        assert batch.result is not None
        if self._threads is None:  # a handler in a thread runs on
            # What the cancelling ends with must not be the outcome.
            outcomes, batch.outcomes = batch.outcomes, {}
            batch.result.cancel()
            batch.outcomes = outcomes
        for delivery in list(batch.outcomes):
            batch.fail(delivery, HandlerTimeout(seconds))

    def _ended(self, result: object, batch: _Batch, timer: IDelayedCall | None) -> None:
        self._running -= 1
        if timer is not None and timer.active():
            timer.cancel()
        error = result.value if isinstance(result, Failure) else result
        failed: Mapping[Delivery, BaseException] = {}
        if isinstance(error, Partial):
            failed = error.failed
            error = _check_partial(error, batch)
        for delivery in list(batch.outcomes):
            if isinstance(error, BaseException):
                batch.fail(delivery, error)
            elif delivery in failed:
                batch.fail(delivery, failed[delivery])
            else:
                batch.succeed(delivery)
        self._go_on()


def _check_partial(partial: Partial, batch: _Batch) -> BaseException | None:
    """
    What is wrong with a `Partial`; None if nothing is.
    """
    if batch.outcomes.keys() >= partial.failed.keys():
        return None
    return ValueError("Partial names a delivery that is not in the batch")
