# -*- test-case-name: txamqp091.test.unit.worker.test_decoding -*-
"""
Handlers of typed bodies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.message import Delivery
from txamqp091.test.unit.worker.test_consumer_service import ConsumerServiceCase
from txamqp091.wire.properties import Properties
from txamqp091.worker.counts import Counts
from txamqp091.worker.decoding import UndecodableBody, decoder
from txamqp091.worker.failure_policy import Dead, FailurePolicy
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.retry_queues import RetryQueues


@dataclass
class Order:
    """
    What a body is about.
    """

    number: int
    kind: str | None

    @classmethod
    def decode(cls, body: bytes, properties: Properties) -> Order:
        """
        Make one of a message.
        """
        return cls(int(body), properties.type)


class DecodingTests(ConsumerServiceCase):
    """
    A consumer with a decoder.
    """

    def test_function(self) -> None:
        """
        The handler gets the decoded body, and the delivery.
        """
        seen: list[tuple[Order, int]] = []

        def handler(order: Order, delivery: Delivery) -> None:
            seen.append((order, delivery.delivery_tag))

        consumer = self.consuming(handler=handler, decode=Order.decode)
        self.broker.publish("", "work", b"7", Properties(type="tea"))
        self.turn()
        self.assertEqual(seen, [(Order(7, "tea"), 1)])
        self.assertEqual(consumer.counts, Counts(acknowledged=1))

    def test_json(self) -> None:
        """
        JSON is decoded by name; a coroutine may be the handler.
        """
        seen: list[Any] = []

        async def handler(body: Any, delivery: Delivery) -> None:
            seen.append(body)

        self.consuming(handler=handler, decode="json")
        self.broker.publish("", "work", '{"tea": [1, "\u00e4"]}'.encode())
        self.turn()
        self.assertEqual(seen, [{"tea": [1, "\u00e4"]}])

    def test_dead_at_once(self) -> None:
        """
        A message whose body cannot be decoded goes to the dead-letter queue, with the
        reason, and the handler is not called.
        """
        self.broker.declare_queue("work.dead")
        options = HandlerOptions(
            policy=FailurePolicy(on_dead=Dead.QUEUE),
            retry_queues=RetryQueues(queue="work", dead_letter_queue="work.dead"),
        )
        consumer = self.consuming(
            handler=lambda body, delivery: self.fail("called"),
            decode="json",
            options=options,
        )
        self.broker.publish("", "work", b"{")
        self.turn()
        self.assertEqual(consumer.counts, Counts(dead_lettered=1))
        [message] = self.broker.queue("work.dead").messages
        headers = dict(message.properties.headers or {})
        self.assertEqual(
            str(headers["x-error-type"]).rpartition(".")[2], "UndecodableBody"
        )
        self.assertIn("JSONDecodeError", str(headers["x-error"]))
        self.assertEqual(self.counts(), (0, 0, 1))
        self.flushLoggedErrors(UndecodableBody)

    def test_kept(self) -> None:
        """
        Without a place for dead messages the message is kept.
        """
        consumer = self.consuming(handler=lambda body, delivery: None, decode="json")
        self.broker.publish("", "work", b"{")
        self.turn()
        self.assertEqual(self.counts(), (0, 1, 1))
        consumer.stopService()
        self.flushLoggedErrors(UndecodableBody)


class DecoderTests(SynchronousTestCase):
    """
    Tests for `decoder`.
    """

    def test_unknown(self) -> None:
        """
        What is no decoder is refused.
        """
        wrong: Any = "yaml"
        with self.assertRaisesRegex(ValueError, 'decode is .yaml.: "json", or a func'):
            decoder(wrong)
        with self.assertRaises(TypeError):
            decoder(None)  # type: ignore[arg-type]
