# -*- test-case-name: txamqp091.test.test_credentials -*-
"""
What you may implement in place of ours.

Only that: what is *called* by you is documented where it is defined, and a
handler of deliveries is any callable (see `txamqp091.consumer`).
"""

from __future__ import annotations

__all__ = ["ICredentials", "IServiceObserver"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from txamqp091.protocol import AMQPProtocol


class ICredentials(Interface):
    """
    How a client proves who it is, by one SASL mechanism.

    One object serves any number of connections.  It is asked anew for each of
    them, so that a password or token that has been changed, or is fetched
    when it is needed, is taken up by the next reconnect.  To do that, write
    your own; a provider of tokens for RabbitMQ's OAuth 2 plugin is::

        @implementer(ICredentials)
        class TokenCredentials:
            mechanism = "PLAIN"

            def __init__(self, fetch):
                self._fetch = fetch  # () -> Deferred[bytes]

            def respond(self, challenge):
                if challenge is not None:
                    raise CommandInvalid("PLAIN knows no challenge")
                return self._fetch().addCallback(lambda token: b"\\0\\0" + token)

    The objects are compared with what the broker offers by `mechanism`, in
    the order in which they were configured; see
    `txamqp091.credentials.choose`.  Give them a ``__repr__`` without the
    secret: what cannot be seen cannot be logged.
    """

    mechanism: str = Attribute(
        """
        The mechanism's name as in connection.start, in capitals, such as
        ``"PLAIN"``.
        """
    )

    def respond(challenge: bytes | None) -> bytes | Deferred[bytes]:
        """
        Say what goes into connection.start-ok, or answer a challenge.

        A failure, raised or through the Deferred, ends the connection before
        it is open, and is what the one who connects gets to see.  The
        Deferred is cancelled when the connection is lost meanwhile, or takes
        too long.

        :param challenge: what the broker sent in connection.secure; ``None``
            for the initial response.
        :returns: the response, not encoded any further, now or later.
        :raises txamqp091.errors.CommandInvalid: when the mechanism knows no
            challenge, and there is one.
        """


class IServiceObserver(Interface):
    """
    Who wants to know what becomes of an
    `txamqp091.service.client.AMQPClientService`.  All of it is told in the reactor's
    thread; what the methods return is ignored, and what they raise is logged.
    """

    def connecting(address: str) -> None:
        """
        An address is tried.

        :param address: as a URI, without the password.
        """

    def ready(connection: AMQPProtocol, outcomes: Sequence[Any]) -> None:
        """
        AMQP is open, and the topology has been declared, as far as it could be.
        Channels and consumers come back next.

        :param outcomes: the `txamqp091.service.declaring.Outcome` of each entity.
        """

    def blocked(reason: str) -> None:
        """
        The broker takes no messages for now.
        """

    def unblocked() -> None:
        """
        It takes messages again.
        """

    def lost(reason: BaseException) -> None:
        """
        A connection that was ready has ended, not by us.
        """

    def recovering(attempt: int, delay: float, reason: BaseException) -> None:
        """
        There will be another attempt.

        :param attempt: its number, since there was a connection that lasted.
        :param delay: in how many seconds.
        :param reason: why the last attempt has failed, or the connection has ended.
        """

    def failed(reason: BaseException) -> None:
        """
        The service has given up, as its `RetryPolicy` said.

        :param reason: why the last attempt has failed.
        """

    def subscribed(consumer: Any) -> None:
        """
        The broker gives a consumer messages: for the first time, or again.

        :param consumer: the `txamqp091.service.subscriptions.RecoveringConsumer`.
        """

    def unsubscribed(consumer: Any, reason: BaseException, delay: float | None) -> None:
        """
        It does not, or not any more, though there is a connection; that may pass by
        itself.

        :param reason: why.
        :param delay: in how many seconds there will be another attempt, at the least;
            None, if there will be none.
        """

    def refused(consumer: Any, reason: BaseException, delay: float | None) -> None:
        """
        It does not, and will not until somebody changes something: there is no such
        queue, or it is not for this user, or not to be consumed from like that.

        :param reason: why.
        :param delay: as in `unsubscribed`.
        """
