# -*- test-case-name: txamqp091.test.unit.service.test_publisher -*-
"""
Publish, and be sure: `Publisher`, over a service that comes back.

What users see is here, and how many messages there may be.  Which one is sent when, and
which again, is in `txamqp091.service.outbox`.
"""

from __future__ import annotations

__all__ = ["NACKED_AGAIN", "Publisher"]

from collections import deque
from typing import Literal
from uuid import uuid4

from twisted.internet.defer import Deferred, fail, succeed

from txamqp091._channel_publisher import DEFAULT_WINDOW
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    PublisherFull,
    UndecodableProperty,
)
from txamqp091.message import Body, body_bytes
from txamqp091.service.client import AMQPClientService
from txamqp091.service.outbox import Dispatcher
from txamqp091.service.outgoing import Letter
from txamqp091.service.retry import RetryPolicy
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.spec import BasicPublish

#: When to send a message again that the broker could not keep, and how often in all.
NACKED_AGAIN = RetryPolicy(initial_delay=0.1, max_delay=2.0, max_attempts=12)

#: How many routes are remembered as being fit to be sent.
_ROUTES = 1024


class Publisher:
    """
    Publishes, in confirm mode, whatever becomes of the connection::

        publisher = Publisher(service)
        await publisher.publish("orders", "new", b"...", mandatory=True)

    A message that cannot leave waits: before the first connection, while there is none,
    while the broker blocks, and while too many are unconfirmed.  What has left and is
    not confirmed when its channel ends is sent again, or has failed: by choice.  What
    the broker could not keep is sent again, on a new channel.  How many messages are
    kept is limited; the next one fails at once.

    What is sent again goes in its old order, before all that was not sent yet.  It has
    a header ``x-republished``, and the ``message_id`` that it was given the first time.
    Only what was nacked may be overtaken by others.

    It has a channel of its own.  When the service is stopped, it waits for what is
    outstanding; that fails if it takes too long.

    :ivar outstanding: how many messages are kept: those that wait to leave, and those
        that wait for an answer.
    :ivar size: the bytes of their bodies and properties.
    :ivar failures: how many have failed.
    """

    def __init__(
        self,
        service: AMQPClientService,
        *,
        on_loss: Literal["resend", "fail"] = "resend",
        limit: int = 10_000,
        size_limit: int = 16 << 20,
        window: int = DEFAULT_WINDOW,
        blocked_timeout: float | None = 60.0,
        nacked_again: RetryPolicy = NACKED_AGAIN,
    ) -> None:
        """
        :param on_loss: what becomes of a message that has left and is not confirmed
            when its channel ends: it is sent again, and may then arrive twice; or its
            Deferred fails, and it may have arrived.
        :param limit: how many messages are kept.
        :param size_limit: how many bytes of them; the message that goes beyond is the
            last one.
        :param window: how many may have left and be unconfirmed.
        :param blocked_timeout: how many seconds a message waits while the broker
            blocks; None is for ever.
        :param nacked_again: when to send again what the broker could not keep; its
            ``max_attempts`` counts the first time, and 1 is never again.
        :raises ValueError: a limit is less than 1, or there is no such choice.
        """
        if on_loss not in ("resend", "fail"):
            raise ValueError(f"on_loss is {on_loss!r}, not 'resend' or 'fail'")
        if limit < 1 or size_limit < 1 or window < 1:
            raise ValueError("a limit is less than 1")
        self.outstanding = 0
        self.size = 0
        self.failures = 0
        self._reactor = service.reactor
        self._names = on_loss == "resend"
        self._limit = limit
        self._size_limit = size_limit
        self._name = uuid4().hex
        self._number = 0
        self._routes: set[tuple[str, str]] = set()
        # Why nothing is taken any more.
        self._over: AMQPError | None = None
        self._stopping: Deferred[None] | None = None
        self._room: deque[Deferred[None]] = deque()
        self._idle: deque[Deferred[None]] = deque()
        self._dispatcher = Dispatcher(
            service,
            self,
            resends=on_loss == "resend",
            window=window,
            blocked_timeout=blocked_timeout,
            policy=nacked_again,
        )

    def __repr__(self) -> str:
        state = "open" if self._over is None else "closed"
        return f"<Publisher, {self.outstanding} messages outstanding, {state}>"

    # -- how it is ---------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """
        Whether another message is taken.
        """
        return self.outstanding < self._limit and self.size < self._size_limit

    @property
    def unconfirmed(self) -> int:
        """
        How many messages have left and wait for an answer.
        """
        return self._dispatcher.unconfirmed

    @property
    def confirmed(self) -> int:
        """
        How many messages the broker has taken.
        """
        return self._dispatcher.confirms

    @property
    def nacked(self) -> int:
        """
        How often the broker could not keep a message.
        """
        return self._dispatcher.nacks

    @property
    def republished(self) -> int:
        """
        How often a message was sent again.
        """
        return self._dispatcher.republished

    # -- publishing --------------------------------------------------------------------

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None = None,
        mandatory: bool = False,
    ) -> Deferred[None]:
        """
        Publish a message.

        :param mandatory: fail if no queue takes it.  If it is not mandatory, the broker
            confirms it then, too.
        :returns: fires with None once the broker has taken the message.  Fails with

            - `Returned`, if it is mandatory and there is no queue for it;
            - `Nacked`, if the broker could not keep it, as often as it was sent;
            - `ConnectionBlocked`, when the broker has blocked for too long;
            - `PublisherFull`, at once, when no more messages are kept;
            - the reason, such as `NotFound`, when the broker closes a channel for it;
            - the reason, when this or the service is stopped, or that has given up;
            - `EncodeError` or ``TypeError``, when it cannot be sent at all;
            - with ``on_loss="fail"``, the reason, when the channel or the connection
              ends after it has left.

            Cancelling it keeps it from being sent, or from being sent again.
        """
        try:
            if self._over is not None:
                self._check_over()
            body = body_bytes(body)
            self._check_route(exchange, routing_key, mandatory)
            self._number += 1
            letter = Letter(
                self._dispatcher,
                self._number,
                exchange,
                routing_key,
                body,
                self._named(EMPTY if properties is None else properties),
                mandatory,
            )
            if not self.has_room:
                raise PublisherFull(
                    f"{self.outstanding} messages, {self.size} bytes, wait for the "
                    "broker: wait for when_room()"
                )
        except (AMQPError, TypeError) as error:
            return fail(error)
        self.outstanding += 1
        self.size += letter.size
        self._dispatcher.post(letter)
        return letter.deferred

    def _check_over(self) -> None:
        self._dispatcher.look_again()
        if self._over is not None:
            raise self._over

    def _check_route(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        route = exchange, routing_key
        if route not in self._routes:
            BasicPublish(0, exchange, routing_key, mandatory, False).encode()
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes.add(route)

    def _named(self, properties: Properties) -> Properties:
        if not isinstance(properties, Properties):
            kind = type(properties).__name__
            raise TypeError(f"message properties are Properties, not {kind}")
        if self._names:
            try:
                if properties.message_id is None:
                    name = f"{self._name}-{self._number}"
                    return properties.replace(message_id=name)
            except UndecodableProperty:
                pass  # it came from elsewhere, and goes as it came
        return properties

    def when_room(self) -> Deferred[None]:
        """
        :returns: fires when another message is taken, which may be at once.  Those who
            wait are told one after the other, while there is room.  Fails with the
            reason when nothing is taken any more.  Cancelling it ends the waiting.
        """
        try:
            self._check_over()
        except AMQPError as error:
            return fail(error)
        if self.has_room:
            return succeed(None)
        return _wait_in(self._room)

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when nothing is outstanding, which may be at once.  Cancelling
            it ends the waiting.
        """
        return _wait_in(self._idle) if self.outstanding else succeed(None)

    def stop(self, timeout: float = 30.0) -> Deferred[None]:
        """
        Take no more messages, and wait for the answers.

        :param timeout: how many seconds to wait.  What is outstanding then has failed.
        :returns: fires when there are none outstanding; it does not fail.  It may be
            called again; cancelling it ends the waiting only.
        """
        if self._stopping is None:
            self._close(ConnectionClosed("the publisher was stopped", by_us=True))
            self._stopping = self.when_idle().addTimeout(timeout, self._reactor)
            self._stopping.addBoth(lambda _: self._stop())
        result: Deferred[None] = Deferred(lambda _: None)
        self._stopping.addCallback(
            lambda _: None if result.called else result.callback(None)
        )
        return result

    def _stop(self) -> None:
        assert self._over is not None
        self._dispatcher.give_up(self._over)
        self._dispatcher.close()

    def _close(self, reason: AMQPError) -> None:
        self._over = reason
        room, self._room = self._room, deque()
        while room:
            room.popleft().errback(reason)

    # -- what the dispatcher calls: see `DispatcherSink` -------------------------------

    def settled(self, letter: Letter, error: BaseException | None = None) -> None:
        """
        A message is outstanding no longer.
        """
        self.outstanding -= 1
        self.size -= letter.size
        if letter.is_wanted:
            if error is None:
                letter.deferred.callback(None)
            else:
                self.despaired(letter, error)
        while self._room and self.has_room:
            self._room.popleft().callback(None)
        while self._idle and not self.outstanding:
            self._idle.popleft().callback(None)

    def despaired(self, letter: Letter, error: BaseException) -> None:
        """
        A message has failed, though it is outstanding.
        """
        if letter.is_wanted:
            self.failures += 1
            letter.deferred.errback(error)

    def over(self, reason: AMQPError) -> None:
        """
        The service was stopped, or has given up.
        """
        if self._stopping is None:
            self._close(reason)

    def begun(self) -> None:
        """
        The service was started again.
        """
        if self._stopping is None:
            self._over = None


def _wait_in(line: deque[Deferred[None]]) -> Deferred[None]:
    """
    A Deferred at the end of a waiting line, which it leaves when it is cancelled.
    """
    waiting: Deferred[None] = Deferred(line.remove)
    line.append(waiting)
    return waiting
