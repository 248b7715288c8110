# -*- test-case-name: txamqp091.test.unit.worker.test_consumer_service -*-
"""
A service that handles the messages of one queue, and stops without losing any.

Theory.  A `ConsumerService` has a consumer of an `AMQPClientService`, which subscribes
again when the connection or the queue was lost, and a `HandlerRunner`, which outlives
both.  It ends by itself in two cases only: when the broker refuses the consumer for
good (there is no such queue, or no permission) and `OnRefused` says so; and when a
handler raises `Halt`.

Messages that were often delivered and never settled may end the process.  Each start
begins by fetching such messages one by one, with ``basic.get``: if one of them ends the
process, the broker counts no other delivery against it.

The prefetch window changes in two cases.  When the broker ends the consumer, since a
delivery was not settled within ``consumer_timeout`` while others waited here, the
service subscribes with half of the prefetch.  While the broker blocks publishers,
failed messages cannot be sent on and fill the window; the service then subscribes once
more, so that other messages are handled.
"""

from __future__ import annotations

__all__ = ["ConsumerService"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._observer import OneShot
from txamqp091._threads import ThreadRunner
from txamqp091.channel import Channel
from txamqp091.consumer import DEFAULT_PREFETCH, Handler
from txamqp091.errors import (
    AMQPError,
    ConsumerCancelled,
    DeliveryAckTimeout,
    NotFound,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Delivery
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import (
    AMQPClientService,
    Entity,
    RecoveringChannel,
    RecoveringConsumer,
)
from txamqp091.service.delay_queues import DelayQueues
from txamqp091.worker.asyncio_handlers import event_loop
from txamqp091.worker.batches import BATCH_WAIT, Batches
from txamqp091.worker.counts import Counts, Histogram
from txamqp091.worker.decoding import Decode, decoded, decoder
from txamqp091.worker.failure_policy import Dead, OnRefused
from txamqp091.worker.handler_check import check_handler
from txamqp091.worker.handler_publisher import Republisher
from txamqp091.worker.handler_runner import HandlerOptions, HandlerRunner, Republish
from txamqp091.worker.health import ConsumerHealth
from txamqp091.worker.middleware import Middleware
from txamqp091.worker.retry_queues import broker_delays
from txamqp091.worker.stream_offsets import OffsetFile

T = TypeVar("T")

_log = Logger(namespace="txamqp091.worker")

#: The argument of a consumer that says where in a stream to begin.
_OFFSET = "x-stream-offset"

#: After how many seconds the offset in a stream is written to its file.
_KEPT_AFTER = 5.0

#: For how many seconds nothing comes from the end of a stream, when that is all.
_SILENCE = 2.0

#: How often, within ``consumer_timeout``, unsettled deliveries are looked for.
_LOOKS = 20

#: How many prefetch windows there may be while the broker blocks publishers.
_WINDOWS = 10


class _Options(TypedDict, total=False):
    """
    The arguments of `ConsumerService` that do not depend on the kind of its handler.
    """

    options: HandlerOptions | None
    prefetch: int
    join_acks: bool
    exclusive: bool
    arguments: Mapping[str, Any] | None
    middleware: Sequence[Middleware]
    batch_wait: float
    offsets: OffsetFile | None
    on_refused: OnRefused
    leave_to_broker: bool
    shutdown_timeout: float
    republish: Republish | None
    threads: ThreadRunner | None
    histogram: Histogram | None


class ConsumerService(Service):
    """
    Calls a handler for the messages of a queue while the service is started.

    The handler is called with each delivery, and may return a Deferred, or anything
    that can be awaited.  The message is acknowledged when the handler has succeeded.
    When it has failed, the `FailurePolicy` of the `HandlerOptions` decides.  By default
    the handler is called again, after 5 s, and then with growing delays; the message is
    neither discarded nor dead-lettered.  A handler may settle its message itself.

    :ivar queue: the queue.
    :ivar label: what logs, health and metrics call the consumer.
    :ivar consumed: whether it has consumed since it was started.
    :ivar in_order: whether the last stop was in order: every channel was closed in
        time, so that the broker has processed all acknowledgements.
    :ivar paused: whether it consumes nothing until `resume` is called.
    :ivar runner: runs the handlers.
    """

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Handler,
        *,
        decode: None = None,
        batch: Literal[0] = 0,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[[Any, Delivery], object],
        *,
        decode: Literal["json"],
        batch: Literal[0] = 0,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[[T, Delivery], object],
        *,
        decode: Decode[T],
        batch: Literal[0] = 0,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[[list[Delivery]], object],
        *,
        decode: None = None,
        batch: int,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[[list[tuple[Any, Delivery]]], object],
        *,
        decode: Literal["json"],
        batch: int,
        **options: Unpack[_Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[[list[tuple[T, Delivery]]], object],
        *,
        decode: Decode[T],
        batch: int,
        **options: Unpack[_Options],
    ) -> None: ...

    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Callable[..., object],
        *,
        decode: Decode[Any] | Literal["json"] | None = None,
        batch: int = 0,
        batch_wait: float = BATCH_WAIT,
        middleware: Sequence[Middleware] = (),
        options: HandlerOptions | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        join_acks: bool = True,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        offsets: OffsetFile | None = None,
        on_refused: OnRefused = OnRefused.END_AT_START,
        leave_to_broker: bool = False,
        shutdown_timeout: float = 30.0,
        republish: Republish | None = None,
        threads: ThreadRunner | None = None,
        histogram: Histogram | None = None,
    ) -> None:
        """
        :param client: the connection, which the caller starts and stops.
        :param decode: makes an object of each body: ``"json"``, or a function of the
            body and the `Properties`.  The handler is called with that object and the
            delivery.  A message whose body cannot be decoded is dead at once.
        :param batch: how many deliveries the handler is called with: a list of
            deliveries, or, with ``decode``, of pairs of object and delivery.  The
            handler may raise or return `Partial`.  0 is one delivery, and no list.
        :param batch_wait: for how many seconds the first delivery of a batch waits for
            others.
        :param middleware: put around the handler, each delivery alone; the outermost
            one is the first.  See `txamqp091.worker.Middleware`.
        :param options: how messages are handled.  With ``batch``, the concurrency is a
            number of batches, and ``timeout`` begins when the batch is complete.
        :param prefetch: how many deliveries may be unsettled; 0 is no limit.
        :param join_acks: whether acknowledgements leave together, where they can: less
            work for the broker; see `txamqp091.channel.Channel.join_acks`.
        :param exclusive: no other consumer may consume from the queue.
        :param arguments: see `txamqp091.arguments.queue_consumer`.
        :param offsets: the file that keeps the offset in a stream.
        :param on_refused: what to do when the broker refuses the consumer.
        :param leave_to_broker: whether the queue itself delays retries, where the
            broker can.
        :param shutdown_timeout: how many seconds running handlers have to finish when
            the service is stopped.
        :param republish: publishes what is retried or dead-lettered; by default, on a
            channel of its own.
        :param threads: where to call the handler; by default, in the reactor's thread.
        :param histogram: see `HandlerRunner`.
        :raises TypeError: the handler cannot be one, such as a generator function.
        :raises ValueError: the handler needs asyncio, and the reactor does not run it;
            a batch is larger than the prefetch limit; or it is combined with
            ``order_by``.
        """
        check_handler(handler, client.reactor, in_thread=threads is not None)
        decode = None if decode is None else decoder(decode)
        if batch:
            check_batch(batch, batch_wait, prefetch, options)
            handler = Batches(
                handler,
                batch,
                batch_wait,
                client.reactor,
                decode=decode,
                threads=threads,
                loop=event_loop(client.reactor),
            )
            threads = None
        elif decode is not None:
            handler = decoded(handler, decode)
        if _OFFSET in (arguments or {}):
            options = replace(options or HandlerOptions(), stream=True)
        self.queue = queue
        self.label = (options.consumer if options is not None else "") or queue
        self.consumed = False
        self.in_order = True
        self._client = client
        self._prefetch = prefetch
        # What the broker is asked for, which is less after a consumer timeout.
        self._window = prefetch
        self._join_acks = join_acks
        self._exclusive = exclusive
        self._arguments = dict(arguments or {})
        self._is_stream = _OFFSET in self._arguments
        self._offsets = offsets
        # Where to go on in a stream.
        self._offset = None if offsets is None else offsets.kept
        self._reader: RecoveringConsumer | None = None
        self._keeping: IDelayedCall | None = None
        self._on_refused = on_refused
        self._leave_to_broker = leave_to_broker
        self._shutdown_timeout = shutdown_timeout
        self.runner = HandlerRunner(
            handler,
            queue,
            client.reactor,
            options,
            republish=Republisher(client) if republish is None else republish,
            restore=lambda delays: Deferred.fromCoroutine(self._declare(delays)),
            middleware=middleware,
            threads=threads,
            histogram=histogram,
            halted=self._fail,
            paused=self.pause,
            held=self._look_at_window,
        )
        self.paused = False
        self._resume_call: IDelayedCall | None = None
        # Fires when the subscription that a pause has ended is over.
        self._ending: Deferred[Any] | None = None
        self._stop_observing: Callable[[], None] = _nothing
        self._blocked = ""
        # How many prefetch windows there are, since the broker has blocked.
        self._windows = 1
        self._watch_call: IDelayedCall | None = None
        # What comes before the subscription.
        self._first: RecoveringChannel | None = None
        self._looking = 0
        # The last one is the present one; the others have unsettled deliveries.
        self._consumers: list[RecoveringConsumer] = []
        self._drain: _Drain | None = None
        self._drained: OneShot[None] = OneShot()
        self._ready: OneShot[None] = OneShot()
        self._ended: OneShot[None] = OneShot()

    def __repr__(self) -> str:
        state = "subscribed" if self.subscribed else "not subscribed"
        return f"<ConsumerService {self.label!r} of {self.queue!r}, {state}>"

    # -- how it is -------------------------------------------------------------------

    @property
    def subscribed(self) -> bool:
        """
        Whether the broker delivers messages to it.
        """
        return bool(self._consumers) and self._consumers[-1].is_subscribed

    @property
    def running_handlers(self) -> int:
        """
        How many handlers run.
        """
        return self.runner.running

    @property
    def counts(self) -> Counts:
        """
        How many messages were settled in which way.
        """
        return self.runner.counts

    def health(self, stalled_after: float = 0.0) -> ConsumerHealth:
        """
        The present health.

        :param stalled_after: after how many seconds without a settled message the
            consumer is stalled, if it can take no more messages; 0 is never.
        """
        runner = self.runner
        idle = runner.idle_seconds()
        return ConsumerHealth(
            name=self.label,
            queue=self.queue,
            subscribed=self.subscribed,
            paused=self.paused,
            resumes_in=self._resumes_in(),
            refused=self._refusal(),
            looking=self._looking,
            running=runner.running,
            waiting=runner.waiting,
            held=runner.held,
            unpublished=runner.problem if runner.held else "",
            blocked=self._blocked if runner.held else "",
            stalled=idle if self._is_full() and 0 < stalled_after < idle else 0.0,
            idle=runner.seconds_since_last(),
            counts=runner.counts,
        )

    def _resumes_in(self) -> float | None:
        if self._resume_call is None:
            return None
        return self._resume_call.getTime() - self._client.reactor.seconds()

    def _is_full(self) -> bool:
        """
        Whether no other message can be handled.
        """
        runner = self.runner
        slots = runner.options.concurrency
        return 0 < slots <= runner.running or 0 < self._window <= runner.unsettled

    def _refusal(self) -> str:
        consumer = self._consumers[-1] if self._consumers else None
        if consumer is None or not consumer.is_refused:
            return ""
        return printable(str(consumer.error), 500)

    def when_ready(self) -> Deferred[None]:
        """
        :returns: fires once the service consumes; fails with the reason when it ends
            before that.  Each caller has its own Deferred; cancelling it does nothing
            else.
        """
        return self._ready.when_fired()

    def when_ended(self) -> Deferred[None]:
        """
        :returns: fires once `stopService` has finished; fails with the reason as soon
            as the service ends by itself: with the error of the broker that refused
            the consumer, or with `Halt`.  Stop the service even then, as handlers may
            be running.  Each caller has its own Deferred; cancelling it does nothing
            else.
        """
        return self._ended.when_fired()

    # -- starting ----------------------------------------------------------------------

    def startService(self) -> None:
        """
        Twisted: consume.  A service that was stopped can be started again.

        :raises OffsetFileInUse: another running consumer keeps its offset in the file.
        """
        if self.running:
            return
        if self._offsets is not None:
            self._offsets.claim()
        Service.startService(self)
        self.consumed = False
        if self._drain is not None:
            self._drain = None
            self._ready, self._ended = OneShot(), OneShot()
            self._drained = OneShot()
        self.in_order = True
        self._window = self._prefetch
        self.runner.closing = False
        self._stop_observing = self._client.observe(
            ready=self._connected,
            blocked=self._set_blocked,
            unblocked=self._set_blocked,
            lost=lambda _: self._set_blocked(),
            unsubscribed=self._unsubscribed,
            refused=self._refused,
            draining=self._stop_watching,
        )
        if self._client.connection is not None:
            self._connected(self._client.connection, [])
        if self._is_stream and self._offset:
            self._before(self._find_stream)
        elif self.runner.options.policy.max_deliveries and not self._is_stream:
            self._before(self._look_first)
        else:
            self._subscribe()
        self._keep_offset()

    def _connected(self, connection: AMQPProtocol, _: object) -> None:
        """
        There is a connection, and no channel on it yet.
        """
        self.runner.broker_delays = self._leave_to_broker and broker_delays(
            connection.server_properties
        )
        self._set_blocked(connection.blocked or "")
        self.runner.reconnected()
        self._stop_watching()
        self._watch()

    def _set_blocked(self, reason: str = "") -> None:
        self._blocked = reason
        self._windows = 1
        if reason:
            self._look_at_window()

    def _before(self, look: Callable[[RecoveringChannel], Any]) -> None:
        """
        Look at the queue by a channel of its own, and subscribe then.
        """
        channel = self._first = self._client.channel()
        looking = Deferred.fromCoroutine(look(channel))
        looking.addErrback(self._not_in_order)

    async def _find_stream(self, channel: RecoveringChannel) -> None:
        """
        Find out whether the stream ends before the offset where it is to go on: then
        it is another one, and nothing of it was handled.
        """
        wanted = self._offset or 0
        try:
            end = await self._find_end(channel, wanted)
        except NotFound:
            end = 0
        except (AMQPError, CancelledError):
            end = wanted  # the subscription fails in the same way, and says so
        if end < wanted:
            _log.warn(
                "The stream {queue} ends before offset {offset}, where its consumer is "
                "to go on: somebody has deleted it and declared it again.  The "
                "consumer reads it from its first message",
                queue=printable(self.queue),
                offset=wanted,
            )
            self._offset = 0
        if self.running:
            self._subscribe()
        if self._first is channel:
            self._first = None
            channel.close()

    async def _find_end(self, channel: RecoveringChannel, wanted: int) -> int:
        """
        The offset behind the last message of the stream, or any that is not less than
        what is wanted.

        :raises AMQPError: nobody knows.
        """
        end, seen = 0, 0
        waiting: Deferred[None] = Deferred()

        def take(delivery: Delivery) -> None:
            nonlocal end, seen
            seen += 1
            end = max(end, (delivery.stream_offset or 0) + 1)
            delivery.ack()
            if end >= wanted and not waiting.called:
                waiting.callback(None)

        await channel.when_open()
        queue = self._client.queue_name(self.queue)
        await channel.call(
            Channel.basic_consume,
            queue,
            take,
            arguments={**self._arguments, _OFFSET: "last"},
            prefetch=1000,
        )
        while end < wanted:
            before = seen
            try:
                await waiting.addTimeout(_SILENCE, self._client.reactor)
            except TimeoutError:
                if before == seen:
                    break
                waiting = Deferred()
        if not (self.running and channel.is_open):
            return wanted
        if end >= wanted or seen:
            return end
        declared = await channel.call(Channel.queue_declare, queue, True)
        return wanted if declared.message_count else 0

    async def _look_first(self, channel: RecoveringChannel) -> None:
        """
        Fetch the messages that were delivered before and never settled, then subscribe.
        RabbitMQ has put them before all others.
        """
        runner = self.runner
        taken: list[Deferred[None] | None] = []
        try:
            while self.running and runner.options.policy.max_deliveries:
                await channel.when_open()
                queue = self._client.queue_name(self.queue)
                delivery = await channel.call(Channel.basic_get, queue)
                if delivery is None:
                    break
                if not self.running:
                    delivery.nack()
                    break
                if not self._looking:
                    self.consumed = True
                    self._ready.fire(None)
                self._looking += 1
                try:
                    count = runner.failed_deliveries(delivery)
                except UndecodableProperty:
                    count = 0
                alone = runner.options.policy.is_suspect(count)
                if alone or self._is_full():
                    await runner.when_idle()
                taken.append(runner.take(delivery))
                if not count:
                    break
                if alone and taken[-1] is not None:
                    await taken[-1]
        except (AMQPError, CancelledError):
            pass  # the subscription fails in the same way, and says so
        self._looking = 0
        if self.running:
            self._subscribe()
        for each in taken:
            if each is not None:
                await each
        if self._first is channel:
            self._first = None
            channel.close()

    def _subscribe(self) -> None:
        if self.paused:
            return
        self._ending = None
        arguments = self._arguments
        if self._is_stream and self._offset is not None:
            arguments = {**arguments, _OFFSET: self._offset}
        consumer = self._client.consume(
            self.queue,
            self.runner.take,
            prefetch=self._window,
            join_acks=self._join_acks,
            exclusive=self._exclusive,
            arguments=arguments,
            consumer_tag=self.label,
            # Of a message that is over the size limit; the others have a policy.
            on_failure="reject" if self._has_exchange() else "requeue",
        )
        self._consumers.append(consumer)
        self._reader = consumer
        consumer.channel.observe(
            closed=lambda reason: self._channel_ended(consumer, reason)
        )
        consumer.when_subscribed().addCallbacks(self._is_subscribed, _nothing)

    def _has_exchange(self) -> bool:
        """
        Whether the queue has a dead-letter exchange, or dead messages are discarded.
        """
        policy = self.runner.options.policy
        return policy.discards or policy.on_dead is Dead.EXCHANGE

    def _is_subscribed(self, _: None) -> None:
        self.consumed = True
        connection = self._client.connection
        _log.info(
            "Consuming from the queue {queue} of {broker}",
            queue=printable(self.queue),
            broker="" if connection is None else connection.parameters.display,
            consumer=self.label,
        )
        self._ready.fire(None)

    # -- while it runs -----------------------------------------------------------------

    def change(self, options: HandlerOptions, prefetch: int) -> None:
        """
        Use other options.  Running handlers are not disturbed.

        :raises ValueError: the options do not fit together.
        """
        if self._is_stream:
            options = replace(options, stream=True)
        self.runner.change(options)
        if prefetch != self._prefetch:
            self._prefetch = self._window = prefetch
            self._resubscribe()

    def _resubscribe(self) -> None:
        """
        Subscribe with another prefetch: AMQP has one for each subscription.
        """
        if self.running and self._consumers and not self.paused:
            consumer = self._consumers[-1]
            ending = self._unsubscribe(consumer)
            ending.addCallback(lambda _: self._subscribe_after(consumer))

    def _unsubscribe(self, consumer: RecoveringConsumer) -> Deferred[Any]:
        """
        End a subscription.  Its channel stays open until its last delivery is settled.

        :returns: fires when another subscription may begin.
        """
        cancelled = consumer.cancel()
        idle = consumer.cancel().addCallback(lambda _: consumer.when_idle())
        idle.addCallback(lambda _: self._forget(consumer))
        if self._is_stream:
            # The messages that are handled now would come twice.
            return cancelled.addCallback(lambda _: consumer.when_idle())
        return cancelled if self._exclusive else succeed(None)

    def pause(self, seconds: float | None = None) -> None:
        """
        Consume nothing until `resume` is called.  Running handlers go on; messages that
        wait for a handler go back to the queue.  The service stays paused over
        reconnects.  A stop ends the pause; a pause before the start keeps the service
        from subscribing.

        :param seconds: resume after so many seconds; None is never.  It replaces the
            time of an earlier pause.
        """
        self._cancel_resume()
        if seconds is not None:
            clock = self._client.reactor
            self._resume_call = clock.callLater(seconds, self._resume_again)
        if self.paused:
            return
        self.paused = True
        _log.info(
            "The consumer {consumer} pauses {duration}",
            consumer=self.label,
            duration="until it is resumed" if seconds is None else f"for {seconds:g} s",
        )
        if self.running and self._consumers and self._ending is None:
            self._ending = self._unsubscribe(self._consumers[-1])
        # After the basic.cancel, or the broker would deliver them to us again.
        self.runner.hand_back()
        self.runner.flush()

    def resume(self) -> None:
        """
        Consume again, if the service is paused.
        """
        self._cancel_resume()
        if not self.paused:
            return
        self.paused = False
        _log.info("The consumer {consumer} resumes", consumer=self.label)
        reader, ending = self._reader, self._ending
        if not self.running or self._first is not None:
            return  # it subscribes when it is started, or has looked at the queue
        if ending is None or reader is None:
            self._subscribe()
        else:
            ending.addCallback(lambda _: self._subscribe_after(reader))

    def _cancel_resume(self) -> None:
        if self._resume_call is not None:
            self._resume_call.cancel()
            self._resume_call = None

    def _resume_again(self) -> None:
        self._resume_call = None
        self.resume()

    def _subscribe_after(self, consumer: RecoveringConsumer) -> None:
        if not self.running or self._reader is not consumer or self.paused:
            return  # another one is the latest
        if self._is_stream and consumer.offset is not None:
            self._offset = consumer.offset
        self._subscribe()

    def _forget(self, consumer: RecoveringConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _channel_ended(
        self, consumer: RecoveringConsumer, reason: BaseException
    ) -> None:
        """
        The channel of a consumer has ended: its deliveries come again.
        """
        waiting = self.runner.waiting
        self.runner.drop_stale()
        if isinstance(reason, DeliveryAckTimeout):
            self._timed_out(consumer, waiting)

    def _unsubscribed(
        self, consumer: RecoveringConsumer, reason: BaseException, _: float | None
    ) -> None:
        """
        The broker has ended a subscription, and may have put its messages back.
        """
        if isinstance(reason, ConsumerCancelled) and consumer in self._consumers:
            limit = self.runner.options.consumer_timeout
            oldest, waiting = self.runner.oldest(), self.runner.waiting
            self.runner.hand_back()
            if oldest is not None and limit:
                if self._client.reactor.seconds() - oldest >= limit / 2:
                    self._timed_out(consumer, waiting)

    def _timed_out(self, consumer: RecoveringConsumer, waiting: int) -> None:
        """
        A delivery was not settled within RabbitMQ's ``consumer_timeout``.

        :param waiting: how many deliveries no handler was called for.
        """
        window = self._window
        if waiting and window > 1 and consumer in self._consumers[-1:]:
            self._window = window // 2
        _log.error(
            "The broker has ended the consumer {consumer} of the queue {queue}: a "
            "delivery was not settled within its consumer_timeout, while {waiting} "
            "deliveries waited here.  The prefetch is {prefetch} now.  Make handlers "
            "faster, set a smaller prefetch, or let the broker wait longer",
            consumer=self.label,
            queue=printable(self.queue),
            waiting=waiting,
            prefetch=self._window,
        )
        if self._window != window:
            self._resubscribe()

    def _look_at_window(self) -> None:
        """
        See whether failed messages leave room for others, while the broker takes no
        messages.
        """
        window, held = self._window, self.runner.held
        if (
            self._blocked
            and self.subscribed
            and not self._is_stream
            and window * self._windows - window // 2 <= held < window * _WINDOWS
        ):
            self._windows += 1
            self._resubscribe()

    def _watch(self) -> None:
        """
        Warn of deliveries that are not settled for long.
        """
        limit = self.runner.options.consumer_timeout
        clock = self._client.reactor
        self._watch_call = clock.callLater((limit or 1800.0) / _LOOKS, self._watch)
        if limit:
            self.runner.warn_of_timeouts(limit / 2, limit)

    def _stop_watching(self) -> None:
        if self._watch_call is not None:
            self._watch_call.cancel()
            self._watch_call = None

    async def _declare(self, delays: bool) -> None:
        """
        Declare the queues for failed messages again.

        :param delays: the delay queues of the virtual host, not the consumer's own.
        """
        queues = self.runner.options.retry_queues
        entities: list[Entity] = []
        if delays:
            any_delay = DelayQueues()
            entities = [*any_delay.entities(), any_delay.destination("", self.queue)]
        elif queues is not None:
            entities = list(queues.entities())
            if self.runner.broker_delays:
                entities = [each for each in entities if each not in queues.delaying()]
        for outcome in await self._client.declare(*entities):
            if outcome.error is not None:
                raise outcome.error

    def _keep_offset(self) -> None:
        """
        Write down where to go on in a stream, from time to time.
        """
        self._keeping = None
        if self._reader is not None and self._reader.offset is not None:
            self._offset = self._reader.offset
        if self._offsets is not None:
            self._offsets.keep(self._offset)
            if self.running:
                clock = self._client.reactor
                self._keeping = clock.callLater(_KEPT_AFTER, self._keep_offset)

    # -- stopping ----------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """
        Twisted: take no more messages, let the running handlers finish, acknowledge
        their messages, give back the others, and close the channels.

        :returns: fires when that is done; it does not fail.  Handlers that take longer
            than ``shutdown_timeout`` are cancelled, and their messages go back.  It may
            be called twice, and before there is a connection; cancelling the Deferred
            does nothing.
        """
        was_running = self.running
        Service.stopService(self)
        if not was_running and self._drain is None:
            return succeed(None)
        if self._drain is None:
            self._stop_observing()
            self._stop_watching()
            consumers, self._consumers = self._consumers, []
            others, self._first = [self._first] if self._first else [], None
            self._drain = _Drain(
                self._client, self.runner, self._shutdown_timeout, self._blocked
            )
            draining = Deferred.fromCoroutine(self._drain.run(consumers, others))
            draining.addErrback(self._not_in_order).addCallback(self._has_drained)
        return self._drained.when_fired()

    def skip_grace_period(self) -> None:
        """
        Do not wait for handlers any longer, now that the service is being stopped.
        """
        if self._drain is not None:
            self._drain.expire()

    def _not_in_order(self, failure: Failure) -> bool:
        _log.failure("The service was not stopped in order", failure=failure)
        return False

    def _has_drained(self, in_order: bool) -> None:
        self.in_order = in_order
        self._cancel_resume()
        self.paused = False
        if self._keeping is not None:
            self._keeping.cancel()
        self._keep_offset()
        if self._offsets is not None:
            self._offsets.release()
        self._ready.fail(CancelledError("the service was stopped"))
        self._ended.fire(None)
        self._drained.fire(None)

    # -- its own end -------------------------------------------------------------------

    def _refused(
        self, consumer: RecoveringConsumer, reason: BaseException, _: float | None
    ) -> None:
        """
        The broker refuses a consumer of the client, which may be ours.
        """
        if consumer not in self._consumers or self._on_refused is OnRefused.WAIT:
            return
        if self._on_refused is OnRefused.END or not self.consumed:
            self._fail(reason)

    def _fail(self, reason: BaseException) -> None:
        self._ready.fail(reason)
        self._ended.fail(reason)


def check_batch(
    size: int, wait: float, prefetch: int, options: HandlerOptions | None
) -> None:
    """
    Check that a batch can be gathered.

    :raises ValueError: it cannot.
    """
    if size < 0 or wait < 0:
        raise ValueError(f"a batch of {size} in {wait} s: neither can be less than 0")
    if 0 < prefetch < size:
        raise ValueError(
            f"a batch of {size} is larger than the prefetch limit of {prefetch}: it "
            "would never be complete"
        )
    if options is not None and options.order_by:
        raise ValueError(
            "a batch does not go with order_by: messages come in order if one batch is "
            "handled at a time (concurrency 1)"
        )


def _nothing(*_: object) -> None:
    """
    Do nothing.
    """


#: How many seconds the broker has at least to confirm the end of a consumer or channel.
_STEP = 5.0


class _Drain:
    """
    Stops a consumer in order, before a deadline.
    """

    def __init__(
        self,
        client: AMQPClientService,
        runner: HandlerRunner,
        seconds: float,
        blocked: str,
    ) -> None:
        """
        :param seconds: how long handlers, and the broker, may take.
        :param blocked: why the broker takes no messages; "" if it does.
        """
        self._client = client
        self._runner = runner
        self._reactor = client.reactor
        self._deadline = self._reactor.seconds() + seconds
        self._blocked = blocked
        self._waiting: Deferred[Any] | None = None
        self._hurried = False

    async def run(
        self,
        consumers: Sequence[RecoveringConsumer],
        channels: Sequence[RecoveringChannel],
    ) -> bool:
        """
        Do all of it.

        :returns: whether the broker has confirmed it in time.
        """
        runner = self._runner
        recovering = [*(each.channel for each in consumers), *channels]
        # A consumer that is cancelled closes its channel, sooner or later.
        open_channels = [each.channel for each in recovering if each.channel]
        cancelled = [each.cancel() for each in consumers]
        runner.closing = True
        # After the basic.cancel, or the broker would deliver them to us again.
        runner.hand_back()
        runner.flush()
        for step in cancelled:
            await self._wait(step, self._left(_STEP))
        if runner.running:
            _log.info("Waiting for {number} running handlers", number=runner.running)
            await self._wait(runner.when_idle(), self._left())
        runner.abandon()
        await self._end_publishing()
        for each in recovering:
            each.close()
        in_time = True
        for channel in open_channels:
            # A channel that is closed has processed all acknowledgements.
            if not await self._wait(channel.when_closed(), max(self._left(), _STEP)):
                in_time = False
        if not in_time:
            _log.error(
                "The broker has not confirmed the end of a channel in time: messages "
                "from queue {queue} that were handled may be delivered again",
                queue=printable(runner.queue),
            )
        return in_time

    async def _end_publishing(self) -> None:
        runner = self._runner
        if not runner.held:
            return
        if not self._blocked:
            await self._wait(runner.when_settled(), self._left())
        number = runner.stop_publishing()
        if number:
            reason = "their publishing was not confirmed in time"
            if self._blocked:
                reason = f"the broker blocks publishers ({printable(self._blocked)})"
            _log.warn(
                "{number} failed messages go back to the queue {queue}: {reason}",
                number=number,
                queue=printable(runner.queue),
                reason=reason,
            )

    def expire(self) -> None:
        """
        Expire the deadline now.
        """
        self._hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _left(self, most: float | None = None) -> float:
        left = self._deadline - self._reactor.seconds()
        if self._hurried:
            left = 0.0
        return max(left if most is None else min(left, most), 0.0)

    async def _wait(self, step: Deferred[Any], seconds: float) -> bool:
        """
        Wait for a step until the deadline.

        :returns: whether it has ended.
        """
        self._waiting = step.addTimeout(seconds, self._reactor)
        try:
            await step
        except (CancelledError, TimeoutError):
            return False
        except AMQPError:
            return True  # what it was for has ended already
        finally:
            self._waiting = None
        return True
