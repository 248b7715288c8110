# -*- test-case-name: txamqp091.test.unit.worker.test_failure_policy -*-
"""
What is decided about a message whose handler has ended.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import ContentTooLarge, UndecodableProperty
from txamqp091.worker.failure_policy import (
    Action,
    Decision,
    FailurePolicy,
    Halt,
    HandlerTimeout,
    OnError,
    Reject,
    Requeue,
    Retry,
    TooManyDeliveries,
    delivery_count,
    retry_count,
)

ERROR = ValueError("no")


class DecisionTests(SynchronousTestCase):
    """
    One decision for each way to end.
    """

    def test_success(self) -> None:
        """
        Success acknowledges, whatever the policy.
        """
        for on_error in OnError:
            policy = FailurePolicy(on_error=on_error)
            self.assertEqual(policy.decide(None, 1, False), Decision(Action.ACK))

    def test_once_more(self) -> None:
        """
        By default a message is tried twice, by the broker's own mark.
        """
        policy = FailurePolicy()
        self.assertIs(policy.decide(ERROR, 1, False).action, Action.REQUEUE)
        self.assertIs(policy.decide(ERROR, 1, True).action, Action.REJECT)

    def test_retry(self) -> None:
        """
        The delays grow as they were told to, and the last one is kept.
        """
        policy = FailurePolicy(
            on_error=OnError.RETRY, attempts=5, delays=(1, 10), parks=True
        )
        decisions = [policy.decide(ERROR, tries, True) for tries in range(1, 7)]
        self.assertEqual(
            decisions,
            [
                Decision(Action.RETRY, 1),
                *[Decision(Action.RETRY, 10)] * 3,
                *[Decision(Action.DEAD_LETTER)] * 2,
            ],
        )
        self.assertEqual(FailurePolicy().delay(3), 0)

    def test_dead_without_parking(self) -> None:
        """
        Without a parking queue what is dead is rejected.
        """
        policy = FailurePolicy(on_error=OnError.RETRY, attempts=1)
        self.assertIs(policy.decide(ERROR, 1, False).action, Action.REJECT)

    def test_reject(self) -> None:
        """
        An error may be the end of a message at once.
        """
        policy = FailurePolicy(on_error=OnError.REJECT)
        self.assertIs(policy.decide(ERROR, 1, False).action, Action.REJECT)
        self.assertIs(policy.decide(HandlerTimeout(3), 1, False).action, Action.REJECT)

    def test_halt(self) -> None:
        """
        An error may be the end of the daemon; then it is no fault of the message.
        """
        policy = FailurePolicy(on_error=OnError.HALT)
        expected = Decision(Action.HAND_BACK, halt=True)
        self.assertEqual(policy.decide(ERROR, 1, False), expected)

    def test_said(self) -> None:
        """
        What handlers raise is stronger than the policy.
        """
        for on_error in OnError:
            policy = FailurePolicy(
                on_error=on_error, attempts=3, delays=(7,), parks=True
            )
            for error, decision in {
                Reject("bad"): Decision(Action.DEAD_LETTER),
                Requeue(): Decision(Action.REQUEUE),
                Retry(): Decision(Action.RETRY, 7),
                Halt(): Decision(Action.HAND_BACK, halt=True),
                Halt("full", done=True): Decision(Action.ACK, halt=True),
                TooManyDeliveries(9): Decision(Action.DEAD_LETTER),
            }.items():
                self.assertEqual(policy.decide(error, 1, True), decision)

    def test_retry_without_delays(self) -> None:
        """
        A consumer without delays treats `Retry` as any error.
        """
        self.assertIs(FailurePolicy().decide(Retry(), 1, False).action, Action.REQUEUE)

    def test_undecodable(self) -> None:
        """
        What cannot be read is rejected at once, and never sent on.
        """
        for on_error in OnError:
            policy = FailurePolicy(
                on_error=on_error, attempts=3, delays=(7,), parks=True
            )
            for error in (
                UndecodableProperty("headers", "broken", b""),
                ContentTooLarge(2, 1),
            ):
                decision = policy.decide(error, 1, False)
                self.assertEqual(decision, Decision(Action.REJECT))

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
        No message is retried for ever.
        """
        policy = FailurePolicy(
            on_error=on_error, attempts=attempts, delays=tuple(delays)
        )
        action = policy.decide(Retry() if delays else ERROR, tries, True).action
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
    The counts in headers, which anybody may have written.
    """

    def test_counts(self) -> None:
        """
        A whole number counts; anything else is none.
        """
        for value, count in ((3, 3), (0, 0), (-1, 0), ("3", 0), (True, 0), (None, 0)):
            self.assertEqual(retry_count({"x-retry-count": value}), count)
            self.assertEqual(delivery_count({"x-delivery-count": value}), count)
        self.assertEqual((retry_count({}), delivery_count({})), (0, 0))
