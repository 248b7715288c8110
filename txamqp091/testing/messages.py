# -*- test-case-name: txamqp091.test.test_broker_queues -*-
"""
Messages inside the in-memory broker.

A `Message` is what was published, shared by all queues that hold it; an `Entry` is one
queue's copy.  How messages die is in `txamqp091.testing.deaths`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from txamqp091.errors import UndecodableProperty
from txamqp091.testing.refusals import field_type, precondition
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing.deaths import Death

__all__ = [
    "Comeback",
    "Entry",
    "Message",
    "headers_of",
    "message_from",
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
    :ivar returned: whether it came back to one of the queues that it was in before.
    :ivar rejected: whether a client failed on it in the last of those.
    """

    __slots__ = (
        "body",
        "deaths",
        "exchange",
        "first_death",
        "properties",
        "rejected",
        "returned",
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
        returned: bool = False,
        rejected: bool = False,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_keys[0]
        self.routing_keys = routing_keys
        self.properties = properties
        self.body = body
        self.ttl = ttl
        self.deaths = deaths
        self.first_death = first_death
        self.returned = returned
        self.rejected = rejected

    def __repr__(self) -> str:
        return (
            f"<Message to {self.exchange!r} with {self.routing_key!r}, "
            f"{len(self.body)} bytes>"
        )


class Comeback(Enum):
    """
    Why a message comes back to its queue.
    """

    #: A client has handed it back.
    NACKED = "nacked"

    #: A client has failed on it.
    REJECTED = "rejected"

    #: The client has gone.
    LOST = "lost"


class Entry:
    """
    A message in one queue.

    :ivar position: its place among all that the queue ever had.
    :ivar priority: those with a higher one go first.
    :ivar expires: when it is dropped, by the broker's clock, or None.
    :ivar redelivered: whether it has been delivered, or may have been.
    :ivar failed: whether a client has said so, and that nobody shall get it.
    :ivar failures: how often that went wrong, as a quorum queue counts.
    :ivar returns: how often it came back, for whatever reason.
    """

    __slots__ = (
        "expires",
        "failed",
        "failures",
        "message",
        "position",
        "priority",
        "redelivered",
        "returns",
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
        self.redelivered = message.returned or message.rejected
        self.failed = False
        self.failures = 0
        self.returns = 0

    def __repr__(self) -> str:
        return f"<Entry {self.position}: {self.message!r}>"

    def __lt__(self, other: Entry) -> bool:
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


def with_properties(properties: Properties, **changes: Any) -> Properties:
    """
    The same properties but for some; the same object, if not all can be read: a message
    that is malformed stays as it is.
    """
    try:
        _ = properties.headers
        return properties.replace(**changes)
    except UndecodableProperty:
        return properties


def message_from(
    exchange: str, routing_key: str, properties: Properties, body: bytes
) -> Message:
    """
    What a client publishes, as the broker takes it.

    :raises Refused: 406, if it cannot live by its properties.
    """
    ttl = _expiration(properties)
    keys = [routing_key]
    headers = headers_of(properties)
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
