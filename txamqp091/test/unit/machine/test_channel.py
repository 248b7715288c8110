# -*- test-case-name: txamqp091.test.unit.machine.test_channel -*-
"""
Tests for `txamqp091._machine.channel`: calls, their answers, and the end.  Messages are
in `test_channel_content` and `test_channel_publishing`.
"""

from __future__ import annotations

from struct import pack
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    ChannelError,
    CommandInvalid,
    DecodeError,
    EncodeError,
    MethodNotImplemented,
    NotFound,
)
from txamqp091.test.support.recording import (
    ChannelCase,
    Recorder,
    RecordingConsumer,
    content,
    frames,
    octets,
)
from txamqp091.wire import spec

Reply = Deferred[Any]


class CallTests(ChannelCase):
    """
    Tests for calls and their answers.
    """

    def test_pipelined(self) -> None:
        """
        Calls leave without waiting for one another, and are answered in order.
        """
        names = ["a", "b", "c"]
        for name in names:
            self.channel.call(spec.QueueDeclare(0, name), self.recorder.handle(name))
        self.assertEqual(
            self.recorder.sent(),
            [(1, spec.QueueDeclare(0, name)) for name in names],
        )
        self.assertEqual(self.recorder.take(), [])
        self.say(*[spec.QueueDeclareOk(name) for name in names])
        self.assertEqual(
            self.recorder.take(),
            [(name, "callback", spec.QueueDeclareOk(name)) for name in names],
        )

    def test_mixed(self) -> None:
        """
        Calls of different kinds do not overtake one another.
        """
        self.channel.call(spec.QueueDeclare(), self.recorder.handle("declare"))
        self.channel.call(spec.BasicGet(), self.recorder.handle("get"))
        self.channel.call(spec.TxSelect(), self.recorder.handle("select"))
        self.say(
            spec.QueueDeclareOk("q", 1, 2), spec.BasicGetEmpty(), spec.TxSelectOk()
        )
        self.assertEqual(
            self.recorder.take(),
            [
                ("declare", "callback", spec.QueueDeclareOk("q", 1, 2)),
                ("get", "callback", spec.BasicGetEmpty()),
                ("select", "callback", spec.TxSelectOk()),
            ],
        )

    def test_overtaken(self) -> None:
        """
        RabbitMQ may answer what follows ``basic.consume`` before it; also when that
        is the close, it is no error.
        """
        self.channel.register("tag", RecordingConsumer(self.recorder, "tag"))
        consume = spec.BasicConsume(0, "q", "tag")
        self.channel.call(consume, self.recorder.handle("consume"))
        self.channel.call(spec.QueueDelete(0, "q"), self.recorder.handle("delete"))
        self.say(spec.QueueDeleteOk(), spec.BasicConsumeOk("tag"))
        self.assertEqual(
            self.recorder.kinds(), [("delete", "callback"), ("consume", "callback")]
        )
        self.channel.call(spec.BasicCancel("tag"), self.recorder.handle("cancel"))
        self.channel.close(200, "", self.recorder.handle("close"))
        self.say(spec.ChannelCloseOk())
        self.assertEqual(
            self.recorder.kinds(),
            [
                ("cancel", "errback"),
                ("tag", "ended"),
                (1, "closed"),
                ("close", "callback"),
            ],
        )

    def test_cancelled(self) -> None:
        """
        The answer to a call whose caller gave up is swallowed; the next one's is
        its own.
        """
        first: Reply = Deferred()
        second: Reply = Deferred()
        self.channel.call(spec.QueueDeclare(0, "a"), first)
        self.channel.call(spec.QueueDeclare(0, "b"), second)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.say(spec.QueueDeclareOk("a"), spec.QueueDeclareOk("b"))
        self.assertEqual(self.successResultOf(second).queue, "b")

    def test_what_does_not_fit(self) -> None:
        """
        A method that cannot be encoded is refused here, and nothing is expected.
        """
        handle = self.recorder.handle()
        too_long = spec.QueueDeclare(0, "q" * 256)
        self.assertRaises(EncodeError, self.channel.call, too_long, handle)
        self.assertRaises(EncodeError, self.channel.send, too_long)
        self.assertEqual(self.recorder.sent(), [])
        self.refused(
            CommandInvalid, frames(1, spec.QueueDeclareOk()), 503, "nobody asked"
        )
        self.assertEqual(handle.results, [])

    def test_larger_than_a_frame(self) -> None:
        """
        A method that needs more than one frame is refused here: the broker would
        close the connection for it.
        """
        table = {"a": b"x" * 131072}
        error = self.assertRaises(
            EncodeError,
            self.channel.call,
            spec.QueueDeclare(arguments=table),
            self.recorder.handle(),
        )
        self.assertIn("queue.declare: ", str(error))
        self.assertIn("frame_max", str(error))
        self.assertEqual(self.recorder.sent(), [])

    def test_unsolicited(self) -> None:
        """
        An answer that nobody asked for is an error, 503.
        """
        self.refused(
            CommandInvalid,
            frames(1, spec.QueueBindOk()),
            503,
            "queue.bind-ok, for which nobody asked",
        )

    def test_another_answer(self) -> None:
        """
        The answer to another question is an error, 503.
        """
        self.channel.call(spec.QueueDeclare(), self.recorder.handle())
        self.refused(
            CommandInvalid,
            frames(1, spec.QueueBindOk()),
            503,
            "queue.bind-ok instead of queue.declare-ok",
        )

    def test_not_for_clients(self) -> None:
        """
        Questions that only a client asks, and the methods of the connection, are
        errors on a channel.
        """
        for method in (
            spec.QueueDeclare(),
            spec.BasicPublish(),
            spec.ConnectionClose(),
            spec.ConnectionBlocked(),
            spec.ChannelOpen(),
            spec.ChannelOpenOk(),
            spec.ChannelCloseOk(),
        ):
            self.setUp()
            self.refused(CommandInvalid, frames(1, method), 503, method.name)

    def test_malformed(self) -> None:
        """
        Unknown methods are errors, 540, and malformed ones, 502.
        """
        for kind, payload, code in (
            (MethodNotImplemented, pack(">HH", 50, 99), 540),
            (MethodNotImplemented, pack(">HH", 777, 1), 540),
            (DecodeError, b"", 502),
            (DecodeError, b"\0\x32\0", 502),
            (DecodeError, spec.QueueDeclareOk("q").encode()[:-1], 502),
            (DecodeError, spec.QueueDeclareOk("q").encode() + b"\0", 502),
        ):
            self.setUp()
            self.channel.call(spec.QueueDeclare(), self.recorder.handle())
            data = pack(">BHI", 1, 1, len(payload)) + payload + b"\xce"
            self.refused(kind, data, code, "")

    def test_flow(self) -> None:
        """
        The broker's flow is agreed to, and told.
        """
        self.say(spec.ChannelFlow(False))
        self.assertEqual(self.recorder.sent(), [(1, spec.ChannelFlowOk(False))])
        self.say(spec.ChannelFlow(True))
        self.assertEqual(self.recorder.sent(), [(1, spec.ChannelFlowOk(True))])
        self.assertEqual(self.recorder.take(), [(1, "flow", False), (1, "flow", True)])


