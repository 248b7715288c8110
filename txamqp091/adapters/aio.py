# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
Connections and channels for asyncio, on asyncio's own loop; and `AMQPClient`, which
stays connected.

No verb is written here: each is `txamqp091.channel.Channel`'s, with its Deferred as
something to await.  A verb sends its method when it is called, not when it is awaited:
calls need not wait for one another, as everywhere in this package.

A connection belongs to the loop that it was made on.  Every call checks that it is made
there, before anything is sent.
"""

from __future__ import annotations

__all__ = [
    "AMQPClient",
    "Answer",
    "Channel",
    "Connection",
    "ConsumerService",
    "Deliveries",
    "Publisher",
    "RPCClient",
    "RPCServer",
    "RecoveringChannel",
    "RecoveringConsumer",
    "Subscription",
    "connect",
]

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Sequence,
)
from functools import partial, wraps
from importlib import import_module
from ssl import SSLContext
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
)

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from txamqp091 import channel as verbs
from txamqp091 import consumer as consumers
from txamqp091.adapters._asyncio import (
    AsyncioEndpoint,
    AsyncioLoop,
    AsyncioTransport,
    running_loop,
    wrong_loop,
)
from txamqp091.adapters._ssl import secured
from txamqp091.adapters.threads import ThreadsafeChannel
from txamqp091.consumer import HANDLING, Consumer
from txamqp091.endpoint import connect as open_connection
from txamqp091.interfaces import AnyCredentials
from txamqp091.message import Body, Delivery, Message
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.adapters.aio_client import (
        AMQPClient,
        ConsumerService,
        Publisher,
        RecoveringChannel,
        RecoveringConsumer,
        RPCClient,
        RPCServer,
    )

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)

_ONCE = "an answer is awaited once; keep what it gives"

_Loop = asyncio.AbstractEventLoop

#: How long the end of a program lets a connection be closed in order, in seconds.
_GOODBYE = 1.0


class Answer(Coroutine[Any, Any, T]):
    """
    The answer to a verb, to be awaited once.

    It is a coroutine, so that ``asyncio.create_task`` and the like take it; but the
    verb's method is sent already, awaited or not.  When the task that awaits it is
    cancelled, so is the Deferred: the channel lives on.  An error that nothing awaits
    is logged, as Twisted does.

    An ``async for`` or ``async with`` awaits it by itself::

        async for delivery in channel.consume("work"):
    """

    __slots__ = ("_context", "_deferred", "_loop", "_steps")

    _context: Any

    def __init__(self, deferred: Deferred[T], loop: _Loop) -> None:
        """
        :param loop: the loop of the connection.
        """
        self._deferred: Deferred[T] | None = deferred
        self._loop = loop
        self._steps: Generator[Any, None, T] | None = None

    def __await__(self) -> Generator[Any, None, T]:
        # This is once per message: no closure, and what fires is C.
        future = _future(self, self._loop)
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            raise RuntimeError(_ONCE)
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

    def __aiter__(self: Coroutine[Any, Any, AsyncIterable[U]]) -> AsyncIterator[U]:
        return _Iteration(self)

    async def __aenter__(self: Coroutine[Any, Any, _Context[U]]) -> U:
        context = cast(Any, self)._context = await self
        return await context.__aenter__()

    async def __aexit__(self, *reason: Any) -> None:
        await self._context.__aexit__(*reason)

    def _taken(self) -> Deferred[T]:
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            raise RuntimeError(_ONCE)
        return deferred

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *reason: Any) -> Any:
        if self._steps is None:
            # Cancelled before its task has begun.
            self._abandon()
            self._steps = self.__await__()
        return self._steps.throw(*reason)

    def _abandon(self) -> None:
        """
        Cancel the Deferred: nothing awaits it.
        """
        deferred = self._taken()
        deferred.addErrback(_ignore)
        deferred.cancel()

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()


class _Context(Protocol[U_co]):
    """
    What ``async with`` takes.
    """

    async def __aenter__(self) -> U_co: ...

    async def __aexit__(self, *reason: Any) -> Any: ...


class _Iteration(AsyncIterator[U]):
    """
    The iteration over what an answer gives.
    """

    def __init__(self, answer: Coroutine[Any, Any, AsyncIterable[U]]) -> None:
        self._answer = answer
        self._iterator: AsyncIterator[U] | None = None

    async def __anext__(self) -> U:
        if self._iterator is None:
            self._iterator = aiter(await self._answer)
        return await anext(self._iterator)


def _future(answer: Answer[T], loop: _Loop) -> asyncio.Future[T]:
    """
    Make the Future that an answer is awaited with.
    """
    if running_loop() is not loop:
        raise wrong_loop(answer, loop)
    return loop.create_future()


class _Precious(Answer[T]):
    """
    An answer that must not get lost when it comes just as the task that awaits it is
    cancelled.
    """

    __slots__ = ("_lost",)

    def __init__(
        self, deferred: Deferred[T], loop: _Loop, lost: Callable[[T], object]
    ) -> None:
        """
        :param lost: called with an answer that nothing receives.
        """
        super().__init__(deferred, loop)
        self._lost = lost

    def __await__(self) -> Generator[Any, None, T]:
        future = _future(self, self._loop)
        deferred = self._taken()

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
    The confirm of one message that was sent.  To await a Deferred would cost as much as
    the rest of publishing.
    """

    __slots__ = ("_error", "_fired", "_future")

    def __init__(self, loop: _Loop) -> None:
        self._deferred = None
        self._loop = loop
        self._steps = None
        self._error: BaseException | None = None
        self._fired = False
        self._future: asyncio.Future[None] | None = None

    def callback(self, _: object) -> None:
        """
        Note that the broker has confirmed the message.
        """
        self._fired = True
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    def errback(self, error: BaseException) -> None:
        """
        Note why the broker has not confirmed the message.
        """
        self._fired = True
        self._error = error
        future = self._future
        if future is None:
            self._deferred = fail(error)  # which is logged if nothing awaits it
        elif not future.done():
            future.set_exception(error.with_traceback(None))

    def __await__(self) -> Generator[Any, None, None]:
        if not self._fired:
            future = self._future = _future(self, self._loop)
            yield from future
        elif self._error is not None:
            self._abandon()
            raise self._error.with_traceback(None)

    def _abandon(self) -> None:
        if self._deferred is not None:
            self._deferred.addErrback(_ignore)


