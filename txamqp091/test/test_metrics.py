# -*- test-case-name: txamqp091.test.test_metrics -*-
"""
The numbers for Prometheus.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.service.health import ConsumerHealth, Health, admin_site
from txamqp091.service.metrics import Metrics, NotInstalled
from txamqp091.service.outcomes import Outcome
from txamqp091.test.test_architecture import run
from txamqp091.test.test_health import get


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
            name="shop", queue="orders", subscribed=False, refused="403", waiting=3
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
        watch = self.metrics.watch("shop", "orders")
        watch.began()
        watch.began()
        watch.ended(Outcome.PARKED, 0.2)
        self.assertEqual(self.value("handlers_running", **shop), 1)
        self.assertEqual(self.value("deliveries_total", **shop, outcome="dead"), 1)
        self.assertEqual(self.value("deliveries_total", **shop, outcome="ack"), 0)
        self.assertEqual(self.value("handler_seconds_count", **shop), 1)
        self.assertEqual(self.value("handler_seconds_sum", **shop), 0.2)

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
            "import sys, txamqp091.tap, txamqp091.service.metrics\n"
            "import txamqp091.service.tracing\n"
            "print(sorted(each for each in sys.modules\n"
            "    if each.partition('.')[0] in\n"
            "    ('prometheus_client', 'opentelemetry')))\n"
        )
        self.assertEqual(loaded, "[]")
