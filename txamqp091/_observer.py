# -*- test-case-name: txamqp091.test.unit.client.test_observer -*-
"""
Something that happens once, and any number of people who want to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from txamqp091.errors import AMQPError

__all__ = ["OneShot", "observe"]

Result = TypeVar("Result")
Observer = TypeVar("Observer")


def observe(observers: list[Observer], observer: Observer) -> Callable[[], None]:
    """
    Add an observer to a list.

    :returns: call this to take it out again; calling it twice is harmless.
    """
    # The same function may observe twice, so what is taken out is this entry.
    entry = [observer]
    observers.append(observer)

    def stop() -> None:
        if entry:
            observers.remove(entry.pop())

    return stop


class OneShot(Generic[Result]):
    """
    Behind every ``when_x()``: each asker gets a Deferred of their own, before or
    after the event, and may cancel it without harm to the others.

    :ivar fired: whether it has happened.
    """

    __slots__ = ("_error", "_result", "_waiting", "fired")

    def __init__(self) -> None:
        self.fired = False
        self._error: BaseException | None = None
        self._result: Result | None = None
        self._waiting: list[Deferred[Result]] = []

    def when_fired(self) -> Deferred[Result]:
        """
        A new Deferred for the event.
        """
        if not self.fired:
            waiting: Deferred[Result] = Deferred(self._forget)
            self._waiting.append(waiting)
            return waiting
        if self._error is not None:
            return fail(self._error)
        return succeed(self._result)  # type: ignore[arg-type]

    def when_over(self) -> Deferred[None]:
        """
        A new Deferred for whoever wants no more than that something is over: one reason
        is as good as another then.  (To give up waiting is no reason.)
        """
        over: Deferred[Any] = self.when_fired()
        return over.addCallbacks(lambda _: None, _over)

    def _forget(self, cancelled: Deferred[Result]) -> None:
        # It is in no list any more if another asker's callback cancels it just now.
        if cancelled in self._waiting:
            self._waiting.remove(cancelled)

    def fire(self, result: Result) -> None:
        """
        It has happened.  The first of `fire` and `fail` counts.
        """
        if not self.fired:
            self.fired, self._result = True, result
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                if not deferred.called:
                    deferred.callback(result)

    def fail(self, error: BaseException) -> None:
        """
        It will not happen.
        """
        if not self.fired:
            self.fired, self._error = True, error
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                if not deferred.called:
                    deferred.errback(error)


def _over(failure: Failure) -> None:
    failure.trap(AMQPError)
