# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
Connections and channels on asyncio's loop, against every broker.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from threading import Event, Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters.aio import (
    Answer,
    Channel,
    Connection,
    Deliveries,
    Subscription,
    _Confirm,
    _Precious,
    connect,
)
from txamqp091.errors import (
    AMQPError,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    ConsumerCancelled,
    HeartbeatTimeout,
    InvalidURI,
    LocalProtocolError,
    Nacked,
    NotFound,
    Returned,
    TLSFailed,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.processes import HOST, free_ports
from txamqp091.test.support.served import CHECKOUT, ServedTestCase, cut_at, every_served
from txamqp091.wire import spec

Scenario = Callable[["Channel", str], Awaitable[None]]


class AioTestCase(ServedTestCase):
    """
    A test case whose scenarios run on asyncio.
    """

    def run_with_channel(self, scenario: Scenario) -> None:
        """
        Run a scenario with a channel, and the name of a queue of its own.
        """

        async def main() -> None:
            async with await connect(self.uri) as connection:
                async with await connection.open_channel() as channel:
                    queue = self.queue_name()
                    await channel.queue_declare(queue, exclusive=True)
                    await scenario(channel, queue)

        self.run_main(main)

    async def expect_depth(self, channel: Channel, queue: str, count: int) -> None:
        """
        Check how many messages are ready, by the broker's own count, which may need a
        moment.
        """
        ready = -1
        for _ in range(6000):
            ready = (await channel.queue_declare(queue, passive=True)).message_count
            if ready == count:
                return
            await asyncio.sleep(0.01)
        self.assertEqual(ready, count)

    def run_main(self, main: Callable[[], Awaitable[None]]) -> None:
        """
        Run a coroutine function as a program would.
        """

        async def in_time() -> None:
            async with asyncio.timeout(120):
                await main()

        asyncio.run(in_time())


@every_served
class AioTests(AioTestCase):
    """
    asyncio programs talk to a broker.
    """

    def test_publish_and_consume(self) -> None:
        """
        What is published with confirms comes by ``async for``, and leaving the
        ``async with`` gives the rest back.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.confirm_select()
            await asyncio.gather(
                *(channel.basic_publish("", queue, str(n)) for n in range(10))
            )
            bodies = []
            async with await channel.consume(queue) as deliveries:
                async for delivery in deliveries:
                    bodies.append(delivery.body)
                    delivery.ack()
                    if len(bodies) == 4:
                        break
                await channel.queue_declare(queue, passive=True)
            self.assertEqual(bodies, [b"0", b"1", b"2", b"3"])
            await self.expect_depth(channel, queue, 6)

        self.run_with_channel(scenario)

    def test_cancel_counts(self) -> None:
        """
        Cancelling deliveries tells how many went back, and ends the iteration.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.publish_many(Message("", queue, "x") for _ in range(5))
            deliveries = await channel.consume(queue)
            first = await deliveries.get()
            while deliveries.buffered < 4:
                await asyncio.sleep(0.01)
            self.assertEqual(await deliveries.cancel(), 4)
            self.assertEqual([each async for each in deliveries], [])
            first.ack()

        self.run_with_channel(scenario)

    def test_consume_not_awaited(self) -> None:
        """
        ``async for`` and ``async with`` await the answer themselves, and raise what it
        fails with.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.confirm_select()
            await channel.basic_publish("", queue, "a")
            async for delivery in channel.consume(queue):
                delivery.ack()
                break
            async with channel.connection.open_channel() as other:
                async with other.consume(queue) as deliveries:
                    await channel.basic_publish("", queue, "b")
                    self.assertIsInstance(deliveries, Deliveries)
                with self.assertRaises(NotFound):
                    async for _ in other.consume("nowhere"):
                        pass

        self.run_with_channel(scenario)

    def test_back_pressure(self) -> None:
        """
        Of what is not asked for, no more is read than a bound, and nothing is lost.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.confirm_select()
            body = "x" * 2000
            await channel.publish_many(Message("", queue, body) for _ in range(1000))
            deliveries = await channel.consume(queue, auto_ack=True)
            await asyncio.sleep(0.1)
            self.assertLess(deliveries.buffered, 1000)
            for _ in range(1000):
                await deliveries.get()
            self.assertIsNone(await channel.basic_get(queue))

        self.run_with_channel(scenario)

    def test_blocked(self) -> None:
        """
        The program is told when the broker blocks publishing, and a message that waits
        can be given up.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            assert self.node is not None
            connection = channel.connection
            seen: asyncio.Queue[str | None] = asyncio.Queue()
            connection.observe_blocked(seen.put_nowait)
            self.node.set_memory_alarm(True)
            try:
                await channel.basic_publish("", queue, "x")
                self.assertIsNotNone(await seen.get())
                self.assertIsNotNone(connection.blocked)
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(channel.basic_publish("", queue, "y"), 0.05)
            finally:
                self.node.set_memory_alarm(False)
            await connection.when_unblocked()
            await self.expect_depth(channel, queue, 1)

        if self.node is None:
            self.skipTest("the in-memory broker cannot be reached from here")
        self.run_with_channel(scenario)

    def test_returned(self) -> None:
        """
        A message that no queue takes raises.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.confirm_select()
            with self.assertRaises(Returned):
                await channel.basic_publish("", queue + "-no", "x", mandatory=True)
            await channel.basic_publish("", queue, "x", mandatory=True)

        self.run_with_channel(scenario)

    def test_get(self) -> None:
        """
        One message can be fetched, and None of no messages.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            self.assertIsNone(await channel.basic_get(queue))
            await channel.basic_publish("", queue, "x")
            delivery = await channel.basic_get(queue)
            assert delivery is not None
            self.assertEqual(delivery.body, b"x")
            delivery.ack()

        self.run_with_channel(scenario)

    def test_coroutine_handler(self) -> None:
        """
        A handler may be a coroutine function that awaits what is asyncio's; when it
        fails, its delivery is requeued the first time.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            again: asyncio.Future[Delivery] = asyncio.Future()

            async def handle(delivery: Delivery) -> None:
                await asyncio.sleep(0)
                if not delivery.redelivered:
                    raise RuntimeError("the first time")
                delivery.ack()
                again.set_result(delivery)

            subscription = await channel.basic_consume(queue, handle)
            self.assertTrue(subscription.is_active)
            await channel.basic_publish("", queue, "x")
            self.assertEqual((await again).body, b"x")
            await subscription.when_idle()
            self.assertEqual(await subscription.cancel(), 0)
            await subscription.when_ended()

        self.run_with_channel(scenario)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_plain_handler(self) -> None:
        """
        A handler may be a plain function, or return a Future.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            done = asyncio.Event()

            def handle(delivery: Delivery) -> asyncio.Future[None] | None:
                delivery.ack()
                if delivery.body == b"last":
                    done.set()
                    return None
                return asyncio.get_running_loop().create_future()

            subscription = await channel.basic_consume(queue, handle)
            await channel.basic_publish("", queue, "x")
            await channel.basic_publish("", queue, "last")
            await done.wait()
            self.assertEqual(subscription.native.running, 1)

        self.run_with_channel(scenario)

    def test_awaitable_handler(self) -> None:
        """
        Whatever a handler returns is awaited if it can be: an object of the program's
        own, the answer of a verb.  When that fails, so has the handler.
        """

        class Work:
            def __init__(self, delivery: Delivery) -> None:
                self.delivery = delivery

            def __await__(self) -> Generator[Any, None, None]:
                yield from asyncio.sleep(0).__await__()
                self.delivery.ack()

        async def scenario(channel: Channel, queue: str) -> None:
            def handle(delivery: Delivery) -> object:
                if delivery.body == b"work":
                    return Work(delivery)
                return ended.queue_purge(queue)

            ended = await channel.connection.open_channel()
            with self.assertRaises(NotFound):
                await ended.queue_declare(queue + "-no", passive=True)
            subscription = await channel.basic_consume(
                queue, handle, on_failure="reject"
            )
            await channel.basic_publish("", queue, "work")
            await channel.basic_publish("", queue, "fails")
            logged = 0
            while logged < 2:
                logged += len(self.flushLoggedErrors(NotFound))
                await asyncio.sleep(0.01)
            await subscription.cancel()
            self.assertIsNone(await channel.basic_get(queue))

        self.run_with_channel(scenario)

    def test_handler_refused(self) -> None:
        """
        A generator function is refused as a handler, and so is waiting in a handler
        for its own end.
        """

        def generator(delivery: Delivery) -> Iterator[None]:
            yield

        async def scenario(channel: Channel, queue: str) -> None:
            for handler in (generator, None):
                with self.assertRaises(TypeError):
                    await channel.basic_consume(queue, handler)  # type: ignore[arg-type]
            done = asyncio.Event()
            failures: list[BaseException] = []

            async def handle(delivery: Delivery) -> None:
                try:
                    await subscription.when_idle()
                except LocalProtocolError as error:
                    failures.append(error)
                delivery.ack()
                done.set()

            subscription = await channel.basic_consume(queue, handle)
            await channel.basic_publish("", queue, "x")
            await done.wait()
            await subscription.when_idle()
            self.assertEqual(len(failures), 1)

        self.run_with_channel(scenario)

    def test_base_exceptions(self) -> None:
        """
        A handler that fails with anything at all, such as the cancellation of a Future
        that it asked, fails like any other: the connection goes on.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            seen: list[bool] = []
            done = asyncio.Event()

            def plain(delivery: Delivery) -> None:
                seen.append(delivery.redelivered)
                if len(seen) < 2:
                    cancelled.result()
                delivery.ack()
                done.set()

            async def task(delivery: Delivery) -> None:
                plain(delivery)

            for handler in (plain, task):
                seen.clear()
                done.clear()
                subscription = await channel.basic_consume(queue, handler)
                await channel.basic_publish("", queue, "x")
                await done.wait()
                await subscription.cancel()
                self.assertEqual(seen, [False, True])
                self.assertTrue(channel.connection.is_open)

        self.run_with_channel(scenario)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def test_broker_cancels(self) -> None:
        """
        Iterating raises when the queue is deleted.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            deliveries = await channel.consume(queue)
            await channel.queue_delete(queue)
            with self.assertRaises(ConsumerCancelled):
                await deliveries.get()
            with self.assertRaises(ConsumerCancelled):
                async for _ in deliveries:
                    pass

        self.run_with_channel(scenario)

    def test_channel_ends(self) -> None:
        """
        The broker's refusal is raised, the channel is over, and the connection is
        not.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            with self.assertRaises(NotFound):
                await channel.queue_declare(queue + "-no", passive=True)
            self.assertFalse(channel.is_open)
            other = await channel.connection.open_channel()
            self.assertTrue(other.is_open)
            with self.assertRaises(NotFound):
                await channel.when_closed()

        self.run_with_channel(scenario)

    def test_cancelled_task(self) -> None:
        """
        A task that is cancelled waits no more, and the channel lives on, with its
        answers in order.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            waiting = asyncio.create_task(channel.queue_purge(queue))
            await asyncio.sleep(0)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            never_begun = asyncio.create_task(channel.queue_purge(queue))
            never_begun.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await never_begun
            declared = await channel.queue_declare(queue, passive=True)
            self.assertEqual(declared.queue, queue)

        self.run_with_channel(scenario)

    def test_timeout(self) -> None:
        """
        Waiting for a delivery can be given up, and the delivery goes to who asks
        next.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            deliveries = await channel.consume(queue)
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(deliveries.get(), 0.01)
            await channel.basic_publish("", queue, "x")
            self.assertEqual((await deliveries.get()).body, b"x")

        self.run_with_channel(scenario)

    def test_ack_from_thread(self) -> None:
        """
        A delivery may be acknowledged, and a message published, in another thread.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.basic_publish("", queue, "x")
            deliveries = await channel.consume(queue)
            delivery = await deliveries.get()
            await asyncio.to_thread(delivery.ack)
            ask = channel.threadsafe

            def publish() -> int:
                ask.confirm_select()
                ask.basic_publish("", queue, "y").result(60)
                return ask.queue_declare(queue, passive=True).result(60).consumer_count

            self.assertEqual(await asyncio.to_thread(publish), 1)
            self.assertEqual((await deliveries.get()).body, b"y")

        self.run_with_channel(scenario)

    def test_close(self) -> None:
        """
        Closing is harmless twice, and whoever waits for it learns of it.
        """

        async def main() -> None:
            connection = await connect(self.uri)
            self.assertTrue(connection.is_open)
            self.assertIn("product", connection.server_properties)
            channel = await connection.open_channel()
            ended = connection.when_closed()
            await channel.close()
            await connection.close()
            await connection.close()
            await ended
            self.assertFalse(connection.is_open)

        self.run_main(main)

    def test_large_message(self) -> None:
        """
        A message of many frames gets through, both ways.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            await channel.confirm_select()
            body = bytes(range(256)) * 8192
            await channel.basic_publish("", queue, body)
            delivery = await channel.basic_get(queue, auto_ack=True)
            assert delivery is not None
            self.assertEqual(delivery.body, body)

        self.run_with_channel(scenario)

    def test_wrong_password(self) -> None:
        """
        The broker's refusal of a login is raised.
        """

        async def main() -> None:
            with self.assertRaises(AuthenticationFailed):
                await connect(self.uri.replace("guest:guest", "guest:wrong"))

        self.run_main(main)

    def test_uvloop(self) -> None:
        """
        All of it runs on uvloop.
        """
        try:
            import uvloop
        except ImportError:
            self.skipTest("uvloop is not installed")

        async def main() -> None:
            async with await connect(self.uri) as connection:
                channel = await connection.open_channel()
                queue = self.queue_name()
                await channel.queue_declare(queue, exclusive=True)
                await channel.confirm_select()
                await channel.basic_publish("", queue, "x")
                async with await channel.consume(queue) as deliveries:
                    delivery = await deliveries.get()
                    self.assertEqual(delivery.body, b"x")
                    delivery.ack()

        uvloop.run(main())

    # -- another loop ----------------------------------------------------------------

    def test_other_loop(self) -> None:
        """
        What is made on one loop refuses each call on another one, names both, and
        sends nothing; on its own loop it goes on.
        """

        async def main() -> tuple[Connection, Channel, Subscription, Deliveries]:
            connection = await connect(self.uri)
            channel = await connection.open_channel()
            queue = self.queue_name()
            await channel.queue_declare(queue, exclusive=True)
            subscription = await channel.basic_consume(queue, Delivery.ack)
            deliveries = await channel.consume(queue)
            return connection, channel, subscription, deliveries

        async def misuse() -> None:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: channel.queue_declare("any"),
                lambda: channel.basic_publish("", "any", "x"),
                lambda: channel.publish_many([Message("", "any", "x")]),
                lambda: channel.basic_get("any"),
                lambda: channel.basic_consume("any", Delivery.ack),
                lambda: channel.consume("any"),
                lambda: channel.when_closed(),
                lambda: connection.open_channel(),
                lambda: connection.close(),
                lambda: connection.when_unblocked(),
                lambda: connection.update_secret("x"),
                lambda: subscription.cancel(),
                lambda: subscription.when_idle(),
                lambda: deliveries.get(),
                lambda: deliveries.__anext__(),
                lambda: deliveries.cancel(),
                lambda: deliveries.consumer.when_ended(),
                lambda: connection.__aexit__(),
                lambda: channel.__aexit__(),
                lambda: deliveries.__aexit__(None),
                lambda: begun,
            ]
            for call in calls:
                with self.assertRaises(RuntimeError) as raised:
                    await call()
                self.assertIn(repr(one), str(raised.exception))
                self.assertIn(repr(asyncio.get_running_loop()), str(raised.exception))

        one, other = asyncio.new_event_loop(), asyncio.new_event_loop()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        made = one.run_until_complete(main())
        connection, channel, subscription, deliveries = made
        begun = connection.when_closed()
        sent = connection.native.bytes_sent
        other.run_until_complete(misuse())
        one.run_until_complete(asyncio.sleep(0))
        self.assertEqual(connection.native.bytes_sent, sent)
        one.run_until_complete(channel.basic_qos(prefetch_count=1))
        one.run_until_complete(connection.close())
        one.run_until_complete(begun)

    def test_other_thread(self) -> None:
        """
        In another thread a call is refused, with the way that there is.
        """

        async def scenario(channel: Channel, queue: str) -> None:
            with self.assertRaisesRegex(RuntimeError, "channel.threadsafe"):
                await asyncio.to_thread(channel.queue_purge, queue)

        self.run_with_channel(scenario)

    def test_run_ends(self) -> None:
        """
        A connection that a program leaves open is closed when ``asyncio.run`` ends.
        What a handler had is given back, and a thread that waits for an answer is told.
        """
        queue = self.queue_name()
        asked = Event()
        outcomes: list[BaseException | None] = []

        async def main() -> Connection:
            connection = await connect(self.uri)
            channel = await connection.open_channel()
            await channel.queue_declare(queue, auto_delete=False)
            begun = asyncio.Event()

            async def handle(delivery: Delivery) -> None:
                begun.set()
                await asyncio.sleep(1000)

            await channel.basic_consume(queue, handle)
            await channel.basic_publish("", queue, "x")
            await begun.wait()

            def wait() -> None:
                waiting = channel.threadsafe._ask(never)
                asked.set()
                outcomes.append(waiting.exception(60))

            def never() -> Deferred[None]:
                return channel.native.when_closed()

            self.thread = Thread(target=wait)
            self.thread.start()
            asked.wait(60)
            return connection

        async def look() -> None:
            async with await connect(self.uri) as connection:
                channel = await connection.open_channel()
                await self.expect_depth(channel, queue, 1)
                await channel.queue_delete(queue)

        with self.assertNoLogs("asyncio"):
            connection = asyncio.run(main())
        reason = connection.native.close_reason
        assert isinstance(reason, ConnectionClosed)
        self.assertTrue(reason.by_us)
        self.thread.join(60)
        self.assertEqual(len(outcomes), 1)
        self.run_main(look)
        self.flushLoggedErrors(asyncio.CancelledError)

    def test_loop_closed(self) -> None:
        """
        When the loop was closed under a connection, a thread that settles a delivery
        does nothing, and one that calls a verb is told.
        """

        async def main() -> tuple[Channel, Delivery]:
            connection = await connect(self.uri)
            channel = await connection.open_channel()
            queue = self.queue_name()
            await channel.queue_declare(queue, exclusive=True)
            await channel.basic_publish("", queue, "x")
            delivery = await (await channel.consume(queue)).get()
            return channel, delivery

        # Not as asyncio.run ends: tasks are not cancelled.
        loop = asyncio.new_event_loop()
        channel, delivery = loop.run_until_complete(main())
        loop.close()
        failures: list[BaseException | None] = []

        def work() -> None:
            delivery.ack()
            asked = channel.threadsafe.queue_purge("any")
            failures.append(asked.exception(60))

        thread = Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual([type(each) for each in failures], [ConnectionLost])
        self.assertIn("event loop was closed", str(failures[0]))
        self.assertTrue(delivery.is_stale)
        with self.assertRaisesRegex(RuntimeError, "which was closed"):
            channel.queue_purge("any")

    # -- the link dies ---------------------------------------------------------------

    def test_link_dies_in_a_call(self) -> None:
        """
        When the link dies in the middle of calls, each ends with that reason, and so
        does what is asked for later; nothing hangs.
        """
        proxy = self.proxy(on_frame=cut_at(spec.QueueDeclareOk))

        async def main() -> None:
            connection = await connect(self.uri_for(proxy.port))
            channel = await connection.open_channel()
            await channel.confirm_select()
            outcomes = await asyncio.gather(
                channel.queue_declare(self.queue_name(), exclusive=True),
                channel.when_closed(),
                connection.when_closed(),
                return_exceptions=True,
            )
            self.assertEqual([type(each) for each in outcomes], [ConnectionLost] * 3)
            with self.assertRaises(ConnectionLost):
                await connection.open_channel()
            await connection.close()

        self.run_main(main)


