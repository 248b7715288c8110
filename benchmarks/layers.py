"""
What each layer costs by itself: ``python -m benchmarks.layers`` prints nanoseconds.

An operation is repeated some thousands of times, without a socket.  Shown is the
fastest repetition: whatever else the machine does can only add to it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from benchmarks.inside import Inside, clock, frame
from txamqp091._machine.confirms import Confirms
from txamqp091._machine.connection import ConnectionMachine, Limits
from txamqp091._machine.states import Role, State
from txamqp091._timers import Outgoing
from txamqp091.channel import Channel
from txamqp091.daemon.admin import Health
from txamqp091.daemon.metrics import Metrics
from txamqp091.message import Delivery, Message
from txamqp091.wire import spec
from txamqp091.wire.decoding import decode_table
from txamqp091.wire.encoding import encode_table
from txamqp091.wire.frames import FrameReader, content_frames, method_frame
from txamqp091.wire.method import decode_method
from txamqp091.wire.properties import Properties
from txamqp091.worker.counts import Histogram
from txamqp091.worker.handler_runner import HandlerOptions, HandlerRunner

__all__ = ["measure"]

COUNT = 5000
BATCH = 100
TURNS = 2000
BODY = b"x" * 128
HEADERS = {f"x-header-{number}": f"value {number}" for number in range(5)}

#: A layer, an operation, and what does it so many times.
Layer = tuple[str, str, Callable[[], object], int]


def _nothing(*arguments: object) -> None:
    pass


class Nobody:
    """
    Any sink, any handle, any reactor's clock: whatever it is asked to do, it does not.
    """

    callback = errback = delivered = confirmed = staticmethod(_nothing)

    @staticmethod
    def seconds() -> float:
        return 0.0


def wire() -> Iterator[Layer]:
    """
    Bytes and values.
    """
    declare = spec.QueueDeclare(0, "work", False, True, False, False, False, {})
    answer = spec.QueueDeclareOk("work", 0, 0).encode()
    deliver = spec.BasicDeliver("tag", 1, False, "", "work").encode()
    publish = method_frame(1, spec.BasicPublish(0, "", "work").encode())
    properties = Properties(headers=HEADERS, delivery_mode=2, message_id="1234")
    raw, table = properties.encode(), encode_table(HEADERS)
    large = b"x" * (1 << 20)
    delivery = Inside().deliveries(BATCH, BODY, ["tag"], [1])
    reader: FrameReader[str] = FrameReader({1: "route"})
    reader.max_payload = 131064

    def read() -> None:
        for _ in range(COUNT // BATCH):
            for _ in reader.feed(delivery):
                pass

    def repeat(work: Callable[[], object], count: int = COUNT) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count):
                work()

        return run

    for name, work in (
        ("encode queue.declare", declare.encode),
        ("decode queue.declare-ok", lambda: decode_method(answer)),
        ("decode basic.deliver, every field", lambda: decode_method(deliver)),
        ("encode a table of 5 headers", lambda: encode_table(HEADERS)),
        ("decode a table of 5 headers", lambda: decode_table(table, 0, len(table))),
        (
            "make and encode properties with 5 headers",
            lambda: Properties(
                headers=HEADERS, delivery_mode=2, message_id="1234"
            ).encode(),
        ),
        ("properties off the wire, unread", lambda: Properties.from_wire(raw)),
        ("... and their headers read", lambda: Properties.from_wire(raw).headers),
        (
            "the frames of a message of 128 bytes",
            lambda: content_frames(1, publish, b"\0\0", BODY, 131064),
        ),
    ):
        yield "wire", name, repeat(work), COUNT
    yield (
        "wire",
        "the frames of a message of 1 MiB",
        repeat(lambda: content_frames(1, publish, b"\0\0", large, 131064), 20),
        20,
    )
    yield "wire", "read a message of 128 bytes", read, COUNT


def machine() -> Iterator[Layer]:
    """
    What may be said when.
    """
    nobody = Nobody()
    delivery = Inside().deliveries(BATCH, BODY, ["tag"], [1])
    connection = ConnectionMachine(Role.CLIENT, _nothing, nobody, Limits())  # type: ignore[arg-type]
    connection.state = State.OPEN
    connection._reader.max_payload = 131064
    channel = connection.open_channel(
        lambda machine: setattr(machine, "sink", nobody),
        nobody,  # type: ignore[arg-type]
    )
    connection.receive(frame(1, spec.ChannelOpenOk()))
    channel.register("tag", nobody)  # type: ignore[arg-type]
    answer = frame(1, spec.QueueDeclareOk("work", 0, 0))
    declare = spec.QueueDeclare(0, "work", True, False, False, False, False, {})

    def publish() -> None:
        for _ in range(COUNT):
            channel.publish("", "work", BODY, b"\0\0", False, nobody)  # type: ignore[arg-type]

    def receive() -> None:
        for _ in range(COUNT // BATCH):
            connection.receive(delivery)

    def settle() -> None:
        for number in range(COUNT):
            channel.settle(spec.BasicAck, number, 0)

    def call() -> None:
        for _ in range(COUNT):
            channel.call(declare, nobody)  # type: ignore[arg-type]
            connection.receive(answer)

    def confirm(multiple: bool) -> Callable[[], None]:
        def run() -> None:
            confirms = Confirms()
            for number in range(1, COUNT + 1):
                confirms.publish(nobody, 128)  # type: ignore[arg-type]
                if not multiple or number % BATCH == 0:
                    confirms.settle(number, multiple, True)

        return run

    yield "machine", "publish", publish, COUNT
    yield "machine", "count a message, and confirm it alone", confirm(False), COUNT
    yield "machine", "count a message, and confirm 100 at once", confirm(True), COUNT
    yield "machine", "receive a message", receive, COUNT
    yield "machine", "acknowledge", settle, COUNT
    yield "machine", "ask, and match the answer", call, COUNT


def twisted() -> Iterator[Layer]:
    """
    Deferreds, transports, handlers.
    """
    inside = Inside()
    channel, confirming = inside.open_channel(), inside.open_channel()
    confirming.confirm_select(COUNT * 100)
    channel.basic_consume("work", _nothing, auto_ack=True, consumer_tag="seen")
    acking: Callable[[Delivery], object] = Delivery.ack
    channel.basic_consume("work", acking, consumer_tag="acked")
    inside.serve()
    inside.ignore()
    seen = inside.deliveries(BATCH, BODY, ["seen"], [1])
    answer = frame(1, spec.QueueDeclareOk("work", 0, 0))
    got = inside.content(1, spec.BasicGetOk(1, False, "", "work", 0), BODY)
    numbers = {"confirmed": 0, "acked": 1}

    def publish(channel: Channel) -> None:
        for _ in range(COUNT // BATCH):
            for _ in range(BATCH):
                channel.basic_publish("", "work", BODY)
            inside.turn()

    def confirm() -> None:
        for _ in range(COUNT // BATCH):
            for _ in range(BATCH):
                confirming.basic_publish("", "work", BODY)
            inside.turn()
            numbers["confirmed"] += BATCH
            inside.receive(frame(2, spec.BasicAck(numbers["confirmed"], True)))

    def confirm_many() -> None:
        for _ in range(COUNT // BATCH):
            confirming.publish_many(Message("", "work", BODY) for _ in range(BATCH))
            inside.turn()
            numbers["confirmed"] += BATCH
            inside.receive(frame(2, spec.BasicAck(numbers["confirmed"], True)))

    def publish_many() -> None:
        channel.publish_many(Message("", "work", BODY) for _ in range(COUNT))
        inside.turn()

    def receive() -> None:
        for _ in range(COUNT // BATCH):
            inside.receive(seen)

    def receive_and_ack() -> None:
        for _ in range(COUNT // BATCH):
            inside.receive(chunks.pop())

    chunks: list[bytes] = []

    def call() -> None:
        for _ in range(COUNT):
            channel.queue_declare("work", passive=True)
            inside.turn()
            inside.receive(answer)

    def get() -> None:
        for _ in range(COUNT):
            channel.basic_get("work", auto_ack=True)
            inside.turn()
            inside.receive(got)

    def deferred() -> None:
        for _ in range(COUNT):
            Deferred[None]().callback(None)

    def write() -> None:
        outgoing = Outgoing(Nobody(), _nothing)  # type: ignore[arg-type]
        outgoing.in_turn = True
        for _ in range(COUNT // BATCH):
            for _ in range(BATCH):
                outgoing.write(BODY)
            outgoing.flush()

    def acked() -> None:
        for _ in range(COUNT // BATCH):
            chunks.append(
                inside.deliveries(BATCH, BODY, ["acked"], [1], first=numbers["acked"])
            )
            numbers["acked"] += BATCH
        chunks.reverse()

    yield "Twisted", "make a Deferred, and fire it", deferred, COUNT
    yield "Twisted", "write a piece, 100 to a turn", write, COUNT
    yield "Twisted", "basic_publish", lambda: publish(channel), COUNT
    yield "Twisted", "basic_publish, confirmed 100 at once", confirm, COUNT
    yield "Twisted", "publish_many, confirmed 100 at once", confirm_many, COUNT
    yield "Twisted", "publish_many", publish_many, COUNT
    yield "Twisted", "a delivery to its handler", receive, COUNT
    acked_layer = "a delivery to its handler, which acks it"
    yield "Twisted", acked_layer, Prepared(acked, receive_and_ack), COUNT
    yield "Twisted", "queue_declare, and its answer", call, COUNT
    yield "Twisted", "basic_get, and its answer", get, COUNT
    yield "kernel", "a turn of the reactor: poll, recv", reactor_turns, TURNS


def service() -> Iterator[Layer]:
    """
    What a daemon does for each message.
    """

    async def coroutine(delivery: Delivery) -> None:
        pass

    def plain(
        handler: Callable[[Delivery], object],
        options: HandlerOptions,
        histogram: Histogram | None = None,
    ) -> Prepared:
        inside = Inside()
        channel = inside.open_channel()
        clock: Any = Clock()
        clock.seconds = time.monotonic
        runner = HandlerRunner(handler, "work", clock, options, histogram=histogram)
        channel.basic_consume("work", runner.take, consumer_tag="work")
        inside.serve()
        inside.ignore()
        chunks: list[bytes] = []
        first = [1]
        properties = Properties(headers=HEADERS, message_id="1234")

        def prepare() -> None:
            for _ in range(COUNT // BATCH):
                chunks.append(
                    inside.deliveries(BATCH, BODY, ["work"], [1], properties, first[0])
                )
                first[0] += BATCH
            chunks.reverse()

        def receive() -> None:
            for _ in range(COUNT // BATCH):
                inside.receive(chunks.pop())

        return Prepared(prepare, receive)

    options = HandlerOptions(consumer="work", concurrency=100)
    ordered = HandlerOptions(
        consumer="work", concurrency=100, order_by="header:x-header-1"
    )
    timed = HandlerOptions(consumer="work", concurrency=100, timeout=30.0)
    for name, work in (
        ("a delivery to the daemon's handler, and its ack", plain(_nothing, options)),
        ("... with metrics", plain(_nothing, options, Metrics(Health).histogram("w"))),
        ("... in order, by a header", plain(_nothing, ordered)),
        ("... a coroutine", plain(coroutine, options)),
        ("... a coroutine with a time limit", plain(coroutine, timed)),
    ):
        yield "service", name, work, COUNT


class Prepared:
    """
    Work that needs something to be made before, which is not measured.
    """

    def __init__(self, prepare: Callable[[], None], work: Callable[[], None]) -> None:
        self.prepare = prepare
        self.work = work

    def __call__(self) -> None:
        self.work()


def reactor_turns() -> None:
    """
    Turns of a reactor in each of which one byte is received, and sent.
    """
    reactor = EPollReactor()
    ours, theirs = socket.socketpair()
    with ours, theirs:

        class Echo(Protocol):
            left = TURNS

            def dataReceived(self, data: bytes) -> None:
                self.left -= 1
                if self.left:
                    theirs.send(b"x")

        protocol = Echo()
        ours.setblocking(False)
        reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _Factory(protocol))
        theirs.send(b"x")
        while protocol.left:
            reactor.runUntilCurrent()
            reactor.doIteration(0)


class _Factory:
    """
    Has one protocol.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol

    def buildProtocol(self, address: object) -> Protocol:
        return self.protocol


def measure(repetitions: int = 9) -> list[tuple[str, str, float]]:
    """
    All layers: where, what, and how many nanoseconds.
    """
    results = []
    for layer in (wire, machine, twisted, service):
        for where, what, work, count in layer():
            times = []
            for _ in range(repetitions):
                if isinstance(work, Prepared):
                    work.prepare()
                times.append(clock(work, count))
            results.append((where, what, min(times)))
    return results


def main() -> None:
    for where, what, nanoseconds in measure():
        print(f"{where:8} {what:45} {nanoseconds:9,.0f} ns")


if __name__ == "__main__":
    main()
