# -*- test-case-name: txamqp091.test.unit.worker.test_rate_limit -*-
"""
A middleware that limits how often a handler is called: `RateLimit`.
"""

from __future__ import annotations

__all__ = ["RateLimit", "is_rate", "parse_rate"]

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txamqp091.consumer import Handler
from txamqp091.message import Delivery

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class RateLimit:
    """
    Calls a handler at most so often, with a token bucket::

        ConsumerService(client, "mails", send, middleware=[RateLimit("300/m", reactor)])

    The bucket holds the calls of one second, and one call at the least: a rate of
    300/m allows 5 calls at once, and then one each 0.2 s.  A message that waits is
    unsettled and takes one of the consumer's slots: the broker holds back the others.

    :ivar per_second: how many calls there may be in a second.
    """

    def __init__(self, rate: str, clock: IReactorTime) -> None:
        """
        :param rate: a number, a slash, and ``s``, ``m``, ``h`` or ``d``: ``300/m``.
        :param clock: the reactor.
        :raises ValueError: the rate has another form, or is not more than 0.
        """
        self.per_second = parse_rate(rate)
        self._most = max(1.0, self.per_second)
        self._tokens = self._most
        self._clock = clock
        self._at = clock.seconds()
        self._waiting: list[Deferred[None]] = []
        self._call: IDelayedCall | None = None

    def __call__(self, handler: Callable[[Delivery], Deferred[Any]]) -> Handler:
        """
        Middleware: wrap a handler.
        """

        def handle(delivery: Delivery) -> Deferred[Any]:
            self._fill()
            if self._tokens >= 1 and not self._waiting:
                self._tokens -= 1
                return handler(delivery)
            turn: Deferred[Any] = Deferred(self._waiting.remove)
            self._waiting.append(turn)
            self._wake_later()

            def run(_: None) -> Deferred[Any] | None:
                if delivery.is_stale or delivery.settled:
                    return None  # the broker delivers it again
                return handler(delivery)

            return turn.addCallback(run)

        return handle

    def _fill(self) -> None:
        now = self._clock.seconds()
        new = max(0.0, now - self._at) * self.per_second
        self._tokens = min(self._most, self._tokens + new)
        self._at = now

    def _wake_later(self) -> None:
        if self._call is None and self._waiting:
            seconds = max(0.0, (1 - self._tokens) / self.per_second)
            self._call = self._clock.callLater(seconds, self._wake)

    def _wake(self) -> None:
        self._call = None
        self._fill()
        # What is rounded away must not cost another turn.
        while self._waiting and self._tokens >= 1 - 1e-9:
            self._tokens -= 1
            self._waiting.pop(0).callback(None)
        self._wake_later()


def is_rate(rate: str) -> bool:
    """
    Whether a text is a rate.
    """
    try:
        parse_rate(rate)
    except ValueError:
        return False
    return True


def parse_rate(rate: str) -> float:
    """
    How many calls in a second a rate allows.

    :raises ValueError: the rate has another form, or is not more than 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/([smhd])", rate)
    if match is None or not float(match[1]):
        raise ValueError(
            f"the rate {rate!r} is not a number, a slash, and s, m, h or d, such as "
            "300/m"
        )
    return float(match[1]) / _SECONDS[match[2]]
