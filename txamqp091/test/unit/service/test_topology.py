# -*- test-case-name: txamqp091.test.unit.service.test_topology -*-
"""
Tests for `txamqp091.service.topology`: topology as data.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue, stream_queue
from txamqp091.service.topology import Binding, Exchange, Queue, Topology


class EntityTests(SynchronousTestCase):
    """
    Tests for `Exchange`, `Queue` and `Binding`.
    """

    def test_data(self) -> None:
        """
        They are equal, and hash, as what they say.
        """
        one = Queue(name="work", arguments=quorum_queue())
        other = Queue(name="work", arguments=quorum_queue())
        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        self.assertNotEqual(one, Queue(name="work"))
        self.assertEqual(
            Binding(source="x", queue="q"), Binding(source="x", queue=Queue(name="q"))
        )
        self.assertNotEqual(Exchange(name="x"), Exchange(name="x", type="topic"))

    def test_durable(self) -> None:
        """
        A queue is durable, unless it is exclusive, or it is said.
        """
        self.assertTrue(Queue(name="q").durable)
        self.assertFalse(Queue(name="q", exclusive=True).durable)
        self.assertTrue(Queue(name="q", exclusive=True, durable=True).durable)

    def test_labels(self) -> None:
        """
        Queues without a name differ, unless they are labelled alike.
        """
        self.assertNotEqual(Queue(), Queue())
        self.assertEqual(Queue(label="a"), Queue(label="a"))
        self.assertEqual(Queue(label="a").key, "a")
        self.assertEqual(Queue(name="b").key, "b")

    def test_stream(self) -> None:
        """
        A queue knows whether it is a stream.
        """
        self.assertTrue(Queue(name="log", arguments=stream_queue()).is_stream)
        self.assertFalse(Queue(name="log").is_stream)

    def test_binding_of_entities(self) -> None:
        """
        A binding takes entities or their names.
        """
        x, y, q = Exchange(name="x"), Exchange(name="y"), Queue(label="l")
        self.assertEqual(Binding(source=x, queue=q).queue, "l")
        self.assertEqual(Binding(source=x, exchange=y).exchange, "y")

    def test_str(self) -> None:
        """
        They say what they are.
        """
        self.assertEqual(str(Exchange(name="x")), "exchange 'x'")
        self.assertEqual(str(Queue(name="q")), "queue 'q'")
        self.assertEqual(str(Queue(label="l")), "queue without a name l")
        self.assertEqual(
            str(Binding(source="x", queue="q", routing_key="k")),
            "binding of 'x' to queue 'q' with 'k'",
        )
        self.assertEqual(
            str(Binding(source="x", exchange="y")),
            "binding of 'x' to exchange 'y' with ''",
        )

    def test_refused(self) -> None:
        """
        What makes no sense is refused, by name.
        """
        bad: list[tuple[type, dict[str, Any], type[Exception]]] = [
            (Exchange, {"name": ""}, ValueError),
            (Exchange, {"name": 1}, TypeError),
            (Exchange, {"name": "x", "durable": "yes"}, TypeError),
            (Queue, {"name": "q", "label": "l"}, ValueError),
            (Queue, {"arguments": [1]}, TypeError),
            (Queue, {"durable": 1}, TypeError),
            (Binding, {"source": "", "queue": "q"}, ValueError),
            (Binding, {"source": "x"}, ValueError),
            (Binding, {"source": "x", "queue": "q", "exchange": "y"}, ValueError),
            (Binding, {"source": "x", "queue": 3}, TypeError),
        ]
        for kind, fields, error in bad:
            with self.assertRaises(error):
                kind(**fields)


class TopologyTests(SynchronousTestCase):
    """
    Tests for `Topology`.
    """

    x = Exchange(name="x")
    y = Exchange(name="y")
    q = Queue(name="q")
    bound = Binding(source="x", queue="q")
    joined = Binding(source="x", exchange="y")

    def test_of(self) -> None:
        """
        Entities come in any order, and are in the order of declaration.
        """
        topology = Topology.of(self.joined, self.q, self.bound, self.y, self.x)
        self.assertEqual(
            list(topology), [self.y, self.x, self.q, self.joined, self.bound]
        )
        self.assertEqual(len(topology), 5)
        self.assertIn(self.q, topology)
        self.assertNotIn(Queue(name="r"), topology)

    def test_lists(self) -> None:
        """
        Lists will do for tuples.
        """
        topology = Topology(queues=[self.q])  # type: ignore[arg-type]
        self.assertEqual(topology, Topology(queues=(self.q,)))

    def test_refused(self) -> None:
        """
        Two of one name, or a thing in the wrong place, are refused.
        """
        with self.assertRaises(ValueError):
            Topology.of(self.q, Queue(name="q", auto_delete=True))
        with self.assertRaises(ValueError):
            Topology.of(self.x, Exchange(name="x", type="topic"))
        with self.assertRaises(TypeError):
            Topology(exchanges=(self.q,))  # type: ignore[arg-type]

    def test_with(self) -> None:
        """
        What is added counts, where there was one of that name.
        """
        other = Queue(name="q", auto_delete=True)
        topology = Topology.of(self.x, self.q).with_(other, self.bound, self.bound)
        self.assertEqual(list(topology), [self.x, other, self.bound])
        again = Binding(source="x", queue="q", arguments={"a": 1})
        self.assertEqual(len(topology.with_(again)), 4)

    def test_without(self) -> None:
        """
        With an entity go the bindings from and to it.
        """
        topology = Topology.of(self.x, self.y, self.q, self.bound, self.joined)
        self.assertEqual(list(topology.without(self.q)), [self.x, self.y, self.joined])
        self.assertEqual(list(topology.without(self.x)), [self.y, self.q])
        self.assertEqual(
            list(topology.without(self.joined)), [self.x, self.y, self.q, self.bound]
        )
        self.assertEqual(list(topology.without(Queue(name="none"))), list(topology))

    def test_around(self) -> None:
        """
        What a queue needs.
        """
        topology = Topology.of(self.x, self.y, self.q, self.bound, self.joined)
        self.assertEqual(list(topology.around("q")), [self.x, self.q, self.bound])
        self.assertEqual(list(topology.around("none")), [])
        self.assertIs(topology.queue("q"), self.q)
        self.assertIsNone(topology.queue("none"))


class DataTests(SynchronousTestCase):
    """
    Tests for `Topology.from_dict` and `Topology.to_dict`.
    """

    def test_round(self) -> None:
        """
        A topology is the same after a way through plain data.
        """
        topology = Topology.of(
            Exchange(name="x", type="topic"),
            Queue(name="q", arguments=quorum_queue(delivery_limit=3)),
            Queue(label="l", exclusive=True),
            Binding(source="x", queue="q", routing_key="#"),
            Binding(source="x", queue="l"),
        )
        self.assertEqual(Topology.from_dict(topology.to_dict()), topology)
        self.assertEqual(Topology.from_dict({}), Topology())

    def test_refused(self) -> None:
        """
        What is not understood is said, with its place.
        """
        bad: list[tuple[dict[str, Any], str]] = [
            ({"queue": []}, "topology: 'queue' is unknown; did you mean queues?"),
            ({"queues": {}}, "queues: a list, not {}"),
            ({"queues": [1]}, "queues[0]: a table, not 1"),
            (
                {"queues": [{}, {"nam": "q"}]},
                "queues[1]: 'nam' is unknown; did you mean name?",
            ),
            (
                {"exchanges": [{"name": "x", "xyz": 1}]},
                "exchanges[0]: 'xyz' is unknown",
            ),
            (
                {"exchanges": [{"name": 1}]},
                "exchanges[0]: name is 1, not a str",
            ),
            (
                {"bindings": [{"source": "x"}]},
                "bindings[0]: a binding leads to a queue or to an exchange: give one",
            ),
        ]
        for data, problem in bad:
            with self.assertRaises(ValueError) as caught:
                Topology.from_dict(data)
            self.assertEqual(str(caught.exception), problem)
        with self.assertRaises(ValueError) as caught:
            Topology.from_dict({"exchanges": [{}]})
        self.assertIn("exchanges[0]: ", str(caught.exception))
