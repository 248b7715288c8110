# -*- test-case-name: txamqp091.test.unit.daemon.test_broker_login -*-
"""
The broker's URI and the password: from the command line, the environment, the file of
settings, or systemd's credentials.  The first of these places that has a URI decides
where to connect.

This module handles secrets.  It keeps none, and no error has one, neither in its text
nor in the variables of its traceback: see `without_frames`.
"""

from __future__ import annotations

__all__ = [
    "LOGIN_VARIABLES",
    "LogIn",
    "Logins",
    "RenewedLogins",
    "connections",
    "located",
    "without_frames",
]

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from txamqp091 import _uri
from txamqp091.credentials import AMQPlainCredentials, PlainCredentials
from txamqp091.daemon.settings_schema import Problem
from txamqp091.errors import InvalidURI, printable
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters

_log = Logger(namespace="txamqp091.daemon")

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

#: The folder of systemd's credentials, and the names of ours in it.
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
URI_CREDENTIAL = "amqp-uri"
PASSWORD_CREDENTIAL = "amqp-password"

P = ParamSpec("P")
R = TypeVar("R")


def without_frames(function: Callable[P, R]) -> Callable[P, R]:
    """
    Decorate a function that has secrets in its variables: its exceptions lose the
    traceback and the context, which would show these variables to debuggers and error
    trackers.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failed = error
        del args, kwargs
        failed.__cause__ = failed.__context__ = None
        try:
            raise failed.with_traceback(None)
        finally:
            del failed

    return call


@dataclass(frozen=True)
class Logins:
    """
    Where and how to log in.

    :ivar parameters: the parameters of each node of the broker.
    :ivar password_in_argv: whether the password is on the command line.
    """

    parameters: tuple[ConnectionParameters, ...]
    password_in_argv: bool


#: Finds the nodes, with the passwords that are valid now.
LogIn = Callable[[], Sequence[ConnectionParameters]]


@implementer(ICredentials)
class _Renewed:
    """
    Credentials that are read again for each login.
    """

    def __init__(self, present: ICredentials, logins: RenewedLogins) -> None:
        self.present = present
        self._logins = logins

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
        The user name, if there is one.
        """
        return getattr(self.present, "username", None)

    def respond(self, challenge: bytes | None) -> bytes | Deferred[bytes]:
        """
        See `ICredentials.respond`.
        """
        if challenge is None:
            self._logins.read_again()
        return self.present.respond(challenge)


class RenewedLogins:
    """
    Connections whose user names and passwords are read again for each login, as
    passwords in files may have been rotated.

    :ivar parameters: the parameters to connect with.
    """

    def __init__(
        self, parameters: Sequence[ConnectionParameters], log_in: LogIn | None = None
    ) -> None:
        """
        :param log_in: finds the parameters again; None if they cannot change.
        """
        self._log_in = log_in
        self.parameters = tuple(
            replace(
                each,
                credentials=tuple(_Renewed(one, self) for one in each.credentials),
            )
            for each in parameters
        )

    def read(self) -> bool | None:
        """
        Find the parameters again, and use their credentials from the next login on.

        :returns: whether the credentials have changed; None if they lead to another
            broker, virtual host or mechanism, so that nothing was changed.
        :raises Problem: something is wrong with them.
        """
        if self._log_in is None:
            return False
        found = self._log_in()
        if [*map(_place, self.parameters)] != [*map(_place, found)]:
            return None
        changed = False
        for mine, theirs in zip(self.parameters, found, strict=True):
            for old, new in zip(mine.credentials, theirs.credentials, strict=True):
                assert isinstance(old, _Renewed)
                changed = changed or old.present != new
                old.present = new
        return changed

    def read_again(self) -> None:
        """
        Do that for a login: with the last credentials if it fails, as a file that is
        being replaced may be missing for a moment.
        """
        try:
            self.read()
        except ValueError as problem:
            _log.warn(
                "Logging in with the password that was read before: {problem}",
                problem=printable(str(problem), 500),
            )


def _place(parameters: ConnectionParameters) -> tuple[object, ...]:
    return (
        parameters.host,
        parameters.port_number,
        parameters.virtual_host,
        parameters.tls is None,
        [each.mechanism for each in parameters.credentials],
    )


