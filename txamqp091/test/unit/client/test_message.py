# -*- test-case-name: txamqp091.test.unit.client.test_message -*-
"""
Tests for `txamqp091.message`, and for ``basic_get``, which fetches one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy, deepcopy
from datetime import UTC, datetime
from pickle import dumps, loads
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.channel import Channel, ExchangeType
from txamqp091.errors import (
    AlreadySettled,
    EncodeError,
    UndecodableProperty,
)
from txamqp091.message import (
    Death,
    Delivery,
    DeliveryMode,
    Message,
    Settler,
    body_bytes,
)
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.types import Int64


class MessageTests(SynchronousTestCase):
    """
    What is published.
    """

    def test_message(self) -> None:
        """
        A message has what it was made with, and does not show its body.
        """
        message = Message("logs", "a.b", "Grüße")
        self.assertEqual((message.exchange, message.routing_key), ("logs", "a.b"))
        self.assertIs(message.properties, EMPTY)
        self.assertFalse(message.mandatory)
        self.assertEqual(repr(message), "<Message to 'logs' with 'a.b', 5 bytes>")

    def test_body_bytes(self) -> None:
        """
        Bytes are not copied; what is no body is told apart.
        """
        body = b"bytes"
        self.assertIs(body_bytes(body), body)
        self.assertEqual(body_bytes(memoryview(b"abc")), b"abc")
        error = self.assertRaises(TypeError, body_bytes, 5)
        self.assertIn("int", str(error))
        self.assertRaises(EncodeError, body_bytes, "\ud800")


class DeliveryCase(ChannelCase):
    """
    With a consumer that keeps its deliveries.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        super().setUp()
        self.seen: list[Delivery] = []
        self.consumer(self.seen.append)

    def one(self, properties: Properties = EMPTY) -> Delivery:
        """
        Have a delivery.
        """
        self.deliver(len(self.seen) + 1, properties=properties)
        return self.seen[-1]


