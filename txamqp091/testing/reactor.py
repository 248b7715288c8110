# -*- test-case-name: txamqp091.test.unit.testing.test_reactor -*-
"""
What a program that is tested has for its reactor: time that the test lets pass, and a
network that has one host in it, the broker.

`SteppingClock` is the time; `MemoryReactor` has what connecting needs besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from zope.interface import implementer

from txamqp091.testing.network import MemoryEndpoint

__all__ = ["GoingInCircles", "MemoryReactor", "SteppingClock"]


class GoingInCircles(AssertionError):
    """
    More happens at one moment than there can be a reason for.
    """


class SteppingClock(Clock):
    """
    A clock on which everything happens at its own time, however far it is advanced.

    :ivar limit: how many things may happen at one moment.
    """

    limit = 100_000

    def advance(self, amount: float) -> None:
        """
        Let time pass, and do what is due, each thing at the time that it is due at.

        :param amount: seconds; 0 does what is due now.
        :raises GoingInCircles: there is no end to that: somebody sends a message back
            and forth, perhaps.
        """
        end = self.rightNow + amount
        done = 0
        while (call := self._next(end)) is not None:
            if call.getTime() > self.rightNow:
                self.rightNow = call.getTime()
                done = 0
            done += 1
            if done > self.limit:
                raise GoingInCircles(
                    f"{self.limit} things have happened at {self.rightNow:g} s, and "
                    f"there is no end: is a message sent back again and again?  "
                    f"Next is {call}"
                )
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        self.rightNow = end

    def _next(self, end: float) -> Any:
        """
        What is to be done next, if it is due.
        """
        # Of those that are due at one time, the one that was asked for first.
        call = min(self.calls, key=lambda each: each.getTime(), default=None)
        return call if call is not None and call.getTime() <= end else None


@implementer(IHostResolution)
class _Resolution:
    """
    A name that was looked up.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """
        Twisted: it is too late.
        """


@implementer(IHostnameResolver)
class _Resolver:
    """
    Finds every host at one address.
    """

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """
        See ``IHostnameResolver``.
        """
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        address = IPv4Address("TCP", "127.0.0.1", portNumber)
        resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return resolution


class _Connector:
    """
    What a factory is told of that connects: there is no stopping it.
    """

    def stopConnecting(self) -> None:
        """
        See ``IConnector``.
        """


@implementer(IReactorTime, IReactorFromThreads, IReactorPluggableNameResolver)
class MemoryReactor:
    """
    A reactor whose every TCP connection goes to one endpoint, whatever its host and
    port; time is somebody else's.

    It is for programs that are given their reactor, and for endpoints; a factory that
    reconnects by itself does not learn that its connection was lost.
    """

    def __init__(self, clock: IReactorTime, endpoint: MemoryEndpoint) -> None:
        """
        :param clock: a reactor or a ``Clock``.
        """
        self.nameResolver: IHostnameResolver = _Resolver()
        self._clock = clock
        self._endpoint = endpoint

    # -- time ------------------------------------------------------------------------

    def seconds(self) -> float:
        """
        See ``IReactorTime``.
        """
        return self._clock.seconds()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        """
        See ``IReactorTime``.
        """
        return self._clock.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """
        See ``IReactorTime``.
        """
        return self._clock.getDelayedCalls()

    def callFromThread(
        self, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        """
        See ``IReactorFromThreads``: with a ``Clock``, there is one thread only.
        """
        if IReactorFromThreads.providedBy(self._clock):
            threads = cast(IReactorFromThreads, self._clock)
            threads.callFromThread(callable, *args, **kwargs)
        else:
            self.callLater(0, callable, *args, **kwargs)

    # -- the network -----------------------------------------------------------------

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """
        See ``IReactorPluggableNameResolver``.
        """
        before, self.nameResolver = self.nameResolver, resolver
        return before

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: object = None,
    ) -> _Connector:
        """
        See ``IReactorTCP``.
        """
        connector: Any = _Connector()
        factory.doStart()
        factory.startedConnecting(connector)
        self._endpoint.connect(factory).addErrback(
            lambda reason: factory.clientConnectionFailed(connector, reason)
        )
        return cast(_Connector, connector)
