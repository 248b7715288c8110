# -*- test-case-name: txamqp091.test.unit.client.test_handshake_faults -*-
"""
Tests for handshakes that do not end with an open connection: the broker says no, goes,
or breaks the rules.  Peers that fall silent are in `test_silence`.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method


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
        self.assertIs(type(error), errors.LimitReached)

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
