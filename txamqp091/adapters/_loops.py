# -*- test-case-name: txamqp091.test.test_loops -*-
"""
What Twisted's side of a connection needs, over a loop that is not Twisted's.

`Transport` is what all transports here have in common; `AsyncioLoop`,
`AsyncioTransport` and `AsyncioEndpoint` are over an asyncio loop.  Those of programs
without a loop are in `txamqp091.adapters._selector`.  Nothing here knows AMQP.
"""

from __future__ import annotations

__all__ = [
    "AsyncioEndpoint",
    "AsyncioLoop",
    "AsyncioTransport",
    "Transport",
    "address_of",
    "why_lost",
    "why_not_connected",
]

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    AlreadyCalled,
    AlreadyCancelled,
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
    getConnectError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorFromThreads,
    IReactorTime,
    ISSLTransport,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from txamqp091.adapters._ssl import context_for, explained, server_name, verify_names
from txamqp091.errors import ConnectFailed
from txamqp091.parameters import ConnectionParameters


def address_of(name: object) -> IAddress:
    """
    An address as the socket module has it, as one of Twisted's.
    """
    if not isinstance(name, tuple):
        return UNIXAddress(cast(Any, name) or None)
    kind = IPv4Address if len(name) == 2 else IPv6Address
    return kind("TCP", *name)


def why_lost(problem: BaseException | None, aborted: bool) -> Exception:
    """
    What a protocol is told about the end of its transport.

    :param problem: what the loop says; None if it was in order.
    """
    if aborted:
        return ConnectionAborted()
    if problem is None:
        return ConnectionDone()
    why: Exception
    if isinstance(problem, ssl.SSLError):
        why = explained(problem)
    else:
        why = ConnectionLost(str(problem))
    why.__cause__ = problem
    return why


def why_not_connected(problem: OSError) -> Exception:
    """
    Twisted's error, or ours, for what a connection could not be made for.
    """
    why: Exception
    if isinstance(problem, ssl.SSLError):
        why = explained(problem)
    elif isinstance(problem, TimeoutError):
        why = ConnectFailed("connecting took too long")
    elif isinstance(problem, OSError) and type(problem).__name__ == "gaierror":
        why = DNSLookupError(problem.strerror or str(problem))
    elif problem.errno:
        why = getConnectError((problem.errno, problem.strerror or ""))
    else:  # one of asyncio's, for several addresses
        why = ConnectError(string=str(problem))
    why.__cause__ = problem
    return why


@implementer(ITransport, IConsumer, IPushProducer)
class Transport:
    """
    The half of a transport that is the same everywhere: who produces, and who is told.

    :ivar protocol: Twisted's protocol.
    :ivar connected: whether the protocol has not been told the end.
    :ivar disconnecting: whether the end was asked for.
    """

    connected = False
    disconnecting = False

    def __init__(self) -> None:
        self.protocol: Any = None
        self.aborted = False
        self._producer: Any = None
        self._ssl: ssl.SSLObject | ssl.SSLSocket | None = None

    # -- what a loop's side calls --------------------------------------------------

    def made(self, protocol: Any, tls: ssl.SSLObject | ssl.SSLSocket | None) -> None:
        """
        The connection is there, and so is TLS if it has any.
        """
        self.protocol = protocol
        self.connected = True
        self._ssl = tls
        if tls is not None:
            alsoProvides(self, ISSLTransport)
        protocol.makeConnection(self)
        if tls is not None and IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()

    def gone(self, problem: BaseException | None) -> None:
        """
        The connection has ended.
        """
        if self.connected:
            self.connected = False
            self._producer = None
            self.protocol.connectionLost(Failure(why_lost(problem, self.aborted)))

    def full(self) -> None:
        """
        There is more to be written than there should be.
        """
        if self._producer is not None:
            self._producer.pauseProducing()

    def drained(self) -> None:
        """
        There is room again.
        """
        if self._producer is not None:
            self._producer.resumeProducing()

    # -- what a protocol calls -----------------------------------------------------

    def write(self, data: bytes) -> None:
        """
        See ``ITransport``.
        """
        raise NotImplementedError

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        See ``ITransport``.
        """
        self.write(b"".join(iovec))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """
        See ``IConsumer``.
        """
        self._producer = producer

    def unregisterProducer(self) -> None:
        """
        See ``IConsumer``.
        """
        self._producer = None

    def stopProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        self.loseConnection()

    def pauseProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        raise NotImplementedError

    def resumeProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        raise NotImplementedError

    def loseConnection(self) -> None:
        """
        See ``ITransport``.
        """
        raise NotImplementedError

    def getPeer(self) -> IAddress:
        """
        See ``ITransport``.
        """
        raise NotImplementedError

    def getHost(self) -> IAddress:
        """
        See ``ITransport``.
        """
        raise NotImplementedError

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        See ``ITCPTransport``: it is, always.
        """

    def getPeerCertificate(self) -> dict[str, Any] | None:
        """
        The peer's certificate, as Python's ssl module has it.
        """
        return None if self._ssl is None else cast(Any, self._ssl).getpeercert()

    def verify_names(self, hostname: str) -> None:
        """
        The second look at the certificate: see `txamqp091._tls.verify_peer`.

        :raises TLSFailed: it is for somebody else.
        """
        verify_names(self.getPeerCertificate(), hostname)


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
            function = callable

            def callable() -> Any:
                return function(*args, **kwargs)

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
        if kwargs:
            function = callable

            def callable(*args: object) -> Any:
                return function(*args, **kwargs)

        self.loop.call_soon_threadsafe(callable, *args)


