# -*- test-case-name: txamqp091.test.faults.test_nemesis -*-
"""
Publishers and consumers that write down what they do: `Workload`, over services.

Each has a service, and so a connection, of its own.  What goes wrong, and when, is the
business of `txamqp091.test.support.nemesis`.
"""

from __future__ import annotations

__all__ = ["Consuming", "Publishing", "Workload"]

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from txamqp091.errors import (
    ConnectionBlocked,
    Nacked,
    PublisherFull,
    Returned,
)
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService, Publisher, Queue, RecoveringConsumer
from txamqp091.service.outbox import REPUBLISHED
from txamqp091.test.support.history import History, Kind, marks
from txamqp091.wire.properties import Properties

#: Kept on the broker's disk.
_PERSISTENT = Properties(delivery_mode=2)

#: How many messages of one publisher may wait for their end.
_MOST_WAITING = 1000

#: How many ticks the clock of publishing has in a second.
_TICKS = 20

#: One delivery of so many is acknowledged late, and so many seconds late at most.
_LATE_ONES = 10
_LATE = 0.5

_OUTCOMES: dict[type[BaseException], Kind] = {
    Nacked: Kind.NACKED,
    PublisherFull: Kind.FAILED,
}


class _Losses:
    """
    Writes down when a connection is lost.
    """

    def __init__(self, history: History, name: str) -> None:
        self.count = 0
        self._history = history
        self._name = name

    def lost(self, reason: BaseException) -> None:
        self.count += 1
        self._history.add(Kind.LOST, self._name, "", type(reason).__name__)


class _Worker:
    """
    Who has a service.

    :ivar name: what it is called.
    :ivar losses: how often its connection was lost is their ``count``.
    """

    def __init__(self, name: str, service: AMQPClientService, history: History) -> None:
        self.name = name
        self.service = service
        self.history = history
        self.losses = _Losses(history, name)
        service.observe(lost=self.losses.lost)


class Publishing(_Worker):
    """
    A publisher.

    :ivar confirmed: how many messages are confirmed.
    :ivar ended: how many have an outcome.
    :ivar published: how many there are.
    """

    def __init__(
        self,
        name: str,
        service: AMQPClientService,
        history: History,
        queue: Queue,
        *,
        on_loss: Literal["resend", "fail"] = "resend",
        blocked_timeout: float | None = None,
    ) -> None:
        super().__init__(name, service, history)
        self.queue = queue
        self.publisher = Publisher(
            service, on_loss=on_loss, blocked_timeout=blocked_timeout
        )
        self.confirmed = 0
        self.ended = 0
        self.published = 0
        self._resends = on_loss == "resend"

    def publish(self, count: int) -> None:
        """
        Publish so many more, unless too many wait.
        """
        for _ in range(min(count, _MOST_WAITING - self.publisher.outstanding)):
            message = f"{self.name}:{self.published}"
            self.published += 1
            self.history.add(Kind.INVOKED, self.name, message, self.queue.name)
            sent = self.publisher.publish(
                "", self.queue.name, message, _PERSISTENT, mandatory=True
            )
            sent.addCallbacks(
                self._is_confirmed,
                self._has_failed,
                callbackArgs=(message,),
                errbackArgs=(message,),
            )

    def _is_confirmed(self, _: None, message: str) -> None:
        self.confirmed += 1
        self.ended += 1
        self.history.add(Kind.CONFIRMED, self.name, message)

    def _has_failed(self, failure: Failure, message: str) -> None:
        self.ended += 1
        error = failure.value
        assert error is not None
        why = f"{type(error).__name__}: {error}"
        self.history.add(self._outcome(error), self.name, message, why)

    def _outcome(self, error: BaseException) -> Kind:
        if isinstance(error, ConnectionBlocked):
            unsent = not error.sent and not self._resends
            return Kind.FAILED if unsent else Kind.UNKNOWN
        if isinstance(error, Returned):
            # If it was sent again, only the last copy has come back.
            return Kind.UNKNOWN if self._resends else Kind.FAILED
        return _OUTCOMES.get(type(error), Kind.UNKNOWN)


