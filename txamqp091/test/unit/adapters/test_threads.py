# -*- test-case-name: txamqp091.test.unit.adapters.test_threads -*-
"""
Threads beside Twisted's own: verbs for them, and handlers in them.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from functools import partial
from traceback import walk_tb
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from txamqp091.adapters.threads import in_threads, threadsafe
from txamqp091.channel import Channel
from txamqp091.endpoint import connect
from txamqp091.errors import (
    ChannelClosed,
    ConnectionClosed,
    LocalProtocolError,
    Nacked,
    NotFound,
)
from txamqp091.message import Delivery, Message
from txamqp091.parameters import ConnectionParameters
from txamqp091.testing.memory import MemoryBroker

color: ContextVar[str] = ContextVar("color", default="none")


class ThreadsTestCase(TestCase):
    """
    A test case with a channel of Twisted's.
    """

    timeout = 120.0

    async def open_channel(self) -> Channel:
        """
        Open a channel, on a connection of its own, and declare the queue ``work``.
        """
        from twisted.internet import reactor

        connection = await connect(
            reactor,
            ConnectionParameters(),
            endpoint=MemoryBroker(reactor).endpoint(),
        )
        self.addCleanup(connection.close)
        channel = await connection.open_channel()
        await channel.queue_declare("work")
        return channel

    async def turn(self, channel: Channel) -> None:
        """
        Let the reactor turn.
        """
        turned: Deferred[None] = Deferred()
        channel.connection.reactor.callLater(0.01, turned.callback, None)
        await turned


class ThreadsafeTests(ThreadsTestCase):
    """
    Verbs are called from other threads.
    """

    async def test_results(self) -> None:
        """
        Another thread is given what the broker answers, and raises what it refuses.
        """
        channel = await self.open_channel()
        ask = threadsafe(channel)

        def work() -> list[object]:
            ask.confirm_select(1)
            left = [ask.basic_publish("", "work", str(n)) for n in range(10)]
            arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
            ask.queue_declare("full", arguments=arguments)
            refused = ask.basic_publish("", "full", "x").exception(60)
            many = ask.publish_many([Message("", "work", "last")]).result(60)
            count = ask.queue_purge("work").result(60).message_count
            missing = ask.queue_declare("missing", passive=True).exception(60)
            return [
                *(each.result(60) for each in left),
                type(refused),
                many,
                count,
                type(missing),
                ask.is_open,
            ]

        results = await deferToThread(work)
        self.assertEqual(results, [*[None] * 10, Nacked, None, 11, NotFound, False])

    async def test_get_and_settle(self) -> None:
        """
        A delivery is fetched, and settled, in another thread.
        """
        channel = await self.open_channel()
        await channel.basic_publish("", "work", "x")
        ask = threadsafe(channel)

        def work() -> bytes:
            delivery = ask.basic_get("work").result(60)
            assert delivery is not None
            delivery.reject(requeue=False)
            return delivery.body

        self.assertEqual(await deferToThread(work), b"x")
        self.assertIsNone(await channel.basic_get("work"))

    async def test_cancel(self) -> None:
        """
        Cancelling the Future cancels the call, and the channel lives on.
        """
        channel = await self.open_channel()
        ask = threadsafe(channel)
        at_once: Future[object] = ask.queue_purge("work")  # type: ignore[assignment]
        self.assertTrue(at_once.cancel())
        running: list[Deferred[None]] = []
        never: Future[None] = ask._ask(lambda: running[0])
        cancelled: Deferred[None] = Deferred(lambda _: ended.callback(None))
        ended: Deferred[None] = Deferred()
        running.append(cancelled)
        begun: Deferred[None] = Deferred()
        channel.connection.reactor.callLater(0.01, begun.callback, None)
        await begun
        never.cancel()
        await ended
        with self.assertRaises(CancelledError):
            never.result(0)
        self.assertTrue(channel.is_open)
        await channel.queue_declare("work", passive=True)

    async def test_connection_ends(self) -> None:
        """
        What is asked of a connection that has ended is told why.
        """
        channel = await self.open_channel()
        await channel.connection.close()
        ask = threadsafe(channel)

        def work() -> BaseException | None:
            return ask.queue_declare("work").exception(60)

        self.assertIsInstance(await deferToThread(work), ConnectionClosed)

    async def test_wrong_keyword(self) -> None:
        """
        What a verb raises comes through the Future.
        """
        channel = await self.open_channel()
        ask = threadsafe(channel)

        def work() -> BaseException | None:
            asked = ask.queue_declare("work", exlusive=True)  # type: ignore[call-arg]
            return asked.exception(60)

        error = await deferToThread(work)
        self.assertIsInstance(error, TypeError)
        self.assertIn("exlusive", str(error))

    async def test_own_thread(self) -> None:
        """
        The connection's own thread cannot wait for a Future; it can look at one.
        """
        channel = await self.open_channel()
        asked = threadsafe(channel).queue_purge("work")
        with self.assertRaisesRegex(LocalProtocolError, "own thread"):
            asked.result(60)
        with self.assertRaisesRegex(LocalProtocolError, "own thread"):
            asked.exception()
        done: Deferred[None] = Deferred()
        asked.add_done_callback(lambda _: done.callback(None))
        await done
        self.assertEqual(asked.result().message_count, 0)

    async def test_error_keeps_no_stacks(self) -> None:
        """
        An error that many threads are told of does not keep their stacks.
        """
        channel = await self.open_channel()
        await channel.close()
        asked = threadsafe(channel).queue_purge("work")

        def work() -> int:
            length = 0
            for _ in range(100):
                try:
                    asked.result(60)
                except ChannelClosed as error:
                    length = len(list(walk_tb(error.__traceback__)))
            return length

        self.assertLess(await deferToThread(work), 4)


class InThreadsTests(ThreadsTestCase):
    """
    Handlers run in threads.
    """

    async def test_bounded(self) -> None:
        """
        So many handlers run at a time, in threads of the name given, with the context
        variables of who has made them, and settle their deliveries there.
        """
        channel = await self.open_channel()
        await channel.publish_many(Message("", "work", "x") for _ in range(6))
        seen: list[tuple[str, str]] = []
        together = threading.Barrier(2, timeout=60)
        done: Deferred[None] = Deferred()

        reactor = cast(IReactorFromThreads, channel.connection.reactor)

        def note(name: str, context: str) -> None:
            seen.append((name, context))
            if len(seen) == 6:
                done.callback(None)

        def work(delivery: Delivery) -> None:
            together.wait()
            name = threading.current_thread().name
            reactor.callFromThread(note, name, color.get())
            color.set("blue")
            delivery.ack()

        color.set("red")
        handler = in_threads(work, 2, "worker")
        self.addCleanup(handler.stop)
        color.set("green")
        consumer = await channel.basic_consume("work", handler)
        await done
        await consumer.when_idle()
        self.assertEqual(set(seen), {("worker-1", "red"), ("worker-2", "red")})
        self.assertEqual((await channel.queue_purge("work")).message_count, 0)

    async def test_failure(self) -> None:
        """
        A handler that fails has its delivery requeued once, and rejected then.
        """
        channel = await self.open_channel()
        await channel.basic_publish("", "work", "x")
        seen: list[bool] = []
        twice: Deferred[None] = Deferred()

        reactor = cast(IReactorFromThreads, channel.connection.reactor)

        def work(delivery: Delivery) -> None:
            seen.append(delivery.redelivered)
            if delivery.redelivered:
                reactor.callFromThread(twice.callback, None)
            raise RuntimeError("it failed")

        handler = in_threads(work, 1)
        self.addCleanup(handler.stop)
        consumer = await channel.basic_consume("work", handler)
        await twice
        await consumer.when_idle()
        self.assertEqual(seen, [False, True])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertIsNone(await channel.basic_get("work"))

    async def test_nothing_to_await(self) -> None:
        """
        A function whose result would have to be awaited is refused, by name, when it
        is given, or as a handler that fails.
        """

        async def coroutine(delivery: Delivery) -> None:
            delivery.ack()

        def generator(delivery: Delivery) -> Iterator[None]:
            delivery.ack()
            yield

        async def both(delivery: Delivery) -> AsyncIterator[None]:
            delivery.ack()
            yield

        class Callable:
            async def __call__(self, delivery: Delivery) -> None:
                delivery.ack()

        for function in (coroutine, generator, both, partial(coroutine), Callable()):
            with self.assertRaisesRegex(TypeError, "in_threads cannot run .*function"):
                in_threads(function)
        with self.assertRaises(TypeError):
            in_threads(None)  # type: ignore[arg-type]
        channel = await self.open_channel()
        await channel.publish_many(Message("", "work", "x") for _ in range(4))
        results = iter([coroutine, generator, both, lambda _: Deferred()] * 2)
        handler = in_threads(lambda delivery: next(results)(delivery), 1)
        self.addCleanup(handler.stop)
        consumer = await channel.basic_consume("work", handler)
        logged = 0
        while logged < 8:
            logged += len(self.flushLoggedErrors(TypeError))
            await self.turn(channel)
        await consumer.when_idle()
        self.assertIsNone(await channel.basic_get("work"))

    def test_stop_unused(self) -> None:
        """
        Stopping what was never used is harmless.
        """
        in_threads(print).stop()
