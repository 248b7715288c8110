# -*- test-case-name: txamqp091.test.scenarios.test_differences -*-
"""
Where the versions of RabbitMQ differ, as one table.

The in-memory broker asks a `Behaviour`, never a version number.  Each field is a
difference that was seen on the brokers themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFAULT_VERSION", "Behaviour"]

#: The RabbitMQ that the in-memory broker is like, if nothing else is asked for.
DEFAULT_VERSION = "4.3.6"


_IN_STREAMS = {"x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"}

# Of consumers, before 4.3 and since.
_CONSUMER_ARGUMENTS = (
    {
        "classic": frozenset({"x-priority", "x-cancel-on-ha-failover"}),
        "quorum": frozenset({"x-priority"}),
        "stream": frozenset({"x-stream-offset"}),
    },
    {
        "classic": frozenset({"x-priority"}),
        "quorum": frozenset({"x-priority", "x-consumer-timeout"}),
        "stream": frozenset(_IN_STREAMS),
    },
)


_ANY_QUEUE = {"x-queue-type", "x-max-length-bytes"}
_NO_STREAM = _ANY_QUEUE | {
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-overflow",
    "x-single-active-consumer",
}
_CLASSIC = _NO_STREAM | {
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
    "x-queue-master-locator",
}
_QUORUM = _NO_STREAM | {
    "x-delivery-limit",
    "x-dead-letter-strategy",
    "x-quorum-initial-group-size",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-queue-leader-locator",
}
_STREAM = _ANY_QUEUE | {
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
}

# Of queues, before 4.3 and since.
_QUEUE_ARGUMENTS: tuple[Mapping[str, frozenset[str]], ...] = (
    {
        "classic": frozenset(_CLASSIC),
        "quorum": frozenset(_QUORUM),
        "stream": frozenset(_STREAM),
    },
    {
        "classic": frozenset(_CLASSIC | {"x-queue-leader-locator"}),
        "quorum": frozenset(
            _QUORUM
            | {
                "x-consumer-timeout",
                "x-delayed-retry-type",
                "x-delayed-retry-min",
                "x-delayed-retry-max",
            }
        ),
        "stream": frozenset(_STREAM | {"x-stream-filter-size-bytes"}),
    },
)

_LOCATORS = frozenset({"client-local", "balanced", "random", "least-leaders"})


@dataclass(frozen=True)
class Behaviour:
    """
    How one version of RabbitMQ does what another does otherwise.

    :ivar version: which version.
    :ivar exchange_types: the types of exchanges that can be declared.
    :ivar names_permission: refusals of access say which permission is missing.
    :ivar checks_passive: to ask whether a queue or an exchange exists takes the
        permission to make it.
    :ivar channel_prefetch: a prefetch limit for a whole channel has an effect.
    :ivar delivery_limit: how often a quorum queue redelivers by default, or None.
    :ivar counts_returns: a ``basic.nack`` counts towards that limit, as
        ``basic.reject`` does.
    :ivar counts_acquisitions: quorum queues add ``x-acquired-count``.
    :ivar counts_from_zero: they add ``x-delivery-count`` to what is fetched with
        ``basic.get`` for the first time, too.
    :ivar returns_first: what a client hands back to them is the next to be delivered,
        and not the last.
    :ivar quorum_priorities: they heed the priority of messages.
    :ivar deaths_apart: what has happened to a message is not read from its headers,
        so a publisher cannot invent a death; and the last death has headers of its
        own.
    :ivar keeps_delivery_count: a dead letter keeps the count of its failed deliveries;
        if there was one, it is marked as redelivered.
    :ivar keeps_copies: a dead letter with a new routing key keeps its header ``CC``.
    :ivar soft_exchange_type: an unknown exchange type costs the channel (406), not
        the connection (503).
    :ivar default_queue_type: a queue declared without a type is known as classic.
    :ivar soft_offset: a bad stream offset costs the channel (406), not the connection
        (541).
    :ivar streams_settle: to reject what a stream delivered is as good as to accept it;
        otherwise it is a connection error.
    :ivar streams_add_mode: what comes from a stream has a delivery mode.
    :ivar strict_delivery_mode: a delivery mode other than 1 and 2 is refused (406).
    :ivar active_by_priority: with a single active consumer, the one of the highest
        priority is next; in a quorum queue it does not wait for the active one to go.
    :ivar timeout_cancels: a delivery that is not settled in time ends its consumer, and
        in quorum queues alone; otherwise it ends the channel (406).
    :ivar takes_cancel_ok: a client may send ``basic.cancel-ok``, which ends its
        consumer; otherwise that ends the connection (503).
    :ivar routes_replies: an answer by direct reply-to counts as routed.
    :ivar anonymous: a client may log in as nobody, and is guest.
    :ivar log_exchange: there is an internal exchange ``amq.rabbitmq.log``.
    :ivar max_message_size: in bytes.
    :ivar least_frame_max: the smallest frames that a client may agree to, in bytes;
        before that, none may be larger.
    :ivar consumer_arguments: by type of queue, the arguments that its consumers may
        have, of those that any may.
    :ivar queue_arguments: by type of queue, the arguments that it may have, of those
        that any may.
    :ivar queue_versions: the values of ``x-queue-version``.
    :ivar queue_modes: the values of ``x-queue-mode``; none: it is not looked at.
    :ivar queue_locators: the values of ``x-queue-leader-locator``.
    """

    version: str
    exchange_types: frozenset[str]
    names_permission: bool
    checks_passive: bool
    channel_prefetch: bool
    delivery_limit: int | None
    counts_returns: bool
    counts_acquisitions: bool
    counts_from_zero: bool
    returns_first: bool
    quorum_priorities: bool
    deaths_apart: bool
    keeps_delivery_count: bool
    keeps_copies: bool
    soft_exchange_type: bool
    default_queue_type: bool
    soft_offset: bool
    streams_settle: bool
    streams_add_mode: bool
    strict_delivery_mode: bool
    active_by_priority: bool
    timeout_cancels: bool
    takes_cancel_ok: bool
    routes_replies: bool
    anonymous: bool
    log_exchange: bool
    max_message_size: int
    least_frame_max: int
    consumer_arguments: Mapping[str, frozenset[str]]
    queue_arguments: Mapping[str, frozenset[str]]
    queue_versions: frozenset[int]
    queue_modes: frozenset[str]
    queue_locators: frozenset[str]

    @classmethod
    def of(cls, version: str) -> Behaviour:
        """
        How a version of RabbitMQ behaves.

        :param version: such as ``4.3.6``; 3.10 and 4.3 are what was looked at, and
            what is between them is like its nearest relation.
        :raises ValueError: it is no version.
        """
        if not re.fullmatch(r"\d+(\.\d+)*", version):
            raise ValueError(f"{version!r} is no version of RabbitMQ")
        number = tuple(map(int, version.split(".")))
        four = number >= (4,)
        latest = number >= (4, 3)
        return cls(
            version=version,
            exchange_types=_exchange_types(number),
            names_permission=four,
            checks_passive=latest,
            channel_prefetch=not latest,
            delivery_limit=20 if four else None,
            counts_returns=not four,
            counts_acquisitions=latest,
            counts_from_zero=not four,
            returns_first=four,
            quorum_priorities=four,
            deaths_apart=four,
            keeps_delivery_count=four,
            keeps_copies=four,
            soft_exchange_type=four,
            default_queue_type=four,
            soft_offset=four,
            streams_settle=four,
            streams_add_mode=latest,
            strict_delivery_mode=not four,
            active_by_priority=four,
            timeout_cancels=latest,
            takes_cancel_ok=latest,
            routes_replies=four,
            anonymous=four,
            log_exchange=latest,
            max_message_size=16_777_216 if four else 134_217_728,
            least_frame_max=8192 if number >= (4, 1) else 4096,
            consumer_arguments=_CONSUMER_ARGUMENTS[latest],
            queue_arguments=_QUEUE_ARGUMENTS[latest],
            queue_versions=frozenset({2} if latest else {1, 2}),
            queue_modes=frozenset() if latest else frozenset({"default", "lazy"}),
            queue_locators=_LOCATORS | ({"min-masters"} if latest else set()),
        )


#: The types of exchanges, by the version that brought them; the last one of the oldest
#: is a plugin's, which is taken to be enabled.
_EXCHANGE_TYPES = {
    (0,): {"direct", "fanout", "topic", "headers", "x-consistent-hash"},
    (4,): {"x-local-random"},
    (4, 3): {"x-modulus-hash"},
}


def _exchange_types(version: tuple[int, ...]) -> frozenset[str]:
    return frozenset().union(
        *(types for since, types in _EXCHANGE_TYPES.items() if since <= version)
    )
