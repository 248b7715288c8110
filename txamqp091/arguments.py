# -*- test-case-name: txamqp091.test.unit.client.test_arguments -*-
"""
What RabbitMQ takes as ``arguments`` of queues, exchanges and consumers.

Each function gives a plain dict for one kind of thing, with the names that the
broker knows and the types that it wants::

    channel.queue_declare("orders", arguments=quorum_queue(delivery_limit=5))
    channel.consume("log", arguments=stream_consumer("first"))

The keywords are RabbitMQ's names without the ``x-``.  What a kind of queue does not
have is not among its keywords, and a value, or a combination, that the broker refuses,
or accepts and ignores, is a ``ValueError`` that names the keyword.  A number in
parentheses is the RabbitMQ that a keyword came with: older ones ignore it.  What is
not here (a plugin's, or the other half of what a policy says) is added with ``|``.

**All times are in seconds**, as number or ``timedelta``, though the broker counts
milliseconds.  All sizes are in octets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Literal, TypeAlias

from txamqp091.wire.types import FieldValue

__all__ = [
    "Offset",
    "Seconds",
    "alternate_exchange",
    "classic_queue",
    "queue_consumer",
    "quorum_queue",
    "stream_consumer",
    "stream_queue",
]

#: A length of time.
Seconds: TypeAlias = float | timedelta

#: A place in a stream: see `stream_consumer`.
Offset: TypeAlias = int | datetime | timedelta | str

_Arguments: TypeAlias = dict[str, FieldValue]

# RabbitMQ's own limits: ten years in milliseconds, and those of each argument.
_TIME_MAX = 315_360_000_000
_PRIORITY_MAX = 255
_SEGMENT_MAX = 3_000_000_000
_FILTER_SIZES = (16, 255)

_LOCATORS = ("client-local", "balanced")
_PLACES = ("first", "last", "next")
# A number of years, months, days, hours, minutes or seconds.
_AGE = re.compile("[1-9][0-9]*[YMDhms]")


def classic_queue(
    *,
    message_ttl: Seconds | None = None,
    expires: Seconds | None = None,
    max_length: int | None = None,
    max_length_bytes: int | None = None,
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"]
    | None = None,
    dead_letter_exchange: str | None = None,
    dead_letter_routing_key: str | None = None,
    single_active_consumer: bool = False,
    max_priority: int | None = None,
) -> _Arguments:
    """
    A classic queue: on one node, and gone or unavailable with it unless it is
    durable.

    :param message_ttl: how long a message may wait before it is dropped, or
        dead-lettered; 0 is not at all, if no consumer is ready.
    :param expires: how long the queue may be unused before it is deleted.
    :param max_length: how many messages may be ready.
    :param max_length_bytes: how much the bodies of those may be.
    :param overflow: what gives way when there are more: the oldest message (the
        default), the new one (a confirm then says `Nacked`), or the new one to the
        dead letters as well.
    :param dead_letter_exchange: the exchange that gets what was rejected, has expired
        or was too much; "" is the default exchange.
    :param dead_letter_routing_key: the routing key for that; by default a message
        keeps its own.
    :param single_active_consumer: one consumer gets everything, and the next one
        takes over when it goes.
    :param max_priority: the highest ``priority`` of messages that makes a difference, 1
        to 255.  Each level costs: a few are enough.
    """
    _check_dead_letters(dead_letter_exchange, dead_letter_routing_key)
    return _given(
        {
            "x-queue-type": "classic",
            "x-message-ttl": _milliseconds("message_ttl", message_ttl),
            "x-expires": _milliseconds("expires", expires, 1),
            "x-max-length": _whole("max_length", max_length),
            "x-max-length-bytes": _whole("max_length_bytes", max_length_bytes),
            "x-overflow": _choice(
                "overflow",
                overflow,
                ("drop-head", "reject-publish", "reject-publish-dlx"),
            ),
            "x-dead-letter-exchange": _text(
                "dead_letter_exchange", dead_letter_exchange
            ),
            "x-dead-letter-routing-key": _text(
                "dead_letter_routing_key", dead_letter_routing_key
            ),
            "x-single-active-consumer": single_active_consumer or None,
            "x-max-priority": _whole("max_priority", max_priority, 1, _PRIORITY_MAX),
        }
    )


def quorum_queue(
    *,
    delivery_limit: int | None = None,
    message_ttl: Seconds | None = None,
    expires: Seconds | None = None,
    max_length: int | None = None,
    max_length_bytes: int | None = None,
    overflow: Literal["drop-head", "reject-publish"] | None = None,
    dead_letter_exchange: str | None = None,
    dead_letter_routing_key: str | None = None,
    dead_letter_strategy: Literal["at-most-once", "at-least-once"] | None = None,
    single_active_consumer: bool = False,
    delayed_retry_type: Literal["all", "failed", "returned", "disabled"] | None = None,
    delayed_retry_min: Seconds | None = None,
    delayed_retry_max: Seconds | None = None,
    consumer_timeout: Seconds | None = None,
    consumer_disconnected_timeout: Seconds | None = None,
    initial_group_size: int | None = None,
    queue_leader_locator: Literal["client-local", "balanced"] | None = None,
) -> _Arguments:
    """
    A quorum queue: on several nodes, which agree on it.  It must be durable, not
    exclusive, not ``auto_delete``, and have a name.  It has no ``max_priority``:
    RabbitMQ 4.0 and later heed the priority of its messages anyway.  What is not
    explained here is as in `classic_queue`.

    :param delivery_limit: how often a message may be redelivered before it is dropped,
        or dead-lettered.  By default that is 20 times since RabbitMQ 4.0, which takes
        -1 for no limit.  Before that there is none by default, and with -1 the first
        redelivery is one too many.
    :param dead_letter_strategy: ``at-least-once`` loses no dead letter on its way; it
        needs a ``dead_letter_exchange`` and ``overflow="reject-publish"``.
    :param delayed_retry_type: which messages wait before they are delivered once
        more: those that were rejected (``failed``), those that were handed back with
        ``nack`` or by the end of a consumer (``returned``), or ``all`` (4.3).
    :param delayed_retry_min: how long they wait, times the number of deliveries...
    :param delayed_retry_max: ... but no longer than that, which by default is
        ``delayed_retry_min``.
    :param consumer_timeout: how long a delivery may be unacknowledged before the
        broker ends the consumer (4.3).
    :param consumer_disconnected_timeout: how long the deliveries of a consumer on a
        node that cannot be reached are kept for it (4.3).
    :param initial_group_size: on how many nodes the queue begins.
    :param queue_leader_locator: where its leader begins: on the node that we are
        connected to, or where there are few.
    """
    _check_dead_letters(dead_letter_exchange, dead_letter_routing_key)
    if dead_letter_strategy == "at-least-once":
        _demand(
            dead_letter_exchange is not None and overflow == "reject-publish",
            'dead_letter_strategy: "at-least-once" needs a dead_letter_exchange, and '
            'overflow="reject-publish"; without them the broker ignores it',
        )
    retry_min = _milliseconds("delayed_retry_min", delayed_retry_min, 1)
    retry_max = _milliseconds("delayed_retry_max", delayed_retry_max, 1)
    if delayed_retry_type not in (None, "disabled"):
        _demand(
            retry_min is not None, "delayed_retry_type: needs a delayed_retry_min too"
        )
    _demand(
        delayed_retry_type is not None or retry_min is None,
        "delayed_retry_min: needs a delayed_retry_type too",
    )
    if retry_max is not None:
        _demand(
            retry_min is not None and retry_max >= retry_min,
            "delayed_retry_max: needs a delayed_retry_min, and cannot be less",
        )
    return _given(
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": _whole("delivery_limit", delivery_limit, -1),
            "x-message-ttl": _milliseconds("message_ttl", message_ttl),
            "x-expires": _milliseconds("expires", expires, 1),
            "x-max-length": _whole("max_length", max_length),
            "x-max-length-bytes": _whole("max_length_bytes", max_length_bytes),
            "x-overflow": _choice(
                "overflow", overflow, ("drop-head", "reject-publish")
            ),
            "x-dead-letter-exchange": _text(
                "dead_letter_exchange", dead_letter_exchange
            ),
            "x-dead-letter-routing-key": _text(
                "dead_letter_routing_key", dead_letter_routing_key
            ),
            "x-dead-letter-strategy": _choice(
                "dead_letter_strategy",
                dead_letter_strategy,
                ("at-most-once", "at-least-once"),
            ),
            "x-single-active-consumer": single_active_consumer or None,
            "x-delayed-retry-type": _choice(
                "delayed_retry_type",
                delayed_retry_type,
                ("all", "failed", "returned", "disabled"),
            ),
            "x-delayed-retry-min": retry_min,
            "x-delayed-retry-max": retry_max,
            "x-consumer-timeout": _milliseconds("consumer_timeout", consumer_timeout),
            "x-consumer-disconnected-timeout": _milliseconds(
                "consumer_disconnected_timeout", consumer_disconnected_timeout
            ),
            "x-quorum-initial-group-size": _whole(
                "initial_group_size", initial_group_size, 1
            ),
            "x-queue-leader-locator": _choice(
                "queue_leader_locator", queue_leader_locator, _LOCATORS
            ),
        }
    )


def stream_queue(
    *,
    max_age: Seconds | str | None = None,
    max_length_bytes: int | None = None,
    max_segment_size_bytes: int | None = None,
    filter_size_bytes: int | None = None,
    initial_cluster_size: int | None = None,
    queue_leader_locator: Literal["client-local", "balanced"] | None = None,
) -> _Arguments:
    """
    A stream: a log that keeps what was consumed, for others to consume too.  It must
    be durable, not exclusive, not ``auto_delete``, and have a name.  Without
    ``max_age`` and ``max_length_bytes`` it grows for ever.

    :param max_age: how long messages are kept: whole seconds, or RabbitMQ's own form,
        such as ``"7D"`` (years ``Y``, months ``M``, days ``D``, hours ``h``, minutes
        ``m``, seconds ``s``).  RabbitMQ 3.10 takes ``60s`` and ``1m`` for different.
    :param max_length_bytes: how much is kept.
    :param max_segment_size_bytes: how large a file of the log gets: what is too old,
        or too much, goes by the file.  At most 3,000,000,000; 500,000,000 by default.
    :param filter_size_bytes: how large the filter of each chunk is, 16 to 255 (3.13).
    :param initial_cluster_size: on how many nodes the stream begins.
    :param queue_leader_locator: as in `quorum_queue`.
    """
    return _given(
        {
            "x-queue-type": "stream",
            "x-max-age": _age("max_age", max_age),
            "x-max-length-bytes": _whole("max_length_bytes", max_length_bytes),
            "x-stream-max-segment-size-bytes": _whole(
                "max_segment_size_bytes", max_segment_size_bytes, 1, _SEGMENT_MAX
            ),
            "x-stream-filter-size-bytes": _whole(
                "filter_size_bytes", filter_size_bytes, *_FILTER_SIZES
            ),
            "x-initial-cluster-size": _whole(
                "initial_cluster_size", initial_cluster_size, 1
            ),
            "x-queue-leader-locator": _choice(
                "queue_leader_locator", queue_leader_locator, _LOCATORS
            ),
        }
    )


def alternate_exchange(exchange: str) -> _Arguments:
    """
    For an exchange: another one, which gets the messages that this one cannot route.
    Such messages are not returned.
    """
    return {"alternate-exchange": _the_text("exchange", exchange)}


def queue_consumer(
    *, priority: int | None = None, timeout: Seconds | None = None
) -> _Arguments:
    """
    A consumer of a classic or a quorum queue.

    :param priority: consumers of a higher priority get messages first, as long as
        they can take any; 0 is the default, and it may be negative.
    :param timeout: how long a delivery may be unacknowledged before the broker ends
        the consumer; of quorum queues only (4.3).
    """
    return _given(
        {
            "x-priority": _whole("priority", priority, None),
            "x-consumer-timeout": _milliseconds("timeout", timeout),
        }
    )


def stream_consumer(
    offset: Offset,
    *,
    filters: str | Sequence[str] | None = None,
    match_unfiltered: bool = False,
) -> _Arguments:
    """
    A consumer of a stream.  It needs a prefetch limit, cannot ``auto_ack``, and
    acknowledges like any other: that makes room for more, and removes nothing.

    :param offset: where to begin.  ``"first"`` is the oldest message there is,
        ``"last"`` the last chunk of messages, ``"next"`` what is published from now
        on.  A number is the offset of a message (one more than the last
        `Delivery.stream_offset`, to go on after it).  A ``datetime``, with its
        time zone, begins with the chunk of that moment; a ``timedelta``, or RabbitMQ's
        form as in `stream_queue`, with the one of so long ago.  Chunks come whole: the
        first messages may be older than was asked for.
    :param filters: only chunks with messages that bear one of these as their header
        ``x-stream-filter-value`` (3.13).  The broker goes by a rough filter: look at
        the header of each message too.
    :param match_unfiltered: and chunks with messages that bear none.
    """
    if isinstance(filters, str):
        filters = [filters]
    if filters is None:
        _demand(not match_unfiltered, "match_unfiltered: needs filters too")
    else:
        _demand(bool(filters), "filters: there are none in it")
        filters = [_the_text("filters", each) for each in filters]
    return _given(
        {
            "x-stream-offset": _offset(offset),
            "x-stream-filter": filters,
            "x-stream-match-unfiltered": match_unfiltered or None,
        }
    )


# -- the values -------------------------------------------------------------------


def _given(arguments: Mapping[str, FieldValue]) -> _Arguments:
    """
    Without what was left to the broker.
    """
    return {name: value for name, value in arguments.items() if value is not None}


def _demand(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _check_dead_letters(exchange: str | None, routing_key: str | None) -> None:
    _demand(
        exchange is not None or routing_key is None,
        "dead_letter_routing_key: needs a dead_letter_exchange too",
    )


def _wrong_type(name: str, value: object, expected: str) -> TypeError:
    return TypeError(f"{name}: expected {expected}, not {type(value).__name__}")


def _the_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, value, "str")
    return value


def _text(name: str, value: str | None) -> str | None:
    return None if value is None else _the_text(name, value)


def _choice(name: str, value: str | None, choices: Sequence[str]) -> str | None:
    if value is not None and value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(choices)}")
    return value


def _whole(
    name: str, value: int | None, least: int | None = 0, most: int | None = None
) -> int | None:
    if value is None:
        return None
    # True is an int, and would be sent as something else.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, value, "int")
    if least is not None and value < least:
        raise ValueError(f"{name}: {value} is less than {least}")
    if most is not None and value > most:
        raise ValueError(f"{name}: {value} is more than {most}")
    return value


def _seconds(name: str, value: Seconds) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, value, "seconds as int, float or timedelta")
    if not isfinite(value):
        raise ValueError(f"{name}: {value} is no length of time")
    return value


def _milliseconds(name: str, value: Seconds | None, least: int = 0) -> int | None:
    """
    :param least: in milliseconds.
    """
    if value is None:
        return None
    seconds = _seconds(name, value)
    result = round(seconds * 1000)
    if result < least or (seconds > 0 and not result):
        raise ValueError(f"{name}: {seconds} s is too short")
    if result > _TIME_MAX:
        raise ValueError(f"{name}: {seconds} s is over ten years (it is in seconds)")
    return result


def _age(name: str, value: Seconds | str | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        if not _AGE.fullmatch(value):
            raise ValueError(
                f"{name}: {value!r} is not a number of Y, M, D, h, m or s, as in 7D"
            )
        return value
    seconds = _seconds(name, value)
    if seconds < 1 or seconds != int(seconds):
        raise ValueError(f"{name}: {seconds} s, where it has to be whole seconds")
    return f"{int(seconds)}s"


def _offset(value: Offset) -> FieldValue:
    if isinstance(value, str):
        return value if value in _PLACES else _age("offset", value)
    if isinstance(value, timedelta):
        return _age("offset", value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"offset: {value} has no time zone")
        return value
    if not isinstance(value, int):
        raise _wrong_type("offset", value, "int, datetime, timedelta or str")
    return _whole("offset", value)
