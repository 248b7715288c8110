# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking_pika -*-
"""
The names and shapes of pika's blocking connection, over `txamqp091.adapters.blocking`.

It uses nothing that is private there.
"""

from __future__ import annotations

__all__ = [
    "BasicProperties",
    "BlockingChannel",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "Frame",
    "PlainCredentials",
    "URLParameters",
    "exceptions",
]

from collections.abc import Callable, Generator
from contextlib import suppress
from enum import IntEnum
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from txamqp091 import errors, parameters
from txamqp091.adapters import blocking
from txamqp091.adapters.threads import InThreads, ThreadsafeChannel
from txamqp091.channel import Arguments
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import LocalProtocolError
from txamqp091.interfaces import AnyCredentials
from txamqp091.message import Delivery
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

P = ParamSpec("P")
Reply = TypeVar("Reply", bound=Method)

#: Called with the channel, the delivery (pika says ``method``), its properties and its
#: body.
Callback = Callable[["BlockingChannel", Delivery, Properties, bytes], object]

#: A delivery, its properties and its body; or three times None.
Item = tuple[Delivery, Properties, bytes] | tuple[None, None, None]

BasicProperties = Properties

URLParameters = parameters.ConnectionParameters.from_uri


class DeliveryMode(IntEnum):
    """
    What outlives a restart of the broker, in a durable queue.
    """

    Transient = 1
    Persistent = 2


def ConnectionParameters(
    host: str = "localhost",
    port: int | None = None,
    virtual_host: str = "/",
    credentials: AnyCredentials | None = None,
    **others: Any,
) -> parameters.ConnectionParameters:
    """
    `txamqp091.parameters.ConnectionParameters`, with pika's first four arguments in
    their order.
    """
    if credentials is not None:
        others["credentials"] = [credentials]
    return parameters.ConnectionParameters(
        host=host, port=port, virtual_host=virtual_host, **others
    )


class exceptions:
    """
    pika's exceptions, and which of ours they are: see `txamqp091.errors`.
    """

    AMQPError = errors.AMQPError
    AMQPConnectionError = errors.ConnectionClosed
    AMQPHeartbeatTimeout = errors.HeartbeatTimeout
    ConnectionClosed = errors.ConnectionClosed
    ConnectionClosedByBroker = errors.ConnectionClosed
    ConnectionWrongStateError = errors.ConnectionClosed
    StreamLostError = errors.ConnectionLost
    ProbableAuthenticationError = errors.AuthenticationFailed
    ProbableAccessDeniedError = errors.VhostAccessRefused
    AMQPChannelError = errors.ChannelClosed
    ChannelClosed = errors.ChannelClosed
    ChannelClosedByBroker = errors.ChannelClosed
    ChannelWrongStateError = errors.ChannelClosed
    UnroutableError = errors.Returned
    NackError = errors.Nacked
    ConsumerCancelled = errors.ConsumerCancelled
    ShortStringTooLong = errors.EncodeError


class Frame(Generic[Reply]):
    """
    An answer of the broker's, whose fields can be read of it, or of its ``method``.

    :ivar method: the method of `txamqp091.wire.spec`.
    """

    __slots__ = ("method",)

    def __init__(self, method: Reply) -> None:
        self.method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def __repr__(self) -> str:
        return f"<Frame {self.method!r}>"


class BlockingConnection(blocking.BlockingConnection):
    """
    A connection whose channels have pika's shape.
    """

    @property
    def is_closed(self) -> bool:
        """
        Whether it is over.
        """
        return not self.is_open

    def channel(self, channel_number: int | None = None) -> BlockingChannel:  # type: ignore[override]
        """
        Open a channel.

        :param channel_number: None; the connection gives the numbers.
        """
        if channel_number is not None:
            raise LocalProtocolError("the number of a channel is not to be chosen")
        return BlockingChannel(self, super().channel())

    def remove_timeout(self, timeout_id: blocking.Timer) -> None:
        """
        Undo ``call_later``, if it is not too late.
        """
        timeout_id.cancel()


def _framed(
    verb: Callable[Concatenate[blocking.BlockingChannel, P], Reply],
) -> Callable[Concatenate[BlockingChannel, P], Frame[Reply]]:
    @wraps(verb)
    def call(
        self: BlockingChannel, /, *args: P.args, **kwargs: P.kwargs
    ) -> Frame[Reply]:
        return Frame(verb(self.native, *args, **kwargs))

    return call


