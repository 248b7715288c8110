# -*- test-case-name: txamqp091.test.unit.machine.test_connection -*-
"""
The seam between the machines and whoever drives them.

A machine is fed bytes and *calls*: these are the things that it calls.  Nothing
here has any behaviour.  The rules for all of them: the machine has changed its
own state before it calls, so a sink may call back into the machine at once; and
a sink does not raise.
"""

from __future__ import annotations

from typing import Any, Protocol

from txamqp091.errors import AMQPError, Returned
from txamqp091.wire.spec import BasicReturn, ConnectionStart

__all__ = ["ChannelSink", "ConnectionSink", "ConsumerSink", "ReplyHandle"]


class ReplyHandle(Protocol):
    """
    Whoever waits for one answer.  A ``Deferred`` of Twisted is one.
    """

    def callback(self, result: Any, /) -> None:
        """
        The answer came.
        """

    def errback(self, fail: Any, /) -> None:
        """
        It will not come, and this exception is why.
        """


class ConnectionSink(Protocol):
    """
    What a `ConnectionMachine` calls.
    """

    def started(self, start: ConnectionStart) -> None:
        """
        The broker has introduced itself: answer with ``start_ok``.
        """

    def challenged(self, challenge: bytes) -> None:
        """
        The SASL mechanism goes on: answer with ``secure_ok``.
        """

    def opened(self) -> None:
        """
        The connection is open.
        """

    def blocked_by(self, reason: str) -> None:
        """
        The broker asks for no more publishing: it is short of something.
        """

    def unblocked(self) -> None:
        """
        Publishing may go on.
        """

    def closed(self, reason: AMQPError | None) -> None:
        """
        The AMQP connection is over: the broker closed it, for this reason, or
        (if there is none) agreed to our close.  The transport can go; call
        `ConnectionMachine.lost` to tell those who still wait.
        """


class ChannelSink(Protocol):
    """
    What a `ChannelMachine` calls.
    """

    def confirmed(self) -> None:
        """
        The broker has answered for one or more messages, whose handles have
        been called.
        """

    def returned(self, method: BasicReturn, header: bytes, body: bytes) -> Returned:
        """
        A mandatory message came back: make the error for whoever published it.
        """

    def flow(self, active: bool) -> None:
        """
        The broker stops (or resumes) this channel's publishing.
        """

    def closed(self, reason: AMQPError) -> None:
        """
        The channel has ended.  All who waited for something have been told.
        """


class ConsumerSink(Protocol):
    """
    What takes the deliveries of one consumer tag.
    """

    def delivered(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        body: bytes,
    ) -> None:
        """
        A message came.

        :param method: the payload of the method frame.
        :param route: where in it the exchange and the routing key are.
        :param properties: the properties, encoded.
        """

    def oversized(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        size: int,
    ) -> None:
        """
        A message came whose body was over the limit, and was not kept.

        :param size: the size of that body, in octets.
        """

    def cancelled(self) -> None:
        """
        The broker ended the consumer.  Deliveries that it sent before it hears our
        answer still come.
        """

    def ended(self, reason: AMQPError) -> None:
        """
        The channel ended, and the consumer with it.
        """
