# -*- test-case-name: txamqp091.test.promises.test_texts -*-
"""
What nobody's terminal gets to interpret: the broker's texts (criterion 29).
"""

from __future__ import annotations

from traceback import format_exception
from typing import Any

from twisted.logger import formatEvent

from txamqp091.credentials import PlainCredentials
from txamqp091.test.promises.test_secrets import PASSWORD, CanaryTestCase
from txamqp091.wire import spec

NASTY = "line\nline\r\x1b[31mred\x07\u2028\x85 \N{RIGHT-TO-LEFT OVERRIDE}"


class TextTests(CanaryTestCase):
    """
    The broker's texts, on a terminal or in a log (criterion 29).
    """

    def assertTame(self, text: str) -> None:
        """
        One line, and nothing in it that a terminal would act on.
        """
        self.assertTrue(text.isprintable(), repr(text))
        self.assertLess(len(text), 2000)

    def check_tame(self) -> None:
        """
        All that was said is tame.
        """
        self.assertTrue(self.failures)
        for failure in self.failures:
            self.assertTame(str(failure.value))
            self.assertTame(repr(failure.value))
            for line in format_exception(failure.value):
                self.assertNotIn("\x1b", line)
        for event in self.events:
            self.assertTame(str(formatEvent(event)))

    def test_close(self) -> None:
        """
        Reasons for closing a connection, and a channel.
        """
        for text in (NASTY, "x" * 255, "\x1b" * 255, "\udcff\udcfe"):
            peer = self.meet(PlainCredentials("me", PASSWORD))
            peer.handshake()
            channel = peer.open_channel()
            self.watch(channel.queue_declare("work"))
            peer.send(1, spec.ChannelClose(404, text, 50, 10))
            peer.send(0, spec.ConnectionClose(320, text, 50, 10))
            peer.turn()
            self.assertEqual(len(self.failures), 2)
            error: Any = self.failures[0].value
            self.assertEqual(error.reply_text, text)  # as it came, for programs
            self.check_tame()
            self.failures.clear()

    def test_handshake(self) -> None:
        """
        What comes before anybody knows who the peer is.
        """
        for act in (
            lambda peer: peer.start(NASTY.encode()),
            lambda peer: peer.feed(NASTY.encode()),
            lambda peer: peer.start(server_properties={NASTY: NASTY}),
            lambda peer: peer.start(version_minor=27),
        ):
            peer = self.meet(PlainCredentials("me", PASSWORD))
            act(peer)
            peer.drop()
            self.assertEqual(len(self.failures), 2)
            self.check_tame()
            self.failures.clear()

    def test_messages(self) -> None:
        """
        Names and texts that come with messages.
        """
        peer = self.meet(PlainCredentials("me", PASSWORD))
        peer.handshake()
        channel = peer.open_channel()
        self.watch(channel.confirm_select())
        consuming = channel.basic_consume(NASTY, lambda _: None, consumer_tag=NASTY)
        self.watch(channel.basic_publish("", NASTY, b"", mandatory=True))
        peer.serve()
        self.watch(self.successResultOf(consuming).when_ended())
        back = spec.BasicReturn(312, NASTY, "", NASTY)
        peer.feed(peer.content(1, back))
        peer.send(1, spec.BasicAck(1), spec.BasicCancel(NASTY, True))
        peer.send(0, spec.ConnectionBlocked(NASTY), spec.ConnectionUnblocked())
        peer.send(1, spec.BasicCancelOk(NASTY))
        peer.deliver(1, NASTY, 1)  # for nobody
        peer.turn()
        self.assertEqual(len(self.failures), 3)
        self.check_tame()
