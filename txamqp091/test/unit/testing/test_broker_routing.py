# -*- test-case-name: txamqp091.test.unit.testing.test_broker_routing -*-
"""
Tests for `txamqp091.testing._broker.exchanges`: where messages go.
"""

from __future__ import annotations

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.wire import spec
from txamqp091.wire.types import FieldValue


def bind(
    name: str, exchange: str, routing_key: str = "", **arguments: FieldValue
) -> spec.QueueBind:
    """
    The binding of a queue, its arguments with ``_`` for ``-``.
    """
    table = {key.replace("_", "-"): value for key, value in arguments.items()}
    return spec.QueueBind(
        queue=name, exchange=exchange, routing_key=routing_key, arguments=table
    )


class TypeTests(BrokerTestCase):
    """
    What each type of exchange does with a message.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("q"), queue("r"))

    def got(self) -> list[bytes]:
        """
        What has come to the queue ``q``.
        """
        return self.channel.drain("q")

    def test_default(self) -> None:
        """
        The default exchange takes the routing key for the name of a queue.
        """
        self.channel.publish("", "q", b"1")
        self.channel.publish("", "none", b"2")
        self.assertEqual(self.got(), [b"1"])

    def test_direct(self) -> None:
        """
        A direct exchange compares the key, to everybody who is bound by it, once.
        """
        self.channel.tell(
            bind("q", "amq.direct", "k"),
            bind("q", "amq.direct", "k"),
            bind("q", "amq.direct", "k", extra=1),
            bind("r", "amq.direct", "k"),
        )
        self.channel.publish("amq.direct", "k", b"1")
        self.channel.publish("amq.direct", "K", b"2")
        self.assertEqual(self.got(), [b"1"])
        self.assertEqual(self.channel.drain("r"), [b"1"])

    def test_bindings_with_arguments(self) -> None:
        """
        Bindings that differ in their arguments are two, and undone one by one.
        """
        for exchange in ("amq.direct", "amq.fanout", "amq.topic"):
            self.channel.tell(bind("q", exchange, "k"), bind("q", exchange, "k", a=1))
            undo = spec.QueueUnbind(queue="q", exchange=exchange, routing_key="k")
            self.channel.tell(undo)
            self.channel.publish(exchange, "k", b"1")
            self.assertEqual(self.got(), [b"1"])
            self.channel.tell(undo.__class__(0, "q", exchange, "k", {"a": 1}))
            self.channel.publish(exchange, "k", b"2")
            self.assertEqual(self.got(), [])

    def test_fanout(self) -> None:
        """
        A fanout exchange does not look at the key.
        """
        self.channel.tell(bind("q", "amq.fanout", "k"), bind("r", "amq.fanout"))
        self.channel.publish("amq.fanout", "other", b"1")
        self.assertEqual(self.got(), [b"1"])
        self.assertEqual(self.channel.drain("r"), [b"1"])

    def test_topic(self) -> None:
        """
        Patterns fit as they do in RabbitMQ.
        """
        keys = ["", "a", "a.b", "a.b.c", "a.c", ".", "a..c", "a.b.d.c", "c"]
        for pattern, fitting in (
            ("a.*.c", ["a.b.c", "a..c"]),
            ("#", keys),
            ("a.#", ["a", "a.b", "a.b.c", "a.c", "a..c", "a.b.d.c"]),
            ("*", ["a", "c"]),
            ("a.b", ["a.b"]),
            ("#.c", ["a.b.c", "a.c", "a..c", "a.b.d.c", "c"]),
            ("", [""]),
            ("a..b", []),
            ("*.*.*", ["a.b.c", "a..c"]),
            ("#.#", keys),
            ("a.#.c", ["a.b.c", "a.c", "a..c", "a.b.d.c"]),
        ):
            self.channel.tell(bind("q", "amq.topic", pattern))
            for key in keys:
                self.channel.publish("amq.topic", key, key.encode())
            self.assertEqual(self.got(), [key.encode() for key in fitting], pattern)
            self.channel.tell(
                spec.QueueUnbind(queue="q", exchange="amq.topic", routing_key=pattern)
            )

    def test_headers(self) -> None:
        """
        Headers are compared with their types, as ``x-match`` says.
        """
        messages: list[dict[str, FieldValue]] = [
            {},
            {"a": 1},
            {"a": 1, "b": 2},
            {"a": "1"},
            {"a": None},
            {"x-c": 3},
            {"a": 1, "x-c": 3},
            {"b": 2},
            {"a": 1.0},
            {"a": True},
        ]
        for arguments, fitting in (
            ({"x_match": "all", "a": 1}, [1, 2, 6]),
            ({"a": 1}, [1, 2, 6]),
            ({"x_match": "any", "a": 1, "b": 2}, [1, 2, 6, 7]),
            ({"x_match": "all", "a": 1, "b": 2}, [2]),
            ({"x_match": "all"}, list(range(10))),
            ({}, list(range(10))),
            ({"x_match": "any"}, []),
            ({"x_match": "all", "a": None}, [1, 2, 3, 4, 6, 8, 9]),
            ({"x_match": "any", "x_c": 3}, []),
            ({"x_match": "any-with-x", "x_c": 3}, [5, 6]),
            ({"x_match": "all", "a": 1, "x_c": 3}, [1, 2, 6]),
            ({"x_match": "all-with-x", "a": 1, "x_c": 3}, [6]),
        ):
            binding = bind("q", "amq.headers", **arguments)
            self.channel.tell(binding)
            for number, headers in enumerate(messages):
                self.channel.publish(
                    "amq.headers", "", str(number).encode(), headers=headers
                )
            numbers = [int(body) for body in self.got()]
            self.assertEqual(numbers, fitting, arguments)
            self.channel.tell(
                spec.QueueUnbind(
                    queue="q", exchange="amq.headers", arguments=binding.arguments
                )
            )


class WayTests(BrokerTestCase):
    """
    Ways that lead over several exchanges.
    """

    def declare(self, name: str, type: str = "fanout", **arguments: str) -> None:
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.channel.tell(
            spec.ExchangeDeclare(exchange=name, type=type, arguments=table)
        )

    def test_exchange_to_exchange(self) -> None:
        """
        Bindings between exchanges are followed, even round in circles; a queue gets a
        message once.
        """
        self.channel.tell(queue("q"))
        for name in ("x", "y", "z"):
            self.declare(name)
        for source, destination in (("x", "y"), ("x", "z"), ("y", "z"), ("z", "x")):
            self.channel.tell(spec.ExchangeBind(destination=destination, source=source))
        self.channel.tell(bind("q", "y"), bind("q", "z"))
        self.channel.publish("x", "k", b"1")
        view = self.broker.queue("q")
        self.assertEqual(view.bodies, [b"1"])
        self.assertEqual(view.messages[0].exchange, "x")

    def test_alternate_exchange(self) -> None:
        """
        What an exchange has nobody for goes to its alternate, and on from there; it was
        published to the first.
        """
        self.channel.tell(queue("q"))
        self.declare("x", alternate_exchange="y")
        self.declare("y", "direct", alternate_exchange="z")
        self.declare("z")
        self.channel.tell(bind("q", "z"))
        self.channel.publish("x", "k", b"1", mandatory=True)
        self.assertEqual(self.channel.take(), [])
        self.assertEqual(self.broker.queue("q").messages[0].exchange, "x")

    def test_alternate_exchange_missing(self) -> None:
        """
        An alternate that is not there, or leads back, ends the way.
        """
        self.declare("x", alternate_exchange="none")
        self.declare("y", alternate_exchange="y")
        for name in ("x", "y"):
            self.channel.publish(name, "k", mandatory=True)
            (returned,) = self.channel.methods()
            self.assertEqual(returned, spec.BasicReturn(312, "NO_ROUTE", name, "k"))

    def test_internal(self) -> None:
        """
        An internal exchange takes messages from exchanges only.
        """
        self.channel.tell(
            queue("q"),
            spec.ExchangeDeclare(exchange="x", type="fanout", internal=True),
            bind("q", "x"),
            spec.ExchangeBind(destination="x", source="amq.fanout"),
        )
        self.channel.publish("amq.fanout", "", b"1")
        self.assertEqual(self.channel.drain("q"), [b"1"])

    def test_copies(self) -> None:
        """
        The keys in CC and BCC count as well, and BCC is not shown to anybody.
        """
        self.channel.tell(queue("to"), queue("cc"), queue("bcc"))
        self.channel.publish(
            "", "to", b"1", headers={"CC": ["cc", "cc", "to"], "BCC": ["bcc"], "h": 1}
        )
        for name in ("to", "cc", "bcc"):
            got = self.channel.get(name)
            assert got is not None
            self.assertEqual(got.headers, {"CC": ["cc", "cc", "to"], "h": 1})
            self.assertEqual(self.channel.drain(name), [])
