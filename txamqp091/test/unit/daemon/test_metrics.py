# -*- test-case-name: txamqp091.test.unit.daemon.test_metrics -*-
"""
The numbers for Prometheus.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from time import time
from typing import Any
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.daemon.admin import admin_site
from txamqp091.daemon.metrics import Metrics, NotInstalled
from txamqp091.test.repository.test_architecture import run
from txamqp091.test.unit.daemon.test_admin import get
from txamqp091.worker.counts import Counts, Histogram, MessageOutcome
from txamqp091.worker.health import ConsumerHealth, Health


class MetricsTests(SynchronousTestCase):
    """
    What is counted.
    """

    def setUp(self) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            raise SkipTest("prometheus_client is not here") from None
        consumer = ConsumerHealth(
            name="shop",
            queue="orders",
            subscribed=False,
            refused="403",
            running=2,
            waiting=3,
            counts=Counts(dead_lettered=1),
        )
        self.health = Health(consumers=[consumer])
        self.metrics = Metrics(lambda: self.health)

    def value(self, name: str, **labels: str) -> float | None:
        """
        A number, as it is scraped.
        """
        self.metrics.text()
        return self.metrics.registry.get_sample_value(f"txamqp091_{name}", labels)

    def test_work(self) -> None:
        """
        Messages are counted by what became of them.
        """
        shop = {"consumer": "shop", "queue": "orders"}
        histogram = self.metrics.histogram("shop")
        histogram.add(0.2)
        self.assertEqual(self.value("handlers_running", **shop), 2)
        self.assertEqual(self.value("deliveries_total", **shop, outcome="dead"), 1)
        self.assertEqual(self.value("deliveries_total", **shop, outcome="ack"), 0)
        self.assertEqual(self.value("handler_seconds_count", **shop), 1)
        self.assertEqual(self.value("handler_seconds_sum", **shop), 0.2)
        for bound, count in (("0.1", 0), ("0.5", 1), ("300.0", 1), ("+Inf", 1)):
            found = self.value("handler_seconds_bucket", **shop, le=bound)
            self.assertEqual(found, count, bound)

    def test_state(self) -> None:
        """
        How the daemon is stands there too.
        """
        shop = {"consumer": "shop", "queue": "orders"}
        self.assertEqual(self.value("ready"), 0)
        self.assertEqual(self.value("subscribed", **shop), 0)
        self.assertEqual(self.value("refused", **shop), 1)
        self.assertEqual(self.value("messages_waiting", **shop), 3)
        self.health = Health(connected=False, blocked="low on memory")
        self.assertEqual(self.value("ready"), 0)
        self.assertEqual((self.value("connected"), self.value("blocked")), (0, 1))
        connection: Any = mock.Mock(bytes_received=5, bytes_sent=3, heard_at=None)
        self.metrics.connected(connection)
        self.assertEqual(self.value("connections_total"), 1)

    def test_last(self) -> None:
        """
        When the last handler began is told in the time of the wall.
        """
        shop = {"consumer": "shop", "queue": "orders"}
        self.assertIsNone(self.value("last_delivery_timestamp_seconds", **shop))
        [consumer] = self.health.consumers
        self.health = Health(consumers=[replace(consumer, idle=100.0)])
        last = self.value("last_delivery_timestamp_seconds", **shop)
        assert last is not None
        self.assertLessEqual(last, time() - 100)

    def test_outcomes(self) -> None:
        """
        Each outcome has its number among those that are counted.
        """
        counts = Counts()
        for outcome in MessageOutcome:
            counts.count(outcome)
        [consumer] = self.health.consumers
        self.health = Health(consumers=[replace(consumer, counts=counts)])
        for outcome in MessageOutcome:
            labels = {"consumer": "shop", "queue": "orders", "outcome": outcome.value}
            self.assertEqual(self.value("deliveries_total", **labels), 1)

    def test_classes(self) -> None:
        """
        A length of time is counted in the class that it just fits in.
        """
        histogram = Histogram((0.001, 30.0))
        for seconds in (0.0, 0.001, 0.002, 30.0, 31.0):
            histogram.add(seconds)
        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertAlmostEqual(histogram.total, 61.003)

    def test_page(self) -> None:
        """
        It is a page that Prometheus can read.
        """
        site = admin_site(lambda: self.health, self.metrics.resource())
        status, headers, body = get(site, "/metrics")
        self.assertEqual(status, 200)
        self.assertIn("version=0.0.4", headers["content-type"])
        self.assertIn("# TYPE txamqp091_deliveries_total counter", body)


class AbsentTests(SynchronousTestCase):
    """
    Without the extra.
    """

    def test_not_installed(self) -> None:
        """
        It is told what to install.
        """
        self.enterContext(mock.patch.dict(sys.modules, {"prometheus_client": None}))
        with self.assertRaisesRegex(NotInstalled, r"txamqp091\[metrics\]"):
            Metrics(lambda: Health())

    def test_lazy(self) -> None:
        """
        The client loads nothing of the daemon; the daemon, none of the extras.
        """
        loaded = run(
            "import sys, txamqp091\n"
            "print(sorted(each for each in sys.modules\n"
            "    if each.startswith('txamqp091.service')\n"
            "    or each.partition('.')[0] in\n"
            "    ('prometheus_client', 'opentelemetry', 'tomllib')\n"
            "    or each.startswith('twisted.web')))\n"
        )
        self.assertEqual(loaded, "[]")
        loaded = run(
            "import sys, txamqp091.tap, txamqp091.daemon.metrics\n"
            "import txamqp091.daemon.tracing\n"
            "print(sorted(each for each in sys.modules\n"
            "    if each.partition('.')[0] in\n"
            "    ('prometheus_client', 'opentelemetry')))\n"
        )
        self.assertEqual(loaded, "[]")
