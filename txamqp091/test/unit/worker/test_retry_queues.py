# -*- test-case-name: txamqp091.test.unit.worker.test_retry_queues -*-
"""
Delay queues and the dead-letter queue: their names, and the messages for them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.consumer import Consumer
from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery, Message
from txamqp091.service import Binding, Exchange, Queue
from txamqp091.test.support.peer import Peer
from txamqp091.wire.properties import EMPTY, Properties
from txamqp091.wire.types import FieldValue
from txamqp091.worker.retry_queues import RetryQueues, broker_delays

QUEUES = RetryQueues(
    queue="orders", delays=(0.5, 30, 30, 3600), dead_letter_queue="orders.parked"
)


class EntityTests(SynchronousTestCase):
    """
    What has to be declared.
    """

    def test_names(self) -> None:
        """
        The delay is in the name: with other delays there are other queues, and none is
        there with other arguments.
        """
        self.assertEqual(
            [QUEUES.delay_name(each) for each in QUEUES.delays[1:]],
            ["orders.retry.30s", "orders.retry.30s", "orders.retry.3600s"],
        )
        self.assertEqual(QUEUES.delay_name(0.5), "orders.retry.500ms")

    def test_entities(self) -> None:
        """
        For each delay there is a way in and a way back.
        """
        entities = QUEUES.entities()
        queues = {each.name: each for each in entities if isinstance(each, Queue)}
        exchanges = [each.name for each in entities if isinstance(each, Exchange)]
        bindings = [
            (each.source, each.queue) for each in entities if isinstance(each, Binding)
        ]
        delays = ["orders.retry.500ms", "orders.retry.30s", "orders.retry.3600s"]
        self.assertEqual(exchanges, ["orders.retry", *delays])
        self.assertEqual(sorted(queues), sorted(["orders.parked", *delays]))
        self.assertEqual(
            bindings, [("orders.retry", "orders"), *((each, each) for each in delays)]
        )
        self.assertEqual(
            dict(queues["orders.retry.500ms"].arguments),
            {
                "x-queue-type": "quorum",
                "x-message-ttl": 500,
                "x-dead-letter-exchange": "orders.retry",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )

    def test_classic(self) -> None:
        """
        They may be classic queues.
        """
        queues = RetryQueues(
            queue="q", delays=(1,), dead_letter_queue="parked", queue_type="classic"
        )
        for each in queues.entities():
            if isinstance(each, Queue):
                self.assertEqual(each.arguments["x-queue-type"], "classic")

    def test_none(self) -> None:
        """
        Without delays and a dead-letter queue there is nothing to declare.
        """
        self.assertEqual(RetryQueues(queue="orders").entities(), [])


class MessageTests(SynchronousTestCase):
    """
    The message that is published in place of the original.
    """

    def delivery(self, properties: Properties = EMPTY, **details: Any) -> Delivery:
        """
        A delivery.
        """
        peer = Peer(self)
        peer.handshake()
        channel = peer.open_channel()
        deliveries: list[Delivery] = []
        consuming: Deferred[Consumer] = channel.basic_consume(
            "orders", deliveries.append, consumer_tag="c"
        )
        peer.serve()
        self.successResultOf(consuming)
        peer.deliver(1, "c", 1, b"body", properties, **details)
        return deliveries[0]

    def error(self, text: str = "no\nstock") -> ValueError:
        """
        An error that was raised.
        """
        try:
            raise ValueError(text)
        except ValueError as error:
            return error

    def headers(self, message: Message) -> dict[str, Any]:
        """
        Its headers.
        """
        return dict(message.properties.headers or {})

    def test_retry(self) -> None:
        """
        The message keeps everything but what the broker would act on.
        """
        deaths: dict[str, FieldValue] = {"count": 1}
        headers: dict[str, FieldValue] = {"a": 1, "CC": ["all"], "x-death": [deaths]}
        delivery = self.delivery(
            Properties(
                content_type="text/plain",
                message_id="m1",
                priority=3,
                user_id="other",
                expiration="1000",
                delivery_mode=1,
                headers=headers,
            ),
            exchange="shop",
            routing_key="order.new",
        )
        message = QUEUES.retry(delivery, self.error(), 30)
        self.assertEqual(message.exchange, "orders.retry.30s")
        self.assertEqual((message.routing_key, message.body), ("order.new", b"body"))
        properties = message.properties
        self.assertEqual(properties.content_type, "text/plain")
        self.assertEqual((properties.message_id, properties.priority), ("m1", 3))
        self.assertIsNone(properties.user_id)
        self.assertIsNone(properties.expiration)
        self.assertEqual(properties.delivery_mode, 2)
        self.assertEqual(
            self.headers(message),
            {
                "a": 1,
                "x-retry-count": 1,
                "x-original-exchange": "shop",
                "x-original-routing-key": "order.new",
                "x-original-user-id": "other",
                "x-original-expiration": "1000",
                "x-error": "no\\nstock",
                "x-error-type": "builtins.ValueError",
            },
        )

    def test_retry_twice(self) -> None:
        """
        Its origin stays that of the first time.
        """
        before: dict[str, FieldValue] = {
            "x-retry-count": 1,
            "x-original-exchange": "shop",
        }
        delivery = self.delivery(
            Properties(headers=before), exchange="orders.retry", routing_key="new"
        )
        headers = self.headers(QUEUES.retry(delivery, self.error(), 30))
        self.assertEqual(headers["x-retry-count"], 2)
        self.assertEqual(headers["x-original-exchange"], "shop")

    def test_dead_letter(self) -> None:
        """
        The reason is in the headers, cut to a length that fits into a frame.
        """
        delivery = self.delivery()
        error = self.error("long " * 5000)
        message = QUEUES.dead_letter(delivery, error, 4, "shop")
        headers = self.headers(message)
        self.assertEqual((message.exchange, message.routing_key), ("", "orders.parked"))
        self.assertLessEqual(len(headers["x-error"]), 500)
        self.assertLessEqual(len(headers["x-error-traceback"]), 2000)
        self.assertEqual(headers["x-error-queue"], "orders")
        self.assertEqual(headers["x-error-tries"], 4)
        self.assertLess(len(message.properties.encode()), 4096)
        short = QUEUES.dead_letter(delivery, self.error("\udcff"), 4, "shop")
        self.assertIn("in error", self.headers(short)["x-error-traceback"])
        short.properties.encode()

    def test_moved_back(self) -> None:
        """
        A dead message that somebody moves back to its queue is retried anew, wherever
        it was dead-lettered.
        """
        before: dict[str, FieldValue] = {
            "x-retry-count": 2,
            "x-original-exchange": "shop",
        }
        delivery = self.delivery(Properties(headers=before))
        self.assertEqual(QUEUES.retries(delivery), 2)
        dead = QUEUES.dead_letter(delivery, self.error(), 3, "shop")
        moved = self.delivery(dead.properties)
        self.assertEqual(QUEUES.retries(moved), 0)
        headers = self.headers(QUEUES.retry(moved, self.error(), 30))
        self.assertEqual(headers["x-retry-count"], 1)
        self.assertEqual(headers["x-original-exchange"], "shop")
        # The broker has dead-lettered it, as RabbitMQ's headers tell.
        for queue, reason, retries in (
            ("orders", "rejected", 0),
            ("orders", "delivery_limit", 0),
            ("orders", "expired", 2),
            ("orders.retry.30s", "expired", 2),
            ("others", "rejected", 2),
        ):
            death: dict[str, FieldValue] = {"queue": queue, "reason": reason}
            moved = self.delivery(Properties(headers={**before, "x-death": [death]}))
            self.assertEqual(QUEUES.retries(moved), retries, (queue, reason))

    def test_undecodable(self) -> None:
        """
        A message that cannot be decoded is not retried.  It is dead-lettered with what
        can be decoded, and with the bytes of the rest.
        """
        raw = (0x2080).to_bytes(2, "big") + b"\x00\x00\x00\x01\xff\x02m1"
        delivery = self.delivery(Properties.from_wire(raw))
        self.assertRaises(
            UndecodableProperty, lambda: QUEUES.retry(delivery, self.error(), 30)
        )
        message = QUEUES.dead_letter(delivery, self.error(), 1, "shop")
        headers = self.headers(message)
        self.assertEqual(headers["x-original-properties"], raw)
        self.assertEqual(headers["x-original-routing-key"], "work")
        self.assertEqual(headers["x-error"], "no\\nstock")
        self.assertEqual(message.properties.message_id, "m1")
        self.assertEqual((message.body, message.mandatory), (b"body", True))

    def test_plain(self) -> None:
        """
        A message whose headers leave no room in a frame goes without them.
        """
        delivery = self.delivery(Properties(headers={"large": "x" * 9000}, type="t"))
        message = QUEUES.dead_letter(delivery, self.error(), 1, "shop", plain=True)
        self.assertNotIn("large", self.headers(message))
        self.assertEqual(message.properties.type, "t")
        self.assertLess(len(message.properties.encode()), 8192)

    def test_error_without_text(self) -> None:
        """
        An exception of a handler may fail to tell what it is.
        """

        class Bad(Exception):
            def __str__(self) -> str:
                raise SystemExit(1)

        headers = self.headers(QUEUES.retry(self.delivery(), Bad(), 30))
        self.assertIn("has no text", headers["x-error"])


class BrokerTests(SynchronousTestCase):
    """
    Which brokers delay by themselves.
    """

    def test_versions(self) -> None:
        """
        RabbitMQ 4.3 and later do.
        """
        for version, expected in {
            "3.10.8": False,
            "4.2.9": False,
            "4.3.0": True,
            "4.3.0-rc.1": True,
            "4.10.1": True,
            "5.0.0": True,
            "unknown": False,
        }.items():
            properties = {"product": "RabbitMQ", "version": version}
            self.assertEqual(broker_delays(properties), expected, version)
        self.assertFalse(broker_delays({}))
        self.assertFalse(broker_delays({"product": "Other", "version": "9.9"}))
