# -*- test-case-name: txamqp091.test.unit.service.test_rpc -*-
"""
Remote calls by direct reply-to: `RPCClient` asks, `RPCServer` answers.

A request goes to a queue like any message.  Its answer comes from the broker straight
to the channel that has asked, through no queue: RabbitMQ's ``amq.rabbitmq.reply-to``.
So an answer is never kept for anybody: when the channel has gone, it has gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Literal

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091.channel import Channel
from txamqp091.consumer import DEFAULT_PREFETCH
from txamqp091.errors import (
    AMQPError,
    CallFailed,
    CallTimeout,
    Closed,
    ConnectionClosed,
    PublishFailed,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Body, Delivery, body_bytes
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import Queue
from txamqp091.wire.properties import EMPTY, Properties

_log = Logger(namespace="txamqp091.service")

#: What stands for the address of whoever asks.
_REPLY_TO = "amq.rabbitmq.reply-to"

#: The header of an answer that tells what has failed, instead of being one.
ERROR_HEADER = "x-error"


class RPCClient:
    """
    Calls others, over a service that comes back::

        client = RPCClient(service)
        answer = await client.call("", "prices", b"tea", timeout=5)
        print(answer.body)

    Requests and answers use one channel, which it has for itself.

    :ivar late: how many answers came that nobody waited for any more.
    """

    def __init__(self, service: AMQPClientService) -> None:
        self.late = 0
        self._reactor = service.reactor
        self._numbers = itertools.count(1)
        # Those that wait to be sent, in order, and those that wait for the answer.
        self._waiting: dict[_Call, None] = {}
        self._sent: dict[str, _Call] = {}
        self._closed = False
        self._ready: Channel | None = None
        self._channel = service.channel(confirm=True)
        self._channel.observe(opened=self._opened, closed=self._lost)
        self._watch()

    def __repr__(self) -> str:
        return f"<RPCClient, {self.pending} calls pending>"

    @property
    def pending(self) -> int:
        """
        How many calls have no answer yet.
        """
        return len(self._waiting) + len(self._sent)

    def call(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        *,
        timeout: float,
    ) -> Deferred[Delivery]:
        """
        Send a request, and wait for the answer.

        :param properties: of the request; ``reply_to`` and ``correlation_id`` are ours.
        :param timeout: how many seconds the answer may take, with the time that the
            request waits for a connection.
        :returns: fires with the answer.  Fails with `CallTimeout` when the time is up;
            with `Returned` when no queue takes the request, and `Nacked` when the
            broker cannot keep it; with `CallFailed` when an `RPCServer` says that it
            has failed; with the reason, at once, when the channel or the connection
            ends after the request has left, or this is closed.  In the first and the
            last case the request may have been dealt with.  Cancelling it keeps a
            request that waits from being sent, and ignores the answer.
        """
        if self._closed:
            return fail(_closed())
        number = f"{next(self._numbers)}"
        try:
            properties = (EMPTY if properties is None else properties).replace(
                reply_to=_REPLY_TO, correlation_id=number
            )
        except (AMQPError, AttributeError) as error:
            return fail(error)
        call = _Call(self, number, (exchange, routing_key, body, properties, True))
        call.limit = self._reactor.callLater(timeout, self._timed_out, call, timeout)
        if self._ready is not None:
            self._send(self._ready, call)
        else:
            self._waiting[call] = None
        return call.deferred

    def close(self) -> None:
        """
        Make no more calls.  Those that are pending fail.
        """
        if not self._closed:
            self._closed = True
            self._ready = None
            self._fail([*self._sent.values(), *self._waiting], _closed())
            self._channel.close()

    def _watch(self) -> None:
        """
        Have it told when there will be no channel.
        """
        self._channel.when_open().addErrback(self._no_channel)

    def _no_channel(self, failure: Failure) -> None:
        reason = failure.value
        if not isinstance(reason, AMQPError):
            reason = ConnectionClosed(str(reason), by_us=True)
        self._fail(list(self._waiting), reason)

    def _opened(self, channel: Channel) -> None:
        # Everything on a channel is in order: there is no need to wait for the answer,
        # before the first request goes.
        subscribed = channel.basic_consume(
            _REPLY_TO, self._answered, auto_ack=True, prefetch=0
        )
        subscribed.addErrback(self._not_subscribed, channel)
        self._ready = channel
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            self._send(channel, call)

    def _not_subscribed(self, failure: Failure, channel: Channel) -> None:
        # The channel has ended, or is of no use: there will be another one.
        channel.close()

    def _lost(self, reason: BaseException) -> None:
        self._ready = None
        self._fail(list(self._sent.values()), reason)
        self._watch()

    def _fail(self, calls: list[_Call], reason: BaseException) -> None:
        for call in calls:
            call.fail(reason)

    def _send(self, channel: Channel, call: _Call) -> None:
        if call.is_over:
            return
        self._sent[call.number] = call
        call.published = channel.basic_publish(*call.request)
        call.published.addErrback(call.refused)

    def _timed_out(self, call: _Call, timeout: float) -> None:
        call.fail(CallTimeout(f"there was no answer within {timeout:g} s"))

    def forget(self, call: _Call) -> None:
        """
        A call is over.
        """
        self._waiting.pop(call, None)
        self._sent.pop(call.number, None)

    def _answered(self, delivery: Delivery) -> None:
        try:
            number = delivery.properties.correlation_id
        except UndecodableProperty:
            number = None
        call = self._sent.get(number or "")
        if call is None:
            self.late += 1
            return
        try:
            problem = delivery.headers.get(ERROR_HEADER)
        except UndecodableProperty:
            problem = None
        if problem is None:
            call.answer(delivery)
        else:
            call.fail(CallFailed(str(problem), delivery))


class _Call:
    """
    One call, until it has an answer or none will come.
    """

    def __init__(
        self,
        client: RPCClient,
        number: str,
        request: tuple[str, str, Body, Properties, bool],
    ) -> None:
        self.number = number
        self.request = request
        self.deferred: Deferred[Delivery] = Deferred(self._cancelled)
        self.published: Deferred[None] | None = None
        self.limit: IDelayedCall
        self.is_over = False
        self._client = client

    def answer(self, delivery: Delivery) -> None:
        """
        Here it is.
        """
        if self._end():
            self.deferred.callback(delivery)

    def fail(self, reason: BaseException) -> None:
        """
        There will be none.
        """
        if self._end():
            # Many calls may be given one error: it would keep the stacks of all.
            self.deferred.errback(reason.with_traceback(None))

    def refused(self, failure: Failure) -> None:
        """
        The request was not published.
        """
        if failure.value is not None:
            self.fail(failure.value)

    def _cancelled(self, _: Deferred[Delivery]) -> None:
        self.fail(CancelledError())

    def _end(self) -> bool:
        if self.is_over:
            return False
        self.is_over = True
        self._client.forget(self)
        if self.limit.active():
            self.limit.cancel()
        published, self.published = self.published, None
        if published is not None and not published.called:
            published.cancel()  # if it waits to be sent, nobody wants that any more
        return True


class RPCServer:
    """
    Answers the calls that come to a queue::

        server = RPCServer(service, "prices", lambda request: lookup(request.body))

    The handler gets the request, a `Delivery`, and returns the body of the answer, or
    body and `Properties`; or a Deferred or a coroutine of that.  None is an empty body.
    The request is acknowledged when the broker has the answer.  When the connection
    ends before, the broker delivers it again: a handler may see a request twice.

    A request that names nobody to answer to is dealt with all the same.

    :ivar answered: how many answers the broker has taken.
    :ivar failures: how often the handler has failed.
    """

    def __init__(
        self,
        service: AMQPClientService,
        queue: str | Queue,
        handler: Callable[[Delivery], Any],
        *,
        prefetch: int = DEFAULT_PREFETCH,
        on_error: Literal["answer", "reject"] = "answer",
    ) -> None:
        """
        :param queue: the queue to take requests from.
        :param prefetch: how many requests may be in work at a time.
        :param on_error: what to do when the handler fails, besides logging it: tell
            whoever has called, by an answer with the error's class and text in the
            header ``x-error``; or reject the request, which then goes to the dead
            letters, and let the caller wait for nothing.
        :raises TypeError: the handler is none.
        :raises ValueError: there is no such choice.
        """
        if on_error not in ("answer", "reject"):
            raise ValueError(f"on_error is {on_error!r}, not 'answer' or 'reject'")
        if not callable(handler):
            raise TypeError(f"a handler is a function, not {handler!r}")
        self.answered = 0
        self.failures = 0
        self._handler = handler
        self._answers = on_error == "answer"
        self._channel = service.channel(confirm=True)
        self.consumer = service.consume(queue, self._asked, prefetch=prefetch)

    def __repr__(self) -> str:
        return f"<RPCServer of {self.consumer.queue}, {self.answered} answered>"

    def stop(self) -> Deferred[None]:
        """
        Take no more requests, and answer those that are in work.

        :returns: fires when that is done; it does not fail.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.consumer.cancel()
        await self.consumer.when_idle()
        await self._channel.close()

    async def _asked(self, delivery: Delivery) -> None:
        properties = delivery.properties
        try:
            reply_to, correlation_id = properties.reply_to, properties.correlation_id
        except UndecodableProperty:  # so there is nobody to be told
            self.failures += 1
            _log.failure(
                "A request to {queue} is rejected",
                queue=printable(str(self.consumer.queue)),
            )
            delivery.refuse(requeue=False)
            return
        try:
            result = self._handler(delivery)
            if isawaitable(result):
                result = await result
            body, answer = _answer(result)
        except GeneratorExit:
            raise  # this coroutine is not needed any more
        except BaseException as error:  # SystemExit too: it is the handler's failure
            self.failures += 1
            _log.failure(
                "The handler of a request to {queue} failed",
                queue=printable(str(self.consumer.queue)),
            )
            if not self._answers:
                if not delivery.settled:
                    delivery.reject(requeue=False)
                return
            text = printable(f"{type(error).__name__}: {error}")
            body, answer = b"", Properties(headers={ERROR_HEADER: text})
        if reply_to:
            if answer.correlation_id is None:
                answer = answer.replace(correlation_id=correlation_id)
            try:
                await self._channel.call(
                    Channel.basic_publish, "", reply_to, body, answer
                )
            except (Closed, PublishFailed) as error:
                self._not_answered(delivery, error)
                return
            self.answered += 1
        if not delivery.settled:
            delivery.ack()

    def _not_answered(self, delivery: Delivery, error: AMQPError) -> None:
        _log.warn(
            "A request to {queue} was handled, but could not be answered: {error}",
            queue=printable(str(self.consumer.queue)),
            error=printable(str(error)),
        )
        if not delivery.settled:
            delivery.nack()  # if its channel has gone, it comes again anyway


def _answer(result: object) -> tuple[bytes, Properties]:
    """
    Body and properties, of what a handler has returned.

    :raises TypeError: it is no answer.
    :raises EncodeError: it cannot be sent.
    """
    body, properties = result if isinstance(result, tuple) else (result, EMPTY)
    if not isinstance(properties, Properties):
        kind = type(properties).__name__
        raise TypeError(f"the properties of an answer are Properties, not {kind}")
    properties.encode()
    return b"" if body is None else body_bytes(body), properties


def _closed() -> ConnectionClosed:
    return ConnectionClosed("the RPC client was closed", by_us=True)
