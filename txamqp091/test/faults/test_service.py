# -*- test-case-name: txamqp091.test.faults.test_service -*-
"""
The network, or the broker, fails under a service that publishes and consumes: it comes
back, with one subscription, and the books balance (criteria 8, 10, 13, 15, 18 to 20).
"""

from __future__ import annotations

from time import monotonic

from zope.interface import implementer

from txamqp091.channel import Channel
from txamqp091.errors import (
    AuthenticationFailed,
    ChannelClosed,
    ConnectionForced,
    ConsumerCancelled,
    HeartbeatTimeout,
    NotFound,
)
from txamqp091.interfaces import ICredentials
from txamqp091.service import RecoveringChannel
from txamqp091.test.support.books import BooksTestCase, assert_quick, report, size
from txamqp091.test.support.chaos import Cut, Direction, Frame, Link
from txamqp091.test.support.integration import every_broker, in_thread, until
from txamqp091.wire import spec


class _Knife:
    """
    Cuts connections in the middle of frames, on demand.
    """

    def __init__(self) -> None:
        self.wanted: tuple[Direction, int] | None = None
        self.cuts = 0

    def __call__(
        self, unit: Frame | bytes, direction: Direction, link: Link
    ) -> Cut | None:
        wanted = self.wanted
        if not isinstance(unit, Frame) or wanted is None:
            return None
        if (direction, unit.kind) != wanted:
            return None
        self.wanted = None
        self.cuts += 1
        data = unit.encode()
        return Cut(data[: len(data) // 2], "reset")


@implementer(ICredentials)
class _Changing:
    """
    Credentials that somebody gets wrong, and puts right.
    """

    mechanism = "PLAIN"

    def __init__(self) -> None:
        self.right = True
        self.asked = 0

    def respond(self, challenge: bytes | None) -> bytes:
        """
        See `ICredentials`.
        """
        self.asked += 1
        return b"\0guest\0" + (b"guest" if self.right else b"wrong")


@every_broker
class NetworkChaosTests(BooksTestCase):
    """
    Faults of the network.
    """

    async def test_reset_mid_frame(self) -> None:
        """
        Resets in the middle of a frame, whichever kind and way, lose nothing
        (criteria 10, 18).
        """
        knife = _Knife()
        proxy = self.proxy(on_frame=knife)
        books = self.open_books(self.through(proxy.port))
        books.begin()
        await books.when_more_is_confirmed()
        for direction in Direction:
            for kind in (spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY):
                knife.wanted = direction, kind
                await books.losses.when_lost(knife.cuts + 1)
                await books.when_more_is_confirmed(20)
        await self.assertBack(books)
        self.assertEqual(knife.cuts, 6)
        self.assertEqual(books.losses.ready_count, 7)
        await self.assertBalanced(books)

    async def test_half_open(self) -> None:
        """
        A peer that has vanished without a word is noticed by its missing heartbeats,
        and another connection is made (criteria 8, 18).
        """
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port, heartbeat=2))
        books.begin(200)
        await books.when_more_is_confirmed()
        proxy.hole()
        began = monotonic()
        await until(lambda: bool(books.losses.lost_for))
        noticed = monotonic() - began
        self.assertIsInstance(books.losses.lost_for[0], HeartbeatTimeout)
        proxy.heal()
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        await self.assertBalanced(books)
        assert_quick(self, "noticed_seconds", noticed, 5.0)

    async def test_slow(self) -> None:
        """
        A slow link costs no connection, and nothing is lost (criterion 8).
        """
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port, heartbeat=4))
        books.begin(200)
        await books.when_more_is_confirmed()
        proxy.slow(up=10_000, down=10_000)
        await books.when_more_is_confirmed()
        proxy.slow()
        await self.assertBack(books)
        await self.assertBalanced(books)
        self.assertEqual(books.losses.lost_for, [])

    async def test_refused_for_a_while(self) -> None:
        """
        A broker that cannot be reached for some attempts is found again (criterion
        18).
        """
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port))
        books.begin()
        await books.when_more_is_confirmed()
        proxy.refuse()
        proxy.close()
        await until(lambda: len(books.losses.reasons) >= 4)
        proxy.accept()
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        await self.assertBalanced(books)


