# -*- test-case-name: txamqp091.test.test_loops -*-
"""
Clocks of loops that are not Twisted's: what a protocol calls its reactor.

`AsyncioLoop` is over a loop of asyncio's.  `SelectorLoop` is for programs that have no
loop: it turns while somebody waits, and only then.
"""

from __future__ import annotations

__all__ = ["READ", "WRITE", "AsyncioLoop", "SelectorLoop"]

import asyncio
import heapq
import itertools
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock, get_ident
from time import monotonic
from typing import Any, cast

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from txamqp091.errors import LocalProtocolError

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


@implementer(IDelayedCall)
class AsyncioCall:
    """
    A call that an asyncio loop will make.
    """

    __slots__ = ("_called", "_calls", "_handle", "_loop", "_time", "_what")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: set[IDelayedCall],
        delay: float,
        what: Callable[[], object],
    ) -> None:
        """
        :param calls: where it is as long as it waits.
        """
        self._loop = loop
        self._calls = calls
        self._what = what
        self._called = False
        self._time = 0.0
        self._handle: asyncio.Handle | None = None
        self._wait(delay)

    def _wait(self, delay: float) -> None:
        if delay > 0:
            self._time = self._loop.time() + delay
            self._handle = self._loop.call_at(self._time, self._run)
        else:
            self._time = 0.0
            self._handle = self._loop.call_soon(self._run)
        self._calls.add(cast(IDelayedCall, self))

    def _run(self) -> None:
        self._called = True
        self._calls.discard(cast(IDelayedCall, self))
        self._what()

    def getTime(self) -> float:
        """
        See ``IDelayedCall``.
        """
        return self._time or self._loop.time()

    def active(self) -> bool:
        """
        See ``IDelayedCall``.
        """
        return self._handle is not None and not self._called

    def cancel(self) -> None:
        """
        See ``IDelayedCall``.
        """
        self._stop()
        self._handle = None
        self._calls.discard(cast(IDelayedCall, self))

    def reset(self, secondsFromNow: float) -> None:
        """
        See ``IDelayedCall``.
        """
        self._stop()
        self._wait(secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        """
        See ``IDelayedCall``.
        """
        self.reset(self.getTime() + secondsLater - self._loop.time())

    def _stop(self) -> None:
        if self._called:
            raise AlreadyCalled
        if self._handle is None:
            raise AlreadyCancelled
        self._handle.cancel()


@implementer(IReactorTime, IReactorFromThreads)
class AsyncioLoop:
    """
    An asyncio loop, as the clock of a protocol and its way in from other threads.

    :ivar loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.seconds = loop.time
        self._calls: set[IDelayedCall] = set()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        """
        See ``IReactorTime``.
        """
        if args or kwargs:
            callable = partial(callable, *args, **kwargs)
        call = AsyncioCall(self.loop, self._calls, delay, callable)
        return cast(IDelayedCall, call)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """
        See ``IReactorTime``.
        """
        return list(self._calls)

    def callFromThread(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """
        See ``IReactorFromThreads``.
        """
        self.loop.call_soon_threadsafe(partial(callable, *args, **kwargs))


@implementer(IDelayedCall)
class SelectorCall:
    """
    A call that a `SelectorLoop` will make.
    """

    __slots__ = ("_loop", "_state", "time", "what")

    def __init__(
        self, loop: SelectorLoop, time: float, what: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._state = ""
        self.time = time
        self.what = what

    def run(self) -> None:
        """
        Make the call, unless it was cancelled.
        """
        if not self._state:
            self._state = "called"
            self.what()

    def getTime(self) -> float:
        """
        See ``IDelayedCall``.
        """
        return self.time

    def active(self) -> bool:
        """
        See ``IDelayedCall``.
        """
        return not self._state

    def cancel(self) -> None:
        """
        See ``IDelayedCall``.
        """
        self._check()
        self._state = "cancelled"

    def reset(self, secondsFromNow: float) -> None:
        """
        See ``IDelayedCall``.
        """
        self._check()
        # The loop finds it before its time, or at it, and looks again.
        self._loop.add(self, self._loop.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        """
        See ``IDelayedCall``.
        """
        self._check()
        self._loop.add(self, self.time + secondsLater)

    def _check(self) -> None:
        if self._state:
            raise AlreadyCalled if self._state == "called" else AlreadyCancelled


@implementer(IReactorTime, IReactorFromThreads)
class SelectorLoop:
    """
    Turns as long as `run` is told to, in whichever thread calls it, one at a time.

    :ivar stopped: whether it will turn no more.
    """

    _log = Logger()

    def __init__(self) -> None:
        self.stopped = False
        self.seconds = monotonic
        self._selector = selectors.DefaultSelector()
        self._soon: deque[SelectorCall] = deque()
        self._later: list[tuple[float, int, SelectorCall]] = []
        self._numbers = itertools.count()
        self._running: int | None = None
        self._looked_at = 0.0
        # From other threads.
        self._lock = Lock()
        self._posted: deque[Callable[[], object]] = deque()
        self._wake, wakened = socket.socketpair()
        self._wakened = wakened
        for each in (self._wake, wakened):
            each.setblocking(False)
        self._selector.register(wakened, READ, self._woken)

    # -- what the protocol calls ---------------------------------------------------

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        """
        See ``IReactorTime``.
        """
        if args or kwargs:
            callable = partial(callable, *args, **kwargs)
        if delay > 0:
            call = SelectorCall(self, 0.0, callable)
            self.add(call, monotonic() + delay)
        else:
            call = SelectorCall(self, 0.0, callable)
            self._soon.append(call)
        return cast(IDelayedCall, call)

    def add(self, call: SelectorCall, time: float) -> None:
        """
        Have a call made at a time, and not before.
        """
        call.time = time
        heapq.heappush(self._later, (time, next(self._numbers), call))

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """
        See ``IReactorTime``.
        """
        calls = {*self._soon, *(call for _, _, call in self._later)}
        return [cast(IDelayedCall, call) for call in calls if call.active()]

    def callFromThread(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """
        See ``IReactorFromThreads``.  When the loop will turn no more, the call is
        made at once: nothing happens at the same time then.
        """
        call = partial(callable, *args, **kwargs)
        with self._lock:
            if not self.stopped:
                self._posted.append(call)
                with suppress(OSError):  # it is full: the loop will wake
                    self._wake.send(b"!")
                return
        call()

    def _woken(self, _: int) -> None:
        with suppress(BlockingIOError, InterruptedError):
            self._wakened.recv(4096)

    # -- turning -------------------------------------------------------------------

    def run(self, done: Callable[[], object], seconds: float | None = None) -> bool:
        """
        Turn until something is true, or the loop is stopped.

        :param seconds: for how long at the most; None is without limit.
        :returns: whether it is true.
        """
        deadline = None if seconds is None else monotonic() + seconds
        with self._turning:
            while not done() and not self.stopped:
                left = None if deadline is None else deadline - monotonic()
                self._turn(left)
                if left is not None and left <= 0:
                    break
        return bool(done())

    def flush(self) -> None:
        """
        Do what is to be done in the next turn, without looking at the network, or
        only if that is some time ago.
        """
        if self._running is not None or self.stopped:
            return
        if monotonic() - self._looked_at > 0.01:
            self.run(lambda: False, 0)
        elif self._soon:
            with self._turning:
                self._run_soon()

    def catch_up(self) -> None:
        """
        Do what other threads have asked for so far.
        """
        if self._posted and self._running is None and not self.stopped:
            with self._turning:
                self._run_posted()

    @property
    def _turning(self) -> _Turning:
        return _Turning(self)

    def _turn(self, left: float | None) -> None:
        if self._soon or self._posted:
            left = 0
        elif self._later:
            first = self._later[0][0] - monotonic()
            left = first if left is None or first < left else left
        if left is not None and left < 0:
            left = 0
        for key, mask in self._selector.select(left):
            key.data(mask)
        self._looked_at = now = monotonic()
        while self._later and self._later[0][0] <= now:
            time, _, call = heapq.heappop(self._later)
            if call.time == time:  # or else it was put off
                self._call(call.run)
        self._run_soon()

    def _run_posted(self) -> None:
        for _ in range(len(self._posted)):
            self._call(self._posted.popleft())

    def _run_soon(self) -> None:
        self._run_posted()
        for _ in range(len(self._soon)):
            self._call(self._soon.popleft().run)

    def _call(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception:
            self._log.failure("A call by the loop failed")

    def enter(self) -> None:
        """
        Begin to turn in this thread.
        """
        if self._running is not None:
            where = "itself" if self._running == get_ident() else "another thread"
            raise LocalProtocolError(
                f"the connection is in use by {where}: from other threads, use "
                "channel.threadsafe or add_callback_threadsafe"
            )
        self._running = get_ident()

    def leave(self) -> None:
        """
        Turn no more, for now.
        """
        self._running = None

    def stop(self) -> None:
        """
        Turn no more at all.  What other threads have asked for is still done.
        """
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
        while self._posted:
            self._call(self._posted.popleft())
        self._selector.close()
        self._wake.close()
        self._wakened.close()

    # -- sockets -------------------------------------------------------------------

    def watch(
        self, sock: socket.socket, events: int, ready: Callable[[int], object]
    ) -> None:
        """
        Have a function called when a socket can be read from, or written to.

        :param events: which of the two; 0 is neither.
        """
        if self.stopped:
            return
        known = sock.fileno() in self._selector.get_map()
        if known and events:
            self._selector.modify(sock, events, ready)
        elif known:
            self._selector.unregister(sock)
        elif events:
            self._selector.register(sock, events, ready)


class _Turning:
    """
    A loop turns in this thread.
    """

    __slots__ = ("_loop",)

    def __init__(self, loop: SelectorLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.enter()

    def __exit__(self, *_: object) -> None:
        self._loop.leave()
