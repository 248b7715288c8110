# -*- test-case-name: txamqp091.test.unit.worker.test_retry_queues -*-
"""
Where failed messages go: delay queues, and the dead-letter queue.

For each delay there is a fanout exchange with a queue of the same name, such as
``orders.retry.30s``.  A message that waits there expires, and the broker dead-letters
it through the fanout exchange ``orders.retry`` to the queue that it came from, with the
routing key that it had.  Waiting messages use no client memory and no prefetch slot.

`RetryQueues` knows the names, the arguments and the messages.
`txamqp091.worker.handler_runner` publishes these messages, and acknowledges the
originals.
"""

from __future__ import annotations

__all__ = ["BROKER_DELAYS_SINCE", "RetryQueues", "broker_delays", "error_text"]

import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from txamqp091.arguments import classic_queue, quorum_queue
from txamqp091.errors import UndecodableProperty, printable
from txamqp091.message import Delivery, Message
from txamqp091.service import Binding, Exchange, Queue
from txamqp091.service.delay_queues import DelayQueues, delay_seconds
from txamqp091.wire.properties import Properties
from txamqp091.worker.failure_policy import RETRY_COUNT, retry_count

#: The RabbitMQ whose quorum queues delay by themselves (``x-delayed-retry-type``).
BROKER_DELAYS_SINCE = (4, 3)

#: How many characters of a text, or of a traceback, go into a header: all headers have
#: to fit into one frame.
_TEXT = 500
_TRACEBACK = 2000

#: How many bytes of properties that cannot be decoded go into a header.
_RAW = 2000

# The headers of the original that are left out.  CC and BCC would route again.  The
# broker writes x-death and the like, and would detect cycles where there are none.
_BROKERS_HEADERS = (
    "CC",
    "BCC",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
    "x-acquired-count",
)


def broker_delays(server_properties: Mapping[str, Any]) -> bool:
    """
    Whether a broker's quorum queues can delay by themselves what was rejected.
    """
    product = server_properties.get("product")
    version = server_properties.get("version")
    if product != "RabbitMQ" or not isinstance(version, str):
        return False
    try:
        major, minor = (int(each) for each in version.split(".")[:2])
    except ValueError:
        return False
    return (major, minor) >= BROKER_DELAYS_SINCE


