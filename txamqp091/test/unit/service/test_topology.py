# -*- test-case-name: txamqp091.test.unit.service.test_topology -*-
"""
Tests for `txamqp091.service.topology`: topologies as data, and declared on a broker.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, TimeoutError
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.arguments import quorum_queue
from txamqp091.errors import (
    AccessRefused,
    ConnectionLost,
    EncodeError,
    InternalError,
    LocalProtocolError,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.entities import (
    Binding,
    Difference,
    EntityOutcome,
    EntityState,
    Exchange,
    Queue,
)
from txamqp091.service.topology import Declaration, Topology
from txamqp091.test.support.service_case import Place, ServiceCase
from txamqp091.testing.memory import MemoryBroker


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


class DeclaringCase(ServiceCase):
    """
    A connection.
    """

    def setUp(self) -> None:
        """
        Have it.
        """
        super().setUp()
        self.client = self.service()
        assert self.client.connection is not None
        self.connection: AMQPProtocol = self.client.connection

    def result(self, deferred: Any) -> Any:
        """
        What comes of it soon.
        """
        self.turn(200)
        return self.successResultOf(deferred)

    def apply(self, *entities: Any) -> list[EntityOutcome]:
        """
        Declare these.
        """
        outcomes: list[EntityOutcome] = self.result(
            Topology.of(*entities).apply(self.connection)
        )
        self.assertEqual(self.broker.sessions[0].channels, {})
        return outcomes


class ApplyTests(DeclaringCase):
    """
    Tests for `Topology.apply`.
    """

    def test_all(self) -> None:
        """
        Everything is declared, in two round trips but for the channels.
        """
        replies = Queue(exclusive=True)
        outcomes = self.apply(
            Exchange(name="x", type="topic", internal=True),
            Exchange(name="y"),
            Queue(name="q", arguments={"x-max-length": 3}),
            replies,
            Binding(source="x", queue="q", routing_key="#"),
            Binding(source="x", queue=replies, routing_key="r"),
            Binding(source="y", exchange="x"),
        )
        self.assertTrue(all(each.ok for each in outcomes))
        self.assertEqual(self.broker.exchange("x").type, "topic")
        self.assertEqual(self.broker.queue("q").arguments["x-max-length"], 3)
        self.assertTrue(outcomes[3].name.startswith("amq."))
        self.assertEqual(str(outcomes[0]), "exchange 'x' stands")
        self.broker.publish("y", "", b"x")
        self.assertEqual(len(self.broker.exchange("x").bindings), 2)

    def test_again(self) -> None:
        """
        To apply it again changes nothing.
        """
        topology = [Exchange(name="x"), Queue(name="q"), Binding(source="x", queue="q")]
        self.apply(*topology)
        self.broker.publish("x", "", b"kept")
        self.assertTrue(all(each.ok for each in self.apply(*topology)))
        self.assertEqual(self.broker.queue("q").bodies, [b"kept"])

    def test_no_permission(self) -> None:
        """
        What the user may not declare is fine if it exists, and refused if it does not.
        RabbitMQ 4.3 does not say whether it exists: then the log warns.
        """
        there = (
            Exchange(name="x", type="topic"),
            Queue(name="q"),
            Binding(source="x", queue="q", routing_key="#"),
        )
        for version, missing in (("3.10.8", [NotFound]), ("4.3.6", [])):
            self.broker = MemoryBroker(self.reactor, version=version)
            self.endpoint = Place(self.broker)
            client = self.service()
            assert client.connection is not None
            self.connection = client.connection
            self.apply(*there)
            self.broker.set_permissions("guest", configure="^$", write=".*", read=".*")
            with capturedLogs() as logs:
                outcomes = self.apply(
                    *there, Queue(name="missing"), Queue(exclusive=True)
                )
            errors = [type(each.error) for each in outcomes if not each.ok]
            self.assertEqual(errors, [AccessRefused] * len(missing) + [AccessRefused])
            assumed = [each for each in outcomes if each.unverified is not None]
            names = [] if missing else ["exchange 'x'", "queue 'q'", "queue 'missing'"]
            self.assertEqual([str(each.entity) for each in assumed], names)
            for each in assumed:
                self.assertIsInstance(each.unverified, AccessRefused)
                self.assertTrue(each.ok)
                self.assertIn("is assumed to exist: 403 ACCESS_REFUSED", str(each))
            said = [formatEvent(each) for each in logs if "text" in each]
            self.assertEqual(len(said), 3 - len(missing), said)
            self.assertIn("may not declare the exchange 'x', ", said[0])

    def test_nothing(self) -> None:
        """
        Nothing costs nothing.
        """
        self.assertEqual(self.apply(), [])

    def test_failures(self) -> None:
        """
        What fails does not stop the rest, and each says why.
        """
        self.broker.declare_queue("b")
        self.broker.declare_exchange("x", "fanout")
        self.broker.set_permissions("guest", configure="^[^s]")
        outcomes = self.apply(
            Exchange(name="x"),
            Exchange(name="y"),
            Queue(name="a"),
            Queue(name="b", auto_delete=True),
            Queue(name="c"),
            Queue(name="secret"),
            Queue(name="d", arguments={"n" * 300: 1}),
            Queue(name="e"),
            Binding(source="y", queue="a"),
            Binding(source="none", queue="a"),
            Binding(source="y", queue="c"),
        )
        kinds = [None if each.ok else type(each.error) for each in outcomes]
        self.assertEqual(
            kinds,
            [
                PreconditionFailed,
                None,
                None,
                PreconditionFailed,
                None,
                None,  # nobody may say whether it exists
                EncodeError,
                None,
                None,
                NotFound,
                None,
            ],
        )
        self.assertIn("PRECONDITION_FAILED", str(outcomes[0]))
        self.assertFalse(any(each.retriable for each in outcomes))

    def test_many(self) -> None:
        """
        Many that succeed, and then one that fails, cost two channels.
        """
        self.broker.declare_queue("last", auto_delete=True)
        opened = []
        open_channel = self.connection.open_channel

        def counted(**settler: Any) -> Any:
            opened.append(1)
            return open_channel(**settler)

        self.connection.open_channel = counted  # type: ignore[method-assign]
        outcomes = self.apply(
            *(Queue(name=f"q{number}") for number in range(50)),
            Queue(name="last"),
            Queue(name="after"),
        )
        self.assertEqual([each.ok for each in outcomes], [True] * 50 + [False, True])
        self.assertEqual(len(opened), 2)

    def test_binding_of_a_queue_that_has_no_name(self) -> None:
        """
        A queue that could not be declared has no name to bind.
        """
        replies = Queue(arguments={"x-max-length": "many"})
        outcomes = self.apply(replies, Binding(source="amq.direct", queue=replies))
        self.assertIsInstance(outcomes[0].error, PreconditionFailed)
        self.assertIsInstance(outcomes[1].error, LocalProtocolError)

    def test_locked(self) -> None:
        """
        A queue that is exclusive to another connection may pass.
        """
        other = self.service()
        assert other.connection is not None
        self.result(
            Topology.of(Queue(name="mine", exclusive=True)).apply(other.connection)
        )
        (outcome,) = self.result(
            Topology.of(Queue(name="mine", exclusive=True)).apply(self.connection)
        )
        self.assertIsInstance(outcome.error, ResourceLocked)
        self.assertTrue(outcome.retriable)

    def test_culprit(self) -> None:
        """
        An entity for which the broker closes the connection is found.
        """
        self.broker.transient_queues = False
        good, bad = Queue(name="good"), Queue(name="bad", durable=False)
        declaration = Declaration(self.connection, Topology.of(good, bad))
        applied = declaration.apply()
        self.turn()
        self.failureResultOf(applied, InternalError)
        self.assertEqual(declaration.culprit, bad)

    def test_skipped(self) -> None:
        """
        What is to be skipped is not tried.
        """
        good, bad = Queue(name="good"), Queue(name="bad")
        problem = ValueError("no")
        declaration = Declaration(
            self.connection, Topology.of(bad, good), skip={bad: problem}
        )
        first, second = self.result(declaration.apply())
        self.assertIs(first.error, problem)
        self.assertTrue(second.ok)
        self.assertEqual(self.broker.queues(), ["good"])

    def test_lost(self) -> None:
        """
        When the link breaks, that is the reason, and nobody is to blame.
        """
        for turns in range(1, 12):
            connection = self.client.connection
            assert connection is not None
            topology = Topology.of(
                Queue(name="q"), Binding(source="amq.topic", queue="q")
            )
            declaration = Declaration(connection, topology)
            applied = declaration.apply()
            self.turn(turns)
            self.cut()
            results: list[Any] = []
            applied.addBoth(results.append)
            self.assertEqual(len(results), 1)
            if not isinstance(results[0], list):
                results[0].trap(ConnectionLost)
            self.assertIsNone(declaration.culprit)
            self.passes(20)

    def test_cancelled(self) -> None:
        """
        Cancelled, it leaves no channel behind.
        """
        for turns in range(1, 12):
            applied = Topology.of(Queue(name="q")).apply(self.connection)
            self.turn(turns)
            applied.cancel()
            self.turn()
            applied.addErrback(lambda failure: failure.trap(CancelledError))
            self.assertEqual(self.broker.sessions[0].channels, {})

    def test_hanging(self) -> None:
        """
        An entity that the broker takes too long for does not stop the rest.
        """
        declare = self.broker._vhosts["/"].make_queue
        link = self.link

        def hang(name: str, *details: Any, **more: Any) -> Any:
            if name == "slow":
                link.hole()
            return declare(name, *details, **more)

        self.broker._vhosts["/"].make_queue = hang  # type: ignore[method-assign]
        applied = Topology.of(Queue(name="slow"), Queue(name="q")).apply(
            self.connection
        )
        self.passes(15)
        link.heal()
        first, second = self.result(applied)
        self.assertIsInstance(first.error, TimeoutError)
        self.assertTrue(first.retriable)
        self.assertTrue(second.ok)
        self.assertEqual(self.broker.sessions[0].channels, {})


class DeleteTests(DeclaringCase):
    """
    Tests for `Topology.delete`.
    """

    def test_all(self) -> None:
        """
        Everything is deleted, and what was not there does not matter.
        """
        topology = Topology.of(
            Exchange(name="x"),
            Exchange(name="y"),
            Queue(name="q"),
            Binding(source="x", queue="q"),
            Binding(source="x", exchange="y"),
        )
        self.result(topology.apply(self.connection))
        outcomes = self.result(topology.delete(self.connection))
        self.assertEqual([each.entity for each in outcomes], list(topology))
        self.assertTrue(all(each.ok for each in outcomes))
        self.assertEqual(self.broker.queues(), [])
        self.assertNotIn("x", self.broker.exchanges())
        outcomes = self.result(topology.delete(self.connection))
        self.assertTrue(all(each.ok for each in outcomes))

    def test_no_name(self) -> None:
        """
        A queue whose name nobody knows is passed over, and so are its bindings.
        """
        replies = Queue(exclusive=True)
        topology = Topology.of(replies, Binding(source="amq.topic", queue=replies))
        self.result(topology.apply(self.connection))
        outcomes = self.result(topology.delete(self.connection))
        self.assertEqual([each.ok for each in outcomes], [True, True])
        self.assertEqual(len(self.broker.queues()), 1)
        names = {replies.key: self.broker.queues()[0]}
        self.result(Declaration(self.connection, topology, names=names).delete())
        self.assertEqual(self.broker.queues(), [])

    def test_bindings(self) -> None:
        """
        A binding is deleted alone.
        """
        self.apply(Exchange(name="x"), Queue(name="q"), Binding(source="x", queue="q"))
        self.result(Topology.of(Binding(source="x", queue="q")).delete(self.connection))
        self.assertEqual(self.broker.exchange("x").bindings, [])


class DiffTests(DeclaringCase):
    """
    Tests for `Topology.diff`.
    """

    def diff(self, *entities: Any, compare: bool = True) -> list[Difference]:
        """
        Compare.
        """
        before = (self.broker.queues(), self.broker.exchanges())
        found: list[Difference] = self.result(
            Topology.of(*entities).diff(self.connection, compare=compare)
        )
        self.assertEqual((self.broker.queues(), self.broker.exchanges()), before)
        self.assertEqual(self.broker.sessions[0].channels, {})
        return found

    def test_all(self) -> None:
        """
        Each is present, missing, different, or not known; and nothing changes.
        """
        self.broker.declare_exchange("x", "fanout")
        self.broker.declare_exchange("z")
        self.broker.declare_queue("q")
        self.broker.declare_queue("r", arguments={"x-max-length": 1})
        differences = self.diff(
            Exchange(name="x"),
            Exchange(name="y"),
            Exchange(name="z"),
            Queue(name="q"),
            Queue(name="r"),
            Queue(name="s"),
            Queue(),
            Binding(source="x", queue="q"),
        )
        self.assertEqual(
            [each.state for each in differences],
            [
                EntityState.DIFFERENT,
                EntityState.MISSING,
                EntityState.PRESENT,
                EntityState.PRESENT,
                EntityState.DIFFERENT,
                EntityState.MISSING,
                EntityState.UNKNOWN,
                EntityState.UNKNOWN,
            ],
        )
        self.assertIn("x-max-length", differences[4].detail)
        self.assertEqual(str(differences[3]), "queue 'q': present")
        self.assertIn("queue 'r': different (PREC", str(differences[4]))

    def test_not_compared(self) -> None:
        """
        Without comparing, and for what goes by itself, to be there is enough.
        """
        self.broker.declare_queue("q")
        (found,) = self.diff(Queue(name="q", auto_delete=True))
        self.assertEqual(found.state, EntityState.PRESENT)
        different = Queue(name="q", arguments={"x-max-length": 1})
        (found,) = self.diff(different, compare=False)
        self.assertEqual(found.state, EntityState.PRESENT)

    def test_refused(self) -> None:
        """
        What may not be asked is not known, and the broker's reason is told.
        """
        self.broker.declare_queue("q")
        self.broker.set_permissions("guest", configure="", read="", write="")
        (found,) = self.diff(Queue(name="q"))
        self.assertEqual(found.state, EntityState.UNKNOWN)
        self.assertIn("ACCESS_REFUSED", found.detail)
