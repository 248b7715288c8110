# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
For asyncio: connections and channels to be awaited, on asyncio's own loop.

No verb is written here: each is `txamqp091.channel.Channel`'s, with its Deferred as
something to await.  What a verb asks for is sent when it is called, and not when it is
awaited: calls need not wait for one another, as everywhere in this package.
"""

from __future__ import annotations

__all__ = ["Answer", "Channel", "Connection", "Deliveries", "Subscription", "connect"]

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from functools import partial, wraps
from inspect import iscoroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from txamqp091 import channel as verbs
from txamqp091 import consumer as consumers
from txamqp091.adapters._asyncio import AsyncioEndpoint, AsyncioLoop
from txamqp091.adapters.threads import ThreadsafeChannel
from txamqp091.consumer import Consumer
from txamqp091.endpoint import connect as open_connection
from txamqp091.interfaces import ICredentials
from txamqp091.message import Body, Delivery, Message
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire.properties import Properties

P = ParamSpec("P")
T = TypeVar("T")

_ONCE = "an answer is awaited once; keep what it gives"


class Answer(Coroutine[Any, Any, T]):
    """
    What a verb returns: the answer that is to come, to be awaited once.

    It is a coroutine, so that ``asyncio.create_task`` and the like take it; but what
    was asked for is on its way already, awaited or not.  When the task that awaits it
    is cancelled, so is the Deferred: the channel lives on.  An error that nobody
    awaits is logged, as Twisted does.
    """

    __slots__ = ("_deferred", "_steps")

    def __init__(self, deferred: Deferred[T]) -> None:
        self._deferred: Deferred[T] | None = deferred
        self._steps: Generator[Any, None, T] | None = None

    def __await__(self) -> Generator[Any, None, T]:
        # This is once per message: no closure, and what fires is C.
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            raise RuntimeError(_ONCE)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        deferred.addCallbacks(future.set_result, partial(_fail, future))
        if future.done():
            return future.result()
        try:
            return (yield from future)
        except asyncio.CancelledError:
            # It may have fired meanwhile, and the future would not have it.
            deferred.addErrback(_ignore)
            deferred.cancel()
            raise

    def _taken(self) -> Deferred[T]:
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            raise RuntimeError(_ONCE)
        return deferred

    def send(self, value: Any) -> Any:
        """
        See ``Coroutine``.
        """
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *reason: Any) -> Any:
        """
        See ``Coroutine``.
        """
        if self._steps is None:
            # Cancelled before its task has begun.
            self._abandon()
            self._steps = self.__await__()
        return self._steps.throw(*reason)

    def _abandon(self) -> None:
        """
        Nobody will wait for it.
        """
        deferred = self._taken()
        deferred.addErrback(_ignore)
        deferred.cancel()

    def close(self) -> None:
        """
        See ``Coroutine``.
        """
        if self._steps is not None:
            self._steps.close()


class _Precious(Answer[T]):
    """
    An answer that has to be dealt with, also when it comes just as the task that awaits
    it is cancelled.
    """

    __slots__ = ("_lost",)

    def __init__(self, deferred: Deferred[T], lost: Callable[[T], object]) -> None:
        """
        :param lost: deals with an answer that nobody gets.
        """
        super().__init__(deferred)
        self._lost = lost

    def __await__(self) -> Generator[Any, None, T]:
        deferred = self._taken()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def fired(value: T) -> None:
            if future.done():
                self._lost(value)
            else:
                future.set_result(value)

        deferred.addCallbacks(fired, partial(_fail, future))
        try:
            return (yield from future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self._lost(future.result())
            deferred.cancel()
            raise

    def _abandon(self) -> None:
        deferred = self._taken()
        deferred.addCallbacks(self._lost, _ignore)
        deferred.cancel()


class _Confirm(Answer[None]):
    """
    The answer for one message that has left.  A Deferred that is awaited costs as much
    as all the rest of publishing.
    """

    __slots__ = ("_error", "_fired", "_future")

    def __init__(self) -> None:
        self._deferred = None
        self._steps = None
        self._error: BaseException | None = None
        self._fired = False
        self._future: asyncio.Future[None] | None = None

    def callback(self, _: object) -> None:
        """
        The broker has it.
        """
        self._fired = True
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    def errback(self, error: BaseException) -> None:
        """
        The broker has it not.
        """
        self._fired = True
        self._error = error
        future = self._future
        if future is None:
            self._deferred = fail(error)  # if nobody awaits it, that is logged
        elif not future.done():
            future.set_exception(error.with_traceback(None))

    def __await__(self) -> Generator[Any, None, None]:
        if not self._fired:
            future = self._future = asyncio.get_running_loop().create_future()
            yield from future
        elif self._error is not None:
            self._abandon()
            raise self._error.with_traceback(None)

    def _abandon(self) -> None:
        if self._deferred is not None:
            self._deferred.addErrback(_ignore)


# To the publisher it is as good as a Deferred.
_confirm = cast("Callable[[], Deferred[None]]", _Confirm)


def _fail(future: asyncio.Future[Any], failure: Failure) -> None:
    """
    Pass a failure on.
    """
    if not future.done():
        error = failure.value
        assert error is not None
        if isinstance(error, CancelledError):
            future.cancel()
        else:
            # Its stack is Twisted's; the one of who awaits says more.
            future.set_exception(error.with_traceback(None))


def _answered(
    verb: Callable[Concatenate[verbs.Channel, P], Deferred[T]],
) -> Callable[Concatenate[Channel, P], Answer[T]]:
    """
    A verb, with an `Answer` in place of its Deferred.
    """

    @wraps(verb)
    def ask(self: Channel, /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]:
        return Answer(verb(self.native, *args, **kwargs))

    return ask


class Channel:
    """
    A `txamqp091.channel.Channel`, whose verbs are awaited.

    ``async with`` closes it.

    :ivar native: that channel.
    :ivar connection: its connection.
    """

    def __init__(self, connection: Connection, native: verbs.Channel) -> None:
        self.connection = connection
        self.native = native
        self._publish = native.publisher.publish

    def __repr__(self) -> str:
        return repr(self.native)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    @property
    def number(self) -> int:
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
    def threadsafe(self) -> ThreadsafeChannel:
        """
        The channel for other threads than the loop's.
        """
        return ThreadsafeChannel(self.native)

    close = _answered(verbs.Channel.close)
    when_closed = _answered(verbs.Channel.when_closed)
    exchange_declare = _answered(verbs.Channel.exchange_declare)
    exchange_delete = _answered(verbs.Channel.exchange_delete)
    exchange_bind = _answered(verbs.Channel.exchange_bind)
    exchange_unbind = _answered(verbs.Channel.exchange_unbind)
    queue_declare = _answered(verbs.Channel.queue_declare)
    queue_bind = _answered(verbs.Channel.queue_bind)
    queue_unbind = _answered(verbs.Channel.queue_unbind)
    queue_purge = _answered(verbs.Channel.queue_purge)
    queue_delete = _answered(verbs.Channel.queue_delete)
    confirm_select = _answered(verbs.Channel.confirm_select)
    basic_cancel = _answered(verbs.Channel.basic_cancel)
    basic_qos = _answered(verbs.Channel.basic_qos)
    basic_ack = _answered(verbs.Channel.basic_ack)
    basic_nack = _answered(verbs.Channel.basic_nack)
    basic_reject = _answered(verbs.Channel.basic_reject)
    basic_recover = _answered(verbs.Channel.basic_recover)
    basic_recover_async = _answered(verbs.Channel.basic_recover_async)
    tx_select = _answered(verbs.Channel.tx_select)
    tx_commit = _answered(verbs.Channel.tx_commit)
    tx_rollback = _answered(verbs.Channel.tx_rollback)
    flow = _answered(verbs.Channel.flow)
    access_request = _answered(verbs.Channel.access_request)

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        mandatory: bool = False,
    ) -> Answer[None]:
        """
        See `txamqp091.channel.Channel.basic_publish`.
        """
        waiting: Any = self._publish(
            exchange, routing_key, body, properties, mandatory, _confirm
        )
        if type(waiting) is _Confirm:
            return waiting
        return Answer(waiting)

    def publish_many(self, messages: Iterable[Message]) -> Answer[None]:
        """
        See `txamqp091.channel.Channel.publish_many`.
        """
        return Answer(self.native.publish_many(messages))

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        See `txamqp091.channel.Channel.observe_returns`.
        """
        return self.native.observe_returns(listener)

    def join_acks(self) -> None:
        """
        See `txamqp091.channel.Channel.join_acks`.
        """
        self.native.join_acks()

    def basic_get(self, queue: str, auto_ack: bool = False) -> Answer[Delivery | None]:
        """
        See `txamqp091.channel.Channel.basic_get`.
        """
        return _Precious(self.native.basic_get(queue, auto_ack), _give_back)

    def basic_consume(
        self,
        queue: str,
        handler: consumers.Handler,
        auto_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str = "",
        arguments: verbs.Arguments | None = None,
        *,
        prefetch: int | None = None,
        ack_on_return: bool = False,
        no_local: bool = False,
        no_wait: bool = False,
    ) -> Answer[Subscription]:
        """
        See `txamqp091.channel.Channel.basic_consume`.

        :param handler: may be a coroutine function, each call of which is a task of
            its own; or it may return a Future.
        """
        started = self.native.basic_consume(
            queue,
            _in_tasks(handler) if callable(handler) else handler,
            auto_ack,
            exclusive,
            consumer_tag,
            arguments,
            prefetch=prefetch,
            ack_on_return=ack_on_return,
            no_local=no_local,
            no_wait=no_wait,
        )
        return _Precious(started.addCallback(Subscription), _end)

    def consume(
        self,
        queue: str,
        *,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: verbs.Arguments | None = None,
        prefetch: int | None = None,
        consumer_tag: str = "",
    ) -> Answer[Deliveries]:
        """
        See `txamqp091.channel.Channel.consume`.
        """
        started = self.native.consume(
            queue,
            auto_ack=auto_ack,
            exclusive=exclusive,
            arguments=arguments,
            prefetch=prefetch,
            consumer_tag=consumer_tag,
        )
        return _Precious(started.addCallback(Deliveries), _end)


