# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
Tests for `txamqp091.service.client` and `txamqp091.service.reconnecting`: connecting,
coming back, giving up, and who is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionForced,
    ConnectionLost,
    HandshakeTimeout,
    HeartbeatTimeout,
    InvalidURI,
    RemoteProtocolError,
    VhostAccessRefused,
)
from txamqp091.parameters import ConnectionParameters
from txamqp091.service.addresses import Address
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import Queue
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.support.service_case import (
    POLICY,
    Events,
    Inbox,
    Place,
    ServiceCase,
)
from txamqp091.testing.network import Link
from txamqp091.wire.frames import method_frame
from txamqp091.wire.spec import BasicAck

HASTY = replace(POLICY, permanent="fail")


class ConnectingTests(ServiceCase):
    """
    Up to the first connection.
    """

    def test_nothing_before_start(self) -> None:
        """
        Making a service, and a consumer of it, does nothing.
        """
        service = self.service(start=False)
        consumer = service.consume("work", Inbox())
        self.passes(10)
        self.assertEqual(self.endpoint.links, [])
        self.assertIsNone(service.connection)
        self.assertWaits(service.when_ready())
        self.assertWaits(consumer.when_subscribed())

    def test_ready(self) -> None:
        """
        Each asker is told when AMQP is open, before and after.
        """
        service = self.service(start=False)
        first, second = service.when_ready(), service.when_ready()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        service.startService()
        self.turn()
        connection = self.successResultOf(second)
        self.assertTrue(connection.is_open)
        self.assertIs(connection, service.connection)
        self.assertReady(service)

    def test_name_and_credentials(self) -> None:
        """
        The name and the credentials are those that the service was given.
        """
        self.broker.add_user("ann", "secret")
        service = self.service(
            name="here", credentials=PlainCredentials("ann", "secret")
        )
        self.assertReady(service)
        (session,) = self.broker.sessions
        self.assertEqual(session.user.name, "ann")
        self.assertEqual(session.client_properties["connection_name"], "here")
        self.assertNotIn("secret", repr(service))

    def test_started_twice(self) -> None:
        """
        To start it again changes nothing.
        """
        service = self.service()
        service.startService()
        self.turn()
        self.assertEqual(len(self.endpoint.links), 1)

    def test_first_connection_is_retried(self) -> None:
        """
        What holds for the first connection holds for all: it is tried until there is
        one, with delays that grow.
        """
        self.endpoint.refusing = True
        service = self.service(start=False)
        events = Events()
        events.observe(service)
        service.startService()
        self.passes(16)
        delays = [each[1] for each in events.details if len(each) == 3]
        self.assertEqual(delays, [1, 2, 4, 8, 8])
        self.assertIsInstance(service.error, ConnectFailed)
        self.assertWaits(service.when_ready())
        self.endpoint.refusing = False
        self.passes(8)
        self.assertReady(service)
        self.assertEqual(events.names[-2:], ["connecting", "ready"])

    def test_invalid_uri(self) -> None:
        """
        A URI that cannot be understood is refused at once.
        """
        with self.assertRaises(InvalidURI):
            AMQPClientService(self.reactor, "amqp://localhost:port")

    def test_defect(self) -> None:
        """
        An endpoint that fails as nobody expects is logged, and tried again.
        """

        def broken(_: object) -> None:
            raise ZeroDivisionError("a defect")

        connect = self.endpoint.connect
        self.endpoint.connect = broken  # type: ignore[method-assign,assignment]
        service = self.service()
        self.endpoint.connect = connect  # type: ignore[method-assign]
        self.passes(1)
        self.assertReady(service)
        self.flushLoggedErrors(ZeroDivisionError)


