# -*- test-case-name: txamqp091.test.faults.test_rabbitmq_blocking -*-
"""
When a real RabbitMQ takes no more for now, publishers are told and held back; when we
take no more, it is; and memory is bounded either way (criteria 7 and 13).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from time import monotonic

from twisted.internet.defer import Deferred

from txamqp091.arguments import classic_queue
from txamqp091.errors import ConnectionClosed
from txamqp091.message import Delivery, Message
from txamqp091.test.support.books import NIGHTLY, report
from txamqp091.test.support.chaos import Direction, Frame, Link
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    outcomes,
    resident,
    until,
    within,
)
from txamqp091.wire import spec

#: The interval, in seconds, and how many the broker is to send while it blocks, two in
#: each: 20 seconds in the night; else it is no use to ask much of a busy machine.
HEARTBEAT, BEATS = (2, 20) if NIGHTLY else (3, 5)


class FrameCounter:
    """
    A frame hook that counts the methods, and the heartbeats, of each direction.
    """

    def __init__(self) -> None:
        self.up: dict[object, int] = {}
        self.down: dict[object, int] = {}

    def __call__(self, unit: Frame | bytes, way: Direction, link: Link) -> None:
        if isinstance(unit, Frame):
            counts = self.up if way is Direction.UP else self.down
            kind = unit.method or unit.kind
            counts[kind] = counts.get(kind, 0) + 1


@every_broker
class WindowTests(RabbitTestCase):
    """
    The broker is slow to confirm.
    """

    async def test_window(self) -> None:
        """
        No more messages leave than may be unconfirmed, until some are confirmed.
        """
        counter = FrameCounter()
        proxy = self.proxy(on_frame=counter)
        channel = await self.open_channel(port=proxy.port)
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.confirm_select(window=10)
        proxy.hole(Direction.DOWN)
        published = [channel.basic_publish("", queue, "x") for _ in range(25)]
        await until(lambda: self.node.queue_depth(queue, self.vhost) == 10)
        self.assertEqual(counter.up[spec.BasicPublish], 10)
        proxy.heal()
        self.assertEqual(await outcomes(published), [None] * 25)


@every_broker
class MemoryAlarmTests(RabbitTestCase):
    """
    The broker blocks its publishers (criterion 13: for 20 seconds in the night).
    """

    async def test_bounded(self) -> None:
        """
        The publisher is told, holds back, does not grow, keeps its heartbeats, and
        goes on afterwards.
        """
        counter = FrameCounter()
        proxy = self.proxy(on_frame=counter)
        channel = await self.open_channel(port=proxy.port, heartbeat=HEARTBEAT)
        connection = channel.connection
        queue = await channel.queue_declare(
            exclusive=True, arguments=classic_queue(max_length=10)
        )
        await channel.confirm_select()
        events: list[tuple[bool, float]] = []
        connection.observe_blocked(
            lambda reason: events.append((reason is not None, monotonic()))
        )
        drawn = 0
        go_on = True

        def messages() -> Iterator[Message]:
            nonlocal drawn
            while go_on:
                drawn += 1
                yield Message("", queue.queue, bytes(10_000))

        publishing = channel.publish_many(messages())
        await until(lambda: drawn > 3000)
        before = resident()
        self.addCleanup(self.node.set_memory_alarm, False)
        began = monotonic()
        await in_thread(self.node.set_memory_alarm, True)
        raised = monotonic()
        await until(lambda: bool(events))
        self.assertIsNotNone(connection.blocked)
        unblocked = connection.when_unblocked()
        held = drawn
        # The broker sends them, and reads none of ours.
        beats = counter.down.get(spec.FRAME_HEARTBEAT, 0) + BEATS
        await until(lambda: counter.down.get(spec.FRAME_HEARTBEAT, 0) >= beats)
        self.assertEqual(drawn, held)
        self.assertNoResult(unblocked)
        self.assertTrue(connection.is_open)
        grown = resident() - before
        self.assertLess(grown, 24 << 20)
        blocked_for = monotonic() - events[0][1]
        await in_thread(self.node.set_memory_alarm, False)
        lowered = monotonic()
        await unblocked
        await until(lambda: drawn > held + 1000)
        resumed = monotonic() - lowered
        self.assertEqual([blocked for blocked, _ in events], [True, False])
        go_on = False
        await publishing
        told = events[0][1] - raised
        self.assertLess(told, within(0.2))
        self.assertLess(resumed, within(1.0))
        report(
            self.id(),
            published_before=held,
            told_after_seconds=told,
            and_after_the_order=events[0][1] - began,
            blocked_seconds=blocked_for,
            kilobytes=grown // 1024,
            resumed_seconds=resumed,
        )

    async def test_single_publishes(self) -> None:
        """
        Single publishes wait while the broker blocks, and leave in their order.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.confirm_select()
        self.block_publishers()
        published = [channel.basic_publish("", queue, "0")]
        await until(lambda: channel.connection.blocked is not None)
        published += [channel.basic_publish("", queue, f"{n}") for n in range(1, 50)]
        cancelled = published.pop(25)
        cancelled.addErrback(lambda _: None)
        cancelled.cancel()
        self.node.set_memory_alarm(False)
        self.assertEqual(await outcomes(published), [None] * 49)
        bodies = []
        while (delivery := await channel.basic_get(queue, auto_ack=True)) is not None:
            bodies.append(delivery.body)
        self.assertEqual(bodies, [b"%d" % n for n in range(50) if n != 25])

    async def test_close(self) -> None:
        """
        A broker that blocks does not read, and so does not agree to a close: it is
        waited for no longer than the time limit, and what waited fails at once.
        """
        channel = await self.open_channel(close_timeout=0.5)
        connection = channel.connection
        queue = (await channel.queue_declare(exclusive=True)).queue
        self.block_publishers()
        await channel.basic_publish("", queue, "x")
        await until(lambda: connection.blocked is not None)
        waiting = channel.basic_publish("", queue, "y")
        unblocked = connection.when_unblocked()
        closing = connection.close()
        for failed in (waiting, unblocked):
            self.assertTrue(self.failureResultOf(failed, ConnectionClosed).value.by_us)
        await closing


