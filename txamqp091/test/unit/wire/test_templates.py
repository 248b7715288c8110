# -*- test-case-name: txamqp091.test.unit.wire.test_templates -*-
"""
Templates give out what the general reader gives out, for every stream and every cut.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.channel import ChannelMachine
from txamqp091._machine.connection import Limits
from txamqp091.errors import AMQPError, LocalProtocolError
from txamqp091.test.support.recording import (
    ChannelCase,
    Recorder,
    RecordingConsumer,
    content,
    frames,
    octets,
    random_cuts,
)
from txamqp091.wire import spec, templates
from txamqp091.wire.frames import HEARTBEAT
from txamqp091.wire.templates import Template

TAGS = ("tag", "a", "other")
CHANNELS = (1, 2)

#: Whatever comes on a channel, as bytes.
Units = list[bytes]


class Unused(dict[bytes, Template]):
    """
    Templates that are kept, and never used.
    """

    def __bool__(self) -> bool:
        return False


def _delivery(
    channel: int,
    tag: str,
    number: int,
    redelivered: bool,
    exchange: str,
    key: str,
    properties: bytes,
    body: bytes,
) -> bytes:
    method = spec.BasicDeliver(tag, number, redelivered, exchange, key)
    return content(channel, method, body, properties)


_CHANNEL = st.sampled_from(CHANNELS)

_DELIVERY = st.builds(
    _delivery,
    _CHANNEL,
    st.sampled_from(TAGS),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.sampled_from(["", "x", "y", "xy"]),
    st.sampled_from(["", "k", "l", "kl", "a\x01b"]),
    st.sampled_from([b"\0\0", b"\x80\0\1x", b"\x80\0\1y", b"\xff\xff", bytes(30)]),
    st.sampled_from([b"", b"b", b"body", b"\xce" * 9, bytes(200), bytes(9000)]),
)

#: Many deliveries that are alike.
_RUN = st.builds(lambda each, count: each * count, _DELIVERY, st.integers(2, 4))

_OTHER = st.one_of(
    st.just(HEARTBEAT),
    st.just(frames(0, spec.ConnectionBlocked("memory"), spec.ConnectionUnblocked())),
    st.builds(
        lambda n, tag: frames(n, spec.BasicCancel(tag, True)),
        _CHANNEL,
        st.sampled_from(TAGS),
    ),
    st.builds(lambda n: frames(n, spec.BasicCancelOk("tag")), _CHANNEL),
    st.builds(lambda n: frames(n, spec.ChannelFlow(True)), _CHANNEL),
    st.builds(lambda n: frames(n, spec.ChannelClose(404, "gone", 60, 20)), _CHANNEL),
    st.builds(lambda n: frames(n, spec.ChannelCloseOk()), _CHANNEL),
    st.builds(lambda n: frames(n, spec.BasicRecoverOk()), _CHANNEL),
    # A message that is never complete.
    st.builds(lambda n: frames(n, spec.BasicDeliver("tag", 1)), _CHANNEL),
)

_STREAM = st.lists(st.one_of(_DELIVERY, _RUN, _RUN, _OTHER), max_size=14)

#: What a handler does: at which message, and what.
_ACTIONS = st.dictionaries(
    st.integers(0, 8),
    st.sampled_from(
        ["close", "abandon", "recover", "forget", "again", "lost", "pause"]
    ),
    max_size=2,
)


class Handler(RecordingConsumer):
    """
    A consumer that does something from inside of a delivery.
    """

    def __init__(self, session: Session, channel: ChannelMachine, tag: str) -> None:
        super().__init__(session.recorder, (channel.number, tag))
        self._session = session
        self._channel = channel
        self._tag = tag

    def delivered(self, *arguments: Any) -> None:
        super().delivered(*arguments)
        self._session.act(self._channel, self._tag)


class Session:
    """
    A client with two channels, and three consumers on each.

    :ivar recorder: the client.
    """

    def __init__(self, actions: dict[int, str], templates: bool = True) -> None:
        self.recorder = Recorder(Limits(max_body=8000)).open()
        if not templates:
            self.recorder.machine._reader.templates = Unused()
        self._actions = actions
        self._taken = 0
        for _ in CHANNELS:
            channel = self.recorder.open_channel()
            for tag in TAGS:
                self.consume(channel, tag)
        self.recorder.forget()

    def consume(self, channel: ChannelMachine, tag: str) -> None:
        """
        Begin a consumer.
        """
        channel.register(tag, Handler(self, channel, tag))

    def act(self, channel: ChannelMachine, tag: str) -> None:
        """
        Do what is to be done at this message.
        """
        action = self._actions.get(self._taken)
        self._taken += 1
        try:
            match action:
                case "close":
                    channel.close(200, "", self.recorder.handle())
                case "abandon":
                    channel.abandon(LocalProtocolError("enough"))
                case "recover":
                    channel.recover(True, self.recorder.handle())
                case "forget":
                    channel.forget(tag)
                case "again":
                    channel.forget(tag)
                    self.consume(channel, tag)
                case "pause":
                    self.recorder.machine.pause()
                case "lost":
                    self.recorder.machine.lost(LocalProtocolError("gone"))
        except AMQPError as error:
            self.recorder.note("refused", str(error))

    def feed(self, pieces: list[bytes], pauses: Random | None = None) -> Any:
        """
        Have bytes come.

        :returns: all that was called, all that was sent, and what was wrong.
        """
        recorder = self.recorder
        error = None
        for piece in pieces:
            if pauses is not None and pauses.random() < 0.3:
                recorder.machine.pause()
                error = error or recorder.feed([piece])
                recorder.machine.resume()
                piece = b""
            error = error or recorder.feed([piece])
            recorder.machine.resume()
            error = error or recorder.feed([b""])
        said = None if error is None else (type(error), str(error))
        return recorder.take(), bytes(recorder.written), said


class EqualTests(SynchronousTestCase):
    """
    What is read by templates, and what is not.
    """

    @settings(max_examples=200)
    @given(
        _STREAM,
        _ACTIONS,
        st.randoms(use_true_random=False),
        st.one_of(st.none(), st.tuples(st.integers(0, 3000), st.integers(0, 255))),
    )
    def test_any_stream(
        self,
        stream: Units,
        actions: dict[int, str],
        random: Random,
        spoilt: tuple[int, int] | None,
    ) -> None:
        """
        The same is called and sent, and the same errors are found, in whatever pieces
        the stream comes, whatever handlers do meanwhile, with a wrong octet or without.
        """
        data = bytearray(b"".join(stream))
        if spoilt is not None and data:
            place, octet = spoilt
            data[place % len(data)] = octet
        stream = [bytes(data)]
        expected = Session(actions, templates=False).feed(stream)
        self.assertEqual(Session(actions).feed(stream), expected)
        pieces = random_cuts(stream[0], random)
        self.assertEqual(Session(actions).feed(pieces), expected)
        if "lost" not in actions.values():
            self.assertEqual(Session(actions).feed(pieces, random), expected)

    def test_every_cut(self) -> None:
        """
        Three messages that are alike can be cut anywhere.
        """
        data = b"".join(
            _delivery(1, "tag", number, number > 1, "x", "key", b"\0\0", b"body")
            for number in range(3)
        )
        expected = Session({}, templates=False).feed([data])
        self.assertEqual(len(expected[0]), 3)
        self.assertEqual(Session({}).feed(octets(data)), expected)
        for place in range(len(data) + 1):
            pieces = [data[:place], data[place:]]
            self.assertEqual(Session({}).feed(pieces), expected)

    def test_every_octet(self) -> None:
        """
        An octet that is wrong anywhere in a message that is otherwise alike is found,
        or is something that may differ.
        """
        good = _delivery(1, "tag", 1, False, "x", "key", b"\x80\0\1x", b"body")
        for place in range(len(good)):
            for change in (1, 2, 0x80, 0xFF):
                bad = bytearray(good)
                bad[place] ^= change
                stream = [good + bytes(bad) + good]
                expected = Session({}, templates=False).feed(stream)
                self.assertEqual(Session({}).feed(stream), expected, place)

    def test_cancelled(self) -> None:
        """
        Deliveries for a consumer that the broker has cancelled are refused once it has
        agreed to our cancel.
        """
        good = _delivery(1, "tag", 1, False, "x", "key", b"\0\0", b"body")
        for stream in (
            [good * 3, frames(1, spec.BasicCancel("tag", True)), good * 3],
            [frames(1, spec.BasicCancelOk("tag")), good * 3],
        ):
            expected = Session({}, templates=False).feed([b"".join(stream)])
            self.assertEqual(Session({}).feed([b"".join(stream)]), expected)
        stream = [
            good * 2,
            frames(1, spec.BasicCancel("tag", True)),
            good * 2,
            frames(1, spec.BasicCancelOk("tag")),
            good,
        ]
        expected = Session({}, templates=False).feed(stream)
        self.assertEqual(Session({}).feed(stream), expected)
        self.assertIsNotNone(expected[2])

    def test_body_frame_of_nothing(self) -> None:
        """
        A body frame without a body, which no message needs, is refused.
        """
        good = _delivery(1, "tag", 1, False, "x", "key", b"\0\0", b"b")
        empty = _delivery(1, "tag", 1, False, "x", "key", b"\0\0", b"")
        bad = empty + b"\3\0\1\0\0\0\0\xce"
        for stream in ([good + bad + good], [good * 2 + bad + good]):
            expected = Session({}, templates=False).feed(stream)
            self.assertIsNotNone(expected[2])
            self.assertEqual(Session({}).feed(stream), expected)


class TemplatesTests(ChannelCase):
    """
    Which messages have templates.
    """

    def setUp(self) -> None:
        super().setUp()
        self.recorder.consume(self.channel)

    @property
    def templates(self) -> dict[bytes, Template]:
        """
        All there are.
        """
        return self.recorder.machine._reader.templates

    def deliver(self, *properties: int) -> None:
        """
        Have messages come, with properties of these sizes.
        """
        for size in properties:
            method = spec.BasicDeliver("tag", 1, False, "", "key")
            self.recorder.receive(content(1, method, b"body", bytes(2 + size)))

    def test_one_each(self) -> None:
        """
        There is one for each size of the properties.
        """
        self.deliver(0, 1, 0, 1, 7)
        self.assertEqual(len(self.templates), 3)

    def ended(self, end: Callable[[], object]) -> None:
        """
        There are no templates after this.
        """
        self.deliver(0, 1)
        found = list(self.templates.values())
        self.assertEqual(len(found), 2)
        end()
        self.assertEqual(self.templates, {})
        self.assertFalse(any(each.valid for each in found))

    def test_ends(self) -> None:
        """
        They end with their consumer, and when deliveries are dropped.
        """
        for end in (
            lambda: self.channel.forget("tag"),
            lambda: self.say(spec.BasicCancel("tag", True)),
            lambda: self.channel.close(200, "", self.recorder.handle()),
            lambda: self.channel.recover(True, self.recorder.handle()),
            lambda: self.channel.abandon(LocalProtocolError("enough")),
            lambda: self.say(spec.ChannelClose(404, "gone", 0, 0)),
            lambda: self.recorder.machine.lost(LocalProtocolError("gone")),
        ):
            self.setUp()
            self.ended(end)

    def test_bound(self) -> None:
        """
        A channel has at most 256.  When it has had many messages that are like none of
        them, it begins anew.
        """
        self.patch(templates, "_UNLIKE", 100)
        self.deliver(*range(256 + 99))
        self.assertEqual(len(self.templates), 256)
        self.deliver(1000)
        self.assertEqual(len(self.templates), 1)
        self.deliver(*range(2000))
        self.assertLessEqual(len(self.templates), 256)
