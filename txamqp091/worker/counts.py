# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
What became of messages: the words for it, the counts, and how long it took.
"""

from __future__ import annotations

__all__ = ["Histogram", "MessageOutcome", "Counts", "identity", "message_id_of"]

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum

from txamqp091.errors import UndecodableProperty, printable
from txamqp091.message import Delivery


class MessageOutcome(Enum):
    """
    What became of one message.
    """

    ACKNOWLEDGED = "ack"
    REQUEUED = "requeue"
    REJECTED = "reject"
    SETTLED = "settled"
    STALE = "stale"
    UNFINISHED = "unfinished"
    RETRIED = "retry"
    DEAD_LETTERED = "dead"


@dataclass
class Counts:
    """
    What became of the messages.

    :ivar acknowledged: the handler succeeded.
    :ivar requeued: it failed, and the message went back to its queue.
    :ivar rejected: it failed, and the message was dropped, or went to the dead
        letters.
    :ivar settled: the handler has answered for the message itself.
    :ivar stale: the handler ended after the channel had, so that there was nobody to
        tell: the broker delivers the message again.
    :ivar unfinished: the handler was given up, and the message went back.
    :ivar retried: it failed, and the message will come again after a delay.
    :ivar parked: it failed for the last time, and the message is in the parking queue.
    """

    acknowledged: int = 0
    requeued: int = 0
    rejected: int = 0
    settled: int = 0
    stale: int = 0
    unfinished: int = 0
    retried: int = 0
    dead_lettered: int = 0

    def count(self, outcome: MessageOutcome) -> None:
        """
        One more.
        """
        name = outcome.name.lower()
        setattr(self, name, getattr(self, name) + 1)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            *(
                getattr(self, each.name) + getattr(other, each.name)
                for each in fields(self)
            )
        )

    def __str__(self) -> str:
        counts = [f"{self.acknowledged} acknowledged", f"{self.requeued} requeued"]
        if self.retried:
            counts.append(f"{self.retried} to be retried")
        counts.append(f"{self.rejected} rejected")
        if self.dead_lettered:
            counts.append(f"{self.dead_lettered} parked")
        if self.settled:
            counts.append(f"{self.settled} answered by the handler itself")
        if self.stale:
            counts.append(f"{self.stale} done but not acknowledged in time")
        counts.append(f"{self.unfinished} unfinished")
        return ", ".join(counts)


class Histogram:
    """
    How long things take, by classes: what a histogram is made of.

    :ivar bounds: up to how many seconds each class reaches; one more is for the rest.
    :ivar counts: how many were in each class.
    :ivar total: how many seconds all of them took.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """
        One took so long.
        """
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


def message_id_of(delivery: Delivery) -> str | None:
    """
    Its message-id, if it can be read.
    """
    try:
        return delivery.properties.message_id
    except UndecodableProperty:
        return None


def identity(delivery: Delivery) -> str:
    """
    Which message it is, for a log.  Of what is in it, nothing.
    """
    try:
        message_id = repr(delivery.properties.message_id)
    except UndecodableProperty:
        message_id = "unreadable"
    return (
        f"delivery tag {delivery.delivery_tag}, message-id {printable(message_id)}, "
        f"exchange {printable(repr(delivery.exchange))}, "
        f"routing key {printable(repr(delivery.routing_key))}"
    )
