# -*- test-case-name: txamqp091.test.unit.client.test_threads -*-
"""
A few threads for handlers that block.

Not the reactor's pool, for two reasons: what blocks there for long also blocks name
lookups; and its threads, when one of them hangs, keep the process from ending.
"""

from __future__ import annotations

__all__ = ["ThreadRunner"]

from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

_Task = Callable[[], None]


class ThreadRunner:
    """
    Runs functions in at most so many threads.  They start when they are needed, and
    end with `stop`, or with the process.

    :ivar size: how many threads there may be.
    :ivar busy: how many functions were given in, and have not ended.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int, name: str) -> None:
        self.size = size
        self.busy = 0
        self._reactor = reactor
        self._name = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads = 0
        self._stopped = False

    def run(self, function: Callable[[Any], object], argument: Any) -> Deferred[Any]:
        """
        Call a function in a thread, with the context variables of the caller.

        :returns: fires in the reactor's thread with what the function returned, or
            fails with what it raised.  Cancelling it ends the waiting, not the
            function.
        """
        # Without a canceller: what comes after it was cancelled is ignored then.
        result: Deferred[Any] = Deferred()
        context = copy_context()

        def task() -> None:
            try:
                value: object = context.run(function, argument)
            # SystemExit too: it would end the thread, and tell nobody.
            except BaseException:
                value = Failure()
            self._reactor.callFromThread(self._ended, result, value)

        self.busy += 1
        if self._threads < min(self.busy, self.size):
            self._start()
        self._tasks.put(task)
        return result

    def _start(self) -> None:
        self._threads += 1
        name = f"{self._name}-{self._threads}"
        Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _ended(self, result: Deferred[Any], value: object) -> None:
        self.busy -= 1
        result.callback(value)

    def stop(self) -> None:
        """
        Let the threads end when they have done what was given in.  One that hangs is
        left behind: it does not keep the process.
        """
        if not self._stopped:
            self._stopped = True
            for _ in range(self._threads):
                self._tasks.put(None)
