# -*- test-case-name: txamqp091.test.unit.service.test_retry -*-
"""
Tests for `txamqp091.service.retry`: how long to wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ChannelClosed,
    ConnectionLost,
    EncodeError,
    NotFound,
    PreconditionFailed,
    RemoteProtocolError,
    ResourceLocked,
)
from txamqp091.service.retry import Backoff, RetryPolicy, is_permanent, is_refusal

PLAIN = RetryPolicy(initial_delay=1, max_delay=30, jitter=0)


class PolicyTests(SynchronousTestCase):
    """
    Tests for `RetryPolicy`.
    """

    def test_growth(self) -> None:
        """
        Delays grow up to the longest.
        """
        delays = [PLAIN.delay(attempt) for attempt in range(1, 8)]
        self.assertEqual(delays, [1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(PLAIN.delay(100_000), 30)
        self.assertEqual(replace(PLAIN, factor=1).delay(100_000), 1)
        self.assertEqual(PLAIN.longest(), 30)

    @given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1))
    def test_jitter(self, attempt: int, jitter: float, chance: float) -> None:
        """
        Chance shortens delays, by the given part at the most: 30 s are not exceeded.
        """
        policy = replace(PLAIN, jitter=jitter, random=lambda: chance)
        delay = policy.delay(attempt)
        self.assertLessEqual(delay, PLAIN.delay(attempt))
        self.assertGreaterEqual(delay, PLAIN.delay(attempt) * (1 - jitter))
        self.assertLessEqual(RetryPolicy().delay(attempt), 10)

    def test_refused(self) -> None:
        """
        What makes no sense is refused.
        """
        bad: list[dict[str, Any]] = [
            {"initial_delay": 0},
            {"initial_delay": 60},
            {"factor": 0.5},
            {"jitter": 1.5},
            {"permanent": "ignore"},
            {"max_attempts": 0},
        ]
        for settings in bad:
            with self.assertRaises(ValueError):
                RetryPolicy(**settings)

    def test_permanent(self) -> None:
        """
        Errors of this package know whether they pass; others may.
        """
        self.assertTrue(is_permanent(AuthenticationFailed()))
        self.assertFalse(is_permanent(ConnectionLost()))
        self.assertFalse(is_permanent(OSError()))
        self.assertFalse(is_permanent(None))


class BackoffTests(SynchronousTestCase):
    """
    Tests for `Backoff`.
    """

    def test_failures(self) -> None:
        """
        As long as nothing succeeds, delays grow.
        """
        backoff = Backoff(PLAIN)
        self.assertEqual([backoff.next(0) for _ in range(3)], [1, 2, 4])
        self.assertEqual(backoff.attempts, 3)

    def test_success(self) -> None:
        """
        A success that outlasts the last delay lets them begin anew; one that does not
        does not.
        """
        backoff = Backoff(PLAIN)
        backoff.next(0)
        backoff.next(0)
        backoff.succeeded(10)
        self.assertEqual(backoff.next(11), 4)
        backoff.succeeded(20)
        self.assertEqual(backoff.next(24), 1)

    def test_permanent(self) -> None:
        """
        An error that will not pass has the longest delay, unless something succeeded
        just before it.
        """
        backoff = Backoff(PLAIN)
        self.assertEqual(backoff.next(0, AuthenticationFailed()), 30)
        self.assertEqual(backoff.next(0, ConnectionLost()), 2)
        backoff.succeeded(0)
        self.assertEqual(backoff.next(100, AuthenticationFailed()), 1)


class RefusalTests(SynchronousTestCase):
    """
    Tests for `is_refusal`.
    """

    def test_refusals(self) -> None:
        """
        What the broker will say again is one; what passes, or is our own doing, is not.
        """
        for error, expected in (
            (AccessRefused("no"), True),
            (PreconditionFailed("no"), True),
            (NotFound("no queue 'q' in vhost '/'"), True),
            (EncodeError("arguments['x']", "is a set"), True),
            (NotFound("home node of queue 'q' is down or inaccessible"), False),
            (NotFound("queue 'q' process is stopped by supervisor"), False),
            (AccessRefused("queue 'q' in vhost '/' in exclusive use"), False),
            (ResourceLocked("exclusive"), False),
            (ConnectionLost("gone"), False),
            (ChannelClosed("closed", by_us=True), False),
            (RemoteProtocolError("garbage"), False),
            (TimeoutError("late"), False),
        ):
            self.assertIs(is_refusal(error), expected, repr(error))
