# -*- test-case-name: txamqp091.test.unit.daemon.test_tap -*-
"""
The command line of ``twistd amqp-consumer``: its options, and the service made of them.

An error here is known before anything is started.  It ends the command with one line on
stderr and an `ExitStatus`.
"""

from __future__ import annotations

__all__ = ["Options", "makeService"]

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from textwrap import indent
from typing import Any, ClassVar, NoReturn

from twisted.logger import Logger
from twisted.python import usage

import twisted
from txamqp091._version import __version__
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
    without_frames,
)
from txamqp091.daemon.builder import (
    broker_places,
    check_parts,
    load_handlers,
    make_daemon,
)
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
from txamqp091.errors import printable
from txamqp091.parameters import ConnectionParameters

_log = Logger(namespace="txamqp091.daemon")

#: The options that set a setting.
_FLAGS = {
    "prefetch": "consumers.prefetch",
    "dead-letter-queue": "consumers.dead_letter_queue",
    "on-error": "consumers.on_error",
    "shutdown-timeout": "shutdown_timeout",
    "give-up-after": "give_up_after",
    "admin": "admin",
    "log-format": "log.format",
    "log-level": "log.level",
}

#: The options that replace a file with one consumer.
_CONSUMER = ("queue", "handler")

#: ``twistd --pidfile`` if nobody has set it.
_PID_FILE = "twistd.pid"


