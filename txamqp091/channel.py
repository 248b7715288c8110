# -*- test-case-name: txamqp091.test.unit.client.test_channel -*-
"""
The verbs of AMQP, once each: one method for one method of the protocol.

This file is long because it is a list.  It has no state to speak of: what waits for
the broker is in `txamqp091._machine.channel`, publishing is in
`txamqp091._channel_publisher`, consuming in `txamqp091.consumer`.

What holds for all verbs.  They are called in the reactor's thread (for others, there is
`txamqp091.adapters.threads`).  Each returns a Deferred of its own, which fires with the
broker's answer, as the object of that name in `txamqp091.wire.spec`.  Verbs need not
wait for one another: n of them cost one round trip, and are answered in order.  A
Deferred fails with the `ChannelClosed` or `ConnectionClosed` that says why, when the
channel ends first; with `LocalProtocolError` when nothing could be sent; and nothing
is ever raised.  Cancelling it ends the waiting, not what the broker does: the queue
may still be declared.  With ``no_wait`` the broker is told not to answer: the Deferred
fires at once, with an answer of our own whose fields say nothing, and if the broker
refuses it closes the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._channel_publisher import (
    DEFAULT_WINDOW,
    DEFAULT_WINDOW_SIZE,
    ChannelPublisher,
)
from txamqp091._flow import Flow
from txamqp091._machine.channel import ChannelMachine, Content
from txamqp091._observer import OneShot
from txamqp091.consumer import (
    DEFAULT_PREFETCH,
    Consumer,
    Consuming,
    Deliveries,
    Handler,
    OnFailure,
    check_handler,
)
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    ContentTooLarge,
    LocalProtocolError,
)
from txamqp091.message import Body, Delivery, Message, Settler, SettlerFactory
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.protocol import AMQPProtocol

__all__ = ["Arguments", "Channel", "ExchangeType"]

#: The arguments of a declaration: `txamqp091.arguments` has typed ones.
Arguments = Mapping[str, Any]


class ExchangeType(StrEnum):
    """
    The types of exchanges that RabbitMQ has, for `Channel.exchange_declare`.
    """

    DIRECT = "direct"
    FANOUT = "fanout"
    TOPIC = "topic"
    HEADERS = "headers"
    #: To a queue of the node that the publisher is connected to (RabbitMQ 4.0).
    LOCAL_RANDOM = "x-local-random"
    #: By the hash of the routing key (RabbitMQ 4.3).
    MODULUS_HASH = "x-modulus-hash"
    #: By the hash of the routing key or of a header (a plugin).
    CONSISTENT_HASH = "x-consistent-hash"


Reply = TypeVar("Reply", bound=Method)

_SHORT_MAX = 65535

# The bits of a basic.nack.
_MULTIPLE = 1
_REQUEUE = 2

_log = Logger(namespace="txamqp091.channel")

#: What the broker refuses without an answer that would tell anyone.
_UNANSWERED = (
    "basic.publish",
    "basic.ack",
    "basic.nack",
    "basic.reject",
    "basic.recover-async",
)

#: Where in a basic.get-ok the exchange and the routing key are.
_GET_OK_ROUTE = 13

#: Where in the payload of a header frame the properties are.
_HEADER_FIELDS = 12


def _check_prefetch(prefetch: object) -> None:
    if isinstance(prefetch, bool) or not isinstance(prefetch, int):
        raise TypeError(f"a prefetch is an int, not {type(prefetch).__name__}")
    if not 0 <= prefetch <= _SHORT_MAX:
        raise LocalProtocolError(f"a prefetch of {prefetch}; 0 to {_SHORT_MAX}")


class Channel:
    """
    A channel of a connection; made by `AMQPProtocol.open_channel`.  ``async with``
    closes it at the end.

    :ivar number: its number on the connection.
    :ivar connection: the connection.
    :ivar settler: sends the settlements of its deliveries.
    :ivar publisher: sends its messages, when they may be sent.
    """

    def __init__(
        self, connection: AMQPProtocol, flow: Flow, make_settler: SettlerFactory
    ) -> None:
        self.connection = connection
        self.number = 0
        self.settler: Settler
        self._flow = flow
        self._machine: ChannelMachine
        self._make_settler = make_settler
        self.publisher: ChannelPublisher
        self._closed: OneShot[None] = OneShot()
        self._tags = 0
        # How many deliveries a consumer may have unsettled that does not say.
        self._prefetch = DEFAULT_PREFETCH
        # Consumers that have ended with the channel, and nobody waited for that.
        self._untold: list[Consumer] = []

    def _attach(self, machine: ChannelMachine) -> None:
        self._machine = machine
        self.number = machine.number
        self.publisher = ChannelPublisher(machine, self._flow, self._ended)
        self.settler = self._make_settler(machine, self.connection.reactor)
        machine.sink = self.publisher

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Channel {self.number}, {state}>"

    # -- life ------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether the channel can be used.
        """
        return self._machine.is_open

    def close(self, reply_code: int = 200, reply_text: str = "") -> Deferred[None]:
        """
        Close the channel.  What is unacknowledged goes back to its queue.

        :returns: fires when the channel has ended, however it did; it fails only
            for a code or a text that AMQP cannot carry.  Closing again is harmless,
            and so is cancelling the Deferred.
        """
        machine = self._machine
        if machine.is_open:
            reply: Deferred[spec.ChannelCloseOk] = Deferred()
            reply.addErrback(lambda _: None)  # `_ended` tells everyone
            try:
                self._begin()
                machine.close(reply_code, reply_text, reply)
            except AMQPError as error:
                return fail(error.with_traceback(None))
            self._flow.release_channel(self._machine)
        return self._closed.when_over()

    def abandon(self, reason: AMQPError) -> None:
        """
        Close the channel, and do not wait for a broker that may be stuck.  The channel
        has ended when this returns; all that waits on it fails with the reason.
        """
        if self._machine.is_open:
            self._machine.abandon(reason)

    def _leave(self, reason: AMQPError) -> None:
        """
        Be over, and tell nothing that waits: the channel is another process's.
        """
        self._closed = OneShot()
        self._closed.fail(reason)

    def when_closed(self) -> Deferred[None]:
        """
        :returns: fires once the channel was closed by us; fails with the reason when
            the broker closed it, or the connection ended.  Each caller has a
            Deferred of their own; cancelling it does nothing else.
        """
        return self._closed.when_fired()

    def _ended(self, reason: AMQPError) -> None:
        self.connection._channels.discard(self)
        self._flow.release_channel(self._machine)
        told, by_us = self._closed.awaited, getattr(reason, "by_us", False)
        if self._machine.closing and by_us:
            self._closed.fire(None)
        else:
            self._closed.fail(reason)
        untold, self._untold = self._untold, []
        if not (told or by_us):
            if isinstance(reason, ChannelClosed):
                self._warn(reason, len(untold))
            else:
                self.connection.untold += len(untold)

    def _warn(self, reason: ChannelClosed, consumers: int) -> None:
        """
        The broker has closed the channel, and nobody waits for that.

        :param consumers: how many consumers have ended with it, untold.
        """
        operation = reason.operation
        if operation == "basic.publish" and self._machine.confirms is not None:
            answered = True
        else:
            answered = bool(operation) and operation not in _UNANSWERED
        if consumers or not answered:
            _log.warn(
                "The broker closed channel {number}: {reason}.  {consumers} "
                "consumer(s) on it have ended, and what was published on it since is "
                "lost.  Wait for when_closed() to open another channel, or use "
                "AMQPClientService, which does so by itself",
                number=self.number,
                reason=reason,
                consumers=consumers,
            )

    # -- asking ----------------------------------------------------------------

    def _begin(self) -> None:
        """
        Before anything is said, but for messages: what threads have settled goes first.

        :raises LocalProtocolError: when another thread calls than may.
        """
        self.settler.check_thread()
        self.settler.catch_up()

    def _call(self, method: Method, reply: type[Reply]) -> Deferred[Reply]:
        """
        Send a method, and return a Deferred for its answer.
        """
        deferred: Deferred[Reply] = Deferred()
        try:
            self._begin()
            self._machine.call(method, deferred)
        except AMQPError as error:
            deferred.errback(error.with_traceback(None))
        return deferred

    def _send(self, method: Method) -> Deferred[None]:
        """
        Send a method that has no answer.
        """
        try:
            self._begin()
            self._machine.send(method)
        except AMQPError as error:
            return fail(error.with_traceback(None))
        return succeed(None)

    # -- exchanges -------------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: str = "direct",
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.ExchangeDeclareOk]:
        """
        Make an exchange, unless it exists as described.

        :param exchange_type: an `ExchangeType`, or another text where a plugin adds a
            type.
        :param passive: only ask whether it exists (`NotFound` if not).
        :param durable: it outlives a restart of the broker.
        :param auto_delete: it goes when its last binding does.
        :param internal: only other exchanges may publish to it.
        :returns: fails with `PreconditionFailed` when it exists and differs.
        """
        return self._call(
            spec.ExchangeDeclare(
                0,
                exchange,
                exchange_type,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments or {},
            ),
            spec.ExchangeDeclareOk,
        )

    def exchange_delete(
        self, exchange: str, if_unused: bool = False, *, no_wait: bool = False
    ) -> Deferred[spec.ExchangeDeleteOk]:
        """
        Delete an exchange.  RabbitMQ does not mind if there is none.

        :param if_unused: only if nothing is bound to it.
        """
        return self._call(
            spec.ExchangeDelete(0, exchange, if_unused, no_wait), spec.ExchangeDeleteOk
        )

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.ExchangeBindOk]:
        """
        Have one exchange pass messages on to another (RabbitMQ).

        :param destination: the exchange that gets the messages.
        :param source: the exchange that they are published to.
        """
        return self._call(
            spec.ExchangeBind(
                0, destination, source, routing_key, no_wait, arguments or {}
            ),
            spec.ExchangeBindOk,
        )

    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.ExchangeUnbindOk]:
        """
        Undo `exchange_bind`; its arguments must be the same (RabbitMQ).
        """
        return self._call(
            spec.ExchangeUnbind(
                0, destination, source, routing_key, no_wait, arguments or {}
            ),
            spec.ExchangeUnbindOk,
        )

    # -- queues ----------------------------------------------------------------

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool | None = None,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.QueueDeclareOk]:
        """
        Make a queue, unless it exists as described.

        :param queue: its name; if it is "", the broker makes one up.
        :param passive: only ask whether it exists (`NotFound` if not).
        :param durable: it outlives a restart of the broker.  By default it does,
            unless it is exclusive: RabbitMQ 4 may refuse one that is neither.
        :param exclusive: it is for this connection only, and ends with it.
        :param auto_delete: it goes when its last consumer does.
        :param arguments: more, such as its type: see `txamqp091.arguments`.
        :returns: fires with ``queue``, ``message_count`` (ready, not unacknowledged
            ones) and ``consumer_count``.  Fails with `PreconditionFailed` when it
            exists and differs, and with `ResourceLocked` when it is exclusive to
            another connection.
        """
        if durable is None:
            durable = not exclusive
        if not (durable or exclusive or passive):
            _log.warn(
                "The queue {queue} is neither durable nor exclusive: RabbitMQ 4 "
                "deprecates that, and may close the connection for it",
                queue=queue,
            )
        return self._call(
            spec.QueueDeclare(
                0,
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                no_wait,
                arguments or {},
            ),
            spec.QueueDeclareOk,
        )

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.QueueBindOk]:
        """
        Have an exchange put messages into a queue.

        :param queue: the queue; "" is the last one declared on this channel.
        """
        return self._call(
            spec.QueueBind(0, queue, exchange, routing_key, no_wait, arguments or {}),
            spec.QueueBindOk,
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> Deferred[spec.QueueUnbindOk]:
        """
        Undo `queue_bind`; its arguments must be the same.
        """
        return self._call(
            spec.QueueUnbind(0, queue, exchange, routing_key, arguments or {}),
            spec.QueueUnbindOk,
        )

    def queue_purge(
        self, queue: str, *, no_wait: bool = False
    ) -> Deferred[spec.QueuePurgeOk]:
        """
        Drop all ready messages of a queue.

        :returns: fires with ``message_count``, how many there were.
        """
        return self._call(spec.QueuePurge(0, queue, no_wait), spec.QueuePurgeOk)

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.QueueDeleteOk]:
        """
        Delete a queue.  RabbitMQ does not mind if there is none.

        :param if_unused: only if it has no consumers.
        :param if_empty: only if it has no messages.
        :returns: fires with ``message_count``, how many messages went with it.
        """
        return self._call(
            spec.QueueDelete(0, queue, if_unused, if_empty, no_wait), spec.QueueDeleteOk
        )

    # -- publishing ------------------------------------------------------------

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        mandatory: bool = False,
    ) -> Deferred[None]:
        """
        Publish a message.

        :param exchange: the exchange; "" routes to the queue that the routing key
            names.
        :param body: bytes, or text, which is sent as UTF-8.
        :param mandatory: have it come back when no queue takes it.
        :returns: in confirm mode (`confirm_select`), fires with None once the broker
            has taken *this* message, and fails with `Nacked`, or with `Returned`, if
            it has not.  Otherwise it fires when the message may leave: no more is
            known then.  It waits while the broker blocks the connection, while the
            transport is full, and while the window of unconfirmed messages is.
            At most 64 MiB of messages wait while the broker blocks the connection, and
            256 MiB otherwise; more fail with `ConnectionBlocked`, and with
            `PublisherFull`.  It fails with the channel's or the connection's reason if
            that ends first: the message may have been taken then.  Cancelling it keeps
            a message that still waits from being sent.
        """
        if get_ident() != self.settler.thread:  # once per message: no call for most
            try:
                self.settler.check_thread()
            except LocalProtocolError as error:
                return fail(error.with_traceback(None))
        return self.publisher.publish(
            exchange, routing_key, body, properties, mandatory
        )

    def publish_many(self, messages: Iterable[Message]) -> Deferred[None]:
        """
        Publish many messages, at much less cost than one by one.  They are drawn
        from the iterable as they may leave.

        :returns: fires with None when all have left, and in confirm mode when the
            broker has taken all of them.  Fails with `BatchFailed`, which names each
            message that was not taken, once the fate of all is known.  Cancelling it
            keeps those from being sent that have not left.
        """
        try:
            self._begin()
        except LocalProtocolError as error:
            return fail(error.with_traceback(None))
        return self.publisher.publish_many(messages)

    def flush(self) -> Deferred[None]:
        """
        Wait until the broker has processed what was sent on this channel before this
        call: it has settled deliveries, it has routed messages, or it has closed the
        channel if it refuses one of these.  To know that a message is safe, use
        confirms.

        :returns: fires when the broker has answered, which is after all messages that
            still wait have left; fails with the reason when the channel ends first.
            Cancelling it ends the waiting.
        """
        try:
            self._begin()
        except LocalProtocolError as error:
            return fail(error.with_traceback(None))
        return self.publisher.flush()

    def confirm_select(
        self,
        window: int = DEFAULT_WINDOW,
        window_size: int = DEFAULT_WINDOW_SIZE,
        *,
        no_wait: bool = False,
    ) -> Deferred[spec.ConfirmSelectOk]:
        """
        Enter confirm mode: the broker answers for each message from now on.  There
        is no need to wait for the Deferred before publishing, and no harm in
        calling this again.

        :param window: how many messages may be unconfirmed at a time; the next one
            waits.
        :param window_size: how many bytes their bodies may have, those of up to 4
            KiB not counted; the message that goes beyond is the last one to leave.
        """
        deferred: Deferred[spec.ConfirmSelectOk] = Deferred()
        try:
            self._begin()
            for name, value in (("window", window), ("window_size", window_size)):
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(f"{name} is an int, not {type(value).__name__}")
                if value < 1:
                    raise LocalProtocolError(f"{name} is {value}; 1 at least")
            self.publisher.select_confirms(window, window_size, no_wait, deferred)
        except (AMQPError, TypeError) as error:
            deferred.errback(error.with_traceback(None))
        return deferred

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        Have a function called with each mandatory message that comes back.  (In confirm
        mode the Deferred of the publish fails with `Returned`, too.)

        :returns: call this to end it.
        """
        return self.publisher.observe_returns(listener)

    # -- consuming -------------------------------------------------------------

    def basic_consume(
        self,
        queue: str,
        handler: Handler,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: Arguments | None = None,
        *,
        prefetch: int | None = None,
        ack_on_return: bool = False,
        on_failure: OnFailure = "requeue",
        no_local: bool = False,
        no_wait: bool = False,
    ) -> Deferred[Consumer]:
        """
        Have the messages of a queue given to a function.

        :param handler: called with each `Delivery`; it may return a Deferred, a
            coroutine, or another object to await.
        :param auto_ack: the broker forgets each message as soon as it has sent it.
        :param exclusive: nobody else may consume from the queue.
        :param consumer_tag: a name for the consumer; one is made up if it is "".
        :param prefetch: how many deliveries may be unacknowledged; 0 is no limit.  None
            is the channel's own limit: 100, or what `basic_qos` has set.
        :param ack_on_return: acknowledge each delivery when its handler has succeeded
            (it returned, or its Deferred or coroutine did) and has not settled it.
            Otherwise the handler settles its deliveries itself.
        :param on_failure: what happens to a message whose handler has failed and has
            not settled it; see `Consumer`.  With ``"requeue"`` it goes back to its
            queue, each time.  With ``"reject"`` it is rejected the second time:
            dead-lettered, or discarded if the queue has no dead-letter exchange.
        :param no_local: not to get what this connection publishes (RabbitMQ ignores
            it).
        :returns: fires with the `Consumer` once the broker has agreed; deliveries may
            come before that.  Cancelling it cancels the consumer.
        """
        consumer = self._consumer(
            queue, consumer_tag, handler, auto_ack, prefetch, ack_on_return, on_failure
        )
        method = spec.BasicConsume(
            0,
            queue,
            consumer.consumer_tag,
            no_local,
            auto_ack,
            exclusive,
            no_wait,
            arguments or {},
        )
        return self._consume(consumer, method, consumer.cancel)

    def consume(
        self,
        queue: str,
        *,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        prefetch: int | None = None,
        consumer_tag: str = "",
    ) -> Consuming:
        """
        Iterate over the messages of a queue, with ``async for`` or `Deliveries.get`.

        :returns: fires with the `Deliveries` once the broker has agreed.  ``async for``
            and ``async with`` take it as it is, too.  Its other parameters, and
            cancelling, are as for `basic_consume`.
        """
        deliveries = Deliveries()
        consumer = self._consumer(
            queue, consumer_tag, deliveries._received, auto_ack, prefetch
        )
        deliveries._attach(consumer)
        method = spec.BasicConsume(
            0,
            queue,
            consumer.consumer_tag,
            False,
            auto_ack,
            exclusive,
            False,
            arguments or {},
        )
        started = self._consume(consumer, method, deliveries.cancel)
        consuming = Consuming(deliveries, lambda _: started.cancel())

        def refused(failure: Failure) -> None:
            assert failure.value is not None
            deliveries._finish(failure.value)
            consuming.errback(failure)

        started.addCallbacks(lambda _: consuming.callback(deliveries), refused)
        return consuming

    def _consumer(
        self,
        queue: str,
        tag: str,
        handler: Handler,
        auto_ack: bool,
        prefetch: int | None,
        ack_on_return: bool = False,
        on_failure: OnFailure = "requeue",
    ) -> Consumer:
        if not tag:
            self._tags += 1
            tag = f"ctag-{self.number}.{self._tags}"
        return Consumer(
            self._machine,
            self.settler,
            self._flow,
            queue,
            tag,
            handler,
            auto_ack,
            self._prefetch if prefetch is None else prefetch,
            ack_on_return,
            on_failure,
            self._untold.append,
        )

    def _consume(
        self,
        consumer: Consumer,
        method: spec.BasicConsume,
        abandon: Callable[[], Deferred[int]],
    ) -> Deferred[Consumer]:
        # Cancelled, it must not leave a consumer behind that nobody knows of.
        def cancelled(_: object) -> None:
            abandon().addErrback(lambda _: None)

        started: Deferred[Consumer] = Deferred(cancelled)
        machine, tag, prefetch = self._machine, consumer.consumer_tag, consumer.prefetch
        qos = spec.BasicQos(0, prefetch, False)
        qos_reply: Deferred[spec.BasicQosOk] = Deferred()
        qos_reply.addErrback(lambda _: None)  # the answer to consume tells it too
        reply: Deferred[spec.BasicConsumeOk] = Deferred()
        try:
            check_handler(consumer.handler)
            _check_prefetch(prefetch)
            self._begin()
            machine.check()
            machine.register(tag, consumer)
            try:
                method.encode()  # all of it can be sent, or none is
                machine.call(qos, qos_reply)
                machine.call(method, reply)
            except AMQPError:
                machine.forget(tag)
                raise
        except (AMQPError, TypeError) as error:
            started.errback(error.with_traceback(None))
            return started

        def agreed(_: spec.BasicConsumeOk) -> None:
            consumer.has_begun = True
            if not started.called:
                started.callback(consumer)

        def refused(failure: Failure) -> None:
            if not started.called:
                started.errback(failure)

        reply.addCallbacks(agreed, refused)
        return started

    def basic_cancel(
        self, consumer_tag: str, *, no_wait: bool = False
    ) -> Deferred[spec.BasicCancelOk]:
        """
        End a consumer, by its name: as `Consumer.cancel`, which says how many
        messages went back.
        """
        if isinstance(consumer_tag, str):
            key = consumer_tag.encode("utf-8", "surrogateescape")
            consumer = self._machine.consumers.get(key)
            if isinstance(consumer, Consumer):
                ended = consumer.cancel()
                if no_wait:  # we do; but the consumer has to hear the answer
                    ended.addErrback(lambda _: None)
                    return succeed(spec.BasicCancelOk(consumer_tag))
                return ended.addCallback(lambda _: spec.BasicCancelOk(consumer_tag))
        return self._call(spec.BasicCancel(consumer_tag, no_wait), spec.BasicCancelOk)

    def basic_get(
        self, queue: str, auto_ack: bool = False
    ) -> Deferred[Delivery | None]:
        """
        Fetch one message.  (To fetch many, ask many times without waiting: they come
        in order.)

        :returns: fires with a `Delivery`, or None if the queue is empty.  Fails with
            `ContentTooLarge` when its body is over the limit.  That message is not
            settled then (with ``auto_ack`` it is lost): settle it by the error's
            ``delivery_tag``, with `basic_reject` or `basic_nack`; else it goes back to
            the queue when the channel ends.  When the Deferred is cancelled, the
            message goes back to the queue.
        """
        result: Deferred[Delivery | None] = Deferred(lambda _: None)
        reply: Deferred[Content | spec.BasicGetEmpty] = Deferred()

        def answered(answer: Content | spec.BasicGetEmpty) -> None:
            delivery = None
            if isinstance(answer, Content):
                delivery = self._fetched(answer, auto_ack)
            if not result.called:
                result.callback(delivery)
            elif delivery is not None:
                delivery.give_back()

        def failed(failure: Any) -> None:
            error = failure.value
            if isinstance(error, ContentTooLarge) and not auto_ack:
                if result.called:
                    self._machine.settle(spec.BasicNack, error.delivery_tag, _REQUEUE)
                else:
                    self.settler.unsettled[error.delivery_tag] = None
            if not result.called:
                result.errback(failure)

        reply.addCallbacks(answered, failed)
        try:
            self._begin()
            self._machine.call(spec.BasicGet(0, queue, auto_ack), reply)
        except AMQPError as error:
            result.errback(error.with_traceback(None))
        return result

    def _fetched(self, content: Content, auto_ack: bool) -> Delivery:
        method = cast(spec.BasicGetOk, content.method)
        if not auto_ack:
            self.settler.unsettled[method.delivery_tag] = None
            if self._machine.recovering:  # the broker has it again
                self.settler.give_back()
        return Delivery.arrived(
            self.settler,
            "",
            method.delivery_tag,
            method.redelivered,
            method.encode(),
            _GET_OK_ROUTE,
            content.header[_HEADER_FIELDS:],
            content.body,
        )

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        global_qos: bool = False,
    ) -> Deferred[spec.BasicQosOk]:
        """
        Limit how many deliveries may be unacknowledged, for each consumer that is
        started after this and has no ``prefetch`` of its own.

        :param prefetch_size: a limit in octets (RabbitMQ has none: it must be 0).
        :param prefetch_count: a limit in messages; 0 is none.
        :param global_qos: one limit for the whole channel.  RabbitMQ 4.3 does not
            keep it.
        """
        if global_qos:
            _log.warn(
                "basic.qos with global: RabbitMQ 4.3 agrees, but keeps no such limit"
            )
        elif isinstance(prefetch_count, int) and 0 <= prefetch_count <= _SHORT_MAX:
            self._prefetch = prefetch_count
        return self._call(
            spec.BasicQos(prefetch_size, prefetch_count, global_qos), spec.BasicQosOk
        )

    def join_acks(self) -> None:
        """
        Have the acknowledgements of one turn of the reactor leave as one that says
        ``multiple``, where they follow one another and nothing before them is still
        with a handler: less work for the broker, and for us.  No acknowledgement waits
        longer, or says more, than it would without this.

        To be called before anything is consumed on this channel.  With an ``auto_ack``
        consumer beside, or with `basic_ack` by number, there is nothing to be gained.

        :raises txamqp091.errors.LocalProtocolError: when there is a consumer already.
        """
        self._machine.join_acks()

    def basic_ack(
        self, delivery_tag: int = 0, multiple: bool = False
    ) -> Deferred[None]:
        """
        Acknowledge by number.  `Delivery.ack` knows what was settled before; this
        sends any number, and RabbitMQ closes the channel for one that it does not know.

        :param multiple: acknowledge all deliveries up to the number; 0 is all that have
            come.  To settle one of them later does nothing.
        :returns: fires when it was sent: there is no answer.
        """
        return self._settle(
            spec.BasicAck(delivery_tag, multiple),
            _MULTIPLE if multiple else 0,
            multiple,
        )

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> Deferred[None]:
        """
        Refuse by number; as `basic_ack`.  With ``multiple``, iterators drop those of
        the deliveries that nobody has taken.
        """
        bits = (_MULTIPLE if multiple else 0) | (_REQUEUE if requeue else 0)
        return self._settle(
            spec.BasicNack(delivery_tag, multiple, requeue), bits, multiple
        )

    def basic_reject(
        self, delivery_tag: int = 0, requeue: bool = True
    ) -> Deferred[None]:
        """
        Refuse one delivery by number; as `basic_ack`.
        """
        return self._settle(
            spec.BasicReject(delivery_tag, requeue), 1 if requeue else 0, False
        )

    def _settle(
        self,
        method: spec.BasicAck | spec.BasicNack | spec.BasicReject,
        bits: int,
        multiple: bool,
    ) -> Deferred[None]:
        """
        Send a settlement that names a number.
        """
        try:
            self._begin()
            self._machine.check()
            method.encode()
        except AMQPError as error:
            return fail(error.with_traceback(None))
        tag = method.delivery_tag
        self.settler.settle_number(type(method), tag, bits, multiple)
        return succeed(None)

    def basic_recover(self, requeue: bool = True) -> Deferred[spec.BasicRecoverOk]:
        """
        Have all unacknowledged deliveries delivered again.  Those that came before are
        stale from now on: to settle one of them does nothing, and iterators drop those
        that nobody has taken.

        :param requeue: to whichever consumer; RabbitMQ knows only that.
        """
        deferred: Deferred[spec.BasicRecoverOk] = Deferred()
        try:
            self._begin()
            self._machine.recover(requeue, deferred)
        except AMQPError as error:
            deferred.errback(error.with_traceback(None))
        else:
            self._given_back()
        return deferred

    def _given_back(self) -> None:
        """
        The broker has all unsettled deliveries again.
        """
        self._machine.part_acks()
        self.settler.give_back()

    def basic_recover_async(self, requeue: bool = True) -> Deferred[None]:
        """
        `basic_recover`, with no answer; AMQP deprecates it.  Deliveries that are on
        their way at that moment cannot be told from later ones, and RabbitMQ closes the
        channel when one of them is settled: prefer `basic_recover`.
        """
        sent = self._send(spec.BasicRecoverAsync(requeue))
        if self.is_open:
            self._given_back()
        return sent

    # -- transactions, flow, and the rest --------------------------------------

    def tx_select(self) -> Deferred[spec.TxSelectOk]:
        """
        Enter transaction mode: what is published and acknowledged from now on takes
        effect at `tx_commit`.
        """
        self.settler.commit()
        return self._call(spec.TxSelect(), spec.TxSelectOk)

    def tx_commit(self) -> Deferred[spec.TxCommitOk]:
        """
        Have the transaction take effect, and begin the next one.
        """
        self.settler.commit()
        return self._call(spec.TxCommit(), spec.TxCommitOk)

    def tx_rollback(self) -> Deferred[spec.TxRollbackOk]:
        """
        Forget the transaction, and begin the next one.  Deliveries that were settled in
        it are not, and can be settled again.
        """
        self._machine.part_acks()
        self.settler.roll_back()
        return self._call(spec.TxRollback(), spec.TxRollbackOk)

    def flow(self, active: bool) -> Deferred[spec.ChannelFlowOk]:
        """
        Ask the broker to stop, or resume, deliveries on this channel.  RabbitMQ does
        not do that: limit the prefetch instead.
        """
        return self._call(spec.ChannelFlow(active), spec.ChannelFlowOk)

    def access_request(
        self,
        realm: str = "/data",
        exclusive: bool = False,
        passive: bool = True,
        active: bool = True,
        write: bool = True,
        read: bool = True,
    ) -> Deferred[spec.AccessRequestOk]:
        """
        Ask for a ticket, as AMQP 0-8 wanted.  RabbitMQ answers, and ignores it.
        """
        return self._call(
            spec.AccessRequest(realm, exclusive, passive, active, write, read),
            spec.AccessRequestOk,
        )
