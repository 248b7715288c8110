# -*- test-case-name: txamqp091.test.unit.client.test_consumer -*-
"""
Consumers: from a delivery to the user's handler, or to the user's ``async for``.

Theory.  A `Consumer` is active until one of three things ends it, and the first one
counts: `Consumer.cancel`, the broker's ``basic.cancel``, or the end of the channel.
Deliveries that still come after the first two are given back.  A handler that fails
never ends it.

What a handler is slow to deal with, or nobody has asked an iterator for, is bounded:
by the prefetch limit, which the broker keeps; and where that does not hold (with
``auto_ack``, or a prefetch of 0) by ceasing to read from the connection.  A broker that
exceeds the prefetch limit by far has broken the rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import (
    isasyncgen,
    isasyncgenfunction,
    iscoroutine,
    isgenerator,
    isgeneratorfunction,
)
from typing import Any, Literal, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._coroutines import begin
from txamqp091._flow import Flow
from txamqp091._machine.channel import ChannelMachine
from txamqp091._observer import OneShot
from txamqp091.errors import (
    AMQPError,
    CommandInvalid,
    ConsumerCancelled,
    ContentTooLarge,
    LocalProtocolError,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Delivery, Settler
from txamqp091.wire.spec import BasicCancel, BasicCancelOk, BasicDeliver

__all__ = [
    "DEFAULT_PREFETCH",
    "HANDLING",
    "Consumer",
    "Consuming",
    "Deliveries",
    "Handler",
    "OnFailure",
    "check_handler",
]

#: What takes a delivery: a function, which may return a Deferred or something to await.
Handler = Callable[[Delivery], object]

#: What happens to a message whose handler has failed; see `Consumer`.
OnFailure = Literal["requeue", "reject"]

#: How many deliveries may be unacknowledged before the broker sends no more.
DEFAULT_PREFETCH = 100

#: The bound on what is not dealt with, where there is no prefetch limit.
_UNLIMITED = 1000

#: A broker has broken the rules that delivers so many times the prefetch limit, and so
#: many more.
_EXCESS = 10
_SLACK = 100

#: How long a redelivered message that fails is kept until it goes back, in seconds.
_PAUSE = 5.0

#: How long the prefetch window may be full of deliveries that nobody handles and nobody
#: settles before that is logged, in seconds.
_FULL_FOR = 60.0

#: How many messages that have failed are recognized when they come again.
_RECOGNIZED = 10_000

_NEVER = 1 << 62

#: The consumer whose handler is the coroutine that runs now.
HANDLING: ContextVar[object] = ContextVar("HANDLING", default=None)

_arrived = Delivery.arrived

_log = Logger(namespace="txamqp091.consumer")


def check_handler(handler: object) -> None:
    """
    :raises TypeError: when something cannot be a handler.
    """
    if not callable(handler):
        raise TypeError(f"a handler is a function, not {handler!r}")
    for each in (handler, type(handler).__call__):
        if isgeneratorfunction(each):
            raise TypeError(
                f"the handler {handler!r} is a generator function, whose body would "
                "not run: decorate it with inlineCallbacks, or make it an async def"
            )
        if isasyncgenfunction(each):
            raise TypeError(
                f"the handler {handler!r} is an async generator function, whose body "
                "would not run: take out its yield"
            )


async def _awaited(result: Awaitable[object]) -> object:
    return await result


class Consumer:
    """
    One subscription to a queue.  ``async with`` cancels it at the end.

    A handler settles its deliveries itself; or, with ``ack_on_return``, the consumer
    acknowledges those that the handler has not settled when it succeeds.  A handler
    that fails (it raises, or its Deferred or coroutine does) is logged, and never ends
    the consumer.  If it has not settled the message, ``on_failure`` says what happens:

    ``"requeue"``, the default
        The message goes back to its queue, as one that nobody has tried: at once, or
        5 s later if it was redelivered.  No message is lost.
    ``"reject"``
        The message goes back to its queue the first time, and is rejected the second
        time: the broker dead-letters it, or **discards it** where the queue has no
        dead-letter exchange.  A message whose properties cannot be decoded, or whose
        body is over the limit, is rejected at once.

    For the latter, a message has failed before if the broker has counted that
    (`Delivery.delivery_count`), as quorum queues of RabbitMQ 4.3 do; elsewhere, if it
    is marked as redelivered and this consumer has seen it fail.

    :ivar consumer_tag: its name on its channel.
    :ivar queue: the queue.
    :ivar handler: the function.
    :ivar auto_ack: whether the broker forgets a message as soon as it is sent.
    :ivar prefetch: how many deliveries may be unacknowledged; 0 is no limit.
    :ivar is_active: whether deliveries are handed to the handler.
    :ivar has_begun: whether the broker has agreed to it.
    :ivar running: how many handlers have begun and not ended.
    """

    def __init__(
        self,
        machine: ChannelMachine,
        settler: Settler,
        flow: Flow,
        queue: str,
        consumer_tag: str,
        handler: Handler,
        auto_ack: bool,
        prefetch: int,
        ack_on_return: bool,
        on_failure: OnFailure,
        untold: Callable[[Consumer], object],
    ) -> None:
        """
        :param untold: called when the channel ends, and nobody waits for the end of the
            consumer.
        """
        self.queue = queue
        self.consumer_tag = consumer_tag
        self.auto_ack = auto_ack
        self.prefetch = prefetch
        self.is_active = True
        self.has_begun = False
        self.running = 0
        self._machine = machine
        self._settler = settler
        self._flow = flow
        self.handler = handler
        self._limit = prefetch or _UNLIMITED
        self._ack_on_return = ack_on_return
        self._on_failure = on_failure
        self._untold = untold
        self._requeued = 0
        self._cancelling = False
        self._ended: OneShot[None] = OneShot()
        self._idle: list[Deferred[None]] = []
        # The iterator that takes the deliveries, if that is what they are for.
        self._iterator: Deliveries | None = None
        # Of messages that have failed: those that are kept for a while, and what the
        # others are recognized by.
        self._paused: dict[Delivery, IDelayedCall] = {}
        self._failed_once: dict[int, None] = {}
        # With how many unsettled deliveries on the channel the window may be full, or
        # the broker exceed it.
        self._full_at = prefetch if prefetch and not auto_ack else _NEVER
        self._full_call: IDelayedCall | None = None

    def __repr__(self) -> str:
        state = "active" if self.is_active else "ended"
        return f"<Consumer {self.consumer_tag!r} of {self.queue!r}, {state}>"

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(self, *_: object) -> None:
        # That it has ended otherwise is no error for who wants it to end.
        await self.cancel().addErrback(_ignore)

    def cancel(self) -> Deferred[int]:
        """
        Take no more deliveries.  Those that are on their way go back to the queue
        (with ``auto_ack`` they cannot, and still go to the handler); those that a
        handler has stay with it, and can be acknowledged.

        :returns: fires when the broker has agreed, with the number of messages that
            went back.  It fails with the reason if the channel ends first (all that
            was unacknowledged goes back then), or with `ConsumerCancelled` if the
            broker has ended the consumer.  Calling it again is harmless; cancelling
            the Deferred does not undo it.
        """
        if not self._cancelling and not self._ended.fired:
            try:
                self._settler.check_thread()
            except LocalProtocolError as error:
                return fail(error.with_traceback(None))
            self._settler.catch_up()
            self._cancelling = True
            self.is_active = False
            self._flow.release(self)
            reply: Deferred[BasicCancelOk] = Deferred()
            try:
                self._machine.call(BasicCancel(self.consumer_tag), reply)
            except AMQPError as error:
                return fail(error.with_traceback(None))
            # After the basic.cancel, or the broker would deliver them to us again.
            self._stop_timers()
            reply.addCallbacks(self._cancel_agreed, _ignore)
        return self._ended.when_fired().addCallback(lambda _: self._requeued)

    def _cancel_agreed(self, _: BasicCancelOk) -> None:
        if not self._ended.fired:  # or else the tag may be another consumer's by now
            self._machine.forget(self.consumer_tag)
            self._flow.release(self)
            self._ended.fire(None)

    def stop(self) -> Deferred[int]:
        """
        End the consumer, and the iteration over its deliveries if there is one: see
        `Deliveries.cancel`.
        """
        return self.cancel() if self._iterator is None else self._iterator.cancel()

    def when_ended(self) -> Deferred[None]:
        """
        :returns: fires once the consumer was cancelled by us; fails with
            `ConsumerCancelled` when the broker ended it, or with the reason when its
            channel ended.  Each caller has a Deferred of their own; cancelling it
            does nothing else.
        """
        return self._ended.when_fired()

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when no handler is running, which may be at once.  Fails with
            `LocalProtocolError` when a coroutine that is a handler of this consumer
            calls it: it would wait for itself.
        """
        if HANDLING.get() is self:
            return fail(
                LocalProtocolError(
                    "when_idle() was called by a handler of the same consumer, and "
                    "would wait for that handler for ever: call it elsewhere"
                )
            )
        if not self.running:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._forget)
        self._idle.append(waiting)
        return waiting

    def _forget(self, cancelled: Deferred[None]) -> None:
        self._idle.remove(cancelled)

    # -- what the machine calls: see `ConsumerSink` ----------------------------

    def delivered(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        body: bytes,
    ) -> None:
        settler = self._settler
        delivery = _arrived(
            settler,
            self.consumer_tag,
            delivery_tag,
            redelivered,
            method,
            route,
            properties,
            body,
        )
        if not self.auto_ack:
            settler.unsettled[delivery_tag] = self
            if not self.is_active:
                self._hand_back(delivery)
                return
        try:
            result = self.handler(delivery)
        except BaseException:  # whatever it is, it is not to end the connection
            self._failed(delivery, Failure())
        else:
            if result is not None:
                self._await(result, delivery)
            elif self._ack_on_return:
                self._succeeded(None, delivery)
        if len(settler.unsettled) >= self._full_at and not self.auto_ack:
            self._check_window()

    def oversized(
        self,
        delivery_tag: int,
        redelivered: bool,
        method: bytes,
        route: int,
        properties: bytes,
        size: int,
    ) -> None:
        settler = self._settler
        delivery = _arrived(
            settler,
            self.consumer_tag,
            delivery_tag,
            redelivered,
            method,
            route,
            properties,
            b"",
        )
        if not self.auto_ack:
            settler.unsettled[delivery_tag] = self
            if not self.is_active:
                self._hand_back(delivery)
                return
        _log.error(
            "The consumer {tag} of the queue {queue} cannot take delivery "
            "{delivery_tag}: {error}; {outcome}",
            tag=printable(self.consumer_tag),
            queue=printable(self.queue),
            delivery_tag=delivery_tag,
            error=ContentTooLarge(size, self._machine.max_body),
            outcome="it is lost" if self.auto_ack else self._give_up(delivery, True),
        )

    def _hand_back(self, delivery: Delivery) -> None:
        """
        A delivery came after our basic.cancel, or the broker's.
        """
        delivery.give_back()
        self._requeued += 1

    def cancelled(self) -> None:
        self.is_active = False
        self._flow.release(self)
        self._stop_timers()
        error = ConsumerCancelled(self.consumer_tag, self.queue, len(self._unsettled()))
        _log.warn(
            "The broker cancelled the consumer {tag} of the queue {queue}: {cause}",
            tag=printable(self.consumer_tag),
            queue=printable(self.queue),
            cause=error.cause,
            unsettled=error.unsettled,
        )
        self._ended.fail(error)

    def ended(self, reason: AMQPError) -> None:
        self.is_active = False
        self._flow.release(self)
        self._stop_timers()
        if self.has_begun and not self._ended.awaited:
            self._untold(self)
        self._ended.fail(reason)

    def given_back(self) -> None:
        """
        See `Holder`.
        """
        if self._iterator is not None:
            self._iterator._drop()

    # -- the outcome of handlers -----------------------------------------------

    def _await(self, result: object, delivery: Delivery) -> None:
        if isinstance(result, Deferred):
            deferred: Deferred[Any] = result
        elif iscoroutine(result) or hasattr(result, "__await__"):
            try:
                result = self._run(result)
            except BaseException:
                self._failed(delivery, Failure())
                return
            if not isinstance(result, Deferred):
                self._succeeded(result, delivery)
                return
            deferred = result
        elif isgenerator(result) or isasyncgen(result):
            problem = f"the handler returned {result!r}, which nobody can await"
            self._failed(delivery, Failure(TypeError(problem)))
            return
        else:
            self._succeeded(result, delivery)
            return
        self.running += 1
        if self.running > self._limit and not self._ended.fired:
            size = len(delivery.body)
            self._flow.hold(self, self._machine, self.running, size)
            self._check_excess(self.running)
        if self._ack_on_return:
            deferred.addCallback(self._succeeded, delivery)
        deferred.addErrback(lambda failure: self._failed(delivery, failure))
        deferred.addBoth(self._finished)

    def _run(self, result: Any) -> Any:
        """
        Await what a handler has returned.

        :returns: its result, or a Deferred.
        """
        context = HANDLING.set(self)
        try:
            return begin(result if iscoroutine(result) else _awaited(result))
        finally:
            HANDLING.reset(context)

    def _succeeded(self, _: object, delivery: Delivery) -> None:
        """
        A handler has ended as it should.
        """
        if self._ack_on_return and not delivery.settled:
            delivery.ack()

    def _finished(self, _: object) -> None:
        self.running -= 1
        if self.running == self._limit:
            self._flow.release(self)
        elif not self.running:
            while self._idle:
                self._idle.pop(0).callback(None)

    def _failed(self, delivery: Delivery, failure: Failure) -> None:
        reason = self._machine.reason
        if delivery.is_stale and failure.value is reason and reason is not None:
            # One traceback for each would be as long as the log of all the rest.
            _log.warn(
                "The handler of {consumer} failed with delivery {tag}, as the channel "
                "has ended: {error}",
                consumer=printable(repr(self)),
                tag=delivery.delivery_tag,
                error=reason,
            )
            return
        hopeless = failure.check(UndecodableProperty) is not None
        _log.failure(
            "The handler of {consumer} failed with delivery {tag} ({name}): {outcome}",
            failure=failure,
            consumer=printable(repr(self)),
            tag=delivery.delivery_tag,
            name=_name(delivery),
            outcome=self._give_up(delivery, hopeless),
        )

    def _give_up(self, delivery: Delivery, hopeless: bool) -> str:
        """
        Settle a delivery that could not be handled.

        :param hopeless: it never can be, here.
        :returns: what was done, for the log.
        """
        if delivery.settled:
            return "the message had been settled"
        if delivery.is_stale:
            return "the broker delivers the message again, as the channel has ended"
        if delivery.is_from_stream:
            delivery.refuse(requeue=True)
            return "the message is acknowledged, and stays in its stream"
        if self._on_failure == "reject":
            if hopeless or self._has_failed_before(delivery):
                delivery.refuse(requeue=False)
                return (
                    "the message is rejected: dead-lettered, or discarded if the queue "
                    "has no dead-letter exchange"
                )
            delivery.refuse(requeue=True)
        elif self.is_active and (hopeless or delivery.redelivered):
            clock = cast(IReactorTime, self._settler.reactor)
            self._paused[delivery] = clock.callLater(_PAUSE, self._release, delivery)
            return f"the message goes back to its queue in {_PAUSE:g} s"
        else:
            # Not as a failure: RabbitMQ 4 discards what has failed 20 times.
            delivery.give_back()
        return "the message goes back to its queue"

    def _has_failed_before(self, delivery: Delivery) -> bool:
        """
        Tell whether a message that has failed had failed before; and recognize it when
        it comes again.
        """
        try:
            if delivery.acquired_count is not None:
                return bool(delivery.delivery_count)
        except UndecodableProperty:
            pass
        key = hash((delivery.exchange, delivery.routing_key, delivery.body))
        before = delivery.redelivered and key in self._failed_once
        self._failed_once.pop(key, None)
        self._failed_once[key] = None
        if len(self._failed_once) > _RECOGNIZED:
            del self._failed_once[next(iter(self._failed_once))]
        return before

    def _release(self, delivery: Delivery) -> None:
        del self._paused[delivery]
        delivery.give_back()

    # -- the prefetch window ---------------------------------------------------

    def _unsettled(self) -> list[int]:
        """
        The tags of the deliveries that are not settled.
        """
        unsettled = list(self._settler.unsettled.items())
        return [tag for tag, holder in unsettled if holder is self]

    def _check_window(self) -> None:
        """
        There may be as many unsettled deliveries as the prefetch limit allows, or more.

        :raises CommandInvalid: there are far more.
        """
        unsettled = self._unsettled()
        self._check_excess(len(unsettled))
        if self._iterator is not None:  # whose deliveries may have one tag
            self._check_excess(self._iterator.buffered)
        # Other consumers of the channel may have the more.
        others = len(self._settler.unsettled) - len(unsettled)
        self._full_at = _EXCESS * self.prefetch + _SLACK + 2 * others
        if self._full_call is None:
            self._watch_window(unsettled)

    def _check_excess(self, deliveries: int) -> None:
        """
        :raises CommandInvalid: when the broker has exceeded the prefetch limit by far.
        """
        limited = self.prefetch and not self.auto_ack
        if limited and deliveries > _EXCESS * self.prefetch + _SLACK:
            raise CommandInvalid(
                f"{deliveries} unsettled deliveries for the consumer "
                f"{self.consumer_tag!r}, whose prefetch is {self.prefetch}",
                *BasicDeliver.identity,
            )

    def _watch_window(self, unsettled: list[int]) -> None:
        clock = cast(IReactorTime, self._settler.reactor)
        self._full_call = clock.callLater(_FULL_FOR, self._window_watched, unsettled)

    def _window_watched(self, before: list[int]) -> None:
        """
        The window has been full for a while, perhaps.

        :param before: the unsettled deliveries when that began.
        """
        self._full_call = None
        unsettled = self._unsettled()
        held = self.running + len(self._paused)
        if self._iterator is not None:
            held += self._iterator.buffered
        if len(unsettled) < self.prefetch:
            self._full_at = self.prefetch
        elif unsettled != before or held >= len(unsettled):
            self._watch_window(unsettled)
        else:
            _log.warn(
                "The consumer {tag} of the queue {queue} gets no messages: it has "
                "{unsettled} unsettled deliveries, all that its prefetch allows, and "
                "none was settled for {seconds:g} s; no handler runs for {idle} of "
                "them.  Settle each delivery, as by its ack(), or consume with "
                "ack_on_return=True",
                tag=printable(self.consumer_tag),
                queue=printable(self.queue),
                unsettled=len(unsettled),
                seconds=_FULL_FOR,
                idle=len(unsettled) - held,
            )

    def _stop_timers(self) -> None:
        """
        Nothing is kept, or watched, any more.
        """
        if self._full_call is not None:
            self._full_call.cancel()
            self._full_call = None
        self._full_at = _NEVER
        paused, self._paused = self._paused, {}
        for delivery, call in paused.items():
            call.cancel()
            delivery.give_back()


