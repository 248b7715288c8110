# -*- test-case-name: txamqp091.test.unit.client.test_credentials -*-
"""
What you may implement in place of ours.

Only that: what is *called* by you is documented where it is defined, and a
handler of deliveries is any callable (see `txamqp091.consumer`).
"""

from __future__ import annotations

__all__ = ["ICredentials"]

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface


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
