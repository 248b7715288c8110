# -*- test-case-name: txamqp091.test.unit.client.test_endpoint -*-
"""
One attempt to connect: `connect`, and the endpoint for `ConnectionParameters`.

TLS and its errors are in `txamqp091._tls`; connecting again is in
`txamqp091.service`.
"""

from __future__ import annotations

__all__ = ["connect", "connect_once", "endpoint_from_parameters"]

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

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
from txamqp091.interfaces import AnyCredentials, AnyReactor, IAsyncioClock
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol


def endpoint_from_parameters(
    reactor: AnyReactor, parameters: ConnectionParameters
) -> IStreamClientEndpoint:
    """
    Make the endpoint for parameters: TCP to the host, all of whose addresses are tried,
    and TLS if ``parameters.tls`` is set.

    Use the endpoint with ``ClientService``, or when the protocol needs a factory of its
    own.

    :param reactor: one that has timers, TCP and name resolution.
    :raises txamqp091.errors.InvalidURI: when a certificate file cannot be read, or no
        host can have the name.
    :raises txamqp091.errors.TLSFailed: when the packages for TLS are missing.
    """
    if IAsyncioClock.providedBy(reactor):
        own: IStreamClientEndpoint = cast(Any, reactor).endpoint_from_parameters(
            parameters
        )
        return own
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
    :param credentials: the user to log in as, in place of the parameters'; one object
        or several.
    :param endpoint: the endpoint that connects and does TLS, in place of that of
        `endpoint_from_parameters`.

    When the reactor stops, as it does at Ctrl-C, the connection closes in order: its
    consumers end, and so do iterations over deliveries; running handlers and due
    answers have ``close_timeout`` seconds.  A program that needs more time at its end
    uses an `AMQPClientFactory` with an endpoint, or an
    `txamqp091.service.client.AMQPClientService`.

    :returns: fires with the protocol when AMQP is open.  Cancelling it drops the
        connection, as a failure does.  It fails with

        - `txamqp091.errors.InvalidURI` when the URI, a parameter or a certificate file
          is not valid,
        - `txamqp091.errors.ConnectFailed` when there is no connection; its
          ``__cause__`` is Twisted's error,
        - `txamqp091.errors.TLSFailed`, a kind of ``ConnectFailed``, when TLS fails or
          the certificate is not valid for the host,
        - `txamqp091.errors.HandshakeTimeout` when AMQP is not open within
          ``handshake_timeout``,
        - `txamqp091.errors.AuthenticationFailed`,
          `txamqp091.errors.VhostAccessRefused`, `txamqp091.errors.LimitReached` and
          other kinds of `txamqp091.errors.ConnectionClosed` when the broker refuses,
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
    One attempt to connect, and its stage.
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

        def settled(outcome: AMQPProtocol | Failure) -> None:
            # An endpoint of asyncio ends after its cancellation, not during it.
            if not result.called:
                result.callback(outcome)
            elif not isinstance(outcome, Failure):
                outcome.close()

        result: Deferred[AMQPProtocol] = Deferred(cancel)
        running.addBoth(settled)
        return result

    async def _run(self) -> AMQPProtocol:
        """
        Connect, and wait until AMQP is open.  A failure leaves nothing behind.
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
        Wait until the transport of a connection that has ended is closed, so that the
        failure means that there is no connection.
        """
        try:
            await protocol.when_closed()
        except CancelledError:
            # The caller gives up; the reason is known.
            cast(ITCPTransport, protocol.transport).abortConnection()
        except AMQPError:
            pass

    def timed_out(
        self, result: AMQPProtocol | Failure, seconds: float
    ) -> AMQPProtocol | Failure:
        """
        Replace the failure of an attempt that ``handshake_timeout`` has cancelled.
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
