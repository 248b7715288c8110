# -*- test-case-name: txamqp091.test.unit.service.test_recovering_channel -*-
"""
Tests for `txamqp091.service.recovering_channel`: channels that come back.
"""

from __future__ import annotations

from threading import Thread
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue
from txamqp091.channel import Channel
from txamqp091.errors import (
    ChannelClosed,
    ConnectionLost,
    NotFound,
    PreconditionFailed,
)
from txamqp091.message import Delivery
from txamqp091.service.recovering_channel import Position, RecoveringChannel, together
from txamqp091.test.support.service_case import Inbox, Place, ServiceCase
from txamqp091.testing.memory import MemoryBroker


class ChannelTests(ServiceCase):
    """
    Tests for `RecoveringChannel`.
    """

    def setUp(self) -> None:
        """
        Have a service that is ready.
        """
        super().setUp()
        self.client = self.service()
        self.broker.declare_queue("work")

    def channel(self, **modes: bool) -> RecoveringChannel:
        """
        An open channel.
        """
        channel = self.client.channel(**modes)
        self.turn()
        self.assertTrue(channel.is_open)
        return channel

    def test_waits_for_the_connection(self) -> None:
        """
        Asked for before there is a connection, it opens when there is one; so do the
        calls that were made before.
        """
        client = self.service(start=False)
        channel = client.channel()
        self.assertIn("not open", repr(channel))
        called = channel.call(Channel.queue_declare, "other")
        opened = channel.when_open()
        client.startService()
        self.turn()
        self.assertIs(self.successResultOf(opened), channel.channel)
        self.assertEqual(self.successResultOf(called).queue, "other")
        self.assertIn("open, the number 1", repr(channel))

    def test_comes_back(self) -> None:
        """
        The same object has a new channel after a reconnect.
        """
        channel = self.channel()
        first = channel.channel
        self.cut()
        self.assertFalse(channel.is_open)
        self.assertIsNone(channel.channel)
        self.assertIsInstance(channel.error, ConnectionLost)
        opened = channel.when_open()
        called = channel.call(Channel.queue_declare, "work")
        self.assertNoResult(opened)
        self.passes(1)
        self.assertIsNot(self.successResultOf(opened), first)
        self.successResultOf(called)
        self.assertEqual(channel.opened, 2)

    def test_modes(self) -> None:
        """
        It comes back in confirm mode and with its prefetch limit; or in transaction
        mode.
        """
        confirming = self.client.channel(True, window=5, prefetch=7)
        transacting = self.channel(tx=True)
        for _ in range(2):
            published = confirming.call(Channel.basic_publish, "", "work", b"x")
            self.broker.hold_confirms()
            self.turn()
            self.broker.release_confirms()
            self.turn()
            self.successResultOf(published)
            transacting.call(Channel.basic_publish, "", "work", b"y")
            self.turn()
            self.assertNotIn(b"y", self.broker.queue("work").bodies)
            self.successResultOf(self.committed(transacting))
            self.assertIn(b"y", self.broker.queue("work").bodies)
            self.broker.delete_queue("work")
            self.broker.declare_queue("work")
            self.cut()
            self.passes(2)

    def test_joined_acks(self) -> None:
        """
        It joins acknowledgements again, from its first delivery on.
        """
        channel = self.client.channel(join_acks=True)
        seen: list[Delivery] = []
        self.client.consume("work", seen.append, channel=channel)
        for _ in range(2):
            self.turn()
            for body in (b"1", b"2", b"3"):
                self.broker.publish("", "work", body)
            self.turn()
            for delivery in seen:
                delivery.ack()
            assert channel.channel is not None
            joined = channel.channel._machine._joined
            assert joined is not None
            self.assertEqual(joined._lowest, 1 + len(seen))
            self.turn()
            self.assertEqual(self.broker.queue("work").unacked, 0)
            seen.clear()
            self.cut()
            self.passes(2)

    def committed(self, channel: RecoveringChannel) -> Deferred[object]:
        """
        Commit.
        """
        committed = channel.call(Channel.tx_commit)
        self.turn()
        return committed  # type: ignore[return-value]

    def test_dies_alone(self) -> None:
        """
        A channel that the broker closes is opened again alone, after a delay that
        grows if it does not last.
        """
        other = self.channel()
        channel = self.channel()
        for delay in (1, 2, 4, 8, 8):
            failed = channel.call(Channel.queue_declare, "no", passive=True)
            self.turn()
            self.failureResultOf(failed, NotFound)
            self.assertIsInstance(channel.error, NotFound)
            waiting = channel.when_open()
            self.passes(delay - 0.5)
            self.assertNoResult(waiting)
            self.passes(0.5)
            self.successResultOf(waiting)
        self.passes(9)
        channel.call(Channel.queue_declare, "no", passive=True).addErrback(lambda _: 0)
        self.turn()
        self.passes(1)
        self.assertTrue(channel.is_open)
        self.assertEqual(other.opened, 1)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_lost_while_it_waits(self) -> None:
        """
        A channel that waits to be opened again has no patience to lose: when the
        connection ends, it opens with the next.
        """
        channel = self.channel()
        self.broker.close_channels()
        self.turn()
        self.cut()
        self.passes(1)
        self.assertTrue(channel.is_open)
        self.passes(5)
        self.assertEqual(channel.opened, 2)

    def test_refused_modes(self) -> None:
        """
        When the broker refuses a mode, it is tried again, and again.
        """
        channel = self.client.channel(confirm=True, tx=True)
        self.passes(3.5)
        self.assertIsInstance(channel.error, PreconditionFailed)
        self.assertEqual(channel.opened, 0)
        channel.close()

    def test_observers(self) -> None:
        """
        Who observes it is told of each channel and each end, from now on.
        """
        channel = self.channel()
        told: list[object] = []
        stop = channel.observe(opened=told.append, closed=told.append)
        channel.observe(opened=lambda channel: told.append("too"))
        self.cut()
        self.passes(1)
        first, also, lost, second, again = told
        self.assertIsInstance(first, Channel)
        self.assertIsInstance(lost, ConnectionLost)
        self.assertIs(second, channel.channel)
        self.assertEqual((also, again), ("too", "too"))
        stop()
        stop()
        self.cut()
        self.passes(4)
        self.assertEqual(told[5:], ["too"])

    def test_broken_observer(self) -> None:
        """
        One that fails is logged.
        """
        channel = self.channel()

        def broken(_: object) -> None:
            raise ZeroDivisionError("a defect")

        stop = channel.observe(opened=broken, closed=broken)
        self.cut()
        stop()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_closing_observer(self) -> None:
        """
        One may close the channel: nobody after it is told that it is open.
        """
        told: list[object] = []
        channel = self.client.channel()
        channel.observe(opened=lambda _: channel.close())
        channel.observe(opened=told.append)
        self.turn()
        self.assertEqual(told, [])
        self.assertIn("closed", repr(channel))

    def test_close(self) -> None:
        """
        Closed by us, it does not come back.
        """
        channel = self.channel()
        closed = channel.close()
        self.turn()
        self.successResultOf(closed)
        self.successResultOf(channel.close())
        self.failureResultOf(channel.when_open(), ChannelClosed)
        self.failureResultOf(channel.call(Channel.tx_select), ChannelClosed)
        self.cut()
        self.passes(2)
        self.assertEqual(channel.opened, 1)
        self.assertEqual(self.broker.sessions[0].channels, {})

    def test_close_while_opening(self) -> None:
        """
        Closed while it is being opened, it leaves nothing behind.
        """
        for turns in range(12):
            channel = self.client.channel(confirm=True)
            self.turn(turns)
            channel.close()
            self.turn()
            self.assertEqual(self.broker.sessions[0].channels, {})

    def test_silence(self) -> None:
        """
        A broker that does not answer for long is asked again.
        """
        self.link.hole()
        channel = self.client.channel(confirm=True)
        self.passes(20)
        self.link.heal()
        self.passes(2)
        self.assertTrue(channel.is_open)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)

    def test_idle(self) -> None:
        """
        It knows when every call has its answer.
        """
        channel = self.channel(confirm=True)
        self.successResultOf(channel.when_idle())
        self.broker.hold_confirms()
        published = channel.call(Channel.basic_publish, "", "work", b"x")
        idle, gone = channel.when_idle(), channel.when_idle()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.turn()
        self.assertNoResult(idle)
        self.broker.release_confirms()
        self.turn()
        self.successResultOf(published)
        self.successResultOf(idle)

    def test_call_fails_with_the_link(self) -> None:
        """
        A call whose answer has not come when the link breaks fails with the reason; who
        made it knows whether to make it again.
        """
        channel = self.channel(confirm=True)
        self.broker.hold_confirms()
        published = channel.call(Channel.basic_publish, "", "work", b"x")
        self.turn()
        self.cut()
        self.failureResultOf(published, ConnectionLost)


