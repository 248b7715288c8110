# -*- test-case-name: txamqp091.test.unit.worker.test_middleware -*-
"""
Functions around handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091._threads import ThreadRunner
from txamqp091.consumer import Handler
from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.test.unit.worker.test_handler_runner import SendingCase
from txamqp091.worker.calling import call
from txamqp091.worker.counts import Counts
from txamqp091.worker.failure_policy import FailurePolicy, HandlerTimeout, Reject
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.middleware import wrap

Inner = Callable[[Delivery], "Deferred[Any]"]


class MiddlewareTests(ConsumerServiceCase):
    """
    A consumer with middleware.
    """

    def named(self, name: str) -> Callable[[Inner], Handler]:
        """
        A middleware that writes down when it begins and ends.
        """

        def middleware(handler: Inner) -> Handler:
            async def handle(delivery: Delivery) -> None:
                self.seen.append(f"{name} begins")
                try:
                    await handler(delivery)
                finally:
                    self.seen.append(f"{name} ends")

            return handle

        return middleware

    def setUp(self) -> None:
        super().setUp()
        self.seen: list[str] = []

    def test_order(self) -> None:
        """
        The first middleware is the outermost one; the handler is innermost.
        """

        def handler(delivery: Delivery) -> None:
            self.seen.append("handler")

        consumer = self.consuming(
            handler=handler, middleware=[self.named("a"), self.named("b")]
        )
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(
            self.seen, ["a begins", "b begins", "handler", "b ends", "a ends"]
        )
        self.assertEqual(consumer.counts, Counts(acknowledged=1))

    def test_kinds_of_handlers(self) -> None:
        """
        A middleware gets a Deferred, whatever the handler is; and its errors.
        """
        results: list[Any] = []

        def middleware(handler: Inner) -> Handler:
            def handle(delivery: Delivery) -> Deferred[Any]:
                result = handler(delivery)
                self.assertIsInstance(result, Deferred)
                return result.addBoth(results.append)

            return handle

        async def coroutine(delivery: Delivery) -> str:
            return "coroutine"

        def failing(delivery: Delivery) -> None:
            raise SystemExit

        handlers: list[Handler] = [
            lambda _: "plain",
            lambda _: succeed("deferred"),
            coroutine,
            failing,
        ]
        for handler in handlers:
            self.broker.declare_queue("work")
            consumer = self.consumer(handler=handler, middleware=[middleware])
            consumer.startService()
            self.broker.publish("", "work", b"x")
            self.turn()
            consumer.stopService()
            self.turn()
            self.assertEqual(consumer.counts, Counts(acknowledged=1))
        *values, failure = results
        self.assertEqual(values, ["plain", "deferred", "coroutine"])
        self.assertIs(failure.type, SystemExit)

    def test_decides(self) -> None:
        """
        The outcome of the middleware is the outcome of the message.
        """

        def strict(handler: Inner) -> Handler:
            def handle(delivery: Delivery) -> Deferred[Any]:
                if delivery.body == b"bad":
                    raise Reject("bad")
                return handler(delivery)

            return handle

        consumer = self.consuming(middleware=[strict])
        self.broker.publish("", "work", b"bad")
        self.broker.publish("", "work", b"good")
        self.turn()
        self.assertEqual([each.body for each, _ in self.running], [b"good"])
        self.assertEqual(consumer.counts, Counts(rejected=1))
        self.running[0][1].callback(None)

    def test_timeout(self) -> None:
        """
        A middleware that waits is cancelled with the handler.
        """
        seen: list[str] = []

        def patient(handler: Inner) -> Handler:
            async def handle(delivery: Delivery) -> None:
                try:
                    await handler(delivery)
                except CancelledError:
                    seen.append("cancelled")
                    raise

            return handle

        options = HandlerOptions(timeout=5, policy=FailurePolicy(pause=1.0))
        self.consuming(messages=1, middleware=[patient], options=options)
        self.passes(5)
        self.assertEqual(seen, ["cancelled"])
        self.assertTrue(self.running[0][1].called)
        self.passes(1)
        self.assertEqual(len(self.running), 2)
        self.running[1][1].callback(None)
        self.assertEqual(len(self.flushLoggedErrors(HandlerTimeout)), 1)

    def test_no_function(self) -> None:
        """
        A middleware that returns no function is refused when the consumer is made.
        """
        nothing: Any = lambda handler: None  # noqa: E731
        with self.assertRaisesRegex(TypeError, "returned None, no function"):
            self.consumer(middleware=[nothing])


class ThreadTests(TestCase):
    """
    A handler in a thread, with middleware.
    """

    async def test_threads(self) -> None:
        """
        The middleware runs in the reactor's thread, the handler in another one.  What
        the handler returns is awaited.
        """
        from twisted.internet import reactor

        threads = ThreadRunner(cast(IReactorFromThreads, reactor), 1, "test")
        self.addCleanup(threads.stop)
        case = SendingCase("setUp")
        case.setUp()
        self.addCleanup(case.doCleanups)
        seen: list[tuple[str, int]] = []

        def middleware(handler: Inner) -> Handler:
            async def handle(delivery: Delivery) -> None:
                seen.append(("begins", get_ident()))
                await handler(delivery)
                seen.append(("ends", get_ident()))

            return handle

        async def coroutine() -> None:
            seen.append(("coroutine", get_ident()))

        def handler(delivery: Delivery) -> Any:
            seen.append(("handler", get_ident()))
            return coroutine()

        runner = case.sending(
            handler, {"threads": threads, "middleware": [middleware]}, timeout=60
        )
        case.give()
        await runner.when_idle()
        self.assertEqual(runner.counts, Counts(acknowledged=1))
        names, idents = zip(*seen, strict=True)
        self.assertEqual(names, ("begins", "handler", "coroutine", "ends"))
        own = get_ident()
        self.assertEqual([each == own for each in idents], [True, False, True, True])
        timers = [str(each) for each in case.peer.clock.getDelayedCalls()]
        self.assertEqual([each for each in timers if "_late" in each], [])

    async def test_short_cut(self) -> None:
        """
        A middleware that calls no handler uses no thread, and the message is done.
        """
        from twisted.internet import reactor

        threads = ThreadRunner(cast(IReactorFromThreads, reactor), 1, "test")
        self.addCleanup(threads.stop)
        case = SendingCase("setUp")
        case.setUp()
        self.addCleanup(case.doCleanups)
        runner = case.sending(
            lambda _: self.fail("called"),
            {"threads": threads, "middleware": [lambda inner: lambda delivery: None]},
        )
        case.give()
        self.assertEqual(runner.counts, Counts(acknowledged=1))
        self.assertEqual(runner.unsettled, 0)


class CallTests(SynchronousTestCase):
    """
    Tests for `call`.
    """

    def test_generator(self) -> None:
        """
        A generator would not run.
        """

        def generator() -> Any:
            yield

        self.failureResultOf(call(generator), TypeError)

    def test_failures(self) -> None:
        """
        What a function raises or returns as a failure is the failure.
        """
        self.failureResultOf(call(lambda: 1 / 0), ZeroDivisionError)
        self.failureResultOf(call(lambda: fail(KeyError())), KeyError)
        self.assertEqual(self.successResultOf(call(lambda a, b: a + b, 1, 2)), 3)

    def test_nothing_around(self) -> None:
        """
        Without middleware, the handler stays what it is.
        """

        def handler(delivery: Delivery) -> None: ...

        self.assertIs(wrap(handler, []), handler)
