# -*- test-case-name: txamqp091.test.unit.testing.test_messages -*-
"""
Tests for `txamqp091.testing._broker.messages`: what RabbitMQ would refuse.
"""

from __future__ import annotations

import struct

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class MalformedTests(BrokerTestCase):
    """
    Messages that cannot be decoded.
    """

    def test_passed_on(self) -> None:
        """
        Their properties are passed on as they are, to dead letters too.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="", dead_letter_routing_key="dead"),
            queue("dead"),
        )
        for raw in (b"", b"\x20\x00\x00\x00", struct.pack(">HIs", 0x2000, 1, b"a")):
            self.channel.broker_side.publish(
                spec.BasicPublish(routing_key="q"), Properties.from_wire(raw), b""
            )
            self.channel.get("q", no_ack=False)
            self.channel.tell(spec.BasicNack(0, True, False))
            got = self.channel.get("dead")
            assert got is not None
            self.assertEqual(got.properties.encode(), raw)