def _name(delivery: Delivery) -> str:
    """
    What a message is called in the log.
    """
    try:
        message_id = delivery.properties.message_id
    except UndecodableProperty:
        return "its properties cannot be decoded"
    if message_id is None:
        return "no message-id"
    return f"message-id {printable(repr(message_id))}"


def _ignore(_: Failure) -> None:
    """
    It is told elsewhere, too.
    """


class Deliveries:
    """
    The deliveries of one consumer, to be asked for one by one::

        deliveries = await channel.consume("work")
        async for delivery in deliveries:
            ...
            delivery.ack()

    The iteration ends when it is cancelled by us.  When the broker ends the consumer
    it raises `ConsumerCancelled`, after what had come before; and when the channel
    ends, the reason of that.  ``async with`` cancels it at the end.

    :ivar consumer: the consumer behind it.
    :ivar ended: why no more deliveries will come; None while more may come.
    """

    def __init__(self) -> None:
        self.consumer: Consumer
        self._limit = _UNLIMITED
        self._buffer: deque[Delivery] = deque()
        self._waiting: deque[Deferred[Delivery]] = deque()
        self.ended: BaseException | None = None

    @property
    def buffered(self) -> int:
        """
        How many deliveries have come and were not asked for yet.
        """
        return len(self._buffer)

    async def __aenter__(self) -> Deliveries:
        return self

    async def __aexit__(self, *_: object) -> None:
        # That it has ended otherwise is no error for who wants it to end.
        await self.cancel().addErrback(_ignore)

    def __aiter__(self) -> Deliveries:
        return self

    async def __anext__(self) -> Delivery:
        if self._buffer:
            return self.take_now()
        try:
            return await self.get()
        except _Exhausted:
            raise StopAsyncIteration from None

    def get(self) -> Deferred[Delivery]:
        """
        Ask for the next delivery.

        :returns: fires with it; fails as the iteration does, or with ``LookupError``
            once it was cancelled by us and is exhausted.  When it is cancelled, the
            delivery goes to whoever asks next.
        """
        if self._buffer:
            return succeed(self.take_now())
        if self.ended is not None:
            return fail(self.ended.with_traceback(None))
        waiting: Deferred[Delivery] = Deferred(self._forget)
        self._waiting.append(waiting)
        return waiting

    def _forget(self, cancelled: Deferred[Delivery]) -> None:
        self._waiting.remove(cancelled)

    def take_now(self) -> Delivery:
        """
        Take the next delivery that has come, without waiting.

        :raises LookupError: when `buffered` is 0.
        """
        if not self._buffer:
            raise LookupError("no delivery has come")
        delivery = self._buffer.popleft()
        if len(self._buffer) == self._limit // 2:
            self.consumer._flow.release(self.consumer)
        return delivery

    def put_back(self, delivery: Delivery) -> None:
        """
        Give a delivery back that was taken: whoever asks next gets it.
        """
        consumer = self.consumer
        if self._waiting:
            self._waiting.popleft().callback(delivery)
        elif consumer.auto_ack or not (delivery.is_stale or consumer._cancelling):
            self._buffer.appendleft(delivery)
        elif not delivery.settled:
            consumer._hand_back(delivery)

    def cancel(self) -> Deferred[int]:
        """
        End the consumer.  Deliveries that were not asked for yet go back to their
        queue; with ``auto_ack`` there is no going back, and they can still be had.

        :returns: as `Consumer.cancel`, with all the messages that went back.
        """
        consumer = self.consumer
        consumer.cancel().addErrback(_ignore)
        if not consumer.auto_ack:
            # After the basic.cancel, or the broker would deliver them to us again.
            buffer, self._buffer = self._buffer, deque()
            for delivery in buffer:
                if not delivery.settled:
                    consumer._hand_back(delivery)
        return consumer.cancel()

    def _attach(self, consumer: Consumer) -> None:
        self.consumer = consumer
        consumer._iterator = self
        self._limit = consumer.prefetch or _UNLIMITED
        consumer.when_ended().addCallbacks(
            lambda _: self._finish(_Exhausted("the consumer was cancelled")),
            lambda failure: self._finish(failure.value),
        )

    def _received(self, delivery: Delivery) -> None:
        if self._waiting:
            self._waiting.popleft().callback(delivery)
            return
        self._buffer.append(delivery)
        consumer, size = self.consumer, len(delivery.body)
        if len(self._buffer) > self._limit and not consumer._ended.fired:
            # In the consumer's name: when that ends, reading has to go on.
            consumer._flow.hold(consumer, consumer._machine, self.buffered, size)
            consumer._full_at = 0

    def _drop(self) -> None:
        """
        Drop the deliveries that the channel has given back.
        """
        self._buffer = deque(each for each in self._buffer if not each.settled)
        if len(self._buffer) <= self._limit // 2:
            self.consumer._flow.release(self.consumer)

    def _finish(self, reason: BaseException) -> None:
        if self.ended is not None:
            return
        self.ended = reason
        consumer = self.consumer
        if not consumer.auto_ack and not consumer._machine.is_open:
            self._buffer.clear()  # the broker has them again
        while self._waiting:
            self._waiting.popleft().errback(reason.with_traceback(None))


class Consuming(Deferred[Deliveries]):
    """
    What `Channel.consume` returns: a Deferred for `Deliveries`, which can be iterated
    over at once, and be a context::

        async for delivery in channel.consume("work"):
            ...

    When the broker refuses, the iteration raises the reason.
    """

    def __init__(
        self, deliveries: Deliveries, canceller: Callable[[Deferred[Any]], None]
    ) -> None:
        super().__init__(canceller)
        self._deliveries = deliveries

    def __aiter__(self) -> Deliveries:
        self.addErrback(_ignore)  # the iteration raises it, too
        return self._deliveries

    async def __aenter__(self) -> Deliveries:
        return await self

    async def __aexit__(self, *_: object) -> None:
        await self._deliveries.__aexit__()


class _Exhausted(LookupError):
    """
    There are no more deliveries.
    """
