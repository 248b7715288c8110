# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
Who may use the in-memory broker, and what for.

A `User` has a password and, for each virtual host, three patterns of names: what it may
configure, write to and read from.  A `Users` knows the users, and checks what a
client sends to log in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hmac import compare_digest
from re import Pattern

from txamqp091.errors import DecodeError
from txamqp091.testing._broker.refusals import Refused
from txamqp091.wire import spec
from txamqp091.wire.types import decode_table

__all__ = ["PERMISSIONS", "Users", "User"]

#: The kinds of permission, in the order in which patterns are given.
PERMISSIONS = ("configure", "write", "read")


@dataclass
class User:
    """
    Somebody who may log in.

    :ivar name: unique in the broker.
    :ivar password: kept as it is, and shown nowhere.
    :ivar rights: by virtual host, and by kind: a pattern, to be found in names.
    """

    name: str
    password: str = field(repr=False)
    rights: dict[str, dict[str, Pattern[str]]] = field(default_factory=dict, repr=False)

    def may(self, permission: str, vhost: str, name: str) -> bool:
        """
        Whether the user may do something to a queue or an exchange.

        :param permission: one of `PERMISSIONS`.
        """
        rights = self.rights.get(vhost)
        return rights is not None and rights[permission].search(name) is not None


class Users:
    """
    The users of a broker.
    """

    def __init__(self) -> None:
        self._users: dict[str, User] = {}

    def add(self, name: str, password: str) -> User:
        """
        Make a user, or change the password of one.
        """
        known = self._users.get(name)
        if known is not None:
            known.password = password
            return known
        made = self._users[name] = User(name, password)
        return made

    def permit(
        self, name: str, vhost: str, configure: str, write: str, read: str
    ) -> None:
        """
        Say what a user may do in a virtual host.

        :raises KeyError: there is no such user.
        """
        patterns = dict(zip(PERMISSIONS, (configure, write, read), strict=True))
        # RabbitMQ takes an empty pattern for nothing at all.
        self._users[name].rights[vhost] = {
            permission: re.compile(pattern or "^$")
            for permission, pattern in patterns.items()
        }

    def forbid(self, name: str, vhost: str) -> None:
        """
        Keep a user out of a virtual host.

        :raises KeyError: there is no such user.
        """
        self._users[name].rights.pop(vhost, None)

    def authenticate(self, mechanism: str, response: bytes) -> User:
        """
        Find the user that a response is from.

        :raises Refused: 403, it is from nobody.
        """
        try:
            name, password = _RESPONSES[mechanism](response)
        except (KeyError, ValueError, DecodeError):
            raise _refusal(mechanism) from None
        user = self._users.get(name)
        if user is None or not _same(user.password, password):
            raise _refusal(mechanism)
        return user


def _same(one: str, other: str) -> bool:
    return compare_digest(
        one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape")
    )


def _refusal(mechanism: str) -> Refused:
    return Refused(
        spec.ACCESS_REFUSED,
        f"Login was refused using authentication mechanism {mechanism}. For details "
        "see the broker logfile.",
        connection=True,
    )


def _plain(response: bytes) -> tuple[str, str]:
    _, name, password = response.decode("utf-8", "surrogateescape").split("\0")
    return name, password


def _amqplain(response: bytes) -> tuple[str, str]:
    # A field table without its length.
    data = len(response).to_bytes(4, "big") + response
    table, _ = decode_table(data, 0, len(data))
    return str(table["LOGIN"]), str(table["PASSWORD"])


def _anonymous(response: bytes) -> tuple[str, str]:
    return "guest", "guest"


_RESPONSES = {"PLAIN": _plain, "AMQPLAIN": _amqplain, "ANONYMOUS": _anonymous}
