# -*- test-case-name: txamqp091.test.scenarios.test_quorum -*-
"""
Scenarios: quorum queues, where they differ from classic ones.
"""

from __future__ import annotations

import itertools
from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import Nacked
from txamqp091.message import Delivery
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.properties import Properties


@every_peer
class QuorumDeclareScenarios(Scenario):
    """
    What a quorum queue can be.
    """

    async def refuses(self, text: str, **flags: Any) -> None:
        """
        See one refused that cannot be.
        """
        channel = await self.channel()
        queue = self.name()
        call = channel.queue_declare(
            queue, arguments={"x-queue-type": "quorum"}, **flags
        )
        await self.channel_refused(
            channel,
            call,
            406,
            "queue.declare",
            f"invalid property '{text}' for queue '{queue}' in vhost '{self.vhost}'",
        )

    async def test_transient(self) -> None:
        """
        406: it is durable.
        """
        await self.refuses("non-durable", durable=False)

    async def test_exclusive(self) -> None:
        """
        406: it is not exclusive.
        """
        await self.refuses("exclusive-owner", exclusive=True)

    async def test_auto_delete(self) -> None:
        """
        406: it does not delete itself.
        """
        await self.refuses("auto-delete", auto_delete=True)

    async def test_named_by_broker(self) -> None:
        """
        406: it has a name.
        """
        channel = await self.channel()
        call = channel.queue_declare("", arguments={"x-queue-type": "quorum"})
        await self.channel_refused(channel, call, 406, "queue.declare", "server-named")

    async def test_counts(self) -> None:
        """
        It counts what it has.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        await self.get(channel, queue)
        await self.until_count(channel, queue, 2)
        purged = await channel.queue_purge(queue)
        self.assertEqual(purged.message_count, 2)


@every_peer
class DeliveryLimitScenarios(Scenario):
    """
    How often a message is tried.
    """

    async def fail(  # type: ignore[override]
        self, channel: Channel, queue: str, how: str
    ) -> Delivery:
        """
        Give the next message back.
        """
        delivery = await self.get(channel, queue)
        if how == "nack":
            delivery.nack()
        else:
            delivery.reject()
        return delivery

    async def counts(self, how: str) -> list[tuple[object, object]]:
        """
        What headers count, from delivery to delivery.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        await channel.basic_publish("", queue, "x")
        found = []
        for _ in range(3):
            headers = (await self.fail(channel, queue, how)).headers
            found.append(
                (headers.get("x-delivery-count"), headers.get("x-acquired-count"))
            )
        return found

    async def test_reject(self) -> None:
        """
        To reject counts.  3.10 counts the first delivery as 0, 4.3 not at all; that
        also counts how often it was acquired.
        """
        self.assertEqual(
            await self.counts("reject"),
            self.by_version(
                {
                    "3.10": [(0, None), (1, None), (2, None)],
                    "4.3": [(None, None), (1, 1), (2, 2)],
                }
            ),
        )

    async def test_nack(self) -> None:
        """
        To give back counts as that for 3.10, and not for 4.3.
        """
        self.assertEqual(
            await self.counts("nack"),
            self.by_version(
                {
                    "3.10": [(0, None), (1, None), (2, None)],
                    "4.3": [(None, None), (None, 1), (None, 2)],
                }
            ),
        )

    async def test_limit(self) -> None:
        """
        Too many times, and it is a dead letter.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.quorum_queue(
            channel,
            delivery_limit=2,
            dead_letter_exchange="",
            dead_letter_routing_key=dead,
        )
        await channel.basic_publish("", queue, "x")
        for _ in range(3):
            await self.fail(channel, queue, "reject")
        delivery = await self.get(channel, dead)
        (death,) = delivery.headers["x-death"]
        self.assertEqual(
            (death["reason"], death["count"], death["queue"]),
            ("delivery_limit", 1, queue),
        )
        self.assertEqual(delivery.headers["x-first-death-reason"], "delivery_limit")
        await self.until_count(channel, queue, 0)

    async def test_limit_without_dead_letters(self) -> None:
        """
        Or gone.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel, delivery_limit=1)
        await channel.basic_publish("", queue, "x")
        for _ in range(2):
            await self.fail(channel, queue, "reject")
        await channel.basic_publish("", queue, "y")
        self.assertEqual((await self.get(channel, queue)).body, b"y")

    async def test_default_limit(self) -> None:
        """
        4.3 tries 21 times if nothing else is said, 3.10 for ever.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        await channel.basic_publish("", queue, "x")
        for _ in range(21):
            self.assertEqual((await self.fail(channel, queue, "reject")).body, b"x")
        await channel.basic_publish("", queue, "y")
        delivery = await self.get(channel, queue)
        self.assertEqual(delivery.body, self.by_version({"3.10": b"x", "4.3": b"y"}))

    async def test_no_limit(self) -> None:
        """
        A limit of -1 is none for 4.3; for 3.10 the first redelivery is too much.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel, delivery_limit=-1)
        await channel.basic_publish("", queue, "x")
        await self.fail(channel, queue, "reject")
        await channel.basic_publish("", queue, "y")
        delivery = await self.get(channel, queue)
        self.assertEqual(delivery.body, self.by_version({"3.10": b"y", "4.3": b"x"}))

    def shown(self, delivery: Delivery) -> tuple[bool, object, object]:
        """
        Whether a delivery is marked, how often it was acquired, and how often it has
        failed.
        """
        headers = delivery.headers
        return (
            delivery.redelivered,
            headers.get("x-acquired-count"),
            headers.get("x-delivery-count"),
        )

    async def test_consumed(self) -> None:
        """
        What a consumer gets for the first time has no count; only 4.3 does not count
        ``basic.nack`` and ``basic.recover`` as failures, and counts everything apart.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        await channel.basic_publish("", queue, "x")
        deliveries = await channel.consume(queue, prefetch=1)
        found = []
        for how in ("nack", "reject", "recover", "ack"):
            delivery = await deliveries.get()
            found.append(self.shown(delivery))
            if how == "recover":
                await channel.basic_recover()
            else:
                getattr(delivery, how)()
        self.assertEqual(
            found,
            self.by_version(
                {
                    "3.10": [
                        (False, None, None),
                        (True, None, 1),
                        (True, None, 2),
                        (True, None, 3),
                    ],
                    "4.3": [
                        (False, None, None),
                        (True, 1, None),
                        (True, 2, 1),
                        (True, 3, 1),
                    ],
                }
            ),
        )

    async def test_lost(self) -> None:
        """
        The end of a channel, and of a connection, counts as to reject; also of what was
        fetched.
        """
        channel = await self.channel()
        expected = self.by_version({"3.10": (True, None, 1), "4.3": (True, 1, 1)})
        for fetched, aborted in itertools.product((False, True), repeat=2):
            queue = await self.quorum_queue(channel)
            await channel.basic_publish("", queue, "x")
            connection = await self.connect()
            other = await connection.open_channel()
            if fetched:
                await self.get(other, queue)
            else:
                await (await other.consume(queue)).get()
            if aborted:
                transport: Any = connection.transport
                transport.abortConnection()
            else:
                await other.close()
            self.assertEqual(self.shown(await self.get(channel, queue)), expected)

    async def test_published_counts(self) -> None:
        """
        A publisher's own counts stand until the queue has some.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        headers = {"x-delivery-count": 7, "x-acquired-count": 9}
        await channel.basic_publish("", queue, "x", Properties(headers=headers))
        deliveries = await channel.consume(queue, prefetch=1)
        found = []
        for how in ("nack", "reject", "ack"):
            delivery = await deliveries.get()
            found.append(self.shown(delivery))
            getattr(delivery, how)()
        self.assertEqual(
            found,
            self.by_version(
                {
                    "3.10": [(False, 9, 7), (True, 9, 1), (True, 9, 2)],
                    "4.3": [(False, 9, 7), (True, 1, 7), (True, 2, 1)],
                }
            ),
        )

    async def test_dead_letter_counts(self) -> None:
        """
        With 4.3 a dead letter keeps the count of its failures, one in a classic queue
        too, until it is acknowledged; with 3.10 it begins anew.
        """
        new = (False, None, None)
        for before, how, expected in (
            ((), "nack", new),
            ((), "reject", (True, 1, 1)),
            (("nack",), "nack", new),
            (("nack",), "reject", (True, 1, 1)),
            (("reject",), "nack", (True, 1, 1)),
            (("reject", "nack"), "reject", (True, 2, 2)),
        ):
            for kind in ("quorum", "classic"):
                channel = await self.channel()
                dead = await self.quorum_queue(channel)
                queue = await self.durable_queue(
                    channel,
                    {
                        "x-queue-type": kind,
                        "x-dead-letter-exchange": "",
                        "x-dead-letter-routing-key": dead,
                    },
                )
                await channel.basic_publish("", queue, "x")
                for each in before:
                    getattr(await self.get(channel, queue), each)()
                getattr(await self.get(channel, queue), how)(requeue=False)
                deliveries = await channel.consume(dead, prefetch=1)
                delivery = await deliveries.get()
                expected = self.by_version({"3.10": new, "4.3": expected})
                self.assertEqual(self.shown(delivery), expected, (before, how, kind))
                # Once it has come back to this queue, acquisitions are counted anew.
                delivery.nack()
                _, _, failed = expected
                self.assertEqual(
                    self.shown(await deliveries.get()),
                    self.by_version(
                        {"3.10": (True, None, 1), "4.3": (True, 1, failed)}
                    ),
                )
                await channel.close()

    async def test_dead_letter_limit(self) -> None:
        """
        What has failed before counts for the limit of the next queue, with 4.3.
        """
        channel = await self.channel()
        dead = await self.quorum_queue(channel, delivery_limit=2)
        queue = await self.quorum_queue(
            channel, dead_letter_exchange="", dead_letter_routing_key=dead
        )
        await channel.basic_publish("", queue, "x")
        for requeue in (True, False):
            (await self.get(channel, queue)).reject(requeue=requeue)
        for _ in range(self.by_version({"3.10": 3, "4.3": 1})):
            self.assertEqual((await self.fail(channel, dead, "reject")).body, b"x")
        await channel.basic_publish("", dead, "y")
        self.assertEqual((await self.get(channel, dead)).body, b"y")

    async def test_redelivered(self) -> None:
        """
        What comes back is marked.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        await channel.basic_publish("", queue, "x")
        found = [(await self.fail(channel, queue, "nack")) for _ in range(2)]
        self.assertEqual([each.redelivered for each in found], [False, True])


@every_peer
class QuorumOrderScenarios(Scenario):
    """
    What comes next.
    """

    async def order(self, channel: Channel, queue: str, count: int) -> list[bytes]:
        """
        The next messages.
        """
        found = []
        for _ in range(count):
            found.append((await self.get(channel, queue, auto_ack=True)).body)
        return found

    async def test_requeue(self) -> None:
        """
        What is given back comes next again; 3.10 puts it behind everything else.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        for body in "abcd":
            await channel.basic_publish("", queue, body)
        held = [await self.get(channel, queue) for _ in range(2)]
        held[1].nack(multiple=True)
        await self.until_count(channel, queue, 4)
        found = b"".join(await self.order(channel, queue, 4)).decode()
        self.assertEqual(found, self.by_version({"3.10": "cdab", "4.3": "abcd"}))

    async def test_priority(self) -> None:
        """
        4.3 delivers what has a high priority first, 4 being that of a message which
        has none; 3.10 does not look at it.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        for body, priority in (("a", 0), ("b", 9), ("c", None)):
            await channel.basic_publish("", queue, body, Properties(priority=priority))
        found = await self.order(channel, queue, 3)
        expected = {"3.10": [b"a", b"b", b"c"], "4.3": [b"b", b"c", b"a"]}
        self.assertEqual(found, self.by_version(expected))

    async def test_single_active_consumer(self) -> None:
        """
        One consumer gets everything, and the next one takes over.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel, single_active_consumer=True)
        one = await channel.consume(queue)
        other = await channel.consume(queue)
        for body in "ab":
            await channel.basic_publish("", queue, body)
        for delivery in await self.take(one, 2):
            delivery.ack()
        await one.cancel()
        await channel.basic_publish("", queue, "c")
        self.assertEqual((await other.get()).body, b"c")

    async def test_active_consumer_priority(self) -> None:
        """
        With 4.3 a consumer of a higher priority becomes the active one, when the one
        that is has nothing unacknowledged.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel, single_active_consumer=True)
        low = await channel.consume(queue)
        await channel.basic_publish("", queue, "a")
        first = await low.get()
        high = await channel.consume(queue, arguments={"x-priority": 5})
        await channel.basic_publish("", queue, "b")
        await self.quiet(channel, queue)
        first.ack()
        for delivery in await self.take(low, low.buffered):
            delivery.ack()
        await self.quiet(channel, queue)
        await channel.basic_publish("", queue, "c")
        active = self.by_version({"3.10": low, "4.3": high})
        bodies = [(await active.get()).body]
        while bodies[-1] != b"c":
            bodies.append((await active.get()).body)
        self.assertEqual((low.buffered, high.buffered), (0, 0))

    async def test_exclusive_consumer(self) -> None:
        """
        A consumer that wants to be the only one is not: quorum queues do not heed it.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        found = [
            await channel.consume(queue, exclusive=exclusive, prefetch=1)
            for exclusive in (True, True, False)
        ]
        for body in "abc":
            await channel.basic_publish("", queue, body)
        bodies = [(await deliveries.get()).body for deliveries in found]
        self.assertEqual(bodies, [b"a", b"b", b"c"])

    async def test_consumer_priority(self) -> None:
        """
        A consumer of a higher priority goes first.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        low = await channel.consume(queue, prefetch=1)
        high = await channel.consume(queue, prefetch=1, arguments={"x-priority": 3})
        for body in "ab":
            await channel.basic_publish("", queue, body)
        self.assertEqual((await high.get()).body, b"a")
        self.assertEqual((await low.get()).body, b"b")


@every_peer
class QuorumLimitScenarios(Scenario):
    """
    What is dropped.
    """

    async def test_time_to_live(self) -> None:
        """
        Messages that wait too long are dead letters.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.quorum_queue(
            channel,
            message_ttl=100,
            dead_letter_exchange="",
            dead_letter_routing_key=dead,
        )
        await channel.basic_publish("", queue, "x")
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.headers["x-first-death-reason"], "expired")

    async def test_drop_head(self) -> None:
        """
        The oldest message gives way.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.quorum_queue(
            channel,
            max_length=2,
            dead_letter_exchange="",
            dead_letter_routing_key=dead,
        )
        for body in "abc":
            await channel.basic_publish("", queue, body)
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.body, b"a")
        self.assertEqual(delivery.headers["x-first-death-reason"], "maxlen")
        self.assertEqual((await self.get(channel, queue)).body, b"b")

    async def test_reject_publish(self) -> None:
        """
        Or the new ones are nacked; some more may be taken than there is room for.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(
            channel, max_length=1, overflow="reject-publish"
        )

        async def nacked() -> bool:
            try:
                await channel.basic_publish("", queue, "x")
            except Nacked:
                return True
            return False

        await self.until(nacked, "a nack")

    async def test_reject(self) -> None:
        """
        What is rejected is a dead letter.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.quorum_queue(
            channel, dead_letter_exchange="", dead_letter_routing_key=dead
        )
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).reject(requeue=False)
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.headers["x-first-death-reason"], "rejected")
        self.assertEqual(delivery.headers["x-first-death-queue"], queue)

    async def test_reject_publish_dlx(self) -> None:
        """
        It takes the third kind of overflow, and drops the oldest message all the same.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(
            channel, max_length=1, overflow="reject-publish-dlx"
        )
        for body in "ab":
            await channel.basic_publish("", queue, body)
        self.assertEqual((await self.get(channel, queue)).body, b"b")


