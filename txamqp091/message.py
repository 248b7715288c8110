# -*- test-case-name: txamqp091.test.unit.client.test_message -*-
"""
Messages: `Message` is one to publish (or one that came back), `Delivery` is one that
the broker gave us.

A delivery keeps the bytes that it came in, and takes them apart when somebody looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from threading import Lock, get_ident
from typing import Any, Final, NoReturn, Protocol, cast

from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.python import threadable

from txamqp091._machine.channel import ChannelMachine
from txamqp091.errors import AlreadySettled, EncodeError, LocalProtocolError
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.spec import BasicAck, BasicGetOk, BasicNack, BasicReject

__all__ = [
    "Body",
    "Death",
    "Delivery",
    "DeliveryMode",
    "Holder",
    "Message",
    "Settler",
    "SettlerFactory",
    "body_bytes",
]

#: What may be the body of a message.  Text is sent as UTF-8.
Body = bytes | str | bytearray | memoryview

_MULTIPLE = 1
_REQUEUE = 1
_NACK_REQUEUE = 2

#: The header of a message from a stream, as RabbitMQ encodes it.  (A client that sends
#: such a message on encodes most offsets as shorter integers.)
_STREAM = b"\x0fx-stream-offsetl"

#: What is there in place of the holder of a delivery that is settled.
_SETTLED: Final = object()

_new = object.__new__


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


class DeliveryMode(IntEnum):
    """
    Whether a message survives a restart of the broker, in a durable queue.
    """

    TRANSIENT = 1
    PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Death:
    """
    An entry of the header ``x-death``: why RabbitMQ has dead-lettered a message.

    :ivar reason: ``rejected``, ``expired``, ``maxlen`` or ``delivery_limit``.
    :ivar queue: the queue that the message was in.
    :ivar count: how often that has happened to the message in that queue.
    :ivar exchange: the exchange that the message was published to.
    :ivar routing_keys: the routing keys that it was published with.
    :ivar time: when that happened the first time; None if the broker does not say.
    """

    reason: str
    queue: str
    count: int = 1
    exchange: str = ""
    routing_keys: tuple[str, ...] = ()
    time: datetime | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Death:
        """
        Make one of an entry.
        """
        # Whoever publishes a message can write this header, too.
        count, time = table.get("count"), table.get("time")
        keys = table.get("routing-keys")
        return cls(
            reason=str(table.get("reason", "")),
            queue=str(table.get("queue", "")),
            count=count if isinstance(count, int) else 1,
            exchange=str(table.get("exchange", "")),
            routing_keys=tuple(map(str, keys)) if isinstance(keys, list) else (),
            time=time if isinstance(time, datetime) else None,
        )


class Holder(Protocol):
    """
    Whoever holds deliveries that nobody has taken yet: a consumer.
    """

    def given_back(self) -> None:
        """
        The channel has given deliveries back to the broker: drop those that are held.
        """


class Settler:
    """
    Knows which deliveries of one channel are not settled, and sends their settlements,
    in the order in which they were given, whichever threads gave them.

    A settlement from another thread waits in a queue until the connection's thread
    sends it.  Whatever has to come after it calls `catch_up` first: a settlement with
    ``multiple``, a close, a commit.

    :ivar machine: the channel's machine.
    :ivar thread: the connection's thread, which sends.
    :ivar reactor: the way in from other threads.
    :ivar unsettled: the deliveries that are not settled: the holder of each, by
        delivery tag; None is the holder of one that `Channel.basic_get` has fetched.
    :ivar transaction: the deliveries that were settled in the present transaction, in
        the same form; None while the channel is not in transaction mode.
    :ivar up_to: deliveries up to this tag were settled by ``multiple``.
    :ivar stale_up_to: deliveries up to this tag were settled, or given back, all
        together by the channel: to settle one of them does nothing.
    """

    __slots__ = (
        "_lock",
        "_posted",
        "machine",
        "reactor",
        "stale_up_to",
        "thread",
        "transaction",
        "unsettled",
        "up_to",
    )

    def __init__(self, machine: ChannelMachine, reactor: object) -> None:
        """
        :param reactor: the way in from other threads than this one.
        """
        self.up_to = 0
        self.stale_up_to = 0
        self.unsettled: dict[int, Holder | None] = {}
        self.transaction: dict[int, Holder | None] | None = None
        self.machine = machine
        self.reactor = reactor
        self.thread = get_ident()
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
        return get_ident() == self.thread

    def check_thread(self) -> None:
        """
        :raises LocalProtocolError: when another thread than that of Twisted's reactor
            calls: nothing would be sent before the reactor's next event, and not in
            order.
        """
        caller = get_ident()
        if (
            caller != self.thread
            and threadable.ioThread not in (None, caller)
            and IReactorThreads.providedBy(self.reactor)
        ):
            raise LocalProtocolError(
                "a channel was used in another thread than the reactor's: call "
                "reactor.callFromThread, or the verbs of "
                "txamqp091.adapters.threads.threadsafe(channel)"
            )

    def settle_up_to(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Take the settlement of all deliveries up to one, from whichever thread.

        :raises AlreadySettled: when ``multiple`` has settled it meanwhile.
        """
        holders = self._take_up_to(delivery_tag)
        if self.is_own_thread:
            with self._lock:  # what is posted after this is refused
                self.up_to = delivery_tag
            self.catch_up()
            self.send(method, delivery_tag, bits)
            if method is BasicNack:
                _tell(holders)
        else:
            self.post(method, delivery_tag, bits, delivery_tag)
            if method is BasicNack:
                cast(IReactorFromThreads, self.reactor).callFromThread(_tell, holders)

    def settle_number(
        self, method: type[Method], delivery_tag: int, bits: int, multiple: bool
    ) -> None:
        """
        Send a settlement that names a number, in the connection's thread.

        :param multiple: for all deliveries up to that number; 0 is all that have come.
        """
        self.catch_up()
        if multiple:
            # The broker would take 0 for those that are still on their way to us, too.
            delivery_tag = delivery_tag or self.last
            holders = self._put_aside(delivery_tag)
            self.send(method, delivery_tag, bits)
            if method is BasicNack:
                _tell(holders)
        else:
            self._take(delivery_tag)
            self.send(method, delivery_tag, bits)

    def give_back(self) -> None:
        """
        The broker is to have all unsettled deliveries again.
        """
        self.catch_up()
        transaction, self.transaction = self.transaction, None
        holders = self._put_aside(self.last)
        self.transaction = transaction
        _tell(holders)

    def roll_back(self) -> None:
        """
        Nothing was settled in the present transaction.
        """
        self.catch_up()
        if self.transaction is not None:
            self.unsettled.update(self.transaction)
            self.transaction = {}
            with self._lock:
                self.up_to = 0

    def commit(self) -> None:
        """
        A transaction begins, and what was settled in the one before stays settled.
        """
        self.catch_up()
        self.transaction = {}

    @property
    def last(self) -> int:
        """
        The tag of the last delivery that is not settled; 0 if there is none.
        """
        # A copy, as other threads settle, too.
        return max(list(self.unsettled), default=0)

    def _put_aside(self, delivery_tag: int) -> set[Holder]:
        with self._lock:
            self.up_to = max(self.up_to, delivery_tag)
            self.stale_up_to = max(self.stale_up_to, delivery_tag)
        return self._take_up_to(delivery_tag)

    def _take_up_to(self, delivery_tag: int) -> set[Holder]:
        tags = [each for each in list(self.unsettled) if each <= delivery_tag]
        return {holder for each in tags if (holder := self._take(each)) is not None}

    def _take(self, delivery_tag: int) -> Holder | None:
        """
        Count a delivery as settled.
        """
        holder = self.unsettled.pop(delivery_tag, _SETTLED)
        if holder is _SETTLED:
            return None
        if self.transaction is not None:
            self.transaction[delivery_tag] = cast(Holder | None, holder)
        return cast(Holder | None, holder)

    def post(
        self, method: type[Method], delivery_tag: int, bits: int, up_to: int
    ) -> None:
        """
        Have a settlement sent by the connection's thread.

        :param up_to: `up_to`, from now on.
        """
        with self._lock:
            if delivery_tag <= self.stale_up_to:
                return
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


