# -*- test-case-name: txamqp091.test.unit.service.test_telemetry -*-
"""
Spans and metrics of messages, seen by OpenTelemetry's own SDK.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.consumer import Handler
from txamqp091.errors import NotInstalled, PublisherFull, Returned
from txamqp091.message import Delivery, Message
from txamqp091.service.telemetry import (
    Telemetry,
    WrappedPublisher,
    check_installed,
    consumed_destination,
    published_destination,
)
from txamqp091.test.repository.test_architecture import run
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.wire.properties import EMPTY, Properties

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SERVER = {"server.address": "localhost", "server.port": 5672}


class TelemetryCase(ServiceCase):
    """
    A service, with spans and metrics that are kept in memory.
    """

    def setUp(self) -> None:
        super().setUp()
        try:
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
                InMemorySpanExporter,
            )
        except ImportError:
            raise SkipTest("opentelemetry-sdk is not installed") from None
        self.exporter = InMemorySpanExporter()
        spans = TracerProvider(shutdown_on_exit=False)
        spans.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        metrics = MeterProvider([self.reader], shutdown_on_exit=False)
        self.addCleanup(metrics.shutdown)
        self.broker.declare_queue("orders")
        self.broker.declare_exchange("shop", "topic")
        self.broker.bind_queue("orders", "shop", "new")
        self.client = self.service()
        self.telemetry = Telemetry(
            self.client, tracer_provider=spans, meter_provider=metrics
        )

    def span(self) -> Any:
        """
        The only span that has ended.
        """
        [span] = self.exporter.get_finished_spans()
        return span

    def points(self, name: str) -> list[Any]:
        """
        The data points of a metric.
        """
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


class ProcessTests(TelemetryCase):
    """
    Handlers.
    """

    def handle(
        self,
        handler: Handler,
        properties: Properties = EMPTY,
        routing_key: str = "new",
        exchange: str = "shop",
    ) -> None:
        """
        Have a traced handler process a message.
        """
        traced = self.telemetry.traced(handler, "orders")
        self.client.consume("orders", traced)
        self.broker.publish(exchange, routing_key, b"body", properties)
        self.turn()

    def test_span(self) -> None:
        """
        The span names the message and the broker.  It is the child of the publisher's.
        """
        from opentelemetry import trace

        inside: list[Any] = []

        def handler(delivery: Delivery) -> None:
            inside.append(trace.get_current_span().get_span_context())
            delivery.ack()

        properties = Properties(
            headers={"traceparent": PARENT}, message_id="m1", correlation_id="c1"
        )
        self.handle(handler, properties)
        span = self.span()
        self.assertEqual(span.name, "process orders")
        self.assertEqual(span.kind, trace.SpanKind.CONSUMER)
        self.assertEqual(f"{span.parent.span_id:016x}", "00f067aa0ba902b7")
        self.assertEqual(f"{span.context.trace_id:032x}", TRACE)
        self.assertEqual(inside, [span.context])
        self.assertEqual(
            dict(span.attributes),
            {
                **SERVER,
                "messaging.system": "rabbitmq",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": "shop:new:orders",
                "messaging.rabbitmq.destination.routing_key": "new",
                "messaging.rabbitmq.message.delivery_tag": 1,
                "messaging.message.body.size": 4,
                "messaging.message.id": "m1",
                "messaging.message.conversation_id": "c1",
            },
        )
        self.assertFalse(trace.get_current_span().get_span_context().is_valid)

    def test_metrics(self) -> None:
        """
        Messages are counted, and the durations of handlers measured.
        """
        waiting: Deferred[None] = Deferred()

        def handler(delivery: Delivery) -> Deferred[None]:
            return waiting.addCallback(lambda _: delivery.ack())

        self.handle(handler)
        [consumed] = self.points("messaging.client.consumed.messages")
        about = {
            **SERVER,
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders",
        }
        self.assertEqual((consumed.value, dict(consumed.attributes)), (1, about))
        self.assertEqual(self.points("messaging.process.duration"), [])
        self.passes(3)
        waiting.callback(None)
        [duration] = self.points("messaging.process.duration")
        self.assertEqual((duration.count, duration.sum), (1, 3.0))
        self.assertEqual(dict(duration.attributes), about)
        self.assertEqual(len(duration.explicit_bounds), 14)

    def test_later(self) -> None:
        """
        The span ends when the handler ends; a coroutine has the span to its end.
        """
        from opentelemetry import trace

        waiting: Deferred[None] = Deferred()
        inside: list[Any] = []

        async def handler(delivery: Delivery) -> None:
            await waiting
            inside.append(trace.get_current_span().get_span_context())
            delivery.ack()

        self.handle(handler)
        self.assertEqual(self.exporter.get_finished_spans(), ())
        waiting.callback(None)
        self.assertEqual(inside, [self.span().context])

    def test_failures(self) -> None:
        """
        Span and metric name the error of a handler that fails, at once or later.
        """

        def at_once(delivery: Delivery) -> None:
            delivery.ack()
            raise ValueError("no")

        def later(delivery: Delivery) -> Deferred[None]:
            delivery.ack()
            return fail(KeyError("no"))

        for failing, name in ((at_once, "ValueError"), (later, "KeyError")):
            self.exporter.clear()
            traced = self.telemetry.traced(failing, "orders")
            consumer = self.client.consume("orders", traced)
            self.broker.publish("shop", "new", b"body")
            self.turn()
            span = self.span()
            self.assertEqual(span.attributes["error.type"], name)
            self.assertFalse(span.status.is_ok)
            consumer.cancel()
            self.turn()
            errors = [
                each.attributes["error.type"]
                for each in self.points("messaging.process.duration")
            ]
            self.assertIn(name, errors)
        self.flushLoggedErrors(ValueError, KeyError)

    def test_undecodable(self) -> None:
        """
        A message with undecodable properties has a span without a parent, and reaches
        the handler.
        """
        raw = (0x2000).to_bytes(2, "big") + b"\x00\x00\x00\xff"
        seen: list[Delivery] = []
        self.handle(seen.append, Properties.from_wire(raw), "orders", "")
        self.assertEqual(len(seen), 1)
        span = self.span()
        self.assertIsNone(span.parent)
        self.assertEqual(span.attributes["messaging.destination.name"], "orders")


class PublishTests(TelemetryCase):
    """
    Publishers.
    """

    def test_span(self) -> None:
        """
        The span is the child of the one in the message, and replaces it there.
        """
        publisher = self.telemetry.publisher()
        properties = Properties(headers={"traceparent": PARENT, "a": 1})
        sent = publisher.publish("shop", "new", b"body", properties, mandatory=True)
        self.turn()
        self.successResultOf(sent)
        span = self.span()
        self.assertEqual(span.name, "publish shop")
        self.assertEqual(f"{span.parent.span_id:016x}", "00f067aa0ba902b7")
        self.assertEqual(
            dict(span.attributes),
            {
                **SERVER,
                "messaging.system": "rabbitmq",
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": "shop:new",
                "messaging.rabbitmq.destination.routing_key": "new",
                "messaging.message.body.size": 4,
            },
        )
        [message] = self.broker.queue("orders").messages
        self.assertEqual(
            dict(message.properties.headers or {}),
            {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01", "a": 1},
        )

    def test_metrics(self) -> None:
        """
        Messages are counted, and the time until their confirms measured.
        """
        publisher = self.telemetry.publisher()
        first = publisher.publish("shop", "new", b"first")
        self.turn()
        self.successResultOf(first)
        self.broker.hold_confirms()
        sent = publisher.publish("shop", "new", b"body")
        self.turn()
        self.passes(2)
        self.broker.release_confirms()
        self.turn()
        self.successResultOf(sent)
        lost = publisher.publish("", "nowhere", b"body", mandatory=True)
        self.turn()
        self.failureResultOf(lost, Returned)
        about = {
            **SERVER,
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
        }
        good = {**about, "messaging.destination.name": "shop"}
        bad = {
            **about,
            "messaging.destination.name": "amq.default",
            "error.type": "Returned",
        }
        counted = self.points("messaging.client.sent.messages")
        self.assertEqual([each.value for each in counted], [2, 1])
        self.assertCountEqual([dict(each.attributes) for each in counted], [good, bad])
        durations = self.points("messaging.client.operation.duration")
        self.assertEqual([each.sum for each in durations], [2.0, 0.0])

    def test_handler_continues(self) -> None:
        """
        A message that a handler publishes is a child of the handler's span.
        """
        self.broker.declare_queue("next")
        publisher = self.telemetry.publisher()

        async def handler(delivery: Delivery) -> None:
            await publisher.publish("", "next", delivery.body)
            delivery.ack()

        self.client.consume("orders", self.telemetry.traced(handler, "orders"))
        self.broker.publish("", "orders", b"x")
        self.turn()
        process, publish = sorted(
            self.exporter.get_finished_spans(), key=lambda each: each.name
        )
        self.assertEqual(
            (process.name, publish.name), ("process orders", "publish next")
        )
        assert publish.parent is not None and process.context is not None
        self.assertEqual(publish.parent.span_id, process.context.span_id)

    def test_made_up_names(self) -> None:
        """
        The name of a queue that the broker made up is not part of a span's name.
        """
        publish = self.telemetry.publishing(lambda _: fail(PublisherFull("full")))
        message = Message("", "amq.rabbitmq.reply-to.g1h2", b"")
        self.failureResultOf(publish(message), PublisherFull)
        span = self.span()
        self.assertEqual(span.name, "publish")
        self.assertIs(span.attributes["messaging.destination.anonymous"], True)

    def test_without_connection(self) -> None:
        """
        While there is no connection, no server is named.
        """
        self.endpoint.refusing = True
        self.cut()
        publish = self.telemetry.publishing(lambda _: fail(PublisherFull("full")))
        self.failureResultOf(publish(Message("shop", "new", b"")), PublisherFull)
        self.assertNotIn("server.address", self.span().attributes)

    def test_delayed(self) -> None:
        """
        A delayed message has a span, and the trace goes on in its handler.
        """
        publisher = self.telemetry.publisher()
        sent = publisher.publish("shop", "new", b"body", delay=5)
        self.turn()
        self.successResultOf(sent)
        published = self.span()
        self.exporter.clear()
        handled = self.telemetry.traced(lambda each: each.ack(), "orders")
        self.client.consume("orders", handled)
        self.passes(6)
        span = self.span()
        self.assertEqual(span.parent.span_id, published.context.span_id)

    def test_undecodable(self) -> None:
        """
        A message whose headers cannot be read is published without a span.
        """
        raw = b"\x20\x00\x00\x00\x00\x03\x01ax"  # headers that are cut short
        message = Message("", "orders", b"x", Properties.from_wire(raw))
        seen: list[Message] = []

        def publish(message: Message) -> Deferred[None]:
            seen.append(message)
            return succeed(None)

        self.successResultOf(self.telemetry.publishing(publish)(message))
        self.assertEqual(seen, [message])
        self.assertEqual(self.exporter.get_finished_spans(), ())


class WrappedPublisherTests(TelemetryCase):
    """
    Tests for `WrappedPublisher`.
    """

    def test_around(self) -> None:
        """
        A message goes through the function around; what is no message fails.
        """
        seen: list[Message] = []

        def around(publish: Any) -> Any:
            def send(message: Message) -> Any:
                seen.append(message)
                return publish(message)

            return send

        publisher = WrappedPublisher(self.client, around=around, limit=1)
        sent = publisher.publish("", "orders", bytearray(b"x"), mandatory=True)
        self.failureResultOf(publisher.publish("", "orders", b"y"), PublisherFull)
        self.turn()
        self.successResultOf(sent)
        self.assertEqual((seen[0].body, seen[0].mandatory), (b"x", True))
        self.assertEqual(self.broker.queue("orders").ready, 1)
        wrong: Any = 5
        self.failureResultOf(publisher.publish("", "orders", wrong), TypeError)
        self.assertEqual(len(seen), 2)


class NameTests(SynchronousTestCase):
    """
    Names of destinations.
    """

    def test_published(self) -> None:
        """
        Exchange and routing key, without what is empty.
        """
        self.assertEqual(published_destination("shop", "new"), "shop:new")
        self.assertEqual(published_destination("shop", ""), "shop")
        self.assertEqual(published_destination("", "orders"), "orders")
        self.assertEqual(published_destination("", ""), "amq.default")

    def test_consumed(self) -> None:
        """
        Exchange, routing key and queue; not twice the same.
        """
        self.assertEqual(consumed_destination("shop", "new", "q"), "shop:new:q")
        self.assertEqual(consumed_destination("shop", "q", "q"), "shop:q")
        self.assertEqual(consumed_destination("", "q", "q"), "q")
        self.assertEqual(consumed_destination("logs", "", "q"), "logs:q")


class AbsentTests(SynchronousTestCase):
    """
    Without the extra.
    """

    def test_not_installed(self) -> None:
        """
        The error names what to install.
        """
        self.enterContext(mock.patch.dict(sys.modules, {"opentelemetry": None}))
        with self.assertRaisesRegex(NotInstalled, r"txamqp091\[otel\]"):
            check_installed()
        absent: Any = None
        with self.assertRaisesRegex(NotInstalled, r"txamqp091\[otel\]"):
            Telemetry(absent)

    def test_imported_later(self) -> None:
        """
        A service without telemetry does not load OpenTelemetry.
        """
        loaded = run(
            "import sys, txamqp091.service, txamqp091.daemon.builder\n"
            "print('opentelemetry' in sys.modules)"
        )
        self.assertEqual(loaded, "False")