class StaleTests(ServiceCase):
    """
    Answers that come too late (criterion 17).
    """

    def test_stale(self) -> None:
        """
        A thousand reconnects with deliveries held across them: their answers are
        counted, and do not reach the broker, which would close the channel for them.
        """
        service = self.service()
        self.broker.declare_queue("work")
        inbox = Inbox(ack=False)
        consumer = service.consume("work", inbox)
        self.turn()
        self.broker.publish("", "work", b"x")
        rounds = 100
        for number in range(rounds):
            self.turn(20)
            delivery = inbox.deliveries[-1]
            self.assertEqual(delivery.redelivered, number > 0)
            self.cut()
            self.clock.advance(8)
            self.turn(40)
            delivery.ack()
            self.turn(20)
        self.assertEqual(consumer.channel.stale, rounds)
        self.assertEqual(consumer.channel.opened, rounds + 1)
        self.assertTrue(consumer.is_subscribed)
        inbox.deliveries[-1].ack()
        self.turn()
        self.assertEqual(self.broker.queue("work").unacked, 0)
        self.assertEqual(consumer.channel.stale, rounds)

    def test_unsettled_for_too_long(self) -> None:
        """
        RabbitMQ 4.3 closes a channel for a fetched message that is not settled in time:
        the log has the cause and the remedy, and the channel comes back.
        """
        self.broker = MemoryBroker(self.reactor, version="4.3.6", consumer_timeout=3)
        self.endpoint = Place(self.broker)
        channel = self.service().channel()
        self.broker.declare_queue("work", arguments=quorum_queue())
        self.broker.publish("", "work", b"x")
        getting = channel.basic_get("work")
        self.turn()
        self.assertIsNotNone(self.successResultOf(getting))
        with capturedLogs() as logs:
            self.passes(200)
        [line] = [formatEvent(each) for each in logs if "remedy" in each]
        self.assertIn("timed out", line)
        self.assertIn("settle each delivery within consumer_timeout", line)
        self.assertEqual(channel.opened, 2)
        self.assertEqual(self.broker.queue("work").unacked, 0)

    def test_recovered(self) -> None:
        """
        What was given back by ``basic.recover`` is not waited for when the consumer is
        cancelled.
        """
        service = self.service()
        self.broker.declare_queue("work")
        inbox = Inbox(ack=False)
        consumer = service.consume("work", inbox, prefetch=2)
        self.turn()
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(len(inbox.deliveries), 2)
        channel = consumer.channel.channel
        assert channel is not None
        recovered = channel.basic_recover(requeue=True)
        self.turn()
        self.successResultOf(recovered)
        self.assertEqual(len(inbox.deliveries), 4)
        for delivery in inbox.deliveries[2:]:
            delivery.ack()
        self.turn()
        inbox.deliveries[-1].ack()
        consumer.cancel()
        self.turn()
        self.assertEqual(self.broker.queue("work").unacked, 0)
        self.assertIsNone(consumer.channel.channel)

    def test_from_a_thread(self) -> None:
        """
        An answer from another thread takes the way of the reactor.
        """
        calls: list[tuple[Any, ...]] = []
        self.clock.callFromThread = (  # type: ignore[attr-defined]
            lambda *call: calls.append(call)
        )
        service = self.service()
        self.broker.declare_queue("work")
        inbox = Inbox(ack=False)
        consumer = service.consume("work", inbox)
        self.turn()
        self.broker.publish("", "work", b"x")
        self.turn()
        thread = Thread(target=inbox.deliveries[0].ack)
        thread.start()
        thread.join()
        self.assertEqual(self.broker.queue("work").unacked, 1)
        ((function, *details),) = calls
        function(*details)
        self.turn()
        self.assertEqual(self.broker.queue("work").messages, [])
        self.assertEqual(consumer.channel.stale, 0)

    def test_after_close(self) -> None:
        """
        So is an answer after the channel was closed by us.
        """
        service = self.service()
        self.broker.declare_queue("work")
        self.broker.publish("", "work", b"x")
        channel = service.channel()
        fetched = channel.call(Channel.basic_get, "work")
        self.turn()
        delivery = self.successResultOf(fetched)
        assert delivery is not None
        channel.close()
        delivery.ack()
        self.assertEqual(channel.stale, 1)
        self.turn()
        self.assertEqual(self.broker.queue("work").bodies, [b"x"])