def _plain(
    verb: Callable[Concatenate[blocking.BlockingChannel, P], Any],
) -> Callable[Concatenate[BlockingChannel, P], Any]:
    @wraps(verb)
    def call(self: BlockingChannel, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return verb(self.native, *args, **kwargs)

    return call


class BlockingChannel:
    """
    A channel in pika's shape.

    :ivar native: the `txamqp091.adapters.blocking.BlockingChannel`.
    """

    def __init__(
        self, connection: BlockingConnection, native: blocking.BlockingChannel
    ) -> None:
        self.connection = connection
        self.native = native
        self._iterated: tuple[tuple[str, bool, bool], blocking.Deliveries] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.native.close()

    @property
    def channel_number(self) -> int:
        """
        Its number on the connection.
        """
        return self.native.number

    @property
    def is_open(self) -> bool:
        """
        Whether the channel can be used.
        """
        return self.native.is_open

    @property
    def is_closed(self) -> bool:
        """
        Whether it is over.
        """
        return not self.is_open

    @property
    def threadsafe(self) -> ThreadsafeChannel:
        """
        The channel for other threads.
        """
        return self.native.threadsafe

    _Native = blocking.BlockingChannel

    close = _plain(_Native.close)
    exchange_declare = _framed(_Native.exchange_declare)
    exchange_delete = _framed(_Native.exchange_delete)
    exchange_bind = _framed(_Native.exchange_bind)
    exchange_unbind = _framed(_Native.exchange_unbind)
    queue_declare = _framed(_Native.queue_declare)
    queue_bind = _framed(_Native.queue_bind)
    queue_unbind = _framed(_Native.queue_unbind)
    queue_purge = _framed(_Native.queue_purge)
    queue_delete = _framed(_Native.queue_delete)
    basic_publish = _plain(_Native.basic_publish)
    basic_qos = _framed(_Native.basic_qos)
    basic_ack = _plain(_Native.basic_ack)
    basic_nack = _plain(_Native.basic_nack)
    basic_reject = _plain(_Native.basic_reject)
    basic_recover = _framed(_Native.basic_recover)
    confirm_delivery = _plain(_Native.confirm_delivery)
    tx_select = _framed(_Native.tx_select)
    tx_commit = _framed(_Native.tx_commit)
    tx_rollback = _framed(_Native.tx_rollback)
    flow = _framed(_Native.flow)
    start_consuming = _plain(_Native.start_consuming)

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """
        End a consumer, or all of them.
        """
        if consumer_tag:
            self.native.basic_cancel(consumer_tag)
        else:
            self.native.stop_consuming()

    def basic_get(self, queue: str, auto_ack: bool = False) -> Item:
        """
        Fetch one message.
        """
        return _item(self.native.basic_get(queue, auto_ack))

    def basic_consume(
        self,
        queue: str,
        on_message_callback: Callback | InThreads,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Arguments | None = None,
    ) -> str:
        """
        Have the messages of a queue given to a function.
        """
        handler: Any = on_message_callback
        if not isinstance(handler, InThreads):
            handler = partial(_call, handler, self)
        return self.native.basic_consume(
            queue, handler, auto_ack, exclusive, consumer_tag or "", arguments
        ).consumer_tag

    def basic_cancel(self, consumer_tag: str) -> list[Item]:
        """
        End a consumer.
        """
        self.native.basic_cancel(consumer_tag)
        return []

    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        inactivity_timeout: float | None = None,
    ) -> Generator[Item, None, None]:
        """
        Iterate over the messages of a queue.  To leave the loop does not end the
        consumer: `cancel` does, and until then calling this again goes on where it was
        left.
        """
        key = (queue, auto_ack, exclusive)
        if self._iterated is None:
            deliveries = self.native.consume(
                queue, auto_ack=auto_ack, exclusive=exclusive, arguments=arguments
            )
            self._iterated = key, deliveries
        elif self._iterated[0] != key:
            raise ValueError(f"the consumer of {self._iterated[0][0]!r} is not ended")
        deliveries = self._iterated[1]
        with suppress(LookupError):
            while True:
                try:
                    delivery = deliveries.get(inactivity_timeout)
                except TimeoutError:
                    yield None, None, None
                else:
                    yield _item(delivery)

    def cancel(self) -> int:
        """
        End the consumer of `consume`.

        :returns: how many messages have gone back to the queue.
        """
        if self._iterated is None:
            return 0
        deliveries = self._iterated[1]
        self._iterated = None
        return deliveries.cancel()

    def get_waiting_message_count(self) -> int:
        """
        How many messages have come that `consume` has not given yet.
        """
        return 0 if self._iterated is None else self._iterated[1].buffered


def _call(callback: Callback, channel: BlockingChannel, delivery: Delivery) -> object:
    return callback(channel, delivery, delivery.properties, delivery.body)


def _item(delivery: Delivery | None) -> Item:
    if delivery is None:
        return None, None, None
    return delivery, delivery.properties, delivery.body