@every_served
class TLSTests(AioTestCase):
    """
    TLS by asyncio.
    """

    def setUp(self) -> None:
        """
        The in-memory broker has no TLS: `txamqp091.test.unit.adapters.test_tls` has
        one.
        """
        super().setUp()
        if self.node is None:
            self.skipTest("the in-memory broker has no TLS")

    def test_connect(self) -> None:
        """
        A broker with a certificate for its host is talked to.
        """

        async def main() -> None:
            async with await connect(self.tls_uri) as connection:
                channel = await connection.open_channel()
                await channel.queue_declare(self.queue_name(), exclusive=True)

        self.run_main(main)

    def test_wrong_name(self) -> None:
        """
        A certificate for another host is refused.
        """

        async def main() -> None:
            with self.assertRaises(TLSFailed):
                await connect(self.tls_uri + "&server_name_indication=wrong.example")

        self.run_main(main)


class SilenceTests(AioTestCase):
    """
    A broker that is not heard any more; the in-memory one will do.
    """

    def test_silence(self) -> None:
        """
        A broker that falls silent is given up after two heartbeat intervals.
        """
        proxy = self.proxy()

        async def main() -> None:
            uri = self.uri_for(proxy.port, "?heartbeat=1")
            async with await connect(uri) as connection:
                channel = await connection.open_channel()
                proxy.hole()
                with self.assertRaises(HeartbeatTimeout):
                    await channel.queue_declare("any", passive=True)

        self.run_main(main)


