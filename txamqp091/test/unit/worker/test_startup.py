# -*- test-case-name: txamqp091.test.unit.worker.test_startup -*-
"""
What a process prepares before its first message.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import LocalProtocolError
from txamqp091.worker.startup import run_shutdown, run_startup, started


class StartupTests(SynchronousTestCase):
    """
    Tests for `started` and what goes with it.
    """

    def run_all(self, startup: Any, shutdown: Any) -> Any:
        """
        Start up and shut down.

        :returns: what the startup function has given.
        """
        self.assertRaises(LocalProtocolError, started, startup)
        self.successResultOf(Deferred.fromCoroutine(run_startup(startup)))
        result = started(startup)
        self.successResultOf(Deferred.fromCoroutine(run_shutdown(shutdown, startup)))
        self.assertRaises(LocalProtocolError, started, startup)
        return result

    def test_kinds(self) -> None:
        """
        The functions may be plain, coroutines, or return Deferreds.
        """
        closed: list[object] = []

        def plain() -> int:
            return 1

        def deferred() -> Deferred[int]:
            return succeed(2)

        async def coroutine() -> int:
            return 3

        async def close(pool: int) -> None:
            closed.append(pool)

        found = [self.run_all(each, close) for each in (plain, deferred, coroutine)]
        self.assertEqual((found, closed), ([1, 2, 3], [1, 2, 3]))

    def test_without_parameter(self) -> None:
        """
        A shutdown function without a parameter is called without one.
        """
        closed: list[str] = []
        self.run_all(lambda: 1, lambda: closed.append("closed"))
        self.assertEqual(closed, ["closed"])

    def test_failure(self) -> None:
        """
        What fails fails, and is forgotten.
        """

        def fails() -> None:
            raise KeyError("no")

        starting = Deferred.fromCoroutine(run_startup(fails))
        self.failureResultOf(starting, KeyError)
        with self.assertRaisesRegex(LocalProtocolError, "fails was not run"):
            started(fails)
        ending = Deferred.fromCoroutine(run_shutdown(fails))
        self.failureResultOf(ending, KeyError)
