# -*- test-case-name: txamqp091.test.unit.daemon.test_connection_metrics -*-
"""
What goes over connections, as Prometheus sees it.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SkipTest

from txamqp091.daemon.metrics import Metrics
from txamqp091.errors import Returned
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.worker.handler_publisher import HandlerPublisher
from txamqp091.worker.health import Health


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
        self.metrics.add_publisher("handlers", publisher)
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
