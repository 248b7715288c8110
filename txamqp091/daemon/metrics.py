# -*- test-case-name: txamqp091.test.unit.daemon.test_metrics -*-
"""
Numbers for Prometheus.  They need ``prometheus_client``, which is imported when a
`Metrics` is made, and not before.

Labels have as many values as the settings have consumers, and there are outcomes:
nothing of what is in messages.
"""

from __future__ import annotations

__all__ = ["CONTENT_TYPE", "Metrics", "NotInstalled"]

from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import TYPE_CHECKING

from twisted.web.http import Request
from twisted.web.resource import Resource

from txamqp091.daemon.connection_metrics import Traffic, buckets
from txamqp091.protocol import AMQPProtocol
from txamqp091.worker.counts import Histogram, MessageOutcome
from txamqp091.worker.handler_publisher import PublisherCounts
from txamqp091.worker.health import Health

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

#: How long handlers take, by classes, in seconds.
_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)

#: What is told of each consumer, as it is now.
_GAUGES = {
    "handlers_running": "How many handlers run.",
    "last_delivery_timestamp_seconds": "When the last handler began.",
    "subscribed": "Whether the broker gives the consumer messages.",
    "refused": "Whether it does not, and will not, unless somebody changes something.",
    "messages_waiting": "How many messages have come and wait for a handler.",
}


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
            from prometheus_client import CollectorRegistry, Counter, Gauge
        except ImportError:
            raise NotInstalled(
                "metrics need prometheus_client: install txamqp091[metrics]"
            ) from None
        self._health = health
        registry: CollectorRegistry = CollectorRegistry()
        self.registry = registry
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

        self._consumers = _Consumers(health)
        registry.register(self._consumers)
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

    def histogram(self, consumer: str) -> Histogram:
        """
        What measures how long a consumer's handlers take.
        """
        return self._consumers.histogram.setdefault(consumer, Histogram(_BOUNDS))

    def text(self) -> bytes:
        """
        All numbers, as Prometheus reads them.
        """
        from prometheus_client import generate_latest

        now = self._health()
        self._connected.set(now.connected)
        self._blocked.set(bool(now.blocked))
        self._ready.set(now.ready)
        return generate_latest(self.registry)

    def resource(self) -> Resource:
        """
        The page ``/metrics``.
        """
        return _MetricsPage(self)


class _Consumers:
    """
    A collector of Prometheus: all consumers, as they are when somebody looks.
    """

    def __init__(self, health: Callable[[], Health]) -> None:
        self.histogram: dict[str, Histogram] = {}
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """
        ``prometheus_client``: somebody looks.
        """
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        labels = ["consumer", "queue"]
        deliveries = CounterMetricFamily(
            "txamqp091_deliveries",
            "Messages that were worked on, by what became of them.",
            labels=[*labels, "outcome"],
        )
        seconds = HistogramMetricFamily(
            "txamqp091_handler_seconds",
            "How long handlers take, with the answer.",
            labels=labels,
        )
        gauges = {
            name: GaugeMetricFamily(f"txamqp091_{name}", words, labels=labels)
            for name, words in _GAUGES.items()
        }
        for each in self._health().consumers:
            names = [each.name, each.queue]
            for outcome in MessageOutcome:
                count = getattr(each.counts, outcome.name.lower())
                deliveries.add_metric([*names, outcome.value], count)
            if each.name in self.histogram:
                histogram = self.histogram[each.name]
                seconds.add_metric(names, buckets(histogram), histogram.total)
            values: dict[str, float] = {
                "handlers_running": each.running,
                "subscribed": each.subscribed,
                "refused": bool(each.refused),
                "messages_waiting": each.waiting,
            }
            if each.idle is not None:
                values["last_delivery_timestamp_seconds"] = time() - each.idle
            for name, value in values.items():
                gauges[name].add_metric(names, float(value))
        yield deliveries
        yield seconds
        yield from gauges.values()


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
