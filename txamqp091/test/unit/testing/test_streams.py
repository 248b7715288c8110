# -*- test-case-name: txamqp091.test.unit.testing.test_streams -*-
"""
Tests for `txamqp091.testing._broker.streams`: what the clock and sizes do, by the
message.  RabbitMQ does it by the chunk, in its own time.
"""

from __future__ import annotations

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.wire import spec


class RetentionTests(BrokerTestCase):
    """
    What streams forget: the oldest segments, when there is too much or it is too old.
    """

    def test_size(self) -> None:
        """
        The oldest segments go, as long as there is too much; never the last.
        """
        self.channel.tell(
            queue(
                "s",
                type="stream",
                max_length_bytes=40,
                stream_max_segment_size_bytes=20,
            )
        )
        for number in range(10):
            self.channel.publish("", "s", b"%010d" % number)
        numbers = [int(body) for body in self.broker.queue("s").bodies]
        self.assertEqual(numbers, [6, 7, 8, 9])
        reader = self.client.channel()
        reader.broker_side.handle(spec.BasicQos(0, 1))
        reader.broker_side.handle(
            spec.BasicConsume(queue="s", arguments={"x-stream-offset": 0})
        )
        self.assertEqual(reader.take()[-1].headers, {"x-stream-offset": 6})

    def test_age(self) -> None:
        """
        Segments go when all of them is too old, the next time that one is written.
        """
        self.channel.tell(
            queue("s", type="stream", max_age="1m", stream_max_segment_size_bytes=1)
        )
        for number in range(3):
            self.channel.publish("", "s", b"%d" % number)
            self.clock.advance(40)
        self.channel.publish("", "s", b"3")
        self.assertEqual(self.broker.queue("s").bodies, [b"2", b"3"])
