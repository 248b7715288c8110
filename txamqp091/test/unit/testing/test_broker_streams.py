# -*- test-case-name: txamqp091.test.unit.testing.test_broker_streams -*-
"""
Tests for `txamqp091.testing._broker.streams`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from txamqp091.test.support.brokers import BrokerTestCase, ClientChannel, queue
from txamqp091.testing._broker.broker import Broker
from txamqp091.wire import spec
from txamqp091.wire.types import FieldValue


class StreamTests(BrokerTestCase):
    """
    Streams, which are read without being consumed.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("s", type="stream"))
        for number in range(5):
            self.channel.publish("", "s", b"%d" % number)
            self.clock.advance(10)

    def read(
        self, offset: FieldValue = None, prefetch: int = 100, **arguments: FieldValue
    ) -> ClientChannel:
        """
        Start a consumer on a channel of its own.
        """
        channel = self.client.channel()
        table = {
            f"x-{name.replace('_', '-')}": value for name, value in arguments.items()
        }
        if offset is not None:
            table["x-stream-offset"] = offset
        channel.broker_side.handle(spec.BasicQos(0, prefetch))
        channel.broker_side.handle(
            spec.BasicConsume(queue="s", consumer_tag="t", arguments=table)
        )
        return channel

    def test_offsets(self) -> None:
        """
        A consumer begins where it asks to.
        """
        start = 1_700_000_000
        for offset, expected in (
            ("first", b"01234"),
            ("last", b"4"),
            ("next", b""),
            (None, b""),
            (2, b"234"),
            (-1, b"01234"),
            (100, b""),
            ("25s", b"34"),
            ("1h", b"01234"),
            (datetime.fromtimestamp(start + 20, UTC), b"234"),
            (datetime.fromtimestamp(start + 11, UTC), b"234"),
        ):
            bodies = self.read(offset).bodies()
            self.assertEqual(b"".join(bodies), expected, offset)

    def test_headers(self) -> None:
        """
        Each message says where it is in the stream, and has a delivery mode.
        """
        self.channel.publish("", "s", headers={"a": 1}, delivery_mode=2)
        *_, first, last = self.read("first").take()
        self.assertEqual(first.headers, {"x-stream-offset": 4})
        self.assertEqual(first.properties.delivery_mode, 1)
        self.assertEqual(last.headers, {"a": 1, "x-stream-offset": 5})
        self.assertEqual(last.properties.delivery_mode, 2)

    def test_nothing_is_consumed(self) -> None:
        """
        Consumers do not take from each other, and nothing ever goes away by being read,
        or by its reader going.
        """
        for _ in range(2):
            channel = self.read("first")
            self.assertEqual(len(channel.bodies()), 5)
            channel.tell(spec.BasicNack(1, False, True), spec.BasicReject(2, False))
            channel.tell(spec.BasicRecover(True), spec.BasicCancel("t"))
            channel.broker_side.close()
        view = self.broker.queue("s")
        self.assertEqual((view.ready, view.unacked), (5, 0))

    def test_prefetch(self) -> None:
        """
        A consumer reads on as it acknowledges.
        """
        channel = self.read("first", prefetch=2)
        self.assertEqual(channel.bodies(), [b"0", b"1"])
        channel.broker_side.handle(spec.BasicAck(2, True))
        self.assertEqual(channel.bodies(), [b"2", b"3"])

    def test_live(self) -> None:
        """
        What is published goes to everybody who has come to the end.
        """
        readers = [self.read("next"), self.read("last"), self.read(6)]
        self.channel.publish("", "s", b"5")
        self.channel.publish("", "s", b"6")
        self.assertEqual(
            [b"".join(each.bodies()) for each in readers], [b"56", b"456", b"6"]
        )

    def test_declared(self) -> None:
        """
        The count of messages is that of the whole stream; readers are not counted.
        """
        self.read("first")
        self.assertEqual(
            self.channel.tell(spec.QueueDeclare(queue="s", passive=True)),
            [spec.QueueDeclareOk("s", 5, 0)],
        )

    def test_deleted(self) -> None:
        """
        A stream is deleted whoever reads it, and its readers are told.
        """
        reader = self.read("next")
        reader.take()
        self.assertEqual(
            self.channel.tell(spec.QueueDelete(queue="s", if_unused=True)),
            [spec.QueueDeleteOk(0)],
        )
        self.assertEqual(reader.methods(), [spec.BasicCancel("t", True)])

    def test_refused(self) -> None:
        """
        What streams do not do is refused in RabbitMQ's words.
        """
        where = "queue 's' in vhost '/'"
        self.assert_refused(
            540,
            f"NOT_IMPLEMENTED - basic.get not supported by stream queues {where}",
            spec.BasicGet(queue="s"),
            connection=True,
        )
        self.assert_refused(
            540,
            f"NOT_IMPLEMENTED - queue.purge not supported by stream queues {where}",
            spec.QueuePurge(queue="s"),
            connection=True,
        )
        self.assert_refused(
            540,
            "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream "
            f"{where}",
            spec.BasicConsume(queue="s", no_ack=True),
            connection=True,
        )
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - consumer prefetch count is not set for stream "
            f"{where}",
            spec.BasicConsume(queue="s"),
        )
        self.assert_refused(
            406,
            f"PRECONDITION_FAILED - invalid arg 'x-priority' for {where} of queue type "
            "rabbit_stream_queue",
            spec.BasicConsume(queue="s", arguments={"x-priority": 1}),
        )

    def test_bad_offset(self) -> None:
        """
        An offset that is none is refused, and no consumer is made.
        """
        channel = self.client.channel()
        channel.tell(spec.BasicQos(0, 1))
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue 's' in "
            "vhost '/': {invalid_stream_offset_arg,{longstr,<<\"soon\">>}}",
            spec.BasicConsume(queue="s", arguments={"x-stream-offset": "soon"}),
            channel,
        )
        self.assert_refused(
            541,
            "INTERNAL_ERROR",
            spec.BasicConsume(queue="s", arguments={"x-stream-offset": 1.5}),
            channel,
            connection=True,
        )
        self.assertEqual(self.broker.queue("s").consumers, 0)

    def test_filter(self) -> None:
        """
        A consumer may ask for messages with certain values, and those with none.
        """
        for value in ("a", "b", "c"):
            self.channel.publish(
                "", "s", value.encode(), headers={"x-stream-filter-value": value}
            )
        for filters, unfiltered, expected in (
            ("a", False, b"a"),
            (["a", "c"], False, b"ac"),
            (["b"], True, b"01234b"),
        ):
            reader = self.read(
                "first", stream_filter=filters, stream_match_unfiltered=unfiltered
            )
            self.assertEqual(b"".join(reader.bodies()), expected)

    def test_old(self) -> None:
        """
        RabbitMQ 3.10 uses other words, and lets nobody reject what is in a stream.
        """
        self.broker = Broker(self.clock, version="3.10.8")
        self.client = self.connect()
        self.channel = self.client.channel()
        self.channel.tell(queue("s", type="stream"))
        self.channel.publish("", "s", b"0")
        where = "queue 's' in vhost '/'"
        self.assert_refused(
            540,
            "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream "
            f"queues {where}",
            spec.BasicConsume(queue="s", no_ack=True),
            connection=True,
        )
        self.assert_refused(
            406,
            f"PRECONDITION_FAILED - consumer prefetch count is not set for '{where}'",
            spec.BasicConsume(queue="s"),
        )
        reader = self.read("first")
        (delivered,) = reader.take()[-1:]
        self.assertIsNone(delivered.properties.delivery_mode)
        self.assert_refused(
            540,
            "NOT_IMPLEMENTED - basic.nack and basic.reject not supported by stream "
            f"queues {where}",
            spec.BasicReject(1),
            reader,
            connection=True,
        )


class RetentionTests(BrokerTestCase):
    """
    What streams forget.
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
