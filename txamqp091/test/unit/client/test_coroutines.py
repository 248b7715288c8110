# -*- test-case-name: txamqp091.test.unit.client.test_coroutines -*-
"""
Coroutines run as with `Deferred.fromCoroutine`, and cost no Deferred if they await
nothing.
"""

from __future__ import annotations

import gc
import sys
from contextvars import ContextVar
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._coroutines import begin

variable: ContextVar[str] = ContextVar("variable", default="outside")


class BeginTests(SynchronousTestCase):
    """
    Tests for `begin`.
    """

    def test_awaits_nothing(self) -> None:
        """
        The result of a coroutine that awaits nothing, or only what has fired, comes at
        once; so does its error.
        """

        async def adds(number: int) -> int:
            return number + await succeed(1)

        async def fails() -> None:
            raise ValueError("no")

        self.assertEqual(begin(adds(1)), 2)
        with self.assertRaisesRegex(ValueError, "no"):
            begin(fails())

    def test_awaits(self) -> None:
        """
        A coroutine that awaits goes on with the result or the error of each Deferred.
        """
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()

        async def coroutine() -> list[Any]:
            results: list[Any] = [await first]
            try:
                await second
            except ValueError as error:
                results.append(str(error))
            return [*results, await succeed(3)]

        result = begin(coroutine())
        self.assertNoResult(result)
        first.callback(1)
        self.assertNoResult(result)
        second.errback(ValueError("two"))
        self.assertEqual(self.successResultOf(result), [1, "two", 3])

    def test_fails_later(self) -> None:
        """
        The Deferred fails with what the coroutine raises after it has waited.
        """
        waiting: Deferred[None] = Deferred()

        async def coroutine() -> None:
            await waiting
            raise ValueError("no")

        result = begin(coroutine())
        waiting.callback(None)
        self.failureResultOf(result, ValueError)

    def test_cancel(self) -> None:
        """
        To cancel the Deferred cancels what the coroutine waits for.
        """
        cancelled: list[object] = []
        waiting: Deferred[None] = Deferred(cancelled.append)

        async def coroutine() -> None:
            try:
                await waiting
            finally:
                cancelled.append("finally")

        result = begin(coroutine())
        result.cancel()
        self.assertEqual(cancelled, [waiting, "finally"])
        self.failureResultOf(result, CancelledError)

    def test_context(self) -> None:
        """
        A coroutine has one context from its beginning to its end, a copy of that of its
        caller: what it sets can be reset after it has waited, and nothing else sees it.
        """
        waiting: Deferred[None] = Deferred()

        async def coroutine() -> list[str]:
            token = variable.set("inside")
            await waiting
            seen = [variable.get()]
            variable.reset(token)
            return [*seen, variable.get()]

        token = variable.set("caller")
        result = begin(coroutine())
        self.assertEqual(variable.get(), "caller")
        variable.reset(token)
        waiting.callback(None)
        self.assertEqual(self.successResultOf(result), ["inside", "caller"])

    def test_no_deferred(self) -> None:
        """
        A coroutine that awaits anything else than a Deferred is told so by that thing.
        """

        class Own:
            def __await__(self) -> Any:
                return (yield "a question")

        async def coroutine() -> Any:
            return await Own()

        self.assertEqual(self.successResultOf(begin(coroutine())), "a question")


class CollectedTests(SynchronousTestCase):
    """
    Coroutines that are collected while they wait.
    """

    def test_collected(self) -> None:
        """
        A coroutine whose Deferred is forgotten is closed, in whichever order the
        collector finds its parts.
        """
        ended: list[str] = []

        async def wait() -> None:
            try:
                await Deferred()
            finally:
                ended.append("closed")

        coroutine = wait()
        result = begin(coroutine)
        self.assertIsInstance(result, Deferred)
        coroutine.close()
        self.assertEqual(ended, ["closed"])
        with mock.patch.object(sys, "unraisablehook") as unraisable:
            del result
            gc.collect()
        self.assertEqual(unraisable.call_args_list, [])
        self.assertEqual(ended, ["closed"])
