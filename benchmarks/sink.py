"""
A peer that does as little as a broker can: it takes what is published, confirms it if
that was asked for, and delivers messages that it has made beforehand.  With it, what a
client costs is not mixed with how the broker cuts its bytes.

``python -m benchmarks.sink PORT COUNT SIZE``: every consumer gets so many messages of
that size.  It judges nothing and stores nothing, and one channel is all that it knows.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Iterator

from txamqp091.wire import spec
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.method import Method, decode_method

_HEAD = struct.Struct(">BHI").unpack_from
_TAG = struct.Struct(">QB").unpack_from
_ACK = struct.Struct(">BHIHHQBB").pack

PUBLISH = spec.BasicPublish.prefix
ACK = spec.BasicAck.prefix

#: How many messages go into one write.
BATCH = 100

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

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.body = b"x" * size
        self.buffer = b""
        self.confirming = False
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
        if self.delivered - self.acked < (self.prefetch or self.count):
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
                self.say(0, spec.ConnectionTune(2047, 131072, 0))
            case spec.QueueDeclare(queue=queue):
                self.say(channel, spec.QueueDeclareOk(queue, self.published, 0))
            case spec.BasicQos(prefetch_count=prefetch):
                self.prefetch = prefetch
                self.say(channel, spec.BasicQosOk())
            case spec.BasicConsume(consumer_tag=tag, no_ack=no_ack):
                tag = tag or "sink"
                self.say(channel, spec.BasicConsumeOk(tag))
                if no_ack:
                    self.prefetch = 0
                self.deliveries = self.make_deliveries(channel, tag)
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

    def make_deliveries(self, channel: int, tag: str) -> Iterator[bytes]:
        """
        All messages, a batch at a time.
        """
        made = spec.BasicDeliver(tag, 0, False, "", "queue")
        frame = method_frame(channel, made.encode())
        [message] = content_frames(channel, frame, b"\0\0", self.body, 131064)
        # The delivery tag is behind the head, the prefix and the consumer tag.
        place = 7 + 4 + 1 + len(tag)
        before, after = message[:place], message[place + 8 :]
        for first in range(1, self.count + 1, BATCH):
            numbers = range(first, min(first + BATCH, self.count + 1))
            yield b"".join(
                b"".join((before, number.to_bytes(8, "big"), after))
                for number in numbers
            )

    def deliver(self) -> None:
        limit = self.prefetch or self.count
        while self.writable and self.delivered - self.acked + BATCH <= limit:
            batch = next(self.deliveries, None)
            if batch is None:
                break
            self.delivered += BATCH
            self.transport.write(batch)


async def serve(port: int, count: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(count, size), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
