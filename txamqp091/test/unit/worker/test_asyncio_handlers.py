# -*- test-case-name: txamqp091.test.unit.worker.test_asyncio_handlers -*-
"""
Coroutines that await both what asyncio knows, and Deferreds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.worker.asyncio_handlers import (
    event_loop,
    needs_asyncio,
    run_coroutine,
)


class RunTests(SynchronousTestCase):
    """
    Tests for `run_coroutine`.
    """

    def setUp(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)

    def run_all(self, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """
        Run a coroutine, and let the loop do whatever is due.
        """
        running = run_coroutine(coroutine, self.loop)
        self.turn()
        return running

    def turn(self) -> None:
        """
        Let the loop turn a few times.
        """
        for _ in range(20):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def test_both(self) -> None:
        """
        It awaits futures, tasks and Deferreds, and runs in a task.
        """
        future = self.loop.create_future()
        deferred: Deferred[int] = Deferred()

        async def other() -> int:
            await asyncio.sleep(0)
            return 3

        async def main() -> list[Any]:
            assert asyncio.current_task() is not None
            async with asyncio.timeout(60):
                got = [await future, await deferred, await succeed(9)]
            got.append(await asyncio.gather(other(), other()))
            try:
                await fail(ValueError("no"))
            except ValueError as error:
                got.append(str(error))
            return got

        running = self.run_all(main())
        future.set_result(1)
        self.turn()
        self.assertNoResult(running)
        deferred.callback(2)
        self.turn()
        self.assertEqual(self.successResultOf(running), [1, 2, 9, [3, 3], "no"])

    def test_errors(self) -> None:
        """
        It fails with whatever the coroutine raises.
        """

        async def main(error: BaseException) -> None:
            await asyncio.sleep(0)
            raise error

        for kind in (ValueError, asyncio.CancelledError, GeneratorExit):
            self.failureResultOf(self.run_all(main(kind())), kind)

    def test_cancel(self) -> None:
        """
        Cancelling it cancels the task, and the Deferred that it waits for.
        """
        cancelled: list[object] = []
        waiting: Deferred[None] = Deferred(cancelled.append)

        async def main() -> None:
            await waiting

        running = self.run_all(main())
        running.cancel()
        self.turn()
        self.failureResultOf(running, asyncio.CancelledError, CancelledError)
        self.assertEqual(cancelled, [waiting])


class LoopTests(SynchronousTestCase):
    """
    Whether there is a loop.
    """

    def test_reactors(self) -> None:
        """
        Twisted's asyncio reactor has one.
        """
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        self.assertIs(event_loop(AsyncioSelectorReactor(loop)), loop)
        self.assertIsNone(event_loop(Clock()))

    def test_errors(self) -> None:
        """
        What asyncio raises without a loop is told from other errors.
        """

        async def sleep() -> None:
            await asyncio.sleep(1)

        sleeping = Deferred.fromCoroutine(sleep())
        self.assertTrue(needs_asyncio(self.failureResultOf(sleeping).value))
        self.assertFalse(needs_asyncio(RuntimeError("other")))
        self.assertFalse(needs_asyncio(ValueError("no running event loop")))
