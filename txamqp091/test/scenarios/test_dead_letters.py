# -*- test-case-name: txamqp091.test.scenarios.test_dead_letters -*-
"""
Scenarios: what becomes of messages that a queue drops, and what they tell of it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import Nacked
from txamqp091.message import Delivery
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.properties import Properties


class DeadLetterScenario(Scenario):
    """
    A scenario with queues that have dead letters.
    """

    async def dropping(
        self, channel: Channel, key: str, exchange: str = "", **arguments: Any
    ) -> str:
        """
        A queue whose dead letters go to an exchange with a new routing key.
        """
        given = {
            f"x-{name.replace('_', '-')}": value for name, value in arguments.items()
        }
        return await self.queue(
            channel,
            {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key}
            | given,
        )

    def deaths(self, delivery: Delivery) -> list[dict[str, Any]]:
        """
        What the header ``x-death`` says, without the times, which are now.
        """
        rows = []
        for row in delivery.headers["x-death"]:
            found = dict(row)
            time = found.pop("time")
            self.assertIsInstance(time, datetime)
            self.assertLess(abs(datetime.now(UTC) - time), timedelta(seconds=60))
            rows.append(found)
        return rows

    def first_death(self, delivery: Delivery) -> tuple[object, ...]:
        """
        What the headers ``x-first-death-*`` say.
        """
        names = ("queue", "reason", "exchange")
        return tuple(delivery.headers[f"x-first-death-{name}"] for name in names)


@every_peer
class ReasonScenarios(DeadLetterScenario):
    """
    Why messages die.
    """

    async def test_rejected(self) -> None:
        """
        A consumer rejects one, and does not want it requeued.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).reject(requeue=False)
        delivery = await self.get(channel, dead)
        self.assertEqual(
            self.deaths(delivery),
            [
                {
                    "count": 1,
                    "reason": "rejected",
                    "queue": queue,
                    "exchange": "",
                    "routing-keys": [queue],
                }
            ],
        )
        self.assertEqual(self.first_death(delivery), (queue, "rejected", ""))

    async def test_nacked(self) -> None:
        """
        A negative acknowledgement is the same, and may be for several.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        last = [await self.get(channel, queue) for _ in range(3)][-1]
        last.nack(requeue=False, multiple=True)
        found = [await self.get(channel, dead) for _ in range(3)]
        self.assertEqual([each.body for each in found], [b"a", b"b", b"c"])
        for delivery in found:
            self.assertEqual(self.first_death(delivery), (queue, "rejected", ""))

    async def test_expired(self) -> None:
        """
        It waits too long in a queue that limits that.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead, message_ttl=50)
        await channel.basic_publish("", queue, "x")
        delivery = await self.get(channel, dead)
        self.assertEqual(
            self.deaths(delivery),
            [
                {
                    "count": 1,
                    "reason": "expired",
                    "queue": queue,
                    "exchange": "",
                    "routing-keys": [queue],
                }
            ],
        )
        self.assertEqual(self.first_death(delivery), (queue, "expired", ""))

    async def test_expired_by_itself(self) -> None:
        """
        Or longer than it said itself, which is told too.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        await channel.basic_publish("", queue, "x", Properties(expiration="50"))
        delivery = await self.get(channel, dead)
        (death,) = self.deaths(delivery)
        self.assertEqual(death["original-expiration"], "50")
        self.assertEqual(death["reason"], "expired")
        self.assertIsNone(delivery.properties.expiration)

    async def test_too_many(self) -> None:
        """
        The queue is longer than it may be, and drops its oldest message.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead, max_length=1)
        await channel.basic_publish("", queue, "a")
        await channel.basic_publish("", queue, "b")
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.body, b"a")
        self.assertEqual(
            self.deaths(delivery),
            [
                {
                    "count": 1,
                    "reason": "maxlen",
                    "queue": queue,
                    "exchange": "",
                    "routing-keys": [queue],
                }
            ],
        )
        self.assertEqual(self.first_death(delivery), (queue, "maxlen", ""))

    async def test_refused(self) -> None:
        """
        With ``reject-publish-dlx`` it is the new one that is nacked, and dies.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(
            channel, dead, max_length=1, overflow="reject-publish-dlx"
        )
        await channel.basic_publish("", queue, "a")
        with self.assertRaises(Nacked):
            await channel.basic_publish("", queue, "b")
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.body, b"b")
        self.assertEqual(self.first_death(delivery), (queue, "maxlen", ""))

    async def test_not_refused(self) -> None:
        """
        With ``reject-publish`` what is nacked is no dead letter.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(
            channel, dead, max_length=1, overflow="reject-publish"
        )
        await channel.basic_publish("", queue, "a")
        with self.assertRaises(Nacked):
            await channel.basic_publish("", queue, "b")
        await channel.basic_publish("", dead, "last")
        self.assertEqual(await self.bodies(channel, dead), [b"last"])

    async def test_not_dead(self) -> None:
        """
        What is acknowledged, purged, or deleted with its queue is no dead letter.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        (await self.get(channel, queue)).ack()
        await channel.queue_purge(queue)
        await channel.basic_publish("", queue, "d")
        await channel.queue_delete(queue)
        await channel.basic_publish("", dead, "last")
        self.assertEqual(await self.bodies(channel, dead), [b"last"])

    async def test_without_exchange(self) -> None:
        """
        Without an exchange for dead letters, what is rejected is gone.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).reject(requeue=False)
        self.assertEqual(await self.count(channel, queue), 0)

    async def test_missing_exchange(self) -> None:
        """
        So it is if that exchange does not exist (any more).
        """
        channel = await self.channel()
        queue = await self.dropping(channel, "k", self.name("exchange"))
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).reject(requeue=False)
        self.assertEqual(await self.count(channel, queue), 0)


