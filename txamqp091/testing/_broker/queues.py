# -*- test-case-name: txamqp091.test.unit.testing.test_queues -*-
"""
The queues of the in-memory broker: classic queues and quorum queues.

`AnyQueue` is what queues and streams have in common; streams are in
`txamqp091.testing._broker.streams`.

Theory.  A `QueuedMessage` is *ready*, in a heap in the order of delivery, or *unacked*:
a consumer has it.  A message that comes back keeps its place.  Only the first ready
message can expire, as in RabbitMQ: others wait behind it.  A queue changes its own
state before it calls a channel, which may call back at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall

from txamqp091.testing._broker.arguments import QueueSettings
from txamqp091.testing._broker.consumers import Consumer, ConsumerRing
from txamqp091.testing._broker.messages import (
    Message,
    QueuedMessage,
    RequeueReason,
    headers_of,
    read_property,
    with_properties,
)
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue, Int64

if TYPE_CHECKING:
    from txamqp091.testing._broker.exchanges import Exchange
    from txamqp091.testing._broker.sessions import Session
    from txamqp091.testing._broker.vhosts import VirtualHost

__all__ = ["AnyQueue", "ClassicQueue", "QuorumQueue"]

# Times that differ by less are the same: they are sums of floats.
_MOMENT = 1e-6

# What RabbitMQ gives a message without a priority in a quorum queue.
_QUORUM_PRIORITY = 4
_QUORUM_PRIORITY_MAX = 31
_RETURNED = 32


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
    def ready_entries(self) -> list[QueuedMessage]:
        """
        Those messages, in the order in which they would be.
        """

    @abstractmethod
    def unacked_entries(self) -> list[QueuedMessage]:
        """
        The messages that are out with a consumer.
        """

    def properties_of(self, entry: QueuedMessage, fetched: bool = False) -> Properties:
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
    def fetch(self, no_ack: bool) -> QueuedMessage | None:
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
    def acknowledge(self, entry: QueuedMessage) -> None:
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
    def reject(self, entry: QueuedMessage, why: RequeueReason) -> None:
        """
        A client does not want a message, and neither shall others get it.
        """

    @abstractmethod
    def requeue(self, entries: Iterable[QueuedMessage], why: RequeueReason) -> None:
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


class ClassicQueue(AnyQueue):
    """
    A classic queue.
    """

    def __init__(self, name: str, vhost: VirtualHost, **details: Any) -> None:
        self._ready: list[QueuedMessage] = []
        self._ready_bytes = 0
        self._unacked: dict[QueuedMessage, None] = {}
        self._positions = 0
        self._delivering = False
        self._expiry_call: IDelayedCall | None = None
        self._expiry_at = 0.0
        self._new: QueuedMessage | None = None  # that comes just now
        super().__init__(name, vhost, **details)

    @property
    def ready_count(self) -> int:
        return len(self._ready)

    def ready_entries(self) -> list[QueuedMessage]:
        return sorted(self._ready)

    def unacked_entries(self) -> list[QueuedMessage]:
        return list(self._unacked)

    # -- the heap ----------------------------------------------------------------------

    def _push(self, entry: QueuedMessage) -> None:
        heappush(self._ready, entry)
        self._ready_bytes += len(entry.message.body)

    def _pop(self) -> QueuedMessage:
        entry = heappop(self._ready)
        self._ready_bytes -= len(entry.message.body)
        return entry

    def _priority(self, message: Message) -> int:
        limit = self.settings.max_priority
        if limit is None:
            return 0
        return min(read_property(message.properties, "priority") or 0, limit)

    # -- messages ----------------------------------------------------------------------

    def publish(self, message: Message) -> bool:
        if self.settings.overflow != "drop-head" and self._is_full(message):
            if self.settings.overflow == "reject-publish-dlx":
                self.vhost.dead_letter(self, self._entry(message), "maxlen")
            return False
        # One that may not wait at all is delivered, if it can be at once.
        self._new = self._entry(message)
        self._push(self._new)
        self.deliver()
        self._new = None
        return True

    def _limit(self) -> None:
        """
        Drop the first messages, if there are too many.
        """
        if self.settings.overflow == "drop-head":
            while self._is_over():
                self.vhost.dead_letter(self, self._pop(), "maxlen")

    def _entry(self, message: Message) -> QueuedMessage:
        self._positions += 1
        lives = [each for each in (message.ttl, self.settings.ttl) if each is not None]
        expires = self.vhost.clock.seconds() + min(lives) if lives else None
        return QueuedMessage(message, self._positions, self._priority(message), expires)

    def _is_full(self, message: Message) -> bool:
        """
        Whether one more message is too much.
        """
        length, size = self.settings.max_length, self.settings.max_bytes
        if length is not None and len(self._ready) >= length:
            return True
        return size is not None and self._ready_bytes + len(message.body) > size

    def _is_over(self) -> bool:
        """
        Whether there is too much.
        """
        length, size = self.settings.max_length, self.settings.max_bytes
        if length is not None and len(self._ready) > length:
            return True
        return size is not None and self._ready_bytes > size

    def fetch(self, no_ack: bool) -> QueuedMessage | None:
        self.used()
        self._expire()
        if not self._ready:
            return None
        entry = self._pop()
        if not no_ack:
            self._unacked[entry] = None
        self._expire()
        self._watch()
        return entry

    def purge(self) -> int:
        count = len(self._ready)
        self._ready.clear()
        self._ready_bytes = 0
        self._watch()
        return count

    def acknowledge(self, entry: QueuedMessage) -> None:
        self._unacked.pop(entry, None)

    def check_reject(self) -> None:
        """
        They may.
        """

    def check_consumer(self, consumer: Consumer) -> None:
        """
        Any may.
        """

    def reject(self, entry: QueuedMessage, why: RequeueReason) -> None:
        self._unacked.pop(entry, None)
        if not self.deleted:
            if why is RequeueReason.REJECT:
                entry.delivery_count += 1
            self.vhost.dead_letter(self, entry, "rejected")

    def requeue(self, entries: Iterable[QueuedMessage], why: RequeueReason) -> None:
        for entry in entries:
            self._unacked.pop(entry, None)
            entry.acquired_count += 1
            if why is not RequeueReason.NACK or self.vhost.behaviour.counts_returns:
                entry.delivery_count += 1
            entry.redelivered = True
            if not self.deleted and self._keeps(entry, why):
                self._take_back(entry, why)
        self.deliver()

    def _take_back(self, entry: QueuedMessage, why: RequeueReason) -> None:
        """
        A message that comes back is ready again.
        """
        self._push(entry)

    def _keeps(self, entry: QueuedMessage, why: RequeueReason) -> bool:
        """
        Whether a message that comes back may stay.
        """
        return True

    # -- delivery ----------------------------------------------------------------------

    def deliver(self) -> None:
        if self._delivering or self.deleted:
            return
        self._delivering = True
        try:
            while self._ready:
                self._expire(spare=self._new)
                consumer = self.consumers.next() if self._ready else None
                if consumer is None:
                    break
                entry = self._pop()
                if not consumer.no_ack:
                    self._unacked[entry] = None
                consumer.channel.consumer_delivers(consumer, entry)
        finally:
            self._delivering = False
        self._expire()
        self._limit()
        self._watch()

    # -- time --------------------------------------------------------------------------

    def _expire(self, spare: QueuedMessage | None = None) -> None:
        """
        Drop the first messages, as long as their time is up.

        :param spare: one that shall not be dropped yet.
        """
        until = self.vhost.clock.seconds() + _MOMENT
        while self._ready:
            first = self._ready[0]
            if first is spare or first.expires is None or first.expires > until:
                break
            self.vhost.dead_letter(self, self._pop(), "expired")

    def _watch(self) -> None:
        """
        See to it that the first message is dropped in time.
        """
        expires = self._ready[0].expires if self._ready and not self.deleted else None
        call = self._expiry_call
        if call is not None and expires is not None and self._expiry_at <= expires:
            return  # early is good enough: then we look again
        if call is not None:
            call.cancel()
            self._expiry_call = None
        if expires is not None:
            clock = self.vhost.clock
            self._expiry_at = expires
            delay = max(0.0, expires - clock.seconds())
            self._expiry_call = clock.callLater(delay, self._time_is_up)

    def _time_is_up(self) -> None:
        self._expiry_call = None
        self._expire()
        self._watch()

    def end(self) -> list[Consumer]:
        consumers = super().end()
        self._ready.clear()
        self._watch()
        return consumers


class QuorumQueue(ClassicQueue):
    """
    A queue that counts how often its messages come back, and drops those that do so
    too often.
    """

    def __init__(self, name: str, vhost: VirtualHost, **details: Any) -> None:
        super().__init__(name, vhost, **details)
        self.consumers.eager = vhost.behaviour.active_by_priority
        # Messages that wait before they are redelivered, with what ends that.
        self._delayed: dict[QueuedMessage, IDelayedCall] = {}

    def timeout_of(
        self, consumer: Consumer | None, usual: float | None
    ) -> float | None:
        if self.vhost.behaviour.timeout_cancels:
            asked = [] if consumer is None else [consumer.arguments]
            for arguments in (*asked, self.arguments):
                timeout = arguments.get("x-consumer-timeout")
                if isinstance(timeout, int):
                    return timeout / 1000
        return usual

    def _priority(self, message: Message) -> int:
        if not self.vhost.behaviour.quorum_priorities:
            return 0
        priority: int | None = read_property(message.properties, "priority")
        if priority is None:
            return _QUORUM_PRIORITY
        return min(priority, _QUORUM_PRIORITY_MAX)

    def _is_full(self, message: Message) -> bool:
        # The publishers learn that it is full when it holds more than it should.
        return self._is_over()

    def _keeps(self, entry: QueuedMessage, why: RequeueReason) -> bool:
        limit = self.settings.delivery_limit
        if limit is not None and entry.delivery_count > limit:
            self.vhost.dead_letter(self, entry, "delivery_limit")
            return False
        # In the order of return: ahead of everything else, or behind it.
        self._positions += 1
        entry.position = self._positions
        if self.vhost.behaviour.returns_first or why is RequeueReason.LOST:
            entry.priority = _RETURNED
        return True

    def _take_back(self, entry: QueuedMessage, why: RequeueReason) -> None:
        settings = self.settings
        failed = why is not RequeueReason.NACK
        if settings.delayed_retry_type in ("all", "failed" if failed else "returned"):
            delay = settings.delayed_retry_min * max(1, entry.delivery_count)
            self._delayed[entry] = self.vhost.clock.callLater(
                min(delay, settings.delayed_retry_max), self._end_delay, entry
            )
        else:
            super()._take_back(entry, why)

    def _end_delay(self, entry: QueuedMessage) -> None:
        del self._delayed[entry]
        self._push(entry)
        self.deliver()

    def _forget_delayed(self) -> int:
        """
        :returns: how many messages that were.
        """
        delayed, self._delayed = self._delayed, {}
        for call in delayed.values():
            call.cancel()
        return len(delayed)

    def purge(self) -> int:
        return super().purge() + self._forget_delayed()

    def end(self) -> list[Consumer]:
        self._forget_delayed()
        return super().end()

    def properties_of(self, entry: QueuedMessage, fetched: bool = False) -> Properties:
        behaviour = self.vhost.behaviour
        counts: dict[str, FieldValue] = {}
        # A dead letter shows the other count until it has come back to this queue.
        acquired = entry.acquired_count or entry.message.delivery_count
        if acquired and behaviour.counts_acquisitions:
            counts["x-acquired-count"] = Int64(acquired)
        if entry.delivery_count or (fetched and behaviour.counts_from_zero):
            counts["x-delivery-count"] = Int64(entry.delivery_count)
        properties = entry.message.properties
        if not counts:
            return properties
        headers = {**headers_of(properties), **counts}
        return with_properties(properties, headers=headers)
