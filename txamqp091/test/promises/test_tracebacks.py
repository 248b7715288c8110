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
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import AMQPError
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer

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
