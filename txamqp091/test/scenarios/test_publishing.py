# -*- test-case-name: txamqp091.test.scenarios.test_publishing -*-
"""
Scenarios: publishing: confirms, returns, transactions, and what a message is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from txamqp091.adapters.threads import threadsafe
from txamqp091.channel import Channel
from txamqp091.errors import AMQPError, LocalProtocolError, Nacked, Returned
from txamqp091.message import Message
from txamqp091.test.support.raw_client import RawClient
from txamqp091.test.support.recording import content
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties


@every_peer
class ConfirmScenarios(Scenario):
    """
    The broker answers for each message.
    """

    def outcomes(self, *published: Deferred[None]) -> list[tuple[int, str]]:
        """
        A list that is filled with the outcomes of publishes, as they come.
        """
        found: list[tuple[int, str]] = []
        for number, each in enumerate(published):

            def failed(failure: Any, number: int = number) -> None:
                failure.trap(Nacked, Returned)
                found.append((number, type(failure.value).__name__))

            def taken(_: None, number: int = number) -> None:
                found.append((number, "taken"))

            each.addCallbacks(taken, failed)
        return found

    async def test_select(self) -> None:
        """
        Confirm mode may be asked for again.
        """
        channel = await self.channel(confirms=False)
        self.assertEqual(await channel.confirm_select(), spec.ConfirmSelectOk())
        self.assertEqual(await channel.confirm_select(), spec.ConfirmSelectOk())

    async def test_many(self) -> None:
        """
        Each of many messages is confirmed, once, and they are there in order.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        published = [
            channel.basic_publish("", queue, str(number)) for number in range(100)
        ]
        for each in published:
            await each
        self.assertEqual(
            await self.bodies(channel, queue), [b"%d" % number for number in range(100)]
        )

    async def test_unroutable(self) -> None:
        """
        Messages that no queue gets are confirmed, too.
        """
        channel = await self.channel()
        await channel.basic_publish("amq.direct", self.name("key"), "x")
        await channel.basic_publish("", self.name(), "x")

    async def confirms(
        self, client: RawClient, data: bytes, last: int
    ) -> list[tuple[int, bool]]:
        """
        How publishes are confirmed.

        :param last: the number of the last of them.
        """
        found: list[tuple[int, bool]] = []
        client.write(data)

        async def confirmed() -> bool:
            for each in client.heard():
                assert isinstance(each, spec.BasicAck)
                found.append((each.delivery_tag, each.multiple))
            return any(tag == last for tag, _ in found)

        await self.until(confirmed, "confirms")
        return found

    async def test_multiple(self) -> None:
        """
        Confirms of messages that queues have taken are joined; those of messages that
        no queue gets are not.
        """
        client = await self.raw()
        queue = self.name()
        client.say(1, spec.QueueDeclare(0, queue, exclusive=True), spec.ConfirmSelect())
        await self.hear(client, spec.ConfirmSelectOk)
        routed = content(1, spec.BasicPublish(0, "", queue), b"x")
        lost = content(1, spec.BasicPublish(0, "", self.name()), b"x")
        found = await self.confirms(client, routed * 640, 640)
        self.assertLess(len(found), 640)
        self.assertTrue(any(multiple for _, multiple in found))
        found = await self.confirms(client, lost * 10, 650)
        self.assertEqual(found, [(number, False) for number in range(641, 651)])
        found = await self.confirms(client, routed, 651)
        self.assertEqual(found, [(651, False)])

    async def test_before_select(self) -> None:
        """
        What was published before does not count.
        """
        channel = await self.channel(confirms=False)
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "a")
        await channel.confirm_select()
        await channel.basic_publish("", queue, "b")
        self.assertEqual(await self.bodies(channel, queue), [b"a", b"b"])

    async def test_returned_and_nacked(self) -> None:
        """
        Each message has its own outcome: taken, nacked, or returned.
        """
        channel = await self.channel()
        queue = await self.queue(
            channel, {"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        published = [
            channel.basic_publish("", queue, "a"),
            channel.basic_publish("", self.name(), "b", mandatory=True),
            channel.basic_publish("", queue, "c"),
            channel.basic_publish("", self.name(), "d"),
            channel.basic_publish("", queue, "e", mandatory=True),
        ]
        found = self.outcomes(*published)

        async def all_there() -> bool:
            return len(found) == len(published)

        await self.until(all_there, "confirms")
        self.assertEqual(
            sorted(found),
            [(0, "taken"), (1, "Returned"), (2, "Nacked"), (3, "taken"), (4, "Nacked")],
        )

    async def test_channel_error(self) -> None:
        """
        A refused publish ends the channel; what came before it is confirmed, what came
        after it is not taken.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        await channel.basic_publish("", queue, "a")
        call = channel.basic_publish(self.name("exchange"), "", "b")
        late = channel.basic_publish("", queue, "c")
        late.addErrback(lambda failure: failure.trap(AMQPError))
        await self.channel_refused(channel, call, 404, "basic.publish", "no exchange")
        self.assertEqual(await self.bodies(other, queue), [b"a"])


@every_peer
class ReturnScenarios(Scenario):
    """
    Mandatory messages that no queue gets come back.
    """

    async def test_returned(self) -> None:
        """
        As they were, with the reason.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel)
        properties = Properties(
            content_type="text/plain", headers={"a": [1]}, message_id="m"
        )
        with self.assertRaises(Returned) as caught:
            await channel.basic_publish(exchange, "key", "body", properties, True)
        returned = caught.exception
        assert isinstance(returned, Returned)
        self.assertEqual((returned.reply_code, returned.reply_text), (312, "NO_ROUTE"))
        message = returned.message
        assert isinstance(message, Message)
        self.assertEqual(
            (message.exchange, message.routing_key, message.body, message.properties),
            (exchange, "key", b"body", properties),
        )

    async def test_routed(self) -> None:
        """
        Others do not.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        found: list[Message] = []
        channel.observe_returns(found.append)
        await channel.basic_publish("", queue, "x", mandatory=True)
        await channel.basic_publish("", self.name(), "x", mandatory=False)
        self.assertEqual(found, [])

    async def test_without_confirms(self) -> None:
        """
        Also without confirms, in order.
        """
        channel = await self.channel(confirms=False)
        found: list[Message] = []
        channel.observe_returns(found.append)
        for body in "abc":
            await channel.basic_publish("", self.name(), body, mandatory=True)
        await channel.basic_qos(prefetch_count=1)
        self.assertEqual([each.body for each in found], [b"a", b"b", b"c"])

    async def test_large(self) -> None:
        """
        Also when they are larger than a frame, or empty.
        """
        channel = await self.channel()
        for body in (b"x" * 300_000, b""):
            with self.assertRaises(Returned) as caught:
                await channel.basic_publish("", self.name(), body, mandatory=True)
            returned = caught.exception
            assert isinstance(returned, Returned)
            assert isinstance(returned.message, Message)
            self.assertEqual(returned.message.body, body)


@every_peer
class TransactionScenarios(Scenario):
    """
    What is published and acknowledged takes effect together.
    """

    async def test_commit(self) -> None:
        """
        What is published is there when the transaction is committed, not before.
        """
        channel, other = await self.channel(False), await self.channel()
        queue = await self.queue(channel)
        self.assertEqual(await channel.tx_select(), spec.TxSelectOk())
        for body in "ab":
            await channel.basic_publish("", queue, body)
        self.assertEqual(await self.count(channel, queue), 0)
        self.assertEqual(await channel.tx_commit(), spec.TxCommitOk())
        self.assertEqual(await self.bodies(other, queue), [b"a", b"b"])

    async def test_rollback(self) -> None:
        """
        Or never; and the next transaction begins.
        """
        channel = await self.channel(False)
        queue = await self.queue(channel)
        await channel.tx_select()
        await channel.basic_publish("", queue, "a")
        self.assertEqual(await channel.tx_rollback(), spec.TxRollbackOk())
        await channel.basic_publish("", queue, "b")
        await channel.tx_commit()
        self.assertEqual(await self.bodies(channel, queue), [b"b"])

    async def test_acknowledgements(self) -> None:
        """
        What was acknowledged is unacknowledged again after a rollback.
        """
        channel = await self.channel(False)
        queue = await self.queue(channel)
        await channel.tx_select()
        for body in "abc":
            await channel.basic_publish("", queue, body)
        await channel.tx_commit()
        tags = [(await self.get(channel, queue)).delivery_tag for _ in range(3)]
        await channel.basic_ack(tags[0])
        await channel.basic_reject(tags[1], requeue=True)
        await channel.tx_rollback()
        self.assertEqual(await self.count(channel, queue), 0)
        await channel.basic_ack(tags[1])
        await channel.basic_reject(tags[0], requeue=True)
        await channel.tx_commit()
        self.assertEqual(await self.bodies(channel, queue), [b"a"])

    async def test_closed(self) -> None:
        """
        What was not committed is forgotten with the channel.
        """
        channel, other = await self.channel(False), await self.channel()
        queue = await self.queue(other)
        await other.basic_publish("", queue, "a")
        await channel.tx_select()
        (await self.get(channel, queue)).ack()
        await channel.basic_publish("", queue, "b")
        await channel.close()
        delivery = await self.get(other, queue)
        self.assertEqual((delivery.body, delivery.redelivered), (b"a", True))
        self.assertEqual(await self.count(other, queue), 0)

    async def test_mandatory(self) -> None:
        """
        A message comes back when it is committed.
        """
        channel = await self.channel(False)
        found: list[Message] = []
        channel.observe_returns(found.append)
        await channel.tx_select()
        await channel.basic_publish("", self.name(), "x", mandatory=True)
        await channel.basic_qos(prefetch_count=1)
        self.assertEqual(found, [])
        await channel.tx_commit()
        self.assertEqual([each.body for each in found], [b"x"])

    async def test_partial(self) -> None:
        """
        406: a queue has refused a part of what is committed; other queues have theirs.
        """
        channel, other = await self.channel(False), await self.channel()
        queue = await self.queue(other)
        full = await self.queue(
            other, {"x-max-length": 0, "x-overflow": "reject-publish"}
        )
        await channel.tx_select()
        await channel.basic_publish("", queue, "a")
        await channel.basic_publish("", full, "b")
        call = channel.tx_commit()
        text = "partial tx completion"
        await self.channel_refused(channel, call, 406, "tx.commit", text)
        self.assertEqual((await self.get(other, queue)).body, b"a")

    async def test_unknown_tag(self) -> None:
        """
        406: what cannot be settled is refused before it is committed.
        """
        channel = await self.channel(False)
        await channel.tx_select()
        await channel.basic_ack(7)
        text = "unknown delivery tag 7"
        await self.channel_refused(channel, channel.tx_commit(), 406, "basic.ack", text)

    async def test_not_selected(self) -> None:
        """
        406: a channel that is in no transaction has nothing to commit, or to forget.
        """
        channel = await self.channel(False)
        text = "channel is not transactional"
        await self.channel_refused(channel, channel.tx_commit(), 406, "tx.commit", text)
        channel = await self.channel(False)
        await self.channel_refused(
            channel, channel.tx_rollback(), 406, "tx.rollback", text
        )

    async def test_confirms(self) -> None:
        """
        406: a channel is in transactions or has confirms.
        """
        channel = await self.channel()
        text = "cannot switch from confirm to tx mode"
        await self.channel_refused(channel, channel.tx_select(), 406, "tx.select", text)
        channel = await self.channel(False)
        await channel.tx_select()
        text = "cannot switch from tx to confirm mode"
        await self.channel_refused(
            channel, channel.confirm_select(), 406, "confirm.select", text
        )


@every_peer
class ThreadScenarios(Scenario):
    """
    Channels and threads.
    """

    async def test_wrong_thread(self) -> None:
        """
        What is called in another thread than the reactor's fails at once, and says what
        to call; nothing is sent.
        """
        channel = await self.channel(False)
        queue = await self.queue(channel)
        verbs: list[Callable[[], Deferred[Any]]] = [
            lambda: channel.basic_publish("", queue, b"x"),
            lambda: channel.publish_many([Message("", queue, b"x")]),
            lambda: channel.queue_delete(queue),
            lambda: channel.basic_ack(1),
            lambda: channel.consume(queue),
            channel.confirm_select,
            channel.flush,
            channel.close,
        ]
        for verb in verbs:
            with self.assertRaises(LocalProtocolError) as caught:
                await (await deferToThread(lambda call: [call()], verb))[0]
            self.assertIn("threadsafe", str(caught.exception))
        self.assertEqual(await self.count(channel, queue), 0)
        await threadsafe_publish(channel, queue)
        await self.until_count(channel, queue, 1)


async def threadsafe_publish(channel: Channel, queue: str) -> None:
    """
    Publish in another thread, in the way that is meant for it.
    """
    await deferToThread(
        lambda: threadsafe(channel).basic_publish("", queue, b"x").result(60)
    )
