# -*- test-case-name: txamqp091.test.unit.client.test_credentials -*-
"""
The SASL mechanisms that RabbitMQ has, and the choice among them.

What is sent is decided here; when it is sent is the handshake's business.  To
bring a mechanism or a source of secrets of your own, see
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
    Refuse a challenge, for mechanisms that are done with one response.
    """
    if challenge is not None:
        raise CommandInvalid(
            f"connection.secure is out of place: {mechanism} knows no challenge"
        )


class _Password:
    """
    A user name and a password.  The password shows nowhere.
    """

    __slots__ = ("_password", "username")

    mechanism = ""

    def __init__(self, username: str, password: str):
        self.username = username
        self._password = ""
        problem = self._problem(username, password)
        if problem:
            # Whoever prints the variables of this frame shall not find it.
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

    They are as safe as the connection: use TLS, unless the broker is on the
    same machine.
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
    Credentials that consist of the name of their mechanism.
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
    Be who the TLS client certificate says, by EXTERNAL (RFC 4422, appendix A).

    RabbitMQ needs the plugin ``rabbitmq_auth_mechanism_ssl`` for it, and
    `txamqp091.parameters.TLSParameters` with ``certfile`` and ``keyfile``.
    """

    __slots__ = ()

    mechanism = "EXTERNAL"


@implementer(ICredentials)
class AnonymousCredentials(_Nothing):
    """
    Be nobody, by ANONYMOUS (RFC 4505), where the broker lets nobody in.
    """

    __slots__ = ()

    mechanism = "ANONYMOUS"


def choose(credentials: Iterable[ICredentials], offered: bytes) -> ICredentials:
    """
    The first of the configured credentials that the broker takes.

    The order is ours, not the broker's, and nothing is tried that was not
    configured: who gives a password is not made to use a certificate
    (EXTERNAL), nor another encoding (AMQPLAIN), by what is on offer.

    :param offered: the ``mechanisms`` of connection.start: names, divided by
        spaces.
    :raises MechanismNotOffered: when there is none.  Nothing was sent.
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
