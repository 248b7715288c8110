# -*- test-case-name: txamqp091.test.unit.client.test_factory -*-
"""
The factory of connections, for use with any endpoint.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ClientFactory

from txamqp091.interfaces import AnyReactor
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol

__all__ = ["AMQPClientFactory"]


class AMQPClientFactory(ClientFactory):
    """
    Makes an `AMQPProtocol` for each connection::

        protocol = await endpoint.connect(AMQPClientFactory(parameters))
        connection = await protocol.when_open()

    A connection that a factory has made is not closed when the reactor stops: close it
    before that.

    :param parameters: how to log in, and the limits; by default, as guest.  The
        endpoint decides the address and does TLS.  If ``parameters.tls`` is set, the
        certificate must name the host of the parameters.
    :param clock: the reactor; by default, the global one.
    """

    protocol = AMQPProtocol
    noisy = False

    def __init__(
        self,
        parameters: ConnectionParameters | None = None,
        *,
        clock: AnyReactor | None = None,
    ) -> None:
        if clock is None:
            from twisted.internet import reactor

            clock = reactor
        self.parameters = ConnectionParameters() if parameters is None else parameters
        self.clock = cast(IReactorTime, clock)

    def buildProtocol(self, addr: IAddress | None) -> AMQPProtocol:
        """
        Twisted: make the protocol of a new connection.
        """
        protocol = AMQPProtocol(self.parameters, self.clock)
        protocol.factory = self
        return protocol
