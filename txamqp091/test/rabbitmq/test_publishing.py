# -*- test-case-name: txamqp091.test.rabbitmq.test_publishing -*-
"""
Publishing to a real RabbitMQ: each message has its own outcome, whatever was
published before and after it (criterion 12, and the defects D1 and D8 of others).

How publishers are held back is in `txamqp091.test.faults.test_rabbitmq_blocking`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from txamqp091.arguments import classic_queue, quorum_queue
from txamqp091.channel import Channel
from txamqp091.errors import (
    BatchFailed,
    Nacked,
    NotFound,
    PreconditionFailed,
    Returned,
)
from txamqp091.message import Body, Message
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    outcomes,
    until,
)
from txamqp091.wire.properties import Properties


@every_broker
class PublishTests(RabbitTestCase):
    """
    One message, and its outcome.
    """

    async def queue(self, channel: Channel, **arguments: object) -> str:
        """
        Make a queue for the time of the test.
        """
        declared = await channel.queue_declare(exclusive=True, arguments=arguments)
        return declared.queue

    async def test_simple(self) -> None:
        """
        A publish takes a few lines.
        """
        channel = await self.open_channel()
        queue = await self.queue(channel)
        await channel.confirm_select()
        await channel.basic_publish("", queue, "Test Message")
        delivery = await channel.basic_get(queue)
        assert delivery is not None
        self.assertEqual(delivery.body, b"Test Message")
        delivery.ack()

    async def test_bodies(self) -> None:
        """
        Text and anything like bytes is a body; other things are a `TypeError` of
        the Deferred (D13), and cost nothing else.
        """
        channel = await self.open_channel()
        queue = await self.queue(channel)
        await channel.confirm_select()
        bodies: list[Body] = ["grün", b"", b"\0\xff", bytearray(b"x"), memoryview(b"y")]
        for body in bodies:
            await channel.basic_publish("", queue, body)
        wrong = channel.basic_publish("", queue, 5)  # type: ignore[arg-type]
        self.failureResultOf(wrong, TypeError)
        expected = ["grün".encode(), b"", b"\0\xff", b"x", b"y"]
        for body in expected:
            delivery = await channel.basic_get(queue, auto_ack=True)
            assert delivery is not None
            self.assertEqual(delivery.body, body)

    async def test_properties(self) -> None:
        """
        Properties and headers arrive as they were sent.
        """
        channel = await self.open_channel()
        queue = await self.queue(channel)
        properties = Properties(
            content_type="text/plain",
            headers={"n": -5, "f": 0.5, "t": [True, None, {"deep": b"\xff"}], "s": "ü"},
            delivery_mode=2,
            priority=3,
            correlation_id="c",
            reply_to="r",
            expiration=60_000,
            message_id="m",
            timestamp=datetime(2024, 2, 29, tzinfo=UTC),
            type="t",
            user_id="guest",
            app_id="a",
        )
        await channel.basic_publish("", queue, "x", properties)
        delivery = await channel.basic_get(queue, auto_ack=True)
        assert delivery is not None
        self.assertEqual(delivery.properties, properties)

    async def test_large(self) -> None:
        """
        Bodies of 1 and 16 MiB, in many frames, come back the same, also by TLS.
        """
        for uri, size in (
            (self.uri, 1 << 20),
            (self.uri, 16 << 20),
            (self.tls_uri, 16 << 20),
        ):
            channel = await self.open_channel(uri)
            queue = await self.queue(channel)
            await channel.confirm_select()
            body = (b"0123456789abcdef" * (size >> 4))[:-1] + b"!"
            await channel.basic_publish("", queue, body)
            delivery = await channel.basic_get(queue, auto_ack=True)
            assert delivery is not None
            self.assertTrue(delivery.body == body)

    async def test_too_large(self) -> None:
        """
        A body that is larger than the broker takes ends the channel, and says so.
        """
        if self.node.installation.number < (4,):
            read = "{ok, Size} = application:get_env(rabbit, max_message_size), Size."
            write = "application:set_env(rabbit, max_message_size, %s)."
        else:
            read = "persistent_term:get(max_message_size)."
            write = "persistent_term:put(max_message_size, %s)."
        self.addCleanup(self.node.eval, write % self.node.eval(read))
        self.node.eval(write % 1000)
        channel = await self.open_channel()
        queue = await self.queue(channel)
        await channel.confirm_select()
        await channel.basic_publish("", queue, bytes(1000))
        with self.assertRaises(PreconditionFailed) as context:
            await channel.basic_publish("", queue, bytes(1001))
        self.assertEqual(context.exception.operation, "basic.publish")

    async def test_unroutable(self) -> None:
        """
        A mandatory message that no queue takes is `Returned`, with the message; one
        that is not mandatory is confirmed all the same.
        """
        channel = await self.open_channel()
        seen: list[Message] = []
        channel.observe_returns(seen.append)
        await channel.confirm_select()
        properties = Properties(message_id="7")
        with self.assertRaises(Returned) as context:
            await channel.basic_publish("", "nobody", "body", properties, True)
        error = context.exception
        self.assertEqual((error.reply_code, error.reply_text), (312, "NO_ROUTE"))
        [message] = seen
        self.assertIs(error.message, message)
        self.assertEqual((message.routing_key, message.body), ("nobody", b"body"))
        self.assertEqual(message.properties.message_id, "7")
        await channel.basic_publish("", "nobody", "body")

    async def test_large_unroutable(self) -> None:
        """
        A message that comes back is told of, also if it is larger than what we take
        from others.
        """
        channel = await self.open_channel(max_body_size=1000)
        await channel.confirm_select()
        published = [
            channel.basic_publish("", "nobody", body * 100_000, mandatory=True)
            for body in ("a", "b")
        ]
        for body, error in zip("ab", await outcomes(published), strict=True):
            assert isinstance(error, Returned)
            assert isinstance(error.message, Message)
            self.assertEqual(error.message.body, body.encode() * 100_000)

    async def test_then_close(self) -> None:
        """
        What was published before a close leaves before it, however much it is, also
        by TLS.
        """
        keeper = await self.open_channel()
        queue = (await keeper.queue_declare(self.queue_name())).queue
        for uri in (self.uri, self.tls_uri):
            channel = await self.open_channel(uri)
            channel.basic_publish("", queue, bytes(8 << 20))
            await channel.connection.close()
            await until(lambda: self.node.queue_depth(queue, self.vhost) == 1)
            await keeper.queue_purge(queue)
        await keeper.queue_delete(queue)

    async def test_before_select_ok(self) -> None:
        """
        What is published before the broker has agreed to confirms counts too: each
        outcome is its own message's (D8).
        """
        channel = await self.open_channel()
        queue = await self.queue(channel)
        selected = channel.confirm_select()
        published = [
            channel.basic_publish("", key, str(number), mandatory=True)
            for number, key in enumerate(["nobody", queue, "nobody", queue])
        ]
        again = channel.confirm_select()
        published.append(channel.basic_publish("", "nobody", "4", mandatory=True))
        kinds = [type(error) for error in await outcomes(published)]
        self.assertEqual(kinds, [Returned, type(None), Returned, type(None), Returned])
        self.assertEqual(await selected, await again)

    async def test_nacked(self) -> None:
        """
        A queue that is full and rejects makes `Nacked`, for the message that it
        rejected.
        """
        channel = await self.open_channel()
        queue = await self.queue(
            channel, **classic_queue(max_length=1, overflow="reject-publish")
        )
        await channel.confirm_select()
        await channel.basic_publish("", queue, "kept")
        with self.assertRaises(Nacked) as context:
            await channel.basic_publish("", queue, "refused")
        self.assertTrue(context.exception.retriable)
        with self.assertRaises(BatchFailed) as batch:
            await channel.publish_many(
                [Message("", queue, "refused"), Message("", "nobody", "taken")]
            )
        [(place, error)] = batch.exception.failures
        self.assertEqual(place, 0)
        self.assertIsInstance(error, Nacked)

    async def test_missing_exchange(self) -> None:
        """
        A 404 with 40 messages in flight makes 40 outcomes, and another channel has
        no part in it (criterion 12).
        """
        connection = await self.connect()
        channel, other = [await connection.open_channel() for _ in range(2)]
        queue = await self.queue(channel)
        for each in (channel, other):
            await each.confirm_select()
        elsewhere = [other.basic_publish("", queue, "x") for _ in range(40)]
        published = [
            channel.basic_publish("no such exchange" if n >= 20 else "", queue, "x")
            for n in range(40)
        ]
        errors = await outcomes(published)
        self.assertEqual(await outcomes(elsewhere), [None] * 40)
        for error in errors[20:]:
            assert isinstance(error, NotFound)
            self.assertEqual(error.operation, "basic.publish")
        for error in errors[:20]:
            self.assertIsInstance(error, NotFound | None)
        await other.basic_publish("", queue, "still")


@every_broker
class PipelinedTests(RabbitTestCase):
    """
    Many messages at a time.
    """

    async def mandatory(self, channel: Channel, queue: str, modes: int) -> None:
        """
        Publish 4000 mandatory messages without waiting, half of them unroutable,
        and see each have its own outcome (D1).
        """
        await channel.confirm_select()
        published = [
            channel.basic_publish(
                "",
                "nobody" if number % 2 else queue,
                f"message {number}",
                Properties(delivery_mode=1 + number // 2 % modes),
                mandatory=True,
            )
            for number in range(4000)
        ]
        errors = await outcomes(published)
        self.assertEqual([error for error in errors[::2] if error is not None], [])
        for number, error in enumerate(errors):
            if number % 2:
                assert isinstance(error, Returned), error
                assert isinstance(error.message, Message)
                self.assertEqual(error.message.body, f"message {number}".encode())
        await until(lambda: self.node.queue_depth(queue, self.vhost) == 2000)

    async def test_half_unroutable(self) -> None:
        """
        2000 messages arrive and 2000 come back, each as itself.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await self.mandatory(channel, queue, modes=1)

    async def test_persistent_and_transient(self) -> None:
        """
        So they do when every other one is persistent, in a durable queue: those are
        confirmed later.
        """
        channel = await self.open_channel()
        queue = self.queue_name()
        await channel.queue_declare(queue)
        await self.mandatory(channel, queue, modes=2)
        await channel.queue_delete(queue)

    async def test_quorum_queue(self) -> None:
        """
        So they do with a quorum queue.
        """
        channel = await self.open_channel()
        queue = self.queue_name()
        await channel.queue_declare(queue, arguments=quorum_queue())
        await self.mandatory(channel, queue, modes=2)
        await channel.queue_delete(queue)

    async def test_publish_many(self) -> None:
        """
        20,000 messages of one batch are all taken, and one Deferred says so.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.confirm_select()
        await channel.publish_many(
            Message("", queue, f"{number}") for number in range(20_000)
        )
        await until(lambda: self.node.queue_depth(queue, self.vhost) == 20_000)
