# -*- test-case-name: txamqp091.test.faults.test_cuts -*-
"""
A session with something of everything in it, cut at every byte (criterion 10): no
Deferred is left unfired, none fires twice, and nothing is logged or left behind.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.message import Delivery, Message
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Peer, Said, Transport
from txamqp091.test.support.scripted import answer
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT, method_frame

T = TypeVar("T")


class Program:
    """
    What the user does: a bit of everything.  Everything that has a Deferred is
    watched.

    :ivar fired: how often each Deferred has fired.
    :ivar errors: what they have failed with.
    :ivar reason: what the program has failed with, if it has.
    :ivar steps: how far the program has come.
    """

    def __init__(self, client: AMQPProtocol) -> None:
        self.client = client
        self.fired: list[int] = []
        self.errors: list[BaseException] = []
        self.steps: list[str] = []
        self.handled = 0
        self.reason: BaseException | None = None
        self._watched: list[Deferred[Any]] = []
        self.watch(client.when_closed())
        self.done: Deferred[Any] = Deferred.fromCoroutine(self.run())
        self.watch(self.done)

    def watch(self, deferred: Deferred[T]) -> Deferred[T]:
        """
        Count how often it fires.
        """
        place = len(self.fired)
        self.fired.append(0)
        self._watched.append(deferred)

        def count(result: Any) -> Any:
            self.fired[place] += 1
            return result

        return deferred.addBoth(count)

    def finish(self) -> None:
        """
        Take what the Deferreds have failed with, so that nobody else has to.
        """
        for each in self._watched:
            each.addErrback(self._failed, each is self.done)

    def _failed(self, failure: Failure, reason: bool) -> None:
        assert failure.value is not None
        self.errors.append(failure.value)
        if reason:
            self.reason = failure.value

    def handle(self, delivery: Delivery) -> Deferred[None]:
        self.handled += 1
        delivery.ack()
        return succeed(None)

    async def run(self) -> None:
        watch, step = self.watch, self.steps.append
        client = self.client
        await watch(client.when_open())
        step("open")
        channel = await watch(client.open_channel())
        watch(channel.when_closed())
        await watch(channel.queue_declare("q"))
        await watch(channel.confirm_select())
        step("declared")
        first = watch(channel.basic_publish("", "q", b"1"))
        lost = watch(channel.basic_publish("", "nowhere", b"2", mandatory=True))
        many = watch(channel.publish_many(Message("", "q", b"m") for _ in range(2)))
        unblocked = watch(client.when_unblocked())
        await unblocked
        await first
        try:
            await lost
        except errors.Returned:
            step("returned")
        try:
            await many
        except errors.BatchFailed as error:
            step(f"{len(error.failures)} of the batch failed")
        consumer = await watch(
            channel.basic_consume("q", self.handle, consumer_tag="c")
        )
        watch(consumer.when_ended())
        deliveries = await watch(channel.consume("r", consumer_tag="d"))
        (await watch(deliveries.get())).ack()
        try:
            await watch(deliveries.get())
        except errors.ConsumerCancelled:
            step("cancelled by the broker")
        got = await watch(channel.basic_get("q"))
        assert got is not None
        got.nack(requeue=False)
        assert await watch(channel.basic_get("q")) is None
        await watch(client.update_secret("new"))
        second = await watch(client.open_channel())
        watch(second.when_closed())
        try:
            await watch(second.exchange_declare("missing", passive=True))
        except errors.NotFound:
            step("not found")
        requeued = await watch(consumer.cancel())
        step(f"{requeued} went back")
        await watch(channel.close())
        await watch(client.close())
        step("closed")


#: How far the program comes, if it is not cut.
ALL = [
    "open", "declared", "returned", "1 of the batch failed",
    "cancelled by the broker", "not found", "1 went back", "closed",
]  # fmt: skip


class Broker:
    """
    The other side of the program.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._published = 0
        self._got = 0

    def serve(self) -> None:
        """
        Answer everything, until nothing more is asked.
        """
        self._peer.listen()
        self._peer.start(server_properties={})
        while self._peer.listen():
            said = self._peer.said.pop(0)
            self._peer.feed(b"".join(self._answers(said)))

    def _answers(self, said: Said) -> Iterator[bytes]:
        number, method = said.channel, said.method
        content = self._peer.content
        if isinstance(method, spec.ConnectionStartOk):
            yield method_frame(0, spec.ConnectionTune(9, 8192, 60).encode())
        elif isinstance(method, spec.BasicPublish):
            yield from self._confirms(number, method, said.body)
        elif isinstance(method, spec.BasicGet):
            self._got += 1
            reply = spec.BasicGetOk(3, True, "", "q", 0)
            if self._got == 1:
                yield content(number, reply, b"got")
            else:
                yield method_frame(number, spec.BasicGetEmpty().encode())
        elif isinstance(method, spec.ExchangeDeclare):
            close = spec.ChannelClose(404, "NOT_FOUND - no exchange", 40, 10)
            yield method_frame(number, close.encode())
        else:
            if isinstance(method, spec.BasicCancel) and method.consumer_tag == "c":
                deliver = spec.BasicDeliver("c", 5, False, "", "q")
                yield content(number, deliver, b"on its way")
            reply_ = answer(method)
            if reply_ is not None:
                yield method_frame(number, reply_.encode())
        if isinstance(method, spec.BasicConsume):
            tag = method.consumer_tag
            deliver = spec.BasicDeliver(tag, 1 + (tag == "d"), False, "", "q")
            yield content(number, deliver, b"body of two frames", max_payload=10)
            if tag == "d":
                cancel = spec.BasicCancel("d", True)
                yield method_frame(number, cancel.encode())
        elif isinstance(method, spec.ConfirmSelect):
            # The messages wait for the second of these.
            yield method_frame(0, spec.ConnectionBlocked("low").encode())
            yield HEARTBEAT
            yield method_frame(0, spec.ConnectionUnblocked().encode())

    def _confirms(
        self, number: int, method: spec.BasicPublish, body: bytes
    ) -> Iterator[bytes]:
        self._published += 1
        if method.mandatory:
            back = spec.BasicReturn(312, "NO_ROUTE", "", method.routing_key)
            yield self._peer.content(number, back, body)
            yield method_frame(number, spec.BasicAck(2, True).encode())
        elif self._published == 4:
            yield method_frame(number, spec.BasicNack(4, False, False).encode())
            yield method_frame(number, spec.BasicAck(3, False).encode())