def _fail(future: asyncio.Future[Any], failure: Failure) -> None:
    """
    Fail a Future.
    """
    # The loop may have been closed under the connection.
    if not future.done() and not future.get_loop().is_closed():
        error = failure.value
        assert error is not None
        if isinstance(error, CancelledError):
            future.cancel()
        else:
            # Its stack is Twisted's; the one of the caller says more.
            future.set_exception(error.with_traceback(None))


class _Bound:
    """
    An object of Twisted's API, bound to a loop.

    :ivar native: that object.
    """

    def __init__(self, native: Any, reactor: AsyncioLoop) -> None:
        self.native = native
        self._reactor = reactor
        self._loop = reactor.loop

    def __repr__(self) -> str:
        return repr(self.native)

    def _check_loop(self) -> None:
        if running_loop() is not self._loop:
            self._reactor.check(self)


def _answered(
    verb: Callable[Concatenate[Any, P], Deferred[T]],
) -> Callable[Concatenate[Any, P], Answer[T]]:
    """
    Make a method that calls one of the wrapped object, and returns an `Answer`.
    """

    @wraps(verb)
    def ask(self: _Bound, /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]:
        loop = self._loop
        if running_loop() is not loop:
            self._reactor.check(self)
        return Answer(verb(self.native, *args, **kwargs), loop)

    return ask


