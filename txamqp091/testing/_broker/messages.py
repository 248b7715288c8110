# -*- test-case-name: txamqp091.test.unit.testing.test_messages -*-
"""
Messages inside the in-memory broker.

A `Message` is what was published, shared by all queues that hold it; a `QueuedMessage`
is one queue's copy.  `Death` is one row of the header ``x-death``, and `dead_letter`
makes the message that takes the place of one that a queue drops.  Which queue drops
what, and when, is in `txamqp091.testing._broker.queues`; where the dead letter goes
from there, in `txamqp091.testing._broker.vhosts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from txamqp091.errors import UndecodableProperty
from txamqp091.testing._broker.arguments import QueueSettings
from txamqp091.testing._broker.behaviour import Behaviour
from txamqp091.testing._broker.refusals import broker_fails, field_type, precondition
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue, Int64

__all__ = [
    "RequeueReason",
    "Death",
    "QueuedMessage",
    "Message",
    "check_numbers",
    "dead_letter",
    "headers_of",
    "is_cycle",
    "message_from",
    "read_property",
    "with_properties",
]

# Ten years in milliseconds: what RabbitMQ's timers take.
_EXPIRATION_MAX = 315_360_000_000

#: Headers that name more routing keys, and whether the consumer gets to see them.
_COPIES = {"CC": True, "BCC": False}


class Message:
    """
    A message that the broker has taken.

    :ivar exchange: where it was published to.
    :ivar routing_key: with which key.
    :ivar routing_keys: that key and those of its headers ``CC`` and ``BCC``.
    :ivar properties: as they came; the broker makes new ones only where it must.
    :ivar ttl: how long it may wait in a queue, in seconds, or None.
    :ivar deaths: what happened to it so far, the latest first.
    :ivar first_death: the queue, the reason and the exchange of the first, or None.
    :ivar delivery_count: how many deliveries have failed in the queues that it was
        dead-lettered from, if the behaviour keeps the count.
    """

    __slots__ = (
        "body",
        "deaths",
        "delivery_count",
        "exchange",
        "first_death",
        "properties",
        "routing_key",
        "routing_keys",
        "ttl",
    )

    def __init__(
        self,
        exchange: str,
        routing_keys: tuple[str, ...],
        properties: Properties,
        body: bytes,
        *,
        ttl: float | None = None,
        deaths: tuple[Death, ...] = (),
        first_death: tuple[str, str, str] | None = None,
        delivery_count: int = 0,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_keys[0]
        self.routing_keys = routing_keys
        self.properties = properties
        self.body = body
        self.ttl = ttl
        self.deaths = deaths
        self.first_death = first_death
        self.delivery_count = delivery_count

    def __repr__(self) -> str:
        return (
            f"<Message to {self.exchange!r} with {self.routing_key!r}, "
            f"{len(self.body)} bytes>"
        )


class RequeueReason(Enum):
    """
    Why a message comes back to its queue.
    """

    #: The client has sent ``basic.nack`` or ``basic.recover``, or has not settled the
    #: delivery in time.
    NACK = "nack"

    #: The client has sent ``basic.reject``.
    REJECT = "reject"

    #: The channel or the connection has ended.
    LOST = "lost"


class QueuedMessage:
    """
    A message in one queue.

    :ivar position: its place among all that the queue ever had.
    :ivar priority: those with a higher one go first.
    :ivar expires: when it is dropped, by the broker's clock, or None.
    :ivar redelivered: whether it has been delivered, or may have been.
    :ivar delivery_count: how many deliveries have failed, here and, if the behaviour
        keeps the count, in the queues that the message was dead-lettered from.
    :ivar acquired_count: how often it came back to this queue, for whatever reason.
    """

    __slots__ = (
        "acquired_count",
        "delivery_count",
        "expires",
        "message",
        "position",
        "priority",
        "redelivered",
    )

    def __init__(
        self,
        message: Message,
        position: int,
        priority: int = 0,
        expires: float | None = None,
    ) -> None:
        self.message = message
        self.position = position
        self.priority = priority
        self.expires = expires
        self.redelivered = message.delivery_count > 0
        self.delivery_count = message.delivery_count
        self.acquired_count = 0

    def __repr__(self) -> str:
        return f"<QueuedMessage {self.position}: {self.message!r}>"

    def __lt__(self, other: QueuedMessage) -> bool:
        """
        Whether it is to be delivered before the other one.
        """
        if self.priority != other.priority:
            return self.priority > other.priority
        return self.position < other.position


def headers_of(properties: Properties) -> Mapping[str, FieldValue]:
    """
    The headers, or none if they cannot be read: a bad table is the consumer's concern,
    not the broker's.
    """
    try:
        return properties.headers or {}
    except UndecodableProperty:
        return {}


def read_property(properties: Properties, name: str) -> Any:
    """
    A property, or None if it cannot be read.
    """
    try:
        return getattr(properties, name)
    except UndecodableProperty:
        return None


def with_properties(properties: Properties, **changes: Any) -> Properties:
    """
    The same properties but for some; the same object, if not all can be read: a message
    that is malformed stays as it is.
    """
    try:
        _ = properties.headers
        if properties.delivery_mode not in (None, 1, 2):
            # It cannot be encoded again.
            changes["delivery_mode"] = None
        return properties.replace(**changes)
    except UndecodableProperty:
        return properties


def check_numbers(value: FieldValue) -> None:
    """
    See whether all floating-point numbers in a value are numbers: RabbitMQ fails on
    those that are not, or are infinite.

    :raises Refused: 541, one is not.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise broker_fails()
    if isinstance(value, Mapping):
        for each in value.values():
            check_numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            check_numbers(each)


