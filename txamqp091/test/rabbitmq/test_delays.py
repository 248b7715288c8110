# -*- test-case-name: txamqp091.test.rabbitmq.test_delays -*-
"""
Delayed publishing on RabbitMQ: `Publisher.publish` with ``delay``.  What happens second
by second is in `txamqp091.test.unit.service.test_delay_queues`.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from twisted.internet.defer import gatherResults

from txamqp091.arguments import quorum_queue
from txamqp091.errors import NotFound
from txamqp091.message import Delivery
from txamqp091.service import (
    AMQPClientService,
    Binding,
    Exchange,
    Publisher,
    Queue,
    Topology,
)
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.wire.properties import Properties


@every_broker
class DelayTests(RabbitTestCase):
    """
    A service publishes with delays, and consumes.
    """

    async def service(self) -> AMQPClientService:
        """
        A service that is ready, and is stopped when the test ends.
        """
        from twisted.internet import reactor

        service = AMQPClientService(
            reactor,
            self.uri,
            topology=Topology.of(
                Exchange(name="shop", type="topic"),
                Queue(name="orders", arguments=quorum_queue()),
                Binding(source="shop", queue="orders", routing_key="order.*"),
            ),
        )
        service.startService()
        self.addCleanup(service.stopService)
        await service.when_ready()
        return service

    async def test_order(self) -> None:
        """
        Messages arrive in the order of their delays, none early, with the routing key
        and the properties that they were published with.
        """
        service = await self.service()
        publisher = Publisher(service)
        arrived: list[tuple[float, Delivery]] = []

        def note(delivery: Delivery) -> None:
            arrived.append((monotonic(), delivery))
            delivery.ack()

        service.consume("orders", note)
        began = monotonic()
        properties = Properties(content_type="text/plain", headers={"a": 1})
        sent = [
            publisher.publish(exchange, key, str(delay), properties, delay=delay)
            for exchange, key, delay in (
                ("shop", "order.eu", 3),
                ("", "orders", 1),
                ("shop", "order.us", 2),
            )
        ]
        await gatherResults(sent)
        await until(lambda: len(arrived) == 3)
        self.assertEqual([each.body for _, each in arrived], [b"1", b"2", b"3"])
        for (when, delivery), key in zip(
            arrived, ("orders", "order.us", "order.eu"), strict=True
        ):
            self.assertGreaterEqual(when - began, float(delivery.body))
            self.assertEqual(delivery.routing_key, key)
            self.assertEqual(delivery.properties.content_type, "text/plain")
            headers: Any = delivery.headers
            self.assertEqual(headers["a"], 1)

    async def test_no_destination(self) -> None:
        """
        An exchange or a queue that does not exist is told at once.
        """
        publisher = Publisher(await self.service())
        for exchange, key in (("nowhere", "key"), ("", "no-queue")):
            sent = publisher.publish(exchange, key, b"", delay=1)
            await self.assertFailure(sent, NotFound)
