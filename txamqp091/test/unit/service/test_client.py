# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
Tests for `txamqp091.service.client` and `txamqp091.service.reconnecting`: connecting,
coming back, giving up, and who is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    ConnectFailed,
    InvalidURI,
)
from txamqp091.parameters import ConnectionParameters
from txamqp091.service.addresses import Address
from txamqp091.service.client import AMQPClientService
from txamqp091.test.support.service_case import (
    POLICY,
    Events,
    Inbox,
    Place,
    ServiceCase,
)

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
