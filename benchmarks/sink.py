"""
A peer that does as little as a broker can: it takes what is published, confirms it if
that was asked for, and delivers messages that it has made beforehand.  With it, what a
client costs is not mixed with how the broker cuts its bytes.

``python -m benchmarks.sink PORT [DELAY]``: it answers after so many seconds.  A queue's
name says what is in it: ``bench-COUNT-SIZE`` has so many messages of that size.  It
judges nothing and stores nothing, and messages are published and delivered on channel
1 only.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections import deque
from collections.abc import Iterator

from txamqp091.wire import spec
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.method import Method, decode_method

_HEAD = struct.Struct(">BHI").unpack_from
_TAG = struct.Struct(">QB").unpack_from
_ACK = struct.Struct(">BHIHHQBB").pack

PUBLISH = spec.BasicPublish.prefix
ACK = spec.BasicAck.prefix

#: How many messages, or how many bytes of large ones, go into one write.
BATCH = 100
BATCH_BYTES = 1 << 20

#: pika looks at these before it asks for confirms.
PROPERTIES = {
    "product": "sink",
    "version": "0",
    "capabilities": {"publisher_confirms": True, "basic.nack": True},
}


class Sink(asyncio.Protocol):
    """
    One connection.
    """

    transport: asyncio.Transport

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.delayed: deque[bytes] = deque()
        self.buffer = b""
        self.confirming = False
        self.count = 0
        self.batch = BATCH
        self.prefetch = 0
        self.published = self.confirmed = self.acked = self.delivered = 0
        self.deliveries: Iterator[bytes] = iter(())
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.deliver()

    def data_received(self, data: bytes) -> None:
        if not self.delay:
            self.received(data)
        else:
            self.delayed.append(data)
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay, lambda: self.received(self.delayed.popleft()))

    def received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        position, size = 0, len(data)
        if data.startswith(b"AMQP"):
            position = len(spec.PROTOCOL_HEADER)
            self.say(0, spec.ConnectionStart(0, 9, PROPERTIES, b"PLAIN", b"en_US"))
        while size - position >= 8:
            kind, channel, length = _HEAD(data, position)
            end = position + 7 + length
            if end >= size:
                break
            if kind == spec.FRAME_METHOD:
                self.method(channel, data[position + 7 : end])
            position = end + 1
        self.buffer = data[position:]
        if self.confirming and self.published > self.confirmed:
            self.confirm()
        self.deliver()

    def method(self, channel: int, payload: bytes) -> None:
        prefix = payload[:4]
        if prefix == PUBLISH:
            self.published += 1
        elif prefix == ACK:
            tag, multiple = _TAG(payload, 4)
            self.acked = tag if multiple else self.acked + 1
        else:
            self.answer(channel, decode_method(payload))

    def answer(self, channel: int, method: Method) -> None:
        match method:
            case spec.ConnectionStartOk():
                self.say(0, spec.ConnectionTune(65535, 131072, 0))
            case spec.QueueDeclare(queue=queue):
                self.say(channel, spec.QueueDeclareOk(queue, self.published, 0))
            case spec.BasicQos(prefetch_count=prefetch):
                self.prefetch = prefetch
                self.say(channel, spec.BasicQosOk())
            case spec.BasicGet(queue=queue):
                _, size = contents(queue)
                self.delivered += 1
                got = spec.BasicGetOk(self.delivered, False, "", queue, 0)
                self.transport.write(message(channel, got, size))
            case spec.BasicConsume(consumer_tag=tag, no_ack=no_ack, queue=queue):
                tag = tag or "sink"
                self.say(channel, spec.BasicConsumeOk(tag))
                if no_ack:
                    self.prefetch = 0
                self.count, size = contents(queue)
                self.batch = max(1, min(BATCH, BATCH_BYTES // size))
                self.deliveries = self.make_deliveries(channel, tag, size)
            case spec.BasicCancel(consumer_tag=tag):
                self.say(channel, spec.BasicCancelOk(tag))
            case spec.ConfirmSelect():
                self.confirming = True
                self.say(channel, spec.ConfirmSelectOk())
            case spec.ConnectionClose():
                self.say(0, spec.ConnectionCloseOk())
                self.transport.close()
            case _ if method.replies:
                self.say(channel, method.replies[0]())

    def say(self, channel: int, method: Method) -> None:
        self.transport.write(method_frame(channel, method.encode()))

    def confirm(self) -> None:
        """
        One ``basic.ack`` for all that has come in the meantime.
        """
        self.confirmed = self.published
        identity = spec.BasicAck.identity
        self.transport.write(
            _ACK(spec.FRAME_METHOD, 1, 13, *identity, self.published, 1, spec.FRAME_END)
        )

    def make_deliveries(self, channel: int, tag: str, size: int) -> Iterator[bytes]:
        """
        All messages, a batch at a time.
        """
        delivered = message(
            channel, spec.BasicDeliver(tag, 0, False, "", "queue"), size
        )
        # The delivery tag is behind the head, the prefix and the consumer tag.
        place = 7 + 4 + 1 + len(tag)
        before, after = delivered[:place], delivered[place + 8 :]
        for first in range(1, self.count + 1, self.batch):
            numbers = range(first, min(first + self.batch, self.count + 1))
            yield b"".join(
                b"".join((before, number.to_bytes(8, "big"), after))
                for number in numbers
            )

    def deliver(self) -> None:
        while self.writable:
            waiting = self.delivered - self.acked
            if self.prefetch and waiting + self.batch > self.prefetch:
                break
            batch = next(self.deliveries, None)
            if batch is None:
                break
            self.delivered += self.batch
            self.transport.write(batch)


def contents(queue: str) -> tuple[int, int]:
    """
    How many messages a queue has, and of what size.
    """
    count, size = queue.split("-")[-2:]
    return int(count), int(size)


def message(channel: int, method: Method, size: int) -> bytes:
    """
    A method with a body of so many octets.
    """
    frame = method_frame(channel, method.encode())
    return b"".join(content_frames(channel, frame, b"\0\0", b"x" * size, 131064))


async def serve(port: int, delay: float = 0.0) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Sink(delay), "127.0.0.1", port, backlog=1000
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *map(float, sys.argv[2:])))
