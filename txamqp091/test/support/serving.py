# -*- test-case-name: txamqp091.test.unit.machine.test_server -*-
"""
A server's connection of which everything is written down, and both ends joined.

A `ServerRecorder` drives one `ServerMachine`, and answers as a server without any
objections; its events are those of `txamqp091.test.support.recording.Recorder`.
"""

from __future__ import annotations

from collections.abc import Callable

from txamqp091._machine.connection import Limits
from txamqp091._machine.server import ServerChannel, ServerMachine
from txamqp091.errors import AMQPError, RemoteProtocolError
from txamqp091.test.support.recording import Event, Recorder, frames, split_frames, told
from txamqp091.wire import spec
from txamqp091.wire.method import Method, decode_method

__all__ = ["Pair", "RecordingServerChannel", "ServerRecorder"]


class RecordingServerChannel:
    """
    The sink of a channel.
    """

    def __init__(self, recorder: ServerRecorder, number: int) -> None:
        self._recorder = recorder
        self._number = number

    def called(self, method: Method) -> None:
        self._recorder.note(self._number, "called", method)

    def published(
        self, method: spec.BasicPublish, header: bytes, body: bytes | None
    ) -> None:
        self._recorder.note(self._number, "published", method, header[12:], body)

    def closed(self) -> None:
        self._recorder.note(self._number, "closed")


class ServerRecorder:
    """
    A server's connection.

    :ivar machine: the machine.
    :ivar events: what it has called.
    :ivar written: what it has sent.
    :ivar channels: those that were opened, by number.
    :ivar answers: what is done when something is asked for, by its name.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.events: list[Event] = []
        self.written = bytearray()
        self.channels: dict[int, ServerChannel] = {}
        self.machine = machine = ServerMachine(
            self.written.extend, self, limits or Limits()
        )
        self.answers: dict[str, Callable[[], object]] = {
            "greeted": lambda: machine.start({"a": 1}, b"PLAIN AMQPLAIN", b"en_US"),
            "authenticating": machine.tune,
            "responded": machine.tune,
            "opening": machine.open_ok,
            "secret_updated": machine.update_secret_ok,
        }

    def note(self, *event: object) -> None:
        """
        Write an event down, and answer it.
        """
        self.events.append(event)
        answer = self.answers.get(str(event[1]))
        if answer is not None:
            answer()

    def take(self) -> list[Event]:
        """
        The events since the last time.
        """
        events, self.events[:] = self.events[:], []
        return [tuple(map(told, event)) for event in events]

    def sent(self) -> list[tuple[int, Method]]:
        """
        The methods that were sent since the last time, with their channels.
        """
        data = bytes(self.written)
        self.written.clear()
        return [
            (channel, decode_method(payload))
            for kind, channel, payload in split_frames(data)
            if kind == spec.FRAME_METHOD
        ]

    # -- driving the machine -------------------------------------------------------

    def receive(self, *pieces: bytes) -> None:
        """
        Have bytes come from the client.
        """
        for piece in pieces:
            self.machine.receive(piece)

    def say(self, channel: int, *methods: Method) -> None:
        """
        Have methods come from the client.
        """
        self.machine.receive(frames(channel, *methods))

    def violated(self, data: bytes) -> RemoteProtocolError | None:
        """
        Have bytes come, of which the client is told if they are an error.
        """
        try:
            self.machine.receive(data)
        except RemoteProtocolError as error:
            self.machine.violated(error)
            return error
        return None

    def open(self, *channels: int) -> ServerRecorder:
        """
        Go through the handshake, have channels opened, and forget it.
        """
        self.receive(spec.PROTOCOL_HEADER)
        self.say(0, spec.ConnectionStartOk(), spec.ConnectionTuneOk(2047, 131072, 60))
        self.say(0, spec.ConnectionOpen("/"))
        for number in channels:
            self.say(number, spec.ChannelOpen())
        self.events.clear()
        self.written.clear()
        return self

    # -- what the machine calls: see `ServerSink` ----------------------------------

    def closed(self, reason: AMQPError | None) -> None:
        self.note("connection", "closed", reason)

    def greeted(self) -> None:
        self.note("connection", "greeted")

    def authenticating(self, start_ok: spec.ConnectionStartOk) -> None:
        self.note("connection", "authenticating", start_ok)

    def responded(self, response: bytes) -> None:
        self.note("connection", "responded", response)

    def tuned(self, limits: Limits) -> None:
        self.note("connection", "tuned", limits)

    def opening(self, virtual_host: str) -> None:
        self.note("connection", "opening", virtual_host)

    def secret_updated(self, secret: bytes, reason: str) -> None:
        self.note("connection", "secret_updated", secret, reason)

    def channel_opened(self, channel: ServerChannel) -> RecordingServerChannel:
        self.channels[channel.number] = channel
        self.note("connection", "channel_opened", channel.number)
        return RecordingServerChannel(self, channel.number)


class Pair:
    """
    A client and a server.

    :ivar client: the one.
    :ivar server: the other.
    """

    def __init__(
        self, client: Limits | None = None, server: Limits | None = None, piece: int = 0
    ) -> None:
        """
        :param client: the client's limits.
        :param server: the server's.
        :param piece: how many bytes move at a time; 0 is all.
        """
        self.client = Recorder(client)
        self.server = ServerRecorder(server)
        self._piece = piece

    def run(self) -> None:
        """
        Move bytes until neither has any more to say.
        """
        client, server = self.client, self.server
        while client.written or server.written:
            self._move(client.written, server.receive)
            self._move(server.written, client.receive)

    def _move(self, source: bytearray, receive: Callable[[bytes], None]) -> None:
        size = self._piece or len(source)
        data = bytes(source[:size])
        del source[:size]
        if data:
            receive(data)

    def open(self) -> Pair:
        """
        Go through the handshake, and forget it.
        """
        client = self.client
        client.hooks["connection", "started"] = lambda: client.machine.start_ok(
            {"b": 2}, "PLAIN", b"\0guest\0guest", "en_US", "vhost"
        )
        client.machine.begin()
        self.run()
        return self

    def forget(self) -> Pair:
        """
        Forget what has happened so far.
        """
        self.client.events.clear()
        self.server.events.clear()
        return self
