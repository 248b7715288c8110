# -*- test-case-name: txamqp091.test.test_memory_server -*-
"""
The in-memory broker's wire side: bytes to calls of the broker, and back.

What a broker does is in `txamqp091.testing.broker`, and knows no bytes; what may be
said when is in `txamqp091._machine.server`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IReactorTCP,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from txamqp091._machine.connection import Limits
from txamqp091._machine.server import ServerChannel, ServerChannelSink, ServerMachine
from txamqp091._timers import Heartbeats, Outgoing
from txamqp091._version import __version__
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionLost,
    HeartbeatTimeout,
    RemoteProtocolError,
)
from txamqp091.testing.broker import MemoryBroker, Refused, User
from txamqp091.testing.network import MemoryEndpoint
from txamqp091.testing.sessions import BrokerChannel, Session
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

__all__ = ["BrokerFactory", "BrokerProtocol", "endpoint", "listen"]

#: How long a client may take to open a connection, and to answer a close: seconds.
_PATIENCE = 10.0

_MECHANISMS = b"PLAIN AMQPLAIN"

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

# In the payload of a content header: class (2), weight (2), size (8), then these.
_PROPERTIES = 12


def endpoint(broker: MemoryBroker) -> MemoryEndpoint:
    """
    A client endpoint for a broker, in memory; driven by the broker's clock.
    """
    return MemoryEndpoint(broker.clock, BrokerFactory(broker, broker.clock))


def listen(
    broker: MemoryBroker,
    reactor: IReactorTCP,
    port: int = 0,
    interface: str = "127.0.0.1",
) -> IListeningPort:
    """
    Serve a broker to any AMQP client, over TCP.

    :param port: 0 for one that is free.
    """
    factory = BrokerFactory(broker, cast(IReactorTime, reactor))
    return reactor.listenTCP(port, factory, interface=interface)


class BrokerFactory(ServerFactory):
    """
    Makes the protocol of each client that connects.
    """

    noisy = False

    def __init__(
        self, broker: MemoryBroker, clock: IReactorTime, limits: Limits | None = None
    ) -> None:
        self.broker = broker
        self.clock = clock
        self.limits = Limits() if limits is None else limits

    def buildProtocol(self, addr: IAddress | None) -> BrokerProtocol:
        """
        Twisted: make a protocol.
        """
        protocol = BrokerProtocol(self.broker, self.clock, self.limits)
        protocol.factory = self
        return protocol


class BrokerProtocol(Protocol):
    """
    The broker's end of one connection.
    """

    def __init__(
        self, broker: MemoryBroker, clock: IReactorTime, limits: Limits
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._outgoing = Outgoing(clock, self._write)
        self._machine = ServerMachine(self._outgoing.write, self, limits)
        self._heartbeats: Heartbeats | None = None
        self._limit_call: IDelayedCall | None = None
        self._user: User | None = None
        self._client_properties: dict[str, FieldValue] = {}
        self._session: Session | None = None

    # -- the transport -------------------------------------------------------------

    def connectionMade(self) -> None:
        """
        Twisted: a client has connected.
        """
        self._set_limit(self._abort)

    def dataReceived(self, data: bytes) -> None:
        """
        Twisted: bytes came.
        """
        if self._heartbeats is not None:
            self._heartbeats.heard_at = self._clock.seconds()
        self._outgoing.in_turn = True
        try:
            self._machine.receive(data)
        except RemoteProtocolError as error:
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

    def _end(self, reason: AMQPError) -> None:
        if self._heartbeats is not None:
            self._heartbeats.stop()
        self._machine.lost(reason)
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def _abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _set_limit(self, expired: Callable[[], None]) -> None:
        self._clear_limit()
        self._limit_call = self._clock.callLater(_PATIENCE, expired)

    def _clear_limit(self) -> None:
        if self._limit_call is not None and self._limit_call.active():
            self._limit_call.cancel()
        self._limit_call = None

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
        self._machine.start(properties, _MECHANISMS, b"en_US")

    def authenticating(self, start_ok: spec.ConnectionStartOk) -> None:
        """
        The client says who it is.
        """
        self._client_properties = dict(start_ok.client_properties)
        try:
            self._user = self._broker.authenticate(
                start_ok.mechanism, start_ok.response
            )
        except Refused as refusal:
            self._refuse(refusal, spec.ConnectionStartOk)
        else:
            self._machine.tune()

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

    def _fell_silent(self, seconds: int) -> None:
        self._end(HeartbeatTimeout(f"nothing was heard for {seconds} s"))
        self._abort()

    def opening(self, virtual_host: str) -> None:
        """
        The client asks for a virtual host.
        """
        assert self._user is not None
        try:
            self._session = self._broker.open_session(self._user, virtual_host, self)
        except Refused as refusal:
            self._refuse(refusal, spec.ConnectionOpen)
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
            self._refuse(refusal, spec.ConnectionUpdateSecret)
        else:
            self._machine.update_secret_ok()

    def channel_opened(self, channel: ServerChannel) -> ServerChannelSink:
        """
        The client has opened a channel.
        """
        assert self._session is not None
        return _Bridge(self, self._session, channel)

    def closed(self, reason: AMQPError | None) -> None:
        """
        AMQP is over.
        """
        self._outgoing.flush()
        self._end(ConnectionClosed("closed") if reason is None else reason)
        self._set_limit(self._abort)
        assert self.transport is not None
        self.transport.loseConnection()

    # -- what the broker calls: see `SessionSink` ------------------------------------

    def block(self, reason: str) -> None:
        """
        The broker is short of something.
        """
        self._machine.block(reason)

    def unblock(self) -> None:
        """
        It is not any more.
        """
        self._machine.unblock()

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker closes the connection.
        """
        session, self._session = self._session, None
        self._machine.close(
            ConnectionClosed(
                reply_text,
                reply_code=reply_code,
                class_id=class_id,
                method_id=method_id,
            )
        )
        if session is not None:
            session.close()
        self._set_limit(self._abort)

    def _refuse(self, refusal: Refused, method: type[Method]) -> None:
        self.close(refusal.reply_code, refusal.reply_text, *method.identity)


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
            self._machine.close(
                spec.PRECONDITION_FAILED,
                f"PRECONDITION_FAILED - message size is larger than max size {limit}",
                *method.identity,
            )
            self._channel.close()
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
            where = self._connection.close if refusal.connection else self.close
            where(refusal.reply_code, refusal.reply_text, *method.identity)

    # -- what the broker calls: see `ChannelSink` --------------------------------------

    def send(self, method: Method) -> None:
        """
        Send a method.
        """
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
        self._machine.close(reply_code, reply_text, class_id, method_id)
        self._channel.close()
