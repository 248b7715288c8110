# -*- test-case-name: txamqp091.test.scenarios.test_queue_arguments -*-
"""
What the in-memory broker understands of the arguments of queues and exchanges.

`QueueSettings` is what a queue goes by; `QueueSettings.of` checks the arguments that it
comes from.  `check_equivalent` compares what is declared with what exists.  The texts,
and the order of the checks, are RabbitMQ's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
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
    "queue_arguments",
]

Arguments = Mapping[str, FieldValue]

#: Says what is wrong with a value, as an Erlang term, or "".
Check = Callable[[FieldValue], str]

# Ten years, in milliseconds: what RabbitMQ's timers take.
_TIME_MAX = 315_360_000_000
_PRIORITY_MAX = 255
_SEGMENT_SIZE = 500_000_000
_SEGMENT_SIZE_MAX = 3_000_000_000

_AGE = re.compile("(0*[1-9][0-9]*)([YMDhms])")
_AGE_UNITS = {
    "Y": 365 * 86400,
    "M": 30 * 86400,
    "D": 86400,
    "h": 3600,
    "m": 60,
    "s": 1,
}


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


def _one_of(problem: str, *values: str) -> Check:
    """
    A check for one of a few texts.

    :param problem: what is wrong with another text.
    """

    def check(value: FieldValue) -> str:
        return _text(value) or ("" if value in values else problem)

    return check


def _at_least_one(value: FieldValue) -> str:
    return "{value_zero,0}" if value == 0 else _not_negative(value)


def _age(value: FieldValue) -> str:
    return _text(value) or ("" if max_age(str(value)) else "invalid_max_age")


def _queue_type(value: FieldValue) -> str:
    if problem := _text(value):
        return problem
    return "" if value in _TYPES else f"\"unsupported queue type '{_plain(value)}'\""


def _segment_size(value: FieldValue) -> str:
    if problem := _not_negative(value):
        return problem
    assert isinstance(value, int)
    if value > _SEGMENT_SIZE_MAX:
        raise precondition("Exceeded max value for x-stream-max-segment-size-bytes")
    return ""


def _filter_size(value: FieldValue) -> str:
    if problem := _not_negative(value):
        return problem
    if value not in range(16, 256):
        raise precondition("Invalid value for x-stream-filter-size-bytes")
    return ""


def _anything(value: FieldValue) -> str:
    return ""


_CHECKS: Mapping[str, Check] = {
    "x-expires": _some_milliseconds,
    "x-message-ttl": _milliseconds,
    "x-dead-letter-exchange": _text,
    "x-dead-letter-routing-key": _text,
    "x-max-length": _not_negative,
    "x-max-length-bytes": _not_negative,
    "x-max-in-memory-length": _not_negative,
    "x-max-in-memory-bytes": _not_negative,
    "x-max-priority": _priority,
    "x-overflow": _one_of(
        "invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"
    ),
    "x-queue-mode": _text,
    "x-queue-version": _not_negative,
    "x-single-active-consumer": _flag,
    "x-queue-type": _queue_type,
    "x-quorum-initial-group-size": _at_least_one,
    "x-delivery-limit": _anything,
    "x-dead-letter-strategy": _one_of(
        "invalid_dlx_strategy", "at-most-once", "at-least-once"
    ),
    "x-consumer-timeout": _not_negative,
    "x-delayed-retry-type": _anything,
    "x-delayed-retry-min": _anything,
    "x-delayed-retry-max": _anything,
    "x-max-age": _age,
    "x-stream-max-segment-size-bytes": _segment_size,
    "x-stream-filter-size-bytes": _filter_size,
    "x-initial-cluster-size": _at_least_one,
    "x-queue-leader-locator": _text,
    "x-queue-master-locator": _text,
}

_TYPES = ("classic", "quorum", "stream")

_CONSUMER_CHECKS: Mapping[str, Check] = {
    "x-priority": _integer,
    "x-cancel-on-ha-failover": _flag,
    "x-consumer-timeout": _not_negative,
}


def _check_value(name: str, value: FieldValue, behaviour: Behaviour) -> str:
    """
    What is wrong with the value of an argument of a queue, or "".
    """
    if name == "x-queue-mode" and not behaviour.queue_modes:
        return ""
    if problem := _CHECKS[name](value):
        return problem
    match name:
        case "x-queue-mode" if value not in behaviour.queue_modes:
            return f"\"unsupported queue mode '{_plain(value)}'\""
        case "x-queue-version" if value not in behaviour.queue_versions:
            return f"\"unsupported queue version '{_plain(value)}'\""
        case "x-queue-leader-locator" if value not in behaviour.queue_locators:
            return "invalid_queue_locator_arg"
        case _:
            return ""


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
    :ivar delayed_retry_type: which messages wait before they are redelivered:
        ``all``, ``failed`` or ``returned`` ones, or none.
    :ivar delayed_retry_min: how long they wait, in seconds, for each time that they
        have failed.
    :ivar delayed_retry_max: how long they wait at most, in seconds.
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
    delayed_retry_type: str = "disabled"
    delayed_retry_min: float = 0.0
    delayed_retry_max: float = 0.0
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
        type = _check_queue(arguments, resource, behaviour)
        given: dict[str, object] = {"type": type}
        for name, (field, convert) in _FIELDS.items():
            if name in arguments:
                given[field] = convert(arguments[name])
        if type == "quorum":
            limit = arguments.get("x-delivery-limit")
            if not isinstance(limit, int):
                limit = behaviour.delivery_limit
            # Since 4.0 a negative limit is none.
            unlimited = limit is not None and limit < 0 and behaviour.deaths_apart
            given["delivery_limit"] = None if unlimited else limit
            if given.get("overflow") == "reject-publish-dlx":
                given["overflow"] = "drop-head"
            if "x-delayed-retry-type" in behaviour.queue_arguments[type]:
                given |= _delayed_retry(arguments)
        return cls(**given)  # type: ignore[arg-type]


def _delayed_retry(arguments: Arguments) -> dict[str, object]:
    """
    What the arguments say of delayed retries: RabbitMQ ignores what makes no sense.
    """
    shortest = arguments.get("x-delayed-retry-min")
    longest = arguments.get("x-delayed-retry-max", shortest)
    if not isinstance(shortest, int) or not isinstance(longest, int) or shortest < 1:
        return {}
    return {
        "delayed_retry_type": arguments.get("x-delayed-retry-type", "disabled"),
        "delayed_retry_min": shortest / 1000,
        "delayed_retry_max": max(shortest, longest) / 1000,
    }


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


def _check_queue(arguments: Arguments, resource: str, behaviour: Behaviour) -> str:
    """
    :returns: the type of queue that the arguments are for.
    """
    type = arguments.get("x-queue-type", "classic")
    if type == "" and behaviour.default_queue_type:
        type = "classic"
    if problem := _queue_type(type):
        raise invalid_argument("x-queue-type", resource, problem)
    type = str(type)
    names = [name for name in queue_arguments(behaviour) if name in arguments]
    for name in names:
        if name not in behaviour.queue_arguments[type]:
            raise _not_for_type(name, resource, type)
    for name in names:
        if name == "x-queue-type":
            continue
        if problem := _check_value(name, arguments[name], behaviour):
            raise invalid_argument(name, resource, problem)
    if (
        "x-dead-letter-routing-key" in arguments
        and "x-dead-letter-exchange" not in arguments
    ):
        raise invalid_argument(
            "x-dead-letter-routing-key", resource, "routing_key_but_no_dlx_defined"
        )
    return type


def queue_arguments(behaviour: Behaviour) -> tuple[str, ...]:
    """
    The arguments of queues that the broker knows.
    """
    known = frozenset[str]().union(*behaviour.queue_arguments.values())
    return tuple(name for name in _CHECKS if name in known)


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
    See whether a type of queue knows what a consumer asks for, and if it makes sense.

    :raises Refused: 406, it does not.
    """
    known = frozenset[str]().union(*behaviour.consumer_arguments.values())
    names = [name for name in arguments if name in known]
    for name in names:
        if name not in behaviour.consumer_arguments[type]:
            raise _not_for_type(name, resource, type)
    for name in names:
        check = _CONSUMER_CHECKS.get(name, _anything)
        if problem := check(arguments[name]):
            raise invalid_argument(name, resource, problem)


def priority_of(arguments: Arguments) -> int:
    """
    The priority of a consumer, of arguments that make sense.
    """
    value = arguments.get("x-priority", 0)
    assert isinstance(value, int)
    return value


def check_equivalent(
    resource: str,
    current: Arguments,
    received: Arguments,
    names: Iterable[str],
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
