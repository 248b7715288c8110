# -*- test-case-name: txamqp091.test.unit.worker.test_consumer_service -*-
"""
A service that works on the messages of one queue, and stops without losing anything.

Theory.  A `ConsumerService` has a consumer of an `AMQPClientService`, which subscribes
again when the connection or the queue was lost, and a `HandlerRunner`, which outlives
both.  It ends by itself in two cases only: when the broker refuses the consumer for
good (there is no such queue, or no permission) and `OnRefused` says so; and when a
handler raises `Halt`.
"""

from __future__ import annotations

__all__ = ["ConsumerService"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._observer import OneShot
from txamqp091.consumer import DEFAULT_PREFETCH, Handler
from txamqp091.errors import AMQPError, printable
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import AMQPClientService, RecoveringConsumer
from txamqp091.worker.counts import Counts, Histogram
from txamqp091.worker.failure_policy import Halt, OnRefused
from txamqp091.worker.handler_publisher import Republisher
from txamqp091.worker.handler_runner import HandlerOptions, HandlerRunner, Republish
from txamqp091.worker.health import ConsumerHealth
from txamqp091.worker.retry_queues import broker_delays
from txamqp091.worker.stream_offsets import OffsetFile

_log = Logger(namespace="txamqp091.worker")

#: What says, among the arguments of a consumer, where in a stream to begin.
_OFFSET = "x-stream-offset"

#: After how many seconds the place in a stream is kept.
_KEPT_AFTER = 5.0


class ConsumerService(Service):
    """
    Calls a handler for the messages of a queue while the service is started.

    The handler is called with each delivery, and may return a Deferred or a
    coroutine.  `HandlerOptions` say how the message is settled then.  By default it is
    acknowledged when the handler has succeeded; when the handler has failed, the
    message goes back to the queue the first time, and is rejected the second time.  A
    handler may settle its message itself.

    :ivar queue: the queue.
    :ivar label: what it is called.
    :ivar consumed: whether it has got as far as to consume, since it was started.
    :ivar runner: the handlers.
    """

    def __init__(
        self,
        client: AMQPClientService,
        queue: str,
        handler: Handler,
        *,
        options: HandlerOptions | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        offsets: OffsetFile | None = None,
        on_refused: OnRefused = OnRefused.END_AT_START,
        leave_to_broker: bool = False,
        shutdown_timeout: float = 30.0,
        republish: Republish | None = None,
        cancels: bool = True,
        histogram: Histogram | None = None,
    ) -> None:
        """
        :param client: the connection; who starts and stops it is the caller.
        :param options: how the messages are worked on.
        :param prefetch: how many messages may be here at a time.
        :param exclusive: nobody else may consume from the queue.
        :param arguments: see `txamqp091.arguments.queue_consumer`.
        :param offsets: where the place in a stream is kept.
        :param on_refused: what to do when the broker refuses the consumer.
        :param leave_to_broker: whether the queue delays what is to be retried by
            itself, where the broker can.
        :param shutdown_timeout: how many seconds running handlers have to finish when
            the service is stopped.
        :param republish: publishes what is to be retried or parked; by default, on a
            channel of its own.
        :param cancels: see `HandlerRunner`.
        :param histogram: see `HandlerRunner`.
        """
        self.queue = queue
        self.label = (
            options.consumer if options is not None and options.consumer else queue
        )
        self.consumed = False
        self._client = client
        self._prefetch = prefetch
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
            cancels=cancels,
            histogram=histogram,
            halted=self._halted,
        )
        self._stop_observing: Callable[[], None] = lambda: None
        # The last one is the present one.
        self._consumers: list[RecoveringConsumer] = []
        self._drain: ConsumerDrain | None = None
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
        Whether the broker gives us messages.
        """
        return bool(self._consumers) and self._consumers[-1].is_subscribed

    @property
    def running_handlers(self) -> int:
        """
        How many handlers have begun and not ended.
        """
        return self.runner.running

    @property
    def counts(self) -> Counts:
        """
        What became of the messages.
        """
        return self.runner.counts

    def health(self, stalled_after: float = 0.0) -> ConsumerHealth:
        """
        How it is, now.

        :param stalled_after: after how many seconds it does not get on any more whose
            handlers all run, and none has ended; 0 is never.
        """
        runner = self.runner
        idle = runner.idle_seconds()
        full = 0 < (runner.options.concurrency or self._prefetch) <= runner.running
        return ConsumerHealth(
            name=self.label,
            queue=self.queue,
            subscribed=self.subscribed,
            refused=self._refusal(),
            running=runner.running,
            waiting=runner.waiting,
            stalled=idle if full and 0 < stalled_after < idle else 0.0,
            idle=runner.seconds_since_last(),
            counts=runner.counts,
        )

    def _refusal(self) -> str:
        consumer = self._consumers[-1] if self._consumers else None
        if consumer is None or not consumer.is_refused:
            return ""
        return printable(str(consumer.error), 500)

    def when_ready(self) -> Deferred[None]:
        """
        :returns: fires once the service consumes; fails with the reason when it ends
            before that.  Each caller has a Deferred of their own; cancelling it does
            nothing else.
        """
        return self._ready.when_fired()

    def when_ended(self) -> Deferred[None]:
        """
        :returns: fires once `stopService` has done its work; fails with the reason as
            soon as the service ends by itself: with what the broker has refused the
            consumer with, or with `Halt`.  It is to be stopped even then, as handlers
            may be running.  Each caller has a Deferred of their own; cancelling it
            does nothing else.
        """
        return self._ended.when_fired()

    # -- starting, changing, stopping --------------------------------------------------

    def startService(self) -> None:
        """
        Twisted: consume.  A service that was stopped can be started again.
        """
        if self.running:
            return
        Service.startService(self)
        self.consumed = False
        if self._drain is not None:
            self._drain = None
            self._ready, self._ended = OneShot(), OneShot()
            self._drained = OneShot()
        self._stop_observing = self._client.observe(
            ready=self._connected, refused=self._refused
        )
        if self._client.connection is not None:
            self._connected(self._client.connection, [])
        self._subscribe()
        self._keep_offset()

    def _connected(self, connection: AMQPProtocol, _: object) -> None:
        """
        There is a connection, and no channel on it yet.
        """
        self.runner.broker_delays = self._leave_to_broker and broker_delays(
            connection.server_properties
        )

    def _keep_offset(self) -> None:
        """
        Remember where to go on in a stream, from time to time.
        """
        self._keeping = None
        if self._reader is not None and self._reader.offset is not None:
            self._offset = self._reader.offset
        if self._offsets is not None:
            self._offsets.keep(self._offset)
            if self.running:
                clock = self._client.reactor
                self._keeping = clock.callLater(_KEPT_AFTER, self._keep_offset)

    def _subscribe(self) -> None:
        arguments = self._arguments
        if self._is_stream and self._offset is not None:
            arguments = {**arguments, _OFFSET: self._offset}
        consumer = self._client.consume(
            self.queue,
            self.runner.take,
            prefetch=self._prefetch,
            exclusive=self._exclusive,
            arguments=arguments,
            consumer_tag=self.label,
        )
        self._consumers.append(consumer)
        self._reader = consumer
        consumer.when_subscribed().addCallbacks(self._is_subscribed, _ignore)

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

    def change(self, options: HandlerOptions, prefetch: int) -> None:
        """
        Go on in another way.  What is being worked on is not disturbed.
        """
        self.runner.change(options)
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            if self.running and self._is_stream:
                self._begin_again(self._consumers[-1])
            elif self.running:
                # AMQP has a limit for a consumer only when it begins.  The channel of
                # the old one stays open until its last message was answered for.
                self._consumers[-1].cancel()
                self._subscribe()

    def _begin_again(self, consumer: RecoveringConsumer) -> None:
        """
        Go on in a stream by another consumer, when this one has done what it has: or
        that would be worked on twice.
        """

        def is_done(_: object) -> None:
            if self.running and self._consumers[-1:] == [consumer]:
                if consumer.offset is not None:
                    self._offset = consumer.offset
                self._subscribe()

        done = consumer.cancel().addCallback(lambda _: consumer.when_idle())
        done.addCallback(is_done)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: take no more messages, let the running handlers finish, acknowledge
        what they did, give back the rest, and close the channel.

        :returns: fires when all that is done; it does not fail.  Handlers that take
            longer than the limit are cancelled, and their messages go back.  Stopping
            twice is harmless, and so is stopping before there is a connection;
            cancelling the Deferred does nothing.
        """
        Service.stopService(self)
        if not self._consumers:
            return succeed(None)
        if self._drain is None:
            self._stop_observing()
            consumers, self._consumers = self._consumers, []
            self._drain = ConsumerDrain(
                self._client.reactor, self.runner, self._shutdown_timeout
            )
            draining = Deferred.fromCoroutine(self._drain.run(consumers))
            draining.addErrback(self._not_in_order).addCallback(self._has_drained)
        return self._drained.when_fired()

    def skip_grace_period(self) -> None:
        """
        Wait no longer for handlers, now that the service is being stopped.
        """
        if self._drain is not None:
            self._drain.expire()

    def _not_in_order(self, failure: Failure) -> None:
        _log.failure("The service was not stopped in order", failure=failure)

    def _has_drained(self, _: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
        self._keep_offset()
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

    def _halted(self, halt: Halt) -> None:
        self._fail(halt)

    def _fail(self, reason: BaseException) -> None:
        self._ready.fail(reason)
        self._ended.fail(reason)


def _ignore(_: object) -> None:
    """
    Nothing is to be done about it.
    """


#: How many seconds the broker has to confirm the end of a consumer or a channel.
_STEP = 5.0


class ConsumerDrain:
    """
    The end of a consumer, in order, and with so much patience.
    """

    def __init__(
        self, reactor: IReactorTime, runner: HandlerRunner, seconds: float
    ) -> None:
        """
        :param seconds: how long handlers may take.
        """
        self._reactor = reactor
        self._runner = runner
        self._deadline = self._reactor.seconds() + seconds
        self._waiting: Deferred[Any] | None = None
        self._hurried = False

    async def run(self, consumers: Sequence[RecoveringConsumer]) -> None:
        """
        All of it.
        """
        cancelled = [each.cancel() for each in consumers]
        # After the basic.cancel, or they would come back to us.
        self._runner.hand_back()
        for each in cancelled:
            await self._wait(each, self._left(_STEP))
        if self._runner.running:
            _log.info(
                "Waiting for {number} running handlers", number=self._runner.running
            )
            await self._wait(self._runner.when_idle(), self._left())
            self._runner.abandon()
        # A channel has heard all acknowledgements when it has closed.
        for consumer in consumers:
            await self._wait(consumer.channel.close(), _STEP)

    def expire(self) -> None:
        """
        Have no more patience.
        """
        self._hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _left(self, most: float | None = None) -> float:
        left = self._deadline - self._reactor.seconds()
        if self._hurried:
            left = 0.0
        return max(left if most is None else min(left, most), 0.0)

    async def _wait(self, step: Deferred[Any], seconds: float) -> None:
        """
        Wait for a step, as long as patience lasts.
        """
        self._waiting = step.addTimeout(seconds, self._reactor)
        try:
            await step
        except (AMQPError, CancelledError, TimeoutError):
            pass  # what it was for has ended already, or will not
        finally:
            self._waiting = None