class AsyncioTransport(Transport, asyncio.Protocol):
    """
    An asyncio transport, seen from both sides: as asyncio's protocol, and as the
    transport of Twisted's.
    """

    def __init__(self, factory: IProtocolFactory) -> None:
        super().__init__()
        self._factory = factory
        self._transport: asyncio.Transport

    # -- asyncio's side --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        See ``asyncio.Protocol``: TCP is there, and TLS if it was asked for.
        """
        self._transport = cast(asyncio.Transport, transport)
        protocol = self._factory.buildProtocol(self.getPeer())
        self.made(protocol, transport.get_extra_info("ssl_object"))

    def data_received(self, data: bytes) -> None:
        """
        See ``asyncio.Protocol``.
        """
        self.protocol.dataReceived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        See ``asyncio.Protocol``.
        """
        self.gone(exc)

    def pause_writing(self) -> None:
        """
        See ``asyncio.Protocol``.
        """
        self.full()

    def resume_writing(self) -> None:
        """
        See ``asyncio.Protocol``.
        """
        self.drained()

    # -- the protocol's side ---------------------------------------------------------

    def write(self, data: bytes) -> None:
        """
        See ``ITransport``.
        """
        if self.connected and not self.disconnecting:
            self._transport.write(data)

    @property
    def bufferSize(self) -> int:
        """
        How many bytes may wait to be written before the producer is paused.
        """
        return self._transport.get_write_buffer_limits()[1]

    @bufferSize.setter
    def bufferSize(self, size: int) -> None:
        self._transport.set_write_buffer_limits(high=size)

    def loseConnection(self) -> None:
        """
        See ``ITransport``.
        """
        self.disconnecting = True
        self._transport.close()

    def abortConnection(self) -> None:
        """
        See ``ITCPTransport``.
        """
        if self.connected:
            self.disconnecting = self.aborted = True
            self._transport.abort()

    def pauseProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resumeProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def getPeer(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return address_of(self._transport.get_extra_info("peername"))

    def getHost(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return address_of(self._transport.get_extra_info("sockname"))


@implementer(IStreamClientEndpoint)
class AsyncioEndpoint:
    """
    Connects by asyncio, and does TLS by asyncio's own.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, parameters: ConnectionParameters
    ) -> None:
        """
        :raises InvalidURI: when a file of certificates cannot be read.
        """
        self._loop = loop
        self._parameters = parameters
        self._context = context_for(parameters)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See ``IStreamClientEndpoint``.
        """
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
        try:
            async with asyncio.timeout(parameters.connection_timeout):
                _, transport = await self._loop.create_connection(
                    lambda: AsyncioTransport(factory),
                    parameters.host,
                    parameters.port_number,
                    **options,
                )
        except OSError as problem:
            raise why_not_connected(problem) from problem
        return cast(IProtocol, transport.protocol)