def _give_back(delivery: Delivery | None) -> None:
    if delivery is not None and not delivery.settled:
        delivery.nack()


def _end(consuming: Subscription | Deliveries) -> None:
    consuming.native.cancel().addErrback(_ignore)


def _ignore(_: object) -> None:
    """
    It is over, however it ended.
    """


def _in_tasks(handler: consumers.Handler) -> consumers.Handler:
    """
    A handler whose coroutines are run by asyncio, where they can await what is
    asyncio's.
    """

    def handle(delivery: Delivery) -> object:
        result = handler(delivery)
        if result is None or isinstance(result, Deferred):
            return result
        if iscoroutine(result) or asyncio.isfuture(result):
            # A coroutine becomes a task; a Future stays what it is.
            return Deferred.fromFuture(asyncio.ensure_future(result))
        return result

    return handle


class Subscription:
    """
    A `txamqp091.consumer.Consumer`.

    :ivar native: that consumer.
    """

    def __init__(self, native: Consumer) -> None:
        self.native = native

    def __repr__(self) -> str:
        return repr(self.native)

    @property
    def consumer_tag(self) -> str:
        """
        Its name on its channel.
        """
        return self.native.consumer_tag

    @property
    def queue(self) -> str:
        """
        The queue.
        """
        return self.native.queue

    @property
    def is_active(self) -> bool:
        """
        Whether deliveries are handed to the handler.
        """
        return self.native.is_active

    def cancel(self) -> Answer[int]:
        """
        See `txamqp091.consumer.Consumer.cancel`.
        """
        return Answer(self.native.cancel())

    def when_ended(self) -> Answer[None]:
        """
        See `txamqp091.consumer.Consumer.when_ended`.
        """
        return Answer(self.native.when_ended())

    def when_idle(self) -> Answer[None]:
        """
        See `txamqp091.consumer.Consumer.when_idle`.
        """
        return Answer(self.native.when_idle())


