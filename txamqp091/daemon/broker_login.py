# -*- test-case-name: txamqp091.test.unit.daemon.test_broker_login -*-
"""
Where the broker is, and as whom to log in: as flags say, or the environment, or the
file, or the credentials that systemd passes on, in this order of strength.

Here are secrets.  Nothing here keeps one, shows one, or puts one into an error; and
where an error is raised, none is left in a variable.
"""

from __future__ import annotations

__all__ = ["LOGIN_VARIABLES", "Logins", "RenewedLogins", "connections", "located"]

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txamqp091 import _uri
from txamqp091.credentials import AMQPlainCredentials, PlainCredentials
from txamqp091.daemon.settings_schema import Problem
from txamqp091.errors import InvalidURI
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters

URI_VARIABLE = "TXAMQP091_URI"
URI_FILE_VARIABLE = "TXAMQP091_URI_FILE"
PASSWORD_VARIABLE = "TXAMQP091_PASSWORD"
PASSWORD_FILE_VARIABLE = "TXAMQP091_PASSWORD_FILE"

#: The environment variables that are read here.
LOGIN_VARIABLES = (
    URI_VARIABLE,
    URI_FILE_VARIABLE,
    PASSWORD_VARIABLE,
    PASSWORD_FILE_VARIABLE,
)

#: Where systemd puts the credentials of a service, and what ours are called there.
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
URI_CREDENTIAL = "amqp-uri"
PASSWORD_CREDENTIAL = "amqp-password"


@dataclass(frozen=True)
class Logins:
    """
    What was found.

    :ivar parameters: one connection's for each node of the broker.
    :ivar password_in_argv: whether the password is on the command line.
    """

    parameters: tuple[ConnectionParameters, ...]
    password_in_argv: bool


@implementer(ICredentials)
class _Renewed:
    """
    Credentials that can become others, for the next connection.
    """

    def __init__(self, present: ICredentials) -> None:
        self.present = present

    def __repr__(self) -> str:
        return repr(self.present)

    @property
    def mechanism(self) -> str:
        """
        See `ICredentials.mechanism`.
        """
        return self.present.mechanism

    @property
    def username(self) -> str | None:
        """
        The user name, if there is any.
        """
        return getattr(self.present, "username", None)

    def respond(self, challenge: bytes | None) -> bytes | Deferred[bytes]:
        """
        See `ICredentials.respond`.
        """
        return self.present.respond(challenge)


class RenewedLogins:
    """
    Connections whose user names and passwords can be changed.

    :ivar parameters: those to connect with.
    """

    def __init__(self, parameters: Sequence[ConnectionParameters]) -> None:
        self.parameters = tuple(
            replace(each, credentials=tuple(map(_Renewed, each.credentials)))
            for each in parameters
        )

    def leads_to(self, found: Sequence[ConnectionParameters]) -> bool:
        """
        Whether these are the same places, and the same ways to log in.
        """
        return [*map(_place, self.parameters)] == [*map(_place, found)]

    def renew(self, found: Sequence[ConnectionParameters]) -> bool:
        """
        Log in as these do, the next time.

        :returns: whether that is another way.
        """
        changed = False
        for mine, theirs in zip(self.parameters, found, strict=True):
            for old, new in zip(mine.credentials, theirs.credentials, strict=True):
                assert isinstance(old, _Renewed)
                changed = changed or old.present != new
                old.present = new
        return changed


def _place(parameters: ConnectionParameters) -> tuple[object, ...]:
    return (
        parameters.host,
        parameters.port_number,
        parameters.virtual_host,
        parameters.tls is None,
        [each.mechanism for each in parameters.credentials],
    )


class _Source:
    """
    One of the places, and what it calls its settings.
    """

    def __init__(
        self,
        names: tuple[str, str, str],
        *,
        uris: Sequence[str] = (),
        uri_path: str | None = None,
        password: str | None = None,
        password_path: str | None = None,
    ) -> None:
        self.uri_name, self.uri_file_name, self.password_name = names
        self._uris = list(uris)
        self._uri_path = uri_path
        self._password = password
        self._password_path = password_path

    @property
    def has_uri(self) -> bool:
        return bool(self._uris or self._uri_path)

    @property
    def has_password(self) -> bool:
        return bool(self._password or self._password_path)

    def take_uris(self) -> tuple[str, list[str]]:
        """
        What they are called, and what they are; once.
        """
        uris, self._uris = self._uris, []
        if not self._uri_path:
            return self.uri_name, uris
        if uris:
            del uris
            raise Problem(self.uri_file_name, f"there is {self.uri_name} too")
        text = _read(self._uri_path, self.uri_file_name)
        return self.uri_file_name, text.split()

    def take_password(self) -> str:
        """
        The password, once.
        """
        password, self._password = self._password, None
        if self._password_path:
            return _read(self._password_path, self.password_name)
        return password or ""