class SessionTestCase(SynchronousTestCase):
    """
    Sessions, and what holds for all of them in the end.
    """

    def connect(self, transport: type[Transport] = Transport) -> tuple[Peer, Program]:
        """
        A new connection, and the program that uses it.
        """
        peer = Peer(
            self,
            ConnectionParameters(heartbeat=60),
            transport=transport,
            cleanup=False,
        )
        return peer, Program(peer.client)

    def record(self) -> bytes:
        """
        What the broker says in a session that is not cut.
        """
        peer, program = self.connect()
        Broker(peer).serve()
        peer.turn()
        self.assertEqual(program.steps, ALL)
        self.check(peer, program)
        return peer.fed

    def check(self, peer: Peer, program: Program) -> None:
        """
        All is told, once; in our words; and nothing is left.
        """
        self.assertFalse(peer.transport.connected)
        self.assertEqual(peer.clock.getDelayedCalls(), [])
        self.assertEqual(set(program.fired), {1})
        program.finish()
        for error in program.errors:
            self.assertIsInstance(error, errors.AMQPError)
        self.assertEqual(peer.client._machine._channels, {})

    def check_log(self) -> None:
        """
        Nothing was logged, nor will be.
        """
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class CutTests(SessionTestCase):
    """
    Cut after each byte that the broker sends.
    """

    def setUp(self) -> None:
        self.stream = self.record()

    def replay(self, pieces: Iterable[bytes], why: Exception) -> Program:
        """
        Feed the pieces, then drop the transport.
        """
        peer, program = self.connect()
        for piece in pieces:
            peer.feed(piece)
        peer.transport.drop(why)
        self.check(peer, program)
        return program

    def test_whole(self) -> None:
        """
        Not cut, in one piece or byte by byte, the session comes to its end, and the
        only errors are those that the program has asked for.
        """
        singly = (self.stream[n : n + 1] for n in range(len(self.stream)))
        for pieces in ([self.stream], singly):
            program = self.replay(pieces, ConnectionDone())
            self.assertEqual(program.steps, ALL)
            self.assertEqual(program.handled, 1)
            self.assertIsNone(program.reason)
            self.assertNotIn(errors.ConnectionLost, map(type, program.errors))
        self.check_log()

    def test_each_byte(self) -> None:
        """
        Cut after each byte by a reset, all that waits fails with `ConnectionLost`.
        """
        steps = 0
        for size in range(len(self.stream)):
            program = self.replay([self.stream[:size]], ConnectionLost())
            self.assertGreaterEqual(len(program.steps), steps)
            steps = len(program.steps)
            if "1 went back" not in program.steps:
                self.assertIs(type(program.reason), errors.ConnectionLost)
        # Also without the last bytes: a close does not fail.
        self.assertEqual(steps, len(ALL))
        self.check_log()

    def test_each_byte_end_of_file(self) -> None:
        """
        The same for an end of file, which is no less of a loss.
        """
        for size in range(len(self.stream)):
            self.replay([self.stream[:size]], ConnectionDone())
        self.check_log()

    def test_each_byte_singly(self) -> None:
        """
        The same when the bytes have come one by one.
        """
        for size in range(len(self.stream)):
            singly = (self.stream[n : n + 1] for n in range(size))
            self.replay(singly, ConnectionLost())
        self.check_log()

    def test_each_byte_garbage(self) -> None:
        """
        Cut by garbage at the beginning of each frame, all fails with what is wrong.
        """
        place = 0
        while place < len(self.stream):
            peer, program = self.connect()
            peer.feed(self.stream[:place] + b"garbage!")
            peer.turn()
            self.check(peer, program)
            place += 8 + int.from_bytes(self.stream[place + 3 : place + 7])
        self.check_log()


