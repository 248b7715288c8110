# -*- test-case-name: txamqp091.test.unit.client.test_publisher -*-
"""
Tests for `txamqp091._channel_publisher`: what leaves, when it may, and what
waits.  Whose a confirm is, is in ``test_publisher_confirms``; batches are in
``test_publish_many``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import (
    AlreadyCalledError,
    CancelledError,
    Deferred,
    gatherResults,
    succeed,
)

from txamqp091.errors import (
    ChannelClosed,
    ConnectionForced,
    ConnectionLost,
    EncodeError,
    NotFound,
    Returned,
)
from txamqp091.message import Message
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.properties import EMPTY, Properties

_ANY: Any = object()


class BodyTests(ChannelCase):
    """
    What may be published.
    """

    frame_max = 8192

    def test_kinds_of_body(self) -> None:
        """
        A body is bytes of any kind, or text, which is sent as UTF-8.
        """
        bodies: list[tuple[Any, bytes]] = [
            (b"bytes", b"bytes"),
            ("Grüße, 世界", "Grüße, 世界".encode()),
            (bytearray(b"array"), b"array"),
            (memoryview(b"view")[1:3], b"ie"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (b"", b""),
            ("", b""),
        ]
        for body, sent in bodies:
            done = self.channel.basic_publish("logs", "a.b", body)
            said = self.peer.hear()
            self.assertEqual(said.method, spec.BasicPublish(0, "logs", "a.b"))
            self.assertEqual(said.body, sent)
            self.assertEqual(said.properties, EMPTY)
            self.assertIsNone(self.successResultOf(done))

    def test_large_bodies(self) -> None:
        """
        A body that a frame does not hold is split, whatever its size.
        """
        room = 8192 - 8
        for size in [room - 1, room, room + 1, 2 * room, 5 * room + 17, 300_000]:
            body = bytes(range(256)) * (size // 256) + b"." * (size % 256)
            self.channel.basic_publish("", "work", body)
            self.assertEqual(self.peer.hear().body, body)
        longest = max(map(len, self.peer.transport.writes))
        self.assertLess(longest, 131072 + 2 * 8192)

    def test_a_body_that_changes_later(self) -> None:
        """
        What is published is what the body was at the time, also when it waits.
        """
        body = bytearray(b"before")
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        self.channel.basic_publish("", "work", body)
        body[:] = b"after!"
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.peer.hear().body, b"before")

    def test_wrong_arguments(self) -> None:
        """
        What cannot be published fails through the Deferred, and nothing is sent; it
        is no matter whether the message would have had to wait.
        """
        publish = self.channel.basic_publish
        wrong: list[tuple[Callable[[], Deferred[None]], type[Exception]]] = [
            (lambda: publish("", "q", None), TypeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", 5), TypeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", [b"a"]), TypeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", "\ud800"), EncodeError),
            (lambda: publish("e" * 256, "q", b""), EncodeError),
            (lambda: publish("", "k" * 256, b""), EncodeError),
            (lambda: publish(_ANY, "q", b""), EncodeError),
            (lambda: publish("", b"q", b""), EncodeError),  # type: ignore[arg-type]
            (lambda: publish([], "q", b""), EncodeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", b"", {"type": 1}), TypeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", b"", "\0\0"), TypeError),  # type: ignore[arg-type]
            (lambda: publish("", "q", b"", mandatory=_ANY), EncodeError),
            (
                lambda: publish("", "q", b"", Properties(headers={"a": _ANY})),
                EncodeError,
            ),
            (lambda: publish("", "q", b"", Properties(delivery_mode=7)), EncodeError),
            (lambda: publish("", "q", b"", Properties(type="t" * 256)), EncodeError),
            (
                lambda: publish("", "q", b"", Properties(headers={"a": "h" * 9000})),
                EncodeError,
            ),
        ]
        for number, (call, error) in enumerate(wrong):
            failed = self.reason(call(), error)
            self.assertEqual(self.heard(), [], f"{number}: {failed!r}")
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        waiting = [call() for call, _ in wrong]
        good = publish("", "q", b"good")
        self.peer.send(0, spec.ConnectionUnblocked())
        for deferred, (_, error) in zip(waiting, wrong, strict=True):
            self.reason(deferred, error)
        self.assertEqual(self.bodies(), [b"good"])
        self.successResultOf(good)

    def test_properties(self) -> None:
        """
        Properties are sent as they are.
        """
        properties = Properties(
            content_type="text/plain", headers={"a": [1, "b"]}, delivery_mode=2
        )
        self.channel.basic_publish("", "work", b"x", properties, True)
        said = self.peer.hear()
        self.assertEqual(said.properties, properties)
        self.assertEqual(said.method, spec.BasicPublish(0, "", "work", mandatory=True))


class LeftTests(ChannelCase):
    """
    The Deferred of a message that has left is one like any other.
    """

    def left(self) -> Deferred[None]:
        """
        Publish a message.
        """
        return self.channel.basic_publish("", "work", b"x")

    def test_chain(self) -> None:
        """
        What is added to it goes on with what was added before, and nothing is added to
        that of another message.
        """
        seen: list[object] = []
        waiting: Deferred[str] = Deferred()

        def fails(result: object) -> None:
            raise ValueError(result)

        first, second = self.left(), self.left()
        self.assertTrue(first.called)
        first.addCallback(lambda none: waiting)
        first.addCallback(fails)
        first.addErrback(lambda failure: seen.append(str(failure.value)))
        second.addBoth(seen.append)
        self.assertEqual(seen, [None])
        waiting.callback("late")
        self.assertEqual(seen, [None, "late"])

    def test_awaited(self) -> None:
        """
        It can be awaited, gathered, chained, paused, and cancelled.
        """

        async def coroutine() -> object:
            await self.left()
            return await gatherResults([self.left(), self.left()])

        result = self.successResultOf(Deferred.fromCoroutine(coroutine()))
        self.assertEqual(result, [None, None])
        paused, cancelled = self.left(), self.left()
        paused.pause()
        paused.addCallback(lambda none: 1)
        self.assertNoResult(paused)
        paused.unpause()
        self.assertEqual(self.successResultOf(paused), 1)
        cancelled.cancel()
        self.assertIsNone(self.successResultOf(cancelled))
        outer = succeed(None).addCallback(lambda none: self.left())
        self.assertIsNone(self.successResultOf(outer))
        with self.assertRaises(AlreadyCalledError):
            self.left().callback(None)
        self.assertFalse(hasattr(self.left(), "nothing"))


class ReturnTests(ChannelCase):
    """
    What comes back, without confirms.
    """

    def test_observers(self) -> None:
        """
        Each listener is given the message, also when another one raises, which is
        logged.
        """
        seen: list[Message] = []

        def broken(message: Message) -> None:
            raise ZeroDivisionError

        ended: list[Message] = []
        self.channel.observe_returns(broken)
        self.channel.observe_returns(seen.append)
        self.channel.observe_returns(ended.append)()
        properties = Properties(message_id="7")
        self.channel.basic_publish("logs", "nowhere", b"lost", properties, True)
        method = spec.BasicReturn(312, "NO_ROUTE", "logs", "nowhere")
        self.peer.feed(self.peer.content(1, method, b"lost", properties))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        [message] = seen
        self.assertEqual(ended, [])
        self.assertEqual((message.exchange, message.routing_key), ("logs", "nowhere"))
        self.assertEqual((message.body, message.properties), (b"lost", properties))
        self.assertTrue(message.mandatory)

    def test_poisoned(self) -> None:
        """
        Criterion 6: a message that comes back with properties that nobody can read
        does not cost the connection.
        """
        self.confirming()
        done = self.channel.basic_publish("", "nowhere", b"lost", mandatory=True)
        method = spec.BasicReturn(312, "NO_ROUTE", "", "nowhere")
        raw = Properties.from_wire(b"\x20\x00\xff\xff\xff\xff")
        self.peer.feed(self.peer.content(1, method, b"lost", raw))
        self.peer.send(1, spec.BasicAck(1))
        error = self.reason(done, Returned)
        self.assertEqual(error.reply_code, 312)
        assert isinstance(error.message, Message)
        self.assertEqual(error.message.body, b"lost")
        self.assertTrue(self.peer.client.is_open)


class WaitingTests(ChannelCase):
    """
    When a message may leave.
    """

    def test_blocked(self) -> None:
        """
        Criterion 13: while the broker blocks the connection, messages wait, in
        order, with or without confirms, and then leave in that order.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        other = self.peer.open_channel()
        publishes = [self.channel.basic_publish("", "q", b"%d" % n) for n in range(3)]
        publishes.append(other.basic_publish("", "q", b"other"))
        self.assertEqual(self.heard(), [])
        for each in publishes:
            self.assertNoResult(each)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.bodies(), [b"0", b"1", b"2", b"other"])
        for each in publishes:
            self.assertIsNone(self.successResultOf(each))

    def test_asking_while_blocked(self) -> None:
        """
        Only publishing is blocked.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        declared = self.channel.queue_declare("work")
        self.peer.serve()
        self.successResultOf(declared)

    def test_flow(self) -> None:
        """
        While the broker stops the channel, its messages wait; the broker is
        answered, and other channels go on.
        """
        other = self.peer.open_channel()
        self.peer.send(1, spec.ChannelFlow(False))
        self.assertEqual(self.heard(), [spec.ChannelFlowOk(False)])
        stopped = self.channel.basic_publish("", "q", b"stopped")
        self.successResultOf(other.basic_publish("", "q", b"goes"))
        self.assertEqual(self.bodies(), [b"goes"])
        self.assertNoResult(stopped)
        self.peer.send(1, spec.ChannelFlow(True))
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.bodies(), [b"stopped"])

    def test_full_transport(self) -> None:
        """
        Criterion 13: while the transport is full, messages wait, and what waits in
        the transport is bounded.
        """
        transport = self.peer.transport
        transport.capacity = 200_000
        publishes = [
            self.channel.basic_publish("", "q", bytes(10_000)) for _ in range(1000)
        ]
        self.peer.turn()
        self.assertLess(transport.held, 300_000)
        left = 0
        while any(not each.called for each in publishes):
            before = len(self.bodies())
            self.assertGreater(before, 0)
            left += before
            self.peer.drain()
            self.assertLess(transport.held, 300_000)
        self.assertEqual(left + len(self.bodies()), 1000)

    def test_cancelled_while_waiting(self) -> None:
        """
        A publish that is cancelled while it waits is never sent, and is kept no
        longer; those around it are.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        first, second, third = (
            self.channel.basic_publish("", "q", each) for each in "abc"
        )
        second.cancel()
        self.reason(second, CancelledError)
        self.assertEqual(len(self.channel.publisher._waiting), 2)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.bodies(), [b"a", b"c"])
        self.successResultOf(first)
        self.successResultOf(third)

    def test_order_is_kept(self) -> None:
        """
        A message that is published from the callback of one that waited comes after
        all those that wait.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        first = self.channel.basic_publish("", "q", b"first")
        second = self.channel.basic_publish("", "q", b"second")
        first.addCallback(lambda _: self.channel.basic_publish("", "q", b"third"))
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.bodies(), [b"first", b"second", b"third"])
        self.successResultOf(first)
        self.successResultOf(second)

    def test_confirms_from_a_callback(self) -> None:
        """
        The callback of one that waited may enter confirm mode: those that leave
        after it are confirmed.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        first = self.channel.basic_publish("", "q", b"first")
        second = self.channel.basic_publish("", "q", b"second")
        first.addCallback(lambda _: self.channel.confirm_select())
        self.peer.send(0, spec.ConnectionUnblocked())
        heard = [type(each) for each in self.peer.serve()]
        self.assertEqual(
            heard, [spec.BasicPublish, spec.ConfirmSelect, spec.BasicPublish]
        )
        self.assertNoResult(second)
        self.peer.send(1, spec.BasicAck(1))
        self.successResultOf(second)

    def test_channel_ends(self) -> None:
        """
        What waits when the channel ends fails with the reason, and is never sent.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        waiting = self.channel.basic_publish("", "q", b"x")
        self.peer.send(1, spec.ChannelClose(406, "no", 0, 0))
        self.assertEqual(self.reason(waiting, ChannelClosed).reply_code, 406)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.assertEqual(self.heard(), [spec.ChannelCloseOk()])

    def test_closed_by_us(self) -> None:
        """
        What waits when we close the channel fails, once the broker has agreed.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        waiting = self.channel.basic_publish("", "q", b"x")
        self.channel.close()
        self.reason(self.channel.basic_publish("", "q", b"late"), ChannelClosed)
        self.peer.send(0, spec.ConnectionUnblocked())
        self.peer.serve()
        self.assertTrue(self.reason(waiting, ChannelClosed).by_us)

    def test_connection_ends(self) -> None:
        """
        What waits when the connection ends fails with the reason.
        """
        self.peer.send(0, spec.ConnectionBlocked("memory"))
        waiting = self.channel.basic_publish("", "q", b"x")
        self.peer.send(0, spec.ConnectionClose(320, "shutdown", 0, 0))
        self.reason(waiting, ConnectionForced)
        late = self.channel.basic_publish("", "q", b"x")
        self.reason(late, ConnectionForced)

    def test_lost(self) -> None:
        """
        Without confirms, a message that has left is not known to have failed.
        """
        done = self.channel.basic_publish("", "q", b"x")
        self.peer.drop()
        self.successResultOf(done)
        self.reason(self.channel.basic_publish("", "q", b"x"), ConnectionLost)


