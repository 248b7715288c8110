# -*- test-case-name: txamqp091.test.unit.service.test_retry -*-
"""
Delays between attempts: `RetryPolicy` says how long they are, `Backoff` counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from txamqp091.errors import AccessRefused, AMQPError, Closed, EncodeError, NotFound

# What RabbitMQ says of a queue that may be there soon: its node is down, the queue has
# crashed, or another connection has it, perhaps the last one of this client.
_FOR_NOW = (
    "down or inaccessible",
    "stopped by supervisor",
    "has crashed",
    "in exclusive use",
)


def is_permanent(error: BaseException | None) -> bool:
    """
    Whether the next attempt will fail like this one, until someone changes something:
    the password, the virtual host, the certificate, the queue.
    """
    return isinstance(error, AMQPError) and not error.retriable


def is_refusal(error: BaseException | None) -> bool:
    """
    Whether the broker has refused an operation, and will refuse it again until someone
    changes something: the permissions, the queue, or the arguments.
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
    The delays between attempts to connect, and when to give up.

    The delays grow from ``initial_delay`` by ``factor`` to ``max_delay``, and are
    shortened at random, so that the clients of a restarted broker do not reconnect all
    at once.  They begin again with the first one after a connection that was ready for
    longer than the last delay.

    :ivar initial_delay: the first delay, in seconds.
    :ivar max_delay: the longest delay, in seconds.
    :ivar factor: by how much delays grow.
    :ivar jitter: the part of a delay by which it may be shortened; 0 is not at all.
    :ivar permanent: what to do about an error that does not pass by itself, such as a
        wrong password.  ``"wait"`` tries again after the longest delay, since someone
        may correct it.  ``"fail"`` gives up.  ``"fail-at-start"`` gives up before the
        first connection, and waits after it.
    :ivar max_attempts: give up after so many failed attempts in a row; None is never.
    :ivar max_seconds: give up after so many seconds without a connection; None is
        never.
    :ivar next_address_after: how many seconds an address has before the next one is
        tried as well.
    :ivar random: returns numbers from 0 to 1, for the jitter and the order of
        addresses.
    """

    initial_delay: float = 0.5
    max_delay: float = 10.0
    factor: float = 2.0
    jitter: float = 0.5
    permanent: Literal["wait", "fail", "fail-at-start"] = "wait"
    max_attempts: int | None = None
    max_seconds: float | None = None
    next_address_after: float = 2.0
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.initial_delay <= self.max_delay:
            raise ValueError(
                f"initial_delay is {self.initial_delay}, max_delay {self.max_delay}: "
                "the first must be more than 0, and not more than the second"
            )
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}, less than 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}, not from 0 to 1")
        if self.permanent not in ("wait", "fail", "fail-at-start"):
            raise ValueError(
                f"permanent is {self.permanent!r}, not 'wait', 'fail' or "
                "'fail-at-start'"
            )
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}, less than 1")

    def delay(self, attempt: int) -> float:
        """
        The delay after so many failed attempts in a row.
        """
        # A power would overflow.
        delay = self.initial_delay
        for _ in range(attempt - 1):
            delay *= self.factor
            if delay >= self.max_delay or self.factor == 1:
                break
        return self._shortened(min(delay, self.max_delay))

    def longest(self) -> float:
        """
        The delay where an early attempt is of no use.
        """
        return self._shortened(self.max_delay)

    def _shortened(self, delay: float) -> float:
        return delay * (1 - self.jitter * self.random())


class Backoff:
    """
    The delays of one thing that is tried again.

    :ivar attempts: how many attempts in a row have failed, or did not last.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.attempts = 0
        self._policy = policy
        self._last = 0.0
        self._begun: float | None = None

    def succeeded(self, now: float) -> None:
        """
        The attempt has succeeded.  This counts if it lasts.
        """
        self._begun = now

    def next(self, now: float, error: BaseException | None = None) -> float:
        """
        The attempt has failed, or its success is over.

        :param error: why.
        :returns: the delay before the next attempt.
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
