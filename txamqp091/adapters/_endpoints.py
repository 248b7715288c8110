# -*- test-case-name: txamqp091.test.test_adapters_tls -*-
"""
Endpoints that connect by loops that are not Twisted's, and do TLS by Python's own ssl
module.
"""

from __future__ import annotations

__all__ = ["AsyncioEndpoint", "SelectorEndpoint"]

import asyncio
import errno
import os
import socket
import ssl
from threading import Thread
from time import monotonic
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, DNSLookupError, getConnectError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from txamqp091.adapters._loops import READ, WRITE, SelectorLoop
from txamqp091.adapters._sockets import SelectorTransport
from txamqp091.adapters._ssl import context_for, explained, server_name
from txamqp091.adapters._transports import AsyncioTransport
from txamqp091.errors import ConnectFailed
from txamqp091.parameters import ConnectionParameters


def why_not_connected(problem: OSError) -> Exception:
    """
    Twisted's error, or ours, for what a connection could not be made for.
    """
    why: Exception
    if isinstance(problem, ssl.SSLError):
        why = explained(problem)
    elif isinstance(problem, TimeoutError):
        why = ConnectFailed("connecting took too long")
    elif isinstance(problem, socket.gaierror):
        why = DNSLookupError(problem.strerror or str(problem))
    elif problem.errno:
        why = getConnectError((problem.errno, problem.strerror or ""))
    else:  # one of asyncio's, for several addresses
        why = ConnectError(string=str(problem))
    why.__cause__ = problem
    return why


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


@implementer(IStreamClientEndpoint)
class SelectorEndpoint:
    """
    Connects, to one address after the other.
    """

    def __init__(self, loop: SelectorLoop, parameters: ConnectionParameters) -> None:
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
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        parameters = self._parameters
        deadline = monotonic() + parameters.connection_timeout
        try:
            addresses = await self._addresses()
            for left in range(len(addresses), 0, -1):
                family, kind, number, _, address = addresses[-left]
                try:
                    # So that an address which answers nothing leaves time for others.
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
            except OSError:  # it has gone, before it was there
                sock.close()
                raise
        except OSError as problem:
            raise why_not_connected(problem) from problem
        return cast(IProtocol, transport.protocol)

    async def _addresses(self) -> list[Any]:
        host, port = self._parameters.host, self._parameters.port_number
        try:
            numeric = socket.AI_NUMERICHOST
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=numeric
            )
        except socket.gaierror:
            pass
        # To look up a name takes its time, and cannot be stopped.
        found: Deferred[Any] = Deferred()

        def look_up() -> None:
            try:
                result: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as problem:
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