def message_from(
    exchange: str, routing_key: str, properties: Properties, body: bytes
) -> Message:
    """
    What a client publishes, as the broker takes it.

    :raises Refused: 406, its properties make no sense; or see `check_numbers`.
    """
    headers = headers_of(properties)
    check_numbers(headers)
    ttl = _expiration(properties)
    keys = [routing_key]
    for name in _COPIES:
        if name in headers:
            keys += _copies(name, headers[name])
    if "BCC" in headers:
        kept = {name: value for name, value in headers.items() if name != "BCC"}
        properties = with_properties(properties, headers=kept)
    return Message(exchange, tuple(keys), properties, body, ttl=ttl)


def _copies(name: str, value: FieldValue) -> list[str]:
    if not isinstance(value, list | tuple):
        problem = f'unacceptable_type_in_header,"{name}",{field_type(value)}'
        raise precondition(f"invalid message: {{{problem}}}")
    return [each for each in value if isinstance(each, str)]


def _expiration(properties: Properties) -> float | None:
    """
    :returns: the message's own time to live, in seconds.
    """
    try:
        text = properties.expiration
    except UndecodableProperty:
        return None
    if text is None:
        return None
    digits = text.lstrip("+-")
    number = len(digits) - len(digits.lstrip("0123456789"))
    if len(text) - len(digits) > 1 or not number:
        problem = "no_integer"
    elif digits[number:]:
        problem = f'{{leftover_string,"{digits[number:]}"}}'
    elif int(text) < 0:
        problem = f"{{value_negative,{int(text)}}}"
    elif int(text) > _EXPIRATION_MAX:
        problem = f"{{value_too_large,{int(text)}}}"
    else:
        return int(text) / 1000
    raise precondition(f"invalid expiration '{text}': {problem}")


@dataclass(frozen=True)
class Death:
    """
    That a message was dropped from one queue, for one reason, so many times.

    :ivar reason: ``rejected``, ``expired``, ``maxlen`` or ``delivery_limit``.
    :ivar time: when it was the first time, in seconds since 1970.
    :ivar exchange: where the message had been published to, then.
    :ivar routing_keys: and with which keys, those in its header ``CC`` included.
    :ivar expiration: the time to live that the message had of its own, or "".
    """

    queue: str
    reason: str
    count: int
    time: int
    exchange: str
    routing_keys: tuple[str, ...]
    expiration: str = ""

    def row(self) -> dict[str, FieldValue]:
        """
        It as a row of the header ``x-death``.
        """
        row: dict[str, FieldValue] = {
            "count": Int64(self.count),
            "reason": self.reason,
            "queue": self.queue,
            "time": datetime.fromtimestamp(self.time, UTC),
            "exchange": self.exchange,
            "routing-keys": list(self.routing_keys),
        }
        if self.expiration:
            row["original-expiration"] = self.expiration
        return row


