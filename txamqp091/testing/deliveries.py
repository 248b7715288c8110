# -*- test-case-name: txamqp091.test.test_broker_settling -*-
"""
What a channel has delivered, and waits to hear of.

`Unacked` keeps deliveries by their tags, the oldest first, and tells when one has been
out for too long.  What settling them does is in `txamqp091.testing.channels`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txamqp091.testing.consumers import Consumer
from txamqp091.testing.messages import Comeback, Entry
from txamqp091.testing.queues import AnyQueue
from txamqp091.testing.refusals import precondition

__all__ = ["Delivery", "Unacked", "put_back"]

# Times that differ by less are the same: they are sums of floats.
_MOMENT = 1e-6


class Delivery(NamedTuple):
    """
    A message that is out.

    :ivar consumer: who has it, or None: it was fetched with ``basic.get``.
    :ivar time: since when, by the broker's clock.
    """

    tag: int
    queue: AnyQueue
    entry: Entry
    consumer: Consumer | None
    time: float


class Unacked:
    """
    The deliveries of a channel that are not settled.

    :ivar timeout: how long one may be out, in seconds, or None: for ever.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float | None,
        timed_out: Callable[[], None],
    ) -> None:
        """
        :param timed_out: called when one has been out for too long.
        """
        self.timeout = timeout
        self._clock = clock
        self._timed_out = timed_out
        self._deliveries: OrderedDict[int, Delivery] = OrderedDict()
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._deliveries)

    def get(self, tag: int) -> Delivery | None:
        """
        The delivery with that tag, if it is out.
        """
        return self._deliveries.get(tag)

    def add(
        self, tag: int, queue: AnyQueue, entry: Entry, consumer: Consumer | None
    ) -> None:
        """
        A message has gone out.
        """
        now = self._clock.seconds()
        self._deliveries[tag] = Delivery(tag, queue, entry, consumer, now)
        if self._call is None:
            self._watch()

    def take(self, tag: int, multiple: bool) -> list[Delivery]:
        """
        Take what a client settles.

        :param tag: with ``multiple``, the last one that is meant, or 0: all of them.
        :raises Refused: 406, there is no such delivery.
        """
        deliveries = self._deliveries
        if multiple and tag == 0:
            return self.take_all()
        if tag not in deliveries:
            raise precondition(f"unknown delivery tag {tag}")
        if not multiple:
            return [deliveries.pop(tag)]
        taken = []
        while deliveries and next(iter(deliveries)) <= tag:
            taken.append(deliveries.popitem(last=False)[1])
        return taken

    def take_all(self) -> list[Delivery]:
        """
        Take everything.
        """
        taken = list(self._deliveries.values())
        self._deliveries.clear()
        return taken

    def restore(self, taken: Iterable[Delivery]) -> None:
        """
        Put back what was taken.
        """
        everything = sorted([*taken, *self._deliveries.values()], key=_tag)
        self._deliveries = OrderedDict((each.tag, each) for each in everything)
        self._watch()

    def stop(self) -> None:
        """
        Watch no longer.
        """
        self.timeout = None
        self._watch()

    # -- time --------------------------------------------------------------------------

    def _watch(self) -> None:
        """
        Look again when the oldest delivery has been out for too long.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self.timeout is not None and self._deliveries:
            age = self._clock.seconds() - self._oldest.time
            delay = max(0.0, self.timeout - age)
            self._call = self._clock.callLater(delay, self._look)

    @property
    def _oldest(self) -> Delivery:
        return next(iter(self._deliveries.values()))

    def _look(self) -> None:
        self._call = None
        if not self._deliveries or self.timeout is None:
            return
        if self._clock.seconds() - self._oldest.time + _MOMENT < self.timeout:
            self._watch()
        else:
            self._timed_out()


def _tag(delivery: Delivery) -> int:
    return delivery.tag


def put_back(deliveries: Iterable[Delivery], why: Comeback) -> None:
    """
    Give each queue its messages back, all at once.
    """
    by_queue: dict[AnyQueue, list[Entry]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue, []).append(delivery.entry)
    for queue, entries in by_queue.items():
        queue.requeue(entries, why)
