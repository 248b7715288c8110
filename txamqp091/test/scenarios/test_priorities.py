# -*- test-case-name: txamqp091.test.scenarios.test_priorities -*-
"""
Scenarios: queues that heed the priority of messages.
"""

from __future__ import annotations

from txamqp091.channel import Channel
from txamqp091.test.scenarios.test_settling import SettlingScenario
from txamqp091.test.support.scenarios import every_peer
from txamqp091.wire.properties import Properties


@every_peer
class PriorityScenarios(SettlingScenario):
    """
    Queues that heed the priority of messages.
    """

    async def publish(self, channel: Channel, queue: str, *levels: int | None) -> None:
        """
        Publish messages of these priorities, with which they are numbered.
        """
        for place, level in enumerate(levels):
            properties = Properties(priority=level)
            await channel.basic_publish("", queue, f"{place}:{level}", properties)

    async def test_order(self) -> None:
        """
        Higher ones come first, and equal ones in order.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-priority": 5})
        await self.publish(channel, queue, 1, 5, 0, 5, 3)
        self.assertEqual(
            await self.bodies(channel, queue), [b"1:5", b"3:5", b"4:3", b"0:1", b"2:0"]
        )

    async def test_none(self) -> None:
        """
        No priority is the lowest.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-priority": 5})
        await self.publish(channel, queue, None, 1, 0)
        self.assertEqual(await self.bodies(channel, queue), [b"1:1", b"0:None", b"2:0"])

    async def test_too_high(self) -> None:
        """
        What is higher than the highest counts as that.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-priority": 5})
        await self.publish(channel, queue, 4, 5, 200)
        delivery = await self.get(channel, queue)
        self.assertEqual(delivery.body, b"1:5")
        delivery = await self.get(channel, queue)
        self.assertEqual((delivery.body, delivery.properties.priority), (b"2:200", 200))

    async def test_requeue(self) -> None:
        """
        What comes back is in its place.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-priority": 5})
        await self.publish(channel, queue, 1, 5, 1)
        high, low = await self.fetch(channel, queue, 2)
        low.nack()
        high.nack()
        self.assertEqual(await self.bodies(channel, queue), [b"1:5", b"0:1", b"2:1"])

    async def test_ordinary_queue(self) -> None:
        """
        An ordinary queue does not look at it.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, 1, 9, 5)
        self.assertEqual(await self.bodies(channel, queue), [b"0:1", b"1:9", b"2:5"])

    async def test_overflow(self) -> None:
        """
        What gives way is at the head: of the highest priority, the new one if need be.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-priority": 5, "x-max-length": 2})
        await self.publish(channel, queue, 3, 1, 1, 5)
        self.assertEqual(await self.bodies(channel, queue), [b"1:1", b"2:1"])
