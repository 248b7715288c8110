# -*- test-case-name: txamqp091.test.test_metrics -*-
"""
Numbers for Prometheus.  They need ``prometheus_client``, which is imported when a
`Metrics` is made, and not before.

Labels have as many values as the settings have consumers, and there are outcomes:
nothing of what is in messages.
"""

from __future__ import annotations

__all__ = ["CONTENT_TYPE", "Metrics", "NotInstalled"]

from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING

from twisted.web.http import Request
from twisted.web.resource import Resource

from txamqp091.protocol import AMQPProtocol
from txamqp091.service.health import Health
from txamqp091.service.outcomes import Outcome, Watch
from txamqp091.service.publishing import PublisherCounts
from txamqp091.service.traffic import Traffic

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)


class NotInstalled(ImportError):
    """
    Something is asked for that an extra of the package brings.
    """


class Metrics:
    """
    All numbers of a daemon.

    :ivar registry: where they are.
    """

    def __init__(
        self, health: Callable[[], Health], seconds: Callable[[], float] = monotonic
    ) -> None:
        """
        :param health: how the daemon is, now.
        :param seconds: the reactor's clock.
        :raises NotInstalled: ``prometheus_client`` is not here.
        """
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise NotInstalled(
                "metrics need prometheus_client: install txamqp091[metrics]"
            ) from None
        self._health = health
        registry: CollectorRegistry = CollectorRegistry()
        self.registry = registry
        labels = ("consumer", "queue")
        self._deliveries = Counter(
            "txamqp091_deliveries",
            "Messages that were worked on, by what became of them.",
            (*labels, "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "txamqp091_handler_seconds",
            "How long handlers take, with the answer.",
            labels,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._running = Gauge(
            "txamqp091_handlers_running",
            "How many handlers run.",
            labels,
            registry=registry,
        )
        self._last = Gauge(
            "txamqp091_last_delivery_timestamp_seconds",
            "When the last handler began.",
            labels,
            registry=registry,
        )
        self._subscribed = Gauge(
            "txamqp091_subscribed",
            "Whether the broker gives the consumer messages.",
            labels,
            registry=registry,
        )
        self._refused = Gauge(
            "txamqp091_refused",
            "Whether it does not, and will not, unless somebody changes something.",
            labels,
            registry=registry,
        )
        self._waiting = Gauge(
            "txamqp091_messages_waiting",
            "How many messages have come and wait for a handler.",
            labels,
            registry=registry,
        )
        self._connected = Gauge(
            "txamqp091_connected", "Whether AMQP is open.", registry=registry
        )
        self._blocked = Gauge(
            "txamqp091_blocked",
            "Whether the broker lets nobody publish.",
            registry=registry,
        )
        self._ready = Gauge(
            "txamqp091_ready",
            "Whether every consumer is subscribed and gets on.",
            registry=registry,
        )
        self._connections = Counter(
            "txamqp091_connections",
            "How often AMQP has been opened.",
            registry=registry,
        )

        self._traffic = Traffic(seconds)
        registry.register(self._traffic)

    def connected(self, connection: AMQPProtocol) -> None:
        """
        A connection was opened.
        """
        self._connections.inc()
        self._traffic.follow(connection)

    def set_blocked(self, blocked: bool) -> None:
        """
        The broker lets nobody publish, or does again.
        """
        self._traffic.set_blocked(blocked)

    def add_publisher(self, name: str, counts: PublisherCounts) -> None:
        """
        Tell of a publisher, too.
        """
        self._traffic.publishers[name] = counts

    def watch(self, consumer: str, queue: str) -> Watch:
        """
        Who counts for a consumer.
        """
        return _ConsumerWatch(self, consumer, queue)

    def text(self) -> bytes:
        """
        All numbers, as Prometheus reads them.
        """
        from prometheus_client import generate_latest

        now = self._health()
        self._connected.set(now.connected)
        self._blocked.set(bool(now.blocked))
        self._ready.set(now.ready)
        for each in now.consumers:
            self._subscribed.labels(each.name, each.queue).set(each.subscribed)
            self._refused.labels(each.name, each.queue).set(bool(each.refused))
            self._waiting.labels(each.name, each.queue).set(each.waiting)
        return generate_latest(self.registry)

    def resource(self) -> Resource:
        """
        The page ``/metrics``.
        """
        return _MetricsPage(self)


class _ConsumerWatch(Watch):
    def __init__(self, metrics: Metrics, consumer: str, queue: str) -> None:
        # Finding a label's child takes longer than counting.
        self._running = metrics._running.labels(consumer, queue)
        self._last = metrics._last.labels(consumer, queue)
        self._seconds = metrics._seconds.labels(consumer, queue)
        self._outcomes = {
            outcome: metrics._deliveries.labels(consumer, queue, outcome.value)
            for outcome in Outcome
        }

    def began(self) -> None:
        self._running.inc()
        self._last.set(time())

    def ended(self, outcome: Outcome, seconds: float) -> None:
        self._running.dec()
        self._seconds.observe(seconds)
        self._outcomes[outcome].inc()


class _MetricsPage(Resource):
    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        """
        Twisted: answer.
        """
        request.setHeader(b"content-type", CONTENT_TYPE)
        return self._metrics.text()
