# -*- test-case-name: txamqp091.test.test_broker_queues -*-
"""
What the queues and streams of the in-memory broker have in common: `AnyQueue`.

The kinds themselves are in `txamqp091.testing.classic`, `txamqp091.testing.quorum` and
`txamqp091.testing.streams`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall

from txamqp091.testing.arguments import QueueSettings
from txamqp091.testing.consumers import Consumer, ConsumerRing
from txamqp091.testing.messages import (
    Comeback,
    Entry,
    Message,
)
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing.exchanges import Exchange
    from txamqp091.testing.sessions import Session
    from txamqp091.testing.vhosts import VirtualHost

__all__ = ["AnyQueue"]


class AnyQueue(ABC):
    """
    A queue or a stream.

    :ivar vhost: where it is.
    :ivar owner: the connection that it is exclusive to, or None.
    :ivar arguments: as they were declared.
    :ivar settings: what they mean.
    :ivar consumers: who consumes from it.
    :ivar sources: the exchanges that pass messages on to it.
    :ivar deleted: whether it is gone.
    """

    def __init__(
        self,
        name: str,
        vhost: VirtualHost,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        owner: Session | None = None,
        arguments: Mapping[str, FieldValue] | None = None,
        settings: QueueSettings | None = None,
    ) -> None:
        self.name = name
        self.vhost = vhost
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = dict(arguments or {})
        self.settings = settings or QueueSettings()
        self.consumers = ConsumerRing(
            self.settings.single_active, vhost.behaviour.active_by_priority
        )
        self.sources: dict[Exchange, None] = {}
        self.deleted = False
        self._idle_call: IDelayedCall | None = None
        self.used()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.ready_count} ready>"

    def timeout_of(
        self, consumer: Consumer | None, usual: float | None
    ) -> float | None:
        """
        How long a delivery may be unacknowledged, in seconds, or None: for ever.

        :param consumer: who gets it, or None: it is fetched.
        :param usual: what the broker is set to.
        """
        return None if self.vhost.behaviour.timeout_cancels else usual

    # -- what is in it -----------------------------------------------------------------

    @property
    @abstractmethod
    def ready_count(self) -> int:
        """
        How many messages could be delivered.
        """

    @abstractmethod
    def ready_entries(self) -> list[Entry]:
        """
        Those messages, in the order in which they would be.
        """

    @abstractmethod
    def unacked_entries(self) -> list[Entry]:
        """
        The messages that are out with a consumer.
        """

    def properties_of(self, entry: Entry, fetched: bool = False) -> Properties:
        """
        The properties of a message as it is delivered, or fetched.
        """
        return entry.message.properties

    # -- messages ----------------------------------------------------------------------

    @abstractmethod
    def publish(self, message: Message) -> bool:
        """
        Take a message.

        :returns: False if it does not.
        """

    @abstractmethod
    def fetch(self, no_ack: bool) -> Entry | None:
        """
        Give out one message, for ``basic.get``.

        :raises Refused: it does not do that.
        """

    @abstractmethod
    def purge(self) -> int:
        """
        Drop what is ready.

        :returns: how many messages that were.
        :raises Refused: it does not do that.
        """

    @abstractmethod
    def acknowledge(self, entry: Entry) -> None:
        """
        A delivery is dealt with.
        """

    @abstractmethod
    def check_reject(self) -> None:
        """
        See whether clients may refuse messages.

        :raises Refused: they may not.
        """

    @abstractmethod
    def reject(self, entry: Entry, why: Comeback) -> None:
        """
        A client does not want a message, and neither shall others get it.
        """

    @abstractmethod
    def requeue(self, entries: Iterable[Entry], why: Comeback) -> None:
        """
        Messages come back.
        """

    # -- consumers ---------------------------------------------------------------------

    @abstractmethod
    def check_consumer(self, consumer: Consumer) -> None:
        """
        See whether a consumer may begin.

        :raises Refused: it asks for what this queue cannot do.
        """

    def subscribe(self, consumer: Consumer) -> None:
        """
        Start to deliver to a consumer, which was checked.
        """
        self.consumers.add(consumer)
        self.used()
        self.deliver()

    def unsubscribe(self, consumer: Consumer) -> None:
        """
        A consumer has gone.  Call `abandoned` when all have that go together.
        """
        self.consumers.remove(consumer)

    def abandoned(self) -> None:
        """
        Others may have their turn; if nobody is left, an auto-delete queue goes.
        """
        self.used()
        if self.auto_delete and not self.consumers and not self.deleted:
            self.vhost.delete_queue(self)
        else:
            self.deliver()

    def resume(self, consumers: Iterable[Consumer]) -> None:
        """
        Consumers may have room again.
        """
        self.consumers.resume(consumers)
        self.deliver()

    @abstractmethod
    def deliver(self) -> None:
        """
        Give out what consumers can take.
        """

    # -- life --------------------------------------------------------------------------

    def used(self) -> None:
        """
        Somebody has done something with the queue: the time until it expires begins
        again.
        """
        if self._idle_call is not None:
            self._idle_call.cancel()
            self._idle_call = None
        expires = self.settings.expires
        if expires is not None and not self.consumers and not self.deleted:
            self._idle_call = self.vhost.clock.callLater(expires, self._unused)

    def _unused(self) -> None:
        self._idle_call = None
        self.vhost.delete_queue(self)

    def end(self) -> list[Consumer]:
        """
        The queue is deleted.

        :returns: the consumers that it had.
        """
        self.deleted = True
        consumers = list(self.consumers)
        for consumer in consumers:
            self.consumers.remove(consumer)
        self.used()
        return consumers
