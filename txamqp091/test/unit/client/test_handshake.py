# -*- test-case-name: txamqp091.test.unit.client.test_handshake -*-
"""
Tests for the handshake of `txamqp091.protocol`: from the first byte to an open
connection.  How it can fail is in `test_handshake_faults`, and in `test_silence`.
"""

from __future__ import annotations

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from txamqp091 import errors
from txamqp091.credentials import ExternalCredentials, PlainCredentials
from txamqp091.parameters import (
    ConnectionParameters,
    TLSParameters,
    UnverifiedTLS,
)
from txamqp091.test.support.peer import Peer, Transport
from txamqp091.wire import spec


def parameters(**changes: object) -> ConnectionParameters:
    """
    Parameters that are not the default ones.
    """
    return ConnectionParameters(**changes)  # type: ignore[arg-type]


class IntroductionTests(SynchronousTestCase):
    """
    What the client says of itself, and learns of the broker.
    """

    def test_header(self) -> None:
        """
        The protocol header is the first thing that is sent, at once.
        """
        peer = Peer(self)
        self.assertEqual(peer.transport.writes, [b"AMQP\0\0\x09\x01"])

    def test_capabilities(self) -> None:
        """
        The client tells the broker all that it can do.
        """
        told = Peer(self).log_in().client_properties
        self.assertEqual(
            told["capabilities"],
            {
                "publisher_confirms": True,
                "exchange_exchange_bindings": True,
                "basic.nack": True,
                "consumer_cancel_notify": True,
                "connection.blocked": True,
                "authentication_failure_close": True,
            },
        )
        self.assertEqual(told["product"], "txamqp091")
        self.assertIn("version", told)
        self.assertIn("platform", told)
        self.assertNotIn("connection_name", told)

    def test_name(self) -> None:
        """
        The name of the connection is where RabbitMQ looks for it.
        """
        told = Peer(self, parameters(name="billing")).log_in().client_properties
        self.assertEqual(told["connection_name"], "billing")

    def test_client_properties(self) -> None:
        """
        The user's properties are added, and win; capabilities are merged.
        """
        mine = {
            "product": "billing",
            "shard": 3,
            "capabilities": {"basic.nack": False, "telepathy": True},
        }
        told = Peer(self, parameters(client_properties=mine)).log_in().client_properties
        self.assertEqual((told["product"], told["shard"]), ("billing", 3))
        capabilities = told["capabilities"]
        assert isinstance(capabilities, dict)
        self.assertIs(capabilities["telepathy"], True)
        self.assertIs(capabilities["basic.nack"], False)
        self.assertIs(capabilities["publisher_confirms"], True)

    def test_locale_and_virtual_host(self) -> None:
        """
        Both are asked for as they were given, and the empty virtual host is one.
        """
        for name in ("/", "", "stag\N{LATIN SMALL LETTER E WITH ACUTE}"):
            peer = Peer(self, parameters(virtual_host=name, locale="de_DE"))
            self.assertEqual(peer.log_in().locale, "de_DE")
            peer.tune()
            self.assertEqual(peer.virtual_host, name)

    def test_server_properties(self) -> None:
        """
        What the broker says of itself can be read.
        """
        peer = Peer(self)
        self.assertEqual(peer.client.server_properties, {})
        peer.handshake()
        self.assertEqual(peer.client.server_properties["product"], "Peer")
        capabilities = peer.client.server_properties["capabilities"]
        self.assertIs(capabilities["connection.blocked"], True)

    def test_when_open(self) -> None:
        """
        Who asked before and who asks after are told alike, each by a Deferred of
        their own.
        """
        peer = Peer(self)
        early = [peer.client.when_open(), peer.client.when_open()]
        peer.log_in()
        peer.tune()
        for each in early:
            self.assertNoResult(each)
        self.assertFalse(peer.client.is_open)
        peer.send(0, spec.ConnectionOpenOk())
        for each in (*early, peer.client.when_open()):
            self.assertIs(self.successResultOf(each), peer.client)

    def test_not_open_yet(self) -> None:
        """
        What needs an open connection fails before it is one, and sends nothing.
        """
        peer = Peer(self)
        peer.log_in()
        for each in (peer.client.open_channel(), peer.client.update_secret("new")):
            error = self.failureResultOf(each, errors.LocalProtocolError).value
            self.assertIn("wait for when_open()", str(error))
        self.assertEqual(peer.listen(), [])


