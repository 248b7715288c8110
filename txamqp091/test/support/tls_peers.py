# -*- test-case-name: txamqp091.test.unit.client.test_tls -*-
"""
Peers for tests of TLS, on real sockets of the loopback interface.

The client here does what the AMQP protocol does about TLS, and nothing else: it
looks at the peer when the handshake has completed, and then says a secret.
"""

from __future__ import annotations

__all__ = [
    "Adjusted",
    "Answering",
    "ChainOnly",
    "Client",
    "Closing",
    "SECRET",
    "Server",
    "TLSTestCase",
    "server_options",
]

import os
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM
from twisted.internet import error, ssl
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from txamqp091._tls import (
    Stage,
    connection_creator,
    handshake_completed,
    translate_failure,
    verify_peer,
)
from txamqp091.errors import ConnectionLost, TLSFailed
from txamqp091.parameters import ConnectionParameters, TLSParameters
from txamqp091.test.support.certificates import Authority, Issued

SECRET = b"AMQP\0\0\x09\x01 and the password"


class Server(Protocol):
    """
    Keeps what it is told, and says when the connection has ended.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = Failure(error.ConnectionDone())) -> None:
        self.lost.callback(None)


class Answering(Server):
    """
    Answers the first bytes, whatever they are, and closes.
    """

    answer = b"AMQP\0\0\x09\x01"

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self.answer)
        super().dataReceived(data)


class Closing(Server):
    """
    Closes at once.
    """

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


@implementer(IHandshakeListener)
class Client(Protocol):
    """
    Checks the peer, and tells it the secret.

    :ivar ended: fires with the error, or ``None``, once the connection is gone.
    """

    def __init__(self, parameters: ConnectionParameters):
        self._parameters = parameters
        self._error: TLSFailed | None = None
        self.ended: Deferred[Exception | None] = Deferred()

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        name = self._parameters.certified_name
        try:
            if name is not None:
                verify_peer(transport, name)
        except TLSFailed as refused:
            self._error = refused
            transport.abortConnection()
        else:
            transport.write(SECRET)

    def connectionLost(self, reason: Failure = Failure(error.ConnectionDone())) -> None:
        lost: Exception | None = self._error or translate_failure(
            reason,
            transport=self.transport,
            hostname=self._parameters.certified_name,
            peer=self._parameters.host,
            stage=Stage.GREETING
            if handshake_completed(self.transport)
            else Stage.TLS_HANDSHAKE,
        )
        if type(lost) is ConnectionLost and reason.check(error.ConnectionDone):
            lost = None
        self.ended.callback(lost)


@implementer(IOpenSSLServerConnectionCreator)
class Adjusted:
    """
    A server whose context has been adjusted by hand.
    """

    def __init__(self, issued: Issued, adjust: Callable[[SSL.Context], object]):
        self._context = server_options(issued).getContext()
        adjust(self._context)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def server_options(issued: Issued, trust: Authority | None = None) -> Any:
    """
    What a server needs to show a certificate and, if there is somebody to
    trust, to ask for one.
    """
    key = ssl.KeyPair.load(issued.key, FILETYPE_PEM)
    certificate = ssl.PrivateCertificate.load(issued.certificate, key, FILETYPE_PEM)
    if trust is None:
        return certificate.options()
    return certificate.options(ssl.Certificate.loadPEM(trust.certificate))


@implementer(IOpenSSLClientConnectionCreator)
class ChainOnly:
    """
    A connection creator without any check of names.
    """

    def __init__(self, authority: Authority):
        self._options = ssl.CertificateOptions(
            trustRoot=ssl.Certificate.loadPEM(authority.certificate)
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._options.getContext(), None)


class TLSTestCase(TestCase):
    """
    A server on a loopback port, a client, and an authority.
    """

    def setUp(self) -> None:
        self.authority = Authority()
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.cafile = self.authority.write(self.directory)

    def trusting(self, **changes: Any) -> TLSParameters:
        """
        Parameters that trust our authority.
        """
        return TLSParameters(cafile=self.cafile, **changes)

    async def meet(
        self,
        server: Any,
        tls: TLSParameters,
        host: str = "localhost",
        speaking: type[Server] = Server,
    ) -> tuple[Exception | None, bytes]:
        """
        Let a client meet a server.

        :param server: the server's certificate, TLS options, or ``None`` for
            none of it.
        :returns: how it ended for the client, and what the server was told.
        """
        from twisted.internet import reactor

        react: Any = reactor
        accepted: list[Server] = []

        def accept() -> Server:
            accepted.append(speaking())
            return accepted[-1]

        factory = Factory.forProtocol(accept)
        if isinstance(server, Issued):
            server = server_options(server)
        interface = "::1" if host == "::1" else "127.0.0.1"
        if server is None:
            port = react.listenTCP(0, factory, interface=interface)
        else:
            port = react.listenSSL(0, factory, server, interface=interface)
        try:
            parameters = ConnectionParameters(host=host, tls=tls)
            endpoint = wrapClientTLS(
                connection_creator(parameters),
                HostnameEndpoint(react, interface, port.getHost().port),
            )
            client = Client(parameters)
            await endpoint.connect(Factory.forProtocol(lambda: client))
            ended = await client.ended
            await gatherResults([each.lost for each in accepted])
            return ended, b"".join(each.received for each in accepted)
        finally:
            await port.stopListening()

    async def refused(self, *arguments: Any, **settings: Any) -> TLSFailed:
        """
        The client refuses the server, says why, and has told it nothing.
        """
        ended, told = await self.meet(*arguments, **settings)
        self.assertIsInstance(ended, TLSFailed)
        assert isinstance(ended, TLSFailed)
        if arguments[0] is not None:
            self.assertEqual(told, b"")
        self.assertNotIn(SECRET[:8], told)
        self.assertFalse(ended.retriable)
        # What Twisted logs when service-identity does not like a certificate.
        self.flushLoggedErrors()
        return ended

    async def accepted(self, *arguments: Any, **settings: Any) -> None:
        """
        The client takes the server for the right one.
        """
        ended, told = await self.meet(*arguments, **settings)
        self.assertIsNone(ended)
        self.assertEqual(told, SECRET)
