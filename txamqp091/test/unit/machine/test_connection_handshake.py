# -*- test-case-name: txamqp091.test.unit.machine.test_connection_handshake -*-
"""
Tests for `txamqp091._machine.connection`: the handshake and the limits.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.connection import Limits, negotiate
from txamqp091._machine.states import State
from txamqp091.errors import (
    AuthenticationFailed,
    CommandInvalid,
    ConnectionClosed,
    DecodeError,
    EncodeError,
    FrameError,
    InternalError,
    LocalProtocolError,
    ProtocolVersionMismatch,
    VhostAccessRefused,
)
from txamqp091.test.support.recording import Recorder, content, frames, octets
from txamqp091.wire import spec

TUNE = spec.ConnectionTune(2047, 131072, 60)


class HandshakeTests(SynchronousTestCase):
    """
    Tests for everything before the connection is open.
    """

    def setUp(self) -> None:
        self.recorder = Recorder()
        self.machine = self.recorder.machine

    def test_conversation(self) -> None:
        """
        The handshake goes through its steps, with one challenge, and each side says
        its lines.
        """
        recorder, machine = self.recorder, self.machine
        self.assertIs(machine.state, State.NEW)
        machine.begin()
        self.assertEqual(bytes(recorder.written), spec.PROTOCOL_HEADER)
        recorder.forget()
        start = spec.ConnectionStart(0, 9, {"product": "test"}, b"PLAIN", b"en_US")
        recorder.say(0, start)
        self.assertEqual(recorder.take(), [("connection", "started", start)])
        self.assertIs(machine.state, State.STARTED)
        machine.start_ok({"a": 1}, "PLAIN", b"\0u\0p", "en_US", "vhost")
        recorder.say(0, spec.ConnectionSecure(b"why?"))
        self.assertEqual(recorder.take(), [("connection", "challenged", b"why?")])
        self.assertIs(machine.state, State.CHALLENGED)
        machine.secure_ok(b"because")
        self.assertIs(machine.state, State.AUTHENTICATING)
        recorder.say(0, spec.ConnectionTune(100, 8192, 30))
        self.assertIs(machine.state, State.OPENING)
        self.assertEqual(
            recorder.sent(),
            [
                (0, spec.ConnectionStartOk({"a": 1}, "PLAIN", b"\0u\0p", "en_US")),
                (0, spec.ConnectionSecureOk(b"because")),
                (0, spec.ConnectionTuneOk(100, 8192, 30)),
                (0, spec.ConnectionOpen("vhost")),
            ],
        )
        self.assertEqual(recorder.take(), [])
        recorder.say(0, spec.ConnectionOpenOk())
        self.assertEqual(recorder.take(), [("connection", "opened")])
        self.assertIs(machine.state, State.OPEN)

    def test_answers_from_inside(self) -> None:
        """
        The sink may answer from inside the call that asks.
        """
        recorder = self.recorder
        recorder.hooks["connection", "started"] = lambda: self.machine.start_ok(
            {}, "PLAIN", b"", "en_US", "/"
        )
        recorder.hooks["connection", "challenged"] = lambda: self.machine.secure_ok(b"")
        self.machine.begin()
        recorder.receive(
            *octets(
                frames(
                    0,
                    spec.ConnectionStart(),
                    spec.ConnectionSecure(b"?"),
                    TUNE,
                    spec.ConnectionOpenOk(),
                )
            )
        )
        self.assertIs(self.machine.state, State.OPEN)

    def test_versions(self) -> None:
        """
        A peer of another version is refused: by its protocol header, and by its
        start.
        """
        for data, version in (
            (b"AMQP\0\1\0\0", "1.0.0"),
            (b"AMQP\1\1\0\x0a", "1.0.10"),
            (frames(0, spec.ConnectionStart(8, 0)), "8.0"),
            (frames(0, spec.ConnectionStart(0, 10)), "0.10"),
        ):
            self.setUp()
            self.machine.begin()
            error = self.assertRaises(
                ProtocolVersionMismatch, self.recorder.receive, data
            )
            self.assertIn(f"version {version}", error.reply_text)

    def test_order(self) -> None:
        """
        Criterion 4: a second start or tune, and an open-ok before tune, are errors.
        """

        def start_and_tune(recorder: Recorder) -> None:
            recorder.start()
            recorder.say(0, TUNE)

        again = [spec.ConnectionStart(), TUNE, spec.ConnectionOpenOk()]
        early: list[Callable[[Recorder], object]] = [
            lambda _: None,
            lambda recorder: recorder.machine.begin(),
            lambda recorder: recorder.start(),
            start_and_tune,
            lambda recorder: recorder.open(),
        ]
        due = [None, again[0], again[1], again[2], None]
        for prepare, allowed in zip(early, due, strict=True):
            for method in again:
                if method is allowed:
                    continue
                recorder = Recorder()
                prepare(recorder)
                error = self.assertRaises(CommandInvalid, recorder.say, 0, method)
                self.assertEqual(error.reply_code, 503)

    def test_before_it_is_due(self) -> None:
        """
        We cannot speak out of turn either: nothing is sent, nothing changes.
        """
        machine = self.machine
        machine.begin()
        self.recorder.forget()
        for early in (
            lambda: machine.start_ok({}, "PLAIN", b"", "en_US", "/"),
            lambda: machine.secure_ok(b""),
            lambda: machine.update_secret(b"", "", self.recorder.handle()),
            lambda: self.recorder.begin_channel(),
        ):
            self.assertRaises(LocalProtocolError, early)
            self.assertEqual(bytes(self.recorder.written), b"")
            self.assertIs(machine.state, State.GREETED)

    def test_what_does_not_fit(self) -> None:
        """
        Client properties that cannot be encoded raise, and the handshake stands
        where it stood.
        """
        self.machine.begin()
        self.recorder.say(0, spec.ConnectionStart())
        arguments = ("PLAIN", b"", "en_US", "/")
        self.assertRaises(
            EncodeError, self.machine.start_ok, {"nan": float("nan")}, *arguments
        )
        self.assertIs(self.machine.state, State.STARTED)
        self.machine.start_ok({}, *arguments)

    def test_refused(self) -> None:
        """
        A broker that closes during the handshake is agreed with, and its reason is
        told with the class for it.
        """
        for code, method, kind in (
            (403, (10, 11), AuthenticationFailed),
            (530, (10, 40), VhostAccessRefused),
            (541, (0, 0), InternalError),
            (200, (0, 0), ConnectionClosed),
        ):
            recorder = Recorder()
            recorder.start()
            recorder.say(0, TUNE)
            recorder.forget()
            recorder.say(0, spec.ConnectionClose(code, "no", *method))
            self.assertEqual(recorder.sent(), [(0, spec.ConnectionCloseOk())])
            ((_, what, reason),) = recorder.events
            self.assertEqual((what, type(reason)), ("closed", kind))
            self.assertEqual((reason.reply_code, reason.reply_text), (code, "no"))
            self.assertIs(recorder.machine.state, State.CLOSED)


class TuneTests(SynchronousTestCase):
    """
    Tests for the limits that both sides settle on.
    """

    def tune(
        self, channel_max: int, frame_max: int, heartbeat: int, ours: Limits
    ) -> Limits:
        """
        What comes of the broker's proposal and our own limits.
        """
        recorder = Recorder(ours)
        recorder.open(spec.ConnectionTune(channel_max, frame_max, heartbeat))
        return recorder.machine.limits

    def test_negotiate(self) -> None:
        """
        The lower limit counts, and 0 is none.
        """
        for ours, theirs, agreed in ((1, 2, 1), (2, 1, 1), (0, 5, 5), (5, 0, 5)):
            self.assertEqual(negotiate(ours, theirs), agreed)
        self.assertEqual(negotiate(0, 0), 0)

    def test_lower_counts(self) -> None:
        """
        Of both sides' limits the lower counts, each for itself; the limit for bodies
        is ours alone.
        """
        ours = Limits(131072, 2047, 60, 1000)
        self.assertEqual(
            self.tune(100, 1 << 20, 10, ours), Limits(131072, 100, 10, 1000)
        )
        self.assertEqual(
            self.tune(65535, 8192, 600, ours), Limits(8192, 2047, 60, 1000)
        )

    def test_zero_is_our_limit(self) -> None:
        """
        Criterion 4: a broker without limits gets ours.
        """
        ours = Limits(131072, 2047, 60)
        self.assertEqual(self.tune(0, 0, 0, ours), ours)

    def test_no_limit_on_either_side(self) -> None:
        """
        If neither side has limits, channels are limited by their numbers, and frames
        by what we take by default; there are no heartbeats.
        """
        agreed = self.tune(0, 0, 0, Limits(0, 0, 0))
        self.assertEqual(agreed, Limits(131072, 65535, 0))

    def test_too_small(self) -> None:
        """
        Criterion 4: a frame_max of 1 to 4095 is refused, 502; 4096 is not.
        """
        for size in (1, 7, 8, 4095):
            recorder = Recorder()
            recorder.start()
            recorder.forget()
            error = self.assertRaises(
                DecodeError, recorder.say, 0, spec.ConnectionTune(0, size, 0)
            )
            self.assertIn(f"a frame_max of {size}, below 4096", error.reply_text)
            self.assertEqual((error.class_id, error.method_id), (10, 30))
            self.assertEqual(recorder.sent(), [])
        self.assertEqual(self.tune(0, 4096, 0, Limits()).frame_max, 4096)

    def test_nothing_is_allocated(self) -> None:
        """
        Criterion 4: limits of 2^32 - 1 allocate nothing, even if we have none.
        """
        tracemalloc.start()
        try:
            agreed = self.tune(65535, 2**32 - 1, 65535, Limits(0, 0, 0))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertEqual(agreed, Limits(2**32 - 1, 65535, 0))
        self.assertLess(peak, 1 << 20)

    def test_limit_of_frames(self) -> None:
        """
        Criterion 3: before tune a frame may have 4096 octets, and after it as many
        as were agreed.
        """
        big = spec.ConnectionStart(0, 9, {"x": b"y" * 5000})
        recorder = Recorder()
        recorder.machine.begin()
        error = self.assertRaises(FrameError, recorder.say, 0, big)
        self.assertIn("over the 4096", error.reply_text)
        for limit in (8192, 131072):
            recorder = Recorder().open(spec.ConnectionTune(0, limit, 0))
            head = b"\3\0\1" + (limit - 7).to_bytes(4, "big")
            error = self.assertRaises(FrameError, recorder.receive, head)
            self.assertIn(f"over the {limit}", error.reply_text)

    def test_frames_that_we_send(self) -> None:
        """
        Bodies are split by what was agreed.
        """
        recorder = Recorder().open(spec.ConnectionTune(0, 8192, 0))
        channel = recorder.open_channel()
        channel.publish("x", "k", bytes(20_000), b"\0\0", False, recorder.handle())
        self.assertEqual(
            bytes(recorder.written),
            content(1, spec.BasicPublish(0, "x", "k"), bytes(20_000), b"\0\0", 8184),
        )
