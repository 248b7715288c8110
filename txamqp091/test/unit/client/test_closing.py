# -*- test-case-name: txamqp091.test.unit.client.test_closing -*-
"""
Tests for the end of a connection: by us, by the broker, or by the transport; and for
what those learn who were waiting for something (criteria 10 and 11).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.factory import AMQPClientFactory
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer, Transport
from txamqp091.test.support.pending import Everything
from txamqp091.wire import spec

#: What this side does to a transport, in words.
_ENDED = {"loseConnection": "closed", "abortConnection": "aborted"}


class ByUsTests(SynchronousTestCase):
    """
    `AMQPProtocol.close`.
    """

    def test_close(self) -> None:
        """
        The broker is told, agrees, and the transport is closed after that.
        """
        peer = Peer(self)
        peer.handshake()
        closed, closing = peer.client.when_closed(), peer.client.close()
        self.assertFalse(peer.client.is_open)
        self.assertEqual(
            peer.expect(spec.ConnectionClose),
            spec.ConnectionClose(200, "the connection was closed by us"),
        )
        self.assertEqual(peer.transport.ended, "")
        peer.send(0, spec.ConnectionCloseOk())
        self.assertEqual(peer.transport.ended, "lost")
        self.assertIsNone(peer.transport.producer)  # or TLS would wait for it
        self.assertNoResult(closing)
        peer.turn()
        self.assertIsNone(self.successResultOf(closing))
        self.assertIsNone(self.successResultOf(closed))
        self.assertIsNone(self.successResultOf(peer.client.when_closed()))
        self.assertEqual(peer.clock.getDelayedCalls(), [])

    def test_async_with(self) -> None:
        """
        ``async with`` closes it, also when its body fails.
        """

        async def work(problem: Exception | None) -> None:
            async with peer.client as connection:
                self.assertIs(connection, peer.client)
                if problem is not None:
                    raise problem

        for problem in (None, ValueError("the program's own")):
            peer = Peer(self)
            peer.handshake()
            working = Deferred.fromCoroutine(work(problem))
            peer.expect(spec.ConnectionClose)
            self.assertNoResult(working)
            peer.send(0, spec.ConnectionCloseOk())
            peer.turn()
            if problem is None:
                self.successResultOf(working)
            else:
                self.assertIs(self.failureResultOf(working).value, problem)

    def test_code_and_text(self) -> None:
        """
        The caller can give a reason.
        """
        peer = Peer(self)
        peer.handshake()
        peer.client.close(320, "maintenance")
        said = peer.expect(spec.ConnectionClose)
        self.assertEqual((said.reply_code, said.reply_text), (320, "maintenance"))

    def test_impossible(self) -> None:
        """
        A reason that AMQP cannot carry is refused, and the connection stays open.
        """
        peer = Peer(self)
        peer.handshake()
        for code, text in ((200, "x" * 256), (70000, ""), (-1, "")):
            closing = peer.client.close(code, text)
            self.failureResultOf(closing, errors.EncodeError)
        self.assertTrue(peer.client.is_open)
        self.assertEqual(peer.listen(), [])

    def test_pending(self) -> None:
        """
        All that waits fails there and then, with the same reason.
        """
        peer = Peer(self)
        everything = Everything(peer)
        closed = everything.waiting.pop("the connection")
        peer.client.close(200, "enough")
        self.assertNoResult(closed)
        self.assertEqual(everything.fired.pop("the connection"), 0)
        (reason,) = set(everything.reasons(self).values())
        assert isinstance(reason, errors.ConnectionClosed)
        self.assertTrue(reason.by_us)
        self.assertEqual(str(reason), "200 enough")
        everything.fired["the connection"] = 0
        peer.drop()
        self.assertIsNone(self.successResultOf(closed))

    def test_again(self) -> None:
        """
        Closing again, at any time, is harmless: each caller is told, and the broker
        is told once.
        """
        peer = Peer(self)
        peer.handshake()
        closing = [peer.client.close(), peer.client.close(320, "again")]
        peer.expect(spec.ConnectionClose)
        closing.append(peer.client.close())
        closing[0].cancel()
        self.failureResultOf(closing.pop(0), CancelledError)
        for each in closing:
            self.assertNoResult(each)
        peer.send(0, spec.ConnectionCloseOk())
        closing.append(peer.client.close())
        peer.turn()
        closing.append(peer.client.close())
        for each in closing:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(peer.listen(), [])

    def test_after_loss(self) -> None:
        """
        Closing what is lost is harmless too, and does not change why it was.
        """
        peer = Peer(self)
        peer.handshake()
        peer.drop()
        self.assertIsNone(self.successResultOf(peer.client.close()))
        self.failureResultOf(peer.client.when_closed(), errors.ConnectionLost)

    def test_before_connected(self) -> None:
        """
        Closed before it has a transport, a connection says nothing when it gets one.
        """
        peer = Peer(self)
        client = AMQPClientFactory(clock=peer.clock).buildProtocol(None)
        opening, closing = client.when_open(), client.close()
        self.failureResultOf(opening, errors.ConnectionClosed)
        self.assertNoResult(closing)
        transport = Transport(peer.clock)
        transport.protocol = client
        client.makeConnection(transport)
        self.assertEqual((transport.writes, transport.ended), ([], "aborted"))
        peer.turn()
        self.assertIsNone(self.successResultOf(closing))
        self.assertEqual(len(peer.clock.getDelayedCalls()), 1)  # the other peer's

    def test_during_handshake(self) -> None:
        """
        Closed in the handshake, at whichever stage, a connection is dropped at once.
        """
        for stage in range(3):
            peer = Peer(self)
            opening = peer.client.when_open()
            if stage > 0:
                peer.log_in()
            if stage > 1:
                peer.tune()
            closing = peer.client.close()
            error = self.failureResultOf(opening, errors.ConnectionClosed).value
            self.assertTrue(error.by_us)
            self.assertEqual(peer.transport.ended, "aborted")
            peer.turn()
            self.assertIsNone(self.successResultOf(closing))
            self.assertIsNone(self.successResultOf(peer.client.when_closed()))
            self.assertEqual(peer.listen(), [])

    def test_no_answer(self) -> None:
        """
        A broker that does not answer is dropped after ``close_timeout``.
        """
        peer = Peer(self, ConnectionParameters(close_timeout=3, heartbeat=0))
        peer.handshake(heartbeat=0)
        closing = peer.client.close()
        peer.clock.advance(2.9)
        self.assertEqual(peer.transport.ended, "")
        peer.clock.advance(0.2)
        self.assertEqual(peer.transport.ended, "aborted")
        self.assertIsNone(self.successResultOf(closing))
        self.assertIsNone(self.successResultOf(peer.client.when_closed()))

    def test_transport_stays(self) -> None:
        """
        Nor does a transport that does not go keep the connection from ending: the
        time limit counts from the broker's answer.
        """
        peer = Peer(self, ConnectionParameters(close_timeout=3))
        peer.handshake()
        closing = peer.client.close()
        ended: list[str] = []
        transport: Any = peer.transport
        transport.loseConnection = lambda: ended.append("lost")
        peer.send(0, spec.ConnectionCloseOk())
        self.assertEqual(ended, ["lost"])
        peer.clock.advance(2.9)
        self.assertNoResult(closing)
        peer.clock.advance(0.2)
        self.successResultOf(closing)
        self.assertEqual(peer.transport.ended, "aborted")

    def test_crossing(self) -> None:
        """
        The broker's close may cross ours: it is answered, and ours counts.
        """
        peer = Peer(self)
        peer.handshake()
        closing = peer.client.close()
        peer.expect(spec.ConnectionClose)
        peer.send(0, spec.ConnectionClose(320, "CONNECTION_FORCED - shutdown"))
        peer.expect(spec.ConnectionCloseOk)
        peer.turn()
        self.assertIsNone(self.successResultOf(closing))
        self.assertIsNone(self.successResultOf(peer.client.when_closed()))

    def test_late_talk(self) -> None:
        """
        What the broker says after our close is passed over, to the last byte, until
        it has answered that (AMQP 0-9-1 §2.2.4).
        """
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        declaring = channel.queue_declare("work")
        closing = peer.client.close()
        self.failureResultOf(declaring, errors.ConnectionClosed)
        peer.deliver(1, "nobody", 1, b"late")
        peer.send(1, spec.QueueDeclareOk("work"))
        peer.send(0, spec.ConnectionBlocked("late"))
        peer.send(7, spec.ChannelClose(404, "NOT_FOUND"))
        peer.send(0, spec.ConnectionCloseOk())
        peer.feed(b"garbage")
        peer.turn()
        self.assertIsNone(self.successResultOf(closing))


class ByTheBrokerTests(SynchronousTestCase):
    """
    ``connection.close`` from the broker.
    """

    def test_reasons(self) -> None:
        """
        Each reason has its type, with code, text, class and method, and it is the
        one that everybody learns, then and later (criterion 11).
        """
        rows: list[tuple[int, str, tuple[int, int], type[errors.AMQPError], str]] = [
            (320, "CONNECTION_FORCED - shutdown", (0, 0), errors.ConnectionForced, ""),
            (501, "FRAME_ERROR - type 7", (0, 0), errors.ConnectionClosed, ""),
            (506, "RESOURCE_ERROR", (0, 0), errors.ResourceError, ""),
            (530, "NOT_ALLOWED", (50, 10), errors.NotAllowed, "queue.declare"),
            (540, "NOT_IMPLEMENTED", (60, 10), errors.NotImplementedByBroker,
             "basic.qos"),
            (541, "INTERNAL_ERROR", (60, 40), errors.InternalError, "basic.publish"),
            (504, "CHANNEL_ERROR", (20, 10), errors.ConnectionClosed, "channel.open"),
            (999, "", (77, 88), errors.ConnectionClosed, ""),
        ]  # fmt: skip
        for code, text, (class_id, method_id), kind, operation in rows:
            peer = Peer(self)
            everything = Everything(peer)
            peer.listen()
            peer.said.clear()
            peer.send(0, spec.ConnectionClose(code, text, class_id, method_id))
            self.assertEqual(peer.transport.ended, "lost")
            peer.expect(spec.ConnectionCloseOk)
            peer.turn()
            (reason,) = set(everything.reasons(self).values())
            self.assertIs(type(reason), kind)
            assert isinstance(reason, errors.ConnectionClosed)
            self.assertEqual(
                (reason.reply_code, reason.reply_text, reason.class_id,
                 reason.method_id, reason.operation, reason.by_us),
                (code, text, class_id, method_id, operation, False),
            )  # fmt: skip
            for each in everything.later(peer.client):
                self.assertIs(self.failureResultOf(each).value, reason)
            self.assertEqual(peer.listen(), [])
            self.assertIsNone(self.successResultOf(peer.client.close()))
            self.assertIsNone(self.successResultOf(everything.channel.close()))

    def test_protocol_error(self) -> None:
        """
        A peer that breaks the rules is told, and everybody learns it.
        """
        peer = Peer(self)
        everything = Everything(peer)
        peer.listen()
        peer.said.clear()
        peer.feed(b"\1\0\1\0\0\0\4\0\x63\0\1\xce")  # class 99
        said = peer.expect(spec.ConnectionClose)
        self.assertEqual((said.reply_code, said.class_id, said.method_id), (540, 99, 1))
        (reason,) = set(everything.reasons(self).values())
        self.assertIs(type(reason), errors.MethodNotImplemented)

    def test_peer_stays(self) -> None:
        """
        A transport that is still there after ``close_timeout`` is dropped.
        """
        peer = Peer(self)
        peer.handshake()
        transport: Any = peer.transport
        transport.loseConnection = lambda: None
        peer.send(0, spec.ConnectionClose(320, "bye"))
        closed = peer.client.when_closed()
        peer.clock.advance(4.9)
        self.assertNoResult(closed)
        peer.clock.advance(0.2)
        self.failureResultOf(closed, errors.ConnectionForced)
        self.assertEqual(peer.transport.ended, "aborted")


class ByTheTransportTests(SynchronousTestCase):
    """
    Not a word from the broker (criterion 10).
    """

    def test_ways(self) -> None:
        """
        A reset, an end of file, and an end in the middle of a frame are
        `ConnectionLost`, with Twisted's error as the cause; everybody learns it.
        """
        for why in (ConnectionLost("Connection reset by peer"), ConnectionDone()):
            for half in (b"", b"\1\0\0", b"\1\0\1\0\0\x0f\0half of it"):
                peer = Peer(self)
                everything = Everything(peer)
                peer.feed(half)
                peer.transport.drop(why)
                (reason,) = set(everything.reasons(self).values())
                self.assertIs(type(reason), errors.ConnectionLost)
                self.assertIs(reason.__cause__, why)
                self.assertEqual(peer.clock.getDelayedCalls(), [])
                for each in everything.later(peer.client):
                    self.assertIs(self.failureResultOf(each).value, reason)

    def test_by_us(self) -> None:
        """
        A program that ends the transport itself is not told that the peer did so.
        """
        for how in ("loseConnection", "abortConnection"):
            peer = Peer(self)
            closed = peer.handshake().when_closed()
            getattr(peer.transport, how)()
            peer.turn()
            lost = self.failureResultOf(closed, errors.ConnectionLost).value
            self.assertIn(f"this side {_ENDED[how]} the transport ({how})", str(lost))
            self.assertTrue(lost.by_us)

    def test_waits_for_the_producer(self) -> None:
        """
        TLS ends the transport when its producer has gone, and the client is that: the
        next heartbeat finds out, and every call ends.
        """
        peer = Peer(self)
        everything = Everything(peer)
        transport: Any = peer.transport
        transport.disconnecting = True  # as TLS says after loseConnection
        self.assertIsNotNone(transport.producer)
        pause = peer.client.heartbeat / 2
        while transport.producer is not None:
            peer.clock.advance(pause)
        peer.clock.advance(peer.client.parameters.close_timeout)
        self.assertEqual(transport.ended, "aborted")
        peer.turn()
        for reason in everything.reasons(self).values():
            self.assertIs(type(reason), errors.ConnectionLost)
            self.assertIn("this side closed the transport", str(reason))

    def test_first_counts(self) -> None:
        """
        The first cause wins: how the transport ends after it is of no interest.
        """
        peer = Peer(self)
        everything = Everything(peer)
        peer.send(0, spec.ConnectionClose(320, "CONNECTION_FORCED - shutdown"))
        peer.transport.drop(ConnectionLost("Connection reset by peer"))
        for reason in everything.reasons(self).values():
            self.assertIs(type(reason), errors.ConnectionForced)

    def test_ours_counts(self) -> None:
        """
        Nor does it matter after our close.
        """
        peer = Peer(self)
        peer.handshake()
        closing, closed = peer.client.close(), peer.client.when_closed()
        peer.drop(ConnectionLost("Connection reset by peer"))
        self.assertIsNone(self.successResultOf(closing))
        self.assertIsNone(self.successResultOf(closed))

    def test_callbacks_ask_again(self) -> None:
        """
        Who is told of the end, and asks for more at once, is told again.
        """
        peer = Peer(self)
        everything = Everything(peer)
        again: list[Deferred[Any]] = []

        def ask(_: object) -> None:
            again.extend(everything.later(peer.client))
            again.append(peer.client.close())

        for deferred in everything.waiting.values():
            deferred.addErrback(ask)
        peer.drop()
        self.assertEqual(set(everything.fired.values()), {1})
        self.assertEqual(len(again), 13 * 12)
        for number, each in enumerate(again):
            if number % 12 == 11:
                self.successResultOf(each)
            else:
                self.failureResultOf(each, errors.ConnectionLost)
