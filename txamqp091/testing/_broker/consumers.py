# -*- test-case-name: txamqp091.test.scenarios.test_consumers -*-
"""
Consumers, and whose turn it is.

A `Consumer` says whether it can take one more message; a `ConsumerRing` finds the one
to get the next: the highest priority first, and in turn among equals.  What they get is
for queues and streams to say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing._broker.messages import QueuedMessage
    from txamqp091.testing._broker.queues import AnyQueue

__all__ = ["Consumer", "ConsumerChannel", "ConsumerRing"]


class ConsumerChannel(Protocol):
    """
    What a consumer's channel does for it.
    """

    @property
    def has_room(self) -> bool:
        """
        Whether the channel as a whole can take more unacknowledged deliveries.
        """

    @property
    def is_paused(self) -> bool:
        """
        Whether the client cannot be sent anything at the moment.
        """

    def consumer_delivers(self, consumer: Consumer, entry: QueuedMessage) -> None:
        """
        Send a message to the client.
        """

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """
        The queue has ended the consumer: tell the client.
        """


class Consumer:
    """
    A consumer of one queue.

    :ivar no_ack: what it gets is acknowledged by being sent.
    :ivar exclusive: nobody else may consume.
    :ivar prefetch: how many unacknowledged deliveries it may have, 0 being no limit.
    :ivar outstanding: how many it has.
    :ivar timed_out: whether it gets nothing, as it has not settled a delivery in time.
    :ivar late: the tags of the deliveries that were not settled in time, and are not
        yet.
    """

    __slots__ = (
        "arguments",
        "channel",
        "exclusive",
        "late",
        "no_ack",
        "outstanding",
        "prefetch",
        "priority",
        "queue",
        "tag",
        "timed_out",
    )

    def __init__(
        self,
        tag: str,
        queue: AnyQueue,
        channel: ConsumerChannel,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        prefetch: int = 0,
        priority: int = 0,
        arguments: Mapping[str, FieldValue] | None = None,
    ) -> None:
        self.tag = tag
        self.queue = queue
        self.channel = channel
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = prefetch
        self.priority = priority
        self.arguments = dict(arguments or {})
        self.outstanding = 0
        self.timed_out = False
        self.late: set[int] = set()

    def __repr__(self) -> str:
        return f"<Consumer {self.tag!r} of {self.queue.name!r}>"

    @property
    def has_room(self) -> bool:
        """
        Whether it can take one more message.
        """
        if self.timed_out or self.channel.is_paused:
            return False
        if self.no_ack:
            return True
        within = not self.prefetch or self.outstanding < self.prefetch
        return within and self.channel.has_room


class ConsumerRing:
    """
    The consumers of a queue.

    Each is either waiting for its turn, in the ring of its priority, or parked: it was
    found without room, and is not looked at again before `resume`.

    :ivar single: whether one of them gets everything, and the others stand by.
    :ivar by_priority: whether the one of the highest priority is next, then; otherwise
        it is the one that has been there the longest.
    :ivar eager: whether it takes over as soon as the active one has nothing out.
    """

    def __init__(self, single: bool = False, by_priority: bool = False) -> None:
        self.single = single
        self.by_priority = by_priority
        self.eager = False
        self._all: dict[Consumer, None] = {}
        self._active: Consumer | None = None
        # By priority, the highest first.
        self._waiting: dict[int, OrderedDict[Consumer, None]] = {}
        # Each with a number that says who was first.
        self._parked: dict[Consumer, int] = {}
        self._parks = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        """
        All of them, in the order in which they came.
        """
        return iter(list(self._all))

    def __contains__(self, consumer: Consumer) -> bool:
        return consumer in self._all

    @property
    def exclusive(self) -> bool:
        """
        Whether there is one that suffers no other.
        """
        # Then it is the only one.
        return len(self._all) == 1 and next(iter(self._all)).exclusive

    @property
    def active(self) -> Consumer | None:
        """
        The one that gets everything, if only one does.
        """
        return self._active

    def add(self, consumer: Consumer) -> None:
        """
        There is a new consumer.
        """
        self._all[consumer] = None
        if self.single:
            self._choose()
        else:
            self._line_up(consumer)

    def remove(self, consumer: Consumer) -> None:
        """
        A consumer has gone.
        """
        self._all.pop(consumer, None)
        self._parked.pop(consumer, None)
        ring = self._waiting.get(consumer.priority)
        if ring is not None:
            ring.pop(consumer, None)
            if not ring:
                del self._waiting[consumer.priority]
        self._release(consumer)

    def suspend(self, consumer: Consumer) -> None:
        """
        A consumer has timed out: it gets nothing until `resume`.
        """
        consumer.timed_out = True
        self._release(consumer)

    def _release(self, consumer: Consumer) -> None:
        if consumer is self._active:
            self._active = None
            self._choose()

    def _choose(self) -> None:
        """
        Find a single active consumer, if it is time for another.
        """
        candidates = [each for each in self._all if not each.timed_out]
        if not candidates:
            return
        best = candidates[0]
        if self.by_priority:
            # The first of those with the highest priority.
            best = max(candidates, key=lambda each: each.priority)
        active = self._active
        if active is None:
            self._active = best
        elif self.eager and best.priority > active.priority and not active.outstanding:
            self._active = best

    def resume(self, consumers: Iterable[Consumer]) -> None:
        """
        Consumers may have room again: they get in line, in the order in which they were
        parked.
        """
        if self.single:
            if self.eager or self._active is None:
                self._choose()
            return
        parked = [each for each in consumers if each in self._parked]
        if len(parked) > 1:
            parked.sort(key=self._parked.__getitem__)
        for consumer in parked:
            del self._parked[consumer]
            self._line_up(consumer)

    def _line_up(self, consumer: Consumer) -> None:
        ring = self._waiting.get(consumer.priority)
        if ring is None:
            ring = self._waiting[consumer.priority] = OrderedDict()
            self._waiting = dict(sorted(self._waiting.items(), reverse=True))
        ring[consumer] = None

    def next(self) -> Consumer | None:
        """
        Whose turn it is, if anyone has room.
        """
        if self.single:
            active = self._active
            return active if active is not None and active.has_room else None
        for priority, ring in list(self._waiting.items()):
            while ring:
                consumer = next(iter(ring))
                if consumer.has_room:
                    ring.move_to_end(consumer)
                    return consumer
                del ring[consumer]
                self._parks += 1
                self._parked[consumer] = self._parks
            del self._waiting[priority]
        return None
