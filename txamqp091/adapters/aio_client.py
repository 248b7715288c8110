# -*- test-case-name: txamqp091.test.unit.adapters.test_aio_client -*-
"""
A client for asyncio that stays connected: `AMQPClient`, and what is on it.

Nothing is implemented here: each class wraps the one of the same name in
`txamqp091.service` or `txamqp091.worker`, and turns Deferreds into awaitables.
`txamqp091.adapters.aio` loads this module when one of its names is first used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from ssl import SSLContext
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from twisted.internet.defer import Deferred

from txamqp091 import consumer as consumers
from txamqp091 import service, worker
from txamqp091._channel_publisher import DEFAULT_WINDOW
from txamqp091._observer import OneShot
from txamqp091.adapters._asyncio import AsyncioLoop
from txamqp091.adapters._ssl import secured
from txamqp091.adapters.aio import (
    _GOODBYE,
    Answer,
    Channel,
    Connection,
    _answered,
    _Bound,
    _give_back,
    _Precious,
)
from txamqp091.channel import Channel as NativeChannel
from txamqp091.consumer import DEFAULT_PREFETCH, Handler, OnFailure
from txamqp091.errors import InvalidURI
from txamqp091.interfaces import AnyCredentials
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Where
from txamqp091.service.publisher import NACKED_AGAIN
from txamqp091.worker.batches import BATCH_WAIT
from txamqp091.worker.failure_policy import OnRefused

P = ParamSpec("P")
T = TypeVar("T")
Runs = TypeVar("Runs", "AMQPClient", "ConsumerService")

_Native = service.AMQPClientService

#: How long an aborted connection may take to end, in seconds.
_ABORTED = 10.0


@overload
def _in_tasks(function: Callable[P, object]) -> Callable[P, Any]: ...


@overload
def _in_tasks(function: None) -> None: ...


def _in_tasks(function: Callable[..., object] | None) -> Callable[..., Any] | None:
    """
    Make a function whose results asyncio awaits, so that coroutines can await what is
    asyncio's.
    """
    if not callable(function):
        return function  # the service refuses it

    @wraps(function)
    def call(*args: Any) -> object:
        result = function(*args)
        if (
            result is None
            or isinstance(result, Deferred)
            or not hasattr(type(result), "__await__")
        ):
            return result
        return _awaited(result)

    return call


async def _awaited(result: Any) -> Any:
    """
    Await something as a task.  The caller, which is Twisted's, awaits this coroutine.
    """
    return await Deferred.fromFuture(asyncio.ensure_future(result))


def _fitting(where: Any, context: SSLContext | None) -> Any:
    """
    Fit addresses to asyncio's loop, and to the program's own context.

    :raises InvalidURI: they do not fit.
    """
    if isinstance(where, service.SRVRecords) and where.resolver is None:
        raise InvalidURI(
            f"{where} needs a resolver: the default one needs Twisted's reactor"
        )
    if isinstance(where, Sequence) and not isinstance(where, str | bytes):
        return [_fitting(each, context) for each in where]
    if context is None:
        return where
    if isinstance(where, service.Address | service.SRVRecords):
        where.parameters, _ = secured(where.parameters, context)
        return where
    if isinstance(where, str | bytes):
        where = ConnectionParameters.from_uri(where)
    if isinstance(where, ConnectionParameters):
        return secured(where, context)[0]
    return where


async def _enter(self: Runs) -> Runs:
    """
    Start, and wait until it is ready: what ``async with`` begins with.
    """
    self.start()
    try:
        await self.when_ready()
    except BaseException:
        await self.stop()
        raise
    return self


async def _leave(self: Runs, *reason: object) -> None:
    """
    Stop: what ``async with`` ends with.
    """
    await self.stop()


class AMQPClient(_Bound):
    """
    A connection to a broker that comes back, with all that is on it: a
    `txamqp091.service.AMQPClientService` on asyncio's loop::

        async with AMQPClient("amqp://localhost", topology=topology) as client:
            client.consume("work", handle)
            await client.when_ended()

    ``async with`` connects and waits until the client is ready, and at its end stops in
    order, as `stop` does.  It fails with the reason when the service gives up, as for a
    wrong password, or when the broker refuses a part of the topology.  While the broker
    cannot be reached it waits and tries again, as its ``policy`` says.

    A client belongs to the loop that runs when the client is made.  A client that is
    started when ``asyncio.run`` ends is stopped then, without its grace period.

    :ivar native: that service.
    """

    native: service.AMQPClientService

    def __init__(
        self,
        where: Where,
        *,
        topology: service.Topology | None = None,
        credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
        parameters: ConnectionParameters | None = None,
        policy: service.RetryPolicy | None = None,
        name: str = "",
        shutdown_timeout: float = 30.0,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """
        The parameters are those of `txamqp091.service.AMQPClientService`, and
        ``ssl_context`` is that of `txamqp091.adapters.aio.connect`.

        :param policy: when to try again; by default, a client that has never connected
            gives up for an error that does not pass by itself.
        :raises RuntimeError: no loop runs in this thread.
        :raises InvalidURI: a URI cannot be understood, or does not fit the context.
        """
        reactor = AsyncioLoop(asyncio.get_running_loop(), ssl_context)
        native = _Native(
            reactor,
            _fitting(where, ssl_context),
            topology=topology,
            credentials=credentials,
            parameters=parameters,
            policy=policy or service.RetryPolicy(permanent="fail-at-start"),
            name=name,
            shutdown_timeout=shutdown_timeout,
        )
        super().__init__(native, reactor)
        native.observe(ready=self._has_connected, failed=self._has_failed)
        self._over: asyncio.Future[None] | None = None
        self._guard: asyncio.Task[None] | None = None
        self._ended: OneShot[None] = OneShot()

    # -- starting and stopping -----------------------------------------------------

    __aenter__ = _enter
    __aexit__ = _leave

    def start(self) -> None:
        """
        Connect, and stay connected until `stop`.  Nothing is awaited: a program that
        starts while the broker is down does other work meanwhile.
        """
        self._check_loop()
        if self._over is None:
            self._ended = OneShot()
            self._over = self._loop.create_future()
            self._guard = self._loop.create_task(
                self._stop_in_the_end(self._over), name=f"{self.native!r}"
            )
        self.native.startService()

    async def stop(self) -> None:
        """
        Take no more messages, let the running handlers end, wait for confirms, and
        close the connection, as `txamqp091.service.AMQPClientService.stopService` does.

        When it is cancelled, it waits no longer for handlers and confirms: it closes
        the connection within a second, and raises ``CancelledError``.
        """
        self._check_loop()
        try:
            await Answer(self.native.stopService(), self._loop)
        except asyncio.CancelledError:
            await self._hurry()
            raise
        finally:
            self._has_stopped()
        if self._guard is not None:
            await asyncio.wait([self._guard])

    async def _hurry(self) -> None:
        """
        Stop the service now.
        """
        stopped = self.native.stopService()
        self.native.skip_grace_period()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await Answer(stopped, self._loop)
            return
        connection = self.native.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abortConnection()
            # The loop reports the end in one of its next turns.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORTED):
                    await Answer(self.native.stopService(), self._loop)

    async def _stop_in_the_end(self, over: asyncio.Future[None]) -> None:
        """
        Stop a service that the program leaves started, when all tasks are cancelled:
        that is how ``asyncio.run`` ends.
        """
        try:
            await over
        except asyncio.CancelledError:
            await self._hurry()
            self._has_stopped()
            raise

    def _has_stopped(self) -> None:
        over, self._over = self._over, None
        if over is not None and not over.done():
            over.set_result(None)
        self._ended.fire(None)

    def _has_connected(self, connection: AMQPProtocol, _: object) -> None:
        closed = getattr(connection.transport, "loop_closed", None)
        if closed is not None:
            self._reactor.closed = closed

    def _has_failed(self, reason: BaseException) -> None:
        self._ended.fail(reason)

    def when_ended(self) -> Answer[None]:
        """
        Wait until `stop` has finished.

        :raises BaseException: the reason, when the service has given up; stop the
            client even then.
        """
        self._check_loop()
        return Answer(self._ended.when_fired(), self._loop)

    # -- using it ------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        """
        The present connection, if it is ready; else None.
        """
        native = self.native.connection
        return None if native is None else Connection(native, self._reactor)

    @property
    def error(self) -> BaseException | None:
        """
        Why there is no connection, or why the last one has ended.
        """
        return self.native.error

    @property
    def topology(self) -> service.Topology:
        """
        The declared topology; `declare` and `delete` change it.
        """
        return self.native.topology

    @property
    def outcomes(self) -> list[service.EntityOutcome]:
        """
        The outcome for each entity of the topology, the last time.
        """
        return self.native.outcomes

    @property
    def consumers(self) -> list[RecoveringConsumer]:
        """
        The consumers that were not cancelled.
        """
        return [
            RecoveringConsumer(each, self._reactor) for each in self.native.consumers
        ]

    def when_ready(self) -> Answer[Connection]:
        """
        Wait until AMQP is open and the topology is declared, as
        `txamqp091.service.AMQPClientService.when_ready`.
        """
        self._check_loop()
        ready = self.native.when_ready().addCallback(
            lambda native: Connection(native, self._reactor)
        )
        return Answer(ready, self._loop)

    def observe(
        self,
        *,
        connecting: Callable[[str], object] | None = None,
        ready: Callable[[Connection, list[service.EntityOutcome]], object]
        | None = None,
        blocked: Callable[[str], object] | None = None,
        unblocked: Callable[[], object] | None = None,
        lost: Callable[[BaseException], object] | None = None,
        recovering: Callable[[int, float, BaseException], object] | None = None,
        failed: Callable[[BaseException], object] | None = None,
        subscribed: Callable[[RecoveringConsumer], object] | None = None,
        unsubscribed: _ConsumerFailure | None = None,
        refused: _ConsumerFailure | None = None,
        draining: Callable[[], object] | None = None,
    ) -> Callable[[], None]:
        """
        Have functions called when something happens to the client, as
        `txamqp091.service.AMQPClientService.observe`.  A function may be a coroutine
        function, each call of which is a task.
        """
        return self.native.observe(
            connecting=_in_tasks(connecting),
            ready=self._first_wrapped(Connection, ready),
            blocked=_in_tasks(blocked),
            unblocked=_in_tasks(unblocked),
            lost=_in_tasks(lost),
            recovering=_in_tasks(recovering),
            failed=_in_tasks(failed),
            subscribed=self._first_wrapped(RecoveringConsumer, subscribed),
            unsubscribed=self._first_wrapped(RecoveringConsumer, unsubscribed),
            refused=self._first_wrapped(RecoveringConsumer, refused),
            draining=_in_tasks(draining),
        )

    def _first_wrapped(
        self, kind: type[_Bound], function: Callable[..., object] | None
    ) -> Callable[..., Any] | None:
        """
        Make a function whose first argument is wrapped.
        """
        if not callable(function):
            return function
        in_task = _in_tasks(function)

        @wraps(function)
        def call(native: Any, *args: Any) -> Any:
            return in_task(kind(native, self._reactor), *args)

        return call

    def queue_name(self, queue: str | service.Queue) -> str:
        """
        The broker's present name of a queue, as
        `txamqp091.service.AMQPClientService.queue_name`.
        """
        return self.native.queue_name(queue)

    declare = _answered(_Native.declare)
    delete = _answered(_Native.delete)

    def channel(
        self,
        confirm: bool = False,
        *,
        window: int = DEFAULT_WINDOW,
        prefetch: int | None = None,
        tx: bool = False,
        join_acks: bool = False,
    ) -> RecoveringChannel:
        """
        Make a channel that comes back, as
        `txamqp091.service.AMQPClientService.channel`.
        """
        self._check_loop()
        native = self.native.channel(
            confirm, window=window, prefetch=prefetch, tx=tx, join_acks=join_acks
        )
        return RecoveringChannel(native, self._reactor)

    def consume(
        self,
        queue: str | service.Queue,
        handler: Handler,
        *,
        prefetch: int | None = None,
        auto_ack: bool = False,
        ack_on_return: bool = False,
        on_failure: OnFailure = "requeue",
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        consumer_tag: str = "",
        join_acks: bool = False,
        channel: RecoveringChannel | None = None,
        on_cancelled: Literal["resubscribe", "end"] = "resubscribe",
        on_refused: Literal["resubscribe", "end"] = "resubscribe",
    ) -> RecoveringConsumer:
        """
        Consume a queue, now and after each reconnect, as
        `txamqp091.service.AMQPClientService.consume`.

        :param handler: may be a coroutine function, each call of which is a task of
            its own; or it may return a Future, or whatever else can be awaited.
        """
        self._check_loop()
        consumers.check_handler(handler)
        native = self.native.consume(
            queue,
            _in_tasks(handler),
            prefetch=prefetch,
            auto_ack=auto_ack,
            ack_on_return=ack_on_return,
            on_failure=on_failure,
            exclusive=exclusive,
            arguments=arguments,
            consumer_tag=consumer_tag,
            join_acks=join_acks,
            channel=None if channel is None else channel.native,
            on_cancelled=on_cancelled,
            on_refused=on_refused,
        )
        return RecoveringConsumer(native, self._reactor)


class RecoveringChannel(_Bound):
    """
    A `txamqp091.service.RecoveringChannel`, whose verbs are awaited; made by
    `AMQPClient.channel`.

    :ivar native: that channel.
    """

    native: service.RecoveringChannel

    exchange_declare = _answered(service.RecoveringChannel.exchange_declare)
    exchange_delete = _answered(service.RecoveringChannel.exchange_delete)
    exchange_bind = _answered(service.RecoveringChannel.exchange_bind)
    exchange_unbind = _answered(service.RecoveringChannel.exchange_unbind)
    queue_declare = _answered(service.RecoveringChannel.queue_declare)
    queue_bind = _answered(service.RecoveringChannel.queue_bind)
    queue_unbind = _answered(service.RecoveringChannel.queue_unbind)
    queue_purge = _answered(service.RecoveringChannel.queue_purge)
    queue_delete = _answered(service.RecoveringChannel.queue_delete)
    basic_publish = _answered(service.RecoveringChannel.basic_publish)
    publish_many = _answered(service.RecoveringChannel.publish_many)
    tx_commit = _answered(service.RecoveringChannel.tx_commit)
    tx_rollback = _answered(service.RecoveringChannel.tx_rollback)
    flush = _answered(service.RecoveringChannel.flush)
    when_idle = _answered(service.RecoveringChannel.when_idle)
    close = _answered(service.RecoveringChannel.close)

    def basic_get(self, queue: str, auto_ack: bool = False) -> Answer[Delivery | None]:
        """
        Fetch one message, as `txamqp091.channel.Channel.basic_get`.
        """
        self._check_loop()
        return _Precious(self.native.basic_get(queue, auto_ack), self._loop, _give_back)

    @property
    def is_open(self) -> bool:
        """
        Whether there is a channel now.
        """
        return self.native.is_open

    @property
    def error(self) -> BaseException | None:
        """
        Why the last channel has ended, or could not be opened.
        """
        return self.native.error

    def when_open(self) -> Answer[Channel]:
        """
        Wait for the present channel, or the next one, as
        `txamqp091.service.RecoveringChannel.when_open`.
        """
        self._check_loop()
        opened = self.native.when_open().addCallback(self._wrapped)
        return Answer(opened, self._loop)

    def _wrapped(self, native: NativeChannel) -> Channel:
        return Channel(Connection(native.connection, self._reactor), native)

    def observe(
        self,
        *,
        opened: Callable[[Channel], object] | None = None,
        closed: Callable[[BaseException], object] | None = None,
    ) -> Callable[[], None]:
        """
        Have functions called when there is a new channel, and when a channel has ended,
        as `txamqp091.service.RecoveringChannel.observe`.  A function may be a
        coroutine function, each call of which is a task.
        """
        told: Callable[[Any], Any] | None = opened
        if callable(opened):
            in_task = _in_tasks(opened)

            def told(native: Any) -> Any:
                return in_task(self._wrapped(native))

        return self.native.observe(opened=told, closed=_in_tasks(closed))


class RecoveringConsumer(_Bound):
    """
    A `txamqp091.service.RecoveringConsumer`; made by `AMQPClient.consume`.

    :ivar native: that consumer; two objects with the same one are equal.
    """

    native: service.RecoveringConsumer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecoveringConsumer) and self.native is other.native

    def __hash__(self) -> int:
        return hash(self.native)

    @property
    def queue(self) -> str | service.Queue:
        """
        The queue: its name, or the `txamqp091.service.Queue`.
        """
        return self.native.queue

    @property
    def consumer_tag(self) -> str:
        """
        Its name, which it keeps.
        """
        return self.native.consumer_tag

    @property
    def error(self) -> BaseException | None:
        """
        Why it is not subscribed, or was not the last time.
        """
        return self.native.error

    @property
    def is_subscribed(self) -> bool:
        """
        Whether the broker delivers messages.
        """
        return self.native.is_subscribed

    @property
    def is_refused(self) -> bool:
        """
        Whether it is not subscribed, and `error` does not pass by itself.
        """
        return self.native.is_refused

    @property
    def running(self) -> int:
        """
        The number of running handlers, those of ended channels included.
        """
        return self.native.running

    @property
    def offset(self) -> int | None:
        """
        The offset in a stream to go on from, as
        `txamqp091.service.RecoveringConsumer.offset`.
        """
        return self.native.offset

    when_subscribed = _answered(service.RecoveringConsumer.when_subscribed)
    when_ended = _answered(service.RecoveringConsumer.when_ended)
    when_idle = _answered(service.RecoveringConsumer.when_idle)
    cancel = _answered(service.RecoveringConsumer.cancel)


#: Called with a consumer, the reason, and the delay until the next attempt.
_ConsumerFailure = Callable[[RecoveringConsumer, BaseException, float | None], object]


class Publisher(_Bound):
    """
    Publishes with confirms, also over the loss of a connection: a
    `txamqp091.service.Publisher`::

        publisher = Publisher(client)
        await publisher.publish("orders", "new", b"...", mandatory=True)

    :ivar native: that publisher, which has the counts.
    """

    native: service.Publisher

    def __init__(
        self,
        client: AMQPClient,
        *,
        on_loss: Literal["resend", "fail"] = "resend",
        limit: int = 10_000,
        size_limit: int = 16 << 20,
        window: int = DEFAULT_WINDOW,
        blocked_timeout: float | None = 60.0,
        nacked_again: service.RetryPolicy = NACKED_AGAIN,
        encode: Callable[[Any], bytes] | Literal["json"] | None = None,
    ) -> None:
        """
        The parameters are those of `txamqp091.service.Publisher`.
        """
        native = service.Publisher(
            client.native,
            on_loss=on_loss,
            limit=limit,
            size_limit=size_limit,
            window=window,
            blocked_timeout=blocked_timeout,
            nacked_again=nacked_again,
            encode=encode,
        )
        super().__init__(native, client._reactor)

    @property
    def outstanding(self) -> int:
        """
        How many messages wait to be sent, or for an answer.
        """
        return self.native.outstanding

    @property
    def has_room(self) -> bool:
        """
        Whether another message is taken.
        """
        return self.native.has_room

    publish = _answered(service.Publisher.publish)
    when_room = _answered(service.Publisher.when_room)
    when_idle = _answered(service.Publisher.when_idle)
    stop = _answered(service.Publisher.stop)


class RPCClient(_Bound):
    """
    Calls others by direct reply-to: a `txamqp091.service.RPCClient`::

        rpc = RPCClient(client)
        answer = await rpc.call("", "prices", b"tea", timeout=5)
        print(answer.body)

    :ivar native: that client, which has the counts.
    """

    native: service.RPCClient

    def __init__(self, client: AMQPClient) -> None:
        super().__init__(service.RPCClient(client.native), client._reactor)

    @property
    def pending(self) -> int:
        """
        How many calls have no answer yet.
        """
        return self.native.pending

    call = _answered(service.RPCClient.call)

    def close(self) -> None:
        """
        Make no more calls.  Those that are pending fail.
        """
        self._check_loop()
        self.native.close()


class RPCServer(_Bound):
    """
    Answers the calls that come to a queue: a `txamqp091.service.RPCServer`::

        async def price(request):
            return await look_up(request.body)

        server = RPCServer(client, "prices", price)

    :ivar native: that server, which has the counts.
    """

    native: service.RPCServer

    def __init__(
        self,
        client: AMQPClient,
        queue: str | service.Queue,
        handler: Callable[[Delivery], Any],
        *,
        prefetch: int = DEFAULT_PREFETCH,
        on_error: Literal["answer", "reject"] = "answer",
    ) -> None:
        """
        The parameters are those of `txamqp091.service.RPCServer`.

        :param handler: may be a coroutine function, each call of which is a task of
            its own.
        """
        native = service.RPCServer(
            client.native,
            queue,
            _in_tasks(handler),
            prefetch=prefetch,
            on_error=on_error,
        )
        super().__init__(native, client._reactor)

    @property
    def consumer(self) -> RecoveringConsumer:
        """
        The consumer of the requests.
        """
        return RecoveringConsumer(self.native.consumer, self._reactor)

    stop = _answered(service.RPCServer.stop)


class ConsumerService(_Bound):
    """
    Calls a handler for the messages of a queue, with retries, dead letters and
    concurrency: a `txamqp091.worker.ConsumerService`::

        async with ConsumerService(client, "work", handle) as consumer:
            await consumer.when_ended()

    ``async with`` starts it and waits until it consumes, and stops it in order.  A
    coroutine handler runs as a task, and may await Deferreds, too.

    :ivar native: that service.
    """

    native: worker.ConsumerService

    def __init__(
        self,
        client: AMQPClient,
        queue: str,
        handler: Callable[..., object],
        *,
        decode: worker.Decode[Any] | Literal["json"] | None = None,
        batch: int = 0,
        batch_wait: float = BATCH_WAIT,
        middleware: Sequence[worker.Middleware] = (),
        options: worker.HandlerOptions | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        join_acks: bool = True,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        offsets: worker.OffsetFile | None = None,
        on_refused: OnRefused = OnRefused.END_AT_START,
        leave_to_broker: bool = False,
        shutdown_timeout: float = 30.0,
    ) -> None:
        """
        The parameters are those of `txamqp091.worker.ConsumerService`.  A handler that
        blocks is given as `txamqp091.adapters.threads.in_threads` makes it.
        """
        native = worker.ConsumerService(
            client.native,
            queue,
            handler,
            decode=cast(Any, decode),
            batch=batch,
            batch_wait=batch_wait,
            middleware=middleware,
            options=options,
            prefetch=prefetch,
            join_acks=join_acks,
            exclusive=exclusive,
            arguments=arguments,
            offsets=offsets,
            on_refused=on_refused,
            leave_to_broker=leave_to_broker,
            shutdown_timeout=shutdown_timeout,
        )
        super().__init__(native, client._reactor)

    __aenter__ = _enter
    __aexit__ = _leave

    def start(self) -> None:
        """
        Consume, as `txamqp091.worker.ConsumerService.startService`.
        """
        self._check_loop()
        self.native.startService()

    async def stop(self) -> None:
        """
        Take no more messages, let the running handlers finish, acknowledge their
        messages, give back the others, and close the channels.

        When it is cancelled, it waits no longer for handlers, whose messages go back,
        and raises ``CancelledError``.
        """
        self._check_loop()
        try:
            await Answer(self.native.stopService(), self._loop)
        except asyncio.CancelledError:
            self.native.skip_grace_period()
            raise

    def pause(self, seconds: float | None = None) -> None:
        """
        Take no messages for a while, as `txamqp091.worker.ConsumerService.pause`.
        """
        self._check_loop()
        self.native.pause(seconds)

    def resume(self) -> None:
        """
        Consume again after `pause`.
        """
        self._check_loop()
        self.native.resume()

    @property
    def paused(self) -> bool:
        """
        Whether it consumes nothing until `resume` is called.
        """
        return self.native.paused

    @property
    def subscribed(self) -> bool:
        """
        Whether the broker delivers messages to it.
        """
        return self.native.subscribed

    @property
    def running_handlers(self) -> int:
        """
        How many handlers run.
        """
        return self.native.running_handlers

    @property
    def counts(self) -> worker.Counts:
        """
        How many messages were settled in which way.
        """
        return self.native.counts

    def health(self, stalled_after: float = 0.0) -> worker.ConsumerHealth:
        """
        The present health, as `txamqp091.worker.ConsumerService.health`.
        """
        return self.native.health(stalled_after)

    when_ready = _answered(worker.ConsumerService.when_ready)
    when_ended = _answered(worker.ConsumerService.when_ended)
