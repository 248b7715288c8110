# -*- test-case-name: txamqp091.test.unit.client.test_threads -*-
"""
A few threads for handlers that block.

Not the reactor's pool, for two reasons: what blocks there for long also blocks name
lookups; and its threads, when one of them hangs, keep the process from ending.
"""

from __future__ import annotations

__all__ = ["ThreadRunner"]

from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure


class _Task(NamedTuple):
    """
    A function to call in a thread.
    """

    function: Callable[[Any], object]
    argument: Any
    context: Context
    begin: Callable[[], bool] | None
    result: Deferred[Any]


class ThreadRunner:
    """
    Runs functions in a limited number of threads.  A thread starts when it is needed,
    and ends with `stop`, or with the process.

    :ivar size: how many threads there may be.
    :ivar busy: how many functions run.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int, name: str) -> None:
        self.size = size
        self.busy = 0
        self._reactor = reactor
        self._name = name
        # In the reactor's thread until a thread is free: a function that is not to run
        # any more does not.
        self._waiting: deque[_Task] = deque()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        # Results that are there for the reactor's thread, and whether it was called.
        self._ended: deque[tuple[Deferred[Any], object]] = deque()
        self._called = False
        self._threads = 0
        self._stopped = False

    def run(
        self,
        function: Callable[[Any], object],
        argument: Any,
        begin: Callable[[], bool] | None = None,
    ) -> Deferred[Any]:
        """
        Call a function in a thread, with the context variables of the caller.

        :param begin: called in the reactor's thread when a thread is free for the
            function; returns whether to call the function at all.
        :returns: fires in the reactor's thread with what the function returned, or
            fails with what it raised.  Fires with None if ``begin`` says no.
            Cancelling it keeps the function from being called; if the function runs,
            it goes on, and its result is ignored.
        """
        # Without a canceller: a result that comes after it was cancelled is ignored.
        result: Deferred[Any] = Deferred()
        self._waiting.append(_Task(function, argument, copy_context(), begin, result))
        self._next()
        return result

    def _next(self) -> None:
        while self._waiting and self.busy < self.size:
            task = self._waiting.popleft()
            if task.result.called:
                continue  # it was cancelled
            if task.begin is not None and not task.begin():
                task.result.callback(None)
                continue
            self.busy += 1
            if self._threads < self.busy:
                self._start()
            self._tasks.put(task)

    def _start(self) -> None:
        self._threads += 1
        name = f"{self._name}-{self._threads}"
        Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                value: object = task.context.run(task.function, task.argument)
            # SystemExit too: it would end the thread, and nobody would know.
            except BaseException:
                value = Failure()
            self._ended.append((task.result, value))
            del task, value  # or the thread would keep them while it waits
            # What ends before the reactor looks costs no other call of it.
            if not self._called:
                self._called = True
                self._reactor.callFromThread(self._collect)

    def _collect(self) -> None:
        """
        Take what has ended in threads, in the reactor's thread.
        """
        self._called = False  # before the look: what ends from now on calls again
        ended = self._ended
        while ended:
            result, value = ended.popleft()
            self.busy -= 1
            result.callback(value)
            self._next()

    def stop(self) -> None:
        """
        Let the threads end when they have done what was given in.  A thread that hangs
        is left behind: it does not keep the process.
        """
        if self._stopped:
            return
        self._stopped = True
        while self._waiting:
            task = self._waiting.popleft()
            if task.begin is None and not task.result.called:
                self.busy += 1
                self._tasks.put(task)
            elif not task.result.called:
                task.result.callback(None)
        for _ in range(self._threads):
            self._tasks.put(None)
