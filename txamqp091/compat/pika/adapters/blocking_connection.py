# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's blocking connection and channel, over `txamqp091.adapters.blocking`.
"""

from __future__ import annotations

__all__ = ["BlockingChannel", "BlockingConnection", "ReturnedMessage"]

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from txamqp091 import errors
from txamqp091.adapters import blocking
from txamqp091.compat.pika import exceptions
from txamqp091.compat.pika.connection import ConnectionParameters, Parameters
from txamqp091.compat.pika.frame import Method
from txamqp091.compat.pika.spec import (
    Basic,
    BasicProperties,
    Connection,
    plain,
)
from txamqp091.message import Delivery, Message
from txamqp091.wire.properties import Properties

#: Called with the channel, the method, the properties and the body.
MessageCallback = Callable[
    ["BlockingChannel", Basic.Deliver, BasicProperties, bytes], object
]

#: What an iterator yields; three times None after ``inactivity_timeout``.
Item = tuple[Basic.Deliver | None, BasicProperties | None, bytes | None]


@contextmanager
def _pikas_errors() -> Iterator[None]:
    """
    Raise pika's exceptions in place of ours.
    """
    try:
        yield
    except errors.AMQPError as error:
        raise exceptions.translated(error) from error


class BlockingConnection:
    """
    A connection to a broker, for programs without an event loop.

    :ivar native: the `txamqp091.adapters.blocking.BlockingConnection`.
    """

    def __init__(
        self, parameters: Parameters | Sequence[Parameters] | None = None
    ) -> None:
        """
        Connect.

        :param parameters: one or several, which are tried one after the other, each as
            often as its ``connection_attempts`` says.
        :raises AMQPConnectionError: the last attempt failed.
        """
        if parameters is None:
            parameters = ConnectionParameters()
        several = [parameters] if isinstance(parameters, Parameters) else parameters
        if not several:
            raise ValueError("Expected at least one set of parameters")
        with _pikas_errors():
            self.native = _connected(list(several))
        self._blocked_timeout = several[0].blocked_connection_timeout

    def __repr__(self) -> str:
        return f"<BlockingConnection {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self.close()

    @property
    def is_open(self) -> bool:
        """
        Whether the connection can be used.
        """
        return self.native.is_open

    @property
    def is_closed(self) -> bool:
        """
        Whether the connection has ended.
        """
        return not self.is_open

    basic_nack_supported = property(lambda self: self._can("basic.nack"))
    consumer_cancel_notify_supported = property(
        lambda self: self._can("consumer_cancel_notify")
    )
    exchange_exchange_bindings_supported = property(
        lambda self: self._can("exchange_exchange_bindings")
    )
    publisher_confirms_supported = property(
        lambda self: self._can("publisher_confirms")
    )
    basic_nack = basic_nack_supported
    consumer_cancel_notify = consumer_cancel_notify_supported
    exchange_exchange_bindings = exchange_exchange_bindings_supported
    publisher_confirms = publisher_confirms_supported

    def _can(self, name: str) -> bool:
        return bool(self.native.server_properties.get("capabilities", {}).get(name))

    def _check_open(self) -> None:
        if not self.is_open:
            raise exceptions.ConnectionWrongStateError("Connection is closed.")

    def channel(self, channel_number: int | None = None) -> BlockingChannel:
        """
        Open a channel.

        :param channel_number: None is the next free number.
        :raises InvalidChannelNumber: the number is in use, or there is no such number.
        """
        self._check_open()
        try:
            with _pikas_errors():
                return BlockingChannel(self, self.native.channel(channel_number))
        except exceptions.AMQPError as error:
            if isinstance(error.__cause__, errors.LocalProtocolError):
                raise exceptions.InvalidChannelNumber(str(error)) from error.__cause__
            raise

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        """
        Close the connection.

        :raises ConnectionWrongStateError: it is closed.
        """
        self._check_open()
        with _pikas_errors():
            self.native.close(reply_code, reply_text)

    def update_secret(self, new_secret: str, reason: str) -> None:
        """
        Give the broker a new token.
        """
        with _pikas_errors():
            self.native.update_secret(new_secret, reason)

    # -- events ----------------------------------------------------------------------

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """
        Call callbacks.

        :param time_limit: how many seconds to wait for something to do at the most;
            None is without limit.
        """
        self._check_open()
        with _pikas_errors():
            self._process(time_limit)

    def _process(self, time_limit: float | None) -> None:
        try:
            self.native.process_data_events(time_limit)
        except errors.ConsumerCancelled:
            pass  # the channel's callback for that was called

    def sleep(self, duration: float) -> None:
        """
        Call callbacks for so many seconds.
        """
        deadline = time.monotonic() + duration
        while (left := deadline - time.monotonic()) > 0:
            self.process_data_events(left)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        """
        Have a function called in so many seconds.

        :returns: what `remove_timeout` takes.
        """
        return self.native.call_later(delay, callback)

    def remove_timeout(self, timeout_id: Any) -> None:
        """
        Undo `call_later`, if it is not too late.
        """
        timeout_id.cancel()

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """
        Have a function called by the connection's thread, from any other.

        :raises ConnectionWrongStateError: the connection is closed.
        """
        self._check_open()
        with _pikas_errors():
            self.native.add_callback_threadsafe(callback)

    def add_on_connection_blocked_callback(
        self, callback: Callable[[BlockingConnection, Method[Any]], object]
    ) -> None:
        """
        Have a function called when the broker blocks publishing.
        """

        def told(reason: str | None) -> None:
            if reason is not None:
                callback(self, Method(0, Connection.Blocked(reason)))

        self.native.observe_blocked(told)

    def add_on_connection_unblocked_callback(
        self, callback: Callable[[BlockingConnection, Method[Any]], object]
    ) -> None:
        """
        Have a function called when the broker stops blocking publishing.
        """

        def told(reason: str | None) -> None:
            if reason is None:
                callback(self, Method(0, Connection.Unblocked()))

        self.native.observe_blocked(told)


def _connected(several: list[Parameters]) -> blocking.BlockingConnection:
    attempts = max(each.connection_attempts for each in several)
    for attempt in range(attempts):
        for each in several:
            last = attempt == attempts - 1 and each is several[-1]
            if attempt >= each.connection_attempts and not last:
                continue
            options = each.ssl_options
            try:
                return blocking.BlockingConnection(
                    each.native(), ssl_context=options.context if options else None
                )
            except errors.AMQPError:
                if last:
                    raise
        time.sleep(max(each.retry_delay for each in several))
    raise AssertionError("there is at least one attempt")


class ReturnedMessage:
    """
    A message that no queue took.
    """

    def __init__(
        self, method: Basic.Return, properties: BasicProperties, body: bytes
    ) -> None:
        self.method = method
        self.properties = properties
        self.body = body


class BlockingChannel:
    """
    A channel.  ``with`` closes it.

    :ivar native: the `txamqp091.adapters.blocking.BlockingChannel`.
    :ivar connection: its connection.
    """

    def __init__(
        self, connection: BlockingConnection, native: blocking.BlockingChannel
    ) -> None:
        self.connection = connection
        self.native = native
        # None until basic_qos is called: pika has no prefetch limit then.
        self._prefetch: int | None = 0
        self._consumers: dict[str, blocking.Subscription] = {}
        self._on_cancel: list[Callable[[Method[Any]], object]] = []
        self._iterated: tuple[tuple[str, bool, bool], blocking.Deliveries] | None = None
        # Whether the program was told why the channel has ended.
        self._told = False

    def __int__(self) -> int:
        return self.native.number

    def __repr__(self) -> str:
        return f"<BlockingChannel {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self.close()

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
        Whether the channel has ended.
        """
        return not self.is_open

    @property
    def consumer_tags(self) -> list[str]:
        """
        The tags of the consumers with callbacks.
        """
        return [tag for tag, each in self._consumers.items() if each.is_active]

    def _ask(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Call a verb.  The reason why the channel has ended is raised once; later calls
        raise `ChannelWrongStateError`.
        """
        if self._told and not self.native.is_open:
            raise exceptions.ChannelWrongStateError("Channel is closed.")
        try:
            return verb(*args, **kwargs)
        except errors.Closed as error:
            self._told = True
            raise exceptions.translated(error) from error
        except errors.AMQPError as error:
            raise exceptions.translated(error) from error

    def _answer(
        self, verb: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Method[Any]:
        return Method(self.native.number, self._ask(verb, *args, **kwargs))

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """
        Close the channel.

        :raises ChannelWrongStateError: it is closed.
        """
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("Channel is closed.")
        self._ask(self.native.close)
        self._told = True

    def flow(self, active: bool) -> bool:
        """
        Ask the broker to stop, or to resume, sending messages.
        """
        return bool(self._ask(self.native.flow, active).active)

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
    ) -> Method[Any]:
        """
        Declare an exchange; by default one that is not durable.
        """
        return self._answer(
            self.native.exchange_declare,
            exchange,
            plain(exchange_type),
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> Method[Any]:
        """
        Delete an exchange.
        """
        return self._answer(self.native.exchange_delete, exchange, if_unused=if_unused)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> Method[Any]:
        """
        Bind an exchange to another.
        """
        return self._answer(
            self.native.exchange_bind,
            destination,
            source,
            routing_key,
            arguments=arguments,
        )

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> Method[Any]:
        """
        Undo `exchange_bind`.
        """
        return self._answer(
            self.native.exchange_unbind,
            destination,
            source,
            routing_key,
            arguments=arguments,
        )

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Method[Any]:
        """
        Declare a queue; by default one that is not durable.
        """
        return self._answer(
            self.native.queue_declare,
            queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False
    ) -> Method[Any]:
        """
        Delete a queue.
        """
        return self._answer(
            self.native.queue_delete, queue, if_unused=if_unused, if_empty=if_empty
        )

    def queue_purge(self, queue: str) -> Method[Any]:
        """
        Discard the messages of a queue.
        """
        return self._answer(self.native.queue_purge, queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Method[Any]:
        """
        Bind a queue to an exchange.

        :param routing_key: by default, the name of the queue.
        """
        key = queue if routing_key is None else routing_key
        return self._answer(
            self.native.queue_bind, queue, exchange, key, arguments=arguments
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Method[Any]:
        """
        Undo `queue_bind`.
        """
        key = queue if routing_key is None else routing_key
        return self._answer(
            self.native.queue_unbind, queue, exchange or "", key, arguments=arguments
        )

    # -- publishing --------------------------------------------------------------------

    def confirm_delivery(self) -> None:
        """
        Have `basic_publish` wait for the broker's confirm.
        """
        self._ask(self.native.confirm_delivery)

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

        :raises UnroutableError: no queue took it (mandatory, with `confirm_delivery`).
        :raises NackError: the broker could not store it (with `confirm_delivery`).
        :raises ConnectionBlockedTimeout: ``blocked_connection_timeout`` has passed.
        """
        native = Properties() if properties is None else properties.native()
        connection = self.connection
        limit = connection._blocked_timeout
        try:
            if limit is None:
                self._publish(exchange, routing_key, body, native, mandatory)
            else:
                with connection.native.within(limit):
                    self._publish(exchange, routing_key, body, native, mandatory)
        except TimeoutError as error:
            if connection.native.blocked is None:
                raise
            connection.close(320, "the broker blocks publishing")
            raise exceptions.ConnectionBlockedTimeout(str(error)) from error
        reason = connection.native.native.close_reason
        if reason is not None and not self._told:
            # What was given to a connection that has ended did not reach the broker.
            self._told = True
            raise exceptions.translated(reason) from reason

    def _publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: Properties,
        mandatory: bool,
    ) -> None:
        try:
            self._ask(
                _unchanged,
                lambda: self.native.basic_publish(
                    exchange, routing_key, body, properties, mandatory
                ),
            )
        except _Outcome as outcome:
            error = outcome.error
            if isinstance(error, errors.Returned):
                message = _returned(error.message, error.reply_code, error.reply_text)
                raise exceptions.UnroutableError([message]) from error
            raise exceptions.NackError([]) from error

    def add_on_return_callback(
        self,
        callback: Callable[
            [BlockingChannel, Basic.Return, BasicProperties, bytes], object
        ],
    ) -> None:
        """
        Have a function called with each mandatory message that comes back.
        """

        def returned(message: Message) -> None:
            found = _returned(message, 312, "NO_ROUTE")
            callback(self, found.method, found.properties, found.body)

        self.native.observe_returns(returned)

    # -- transactions ------------------------------------------------------------------

    def tx_select(self) -> Method[Any]:
        """
        Begin to use transactions.
        """
        return self._answer(self.native.tx_select)

    def tx_commit(self) -> Method[Any]:
        """
        Commit.
        """
        return self._answer(self.native.tx_commit)

    def tx_rollback(self) -> Method[Any]:
        """
        Roll back.
        """
        return self._answer(self.native.tx_rollback)

    # -- consuming ---------------------------------------------------------------------

    def basic_qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, global_qos: bool = False
    ) -> Method[Any]:
        """
        Limit the unacknowledged messages of later consumers.
        """
        answer = self._answer(
            self.native.basic_qos,
            prefetch_size=prefetch_size,
            prefetch_count=prefetch_count,
            global_qos=global_qos,
        )
        self._prefetch = None
        return answer

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """
        Acknowledge a message, or with ``multiple`` all up to it.
        """
        self._ask(self.native.basic_ack, delivery_tag, multiple=multiple)

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """
        Reject a message, or with ``multiple`` all up to it.
        """
        self._ask(
            self.native.basic_nack, delivery_tag, multiple=multiple, requeue=requeue
        )

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """
        Reject a message.
        """
        self._ask(self.native.basic_reject, delivery_tag, requeue=requeue)

    def basic_recover(self, requeue: bool = False) -> None:
        """
        Have all unacknowledged messages delivered again.
        """
        self._ask(self.native.basic_recover, requeue)

    def basic_get(
        self, queue: str, auto_ack: bool = False
    ) -> tuple[Basic.GetOk | None, BasicProperties | None, bytes | None]:
        """
        Fetch one message; three times None if there is none.
        """
        delivery = self._ask(self.native.basic_get, queue, auto_ack)
        if delivery is None:
            return None, None, None
        method = Basic.GetOk(
            delivery.delivery_tag,
            delivery.redelivered,
            delivery.exchange,
            delivery.routing_key,
            delivery.message_count,
        )
        return method, _properties(delivery), delivery.body

    def basic_consume(
        self,
        queue: str,
        on_message_callback: MessageCallback,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> str:
        """
        Have the messages of a queue given to a function by `start_consuming` and
        `BlockingConnection.process_data_events`.

        :returns: the consumer tag.
        """
        if consumer_tag in self._consumers:
            raise exceptions.DuplicateConsumerTag(consumer_tag)

        def handle(delivery: Delivery) -> object:
            return on_message_callback(
                self, _deliver(delivery), _properties(delivery), delivery.body
            )

        subscription: blocking.Subscription = self._ask(
            self.native.basic_consume,
            queue,
            handle,
            auto_ack,
            exclusive,
            consumer_tag or "",
            arguments,
            prefetch=self._prefetch,
        )
        tag = subscription.consumer_tag
        self._consumers[tag] = subscription
        return tag

    def add_on_cancel_callback(self, callback: Callable[[Method[Any]], object]) -> None:
        """
        Have a function called when the broker ends a consumer.
        """
        self._on_cancel.append(callback)

    def _cancelled(self, tag: str) -> None:
        """
        The broker has ended a consumer.
        """
        self._consumers.pop(tag, None)
        for each in list(self._on_cancel):
            each(Method(self.native.number, Basic.Cancel(tag)))

    def basic_cancel(self, consumer_tag: str) -> list[Item]:
        """
        End a consumer.  What its callback was not called with goes back to the queue;
        with ``auto_ack`` the callback is still called with it.
        """
        if self._consumers.pop(consumer_tag, None) is not None:
            self._ask(self.native.basic_cancel, consumer_tag)
        return []

    def start_consuming(self) -> None:
        """
        Call callbacks until the last consumer of this channel has ended.

        :raises ReentrancyError: it is called in a callback.
        """
        if self.connection.native.in_handler:
            raise exceptions.ReentrancyError(
                "start_consuming may not be called from the scope of another "
                "BlockingConnection or BlockingChannel callback"
            )
        while True:
            try:
                self._ask(_unchanged, self.native.start_consuming)
            except _Outcome as outcome:
                assert isinstance(outcome.error, errors.ConsumerCancelled)
                self._cancelled(outcome.error.consumer_tag)
            else:
                return

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """
        End a consumer, or all of them.
        """
        for tag in [consumer_tag] if consumer_tag else list(self._consumers):
            self.basic_cancel(tag)

    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
        inactivity_timeout: float | None = None,
    ) -> Generator[Item, None, None]:
        """
        Iterate over the messages of a queue.  Leaving the loop does not end the
        consumer: `cancel` does, and until then calling this again continues.

        :param inactivity_timeout: yields three times None when no message has come for
            so many seconds.
        :raises ValueError: the last one of another queue has not ended.
        """
        if self.connection.native.in_handler:
            raise exceptions.ReentrancyError("consume may not be called in a callback")
        key = (queue, auto_ack, exclusive)
        if self._iterated is None:
            deliveries: blocking.Deliveries = self._ask(
                self.native.consume,
                queue,
                auto_ack=auto_ack,
                exclusive=exclusive,
                arguments=arguments,
                prefetch=self._prefetch,
            )
            self._iterated = key, deliveries
        elif self._iterated[0] != key:
            raise ValueError("a consumer of another queue was not ended by cancel()")
        deliveries = self._iterated[1]
        while self._iterated is not None and self._iterated[1] is deliveries:
            try:
                delivery = self._ask(
                    _unchanged, lambda: deliveries.get(inactivity_timeout)
                )
            except TimeoutError:
                yield None, None, None
            except LookupError:
                return
            except _Outcome:
                self._iterated = None
                self._cancelled(deliveries.consumer_tag)
                return
            else:
                yield _deliver(delivery), _properties(delivery), delivery.body

    def cancel(self) -> int:
        """
        End the consumer of `consume`.

        :returns: how many messages have gone back to the queue.
        """
        if self._iterated is None:
            return 0
        deliveries = self._iterated[1]
        self._iterated = None
        left: int = self._ask(deliveries.cancel)
        return left

    def get_waiting_message_count(self) -> int:
        """
        How many messages have come that `consume` has not given yet.
        """
        return 0 if self._iterated is None else self._iterated[1].buffered


class _Outcome(Exception):
    """
    What happened to one message or consumer, while the channel lives on.
    """

    def __init__(self, error: errors.AMQPError) -> None:
        super().__init__(error)
        self.error = error


def _unchanged(function: Callable[[], Any]) -> Any:
    """
    Keep the outcomes that the caller translates by itself.
    """
    try:
        return function()
    except (errors.Returned, errors.Nacked, errors.ConsumerCancelled) as error:
        raise _Outcome(error) from error


def _deliver(delivery: Delivery) -> Basic.Deliver:
    return Basic.Deliver(
        delivery.consumer_tag,
        delivery.delivery_tag,
        delivery.redelivered,
        delivery.exchange,
        delivery.routing_key,
    )


def _properties(message: Delivery | Message) -> BasicProperties:
    return BasicProperties.from_native(message.properties)


def _returned(message: Any, code: int, text: str) -> ReturnedMessage:
    method = Basic.Return(code, text, message.exchange, message.routing_key)
    return ReturnedMessage(method, _properties(message), bytes(message.body))
