# -*- test-case-name: txamqp091.test.promises.test_counts -*-
"""
What a message may cost, in counts: writes, frames, memory blocks, calls of functions.

Counts are the same on a busy machine and on an idle one, so they can fail a build,
which a time cannot.  Times are in ``benchmarks``.  A bound that is an "at most" leaves
room: it is there to notice a doubling, not an improvement of the interpreter.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.channel import Channel
from txamqp091.consumer import Handler
from txamqp091.message import Delivery, Message
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.frames import method_frame
from txamqp091.worker.handler_runner import HandlerRunner

BODY = b"x" * 128

#: What one write may carry before the next one begins.
WRITE = 131072


class CountCase(ChannelCase):
    """
    A channel, and what there is to count.
    """

    def setUp(self) -> None:
        """
        Begin with nothing that is still to be written.
        """
        super().setUp()
        self.peer.listen()
        self.begun = len(self.peer.transport.writes)

    def written(self) -> list[bytes]:
        """
        What has been written in this turn, once it has ended.
        """
        self.peer.turn()
        writes = self.peer.transport.writes[self.begun :]
        self.begun += len(writes)
        return writes

    def forget(self) -> None:
        """
        End the turn, and keep nothing of what was written in it.
        """
        self.written()
        self.peer.transport.writes.clear()
        self.peer._read = self.begun = 0

    def publish(self, count: int, body: bytes = BODY) -> None:
        """
        Publish messages, a Deferred each.
        """
        for _ in range(count):
            self.channel.basic_publish("", "work", body).addErrback(_ignore)

    def confirm(self, number: int) -> None:
        """
        Confirm all messages up to one.
        """
        self.peer.send(1, spec.BasicAck(number, True))

    def batch(self, count: int, first: int = 1) -> bytes:
        """
        Messages for the consumer "tag".
        """
        return b"".join(
            self.peer.content(
                1, spec.BasicDeliver("tag", number, False, "", "work"), BODY
            )
            for number in range(first, first + count)
        )


def _ignore(_: object) -> None:
    """
    For Deferreds that fail when the test, and the connection, ends.
    """


def frames(data: bytes) -> list[int]:
    """
    The types of the frames in some bytes.
    """
    kinds = []
    while data:
        kinds.append(data[0])
        data = data[8 + int.from_bytes(data[3:7], "big") :]
    return kinds


class WriteTests(CountCase):
    """
    A turn of the reactor is one write, or one for each 128 KiB: a write of its own for
    each frame is a system call each, which costs as much as the rest of a publish.
    """

    def test_publish(self) -> None:
        """
        A hundred messages are one write.
        """
        self.publish(100)
        self.assertEqual(len(self.written()), 1)

    def test_publish_many(self) -> None:
        """
        So they are as a batch.
        """
        self.channel.publish_many(Message("", "work", BODY) for _ in range(100))
        self.assertEqual(len(self.written()), 1)

    def test_more_than_a_write(self) -> None:
        """
        Thousands of messages are a write for each 128 KiB.
        """
        self.publish(5000)
        writes = self.written()
        size = sum(map(len, writes))
        self.assertEqual(len(writes), -(-size // WRITE))

    def test_calls(self) -> None:
        """
        A hundred calls are one write, and one round trip.
        """
        answers = [self.channel.queue_declare("work") for _ in range(100)]
        self.assertEqual(len(self.written()), 1)
        self.peer.send(1, *[spec.QueueDeclareOk("work", 0, 0)] * 100)
        for answer in answers:
            self.successResultOf(answer)

    def test_acks(self) -> None:
        """
        The acks for all that came at once are one write, and need no turn of their own.
        """
        self.consumer(Delivery.ack)
        self.written()
        self.peer.feed(self.batch(100))
        self.assertEqual(len(self.peer.transport.writes), self.begun + 1)
        [write] = self.written()
        self.assertEqual(frames(write), [spec.FRAME_METHOD] * 100)

    def test_published_when_confirmed(self) -> None:
        """
        What is published as others are confirmed is one write too.
        """
        self.confirming()

        def again(_: None) -> None:
            self.publish(1)

        for _ in range(100):
            self.channel.basic_publish("", "work", BODY).addCallback(again)
        self.written()
        self.confirm(100)
        self.assertEqual(len(self.peer.transport.writes), self.begun + 1)

    def test_large(self) -> None:
        """
        A body of 1 MiB is no more writes than frames of it.
        """
        self.publish(1, b"x" * (1 << 20))
        self.assertLessEqual(len(self.written()), 9)


class FrameTests(CountCase):
    """
    A call is as many frames as AMQP wants, and no more.
    """

    def sent(self) -> list[int]:
        """
        The types of the frames that were written in this turn.
        """
        return frames(b"".join(self.written()))

    def test_publish(self) -> None:
        """
        A message is a method, a header, and a body.
        """
        self.publish(1)
        self.assertEqual(self.sent(), [1, 2, 3])

    def test_empty(self) -> None:
        """
        A message without a body has no frame for it.
        """
        self.publish(1, b"")
        self.assertEqual(self.sent(), [1, 2])

    def test_large(self) -> None:
        """
        A large body fills its frames: 1 MiB is eight of 131,064 octets, and 64 octets.
        """
        self.publish(1, b"x" * (1 << 20))
        self.assertEqual(self.sent(), [1, 2, *[3] * 9])

    def test_calls(self) -> None:
        """
        A call is one method; to consume is two, as the prefetch is a call of its own.
        """
        calls: tuple[tuple[Callable[[], Deferred[Any]], int], ...] = (
            (lambda: self.channel.queue_declare("work"), 1),
            (lambda: self.channel.basic_get("work"), 1),
            (lambda: self.channel.confirm_select(), 1),
            (lambda: self.channel.basic_consume("work", Delivery.ack), 2),
            (lambda: self.peer.client.open_channel(), 1),
        )
        for call, methods in calls:
            call().addErrback(_ignore)
            self.assertEqual(self.sent(), [1] * methods)

    def test_received(self) -> None:
        """
        Nothing is said to a message that needs no answer.
        """
        self.consumer(lambda _: None, auto_ack=True)
        self.written()
        self.peer.feed(self.batch(100))
        self.assertEqual(self.sent(), [])


class MemoryTests(CountCase):
    """
    What stays allocated: for what is over, nothing; for what is kept or is waited for,
    what its objects are.
    """

    count = 1000

    def blocks(self, work: Callable[[], object]) -> float:
        """
        The blocks of memory that are left of some work, for each of a thousand.
        """
        work()  # caches are filled
        gc.collect()
        before = sys.getallocatedblocks()
        work()
        gc.collect()
        return (sys.getallocatedblocks() - before) / self.count

    def test_published(self) -> None:
        """
        Nothing stays of a message that has left.
        """

        def work() -> None:
            self.publish(self.count)
            self.forget()

        self.assertLess(self.blocks(work), 0.1)

    def test_confirmed(self) -> None:
        """
        Nothing stays of a message that is confirmed.
        """
        self.confirming()
        confirmed = 0

        def work() -> None:
            nonlocal confirmed
            self.publish(self.count)
            self.forget()
            confirmed += self.count
            self.confirm(confirmed)

        self.assertLess(self.blocks(work), 0.1)

    def test_unconfirmed(self) -> None:
        """
        An unconfirmed message is its Deferred, its number, and their place: the body
        is not kept.
        """
        self.confirming(10 * self.count)

        def work() -> None:
            for _ in range(self.count):
                self.channel.basic_publish("", "work", BODY)
            self.forget()

        self.assertLess(self.blocks(work), 8)
        self.confirm(2 * self.count)

    def test_delivered(self) -> None:
        """
        Nothing stays of a message that was dealt with.
        """
        self.consumer(Delivery.ack)
        chunks = [self.batch(self.count), self.batch(self.count, 1 + self.count)]
        self.written()

        def work() -> None:
            self.peer.client.dataReceived(chunks.pop(0))
            self.forget()

        self.assertLess(self.blocks(work), 0.1)

    def test_kept(self) -> None:
        """
        A delivery that is kept is itself, its body, its header, its method and its
        number: at most 600 bytes, with a body of 128.
        """
        kept: list[Delivery] = []
        self.consumer(kept.append, auto_ack=True)
        chunks = [self.batch(self.count, first) for first in (1, 1001, 2001)]

        def work() -> None:
            self.peer.client.dataReceived(chunks.pop(0))

        self.assertLess(self.blocks(work), 8)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        work()
        after, _ = tracemalloc.get_traced_memory()
        self.assertEqual(len(kept), 3 * self.count)
        self.assertLess((after - before) / self.count, 600)

    def test_get(self) -> None:
        """
        Nothing stays of a message that was fetched, nor of a call that was answered.
        """
        got = self.peer.content(1, spec.BasicGetOk(1, False, "", "work", 0), BODY)
        declared = method_frame(1, spec.QueueDeclareOk("work", 0, 0).encode())

        def work() -> None:
            for _ in range(self.count):
                self.channel.basic_get("work", auto_ack=True)
                self.channel.queue_declare("work")
                self.peer.client.dataReceived(got + declared)
            self.forget()

        self.assertLess(self.blocks(work), 0.1)


class ChannelMemoryTests(CountCase):
    """
    What a channel is.
    """

    def test_idle(self) -> None:
        """
        An idle channel is at most forty blocks; nothing stays of one that was closed.
        """
        opened: list[Channel] = []

        def work() -> None:
            opened.extend(self.peer.open_channel() for _ in range(100))
            self.forget()

        def close() -> None:
            for channel in opened:
                channel.close()
            self.peer.serve()
            opened.clear()
            self.forget()

        work()  # caches are filled
        close()
        gc.collect()
        before = sys.getallocatedblocks()
        work()
        gc.collect()
        self.assertLess((sys.getallocatedblocks() - before) / 100, 40)
        close()
        gc.collect()
        self.assertLess((sys.getallocatedblocks() - before) / 100, 1)


class CallTests(CountCase):
    """
    How many functions of Python are called for a message.  A call costs 30 to 60 ns, so
    what is called for each message is most of what it costs.  (Functions in C are not
    counted: Python 3.12 counts them differently.)
    """

    count = 1000

    def calls(self, work: Callable[[], object]) -> float:
        """
        How many functions are called, for each of a thousand.
        """
        called = 0

        def profile(frame: FrameType, event: str, argument: object) -> None:
            nonlocal called
            called += event == "call"

        work()  # caches are filled
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(before)
        self.forget()
        return called / self.count

    def received(self, handler: Handler, auto_ack: bool) -> float:
        """
        How many functions are called for a delivery.
        """
        self.consumer(handler, auto_ack)
        chunks = [self.batch(self.count, 1 + self.count), self.batch(self.count)]
        return self.calls(lambda: self.peer.client.dataReceived(chunks.pop()))

    def answered(self, call: Callable[[], object], answer: bytes) -> float:
        """
        How many functions are called for a call and its answer.
        """

        def work() -> None:
            for _ in range(self.count):
                call()
                self.peer.client.dataReceived(answer)

        return self.calls(work)

    def confirmed(self, publish: Callable[[], object], multiple: bool) -> float:
        """
        How many functions are called for a message and its confirm.
        """
        self.confirming(self.count)
        chunks = [
            b"".join(
                method_frame(1, spec.BasicAck(number, multiple).encode())
                for number in numbers
            )
            for numbers in (
                ((1000,), (2000,)) if multiple else (range(1, 1001), range(1001, 2001))
            )
        ][::-1]

        def work() -> None:
            publish()
            self.peer.turn()
            self.peer.client.dataReceived(chunks.pop())

        return self.calls(work)

    def publish_many(self) -> None:
        """
        Publish a batch.
        """
        messages = [Message("", "work", BODY)] * self.count
        self.channel.publish_many(messages).addErrback(_ignore)

    def publish_each(self) -> None:
        """
        Publish messages, a Deferred each that nobody looks at.
        """
        for _ in range(self.count):
            self.channel.basic_publish("", "work", BODY)

    def test_publish(self) -> None:
        """
        To publish is to go through channel, publisher, machine and the writer of the
        turn: 5 calls.  The Deferred, which nobody looks at, is made without one.
        """

        def work() -> None:
            self.publish_each()
            self.peer.turn()

        self.assertLess(self.calls(work), 6)

    def test_publish_many(self) -> None:
        """
        In a batch there is no Deferred, nor anything else for a message: 3 calls.
        """

        def work() -> None:
            self.publish_many()
            self.peer.turn()

        self.assertLess(self.calls(work), 4)

    def test_confirm(self) -> None:
        """
        A confirm that answers for many is five calls more for each, of which the
        Deferred is three.
        """
        self.assertLess(self.confirmed(self.publish_each, True), 13)

    def test_confirm_one_by_one(self) -> None:
        """
        One that answers for a single message is a frame of its own: seven calls more.
        """
        self.assertLess(self.confirmed(self.publish_each, False), 21)

    def test_confirm_many(self) -> None:
        """
        In a batch it is less: there are places in it, instead of Deferreds.
        """
        self.assertLess(self.confirmed(self.publish_many, True), 10)

    def test_deliver(self) -> None:
        """
        A delivery that is like the one before goes from its template to the consumer
        and the handler: 3 calls, of which the handler is one.
        """
        self.assertLess(self.received(_ignore, True), 4)

    def test_ack(self) -> None:
        """
        To acknowledge it is four more.
        """
        self.assertLess(self.received(Delivery.ack, False), 8)

    def test_worker(self) -> None:
        """
        A worker's handler, with its ack, costs a dozen calls more; a coroutine that
        awaits nothing costs two more than a function.
        """

        async def coroutine(delivery: Delivery) -> None:
            pass

        for handler, most in ((_ignore, 20), (coroutine, 22)):
            self.setUp()
            runner = HandlerRunner(handler, "work", self.peer.clock)
            self.assertLess(self.received(runner.take, False), most)
            self.assertEqual(runner.counts.acknowledged, 2 * self.count)

    def test_held(self) -> None:
        """
        While a consumer holds the connection, a write need not look at every channel
        for answers that are due.
        """
        for _ in range(200):
            self.peer.open_channel()
        self.peer.client._flow.hold(self, None)
        self.assertFalse(self.peer.client._flow.reading)

        def work() -> None:
            for _ in range(self.count):
                self.channel.basic_publish("", "work", BODY)
                self.peer.turn()

        self.assertLess(self.calls(work), 60)

    def test_get(self) -> None:
        """
        A message that is asked for is a call, an answer, and two Deferreds: 49 calls,
        of which the decoding and encoding of methods is the most.
        """
        got = self.peer.content(1, spec.BasicGetOk(1, False, "", "work", 0), BODY)
        calls = self.answered(lambda: self.channel.basic_get("work", True), got)
        self.assertLess(calls, 70)

    def test_declare(self) -> None:
        """
        A call is encoded, written and matched with its answer, which is decoded: 35
        calls.
        """
        answer = method_frame(1, spec.QueueDeclareOk("work", 0, 0).encode())
        calls = self.answered(lambda: self.channel.queue_declare("work"), answer)
        self.assertLess(calls, 50)
