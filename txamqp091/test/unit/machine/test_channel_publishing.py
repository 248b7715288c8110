# -*- test-case-name: txamqp091.test.unit.machine.test_channel_publishing -*-
"""
Tests for `txamqp091._machine.channel`: messages that go, their confirms and returns.
"""

from __future__ import annotations

from struct import pack

from hypothesis import given
from hypothesis import strategies as st

from txamqp091._machine.connection import Limits
from txamqp091.errors import (
    CommandInvalid,
    DecodeError,
    EncodeError,
    Returned,
)
from txamqp091.test.support.recording import (
    ChannelCase,
    content,
    frames,
)
from txamqp091.wire import spec


class PublishTests(ChannelCase):
    """
    Tests for publishing, confirms and returns.
    """

    limits = Limits(max_body=1000)
    confirms = True

    def test_frames(self) -> None:
        """
        A message is the frames of its method, header and body, of the size that was
        agreed.
        """
        for size in (0, 1, 131_064, 131_065):
            self.publish(bytes(size))
            self.assertEqual(
                bytes(self.recorder.written),
                content(
                    1,
                    spec.BasicPublish(0, "x", "key"),
                    bytes(size),
                    b"\0\0",
                    131_064,
                ),
            )
            self.recorder.forget()

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["", "x", "y"]),
                st.sampled_from(["k", "l", "kl"]),
                st.sampled_from([b"", b"b", b"body", bytes(131_065)]),
                st.sampled_from([b"\0\0", b"\x80\0\1x", b"\x80\0\1y", bytes(131_060)]),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    def test_any_order(
        self, messages: list[tuple[str, str, bytes, bytes, bool]]
    ) -> None:
        """
        What was published before, or was refused, changes nothing in the frames.
        """
        for exchange, key, body, properties, mandatory in messages:
            arguments = (exchange, key, body, properties, mandatory)
            handle = self.recorder.handle()
            self.recorder.forget()
            if len(properties) > 1000:
                with self.assertRaises(EncodeError):
                    self.channel.publish(*arguments, handle)
                self.assertEqual(bytes(self.recorder.written), b"")
                continue
            self.channel.publish(*arguments, handle)
            method = spec.BasicPublish(0, exchange, key, mandatory)
            self.assertEqual(
                bytes(self.recorder.written),
                content(1, method, body, properties, 131_064),
            )

    def test_routes_are_remembered(self) -> None:
        """
        Encoded methods are kept for the next message, and not without limit.
        """
        for round_ in range(2):
            for place in range(1500):
                self.channel.publish(
                    "x", f"key {place}", b"", b"\0\0", True, self.recorder.handle()
                )
                self.assertEqual(
                    self.recorder.sent(),
                    [(1, spec.BasicPublish(0, "x", f"key {place}", True))],
                    round_,
                )
        self.assertLessEqual(len(self.channel._routes), 1024)

    def test_what_does_not_fit(self) -> None:
        """
        A message that cannot be sent is refused, not counted, and nothing of it is
        sent.
        """
        handle = self.recorder.handle()
        huge = b"\x20\0" + bytes(131_060)
        for arguments in (("x" * 256, "k", b"", b"\0\0"), ("x", "k", b"", huge)):
            self.assertRaises(
                EncodeError, self.channel.publish, *arguments, True, handle
            )
        self.assertEqual(bytes(self.recorder.written), b"")
        assert self.channel.confirms is not None
        self.assertEqual(self.channel.confirms.published, 0)
        self.channel.publish("x", "k", b"", huge[:131_052], False, handle)
        self.assertEqual(self.channel.confirms.published, 1)

    def test_confirms(self) -> None:
        """
        Acks and nacks go to the messages that they are for; the sink is told once
        for each frame.
        """
        handles = [self.publish(name=name) for name in range(10, 15)]
        self.recorder.forget()
        self.say(spec.BasicAck(2), spec.BasicNack(3), spec.BasicAck(5, True))
        self.assertEqual(
            self.recorder.kinds(),
            [
                (11, "callback"),
                (1, "confirmed"),
                (12, "errback"),
                (1, "confirmed"),
                (10, "callback"),
                (13, "callback"),
                (14, "callback"),
                (1, "confirmed"),
            ],
        )
        self.assertTrue(all(len(handle.results) == 1 for handle in handles))

    def test_before_select_ok(self) -> None:
        """
        Messages that follow a select without waiting for its answer are counted; to
        select again keeps the count.
        """
        channel = self.recorder.begin_channel()
        channel.select_confirms(self.recorder.handle("select"))
        handles = [self.recorder.handle() for _ in range(2)]
        channel.publish("x", "key", b"", b"\0\0", False, handles[0])
        channel.select_confirms(self.recorder.handle("again"))
        channel.publish("x", "key", b"", b"\0\0", False, handles[1])
        self.recorder.say(
            2,
            spec.ChannelOpenOk(),
            spec.ConfirmSelectOk(),
            spec.ConfirmSelectOk(),
            spec.BasicAck(2, True),
        )
        self.assertEqual([each.results for each in handles], [[None], [None]])

    def test_unsolicited(self) -> None:
        """
        A confirm without confirm mode, or for a message that was not published, is
        an error, 503.
        """
        for method in (spec.BasicAck(1), spec.BasicNack(0, True)):
            self.setUp()
            self.refused(CommandInvalid, frames(1, method), 503, "a confirm for")
            self.setUp()
            self.recorder.open_channel()
            self.refused(CommandInvalid, frames(2, method), 503, "not in confirm mode")

    def test_malformed_confirms(self) -> None:
        """
        A confirm that is cut or too long is an error, 502.
        """
        whole = spec.BasicAck(1).encode()
        self.publish()
        for payload in (whole[:-1], whole[:4], whole + b"\0"):
            self.refused(DecodeError, frame(1, payload), 502, "basic.ack")

    def test_returns(self) -> None:
        """
        A mandatory message that comes back ends as returned, when its confirm
        comes, with what the sink made of it.
        """
        handle = self.publish(mandatory=True)
        method = spec.BasicReturn(312, "NO_ROUTE", "x", "key")
        self.recorder.forget()
        self.recorder.receive(content(1, method, b"body"))
        header = pack(">HHQ", 60, 0, 4) + b"\0\0"
        self.assertEqual(
            self.recorder.take(), [(1, "returned", method, header, b"body")]
        )
        self.say(spec.BasicAck(1))
        (error,) = handle.results
        assert isinstance(error, Returned)
        self.assertEqual(error.message, (method, b"body"))

    def test_returns_over_the_limit(self) -> None:
        """
        A message larger than the largest that we take still comes back to whoever
        published it; a larger one than that is dropped.
        """
        body = bytes(5000)
        method = spec.BasicReturn(312, "NO_ROUTE", "x", "key")
        handle = self.publish(body, mandatory=True)
        self.recorder.forget()
        self.recorder.receive(content(1, method, bytes(5001)))
        self.assertEqual(self.recorder.take(), [])
        self.recorder.receive(content(1, method, body))
        self.say(spec.BasicAck(1))
        self.assertEqual([type(each) for each in handle.results], [Returned])

    def test_returns_without_confirms(self) -> None:
        """
        Without confirms the sink is told all the same.
        """
        self.recorder.open_channel()
        method = spec.BasicReturn(312, "NO_ROUTE", "x", "key")
        self.recorder.receive(content(2, method, b"body"))
        self.assertEqual(self.recorder.kinds(), [(2, "returned")])

    def test_malformed_return(self) -> None:
        """
        A return that is cut is an error, 502, told before its content has come.
        """
        whole = spec.BasicReturn(312, "NO_ROUTE", "x", "key").encode()
        self.refused(DecodeError, frame(1, whole[:-1]), 502, "basic.return")


def frame(kind: int, payload: bytes) -> bytes:
    """
    A frame on channel 1.
    """
    return pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"
