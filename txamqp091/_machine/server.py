# -*- test-case-name: txamqp091.test.unit.machine.test_server -*-
"""
The server's end of a connection, and of a channel: the same conversation from the
other side.

The client's end is in `txamqp091._machine.connection` and
`txamqp091._machine.channel`.  What is shared is not here: the table of states, the
reader of frames, the assembling of content, and how a connection closes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from txamqp091._machine.connection import (
    ConnectionMachine,
    Limits,
    Route,
)
from txamqp091._machine.content import Assembler
from txamqp091._machine.sinks import ConnectionSink
from txamqp091._machine.states import Role, State
from txamqp091.errors import (
    AMQPError,
    ChannelError,
    CommandInvalid,
    ConnectionClosed,
    ProtocolVersionMismatch,
    RemoteProtocolError,
    UnexpectedFrame,
)
from txamqp091.wire import spec
from txamqp091.wire.frames import (
    FRAME_OVERHEAD,
    MESSAGE,
    Piece,
    content_frames,
    frame_name,
    method_frame,
)
from txamqp091.wire.method import Method, decode_method

__all__ = ["ServerChannel", "ServerChannelSink", "ServerMachine", "ServerSink"]


#: How much larger than agreed a frame may be.  RabbitMQ takes such frames: some clients
#: count the payload alone.
_TOLERANCE = FRAME_OVERHEAD


class ServerSink(Protocol):
    """
    What a `ServerMachine` calls.
    """

    def closed(self, reason: AMQPError | None) -> None:
        """
        The AMQP connection is over; see `ConnectionSink.closed`.
        """

    def greeted(self) -> None:
        """
        A client has sent the protocol header: answer with `ServerMachine.start`.
        """

    def authenticating(self, start_ok: spec.ConnectionStartOk) -> None:
        """
        The client has chosen a mechanism: answer with `ServerMachine.challenge`,
        `ServerMachine.tune` or `ServerMachine.close`.
        """

    def responded(self, response: bytes) -> None:
        """
        The client has answered a challenge: as `authenticating`.
        """

    def tuned(self, limits: Limits) -> None:
        """
        The limits are agreed.
        """

    def opening(self, virtual_host: str) -> None:
        """
        The client asks for a virtual host: answer with `ServerMachine.open_ok` or
        `ServerMachine.close`.
        """

    def secret_updated(self, secret: bytes, reason: str) -> None:
        """
        The client has a new secret: answer with `ServerMachine.update_secret_ok` or
        `ServerMachine.close`.
        """

    def channel_opened(self, channel: ServerChannel) -> ServerChannelSink:
        """
        The client has opened a channel, and has been told that it is open.
        """


class ServerChannelSink(Protocol):
    """
    What a `ServerChannel` calls.
    """

    def called(self, method: Method) -> None:
        """
        The client has sent a method without content.
        """

    def published(
        self, method: spec.BasicPublish, header: bytes, body: bytes | None
    ) -> None:
        """
        The client has published a message.

        :param header: the payload of the header frame.
        :param body: the body, or None if it was over the limit and not kept.
        """

    def closed(self) -> None:
        """
        The channel has ended: the client closed it, or the connection is over.
        """


class ServerMachine(ConnectionMachine):
    """
    What may be said when, on one connection, by a broker.

    Where AMQP leaves it open what is to be done about a client that breaks the rules,
    or RabbitMQ has another code for it than AMQP, this does as RabbitMQ.
    """

    def __init__(
        self,
        write: Callable[[Piece], None],
        sink: ServerSink,
        limits: Limits,
        least_frame_max: int = spec.FRAME_MIN_SIZE,
    ) -> None:
        """
        :param write: sends bytes, after all those before.
        :param sink: is told what happens.
        :param least_frame_max: the smallest ``frame_max`` that a client may choose;
            before it has chosen, no frame may be larger.
        """
        # What a client alone is told, the table of states keeps from happening here.
        super().__init__(Role.SERVER, write, cast(ConnectionSink, sink), limits)
        self._server_sink = sink
        self._greeting = b""
        self._least_frame_max = least_frame_max
        self._reader.max_payload = least_frame_max - FRAME_OVERHEAD + _TOLERANCE
        self._open: dict[int, ServerChannel] = {}
        self._routes = self._reader.routes = _Channels(self)

    # -- the handshake -------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """
        Take bytes from the client, of which the first are the protocol header.

        :raises RemoteProtocolError: when the client breaks the rules.
        """
        if self.state is State.NEW:
            data = self._greet(data)
        super().receive(data)

    def _greet(self, data: bytes) -> bytes:
        expected = spec.PROTOCOL_HEADER
        self._greeting += data
        greeting = self._greeting[: len(expected)]
        if not expected.startswith(greeting):
            # AMQP 0-9-1 §4.2.2: say what we speak, and close.
            self._write(expected)
            self._end()
            self._server_sink.closed(
                ProtocolVersionMismatch(f"the client's first bytes are {greeting!r}")
            )
        elif greeting == expected:
            rest = self._greeting[len(expected) :]
            self._greeting = b""
            self.state = State.GREETED
            self._server_sink.greeted()
            return rest
        return b""

    def start(
        self, properties: Mapping[str, Any], mechanisms: bytes, locales: bytes
    ) -> None:
        """
        Introduce ourselves.

        :param mechanisms: the SASL mechanisms, divided by spaces.
        """
        self._say(spec.ConnectionStart(0, 9, dict(properties), mechanisms, locales))

    def _start_ok(self, method: spec.ConnectionStartOk) -> None:
        self._server_sink.authenticating(method)

    def challenge(self, challenge: bytes) -> None:
        """
        Ask for more.
        """
        self._say(spec.ConnectionSecure(challenge))

    def _secure_ok(self, method: spec.ConnectionSecureOk) -> None:
        self._server_sink.responded(method.response)

    def tune(self) -> None:
        """
        The client is who it says; propose our limits.
        """
        ours = self.limits
        self._say(spec.ConnectionTune(ours.channel_max, ours.frame_max, ours.heartbeat))

    def _tune_ok(self, method: spec.ConnectionTuneOk) -> None:
        ours = self.limits
        _check_limit("channel_max", 1, method.channel_max, ours.channel_max)
        _check_limit(
            "frame_max", self._least_frame_max, method.frame_max, ours.frame_max
        )
        self.limits = Limits(
            frame_max=method.frame_max or Limits.frame_max,
            channel_max=method.channel_max,
            heartbeat=method.heartbeat,
            max_body=ours.max_body,
        )
        self._reader.max_payload = self.limits.frame_max - FRAME_OVERHEAD + _TOLERANCE
        self._server_sink.tuned(self.limits)

    def _opening(self, method: spec.ConnectionOpen) -> None:
        self._server_sink.opening(method.virtual_host)

    def open_ok(self) -> None:
        """
        The client may use the virtual host.
        """
        self._say(spec.ConnectionOpenOk())

    # -- the open connection -------------------------------------------------------

    def block(self, reason: str) -> None:
        """
        Ask for no more publishing.
        """
        self._say(spec.ConnectionBlocked(reason))

    def unblock(self) -> None:
        """
        Publishing may go on.
        """
        self._say(spec.ConnectionUnblocked())

    def _secret(self, method: spec.ConnectionUpdateSecret) -> None:
        self._server_sink.secret_updated(method.new_secret, method.reason)

    def update_secret_ok(self) -> None:
        """
        The new secret is good.
        """
        self._say(spec.ConnectionUpdateSecretOk())

    def _expect_method(self, kind: int, payload: Any) -> None:
        try:
            super()._expect_method(kind, payload)
        except CommandInvalid as error:
            # AMQP has 503 for it.
            raise ChannelError(
                error.reply_text, error.class_id, error.method_id
            ) from None

    def open_server_channel(self, number: int) -> None:
        """
        The client asks for a channel.
        """
        if self.state is not State.OPEN:
            raise UnexpectedFrame(
                f"channel.open, while the connection is {self.state.value}"
            )
        last = self.limits.channel_max
        if 0 < last <= len(self._open):
            raise _NotAllowed(
                f"number of channels opened ({len(self._open)}) has reached the "
                f"negotiated channel_max ({last})"
            )
        channel = ServerChannel(
            number,
            self._write,
            self._released,
            max_payload=self.limits.frame_max - FRAME_OVERHEAD,
            max_body=self.limits.max_body,
            spares=self._spares,
        )
        self._open[number] = self._routes[number] = channel
        self._write(method_frame(number, spec.ChannelOpenOk().encode()))
        channel.sink = self._server_sink.channel_opened(channel)

    def _released(self, number: int) -> None:
        del self._open[number]
        self._routes.pop(number, None)

    def violated(self, error: ConnectionClosed) -> None:
        """
        The client has broken the rules: say so, unless it could be anyone still, and
        listen to it no more.
        """
        if self.state in _UNKNOWN:
            self._end()
        super().violated(error)

    def fail(self, reason: AMQPError) -> None:
        """
        End all channels.
        """
        super().fail(reason)
        channels, self._open = self._open, {}
        for channel in channels.values():
            channel.end()

    _handlers = {
        **ConnectionMachine._handlers,
        spec.ConnectionStartOk: _start_ok,
        spec.ConnectionSecureOk: _secure_ok,
        spec.ConnectionTuneOk: _tune_ok,
        spec.ConnectionOpen: _opening,
        spec.ConnectionUpdateSecret: _secret,
    }


#: When a client could be anyone still, and is told nothing.
_UNKNOWN = (State.GREETED, State.STARTED, State.AUTHENTICATING, State.CHALLENGED,
            State.TUNED)  # fmt: skip


class _NotAllowed(RemoteProtocolError):
    """
    530: more than the limits that were proposed, or agreed.
    """

    reply_code = spec.NOT_ALLOWED


def _check_limit(name: str, least: int, theirs: int, ours: int) -> None:
    """
    See whether the client has chosen a limit that is within ours.

    :param ours: what was proposed, 0 being no limit; as is 0 of theirs.
    """
    if 0 < theirs < least:
        bound = f"lower than the minimum allowed value ({least})"
    elif ours and not 0 < theirs <= ours:
        bound = f"higher than the maximum allowed value ({ours})"
    else:
        return
    shown = str(theirs) if theirs else "0 (no limit)"
    raise _NotAllowed(
        f"negotiated {name} = {shown} is {bound}", *spec.ConnectionTune.identity
    )


class _Channels(dict[int, Route]):
    """
    The routes of a server: a channel that is not open is one that may be opened.
    """

    def __init__(self, machine: ServerMachine) -> None:
        super().__init__({0: machine})
        self._machine = machine

    def get(self, number: int, default: object = None) -> Route:
        route = super().get(number)
        return _Unopened(self._machine, number) if route is None else route


class _Unopened:
    """
    A channel that is not open.
    """

    def __init__(self, machine: ServerMachine, number: int) -> None:
        self._machine = machine
        self._number = number

    def expect(self, kind: int, payload: Any, /) -> None:
        """
        Take a frame, which can only be ``channel.open``.
        """
        if kind == MESSAGE:
            payload = payload[0]
        elif kind != spec.FRAME_METHOD:
            raise UnexpectedFrame(
                f"a {frame_name(kind)} frame for channel {self._number}, "
                "which is not open"
            )
        method = decode_method(payload)
        if not isinstance(method, spec.ChannelOpen):
            raise ChannelError(
                f"{method.name} on channel {self._number}, which is not open",
                *method.identity,
            )
        self._machine.open_server_channel(self._number)


class ServerChannel(Assembler):
    """
    The server's end of a channel.

    Theory.  It is open until the client closes it; or until `close` has been called
    *and* the client has answered: in between, all that comes is discarded.

    :ivar number: the channel's number.
    :ivar is_open: whether anything may be sent on it.
    """

    __slots__ = ("_max_payload", "_release", "_write", "is_open", "number", "sink")

    def __init__(
        self,
        number: int,
        write: Callable[[Piece], None],
        release: Callable[[int], None],
        *,
        max_payload: int,
        max_body: int,
        spares: list[bytearray],
    ) -> None:
        """
        :param write: sends bytes.
        :param release: called with the number when it can be used again.
        :param spares: where a buffer for large bodies is kept, for all channels.
        """
        super().__init__(max_body, spares)
        self.number = number
        self.is_open = True
        self.sink: ServerChannelSink
        self._write = write
        self._release = release
        self._max_payload = max_payload

    def send(self, method: Method) -> None:
        """
        Send a method without content.
        """
        if self.is_open:
            self._write(method_frame(self.number, method.encode()))

    def send_content(self, method: Method, properties: bytes, body: bytes) -> None:
        """
        Send a method with content.

        :param properties: flags and values.
        """
        if self.is_open:
            frame = method_frame(self.number, method.encode())
            for data in content_frames(
                self.number, frame, properties, body, self._max_payload
            ):
                self._write(data)

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        Close the channel, and discard what comes until the client has agreed.
        """
        if self.is_open:
            self.send(spec.ChannelClose(reply_code, reply_text, class_id, method_id))
            self.is_open = False
            self.expect = self._expect_close_ok

    def receive_method(self, payload: bytes) -> None:
        method = decode_method(payload)
        if isinstance(method, spec.BasicPublish):
            self.begin(method, self._published, self.max_body)
        elif isinstance(method, spec.ChannelClose):
            self.send(spec.ChannelCloseOk())
            self._release(self.number)
            self.end()
        elif isinstance(method, spec.ChannelOpen):
            raise self._opened_twice()
        else:
            self.sink.called(method)

    def _published(
        self, method: spec.BasicPublish, header: bytes, body: bytes | None
    ) -> None:
        self.sink.published(method, header, body)

    def _expect_header(self, kind: int, payload: bytes) -> None:
        try:
            super()._expect_header(kind, payload)
        except RemoteProtocolError as error:
            raise _about_publishing(error) from None

    def _expect_body(self, kind: int, payload: bytes) -> None:
        try:
            super()._expect_body(kind, payload)
        except RemoteProtocolError as error:
            raise _about_publishing(error) from None

    def _expect_close_ok(self, kind: int, payload: Any) -> None:
        if kind == spec.FRAME_METHOD:
            if payload[:4] == spec.ChannelClose.prefix:  # it crossed ours
                close_ok = spec.ChannelCloseOk().encode()
                self._write(method_frame(self.number, close_ok))
            elif payload[:4] == spec.ChannelCloseOk.prefix:
                self._release(self.number)
                self.ignore_all()
            elif payload[:4] == spec.ChannelOpen.prefix:
                raise self._opened_twice()

    def _opened_twice(self) -> ChannelError:
        return ChannelError("second 'channel.open' seen", *spec.ChannelOpen.identity)

    def end(self) -> None:
        """
        The channel has ended.
        """
        was_open, self.is_open = self.is_open, False
        self.ignore_all()
        if was_open:
            self.sink.closed()


def _about_publishing(error: RemoteProtocolError) -> RemoteProtocolError:
    """
    Only one method of a client's has content.
    """
    error.class_id, error.method_id = spec.BasicPublish.identity
    return error
