# -*- test-case-name: txamqp091.test.unit.machine.test_connection -*-
"""
The connection: handshake, tuning, channel 0, routing, closing.

Theory.  ``state`` follows the table in `txamqp091._machine.states`, and nothing else.
All bytes come in through `receive`.  What waits for the peer is in one of two places,
the answers due on channel 0 and the channels.  `fail` empties both, and is the only way
in which a connection ends for its users.

The machine has no clock: its driver has the time limits, heartbeats and the transport.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from txamqp091._machine.channel import ChannelMachine
from txamqp091._machine.replies import Replies
from txamqp091._machine.sinks import ConnectionSink, ConsumerSink, ReplyHandle
from txamqp091._machine.states import Role, State, received, sent
from txamqp091.errors import (
    AMQPError,
    ChannelError,
    ChannelsExhausted,
    ConnectionClosed,
    DecodeError,
    LocalProtocolError,
    ProtocolVersionMismatch,
    UnexpectedFrame,
    connection_closed,
)
from txamqp091.wire import spec
from txamqp091.wire.frames import (
    FRAME_OVERHEAD,
    HEARTBEAT,
    MESSAGE,
    FrameReader,
    Piece,
    frame_name,
    method_frame,
)
from txamqp091.wire.method import Method, decode_method, operation_name

__all__ = ["ConnectionMachine", "Limits", "Route", "negotiate"]

_MAX_CHANNELS = 65535


@dataclass(frozen=True)
class Limits:
    """
    The limits of this side; the handshake lowers them to those of both sides.

    :ivar frame_max: the largest frame, in octets.
    :ivar channel_max: the highest channel number.
    :ivar heartbeat: the seconds between heartbeats; 0 switches them off.
    :ivar max_body: the largest body of a message, in octets.
    """

    frame_max: int = 131072
    channel_max: int = 2047
    heartbeat: int = 60
    max_body: int = 64 << 20


def negotiate(ours: int, theirs: int) -> int:
    """
    The lower of two limits, where 0 is no limit.
    """
    return min(ours, theirs) if ours and theirs else max(ours, theirs)


class Route(Protocol):
    """
    The receiver of the frames of a channel number.
    """

    def expect(self, kind: int, payload: Any, /) -> None:
        """
        Take a frame, or a message; see `FrameReader.feed`.
        """


class ConnectionMachine:
    """
    The protocol of one connection: which method can come or be sent, and when.

    :ivar role: the end that this side is.
    :ivar state: the state of the conversation.
    :ivar limits: this side's limits before the handshake, both sides' after it.
    """

    def __init__(
        self,
        role: Role,
        write: Callable[[Piece], None],
        sink: ConnectionSink,
        limits: Limits,
    ) -> None:
        """
        :param write: sends bytes, after all those before.
        :param sink: is told what happens.
        """
        self.role = role
        self.state = State.NEW
        self.limits = limits
        self.expect: Callable[[int, Any], None] = self._expect_method
        self._write = write
        self._sink = sink
        self._replies = Replies()
        self._channels: dict[int, ChannelMachine] = {}
        # Channels that the peer owes answers, and some that it owes none any more.
        self._waiting: set[ChannelMachine] = set()
        # The first number that was never used, and those that are free again.
        self._next_number = 1
        self._free_numbers: deque[int] = deque()
        self._routes: dict[int, Route] = {0: self}
        self._reader: FrameReader[Route] = FrameReader(self._routes)
        self._virtual_host = "/"
        self._spares: list[bytearray] = []

    # -- bytes in --------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """
        Take bytes from the peer.

        :raises RemoteProtocolError: when the peer violates the protocol.  Tell the peer
            by `violated`, and drop the transport.
        """
        if self.state is not State.CLOSED:  # else the bytes have no receiver
            for route, kind, payload in self._reader.feed(data):
                route.expect(kind, payload)

    def pause(self) -> None:
        """
        Pass on no frames until `resume`.
        """
        self._reader.paused = True

    def resume(self) -> None:
        """
        Pass on frames again: receive ``b""`` for those that came before.
        """
        if self.state is not State.CLOSED:
            self._reader.paused = False

    def _expect_method(self, kind: int, payload: Any) -> None:
        if kind != spec.FRAME_METHOD:
            raise UnexpectedFrame(f"a {frame_name(kind)} frame on channel 0")
        method = decode_method(payload)
        self.state = received(self.role, self.state, type(method))
        if self.state is not State.CLOSING:
            self._handlers[type(method)](self, method)

    # -- the handshake, the client's side --------------------------------------

    def begin(self) -> None:
        """
        Send the protocol header, which is the first thing on a connection.
        """
        self.state = State.GREETED
        self._write(spec.PROTOCOL_HEADER)

    def _started(self, start: spec.ConnectionStart) -> None:
        version = (start.version_major, start.version_minor)
        if version != (0, 9):
            raise ProtocolVersionMismatch(
                f"the peer speaks AMQP version {version[0]}.{version[1]}, not 0.9",
                *start.identity,
            )
        self._sink.started(start)

    def start_ok(
        self,
        client_properties: Mapping[str, Any],
        mechanism: str,
        response: bytes,
        locale: str,
        virtual_host: str,
    ) -> None:
        """
        Choose a SASL mechanism and give its first response.

        :param virtual_host: the virtual host to open later.
        """
        self._virtual_host = virtual_host
        self._say(
            spec.ConnectionStartOk(dict(client_properties), mechanism, response, locale)
        )

    def _challenged(self, secure: spec.ConnectionSecure) -> None:
        self._sink.challenged(secure.challenge)

    def secure_ok(self, response: bytes) -> None:
        """
        Answer the mechanism's challenge.
        """
        self._say(spec.ConnectionSecureOk(response))

    def _tuned(self, tune: spec.ConnectionTune) -> None:
        if 0 < tune.frame_max < spec.FRAME_MIN_SIZE:
            raise DecodeError(
                f"connection.tune: a frame_max of {tune.frame_max}, "
                f"below {spec.FRAME_MIN_SIZE}",
                *tune.identity,
            )
        ours = self.limits
        self.limits = Limits(
            frame_max=negotiate(ours.frame_max, tune.frame_max) or Limits.frame_max,
            channel_max=negotiate(ours.channel_max, tune.channel_max) or _MAX_CHANNELS,
            # 0 from us switches heartbeats off, whatever the peer proposes.
            heartbeat=ours.heartbeat and negotiate(ours.heartbeat, tune.heartbeat),
            max_body=ours.max_body,
        )
        self._reader.max_payload = self.limits.frame_max - FRAME_OVERHEAD
        self._say(
            spec.ConnectionTuneOk(
                self.limits.channel_max, self.limits.frame_max, self.limits.heartbeat
            )
        )
        self._say(spec.ConnectionOpen(self._virtual_host, "", False))

    def _opened(self, _: spec.ConnectionOpenOk) -> None:
        self._sink.opened()

    # -- the open connection ---------------------------------------------------

    def open_channel(
        self,
        attach: Callable[[ChannelMachine], None],
        handle: ReplyHandle,
        number: int | None = None,
    ) -> ChannelMachine:
        """
        Ask for a new channel.

        :param attach: gives the machine its sink, before anything is sent.
        :param handle: waits for the answer.
        :param number: its number; None is the next free one.
        :raises ChannelsExhausted: when all numbers are taken.
        :raises LocalProtocolError: when the connection is not open, or the number is
            not free.
        """
        if self.state is not State.OPEN:
            raise LocalProtocolError(
                f"channel.open, while the connection is {self.state.value}"
            )
        if number is None:
            number = self._free_number()
        else:
            self._take_number(number)
        channel = ChannelMachine(
            number,
            self._write,
            self._release,
            self._waiting.add,
            max_payload=self.limits.frame_max - FRAME_OVERHEAD,
            max_body=self.limits.max_body,
            spares=self._spares,
            templates=self._reader.templates,
        )
        attach(channel)
        self._channels[number] = channel
        ended = self._routes.get(number)
        if isinstance(ended, _Ended):
            ended.successor = channel
        else:
            self._routes[number] = channel
        channel.call(spec.ChannelOpen(), handle)
        return channel

    def _free_number(self) -> int:
        last = self.limits.channel_max
        if self._next_number <= last:
            self._next_number += 1
            return self._next_number - 1
        if not self._free_numbers:
            raise ChannelsExhausted(
                f"all {last} channels of the connection are in use: close some, or "
                "open another connection (or raise channel_max, here and at the broker)"
            )
        return self._free_numbers.popleft()

    def _take_number(self, number: int) -> None:
        if not 1 <= number <= self.limits.channel_max:
            raise LocalProtocolError(
                f"a channel's number is from 1 to {self.limits.channel_max}, not "
                f"{number}"
            )
        while self._next_number <= number:
            self._free_numbers.append(self._next_number)
            self._next_number += 1
        if number not in self._free_numbers:
            raise LocalProtocolError(f"channel {number} is in use")
        self._free_numbers.remove(number)

    def _release(self, number: int, by_peer: bool) -> None:
        """
        Free the number of a channel that has ended.
        """
        self._waiting.discard(self._channels.pop(number))
        self._free_numbers.append(number)
        if by_peer:
            self._routes[number] = _Ended(number, self._routes)
        else:
            self._routes.pop(number, None)

    def _blocked(self, method: spec.ConnectionBlocked) -> None:
        self._sink.blocked_by(method.reason)

    def _unblocked(self, _: spec.ConnectionUnblocked) -> None:
        self._sink.unblocked()

    def update_secret(self, secret: bytes, reason: str, handle: ReplyHandle) -> None:
        """
        Give the broker a new secret; the answer goes to ``handle``.
        """
        method = spec.ConnectionUpdateSecret(secret, reason)
        self._say(method)
        self._replies.expect(method, handle)

    def _answered(self, method: Method) -> None:
        self._replies.take(method).callback(method)

    def answers_due(self) -> bool:
        """
        Whether the peer owes an answer.
        """
        while self._waiting:
            channel = self._waiting.pop()
            if channel.answers_due():
                self._waiting.add(channel)
                return True
        return bool(self._replies)

    def consumers(self) -> list[ConsumerSink]:
        """
        The consumers of all channels.
        """
        channels = self._channels.values()
        return [sink for channel in channels for sink in channel.consumers.values()]

    def heartbeat(self) -> None:
        """
        Send a heartbeat.
        """
        self._write(HEARTBEAT)

    # -- the end ---------------------------------------------------------------

    def close(self, reason: ConnectionClosed) -> None:
        """
        Send ``connection.close``, with the code and the text of a reason.  Everything
        that waits for the peer fails with the reason now; ``sink.closed(None)`` tells
        when the peer has agreed.
        """
        self._say(
            spec.ConnectionClose(
                reason.reply_code,
                _short(reason.reply_text),
                reason.class_id,
                reason.method_id,
            )
        )
        self.fail(reason)

    def violated(self, error: ConnectionClosed) -> None:
        """
        Send ``connection.close`` with the code and the text of an error, and ignore all
        that the peer sends: it has violated the protocol, or sends too much.
        """
        talking = self.state not in _SILENT
        self._end()
        if talking:
            close = spec.ConnectionClose(
                error.reply_code,
                _short(error.reply_text),
                error.class_id,
                error.method_id,
            )
            self._write(method_frame(0, close.encode()))

    def _closed_by_peer(self, method: spec.ConnectionClose) -> None:
        self._write(method_frame(0, spec.ConnectionCloseOk().encode()))
        operation = operation_name(method.class_id, method.method_id)
        reason = connection_closed(
            method.reply_code,
            method.reply_text,
            method.class_id,
            method.method_id,
            operation,
        )
        self._end()
        self._sink.closed(reason)

    def _close_agreed(self, _: spec.ConnectionCloseOk) -> None:
        self._end()
        self._sink.closed(None)

    def _end(self) -> None:
        self.state = State.CLOSED
        self._reader.paused = True

    def fail(self, reason: AMQPError) -> None:
        """
        Fail everything that waits for the peer.  There is no channel after that.
        """
        self._reader.routes = _OnlyChannelZero({0: self})
        channels, self._channels = self._channels, {}
        self._routes.clear()
        self._waiting.clear()
        self._replies.fail(reason)
        for channel in channels.values():
            channel.fail(reason)

    def leave(self, reason: AMQPError) -> None:
        """
        Refuse everything from now on, and tell nothing that waits: the connection is
        another process's.
        """
        self._end()
        for channel in self._channels.values():
            channel.reason = reason

    def lost(self, reason: AMQPError) -> None:
        """
        Send and receive nothing more: the transport has gone, or is about to.
        """
        self._end()
        self.fail(reason)

    def _say(self, method: Method) -> None:
        data = method_frame(0, method.encode())
        self.state = sent(self.role, self.state, type(method))
        self._write(data)

    #: The receivers of the methods that can come.
    _handlers: ClassVar[dict[type[Method], Callable[..., None]]] = {
        spec.ConnectionStart: _started,
        spec.ConnectionSecure: _challenged,
        spec.ConnectionTune: _tuned,
        spec.ConnectionOpenOk: _opened,
        spec.ConnectionBlocked: _blocked,
        spec.ConnectionUnblocked: _unblocked,
        spec.ConnectionUpdateSecretOk: _answered,
        spec.ConnectionClose: _closed_by_peer,
        spec.ConnectionCloseOk: _close_agreed,
    }


#: When a close cannot be sent: the peer has not spoken AMQP yet, or has ours.
_SILENT = (State.NEW, State.GREETED, State.CLOSING, State.CLOSED)


def _short(text: str) -> str:
    """
    The part of a text that a close has room for.
    """
    return text.encode("utf-8", "replace")[:255].decode("utf-8", "ignore")


class _Ended:
    """
    Takes what the peer still says on a channel that it has closed: until RabbitMQ has
    read our ``close-ok``, it delivers, confirms and returns there (rabbitmq-server
    issue 13384).  All of that comes before the number's next channel is open.

    :ivar successor: that channel, once there is one.
    """

    __slots__ = ("_number", "_routes", "successor")

    def __init__(self, number: int, routes: dict[int, Route]) -> None:
        """
        :param routes: where the successor takes our place.
        """
        self.successor: ChannelMachine | None = None
        self._number = number
        self._routes = routes

    def expect(self, kind: int, payload: Any, /) -> None:
        """
        Drop what comes too late: the broker has it again.
        """
        if kind == MESSAGE:
            kind, payload = spec.FRAME_METHOD, payload[0]
        if kind != spec.FRAME_METHOD:
            return
        prefix = payload[:4]
        if self.successor is not None and prefix in _FIRST_ANSWERS:
            self._routes[self._number] = self.successor
            self.successor.expect(kind, payload)
        elif prefix not in _LATE:
            raise ChannelError(
                f"a method frame for channel {self._number}, which is not open"
            )


#: What answers a ``channel.open``.
_FIRST_ANSWERS = (spec.ChannelOpenOk.prefix, spec.ChannelClose.prefix)

#: What RabbitMQ may say on a channel that it has closed: what its queues make it say.
_LATE = (
    spec.BasicDeliver.prefix,
    spec.BasicReturn.prefix,
    spec.BasicAck.prefix,
    spec.BasicNack.prefix,
    spec.BasicCancel.prefix,
    spec.BasicConsumeOk.prefix,
    spec.BasicCancelOk.prefix,
)


class _Deaf:
    """
    Takes the frames of channels that ended with the connection.
    """

    def expect(self, kind: int, payload: Any, /) -> None:
        """
        AMQP 0-9-1 §2.2.4: after close, all frames but close and close-ok are
        discarded.
        """


class _OnlyChannelZero(dict[int, Route]):
    """
    The routes of a connection that is closing.
    """

    _deaf = _Deaf()

    def get(self, number: int, default: object = None) -> Route:
        return self[0] if number == 0 else self._deaf
