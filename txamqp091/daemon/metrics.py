# -*- test-case-name: txamqp091.test.unit.daemon.test_metrics -*-
"""
Metrics of a daemon for Prometheus: `Metrics`.

Everything is counted elsewhere and read when Prometheus scrapes.  The module needs
``prometheus_client``, and imports it when a `Metrics` is made.  Label values come from
the settings and from the list of outcomes, never from messages.
"""

from __future__ import annotations

__all__ = ["CONTENT_TYPE", "Metrics"]

from collections.abc import Callable, Iterator
from itertools import accumulate
from time import monotonic, time
from typing import TYPE_CHECKING

from txamqp091._version import __version__
from txamqp091.errors import NotInstalled
from txamqp091.protocol import AMQPProtocol
from txamqp091.worker.counts import Histogram, MessageOutcome
from txamqp091.worker.handler_publisher import PublisherCounts
from txamqp091.worker.health import Health

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

#: Upper bounds of the histogram of handler durations, in seconds.
_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)

#: Gauges of a consumer: name and help.
_CONSUMER_GAUGES = {
    "handlers_running": "Number of handlers that are running.",
    "last_delivery_timestamp_seconds": "Unix time at which the last handler started.",
    "subscribed": "1 if the broker delivers messages to this consumer.",
    "refused": "1 if the broker permanently refuses this consumer.",
    "paused": "1 if the consumer is paused.",
    "messages_waiting": "Number of prefetched messages that wait for a handler.",
}

#: Counters of a publisher: attribute, name and help.
_PUBLISHER_COUNTERS = (
    ("confirmed", "confirms", "Messages that the broker confirmed."),
    ("nacked", "nacks", "Messages that the broker nacked."),
    ("returned", "returns", "Messages that the broker returned as unroutable."),
    ("republished", "republished", "Messages that were published again."),
    ("failures", "publish_failures", "Messages that could not be published."),
)


