# -*- test-case-name: txamqp091.test.unit.testing.test_deliveries -*-
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
from txamqp091.testing._broker.messages import QueuedMessage, RequeueReason
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import precondition

__all__ = ["UnackedDelivery", "Unacked", "put_back"]

# Times that differ by less are the same: they are sums of floats.
_MOMENT = 1e-6


class UnackedDelivery(NamedTuple):
    """
    A message that is out.

    :ivar consumer: who has it, or None: it was fetched with ``basic.get``.
    :ivar due: until when it may be, by the broker's clock, or None: for ever.
    """

    tag: int
    queue: AnyQueue
    entry: QueuedMessage
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
        timed_out: Callable[[list[UnackedDelivery]], None],
    ) -> None:
        """
        :param timed_out: called with those that have been out for too long.
        """
        self.timeout = timeout
        self._clock = clock
        self._timed_out = timed_out
        self._deliveries: OrderedDict[int, UnackedDelivery] = OrderedDict()
        # Of those, the ones that may time out.
        self._watched: dict[int, float] = {}
        # Those that did: the client may still settle them.
        self._late: OrderedDict[int, UnackedDelivery] = OrderedDict()
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._deliveries)

    def get(self, tag: int) -> UnackedDelivery | None:
        """
        The delivery with that tag, if it is out.
        """
        return self._deliveries.get(tag)

    def add(
        self, tag: int, queue: AnyQueue, entry: QueuedMessage, consumer: Consumer | None
    ) -> None:
        """
        A message has gone out.
        """
        timeout = queue.timeout_of(consumer, self.timeout)
        due = None if timeout is None else self._clock.seconds() + timeout
        self._deliveries[tag] = UnackedDelivery(tag, queue, entry, consumer, due)
        if due is not None:
            self._watched[tag] = due
            if self._call is None or due < self._call.getTime():
                self._watch()

    def take(
        self, tag: int, multiple: bool
    ) -> tuple[list[UnackedDelivery], list[UnackedDelivery]]:
        """
        Take what a client settles.

        :param tag: with ``multiple``, the last one that is meant, or 0: all of them.
        :returns: the deliveries, and those that are settled late.
        :raises Refused: 406, there is no such delivery.
        """
        if multiple and tag == 0:
            return self.take_all(), _take_until(self._late, None)
        if tag not in self._deliveries and tag not in self._late:
            raise precondition(f"unknown delivery tag {tag}")
        if multiple:
            taken = _take_until(self._deliveries, tag)
            late = _take_until(self._late, tag)
        else:
            taken = [self._deliveries.pop(tag)] if tag in self._deliveries else []
            late = [] if taken else [self._late.pop(tag)]
        for each in taken:
            self._watched.pop(each.tag, None)
        return taken, late

    def take_all(self) -> list[UnackedDelivery]:
        """
        Take everything but what is late.
        """
        self._watched.clear()
        return _take_until(self._deliveries, None)

    def set_late(self, deliveries: Iterable[UnackedDelivery]) -> None:
        """
        Deliveries have timed out.  The client may still settle them, to no effect on
        the messages.
        """
        for each in deliveries:
            self._late[each.tag] = self._deliveries.pop(each.tag)

    def restore(
        self, taken: Iterable[UnackedDelivery], late: Iterable[UnackedDelivery]
    ) -> None:
        """
        Put back what was taken.
        """
        everything = sorted([*taken, *self._deliveries.values()], key=_tag)
        self._deliveries = OrderedDict((each.tag, each) for each in everything)
        everything = sorted([*late, *self._late.values()], key=_tag)
        self._late = OrderedDict((each.tag, each) for each in everything)
        self._watched = {
            each.tag: each.due
            for each in self._deliveries.values()
            if each.due is not None
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
        due = [tag for tag, moment in self._watched.items() if moment <= latest]
        for tag in due:
            del self._watched[tag]
        if due:
            self._timed_out([self._deliveries[tag] for tag in due])
        self._watch()


def _take_until(
    deliveries: OrderedDict[int, UnackedDelivery], tag: int | None
) -> list[UnackedDelivery]:
    """
    Take the deliveries up to a tag, or all of them.
    """
    taken: list[UnackedDelivery] = []
    while deliveries and (tag is None or next(iter(deliveries)) <= tag):
        taken.append(deliveries.popitem(last=False)[1])
    return taken


def _tag(delivery: UnackedDelivery) -> int:
    return delivery.tag


def put_back(deliveries: Iterable[UnackedDelivery], why: RequeueReason) -> None:
    """
    Give each queue its messages back, all at once.
    """
    by_queue: dict[AnyQueue, list[QueuedMessage]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue, []).append(delivery.entry)
    for queue, entries in by_queue.items():
        queue.requeue(entries, why)
