# -*- test-case-name: txamqp091.test.unit.cli.test_messages -*-
"""
The commands ping, publish, get, consume and tap.
"""

from __future__ import annotations

from txamqp091.arguments import stream_queue
from txamqp091.test.support.command_case import CommandCase


class PingTests(CommandCase):
    """
    ``ping``.
    """

    def test_ping(self) -> None:
        """
        It tells what the broker is, without the password.
        """
        [record] = self.command("ping", "--json").records
        self.assertEqual(record["product"], "txamqp091 MemoryBroker")
        self.assertEqual(record["broker"], "amqp://guest@localhost:5672/%2F")
        self.assertIn("MemoryBroker", self.command("ping").out)


class PublishTests(CommandCase):
    """
    ``publish``.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("orders")

    def test_argument(self) -> None:
        """
        A body on the command line, with properties.
        """
        started = self.command(
            "publish", "orders", "tea", "-H", "a=1", "--message-id", "m1",
            "--expiration", "1.5", "--priority", "3", "--content-type", "text/plain",
        )  # fmt: skip
        self.assertEqual(started.out, "published: 1\n")
        [message] = self.broker.queue("orders").messages
        properties = message.properties
        self.assertEqual(message.body, b"tea")
        self.assertEqual(dict(properties.headers or {}), {"a": "1"})
        self.assertEqual(
            (properties.message_id, properties.expiration, properties.priority),
            ("m1", "1500", 3),
        )
        self.assertEqual(properties.delivery_mode, 2)

    def test_stdin(self) -> None:
        """
        Without a body, stdin is the body; with ``--lines`` each line is one.
        """
        self.command("publish", "orders", stdin=b"a\nb\xff\n")
        self.command("publish", "orders", "--lines", stdin=b"1\r\n2\n3")
        bodies = [each.body for each in self.broker.queue("orders").messages]
        self.assertEqual(bodies, [b"a\nb\xff\n", b"1", b"2", b"3"])

    def test_many(self) -> None:
        """
        More lines than the window of unconfirmed messages.
        """
        lines = b"".join(b"%d\n" % number for number in range(2500))
        [record] = self.command(
            "publish", "orders", "--lines", "--json", stdin=lines
        ).records
        self.assertEqual(record, {"published": 2500, "failed": 0})
        self.assertQueue("orders", ready=2500)

    def test_no_route(self) -> None:
        """
        A message that no queue takes is an error, unless ``--optional`` is given.
        """
        started = self.command("publish", "nowhere", "x", status=66)
        self.assertIn("NO_ROUTE", started.err)
        self.assertEqual(started.out, "published: 0, failed: 1\n")
        self.command("publish", "nowhere", "x", "--optional")
        self.command("publish", "key", "x", "-e", "no-exchange", status=66)

    def test_delay(self) -> None:
        """
        The broker holds a message for as long as ``--delay`` says.
        """
        self.command("publish", "orders", "late", "--delay", "90")
        self.advance(89.9)
        self.assertQueue("orders", ready=0)
        self.advance(0.2)
        self.assertQueue("orders", ready=1)
        self.command("publish", "no-queue", "late", "--delay", "90", status=66)

    def test_usage(self) -> None:
        """
        What is wrong with the command line is told in a line.
        """
        for arguments, text in (
            (("publish",), "ROUTING_KEY"),
            (("publish", "orders", "x", "--delay", "-1"), "-1"),
            (("publish", "orders", "x", "--delay", "nan"), "nan"),
            (("publish", "orders", "x", "-H", "a"), "NAME=VALUE"),
            (("publish", "orders", "x", "--lines"), "leave out BODY"),
            (("nonsense",), "nonsense"),
        ):
            started = self.command(*arguments, status=64)
            self.assertIn(text, started.err)
            self.assertEqual(len(started.err.splitlines()), 1)


class GetTests(CommandCase):
    """
    ``get``.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("orders")
        for body in (b"1", b"2\x1b[2J", b"\xff"):
            self.broker.publish("", "orders", body)

    def test_take(self) -> None:
        """
        It takes messages off the queue, and writes them for people or for programs.
        """
        started = self.command("get", "orders", "-n", "2")
        self.assertIn("(default exchange) orders: 1 bytes", started.out)
        self.assertIn("2\\x1b[2J", started.out)  # which would clear a terminal
        [record] = self.command("get", "orders", "--json").records
        self.assertEqual(record["body_base64"], "/w==")
        started = self.command("get", "orders", status=1)
        self.assertIn("is empty", started.err)
        self.assertQueue("orders", ready=0, unacked=0)

    def test_keep(self) -> None:
        """
        With ``--keep`` they stay in the queue, in order.
        """
        self.command("get", "orders", "-n", "2", "--keep")
        bodies = [each.body for each in self.broker.queue("orders").messages]
        self.assertEqual(bodies, [b"1", b"2\x1b[2J", b"\xff"])

    def test_refused(self) -> None:
        """
        A queue has to exist, and to be no stream.
        """
        self.command("get", "no-queue", status=66)
        self.broker.declare_queue("stream", arguments=stream_queue())
        started = self.command("get", "stream", status=73)
        self.assertIn("is a stream", started.err)


