# -*- test-case-name: txamqp091.test.unit.worker.test_rate_limit -*-
"""
A handler that is called at most so often.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.worker.counts import Counts
from txamqp091.worker.rate_limit import RateLimit, parse_rate


class RateLimitTests(ConsumerServiceCase):
    """
    A consumer with a rate limit.
    """

    def test_bucket(self) -> None:
        """
        As many calls as a second allows come at once, and the others at the rate.
        """
        times: list[float] = []

        def handler(delivery: Delivery) -> None:
            times.append(round(self.clock.seconds(), 3))

        limit = RateLimit("120/m", self.reactor)
        consumer = self.consuming(handler=handler, middleware=[limit], prefetch=4)
        for _ in range(8):
            self.broker.publish("", "work", b"x")
        self.passes(10, step=0.25)
        self.assertEqual(times, [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
        self.assertEqual(consumer.counts, Counts(acknowledged=8))
        self.assertEqual(self.counts(), (0, 0, 1))

    def test_slow(self) -> None:
        """
        A rate of less than one call in a second allows one at once.
        """
        times: list[float] = []
        limit = RateLimit("1/m", self.reactor)
        self.consuming(
            handler=lambda _: times.append(self.clock.seconds()), middleware=[limit]
        )
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.passes(121, step=1)
        self.assertEqual(times, [0.0, 60.0, 120.0])

    def test_stop(self) -> None:
        """
        Messages that still wait when a stop has waited long enough go back.
        """
        limit = RateLimit("1/h", self.reactor)
        consumer = self.consuming(
            handler=lambda _: None, middleware=[limit], shutdown_timeout=1.0
        )
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        stopped = consumer.stopService()
        self.passes(2)
        self.successResultOf(stopped)
        self.assertEqual(self.counts(), (2, 0, 0))
        self.passes(3600, step=60)

    def test_connection_lost(self) -> None:
        """
        A message whose connection is lost while it waits is not handled twice.
        """
        seen: list[bytes] = []
        limit = RateLimit("60/m", self.reactor)
        self.consuming(handler=lambda each: seen.append(each.body), middleware=[limit])
        for number in range(3):
            self.broker.publish("", "work", b"%d" % number)
        self.turn()
        self.cut()
        self.passes(10)
        self.assertEqual(sorted(seen), [b"0", b"1", b"2"])


class RateTests(SynchronousTestCase):
    """
    Tests for `parse_rate`.
    """

    def test_units(self) -> None:
        """
        A rate has a unit.
        """
        self.assertEqual(parse_rate("10/s"), 10.0)
        self.assertEqual(parse_rate("300/m"), 5.0)
        self.assertEqual(parse_rate("1.5/h") * 3600, 1.5)
        self.assertEqual(parse_rate("86400/d"), 1.0)

    def test_wrong(self) -> None:
        """
        Everything else is refused.
        """
        for rate in ("", "10", "10/w", "0/s", "-1/s", "1 /s", "inf/s"):
            with self.assertRaisesRegex(ValueError, "such as 300/m"):
                parse_rate(rate)
