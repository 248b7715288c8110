# -*- test-case-name: txamqp091.test.unit.adapters.test_loops -*-
"""
The clocks of other loops keep Twisted's promises.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091.adapters._asyncio import AsyncioLoop
from txamqp091.adapters._selector import SelectorLoop
from txamqp091.errors import LocalProtocolError


class ClockMixin:
    """
    What both clocks do.

    :ivar clock: the clock.
    """

    clock: IReactorTime

    def turn(self, seconds: float = 0.0) -> None:
        """
        Let the loop turn for so long.
        """
        raise NotImplementedError

    def case(self) -> SynchronousTestCase:
        return cast(SynchronousTestCase, self)

    def test_interfaces(self) -> None:
        """
        It is a clock, a way in for threads, and its calls are delayed calls.
        """
        verifyObject(IReactorTime, self.clock)
        verifyObject(IReactorFromThreads, self.clock)
        call = self.clock.callLater(1, int)
        verifyObject(IDelayedCall, call)
        self.case().assertAlmostEqual(call.getTime(), self.clock.seconds() + 1, 1)
        call.cancel()

    def test_order(self) -> None:
        """
        Calls are made in the order of their times, and with their arguments.
        """
        made: list[object] = []
        self.clock.callLater(0.02, made.append, "late")
        self.clock.callLater(0, made.append, "soon")
        self.clock.callLater(0.01, lambda *a, **k: made.append((a, k)), 1, two=2)
        self.turn(0.05)
        self.case().assertEqual(made, ["soon", ((1,), {"two": 2}), "late"])

    def test_next_turn(self) -> None:
        """
        What is to be done at once is done in the next turn, and not in this one.
        """
        made: list[int] = []

        def again() -> None:
            made.append(1)
            if len(made) < 3:
                self.clock.callLater(0, again)
                made.append(0)

        self.clock.callLater(0, again)
        self.turn(0.01)
        self.turn(0.01)
        self.case().assertEqual(made, [1, 0, 1])

    def test_cancel(self) -> None:
        """
        A call that was cancelled is not made; it can be cancelled once, and not after
        it was made.
        """
        made: list[int] = []
        for delay in (0, 0.001):
            call = self.clock.callLater(delay, made.append, 1)
            self.case().assertEqual(self.clock.getDelayedCalls(), [call])
            call.cancel()
            self.case().assertFalse(call.active())
            self.case().assertEqual(self.clock.getDelayedCalls(), [])
            self.case().assertRaises(AlreadyCancelled, call.cancel)
            self.case().assertRaises(AlreadyCancelled, call.reset, 1)
        call = self.clock.callLater(0, made.append, 2)
        self.turn(0.01)
        self.case().assertEqual(made, [2])
        self.case().assertFalse(call.active())
        self.case().assertRaises(AlreadyCalled, call.cancel)

    def test_put_off(self) -> None:
        """
        A call can be put off, and brought forward, and is made once.
        """
        made: list[str] = []
        later = self.clock.callLater(0.001, made.append, "later")
        later.reset(0.03)
        sooner = self.clock.callLater(60, made.append, "sooner")
        sooner.reset(0.01)
        delayed = self.clock.callLater(0.001, made.append, "delayed")
        delayed.delay(60)
        self.turn(0.06)
        self.case().assertEqual(made, ["sooner", "later"])
        self.case().assertTrue(delayed.active())
        delayed.cancel()

    def test_from_thread(self) -> None:
        """
        Another thread has calls made, in its order, by the loop's.
        """
        made: list[object] = []
        loop = cast(IReactorFromThreads, self.clock)

        def work() -> None:
            loop.callFromThread(made.append, 1)
            loop.callFromThread(lambda *, two: made.append(two), two=2)
            loop.callFromThread(lambda: made.append(threading.get_ident()))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.case().assertEqual(made, [])
        self.turn(0.01)
        self.case().assertEqual(made, [1, 2, threading.get_ident()])


class AsyncioLoopTests(ClockMixin, SynchronousTestCase):
    """
    Over asyncio.
    """

    def setUp(self) -> None:
        """
        Have a loop.
        """
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)
        self.clock = AsyncioLoop(self.loop)

    def turn(self, seconds: float = 0.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


class SelectorLoopTests(ClockMixin, SynchronousTestCase):
    """
    Over selectors.
    """

    def setUp(self) -> None:
        """
        Have a loop.
        """
        self.loop = SelectorLoop()
        self.addCleanup(self.loop.stop)
        self.clock = self.loop

    def turn(self, seconds: float = 0.0) -> None:
        self.loop.run(lambda: False, seconds)

    def test_until(self) -> None:
        """
        It turns until something is true, and tells whether it is.
        """
        made: list[int] = []
        self.loop.callLater(0.01, made.append, 1)
        self.assertTrue(self.loop.run(lambda: made, 10))
        self.assertFalse(self.loop.run(lambda: False, 0))
        self.assertTrue(self.loop.run(lambda: True))

    def test_woken(self) -> None:
        """
        Another thread wakes it.
        """
        made: list[int] = []
        timer = threading.Timer(0.01, self.loop.callFromThread, [made.append, 1])
        timer.start()
        self.assertTrue(self.loop.run(lambda: made, 10))
        timer.join()

    def test_flush(self) -> None:
        """
        What is to be done at once can be done without waiting, but not from within.
        """
        made: list[object] = []
        self.turn()

        def inside() -> None:
            self.loop.callLater(0, made.append, "inside")
            self.loop.flush()
            made.append(list(made))

        self.loop.callLater(0, inside)
        self.loop.flush()
        self.assertEqual(made, [[]])
        self.loop.flush()
        self.assertEqual(made, [[], "inside"])

    def test_one_at_a_time(self) -> None:
        """
        It does not turn while it turns.
        """
        refused: list[LocalProtocolError] = []

        def inside() -> None:
            try:
                self.loop.run(lambda: True)
            except LocalProtocolError as error:
                refused.append(error)

        self.loop.callLater(0, inside)
        self.turn()
        self.assertIn("cannot wait for it", str(refused[0]))

    def test_one_thread(self) -> None:
        """
        One thread has it at a time, as often as it likes.
        """
        refused: list[LocalProtocolError] = []

        def intrude() -> None:
            try:
                self.loop.work(lambda: None)
            except LocalProtocolError as error:
                refused.append(error)

        def let_in() -> None:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

        def mine() -> None:
            self.loop.work(let_in)
            self.assertEqual(self.loop.last_user, threading.get_ident())

        self.loop.work(mine)
        self.assertIn("another thread", str(refused[0]))
        let_in()
        self.assertEqual(len(refused), 1)
        self.assertNotEqual(self.loop.last_user, threading.get_ident())

    def test_failing_call(self) -> None:
        """
        What a call raises is raised when the turn has ended: the others are made.
        """
        made: list[int] = []

        def fail() -> None:
            raise RuntimeError("it failed")

        self.loop.callLater(0, fail)
        self.loop.callLater(0, made.append, 1)
        with self.assertRaises(RuntimeError):
            self.turn()
        self.assertEqual(made, [1])
        self.turn()

    def test_stop(self) -> None:
        """
        When it is stopped, what other threads have asked for is done, and what they
        ask for later is done at once.
        """
        made: list[int] = []
        append: Callable[[int], None] = made.append
        self.loop.callFromThread(append, 1)
        self.loop.stop()
        self.loop.stop()
        self.loop.callFromThread(append, 2)
        self.assertEqual(made, [1, 2])
        self.assertFalse(self.loop.run(lambda: False))
        self.loop.flush()
