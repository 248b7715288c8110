# -*- test-case-name: txamqp091.test.unit.cli.test_program -*-
"""
A command's connection: `LoginOptions` say where to log in and how, as the settings and
the environment variables of the daemon do, and a `Session` is what a command gets.
"""

from __future__ import annotations

__all__ = ["Job", "LoginOptions", "Refused", "Session", "connect"]

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from txamqp091.cli.exit_status import CommandStatus
from txamqp091.cli.streams import Streams
from txamqp091.daemon.broker_login import (
    LOGIN_VARIABLES,
    Logins,
    connections,
    located,
    without_frames,
)
from txamqp091.daemon.builder import broker_places, token_credentials
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_loading import CONFIG_VARIABLE, PREFIX, load
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Addresses
from txamqp091.service.retry import RetryPolicy

_DEFAULT_URI = "amqp://localhost"
_TOKEN_FILE_VARIABLE = f"{PREFIX}TOKEN_FILE"


class Refused(Exception):
    """
    A command does not do what it was asked for; the text says why.

    :ivar status: the exit status.
    """

    def __init__(
        self, text: str, status: CommandStatus = CommandStatus.REFUSED
    ) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, kw_only=True, repr=False)
class LoginOptions:
    """
    The options that all commands have.
    """

    config: str | None = None
    uri: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    srv: str | None = None
    endpoint: str | None = None


@dataclass(kw_only=True)
class Session:
    """
    What a command works with.

    :ivar settings: the settings of the file; the defaults without one.
    """

    reactor: Any
    connection: AMQPProtocol
    parameters: ConnectionParameters
    settings: Settings
    streams: Streams


#: What a command does; it returns the exit status.
Job = Callable[[Session], Awaitable[int]]


@without_frames
def _find(options: LoginOptions, environ: Mapping[str, str]) -> tuple[Settings, Logins]:
    """
    Read the settings, and find the broker.

    :raises Problem: something is wrong with them.
    """
    start = os.getcwd()
    path = options.config or environ.get(CONFIG_VARIABLE)
    folder = os.path.dirname(os.path.join(start, path)) if path else start
    variables = {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in LOGIN_VARIABLES
    }
    if options.token_file:
        variables[_TOKEN_FILE_VARIABLE] = os.path.join(start, options.token_file)
    flags = {
        name: value
        for name, value in (("srv", options.srv), ("endpoint", options.endpoint))
        if value is not None
    }
    settings = load(path, variables, flags, without_consumers=True)
    token = settings.token
    if token is not None and token.file:
        token = replace(token, file=located(token.file, folder, environ))
    given = {
        name: value
        for name, value in (
            ("uri", options.uri),
            ("password_file", options.password_file),
        )
        if value
    }
    file: dict[str, object] = {
        "uri": settings.uri or (() if settings.uri_file else (_DEFAULT_URI,)),
        "uri_file": settings.uri_file,
        "password_file": settings.password_file,
    }
    name = settings.name or "txamqp091"
    logins = connections(given, environ, file, folder, name, start)
    return replace(settings, uri=(), token=token), logins


async def connect(
    reactor: Any,
    options: LoginOptions,
    environ: Mapping[str, str],
    streams: Streams,
) -> Session:
    """
    Connect once: to the first node that answers.

    :raises Problem: something is wrong with the settings.
    :raises AMQPError: there is no connection.
    """
    settings, logins = _find(options, environ)
    if logins.password_in_argv:
        streams.say(
            "the password is on the command line, which every user of this machine can "
            "read: use --password-file or TXAMQP091_PASSWORD"
        )
    changes: dict[str, Any] = {}
    token = token_credentials(reactor, settings, logins.parameters)
    if token is not None:
        changes["credentials"] = token
    addresses = Addresses(
        broker_places(reactor, settings, logins.parameters),
        RetryPolicy(),
        parameters=logins.parameters[0],
        adapt=lambda each: replace(each, **changes),
    )
    connection, _ = await addresses.connect(reactor, lambda address: None)
    return Session(
        reactor=reactor,
        connection=connection,
        parameters=logins.parameters[0],
        settings=settings,
        streams=streams,
    )