class CloseTests(ChannelCase):
    """
    Tests for the end of a channel.
    """

    confirms = True

    def wait_for_everything(self) -> None:
        """
        A call, a publish and a consumer that wait.
        """
        self.recorder.consume(self.channel)
        self.channel.call(spec.QueueDeclare(), self.recorder.handle("declare"))
        self.publish(name="message")
        self.recorder.forget()

    def test_by_the_broker(self) -> None:
        """
        The broker's close is agreed to, everyone who waits is told the reason, and
        the number is free.
        """
        self.wait_for_everything()
        self.say(spec.ChannelClose(404, "NOT_FOUND - no queue 'q'", 50, 10))
        self.assertEqual(self.recorder.sent(), [(1, spec.ChannelCloseOk())])
        reason = self.channel.reason
        assert isinstance(reason, NotFound)
        self.assertEqual(reason.reply_code, 404)
        self.assertEqual(reason.reply_text, "NOT_FOUND - no queue 'q'")
        self.assertEqual((reason.class_id, reason.method_id), (50, 10))
        self.assertEqual(reason.operation, "queue.declare")
        self.assertEqual(
            self.recorder.events,
            [
                ("declare", "errback", reason),
                ("message", "errback", reason),
                ("tag", "ended", reason),
                (1, "closed", reason),
            ],
        )
        self.assertEqual(self.recorder.open_channel().number, 2)
        self.assertNotIn(1, self.recorder.machine._channels)

    def test_afterwards(self) -> None:
        """
        On a channel that has ended, calls and publishes raise the reason, and acks
        say nothing.
        """
        self.say(spec.ChannelClose(406, "PRECONDITION_FAILED"))
        self.recorder.forget()
        reason = self.channel.reason
        handle = self.recorder.handle()
        for refused in (
            lambda: self.channel.send(spec.BasicRecoverAsync()),
            lambda: self.channel.call(spec.QueueDeclare(), handle),
            lambda: self.channel.publish("x", "key", b"", b"\0\0", False, handle),
            lambda: self.channel.select_confirms(handle),
            lambda: self.channel.close(200, "", handle),
            lambda: self.channel.check(),
        ):
            error = self.assertRaises(AMQPError, refused)
            self.assertIs(error, reason)
        self.channel.settle(spec.BasicAck, 1, 0)
        self.assertEqual(bytes(self.recorder.written), b"")
        self.assertEqual(self.recorder.take(), [])

    def test_unknown_operation(self) -> None:
        """
        A close that names no method that there is, is taken all the same.
        """
        self.say(spec.ChannelClose(999, "\N{SNOWMAN}", 7, 7))
        reason = self.channel.reason
        assert isinstance(reason, ChannelClosed)
        self.assertEqual((reason.operation, reason.reply_code), ("", 999))

    def test_by_us(self) -> None:
        """
        After our close, answers that are due still come, deliveries are dropped, and
        calls are refused; then the channel has ended, by us.
        """
        self.wait_for_everything()
        self.assertTrue(self.channel.is_open)
        self.channel.close(200, "done", self.recorder.handle("close"))
        self.assertFalse(self.channel.is_open)
        self.assertEqual(self.recorder.sent(), [(1, spec.ChannelClose(200, "done"))])
        error = self.assertRaises(ChannelClosed, self.channel.check)
        self.assertTrue(error.by_us)
        self.assertRaises(ChannelClosed, self.publish)
        self.channel.settle(spec.BasicAck, 1, 0)
        self.recorder.receive(content(1, spec.BasicDeliver("tag", 1), b"late"))
        self.say(spec.ChannelFlow(False))
        self.say(spec.BasicAck(1), spec.QueueDeclareOk("q"))
        self.assertEqual(bytes(self.recorder.written), b"")
        self.assertEqual(
            self.recorder.kinds(),
            [("message", "callback"), (1, "confirmed"), ("declare", "callback")],
        )
        self.say(spec.ChannelCloseOk())
        self.assertEqual(
            self.recorder.kinds(),
            [("tag", "ended"), (1, "closed"), ("close", "callback")],
        )
        self.assertTrue(getattr(self.channel.reason, "by_us", False))
        self.assertNotIn(1, self.recorder.machine._channels)

    def test_abandoned(self) -> None:
        """
        A channel that was given up ends at once, for all who wait, and keeps its number
        until the broker has agreed; whether or not it closes the channel, too.
        """
        for first in ([], [spec.ChannelClose(406, "")]):
            self.setUp()
            self.wait_for_everything()
            self.recorder.sent()
            reason = ChannelClosed("stuck", by_us=True)
            self.channel.abandon(reason)
            self.assertIs(self.channel.reason, reason)
            self.assertEqual(self.recorder.sent(), [(1, spec.ChannelClose(200, ""))])
            self.assertEqual(
                self.recorder.kinds(),
                [
                    ("declare", "errback"),
                    ("message", "errback"),
                    ("tag", "ended"),
                    (1, "closed"),
                ],
            )
            self.assertRaises(ChannelClosed, self.channel.abandon, reason)
            self.say(spec.QueueDeclareOk("q"), spec.BasicAck(1))
            self.recorder.receive(content(1, spec.BasicDeliver("tag", 9), b"late"))
            self.say(*first)
            self.assertIn(1, self.recorder.machine._channels)
            self.say(spec.ChannelCloseOk())
            self.assertNotIn(1, self.recorder.machine._channels)
            self.assertEqual(self.recorder.take(), [])
            answers = [(1, spec.ChannelCloseOk())] if first else []
            self.assertEqual(self.recorder.sent(), answers)

    def test_cancel_while_closing(self) -> None:
        """
        The broker's cancel of a consumer is not answered any more while we close.
        """
        self.recorder.consume(self.channel)
        self.channel.close(200, "", self.recorder.handle("close"))
        self.recorder.forget()
        self.say(spec.BasicCancel("tag", False))
        self.assertEqual(self.recorder.sent(), [])
        self.assertEqual(self.recorder.kinds(), [("tag", "cancelled")])

    def test_oversized_while_closing(self) -> None:
        """
        A delivery over the limit is dropped as others are while we close.
        """
        self.channel.max_body = 3
        self.recorder.consume(self.channel)
        self.channel.close(200, "", self.recorder.handle("close"))
        self.recorder.receive(content(1, spec.BasicDeliver("tag", 1), b"1234"))
        self.assertEqual(self.recorder.take(), [])

    def test_crossing(self) -> None:
        """
        When both sides close at once, the broker's reason counts, and the number is
        free only when our own close has been answered.
        """
        self.wait_for_everything()
        self.channel.close(200, "", self.recorder.handle("close"))
        self.recorder.sent()
        self.say(spec.ChannelClose(404, "NOT_FOUND", 60, 40))
        self.assertEqual(self.recorder.sent(), [(1, spec.ChannelCloseOk())])
        self.assertIsInstance(self.channel.reason, NotFound)
        self.assertEqual(
            self.recorder.kinds(),
            [
                ("declare", "errback"),
                ("close", "errback"),
                ("message", "errback"),
                ("tag", "ended"),
                (1, "closed"),
            ],
        )
        self.recorder.receive(content(1, spec.BasicDeliver("tag", 9), b"late"))
        self.assertIn(1, self.recorder.machine._channels)
        self.say(spec.ChannelCloseOk())
        self.assertNotIn(1, self.recorder.machine._channels)
        self.assertEqual(self.recorder.take(), [])
        self.refused(ChannelError, frames(1, spec.ChannelCloseOk()), 504, "channel 1")

    def test_while_opening(self) -> None:
        """
        The broker may close a channel instead of opening it.
        """
        channel = self.recorder.begin_channel()
        self.recorder.forget()
        self.recorder.say(2, spec.ChannelClose(504, "CHANNEL_ERROR"))
        self.assertEqual(self.recorder.kinds(), [("open", "errback"), (2, "closed")])
        self.assertIsNotNone(channel.reason)

    def test_late_frames(self) -> None:
        """
        What RabbitMQ's queues make it say on a channel that it has closed, until it has
        read that we know, is dropped; also when it comes in pieces.
        """
        self.recorder.consume(self.channel)
        self.say(spec.ChannelClose(406, ""))
        self.recorder.forget()
        late = content(1, spec.BasicDeliver("tag", 1), b"late")
        late += content(1, spec.BasicDeliver("tag", 2), b"")
        late += content(1, spec.BasicReturn(312, "", "x", "y"), bytes(10_000))
        late += frames(1, spec.BasicAck(1), spec.BasicNack(2), spec.BasicCancel("tag"))
        late += frames(1, spec.BasicConsumeOk("tag"), spec.BasicCancelOk("tag"))
        self.recorder.receive(late, *octets(late))
        self.assertEqual(self.recorder.take(), [])
        self.assertEqual(bytes(self.recorder.written), b"")

    def test_late_frames_for_the_next(self) -> None:
        """
        A channel that has the number of one that the broker has closed takes what comes
        after its own opening, and nothing that came before.
        """
        recorder = Recorder().open(spec.ConnectionTune(1, 0, 0))
        recorder.consume(recorder.open_channel(confirms=True))
        late = content(1, spec.BasicDeliver("tag", 1), b"late")
        late += frames(1, spec.BasicAck(1))
        for answer in (spec.ChannelOpenOk(), spec.ChannelClose(504, "no")):
            recorder.say(1, spec.ChannelClose(406, ""))
            channel = recorder.begin_channel()
            recorder.forget()
            recorder.receive(late + frames(1, answer))
            self.assertEqual(recorder.kinds()[0][0], "open")
            self.assertEqual(channel.reason is None, answer == spec.ChannelOpenOk())
        channel = recorder.open_channel()
        recorder.consume(channel)
        recorder.receive(late[: -len(frames(1, spec.BasicAck(1)))])
        self.assertEqual(recorder.kinds(), [("tag", "delivered")])

    def test_late_frames_after_crossing(self) -> None:
        """
        They may come after the answer to our own close, too.
        """
        self.recorder.consume(self.channel)
        self.channel.close(200, "", self.recorder.handle("close"))
        self.say(spec.ChannelClose(406, ""), spec.ChannelCloseOk())
        self.recorder.forget()
        self.recorder.receive(content(1, spec.BasicDeliver("tag", 9), b"late"))
        self.assertEqual(self.recorder.take(), [])

    def test_frames_after_the_end(self) -> None:
        """
        Any other frame for a channel that has ended is an error, 504.
        """
        self.say(spec.ChannelClose(404, ""))
        self.refused(
            ChannelError,
            frames(1, spec.QueueDeclareOk()),
            504,
            "a method frame for channel 1, which is not open",
        )

    def test_in_the_middle_of_content(self) -> None:
        """
        A channel that ends in the middle of a message keeps nothing of it.
        """
        self.recorder.consume(self.channel)
        data = content(1, spec.BasicDeliver("tag", 1), bytes(10_000))
        self.recorder.receive(data[:6000])
        self.channel.fail(ChannelClosed("gone"))
        self.assertEqual(bytes(self.channel._body), b"")
        self.assertEqual(self.recorder.kinds(), [("tag", "ended"), (1, "closed")])
        self.recorder.receive(data[6000:])
        self.assertEqual(self.recorder.take(), [])

    def test_only_once(self) -> None:
        """
        The second reason for the end changes nothing.
        """
        first = ChannelClosed("first")
        self.channel.fail(first)
        self.recorder.forget()
        self.channel.fail(ChannelClosed("second"))
        self.assertIs(self.channel.reason, first)
        self.assertEqual(self.recorder.take(), [])

    def test_others_live_on(self) -> None:
        """
        Criterion 12: a channel that ends with 40 messages in flight gives 40
        outcomes, and leaves the other channel alone.
        """
        other = self.recorder.open_channel(confirms=True)
        handles = [self.publish(b"%d" % place) for place in range(40)]
        neighbour = self.recorder.handle("neighbour")
        other.publish("x", "key", b"", b"\0\0", False, neighbour)
        self.say(spec.ChannelClose(404, "NOT_FOUND - no exchange 'x'", 60, 40))
        for handle in handles:
            self.assertEqual([type(each) for each in handle.results], [NotFound])
        self.assertEqual(neighbour.results, [])
        self.recorder.say(2, spec.BasicAck(1))
        self.assertEqual(neighbour.results, [None])
