# -*- test-case-name: txamqp091.test.test_service_consumer -*-
"""
A service that consumes from one queue, and stops without losing anything.

Theory.  A `ConsumerService` has one `_Session` at a time: a connection, a channel and
a consumer, from the attempt to connect to the last acknowledgement.  A session ends
by itself (the broker refuses something, cancels the consumer, or goes) or is drained
by us; either way its handlers finish, or are given up, before it is closed.  There
is no second attempt here: whoever runs the service decides what its end means.
"""

from __future__ import annotations

__all__ = ["ConsumerService"]

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._observer import OneShot
from txamqp091.channel import Channel
from txamqp091.consumer import DEFAULT_PREFETCH, Consumer, Handler
from txamqp091.endpoint import connect as connect_once
from txamqp091.errors import AMQPError, ConsumerCancelled, printable
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.work import Tally, Work

#: What makes the connection; `txamqp091.endpoint.connect` does.
Connect = Callable[
    [IReactorTime, ConnectionParameters],
    Deferred[AMQPProtocol],
]


class ConsumerService(Service):
    """
    Consumes from a queue while it is started.

    The handler is called with each delivery, and may return a Deferred or a
    coroutine.  When it has succeeded, the message is acknowledged; when it has
    failed, the message goes back to the queue the first time, and is rejected the
    second time, or at once if one of its properties cannot be decoded.  A handler
    that has answered for its message itself is respected.

    It connects once.  When it cannot, or when the connection or the consumer ends,
    so does the service: see `when_ended`.

    :ivar queue: the queue.
    :ivar consumed: whether it has got as far as to consume, since it was started.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        parameters: ConnectionParameters,
        queue: str,
        handler: Handler,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        declare: bool = False,
        shutdown_timeout: float = 30.0,
        connect: Connect = connect_once,
    ) -> None:
        """
        :param prefetch: how many messages may be in work at a time.
        :param declare: make the queue, durable, unless it is there.
        :param shutdown_timeout: how many seconds running handlers have to finish when
            the service is stopped.
        :param connect: what makes the connection.
        """
        self.queue = queue
        self.consumed = False
        self._reactor = reactor
        self._parameters = parameters
        self._handler = handler
        self._prefetch = prefetch
        self._declare = declare
        self._shutdown_timeout = shutdown_timeout
        self._connect = connect
        self._session: _Session | None = None
        self._ready: OneShot[None] = OneShot()
        self._ended: OneShot[None] = OneShot()

    @property
    def subscribed(self) -> bool:
        """
        Whether the broker gives us messages.
        """
        session = self._session
        return session is not None and session.subscribed

    @property
    def running_handlers(self) -> int:
        """
        How many handlers have begun and not ended.
        """
        return 0 if self._session is None else self._session.work.running

    @property
    def tally(self) -> Tally:
        """
        What became of the messages since the service was started.
        """
        return Tally() if self._session is None else self._session.work.tally

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
            soon as the service ends by itself: with what
            `txamqp091.endpoint.connect` fails with, with a `ChannelClosed` or
            `ConnectionClosed`, or with `ConsumerCancelled`.  It is to be stopped even
            then, as handlers may be running.  Each caller has a Deferred of their
            own; cancelling it does nothing else.
        """
        return self._ended.when_fired()

    def startService(self) -> None:
        """
        Twisted: connect, and consume.  A service that was stopped can be started
        again.
        """
        if self.running:
            return
        Service.startService(self)
        self.consumed = False
        if self._session is not None:
            self._ready, self._ended = OneShot(), OneShot()
        self._session = session = _Session(
            self._reactor, self._handler, self.queue, self._parameters.close_timeout
        )
        session.start(self._consume(session, self._ready))
        session.when_ended().addErrback(self._failed, self._ready, self._ended)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: take no more messages, let the running handlers finish, acknowledge
        what they did, give back the rest, and close.

        :returns: fires when all that is done, and the connection has gone; it does
            not fail.  Handlers that take longer than the limit are cancelled, and
            their messages go back.  Stopping twice is harmless, and so is stopping
            before there is a connection; cancelling the Deferred does nothing.
        """
        Service.stopService(self)
        if self._session is None:
            return succeed(None)
        ready, ended = self._ready, self._ended

        def drained(_: object) -> None:
            ready.fail(CancelledError("the service was stopped"))
            ended.fire(None)

        return self._session.drain(self._shutdown_timeout).addCallback(drained)

    def hurry(self) -> None:
        """
        Wait no longer for handlers, now that the service is being stopped.
        """
        if self._session is not None:
            self._session.hurry()

    async def _consume(self, session: _Session, ready: OneShot[None]) -> NoReturn:
        """
        All of a session, up to its end.
        """
        session.connection = await self._connect(self._reactor, self._parameters)
        session.channel = channel = await session.connection.open_channel()
        if self._declare:
            await channel.queue_declare(self.queue)
        session.consumer = consumer = await channel.basic_consume(
            self.queue, session.work.take, prefetch=self._prefetch
        )
        self._log.info(
            "Consuming from the queue {queue} of {broker}",
            queue=printable(self.queue),
            broker=self._parameters.display,
        )
        self.consumed = True
        ready.fire(None)
        await consumer.when_ended()
        # Not by us: to be drained is to be cancelled here.  A service that is without
        # a consumer must not look as if it had one.
        raise ConsumerCancelled(consumer.consumer_tag, self.queue)

    def _failed(
        self, failure: Failure, ready: OneShot[None], ended: OneShot[None]
    ) -> None:
        reason = failure.value
        assert reason is not None
        ready.fail(reason)
        ended.fail(reason)


class _Session:
    """
    One connection's worth of a service.

    :ivar work: the handlers.
    """

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, handler: Handler, queue: str, close_timeout: float
    ) -> None:
        self.work = Work(handler, queue, reactor)
        self.connection: AMQPProtocol | None = None
        self.channel: Channel | None = None
        self.consumer: Consumer | None = None
        self._reactor = reactor
        self._close_timeout = close_timeout
        self._script: Deferred[Any]
        self._ended: OneShot[None] = OneShot()
        self._draining = False
        self._drained: OneShot[None] = OneShot()
        # While it drains: until when, and what it waits for.
        self._deadline = 0.0
        self._waiting: Deferred[Any] | None = None

    @property
    def subscribed(self) -> bool:
        return self.consumer is not None and self.consumer.is_active

    def start(self, script: Coroutine[Deferred[Any], Any, NoReturn]) -> None:
        """
        Run a coroutine that does it all.
        """
        self._script = Deferred.fromCoroutine(script)
        self._script.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        # Once we drain, its failures are our doing.
        if not self._draining and failure.value is not None:
            self._ended.fail(failure.value)

    def when_ended(self) -> Deferred[None]:
        """
        A Deferred that fails when the session ends by itself.
        """
        return self._ended.when_fired()

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End it in order.  Calling it again changes nothing.
        """
        if not self._draining:
            self._draining = True
            self._deadline = self._reactor.seconds() + seconds
            # Wherever it is: a connection being made is dropped, a consumer being
            # made is cancelled.
            self._script.cancel()
            draining = Deferred.fromCoroutine(self._drain())
            draining.addErrback(self._drain_failed).addBoth(self._drained.fire)
        return self._drained.when_fired()

    def hurry(self) -> None:
        """
        Have no more patience.
        """
        if self._draining:
            self._deadline = self._reactor.seconds()
            if self._waiting is not None:
                self._waiting.cancel()

    async def _drain(self) -> None:
        if self.consumer is not None:
            await self._wait(self.consumer.cancel())
        if self.work.running:
            self._log.info(
                "Waiting for {number} running handlers", number=self.work.running
            )
            await self._wait(self.work.when_idle())
            self.work.abandon()
        # The channel first: it has heard all acknowledgements when it answers.
        self._deadline = self._reactor.seconds() + self._close_timeout
        if self.channel is not None:
            await self._wait(self.channel.close())
        if self.connection is not None:
            await self.connection.close()

    async def _wait(self, step: Deferred[Any]) -> None:
        """
        Wait for a step, as long as patience lasts.
        """
        left = max(self._deadline - self._reactor.seconds(), 0)
        self._waiting = step.addTimeout(left, self._reactor)
        try:
            await step
        except (AMQPError, CancelledError, TimeoutError):
            pass  # what it was for has ended already, or will not
        finally:
            self._waiting = None

    def _drain_failed(self, failure: Failure) -> None:
        self._log.failure("The service was not stopped in order", failure=failure)