def connections(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    folder: str,
    name: str,
) -> Logins:
    """
    How to connect.

    :param flags: ``uri`` and ``password_file``, as far as they were given.
    :param file: ``uri`` (a sequence), ``uri_file`` and ``password_file``.
    :param folder: where the file is; its relative paths begin there, unless systemd has
        a credential of that name.
    :param name: what RabbitMQ is to call the connection, if the URI does not say.
    :raises Problem: there is no URI, or something is wrong with what there is.
    """
    sources = _sources(flags, environ, file, folder)
    place = next((n for n, each in enumerate(sources) if each.has_uri), None)
    if place is None:
        raise Problem("", f"--uri is missing, and {URI_VARIABLE} is not set")
    origin, uris = sources[place].take_uris()
    parameters: list[ConnectionParameters] = []
    problem = "there is none" if not uris else ""
    inside = False
    while uris and not problem:
        try:
            parameters.append(_named(ConnectionParameters.from_uri(uris[0]), name))
            inside = inside or _uri.parse(uris[0]).password is not None
        except InvalidURI as error:
            problem = str(error)
        del uris[0]
    del uris
    if problem:
        raise Problem(origin, problem)
    strongest = sources[: place + 1] if inside else sources
    source = next((each for each in strongest if each.has_password), None)
    if source is not None:
        if inside and source is sources[place] and origin != URI_VARIABLE:
            raise Problem(
                origin, f"the password is in it, and in {source.password_name}"
            )
        password = source.take_password()
        try:
            parameters = [_with_password(each, password) for each in parameters]
        except InvalidURI as error:
            problem = str(error)
        del password
        if problem:
            raise Problem(source.password_name, problem)
    return Logins(tuple(parameters), inside and origin == "--uri" and source is None)


def _sources(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    folder: str,
) -> list[_Source]:
    def path_of(name: str) -> str | None:
        path = file.get(name)
        if not isinstance(path, str) or not path:
            return None
        return located(path, folder, environ)

    uris = file.get("uri")
    return [
        _Source(
            ("--uri", "--uri-file", "--password-file"),
            uris=[flags["uri"]] if flags.get("uri") else [],
            password_path=flags.get("password_file"),
        ),
        _Source(
            (
                URI_VARIABLE,
                URI_FILE_VARIABLE,
                PASSWORD_FILE_VARIABLE
                if environ.get(PASSWORD_FILE_VARIABLE)
                else PASSWORD_VARIABLE,
            ),
            uris=environ.get(URI_VARIABLE, "").split(),
            uri_path=environ.get(URI_FILE_VARIABLE),
            password=environ.get(PASSWORD_VARIABLE),
            password_path=environ.get(PASSWORD_FILE_VARIABLE),
        ),
        _Source(
            ("uri", "uri_file", "password_file"),
            uris=list(uris) if isinstance(uris, list | tuple) else [],
            uri_path=path_of("uri_file"),
            password_path=path_of("password_file"),
        ),
        _Source(
            (
                f"the credential {URI_CREDENTIAL}",
                f"the credential {URI_CREDENTIAL}",
                f"the credential {PASSWORD_CREDENTIAL}",
            ),
            uri_path=_credential(URI_CREDENTIAL, environ),
            password_path=_credential(PASSWORD_CREDENTIAL, environ),
        ),
    ]


def _credential(name: str, environ: Mapping[str, str]) -> str | None:
    """
    Where systemd has put a credential, if it has.
    """
    folder = environ.get(CREDENTIALS_VARIABLE)
    path = Path(folder or "", name)
    return str(path) if folder and path.is_file() else None


def located(path: str, folder: str, environ: Mapping[str, str]) -> str:
    """
    Where a file is that the file of settings names.

    :param folder: where the file of settings is.
    """
    return _credential(path, environ) or os.path.join(folder, path)


def _named(parameters: ConnectionParameters, name: str) -> ConnectionParameters:
    return parameters if parameters.name else replace(parameters, name=name)


def _with_password(
    parameters: ConnectionParameters, password: str
) -> ConnectionParameters:
    """
    The same, with another password.

    :raises InvalidURI: there is no user who could have one, or it cannot be one.
    """
    changed: list[ICredentials] = []
    found = False
    for each in parameters.credentials:
        if isinstance(each, PlainCredentials | AMQPlainCredentials):
            found = True
            each = type(each)(each.username, password)
        changed.append(each)
    if not found:
        raise InvalidURI("the URI's auth_mechanism takes no password")
    return replace(parameters, credentials=changed)


def _read(path: str, name: str) -> str:
    """
    What is in a file, without the end of its line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Problem(name, f"{path} cannot be read: {why}") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Problem(name, f"{path} is empty")
    return text
