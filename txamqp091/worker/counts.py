# -*- test-case-name: txamqp091.test.unit.worker.test_handler_runner -*-
"""
Counts and durations of handled messages.
"""

from __future__ import annotations

__all__ = ["Counts", "Histogram", "MessageOutcome"]

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum


class MessageOutcome(Enum):
    """
    How one message was settled.
    """

    ACKNOWLEDGED = "ack"
    REQUEUED = "requeue"
    REJECTED = "reject"
    DISCARDED = "drop"
    SETTLED = "settled"
    STALE = "stale"
    UNFINISHED = "unfinished"
    RETRIED = "retry"
    DEAD_LETTERED = "dead"


@dataclass
class Counts:
    """
    How many messages were settled in which way.

    :ivar acknowledged: the handler succeeded.
    :ivar requeued: the message went back to its queue.
    :ivar rejected: the handler failed, and the message went to the dead-letter exchange
        of its queue.
    :ivar settled: the handler has settled the message itself.
    :ivar stale: the handler ended after its channel had: the broker delivers the
        message again.
    :ivar unfinished: the handler did not end before the shutdown deadline, and the
        message went back.
    :ivar retried: the handler failed, and the message is retried after a delay.
    :ivar dead_lettered: the handler failed for the last time, and the message is in the
        dead-letter queue.
    :ivar discarded: the handler failed, and the message was discarded, as the policy
        says.
    """

    acknowledged: int = 0
    requeued: int = 0
    rejected: int = 0
    settled: int = 0
    stale: int = 0
    unfinished: int = 0
    retried: int = 0
    dead_lettered: int = 0
    discarded: int = 0

    def count(self, outcome: MessageOutcome) -> None:
        """
        Count one more message.
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
            counts.append(f"{self.retried} retried")
        counts.append(f"{self.rejected} rejected")
        if self.dead_lettered:
            counts.append(f"{self.dead_lettered} dead-lettered")
        if self.discarded:
            counts.append(f"{self.discarded} discarded")
        if self.settled:
            counts.append(f"{self.settled} settled by the handler")
        if self.stale:
            counts.append(f"{self.stale} handled but not acknowledged in time")
        counts.append(f"{self.unfinished} unfinished")
        return ", ".join(counts)


class Histogram:
    """
    Durations by buckets.

    :ivar bounds: the upper bound of each bucket, in seconds; one more bucket is for the
        rest.
    :ivar counts: how many durations each bucket has.
    :ivar total: the sum of all durations, in seconds.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """
        Add a duration.
        """
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
