# -*- test-case-name: txamqp091.test.unit.machine.test_connection -*-
"""
Tests for `txamqp091._machine.connection`: channel 0 and the numbers of channels.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import (
    ChannelClosed,
    ChannelError,
    ChannelsExhausted,
    CommandInvalid,
    UnexpectedFrame,
)
from txamqp091.test.support.recording import Recorder, octets
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT


class OpenTests(SynchronousTestCase):
    """
    Tests for a connection that is open.
    """

    def setUp(self) -> None:
        self.recorder = Recorder().open()
        self.machine = self.recorder.machine

    def test_blocked(self) -> None:
        """
        The broker blocks publishing, and lets it go on.
        """
        self.recorder.say(
            0, spec.ConnectionBlocked("low on memory"), spec.ConnectionUnblocked()
        )
        self.assertEqual(
            self.recorder.take(),
            [
                ("connection", "blocked_by", "low on memory"),
                ("connection", "unblocked"),
            ],
        )

    def test_update_secret(self) -> None:
        """
        New secrets are sent without waiting, and answered in order.
        """
        for name in ("one", "two"):
            self.machine.update_secret(b"s", name, self.recorder.handle(name))
        self.assertEqual(
            self.recorder.sent(),
            [(0, spec.ConnectionUpdateSecret(b"s", name)) for name in ("one", "two")],
        )
        ok = spec.ConnectionUpdateSecretOk()
        self.recorder.say(0, ok, ok)
        self.assertEqual(
            self.recorder.take(), [("one", "callback", ok), ("two", "callback", ok)]
        )
        error = self.assertRaises(CommandInvalid, self.recorder.say, 0, ok)
        self.assertIn("nobody asked", error.reply_text)

    def test_heartbeats(self) -> None:
        """
        Heartbeats are sent when asked for, and those that come call nobody.
        """
        self.machine.heartbeat()
        self.assertEqual(bytes(self.recorder.written), HEARTBEAT)
        self.recorder.receive(*octets(HEARTBEAT * 3))
        self.assertEqual(self.recorder.take(), [])

    def test_channel_zero_is_for_methods(self) -> None:
        """
        Content on channel 0 is an error, 505, and a channel's method there is one,
        503.
        """
        for kind in (2, 3):
            self.setUp()
            data = bytes([kind]) + b"\0\0\0\0\0\1x\xce"
            error = self.assertRaises(UnexpectedFrame, self.recorder.receive, data)
            self.assertEqual(error.reply_code, 505)
            self.assertIn("on channel 0", error.reply_text)
        for method in (spec.QueueDeclareOk(), spec.BasicDeliver(), spec.ChannelClose()):
            self.setUp()
            error = self.assertRaises(CommandInvalid, self.recorder.say, 0, method)
            self.assertIn(method.name, error.reply_text)

    def test_unopened_channels(self) -> None:
        """
        Frames for a channel that was not opened are errors, 504.
        """
        for number in (1, 2047, 65535):
            self.setUp()
            error = self.assertRaises(
                ChannelError, self.recorder.say, number, spec.ChannelOpenOk()
            )
            self.assertIn(f"channel {number}, which is not open", error.reply_text)

    def test_pause(self) -> None:
        """
        A paused machine calls nobody, and goes on where it was.
        """
        self.recorder.hooks["connection", "blocked_by"] = self.machine.pause
        self.recorder.say(0, spec.ConnectionBlocked("a"), spec.ConnectionUnblocked())
        self.recorder.receive(b"", HEARTBEAT)
        self.assertEqual(self.recorder.kinds(), [("connection", "blocked_by")])
        self.machine.resume()
        self.recorder.receive(b"")
        self.assertEqual(self.recorder.kinds(), [("connection", "unblocked")])


class NumberTests(SynchronousTestCase):
    """
    Tests for the numbers of channels.
    """

    def setUp(self) -> None:
        self.recorder = Recorder().open(spec.ConnectionTune(3, 0, 0))
        self.machine = self.recorder.machine

    def end(self, number: int) -> None:
        """
        Have the broker close a channel.
        """
        self.recorder.say(number, spec.ChannelClose(404, ""))

    def test_in_turn(self) -> None:
        """
        Each number is given out once before any is used again; then the one that has
        rested for longest is.
        """
        numbers = [self.recorder.open_channel().number for _ in range(3)]
        self.assertEqual(numbers, [1, 2, 3])
        self.end(2)
        self.assertEqual(self.recorder.open_channel().number, 2)
        self.end(3)
        self.end(1)
        self.assertEqual(self.recorder.open_channel().number, 3)
        self.assertEqual(self.recorder.open_channel().number, 1)

    def test_exhausted(self) -> None:
        """
        When all numbers are taken there is an error that says what to do, and no
        harm is done.
        """
        for _ in range(3):
            self.recorder.open_channel()
        error = self.assertRaises(ChannelsExhausted, self.recorder.begin_channel)
        self.assertIn("all 3 channels", str(error))
        self.assertTrue(error.retriable)
        self.assertEqual(bytes(self.recorder.written), b"")
        self.end(2)
        self.assertEqual(self.recorder.open_channel().number, 2)

    def test_closing_ones_count(self) -> None:
        """
        A number is free once the broker has agreed that its channel is closed.
        """
        channels = [self.recorder.open_channel() for _ in range(3)]
        channels[0].close(200, "", self.recorder.handle())
        self.assertRaises(ChannelsExhausted, self.recorder.begin_channel)
        self.recorder.say(1, spec.ChannelCloseOk())
        self.assertEqual(self.recorder.open_channel().number, 1)

    def test_no_growth(self) -> None:
        """
        Channels that come and go leave nothing behind.
        """
        for _ in range(1000):
            channel = self.recorder.open_channel()
            channel.close(200, "", self.recorder.handle())
            self.recorder.say(channel.number, spec.ChannelCloseOk())
        self.assertEqual(self.machine._channels, {})
        self.assertEqual(list(self.machine._routes), [0])

    def test_refused_opening(self) -> None:
        """
        A channel that the broker closes at once does not keep its number.
        """
        for _ in range(10):
            channel = self.recorder.begin_channel()
            self.end(channel.number)
            self.assertIsInstance(channel.reason, ChannelClosed)