class Channel(_Bound):
    """
    A `txamqp091.channel.Channel`, whose verbs are awaited.

    ``async with`` closes it.

    :ivar native: that channel.
    :ivar connection: its connection.
    """

    native: verbs.Channel

    def __init__(self, connection: Connection, native: verbs.Channel) -> None:
        super().__init__(native, connection._reactor)
        self.connection = connection
        self._publish = native.publisher.publish
        # To the publisher it is as good as a Deferred.
        self._confirm = cast(
            "Callable[[], Deferred[None]]", partial(_Confirm, self._loop)
        )

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
    flush = _answered(verbs.Channel.flush)
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
        Publish a message, as `txamqp091.channel.Channel.basic_publish`.
        """
        loop = self._loop
        if running_loop() is not loop:
            self._reactor.check(self)
        waiting: Any = self._publish(
            exchange, routing_key, body, properties, mandatory, self._confirm
        )
        if type(waiting) is _Confirm:
            return waiting
        return Answer(waiting, loop)

    publish_many = _answered(verbs.Channel.publish_many)

    def observe_returns(
        self, listener: Callable[[Message], object]
    ) -> Callable[[], None]:
        """
        Call a function with each mandatory message that comes back, as
        `txamqp091.channel.Channel.observe_returns`.
        """
        return self.native.observe_returns(listener)

    def join_acks(self) -> None:
        """
        Join acknowledgements, as `txamqp091.channel.Channel.join_acks`.
        """
        self._check_loop()
        self.native.join_acks()

    def basic_get(self, queue: str, auto_ack: bool = False) -> Answer[Delivery | None]:
        """
        Fetch one message, as `txamqp091.channel.Channel.basic_get`.
        """
        self._check_loop()
        return _Precious(self.native.basic_get(queue, auto_ack), self._loop, _give_back)

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
        on_failure: consumers.OnFailure = "requeue",
        no_local: bool = False,
        no_wait: bool = False,
    ) -> Answer[Subscription]:
        """
        Consume a queue with a function, as `txamqp091.channel.Channel.basic_consume`.

        :param handler: may be a coroutine function, each call of which is a task of
            its own; or it may return a Future, or whatever else can be awaited.
        """
        self._check_loop()
        consumer: list[Consumer] = []
        try:
            consumers.check_handler(handler)
            handler = _in_tasks(handler, consumer)
        except TypeError:
            pass  # the channel says so

        def subscribed(native: Consumer) -> Subscription:
            consumer.append(native)
            return Subscription(native, self._reactor)

        started = self.native.basic_consume(
            queue,
            handler,
            auto_ack,
            exclusive,
            consumer_tag,
            arguments,
            prefetch=prefetch,
            ack_on_return=ack_on_return,
            on_failure=on_failure,
            no_local=no_local,
            no_wait=no_wait,
        )
        return _Precious(started.addCallback(subscribed), self._loop, _end)

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
        Iterate over the messages of a queue, as `txamqp091.channel.Channel.consume`.
        """
        self._check_loop()
        started = self.native.consume(
            queue,
            auto_ack=auto_ack,
            exclusive=exclusive,
            arguments=arguments,
            prefetch=prefetch,
            consumer_tag=consumer_tag,
        )
        subscribed = started.addCallback(
            lambda native: Deliveries(native, self._reactor)
        )
        return _Precious(subscribed, self._loop, _end)


def _give_back(delivery: Delivery | None) -> None:
    if delivery is not None and not delivery.settled:
        delivery.nack()


def _end(consuming: Subscription | Deliveries) -> None:
    consuming.native.cancel().addErrback(_ignore)


def _ignore(_: object) -> None:
    """
    Ignore an error that nothing can do anything about.
    """


def _in_tasks(
    handler: consumers.Handler, consumer: list[Consumer]
) -> consumers.Handler:
    """
    Make a handler whose results asyncio awaits, so that coroutines can await what is
    asyncio's.

    :param consumer: the consumer, once there is one.
    """

    def handle(delivery: Delivery) -> object:
        result = handler(delivery)
        if (
            result is None
            or isinstance(result, Deferred)
            or not hasattr(type(result), "__await__")
        ):
            return result
        # A coroutine becomes a task; a Future stays what it is.
        context = HANDLING.set(consumer[0] if consumer else None)
        try:
            future = asyncio.ensure_future(cast(Any, result))
        finally:
            HANDLING.reset(context)
        return Deferred.fromFuture(future)

    return handle


class Subscription(_Bound):
    """
    A `txamqp091.consumer.Consumer`.

    :ivar native: that consumer.
    """

    native: Consumer

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

    cancel = _answered(Consumer.cancel)
    when_ended = _answered(Consumer.when_ended)
    when_idle = _answered(Consumer.when_idle)


