# -*- test-case-name: txamqp091.test.unit.client.test_endpoint -*-
"""
From parameters to a connection: endpoints, and `connect`.

What TLS is and what its errors mean is in `txamqp091._tls`.  Connecting again
is the business of `txamqp091.service`; here is one attempt.
"""

from __future__ import annotations

__all__ = ["connect", "connect_once", "endpoint_from_parameters"]

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.python.failure import Failure

from txamqp091._hosts import ascii_host, is_address
from txamqp091._shutdown import close_at_shutdown
from txamqp091._tls import connection_creator, handshake_completed, translate_failure
from txamqp091.errors import (
    AMQPError,
    HandshakeTimeout,
    LocalProtocolError,
    VhostAccessRefused,
    printable,
)
from txamqp091.factory import AMQPClientFactory
from txamqp091.interfaces import AnyCredentials, AnyReactor
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol


def endpoint_from_parameters(
    reactor: AnyReactor, parameters: ConnectionParameters
) -> IStreamClientEndpoint:
    """
    The endpoint that the parameters describe: TCP to any address of the host
    (all are tried), with TLS around it if they say so.

    Use it with ``ClientService``, or in place of `connect` when the protocol
    needs a factory of its own.

    :param reactor: one that has timers, TCP and name resolution.
    :raises txamqp091.errors.InvalidURI: when a certificate file cannot be read, or no
        host can have the name.
    :raises txamqp091.errors.TLSFailed: when the packages for TLS are missing.
    """
    host = ascii_host(parameters.host)
    # There is nothing to resolve in an address: to do so is a third of the cost of a
    # connection.
    kind: type[TCP4ClientEndpoint | TCP6ClientEndpoint | HostnameEndpoint]
    if not is_address(host):
        kind = _NameEndpoint
    else:
        kind = TCP6ClientEndpoint if isIPv6Address(host) else TCP4ClientEndpoint
    endpoint: IStreamClientEndpoint = kind(
        reactor, host, parameters.port_number, timeout=parameters.connection_timeout
    )
    if parameters.tls is None:
        return endpoint
    creator = connection_creator(parameters)
    return wrapClientTLS(creator, endpoint)


class _NameEndpoint(HostnameEndpoint):
    """
    An endpoint for any name that `ascii_host` allows.  Twisted's own refuses names
    with underscores before it asks the resolver.
    """

    @staticmethod
    def _hostAsBytesAndText(host: str | bytes) -> tuple[bool, bytes, str]:
        assert isinstance(host, str)
        return False, host.encode("ascii"), host


def connect(
    reactor: AnyReactor,
    uri_or_parameters: str | bytes | ConnectionParameters,
    *,
    credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
    endpoint: IStreamClientEndpoint | None = None,
) -> Deferred[AMQPProtocol]:
    """
    Connect to a broker, and open AMQP.

    :param reactor: one that has timers, TCP and name resolution.
    :param uri_or_parameters: an ``amqp://`` or ``amqps://`` URI, or
        `ConnectionParameters`.
    :param credentials: as whom to log in, instead of what the first says.
    :param endpoint: what connects, and does TLS, instead of what
        `endpoint_from_parameters` makes of the parameters.

    When the reactor stops, as it does at Ctrl-C, the connection closes in order: its
    consumers end, and so do iterations over deliveries; running handlers and due
    answers have ``close_timeout`` seconds.  A program that needs more time at its end
    uses an `AMQPClientFactory` with an endpoint, or an
    `txamqp091.service.client.AMQPClientService`.

    :returns: fires with the protocol when AMQP is open.  Cancelling it, like
        any failure, drops the connection.  It fails with

        - `txamqp091.errors.InvalidURI` for what cannot be understood,
        - `txamqp091.errors.ConnectFailed` when there is no connection; its
          ``__cause__`` is Twisted's error,
        - `txamqp091.errors.TLSFailed`, one of these, when the broker is not
          who it should be, or TLS cannot be had (it is never done without),
        - `txamqp091.errors.HandshakeTimeout` when it took longer than
          ``handshake_timeout``,
        - `txamqp091.errors.AuthenticationFailed`,
          `txamqp091.errors.VhostAccessRefused` and other kinds of
          `txamqp091.errors.ConnectionClosed` when the broker said no,
        - `txamqp091.errors.RemoteProtocolError` when the peer does not speak
          AMQP 0-9-1.
    """
    connecting = connect_once(
        reactor, uri_or_parameters, credentials=credentials, endpoint=endpoint
    )
    return connecting.addCallback(_closing_at_shutdown)


