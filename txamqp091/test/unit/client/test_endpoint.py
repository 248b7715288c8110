# -*- test-case-name: txamqp091.test.unit.client.test_endpoint -*-
"""
Tests for `txamqp091.endpoint`: connecting, over real sockets of the loopback
interface, to peers that fail in every way there is before AMQP is open.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, setDebugging
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, eventAsText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from txamqp091.credentials import ExternalCredentials, PlainCredentials
from txamqp091.endpoint import connect, endpoint_from_parameters
from txamqp091.errors import (
    ConnectFailed,
    ConnectionClosed,
    HandshakeTimeout,
    InvalidURI,
    LocalProtocolError,
    MechanismNotOffered,
    ProtocolVersionMismatch,
    TLSFailed,
    VhostAccessRefused,
)
from txamqp091.parameters import (
    ConnectionParameters,
    TLSParameters,
    UnverifiedTLS,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.certificates import IMPOSTORS, Authority, Issued, impostor
from txamqp091.test.support.tls_peers import server_options
from txamqp091.test.unit.client.test_credentials import CANARY, verbose
from txamqp091.wire import spec
from txamqp091.wire.method import Method

HEADER = b"AMQP\0\0\x09\x01"


def frame(method: Method) -> bytes:
    """
    A method on channel 0, as it is on the wire.
    """
    payload = method.encode()
    return b"\1\0\0" + len(payload).to_bytes(4) + payload + b"\xce"


START = frame(
    spec.ConnectionStart(
        version_major=0,
        version_minor=9,
        server_properties={"product": "a script"},
        mechanisms=b"PLAIN AMQPLAIN",
        locales=b"en_US",
    )
)
TUNE = frame(spec.ConnectionTune(channel_max=10, frame_max=131072, heartbeat=0))
OPEN_OK = frame(spec.ConnectionOpenOk())

#: What a broker says, each after the client has said something.
BROKER = [START, TUNE, b"", OPEN_OK]


class Script(Protocol):
    """
    A peer that has its lines by heart: one for each thing that it is told.
    """

    def __init__(self, lines: list[bytes]):
        self._lines = list(lines)
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self.told: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        assert self.transport is not None
        # One line for the header, and for each frame that has come whole.
        for _ in range(data.count(b"\xce") + data.count(HEADER)):
            if self._lines:
                self.transport.write(self._lines.pop(0))
        if not self._lines and not self.told.called:
            self.told.callback(None)

    def connectionLost(self, reason: Failure = Failure(error.ConnectionDone())) -> None:
        self.lost.callback(None)


class ConnectTestCase(TestCase):
    """
    A scripted peer, and whoever connects to it.
    """

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.accepted: list[Script] = []
        self.connected: Deferred[Script] = Deferred()
        self.authority = Authority()
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.cafile = self.authority.write(self.directory)

    def listen(self, lines: list[bytes], issued: Issued | None = None) -> int:
        """
        Start the peer, with TLS if there is a certificate.

        :returns: its port.
        """

        def accept() -> Script:
            script = Script(lines)
            self.accepted.append(script)
            if not self.connected.called:
                self.connected.callback(script)
            return script

        factory = Factory.forProtocol(accept)
        if issued is None:
            port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            options = server_options(issued)
            port = self.reactor.listenSSL(0, factory, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def fails(self, where: Any, **settings: Any) -> ConnectionClosed:
        """
        What it fails with to connect, when every socket has been closed again.
        """
        try:
            protocol = await connect(self.reactor, where, **settings)
        except ConnectionClosed as error:
            for each in self.accepted:
                await each.lost
            return error
        await protocol.close()
        self.fail(f"{protocol!r} is open")


class ConnectTests(ConnectTestCase):
    """
    The way to an open connection.
    """

    async def test_open(self) -> None:
        """
        The Deferred fires with the protocol when AMQP is open.
        """
        port = self.listen([*BROKER, b""])
        protocol = await connect(self.reactor, f"amqp://me:{CANARY}@127.0.0.1:{port}/v")
        self.assertIsInstance(protocol, AMQPProtocol)
        self.assertTrue(protocol.is_open)
        self.assertEqual(protocol.server_properties, {"product": "a script"})
        self.assertIn(b"\0me\0" + CANARY.encode(), self.accepted[0].received)
        self.assertNotIn(CANARY, f"{protocol!r} {protocol} {protocol.parameters}")
        assert self.accepted[0].transport is not None
        self.accepted[0].transport.loseConnection()
        with self.assertRaises(ConnectionClosed):
            await protocol.when_closed()
        await self.accepted[0].lost

    async def test_secure(self) -> None:
        """
        So it does with TLS, by the name that the certificate has.
        """
        port = self.listen(BROKER, self.authority.issue("localhost"))
        protocol = await connect(
            self.reactor, f"amqps://localhost:{port}?cacertfile={self.cafile}"
        )
        self.assertTrue(protocol.is_open)
        self.assertEqual(self.accepted[0].received[:8], HEADER)
        assert self.accepted[0].transport is not None
        self.accepted[0].transport.loseConnection()
        with self.assertRaises(ConnectionClosed):
            await protocol.when_closed()
        await self.accepted[0].lost

    async def test_credentials(self) -> None:
        """
        Credentials can be given apart from the URI, one or many.
        """
        for credentials in (
            PlainCredentials("other", "pw"),
            [ExternalCredentials(), PlainCredentials("other", "pw")],
        ):
            port = self.listen([START, TUNE, b"", b"\1garbage\xce"])
            self.accepted.clear()
            await self.fails(f"amqp://127.0.0.1:{port}", credentials=credentials)
            self.assertIn(b"\0other\0pw", self.accepted[0].received)
            self.assertNotIn(b"guest", self.accepted[0].received)

    async def test_mechanism_not_offered(self) -> None:
        """
        Criterion 27: what is configured and not offered fails before a secret is sent.
        """
        port = self.listen([START])
        with self.assertRaises(MechanismNotOffered):
            await connect(
                self.reactor, f"amqp://127.0.0.1:{port}?auth_mechanism=external"
            )
        await self.accepted[0].lost
        self.assertEqual(self.accepted[0].received, HEADER)

    async def test_refused_by_broker(self) -> None:
        """
        The broker's own words come through.
        """
        close = spec.ConnectionClose(
            reply_code=530,
            reply_text="NOT_ALLOWED - vhost v not found",
            class_id=10,
            method_id=40,
        )
        port = self.listen([START, TUNE, b"", frame(close)])
        refused = await self.fails(f"amqp://127.0.0.1:{port}/v")
        self.assertIsInstance(refused, VhostAccessRefused)
        self.assertIn("vhost v not found", str(refused))
        self.assertFalse(hasattr(refused, "__notes__"))
        # Many believe that the '/' at the end is the virtual host '/'.
        self.accepted.clear()
        refused = await self.fails(f"amqp://127.0.0.1:{port}/")
        self.assertIn("amqp://host/%2F", refused.__notes__[0])

    async def test_canary(self) -> None:
        """
        Criterion 28: whatever the way ends in, nothing that is logged or raised has the
        password in it.
        """
        setDebugging(True)
        self.addCleanup(setDebugging, False)
        close = spec.ConnectionClose(reply_code=403, reply_text="ACCESS_REFUSED")
        with capturedLogs() as events:
            for lines in (
                [b"HTTP/1.1 400 Bad Request\r\n"],
                [frame(close)],
                [START, frame(close)],
                [START, TUNE, b"", b"\1\0\0\0\0\0\0\xcd"],
            ):
                port = self.listen(lines)
                self.accepted.clear()
                for mechanism in ("plain", "amqplain"):
                    uri = f"amqp://me:{CANARY}@127.0.0.1:{port}"
                    refused = await self.fails(f"{uri}?auth_mechanism={mechanism}")
                    self.assertNotIn(CANARY, verbose(Failure(refused)))
        for event in events:
            self.assertNotIn(CANARY, f"{event!r} {eventAsText(event)}")
        self.flushLoggedErrors()

    async def test_other_version(self) -> None:
        """
        A peer of another version of AMQP is told from one that is none.
        """
        port = self.listen([b"AMQP\0\1\0\0"])
        refused = await self.fails(f"amqp://127.0.0.1:{port}")
        self.assertIsInstance(refused, ProtocolVersionMismatch)


class NoConnectionTests(ConnectTestCase):
    """
    There is nobody, or not the right one.
    """

    async def test_refused(self) -> None:
        """
        Where no server listens, Twisted's error is the cause.
        """
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            for uri in (f"amqp://127.0.0.1:{port}", f"amqps://127.0.0.1:{port}"):
                refused = await self.fails(uri)
                self.assertIs(type(refused), ConnectFailed)
                self.assertIsInstance(refused.__cause__, error.ConnectionRefusedError)
                self.assertIn(f"127.0.0.1:{port}: no server listens", str(refused))
                self.assertTrue(refused.retriable)

    async def test_unknown_name(self) -> None:
        """
        A name that there is not is told as such.
        """
        previous = self.reactor.installNameResolver(Nobody())
        self.addCleanup(self.reactor.installNameResolver, previous)
        refused = await self.fails("amqp://no-such-host.invalid")
        self.assertIs(type(refused), ConnectFailed)
        self.assertIsInstance(refused.__cause__, error.DNSLookupError)
        self.assertIn("the host name is unknown", str(refused))

    async def test_impostors(self) -> None:
        """
        Criterion 25: eight of eight impostors are refused, and hear nothing of us.
        """
        for kind, reason in IMPOSTORS.items():
            port = self.listen(BROKER, impostor(kind, self.authority))
            self.accepted.clear()
            refused = await self.fails(
                f"amqps://me:{CANARY}@localhost:{port}?cacertfile={self.cafile}"
            )
            self.flushLoggedErrors()
            self.assertIs(type(refused), TLSFailed, kind)
            self.assertIn(reason, str(refused), kind)
            self.assertEqual([each.received for each in self.accepted], [b""], kind)
        self.assertEqual(len(IMPOSTORS), 8)

    async def test_plain_broker(self) -> None:
        """
        A broker's plain port behind ``amqps`` is told, and not gone back to.
        """
        port = self.listen([])

        def answer(script: Script) -> Script:
            def answered(data: bytes) -> None:
                assert script.transport is not None
                script.received += data
                script.transport.write(HEADER)
                script.transport.loseConnection()

            script.dataReceived = answered  # type: ignore[method-assign]
            return script

        self.connected.addCallback(answer)
        refused = await self.fails(f"amqps://127.0.0.1:{port}")
        self.assertIs(type(refused), TLSFailed)
        self.assertIn("does not speak TLS: amqp:// or port 5671?", str(refused))
        self.assertEqual(len(self.accepted), 1)
        self.assertNotIn(b"AMQP", self.accepted[0].received)

    async def test_silence(self) -> None:
        """
        Peers that fall silent are given up in time, and the error says when.
        """
        cases: list[tuple[list[bytes], Issued | None, str, str]] = [
            ([], None, "amqp", "has not opened AMQP"),
            ([START], None, "amqp", "has not opened AMQP"),
            ([START[:9]], None, "amqp", "has not opened AMQP"),
            ([], None, "amqps", "TLS handshake has not completed"),
            ([], self.authority.issue("localhost"), "amqps", "has not opened AMQP"),
        ]
        attempts = []
        for lines, issued, scheme, _ in cases:
            parameters = ConnectionParameters(
                host="localhost",
                port=self.listen(lines, issued),
                tls=TLSParameters(cafile=self.cafile) if scheme == "amqps" else None,
                # What is to come before the silence has to come in time.
                handshake_timeout=3,
            )
            attempts.append(Deferred.fromCoroutine(self.fails(parameters)))
        for attempt, (*_, words) in zip(attempts, cases, strict=True):
            refused = await attempt
            self.assertIs(type(refused), HandshakeTimeout)
            self.assertIn(words, str(refused))
            self.assertIn("3 s", str(refused))


class CancelTests(ConnectTestCase):
    """
    Cancelling an attempt, at each of its stages.
    """

    async def test_cancel(self) -> None:
        """
        Whatever the peer has said, the connection is dropped at once.
        """
        for said in range(len(BROKER)):
            self.connected = Deferred()
            port = self.listen(BROKER[:said])
            attempt = connect(self.reactor, f"amqp://127.0.0.1:{port}")
            script = await self.connected
            await script.told
            attempt.cancel()
            with self.assertRaises(CancelledError):
                await attempt
            await script.lost

    async def test_cancel_in_tls(self) -> None:
        """
        So it is in the middle of the TLS handshake.
        """
        port = self.listen([])
        attempt = connect(self.reactor, f"amqps://127.0.0.1:{port}")
        script = await self.connected
        attempt.cancel()
        with self.assertRaises(CancelledError):
            await attempt
        await script.lost
        self.assertNotIn(b"AMQP", script.received)


@implementer(IHostnameResolver, IHostResolution)
class Nobody:
    """
    Knows no host name: what a name server says, and when, is not for tests.
    """

    name = ""

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.name = hostName
        resolutionReceiver.resolutionBegan(self)
        for address in self.addresses(hostName, portNumber):
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return self

    def addresses(self, host: str, port: int) -> list[IPv4Address]:
        """
        What a host name stands for.
        """
        return []

    def cancel(self) -> None:
        raise NotImplementedError


class Literally(Nobody):
    """
    Takes every host name for the address that it is.
    """

    def addresses(self, host: str, port: int) -> list[IPv4Address]:
        return [IPv4Address("TCP", host, port)]


@implementer(IReactorPluggableNameResolver)
class MemoryReactor(MemoryReactorClock):
    """
    A reactor in memory that resolves addresses, on every Twisted.
    """

    nameResolver: IHostnameResolver = Literally()

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise NotImplementedError


class MemoryTests(SynchronousTestCase):
    """
    What needs no socket.
    """

    def test_no_raising(self) -> None:
        """
        A URI or a file that is no good fails the Deferred, and tells no secret.
        """
        bad: list[tuple[Callable[[], Any], str]] = [
            (lambda: f"amqp://me:{CANARY}@h:port", "the port"),
            (lambda: f"amqps://me:{CANARY}@h?cacertfile=/nowhere", "/nowhere"),
            (lambda: None, "NoneType"),
        ]
        for name in ("a..b", "2130706433", "x" * 64 + ".example", "\udce4"):
            for parameters in (
                ConnectionParameters(host=name),
                ConnectionParameters(host=name, tls=TLSParameters()),
                ConnectionParameters(tls=TLSParameters(server_name=name)),
                ConnectionParameters(tls=UnverifiedTLS(server_name=name)),
            ):
                bad.append((partial(replace, parameters), "the host name"))
        for path in ("\0", "\ud800"):
            tls = TLSParameters(cafile=path)
            bad.append((partial(ConnectionParameters, tls=tls), "cafile"))
        setDebugging(True)
        self.addCleanup(setDebugging, False)
        for where, words in bad:
            failure = self.failureResultOf(connect(MemoryReactor(), where()))
            failure.trap(InvalidURI)
            self.assertIn(words, str(failure.value))
            self.assertNotIn(CANARY, verbose(failure))

    def test_timeout_of_tcp(self) -> None:
        """
        An address that does not answer is given up after ``connection_timeout``,
        Twisted's error being the cause.
        """
        reactor = MemoryReactor()
        attempt = connect(
            reactor, ConnectionParameters(host="127.0.0.1", connection_timeout=3)
        )
        [(_, _, factory, timeout, _)] = reactor.tcpClients
        self.assertEqual(timeout, 3)
        self.assertNoResult(attempt)
        connector: Any = None
        factory.clientConnectionFailed(connector, Failure(error.TimeoutError()))
        # Twisted looks for another address to try, now and then.
        reactor.advance(1)
        failure = self.failureResultOf(attempt, ConnectFailed)
        self.assertIsInstance(failure.value.__cause__, error.TimeoutError)
        self.assertIn("took too long", str(failure.value))
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_timeout_of_it_all(self) -> None:
        """
        ``handshake_timeout`` ends the attempt, even while TCP connects.
        """
        reactor = MemoryReactor()
        attempt = connect(
            reactor,
            ConnectionParameters(
                host="127.0.0.1", connection_timeout=30, handshake_timeout=3
            ),
        )
        reactor.advance(3)
        failure = self.failureResultOf(attempt, HandshakeTimeout)
        self.assertIn("TCP has not connected", str(failure.value))
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_cancel_of_tcp(self) -> None:
        """
        Cancelling while TCP connects leaves nothing behind.
        """
        reactor = MemoryReactor()
        attempt = connect(reactor, "amqp://127.0.0.1")
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_ports(self) -> None:
        """
        Criterion 26: the port goes with the scheme, and the timeout with the parameter.
        """
        for uri, port in (
            ("amqp://127.0.0.1", 5672),
            ("amqps://127.0.0.1", 5671),
            ("amqps://127.0.0.1:5672", 5672),
        ):
            reactor = MemoryReactor()
            parameters = ConnectionParameters.from_uri(uri)
            endpoint = endpoint_from_parameters(reactor, parameters)
            self.assertEqual(isinstance(endpoint, TCP4ClientEndpoint), uri[4] == ":")
            attempt = endpoint.connect(Factory.forProtocol(Protocol))
            [(host, asked, _, timeout, _)] = reactor.tcpClients
            self.assertEqual((host, asked, timeout), ("127.0.0.1", port, 10.0))
            attempt.cancel()
            self.failureResultOf(attempt)

    def test_addresses(self) -> None:
        """
        A name is resolved, also one with an underscore; an address is not.
        """
        for host, kind in (
            ("rabbit.example", HostnameEndpoint),
            ("my_rabbit", HostnameEndpoint),
            ("192.0.2.1", TCP4ClientEndpoint),
            ("[2001:db8::1]", TCP6ClientEndpoint),
        ):
            parameters = ConnectionParameters.from_uri(f"amqp://{host}")
            reactor = MemoryReactor()
            endpoint = endpoint_from_parameters(reactor, parameters)
            self.assertIsInstance(endpoint, kind)
        resolver = Nobody()
        reactor.nameResolver = resolver
        self.failureResultOf(connect(reactor, "amqp://my_rabbit"), ConnectFailed)
        self.assertEqual(resolver.name, "my_rabbit")

    def test_what_cannot_be_used(self) -> None:
        """
        Nothing is raised, also where a parameter is of the wrong type altogether.
        """
        parameters = ConnectionParameters(tls=TLSParameters(trust_root=object()))
        failure = self.failureResultOf(connect(MemoryReactor(), parameters))
        failure.trap(LocalProtocolError)
        self.assertIn("the parameters cannot be used: TypeError", str(failure.value))