class Consuming(_Worker):
    """
    A consumer, which acknowledges what it gets, some of it late.

    :ivar received: how many deliveries there were.
    """

    def __init__(
        self,
        name: str,
        service: AMQPClientService,
        history: History,
        queue: Queue,
        chance: random.Random,
    ) -> None:
        super().__init__(name, service, history)
        self.queue = queue
        self.received = 0
        self._chance = chance
        self.consumer: RecoveringConsumer
        self.consume()

    def consume(self) -> None:
        """
        Subscribe.
        """
        self.consumer = self.service.consume(self.queue, self.handle, prefetch=50)
        self.consumer.channel.observe(closed=self._lost)

    def _lost(self, reason: BaseException) -> None:
        self.history.add(Kind.LOST, self.name, "", f"channel: {type(reason).__name__}")

    def cancel(self) -> None:
        """
        End the subscription.
        """
        self.consumer.cancel()

    def handle(self, delivery: Delivery) -> Deferred[None] | None:
        """
        A message came.
        """
        from twisted.internet import reactor

        self.received += 1
        message = delivery.body.decode(errors="replace")
        shown = marks(delivery.redelivered, REPUBLISHED in delivery.headers)
        self.history.add(Kind.DELIVERED, self.name, message, shown)
        if self._chance.randrange(_LATE_ONES):
            self._ack(delivery, message, shown)
            return None
        seconds = self._chance.random() * _LATE
        return deferLater(reactor, seconds, self._ack, delivery, message, shown)

    def _ack(self, delivery: Delivery, message: str, shown: str) -> None:
        kind = Kind.STALE if delivery.is_stale else Kind.ACKED
        delivery.ack()
        self.history.add(kind, self.name, message, shown)


class Workload:
    """
    All who work.

    :ivar publishers: those who publish.
    :ivar consumers: those who consume.
    """

    def __init__(
        self, publishers: Sequence[Publishing], consumers: Sequence[Consuming]
    ) -> None:
        self.publishers = publishers
        self.consumers = consumers
        self._call: LoopingCall | None = None

    @property
    def services(self) -> list[AMQPClientService]:
        """
        The service of each.
        """
        return [each.service for each in (*self.publishers, *self.consumers)]

    def begin(self, rate: int) -> None:
        """
        Have each publish so many messages a second.
        """

        def tick(ticks: int) -> None:
            for publisher in self.publishers:
                publisher.publish(min(ticks, _TICKS) * rate // _TICKS)

        self._call = LoopingCall.withCount(tick)
        self._call.start(1 / _TICKS)

    def stop(self) -> None:
        """
        Publish no more.
        """
        if self._call is not None and self._call.running:
            self._call.stop()

    def stop_services(self) -> Deferred[Any]:
        """
        Stop all of them.
        """
        return DeferredList([each.stopService() for each in self.services])

    @property
    def got_on(self) -> Counter[str]:
        """
        How far they are: publishers each, and consumers by their queue.
        """
        counted = Counter({each.name: each.confirmed for each in self.publishers})
        for each in self.consumers:
            counted[f"queue {each.queue.name}"] += each.received
        return counted

    def has_got_on_since(self, before: Counter[str], count: int = 20) -> bool:
        """
        Whether each has got on so far since `got_on` was so.
        """
        now = self.got_on
        return all(now[name] >= before[name] + count for name in now)

    @property
    def is_idle(self) -> bool:
        """
        Whether each publish has ended.
        """
        return all(each.ended == each.published for each in self.publishers)

    def __str__(self) -> str:
        told = [f"{name} {count}" for name, count in sorted(self.got_on.items())]
        told += [
            f"{each.name}: {each.publisher!r}, {each.service!r}, {each.service.error!r}"
            for each in self.publishers
        ]
        told += [
            f"{each.name}: {each.consumer!r}, {each.service!r}, "
            f"{each.consumer.error!r}, {each.service.error!r}"
            for each in self.consumers
        ]
        return "\n".join(told)
