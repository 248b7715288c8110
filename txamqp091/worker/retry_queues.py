# -*- test-case-name: txamqp091.test.unit.worker.test_retry_queues -*-
"""
The way of a message that failed: delay queues, and the parking queue.

For each delay there is a fanout exchange with a queue of the same name, such as
``orders.retry.30s``.  What waits there expires, and is dead-lettered through the fanout
exchange ``orders.retry`` to the queue that it came from, with the routing key that it
had.  Nobody's memory is involved, and no prefetch slot.

Here are the names, the arguments and the messages; who publishes these, and
acknowledges the originals, is `txamqp091.worker.handler_runner`.
"""

from __future__ import annotations

__all__ = ["BROKER_DELAYS_SINCE", "RetryQueues", "broker_delays"]

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from txamqp091.arguments import classic_queue, quorum_queue
from txamqp091.errors import printable
from txamqp091.message import Delivery, Message
from txamqp091.service import Binding, Exchange, Queue
from txamqp091.wire.properties import Properties
from txamqp091.worker.failure_policy import RETRY_COUNT, retry_count

#: The RabbitMQ whose quorum queues delay by themselves (``x-delayed-retry-type``).
BROKER_DELAYS_SINCE = (4, 3)

#: How much of a text, or traceback, goes into a header: all of them have to fit into
#: one frame.
_TEXT = 500
_TRACEBACK = 2000

# Of the original's headers, those that would do something again: CC and BCC route;
# x-death and its like are the broker's own, and make it see circles where none are.
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
    :ivar delays: the delays, in seconds; none if there are to be no delay queues.
    :ivar parking: the queue for those that are dead; "" if there is none.
    :ivar queue_type: what kind the delay queues and the parking queue are: ``quorum``
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
        What has to be there, besides the queue itself.
        """
        entities: list[Exchange | Queue | Binding] = []
        if self.dead_letter_queue:
            kind = quorum_queue if self.queue_type == "quorum" else classic_queue
            entities.append(Queue(name=self.dead_letter_queue, arguments=kind()))
        return entities + self.delaying()

    def delaying(self) -> list[Exchange | Queue | Binding]:
        """
        What of it delays: nothing of that is needed where the queue itself does.
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
            # What waits here is nowhere else.
            dead_letter_strategy="at-least-once",
            overflow="reject-publish",
        )

    # -- the messages --------------------------------------------------------------

    def retry(self, delivery: Delivery, error: BaseException, delay: float) -> Message:
        """
        What to publish so that a message is delivered again, later.

        :raises UndecodableProperty: when there is no telling what is in the original.
        """
        headers = self._headers(delivery, error)
        headers[RETRY_COUNT] = retry_count(delivery.headers) + 1
        return Message(
            self.delay_name(delay),
            delivery.routing_key,
            delivery.body,
            _carried(delivery, headers),
            mandatory=True,
        )

    def dead_letter(
        self, delivery: Delivery, error: BaseException, tries: int, consumer: str
    ) -> Message:
        """
        What to publish to the parking queue: the original, with the reason.

        :raises UndecodableProperty: as `retry`.
        """
        headers = self._headers(delivery, error)
        headers["x-error-traceback"] = _traceback(error)
        headers["x-error-consumer"] = consumer
        headers["x-error-queue"] = self.queue
        headers["x-error-tries"] = tries
        return Message(
            "",
            self.dead_letter_queue,
            delivery.body,
            _carried(delivery, headers),
            mandatory=True,
        )

    def _headers(self, delivery: Delivery, error: BaseException) -> dict[str, Any]:
        headers = dict(delivery.headers)
        for name in _BROKERS_HEADERS:
            headers.pop(name, None)
        # Of the first time: by now it may come from a delay queue.
        if retry_count(delivery.headers) == 0:
            headers["x-original-exchange"] = delivery.exchange
            headers["x-original-routing-key"] = delivery.routing_key
            properties = delivery.properties
            if properties.user_id is not None:
                headers["x-original-user-id"] = properties.user_id
            if properties.expiration is not None:
                headers["x-original-expiration"] = properties.expiration
        headers["x-error"] = printable(str(error), _TEXT)
        kind = type(error)
        headers["x-error-type"] = printable(f"{kind.__module__}.{kind.__qualname__}")
        return headers


def _carried(delivery: Delivery, headers: dict[str, Any]) -> Properties:
    """
    The original's properties with other headers, and without what the broker would
    act on: it closes the channel over a ``user_id`` that is not ours, and drops what
    has an ``expiration`` before its time.
    """
    return delivery.properties.replace(
        headers=headers, user_id=None, expiration=None, delivery_mode=2
    )


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    if len(text) > _TRACEBACK:
        # Its end is what says most.
        text = "..." + text[3 - _TRACEBACK :]
    return text.encode("utf-8", "replace").decode()
