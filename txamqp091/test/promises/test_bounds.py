# -*- test-case-name: txamqp091.test.promises.test_bounds -*-
"""
Tests for the bounds on what is kept: criteria 7 and 13, in memory.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.channel import Channel
from txamqp091.consumer import Deliveries
from txamqp091.errors import (
    ChannelClosed,
    ConnectionBlocked,
    ContentTooLarge,
    DecodeError,
    PublisherFull,
    ResourceError,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.books import size
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.test.support.peer import Peer
from txamqp091.test.unit.wire.test_types import sized, table_of
from txamqp091.wire import spec
from txamqp091.wire.frames import method_frame
from txamqp091.wire.types import MAX_TABLE_SIZE, MAX_TABLE_VALUES, decode_table

MIB = 1 << 20


class BoundsCase(ChannelCase):
    """
    With many deliveries at a time.
    """

    def feed(self, first: int, last: int) -> None:
        """
        Deliver many at once.
        """
        frames = [
            self.peer.content(
                1, spec.BasicDeliver("tag", each, False, "", "work"), b"%d" % each
            )
            for each in range(first, last + 1)
        ]
        self.peer.feed(b"".join(frames))

    @property
    def reading(self) -> bool:
        """
        Whether the client reads.
        """
        return self.peer.transport.producerState == "producing"


class PauseTests(BoundsCase):
    """
    Criterion 7: what is not asked for is bounded, by reading no further.
    """

    def test_pause_and_resume(self) -> None:
        """
        Beyond the bound nothing is read; when half of it was taken, reading goes on,
        in order, with nothing lost.
        """
        deliveries = self.deliveries(auto_ack=True, prefetch=10)
        self.feed(1, 50)
        self.assertFalse(self.reading)
        self.assertEqual(deliveries.buffered, 11)
        bodies: list[bytes] = []
        for _ in range(50):
            bodies.append(self.successResultOf(deliveries.get()).body)
            self.peer.turn()
            self.assertLessEqual(deliveries.buffered, 11)
        self.assertEqual(bodies, [b"%d" % each for each in range(1, 51)])
        self.assertTrue(self.reading)

    def test_no_prefetch(self) -> None:
        """
        Without a prefetch limit, the bound is 1000.
        """
        deliveries = self.deliveries(prefetch=0)
        self.feed(1, 3000)
        self.assertFalse(self.reading)
        self.assertEqual(deliveries.buffered, 1001)

    def test_cancel_while_paused(self) -> None:
        """
        Cancelling reads on, however it is done, until the broker has agreed.
        """
        cancels: list[Callable[[Deliveries], Deferred[Any]]] = [
            lambda deliveries: deliveries.cancel(),
            lambda deliveries: deliveries.consumer.cancel(),
            lambda deliveries: self.channel.basic_cancel("tag"),
        ]
        for cancel in cancels:
            deliveries = self.deliveries(auto_ack=True, prefetch=10)
            self.feed(1, 50)
            self.assertFalse(self.reading)
            cancelling = cancel(deliveries)
            self.peer.turn()
            self.assertTrue(self.reading)
            self.peer.serve()
            self.successResultOf(cancelling)
            self.assertEqual(deliveries.buffered, 50)

    def test_close_while_paused(self) -> None:
        """
        Closing the channel reads on.
        """
        self.deliveries(auto_ack=True, prefetch=10)
        self.feed(1, 50)
        closing = self.channel.close()
        self.peer.serve()
        self.successResultOf(closing)
        self.assertTrue(self.reading)

    def test_close_connection_while_paused(self) -> None:
        """
        Closing the connection reads on.
        """
        self.deliveries(auto_ack=True, prefetch=10)
        self.feed(1, 50)
        closing = self.peer.client.close()
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(closing)


class HandlerTests(BoundsCase):
    """
    Handlers that take their time.
    """

    def setUp(self) -> None:
        """
        Have handlers that end when they are told.
        """
        super().setUp()
        self.gates: list[Deferred[None]] = []

    async def handle(self, delivery: Delivery) -> None:
        """
        Wait.
        """
        gate: Deferred[None] = Deferred()
        self.gates.append(gate)
        await gate

    def test_pause_and_resume(self) -> None:
        """
        Criterion 7: when more handlers run than may, nothing more is read until one
        has ended; nothing is lost.
        """
        consumer = self.consumer(self.handle, auto_ack=True, prefetch=10)
        self.feed(1, 50)
        self.assertEqual((consumer.running, self.reading), (11, False))
        for ended, gate in enumerate(self.gates, 1):
            gate.callback(None)
            self.peer.turn()
            self.assertEqual(consumer.running, min(11, 50 - ended))
        self.assertEqual(len(self.gates), 50)
        self.assertTrue(self.reading)

    def test_a_broker_beyond_the_prefetch(self) -> None:
        """
        Criterion 7: a broker that does not keep to the prefetch limit is not read
        from.
        """
        consumer = self.consumer(self.handle, prefetch=3)
        self.feed(1, 50)
        self.assertEqual((consumer.running, self.reading), (4, False))

    def test_cancel_while_paused(self) -> None:
        """
        Cancelling reads on: what had been received goes back.
        """
        consumer = self.consumer(self.handle, prefetch=3)
        self.feed(1, 50)
        cancelling = consumer.cancel()
        self.peer.turn()
        self.assertTrue(self.reading)
        self.peer.serve()
        self.assertEqual(self.successResultOf(cancelling), 46)
        self.assertEqual(consumer.running, 4)
        for gate in self.gates:
            gate.callback(None)

    def test_two_consumers(self) -> None:
        """
        Reading goes on only when no consumer has too much.
        """
        first = self.consumer(self.handle, auto_ack=True, prefetch=2)
        self.feed(1, 3)
        self.assertFalse(self.reading)
        other = self.channel.consume(
            "other", auto_ack=True, prefetch=2, consumer_tag="other"
        )
        self.peer.turn()
        self.assertNoResult(other)
        self.gates[0].callback(None)
        self.peer.serve()
        deliveries = self.successResultOf(other)
        for tag in range(4, 7):
            self.peer.deliver(1, "other", tag)
        self.assertFalse(self.reading)
        self.feed(7, 7)
        self.assertEqual(first.running, 2)
        self.successResultOf(deliveries.get())
        self.peer.turn()
        self.assertFalse(self.reading)
        self.successResultOf(deliveries.get())
        self.peer.turn()
        self.assertEqual((first.running, self.reading), (3, False))


class HostileTests(BoundsCase):
    """
    A broker that keeps back what the client waits for, or reads nothing.
    """

    def flood(self, mebibytes: int, size: int = MIB) -> int:
        """
        Deliver without end, until the client hangs up.

        :returns: how many mebibytes it has taken.
        """
        method = spec.BasicDeliver("tag", 1, False, "", "work")
        frames = self.peer.content(1, method, bytes(size))
        for count in range(mebibytes * MIB // size):
            if not self.peer.client.is_open or not self.reading:
                return count * size // MIB
            self.peer.client.dataReceived(frames)
        return mebibytes

    def assertOverrun(self) -> None:
        """
        The connection has ended, and both sides know why.
        """
        reason = self.reason(self.peer.client.when_closed(), ResourceError)
        self.assertTrue(reason.by_us)
        self.assertTrue(reason.retriable)
        self.assertIn("a prefetch", str(reason))
        close = self.heard()[-1]
        assert isinstance(close, spec.ConnectionClose)
        self.assertEqual(close.reply_code, 506)
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_an_answer_is_withheld(self) -> None:
        """
        While an answer is due reading cannot stop: what may come before it is limited,
        for iterators as well as for handlers.
        """
        for handled in (False, True):
            self.setUp()
            if handled:
                self.consumer(lambda _: Deferred(), auto_ack=True, prefetch=0)
            else:
                self.deliveries(auto_ack=True, prefetch=0)
            self.feed(1, 1000)
            self.channel.queue_declare("never").addErrback(lambda _: None)
            self.heard()
            taken = self.flood(100)
            self.assertLess(taken, 67)
            self.assertGreater(taken, 60)
            self.peer.turn()
            self.assertOverrun()

    def test_the_end_is_withheld(self) -> None:
        """
        The same holds for the answer to a cancel: with automatic acknowledgement, what
        comes before it is kept.
        """
        deliveries = self.deliveries(auto_ack=True, prefetch=10)
        deliveries.cancel().addErrback(lambda _: None)
        self.heard()
        self.assertLess(self.flood(100), 80)
        self.peer.turn()
        self.assertOverrun()

    def test_cancelled_by_the_broker(self) -> None:
        """
        A consumer that the broker has ended keeps nobody from reading.
        """
        self.deliveries(auto_ack=True, prefetch=10)
        declared = self.channel.queue_declare("slow")
        self.feed(1, 15)
        self.peer.send(1, spec.BasicCancel("tag", True))
        self.peer.serve()
        self.successResultOf(declared)
        other = self.deliveries(auto_ack=True, prefetch=1)
        self.feed(1, 5)
        self.assertFalse(self.reading)
        self.successResultOf(other.get())
        self.successResultOf(other.get())
        self.peer.turn()
        self.assertEqual(other.buffered, 2)
        self.flushLoggedErrors()

    def test_what_is_taken_does_not_count(self) -> None:
        """
        A program that keeps up, though only just, is not cut off.
        """
        deliveries = self.deliveries(auto_ack=True, prefetch=10)
        self.channel.queue_declare("slow").addErrback(lambda _: None)
        self.feed(1, 15)
        for _ in range(80):
            self.assertEqual(self.flood(1), 1)
            self.successResultOf(deliveries.get())
        self.assertTrue(self.peer.client.is_open)

    def test_answers_are_not_read(self) -> None:
        """
        A broker that makes the client answer, and does not read the answers, is
        dropped; what the program sends by itself is not counted.
        """
        self.peer.transport.capacity = 100_000
        self.channel.basic_publish("", "work", bytes(30 * MIB))
        self.peer.turn()
        self.assertFalse(self.peer.client._writable)
        frames = method_frame(1, spec.BasicCancel("t" * 255, False).encode()) * 1000
        taken = 0
        while self.peer.client.is_open and taken < 100 * MIB:
            self.peer.client.dataReceived(frames)
            taken += len(frames)
        self.peer.turn()
        reason = self.reason(self.peer.client.when_closed(), ResourceError)
        self.assertLess(taken, 10 * MIB)
        self.assertTrue(reason.by_us)
        self.assertIn("does not read the answers", str(reason))
        self.assertEqual(self.peer.transport.ended, "aborted")

    def test_published_when_answered(self) -> None:
        """
        Large messages that a program publishes as an answer comes are not counted, nor
        what comes while they leave.
        """
        self.peer.transport.capacity = 100_000
        declared = self.channel.queue_declare("work")
        published: list[Deferred[None]] = []

        def publish(_: object) -> None:
            for _ in range(4):
                published.append(
                    self.channel.basic_publish("", "work", bytes(16 * MIB))
                )

        declared.addCallback(publish)
        self.peer.serve()
        self.assertFalse(self.peer.client._writable)
        for _ in range(100):
            self.peer.send(1, spec.ChannelFlow(True))
        self.assertTrue(self.peer.client.is_open)
        while not all(each.called for each in published):
            self.peer.drain()
        self.assertTrue(self.peer.client.is_open)

    def test_answers_are_read_late(self) -> None:
        """
        A broker that reads in the end may be as slow as it likes.
        """
        self.peer.transport.capacity = 100_000
        frames = method_frame(1, spec.BasicCancel("t" * 255, False).encode()) * 5000
        for _ in range(20):
            self.peer.client.dataReceived(frames)
            while not self.peer.client._writable:
                self.peer.drain()
        self.assertTrue(self.peer.client.is_open)


class MemoryTests(BoundsCase):
    """
    What all that costs.
    """

    def measure(self, work: Callable[[], object]) -> int:
        """
        The peak of the memory that some work allocates; ``kept`` is what it does not
        release.
        """
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            work()
            now, peak = tracemalloc.get_traced_memory()
            self.kept = now - before
            return peak - before
        finally:
            tracemalloc.stop()

    def test_many_deliveries(self) -> None:
        """
        Criterion 7: of 20,000 deliveries (200,000 in the nightly run) that nobody asks
        for, the client keeps a window and one read of the socket: 1 MiB at most.  When
        the program asks for them, all come, and the client keeps nothing.
        """
        deliveries = self.deliveries(auto_ack=True)
        client, transport = self.peer.client, self.peer.transport
        total, taken, fed, most = size(20_000, 200_000), 0, 0, 0

        def chunks() -> Iterator[bytes]:
            method = spec.BasicDeliver("tag", 1, False, "", "work")
            yield self.peer.content(1, method, bytes(128)) * 300

        [chunk] = chunks()

        def flood() -> None:
            nonlocal fed
            # As a kernel would: give what there is, for as long as it is asked for.
            while fed < total and transport.producerState == "producing":
                client.dataReceived(chunk)
                fed += 300

        def take(_: Delivery) -> None:
            nonlocal taken
            taken += 1

        def run() -> None:
            nonlocal most
            flood()
            self.assertLess(fed, 1000)
            while taken < total:
                while deliveries.buffered:
                    deliveries.get().addCallback(take)
                    most = max(most, deliveries.buffered)
                self.peer.turn()
                flood()

        self.assertLess(self.measure(run), MIB)
        self.assertLess(self.kept, MIB // 16)
        self.assertGreaterEqual(taken, total)
        self.assertLessEqual(most, 101)

    def test_oversized(self) -> None:
        """
        Criterion 7: a body of 300 MiB is read and not kept: 1 MiB, and one frame, at
        the most; it is not settled, and the next message is delivered.
        """
        client = self.peer.client
        getting = self.channel.basic_get("work")
        size, room = 300 * MIB, 131072 - 8
        header = b"\x02\0\x01" + (14).to_bytes(4, "big") + b"\0\x3c\0\0"
        header += size.to_bytes(8, "big") + b"\0\0\xce"
        frame = b"\x03\0\x01" + room.to_bytes(4, "big") + bytes(room) + b"\xce"
        rest = size % room
        last = b"\x03\0\x01" + rest.to_bytes(4, "big") + bytes(rest) + b"\xce"

        def run() -> None:
            method = spec.BasicGetOk(1, False, "", "work", 0)
            client.dataReceived(method_frame(1, method.encode()) + header)
            for _ in range(size // room):
                client.dataReceived(frame)
            client.dataReceived(last)

        self.assertLess(self.measure(run), MIB + len(frame))
        self.assertEqual(self.reason(getting, ContentTooLarge).size, size)
        self.assertEqual(len(self.heard()), 1)
        again = self.channel.basic_get("work")
        self.give(2)
        self.successResultOf(again)

    def test_blocked(self) -> None:
        """
        Criterion 13: while the broker blocks, nothing is drawn from a batch of 400 MB,
        and afterwards no more than the transport takes.
        """
        self.peer.send(0, spec.ConnectionBlocked("low on memory"))

        def messages() -> Iterator[Message]:
            for _ in range(40_000):
                yield Message("", "work", bytes(10_000))

        batches: list[Deferred[None]] = []
        self.peer.transport.capacity = 100_000
        used = self.measure(
            lambda: batches.append(self.channel.publish_many(messages()))
        )
        self.assertLess(used, MIB)
        self.peer.send(0, spec.ConnectionUnblocked())
        sent = len(self.bodies())
        self.assertGreater(sent, 0)
        self.assertLess(sent, 100)
        batches[0].cancel()
        self.failureResultOf(batches[0])


class WaitingTests(BoundsCase):
    """
    Messages that are published without waiting for any.
    """

    def publish(self, mebibytes: int) -> list[Deferred[None]]:
        """
        Publish messages of a mebibyte.
        """
        body = bytes(MIB)
        return [self.channel.basic_publish("", "q", body) for _ in range(mebibytes)]

    def test_blocked(self) -> None:
        """
        While the broker blocks, 64 MiB wait, on all channels together.  More is refused
        with the reason, until there is room.
        """
        other = self.peer.open_channel()
        self.peer.send(0, spec.ConnectionBlocked("low on memory"))
        waiting = self.publish(64)
        refused = other.basic_publish("", "q", b"one more")
        error = self.reason(refused, ConnectionBlocked)
        self.assertEqual((error.reason, error.sent), ("low on memory", False))
        for each in waiting[:2]:
            each.cancel()
            self.reason(each, CancelledError)
        waiting += self.publish(1)
        self.assertNoResult(waiting[-1])
        self.peer.send(0, spec.ConnectionUnblocked())
        for each in waiting[2:]:
            self.successResultOf(each)
        self.assertEqual(self.peer.client._flow.waiting, 0)
        self.successResultOf(other.basic_publish("", "q", b"later"))

    def test_not_blocked(self) -> None:
        """
        With a broker that is slow, 256 MiB wait.  They wait no more when the channel
        ends.
        """
        self.confirming(window=1)
        waiting = self.publish(257)
        self.reason(self.channel.basic_publish("", "q", b""), PublisherFull)
        self.channel.close()
        for each in waiting:
            self.peer.serve()
            self.reason(each, ChannelClosed)
        self.assertEqual(self.peer.client._flow.waiting, 0)


class ChannelTests(SynchronousTestCase):
    """
    Channels that have ended.
    """

    def setUp(self) -> None:
        """
        Have a connection with three channels at the most.
        """
        self.peer = Peer(self)
        self.peer.handshake(channel_max=3)

    def test_cycles(self) -> None:
        """
        100,000 channels, opened and closed one after the other, leave nothing
        behind.
        """
        client, clock = self.peer.client, self.peer.clock
        writes = self.peer.transport.writes
        opened = [
            method_frame(each, spec.ChannelOpenOk().encode()) for each in range(4)
        ]
        closed = [
            method_frame(each, spec.ChannelCloseOk().encode()) for each in range(4)
        ]

        def cycle(times: int) -> None:
            for _ in range(times):
                opening: list[Channel] = []
                client.open_channel().addCallback(opening.append)
                number = next(iter(client._machine._channels))
                client.dataReceived(opened[number])
                ending = opening[0].close()
                client.dataReceived(closed[number])
                assert ending.called
                writes.clear()
                clock.advance(0)

        self.peer.listen()
        self.peer._read = 0
        cycle(100)
        gc.collect()
        before = len(gc.get_objects())
        cycle(100_000)
        gc.collect()
        self.assertLess(len(gc.get_objects()) - before, 100)
        self.assertEqual(client._machine._channels, {})


class TableTests(SynchronousTestCase):
    """
    Tables of hostile peers.
    """

    def test_memory(self) -> None:
        """
        No table, however it is made, takes more than 16 MiB when decoded.
        """
        room = MAX_TABLE_SIZE - 64
        distinct = (
            b"\3" + number.to_bytes(3, "big") + b"V" for number in range(2**23, 2**24)
        )
        hostile = [
            table_of(b"A" + sized(b"V" * room)),
            table_of(b"A" + sized(b"D\0\0\0\1\1" * (room // 6))),
            table_of(b"A" + sized(b"A\0\0\0\0" * (room // 5))),
            table_of(b"A" + sized(b"A\0\0\0\1V" * (room // 6))),
            table_of(b"A" + sized(b"F\0\0\0\2\0V" * (room // 7))),
            table_of(b"A" + sized((b"S" + sized(b"e\xcc\x81")) * (room // 8))),
            sized(b"".join(next(distinct) for _ in range(room // 5))),
        ]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for data in hostile:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            error = self.assertRaises(DecodeError, decode_table, data, 0, len(data))
            self.assertIn(f"more than {MAX_TABLE_VALUES} values", str(error))
            peak = tracemalloc.get_traced_memory()[1] - before
            self.assertLess(peak, 16 << 20)