class PositionTests(SynchronousTestCase):
    """
    Tests for `Position`.
    """

    def test_in_order(self) -> None:
        """
        It is behind the last message that was answered for.
        """
        position = Position()
        self.assertIsNone(position.offset)
        for tag in (1, 2, 3):
            position.delivered(tag, 100 + tag)
        self.assertEqual(position.offset, 101)
        position.settled(1)
        self.assertEqual(position.offset, 102)
        position.settled(2)
        position.settled(3)
        self.assertEqual(position.offset, 104)

    def test_out_of_order(self) -> None:
        """
        Where there are gaps, it is at the first.
        """
        position = Position()
        for tag in (1, 2, 3):
            position.delivered(tag, 100 + tag)
        position.settled(3)
        position.settled(1)
        self.assertEqual(position.offset, 102)
        position.rewind()
        self.assertEqual(position.offset, 102)
        position.delivered(1, 102)
        position.settled(1)
        self.assertEqual(position.offset, 103)


class TogetherTests(SynchronousTestCase):
    """
    Tests for `together`.
    """

    def test_all(self) -> None:
        """
        It fires when all have.
        """
        self.successResultOf(together([]))
        second: Deferred[int] = Deferred()
        both = together([succeed(1), second])
        self.assertNoResult(both)
        second.callback(2)
        self.assertIsNone(self.successResultOf(both))

    def test_first_failure(self) -> None:
        """
        It fails as the first that does.
        """
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()
        both = together([first, second])
        second.errback(ZeroDivisionError("it"))
        self.failureResultOf(both, ZeroDivisionError)
        first.errback(ValueError("unseen"))

    def test_cancel(self) -> None:
        """
        When it is cancelled, so are they.
        """
        first: Deferred[int] = Deferred()
        both = together([first])
        both.cancel()
        self.failureResultOf(both, CancelledError)
        self.assertTrue(first.called)