class MechanismTests(SynchronousTestCase):
    """
    Which mechanism is used (criterion 27).
    """

    def test_first_that_both_have(self) -> None:
        """
        The user's order counts, not the broker's.
        """
        mine = parameters(
            credentials=[ExternalCredentials(), PlainCredentials("a", "b")]
        )
        said = Peer(self, mine).log_in(b"AMQPLAIN PLAIN")
        self.assertEqual((said.mechanism, said.response), ("PLAIN", b"\0a\0b"))
        said = Peer(self, mine).log_in(b"PLAIN EXTERNAL")
        self.assertEqual((said.mechanism, said.response), ("EXTERNAL", b""))

    def test_not_offered(self) -> None:
        """
        Where the broker has none of ours, nothing secret is written: nothing at
        all, and the connection ends with an error that names both sides'.
        """
        for offered in (b"AMQPLAIN EXTERNAL", b"", b"plain-ish"):
            peer = Peer(self)
            opening = peer.client.when_open()
            peer.start(offered)
            error = self.failureResultOf(opening, errors.MechanismNotOffered).value
            self.assertIn("PLAIN", str(error))
            peer.turn()
            self.assertEqual(peer.transport.writes, [spec.PROTOCOL_HEADER])
            self.assertFalse(peer.transport.connected)

    def test_unexpected_secure(self) -> None:
        """
        PLAIN knows no challenge: the broker is told so, with 503.
        """
        peer = Peer(self)
        opening = peer.client.when_open()
        peer.log_in()
        peer.send(0, spec.ConnectionSecure(b"and your PIN?"))
        error = self.failureResultOf(opening, errors.CommandInvalid).value
        self.assertIn("connection.secure", str(error))
        self.assertEqual(peer.expect(spec.ConnectionClose).reply_code, 503)
        self.assertFalse(peer.transport.connected)


