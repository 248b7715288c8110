# -*- test-case-name: txamqp091.test.unit.client.test_login -*-
"""
The login of a client: its properties, and the SASL exchange.
"""

from __future__ import annotations

import ipaddress
import platform
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._version import __version__
from txamqp091.credentials import choose
from txamqp091.errors import AMQPError, AuthenticationFailed, LocalProtocolError
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters

__all__ = ["Login", "client_properties"]

_CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


def client_properties(parameters: ConnectionParameters) -> dict[str, Any]:
    """
    The client's properties in ``connection.start-ok``.
    """
    properties: dict[str, Any] = {
        "product": "txamqp091",
        "version": __version__,
        "platform": f"Python {platform.python_version()}",
        "information": "AMQP 0-9-1 for Twisted",
    }
    if parameters.name:
        properties["connection_name"] = parameters.name
    properties.update(parameters.client_properties)
    properties["capabilities"] = {
        **_CAPABILITIES,
        **properties.get("capabilities", {}),
    }
    return properties


class Login:
    """
    One SASL exchange.  Each connection asks the credentials, which can answer later.

    :ivar mechanism: the mechanism that was chosen.
    """

    _log = Logger(namespace="txamqp091.connection")

    def __init__(self, parameters: ConnectionParameters, offered: bytes) -> None:
        """
        :param offered: the mechanisms that the broker offers.
        :raises MechanismNotOffered: none of the credentials has such a mechanism.
        """
        self._credentials: ICredentials = choose(parameters.credentials, offered)
        self.mechanism = self._credentials.mechanism
        self._asked: Deferred[object] | None = None

    def warn_if_exposed(self, host: str, peer: IAddress) -> None:
        """
        Warn when a password is about to cross a network without TLS.
        """
        if self.mechanism in ("PLAIN", "AMQPLAIN") and not _is_local(peer):
            self._log.warn(
                "The password for {host} goes over the network in the clear: use "
                "amqps://",
                host=host,
            )

    def ask(
        self,
        challenge: bytes | None,
        answer: Callable[[bytes], object],
        give_up: Callable[[AMQPError], object],
    ) -> None:
        """
        Ask for the response to a challenge, which is None at first.

        :param answer: called with the response.
        :param give_up: called with the error if there is none.
        """

        respond = cast("Callable[..., Deferred[object]]", self._credentials.respond)
        asked = maybeDeferred(respond, challenge)
        given = asked.addCallbacks(self._checked, self._explained).addCallback(answer)
        self._asked = given.addErrback(lambda failure: give_up(_bare(failure)))

    def cancel(self) -> None:
        """
        Give up a response that is awaited.
        """
        if self._asked is not None:
            try:
                self._asked.cancel()
            except Exception:  # the canceller's, which is not ours
                self._log.failure("The credentials could not be cancelled")

    def _checked(self, response: object) -> bytes:
        if isinstance(response, bytes):
            return response
        # Not shown: it may be the password itself.
        raise LocalProtocolError(
            f"{type(self._credentials).__name__} responded with "
            f"{type(response).__name__} instead of bytes"
        )

    def _explained(self, failure: Failure) -> bytes:
        error = failure.value
        if not isinstance(error, AMQPError):
            # Its words are not repeated: they may have a secret in them.
            refused = AuthenticationFailed(
                f"the credentials could not be had: {type(error).__name__} "
                f"from {type(self._credentials).__name__}",
                reply_code=0,
                by_us=True,
            )
            refused.__cause__ = error
            error = refused
        raise error


def _bare(failure: Failure) -> AMQPError:
    """
    The error without its traceback, whose frames have the secret among their variables.
    """
    error = failure.value
    if not isinstance(error, AMQPError):
        # Such as client properties that are no mapping.
        refused = LocalProtocolError(f"cannot log in: {type(error).__name__}: {error}")
        refused.__cause__ = error
        error = refused
    return error.with_traceback(None)


def _is_local(peer: IAddress) -> bool:
    """
    Whether a peer is on this machine.
    """
    host = getattr(peer, "host", None)
    try:
        return host is None or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
