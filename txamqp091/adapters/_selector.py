# -*- test-case-name: txamqp091.test.unit.adapters.test_loops -*-
"""
A loop of selectors for programs that have no loop, with its transport and endpoint.

`SelectorLoop` turns while a call waits, and only then.  `SelectorTransport` is a
socket, perhaps with TLS by Python's own ssl module, and `SelectorEndpoint` connects it.
"""

from __future__ import annotations

__all__ = [
    "READ",
    "WRITE",
    "SelectorEndpoint",
    "SelectorLoop",
    "SelectorTransport",
]

import errno
import heapq
import itertools
import os
import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import RLock, Thread, get_ident, main_thread
from time import monotonic
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakSet

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorFromThreads,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from txamqp091._hosts import ascii_host
from txamqp091.adapters._signals import blocked_signals, hold_signals, set_blocked
from txamqp091.adapters._ssl import server_name
from txamqp091.adapters._transport import Transport, address_of, why_not_connected
from txamqp091.errors import AMQPError, LocalProtocolError
from txamqp091.parameters import ConnectionParameters

P = ParamSpec("P")
T = TypeVar("T")

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

_READ_SIZE = 65536

#: How many bytes one write offers to the socket.
_WRITE_SIZE = 1 << 18

_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError,
                ssl.SSLWantWriteError)  # fmt: skip


