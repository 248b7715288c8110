# -*- test-case-name: txamqp091.test.unit.client.test_message -*-
"""
Messages: `Message` is one to publish (or one that came back), `Delivery` is one that
the broker gave us.

A delivery keeps the bytes that it came in, and takes them apart when somebody looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock, get_ident
from typing import Any, cast

from twisted.internet.interfaces import IReactorFromThreads

from txamqp091._machine.channel import ChannelMachine
from txamqp091.errors import AlreadySettled, EncodeError
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.spec import BasicAck, BasicNack, BasicReject

__all__ = ["Body", "Delivery", "Message", "Settler", "SettlerFactory", "body_bytes"]

#: What may be the body of a message.  Text is sent as UTF-8.
Body = bytes | str | bytearray | memoryview

# In the payload of a content header: class (2), weight (2), size (8), then these.
_PROPERTIES = 12

_MULTIPLE = 1
_REQUEUE = 1
_NACK_REQUEUE = 2


def body_bytes(body: Body) -> bytes:
    """
    The bytes of a body.

    :raises TypeError: when it is neither text nor bytes.
    :raises EncodeError: when it is text that UTF-8 cannot carry.
    """
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("body", f"not valid Unicode text: {error}") from None
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    raise TypeError(
        f"a message body is str, bytes, bytearray or memoryview, "
        f"not {type(body).__name__}"
    )


class Message:
    """
    A message, with where it goes.

    :ivar exchange: the exchange, or "" for the default one, which routes to the
        queue that the routing key names.
    :ivar mandatory: whether it is to come back when no queue takes it.
    """

    __slots__ = ("body", "exchange", "mandatory", "properties", "routing_key")

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        mandatory: bool = False,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self.properties = EMPTY if properties is None else properties
        self.mandatory = mandatory

    def __repr__(self) -> str:
        return (
            f"<Message to {self.exchange!r} with {self.routing_key!r}, "
            f"{len(self.body)} bytes>"
        )


class Settler:
    """
    Sends the settlements of one channel's deliveries, in the order in which they were
    given, whichever threads gave them.

    A settlement from another thread waits in a queue until the connection's thread
    sends it.  Whatever has to come after it calls `catch_up` first: a settlement with
    ``multiple``, a close, a commit.

    :ivar machine: the channel's machine.
    :ivar reactor: the way in from other threads than the connection's.
    :ivar up_to: deliveries up to this tag were settled by ``multiple``.
    """

    __slots__ = ("_lock", "_posted", "_thread", "machine", "reactor", "up_to")

    def __init__(self, machine: ChannelMachine, reactor: object) -> None:
        """
        :param reactor: the way in from other threads than this one.
        """
        self.up_to = 0
        self.machine = machine
        self.reactor = reactor
        self._thread = get_ident()
        # From other threads; and what keeps them and a "multiple" in their order.
        self._posted: deque[tuple[type[Method], int, int]] = deque()
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """
        Whether the channel can still bring an answer to the broker.
        """
        return self.machine.is_open

    @property
    def is_own_thread(self) -> bool:
        """
        Whether the calling thread may send.
        """
        return get_ident() == self._thread

    def settle(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Take the settlement of one delivery, from whichever thread.

        :raises AlreadySettled: when ``multiple`` has settled it meanwhile.
        """
        if get_ident() == self._thread:  # once per message: not `is_own_thread`
            self.send(method, delivery_tag, bits)
        else:
            self.post(method, delivery_tag, bits, self.up_to)

    def settle_up_to(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Take the settlement of all deliveries up to one, from whichever thread.

        :raises AlreadySettled: as `settle` does.
        """
        if self.is_own_thread:
            with self._lock:  # what is posted after this is refused
                self.up_to = delivery_tag
            self.catch_up()
            self.send(method, delivery_tag, bits)
        else:
            self.post(method, delivery_tag, bits, delivery_tag)

    def post(
        self, method: type[Method], delivery_tag: int, bits: int, up_to: int
    ) -> None:
        """
        Have a settlement sent by the connection's thread.

        :param up_to: `up_to`, from now on.
        """
        with self._lock:
            if delivery_tag <= self.up_to:
                raise already_settled(delivery_tag)
            self._posted.append((method, delivery_tag, bits))
            self.up_to = max(self.up_to, up_to)
        cast(IReactorFromThreads, self.reactor).callFromThread(self.catch_up)

    def catch_up(self) -> None:
        """
        Send what other threads have settled so far.
        """
        posted = self._posted
        while posted:
            self.send(*posted.popleft())

    def send(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Send it, in the connection's thread.  For others to add to.
        """
        self.machine.settle(method, delivery_tag, bits)


def already_settled(delivery_tag: int) -> AlreadySettled:
    """
    The error for a delivery that is settled a second time.
    """
    return AlreadySettled(
        f"the delivery {delivery_tag} was settled before, or its consumer said auto_ack"
    )


#: What makes the `Settler` of a channel, of its machine and its reactor.
SettlerFactory = Callable[[ChannelMachine, object], Settler]


class Delivery:
    """
    A message that the broker gave us, to be answered for with `ack`, `nack` or
    `reject` (unless its consumer said ``auto_ack``).

    The answer can be given once, from any thread.  If the channel has ended by
    then, nothing is sent: the broker has the message again, and will deliver it
    once more, marked as ``redelivered``.

    :ivar body: the bytes of the message.
    :ivar delivery_tag: the message's number on its channel.
    :ivar redelivered: whether it was delivered before, to us or to another.
    :ivar consumer_tag: the consumer that it is for; "" if it was fetched by
        `Channel.basic_get`.
    :ivar settler: sends its settlement.
    """

    __slots__ = (
        "_header",
        "_method",
        "_properties",
        "_route",
        "_settled",
        "body",
        "consumer_tag",
        "delivery_tag",
        "redelivered",
        "settler",
    )

    # Filled by `Consumer.delivered` and `Channel.basic_get`, slot by slot: half the
    # cost of a call of __init__, once per message.
    _header: bytes
    _method: bytes
    _properties: Properties | None
    _route: int
    _settled: bool
    body: bytes
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    settler: Settler

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_tag} of {self.consumer_tag!r}, "
            f"routing key {self.routing_key!r}, {len(self.body)} bytes>"
        )

    @property
    def exchange(self) -> str:
        """
        The exchange that it was published to.
        """
        start = self._route + 1
        end = start + self._method[self._route]
        return self._method[start:end].decode("utf-8", "surrogateescape")

    @property
    def routing_key(self) -> str:
        """
        The routing key that it was published with.
        """
        place = self._route + 1 + self._method[self._route]
        start = place + 1
        end = start + self._method[place]
        return self._method[start:end].decode("utf-8", "surrogateescape")

    @property
    def properties(self) -> Properties:
        """
        The message's properties.  A malformed one raises `UndecodableProperty` when
        it is read, and costs nothing else.
        """
        properties = self._properties
        if properties is None:
            properties = Properties.from_wire(self._header[_PROPERTIES:])
            self._properties = properties
        return properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """
        The ``headers`` property; empty if there is none.
        """
        headers = self.properties.headers
        return {} if headers is None else headers

    @property
    def stream_offset(self) -> int | None:
        """
        The message's place in its stream; None if it is not from a stream.
        """
        offset = self.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None

    @property
    def settled(self) -> bool:
        """
        Whether it has been answered for, or needs no answer.
        """
        return self._settled or self.delivery_tag <= self.settler.up_to

    @property
    def is_stale(self) -> bool:
        """
        Whether the channel that it came on has ended: the broker has the message
        again, and an answer would not be sent.
        """
        return not self.settler.is_open

    def ack(self, multiple: bool = False) -> None:
        """
        The message was dealt with: the broker may forget it.

        :param multiple: say so of all the channel's deliveries up to this one.
        :raises AlreadySettled: when it was answered for before.
        """
        self._settle(BasicAck, 0, multiple)

    def nack(self, requeue: bool = True, multiple: bool = False) -> None:
        """
        The message was not dealt with.

        :param requeue: put it back into its queue; else it is dropped, or goes to
            the queue's dead-letter exchange.  RabbitMQ 4.3 does not count this
            towards a quorum queue's delivery limit: to count a failure, `reject`.
        :param multiple: say so of all the channel's deliveries up to this one.
        :raises AlreadySettled: when it was answered for before.
        """
        self._settle(BasicNack, _NACK_REQUEUE if requeue else 0, multiple)

    def reject(self, requeue: bool = True) -> None:
        """
        The message was not dealt with, as `nack`, but for one message only, and
        counted by quorum queues towards the delivery limit.

        :raises AlreadySettled: when it was answered for before.
        """
        self._settle(BasicReject, _REQUEUE if requeue else 0)

    def _settle(self, method: type[Method], bits: int, multiple: bool = False) -> None:
        settler = self.settler
        if self._settled or self.delivery_tag <= settler.up_to:
            raise already_settled(self.delivery_tag)
        self._settled = True
        if multiple:
            settler.settle_up_to(method, self.delivery_tag, bits | _MULTIPLE)
        else:
            settler.settle(method, self.delivery_tag, bits)