class Deliveries:
    """
    The deliveries of one consumer::

        async with await channel.consume("work") as deliveries:
            async for delivery in deliveries:
                ...
                delivery.ack()

    ``async with`` cancels it at the end.

    :ivar native: the `txamqp091.consumer.Deliveries` behind it.
    """

    def __init__(self, native: consumers.Deliveries) -> None:
        self.native = native

    @property
    def consumer(self) -> Subscription:
        """
        The consumer behind it.
        """
        return Subscription(self.native.consumer)

    @property
    def buffered(self) -> int:
        """
        How many deliveries have come and were not asked for yet.
        """
        return self.native.buffered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        native = self.native
        if native.buffered:
            return native.take_now()
        try:
            return await self.get()
        except LookupError:
            raise StopAsyncIteration from None

    def get(self) -> Answer[Delivery]:
        """
        See `txamqp091.consumer.Deliveries.get`.
        """
        return _Precious(self.native.get(), self.native.put_back)

    def cancel(self) -> Answer[int]:
        """
        See `txamqp091.consumer.Deliveries.cancel`.
        """
        return Answer(self.native.cancel())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # That it has ended otherwise is no error for who wants it to end.
        ended = self.native.cancel().addErrback(_ignore)
        if kind is None:
            await Answer(ended)