@every_peer
class DelayedRetryScenarios(Scenario):
    """
    With 4.3, messages that come back may wait before they are delivered again.
    """

    async def again(self, kind: str, how: str) -> bool:
        """
        Whether a message that was given back is not ready at once.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(
            channel, delayed_retry_type=kind, delayed_retry_min=300
        )
        for body in "ab":
            await channel.basic_publish("", queue, body)
        getattr(await self.get(channel, queue), how)()
        for body in "ba":
            delivery = await self.get(channel, queue, auto_ack=True)
            if delivery.body != body.encode():
                return False
        return True

    async def test_types(self) -> None:
        """
        What has failed waits, or what was handed back, or both, or neither; with 3.10
        nothing does, and what comes back is behind the rest.
        """
        old = self.by_version({"3.10": True, "4.3": False})
        for kind, waits in (
            ("all", ("nack", "reject")),
            ("failed", ("reject",)),
            ("returned", ("nack",)),
            ("disabled", ()),
            ("x", ()),
        ):
            for how in ("nack", "reject"):
                self.assertEqual(
                    await self.again(kind, how), old or how in waits, (kind, how)
                )

    async def test_counts(self) -> None:
        """
        What waits is not ready, and can be purged.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(
            channel, delayed_retry_type="all", delayed_retry_min=60_000
        )
        await channel.basic_publish("", queue, "x")
        (await self.get(channel, queue)).nack()
        await self.until_count(channel, queue, self.by_version({"3.10": 1, "4.3": 0}))
        self.assertEqual((await channel.queue_purge(queue)).message_count, 1)
        self.assertEqual(await self.count(channel, queue), 0)
