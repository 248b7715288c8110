# -*- test-case-name: txamqp091.test.unit.daemon.test_metrics -*-
"""
The numbers for Prometheus.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from time import time
from typing import Any, cast
from unittest import mock

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091 import __version__
from txamqp091.daemon.admin import admin_site
from txamqp091.daemon.metrics import Metrics
from txamqp091.errors import NotInstalled, Returned
from txamqp091.test.repository.test_architecture import run
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.test.unit.daemon.test_admin import get
from txamqp091.worker.counts import Counts, Histogram, MessageOutcome
from txamqp091.worker.handler_publisher import HandlerPublisher
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
        tally = Counts()
        for outcome in MessageOutcome:
            tally.count(outcome)
        [consumer] = self.health.consumers
        self.health = Health(consumers=[replace(consumer, counts=tally)])
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

    def test_version(self) -> None:
        """
        The version of the package is a label.
        """
        self.assertEqual(self.value("info", version=__version__), 1)

    def test_page(self) -> None:
        """
        It is a page that Prometheus can read.
        """
        reactor = cast(IReactorTime, Clock())
        site = admin_site(reactor, lambda: self.health, self.metrics.text)
        status, headers, body = get(site, "/metrics")
        self.assertEqual(status, 200)
        self.assertIn("version=0.0.4", headers["content-type"])
        self.assertIn("# TYPE txamqp091_deliveries_total counter", body)


class TrafficTests(ServiceCase):
    """
    A service that is looked at.
    """

    def setUp(self) -> None:
        super().setUp()
        try:
            self.metrics = Metrics(Health, self.clock.seconds)
        except ImportError:
            raise SkipTest("prometheus_client is not here") from None
        self.broker.declare_queue("work")

    def value(self, name: str, **labels: str) -> float | None:
        """
        A number, as it is scraped.
        """
        return self.metrics.registry.get_sample_value(f"txamqp091_{name}", labels)

    def follow(self, client: Any) -> None:
        """
        Have the present connection counted.
        """
        self.metrics.connected(client.connection)

    def test_nothing(self) -> None:
        """
        Before there is a connection, nothing has come and gone.
        """
        self.assertEqual(self.value("received_bytes_total"), 0)
        self.assertEqual(self.value("sent_bytes_total"), 0)
        self.assertIsNone(self.value("silence_seconds"))
        self.assertEqual(self.value("blocked_seconds_total"), 0)
        self.assertIn(b"txamqp091_received_bytes_total 0.0", self.metrics.text())

    def test_bytes(self) -> None:
        """
        Bytes are counted over all connections, and never fewer.
        """
        client = self.service()
        connection = client.connection
        assert connection is not None
        self.follow(client)
        received, sent = connection.bytes_received, connection.bytes_sent
        self.assertEqual(self.value("received_bytes_total"), received)
        self.assertEqual(self.value("sent_bytes_total"), sent)
        self.cut()
        self.assertEqual(self.value("sent_bytes_total"), sent)
        self.passes(3)
        self.follow(client)
        assert (second := client.connection) is not None
        self.assertEqual(self.value("sent_bytes_total"), sent + second.bytes_sent)
        self.assertEqual(self.value("connections_total"), 2)

    def test_silence(self) -> None:
        """
        For how long the broker is silent can be seen before it counts as dead.
        """
        client = self.service()
        self.follow(client)
        self.assertEqual(self.value("silence_seconds"), 0)
        self.link.hole()
        self.clock.advance(25)
        self.assertEqual(self.value("silence_seconds"), 25)

    def test_blocked(self) -> None:
        """
        The times are added up in which the broker lets nobody publish.
        """
        for _ in range(2):
            self.metrics.set_blocked(True)
            self.clock.advance(10)
            self.metrics.set_blocked(False)
            self.clock.advance(10)
        self.metrics.set_blocked(False)
        self.assertEqual(self.value("blocked_seconds_total"), 20)
        self.metrics.set_blocked(True)
        self.clock.advance(1)
        self.assertEqual(self.value("blocked_seconds_total"), 21)

    def test_confirms(self) -> None:
        """
        What became of messages is told for each publisher.
        """
        client = self.service()
        publisher = HandlerPublisher(client)
        self.metrics.publishers["handlers"] = publisher
        proof = publisher.publish("", "work", b"first")
        self.turn()
        self.successResultOf(proof)
        self.broker.hold_confirms()
        held = publisher.publish("", "work", b"x")
        self.turn()
        own = {"publisher": "handlers"}
        self.assertEqual(self.value("unconfirmed", **own), 1)
        self.passes(2)
        self.broker.release_confirms()
        self.turn()
        self.successResultOf(held)
        self.broker.refuse_publishes()
        nacked = publisher.publish("", "work", b"y")
        back = publisher.publish("", "nowhere", b"z", mandatory=True)
        self.passes(3)
        self.successResultOf(nacked)
        self.failureResultOf(back, Returned)
        for name, value in (
            ("unconfirmed", 0),
            ("confirms_total", 3),
            ("nacks_total", 1),
            ("returns_total", 1),
            ("republished_total", 1),
            ("publish_failures_total", 1),
        ):
            self.assertEqual(self.value(name, **own), value, name)
        count = self.value("confirm_seconds_count", **own)
        self.assertEqual(count, sum(publisher.latency.counts))
        self.assertEqual(self.value("confirm_seconds_bucket", **own, le="1.0"), 2)
        self.assertEqual(self.value("confirm_seconds_bucket", **own, le="5.0"), 3)


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
        The client loads nothing of the daemon; the daemon, no extras and no web server.
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
            "import txamqp091.service.telemetry\n"
            "print(sorted(each for each in sys.modules\n"
            "    if each.partition('.')[0] in ('prometheus_client', 'opentelemetry')\n"
            "    or each.startswith('twisted.web')))\n"
        )
        self.assertEqual(loaded, "[]")