class Deliveries(_Bound):
    """
    The deliveries of one consumer::

        async with await channel.consume("work") as deliveries:
            async for delivery in deliveries:
                ...
                delivery.ack()

    ``async with`` cancels it at the end.

    :ivar native: the `txamqp091.consumer.Deliveries` behind it.
    """

    native: consumers.Deliveries

    @property
    def consumer(self) -> Subscription:
        """
        The consumer behind it.
        """
        return Subscription(self.native.consumer, self._reactor)

    @property
    def buffered(self) -> int:
        """
        How many deliveries have come that were not asked for yet.
        """
        return self.native.buffered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        if running_loop() is not self._loop:
            self._reactor.check(self)
        native = self.native
        if native.buffered:
            return native.take_now()
        try:
            return await self.get()
        except LookupError:
            raise StopAsyncIteration from None

    def get(self) -> Answer[Delivery]:
        """
        Ask for the next delivery, as `txamqp091.consumer.Deliveries.get`.
        """
        self._check_loop()
        return _Precious(self.native.get(), self._loop, self.native.put_back)

    cancel = _answered(consumers.Deliveries.cancel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._check_loop()
        # That it has ended otherwise is no error here: it was to end.
        ended = self.native.cancel().addErrback(_ignore)
        if kind is None:
            await Answer(ended, self._loop)


class Connection(_Bound):
    """
    A `txamqp091.protocol.AMQPProtocol`, to be awaited; made by `connect`.

    ``async with`` closes it.

    :ivar native: that protocol.
    """

    native: AMQPProtocol

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.close()

    @property
    def parameters(self) -> ConnectionParameters:
        """
        The parameters that the connection was made with.
        """
        return self.native.parameters

    @property
    def server_properties(self) -> dict[str, Any]:
        """
        The properties that the broker has sent about itself.
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

    def open_channel(self, *, number: int | None = None) -> Answer[Channel]:
        """
        Open a channel, as `txamqp091.protocol.AMQPProtocol.open_channel`.
        """
        self._check_loop()
        opened = self.native.open_channel(number=number).addCallback(
            lambda native: Channel(self, native)
        )
        return _Precious(opened, self._loop, lambda channel: channel.native.close())

    close = _answered(AMQPProtocol.close)
    when_closed = _answered(AMQPProtocol.when_closed)
    when_unblocked = _answered(AMQPProtocol.when_unblocked)
    update_secret = _answered(AMQPProtocol.update_secret)

    def observe_blocked(
        self, observer: Callable[[str | None], object]
    ) -> Callable[[], None]:
        """
        Call a function when the broker blocks publishing, as
        `txamqp091.protocol.AMQPProtocol.observe_blocked`.
        """
        return self.native.observe_blocked(observer)


async def _close_in_the_end(
    native: AMQPProtocol, transport: AsyncioTransport, loop: _Loop
) -> None:
    """
    Close a connection that the program leaves open, when all tasks are cancelled: that
    is how ``asyncio.run`` ends.
    """
    try:
        # Not `when_closed`: the protocol warns of an end that nothing waits for.
        await transport.has_gone
    except asyncio.CancelledError:
        closing = native.close()
        try:
            async with asyncio.timeout(_GOODBYE):
                await Answer(closing, loop)
        except TimeoutError:
            transport.abortConnection()
        raise


async def connect(
    uri_or_parameters: str | bytes | ConnectionParameters,
    *,
    credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
    ssl_context: SSLContext | None = None,
) -> Connection:
    """
    Connect to a broker, on the running loop.

    A connection that is open when ``asyncio.run`` ends is closed then.

    The parameters, and the errors, are those of `txamqp091.endpoint.connect`; TLS is
    asyncio's own, so ``trust_root`` and ``connection_creator`` are refused.

    :param ssl_context: does TLS, in place of what the parameters say of certificates;
        the URI is ``amqps://`` nevertheless.  Unless the context itself does not check
        the broker's host name, the name is checked twice, as always.
    """
    parameters = uri_or_parameters
    if not isinstance(parameters, ConnectionParameters):
        parameters = ConnectionParameters.from_uri(parameters)
    # A URI may have a password, which a printed frame must not show.
    del uri_or_parameters
    loop = asyncio.get_running_loop()
    parameters, context = secured(parameters, ssl_context)
    reactor = AsyncioLoop(loop)
    opening = open_connection(
        reactor,
        parameters,
        credentials=credentials,
        endpoint=AsyncioEndpoint(loop, parameters, context),
    )
    native = await _Precious(opening, loop, AMQPProtocol.close)
    # What waits for the end of the connection keeps a reference to the task.
    transport = cast(AsyncioTransport, native.transport)
    loop.create_task(_close_in_the_end(native, transport, loop), name=f"{native!r}")
    reactor.closed = transport.loop_closed
    return Connection(native, reactor)


# These are imported when they are first used: programs that need no service should not
# wait for it.
_LATER = "txamqp091.adapters.aio_client"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER), name)
    globals()[name] = found
    return found
