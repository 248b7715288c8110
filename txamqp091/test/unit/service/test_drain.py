# -*- test-case-name: txamqp091.test.unit.service.test_drain -*-
"""
Tests for `txamqp091.service.drain`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.service.drain import Drain


class DrainTests(SynchronousTestCase):
    """
    Tests for `Drain`.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.drain = Drain(self.clock, 3.0)

    def wait(self, *steps: Deferred[None], limit: float = 0.0) -> Deferred[None]:
        """
        Wait for steps.
        """
        return Deferred.fromCoroutine(self.drain.wait("answers", steps, limit))

    def test_in_time(self) -> None:
        """
        The wait ends when all steps have ended, also by a failure, and logs nothing.
        """
        step: Deferred[None] = Deferred()
        with capturedLogs() as logs:
            waiting = self.wait(succeed(None), fail(ValueError()), step)
            self.clock.advance(2.9)
            self.assertNoResult(waiting)
            step.callback(None)
            self.successResultOf(waiting)
        self.assertEqual(logs, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """
        At the deadline, steps are cancelled, and the log says how many.  Later steps
        have no time left.
        """
        cancelled: list[object] = []
        with capturedLogs() as logs:
            waiting = self.wait(Deferred(cancelled.append), succeed(None))
            self.clock.advance(3.0)
            self.successResultOf(waiting)
            later = self.wait(Deferred(cancelled.append))
            self.clock.advance(0)
            self.successResultOf(later)
        self.assertEqual(len(cancelled), 2)
        self.assertEqual(
            [formatEvent(each) for each in logs],
            [
                "Stopping without waiting any longer for 1 of 2 answers",
                "Stopping without waiting any longer for 1 of 1 answers",
            ],
        )

    def test_own_limit(self) -> None:
        """
        A step with a limit of its own has that, also after the deadline.
        """
        self.clock.advance(5.0)
        waiting = self.wait(Deferred(), limit=2.0)
        self.drain.expire()
        self.clock.advance(1.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.successResultOf(waiting)

    def test_expire(self) -> None:
        """
        The deadline can be moved to now.
        """
        waiting = self.wait(Deferred())
        self.drain.expire()
        self.successResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
