# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
pika's channel with callbacks, over `txamqp091.channel.Channel`: the same for every
adapter of `txamqp091.compat.pika.adapters` but the blocking one.
"""

from __future__ import annotations

__all__ = ["Channel"]

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txamqp091 import errors
from txamqp091.channel import Channel as Native
from txamqp091.compat.pika import exceptions
from txamqp091.compat.pika.frame import Method
from txamqp091.compat.pika.spec import Basic, BasicProperties, plain
from txamqp091.consumer import Consumer
from txamqp091.message import Delivery, Message
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.compat.pika.connection import Connection

#: Called with an answer.
OnAnswer = Callable[[Method[Any]], object] | None

#: Called with the channel, the method, the properties and the body.
OnMessage = Callable[["Channel", Any, BasicProperties, bytes], object]


class Channel:
    """
    A channel.  `Connection.channel` makes one.

    A verb returns at once; its ``callback`` is called with the broker's answer.  A verb
    of a channel that is not open raises `ChannelWrongStateError`.

    :ivar connection: its connection.
    :ivar channel_number: its number on the connection.
    :ivar native: the `txamqp091.channel.Channel`; None until the channel is open.
    :ivar flow_active: True: RabbitMQ does not stop a channel.
    """

    flow_active = True

    def __init__(
        self,
        connection: Connection,
        channel_number: int,
        on_open_callback: Callable[[Channel], object] | None = None,
    ) -> None:
        self.connection = connection
        self.channel_number = channel_number
        self.native: Native | None = None
        self._on_open = on_open_callback
        self._state = "opening"
        self._closed_by_us: exceptions.ChannelClosedByClient | None = None
        self._prefetch: int | None = 0
        self._consumers: dict[str, Consumer | None] = {}
        self._on_close: list[Callable[[Channel, Exception], object]] = []
        self._on_cancel: list[Callable[[Method[Any]], object]] = []
        self._on_return: list[OnMessage] = []
        self._replies: list[tuple[list[str], Callable[..., object], bool]] = []
        self._confirmed: Callable[[Method[Any]], object] | None = None
        self._published = 0
        self._getting = False

    def __int__(self) -> int:
        return self.channel_number

    def __repr__(self) -> str:
        return (
            f"<Channel number={self.channel_number} {self._state.upper()} "
            f"conn={self.connection!r}>"
        )

    @property
    def is_open(self) -> bool:
        """
        Whether the channel can be used.
        """
        return self._state == "open"

    @property
    def is_opening(self) -> bool:
        """
        Whether the broker has not agreed to the channel yet.
        """
        return self._state == "opening"

    @property
    def is_closing(self) -> bool:
        """
        Whether `close` was called, and the broker has not answered yet.
        """
        return self._state == "closing"

    @property
    def is_closed(self) -> bool:
        """
        Whether the channel has ended.
        """
        return self._state == "closed"

    @property
    def consumer_tags(self) -> list[str]:
        """
        The tags of the consumers.
        """
        return list(self._consumers)

    # -- what the connection calls -----------------------------------------------------

    def opened(self, native: Native) -> None:
        """
        The broker has agreed.
        """
        self.native = native
        native.observe_returns(self._returned)
        native.when_closed().addCallbacks(self._ended, self._failed)
        if self._state == "closing":  # closed before it was open
            native.close()
            return
        self._state = "open"
        if self._on_open is not None:
            self._call(self._on_open, self)

    def refused(self, failure: Failure) -> None:
        """
        The channel did not open.
        """
        self._failed(failure)

    def _ended(self, _: object) -> None:
        self._finish(
            self._closed_by_us
            or exceptions.ChannelClosedByClient(200, "Normal shutdown")
        )

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        reason: BaseException | None = self._closed_by_us
        if isinstance(error, errors.ConnectionClosed) and error.by_us:
            code = error.reply_code or 200
            reason = exceptions.ChannelClosedByClient(code, error.reply_text)
        elif reason is None:
            reason = self.connection.lost_reason or exceptions.translated(error)
            reason.__cause__ = error
        self._finish(reason)

    def _finish(self, reason: BaseException) -> None:
        if self._state == "closed":
            return
        self._state = "closed"
        self._consumers.clear()
        self._replies.clear()
        self.connection.forget(self)
        for each in list(self._on_close):
            self._call(each, self, reason)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        self.connection.call(function, *args)

    # -- asking ------------------------------------------------------------------------

    def _open_native(self) -> Native:
        if self._state != "open" or self.native is None:
            raise exceptions.ChannelWrongStateError(f"Channel is {self._state}.")
        if not (self.native.is_open and self.connection.is_open):
            raise exceptions.ChannelWrongStateError("Channel is closed.")
        return self.native

    def _answered(
        self, deferred: Deferred[Any], callback: OnAnswer, nowait: bool = False
    ) -> None:
        """
        Call a function with the answer.

        :raises AMQPError: the verb failed at once.
        """
        _raise_at_once(deferred)
        if nowait:
            deferred.addErrback(_told_by_the_end)
        else:
            deferred.addCallbacks(self._answer, _told_by_the_end, (callback,))

    def _answer(self, method: Any, callback: OnAnswer) -> None:
        frame: Method[Any] = Method(self.channel_number, method)
        if callback is not None:
            self._call(callback, frame)
        self._reply(method, frame)

    def _reply(self, method: Any, *args: object) -> None:
        """
        Call what `add_callback` was given for a method.
        """
        name = _name_of(method)
        for each in list(self._replies):
            names, callback, one_shot = each
            if name in names:
                if one_shot:
                    self._replies.remove(each)
                self._call(callback, *args)

    def add_callback(
        self, callback: Callable[..., object], replies: list[Any], one_shot: bool = True
    ) -> None:
        """
        Have a function called with the answers of some kinds.

        :param replies: the classes, such as ``[pika.spec.Basic.GetEmpty]``.
        """
        names = [_name_of(each) for each in replies]
        self._replies.append((names, callback, one_shot))

    def add_on_cancel_callback(self, callback: Callable[[Method[Any]], object]) -> None:
        """
        Have a function called when the broker ends a consumer.
        """
        self._on_cancel.append(_function(callback))

    def add_on_close_callback(
        self, callback: Callable[[Channel, Exception], object]
    ) -> None:
        """
        Have a function called with the channel and the reason when the channel ends.
        """
        self._on_close.append(_function(callback))

    def add_on_flow_callback(self, callback: Callable[[bool], object]) -> None:
        """
        Accept a function that RabbitMQ never causes to be called.
        """
        _function(callback)

    def add_on_return_callback(self, callback: OnMessage) -> None:
        """
        Have a function called with each mandatory message that comes back.
        """
        self._on_return.append(_function(callback))

    def _returned(self, message: Message) -> None:
        method = Basic.Return(312, "NO_ROUTE", message.exchange, message.routing_key)
        properties = BasicProperties.from_native(message.properties)
        for each in list(self._on_return):
            self._call(each, self, method, properties, message.body)

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """
        Close the channel.

        :raises ChannelWrongStateError: it is closed, or being closed.
        """
        if self._state in ("closing", "closed"):
            raise exceptions.ChannelWrongStateError(f"Channel is {self._state}.")
        self._closed_by_us = exceptions.ChannelClosedByClient(reply_code, reply_text)
        self._state = "closing"
        if self.native is not None:
            self.native.close(reply_code, reply_text).addErrback(_told_by_the_end)

    def flow(
        self, active: bool, callback: Callable[[bool], object] | None = None
    ) -> None:
        """
        Ask the broker to stop, or to resume, sending messages.
        """
        _optional(callback)

        def answered(frame: Method[Any]) -> None:
            if callback is not None:
                callback(bool(frame.method.active))

        self._answered(self._open_native().flow(active), answered)

    # -- exchanges and queues ----------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: Any = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Declare an exchange; by default one that is not durable.
        """
        _optional(callback)
        asked = self._open_native().exchange_declare(
            exchange,
            plain(exchange_type),
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )
        self._answered(asked, callback)

    def exchange_delete(
        self,
        exchange: str | None = None,
        if_unused: bool = False,
        callback: OnAnswer = None,
    ) -> None:
        """
        Delete an exchange.
        """
        _optional(callback)
        asked = self._open_native().exchange_delete(exchange or "", if_unused=if_unused)
        self._answered(asked, callback)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Bind an exchange to another.
        """
        _optional(callback)
        asked = self._open_native().exchange_bind(
            destination, source, routing_key, arguments
        )
        self._answered(asked, callback)

    def exchange_unbind(
        self,
        destination: str | None = None,
        source: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Undo `exchange_bind`.
        """
        _optional(callback)
        asked = self._open_native().exchange_unbind(
            destination or "", source or "", routing_key, arguments
        )
        self._answered(asked, callback)

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Declare a queue; by default one that is not durable.
        """
        _optional(callback)
        asked = self._open_native().queue_declare(
            queue, passive, durable, exclusive, auto_delete, arguments
        )
        self._answered(asked, callback)

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        callback: OnAnswer = None,
    ) -> None:
        """
        Delete a queue.
        """
        _optional(callback)
        asked = self._open_native().queue_delete(queue, if_unused, if_empty)
        self._answered(asked, callback)

    def queue_purge(self, queue: str, callback: OnAnswer = None) -> None:
        """
        Discard the messages of a queue.
        """
        _optional(callback)
        self._answered(self._open_native().queue_purge(queue), callback)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Bind a queue to an exchange.

        :param routing_key: by default, the name of the queue.
        """
        _optional(callback)
        key = queue if routing_key is None else routing_key
        asked = self._open_native().queue_bind(queue, exchange, key, arguments)
        self._answered(asked, callback)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> None:
        """
        Undo `queue_bind`.
        """
        _optional(callback)
        key = queue if routing_key is None else routing_key
        asked = self._open_native().queue_unbind(queue, exchange or "", key, arguments)
        self._answered(asked, callback)

    # -- publishing --------------------------------------------------------------------

    def confirm_delivery(
        self,
        ack_nack_callback: Callable[[Method[Any]], object],
        callback: OnAnswer = None,
    ) -> None:
        """
        Have a function called with ``Basic.Ack`` or ``Basic.Nack`` for each message
        that is published from now on.
        """
        _function(ack_nack_callback)
        _optional(callback)
        native = self._open_native()
        if self._confirmed is None:
            self._published = 0
        self._confirmed = ack_nack_callback
        self._answered(native.confirm_select(), callback)

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        """
        Publish a message.
        """
        native = self._open_native()
        found = Properties() if properties is None else properties.native()
        published = native.basic_publish(exchange, routing_key, body, found, mandatory)
        if self._confirmed is None:
            if published.called:
                _raise_at_once(published)
            published.addErrback(_told_by_the_end)
            return
        _raise_at_once(published)
        self._published += 1
        tag = self._published
        published.addCallbacks(
            self._acked, self._nacked, callbackArgs=(tag,), errbackArgs=(tag,)
        )

    def _acked(self, _: object, tag: int) -> None:
        if self._confirmed is not None and self._state != "closed":
            self._call(self._confirmed, Method(self.channel_number, Basic.Ack(tag)))

    def _nacked(self, failure: Failure, tag: int) -> None:
        if failure.check(errors.Returned):  # the broker acknowledges these
            self._acked(None, tag)
        elif failure.check(errors.Nacked) and self._confirmed is not None:
            self._call(self._confirmed, Method(self.channel_number, Basic.Nack(tag)))

    # -- transactions ------------------------------------------------------------------

    def tx_select(self, callback: OnAnswer = None) -> None:
        """
        Begin to use transactions.
        """
        _optional(callback)
        self._answered(self._open_native().tx_select(), callback)

    def tx_commit(self, callback: OnAnswer = None) -> None:
        """
        Commit.
        """
        _optional(callback)
        self._answered(self._open_native().tx_commit(), callback)

    def tx_rollback(self, callback: OnAnswer = None) -> None:
        """
        Roll back.
        """
        _optional(callback)
        self._answered(self._open_native().tx_rollback(), callback)

    # -- consuming ---------------------------------------------------------------------

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        global_qos: bool = False,
        callback: OnAnswer = None,
    ) -> None:
        """
        Limit the unacknowledged messages of later consumers.
        """
        _optional(callback)
        asked = self._open_native().basic_qos(prefetch_size, prefetch_count, global_qos)
        self._answered(asked, callback)
        self._prefetch = None

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """
        Acknowledge a message, or with ``multiple`` all up to it.
        """
        _raise_at_once(self._open_native().basic_ack(delivery_tag, multiple))

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """
        Reject a message, or with ``multiple`` all up to it.
        """
        _raise_at_once(self._open_native().basic_nack(delivery_tag, multiple, requeue))

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """
        Reject a message.
        """
        _raise_at_once(self._open_native().basic_reject(delivery_tag, requeue))

    def basic_recover(self, requeue: bool = False, callback: OnAnswer = None) -> None:
        """
        Have all unacknowledged messages delivered again.
        """
        _optional(callback)
        self._answered(self._open_native().basic_recover(requeue), callback)

    def basic_get(
        self, queue: str, callback: OnMessage, auto_ack: bool = False
    ) -> None:
        """
        Fetch one message.  If there is none, the functions that `add_callback` was
        given for ``Basic.GetEmpty`` are called.

        :raises DuplicateGetOkCallback: the last one was not answered yet.
        """
        _function(callback)
        native = self._open_native()
        if self._getting:
            raise exceptions.DuplicateGetOkCallback()
        asked = native.basic_get(queue, auto_ack)
        _raise_at_once(asked)
        self._getting = True
        asked.addCallbacks(self._got, _told_by_the_end, (callback,))

    def _got(self, delivery: Delivery | None, callback: OnMessage) -> None:
        self._getting = False
        if delivery is None:
            empty = Basic.GetEmpty()
            self._reply(empty, Method(self.channel_number, empty))
            return
        method = Basic.GetOk(
            delivery.delivery_tag,
            delivery.redelivered,
            delivery.exchange,
            delivery.routing_key,
            delivery.message_count or 0,
        )
        properties = BasicProperties.from_native(delivery.properties)
        self._call(callback, self, method, properties, delivery.body)

    def basic_consume(
        self,
        queue: str,
        on_message_callback: OnMessage,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: dict[str, Any] | None = None,
        callback: OnAnswer = None,
    ) -> str:
        """
        Have the messages of a queue given to a function.

        :returns: the consumer tag.
        :raises DuplicateConsumerTag: the channel has a consumer of that tag.
        """
        _function(on_message_callback)
        _optional(callback)
        native = self._open_native()
        tag = consumer_tag or f"ctag{self.channel_number}.{uuid4().hex}"
        if tag in self._consumers:
            raise exceptions.DuplicateConsumerTag(tag)
        call = self.connection.call

        def handle(delivery: Delivery) -> None:
            method = Basic.Deliver(
                delivery.consumer_tag,
                delivery.delivery_tag,
                delivery.redelivered,
                delivery.exchange,
                delivery.routing_key,
            )
            properties = BasicProperties.from_native(delivery.properties)
            call(on_message_callback, self, method, properties, delivery.body)

        asked = native.basic_consume(
            queue,
            handle,
            auto_ack,
            exclusive,
            tag,
            arguments,
            prefetch=self._prefetch,
        )
        _raise_at_once(asked)
        self._consumers[tag] = None

        def agreed(consumer: Consumer) -> None:
            if tag in self._consumers:
                self._consumers[tag] = consumer
            consumer.when_ended().addErrback(self._cancelled, tag)
            self._answer(Basic.ConsumeOk(tag), callback)

        asked.addCallbacks(agreed, _told_by_the_end)
        return tag

    def _cancelled(self, failure: Failure, tag: str) -> None:
        if not failure.check(errors.ConsumerCancelled):
            return  # the channel has ended, and tells
        self._consumers.pop(tag, None)
        for each in list(self._on_cancel):
            self._call(each, Method(self.channel_number, Basic.Cancel(tag)))

    def basic_cancel(self, consumer_tag: str = "", callback: OnAnswer = None) -> None:
        """
        End a consumer.  A tag that is not known does nothing.
        """
        _optional(callback)
        native = self._open_native()
        if consumer_tag in self._consumers:
            asked = native.basic_cancel(consumer_tag)
            self._answered(asked, callback)
            del self._consumers[consumer_tag]


def _name_of(method: Any) -> str:
    if isinstance(method, str):
        return method
    return (method if isinstance(method, type) else type(method)).__name__.removeprefix(
        "Basic"
    )


def _function(callback: Any) -> Any:
    """
    :raises TypeError: it is no function.
    """
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {callback!r}")
    return callback


def _optional(callback: Any) -> None:
    if callback is not None:
        _function(callback)


def _raise_at_once(deferred: Deferred[Any]) -> None:
    """
    :raises AMQPError: the Deferred has failed already.
    """
    result = deferred.result if deferred.called else None
    if isinstance(result, Failure):
        deferred.addErrback(_told_by_the_end)
        error = exceptions.translated(result.value)
        raise error.with_traceback(None) from result.value


def _told_by_the_end(_: Failure) -> None:
    """
    Let the end of the channel or of the connection tell why.
    """
