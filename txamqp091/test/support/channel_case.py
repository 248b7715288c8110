# -*- test-case-name: txamqp091.test.unit.client.test_channel -*-
"""
What the tests of channels have in common: a `Peer`, and a channel that is open.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    globalLogPublisher,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091.consumer import Consumer, Deliveries, Handler, OnFailure
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties

__all__ = ["ChannelCase"]

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")


class ChannelCase(SynchronousTestCase):
    """
    Tests of one channel, which has number 1.

    :cvar parameters: what the connection is made with.
    :cvar frame_max: what the peer agrees to.
    """

    parameters: ConnectionParameters | None = None
    frame_max = 131072

    def setUp(self) -> None:
        """
        Open a connection, and a channel on it.
        """
        self.peer = Peer(self, self.parameters)
        self.peer.handshake(frame_max=self.frame_max)
        self.channel = self.peer.open_channel()

    def heard(self) -> list[Method]:
        """
        Take all that the client has said and nothing has taken yet.
        """
        said, self.peer.said = self.peer.listen(), []
        return [each.method for each in said]

    def bodies(self) -> list[bytes]:
        """
        Take all that the client has said, and tell the bodies of the messages.
        """
        said, self.peer.said = self.peer.listen(), []
        return [
            each.body for each in said if isinstance(each.method, spec.BasicPublish)
        ]

    def reason(self, deferred: Deferred[Any], kind: type[E]) -> E:
        """
        Why a Deferred has failed.
        """
        error = self.failureResultOf(deferred, kind).value
        assert isinstance(error, kind)
        return error

    def start(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """
        Run a coroutine.
        """
        return Deferred.fromCoroutine(coroutine)

    def confirming(self, window: int = 1000) -> None:
        """
        Have the channel in confirm mode.
        """
        selected = self.channel.confirm_select(window)
        self.assertEqual(self.heard(), [spec.ConfirmSelect()])
        self.peer.send(1, spec.ConfirmSelectOk())
        self.successResultOf(selected)

    def consumer(
        self,
        handler: Handler,
        auto_ack: bool = False,
        consumer_tag: str = "tag",
        prefetch: int = 100,
        on_failure: OnFailure = "requeue",
    ) -> Consumer:
        """
        Start a consumer.
        """
        starting = self.channel.basic_consume(
            "work",
            handler,
            auto_ack,
            consumer_tag=consumer_tag,
            prefetch=prefetch,
            on_failure=on_failure,
        )
        self.peer.serve()
        return self.successResultOf(starting)

    def deliveries(self, auto_ack: bool = False, prefetch: int = 100) -> Deliveries:
        """
        Start an iterator, with the consumer tag "tag".
        """
        starting = self.channel.consume(
            "work", auto_ack=auto_ack, prefetch=prefetch, consumer_tag="tag"
        )
        self.peer.serve()
        return self.successResultOf(starting)

    def deliver(
        self,
        *delivery_tags: int,
        redelivered: bool = False,
        properties: Properties = EMPTY,
    ) -> None:
        """
        Deliver messages to the consumer "tag", with their numbers as bodies.
        """
        for each in delivery_tags:
            self.peer.deliver(
                1, "tag", each, b"%d" % each, properties, redelivered=redelivered
            )

    def give(self, delivery_tag: int, body: bytes = b"x", raw: bytes = b"\0\0") -> None:
        """
        Answer a ``basic.get``.

        :param raw: the properties: flags and values.
        """
        self.peer.feed(
            self.peer.content(
                1,
                spec.BasicGetOk(delivery_tag, False, "", "work", 0),
                body,
                Properties.from_wire(raw),
            )
        )

    def catch_log(self) -> list[str]:
        """
        The texts of the warnings and errors that are logged from now on.
        """
        texts: list[str] = []

        @implementer(ILogObserver)
        class Observer:
            def __call__(self, event: LogEvent) -> None:
                if event["log_level"] >= LogLevel.warn:
                    texts.append(eventAsText(event))

        observer = Observer()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        return texts
