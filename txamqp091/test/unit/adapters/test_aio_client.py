# -*- test-case-name: txamqp091.test.unit.adapters.test_aio_client -*-
"""
The client that stays connected on asyncio's loop: the scenarios of Twisted's service,
against every broker and on every loop; and what is asyncio's alone, in memory.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters._asyncio import AsyncioLoop
from txamqp091.adapters.aio import (
    AMQPClient,
    Channel,
    Connection,
    ConsumerService,
    Publisher,
    RecoveringConsumer,
    RPCClient,
    RPCServer,
)
from txamqp091.errors import (
    AuthenticationFailed,
    CallFailed,
    ChannelClosed,
    ConnectFailed,
    ConnectionLost,
    ConsumerCancelled,
    HeartbeatTimeout,
    InvalidURI,
    LocalProtocolError,
    NotFound,
    Returned,
    TopologyFailed,
)
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters, TLSParameters
from txamqp091.service import (
    Binding,
    Exchange,
    Queue,
    RetryPolicy,
    SRVRecords,
    Topology,
)
from txamqp091.test.support.chaos import Cut, Direction, Frame, Link
from txamqp091.test.support.served import CHECKOUT, ServedTestCase, every_served
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.network import MemoryEndpoint
from txamqp091.wire.spec import BasicDeliver
from txamqp091.worker import HandlerOptions, Reject

#: Tests have no time for the delays that production has.
POLICY = RetryPolicy(initial_delay=0.02, max_delay=0.1)


class Complaints(list[object]):
    """
    What the loop of a program complains of, such as an exception that was never
    retrieved.
    """

    def watch(self) -> None:
        """
        Write down what the running loop complains of.
        """
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.append(context)
        )


async def until(is_true: Callable[[], object]) -> None:
    """
    Wait until something is true; the test case has the limit.
    """
    while not is_true():
        await asyncio.sleep(0.005)


class Books:
    """
    The bodies that were confirmed, and those that were handled.
    """

    def __init__(self) -> None:
        self.confirmed: set[bytes] = set()
        self.handled: set[bytes] = set()
        self._count = 0

    async def handle(self, delivery: Delivery) -> None:
        """
        A handler that needs asyncio's loop.
        """
        await asyncio.sleep(0)
        self.handled.add(delivery.body)
        delivery.ack()

    async def publish(self, publisher: Publisher, queue: str, count: int) -> None:
        """
        Publish messages, and write them down when they are confirmed.
        """
        for _ in range(count):
            self._count += 1
            body = b"%d" % self._count
            await publisher.publish("", queue, body, mandatory=True)
            self.confirmed.add(body)

    async def balance(self) -> None:
        """
        Wait until all that was confirmed is handled.
        """
        await until(lambda: self.confirmed <= self.handled)


class LoopTestCase(ServedTestCase):
    """
    A test case whose scenarios run on a loop of asyncio.
    """

    def run_main(self, main: Callable[[], Awaitable[None]]) -> None:
        """
        Run a coroutine function as a program would.
        """
        self.complaints = Complaints()
        self.run_loop(self.in_time(main))
        gc.collect()
        self.assertEqual(self.complaints, [])

    async def in_time(self, main: Callable[[], Awaitable[None]]) -> None:
        """
        Run a scenario, which must leave no task.
        """
        self.complaints.watch()
        async with asyncio.timeout(120):
            await main()
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

    def run_loop(self, main: Any) -> None:
        """
        Run a coroutine.
        """
        asyncio.run(main)


if TYPE_CHECKING:
    _Mixed = LoopTestCase
else:
    _Mixed = object


class ScenarioCase(_Mixed):
    """
    A client with a publisher and a consumer, through a network that misbehaves.
    """

    def scenario(
        self,
        fault: Callable[[AMQPClient, RecoveringConsumer, Publisher], Awaitable[None]],
        port: int = 0,
        query: str = "",
    ) -> None:
        """
        Run a scenario; after it messages are published and handled as before.
        """
        self.queue = self.queue_name()
        self.books = Books()
        self.lost: list[BaseException] = []

        async def main() -> None:
            async with AMQPClient(
                self.uri_for(port or self.port, query),
                topology=Topology.of(Queue(name=self.queue)),
                policy=POLICY,
            ) as client:
                client.observe(lost=self.lost.append)
                publisher = Publisher(client)
                consumer = client.consume(self.queue, self.books.handle, prefetch=10)
                await self.books.publish(publisher, self.queue, 5)
                await self.books.balance()
                await fault(client, consumer, publisher)
                await self.books.publish(publisher, self.queue, 5)
                await self.books.balance()
                await client.channel().queue_delete(self.queue)
            self.assertIsNone(client.connection)

        self.run_main(main)


class RecoveryCase(ScenarioCase):
    """
    What is run on each loop.
    """

    def test_reset_mid_frame(self) -> None:
        """
        The connection is reset in the middle of deliveries: each message that was
        confirmed is handled.
        """
        left = 0

        def hook(unit: Frame | bytes, way: Direction, link: Link) -> Cut | None:
            nonlocal left
            if isinstance(unit, Frame) and unit.method is BasicDeliver and left:
                left -= 1
                return Cut(unit.encode()[:11])
            return None

        async def fault(
            client: AMQPClient, consumer: RecoveringConsumer, publisher: Publisher
        ) -> None:
            nonlocal left
            left = 3
            while left:
                await self.books.publish(publisher, self.queue, 5)
                await self.books.balance()

        self.scenario(fault, self.proxy(on_frame=hook).port)
        self.assertEqual({type(each) for each in self.lost}, {ConnectionLost})

    def test_refused(self) -> None:
        """
        Nobody listens for a while.  A message that is published meanwhile waits.
        """
        proxy = self.proxy()

        async def fault(
            client: AMQPClient, consumer: RecoveringConsumer, publisher: Publisher
        ) -> None:
            recovering = asyncio.Event()
            client.observe(recovering=lambda *_: recovering.set())
            proxy.refuse()
            proxy.reset()
            await recovering.wait()
            publishing = asyncio.create_task(
                self.books.publish(publisher, self.queue, 5)
            )
            await until(lambda: isinstance(client.error, ConnectFailed))
            self.assertIsNone(client.connection)
            self.assertFalse(consumer.is_subscribed)
            proxy.accept()
            await publishing

        self.scenario(fault, proxy.port)

    def test_queue_deleted(self) -> None:
        """
        The queue is deleted under the consumer.  Being in the topology, the queue is
        declared again, and the consumer subscribes again on the same connection.
        """

        async def fault(
            client: AMQPClient, consumer: RecoveringConsumer, publisher: Publisher
        ) -> None:
            reasons: list[BaseException] = []
            again: list[RecoveringConsumer] = []
            client.observe(
                unsubscribed=lambda _, reason, delay: reasons.append(reason),
                subscribed=again.append,
            )
            await client.channel().queue_delete(self.queue)
            await until(lambda: again)
            self.assertIsInstance(reasons[0], ConsumerCancelled)
            self.assertEqual(again[0], consumer)

        self.scenario(fault)
        self.assertEqual(self.lost, [])

    def test_blocked(self) -> None:
        """
        While the broker takes no messages, observers know, and a message waits.
        """
        if self.node is None:
            self.skipTest("the in-memory broker cannot be reached from here")
        node = self.node

        async def fault(
            client: AMQPClient, consumer: RecoveringConsumer, publisher: Publisher
        ) -> None:
            seen: asyncio.Queue[str] = asyncio.Queue()
            client.observe(
                blocked=seen.put_nowait, unblocked=lambda: seen.put_nowait("unblocked")
            )
            await asyncio.to_thread(node.set_memory_alarm, True)
            try:
                # RabbitMQ tells those that publish.
                publishing = asyncio.create_task(
                    self.books.publish(publisher, self.queue, 5)
                )
                self.assertNotEqual(await seen.get(), "unblocked")
            finally:
                await asyncio.to_thread(node.set_memory_alarm, False)
            while await seen.get() != "unblocked":
                pass
            await publishing

        self.scenario(fault)
        self.assertEqual(self.lost, [])


@every_served
class RecoveryTests(RecoveryCase, LoopTestCase):
    """
    asyncio's own loop.
    """


@every_served
class UvloopTests(RecoveryCase, LoopTestCase):
    """
    uvloop.
    """

    def run_loop(self, main: Any) -> None:
        """
        Run a coroutine by uvloop.
        """
        try:
            import uvloop
        except ImportError:
            main.close()
            self.skipTest("uvloop is not installed")
        uvloop.run(main)


class TornadoTests(RecoveryCase, LoopTestCase):
    """
    Tornado's loop, with the broker in memory: it is asyncio's.
    """

    def run_loop(self, main: Any) -> None:
        """
        Run a coroutine by an ``IOLoop``.
        """
        try:
            from tornado.ioloop import IOLoop

            from txamqp091.adapters import tornado
        except ImportError:
            main.close()
            self.skipTest("Tornado is not installed")
        self.assertIs(tornado.AMQPClient, AMQPClient)
        loop = IOLoop(make_current=False)
        try:
            loop.run_sync(lambda: main)
        finally:
            loop.close()


class SilenceTests(ScenarioCase, LoopTestCase):
    """
    A broker that is not heard any more; the in-memory one will do.
    """

    def test_half_open(self) -> None:
        """
        The peer vanishes without a word: the heartbeat notices.
        """
        proxy = self.proxy()

        async def fault(
            client: AMQPClient, consumer: RecoveringConsumer, publisher: Publisher
        ) -> None:
            proxy.hole()
            await until(lambda: self.lost)
            proxy.heal()

        self.scenario(fault, proxy.port, "?heartbeat=1")
        self.assertIsInstance(self.lost[0], HeartbeatTimeout)


@every_served
class ClientTests(LoopTestCase):
    """
    What is on a client, with every broker.
    """

    def test_rpc(self) -> None:
        """
        A server whose handler awaits asyncio answers; a failed handler is told to the
        caller.
        """
        queue = self.queue_name()

        async def double(request: Delivery) -> bytes:
            await asyncio.sleep(0.001)
            if request.body == b"bad":
                raise ValueError("no number")
            return request.body * 2

        async def main() -> None:
            async with AMQPClient(
                self.uri, topology=Topology.of(Queue(name=queue, exclusive=True))
            ) as client:
                server = RPCServer(client, queue, double)
                await server.consumer.when_subscribed()
                rpc = RPCClient(client)
                answers = await asyncio.gather(
                    *(rpc.call("", queue, b"%d" % n, timeout=60) for n in range(5))
                )
                self.assertEqual(
                    [each.body for each in answers], [b"%d" % n * 2 for n in range(5)]
                )
                with self.assertRaises(CallFailed) as failed:
                    await rpc.call("", queue, b"bad", timeout=60)
                self.assertIn("no number", str(failed.exception))
                with self.assertRaises(Returned):
                    await rpc.call("", f"{queue}-none", b"", timeout=60)
                await server.stop()
                rpc.close()

        self.run_main(main)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_worker(self) -> None:
        """
        A `ConsumerService` runs coroutines as tasks, which await asyncio and Deferreds;
        a rejected message goes to the dead letters.
        """
        queue = self.queue_name()
        dead = f"{queue}-dead"
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            await asyncio.sleep(0.001)
            await succeed(None)
            if delivery.body == b"bad":
                raise Reject("it is bad")
            handled.append(delivery.body)

        topology = Topology.of(
            Queue(
                name=queue,
                arguments={
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": dead,
                },
            ),
            Queue(name=dead),
        )

        async def main() -> None:
            async with (
                AMQPClient(self.uri, topology=topology) as client,
                ConsumerService(
                    client, queue, handle, options=HandlerOptions(concurrency=3)
                ) as consumer,
            ):
                publisher = Publisher(client)
                bodies = [b"1", b"bad", b"2", b"3"]
                await asyncio.gather(
                    *(publisher.publish("", queue, each) for each in bodies)
                )
                await until(lambda: len(handled) == 3)
                channel = client.channel()
                fetched = None
                while fetched is None:
                    fetched = await channel.basic_get(dead, auto_ack=True)
                self.assertEqual(fetched.body, b"bad")
                await until(lambda: not consumer.running_handlers)
                self.assertTrue(consumer.subscribed)
                self.assertTrue(consumer.health().subscribed)
                await consumer.stop()
                self.assertEqual(consumer.counts.acknowledged, 3)
                await channel.queue_delete(queue)
                await channel.queue_delete(dead)

        self.run_main(main)
        self.assertEqual(sorted(handled), [b"1", b"2", b"3"])

    def test_wrong_password(self) -> None:
        """
        ``async with`` fails with the reason when the service gives up.
        """

        async def main() -> None:
            wrong = self.uri.replace("guest:guest", "guest:wrong")
            with self.assertRaises(AuthenticationFailed):
                async with AMQPClient(wrong):
                    self.fail("it has connected")

        self.run_main(main)

    def test_topology_refused(self) -> None:
        """
        ``async with`` fails when the broker refuses a part of the topology.
        """
        name = self.queue_name()

        async def main() -> None:
            async with AMQPClient(self.uri) as client:
                channel = client.channel()
                await channel.exchange_declare(name, "fanout")
                with self.assertRaises(TopologyFailed):
                    async with AMQPClient(
                        self.uri,
                        topology=Topology.of(Exchange(name=name, type="direct")),
                    ):
                        self.fail("it is ready")
                await channel.exchange_delete(name)

        self.run_main(main)

    def test_declare(self) -> None:
        """
        What is declared later is in the topology, and what is deleted is not.
        """
        name = self.queue_name()

        async def main() -> None:
            async with AMQPClient(self.uri) as client:
                exchange, queue = Exchange(name=name, type="fanout"), Queue(name=name)
                binding = Binding(source=exchange, queue=queue)
                outcomes = await client.declare(exchange, queue, binding)
                self.assertEqual([each.error for each in outcomes], [None] * 3)
                publisher = Publisher(client)
                await publisher.publish(name, "", b"x", mandatory=True)
                delivery = await client.channel().basic_get(client.queue_name(queue))
                assert delivery is not None
                delivery.ack()
                await client.delete(exchange, queue)
                with self.assertRaises(NotFound):
                    await client.channel().queue_declare(name, passive=True)

        self.run_main(main)


class MemoryCase(SynchronousTestCase):
    """
    A test case with a broker in memory, on the loop of the program.
    """

    timeout = 180.0

    def run_main(self, main: Callable[[], Awaitable[Any]]) -> None:
        """
        Run a coroutine function, with a broker.
        """

        async def in_time() -> None:
            reactor = AsyncioLoop(asyncio.get_running_loop())
            self.broker = MemoryBroker(reactor)
            self.endpoint = MemoryEndpoint(reactor, BrokerFactory(self.broker, reactor))
            self.broker.declare_queue("work")
            complaints.watch()
            async with asyncio.timeout(120):
                await main()

        complaints = Complaints()
        asyncio.run(in_time())
        gc.collect()
        self.assertEqual(complaints, [])

    def client(self, **options: Any) -> AMQPClient:
        """
        Make a client.
        """
        options.setdefault("policy", POLICY)
        return AMQPClient(self.endpoint, **options)

    def assertLeftNothing(self, client: AMQPClient) -> None:
        """
        A client that was stopped leaves no task and no timer.
        """
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})
        self.assertEqual(client._reactor.getDelayedCalls(), [])
        self.assertFalse(client.native.running)


class StopTests(MemoryCase):
    """
    How a client ends.
    """

    def test_drains(self) -> None:
        """
        Leaving ``async with`` waits for the running handlers and for confirms.
        """

        async def main() -> None:
            begun = asyncio.Event()
            handled: list[bytes] = []

            async def handle(delivery: Delivery) -> None:
                begun.set()
                await asyncio.sleep(0.02)
                handled.append(delivery.body)
                delivery.ack()

            async with self.client() as client:
                client.consume("work", handle)
                publisher = Publisher(client)
                await publisher.publish("", "work", b"1")
                await begun.wait()
                late = publisher.publish("", "later", b"2")
            self.assertEqual(handled, [b"1"])
            await late
            self.assertLeftNothing(client)

        self.run_main(main)

    def test_cancelled(self) -> None:
        """
        A program whose task is cancelled, as by a Ctrl-C, drains; when it is cancelled
        again, it waits no longer for handlers, whose messages go back.
        """

        async def main() -> None:
            begun, stopping = asyncio.Event(), asyncio.Event()
            ended: list[str] = []

            async def handle(delivery: Delivery) -> None:
                begun.set()
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.append("handler")

            async def program() -> None:
                async with self.client() as client:
                    client.observe(draining=lambda: ended.append("drained"))
                    client.consume("work", handle)
                    await Publisher(client).publish("", "work", b"1")
                    await begun.wait()
                    stopping.set()
                    await client.when_ended()

            task = asyncio.create_task(program())
            await stopping.wait()
            task.cancel()
            for _ in range(100):
                await asyncio.sleep(0)
            self.assertFalse(task.done())
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertEqual(ended, ["drained"])
            async with self.client() as client:
                delivery = await client.channel().basic_get("work")
                assert delivery is not None
                self.assertTrue(delivery.redelivered)
                delivery.ack()

        self.run_main(main)
        self.flushLoggedErrors(asyncio.CancelledError)

    def test_run_ends(self) -> None:
        """
        A client that the program leaves started is stopped when ``asyncio.run`` ends.
        """
        clients: list[AMQPClient] = []

        async def main() -> None:
            client = self.client()
            clients.append(client)
            client.start()
            await client.when_ready()
            client.consume("work", lambda delivery: delivery.ack())

        self.run_main(main)
        [client] = clients
        self.assertFalse(client.native.running)
        self.assertIsNone(client.connection)
        self.assertEqual(client._reactor.getDelayedCalls(), [])

    def test_run_ends_without_a_connection(self) -> None:
        """
        The same, while the client tries to connect.
        """
        clients: list[AMQPClient] = []

        async def main() -> None:
            self.endpoint.refusing = True
            client = self.client()
            clients.append(client)
            client.start()
            await until(lambda: client.error is not None)

        self.run_main(main)
        self.assertFalse(clients[0].native.running)
        self.assertEqual(clients[0]._reactor.getDelayedCalls(), [])

    def test_silent_broker(self) -> None:
        """
        A stop that is cancelled ends within about a second, also when the broker does
        not answer.
        """

        async def main() -> None:
            async def program() -> None:
                async with self.client() as client:
                    clients.append(client)
                    self.endpoint.links[-1].hole()

            clients: list[AMQPClient] = []
            task = asyncio.create_task(program())
            await until(lambda: clients)
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertLeftNothing(clients[0])
            self.assertFalse(self.endpoint.links[-1].is_up)

        self.run_main(main)

    def test_timeout(self) -> None:
        """
        ``asyncio.timeout`` ends the wait for a broker that cannot be reached.
        """

        async def main() -> None:
            self.endpoint.refusing = True
            client = self.client()
            with self.assertRaises(TimeoutError):
                async with asyncio.timeout(0.05), client:
                    self.fail("it has connected")
            self.assertLeftNothing(client)

        self.run_main(main)

    def test_gave_up(self) -> None:
        """
        `AMQPClient.when_ended` fails with the reason when the service has given up.
        """

        async def main() -> None:
            policy = RetryPolicy(initial_delay=0.01, max_attempts=2)
            async with self.client(policy=policy) as client:
                ended = client.when_ended()
                self.endpoint.refusing = True
                self.endpoint.links[-1].cut()
                with self.assertRaises(ConnectFailed):
                    await ended
            self.assertLeftNothing(client)

        self.run_main(main)

    def test_again(self) -> None:
        """
        A client that was stopped can be started again, with its consumers.
        """

        async def main() -> None:
            client = self.client()
            bodies: asyncio.Queue[bytes] = asyncio.Queue()

            def handle(delivery: Delivery) -> None:
                bodies.put_nowait(delivery.body)
                delivery.ack()

            async with client:
                client.consume("work", handle)
                ended = client.when_ended()
            await ended
            async with client:
                await Publisher(client).publish("", "work", b"1")
                self.assertEqual(await bodies.get(), b"1")
                self.assertEqual(len(client.consumers), 1)
            self.assertLeftNothing(client)

        self.run_main(main)


class HandlerTests(MemoryCase):
    """
    Coroutines that are called by a client.
    """

    def test_failed(self) -> None:
        """
        A handler that fails before its message is settled is logged, and the message is
        delivered again.
        """

        async def main() -> None:
            seen: list[bool] = []

            async def handle(delivery: Delivery) -> None:
                await asyncio.sleep(0)
                seen.append(delivery.redelivered)
                if not delivery.redelivered:
                    raise ValueError("the first time")

            async with self.client() as client:
                client.consume("work", handle, ack_on_return=True)
                await Publisher(client).publish("", "work", b"1")
                await until(lambda: len(seen) == 2)
            self.assertEqual(seen, [False, True])
            self.assertLeftNothing(client)

        self.run_main(main)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_waits_for_itself(self) -> None:
        """
        A handler that waits for the end of all handlers is told so: its consumer is
        known in its task.
        """

        async def main() -> None:
            problems: list[BaseException] = []

            async def handle(delivery: Delivery) -> None:
                await asyncio.sleep(0)
                try:
                    await consumer.when_idle()
                except LocalProtocolError as error:
                    problems.append(error)
                delivery.ack()

            async with self.client() as client:
                consumer = client.consume("work", handle)
                await Publisher(client).publish("", "work", b"1")
                await until(lambda: problems)

        self.run_main(main)

    def test_refused(self) -> None:
        """
        A handler that cannot be one is refused.
        """

        async def main() -> None:
            client = self.client()
            with self.assertRaises(TypeError):
                client.consume("work", "handle")  # type: ignore[arg-type]
            with self.assertRaises(TypeError):
                RPCServer(client, "work", None)  # type: ignore[arg-type]
            with self.assertRaises(TypeError):
                client.observe(ready=1)  # type: ignore[arg-type]

        self.run_main(main)

    def test_observers(self) -> None:
        """
        Observers may be coroutine functions, and get objects of asyncio's API.
        """

        async def main() -> None:
            seen: list[Any] = []

            async def ready(connection: Connection, outcomes: list[Any]) -> None:
                channel = await connection.open_channel()
                await channel.queue_declare("observed")
                await channel.close()
                seen.append(None)

            async def opened(channel: Channel) -> None:
                seen.append((await channel.queue_declare("observed")).queue)

            async def draining() -> None:
                await asyncio.sleep(0.01)
                seen.append("draining")

            closed: list[BaseException] = []
            client = self.client()
            client.observe(ready=ready, draining=draining)
            async with client:
                await until(lambda: len(seen) == 1)
                channel = client.channel()
                channel.observe(opened=opened, closed=closed.append)
                await until(lambda: len(seen) == 2)
                await (await channel.when_open()).close()
                await until(lambda: len(seen) == 3)
            self.assertEqual(seen, [None, "observed", "observed", "draining"])
            self.assertIsInstance(closed[0], ChannelClosed)
            self.assertLeftNothing(client)

        self.run_main(main)


def resolver() -> Any:
    """
    Make a resolver that knows nothing.
    """

    class Resolver:
        def lookupService(self, *_: object) -> Deferred[Any]:
            return succeed(([], [], []))

    return Resolver()


class PlaceTests(MemoryCase):
    """
    Where a client connects to.
    """

    def test_no_loop(self) -> None:
        """
        A client is made where a loop runs.
        """
        with self.assertRaises(RuntimeError):
            AMQPClient("amqp://localhost")

    def test_other_loop(self) -> None:
        """
        A call on another loop is refused.
        """
        clients: list[AMQPClient] = []

        async def main() -> None:
            clients.append(self.client())

        async def other() -> None:
            with self.assertRaises(RuntimeError) as refused:
                clients[0].start()
            self.assertIn("connect on each loop", str(refused.exception))

        self.run_main(main)
        asyncio.run(other())

    def test_context(self) -> None:
        """
        An ``ssl_context`` needs TLS at every address, and fits the parameters of each.
        """
        import ssl

        context = ssl.create_default_context()
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE

        async def main() -> None:
            for where in (
                "amqp://a",
                ["amqps://a", "amqp://b"],
                ConnectionParameters(),
            ):
                with self.assertRaises(InvalidURI):
                    AMQPClient(where, ssl_context=context)
            AMQPClient(["amqps://a", "amqps://b"], ssl_context=context)
            records = SRVRecords(
                "example.org", ConnectionParameters(tls=TLSParameters())
            )
            records.resolver = resolver()
            AMQPClient(records, ssl_context=unverified)
            assert records.parameters.tls is not None
            self.assertFalse(records.parameters.tls.verified)

        self.run_main(main)

    def test_no_reactor(self) -> None:
        """
        Neither connecting, losing the connection nor stopping loads a Twisted reactor,
        or starts a thread.
        """
        program = (
            "import asyncio, sys, threading\n"
            "from txamqp091.adapters import aio\n"
            "from txamqp091.adapters._asyncio import AsyncioLoop\n"
            "from txamqp091.testing import MemoryBroker\n"
            "async def main():\n"
            "    loop = asyncio.get_running_loop()\n"
            "    broker = MemoryBroker(AsyncioLoop(loop))\n"
            "    broker.declare_queue('work')\n"
            "    async def handle(delivery):\n"
            "        await asyncio.sleep(0)\n"
            "        return delivery.body\n"
            "    endpoint = broker.endpoint()\n"
            "    async with aio.AMQPClient(endpoint) as client:\n"
            "        server = aio.RPCServer(client, 'work', handle)\n"
            "        connection = client.connection\n"
            "        endpoint.links[-1].cut()\n"
            "        rpc = aio.RPCClient(client)\n"
            "        answer = await rpc.call('', 'work', b'x', timeout=60)\n"
            "        print(answer.body.decode(), client.native.running)\n"
            "        async with aio.ConsumerService(client, 'work', handle):\n"
            "            pass\n"
            "    client = aio.AMQPClient('amqp://127.0.0.1:1')\n"
            "    client.start()\n"
            "    while client.error is None:\n"
            "        await asyncio.sleep(0.01)\n"
            "    await client.stop()\n"
            "    print('twisted.internet.reactor' in sys.modules)\n"
            "    print(threading.active_count())\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual((done.stdout, done.stderr), ("x 1\nFalse\n1\n", ""))

    def test_resolver(self) -> None:
        """
        Twisted's resolver needs a reactor: without a resolver of the program's own,
        ``SRVRecords`` are refused.
        """

        async def main() -> None:
            with self.assertRaises(InvalidURI):
                AMQPClient(SRVRecords("example.org"))
            records = SRVRecords("example.org", resolver=resolver())
            async with asyncio.timeout(60):
                with self.assertRaises(ConnectFailed):
                    async with AMQPClient(records, policy=RetryPolicy(max_attempts=1)):
                        self.fail("it has connected")

        self.run_main(main)
