# -*- test-case-name: txamqp091.test.unit.testing.test_deliveries -*-
"""
Tests for `txamqp091.testing._broker.deliveries`: time limits, by the clock.

What the limits do besides is in `txamqp091.test.scenarios.test_consumer_timeouts`.
"""

from __future__ import annotations

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.wire import spec


def consume(name: str, tag: str, **arguments: int) -> spec.BasicConsume:
    """
    A consumer, its arguments without the ``x-``.
    """
    table = {f"x-{key.replace('_', '-')}": each for key, each in arguments.items()}
    return spec.BasicConsume(queue=name, consumer_tag=tag, arguments=table)


class TimeoutTests(BrokerTestCase):
    """
    Deliveries that are not settled in time, as in RabbitMQ 4.3.
    """

    def setUp(self) -> None:
        """
        Have a client that understands the end of a consumer.
        """
        super().setUp()
        self.client.session.client_properties = {
            "capabilities": {"consumer_cancel_notify": True}
        }

    def test_each_has_its_time(self) -> None:
        """
        A delivery goes back when its own time is over; the consumer goes on when all
        that went back is settled, and the others may be settled in time.
        """
        self.channel.tell(queue("q", type="quorum"), consume("q", "t"))
        for body in (b"1", b"2", b"3"):
            self.channel.publish("", "q", body)
            self.clock.advance(100)
        self.channel.take()
        self.clock.advance(1500)
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("t", True)])
        self.assertEqual(self.broker.queue("q").bodies, [b"1"])
        self.clock.advance(100)
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("t", True)])
        self.assertEqual(self.broker.queue("q").bodies, [b"1", b"2"])
        self.assertEqual(self.channel.tell(spec.BasicAck(3)), [])
        self.assertEqual(self.channel.tell(spec.BasicAck(1)), [])
        self.channel.broker_side.handle(spec.BasicAck(2))
        self.assertEqual(self.channel.bodies(), [b"1", b"2"])
        self.assertEqual(self.broker.queue("q").unacked, 2)

    def test_together(self) -> None:
        """
        A consumer that has several deliveries of one time is ended once.
        """
        self.channel.tell(queue("q", type="quorum"), consume("q", "t"))
        for body in (b"1", b"2"):
            self.channel.publish("", "q", body)
        self.channel.take()
        self.clock.advance(1800)
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("t", True)])
        self.assertEqual(self.broker.queue("q").bodies, [b"1", b"2"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_asked_for(self) -> None:
        """
        A quorum queue, and a consumer of it, may say how long; each delivery has its
        own time, whichever went out first.
        """
        self.channel.tell(
            queue("usual", type="quorum"),
            queue("short", type="quorum", consumer_timeout=60_000),
            consume("usual", "usual"),
            consume("short", "as the queue says"),
            consume("usual", "as it says", consumer_timeout=5000),
        )
        for name in ("usual", "short", "usual"):
            self.channel.publish("", name)
        self.channel.take()
        for seconds, tag in ((5, "as it says"), (55, "as the queue says")):
            self.clock.advance(seconds - 1)
            self.assertEqual(self.channel.methods(), [])
            self.clock.advance(1)
            [cancel, *_] = self.channel.methods()
            self.assertEqual(cancel, spec.BasicCancel(tag, True))
        self.clock.advance(1740)
        self.assertIn(spec.BasicCancel("usual", True), self.channel.methods())

    def test_active_consumer(self) -> None:
        """
        With a single active consumer the next one takes over, if there is one; the
        first one is active again when it has settled what was late, and there is no
        other.
        """
        single = queue("q", type="quorum", single_active_consumer=True)
        self.channel.tell(single, consume("q", "first"))
        self.channel.publish("", "q", b"1")
        self.channel.take()
        self.clock.advance(1800)
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("first", True)])
        self.channel.broker_side.handle(spec.BasicAck(1))
        self.assertEqual(self.channel.bodies(), [b"1"])
        self.channel.tell(consume("q", "second"))
        self.clock.advance(1800)
        tags = [
            each.consumer_tag
            for each in self.channel.methods()
            if isinstance(each, spec.BasicDeliver)
        ]
        self.assertEqual(tags, ["second"])

    def test_rolled_back(self) -> None:
        """
        What was settled late can be settled again after a rollback.
        """
        self.channel.tell(queue("q", type="quorum"), consume("q", "t"))
        self.channel.publish("", "q", b"1")
        self.channel.take()
        self.clock.advance(1800)
        self.channel.take()
        self.channel.tell(spec.TxSelect(), spec.BasicAck(1), spec.TxRollback())
        self.channel.broker_side.handle(spec.BasicAck(1))
        self.assertEqual(self.channel.bodies(), [])
        self.channel.broker_side.handle(spec.TxCommit())
        self.assertEqual(self.channel.bodies(), [b"1"])

    def test_classic(self) -> None:
        """
        A classic queue waits for ever.
        """
        self.channel.tell(queue("q"), consume("q", "t"))
        self.channel.publish("", "q")
        self.clock.advance(86400)
        self.assertEqual(self.broker.queue("q").unacked, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class OldTimeoutTests(BrokerTestCase):
    """
    Deliveries that are not acknowledged in time, as in RabbitMQ 3.10.
    """

    version = "3.10.8"

    def test_channel_closed(self) -> None:
        """
        The channel is closed, when the oldest delivery has been out for too long.
        """
        self.channel.tell(queue("q"), consume("q", "t"))
        self.channel.publish("", "q")
        self.clock.advance(1000)
        self.channel.publish("", "q")
        self.channel.tell(spec.BasicAck(1))
        self.clock.advance(1799)
        self.assertIsNone(self.channel.closed)
        self.clock.advance(1)
        self.assertEqual(
            self.channel.closed,
            (
                406,
                (
                    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed "
                    "out. Timeout value used: 1800000 ms. This timeout value can be "
                    "configured, see consumers doc guide to learn more"
                ),
            ),
        )
        self.assertEqual(self.broker.queue("q").ready, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rolled_back(self) -> None:
        """
        A delivery that a rollback has out again is as old as it was.
        """
        self.channel.tell(queue("q"), spec.TxSelect())
        self.broker.publish("", "q", b"1")
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicAck(1))
        self.clock.advance(1799)
        self.channel.tell(spec.TxRollback())
        self.clock.advance(1)
        self.assertIsNotNone(self.channel.closed)
