# -*- test-case-name: txamqp091.test.unit.client.test_defects_connection -*-
"""
Mistakes that AMQP clients for Twisted have made with connections, one test for each:
what is right instead.  Those with channels are in `test_defects_channel`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import repeat
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.factory import AMQPClientFactory
from txamqp091.message import Message
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer, Transport
from txamqp091.wire import spec


class ConnectionDefectTests(SynchronousTestCase):
    """
    By number.
    """

    def test_d04_reason_is_kept(self) -> None:
        """
        Why a connection was closed is not lost when its transport goes: shutdown,
        frame error, heartbeat and our own close are told apart, by everybody.
        """

        def fall_silent(peer: Peer) -> None:
            for _ in range(120):
                peer.clock.advance(1)

        ends: list[tuple[Callable[[Peer], object], type[Exception]]] = [
            (
                lambda peer: peer.send(0, spec.ConnectionClose(320, "shutdown")),
                errors.ConnectionForced,
            ),
            (
                lambda peer: peer.send(0, spec.ConnectionClose(501, "FRAME_ERROR")),
                errors.ConnectionClosed,
            ),
            (lambda peer: peer.feed(b"garbage!"), errors.FrameError),
            (fall_silent, errors.HeartbeatTimeout),
            (lambda peer: peer.drop(), errors.ConnectionLost),
        ]
        for end, kind in ends:
            peer = Peer(self)
            peer.handshake()
            channel = peer.open_channel()
            waiting: list[Deferred[Any]] = [
                peer.client.when_closed(),
                channel.when_closed(),
                channel.queue_declare("work"),
            ]
            end(peer)
            peer.drop()
            for each in waiting:
                self.assertIs(type(self.failureResultOf(each).value), kind)
        peer = Peer(self)
        peer.handshake()
        closed = peer.client.when_closed()
        peer.client.close()
        peer.drop()
        self.assertIsNone(self.successResultOf(closed))

    def test_d05_dead_peer_with_unsent_data(self) -> None:
        """
        A dead peer is noticed although data for it is still waiting: the transport
        is aborted, not asked to finish first.
        """
        peer = Peer(self, ConnectionParameters(heartbeat=2))
        peer.handshake(heartbeat=2)
        channel = peer.open_channel()
        peer.transport.capacity = 0
        peer.turn()
        message = Message("", "work", bytes(1000))
        publishing = channel.publish_many(repeat(message))
        closed = peer.client.when_closed()
        peer.clock.pump([0.5] * 9)
        self.assertFalse(peer.client.is_open)
        self.assertEqual(peer.transport.ended, "aborted")
        self.failureResultOf(closed, errors.HeartbeatTimeout)
        self.failureResultOf(publishing, errors.BatchFailed)

    def test_d06_refusal_has_words(self) -> None:
        """
        Who cannot connect learns why, in the broker's words, with its code.
        """
        text = "ACCESS_REFUSED - Login was refused using PLAIN"
        peer = Peer(self)
        opening = peer.client.when_open()
        peer.log_in()
        peer.send(0, spec.ConnectionClose(403, text))
        error = self.failureResultOf(opening, errors.AuthenticationFailed).value
        self.assertEqual(str(error), f"403 {text}")
        peer = Peer(self, ConnectionParameters(virtual_host="nowhere"))
        opening = peer.client.when_open()
        peer.log_in()
        peer.tune()
        text = "NOT_ALLOWED - vhost nowhere not found"
        peer.send(0, spec.ConnectionClose(530, text, 10, 40))
        error = self.failureResultOf(opening, errors.VhostAccessRefused).value
        self.assertIn(text, str(error))

    def test_d07_handshake_ends(self) -> None:
        """
        A peer that accepts and says nothing does not keep anybody waiting.
        """
        peer = Peer(self)
        opening = peer.client.when_open()
        peer.clock.advance(peer.client.parameters.handshake_timeout)
        self.failureResultOf(opening, errors.HandshakeTimeout)
        self.assertFalse(peer.transport.connected)

    def test_d11_no_reactor_by_import(self) -> None:
        """
        Importing everything leaves the choice of the reactor to the program, and the
        factory then uses the one that was chosen.
        """
        program = (
            "import sys, txamqp091, txamqp091.endpoint, txamqp091.factory\n"
            "assert 'twisted.internet.reactor' not in sys.modules\n"
            "from twisted.internet import asyncioreactor\n"
            "asyncioreactor.install()\n"
            "clock = txamqp091.AMQPClientFactory().clock\n"
            "assert isinstance(clock, asyncioreactor.AsyncioSelectorReactor), clock\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            # trial is in a folder of its own.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_d13_errors_through_deferreds(self) -> None:
        """
        What is asked at the wrong time, or cannot be sent, fails through the Deferred:
        nothing is raised.
        """
        peer = Peer(self)
        opening = peer.client.when_open()
        asked: list[Deferred[Any]] = [peer.client.open_channel()]
        asked.append(peer.client.update_secret("token"))
        peer.handshake(channel_max=1)
        self.successResultOf(opening)
        channel = peer.open_channel()
        asked.append(peer.client.open_channel())
        asked.append(peer.client.close(200, "x" * 256))
        asked.append(channel.basic_publish("", "work", 7))  # type: ignore[arg-type]
        asked.append(channel.queue_declare("q" * 256))
        peer.client.close()
        asked.append(peer.client.open_channel())
        asked.append(channel.basic_get("work"))
        asked.append(channel.basic_publish("", "work", b""))
        peer.drop()
        asked.append(peer.client.open_channel())
        for each in asked:
            self.failureResultOf(each)
        self.successResultOf(peer.client.close())

    def test_d14_each_has_their_own(self) -> None:
        """
        Two who wait for the same thing do not see each other's callbacks, at any time
        of the connection's life; and none of it turns into None.
        """
        peer = Peer(self)
        client = peer.client
        spoilt = client.when_open().addCallback(lambda _: "spoilt")
        opening = client.when_open()
        self.assertIsNot(client.when_open(), opening)
        peer.handshake()
        self.assertEqual(self.successResultOf(spoilt), "spoilt")
        self.assertIs(self.successResultOf(opening), client)
        self.assertIs(self.successResultOf(client.when_open()), client)
        swallowed = client.when_closed().addErrback(lambda _: "swallowed")
        closed = client.when_closed()
        peer.drop()
        self.assertEqual(self.successResultOf(swallowed), "swallowed")
        self.failureResultOf(closed, errors.ConnectionLost)
        self.failureResultOf(client.when_closed(), errors.ConnectionLost)
        self.successResultOf(client.close())

    def test_d16_transport_first(self) -> None:
        """
        The transport is in its place before the protocol speaks, so that any factory,
        endpoint or wrapper can be used; being connected and being open are two things,
        and each can be waited for.
        """
        peer = Peer(self)
        seen: list[object] = []

        class Watched(AMQPProtocol):
            def connectionMade(self) -> None:
                seen.append(self.transport)
                super().connectionMade()

        client = Watched(ConnectionParameters(), peer.clock)
        transport = Transport(peer.clock)
        transport.protocol = client
        self.assertIsNone(client.transport)
        client.makeConnection(transport)
        self.assertEqual(seen, [transport])
        self.assertTrue(client.connected)
        opening = client.when_open()
        self.assertNoResult(opening)
        closing = client.close()
        peer.turn()
        self.successResultOf(closing)
        self.failureResultOf(opening, errors.ConnectionClosed)
        built = AMQPClientFactory(clock=peer.clock).buildProtocol(None)
        self.assertIsInstance(built, Protocol)

    def test_d18_class_and_method(self) -> None:
        """
        Which method the broker refused is kept, as numbers and by its name.
        """
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        declaring = channel.queue_declare("work", durable=False, exclusive=True)
        peer.send(0, spec.ConnectionClose(540, "NOT_IMPLEMENTED", 50, 10))
        error = self.failureResultOf(declaring, errors.NotImplementedByBroker).value
        self.assertEqual((error.class_id, error.method_id), (50, 10))
        self.assertEqual(error.operation, "queue.declare")
        self.assertEqual(str(error), "540 NOT_IMPLEMENTED (answering queue.declare)")
