# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
The part of a transport that all loops share, and the meaning of socket errors.
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
    Make one of Twisted's addresses of one of the socket module's.
    """
    if not isinstance(name, tuple):
        return UNIXAddress(cast(Any, name) or None)
    kind = IPv4Address if len(name) == 2 else IPv6Address
    return kind("TCP", *name)


def why_lost(problem: BaseException | None, aborted: bool) -> Exception:
    """
    Make the error that tells a protocol why its transport has ended.

    :param problem: the loop's error; None if the peer has closed the connection.
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
    Make Twisted's error, or ours, of the reason why there is no connection.
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
    The part of a transport that all loops share: its producer and its protocol.

    :ivar protocol: Twisted's protocol.
    :ivar connected: whether the protocol is connected: it does not know of an end.
    :ivar disconnecting: whether the protocol has asked for the end.
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
        Connect the protocol: TCP is connected, and TLS too if there is any.
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
        Tell the protocol that the connection has ended.
        """
        if self.connected:
            self.connected = False
            self._producer = None
            self.protocol.connectionLost(Failure(why_lost(problem, self.aborted)))

    def full(self) -> None:
        """
        Pause the producer: more bytes wait than `bufferSize`.
        """
        if self._producer is not None:
            self._producer.pauseProducing()

    def drained(self) -> None:
        """
        Resume the producer.
        """
        if self._producer is not None:
            self._producer.resumeProducing()

    # -- what a protocol calls -----------------------------------------------------

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def stopProducing(self) -> None:
        self.loseConnection()

    def pauseProducing(self) -> None:
        raise NotImplementedError

    def resumeProducing(self) -> None:
        raise NotImplementedError

    def loseConnection(self) -> None:
        raise NotImplementedError

    def getPeer(self) -> IAddress:
        raise NotImplementedError

    def getHost(self) -> IAddress:
        raise NotImplementedError

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Do nothing: small writes leave at once on all these transports.
        """

    def getPeerCertificate(self) -> dict[str, Any] | None:
        """
        The peer's certificate, as Python's ssl module has it.
        """
        return None if self._ssl is None else cast(Any, self._ssl).getpeercert()

    def verify_names(self, hostname: str) -> None:
        """
        Check the certificate a second time: see `txamqp091._tls.verify_peer`.

        :raises TLSFailed: the certificate is for another host.
        """
        verify_names(self.getPeerCertificate(), hostname)
