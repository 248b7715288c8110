# -*- test-case-name: txamqp091.test.unit.daemon.test_logs -*-
"""
What a line of the log looks like, and which events make one.

``twistd`` and ``twist`` set logging up before a plugin is started; so it is while the
command line is parsed that they are told which observer to make.
"""

from __future__ import annotations

__all__ = [
    "JSONLines",
    "choose_observer",
    "make_observer",
    "set_threshold",
    "threshold",
]

import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any, cast

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from txamqp091.daemon.settings import LogFormat, LogSettings, LogThreshold
from txamqp091.errors import printable

#: What is not logged; there is one for the process, as there is one log.
threshold = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)

# Of an event's own keys: those that say what the line's other members do.
_LEFT_OUT = frozenset(
    ("format", "message", "time", "system", "isError", "failure", "why", "identity")
)
_PLAIN = (str, int, float, bool, type(None))


def set_threshold(level: LogThreshold) -> None:
    """
    Log nothing that is less than this, from now on.
    """
    threshold.defaultLogLevel = LogLevel.levelWithName(level.value)
    threshold.clearLogLevels()


@implementer(ILogObserver)
class JSONLines:
    """
    Writes events as lines of JSON: ``ts``, ``level``, ``logger``, ``msg``, what the
    event was given to say, and ``exc``, the traceback of a failure.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        """
        Twisted: something has happened.
        """
        try:
            line = json.dumps(_flat(event), default=_other)
        except (TypeError, ValueError):
            line = json.dumps({"msg": "an event cannot be written"})
        self._file.write(f"{line}\n")
        self._file.flush()


def _flat(event: LogEvent) -> dict[str, Any]:
    level = event.get("log_level")
    when = datetime.fromtimestamp(event.get("log_time", 0), UTC)
    members: dict[str, Any] = {
        "ts": when.isoformat(timespec="milliseconds"),
        "level": "" if level is None else level.name,
        "logger": event.get("log_namespace", ""),
        "msg": formatEvent(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _LEFT_OUT:
            members.setdefault(
                name, value if isinstance(value, _PLAIN) else _other(value)
            )
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        members["error"] = type(failure.value).__qualname__
        members["exc"] = failure.getTraceback()
    return members


def _other(value: object) -> str:
    return printable(str(value))


def choose_observer(runner: Any, settings: LogSettings) -> None:
    """
    Have a runner make the observer that the settings describe, unless its own command
    line says something else.

    :param runner: the options of ``twistd`` or ``twist``, which ours are a part of.
    """
    set_threshold(settings.level)
    if runner is None:
        return
    if "fileLogObserverFactory" in runner:  # it is twist
        if settings.format is LogFormat.JSON:
            runner["fileLogObserverFactory"] = lambda file: _filtered(JSONLines(file))
        else:
            factory = runner["fileLogObserverFactory"]
            runner["fileLogObserverFactory"] = lambda file: _filtered(factory(file))
        # Or it would hold back what we are told to log later.
        runner["logLevel"] = LogLevel.debug
    elif not runner.get("logger") and not runner.get("syslog"):
        # It wants a name, and calls what has it.
        make_observer.runner, make_observer.form = runner, settings.format
        runner["logger"] = "txamqp091.daemon.logs.make_observer"


class _Maker:
    """
    What ``twistd --logger`` wants: something that makes the observer.
    """

    runner: Any = {}
    form = LogFormat.TEXT

    def __call__(self) -> ILogObserver:
        name = self.runner.get("logfile")
        name = name or ("-" if self.runner.get("nodaemon") else "")
        if name == "-":
            file: IO[str] = sys.stdout
        else:
            # As twistd does: it begins a new one when it has become long.
            path = os.path.abspath(name or "twistd.log")
            file = cast("IO[str]", LogFile.fromFullPath(path))
        if self.form is LogFormat.JSON:
            return _filtered(JSONLines(file))
        return _filtered(textFileLogObserver(file))


make_observer = _Maker()


def _filtered(observer: Any) -> ILogObserver:
    predicates: Iterable[Any] = [threshold]
    return FilteringLogObserver(observer, predicates)
