# -*- test-case-name: txamqp091.test.rabbitmq.test_worker -*-
"""
Consumer services on RabbitMQ: batches, pauses, and retries after any delay.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from txamqp091.arguments import quorum_queue
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService, Publisher, Queue, Topology
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.worker import ConsumerService, Partial, Pause, Requeue, Retry


@every_broker
class WorkerTests(RabbitTestCase):
    """
    A consumer service of a quorum queue.
    """

    async def start(self, handler: Any, *bodies: str, **options: Any) -> Any:
        """
        A consumer service that is ready, after messages were published.
        """
        from twisted.internet import reactor

        topology = Topology.of(Queue(name="jobs", arguments=quorum_queue()))
        client = AMQPClientService(reactor, self.uri, topology=topology)
        client.startService()
        self.addCleanup(client.stopService)
        await client.when_ready()
        publisher = Publisher(client)
        for body in bodies:
            await publisher.publish("", "jobs", body, mandatory=True)
        service = ConsumerService(client, "jobs", handler, **options)
        service.startService()
        self.addCleanup(service.stopService)
        await service.when_ready()
        return service

    async def test_batches(self) -> None:
        """
        A batch is settled as one, apart from the messages that it says have failed.
        """
        batches: list[list[bytes]] = []

        def handler(deliveries: list[Delivery]) -> Partial | None:
            batches.append([each.body for each in deliveries])
            failed = [each for each in deliveries if each.body == b"b"]
            return Partial({each: Requeue() for each in failed if not batches[1:]})

        service = await self.start(
            handler, "a", "b", "c", batch=3, batch_wait=0.1, prefetch=10
        )
        await until(lambda: service.counts.acknowledged == 3)
        self.assertEqual(batches, [[b"a", b"b", b"c"], [b"b"]])
        self.assertEqual(service.counts.requeued, 1)

    async def test_pause(self) -> None:
        """
        A handler pauses its consumer; the message goes back, and comes again.
        """
        times: list[float] = []

        def handler(delivery: Delivery) -> None:
            times.append(monotonic())
            if len(times) == 1:
                raise Pause(0.5)

        service = await self.start(handler, "a")
        await until(lambda: service.counts.acknowledged == 1)
        self.assertEqual(len(times), 2)
        self.assertGreaterEqual(times[1] - times[0], 0.5)

    async def test_retry_after(self) -> None:
        """
        A handler says after which time it is to be called again.
        """
        times: list[float] = []
        counts: list[Any] = []

        def handler(delivery: Delivery) -> None:
            times.append(monotonic())
            counts.append(delivery.headers.get("x-retry-count"))
            if len(times) < 3:
                raise Retry(after=1)

        service = await self.start(handler, "a")
        await until(lambda: service.counts.acknowledged == 1)
        self.assertEqual(counts, [None, 1, 2])
        self.assertGreaterEqual(times[2] - times[0], 2.0)
