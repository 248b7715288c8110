# -*- test-case-name: txamqp091.test.unit.testing.test_streams -*-
"""
Streams: queues that keep what was read from them.

A `Stream` is a log.  Each consumer reads it from a place of its own, as fast as its
prefetch limit allows, and an acknowledgement only makes room for more.  What RabbitMQ
writes as one chunk is one message here, so that a consumer begins exactly where it
asks to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from txamqp091.testing._broker.arguments import max_age
from txamqp091.testing._broker.consumers import Consumer
from txamqp091.testing._broker.messages import (
    Message,
    QueuedMessage,
    RequeueReason,
    headers_of,
    with_properties,
)
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import (
    Refused,
    binary,
    broker_fails,
    field_type,
    invalid_argument,
    not_implemented,
    precondition,
    shown,
)
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue, Int64

if TYPE_CHECKING:
    from txamqp091.testing._broker.vhosts import VirtualHost

__all__ = ["Stream"]

_FILTER_HEADER = "x-stream-filter-value"


class _Filter:
    """
    Which messages a consumer asks for.
    """

    def __init__(self, arguments: Mapping[str, FieldValue]) -> None:
        wanted = arguments.get("x-stream-filter")
        self._wanted: set[str] | None = {wanted} if isinstance(wanted, str) else None
        if isinstance(wanted, list | tuple):
            self._wanted = {each for each in wanted if isinstance(each, str)}
            if len(self._wanted) < len(set(map(repr, wanted))):
                raise broker_fails()
        self._unfiltered = arguments.get("x-stream-match-unfiltered") is True

    def lets_through(self, message: Message) -> bool:
        if self._wanted is None:
            return True
        value = headers_of(message.properties).get(_FILTER_HEADER)
        return self._unfiltered if value is None else value in self._wanted


class Stream(AnyQueue):
    """
    A stream.

    Its messages have offsets, counted from 0.  It forgets the oldest by the segment, as
    `QueueSettings.segment_size` has it, when there is too much or it is too old.
    """

    def __init__(self, name: str, vhost: VirtualHost, **details: Any) -> None:
        self._log: list[QueuedMessage] = []
        self._times: list[float] = []
        self._end = 0
        # Where each segment begins, and how many bytes are in it; the oldest first.
        self._segments: list[tuple[int, int]] = []
        self._next: dict[Consumer, int] = {}
        self._filters: dict[Consumer, _Filter] = {}
        self._delivering = False
        super().__init__(name, vhost, **details)

    @property
    def ready_count(self) -> int:
        return len(self._log)

    def ready_entries(self) -> list[QueuedMessage]:
        return list(self._log)

    def unacked_entries(self) -> list[QueuedMessage]:
        """
        None: what was delivered is still there.
        """
        return []

    @property
    def first_offset(self) -> int:
        """
        The offset of the oldest message that is kept.
        """
        return self._end - len(self._log)

    def properties_of(self, entry: QueuedMessage, fetched: bool = False) -> Properties:
        properties = entry.message.properties
        headers = {**headers_of(properties), "x-stream-offset": Int64(entry.position)}
        changes: dict[str, object] = {"headers": headers}
        if self.vhost.behaviour.streams_add_mode and properties.delivery_mode is None:
            changes["delivery_mode"] = 1
        return with_properties(properties, **changes)

    # -- messages ----------------------------------------------------------------------

    def publish(self, message: Message) -> bool:
        self._log.append(QueuedMessage(message, self._end))
        self._times.append(self.vhost.clock.seconds())
        self._grow(len(message.body))
        self._end += 1
        self._forget()
        self.deliver()
        return True

    def _grow(self, size: int) -> None:
        if not self._segments or self._segments[-1][1] >= self.settings.segment_size:
            self._segments.append((self._end, 0))
        start, bytes_so_far = self._segments[-1]
        self._segments[-1] = start, bytes_so_far + size

    def _forget(self) -> None:
        """
        Drop the oldest segments, if it is time; never the one that is written to.
        """
        while len(self._segments) > 1 and self._is_over():
            del self._segments[0]
            count = self._segments[0][0] - self.first_offset
            del self._log[:count]
            del self._times[:count]

    def _is_over(self) -> bool:
        settings = self.settings
        if settings.max_bytes is not None:
            if sum(size for _, size in self._segments) > settings.max_bytes:
                return True
        if settings.max_age is None:
            return False
        newest = self._times[self._segments[1][0] - self.first_offset - 1]
        return newest < self.vhost.clock.seconds() - settings.max_age

    def fetch(self, no_ack: bool) -> QueuedMessage | None:
        raise self._unsupported("basic.get")

    def purge(self) -> int:
        raise self._unsupported("queue.purge")

    def _unsupported(self, what: str) -> Refused:
        return not_implemented(f"{what} not supported by stream queues {self._shown}")

    @property
    def _shown(self) -> str:
        return shown("queue", self.name, self.vhost.name)

    def acknowledge(self, entry: QueuedMessage) -> None:
        """
        Nothing: what was read stays.
        """

    def check_reject(self) -> None:
        if not self.vhost.behaviour.streams_settle:
            raise self._unsupported("basic.nack and basic.reject")

    def reject(self, entry: QueuedMessage, why: RequeueReason) -> None:
        """
        Nothing: what was read stays.
        """

    def requeue(self, entries: Iterable[QueuedMessage], why: RequeueReason) -> None:
        """
        Nothing: what was read stays.
        """

    # -- consumers ---------------------------------------------------------------------

    def check_consumer(self, consumer: Consumer) -> None:
        later = self.vhost.behaviour.soft_offset
        if consumer.no_ack:
            kind = "stream" if later else "stream queues"
            raise not_implemented(
                f"automatic acknowledgement not supported by {kind} {self._shown}"
            )
        if not consumer.prefetch:
            where = f"stream {self._shown}" if later else f"'{self._shown}'"
            raise precondition(f"consumer prefetch count is not set for {where}")
        self._place(consumer.arguments)
        self._filter(consumer)

    def subscribe(self, consumer: Consumer) -> None:
        self._next[consumer] = self._place(consumer.arguments)
        self._filters[consumer] = self._filter(consumer)
        super().subscribe(consumer)

    def unsubscribe(self, consumer: Consumer) -> None:
        self._next.pop(consumer, None)
        self._filters.pop(consumer, None)
        super().unsubscribe(consumer)

    def _filter(self, consumer: Consumer) -> _Filter:
        known = self.vhost.behaviour.consumer_arguments["stream"]
        filters = "x-stream-filter" in known
        return _Filter(consumer.arguments if filters else {})

    def _place(self, arguments: Mapping[str, FieldValue]) -> int:
        """
        The offset at which a consumer begins.
        """
        first = self.first_offset
        match arguments.get("x-stream-offset", "next"):
            case "next":
                return self._end
            case "first":
                return first
            case "last":
                return max(first, self._end - 1)
            case bool() as flag:
                raise self._bad_offset(flag)
            case int() as offset:
                return max(first, offset)
            case datetime() as moment:
                return first + bisect_left(self._times, moment.timestamp())
            case str() as text if (age := max_age(text)) is not None:
                since = self.vhost.clock.seconds() - age
                return first + bisect_left(self._times, since)
            case value:
                raise self._bad_offset(value)

    def _bad_offset(self, value: FieldValue) -> Refused:
        if isinstance(value, str) and self.vhost.behaviour.soft_offset:
            problem = f"{field_type(value)},{binary(value)}"
            return invalid_argument(
                "x-stream-offset",
                self._shown,
                f"{{invalid_stream_offset_arg,{{{problem}}}}}",
            )
        return broker_fails()

    def deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            for consumer in self.consumers:
                self._feed(consumer)
        finally:
            self._delivering = False

    def _feed(self, consumer: Consumer) -> None:
        """
        Let a consumer read on, as far as it can.
        """
        while consumer in self._next and consumer.has_room:
            offset = max(self._next[consumer], self.first_offset)
            if offset >= self._end:
                break
            self._next[consumer] = offset + 1
            entry = self._log[offset - self.first_offset]
            if self._filters[consumer].lets_through(entry.message):
                consumer.channel.consumer_delivers(consumer, entry)

    def resume(self, consumers: Iterable[Consumer]) -> None:
        for consumer in consumers:
            self._feed(consumer)

    def end(self) -> list[Consumer]:
        self._next.clear()
        return super().end()
