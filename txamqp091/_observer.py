# -*- test-case-name: txamqp091.test.unit.client.test_observer -*-
"""
Events: `OneShot` happens once, `Observers` are told as often as it happens.

An error that is kept is handed out without its traceback.  Each raise of it adds frames
to that, and these keep their variables, among them the bodies of messages.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091.errors import AMQPError

__all__ = ["Observers", "OneShot", "observe"]

Result = TypeVar("Result")
P = ParamSpec("P")


class OneShot(Generic[Result]):
    """
    An event that happens once, behind every ``when_x()``.  Each caller gets a Deferred
    of their own, before or after the event; cancelling it does not harm the others.

    :ivar fired: whether the event has happened.
    """

    __slots__ = ("_error", "_result", "_waiting", "fired")

    def __init__(self) -> None:
        self.fired = False
        self._error: BaseException | None = None
        self._result: Result | None = None
        self._waiting: list[Deferred[Result]] = []

    @property
    def awaited(self) -> bool:
        """
        Whether a Deferred waits for the event.
        """
        return bool(self._waiting)

    def when_fired(self) -> Deferred[Result]:
        """
        Make a Deferred for the event.
        """
        if not self.fired:
            waiting: Deferred[Result] = Deferred(self._forget)
            self._waiting.append(waiting)
            return waiting
        if self._error is not None:
            return fail(self._error.with_traceback(None))
        return succeed(self._result)  # type: ignore[arg-type]

    def when_over(self) -> Deferred[None]:
        """
        Make a Deferred that fires with None after the event, also where `fail` told an
        `AMQPError`.
        """
        over: Deferred[Any] = self.when_fired()
        return over.addCallbacks(lambda _: None, _over)

    def _forget(self, cancelled: Deferred[Result]) -> None:
        # It is in no list any more if another asker's callback cancels it just now.
        if cancelled in self._waiting:
            self._waiting.remove(cancelled)

    def fire(self, result: Result) -> None:
        """
        Tell that the event has happened.  The first of `fire` and `fail` counts.
        """
        if not self.fired:
            self.fired, self._result = True, result
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                if not deferred.called:
                    deferred.callback(result)

    def fail(self, error: BaseException) -> None:
        """
        Tell that the event will not happen.
        """
        if not self.fired:
            self.fired, self._error = True, error
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                if not deferred.called:
                    deferred.errback(error.with_traceback(None))


class Observers(Generic[P]):
    """
    Functions that are called at each event.

    A function can return a Deferred or a coroutine.  A function that fails is logged;
    the others are called nevertheless.
    """

    __slots__ = ("_event", "_functions", "_log")

    def __init__(self, event: str, log: Logger) -> None:
        """
        :param event: the name of the event, for the log.
        :param log: where failures go.
        """
        self._event = event
        self._log = log
        self._functions: dict[object, Callable[P, object]] = {}

    def add(self, function: Callable[P, object]) -> Callable[[], None]:
        """
        Add a function.

        :returns: removes the function; calling it again is harmless.
        """
        key = object()  # one function can be added twice
        self._functions[key] = function

        def undo() -> None:
            self._functions.pop(key, None)

        return undo

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> list[Deferred[Any]]:
        """
        Call the functions, in the order in which they were added.

        :returns: the Deferreds of the functions that have returned one.  They do not
            fail; to cancel one is no failure of its function.
        """
        waiting: list[Deferred[Any]] = []
        for key in list(self._functions):
            function = self._functions.get(key)
            if function is None:  # it was removed by one before it
                continue
            try:
                result = function(*args, **kwargs)
                if iscoroutine(result):
                    result = Deferred.fromCoroutine(result)
                if isinstance(result, Deferred):
                    waiting.append(result.addErrback(self._failed))
            except BaseException:  # SystemExit too: the connection goes on
                self._failed(Failure())
        return waiting

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure(
                "An observer of {event} failed", failure=failure, event=self._event
            )


def observe(
    **pairs: tuple[Observers[Any], Callable[..., object] | None],
) -> Callable[[], None]:
    """
    Add a function to each of several observers, or None.

    :param pairs: by the name that the function has for the user.
    :returns: removes all functions; calling it again is harmless.
    :raises TypeError: a function is not callable, or there is none; nothing was added.
    """
    given: list[tuple[Observers[Any], Callable[..., object]]] = []
    for name, (observers, function) in pairs.items():
        if callable(function):
            given.append((observers, function))
        elif function is not None:
            raise TypeError(f"{name} is a function, not {function!r}")
    if not given:
        raise TypeError(f"give a function for one of {', '.join(pairs)}")
    undos = [observers.add(function) for observers, function in given]

    def undo() -> None:
        for each in undos:
            each()

    return undo


def _over(failure: Failure) -> None:
    failure.trap(AMQPError)