class Connection:
    """
    A `txamqp091.protocol.AMQPProtocol`, to be awaited; made by `connect`.

    ``async with`` closes it.

    :ivar native: that protocol.
    """

    def __init__(self, native: AMQPProtocol) -> None:
        self.native = native

    def __repr__(self) -> str:
        return repr(self.native)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    @property
    def parameters(self) -> ConnectionParameters:
        """
        What it was made with.
        """
        return self.native.parameters

    @property
    def server_properties(self) -> dict[str, Any]:
        """
        What the broker says of itself.
        """
        return self.native.server_properties

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self.native.is_open

    @property
    def blocked(self) -> str | None:
        """
        Why the broker blocks publishing, or None if it does not.
        """
        return self.native.blocked

    def open_channel(self) -> Answer[Channel]:
        """
        See `txamqp091.protocol.AMQPProtocol.open_channel`.
        """
        opening = self.native.open_channel()
        opened = opening.addCallback(lambda native: Channel(self, native))
        return _Precious(opened, lambda channel: channel.native.close())

    def close(self, reply_code: int = 200, reply_text: str = "") -> Answer[None]:
        """
        See `txamqp091.protocol.AMQPProtocol.close`.
        """
        return Answer(self.native.close(reply_code, reply_text))

    def when_closed(self) -> Answer[None]:
        """
        See `txamqp091.protocol.AMQPProtocol.when_closed`.
        """
        return Answer(self.native.when_closed())

    def when_unblocked(self) -> Answer[None]:
        """
        See `txamqp091.protocol.AMQPProtocol.when_unblocked`.
        """
        return Answer(self.native.when_unblocked())

    def observe_blocked(self, observer: Callable[[str | None], object]) -> None:
        """
        See `txamqp091.protocol.AMQPProtocol.observe_blocked`.
        """
        self.native.observe_blocked(observer)

    def update_secret(self, secret: str | bytes, reason: str = "") -> Answer[Any]:
        """
        See `txamqp091.protocol.AMQPProtocol.update_secret`.
        """
        return Answer(self.native.update_secret(secret, reason))


async def connect(
    uri_or_parameters: str | bytes | ConnectionParameters,
    *,
    credentials: ICredentials | Sequence[ICredentials] | None = None,
) -> Connection:
    """
    Connect to a broker, on the running loop.

    The parameters, and the errors, are those of `txamqp091.endpoint.connect`; TLS is
    asyncio's own, so ``trust_root`` and ``connection_creator`` are refused.
    """
    parameters = uri_or_parameters
    if not isinstance(parameters, ConnectionParameters):
        parameters = ConnectionParameters.from_uri(parameters)
    # A URI may have a password, which whoever prints this frame need not see.
    del uri_or_parameters
    loop = asyncio.get_running_loop()
    opening = open_connection(
        AsyncioLoop(loop),
        parameters,
        credentials=credentials,
        endpoint=AsyncioEndpoint(loop, parameters),
    )
    return Connection(await _Precious(opening, AMQPProtocol.close))
