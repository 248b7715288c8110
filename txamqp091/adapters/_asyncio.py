# -*- test-case-name: txamqp091.test.unit.adapters.test_loops -*-
"""
asyncio's loop, transports and endpoint, in the shape that the protocol needs.
"""

from __future__ import annotations

__all__ = [
    "AsyncioEndpoint",
    "AsyncioLoop",
    "AsyncioTransport",
    "running_loop",
    "wrong_loop",
]

import asyncio
import ssl
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Sequence
from functools import partial
from threading import RLock, get_ident
from typing import Any, cast

from twisted.internet.defer import Deferred
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
from txamqp091.adapters._ssl import context_for, server_name
from txamqp091.adapters._transport import Transport, address_of, why_not_connected
from txamqp091.interfaces import IAsyncioClock
from txamqp091.parameters import ConnectionParameters


@implementer(IDelayedCall)
class AsyncioCall:
    """
    A call that an asyncio loop will make: an ``IDelayedCall``.
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
        :param calls: the calls that wait, of which this one is one.
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
        return self._time or self._loop.time()

    def active(self) -> bool:
        return self._handle is not None and not self._called

    def cancel(self) -> None:
        self._stop()
        self._handle = None
        self._calls.discard(cast(IDelayedCall, self))

    def reset(self, secondsFromNow: float) -> None:
        self._stop()
        self._wait(secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self.reset(self.getTime() + secondsLater - self._loop.time())

    def _stop(self) -> None:
        if self._called:
            raise AlreadyCalled
        if self._handle is None:
            raise AlreadyCancelled
        self._handle.cancel()


@implementer(IAsyncioClock, IReactorTime, IReactorFromThreads)
class AsyncioLoop:
    """
    An asyncio loop, as the clock of a protocol and its way in from other threads.

    :ivar loop: the loop.
    :ivar closed: called when a thread finds that the program has closed the loop under
        an open connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """
        :param ssl_context: does the TLS of `endpoint_from_parameters`, in place of what
            the parameters say of certificates.
        """
        self.loop = loop
        self._ssl_context = ssl_context
        self.seconds = loop.time
        self.closed: Callable[[], object] = _nothing
        self._calls: set[IDelayedCall] = set()
        self._lock = RLock()
        self._thread = get_ident()

    def check(self, what: object) -> None:
        """
        Check that a call may be made here: on the loop, or in the loop's thread while
        no loop runs, as in ``loop.run_until_complete(channel.close())``.

        :param what: what is called, for the error.
        :raises RuntimeError: it may not.
        """
        running = running_loop()
        if running is self.loop:
            return
        if running is not None or self.loop.is_closed() or get_ident() != self._thread:
            raise wrong_loop(what, self.loop)

    def endpoint_from_parameters(
        self, parameters: ConnectionParameters
    ) -> IStreamClientEndpoint:
        context = None
        if parameters.tls is not None:
            context = self._ssl_context or context_for(parameters)
        endpoint = AsyncioEndpoint(self.loop, parameters, context)
        return cast(IStreamClientEndpoint, endpoint)

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        if args or kwargs:
            callable = partial(callable, *args, **kwargs)
        call = AsyncioCall(self.loop, self._calls, delay, callable)
        return cast(IDelayedCall, call)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return list(self._calls)

    def callFromThread(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """
        Make a call in the loop's thread.  If the loop was closed, the connection ends
        first, and the call is made at once: nothing else happens then.
        """
        call = partial(callable, *args, **kwargs)
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            with self._lock:
                closed, self.closed = self.closed, _nothing
                closed()
                call()


def wrong_loop(what: object, loop: asyncio.AbstractEventLoop) -> RuntimeError:
    """
    The error for a call that is not made on the loop of its connection.
    """
    running = running_loop()
    whose = f"{what!r} belongs to the event loop {loop!r}"
    if running is not None:
        return RuntimeError(
            f"{whose}, and was used on the event loop {running!r}: connect on each loop"
        )
    if loop.is_closed():
        return RuntimeError(f"{whose}, which was closed")
    return RuntimeError(
        f"{whose}, which does not run in this thread: from other threads, use "
        "channel.threadsafe"
    )


def _nothing() -> None:
    """
    Do nothing: no connection is left.
    """


class AsyncioTransport(Transport, asyncio.Protocol):
    """
    asyncio's protocol and Twisted's transport in one object, over an asyncio transport.
    """

    def __init__(
        self, factory: IProtocolFactory, has_gone: asyncio.Future[None]
    ) -> None:
        """
        :param has_gone: fires when the connection has ended and the protocol knows.
        """
        super().__init__()
        self.has_gone = has_gone
        self._factory = factory
        self._transport: asyncio.Transport

    # -- asyncio's side --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        protocol = self._factory.buildProtocol(self.getPeer())
        self.made(protocol, transport.get_extra_info("ssl_object"))

    def data_received(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone(exc)
        if not self.has_gone.done():
            self.has_gone.set_result(None)

    def pause_writing(self) -> None:
        self.full()

    def resume_writing(self) -> None:
        self.drained()

    def loop_closed(self) -> None:
        """
        End the connection: the loop was closed, and will not report the end.
        """
        self.gone(RuntimeError("its event loop was closed"))

    # -- the protocol's side ---------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self.connected and not self.disconnecting:
            self._transport.write(data)

    @property
    def bufferSize(self) -> int:
        """
        How many bytes wait at most before the producer is paused.
        """
        return self._transport.get_write_buffer_limits()[1]

    @bufferSize.setter
    def bufferSize(self, size: int) -> None:
        self._transport.set_write_buffer_limits(high=size)

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._transport.close()

    def abortConnection(self) -> None:
        if self.connected:
            self.disconnecting = self.aborted = True
            self._transport.abort()

    def pauseProducing(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resumeProducing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def getPeer(self) -> IAddress:
        return address_of(self._transport.get_extra_info("peername"))

    def getHost(self) -> IAddress:
        return address_of(self._transport.get_extra_info("sockname"))


@implementer(IStreamClientEndpoint)
class AsyncioEndpoint:
    """
    Connects by asyncio, with asyncio's own TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
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
        task = self._loop.create_task(self._connect(protocolFactory))
        return Deferred.fromFuture(task)

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        parameters = self._parameters
        options: dict[str, Any] = {}
        if isinstance(self._loop, asyncio.BaseEventLoop):  # uvloop has none of it
            options["happy_eyeballs_delay"] = 0.3
        if self._context is not None:
            options["ssl"] = self._context
            options["server_hostname"] = server_name(parameters)
            options["ssl_handshake_timeout"] = parameters.handshake_timeout
        has_gone = self._loop.create_future()
        try:
            async with asyncio.timeout(parameters.connection_timeout):
                _, transport = await self._loop.create_connection(
                    lambda: AsyncioTransport(factory, has_gone),
                    self._host,
                    parameters.port_number,
                    **options,
                )
        except OSError as problem:
            raise why_not_connected(problem) from problem
        return cast(IProtocol, transport.protocol)
