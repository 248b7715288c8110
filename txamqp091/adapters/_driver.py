# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking -*-
"""
What turns the loop of a blocking connection.

`Driver` does so in the caller's thread, while the caller waits; `ThreadDriver` has a
thread for it, so that heartbeats are answered while the program is busy elsewhere.
"""

from __future__ import annotations

__all__ = ["Driver", "ThreadDriver"]

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Condition, Thread, current_thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091.adapters._selector import SelectorLoop
from txamqp091.channel import Channel
from txamqp091.consumer import Consumer, Deliveries
from txamqp091.errors import AMQPError, ConnectionLost, LocalProtocolError
from txamqp091.message import Delivery
from txamqp091.protocol import AMQPProtocol

P = ParamSpec("P")
T = TypeVar("T")

#: How long a Ctrl-C lets the connection be closed in order, in seconds.
_GOODBYE = 1.0


class Driver:
    """
    Turns the loop while the program waits.

    The loop does not know the driver's users, but by weak references: the connection of
    a program that forgot it can be collected.

    :ivar loop: the loop.
    :ivar gone: whether the connection has ended, and its transport has gone.
    :cvar turns_by_itself: whether the loop turns also when nothing waits.
    """

    turns_by_itself = False

    def __init__(self) -> None:
        self.loop = SelectorLoop()
        self.loop.holds_signals = not self.turns_by_itself
        self.gone = False
        self._native: AMQPProtocol | None = None
        self._interrupted = False

    def watch(self, native: AMQPProtocol) -> None:
        """
        Know the connection, once there is one.
        """
        self._native = native
        self.do(lambda: native.when_closed().addBoth(self._ended))

    def _ended(self, outcome: object) -> None:
        self.gone = True

    @property
    def reason(self) -> AMQPError | None:
        """
        Why the connection has ended, or is ending; None while it has not.
        """
        native = self._native
        reason = None if native is None else native.close_reason
        # It is kept: with its traceback, it would keep all frames that it went through.
        return reason and reason.with_traceback(None)

    def warn(self, text: str, **fields: object) -> None:
        """
        Log what no call may ever be told.  Here, a call is: nothing happens otherwise.
        """

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        A context in which this thread uses the connection, and no other.  A Ctrl-C, or
        its like, that ends it leaves a connection that was closed.

        :raises LocalProtocolError: another thread uses it.
        """
        outermost = self.loop.enter()
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._interrupt()
            raise
        finally:
            if outermost:
                self.loop.user.clear()

    def ask(
        self,
        seconds: float | None,
        verb: Callable[P, Deferred[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        Call a function that returns a Deferred, and wait for that.

        :param seconds: for how long; None is without limit.
        :raises TimeoutError: the time was up; the Deferred was cancelled.
        :raises LocalProtocolError: another thread uses the connection; the function was
            not called.
        """
        loop = self.loop
        outermost = loop.enter()
        try:
            lost = self.reason
            try:
                # What another thread has settled leaves before a channel is closed.
                loop.catch_up()
                deferred = verb(*args, **kwargs)
                at_once = _has_fired(deferred)
                if at_once:
                    loop.flush()
            except TypeError:  # an argument that the verb does not have
                raise
            except BaseException as error:
                loop.drop(error)
                raise
            if not at_once:
                self._wait(deferred, seconds)
            elif lost is None and self.gone and not _has_failed(deferred):
                # It was said into a connection that has ended before.
                raise self._lost()
            return _value(_outcome(deferred))  # type: ignore[no-any-return]
        except Exception:
            raise
        except BaseException:
            self._interrupt()
            raise
        finally:
            if outermost:
                loop.user.clear()
            else:
                loop.wake_outer()

    def _wait(self, deferred: Deferred[Any], seconds: float | None) -> None:
        try:
            self.loop.run(lambda: _has_fired(deferred) or self.gone, seconds)
        except BaseException:
            if _has_fired(deferred):
                _give_back(deferred)
            else:
                self._cancel(deferred)
            raise
        if not _has_fired(deferred):
            self._cancel(deferred)
            raise self._lost() if self.gone else _too_long(seconds)

    def _cancel(self, deferred: Deferred[Any]) -> None:
        deferred.addErrback(_nothing)
        deferred.cancel()
        self.loop.flush()

    def _lost(self) -> AMQPError:
        return self.reason or ConnectionLost("the connection has ended")

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call a function that belongs into the loop's thread, and does not wait.
        """
        return self.loop.work(function, *args, **kwargs)

    def until(self, ready: Callable[[], object], seconds: float | None) -> bool:
        """
        Wait until something is true, or the connection has gone.

        :returns: whether it is true, when the time is up.
        """
        self.loop.run(lambda: ready() or self.gone, seconds)
        return bool(ready())

    def flush(self) -> None:
        """
        Have what was said leave, and what has come be read.  For a thread that uses
        the connection.
        """
        self.loop.flush()

    def wake(self) -> None:
        """
        Have the call that waits look again: a signal handler, or another thread, has
        changed something.
        """
        self.loop.wake_outer()

    def stop(self) -> None:
        """
        Stop the loop, for good.
        """
        self.loop.stop()

    def abandon(self) -> None:
        """
        The program has forgotten the connection: drop it.  From any thread.
        """
        self._drop()
        self.loop.run(lambda: self.gone, 0)
        self.stop()

    def _drop(self) -> None:
        for transport in list(self.loop.transports):
            transport.abortConnection()

    def _interrupt(self) -> None:
        """
        Close the connection: something like a Ctrl-C has ended a call.
        """
        if self._interrupted or self._native is None or self.loop.forked:
            return
        self._interrupted = True
        try:
            self.ask(_GOODBYE, self._native.close)
        except BaseException:
            with suppress(Exception):
                self.do(self._drop)
        self.stop()


class ThreadDriver(Driver):
    """
    Turns the loop in a thread of its own.
    """

    turns_by_itself = True

    _log = Logger(namespace="txamqp091.adapters")

    def __init__(self) -> None:
        super().__init__()
        self._over = False
        self._abandoned = False
        self._waiting = 0
        self._turned = Condition()
        # Calls that have begun, and wait.
        self._asked: set[Future[Any]] = set()
        self._thread = Thread(target=self._work, name="txamqp091", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            try:
                self.loop.run(self._tick)
                break
            except BaseException:  # the loop has dropped the connection
                self._log.failure("The work of a connection failed")
        self.loop.stop()

    def _ended(self, outcome: object) -> None:
        super()._ended(outcome)
        if isinstance(outcome, Failure):  # no call may be waiting to be told
            self.warn(
                "{connection!r} has ended: {reason}",
                connection=self._native,
                reason=outcome.value,
            )

    def warn(self, text: str, **fields: object) -> None:
        self._log.warn(text, **fields)

    def _tick(self) -> bool:
        if self.gone and self._asked:
            # Whatever was interrupted will not be answered.
            for each in list(self._asked):
                self._answer(each, Failure(self._lost()))
        if self._waiting:
            with self._turned:
                self._turned.notify_all()
        return self._over or (self._abandoned and self.gone)

    def _answer(self, answered: Future[Any], outcome: Any) -> None:
        self._asked.discard(answered)
        if not answered.done():
            answered.set_result(outcome)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._check()
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._interrupt()
            raise

    def _check(self) -> None:
        """
        :raises LocalProtocolError: this thread cannot wait for the other.
        """
        if self.loop.forked:
            self.loop.enter()  # which says why not
        if current_thread() is self._thread:
            raise LocalProtocolError(
                "the connection's own thread cannot wait for the connection: a "
                "callback of a Future, which runs there, calls channel.threadsafe"
            )

    def ask(
        self,
        seconds: float | None,
        verb: Callable[P, Deferred[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._check()
        begun: list[Deferred[T]] = []
        answered: Future[Any] = Future()

        def begin() -> None:
            try:
                deferred = verb(*args, **kwargs)
            except BaseException:
                self._answer(answered, Failure())
                return
            begun.append(deferred)
            self._asked.add(answered)
            deferred.addBoth(lambda outcome: self._answer(answered, outcome))

        def give_up() -> None:
            for each in begun:
                each.cancel()

        self.loop.callFromThread(begin)
        try:
            outcome = answered.result(seconds)
        except TimeoutError:
            self.do(give_up)
            outcome = answered.result() if answered.done() else None
            # Unless it came just now: then it would be lost.
            if outcome is None or _was_cancelled(outcome):
                raise _too_long(seconds) from None
        except BaseException as error:
            self.loop.callFromThread(give_up)
            if not isinstance(error, Exception):
                self._interrupt()
            raise
        return _value(outcome)  # type: ignore[no-any-return]

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check()
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function(*args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        self.loop.callFromThread(call)
        return done.result()

    def until(self, ready: Callable[[], object], seconds: float | None) -> bool:
        self._check()
        with self._turned:
            self._waiting += 1
            try:
                self._turned.wait_for(
                    lambda: ready() or self.gone or self._over, seconds
                )
            finally:
                self._waiting -= 1
        return bool(ready())

    def flush(self) -> None:
        """
        Do nothing: the thread flushes.
        """

    def wake(self) -> None:
        self.loop.callFromThread(_nothing)

    def stop(self) -> None:
        if self.loop.forked:
            self.loop.stop()
            return
        self._over = True
        self.loop.callFromThread(_nothing)
        if current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        self._abandoned = True
        self.loop.callFromThread(self._drop)


def _nothing(_: object = None) -> None:
    """
    Wakes the loop; deals with an error that nothing waits for.
    """


def _has_fired(deferred: Deferred[Any]) -> bool:
    return deferred.called and not deferred.paused


def _has_failed(deferred: Deferred[Any]) -> bool:
    return isinstance(deferred.result, Failure)


def _outcome(deferred: Deferred[Any]) -> Any:
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    interrupted = deferred.result
    if isinstance(interrupted, Failure):  # just now, by what a signal handler raised
        deferred.addErrback(_nothing)
        interrupted.raiseException()
    return outcome[0]


def _give_back(deferred: Deferred[Any]) -> None:
    """
    Undo what has come just as the call that waited for it was interrupted.
    """
    got = _outcome(deferred)
    if isinstance(got, Delivery):
        got.give_back()
    elif isinstance(got, Channel):
        got.close()
    elif isinstance(got, Consumer | Deliveries):
        got.cancel().addErrback(_nothing)


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
