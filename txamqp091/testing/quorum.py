# -*- test-case-name: txamqp091.test.test_broker_queues -*-
"""
Quorum queues: what they do otherwise than the classic ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txamqp091.testing.classic import ClassicQueue, priority_of
from txamqp091.testing.consumers import Consumer
from txamqp091.testing.messages import (
    Comeback,
    Entry,
    Message,
    headers_of,
    with_properties,
)
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue, Int64

if TYPE_CHECKING:
    from txamqp091.testing.vhosts import VirtualHost

__all__ = ["QuorumQueue"]

# What RabbitMQ gives a message without a priority in a quorum queue.
_QUORUM_PRIORITY = 4
_QUORUM_PRIORITY_MAX = 31
_RETURNED = 32


class QuorumQueue(ClassicQueue):
    """
    A queue that counts how often its messages come back, and drops those that do so
    too often.
    """

    def __init__(self, name: str, vhost: VirtualHost, **details: Any) -> None:
        super().__init__(name, vhost, **details)
        self.consumers.eager = vhost.behaviour.active_by_priority

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
        priority = priority_of(message)
        if priority is None:
            return _QUORUM_PRIORITY
        return min(priority, _QUORUM_PRIORITY_MAX)

    def _is_full(self, message: Message) -> bool:
        # The publishers learn that it is full when it holds more than it should.
        return self._is_over()

    def _keeps(self, entry: Entry, why: Comeback) -> bool:
        behaviour = self.vhost.behaviour
        if why is not Comeback.NACKED or behaviour.counts_returns:
            entry.failures += 1
        limit = self.settings.delivery_limit
        if limit is not None and entry.failures > limit:
            self.vhost.dead_letter(self, entry, "delivery_limit")
            return False
        # In the order of return: ahead of everything else, or behind it.
        self._positions += 1
        entry.position = self._positions
        if behaviour.returns_first or why is Comeback.LOST:
            entry.priority = _RETURNED
        return True

    def properties_of(self, entry: Entry, fetched: bool = False) -> Properties:
        behaviour = self.vhost.behaviour
        counts: dict[str, FieldValue] = {}
        if entry.returns and behaviour.counts_acquisitions:
            counts["x-acquired-count"] = Int64(entry.returns)
        if entry.failures or (fetched and behaviour.counts_from_zero):
            counts["x-delivery-count"] = Int64(entry.failures)
        properties = entry.message.properties
        if not counts:
            return properties
        headers = {**headers_of(properties), **counts}
        return with_properties(properties, headers=headers)
