# -*- test-case-name: txamqp091.test.unit.client.test_tls -*-
"""
Tests for `txamqp091._tls`: who is taken for the broker, and what is said of others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any
from unittest import mock

from OpenSSL import SSL
from twisted.internet import error, ssl
from twisted.internet.defer import CancelledError
from twisted.protocols.portforward import (
    ProxyClient,
    ProxyClientFactory,
    ProxyFactory,
    ProxyServer,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091._tls import (
    Stage,
    connection_creator,
    translate_failure,
    verify_peer,
)
from txamqp091.endpoint import connect
from txamqp091.errors import (
    ConnectFailed,
    ConnectionLost,
    HeartbeatTimeout,
    InvalidURI,
    TLSFailed,
)
from txamqp091.parameters import ConnectionParameters, TLSParameters, UnverifiedTLS
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.certificates import IMPOSTORS, Authority, impostor
from txamqp091.test.support.tls_peers import (
    Adjusted,
    Answering,
    ChainOnly,
    Closing,
    TLSTestCase,
    server_options,
)
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker


class ImpostorTests(TLSTestCase):
    """
    Criterion 25: eight of eight impostors are refused, with a reason, and get nothing.
    """

    async def test_impostors(self) -> None:
        """
        Each of them is refused, and the error says what is wrong.
        """
        for kind, reason in IMPOSTORS.items():
            refused = await self.refused(
                impostor(kind, self.authority), self.trusting()
            )
            self.assertIn(reason, str(refused), kind)
        self.assertEqual(len(IMPOSTORS), 8)

    async def test_names_without_twisted(self) -> None:
        """
        Those whose name is wrong are refused by our own check alone, when the
        connection creator checks none.
        """
        tls = TLSParameters(connection_creator=ChainOnly(self.authority))
        await self.accepted(self.authority.issue("localhost"), tls)
        for kind in (
            "wrong name",
            "common name only",
            "no subjectAltName",
            "address for name",
        ):
            refused = await self.refused(impostor(kind, self.authority), tls)
            self.assertIn(IMPOSTORS[kind], str(refused), kind)
            self.assertIn("localhost", str(refused), kind)

    async def test_names_without_any_check(self) -> None:
        """
        They are refused even when nothing at all was checked before.
        """
        tls = TLSParameters(
            connection_creator=connection_creator(
                ConnectionParameters(tls=UnverifiedTLS())
            )
        )
        for kind in ("wrong name", "common name only", "address for name"):
            refused = await self.refused(impostor(kind, self.authority), tls)
            self.assertIn(IMPOSTORS[kind], str(refused), kind)

    async def test_other_names(self) -> None:
        """
        A subjectAltName with other things than hosts in it names no host.
        """
        for host in ("localhost", "127.0.0.1"):
            issued = self.authority.issue(f"amqps://{host}/", common_name=host)
            refused = await self.refused(issued, self.trusting(), host)
            self.assertIn("no subjectAltName with a host", str(refused))

    async def test_address_that_is_not_there(self) -> None:
        """
        A certificate for a name does not do for an address, nor one for another
        address.
        """
        for names in (("localhost",), ("127.0.0.2",), ("127.0.0.1.example",)):
            refused = await self.refused(
                self.authority.issue(*names), self.trusting(), "127.0.0.1"
            )
            self.assertIn(names[0], str(refused))
            self.assertIn("not for 127.0.0.1", str(refused))

    async def test_text_of_strangers(self) -> None:
        """
        Criterion 29: names that a stranger made up cannot break a log's lines.
        """
        issued = self.authority.issue(common_name="a\n\x1b[2J" + "b" * 50)
        refused = await self.refused(issued, self.trusting())
        self.assertTrue(str(refused).isprintable())


class AcceptedTests(TLSTestCase):
    """
    Peers that are who they should be.
    """

    async def test_name(self) -> None:
        """
        One of many names is enough, and a wildcard covers one label.
        """
        await self.accepted(
            self.authority.issue("a.example", "localhost"), self.trusting()
        )
        await self.accepted(
            self.authority.issue("*.rabbit.example"),
            self.trusting(),
            "one.rabbit.example",
        )
        await self.refused(
            self.authority.issue("*.rabbit.example"),
            self.trusting(),
            "a.b.rabbit.example",
        )

    async def test_addresses(self) -> None:
        """
        An address is found among a certificate's addresses.
        """
        issued = self.authority.issue("127.0.0.1", "::1")
        await self.accepted(issued, self.trusting(), "127.0.0.1")
        await self.accepted(issued, self.trusting(), "::1")

    async def test_server_name(self) -> None:
        """
        ``server_name`` is what is asked for and what has to be shown.
        """
        asked: list[bytes | None] = []

        def listen(context: SSL.Context) -> None:
            context.set_tlsext_servername_callback(
                lambda connection: asked.append(connection.get_servername())
            )

        issued = self.authority.issue("rabbit.example")
        tls = self.trusting(server_name="rabbit.example")
        await self.accepted(Adjusted(issued, listen), tls)
        self.assertEqual(asked, [b"rabbit.example"])
        await self.refused(self.authority.issue("localhost"), tls)

    async def test_odd_names(self) -> None:
        """
        A name with an underscore, with a dot at its end, or in letters of its own is
        asked for and found in a certificate as any other.
        """
        asked: list[bytes | None] = []

        def listen(context: SSL.Context) -> None:
            context.set_tlsext_servername_callback(
                lambda connection: asked.append(connection.get_servername())
            )

        for name, certified in (
            ("my_rabbit", "my_rabbit"),
            ("xn--a", "xn--a"),
            ("rabbit.example.", "rabbit.example"),
            ("straße.example", "xn--strae-oqa.example"),
        ):
            issued = self.authority.issue(certified)
            await self.accepted(Adjusted(issued, listen), self.trusting(), name)
            self.assertEqual(asked.pop(), certified.encode())
            refused = await self.refused(
                self.authority.issue("other.example"), self.trusting(), name
            )
            self.assertIn("not for", str(refused))
        expired = impostor("expired", self.authority, "my_rabbit")
        await self.refused(expired, self.trusting(), "my_rabbit")

    async def test_odd_names_alone(self) -> None:
        """
        A connection creator for a name that Twisted refuses checks names by itself,
        for protocols that do not.
        """
        tls = self.trusting(server_name="my_rabbit")
        creator = connection_creator(ConnectionParameters(tls=tls))
        tls = TLSParameters(connection_creator=creator)
        await self.refused(self.authority.issue("localhost"), tls)

    async def test_several_authorities(self) -> None:
        """
        A file may hold many authorities, with text between them.
        """
        with open(os.path.join(self.directory, "many.pem"), "wb") as file:
            file.write(Authority("another CA").certificate)
            file.write(b"\nthe one that counts:\n")
            file.write(self.authority.certificate)
        await self.accepted(
            self.authority.issue("localhost"), TLSParameters(cafile=file.name)
        )

    async def test_intermediate(self) -> None:
        """
        The server may show who vouches for it.
        """

        def show_chain(context: SSL.Context) -> None:
            context.use_certificate_chain_file(chain)

        between = self.authority.intermediate()
        issued = between.issue("localhost")
        chain, _ = issued.write(self.directory, "chain")
        context = Adjusted(issued, show_chain)
        await self.accepted(context, self.trusting())

    async def test_trust_root(self) -> None:
        """
        A trust root of Twisted's can be given in place of a file.
        """
        root = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM(self.authority.certificate)]
        )
        issued = self.authority.issue("localhost")
        await self.accepted(issued, TLSParameters(trust_root=root))

    async def test_platform(self) -> None:
        """
        Without a file, the operating system's authorities count, and ours is
        none of them.
        """
        refused = await self.refused(self.authority.issue("localhost"), TLSParameters())
        self.assertIn("issuer", str(refused))

    async def test_issuer_not_trusted(self) -> None:
        """
        When the peer shows its authority, and we do not trust that, it is the
        authority that is named.
        """

        def show_chain(context: SSL.Context) -> None:
            context.use_certificate_chain_file(chain)

        stranger = Authority("a stranger's CA")
        issued = stranger.issue("localhost")
        chain, _ = issued.write(self.directory, "chain")
        with open(chain, "ab") as file:
            file.write(stranger.certificate)
        refused = await self.refused(Adjusted(issued, show_chain), self.trusting())
        self.assertIn("an issuer's certificate is self-signed", str(refused))
        self.assertIn("subject CN=a stranger's CA", str(refused))

    async def test_unverified(self) -> None:
        """
        `UnverifiedTLS` takes any of the impostors, as it says.
        """
        for kind in IMPOSTORS:
            await self.accepted(impostor(kind, self.authority), UnverifiedTLS())

    async def test_nothing_to_check_is_not_accepted(self) -> None:
        """
        A transport that has no certificate is nobody's.
        """
        with self.assertRaises(TLSFailed):
            verify_peer(object(), "localhost")


class ClientCertificateTests(TLSTestCase):
    """
    Mutual TLS.
    """

    def own(self, authority: Authority, **changes: Any) -> TLSParameters:
        """
        Parameters with a client certificate that an authority has issued.
        """
        certfile, keyfile = authority.issue(common_name="me").write(
            self.directory, "client"
        )
        return self.trusting(certfile=certfile, keyfile=keyfile, **changes)

    async def test_shown(self) -> None:
        """
        A server that asks gets our certificate, and those behind it.
        """
        server = server_options(self.authority.issue("localhost"), self.authority)
        await self.accepted(server, self.own(self.authority))
        await self.accepted(server, self.own(self.authority.intermediate()))

    async def test_shown_unverified(self) -> None:
        """
        It does so as well if it need not prove anything itself.
        """
        tls = self.own(self.authority)
        server = server_options(Authority().issue("x.example"), self.authority)
        await self.accepted(
            server,
            UnverifiedTLS(
                certfile=tls.certfile, keyfile=tls.keyfile, server_name="x.example"
            ),
        )

    async def test_missing(self) -> None:
        """
        A server that insists on one says so, and so do we.
        """
        server = server_options(self.authority.issue("localhost"), self.authority)
        ended, _ = await self.meet(server, self.trusting())
        self.assertIsInstance(ended, TLSFailed)
        self.assertIn("asks for a client certificate", str(ended))

    async def test_not_trusted(self) -> None:
        """
        A server that does not trust ours says so, and so do we.
        """
        server = server_options(self.authority.issue("localhost"), self.authority)
        ended, _ = await self.meet(server, self.own(Authority("a stranger's CA")))
        self.assertIsInstance(ended, TLSFailed)
        self.assertIn("does not trust our certificate's issuer", str(ended))


class NoTLSTests(TLSTestCase):
    """
    Peers that speak no TLS, or none that is safe.  There is no way back to a
    connection in the clear.
    """

    async def test_plain_broker(self) -> None:
        """
        A broker's plain port answers a TLS handshake in AMQP: that is said.
        """
        refused = await self.refused(None, self.trusting(), speaking=Answering)
        self.assertIn("does not speak TLS: amqp:// or port 5671?", str(refused))

    async def test_other_peers(self) -> None:
        """
        So it is of a web server, and of who closes at once.
        """

        class Web(Answering):
            answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"

        refused = await self.refused(None, self.trusting(), speaking=Web)
        self.assertIn("does not speak TLS", str(refused))
        refused = await self.refused(None, self.trusting(), speaking=Closing)
        self.assertIn("in the TLS handshake", str(refused))

    async def test_old_versions(self) -> None:
        """
        TLS 1.1 is none, although the server's certificate is right.
        """

        def outdated(context: SSL.Context) -> None:
            # Twisted's options are cleared one by one: they exclude them.
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(SSL.TLS1_1_VERSION)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")

        server = Adjusted(self.authority.issue("localhost"), outdated)
        refused = await self.refused(server, self.trusting())
        self.assertIn("version", str(refused))


class FilesTests(SynchronousTestCase):
    """
    Files that do not hold what they should, before anything is connected.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        issued = Authority().issue(common_name="me")
        self.certfile, self.keyfile = issued.write(self.directory, "client")

    def problem(self, tls: TLSParameters) -> str:
        """
        Why the parameters cannot be used.
        """
        parameters = ConnectionParameters(tls=tls)
        return str(self.assertRaises(InvalidURI, connection_creator, parameters))

    def test_missing(self) -> None:
        """
        A file that is not there is named, with the parameter.
        """
        nowhere = os.path.join(self.directory, "nowhere.pem")
        for name, tls in (
            ("cafile", TLSParameters(cafile=nowhere)),
            ("certfile", TLSParameters(certfile=nowhere, keyfile=self.keyfile)),
            ("keyfile", TLSParameters(certfile=self.certfile, keyfile=nowhere)),
        ):
            problem = self.problem(tls)
            self.assertIn(f"{name}: cannot read {nowhere}: No such file", problem)

    def test_wrong(self) -> None:
        """
        A file with something else in it is named as well.
        """
        self.assertIn(
            "cafile: no PEM certificate",
            self.problem(TLSParameters(cafile=self.keyfile)),
        )
        tls = TLSParameters(certfile=self.certfile, keyfile=self.certfile)
        self.assertIn("has no PEM private key", self.problem(tls))

    def test_key_of_another(self) -> None:
        """
        The key has to be the certificate's own.
        """
        other, _ = Authority().issue().write(self.directory, "other")
        tls = TLSParameters(certfile=other, keyfile=self.keyfile)
        self.assertIn("is not the key of the certificate", self.problem(tls))

    def test_passphrase(self) -> None:
        """
        A protected key is refused; nobody is asked on the terminal.
        """
        from cryptography.hazmat.primitives import serialization

        with open(self.keyfile, "rb") as file:
            key = serialization.load_pem_private_key(file.read(), None)
        with open(self.keyfile, "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
        tls = TLSParameters(certfile=self.certfile, keyfile=self.keyfile)
        self.assertIn("protected by a passphrase", self.problem(tls))

    def test_packages_missing(self) -> None:
        """
        Without the packages for TLS, the error says what to install.
        """
        with mock.patch.dict(sys.modules, {"service_identity": None}):
            refused = self.assertRaises(
                TLSFailed,
                connection_creator,
                ConnectionParameters(tls=TLSParameters()),
            )
        self.assertIn("pip install txamqp091[tls]", str(refused))


class TranslateTests(SynchronousTestCase):
    """
    Twisted's and OpenSSL's errors in our words.
    """

    def test_kinds(self) -> None:
        """
        Each error becomes one of ours, with itself as the cause.
        """
        cases: Iterable[tuple[Exception, type[Exception], str]] = (
            (error.ConnectionRefusedError(), ConnectFailed, "no server listens there"),
            (error.DNSLookupError("x"), ConnectFailed, "the host name is unknown"),
            (error.TimeoutError(), ConnectFailed, "took too long"),
            (error.NoRouteError(), ConnectFailed, "no route"),
            (error.ConnectBindError(), ConnectFailed, "cannot connect"),
            (ValueError("invalid hostname"), ConnectFailed, "invalid hostname"),
            (error.ConnectionDone(), ConnectFailed, "closed the connection"),
            (error.ConnectionLost(), ConnectFailed, "lost"),
            (SSL.Error([("SSL routines", "", "some thing")]), TLSFailed, "some thing"),
            (SSL.Error(), TLSFailed, "Error"),
            (
                SSL.Error([("SSL routines", "", "certificate verify failed")]),
                TLSFailed,
                "certificate was refused",
            ),
            (
                SSL.Error([("SSL routines", "", "sslv3 alert handshake failure")]),
                TLSFailed,
                "no cipher in common",
            ),
        )
        for cause, kind, words in cases:
            for reason in (cause, Failure(cause)):
                translated = translate_failure(reason, peer="rabbit")
                self.assertIs(type(translated), kind, repr(cause))
                self.assertIn(words, str(translated))
                self.assertIn("rabbit: ", str(translated))
                self.assertIs(translated.__cause__, cause)
                self.assertIs(translated.reason, cause)

    def test_in_handshake(self) -> None:
        """
        A transport that ends before TLS is agreed on has failed at TLS.
        """
        for cause in (error.ConnectionDone(), error.ConnectionLost()):
            translated = translate_failure(cause, stage=Stage.TLS_HANDSHAKE)
            self.assertIs(type(translated), TLSFailed)

    def test_in_greeting(self) -> None:
        """
        With TLS 1.3 the peer can refuse our certificate after the handshake.
        """
        cause = SSL.Error([("SSL routines", "", "tlsv13 alert certificate required")])
        translated = translate_failure(cause, stage=Stage.GREETING)
        self.assertIs(type(translated), TLSFailed)
        self.assertIn("asks for a client certificate", str(translated))

    def test_connected(self) -> None:
        """
        What ends a connection that was good is a loss, and can be tried again.  No
        text calls it a failure to connect.
        """
        refused = TLSFailed("TLS failed")
        refused.__cause__ = OSError("bad record mac")
        cases: Iterable[tuple[Exception, str]] = (
            (error.ConnectionDone(), "the peer closed the connection"),
            (error.ConnectionLost(), "the connection was lost"),
            (error.ConnectionAborted(), "this side aborted the transport"),
            (error.TimeoutError(), "the connection was lost (TimeoutError"),
            (CancelledError(), "the connection was lost (CancelledError)"),
            (KeyError("x"), "the connection was lost (KeyError: 'x')"),
            (
                SSL.Error([("SSL routines", "", "bad record mac")]),
                "the connection was lost by a TLS error (bad record mac)",
            ),
            (refused, "the connection was lost by a TLS error (bad record mac)"),
        )
        for cause, words in cases:
            lost = translate_failure(Failure(cause), stage=Stage.AMQP)
            self.assertIs(type(lost), ConnectionLost)
            self.assertTrue(lost.retriable)
            self.assertTrue(str(lost).startswith(words), str(lost))
            self.assertEqual(lost.by_us, type(cause) is error.ConnectionAborted)

    def test_os_error(self) -> None:
        """
        The operating system's words are passed on.
        """
        cause = error.ConnectionRefusedError(111, "Connection refused")
        self.assertIn("(Connection refused)", str(translate_failure(cause)))

    def test_ours(self) -> None:
        """
        An error of ours is left as it is.
        """
        ours = HeartbeatTimeout("silent")
        self.assertIs(translate_failure(Failure(ours)), ours)


class _Spoiler(ProxyClient):
    """
    Passes on what the broker sends, and changes one bit of it when it is told to.
    """

    def dataReceived(self, data: bytes) -> None:
        peer: Any = self.peer
        if peer.factory.spoiling:
            data = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
        super().dataReceived(data)


class _SpoilerFactory(ProxyFactory):
    """
    A proxy for TCP.
    """

    spoiling = False

    class protocol(ProxyServer):  # noqa: N801 - Twisted's name for it
        class clientProtocolFactory(ProxyClientFactory):  # noqa: N801
            protocol = _Spoiler


class LossTests(TestCase):
    """
    The end of a TLS connection that was good.
    """

    async def connected(self) -> tuple[AMQPProtocol, _SpoilerFactory, BrokerFactory]:
        """
        Connect to a broker through a proxy.
        """
        from twisted.internet import reactor as the_reactor

        reactor: Any = the_reactor
        authority = Authority()
        directory = self.mktemp()
        os.makedirs(directory)
        options = server_options(authority.issue("localhost"))
        served = BrokerFactory(MemoryBroker(reactor), reactor)
        port = reactor.listenSSL(0, served, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        factory = _SpoilerFactory("127.0.0.1", port.getHost().port)
        factory.noisy = False
        proxy = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(proxy.stopListening)
        self.addCleanup(served.when_idle)
        tls = TLSParameters(cafile=authority.write(directory))
        parameters = ConnectionParameters(
            host="localhost", port=proxy.getHost().port, tls=tls
        )
        connection = await connect(reactor, parameters)
        self.addCleanup(connection.close)
        return connection, factory, served

    async def test_corrupted(self) -> None:
        """
        A TLS error on an open connection is the loss of it, which passes.
        """
        connection, proxy, _ = await self.connected()
        channel = await connection.open_channel()
        proxy.spoiling = True
        with self.assertRaises(ConnectionLost) as raised:
            await channel.queue_declare("q")
        self.assertIs(type(raised.exception), ConnectionLost)
        self.assertTrue(raised.exception.retriable)
        self.assertIn("by a TLS error", str(raised.exception))

    async def test_ended_by_peer(self) -> None:
        """
        The loss is the peer's doing when the peer has closed in order.
        """
        connection, _, served = await self.connected()
        [protocol] = served.protocols
        transport: Any = protocol.transport
        transport.unregisterProducer()  # or TLS waits for it
        transport.loseConnection()
        with self.assertRaises(ConnectionLost) as raised:
            await connection.when_closed()
        self.assertIn("the peer closed the connection", str(raised.exception))
        self.assertFalse(raised.exception.by_us)
