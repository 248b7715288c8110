# -*- test-case-name: txamqp091.test.test_broker_queues -*-
"""
Classic queues.

Theory.  A message in a queue is an `Entry`: *ready*, in a heap in the order in which
entries are delivered, or *unacked*, out with a consumer.  One that comes back keeps its
place.  Only the first ready entry can expire, as in RabbitMQ: others wait behind it.  A
queue changes its own state before it calls a channel, which may call back at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall

from txamqp091.errors import UndecodableProperty
from txamqp091.testing.consumers import Consumer
from txamqp091.testing.messages import Comeback, Entry, Message
from txamqp091.testing.queues import AnyQueue

if TYPE_CHECKING:
    from txamqp091.testing.vhosts import VirtualHost

__all__ = ["ClassicQueue", "priority_of"]

# Times that differ by less are the same: they are sums of floats.
_MOMENT = 1e-6


class ClassicQueue(AnyQueue):
    """
    A classic queue.
    """

    def __init__(self, name: str, vhost: VirtualHost, **details: Any) -> None:
        self._ready: list[Entry] = []
        self._ready_bytes = 0
        self._unacked: dict[Entry, None] = {}
        self._positions = 0
        self._delivering = False
        self._expiry_call: IDelayedCall | None = None
        self._expiry_at = 0.0
        self._new: Entry | None = None  # that comes just now
        super().__init__(name, vhost, **details)

    @property
    def ready_count(self) -> int:
        return len(self._ready)

    def ready_entries(self) -> list[Entry]:
        return sorted(self._ready)

    def unacked_entries(self) -> list[Entry]:
        return list(self._unacked)

    # -- the heap ----------------------------------------------------------------------

    def _push(self, entry: Entry) -> None:
        heappush(self._ready, entry)
        self._ready_bytes += len(entry.message.body)

    def _pop(self) -> Entry:
        entry = heappop(self._ready)
        self._ready_bytes -= len(entry.message.body)
        return entry

    def _priority(self, message: Message) -> int:
        limit = self.settings.max_priority
        if limit is None:
            return 0
        return min(priority_of(message) or 0, limit)

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

    def _entry(self, message: Message) -> Entry:
        self._positions += 1
        lives = [each for each in (message.ttl, self.settings.ttl) if each is not None]
        expires = self.vhost.clock.seconds() + min(lives) if lives else None
        return Entry(message, self._positions, self._priority(message), expires)

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

    def fetch(self, no_ack: bool) -> Entry | None:
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

    def acknowledge(self, entry: Entry) -> None:
        self._unacked.pop(entry, None)

    def check_reject(self) -> None:
        """
        They may.
        """

    def check_consumer(self, consumer: Consumer) -> None:
        """
        Any may.
        """

    def reject(self, entry: Entry, why: Comeback) -> None:
        self._unacked.pop(entry, None)
        if not self.deleted:
            entry.failed = why is Comeback.REJECTED
            self.vhost.dead_letter(self, entry, "rejected")

    def requeue(self, entries: Iterable[Entry], why: Comeback) -> None:
        for entry in entries:
            self._unacked.pop(entry, None)
            entry.returns += 1
            entry.redelivered = True
            if not self.deleted and self._keeps(entry, why):
                self._push(entry)
        self.deliver()

    def _keeps(self, entry: Entry, why: Comeback) -> bool:
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

    def _expire(self, spare: Entry | None = None) -> None:
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


def priority_of(message: Message) -> int | None:
    """
    The priority of a message, if it has one that can be read.
    """
    try:
        return message.properties.priority
    except UndecodableProperty:
        return None
