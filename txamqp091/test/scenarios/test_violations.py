# -*- test-case-name: txamqp091.test.scenarios.test_violations -*-
"""
Scenarios: what brokers say to clients that break the rules.

The client's own code does not let anybody do such things: the frames here are written
past it.
"""

from __future__ import annotations

import math
import struct

from txamqp091.channel import Channel
from txamqp091.errors import Closed
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec
from txamqp091.wire.method import Method


def frame(kind: int, channel: int, payload: bytes, end: int = spec.FRAME_END) -> bytes:
    """
    A frame, right or wrong.
    """
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def method(channel: int, what: Method) -> bytes:
    """
    A frame with a method.
    """
    return frame(spec.FRAME_METHOD, channel, what.encode())


def header(class_id: int, size: int, properties: bytes = b"\0\0") -> bytes:
    """
    The payload of a content header.
    """
    return struct.pack(">HHQ", class_id, 0, size) + properties


@every_peer
class ViolationScenarios(Scenario):
    """
    The connection ends, with a code that says what was wrong.
    """

    async def says(self, channel: Channel, data: bytes) -> tuple[int, str]:
        """
        Write octets, and see the connection end.

        :returns: the code, and the name of the reason.
        """
        transport = channel.connection.transport
        assert transport is not None
        transport.write(data)
        try:
            await channel.connection.when_closed()
        except Closed as error:
            return error.reply_code, error.reply_text
        raise AssertionError("not closed")

    async def violates(self, data: bytes, code: int, text: str) -> None:
        """
        See a connection closed for what it says on its channel 1.

        :param text: a part of what RabbitMQ says; the in-memory broker says it in the
            words of the client, which shares its code.
        """
        channel = await self.channel()
        self.assertEqual(channel.number, 1)
        found = await self.says(channel, data)
        self.assertEqual(found[0], code, found)
        if not self.kind.memory:
            self.assertIn(text, found[1])

    async def test_second_open(self) -> None:
        """
        504: a channel is opened that is open.
        """
        data = method(1, spec.ChannelOpen())
        text = "CHANNEL_ERROR - second 'channel.open' seen"
        await self.violates(data, 504, text)

    async def test_not_open(self) -> None:
        """
        504: a channel is used that is not.
        """
        data = method(7, spec.BasicQos(0, 1, False))
        await self.violates(data, 504, "CHANNEL_ERROR - expected 'channel.open'")

    async def test_header_without_publish(self) -> None:
        """
        505: a header comes without its method.
        """
        data = frame(spec.FRAME_HEADER, 1, header(60, 0))
        text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead"
        await self.violates(data, 505, text)

    async def test_body_without_header(self) -> None:
        """
        505: a body comes without its header.
        """
        data = method(1, spec.BasicPublish(0, "", "q"))
        data += frame(spec.FRAME_BODY, 1, b"x")
        text = (
            "UNEXPECTED_FRAME - expected content header for class 60, "
            "got non content header frame instead"
        )
        await self.violates(data, 505, text)

    async def test_method_within_content(self) -> None:
        """
        505: a method comes where there should be a header.
        """
        data = method(1, spec.BasicPublish(0, "", "q"))
        data += method(1, spec.BasicQos(0, 1, False))
        text = "UNEXPECTED_FRAME - expected content header for class 60"
        await self.violates(data, 505, text)

    async def test_method_within_body(self) -> None:
        """
        505: or a body.
        """
        data = method(1, spec.BasicPublish(0, "", "q"))
        data += frame(spec.FRAME_HEADER, 1, header(60, 10))
        data += method(1, spec.BasicQos(0, 1, False))
        text = (
            "UNEXPECTED_FRAME - expected content body, got non content body frame "
            "instead"
        )
        await self.violates(data, 505, text)

    async def test_header_of_another_class(self) -> None:
        """
        505: a header is of another class than its method.
        """
        data = method(1, spec.BasicPublish(0, "", "q"))
        data += frame(spec.FRAME_HEADER, 1, header(50, 0))
        text = "UNEXPECTED_FRAME - expected content header for class 60, got one for"
        await self.violates(data, 505, text)

    async def test_unknown_method(self) -> None:
        """
        There is no such method: the connection is dropped, without a word.
        """
        data = frame(spec.FRAME_METHOD, 1, struct.pack(">HH", 60, 999))
        await self.violates(data, 0, "the connection was lost")

    async def test_immediate(self) -> None:
        """
        540: there is nothing immediate.
        """
        data = method(1, spec.BasicPublish(0, "", "q", False, True))
        data += frame(spec.FRAME_HEADER, 1, header(60, 0))
        await self.violates(data, 540, "NOT_IMPLEMENTED - immediate=true")

    async def test_frame_end(self) -> None:
        """
        501: a frame ends with something else.
        """
        data = frame(spec.FRAME_METHOD, 1, spec.BasicQos(0, 1, False).encode(), 0)
        await self.violates(data, 501, "FRAME_ERROR")

    async def test_frame_type(self) -> None:
        """
        501: there is no such frame.
        """
        await self.violates(frame(9, 1, b"x"), 501, "FRAME_ERROR")

    async def test_large_frame(self) -> None:
        """
        501: a frame is larger than was agreed.
        """
        data = method(1, spec.BasicPublish(0, "", "q"))
        data += frame(spec.FRAME_HEADER, 1, header(60, 200_000))
        data += frame(spec.FRAME_BODY, 1, bytes(200_000))
        await self.violates(data, 501, "FRAME_ERROR")

    async def test_slightly_large_frame(self) -> None:
        """
        A frame may be larger by eight octets than was agreed: some clients count what
        is in it alone.
        """
        size = 131072
        channel = await (await self.connect(frame_max=size)).open_channel()
        transport = channel.connection.transport
        assert transport is not None
        queue = await self.queue(channel)
        data = method(1, spec.BasicPublish(0, "", queue))
        data += frame(spec.FRAME_HEADER, 1, header(60, size))
        transport.write(data + frame(spec.FRAME_BODY, 1, bytes(size)))
        await self.until_count(channel, queue, 1)
        data = method(1, spec.BasicPublish(0, "", queue))
        data += frame(spec.FRAME_HEADER, 1, header(60, size + 1))
        data += frame(spec.FRAME_BODY, 1, bytes(size + 1))
        self.assertEqual((await self.says(channel, data))[0], 501)

    async def test_truncated_method(self) -> None:
        """
        501: the arguments of a method are cut short.
        """
        whole = spec.QueueDeclare(0, "name").encode()
        data = frame(spec.FRAME_METHOD, 1, whole[:-6])
        await self.violates(data, 501, "FRAME_ERROR - cannot decode")

    async def test_no_number(self) -> None:
        """
        541: a header is a floating-point number that is none, or is infinite.
        """
        for number in (math.nan, math.inf):
            for value in (
                struct.pack(">cd", b"d", number),
                struct.pack(">cf", b"f", number),
                struct.pack(">cIcd", b"A", 9, b"d", number),
                struct.pack(">cI2scd", b"F", 11, b"\1k", b"d", number),
            ):
                table = b"\1h" + value
                properties = struct.pack(">HI", 1 << 13, len(table)) + table
                data = method(1, spec.BasicPublish(0, "", "q"))
                data += frame(spec.FRAME_HEADER, 1, header(60, 0, properties))
                await self.violates(data, 541, "INTERNAL_ERROR")

    async def test_no_number_in_arguments(self) -> None:
        """
        An argument is one: the connection is dropped, without a word.
        """
        table = b"\1h" + struct.pack(">cd", b"d", math.nan)
        whole = spec.QueueDeclare(0, "name", exclusive=True).encode()
        data = whole[:-4] + struct.pack(">I", len(table)) + table
        await self.violates(
            frame(spec.FRAME_METHOD, 1, data), 0, "the connection was lost"
        )

    async def test_server_method(self) -> None:
        """
        503: a method that only brokers send.
        """
        data = method(1, spec.QueueDeclareOk("name", 0, 0))
        await self.violates(data, 503, "COMMAND_INVALID")

    async def test_others_go_on(self) -> None:
        """
        Other connections do not notice.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        bad = await (await self.connect()).open_channel()
        await self.says(bad, frame(spec.FRAME_BODY, 1, b"x"))
        await channel.basic_publish("", queue, "x")
        self.assertEqual(await self.bodies(channel, queue), [b"x"])
