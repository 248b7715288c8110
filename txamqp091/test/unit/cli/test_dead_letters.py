# -*- test-case-name: txamqp091.test.unit.cli.test_dead_letters -*-
"""
The commands for dead messages.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from txamqp091.arguments import classic_queue, quorum_queue, stream_queue
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService
from txamqp091.test.support.command_case import CommandCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.wire.properties import Properties


class DeadCase(CommandCase):
    """
    A queue and its dead-letter queue.
    """

    version = "4.3.6"
    dead_arguments: Any = quorum_queue()

    def make_broker(self, clock: IReactorTime) -> MemoryBroker:
        """
        A broker of the version.
        """
        return MemoryBroker(clock, version=self.version)

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("orders", arguments=quorum_queue())
        self.broker.declare_queue("orders.dead", arguments=self.dead_arguments)

    def bury(self, body: bytes, kind: str = "KeyError", **more: Any) -> None:
        """
        Put a message into the dead-letter queue, as the worker does.
        """
        headers: dict[str, Any] = {
            "x-error": "no",
            "x-error-type": f"builtins.{kind}",
            "x-error-queue": "orders",
            "x-error-tries": 2,
            "x-error-consumer": "orders",
            "x-error-traceback": "Traceback",
            "x-original-exchange": "shop",
            "x-original-routing-key": "order.eu",
            "a": 1,
        }
        properties = Properties(headers=headers, delivery_mode=2, **more)
        self.broker.publish("", "orders.dead", body, properties)

    def bodies(self, queue: str = "orders.dead") -> list[bytes]:
        """
        The bodies in a queue.
        """
        self.assertQueue(queue, unacked=0)
        return self.broker.queue(queue).bodies


class LookTests(DeadCase):
    """
    ``dead list`` and ``dead show``.
    """

    def test_list(self) -> None:
        """
        A line for each message, which stays where it is.
        """
        for number in range(3):
            self.bury(b"%d" % number, message_id=f"m{number}")
        records = self.command("dead", "list", "orders.dead", "--json").records
        self.assertEqual(
            records[1],
            {
                "number": 2, "queue": "orders", "routing_key": "order.eu",
                "message_id": "m1", "error_type": "builtins.KeyError", "error": "no",
                "tries": 2, "size": 1,
            },
        )  # fmt: skip
        started = self.command("dead", "list", "orders.dead", "-n", "2")
        self.assertEqual(
            started.out.splitlines()[0],
            "1  orders  builtins.KeyError  no  1 bytes  m0",
        )
        self.assertIn("listed 2 of 3 messages", started.err)
        # A quorum queue puts what is returned behind the rest.
        self.assertEqual(sorted(self.bodies()), [b"0", b"1", b"2"])

    def test_show(self) -> None:
        """
        Headers and bodies of the messages that match.
        """
        self.bury(b"first")
        self.bury(b"second", "ValueError")
        where = ("--where", "x-error-type=*.ValueError")
        [record] = self.command("dead", "show", "orders.dead", "--json", *where).records
        self.assertEqual(record["body"], "second")
        self.assertEqual(record["properties"]["headers"]["a"], 1)
        self.assertIn("second", self.command("dead", "show", "orders.dead", *where).out)
        self.command("dead", "show", "orders.dead", "--where", "b=*", status=1)
        self.assertEqual(self.bodies(), [b"first", b"second"])

    def test_again_and_again(self) -> None:
        """
        Looking at messages does not use up the delivery limit of their queue.
        """
        for number in range(3):
            self.bury(b"%d" % number)
        for _ in range(30):
            self.command("dead", "list", "orders.dead")
            self.command("dead", "show", "orders.dead", "--where", "b=*", status=1)
        self.assertEqual(sorted(self.bodies()), [b"0", b"1", b"2"])

    def test_empty(self) -> None:
        """
        An empty queue has a status of its own, and so has one that does not exist.
        """
        self.command("dead", "list", "orders.dead", status=1)
        self.command("dead", "list", "nowhere", status=66)

    def test_stream(self) -> None:
        """
        A stream is refused with its reason.
        """
        self.broker.declare_queue("stream", arguments=stream_queue())
        self.broker.publish("", "stream", b"x")
        for arguments in (("list",), ("replay",), ("purge", "--yes")):
            started = self.command(
                "dead", arguments[0], "stream", *arguments[1:], status=73
            )
            self.assertIn("is a stream", started.err)


class ClassicLookTests(LookTests):
    """
    The same with a classic queue, which has places for what is returned.
    """

    dead_arguments = classic_queue()


class OldLookTests(LookTests):
    """
    The same on RabbitMQ 3.10, where each return counts, with the lowest limit.
    """

    version = "3.10.8"
    dead_arguments = quorum_queue(delivery_limit=1)


class ReplayTests(DeadCase):
    """
    ``dead replay``.
    """

    def test_replay(self) -> None:
        """
        Messages go back to the queue in which they died, with their routing key, and
        without the headers of their death.
        """
        self.bury(b"1", message_id="m", expiration="1000", user_id=None)
        self.bury(b"2")
        started = self.command("dead", "replay", "orders.dead", "--json")
        self.assertEqual(started.records, [{"replayed": 2, "left": 0}])
        self.assertEqual(self.bodies(), [])
        self.assertEqual(self.bodies("orders"), [b"1", b"2"])
        message = self.broker.queue("orders").messages[0]
        self.assertEqual(message.routing_key, "order.eu")
        self.assertEqual(message.properties.message_id, "m")
        self.assertEqual(
            dict(message.properties.headers or {}),
            {
                "a": 1,
                "x-original-exchange": "shop",
                "x-original-routing-key": "order.eu",
                "x-error-tries": 2,
            },
        )
        left = [each for each in self.broker.exchanges() if "replay" in each]
        self.assertEqual(left, [])

    def test_where_and_limit(self) -> None:
        """
        Only messages that match, so many at most; the others keep their places.
        """
        for number in range(6):
            self.bury(b"%d" % number, "KeyError" if number % 2 else "OSError")
        where = ("--where", "x-error-type=*.KeyError", "--where", "a=1")
        self.command("dead", "replay", "orders.dead", *where, "-n", "2")
        self.assertEqual(self.bodies("orders"), [b"1", b"3"])
        self.assertEqual(self.bodies(), [b"0", b"2", b"4", b"5"])

    def test_many(self) -> None:
        """
        More messages than are published at a time.
        """
        for number in range(250):
            self.bury(b"%d" % number)
        self.command("dead", "replay", "orders.dead", "-n", "220")
        self.assertEqual(len(self.bodies("orders")), 220)
        self.assertEqual(len(self.bodies()), 30)

    def test_dead_lettered_by_the_broker(self) -> None:
        """
        Messages that the broker has dead-lettered go back as well.
        """
        self.broker.declare_queue(
            "bills",
            arguments=quorum_queue(
                dead_letter_exchange="", dead_letter_routing_key="orders.dead"
            ),
        )
        self.broker.bind_queue("bills", "amq.topic", "#")
        self.broker.publish("amq.topic", "bill.eu", b"x", Properties(user_id="guest"))
        service = AMQPClientService(self.reactor, self.uri)

        def refuse(delivery: Delivery) -> None:
            delivery.reject(requeue=False)

        service.consume("bills", refuse)
        self.start(service)
        self.stop(service)
        [record] = self.command("dead", "list", "orders.dead", "--json").records
        self.assertEqual(record["queue"], "bills")
        self.assertEqual(record["error_type"], "rejected")
        self.command("dead", "replay", "orders.dead")
        [message] = self.broker.queue("bills").messages
        self.assertEqual((message.routing_key, message.body), ("bill.eu", b"x"))
        self.assertEqual(dict(message.properties.headers or {}), {})

    def test_no_origin(self) -> None:
        """
        A message that does not say where it died stays, unless ``--to`` names a queue.
        """
        self.broker.publish("", "orders.dead", b"x")
        started = self.command("dead", "replay", "orders.dead", status=75)
        self.assertIn("--to", started.err)
        self.assertEqual(started.out, "replayed: 0, left: 1\n")
        self.assertEqual(self.bodies(), [b"x"])
        self.command("dead", "replay", "orders.dead", "--to", "orders")
        self.assertEqual(self.bodies("orders"), [b"x"])
        self.command("dead", "replay", "orders.dead", "--to", "orders.dead", status=64)

    def test_no_queue(self) -> None:
        """
        Messages whose queue is gone, or full, stay.
        """
        self.bury(b"1")
        started = self.command(
            "dead", "replay", "orders.dead", "--to", "gone", status=75
        )
        self.assertIn("no queue 'gone'", started.err)
        self.broker.declare_queue(
            "full", arguments=classic_queue(max_length=1, overflow="reject-publish")
        )
        self.broker.publish("", "full", b"0")
        self.command("dead", "replay", "orders.dead", "--to", "full", status=75)
        self.assertEqual(self.bodies(), [b"1"])
        self.assertEqual(self.bodies("full"), [b"0"])

    def test_lost(self) -> None:
        """
        After the loss of the connection each message is in one of the queues.
        """
        for number in range(150):
            self.bury(b"%d" % number)
        self.endpoint.delay = 0.01
        started = self.begin("dead", "replay", "orders.dead")
        self.advance(2)
        self.assertNoResult(started.status)
        self.link.cut()
        self.advance(5)
        self.assertEqual(self.successResultOf(started.status), 74)
        self.endpoint.delay = 0.0
        found = {*self.bodies(), *self.bodies("orders")}
        self.assertEqual(len(found), 150)


class MoveTests(DeadCase):
    """
    ``dead move`` and ``dead purge``.
    """

    def test_move(self) -> None:
        """
        Messages keep all their headers.
        """
        self.broker.declare_queue("archive")
        self.bury(b"1")
        self.bury(b"2", "OSError")
        where = ("--where", "x-error-type=*.OSError")
        started = self.command("dead", "move", "orders.dead", "archive", *where)
        self.assertEqual(started.out, "moved: 1\n")
        [message] = self.broker.queue("archive").messages
        self.assertEqual(message.body, b"2")
        self.assertIn("x-error-traceback", message.properties.headers or {})
        self.assertEqual(self.bodies(), [b"1"])
        self.command("dead", "move", "orders.dead", "gone", status=75)
        self.assertEqual(self.bodies(), [b"1"])

    def test_purge(self) -> None:
        """
        Messages are discarded when the user says so.
        """
        self.bury(b"1")
        self.bury(b"2", "OSError")
        self.command("dead", "purge", "orders.dead", status=64)
        self.assertEqual(self.bodies(), [b"1", b"2"])
        where = ("--where", "x-error-type=*.OSError")
        self.command("dead", "purge", "orders.dead", "--yes", *where)
        self.assertEqual(self.bodies(), [b"1"])
        self.assertEqual(
            self.command("dead", "purge", "orders.dead", "--yes").out, "purged: 1\n"
        )
        self.assertEqual(self.bodies(), [])
