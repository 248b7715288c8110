# -*- test-case-name: txamqp091.test.unit.testing.test_broker_consuming -*-
"""
What a channel has delivered, and waits to hear of.

`Unacked` keeps deliveries by their tags, the oldest first, and tells when one has been
out for too long.  What settling them does is in `txamqp091.testing._broker.channels`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txamqp091.testing._broker.consumers import Consumer
from txamqp091.testing._broker.messages import Comeback, Entry
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import precondition

__all__ = ["Delivery", "Unacked", "put_back"]

# Times that differ by less are the same: they are sums of floats.
_MOMENT = 1e-6


class Delivery(NamedTuple):
    """
    A message that is out.

    :ivar consumer: who has it, or None: it was fetched with ``basic.get``.
    :ivar due: until when it may be, by the broker's clock, or None: for ever.
    """

    tag: int
    queue: AnyQueue
    entry: Entry
    consumer: Consumer | None
    due: float | None


class Unacked:
    """
    The deliveries of a channel that are not settled.

    :ivar timeout: how long one may be out, in seconds, or None: for ever.  Queues and
        consumers may want it otherwise.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float | None,
        timed_out: Callable[[Delivery], None],
    ) -> None:
        """
        :param timed_out: called with one that has been out for too long; it is to be
            taken then.
        """
        self.timeout = timeout
        self._clock = clock
        self._timed_out = timed_out
        self._deliveries: OrderedDict[int, Delivery] = OrderedDict()
        # Of those, the ones that may time out.
        self._watched: dict[int, float] = {}
        # Those that did: the client does not know, and may settle them.
        self._late: set[int] = set()
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
        timeout = queue.timeout_of(consumer, self.timeout)
        due = None if timeout is None else self._clock.seconds() + timeout
        self._deliveries[tag] = Delivery(tag, queue, entry, consumer, due)
        if due is not None:
            self._watched[tag] = due
            if self._call is None or due < self._call.getTime():
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
        if tag not in deliveries and tag not in self._late:
            raise precondition(f"unknown delivery tag {tag}")
        self._late.discard(tag)
        taken: list[Delivery] = []
        if multiple:
            while deliveries and next(iter(deliveries)) <= tag:
                taken.append(deliveries.popitem(last=False)[1])
        elif tag in deliveries:
            taken.append(deliveries.pop(tag))
        for each in taken:
            self._watched.pop(each.tag, None)
        return taken

    def take_all(self) -> list[Delivery]:
        """
        Take everything.
        """
        taken = list(self._deliveries.values())
        self._deliveries.clear()
        self._watched.clear()
        return taken

    def take_late(self, delivery: Delivery) -> list[Delivery]:
        """
        Take what has timed out, and what else its consumer has.  The client may still
        settle it, to no effect.
        """
        taken = [
            each
            for each in self._deliveries.values()
            if each is delivery
            or (each.consumer is not None and each.consumer is delivery.consumer)
        ]
        for each in taken:
            del self._deliveries[each.tag]
            self._watched.pop(each.tag, None)
            self._late.add(each.tag)
        return taken

    def restore(self, taken: Iterable[Delivery]) -> None:
        """
        Put back what was taken.
        """
        everything = sorted([*taken, *self._deliveries.values()], key=_tag)
        self._deliveries = OrderedDict((each.tag, each) for each in everything)
        self._watched = {
            each.tag: each.due for each in everything if each.due is not None
        }
        self._watch()

    def stop(self) -> None:
        """
        Watch no longer.
        """
        self._watched.clear()
        self._watch()

    # -- time --------------------------------------------------------------------------

    def _watch(self) -> None:
        """
        Look again when the next delivery will have been out for too long.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._watched:
            left = min(self._watched.values()) - self._clock.seconds()
            self._call = self._clock.callLater(max(0.0, left), self._look)

    def _look(self) -> None:
        self._call = None
        latest = self._clock.seconds() + _MOMENT
        for tag, due in list(self._watched.items()):
            # One that was too late may have taken others with it.
            if due <= latest and self._watched.pop(tag, None) is not None:
                self._timed_out(self._deliveries[tag])
        self._watch()


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
