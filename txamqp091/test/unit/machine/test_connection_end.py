# -*- test-case-name: txamqp091.test.unit.machine.test_connection_end -*-
"""
Tests for `txamqp091._machine.connection`: the end, and sinks that call from inside.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.states import State
from txamqp091.errors import (
    AMQPError,
    CommandInvalid,
    ConnectionClosed,
    ConnectionForced,
    ConnectionLost,
    DecodeError,
    FrameError,
    LocalProtocolError,
)
from txamqp091.test.support.recording import Recorder, content, frames, octets
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT

TUNE = spec.ConnectionTune(2047, 131072, 60)


class CloseTests(SynchronousTestCase):
    """
    Tests for the end of a connection.
    """

    def setUp(self) -> None:
        self.recorder = Recorder().open()
        self.machine = self.recorder.machine

    def wait_for_everything(self) -> None:
        """
        Something that waits in every place.
        """
        one = self.recorder.open_channel(confirms=True)
        self.recorder.consume(one)
        self.recorder.open_channel()
        one.call(spec.QueueDeclare(), self.recorder.handle("declare"))
        one.publish("x", "k", b"", b"\0\0", False, self.recorder.handle("message"))
        self.machine.update_secret(b"", "", self.recorder.handle("secret"))
        self.recorder.begin_channel()
        self.recorder.forget()

    everyone = [
        ("secret", "errback"),
        ("declare", "errback"),
        ("message", "errback"),
        ("tag", "ended"),
        (1, "closed"),
        (2, "closed"),
        ("open", "errback"),
        (3, "closed"),
    ]

    def test_by_us(self) -> None:
        """
        When we close, all who wait are told at once; what still comes is discarded,
        until the peer agrees.
        """
        self.wait_for_everything()
        reason = ConnectionClosed("bye", reply_code=200, by_us=True)
        self.machine.close(reason)
        self.assertEqual(self.recorder.sent(), [(0, spec.ConnectionClose(200, "bye"))])
        self.assertTrue(
            all(event[-1] is reason for event in self.recorder.events),
            self.recorder.events,
        )
        self.assertEqual(self.recorder.kinds(), self.everyone)
        self.assertIs(self.machine.state, State.CLOSING)
        late = (
            content(1, spec.BasicDeliver("tag", 1), b"late")
            + frames(0, spec.ConnectionBlocked("x"), spec.ConnectionUpdateSecretOk())
            + frames(9, spec.ChannelClose(404, ""))
            + HEARTBEAT
        )
        self.recorder.receive(late, *octets(late))
        self.assertEqual(self.recorder.take(), [])
        self.recorder.say(0, spec.ConnectionCloseOk())
        self.assertEqual(self.recorder.take(), [("connection", "closed", None)])
        self.assertIs(self.machine.state, State.CLOSED)
        self.assertEqual(bytes(self.recorder.written), b"")

    def test_by_the_peer(self) -> None:
        """
        When the broker closes, it is agreed with, and all who wait are told the
        reason: code, text, class and method.
        """
        self.wait_for_everything()
        self.recorder.say(0, spec.ConnectionClose(320, "CONNECTION_FORCED", 0, 0))
        self.assertEqual(self.recorder.sent(), [(0, spec.ConnectionCloseOk())])
        reason = self.recorder.events[0][-1]
        self.assertIsInstance(reason, ConnectionForced)
        self.assertTrue(all(event[-1] is reason for event in self.recorder.events))
        self.assertEqual(
            self.recorder.kinds(), [("connection", "closed"), *self.everyone]
        )

    def test_crossing(self) -> None:
        """
        When both close at once, the broker is agreed with, and its reason told.
        """
        self.machine.close(ConnectionClosed("bye", reply_code=200, by_us=True))
        self.recorder.forget()
        self.recorder.say(0, spec.ConnectionClose(320, "going down"))
        self.assertEqual(self.recorder.sent(), [(0, spec.ConnectionCloseOk())])
        ((_, what, reason),) = self.recorder.events
        self.assertEqual((what, type(reason)), ("closed", ConnectionForced))
        self.recorder.forget()
        self.recorder.say(0, spec.ConnectionCloseOk())
        self.assertEqual(self.recorder.take(), [])

    def test_in_every_state(self) -> None:
        """
        The broker may close in every state from the start on; before it, that is an
        error.
        """

        def challenged(recorder: Recorder) -> None:
            recorder.start()
            recorder.say(0, spec.ConnectionSecure(b""))

        def opening(recorder: Recorder) -> None:
            recorder.start()
            recorder.say(0, TUNE)

        def started(recorder: Recorder) -> None:
            recorder.machine.begin()
            recorder.say(0, spec.ConnectionStart())

        def closing(recorder: Recorder) -> None:
            recorder.open()
            recorder.machine.close(ConnectionClosed("bye", by_us=True))

        for prepare, state in (
            (started, State.STARTED),
            (Recorder.start, State.AUTHENTICATING),
            (challenged, State.CHALLENGED),
            (opening, State.OPENING),
            (Recorder.open, State.OPEN),
            (closing, State.CLOSING),
        ):
            recorder = Recorder()
            prepare(recorder)
            self.assertIs(recorder.machine.state, state)
            recorder.forget()
            recorder.say(0, spec.ConnectionClose(541, "INTERNAL_ERROR"))
            self.assertEqual(recorder.kinds(), [("connection", "closed")])
            self.assertEqual(recorder.sent(), [(0, spec.ConnectionCloseOk())])
        recorder = Recorder()
        recorder.machine.begin()
        self.assertRaises(CommandInvalid, recorder.say, 0, spec.ConnectionClose())

    def test_silence_afterwards(self) -> None:
        """
        When it is over nothing that comes is read, judged or kept, and nothing can
        be sent.
        """
        self.recorder.say(0, spec.ConnectionClose(320, ""))
        self.recorder.forget()
        for _ in range(3):
            self.recorder.receive(b"\xff" * 1000, frames(0, spec.ConnectionBlocked()))
        self.machine.resume()
        self.recorder.receive(b"")
        self.assertEqual(sum(map(len, self.machine._reader._pieces)), 0)
        self.assertEqual(self.recorder.take(), [])
        for refused in (
            self.recorder.begin_channel,
            lambda: self.machine.close(ConnectionClosed("again")),
            lambda: self.machine.update_secret(b"", "", self.recorder.handle()),
        ):
            self.assertRaises(LocalProtocolError, refused)
        self.assertEqual(bytes(self.recorder.written), b"")

    def test_nothing_behind_the_close(self) -> None:
        """
        Criterion 10: what comes in one piece behind the broker's close is not read.
        """
        self.recorder.receive(
            frames(0, spec.ConnectionClose(320, ""), spec.ConnectionBlocked())
            + b"\xff" * 100
        )
        self.assertEqual(self.recorder.kinds(), [("connection", "closed")])

    def test_long_texts(self) -> None:
        """
        Our reasons are cut to what a close has room for, between two letters.
        """
        text = "\N{SNOWMAN}" * 200
        self.machine.close(ConnectionClosed(text, reply_code=200, by_us=True))
        self.assertEqual(
            self.recorder.sent(),
            [(0, spec.ConnectionClose(200, "\N{SNOWMAN}" * 85))],
        )

    def test_violated(self) -> None:
        """
        The peer is told what it did wrong: code, text, class and method; and is
        listened to no more.
        """
        error = self.assertRaises(
            DecodeError, self.recorder.receive, b"\1\0\0\0\0\0\4\0\x0a\0\x3c\xce"
        )
        self.machine.violated(error)
        self.assertEqual(
            self.recorder.sent(),
            [(0, spec.ConnectionClose(502, error.reply_text[:255], 10, 60))],
        )
        self.recorder.say(0, spec.ConnectionBlocked())
        self.assertEqual(self.recorder.take(), [])
        self.machine.violated(error)
        self.assertEqual(self.recorder.sent(), [])

    def test_violated_with_odd_texts(self) -> None:
        """
        A text that cannot be sent as it is, is sent as far as it can.
        """
        self.machine.violated(FrameError("\udcff" + "x" * 300))
        self.assertEqual(
            self.recorder.sent(), [(0, spec.ConnectionClose(501, "?" + "x" * 254))]
        )

    def test_violated_when_nothing_can_be_said(self) -> None:
        """
        A peer that has not introduced itself, or has our close already, is told
        nothing.
        """
        error = FrameError("what?")
        greeted = Recorder()
        greeted.machine.begin()
        closing = Recorder().open()
        closing.machine.close(ConnectionClosed("bye", by_us=True))
        for recorder in (Recorder(), greeted, closing):
            recorder.forget()
            recorder.machine.violated(error)
            self.assertEqual(bytes(recorder.written), b"")
            self.assertIs(recorder.machine.state, State.CLOSED)

    def test_lost(self) -> None:
        """
        When the transport goes, all who wait are told why, and the rest is silence.
        """
        self.wait_for_everything()
        reason = ConnectionLost("reset")
        self.machine.lost(reason)
        self.assertTrue(all(event[-1] is reason for event in self.recorder.events))
        self.assertEqual(self.recorder.kinds(), self.everyone)
        self.machine.lost(ConnectionLost("again"))
        self.assertEqual(self.recorder.take(), [])
        self.assertEqual(bytes(self.recorder.written), b"")

    def test_garbage_while_closing(self) -> None:
        """
        While we close, what cannot be a frame is still an error; what cannot be said
        now is not.
        """
        self.machine.close(ConnectionClosed("bye", by_us=True))
        self.recorder.say(0, spec.ConnectionStart(), spec.ConnectionOpenOk())
        self.recorder.say(77, spec.BasicAck(1))
        self.assertRaises(FrameError, self.recorder.receive, b"\xff" * 8)


class ReentrancyTests(SynchronousTestCase):
    """
    Tests for a sink that calls the machine from inside.
    """

    def provoke(self, what: str, hook: Callable[[Recorder], object]) -> Recorder:
        """
        Bring an event of the connection about, and do something from inside it.
        """
        recorder = Recorder()
        machine = recorder.machine
        recorder.hooks["connection", what] = lambda: hook(recorder)
        machine.begin()
        recorder.say(0, spec.ConnectionStart())
        if machine.state is State.STARTED:
            machine.start_ok({}, "PLAIN", b"", "en_US", "/")
        recorder.say(0, spec.ConnectionSecure(b"?"))
        if machine.state is State.CHALLENGED:
            machine.secure_ok(b"")
        for method in (
            TUNE,
            spec.ConnectionOpenOk(),
            spec.ConnectionBlocked(""),
            spec.ConnectionUnblocked(),
            spec.ConnectionClose(320, ""),
        ):
            recorder.say(0, method)
        self.assertEqual(recorder.hooks, {}, f"{what} did not come")
        return recorder

    everything = (
        "started",
        "challenged",
        "opened",
        "blocked_by",
        "unblocked",
        "closed",
    )

    def test_close(self) -> None:
        """
        Every sink method may close the connection; the end is told once.
        """

        def close(recorder: Recorder) -> None:
            try:
                recorder.machine.close(ConnectionClosed("bye", by_us=True))
            except LocalProtocolError:
                self.assertIs(recorder.machine.state, State.CLOSED)

        for what in self.everything:
            recorder = self.provoke(what, close)
            kinds = recorder.kinds()
            self.assertEqual(kinds.count(("connection", "closed")), 1, what)
            self.assertEqual(kinds[-1], ("connection", "closed"))

    def test_lost(self) -> None:
        """
        Every sink method may find that the transport has gone: it is the last one
        that is called.
        """
        for what in self.everything:
            recorder = self.provoke(
                what, lambda recorder: recorder.machine.lost(ConnectionLost("gone"))
            )
            self.assertEqual(recorder.kinds()[-1], ("connection", what))

    def test_violated(self) -> None:
        """
        Every sink method may find that the peer has broken the rules.
        """
        for what in self.everything:
            recorder = self.provoke(
                what, lambda recorder: recorder.machine.violated(FrameError("no"))
            )
            self.assertEqual(recorder.kinds()[-1], ("connection", what))

    def test_open_and_publish(self) -> None:
        """
        Every sink method may open a channel and publish on it, while the connection
        is open; else it is refused.
        """
        done: list[str] = []

        def publish(recorder: Recorder) -> None:
            try:
                channel = recorder.begin_channel()
                channel.publish("x", "k", b"", b"\0\0", False, recorder.handle())
            except AMQPError:
                self.assertIsNot(recorder.machine.state, State.OPEN)
            else:
                done.append(what)

        for what in self.everything:
            recorder = self.provoke(what, publish)
            told = recorder.kinds()
            self.assertEqual(told.count(("open", "errback")), done.count(what), what)
        self.assertEqual(done, ["opened", "blocked_by", "unblocked"])

    def test_from_inside_a_failure(self) -> None:
        """
        Whoever is told of the end may call again, and is refused.
        """
        recorder = Recorder().open()
        channel = recorder.open_channel()
        other = recorder.open_channel()
        refused: list[AMQPError] = []

        def act() -> None:
            for again in (
                lambda: other.call(spec.QueueDeclare(), recorder.handle("late")),
                recorder.begin_channel,
                lambda: recorder.machine.close(ConnectionClosed("again")),
            ):
                try:
                    again()
                except AMQPError as error:
                    refused.append(error)

        channel.call(spec.QueueDeclare(), recorder.handle("declare"))
        recorder.hooks["declare", "errback"] = act
        recorder.machine.lost(ConnectionLost("gone"))
        late = [event for event in recorder.events if event[0] == "late"]
        self.assertEqual(len(late) + len(refused), 3)