class _Problem(Exception):
    """
    An error in the command line, and the exit status for it.
    """

    def __init__(self, problem: str, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(problem)
        self.status = status


class Options(usage.Options):
    """
    The options, and, once they are parsed, their meaning.

    The URI and the password are not kept as they were written, since tracebacks show
    options.

    :ivar settings: all settings, without secrets.
    :ivar logins: where and how to log in.
    :ivar handlers: the handlers, by the labels of their consumers.
    :ivar unknown: environment variables with our prefix that set nothing.
    """

    synopsis = "--config FILE | --queue NAME --handler MODULE:FUNCTION [options]"
    longdesc = (
        "Calls functions for the messages of queues.  The daemon acknowledges a "
        "message when its function has returned, or when the Deferred or coroutine "
        "that the function returned has finished.  If the function fails, the daemon "
        "does what on_error says.  SIGTERM stops the daemon, which waits for running "
        "handlers; a second SIGTERM ends the waiting.  SIGHUP reads the file again.  "
        "SIGUSR1 opens the log file again."
    )

    optParameters: ClassVar[list[list[object]]] = [
        ["config", "c", None,
         f"File with the settings, in TOML; or set {CONFIG_VARIABLE}."],
        ["uri", None, None,
         f"URI of the broker, amqp:// or amqps://; or set {URI_VARIABLE}."],
        ["queue", None, None, "Queue to consume from, without a file."],
        ["handler", None, None, "Function to call, as package.module:function."],
        ["prefetch", None, None,
         ("Maximum number of unacknowledged messages per consumer; 0 means "
          f"unlimited.  Default: {DEFAULT_PREFETCH}.")],
        ["dead-letter-queue", None, None,
         ("Queue for messages that failed.  Default, with --declare: the name of the "
          "queue and .dead.")],
        ["on-error", None, None,
         ("once-more, reject, drop or halt.  Default: once-more.  drop discards failed "
          "messages.")],
        ["shutdown-timeout", None, None,
         "Seconds that running handlers have to finish after a SIGTERM.  Default: 30."],
        ["give-up-after", None, None,
         ("Seconds without a connection after which the daemon ends.  Default: it "
          "never gives up.")],
        ["admin", None, None,
         ("Endpoint that serves /live, /ready and /metrics, such as "
          "tcp:9419:interface=127.0.0.1.")],
        ["log-format", None, None, "text or json."],
        ["log-level", None, None, "debug, info, warn, error or critical."],
        ["password-file", None, None,
         (f"File with the password; or set {PASSWORD_VARIABLE}.  Every user of the "
          "machine can read the command line.")],
    ]  # fmt: skip

    optFlags: ClassVar[list[list[object]]] = [
        ["declare", None, "Declare the queue, durable, if it does not exist."],
        ["check", None, "Check the settings, and end."],
        ["diff", None, "Compare what would be declared with the broker, and end."],
    ]

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """
        :param environ: the environment; by default the process's own.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        # A function, as this object must not refer to a password.
        self._environ: Callable[[], Mapping[str, str]] = lambda: (
            os.environ if environ is None else environ
        )
        self._login_flags: dict[str, str] | None = None
        self.settings: Settings
        self.logins: Logins
        self.handlers: dict[str, Handler]
        self.unknown: list[str] = []
        # twistd may change to another folder before a path is used.
        self._start = os.getcwd()

    def getUsage(self, width: int | None = None) -> str:
        """
        Twisted: the text of ``--help``.
        """
        statuses = "\n".join(f"{each:3}  {each.meaning}" for each in ExitStatus)
        text: str = super().getUsage(width)
        return f"{text}\nExit status:\n{indent(statuses, '  ')}\n"

    def opt_version(self) -> NoReturn:
        """
        Display the version, and exit.
        """
        sys.stdout.write(
            f"txamqp091 {__version__} (Twisted {twisted.__version__}, "
            f"Python {platform.python_version()})\n"
        )
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Twisted: parse the command line, or end with one line that names the error.
        (``twistd`` would print all of the help, and exit with 1.)
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
                self._check()
            return
        # From here on neither the stack nor this object has the password.
        self.pop("uri", None)
        sys.stderr.write(f"amqp-consumer: {printable(problem, 1000)}\n")
        raise SystemExit(int(status))

    def _check(self) -> NoReturn:
        """
        Print the outcome of ``--check``.
        """
        lines = [f"amqp-consumer: {self.logins.parameters[0].display}"]
        for each in self.settings.consumers:
            lines.append(f"  {each.label}: {each.queue} -> {each.handler}")
        for line in lines:
            sys.stdout.write(f"{printable(line, 1000)}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Twisted: check what was parsed, and find the handlers.
        """
        self._check_text()
        self._find_settings()
        self["uri"] = self.logins.parameters[0].display
        # The twistd command does not look into the current folder, where people write
        # their first handler.  Last, so that nothing that is installed is shadowed.
        if self._start not in sys.path:
            sys.path.append(self._start)
        try:
            self.handlers = load_handlers(self.settings)
        except HandlerNotFound as error:
            raise HandlerNotFound(self._named(str(error))) from None
        except Problem as problem:
            if self["config"] is None:
                raise _Problem(self._named(str(problem))) from None
            raise self._in_file(problem) from None
        self._check_parts()
        runner = self.parent
        choose_observer(runner, self.settings.log, to_stderr=bool(self["diff"]))
        if (
            runner is not None
            and runner.get("nodaemon")
            and (runner.get("pidfile") == _PID_FILE)
        ):
            # In the foreground a supervisor knows the process.  In a container, a file
            # that was left behind names the PID of every later start: 1.
            runner["pidfile"] = ""

    def _check_text(self) -> None:
        """
        Refuse text that is not UTF-8.
        """
        flags = {f"--{name}": value for name, value in self.items()}
        environ = self._environ()
        variables = {each: environ[each] for each in environ if each.startswith(PREFIX)}
        wrong = [
            name
            for name, value in (flags | variables).items()
            if isinstance(value, str) and not _is_unicode(name + value)
        ]
        if wrong:
            self["uri"] = None
            raise _Problem(f"{wrong[0]}: is not UTF-8", ExitStatus.CONFIG)

    @without_frames
    def _find_settings(self) -> None:
        """
        Read the settings, and find the broker.
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
        path = self["config"] or environ.get(CONFIG_VARIABLE)
        self["config"] = os.path.join(self._start, path) if path else None
        settings = self._load()
        self.settings = self._cleared(settings)
        self.unknown = unknown_variables(environ, settings)
        if not path and not login_flags["uri"] and not _has_uri(environ):
            raise _Problem(f"--uri is missing, and {URI_VARIABLE} is not set")
        self.logins = self._connections(settings, login_flags)
        if not self.logins.password_in_argv:
            self._login_flags = login_flags

    @without_frames
    def _connections(self, settings: Settings, flags: Mapping[str, str]) -> Logins:
        names = ", ".join(printable(each.queue) for each in settings.consumers)
        file = {
            "uri": settings.uri,
            "uri_file": settings.uri_file,
            "password_file": settings.password_file,
        }
        name = settings.name or f"amqp-consumer {names}"
        environ = self._environ()
        try:
            return connections(flags, environ, file, self._folder, name, self._start)
        except Problem as problem:
            if problem.path not in file:
                raise
            raise self._in_file(problem) from None

    def _in_file(self, problem: Problem) -> Problem:
        """
        A problem with the file, with the name of the file.
        """
        return Problem(f"{self['config']}: {problem.path}", problem.text)

    @property
    def _folder(self) -> str:
        """
        The folder in which relative paths of the file begin.
        """
        path = self["config"]
        return self._start if path is None else os.path.dirname(path)

    def _cleared(self, settings: Settings) -> Settings:
        """
        The same settings without secrets, and with absolute paths.
        """
        environ = self._environ()
        token = settings.token
        if token is not None and token.file:
            token = replace(token, file=located(token.file, self._folder, environ))
        # systemd's folder for what a service keeps.
        state = environ.get("STATE_DIRECTORY", "").partition(":")[0] or self._folder
        consumers = tuple(
            replace(each, offset_file=os.path.join(state, each.offset_file))
            if each.offset_file
            else each
            for each in settings.consumers
        )
        return replace(settings, uri=(), token=token, consumers=consumers)

    def _check_parts(self) -> None:
        reactor: Any = None
        if self.settings.admin or self.settings.endpoint:
            from twisted.internet import reactor
        try:
            check_parts(self.settings, reactor)
            broker_places(reactor, self.settings, self.logins.parameters)
        except Problem as problem:
            if self["config"] is None:
                raise
            raise self._in_file(problem) from None

    def _named(self, problem: str) -> str:
        """
        A problem with a handler, with the name of its source.
        """
        if self["config"] is None:
            return problem.replace("consumers[0].handler", "--handler", 1)
        return f"{self['config']}: {problem}"

    @without_frames
    def load(self) -> Settings:
        """
        Read the settings again.

        :raises Problem: they are wrong.
        """
        return self._cleared(self._load())

    @without_frames
    def log_in(self) -> Sequence[ConnectionParameters]:
        """
        Find the broker again, with the passwords that are valid now.

        :raises Problem: something is wrong with them.
        """
        if self._login_flags is None:  # the password was on the command line
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
            # The virtual host's own type: a first broker may have no quorum queues.
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


#: The flags whose values are settings: what is wrong with them is no wrong usage.
_LOGIN_FLAGS = ("--uri:", "--password-file:")


def _has_uri(environ: Mapping[str, str]) -> bool:
    names = (URI_VARIABLE, URI_FILE_VARIABLE, CREDENTIALS_VARIABLE)
    return any(environ.get(name) for name in names)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def makeService(options: Options) -> Daemon:
    """
    Twisted: the service that the options describe.
    """
    from twisted.internet import reactor

    if options.logins.password_in_argv:
        _log.warn(
            "The password is on the command line, which every user of this machine can "
            "read: use {variable} or --password-file instead",
            variable=PASSWORD_VARIABLE,
        )
    for name in options.unknown:
        _log.warn("This environment variable sets nothing: {name}", name=name)
    if options["diff"]:
        from txamqp091.daemon.topology_diff import make_comparison

        return make_comparison(reactor, options.settings, options.logins.parameters)
    return make_daemon(
        reactor,
        options.settings,
        options.logins.parameters,
        options.handlers,
        options.load,
        log_in=options.log_in,
    )
