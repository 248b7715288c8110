# -*- test-case-name: txamqp091.test.unit.service.test_retry -*-
"""
How long to wait before the next try: `RetryPolicy` says it, `Backoff` counts.
"""

from __future__ import annotations

__all__ = ["Backoff", "RetryPolicy", "is_permanent", "is_refusal"]

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from txamqp091.errors import AccessRefused, AMQPError, Closed, EncodeError, NotFound

# What RabbitMQ says where it is only for now: the queue's node is down, it has crashed,
# or somebody else has it, who may be our own last connection.
_FOR_NOW = (
    "down or inaccessible",
    "stopped by supervisor",
    "has crashed",
    "in exclusive use",
)


def is_permanent(error: BaseException | None) -> bool:
    """
    Whether the next try will end as this one did, unless somebody changes something:
    the password, the virtual host, the certificate, the queue.
    """
    return isinstance(error, AMQPError) and not error.retriable


def is_refusal(error: BaseException | None) -> bool:
    """
    Whether the broker has refused an operation, and will again, unless somebody changes
    something: the permissions, the queue, or what was asked for.
    """
    if isinstance(error, EncodeError):
        return True
    if not isinstance(error, Closed) or error.by_us or not is_permanent(error):
        return False
    text = error.reply_text
    passes = isinstance(error, NotFound | AccessRefused)
    return not (passes and any(each in text for each in _FOR_NOW))


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """
    When to try again, and whether.

    The delays grow from ``initial_delay`` by ``factor`` to ``max_delay``, and are
    shortened at random, so that the clients of a broker that has been restarted do not
    come back all at once.  A connection that has been ready for longer than the last
    delay lets them begin anew.

    :ivar initial_delay: the first delay, in seconds.
    :ivar max_delay: the longest delay, in seconds.
    :ivar factor: by how much delays grow.
    :ivar jitter: by which part of a delay it may be shortened; 0 is not at all.
    :ivar permanent: what to do about errors that will not pass by themselves, such as
        a wrong password: ``"wait"`` goes on, at the longest delay, since somebody may
        put it right; ``"fail"`` gives up.
    :ivar max_attempts: after how many attempts in a row that failed to give up; None is
        never.
    :ivar max_seconds: after how many seconds without a connection to give up; None is
        never.
    :ivar next_address_after: how many seconds an address has before the next one is
        tried as well.
    :ivar random: gives numbers from 0 to 1, for the jitter and the order of addresses.
    """

    initial_delay: float = 0.5
    max_delay: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5
    permanent: Literal["wait", "fail"] = "wait"
    max_attempts: int | None = None
    max_seconds: float | None = None
    next_address_after: float = 2.0
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.initial_delay <= self.max_delay:
            raise ValueError("0 < initial_delay <= max_delay is not so")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}, less than 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}, not from 0 to 1")
        if self.permanent not in ("wait", "fail"):
            raise ValueError(f"permanent is {self.permanent!r}, not 'wait' or 'fail'")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}, less than 1")

    def delay(self, attempt: int) -> float:
        """
        How long to wait after so many attempts in a row that failed.
        """
        # Not the power of anything large: that overflows.
        delay = self.initial_delay
        for _ in range(attempt - 1):
            delay *= self.factor
            if delay >= self.max_delay or self.factor == 1:
                break
        return self._shortened(min(delay, self.max_delay))

    def longest(self) -> float:
        """
        How long to wait where trying soon is of no use.
        """
        return self._shortened(self.max_delay)

    def _shortened(self, delay: float) -> float:
        return delay * (1 - self.jitter * self.random())


class Backoff:
    """
    The delays of one thing that is tried again and again.

    :ivar attempts: how many tries in a row have failed, or did not last.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.attempts = 0
        self._policy = policy
        self._last = 0.0
        self._begun: float | None = None

    def succeeded(self, now: float) -> None:
        """
        It is well now.  That counts when it lasts.
        """
        self._begun = now

    def next(self, now: float, error: BaseException | None = None) -> float:
        """
        It has failed: how long to wait.

        :param error: why.
        """
        begun, self._begun = self._begun, None
        if begun is not None and now - begun >= self._last:
            self.attempts = 0
        self.attempts += 1
        if begun is None and is_permanent(error):
            self._last = self._policy.longest()
        else:
            self._last = self._policy.delay(self.attempts)
        return self._last
