# -*- test-case-name: txamqp091.test.unit.testing.test_memory -*-
"""
The in-memory broker's wire side: bytes to calls of the broker, and back.

What a broker does is in `txamqp091.testing._broker.broker`, and knows no bytes; what
may be said when is in `txamqp091._machine.server`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from struct import unpack_from
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091._machine.connection import Limits
from txamqp091._machine.server import ServerChannel, ServerChannelSink, ServerMachine
from txamqp091._machine.states import State
from txamqp091._observer import OneShot
from txamqp091._timers import Heartbeats, Outgoing
from txamqp091._version import __version__
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionLost,
    HeartbeatTimeout,
    RemoteProtocolError,
    printable,
)
from txamqp091.testing._broker.broker import Broker, Refused, User
from txamqp091.testing._broker.sessions import BrokerChannel, Session, has_capability
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

__all__ = ["BrokerFactory", "BrokerProtocol"]

# Not a class's: what is logged, and perhaps kept, would have the protocol in it.
_log = Logger(namespace="txamqp091.testing")

#: How long a client may take to open a connection, and to answer a close: seconds.
_TIMEOUT = 10.0

#: How long a client that has closed its connection may take to hang up: seconds.  A
#: shorter heartbeat takes its place.
_CLOSING_TIMEOUT = 30.0

#: How much is said to a client that takes nothing, beyond what its transport holds,
#: before nothing more is read from it either: bytes.
_EXCESS = 1 << 20

_CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "consumer_priorities": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "direct_reply_to": True,
}

# In the payload of a content header: class (2), weight (2), then these.
_SIZE, _PROPERTIES = 4, 12


class BrokerFactory(ServerFactory):
    """
    Makes the protocol of each client that connects.

    :ivar broker: the broker that they are clients of.
    :ivar protocols: those that are connected.
    """

    noisy = False

    def __init__(
        self, broker: Broker, clock: IReactorTime, limits: Limits | None = None
    ) -> None:
        """
        :param clock: what heartbeats and time limits go by.
        :param limits: what to propose to clients.
        """
        if limits is None:
            limits = Limits(max_body=broker.behaviour.max_message_size)
        self.broker = broker
        self.clock = clock
        self.limits = limits
        self.protocols: set[BrokerProtocol] = set()
        self._idle: OneShot[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> BrokerProtocol:
        """
        Twisted: make a protocol.
        """
        protocol = BrokerProtocol(self.broker, self.clock, self.limits)
        protocol.factory = self
        return protocol

    def connected(self, protocol: BrokerProtocol) -> None:
        """
        A client has connected.
        """
        self.protocols.add(protocol)

    def disconnected(self, protocol: BrokerProtocol) -> None:
        """
        It has gone.
        """
        self.protocols.discard(protocol)
        if not self.protocols and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.fire(None)

    def close_connections(self) -> None:
        """
        Close every connection, as a broker does that shuts down.
        """
        for protocol in list(self.protocols):
            protocol.shut_down()

    def when_idle(self) -> Deferred[None]:
        """
        A Deferred that fires when nobody is connected.
        """
        if self._idle is None:
            self._idle = OneShot()
        idle = self._idle.when_fired()
        if not self.protocols:
            self._idle.fire(None)
            self._idle = None
        return idle


@implementer(IPushProducer)
class BrokerProtocol(Protocol):
    """
    The broker's end of one connection.

    Theory.  A client that takes nothing fills its transport, which then says
    `pauseProducing`: nothing more is delivered to it until the transport has room.  The
    client can still ask for things, and is answered; but when it has not taken
    `_EXCESS` bytes of that either, nothing more is read from it.
    """

    def __init__(self, broker: Broker, clock: IReactorTime, limits: Limits) -> None:
        self._broker = broker
        self._clock = clock
        self._outgoing = Outgoing(clock, self._write)
        self._machine = ServerMachine(
            self._outgoing.write, self, limits, broker.behaviour.least_frame_max
        )
        self._heartbeats: Heartbeats | None = None
        self._limit_call: IDelayedCall | None = None
        self._user: User | None = None
        self._client_properties: dict[str, FieldValue] = {}
        self._session: Session | None = None
        self._full = False
        self._excess = 0
        self._deaf = False
        self._due: list[Callable[[], None]] = []
        self._due_call: IDelayedCall | None = None

    # -- the transport -------------------------------------------------------------

    def connectionMade(self) -> None:
        """
        Twisted: a client has connected.
        """
        cast(BrokerFactory, self.factory).connected(self)
        transport = self._transport()
        transport.registerProducer(self, True)
        if ITCPTransport.providedBy(transport):
            # As RabbitMQ does: or an answer waits for the client's next word.
            transport.setTcpNoDelay(True)
        self._set_limit(_TIMEOUT, self._too_slow)

    def dataReceived(self, data: bytes) -> None:
        """
        Twisted: bytes came.
        """
        if self._heartbeats is not None:
            self._heartbeats.heard()
        self._outgoing.in_turn = True
        try:
            self._machine.receive(data)
        except RemoteProtocolError as error:
            self._note(str(error))
            self._machine.violated(error)
            self.closed(error)
        finally:
            self._outgoing.in_turn = False
        self._outgoing.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Twisted: the client has gone.
        """
        self._end(ConnectionLost("the client has gone"))
        self._clear_limit()
        self._outgoing.stop()
        cast(BrokerFactory, self.factory).disconnected(self)

    def pauseProducing(self) -> None:
        """
        Twisted: the transport is full.
        """
        self._full = True
        self._excess = 0
        if self._session is not None:
            self._session.pause()

    def resumeProducing(self) -> None:
        """
        Twisted: the transport has room again.
        """
        self._full = False
        if self._deaf:
            self._listen()
        # Which may have filled it again.
        if self._session is not None and not self._full:
            self._session.resume()

    def stopProducing(self) -> None:
        """
        Twisted: the transport wants no more; ``connectionLost`` follows.
        """
        self.pauseProducing()

    def _write(self, data: bytes) -> None:
        self._transport().write(data)
        if self._full and not self._deaf:
            self._excess += len(data)
            if self._excess > _EXCESS:
                self._listen_no_more()

    def _listen_no_more(self) -> None:
        self._deaf = True
        self._machine.pause()
        self._transport().pauseProducing()
        if self._heartbeats is not None:
            self._heartbeats.deaf = True

    def _listen(self) -> None:
        self._deaf = False
        if self._heartbeats is not None:
            self._heartbeats.deaf = False
        self._transport().resumeProducing()
        self._machine.resume()
        self.dataReceived(b"")

    def _transport(self) -> Any:
        assert self.transport is not None
        return self.transport

    def _abort(self) -> None:
        self._transport().abortConnection()

    def _too_slow(self) -> None:
        self._note("it did not open its connection in time")
        self._abort()

    def _set_limit(self, seconds: float, expired: Callable[[], None]) -> None:
        self._clear_limit()
        self._limit_call = self._clock.callLater(seconds, expired)

    def _clear_limit(self) -> None:
        if self._limit_call is not None and self._limit_call.active():
            self._limit_call.cancel()
        self._limit_call = None

    # -- the end -------------------------------------------------------------------

    def _end(self, reason: AMQPError) -> None:
        if self._heartbeats is not None:
            self._heartbeats.stop()
        self._leave()
        self._machine.lost(reason)
        if self._due_call is not None:
            self._due_call.cancel()
            self._due_call = None

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """
        Call something when this turn of the reactor ends: see
        `SessionSink.at_turn_end`.
        """
        self._due.append(call)
        if self._due_call is None:
            self._due_call = self._clock.callLater(0, self._turn_ends)

    def _turn_ends(self) -> None:
        self._due_call = None
        due, self._due = self._due, []
        self._outgoing.in_turn = True
        for call in due:
            call()
        self._outgoing.in_turn = False
        self._outgoing.flush()

    def _leave(self) -> None:
        # Before the machine ends the channels one by one: none of them shall get what
        # another leaves behind.
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def closed(self, reason: AMQPError | None) -> None:
        """
        AMQP is over: see `txamqp091._machine.server.ServerSink.closed`.
        """
        self._end(ConnectionClosed("closed") if reason is None else reason)
        if reason is None or isinstance(reason, RemoteProtocolError):
            self._drop()
        else:
            self._await_hang_up()

    def _await_hang_up(self) -> None:
        """
        Leave it to the client to close the socket, and discard what still comes.
        """
        self._outgoing.flush()
        heartbeat = self._machine.limits.heartbeat or _CLOSING_TIMEOUT
        self._set_limit(min(heartbeat, _CLOSING_TIMEOUT), self._drop)

    def _drop(self) -> None:
        """
        Let the transport go, once the client has taken what was said.
        """
        self._outgoing.flush()
        self._set_limit(_TIMEOUT, self._abort)
        transport = self._transport()
        transport.unregisterProducer()
        transport.resumeProducing()
        transport.loseConnection()

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker closes the connection: see `SessionSink.close`.
        """
        self._leave()
        if self._machine.state in (State.CLOSING, State.CLOSED):
            return
        self._machine.close(
            ConnectionClosed(
                reply_text,
                reply_code=reply_code,
                class_id=class_id,
                method_id=method_id,
            )
        )
        self._set_limit(_TIMEOUT, self._abort)

    def shut_down(self) -> None:
        """
        The broker goes.
        """
        if self._session is None:
            self._abort()
        else:
            problem = "broker forced connection closure with reason 'shutdown'"
            self._session.end(Refused(spec.CONNECTION_FORCED, problem, connection=True))

    def _refuse(self, refusal: Refused, class_id: int = 0, method_id: int = 0) -> None:
        self.close(refusal.reply_code, refusal.reply_text, class_id, method_id)

    def _fell_silent(self, seconds: int) -> None:
        problem = f"nothing was heard for {seconds} s"
        self._note(problem)
        self._end(HeartbeatTimeout(problem))
        self._abort()

    def _note(self, problem: str) -> None:
        peer = self._transport().getPeer()
        _log.info("{peer}: {problem}", peer=peer, problem=printable(problem))

    # -- what the machine calls: see `ServerSink` ------------------------------------

    def greeted(self) -> None:
        """
        The client speaks AMQP 0-9-1.
        """
        properties = {
            "product": "txamqp091 MemoryBroker",
            "version": self._broker.version,
            "platform": f"Python {platform.python_version()}",
            "information": f"txamqp091 {__version__}; keeps nothing",
            "cluster_name": "memory@localhost",
            "capabilities": dict(_CAPABILITIES),
        }
        self._machine.start(properties, b" ".join(self._mechanisms()), b"en_US")

    def _mechanisms(self) -> list[bytes]:
        mechanisms = [b"PLAIN", b"AMQPLAIN"]
        if self._broker.behaviour.anonymous:
            mechanisms.append(b"ANONYMOUS")
        return mechanisms

    def authenticating(self, start_ok: spec.ConnectionStartOk) -> None:
        """
        The client says who it is.
        """
        self._client_properties = dict(start_ok.client_properties)
        mechanism = start_ok.mechanism
        offered = mechanism.encode(errors="replace") in self._mechanisms()
        try:
            self._user = self._broker.authenticate(mechanism, start_ok.response)
        except Refused as refusal:
            self._note(refusal.reply_text)
            if offered and self.can("authentication_failure_close"):
                self._refuse(refusal)
                return
        if self._user is None or not offered:
            # To such a client, or one that could not understand it, nothing is said.
            self._end(ConnectionClosed("not let in"))
            self._drop()
        else:
            self._machine.tune()

    def can(self, capability: str) -> bool:
        """
        Whether the client has said that it understands something.
        """
        return has_capability(self._client_properties, capability)

    def responded(self, response: bytes) -> None:
        """
        No mechanism of ours asks for more.
        """

    def tuned(self, limits: Limits) -> None:
        """
        The limits are agreed.
        """
        self._heartbeats = Heartbeats(
            self._clock,
            limits.heartbeat,
            self._outgoing,
            self._machine.heartbeat,
            self._fell_silent,
        )

    def opening(self, virtual_host: str) -> None:
        """
        The client asks for a virtual host.
        """
        assert self._user is not None
        try:
            self._session = self._broker.open_session(self._user, virtual_host, self)
        except Refused as refusal:
            self._refuse(refusal, *spec.ConnectionOpen.identity)
        else:
            self._clear_limit()
            self._session.client_properties = self._client_properties
            self._machine.open_ok()

    def secret_updated(self, secret: bytes, reason: str) -> None:
        """
        The client has a new secret.
        """
        assert self._session is not None
        try:
            self._session.update_secret(secret, reason)
        except Refused as refusal:
            self._refuse(refusal, *spec.ConnectionUpdateSecret.identity)
        else:
            self._machine.update_secret_ok()

    def channel_opened(self, channel: ServerChannel) -> ServerChannelSink:
        """
        The client has opened a channel.
        """
        assert self._session is not None
        return _Bridge(self, self._session, channel)

    # -- what the broker calls: see `SessionSink` ------------------------------------

    def block(self, reason: str) -> None:
        """
        The broker is short of something.
        """
        if self.can("connection.blocked"):
            self._machine.block(reason)

    def unblock(self) -> None:
        """
        It is not any more.
        """
        if self.can("connection.blocked"):
            self._machine.unblock()


class _Bridge:
    """
    One channel: between its machine and the broker's idea of it.
    """

    def __init__(
        self, connection: BrokerProtocol, session: Session, channel: ServerChannel
    ) -> None:
        self._connection = connection
        self._machine = channel
        self._channel: BrokerChannel = session.open_channel(channel.number, self)

    # -- what the machine calls: see `ServerChannelSink` -----------------------------

    def called(self, method: Method) -> None:
        """
        The client has sent a method.
        """
        self._try(method, lambda: self._channel.handle(method))

    def published(
        self, method: spec.BasicPublish, header: bytes, body: bytes | None
    ) -> None:
        """
        The client has published a message.
        """
        if body is None:
            limit = self._machine.max_body
            [size] = unpack_from(">Q", header, _SIZE)
            problem = f"message size {size} is larger than configured max size {limit}"
            self._refuse(Refused(spec.PRECONDITION_FAILED, problem), method)
            return
        properties = Properties.from_wire(header[_PROPERTIES:])
        self._try(method, lambda: self._channel.publish(method, properties, body))

    def closed(self) -> None:
        """
        The client has closed the channel, or has gone.
        """
        self._channel.close()

    def _try(self, method: Method, action: Callable[[], None]) -> None:
        """
        Do something, and close the channel or the connection if the broker refuses.
        """
        try:
            action()
        except Refused as refusal:
            self._refuse(refusal, method)

    def _refuse(self, refusal: Refused, method: Method) -> None:
        where = self._connection.close if refusal.connection else self.close
        identity = method.identity if refusal.names_method else ()
        where(refusal.reply_code, refusal.reply_text, *identity)

    # -- what the broker calls: see `ChannelSink` --------------------------------------

    def send(self, method: Method) -> None:
        """
        Send a method.
        """
        if type(method) is not spec.BasicCancel or self._connection.can(
            "consumer_cancel_notify"
        ):
            self._machine.send(method)

    def deliver(self, method: Method, properties: Properties, body: bytes) -> None:
        """
        Send a message.
        """
        self._machine.send_content(method, properties.encode(), body)

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker closes the channel.
        """
        self._channel.close()
        self._machine.close(reply_code, reply_text, class_id, method_id)