class ConnectTests(SynchronousTestCase):
    """
    Connections that do not come to be.
    """

    def failing(self, uri: str) -> BaseException:
        """
        What connecting fails with.
        """

        async def main() -> Connection:
            return await connect(uri)

        try:
            asyncio.run(main())
        except AMQPError as error:
            return error
        raise AssertionError("it has connected")

    def test_nobody_listens(self) -> None:
        """
        That no server listens is `ConnectFailed`, with the loop's error for its cause.
        """
        [port] = free_ports(1)
        error = self.failing(f"amqp://{HOST}:{port}")
        self.assertIs(type(error), ConnectFailed)
        self.assertIn("no server listens", str(error))
        self.assertIsNotNone(error.__cause__)

    def test_bad_uri(self) -> None:
        """
        A URI that cannot be understood is `InvalidURI`.
        """
        self.assertIsInstance(self.failing("http://localhost"), InvalidURI)

    def test_no_reactor(self) -> None:
        """
        Neither importing nor connecting loads a Twisted reactor, or starts a thread.
        """
        program = (
            "import asyncio, sys, threading\n"
            "from txamqp091.adapters.aio import connect\n"
            "from txamqp091.errors import ConnectFailed\n"
            "async def main():\n"
            "    try:\n"
            "        await connect('amqp://127.0.0.1:1')\n"
            "    except ConnectFailed:\n"
            "        print('twisted.internet.reactor' in sys.modules)\n"
            "        print(threading.active_count())\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.stdout, done.stderr), ("False\n1\n", ""))


def answer(deferred: Deferred[int]) -> Answer[int]:
    """
    An answer on the running loop.
    """
    return Answer(deferred, asyncio.get_running_loop())


def precious(deferred: Deferred[int], lost: Callable[[int], object]) -> Answer[int]:
    """
    One that must not be lost, on the running loop.
    """
    return _Precious(deferred, asyncio.get_running_loop(), lost)


def confirm() -> _Confirm:
    """
    The confirm of a message, on the running loop.
    """
    return _Confirm(asyncio.get_running_loop())


class AnswerTests(SynchronousTestCase):
    """
    What verbs return.
    """

    def test_result_before_awaiting(self) -> None:
        """
        An answer that is there is had without waiting, by ``await`` and by a task.
        """

        async def main() -> None:
            there: Deferred[int] = Deferred()
            there.callback(3)
            self.assertEqual(await answer(there), 3)
            other: Deferred[int] = Deferred()
            other.callback(4)
            self.assertEqual(await asyncio.create_task(answer(other)), 4)

        asyncio.run(main())

    def test_error(self) -> None:
        """
        An error is raised by whoever awaits; a Deferred that somebody else has
        cancelled cancels.
        """

        async def main() -> None:
            failed: Deferred[int] = Deferred()
            failed.errback(NotFound("gone"))
            with self.assertRaises(NotFound):
                await answer(failed)
            coming: Deferred[int] = Deferred()
            other = answer(coming)
            coming.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await other

        asyncio.run(main())

    def test_once(self) -> None:
        """
        An answer is awaited once.
        """

        async def main() -> None:
            there: Deferred[int] = Deferred()
            there.callback(3)
            once = answer(there)
            await once
            with self.assertRaises(RuntimeError):
                await once

        asyncio.run(main())

    def test_cancelled_as_it_comes(self) -> None:
        """
        An answer, or an error, that comes when its task has been cancelled is nobody's.
        """

        async def main() -> None:
            for outcome in (1, Failure(NotFound("gone"))):
                coming: Deferred[int] = Deferred()
                task = asyncio.create_task(answer(coming))
                await asyncio.sleep(0)
                task.cancel()
                coming.callback(outcome)
                with self.assertRaises(asyncio.CancelledError):
                    await task

        asyncio.run(main())

    def test_confirm(self) -> None:
        """
        What waits for a message's fate can be awaited before and after it is known, and
        need not be; an error that nobody awaits is logged.
        """

        async def main() -> None:
            known = confirm()
            known.callback(None)
            await known
            refused = confirm()
            refused.errback(Nacked())
            with self.assertRaises(Nacked):
                await refused
            coming, failing, never = (
                confirm(),
                confirm(),
                confirm(),
            )
            tasks = [asyncio.create_task(each) for each in (coming, failing, never)]
            await asyncio.sleep(0)
            coming.callback(None)
            failing.errback(Nacked())
            tasks[2].cancel()
            never.callback(None)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            kinds = [type(each) for each in outcomes]
            self.assertEqual(kinds, [type(None), Nacked, asyncio.CancelledError])
            cancelled = confirm()
            cancelled.errback(Nacked())
            begun = asyncio.create_task(cancelled)
            begun.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await begun
            confirm().errback(Nacked())

        asyncio.run(main())
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(Nacked)), 1)

    def test_lost(self) -> None:
        """
        An answer that comes when its task has been cancelled is given to who deals
        with it.
        """
        lost: list[int] = []

        async def main() -> None:
            coming: Deferred[int] = Deferred()
            task = asyncio.create_task(precious(coming, lost.append))
            await asyncio.sleep(0)
            coming.callback(5)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            late: Deferred[int] = Deferred(lambda _: None)
            waiting = asyncio.create_task(precious(late, lost.append))
            await asyncio.sleep(0)
            waiting.cancel()
            late.callback(7)
            with self.assertRaises(asyncio.CancelledError):
                await waiting
            there: Deferred[int] = Deferred()
            there.callback(6)
            begun = asyncio.create_task(precious(there, lost.append))
            begun.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await begun

        asyncio.run(main())
        self.assertEqual(lost, [5, 7, 6])