@implementer(IDelayedCall)
class SelectorCall:
    """
    A call that a `SelectorLoop` will make: an ``IDelayedCall``.
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
        return self.time

    def active(self) -> bool:
        return not self._state

    def cancel(self) -> None:
        self._check()
        self._state = "cancelled"

    def reset(self, secondsFromNow: float) -> None:
        self._check()
        # The loop finds it before its time, or at it, and looks again.
        self._loop.add(self, self._loop.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._check()
        self._loop.add(self, self.time + secondsLater)

    def _check(self) -> None:
        if self._state:
            raise AlreadyCalled if self._state == "called" else AlreadyCancelled


@implementer(IReactorTime, IReactorFromThreads)
class SelectorLoop:
    """
    An event loop that turns while `run` waits, in the thread that calls `run`.

    Theory.  One thread at a time owns the loop, from `enter` on.  Any other thread is
    refused before it has done anything.  A turn waits for sockets first: an exception
    that a signal handler raises there does no harm.  The rest of the turn is the
    connection's own work.  Signals are held back during the work, and come when the
    turn has ended.  An exception can interrupt the work nevertheless, because the
    operating system may give the signal to another thread.  Then the state of the
    connection is unknown: the loop drops the connection, ends the turn and raises the
    exception.

    Such an exception can come between any two calls, also between taking the loop and
    noting the owner.  Therefore the note is the ownership: one entry of a dictionary,
    which one call of a C function makes, and another one removes.

    :ivar stopped: whether the loop was stopped, for good.
    :ivar forked: whether this is a copy, in a child of the process that made the loop.
    :ivar holds_signals: whether the loop holds signals back, in the main thread.
    :ivar transports: the open transports.
    :ivar turns: how often the loop has looked at the network.
    :ivar user: the thread that owns the loop, as the only value.
    :ivar last_user: the last thread that owned the loop.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.forked = False
        self.holds_signals = False
        self.transports: set[SelectorTransport] = set()
        self.seconds = monotonic
        self._selector = selectors.DefaultSelector()
        self._soon: deque[SelectorCall] = deque()
        self._later: list[tuple[float, int, SelectorCall]] = []
        self._numbers = itertools.count()
        self.turns = 0
        self._looked_at = 0.0
        self.user: dict[None, int] = {}
        self.last_user = 0
        # The thread that handles signals, and those that the program blocks there.
        self._main = main_thread().ident
        self._blocked = blocked_signals()
        self._selecting = False
        self._turning = False
        self._ran_soon = False
        self._failure: BaseException | None = None
        # From other threads.
        self._lock = RLock()  # a signal handler may post while its thread does
        self._posted: deque[Callable[[], object]] = deque()
        self._wake, wakened = socket.socketpair()
        self._wakened = wakened
        for each in (self._wake, wakened):
            each.setblocking(False)
        self._selector.register(wakened, READ, self._woken)
        _loops.add(self)

    # -- what the protocol calls ---------------------------------------------------

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
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
        Schedule a call.
        """
        call.time = time
        heapq.heappush(self._later, (time, next(self._numbers), call))

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        calls = {*self._soon, *(call for _, _, call in self._later)}
        return [cast(IDelayedCall, call) for call in calls if call.active()]

    def callFromThread(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """
        Make a call in the thread of the loop.  Once the loop is stopped, the call is
        made at once: nothing else happens then.
        """
        if self.forked:
            raise self._refusal()
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

    # -- whose turn it is ------------------------------------------------------------

    def enter(self) -> bool:
        """
        Take the loop, for this thread.

        :returns: whether the thread did not own the loop before.  Then the caller
            clears `user` in the end.
        :raises LocalProtocolError: another thread owns the loop, or the process was
            forked.
        """
        user, me = self.user, get_ident()
        if user.get(None) == me:
            return False
        if user.setdefault(None, me) != me:
            raise self._refusal()
        self.last_user = me
        return True

    def wake_outer(self) -> None:
        """
        End the wait of this thread, if there is one: then a signal handler has called
        something that the waiting call has to know of.
        """
        if self._selecting and not self.stopped:
            with suppress(OSError):
                self._wake.send(b"!")

    def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call a function that is part of the connection's work.

        :raises LocalProtocolError: as `enter` does.
        """
        outermost = self.enter()
        try:
            self.catch_up()
            return function(*args, **kwargs)
        except (AMQPError, TypeError):
            raise
        except BaseException as error:
            self.drop(error)
            raise
        finally:
            if outermost:
                self.user.clear()
            else:
                self.wake_outer()

    def _refusal(self) -> LocalProtocolError:
        if self.forked:
            return LocalProtocolError(
                "the connection was made before this process was forked, and belongs "
                "to the parent: connect again here"
            )
        return LocalProtocolError(
            "the connection is in use by another thread: from other threads, use "
            "channel.threadsafe or add_callback_threadsafe"
        )

    # -- turning ---------------------------------------------------------------------

    def run(self, done: Callable[[], object], seconds: float | None = None) -> bool:
        """
        Turn until a function returns something true, or the loop is stopped.

        :param seconds: the time limit; None is none.
        :returns: whether the function returns something true.
        :raises LocalProtocolError: as `enter` does, or when a callback of the loop
            calls this: callbacks cannot wait.
        """
        deadline = None if seconds is None else monotonic() + seconds
        outermost = self.enter()
        try:
            if self._turning:
                raise LocalProtocolError(
                    "the connection is at work: what it calls, such as a callback of "
                    "a Future, cannot wait for it"
                )
            while not done() and not self.stopped:
                left = None if deadline is None else deadline - monotonic()
                if self._turn(left) and left is not None and left <= 0:
                    break
        finally:
            if outermost:
                self.user.clear()
            else:
                self.wake_outer()
        return bool(done())

    def flush(self) -> None:
        """
        Make the calls of the next turn, and look at the network only if the last look
        is 10 ms ago.  For the thread that owns the loop.
        """
        if self._turning or self.stopped:
            return
        if monotonic() - self._looked_at > 0.01:
            self.run(_never, 0)
        elif self._soon or self._posted:
            self._work(self._run_soon)

    def catch_up(self) -> None:
        """
        Make the calls that other threads have posted so far.  For the thread that owns
        the loop.
        """
        if self._posted and not self._turning and not self.stopped:
            self._work(self._run_posted)

    def _turn(self, left: float | None) -> bool:
        """
        :returns: whether the turn has looked at the network.
        """
        if (self._soon or self._posted) and not self._ran_soon:
            # Without a look at the network first, which would be a system call more;
            # but only every other time.
            self._ran_soon = True
            self._hold_and_work(self._run_soon)
            return False
        self._ran_soon = False
        if self._soon or self._posted:
            left = 0
        elif self._later:
            first = self._later[0][0] - monotonic()
            left = first if left is None or first < left else left
        if left is not None and left < 0:
            left = 0
        outer, self._selecting = self._selecting, True
        try:
            ready = self._selector.select(left)
        except (OSError, ValueError):
            if not self.stopped:  # by a signal handler, meanwhile
                raise
            ready = []
        finally:
            self._selecting = outer
        self.turns += 1
        self._hold_and_work(self._run_all, ready)
        return True

    def _hold_and_work(self, function: Callable[..., None], *args: object) -> None:
        if not self.holds_signals or self.last_user != self._main:
            self._work(function, *args)
            return
        try:
            # What a handler raises just now leaves through here, too.
            self._blocked = hold_signals()
            self._work(function, *args)
        finally:
            set_blocked(self._blocked)

    def _work(self, function: Callable[..., None], *args: object) -> None:
        self._turning = True
        try:
            function(*args)
        except BaseException as error:  # between the calls: `_call` has the others
            self._failed(error)
        finally:
            self._turning = False
        if self._failure is not None:
            failure = self._failure
            self._end_dropped()
            raise failure

    def _run_all(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in ready:
            self._call(key.data, mask)
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

    def _call(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        for transport in list(self.transports):
            transport.interrupted(error)

    def drop(self, error: BaseException) -> None:
        """
        Drop the connection, whose work an exception has interrupted, and end all that
        waits for it.  For the thread that owns the loop.
        """
        if not self._turning:  # or else the turn does
            self._failed(error)
            self._end_dropped()

    def _end_dropped(self) -> None:
        self._turning = True
        try:
            self._run_soon()
        finally:
            self._turning = False
            self._failure = None

    def stop(self) -> None:
        """
        Stop the loop, for good.  Calls that other threads have posted are made.
        """
        if not self.forked:
            with self._lock:
                if self.stopped:
                    return
                self.stopped = True
            while self._posted:
                self._call(self._posted.popleft())
            self._failure = None
        # In a child, that closes its copies only: the parent has its own.
        self._selector.close()
        self._wake.close()
        self._wakened.close()
        for transport in self.transports:
            transport.release()

    # -- sockets -------------------------------------------------------------------

    def watch(
        self, sock: socket.socket, events: int, ready: Callable[[int], object]
    ) -> None:
        """
        Call a function when a socket can be read from, or written to.

        :param events: `READ`, `WRITE`, both, or 0 for neither.
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


def _never() -> bool:
    return False


_loops: WeakSet[SelectorLoop] = WeakSet()


def _forked() -> None:
    """
    Leave the connections to the parent: this is its child.
    """
    for loop in _loops:
        loop.forked = True
        loop.user = {None: 0}  # no thread can own it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class SelectorTransport(Transport):
    """
    The transport over a socket, with or without TLS.

    :ivar bufferSize: how many bytes wait at most before the producer is paused.
    """

    bufferSize = 65536

    def __init__(self, loop: SelectorLoop, sock: socket.socket) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._pieces: deque[memoryview] = deque()
        self._size = 0
        self._reading = True
        self._paused = False
        self._events = 0
        self._orderly = True
        self._over = False

    def begin(self, factory: IProtocolFactory) -> None:
        """
        Make the protocol, and connect it.
        """
        protocol = factory.buildProtocol(self.getPeer())
        tls = self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        self._loop.transports.add(self)
        self.made(protocol, tls)
        self._watch()
        if tls is not None and tls.pending():
            self._loop.callLater(0, self._read)

    def _watch(self) -> None:
        events = 0
        if self.connected:
            events = (READ if self._reading else 0) | (WRITE if self._pieces else 0)
        if events != self._events:
            self._events = events
            self._loop.watch(self._sock, events, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._write()
        if mask & READ and self._reading:
            self._read()

    def _read(self) -> None:
        while self.connected and self._reading:
            try:
                data = self._sock.recv(_READ_SIZE)
            except _WOULD_BLOCK:
                return
            except OSError as problem:
                self._end(problem)
                return
            if not data:
                self._end(None)
                return
            self.protocol.dataReceived(data)
            # The selector does not see bytes that TLS has read from the socket.
            if self._ssl is None or not cast(ssl.SSLSocket, self._sock).pending():
                return

    def _write(self) -> None:
        pieces = self._pieces
        try:
            while pieces:
                piece = pieces[0]
                sent = self._sock.send(piece[:_WRITE_SIZE])
                self._size -= sent
                if sent == len(piece):
                    pieces.popleft()
                else:
                    pieces[0] = piece[sent:]
        except _WOULD_BLOCK:
            pass
        except OSError as problem:
            self._end(problem)
            return
        if not pieces:
            if self.disconnecting:
                self._end(None)
            elif self._paused:
                self._paused = False
                self.drained()
        self._watch()

    def interrupted(self, error: BaseException) -> None:
        """
        End the connection at once: an exception has interrupted its work, and its state
        is unknown.
        """
        self._orderly = False
        self._end(RuntimeError(f"{type(error).__name__} interrupted it"))

    def release(self) -> None:
        """
        Close the socket, without a word to the peer or the protocol.
        """
        self._sock.close()

    def _end(self, problem: BaseException | None) -> None:
        """
        Close the socket; the next turn tells the protocol.
        """
        if not self._over:
            self._over = True
            self._loop.transports.discard(self)
            self._reading = False
            self._pieces.clear()
            self._events = 0
            self._loop.watch(self._sock, 0, self._ready)
            orderly = self._orderly and not self.aborted
            if isinstance(self._sock, ssl.SSLSocket) and orderly:
                with suppress(OSError, ValueError):
                    self._sock.unwrap()  # sends close_notify, and does not wait
            self._sock.close()
            self._loop.callLater(0, self.gone, problem)

    # -- what the protocol calls ---------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._over or self.disconnecting or not data:
            return
        sent = 0
        if not self._pieces:
            try:
                sent = self._sock.send(data)
            except _WOULD_BLOCK:
                pass
            except OSError as problem:
                self._end(problem)
                return
            if sent == len(data):
                return
        self._pieces.append(memoryview(data)[sent:])
        self._size += len(data) - sent
        self._watch()
        if self._size > self.bufferSize and not self._paused:
            self._paused = True
            self.full()

    def loseConnection(self) -> None:
        if not (self._over or self.disconnecting):
            self.disconnecting = True
            if not self._pieces:
                self._end(None)

    def abortConnection(self) -> None:
        self.aborted = self.connected
        self._end(None)

    def pauseProducing(self) -> None:
        self._reading = False
        self._watch()

    def resumeProducing(self) -> None:
        if not (self._over or self.disconnecting):
            self._reading = True
            self._watch()
            if self._ssl is not None:
                self._loop.callLater(0, self._read)

    def getPeer(self) -> IAddress:
        return address_of(self._sock.getpeername())

    def getHost(self) -> IAddress:
        return address_of(self._sock.getsockname())


@implementer(IStreamClientEndpoint)
class SelectorEndpoint:
    """
    Connects to the addresses of a host, one after the other.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        parameters: ConnectionParameters,
        context: ssl.SSLContext | None,
    ) -> None:
        """
        :param context: does TLS; None is without.
        :raises InvalidURI: when no host can have the name.
        """
        self._host = ascii_host(parameters.host)
        self._loop = loop
        self._parameters = parameters
        self._context = context

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        parameters = self._parameters
        deadline = monotonic() + parameters.connection_timeout
        try:
            addresses = await self._addresses()
            for left in range(len(addresses), 0, -1):
                family, kind, number, _, address = addresses[-left]
                try:
                    # An address that does not answer leaves time for the others.
                    share = (deadline - monotonic()) / left
                    sock = await self._open(family, kind, number, address, share)
                    break
                except OSError:
                    if left == 1:
                        raise
            if self._context is not None:
                sock = await self._secure(sock, parameters.handshake_timeout)
            transport = SelectorTransport(self._loop, sock)
            try:
                transport.begin(factory)
            except OSError:  # the peer has closed the connection already
                self._loop.transports.discard(transport)
                sock.close()
                raise
        except OSError as problem:
            raise why_not_connected(problem) from problem
        return cast(IProtocol, transport.protocol)

    async def _addresses(self) -> list[Any]:
        host, port = self._host, self._parameters.port_number
        try:
            numeric = socket.AI_NUMERICHOST
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=numeric
            )
        except socket.gaierror:
            pass
        # The look-up of a name takes its time, and cannot be stopped.
        found: Deferred[Any] = Deferred()

        def look_up() -> None:
            try:
                result: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except Exception as problem:
                self._loop.callFromThread(found.errback, problem)
            else:
                self._loop.callFromThread(found.callback, result)

        Thread(target=look_up, daemon=True).start()
        return cast("list[Any]", await found)

    async def _open(
        self, family: int, kind: int, number: int, address: Any, seconds: float
    ) -> socket.socket:
        sock = socket.socket(family, kind, number)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            problem = sock.connect_ex(address)
            if problem in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                await self._until(sock, WRITE, seconds)
                problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise OSError(problem, os.strerror(problem))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _secure(self, sock: socket.socket, seconds: float) -> ssl.SSLSocket:
        assert self._context is not None
        deadline = monotonic() + seconds
        secured = self._context.wrap_socket(
            sock,
            server_hostname=server_name(self._parameters),
            do_handshake_on_connect=False,
        )
        try:
            while True:
                try:
                    secured.do_handshake()
                    return secured
                except ssl.SSLWantReadError:
                    events = READ
                except ssl.SSLWantWriteError:
                    events = WRITE
                await self._until(secured, events, deadline - monotonic())
        except BaseException:
            secured.close()
            raise

    async def _until(self, sock: socket.socket, events: int, seconds: float) -> None:
        """
        Wait until a socket is ready.

        :raises TimeoutError: it is not, in so many seconds.
        """
        ready: Deferred[None] = Deferred()

        def happened(_: int) -> None:
            self._loop.watch(sock, 0, happened)
            ready.callback(None)

        self._loop.watch(sock, events, happened)
        ready.addTimeout(max(seconds, 0), cast(IReactorTime, self._loop), _too_long)
        try:
            await ready
        except (CancelledError, TimeoutError):
            self._loop.watch(sock, 0, happened)
            raise


def _too_long(_: object, seconds: float) -> None:
    raise TimeoutError
