# -*- test-case-name: txamqp091.test.unit.client.test_observer -*-
"""
Tests for `txamqp091._observer`: an event, and those who wait for it.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._observer import Observers, OneShot
from txamqp091.errors import ConnectionClosed


class ObserversTests(SynchronousTestCase):
    """
    Functions that are called at each event.
    """

    def setUp(self) -> None:
        self.observers: Observers[[str]] = Observers("the event", Logger())

    def test_undo(self) -> None:
        """
        Each observation ends by itself, and once, also when one function observes
        twice.
        """
        told: list[str] = []
        first = self.observers.add(told.append)
        second = self.observers.add(told.append)
        first()
        first()
        self.observers.tell("one")
        self.assertEqual(told, ["one"])
        second()
        self.observers.tell("two")
        self.assertEqual(told, ["one"])

    def test_failures(self) -> None:
        """
        A function that fails, now or later, is logged, and the others are called.
        """
        told: list[str] = []
        waiting: Deferred[None] = Deferred()

        def leave(what: str) -> None:
            raise SystemExit(what)

        async def later(what: str) -> None:
            await waiting
            raise ValueError(what)

        for each in (leave, later, told.append):
            self.observers.add(each)
        with capturedLogs() as logs:
            self.observers.tell("one")
            self.assertEqual(told, ["one"])
            waiting.callback(None)
        self.assertEqual(
            [each["log_failure"].type for each in logs], [SystemExit, ValueError]
        )
        self.assertEqual({each["event"] for each in logs}, {"the event"})
        self.flushLoggedErrors()


class OneShotTests(SynchronousTestCase):
    """
    Each asker has a Deferred of their own.
    """

    def setUp(self) -> None:
        self.event: OneShot[str] = OneShot()

    def test_fire(self) -> None:
        """
        Those who asked before and those who ask after are told.
        """
        early = [self.event.when_fired(), self.event.when_fired()]
        self.assertFalse(self.event.fired)
        self.event.fire("done")
        self.assertTrue(self.event.fired)
        for each in (*early, self.event.when_fired()):
            self.assertEqual(self.successResultOf(each), "done")

    def test_fail(self) -> None:
        """
        It can also turn out that it will not happen.
        """
        problem = ValueError("no")
        early = self.event.when_fired()
        self.event.fail(problem)
        for each in (early, self.event.when_fired()):
            self.assertIs(self.failureResultOf(each, ValueError).value, problem)

    def test_nobody_asked(self) -> None:
        """
        If nobody asks, a failure is nobody's, and is not logged.
        """
        self.event.fail(ValueError("no"))
        del self.event
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_first_counts(self) -> None:
        """
        What comes after the first outcome changes nothing.
        """
        self.event.fire("first")
        self.event.fire("second")
        self.event.fail(ValueError("third"))
        self.assertEqual(self.successResultOf(self.event.when_fired()), "first")
        other: OneShot[str] = OneShot()
        other.fail(ValueError("first"))
        other.fire("second")
        self.failureResultOf(other.when_fired(), ValueError)

    def test_own_results(self) -> None:
        """
        What one asker makes of the result is not seen by the others.
        """
        first = self.event.when_fired().addCallback(str.upper)
        second = self.event.when_fired()
        self.event.fire("done")
        self.assertEqual(self.successResultOf(first), "DONE")
        self.assertEqual(self.successResultOf(second), "done")

    def test_cancel(self) -> None:
        """
        To cancel is to wait no more, for this asker only.
        """
        first, second = self.event.when_fired(), self.event.when_fired()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.event.fire("done")
        self.assertEqual(self.successResultOf(second), "done")

    def cancel(self, _: object, other: Deferred[str]) -> None:
        """
        A callback that cancels somebody else's Deferred.
        """
        other.cancel()

    def test_cancelled_by_another(self) -> None:
        """
        An asker who is told may cancel one who has not been told yet.
        """
        for happens in (True, False):
            event: OneShot[str] = OneShot()
            first, second, third = (event.when_fired() for _ in range(3))
            first.addBoth(self.cancel, second)
            if happens:
                event.fire("done")
            else:
                event.fail(ValueError("no"))
            self.successResultOf(first)
            self.failureResultOf(second, CancelledError)
            third.addErrback(lambda _: "told")
            self.successResultOf(third)

    def test_asked_from_inside(self) -> None:
        """
        An asker who is told may ask again, and is answered at once.
        """
        again: list[Deferred[str]] = []
        asked = self.event.when_fired()
        asked.addCallback(lambda _: again.append(self.event.when_fired()))
        self.event.fire("done")
        self.assertEqual(self.successResultOf(again[0]), "done")

    def test_over(self) -> None:
        """
        Who wants no more than that it is over does not hear of the reason; but of
        giving up, and of what is no reason of ours.
        """
        given_up = self.event.when_over()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        early = self.event.when_over()
        self.event.fail(ConnectionClosed("bye"))
        for over in (early, self.event.when_over()):
            self.assertIsNone(self.successResultOf(over))
        bug: OneShot[str] = OneShot()
        bug.fail(ZeroDivisionError())
        self.failureResultOf(bug.when_over(), ZeroDivisionError)
        fired: OneShot[str] = OneShot()
        fired.fire("done")
        self.assertIsNone(self.successResultOf(fired.when_over()))