class Dropping(Transport):
    """
    A transport that drops after so many writes: in the next turn, or while it is
    being written to, as only transports in memory do.
    """

    limit = 0
    at_once = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.writes) == self.limit and not self.ended:
            self.ended = "dropped"
            if self.at_once:
                self.drop(ConnectionLost())
            else:
                self.clock.callLater(0, self.drop, ConnectionLost())


class WriteTests(SessionTestCase):
    """
    Cut after each write of the client.
    """

    def play(self, limit: int, at_once: bool) -> Program:
        """
        A session that ends with such a write.
        """
        kind = type("Dropping", (Dropping,), {"limit": limit, "at_once": at_once})
        peer, program = self.connect(kind)
        if peer.transport.connected:
            Broker(peer).serve()
        peer.turn()
        self.check(peer, program)
        return program

    def test_each_write(self) -> None:
        """
        Cut after each write, in whichever way, nothing is left either.
        """
        for at_once in (False, True):
            limit = 0
            while True:
                limit += 1
                program = self.play(limit, at_once)
                if program.steps == ALL and program.reason is None:
                    break
                self.assertLess(limit, 100)
            self.assertGreater(limit, 15)
        self.check_log()

    def test_last_word(self) -> None:
        """
        Nor by a transport that goes with our last word: the answer to a close, or
        the close that answers garbage.
        """
        for last in (
            method_frame(0, spec.ConnectionClose(320, "bye").encode()),
            b"garbage!",
        ):
            limit = 4  # header, start-ok, tune-ok and open, and that
            kind = type("Dropping", (Dropping,), {"limit": limit, "at_once": True})
            peer = Peer(self, transport=kind, cleanup=False)
            peer.handshake()
            closed = peer.client.when_closed()
            peer.feed(last)
            self.failureResultOf(closed, errors.ConnectionClosed)
            self.assertFalse(peer.transport.connected)
            self.assertEqual(peer.clock.getDelayedCalls(), [])
