# -*- test-case-name: txamqp091.test.faults.test_rabbitmq_faults -*-
"""
The network, or the broker, fails under a connection to a real RabbitMQ: everything
that waits is told why, once (criteria 8, 10 and 11).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.python.failure import Failure

from txamqp091.channel import Channel
from txamqp091.errors import (
    BatchFailed,
    ConnectionClosed,
    ConnectionForced,
    ConnectionLost,
    HeartbeatTimeout,
)
from txamqp091.message import Delivery, Message
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.chaos import ChaosProxy, Cut, Direction, Frame, Link
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    until,
    within,
)
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class Ledger:
    """
    Keeps what became of Deferreds: each is to fire once.
    """

    def __init__(self) -> None:
        self.fired: list[list[object]] = []

    def watch(self, *deferreds: Deferred[Any]) -> None:
        """
        Note the outcome of each.
        """
        for deferred in deferreds:
            outcome: list[object] = []
            self.fired.append(outcome)
            deferred.addCallbacks(
                outcome.append,
                lambda failure, outcome=outcome: outcome.append(failure.value),
            )

    @property
    def complete(self) -> bool:
        """
        Whether all have fired.
        """
        return all(self.fired)

    @property
    def errors(self) -> list[object]:
        """
        What the failed ones failed with.
        """
        return [each[0] for each in self.fired if isinstance(each[0], BaseException)]


class FaultTestCase(RabbitTestCase):
    """
    A test case with a connection that is busy with everything.
    """

    async def busy(self, connection: AMQPProtocol) -> tuple[Channel, str]:
        """
        A channel with a queue, some deliveries, and confirms.
        """
        channel = await connection.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.confirm_select()
        await channel.publish_many([Message("", queue, "x")] * 10)
        self.came: list[Delivery] = []
        await channel.basic_consume(queue, self.came.append)
        await until(lambda: len(self.came) == 10)
        return channel, queue

    async def ask_for_everything(self, channel: Channel, queue: str) -> Ledger:
        """
        Have one of everything pending, many times.
        """
        ledger = Ledger()
        connection = channel.connection
        deliveries = await channel.consume(queue)
        ledger.watch(
            connection.when_closed(),
            channel.when_closed(),
            deliveries.consumer.when_ended(),
            deliveries.get(),
        )
        return ledger

    def pile_up(self, ledger: Ledger, channel: Channel, queue: str) -> None:
        """
        Ask for things that the broker will not answer any more.
        """
        for number in range(50):
            ledger.watch(
                channel.basic_publish("", queue, "x" * number, mandatory=True),
                channel.basic_publish("", queue, "y"),
                channel.queue_declare(queue, passive=True),
                channel.basic_get(queue),
                channel.connection.open_channel(),
            )
        ledger.watch(channel.publish_many([Message("", queue, "z")] * 2000))
        ledger.watch(channel.close(), channel.close())

    def check(self, ledger: Ledger, error: BaseException) -> None:
        """
        All have fired once, and those that failed did so with the first cause; a
        batch says it of each of its messages.
        """
        self.assertEqual({len(each) for each in ledger.fired}, {1})
        causes: set[object] = set()
        for other in ledger.errors:
            if isinstance(other, BatchFailed):
                causes.update(each for _, each in other.failures)
            else:
                causes.add(other)
        self.assertEqual(causes, {error})


@every_broker
class TransportTests(FaultTestCase):
    """
    The transport ends, or falls silent.
    """

    async def ends(
        self,
        kind: type[ConnectionClosed],
        fault: Callable[[ChaosProxy], object],
        hole_first: bool = True,
        **changes: Any,
    ) -> ConnectionClosed:
        """
        Let a fault happen to a busy connection, and see what everyone is told.
        """
        proxy = self.proxy()
        connection = await self.connect(port=proxy.port, **changes)
        channel, queue = await self.busy(connection)
        ledger = await self.ask_for_everything(channel, queue)
        if hole_first:
            proxy.hole(Direction.DOWN)
        self.pile_up(ledger, channel, queue)
        fault(proxy)
        with self.assertRaises(kind) as context:
            await connection.when_closed()
        error = context.exception
        assert isinstance(error, kind)
        await until(lambda: ledger.complete)
        self.check(ledger, error)
        for delivery in self.came:
            delivery.ack()  # goes nowhere
        late = Ledger()
        late.watch(channel.queue_declare(), connection.open_channel())
        late.watch(channel.basic_publish("", queue, "late"))
        self.assertEqual({type(each) for each in late.errors}, {type(error)})
        return error

    async def test_reset(self) -> None:
        """
        A reset is `ConnectionLost`, with Twisted's error as its cause.
        """
        error = await self.ends(ConnectionLost, ChaosProxy.reset)
        self.assertIsInstance(error.__cause__, TransportLost)
        self.assertTrue(error.retriable)

    async def test_closed(self) -> None:
        """
        So is an end of the transport without a word of AMQP.
        """
        error = await self.ends(ConnectionLost, ChaosProxy.close)
        self.assertIsInstance(error.__cause__, ConnectionDone | TransportLost)

    async def test_black_hole_publishing(self) -> None:
        """
        A peer that vanishes while much is published is noticed within two intervals
        and a second, also with a full transport (criterion 8, D5).
        """
        holed = 0.0

        def hole(proxy: ChaosProxy) -> None:
            nonlocal holed
            proxy.hole()
            holed = monotonic()

        error = await self.ends(HeartbeatTimeout, hole, hole_first=False, heartbeat=1)
        self.assertLess(monotonic() - holed, within(3.0))
        self.assertIsInstance(error, ConnectionLost)

    async def test_black_hole_with_full_transport(self) -> None:
        """
        16 MiB that cannot leave do not keep a dead peer alive (D5).
        """
        proxy = self.proxy()
        channel = await self.open_channel(port=proxy.port, heartbeat=1)
        proxy.hole()
        published = channel.basic_publish("", "nobody", bytes(16 << 20))
        self.successResultOf(published)
        ledger = Ledger()
        ledger.watch(channel.basic_publish("", "nobody", "waits"))
        holed = monotonic()
        with self.assertRaises(HeartbeatTimeout):
            await channel.when_closed()
        self.assertLess(monotonic() - holed, within(3.0))
        await until(lambda: ledger.complete)

    async def test_black_hole_idle(self) -> None:
        """
        So it is when nobody has anything to say.
        """
        proxy = self.proxy()
        connection = await self.connect(port=proxy.port, heartbeat=1)
        proxy.hole()
        holed = monotonic()
        with self.assertRaises(HeartbeatTimeout) as context:
            await connection.when_closed()
        self.assertLess(monotonic() - holed, within(3.0))
        self.assertIn("2 s", str(context.exception))

    async def cut(self, how: str, part: Callable[[bytes], bytes]) -> ConnectionClosed:
        """
        Cut the connection in the fifth delivery.
        """
        count = 0

        def hook(unit: Frame | bytes, way: Direction, link: Link) -> Cut | None:
            nonlocal count
            if isinstance(unit, Frame) and unit.method is spec.BasicDeliver:
                count += 1
                if count == 5:
                    return Cut(part(unit.encode()), how)
            return None

        proxy = self.proxy(on_frame=hook)
        channel = await self.open_channel(port=proxy.port, heartbeat=2)
        queue = self.queue_name()
        await channel.queue_declare(queue)
        await channel.confirm_select()
        await channel.publish_many([Message("", queue, f"{n}") for n in range(10)])
        deliveries = await channel.consume(queue)
        got = []
        with self.assertRaises(ConnectionLost) as context:
            async for delivery in deliveries:
                got.append(delivery.body)
        self.assertLessEqual(len(got), 4)
        direct = await self.open_channel()
        # The broker learns of a dead peer by itself, and has all messages again.
        await until(lambda: self.node.queue_depth(queue, self.vhost) == 10)
        await direct.queue_delete(queue)
        error = context.exception
        assert isinstance(error, ConnectionLost)
        return error

    async def test_cut_before_a_frame(self) -> None:
        """
        A reset between frames loses nothing: what was not acknowledged is there.
        """
        await self.cut("reset", lambda frame: b"")

    async def test_cut_in_a_frame(self) -> None:
        """
        Nor does the end of the transport in the middle of a frame.
        """
        await self.cut("close", lambda frame: frame[:20])

    async def test_half_a_frame_for_ever(self) -> None:
        """
        Half a frame, and then silence, is a matter of heartbeats.
        """
        error = await self.cut("hole", lambda frame: frame[:9])
        self.assertIsInstance(error, HeartbeatTimeout)


@every_broker
class BrokerTests(FaultTestCase):
    """
    The broker ends the connection, or ends itself.
    """

    async def test_forced(self) -> None:
        """
        A connection that an operator closed is `ConnectionForced` for all who wait,
        with the operator's words (D4).
        """
        connection = await self.connect()
        channel, queue = await self.busy(connection)
        ledger = await self.ask_for_everything(channel, queue)
        await in_thread(self.node.close_connections, "maintenance at noon")
        with self.assertRaises(ConnectionForced) as context:
            await connection.when_closed()
        error = context.exception
        assert isinstance(error, ConnectionForced)
        self.assertEqual(error.reply_code, 320)
        self.assertIn("maintenance at noon", error.reply_text)
        self.assertTrue(error.retriable)
        await until(lambda: ledger.complete)
        self.check(ledger, error)

    async def test_killed(self) -> None:
        """
        When the broker is killed with confirms in flight, each message has an
        outcome, and what was confirmed is there when the broker is back.
        """
        node = await self.private_node()
        channel = await self.open_channel(port=node.port, virtual_host="/")
        await channel.queue_declare("kept")
        node.sync()
        await channel.confirm_select()
        taken: list[object] = []
        failed: list[Failure] = []
        published = 0

        def publish(_: object = None) -> None:
            nonlocal published
            if not failed:
                published += 1
                channel.basic_publish(
                    "", "kept", f"{published}", Properties(delivery_mode=2)
                ).addCallbacks(confirmed, failed.append)

        def confirmed(result: object) -> None:
            taken.append(result)
            publish()

        for _ in range(200):
            publish()
        await until(lambda: len(taken) > 1000)
        await in_thread(node.kill)
        with self.assertRaises(ConnectionLost):
            await channel.connection.when_closed()
        self.assertEqual(len(taken) + len(failed), published)
        self.assertEqual({each.type for each in failed}, {ConnectionLost})
        await in_thread(node.start)
        channel = await self.open_channel(port=node.port, virtual_host="/")
        declared = await channel.queue_declare("kept", passive=True)
        self.assertGreaterEqual(declared.message_count, len(taken))
        self.assertLessEqual(declared.message_count, published)

    async def test_shut_down(self) -> None:
        """
        A broker that shuts down says so: 320.
        """
        node = await self.private_node()
        connection = await self.connect(port=node.port, virtual_host="/")
        stopping = in_thread(node.terminate)
        with self.assertRaises(ConnectionForced) as context:
            await connection.when_closed()
        self.assertIn("shutdown", str(context.exception).lower())
        await stopping

    async def test_frozen(self) -> None:
        """
        A broker that is frozen is a black hole; closing does not wait for it for
        longer than the time limit.
        """
        node = await self.private_node()
        connection = await self.connect(
            port=node.port, virtual_host="/", close_timeout=0.5
        )
        channel = await connection.open_channel()
        node.pause()
        started = monotonic()
        pending = channel.queue_declare("never")
        closing = connection.close()
        error = self.failureResultOf(pending, ConnectionClosed).value
        self.assertTrue(error.by_us)
        await closing
        self.assertLess(monotonic() - started, within(2.0))
