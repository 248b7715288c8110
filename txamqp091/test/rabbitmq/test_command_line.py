# -*- test-case-name: txamqp091.test.rabbitmq.test_command_line -*-
"""
The command line on RabbitMQ.
"""

from __future__ import annotations

from txamqp091.arguments import quorum_queue
from txamqp091.test.support.command_case import Started, start
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    until,
)
from txamqp091.wire.properties import Properties


@every_broker
class CommandTests(RabbitTestCase):
    """
    Commands run as functions.
    """

    def begin(self, *arguments: str, stdin: bytes = b"") -> Started:
        """
        Start a command.
        """
        from twisted.internet import reactor

        return start(reactor, (*arguments, "--uri", self.uri), stdin=stdin)

    async def command(
        self, *arguments: str, stdin: bytes = b"", status: int = 0
    ) -> Started:
        """
        Run a command that ends with a status.
        """
        started = self.begin(*arguments, stdin=stdin)
        self.assertEqual(await started.status, status, started.err)
        return started

    async def test_messages(self) -> None:
        """
        Messages are published, taken and consumed.
        """
        queue = self.queue_name()
        channel = await self.open_channel()
        await channel.queue_declare(queue, arguments=quorum_queue())
        await self.command("ping")
        await self.command("publish", queue, "--lines", stdin=b"1\n2\n3\n")
        await self.command("publish", "nowhere", "x", status=66)
        started = await self.command("get", queue, "--json")
        [record] = started.records
        self.assertEqual((record["routing_key"], record["body"]), (queue, "1"))
        started = await self.command("consume", queue, "-n", "2", "--body")
        self.assertEqual(started.out, "2\n3\n")
        await self.command("get", queue, status=1)
        await self.command("get", "no-queue", status=66)
        await channel.queue_delete(queue)

    async def test_stream(self) -> None:
        """
        The messages of a stream cannot be taken, and the commands say so.
        """
        queue = self.queue_name()
        channel = await self.open_channel()
        await channel.queue_declare(queue, arguments={"x-queue-type": "stream"})
        await self.command("publish", queue, "x")
        for arguments in (("get",), ("dead", "list"), ("dead", "replay")):
            started = await self.command(*arguments, queue, status=73)
            self.assertIn("is a stream", started.err)
        await channel.queue_delete(queue)

    async def test_delays(self) -> None:
        """
        Delayed messages arrive; the delay queues are shown and removed.
        """
        queue = self.queue_name()
        channel = await self.open_channel()
        await channel.queue_declare(queue, arguments=quorum_queue())
        await self.command("publish", queue, "late", "--delay", "1")
        started = await self.command("consume", queue, "-n", "1", "--body")
        self.assertEqual(started.out, "late\n")
        await self.command("publish", queue, "later", "--delay", "1000")
        started = await self.command("delay", "show", "--json")
        self.assertIn(1, [each["messages"] for each in started.records])
        await self.command("delay", "remove", status=73)
        await self.command("delay", "remove", "--discard")
        await self.command("delay", "show", status=1)
        await channel.queue_delete(queue)

    async def test_dead(self) -> None:
        """
        Looking at dead messages loses none, whatever the delivery limit of their queue;
        replayed ones are back in their queue.
        """
        queue = self.queue_name()
        dead = f"{queue}.dead"
        channel = await self.open_channel()
        await channel.queue_declare(queue, arguments=quorum_queue())
        await channel.queue_declare(dead, arguments=quorum_queue(delivery_limit=1))
        await channel.confirm_select()
        for number in range(3):
            headers = {
                "x-error-queue": queue,
                "x-error-type": "builtins.KeyError" if number else "builtins.OSError",
                "x-original-routing-key": "order.eu",
            }
            await channel.basic_publish(
                "", dead, str(number), Properties(headers=headers), mandatory=True
            )
        for _ in range(4):
            await self.command("dead", "show", dead, "--where", "nothing=*", status=1)
            started = await self.command("dead", "list", dead)
            self.assertEqual(len(started.out.splitlines()), 3, started.out)
        started = await self.command(
            "dead", "replay", dead, "--where", "x-error-type=*.KeyError", "--json"
        )
        self.assertEqual(started.records, [{"replayed": 2, "left": 0}])
        started = await self.command("get", queue, "-n", "3", "--json")
        self.assertEqual(sorted(each["body"] for each in started.records), ["1", "2"])
        self.assertEqual(
            {each["routing_key"] for each in started.records}, {"order.eu"}
        )
        await self.command("dead", "move", dead, queue)
        started = await self.command("get", queue, "--body")
        self.assertEqual(started.out, "0\n")
        for name in (queue, dead):
            await channel.queue_delete(name)

    async def test_dead_lettered_by_the_broker(self) -> None:
        """
        Messages that the broker has dead-lettered go back with their routing key.
        """
        queue = self.queue_name()
        dead = f"{queue}.dead"
        channel = await self.open_channel()
        await channel.queue_declare(
            queue,
            arguments=quorum_queue(
                dead_letter_exchange="", dead_letter_routing_key=dead
            ),
        )
        await channel.queue_declare(dead, arguments=quorum_queue())
        await channel.queue_bind(queue, "amq.topic", f"{queue}.#")
        await self.command("publish", f"{queue}.eu", "x", "-e", "amq.topic")
        deliveries = await channel.consume(queue)
        delivery = await deliveries.get()
        delivery.reject(requeue=False)
        await deliveries.cancel()
        await until(lambda: self.node.queue_depth(dead, self.vhost) == 1)
        started = await self.command("dead", "list", dead, "--json")
        [record] = started.records
        self.assertEqual((record["queue"], record["error_type"]), (queue, "rejected"))
        await self.command("dead", "replay", dead)
        started = await self.command("get", queue, "--json")
        [record] = started.records
        self.assertEqual(record["routing_key"], f"{queue}.eu")
        self.assertNotIn("x-death", record["properties"].get("headers", {}))
        for name in (queue, dead):
            await channel.queue_delete(name)

    async def test_firehose(self) -> None:
        """
        ``tap`` shows what is published while the firehose is on.
        """
        queue = self.queue_name()
        channel = await self.open_channel()
        await channel.queue_declare(queue, arguments=quorum_queue())
        vhost = f'<<"{self.vhost}">>'
        await in_thread(self.node.eval, f"rabbit_trace:start({vhost}), ok.")
        self.addCleanup(in_thread, self.node.eval, f"rabbit_trace:stop({vhost}), ok.")
        started = self.begin("tap", "-k", "publish.#", "-n", "1", "--json")
        await until(lambda: "listening" in started.err)
        await self.command("publish", queue, "x")
        self.assertEqual(await started.status, 0, started.err)
        [record] = started.records
        self.assertEqual(record["body"], "x")
        self.assertEqual(record["properties"]["headers"]["routing_keys"], [queue])
        await channel.queue_delete(queue)
