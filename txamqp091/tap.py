# -*- test-case-name: txamqp091.test.unit.daemon.test_tap -*-
"""
The command line of ``twistd amqp-consumer``: what it takes, and the service made of it.

What goes wrong here is known before anything is started, and ends the command with
one line on stderr and a status of `ExitStatus`.
"""

from __future__ import annotations

__all__ = ["Options", "makeService"]

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from textwrap import indent
from typing import Any, ClassVar

from twisted.logger import Logger
from twisted.python import usage

from txamqp091.consumer import DEFAULT_PREFETCH, Handler
from txamqp091.daemon.broker_login import (
    CREDENTIALS_VARIABLE,
    LOGIN_VARIABLES,
    PASSWORD_VARIABLE,
    URI_FILE_VARIABLE,
    URI_VARIABLE,
    Logins,
    connections,
    located,
)
from txamqp091.daemon.builder import check_parts, load_handlers, make_daemon
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.handler_loading import HandlerNotFound
from txamqp091.daemon.logs import choose_observer
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_loading import (
    CONFIG_VARIABLE,
    PREFIX,
    load,
    unknown_variables,
)
from txamqp091.daemon.settings_schema import Problem
from txamqp091.daemon.topology_diff import make_comparison
from txamqp091.errors import printable
from txamqp091.parameters import ConnectionParameters

_log = Logger(namespace="txamqp091.daemon")

#: The options that stand for a setting, and which.
_FLAGS = {
    "prefetch": "consumers.prefetch",
    "shutdown-timeout": "shutdown_timeout",
    "give-up-after": "give_up_after",
    "admin": "admin",
    "log-format": "log.format",
    "log-level": "log.level",
}

#: What is said of a consumer that is in no file.
_CONSUMER = ("queue", "handler")


