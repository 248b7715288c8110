# -*- test-case-name: txamqp091.test.faults.test_recovery_cuts -*-
"""
The link is cut at every step of connecting and recovering, and the service always comes
back; and a day of life in a few seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from txamqp091.channel import Channel
from txamqp091.service import (
    AMQPClientService,
    Binding,
    Exchange,
    Queue,
    RecoveringChannel,
    RecoveringConsumer,
    Topology,
)
from txamqp091.test.support.service_case import Inbox, ServiceCase
from txamqp091.testing.network import Direction, Link

REPLIES = Queue(exclusive=True, label="replies")

TOPOLOGY = Topology.of(
    Exchange(name="events", type="topic"),
    Exchange(name="passing", auto_delete=True),
    Queue(name="work"),
    Queue(name="mine", exclusive=True),
    REPLIES,
    Binding(source="events", queue="work", routing_key="#"),
    Binding(source="passing", queue="mine"),
    Binding(source="events", queue=REPLIES, routing_key="r"),
)


class FullServiceCase(ServiceCase):
    """
    A service with one of everything.
    """

    def full(self) -> AMQPClientService:
        """
        Make it, and start it.
        """
        self.client: AMQPClientService = self.service(topology=TOPOLOGY, start=False)
        self.inbox, self.answers = Inbox(), Inbox()
        self.consumers: list[RecoveringConsumer] = [
            self.client.consume("work", self.inbox),
            self.client.consume(REPLIES, self.answers),
            self.client.consume("mine", Inbox(), auto_ack=True, exclusive=True),
        ]
        self.channel: RecoveringChannel = self.client.channel(confirm=True, prefetch=3)
        self.client.startService()
        return self.client

    def assertWhole(self) -> None:
        """
        All of it works, and is there exactly once.
        """
        self.assertReady(self.client)
        self.assertTrue(all(each.ok for each in self.client.outcomes))
        self.assertTrue(self.channel.is_open)
        replies = self.client.queue_name(REPLIES)
        for queue in ("work", "mine", replies):
            self.assertEqual(self.broker.queue(queue).consumers, 1, queue)
        self.assertTrue(all(each.is_subscribed for each in self.consumers))
        self.assertEqual(set(self.broker.queues()), {"work", "mine", replies})
        (session,) = self.broker.sessions
        # Those of the topology's declarations are closed.
        self.assertEqual(len(session.channels), 4)
        before = len(self.inbox.bodies), len(self.answers.bodies)
        published = self.channel.call(Channel.basic_publish, "events", "r", b"x")
        self.turn()
        self.successResultOf(published)
        after = len(self.inbox.bodies), len(self.answers.bodies)
        self.assertEqual(after, (before[0] + 1, before[1] + 1))
        self.assertEqual(self.broker.queue("work").unacked, 0)


class CutTests(FullServiceCase):
    """
    The link is cut after every so many bytes.
    """

    def sizes(self) -> dict[Direction, int]:
        """
        How many bytes a whole connection, with all that is on it, takes each way.
        """
        self.full()
        self.turn(200)
        self.assertWhole()
        moved = dict(self.link.moved)
        self.client.stopService()
        self.turn()
        return moved

    def survives(self, spoil: Callable[[Link], object]) -> None:
        """
        The first connection is spoilt, the second one is not, then that is cut, and the
        way back is spoilt; and each time all is well in the end.
        """
        first = len(self.endpoint.links)

        def sometimes(link: Link) -> None:
            if (len(self.endpoint.links) - first) % 2 == 1:
                spoil(link)

        self.endpoint.spoil = sometimes
        self.full()
        self.passes(9)
        self.endpoint.links[-1].cut_after.clear()  # if it has not come so far
        self.assertWhole()
        self.cut()
        self.passes(9)
        self.endpoint.links[-1].cut_after.clear()
        self.assertWhole()
        stopped = self.client.stopService()
        self.turn(200)
        self.successResultOf(stopped)
        self.assertEqual(self.broker.sessions, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.services.clear()
        self.endpoint.spoil = None

    def cut_at_every_step(self, way: Direction, step: int) -> None:
        """
        Try one place after the other.
        """
        size = self.sizes()[way]
        self.services.clear()
        for place in [*range(0, size, step), size - 1]:
            self.survives(partial(_cut_after, way, place))

    def test_up(self) -> None:
        """
        Whatever the client was saying.
        """
        self.cut_at_every_step(Direction.UP, 29)

    def test_down(self) -> None:
        """
        Whatever the broker was saying.
        """
        self.cut_at_every_step(Direction.DOWN, 23)

    def test_turns(self) -> None:
        """
        In whichever turn of the reactor.
        """

        def cut_in(turns: int) -> Callable[[Link], None]:
            def spoil(link: Link) -> None:
                def count(left: int) -> None:
                    if left:
                        self.clock.callLater(0, count, left - 1)
                    else:
                        link.cut()

                count(turns)

            return spoil

        for turns in range(1, 40):
            self.survives(cut_in(turns))

    def test_silence(self) -> None:
        """
        When the peer only falls silent, it takes longer.
        """
        for place in range(0, 900, 100):
            self.endpoint.spoil = partial(_silent_after, place)
            self.full()
            self.turn(100)
            self.endpoint.spoil = None
            self.passes(150, step=2)
            self.assertWhole()
            stopped = self.client.stopService()
            self.turn(200)
            self.successResultOf(stopped)
            self.services.clear()


def _cut_after(way: Direction, count: int, link: Link) -> None:
    """
    Have a link break after so many bytes.
    """
    link.cut_after[way] = count


def _silent_after(count: int, link: Link) -> None:
    """
    Have a link say no more to the client after so many bytes.
    """
    move = link._deliver

    def deliver(transport: object, data: bytes) -> None:
        move(transport, data)  # type: ignore[arg-type]
        if link.moved[Direction.DOWN] >= count:
            link.hole()

    link._deliver = deliver  # type: ignore[method-assign]


class ManyReconnectsTests(FullServiceCase):
    """
    Many reconnects change nothing (criterion 18).
    """

    def test_hundred(self) -> None:
        """
        After each of a hundred there is one subscription for each consumer, what was
        deleted or cancelled stays away, and nothing grows.
        """
        self.full()
        self.turn(200)
        deleted = self.client.declare(Queue(name="deleted"))
        cancelled = self.client.consume("work", Inbox())
        self.turn()
        self.successResultOf(deleted)
        self.client.delete(Queue(name="deleted"))
        cancelled.cancel()
        self.turn()
        counts: list[int] = []
        for number in range(100):
            self.cut()
            self.passes(9)
            self.assertWhole()
            self.inbox.deliveries.clear()
            self.answers.deliveries.clear()
            self.endpoint.links[:-1] = []
            self.broker.published.clear()
            if number % 20 == 19:
                counts.append(_objects())
        counts = counts[1:]  # the first has what other tests have left
        self.assertLess(max(counts), min(counts) * 1.01)


class DayTests(FullServiceCase):
    """
    Twenty-four hours.
    """

    def test_day(self) -> None:
        """
        A day with messages, a reconnect every hour of each kind, and a blocked phase
        every two, leaves as many objects as there were.
        """
        self.full()
        self.passes(10)
        counts: list[int] = []
        for hour in range(24):
            for _ in range(6):
                self.passes(600 - 40, step=20)
                self.broker.publish("events", "r", b"x")
                self.turn()
            if hour % 2:
                self.broker.block()
                self.passes(60, step=10)
                self.broker.unblock()
            self.fault(hour % 6)
            self.passes(150, step=5)
            self.passes(20)
            self.assertWhole()
            self.inbox.deliveries.clear()
            self.answers.deliveries.clear()
            self.endpoint.links[:-1] = []
            self.broker.published.clear()
            if hour % 6 == 5:
                counts.append(_objects())
        counts = counts[1:]  # the first has what other tests have left
        self.assertLess(max(counts), min(counts) * 1.01)

    def fault(self, kind: int) -> None:
        """
        Something happens.
        """
        if kind == 0:
            self.cut()
        elif kind == 1:
            self.broker.close_connections()
        elif kind == 2:
            self.broker.close_channels()
        elif kind == 3:
            self.link.hole()
        elif kind == 4:
            self.broker.delete_queue("work")
        else:
            self.broker.cancel_consumers("work")
            self.endpoint.refusing = True
            self.cut()
            self.passes(300, step=5)
            self.endpoint.refusing = False
        self.turn()


def _objects() -> int:
    """
    How many objects there are.
    """
    for _ in range(3):
        gc.collect()
    return len(gc.get_objects())
