# -*- test-case-name: txamqp091.test.unit.wire.test_frames -*-
"""
Tests for `txamqp091.wire.frames`.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from struct import pack, unpack_from
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.errors import (
    ChannelError,
    CommandInvalid,
    FrameError,
    ProtocolVersionMismatch,
    RemoteProtocolError,
)
from txamqp091.test.support.recording import octets, random_cuts, split_frames
from txamqp091.wire.frames import (
    FRAME_OVERHEAD,
    HEARTBEAT,
    MESSAGE,
    FrameReader,
    content_frames,
    frame_name,
    method_frame,
)
from txamqp091.wire.spec import PROTOCOL_HEADER, BasicAck, BasicDeliver

CHANNELS = (0, 1, 65535)

Frame = tuple[str, int, Any]


def reader() -> FrameReader[str]:
    """
    A reader for which some channels are open.
    """
    return FrameReader({channel: f"channel {channel}" for channel in CHANNELS})


def frame(kind: int, channel: int, payload: bytes, end: int = 206) -> bytes:
    """
    A frame, put together by hand.
    """
    return pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def read(reader: FrameReader[str], pieces: Iterable[bytes]) -> list[Frame]:
    """
    All the frames that come of some bytes.
    """
    return [each for piece in pieces for each in reader.feed(piece)]


_FRAMES = st.lists(
    st.one_of(
        st.tuples(
            st.integers(1, 3), st.sampled_from(CHANNELS), st.binary(max_size=300)
        ),
        st.just((8, 0, b"")),
    ),
    max_size=12,
)


class SplitTests(SynchronousTestCase):
    """
    Tests for streams that come in pieces.
    """

    @given(_FRAMES, st.randoms(use_true_random=False))
    def test_any_split(
        self, sent: list[tuple[int, int, bytes]], random: Random
    ) -> None:
        """
        The same frames come out whole, byte by byte and in random cuts, and
        heartbeats do not.
        """
        data = b"".join(frame(*each) for each in sent)
        expected = [
            (f"channel {channel}", kind, payload)
            for kind, channel, payload in sent
            if kind != 8
        ]
        self.assertEqual(read(reader(), [data]), expected)
        self.assertEqual(read(reader(), octets(data)), expected)
        self.assertEqual(read(reader(), random_cuts(data, random)), expected)

    def test_every_cut(self) -> None:
        """
        A stream can be cut in two anywhere.
        """
        data = frame(1, 1, b"method") + HEARTBEAT + frame(3, 0, b"") + frame(2, 1, b"x")
        expected = read(reader(), [data])
        self.assertEqual(len(expected), 3)
        for place in range(len(data) + 1):
            pieces = [data[:place], data[place:]]
            self.assertEqual(read(reader(), pieces), expected)

    def test_frames_are_not_held_back(self) -> None:
        """
        A frame is given out with its last octet, though the next has begun.
        """
        one = reader()
        self.assertEqual(read(one, [frame(1, 1, b"a")[:-1]]), [])
        self.assertEqual(len(read(one, [b"\xce" + frame(1, 1, b"b")[:3]])), 1)
        self.assertEqual(len(read(one, [frame(1, 1, b"b")[3:]])), 1)

    def test_empty_pieces(self) -> None:
        """
        Pieces without a byte change nothing.
        """
        one = reader()
        data = frame(1, 1, b"abc")
        self.assertEqual(
            read(one, [b"", data[:4], b"", data[4:], b""]), [("channel 1", 1, b"abc")]
        )


class MessageTests(SynchronousTestCase):
    """
    Tests for messages that come in one piece.
    """

    METHOD = BasicDeliver("c", 1).encode()

    def message(self, **changes: bytes) -> bytes:
        """
        The frames of a message, some of which can be others.
        """
        frames = {
            "method": frame(1, 1, self.METHOD),
            "header": frame(2, 1, pack(">HHQH", 60, 0, 5, 0)),
            "body": frame(3, 1, b"hello"),
            **changes,
        }
        return b"".join(frames.values())

    def test_whole(self) -> None:
        """
        Its three payloads are given out together, and in pieces one by one.
        """
        header = pack(">HHQH", 60, 0, 5, 0)
        data = self.message()
        self.assertEqual(
            read(reader(), [data + data]),
            [("channel 1", MESSAGE, (self.METHOD, header, b"hello"))] * 2,
        )
        one_by_one = [(1, self.METHOD), (2, header), (3, b"hello")]
        expected = [("channel 1", *each) for each in one_by_one]
        self.assertEqual(read(reader(), octets(data)), expected)

    def test_odd(self) -> None:
        """
        Whatever is not three such frames is given out as it came, to be judged by
        whoever takes it.
        """
        odd = {
            "a method without content": {"method": frame(1, 1, BasicAck(1).encode())},
            "a header in its place": {"method": frame(2, 1, self.METHOD)},
            "another class": {"header": frame(2, 1, pack(">HHQH", 50, 0, 5, 0))},
            "a weight": {"header": frame(2, 1, pack(">HHQH", 60, 1, 5, 0))},
            "a larger body": {"header": frame(2, 1, pack(">HHQH", 60, 0, 6, 0))},
            "no body": {"header": frame(2, 1, pack(">HHQH", 60, 0, 0, 0))},
            "a short header": {"header": frame(2, 1, pack(">HHQ", 60, 0, 5))},
            "a second method": {"header": frame(1, 1, pack(">HHQH", 60, 0, 5, 0))},
            "another channel's header": {
                "header": frame(2, 65535, pack(">HHQH", 60, 0, 5, 0))
            },
            "another channel's body": {"body": frame(3, 65535, b"hello")},
            "a second header": {"body": frame(2, 1, b"hello")},
        }
        for what, changes in odd.items():
            got = read(reader(), [self.message(**changes)])
            self.assertEqual([kind for _, kind, _ in got].count(MESSAGE), 0, what)
            self.assertEqual(len(got), 3, what)

    def test_broken_ends(self) -> None:
        """
        A wrong octet at the end of any of its frames is seen.
        """
        data = self.message()
        ends = [place for place, octet in enumerate(data) if octet == 206]
        self.assertEqual(len(ends), 3)
        for end in ends:
            broken = data[:end] + b"\0" + data[end + 1 :]
            self.assertRaises(FrameError, read, reader(), [broken])

    def test_channel_zero(self) -> None:
        """
        Channel 0 has no messages: its frames are judged one by one.
        """
        data = frame(1, 0, self.METHOD)
        data += frame(2, 0, pack(">HHQH", 60, 0, 1, 0)) + frame(3, 0, b"x")
        self.assertEqual([kind for _, kind, _ in read(reader(), [data])], [1, 2, 3])


class CostTests(SynchronousTestCase):
    """
    Tests for the cost of a byte.
    """

    def copied(self, size: int, step: int) -> float:
        """
        How many bytes are joined per byte received, for a frame of some size that
        comes in pieces.
        """
        one = reader()
        one.max_payload = 1 << 20
        body = bytes(size - FRAME_OVERHEAD)
        data = frame(3, 1, body)
        joined = 0
        found = b""
        for place in range(0, len(data), step):
            pieces = len(one._pieces)
            held = one._have
            piece = data[place : place + step]
            found += b"".join(part for _, _, part in one.feed(piece))
            if pieces and len(one._pieces) <= pieces:  # they were joined
                joined += held + len(piece)
        self.assertEqual(found, body)
        return joined / size

    def test_linear(self) -> None:
        """
        Criterion 3: byte by byte, a frame of 128 kB costs no more per byte than one
        of 4 kB, counted in the bytes that are joined.
        """
        for step in (1, 7, 1000):
            small, large = self.copied(4096, step), self.copied(131072, step)
            self.assertLessEqual(large, 2 * small)
            self.assertLessEqual(large, 1.1)

    def test_nothing_left(self) -> None:
        """
        A reader keeps nothing of what it has given out.
        """
        one = reader()
        read(one, octets(frame(3, 1, bytes(1000)) * 3))
        self.assertEqual(one._pieces, [])


class LargeBodyTests(SynchronousTestCase):
    """
    Tests for body frames that are given out in parts.
    """

    BODY = bytes(range(256)) * 300
    STREAM = frame(3, 1, BODY) + frame(1, 1, b"next")

    def reader(self) -> FrameReader[str]:
        one = reader()
        one.max_payload = len(self.BODY)
        return one

    def test_any_split(self) -> None:
        """
        However it was split, the parts are the payload, none of them is small but the
        last one, and what follows is found.
        """
        for size in (1, 7, 4096, 16384, 16391, 65536, len(self.BODY) + 7):
            pieces = [
                self.STREAM[place : place + size]
                for place in range(0, len(self.STREAM), size)
            ]
            *parts, last = read(self.reader(), pieces)
            self.assertEqual(b"".join(part for _, _, part in parts), self.BODY)
            for route, kind, part in parts[:-1]:
                self.assertEqual((route, kind), ("channel 1", 3))
                self.assertGreater(len(part), 9000)
            self.assertEqual(last, ("channel 1", 1, b"next"))

    def test_not_copied(self) -> None:
        """
        What was read while such a frame was coming is given out as it is.
        """
        one = self.reader()
        read(one, [self.STREAM[:20000]])
        piece = self.STREAM[20000:40000]
        [(_, _, part)] = read(one, [piece])
        self.assertIs(part, piece)

    def test_wrong_end(self) -> None:
        """
        A frame that does not end as it must is refused before its last octet is given
        out: nobody takes the message for complete.
        """
        one = self.reader()
        data = self.STREAM[:7] + self.BODY
        given = len(b"".join(part for _, _, part in read(one, octets(data))))
        self.assertLess(given, len(self.BODY))
        with self.assertRaisesRegex(FrameError, "ends with the octet 7 instead"):
            read(one, [b"\7"])

    def test_paused(self) -> None:
        """
        A pause in the middle of a frame loses nothing.
        """
        one = self.reader()
        found = []
        for piece in (self.STREAM[:30000], self.STREAM[30000:], b"", b""):
            for each in one.feed(piece):
                found.append(each)
                one.paused = True
            one.paused = False
        self.assertEqual(b"".join(part for _, _, part in found[:-1]), self.BODY)
        self.assertEqual(found[-1], ("channel 1", 1, b"next"))


def _head(kind: int, channel: int, size: int) -> bytes:
    return pack(">BHI", kind, channel, size)


JUDGED: list[tuple[str, bytes, type[RemoteProtocolError], int, str]] = [
    ("over the limit", _head(1, 0, 4089), FrameError, 501, "4097 octets, over the 40"),
    ("2 GiB", _head(3, 1, 1 << 31), FrameError, 501, "a content body frame of 214"),
    ("4 GiB", _head(2, 1, 0xFFFFFFFF), FrameError, 501, "content header"),
    ("over, unopened", _head(1, 9, 1 << 20), FrameError, 501, "octets, over"),
    ("type 0", _head(0, 0, 0), FrameError, 501, "unknown frame type 0"),
    ("type 4", _head(4, 0, 0), FrameError, 501, "unknown frame type 4"),
    ("type 9", _head(9, 1, 0), FrameError, 501, "unknown frame type 9"),
    ("type 255", b"\xff" * 7, FrameError, 501, "unknown frame type 255"),
    ("method unopened", _head(1, 9, 4), ChannelError, 504, "channel 9, which is not"),
    ("header unopened", _head(2, 9, 14), ChannelError, 504, "a content header frame"),
    ("body unopened", _head(3, 9, 14), ChannelError, 504, "a content body frame"),
    ("heartbeat on 1", _head(8, 1, 0), CommandInvalid, 503, "heartbeat on channel 1"),
    ("heartbeat on 9", _head(8, 9, 0), CommandInvalid, 503, "heartbeat on channel 9"),
    ("heartbeat with 1", _head(8, 0, 1), FrameError, 501, "a payload of 1 octets"),
    ("heartbeat, huge", _head(8, 0, 1 << 31), FrameError, 501, "a payload of 2147"),
    ("TLS handshake", b"\x16\x03\x03\0\x7a\2\0", FrameError, 501, "answers in TLS"),
    ("TLS alert", b"\x15\x03\x01\0\2\2\x46", FrameError, 501, "answers in TLS"),
    ("HTTP", b"HTTP/1.", FrameError, 501, "answers in HTTP"),
    ("SSH", b"SSH-2.0", FrameError, 501, "answers in SSH"),
    ("SMTP", b"220 mai", FrameError, 501, "is it an AMQP broker?"),
    (
        "AMQP 0-9-1",
        PROTOCOL_HEADER,
        ProtocolVersionMismatch,
        501,
        "the peer asks for AMQP version 0.9.1",
    ),
    (
        "AMQP 1.0",
        b"AMQP\0\1\0\0",
        ProtocolVersionMismatch,
        501,
        "the peer asks for AMQP version 1.0.0",
    ),
    ("AMQP 1.0, SASL", b"AMQP\3\1\0\0", ProtocolVersionMismatch, 501, "1.0.0"),
]  # fmt: skip


class JudgementTests(SynchronousTestCase):
    """
    Tests for what a frame's first octets give away.
    """

    def test_heads(self) -> None:
        """
        Criterion 3: what is wrong with the seven octets of a frame's head is told by
        the last of them, without waiting for more; of a protocol header, by its
        eighth.
        """
        for name, head, kind, code, text in JUDGED:
            for pieces in ([head], octets(head), [head + bytes(5000)]):
                one = reader()
                *before, last = pieces
                self.assertEqual(read(one, before), [], name)
                error = self.assertRaises(kind, read, one, [last])
                self.assertEqual(error.reply_code, code, name)
                self.assertIn(text, error.reply_text, name)

    def test_behind_good_ones(self) -> None:
        """
        Frames ahead of a bad one are given out first.
        """
        for name, head, kind, _, _ in JUDGED:
            for cut in (False, True):
                data = frame(1, 1, b"good") + HEARTBEAT + head
                got: list[Frame] = []
                one = reader()
                with self.assertRaises(kind):
                    for piece in octets(data) if cut else [data]:
                        got.extend(one.feed(piece))
                self.assertEqual(got, [("channel 1", 1, b"good")], name)

    def test_limit_is_exact(self) -> None:
        """
        A frame of just the limit passes.
        """
        one = reader()
        self.assertEqual(len(read(one, [frame(3, 1, bytes(4088))])), 1)
        one.max_payload = 10
        self.assertEqual(len(read(one, [frame(3, 1, bytes(10))])), 1)
        self.assertRaises(FrameError, read, one, [frame(3, 1, bytes(11))])

    def test_frame_end(self) -> None:
        """
        Anything but 206 at the end of a frame is an error, named.
        """
        for end in (0, 205, 207, 255):
            for data in (frame(1, 1, b"abc", end), frame(8, 0, b"", end)):
                for pieces in ([data], octets(data)):
                    error = self.assertRaises(FrameError, read, reader(), pieces)
                    self.assertIn(f"the octet {end} instead of 206", str(error))

    def test_channel_that_goes(self) -> None:
        """
        Routes are looked up frame by frame: one may go in the middle of a piece.
        """
        routes = {0: "zero", 1: "one"}
        one = FrameReader(routes)
        frames = one.feed(frame(1, 1, b"last") + frame(1, 1, b"late"))
        self.assertEqual(next(frames), ("one", 1, b"last"))
        del routes[1]
        self.assertRaises(ChannelError, next, frames)


class PauseTests(SynchronousTestCase):
    """
    Tests for a reader that is paused.
    """

    def test_pause(self) -> None:
        """
        A paused reader gives out nothing and loses nothing.
        """
        one = reader()
        one.paused = True
        data = frame(1, 1, b"a") + frame(1, 1, b"b")
        self.assertEqual(read(one, [data[:5], data[5:], b""]), [])
        one.paused = False
        self.assertEqual([each[2] for each in read(one, [b""])], [b"a", b"b"])
        self.assertEqual(read(one, [b""]), [])

    def test_pause_between_frames(self) -> None:
        """
        A reader that is paused over one frame gives out the next after that.
        """
        one = reader()
        data = b"".join(frame(1, 1, bytes([place])) for place in range(5))
        got = []
        pieces = [data, *[b""] * 10]
        for piece in pieces:
            for each in one.feed(piece):
                got.append(each[2])
                one.paused = True
            one.paused = False
        self.assertEqual(got, [bytes([place]) for place in range(5)])

    @given(_FRAMES, st.randoms(use_true_random=False))
    def test_random_pauses(
        self, sent: list[tuple[int, int, bytes]], random: Random
    ) -> None:
        """
        Whatever the cuts and the pauses, the frames are the same.
        """
        data = b"".join(frame(*each) for each in sent)
        one = reader()
        got = []
        for piece in [*random_cuts(data, random), *[b""] * (len(sent) + 1)]:
            for each in one.feed(piece):
                got.append(each)
                one.paused = random.random() < 0.5
            one.paused = len(piece) > 0 and random.random() < 0.3
        self.assertEqual(got, read(reader(), [data]))


class BuildTests(SynchronousTestCase):
    """
    Tests for frames that we build.
    """

    def test_method_frame(self) -> None:
        """
        A method frame is as the specification draws it.
        """
        self.assertEqual(method_frame(258, b"abc"), b"\1\1\2\0\0\0\3abc\xce")
        self.assertEqual(HEARTBEAT, b"\x08\0\0\0\0\0\0\xce")

    def test_content_sizes(self) -> None:
        """
        A body of any size is split into full frames and a rest, and none is empty.
        """
        method = method_frame(1, b"method")
        limit = 10
        for size in range(4 * limit + 2):
            body = bytes(range(size))
            pieces = list(content_frames(1, method, b"\x80\0\1x", body, limit))
            got = list(split_frames(b"".join(pieces)))
            self.assertEqual(got[0], (1, 1, b"method"))
            self.assertEqual(got[1], (2, 1, pack(">HHQ", 60, 0, size) + b"\x80\0\1x"))
            bodies = [payload for kind, _, payload in got[2:] if kind == 3]
            self.assertEqual(len(got), 2 + len(bodies))
            self.assertEqual(b"".join(bodies), body)
            self.assertEqual(len(bodies), -(-size // limit))
            self.assertTrue(all(len(each) == limit for each in bodies[:-1]))
            if len(bodies) <= 1:
                self.assertEqual(len(pieces), 1)

    def test_content_is_read_back(self) -> None:
        """
        The reader accepts what is built, at the limit that it was built for.
        """
        for size in (0, 1, 4087, 4088, 4089, 8176, 20000):
            data = b"".join(
                content_frames(1, method_frame(1, b"m"), b"\0\0", bytes(size), 4088)
            )
            got = read(reader(), [data])
            payloads = got[0][2] if got[0][1] == MESSAGE else [each[2] for each in got]
            self.assertEqual(unpack_from(">Q", payloads[1], 4), (size,))
            self.assertEqual(sum(map(len, payloads[2:])), size)

    def test_large_bodies_are_not_copied(self) -> None:
        """
        A body that needs several frames is not copied here, and no piece is larger
        than a frame.
        """
        body = bytes(100_000)
        pieces = content_frames(1, b"", b"\0\0", body, 4088)
        parts = [each for each in pieces if isinstance(each, memoryview)]
        self.assertEqual(sum(map(len, parts)), len(body))
        self.assertTrue(all(part.obj is body for part in parts))
        self.assertLessEqual(max(map(len, pieces)), 4096)

    def test_names(self) -> None:
        """
        Frame types have names, also those that there are not.
        """
        self.assertEqual(frame_name(1), "method")
        self.assertEqual(frame_name(8), "heartbeat")
        self.assertEqual(frame_name(5), "type 5")