class ReadTests(DeliveryCase):
    """
    What a delivery tells.
    """

    def test_fields(self) -> None:
        """
        A delivery has what the broker said.
        """
        self.peer.deliver(
            1,
            "tag",
            2**63,
            b"body",
            Properties(headers={"a": 1}, message_id="7"),
            redelivered=True,
            exchange="Grüße",
            routing_key="k" * 255,
        )
        [delivery] = self.seen
        self.assertEqual(delivery.body, b"body")
        self.assertEqual(delivery.delivery_tag, 2**63)
        self.assertEqual(delivery.consumer_tag, "tag")
        self.assertIs(delivery.redelivered, True)
        self.assertEqual(delivery.exchange, "Grüße")
        self.assertEqual(delivery.routing_key, "k" * 255)
        self.assertEqual(delivery.properties.message_id, "7")
        self.assertEqual(delivery.headers, {"a": 1})
        self.assertIs(delivery.properties, delivery.properties)

    def test_stale(self) -> None:
        """
        A delivery tells whether an answer for it can still reach the broker.
        """
        delivery = self.one()
        self.assertFalse(delivery.is_stale)
        self.channel.close()
        self.assertTrue(delivery.is_stale)
        self.assertFalse(delivery.settled)

    def test_counts(self) -> None:
        """
        A delivery tells how often its message was delivered, where the queue counts.
        """
        delivery = self.one(Properties(headers={"x-delivery-count": 2}))
        self.assertEqual((delivery.delivery_count, delivery.acquired_count), (2, None))
        delivery = self.one(Properties(headers={"x-acquired-count": Int64(3)}))
        self.assertEqual((delivery.delivery_count, delivery.acquired_count), (None, 3))
        delivery = self.one(Properties(headers={"x-delivery-count": "many"}))
        self.assertIsNone(delivery.delivery_count)

    def test_deaths(self) -> None:
        """
        A delivery tells why its message was dead-lettered, whatever a publisher may
        have written there.
        """
        time = datetime(2026, 12, 1, tzinfo=UTC)
        table: dict[str, Any] = {
            "reason": "rejected",
            "queue": "orders",
            "count": Int64(2),
            "exchange": "shop",
            "routing-keys": ["new", "old"],
            "time": time,
        }
        delivery = self.one(Properties(headers={"x-death": [table, {}, 5]}))
        first, second = delivery.deaths
        self.assertEqual(
            first, Death("rejected", "orders", 2, "shop", ("new", "old"), time)
        )
        self.assertEqual(second, Death("", ""))
        odd: dict[str, Any] = {"count": "2", "routing-keys": "a", "time": 7}
        delivery = self.one(Properties(headers={"x-death": [odd]}))
        self.assertEqual(delivery.deaths, (Death("", ""),))
        for headers in ({"x-death": "yes"}, {}):
            self.assertEqual(self.one(Properties(headers=headers)).deaths, ())

    def test_message_count(self) -> None:
        """
        What was fetched tells how many messages are left.
        """
        getting = self.channel.basic_get("work")
        self.peer.feed(
            self.peer.content(1, spec.BasicGetOk(7, False, "e", "k", 1 << 31))
        )
        delivery = self.successResultOf(getting)
        assert delivery is not None
        self.assertEqual(delivery.message_count, 1 << 31)
        self.assertIsNone(self.one().message_count)

    def test_copies(self) -> None:
        """
        Messages and properties can be pickled and copied; a delivery is itself when it
        is copied, and says what to pickle in its place.
        """
        import twisted.persisted.styles  # noqa: F401 - it changes what pickle does

        delivery = self.one(Properties(headers={"a": [1]}, message_id="7"))
        for properties in (delivery.properties, Properties(headers={"b": b"x"})):
            message = Message("e", "k", b"body", properties, True)
            for duplicate in (copy, deepcopy, lambda each: loads(dumps(each))):
                again = duplicate(message)
                self.assertEqual(again.properties, properties)
                self.assertEqual(
                    (again.exchange, again.routing_key, again.body, again.mandatory),
                    ("e", "k", b"body", True),
                )
                headers = duplicate(properties.headers)
                self.assertEqual(headers, properties.headers)
                self.assertRaises(TypeError, headers.update, {"c": 1})
        self.assertIs(copy(delivery), delivery)
        self.assertEqual(deepcopy([delivery]), [delivery])
        self.assertIn("properties", str(self.assertRaises(TypeError, dumps, delivery)))
        self.assertEqual(json.dumps(delivery.headers), '{"a": [1]}')

    def test_names(self) -> None:
        """
        There are names for what a message and an exchange can be.
        """
        properties = Properties(delivery_mode=DeliveryMode.PERSISTENT)
        self.assertEqual(properties, Properties(delivery_mode=2))
        declared = self.channel.exchange_declare("logs", ExchangeType.TOPIC)
        [said] = self.peer.serve()
        self.successResultOf(declared)
        assert isinstance(said, spec.ExchangeDeclare)
        self.assertEqual(said.type, "topic")

    def test_nothing_said(self) -> None:
        """
        A message with no properties has empty headers.
        """
        delivery = self.one()
        self.assertEqual(delivery.headers, {})
        self.assertIsNone(delivery.stream_offset)
        self.assertIs(delivery.redelivered, False)
        self.assertEqual(delivery.exchange, "")

    def test_names_that_are_not_utf8(self) -> None:
        """
        Criterion 6: names that are not UTF-8 can be read, and sent back as they are.
        """
        delivery = self.one()
        method = spec.BasicDeliver("tag", 2, False, "\udcff", "a\udc80")
        self.peer.feed(self.peer.content(1, method))
        delivery = self.seen[-1]
        self.assertEqual(delivery.exchange, "\udcff")
        self.channel.basic_publish(delivery.exchange, delivery.routing_key, b"")
        self.assertEqual(self.heard(), [spec.BasicPublish(0, "\udcff", "a\udc80")])

    def test_stream_offset(self) -> None:
        """
        A message from a stream has its place there; what is no number is none.
        """
        values: list[tuple[int | str, int | None]] = [(42, 42), (0, 0), ("42", None)]
        for value, offset in values:
            delivery = self.one(Properties(headers={"x-stream-offset": value}))
            self.assertEqual(delivery.stream_offset, offset)

    def test_lazy(self) -> None:
        """
        Criterion 6: properties that nobody can read are no trouble before they are
        read.
        """
        delivery = self.one(Properties.from_wire(b"\x20\x00\xff\xff\xff\xff"))
        self.assertEqual(delivery.body, b"1")
        self.assertRaises(UndecodableProperty, lambda: delivery.headers)
        self.assertRaises(UndecodableProperty, lambda: delivery.stream_offset)
        delivery.ack()
        self.assertEqual(self.heard(), [spec.BasicAck(1, False)])

    def test_repr(self) -> None:
        """
        A delivery does not show its body.
        """
        self.assertEqual(
            repr(self.one()),
            "<Delivery 1 of 'tag', routing key 'work', 1 bytes>",
        )


