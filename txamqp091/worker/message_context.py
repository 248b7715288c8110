# -*- test-case-name: txamqp091.test.unit.worker.test_message_context -*-
"""
Which message is being handled: names a message in log lines.

`log_fields` returns the fields of the message whose handler runs in the present
context: an observer of the log adds them to whatever the handler logs.  Coroutines and
threads have the context of their handler.
"""

from __future__ import annotations

__all__ = ["current", "delivery_fields", "identity", "log_fields"]

from contextvars import ContextVar
from typing import Any, Protocol

from txamqp091.errors import UndecodableProperty, printable
from txamqp091.message import Delivery


class Source(Protocol):
    """
    Where a delivery came from.

    :ivar queue: the queue.
    :ivar consumer: what logs call the consumer.
    """

    queue: str

    @property
    def consumer(self) -> str: ...


#: The delivery whose handler runs, and where it came from; or None.
current: ContextVar[tuple[Source, Delivery] | None] = ContextVar(
    "txamqp091_handled", default=None
)


def log_fields() -> dict[str, Any]:
    """
    The fields that name the message whose handler runs in this context: ``queue``,
    ``consumer``, ``delivery_tag``, ``routing_key``, and, if the message has them,
    ``message_id`` and ``correlation_id``.  Empty if no handler runs.
    """
    handled = current.get()
    if handled is None:
        return {}
    source, delivery = handled
    return {
        "queue": printable(source.queue),
        "consumer": source.consumer,
        **delivery_fields(delivery),
    }


def delivery_fields(delivery: Delivery) -> dict[str, Any]:
    """
    The fields that name a delivery.
    """
    fields: dict[str, Any] = {
        "delivery_tag": delivery.delivery_tag,
        "routing_key": printable(delivery.routing_key),
    }
    for name in ("message_id", "correlation_id"):
        try:
            value = getattr(delivery.properties, name)
        except UndecodableProperty:
            continue
        if value is not None:
            fields[name] = printable(value)
    return fields


def identity(delivery: Delivery) -> str:
    """
    Names a delivery in the text of a log line.  The body is not shown.
    """
    try:
        message_id = delivery.properties.message_id
    except UndecodableProperty:
        name = "unreadable message-id"
    else:
        name = "no message-id"
        if message_id is not None:
            name = f"message-id {printable(repr(message_id))}"
    return (
        f"delivery tag {delivery.delivery_tag}, {name}, "
        f"exchange {printable(repr(delivery.exchange))}, "
        f"routing key {printable(repr(delivery.routing_key))}"
    )
