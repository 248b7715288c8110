# -*- test-case-name: txamqp091.test.unit.service.test_telemetry -*-
"""
OpenTelemetry for messages: `Telemetry` makes spans and metrics of what is published and
of what handlers process.

The names are those of OpenTelemetry's semantic conventions for RabbitMQ, which are in
development, as of August 2026 (version 1.44).  ``opentelemetry-api`` is imported when a
`Telemetry` is made.  The program that has the SDK decides where spans and metrics go;
without an SDK nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from txamqp091._version import __version__
from txamqp091.consumer import Handler
from txamqp091.errors import NotInstalled, UndecodableProperty
from txamqp091.message import Body, Delivery, Message, body_bytes
from txamqp091.service.client import AMQPClientService
from txamqp091.service.publisher import Publisher
from txamqp091.wire.properties import EMPTY, Properties

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

#: The version of the conventions that name everything below.
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_BODY_SIZE = "messaging.message.body.size"
_CONVERSATION_ID = "messaging.message.conversation_id"
_DELIVERY_TAG = "messaging.rabbitmq.message.delivery_tag"
_DESTINATION = "messaging.destination.name"
_ANONYMOUS = "messaging.destination.anonymous"
_ERROR_TYPE = "error.type"
_MESSAGE_ID = "messaging.message.id"
_OPERATION = "messaging.operation.name"
_OPERATION_TYPE = "messaging.operation.type"
_ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
_SERVER_ADDRESS = "server.address"
_SERVER_PORT = "server.port"
_SYSTEM = "messaging.system"

_PUBLISH = {_SYSTEM: "rabbitmq", _OPERATION: "publish", _OPERATION_TYPE: "send"}
_PROCESS = {_SYSTEM: "rabbitmq", _OPERATION: "process", _OPERATION_TYPE: "process"}

#: How the names begin that a broker makes up for queues.
_MADE_UP = ("amq.gen-", "amq.rabbitmq.reply-to")

#: Upper bounds of both histograms, in seconds, as the conventions say.
_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

#: Publishes a message.
Publish = Callable[[Message], Deferred[None]]

#: Takes a function that publishes, and returns the one that is called in its place.
Around = Callable[[Publish], Publish]

Attributes = dict[str, str | int]


def check_installed() -> None:
    """
    Check that OpenTelemetry can be imported.

    :raises NotInstalled: ``opentelemetry-api`` is not installed.
    """
    try:
        import opentelemetry.metrics
        import opentelemetry.trace  # noqa: F401
    except ImportError:
        raise NotInstalled(
            "tracing needs opentelemetry-api: install txamqp091[otel]"
        ) from None


class Telemetry:
    """
    Makes OpenTelemetry spans and metrics of messages::

        telemetry = Telemetry(service)
        publisher = telemetry.publisher()
        service.consume("orders", telemetry.traced(handler, "orders"))

    A message that is published carries the context of its span in its headers.  The
    span of its handler continues that one, in whichever process the handler runs.

    Metrics: ``messaging.client.sent.messages``,
    ``messaging.client.operation.duration`` (from `Publisher.publish` to the confirm),
    ``messaging.client.consumed.messages`` and ``messaging.process.duration``.  Their
    destination is an exchange or a queue, since routing keys can be many.
    """

    def __init__(
        self,
        service: AMQPClientService,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """
        :param service: whose messages these are.  Spans and metrics name its broker.
        :param tracer_provider: makes the tracer; by default the process's own provider.
        :param meter_provider: makes the meter; by default the process's own provider.
        :raises NotInstalled: ``opentelemetry-api`` is not installed.
        """
        check_installed()
        from opentelemetry import context, metrics, propagate, trace

        self._service = service
        self._seconds = service.reactor.seconds
        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer(
            "txamqp091", __version__, tracer_provider, schema_url=_SCHEMA
        )
        meter = metrics.get_meter(
            "txamqp091", __version__, meter_provider, schema_url=_SCHEMA
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages that a producer tried to send to the broker.",
        )
        self._operation_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of publishing a message, until the broker confirms it.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to a handler.",
        )
        self._process_duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of a handler.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )

    # -- handlers ----------------------------------------------------------------------

    def traced(self, handler: Handler, queue: str) -> Handler:
        """
        Put a span and metrics around a handler.  The parent of the span is the span in
        which the message was published.  The span is the current one while the handler
        runs; a coroutine has it to its end.

        :param queue: the queue that the messages come from.
        """

        def handle(delivery: Delivery) -> object:
            parent = self._propagate.extract(_carrier(delivery))
            server = self._server()
            span = self._tracer.start_span(
                f"process {_named(queue) or _named(delivery.routing_key)}".strip(),
                parent,
                self._trace.SpanKind.CONSUMER,
                {
                    **_PROCESS,
                    **server,
                    _DESTINATION: consumed_destination(
                        delivery.exchange, delivery.routing_key, queue
                    ),
                    **_anonymous(queue),
                    _ROUTING_KEY: delivery.routing_key,
                    _DELIVERY_TAG: delivery.delivery_tag,
                    _BODY_SIZE: len(delivery.body),
                    **_about(delivery.properties),
                },
            )
            measured = {**_PROCESS, **server, _DESTINATION: _named(queue) or queue}
            self._consumed.add(1, measured)
            began = self._seconds()

            def end(result: Any) -> Any:
                error = result.value if isinstance(result, Failure) else None
                taken = self._seconds() - began
                self._process_duration.record(taken, _failed(measured, error))
                _end(span, error)
                return result

            token = self._context.attach(self._trace.set_span_in_context(span, parent))
            try:
                result = handler(delivery)
                if iscoroutine(result):  # keeps the context that it starts in
                    result = Deferred.fromCoroutine(result)
            except BaseException:
                end(Failure())
                raise
            finally:
                self._context.detach(token)
            return result.addBoth(end) if isinstance(result, Deferred) else end(result)

        return handle

    # -- publishing --------------------------------------------------------------------

    def publisher(self, **options: Any) -> Publisher:
        """
        Make a publisher with spans and metrics around each message.

        :param options: as for `Publisher`.
        """
        return WrappedPublisher(self._service, around=self.publishing, **options)

    def publishing(self, publish: Publish) -> Publish:
        """
        Put a span and metrics around a function that publishes a `Message`.  The
        parent of the span is the one in the message's headers, if there is one, and the
        current span otherwise.  The handler of the message continues the span.

        :param publish: returns a Deferred that fires when the broker has the message.
        """

        def send(message: Message) -> Deferred[None]:
            server = self._server()
            destination = published_destination(message.exchange, message.routing_key)
            try:
                headers = dict(message.properties.headers or {})
            except UndecodableProperty:
                return publish(message)  # the headers cannot carry a context
            parent = self._propagate.extract(
                _texts(headers), self._context.get_current()
            )
            span = self._tracer.start_span(
                f"publish {_named(message.exchange or message.routing_key)}".strip(),
                parent,
                self._trace.SpanKind.PRODUCER,
                {
                    **_PUBLISH,
                    **server,
                    _DESTINATION: destination,
                    **({} if message.exchange else _anonymous(message.routing_key)),
                    _ROUTING_KEY: message.routing_key,
                    _BODY_SIZE: len(message.body),
                    **_about(message.properties),
                },
            )
            measured = {
                **_PUBLISH,
                **server,
                _DESTINATION: message.exchange or "amq.default",
            }
            began = self._seconds()

            def end(result: Any) -> Any:
                error = result.value if isinstance(result, Failure) else None
                attributes = _failed(measured, error)
                self._sent.add(1, attributes)
                self._operation_duration.record(self._seconds() - began, attributes)
                _end(span, error)
                return result

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
            return publish(traced).addBoth(end)

        return send

    def _server(self) -> Attributes:
        connection = self._service.connection
        if connection is None:
            return {}
        parameters = connection.parameters
        return {_SERVER_ADDRESS: parameters.host, _SERVER_PORT: parameters.port_number}


class WrappedPublisher(Publisher):
    """
    A publisher with something around the publishing of each message, such as a span.
    """

    def __init__(
        self,
        service: AMQPClientService,
        *,
        around: Around | None = None,
        **options: Any,
    ) -> None:
        """
        :param around: takes the function that publishes a message, and returns the one
            that is called in its place.
        :param options: as for `Publisher`.
        """
        super().__init__(service, **options)
        self._send = None if around is None else around(self._send_message)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        properties: Properties | None = None,
        mandatory: bool = False,
        *,
        delay: float = 0.0,
    ) -> Deferred[None]:
        """
        Publish a message, as `Publisher.publish` does.
        """
        if delay:
            # This comes back here, without a delay, for the delay queues.
            return super().publish(
                exchange, routing_key, body, properties, mandatory, delay=delay
            )
        if self._send is None:
            return self._post(exchange, routing_key, body, properties, mandatory)
        if self._encode_body is not None and not isinstance(body, bytes):
            # Here, since what is around each message gets its bytes.
            try:
                body, properties = self._encoded_body(body, properties)
            except Exception:
                return fail()
        try:
            message = Message(
                exchange,
                routing_key,
                body_bytes(body),
                EMPTY if properties is None else properties,
                mandatory,
            )
        except TypeError as error:
            return fail(error)
        return self._send(message)

    def _post(
        self,
        exchange: str,
        routing_key: str,
        body: Body,
        properties: Properties | None,
        mandatory: bool,
    ) -> Deferred[None]:
        return super().publish(exchange, routing_key, body, properties, mandatory)

    def _send_message(self, message: Message) -> Deferred[None]:
        return self._post(
            message.exchange,
            message.routing_key,
            message.body,
            message.properties,
            message.mandatory,
        )


def published_destination(exchange: str, routing_key: str) -> str:
    """
    The destination name of a message that is published: ``exchange:routing_key``.
    """
    return _joined(exchange, routing_key) or "amq.default"


def consumed_destination(exchange: str, routing_key: str, queue: str) -> str:
    """
    The destination name of a message that is consumed: ``exchange:routing_key:queue``,
    without what is empty, and without the queue if it is the routing key.
    """
    return _joined(exchange, routing_key, "" if queue == routing_key else queue)


def _joined(*names: str) -> str:
    return ":".join(filter(None, names))


def _named(name: str) -> str:
    """
    The name, unless a broker made it up: such names are too many for names of spans.
    """
    return "" if name.startswith(_MADE_UP) else name


def _anonymous(queue: str) -> dict[str, bool]:
    return {_ANONYMOUS: True} if queue.startswith(_MADE_UP) else {}


def _failed(attributes: Attributes, error: BaseException | None) -> Attributes:
    if error is None:
        return attributes
    return {**attributes, _ERROR_TYPE: type(error).__qualname__}


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        from opentelemetry.trace import Status, StatusCode

        span.record_exception(error)
        span.set_attribute(_ERROR_TYPE, type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _about(properties: Properties) -> Attributes:
    attributes: Attributes = {}
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
