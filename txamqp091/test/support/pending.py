# -*- test-case-name: txamqp091.test.unit.client.test_closing -*-
"""
All that one can wait for on a connection, at once: for tests of how it ends.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec

__all__ = ["Everything"]


class Everything:
    """
    A connection on which something of every kind is waited for.

    :ivar waiting: what is waited for, by what it is.
    :ivar fired: how often each of them has fired.
    """

    def __init__(self, peer: Peer) -> None:
        peer.handshake()
        client = peer.client
        self.channel = channel = peer.open_channel()
        channel.confirm_select()
        consuming = channel.basic_consume("work", lambda _: None, consumer_tag="c")
        iterating = channel.consume("more", consumer_tag="d")
        peer.serve()
        self.consumer = peer.case.successResultOf(consuming)
        self.deliveries = peer.case.successResultOf(iterating)
        confirmed = channel.basic_publish("", "work", b"left")
        peer.send(0, spec.ConnectionBlocked("low on memory"))
        self.waiting: dict[str, Deferred[Any]] = {
            "a call": channel.queue_declare("work"),
            "another call": channel.exchange_declare("logs", "topic"),
            "a get": channel.basic_get("work"),
            "a consumer to come": channel.basic_consume("else", lambda _: None),
            "a published message": confirmed,
            "a message that waits": channel.basic_publish("", "work", b"waits"),
            "a consumer": self.consumer.when_ended(),
            "a delivery": self.deliveries.get(),
            "a channel": channel.when_closed(),
            "a channel to come": client.open_channel(),
            "the connection": client.when_closed(),
            "publishing": client.when_unblocked(),
            "a secret": client.update_secret("new"),
        }
        self.fired = dict.fromkeys(self.waiting, 0)
        for name, deferred in self.waiting.items():
            deferred.addBoth(self._count, name)
            peer.case.assertNoResult(deferred)

    def _count(self, result: object, name: str) -> object:
        self.fired[name] += 1
        return result

    def reasons(self, case: SynchronousTestCase) -> dict[str, BaseException]:
        """
        Why each of them has failed, which it has exactly once.
        """
        case.assertEqual(set(self.fired.values()), {1}, self.fired)
        return {
            name: case.failureResultOf(deferred).value
            for name, deferred in self.waiting.items()
        }

    def later(self, client: AMQPProtocol) -> list[Deferred[Any]]:
        """
        What can be asked for after the end.
        """
        return [
            client.open_channel(),
            client.when_closed(),
            client.when_unblocked(),
            client.update_secret("new"),
            self.channel.queue_declare("work"),
            self.channel.basic_publish("", "work", b"late"),
            self.channel.basic_get("work"),
            self.channel.basic_consume("work", lambda _: None),
            self.channel.when_closed(),
            self.consumer.when_ended(),
            self.deliveries.get(),
        ]