# -- the places ------------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class _Source:
    """
    One of the places, and what its URI, its file with a URI and its password are
    called there.
    """

    names: tuple[str, str, str]
    uris: Sequence[str] = ()
    uri_path: str | None = None
    password: str | None = None
    password_path: str | None = None

    @property
    def has_uri(self) -> bool:
        return bool(self.uris or self.uri_path)

    @property
    def has_password(self) -> bool:
        return bool(self.password or self.password_path)

    def find_uris(self) -> tuple[str, Sequence[str]]:
        """
        What the URIs are called, and the URIs.
        """
        uri, uri_file, _ = self.names
        if not self.uri_path:
            return uri, self.uris
        if self.uris:
            raise Problem(uri_file, f"{uri} is given too: leave out one of them")
        return uri_file, _read(self.uri_path, uri_file).split()

    def find_password(self) -> str:
        """
        The password.
        """
        if self.password_path:
            return _read(self.password_path, self.names[2])
        return self.password or ""


@without_frames
def connections(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    folder: str,
    name: str,
    start: str = "",
) -> Logins:
    """
    Find out where and how to log in.

    :param flags: ``uri`` and ``password_file``, as far as they were given.
    :param file: ``uri`` (a sequence), ``uri_file`` and ``password_file``.
    :param folder: the folder of the file: its relative paths begin there, unless
        systemd has a credential of that name.
    :param name: the name of the connection, if the URI does not have one.
    :param start: the folder in which relative paths of flags and variables begin; by
        default the current one.
    :raises Problem: there is no URI, or something is wrong with it or the password.
    """
    sources = _sources(flags, environ, file, folder, start)
    place = next((n for n, each in enumerate(sources) if each.has_uri), None)
    if place is None:
        raise Problem("", f"--uri is missing, and {URI_VARIABLE} is not set")
    origin, uris = sources[place].find_uris()
    if not uris:
        raise Problem(origin, "has no URI")
    try:
        parameters = [
            _named(ConnectionParameters.from_uri(each), name) for each in uris
        ]
        inside = any(_uri.parse(each).password is not None for each in uris)
    except InvalidURI as error:
        raise Problem(origin, str(error)) from None
    # A password inside the URI overrides passwords of later places.
    candidates = sources[: place + 1] if inside else sources
    source = next((each for each in candidates if each.has_password), None)
    if source is None:
        return Logins(tuple(parameters), inside and origin == "--uri")
    called = source.names[2]
    if inside and source is sources[place] and origin != URI_VARIABLE:
        raise Problem(origin, f"has a password, and there is {called} too")
    password = source.find_password()
    try:
        return Logins(
            tuple(_with_password(each, password) for each in parameters), False
        )
    except InvalidURI as error:
        raise Problem(called, str(error)) from None


def _sources(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    file: Mapping[str, object],
    folder: str,
    start: str,
) -> list[_Source]:
    def path_of(name: str) -> str | None:
        path = file.get(name)
        if not isinstance(path, str) or not path:
            return None
        return located(path, folder, environ)

    def given(path: str | None) -> str | None:
        return os.path.join(start, path) if path else None

    uris = file.get("uri")
    return [
        _Source(
            names=("--uri", "--uri-file", "--password-file"),
            uris=[flags["uri"]] if flags.get("uri") else [],
            password_path=given(flags.get("password_file")),
        ),
        _Source(
            names=(
                URI_VARIABLE,
                URI_FILE_VARIABLE,
                PASSWORD_FILE_VARIABLE
                if environ.get(PASSWORD_FILE_VARIABLE)
                else PASSWORD_VARIABLE,
            ),
            uris=environ.get(URI_VARIABLE, "").split(),
            uri_path=given(environ.get(URI_FILE_VARIABLE)),
            password=environ.get(PASSWORD_VARIABLE),
            password_path=given(environ.get(PASSWORD_FILE_VARIABLE)),
        ),
        _Source(
            names=("uri", "uri_file", "password_file"),
            uris=list(uris) if isinstance(uris, list | tuple) else [],
            uri_path=path_of("uri_file"),
            password_path=path_of("password_file"),
        ),
        _Source(
            names=(
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
    The path of a credential of systemd, if there is such a credential.
    """
    folder = environ.get(CREDENTIALS_VARIABLE)
    path = Path(folder or "", name)
    return str(path) if folder and path.is_file() else None


def located(path: str, folder: str, environ: Mapping[str, str]) -> str:
    """
    The path of a file that the file of settings names.

    :param folder: the folder of the file of settings.
    """
    return _credential(path, environ) or os.path.join(folder, path)


def _named(parameters: ConnectionParameters, name: str) -> ConnectionParameters:
    return parameters if parameters.name else replace(parameters, name=name)


def _with_password(
    parameters: ConnectionParameters, password: str
) -> ConnectionParameters:
    """
    The same parameters with another password.

    :raises InvalidURI: no mechanism takes a password, or the password is malformed.
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
    The content of a file without the end of its last line.
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
