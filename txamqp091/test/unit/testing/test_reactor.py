# -*- test-case-name: txamqp091.test.unit.testing.test_reactor -*-
"""
Tests for `txamqp091.testing.reactor`: the clock, and the network with one host.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTime,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091.factory import AMQPClientFactory
from txamqp091.protocol import AMQPProtocol
from txamqp091.testing.case import BrokerTestCase
from txamqp091.testing.reactor import GoingInCircles, SteppingClock


class ClockTests(SynchronousTestCase):
    """
    The clock.
    """

    def test_own_time(self) -> None:
        """
        What is due is done at the time that it is due at, in the order in which it was
        asked for, also when the clock is advanced by more.
        """
        clock = SteppingClock()
        done: list[tuple[str, float]] = []

        def do(what: str) -> None:
            done.append((what, clock.seconds()))

        clock.callLater(2, do, "b")
        clock.callLater(1, lambda: clock.callLater(1, do, "c"))
        clock.callLater(5, do, "never")
        clock.advance(4)
        self.assertEqual(done, [("b", 2), ("c", 2)])
        self.assertEqual(clock.seconds(), 4)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    def test_circles(self) -> None:
        """
        A program that never comes to rest fails the test.
        """
        clock = SteppingClock()
        clock.limit = 100

        def again() -> None:
            clock.callLater(0, again)

        again()
        error = self.assertRaises(GoingInCircles, clock.advance, 0)
        self.assertIn("100 things have happened at 0 s", str(error))


class ReactorTests(BrokerTestCase):
    """
    The reactor that a program is given.
    """

    def test_interfaces(self) -> None:
        """
        It has what connecting needs.
        """
        for interface in (
            IReactorTime,
            IReactorFromThreads,
            IReactorPluggableNameResolver,
        ):
            verifyObject(interface, self.reactor)
        resolver = self.reactor.nameResolver
        self.assertIs(self.reactor.installNameResolver(resolver), resolver)

    def test_endpoint(self) -> None:
        """
        Twisted's own endpoint finds the broker, whatever the name.
        """
        endpoint = HostnameEndpoint(self.reactor, "rabbit.example", 5672)
        factory = AMQPClientFactory(clock=self.reactor)
        protocol = cast(AMQPProtocol, self.result_of(endpoint.connect(factory)))
        self.result_of(protocol.when_open())
        self.assertEqual(len(self.broker.sessions), 1)
        self.result_of(protocol.close())

    def test_refused(self) -> None:
        """
        It can refuse.
        """
        self.endpoint.refusing = True
        endpoint = HostnameEndpoint(self.reactor, "rabbit.example", 5672)
        connecting = endpoint.connect(AMQPClientFactory(clock=self.reactor))
        self.advance(1)
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_threads(self) -> None:
        """
        What another thread would have done is done in the next turn.
        """
        done: list[str] = []
        self.reactor.callFromThread(done.append, "it")
        self.assertEqual(done, [])
        self.flush()
        self.assertEqual(done, ["it"])