class _Problem(Exception):
    """
    What is wrong, and which status that ends with.
    """

    def __init__(self, problem: str, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(problem)
        self.status = status


class Options(usage.Options):
    """
    The options, and, once they are parsed, what they mean.

    The URI and the password are not kept as they were written, since options are
    shown by tracebacks.

    :ivar settings: all settings.
    :ivar logins: the connection.
    :ivar handlers: the handlers, by the labels of their consumers.
    :ivar strange: variables that look like ours, and are not.
    """

    synopsis = "--config FILE | --queue NAME --handler MODULE:FUNCTION [options]"
    longdesc = (
        "Calls functions for the messages of queues.  A message is acknowledged when "
        "its function has returned, or when the Deferred or coroutine that it returned "
        "has finished.  If it fails, the message goes back to the queue the first "
        "time, and is rejected the second time, unless the file says something else.  "
        "SIGTERM ends the daemon in order; a second one, without waiting for running "
        "handlers.  SIGHUP has the file read again."
    )

    optParameters: ClassVar[list[list[object]]] = [
        ["config", "c", None,
         f"The file with the settings, in TOML; or set {CONFIG_VARIABLE}."],
        ["uri", None, None, f"The broker: amqp:// or amqps://; or set {URI_VARIABLE}."],
        ["queue", None, None, "The queue to consume from, without a file."],
        ["handler", None, None, "The function, as package.module:function."],
        ["prefetch", None, None,
         ("How many messages of a queue may be here at a time; 0 is no limit.  "
          f"By default {DEFAULT_PREFETCH}.")],
        ["shutdown-timeout", None, None,
         ("How many seconds running handlers have to finish after a SIGTERM.  "
          "By default 30.")],
        ["give-up-after", None, None,
         "After how many seconds without a connection to end.  By default never."],
        ["admin", None, None,
         ("Where /live, /ready and /metrics are, as an endpoint such as "
          "tcp:9419:interface=127.0.0.1.")],
        ["log-format", None, None, "text or json."],
        ["log-level", None, None, "debug, info, warn, error or critical."],
        ["password-file", None, None,
         (f"A file with the password; or set {PASSWORD_VARIABLE}.  What is on the "
         "command line, every user of the machine can read.")],
    ]  # fmt: skip

    optFlags: ClassVar[list[list[object]]] = [
        ["declare", None, "Make the queue, durable, if it is not there."],
        ["check", None, "See whether the settings are right, and end."],
        ["diff", None, "Compare what would be declared with the broker, and end."],
    ]

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """
        :param environ: the environment; by default the process's own.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        # Not the variables themselves: this object must not have the password on it.
        self._environ: Callable[[], Mapping[str, str]] = lambda: (
            os.environ if environ is None else environ
        )
        self._login_flags: dict[str, str] | None = None
        self.settings: Settings
        self.logins: Logins
        self.handlers: dict[str, Handler]
        self.strange: list[str] = []

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
        status = ExitStatus.USAGE
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            problem = str(error)
        except _Problem as error:
            problem, status = str(error), error.status
        except Problem as error:
            problem = str(error)
            if not problem.startswith("--") or problem.startswith(_LOGIN_FLAGS):
                status = ExitStatus.CONFIG
        except HandlerNotFound as error:
            problem, status = str(error), ExitStatus.NO_HANDLER
        else:
            if self["check"]:
                self._say_all_is_well()
            return
        # Neither the stack nor this object has the password on it now.
        self.pop("uri", None)
        sys.stderr.write(f"amqp-consumer: {printable(problem, 1000)}\n")
        raise SystemExit(int(status))

    def _say_all_is_well(self) -> None:
        sys.stdout.write(f"amqp-consumer: {self.logins.parameters[0].display}\n")
        for each in self.settings.consumers:
            sys.stdout.write(f"  {each.label}: {each.queue} -> {each.handler}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Twisted: check what was parsed, and find the handlers.
        """
        login_flags, self["uri"] = {"uri": self["uri"]}, None
        if self["password-file"] is not None:
            login_flags["password_file"] = self["password-file"]
        environ = self._environ()
        self._settings_variables = {
            name: value
            for name, value in environ.items()
            if name.startswith(PREFIX) and name not in LOGIN_VARIABLES
        }
        if self["config"] is None:
            self["config"] = environ.get(CONFIG_VARIABLE)
        settings = self._load()
        self.settings = self._cleared(settings)
        self.strange = unknown_variables(environ, settings)
        path = self["config"]
        if path is None and not login_flags["uri"] and not _has_uri(environ):
            raise _Problem(f"--uri is missing, and {URI_VARIABLE} is not set")
        try:
            self.logins = self._connections(settings, login_flags)
            if not self.logins.password_in_argv:
                self._login_flags = login_flags
        finally:
            del settings, login_flags, environ
        self["uri"] = self.logins.parameters[0].display
        # The twistd command does not look there, and it is where people write their
        # first handler.  Last, so that nothing that is installed can be shadowed.
        folder = os.getcwd()
        if folder not in sys.path:
            sys.path.append(folder)
        try:
            self.handlers = load_handlers(self.settings)
        except HandlerNotFound as error:
            raise HandlerNotFound(self._named(str(error))) from None
        except Problem as problem:
            if path is None:
                raise _Problem(self._named(str(problem))) from None
            raise Problem(f"{path}: {problem.path}", problem.text) from None
        self._check_parts()
        choose_observer(self.parent, self.settings.log)

    def _connections(self, settings: Settings, flags: Mapping[str, str]) -> Logins:
        names = ", ".join(printable(each.queue) for each in settings.consumers)
        file = {
            "uri": settings.uri,
            "uri_file": settings.uri_file,
            "password_file": settings.password_file,
        }
        name = settings.name or f"amqp-consumer {names}"
        del settings
        try:
            return connections(flags, self._environ(), file, self._folder, name)
        except Problem as problem:
            if problem.path not in file:
                raise
            raise Problem(f"{self['config']}: {problem.path}", problem.text) from None
        finally:
            del flags, file

    @property
    def _folder(self) -> str:
        """
        Where the paths of the file begin.
        """
        path = self["config"]
        return "" if path is None else os.path.dirname(os.path.abspath(path))

    def _cleared(self, settings: Settings) -> Settings:
        """
        The same without the secrets, and with the place of the token.
        """
        token = settings.token
        if token is not None and token.file:
            path = located(token.file, self._folder, self._environ())
            token = replace(token, file=path)
        consumers = tuple(
            replace(each, offset_file=os.path.join(self._folder, each.offset_file))
            if each.offset_file
            else each
            for each in settings.consumers
        )
        return replace(settings, uri=(), token=token, consumers=consumers)

    def _check_parts(self) -> None:
        reactor: Any = None
        if self.settings.admin:
            from twisted.internet import reactor
        try:
            check_parts(self.settings, reactor)
        except Problem as problem:
            if self["config"] is None:
                raise
            raise Problem(f"{self['config']}: {problem.path}", problem.text) from None

    def _named(self, problem: str) -> str:
        """
        A problem with a handler, by the name of what it came from.
        """
        if self["config"] is None:
            return problem.replace("consumers[0].handler", "--handler", 1)
        return f"{self['config']}: {problem}"

    def load(self) -> Settings:
        """
        Read the settings again.
        """
        return self._cleared(self._load())

    def log_in(self) -> Sequence[ConnectionParameters]:
        """
        Find the broker again, with the passwords that count now: files may have
        changed.

        :raises Problem: there is something wrong.
        """
        if self._login_flags is None:  # it was on the command line
            return self.logins.parameters
        return self._connections(self._load(), self._login_flags).parameters

    def _load(self) -> Settings:
        path, consumer = self["config"], None
        if path is None:
            for name in _CONSUMER:
                if not self[name]:
                    raise _Problem(
                        f"--{name} is missing, and so is --config; "
                        "--help lists the options"
                    )
            consumer = {name: self[name] for name in _CONSUMER}
            # As the first one of a user's life may not be a quorum queue.
            consumer |= {"declare": bool(self["declare"]), "queue_type": "default"}
        else:
            for name in (*_CONSUMER, "declare"):
                if self[name]:
                    raise _Problem(f"--{name} is for use without --config")
        flags = {
            setting: self[flag]
            for flag, setting in _FLAGS.items()
            if self[flag] is not None
        }
        return load(path, self._settings_variables, flags, consumer)


#: The flags that are wrong as a setting is, not as a command line is.
_LOGIN_FLAGS = ("--uri:", "--password-file:")


def _has_uri(environ: Mapping[str, str]) -> bool:
    names = (URI_VARIABLE, URI_FILE_VARIABLE, CREDENTIALS_VARIABLE)
    return any(environ.get(name) for name in names)


def makeService(options: Options) -> Daemon:
    """
    Twisted: the service that the options describe.
    """
    from twisted.internet import reactor

    if options.logins.password_in_argv:
        _log.warn(
            "The password is on the command line, where every user of this machine "
            "can read it: use {variable} or --password-file instead",
            variable=PASSWORD_VARIABLE,
        )
    for name in options.strange:
        _log.warn("There is no such variable: {name}", name=name)
    if options["diff"]:
        return make_comparison(reactor, options.settings, options.logins.parameters)
    return _make_daemon(options, reactor)


def _make_daemon(options: Options, reactor: Any) -> Daemon:
    return make_daemon(
        reactor,
        options.settings,
        options.logins.parameters,
        options.handlers,
        options.load,
        log_in=options.log_in,
    )
