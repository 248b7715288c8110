# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
What the tests of the in-memory broker's semantics inherit: clients without bytes.

A `Client` is a connection to the broker, a `ClientChannel` one of its channels; both
keep what the broker tells them, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.testing._broker.broker import Broker, Refused
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.types import FieldValue

__all__ = ["BrokerTestCase", "Client", "ClientChannel", "Received", "queue"]

M = TypeVar("M", bound=Method)


def queue(
    name: str, *, type: str | None = None, **arguments: FieldValue
) -> spec.QueueDeclare:
    """
    The declaration of a durable queue, its arguments without the ``x-``.
    """
    table: dict[str, FieldValue] = {} if type is None else {"x-queue-type": type}
    for key, value in arguments.items():
        table[f"x-{key.replace('_', '-')}"] = value
    return spec.QueueDeclare(queue=name, durable=True, arguments=table)


@dataclass
class Received:
    """
    What the broker said: a method, and the content that came with it.
    """

    method: Method
    properties: Properties = EMPTY
    body: bytes = b""

    @property
    def headers(self) -> Mapping[str, FieldValue]:
        return self.properties.headers or {}


class ClientChannel:
    """
    A channel that keeps what it gets.

    :ivar inbox: what came, until somebody takes it.
    :ivar closed: the code and the text with which the broker has closed it.
    """

    def __init__(self, client: Client, number: int) -> None:
        self.inbox: list[Received] = []
        self.closed: tuple[int, str] | None = None
        self.broker_side = client.session.open_channel(number, self)

    # -- what the broker calls: see `ChannelSink` --------------------------------------

    def send(self, method: Method) -> None:
        self.inbox.append(Received(method))

    def deliver(self, method: Method, properties: Properties, body: bytes) -> None:
        self.inbox.append(Received(method, properties, body))

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        self.closed = reply_code, reply_text

    # -- what tests call ---------------------------------------------------------------

    def take(self) -> list[Received]:
        """
        What came since the last time.
        """
        taken, self.inbox = self.inbox, []
        return taken

    def methods(self) -> list[Method]:
        """
        The methods that came since the last time.
        """
        return [each.method for each in self.take()]

    def bodies(self) -> list[bytes]:
        """
        The bodies of the messages that came since the last time.
        """
        return [each.body for each in self.take() if each.method.content]

    def tell(self, *methods: Method) -> list[Method]:
        """
        Send methods, and take what comes.
        """
        for method in methods:
            self.broker_side.handle(method)
        return self.methods()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes = b"",
        *,
        mandatory: bool = False,
        immediate: bool = False,
        **properties: Any,
    ) -> None:
        """
        Publish a message, with properties as they come from the wire.
        """
        encoded = Properties(**properties).encode()
        self.broker_side.publish(
            spec.BasicPublish(0, exchange, routing_key, mandatory, immediate),
            Properties.from_wire(encoded),
            body,
        )

    def get(self, name: str, no_ack: bool = True) -> Received | None:
        """
        Fetch one message, and take nothing else.
        """
        self.broker_side.handle(spec.BasicGet(0, name, no_ack))
        last = self.inbox.pop()
        return None if isinstance(last.method, spec.BasicGetEmpty) else last

    def drain(self, name: str) -> list[bytes]:
        """
        Fetch all messages of a queue.
        """
        bodies = []
        while (got := self.get(name)) is not None:
            bodies.append(got.body)
        return bodies


class Client:
    """
    A connection that keeps what it is told.

    :ivar blocked: what the broker is short of, or None.
    :ivar closed: the code and the text with which the broker has closed it.
    """

    def __init__(self, broker: Broker, user: str, password: str, vhost: str) -> None:
        self.blocked: str | None = None
        self.closed: tuple[int, str] | None = None
        known = broker.authenticate("PLAIN", f"\0{user}\0{password}".encode())
        self.session = broker.open_session(known, vhost, self)
        self._channels = 0

    def block(self, reason: str) -> None:
        self.blocked = reason

    def unblock(self) -> None:
        self.blocked = None

    def at_turn_end(self, call: Callable[[], None]) -> None:
        call()

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        self.closed = reply_code, reply_text

    def channel(self) -> ClientChannel:
        """
        Open the next channel.
        """
        self._channels += 1
        return ClientChannel(self, self._channels)


class BrokerTestCase(SynchronousTestCase):
    """
    A test case with a broker, and a channel on a connection to it.

    :cvar version: the RabbitMQ that the broker is like.
    """

    version = "4.3.6"

    def setUp(self) -> None:
        """
        Make the broker, and connect.
        """
        self.clock = Clock()
        # Whole seconds that are not 0 show in headers.
        self.clock.advance(1_700_000_000)
        self.broker = Broker(self.clock, version=self.version)
        self.client = self.connect()
        self.channel = self.client.channel()

    def connect(
        self, user: str = "guest", password: str = "guest", vhost: str = "/"
    ) -> Client:
        """
        Make one more connection.
        """
        return Client(self.broker, user, password, vhost)

    def refusal(self, method: Method, channel: ClientChannel | None = None) -> Refused:
        """
        Send what is refused, and return how.
        """
        where = channel or self.client.channel()
        refused: Refused = self.assertRaises(Refused, where.broker_side.handle, method)
        return refused

    def assert_refused(
        self,
        code: int,
        text: str,
        method: Method,
        channel: ClientChannel | None = None,
        *,
        connection: bool = False,
    ) -> None:
        """
        A method is refused with a code and a text.
        """
        refused = self.refusal(method, channel)
        self.assertEqual((refused.reply_code, refused.reply_text), (code, text))
        self.assertEqual(refused.connection, connection)