class Metrics:
    """
    A collector of all metrics of a daemon.

    :ivar registry: the Prometheus registry that holds the collector.
    :ivar publishers: the publishers that are measured, by name.
    """

    def __init__(
        self, health: Callable[[], Health], seconds: Callable[[], float] = monotonic
    ) -> None:
        """
        :param health: returns the present health of the daemon.
        :param seconds: the reactor's clock.
        :raises NotInstalled: ``prometheus_client`` is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry
        except ImportError:
            raise NotInstalled(
                "metrics need prometheus_client: install txamqp091[metrics]"
            ) from None
        self.registry: CollectorRegistry = CollectorRegistry()
        self.publishers: dict[str, PublisherCounts] = {}
        self._health = health
        self._seconds = seconds
        self._histograms: dict[str, Histogram] = {}
        self._connection: AMQPProtocol | None = None
        self._connections = 0
        # Totals of the connections before the present one.
        self._received = 0
        self._sent = 0
        self._blocked = 0.0
        self._blocked_since: float | None = None
        self.registry.register(self)

    def connected(self, connection: AMQPProtocol) -> None:
        """
        Count a new connection.
        """
        self._received, self._sent = self._bytes()
        self._connections += 1
        self._connection = connection

    def set_blocked(self, blocked: bool) -> None:
        """
        Count the time during which the broker blocks publishers.
        """
        self._blocked = self._blocked_seconds()
        self._blocked_since = self._seconds() if blocked else None

    def histogram(self, consumer: str) -> Histogram:
        """
        The histogram of handler durations of a consumer.
        """
        return self._histograms.setdefault(consumer, Histogram(_BOUNDS))

    def text(self) -> bytes:
        """
        All metrics in the text format of Prometheus.
        """
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def _bytes(self) -> tuple[int, int]:
        connection = self._connection
        if connection is None:
            return self._received, self._sent
        return (
            self._received + connection.bytes_received,
            self._sent + connection.bytes_sent,
        )

    def _blocked_seconds(self) -> float:
        if self._blocked_since is None:
            return self._blocked
        return self._blocked + self._seconds() - self._blocked_since

    # -- the collector ---------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """
        ``prometheus_client``: the metrics as they are now.
        """
        health = self._health()
        yield from self._daemon_metrics(health)
        yield from self._connection_metrics()
        yield from self._consumer_metrics(health)
        yield from self._publisher_metrics()

    def _daemon_metrics(self, health: Health) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily(
            "txamqp091", "The version of txamqp091.", {"version": __version__}
        )
        yield GaugeMetricFamily(
            "txamqp091_connected", "1 if the AMQP connection is open.", health.connected
        )
        yield GaugeMetricFamily(
            "txamqp091_blocked",
            "1 if the broker blocks publishers.",
            bool(health.blocked),
        )
        yield GaugeMetricFamily(
            "txamqp091_ready",
            "1 if every consumer is subscribed and making progress.",
            health.ready,
        )

    def _connection_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        received, sent = self._bytes()
        yield CounterMetricFamily(
            "txamqp091_connections",
            "AMQP connections that were opened.",
            self._connections,
        )
        yield CounterMetricFamily(
            "txamqp091_received_bytes", "Bytes of AMQP that were received.", received
        )
        yield CounterMetricFamily(
            "txamqp091_sent_bytes", "Bytes of AMQP that were sent.", sent
        )
        yield CounterMetricFamily(
            "txamqp091_blocked_seconds",
            "Time during which the broker blocked publishers.",
            self._blocked_seconds(),
        )
        connection = self._connection
        if connection is not None and connection.heard_at is not None:
            yield GaugeMetricFamily(
                "txamqp091_silence_seconds",
                "Time since the last frame of the broker; heartbeats count.",
                max(self._seconds() - connection.heard_at, 0.0),
            )

    def _consumer_metrics(self, health: Health) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        labels = ["consumer", "queue"]
        deliveries = CounterMetricFamily(
            "txamqp091_deliveries",
            "Messages that were handled, by outcome.",
            labels=[*labels, "outcome"],
        )
        seconds = HistogramMetricFamily(
            "txamqp091_handler_seconds",
            "Time from the start of a handler until its message is settled.",
            labels=labels,
        )
        gauges = {
            name: GaugeMetricFamily(f"txamqp091_{name}", words, labels=labels)
            for name, words in _CONSUMER_GAUGES.items()
        }
        for each in health.consumers:
            names = [each.name, each.queue]
            for outcome in MessageOutcome:
                count = getattr(each.counts, outcome.name.lower())
                deliveries.add_metric([*names, outcome.value], count)
            if each.name in self._histograms:
                histogram = self._histograms[each.name]
                seconds.add_metric(names, _buckets(histogram), histogram.total)
            values: dict[str, float] = {
                "handlers_running": each.running,
                "subscribed": each.subscribed,
                "refused": bool(each.refused),
                "paused": each.paused,
                "messages_waiting": each.waiting,
            }
            if each.idle is not None:
                values["last_delivery_timestamp_seconds"] = time() - each.idle
            for name, value in values.items():
                gauges[name].add_metric(names, float(value))
        yield deliveries
        yield seconds
        yield from gauges.values()

    def _publisher_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        labels = ["publisher"]
        for attribute, name, words in _PUBLISHER_COUNTERS:
            counter = CounterMetricFamily(f"txamqp091_{name}", words, labels=labels)
            for label, counts in self.publishers.items():
                counter.add_metric([label], getattr(counts, attribute))
            yield counter
        unconfirmed = GaugeMetricFamily(
            "txamqp091_unconfirmed",
            "Messages that wait for the broker's confirm.",
            labels=labels,
        )
        latencies = HistogramMetricFamily(
            "txamqp091_confirm_seconds",
            "Time until the broker's confirm, of a sample of the messages.",
            labels=labels,
        )
        for label, counts in self.publishers.items():
            latency = counts.latency
            unconfirmed.add_metric([label], counts.unconfirmed)
            latencies.add_metric([label], _buckets(latency), latency.total)
        yield unconfirmed
        yield latencies


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """
    The cumulative buckets of a Prometheus histogram.
    """
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