def dead_letter(
    entry: QueuedMessage,
    queue: str,
    reason: str,
    settings: QueueSettings,
    now: float,
    behaviour: Behaviour,
) -> Message:
    """
    The message that a queue publishes in the place of one that it drops.

    :param now: in seconds since 1970.
    """
    message = entry.message
    assert settings.dead_letter_exchange is not None
    headers = dict(headers_of(message.properties))
    deaths = message.deaths
    if not deaths and not behaviour.deaths_apart:
        deaths = _deaths_in(headers)
    deaths = _add(deaths, message, queue, reason, now)
    first = message.first_death or (queue, reason, message.exchange)
    if behaviour.deaths_apart or message.deaths or "x-death" not in headers:
        _describe(headers, "first", first)
    headers["x-death"] = [each.row() for each in deaths]
    if behaviour.deaths_apart:
        _describe(headers, "last", (queue, reason, message.exchange))
    keys = message.routing_keys
    if settings.dead_letter_key is not None:
        keys = (settings.dead_letter_key,)
        if not behaviour.keeps_copies:
            headers.pop("CC", None)
    return Message(
        settings.dead_letter_exchange,
        keys,
        with_properties(message.properties, headers=headers, expiration=None),
        message.body,
        deaths=deaths,
        first_death=first,
        delivery_count=entry.delivery_count if behaviour.keeps_delivery_count else 0,
    )


def _describe(
    headers: dict[str, FieldValue], which: str, death: tuple[str, str, str]
) -> None:
    queue, reason, exchange = death
    headers[f"x-{which}-death-queue"] = queue
    headers[f"x-{which}-death-reason"] = reason
    headers[f"x-{which}-death-exchange"] = exchange


def _add(
    deaths: tuple[Death, ...], message: Message, queue: str, reason: str, now: float
) -> tuple[Death, ...]:
    """
    The deaths with one more, which comes first.
    """
    before = tuple(
        each for each in deaths if (each.queue, each.reason) != (queue, reason)
    )
    for each in deaths:
        if each not in before:
            return (replace(each, count=each.count + 1), *before)
    copies = headers_of(message.properties).get("CC")
    keys = (message.routing_key, *map(str, copies if isinstance(copies, list) else ()))
    expiration = "" if message.ttl is None else message.properties.expiration or ""
    death = Death(queue, reason, 1, int(now), message.exchange, keys, expiration)
    return (death, *before)


def _deaths_in(headers: Mapping[str, FieldValue]) -> tuple[Death, ...]:
    """
    The deaths that a message's headers tell of; rows that make no sense are left out.
    """
    rows = headers.get("x-death")
    found = []
    for row in rows if isinstance(rows, list | tuple) else ():
        if not isinstance(row, Mapping):
            continue
        time, keys, count = row.get("time"), row.get("routing-keys"), row.get("count")
        found.append(
            Death(
                str(row.get("queue", "")),
                str(row.get("reason", "")),
                count if isinstance(count, int) else 1,
                int(time.timestamp()) if isinstance(time, datetime) else 0,
                str(row.get("exchange", "")),
                tuple(map(str, keys)) if isinstance(keys, list | tuple) else (),
                str(row.get("original-expiration", "")),
            )
        )
    return tuple(found)


def is_cycle(deaths: Sequence[Death], queue: str) -> bool:
    """
    Whether a message goes round in circles by itself: it has been in this queue
    before, and no client has rejected it since.
    """
    for death in deaths:
        if death.reason == "rejected":
            return False
        if death.queue == queue:
            return True
    return False
