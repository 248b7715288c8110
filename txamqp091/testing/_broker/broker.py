# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
An AMQP broker, as RabbitMQ would behave: `Broker`.

It speaks in the methods of `txamqp091.wire.spec`, and knows no bytes and no transport:
those are in `txamqp091.testing._broker.protocol`.  A test looks at it with
`Broker.queue`, `Broker.exchange` and `Broker.published`, and makes it misbehave with
the methods under "faults".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from txamqp091.interfaces import AnyReactor
from txamqp091.testing._broker.arguments import QueueSettings
from txamqp091.testing._broker.behaviour import DEFAULT_VERSION, Behaviour
from txamqp091.testing._broker.exchanges import Exchange
from txamqp091.testing._broker.messages import Message, message_from
from txamqp091.testing._broker.publishing import (
    REPLY_TO,
    ChannelPublishes,
    ReplyAddresses,
)
from txamqp091.testing._broker.refusals import Refused, shown
from txamqp091.testing._broker.sessions import Session, SessionSink
from txamqp091.testing._broker.users import User, Users
from txamqp091.testing._broker.vhosts import VirtualHost
from txamqp091.testing.views import ExchangeView, MessageView, QueueView
from txamqp091.wire import spec
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.types import FieldValue

__all__ = ["Broker", "Refused", "User"]

#: RabbitMQ's own ``consumer_timeout``: half an hour.
CONSUMER_TIMEOUT = 1800.0

Arguments = Mapping[str, FieldValue]


