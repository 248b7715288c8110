# -*- test-case-name: txamqp091.test.unit.client.test_arguments -*-
"""
Tests for `txamqp091.arguments`: what each call gives, and what it refuses.

That the brokers understand what it gives is in `test_arguments_rabbitmq`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import signature
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import (
    alternate_exchange,
    classic_queue,
    queue_consumer,
    quorum_queue,
    stream_consumer,
    stream_queue,
)
from txamqp091.wire.types import decode_table, encode_table

MOMENT = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
TEN_YEARS = 315_360_000

Call = Callable[..., dict[str, Any]]

#: A function, its keywords, and what comes out besides the kind of queue.
QUEUES: list[tuple[Call, dict[str, Any], dict[str, Any]]] = [
    (classic_queue, {}, {}),
    (classic_queue, {"message_ttl": 60}, {"x-message-ttl": 60000}),
    (classic_queue, {"message_ttl": 0}, {"x-message-ttl": 0}),
    (classic_queue, {"message_ttl": 1.1}, {"x-message-ttl": 1100}),
    (classic_queue, {"message_ttl": 0.001}, {"x-message-ttl": 1}),
    (classic_queue, {"message_ttl": timedelta(days=1)}, {"x-message-ttl": 86400000}),
    (classic_queue, {"message_ttl": TEN_YEARS}, {"x-message-ttl": 315360000000}),
    (classic_queue, {"expires": 1800}, {"x-expires": 1800000}),
    (classic_queue, {"max_length": 0}, {"x-max-length": 0}),
    (classic_queue, {"max_length_bytes": 1 << 40}, {"x-max-length-bytes": 1 << 40}),
    (
        classic_queue,
        {"max_length": 10, "overflow": "reject-publish-dlx"},
        {"x-max-length": 10, "x-overflow": "reject-publish-dlx"},
    ),
    (
        classic_queue,
        {"dead_letter_exchange": "", "dead_letter_routing_key": "dead"},
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
    ),
    (
        classic_queue,
        {"single_active_consumer": True},
        {"x-single-active-consumer": True},
    ),
    (classic_queue, {"single_active_consumer": False}, {}),
    (classic_queue, {"max_priority": 5}, {"x-max-priority": 5}),
    (quorum_queue, {}, {}),
    (quorum_queue, {"delivery_limit": 5}, {"x-delivery-limit": 5}),
    (quorum_queue, {"delivery_limit": -1}, {"x-delivery-limit": -1}),
    (
        quorum_queue,
        {
            "message_ttl": 1,
            "expires": 2,
            "max_length": 3,
            "max_length_bytes": 4,
            "overflow": "reject-publish",
            "dead_letter_exchange": "dead",
            "dead_letter_routing_key": "letters",
            "dead_letter_strategy": "at-least-once",
            "single_active_consumer": True,
        },
        {
            "x-message-ttl": 1000,
            "x-expires": 2000,
            "x-max-length": 3,
            "x-max-length-bytes": 4,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "dead",
            "x-dead-letter-routing-key": "letters",
            "x-dead-letter-strategy": "at-least-once",
            "x-single-active-consumer": True,
        },
    ),
    (
        quorum_queue,
        {"dead_letter_strategy": "at-most-once"},
        {"x-dead-letter-strategy": "at-most-once"},
    ),
    (
        quorum_queue,
        {
            "delayed_retry_type": "failed",
            "delayed_retry_min": 1,
            "delayed_retry_max": timedelta(minutes=1),
        },
        {
            "x-delayed-retry-type": "failed",
            "x-delayed-retry-min": 1000,
            "x-delayed-retry-max": 60000,
        },
    ),
    (
        quorum_queue,
        {"delayed_retry_type": "disabled"},
        {"x-delayed-retry-type": "disabled"},
    ),
    (
        quorum_queue,
        {"consumer_timeout": 90, "consumer_disconnected_timeout": 0.5},
        {"x-consumer-timeout": 90000, "x-consumer-disconnected-timeout": 500},
    ),
    (
        quorum_queue,
        {"initial_group_size": 3, "queue_leader_locator": "balanced"},
        {"x-quorum-initial-group-size": 3, "x-queue-leader-locator": "balanced"},
    ),
    (stream_queue, {}, {}),
    (stream_queue, {"max_age": 60}, {"x-max-age": "60s"}),
    (stream_queue, {"max_age": 60.0}, {"x-max-age": "60s"}),
    (stream_queue, {"max_age": timedelta(days=7)}, {"x-max-age": "604800s"}),
    (stream_queue, {"max_age": "7D"}, {"x-max-age": "7D"}),
    (
        stream_queue,
        {
            "max_length_bytes": 20_000_000_000,
            "max_segment_size_bytes": 100_000_000,
            "filter_size_bytes": 32,
            "initial_cluster_size": 3,
            "queue_leader_locator": "client-local",
        },
        {
            "x-max-length-bytes": 20_000_000_000,
            "x-stream-max-segment-size-bytes": 100_000_000,
            "x-stream-filter-size-bytes": 32,
            "x-initial-cluster-size": 3,
            "x-queue-leader-locator": "client-local",
        },
    ),
]

KINDS: dict[Call, str] = {
    classic_queue: "classic",
    quorum_queue: "quorum",
    stream_queue: "stream",
}

#: The same, for those that say no kind.
OTHERS: list[tuple[Call, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = [
    (alternate_exchange, ("lost",), {}, {"alternate-exchange": "lost"}),
    (queue_consumer, (), {}, {}),
    (queue_consumer, (), {"priority": 10}, {"x-priority": 10}),
    (queue_consumer, (), {"priority": -1}, {"x-priority": -1}),
    (queue_consumer, (), {"priority": 0}, {"x-priority": 0}),
    (queue_consumer, (), {"timeout": 3600}, {"x-consumer-timeout": 3600000}),
    (stream_consumer, ("first",), {}, {"x-stream-offset": "first"}),
    (stream_consumer, ("last",), {}, {"x-stream-offset": "last"}),
    (stream_consumer, ("next",), {}, {"x-stream-offset": "next"}),
    (stream_consumer, (0,), {}, {"x-stream-offset": 0}),
    (stream_consumer, (1 << 40,), {}, {"x-stream-offset": 1 << 40}),
    (stream_consumer, (MOMENT,), {}, {"x-stream-offset": MOMENT}),
    (stream_consumer, (timedelta(hours=1),), {}, {"x-stream-offset": "3600s"}),
    (stream_consumer, ("7D",), {}, {"x-stream-offset": "7D"}),
    (
        stream_consumer,
        ("next",),
        {"filters": "paid"},
        {"x-stream-offset": "next", "x-stream-filter": ["paid"]},
    ),
    (
        stream_consumer,
        (5,),
        {"filters": ("paid", "sent"), "match_unfiltered": True},
        {
            "x-stream-offset": 5,
            "x-stream-filter": ["paid", "sent"],
            "x-stream-match-unfiltered": True,
        },
    ),
]

#: What is refused, and the keyword that the error begins with.
BAD_VALUES: list[tuple[Call, dict[str, Any], str]] = [
    (classic_queue, {"message_ttl": -1}, "message_ttl"),
    (classic_queue, {"message_ttl": 0.0004}, "message_ttl"),
    (classic_queue, {"message_ttl": float("nan")}, "message_ttl"),
    (classic_queue, {"message_ttl": float("inf")}, "message_ttl"),
    (classic_queue, {"message_ttl": TEN_YEARS + 1}, "message_ttl"),
    (classic_queue, {"expires": 0}, "expires"),
    (classic_queue, {"max_length": -1}, "max_length"),
    (classic_queue, {"max_length_bytes": -1}, "max_length_bytes"),
    (classic_queue, {"overflow": "drop-tail"}, "overflow"),
    (classic_queue, {"dead_letter_routing_key": "k"}, "dead_letter_routing_key"),
    (classic_queue, {"max_priority": 0}, "max_priority"),
    (classic_queue, {"max_priority": 256}, "max_priority"),
    (quorum_queue, {"delivery_limit": -2}, "delivery_limit"),
    (quorum_queue, {"overflow": "reject-publish-dlx"}, "overflow"),
    (quorum_queue, {"dead_letter_routing_key": "k"}, "dead_letter_routing_key"),
    (quorum_queue, {"dead_letter_strategy": "never"}, "dead_letter_strategy"),
    (
        quorum_queue,
        {"dead_letter_strategy": "at-least-once", "overflow": "reject-publish"},
        "dead_letter_strategy",
    ),
    (
        quorum_queue,
        {"dead_letter_strategy": "at-least-once", "dead_letter_exchange": "x"},
        "dead_letter_strategy",
    ),
    (quorum_queue, {"initial_group_size": 0}, "initial_group_size"),
    (quorum_queue, {"queue_leader_locator": "random"}, "queue_leader_locator"),
    (quorum_queue, {"consumer_timeout": -1}, "consumer_timeout"),
    (quorum_queue, {"delayed_retry_type": "all"}, "delayed_retry_type"),
    (
        quorum_queue,
        {"delayed_retry_type": "often", "delayed_retry_min": 1},
        "delayed_retry_type",
    ),
    (quorum_queue, {"delayed_retry_min": 1}, "delayed_retry_min"),
    (
        quorum_queue,
        {"delayed_retry_type": "all", "delayed_retry_min": 0},
        "delayed_retry_min",
    ),
    (quorum_queue, {"delayed_retry_max": 1}, "delayed_retry_max"),
    (
        quorum_queue,
        {
            "delayed_retry_type": "all",
            "delayed_retry_min": 2,
            "delayed_retry_max": 1,
        },
        "delayed_retry_max",
    ),
    (stream_queue, {"max_age": 0}, "max_age"),
    (stream_queue, {"max_age": 1.5}, "max_age"),
    (stream_queue, {"max_age": "7d"}, "max_age"),
    (stream_queue, {"max_age": "0s"}, "max_age"),
    (stream_queue, {"max_age": "7D\n"}, "max_age"),
    (stream_queue, {"max_segment_size_bytes": 0}, "max_segment_size_bytes"),
    (stream_queue, {"max_segment_size_bytes": 3_000_000_001}, "max_segment_size_bytes"),
    (stream_queue, {"filter_size_bytes": 15}, "filter_size_bytes"),
    (stream_queue, {"filter_size_bytes": 256}, "filter_size_bytes"),
    (stream_queue, {"initial_cluster_size": 0}, "initial_cluster_size"),
    (queue_consumer, {"timeout": -0.5}, "timeout"),
    (stream_consumer, {"offset": "latest"}, "offset"),
    (stream_consumer, {"offset": -1}, "offset"),
    (stream_consumer, {"offset": datetime(2024, 2, 29)}, "offset"),
    (stream_consumer, {"offset": timedelta(0)}, "offset"),
    (stream_consumer, {"offset": timedelta(hours=-1)}, "offset"),
    (stream_consumer, {"offset": "first", "filters": []}, "filters"),
    (stream_consumer, {"offset": "first", "match_unfiltered": True}, "match_unfil"),
]

BAD_TYPES: list[tuple[Call, dict[str, Any], str]] = [
    (classic_queue, {"message_ttl": "60000"}, "message_ttl: expected seconds"),
    (classic_queue, {"message_ttl": True}, "message_ttl: expected seconds"),
    (classic_queue, {"max_length": 1.5}, "max_length: expected int, not float"),
    (classic_queue, {"max_length": True}, "max_length: expected int, not bool"),
    (classic_queue, {"dead_letter_exchange": b"x"}, "dead_letter_exchange: expected"),
    (stream_queue, {"max_age": b"7D"}, "max_age: expected seconds"),
    (stream_consumer, {"offset": None}, "offset: expected"),
    (stream_consumer, {"offset": 1.5}, "offset: expected"),
    (stream_consumer, {"offset": "first", "filters": [1]}, "filters: expected str"),
    (alternate_exchange, {"exchange": None}, "exchange: expected str, not NoneType"),
]


class ArgumentTests(SynchronousTestCase):
    """
    What the functions give and refuse.
    """

    def test_queues(self) -> None:
        """
        A call for a queue gives its kind, and what was asked for, by the broker's
        names and in the broker's units.
        """
        for call, keywords, expected in QUEUES:
            result = call(**keywords)
            self.assertEqual(
                result, {"x-queue-type": KINDS[call], **expected}, (call, keywords)
            )

    def test_others(self) -> None:
        """
        A call for an exchange or a consumer gives just what was asked for.
        """
        for call, positional, keywords, expected in OTHERS:
            self.assertEqual(call(*positional, **keywords), expected)

    def test_every_keyword(self) -> None:
        """
        Each keyword of each kind of queue is in a row of the table above.
        """
        for call in KINDS:
            tried = {name for each, row, _ in QUEUES if each is call for name in row}
            self.assertEqual(tried, set(signature(call).parameters))

    def test_wire(self) -> None:
        """
        All of it can be sent, and arrives as it was: integers as integers, a
        moment as a timestamp.
        """
        results = [call(**keywords) for call, keywords, _ in QUEUES]
        results += [call(*each, **keywords) for call, each, keywords, _ in OTHERS]
        for result in results:
            data = encode_table(result)
            self.assertEqual(decode_table(data, 0, len(data)), (result, len(data)))

    def test_own(self) -> None:
        """
        Each call gives a dict of its own, which can be added to.
        """
        first = quorum_queue()
        first |= {"x-of-a-plugin": 1}
        self.assertEqual(quorum_queue(), {"x-queue-type": "quorum"})

    def test_bad_values(self) -> None:
        """
        What the broker would refuse or ignore is a ``ValueError`` that begins with
        the keyword.
        """
        for call, keywords, name in BAD_VALUES:
            with self.assertRaises(ValueError) as caught:
                call(**keywords)
            self.assertTrue(str(caught.exception).startswith(name), caught.exception)

    def test_bad_types(self) -> None:
        """
        A value of another type is a ``TypeError`` that says so.
        """
        for call, keywords, problem in BAD_TYPES:
            with self.assertRaises(TypeError) as caught:
                call(**keywords)
            self.assertTrue(str(caught.exception).startswith(problem), caught.exception)

    def test_what_a_kind_has_not(self) -> None:
        """
        What a kind of queue does not have cannot be asked for.
        """
        for call, name in [
            (classic_queue, "delivery_limit"),
            (quorum_queue, "max_priority"),
            (stream_queue, "message_ttl"),
            (stream_queue, "dead_letter_exchange"),
            (stream_queue, "single_active_consumer"),
            (stream_queue, "max_length"),
        ]:
            self.assertRaises(TypeError, call, **{name: 1})
