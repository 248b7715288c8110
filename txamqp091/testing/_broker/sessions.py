# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
One AMQP connection, as the in-memory broker sees it.

A `Session` has a user, a virtual host and channels; what a channel may do is in
`txamqp091.testing._broker.channels`.  `SessionSink` and `ChannelSink` are what the
broker calls, and the wire side implements.  The broker has changed its own state before
it calls a sink, so a sink may call back at once; and a sink does not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from txamqp091.testing._broker.channels import BrokerChannel, close_channels
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import Refused, access_refused, shown
from txamqp091.testing._broker.users import User
from txamqp091.testing._broker.vhosts import VirtualHost
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing._broker.broker import Broker

__all__ = [
    "BrokerChannel",
    "ChannelSink",
    "Refused",
    "Session",
    "SessionSink",
    "has_capability",
]


class SessionSink(Protocol):
    """
    What a `Session` calls.
    """

    def block(self, reason: str) -> None:
        """
        The broker is short of something: the client shall not publish.
        """

    def unblock(self) -> None:
        """
        It is not any more.
        """

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """
        Call something when this turn of the reactor ends, unless the connection has
        ended by then.
        """

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker ends the connection.  The session has ended already.
        """


class ChannelSink(Protocol):
    """
    What a `BrokerChannel` calls.
    """

    def send(self, method: Method) -> None:
        """
        A method without content, for the client.
        """

    def deliver(self, method: Method, properties: Properties, body: bytes) -> None:
        """
        A message for the client: a ``BasicDeliver``, ``BasicReturn`` or ``BasicGetOk``
        with its content.
        """

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker ends the channel.  The `BrokerChannel` has ended already.
        """


class Session:
    """
    A connection; made by `Broker.open_session`.

    :ivar broker: the broker.
    :ivar user: who it is.
    :ivar vhost: where it is.
    :ivar sink: whom it calls.
    :ivar channels: the open ones, by number.
    :ivar client_properties: what the client said of itself.
    :ivar secret: what the client last gave with ``connection.update-secret``, or None.
    :ivar exclusive_queues: the queues that go when it does.
    :ivar is_open: whether it has not ended.
    :ivar is_paused: whether its consumers get nothing at the moment.
    """

    def __init__(
        self, broker: Broker, user: User, vhost: VirtualHost, sink: SessionSink
    ) -> None:
        self.broker = broker
        self.user = user
        self.vhost = vhost
        self.sink = sink
        self.channels: dict[int, BrokerChannel] = {}
        self.client_properties: dict[str, FieldValue] = {}
        self.secret: bytes | None = None
        self.exclusive_queues: dict[AnyQueue, None] = {}
        self.is_open = True
        self.is_paused = False
        self._told_blocked = False

    def __repr__(self) -> str:
        return f"<Session of {self.user.name!r}, {len(self.channels)} channels>"

    def open_channel(self, number: int, sink: ChannelSink) -> BrokerChannel:
        """
        The client has opened a channel.
        """
        channel = self.channels[number] = BrokerChannel(self, number, sink)
        self.tell_blocked()
        return channel

    def tell_blocked(self) -> None:
        """
        Tell the client whether the broker is short of something, if it has not been
        told.
        """
        reason = self.broker.blocked_for
        if reason is not None and not self._told_blocked:
            self._told_blocked = True
            self.sink.block(reason)
        elif reason is None and self._told_blocked:
            self._told_blocked = False
            self.sink.unblock()

    def pause(self) -> None:
        """
        The client does not take what it is sent: deliver no more.
        """
        self.is_paused = True

    def resume(self) -> None:
        """
        It does again: deliver what has waited for that.
        """
        self.is_paused = False
        for channel in list(self.channels.values()):
            channel.resume()

    def update_secret(self, secret: bytes, reason: str) -> None:
        """
        The client has a new secret; the broker keeps it, and does not look at it.
        """
        self.secret = secret

    def end(self, refusal: Refused) -> None:
        """
        The broker closes the connection of its own accord.
        """
        if self.is_open:
            self.close()
            self.sink.close(refusal.reply_code, refusal.reply_text)

    def close(self) -> None:
        """
        The connection has ended: unacknowledged deliveries go back to their queues, and
        exclusive queues go.  Closing again does nothing.
        """
        if not self.is_open:
            return
        self.is_open = False
        self.broker.forget(self)
        close_channels(list(self.channels.values()))
        for queue in list(self.exclusive_queues):
            self.vhost.delete_queue(queue)

    def can(self, capability: str) -> bool:
        """
        Whether the client has said that it understands something.
        """
        return has_capability(self.client_properties, capability)

    def check(self, permission: str, kind: str, name: str) -> None:
        """
        See whether the user may do something to a queue or an exchange.

        :param permission: ``configure``, ``write`` or ``read``.
        :raises Refused: 403, the user may not.
        """
        if kind == "exchange":
            name = name or "amq.default"
        if not self.user.may(permission, self.vhost.name, name):
            what = "access"
            if self.broker.behaviour.names_permission:
                what = f"{permission} access"
            raise access_refused(
                f"{what} to {shown(kind, name, self.vhost.name)} refused for user "
                f"'{self.user.name}'"
            )


def has_capability(properties: Mapping[str, FieldValue], capability: str) -> bool:
    """
    Whether a client says that it understands something.

    :param properties: what the client says of itself.
    """
    capabilities = properties.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get(capability) is True
