# -*- test-case-name: txamqp091.test.unit.testing.test_broker_topology -*-
"""
What the in-memory broker understands of the arguments of queues and exchanges.

`QueueSettings` is what a queue goes by; `QueueSettings.of` checks the arguments that it
comes from.  `check_equivalent` compares what is declared with what exists.  The texts,
and the order of the checks, are RabbitMQ's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from txamqp091.testing._broker.behaviour import Behaviour
from txamqp091.testing._broker.refusals import (
    Refused,
    field_type,
    invalid_argument,
    precondition,
)
from txamqp091.wire.types import FieldValue

__all__ = [
    "QueueSettings",
    "check_consumer",
    "check_equivalent",
    "check_exchange_name",
    "max_age",
    "priority_of",
]

Arguments = Mapping[str, FieldValue]

# Ten years, in milliseconds: what RabbitMQ's timers take.
_TIME_MAX = 315_360_000_000
_PRIORITY_MAX = 255
_SEGMENT_SIZE = 500_000_000

_AGE = re.compile("([1-9][0-9]*)([YMDhms])")
_AGE_UNITS = {
    "Y": 365 * 86400,
    "M": 30 * 86400,
    "D": 86400,
    "h": 3600,
    "m": 60,
    "s": 1,
}

_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")


def max_age(value: str) -> int | None:
    """
    RabbitMQ's form of a length of time, such as ``7D``, in seconds; None if it is not
    one.
    """
    found = _AGE.fullmatch(value)
    return None if found is None else int(found[1]) * _AGE_UNITS[found[2]]


# -- one value: a check returns what is wrong with it, as an Erlang term, or "" --------


def _integer(value: FieldValue) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return ""
    return f'"expected integer, got {field_type(value)}"'


def _not_negative(value: FieldValue) -> str:
    if problem := _integer(value):
        return problem
    assert isinstance(value, int)
    return f"{{value_negative,{value}}}" if value < 0 else ""


def _milliseconds(value: FieldValue) -> str:
    if problem := _not_negative(value):
        return problem
    assert isinstance(value, int)
    return f"{{value_too_large,{value}}}" if value > _TIME_MAX else ""


def _some_milliseconds(value: FieldValue) -> str:
    return "{value_zero,0}" if value == 0 else _milliseconds(value)


def _priority(value: FieldValue) -> str:
    if problem := _not_negative(value):
        return problem
    assert isinstance(value, int)
    return f"{{max_value_exceeded,{value}}}" if value > _PRIORITY_MAX else ""


def _text(value: FieldValue) -> str:
    if isinstance(value, str):
        return ""
    return f"{{unacceptable_type,{field_type(value)}}}"


def _flag(value: FieldValue) -> str:
    if isinstance(value, bool):
        return ""
    return f"{{unacceptable_type,{field_type(value)}}}"


def _overflow(value: FieldValue) -> str:
    return _text(value) or ("" if value in _OVERFLOWS else "invalid_overflow")


def _age(value: FieldValue) -> str:
    return _text(value) or ("" if max_age(str(value)) else "invalid_max_age")


def _queue_type(value: FieldValue) -> str:
    if problem := _text(value):
        return problem
    assert isinstance(value, str)
    return "" if value in _SUPPORTED else f"\"unsupported queue type '{value}'\""


_CHECKS: Mapping[str, Callable[[FieldValue], str]] = {
    "x-expires": _some_milliseconds,
    "x-message-ttl": _milliseconds,
    "x-dead-letter-exchange": _text,
    "x-dead-letter-routing-key": _text,
    "x-max-length": _not_negative,
    "x-max-length-bytes": _not_negative,
    "x-max-in-memory-length": _not_negative,
    "x-max-in-memory-bytes": _not_negative,
    "x-max-priority": _priority,
    "x-overflow": _overflow,
    "x-queue-mode": _text,
    "x-queue-version": _integer,
    "x-single-active-consumer": _flag,
    "x-queue-type": _queue_type,
    "x-quorum-initial-group-size": _not_negative,
    "x-quorum-target-group-size": _not_negative,
    "x-delivery-limit": _integer,
    "x-dead-letter-strategy": _text,
    "x-consumer-timeout": _milliseconds,
    "x-max-age": _age,
    "x-stream-max-segment-size-bytes": _not_negative,
    "x-stream-filter-size-bytes": _not_negative,
    "x-initial-cluster-size": _not_negative,
    "x-queue-leader-locator": _text,
    "x-queue-master-locator": _text,
}

_ANY_TYPE = {"x-queue-type", "x-queue-leader-locator", "x-max-length-bytes"}
_OF_QUEUES = _ANY_TYPE | {
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-overflow",
    "x-single-active-consumer",
}

#: The arguments that each type of queue takes, of those that any does.
_SUPPORTED: Mapping[str, set[str]] = {
    "classic": _OF_QUEUES
    | {"x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"},
    "quorum": _OF_QUEUES
    | {
        "x-delivery-limit",
        "x-dead-letter-strategy",
        "x-quorum-initial-group-size",
        "x-quorum-target-group-size",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-consumer-timeout",
    },
    "stream": _ANY_TYPE
    | {
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-stream-filter-size-bytes",
        "x-initial-cluster-size",
    },
}


@dataclass(frozen=True)
class QueueSettings:
    """
    What a queue goes by.

    :ivar type: ``classic``, ``quorum`` or ``stream``.
    :ivar ttl: how long a message may wait, in seconds, or None.
    :ivar expires: how long the queue may be unused, in seconds, or None.
    :ivar max_length: how many messages may be ready, or None.
    :ivar max_bytes: how many bytes the bodies of those may have, or None.
    :ivar overflow: which message gives way.
    :ivar dead_letter_exchange: the exchange for what is dropped, or None.
    :ivar dead_letter_key: the routing key for it, or None: its own.
    :ivar max_priority: the highest priority that makes a difference, or None if none
        does.
    :ivar single_active: whether one consumer gets everything.
    :ivar delivery_limit: how often a message is redelivered, or None: always.
    :ivar max_age: how long a stream keeps what it has, in seconds, or None.
    :ivar segment_size: in how large pieces it forgets, in bytes.
    """

    type: str = "classic"
    ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_key: str | None = None
    max_priority: int | None = None
    single_active: bool = False
    delivery_limit: int | None = None
    max_age: float | None = None
    segment_size: int = _SEGMENT_SIZE

    @classmethod
    def of(
        cls, arguments: Arguments, resource: str, behaviour: Behaviour
    ) -> QueueSettings:
        """
        :param resource: the queue, as `shown` shows it.
        :raises Refused: 406, naming the argument.
        """
        type = _check_queue(arguments, resource)
        given: dict[str, object] = {"type": type}
        for name, (field, convert) in _FIELDS.items():
            if name in arguments:
                given[field] = convert(arguments[name])
        if type == "quorum":
            limit = arguments.get("x-delivery-limit", behaviour.delivery_limit)
            # Since 4.0 a negative limit is none.
            unlimited = isinstance(limit, int) and limit < 0 and behaviour.deaths_apart
            given["delivery_limit"] = None if unlimited else limit
            if given.get("overflow") == "reject-publish-dlx":
                given["overflow"] = "drop-head"
        return cls(**given)  # type: ignore[arg-type]


def _same(value: FieldValue) -> object:
    return value


def _seconds(value: FieldValue) -> object:
    assert isinstance(value, int)
    return value / 1000


def _age_seconds(value: FieldValue) -> object:
    return max_age(str(value))


_FIELDS: Mapping[str, tuple[str, Callable[[FieldValue], object]]] = {
    "x-expires": ("expires", _seconds),
    "x-message-ttl": ("ttl", _seconds),
    "x-dead-letter-exchange": ("dead_letter_exchange", _same),
    "x-dead-letter-routing-key": ("dead_letter_key", _same),
    "x-max-length": ("max_length", _same),
    "x-max-length-bytes": ("max_bytes", _same),
    "x-max-priority": ("max_priority", _same),
    "x-overflow": ("overflow", _same),
    "x-single-active-consumer": ("single_active", _same),
    "x-max-age": ("max_age", _age_seconds),
    "x-stream-max-segment-size-bytes": ("segment_size", _same),
}


def _check_queue(arguments: Arguments, resource: str) -> str:
    """
    :returns: the type of queue that the arguments are for.
    """
    for name, check in _CHECKS.items():
        if name in arguments and (problem := check(arguments[name])):
            raise invalid_argument(name, resource, problem)
    if (
        "x-dead-letter-routing-key" in arguments
        and "x-dead-letter-exchange" not in arguments
    ):
        raise invalid_argument(
            "x-dead-letter-routing-key", resource, "routing_key_but_no_dlx_defined"
        )
    type = str(arguments.get("x-queue-type", "classic"))
    for name in _CHECKS:
        if name in arguments and name not in _SUPPORTED[type]:
            raise _not_for_type(name, resource, type)
    return type


def _not_for_type(name: str, resource: str, type: str) -> Refused:
    return precondition(
        f"invalid arg '{name}' for {resource} of queue type rabbit_{type}_queue"
    )


def check_exchange_name(arguments: Arguments, name: str, resource: str) -> str | None:
    """
    The exchange that an argument names, if it is there.

    :param resource: whose argument it is, as `shown` shows it.
    :raises Refused: 406, if it is no text.
    """
    value = arguments.get(name)
    if name in arguments and not isinstance(value, str):
        raise precondition(
            f"invalid type '{field_type(value)}' for arg '{name}' in {resource}"
        )
    return value if isinstance(value, str) else None


def check_consumer(
    arguments: Arguments, resource: str, type: str, behaviour: Behaviour
) -> None:
    """
    See whether a type of queue knows what a consumer asks for.

    :raises Refused: 406, it does not, though another type does.
    """
    known = frozenset[str]().union(*behaviour.consumer_arguments.values())
    for name in arguments:
        if name in known and name not in behaviour.consumer_arguments[type]:
            raise _not_for_type(name, resource, type)


def priority_of(arguments: Arguments, resource: str) -> int:
    """
    The priority of a consumer.

    :raises Refused: 406, if it is no number.
    """
    if "x-priority" not in arguments:
        return 0
    value = arguments["x-priority"]
    if problem := _integer(value):
        raise invalid_argument("x-priority", resource, problem)
    assert isinstance(value, int)
    return value


def check_equivalent(
    resource: str,
    current: Arguments,
    received: Arguments,
    names: tuple[str, ...] = tuple(_CHECKS),
) -> None:
    """
    Compare the arguments of what is declared with those of what is there.

    :raises Refused: 406, naming the first that differs.
    """
    for name in names:
        old, new = current.get(name), received.get(name)
        if old == new:
            continue
        if old is None:
            difference = f"received {_typed(new)} but current is none"
        elif new is None:
            difference = f"received none but current is {_typed(old)}"
        else:
            difference = f"received '{_plain(new)}' but current is '{_plain(old)}'"
        raise precondition(f"inequivalent arg '{name}' for {resource}: {difference}")


def _typed(value: FieldValue) -> str:
    return f"the value '{_plain(value)}' of type '{field_type(value)}'"


def _plain(value: FieldValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