@every_broker
class SlowConsumerTests(RabbitTestCase):
    """
    The consumer is slower than the broker (criterion 7).
    """

    async def test_without_a_limit(self) -> None:
        """
        Without a prefetch limit, reading stops while handlers have enough to do, the
        connection lives on, and in the end nothing is missing.
        """
        count, size = 50_000, 1_000
        counter = FrameCounter()
        proxy = self.proxy(on_frame=counter)
        channel = await self.open_channel(port=proxy.port, heartbeat=4)
        publisher = await self.open_channel()
        queue = self.queue_name()
        await publisher.queue_declare(queue)
        await publisher.confirm_select()
        await publisher.publish_many(
            Message("", queue, bytes(size)) for _ in range(count)
        )
        gc.collect()
        before = resident()
        working: list[Deferred[None]] = []
        done = 0

        def work(delivery: Delivery) -> Deferred[None]:
            waiting: Deferred[None] = Deferred()
            waiting.addCallback(lambda _: delivery.body)
            working.append(waiting)
            return waiting

        consumer = await channel.basic_consume(queue, work, auto_ack=True, prefetch=0)
        await until(lambda: len(working) > 1000)
        seen = len(working)
        # Ours still leave, one in two seconds; the broker's are not read.
        beats = counter.up.get(spec.FRAME_HEARTBEAT, 0) + 3
        await until(lambda: counter.up.get(spec.FRAME_HEARTBEAT, 0) >= beats)
        self.assertEqual(len(working), seen)
        self.assertLess(seen, 2_000)
        self.assertLess(resident() - before, 8 << 20)
        self.assertTrue(channel.is_open)
        while done < count:
            some, working[:] = list(working), []
            for waiting in some:
                waiting.callback(None)
            done += len(some)
            if done < count:
                await until(lambda: bool(working))
        self.assertEqual(consumer.running, 0)
        await publisher.queue_delete(queue)
