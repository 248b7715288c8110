# -*- test-case-name: txamqp091.test.scenarios.test_replies -*-
"""
Scenarios: replies that come directly to the channel that asked.
"""

from __future__ import annotations

from txamqp091.errors import (
    LocalProtocolError,
    Returned,
)
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

REPLY_TO = "amq.rabbitmq.reply-to"


@every_peer
class ReplyScenarios(Scenario):
    """
    Replies come directly to the channel that asked.
    """

    async def test_reply(self) -> None:
        """
        A request has an address to reply to, which leads to the one who asked.
        """
        asking, answering = await self.channel(), await self.channel()
        queue = await self.queue(asking)
        replies = await asking.consume(REPLY_TO, auto_ack=True)
        properties = Properties(reply_to=REPLY_TO, correlation_id="7")
        await asking.basic_publish("", queue, "question", properties)
        request = await self.get(answering, queue)
        address = request.properties.reply_to
        assert address is not None
        self.assertTrue(address.startswith(f"{REPLY_TO}."), address)
        self.assertEqual(request.properties.correlation_id, "7")
        await answering.basic_publish(
            "", address, "answer", Properties(correlation_id="7")
        )
        reply = await replies.get()
        self.assertEqual(
            (reply.body, reply.exchange, reply.routing_key, reply.redelivered),
            (b"answer", "", address, False),
        )
        self.assertEqual(reply.properties.correlation_id, "7")

    async def test_several(self) -> None:
        """
        An address can be used again, from other connections as well.
        """
        asking = await self.channel()
        queue = await self.queue(asking)
        replies = await asking.consume(REPLY_TO, auto_ack=True)
        await asking.basic_publish("", queue, "?", Properties(reply_to=REPLY_TO))
        address = (await self.get(asking, queue)).properties.reply_to
        assert address is not None
        answering = await (await self.connect()).open_channel()
        await answering.confirm_select()
        for body in "ab":
            await answering.basic_publish("", address, body)
        found = await self.take(replies, 2)
        self.assertEqual([each.body for each in found], [b"a", b"b"])

    async def test_no_consumer(self) -> None:
        """
        406: who asks has to listen first.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.basic_publish("", queue, "?", Properties(reply_to=REPLY_TO))
        text = "fast reply consumer does not exist"
        await self.channel_refused(channel, call, 406, "basic.publish", text)

    async def test_acknowledging(self) -> None:
        """
        406: replies cannot be acknowledged.
        """
        channel = await self.channel()
        call = channel.consume(REPLY_TO)
        text = "reply consumer cannot acknowledge"
        await self.channel_refused(channel, call, 406, "basic.consume", text)

    async def test_second_consumer(self) -> None:
        """
        406: there is one to a channel.
        """
        channel = await self.channel()
        await channel.consume(REPLY_TO, auto_ack=True)
        call = channel.consume(REPLY_TO, auto_ack=True)
        text = "reply consumer already set"
        await self.channel_refused(channel, call, 406, "basic.consume", text)

    async def test_cancel(self) -> None:
        """
        After it was cancelled there can be another one.
        """
        channel = await self.channel()
        replies = await channel.consume(REPLY_TO, auto_ack=True)
        await replies.cancel()
        await channel.consume(REPLY_TO, auto_ack=True)

    async def test_declare(self) -> None:
        """
        An address can be asked for, as a queue, and is there while somebody listens.
        """
        asking, other = await self.channel(), await self.channel()
        queue = await self.queue(asking)
        await asking.consume(REPLY_TO, auto_ack=True)
        await asking.basic_publish("", queue, "?", Properties(reply_to=REPLY_TO))
        address = (await self.get(other, queue)).properties.reply_to
        assert address is not None
        declared = await other.queue_declare(address, passive=True)
        self.assertEqual(declared, spec.QueueDeclareOk(address, 0, 1))
        await asking.close()
        call = other.queue_declare(address, passive=True)
        await self.channel_refused(other, call, 404, "queue.declare", "no queue")

    async def test_mandatory(self) -> None:
        """
        A mandatory reply arrives, and for 3.10 it comes back, too.
        """
        asking, answering = await self.channel(), await self.channel()
        queue = await self.queue(asking)
        replies = await asking.consume(REPLY_TO, auto_ack=True)
        await asking.basic_publish("", queue, "?", Properties(reply_to=REPLY_TO))
        address = (await self.get(answering, queue)).properties.reply_to
        assert address is not None
        came_back = False
        try:
            await answering.basic_publish("", address, "answer", mandatory=True)
        except Returned:
            came_back = True
        self.assertEqual((await replies.get()).body, b"answer")
        self.assertEqual(came_back, self.by_version({"3.10": True, "4.3": False}))

    async def test_invented(self) -> None:
        """
        To an address that nobody was given nothing is routed; 3.10 fails at some.
        """
        channel = await self.channel()
        for address in self.by_version(
            {"3.10": ("",), "4.3": ("", ".", ".bogus", ".1.memory", ".9.memory")}
        ):
            with self.assertRaises(Returned):
                await channel.basic_publish("", REPLY_TO + address, "x", mandatory=True)

    async def test_gone(self) -> None:
        """
        A reply to somebody who has gone is lost; whether it comes back differs.
        """
        asking, other = await self.channel(), await self.channel()
        queue = await self.queue(other)
        await asking.consume(REPLY_TO, auto_ack=True)
        await asking.basic_publish("", queue, "?", Properties(reply_to=REPLY_TO))
        address = (await self.get(other, queue)).properties.reply_to
        assert address is not None
        await asking.close()
        try:
            await other.basic_publish("", address, "late", mandatory=True)
        except Returned:
            came_back = True
        else:
            came_back = False
        self.assertEqual(came_back, self.by_version({"3.10": True, "4.3": False}))

    async def test_local_refusal(self) -> None:
        """
        The names of consumers are as with other queues.
        """
        channel = await self.channel()
        await channel.consume(REPLY_TO, auto_ack=True, consumer_tag="mine")
        with self.assertRaises(LocalProtocolError):
            await channel.consume("other", consumer_tag="mine")
