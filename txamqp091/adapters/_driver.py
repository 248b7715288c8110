# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
Who turns the loop of a blocking connection.

`Driver` does so in the caller's thread, while the caller waits; `ThreadDriver` has a
thread for it, so that heartbeats are answered while the program is busy elsewhere.
"""

from __future__ import annotations

__all__ = ["Driver", "ThreadDriver"]

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Thread, current_thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txamqp091.adapters._selector import SelectorLoop

P = ParamSpec("P")
T = TypeVar("T")


def _nothing() -> None:
    """
    Nobody has to be told.
    """


class Driver:
    """
    Turns the loop while somebody waits.

    :ivar loop: the loop.
    :ivar interrupted: called when something like a Ctrl-C ends the waiting.
    :cvar turns_by_itself: whether the loop turns also when nobody waits.
    """

    turns_by_itself = False

    def __init__(self) -> None:
        self.loop = SelectorLoop()
        self.interrupted: Callable[[], None] = _nothing

    def ask(
        self,
        seconds: float | None,
        verb: Callable[P, Deferred[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        Call what returns a Deferred, and wait for it.

        :param seconds: for how long; None is without limit.
        :raises TimeoutError: the time was up; the Deferred was cancelled.
        """
        # What another thread has settled before a channel is closed has to be said
        # before it, too.
        self.loop.catch_up()
        deferred = verb(*args, **kwargs)
        outcome: list[Any] = []
        deferred.addBoth(outcome.append)
        if outcome:
            self.loop.flush()
            return _value(outcome[0])  # type: ignore[no-any-return]
        try:
            self._turn(lambda: outcome, seconds)
        finally:
            if not outcome:
                deferred.cancel()
                self.loop.flush()
                outcome.clear()
        if not outcome:
            raise _too_long(seconds)
        return _value(outcome[0])  # type: ignore[no-any-return]

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call what belongs into the loop's thread, and does not wait.
        """
        self.loop.catch_up()
        return function(*args, **kwargs)

    def until(self, ready: Callable[[], object], seconds: float | None) -> bool:
        """
        Wait until something is true.

        :returns: whether it is, when the time is up.
        """
        return self._turn(ready, seconds)

    def flush(self) -> None:
        """
        Have what was said leave, and what has come be read.
        """
        self.loop.flush()

    def stop(self) -> None:
        """
        The loop is needed no more.
        """
        self.loop.stop()

    def interrupt(self) -> None:
        """
        Something like a Ctrl-C has ended a call.
        """
        interrupted, self.interrupted = self.interrupted, _nothing
        interrupted()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """
        A context in which a Ctrl-C, or its like, ends the call.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.interrupt()
            raise

    def _turn(self, ready: Callable[[], object], seconds: float | None) -> bool:
        with self.interruptible():
            return self.loop.run(ready, seconds)


class ThreadDriver(Driver):
    """
    Turns the loop in a thread of its own.
    """

    turns_by_itself = True

    def __init__(self) -> None:
        super().__init__()
        self._ended = False
        self._waiting = 0
        self._turned = Condition()
        self._thread = Thread(target=self._work, name="txamqp091", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self.loop.run(self._tick)
        self.loop.stop()

    def _tick(self) -> bool:
        if self._waiting:
            with self._turned:
                self._turned.notify_all()
        return self._ended

    def ask(
        self,
        seconds: float | None,
        verb: Callable[P, Deferred[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        See `Driver.ask`.
        """
        begun: list[Deferred[T]] = []
        answered: Future[Any] = Future()

        def begin() -> None:
            deferred = verb(*args, **kwargs)
            begun.append(deferred)
            deferred.addBoth(answered.set_result)

        def give_up() -> None:
            begun[0].cancel()

        self.loop.callFromThread(begin)
        try:
            outcome = answered.result(seconds)
        except TimeoutError:
            self.do(give_up)
            outcome = answered.result() if answered.done() else None
            # Unless it came just now: then it would be lost.
            if outcome is None or _was_cancelled(outcome):
                raise _too_long(seconds) from None
        except BaseException:
            self.loop.callFromThread(give_up)
            self.interrupt()
            raise
        return _value(outcome)  # type: ignore[no-any-return]

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        See `Driver.do`.
        """
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function(*args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        self.loop.callFromThread(call)
        return done.result()

    def flush(self) -> None:
        """
        See `Driver.flush`: the thread does.
        """

    def stop(self) -> None:
        """
        See `Driver.stop`.
        """
        self._ended = True
        self.loop.callFromThread(_nothing)
        if current_thread() is not self._thread:
            self._thread.join()

    def _turn(self, ready: Callable[[], object], seconds: float | None) -> bool:
        with self.interruptible(), self._turned:
            self._waiting += 1
            try:
                return bool(
                    self._turned.wait_for(lambda: ready() or self._ended, seconds)
                    and ready()
                )
            finally:
                self._waiting -= 1


def _value(outcome: Any) -> Any:
    if isinstance(outcome, Failure):
        error = outcome.value
        assert error is not None
        # Its stack is the loop's; the caller's says more.
        raise error.with_traceback(None)
    return outcome


def _was_cancelled(outcome: object) -> bool:
    return isinstance(outcome, Failure) and outcome.check(CancelledError) is not None


def _too_long(seconds: float | None) -> TimeoutError:
    return TimeoutError(f"there was no answer within {seconds or 0:g} s")
