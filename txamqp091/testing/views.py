# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
What a test sees of the in-memory broker.

Views are read-only, and show what is there when they are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from txamqp091.testing._broker.exchanges import Exchange
from txamqp091.testing._broker.messages import Message, QueuedMessage
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.wire.properties import Properties

__all__ = ["ExchangeView", "MessageView", "QueueView"]


@dataclass(frozen=True)
class MessageView:
    """
    A message.

    :ivar exchange: where it was published to.
    :ivar routing_key: with which key.
    :ivar redelivered: whether its consumer will be told that it may have been seen.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    redelivered: bool = False

    @classmethod
    def of(cls, message: Message) -> MessageView:
        """
        A message as it was published.
        """
        return cls(
            message.exchange, message.routing_key, message.body, message.properties
        )


class QueueView:
    """
    A queue, or a stream.
    """

    def __init__(self, queue: AnyQueue) -> None:
        self._queue = queue

    def __repr__(self) -> str:
        return (
            f"<QueueView {self.name!r}: {self.ready} ready, {self.unacked} unacked, "
            f"{self.consumers} consumers>"
        )

    @property
    def name(self) -> str:
        return self._queue.name

    @property
    def ready(self) -> int:
        """
        How many messages wait.
        """
        return self._queue.ready_count

    @property
    def unacked(self) -> int:
        """
        How many messages are out with a consumer; of a stream, none ever.
        """
        return len(self._queue.unacked_entries())

    @property
    def consumers(self) -> int:
        """
        How many consumers it has.
        """
        return len(self._queue.consumers)

    @property
    def consumer_tags(self) -> list[str]:
        """
        Their tags, in the order in which they came.
        """
        return [consumer.tag for consumer in self._queue.consumers]

    @property
    def messages(self) -> list[MessageView]:
        """
        The messages that wait, in the order in which they would be delivered.
        """
        return [self._show(each) for each in self._queue.ready_entries()]

    @property
    def unacked_messages(self) -> list[MessageView]:
        """
        The messages that are out, in the order in which they went.
        """
        return [self._show(each) for each in self._queue.unacked_entries()]

    @property
    def bodies(self) -> list[bytes]:
        """
        The bodies of the messages that wait.
        """
        return [each.message.body for each in self._queue.ready_entries()]

    @property
    def durable(self) -> bool:
        return self._queue.durable

    @property
    def exclusive(self) -> bool:
        return self._queue.owner is not None

    @property
    def auto_delete(self) -> bool:
        return self._queue.auto_delete

    @property
    def arguments(self) -> dict[str, object]:
        """
        What it was declared with.
        """
        return dict(self._queue.arguments)

    @property
    def bindings(self) -> list[tuple[str, str]]:
        """
        The exchanges that it is bound to, each with the routing key.
        """
        return [
            (source.name, binding.routing_key)
            for source in self._queue.sources
            for binding in source.bindings
            if binding.destination is self._queue
        ]

    def _show(self, entry: QueuedMessage) -> MessageView:
        message = entry.message
        return MessageView(
            message.exchange,
            message.routing_key,
            message.body,
            self._queue.properties_of(entry),
            entry.redelivered,
        )


class ExchangeView:
    """
    An exchange.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"<ExchangeView {self.name!r}, {self.type}>"

    @property
    def name(self) -> str:
        return self._exchange.name

    @property
    def type(self) -> str:
        return self._exchange.type

    @property
    def durable(self) -> bool:
        return self._exchange.durable

    @property
    def auto_delete(self) -> bool:
        return self._exchange.auto_delete

    @property
    def internal(self) -> bool:
        return self._exchange.internal

    @property
    def arguments(self) -> dict[str, object]:
        """
        What it was declared with.
        """
        return dict(self._exchange.arguments)

    @property
    def bindings(self) -> list[tuple[str, str]]:
        """
        The names of the queues and exchanges that are bound to it, each with the
        routing key.
        """
        return [
            (binding.destination.name, binding.routing_key)
            for binding in self._exchange.bindings
        ]