@every_broker
class BrokerChaosTests(BooksTestCase):
    """
    What a broker does to its clients.
    """

    async def test_close_connections(self) -> None:
        """
        A broker that closes all connections says so, and gets new ones (criteria 11,
        18).
        """
        books = self.open_books(self.uri)
        books.begin()
        await books.when_more_is_confirmed()
        await in_thread(self.node.close_connections)
        await until(lambda: bool(books.losses.lost_for))
        self.assertIsInstance(books.losses.lost_for[0], ConnectionForced)
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        await self.assertBalanced(books)

    async def test_memory_alarm(self) -> None:
        """
        While the memory alarm is on, what is published waits, and consuming goes on;
        when the connection is cut meanwhile, it waits on the next one (criterion 13).
        """
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port))
        books.begin()
        await books.when_more_is_confirmed()
        self.addCleanup(self.node.set_memory_alarm, False)
        await in_thread(self.node.set_memory_alarm, True)
        await until(lambda: books.losses.is_blocked)
        proxy.reset()
        await until(lambda: books.losses.ready_count >= 2 and books.losses.is_blocked)
        waiting = books.submitted
        await until(lambda: books.submitted > waiting + 100)
        await in_thread(self.node.set_memory_alarm, False)
        await until(lambda: not books.losses.is_blocked)
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        await self.assertBalanced(books)

    async def test_queue_deleted(self) -> None:
        """
        A queue that is deleted under its consumer is made again, and consumed from
        again; messages for it that come too early are returned (criteria 19, 20).
        """
        books = self.open_books(self.uri)
        books.publish(100)
        await until(lambda: books.is_settled)
        channel = await self.open_channel()
        await channel.queue_delete(books.queue.name)
        await until(lambda: books.consumer.subscribed >= 2)
        self.assertEqual(books.losses.lost_for, [])
        books.publish(100)
        await self.assertBack(books)
        await self.assertBalanced(books)

    async def test_queue_deleted_for_good(self) -> None:
        """
        A consumer that is to end with its queue ends, and says why (criterion 20).
        """
        books = self.open_books(self.uri)
        name = self.queue_name()
        channel = await self.open_channel()
        await channel.queue_declare(name)
        consumer = books.service.consume(name, books.handle, on_cancelled="end")
        await consumer.when_subscribed()
        began = monotonic()
        await channel.queue_delete(name)
        with self.assertRaises(ConsumerCancelled):
            await consumer.when_ended()
        assert_quick(self, "learned_seconds", monotonic() - began, 0.1)
        await self.assertBalanced(books)

    async def when_reopened(self, channel: RecoveringChannel, opened: int) -> None:
        """
        Wait until a channel has been opened more often.
        """
        await until(lambda: channel.opened > opened)

    async def test_channels_killed(self) -> None:
        """
        Channels that the broker closes, of the consumer and of the publisher, come back
        alone (criteria 12, 18).
        """
        books = self.open_books(self.uri)
        books.begin()
        for _ in range(3):
            await books.when_more_is_confirmed()
            opened = books.consumer.channel.opened
            with self.assertRaises(ChannelClosed):
                # An exchange of the wrong kind: 406 for the channel.
                await books.consumer.channel.call(
                    Channel.exchange_declare, "amq.direct", "fanout", durable=True
                )
            with self.assertRaises(NotFound):
                await books.publisher.publish("no such exchange", "", b"")
            await self.when_reopened(books.consumer.channel, opened)
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        self.assertEqual(books.losses.lost_for, [])
        await self.assertBalanced(books)

    async def test_wrong_password(self) -> None:
        """
        While the password is wrong, it is tried again, not often; when it is right, all
        comes back (criterion 19).
        """
        credentials = _Changing()
        proxy = self.proxy()
        books = self.open_books(self.through(proxy.port), credentials=credentials)
        books.begin()
        await books.when_more_is_confirmed()
        credentials.right = False
        proxy.reset()
        asked = credentials.asked
        await until(
            lambda: (
                isinstance(books.service.error, AuthenticationFailed)
                and credentials.asked >= asked + 2
            )
        )
        credentials.right = True
        await books.when_more_is_confirmed()
        await self.assertBack(books)
        self.assertLessEqual(credentials.asked, asked + 6)
        await self.assertBalanced(books)


@every_broker
class KillTests(BooksTestCase):
    """
    A broker that dies, and is started again.
    """

    timeout = 3600.0

    async def test_kill(self) -> None:
        """
        Nothing that was confirmed is lost, all that was submitted is confirmed in the
        end, and no more was published twice than was in flight, when the broker is
        killed under load (criterion 15).
        """
        node = await self.private_node()
        uri = f"amqp://guest:guest@{node.host}:{node.port}"
        books = self.open_books(uri)
        books.begin(1000)
        await books.when_more_is_confirmed(500)
        # RabbitMQ 3.10 has said that there is a queue before that was on disk.
        await in_thread(node.sync)
        for _ in range(size(3, 20)):
            node.kill()
            await in_thread(node.start)
            await books.when_more_is_confirmed(500)
        await self.assertBack(books, uri)
        # The broker redelivers more than was in flight: it had not written down yet
        # that those were acknowledged.
        await self.assertBalanced(books, uri=uri)
        report(self.id(), kills=size(3, 20))
