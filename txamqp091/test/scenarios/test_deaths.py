# -*- test-case-name: txamqp091.test.scenarios.test_deaths -*-
"""
Scenarios: messages that die more than once.

Why they die, and what dead letters look like, is in
`txamqp091.test.scenarios.test_dead_letters`.
"""

from __future__ import annotations

from txamqp091.test.scenarios.test_dead_letters import DeadLetterScenario
from txamqp091.test.support.scenarios import every_peer


@every_peer
class HistoryScenarios(DeadLetterScenario):
    """
    Messages that die more than once.
    """

    async def test_two_queues(self) -> None:
        """
        The latest death comes first; the first one stays the first.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        second = await self.dropping(channel, dead, message_ttl=50)
        first = await self.dropping(channel, second)
        await channel.basic_publish("", first, "x")
        (await self.get(channel, first)).reject(requeue=False)
        delivery = await self.get(channel, dead)
        self.assertEqual(
            [(each["queue"], each["reason"]) for each in self.deaths(delivery)],
            [(second, "expired"), (first, "rejected")],
        )
        self.assertEqual(self.first_death(delivery), (first, "rejected", ""))
        if self.by_version({"3.10": False, "4.3": True}):
            self.assertEqual(delivery.headers["x-last-death-queue"], second)
            self.assertEqual(delivery.headers["x-last-death-reason"], "expired")
            self.assertEqual(delivery.headers["x-last-death-exchange"], "")

    async def test_counted(self) -> None:
        """
        The same death again is counted.
        """
        channel = await self.channel()
        queue = self.name()
        await channel.queue_declare(
            queue,
            exclusive=True,
            arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue,
            },
        )
        await channel.basic_publish("", queue, "x")
        for count in range(1, 4):
            (await self.get(channel, queue)).reject(requeue=False)
            delivery = await self.get(channel, queue)
            (death,) = self.deaths(delivery)
            self.assertEqual(death["count"], count)
            delivery.nack()

    async def test_comes_to_the_front(self) -> None:
        """
        A death that is counted again is the latest.
        """
        channel = await self.channel()
        work, wait = self.name(), self.name()
        waits = {"x-message-ttl": 30}
        for queue, other, more in ((work, wait, {}), (wait, work, waits)):
            letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": other}
            await channel.queue_declare(queue, exclusive=True, arguments=letters | more)
        await channel.basic_publish("", work, "x")
        for count in (1, 2):
            (await self.get(channel, work)).reject(requeue=False)
            delivery = await self.get(channel, work)
            self.assertEqual(
                [
                    (each["queue"], each["reason"], each["count"])
                    for each in self.deaths(delivery)
                ],
                [(wait, "expired", count), (work, "rejected", count)],
            )
            delivery.nack()

    async def test_circle(self) -> None:
        """
        A message that only time moves does not come back to a queue where it was.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        witness = await self.bound(channel, exchange)
        first = self.name()
        second = await self.dropping(channel, "", exchange, message_ttl=30)
        await channel.queue_declare(
            first,
            exclusive=True,
            arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": second,
                "x-message-ttl": 30,
            },
        )
        await channel.queue_bind(first, exchange)
        await channel.basic_publish("", first, "x")
        delivery = await self.get(channel, witness)
        self.assertEqual(
            [each["queue"] for each in self.deaths(delivery)], [second, first]
        )
        # Had it come back, it would be here again.
        await channel.basic_publish("", first, "y")
        self.assertEqual((await self.get(channel, witness)).body, b"y")
        self.assertEqual(await self.bodies(channel, witness), [])

    async def test_circle_of_one(self) -> None:
        """
        Nor to the queue where it has just expired.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        witness = await self.bound(channel, exchange)
        queue = await self.dropping(channel, "", exchange, message_ttl=30)
        await channel.queue_bind(queue, exchange)
        await channel.basic_publish("", queue, "x")
        (death,) = self.deaths(await self.get(channel, witness))
        self.assertEqual(death["count"], 1)
        self.assertEqual(await self.count(channel, queue), 0)
