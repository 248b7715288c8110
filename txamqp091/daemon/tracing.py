# -*- test-case-name: txamqp091.test.unit.daemon.test_tracing -*-
"""
OpenTelemetry spans: `Tracing` makes one for each message that is handled and one for
each message that is published, and carries their context in the messages' headers.

The module needs ``opentelemetry-api``, and imports it when a `Tracing` is made.  The
program that has the SDK decides where the spans go.  The names of attributes are those
of OpenTelemetry's conventions for messaging, which are still in development.
"""

from __future__ import annotations

__all__ = ["Tracing"]

from collections.abc import Callable, Mapping
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txamqp091.consumer import Handler
from txamqp091.daemon.metrics import NotInstalled
from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery, Message
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

_SYSTEM = "messaging.system"
_OPERATION = "messaging.operation.name"
_OPERATION_TYPE = "messaging.operation.type"
_DESTINATION = "messaging.destination.name"
_ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
_DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
_MESSAGE_ID = "messaging.message.id"
_CONVERSATION_ID = "messaging.message.conversation_id"
_BODY_SIZE = "messaging.message.body.size"
_ERROR_TYPE = "error.type"

Publish = Callable[[Message], Deferred[None]]


class Tracing:
    """
    Makes spans around handlers and publishers.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """
        :param provider: makes tracers; by default the process's own provider.
        :raises NotInstalled: ``opentelemetry-api`` is not installed.
        """
        try:
            from opentelemetry import context, propagate, trace
        except ImportError:
            raise NotInstalled(
                "tracing needs opentelemetry-api: install txamqp091[otel]"
            ) from None
        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer("txamqp091", None, provider)

    def traced(self, handler: Handler, queue: str) -> Handler:
        """
        Put a span around a handler.  Its parent is the span in which the message was
        published.
        """

        def handle(delivery: Delivery) -> object:
            parent = self._propagate.extract(_carrier(delivery))
            span = self._tracer.start_span(
                f"process {queue}",
                parent,
                self._trace.SpanKind.CONSUMER,
                _received(delivery, queue),
            )
            token = self._context.attach(self._trace.set_span_in_context(span, parent))
            try:
                result = handler(delivery)
                if iscoroutine(result):  # keeps the context that it starts in
                    result = Deferred.fromCoroutine(result)
            except BaseException as error:
                _fail(span, error)
                span.end()
                raise
            finally:
                self._context.detach(token)
            if isinstance(result, Deferred):
                return result.addBoth(_end, span)
            span.end()
            return result

        return handle

    def publishing(self, publish: Publish) -> Publish:
        """
        Put a span around a function that publishes.  Its parent is the span in the
        message's headers, if there is one, and the present span otherwise; the handler
        of the message continues it.
        """

        def send(message: Message) -> Deferred[None]:
            try:
                headers = dict(message.properties.headers or {})
            except UndecodableProperty:
                return publish(message)  # the headers cannot carry a context
            parent = self._propagate.extract(
                _texts(headers), self._context.get_current()
            )
            destination = message.exchange or message.routing_key
            span = self._tracer.start_span(
                f"send {destination}",
                parent,
                self._trace.SpanKind.PRODUCER,
                {
                    _SYSTEM: "rabbitmq",
                    _OPERATION: "send",
                    _OPERATION_TYPE: "send",
                    _DESTINATION: destination,
                    _ROUTING_KEY: message.routing_key,
                    _BODY_SIZE: len(message.body),
                    **_about(message.properties),
                },
            )
            carrier: dict[str, str] = {}
            inside = self._trace.set_span_in_context(span, parent)
            self._propagate.inject(carrier, inside)
            traced = Message(
                message.exchange,
                message.routing_key,
                message.body,
                message.properties.replace(headers={**headers, **carrier}),
                message.mandatory,
            )
            return publish(traced).addBoth(_end, span)

        return send


def _end(result: Any, span: Span) -> Any:
    if isinstance(result, Failure) and result.value is not None:
        _fail(span, result.value)
    span.end()
    return result


def _fail(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_attribute(_ERROR_TYPE, type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR))


def _received(delivery: Delivery, queue: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        _SYSTEM: "rabbitmq",
        _OPERATION: "process",
        _OPERATION_TYPE: "process",
        _DESTINATION: queue,
        _ROUTING_KEY: delivery.routing_key,
        _DELIVERY_TAG: delivery.delivery_tag,
        _BODY_SIZE: len(delivery.body),
    }
    return attributes | _about(delivery.properties)


def _about(properties: Properties) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {}
    try:
        if properties.message_id is not None:
            attributes[_MESSAGE_ID] = properties.message_id
        if properties.correlation_id is not None:
            attributes[_CONVERSATION_ID] = properties.correlation_id
    except UndecodableProperty:
        pass  # an error for the handler
    return attributes


def _carrier(delivery: Delivery) -> dict[str, str]:
    try:
        return _texts(delivery.headers)
    except UndecodableProperty:
        return {}


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    """
    The headers that are text, which some clients write as bytes.
    """
    found = {}
    for name, value in headers.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            found[name] = value
    return found
