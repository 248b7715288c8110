# -*- test-case-name: txamqp091.test.faults.test_fuzz -*-
"""
What a client may send, spoilt, and a server that must stand it: the other side of
`txamqp091.test.support.fuzz`, which has the mutator and judges the streams.

The sessions are not recorded but made here, as our client would say them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from txamqp091._machine.connection import Limits
from txamqp091._machine.server import ServerChannel, ServerMachine
from txamqp091._machine.states import State
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionLost,
    RemoteProtocolError,
)
from txamqp091.test.support.recording import content, frames, split_frames
from txamqp091.test.support.violations import raw
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT, Piece
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

__all__ = [
    "MAX_BODY",
    "MAX_PAYLOAD",
    "ServerSession",
    "ServerSink",
    "server_sessions",
]

#: Of a frame, once the connection is open, and of a message: less than anybody would
#: agree on, so that there is a way over them in a few octets.
MAX_PAYLOAD = 152
MAX_BODY = 2 * MAX_PAYLOAD + 16

_LIMITS = Limits(frame_max=4096, channel_max=8, heartbeat=0, max_body=MAX_BODY)


class ServerSink:
    """
    All sinks of a server's connection in one: notes what is called, and answers.

    :ivar events: what was called.
    :ivar sent: how many octets were sent.
    :ivar open: how many channels were opened and have not been told of their end.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.sent = 0
        self.open = 0
        self.machine = ServerMachine(self._write, self, _LIMITS)

    def _write(self, data: Piece) -> None:
        self.sent += len(data)

    def closed(self, reason: AMQPError | None) -> None:
        # The text shows as much of a wrong greeting as came in one piece.
        self.events.append(("closed", type(reason)))

    def greeted(self) -> None:
        self.events.append(("greeted",))
        self.machine.start({}, b"PLAIN", b"en_US")

    def authenticating(self, start_ok: spec.ConnectionStartOk) -> None:
        self.events.append(("authenticating", start_ok))
        if start_ok.response:
            self.machine.tune()
        else:
            self.machine.challenge(b"?")

    def responded(self, response: bytes) -> None:
        self.events.append(("responded", response))
        self.machine.tune()

    def tuned(self, limits: Limits) -> None:
        self.events.append(("tuned", limits))

    def opening(self, virtual_host: str) -> None:
        self.events.append(("opening", virtual_host))
        self.machine.open_ok()

    def secret_updated(self, secret: bytes, reason: str) -> None:
        self.events.append(("secret_updated", secret, reason))
        if reason == "refuse":
            self.machine.close(ConnectionClosed("no", reply_code=530))
        else:
            self.machine.update_secret_ok()

    def channel_opened(self, channel: ServerChannel) -> _ChannelSink:
        self.events.append(("channel_opened", channel.number))
        self.open += 1
        return _ChannelSink(self, channel)


class _ChannelSink:
    """
    The sink of a channel.
    """

    def __init__(self, connection: ServerSink, channel: ServerChannel) -> None:
        self._connection = connection
        self._channel = channel

    def called(self, method: Method) -> None:
        self._connection.events.append(("called", self._channel.number, method))
        if isinstance(method, spec.BasicGet):
            self._connection.open -= 1
            self._channel.close(404, "no queue", *method.identity)
        else:
            self._channel.send(spec.BasicAck(1))

    def published(
        self, method: spec.BasicPublish, header: bytes, body: bytes | None
    ) -> None:
        self._connection.events.append(("published", method, header, body))
        self._channel.send_content(spec.BasicDeliver(), header[12:], body or b"")

    def closed(self) -> None:
        self._connection.open -= 1
        self._connection.events.append(("channel closed", self._channel.number))


class ServerSession(NamedTuple):
    """
    Something that a client says.

    :ivar greeting: what comes before the first frame.
    :ivar opens: whether it begins when the connection is open.
    """

    name: str
    frames: tuple[tuple[int, int, bytes], ...]
    greeting: bytes = b""
    opens: bool = True

    @property
    def data(self) -> bytes:
        """
        What the client says.
        """
        return self.greeting + b"".join(raw(*frame) for frame in self.frames)

    def feed(self, pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], int, int]:
        """
        Have a server take a stream, and then lose its transport.

        :returns: what was called, the code of the client's error, or 0, and how many
            octets were sent.
        :raises AssertionError: when a channel was not told of its end, or twice.
        """
        sink = ServerSink()
        machine = sink.machine
        if self.opens:
            machine.state = State.OPEN
            machine._reader.max_payload = MAX_PAYLOAD
        code = 0
        try:
            for piece in pieces:
                machine.receive(piece)
        except RemoteProtocolError as error:
            code = error.reply_code
            sink.events.append(("error", type(error), str(error)))
            machine.violated(error)
        machine.lost(ConnectionLost("the end"))
        assert sink.open == 0, f"{sink.open} channels were not told of their end"
        return sink.events, code, sink.sent


def _session(name: str, *data: bytes, **others: Any) -> ServerSession:
    return ServerSession(name, tuple(split_frames(b"".join(data))), **others)


def server_sessions() -> list[ServerSession]:
    """
    All of them.
    """
    properties = Properties(
        content_type="text/plain",
        headers={"text": "x", "number": 7, "list": [1, None, {"deep": True}]},
    ).encode()
    publish = spec.BasicPublish(0, "", "fuzz", True)
    opened = frames(1, spec.ChannelOpen())
    return [
        _session(
            "client handshake",
            frames(0, spec.ConnectionStartOk({"a": 1}, "PLAIN", b"", "en_US")),
            frames(0, spec.ConnectionSecureOk(b"\0guest\0guest")),
            frames(0, spec.ConnectionTuneOk(8, 4096, 0), spec.ConnectionOpen("/")),
            opened,
            frames(0, spec.ConnectionClose(200, "bye")),
            greeting=spec.PROTOCOL_HEADER,
            opens=False,
        ),
        _session(
            "client publishes",
            opened,
            frames(1, spec.ConfirmSelect()),
            *(
                content(1, publish, body, properties, MAX_PAYLOAD)
                for body in (b"", b"small", bytes(MAX_BODY), bytes(MAX_BODY + 1))
            ),
            frames(1, spec.ChannelClose(200, "bye"), spec.ChannelOpen()),
        ),
        _session(
            "client consumes",
            opened,
            frames(1, spec.QueueDeclare(0, "fuzz"), spec.BasicQos(0, 10)),
            frames(1, spec.BasicConsume(0, "fuzz", arguments={"x-priority": 1})),
            frames(1, spec.BasicAck(1), spec.BasicNack(2), spec.BasicReject(3)),
            HEARTBEAT,
            frames(1, spec.BasicCancel("tag")),
        ),
        _session(
            "client refused",
            opened,
            frames(2, spec.ChannelOpen(), spec.BasicGet(0, "fuzz")),
            content(2, publish, b"discarded", properties),
            frames(2, spec.ChannelCloseOk(), spec.ChannelOpen()),
            frames(1, spec.BasicGet(0, "fuzz"), spec.ChannelClose()),
            frames(0, spec.ConnectionUpdateSecret(b"s", "renew")),
            frames(0, spec.ConnectionUpdateSecret(b"s", "refuse")),
            content(1, publish, b"discarded", properties),
            frames(0, spec.ConnectionCloseOk()),
        ),
    ]
