# -*- test-case-name: txamqp091.test.unit.service.test_topology_recovery -*-
"""
Tests for `txamqp091.service.topology_recovery`: what of the topology stands, and what
is done about the rest.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from txamqp091.channel import Channel
from txamqp091.errors import (
    AccessRefused,
    InternalError,
    LocalProtocolError,
    PreconditionFailed,
    ResourceLocked,
    TopologyFailed,
)
from txamqp091.service.entities import Binding, Exchange, Queue
from txamqp091.service.topology import Topology
from txamqp091.test.support.service_case import Events, Inbox, Place, ServiceCase
from txamqp091.testing import MemoryBroker

X = Exchange(name="x", type="topic")
Q = Queue(name="q")
BOUND = Binding(source=X, queue=Q, routing_key="#")


class RecoveryTests(ServiceCase):
    """
    The desired state is applied to each connection.
    """

    def test_remade(self) -> None:
        """
        What goes with the connection, or by itself, is made again.
        """
        topology = Topology.of(
            Exchange(name="passing", auto_delete=True),
            Queue(name="mine", exclusive=True),
            Queue(name="fleeting", auto_delete=True),
            Binding(source="passing", queue="mine"),
            Binding(source="passing", queue="fleeting"),
        )
        service = self.service(topology=topology)
        self.assertReady(service)
        self.broker.delete_queue("fleeting")
        self.broker.delete_queue("mine")
        self.assertNotIn("passing", self.broker.exchanges())
        self.cut()
        self.passes(1)
        self.assertReady(service)
        self.broker.publish("passing", "", b"x")
        self.assertEqual(self.broker.queue("mine").bodies, [b"x"])

    def test_observer_is_told(self) -> None:
        """
        Observers are told each outcome.
        """
        service = self.service(topology=Topology.of(X, Q, BOUND), start=False)
        events = Events()
        events.observe(service)
        service.startService()
        self.turn()
        _, outcomes = events.details[-1]
        self.assertEqual([each.entity for each in outcomes], [X, Q, BOUND])
        self.assertTrue(all(each.ok for each in service.outcomes))


class RefusedTests(ServiceCase):
    """
    A part of the topology is refused.
    """

    def test_told(self) -> None:
        """
        Who waits is told what; everything else works; and when it is put right, it
        stands (criterion 19).
        """
        self.broker.declare_queue("q", auto_delete=True)
        other = Queue(name="other")
        service = self.service(topology=Topology.of(X, Q, BOUND, other))
        failure = self.failureResultOf(service.when_ready(), TopologyFailed)
        error = failure.value
        assert isinstance(error, TopologyFailed)
        ((entity, reason),) = error.failures
        self.assertEqual(entity, Q)
        self.assertIsInstance(reason, PreconditionFailed)
        self.assertFalse(error.retriable)
        self.assertIn("queue 'q'", str(error))
        self.assertIsNotNone(service.connection)
        consumer = service.consume("other", Inbox())
        self.passes(20)
        self.assertTrue(consumer.is_subscribed)
        self.failureResultOf(service.when_ready(), TopologyFailed)
        self.broker.delete_queue("q")
        self.passes(9)
        self.assertReady(service)
        self.assertTrue(self.broker.queue("q").durable)

    def test_no_tight_loop(self) -> None:
        """
        It is tried again with delays that grow.
        """
        self.broker.declare_queue("q", auto_delete=True)
        service = self.service(topology=Topology.of(Q))
        moved = dict(self.link.moved)
        self.passes(60)
        self.failureResultOf(service.when_ready(), TopologyFailed)
        grown = sum(self.link.moved.values()) - sum(moved.values())
        self.assertLess(grown, 6000)  # some ten tries

    def test_lost_while_it_waits(self) -> None:
        """
        With the next connection everything is tried anew.
        """
        self.broker.declare_queue("q", auto_delete=True)
        service = self.service(topology=Topology.of(Q))
        self.cut()
        ready = service.when_ready()
        self.assertNoResult(ready)
        self.broker.delete_queue("q")
        self.passes(1)
        self.assertIs(self.successResultOf(ready), service.connection)

    def test_consumer_follows(self) -> None:
        """
        A consumer of a queue that is mended need not wait.
        """
        self.broker.declare_queue("q", auto_delete=True)
        self.broker.set_permissions("guest", read="^$")
        service = self.service(topology=Topology.of(Q))
        consumer = service.consume("q", Inbox())
        self.passes(30)
        self.assertIsInstance(consumer.error, (AccessRefused, PreconditionFailed))
        self.broker.set_permissions("guest")
        self.broker.delete_queue("q")
        self.passes(9)
        self.assertReady(service)
        self.assertTrue(consumer.is_subscribed)

    def test_repair_and_silence(self) -> None:
        """
        A broker that does not answer when it is asked again is asked once more.
        """
        self.broker.declare_queue("q", auto_delete=True)
        service = self.service(topology=Topology.of(Q))
        self.failureResultOf(service.when_ready(), TopologyFailed)
        self.link.hole()
        self.passes(20)
        self.broker.delete_queue("q")
        self.link.heal()
        self.passes(20)
        self.assertReady(service)

    def test_lost_in_a_repair(self) -> None:
        """
        A link that breaks in whichever turn of it makes no difference.
        """
        self.broker.declare_queue("q", auto_delete=True)
        service = self.service(topology=Topology.of(Q))
        for turns in range(12):
            self.passes(20)
            self.failureResultOf(service.when_ready(), TopologyFailed)
            self.clock.advance(8)
            self.turn(turns)
            self.cut()
        self.broker.delete_queue("q")
        self.passes(20)
        self.assertReady(service)


class LockedTests(ServiceCase):
    """
    A queue is exclusive to our own last connection, which the broker takes for alive.
    """

    def test_passes(self) -> None:
        """
        The service is not ready yet, but nothing has failed; when the broker has
        noticed, it is.
        """
        mine = Queue(name="mine", exclusive=True)
        service = self.service(topology=Topology.of(mine))
        consumer = service.consume(mine, Inbox())
        self.passes(1)
        self.assertTrue(consumer.is_subscribed)
        # The client loses it, and the broker does not know.
        link = self.link
        link.hole()
        server = link.server.protocol
        link.server.protocol = None  # type: ignore[assignment]
        self.addCleanup(setattr, link.server, "protocol", server)

        class Deaf:
            def connectionLost(self, reason: object) -> None:
                pass

        link.server.protocol = Deaf()  # type: ignore[assignment]
        link.cut()
        self.turn()
        ready = service.when_ready()
        self.passes(60)
        self.assertIsNotNone(service.connection)
        self.assertNoResult(ready)
        self.assertFalse(consumer.is_subscribed)
        (outcome,) = service.outcomes
        self.assertIsInstance(outcome.error, ResourceLocked)
        server.connectionLost(None)  # type: ignore[arg-type]
        self.passes(9)
        self.successResultOf(ready)
        self.passes(9)
        self.assertTrue(consumer.is_subscribed)

    def test_somebody_else(self) -> None:
        """
        When it takes longer than heartbeats allow, it is somebody else's.
        """
        other = self.service(topology=Topology.of(Queue(name="mine", exclusive=True)))
        service = self.service(topology=Topology.of(Queue(name="mine", exclusive=True)))
        ready = service.when_ready()
        self.passes(100, step=2)
        self.assertNoResult(ready)
        self.passes(40, step=2)
        self.failureResultOf(ready, TopologyFailed)
        other.stopService()
        self.passes(9)
        self.assertReady(service)


class CostlyTests(ServiceCase):
    """
    An entity for which the broker closes the connection.
    """

    def setUp(self) -> None:
        """
        Have a broker that does.
        """
        super().setUp()
        self.broker.transient_queues = False
        self.bad = Queue(name="bad", durable=False)

    def test_set_aside(self) -> None:
        """
        It is tried once, and the rest stands, on the next connection, which is made at
        once.
        """
        service = self.service(topology=Topology.of(self.bad, Q))
        self.turn(200)
        self.assertIsNotNone(service.connection)
        failure = self.failureResultOf(service.when_ready(), TopologyFailed)
        error = failure.value
        assert isinstance(error, TopologyFailed)
        self.assertIsInstance(error.failures[0][1], InternalError)
        self.assertEqual(self.broker.queues(), ["q"])
        self.passes(50)
        self.cut()
        self.passes(5)
        self.assertEqual(len(self.endpoint.links), 3)

    def test_tried_again(self) -> None:
        """
        It costs a connection again after a minute, after two more, after four more; and
        once it can be made, it stands.
        """
        service = self.service(topology=Topology.of(self.bad, Q))
        counts = []
        for seconds in (59, 5, 110, 15, 220, 25):
            self.passes(seconds, step=1)
            counts.append(len(self.endpoint.links))
        self.assertEqual(counts, [2, 3, 3, 4, 4, 5])
        self.broker.transient_queues = True
        self.passes(500, step=2)
        self.assertEqual(len(self.endpoint.links), 5)
        self.assertReady(service)

    def test_permanent(self) -> None:
        """
        If trying again is of no use, it is not tried again.
        """
        self.broker = MemoryBroker(self.reactor, version="3.10.8")
        self.endpoint = Place(self.broker)
        service = self.service(topology=Topology.of(Exchange(name="y", type="no")))
        self.turn(200)
        failure = self.failureResultOf(service.when_ready(), TopologyFailed)
        assert isinstance(failure.value, TopologyFailed)
        self.assertEqual(getattr(failure.value.failures[0][1], "reply_code", 0), 503)
        self.passes(4000, step=20)
        self.assertEqual(len(self.endpoint.links), 2)

    def test_declared_anew(self) -> None:
        """
        It is tried again if it is declared again.
        """
        service = self.service()
        declared = service.declare(self.bad, Q)
        self.turn(200)
        self.failureResultOf(declared, InternalError)
        self.passes(10)
        self.assertEqual(self.broker.queues(), ["q"])
        self.broker.transient_queues = True
        declared = service.declare(self.bad)
        self.turn()
        self.assertTrue(self.successResultOf(declared)[0].ok)
        self.assertReady(service)

    def test_for_a_consumer(self) -> None:
        """
        A consumer of it tells why it is not subscribed.
        """
        service = self.service()
        consumer = service.consume(self.bad, Inbox())
        self.passes(100)
        self.assertIsInstance(consumer.error, InternalError)
        self.assertLess(len(self.endpoint.links), 5)


class ChangeTests(ServiceCase):
    """
    Tests for `AMQPClientService.declare` and `AMQPClientService.delete`.
    """

    def test_many_at_a_loss(self) -> None:
        """
        Many changes that wait for each other when the connection is lost are made on
        the next one.
        """
        client = self.service()
        self.assertReady(client)
        self.endpoint.delay = 0.01
        self.cut()
        self.passes(5)
        made = [client.declare(Queue(name=f"q{number}")) for number in range(400)]
        self.clock.advance(0.015)
        self.assertNoResult(made[-1])
        self.endpoint.delay = 0.0
        self.cut()
        self.passes(5)
        for each in made:
            [outcome] = self.successResultOf(each)
            self.assertTrue(outcome.ok)

    def test_declare(self) -> None:
        """
        What is declared is there at once, and comes back.
        """
        service = self.service()
        declared = service.declare(X, Q, BOUND)
        self.turn()
        outcomes = self.successResultOf(declared)
        self.assertEqual([each.ok for each in outcomes], [True, True, True])
        self.assertEqual(list(service.topology), [X, Q, BOUND])
        self.broker.delete_queue("q")
        self.cut()
        self.passes(1)
        self.assertEqual(self.broker.queues(), ["q"])

    def test_declare_before_the_connection(self) -> None:
        """
        Declared before there is a connection, it waits for it.
        """
        service = self.service(start=False)
        declared = service.declare(Q)
        self.assertNoResult(declared)
        service.startService()
        self.turn()
        self.assertTrue(self.successResultOf(declared)[0].ok)
        cancelled = service.declare(X)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)

    def test_declare_in_every_turn(self) -> None:
        """
        Declared in whichever turn of connecting, it stands.
        """
        for turns in range(40):
            name = f"q{turns}"
            service = self.service(topology=Topology.of(X), start=False)
            service.startService()
            self.turn(turns)
            declared = service.declare(Queue(name=name))
            self.turn()
            self.assertTrue(self.successResultOf(declared)[0].ok)
            self.assertIn(name, self.broker.queues())

    def test_lost(self) -> None:
        """
        When the link breaks meanwhile, it waits for the next connection, which has it;
        when there will be none, it fails.
        """
        service = self.service()
        declared = service.declare(Q)
        self.cut()
        self.assertNoResult(declared)
        self.passes(1)
        self.assertTrue(self.successResultOf(declared)[0].ok)
        self.assertEqual(self.broker.queues(), ["q"])
        declared = service.declare(X)
        self.endpoint.refusing = True
        self.cut()
        service.stopService()
        self.turn()
        self.failureResultOf(declared, CancelledError)

    def test_changed(self) -> None:
        """
        Declared otherwise, the new description counts.
        """
        service = self.service(topology=Topology.of(X))
        other = Exchange(name="x")
        declared = service.declare(other)
        self.turn()
        (outcome,) = self.successResultOf(declared)
        self.assertIsInstance(outcome.error, PreconditionFailed)
        self.assertEqual(list(service.topology), [other])
        self.failureResultOf(service.when_ready(), TopologyFailed)

    def test_delete(self) -> None:
        """
        What is deleted through the service stays deleted, with its bindings
        (criterion 18).
        """
        service = self.service(topology=Topology.of(X, Q, BOUND))
        deleted = service.delete(Q)
        self.turn()
        self.assertTrue(self.successResultOf(deleted)[0].ok)
        for _ in range(3):
            self.cut()
            self.passes(10)
        self.assertEqual(self.broker.queues(), [])
        self.assertEqual(list(service.topology), [X])
        self.assertEqual(self.broker.exchange("x").bindings, [])

    def test_delete_in_every_turn(self) -> None:
        """
        In whichever turn of a recovery it is deleted, it is gone in the end.
        """
        service = self.service()
        for turns in range(40):
            declared = service.declare(X, Q, BOUND)
            self.passes(10)
            self.successResultOf(declared)
            self.cut()
            self.clock.advance(1)
            self.turn(turns)
            deleted = service.delete(Q)
            self.passes(10)
            self.assertTrue(self.successResultOf(deleted)[0].ok)
            self.assertEqual(self.broker.queues(), [])

    def test_delete_during_a_repair(self) -> None:
        """
        So it is if it was just being declared again.
        """
        for turns in range(12):
            self.broker.declare_queue("q", auto_delete=True)
            service = self.service(topology=Topology.of(Q))
            self.broker.delete_queue("q")
            self.clock.advance(1)
            self.turn(turns)
            deleted = service.delete(Q)
            self.passes(2)
            self.assertTrue(self.successResultOf(deleted)[0].ok)
            self.assertEqual(self.broker.queues(), [])
            self.assertReady(service)

    def test_consumed_from_after_all(self) -> None:
        """
        A queue that was deleted, and is wanted again, is made at once.
        """
        service = self.service(topology=Topology.of(Q))
        service.delete(Q)
        self.turn()
        consumer = service.consume(Q, Inbox())
        self.turn()
        self.assertTrue(consumer.is_subscribed)
        self.assertReady(service)

    def test_name_of_a_queue(self) -> None:
        """
        A queue that the broker has yet to name has no name.
        """
        replies = Queue(exclusive=True)
        service = self.service(topology=Topology.of(replies), start=False)
        with self.assertRaises(LocalProtocolError):
            service.queue_name(replies)
        with self.assertRaises(LocalProtocolError):
            service.queue_name(replies.key)
        self.assertEqual(service.queue_name("other"), "other")
        self.assertEqual(service.queue_name(Q), "q")
        service.startService()
        self.turn()
        name = service.queue_name(replies)
        channel = service.channel()
        declared = channel.call(Channel.queue_declare, name, passive=True)
        self.turn()
        self.successResultOf(declared)
