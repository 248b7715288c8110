# -*- test-case-name: txamqp091.test.unit.client.test_acks -*-
"""
Tests for acknowledgements that leave together: `Channel.join_acks`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine import acks
from txamqp091._machine.acks import JoinedAcks
from txamqp091.errors import LocalProtocolError
from txamqp091.message import Delivery, Message
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.test.support.recording import split_frames
from txamqp091.wire import spec
from txamqp091.wire.frames import Piece
from txamqp091.wire.method import Method, decode_method

Answer = Callable[[Delivery], object]


class JoinTests(ChannelCase):
    """
    Tests on a channel.
    """

    def setUp(self) -> None:
        """
        Keep what is delivered.
        """
        super().setUp()
        self.channel.join_acks()
        self.kept: list[Delivery] = []
        self.consumer(self.kept.append)
        self.deliver(*range(1, 9))
        self.heard()

    def answer(self, *answers: tuple[int, Answer]) -> list[Method]:
        """
        Answer for deliveries in one turn, and tell what was sent.
        """
        for tag, answer in answers:
            answer(self.kept[tag - 1])
        return self.heard()

    def test_contiguous(self) -> None:
        """
        Those that follow one another leave as one, turn by turn.
        """
        sent = self.answer(*[(tag, Delivery.ack) for tag in (1, 2, 3)])
        self.assertEqual(sent, [spec.BasicAck(3, True)])
        sent = self.answer(*[(tag, Delivery.ack) for tag in (4, 5)])
        self.assertEqual(sent, [spec.BasicAck(5, True)])

    def test_asked_again(self) -> None:
        """
        To ask for it again changes nothing, before there is a consumer.
        """
        channel = self.peer.open_channel()
        channel.join_acks()
        channel.join_acks()
        self.assertRaises(LocalProtocolError, self.channel.join_acks)

    def test_gap(self) -> None:
        """
        While one before them is with its handler, they leave one by one, and settle
        nothing else.
        """
        sent = self.answer((2, Delivery.ack), (3, Delivery.ack))
        self.assertEqual(sent, [spec.BasicAck(2), spec.BasicAck(3)])
        sent = self.answer((1, Delivery.ack), (4, Delivery.ack), (6, Delivery.ack))
        self.assertEqual(sent, [spec.BasicAck(4, True), spec.BasicAck(6)])

    def test_other_answers(self) -> None:
        """
        A nack or a reject is no acknowledgement, but those after it can be joined.
        """
        sent = self.answer(
            (1, Delivery.ack),
            (2, Delivery.nack),
            (3, Delivery.ack),
            (4, Delivery.reject),
            (5, Delivery.ack),
        )
        self.assertEqual(
            sent,
            [
                spec.BasicNack(2, False, True),
                spec.BasicReject(4, True),
                spec.BasicAck(5, True),
            ],
        )

    def test_order(self) -> None:
        """
        An acknowledgement does not overtake what was said before it: a message that a
        handler has published is with the broker first.
        """
        self.kept[0].ack()
        self.channel.basic_publish("", "answers", b"2")
        self.kept[1].ack()
        self.assertEqual(
            self.heard(), [spec.BasicPublish(0, "", "answers"), spec.BasicAck(2, True)]
        )

    def test_multiple(self) -> None:
        """
        What the user settles by ``multiple`` is settled.
        """
        sent = self.answer(
            (2, Delivery.ack),
            (3, lambda delivery: delivery.ack(multiple=True)),
            (4, Delivery.ack),
            (6, lambda delivery: delivery.nack(multiple=True)),
            (7, Delivery.ack),
        )
        self.assertEqual(
            sent,
            [
                spec.BasicAck(2),
                spec.BasicAck(3, True),
                spec.BasicNack(6, True, True),
                spec.BasicAck(7, True),
            ],
        )

    def test_closed(self) -> None:
        """
        Nothing is said on a channel that has ended.
        """
        self.channel.close()
        self.assertEqual(self.answer((1, Delivery.ack)), [spec.ChannelClose(200)])

    def test_too_late(self) -> None:
        """
        What was settled before is not known.
        """
        with self.assertRaises(LocalProtocolError):
            self.channel.join_acks()

    def test_hopeless(self) -> None:
        """
        When the lowest one is never settled, nothing is joined, and nothing grows.
        """
        self.patch(acks, "_HOPELESS", 3)
        later = range(2, 7)
        self.answer(*[(tag, Delivery.ack) for tag in later])
        sent = self.answer((1, Delivery.ack), (7, Delivery.ack))
        self.assertEqual(sent, [spec.BasicAck(1), spec.BasicAck(7)])
        joined = self.channel._machine._joined
        assert joined is not None
        self.assertEqual(joined._ahead, set())


class EquivalenceTests(SynchronousTestCase):
    """
    What is sent means what it would have meant.
    """

    def test_any_order(self) -> None:
        """
        Whatever is answered, in whatever order and turns, a broker knows the same of
        each delivery after each turn as without joining.
        """
        rand = random.Random(91)
        kinds = [spec.BasicAck] * 6 + [spec.BasicNack, spec.BasicReject]
        for _ in range(300):
            pieces: list[Piece] = []
            joined = JoinedAcks(1, pieces.append)
            tags = list(range(1, 30))
            while tags:
                expected = {}
                for _ in range(rand.randint(1, 8)):
                    if tags:
                        tag = tags.pop(min(int(rand.expovariate(0.7)), len(tags) - 1))
                        expected[tag] = method = rand.choice(kinds)
                        joined.settle(method, tag, 0)
                unsettled = {*expected, *tags}
                self.assertEqual(self.understood(pieces, unsettled), expected)
                pieces.clear()

    def understood(
        self, pieces: list[Piece], unsettled: set[int]
    ) -> dict[int, type[Method]]:
        """
        What a broker makes of it.
        """
        answers = {}
        for _, _, payload in split_frames(b"".join(pieces)):
            method = decode_method(payload)
            tag = method.delivery_tag  # type: ignore[attr-defined]
            multiple = getattr(method, "multiple", False)
            self.assertIn(tag, unsettled)
            for each in [tag] if not multiple else sorted(unsettled):
                if each <= tag:
                    answers[each] = type(method)
                    unsettled.discard(each)
        return answers


@every_broker
class RabbitJoinTests(RabbitTestCase):
    """
    With a real RabbitMQ.
    """

    async def test_consumed(self) -> None:
        """
        A thousand messages are dealt with, some of them late or refused, and the
        broker has none left.
        """
        channel = await self.open_channel()
        channel.join_acks()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.confirm_select()
        await channel.publish_many(Message("", queue, b"%d" % n) for n in range(1000))
        late: list[Delivery] = []
        seen: list[bytes] = []

        def handle(delivery: Delivery) -> None:
            seen.append(delivery.body)
            if len(seen) % 50 == 7:
                late.append(delivery)
            elif len(seen) % 50 == 9:
                delivery.reject(requeue=False)
            else:
                delivery.ack()
            if len(late) > 3:
                late.pop(0).ack()

        consumer = await channel.basic_consume(queue, handle, prefetch=200)
        await until(lambda: len(seen) == 1000)
        while late:
            late.pop().ack()
        await consumer.cancel()
        await channel.close()
        self.assertEqual(seen, [b"%d" % n for n in range(1000)])
        self.assertEqual(self.node.queue_depth(queue, self.vhost), 0)