class SecureTransport(Transport):
    """
    A transport that says that it is TLS.
    """

    def __init__(self, clock: Clock, address: str) -> None:
        super().__init__(clock, address)
        directlyProvides(self, ISSLTransport)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Twisted: what sockets can be told.
        """


class TLSTests(SynchronousTestCase):
    """
    Over TLS, the handshake begins when that of TLS is over.  Certificates are in
    `test_tls`.
    """

    def connect(self, **changes: object) -> Peer:
        """
        A connection by TLS, to a peer that need not show who it is.
        """
        changes.setdefault("tls", UnverifiedTLS())
        return Peer(
            self,
            parameters(**changes),
            address="192.0.2.1",
            transport=SecureTransport,
        )

    def test_nothing_before(self) -> None:
        """
        Nothing is said before, and all is as without TLS after; there is no warning
        about the password.
        """
        with capturedLogs() as events:
            peer = self.connect()
            self.assertEqual(peer.transport.writes, [])
            peer.client.handshakeCompleted()
            self.assertEqual(peer.transport.writes, [spec.PROTOCOL_HEADER])
            peer.handshake()
        self.assertEqual(events, [])

    def test_not_verified(self) -> None:
        """
        Without a certificate, nothing is said at all (criterion 25).
        """
        peer = self.connect(tls=TLSParameters())
        opening = peer.client.when_open()
        peer.client.handshakeCompleted()
        self.failureResultOf(opening, errors.TLSFailed)
        peer.turn()
        self.assertEqual(peer.transport.writes, [])
        self.assertEqual(peer.transport.ended, "aborted")

    def test_timeout(self) -> None:
        """
        The time limit is for TLS as well (criterion 9).
        """
        peer = self.connect()
        opening = peer.client.when_open()
        peer.clock.advance(10)
        error = self.failureResultOf(opening, errors.HandshakeTimeout).value
        self.assertIn("before TLS was agreed on", str(error))
        self.assertFalse(peer.transport.connected)

    def test_closed_meanwhile(self) -> None:
        """
        Nothing is said if the connection was closed meanwhile.
        """
        peer = self.connect()
        closing = peer.client.close()
        peer.client.handshakeCompleted()
        peer.turn()
        self.successResultOf(closing)
        self.assertEqual(peer.transport.writes, [])

    def test_lost(self) -> None:
        """
        Lost before TLS is agreed on, it is a failure of TLS; after that it is not,
        and the text reckons with a client certificate that the peer misses.
        """
        peer = self.connect()
        opening = peer.client.when_open()
        peer.drop()
        self.failureResultOf(opening, errors.TLSFailed)
        peer = self.connect()
        opening = peer.client.when_open()
        peer.client.handshakeCompleted()
        peer.drop()
        error = self.failureResultOf(opening, errors.ConnectionLost).value
        self.assertIn("client certificate", str(error))


class TuneTests(SynchronousTestCase):
    """
    What both sides can take.
    """

    def test_negotiation(self) -> None:
        """
        The lower number counts, and zero is no limit; but a heartbeat of zero from us
        switches heartbeats off.
        """
        rows: list[tuple[tuple[int, int, int], ...]] = [
            # ours, the broker's, what is agreed on: channels, frame, heartbeat
            ((2047, 131072, 60), (2047, 131072, 60), (2047, 131072, 60)),
            ((2047, 131072, 60), (0, 0, 0), (2047, 131072, 60)),
            ((0, 0, 0), (100, 65536, 30), (100, 65536, 0)),
            ((10, 8192, 5), (2047, 131072, 60), (10, 8192, 5)),
            ((2047, 131072, 60), (10, 4096, 5), (10, 4096, 5)),
            ((0, 0, 0), (0, 0, 0), (65535, 131072, 0)),
            ((2047, 131072, 60), (65535, 0xFFFFFFFF, 65535), (2047, 131072, 60)),
        ]
        for (channels, frame, heartbeat), theirs, agreed in rows:
            peer = Peer(
                self,
                parameters(channel_max=channels, frame_max=frame, heartbeat=heartbeat),
            )
            peer.log_in()
            tuned = peer.tune(*theirs)
            self.assertEqual(
                (tuned.channel_max, tuned.frame_max, tuned.heartbeat), agreed
            )
            client = peer.client
            self.assertEqual(
                (client.channel_max, client.frame_max, client.heartbeat), agreed
            )
            peer.send(0, spec.ConnectionOpenOk())
            peer.open_channel()

    def test_frame_max_too_small(self) -> None:
        """
        A limit below 4096 octets is refused, criterion 4.
        """
        for frame_max in (1, 4095):
            peer = Peer(self)
            peer.log_in()
            opening = peer.client.when_open()
            peer.send(0, spec.ConnectionTune(0, frame_max, 0))
            self.failureResultOf(opening, errors.DecodeError)
            self.assertEqual(peer.expect(spec.ConnectionClose).reply_code, 502)

    def test_limits_hold(self) -> None:
        """
        What was agreed on is kept to: frames are cut, and channels are counted.
        """
        peer = Peer(self)
        peer.handshake(channel_max=1, frame_max=4096)
        channel = peer.open_channel()
        self.failureResultOf(peer.client.open_channel(), errors.ChannelsExhausted)
        channel.basic_publish("", "work", bytes(10000))
        peer.turn()
        sizes = [len(each) for each in peer.transport.writes[-1].split(b"\xce\3")]
        self.assertEqual(sizes[1:], [4094, 4094, 10000 - 2 * 4088 + 7])
        self.assertEqual(peer.hear().body, bytes(10000))
