# -*- test-case-name: txamqp091.test.unit.client.test_credentials -*-
"""
The interfaces that a program can implement.

A handler of deliveries is any callable: see `txamqp091.consumer`.

Type checkers know interfaces of ``zope.interface`` with a plugin only, such as
``mypy-zope``.  So public signatures have the types `AnyCredentials` and `AnyReactor`,
which every type checker understands.
"""

from __future__ import annotations

__all__ = ["AnyCredentials", "AnyReactor", "IAsyncioClock", "ICredentials"]

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from txamqp091.parameters import ConnectionParameters


class ICredentials(Interface):
    """
    How a client proves who it is, by one SASL mechanism.

    One object serves any number of connections.  The connection asks it each time, so
    that the next reconnect uses a password or token that has changed, or fetches one.
    A provider of tokens for RabbitMQ's OAuth 2 plugin is::

        @implementer(ICredentials)
        class TokenCredentials:
            mechanism = "PLAIN"

            def __init__(self, fetch):
                self._fetch = fetch  # () -> Deferred[bytes]

            def respond(self, challenge):
                if challenge is not None:
                    raise CommandInvalid("PLAIN knows no challenge")
                return self._fetch().addCallback(lambda token: b"\\0\\0" + token)

    Of several credentials, the first whose `mechanism` the broker offers is used; see
    `txamqp091.credentials.choose`.  Give the class a ``__repr__`` without the secret,
    so that no log shows it.
    """

    mechanism: str = Attribute(
        """
        The mechanism's name as in connection.start, in capitals, such as
        ``"PLAIN"``.
        """
    )

    def respond(challenge: bytes | None) -> bytes | Deferred[bytes]:
        """
        Make the response for ``connection.start-ok``, or answer a challenge.

        A failure, raised or through the Deferred, ends the connection before it is
        open, and is the error of the attempt to connect.  The Deferred is cancelled
        when the connection is lost meanwhile, or takes too long.

        :param challenge: what the broker sent in ``connection.secure``; None for the
            initial response.
        :returns: the response, not encoded any further; or a Deferred or a coroutine
            for it.
        :raises txamqp091.errors.CommandInvalid: when the mechanism knows no challenge,
            and there is one.
        """


class IAsyncioClock(Interface):
    """
    The clock of a client on asyncio's loop, in place of a reactor; an ``IReactorTime``,
    too.

    `txamqp091.endpoint.endpoint_from_parameters` takes its endpoints, and workers run
    coroutines as tasks of its loop.
    """

    loop: AbstractEventLoop = Attribute("""The loop.""")

    def endpoint_from_parameters(
        parameters: ConnectionParameters,
    ) -> IStreamClientEndpoint:
        """
        Make the endpoint that connects by the loop, and does TLS if
        ``parameters.tls`` is set.

        :raises txamqp091.errors.InvalidURI: when a certificate file cannot be read, or
            no host can have the name.
        """


class _Credentials(Protocol):
    """
    What `ICredentials` says, for type checkers.
    """

    @property
    def mechanism(self) -> str:
        """
        See `ICredentials.mechanism`.
        """

    def respond(self, challenge: bytes | None, /) -> bytes | Awaitable[bytes]:
        """
        See `ICredentials.respond`.
        """


class _Time(Protocol):
    """
    What ``IReactorTime`` says, as far as it is used, for type checkers.
    """

    def seconds(self) -> float:
        """
        See ``IReactorTime``.
        """

    def callLater(
        self, delay: float, callable: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """
        See ``IReactorTime``.
        """


#: An object that provides `ICredentials`.
AnyCredentials: TypeAlias = "ICredentials | _Credentials"

#: A reactor, or Twisted's ``Clock``: an object that provides ``IReactorTime``.
AnyReactor: TypeAlias = "IReactorTime | _Time"
