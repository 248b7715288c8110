# -*- test-case-name: txamqp091.test.unit.testing.test_case -*-
"""
What the tests of a program inherit that talks to a broker.

`BrokerTestCase` lets time pass when the test says so, and every byte with it;
`AsyncBrokerTestCase` runs on the reactor.  What can be asserted is in
`txamqp091.testing.assertions`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091.channel import Channel
from txamqp091.endpoint import connect
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.testing.assertions import BrokerAssertions
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.network import Link, MemoryEndpoint
from txamqp091.testing.reactor import MemoryReactor, SteppingClock

__all__ = ["AsyncBrokerTestCase", "BrokerTestCase"]

T = TypeVar("T")

#: How many seconds on its clock a test lets something take to stop.
_PATIENCE = 300.0


if TYPE_CHECKING:

    class _MemoryReactor(MemoryReactor, IReactorTime):
        """
        A type of reactor that functions take which ask for ``IReactorTime``, also
        where the type checker does not know interfaces of ``zope.interface``.
        """
else:
    _MemoryReactor = MemoryReactor


class _Broker(BrokerAssertions):
    """
    A broker, and the ways to it.

    :ivar broker: the broker.
    :ivar endpoint: the way to it in memory, and what can be done to that.
    :ivar reactor: what the program under test takes for the reactor.
    :ivar uri: where the program under test is to connect to; but whatever it asks
        ``reactor`` for, it gets the broker.
    """

    uri = "amqp://guest:guest@localhost"

    broker: MemoryBroker
    endpoint: MemoryEndpoint
    reactor: _MemoryReactor

    def _set_up(self, clock: IReactorTime) -> None:
        self.broker = self.make_broker(clock)
        self.endpoint = self.broker.endpoint()
        self.reactor = cast(_MemoryReactor, MemoryReactor(clock, self.endpoint))

    def make_broker(self, clock: IReactorTime) -> MemoryBroker:
        """
        Make the broker: to be overridden by tests that want another one.
        """
        return MemoryBroker(clock)

    @property
    def link(self) -> Link:
        """
        The last connection that was made, and what can be done to it.
        """
        if not self.endpoint.links:
            self.fail("Nobody has connected")
        return self.endpoint.links[-1]

    def _connect(self, uri: str, changes: dict[str, Any]) -> Deferred[AMQPProtocol]:
        parameters = ConnectionParameters.from_uri(uri or self.uri)
        return connect(self.reactor, replace(parameters, **changes))

    def _check(self) -> None:
        """
        Check that nobody is connected any more, and take the broker off the clock.
        """
        open_links = [each for each in self.endpoint.links if each.is_up]
        self.endpoint.cut()
        self.broker.clear()
        if open_links:
            self.fail(
                f"{len(open_links)} of {len(self.endpoint.links)} connections are "
                f"still open: stop what has made them"
            )


class BrokerTestCase(_Broker, SynchronousTestCase):
    """
    A test case with a broker in memory, and a clock: nothing happens unless the test
    says `flush` or `advance`, and it always happens in the same order.

    When the test ends, what was given to `start` is stopped, what `connect` has made is
    closed, and then nothing may be left: no connection, and nothing on the clock.

    :ivar clock: the clock; ``reactor`` goes by it.
    """

    def setUp(self) -> None:
        """
        Make the broker.
        """
        super().setUp()
        self.clock = SteppingClock()
        self._set_up(cast(IReactorTime, self.clock))
        self.addCleanup(self._check)

    # -- time ------------------------------------------------------------------------

    def flush(self) -> None:
        """
        Do all that can be done without any time passing: bytes move, and what they
        cause happens, until all is quiet.
        """
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """
        Let time pass, with all that happens in it.
        """
        self.clock.advance(0)
        self.clock.advance(seconds)

    # -- programs ----------------------------------------------------------------------

    def start(self, service: IService | Service) -> None:
        """
        Start a service, let it do what it can at once, and stop it when the test ends.
        """
        self.addCleanup(self.stop, service)
        cast(IService, service).startService()
        self.flush()

    def stop(self, service: IService | Service) -> None:
        """
        Stop a service, with as much time as it takes.
        """
        if service.running:
            stopping = maybeDeferred(service.stopService)
            self._finish(stopping, f"{service} does not stop")

    def connect(self, uri: str = "", **changes: Any) -> AMQPProtocol:
        """
        Connect as a client of the test's own.

        :param uri: ``self.uri`` by default.
        :param changes: what is to be different in the `ConnectionParameters`.
        """
        connection = self.result_of(self._connect(uri, changes))
        self.addCleanup(
            lambda: self._finish(connection.close(), f"{connection} does not close")
        )
        return connection

    def open_channel(self, uri: str = "", **changes: Any) -> Channel:
        """
        Open a channel, on a connection of its own; the arguments are for `connect`.
        """
        return self.result_of(self.connect(uri, **changes).open_channel())

    def result_of(self, asked: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """
        The result of something, which is there after a `flush`; its failure fails the
        test.
        """
        waiting = asked
        if not isinstance(waiting, Deferred):
            waiting = Deferred.fromCoroutine(waiting)
        self.flush()
        return self.successResultOf(waiting)

    # -- the end -----------------------------------------------------------------------

    def _finish(self, ending: Deferred[Any], complaint: str) -> None:
        ends: list[Any] = []
        ending.addBoth(ends.append)
        self.flush()
        # A handler may run into its limit, or a broker that does not answer.
        if not ends:
            self.advance(_PATIENCE)
        if not ends:
            self.fail(f"{complaint}, not in {_PATIENCE:g} s")
        if isinstance(ends[0], Failure):
            ends[0].raiseException()

    def _check(self) -> None:
        self.flush()
        super()._check()
        self.flush()
        pending = self.clock.getDelayedCalls()
        if pending:
            calls = "".join(f"\n  {each}" for each in pending)
            self.fail(f"The test has left something on the clock:{calls}")


class AsyncBrokerTestCase(_Broker, TestCase):
    """
    A test case with a broker in memory, on the reactor: for programs that use threads,
    processes or other connections, too.

    When the test ends, what was given to `start` is stopped, what `connect` has made is
    closed, and then no connection may be left.
    """

    def setUp(self) -> None:
        """
        Make the broker.
        """
        from twisted.internet import reactor

        super().setUp()
        self._set_up(cast(IReactorTime, reactor))
        self.addCleanup(self._end)

    def start(self, service: IService | Service) -> None:
        """
        Start a service, and stop it when the test ends.
        """
        self.addCleanup(self.stop, service)
        cast(IService, service).startService()

    async def stop(self, service: IService | Service) -> None:
        """
        Stop a service.
        """
        if service.running:
            await maybeDeferred(service.stopService)

    async def connect(self, uri: str = "", **changes: Any) -> AMQPProtocol:
        """
        See `BrokerTestCase.connect`.
        """
        connection = await self._connect(uri, changes)
        self.addCleanup(connection.close)
        return connection

    async def open_channel(self, uri: str = "", **changes: Any) -> Channel:
        """
        See `BrokerTestCase.open_channel`.
        """
        connection = await self.connect(uri, **changes)
        return await connection.open_channel()

    async def until(
        self, condition: Callable[[], object], seconds: float = 5.0
    ) -> None:
        """
        Wait until something is so.

        :param condition: called again and again, until what it returns is true; or an
            assertion such as `BrokerAssertions.assertQueue`, until it does not fail.
        :param seconds: how long to wait at the most.
        """
        deadline = self.reactor.seconds() + seconds
        while True:
            late = self.reactor.seconds() > deadline
            try:
                if condition():
                    return
            except AssertionError:
                if late:
                    raise
            if late:
                self.fail(f"{condition} is not so after {seconds:g} s")
            await deferLater(self.reactor, 0.005)

    async def _end(self) -> None:
        # Both ends of a connection learn that it has ended in a turn of its own.
        await deferLater(self.reactor, 0)
        self._check()
        await deferLater(self.reactor, 0)