class PermanentTests(ServiceCase):
    """
    Errors that will not pass by themselves.
    """

    def refused(self, policy: RetryPolicy) -> tuple[AMQPClientService, Events]:
        """
        A service with a wrong password.
        """
        service = self.service(
            policy=policy, start=False, credentials=PlainCredentials("guest", "wrong")
        )
        events = Events()
        events.observe(service)
        service.startService()
        self.turn()
        return service, events

    def test_waits_longest(self) -> None:
        """
        A wrong password is tried again after the longest delay, and works when it was
        put right.
        """
        service, events = self.refused(POLICY)
        self.assertEqual(events.names, ["connecting", "recovering"])
        attempt, delay, reason = events.details[1]
        self.assertEqual((attempt, delay), (1, 8.0))
        self.assertIsInstance(reason, AuthenticationFailed)
        self.assertWaits(service.when_ready())
        self.broker.add_user("guest", "wrong")
        self.passes(8)
        self.assertReady(service)

    def test_gives_up(self) -> None:
        """
        Unless the policy says otherwise: then everybody who waits is told why.
        """
        service = self.service(
            policy=HASTY, start=False, credentials=PlainCredentials("guest", "wrong")
        )
        events = Events()
        events.observe(service)
        ready = service.when_ready()
        channel = service.channel().when_open()
        consumer = service.consume("work", Inbox()).when_subscribed()
        declared = service.declare(Queue(name="work"))
        service.startService()
        self.turn()
        for each in (ready, channel, consumer, declared, service.when_ready()):
            self.failureResultOf(each, AuthenticationFailed)
        self.assertEqual(events.names, ["connecting", "failed"])
        self.passes(100)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_started_again(self) -> None:
        """
        A service that gave up, and was stopped, can be started again.
        """
        service, _ = self.refused(HASTY)
        self.failureResultOf(service.when_ready(), AuthenticationFailed)
        self.successResultOf(service.stopService())
        self.broker.add_user("guest", "wrong")
        channel = service.channel()
        service.startService()
        self.turn()
        self.assertReady(service)
        self.successResultOf(channel.when_open())

    def test_vhost(self) -> None:
        """
        A virtual host that does not exist is as permanent.
        """
        service = self.service(
            policy=HASTY, parameters=ConnectionParameters(virtual_host="nowhere")
        )
        self.failureResultOf(service.when_ready(), VhostAccessRefused)

    def test_not_after_a_connection(self) -> None:
        """
        A connection that was ready and ends for such a reason is made again soon.
        """
        service = self.service(policy=HASTY)
        self.passes(20)
        # To confirm what nobody has published is against the rules.
        channel = service.channel()
        self.turn()
        self.successResultOf(channel.when_open())
        self.link.server.write(method_frame(1, BasicAck(1).encode()))
        self.turn()
        self.assertIsInstance(service.error, RemoteProtocolError)
        self.passes(1)
        self.assertReady(service)


class LimitTests(ServiceCase):
    """
    When to give up.
    """

    def test_attempts(self) -> None:
        """
        After so many attempts in a row.
        """
        self.endpoint.refusing = True
        service = self.service(policy=replace(POLICY, max_attempts=3))
        self.passes(2.5)
        self.assertWaits(service.when_ready())
        self.passes(1)
        failure = self.failureResultOf(service.when_ready(), ConnectFailed)
        self.assertIsInstance(failure.value.__cause__, ConnectionRefusedError)

    def test_a_connection_in_between(self) -> None:
        """
        Only those in a row count.
        """
        self.endpoint.refusing = True
        service = self.service(policy=replace(POLICY, max_attempts=2))
        for _ in range(3):
            self.endpoint.refusing = False
            self.passes(10)
            self.assertReady(service)
            self.endpoint.refusing = True
            self.cut()
            self.passes(1.5)
        self.assertWaits(service.when_ready())
        self.passes(2)
        self.failureResultOf(service.when_ready(), ConnectFailed)

    def test_seconds(self) -> None:
        """
        After so many seconds without a connection.
        """
        service = self.service(policy=replace(POLICY, max_seconds=10))
        self.passes(60)
        self.endpoint.refusing = True
        self.cut()
        self.passes(6.5)
        self.assertWaits(service.when_ready())
        self.passes(1)
        self.failureResultOf(service.when_ready(), ConnectFailed)


class LossTests(ServiceCase):
    """
    A connection that was ready ends.
    """

    def setUp(self) -> None:
        """
        Have one.
        """
        super().setUp()
        self.events = Events()
        self.client = self.service(start=False)
        self.forget = self.events.observe(self.client)
        self.client.startService()
        self.passes(10)
        self.assertReady(self.client)

    def back(self, kind: type[BaseException], seconds: float = 1.0) -> None:
        """
        It has ended for such a reason, which was told, and there is another one.
        """
        self.assertIsNone(self.client.connection)
        ready = self.client.when_ready()
        self.assertNoResult(ready)
        self.assertIsInstance(self.client.error, kind)
        self.passes(seconds)
        self.assertIs(self.successResultOf(ready), self.client.connection)
        self.assertEqual(
            self.events.names,
            ["connecting", "ready", "lost", "recovering", "connecting", "ready"],
        )
        self.assertIsInstance(self.events.details[2][0], kind)
        self.assertIsInstance(self.events.details[3][2], kind)

    def test_cut(self) -> None:
        """
        The link breaks.
        """
        self.cut()
        self.back(ConnectionLost)

    def test_forced(self) -> None:
        """
        An operator closes the connection.
        """
        self.broker.close_connections()
        self.turn()
        self.back(ConnectionForced)

    def test_silence(self) -> None:
        """
        Nothing is heard for two heartbeat intervals.
        """
        self.link.hole()
        self.passes(109, step=10)
        self.assertIsNotNone(self.client.connection)
        self.passes(1)
        self.back(HeartbeatTimeout)

    def test_closed_by_us(self) -> None:
        """
        The connection is the service's: who closes it gets another one.
        """
        assert self.client.connection is not None
        self.client.connection.close()
        self.turn()
        self.passes(1)
        self.assertReady(self.client)

    def test_delays_grow(self) -> None:
        """
        A connection that does not last lets the delays grow; one that does lets them
        begin anew.
        """
        delays = []
        for _ in range(4):
            self.cut()
            delays.append(self.events.details[-1][1])
            self.passes(delays[-1])
            self.assertReady(self.client)
        self.assertEqual(delays, [1, 2, 4, 8])
        self.passes(8)
        self.cut()
        self.assertEqual(self.events.details[-1][1], 1)

    def test_silent_handshake(self) -> None:
        """
        A peer that says nothing has the time of the handshake.
        """
        self.cut()
        self.endpoint.spoil = Link.hole
        self.passes(12)
        self.assertIsInstance(self.client.error, HandshakeTimeout)

    def test_stop_observing(self) -> None:
        """
        An observation ends, once.
        """
        told: list[object] = []
        undo = self.client.observe(lost=told.append)
        undo()
        undo()
        self.forget()
        self.cut()
        self.assertEqual(told, [])
        self.assertEqual(self.events.names, ["connecting", "ready"])


