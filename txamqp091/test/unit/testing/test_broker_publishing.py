# -*- test-case-name: txamqp091.test.unit.testing.test_broker_publishing -*-
"""
Tests for `txamqp091.testing._broker.publishing`: what a client publishes, and what it
hears of it.
"""

from __future__ import annotations

import struct

from txamqp091.test.support.brokers import BrokerTestCase, ClientChannel, queue
from txamqp091.testing._broker.broker import Broker, Refused
from txamqp091.testing._broker.publishing import REPLY_TO
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


class PublishTests(BrokerTestCase):
    """
    Publishing, returns and confirms.
    """

    def refused(self, code: int, text: str, *arguments: str, **more: object) -> Refused:
        channel = self.client.channel()
        refused: Refused = self.assertRaises(
            Refused, channel.publish, *arguments, **more
        )
        self.assertEqual((refused.reply_code, refused.reply_text), (code, text))
        return refused

    def test_properties_pass_through(self) -> None:
        """
        Properties are delivered as the bytes that came.
        """
        self.channel.tell(queue("q"))
        raw = Properties(headers={"a": [1, {"b": b"c"}]}, priority=7).encode()
        self.channel.broker_side.publish(
            spec.BasicPublish(routing_key="q"), Properties.from_wire(raw), b"body"
        )
        got = self.channel.get("q")
        assert got is not None
        self.assertEqual((got.properties.encode(), got.body), (raw, b"body"))

    def test_malformed_properties(self) -> None:
        """
        Properties that cannot be read are passed on as they are, even to dead letters.
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

    def test_mandatory(self) -> None:
        """
        A mandatory message that has no queue comes back, with its content, before it is
        confirmed; others are just confirmed.
        """
        self.channel.tell(spec.ConfirmSelect())
        self.channel.publish("amq.fanout", "k", b"1", mandatory=True, message_id="m")
        self.channel.publish("amq.fanout", "k", b"2")
        returned, first, second = self.channel.take()
        self.assertEqual(
            returned.method, spec.BasicReturn(312, "NO_ROUTE", "amq.fanout", "k")
        )
        self.assertEqual((returned.body, returned.properties.message_id), (b"1", "m"))
        self.assertEqual(
            [first.method, second.method], [spec.BasicAck(1), spec.BasicAck(2)]
        )

    def test_delivered_before_confirmed(self) -> None:
        """
        On one channel, a message is delivered before it is confirmed.
        """
        self.channel.tell(
            queue("q"),
            spec.ConfirmSelect(nowait=True),
            spec.BasicConsume(queue="q", consumer_tag="t"),
        )
        self.channel.publish("", "q")
        self.assertEqual(
            self.channel.methods(),
            [spec.BasicDeliver("t", 1, False, "", "q"), spec.BasicAck(1)],
        )

    def test_no_exchange(self) -> None:
        """
        The exchange must be there, and not be internal.
        """
        self.refused(404, "NOT_FOUND - no exchange 'x' in vhost '/'", "x", "k")
        self.channel.tell(spec.ExchangeDeclare(exchange="i", internal=True))
        self.refused(
            403,
            "ACCESS_REFUSED - cannot publish to internal exchange 'i' in vhost '/'",
            "i",
            "k",
        )

    def test_immediate(self) -> None:
        """
        RabbitMQ knows no immediate messages.
        """
        refused = self.refused(
            540, "NOT_IMPLEMENTED - immediate=true", "", "q", immediate=True
        )
        self.assertTrue(refused.connection)

    def test_user_id(self) -> None:
        """
        A message says who it is from, or nothing.
        """
        self.channel.publish("", "q", user_id="guest")
        self.refused(
            406,
            "PRECONDITION_FAILED - user_id property set to 'root' but authenticated "
            "user was 'guest'",
            "",
            "q",
            user_id="root",
        )

    def test_copies(self) -> None:
        """
        CC and BCC are arrays, or the message is refused.
        """
        for name in ("CC", "BCC"):
            self.refused(
                406,
                "PRECONDITION_FAILED - invalid message: "
                f'{{unacceptable_type_in_header,"{name}",longstr}}',
                "",
                "q",
                headers={name: "not an array"},
            )

    def test_old_delivery_mode(self) -> None:
        """
        RabbitMQ 3.10 knows two delivery modes, 4.3 takes any.
        """
        strange = Properties.from_wire(b"\x10\x00\x4d")
        method = spec.BasicPublish(routing_key="q")
        self.channel.broker_side.publish(method, strange, b"")
        self.broker = Broker(version="3.10.8")
        channel = self.connect().channel()
        refused = self.assertRaises(
            Refused, channel.broker_side.publish, method, strange, b""
        )
        self.assertEqual(
            refused.reply_text,
            "PRECONDITION_FAILED - invalid message: {delivery_mode_unknown,77}",
        )

    def test_closed_inside(self) -> None:
        """
        A channel that goes while its message is delivered hears no more of it.
        """
        self.channel.tell(queue("q"), spec.ConfirmSelect())
        channel = self.channel

        class Closing(ClientChannel):
            def deliver(self, *arguments: object) -> None:
                channel.broker_side.close()

        Closing(self.client, 7).tell(spec.BasicConsume(queue="q", no_ack=True))
        self.channel.publish("", "q")
        self.assertEqual(self.channel.take(), [])


class ReplyTests(BrokerTestCase):
    """
    Direct reply-to.
    """

    def ask(self) -> str:
        """
        Ask on the channel, and return where the answer is to go.
        """
        self.channel.tell(
            queue("requests"),
            spec.BasicConsume(queue=REPLY_TO, consumer_tag="t", no_ack=True),
        )
        self.channel.publish("", "requests", b"?", reply_to=REPLY_TO, message_id="m")
        (message,) = self.broker.queue("requests").messages
        self.assertEqual(message.properties.message_id, "m")
        address = message.properties.reply_to
        assert address is not None
        return address

    def test_answer(self) -> None:
        """
        An answer goes straight to the channel that asked.
        """
        address = self.ask()
        other = self.connect().channel()
        declare = spec.QueueDeclare(queue=address, passive=True)
        self.assertEqual(other.tell(declare), [spec.QueueDeclareOk(address, 0, 1)])
        other.publish("", address, b"!", mandatory=True)
        (answer,) = self.channel.take()
        self.assertEqual(answer.method, spec.BasicDeliver("t", 1, False, "", address))
        self.assertEqual(answer.body, b"!")
        self.assertEqual(other.take(), [])

    def test_gone(self) -> None:
        """
        When nobody waits any more, an answer is lost; asking whether somebody does
        tells.
        """
        address = self.ask()
        self.channel.tell(spec.BasicCancel("t"))
        other = self.client.channel()
        other.publish("", address, mandatory=True)
        self.assertEqual((other.take(), self.channel.take()), ([], []))
        self.assert_refused(
            404,
            f"NOT_FOUND - no queue '{address}' in vhost '/'",
            spec.QueueDeclare(queue=address, passive=True),
        )
        other.publish("", f"{REPLY_TO}.bogus", mandatory=True)
        self.assertEqual(len(other.take()), 1)

    def test_channel_gone(self) -> None:
        """
        With its channel an address is gone.
        """
        address = self.ask()
        self.channel.broker_side.close()
        self.assertIsNone(self.broker.replies.find(address))

    def test_refused(self) -> None:
        """
        There is one consumer of answers on a channel, it does not acknowledge, and
        without it there is nothing to ask for.
        """
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - reply consumer cannot acknowledge",
            spec.BasicConsume(queue=REPLY_TO),
        )
        refused = self.assertRaises(
            Refused, self.client.channel().publish, "", "q", reply_to=REPLY_TO
        )
        self.assertEqual(
            refused.reply_text,
            "PRECONDITION_FAILED - fast reply consumer does not exist",
        )
        self.ask()
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - reply consumer already set",
            spec.BasicConsume(queue=REPLY_TO, no_ack=True),
            self.channel,
        )

    def test_the_name_itself(self) -> None:
        """
        The name that stands for all addresses can be asked for, and be nothing else.
        """
        self.assertEqual(
            self.channel.tell(queue(REPLY_TO)), [spec.QueueDeclareOk(REPLY_TO, 0, 1)]
        )
        self.assertEqual(self.refusal(spec.BasicGet(queue=REPLY_TO)).reply_code, 404)
