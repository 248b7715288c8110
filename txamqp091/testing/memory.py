# -*- test-case-name: txamqp091.test.unit.testing.test_memory -*-
"""
The in-memory broker as users have it: `MemoryBroker`, and the ways to connect to it.

What it does is in `txamqp091.testing._broker.broker`, and what its bytes are in
`txamqp091.testing._broker.protocol`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IReactorTCP, IReactorTime

from txamqp091.interfaces import AnyReactor
from txamqp091.testing._broker.broker import Broker
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.network import MemoryEndpoint

__all__ = ["ListeningPort", "MemoryBroker"]


class ListeningPort(Protocol):
    """
    What ``IListeningPort`` says, as far as it is used, for type checkers.
    """

    def getHost(self) -> Any:
        """
        See ``IListeningPort``.
        """

    def stopListening(self) -> Awaitable[None]:
        """
        See ``IListeningPort``.
        """


class MemoryBroker(Broker):
    """
    A broker that clients can connect to, in memory or over TCP, and that is gone when
    the process is.  What it is made from, see `Broker`.
    """

    def endpoint(self) -> MemoryEndpoint:
        """
        An endpoint for clients in this process.  Its bytes move, its heartbeats beat
        and its time limits end by the broker's ``clock``: with a ``task.Clock``,
        nothing happens until the test lets time pass.

        Each endpoint knows its own connections alone, and what to do to them; several
        can lead to one broker.
        """
        return MemoryEndpoint(self.clock, BrokerFactory(self, self.clock))

    def listen(
        self,
        reactor: IReactorTCP | AnyReactor,
        port: int = 0,
        interface: str = "127.0.0.1",
        *,
        tls: object = None,
    ) -> ListeningPort:
        """
        Serve any AMQP client, over TCP, in the clear or by TLS.

        To be done with it, stop the port, and then ``close_connections``::

            port = broker.listen(reactor)
            uri = f"amqp://guest:guest@127.0.0.1:{port.getHost().port}"
            ...
            await port.stopListening()

        :param reactor: what bytes, heartbeats and time limits go by, which need not be
            the clock by which messages expire.
        :param port: 0 for one that is free.
        :param tls: the certificate and all else that TLS needs, as Twisted has it: for
            example the ``options()`` of a ``twisted.internet.ssl.PrivateCertificate``.
            None is in the clear.
        :returns: the port, which listens already.
        :raises twisted.internet.error.CannotListenError: another program listens there.
        """
        factory = BrokerFactory(self, cast(IReactorTime, reactor))
        listens: Any = reactor
        if tls is None:
            listening = listens.listenTCP(port, factory, interface=interface)
        else:
            listening = listens.listenSSL(port, factory, tls, interface=interface)
        return cast(ListeningPort, listening)
