# -*- test-case-name: txamqp091.test.unit.daemon.test_tracing -*-
"""
Spans around messages, seen by OpenTelemetry's own SDK.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.consumer import Consumer, Handler
from txamqp091.daemon.metrics import NotInstalled
from txamqp091.daemon.tracing import Tracing
from txamqp091.message import Delivery, Message
from txamqp091.test.support.peer import Peer
from txamqp091.wire.properties import EMPTY, Properties

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class TracingCase(SynchronousTestCase):
    """
    Spans that are kept in memory.
    """

    def setUp(self) -> None:
        try:
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
                InMemorySpanExporter,
            )
        except ImportError:
            raise SkipTest("opentelemetry-sdk is not here") from None
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)

    def span(self) -> Any:
        """
        The one span that has ended.
        """
        [span] = self.exporter.get_finished_spans()
        return span


class ProcessTests(TracingCase):
    """
    A span around a handler.
    """

    def handle(self, handler: Handler, properties: Properties = EMPTY) -> object:
        """
        What a traced handler returns for a message.
        """
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        deliveries: list[Delivery] = []
        consuming: Deferred[Consumer] = channel.basic_consume(
            "orders", deliveries.append, consumer_tag="c"
        )
        peer.serve()
        self.successResultOf(consuming)
        peer.deliver(1, "c", 7, b"body", properties, routing_key="new")
        return self.tracing.traced(handler, "orders")(deliveries[0])

    def test_span(self) -> None:
        """
        It says what was worked on, and is the child of the publisher's.
        """
        from opentelemetry import trace

        inside: list[Any] = []

        def handler(delivery: Delivery) -> int:
            inside.append(trace.get_current_span().get_span_context())
            return 3

        properties = Properties(
            headers={"traceparent": PARENT}, message_id="m1", correlation_id="c1"
        )
        self.assertEqual(self.handle(handler, properties), 3)
        span = self.span()
        self.assertEqual(span.name, "process orders")
        self.assertEqual(span.kind, trace.SpanKind.CONSUMER)
        self.assertEqual(f"{span.parent.span_id:016x}", "00f067aa0ba902b7")
        self.assertEqual(f"{span.context.trace_id:032x}", TRACE)
        self.assertEqual(inside, [span.context])
        self.assertEqual(
            dict(span.attributes),
            {
                "messaging.system": "rabbitmq",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": "orders",
                "messaging.rabbitmq.destination.routing_key": "new",
                "messaging.rabbitmq.message.delivery_tag": 7,
                "messaging.message.body.size": 4,
                "messaging.message.id": "m1",
                "messaging.message.conversation_id": "c1",
            },
        )
        self.assertFalse(trace.get_current_span().get_span_context().is_valid)

    def test_later(self) -> None:
        """
        It ends when the handler does; a coroutine has it to its end.
        """
        from opentelemetry import trace

        waiting: Deferred[None] = Deferred()
        inside: list[Any] = []

        async def handler(delivery: Delivery) -> int:
            await waiting
            inside.append(trace.get_current_span().get_span_context())
            return 4

        result = self.handle(handler)
        assert isinstance(result, Deferred)
        self.assertEqual(self.exporter.get_finished_spans(), ())
        waiting.callback(None)
        self.assertEqual(self.successResultOf(result), 4)
        self.assertEqual(inside, [self.span().context])

    def test_failures(self) -> None:
        """
        It tells the error of a handler that fails, now or later.
        """

        def handler(delivery: Delivery) -> None:
            raise ValueError("no")

        self.assertRaises(ValueError, self.handle, handler)
        self.assertEqual(self.span().attributes["error.type"], "ValueError")
        self.exporter.clear()
        result = self.handle(lambda _: fail(KeyError("no")))
        assert isinstance(result, Deferred)
        self.failureResultOf(result, KeyError)
        span = self.span()
        self.assertEqual(span.attributes["error.type"], "KeyError")
        self.assertFalse(span.status.is_ok)

    def test_undecodable(self) -> None:
        """
        A message that cannot be read has a span of its own, and comes to the handler.
        """
        raw = (0x2000).to_bytes(2, "big") + b"\x00\x00\x00\xff"
        seen: list[Delivery] = []
        self.handle(seen.append, Properties.from_wire(raw))
        self.assertEqual(len(seen), 1)
        self.assertIsNone(self.span().parent)


class SendTests(TracingCase):
    """
    A span around publishing.
    """

    def test_span(self) -> None:
        """
        It is the child of the one in the message, and takes its place.
        """
        published: list[Message] = []

        def publish(message: Message) -> Deferred[None]:
            published.append(message)
            return succeed(None)

        properties = Properties(headers={"traceparent": PARENT, "a": 1})
        message = Message("shop", "new", b"body", properties, mandatory=True)
        self.successResultOf(self.tracing.publishing(publish)(message))
        span = self.span()
        self.assertEqual(span.name, "send shop")
        self.assertEqual(f"{span.parent.span_id:016x}", "00f067aa0ba902b7")
        [sent] = published
        headers = dict(sent.properties.headers or {})
        self.assertEqual(
            headers,
            {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01", "a": 1},
        )
        self.assertEqual((sent.exchange, sent.mandatory), ("shop", True))

    def test_failure(self) -> None:
        """
        It tells that the broker did not take the message.
        """
        publish = self.tracing.publishing(lambda _: fail(ValueError("no")))
        self.failureResultOf(publish(Message("", "q", b"")), ValueError)
        span = self.span()
        self.assertEqual(span.name, "send q")
        self.assertEqual(span.attributes["error.type"], "ValueError")


class AbsentTests(SynchronousTestCase):
    """
    Without the extra.
    """

    def test_not_installed(self) -> None:
        """
        It is told what to install.
        """
        self.enterContext(mock.patch.dict(sys.modules, {"opentelemetry": None}))
        with self.assertRaisesRegex(NotInstalled, r"txamqp091\[otel\]"):
            Tracing()
