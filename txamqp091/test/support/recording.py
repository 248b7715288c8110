# -*- test-case-name: txamqp091.test.unit.machine.test_connection -*-
"""
Sinks that write down what the machines call: the list of events for tests.

A `Recorder` drives one client's `ConnectionMachine`.  An event is a tuple of who was
called, what for, and with which arguments.  A hook may be hung on each kind of
event, to call the machine from inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from struct import unpack_from
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.channel import ChannelMachine
from txamqp091._machine.connection import ConnectionMachine, Limits
from txamqp091._machine.states import Role
from txamqp091.errors import AMQPError, RemoteProtocolError, Returned
from txamqp091.wire import spec
from txamqp091.wire.frames import content_frames, method_frame
from txamqp091.wire.method import Method, decode_method

__all__ = [
    "ChannelCase",
    "Event",
    "Recorder",
    "RecordingChannel",
    "RecordingConsumer",
    "RecordingHandle",
    "content",
    "frames",
    "octets",
    "random_cuts",
    "split_frames",
    "told",
]

Event = tuple[Any, ...]


# -- bytes ------------------------------------------------------------------------


def frames(channel: int, *methods: Method) -> bytes:
    """
    Method frames.
    """
    return b"".join(method_frame(channel, each.encode()) for each in methods)


def content(
    channel: int,
    method: Method,
    body: bytes = b"",
    properties: bytes = b"\0\0",
    max_payload: int = 4088,
) -> bytes:
    """
    The frames of a method with content.
    """
    return b"".join(
        content_frames(channel, frames(channel, method), properties, body, max_payload)
    )


def split_frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """
    The type, channel and payload of each frame, without any judgement.
    """
    position = 0
    while position < len(data):
        kind, channel, size = unpack_from(">BHI", data, position)
        start = position + 7
        position = start + size + 1
        yield kind, channel, data[start : start + size]


def octets(data: bytes) -> list[bytes]:
    """
    Bytes, one by one.
    """
    return [data[place : place + 1] for place in range(len(data))]


def random_cuts(data: bytes, random: Random) -> list[bytes]:
    """
    Bytes, in pieces of any size.
    """
    count = random.randint(0, min(8, len(data)))
    places = sorted(random.randint(0, len(data)) for _ in range(count))
    return [
        data[start:end]
        for start, end in zip([0, *places], [*places, len(data)], strict=True)
    ]


# -- what is called ---------------------------------------------------------------


def told(value: Any) -> Any:
    """
    A value of an event, so that two recordings can be compared.
    """
    if isinstance(value, BaseException):
        return type(value).__name__, str(value)
    return value


class RecordingHandle:
    """
    Waits for one answer.

    :ivar results: what it was told: at most one thing.
    """

    def __init__(self, recorder: Recorder, name: object) -> None:
        self.results: list[object] = []
        self._recorder = recorder
        self._name = name

    def callback(self, result: Any, /) -> None:
        self.results.append(result)
        self._recorder.note(self._name, "callback", result)

    def errback(self, fail: Any, /) -> None:
        self.results.append(fail)
        self._recorder.note(self._name, "errback", fail)


class RecordingChannel:
    """
    The sink of a channel.
    """

    def __init__(self, recorder: Recorder, name: object) -> None:
        self._recorder = recorder
        self._name = name

    def confirmed(self) -> None:
        self._recorder.note(self._name, "confirmed")

    def returned(
        self, method: spec.BasicReturn, header: bytes, body: bytes
    ) -> Returned:
        self._recorder.note(self._name, "returned", method, header, body)
        return Returned((method, body), method.reply_code, method.reply_text)

    def flow(self, active: bool) -> None:
        self._recorder.note(self._name, "flow", active)

    def closed(self, reason: AMQPError) -> None:
        self._recorder.note(self._name, "closed", reason)


class RecordingConsumer:
    """
    The sink of a consumer.
    """

    def __init__(self, recorder: Recorder, name: object) -> None:
        self._recorder = recorder
        self._name = name

    def delivered(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        body: bytes,
    ) -> None:
        self._recorder.note(
            self._name,
            "delivered",
            delivery_tag,
            redelivered,
            method[route:],
            properties,
            body,
        )

    def oversized(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        size: int,
    ) -> None:
        self._recorder.note(self._name, "oversized", delivery_tag, size)

    def cancelled(self) -> None:
        self._recorder.note(self._name, "cancelled")

    def ended(self, reason: AMQPError) -> None:
        self._recorder.note(self._name, "ended", reason)


class Recorder:
    """
    A client's connection, of which everything is written down.

    :ivar machine: the machine.
    :ivar events: what it has called.
    :ivar written: what it has sent.
    :ivar hooks: called from inside the next event of that who and what.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.events: list[Event] = []
        self.written = bytearray()
        self.hooks: dict[tuple[object, str], Callable[[], object]] = {}
        self.machine = ConnectionMachine(
            Role.CLIENT, self.written.extend, self, limits or Limits()
        )

    def note(self, *event: Any) -> None:
        """
        Write an event down.
        """
        self.events.append(event)
        hook = self.hooks.pop(event[:2], None)
        if hook is not None:
            hook()

    def take(self) -> list[Event]:
        """
        The events since the last time.
        """
        events, self.events[:] = self.events[:], []
        return [tuple(map(told, event)) for event in events]

    def kinds(self) -> list[tuple[object, str]]:
        """
        Who was called and what for, since the last time.
        """
        return [event[:2] for event in self.take()]

    def sent(self) -> list[tuple[int, Method]]:
        """
        The methods that were sent since the last time, with their channels.
        """
        data = bytes(self.written).removeprefix(spec.PROTOCOL_HEADER)
        self.written.clear()
        return [
            (channel, decode_method(payload))
            for kind, channel, payload in split_frames(data)
            if kind == spec.FRAME_METHOD
        ]

    # -- driving the machine -------------------------------------------------------

    def handle(self, name: object = "call") -> RecordingHandle:
        """
        A handle, by name.
        """
        return RecordingHandle(self, name)

    def receive(self, *pieces: bytes) -> None:
        """
        Have bytes come from the peer.
        """
        for piece in pieces:
            self.machine.receive(piece)

    def feed(self, pieces: list[bytes]) -> RemoteProtocolError | None:
        """
        Have bytes come from the peer, and return the peer's error if it makes one.
        """
        try:
            for piece in pieces:
                self.machine.receive(piece)
        except RemoteProtocolError as error:
            return error
        return None

    def say(self, channel: int, *methods: Method) -> None:
        """
        Have methods come from the peer.
        """
        self.machine.receive(frames(channel, *methods))

    def start(self) -> None:
        """
        Go as far as ``connection.start-ok``.
        """
        self.machine.begin()
        self.say(0, spec.ConnectionStart())
        self.machine.start_ok({}, "PLAIN", b"\0guest\0guest", "en_US", "/")

    def open(self, tune: spec.ConnectionTune | None = None) -> Recorder:
        """
        Go through the handshake, and forget it.
        """
        self.start()
        self.say(0, tune or spec.ConnectionTune(2047, 131072, 60))
        self.say(0, spec.ConnectionOpenOk())
        self.forget()
        return self

    def forget(self) -> None:
        """
        Forget what has happened so far.
        """
        self.events.clear()
        self.written.clear()

    def begin_channel(self) -> ChannelMachine:
        """
        Ask for a channel.
        """

        def attach(channel: ChannelMachine) -> None:
            channel.sink = RecordingChannel(self, channel.number)

        return self.machine.open_channel(attach, self.handle("open"))

    def open_channel(self, *, confirms: bool = False) -> ChannelMachine:
        """
        Open a channel, and forget how.
        """
        channel = self.begin_channel()
        self.say(channel.number, spec.ChannelOpenOk())
        if confirms:
            channel.select_confirms(self.handle("select"))
            self.say(channel.number, spec.ConfirmSelectOk())
        self.forget()
        return channel

    def consume(self, channel: ChannelMachine, tag: str = "tag") -> None:
        """
        Begin a consumer, and forget how.
        """
        channel.register(tag, RecordingConsumer(self, tag))
        channel.call(spec.BasicConsume(consumer_tag=tag), self.handle("consume"))
        self.say(channel.number, spec.BasicConsumeOk(tag))
        self.forget()

    # -- what the machine calls: see `ConnectionSink` ------------------------------

    def started(self, start: spec.ConnectionStart) -> None:
        self.note("connection", "started", start)

    def challenged(self, challenge: bytes) -> None:
        self.note("connection", "challenged", challenge)

    def opened(self) -> None:
        self.note("connection", "opened")

    def blocked_by(self, reason: str) -> None:
        self.note("connection", "blocked_by", reason)

    def unblocked(self) -> None:
        self.note("connection", "unblocked")

    def closed(self, reason: AMQPError | None) -> None:
        self.note("connection", "closed", reason)
        if reason is not None:
            self.machine.lost(reason)


class ChannelCase(SynchronousTestCase):
    """
    A base for tests of a channel that is open.
    """

    limits = Limits()
    confirms = False

    def setUp(self) -> None:
        self.recorder = Recorder(self.limits).open()
        self.channel = self.recorder.open_channel(confirms=self.confirms)

    def say(self, *methods: Method) -> None:
        """
        Have methods come on the channel.
        """
        self.recorder.say(1, *methods)

    def refused(
        self, kind: type[RemoteProtocolError], data: bytes, code: int, text: str
    ) -> None:
        """
        Have bytes come that are the peer's error.
        """
        error = self.assertRaises(kind, self.recorder.receive, data)
        self.assertEqual(error.reply_code, code)
        self.assertIn(text, error.reply_text)

    def publish(
        self, body: bytes = b"body", mandatory: bool = False, name: object = "message"
    ) -> RecordingHandle:
        """
        Publish a message.
        """
        handle = self.recorder.handle(name)
        self.channel.publish("x", "key", body, b"\0\0", mandatory, handle)
        return handle