class SettleTests(DeliveryCase):
    """
    How a delivery is answered for.
    """

    def test_answers(self) -> None:
        """
        Each way to answer sends its method.
        """
        answers: list[tuple[Callable[[Delivery], None], Method]] = [
            (lambda each: each.ack(), spec.BasicAck(1, False)),
            (lambda each: each.ack(multiple=True), spec.BasicAck(2, True)),
            (lambda each: each.nack(), spec.BasicNack(3, False, True)),
            (lambda each: each.nack(False), spec.BasicNack(4, False, False)),
            (lambda each: each.nack(True, True), spec.BasicNack(5, True, True)),
            (lambda each: each.nack(False, True), spec.BasicNack(6, True, False)),
            (lambda each: each.reject(), spec.BasicReject(7, True)),
            (lambda each: each.reject(False), spec.BasicReject(8, False)),
        ]
        for answer, method in answers:
            delivery = self.one()
            self.assertFalse(delivery.settled)
            answer(delivery)
            self.assertTrue(delivery.settled)
            self.assertEqual(self.heard(), [method])

    def test_twice(self) -> None:
        """
        The second answer is an error here, and nothing is sent.
        """
        delivery = self.one()
        delivery.reject()
        self.heard()
        for again in [delivery.ack, delivery.nack, delivery.reject]:
            self.assertRaises(AlreadySettled, again)
        self.assertEqual(self.heard(), [])

    def test_multiple(self) -> None:
        """
        An answer with ``multiple`` is one for all older ones of the channel, and for
        no younger one.
        """
        for settle in [
            lambda each: each.ack(multiple=True),
            lambda each: each.nack(multiple=True),
        ]:
            older, middle, younger = self.one(), self.one(), self.one()
            settle(middle)
            self.assertEqual(
                [each.settled for each in [older, middle, younger]],
                [True, True, False],
            )
            self.assertRaises(AlreadySettled, older.ack)
            younger.ack()
            self.assertEqual(len(self.heard()), 2)

    def test_auto_ack(self) -> None:
        """
        A delivery of a consumer with ``auto_ack`` needs no answer.
        """
        seen: list[Delivery] = []
        self.consumer(seen.append, auto_ack=True, consumer_tag="other")
        self.peer.deliver(1, "other", 1)
        self.assertTrue(seen[0].settled)
        self.assertRaises(AlreadySettled, seen[0].ack)
        self.assertEqual(self.heard(), [])

    def test_stale(self) -> None:
        """
        Criterion 17: the answer for a delivery whose channel has ended is never
        sent, and is no error; a second one is.
        """
        first, second = self.one(), self.one()
        closing = self.channel.close()
        self.heard()
        first.ack()
        self.assertEqual(self.heard(), [])
        self.peer.send(1, spec.ChannelCloseOk())
        self.successResultOf(closing)
        second.nack()
        again = self.peer.open_channel()
        self.assertRaises(AlreadySettled, first.ack)
        self.assertEqual(self.heard(), [])
        self.assertTrue(again.is_open)

    def test_lost(self) -> None:
        """
        The same when the connection has gone.
        """
        delivery = self.one()
        self.peer.drop()
        written = len(self.peer.transport.writes)
        delivery.ack()
        self.assertEqual(len(self.peer.transport.writes), written)