def _closing_at_shutdown(connection: AMQPProtocol) -> AMQPProtocol:
    close_at_shutdown(connection)
    return connection


def connect_once(
    reactor: AnyReactor,
    uri_or_parameters: str | bytes | ConnectionParameters,
    *,
    credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
    endpoint: IStreamClientEndpoint | None = None,
) -> Deferred[AMQPProtocol]:
    """
    Connect as `connect` does, for services: they close the connection themselves when
    the reactor stops.
    """
    problem: AMQPError | None = None
    try:
        parameters = _parameters(uri_or_parameters, credentials)
        way = endpoint or endpoint_from_parameters(reactor, parameters)
    except AMQPError as error:
        # Without its stack, which has the URI on it.
        problem = error.with_traceback(None)
    except Exception as error:  # such as a trust root that is none
        problem = LocalProtocolError(
            f"the parameters cannot be used: {type(error).__name__}: "
            f"{printable(str(error))}"
        )
    del uri_or_parameters
    if problem is not None:
        return fail(problem)
    begun = _Attempt(parameters, way, AMQPClientFactory(parameters, clock=reactor))
    clock = cast(IReactorTime, reactor)
    return begun.start().addTimeout(
        parameters.handshake_timeout, clock, begun.timed_out
    )


def _parameters(
    uri_or_parameters: str | bytes | ConnectionParameters,
    credentials: AnyCredentials | Sequence[AnyCredentials] | None,
) -> ConnectionParameters:
    if isinstance(uri_or_parameters, ConnectionParameters):
        parameters = uri_or_parameters
    else:
        parameters = ConnectionParameters.from_uri(uri_or_parameters)
    if credentials is None:
        return parameters
    return replace(parameters, credentials=credentials)


class _Attempt:
    """
    One attempt to connect, and how far it has come.
    """

    def __init__(
        self,
        parameters: ConnectionParameters,
        endpoint: IStreamClientEndpoint,
        factory: AMQPClientFactory,
    ):
        self._parameters = parameters
        self._endpoint = endpoint
        self._factory = factory
        self._stage = "TCP has not connected"
        self._cancelled = False

    def start(self) -> Deferred[AMQPProtocol]:
        """
        Start the attempt.  Cancelling the Deferred ends it.
        """
        running = Deferred.fromCoroutine(self._run())

        def cancel(_: object) -> None:
            self._cancelled = True
            running.cancel()

        result: Deferred[AMQPProtocol] = Deferred(cancel)
        running.chainDeferred(result)
        return result

    async def _run(self) -> AMQPProtocol:
        """
        Connect, and wait until AMQP is open; or leave nothing behind.
        """
        try:
            connected = await self._endpoint.connect(self._factory)
        except Exception as error:
            # Cancelled endpoints fail with this or that.
            if self._cancelled:
                raise CancelledError from None
            if isinstance(error, AMQPError):
                raise
            parameters = self._parameters
            peer = f"{parameters.host}:{parameters.port_number}"
            raise translate_failure(error, peer=peer) from error
        protocol = cast(AMQPProtocol, connected)
        try:
            return await protocol.when_open()
        except CancelledError:
            self._stage = "the broker has not opened AMQP"
            if self._parameters.tls and not handshake_completed(protocol.transport):
                self._stage = "the TLS handshake has not completed"
            # Nobody else has it.
            protocol.close()
            raise
        except AMQPError as error:
            if isinstance(error, VhostAccessRefused) and not (
                self._parameters.virtual_host
            ):
                error.add_note(
                    "The virtual host has the empty name, as in a URI that ends in "
                    "'/'. The virtual host '/' is amqp://host or amqp://host/%2F."
                )
            await self._gone(protocol)
            raise

    async def _gone(self, protocol: AMQPProtocol) -> None:
        """
        Wait until the transport of a connection that has ended is closed: who is
        told that there is no connection may rely on that.
        """
        try:
            await protocol.when_closed()
        except CancelledError:
            # The caller has no patience.  Why there is no connection is known.
            cast(ITCPTransport, protocol.transport).abortConnection()
        except AMQPError:
            pass

    def timed_out(
        self, result: AMQPProtocol | Failure, seconds: float
    ) -> AMQPProtocol | Failure:
        """
        What a cancelled attempt fails with when it was us who had no patience.
        """
        if isinstance(result, Failure) and result.check(AMQPError):
            return result
        return Failure(
            HandshakeTimeout(
                f"{self._parameters.display} was not open after {seconds:g} s: "
                f"{self._stage}",
                by_us=True,
            )
        )