class Broker:
    """
    A broker that keeps everything in memory, and nothing any longer than itself.

    Nothing in it is random: names that it makes up are counted.

    :ivar clock: what its time goes by; ``task.Clock.advance`` makes messages expire.
    :ivar version: the RabbitMQ that it is like.
    :ivar published: the last messages that clients have published, the latest last;
        dead letters are not among them.
    """

    def __init__(
        self,
        clock: AnyReactor | None = None,
        *,
        version: str = DEFAULT_VERSION,
        users: Mapping[str, str] | None = None,
        vhosts: tuple[str, ...] = ("/",),
        consumer_timeout: float | None = CONSUMER_TIMEOUT,
        transient_queues: bool = True,
        multiple_confirms: bool = True,
        history: int = 10_000,
    ) -> None:
        """
        :param clock: a reactor or a ``Clock``; by default a ``Clock`` of its own.
        :param version: the RabbitMQ to be like, such as ``3.10.8``.
        :param users: passwords by name; each user may do everything in each virtual
            host.  By default, guest with the password guest.
        :param vhosts: the names of the virtual hosts.
        :param consumer_timeout: how long a delivery may be unacknowledged, in seconds,
            or None: for ever.  After that, RabbitMQ 4.3 cancels a consumer of a quorum
            queue, and leaves others alone; older ones close the channel (406).
        :param transient_queues: whether a queue may be neither durable nor exclusive,
            which RabbitMQ can be told to refuse.
        :param multiple_confirms: whether one ``basic.ack`` with ``multiple`` confirms
            all publishes whose confirms fall due in one turn, as RabbitMQ does it.
            With False, each publish has a confirm of its own.
        :param history: how many messages to keep in ``published``.
        :raises ValueError: ``version`` is none.
        """
        self.clock = cast(IReactorTime, Clock() if clock is None else clock)
        self.version = version
        self.behaviour = Behaviour.of(version)
        self.consumer_timeout = consumer_timeout
        self.transient_queues = transient_queues
        self.multiple_confirms = multiple_confirms
        self.replies = ReplyAddresses()
        self.published: deque[MessageView] = deque(maxlen=history)
        self._users = Users()
        self._vhosts: dict[str, VirtualHost] = {}
        self._sessions: dict[Session, None] = {}
        self._names = 0
        self._blocked_for: str | None = None
        self._held: list[tuple[ChannelPublishes, int, bool, bool]] | None = None
        self._refusals = 0
        for vhost in vhosts:
            self.add_vhost(vhost)
        for name, password in ({"guest": "guest"} if users is None else users).items():
            self.add_user(name, password)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.version}, {len(self._sessions)} connections>"
        )

    # -- users and virtual hosts -------------------------------------------------------

    def add_vhost(self, name: str) -> None:
        """
        Make a virtual host, if it is not there.  Users need permissions in it.
        """
        if name not in self._vhosts:
            self._vhosts[name] = VirtualHost(name, self.clock, self.behaviour)

    def add_user(self, name: str, password: str) -> User:
        """
        Make a user who may do everything in each virtual host that there is; or change
        a user's password.
        """
        user = self._users.add(name, password)
        for vhost in self._vhosts:
            if vhost not in user.rights:
                self.set_permissions(name, vhost)
        return user

    def set_permissions(
        self,
        user: str,
        vhost: str = "/",
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
    ) -> None:
        """
        Say what a user may do in a virtual host, by patterns of names as RabbitMQ has
        them: found anywhere in a name, and "" for no name.
        """
        self._users.permit(user, vhost, configure, write, read)

    def clear_permissions(self, user: str, vhost: str = "/") -> None:
        """
        Keep a user out of a virtual host.
        """
        self._users.forbid(user, vhost)

    # -- what the wire side calls ------------------------------------------------------

    def authenticate(self, mechanism: str, response: bytes) -> User:
        """
        Find the user that a SASL response is from.

        :param mechanism: ``PLAIN``, ``AMQPLAIN`` or ``ANONYMOUS``, which is guest.
        :raises Refused: 403, it is from nobody.
        """
        return self._users.authenticate(mechanism, response)

    def open_session(self, user: User, virtual_host: str, sink: SessionSink) -> Session:
        """
        A connection has come as far as choosing its virtual host.

        :raises Refused: 530, there is no such virtual host, or it is not for the user.
        """
        vhost = self._vhosts.get(virtual_host)
        problem = ""
        if vhost is None:
            problem = f"vhost {virtual_host} not found"
        elif virtual_host not in user.rights:
            problem = f"access to vhost '{virtual_host}' refused for user '{user.name}'"
        if vhost is None or problem:
            raise Refused(spec.NOT_ALLOWED, problem, connection=True)
        session = Session(self, user, vhost, sink)
        self._sessions[session] = None
        return session

    @property
    def sessions(self) -> list[Session]:
        """
        The open connections, in the order in which they came.
        """
        return list(self._sessions)

    # -- what sessions call ------------------------------------------------------------

    def forget(self, session: Session) -> None:
        """
        A session has ended.
        """
        self._sessions.pop(session, None)

    def name(self, prefix: str) -> str:
        """
        A name that nothing has.
        """
        self._names += 1
        return f"{prefix}{self._names:022}"

    @property
    def blocked_for(self) -> str | None:
        """
        What the broker is short of, or None.
        """
        return self._blocked_for

    def put(self, vhost: VirtualHost, message: Message) -> tuple[bool, bool]:
        """
        Route a message.

        :returns: whether there was a queue for it, and whether all of those took it.
        :raises Refused: 404, there is no such exchange.
        """
        self.published.append(MessageView.of(message))
        if not message.exchange and message.routing_key.startswith(f"{REPLY_TO}."):
            return self._answer(message), True
        queues = vhost.route(message)
        if self._refusals and queues:
            self._refusals -= 1
            return True, False
        taken = [queue.publish(message) for queue in queues]
        return bool(queues), all(taken)

    def _answer(self, message: Message) -> bool:
        consumer = self.replies.find(message.routing_key)
        if consumer is not None:
            consumer.replied(message)
        given = self.replies.was_given(message.routing_key)
        return given and self.behaviour.routes_replies

    def confirm(
        self, publishes: ChannelPublishes, number: int, taken: bool, routed: bool
    ) -> None:
        """
        Confirm a publish, now or when confirms are held no longer.
        """
        if self._held is None:
            publishes.confirm(number, taken, routed)
        else:
            self._held.append((publishes, number, taken, routed))

    # -- what tests see and prepare ----------------------------------------------------

    def queue(self, name: str, vhost: str = "/") -> QueueView:
        """
        A view of a queue.

        :raises KeyError: there is none.
        """
        return QueueView(self._vhosts[vhost].queues[name])

    def exchange(self, name: str, vhost: str = "/") -> ExchangeView:
        """
        A view of an exchange.

        :raises KeyError: there is none.
        """
        return ExchangeView(self._vhosts[vhost].exchanges[name])

    def queues(self, vhost: str = "/") -> list[str]:
        """
        The names of the queues, in the order in which they were made.
        """
        return list(self._vhosts[vhost].queues)

    def exchanges(self, vhost: str = "/") -> list[str]:
        """
        The names of the exchanges, in the order in which they were made.
        """
        return list(self._vhosts[vhost].exchanges)

    def declare_queue(
        self,
        name: str,
        vhost: str = "/",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
    ) -> QueueView:
        """
        Make a queue, unless there is one of that name.

        :raises Refused: its arguments make no sense.
        """
        where = self._vhosts[vhost]
        if name not in where.queues:
            resource = shown("queue", name, vhost)
            settings = QueueSettings.of(arguments or {}, resource, self.behaviour)
            where.make_queue(
                name,
                settings,
                durable=durable,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        return self.queue(name, vhost)

    def declare_exchange(
        self,
        name: str,
        type: str = "direct",
        vhost: str = "/",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> ExchangeView:
        """
        Make an exchange, unless there is one of that name.
        """
        where = self._vhosts[vhost]
        if name not in where.exchanges:
            where.exchanges[name] = Exchange(
                name,
                type,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            )
        return self.exchange(name, vhost)

    def bind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        vhost: str = "/",
        *,
        arguments: Arguments | None = None,
    ) -> None:
        """
        Have an exchange put messages into a queue.

        :raises Refused: 404, one of them is not there.
        """
        where = self._vhosts[vhost]
        source = where.exchange(exchange)
        source.bind(where.queue(queue), routing_key, arguments or {})

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Properties = EMPTY,
        vhost: str = "/",
    ) -> bool:
        """
        Publish a message, as a client of no name.

        :returns: whether there was a queue for it.
        :raises Refused: 404, there is no such exchange.
        """
        message = message_from(exchange, routing_key, properties, body)
        routed, _ = self.put(self._vhosts[vhost], message)
        return routed

    def clear(self) -> None:
        """
        Delete every queue, and with them what the clock has yet to do for them.
        """
        for vhost in self._vhosts.values():
            for queue in list(vhost.queues.values()):
                vhost.delete_queue(queue)

    # -- faults ------------------------------------------------------------------------

    def block(self, reason: str = "low on memory") -> None:
        """
        Be short of something: every client is told not to publish, also those that
        come later.
        """
        self._blocked_for = reason
        for session in self.sessions:
            session.tell_blocked()

    def unblock(self) -> None:
        """
        Be short of it no longer.
        """
        self._blocked_for = None
        for session in self.sessions:
            session.tell_blocked()

    def close_connections(
        self, reply_code: int = spec.CONNECTION_FORCED, problem: str = "shutdown"
    ) -> None:
        """
        Close every client's connection.

        :param problem: the text, without the name of the code.
        """
        for session in self.sessions:
            session.end(Refused(reply_code, problem, connection=True))

    def close_channels(
        self,
        reply_code: int = spec.PRECONDITION_FAILED,
        problem: str = "closed by a test",
        number: int | None = None,
    ) -> None:
        """
        Close every client's channels.

        :param problem: the text, without the name of the code.
        :param number: only channels of that number.
        """
        for session in self.sessions:
            for channel in list(session.channels.values()):
                if number in (None, channel.number):
                    channel.end(Refused(reply_code, problem))

    def cancel_consumers(self, queue: str, vhost: str = "/") -> int:
        """
        End the consumers of a queue, as a failing node does; the queue stays.

        :returns: how many there were.
        :raises KeyError: there is no such queue.
        """
        found = self._vhosts[vhost].queues[queue]
        consumers = list(found.consumers)
        for consumer in consumers:
            found.unsubscribe(consumer)
            consumer.channel.consumer_cancelled(consumer)
        return len(consumers)

    def delete_queue(self, queue: str, vhost: str = "/") -> None:
        """
        Delete a queue behind everybody's back; its consumers are told.

        :raises KeyError: there is no such queue.
        """
        where = self._vhosts[vhost]
        where.delete_queue(where.queues[queue])

    def hold_confirms(self) -> None:
        """
        Confirm nothing until `release_confirms`.
        """
        if self._held is None:
            self._held = []

    def release_confirms(self) -> None:
        """
        Confirm what was held, in order, and from now on at once.
        """
        held, self._held = self._held, None
        for publishes, number, taken, routed in held or ():
            publishes.confirm(number, taken, routed)

    def refuse_publishes(self, count: int = 1) -> None:
        """
        Take none of the next messages that there is a queue for: a confirm then says
        ``basic.nack``.
        """
        self._refusals = count
