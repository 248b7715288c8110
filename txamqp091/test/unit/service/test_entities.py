# -*- test-case-name: txamqp091.test.unit.service.test_entities -*-
"""
Tests for `txamqp091.service.entities`.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue, stream_queue
from txamqp091.service.entities import Binding, Exchange, Queue


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