@dataclass(frozen=True, kw_only=True)
class RetryQueues:
    """
    Where a consumer's failed messages go.

    :ivar queue: the queue that they come from, and go back to.
    :ivar delays: the delays, in seconds; empty if no delay queues are needed.
    :ivar dead_letter_queue: the queue for dead messages; "" if there is none.
    :ivar queue_type: the type of the delay queues and the dead-letter queue: ``quorum``
        or ``classic``.
    """

    queue: str
    delays: tuple[float, ...] = ()
    dead_letter_queue: str = ""
    queue_type: str = "quorum"

    @property
    def back(self) -> str:
        """
        The exchange that leads back.
        """
        return f"{self.queue}.retry"

    def delay_name(self, delay: float) -> str:
        """
        The name of the exchange and the queue for a delay.
        """
        milliseconds = round(delay * 1000)
        if milliseconds % 1000:
            return f"{self.back}.{milliseconds}ms"
        return f"{self.back}.{milliseconds // 1000}s"

    def entities(self) -> list[Exchange | Queue | Binding]:
        """
        What has to be declared, besides the queue itself.
        """
        entities: list[Exchange | Queue | Binding] = []
        if self.dead_letter_queue:
            kind = quorum_queue if self.queue_type == "quorum" else classic_queue
            entities.append(Queue(name=self.dead_letter_queue, arguments=kind()))
        return entities + self.delaying()

    def delaying(self) -> list[Exchange | Queue | Binding]:
        """
        The delay queues with their exchanges: the part of `entities` that is not needed
        where the broker delays.
        """
        entities: list[Exchange | Queue | Binding] = []
        if not self.delays:
            return entities
        entities.append(Exchange(name=self.back, type="fanout"))
        entities.append(Binding(source=self.back, queue=self.queue))
        for delay in dict.fromkeys(self.delays):
            name = self.delay_name(delay)
            entities.append(Exchange(name=name, type="fanout"))
            entities.append(Queue(name=name, arguments=self._delaying(delay)))
            entities.append(Binding(source=name, queue=name))
        return entities

    def _delaying(self, delay: float) -> dict[str, Any]:
        if self.queue_type == "classic":
            return classic_queue(message_ttl=delay, dead_letter_exchange=self.back)
        return quorum_queue(
            message_ttl=delay,
            dead_letter_exchange=self.back,
            # No other queue has the message.
            dead_letter_strategy="at-least-once",
            overflow="reject-publish",
        )

    # -- the messages --------------------------------------------------------------

    def retries(self, delivery: Delivery) -> int:
        """
        How often a message has been sent through a delay queue since it was published,
        or since it was moved back after it was dead.

        :raises UndecodableProperty: the headers cannot be decoded.
        """
        headers = delivery.headers
        if _was_dead_lettered(headers, self.queue):
            return 0
        return retry_count(headers)

    def retry(self, delivery: Delivery, error: BaseException, delay: float) -> Message:
        """
        The message to publish so that the broker delivers the original again, later.

        :raises UndecodableProperty: a property of the original cannot be decoded.
        """
        retries = self.retries(delivery)
        headers = self._headers(delivery, error, first=not retries)
        headers[RETRY_COUNT] = retries + 1
        return Message(
            self.delay_name(delay),
            delivery.routing_key,
            delivery.body,
            _carried(delivery, headers),
            mandatory=True,
        )

    def delay(self, delivery: Delivery, error: BaseException, delay: float) -> Message:
        """
        The message to publish to the delay queues of the virtual host, so that the
        broker delivers the original again after any delay.

        :raises UndecodableProperty: a property of the original cannot be decoded.
        """
        message = self.retry(delivery, error, delay)
        seconds = max(delay_seconds(delay), 1)
        queues = DelayQueues()
        properties = message.properties
        headers = queues.headers(properties.headers or {}, "", self.queue, seconds)
        return Message(
            queues.entry(seconds),
            delivery.routing_key,
            delivery.body,
            properties.replace(headers=headers),
            mandatory=True,
        )

    def dead_letter(
        self,
        delivery: Delivery,
        error: BaseException,
        tries: int,
        consumer: str,
        plain: bool = False,
    ) -> Message:
        """
        The message to publish to the dead-letter queue: the original, with the reason.

        The properties of an original that cannot be decoded are in the header
        ``x-original-properties``, as they came.

        :param plain: leave out the headers of the original, which the broker or the
            frame size refuses.
        """
        ours = {
            "x-error-traceback": _traceback(error),
            "x-error-consumer": consumer,
            "x-error-queue": self.queue,
            "x-error-tries": tries,
        }
        try:
            if plain:
                properties = self._plain(delivery, error, ours)
            else:
                first = not retry_count(delivery.headers)
                headers = self._headers(delivery, error, first=first)
                # Whoever moves the message back wants it to be retried again.
                headers.pop(RETRY_COUNT, None)
                properties = _carried(delivery, headers | ours)
        except UndecodableProperty:
            properties = self._plain(delivery, error, ours)
        return Message(
            "", self.dead_letter_queue, delivery.body, properties, mandatory=True
        )

    def _headers(
        self, delivery: Delivery, error: BaseException, first: bool
    ) -> dict[str, Any]:
        headers = dict(delivery.headers)
        for name in _BROKERS_HEADERS:
            headers.pop(name, None)
        # Later it comes from a delay queue, or from the dead-letter queue.
        if first and "x-error-tries" not in headers:
            headers |= _origin(delivery)
            properties = delivery.properties
            if properties.user_id is not None:
                headers["x-original-user-id"] = properties.user_id
            if properties.expiration is not None:
                headers["x-original-expiration"] = properties.expiration
        return headers | _described(error)

    def _plain(
        self, delivery: Delivery, error: BaseException, ours: dict[str, Any]
    ) -> Properties:
        """
        Properties for the dead-letter queue, where those of the original cannot be
        decoded, or do not fit.
        """
        headers = _origin(delivery) | _described(error) | ours
        original = delivery.properties
        kept: dict[str, Any] = {}
        for name in ("content_type", "content_encoding", "correlation_id", "message_id",
                     "timestamp", "type", "app_id"):  # fmt: skip
            with suppress(UndecodableProperty):
                kept[name] = getattr(original, name)
        headers["x-original-properties"] = original.encoded[:_RAW]
        return Properties(headers=headers, delivery_mode=2, **kept)


def _was_dead_lettered(headers: Mapping[str, Any], queue: str) -> bool:
    """
    Whether a queue has dead-lettered a message since it was published: the last message
    that a delay queue got has no ``x-death``.
    """
    deaths = headers.get("x-death")
    return isinstance(deaths, list) and any(
        isinstance(each, Mapping)
        and each.get("queue") == queue
        and each.get("reason") in ("rejected", "delivery_limit")
        for each in deaths
    )


def _origin(delivery: Delivery) -> dict[str, Any]:
    return {
        "x-original-exchange": _utf8(delivery.exchange),
        "x-original-routing-key": _utf8(delivery.routing_key),
    }


def _utf8(text: str) -> str:
    """
    A name that the broker need not have checked, as a header can carry it.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _described(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    return {
        "x-error": printable(error_text(error), _TEXT),
        "x-error-type": printable(f"{kind.__module__}.{kind.__qualname__}"),
    }


def _carried(delivery: Delivery, headers: dict[str, Any]) -> Properties:
    """
    The properties of the original with other headers, and without those that the broker
    would act on: it closes the channel for a ``user_id`` that is not ours, and drops a
    message with an ``expiration`` before its time.
    """
    return delivery.properties.replace(
        headers=headers, user_id=None, expiration=None, delivery_mode=2
    )


def error_text(error: BaseException) -> str:
    """
    The text of an exception of user code, whose ``__str__`` may fail.
    """
    try:
        return str(error)
    except BaseException:
        return "the error has no text: its __str__ fails"


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    if len(text) > _TRACEBACK:
        # The end says most.
        text = "..." + text[3 - _TRACEBACK :]
    return text.encode("utf-8", "replace").decode()