class ConsumeTests(CommandCase):
    """
    ``consume`` and ``tap``.
    """

    def test_until_interrupted(self) -> None:
        """
        It writes messages as they come.  Ctrl-C ends it in order.
        """
        self.broker.declare_queue("orders")
        started = self.begin("consume", "orders", "--body")
        for body in (b"1", b"2"):
            self.broker.publish("", "orders", body)
            self.flush()
        self.assertEqual(started.out, "1\n2\n")
        self.assertNoResult(started.status)
        started.status.cancel()
        self.flush()
        self.assertEqual(self.successResultOf(started.status), 0)
        self.assertQueue("orders", ready=0, unacked=0, consumers=0)

    def test_limits(self) -> None:
        """
        It ends after a number of messages, or when none comes; the rest stays.
        """
        self.broker.declare_queue("orders")
        for number in range(5):
            self.broker.publish("", "orders", b"%d" % number)
        started = self.command("consume", "orders", "-n", "2", "--body")
        self.assertEqual(started.out, "0\n1\n")
        self.assertQueue("orders", ready=3, unacked=0)
        started = self.begin("consume", "orders", "--idle", "5")
        self.advance(5)
        self.assertEqual(self.successResultOf(started.status), 0)
        started = self.begin("consume", "orders", "--idle", "5")
        self.advance(5)
        self.assertEqual(self.successResultOf(started.status), 1)

    def test_lost(self) -> None:
        """
        The loss of the connection has a status of its own.
        """
        self.broker.declare_queue("orders")
        started = self.begin("consume", "orders")
        self.link.cut()
        self.flush()
        self.assertEqual(self.successResultOf(started.status), 74)

    def test_stream(self) -> None:
        """
        A stream is read from an offset.
        """
        self.broker.declare_queue("stream", arguments=stream_queue())
        for number in range(3):
            self.broker.publish("", "stream", b"%d" % number)
        for offset, expected in (("first", "0\n"), ("2", "2\n")):
            started = self.command(
                "consume", "stream", "--offset", offset, "-n", "1", "--body"
            )
            self.assertEqual(started.out, expected)

    def test_tap(self) -> None:
        """
        ``tap`` writes copies of what passes an exchange; consumers miss nothing.
        """
        self.broker.declare_queue("orders")
        self.broker.bind_queue("orders", "amq.topic", "#")
        started = self.begin("tap", "-e", "amq.topic", "-k", "order.*", "-n", "2")
        for key in ("order.eu", "other", "order.us"):
            self.broker.publish("amq.topic", key, b"x")
        self.flush()
        self.assertEqual(self.successResultOf(started.status), 0)
        self.assertEqual(started.out.count("amq.topic order."), 2)
        self.assertQueue("orders", ready=3)
