# -*- test-case-name: txamqp091.test.unit.testing.test_queues -*-
"""
Tests for `txamqp091.testing._broker.queues`: what takes a clock, or all orders of
events.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.testing._broker.broker import Broker
from txamqp091.testing._broker.messages import RequeueReason
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class OrderTests(SynchronousTestCase):
    """
    Messages that are fetched and given back.
    """

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
    def test_nothing_is_lost(self, priorities: list[int], data: st.DataObject) -> None:
        """
        However messages are fetched and given back, all of them are there in the end,
        in the order of priority and age.
        """
        broker = Broker(Clock())
        broker.declare_queue("q", arguments={"x-max-priority": 3})
        found = broker._vhosts["/"].queues["q"]
        for number, priority in enumerate(priorities):
            body = b"%d" % number
            broker.publish("", "q", body, Properties(priority=priority))
        out = []
        for _ in range(data.draw(st.integers(0, 40))):
            if data.draw(st.booleans()):
                entry = found.fetch(False)
                if entry is not None:
                    out.append(entry)
            elif out:
                place = data.draw(st.integers(0, len(out) - 1))
                self.requeue(found, out.pop(place))
        for entry in out:
            self.requeue(found, entry)
        expected = sorted(
            range(len(priorities)), key=lambda number: (-priorities[number], number)
        )
        self.assertEqual([int(body) for body in broker.queue("q").bodies], expected)
        self.assertEqual(broker.queue("q").unacked, 0)

    def requeue(self, found: Any, entry: Any) -> None:
        found.requeue([entry], RequeueReason.NACK)


class TimeTests(BrokerTestCase):
    """
    What the clock does to messages and queues.
    """

    def ready(self, name: str = "q") -> int:
        """
        How many messages are ready.
        """
        return self.broker.queue(name).ready

    def test_message_ttl(self) -> None:
        """
        A message is dropped when the shorter of its own time and the queue's is up.
        """
        self.channel.tell(queue("q", message_ttl=1000))
        self.channel.publish("", "q", expiration="500")
        self.clock.advance(0.4)
        self.assertEqual(self.ready(), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.ready(), 0)
        self.channel.publish("", "q", expiration="5000")
        self.clock.advance(1)
        self.assertEqual(self.ready(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_queue_expires(self) -> None:
        """
        A queue goes when nobody has used it for so long; a consumer uses it.
        """
        declare = queue("q", expires=1000)
        self.channel.tell(declare)
        self.clock.advance(0.9)
        self.channel.tell(declare)
        self.clock.advance(0.9)
        self.channel.get("q")
        self.clock.advance(0.9)
        self.channel.tell(spec.BasicConsume(queue="q", consumer_tag="t"))
        self.clock.advance(10)
        self.assertEqual(self.broker.queues(), ["q"])
        self.channel.tell(spec.BasicCancel("t"))
        self.clock.advance(1)
        self.assertEqual(self.broker.queues(), [])

    def test_delayed_retry(self) -> None:
        """
        A message waits longer each time that it has failed, up to a limit; what waits
        is off the clock when the queue goes.
        """
        self.channel.tell(
            queue(
                "q",
                type="quorum",
                delayed_retry_type="all",
                delayed_retry_min=1000,
                delayed_retry_max=2500,
            )
        )
        self.channel.publish("", "q")
        tag = 0
        for refuse, seconds in (
            (spec.BasicReject, 1),
            (spec.BasicReject, 2),
            (spec.BasicReject, 2.5),
            (spec.BasicNack, 2.5),
        ):
            self.assertIsNotNone(self.channel.get("q", no_ack=False))
            tag += 1
            self.channel.tell(refuse(tag, requeue=True))
            self.clock.advance(seconds - 0.25)
            self.assertEqual(self.ready(), 0)
            self.clock.advance(0.5)
            self.assertEqual(self.ready(), 1)
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicReject(5), spec.QueueDelete(queue="q"))
        self.channel.broker_side.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_delayed_retry_with_consumer(self) -> None:
        """
        A consumer gets the message when it has waited.
        """
        self.channel.tell(
            queue("q", type="quorum", delayed_retry_type="all", delayed_retry_min=1000),
            spec.BasicConsume(queue="q", consumer_tag="t"),
        )
        self.channel.publish("", "q", b"1")
        self.channel.take()
        self.channel.tell(spec.BasicNack(1))
        self.clock.advance(1)
        self.assertEqual(self.channel.bodies(), [b"1"])
