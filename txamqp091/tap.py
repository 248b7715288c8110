# -*- test-case-name: txamqp091.test.test_tap -*-
"""
The command line of ``twistd amqp-consumer``: what it takes, and the service made of it.

What goes wrong here is known before anything is started, and ends the command with
one line on stderr and a status of `ExitStatus`.
"""

from __future__ import annotations

__all__ = ["Options", "makeService"]

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import indent
from typing import Any, ClassVar

from twisted.logger import Logger
from twisted.python import usage

from txamqp091 import _uri
from txamqp091.consumer import DEFAULT_PREFETCH, Handler
from txamqp091.credentials import AMQPlainCredentials, PlainCredentials
from txamqp091.errors import InvalidURI, printable
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.service.consumer import ConsumerService
from txamqp091.service.daemon import Daemon, ExitStatus
from txamqp091.service.handlers import HandlerNotFound, load_handler

_log = Logger()

#: The environment variables that are read.
URI_VARIABLE = "TXAMQP091_URI"
PASSWORD_VARIABLE = "TXAMQP091_PASSWORD"


class _Problem(usage.UsageError):
    """
    What is wrong with the command line, and which status that ends with.
    """

    def __init__(self, problem: str, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(problem)
        self.status = status


class Options(usage.Options):
    """
    The options, and, once they are parsed, what they mean.

    The URI and the password are not kept as they were written, since options are
    shown by tracebacks.

    :ivar parameters: the connection.
    :ivar handler: the handler.
    :ivar password_in_argv: whether the password is on the command line.
    """

    synopsis = "--queue NAME --handler MODULE:FUNCTION [options]"
    longdesc = (
        "Calls a function for each message of a queue.  The message is acknowledged "
        "when the function has returned, or when the Deferred or coroutine that it "
        "returned has finished.  If it fails, the message goes back to the queue the "
        "first time, and is rejected the second time.  SIGTERM ends the daemon in "
        "order; a second one, without waiting for running handlers."
    )

    optParameters: ClassVar[list[list[object]]] = [
        ["uri", None, None, f"The broker: amqp:// or amqps://; or set {URI_VARIABLE}."],
        ["queue", None, None, "The queue to consume from."],
        ["handler", None, None, "The function, as package.module:function."],
        ["prefetch", None, str(DEFAULT_PREFETCH),
         "How many messages may be in work at a time; 0 is no limit."],
        ["shutdown-timeout", None, "30",
         "How many seconds running handlers have to finish after a SIGTERM."],
        ["password-file", None, None,
         (f"A file with the password; or set {PASSWORD_VARIABLE}.  What is on the "
         "command line, every user of the machine can read.")],
    ]  # fmt: skip

    optFlags: ClassVar[list[list[object]]] = [
        ["declare", None, "Make the queue, durable, if it is not there."],
    ]

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """
        :param environ: the environment; by default the process's own.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._environ = os.environ if environ is None else environ
        self.parameters: ConnectionParameters
        self.handler: Handler
        self.password_in_argv = False

    def getUsage(self, width: int | None = None) -> str:
        """
        Twisted: the text of ``--help``.
        """
        statuses = "\n".join(f"{each:3}  {each.meaning}" for each in ExitStatus)
        text: str = super().getUsage(width)
        return f"{text}\nExit status:\n{indent(statuses, '  ')}\n"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Twisted: understand the command line, or end with a line that says what is
        wrong with it.  (``twistd`` would print all of the help, and exit with 1.)
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            status = error.status if isinstance(error, _Problem) else ExitStatus.USAGE
            problem = str(error)
        else:
            return
        # Neither the stack nor this object has the password on it now.
        self.pop("uri", None)
        sys.stderr.write(f"amqp-consumer: {problem}\n")
        raise SystemExit(int(status))

    def postOptions(self) -> None:
        """
        Twisted: check what was parsed, and find the handler.
        """
        for name in ("queue", "handler"):
            if not self[name]:
                raise _Problem(f"--{name} is missing; --help lists the options")
        self["prefetch"] = _whole_number("prefetch", self["prefetch"], 0xFFFF)
        self["shutdown-timeout"] = _seconds(
            "shutdown-timeout", self["shutdown-timeout"]
        )
        self.parameters = self._connection()
        self.handler = _handler(self["handler"])

    def _connection(self) -> ConnectionParameters:
        """
        The parameters, with the password from wherever it is.
        """
        uri, self["uri"] = self["uri"], None
        environ, self._environ = self._environ, {}
        origin = "--uri"
        if not uri:
            uri, origin = environ.get(URI_VARIABLE), URI_VARIABLE
        if not uri:
            raise _Problem(f"--uri is missing, and {URI_VARIABLE} is not set")
        problem = ""
        try:
            parameters = ConnectionParameters.from_uri(uri)
            in_uri = _uri.parse(uri).password is not None
        except InvalidURI as error:
            problem = str(error)
        del uri
        if problem:
            raise _Problem(f"{origin}: {problem}", ExitStatus.CONFIG)
        self["uri"] = parameters.display
        if not parameters.name:
            name = f"amqp-consumer {printable(self['queue'])}"
            parameters = replace(parameters, name=name)
        self.password_in_argv = in_uri and origin == "--uri"
        if self["password-file"] is not None:
            if self.password_in_argv:
                raise _Problem("the password is in --uri and in --password-file")
            password = _read_password(self["password-file"])
            return _with_password(parameters, password, "--password-file")
        # What is on the command line is stronger than the environment.
        password = environ.get(PASSWORD_VARIABLE, "")
        if password and not self.password_in_argv:
            return _with_password(parameters, password, PASSWORD_VARIABLE)
        return parameters


def _with_password(
    parameters: ConnectionParameters, password: str, origin: str
) -> ConnectionParameters:
    """
    The same, with another password.
    """
    changed: list[ICredentials] = []
    found = False
    problem = ""
    try:
        for each in parameters.credentials:
            if isinstance(each, PlainCredentials | AMQPlainCredentials):
                found = True
                each = type(each)(each.username, password)
            changed.append(each)
    except InvalidURI as error:
        problem = str(error)
    del password
    if not found:
        problem = "the URI's auth_mechanism takes no password"
    if problem:
        raise _Problem(f"{origin}: {problem}", ExitStatus.CONFIG)
    return replace(parameters, credentials=changed)


def _read_password(path: str) -> str:
    """
    The password in a file, without the end of its line.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            password = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _Problem(
            f"--password-file: {path} cannot be read: {why}", ExitStatus.CONFIG
        ) from None
    password = password.removesuffix("\n").removesuffix("\r")
    if not password:
        raise _Problem(f"--password-file: {path} is empty", ExitStatus.CONFIG)
    return password


def _whole_number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= most):
        raise _Problem(f"--{name} is {text!r}, not a whole number from 0 to {most}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise _Problem(f"--{name} is {text!r}, not a number of seconds")
    return seconds


def _handler(name: str) -> Handler:
    """
    Import the handler.
    """
    # The twistd command does not look there, and it is where people write their
    # first handler.  Last, so that nothing that is installed can be shadowed.
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return load_handler(name)
    except ValueError as error:
        raise _Problem(f"--handler: {error}") from None
    except HandlerNotFound as error:
        raise _Problem(f"--handler: {error}", ExitStatus.NO_HANDLER) from None


def makeService(options: Options) -> Daemon:
    """
    Twisted: the service that the options describe.
    """
    from twisted.internet import reactor

    if options.password_in_argv:
        _log.warn(
            "The password is on the command line, where every user of this machine "
            "can read it: use {variable} or --password-file instead",
            variable=PASSWORD_VARIABLE,
        )
    return _make_daemon(options, reactor)


def _make_daemon(options: Options, reactor: Any) -> Daemon:
    daemon = Daemon(reactor)
    daemon.add(
        ConsumerService(
            reactor,
            options.parameters,
            options["queue"],
            options.handler,
            prefetch=options["prefetch"],
            declare=bool(options["declare"]),
            shutdown_timeout=options["shutdown-timeout"],
        )
    )
    return daemon
