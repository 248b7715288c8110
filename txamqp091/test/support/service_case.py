# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
What tests of the client service inherit: a service, a broker in memory, a network in
memory between them, and a ``Clock``.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.endpoint import connect_once
from txamqp091.message import Delivery
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import (
    AMQPClientService,
    RecoveringConsumer,
    RetryPolicy,
    addresses,
)
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.network import Link, MemoryEndpoint

__all__ = ["POLICY", "Events", "Inbox", "Place", "ProcessCase", "RunningReactor",
           "ServiceCase"]  # fmt: skip

#: Delays of 1, 2, 4 and 8 seconds, and no chance.
POLICY = RetryPolicy(initial_delay=1.0, max_delay=8.0, jitter=0.0, random=lambda: 0.5)


class Events:
    """
    Writes down what happens to a service.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.details: list[tuple[Any, ...]] = []

    def observe(self, service: AMQPClientService) -> Callable[[], None]:
        """
        Write down all of it.

        :returns: call this to end it.
        """
        return service.observe(
            connecting=self.connecting,
            ready=self.ready,
            blocked=self.blocked,
            unblocked=self.unblocked,
            lost=self.lost,
            recovering=self.recovering,
            failed=self.failed,
            subscribed=self.subscribed,
            unsubscribed=self.unsubscribed,
            refused=self.refused,
        )

    def _note(self, name: str, *details: Any) -> None:
        self.names.append(name)
        self.details.append(details)

    def connecting(self, address: str) -> None:
        self._note("connecting", address)

    def ready(self, connection: AMQPProtocol, outcomes: Sequence[Any]) -> None:
        self._note("ready", connection, outcomes)

    def blocked(self, reason: str) -> None:
        self._note("blocked", reason)

    def unblocked(self) -> None:
        self._note("unblocked")

    def lost(self, reason: BaseException) -> None:
        self._note("lost", reason)

    def recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        self._note("recovering", attempt, delay, reason)

    def failed(self, reason: BaseException) -> None:
        self._note("failed", reason)

    def subscribed(self, consumer: RecoveringConsumer) -> None:
        self._note("subscribed", consumer)

    def unsubscribed(
        self, consumer: RecoveringConsumer, reason: BaseException, delay: float | None
    ) -> None:
        self._note("unsubscribed", consumer, reason, delay)

    def refused(
        self, consumer: RecoveringConsumer, reason: BaseException, delay: float | None
    ) -> None:
        self._note("refused", consumer, reason, delay)


class Inbox:
    """
    A handler that keeps what it is given, and acknowledges if it is told to.
    """

    def __init__(self, ack: bool = True) -> None:
        self.deliveries: list[Delivery] = []
        self._ack = ack

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._ack:
            delivery.ack()

    @property
    def bodies(self) -> list[bytes]:
        """
        The bodies of all that came.
        """
        return [each.body for each in self.deliveries]


class Place(MemoryEndpoint):
    """
    A way to a broker, with a network that misbehaves from the first byte on.

    :ivar spoil: called with each new connection, before a byte has moved.
    """

    spoil: Callable[[Link], object] | None = None

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker.clock, BrokerFactory(broker, broker.clock))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See ``IStreamClientEndpoint``.
        """
        connected = super().connect(protocolFactory)
        if self.spoil is not None and not self.refusing:
            self.spoil(self.links[-1])
        return connected


class ServiceCase(SynchronousTestCase):
    """
    A test case with a broker, and a way to it.
    """

    def setUp(self) -> None:
        """
        Have a broker.
        """
        self.clock = Clock()
        self.reactor = cast(IReactorTime, self.clock)
        self.broker = MemoryBroker(self.reactor)
        self.endpoint = Place(self.broker)
        self.services: list[AMQPClientService] = []

    def service(
        self, where: Any = None, *, start: bool = True, **options: Any
    ) -> AMQPClientService:
        """
        A service, which is stopped when the test ends, and must leave nothing behind.
        """
        options.setdefault("policy", POLICY)
        service = AMQPClientService(
            self.reactor, self.endpoint if where is None else where, **options
        )
        if not self.services:
            self.addCleanup(self._stop_all)
        self.services.append(service)
        if start:
            service.startService()
            self.turn()
        return service

    def _stop_all(self) -> None:
        self.endpoint.refusing = True
        for service in self.services:
            stopped = service.stopService()
            self.passes(120)
            self.successResultOf(stopped)
        for link in self.endpoint.links:
            link.cut()
        self.turn()
        left = self.clock.getDelayedCalls()
        self.assertEqual(left, [], "delayed calls outlive the service")

    def turn(self, count: int = 60) -> None:
        """
        Let many turns of the reactor pass, and no time.
        """
        for _ in range(count):
            self.clock.advance(0)

    def passes(self, seconds: float, step: float = 0.5) -> None:
        """
        Let time pass.
        """
        self.turn()
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            self.turn(20)
            seconds -= step

    @property
    def link(self) -> Link:
        """
        The last connection that was made.
        """
        return self.endpoint.links[-1]

    def cut(self) -> None:
        """
        Break it.
        """
        self.link.cut()
        self.turn()

    def assertReady(self, service: AMQPClientService) -> None:
        """
        The service is ready, with nothing left to do.
        """
        self.assertIs(self.successResultOf(service.when_ready()), service.connection)
        self.assertIsNotNone(service.connection)

    def assertWaits(self, deferred: Deferred[Any]) -> None:
        """
        A Deferred has not fired; it need not.
        """
        self.assertNoResult(deferred)
        deferred.addErrback(lambda _: None)


class RunningReactor(MemoryReactorClock):
    """
    A reactor in memory that runs, and has no threads.
    """

    def __init__(self) -> None:
        super().__init__()
        # By default, Twisted's versions differ.
        self.running = True
        self.hasStopped = False

    def callWhenRunning(  # type: ignore[override]
        self, function: Callable[[], object]
    ) -> None:
        """
        Twisted: call a function, as soon as the reactor runs.
        """
        function()


class ProcessCase(ServiceCase):
    """
    Tests of what has a process to itself, with a reactor that it may stop.

    :ivar process: that reactor, which is the clock, too.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(atexit, "register", lambda function: function)
        self.patch(signal, "signal", lambda number, handler: None)
        self.process = RunningReactor()
        reactor: Any = self.process
        self.clock = self.reactor = reactor
        self.broker = MemoryBroker(reactor)
        self.endpoint = Place(self.broker)

        def connect(reactor: Any, parameters: Any, endpoint: Any = None) -> Any:
            return connect_once(reactor, parameters, endpoint=self.endpoint)

        self.patch(addresses, "connect_once", connect)
