# -*- test-case-name: txamqp091.test.unit.worker.test_failure_policy -*-
"""
How a message is settled whose handler failed.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import UndecodableProperty
from txamqp091.worker.failure_policy import (
    Action,
    Dead,
    Decision,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
    retry_count,
)

ERROR = ValueError("no")


def retrying(on_error: OnError = OnError.RETRY, attempts: int = 3) -> FailurePolicy:
    """
    A policy with delays and a dead-letter queue.
    """
    return FailurePolicy(
        on_error=on_error, attempts=attempts, delays=(7, 10), on_dead=Dead.QUEUE
    )


class DecisionTests(SynchronousTestCase):
    """
    One decision for each failure.
    """

    def test_once_more(self) -> None:
        """
        The handler is called a second time, after a pause; then the message is dead.
        """
        policy = FailurePolicy(on_dead=Dead.QUEUE)
        self.assertEqual(policy.decide(ERROR, 1), Decision(Action.HOLD, 5.0))
        self.assertEqual(policy.decide(ERROR, 1, 2), Decision(Action.DEAD_LETTER))
        # However often it was delivered before: that was no failure.
        self.assertEqual(policy.decide(ERROR, 9), Decision(Action.HOLD, 5.0))

    def test_retry(self) -> None:
        """
        The delays grow as configured, and the last one counts for all that follow.
        """
        policy = retrying(attempts=5)
        decisions = [policy.decide(ERROR, tries) for tries in range(1, 7)]
        self.assertEqual(
            decisions,
            [
                Decision(Action.RETRY, 7),
                *[Decision(Action.RETRY, 10)] * 3,
                *[Decision(Action.DEAD_LETTER)] * 2,
            ],
        )
        self.assertEqual(FailurePolicy().delay(3), 0)

    def test_dead(self) -> None:
        """
        Without a word about dead messages, a dead message is kept, and its handler is
        called again with growing delays.  It is discarded only if the policy says so.
        """
        for on_dead, decision in {
            Dead.QUEUE: Decision(Action.DEAD_LETTER),
            Dead.EXCHANGE: Decision(Action.REJECT),
            Dead.DROP: Decision(Action.REJECT),
            Dead.HALT: Decision(Action.HAND_BACK, halt=True),
            Dead.KEEP: Decision(Action.HOLD, 5.0),
        }.items():
            policy = FailurePolicy(on_error=OnError.REJECT, on_dead=on_dead)
            self.assertEqual(policy.decide(ERROR, 1), decision)
            self.assertIs(policy.discards, on_dead is Dead.DROP)
        kept = [FailurePolicy().decide(ERROR, 1, each).delay for each in (2, 3, 7, 99)]
        self.assertEqual(kept, [10.0, 20.0, 300.0, 300.0])

    def test_rejected(self) -> None:
        """
        What a handler itself says `Reject` to is rejected, where no place is named.
        """
        policy = FailurePolicy()
        self.assertEqual(policy.decide(Reject(), 1), Decision(Action.REJECT))
        halting = FailurePolicy(on_dead=Dead.HALT)
        decision = Decision(Action.HAND_BACK, halt=True)
        self.assertEqual(halting.decide(Reject(), 1), decision)

    def test_drop(self) -> None:
        """
        Messages may be discarded at once; then nothing is dead-lettered.
        """
        policy = FailurePolicy(on_error=OnError.DROP)
        for error in (ERROR, Reject(), TooManyDeliveries(9)):
            self.assertEqual(policy.decide(error, 1), Decision(Action.REJECT))
        self.assertTrue(policy.discards)

    def test_halt(self) -> None:
        """
        An error may end the daemon; then the message has not failed.
        """
        policy = FailurePolicy(on_error=OnError.HALT)
        expected = Decision(Action.HAND_BACK, halt=True)
        self.assertEqual(policy.decide(ERROR, 1), expected)

    def test_said(self) -> None:
        """
        What handlers raise overrides the policy.
        """
        for on_error in OnError:
            policy = retrying(on_error)
            dead = Decision(Action.DEAD_LETTER)
            if on_error is OnError.DROP:
                dead = Decision(Action.REJECT)
            for error, decision in {
                Reject("bad"): dead,
                Requeue(): Decision(Action.REQUEUE),
                Retry(): Decision(Action.RETRY, 7),
                Halt(): Decision(Action.HAND_BACK, halt=True),
                Halt("full", done=True): Decision(Action.ACK, halt=True),
                TooManyDeliveries(9): dead,
            }.items():
                self.assertEqual(policy.decide(error, 1), decision)

    def test_retry_without_delays(self) -> None:
        """
        A consumer without delays treats `Retry` as any error.
        """
        self.assertIs(FailurePolicy().decide(Retry(), 1).action, Action.HOLD)

    def test_undecodable(self) -> None:
        """
        A message that cannot be decoded is dead at once.
        """
        error = UndecodableProperty("headers", "broken", b"")
        for on_error in (OnError.ONCE_MORE, OnError.RETRY, OnError.REJECT):
            decision = retrying(on_error).decide(error, 1)
            self.assertEqual(decision, Decision(Action.DEAD_LETTER))

    def test_deliveries(self) -> None:
        """
        Of what was delivered and never settled, the second half of the deliveries run
        alone, and at least one does before a message is dead.
        """
        policy = FailurePolicy(max_deliveries=3)
        self.assertEqual(
            [policy.is_suspect(each) for each in range(4)], [False, False, True, True]
        )
        self.assertEqual([policy.is_used_up(each) for each in (2, 3)], [False, True])
        least = FailurePolicy(max_deliveries=1)
        self.assertEqual([least.is_suspect(1), least.is_used_up(1)], [True, False])
        self.assertTrue(least.is_used_up(2))
        self.assertFalse(FailurePolicy().is_suspect(99))
        self.assertFalse(FailurePolicy().is_used_up(99))

    @settings(deadline=None)
    @given(
        st.sampled_from(OnError),
        st.integers(1, 9),
        st.lists(st.floats(0.001, 1e6), max_size=4),
        st.integers(1, 30),
    )
    def test_ends(
        self, on_error: OnError, attempts: int, delays: list[float], tries: int
    ) -> None:
        """
        No message goes through delay queues for ever.
        """
        policy = FailurePolicy(
            on_error=on_error, attempts=attempts, delays=tuple(delays)
        )
        action = policy.decide(Retry() if delays else ERROR, tries).action
        if tries >= attempts:
            self.assertIsNot(action, Action.RETRY)

    def test_texts(self) -> None:
        """
        The errors that we raise say what happened.
        """
        self.assertIn("2.5 s", str(HandlerTimeout(2.5)))
        self.assertIn("7 times", str(TooManyDeliveries(7)))


class CountTests(SynchronousTestCase):
    """
    The count in a header, which any publisher may have written.
    """

    def test_counts(self) -> None:
        """
        A whole number counts; anything else is none.
        """
        for value, count in ((3, 3), (0, 0), (-1, 0), ("3", 0), (True, 0), (None, 0)):
            self.assertEqual(retry_count({"x-retry-count": value}), count)
        self.assertEqual(retry_count({}), 0)
