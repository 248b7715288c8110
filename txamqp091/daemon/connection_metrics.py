# -*- test-case-name: txamqp091.test.unit.daemon.test_connection_metrics -*-
"""
What goes over a connection, for Prometheus: bytes, confirms, and silence.  All of it is
counted anyway, and read when somebody looks; the rest is in
`txamqp091.daemon.metrics`.
"""

from __future__ import annotations

__all__ = ["Traffic", "buckets"]

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from txamqp091.protocol import AMQPProtocol
from txamqp091.worker.counts import Histogram
from txamqp091.worker.handler_publisher import PublisherCounts

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

#: What is told of each publisher: the attribute, the name, and what it is.
_COUNTS = (
    ("confirmed", "confirms", "Messages that the broker has taken."),
    ("nacked", "nacks", "How often the broker could not keep a message."),
    ("returned", "returns", "Messages that came back, as there was no queue for them."),
    ("republished", "republished", "How often a message was sent again."),
    ("failures", "publish_failures", "Messages that could not be published."),
)


class Traffic:
    """
    A collector of Prometheus.

    :ivar publishers: those who publish, by name.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        :param seconds: the reactor's clock.
        """
        self.publishers: dict[str, PublisherCounts] = {}
        self._seconds = seconds
        self._connection: AMQPProtocol | None = None
        # Of the connections before this one.
        self._received = 0
        self._sent = 0
        self._blocked = 0.0
        self._blocked_since: float | None = None

    def follow(self, connection: AMQPProtocol) -> None:
        """
        There is a new connection.
        """
        self._received, self._sent = self._bytes()
        self._connection = connection

    def set_blocked(self, blocked: bool) -> None:
        """
        The broker lets nobody publish, or does again.
        """
        self._blocked = self._blocked_seconds()
        self._blocked_since = self._seconds() if blocked else None

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

    def collect(self) -> Iterator[Metric]:
        """
        ``prometheus_client``: somebody looks.
        """
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        received, sent = self._bytes()
        yield CounterMetricFamily(
            "txamqp091_received_bytes", "Bytes of AMQP that have come.", received
        )
        yield CounterMetricFamily(
            "txamqp091_sent_bytes", "Bytes of AMQP that were sent.", sent
        )
        yield CounterMetricFamily(
            "txamqp091_blocked_seconds",
            "For how long the broker has let nobody publish.",
            self._blocked_seconds(),
        )
        connection = self._connection
        if connection is not None and connection.heard_at is not None:
            yield GaugeMetricFamily(
                "txamqp091_silence_seconds",
                "For how long nothing was heard of the broker; heartbeats count.",
                max(self._seconds() - connection.heard_at, 0.0),
            )
        for attribute, name, words in _COUNTS:
            family = CounterMetricFamily(
                f"txamqp091_{name}", words, labels=["publisher"]
            )
            for label, counts in self.publishers.items():
                family.add_metric([label], getattr(counts, attribute))
            yield family
        gauge = GaugeMetricFamily(
            "txamqp091_unconfirmed",
            "Messages that wait for the broker's answer.",
            labels=["publisher"],
        )
        for label, counts in self.publishers.items():
            gauge.add_metric([label], counts.unconfirmed)
        yield gauge
        yield self._latencies()

    def _latencies(self) -> HistogramMetricFamily:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(
            "txamqp091_confirm_seconds",
            "How long confirms take, of some of the messages.",
            labels=["publisher"],
        )
        for label, counts in self.publishers.items():
            latency = counts.latency
            family.add_metric([label], buckets(latency), latency.total)
        return family


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """
    The classes, as ``prometheus_client`` takes them: each has the ones before it.
    """
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
