# -*- test-case-name: txamqp091.test.unit.client.test_credentials -*-
"""
Credentials for the SASL mechanisms of RabbitMQ, and the choice among them.

For a mechanism or a source of secrets of your own, see
`txamqp091.interfaces.ICredentials`.
"""

from __future__ import annotations

__all__ = [
    "AMQPlainCredentials",
    "AnonymousCredentials",
    "ExternalCredentials",
    "PlainCredentials",
    "choose",
]

from collections.abc import Iterable

from zope.interface import implementer

from txamqp091.errors import CommandInvalid, InvalidURI, MechanismNotOffered, printable
from txamqp091.interfaces import ICredentials


def _bytes(text: str) -> bytes:
    # What a URI's percent-escapes say may be no UTF-8; it goes as it came.
    return text.encode("utf-8", "surrogateescape")


def _first_only(mechanism: str, challenge: bytes | None) -> None:
    """
    Refuse a challenge, for mechanisms with one response only.
    """
    if challenge is not None:
        raise CommandInvalid(
            f"connection.secure is out of place: {mechanism} knows no challenge"
        )


class _Password:
    """
    A user name and a password.  No repr shows the password.
    """

    __slots__ = ("_password", "username")

    mechanism = ""

    def __init__(self, username: str, password: str):
        self.username = username
        self._password = ""
        problem = self._problem(username, password)
        if problem:
            # A traceback can show the variables of this frame.
            del password
            raise InvalidURI(problem)
        self._password = password

    @staticmethod
    def _problem(username: str, password: str) -> str:
        for name, value in (("user name", username), ("password", password)):
            if not isinstance(value, str):
                return f"the {name} is not str but {type(value).__name__}"
            if "\0" in value:
                # PLAIN separates its parts by it (RFC 4616 §2).
                return f"the {name} has a NUL character, which cannot be sent"
            try:
                _bytes(value)
            except UnicodeEncodeError:
                return f"the {name} has a character that UTF-8 cannot encode"
        return ""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.username, self._password) == (other.username, other._password)

    def __hash__(self) -> int:
        return hash((type(self), self.username, self._password))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.username!r}, ***)"


@implementer(ICredentials)
class PlainCredentials(_Password):
    """
    User name and password, by PLAIN (RFC 4616).

    Use TLS unless the broker is on the same machine: the password is sent as it is.
    """

    __slots__ = ()

    mechanism = "PLAIN"

    def respond(self, challenge: bytes | None) -> bytes:
        """
        See `ICredentials.respond`.
        """
        _first_only(self.mechanism, challenge)
        return b"\0" + _bytes(self.username) + b"\0" + _bytes(self._password)


@implementer(ICredentials)
class AMQPlainCredentials(_Password):
    """
    User name and password, by RabbitMQ's AMQPLAIN: for a broker that does not
    offer PLAIN.
    """

    __slots__ = ()

    mechanism = "AMQPLAIN"

    def respond(self, challenge: bytes | None) -> bytes:
        """
        See `ICredentials.respond`.
        """
        _first_only(self.mechanism, challenge)
        # A field table without the 4 bytes of its length (as RabbitMQ wants
        # it), of two long strings.  It is written out here since an error
        # out of the general encoder would have the password on its stack.
        return b"".join(
            bytes((len(name),)) + name + b"S" + len(value).to_bytes(4) + value
            for name, value in (
                (b"LOGIN", _bytes(self.username)),
                (b"PASSWORD", _bytes(self._password)),
            )
        )


class _Nothing:
    """
    Credentials without data of their own.
    """

    __slots__ = ()

    mechanism = ""

    def respond(self, challenge: bytes | None) -> bytes:
        """
        See `ICredentials.respond`.
        """
        _first_only(self.mechanism, challenge)
        return b""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) or NotImplemented

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@implementer(ICredentials)
class ExternalCredentials(_Nothing):
    """
    The user that the TLS client certificate names, by EXTERNAL (RFC 4422, appendix A).

    RabbitMQ needs the plugin ``rabbitmq_auth_mechanism_ssl``, and the client needs
    `txamqp091.parameters.TLSParameters` with ``certfile`` and ``keyfile``.
    """

    __slots__ = ()

    mechanism = "EXTERNAL"


@implementer(ICredentials)
class AnonymousCredentials(_Nothing):
    """
    The anonymous user, by ANONYMOUS (RFC 4505), where the broker allows that.
    """

    __slots__ = ()

    mechanism = "ANONYMOUS"


def choose(credentials: Iterable[ICredentials], offered: bytes) -> ICredentials:
    """
    Choose the first of the configured credentials whose mechanism the broker offers.

    The client's order counts, not the broker's.  A mechanism that was not configured is
    never used: the broker's offer cannot replace a password by a certificate (EXTERNAL)
    or by another encoding (AMQPLAIN).

    :param offered: the ``mechanisms`` of ``connection.start``: names, divided by
        spaces.
    :raises MechanismNotOffered: there is none.  Nothing was sent.
    """
    configured = list(credentials)
    on_offer = offered.upper().split()
    for each in configured:
        if each.mechanism.upper().encode("ascii", "replace") in on_offer:
            return each
    ours = ", ".join(each.mechanism for each in configured) or "nothing"
    theirs = printable(", ".join(name.decode("ascii", "replace") for name in on_offer))
    raise MechanismNotOffered(
        f"the broker offers {theirs or 'nothing'} to log in by; "
        f"the credentials are for {ours}"
    )