class FlushTests(ChannelCase):
    """
    ``flush``, which waits for the broker.
    """

    def test_round_trip(self) -> None:
        """
        It fires when the broker has processed what was sent before.
        """
        self.channel.basic_publish("", "work", b"x")
        flushed = self.channel.flush()
        published, asked = self.heard()
        self.assertIsInstance(published, spec.BasicPublish)
        self.assertEqual(asked, spec.ChannelFlow(True))
        self.assertNoResult(flushed)
        self.peer.send(1, spec.ChannelFlowOk(True))
        self.assertIsNone(self.successResultOf(flushed))

    def test_after_what_waits(self) -> None:
        """
        Messages that still wait are sent before it.
        """
        self.confirming(1)
        self.channel.basic_publish("", "work", b"1")
        self.channel.basic_publish("", "work", b"2")
        flushed, given_up = self.channel.flush(), self.channel.flush()
        given_up.cancel()
        self.reason(given_up, CancelledError)
        self.assertEqual(len(self.heard()), 1)
        self.peer.send(1, spec.BasicAck(1, False))
        self.assertIsInstance(self.heard()[0], spec.BasicPublish)
        self.peer.send(1, spec.BasicAck(2, False))
        self.assertEqual(self.heard(), [spec.ChannelFlow(True)])
        self.peer.send(1, spec.ChannelFlowOk(True))
        self.assertIsNone(self.successResultOf(flushed))

    def test_channel_ends(self) -> None:
        """
        It fails when the channel ends first, and once it has ended.
        """
        self.confirming(1)
        self.channel.basic_publish("", "work", b"1").addErrback(lambda _: None)
        self.channel.basic_publish("", "work", b"2").addErrback(lambda _: None)
        waiting = self.channel.flush()
        self.peer.send(1, spec.ChannelClose(404, "no", 60, 40))
        for each in (waiting, self.channel.flush()):
            self.reason(each, NotFound)
        self.channel = self.peer.open_channel()
        sent = self.channel.flush()
        self.peer.send(2, spec.ChannelClose(404, "no", 60, 40))
        self.reason(sent, NotFound)
