# -*- test-case-name: txamqp091.test.unit.worker.test_handler_publisher -*-
"""
What a daemon publishes: messages that cannot stay in their queue (`Republisher`), and
those of handlers that ask for a publisher (`HandlerPublisher`).  Both count.
"""

from __future__ import annotations

__all__ = [
    "HandlerPublisher",
    "PublisherCounts",
    "Republisher",
    "ThreadPublisher",
    "wants_publisher",
]

import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread
from twisted.python.failure import Failure

from txamqp091.channel import Channel
from txamqp091.errors import ChannelClosed, Nacked, Returned
from txamqp091.message import Body, Message
from txamqp091.service import AMQPClientService, Publisher, RecoveringChannel
from txamqp091.service.telemetry import Around, WrappedPublisher
from txamqp091.wire.properties import Properties
from txamqp091.worker.counts import Histogram

T = TypeVar("T")

#: How long confirms take, by classes, in seconds.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


class PublisherCounts(Protocol):
    """
    What can be known of a publisher.

    :ivar latency: how long confirms take.
    """

    latency: Histogram

    @property
    def confirmed(self) -> int:
        """
        How many messages the broker has taken.
        """

    @property
    def nacked(self) -> int:
        """
        How often it could not keep one.
        """

    @property
    def returned(self) -> int:
        """
        How many came back, as there was no queue for them.
        """

    @property
    def republished(self) -> int:
        """
        How often one was sent again.
        """

    @property
    def failures(self) -> int:
        """
        How many have failed, those that came back included.
        """

    @property
    def unconfirmed(self) -> int:
        """
        How many wait for an answer.
        """


class Republisher:
    """
    Publishes what cannot stay in its queue, with confirms.  It does not wait for a
    connection: without one, the original comes again anyway.
    """

    def __init__(self, client: AMQPClientService) -> None:
        self.latency = Histogram(_BOUNDS)
        self.confirmed = self.nacked = self.returned = 0
        self.failures = self.unconfirmed = self.republished = 0
        self._client = client
        self._channel: RecoveringChannel | None = None

    def __call__(self, message: Message) -> Deferred[None]:
        """
        Publish.

        :returns: fires when the broker has confirmed it; fails with the reason when it
            does not.
        """
        if self._channel is None:
            self._channel = self._client.channel(confirm=True)
        if self._client.connection is None:
            self.failures += 1
            return fail(ChannelClosed("there is no connection"))
        self.unconfirmed += 1
        published = self._channel.call(
            Channel.basic_publish,
            message.exchange,
            message.routing_key,
            message.body,
            message.properties,
            message.mandatory,
        )
        return published.addBoth(self._answered, self._client.reactor.seconds())

    def _answered(self, answer: T, began: float) -> T:
        self.unconfirmed -= 1
        if not isinstance(answer, Failure):
            self.confirmed += 1
            self.latency.add(self._client.reactor.seconds() - began)
            return answer
        self.failures += 1
        self.nacked += isinstance(answer.value, Nacked)
        self.returned += isinstance(answer.value, Returned)
        return answer


class HandlerPublisher(WrappedPublisher):
    """
    The publisher of all handlers of a daemon.

    How long confirms take is measured with one message at a time, since every message
    would pay for that.
    """

    def __init__(
        self, service: AMQPClientService, *, around: Around | None = None
    ) -> None:
        """
        :param around: put around the publishing of each message.
        """
        super().__init__(service, around=around)
        self.latency = Histogram(_BOUNDS)
        self._measuring = False

    def _post(self, *details: Any) -> Deferred[None]:
        if self._measuring:
            return super()._post(*details)
        self._measuring = True
        began = self._reactor.seconds()
        return super()._post(*details).addBoth(self._answered, began)

    def _answered(self, answer: T, began: float) -> T:
        self._measuring = False
        if not isinstance(answer, Failure):
            self.latency.add(self._reactor.seconds() - began)
        return answer


class ThreadPublisher:
    """
    The same for handlers in threads.
    """

    def __init__(self, reactor: IReactorFromThreads, publisher: Publisher) -> None:
        self._reactor = reactor
        self._publisher = publisher

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        mandatory: bool = False,
        *,
        delay: float = 0.0,
    ) -> None:
        """
        Publish a message, and wait until the broker has taken it.

        :raises AMQPError: as the Deferred of `Publisher.publish` fails.
        """
        publish: Callable[..., Any] = self._publisher.publish
        blockingCallFromThread(
            self._reactor,
            publish,
            exchange,
            routing_key,
            body,
            properties,
            mandatory,
            delay=delay,
        )


def wants_publisher(handler: Callable[..., object]) -> bool:
    """
    Whether a handler has a parameter ``publisher`` besides the delivery.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):  # it is written in C, and does not tell
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        each.name == "publisher" and each.kind in kinds for each in parameters[1:]
    )
