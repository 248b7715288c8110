# -*- test-case-name: txamqp091.test.unit.machine.test_channel_content -*-
"""
Tests for `txamqp091._machine.channel`: messages that come.
"""

from __future__ import annotations

from struct import pack

from txamqp091._machine.channel import Content
from txamqp091._machine.connection import Limits
from txamqp091._machine.content import Assembler
from txamqp091.errors import (
    CommandInvalid,
    ContentTooLarge,
    DecodeError,
    EncodeError,
    FrameError,
    LocalProtocolError,
    UnexpectedFrame,
)
from txamqp091.test.support.recording import (
    ChannelCase,
    RecordingConsumer,
    content,
    frames,
    octets,
)
from txamqp091.wire import spec


class ContentTests(ChannelCase):
    """
    Tests for methods that have content.
    """

    limits = Limits(max_body=20_000)

    def setUp(self) -> None:
        super().setUp()
        self.recorder.consume(self.channel)

    def deliver(self, body: bytes, tag: int = 1, properties: bytes = b"\0\0") -> bytes:
        """
        A delivery.
        """
        method = spec.BasicDeliver("tag", tag, False, "x", "key")
        return content(1, method, body, properties)

    def test_deliveries(self) -> None:
        """
        Bodies of no, one and many frames are put together, in whatever pieces they
        come.
        """
        for size in (0, 1, 4088, 4089, 8176, 20_000):
            body = bytes(place % 251 for place in range(size))
            for pieces in ([self.deliver(body)], octets(self.deliver(body))):
                self.recorder.receive(*pieces)
                self.assertEqual(
                    self.recorder.take(),
                    [("tag", "delivered", 1, False, b"\1x\3key", b"\0\0", body)],
                )

    def test_one_buffer(self) -> None:
        """
        Bodies of several frames are put together in one buffer, which is kept, and
        shared by the channels; no body has anything of the one before.
        """
        spares = self.recorder.machine._spares
        kept = None
        for size in (20_000, 9_000, 4_089, 20_000):
            body = bytes([size % 251]) * size
            self.recorder.receive(self.deliver(body))
            self.assertEqual(self.recorder.take()[0][-1], body)
            kept = kept or spares[0]
            self.assertEqual([id(each) for each in spares], [id(kept)])

    def test_a_large_buffer(self) -> None:
        """
        A buffer of more than 16 MiB is not kept.
        """
        self.channel.max_body = 17 << 20
        self.recorder.receive(self.deliver(bytes(17 << 20)))
        self.assertEqual(len(self.recorder.take()[0][-1]), 17 << 20)
        self.assertEqual(self.recorder.machine._spares, [])

    def test_fields(self) -> None:
        """
        The tag, the flag and the properties of a delivery come as they were sent.
        """
        properties = b"\x80\0\x0atext/plain"
        for tag, redelivered in ((0, True), (2**64 - 1, False)):
            method = spec.BasicDeliver("tag", tag, redelivered, "", "")
            self.recorder.receive(content(1, method, b"b", properties))
            ((*event, route, encoded, body),) = self.recorder.take()
            self.assertEqual(event, ["tag", "delivered", tag, redelivered])
            self.assertEqual((route, body), (b"\0\0", b"b"))
            self.assertEqual(encoded, properties)

    def test_consumers_by_tag(self) -> None:
        """
        Each delivery goes to the consumer of its tag, of whatever letters.
        """
        for tag in ("\N{SNOWMAN}", "x" * 255, "\udcff"):
            self.recorder.consume(self.channel, tag)
            self.recorder.receive(content(1, spec.BasicDeliver(tag, 1)))
            self.assertEqual(self.recorder.kinds(), [(tag, "delivered")])
        self.channel.forget("\udcff")
        self.refused(
            CommandInvalid,
            frames(1, spec.BasicDeliver("\udcff", 1)),
            503,
            r"the consumer '\\xff', which does not exist",
        )

    def test_tags_in_use(self) -> None:
        """
        A tag can be registered once, until it is forgotten; and has to fit.
        """
        consumer = RecordingConsumer(self.recorder, "other")
        self.assertRaises(LocalProtocolError, self.channel.register, "tag", consumer)
        self.assertRaises(EncodeError, self.channel.register, "x" * 256, consumer)
        self.channel.forget("tag")
        self.channel.forget("tag")
        self.channel.register("tag", consumer)
        self.recorder.receive(self.deliver(b""))
        self.assertEqual(self.recorder.kinds(), [("other", "delivered")])

    def test_unknown_consumer(self) -> None:
        """
        A delivery for nobody is an error, 503, told before its content has come.
        """
        self.refused(
            CommandInvalid,
            frames(1, spec.BasicDeliver("nobody", 1)),
            503,
            "a delivery for the consumer 'nobody', which does not exist",
        )

    def test_malformed_delivery(self) -> None:
        """
        A delivery that is cut, or goes on, anywhere is an error, 502, told before
        its content has come.
        """
        whole = spec.BasicDeliver("tag", 1, False, "x", "key").encode()
        for payload in [whole[:end] for end in range(4, len(whole))] + [whole + b"\0"]:
            self.setUp()
            data = pack(">BHI", 1, 1, len(payload)) + payload + b"\xce"
            self.refused(DecodeError, data, 502, "basic.deliver")

    def test_body_of_empty_frames(self) -> None:
        """
        Body frames without a body add nothing, and are not kept.
        """
        data = self.deliver(b"ab")
        method_and_header = data[:-10]
        self.recorder.receive(method_and_header)
        self.recorder.receive(frame(3, b"") * 1000)
        self.recorder.receive(frame(3, b"a") + frame(3, b"") * 1000 + frame(3, b"b"))
        self.assertEqual([event[-1] for event in self.recorder.take()], [b"ab"])

    def test_body_too_long(self) -> None:
        """
        More body than the header announced is an error, 501.
        """
        header = frame(2, pack(">HHQH", 60, 0, 3, 0))
        method = frames(1, spec.BasicDeliver("tag", 1))
        self.refused(
            FrameError,
            method + header + frame(3, b"ab") + frame(3, b"cd"),
            501,
            "a body of 4 octets, not 3",
        )

    def test_bad_headers(self) -> None:
        """
        A header of another class, with a weight, or too short is an error.
        """
        method = frames(1, spec.BasicDeliver("tag", 1))
        for header, kind, code, text in (
            (pack(">HHQH", 50, 0, 0, 0), FrameError, 501, "of class 50 and weight 0"),
            (pack(">HHQH", 60, 1, 0, 0), FrameError, 501, "of class 60 and weight 1"),
            (pack(">HHQ", 60, 0, 0), DecodeError, 502, "too short"),
            (b"", DecodeError, 502, "too short"),
        ):
            self.setUp()
            self.refused(kind, method + frame(2, header), code, text)

    def test_unexpected_frames(self) -> None:
        """
        A frame of another type than is due is an error, 505.
        """
        method = frames(1, spec.BasicDeliver("tag", 1))
        header = frame(2, pack(">HHQH", 60, 0, 3, 0))
        due_method = "where a method was due"
        due_header = "where a content header was due"
        due_body = "where a content body was due"
        for data, text in (
            (header, f"a content header frame, {due_method}"),
            (frame(3, b"abc"), f"a content body frame, {due_method}"),
            (method + method, f"a method frame, {due_header}"),
            (method + frames(1, spec.QueueDeclareOk()), due_header),
            (method + frame(3, b"abc"), f"a content body frame, {due_header}"),
            (method + header + header, f"a content header frame, {due_body}"),
            (method + header + method, f"a method frame, {due_body}"),
            (method + header + frame(3, b"a") + method, due_body),
            (method + frame(2, pack(">HHQH", 60, 0, 0, 0)) + frame(3, b""), due_method),
        ):
            self.setUp()
            self.refused(UnexpectedFrame, data, 505, text)

    def test_interleaved_channels(self) -> None:
        """
        The content of one channel may come between the frames of another's, and
        heartbeats between those.
        """
        other = self.recorder.open_channel()
        other.register("other", RecordingConsumer(self.recorder, "other"))
        mine = self.deliver(b"m" * 5000)
        theirs = content(2, spec.BasicDeliver("other", 7), b"t" * 5000)
        pulse = b"\x08\0\0\0\0\0\0\xce"
        cut = len(frames(1, spec.BasicDeliver("tag", 1, False, "x", "key")))
        head = len(frames(2, spec.BasicDeliver("other", 7))) + 22
        self.recorder.receive(
            mine[:cut] + pulse + theirs[:head] + mine[cut:] + pulse + theirs[head:]
        )
        self.assertEqual(
            [(event[0], event[-1]) for event in self.recorder.take()],
            [("tag", b"m" * 5000), ("other", b"t" * 5000)],
        )

    def test_undecodable_properties(self) -> None:
        """
        Criterion 6: whatever the properties are, the message is delivered.
        """
        for properties in (b"\xff\xff", b"\0\1", b"\x20\0\xff\xff\xff\xff", bytes(900)):
            self.recorder.receive(self.deliver(b"body", 1, properties))
            ((*_, encoded, body),) = self.recorder.take()
            self.assertEqual((encoded, body), (properties, b"body"))

    def test_oversized(self) -> None:
        """
        Criterion 7: a body over the limit is drained, nothing of it is kept, and the
        consumer is told; the message behind it is delivered.
        """
        size = 300 << 20
        header = frame(2, pack(">HHQH", 60, 0, size, 0))
        self.recorder.receive(frames(1, spec.BasicDeliver("tag", 7)) + header)
        piece = frame(3, bytes(131_064))
        held = 0
        for _ in range(size // 131_064):
            self.recorder.receive(piece)
            held = max(held, len(self.channel._body))
        self.assertEqual(held, 0)
        self.assertEqual(self.recorder.take(), [])
        self.recorder.receive(frame(3, bytes(size % 131_064)))
        self.assertEqual(self.recorder.take(), [("tag", "oversized", 7, size)])
        self.recorder.receive(self.deliver(b"next"))
        self.assertEqual(self.recorder.kinds(), [("tag", "delivered")])

    def test_which_end(self) -> None:
        """
        What both ends share does not know what a method means.
        """
        self.assertRaises(NotImplementedError, Assembler(0, []).expect, 1, b"")

    def test_limit_is_exact(self) -> None:
        """
        A body of just the limit is delivered, and one octet more is too much.
        """
        self.recorder.receive(self.deliver(bytes(20_000)), self.deliver(bytes(20_001)))
        self.assertEqual(
            self.recorder.kinds(), [("tag", "delivered"), ("tag", "oversized")]
        )

    def test_huge_announcements(self) -> None:
        """
        A large size allocates nothing, and what comes of it is dropped; one of a
        tebibyte or more, which no broker has, is refused.
        """
        deliver = frames(1, spec.BasicDeliver("tag", 7))
        header = frame(2, pack(">HHQH", 60, 0, 2**40 - 1, 0))
        self.recorder.receive(deliver + header)
        self.recorder.receive(frame(3, bytes(4088)) * 10)
        self.assertEqual(bytes(self.channel._body), b"")
        for size in (2**40, 2**62, 2**64 - 1):
            self.setUp()
            header = frame(2, pack(">HHQH", 60, 0, size, 0))
            error = self.assertRaises(
                FrameError, self.recorder.receive, deliver + header
            )
            self.assertIn(f"announces {size} octets", str(error))

    def test_get(self) -> None:
        """
        A message that was asked for goes to whoever asked, and an empty queue's
        answer too.
        """
        for name in ("one", "two", "three"):
            self.channel.call(spec.BasicGet(0, "q"), self.recorder.handle(name))
        got = spec.BasicGetOk(5, True, "x", "key", 3)
        self.recorder.receive(
            content(1, got, b"body") + frames(1, spec.BasicGetEmpty()) + content(1, got)
        )
        header = pack(">HHQ", 60, 0, 4) + b"\0\0"
        empty = pack(">HHQ", 60, 0, 0) + b"\0\0"
        self.assertEqual(
            self.recorder.take(),
            [
                ("one", "callback", Content(got, header, b"body")),
                ("two", "callback", spec.BasicGetEmpty()),
                ("three", "callback", Content(got, empty, b"")),
            ],
        )

    def test_get_oversized(self) -> None:
        """
        Criterion 7: who asked for a message over the limit is told so, with its tag
        to reject it by.
        """
        handle = self.recorder.handle("get")
        self.channel.call(spec.BasicGet(0, "q"), handle)
        self.recorder.receive(content(1, spec.BasicGetOk(5), bytes(20_001)))
        (error,) = handle.results
        assert isinstance(error, ContentTooLarge)
        self.assertEqual((error.size, error.limit), (20_001, 20_000))
        self.assertEqual(error.delivery_tag, 5)

    def test_get_unsolicited(self) -> None:
        """
        A message that nobody asked for is an error, 503, told before its content
        has come.
        """
        self.refused(CommandInvalid, frames(1, spec.BasicGetOk(5)), 503, "nobody asked")

    def test_cancelled_by_the_broker(self) -> None:
        """
        The broker's cancel ends the consumer.  It is agreed to if the broker asks; else
        we cancel, too, and the tag is unknown once the broker has agreed to that.  For
        a consumer that has ended already a cancel changes nothing.
        """
        self.say(spec.BasicCancel("tag", True))
        self.assertEqual(self.recorder.sent(), [(1, spec.BasicCancel("tag"))])
        self.assertEqual(self.recorder.take(), [("tag", "cancelled")])
        self.say(spec.BasicCancel("tag", False))
        self.assertEqual(self.recorder.sent(), [(1, spec.BasicCancelOk("tag"))])
        self.say(spec.BasicCancel("tag", True))
        self.assertEqual(self.recorder.sent(), [])
        self.assertEqual(self.recorder.take(), [])
        self.recorder.receive(self.deliver(b"late"))
        self.assertEqual(self.recorder.kinds(), [("tag", "delivered")])
        self.say(spec.BasicCancelOk("tag"))
        self.assertFalse(self.channel.answers_due())
        self.assertRaises(CommandInvalid, self.recorder.receive, self.deliver(b"odd"))

    def test_settle(self) -> None:
        """
        Acks, nacks and rejects are the frames that their methods encode to.
        """
        tag = 2**64 - 1
        for method, bits, whole in (
            (spec.BasicAck, 1, spec.BasicAck(tag, True)),
            (spec.BasicNack, 2, spec.BasicNack(tag, False, True)),
            (spec.BasicReject, 0, spec.BasicReject(tag, False)),
        ):
            self.channel.settle(method, tag, bits)
            self.assertEqual(bytes(self.recorder.written), frames(1, whole))
            self.recorder.forget()


def frame(kind: int, payload: bytes) -> bytes:
    """
    A frame on channel 1.
    """
    return pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"
