# -*- test-case-name: txamqp091.test.unit.client.test_consumer -*-
"""
Consumers: from a delivery to the user's handler, or to the user's ``async for``.

Theory.  A `Consumer` is active until one of three things ends it, and the first one
counts: `Consumer.cancel` (deliveries that still come are handed back, and counted,
until the broker has agreed), the broker's ``basic.cancel``, or the end of the
channel.  A handler that fails never ends it.

What a handler is slow to deal with, or nobody has asked an iterator for, is bounded:
by the prefetch limit, which the broker keeps; and where that does not hold (with
``auto_ack``, or a prefetch of 0) by ceasing to read from the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._flow import Flow
from txamqp091._machine.channel import ChannelMachine
from txamqp091._observer import OneShot
from txamqp091.errors import (
    AMQPError,
    ConsumerCancelled,
    ContentTooLarge,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Delivery, Settler
from txamqp091.wire.spec import BasicCancel, BasicCancelOk, BasicNack, BasicReject

__all__ = ["DEFAULT_PREFETCH", "Consumer", "Deliveries", "Handler"]

#: What takes a delivery: a function, which may return a Deferred or a coroutine.
Handler = Callable[[Delivery], object]

#: How many deliveries may be unacknowledged before the broker sends no more.
DEFAULT_PREFETCH = 100

#: The bound on what is not dealt with, where there is no prefetch limit.
_UNLIMITED = 1000

_NACK_REQUEUE = 2

#: The header of what comes from a stream.
_STREAM = b"x-stream-offset"

_new = Delivery.__new__


class Consumer:
    """
    One subscription to a queue.

    A handler acknowledges its deliveries itself.  When it fails (it raises, or its
    Deferred or coroutine does) and has not, the failure is logged, and the delivery
    goes back to its queue if that was the first time, and is rejected if it was not:
    it is then dropped, or goes to the queue's dead letters.  A handler that fails
    with `UndecodableProperty` has its delivery rejected at once: trying again will
    not help.

    :ivar consumer_tag: its name on its channel.
    :ivar queue: the queue.
    :ivar handler: the function.
    :ivar auto_ack: whether the broker forgets a message as soon as it is sent.
    :ivar prefetch: how many deliveries may be unacknowledged; 0 is no limit.
    :ivar is_active: whether deliveries are handed to the handler.
    :ivar running: how many handlers have begun and not ended.
    """

    _log = Logger()

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
    ) -> None:
        self.queue = queue
        self.consumer_tag = consumer_tag
        self.auto_ack = auto_ack
        self.prefetch = prefetch
        self.is_active = True
        self.running = 0
        self._machine = machine
        self._settler = settler
        self._flow = flow
        self.handler = handler
        self._limit = prefetch or _UNLIMITED
        self._ack_on_return = ack_on_return
        self._requeued = 0
        self._cancelling = False
        self._ended: OneShot[None] = OneShot()
        self._idle: list[Deferred[None]] = []

    def __repr__(self) -> str:
        state = "active" if self.is_active else "ended"
        return f"<Consumer {self.consumer_tag!r} of {self.queue!r}, {state}>"

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
            self._settler.catch_up()
            self._cancelling = True
            self.is_active = False
            self._flow.release(self)
            reply: Deferred[BasicCancelOk] = Deferred()
            try:
                self._machine.call(BasicCancel(self.consumer_tag), reply)
            except AMQPError as error:
                return fail(error)
            reply.addCallbacks(self._cancel_agreed, _ignore)
        return self._ended.when_fired().addCallback(lambda _: self._requeued)

    def _cancel_agreed(self, _: BasicCancelOk) -> None:
        if not self._ended.fired:  # or else the tag may be another consumer's by now
            self._machine.forget(self.consumer_tag)
            self._ended.fire(None)

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
        :returns: fires when no handler is running, which may be at once.
        """
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
        header: bytes,
        body: bytes,
    ) -> None:
        if not self.is_active and not self.auto_ack:
            # A stream takes nothing back, and RabbitMQ 3 closes the connection for it.
            if _STREAM in header:
                self._requeued += 1
            else:
                self._hand_back(delivery_tag)
            return
        delivery = _new(Delivery)
        delivery.settler = self._settler
        delivery._header = header
        delivery._method = method
        delivery._properties = None
        delivery._route = route
        delivery._settled = self.auto_ack
        delivery.body = body
        delivery.consumer_tag = self.consumer_tag
        delivery.delivery_tag = delivery_tag
        delivery.redelivered = redelivered
        try:
            result = self.handler(delivery)
        except Exception:
            self._failed(delivery, Failure())
        else:
            if result is not None:
                self._await(result, delivery)
            elif self._ack_on_return:
                self._succeeded(result, delivery)

    def oversized(self, delivery_tag: int, size: int) -> None:
        if not self.is_active and not self.auto_ack:
            self._hand_back(delivery_tag)
            return
        error = ContentTooLarge(size, self._machine.max_body)
        self._log.error(
            "Rejected a message of the queue {queue}: {error}",
            queue=printable(self.queue),
            error=error,
        )
        if not self.auto_ack:
            self._machine.settle(BasicReject, delivery_tag, 0)

    def _hand_back(self, delivery_tag: int) -> None:
        """
        A delivery came while our basic.cancel was on its way.
        """
        self._machine.settle(BasicNack, delivery_tag, _NACK_REQUEUE)
        self._requeued += 1

    def cancelled(self) -> None:
        self.is_active = False
        self._log.warn(
            "The broker cancelled the consumer {tag} of the queue {queue}",
            tag=printable(self.consumer_tag),
            queue=printable(self.queue),
        )
        self._ended.fail(ConsumerCancelled(self.consumer_tag, self.queue))

    def ended(self, reason: AMQPError) -> None:
        self.is_active = False
        self._flow.release(self)
        self._ended.fail(reason)

    # -- the outcome of handlers -----------------------------------------------

    def _await(
        self, result: object | Coroutine[Deferred[Any], Any, Any], delivery: Delivery
    ) -> None:
        if iscoroutine(result):
            deferred: Deferred[Any] = Deferred.fromCoroutine(result)
        elif isinstance(result, Deferred):
            deferred = result
        else:
            self._succeeded(result, delivery)
            return
        self.running += 1
        if self.running > self._limit and self.is_active:
            self._flow.hold(self, self._machine)
        if self._ack_on_return:
            deferred.addCallback(self._succeeded, delivery)
        deferred.addErrback(lambda failure: self._failed(delivery, failure))
        deferred.addBoth(self._finished)

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
        hopeless = failure.check(UndecodableProperty) is not None
        requeue = not (delivery.redelivered or hopeless)
        if delivery.settled:
            outcome = "it had been settled"
        else:
            delivery.reject(requeue)
            outcome = "requeued" if requeue else "rejected"
        try:
            message_id = delivery.properties.message_id
        except UndecodableProperty:
            message_id = None
        self._log.failure(
            "The handler of {consumer} failed with the message {message_id}, "
            "delivery {tag}: {outcome}",
            failure=failure,
            consumer=printable(repr(self)),
            message_id=printable(repr(message_id)),
            tag=delivery.delivery_tag,
            outcome=outcome,
        )


def _ignore(_: Failure) -> None:
    """
    The channel has ended, and told the consumer so.
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
    ends, the reason of that.

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
        if self._waiting:
            self._waiting.popleft().callback(delivery)
        else:
            self._buffer.appendleft(delivery)

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
                    delivery.nack()
                    consumer._requeued += 1
        return consumer.cancel()

    def _attach(self, consumer: Consumer) -> None:
        self.consumer = consumer
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
        if len(self._buffer) > self._limit and self.consumer.is_active:
            # In the consumer's name: when that ends, reading has to go on.
            self.consumer._flow.hold(self.consumer, self.consumer._machine)

    def _finish(self, reason: BaseException) -> None:
        self.ended = reason
        consumer = self.consumer
        if not consumer.auto_ack and not consumer._machine.is_open:
            self._buffer.clear()  # the broker has them again
        while self._waiting:
            self._waiting.popleft().errback(reason)


class _Exhausted(LookupError):
    """
    There are no more deliveries.
    """
