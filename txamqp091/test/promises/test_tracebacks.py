# -*- test-case-name: txamqp091.test.promises.test_tracebacks -*-
"""
Tests that an error which is kept does not grow.

The reason of a connection's end is one object, which fails everything that waits and
everything that is asked for later.  Each raise adds frames to the traceback of an
exception, and frames keep their variables, such as the bodies of messages.  So the
object is handed out without its traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import AMQPError, BatchFailed
from txamqp091.message import Message
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec

#: The frames that one coroutine, and what it waits for, add to a traceback.
_FRAMES = 6

_CALLS = 1000


def frames(error: BaseException) -> int:
    """
    The length of an error's traceback.
    """
    count, traceback = 0, error.__traceback__
    while traceback is not None:
        count, traceback = count + 1, traceback.tb_next
    return count


class ConnectionTests(SynchronousTestCase):
    """
    The error of a connection that has ended.
    """

    #: What a connection can be asked for.
    asks: dict[str, Callable[[AMQPProtocol], Deferred[Any]]] = {
        "open_channel": lambda client: client.open_channel(),
        "update_secret": lambda client: client.update_secret("secret"),
        "when_open": lambda client: client.when_open(),
        "when_closed": lambda client: client.when_closed(),
        "when_unblocked": lambda client: client.when_unblocked(),
    }

    async def wait(self, ask: Callable[[AMQPProtocol], Deferred[Any]]) -> None:
        """
        Ask from a coroutine, as programs do, which fails.
        """
        await ask(self.client)

    def test_asking(self) -> None:
        """
        A thousand calls after the end leave one short traceback.
        """
        for name, ask in self.asks.items():
            peer = Peer(self)
            self.client = peer.client
            if name != "when_open":
                peer.handshake()
            peer.drop()
            for _ in range(_CALLS):
                failure = self.failureResultOf(ensureDeferred(self.wait(ask)))
            self.assertIs(failure.value, self.client.close_reason)
            failure = self.failureResultOf(ensureDeferred(self.wait(ask)))
            self.assertLessEqual(frames(failure.value), _FRAMES, name)

    def test_waiting(self) -> None:
        """
        A thousand coroutines that wait at the end leave short tracebacks, each.
        """
        for name, ask in self.asks.items():
            peer = Peer(self)
            self.client = peer.client
            if name != "when_open":
                peer.handshake(channel_max=2 * _CALLS)
                self.client.blocked_by("low on memory")
            waiting = [ensureDeferred(self.wait(ask)) for _ in range(_CALLS)]
            peer.drop()
            for each in waiting:
                failure = self.failureResultOf(each, AMQPError)
                self.assertLessEqual(len(failure.getTraceback().split("\n")), 60, name)
            self.assertLessEqual(frames(failure.value), _FRAMES, name)

    def test_raising(self) -> None:
        """
        So do a thousand raises of the reason itself.
        """
        peer = Peer(self)
        client = peer.handshake()
        peer.drop()
        for _ in range(_CALLS):
            try:
                assert client.close_reason is not None
                raise client.close_reason
            except AMQPError as error:
                length = frames(error)
        self.assertEqual(length, 1)


class ChannelTests(SynchronousTestCase):
    """
    The errors of a channel that has ended, of its consumers, and of what is published.
    """

    def setUp(self) -> None:
        """
        Open a channel, with a consumer and an iterator.
        """
        self.peer = Peer(self)
        self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.channel.confirm_select()
        consuming = self.channel.basic_consume("work", print)
        iterating = self.channel.consume("work")
        self.peer.serve()
        self.consumer = self.successResultOf(consuming)
        self.deliveries = self.successResultOf(iterating)

    def asks(self) -> dict[str, Callable[[], Deferred[Any]]]:
        """
        What a channel, and what is on it, can be asked for.
        """
        channel, consumer, deliveries = self.channel, self.consumer, self.deliveries
        message = Message("", "work", b"x")
        return {
            "when_closed": channel.when_closed,
            "queue_declare": lambda: channel.queue_declare("work"),
            "basic_get": lambda: channel.basic_get("work"),
            "basic_consume": lambda: channel.basic_consume("work", print),
            "consume": lambda: channel.consume("work"),
            "confirm_select": channel.confirm_select,
            "basic_publish": lambda: channel.basic_publish("", "work", b"x"),
            "publish_many": lambda: channel.publish_many([message]),
            "basic_ack": lambda: channel.basic_ack(1),
            "basic_nack": lambda: channel.basic_nack(0, multiple=True),
            "basic_recover": channel.basic_recover,
            "basic_recover_async": channel.basic_recover_async,
            "flush": channel.flush,
            "consumer.cancel": consumer.cancel,
            "consumer.when_ended": consumer.when_ended,
            "deliveries.get": deliveries.get,
            "deliveries.cancel": deliveries.cancel,
        }

    async def wait(self, ask: Callable[[], Deferred[Any]]) -> None:
        """
        Ask from a coroutine, as programs do, which fails.
        """
        await ask()

    def lengths(self, ends: Callable[[], object]) -> None:
        """
        See that no error is long, after a thousand coroutines that wait when the
        channel ends, and a thousand calls later.
        """
        for name in self.asks():
            self.setUp()
            ask = self.asks()[name]
            waiting = [ensureDeferred(self.wait(ask)) for _ in range(_CALLS)]
            ends()
            waiting += [ensureDeferred(self.wait(ask)) for _ in range(_CALLS)]
            errors = [
                self.failureResultOf(each).value
                for each in waiting
                if isinstance(each.result, Failure)
            ]
            self.assertGreaterEqual(len(errors), _CALLS, name)
            for error in errors:
                if isinstance(error, BatchFailed):
                    error = error.failures[0][1]
                self.assertLessEqual(frames(error), _FRAMES, name)

    def test_closed_by_the_broker(self) -> None:
        """
        When the broker closes the channel.
        """
        self.lengths(lambda: self.peer.send(1, spec.ChannelClose(404, "no", 50, 10)))

    def test_connection_lost(self) -> None:
        """
        When the connection is lost.
        """
        self.lengths(lambda: self.peer.drop())