class ThreadClock(Clock):
    """
    A clock that takes calls from other threads, and makes them when told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.from_threads: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        """
        Twisted: the way in.
        """
        self.from_threads.append(lambda: call(*arguments))


class ThreadTests(DeliveryCase):
    """
    Answers from other threads.
    """

    def test_other_thread(self) -> None:
        """
        From another thread an answer takes the way in that the reactor has for it,
        and touches nothing of the connection before; it counts once there too.
        """
        clock = ThreadClock()
        settler = Settler(self.channel._machine, clock)
        deliveries = [self.one() for _ in range(3)]
        settler.unsettled = self.channel.settler.unsettled
        for each in deliveries:
            each.settler = settler
        errors: list[Exception] = []

        def work() -> None:
            deliveries[0].ack()
            deliveries[1].nack(multiple=True)
            deliveries[2].reject(requeue=False)
            try:
                deliveries[0].ack()
            except AlreadySettled as error:
                errors.append(error)

        thread = Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(len(errors), 1)
        self.assertEqual(self.heard(), [])
        for call in clock.from_threads:
            call()
        self.assertEqual(
            self.heard(),
            [
                spec.BasicAck(1, False),
                spec.BasicNack(2, True, True),
                spec.BasicReject(3, False),
            ],
        )

    def posted(self, count: int, settle: Callable[[list[Delivery]], object]) -> None:
        """
        Have a thread settle deliveries, which the connection's thread does not hear of
        by itself.
        """
        clock = ThreadClock()
        settler = Settler(self.channel._machine, clock)
        settler.unsettled = self.channel.settler.unsettled
        self.channel.settler = settler
        self.each = [self.one() for _ in range(count)]
        for each in self.each:
            each.settler = settler
        thread = Thread(target=settle, args=(self.each,))
        thread.start()
        thread.join()
        self.assertEqual(self.heard(), [])
        self.late = clock.from_threads

    def test_multiple_after_thread(self) -> None:
        """
        What a thread has acknowledged leaves before a later ``multiple``.
        """
        self.posted(3, lambda each: each[0].ack())
        self.each[2].ack(multiple=True)
        for call in self.late:
            call()
        self.assertEqual(
            self.heard(), [spec.BasicAck(1, False), spec.BasicAck(3, True)]
        )

    def test_thread_after_multiple(self) -> None:
        """
        In a thread too, what ``multiple`` has settled cannot be settled again.
        """
        self.posted(3, lambda each: each[1].ack(multiple=True))
        with self.assertRaises(AlreadySettled):
            self.each[0].ack()
        self.each[2].ack()
        errors: list[Exception] = []

        def late() -> None:
            for each in self.each:
                try:
                    each.nack()
                except AlreadySettled as error:
                    errors.append(error)

        thread = Thread(target=late)
        thread.start()
        thread.join()
        self.assertEqual(len(errors), 3)

    def after_thread(self, verb: Callable[[Channel], Deferred[Any]]) -> list[Method]:
        """
        What is said when a verb is called after a thread's acknowledgement.
        """
        self.posted(1, lambda each: each[0].ack())
        verb(self.channel).addErrback(lambda _: None)
        for call in self.late:
            call()
        return self.heard()

    def test_close_after_thread(self) -> None:
        """
        What a thread has acknowledged leaves before its channel is closed.
        """
        said = self.after_thread(Channel.close)
        self.assertEqual(said[0], spec.BasicAck(1, False))
        self.assertEqual(type(said[-1]), spec.ChannelClose)

    def test_connection_close_after_thread(self) -> None:
        """
        And before the connection is.
        """
        said = self.after_thread(lambda channel: channel.connection.close())
        self.assertEqual(said[0], spec.BasicAck(1, False))
        self.assertEqual(type(said[-1]), spec.ConnectionClose)

    def test_verbs_after_thread(self) -> None:
        """
        And before whatever settles, commits or cancels.
        """
        verbs: list[Callable[[Channel], Deferred[Any]]] = [
            Channel.tx_commit,
            Channel.tx_rollback,
            lambda channel: channel.basic_ack(0, True),
            lambda channel: channel.basic_nack(0, True),
            lambda channel: channel.basic_cancel("unknown"),
            Channel.basic_recover,
        ]
        for verb in verbs:
            said = self.after_thread(verb)
            self.assertEqual(said[0], spec.BasicAck(self.each[0].delivery_tag, False))
            self.assertEqual(len(said), 2)

    def test_cancel_after_thread(self) -> None:
        """
        And before a consumer is cancelled.
        """
        self.posted(0, lambda each: None)
        consumer = self.consumer(lambda _: None, consumer_tag="other")
        delivery = self.one()
        self.channel.settler.unsettled = delivery.settler.unsettled
        delivery.settler = self.channel.settler
        thread = Thread(target=delivery.ack)
        thread.start()
        thread.join()
        consumer.cancel().addErrback(lambda _: None)
        self.assertEqual(
            self.heard(),
            [spec.BasicAck(1, False), spec.BasicCancel("other")],
        )

    def test_too_late(self) -> None:
        """
        An answer whose channel has ended is not sent.
        """
        clock = ThreadClock()
        delivery = self.one()
        delivery.settler = Settler(self.channel._machine, clock)
        delivery.settler.unsettled = self.channel.settler.unsettled
        self.channel.close()
        self.peer.serve()
        thread = Thread(target=delivery.ack)
        thread.start()
        thread.join()
        for call in clock.from_threads:
            call()
        self.assertEqual(self.heard(), [])
