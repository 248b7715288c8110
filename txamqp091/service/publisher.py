# -*- test-case-name: txamqp091.test.unit.service.test_publisher -*-
"""
Publishing with confirms, over all connections of a service: `Publisher`.

Here a message is checked and gets its ``message_id``.  `txamqp091.service.outbox` sends
it, and sends it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal
from uuid import uuid4

from twisted.internet.defer import Deferred, fail

from txamqp091._channel_publisher import DEFAULT_WINDOW
from txamqp091._observer import OneShot
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    PublisherFull,
    UndecodableProperty,
)
from txamqp091.message import Body, body_bytes
from txamqp091.service.client import AMQPClientService
from txamqp091.service.delay_queues import DelayQueues, delay_seconds
from txamqp091.service.entities import Binding
from txamqp091.service.outbox import Outbox, PendingPublish
from txamqp091.service.retry import RetryPolicy
from txamqp091.wire.properties import EMPTY, Properties, around_message_id
from txamqp091.wire.spec import BasicPublish
from txamqp091.wire.types import OCTETS

#: When a nacked message is sent again, and how often in all.
NACKED_AGAIN = RetryPolicy(initial_delay=0.1, max_delay=2.0, max_attempts=12)

#: How many pairs of exchange and routing key are remembered as valid.
_ROUTES = 1024


class Publisher:
    """
    Publishes with confirms, also over the loss of a connection::

        publisher = Publisher(service)
        await publisher.publish("orders", "new", b"...", mandatory=True)

    A message waits while it cannot be sent: while there is no connection, while the
    broker blocks, and while too many messages are unconfirmed.  A message without a
    confirm when its channel ends is sent again, or fails; ``on_loss`` decides.  A
    nacked message is sent again on another channel.  The number of waiting messages is
    limited; the next one fails at once.

    Messages are sent again in their old order, before all that were not sent yet.  Each
    has a header ``x-republished``, and the ``message_id`` that it had the first time.
    Only a nacked message may be overtaken by others.

    The publisher has a channel of its own.  A service that is stopped waits for the
    outstanding messages, which fail if that takes too long.
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
        encode: Callable[[Any], bytes] | Literal["json"] | None = None,
    ) -> None:
        """
        :param on_loss: what happens to a message that was sent and is not confirmed
            when its channel ends: it is sent again, and may arrive twice; or its
            Deferred fails, and it may have arrived.
        :param limit: how many messages may be outstanding.
        :param size_limit: how many bytes they may have together; the message that
            exceeds this is the last one.
        :param window: how many messages may be unconfirmed on a channel.
        :param blocked_timeout: how many seconds a message waits while the broker
            blocks; None is for ever.
        :param nacked_again: when a nacked message is sent again; its ``max_attempts``
            includes the first attempt, so 1 is never again.
        :param encode: makes the bytes of each body that is not ``bytes``: ``"json"``,
            which also sets the property ``content_type``, or a function.
        :raises ValueError: a limit is less than 1, or ``on_loss`` or ``encode`` is
            unknown.
        """
        if on_loss not in ("resend", "fail"):
            raise ValueError(f"on_loss is {on_loss!r}, not 'resend' or 'fail'")
        if limit < 1 or size_limit < 1 or window < 1:
            raise ValueError("a limit is less than 1")
        if isinstance(encode, str) and encode != "json":
            raise ValueError(f"encode is {encode!r}, not 'json' or a function")
        self._encode_body = _json if encode == "json" else encode
        self._content_type = "application/json" if encode == "json" else None
        self._reactor = service.reactor
        self._adds_ids = on_loss == "resend"
        self._name = uuid4().hex
        self._number = 0
        # The last properties, and their encoding; if a message_id is added, the part of
        # it before that, and the part after that.
        self._properties: Properties | None = None
        self._adds_id = False
        self._encoded = self._tail = b""
        self._routes: set[tuple[str, str]] = set()
        self._stopping: Deferred[None] | None = None
        self._service = service
        self._limit = limit
        self._size_limit = size_limit
        self._delay_queues: DelayQueues | None = None
        # Where delayed messages can go already; and those that wait to be declared.
        self._destinations: set[Binding] = set()
        self._declaring: dict[Binding, OneShot[None]] = {}
        self._held = 0
        self._held_size = 0
        self._outbox = Outbox(
            service,
            limit=limit,
            size_limit=size_limit,
            resends=on_loss == "resend",
            window=window,
            blocked_timeout=blocked_timeout,
            policy=nacked_again,
        )

    def __repr__(self) -> str:
        state = "open" if self._outbox.closed_for is None else "closed"
        return f"<Publisher, {self.outstanding} messages outstanding, {state}>"

    # -- state -------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """
        How many messages wait to be sent, or for an answer.
        """
        return self._outbox.outstanding

    @property
    def size(self) -> int:
        """
        The bytes of the bodies and properties of outstanding messages.
        """
        return self._outbox.size

    @property
    def has_room(self) -> bool:
        """
        Whether another message is taken.
        """
        return self._outbox.has_room

    @property
    def unconfirmed(self) -> int:
        """
        How many messages were sent, and have no answer.
        """
        return self._outbox.unconfirmed

    @property
    def confirmed(self) -> int:
        """
        How many messages the broker has confirmed.
        """
        return self._outbox.confirmed_count

    @property
    def nacked(self) -> int:
        """
        How often the broker has nacked a message.
        """
        return self._outbox.nacked_count

    @property
    def returned(self) -> int:
        """
        How many mandatory messages came back, since no queue took them.
        """
        return self._outbox.returned_count

    @property
    def republished(self) -> int:
        """
        How often a message was sent again.
        """
        return self._outbox.republished_count

    @property
    def failures(self) -> int:
        """
        How many messages have failed.
        """
        return self._outbox.failed_count

    # -- publishing --------------------------------------------------------------------

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        properties: Properties | None = None,
        mandatory: bool = False,
        *,
        delay: float = 0.0,
    ) -> Deferred[None]:
        """
        Publish a message.

        :param body: bytes or text; or, if the publisher has an encoder, what that
            makes bytes of.
        :param mandatory: fail if no queue takes it.  If it is not mandatory, the broker
            confirms it then, too.  A delayed message is checked when it is published:
            its exchange, or for the default exchange its queue, has to exist.
        :param delay: how many seconds the broker holds the message before it routes it,
            rounded up to whole seconds; at most
            `txamqp091.service.delay_queues.MAX_DELAY`, which is eight years.  The
            message keeps its exchange's routing and its routing key.  A delayed message
            cannot be taken back.
        :returns: fires with None once the broker has taken the message.  Fails with

            - `Returned`, if it is mandatory and there is no queue for it;
            - `Nacked`, if the broker could not keep it, as often as it was sent;
            - `ConnectionBlocked`, when the broker has blocked for too long;
            - `PublisherFull`, at once, when no more messages are kept;
            - the reason, such as `NotFound`, when the broker closes a channel for it;
            - the reason, when this or the service is stopped, or that has given up;
            - `EncodeError`, ``TypeError`` or ``ValueError``, when it cannot be sent at
              all;
            - the reason, such as `NotFound`, when a delay queue or the binding to the
              destination cannot be declared;
            - with ``on_loss="fail"``, the reason, when the channel or the connection
              ends after it has left.

            Cancelling it keeps it from being sent, or from being sent again.
        """
        if self._encode_body is not None and not isinstance(body, bytes):
            try:
                body, properties = self._encoded_body(body, properties)
            except Exception:
                return fail()
        if delay:
            delayed = self._delayed(exchange, routing_key, body, properties, delay)
            return Deferred.fromCoroutine(delayed)
        try:
            self._outbox.check()
            body = body_bytes(body)
            self._check_route(exchange, routing_key, mandatory)
            self._number = number = self._number + 1
            if properties is None:
                properties = EMPTY
            if properties is not self._properties:
                self._encode(properties)
            message_id = None
            encoded = self._encoded
            if self._adds_id:
                message_id = f"{self._name}-{number}"
                encoded = b"".join(
                    (encoded, OCTETS[len(message_id)], message_id.encode(), self._tail)
                )
            message = PendingPublish(
                self._outbox,
                number,
                exchange,
                routing_key,
                body,
                properties,
                encoded,
                message_id,
                mandatory,
            )
            if not self._outbox.has_room:
                raise PublisherFull(
                    f"{self.outstanding} messages, {self.size} bytes, wait for the "
                    "broker: wait for when_room()"
                )
        except (AMQPError, TypeError) as error:
            return fail(error)
        self._outbox.add(message)
        return message.deferred

    def _encoded_body(
        self, body: Any, properties: Properties | None
    ) -> tuple[bytes, Properties | None]:
        """
        Encode a body.
        """
        assert self._encode_body is not None
        encoded = self._encode_body(body)
        if not isinstance(encoded, bytes):
            kind = type(encoded).__name__
            raise TypeError(f"the encoder returned {kind}, not bytes")
        if self._content_type is not None:
            properties = self._checked(EMPTY if properties is None else properties)
            if properties.content_type is None:
                properties = properties.replace(content_type=self._content_type)
        return encoded, properties

    async def _delayed(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None,
        delay: float,
    ) -> None:
        """
        Publish to the delay queues, after they were declared.
        """
        seconds = delay_seconds(delay)
        self._outbox.check()
        body = body_bytes(body)
        self._check_route(exchange, routing_key, True)
        properties = self._checked(EMPTY if properties is None else properties)
        if self._delay_queues is None:
            self._delay_queues = DelayQueues()
        queues = self._delay_queues
        headers = queues.headers(
            properties.headers or {}, exchange, routing_key, seconds
        )
        destination = queues.destination(exchange, routing_key)
        if destination not in self._destinations:
            await self._hold(queues, destination, len(body))
        await self.publish(
            queues.entry(seconds),
            routing_key,
            body,
            properties.replace(headers=headers),
            mandatory=True,
        )

    async def _hold(self, queues: DelayQueues, destination: Binding, size: int) -> None:
        """
        Declare the delay queues and the binding to a destination.  The messages that
        wait for that are limited as the outstanding ones are.
        """
        if self._held >= self._limit or self._held_size >= self._size_limit:
            raise PublisherFull(
                f"{self._held} delayed messages, {self._held_size} bytes, wait for the "
                "delay queues to be declared"
            )
        self._held += 1
        self._held_size += size
        try:
            declared = self._declaring.get(destination)
            if declared is None:
                declared = self._declaring[destination] = OneShot()
                Deferred.fromCoroutine(self._declare(queues, destination))
            await declared.when_fired()
        finally:
            self._held -= 1
            self._held_size -= size

    async def _declare(self, queues: DelayQueues, destination: Binding) -> None:
        """
        Declare the delay queues and the binding for all messages that wait for them.
        """
        declared = self._declaring[destination]
        try:
            outcomes = await self._service.declare(*queues.entities(), destination)
            error = next((each.error for each in outcomes if each.error), None)
            if error is not None:
                # A missing destination must not keep the service from being ready.
                self._service.delete(destination).addErrback(lambda _: None)
                raise error.with_traceback(None)
        except BaseException as error:
            del self._declaring[destination]
            declared.fail(error)
        else:
            del self._declaring[destination]
            self._destinations.add(destination)
            declared.fire(None)

    def _check_route(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        route = exchange, routing_key
        if route not in self._routes:
            BasicPublish(0, exchange, routing_key, mandatory, False).encode()
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes.add(route)

    def _checked(self, properties: Properties) -> Properties:
        if not isinstance(properties, Properties):
            kind = type(properties).__name__
            raise TypeError(f"message properties are Properties, not {kind}")
        return properties

    def _encode(self, properties: Properties) -> None:
        """
        Encode properties, for this message and the next ones that have the same.
        """
        self._properties = None
        self._checked(properties)
        self._adds_id = False
        if self._adds_ids:
            try:
                if properties.message_id is None:
                    self._encoded, self._tail = around_message_id(properties)
                    self._adds_id = True
            except UndecodableProperty:
                pass  # it came from elsewhere, and goes as it came
        if not self._adds_id:
            self._encoded = properties.encoded
        self._properties = properties

    def when_room(self) -> Deferred[None]:
        """
        :returns: fires when another message is taken, which may be at once.  Those who
            wait are told one after the other, while there is room.  Fails with the
            reason when nothing is taken any more.  Cancelling it ends the waiting.
        """
        try:
            self._outbox.check()
        except AMQPError as error:
            return fail(error)
        return self._outbox.when_room()

    def when_idle(self) -> Deferred[None]:
        """
        :returns: fires when nothing is outstanding, which may be at once.  Cancelling
            it ends the waiting.
        """
        return self._outbox.when_idle()

    def stop(self, timeout: float = 30.0) -> Deferred[None]:
        """
        Take no more messages, and wait for the answers.

        :param timeout: how many seconds to wait.  What is outstanding then has failed.
        :returns: fires when there are none outstanding; it does not fail.  It may be
            called again; cancelling it ends the waiting only.
        """
        if self._stopping is None:
            reason = ConnectionClosed("the publisher was stopped", by_us=True)
            self._outbox.stop(reason)
            self._stopping = self.when_idle().addTimeout(timeout, self._reactor)
            self._stopping.addBoth(lambda _: self._outbox.close())
        result: Deferred[None] = Deferred(lambda _: None)
        self._stopping.addCallback(
            lambda _: None if result.called else result.callback(None)
        )
        return result


def _json(body: Any) -> bytes:
    return json.dumps(body, allow_nan=False).encode()
