# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
The half of a transport that is the same on every loop, and what errors of sockets mean.
"""

from __future__ import annotations

__all__ = ["Transport", "address_of", "why_lost", "why_not_connected"]

import socket
import ssl
from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import (
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
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from txamqp091.adapters._ssl import explained, verify_names
from txamqp091.errors import ConnectFailed


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
    elif isinstance(problem, socket.gaierror):
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