def _tell(holders: set[Holder]) -> None:
    for holder in holders:
        holder.given_back()


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
        "_encoded",
        "_method",
        "_properties",
        "_route",
        "body",
        "consumer_tag",
        "delivery_tag",
        "redelivered",
        "settler",
    )

    _encoded: bytes
    _method: bytes
    _properties: Properties | None
    _route: int
    body: bytes
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    settler: Settler

    @classmethod
    def arrived(
        cls,
        settler: Settler,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        body: bytes,
    ) -> Delivery:
        """
        Make a delivery of what has come from the broker.

        :param method: the payload of the method frame.
        :param route: where in it the exchange and the routing key are.
        :param properties: the properties, encoded.
        """
        # Once per message.  To fill the slots costs half of what __init__ does.
        delivery = _new(cls)
        delivery.settler = settler
        delivery._encoded = properties
        delivery._method = method
        delivery._properties = None
        delivery._route = route
        delivery.body = body
        delivery.consumer_tag = consumer_tag
        delivery.delivery_tag = delivery_tag
        delivery.redelivered = redelivered
        return delivery

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_tag} of {self.consumer_tag!r}, "
            f"routing key {self.routing_key!r}, {len(self.body)} bytes>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Delivery belongs to its channel, and cannot be pickled: take its body "
            "and its properties, which can"
        )

    def __copy__(self) -> Delivery:
        return self

    def __deepcopy__(self, _: object) -> Delivery:
        return self

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
            properties = Properties.from_wire(self._encoded)
            self._properties = properties
        return properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """
        The ``headers`` property; empty if there is none.  ``json.dumps`` takes it; with
        ``default=str`` also where a value is a datetime, a Decimal or bytes.
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
    def is_from_stream(self) -> bool:
        """
        Whether a stream has delivered the message.
        """
        return _STREAM in self._encoded

    @property
    def delivery_count(self) -> int | None:
        """
        How many deliveries of the message have failed, as the broker counts: the header
        ``x-delivery-count`` of quorum queues.  RabbitMQ 4.3 counts what was rejected or
        lost with its channel; earlier ones count what was given back with `nack`, too.
        None if the queue does not say.
        """
        return self._count("x-delivery-count")

    @property
    def acquired_count(self) -> int | None:
        """
        How often the message was delivered before, for whatever reason it came back:
        the header ``x-acquired-count`` of quorum queues (RabbitMQ 4.3).  None if the
        queue does not say.
        """
        return self._count("x-acquired-count")

    @property
    def deaths(self) -> tuple[Death, ...]:
        """
        Why and where the message was dead-lettered before, the last time first: the
        header ``x-death``.
        """
        deaths = self.headers.get("x-death")
        if not isinstance(deaths, list):
            return ()
        return tuple(
            Death.from_table(each) for each in deaths if isinstance(each, dict)
        )

    @property
    def message_count(self) -> int | None:
        """
        How many messages were left in the queue, for a message that
        `Channel.basic_get` has fetched; None for others.
        """
        method = self._method
        if method[:4] != BasicGetOk.prefix:
            return None
        return int.from_bytes(method[-4:], "big")

    def _count(self, name: str) -> int | None:
        count = self.headers.get(name)
        return count if isinstance(count, int) else None

    @property
    def settled(self) -> bool:
        """
        Whether it has been settled, or need not be.
        """
        return self.delivery_tag not in self.settler.unsettled

    @property
    def is_stale(self) -> bool:
        """
        Whether the broker has the message again, as its channel has ended or has given
        it back (`Channel.basic_recover`, `Channel.basic_nack`): to settle it does
        nothing.
        """
        settler = self.settler
        return not settler.is_open or (
            self.delivery_tag <= settler.stale_up_to and self.settled
        )

    def ack(self, multiple: bool = False) -> None:
        """
        The message was dealt with: the broker may forget it.

        :param multiple: say so of all the channel's deliveries up to this one.
        :raises AlreadySettled: when it was answered for before.
        """
        # The usual case first: half the calls of `_settle`.
        settler = self.settler
        if (
            not multiple
            and settler.transaction is None
            and settler.thread == get_ident()
            and settler.unsettled.pop(self.delivery_tag, _SETTLED) is not _SETTLED
        ):
            settler.send(BasicAck, self.delivery_tag, 0)
        else:
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
        settler, tag = self.settler, self.delivery_tag
        holder = settler.unsettled.pop(tag, _SETTLED)
        if holder is _SETTLED:
            if tag > settler.stale_up_to:
                raise already_settled(tag)
            return
        if settler.transaction is not None:
            settler.transaction[tag] = cast(Holder | None, holder)
        if multiple:
            settler.settle_up_to(method, tag, bits | _MULTIPLE)
        elif get_ident() == settler.thread:
            settler.send(method, tag, bits)
        else:
            settler.post(method, tag, bits, settler.up_to)

    def give_back(self) -> None:
        """
        Put the message back into its queue, as one that nobody has tried: like `nack`,
        but nothing happens when it is settled, and a message of a stream is
        acknowledged, as a stream takes nothing back (RabbitMQ 3 closes the connection).
        """
        if not self.settled:
            if self.is_from_stream:
                self.ack()
            else:
                self.nack()

    def refuse(self, requeue: bool) -> None:
        """
        Settle a message that nobody could handle: like `reject`, with what `give_back`
        says of settled ones and of streams.
        """
        if not self.settled:
            if self.is_from_stream:
                self.ack()
            else:
                self.reject(requeue)
