# -*- test-case-name: txamqp091.test.test_handshake -*-
"""
Tests for the handshake of `txamqp091.protocol`: from the first byte to an open
connection, or to the reason why there is none.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.credentials import ExternalCredentials, PlainCredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method


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


class RefusalTests(SynchronousTestCase):
    """
    How the broker says no.
    """

    def refuse(self, peer: Peer, close: spec.ConnectionClose) -> errors.AMQPError:
        """
        Have the broker say no; the error for that, which is everybody's.
        """
        opening, closed = peer.client.when_open(), peer.client.when_closed()
        peer.send(0, close)
        peer.expect(spec.ConnectionCloseOk)
        peer.turn()
        self.assertFalse(peer.transport.connected)
        error = self.failureResultOf(opening, errors.ConnectionClosed).value
        assert isinstance(error, errors.ConnectionClosed)
        self.assertIs(self.failureResultOf(closed).value, error)
        self.assertIs(self.failureResultOf(peer.client.when_open()).value, error)
        self.assertIs(self.failureResultOf(peer.client.open_channel()).value, error)
        self.assertEqual(
            (error.reply_code, error.reply_text, error.class_id, error.method_id),
            (close.reply_code, close.reply_text, close.class_id, close.method_id),
        )
        self.assertFalse(error.by_us)
        return error

    def test_authentication(self) -> None:
        """
        Wrong credentials are `AuthenticationFailed`, in the broker's words.
        """
        peer = Peer(self)
        peer.log_in()
        text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"
        error = self.refuse(peer, spec.ConnectionClose(403, text))
        self.assertIs(type(error), errors.AuthenticationFailed)
        self.assertEqual(str(error), f"403 {text}")
        self.assertFalse(error.retriable)

    def test_virtual_host(self) -> None:
        """
        A virtual host that is not there is `VhostAccessRefused`, and says for what.
        """
        peer = Peer(self)
        peer.log_in()
        peer.tune()
        error = self.refuse(
            peer, spec.ConnectionClose(530, "NOT_ALLOWED - no vhost", 10, 40)
        )
        self.assertIs(type(error), errors.VhostAccessRefused)
        self.assertIn("answering connection.open", str(error))

    def test_other(self) -> None:
        """
        Other reasons at that stage have their own types.
        """
        peer = Peer(self)
        peer.log_in()
        peer.tune()
        error = self.refuse(
            peer, spec.ConnectionClose(530, "NOT_ALLOWED - connection limit", 10, 30)
        )
        self.assertIs(type(error), errors.NotAllowed)

    def test_lost(self) -> None:
        """
        A transport that goes at any stage is `ConnectionLost`, and says at which.
        """
        stages = (
            ("does it speak AMQP, and without TLS?", 0),
            ("are the user name and password right?", 1),
            ("while opening the virtual host", 2),
        )
        for text, stage in stages:
            for why in (ConnectionDone(), ConnectionLost()):
                peer = Peer(self)
                opening = peer.client.when_open()
                if stage > 0:
                    peer.log_in()
                if stage > 1:
                    peer.tune()
                peer.drop(why)
                error = self.failureResultOf(opening, errors.ConnectionLost).value
                self.assertIn(text, str(error))
                self.assertIs(error.__cause__, why)
                self.assertTrue(error.retriable)


class MisbehaviourTests(SynchronousTestCase):
    """
    Peers that break the rules of the handshake, or never knew them.
    """

    def broken(self, peer: Peer) -> errors.RemoteProtocolError:
        """
        The error that the connection has ended with.
        """
        peer.turn()
        self.assertFalse(peer.transport.connected)
        error = self.failureResultOf(
            peer.client.when_open(), errors.RemoteProtocolError
        ).value
        assert isinstance(error, errors.RemoteProtocolError)
        return error

    def test_version(self) -> None:
        """
        A peer that answers with the version that it speaks is quoted.
        """
        peer = Peer(self)
        peer.feed(b"AMQP\0\1\0\0")
        error = self.broken(peer)
        self.assertIs(type(error), errors.ProtocolVersionMismatch)
        self.assertIn("1.0.0", str(error))
        peer = Peer(self)
        peer.start(version_major=8, version_minor=0)
        self.assertIs(type(self.broken(peer)), errors.ProtocolVersionMismatch)

    def test_garbage(self) -> None:
        """
        Other protocols are told by their first octets, and not spoken to.
        """
        for said, hint in (
            (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "amqps://"),
            (b"+OK ready\r\n", "is it an AMQP broker?"),
        ):
            peer = Peer(self)
            peer.feed(said)
            error = self.broken(peer)
            self.assertIs(type(error), errors.FrameError)
            self.assertIn(hint, str(error))
            self.assertEqual(peer.transport.writes, [spec.PROTOCOL_HEADER])

    def test_out_of_order(self) -> None:
        """
        A method that is not the next one is refused with 503, criterion 4.
        """
        start = spec.ConnectionStart()
        tune = spec.ConnectionTune()
        cases: list[tuple[int, list[Method]]] = [
            (0, [tune]),
            (0, [spec.ConnectionOpenOk()]),
            (0, [spec.ConnectionClose(320, "early")]),
            (1, [start]),
            (1, [spec.ConnectionOpenOk()]),
            (1, [spec.ConnectionBlocked("no memory")]),
            (1, [tune, tune]),
            (1, [tune, start]),
            (1, [tune, spec.ConnectionSecure()]),
            (1, [tune, spec.ConnectionOpenOk(), spec.ConnectionOpenOk()]),
            (1, [tune, spec.ConnectionOpenOk(), tune]),
            (1, [tune, spec.ConnectionOpenOk(), spec.ConnectionUpdateSecretOk()]),
        ]
        for stage, methods in cases:
            peer = Peer(self)
            closed = peer.client.when_closed()
            if stage:
                peer.log_in()
            peer.send(0, *methods)
            peer.turn()
            error = self.failureResultOf(closed, errors.CommandInvalid).value
            self.assertIn(methods[-1].name, str(error))
            heard = [said.method for said in peer.listen()]
            if stage:
                last = heard[-1]
                assert isinstance(last, spec.ConnectionClose)
                self.assertEqual((last.reply_code, last.class_id), (503, 10))
            else:
                self.assertEqual(heard, [])

    def test_channel_too_early(self) -> None:
        """
        There are no channels before the connection is open.
        """
        peer = Peer(self)
        peer.log_in()
        peer.send(1, spec.ChannelOpenOk())
        self.assertIs(type(self.broken(peer)), errors.ChannelError)

    def test_frame_too_large(self) -> None:
        """
        Before tune, no frame is larger than 4096 octets, criterion 3.
        """
        peer = Peer(self)
        peer.feed(b"\1\0\0" + (4089).to_bytes(4))
        error = self.broken(peer)
        self.assertIs(type(error), errors.FrameError)
        self.assertIn("4096", str(error))


class TuneTests(SynchronousTestCase):
    """
    What both sides can take.
    """

    def test_negotiation(self) -> None:
        """
        The lower number counts, and zero is no limit.
        """
        rows: list[tuple[tuple[int, int, int], ...]] = [
            # ours, the broker's, what is agreed on: channels, frame, heartbeat
            ((2047, 131072, 60), (2047, 131072, 60), (2047, 131072, 60)),
            ((2047, 131072, 60), (0, 0, 0), (2047, 131072, 60)),
            ((0, 0, 0), (100, 65536, 30), (100, 65536, 30)),
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
