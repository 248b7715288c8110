# -*- test-case-name: txamqp091.test.test_protocol -*-
"""
Tests for `txamqp091.protocol`.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import ChannelClosed, ConnectionLost, NotFound
from txamqp091.test.peer import Peer
from txamqp091.wire import spec


class SmokeTests(SynchronousTestCase):
    def test_declare(self) -> None:
        peer = Peer(self)
        opening = peer.client.when_open()
        peer.handshake()
        self.assertIs(self.successResultOf(opening), peer.client)
        channel = peer.open_channel()
        declared = channel.queue_declare("work")
        self.assertEqual(peer.expect(spec.QueueDeclare).queue, "work")
        peer.send(1, spec.QueueDeclareOk("work", 3, 0))
        self.assertEqual(self.successResultOf(declared).message_count, 3)
        missing = channel.queue_declare("missing", passive=True)
        peer.send(1, spec.ChannelClose(404, "NOT_FOUND - no", 50, 10))
        error = self.failureResultOf(missing, NotFound).value
        self.assertEqual(error.operation, "queue.declare")
        closing = channel.when_closed()
        self.failureResultOf(closing, ChannelClosed)
        again = peer.open_channel()
        pending = again.queue_declare("more")
        peer.drop()
        self.failureResultOf(pending, ConnectionLost)
        self.failureResultOf(peer.client.when_closed(), ConnectionLost)

    def test_close(self) -> None:
        peer = Peer(self)
        peer.handshake()
        closing = peer.client.close()
        self.assertEqual(
            peer.serve(), [spec.ConnectionClose(200, "the connection was closed by us")]
        )
        peer.turn()
        self.assertIsNone(self.successResultOf(closing))
        self.assertIsNone(self.successResultOf(peer.client.when_closed()))
