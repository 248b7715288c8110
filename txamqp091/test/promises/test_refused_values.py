# -*- test-case-name: txamqp091.test.promises.test_refused_values -*-
"""
Criterion 5: what AMQP cannot carry is refused before a byte of it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.channel import Channel
from txamqp091.errors import EncodeError
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire.properties import Properties

LONG = "x" * 256

#: What is refused as a header: the value, and where the error says that it stands.
HEADERS: list[tuple[Any, str]] = [
    (float("nan"), "headers['a']"),
    (float("inf"), "headers['a']"),
    ([1, {"b": float("-inf")}], "headers['a'][1]['b']"),
    (1 << 63, "headers['a']"),
    (-(1 << 63) - 1, "headers['a']"),
    (Decimal("NaN"), "headers['a']"),
    (Decimal(1 << 40), "headers['a']"),
    (datetime(2024, 1, 1), "headers['a']"),
    ({LONG: 1}, "headers['a']"),
    ({1: 1}, "headers['a']"),
    ("\ud800", "headers['a']"),
    (object(), "headers['a']"),
    (1 + 2j, "headers['a']"),
]

#: What is refused as another property.
PROPERTIES: list[tuple[dict[str, Any], str]] = [
    ({"delivery_mode": 0}, "delivery_mode"),
    ({"delivery_mode": 3}, "delivery_mode"),
    ({"delivery_mode": 77}, "delivery_mode"),
    ({"priority": 256}, "priority"),
    ({"priority": -1}, "priority"),
    ({"content_type": LONG}, "content_type"),
    ({"message_id": LONG}, "message_id"),
    ({"correlation_id": b"bytes"}, "correlation_id"),
    ({"timestamp": datetime(2024, 1, 1)}, "timestamp"),
]

#: What is refused as the name of something.
NAMES: list[tuple[Callable[[Channel], Deferred[Any]], str]] = [
    (lambda channel: channel.queue_declare(LONG), "queue"),
    (lambda channel: channel.exchange_declare(LONG), "exchange"),
    (lambda channel: channel.queue_bind("q", "x", LONG), "routing_key"),
    (lambda channel: channel.basic_publish("", LONG, b""), "routing_key"),
    (lambda channel: channel.basic_publish(LONG, "", b""), "exchange"),
    (
        lambda channel: channel.basic_consume("q", print, consumer_tag=LONG),
        "consumer_tag",
    ),
    (
        lambda channel: channel.queue_declare("q", arguments={"x": float("nan")}),
        "arguments['x']",
    ),
]


class RefusedValueTests(ChannelCase):
    """
    Values that cannot be sent.
    """

    def refused(self, asked: Deferred[Any], path: str) -> None:
        """
        The error names the place, and nothing was written.
        """
        error = self.reason(asked, EncodeError)
        self.assertTrue(error.path.startswith(path), (error.path, path))
        self.assertEqual(self.heard(), [])

    def test_headers(self) -> None:
        """
        Criterion 5: header values.
        """
        self.heard()
        for value, path in HEADERS:
            properties = Properties(headers={"a": value})
            self.refused(self.channel.basic_publish("", "q", b"", properties), path)

    def test_properties(self) -> None:
        """
        Criterion 5: the other properties.
        """
        self.heard()
        for values, path in PROPERTIES:
            properties = Properties(**values)
            self.refused(self.channel.basic_publish("", "q", b"", properties), path)

    def test_names(self) -> None:
        """
        Criterion 5: names, and arguments.
        """
        self.heard()
        for call, path in NAMES:
            self.refused(call(self.channel), path)
        self.assertTrue(self.channel.is_open)
