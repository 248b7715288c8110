# -*- test-case-name: txamqp091.test.unit.client.test_threads -*-
"""
The threads that blocking handlers run in.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import TestCase

from txamqp091._threads import ThreadRunner

color: ContextVar[str] = ContextVar("color", default="none")


class ThreadRunnerTests(TestCase):
    """
    Functions are run in threads.
    """

    timeout = 120.0

    def runner(self, size: int) -> ThreadRunner:
        """
        A runner that is stopped when the test ends.
        """
        from twisted.internet import reactor

        runner = ThreadRunner(reactor, size, "test")  # type: ignore[arg-type]
        self.addCleanup(runner.stop)
        return runner

    async def test_result(self) -> None:
        """
        What a function returns or raises comes back, into the reactor's thread.
        """
        runner = self.runner(1)
        self.assertEqual(await runner.run(len, "abc"), 3)
        with self.assertRaises(TypeError):
            await runner.run(len, 3)
        with self.assertRaises(SystemExit):
            await runner.run(exit, 3)
        self.assertEqual(runner.busy, 0)

    async def test_size(self) -> None:
        """
        There are as many threads as are needed, and no more than may be.
        """
        runner = self.runner(2)
        names: set[str] = set()
        both = threading.Barrier(2, timeout=60)

        def meet(_: object) -> None:
            names.add(threading.current_thread().name)
            both.wait()

        await gatherResults([runner.run(meet, None) for _ in range(6)])
        self.assertEqual(names, {"test-1", "test-2"})
        one = self.runner(2)
        await one.run(len, "")
        await one.run(len, "")
        self.assertEqual(one._threads, 1)

    async def test_context(self) -> None:
        """
        Context variables are the caller's, and what is set there stays there.
        """

        def look(_: object) -> str:
            seen = color.get()
            color.set("blue")
            return seen

        runner = self.runner(1)
        color.set("red")
        self.assertEqual(await runner.run(look, None), "red")
        self.assertEqual(color.get(), "red")

    async def test_cancel(self) -> None:
        """
        Who cancels waits no more; the function goes on, and its end is ignored.
        """
        runner = self.runner(1)
        going = threading.Event()
        waiting: Deferred[object] = runner.run(lambda _: going.wait(60), None)
        waiting.cancel()
        going.set()
        with self.assertRaises(CancelledError):
            await waiting
        self.assertEqual(await runner.run(len, ""), 0)

    async def test_stop(self) -> None:
        """
        The threads end when all is done, and stopping again is harmless.
        """
        runner = self.runner(1)
        thread = await runner.run(lambda _: threading.current_thread(), None)
        self.assertTrue(thread.daemon)
        runner.stop()
        runner.stop()
        thread.join(60)
        self.assertFalse(thread.is_alive())