class BlockedTests(ServiceCase):
    """
    The broker takes no messages for now.
    """

    def test_blocked(self) -> None:
        """
        Observers are told, and told again on the next connection.
        """
        service = self.service(start=False)
        events = Events()
        events.observe(service)
        service.startService()
        self.turn()
        channel = service.channel()
        self.turn()
        self.broker.block("low on disk")
        self.turn()
        self.assertEqual(events.names[-1], "blocked")
        self.assertEqual(events.details[-1], ("low on disk",))
        self.cut()
        self.passes(1)
        self.successResultOf(channel.when_open())
        self.assertEqual(events.names.count("blocked"), 2)
        self.broker.unblock()
        self.turn()
        self.assertEqual(events.names[-1], "unblocked")

    def test_late(self) -> None:
        """
        What a connection says that has ended is not told.
        """
        service = self.service()
        events = Events()
        events.observe(service)
        old = service.connection
        assert old is not None
        self.cut()
        old.blocked_by("too late")
        self.assertNotIn("blocked", events.names)


class ObserverTests(ServiceCase):
    """
    Tests for `AMQPClientService.observe`.
    """

    def test_refused(self) -> None:
        """
        What is no function is refused, by its name, and so is nothing at all.
        """
        service = self.service(start=False)
        wrong: Any = "a name"
        error = self.assertRaises(TypeError, service.observe, ready=wrong, lost=print)
        self.assertEqual(str(error), "ready is a function, not 'a name'")
        self.assertRaises(TypeError, service.observe)
        unknown: Any = {"raedy": print}
        self.assertRaises(TypeError, service.observe, **unknown)

    def test_fails(self) -> None:
        """
        One that raises whatever it be is logged, and changes nothing.
        """
        for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt, GeneratorExit):
            self.fails(error)

    def fails(self, error: type[BaseException]) -> None:
        """
        The same, with such an error.
        """

        def broken(*details: object) -> None:
            raise error("a defect")

        service = self.service(start=False)
        events = Events()
        service.observe(ready=broken)
        events.observe(service)
        service.startService()
        self.turn()
        self.assertReady(service)
        self.assertEqual(events.names, ["connecting", "ready"])
        self.assertEqual(len(self.flushLoggedErrors(error)), 1)

    def test_stops_the_service(self) -> None:
        """
        One may stop the service, whatever it was told.
        """
        for what in ("connecting", "ready", "lost", "recovering", "blocked"):
            service = self.service(start=False)

            class Stopper(Events):
                service: AMQPClientService
                what: str

                def _note(self, name: str, *details: object) -> None:
                    super()._note(name, *details)
                    if name == self.what:
                        self.service.stopService()

            stopper = Stopper()
            stopper.service, stopper.what = service, what
            stopper.observe(service)
            consumer = service.consume("work", Inbox())
            service.startService()
            self.turn()
            if what in ("lost", "recovering"):
                self.cut()
            elif what == "blocked":
                self.broker.block()
            self.passes(20)
            self.assertIsNone(service.connection)
            self.failureResultOf(service.when_ready(), CancelledError)
            self.failureResultOf(consumer.when_subscribed(), CancelledError)
            self.assertEqual(stopper.names[-1], what)
            self.assertEqual(self.broker.sessions, [])
            self.broker.unblock()


class SeveralTests(ServiceCase):
    """
    Several addresses.
    """

    def test_next_one(self) -> None:
        """
        When one is lost, another one is there.
        """
        other = Place(self.broker)
        service = self.service([self.endpoint, Address(ConnectionParameters(), other)])
        self.assertReady(service)
        used = self.endpoint if self.endpoint.links else other
        unused = other if used is self.endpoint else self.endpoint
        used.refusing = True
        used.links[-1].cut()
        self.passes(1)
        self.assertReady(service)
        self.assertEqual(len(unused.links), 1)
        for link in other.links:
            self.addCleanup(link.cut)


class ReprTests(SynchronousTestCase):
    """
    What is seen of a service.
    """

    def test_repr(self) -> None:
        """
        Where it leads to, and how it is; and no password.
        """
        service = AMQPClientService(
            Clock(), ["amqp://ann:secret@one", "amqps://ann:secret@two"]
        )
        self.assertEqual(
            repr(service),
            "<AMQPClientService to amqp://ann@one:5672/%2F, amqps://ann@two:5671/%2F, "
            "stopped>",
        )