@every_peer
class LetterScenarios(DeadLetterScenario):
    """
    What a dead letter looks like.
    """

    async def reject(self, channel: Channel, queue: str) -> None:
        """
        Reject the next message.
        """
        (await self.get(channel, queue)).reject(requeue=False)

    async def test_where(self) -> None:
        """
        It comes from the exchange for dead letters, with the routing key for them.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "topic")
        dead = await self.bound(channel, exchange, "dead.*")
        queue = await self.dropping(channel, "dead.letter", exchange)
        await channel.basic_publish("", queue, "x")
        await self.reject(channel, queue)
        delivery = await self.get(channel, dead)
        self.assertEqual(
            (delivery.exchange, delivery.routing_key), (exchange, "dead.letter")
        )

    async def test_own_key(self) -> None:
        """
        Without such a key it keeps its own.
        """
        channel = await self.channel()
        source = await self.exchange(channel, "direct")
        exchange = await self.exchange(channel, "fanout")
        dead = await self.bound(channel, exchange)
        queue = await self.queue(channel, {"x-dead-letter-exchange": exchange})
        await channel.queue_bind(queue, source, "its.own")
        await channel.basic_publish(source, "its.own", "x")
        await self.reject(channel, queue)
        delivery = await self.get(channel, dead)
        self.assertEqual(
            (delivery.exchange, delivery.routing_key), (exchange, "its.own")
        )
        (death,) = self.deaths(delivery)
        self.assertEqual(
            (death["exchange"], death["routing-keys"]), (source, ["its.own"])
        )

    async def test_properties(self) -> None:
        """
        It keeps its body, its properties and its headers.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        properties = Properties(
            content_type="text/plain",
            headers={"mine": [1, "two"]},
            delivery_mode=2,
            priority=3,
            correlation_id="c",
            message_id="m",
            timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        )
        await channel.basic_publish("", queue, "body", properties)
        await self.reject(channel, queue)
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.body, b"body")
        self.assertEqual(delivery.headers["mine"], [1, "two"])
        self.assertEqual(
            delivery.properties.replace(headers=None), properties.replace(headers=None)
        )

    async def test_all_headers(self) -> None:
        """
        It gets these headers, and no others: 4.3 tells of its last death, too.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        await channel.basic_publish("", queue, "x")
        await self.reject(channel, queue)
        delivery = await self.get(channel, dead)
        told = {"x-death"}
        for which in self.by_version({"3.10": ["first"], "4.3": ["first", "last"]}):
            told |= {
                f"x-{which}-death-{name}" for name in ("queue", "reason", "exchange")
            }
        self.assertEqual(set(delivery.headers), told)

    async def test_redelivered(self) -> None:
        """
        It was not delivered before from where it is now; 4.3 says so if it was
        anywhere.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        await channel.basic_publish("", queue, "x")
        await self.reject(channel, queue)
        marked = self.by_version({"3.10": False, "4.3": True})
        self.assertEqual((await self.get(channel, dead)).redelivered, marked)

    async def test_never_delivered(self) -> None:
        """
        Which is not so of one that nobody has seen.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead, max_length=0)
        await channel.basic_publish("", queue, "x")
        self.assertFalse((await self.get(channel, dead)).redelivered)

    async def test_copies(self) -> None:
        """
        It tells of all its routing keys; with a new one, 3.10 takes the others away.
        """
        channel = await self.channel()
        dead, other = await self.queue(channel), await self.queue(channel)
        queue = await self.dropping(channel, dead)
        properties = Properties(headers={"CC": [other], "BCC": ["secret"]})
        await channel.basic_publish("", queue, "x", properties)
        await self.bodies(channel, other)
        await self.reject(channel, queue)
        delivery = await self.get(channel, dead)
        (death,) = self.deaths(delivery)
        self.assertEqual(death["routing-keys"], [queue, other])
        kept = self.by_version({"3.10": None, "4.3": [other]})
        self.assertEqual(delivery.headers.get("CC"), kept)
        self.assertEqual(await self.bodies(channel, other), [])

    async def test_copies_without_key(self) -> None:
        """
        Without a new key, all its keys count again.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "direct")
        queue = await self.queue(channel, {"x-dead-letter-exchange": exchange})
        one = await self.bound(channel, exchange, queue)
        other = await self.bound(channel, exchange, "copy")
        properties = Properties(headers={"CC": ["copy"]})
        await channel.basic_publish("", queue, "x", properties)
        await self.reject(channel, queue)
        for each in (one, other):
            delivery = await self.get(channel, each)
            self.assertEqual(delivery.headers["CC"], ["copy"])

    async def test_malformed(self) -> None:
        """
        What a publisher says in their place, and is no death, is replaced.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        rows: Any
        for rows in self.by_version({"3.10": ("text", 7), "4.3": ("text", ["text"])}):
            properties = Properties(headers={"x-death": rows})
            await channel.basic_publish("", queue, "x", properties)
            await self.reject(channel, queue)
            (death,) = self.deaths(await self.get(channel, dead))
            self.assertEqual((death["count"], death["queue"]), (1, queue))

    async def test_invented(self) -> None:
        """
        A publisher may say that a message has died: 3.10 believes it, 4.3 does not.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.dropping(channel, dead)
        invented: dict[str, Any] = {
            "count": 7,
            "reason": "rejected",
            "queue": queue,
            "time": datetime.now(UTC).replace(microsecond=0),
            "exchange": "",
            "routing-keys": [queue],
        }
        properties = Properties(headers={"x-death": [invented]})
        await channel.basic_publish("", queue, "x", properties)
        await self.reject(channel, queue)
        (death,) = self.deaths(await self.get(channel, dead))
        self.assertEqual(death["count"], self.by_version({"3.10": 8, "4.3": 1}))
