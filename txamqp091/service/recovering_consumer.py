# -*- test-case-name: txamqp091.test.unit.service.test_recovering_consumer -*-
"""
A consumer that subscribes again: `RecoveringConsumer`.

Theory.  It observes a `RecoveringChannel`, and subscribes on each new channel.  When it
cannot, or when the broker cancels it, it tries again after a growing delay.  It ends
when the user cancels it, or when it was told to end instead of trying again.

A broker that closes the *connection* for a ``basic.consume`` does not say whose.  All
consumers that waited for an answer are *suspects* then, which subscribe one by one on
the next connection: `ConsumerGroup` gives them their turn.  The one that waited alone
is the culprit.  It stays away for a time that grows (`_QUARANTINE`), so that the other
consumers can work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091._observer import Observers, OneShot
from txamqp091.channel import Channel
from txamqp091.consumer import Consumer, Handler, OnFailure
from txamqp091.errors import (
    ChannelClosed,
    Closed,
    ConnectionClosed,
    ConsumerCancelled,
    NotFound,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Delivery
from txamqp091.service.broker_quirks import SUBSCRIBE_TIMEOUT
from txamqp091.service.entities import Queue
from txamqp091.service.recovering_channel import (
    Position,
    RecoveringChannel,
    UnackedDeliveries,
    together,
)
from txamqp091.service.retry import Backoff, RetryPolicy, is_refusal
from txamqp091.service.topology_recovery import TopologyRecovery

_log = Logger(namespace="txamqp091.service")

#: What says, among the arguments of a consumer, where in a stream to begin.
_OFFSET = "x-stream-offset"


#: How long a consumer for which the broker closes the connection stays away.
_QUARANTINE = RetryPolicy(initial_delay=10.0, max_delay=600.0, jitter=0.0)


class ConsumerGroup:
    """
    What the consumers of a service share: the functions that are called when something
    happens to one of them, and whose turn it is to subscribe.
    """

    def __init__(self) -> None:
        # Those that wait for the answer to basic.consume, and those for their turn.
        self._pending: dict[RecoveringConsumer, None] = {}
        self._waiting: dict[RecoveringConsumer, Deferred[None]] = {}
        self._blamed: tuple[BaseException | None, int] = None, 0
        self.subscribed: Observers[[RecoveringConsumer]]
        self.subscribed = Observers("subscribed", _log)
        self.unsubscribed: Observers[[RecoveringConsumer, BaseException, float | None]]
        self.unsubscribed = Observers("unsubscribed", _log)
        self.refused: Observers[[RecoveringConsumer, BaseException, float | None]]
        self.refused = Observers("refused", _log)

    def enter(self, consumer: RecoveringConsumer) -> Deferred[None]:
        """
        Wait until a consumer may subscribe; `leave` must follow.

        :returns: fires when it may, which may be at once; cancelling it does no harm.
        """
        if self._may_enter(consumer):
            self._pending[consumer] = None
            return succeed(None)

        def cancelled(_: object) -> None:
            self._waiting.pop(consumer, None)

        waiting: Deferred[None] = Deferred(cancelled)
        self._waiting[consumer] = waiting
        return waiting

    def _may_enter(self, consumer: RecoveringConsumer) -> bool:
        if consumer.is_suspect:
            return not self._pending
        return not any(each.is_suspect for each in self._pending)

    def leave(self, consumer: RecoveringConsumer) -> None:
        """
        A consumer has its answer, or will have none.
        """
        if consumer not in self._pending:  # it ended with the connection
            return
        del self._pending[consumer]
        for each in sorted(self._waiting, key=lambda each: each.is_suspect):
            if each in self._waiting and self._may_enter(each):
                self._pending[each] = None
                self._waiting.pop(each).callback(None)

    def connection_closed(
        self, consumer: RecoveringConsumer, reason: BaseException
    ) -> None:
        """
        There will be no answer, since the connection has ended.  The consumers that
        wait for their turn wait on, until they are told of the end, too.
        """
        if self._blamed[0] is not reason and _may_be_for_consume(reason):
            self._blamed = reason, len(self._pending)
        self._pending.pop(consumer, None)

    def is_blamed(self, reason: BaseException) -> bool:
        """
        Whether the connection may have ended because of a consumer.
        """
        return self._blamed[0] is reason

    def waited_alone(self, reason: BaseException) -> bool:
        """
        Whether only one consumer waited for an answer when the connection ended.
        """
        return self._blamed == (reason, 1)


class RecoveringConsumer:
    """
    A consumer of a service, the same object over all reconnects; made by
    `AMQPClientService.consume`.

    Handlers may do what those of a `txamqp091.consumer.Consumer` may.  To settle a
    delivery whose channel has ended sends nothing, and is no error: the broker delivers
    the message again, marked as redelivered.  ``delivery.is_stale`` says so, which a
    handler may ask after a wait, before it does work that should not be done twice.

    A consumer of a stream goes on behind the last message before which all messages
    were settled.

    :ivar queue: the queue: its name, or the `Queue`.
    :ivar consumer_tag: its name, which it keeps.
    :ivar channel: the channel that it is on.
    :ivar error: why it is not subscribed, or was not the last time.
    :ivar subscribed: how many times it has been.
    :ivar received: how many deliveries there have been.
    :ivar received_at: when the last one came, by the reactor's clock; None before that.
    """

    def __init__(
        self,
        recovery: TopologyRecovery,
        group: ConsumerGroup,
        channel: RecoveringChannel,
        queue: str | Queue,
        handler: Handler,
        *,
        forget: Callable[[RecoveringConsumer], object],
        consumer_tag: str,
        prefetch: int | None,
        auto_ack: bool = False,
        ack_on_return: bool = False,
        on_failure: OnFailure = "requeue",
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        owns_channel: bool = True,
        on_cancelled: Literal["resubscribe", "end"] = "resubscribe",
        on_refused: Literal["resubscribe", "end"] = "resubscribe",
    ) -> None:
        self.queue = queue
        self.consumer_tag = consumer_tag
        self.channel = channel
        self.error: BaseException | None = None
        self.subscribed = 0
        self.received = 0
        self.received_at: float | None = None
        self._recovery = recovery
        self._reactor = channel.reactor
        self._forget = forget
        self._group = group
        self._handler = handler
        self._prefetch = prefetch
        self._auto_ack = auto_ack
        self._ack_on_return = ack_on_return
        self._on_failure: OnFailure = on_failure
        self._exclusive = exclusive
        self._arguments = dict(arguments or {})
        self._owns_channel = owns_channel
        self._resubscribes = on_cancelled == "resubscribe"
        self._insists = on_refused == "resubscribe"
        self._refused = False
        self._backoff = Backoff(channel.policy)
        # Whether the broker may have closed a connection for it, and how long it stays
        # away when the broker has.
        self.is_suspect = False
        self._quarantine = Backoff(_QUARANTINE)
        self._position: Position | None = None
        if _OFFSET in self._arguments or (isinstance(queue, Queue) and queue.is_stream):
            self._position = Position()
        self._consumer: Consumer | None = None
        # The channel on which it was subscribed, or tried to be, the last time.
        self._used: Channel | None = None
        # Whether the queue may have been deleted, and whether it was.
        self._queue_gone = False
        self._queue_missed = False
        self._not_before = 0.0
        self._call: IDelayedCall | None = None
        self._subscribing: Deferred[None] | None = None
        # Those of the past whose handlers are still running.
        self._past: dict[Consumer, None] = {}
        self._over = False
        self._cancelled: OneShot[int] = OneShot()
        self._ready: OneShot[None] = OneShot()
        self._ended: OneShot[None] = OneShot()
        self._stop_observing = channel.observe(
            opened=self._subscribe_soon, closed=self._lost
        )

    def __repr__(self) -> str:
        state = "subscribed" if self.is_subscribed else "not subscribed"
        if self._over:
            state = "cancelled"
        return f"<RecoveringConsumer {self.consumer_tag!r} of {self.queue}, {state}>"

    # -- using it --------------------------------------------------------------------

    @property
    def is_subscribed(self) -> bool:
        """
        Whether the broker delivers messages.
        """
        return self._consumer is not None and self._consumer.is_active

    @property
    def is_refused(self) -> bool:
        """
        Whether it is not subscribed, and `error` does not pass by itself: the queue is
        missing, or the user may not consume from it.
        """
        return self._refused

    @property
    def running(self) -> int:
        """
        How many handlers are running, those of ended channels included.
        """
        return sum(each.running for each in self._generations())

    @property
    def offset(self) -> int | None:
        """
        The offset in a stream to go on from; None if the queue is no stream, or nothing
        was delivered yet.
        """
        return None if self._position is None else self._position.offset

    def when_subscribed(self) -> Deferred[None]:
        """
        Wait until the consumer is subscribed, for example before a program reports that
        it is ready.

        :returns: fires when the broker has accepted the consumer, which may be at once.
            Fails with the reason when it never will: the consumer was cancelled, the
            service was stopped or has given up, or the broker has refused the consumer
            and ``on_refused`` is ``"end"``.  Each caller has a Deferred of their own;
            cancelling it does nothing else.
        """
        return self._ready.when_fired()

    def when_ended(self) -> Deferred[None]:
        """
        :returns: fires once it was cancelled by us.  It fails with `ConsumerCancelled`
            when the broker has ended it and it was not to resubscribe, and with the
            reason when the broker has refused it and it was not to try again.  A
            service that is stopped does not end it: started again, it goes on.  Each
            caller has a Deferred of their own; cancelling it does nothing else.
        """
        return self._ended.when_fired()

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when no handler is running, which may be at once.
        """
        return together([each.when_idle() for each in self._generations()])

    def cancel(self) -> Deferred[int]:
        """
        Take no more deliveries, now and after reconnects.  Those that handlers have can
        still be acknowledged.

        :returns: as `txamqp091.consumer.Consumer.cancel`, but it does not fail: fires
            with 0 when there is no subscription, or its channel ends first.
        """
        if not self._over:
            self._finish(CancelledError("the consumer was cancelled"))
            self._ended.fire(None)
        return self._cancelled.when_fired()

    def _finish(self, reason: BaseException) -> None:
        self._over = True
        self._forget(self)
        self._stop_observing()
        self.stop(reason)
        stopped = self.unsubscribe()
        stopped.addCallback(self._cancelled.fire)
        if self._owns_channel:
            stopped.addCallback(lambda _: self.when_idle())
            stopped.addCallback(lambda _: self._when_settled())
            stopped.addCallback(lambda _: self.channel.close())

    def _when_settled(self) -> Deferred[None]:
        channel = self.channel.channel
        unacked = None if channel is None else channel.settler
        return (
            unacked.when_empty()
            if isinstance(unacked, UnackedDeliveries)
            else succeed(None)
        )

    def _generations(self) -> list[Consumer]:
        now = [] if self._consumer is None else [self._consumer]
        return [*self._past, *now]

    # -- what the service calls --------------------------------------------------------

    def unsubscribe(self) -> Deferred[int]:
        """
        Cancel the consumer on the present channel.

        :returns: fires with the number of messages that went back, when the broker has
            agreed, or the channel has ended; it does not fail.
        """
        self._cancel_subscribing()
        consumer = self._consumer
        if consumer is None:
            return succeed(0)
        return consumer.cancel().addErrback(lambda _: 0)

    def stop(self, reason: BaseException) -> None:
        """
        Do not subscribe, until the channel opens again.
        """
        self._cancel_subscribing()
        self.reset()
        self._ready.fail(reason)

    def reset(self) -> None:
        """
        Let `when_subscribed` wait for the next subscription again, after `stop`.
        """
        if self._ready.fired:
            self._ready = OneShot()

    def retry_now(self) -> None:
        """
        Subscribe now, if it waits for another attempt.
        """
        self._not_before = 0.0
        channel = self.channel.channel
        if self._call is not None and channel is not None:
            self._subscribe_soon(channel)

    # -- subscribing -------------------------------------------------------------------

    def _cancel_subscribing(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        subscribing, self._subscribing = self._subscribing, None
        if subscribing is not None:
            subscribing.cancel()

    def _subscribe_soon(self, channel: Channel) -> None:
        self._cancel_subscribing()
        self.reset()
        delay = self._not_before - self._reactor.seconds()
        if delay > 0:
            self._call = self._reactor.callLater(delay, self._subscribe, channel)
        else:
            self._subscribe(channel)

    def _subscribe(self, channel: Channel) -> None:
        self._call = None
        subscribing = Deferred.fromCoroutine(self._ask(channel))
        limit = SUBSCRIBE_TIMEOUT.delay(self._backoff.attempts + 1)
        subscribing.addTimeout(limit, self._reactor)
        subscribing.addErrback(self._failed, channel)
        self._subscribing = None if subscribing.called else subscribing

    async def _ask(self, channel: Channel) -> None:
        await self._group.enter(self)
        try:
            await self._consume(channel)
        except ConnectionClosed as error:
            self._group.connection_closed(self, error)
            raise
        finally:
            self._group.leave(self)

    async def _consume(self, channel: Channel) -> None:
        name, renewed = await self._recovery.prepare(self.queue, self._queue_gone)
        arguments = self._arguments
        if self._position is not None:
            if renewed or self._queue_missed:
                self._position = Position()  # of another stream
            self._position.rewind()
            if self._position.offset is not None:
                arguments = arguments | {_OFFSET: self._position.offset}
        if renewed and self._owns_channel and channel is self._used:
            # RabbitMQ 4.3 may keep for ever what a channel has to do with a quorum
            # queue that was deleted and made anew: take another one.
            self._subscribing = None
            channel.close()
            return
        self._used = channel
        consumer = await channel.basic_consume(
            name,
            self._take,
            self._auto_ack,
            self._exclusive,
            self.consumer_tag,
            arguments,
            prefetch=self._prefetch,
            ack_on_return=self._ack_on_return,
            on_failure=self._on_failure,
        )
        self._subscribing = None
        self._consumer = consumer
        self._queue_gone = self._queue_missed = False
        self.subscribed += 1
        now = self._reactor.seconds()
        self._backoff.succeeded(now)
        self._quarantine.succeeded(now)
        self.is_suspect = False
        consumer.when_ended().addBoth(self._has_ended, consumer)
        if self.is_subscribed:
            self.error = None
            self._refused = False
            _log.info(
                "The consumer {tag} is subscribed to the queue {queue}",
                tag=printable(self.consumer_tag),
                queue=printable(name),
            )
            self._ready.fire(None)
            self._group.subscribed.tell(self)

    def _take(self, delivery: Delivery) -> object:
        self.received += 1
        self.received_at = self._reactor.seconds()
        if not self._auto_ack:
            unacked = delivery.settler
            assert isinstance(unacked, UnackedDeliveries)
            unacked.open[delivery.delivery_tag] = None
            if self._position is not None:
                self._follow(self._position, unacked, delivery)
        return self._handler(delivery)

    def _follow(
        self, position: Position, unacked: UnackedDeliveries, delivery: Delivery
    ) -> None:
        try:
            offset = delivery.stream_offset
        except UndecodableProperty:  # then the handler will not like it either
            return
        if offset is not None:
            position.delivered(delivery.delivery_tag, offset)
            unacked.open[delivery.delivery_tag] = position

    def _failed(self, failure: Failure, channel: Channel) -> None:
        """
        The attempt to subscribe has failed.
        """
        self._subscribing = None
        error = failure.value
        if error is None or isinstance(error, CancelledError):
            return
        if isinstance(error, ConnectionClosed) and not self._group.is_blamed(error):
            self.error = error  # which is not our doing
            return
        if isinstance(error, ConnectionClosed):
            culprit = self._group.waited_alone(error)
            self.is_suspect = True
            if not culprit:
                self.error = error
                return
        if isinstance(error, NotFound):
            self._queue_gone = self._queue_missed = True
        self._refused = _is_refusal(error)
        if self._refused and not self._insists:
            _log.error(
                "The broker refuses the consumer {tag} of {queue}, which ends: {error}",
                tag=printable(self.consumer_tag),
                queue=printable(str(self.queue)),
                error=printable(str(error), 500),
            )
            self._give_up(error, error)
            return
        delay = self._put_off(error)
        if channel.is_open:
            if failure.check(TimeoutError):
                problem = f"no answer to basic.consume: {self.consumer_tag}"
                self.channel.abandon(ChannelClosed(problem, by_us=True))
            else:
                self._subscribe_soon(channel)
        self._tell(error, delay)

    def _put_off(self, error: BaseException) -> float:
        """
        Delay the next attempt.
        """
        self.error = error
        refused = self._refused
        now = self._reactor.seconds()
        delay = self._backoff.next(now)
        if isinstance(error, ConnectionClosed):
            delay = self._quarantine.next(now)
        self._not_before = now + delay
        problem = "is refused by the broker" if refused else "is not subscribed"
        _log.emit(
            LogLevel.error if refused else LogLevel.warn,
            "The consumer {tag} of {queue} {problem}, and subscribes again in "
            "{delay:.2f} s: {error}",
            problem=problem,
            tag=printable(self.consumer_tag),
            queue=printable(str(self.queue)),
            delay=delay,
            error=printable(str(error), 500),
        )
        return delay

    def _tell(self, error: BaseException, delay: float | None) -> None:
        # The last thing to do each time: whoever is told may cancel this.
        if self._refused:
            self._group.refused.tell(self, error, delay)
        else:
            self._group.unsubscribed.tell(self, error, delay)

    def _give_up(self, error: BaseException, reason: BaseException) -> None:
        """
        End without another attempt.
        """
        self.error = error
        # First of all it is over: whoever is told may cancel it.
        self._finish(reason)
        self._ended.fail(error)
        self._tell(error, None)

    def _has_ended(self, result: Failure | None, consumer: Consumer) -> None:
        """
        The subscription ended: cancelled by us, by the broker, or with its channel.
        """
        if self._consumer is consumer:
            self._consumer = None
            if not self._over:
                self.reset()
        if consumer.running:
            self._past[consumer] = None
            consumer.when_idle().addCallback(lambda _: self._past.pop(consumer, None))
        if not isinstance(result, Failure) or result.value is None or self._over:
            return
        error = result.value
        if not isinstance(error, ConsumerCancelled):
            self.error = error  # its channel has ended, and will come back
            if isinstance(error, ChannelClosed) and not error.by_us:
                self._tell(error, 0.0)
        elif self._resubscribes:
            self._queue_gone = True
            delay = self._put_off(error)
            channel = self.channel.channel
            if channel is not None and channel.is_open:
                self._subscribe_soon(channel)
            self._tell(error, delay)
        else:
            self._give_up(error, CancelledError("the consumer was cancelled"))

    def _lost(self, reason: BaseException) -> None:
        self._cancel_subscribing()
        if self.error is None:
            self.error = reason


def _may_be_for_consume(reason: BaseException) -> bool:
    """
    Whether the broker may have closed the connection because of a ``basic.consume``.
    With 541, RabbitMQ does not say because of which method.
    """
    return (
        isinstance(reason, ConnectionClosed)
        and not reason.by_us
        and reason.reply_code not in (0, 200, 320)
        and reason.operation in ("", "basic.consume")
    )


def _is_refusal(error: BaseException) -> bool:
    """
    Whether the attempt to subscribe was refused for good.
    """
    # If others share its channel, it is closed for what they do, too.
    if isinstance(error, Closed) and (
        not error.operation
        or (error.operation.startswith("basic.") and error.operation != "basic.consume")
    ):
        return False
    return is_refusal(error)
